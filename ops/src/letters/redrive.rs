//! Sends what letters are about round again, and deletes each letter once that is stored.

use std::collections::BTreeMap;

use mapper::Rules;
use runtime::Broker;
use schemas::streams::{COMMANDS, RAW, RESULTS};
use schemas::{DeadLetter, Envelope, EventData, RecordRef, Version, subjects};
use serde::Serialize;

use super::desk::{delete, fetch, open_payload};
use super::select::{Letter, header, raw_sequence_of};
use crate::again::{Again, Found, Sent, find_raw, look, newer, send_again};
use crate::exit::Failure;
use crate::progress::Progress;
use crate::signals::Stop;

/// Whether to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only look.
    Look,
    /// Send, and delete.
    Send,
}

/// A letter with what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Done {
    /// The letter.
    #[serde(flatten)]
    pub letter: Letter,
    /// What came of it.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What came of a letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "fate")]
pub enum Fate {
    /// Its record goes round again, and the letter is deleted. In a look: would.
    Sent {
        /// The redrive number under which it goes round.
        redrive: u64,
        /// Where the message is: its subject, and its sequence (0 in a look).
        subject: String,
        /// Its sequence.
        stored_as: u64,
        /// What it says.
        event_type: String,
        /// The raw record was no longer kept, so it goes as it was then and not through today's mapping.
        as_it_was: bool,
    },
    /// Something newer speaks for the record; the letter stays.
    Superseded {
        /// The newer raw version.
        newer: u64,
    },
    /// It cannot be sent again as it is; the letter stays.
    Impossible {
        /// Why.
        why: String,
        /// The record, where it can be read from Bitrix24 anew.
        #[serde(skip)]
        record: Option<RecordRef>,
    },
    /// Sending or deleting failed; the letter may be there still.
    Failed {
        /// Why.
        why: String,
    },
}

/// Works through the letters in their order. Letters about one version are settled by sending it once.
///
/// Ends early, and says so of each letter that is left, when it is told to stop or NATS does not do as it should.
pub async fn all(
    broker: &Broker,
    rules: &Rules,
    letters: Vec<Letter>,
    mode: Mode,
) -> Result<Vec<Done>, Failure> {
    let stop = Stop::listen()?;
    let progress = Progress::new(letters.len(), "letters");
    let mut sent: BTreeMap<(Option<String>, u64), Fate> = BTreeMap::new();
    let mut done: Vec<Done> = Vec::with_capacity(letters.len());
    for letter in letters {
        let has_failed = done.last().is_some_and(|done| matches!(done.fate, Fate::Failed { .. }));
        let fate = if stop.is_asked() || has_failed {
            Fate::Failed { why: "its turn did not come; it is as it was".to_owned() }
        } else {
            settle(broker, rules, &letter, mode, &mut sent).await
        };
        progress.step();
        done.push(Done { letter, fate });
    }
    progress.end();
    Ok(done)
}

async fn settle(
    broker: &Broker,
    rules: &Rules,
    letter: &Letter,
    mode: Mode,
    sent: &mut BTreeMap<(Option<String>, u64), Fate>,
) -> Fate {
    let key = letter.raw_sequence.map(|raw_sequence| (letter.record.clone(), raw_sequence));
    let fate = match key.as_ref().and_then(|key| sent.get(key)) {
        Some(fate) => fate.clone(),
        None => one(broker, rules, letter.sequence, mode).await,
    };
    let Fate::Sent { .. } = &fate else { return fate };
    if let Some(key) = key {
        sent.insert(key, fate.clone());
    }
    // Only now that the stream has it, and only this one: letters that came meanwhile have other sequences.
    match mode {
        Mode::Look => fate,
        Mode::Send => match delete(broker, letter.sequence).await {
            Ok(()) => fate,
            Err(failure) => Fate::Failed { why: format!("its record was sent, but {}", failure.text) },
        },
    }
}

async fn one(broker: &Broker, rules: &Rules, sequence: u64, mode: Mode) -> Fate {
    match try_one(broker, rules, sequence, mode).await {
        Ok(fate) => fate,
        Err(failure) => Fate::Failed { why: failure.text },
    }
}

async fn try_one(broker: &Broker, rules: &Rules, sequence: u64, mode: Mode) -> Result<Fate, Failure> {
    let impossible = |why: String| Ok(Fate::Impossible { why, record: None });
    let Some(message) = fetch(broker, sequence).await? else {
        return impossible("it is gone: somebody else redrove or discarded it".into());
    };
    let Ok(letter) = serde_json::from_slice::<DeadLetter>(&message.payload) else {
        return impossible("this is no letter of Rollcall".into());
    };
    let (Some(record), Some(raw_sequence)) = (subjects::record_of(&letter.subject), raw_sequence_of(&letter))
    else {
        return impossible("its message does not tell which version of which record it is about".into());
    };
    let read = match find_raw(broker, raw_sequence).await? {
        Found::Raw(again) => Ok((*again, false)),
        Found::Unreadable(error) => {
            Err(format!("today's mapper cannot read raw message {raw_sequence} either: {error}"))
        }
        Found::Gone => match from_letter(&letter) {
            Ok(again) => Ok((again, letter.stream != RAW.name)),
            Err(why) => {
                Err(format!("raw message {raw_sequence} is no longer kept, and the letter's own {why}"))
            }
        },
    };
    let (again, as_it_was) = match read {
        Ok(read) => read,
        Err(why) => {
            return Ok(match newer(broker, record, raw_sequence).await? {
                Some(newer) => Fate::Superseded { newer },
                None => Fate::Impossible { why, record: Some(record) },
            });
        }
    };
    if again.record() != record {
        return impossible(format!("raw message {raw_sequence} is about another record, {}", again.record()));
    }
    let sent = match mode {
        Mode::Look => look(broker, rules, &again, raw_sequence).await?,
        Mode::Send => send_again(broker, rules, &again, raw_sequence).await?,
    };
    Ok(match sent {
        Sent::Superseded { newer } => Fate::Superseded { newer },
        Sent::Stored { version: Version { redrive, .. }, subject, sequence, event_type } => {
            Fate::Sent { redrive, subject, stored_as: sequence, event_type, as_it_was }
        }
    })
}

/// Takes the version out of the letter itself, in the form in which it was when the stage gave up.
fn from_letter(letter: &DeadLetter) -> Result<Again, String> {
    let payload = open_payload(letter).ok_or("message was too big for the letter")?;
    match letter.stream.as_str() {
        name if name == RAW.name => {
            decode(letter, &payload).map(|(envelope, data)| Again::Raw(envelope, data))
        }
        name if name == COMMANDS.name => {
            decode(letter, &payload).map(|(envelope, data)| Again::Mapped(envelope, data))
        }
        name if name == RESULTS.name => {
            decode(letter, &payload).map(|(envelope, data)| Again::Processed(envelope, data))
        }
        name => Err(format!("message is of stream `{name}`, which nothing can be sent from")),
    }
}

fn decode<T: EventData>(letter: &DeadLetter, payload: &[u8]) -> Result<(Envelope, T), String> {
    Envelope::decode(|name| header(letter, name), payload)
        .map_err(|error| format!("message cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::{Mapping, RecordId, RecordMapped, Shown};

    fn letter(stream: &str, payload: &[u8], headers: Vec<(String, String)>) -> DeadLetter {
        DeadLetter {
            stage: "pusher".into(),
            reason: "x".into(),
            stream: stream.into(),
            sequence: 3,
            subject: "crm.cmd.01.contact.39910".into(),
            deliveries: 1,
            first_failed: None,
            headers,
            payload: String::from_utf8(payload.to_vec()).unwrap(),
            payload_is_base64: false,
        }
    }

    #[test]
    fn a_letter_gives_its_own_message_back_where_nothing_else_is_kept() {
        let record = RecordRef::contact(RecordId::try_new(39910).unwrap());
        let modified = chrono::DateTime::parse_from_rfc3339("2026-01-10T12:00:00+03:00").unwrap();
        let envelope = Envelope {
            record,
            source: "/rollcall/mapper".into(),
            pupil: Some(record.id),
            modified,
            fingerprint: "ab".into(),
            version: Some(Version { raw_sequence: 5, redrive: 0 }),
            attempt: 0,
        };
        let shown = Shown { status: None, observed: modified };
        let mapped = RecordMapped { mapping: Mapping::OutOfScope, shown };
        let encoded = envelope.encode(&mapped).unwrap();
        let whole = letter("CRM_CMD", &encoded.payload, encoded.headers.clone());
        let again = from_letter(&whole).unwrap();
        let rules = Rules::parse(mapper::DEFAULT_MAPPING).unwrap();
        let message = |redrive| again.message(&rules, Version { raw_sequence: 5, redrive }).unwrap();
        assert_eq!(message(1).subject, "crm.cmd.01.contact.39910");
        assert_eq!(message(1).encoded.payload, encoded.payload);
        assert_ne!(message(1).message_id, message(2).message_id, "the duplicate window takes them for two");
        let too_big = from_letter(&letter("CRM_CMD", b"", encoded.headers.clone())).unwrap_err();
        assert_eq!(too_big, "message was too big for the letter");
        assert!(
            from_letter(&letter("CRM_CMD", b"{}", encoded.headers)).unwrap_err().contains("cannot be read")
        );
        assert!(from_letter(&letter("ELSE", b"{}", Vec::new())).unwrap_err().contains("`ELSE`"));
    }
}
