//! What holds for any record, however broken.

use mapper::{DEFAULT_MAPPING, Rules, map_record};
use proptest::prelude::*;
use schemas::problem::{STATUS_MAX_CHARS, status_text};
use schemas::{Entity, Mapping, RecordChanged, RecordId, RecordRef};
use serde_json::value::RawValue;
use serde_json::{Value, json};

const KEYS: [&str; 26] = [
    "ID",
    "UF_CRM_57AD7FAF7E6C4",
    "UF_CRM_1608028374",
    "PHONE",
    "EMAIL",
    "UF_CRM_58D15BB9CA8F4",
    "UF_CRM_1470852549",
    "UF_CRM_1607943642",
    "LAST_NAME",
    "NAME",
    "STAGE_ID",
    "CONTACT_ID",
    "CURRENCY_ID",
    "UF_CRM_58D1057919A6F",
    "ASSIGNED_BY_ID",
    "UF_CRM_1490347942",
    "PRODUCT_NAME",
    "QUANTITY",
    "PRICE",
    "PRICE_BRUTTO",
    "PRICE_EXCLUSIVE",
    "DISCOUNT_SUM",
    "TAX_RATE",
    "VALUE",
    "COMMENTS",
    "0",
];

fn any_scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            json!(404),
            json!("410"),
            json!(48),
            json!("186"),
            json!(12706),
            json!("WON"),
            json!("RUB"),
            json!("1.0000"),
            json!("8 (926) 123-45-67"),
            json!("2009-11-29T03:00:00+03:00"),
            json!(9000),
            json!("8702.2999999999993"),
            json!("Наталья Зарудная"),
            json!(""),
            json!([]),
            json!({}),
            json!("0"),
            json!("1e400"),
        ]),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    any_scalar().prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(KEYS.to_vec()), inner), 0..12).prop_map(|members| {
                members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            }),
        ]
    })
}

fn any_record() -> impl Strategy<Value = Value> {
    let known = prop::collection::vec((prop::sample::select(KEYS.to_vec()), any_value()), 0..26).prop_map(
        |members| members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>(),
    );
    prop_oneof![4 => known, 1 => any_value()]
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

fn changed(record: Box<RawValue>) -> RecordChanged {
    RecordChanged {
        observed: chrono::DateTime::parse_from_rfc3339("2020-12-21T10:20:00+03:00").unwrap(),
        status: None,
        record,
        product_rows: None,
        seller: None,
        trimmed: Vec::new(),
    }
}

fn contact() -> RecordRef {
    RecordRef::contact(RecordId::try_new(39_910).unwrap())
}

#[test]
fn fields_that_are_not_wanted_may_hold_anything() {
    let rules = Rules::parse(DEFAULT_MAPPING).unwrap();
    let sound = r#""UF_CRM_57AD7FAF7E6C4": "Лунин", "UF_CRM_1608028374": "Пётр", "PHONE": [{"VALUE": "89261234567"}],
        "UF_CRM_58D15BB9CA8F4": [410], "LAST_NAME": "Лунина", "NAME": "Вера""#;
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = format!("\"{}\"", "ы".repeat(1_000_000));
    for oddity in
        [deep.as_str(), long.as_str(), "\"\\ud800\"", "1e400", "{\"a\": 1, \"a\": 2}", "-0.0e-999999"]
    {
        let record = format!("{{\"COMMENTS\": {oddity}, {sound}, \"UF_CRM_1\": {oddity}}}");
        let record = RawValue::from_string(record).unwrap();
        let (_, mapping) = map_record(&rules, contact(), &changed(record));
        assert!(matches!(mapping, Mapping::Client(_)), "{mapping:?}");
    }
}

#[test]
fn wanted_fields_may_hold_anything_too() {
    let rules = Rules::parse(DEFAULT_MAPPING).unwrap();
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_objects = format!("{}1{}", "{\"VALUE\":".repeat(50_000), "}".repeat(50_000));
    let long = format!("\"{}\"", "8".repeat(1_000_000));
    for oddity in
        [deep.as_str(), deep_objects.as_str(), long.as_str(), "\"\\ud800\"", "1e400", "true", "[[[[[[1]]]]]]"]
    {
        for code in ["UF_CRM_57AD7FAF7E6C4", "PHONE", "EMAIL", "UF_CRM_58D15BB9CA8F4", "UF_CRM_1607943642"] {
            let record = RawValue::from_string(format!("{{\"{code}\": {oddity}}}")).unwrap();
            let (_, mapping) = map_record(&rules, contact(), &changed(record));
            assert!(!matches!(mapping, Mapping::Client(_)), "{mapping:?}");
        }
    }
}

proptest! {
    #[test]
    fn any_json_is_mapped_without_a_panic_and_always_alike(
        record in any_record(),
        rows in prop::option::of(prop_oneof![any_value(), prop::collection::vec(any_record(), 0..3).prop_map(Value::from)]),
        seller in prop::option::of(any_record()),
        entity in prop::sample::select(Entity::ALL.to_vec()),
    ) {
        let rules = Rules::parse(DEFAULT_MAPPING).unwrap();
        let changed = RecordChanged {
            product_rows: rows.as_ref().map(raw),
            seller: seller.as_ref().map(raw),
            ..changed(raw(&record))
        };
        let reference = RecordRef { entity, id: RecordId::try_new(7).unwrap() };
        let first = map_record(&rules, reference, &changed);
        prop_assert_eq!(&map_record(&rules, reference, &changed), &first);
        if let Mapping::Refused(problems) = first.1 {
            let status = status_text(&problems);
            prop_assert!(!problems.is_empty());
            prop_assert!(status.chars().count() <= STATUS_MAX_CHARS && !status.chars().any(char::is_control));
        }
    }

    #[test]
    fn numbers_sent_as_strings_change_nothing(id in 1_u64..1_000_000, price in 0_u32..1_000_000) {
        let rules = Rules::parse(DEFAULT_MAPPING).unwrap();
        let deal = |text: bool| {
            let value = |number: u64| if text { json!(number.to_string()) } else { json!(number) };
            let price = value(u64::from(price));
            let record = json!({
                "STAGE_ID": "WON", "CURRENCY_ID": "RUB", "CONTACT_ID": value(id), "ASSIGNED_BY_ID": value(932),
                "UF_CRM_58D1057919A6F": "2020-12-13", "UF_CRM_1470852549": [value(186)], "UF_CRM_1490347942": value(450),
            });
            let rows = json!([{"PRODUCT_NAME": "8 занятий", "QUANTITY": value(1), "PRICE": price, "PRICE_BRUTTO": price}]);
            RecordChanged {
                product_rows: Some(raw(&rows)),
                seller: Some(raw(&json!({"NAME": "Андрей", "LAST_NAME": "Сергеев"}))),
                ..changed(raw(&record))
            }
        };
        let reference = RecordRef::deal(RecordId::try_new(7).unwrap());
        let numbers = map_record(&rules, reference, &deal(false));
        prop_assert!(matches!(numbers.1, Mapping::Ticket(_)), "{:?}", numbers.1);
        prop_assert_eq!(map_record(&rules, reference, &deal(true)), numbers);
    }
}
