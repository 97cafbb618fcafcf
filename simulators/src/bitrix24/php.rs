//! Request parameters as PHP sees them, and answers as PHP's `json_encode` prints them.
//!
//! A PHP array is both list and map and keeps the order of its keys; `cmd` of a batch and `order` of
//! a list depend on that order, so parameters have a type of their own instead of a JSON value.

use std::fmt;

use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deepest bracket nesting kept of a query key; PHP's own `max_input_nesting_level` is 64.
const MAX_NESTING: usize = 64;

/// One parameter value: a scalar or a PHP array.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Array(IndexMap<String, Node>),
}

impl Node {
    /// Returns an empty array.
    pub fn empty() -> Self {
        Self::Array(IndexMap::new())
    }

    /// Returns the element under exactly this key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_array()?.get(key)
    }

    /// Returns a top-level parameter whatever the case of its name.
    ///
    /// When one name came in both cases the later one wins, as a PHP assignment would.
    pub fn param(&self, name: &str) -> Option<&Node> {
        self.as_array()?.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, node)| node)
    }

    /// Returns the elements if this is an array.
    pub fn as_array(&self) -> Option<&IndexMap<String, Node>> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// Prints a scalar the way PHP's string conversion does; `None` for an array.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Null | Self::Bool(false) => Some(String::new()),
            Self::Bool(true) => Some("1".to_owned()),
            Self::Number(number) => Some(number.to_string()),
            Self::Text(text) => Some(text.clone()),
            Self::Array(_) => None,
        }
    }

    /// Reads a number out of a scalar as PHP's `intval` would, but without its leniency for tails.
    pub fn integer(&self) -> Option<i64> {
        self.text()?.trim().parse().ok()
    }

    /// Returns the scalar texts of an array, or the one of a scalar.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Self::Array(items) => items.values().filter_map(Self::text).collect(),
            scalar => scalar.text().into_iter().collect(),
        }
    }

    /// Tells whether PHP would call the value `empty()`.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Array(items) => items.is_empty(),
            scalar => matches!(scalar.text().as_deref(), None | Some("" | "0")),
        }
    }

    /// Converts to plain JSON, arrays with keys 0, 1, 2... becoming lists.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.clone()),
            Self::Array(items) => php_map(items.iter().map(|(key, node)| (key.clone(), node.to_json()))),
        }
    }

    /// Adds the elements of another array over this one.
    pub fn merge(&mut self, other: Node) {
        if let (Self::Array(mine), Self::Array(theirs)) = (self, other) {
            mine.extend(theirs);
        }
    }

    fn array_mut(&mut self) -> &mut IndexMap<String, Node> {
        if !matches!(self, Self::Array(_)) {
            *self = Self::empty();
        }
        match self {
            Self::Array(items) => items,
            _ => unreachable!("made an array above"),
        }
    }

    fn insert_path(&mut self, path: &[String], value: Node) {
        let Some((head, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        let items = self.array_mut();
        let key = if head.is_empty() { next_index(items) } else { head.clone() };
        items.entry(key).or_insert(Node::Null).insert_path(rest, value);
    }
}

/// Parses a query string or an urlencoded body with PHP's bracket notation.
pub fn parse_query(query: &str) -> Node {
    let mut root = Node::empty();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        insert_bracketed(&mut root, &key, Node::Text(value.into_owned()));
    }
    root
}

/// Puts a value under a key such as `filter[>ID]` or `select[]`.
pub fn insert_bracketed(root: &mut Node, key: &str, value: Node) {
    let path = key_path(key);
    if !path[0].is_empty() && path.len() <= MAX_NESTING {
        root.insert_path(&path, value);
    }
}

/// Renders a map as PHP does: keys 0, 1, 2... and no keys at all come out as a list.
pub fn php_map(entries: impl IntoIterator<Item = (String, Value)>) -> Value {
    let entries: Vec<(String, Value)> = entries.into_iter().collect();
    let is_list = entries.iter().enumerate().all(|(index, (key, _))| *key == index.to_string());
    if is_list {
        Value::Array(entries.into_iter().map(|(_, value)| value).collect())
    } else {
        Value::Object(entries.into_iter().collect::<Map<String, Value>>())
    }
}

fn key_path(key: &str) -> Vec<String> {
    let Some(open) = key.find('[').filter(|open| *open > 0) else {
        return vec![key.to_owned()];
    };
    let mut path = vec![key[..open].to_owned()];
    let mut rest = &key[open..];
    while let Some(inner) = rest.strip_prefix('[') {
        let Some(close) = inner.find(']') else { break };
        path.push(inner[..close].to_owned());
        rest = &inner[close + 1..];
    }
    path
}

fn next_index(items: &IndexMap<String, Node>) -> String {
    let highest = items.keys().filter_map(|key| key.parse::<i64>().ok()).max();
    highest.map_or(0, |index| index + 1).to_string()
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Node, E> {
        Ok(Node::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Number::from_f64(number).map_or(Node::Null, Node::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Node, A::Error> {
        let mut items = IndexMap::new();
        while let Some(node) = elements.next_element()? {
            items.insert(items.len().to_string(), node);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut items = IndexMap::new();
        while let Some((key, node)) = entries.next_entry()? {
            items.insert(key, node);
        }
        Ok(Node::Array(items))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn brackets_nest_and_count_like_in_php() {
        let node =
            parse_query("filter[%3EID]=5&select[]=ID&select[]=NAME&fields[PHONE][0][VALUE]=%2B7&x=a+b");
        assert_eq!(
            node.to_json(),
            json!({"filter": {">ID": "5"}, "select": ["ID", "NAME"], "fields": {"PHONE": [{"VALUE": "+7"}]},
                "x": "a b"})
        );
    }

    #[test]
    fn an_unencoded_plus_in_a_time_offset_becomes_a_space() {
        let node = parse_query("filter[>DATE_MODIFY]=2026-01-01T00:00:00+03:00");
        assert_eq!(node.to_json()["filter"][">DATE_MODIFY"], "2026-01-01T00:00:00 03:00");
    }

    #[test]
    fn json_keeps_the_order_of_keys() {
        let node: Node = serde_json::from_str(r#"{"cmd":{"z":"a","b":"c","a":null}}"#).expect("JSON");
        let keys: Vec<&String> = node.get("cmd").and_then(Node::as_array).expect("a map").keys().collect();
        assert_eq!(keys, ["z", "b", "a"]);
    }

    #[test]
    fn top_level_names_match_in_either_case() {
        let node = parse_query("FIELDS[NAME]=x&ID=4");
        assert_eq!(node.param("id").and_then(Node::integer), Some(4));
        assert!(node.param("fields").is_some_and(|fields| fields.get("NAME").is_some()));
    }

    #[test]
    fn empty_and_numbered_maps_print_as_lists() {
        assert_eq!(php_map([]), json!([]));
        assert_eq!(php_map([("0".to_owned(), json!(1)), ("1".to_owned(), json!(2))]), json!([1, 2]));
        assert_eq!(php_map([("1".to_owned(), json!(1))]), json!({"1": 1}));
    }

    #[test]
    fn malformed_brackets_are_survived() {
        for key in ["a[", "a[b", "[x]=1", "a]b[c]", "a[][][]", "=", "&&"] {
            let _ = parse_query(key);
        }
        let deep = format!("a{}=1", "[x]".repeat(100_000));
        assert_eq!(parse_query(&deep), Node::empty());
    }
}
