//! Digest of what a record says, blind to the ways in which PHP may write the same thing. Pure.
//!
//! Numbers and their texts are alike; so is a moment whatever offset it is shown with; `false`, `""`, `null`, `[]` and an
//! absent key are alike; an object with the keys 0, 1, 2 is a list; multi-value entries are in the order of their ids.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// The fields of a record in the bytes they were sent in.
pub type Fields<'r> = BTreeMap<String, &'r RawValue>;

/// Builds the digest of a record and what belongs to it, part by part.
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Starts with nothing.
    pub fn new() -> Fingerprint {
        Fingerprint(Sha256::new())
    }

    /// Adds the fields that `counts` holds for.
    pub fn add_fields(&mut self, name: &str, fields: &Fields<'_>, counts: impl Fn(&str) -> bool) {
        let mut text = String::new();
        for (key, raw) in fields.iter().filter(|(key, _)| counts(key)) {
            push_entry(&mut text, key, &canonical(raw));
        }
        self.add(name, &text);
    }

    /// Adds some of the fields of each row.
    pub fn add_rows(&mut self, name: &str, rows: &[Box<RawValue>], keys: &[&str]) {
        let mut texts: Vec<String> = rows.iter().map(|row| row_text(row, keys)).collect();
        // Their order is nobody's promise.
        texts.sort();
        self.add(name, &format!("{};{}", texts.len(), texts.join(";")));
    }

    fn add(&mut self, name: &str, text: &str) {
        for part in [name, text] {
            self.0.update((part.len() as u64).to_be_bytes());
            self.0.update(part.as_bytes());
        }
    }

    /// Returns the digest in hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Default for Fingerprint {
    fn default() -> Self {
        Fingerprint::new()
    }
}

fn row_text(row: &RawValue, keys: &[&str]) -> String {
    let fields: Fields<'_> = serde_json::from_str(row.get()).unwrap_or_default();
    let mut text = String::new();
    for key in keys {
        if let Some(raw) = fields.get(*key) {
            push_entry(&mut text, key, &canonical(raw));
        }
    }
    text
}

fn push_entry(text: &mut String, key: &str, value: &str) {
    // What is empty may as well be absent.
    if !value.is_empty() {
        push_text(text, key);
        text.push('=');
        text.push_str(value);
        text.push(',');
    }
}

/// Returns one form for all ways of writing a value; empty for all ways of writing nothing.
fn canonical(raw: &RawValue) -> String {
    // What serde cannot hold (a lone surrogate, a number out of range) is compared as it stands.
    serde_json::from_str::<Value>(raw.get())
        .map_or_else(|_| raw.get().to_owned(), |value| canonical_value(&value))
}

fn canonical_value(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(false) => String::new(),
        Value::Bool(true) => quoted("true"),
        Value::Number(number) => quoted(&canonical_number(&number.to_string())),
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) if is_json_number(text) => quoted(&canonical_number(text)),
        Value::String(text) => moment(text).map_or_else(|| quoted(text), |moment| quoted(&moment)),
        Value::Array(items) => canonical_list(items.iter()),
        Value::Object(entries) => match numbered(entries) {
            Some(items) => canonical_list(items.into_iter()),
            None => canonical_object(entries),
        },
    }
}

fn canonical_list<'v>(items: impl Iterator<Item = &'v Value>) -> String {
    let mut items: Vec<&Value> = items.collect();
    // Stable, so that entries without an id keep their order.
    items.sort_by_key(|item| entry_id(item));
    let texts: Vec<String> = items.into_iter().map(canonical_value).filter(|text| !text.is_empty()).collect();
    if texts.is_empty() { String::new() } else { format!("[{}]", texts.join(",")) }
}

fn canonical_object(entries: &serde_json::Map<String, Value>) -> String {
    let sorted: BTreeMap<&String, &Value> = entries.iter().collect();
    let mut text = String::new();
    for (key, value) in sorted {
        push_entry(&mut text, key, &canonical_value(value));
    }
    if text.is_empty() { text } else { format!("{{{text}}}") }
}

/// Returns the values of an object whose keys are 0, 1, 2 and so on, in that order.
fn numbered(entries: &serde_json::Map<String, Value>) -> Option<Vec<&Value>> {
    let mut items: Vec<(u64, &Value)> =
        entries.iter().map(|(key, value)| Some((key.parse().ok()?, value))).collect::<Option<_>>()?;
    items.sort_by_key(|(index, _)| *index);
    items.iter().zip(0..).all(|((index, _), place)| *index == place).then_some(())?;
    Some(items.into_iter().map(|(_, value)| value).collect())
}

fn entry_id(item: &Value) -> Option<u64> {
    match item.get("ID")? {
        Value::String(text) => text.parse().ok(),
        id => id.as_u64(),
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    push_text(&mut quoted, text);
    quoted
}

/// Adds a text so that it cannot run into what follows.
fn push_text(target: &mut String, text: &str) {
    target.push_str(&text.len().to_string());
    target.push(':');
    target.push_str(text);
}

/// Longest number that a 64-bit float holds exactly enough to be printed back.
const FLOAT_DIGITS: usize = 17;

/// Returns one text for a number: whole numbers as they are, others without superfluous digits.
fn canonical_number(text: &str) -> String {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if !text.contains(['.', 'e', 'E']) || digits > FLOAT_DIGITS {
        return text.to_owned();
    }
    match text.parse::<f64>() {
        // Fifteen digits: readers of floats do not agree on those behind.
        Ok(number) if number.abs() < 1e15 => format!("{number:.14e}")
            .parse::<f64>()
            .map_or_else(|_| text.to_owned(), |number| number.to_string()),
        _ => text.to_owned(),
    }
}

/// Returns one text for a moment, which the portal prints with whatever offset its zone has at present.
fn moment(text: &str) -> Option<String> {
    const LENGTH: usize = "2026-01-10T10:00:00+03:00".len();
    if text.len() != LENGTH || text.as_bytes().get(10) != Some(&b'T') {
        return None;
    }
    Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp().to_string())
}

/// Tells whether a text is a number as JSON writes it. `007` and `+7` are texts: their form says something.
fn is_json_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && serde_json::from_str::<serde_json::Number>(text).is_ok()
        && text.bytes().all(|byte| byte.is_ascii_digit() || b"-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn digest(record: &Value) -> String {
        let text = record.to_string();
        let fields: Fields<'_> = serde_json::from_str(&text).unwrap();
        let mut fingerprint = Fingerprint::new();
        fingerprint.add_fields("record", &fields, |key| key != "DATE_MODIFY");
        fingerprint.finish()
    }

    fn alike(one: Value, other: Value) {
        assert_eq!(digest(&one), digest(&other), "{one} {other}");
    }

    fn different(one: Value, other: Value) {
        assert_ne!(digest(&one), digest(&other), "{one} {other}");
    }

    #[test]
    fn the_same_thing_in_other_words_is_the_same() {
        alike(json!({"ID": "75"}), json!({"ID": 75}));
        // The portal moved, or its clocks were set on.
        alike(json!({"BORN": "2012-05-17T03:00:00+03:00"}), json!({"BORN": "2012-05-17T04:00:00+04:00"}));
        different(json!({"BORN": "2012-05-17T03:00:00+03:00"}), json!({"BORN": "2012-05-18T03:00:00+03:00"}));
        different(json!({"BORN": "2012-05-17"}), json!({"BORN": "2012-05-17T03:00:00+03:00"}));
        alike(json!({"OPPORTUNITY": "1500.00"}), json!({"OPPORTUNITY": 1500}));
        alike(json!({"PRICE": "8702.2999999999993"}), json!({"PRICE": 8702.3}));
        alike(json!({"UF": [348, 350]}), json!({"UF": {"0": "348", "1": "350"}}));
        for nothing in [json!(null), json!(false), json!(""), json!([]), json!({}), json!([""])] {
            alike(json!({"UF": nothing}), json!({}));
        }
        alike(
            json!({"PHONE": [{"ID": "2", "VALUE": "b"}, {"ID": "1", "VALUE": "a"}]}),
            json!({"PHONE": [{"VALUE": "a", "ID": 1}, {"VALUE": "b", "ID": 2}]}),
        );
        alike(json!({"A": "1", "DATE_MODIFY": "x"}), json!({"DATE_MODIFY": "y", "A": "1"}));
    }

    #[test]
    fn another_thing_is_not() {
        different(json!({"A": "1"}), json!({"A": "2"}));
        different(json!({"A": "007"}), json!({"A": "7"}));
        different(json!({"A": "+7926"}), json!({"A": "7926"}));
        different(json!({"A": "ab"}), json!({"A": "a", "B": "b"}));
        different(json!({"A": "1"}), json!({"B": "1"}));
        different(json!({"A": [1, 2]}), json!({"A": [2, 1]}));
        different(json!({"A": [12]}), json!({"A": [1, 2]}));
        different(json!({"A": "x=1,1:B"}), json!({"A": "x", "B": "1"}));
        different(json!({"A": true}), json!({"A": false}));
        different(json!({"A": "0"}), json!({"A": ""}));
    }

    #[test]
    fn rows_count_by_the_fields_named() {
        let digest = |rows: &[Value]| {
            let rows: Vec<_> = rows.iter().map(|row| serde_json::value::to_raw_value(row).unwrap()).collect();
            let mut fingerprint = Fingerprint::new();
            fingerprint.add_rows("rows", &rows, &["PRICE", "QUANTITY"]);
            fingerprint.finish()
        };
        let one = digest(&[json!({"ID": "1", "PRICE": 8700.0, "QUANTITY": 1})]);
        assert_eq!(one, digest(&[json!({"ID": 1, "PRICE": "8700.00", "QUANTITY": "1", "XML_ID": null})]));
        assert_ne!(one, digest(&[json!({"PRICE": 8700, "QUANTITY": 2})]));
        assert_ne!(digest(&[]), digest(&[json!({"PRICE": 1}), json!({"PRICE": 1})]));
        assert_ne!(digest(&[]), digest(&[json!({})]));
    }

    #[test]
    fn what_cannot_be_read_is_compared_as_it_stands() {
        let digest = |text: &str| {
            let fields: Fields<'_> = serde_json::from_str(text).unwrap();
            let mut fingerprint = Fingerprint::new();
            fingerprint.add_fields("record", &fields, |_| true);
            fingerprint.finish()
        };
        assert_ne!(digest(r#"{"A":"\ud800"}"#), digest(r#"{"A":"\ud801"}"#));
    }

    fn scalars() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|cents| Value::from(f64::from(cents) / 100.0)),
            ".*".prop_map(Value::from)
        ]
    }

    fn as_text(value: &Value) -> Value {
        match value {
            Value::Number(number) => Value::String(number.to_string()),
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn numbers_may_come_as_texts(record in prop::collection::btree_map("[A-Z]{1,6}", scalars(), 0..8)) {
            let texts: serde_json::Map<String, Value> =
                record.iter().map(|(key, value)| (key.clone(), as_text(value))).collect();
            let record: serde_json::Map<String, Value> = record.into_iter().collect();
            prop_assert_eq!(digest(&Value::Object(record)), digest(&Value::Object(texts)));
        }

        #[test]
        fn another_text_is_another_digest(one in "[а-яА-Я =:,\"]{0,8}", other in "[а-яА-Я =:,\"]{0,8}") {
            let same = digest(&json!({"A": one})) == digest(&json!({"A": other}));
            prop_assert_eq!(same, one == other);
        }
    }
}
