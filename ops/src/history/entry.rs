//! One message of the streams as an entry of a record's story. Pure.

use chrono::{DateTime, FixedOffset, Utc};
use runtime::broker::StoredMessage;
use schemas::streams::{COMMANDS, DEAD_LETTERS, RAW, RESULTS, STATUSES};
use schemas::{
    Answered, DeadLetter, Envelope, EnvelopeError, Mapping, Outcome, Problem, RecordChanged, RecordMapped,
    RecordProcessed, StatusSettled, StatusWritten, Version,
};
use serde::Serialize;
use serde_json::Value;

use super::diff::{Change, Fields, add_value, changes, fields_of};
use crate::mask::Mask;

/// Something that happened to the record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// When it was stored.
    pub at: DateTime<Utc>,
    /// Where.
    pub stream: &'static str,
    /// Its sequence there.
    pub sequence: u64,
    /// Raw version that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_sequence: Option<u64>,
    /// How often that version was sent round again.
    #[serde(skip_serializing_if = "is_zero")]
    pub redrive: u64,
    /// Which try at otmechalka it is or follows, counted from zero.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempt: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened to the record.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum What {
    /// A changed version was read from Bitrix24.
    Read {
        /// When the record was changed, on the portal's clock.
        modified: DateTime<FixedOffset>,
        /// The status that it showed.
        status: Option<String>,
        /// Fields that the version has.
        fields: usize,
        /// It is the oldest version that is kept, so there is nothing to compare it with.
        is_first: bool,
        /// What is not as in the version before.
        changes: Vec<Change>,
        /// Fields that were too big to travel.
        trimmed: Vec<String>,
    },
    /// The mapper has mapped it.
    Mapped(Made),
    /// An operator, or the pusher itself, sent it round again.
    SentAgain(Made),
    /// It comes back from waiting for another try.
    TriedAgain(Made),
    /// It waits for another try at otmechalka.
    Waits {
        /// Until when.
        until: String,
        /// Failures so far.
        failures: u64,
        /// What otmechalka said this time, where it was asked.
        #[serde(skip_serializing_if = "Option::is_none")]
        answered: Option<Answered>,
    },
    /// otmechalka answered, or need not be asked.
    Processed {
        /// How it ended.
        outcome: Outcome,
        /// The text for the status field.
        status: String,
        /// Why it was refused.
        problems: Vec<Problem>,
        /// Id in otmechalka.
        target_id: Option<String>,
        /// What it said where it did not take the record.
        #[serde(skip_serializing_if = "Option::is_none")]
        answered: Option<Answered>,
    },
    /// The status field holds this.
    Status {
        /// The text.
        status: String,
        /// How it came to.
        how: StatusSettled,
        /// When, on the portal's clock.
        settled: DateTime<FixedOffset>,
    },
    /// A stage gave it up.
    DeadLetter {
        /// The stage.
        stage: String,
        /// Why.
        reason: String,
        /// Deliveries until then.
        deliveries: u64,
    },
    /// A message that this program cannot read.
    Unreadable {
        /// Why.
        why: String,
    },
}

/// What the mapper made of a version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Made {
    /// `client`, `ticket`, `out_of_scope` or `refused`.
    pub outcome: String,
    /// What is to be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// What is not as in the body before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// Failures at otmechalka before this try.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u64,
    /// What otmechalka said to the try before, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<Answered>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Turns messages into entries; remembers of each record only what the next message is compared with.
pub struct Teller<'m> {
    mask: &'m Mask,
    raw: Option<Fields>,
    body: Option<Fields>,
}

impl<'m> Teller<'m> {
    /// Begins a story.
    pub fn new(mask: &'m Mask) -> Teller<'m> {
        Teller { mask, raw: None, body: None }
    }

    /// Tells a message. Messages of one stream have to come in their order.
    pub fn tell(&mut self, stream: &'static str, message: &StoredMessage) -> Entry {
        let envelope = Envelope::decode_headers(&|name: &str| message.header(name)).ok();
        let version = envelope.as_ref().and_then(|envelope| envelope.version);
        let attempt = envelope.as_ref().map_or(0, |envelope| envelope.attempt);
        let what = match stream {
            name if name == RAW.name => self.read(message),
            name if name == COMMANDS.name && message.subject.starts_with("crm.later.") => Ok(waits(message)),
            name if name == COMMANDS.name => self.command(message),
            name if name == RESULTS.name => self.result(message),
            name if name == STATUSES.name => self.status(message),
            _ => Ok(letter(message)),
        };
        let what = what.unwrap_or_else(|error| What::Unreadable { why: error.to_string() });
        let is_raw = stream == RAW.name;
        let raw_sequence = if is_raw { Some(message.sequence) } else { version.map(|v| v.raw_sequence) };
        Entry {
            at: message.stored,
            stream,
            sequence: message.sequence,
            raw_sequence: raw_sequence.or_else(|| about(stream, message)),
            redrive: version.map_or(0, |version| version.redrive),
            attempt,
            what,
        }
    }

    fn read(&mut self, message: &StoredMessage) -> Result<What, EnvelopeError> {
        let (envelope, changed) = message.decode::<RecordChanged>()?;
        let fields = fields_of(&changed);
        let before = self.raw.as_ref();
        let changes = before.map(|before| changes(before, &fields, self.mask)).unwrap_or_default();
        let what = What::Read {
            modified: envelope.modified,
            status: changed.status.map(|status| self.mask.status(&status)),
            fields: fields.len(),
            is_first: before.is_none(),
            changes,
            trimmed: changed.trimmed,
        };
        self.raw = Some(fields);
        Ok(what)
    }

    fn command(&mut self, message: &StoredMessage) -> Result<What, EnvelopeError> {
        let (envelope, mapped) = message.decode::<RecordMapped>()?;
        let made = self.made(&mapped.mapping);
        let made = Made { failures: number(message, "ce-failures"), answered: answered(message), ..made };
        let redrive = envelope.version.map_or(0, |Version { redrive, .. }| redrive);
        Ok(match (envelope.attempt, redrive) {
            (0, _) => What::Mapped(made),
            (1, 1..) if made.failures == 0 => What::SentAgain(made),
            _ => What::TriedAgain(made),
        })
    }

    fn made(&mut self, mapping: &Mapping) -> Made {
        let (outcome, body) = match mapping {
            Mapping::Client(client) => ("client", serde_json::to_value(client).ok()),
            Mapping::Ticket(ticket) => ("ticket", serde_json::to_value(ticket).ok()),
            Mapping::OutOfScope => ("out_of_scope", None),
            Mapping::Refused(_) => ("refused", None),
        };
        let problems = match mapping {
            Mapping::Refused(problems) => self.problems(problems),
            _ => Vec::new(),
        };
        let outcome = outcome.to_owned();
        let mut made =
            Made { outcome, body: None, changes: Vec::new(), problems, failures: 0, answered: None };
        if let Some(body) = body {
            made.body = Some(self.mask.value("", &body));
            let mut fields = Fields::new();
            add_value(&mut fields, "", body);
            made.changes =
                self.body.as_ref().map(|before| changes(before, &fields, self.mask)).unwrap_or_default();
            self.body = Some(fields);
        }
        made
    }

    fn problems(&self, problems: &[Problem]) -> Vec<Problem> {
        let hide = |problem: &Problem| Problem::new(&problem.code, self.mask.status(&problem.text));
        problems.iter().map(hide).collect()
    }

    fn result(&self, message: &StoredMessage) -> Result<What, EnvelopeError> {
        let (_, processed) = message.decode::<RecordProcessed>()?;
        Ok(What::Processed {
            outcome: processed.outcome,
            status: self.mask.status(&processed.status),
            problems: self.problems(&processed.problems),
            target_id: processed.target_id,
            answered: answered(message),
        })
    }

    fn status(&self, message: &StoredMessage) -> Result<What, EnvelopeError> {
        let (_, StatusWritten { status, how, settled }) = message.decode()?;
        Ok(What::Status { status: self.mask.status(&status), how, settled })
    }
}

fn number(message: &StoredMessage, header: &str) -> u64 {
    message.header(header).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn waits(message: &StoredMessage) -> What {
    let until = message.header("Nats-Schedule").unwrap_or_default().trim_start_matches("@at ").to_owned();
    What::Waits { until, failures: number(message, "ce-failures"), answered: answered(message) }
}

fn answered(message: &StoredMessage) -> Option<Answered> {
    message.header(Answered::HEADER).and_then(Answered::parse)
}

fn letter(message: &StoredMessage) -> What {
    match serde_json::from_slice::<DeadLetter>(&message.payload) {
        Ok(DeadLetter { stage, reason, deliveries, .. }) => What::DeadLetter { stage, reason, deliveries },
        Err(_) => What::Unreadable { why: "this is no letter of Rollcall".to_owned() },
    }
}

/// Returns the raw version that a dead letter is about.
fn about(stream: &str, message: &StoredMessage) -> Option<u64> {
    let letter = (stream == DEAD_LETTERS.name).then(|| serde_json::from_slice(&message.payload).ok())??;
    crate::letters::select::raw_sequence_of(&letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::{RecordId, RecordRef, Shown};

    fn command(subject: &str, version: Version, attempt: u64, more: &[(&str, &str)]) -> StoredMessage {
        let record = RecordRef::contact(RecordId::try_new(39910).unwrap());
        let modified = DateTime::parse_from_rfc3339("2026-01-10T12:00:00+03:00").unwrap();
        let envelope = Envelope {
            record,
            source: "/rollcall/mapper".into(),
            pupil: Some(record.id),
            modified,
            fingerprint: "ab".into(),
            version: Some(version),
            attempt,
        };
        let shown = Shown { status: None, observed: modified };
        let problems = vec![Problem::new("phone.invalid", "В поле «Телефон» не номер телефона: «нет».")];
        let encoded = envelope.encode(&RecordMapped { mapping: Mapping::Refused(problems), shown }).unwrap();
        let own = encoded.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut headers = async_nats::HeaderMap::new();
        own.chain(more.iter().copied()).for_each(|(name, value)| headers.insert(name, value));
        let (subject, payload) = (subject.to_owned(), encoded.payload.into());
        StoredMessage { sequence: 3, stored: DateTime::UNIX_EPOCH, subject, headers, payload }
    }

    fn told(subject: &str, redrive: u64, attempt: u64, more: &[(&str, &str)]) -> Entry {
        let mask = Mask::default();
        let version = Version { raw_sequence: 7, redrive };
        Teller::new(&mask).tell(COMMANDS.name, &command(subject, version, attempt, more))
    }

    #[test]
    fn first_tries_waits_later_tries_and_redrives_are_told_apart() {
        let subject = "crm.cmd.01.contact.39910";
        let what = |redrive, attempt, more: &[(&str, &str)]| told(subject, redrive, attempt, more).what;
        assert!(matches!(what(0, 0, &[]), What::Mapped(_)));
        assert!(matches!(what(1, 1, &[]), What::SentAgain(_)));
        let failures = [("ce-failures", "2"), ("ce-answered", "update_client unavailable 503")];
        let answered =
            Some(Answered { call: "update_client".into(), kind: "unavailable".into(), status: Some(503) });
        let What::TriedAgain(made) = what(0, 2, &failures) else { panic!() };
        assert_eq!((made.failures, &made.answered), (2, &answered));
        assert!(matches!(what(1, 2, &failures), What::TriedAgain(_)));
        let words = ("ce-answered", "update_client занят Анной");
        let schedule = [("Nats-Schedule", "@at 2026-01-10T12:05:00Z"), ("ce-failures", "1"), words];
        let waits = told("crm.later.01.contact.39910", 0, 1, &schedule);
        assert_eq!(
            waits.what,
            What::Waits { until: "2026-01-10T12:05:00Z".into(), failures: 1, answered: None }
        );
        assert_eq!((waits.raw_sequence, waits.redrive, waits.attempt), (Some(7), 0, 1));
    }

    #[test]
    fn a_refusal_is_told_without_the_value_that_it_quotes() {
        let What::Mapped(made) = told("crm.cmd.01.contact.39910", 0, 0, &[]).what else { panic!() };
        assert_eq!((made.outcome.as_str(), made.problems[0].code.as_str()), ("refused", "phone.invalid"));
        assert!(!made.problems[0].text.contains("нет"), "{}", made.problems[0].text);
    }
}
