//! Turning parameters into the query string of a batch command.
//!
//! A command travels inside JSON, so it is encoded exactly once. What a query string cannot say is
//! refused rather than left out: a dropped `"@ID": []` would turn a filter into "everything".

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::error::RequestFault;

/// Everything but the characters that mean themselves wherever they stand.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Encodes an object as `key[inner][0]=value&...`.
pub(crate) fn encode(params: &Value) -> Result<String, RequestFault> {
    let mut query = String::new();
    match params {
        Value::Null => {}
        Value::Object(entries) => {
            for (key, value) in entries {
                push_value(&mut query, &encode_key(key)?, value)?;
            }
        }
        _ => return Err(RequestFault::NotAnObject),
    }
    Ok(query)
}

/// Adds `path[0][path 1]...=text`, where the text may well be a reference.
pub(crate) fn push_text(query: &mut String, path: &[&str], text: &str) -> Result<(), RequestFault> {
    let mut name = String::new();
    for (depth, key) in path.iter().enumerate() {
        let key = encode_key(key)?;
        name.push_str(&if depth == 0 { key } else { format!("[{key}]") });
    }
    push_pair(query, &name, text);
    Ok(())
}

fn push_value(query: &mut String, name: &str, value: &Value) -> Result<(), RequestFault> {
    match value {
        Value::Null => Err(RequestFault::Inexpressible),
        Value::Bool(yes) => {
            push_pair(query, name, if *yes { "1" } else { "0" });
            Ok(())
        }
        Value::Number(number) => {
            push_pair(query, name, &number.to_string());
            Ok(())
        }
        Value::String(text) => push_string(query, name, text),
        Value::Array(items) if items.is_empty() => Err(RequestFault::Inexpressible),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| push_value(query, &format!("{name}[{index}]"), item)),
        Value::Object(entries) if entries.is_empty() => Err(RequestFault::Inexpressible),
        Value::Object(entries) => entries
            .iter()
            .try_for_each(|(key, value)| push_value(query, &format!("{name}[{}]", encode_key(key)?), value)),
    }
}

/// Tells whether the portal would put another command's result into a text, were it part of a batch. It replaces references
/// wherever it finds them, and knows no way to quote one.
pub fn looks_like_reference(text: &str) -> bool {
    text.contains("$result")
}

fn push_string(query: &mut String, name: &str, text: &str) -> Result<(), RequestFault> {
    if looks_like_reference(text) {
        return Err(RequestFault::LooksLikeReference);
    }
    push_pair(query, name, text);
    Ok(())
}

fn push_pair(query: &mut String, name: &str, text: &str) {
    if !query.is_empty() {
        query.push('&');
    }
    query.push_str(name);
    query.push('=');
    query.extend(utf8_percent_encode(text, ENCODED));
}

fn encode_key(key: &str) -> Result<String, RequestFault> {
    if key.is_empty() || key.contains(['[', ']', '\0']) || looks_like_reference(key) {
        return Err(RequestFault::Key);
    }
    Ok(utf8_percent_encode(key, ENCODED).to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn special_characters_are_encoded_once() {
        let params = json!({
            "filter": {">DATE_MODIFY": "2020-12-20T09:54:41+03:00", "@ID": [1, 2]},
            "fields": {"NAME": "А=Б&ID=1#x+y 100% [0]?"},
        });
        assert_eq!(
            encode(&params).expect("a query"),
            "fields[NAME]=%D0%90%3D%D0%91%26ID%3D1%23x%2By%20100%25%20%5B0%5D%3F\
             &filter[%3EDATE_MODIFY]=2020-12-20T09%3A54%3A41%2B03%3A00\
             &filter[%40ID][0]=1&filter[%40ID][1]=2"
        );
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        for value in [Value::Null, json!([]), json!({}), json!([null])] {
            assert_eq!(encode(&json!({"filter": {"ID": value}})), Err(RequestFault::Inexpressible));
        }
        assert_eq!(encode(&json!([1])), Err(RequestFault::NotAnObject));
        assert_eq!(encode(&json!({"a[b": 1})), Err(RequestFault::Key));
        assert_eq!(encode(&json!({})), Ok(String::new()));
    }

    #[test]
    fn a_text_that_the_portal_would_replace_is_refused() {
        let params = json!({"fields": {"NAME": "see $result[a][0][ID]"}});
        assert_eq!(encode(&params), Err(RequestFault::LooksLikeReference));
    }

    /// Decodes as PHP does: names and values once, then the brackets.
    fn decode(query: &str) -> BTreeMap<String, String> {
        let plain = |text: &str| percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned();
        query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').expect("a pair"))
            .map(|(name, value)| (plain(name), plain(value)))
            .collect()
    }

    fn flatten(name: &str, value: &Value, into: &mut BTreeMap<String, String>) {
        let child = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}[{key}]") };
        match value {
            Value::Object(entries) => {
                entries.iter().for_each(|(key, value)| flatten(&child(key), value, into));
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(n, value)| flatten(&child(&n.to_string()), value, into));
            }
            Value::String(text) => drop(into.insert(name.to_owned(), text.clone())),
            Value::Bool(yes) => drop(into.insert(name.to_owned(), u8::from(*yes).to_string())),
            other => drop(into.insert(name.to_owned(), other.to_string())),
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<String>().prop_map(|text| Value::String(text.replace("$result", ""))),
            any::<i64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(Value::Array),
                prop::collection::btree_map(keys(), inner, 1..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    fn keys() -> impl Strategy<Value = String> {
        any::<String>().prop_map(|text| format!("k{}", text.replace(['[', ']', '\0', '$'], "")))
    }

    proptest! {
        #[test]
        fn php_reads_back_what_was_encoded(params in prop::collection::btree_map(keys(), values(), 0..5)) {
            let params = Value::Object(params.into_iter().collect::<Map<_, _>>());
            let query = encode(&params).expect("a query");
            prop_assert!(query.is_ascii());
            let mut expected = BTreeMap::new();
            flatten("", &params, &mut expected);
            prop_assert_eq!(decode(&query), expected);
        }
    }
}
