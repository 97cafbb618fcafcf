//! The settled statuses: their stream, and a local cache of it.
//!
//! The cache spares a question to the stream before a write. It holds no text but that of a success: what others
//! quote is personal, and nobody could erase it from the disks of all stages. It never has the last word: what it would
//! leave undone is asked of the stream, and what is settled on its word is published only where the stream
//! agrees about the newest message.

use std::path::Path;

use chrono::{DateTime, FixedOffset};
use runtime::{Broker, BrokerError, DiskCache, Log, Outgoing, PublishError, outside};
use schemas::problem::SUCCESS;
use schemas::streams::{RESULTS, STATUSES};
use schemas::{
    Envelope, Outcome, RecordProcessed, RecordRef, StatusSettled, StatusWritten, Version, subjects,
};
use serde::{Deserialize, Serialize};

use crate::decide::{Settled, Wanted};
use crate::desk::Fence;

/// Where statuses are settled.
pub struct Store {
    broker: Broker,
    log: Log,
    results: Log,
    cache: DiskCache<Cached>,
}

#[derive(Serialize, Deserialize)]
struct Cached {
    sequence: u64,
    raw_sequence: u64,
    redrive: u64,
    how: StatusSettled,
    settled: DateTime<FixedOffset>,
}

/// What became of settling a status.
#[derive(Debug)]
pub enum Settling {
    /// It is the newest of its record.
    Settled(Fence),
    /// Somebody else settled another one meanwhile.
    Overtaken(Fence),
}

/// Name of the cache's folder.
const CACHE: &str = "status-writer";

impl Store {
    /// Opens the stream and the cache beside it.
    pub async fn open(broker: &Broker, state_dir: &Path) -> Result<Store, BrokerError> {
        let log = broker.log(STATUSES.name).await?;
        let state = broker.state(&log).await?;
        // The number sets it apart from earlier caches, which held all texts.
        let stamp = format!("{} made {}, 2", STATUSES.name, state.created.to_rfc3339());
        let results = broker.log(RESULTS.name).await?;
        Ok(Store { broker: broker.clone(), log, results, cache: DiskCache::open(state_dir, CACHE, &stamp) })
    }

    /// Returns the newest settled status of a record as remembered here.
    pub fn remembered(&self, record: RecordRef) -> Option<Fence> {
        let cached = self.cache.get(&record.to_string())?;
        let last = Settled {
            version: Version { raw_sequence: cached.raw_sequence, redrive: cached.redrive },
            text: SUCCESS.to_owned(),
            how: cached.how,
            settled: cached.settled,
        };
        Some(Fence { sequence: cached.sequence, last: Some(last) })
    }

    /// Returns the newest settled status of a record as the stream has it.
    pub async fn fence(&self, record: RecordRef) -> Result<Fence, BrokerError> {
        let subject = subjects::status(record);
        let Some(message) = self.broker.newest(&self.log, &subject).await? else {
            return Ok(Fence::default());
        };
        let last = match message.decode::<StatusWritten>() {
            Ok((Envelope { version: Some(version), .. }, written)) => {
                Some(Settled { version, text: written.status, how: written.how, settled: written.settled })
            }
            _ => {
                tracing::warn!("Message {} of {} cannot be read", message.sequence, STATUSES.name);
                None
            }
        };
        let fence = Fence { sequence: message.sequence, last };
        self.remember(record, &fence);
        Ok(fence)
    }

    /// Returns the version of a record's newest outcome, if that one asks for a status.
    pub async fn newest_wanted(&self, record: RecordRef) -> Result<Option<Version>, BrokerError> {
        let newest = self.broker.newest(&self.results, &subjects::result(record)).await?;
        let read = newest.and_then(|message| message.decode::<RecordProcessed>().ok());
        let wanted = read.filter(|(_, processed)| processed.outcome != Outcome::Superseded);
        Ok(wanted.and_then(|(envelope, _)| envelope.version))
    }

    /// Publishes that a status is settled, behind the fence that is known.
    pub async fn settle(
        &self,
        wanted: &Wanted,
        how: StatusSettled,
        settled: DateTime<FixedOffset>,
        mut fence_sequence: u64,
    ) -> Result<Settling, PublishError> {
        let record = wanted.envelope.record;
        let data = StatusWritten { status: wanted.text.clone(), how, settled };
        let envelope = Envelope {
            source: "/rollcall/status-writer".into(),
            version: Some(wanted.version),
            attempt: 0,
            ..wanted.envelope.clone()
        };
        // Texts, numbers and times always encode.
        let Ok(encoded) = envelope.encode(&data) else { return Err(PublishError::NotLast) };
        let Version { raw_sequence, redrive } = wanted.version;
        // Nobody else's: on three servers a known id is taken for stored, whatever another process stored since.
        let message_id = format!("status:{record}:{raw_sequence}:{redrive}:{:032x}", outside::token());
        let message = Outgoing::new(subjects::status(record), encoded, message_id);
        loop {
            match self.broker.publish(&message.clone().expecting_last(fence_sequence)).await {
                Ok(published) => {
                    let last = Settled { version: wanted.version, text: data.status, how, settled };
                    let fence = Fence { sequence: published.sequence, last: Some(last) };
                    self.remember(record, &fence);
                    return Ok(Settling::Settled(fence));
                }
                Err(PublishError::NotLast) => {}
                Err(error) => return Err(error),
            }
            let fence = self.fence(record).await?;
            match &fence.last {
                Some(last) if last.version == wanted.version => return Ok(Settling::Settled(fence)),
                Some(_) => return Ok(Settling::Overtaken(fence)),
                // Nothing there that says anything: only the sequence was wrong.
                None if fence.sequence != fence_sequence => fence_sequence = fence.sequence,
                None => return Ok(Settling::Overtaken(fence)),
            }
        }
    }

    fn remember(&self, record: RecordRef, fence: &Fence) {
        let key = record.to_string();
        match &fence.last {
            Some(last) if last.text == SUCCESS => self.cache.put(
                &key,
                &Cached {
                    sequence: fence.sequence,
                    raw_sequence: last.version.raw_sequence,
                    redrive: last.version.redrive,
                    how: last.how,
                    settled: last.settled,
                },
            ),
            _ => self.cache.remove(&key),
        }
    }

    /// Writes the cache to disk.
    pub fn flush(&self) {
        self.cache.flush();
    }
}
