//! Publishing what is news.

use std::path::Path;

use futures::StreamExt;
use runtime::{Broker, BrokerError, Leadership, Outgoing, PublishError, Published, outside};
use schemas::{Envelope, RecordChanged, RecordRef, Version, subjects};

use crate::change::{Known, message_id, news};
use crate::error::PollError;
use crate::missed::{Look, Standing, standing};
use crate::record::Reading;
use crate::store::{Store, Strayed};
use crate::trim::fit;

/// Who publishes, as events say it.
const SOURCE: &str = "/rollcall/producer";

/// Readings that are turned into messages at a time; bounds the memory they take twice.
const CHUNK: usize = 100;

/// Messages that wait for their acks at the same time.
const IN_FLIGHT: usize = 64;

/// Bytes of a message that its headers may take.
const HEADERS: usize = 4 << 10;

/// Times that a reading is decided anew because the stream holds something else than expected.
const ROUNDS: u32 = 5;

/// Publishes readings that are news.
pub struct Publisher {
    broker: Broker,
    store: Store,
    leadership: Leadership,
}

/// A reading that is to be published, within a size.
struct Candidate {
    reading: Reading,
    limit: usize,
}

impl Publisher {
    /// Opens it with the local cache in this folder.
    pub async fn open(
        broker: &Broker,
        folder: &Path,
        leadership: Leadership,
    ) -> Result<Publisher, BrokerError> {
        Ok(Publisher { broker: broker.clone(), store: Store::open(broker, folder).await?, leadership })
    }

    /// Begins a turn: looks whether the stream is still the one it was, and returns what others published.
    pub async fn check(&mut self) -> Result<Vec<Strayed>, BrokerError> {
        self.store.check().await
    }

    /// Tells whether this replica is the one at work.
    pub fn is_at_work(&self) -> bool {
        self.leadership.is_held()
    }

    /// Keeps the readings that no poll will ever see.
    pub async fn missed(&mut self, readings: Vec<Reading>, look: Look) -> Result<Vec<Reading>, BrokerError> {
        let records: Vec<RecordRef> = readings.iter().map(|reading| reading.record).collect();
        let known = self.store.known(&records).await?;
        let is_missed = |reading: &Reading, known: &Option<Known>| {
            standing(known.as_ref(), reading.seen(), reading.shows_status(), look) == Standing::Missed
        };
        let judged = readings.into_iter().zip(known);
        Ok(judged.filter(|(reading, known)| is_missed(reading, known)).map(|(reading, _)| reading).collect())
    }

    /// Publishes what is news and comes back when the stream has all of it. Returns how many that were.
    pub async fn publish(&mut self, readings: Vec<Reading>) -> Result<u64, PollError> {
        let limit = self.broker.max_message_bytes().saturating_sub(HEADERS);
        let mut readings = readings.into_iter().map(|reading| Candidate { reading, limit });
        let mut published = 0;
        loop {
            let chunk: Vec<Candidate> = readings.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            published += self.publish_chunk(chunk).await?;
        }
        self.store.flush();
        Ok(published)
    }

    async fn publish_chunk(&mut self, mut open: Vec<Candidate>) -> Result<u64, PollError> {
        let mut published = 0;
        for round in 0..ROUNDS {
            let (candidates, messages) = self.decide(open, round).await?;
            if !self.is_at_work() {
                return Err(PollError::NotAtWork);
            }
            let answers = self.publish_all(&messages).await;
            open = Vec::new();
            for (candidate, answer) in candidates.into_iter().zip(answers) {
                match self.settle(candidate, answer)? {
                    Some(candidate) => open.push(candidate),
                    None => published += 1,
                }
            }
            if open.is_empty() {
                return Ok(published);
            }
        }
        Err(open
            .first()
            .map_or(PollError::Stopping, |candidate| PollError::Contention(candidate.reading.record)))
    }

    /// Keeps what is news and makes messages of it.
    async fn decide(
        &mut self,
        open: Vec<Candidate>,
        round: u32,
    ) -> Result<(Vec<Candidate>, Vec<Outgoing>), PollError> {
        let records: Vec<RecordRef> = open.iter().map(|candidate| candidate.reading.record).collect();
        let known = self.store.known(&records).await?;
        let (mut candidates, mut messages) = (Vec::new(), Vec::new());
        for (candidate, known) in open.into_iter().zip(known) {
            if let Some(message) = message(&candidate, known.as_ref(), round)? {
                if known.is_some_and(|known| self.store.is_overtaken(&known)) {
                    return Err(PollError::Overtaken(candidate.reading.record));
                }
                candidates.push(candidate);
                messages.push(message);
            }
        }
        Ok((candidates, messages))
    }

    async fn publish_all(&self, messages: &[Outgoing]) -> Vec<Result<Published, PublishError>> {
        let publishes: Vec<_> = messages.iter().map(|message| self.broker.publish(message)).collect();
        futures::stream::iter(publishes).buffered(IN_FLIGHT).collect().await
    }

    /// Remembers what the stream took; gives back what has to be decided anew.
    fn settle(
        &mut self,
        candidate: Candidate,
        answer: Result<Published, PublishError>,
    ) -> Result<Option<Candidate>, PollError> {
        let reading = &candidate.reading;
        match answer {
            Ok(Published { sequence, duplicate: false }) => {
                self.store.put(reading.record, &known_after(reading, sequence));
                Ok(None)
            }
            // After a lost ack the newest event is this very one. Or somebody else published; or the stream
            // remembers the id of an event that was since purged.
            Ok(Published { duplicate: true, .. }) | Err(PublishError::NotLast) => {
                self.store.forget(reading.record);
                Ok(Some(candidate))
            }
            Err(PublishError::TooBig { .. }) => {
                let limit = candidate.limit / 2;
                Ok(Some(Candidate { limit, ..candidate }))
            }
            Err(error @ PublishError::Stopping) => Err(error.into()),
        }
    }
}

fn known_after(reading: &Reading, sequence: u64) -> Known {
    Known {
        sequence,
        fingerprint: reading.fingerprint.clone(),
        modified: reading.modified,
        status_was_empty: reading.seen().status_is_empty,
    }
}

fn message(candidate: &Candidate, known: Option<&Known>, round: u32) -> Result<Option<Outgoing>, PollError> {
    let Candidate { reading, limit } = candidate;
    let record = reading.record;
    let Some(news) = news(known, reading.seen()) else { return Ok(None) };
    tracing::debug!(record = %record, ?news, "Publishing {record}");
    let again = (round > 0).then(outside::token);
    let id = message_id(record, known, reading.seen(), news, again);
    let follows = known.map_or(0, |known| known.sequence);
    outgoing(reading, *limit, None, id, follows).map(Some)
}

/// Makes the message that sends a record round again as it was read now, although it may be no news.
///
/// Its redrive makes the stages ask both CRMs rather than believe what they remember. It is stored only where
/// `follows` is still the newest event about the record, 0 where there is none.
pub fn sent_again(reading: &Reading, follows: u64, max_bytes: usize) -> Result<Outgoing, PollError> {
    let digest = reading.fingerprint.get(..16).unwrap_or(&reading.fingerprint);
    let id = format!("reconcile:{}:{follows}:{digest}", reading.record);
    let version = Version { raw_sequence: follows, redrive: 1 };
    outgoing(reading, max_bytes.saturating_sub(HEADERS), Some(version), id, follows)
}

fn outgoing(
    reading: &Reading,
    limit: usize,
    version: Option<Version>,
    id: String,
    follows: u64,
) -> Result<Outgoing, PollError> {
    let record = reading.record;
    let envelope = Envelope {
        record,
        source: SOURCE.into(),
        pupil: reading.pupil,
        modified: reading.modified,
        fingerprint: reading.fingerprint.clone(),
        version,
        attempt: 0,
    };
    let encoded = changed(reading, limit)
        .and_then(|changed| envelope.encode(&changed).ok())
        .ok_or(PollError::Unencodable(record))?;
    Ok(Outgoing::new(subjects::raw(record), encoded, id).expecting_last(follows))
}

fn changed(reading: &Reading, limit: usize) -> Option<RecordChanged> {
    let fitted = fit(reading.changed()?, limit);
    if !fitted.trimmed.is_empty() {
        tracing::warn!(
            record = %reading.record,
            "{} is too big for a message: left out {}",
            reading.record,
            fitted.trimmed.len()
        );
    }
    Some(fitted)
}
