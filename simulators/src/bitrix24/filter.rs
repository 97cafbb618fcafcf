//! The `filter` and `order` of list methods.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use chrono::DateTime;
use serde_json::Value;

use super::clock::Zone;
use super::dates::{parse_day, parse_moment};
use super::php::Node;
use super::record::{Record, Table, is_unset, scalar_text};
use super::schema::Kind;
use super::settings::FilterDates;

/// Rows of a page; no parameter changes it.
pub const PAGE_SIZE: usize = 50;

/// Longest first, so that `>=` is not read as `>` and a field called `=ID`.
const OPERATORS: [(&str, Operator, bool); 15] = [
    ("!=%", Operator::Pattern, true),
    ("!%=", Operator::Pattern, true),
    ("!%", Operator::Contains, true),
    ("!@", Operator::Equal, true),
    ("!=", Operator::Equal, true),
    (">=", Operator::GreaterOrEqual, false),
    ("<=", Operator::LessOrEqual, false),
    ("=%", Operator::Pattern, false),
    ("%=", Operator::Pattern, false),
    ("!", Operator::Equal, true),
    ("=", Operator::Equal, false),
    ("@", Operator::Equal, false),
    (">", Operator::Greater, false),
    ("<", Operator::Less, false),
    ("%", Operator::Contains, false),
];

/// How a stored value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Contains,
    Pattern,
}

impl Operator {
    fn is_range(self) -> bool {
        matches!(self, Self::Greater | Self::GreaterOrEqual | Self::Less | Self::LessOrEqual)
    }

    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Equal | Self::Contains | Self::Pattern => ordering.is_eq(),
        }
    }
}

/// A filterable field: its stored name and type.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

/// A condition over records.
#[derive(Debug)]
pub enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    Compare { column: Column, operator: Operator, wanted: Vec<Wanted> },
    Unset(Column),
    Never,
}

/// A value to compare with, read by the type of its column.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub enum Wanted {
    Integer(i64),
    Double(f64),
    Moment(i64),
    Day(chrono::NaiveDate),
    Text(String),
}

/// Splits a filter key into its operator and field name.
pub fn split_key(key: &str) -> (&str, &str) {
    let operator = OPERATORS.iter().find(|(prefix, _, _)| key.starts_with(prefix));
    key.split_at(operator.map_or(0, |(prefix, _, _)| prefix.len()))
}

impl Filter {
    /// Builds the condition of one filter key.
    pub fn condition(prefix: &str, column: Column, value: &Node, zone: Zone, dates: FilterDates) -> Self {
        let known = OPERATORS.iter().find(|(known, _, _)| *known == prefix);
        let (operator, negated) = known.map_or((Operator::Equal, false), |(_, op, negated)| (*op, *negated));
        let condition = Self::compare(operator, column, value, zone, dates);
        if negated { Self::Not(Box::new(condition)) } else { condition }
    }

    fn compare(operator: Operator, column: Column, value: &Node, zone: Zone, dates: FilterDates) -> Self {
        let mut texts = value.texts();
        if column.kind == Kind::Datetime {
            texts = texts.iter().map(|text| as_read(text, dates)).collect();
        }
        if operator == Operator::Equal && texts.iter().all(String::is_empty) {
            return if matches!(value, Node::Array(_)) { Self::Never } else { Self::Unset(column) };
        }
        let read = texts.iter().filter_map(|text| Wanted::read(text, operator, column.kind, zone));
        let wanted: Vec<Wanted> = read.collect();
        if wanted.is_empty() { Self::Never } else { Self::Compare { column, operator, wanted } }
    }

    /// Tells whether a record passes.
    pub fn matches(&self, record: &Record, zone: Zone) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.matches(record, zone)),
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(record, zone)),
            Self::Not(filter) => !filter.matches(record, zone),
            Self::Unset(column) => is_unset(record.value(&column.name)),
            Self::Never => false,
            Self::Compare { column, operator, wanted } => compare(record, column, *operator, wanted, zone),
        }
    }

    /// Returns the id after which matches can start, so that a keyset walk need not look at all rows.
    pub fn after_id(&self) -> u64 {
        match self {
            Self::All(filters) => filters.iter().map(Self::after_id).max().unwrap_or(0),
            Self::Compare { column, operator, wanted } if column.name == "ID" => {
                let lowest = match wanted.as_slice() {
                    [Wanted::Integer(id)] => u64::try_from(*id).unwrap_or(0),
                    _ => return 0,
                };
                match *operator {
                    Operator::Greater => lowest,
                    Operator::GreaterOrEqual | Operator::Equal => lowest.saturating_sub(1),
                    _ => 0,
                }
            }
            _ => 0,
        }
    }
}

/// Returns what the portal takes a time in a filter for.
fn as_read(text: &str, dates: FilterDates) -> String {
    match (dates, DateTime::parse_from_rfc3339(text)) {
        (FilterDates::NoT, _) if text.contains('T') => "no time".to_owned(),
        (FilterDates::NoOffset, Ok(time)) => time.format("%Y-%m-%d %H:%M:%S").to_string(),
        _ => text.to_owned(),
    }
}

impl Wanted {
    fn read(text: &str, operator: Operator, kind: Kind, zone: Zone) -> Option<Self> {
        if matches!(operator, Operator::Contains | Operator::Pattern) {
            // Substring search does not work on references and directory values.
            let searchable = !matches!(kind, Kind::Status | Kind::Reference | Kind::Multifield);
            return searchable.then(|| Self::Text(text.to_lowercase()));
        }
        match kind {
            Kind::Datetime => parse_moment(text, zone).map(|moment| Self::Moment(moment.timestamp())),
            Kind::Date => parse_day(text).map(Self::Day),
            Kind::Double => text.trim().parse().ok().map(Self::Double),
            // The portal's `intval`: junk is 0, so a keyset over an empty reference starts anew.
            _ if kind.is_integer() && operator.is_range() => Some(Self::Integer(leading_integer(text))),
            _ if kind.is_integer() => read_integer(text, kind).map(Self::Integer),
            _ => Some(Self::Text(text.to_lowercase())),
        }
    }
}

fn compare(record: &Record, column: &Column, operator: Operator, wanted: &[Wanted], zone: Zone) -> bool {
    match column.name.as_str() {
        "ID" => holds_any(&Wanted::Integer(record.id as i64), operator, wanted),
        "DATE_CREATE" => holds_any(&Wanted::Moment(record.created), operator, wanted),
        "DATE_MODIFY" => holds_any(&Wanted::Moment(record.modified), operator, wanted),
        name => stored_values(record.value(name), column.kind).into_iter().any(|text| {
            let text_search = matches!(operator, Operator::Contains | Operator::Pattern);
            let kind = if text_search { Kind::String } else { column.kind };
            let stored = Wanted::read(&text, Operator::Equal, kind, zone);
            stored.is_some_and(|stored| holds_any(&stored, operator, wanted))
        }),
    }
}

fn holds_any(stored: &Wanted, operator: Operator, wanted: &[Wanted]) -> bool {
    wanted.iter().any(|wanted| match (operator, stored, wanted) {
        (Operator::Contains, Wanted::Text(stored), Wanted::Text(wanted)) => stored.contains(wanted.as_str()),
        (Operator::Pattern, Wanted::Text(stored), Wanted::Text(wanted)) => like(stored, wanted),
        _ => stored.partial_cmp(wanted).is_some_and(|ordering| operator.holds(ordering)),
    })
}

fn stored_values(value: &Value, kind: Kind) -> Vec<String> {
    match value {
        Value::Array(items) if kind == Kind::Multifield => {
            items.iter().filter_map(|item| scalar_text(item.get("VALUE")?)).collect()
        }
        Value::Array(items) => items.iter().filter_map(scalar_text).collect(),
        Value::Bool(false) if kind == Kind::Boolean => vec!["0".to_owned()],
        scalar => scalar_text(scalar).filter(|text| !text.is_empty()).into_iter().collect(),
    }
}

fn read_integer(text: &str, kind: Kind) -> Option<i64> {
    match text.trim() {
        "Y" if kind == Kind::Boolean => Some(1),
        "N" if kind == Kind::Boolean => Some(0),
        text => text.parse().ok(),
    }
}

fn leading_integer(text: &str) -> i64 {
    let text = text.trim();
    let sign = usize::from(text.starts_with(['-', '+']));
    let digits = text[sign..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - sign);
    text[..sign + digits].parse().unwrap_or(0)
}

/// Matches SQL's LIKE with `%` and `_`, greedily with one step of backtracking.
fn like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut want, mut retry) = (0, 0, None);
    while at < text.len() {
        match pattern.get(want) {
            Some('%') => {
                retry = Some((want, at));
                want += 1;
            }
            Some(c) if *c == '_' || *c == text[at] => (at, want) = (at + 1, want + 1),
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    (at, want) = (from + 1, star + 1);
                }
                None => return false,
            },
        }
    }
    pattern[want..].iter().all(|c| *c == '%')
}

/// The order of a list.
#[derive(Debug, Default)]
pub struct Order {
    pub keys: Vec<(Column, bool)>,
    /// Where equal rows, and all rows of an unordered list, go in an order of their own.
    pub shuffle: Option<u64>,
}

impl Order {
    /// Returns whether rows come by id alone: ascending, descending or not at all.
    fn by_id_descending(&self) -> Option<bool> {
        match self.keys.first() {
            Some((column, descending)) if column.name == "ID" => Some(*descending),
            None if self.shuffle.is_none() => Some(false),
            _ => None,
        }
    }

    fn compare(&self, left: &Record, right: &Record, zone: Zone) -> Ordering {
        for (column, descending) in &self.keys {
            let ordering = compare_stored(left, right, column, zone);
            if ordering.is_ne() {
                return if *descending { ordering.reverse() } else { ordering };
            }
        }
        match self.shuffle {
            Some(seed) => mix(seed, left.id).cmp(&mix(seed, right.id)),
            None => left.id.cmp(&right.id),
        }
    }
}

fn compare_stored(left: &Record, right: &Record, column: &Column, zone: Zone) -> Ordering {
    match column.name.as_str() {
        "ID" => left.id.cmp(&right.id),
        "DATE_CREATE" => left.created.cmp(&right.created),
        "DATE_MODIFY" => left.modified.cmp(&right.modified),
        name => {
            let read = |record: &Record| {
                let first = stored_values(record.value(name), column.kind).into_iter().next();
                first.and_then(|text| Wanted::read(&text, Operator::Equal, column.kind, zone))
            };
            read(left).partial_cmp(&read(right)).unwrap_or(Ordering::Equal)
        }
    }
}

fn mix(seed: u64, id: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, id).hash(&mut hasher);
    hasher.finish()
}

/// One page of a list.
pub struct Page {
    pub rows: Vec<Arc<Record>>,
    /// All matches, when they were counted.
    pub counted: Option<usize>,
}

/// Reads one page; `start` is the offset, `None` for `start=-1`.
pub fn read_page(
    table: &Table,
    now: f64,
    filter: &Filter,
    order: &Order,
    start: Option<usize>,
    zone: Zone,
) -> Page {
    let matching = table.readable(filter.after_id(), now).filter(|record| filter.matches(record, zone));
    let skipped = start.unwrap_or(0);
    match (order.by_id_descending(), start) {
        (Some(false), None) => Page { rows: matching.take(PAGE_SIZE).cloned().collect(), counted: None },
        (Some(true), None) => Page { rows: matching.rev().take(PAGE_SIZE).cloned().collect(), counted: None },
        (by_id, _) => {
            let mut rows: Vec<&Arc<Record>> = matching.collect();
            match by_id {
                Some(false) => {}
                Some(true) => rows.reverse(),
                None => rows.sort_by(|left, right| order.compare(left, right, zone)),
            }
            let counted = start.map(|_| rows.len());
            Page { rows: rows.into_iter().skip(skipped).take(PAGE_SIZE).cloned().collect(), counted }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::schema::object;
    use super::*;

    fn zone() -> Zone {
        Zone::parse("+03:00").expect("an offset")
    }

    fn table() -> Table {
        let mut table = Table::default();
        let rows = [
            json!({"NAME": "Анна", "DATE_MODIFY": "2026-01-01T10:00:00+03:00", "UF": [348], "SUM": "9.50"}),
            json!({"NAME": "Борис", "DATE_MODIFY": "2026-01-01T10:00:01+03:00", "UF": false, "SUM": "10.00"}),
            json!({"NAME": null, "DATE_MODIFY": "2026-01-01T10:00:02+03:00", "UF": [62, 348], "SUM": null}),
        ];
        for (index, row) in rows.into_iter().enumerate() {
            let record = Record::new(index as u64 + 1, object(row), zone());
            table.put(Arc::new(record), 0.0, 0.0);
        }
        table
    }

    fn ids(key: &str, kind: Kind, value: &Value) -> Vec<u64> {
        ids_read(key, kind, value, FilterDates::Iso)
    }

    fn ids_read(key: &str, kind: Kind, value: &Value, dates: FilterDates) -> Vec<u64> {
        let (prefix, name) = split_key(key);
        let column = Column { name: name.to_owned(), kind };
        let node: Node = serde_json::from_value(value.clone()).expect("a node");
        let filter = Filter::All(vec![Filter::condition(prefix, column, &node, zone(), dates)]);
        let order = Order::default();
        read_page(&table(), 1.0, &filter, &order, None, zone()).rows.iter().map(|record| record.id).collect()
    }

    #[test]
    fn times_compare_exactly_to_the_second() {
        let at = json!("2026-01-01T10:00:01+03:00");
        assert_eq!(ids(">DATE_MODIFY", Kind::Datetime, &at), [3]);
        assert_eq!(ids(">=DATE_MODIFY", Kind::Datetime, &at), [2, 3]);
        assert_eq!(ids("<DATE_MODIFY", Kind::Datetime, &at), [1]);
        assert_eq!(ids("<=DATE_MODIFY", Kind::Datetime, &json!("2026-01-01 10:00:01")), [1, 2]);
        assert_eq!(ids(">DATE_MODIFY", Kind::Datetime, &json!("01.01.2026 10:00:00")), [2, 3]);
        assert_eq!(ids("=DATE_MODIFY", Kind::Datetime, &json!("2026-01-01T07:00:01Z")), [2]);
    }

    #[test]
    fn a_time_that_is_none_matches_nothing() {
        assert!(ids(">DATE_MODIFY", Kind::Datetime, &json!("2026-01-01T10:00:01 03:00")).is_empty());
    }

    #[test]
    fn a_portal_may_read_times_in_its_own_way() {
        let from = |text: &str, dates| ids_read(">=DATE_MODIFY", Kind::Datetime, &json!(text), dates);
        assert_eq!(from("2026-01-01T10:00:01+03:00", FilterDates::NoT), [] as [u64; 0]);
        assert_eq!(from("2026-01-01 10:00:01", FilterDates::NoT), [2, 3]);
        assert_eq!(from("2026-01-01T07:00:01+00:00", FilterDates::NoOffset), [1, 2, 3]);
        assert_eq!(from("2026-01-01T10:00:01+03:00", FilterDates::NoOffset), [2, 3]);
    }

    #[test]
    fn ids_compare_as_numbers_and_an_empty_bound_is_zero() {
        assert_eq!(ids(">ID", Kind::Integer, &json!("1")), [2, 3]);
        assert_eq!(ids(">ID", Kind::Integer, &json!("")), [1, 2, 3]);
        assert_eq!(ids("@ID", Kind::Integer, &json!(["1", 3])), [1, 3]);
        assert_eq!(ids("!@ID", Kind::Integer, &json!([1, 3])), [2]);
        assert_eq!(ids("ID", Kind::Integer, &json!([2])), [2]);
    }

    #[test]
    fn multiple_values_match_by_any_element() {
        assert_eq!(ids("UF", Kind::Enumeration, &json!(348)), [1, 3]);
        assert_eq!(ids("UF", Kind::Enumeration, &json!("")), [2]);
        assert_eq!(ids("!UF", Kind::Enumeration, &json!(62)), [1, 2]);
    }

    #[test]
    fn amounts_compare_as_numbers_and_texts_without_case() {
        assert_eq!(ids(">SUM", Kind::Double, &json!("9.9")), [2]);
        assert_eq!(ids("=NAME", Kind::String, &json!("анна")), [1]);
        assert_eq!(ids("%NAME", Kind::String, &json!("рис")), [2]);
        assert_eq!(ids("=%NAME", Kind::String, &json!("А%а")), [1]);
        assert_eq!(ids("NAME", Kind::String, &Value::Null), [3]);
    }

    #[test]
    fn ties_are_shuffled_differently_from_page_to_page() {
        let mut table = Table::default();
        for id in 1..=100 {
            let fields = object(json!({"DATE_MODIFY": "2026-01-01T10:00:00+03:00"}));
            table.put(Arc::new(Record::new(id, fields, zone())), 0.0, 0.0);
        }
        let order = |seed| Order { keys: Vec::new(), shuffle: Some(seed) };
        let page =
            |seed, start| read_page(&table, 1.0, &Filter::All(Vec::new()), &order(seed), start, zone());
        let read = |seed, start| page(seed, start).rows.iter().map(|row| row.id).collect::<Vec<_>>();
        let mut both: Vec<u64> = read(1, Some(0)).into_iter().chain(read(2, Some(50))).collect();
        both.sort_unstable();
        both.dedup();
        assert!(both.len() < 100, "two pages of an unordered list overlap");
        assert_eq!(page(1, Some(0)).counted, Some(100));
    }
}
