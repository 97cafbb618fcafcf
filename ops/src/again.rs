//! Sends a version of a record round again: past the fences, behind whatever is newer, and never swallowed.
//!
//! The one place from which operators' commands publish to the streams of the flow.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageError, RawMessageErrorKind, Stream};
use mapper::Rules;
use runtime::{Broker, Outgoing, PublishError};
use schemas::streams::{COMMANDS, RAW, RESULTS, STATUSES};
use schemas::{
    Envelope, EnvelopeError, EventData, RecordChanged, RecordMapped, RecordProcessed, RecordRef, Version,
    subjects,
};

use crate::exit::Failure;

/// Longest wait for one message to be stored.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tries to publish behind the newest command of a record that keeps being published to.
const MOST_TRIES: usize = 20;

/// A version of a record, as it can be sent round again.
#[derive(Clone, Debug)]
pub enum Again {
    /// As Bitrix24 told it: goes through today's mapping.
    Raw(Envelope, RecordChanged),
    /// As it was mapped then: for a version whose raw record is no longer kept.
    Mapped(Envelope, RecordMapped),
    /// What came of it: for a version of which nothing else is kept.
    Processed(Envelope, RecordProcessed),
}

/// What the raw stream has under a sequence.
#[derive(Debug)]
pub enum Found {
    /// The version.
    Raw(Box<Again>),
    /// Something that this program cannot read.
    Unreadable(EnvelopeError),
    /// Nothing any more.
    Gone,
}

/// What came of sending a version again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The stream has it under this sequence. For a look alone, the sequence is 0.
    Stored {
        /// The version under which it goes round.
        version: Version,
        /// Its subject.
        subject: String,
        /// Its sequence there.
        sequence: u64,
        /// What it says, as its type: `rollcall.client.ready.v1`.
        event_type: String,
    },
    /// A newer version of the record is there, raw or worked on; nothing was sent.
    Superseded {
        /// Sequence of the newer raw event.
        newer: u64,
    },
}

impl Again {
    fn envelope(&self) -> &Envelope {
        match self {
            Again::Raw(envelope, _) | Again::Mapped(envelope, _) | Again::Processed(envelope, _) => envelope,
        }
    }

    /// Returns the record.
    pub fn record(&self) -> RecordRef {
        self.envelope().record
    }

    /// Makes the message that sends it as this version.
    ///
    /// The version is in the message's id, so JetStream's duplicate window cannot take it for an earlier one.
    pub fn message(&self, rules: &Rules, version: Version) -> Result<Outgoing, EnvelopeError> {
        // Not a first attempt: an earlier one may have had an effect that nobody saw.
        let envelope = Envelope { version: Some(version), attempt: 1, ..self.envelope().clone() };
        let record = envelope.record;
        let (subject, encoded) = match self {
            Again::Raw(_, changed) => {
                return mapper::outgoing(rules, envelope, changed, version.raw_sequence);
            }
            Again::Mapped(_, mapped) => {
                (subjects::command(envelope.pupil.unwrap_or(record.id), record), envelope.encode(mapped)?)
            }
            Again::Processed(_, processed) => (subjects::result(record), envelope.encode(processed)?),
        };
        let id = encoded.headers.iter().find(|(name, _)| name == "ce-id").map(|(_, id)| id.clone());
        Ok(Outgoing::new(subject, encoded, id.ok_or(EnvelopeError::Missing("ce-id"))?))
    }
}

/// Takes a version out of the raw stream.
pub async fn find_raw(broker: &Broker, sequence: u64) -> Result<Found, Failure> {
    let stream = open(broker, RAW.name).await?;
    let Some(message) = found(stream.get_raw_message(sequence).await)? else { return Ok(Found::Gone) };
    Ok(match decode::<RecordChanged>(&message) {
        Ok((envelope, changed)) => Found::Raw(Box::new(Again::Raw(envelope, changed))),
        Err(error) => Found::Unreadable(error),
    })
}

/// Tells which version of a record is newer than this one.
pub async fn newer(broker: &Broker, record: RecordRef, raw_sequence: u64) -> Result<Option<u64>, Failure> {
    Ok(Traces::read(broker, record, raw_sequence).await?.newer_than(raw_sequence))
}

/// Tells what [`send_again`] would do now.
pub async fn look(broker: &Broker, rules: &Rules, again: &Again, raw_sequence: u64) -> Result<Sent, Failure> {
    let traces = Traces::read(broker, again.record(), raw_sequence).await?;
    if let Some(newer) = traces.newer_than(raw_sequence) {
        return Ok(Sent::Superseded { newer });
    }
    let version = Version { raw_sequence, redrive: traces.next_redrive };
    let message = again.message(rules, version).map_err(Failure::trouble)?;
    Ok(stored(&message, version, 0))
}

/// Publishes a version of a record again, with the next redrive number.
///
/// Comes back only once the stream has it as a new message, or a newer version makes it needless. What a newer version
/// did stays done: should one come in this very moment, the fences of the stages leave this one out.
pub async fn send_again(
    broker: &Broker,
    rules: &Rules,
    again: &Again,
    raw_sequence: u64,
) -> Result<Sent, Failure> {
    let record = again.record();
    let first = Version { raw_sequence, redrive: 1 };
    let subject = again.message(rules, first).map_err(Failure::trouble)?.subject;
    let stream = open(broker, stream_of(&subject)).await?;
    let mut least_redrive = 1;
    for _ in 0..MOST_TRIES {
        // Looked at before everything else: what comes meanwhile is behind it, and the server says so.
        let behind = found(stream.get_last_raw_message_by_subject(&subject).await)?;
        let traces = Traces::read(broker, record, raw_sequence).await?;
        if let Some(newer) = traces.newer_than(raw_sequence) {
            return Ok(Sent::Superseded { newer });
        }
        let version = Version { raw_sequence, redrive: traces.next_redrive.max(least_redrive) };
        let message = again.message(rules, version).map_err(Failure::trouble)?;
        let message = message.expecting_last(behind.map_or(0, |message| message.sequence));
        let sent = tokio::time::timeout(PATIENCE, broker.publish(&message)).await;
        match sent {
            Ok(Ok(published)) if !published.duplicate => {
                return Ok(stored(&message, version, published.sequence));
            }
            // The server has seen this id and stored nothing: take the next number.
            Ok(Ok(_)) => least_redrive = version.redrive + 1,
            // Somebody else's message, or our own whose answer was lost.
            Ok(Err(PublishError::NotLast)) => {
                let newest = found(stream.get_last_raw_message_by_subject(&subject).await)?;
                let is_ours =
                    |newest: &StreamMessage| header(newest, "Nats-Msg-Id") == Some(&message.message_id);
                if let Some(ours) = newest.filter(is_ours) {
                    return Ok(stored(&message, version, ours.sequence));
                }
            }
            Ok(Err(error)) => return Err(Failure::trouble(format!("{record} was not sent again: {error}"))),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                let found =
                    format!("NATS did not confirm {record} within {seconds} s; it may be stored or not");
                return Err(Failure::trouble(found).remedy(
                    "Send it once more, which does no harm. A full stream or disk shows in the log of nats-server",
                ));
            }
        }
    }
    let found = format!("{record} was not sent again: others kept publishing commands of it");
    Err(Failure::trouble(found).remedy("Try again when that is over"))
}

/// What the streams tell about the versions of a record.
struct Traces {
    newest_raw: u64,
    next_redrive: u64,
}

impl Traces {
    async fn read(broker: &Broker, record: RecordRef, raw_sequence: u64) -> Result<Traces, Failure> {
        let mut versions = Vec::new();
        let commands = open(broker, COMMANDS.name).await?;
        for filter in [format!("crm.cmd.*.{record}"), format!("crm.later.*.{record}")] {
            let mut from = 1;
            while let Some(message) = found(commands.get_first_raw_message_by_subject(&filter, from).await)? {
                from = message.sequence + 1;
                versions.extend(version_of(&message));
            }
        }
        for (stream, subject) in
            [(RESULTS.name, subjects::result(record)), (STATUSES.name, subjects::status(record))]
        {
            let stream = open(broker, stream).await?;
            let newest = found(stream.get_last_raw_message_by_subject(&subject).await)?;
            versions.extend(newest.as_ref().and_then(version_of));
        }
        let raw = open(broker, RAW.name).await?;
        let newest = found(raw.get_last_raw_message_by_subject(&subjects::raw(record)).await)?;
        Ok(Traces::of(newest.map_or(0, |newest| newest.sequence), &versions, raw_sequence))
    }

    fn of(newest_raw: u64, versions: &[Version], raw_sequence: u64) -> Traces {
        let same = versions.iter().filter(|version| version.raw_sequence == raw_sequence);
        Traces {
            newest_raw: versions.iter().map(|version| version.raw_sequence).fold(newest_raw, u64::max),
            // Also where no command is known: it may have been, and its id may still be remembered.
            next_redrive: same.map(|version| version.redrive).max().unwrap_or(0) + 1,
        }
    }

    fn newer_than(&self, raw_sequence: u64) -> Option<u64> {
        (self.newest_raw > raw_sequence).then_some(self.newest_raw)
    }
}

fn stored(message: &Outgoing, version: Version, sequence: u64) -> Sent {
    let event_type = message.encoded.headers.iter().find(|(name, _)| name == "ce-type");
    let event_type = event_type.map(|(_, event_type)| event_type.clone()).unwrap_or_default();
    Sent::Stored { version, subject: message.subject.clone(), sequence, event_type }
}

fn stream_of(subject: &str) -> &'static str {
    if subject.starts_with("crm.result.") { RESULTS.name } else { COMMANDS.name }
}

async fn open(broker: &Broker, name: &str) -> Result<Stream<()>, Failure> {
    broker.stream(name).await.map_err(Failure::trouble)
}

/// Asks the stream's leader: what a follower does not know yet would be taken for absent.
fn found(answer: Result<StreamMessage, RawMessageError>) -> Result<Option<StreamMessage>, Failure> {
    match answer {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(Failure::trouble(format!("NATS does not tell a message: {error}"))),
    }
}

fn header<'m>(message: &'m StreamMessage, name: &str) -> Option<&'m str> {
    message.headers.get(name).map(async_nats::HeaderValue::as_str)
}

fn decode<T: EventData>(message: &StreamMessage) -> Result<(Envelope, T), EnvelopeError> {
    Envelope::decode(|name| header(message, name), &message.payload)
}

fn version_of(message: &StreamMessage) -> Option<Version> {
    Envelope::decode_headers(&|name: &str| header(message, name)).ok()?.version
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(raw_sequence: u64, redrive: u64) -> Version {
        Version { raw_sequence, redrive }
    }

    #[test]
    fn the_next_number_is_above_every_trace_of_the_same_version() {
        let next = |versions: &[Version]| Traces::of(7, versions, 7).next_redrive;
        assert_eq!(next(&[]), 1);
        assert_eq!(next(&[version(7, 0)]), 1);
        assert_eq!(next(&[version(7, 2), version(7, 1), version(6, 9)]), 3);
    }

    #[test]
    fn a_newer_version_anywhere_makes_it_needless() {
        assert_eq!(Traces::of(7, &[version(7, 3)], 7).newer_than(7), None);
        assert_eq!(Traces::of(8, &[], 7).newer_than(7), Some(8));
        // The raw event may be gone by age, what came of it is kept longer.
        assert_eq!(Traces::of(0, &[version(9, 0)], 7).newer_than(7), Some(9));
    }
}
