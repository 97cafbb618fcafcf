//! Calendar dates, as they were written: no time zone ever moves them.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime};
use schemas::problem::clean;

/// Years that a birthday or a sale can be in; anything else is a slip of the finger.
const YEARS: std::ops::RangeInclusive<i32> = 1900..=2099;

/// Longest text that can be a date with a time.
const MAX_BYTES: usize = 40;

/// A text is no date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a calendar date")]
pub struct NoDate;

/// Reads the calendar date of `2009-11-29T03:00:00+03:00`, `2009-11-29` or `29.11.2009`, with or without a time.
///
/// The date is the one that is written. Bitrix24 prints a date as midnight UTC in the portal's offset, so
/// any conversion could move it to the day before.
pub fn parse(text: &str) -> Result<NaiveDate, NoDate> {
    let text = clean(text);
    if text.len() > MAX_BYTES {
        return Err(NoDate);
    }
    let date = with_offset(&text).or_else(|| with_time(&text)).or_else(|| alone(&text)).ok_or(NoDate)?;
    if YEARS.contains(&date.year()) && begins_as_a_date(&text) { Ok(date) } else { Err(NoDate) }
}

fn with_offset(text: &str) -> Option<NaiveDate> {
    DateTime::parse_from_rfc3339(text).ok().map(|moment| moment.date_naive())
}

fn with_time(text: &str) -> Option<NaiveDate> {
    ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M"]
        .into_iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .map(|moment| moment.date())
}

fn alone(text: &str) -> Option<NaiveDate> {
    ["%Y-%m-%d", "%d.%m.%Y"].into_iter().find_map(|format| NaiveDate::parse_from_str(text, format).ok())
}

/// Insists on all ten characters: chrono alone would also take `+2009-1-2`.
fn begins_as_a_date(text: &str) -> bool {
    let Some(date) = text.get(..10) else { return false };
    let has_shape = |shape: &str| {
        date.bytes()
            .zip(shape.bytes())
            .all(|(found, wanted)| if wanted == b'9' { found.is_ascii_digit() } else { found == wanted })
    };
    has_shape("9999-99-99") || has_shape("99.99.9999")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_date_is_the_one_that_is_written() {
        for text in [
            "2009-11-29T03:00:00+03:00",
            "2009-11-29T00:00:00+03:00",
            "2009-11-29T00:00:00+04:00",
            "2009-11-29T23:59:59-11:00",
            "2009-11-29T00:00:00Z",
            "2009-11-29T00:00:00",
            "2009-11-29 00:00:00",
            "2009-11-29",
            "29.11.2009",
            "29.11.2009 15:00:00",
            " 29.11.2009\u{a0}",
        ] {
            assert_eq!(parse(text), Ok(NaiveDate::from_ymd_opt(2009, 11, 29).unwrap()), "{text:?}");
        }
    }

    #[test]
    fn junk_is_no_date() {
        for text in [
            "31.02.2010",
            "2010-02-31",
            "0000-11-29",
            "2009-13-01T03:00:00+03:00",
            "0001-01-01T00:00:00+00:00",
            "9999-01-01",
            "1259452800",
            "2009",
            "29.11.09",
            "29/11/2009",
            "2009-11-29Tсейчас",
            "2009-11-29T03:00:00+99:00",
            "2009-1-2",
            "+2009-11-29",
            "вчера",
            "2009-11-29T03:00:00+03:00 и ещё много слов, которых в дате нет",
        ] {
            assert_eq!(parse(text), Err(NoDate), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_time_or_offset_moves_a_date(
            day in 0..36_500_i64,
            seconds in 0..86_400_u32,
            offset in -12..=14_i32,
        ) {
            let date = NaiveDate::from_ymd_opt(1950, 1, 1).unwrap() + chrono::Days::new(day.unsigned_abs());
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            let text = format!("{date}T{hours:02}:{minutes:02}:{seconds:02}{offset:+03}:00");
            prop_assert_eq!(parse(&text), Ok(date));
            prop_assert_eq!(parse(&date.format("%d.%m.%Y").to_string()), Ok(date));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
