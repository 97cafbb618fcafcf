//! What the streams hold about a record.

use std::collections::BTreeSet;

use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use producer::Known;
use runtime::broker::StoredMessage;
use runtime::{Broker, BrokerError};
use schemas::streams::{RAW, RESULTS, STATUSES};
use schemas::{
    Entity, Envelope, Outcome, Partition, RecordChanged, RecordProcessed, RecordRef, Version, subjects,
};

use crate::exit::Failure;
use crate::ledger::is_remembered;

/// Most questions to the streams at the same time.
const AT_ONCE: usize = 32;

/// The newest that each stream says about a record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// What was read.
    pub raw: Option<Raw>,
    /// What came of it.
    pub result: Option<Processed>,
    /// Version for which the status was settled.
    pub settled: Option<Version>,
}

/// The newest raw version.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// When it was stored.
    pub stored: DateTime<Utc>,
    /// What it says, as the producer compares it.
    pub known: Known,
}

/// The newest result.
#[derive(Clone, Debug, PartialEq)]
pub struct Processed {
    /// Version that it is about.
    pub version: Version,
    /// What came of it.
    pub outcome: Outcome,
    /// The text for the status field.
    pub text: String,
    /// Codes of its problems.
    pub codes: Vec<String>,
    /// otmechalka got the record with this version or an earlier one.
    pub is_remembered: bool,
}

/// The streams that are the memory.
pub struct Streams {
    broker: Broker,
    raw: Stream<()>,
    results: Stream<()>,
    statuses: Stream<()>,
}

impl Streams {
    /// Opens them.
    pub async fn open(broker: &Broker) -> Result<Streams, BrokerError> {
        let (raw, results) = (broker.stream(RAW.name).await?, broker.stream(RESULTS.name).await?);
        Ok(Streams { broker: broker.clone(), raw, results, statuses: broker.stream(STATUSES.name).await? })
    }

    /// Returns what is held about each of these, in their order.
    pub async fn memories(&self, records: &[RecordRef]) -> Result<Vec<Memory>, BrokerError> {
        let looking: Vec<_> = records.iter().map(|record| self.memory(*record)).collect();
        futures::stream::iter(looking).buffered(AT_ONCE).try_collect().await
    }

    /// Returns what is held about a record.
    pub async fn memory(&self, record: RecordRef) -> Result<Memory, BrokerError> {
        let last = |stream, name, subject: String| async move {
            self.broker.last_message(stream, name, &subject).await
        };
        let raw = last(&self.raw, RAW.name, subjects::raw(record)).await?;
        let result = last(&self.results, RESULTS.name, subjects::result(record)).await?;
        let settled = last(&self.statuses, STATUSES.name, subjects::status(record)).await?;
        Ok(Memory {
            raw: raw.as_ref().map(raw_of),
            result: result.as_ref().and_then(processed_of),
            settled: settled.as_ref().and_then(envelope_of).and_then(|envelope| envelope.version),
        })
    }

    /// Returns the ids of an entity's records of which a result is kept. A listing takes many times the room of an id, so
    /// one partition is listed after the other.
    pub async fn ids(&self, entity: Entity) -> Result<BTreeSet<u64>, Failure> {
        let failed =
            |error: String| Failure::environment(format!("cannot list stream {}: {error}", RESULTS.name));
        let stream = self.broker.jetstream().get_stream(RESULTS.name).await;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        let mut ids = BTreeSet::new();
        for partition in Partition::all() {
            let listed = stream.info_with_subjects(format!("crm.result.{partition}.{entity}.*")).await;
            let mut listed = listed.map_err(|error| failed(error.to_string()))?;
            while let Some((subject, _)) =
                listed.try_next().await.map_err(|error| failed(error.to_string()))?
            {
                ids.extend(subjects::record_of(&subject).map(|record| record.id.get()));
            }
        }
        Ok(ids)
    }

    /// Tells whether the oldest version kept of a record has this content: then it never had another.
    pub async fn always_was(&self, record: RecordRef, fingerprint: &str) -> Result<bool, Failure> {
        let subject = subjects::raw(record);
        match self.raw.get_first_raw_message_by_subject(&subject, 1).await {
            Ok(first) => {
                let header = |name: &str| first.headers.get(name).map(async_nats::HeaderValue::as_str);
                let envelope = Envelope::decode_headers(&header).ok();
                Ok(envelope.is_some_and(|envelope| envelope.fingerprint == fingerprint))
            }
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(false),
            Err(error) => Err(Failure::environment(format!("cannot read stream {}: {error}", RAW.name))),
        }
    }
}

fn envelope_of(message: &StoredMessage) -> Option<Envelope> {
    Envelope::decode_headers(&|name: &str| message.header(name)).ok()
}

/// Reads the newest raw version; what cannot be read equals nothing that is read now.
fn raw_of(message: &StoredMessage) -> Raw {
    let envelope = message.decode::<RecordChanged>().ok().map(|(envelope, _)| envelope);
    let known = Known {
        sequence: message.sequence,
        modified: envelope.as_ref().map_or(message.stored.fixed_offset(), |envelope| envelope.modified),
        fingerprint: envelope.map(|envelope| envelope.fingerprint).unwrap_or_default(),
        status_was_empty: false,
    };
    Raw { stored: message.stored, known }
}

fn processed_of(message: &StoredMessage) -> Option<Processed> {
    let (envelope, processed) = message.decode::<RecordProcessed>().ok()?;
    let is_remembered = is_remembered(&processed);
    let RecordProcessed { outcome, status, problems, .. } = processed;
    Some(Processed {
        version: envelope.version?,
        outcome,
        text: status,
        codes: problems.into_iter().map(|problem| problem.code).collect(),
        is_remembered,
    })
}
