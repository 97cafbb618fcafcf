//! Stored records and which of their versions a list may already see.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::clock::Zone;
use super::dates::parse_moment;

/// A stored contact or deal: upper-case keys, canonical values.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: u64,
    pub fields: Map<String, Value>,
    /// `DATE_CREATE` in Unix seconds, read out once because every list compares it.
    pub created: i64,
    /// `DATE_MODIFY` in Unix seconds.
    pub modified: i64,
}

impl Record {
    /// Takes over the fields of a record; times without an offset are read in this zone.
    pub fn new(id: u64, fields: Map<String, Value>, zone: Zone) -> Self {
        let seconds = |name: &str| {
            let text = fields.get(name).and_then(Value::as_str);
            text.and_then(|text| parse_moment(text, zone)).map_or(0, |moment| moment.timestamp())
        };
        let (created, modified) = (seconds("DATE_CREATE"), seconds("DATE_MODIFY"));
        Self { id, fields, created, modified }
    }

    /// Returns a stored value; `Null` when there is none.
    pub fn value(&self, name: &str) -> &Value {
        self.fields.get(name).unwrap_or(&Value::Null)
    }

    /// Returns a stored scalar as text.
    pub fn text(&self, name: &str) -> String {
        scalar_text(self.value(name)).unwrap_or_default()
    }
}

/// Prints a scalar; `None` for null, `false`, lists and objects.
pub fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(true) => Some("1".to_owned()),
        _ => None,
    }
}

/// Tells whether a stored value stands for "nothing": null, `false`, `""` or an empty list.
pub fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
}

/// Records by id. A write may become readable to lists later than it was made.
#[derive(Debug, Default)]
pub struct Table {
    slots: BTreeMap<u64, Vec<Version>>,
}

#[derive(Debug)]
struct Version {
    readable_from: f64,
    record: Arc<Record>,
}

impl Table {
    /// Returns the newest version of a record.
    pub fn get(&self, id: u64) -> Option<&Arc<Record>> {
        self.slots.get(&id).and_then(|versions| versions.last()).map(|version| &version.record)
    }

    /// Stores a new version that lists may read from `now + delay` on.
    pub fn put(&mut self, record: Arc<Record>, now: f64, delay: f64) {
        let versions = self.slots.entry(record.id).or_default();
        if delay <= 0.0 {
            versions.clear();
        }
        let superseded = versions.iter().rposition(|version| version.readable_from <= now).unwrap_or(0);
        versions.drain(..superseded);
        versions.push(Version { readable_from: now + delay, record });
    }

    /// Removes a record and returns its last version.
    pub fn remove(&mut self, id: u64) -> Option<Arc<Record>> {
        self.slots.remove(&id)?.pop().map(|version| version.record)
    }

    /// Walks over the newest versions by id.
    pub fn newest(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.slots.values().filter_map(|versions| versions.last()).map(|version| &version.record)
    }

    /// Walks over what a list may read now, ids greater than `after`, in either direction.
    pub fn readable(&self, after: u64, now: f64) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        let range = self.slots.range(after.saturating_add(1)..);
        range.filter_map(move |(_, versions)| {
            let readable = versions.iter().rev().find(|version| version.readable_from <= now);
            readable.map(|version| &version.record)
        })
    }

    /// Returns the greatest id.
    pub fn last_id(&self) -> u64 {
        self.slots.keys().next_back().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u64, name: &str) -> Arc<Record> {
        let fields = Map::from_iter([("NAME".to_owned(), Value::from(name))]);
        Arc::new(Record::new(id, fields, Zone::parse("+03:00").expect("an offset")))
    }

    fn names(table: &Table, now: f64) -> Vec<String> {
        table.readable(0, now).map(|record| record.text("NAME")).collect()
    }

    #[test]
    fn a_delayed_write_is_readable_only_after_its_delay() {
        let mut table = Table::default();
        table.put(record(1, "old"), 0.0, 0.0);
        table.put(record(1, "new"), 100.0, 30.0);
        table.put(record(2, "late"), 100.0, 30.0);
        assert_eq!(names(&table, 129.0), ["old"]);
        assert_eq!(names(&table, 130.0), ["new", "late"]);
        assert_eq!(table.get(1).map(|record| record.text("NAME")).as_deref(), Some("new"));
    }

    #[test]
    fn several_waiting_versions_become_readable_one_after_another() {
        let mut table = Table::default();
        table.put(record(1, "a"), 0.0, 0.0);
        table.put(record(1, "b"), 10.0, 30.0);
        table.put(record(1, "c"), 20.0, 30.0);
        assert_eq!(names(&table, 39.0), ["a"]);
        assert_eq!(names(&table, 45.0), ["b"]);
        assert_eq!(names(&table, 50.0), ["c"]);
    }
}
