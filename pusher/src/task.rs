//! One command as it is worked on, and how it is put aside for another try.

use chrono::{DateTime, SecondsFormat, Utc};
use runtime::{Delivery, Outgoing};
use schemas::{
    Answered, Entity, Envelope, EnvelopeError, RecordId, RecordMapped, RecordRef, Version, subjects,
};

use crate::pause::{LEAST_OWN_FAILURES, MAX_FAILURES, MAX_TRIES};

/// Headers that carry a record's failures from try to try.
const FAILURES: &str = "ce-failures";
const OWN_FAILURES: &str = "ce-ownfailures";
const FIRST_FAILURE: &str = "ce-firstfailure";

/// A command.
pub struct Task<'d> {
    /// Its delivery.
    pub delivery: &'d Delivery,
    /// What it says about itself.
    pub envelope: Envelope,
    /// The record.
    pub record: RecordRef,
    /// The version.
    pub version: Version,
    /// What the mapper made of it.
    pub mapped: RecordMapped,
    /// What otmechalka did to it so far.
    pub failures: Failures,
}

/// Failures of one version of a record, with lookups working meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many; each makes the next wait longer.
    pub count: u64,
    /// How many of them count against the record: otmechalka had taken another since the first.
    pub own: u64,
    /// When the first was.
    pub first: Option<DateTime<Utc>>,
}

impl Failures {
    /// Adds one.
    pub fn and_now(self, now: DateTime<Utc>, is_its_own: bool) -> Failures {
        Failures {
            count: self.count.saturating_add(1),
            own: self.own.saturating_add(u64::from(is_its_own)),
            first: Some(self.first.unwrap_or(now)),
        }
    }

    /// Tells whether they are enough to report the record as failing alone.
    pub fn are_enough(self) -> bool {
        self.own >= MAX_FAILURES || (self.count >= MAX_TRIES && self.own >= LEAST_OWN_FAILURES)
    }
}

impl<'d> Task<'d> {
    /// Reads a delivery.
    pub fn read(delivery: &'d Delivery) -> Result<Task<'d>, EnvelopeError> {
        let (envelope, mapped) = delivery.decode::<RecordMapped>()?;
        let version = envelope.version.ok_or(EnvelopeError::Missing("ce-rawsequence"))?;
        let number = |name| delivery.header(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let failures = Failures {
            count: number(FAILURES),
            own: number(OWN_FAILURES),
            first: delivery.header(FIRST_FAILURE).and_then(|text| text.parse().ok()),
        };
        Ok(Task { delivery, record: envelope.record, envelope, version, mapped, failures })
    }

    /// Returns the pupil in whose partition the command travels; `None` for a deal that has none.
    pub fn pupil(&self) -> Option<RecordId> {
        match self.record.entity {
            Entity::Contact => Some(self.record.id),
            Entity::Deal => self.envelope.pupil,
        }
    }

    /// Tells whether nobody can have tried this command before.
    pub fn is_first_try(&self) -> bool {
        self.delivery.deliveries <= 1 && self.envelope.attempt == 0
    }

    /// Tells whether what was settled before may be believed without asking otmechalka.
    ///
    /// Not in a second try, whose first may have had an effect that nobody saw. Not when somebody wants it
    /// pushed for real: a manager who cleared the status, or an operator who sent it round again.
    pub fn trusts_memory(&self) -> bool {
        let is_asked_for = self.version.redrive > 0 || self.mapped.shown.status.as_deref() == Some("");
        self.is_first_try() && !is_asked_for
    }

    /// Tells whether the status field showed something, so that the record may have been settled before.
    pub fn shows_status(&self) -> bool {
        self.mapped.shown.status.as_deref().is_some_and(|status| !status.trim().is_empty())
    }

    /// Builds the message that brings this command back at a time of the server, with what otmechalka answered this time.
    ///
    /// The server itself publishes it to the command's subject then, so nothing is held here meanwhile and
    /// others of the partition go on.
    pub fn parked(
        &self,
        pupil: RecordId,
        failures: Failures,
        answered: Option<&Answered>,
        due: DateTime<Utc>,
    ) -> Result<Outgoing, EnvelopeError> {
        let attempt = self.envelope.attempt.saturating_add(1);
        let envelope = Envelope { attempt, ..self.envelope.clone() };
        let encoded = envelope.encode(&self.mapped)?;
        let Version { raw_sequence, redrive } = self.version;
        let message_id = format!("later:{}:{raw_sequence}:{redrive}:{attempt}", self.record);
        let mut message = Outgoing::new(subjects::later(pupil, self.record), encoded, message_id)
            .with_header("Nats-Schedule", format!("@at {}", due.to_rfc3339_opts(SecondsFormat::Millis, true)))
            .with_header("Nats-Schedule-Target", subjects::command(pupil, self.record));
        if failures.count > 0 {
            message = message
                .with_header(FAILURES, failures.count.to_string())
                .with_header(OWN_FAILURES, failures.own.to_string());
        }
        if let Some(answered) = answered {
            message = message.with_header(Answered::HEADER, answered.to_string());
        }
        if let Some(first) = failures.first {
            message = message.with_header(FIRST_FAILURE, first.to_rfc3339_opts(SecondsFormat::Millis, true));
        }
        Ok(message)
    }
}

/// Builds the message that sends a version round again, past the fence.
pub fn sent_again(
    why: &str,
    subject: &str,
    envelope: &Envelope,
    mapped: &RecordMapped,
    version: Version,
) -> Result<Outgoing, EnvelopeError> {
    // Not a first attempt: what is remembered was the reason for sending it again.
    let envelope = Envelope { version: Some(version), attempt: 1, ..envelope.clone() };
    let encoded = envelope.encode(mapped)?;
    let Version { raw_sequence, redrive } = version;
    let message_id = format!("{why}:{}:{raw_sequence}:{redrive}", envelope.record);
    Ok(Outgoing::new(subject.to_owned(), encoded, message_id))
}
