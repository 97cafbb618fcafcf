//! Compares what otmechalka holds with what it should hold, field by field. Pure.
//!
//! Only fields that an answer shows are compared. Numbers and their texts are alike, the order of a list says nothing,
//! and all ways of writing nothing are alike: how otmechalka words an answer is nobody's promise.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The fields of a client or ticket.
pub type Fields = Map<String, Value>;

/// Returns the names of the fields that differ. Never their values, which are personal.
pub fn differing(expected: &Fields, actual: &Fields) -> Vec<String> {
    let differs = |(name, shown): (&String, &Value)| {
        let wanted = expected.get(name);
        let is_ours = wanted.is_some() || OPTIONAL.contains(&name.as_str());
        is_ours && plain(name, wanted.unwrap_or(&Value::Null)) != plain(name, shown)
    };
    actual.iter().filter(|field| differs(*field)).map(|(name, _)| name.clone()).collect()
}

/// Fields that are not sent where they are empty.
const OPTIONAL: [&str; 3] = ["email", "birthdate", "additional_data"];

/// Fields that hold an amount of money.
const AMOUNTS: [&str; 3] = ["price_initial", "discount", "price_final"];

fn plain(name: &str, value: &Value) -> BTreeSet<String> {
    let mut texts = BTreeSet::new();
    collect(name, value, &mut texts);
    texts
}

fn collect(name: &str, value: &Value, texts: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(name, item, texts)),
        Value::Object(object) => object.get("id").into_iter().for_each(|id| collect(name, id, texts)),
        Value::Null | Value::Bool(_) => {}
        Value::Number(number) => drop(texts.insert(word(name, &number.to_string()))),
        Value::String(text) if text.trim().is_empty() => {}
        Value::String(text) => drop(texts.insert(word(name, text.trim()))),
    }
}

fn word(name: &str, text: &str) -> String {
    if name == "phone" {
        return text.chars().filter(char::is_ascii_digit).collect();
    }
    if AMOUNTS.contains(&name) {
        let (roubles, kopecks) = text.split_once('.').unwrap_or((text, ""));
        return format!("{roubles}.{:0<2}", kopecks.trim_end_matches('0'));
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(expected: Value, actual: Value) -> Vec<String> {
        differing(expected.as_object().unwrap(), actual.as_object().unwrap())
    }

    #[test]
    fn the_same_in_other_words_is_the_same() {
        let expected = json!({
            "origin_id": "5", "phone": "79261234567", "courses": ["10985", "10986"], "price_final": "8700.00",
            "discount": "0.50",
        });
        let actual = json!({
            "id": 12456, "origin_id": 5, "phone": "+7 926 123-45-67", "courses": [10986, {"id": 10985}],
            "price_final": 8700, "discount": 0.5, "email": null, "birthdate": "", "archived": false, "groups": [1],
        });
        assert_eq!(names(expected, actual), Vec::<String>::new());
    }

    #[test]
    fn every_other_content_is_named_by_its_field() {
        let expected =
            json!({"last_name": "Петров", "birthdate": "2010-02-03", "courses": ["1"], "discount": "1.00"});
        for (field, value) in [
            ("last_name", json!("Сидоров")),
            ("last_name", json!(null)),
            ("birthdate", json!("2010-02-04")),
            ("courses", json!(["1", "2"])),
            ("courses", json!([])),
            ("discount", json!("10.00")),
            ("email", json!("a@example.com")),
        ] {
            assert_eq!(names(expected.clone(), json!({field: value})), [field], "{value}");
        }
    }

    #[test]
    fn what_an_answer_does_not_show_is_not_compared() {
        assert_eq!(names(json!({"last_name": "Петров"}), json!({"id": 7})), Vec::<String>::new());
    }
}
