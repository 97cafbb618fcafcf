//! What changed between two versions of a record, field by field. Pure.

use std::collections::BTreeMap;

use schemas::RecordChanged;
use serde::Serialize;
use serde_json::Value;

use crate::mask::Mask;

/// The fields of a version by name; those of product rows and of the seller have a path: `PRODUCT_ROWS[0].PRICE`.
pub type Fields = BTreeMap<String, Value>;

/// A field that is not as it was. What it held may be hidden.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Its code or path.
    pub field: String,
    /// What it is called in the mapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it held; absent where the field was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What it holds; absent where the field is not there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// Takes a raw version apart.
pub fn fields_of(changed: &RecordChanged) -> Fields {
    let mut fields = Fields::new();
    add(&mut fields, "", changed.record.get());
    if let Some(rows) = &changed.product_rows {
        let rows = serde_json::from_str::<Vec<Value>>(rows.get()).unwrap_or_default();
        for (index, row) in rows.into_iter().enumerate() {
            add_value(&mut fields, &format!("PRODUCT_ROWS[{index}]"), row);
        }
    }
    if let Some(seller) = &changed.seller {
        add(&mut fields, "SELLER", seller.get());
    }
    fields
}

fn add(fields: &mut Fields, path: &str, json: &str) {
    add_value(fields, path, serde_json::from_str(json).unwrap_or_default());
}

/// Takes an object apart into its fields; anything else is one field.
pub fn add_value(fields: &mut Fields, path: &str, value: Value) {
    match value {
        Value::Object(members) => {
            let of = |name: String| if path.is_empty() { name } else { format!("{path}.{name}") };
            fields.extend(members.into_iter().map(|(name, value)| (of(name), value)));
        }
        other => {
            fields.insert(path.to_owned(), other);
        }
    }
}

/// Compares two versions.
pub fn changes(before: &Fields, after: &Fields, mask: &Mask) -> Vec<Change> {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let differs = |name: &&String| before.get(*name) != after.get(*name);
    names.into_iter().filter(differs).map(|name| change(name, before, after, mask)).collect()
}

fn change(name: &str, before: &Fields, after: &Fields, mask: &Mask) -> Change {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    let shown = |fields: &Fields| fields.get(name).map(|value| mask.value(leaf, value));
    let title = mask.title(name).map(str::to_owned);
    Change { field: name.to_owned(), title, before: shown(before), after: shown(after) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn version(record: &Value, rows: Option<&Value>) -> Fields {
        let raw = |value: &Value| serde_json::value::to_raw_value(value).unwrap();
        fields_of(&RecordChanged {
            observed: chrono::DateTime::parse_from_rfc3339("2026-01-10T12:00:00+03:00").unwrap(),
            status: None,
            record: raw(record),
            product_rows: rows.map(raw),
            seller: Some(raw(&json!({"ID": "7", "NAME": "Василий"}))),
            trimmed: Vec::new(),
        })
    }

    #[test]
    fn only_what_differs_is_told_and_values_are_hidden() {
        let before = version(&json!({"ID": "5", "NAME": "Елена", "STAGE_ID": "NEW", "OLD": "x"}), None);
        let after = version(&json!({"ID": "5", "NAME": "Алёна", "STAGE_ID": "WON", "PHONE": []}), None);
        let found = changes(&before, &after, &Mask::default());
        let change = |field: &str, before: Option<Value>, after: Option<Value>| Change {
            field: field.into(),
            title: None,
            before,
            after,
        };
        let expected = [
            change("NAME", Some(json!("*** (5)")), Some(json!("*** (5)"))),
            change("OLD", Some(json!("*** (1)")), None),
            change("PHONE", None, Some(json!([]))),
            change("STAGE_ID", Some(json!("NEW")), Some(json!("WON"))),
        ];
        assert_eq!(found, expected);
        assert_eq!(changes(&after, &after, &Mask::default()), []);
    }

    #[test]
    fn product_rows_are_compared_field_by_field() {
        let rows = |price: &str| json!([{"PRODUCT_ID": "3", "PRICE": price}]);
        let before = version(&json!({"ID": "5"}), Some(&rows("10.00")));
        let after = version(&json!({"ID": "5"}), Some(&rows("12.00")));
        let found = changes(&before, &after, &Mask::default().revealing());
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].field.as_str(), &found[0].after),
            ("PRODUCT_ROWS[0].PRICE", &Some(json!("12.00")))
        );
    }
}
