//! Moments as operators write them.

use chrono::{DateTime, Datelike, Days, Duration, NaiveDate, NaiveTime, SecondsFormat, Utc, Weekday};

/// What is accepted, for `--help`.
pub const FORMS: &str =
    "2026-01-31, 2026-01-31T12:00:00+03:00, monday, today, yesterday, or how long ago: 3h, 2days";

/// A moment, or a time before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// On the calendar.
    At(DateTime<Utc>),
    /// Before now.
    Ago(Duration),
    /// The midnight (UTC) so many days back; 0 is today's.
    DaysBack(u64),
    /// The last midnight (UTC) with which this day of the week began.
    Last(Weekday),
}

impl Moment {
    /// Reads one; a day begins at midnight UTC.
    pub fn parse(text: &str) -> Result<Moment, String> {
        let text = text.trim();
        match text.to_ascii_lowercase().as_str() {
            "today" => return Ok(Moment::DaysBack(0)),
            "yesterday" => return Ok(Moment::DaysBack(1)),
            _ => {}
        }
        if let Ok(weekday) = text.parse::<Weekday>() {
            return Ok(Moment::Last(weekday));
        }
        if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
            return Ok(Moment::At(moment.to_utc()));
        }
        if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            return Ok(Moment::At(midnight(day)));
        }
        let ago = humantime::parse_duration(text).ok().and_then(|ago| Duration::from_std(ago).ok());
        ago.map(Moment::Ago).ok_or_else(|| format!("a moment is {FORMS}"))
    }

    /// Returns the moment, given the present one.
    pub fn at(self, now: DateTime<Utc>) -> DateTime<Utc> {
        let days_back = |days| now.date_naive().checked_sub_days(Days::new(days)).map(midnight);
        let moment = match self {
            Moment::At(moment) => Some(moment),
            Moment::Ago(ago) => now.checked_sub_signed(ago),
            Moment::DaysBack(days) => days_back(days),
            Moment::Last(weekday) => days_back(u64::from(now.weekday().days_since(weekday))),
        };
        moment.unwrap_or(DateTime::UNIX_EPOCH)
    }
}

/// Writes a moment so that it means the same at any time.
pub fn exact(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_times_days_of_the_week_or_how_long_ago() {
        // A Saturday.
        let now = DateTime::parse_from_rfc3339("2026-01-31T12:00:00Z").unwrap().to_utc();
        let at = |text: &str| exact(Moment::parse(text).unwrap().at(now));
        assert_eq!(at("2026-01-30"), "2026-01-30T00:00:00Z");
        assert_eq!(at("2026-01-30T12:00:00+03:00"), "2026-01-30T09:00:00Z");
        assert_eq!(at("3h"), "2026-01-31T09:00:00Z");
        assert_eq!(at("yesterday"), "2026-01-30T00:00:00Z");
        assert_eq!(at("today"), "2026-01-31T00:00:00Z");
        assert_eq!(at("monday"), "2026-01-26T00:00:00Z");
        assert_eq!(at("Sat"), "2026-01-31T00:00:00Z");
        for wrong in ["", "soon", "2026-13-01"] {
            assert!(Moment::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
