#![doc = include_str!("../README.md")]

mod contact;
mod date;
mod deal;
mod metrics;
mod money;
mod phone;
mod php;
mod price;
mod rules;
mod stage;
mod text;

use schemas::{Entity, Mapping, RecordChanged, RecordId, RecordRef};

pub use date::NoDate;
pub use money::{NoAmount, Rubles};
pub use phone::{NoPhone, Phone};
pub use rules::{DEFAULT_MAPPING, EnumerationUse, FieldKind, FieldUse, Position, Rules, RulesError};
pub use stage::{MAPPING_FILE, Mapper, outgoing};

/// Reads a calendar date as it is written, in any form in which Bitrix24 sends one.
pub use date::parse as parse_date;

/// Maps one version of a record, and tells the pupil behind whom it has to queue.
///
/// Total and pure: any input gives an answer, and the same input always the same. The pupil is the contact
/// itself, or the contact of a deal where the deal names one.
pub fn map_record(rules: &Rules, record: RecordRef, changed: &RecordChanged) -> (Option<RecordId>, Mapping) {
    match record.entity {
        Entity::Contact => (Some(record.id), contact::map(&rules.contact, changed)),
        Entity::Deal => deal::map(&rules.deal, changed),
    }
}
