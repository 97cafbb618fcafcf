//! How long a message stays away, and how often it may fail.

use std::time::Duration;

/// First and longest wait of a ticket for its client. Both pass through the same pipeline, mostly within
/// seconds; the longest wait bounds how many messages a long wait makes.
const CLIENT_FIRST: Duration = Duration::from_secs(2);
const CLIENT_LONGEST: Duration = Duration::from_secs(30);

/// First and longest wait of a record on which otmechalka fails.
const SICK_FIRST: Duration = Duration::from_secs(1);
const SICK_LONGEST: Duration = Duration::from_secs(120);

/// Failures after which a record that alone keeps failing is reported as its own error; the first is not
/// counted, nor any other before otmechalka has taken another record.
///
/// With the waits before them this takes about four minutes besides the calls themselves.
pub const MAX_FAILURES: u64 = 8;

/// Tries after which it is reported as well, where so many of them failed after otmechalka had taken another: a record is not
/// tried oftener because nobody else had anything to send at first.
pub const MAX_TRIES: u64 = 10;
pub const LEAST_OWN_FAILURES: u64 = 3;

/// First and longest wait between two tries of an otmechalka that is down.
const DOWN_FIRST: Duration = Duration::from_secs(1);
const DOWN_LONGEST: Duration = Duration::from_secs(60);

/// How long nothing is tried after otmechalka refused the token: nobody can put it right within less.
const REFUSED: Duration = Duration::from_secs(60);

/// Wait after a 429 that does not say how long.
const THROTTLED: Duration = Duration::from_secs(5);

/// Shortest wait after a 429, whatever otmechalka says.
const LEAST_THROTTLED: Duration = Duration::from_secs(1);

/// All pauses, on the clock of otmechalka.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    speed: f64,
}

impl Pauses {
    /// Takes how many seconds pass at otmechalka in one second here: 1 except for a simulator with a fast clock.
    pub fn at_speed(speed: f64) -> Pauses {
        Pauses { speed }
    }

    /// Returns how many seconds pass at otmechalka in one second here.
    pub fn speed(self) -> f64 {
        self.speed
    }

    /// Returns how long a ticket waits for its client that waited so often before.
    pub fn for_client(self, waits_before: u64) -> Duration {
        self.scaled(doubled(CLIENT_FIRST, CLIENT_LONGEST, waits_before))
    }

    /// Returns how long a record stays away that failed so often, the last time included.
    pub fn for_sick_record(self, failures: u64) -> Duration {
        self.scaled(doubled(SICK_FIRST, SICK_LONGEST, failures.saturating_sub(1)))
    }

    /// Returns how long a record stays away that was tried in an outage, so that others are tried too.
    pub fn in_outage(self) -> Duration {
        self.scaled(CLIENT_LONGEST)
    }

    /// Returns how long nothing is tried after so many tries in vain; `noise` from 0 to 1 spreads the processes.
    pub fn for_outage(self, tries_before: u64, noise: f64) -> Duration {
        let whole = doubled(DOWN_FIRST, DOWN_LONGEST, tries_before);
        self.scaled(whole.mul_f64(0.75 + 0.25 * noise.clamp(0.0, 1.0)))
    }

    /// Returns how long nothing is tried after a refused token.
    pub fn when_refused(self) -> Duration {
        self.scaled(REFUSED)
    }

    /// Returns how long nothing is sent after a 429.
    pub fn when_throttled(self, told: Option<Duration>) -> Duration {
        // No pause at all would be a hot loop against somebody who asks to slow down.
        self.scaled(told.unwrap_or(THROTTLED).max(LEAST_THROTTLED))
    }

    fn scaled(self, pause: Duration) -> Duration {
        pause.div_f64(self.speed)
    }
}

fn doubled(first: Duration, longest: Duration, times: u64) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: Pauses = Pauses { speed: 1.0 };

    proptest! {
        #[test]
        fn every_pause_stays_within_its_bounds_and_never_shrinks(times: u64, noise in 0.0f64..=1.0) {
            prop_assert!((CLIENT_FIRST..=CLIENT_LONGEST).contains(&REAL.for_client(times)));
            prop_assert!((SICK_FIRST..=SICK_LONGEST).contains(&REAL.for_sick_record(times)));
            prop_assert!(REAL.for_outage(times, noise) <= DOWN_LONGEST);
            prop_assert!(REAL.for_outage(times, noise) >= DOWN_FIRST.mul_f64(0.75));
            let next = times.saturating_add(1);
            prop_assert!(REAL.for_client(next) >= REAL.for_client(times));
            prop_assert!(REAL.for_sick_record(next) >= REAL.for_sick_record(times));
        }
    }

    #[test]
    fn a_sick_record_is_reported_within_a_quarter_of_an_hour() {
        let waits: Duration = (1..=MAX_FAILURES).map(|failures| REAL.for_sick_record(failures)).sum();
        // Each try may look up, write and probe, each up to the time limit of a call.
        let calls = Duration::from_secs(15) * 3 * (MAX_FAILURES as u32 + 1);
        assert!(waits + calls < Duration::from_secs(15 * 60), "{waits:?} and {calls:?}");
        assert_eq!(REAL.for_sick_record(1), Duration::from_secs(1));
        assert_eq!(REAL.for_sick_record(9), Duration::from_secs(120));
    }

    #[test]
    fn a_fast_clock_shortens_every_pause() {
        let fast = Pauses::at_speed(60.0);
        assert_eq!(fast.when_refused(), Duration::from_secs(1));
        assert_eq!(fast.when_throttled(Some(Duration::from_secs(30))), Duration::from_millis(500));
        assert_eq!(REAL.when_throttled(None), Duration::from_secs(5));
        assert_eq!(REAL.when_throttled(Some(Duration::ZERO)), Duration::from_secs(1));
    }
}
