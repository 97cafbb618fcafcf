//! The request budget: a bucket that leaks, filled by every HTTP request.
//!
//! The portal adds one for each request and takes two away each second; past fifty it refuses. This
//! is our side of the same count, pure and without a clock; [`crate::Client`] does the waiting.

use std::time::Duration;

/// Who is asking: people waiting for a change, or a long copy that has time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Fresh changes; may use the whole bucket.
    Live,
    /// A first sync or a replay; always leaves room for `Live`.
    Backfill,
}

/// Whether a request may go out now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Take {
    /// It may, and has been counted.
    Ready,
    /// Not before this much portal time has passed.
    Wait(Duration),
}

/// Room kept free: the portal empties its bucket in steps of a second (two requests at the default
/// leak), so ours may run ahead of it by one step.
const MARGIN_SECONDS: f64 = 1.0;

/// Requests that `Backfill` leaves to `Live`.
const RESERVE: f64 = 8.0;

/// Our count of the portal's request bucket.
///
/// A request in flight counts fully and does not leak: nobody knows yet when the portal will have
/// counted it. Only [`LeakyBucket::settle`] lets it begin to leak, which keeps this count at or above
/// the portal's however long the way there is.
#[derive(Debug, Clone)]
pub struct LeakyBucket {
    capacity: f64,
    leak_per_second: f64,
    level: f64,
    in_flight: u32,
    updated: Duration,
}

impl LeakyBucket {
    /// Returns an empty bucket; times are portal time since any fixed moment.
    pub fn new(capacity: f64, leak_per_second: f64) -> Self {
        Self { capacity, leak_per_second, level: 0.0, in_flight: 0, updated: Duration::ZERO }
    }

    /// Counts a request if there is room for it.
    pub fn take(&mut self, now: Duration, lane: Lane) -> Take {
        self.leak(now);
        let excess = self.level + f64::from(self.in_flight) + 1.0 - self.limit(lane);
        if excess <= 1e-9 {
            self.in_flight += 1;
            return Take::Ready;
        }
        Take::Wait(Duration::from_secs_f64((excess / self.leak_per_second).max(0.001)))
    }

    /// Notes that a request taken before has ended, in whatever way.
    pub fn settle(&mut self, now: Duration) {
        self.leak(now);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.level += 1.0;
    }

    /// Notes that the portal found its bucket full.
    pub fn fill(&mut self, now: Duration) {
        self.leak(now);
        self.level = self.level.max(self.capacity);
    }

    /// Returns the count at this moment, requests in flight included.
    pub fn level(&self, now: Duration) -> f64 {
        let mut leaked = self.clone();
        leaked.leak(now);
        leaked.level + f64::from(leaked.in_flight)
    }

    fn limit(&self, lane: Lane) -> f64 {
        let margin = MARGIN_SECONDS * self.leak_per_second;
        let reserve = if lane == Lane::Backfill { RESERVE } else { 0.0 };
        // Never below one, or a tiny bucket would let nothing through.
        (self.capacity - margin - reserve).max(1.0)
    }

    fn leak(&mut self, now: Duration) {
        let seconds = now.saturating_sub(self.updated).as_secs_f64();
        self.level = (self.level - seconds * self.leak_per_second).max(0.0);
        self.updated = self.updated.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Duration = Duration::ZERO;

    fn burst(bucket: &mut LeakyBucket, now: Duration, lane: Lane) -> usize {
        let mut taken = 0;
        while bucket.take(now, lane) == Take::Ready {
            bucket.settle(now);
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_burst_stops_short_of_the_portals_capacity() {
        let mut bucket = LeakyBucket::new(50.0, 2.0);
        assert_eq!(burst(&mut bucket, START, Lane::Live), 48);
        assert_eq!(bucket.take(START, Lane::Live), Take::Wait(Duration::from_millis(500)));
    }

    #[test]
    fn backfill_leaves_room_for_live_requests() {
        let mut bucket = LeakyBucket::new(50.0, 2.0);
        assert_eq!(burst(&mut bucket, START, Lane::Backfill), 40);
        assert_eq!(burst(&mut bucket, START, Lane::Live), 8);
    }

    #[test]
    fn a_request_in_flight_does_not_leak() {
        let mut bucket = LeakyBucket::new(50.0, 2.0);
        assert_eq!(bucket.take(START, Lane::Live), Take::Ready);
        let later = Duration::from_secs(60);
        assert_eq!(bucket.level(later), 1.0);
        bucket.settle(later);
        assert_eq!(bucket.level(later + Duration::from_millis(500)), 0.0);
    }

    #[test]
    fn a_refusal_fills_the_bucket() {
        let mut bucket = LeakyBucket::new(50.0, 2.0);
        bucket.fill(START);
        assert_eq!(bucket.take(START, Lane::Live), Take::Wait(Duration::from_millis(1_500)));
    }

    /// The portal as its documentation describes it.
    struct Portal {
        level: f64,
        seconds: u64,
    }

    impl Portal {
        fn receive(&mut self, at: Duration) -> bool {
            let steps = at.as_secs() - self.seconds;
            self.level = (self.level - 2.0 * steps as f64).max(0.0);
            self.seconds = at.as_secs();
            self.level += 1.0;
            self.level <= 51.0
        }
    }

    proptest! {
        #[test]
        fn the_portal_never_refuses(
            offset_ms in 0_u64..1_000,
            requests in prop::collection::vec((0_u64..3_000, 0_u64..20_000, any::<bool>(), any::<bool>()), 1..400),
        ) {
            let mut bucket = LeakyBucket::new(50.0, 2.0);
            let mut now = Duration::from_millis(offset_ms);
            let mut arrivals = Vec::new();
            let mut ends: Vec<Duration> = Vec::new();
            for (pause, delay, hurry, live) in requests {
                now += Duration::from_millis(if hurry { 0 } else { pause });
                let lane = if live { Lane::Live } else { Lane::Backfill };
                loop {
                    ends.sort();
                    while ends.first().is_some_and(|end| *end <= now) {
                        bucket.settle(ends.remove(0));
                    }
                    match bucket.take(now, lane) {
                        Take::Ready => break,
                        Take::Wait(wait) => {
                            let next = ends.first().copied().unwrap_or(now + wait);
                            now = next.min(now + wait).max(now + Duration::from_millis(1));
                        }
                    }
                }
                let arrival = now + Duration::from_millis(delay / 2);
                arrivals.push(arrival);
                ends.push(now + Duration::from_millis(delay));
            }
            arrivals.sort();
            let mut portal = Portal { level: 0.0, seconds: 0 };
            for arrival in arrivals {
                prop_assert!(portal.receive(arrival));
            }
        }
    }
}
