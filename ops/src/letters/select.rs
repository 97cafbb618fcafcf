//! Dead letters as operators choose them: by sequence, stage, record, reason and time.

use std::ops::ControlFlow;

use async_nats::jetstream::consumer::DeliverPolicy;
use chrono::{DateTime, Utc};
use clap::Args;
use runtime::Broker;
use runtime::broker::StoredMessage;
use schemas::streams::{DEAD_LETTERS, RAW};
use schemas::{DeadLetter, RecordRef, subjects};
use serde::Serialize;

use crate::exit::Failure;
use crate::moment::{FORMS, Moment};
use crate::records::{self, Records};
use crate::stored::{self, Choice};

/// Which letters.
#[derive(Args, Clone, Debug, Default)]
pub struct Filter {
    /// Only letters of this stage: mapper, pusher or status-writer
    #[arg(long, value_name = "STAGE", value_parser = ["mapper", "pusher", "status-writer"])]
    pub stage: Option<String>,
    #[command(flatten)]
    pub records: Records,
    /// The same as --contact or --deal, in older scripts: contact/39910
    #[arg(long, value_name = "RECORD", value_parser = records::parse, hide = true)]
    pub record: Vec<RecordRef>,
    /// Only letters whose reason holds this text, in capitals or not
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only letters since then
    #[arg(long, value_name = "TIME", value_parser = Moment::parse, help = format!("Only letters since then: {FORMS}"))]
    pub since: Option<Moment>,
    /// Only letters before then
    #[arg(long, value_name = "TIME", value_parser = Moment::parse)]
    pub until: Option<Moment>,
}

/// A letter without its payload. Holds no personal data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// Its sequence in the stream of dead letters.
    pub sequence: u64,
    /// When the stage gave up.
    pub at: DateTime<Utc>,
    /// The stage; empty where the letter cannot be read.
    pub stage: String,
    /// The record, where the message said which: `contact/39910`.
    pub record: Option<String>,
    /// Why it gave up.
    pub reason: String,
    /// How often it was delivered.
    pub deliveries: u64,
    /// When its message first failed, as far as the stage noticed; none in letters of earlier versions.
    pub first_failed: Option<DateTime<Utc>>,
    /// Stream of the message.
    pub stream: String,
    /// Its sequence there.
    pub stream_sequence: u64,
    /// Raw version that it is about, where it says so.
    pub raw_sequence: Option<u64>,
}

impl Letter {
    /// Reads a letter; what is none is still listed, so that it can be discarded.
    pub fn of(message: &StoredMessage) -> Letter {
        let read = serde_json::from_slice::<DeadLetter>(&message.payload);
        let record = subjects::record_of(&message.subject);
        let stage = message.subject.split('.').nth(1).unwrap_or_default().to_owned();
        let mut letter = Letter {
            sequence: message.sequence,
            at: message.stored,
            stage,
            record: record.map(records::name),
            reason: "this is no letter of Rollcall".to_owned(),
            deliveries: 0,
            first_failed: None,
            stream: String::new(),
            stream_sequence: 0,
            raw_sequence: None,
        };
        if let Ok(read) = read {
            letter.raw_sequence = raw_sequence_of(&read);
            (letter.deliveries, letter.first_failed) = (read.deliveries, read.first_failed);
            (letter.reason, letter.stage) = (read.reason, read.stage);
            (letter.stream, letter.stream_sequence) = (read.stream, read.sequence);
        }
        letter
    }
}

/// Returns the raw version that a letter is about.
pub fn raw_sequence_of(letter: &DeadLetter) -> Option<u64> {
    if letter.stream == RAW.name {
        return Some(letter.sequence);
    }
    header(letter, "ce-rawsequence")?.parse().ok()
}

/// Looks a header of the letter's message up.
pub fn header<'l>(letter: &'l DeadLetter, name: &str) -> Option<&'l str> {
    letter.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

impl Filter {
    /// Tells whether nothing is filtered out.
    pub fn is_empty(&self) -> bool {
        let Filter { stage, records, record, reason, since, until } = self;
        let is_about_any = records.is_empty() && record.is_empty();
        stage.is_none() && is_about_any && reason.is_none() && since.is_none() && until.is_none()
    }

    fn subjects(&self) -> Vec<String> {
        let stage = self.stage.as_deref().unwrap_or("*");
        let mut records = self.records.all();
        records.extend(&self.record);
        match records.is_empty() {
            true => vec![format!("dlq.{stage}.*.*")],
            false => records.into_iter().map(|record| subjects::dead_letter(stage, record)).collect(),
        }
    }

    /// Tells whether a letter is meant; the subject is looked at by the server.
    fn takes(&self, letter: &Letter, now: DateTime<Utc>) -> bool {
        let has = |reason: &str| letter.reason.to_lowercase().contains(&reason.to_lowercase());
        self.reason.as_deref().is_none_or(has)
            && self.since.is_none_or(|since| letter.at >= since.at(now))
            && self.until.is_none_or(|until| letter.at < until.at(now))
    }

    /// Reads the letters that are meant, in the order in which they came.
    pub async fn letters(&self, broker: &Broker, now: DateTime<Utc>) -> Result<Vec<Letter>, Failure> {
        let from = match self.since {
            Some(since) => DeliverPolicy::ByStartTime { start_time: since.at(now) },
            None => DeliverPolicy::All,
        };
        let mut letters = Vec::new();
        let choice = Choice::new(self.subjects(), from);
        stored::read(broker, DEAD_LETTERS.name, choice, |message| {
            let letter = Letter::of(&message);
            if self.until.is_some_and(|until| letter.at >= until.at(now)) {
                return ControlFlow::Break(());
            }
            if self.takes(&letter, now) {
                letters.push(letter);
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(letters)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use schemas::RecordId;

    pub(crate) fn letter(sequence: u64, reason: &str) -> Letter {
        Letter {
            sequence,
            at: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            stage: "mapper".into(),
            record: Some("contact/39910".into()),
            reason: reason.into(),
            deliveries: 5,
            first_failed: DateTime::from_timestamp(1_800_000_000 - 1_800, 0),
            stream: "B24_RAW".into(),
            stream_sequence: 7,
            raw_sequence: Some(7),
        }
    }

    #[test]
    fn subjects_are_as_narrow_as_the_filter() {
        let filter = |stage: Option<&str>, deals: &[u64]| Filter {
            stage: stage.map(str::to_owned),
            records: Records {
                deal: deals.iter().map(|id| RecordId::try_new(*id).unwrap()).collect(),
                ..Records::default()
            },
            ..Filter::default()
        };
        assert_eq!(filter(None, &[]).subjects(), ["dlq.*.*.*"]);
        assert_eq!(filter(Some("mapper"), &[]).subjects(), ["dlq.mapper.*.*"]);
        assert_eq!(filter(None, &[5, 6]).subjects(), ["dlq.*.deal.5", "dlq.*.deal.6"]);
        assert!(filter(None, &[]).is_empty());
        assert!(!filter(Some("mapper"), &[]).is_empty() && !filter(None, &[5]).is_empty());
        let record = vec![records::parse("deal/7").unwrap()];
        let both = Filter { record, ..filter(None, &[5]) };
        assert_eq!(both.subjects(), ["dlq.*.deal.5", "dlq.*.deal.7"]);
    }

    #[test]
    fn reason_and_time_are_looked_at_in_the_letter() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let stopped = letter(1, "the stage Stopped in the middle");
        let by = |filter: Filter| filter.takes(&stopped, now);
        assert!(by(Filter { reason: Some("stopped".into()), ..Filter::default() }));
        assert!(!by(Filter { reason: Some("type".into()), ..Filter::default() }));
        let (ago, at) = (Moment::Ago(chrono::Duration::hours(1)), Moment::At(now));
        assert!(by(Filter { since: Some(ago), ..Filter::default() }));
        assert!(by(Filter { since: Some(at), ..Filter::default() }), "since includes its moment");
        assert!(!by(Filter { until: Some(at), ..Filter::default() }), "until leaves its moment out");
    }

    #[test]
    fn the_version_is_in_the_letter_whichever_stage_wrote_it() {
        let mut letter = DeadLetter {
            stage: "mapper".into(),
            reason: "x".into(),
            stream: "B24_RAW".into(),
            sequence: 7,
            subject: "b24.raw.contact.1".into(),
            deliveries: 1,
            first_failed: None,
            headers: vec![("ce-rawsequence".into(), "5".into())],
            payload: String::new(),
            payload_is_base64: false,
        };
        assert_eq!(raw_sequence_of(&letter), Some(7));
        letter.stream = "CRM_CMD".into();
        assert_eq!(raw_sequence_of(&letter), Some(5));
        letter.headers.clear();
        assert_eq!(raw_sequence_of(&letter), None);
    }
}
