//! What was last published about each record: on disk where that is quicker, in the stream for sure.

use std::path::Path;

use futures::{StreamExt, TryStreamExt};
use runtime::broker::StoredMessage;
use runtime::{Broker, BrokerError};
use schemas::streams::RAW;
use schemas::{Envelope, RecordRef, subjects};
use serde::Deserialize;

use crate::change::Known;
use crate::mirror::Mirror;

/// Most questions to the stream at the same time.
const LOOKUPS: usize = 64;

/// What the newest event about each record says.
pub struct Store {
    broker: Broker,
    stream: async_nats::jetstream::stream::Stream<()>,
    stamp: String,
    mirror: Mirror,
}

impl Store {
    /// Opens the local copy beside the stream as it is now.
    pub async fn open(broker: &Broker, folder: &Path) -> Result<Store, BrokerError> {
        let StreamState { stamp, last_sequence } = stream_state(broker).await?;
        let mirror = Mirror::open(folder, &stamp, last_sequence);
        let stream = broker.stream(RAW.name).await?;
        Ok(Store { broker: broker.clone(), stream, stamp, mirror })
    }

    /// Empties the copy where it is not one of everything that the stream took up to now.
    pub async fn check(&mut self) -> Result<(), BrokerError> {
        let StreamState { stamp, last_sequence } = stream_state(&self.broker).await?;
        let known_up_to = self.mirror.known_up_to();
        if stamp == self.stamp && known_up_to == last_sequence {
            return Ok(());
        }
        if stamp == self.stamp && known_up_to < last_sequence {
            tracing::warn!(
                known_up_to,
                last_sequence,
                "Stream {} holds events that were not seen here: asking it about every record",
                RAW.name
            );
        } else {
            tracing::error!(
                "Stream {} is another one than before or has lost its end: what it held and nobody read is gone. \
                 To read everything again, delete the keys of the bucket `checkpoint`",
                RAW.name
            );
        }
        self.mirror.start_over(&stamp, last_sequence);
        self.stamp = stamp;
        Ok(())
    }

    /// Returns what is known about each of these, in their order.
    pub async fn known(&mut self, records: &[RecordRef]) -> Result<Vec<Option<Known>>, BrokerError> {
        let remembered = records.iter().map(|record| self.mirror.get(*record));
        let lookups: Vec<_> =
            records.iter().zip(remembered).map(|(record, known)| self.look_up(*record, known)).collect();
        let known: Vec<Looked> = futures::stream::iter(lookups).buffered(LOOKUPS).try_collect().await?;
        let remember = |(record, looked): (&RecordRef, Looked)| {
            if let Looked::Up(Some(known)) = &looked {
                self.mirror.put(*record, known);
            }
            looked.known()
        };
        Ok(records.iter().zip(known).map(remember).collect())
    }

    async fn look_up(&self, record: RecordRef, remembered: Option<Known>) -> Result<Looked, BrokerError> {
        if let Some(known) = remembered {
            return Ok(Looked::Remembered(known));
        }
        let message = self.broker.last_message(&self.stream, RAW.name, &subjects::raw(record)).await?;
        Ok(Looked::Up(message.as_ref().map(known_from)))
    }

    /// Remembers what was published about a record.
    pub fn put(&mut self, record: RecordRef, known: &Known) {
        self.mirror.put(record, known);
    }

    /// Forgets a record, so that the stream is asked.
    pub fn forget(&self, record: RecordRef) {
        self.mirror.forget(record);
    }

    /// Writes what is remembered to disk.
    pub fn flush(&self) {
        self.mirror.flush();
    }
}

/// What is known about a record, and from where.
enum Looked {
    Remembered(Known),
    Up(Option<Known>),
}

impl Looked {
    fn known(self) -> Option<Known> {
        match self {
            Looked::Remembered(known) => Some(known),
            Looked::Up(known) => known,
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
