//! Reads from NATS how far the pipeline is.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::Stream;
use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use futures::TryStreamExt;
use runtime::Broker;
use schemas::streams::{
    CHECKPOINTS, COMMANDS, DEAD_LETTERS, RAW, RESULTS, STATUSES, mapper_consumer, status_writer_consumer,
};
use schemas::{Checkpoint, Entity, Poll, subjects};

/// Subjects of messages that the server publishes later.
const LATER: &str = "crm.later.>";

/// Header in which a scheduled message says when: `@at 2026-01-10T10:00:00Z`.
const SCHEDULE: &str = "Nats-Schedule";

/// Most scheduled messages whose time is looked at; more of them are not at rest anyway.
const MOST_PARKED: usize = 64;

/// How far the pipeline is at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Changed records.
    pub raw: Log,
    /// Mapped records.
    pub commands: Log,
    /// Outcomes.
    pub results: Log,
    /// Settled statuses.
    pub statuses: Log,
    /// Messages that need an operator.
    pub dead_letters: Log,
    /// What waits for another try.
    pub parked: Parked,
    /// How far contacts are read.
    pub contacts: Reading,
    /// How far deals are read.
    pub deals: Reading,
}

/// A stream, and what its stage has not done yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Messages in it.
    pub stored: u64,
    /// Sequence of the newest one that ever was.
    pub last: u64,
    /// Those whose stage has not acked them.
    pub undone: u64,
}

/// Scheduled messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parked {
    /// How many.
    pub count: u64,
    /// How many by entity.
    pub by_entity: BTreeMap<Entity, u64>,
    /// When the next one is due, where that was looked at.
    pub next: Option<DateTime<Utc>>,
}

/// How far an entity is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Polls completed.
    pub polls: u64,
    /// Everything modified before this portal time is read.
    pub watermark: Option<DateTime<FixedOffset>>,
    /// Last id of the walk that is under way, if any.
    pub walking: Option<u64>,
    /// When any of this was last stored.
    pub moved: Option<DateTime<Utc>>,
    /// What the portal's clock showed for which it was stored, and how often it is polled.
    pub poll: Option<Poll>,
}

impl Reading {
    /// Returns the age of the watermark, on the portal's clock where what that showed is known.
    pub fn age(&self, now: DateTime<Utc>) -> Option<TimeDelta> {
        let watermark = self.watermark?;
        let portal_now = self.poll.zip(self.moved).map(|(poll, moved)| poll.observed + (now - moved));
        Some(portal_now.unwrap_or(now.fixed_offset()) - watermark)
    }
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
#[error("read {what}: {reason}")]
pub struct GaugeError {
    what: &'static str,
    reason: String,
}

fn failed(what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> GaugeError {
    move |reason| GaugeError { what, reason: reason.to_string() }
}

/// Reads everything, upstream first: what leaves one log while we look is then found in the next.
pub async fn read(broker: &Broker) -> Result<Snapshot, GaugeError> {
    let contacts = reading(broker, Entity::Contact).await?;
    let deals = reading(broker, Entity::Deal).await?;
    let mapper = mapper_consumer().name;
    let raw = log(broker, RAW.name, |name| name == mapper).await?;
    let mut commands = log(broker, COMMANDS.name, |name| name.starts_with("pusher-")).await?;
    let parked = parked(broker).await?;
    commands.stored = commands.stored.saturating_sub(parked.count);
    let writers = Entity::ALL.map(|entity| status_writer_consumer(entity).name);
    let results = log(broker, RESULTS.name, |name| writers.iter().any(|writer| writer == name)).await?;
    let statuses = log(broker, STATUSES.name, |_| false).await?;
    let dead_letters = log(broker, DEAD_LETTERS.name, |_| false).await?;
    Ok(Snapshot { raw, commands, results, statuses, dead_letters, parked, contacts, deals })
}

async fn log(
    broker: &Broker,
    name: &'static str,
    is_stage: impl Fn(&str) -> bool,
) -> Result<Log, GaugeError> {
    let failed = failed(name);
    let stream = stream(broker, name).await?;
    let state = stream.get_info().await.map_err(|error| failed(&error))?.state;
    let mut undone = 0;
    let mut consumers = stream.consumers();
    while let Some(consumer) = consumers.try_next().await.map_err(|error| failed(&error))? {
        if is_stage(&consumer.name) {
            undone += consumer.num_pending + consumer.num_ack_pending as u64;
        }
    }
    Ok(Log { stored: state.messages, last: state.last_sequence, undone })
}

async fn stream(broker: &Broker, name: &'static str) -> Result<Stream<()>, GaugeError> {
    broker.stream(name).await.map_err(|error| failed(name)(&error))
}

async fn parked(broker: &Broker) -> Result<Parked, GaugeError> {
    let failed = failed(LATER);
    let stream = stream(broker, COMMANDS.name).await?;
    let found = by_subject(&stream, LATER).await.map_err(|error| failed(&error))?;
    let count = found.iter().map(|(_, count)| count).sum();
    let by_entity = by_entity(&found);
    let mut next: Option<DateTime<Utc>> = None;
    if found.len() <= MOST_PARKED {
        for (subject, _) in &found {
            // Gone in the meantime, or not in our form: then it is due now.
            let due = match stream.direct_get_last_for_subject(subject.as_str()).await {
                Ok(message) => due(message.headers.get(SCHEDULE).map(|value| value.as_str())),
                Err(_) => None,
            };
            let due = due.unwrap_or(DateTime::UNIX_EPOCH);
            next = Some(next.map_or(due, |next| next.min(due)));
        }
    }
    Ok(Parked { count, by_entity, next })
}

/// Counts the dead letters of each entity; those that do not say whom they are about are left out.
pub async fn letters(broker: &Broker) -> Result<BTreeMap<Entity, u64>, GaugeError> {
    let stream = stream(broker, DEAD_LETTERS.name).await?;
    let found = by_subject(&stream, DEAD_LETTERS.subjects[0]).await;
    found.map(|found| by_entity(&found)).map_err(|error| failed(DEAD_LETTERS.name)(&error))
}

async fn by_subject(stream: &Stream<()>, filter: &str) -> Result<Vec<(String, u64)>, async_nats::Error> {
    let mut subjects = stream.info_with_subjects(filter).await?;
    let mut found = Vec::new();
    while let Some((subject, count)) = subjects.try_next().await? {
        found.push((subject, count as u64));
    }
    Ok(found)
}

fn by_entity(found: &[(String, u64)]) -> BTreeMap<Entity, u64> {
    let mut counts = BTreeMap::new();
    for (record, count) in found.iter().filter_map(|(subject, n)| Some((subjects::record_of(subject)?, n))) {
        *counts.entry(record.entity).or_default() += count;
    }
    counts
}

fn due(schedule: Option<&str>) -> Option<DateTime<Utc>> {
    let moment = schedule?.strip_prefix("@at ")?;
    DateTime::parse_from_rfc3339(moment.trim()).ok().map(|moment| moment.with_timezone(&Utc))
}

async fn reading(broker: &Broker, entity: Entity) -> Result<Reading, GaugeError> {
    let failed = failed(CHECKPOINTS.name);
    let bucket = broker.bucket(&CHECKPOINTS).await.map_err(|error| failed(&error))?;
    let found = bucket.entry(entity.token()).await.map_err(|error| failed(&error))?;
    let Some(found) = found else { return Ok(Reading::default()) };
    let checkpoint: Checkpoint = serde_json::from_slice(&found.value).map_err(|error| failed(&error))?;
    Ok(Reading {
        polls: checkpoint.polls,
        watermark: Some(checkpoint.watermark),
        walking: checkpoint.window.map(|window| window.cursor),
        moved: Some(found.created),
        poll: checkpoint.poll,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_by_entity() {
        let found = [
            ("crm.later.01.contact.5".to_owned(), 1),
            ("dlq.mapper.contact.5".to_owned(), 2),
            ("dlq.pusher.deal.5".to_owned(), 4),
            ("dlq.mapper.unknown.0".to_owned(), 8),
        ];
        assert_eq!(by_entity(&found), BTreeMap::from([(Entity::Contact, 3), (Entity::Deal, 4)]));
    }

    #[test]
    fn a_schedule_tells_when_it_is_due() {
        assert_eq!(due(Some("@at 2026-01-10T10:00:00Z")).unwrap().to_rfc3339(), "2026-01-10T10:00:00+00:00");
        assert_eq!(due(Some("@every 5s")), None);
        assert_eq!(due(None), None);
    }
}
