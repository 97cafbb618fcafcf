//! Reads from NATS what `rollcall status` tells.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer::{DeliverPolicy, Info};
use async_nats::jetstream::stream::DirectGetErrorKind;
use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use runtime::Broker;
use runtime::budget::{Level, SharedBudget, Spending};
use schemas::streams::{COMMANDS, ConsumerDefinition, RAW, RESULTS, consumers};
use schemas::{Entity, Outcome};
use serde::Serialize;

use super::judge::FROZEN;
use super::leaders::{self, AtWork};
use crate::results;
use crate::stored;
use crate::up::gauge::{self, Snapshot};

/// Everything that is told, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Streams and checkpoints.
    pub snapshot: Snapshot,
    /// The stages by name, upstream first.
    pub stages: Vec<StageFacts>,
    /// What was processed in the last day.
    pub outcomes: RecentOutcomes,
    /// The same by entity.
    pub outcomes_of: BTreeMap<Entity, RecentOutcomes>,
    /// Dead letters by entity.
    pub letters_of: BTreeMap<Entity, u64>,
    /// Bitrix24's request bucket as all processes see it, where anything was asked yet.
    pub bucket: Option<Level>,
    /// Computing time of Bitrix24's methods, as each stage noted it last.
    pub spendings: BTreeMap<&'static str, Spending>,
    /// Which replica is at work where only one may be.
    pub at_work: Vec<AtWork>,
}

/// What the consumers of a stage tell about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageFacts {
    /// Its name.
    pub stage: &'static str,
    /// Those that are there: of the pusher one for each partition.
    pub consumers: Vec<ConsumerFacts>,
    /// Consumers that do not exist.
    pub missing: Vec<String>,
    /// Messages that it has not done, by entity.
    pub undone_of: BTreeMap<Entity, u64>,
}

/// What one consumer tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerFacts {
    /// Its name.
    pub name: String,
    /// Messages that its stage was not given yet.
    pub waiting: u64,
    /// Messages that its stage has and did not ack.
    pub in_flight: u64,
    /// When its stage was last given something, be it for the second time.
    pub given: Option<DateTime<Utc>>,
    /// When its stage last acked something.
    pub acked: Option<DateTime<Utc>>,
    /// When the oldest message that is not done was stored; only looked at where nothing was acked for [`FROZEN`].
    pub oldest: Option<DateTime<Utc>>,
}

impl ConsumerFacts {
    /// Counts the messages that are not done.
    pub fn undone(&self) -> u64 {
        self.waiting + self.in_flight
    }

    /// Returns the last sign of work.
    pub fn last_active(&self) -> Option<DateTime<Utc>> {
        self.given.max(self.acked)
    }
}

impl StageFacts {
    /// Begins with what is known of a stage before looking.
    pub fn new(stage: &'static str) -> StageFacts {
        StageFacts { stage, consumers: Vec::new(), missing: Vec::new(), undone_of: BTreeMap::new() }
    }

    /// Counts the messages that it was not given yet.
    pub fn waiting(&self) -> u64 {
        self.consumers.iter().map(|consumer| consumer.waiting).sum()
    }

    /// Counts the messages that it has and did not ack.
    pub fn in_flight(&self) -> u64 {
        self.consumers.iter().map(|consumer| consumer.in_flight).sum()
    }

    /// Returns when it was last given something or acked something.
    pub fn last_active(&self) -> Option<DateTime<Utc>> {
        self.consumers.iter().filter_map(ConsumerFacts::last_active).max()
    }
}

/// Outcomes of the last hour and day, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecentOutcomes {
    /// By outcome, in the last hour.
    pub last_hour: BTreeMap<String, u64>,
    /// By outcome, in the last 24 hours.
    pub last_day: BTreeMap<String, u64>,
    /// When the newest success among them was stored.
    pub newest_success: Option<DateTime<Utc>>,
}

impl RecentOutcomes {
    /// Counts one.
    pub fn note(&mut self, outcome: Outcome, stored: DateTime<Utc>, now: DateTime<Utc>) {
        // Unit variants serialise to their name.
        let name = serde_json::to_value(outcome).ok().and_then(|value| value.as_str().map(str::to_owned));
        let name = name.unwrap_or_default();
        if now - stored <= TimeDelta::hours(1) {
            *self.last_hour.entry(name.clone()).or_default() += 1;
        }
        *self.last_day.entry(name).or_default() += 1;
        if outcome.is_success() {
            self.newest_success = self.newest_success.max(Some(stored));
        }
    }
}

/// Reads everything.
pub async fn read(broker: &Broker, now: DateTime<Utc>) -> Result<Facts, String> {
    let snapshot = gauge::read(broker).await.map_err(|error| error.to_string())?;
    let letters_of = match snapshot.dead_letters.stored {
        0 => BTreeMap::new(),
        _ => gauge::letters(broker).await.map_err(|error| error.to_string())?,
    };
    let bucket = SharedBudget::look(broker).await.map_err(|error| error.to_string())?;
    let spendings = Spending::look(broker).await.map_err(|error| error.to_string())?;
    let stages = stages(broker, now).await?;
    let (outcomes, outcomes_of) = outcomes(broker, now).await?;
    let at_work = leaders::read(broker).await?;
    Ok(Facts { snapshot, stages, outcomes, outcomes_of, letters_of, bucket, spendings, at_work })
}

async fn stages(broker: &Broker, now: DateTime<Utc>) -> Result<Vec<StageFacts>, String> {
    let mut found = BTreeMap::new();
    for name in [RAW.name, COMMANDS.name, RESULTS.name] {
        let stream = broker.stream(name).await.map_err(|error| error.to_string())?;
        let mut infos = stream.consumers();
        while let Some(info) =
            infos.try_next().await.map_err(|error| format!("consumers of {name}: {error}"))?
        {
            found.insert(info.name.clone(), info);
        }
    }
    let mut stages = ["mapper", "pusher", "status-writer"].map(StageFacts::new);
    for declared in consumers() {
        let Some(facts) = stages.iter_mut().find(|facts| declared.name.starts_with(facts.stage)) else {
            continue;
        };
        let Some(info) = found.get(&declared.name) else {
            facts.missing.push(declared.name);
            continue;
        };
        let consumer = consumer(broker, &declared, info, now).await?;
        for (entity, undone) in undone_of(broker, &declared, info, &consumer).await? {
            *facts.undone_of.entry(entity).or_default() += undone;
        }
        facts.consumers.push(consumer);
    }
    Ok(stages.into())
}

async fn consumer(
    broker: &Broker,
    declared: &ConsumerDefinition,
    info: &Info,
    now: DateTime<Utc>,
) -> Result<ConsumerFacts, String> {
    let mut facts = ConsumerFacts {
        name: declared.name.clone(),
        waiting: info.num_pending,
        in_flight: info.num_ack_pending as u64,
        given: info.delivered.last_active,
        acked: info.ack_floor.last_active,
        oldest: None,
    };
    if facts.undone() > 0 && facts.acked.is_none_or(|acked| now - acked >= FROZEN) {
        let stream = broker.stream(declared.stream).await.map_err(|error| error.to_string())?;
        let first = Some(info.ack_floor.stream_sequence + 1);
        let oldest = stream.direct_get_next_for_subject(declared.filter.as_str(), first).await;
        facts.oldest = match oldest {
            Ok(message) => Some(message.time),
            // Done in this very moment.
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => None,
            Err(error) => return Err(format!("read {}: {error}", declared.stream)),
        };
    }
    Ok(facts)
}

/// Tells apart whose messages are not done. Where one consumer has those of both entities, the server counts one's.
async fn undone_of(
    broker: &Broker,
    declared: &ConsumerDefinition,
    info: &Info,
    facts: &ConsumerFacts,
) -> Result<BTreeMap<Entity, u64>, String> {
    let undone = facts.undone();
    if let Some(entity) = Entity::ALL.into_iter().find(|entity| declared.name.ends_with(entity.token())) {
        return Ok(BTreeMap::from([(entity, undone)]));
    }
    if undone == 0 {
        return Ok(BTreeMap::new());
    }
    let filter = declared.filter.replace('>', &format!("{}.*", Entity::Contact));
    let first = info.ack_floor.stream_sequence + 1;
    let counted = stored::count(broker, declared.stream, &filter, first).await;
    // What was published since the consumer was looked at is not among its own.
    let contacts = counted.map_err(|failure| failure.text)?.min(undone);
    Ok(BTreeMap::from([(Entity::Contact, contacts), (Entity::Deal, undone - contacts)]))
}

async fn outcomes(
    broker: &Broker,
    now: DateTime<Utc>,
) -> Result<(RecentOutcomes, BTreeMap<Entity, RecentOutcomes>), String> {
    let (mut all, mut of) = (RecentOutcomes::default(), BTreeMap::<Entity, RecentOutcomes>::new());
    let since = DeliverPolicy::ByStartTime { start_time: now - TimeDelta::days(1) };
    results::each(broker, since, |ended| {
        let outcome = ended.processed.outcome;
        all.note(outcome, ended.stored, now);
        of.entry(ended.record.entity).or_default().note(outcome, ended.stored, now);
    })
    .await?;
    Ok((all, of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_by_the_hour_and_by_the_day() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let ago = |minutes| now - TimeDelta::minutes(minutes);
        let mut recent = RecentOutcomes::default();
        recent.note(Outcome::Created, ago(90), now);
        recent.note(Outcome::Refused, ago(5), now);
        recent.note(Outcome::AlreadyThere, ago(30), now);
        let counts = |pairs: &[(&str, u64)]| {
            pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(recent.last_hour, counts(&[("already_there", 1), ("refused", 1)]));
        assert_eq!(recent.last_day, counts(&[("already_there", 1), ("created", 1), ("refused", 1)]));
        assert_eq!(recent.newest_success, Some(ago(30)));
    }
}
