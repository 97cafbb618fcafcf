//! Changes to JSON that keep it JSON, or nearly: what a CRM with a bad day could send.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Texts of values as they are to stand in the JSON, valid there or not.
pub const HOSTILE: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-1",
    "\"\"",
    "\"0\"",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "\" \\u00a0 \"",
    "1e400",
    "-1e-400",
    "1e21",
    "NaN",
    "8702.2999999999993",
    "9007199254740993",
    "18446744073709551616",
    "99999999999999999999999999999999999999",
    "\"39558 \"",
    "\"+39558\"",
    "\"\\ud800\"",
    "\"\\u0000\\u0007\\u001b[31m\"",
    "\"\\r\\nStatus: 200\"",
    "\"\\u202eабв\\u2028\"",
    "\"👨\\u200d👩\\u200d👧 й\"",
    "\"<script>alert(1)</script>\"",
    "\"'; DROP TABLE pupils; --\"",
    "\"{{7*7}} ${jndi:ldap://x} %s%n\"",
    "\"sync.>.*\"",
    "\"$result[0][ID]\"",
    "\"А=Б&ID=1#x+y 100 %\"",
    "\"2010-02-31\"",
    "\"0000-00-00T00:00:00+03:00\"",
    "\"2009-11-29T00:00:00+04:00\"",
    "\"a:1:{s:4:\\\"TEXT\\\";s:3:\\\"abc\\\";}\"",
    "{\"0\":\"1\",\"2\":\"3\"}",
    "{\"VALUE\":\"8 (926) 123-45-67\"}",
    "[{\"VALUE\":false},{\"VALUE\":[]}]",
    "{\"error\":\"\",\"error_description\":\"x\"}",
];

/// Stands for a text that is no value until the JSON is written.
const MARK: &str = "@raw@";

/// Changes a JSON text at one place; `None` where it is none.
pub fn mutate(text: &str, other: Option<&str>, dice: &mut ChaCha8Rng) -> Option<String> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    let other: Option<Value> = other.and_then(|text| serde_json::from_str(text).ok());
    let places = count(&value);
    let at = dice.random_range(0..places);
    let raw = change(nth(&mut value, at)?, other.as_ref(), dice);
    let written = value.to_string();
    Some(match raw {
        Some(raw) => written.replacen(&format!("\"{MARK}\""), &raw, 1),
        None => written,
    })
}

/// Changes one value in place, or marks it and returns the text that is to stand there.
fn change(value: &mut Value, other: Option<&Value>, dice: &mut ChaCha8Rng) -> Option<String> {
    match dice.random_range(0..10) {
        0..=3 => {
            let hostile = HOSTILE[dice.random_range(0..HOSTILE.len())];
            return mark(value, hostile.to_owned());
        }
        4 => return mark(value, deep(dice)),
        5 => return mark(value, long(dice)),
        6 => *value = Value::Array(vec![value.clone(); dice.random_range(1..4)]),
        7 => *value = Value::String(value.to_string()),
        8 => return mark(value, twice(value)),
        _ => match other {
            Some(other) => {
                let mut other = other.clone();
                let at = dice.random_range(0..count(&other));
                *value = nth(&mut other, at).map(|place| place.take()).unwrap_or_default();
            }
            None => remove_one(value, dice),
        },
    }
    None
}

fn mark(value: &mut Value, raw: String) -> Option<String> {
    *value = Value::String(MARK.to_owned());
    Some(raw)
}

fn deep(dice: &mut ChaCha8Rng) -> String {
    let levels = [3, 127, 128, 129, 1_000, 20_000][dice.random_range(0..6)];
    let (open, close) = if dice.random::<bool>() { ("[", "]") } else { ("{\"a\":", "}") };
    format!("{}1{}", open.repeat(levels), close.repeat(levels))
}

fn long(dice: &mut ChaCha8Rng) -> String {
    let length = [60, 61, 100, 101, 255, 256, 1_000, 20_000][dice.random_range(0..8)];
    let letter = ["я", "7", " ", "👨", "\\n", "и\u{306}"][dice.random_range(0..6)];
    format!("\"{}\"", letter.repeat(length))
}

/// Writes every member of an object twice.
fn twice(value: &Value) -> String {
    match value.as_object() {
        Some(members) if !members.is_empty() => {
            let text = value.to_string();
            let inside = &text[1..text.len() - 1];
            format!("{{{inside},{inside}}}")
        }
        _ => format!("{{\"ID\":{value},\"ID\":{value}}}"),
    }
}

fn remove_one(value: &mut Value, dice: &mut ChaCha8Rng) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            let key = members.keys().nth(dice.random_range(0..members.len())).cloned();
            key.and_then(|key| members.remove(&key));
        }
        Value::Array(items) if !items.is_empty() => {
            items.remove(dice.random_range(0..items.len()));
        }
        other => *other = Value::Null,
    }
}

/// Counts a value and all values in it.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

/// Returns one of the values that [`count`] counts.
fn nth(value: &mut Value, at: usize) -> Option<&mut Value> {
    let Some(mut rest) = at.checked_sub(1) else { return Some(value) };
    let children: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(items) => Box::new(items.iter_mut()),
        Value::Object(members) => Box::new(members.values_mut()),
        _ => return None,
    };
    for child in children {
        let size = count(child);
        if rest < size {
            return nth(child, rest);
        }
        rest -= size;
    }
    None
}
