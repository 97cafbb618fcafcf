//! One request budget for all processes of a host: a leaky bucket in a key-value bucket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use schemas::streams::BUDGET;
use serde::{Deserialize, Serialize};

use crate::broker::{Broker, BrokerError, Bucket, FULL_DISK, jitter};
use crate::door::Door;
use crate::metrics::{Counter, Gauge, Metrics, PortalCounts, Refresh};
use crate::outside;

/// Who asks: live work goes before backfill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Polls and the statuses of fresh edits.
    Live,
    /// First syncs and long queues of statuses.
    Backfill,
}

/// The size of the bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketSize {
    /// Requests that fit at once.
    pub capacity: f64,
    /// Requests that drain each second on the far side's clock.
    pub leak_per_second: f64,
    /// How fast the far side's clock runs against ours.
    pub clock_speed: f64,
}

/// Requests that are never used: other clocks and other integrations need some room.
const MARGIN: f64 = 2.0;

/// Requests that backfill leaves to live work.
const LIVE_RESERVE: f64 = 6.0;

/// Difference between the clocks of processes that is nothing to worry about.
const SKEW: chrono::Duration = chrono::Duration::seconds(2);

/// Pause after a write to the bucket that failed otherwise than by a lost race.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// The state of the bucket, as all processes see it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Requests in the bucket at `at`.
    pub level: f64,
    /// When that was.
    pub at: DateTime<Utc>,
}

impl Level {
    /// Returns an empty bucket.
    pub fn empty(now: DateTime<Utc>) -> Level {
        Level { level: 0.0, at: now }
    }

    /// Returns the level as of now where it was noted by a clock that has been set back since.
    ///
    /// Nothing would drain until the clock had caught up, which may be an hour.
    fn noted_in_the_future(self, now: DateTime<Utc>) -> Option<Level> {
        (self.at - now > SKEW).then_some(Level { level: self.level, at: now })
    }

    /// Returns how much of it is left at a later time.
    fn at_time(self, size: BucketSize, now: DateTime<Utc>) -> f64 {
        let leak = size.leak_per_second * size.clock_speed;
        let elapsed = (now - self.at).to_std().unwrap_or(Duration::ZERO).as_secs_f64();
        (self.level - elapsed * leak).max(0.0)
    }

    /// Adds one request, or says how long to wait before asking again.
    pub fn take(self, size: BucketSize, lane: Lane, now: DateTime<Utc>) -> Result<Level, Duration> {
        let leak = size.leak_per_second * size.clock_speed;
        let level = self.at_time(size, now);
        let reserve = if lane == Lane::Backfill { LIVE_RESERVE } else { 0.0 };
        let room = size.capacity - MARGIN - reserve - level;
        if room >= 1.0 {
            return Ok(Level { level: level + 1.0, at: now.max(self.at) });
        }
        Err(Duration::from_secs_f64(((1.0 - room) / leak).clamp(0.001, 60.0)))
    }
}

/// The bucket that all processes share.
#[derive(Clone)]
pub struct SharedBudget {
    broker: Broker,
    bucket: Bucket,
    size: BucketSize,
    metrics: BucketMetrics,
    seen: Arc<Mutex<Option<Level>>>,
    door: Option<Arc<Door>>,
    _refresh: Arc<Refresh>,
}

/// What is told of the bucket.
#[derive(Clone)]
pub(crate) struct BucketMetrics {
    level: Gauge,
    capacity: Gauge,
    waits: Counter,
}

impl BucketMetrics {
    pub(crate) fn register(metrics: &Metrics) -> BucketMetrics {
        BucketMetrics {
            level: metrics.gauge(
                "rollcall_bitrix24_bucket_requests",
                "Requests in Bitrix24's bucket, all processes together, as of this stage's last request.",
            ),
            capacity: metrics.gauge(
                "rollcall_bitrix24_bucket_capacity_requests",
                "Requests that fit into Bitrix24's bucket.",
            ),
            waits: metrics.counter(
                "rollcall_bitrix24_bucket_waits_total",
                "Times that a request had to wait because the bucket was full.",
            ),
        }
    }
}

const KEY: &str = "bitrix24";

impl SharedBudget {
    /// Opens it.
    pub async fn open(broker: &Broker, size: BucketSize) -> Result<SharedBudget, BrokerError> {
        let bucket = broker.bucket(&BUDGET).await?;
        let metrics = BucketMetrics::register(broker.metrics());
        metrics.capacity.set(size.capacity);
        let seen: Arc<Mutex<Option<Level>>> = Arc::default();
        let (gauge, newest) = (metrics.level.clone(), Arc::clone(&seen));
        let refresh = broker.metrics().on_scrape(move || {
            let level = *newest.lock().unwrap_or_else(PoisonError::into_inner);
            gauge.set(level.map_or(0.0, |level| level.at_time(size, outside::now())));
        });
        let (broker, _refresh) = (broker.clone(), Arc::new(refresh));
        Ok(SharedBudget { broker, bucket, size, metrics, seen, door: None, _refresh })
    }

    /// Has requests wait, too, while Bitrix24 refuses the webhook; what it says then has to be [told](Self::told).
    pub async fn behind_door(self) -> Result<SharedBudget, BrokerError> {
        let door = Door::open(&self.broker, &BUDGET, self.size.clock_speed).await?;
        Ok(SharedBudget { door: Some(Arc::new(door)), ..self })
    }

    /// Takes in whether Bitrix24 took the webhook for an answer to be had.
    pub async fn told(&self, is_let_in: bool) {
        match &self.door {
            Some(door) if is_let_in => door.let_in().await,
            // Ends otherwise only as the stage is to stop.
            Some(door) => drop(door.refused().await),
            None => {}
        }
    }

    /// Returns the state of the bucket as it was noted last, for people.
    pub async fn look(broker: &Broker) -> Result<Option<Level>, BrokerError> {
        let stored = broker.bucket(&BUDGET).await?.get(KEY).await?;
        Ok(stored.and_then(|(value, _)| serde_json::from_slice(&value).ok()))
    }

    /// Waits until one request may be made; ends early only when the stage is to stop.
    pub async fn acquire(&self, lane: Lane) -> Result<(), BrokerError> {
        if let Some(door) = &self.door {
            door.pass().await?;
        }
        loop {
            let stored = self.bucket.get(KEY).await?;
            let now = outside::now();
            let (level, revision) = match &stored {
                Some((value, revision)) => {
                    (serde_json::from_slice(value).unwrap_or(Level::empty(now)), Some(*revision))
                }
                None => (Level::empty(now), None),
            };
            let (next, wait) = match (level.noted_in_the_future(now), level.take(self.size, lane, now)) {
                (Some(corrected), _) => (corrected, Some(Duration::ZERO)),
                (None, Ok(taken)) => (taken, None),
                (None, Err(wait)) => {
                    self.note(level);
                    self.metrics.waits.add(1);
                    self.broker.pause(wait).await?;
                    continue;
                }
            };
            let value = Bytes::from(serde_json::to_vec(&next).unwrap_or_default());
            let wait = match (self.bucket.compare_and_put(KEY, value, revision).await, wait) {
                (Ok(_), None) => {
                    self.note(next);
                    return Ok(());
                }
                (Ok(_), Some(wait)) => wait,
                // Another process took one at the same time.
                (Err(BrokerError::Conflict { .. }), _) => jitter(Duration::from_millis(10)),
                (Err(error), _) => {
                    tracing::warn!("No request to Bitrix24 can be booked: {error}. {FULL_DISK}");
                    FAILED_PAUSE
                }
            };
            self.broker.pause(wait).await?;
        }
    }

    fn note(&self, level: Level) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(level);
    }
}

/// The stages that call Bitrix24, and note what that has cost.
pub const CALLERS: [&str; 2] = ["producer", "status-writer"];

/// Shortest time between two notes of a stage.
const NOTE_PAUSE: Duration = Duration::from_secs(10);

/// A note that still says the same is made again after this time, so that its age tells whether it still holds.
const NOTE_AGE: chrono::Duration = chrono::Duration::seconds(60);

/// Computing time (`operating`) that Bitrix24's methods have used, as a stage knows it from the answers; for people.
///
/// Nobody decides by it: each stage believes the answers that it gets itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spending {
    /// When it was noted.
    pub at: DateTime<Utc>,
    /// Seconds that the portal grants a method in ten minutes.
    pub limit_seconds: f64,
    /// Seconds used in the last ten minutes, by method.
    pub seconds: BTreeMap<String, f64>,
    /// Requests that fit into the portal's bucket.
    pub bucket_capacity: f64,
}

impl Spending {
    fn of(counts: &PortalCounts, size: BucketSize, now: DateTime<Utc>) -> Spending {
        let used = counts.methods.iter().filter(|method| method.operating_used >= 0.05);
        // Tenths are enough for people, and let a quiet stage write less.
        let tenths = |seconds: f64| (seconds * 10.0).round() / 10.0;
        Spending {
            at: now,
            limit_seconds: counts.operating_limit,
            seconds: used.map(|method| (method.method.clone(), tenths(method.operating_used))).collect(),
            bucket_capacity: size.capacity,
        }
    }

    /// Tells whether this is worth a write after what was noted last.
    fn is_news(&self, noted: Option<&Spending>) -> bool {
        let Some(noted) = noted else { return true };
        let same = Spending { at: self.at, ..noted.clone() } == *self;
        !same || !self.seconds.is_empty() && self.at - noted.at >= NOTE_AGE
    }

    /// Returns what each stage noted last.
    pub async fn look(broker: &Broker) -> Result<BTreeMap<&'static str, Spending>, BrokerError> {
        let bucket = broker.bucket(&BUDGET).await?;
        let mut found = BTreeMap::new();
        for stage in CALLERS {
            let stored = bucket.get(&key_of(stage)).await?;
            let spending = stored.and_then(|(value, _)| serde_json::from_slice(&value).ok());
            found.extend(spending.map(|spending| (stage, spending)));
        }
        Ok(found)
    }

    /// Notes again and again what a stage has used, until it is to stop.
    pub async fn keep_noting(
        broker: Broker,
        stage: &'static str,
        size: BucketSize,
        counts: impl Fn() -> PortalCounts,
    ) -> Result<(), BrokerError> {
        let bucket = broker.bucket(&BUDGET).await?;
        let mut noted = None;
        loop {
            let spending = Spending::of(&counts(), size, outside::now());
            if spending.is_news(noted.as_ref()) {
                let value = serde_json::to_vec(&spending).unwrap_or_default();
                bucket.put(&key_of(stage), value.into()).await?;
                noted = Some(spending);
            }
            broker.pause(NOTE_PAUSE).await?;
        }
    }
}

fn key_of(stage: &str) -> String {
    format!("operating.{stage}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::MethodCounts;
    use proptest::prelude::*;

    const SIZE: BucketSize = BucketSize { capacity: 50.0, leak_per_second: 2.0, clock_speed: 1.0 };

    proptest! {
        #[test]
        fn the_portals_own_bucket_never_runs_over(waits in proptest::collection::vec((0i64..3_000, any::<bool>()), 1..300)) {
            let mut now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
            let mut ours = Level::empty(now);
            let (mut theirs, mut at) = (0.0_f64, now);
            for (wait_ms, live) in waits {
                now += chrono::Duration::milliseconds(wait_ms);
                let lane = if live { Lane::Live } else { Lane::Backfill };
                if let Ok(taken) = ours.take(SIZE, lane, now) {
                    ours = taken;
                    theirs = (theirs - (now - at).as_seconds_f64() * 2.0).max(0.0) + 1.0;
                    at = now;
                    prop_assert!(theirs <= 50.0, "{theirs}");
                }
            }
        }
    }

    #[test]
    fn a_quiet_stage_writes_little_and_a_busy_one_not_too_often() {
        let now = Utc::now();
        let of = |used: f64, seconds: i64| {
            let method = MethodCounts {
                method: "crm.deal.list".into(),
                operating_used: used,
                ..MethodCounts::default()
            };
            let counts =
                PortalCounts { operating_limit: 480.0, methods: vec![method], ..PortalCounts::default() };
            Spending::of(&counts, SIZE, now + chrono::Duration::seconds(seconds))
        };
        assert!(of(0.0, 0).is_news(None));
        assert!(!of(0.0, 3_600).is_news(Some(&of(0.0, 0))), "nothing used is said once");
        assert!(!of(3.01, 10).is_news(Some(&of(3.0, 0))));
        assert!(of(3.2, 10).is_news(Some(&of(3.0, 0))));
        assert!(of(3.0, 60).is_news(Some(&of(3.0, 0))), "else nobody knew whether it still holds");
        assert_eq!(of(3.21, 0).seconds, BTreeMap::from([("crm.deal.list".to_owned(), 3.2)]));
    }

    #[test]
    fn a_clock_set_back_by_an_hour_stops_nothing() {
        let now = Utc::now();
        let full = Level { level: 48.0, at: now + chrono::Duration::hours(1) };
        let corrected = full.noted_in_the_future(now).unwrap();
        assert_eq!(corrected.noted_in_the_future(now), None);
        assert!(corrected.take(SIZE, Lane::Live, now).is_err());
        assert!(corrected.take(SIZE, Lane::Live, now + chrono::Duration::seconds(1)).is_ok());
    }

    #[test]
    fn backfill_leaves_room_for_live_work() {
        let now = Utc::now();
        let mut level = Level::empty(now);
        let mut backfill = 0;
        while let Ok(taken) = level.take(SIZE, Lane::Backfill, now) {
            level = taken;
            backfill += 1;
        }
        assert_eq!(backfill, 42);
        assert!(level.take(SIZE, Lane::Live, now).is_ok());
    }
}
