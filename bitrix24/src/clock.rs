//! What time it is at the portal.

use std::time::Duration;

use chrono::{DateTime, FixedOffset, Offset, Utc};
use tokio::time::Instant;

/// The portal's clock, carried on from the last answer by our monotonic one.
///
/// It runs late by the way of that answer and never early, which is the safe side for waiting.
#[derive(Debug, Clone)]
pub(crate) struct PortalClock {
    speed: f64,
    started: Instant,
    last: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    unix_seconds: f64,
    offset: FixedOffset,
    at: Instant,
}

impl PortalClock {
    pub(crate) fn new(speed: f64, started: Instant) -> Self {
        Self { speed, started, last: None }
    }

    /// Takes the newest reading even if it is behind: portals set their clocks back, too.
    pub(crate) fn read(&mut self, unix_seconds: f64, offset: Option<FixedOffset>, at: Instant) {
        let known = self.last.map(|reading| reading.offset);
        let offset = offset.or(known).unwrap_or_else(|| Utc.fix());
        self.last = Some(Reading { unix_seconds, offset, at });
    }

    pub(crate) fn now(&self, at: Instant) -> Option<DateTime<FixedOffset>> {
        let reading = self.last?;
        to_date_time(self.unix_seconds(at)?, reading.offset)
    }

    pub(crate) fn unix_seconds(&self, at: Instant) -> Option<f64> {
        let reading = self.last?;
        Some(reading.unix_seconds + at.saturating_duration_since(reading.at).as_secs_f64() * self.speed)
    }

    /// Returns the portal time passed since this client was built.
    pub(crate) fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.started).mul_f64(self.speed)
    }

    pub(crate) fn date_time(&self, unix_seconds: f64) -> Option<DateTime<FixedOffset>> {
        to_date_time(unix_seconds, self.last.map_or_else(|| Utc.fix(), |reading| reading.offset))
    }

    /// Turns real time into portal time.
    pub(crate) fn portal_seconds(&self, real: Duration) -> f64 {
        real.as_secs_f64() * self.speed
    }

    /// Turns portal time into real time.
    pub(crate) fn real(&self, portal_seconds: f64) -> Duration {
        Duration::try_from_secs_f64((portal_seconds / self.speed).max(0.0)).unwrap_or(Duration::MAX)
    }
}

pub(crate) fn to_utc(unix_seconds: f64) -> Option<DateTime<FixedOffset>> {
    to_date_time(unix_seconds, Utc.fix())
}

fn to_date_time(unix_seconds: f64, offset: FixedOffset) -> Option<DateTime<FixedOffset>> {
    let micros = (unix_seconds * 1e6).round();
    if !micros.is_finite() || micros.abs() > 1e17 {
        return None;
    }
    DateTime::from_timestamp_micros(micros as i64).map(|time| time.with_timezone(&offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portals_clock_goes_on_at_its_own_speed() {
        let start = Instant::now();
        let mut clock = PortalClock::new(60.0, start);
        assert_eq!(clock.now(start), None);
        clock.read(1_700_000_000.5, FixedOffset::east_opt(3 * 3_600), start);
        let later = clock.now(start + Duration::from_secs(2)).map(|time| time.to_rfc3339());
        assert_eq!(later.as_deref(), Some("2023-11-15T01:15:20.500+03:00"));
        assert_eq!(clock.real(30.0), Duration::from_millis(500));
    }

    #[test]
    fn a_clock_set_back_is_followed() {
        let start = Instant::now();
        let mut clock = PortalClock::new(1.0, start);
        clock.read(1_700_003_600.0, None, start);
        clock.read(1_700_000_000.0, None, start);
        assert_eq!(clock.unix_seconds(start), Some(1_700_000_000.0));
    }

    #[test]
    fn absurd_times_are_no_time() {
        assert_eq!(to_date_time(1e300, Utc.fix()), None);
        assert_eq!(to_date_time(f64::NAN, Utc.fix()), None);
    }
}
