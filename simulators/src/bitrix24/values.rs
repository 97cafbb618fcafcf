//! Turning what a request sends into stored values, and stored values into rows of answers.

use std::collections::BTreeSet;

use serde_json::{Map, Number, Value, json};

use super::clock::Zone;
use super::dates::{parse_day, parse_moment, print_day, print_moment, reprint};
use super::php::Node;
use super::record::{Record, is_unset, scalar_text};
use super::schema::{Access, Entity, FieldType, Kind, UserField, camel_case, item_name};
use super::settings::Shape;

/// Multi-fields whose filling the standard flags report.
const MULTIFIELD_FLAGS: [(&str, &str); 2] = [("HAS_PHONE", "PHONE"), ("HAS_EMAIL", "EMAIL")];

/// Converts a sent value to the form in which the field is stored.
pub fn canonical(field: FieldType, node: &Node, zone: Zone) -> Value {
    if field.multiple {
        let values = node.texts().into_iter().filter(|text| !text.is_empty());
        let values: Vec<Value> = values.map(|text| canonical_scalar(field.kind, &text, zone, true)).collect();
        return if values.is_empty() { Value::Bool(false) } else { Value::Array(values) };
    }
    match node.text() {
        Some(text) => canonical_scalar(field.kind, &text, zone, false),
        // An array for a single value: PHP would store the word "Array"; the portal keeps nothing.
        None => Value::Null,
    }
}

fn canonical_scalar(kind: Kind, text: &str, zone: Zone, in_list: bool) -> Value {
    match kind {
        Kind::Date if !text.is_empty() => {
            parse_day(text).map_or_else(|| Value::from(""), |day| Value::from(print_day(day, zone)))
        }
        Kind::Datetime if !text.is_empty() => parse_moment(text, zone)
            .map_or_else(|| Value::from(""), |moment| Value::from(print_moment(moment, zone))),
        Kind::Enumeration if in_list => text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from),
        Kind::Boolean => Value::from(if matches!(text, "1" | "Y" | "true") { "1" } else { "0" }),
        Kind::Integer | Kind::User | Kind::Reference | Kind::Enumeration if text.is_empty() => Value::Null,
        Kind::Double if !text.is_empty() => {
            Value::from(format!("{:.2}", text.trim().parse::<f64>().unwrap_or_default()))
        }
        _ => Value::from(text),
    }
}

/// Applies an edit to a multi-field: an element with an id changes or deletes, one without adds.
pub fn edit_multifield(stored: &Value, edit: &Node, type_id: &str, next_id: &mut u64) -> Value {
    let mut items: Vec<Value> = stored.as_array().cloned().unwrap_or_default();
    let single = [edit.clone()];
    let elements: Vec<&Node> = match edit {
        Node::Array(elements) => elements.values().collect(),
        _ => single.iter().collect(),
    };
    for element in elements {
        edit_element(&mut items, element, type_id, next_id);
    }
    Value::Array(items)
}

fn edit_element(items: &mut Vec<Value>, element: &Node, type_id: &str, next_id: &mut u64) {
    let part = |key: &str| element.get(key).and_then(Node::text).unwrap_or_default();
    let (id, value, value_type) = (part("ID"), part("VALUE"), part("VALUE_TYPE"));
    let at = items
        .iter()
        .position(|item| !id.is_empty() && item.get("ID").and_then(scalar_text) == Some(id.clone()));
    match at {
        Some(at) if part("DELETE") == "Y" || value.is_empty() => {
            items.remove(at);
        }
        Some(at) => {
            items[at]["VALUE"] = Value::from(value);
            if !value_type.is_empty() {
                items[at]["VALUE_TYPE"] = Value::from(value_type);
            }
        }
        None if !value.is_empty() => {
            let value_type = if value_type.is_empty() { "WORK".to_owned() } else { value_type };
            items.push(json!({"ID": next_id.to_string(), "VALUE_TYPE": value_type, "VALUE": value,
                "TYPE_ID": type_id}));
            *next_id += 1;
        }
        None => {}
    }
}

/// Which fields a classic list or get returns.
#[derive(Debug)]
pub struct Selection {
    standard: bool,
    custom: bool,
    named: BTreeSet<String>,
}

impl Selection {
    /// Reads a `select`; nothing selected means all but the multi-fields.
    pub fn parse(select: Option<&Node>) -> Self {
        let named: BTreeSet<String> = select.map(Node::texts).unwrap_or_default().into_iter().collect();
        let nothing = named.iter().all(String::is_empty);
        let has = |name: &str| nothing || named.contains(name);
        Self { standard: has("*"), custom: has("UF_*"), named }
    }

    /// Selects what `get` returns: everything, multi-fields included.
    pub fn everything() -> Self {
        let named = ["PHONE", "EMAIL", "WEB", "IM", "LINK"].map(str::to_owned);
        Self { standard: true, custom: true, named: named.into() }
    }

    fn takes(&self, name: &str, custom: bool, multifield: bool) -> bool {
        let by_star = if custom { self.custom } else { self.standard && !multifield };
        by_star || self.named.contains(name) || name == "ID"
    }
}

/// Renders a row of the classic methods.
pub fn classic_row(
    record: &Record,
    entity: Entity,
    custom: &[UserField],
    selection: &Selection,
    shape: &Shape,
    zone: Zone,
) -> Map<String, Value> {
    let mut row = Map::new();
    for field in entity.standard_fields().iter().filter(|field| field.access != Access::Hidden) {
        let multifield = field.kind == Kind::Multifield;
        if !selection.takes(field.name, false, multifield) {
            continue;
        }
        match standard_value(record, field.name) {
            value if multifield && is_unset(&value) => {
                // The key of an empty multi-field is left out altogether.
                if !shape.unset_multifield.is_null() {
                    row.insert(field.name.to_owned(), shape.unset_multifield.clone());
                }
            }
            value => {
                let value = print_dates(value, field.kind, zone);
                row.insert(
                    field.name.to_owned(),
                    shaped(classic_value(value, field.kind), field.kind, shape),
                );
            }
        }
    }
    for field in custom.iter().filter(|field| selection.takes(&field.name, true, false)) {
        let value = record.value(&field.name).clone();
        let value = match value {
            value if field.multiple && is_unset(&value) => shape.unset_multiple.clone(),
            value => shaped(print_dates(value, field.kind(), zone), field.kind(), shape),
        };
        row.insert(field.name.clone(), value);
    }
    if shape.unknown_keys {
        row.insert("UNKNOWN_NEW_FIELD".to_owned(), json!({"nested": [1, null, {"x": false}]}));
    }
    row
}

fn standard_value(record: &Record, name: &str) -> Value {
    if let Some((_, source)) = MULTIFIELD_FLAGS.iter().find(|(flag, _)| *flag == name) {
        return Value::from(if is_unset(record.value(source)) { "N" } else { "Y" });
    }
    match name {
        "ID" if record.fields.is_empty() => Value::from(record.id.to_string()),
        _ => record.value(name).clone(),
    }
}

fn classic_value(value: Value, kind: Kind) -> Value {
    match value {
        Value::Number(number) if kind != Kind::Multifield => Value::from(number.to_string()),
        value => value,
    }
}

fn print_dates(value: Value, kind: Kind, zone: Zone) -> Value {
    match value {
        Value::String(text) if matches!(kind, Kind::Date | Kind::Datetime) => {
            Value::from(reprint(&text, zone))
        }
        value => value,
    }
}

fn shaped(value: Value, kind: Kind, shape: &Shape) -> Value {
    match value {
        Value::Array(items) if shape.lists_as_objects => numbered(items),
        Value::String(text)
            if shape.swap_numbers_and_strings && (kind.is_integer() || kind == Kind::Double) =>
        {
            number(&text).map_or(Value::String(text), Value::Number)
        }
        value => value,
    }
}

/// Turns a list into an object with the keys 0, 1, 2...
pub fn numbered(items: Vec<Value>) -> Value {
    items.into_iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect::<Map<_, _>>().into()
}

/// Renders the item of the `crm.item.*` methods; `fm` comes only when everything is selected.
pub fn item_row(
    record: &Record,
    entity: Entity,
    custom: &[UserField],
    original: bool,
    zone: Zone,
) -> Map<String, Value> {
    let mut row = Map::new();
    for field in entity.standard_fields() {
        if field.kind != Kind::Multifield && field.access != Access::Hidden {
            let value = print_dates(standard_value(record, field.name), field.kind, zone);
            row.insert(item_name(field.name), item_value(value, field.kind));
        }
    }
    for field in custom {
        let name = if original { field.name.clone() } else { item_name(&field.name) };
        let value = print_dates(record.value(&field.name).clone(), field.kind(), zone);
        let value =
            if field.multiple { item_list(value, field.kind()) } else { item_value(value, field.kind()) };
        row.insert(name, value);
    }
    match entity {
        Entity::Contact => add_multifields(&mut row, record),
        Entity::Deal => {
            row.insert("contactIds".to_owned(), contact_ids(record).into());
        }
    }
    row
}

fn add_multifields(row: &mut Map<String, Value>, record: &Record) {
    let mut all = Vec::new();
    for (name, flat) in [("PHONE", "phone"), ("EMAIL", "email")] {
        let items = record.value(name).as_array().map_or(&[][..], Vec::as_slice);
        let first = items.first().and_then(|item| item.get("VALUE")).and_then(scalar_text);
        row.insert(flat.to_owned(), first.map_or(Value::Null, Value::from));
        all.extend(items.iter().map(|item| {
            let part = |key: &str| item.get(key).cloned().unwrap_or_default();
            json!({"id": part("ID").as_str().and_then(|id| id.parse::<u64>().ok()), "typeId": name,
                "valueType": part("VALUE_TYPE"), "value": part("VALUE")})
        }));
    }
    row.insert("fm".to_owned(), Value::Array(all));
}

/// Returns a deal's contacts, the primary one first.
pub fn contact_ids(record: &Record) -> Vec<u64> {
    let listed = record.value("CONTACT_IDS").as_array().into_iter().flatten().filter_map(scalar_text);
    let primary = scalar_text(record.value("CONTACT_ID"));
    let mut ids: Vec<u64> = Vec::new();
    for id in primary.into_iter().chain(listed).filter_map(|text| text.parse().ok()) {
        if id > 0 && !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

fn item_value(value: Value, kind: Kind) -> Value {
    match value {
        Value::String(text) if kind.is_integer() || kind == Kind::Double => {
            number(&text).map_or(Value::Null, Value::Number)
        }
        Value::Null if kind == Kind::String => Value::from(""),
        Value::Bool(false) => Value::Null,
        value => value,
    }
}

fn item_list(value: Value, kind: Kind) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(|item| item_value(item, kind)).collect(),
        value if is_unset(&value) => Value::Array(Vec::new()),
        value => Value::Array(vec![item_value(value, kind)]),
    }
}

/// Renders a product row of `crm.item.productrow.list`: other names, plain numbers.
pub fn item_product_row(row: &Map<String, Value>) -> Map<String, Value> {
    let entries = row.iter().map(|(name, value)| {
        let value = match (name.as_str(), value) {
            ("ID" | "OWNER_ID" | "PRICE_ACCOUNT", Value::String(text)) => {
                number(text).map_or_else(|| value.clone(), Value::Number)
            }
            _ => value.clone(),
        };
        (camel_case(name), value)
    });
    entries.collect()
}

/// Prints the numbers of a product row as strings and its ids as numbers.
pub fn swap_types(row: &Map<String, Value>) -> Map<String, Value> {
    let swap = |value: &Value| match value {
        Value::Number(number) => Value::from(number.to_string()),
        Value::String(text) => number(text).map_or_else(|| value.clone(), Value::Number),
        value => value.clone(),
    };
    row.iter().map(|(name, value)| (name.clone(), swap(value))).collect()
}

fn number(text: &str) -> Option<Number> {
    if let Ok(integer) = text.parse::<i64>() {
        return Some(integer.into());
    }
    Number::from_f64(text.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::schema::{find_field, object};
    use super::super::settings::Settings;
    use super::super::userfields;
    use super::*;

    fn zone() -> Zone {
        Zone::parse("+03:00").expect("an offset")
    }

    fn contact() -> Record {
        let fields = json!({"ID": "7", "NAME": "Анна", "PHONE": [{"ID": "1", "VALUE": "+7", "VALUE_TYPE": "WORK",
            "TYPE_ID": "PHONE"}], "EMAIL": [], "UF_CRM_1470852549": [48], "BIRTHDATE": "",
            "DATE_CREATE": "2026-01-01T10:00:00+03:00", "DATE_MODIFY": "2026-01-01T10:00:00+03:00"});
        Record::new(7, object(fields), zone())
    }

    fn row(select: &[&str]) -> Value {
        let custom = userfields::initial(Entity::Contact, &[]);
        let node: Node = serde_json::from_value(json!(select)).expect("a node");
        let selection = Selection::parse((!select.is_empty()).then_some(&node));
        Value::Object(classic_row(
            &contact(),
            Entity::Contact,
            &custom,
            &selection,
            &Settings::default().shape,
            zone(),
        ))
    }

    #[test]
    fn multifields_come_only_by_name_and_only_when_filled() {
        for select in [&[][..], &["*", "UF_*"], &["*"]] {
            assert_eq!(row(select).get("PHONE"), None, "{select:?}");
            assert_eq!(row(select)["HAS_PHONE"], "Y");
        }
        let named = row(&["PHONE", "EMAIL"]);
        assert_eq!(named["PHONE"][0]["VALUE"], "+7");
        assert_eq!(named.get("EMAIL"), None);
        assert_eq!(named.get("NAME"), None);
        assert_eq!(named["ID"], "7");
    }

    #[test]
    fn stars_divide_standard_and_custom_fields() {
        assert_eq!(row(&["*"]).get("UF_CRM_1470852549"), None);
        assert_eq!(row(&["UF_*"]).get("NAME"), None);
        assert_eq!(row(&["UF_*"])["UF_CRM_58D15BB9CA8F4"], false, "an unset multiple field is false");
    }

    #[test]
    fn items_use_numbers_and_their_own_names() {
        let custom = userfields::initial(Entity::Contact, &[]);
        let item = Value::Object(item_row(&contact(), Entity::Contact, &custom, false, zone()));
        assert_eq!(item["id"], 7);
        assert_eq!(item["ufCrm_1470852549"], json!([48]));
        assert_eq!(item["ufCrm_58D15BB9CA8F4"], json!([]));
        assert_eq!(item["phone"], "+7");
        assert_eq!(item["fm"][0]["typeId"], "PHONE");
    }

    #[test]
    fn values_are_stored_in_the_form_of_their_field() {
        let custom = userfields::initial(Entity::Contact, &[]);
        let store = |name: &str, value: Value| {
            let field = find_field(Entity::Contact, &custom, name).expect("a field");
            canonical(field, &serde_json::from_value(value).expect("a node"), zone())
        };
        assert_eq!(store("BIRTHDATE", json!("11.11.1999")), "1999-11-11T03:00:00+03:00");
        assert_eq!(store("UF_CRM_1607943642", json!("2009-11-29")), "2009-11-29T03:00:00+03:00");
        assert_eq!(store("UF_CRM_1470852549", json!(["48", 12708])), json!([48, 12708]));
        assert_eq!(store("UF_CRM_1470852549", json!("")), false);
        assert_eq!(store("COMPANY_ID", json!(5)), "5");
        assert_eq!(store("NAME", json!(["x"])), Value::Null);
    }

    #[test]
    fn multifields_are_edited_by_element() {
        let mut next = 10;
        let stored = contact().value("PHONE").clone();
        let mut edit = |value: Value| {
            edit_multifield(&stored, &serde_json::from_value(value).expect("a node"), "PHONE", &mut next)
        };
        assert_eq!(edit(json!([{"ID": 1, "VALUE": "8"}]))[0]["VALUE"], "8");
        assert_eq!(edit(json!([{"ID": "1", "DELETE": "Y", "VALUE": "8"}])), json!([]));
        assert_eq!(edit(json!([{"VALUE": "9", "VALUE_TYPE": "HOME"}]))[1]["ID"], "10");
    }
}
