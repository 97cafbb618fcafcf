//! Reads from NATS what `rollcall status` tells.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer::DeliverPolicy;
use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use runtime::Broker;
use runtime::budget::{Level, SharedBudget, Spending};
use schemas::Outcome;
use schemas::streams::{COMMANDS, RAW, RESULTS, consumers};
use serde::Serialize;

use super::leaders::{self, AtWork};
use crate::results;
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
    /// Messages that it was not given yet.
    pub waiting: u64,
    /// Messages that it has and did not ack.
    pub in_flight: u64,
    /// When it was last given something or acked something.
    pub last_active: Option<DateTime<Utc>>,
    /// Consumers that do not exist.
    pub missing: Vec<String>,
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
    let bucket = SharedBudget::look(broker).await.map_err(|error| error.to_string())?;
    let spendings = Spending::look(broker).await.map_err(|error| error.to_string())?;
    let (stages, outcomes) = (stages(broker).await?, outcomes(broker, now).await?);
    let at_work = leaders::read(broker).await?;
    Ok(Facts { snapshot, stages, outcomes, bucket, spendings, at_work })
}

async fn stages(broker: &Broker) -> Result<Vec<StageFacts>, String> {
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
    let mut stages: Vec<StageFacts> = ["mapper", "pusher", "status-writer"]
        .map(|stage| StageFacts { stage, waiting: 0, in_flight: 0, last_active: None, missing: Vec::new() })
        .into();
    for declared in consumers() {
        let Some(facts) = stages.iter_mut().find(|facts| declared.name.starts_with(facts.stage)) else {
            continue;
        };
        let Some(info) = found.get(&declared.name) else {
            facts.missing.push(declared.name);
            continue;
        };
        facts.waiting += info.num_pending;
        facts.in_flight += info.num_ack_pending as u64;
        let moments = [info.delivered.last_active, info.ack_floor.last_active];
        facts.last_active = moments.into_iter().fold(facts.last_active, Option::max);
    }
    Ok(stages)
}

async fn outcomes(broker: &Broker, now: DateTime<Utc>) -> Result<RecentOutcomes, String> {
    let mut recent = RecentOutcomes::default();
    let since = DeliverPolicy::ByStartTime { start_time: now - TimeDelta::days(1) };
    results::each(broker, since, |ended| recent.note(ended.processed.outcome, ended.stored, now)).await?;
    Ok(recent)
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
