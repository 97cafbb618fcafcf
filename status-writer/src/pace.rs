//! How many updates go into one request, and how long a request waits to be filled.
//!
//! Pure: measured seconds and moments come in as arguments. All times are the portal's.

use std::time::Duration;

/// Updates beside which the read-back still fits into a batch.
pub const MOST_UPDATES: usize = 49;

/// Updates in the first batch, before anything was measured. At the 5 s that the slowest known portal
/// takes for one, this stays below the portal's 60 s.
const FIRST_UPDATES: usize = 10;

/// Seconds that a batch is to take: a third of what the portal allows, as updates may become slower.
const TARGET_SECONDS: f64 = 20.0;

/// Seconds after which the portal cuts a request off.
const CUT_OFF_SECONDS: f64 = 60.0;

/// Weight of a new measurement that is slower or faster than the average. Slowness is learnt quickly.
const WEIGHT_SLOWER: f64 = 0.6;
const WEIGHT_FASTER: f64 = 0.25;

/// Requests of one portal that may be under way at once.
pub const MOST_IN_FLIGHT: usize = 8;

/// The size of batches of one method, learnt from what its updates take.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    seconds_each: Option<f64>,
    size: usize,
    /// False while the size is still growing or shrinking: then one batch at a time.
    steady: bool,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { seconds_each: None, size: FIRST_UPDATES, steady: false }
    }
}

impl Pace {
    /// Returns the number of updates for the next batch.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the number of batches that may be under way at once.
    pub fn in_flight(&self) -> usize {
        if self.steady { MOST_IN_FLIGHT } else { 1 }
    }

    /// Learns from a batch whose updates took this many seconds together.
    pub fn note(&mut self, updates: usize, seconds: f64) {
        if updates == 0 || !seconds.is_finite() || seconds < 0.0 {
            return;
        }
        let sample = seconds / updates as f64;
        let each = match self.seconds_each {
            None => sample,
            Some(each) => {
                let weight = if sample > each { WEIGHT_SLOWER } else { WEIGHT_FASTER };
                each + weight * (sample - each)
            }
        };
        self.seconds_each = Some(each);
        self.size = fitting(each).min(self.size * 2);
        self.steady = self.size == fitting(each);
    }

    /// Learns from a batch that was cut off.
    pub fn note_cut_off(&mut self, updates: usize) {
        let updates = updates.max(1);
        let each = (CUT_OFF_SECONDS / updates as f64).max(self.seconds_each.unwrap_or(0.0));
        self.seconds_each = Some(each);
        self.steady = false;
        self.size = fitting(each).min(self.size).min((updates / 2).max(1));
    }
}

fn fitting(seconds_each: f64) -> usize {
    // Casting saturates, so that updates that take no time give the most.
    ((TARGET_SECONDS / seconds_each.max(1e-9)) as usize).clamp(1, MOST_UPDATES)
}

/// How long the first outcome waits for company.
///
/// A single edit should be answered at once, but outcomes that trickle in during a first sync must not
/// become a request each. A few requests may go out hastily; after that, outcomes wait longer.
#[derive(Clone, Debug, PartialEq)]
pub struct Patience {
    hasty: f64,
    at: Duration,
}

const SHORT_WAIT: Duration = Duration::from_millis(300);
const LONG_WAIT: Duration = Duration::from_secs(4);
const MOST_HASTY: f64 = 3.0;
const HASTY_PER_SECOND: f64 = 0.2;

impl Default for Patience {
    fn default() -> Patience {
        Patience { hasty: MOST_HASTY, at: Duration::ZERO }
    }
}

impl Patience {
    /// Returns how long to wait at most for a batch to fill.
    pub fn wait(&self, now: Duration) -> Duration {
        if self.hasty_at(now) >= 1.0 { SHORT_WAIT } else { LONG_WAIT }
    }

    /// Notes that a batch went out that was not full.
    pub fn note_hasty(&mut self, now: Duration) {
        self.hasty = (self.hasty_at(now) - 1.0).max(0.0);
        self.at = now;
    }

    fn hasty_at(&self, now: Duration) -> f64 {
        (self.hasty + now.saturating_sub(self.at).as_secs_f64() * HASTY_PER_SECOND).min(MOST_HASTY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sends batches to a portal whose updates take this long; returns the sizes sent.
    fn run(pace: &mut Pace, seconds_each: f64, batches: usize) -> Vec<usize> {
        let mut sizes = Vec::new();
        for _ in 0..batches {
            let size = pace.size();
            sizes.push(size);
            let seconds = size as f64 * seconds_each;
            if seconds > CUT_OFF_SECONDS { pace.note_cut_off(size) } else { pace.note(size, seconds) }
        }
        sizes
    }

    #[test]
    fn batches_grow_by_doubling_and_settle_at_a_third_of_the_portals_patience() {
        assert_eq!(run(&mut Pace::default(), 0.04, 5), [10, 20, 40, 49, 49]);
        assert_eq!(run(&mut Pace::default(), 0.3, 5), [10, 20, 40, 49, 49]);
        assert_eq!(run(&mut Pace::default(), 1.35, 4), [10, 14, 14, 14]);
        assert_eq!(run(&mut Pace::default(), 2.12, 4), [10, 9, 9, 9]);
        assert_eq!(run(&mut Pace::default(), 5.0, 4), [10, 4, 4, 4]);
        assert_eq!(run(&mut Pace::default(), 40.0, 4), [10, 3, 1, 1]);
    }

    #[test]
    fn a_portal_that_becomes_slow_is_followed_and_one_that_recovers_too() {
        let mut pace = Pace::default();
        run(&mut pace, 0.04, 5);
        assert_eq!(run(&mut pace, 5.0, 4), [49, 16, 5, 4]);
        assert_eq!(pace.in_flight(), MOST_IN_FLIGHT);
        assert_eq!(run(&mut pace, 0.04, 20).last(), Some(&49));
    }

    #[test]
    fn nothing_runs_beside_batches_that_still_grow_or_one_after_a_cut_off() {
        let mut pace = Pace::default();
        for updates in [10, 20, 40] {
            assert_eq!(pace.in_flight(), 1);
            pace.note(updates, 0.04 * updates as f64);
        }
        assert_eq!(pace.in_flight(), MOST_IN_FLIGHT);
        pace.note_cut_off(20);
        assert_eq!((pace.in_flight(), pace.size()), (1, 6));
    }

    #[test]
    fn a_few_requests_may_be_hasty() {
        let mut patience = Patience::default();
        let second = Duration::from_secs(1);
        for _ in 0..3 {
            assert_eq!(patience.wait(second), SHORT_WAIT);
            patience.note_hasty(second);
        }
        assert_eq!(patience.wait(second), LONG_WAIT);
        assert_eq!(patience.wait(second * 7), SHORT_WAIT);
    }

    proptest! {
        #[test]
        fn no_size_is_cut_off_twice_in_a_row(costs in proptest::collection::vec(0.0f64..70.0, 1..200)) {
            let mut pace = Pace::default();
            let mut cut_off = None;
            for each in costs {
                let size = pace.size();
                prop_assert!((1..=MOST_UPDATES).contains(&size));
                let seconds = each * size as f64;
                if seconds <= CUT_OFF_SECONDS {
                    pace.note(size, seconds);
                    cut_off = None;
                    continue;
                }
                prop_assert!(size == 1 || cut_off != Some(size));
                cut_off = Some(size);
                pace.note_cut_off(size);
            }
        }
    }
}
