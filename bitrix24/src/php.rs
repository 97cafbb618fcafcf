//! The looks PHP gives to JSON: empty maps that arrive as lists, numbers that arrive as text.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The entries of an object in the order they came; `[]` and null are an empty one.
///
/// With numeric keys PHP turns a map into a list, and its entries cannot be told apart any more, so a
/// list with entries is refused.
#[derive(Debug)]
pub(crate) struct Entries<T>(pub(crate) Vec<(String, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Entries<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        match seq.next_element::<IgnoredAny>()? {
            None => Ok(Entries::default()),
            Some(_) => Err(de::Error::custom("a list in place of an object")),
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Entries::default())
    }
}

/// A list, or the object that PHP makes of one whose numbering has a gap.
#[derive(Debug)]
pub(crate) struct Rows(pub(crate) Vec<Box<RawValue>>);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RowsVisitor)
    }
}

struct RowsVisitor;

impl<'de> Visitor<'de> for RowsVisitor {
    type Value = Rows;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Rows, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = seq.next_element()? {
            rows.push(row);
        }
        Ok(Rows(rows))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rows, A::Error> {
        let mut rows = BTreeMap::new();
        while let Some((key, row)) = map.next_entry::<String, Box<RawValue>>()? {
            let index = digits(&key).ok_or_else(|| de::Error::custom("an object that is no list"))?;
            rows.insert(index, row);
        }
        Ok(Rows(rows.into_values().collect()))
    }
}

/// Checks a text the way parsing it into values would, without building them.
///
/// Raw values pass on what nobody has looked at: lone surrogates, numbers beyond all bounds, nesting
/// that would overflow a stack further on. One look here spares everyone behind us.
pub(crate) fn check(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<Looked>(text).map(|_| ())
}

struct Looked;

impl<'de> Deserialize<'de> for Looked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LookedVisitor)
    }
}

struct LookedVisitor;

impl<'de> Visitor<'de> for LookedVisitor {
    type Value = Looked;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Looked, E> {
        Ok(Looked)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Looked, E> {
        Ok(Looked)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Looked, E> {
        Ok(Looked)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Looked, E> {
        Ok(Looked)
    }

    fn visit_str<E>(self, _: &str) -> Result<Looked, E> {
        Ok(Looked)
    }

    fn visit_unit<E>(self) -> Result<Looked, E> {
        Ok(Looked)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Looked, A::Error> {
        while seq.next_element::<Looked>()?.is_some() {}
        Ok(Looked)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Looked, A::Error> {
        while map.next_entry::<Looked, Looked>()?.is_some() {}
        Ok(Looked)
    }
}

/// Reads an id or a count, be it a number or text.
pub(crate) fn whole_number(raw: &RawValue) -> Option<u64> {
    match serde_json::from_str(raw.get()).ok()? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => digits(text.trim()),
        _ => None,
    }
}

/// Stricter than `parse`, which lets a plus sign pass.
fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Reads a number that is one, or is written as text.
pub(crate) fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// Keeps a key that is there with the value null apart from one that is not there.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Option<u64> {
        whole_number(&RawValue::from_string(text.to_owned()).expect("JSON"))
    }

    #[test]
    fn ids_are_read_from_numbers_and_text() {
        assert_eq!(id("39558"), Some(39558));
        assert_eq!(id("\"39558\""), Some(39558));
        assert_eq!(id("\"39558 \""), Some(39558));
        assert_eq!(id("18446744073709551615"), Some(u64::MAX));
        for text in ["-1", "\"-1\"", "\"+1\"", "\"\"", "null", "[]", "1.5", "\"18446744073709551616\""] {
            assert_eq!(id(text), None, "{text}");
        }
    }

    #[test]
    fn an_empty_list_is_an_empty_map_and_a_full_one_is_none() {
        assert_eq!(serde_json::from_str::<Entries<u64>>("[]").expect("empty").0, []);
        assert_eq!(serde_json::from_str::<Entries<u64>>("{\"b\":1,\"a\":2}").expect("map").0.len(), 2);
        assert!(serde_json::from_str::<Entries<u64>>("[1]").is_err());
    }

    #[test]
    fn a_list_numbered_by_php_is_a_list() {
        let rows = |text| serde_json::from_str::<Rows>(text).map(|rows| rows.0.len());
        assert_eq!(rows("[1,2]").expect("a list"), 2);
        let numbered: Rows = serde_json::from_str(r#"{"10":"c","2":"b","0":"a"}"#).expect("a list");
        assert_eq!(numbered.0.iter().map(|row| row.get()).collect::<String>(), r#""a""b""c""#);
        assert!(rows(r#"{"ID":1}"#).is_err());
        assert!(rows("null").is_err());
    }

    #[test]
    fn what_a_later_reader_would_choke_on_is_found_here() {
        assert!(check(r#"{"a":[1,null,"й",{"b":1.5e3}]}"#).is_ok());
        assert!(check(r#"{"a":"\ud800"}"#).is_err());
        assert!(check(r#"{"a":1e400}"#).is_err());
        assert!(check(&"[".repeat(100_000)).is_err());
        assert!(check(&format!("{}{}", "[".repeat(1_000), "]".repeat(1_000))).is_err());
        assert!(check("{} trailing").is_err());
    }
}
