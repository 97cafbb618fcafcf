//! What was last published about each record: on disk where that is quicker, in the stream for sure.

use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};
use runtime::broker::StoredMessage;
use runtime::{Broker, BrokerError, DiskCache};
use schemas::streams::RAW;
use schemas::{Envelope, RecordRef, subjects};
use serde::Deserialize;

use crate::change::Known;

/// Name of the cache in the folder of caches.
const NAME: &str = "producer";

/// Key of the highest sequence that the cache knows; no record is called that.
const NEWEST: &str = "newest";

/// Most questions to the stream at the same time.
const LOOKUPS: usize = 64;

/// What the newest event about each record says.
pub struct Store {
    broker: Broker,
    stream: async_nats::jetstream::stream::Stream<()>,
    folder: PathBuf,
    stamp: String,
    newest: u64,
    /// None only while it is being replaced.
    cache: Option<DiskCache<Known>>,
}

impl Store {
    /// Opens the cache beside the stream as it is now.
    pub async fn open(broker: &Broker, folder: &Path) -> Result<Store, BrokerError> {
        let StreamState { stamp, last_sequence } = stream_state(broker).await?;
        let (cache, newest) = open_cache(folder, &stamp, last_sequence);
        let stream = broker.stream(RAW.name).await?;
        Ok(Store {
            broker: broker.clone(),
            stream,
            folder: folder.to_owned(),
            stamp,
            newest,
            cache: Some(cache),
        })
    }

    /// Throws the cache away where the stream is not the one that it was filled from, or has lost something.
    pub async fn check(&mut self) -> Result<(), BrokerError> {
        let StreamState { stamp, last_sequence } = stream_state(&self.broker).await?;
        if stamp == self.stamp && self.newest <= last_sequence {
            return Ok(());
        }
        tracing::error!(
            "Stream {} is another one than before or has lost its end: what it held and nobody read is gone. \
             To read everything again, delete the keys of the bucket `checkpoint`",
            RAW.name
        );
        // The old one holds the lock of the folder.
        self.cache = None;
        let (cache, newest) = open_cache(&self.folder, &stamp, last_sequence);
        (self.cache, self.newest) = (Some(cache), newest);
        self.stamp = stamp;
        Ok(())
    }

    /// Returns what is known about each of these, in their order.
    pub async fn known(&self, records: &[RecordRef]) -> Result<Vec<Option<Known>>, BrokerError> {
        let lookups: Vec<_> = records.iter().map(|record| self.known_of(*record)).collect();
        futures::stream::iter(lookups).buffered(LOOKUPS).try_collect().await
    }

    async fn known_of(&self, record: RecordRef) -> Result<Option<Known>, BrokerError> {
        let key = record.to_string();
        if let Some(known) = self.cache.as_ref().and_then(|cache| cache.get(&key)) {
            return Ok(Some(known));
        }
        let message = self.broker.last_message(&self.stream, RAW.name, &subjects::raw(record)).await?;
        let known = message.as_ref().map(known_from);
        if let (Some(cache), Some(known)) = (&self.cache, &known) {
            cache.put(&key, known);
        }
        Ok(known)
    }

    /// Remembers what was published about a record.
    pub fn put(&mut self, record: RecordRef, known: &Known) {
        let Some(cache) = &self.cache else { return };
        cache.put(&record.to_string(), known);
        if known.sequence > self.newest {
            self.newest = known.sequence;
            cache.put(NEWEST, known);
        }
    }

    /// Forgets a record, so that the stream is asked.
    pub fn forget(&self, record: RecordRef) {
        if let Some(cache) = &self.cache {
            cache.remove(&record.to_string());
        }
    }

    /// Writes what is remembered to disk.
    pub fn flush(&self) {
        if let Some(cache) = &self.cache {
            cache.flush();
        }
    }
}

struct StreamState {
    stamp: String,
    last_sequence: u64,
}

async fn stream_state(broker: &Broker) -> Result<StreamState, BrokerError> {
    let stream = broker.jetstream().get_stream(RAW.name).await.map_err(|error| BrokerError::Unavailable {
        operation: format!("look at stream {}", RAW.name),
        reason: error.to_string(),
    })?;
    let info = stream.cached_info();
    let stamp = format!("{} {}", RAW.name, info.created.to_rfc3339());
    Ok(StreamState { stamp, last_sequence: info.state.last_sequence })
}

fn open_cache(folder: &Path, stamp: &str, last_sequence: u64) -> (DiskCache<Known>, u64) {
    let cache = DiskCache::<Known>::open(folder, NAME, stamp);
    let newest = cache.get(NEWEST).map_or(0, |known| known.sequence);
    if newest <= last_sequence {
        return (cache, newest);
    }
    tracing::warn!("The local cache is ahead of stream {}: starting it over", RAW.name);
    drop(cache);
    // Another stamp empties it.
    drop(DiskCache::<Known>::open(folder, NAME, "ahead of its stream"));
    (DiskCache::open(folder, NAME, stamp), 0)
}

/// Reads the newest event about a record; what cannot be read equals nothing that is read now.
fn known_from(message: &StoredMessage) -> Known {
    #[derive(Deserialize)]
    struct Shown {
        status: Option<String>,
    }
    let envelope = Envelope::decode_headers(&|name: &str| message.header(name)).ok();
    let shown: Option<Shown> = serde_json::from_slice(&message.payload).ok();
    Known {
        sequence: message.sequence,
        modified: envelope.as_ref().map_or(message.stored.fixed_offset(), |envelope| envelope.modified),
        fingerprint: envelope.map(|envelope| envelope.fingerprint).unwrap_or_default(),
        status_was_empty: shown.is_some_and(|shown| shown.status.as_deref() == Some("")),
    }
}
