//! What was last published about each record: on disk where that is quicker, in the stream for sure.
//!
//! One producer is at work at a time, and one that slept through the end of its lease may still publish what it had in
//! hand. What it read is older than what its successor reads, whatever the order in which they publish; see
//! [`Store::is_overtaken`] and [`Store::check`].

use std::collections::BTreeSet;
use std::path::Path;

use futures::{StreamExt, TryStreamExt};
use runtime::broker::StoredMessage;
use runtime::{Broker, BrokerError, Log};
use schemas::streams::RAW;
use schemas::{Entity, Envelope, RecordRef, subjects};
use serde::Deserialize;

use crate::change::Known;
use crate::mirror::Mirror;
use crate::walk::Moment;

/// Most questions to the stream at the same time.
const LOOKUPS: usize = 64;

/// Most events of others that are looked at after they were found.
const MOST_LOOKED_AT: u64 = 10_000;

/// What another producer published meanwhile, by what it had read some time before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strayed {
    /// Kind of the record.
    pub entity: Entity,
    /// Modification time of what it had read.
    pub modified: Moment,
}

/// What the newest event about each record says.
pub struct Store {
    broker: Broker,
    log: Log,
    stamp: String,
    mirror: Mirror,
    /// End of the stream when the turn under way began, before anything was read in it.
    turn_began_at: u64,
    /// Sequences of what was published in this turn.
    ours: BTreeSet<u64>,
}

impl Store {
    /// Opens the local copy beside the stream as it is now.
    pub async fn open(broker: &Broker, folder: &Path) -> Result<Store, BrokerError> {
        let log = broker.log(RAW.name).await?;
        let StreamState { stamp, last_sequence } = stream_state(broker, &log).await?;
        let mirror = Mirror::open(folder, &stamp, last_sequence);
        let (turn_began_at, ours) = (last_sequence, BTreeSet::new());
        Ok(Store { broker: broker.clone(), log, stamp, mirror, turn_began_at, ours })
    }

    /// Begins a turn: empties the copy where it is not one of everything that the stream took up to now.
    ///
    /// Returns what other producers published since the last turn. That may be older than what was read here and found
    /// to be no news, so it has to be read again.
    pub async fn check(&mut self) -> Result<Vec<Strayed>, BrokerError> {
        let StreamState { stamp, last_sequence } = stream_state(&self.broker, &self.log).await?;
        let known_up_to = self.mirror.known_up_to();
        self.turn_began_at = last_sequence;
        self.ours.clear();
        if stamp == self.stamp && known_up_to == last_sequence {
            return Ok(Vec::new());
        }
        let mut strayed = Vec::new();
        if stamp == self.stamp && known_up_to < last_sequence {
            strayed = self.strayed(known_up_to, last_sequence).await?;
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
        Ok(strayed)
    }

    /// Tells whether another producer published this while a reading was on its way here, so that the reading may be
    /// the older one. Exact, as publishing is refused where anything came behind what is known.
    pub fn is_overtaken(&self, known: &Known) -> bool {
        known.sequence > self.turn_began_at && !self.ours.contains(&known.sequence)
    }

    async fn strayed(&self, known_up_to: u64, last_sequence: u64) -> Result<Vec<Strayed>, BrokerError> {
        let unknown = (known_up_to + 1..=last_sequence).filter(|sequence| !self.mirror.knows(*sequence));
        let looks: Vec<_> =
            unknown.take(MOST_LOOKED_AT as usize).map(|sequence| self.look_at(sequence)).collect();
        let found: Vec<_> = futures::stream::iter(looks).buffered(LOOKUPS).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn look_at(&self, sequence: u64) -> Result<Option<Strayed>, BrokerError> {
        let unavailable =
            |reason| BrokerError::Unavailable { operation: format!("read from stream {}", RAW.name), reason };
        // Else it was deleted or is too old.
        let Some(message) = self.log.at(sequence).await.map_err(unavailable)? else { return Ok(None) };
        let envelope = Envelope::decode_headers(&|name: &str| message.header(name)).ok();
        // One with a version was sent round again by an operator, who looked before.
        Ok(envelope
            .filter(|envelope| envelope.version.is_none())
            .map(|Envelope { record, modified, .. }| Strayed { entity: record.entity, modified }))
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
        let message = self.broker.newest(&self.log, &subjects::raw(record)).await?;
        Ok(Looked::Up(message.as_ref().map(known_from)))
    }

    /// Remembers what was published about a record.
    pub fn put(&mut self, record: RecordRef, known: &Known) {
        self.ours.insert(known.sequence);
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

async fn stream_state(broker: &Broker, log: &Log) -> Result<StreamState, BrokerError> {
    let state = broker.state(log).await?;
    let stamp = format!("{} {}", RAW.name, state.created.to_rfc3339());
    Ok(StreamState { stamp, last_sequence: state.last_sequence })
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
