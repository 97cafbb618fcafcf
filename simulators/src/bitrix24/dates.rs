//! Reading and printing dates the way the portal does.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Utc};

use super::clock::Zone;

const LOCAL_FORMATS: [&str; 6] = [
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M:%S",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M",
];
const DAY_FORMATS: [&str; 2] = ["%Y-%m-%d", "%d.%m.%Y"];

/// Reads a moment: ISO with an offset, ISO or the portal's format in the portal's zone, or a bare day.
pub fn parse_moment(text: &str, zone: Zone) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let local = LOCAL_FORMATS.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let local = local.or_else(|| parse_bare_day(text).map(|day| day.and_time(NaiveTime::MIN)));
    zone.resolve(local?)
}

/// Reads the calendar day as it is written, whatever time and offset follow it.
pub fn parse_day(text: &str) -> Option<NaiveDate> {
    let text = text.trim();
    let day = text.get(..10)?;
    let rest = &text[10..];
    (rest.is_empty() || rest.starts_with(['T', ' '])).then(|| parse_bare_day(day)).flatten()
}

/// Prints a moment with the portal's offset and whole seconds.
pub fn print_moment(moment: DateTime<Utc>, zone: Zone) -> String {
    zone.localize(moment).to_rfc3339_opts(SecondsFormat::Secs, false)
}

/// Prints a calendar day: midnight of UTC, shown with the portal's offset.
pub fn print_day(day: NaiveDate, zone: Zone) -> String {
    print_moment(day.and_time(NaiveTime::MIN).and_utc(), zone)
}

/// Prints a stored date or time with the portal's present offset; junk stays what it is.
pub fn reprint(stored: &str, zone: Zone) -> String {
    match DateTime::parse_from_rfc3339(stored) {
        Ok(time) => print_moment(time.to_utc(), zone),
        Err(_) => stored.to_owned(),
    }
}

fn parse_bare_day(text: &str) -> Option<NaiveDate> {
    DAY_FORMATS.iter().find_map(|format| NaiveDate::parse_from_str(text, format).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moscow() -> Zone {
        Zone::parse("+03:00").expect("an offset")
    }

    #[test]
    fn every_accepted_form_names_the_same_moment() {
        let forms = [
            "2026-02-01T10:00:00+03:00",
            "2026-02-01T07:00:00Z",
            "2026-02-01T10:00:00",
            "2026-02-01 10:00:00",
            "01.02.2026 10:00:00",
        ];
        for form in forms {
            let moment = parse_moment(form, moscow()).map(|moment| moment.timestamp());
            assert_eq!(moment, Some(1_769_929_200), "{form}");
        }
    }

    #[test]
    fn a_plus_lost_in_the_query_is_no_moment() {
        assert_eq!(parse_moment("2026-02-01T10:00:00 03:00", moscow()), None);
    }

    #[test]
    fn days_are_printed_as_the_midnight_of_utc() {
        let day = parse_day("26.11.2014").expect("a day");
        assert_eq!(print_day(day, moscow()), "2014-11-26T03:00:00+03:00");
        assert_eq!(
            reprint("2014-11-26T03:00:00+03:00", Zone::parse("+04:00").expect("an offset")),
            "2014-11-26T04:00:00+04:00"
        );
    }

    #[test]
    fn impossible_days_are_refused() {
        assert_eq!(parse_day("31.02.2010"), None);
        assert_eq!(parse_day("0000"), None);
        assert_eq!(parse_day("Пятница 13"), None);
    }
}
