//! The portal's own clock: starts where it is told, may run faster than ours, may jump.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use chrono::{DateTime, FixedOffset, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// A wait shorter than this is skipped: timers tick in milliseconds, and the debt is carried on.
const SHORTEST_SLEEP: Duration = Duration::from_micros(700);
/// The longest single sleep; a clock that almost stands still would overflow a `Duration`.
const LONGEST_SLEEP_SECONDS: f64 = 3_600.0;

/// The zone in which the portal prints and reads times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Zone {
    Fixed(FixedOffset),
    Named(Tz),
}

impl Zone {
    /// Reads `+03:00` or an IANA name such as `Europe/Moscow`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(offset) = text.parse::<FixedOffset>() {
            return Ok(Self::Fixed(offset));
        }
        let zone = text.parse::<Tz>().map(Self::Named);
        zone.map_err(|_| {
            format!("`{text}` is neither an offset such as +03:00 nor a zone such as Europe/Moscow")
        })
    }

    /// Prints the zone so that `parse` reads it back.
    pub fn name(self) -> String {
        match self {
            Self::Fixed(offset) => offset.to_string(),
            Self::Named(zone) => zone.name().to_owned(),
        }
    }

    /// Expresses an instant in this zone.
    pub fn localize(self, instant: DateTime<Utc>) -> DateTime<FixedOffset> {
        match self {
            Self::Fixed(offset) => instant.with_timezone(&offset),
            Self::Named(zone) => {
                let local = instant.with_timezone(&zone);
                local.with_timezone(&local.offset().fix())
            }
        }
    }

    /// Reads a wall-clock time of this zone; the earlier reading when clocks were set back.
    pub fn resolve(self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        match self {
            Self::Fixed(offset) => offset.from_local_datetime(&local).earliest().map(|time| time.to_utc()),
            Self::Named(zone) => zone.from_local_datetime(&local).earliest().map(|time| time.to_utc()),
        }
    }
}

/// What has to be kept of a clock to go on after a restart.
///
/// The portal's time also passes while the process is away, as a real portal's does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ClockAnchor {
    /// Unix seconds of the machine.
    pub wall: f64,
    /// Unix seconds of the portal at that moment.
    pub portal: f64,
    pub speed: f64,
}

/// The running clock.
pub struct Clock {
    anchor: Mutex<Running>,
    changed: Notify,
}

struct Running {
    started: Instant,
    wall: f64,
    portal: f64,
    speed: f64,
    worked: f64,
}

impl Running {
    fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * self.speed
    }

    fn now(&self) -> f64 {
        self.portal + self.elapsed()
    }

    fn worked(&self) -> f64 {
        self.worked + self.elapsed()
    }
}

impl Clock {
    /// Starts a clock at this portal time.
    pub fn starting_at(portal: f64, speed: f64) -> Self {
        let running = Running { started: Instant::now(), wall: wall_seconds(), portal, speed, worked: 0.0 };
        Self { anchor: Mutex::new(running), changed: Notify::new() }
    }

    /// Goes on from a kept anchor, from now on at this speed.
    pub fn resumed(anchor: ClockAnchor, speed: f64) -> Self {
        let away = (wall_seconds() - anchor.wall).max(0.0);
        Self::starting_at(anchor.portal + away * anchor.speed, speed)
    }

    /// Returns the portal's time in Unix seconds.
    pub fn now(&self) -> f64 {
        self.lock().now()
    }

    /// Returns portal seconds per real second.
    pub fn speed(&self) -> f64 {
        self.lock().speed
    }

    /// Returns what `resumed` needs.
    pub fn anchor(&self) -> ClockAnchor {
        let running = self.lock();
        ClockAnchor { wall: running.wall, portal: running.portal, speed: running.speed }
    }

    /// Moves the clock by this many seconds, backwards too, and optionally changes its speed.
    pub fn adjust(&self, advance_seconds: f64, speed: Option<f64>) {
        {
            let mut running = self.lock();
            let speed = speed.unwrap_or(running.speed);
            let (portal, worked) = (running.now() + advance_seconds, running.worked());
            *running = Running { started: Instant::now(), wall: wall_seconds(), portal, speed, worked };
        }
        self.changed.notify_waiters();
    }

    /// Returns the seconds the portal has been working: as fast as its clock, but without its jumps.
    pub fn work_time(&self) -> f64 {
        self.lock().worked()
    }

    /// Waits until this much work is done, also if the clock's speed is changed meanwhile.
    pub async fn work_until(&self, target: f64) {
        loop {
            let changed = self.changed.notified();
            let (worked, speed) = {
                let running = self.lock();
                (running.worked(), running.speed)
            };
            let real = ((target - worked) / speed).min(LONGEST_SLEEP_SECONDS);
            if real <= SHORTEST_SLEEP.as_secs_f64() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs_f64(real)) => {}
                () = changed => {}
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.anchor.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Converts Unix seconds to an instant, dropping what no calendar can hold.
pub fn instant(seconds: f64) -> DateTime<Utc> {
    let micros = (seconds * 1e6) as i64;
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}

fn wall_seconds() -> f64 {
    Utc::now().timestamp_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_faster_clock_wakes_a_sleeper() {
        let clock = Clock::starting_at(1_000.0, 1.0);
        let sleeper = clock.work_until(100_000.0);
        let hurry = async { clock.adjust(0.0, Some(1e7)) };
        let both = async { tokio::join!(sleeper, hurry) };
        tokio::time::timeout(Duration::from_secs(60), both).await.expect("woken long before a day is over");
    }

    #[tokio::test]
    async fn a_jump_changes_the_time_but_not_the_work_done() {
        let clock = Clock::starting_at(1_000.0, 1e9);
        clock.adjust(-1e15, None);
        clock.work_until(5.0).await;
        assert!(clock.now() < 0.0);
    }

    #[test]
    fn a_resumed_clock_goes_on_where_it_would_be_by_now() {
        let anchor = ClockAnchor { wall: wall_seconds() - 10.0, portal: 5_000.0, speed: 100.0 };
        let resumed = Clock::resumed(anchor, 1.0);
        assert!((6_000.0..7_000.0).contains(&resumed.now()), "{}", resumed.now());
        let from_the_future = ClockAnchor { wall: wall_seconds() + 1e6, ..anchor };
        assert!(Clock::resumed(from_the_future, 1.0).now() >= 5_000.0, "time does not go back");
    }

    #[test]
    fn zones_are_read_by_offset_and_by_name() {
        assert_eq!(Zone::parse("+03:00").expect("an offset").name(), "+03:00");
        assert_eq!(Zone::parse("Europe/Moscow").expect("a zone").name(), "Europe/Moscow");
        assert!(Zone::parse("nowhere").is_err());
    }

    #[test]
    fn a_zone_with_summer_time_prints_the_offset_of_the_season() {
        let zone = Zone::parse("Europe/Berlin").expect("a zone");
        let at = |text: &str| zone.localize(text.parse().expect("a time")).to_rfc3339();
        assert_eq!(at("2026-01-10T11:00:00Z"), "2026-01-10T12:00:00+01:00");
        assert_eq!(at("2026-07-10T10:00:00Z"), "2026-07-10T12:00:00+02:00");
    }
}
