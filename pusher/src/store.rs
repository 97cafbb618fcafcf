//! What was done: the results stream is the memory, a local cache spares most questions to it.

use std::path::Path;

use chrono::{DateTime, Utc};
use runtime::broker::StoredMessage;
use runtime::{Broker, BrokerError, DiskCache, Log};
use schemas::streams::{COMMANDS, DEAD_LETTERS, RAW, RESULTS, StreamDefinition};
use schemas::{
    DeadLetter, Envelope, EventData, RecordId, RecordMapped, RecordProcessed, RecordRef, Version, subjects,
};

use crate::fence::Settled;

/// Cache entry of the last result that was kept; no record is spelled so.
const LAST: &str = "last";

/// What is known of the records.
pub struct Store {
    broker: Broker,
    raw: Log,
    commands: Log,
    results: Log,
    dead_letters: Log,
    cache: DiskCache<Settled>,
}

/// A command as its stream holds it.
pub struct Command {
    /// What it says about itself.
    pub envelope: Envelope,
    /// Its version; a command without one is never kept.
    pub version: Version,
    /// The mapped record.
    pub mapped: RecordMapped,
}

/// The newest result of a record.
pub struct NewestResult {
    /// Its sequence in the stream, 0 where there is none: the next one is published behind it.
    pub sequence: u64,
    /// What it says; `None` also where it cannot be read or has no version, so that nothing counts as settled.
    pub settled: Option<Settled>,
    /// The pupil in whose partition it was worked on.
    pub pupil: Option<RecordId>,
}

impl Store {
    /// Opens the streams, and the cache under `folder`.
    pub async fn open(broker: &Broker, folder: &Path) -> Result<Store, BrokerError> {
        let results = broker.log(RESULTS.name).await?;
        let state = broker.state(&results).await?;
        let stamp = format!("{}@{}", RESULTS.name, state.created);
        let cache = DiskCache::<Settled>::open(folder, "pusher", &stamp);
        if cache.get(LAST).is_some_and(|last| last.sequence > state.last_sequence) {
            // The stream was put back from a backup: what the cache knows beyond it never happened.
            tracing::warn!("The local cache is ahead of {}; starting with an empty one", RESULTS.name);
            cache.start_over(&stamp);
        }
        Ok(Store {
            broker: broker.clone(),
            raw: broker.log(RAW.name).await?,
            commands: broker.log(COMMANDS.name).await?,
            results,
            dead_letters: broker.log(DEAD_LETTERS.name).await?,
            cache,
        })
    }

    /// Returns the newest result of a record, from the cache where it has one.
    pub async fn last(&self, record: RecordRef) -> Result<Option<Settled>, BrokerError> {
        match self.cache.get(&record.to_string()) {
            Some(settled) => Ok(Some(settled)),
            None => self.refresh(record).await,
        }
    }

    /// Asks the stream for the newest result of a record.
    pub async fn refresh(&self, record: RecordRef) -> Result<Option<Settled>, BrokerError> {
        Ok(self.newest_result(record).await?.settled)
    }

    /// Asks the stream for the newest result of a record, also where that cannot be read.
    pub async fn newest_result(&self, record: RecordRef) -> Result<NewestResult, BrokerError> {
        let message = self.newest(&self.results, &subjects::result(record)).await?;
        let sequence = message.as_ref().map_or(0, |message| message.sequence);
        let (mut settled, mut pupil) = (None, None);
        if let Some((envelope, processed)) = message.as_ref().and_then(decode::<RecordProcessed>) {
            settled = Settled::of(sequence, &envelope, &processed);
            pupil = envelope.pupil;
        }
        match &settled {
            Some(settled) => self.remember(record, settled),
            None => self.cache.remove(&record.to_string()),
        }
        Ok(NewestResult { sequence, settled, pupil })
    }

    /// Keeps a result that the stream has.
    pub fn remember(&self, record: RecordRef, settled: &Settled) {
        self.cache.put(&record.to_string(), settled);
        self.cache.put(LAST, settled);
    }

    /// Writes the cache to disk.
    pub fn flush(&self) {
        self.cache.flush();
    }

    /// Returns the newest raw version of a record, unless no result can follow it any more: it is older than
    /// commands and results are kept, or a stage gave it up.
    pub async fn live_raw_version(
        &self,
        record: RecordRef,
        now: DateTime<Utc>,
    ) -> Result<Option<u64>, BrokerError> {
        let Some(raw) = self.newest(&self.raw, &subjects::raw(record)).await? else { return Ok(None) };
        let age = (now - raw.stored).to_std().unwrap_or_default();
        if age >= COMMANDS.max_age.min(RESULTS.max_age) {
            return Ok(None);
        }
        let is_dead = self.was_buried("mapper", record, RAW, raw.sequence).await?
            || self.was_buried("pusher", record, COMMANDS, raw.sequence).await?;
        Ok((!is_dead).then_some(raw.sequence))
    }

    /// Tells whether a stage's newest dead letter about a record is about this version or a newer one.
    async fn was_buried(
        &self,
        stage: &str,
        record: RecordRef,
        stream: StreamDefinition,
        raw_sequence: u64,
    ) -> Result<bool, BrokerError> {
        let subject = subjects::dead_letter(stage, record);
        let Some(message) = self.newest(&self.dead_letters, &subject).await? else { return Ok(false) };
        let Ok(letter) = serde_json::from_slice::<DeadLetter>(&message.payload) else { return Ok(false) };
        let buried = if stream.name == RAW.name {
            Some(letter.sequence)
        } else {
            let header = letter.headers.iter().find(|(name, _)| name == "ce-rawsequence");
            header.and_then(|(_, value)| value.parse().ok())
        };
        Ok(letter.stream == stream.name && buried.is_some_and(|buried| buried >= raw_sequence))
    }

    /// Returns what may still be worked on of a record besides the command at `sequence`.
    pub async fn rivals(
        &self,
        pupil: RecordId,
        record: RecordRef,
        sequence: u64,
    ) -> Result<Rivals, BrokerError> {
        // Looked at first: what leaves it meanwhile is found behind.
        let parked = self.newest(&self.commands, &subjects::later(pupil, record)).await?;
        let subject = subjects::command(pupil, record);
        let (mut behind, mut from) = (Vec::new(), sequence + 1);
        while let Some(message) = self.next(&self.commands, &subject, from).await? {
            from = message.sequence + 1;
            behind.extend(rival(&message));
        }
        Ok(Rivals { parked: parked.as_ref().and_then(rival), behind })
    }

    /// Returns the command of the highest version under a subject, whatever the order in which they were stored.
    pub async fn newest_command(&self, subject: &str) -> Result<Option<Command>, BrokerError> {
        let mut newest: Option<Command> = None;
        let mut from = 1;
        while let Some(message) = self.next(&self.commands, subject, from).await? {
            from = message.sequence + 1;
            let Some((envelope, mapped)) = decode::<RecordMapped>(&message) else { continue };
            let Some(version) = envelope.version else { continue };
            if newest.as_ref().is_none_or(|newest| newest.version <= version) {
                newest = Some(Command { envelope, version, mapped });
            }
        }
        Ok(newest)
    }

    /// Returns the first message at or after a sequence whose subject fits.
    pub async fn next(
        &self,
        stream: &Log,
        subject: &str,
        from: u64,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        self.broker.next(stream, subject, from).await
    }

    /// Asks the stream's leader: a follower may lag, and what it does not know yet would be taken for absent.
    async fn newest(&self, stream: &Log, subject: &str) -> Result<Option<StoredMessage>, BrokerError> {
        self.broker.newest(stream, subject).await
    }
}

/// Commands of a record besides one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rivals {
    /// The one that waits for its time.
    pub parked: Option<Rival>,
    /// Those in the queue behind it.
    pub behind: Vec<Rival>,
}

/// Another command of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its sequence.
    pub sequence: u64,
    /// Its version.
    pub version: Version,
    /// It was tried before, and may have had an effect.
    pub was_tried: bool,
}

impl Rivals {
    /// Tells whether a newer version was tried before and comes again; it will be pushed for real then.
    pub fn overtake(&self, version: Version) -> bool {
        self.parked.iter().chain(&self.behind).any(|rival| rival.was_tried && rival.version > version)
    }

    /// Tells whether none of them can have had an effect yet.
    pub fn are_untried(&self) -> bool {
        !self.parked.iter().chain(&self.behind).any(|rival| rival.was_tried)
    }
}

fn decode<T: EventData>(message: &StoredMessage) -> Option<(Envelope, T)> {
    message.decode().ok()
}

fn rival(message: &StoredMessage) -> Option<Rival> {
    let envelope = Envelope::decode_headers(&|name: &str| message.header(name)).ok()?;
    let was_tried = envelope.attempt > 0;
    Some(Rival { sequence: message.sequence, version: envelope.version?, was_tried })
}
