//! Making a version fit into a message: the bulkiest fields that nobody needs go first. Pure.

use std::collections::BTreeMap;

use schemas::RecordChanged;
use serde_json::value::{RawValue, to_raw_value};

use crate::entity::{CREATED, MODIFIED, TELLING_ROW_FIELDS};
use crate::fingerprint::Fields;

/// Fields that the mapping may need.
pub const NEEDED: [&str; 11] = [
    "ID",
    CREATED,
    MODIFIED,
    "STAGE_ID",
    "CONTACT_ID",
    "ASSIGNED_BY_ID",
    "NAME",
    "LAST_NAME",
    "PHONE",
    "EMAIL",
    "CURRENCY_ID",
];

/// Longest custom or needed field that counts as one a person filled in for us, in bytes.
const MODEST: usize = 4 << 10;

/// Most product rows that travel where there is no room for all; a ticket has exactly one.
const FEW_ROWS: usize = 20;

/// Name under which left-out product rows are listed.
const ROWS: &str = "PRODUCT_ROWS";

/// Name under which a left-out seller is listed.
const SELLER: &str = "SELLER";

/// Leaves out what does not fit into this many bytes of JSON, and lists it.
///
/// The result may still be too big only if `limit` is below what the few fields without which nothing is left take.
pub fn fit(mut changed: RecordChanged, limit: usize) -> RecordChanged {
    let mut excess = size(&changed).saturating_sub(limit);
    if excess == 0 {
        return changed;
    }
    excess = excess.saturating_sub(trim_rows(&mut changed, limit));
    if excess > 0 && changed.seller.as_ref().is_some_and(|seller| seller.get().len() > MODEST) {
        excess = excess.saturating_sub(changed.seller.take().map_or(0, |seller| seller.get().len()));
        changed.trimmed.push(SELLER.into());
    }
    if excess > 0 {
        trim_record(&mut changed, excess);
    }
    changed
}

fn size(changed: &RecordChanged) -> usize {
    let length = |raw: &Option<Box<RawValue>>| raw.as_ref().map_or(0, |raw| raw.get().len());
    // Room for the keys, the times and the status.
    const FRAME: usize = 512;
    let status = changed.status.as_ref().map_or(0, |status| 6 * status.len());
    FRAME + status + changed.record.get().len() + length(&changed.product_rows) + length(&changed.seller)
}

/// Shortens product rows that take a good part of the room, and returns how many bytes that saved.
fn trim_rows(changed: &mut RecordChanged, limit: usize) -> usize {
    let Some(rows) = changed.product_rows.as_ref().filter(|rows| rows.get().len() > limit / 4) else {
        return 0;
    };
    let before = rows.get().len();
    let Some(few) = few_rows(rows) else { return 0 };
    let saved = before.saturating_sub(few.get().len());
    changed.product_rows = Some(few);
    changed.trimmed.push(ROWS.into());
    saved
}

fn few_rows(rows: &RawValue) -> Option<Box<RawValue>> {
    let rows: Vec<Fields<'_>> = serde_json::from_str(rows.get()).ok()?;
    let telling = |(key, value): &(&String, &&RawValue)| {
        (TELLING_ROW_FIELDS.contains(&key.as_str()) || *key == "ID" || *key == "OWNER_ID")
            && value.get().len() <= MODEST
    };
    let few: Vec<BTreeMap<&String, &&RawValue>> =
        rows.iter().take(FEW_ROWS).map(|row| row.iter().filter(telling).collect()).collect();
    to_raw_value(&few).ok()
}

fn trim_record(changed: &mut RecordChanged, excess: usize) {
    let Ok(mut fields) = serde_json::from_str::<Fields<'_>>(changed.record.get()) else { return };
    // Whitespace and repeated keys go by reading alone.
    let entry = |key: &str, raw: &RawValue| key.len() + raw.get().len() + 4;
    let read: usize = fields.iter().map(|(key, raw)| entry(key, raw)).sum();
    let mut excess = excess.saturating_sub(changed.record.get().len().saturating_sub(read));
    let mut candidates: Vec<(u8, std::cmp::Reverse<usize>, String)> = fields
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "ID" | MODIFIED))
        .map(|(key, raw)| (need(key, raw), std::cmp::Reverse(entry(key, raw)), key.clone()))
        .collect();
    candidates.sort();
    let mut left_out = Vec::new();
    for (_, std::cmp::Reverse(bytes), key) in candidates {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(bytes);
        fields.remove(&key);
        left_out.push(key);
    }
    if let Ok(record) = to_raw_value(&fields) {
        changed.record = record;
        changed.trimmed.extend(left_out);
    }
}

/// Orders fields by how much they would be missed.
fn need(key: &str, raw: &RawValue) -> u8 {
    let wanted = NEEDED.contains(&key) || key == "OPPORTUNITY" || key.starts_with("UF_");
    match (wanted, raw.get().len() <= MODEST) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{at, deal};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn changed(record: &Value) -> RecordChanged {
        RecordChanged {
            observed: at("2026-01-10T10:00:00+03:00"),
            status: Some(String::new()),
            record: to_raw_value(record).unwrap(),
            product_rows: None,
            seller: None,
            trimmed: Vec::new(),
        }
    }

    fn bytes(changed: &RecordChanged) -> usize {
        serde_json::to_vec(changed).unwrap().len()
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let record = deal(json!({"COMMENTS": "x".repeat(100)}));
        let fitted = fit(changed(&record), 10_000);
        assert_eq!(fitted.record.get(), record.to_string());
        assert_eq!(fitted.trimmed, Vec::<String>::new());
    }

    #[test]
    fn the_bulkiest_unneeded_field_goes_first_and_alone() {
        let record =
            deal(json!({"COMMENTS": "x".repeat(2_000_000), "TITLE": "t".repeat(500), "UF_CRM_1": "y"}));
        let fitted = fit(changed(&record), 1_000_000);
        assert_eq!(fitted.trimmed, ["COMMENTS"]);
        let left: Value = serde_json::from_str(fitted.record.get()).unwrap();
        assert_eq!((left["UF_CRM_1"].as_str(), left["CONTACT_ID"].as_str()), (Some("y"), Some("39910")));
        assert!(left["TITLE"].is_string());
    }

    #[test]
    fn a_needed_field_goes_only_when_nothing_else_is_left() {
        let record = deal(json!({"NAME": "x".repeat(50_000), "COMMENTS": "y".repeat(50_000)}));
        assert_eq!(fit(changed(&record), 60_000).trimmed, ["COMMENTS"]);
        let trimmed = fit(changed(&record), 20_000).trimmed;
        assert!(
            trimmed.contains(&"NAME".to_owned()) && !trimmed.contains(&"CONTACT_ID".to_owned()),
            "{trimmed:?}"
        );
    }

    #[test]
    fn rows_without_end_are_cut_to_some() {
        let row = json!({"ID": "1", "OWNER_ID": "11", "PRICE": 1, "PRODUCT_DESCRIPTION": "z".repeat(1_000)});
        let mut changed = changed(&deal(json!({})));
        changed.product_rows = Some(to_raw_value(&vec![row; 2_000]).unwrap());
        let fitted = fit(changed, 100_000);
        assert_eq!(fitted.trimmed, [ROWS]);
        let rows: Vec<Value> = serde_json::from_str(fitted.product_rows.as_ref().unwrap().get()).unwrap();
        assert_eq!((rows.len(), &rows[0]), (FEW_ROWS, &json!({"ID": "1", "OWNER_ID": "11", "PRICE": 1})));
    }

    proptest! {
        #[test]
        fn everything_is_made_to_fit_and_keeps_its_id(
            fields in prop::collection::btree_map("(UF_)?[A-Z]{1,8}", 0usize..30_000, 0..20),
            limit in 2_000usize..60_000,
        ) {
            // A row's id is never long, and is what is not left out.
            let fields = fields.into_iter().filter(|(key, _)| key != "ID");
            let fields = fields.map(|(key, length)| (key, json!("ж".repeat(length / 2))));
            let extra: Value = fields.collect::<serde_json::Map<_, _>>().into();
            let record = deal(extra);
            let fitted = fit(changed(&record), limit);
            prop_assert!(bytes(&fitted) <= limit + 20 * fitted.trimmed.len(), "{} > {limit}", bytes(&fitted));
            let left: Value = serde_json::from_str(fitted.record.get()).unwrap();
            prop_assert_eq!(&left["ID"], &record["ID"]);
            for key in record.as_object().unwrap().keys() {
                prop_assert!(left.get(key).is_some() != fitted.trimmed.contains(key), "{key}");
            }
        }
    }
}
