//! The custom fields a portal starts with.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::record::scalar_text;
use super::schema::{Entity, UserField};

/// Code, type, multiple, label and options of a field known by name.
type Known = (&'static str, &'static str, bool, &'static str, &'static [(u64, &'static str)]);

const CONTACT: &[Known] = &[
    ("UF_CRM_57AD7FAF7E6C4", "string", false, "Фамилия ученика", &[]),
    ("UF_CRM_1608028374", "string", false, "Имя ученика", &[]),
    ("UF_CRM_1607943642", "date", false, "Дата рождения ученика", &[]),
    (
        "UF_CRM_58D15BB9CA8F4",
        "enumeration",
        true,
        "Продукт",
        &[(404, "Обучение шахматам"), (406, "Турниры"), (410, "Онлайн школа")],
    ),
    (
        "UF_CRM_1470852549",
        "enumeration",
        true,
        "Филиал",
        &[(48, "Гоголевский"), (348, "Другой филиал"), (12_708, "Сколково")],
    ),
    ("UF_CRM_1470854727", "enumeration", true, "Откуда узнали", &[(62, "Интернет")]),
    ("UF_CRM_SYNC_STATUS", "string", false, "Статус синхронизации", &[]),
];

const DEAL: &[Known] = &[
    ("UF_CRM_58D1057919A6F", "date", false, "Дата продажи", &[]),
    ("UF_CRM_1470852549", "enumeration", true, "Филиал", &[(186, "Гоголевский"), (12_706, "Сколково")]),
    (
        "UF_CRM_1490347942",
        "enumeration",
        false,
        "Способ оплаты",
        &[(450, "Наличные"), (452, "Безналичная оплата")],
    ),
    ("UF_CRM_57C2E7A53C7B5", "enumeration", true, "Направление", &[(580, "Шахматы")]),
    ("UF_CRM_57C2E7A54C173", "enumeration", true, "Тип продажи", &[(202, "Абонемент")]),
    ("UF_CRM_SYNC_STATUS", "string", false, "Статус синхронизации", &[]),
];

/// Returns the fields a school's portal has, and those found in its records besides.
pub fn initial(entity: Entity, records: &[Map<String, Value>]) -> Vec<UserField> {
    let known = match entity {
        Entity::Contact => CONTACT,
        Entity::Deal => DEAL,
    };
    let mut fields: Vec<UserField> =
        known.iter().enumerate().map(|(index, known)| make(index, known)).collect();
    let names: BTreeSet<&String> =
        records.iter().flat_map(Map::keys).filter(|name| name.starts_with("UF_")).collect();
    for name in names {
        if !fields.iter().any(|field| field.name == *name) {
            let values: Vec<&Value> = records.iter().filter_map(|record| record.get(name)).collect();
            fields.push(infer(fields.len(), name, &values));
        }
    }
    for field in fields.iter_mut().filter(|field| field.user_type == "enumeration") {
        add_used_options(field, records);
    }
    fields
}

fn make(index: usize, (name, user_type, multiple, label, options): &Known) -> UserField {
    UserField {
        id: index as u64 + 1,
        name: (*name).to_owned(),
        user_type: (*user_type).to_owned(),
        multiple: *multiple,
        label: (*label).to_owned(),
        options: options.iter().map(|(id, text)| (*id, (*text).to_owned())).collect(),
        extra: Map::new(),
    }
}

fn infer(index: usize, name: &str, values: &[&Value]) -> UserField {
    let multiple = values.iter().any(|value| value.is_array() || **value == Value::Bool(false));
    let user_type = if multiple { "enumeration" } else { "string" };
    let field = make(index, &("", user_type, multiple, "", &[]));
    UserField { name: name.to_owned(), label: name.to_owned(), ..field }
}

fn add_used_options(field: &mut UserField, records: &[Map<String, Value>]) {
    let values = records.iter().filter_map(|record| record.get(&field.name));
    let used: BTreeSet<u64> = values
        .flat_map(|value| match value {
            Value::Array(items) => items.iter().filter_map(scalar_text).collect(),
            scalar => scalar_text(scalar).into_iter().collect::<Vec<_>>(),
        })
        .filter_map(|text| text.parse().ok())
        .collect();
    for id in used {
        if !field.options.iter().any(|(known, _)| *known == id) {
            field.options.push((id, format!("Значение {id}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::schema::object;
    use super::*;

    #[test]
    fn fields_and_options_used_by_records_exist() {
        let records = [object(json!({"UF_CRM_NEW": false, "UF_CRM_1470852549": [777], "NAME": "x"}))];
        let fields = initial(Entity::Contact, &records);
        let new = fields.iter().find(|field| field.name == "UF_CRM_NEW").expect("inferred");
        assert!(new.multiple);
        let branches = fields.iter().find(|field| field.name == "UF_CRM_1470852549").expect("known");
        assert!(branches.options.iter().any(|(id, _)| *id == 777));
        let ids: BTreeSet<u64> = fields.iter().map(|field| field.id).collect();
        assert_eq!(ids.len(), fields.len());
    }
}
