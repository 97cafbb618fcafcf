//! What a message is about: one record of one entity.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number of partitions that every partitioned subject is spread over.
///
/// Part of the contract of the streams: order per record holds because a record never changes its partition.
pub const PARTITIONS: u32 = 16;

/// Names a kind of record in Bitrix24's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Entity {
    /// A pupil; a client in otmechalka.
    Contact,
    /// A won deal; a ticket in otmechalka.
    Deal,
}

impl Entity {
    /// All entities, in the order in which their records depend on each other.
    pub const ALL: [Entity; 2] = [Entity::Contact, Entity::Deal];

    /// Returns the token that stands for this entity in subjects, keys and log fields.
    pub fn token(self) -> &'static str {
        match self {
            Entity::Contact => "contact",
            Entity::Deal => "deal",
        }
    }

    /// Reads the token back.
    pub fn from_token(token: &str) -> Option<Entity> {
        Entity::ALL.into_iter().find(|entity| entity.token() == token)
    }
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// Identifies a record within its entity: a positive whole number in its one canonical form.
///
/// Bitrix24 sends ids as strings and as numbers; subjects, keys and URLs are only safe with digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(u64);

/// Says why a text is no record id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a record id is a positive whole number in digits")]
pub struct InvalidRecordId;

impl RecordId {
    /// Reads an id from text, tolerating surrounding blanks and leading zeros.
    pub fn parse(text: &str) -> Result<RecordId, InvalidRecordId> {
        let digits = text.trim();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidRecordId);
        }
        digits.parse().map_err(|_| InvalidRecordId).and_then(RecordId::try_new)
    }

    /// Takes a number as an id; zero means "none" in Bitrix24 and is refused.
    pub fn try_new(number: u64) -> Result<RecordId, InvalidRecordId> {
        if number == 0 { Err(InvalidRecordId) } else { Ok(RecordId(number)) }
    }

    /// Reads an id as Bitrix24 sends it: a string or a number.
    pub fn from_json(value: &serde_json::Value) -> Result<RecordId, InvalidRecordId> {
        match value {
            serde_json::Value::String(text) => RecordId::parse(text),
            serde_json::Value::Number(number) => {
                number.as_u64().ok_or(InvalidRecordId).and_then(RecordId::try_new)
            }
            _ => Err(InvalidRecordId),
        }
    }

    /// Returns the number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Returns the partition that the work of this pupil or record belongs to.
    pub fn partition(self) -> Partition {
        Partition(crc32fast::hash(self.to_string().as_bytes()) % PARTITIONS)
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for RecordId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecordId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        RecordId::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for RecordId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RecordId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[1-9][0-9]*$",
            "description": "A positive whole number in digits."
        })
    }
}

/// Numbers one of the [`PARTITIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(u32);

impl Partition {
    /// Returns every partition.
    pub fn all() -> impl Iterator<Item = Partition> {
        (0..PARTITIONS).map(Partition)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

/// Names one record: its entity and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct RecordRef {
    /// Kind of record.
    pub entity: Entity,
    /// Its id in Bitrix24, and its `origin_id` in otmechalka.
    pub id: RecordId,
}

impl RecordRef {
    /// Names a contact.
    pub fn contact(id: RecordId) -> RecordRef {
        RecordRef { entity: Entity::Contact, id }
    }

    /// Names a deal.
    pub fn deal(id: RecordId) -> RecordRef {
        RecordRef { entity: Entity::Deal, id }
    }

    /// Reads the form that [`fmt::Display`] writes: `contact.39910`.
    pub fn parse(text: &str) -> Option<RecordRef> {
        let (entity, id) = text.split_once('.')?;
        Some(RecordRef { entity: Entity::from_token(entity)?, id: RecordId::parse(id).ok()? })
    }

    /// Returns the partition of facts about this record itself, whichever pupil it belongs to.
    pub fn partition(self) -> Partition {
        self.id.partition()
    }
}

impl fmt::Display for RecordRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.entity, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_have_one_canonical_form() {
        for text in ["39558", "39558 ", " 39558", "0039558"] {
            assert_eq!(RecordId::parse(text).map(RecordId::get), Ok(39558), "{text:?}");
        }
        for text in ["", " ", "0", "-5", "+5", "1.5", "12a", "sync.>.*", "١٢", "99999999999999999999999"] {
            assert_eq!(RecordId::parse(text), Err(InvalidRecordId), "{text:?}");
        }
        assert_eq!(
            RecordId::from_json(&serde_json::json!(9_007_199_254_740_993_u64)).map(RecordId::get),
            Ok(9_007_199_254_740_993)
        );
        assert_eq!(RecordId::from_json(&serde_json::Value::Null), Err(InvalidRecordId));
    }

    #[test]
    fn partitions_are_part_of_the_contract_and_do_not_move() {
        let of = |id: u64| RecordId::try_new(id).unwrap().partition().to_string();
        assert_eq!((of(1), of(39910), of(96036)), ("07".into(), "01".into(), "14".into()));
    }

    proptest! {
        #[test]
        fn a_record_reference_survives_its_text(id in 1u64.., deal: bool) {
            let id = RecordId::try_new(id).unwrap();
            let record = if deal { RecordRef::deal(id) } else { RecordRef::contact(id) };
            prop_assert_eq!(RecordRef::parse(&record.to_string()), Some(record));
        }
    }
}
