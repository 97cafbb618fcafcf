//! The shapes in which PHP may send one and the same value, reduced to one.
//!
//! Bitrix24 sends `null`, `""`, `false`, `[]` and `{}` for nothing, numbers as strings and strings as numbers,
//! a bare value for a list of one, and an object for a list whose keys have gaps. All of that is settled here
//! and nowhere else. Only wanted fields are looked into: whatever the others hold, they cost one scan.

use std::fmt;

use schemas::problem::clean;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Deepest nesting that a wanted value has: a list of objects of values, with one level to spare.
const DEPTH: usize = 4;

/// Longest excerpt of a value of another kind than expected, in bytes of JSON.
const EXCERPT: usize = 240;

/// A value of a wanted field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Php {
    /// Nothing, in whichever way it was said; also a text in which nothing can be seen.
    Absent,
    /// A text, as sent.
    Text(String),
    /// The digits of a number, exactly as sent: as a float it would lose kopecks and ids.
    Number(String),
    /// The values of a list that are not absent.
    List(Vec<Php>),
    /// An object.
    Object(Vec<(String, Php)>),
    /// Something that no field of ours can be, as an excerpt of its JSON.
    Odd(String),
}

/// A value is of another kind than its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// What was found, bounded.
    pub excerpt: String,
}

impl Php {
    /// Reads a value of any shape.
    pub fn parse(json: &str) -> Php {
        Php::parse_to(json, DEPTH)
    }

    fn parse_to(json: &str, depth: usize) -> Php {
        let json = json.trim_ascii();
        match json.bytes().next() {
            None | Some(b'n' | b'f') => Php::Absent,
            Some(b'"') => serde_json::from_str(json).map_or_else(|_| Php::odd(json), Php::text_of),
            Some(b'[') if depth > 0 => Php::list_of(json, depth - 1),
            Some(b'{') if depth > 0 => Php::object_of(json, depth - 1),
            Some(b'-' | b'0'..=b'9') => Php::Number(json.to_owned()),
            Some(_) => Php::odd(json),
        }
    }

    fn text_of(text: String) -> Php {
        if clean(&text).is_empty() { Php::Absent } else { Php::Text(text) }
    }

    fn list_of(json: &str, depth: usize) -> Php {
        let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(json) else { return Php::odd(json) };
        let items: Vec<Php> = items
            .into_iter()
            .map(|item| Php::parse_to(item.get(), depth))
            .filter(|item| *item != Php::Absent)
            .collect();
        if items.is_empty() { Php::Absent } else { Php::List(items) }
    }

    fn object_of(json: &str, depth: usize) -> Php {
        let mut members: Vec<(String, Php)> = Vec::new();
        let read = for_each_member(
            json,
            |_| true,
            |key, value| {
                members.push((key, Php::parse_to(value, depth)));
            },
        );
        match read {
            Ok(()) if members.is_empty() => Php::Absent,
            Ok(()) => Php::Object(members),
            Err(_) => Php::odd(json),
        }
    }

    fn odd(json: &str) -> Php {
        Php::Odd(excerpt(json))
    }

    /// Returns the text of a scalar, or of the only one of a list.
    pub fn text(&self) -> Result<Option<&str>, Unreadable> {
        match self {
            Php::Absent => Ok(None),
            Php::Text(text) | Php::Number(text) => Ok(Some(text)),
            Php::List(items) => match items.as_slice() {
                [only @ (Php::Text(_) | Php::Number(_))] => only.text(),
                _ => Err(self.unreadable()),
            },
            Php::Object(_) | Php::Odd(_) => Err(self.unreadable()),
        }
    }

    /// Returns the values of a list, however it was sent. Members of an object come in the order of its keys.
    pub fn items(&self) -> Vec<&Php> {
        match self {
            Php::Absent => Vec::new(),
            Php::List(items) => items.iter().collect(),
            Php::Object(members) => {
                members.iter().map(|(_, value)| value).filter(|value| **value != Php::Absent).collect()
            }
            scalar => vec![scalar],
        }
    }

    /// Returns the objects of a list; one that itself has the key `mark` is a list of one.
    pub fn objects(&self, mark: &str) -> Vec<&Php> {
        match self {
            Php::Object(members) if members.iter().any(|(key, _)| key == mark) => vec![self],
            other => other.items(),
        }
    }

    /// Returns a member of an object; of equal keys the last counts, as in PHP and JavaScript.
    pub fn member(&self, key: &str) -> &Php {
        match self {
            Php::Object(members) => {
                members.iter().rev().find(|(name, _)| name == key).map_or(&Php::Absent, |(_, value)| value)
            }
            _ => &Php::Absent,
        }
    }

    /// Returns the id of a list value: a positive whole number in any spelling.
    pub fn id(&self) -> Option<u64> {
        let text = self.text().ok()??.trim();
        let whole = text.split_once('.').map_or(text, |(whole, fraction)| {
            if !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0') { whole } else { text }
        });
        let is_plain = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
        whole.parse().ok().filter(|id| is_plain && *id > 0)
    }

    /// Tells a number that stands for "none": Bitrix24 writes 0 where no id is.
    pub fn is_zero(&self) -> bool {
        matches!(self.text(), Ok(Some(text)) if !text.trim().is_empty() && text.trim().bytes().all(|byte| byte == b'0'))
    }

    /// Returns what to show of a value, whatever it is.
    pub fn shown(&self) -> String {
        match self {
            Php::Absent => String::new(),
            Php::Text(text) | Php::Number(text) => excerpt(text),
            Php::Odd(json) => json.clone(),
            Php::List(items) => items.iter().take(8).map(Php::shown).collect::<Vec<_>>().join(", "),
            Php::Object(members) => {
                let values = members.iter().filter(|(_, value)| *value != Php::Absent).take(8);
                values
                    .map(|(key, value)| format!("{}={}", excerpt(key), value.shown()))
                    .collect::<Vec<_>>()
                    .join(", ")
            }
        }
    }

    fn unreadable(&self) -> Unreadable {
        Unreadable { excerpt: excerpt(&self.shown()) }
    }
}

/// The wanted fields of a record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    members: Vec<(String, Php)>,
    trimmed: Vec<String>,
}

impl Record {
    /// Reads the wanted fields of an object, or of the only object of a list.
    ///
    /// Returns `None` for what is no object at all.
    pub fn read(json: &RawValue, wanted: &[&str], trimmed: &[String]) -> Option<Record> {
        let mut json = json.get().trim_ascii();
        if json.starts_with('[') {
            let rows: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            json = rows.first()?.get();
        }
        let mut members: Vec<(String, Php)> = Vec::new();
        for_each_member(
            json,
            |key| wanted.contains(&key),
            |key, value| members.push((key, Php::parse(value))),
        )
        .ok()?;
        Some(Record { members, trimmed: trimmed.to_vec() })
    }

    /// Returns a field; one that is not there is absent. Of equal keys the last counts.
    pub fn field(&self, code: &str) -> &Php {
        self.members.iter().rev().find(|(name, _)| name == code).map_or(&Php::Absent, |(_, value)| value)
    }

    /// Tells that a field was left out of the message because of its size.
    pub fn is_trimmed(&self, code: &str) -> bool {
        self.trimmed.iter().any(|name| name == code)
    }
}

fn excerpt(text: &str) -> String {
    let mut end = text.len().min(EXCERPT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Calls `take` for each wanted member of an object with the member's JSON; skips the others without keeping them.
fn for_each_member(
    json: &str,
    wanted: impl Fn(&str) -> bool,
    take: impl FnMut(String, &str),
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    Members { wanted, take }.deserialize(&mut deserializer)?;
    deserializer.end()
}

struct Members<W, T> {
    wanted: W,
    take: T,
}

impl<'de, W: Fn(&str) -> bool, T: FnMut(String, &str)> DeserializeSeed<'de> for Members<W, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, W: Fn(&str) -> bool, T: FnMut(String, &str)> Visitor<'de> for Members<W, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if (self.wanted)(&key) {
                let value: &RawValue = map.next_value()?;
                (self.take)(key, value.get());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}
