//! The double's own clock, which may run faster than the host's and be put forward.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// A clock that never goes back.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
    origin: DateTime<Utc>,
    speed: f64,
}

impl Clock {
    /// Starts at a moment, with a speed of 1 for the pace of the host.
    pub fn new(origin: DateTime<Utc>, speed: f64) -> Self {
        Self { started: Instant::now(), origin, speed }
    }

    pub fn now(&self) -> DateTime<Utc> {
        let passed = self.started.elapsed().as_secs_f64() * self.speed;
        self.origin + TimeDelta::milliseconds((passed * 1000.0) as i64)
    }

    pub fn speed(&self) -> f64 {
        self.speed
    }

    /// Goes on from the present moment with another speed.
    pub fn set_speed(&mut self, speed: f64) {
        *self = Self::new(self.now(), speed);
    }

    /// Puts the clock forward.
    pub fn advance(&mut self, seconds: f64) {
        *self =
            Self::new(self.now() + TimeDelta::milliseconds((seconds.max(0.0) * 1000.0) as i64), self.speed);
    }

    /// Turns seconds of this clock into time of the host.
    pub fn host_time(&self, seconds: f64) -> Duration {
        Duration::try_from_secs_f64(seconds / self.speed).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_is_put_forward_and_sped_up_without_going_back() {
        let origin = DateTime::UNIX_EPOCH;
        let mut clock = Clock::new(origin, 1.0);
        clock.advance(3600.0);
        assert!(clock.now() >= origin + TimeDelta::hours(1));
        let before = clock.now();
        clock.set_speed(60.0);
        assert!(clock.now() >= before);
        assert_eq!(clock.host_time(60.0), Duration::from_secs(1));
        assert_eq!(clock.host_time(f64::NAN), Duration::ZERO);
    }
}
