//! The portal's two limits: requests in flight per address, and seconds of work per method.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Seconds during which calls are added up into one bucket.
const BUCKET_SPAN: f64 = 60.0;
/// Seconds after which a bucket is forgotten, counted from its first call.
const BUCKET_LIFE: f64 = 600.0;

/// How the request counter falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leak {
    /// By the whole leak once a second, as documented.
    Stepwise,
    /// Continuously.
    Smooth,
}

/// The size of the request counter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateLimit {
    /// A counter above this refuses; `null` switches the limit off.
    pub capacity: Option<f64>,
    pub leak_per_second: f64,
    pub leak: Leak,
    /// Whether a refused request also fills the counter.
    pub refused_fill: bool,
}

/// The request counters of all source addresses.
#[derive(Debug, Default)]
pub struct RequestCounters {
    levels: HashMap<IpAddr, Level>,
    highest: f64,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    value: f64,
    leaked_at: f64,
}

impl RequestCounters {
    /// Counts a request at this portal time; false means that it is refused.
    pub fn admit(&mut self, source: IpAddr, now: f64, limit: RateLimit) -> bool {
        let Some(capacity) = limit.capacity else { return true };
        let level = self.levels.entry(source).or_insert(Level { value: 0.0, leaked_at: now });
        level.leak(now, limit);
        let admitted = level.value <= capacity;
        if admitted || limit.refused_fill {
            level.value += 1.0;
        }
        self.highest = self.highest.max(level.value);
        admitted
    }

    /// Returns the highest level ever seen.
    pub fn highest(&self) -> f64 {
        self.highest
    }

    /// Forgets everything counted so far.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Level {
    fn leak(&mut self, now: f64, limit: RateLimit) {
        // A clock set back must not freeze the counter until it has caught up.
        if now < self.leaked_at {
            self.leaked_at = now;
        }
        let passed = match limit.leak {
            Leak::Stepwise => now.floor() - self.leaked_at.floor(),
            Leak::Smooth => now - self.leaked_at,
        };
        self.value = (self.value - passed * limit.leak_per_second).max(0.0);
        self.leaked_at = now;
    }
}

/// Seconds of work of every method during the last ten minutes.
#[derive(Debug, Default)]
pub struct Operating {
    methods: HashMap<String, VecDeque<Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    started: f64,
    seconds: f64,
}

/// The counter's state as answers report it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperatingState {
    pub seconds: f64,
    /// When the oldest bucket drops out.
    pub reset_at: f64,
}

impl Operating {
    /// Adds the seconds of a finished call.
    pub fn add(&mut self, method: &str, seconds: f64, now: f64) {
        let buckets = self.methods.entry(method.to_owned()).or_default();
        forget_old(buckets, now);
        match buckets.back_mut() {
            Some(bucket) if now < bucket.started + BUCKET_SPAN => bucket.seconds += seconds,
            _ => buckets.push_back(Bucket { started: now, seconds }),
        }
    }

    /// Returns what is counted for a method now.
    pub fn state(&mut self, method: &str, now: f64) -> OperatingState {
        let Some(buckets) = self.methods.get_mut(method) else {
            return OperatingState { seconds: 0.0, reset_at: now + BUCKET_LIFE };
        };
        forget_old(buckets, now);
        let seconds = buckets.iter().map(|bucket| bucket.seconds).sum();
        let oldest = buckets.front().map_or(now, |bucket| bucket.started);
        OperatingState { seconds, reset_at: oldest + BUCKET_LIFE }
    }

    /// Returns every method's present seconds.
    pub fn all(&mut self, now: f64) -> Vec<(String, OperatingState)> {
        let methods: Vec<String> = self.methods.keys().cloned().collect();
        methods.into_iter().map(|method| (method.clone(), self.state(&method, now))).collect()
    }

    /// Forgets everything counted so far.
    pub fn reset(&mut self) {
        self.methods.clear();
    }
}

fn forget_old(buckets: &mut VecDeque<Bucket>, now: f64) {
    // A bucket "from the future" is left over from a clock that was set back.
    buckets.retain(|bucket| now < bucket.started + BUCKET_LIFE && bucket.started <= now + BUCKET_SPAN);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn limit() -> RateLimit {
        RateLimit { capacity: Some(50.0), leak_per_second: 2.0, leak: Leak::Stepwise, refused_fill: false }
    }

    fn admitted(counters: &mut RequestCounters, at: f64, tries: usize) -> usize {
        (0..tries).filter(|_| counters.admit(HERE, at, limit())).count()
    }

    #[test]
    fn a_burst_ends_when_the_counter_is_above_its_capacity() {
        let mut counters = RequestCounters::default();
        assert_eq!(admitted(&mut counters, 100.0, 80), 51);
        assert_eq!(admitted(&mut counters, 100.9, 5), 0);
        assert_eq!(admitted(&mut counters, 101.0, 5), 2);
    }

    #[test]
    fn addresses_have_counters_of_their_own() {
        let mut counters = RequestCounters::default();
        admitted(&mut counters, 100.0, 60);
        assert!(counters.admit(IpAddr::from([10, 0, 0, 1]), 100.0, limit()));
    }

    #[test]
    fn refused_requests_fill_only_when_told_to() {
        let filling = RateLimit { refused_fill: true, ..limit() };
        let mut counters = RequestCounters::default();
        let burst = (0..100).filter(|_| counters.admit(HERE, 0.0, filling)).count();
        assert_eq!(burst, 51);
        assert!(!counters.admit(HERE, 20.0, filling));
        assert!(counters.admit(HERE, 30.0, filling));
    }

    #[test]
    fn a_clock_set_back_does_not_freeze_the_counter() {
        let mut counters = RequestCounters::default();
        admitted(&mut counters, 10_000.0, 60);
        assert_eq!(admitted(&mut counters, 5_000.0, 1), 0);
        assert_eq!(admitted(&mut counters, 5_001.0, 5), 2);
    }

    #[test]
    fn operating_seconds_live_ten_minutes_from_the_first_call_of_their_minute() {
        let mut operating = Operating::default();
        operating.add("m", 1.0, 1_000.0);
        operating.add("m", 2.0, 1_059.0);
        operating.add("m", 4.0, 1_060.0);
        assert_eq!(operating.state("m", 1_100.0), OperatingState { seconds: 7.0, reset_at: 1_600.0 });
        assert_eq!(operating.state("m", 1_600.0), OperatingState { seconds: 4.0, reset_at: 1_660.0 });
        assert_eq!(operating.state("m", 1_700.0).seconds, 0.0);
        assert_eq!(operating.state("other", 1_100.0).seconds, 0.0);
    }
}
