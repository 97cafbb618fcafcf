//! One request budget for all processes of a host: a leaky bucket in a key-value bucket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use schemas::streams::BUDGET;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::broker::{Broker, BrokerError, Bucket, Entry, FULL_DISK, jitter};
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

/// Longest way to the server that counts for a level noted there. Whoever is farther away asks less often than the bucket
/// drains; and a clock of NATS that steps on gives away no more than this drains, which the margin covers.
const LONGEST_WAY: chrono::Duration = chrono::Duration::seconds(1);

/// How often it is tried to note that the portal's bucket is full. The next refusal notes it, too.
const NOTE_TRIES: u32 = 5;

/// Added to each wait by chance: of two who wait for the same request neither is always the first.
const BY_CHANCE: Duration = Duration::from_millis(50);

/// Pause after a write to the bucket that failed otherwise than by a lost race.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// The state of the bucket, as all processes see it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Requests in the bucket at `at`.
    pub level: f64,
    /// When that was, by the clock of NATS: those of the hosts may differ.
    pub at: DateTime<Utc>,
}

impl Level {
    /// Returns an empty bucket.
    pub fn empty(now: DateTime<Utc>) -> Level {
        Level { level: 0.0, at: now }
    }

    /// Takes a level as it was stored at a time. What its writer took for that time is no later, and not much earlier.
    fn stored(self, created: DateTime<Utc>) -> Level {
        Level { at: self.at.clamp(created - LONGEST_WAY, created), ..self }
    }

    /// Returns the same as of a later time.
    fn drained(self, size: BucketSize, now: DateTime<Utc>) -> Level {
        Level { level: self.at_time(size, now), at: now.max(self.at) }
    }

    /// Returns how much of it is left at a later time.
    fn at_time(self, size: BucketSize, now: DateTime<Utc>) -> f64 {
        let leak = size.leak_per_second * size.clock_speed;
        let elapsed = (now - self.at).to_std().unwrap_or(Duration::ZERO).as_secs_f64();
        (self.level - elapsed * leak).max(0.0)
    }

    /// Returns a full bucket, as the portal found it; `None` where that much is known already.
    fn overrun(self, size: BucketSize, now: DateTime<Utc>) -> Option<Level> {
        let drained = self.drained(size, now);
        (drained.level < size.capacity - 1.0).then_some(Level { level: size.capacity, ..drained })
    }

    /// Adds one request, or says how long to wait before asking again.
    pub fn take(self, size: BucketSize, lane: Lane, now: DateTime<Utc>) -> Result<Level, Duration> {
        let leak = size.leak_per_second * size.clock_speed;
        let drained = self.drained(size, now);
        let reserve = if lane == Lane::Backfill { LIVE_RESERVE } else { 0.0 };
        let room = size.capacity - MARGIN - reserve - drained.level;
        if room >= 1.0 {
            return Ok(Level { level: drained.level + 1.0, ..drained });
        }
        Err(Duration::from_secs_f64(((1.0 - room) / leak).clamp(0.001, 60.0)))
    }
}

/// The clock of NATS, as one process knows it: never ahead of it, and behind it by the way of a message at most.
#[derive(Clone, Copy, Debug, Default)]
struct ServerClock {
    /// A time that it showed, and when it did so at the latest.
    known: Option<(DateTime<Utc>, Instant)>,
    /// The newest revision that was read, and when: what is newer was stored since.
    read: Option<(u64, Instant)>,
    /// The revision that this process wrote last, and when that was known to be stored.
    written: Option<(u64, Instant)>,
    /// Known from an entry of its own: from those of others it knows only that they were stored before it read them, so
    /// that it would always come too late.
    is_sure: bool,
}

impl ServerClock {
    /// Notes that an entry is stored.
    fn note_written(&mut self, revision: u64, now: Instant) {
        self.written = Some((revision, now));
    }

    /// Returns what the clock shows at least, from an entry that was read: it was stored before.
    fn read(&mut self, revision: u64, created: DateTime<Utc>, now: Instant) -> DateTime<Utc> {
        if let Some((_, then)) = self.written.take_if(|(written, _)| *written == revision) {
            self.known = Some((created, then));
            self.is_sure = true;
        }
        let reckoned = self.known.map_or(created, |(shown, then)| shown + (now - then)).max(created);
        // Should the clock have gone back: what was not there when it was looked last is no older than that look.
        let looked = self.read.replace((revision, now)).filter(|(before, _)| *before < revision);
        let shown = looked.map_or(reckoned, |(_, looked)| reckoned.min(created + (now - looked)));
        self.known = Some((shown, now));
        shown
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
    clock: Arc<Mutex<ServerClock>>,
    door: Option<Arc<Door>>,
    _refresh: Arc<Refresh>,
}

/// What the key holds.
struct Booked {
    level: Level,
    /// To replace; `None` where there is none yet.
    revision: Option<u64>,
    /// What time it is for NATS.
    now: DateTime<Utc>,
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
        Ok(SharedBudget { broker, bucket, size, metrics, seen, clock: Arc::default(), door: None, _refresh })
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
            let Booked { level, revision, now } = self.booked().await?;
            let (next, is_taken) = match level.take(self.size, lane, now) {
                Ok(taken) => (taken, true),
                // What it says is stored once more: that shows what time it is for NATS.
                Err(_) if !self.clock().is_sure => (level.drained(self.size, now), false),
                Err(wait) => {
                    self.note(level);
                    self.metrics.waits.add(1);
                    self.broker.pause(wait + jitter(BY_CHANCE)).await?;
                    continue;
                }
            };
            let wait = match self.book(next, revision).await {
                Ok(()) if is_taken => return Ok(()),
                Ok(()) => continue,
                // Another process took one at the same time.
                Err(BrokerError::Conflict { .. }) => jitter(Duration::from_millis(10)),
                Err(error) => {
                    tracing::warn!("No request to Bitrix24 can be booked: {error}. {FULL_DISK}");
                    FAILED_PAUSE
                }
            };
            self.broker.pause(wait).await?;
        }
    }

    /// Takes in that the portal refused a request because its own bucket is full: another caller at the same address, or a
    /// level that was lost.
    pub async fn overrun(&self) {
        for _ in 0..NOTE_TRIES {
            let noted = match self.booked().await {
                Ok(Booked { level, revision, now }) => match level.overrun(self.size, now) {
                    Some(full) => self.book(full, revision).await,
                    None => return,
                },
                Err(error) => Err(error),
            };
            match noted {
                Ok(()) => return,
                Err(BrokerError::Conflict { .. }) => {}
                // The portal's own bucket drains meanwhile.
                Err(error) => {
                    tracing::warn!("That Bitrix24's bucket is full cannot be noted: {error}");
                    return;
                }
            }
        }
    }

    /// Reads what is booked.
    async fn booked(&self) -> Result<Booked, BrokerError> {
        Ok(match self.bucket.entry(KEY).await? {
            Some(Entry { value, revision, created }) => {
                let now = self.clock().read(revision, created, Instant::now());
                let level = serde_json::from_slice(&value).unwrap_or(Level::empty(now));
                Booked { level: level.stored(created), revision: Some(revision), now }
            }
            // Its first reader finds out what NATS' clock shows.
            None => Booked { level: Level::empty(outside::now()), revision: None, now: outside::now() },
        })
    }

    /// Stores a level in place of the one that was read.
    async fn book(&self, level: Level, revision: Option<u64>) -> Result<(), BrokerError> {
        let value = Bytes::from(serde_json::to_vec(&level).unwrap_or_default());
        let written = self.bucket.compare_and_put(KEY, value, revision).await?;
        self.clock().note_written(written, Instant::now());
        self.note(level);
        Ok(())
    }

    fn clock(&self) -> MutexGuard<'_, ServerClock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
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

    proptest! {
        /// Hosts whose clocks differ by hours, a server whose clock is another again, and messages that take their time.
        #[test]
        fn nor_does_it_where_every_hosts_clock_is_another(
            tries in proptest::collection::vec((0i64..3_000, 0usize..3, any::<bool>(), 0i64..300), 1..300),
        ) {
            let (server, begun) = (DateTime::from_timestamp(1_700_000_000, 0).unwrap(), Instant::now());
            let mut clocks = [ServerClock::default(); 3];
            let (mut stored, mut revision) = ((Level::empty(server), server), 1);
            let (mut theirs, mut at, mut passed) = (0.0_f64, 0, 0);
            for (wait_ms, host, live, way_ms) in tries {
                passed += wait_ms;
                let instant = |ms: i64| begun + Duration::from_millis(ms as u64);
                let now = clocks[host].read(revision, stored.1, instant(passed));
                prop_assert!(now <= server + chrono::Duration::milliseconds(passed));
                let lane = if live { Lane::Live } else { Lane::Backfill };
                if let Ok(taken) = stored.0.stored(stored.1).take(SIZE, lane, now) {
                    passed += way_ms;
                    stored = (taken, server + chrono::Duration::milliseconds(passed));
                    revision += 1;
                    passed += way_ms;
                    clocks[host].note_written(revision, instant(passed));
                    theirs = (theirs - (passed - at) as f64 / 1_000.0 * 2.0).max(0.0) + 1.0;
                    at = passed;
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
    fn what_was_stored_by_a_clock_that_is_wrong_drains_like_any_other() {
        let now = Utc::now();
        for hours in [-1, 0, 1] {
            let full = Level { level: 48.0, at: now + chrono::Duration::hours(hours) }.stored(now);
            assert!(
                full.take(SIZE, Lane::Live, now + chrono::Duration::milliseconds(400)).is_err() || hours < 0
            );
            assert!(full.take(SIZE, Lane::Live, now + chrono::Duration::seconds(1)).is_ok());
            assert!(full.at_time(SIZE, now) >= 48.0 - MARGIN, "no more is given away than is kept back");
        }
    }

    #[test]
    fn what_the_portal_refuses_shows_that_its_bucket_is_full() {
        let now = Utc::now();
        let full = Level::empty(now).overrun(SIZE, now).unwrap();
        assert!(full.take(SIZE, Lane::Live, now).is_err());
        assert!(full.take(SIZE, Lane::Live, now + chrono::Duration::milliseconds(1_500)).is_ok());
        assert_eq!(full.overrun(SIZE, now), None, "several may be refused at once");
        assert_eq!(
            full.overrun(SIZE, now + chrono::Duration::seconds(10)).map(|level| level.level),
            Some(50.0)
        );
    }

    #[test]
    fn the_servers_clock_is_known_from_what_is_stored_and_never_thought_ahead() {
        let (shown, begun) = (Utc::now(), Instant::now());
        let at = |seconds: i64| shown + chrono::Duration::seconds(seconds);
        let later = |seconds| begun + Duration::from_secs(seconds);
        let mut clock = ServerClock::default();
        // Long since stored, by whomever: only from now on does time pass.
        assert_eq!(clock.read(1, at(0), later(0)), at(0));
        assert_eq!(clock.read(1, at(0), later(3)), at(3));
        assert!(!clock.is_sure);
        // An entry of our own tells when it was stored.
        clock.note_written(2, later(4));
        assert_eq!(clock.read(2, at(3_600), later(6)), at(3_602));
        assert!(clock.is_sure);
        assert_eq!(clock.read(3, at(3_605), later(7)), at(3_605), "somebody's entry shows that it is later");
        // The clock of the server is set back, or that of the next leader is behind.
        clock.note_written(4, later(8));
        assert_eq!(clock.read(4, at(60), later(9)), at(61));
        // It goes back again, and this time another process writes: that was since the last look.
        assert_eq!(clock.read(5, at(10), later(12)), at(13));
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
