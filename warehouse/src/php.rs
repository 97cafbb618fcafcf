//! The shapes in which Bitrix24 sends one and the same value, read for a typed column. Pure.
//!
//! What cannot be read is absent; the original stays in the column `raw`. Values for columns of numbers, dates and
//! times come out as text that PostgreSQL reads without fail.

use std::borrow::Cow;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use rust_decimal::Decimal;
use serde_json::Value;

/// Years that PostgreSQL and everybody who reads from it understand.
const YEARS: std::ops::RangeInclusive<i32> = 1..=9999;

/// Returns the only scalar of a value: lists of one count as their item.
fn scalar(value: Option<&Value>) -> Option<&Value> {
    match value? {
        Value::Array(items) if items.len() == 1 => scalar(items.first()),
        scalar @ (Value::String(_) | Value::Number(_) | Value::Bool(_)) => Some(scalar),
        _ => None,
    }
}

/// Reads a text; nothing but blanks is nothing.
pub fn text(value: Option<&Value>) -> Option<String> {
    match scalar(value)? {
        Value::String(text) => Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Reads a whole number.
pub fn whole(value: Option<&Value>) -> Option<i64> {
    match scalar(value)? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Reads the id of another record; 0 is Bitrix24's word for none.
pub fn id(value: Option<&Value>) -> Option<i64> {
    whole(value).filter(|id| *id > 0)
}

/// Reads a decimal number. Text is taken digit by digit; a JSON number has been a float in PHP and is taken as one.
pub fn decimal(value: Option<&Value>) -> Option<String> {
    let text = match scalar(value)? {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().replace(',', "."),
        _ => return None,
    };
    let number = Decimal::from_str(&text).or_else(|_| Decimal::from_scientific(&text)).ok()?;
    Some(number.to_string())
}

/// Reads a moment with its offset and returns it in UTC.
pub fn moment(value: Option<&Value>) -> Option<String> {
    let Value::String(text) = scalar(value)? else { return None };
    let moment = DateTime::parse_from_rfc3339(text.trim()).ok()?.with_timezone(&Utc);
    YEARS.contains(&moment.year()).then(|| moment.to_rfc3339())
}

/// Reads a calendar day as it is written, whatever time and offset stand behind it.
pub fn day(value: Option<&Value>) -> Option<String> {
    let Value::String(text) = scalar(value)? else { return None };
    let text = text.trim();
    let head = text.get(..10)?;
    let day = NaiveDate::parse_from_str(head, "%Y-%m-%d")
        .or_else(|_| NaiveDate::parse_from_str(head, "%d.%m.%Y"))
        .ok()?;
    YEARS.contains(&day.year()).then(|| day.to_string())
}

/// Reads a yes or no.
pub fn flag(value: Option<&Value>) -> Option<bool> {
    match scalar(value)? {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.trim() {
            "Y" | "1" | "true" => Some(true),
            "N" | "0" | "false" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Reads the values of a multi-field such as `PHONE`, in their order.
pub fn multi(value: Option<&Value>) -> Vec<String> {
    let one = |item: &Value| match item {
        Value::Object(members) => text(members.get("VALUE")),
        other => text(Some(other)),
    };
    match value {
        Some(Value::Array(items)) => items.iter().filter_map(one).collect(),
        // A list whose numbering has a gap.
        Some(Value::Object(members)) if !members.contains_key("VALUE") => {
            members.values().filter_map(one).collect()
        }
        Some(other) => one(other).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Stands where a character was that PostgreSQL cannot hold.
const REPLACEMENT: &str = "\\ufffd";

/// Replaces what JSON can say and PostgreSQL cannot hold: NUL characters and halves of surrogate pairs.
pub fn clean(json: &str) -> Cow<'_, str> {
    if !json.contains("\\u") {
        return Cow::Borrowed(json);
    }
    let (mut clean, mut rest) = (String::with_capacity(json.len()), json);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        clean.push_str(before);
        let length = escape_length(escape);
        let (escape, behind) = escape.split_at(length);
        clean.push_str(if is_storable(escape) { escape } else { REPLACEMENT });
        rest = behind;
    }
    clean.push_str(rest);
    Cow::Owned(clean)
}

/// Returns how many bytes an escape takes, a whole surrogate pair being one.
fn escape_length(text: &str) -> usize {
    match unit(text) {
        Some(0xD800..=0xDBFF) if matches!(text.get(6..).and_then(unit), Some(0xDC00..=0xDFFF)) => 12,
        Some(_) => 6,
        // The character behind a backslash may have several bytes in broken JSON.
        None => text.char_indices().nth(2).map_or(text.len(), |(at, _)| at),
    }
}

fn is_storable(escape: &str) -> bool {
    escape.len() == 12 || !matches!(unit(escape), Some(0 | 0xD800..=0xDFFF))
}

/// Reads the code unit of an escape such as `\u0041`.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn nothing_is_nothing_however_it_is_said() {
        for nothing in [json!(""), json!("  "), json!(false), json!([]), json!({}), json!(null)] {
            let nothing = Some(&nothing);
            assert_eq!(text(nothing), None, "{nothing:?}");
            assert_eq!((whole(nothing), id(nothing), decimal(nothing)), (None, None, None), "{nothing:?}");
            assert_eq!((moment(nothing), day(nothing)), (None, None), "{nothing:?}");
            assert_eq!(multi(nothing), [] as [String; 0], "{nothing:?}");
        }
        assert_eq!((text(None), whole(None), flag(None), flag(Some(&json!("")))), (None, None, None, None));
    }

    #[test]
    fn numbers_are_read_from_text_and_from_numbers() {
        assert_eq!((whole(Some(&json!("12 "))), whole(Some(&json!(12)))), (Some(12), Some(12)));
        assert_eq!((id(Some(&json!("0"))), id(Some(&json!(["7"])))), (None, Some(7)));
        let read = |value: Value| decimal(Some(&value));
        assert_eq!(read(json!("8700.00")).as_deref(), Some("8700.00"));
        let artefact: Value = serde_json::from_str("3.3300000000000001").unwrap();
        assert_eq!(read(artefact).as_deref(), Some("3.33"));
        assert_eq!(read(json!("1e3")).as_deref(), Some("1000"));
        assert_eq!(read(json!("12,5")).as_deref(), Some("12.5"));
        for odd in [json!("8700|RUB"), json!("NaN"), json!("1e400"), json!("infinity"), json!([1, 2])] {
            assert_eq!(read(odd.clone()), None, "{odd}");
        }
    }

    #[test]
    fn days_and_moments_are_read_where_they_can_be() {
        let at = |text: &str| (day(Some(&json!(text))), moment(Some(&json!(text))));
        assert_eq!(
            at("2020-12-21T02:00:00+03:00"),
            (Some("2020-12-21".into()), Some("2020-12-20T23:00:00+00:00".into()))
        );
        assert_eq!(at("21.12.2020"), (Some("2020-12-21".into()), None));
        assert_eq!(at("0000-01-01T00:00:00+00:00"), (None, None));
        assert_eq!(at("infinity"), (None, None));
        assert_eq!(at("сегодня и завтра"), (None, None));
    }

    #[test]
    fn multi_fields_are_read_in_every_shape() {
        let both = ["1".to_owned(), "2".to_owned()];
        assert_eq!(multi(Some(&json!([{"VALUE": "1"}, {"VALUE": ""}, {"VALUE": 2}]))), both);
        assert_eq!(multi(Some(&json!({"0": {"VALUE": "1"}, "2": {"VALUE": "2"}}))), both);
        assert_eq!(multi(Some(&json!({"VALUE": "1"}))), both[..1]);
        assert_eq!(multi(Some(&json!("1"))), both[..1]);
    }

    #[test]
    fn what_postgresql_cannot_hold_is_replaced_and_nothing_else() {
        for (json, expected) in [
            (r#"{"a":"x\u0000y"}"#, r#"{"a":"x\ufffdy"}"#),
            (r#"{"a":"\\u0000"}"#, r#"{"a":"\\u0000"}"#),
            (r#"{"a":"\\\u0000"}"#, r#"{"a":"\\\ufffd"}"#),
            (r#"{"a":"\ud83d\ude00"}"#, r#"{"a":"\ud83d\ude00"}"#),
            (r#"{"a":"\ud83dx\ude00"}"#, r#"{"a":"\ufffdx\ufffd"}"#),
            (r#"{"a":"\ud83d\u0041"}"#, r#"{"a":"\ufffd\u0041"}"#),
            (r#"{"\u0000":1}"#, r#"{"\ufffd":1}"#),
        ] {
            assert_eq!(clean(json), expected);
        }
    }

    proptest! {
        #[test]
        fn cleaning_keeps_every_other_text(text in "[^\u{0}]*") {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(clean(&json), json.as_str());
        }

        #[test]
        fn anything_can_be_cleaned(text in r#"([\\u"0dD8cé]|\PC){0,40}"#) {
            let cleaned = clean(&text).into_owned();
            prop_assert_eq!(clean(&cleaned), cleaned.as_str());
        }
    }
}
