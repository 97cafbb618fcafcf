//! The contract as others see it: JSON Schema files, and events as earlier versions stored them.
//!
//! `UPDATE_DOCS=1 cargo test -p schemas` writes the files anew; a golden file is only ever added, since a
//! changed one means that stored events can no longer be read as they were.

mod asyncapi;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, FixedOffset, NaiveDate};
use schemars::JsonSchema;
use schemas::{
    Checkpoint, Client, DeadLetter, Encoded, Envelope, EventData, Mapping, Outcome, Problem, RecordChanged,
    RecordId, RecordMapped, RecordProcessed, RecordRef, Shown, StatusSettled, StatusWritten, Ticket, Version,
};
use serde_json::{Value, json};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn updating() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

/// Compares a file with what the code says, or writes it.
fn assert_current(path: &Path, expected: &str) {
    if updating() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, expected).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(found, expected, "{} is not current; UPDATE_DOCS=1 cargo test -p schemas", path.display());
}

fn schema_of<T: JsonSchema>() -> String {
    let schema = serde_json::to_value(schemars::schema_for!(T)).unwrap();
    format!("{}\n", serde_json::to_string_pretty(&schema).unwrap())
}

fn all_schemas() -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("record_changed.v1", schema_of::<RecordChanged>()),
        ("record_mapped.v1", schema_of::<RecordMapped>()),
        ("record_processed.v1", schema_of::<RecordProcessed>()),
        ("status_settled.v1", schema_of::<StatusWritten>()),
        ("dead_letter.v1", schema_of::<DeadLetter>()),
        ("checkpoint.v1", schema_of::<Checkpoint>()),
    ])
}

fn time() -> DateTime<FixedOffset> {
    DateTime::parse_from_rfc3339("2026-01-10T12:30:05+03:00").unwrap()
}

fn id(number: u64) -> RecordId {
    RecordId::try_new(number).unwrap()
}

fn raw(value: Value) -> Box<serde_json::value::RawValue> {
    serde_json::value::to_raw_value(&value).unwrap()
}

fn envelope(record: RecordRef, stage: &str, version: Option<Version>) -> Envelope {
    Envelope {
        record,
        source: format!("/rollcall/{stage}"),
        pupil: Some(id(39910)),
        modified: time(),
        fingerprint: "5f3c".into(),
        version,
        attempt: 0,
    }
}

fn shown() -> Shown {
    Shown { status: Some(String::new()), observed: time() }
}

/// One sample of every event type, encoded.
fn samples() -> BTreeMap<String, Encoded> {
    let contact = RecordRef::contact(id(39910));
    let deal = RecordRef::deal(id(96038));
    let version = Some(Version { raw_sequence: 17, redrive: 0 });
    let client = Client {
        last_name: "Зарудный".into(),
        first_name: "Кирилл".into(),
        phone: "79265672098".into(),
        email: Some("kirill@example.com".into()),
        courses: vec!["10985".into(), "10986".into()],
        branchoffices: vec!["2633".into()],
        birthdate: NaiveDate::from_ymd_opt(2014, 11, 26),
        gender: "M".into(),
        additional_data: "Зарудная Елена".into(),
    };
    let ticket = Ticket {
        client_origin_id: id(39910),
        ticket_type: "6 КМС индивидуальные 45 мин".into(),
        price_initial: "9000.00".into(),
        discount: "300.00".into(),
        price_final: "8700.00".into(),
        selling_date: NaiveDate::from_ymd_opt(2020, 12, 13).unwrap(),
        selling_branchoffice: "2633".into(),
        employee: "Василий Василенко".into(),
        payment_method: "ONLINE".into(),
    };
    let refused = vec![Problem::new("phone.missing", "Телефон: не заполнен. Укажите номер телефона.")];
    let mut all = BTreeMap::new();
    let mut add = |envelope: &Envelope, data: &dyn Sample| {
        let (name, encoded) = data.encode(envelope);
        assert!(all.insert(name.clone(), encoded).is_none(), "{name} twice");
    };
    let changed = |deal: bool| RecordChanged {
        observed: time(),
        status: Some(String::new()),
        record: raw(json!({"ID": "39910", "NAME": "Елена"})),
        product_rows: deal.then(|| raw(json!([{"ID": "124740", "PRICE": 8700}]))),
        seller: deal.then(|| raw(json!({"ID": "12288", "NAME": "Василий"}))),
        trimmed: Vec::new(),
    };
    add(&envelope(contact, "producer", None), &changed(false));
    add(&envelope(deal, "producer", None), &changed(true));
    for (record, mapping) in [
        (contact, Mapping::Client(client)),
        (deal, Mapping::Ticket(ticket)),
        (contact, Mapping::OutOfScope),
        (deal, Mapping::OutOfScope),
        (contact, Mapping::Refused(refused.clone())),
        (deal, Mapping::Refused(refused.clone())),
    ] {
        add(&envelope(record, "mapper", version), &RecordMapped { mapping, shown: shown() });
    }
    for record in [contact, deal] {
        let processed = RecordProcessed {
            outcome: Outcome::Refused,
            status: refused[0].text.clone(),
            problems: refused.clone(),
            target_id: None,
            body_digest: None,
            shown: shown(),
        };
        add(&envelope(record, "pusher", version), &processed);
        let settled =
            StatusWritten { status: "Успешно".into(), how: StatusSettled::Written, settled: time() };
        add(&envelope(record, "status-writer", version), &settled);
    }
    all
}

trait Sample {
    fn encode(&self, envelope: &Envelope) -> (String, Encoded);
}

impl<T: EventData> Sample for T {
    fn encode(&self, envelope: &Envelope) -> (String, Encoded) {
        (self.event_type(envelope.record.entity).to_owned(), envelope.encode(self).unwrap())
    }
}

/// Reads an event of any type and encodes it again.
fn read_and_encode(event_type: &str, encoded: &Encoded) -> Encoded {
    fn again<T: EventData>(encoded: &Encoded) -> Encoded {
        let header =
            |name: &str| encoded.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let (envelope, data) = Envelope::decode::<T>(header, &encoded.payload).unwrap();
        envelope.encode(&data).unwrap()
    }
    type Reader = fn(&Encoded) -> Encoded;
    let readers: [(&[&str], Reader); 4] = [
        (RecordChanged::TYPES, again::<RecordChanged>),
        (RecordMapped::TYPES, again::<RecordMapped>),
        (RecordProcessed::TYPES, again::<RecordProcessed>),
        (StatusWritten::TYPES, again::<StatusWritten>),
    ];
    let (_, reader) = readers.iter().find(|(types, _)| types.contains(&event_type)).unwrap();
    reader(encoded)
}

#[test]
fn the_json_schema_files_are_current() {
    for (name, schema) in all_schemas() {
        assert_current(&folder("json").join(format!("{name}.json")), &schema);
    }
}

#[test]
fn todays_code_writes_every_event_as_its_golden_file_has_it() {
    for (event_type, encoded) in samples() {
        let data: Value = serde_json::from_slice(&encoded.payload).unwrap();
        let golden = json!({"headers": encoded.headers, "data": data});
        let text = format!("{}\n", serde_json::to_string_pretty(&golden).unwrap());
        assert_current(&folder("golden").join(format!("{event_type}.json")), &text);
    }
}

#[test]
fn todays_reader_reads_every_golden_event() {
    let mut read = 0;
    for entry in std::fs::read_dir(folder("golden")).unwrap() {
        let path = entry.unwrap().path();
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let headers: Vec<(String, String)> = serde_json::from_value(golden["headers"].clone()).unwrap();
        let event_type = &headers.iter().find(|(name, _)| name == "ce-type").unwrap().1.clone();
        let encoded = Encoded { headers, payload: serde_json::to_vec(&golden["data"]).unwrap() };
        let again = read_and_encode(event_type, &encoded);
        let data: Value = serde_json::from_slice(&again.payload).unwrap();
        assert_eq!(data, golden["data"], "{}", path.display());
        read += 1;
    }
    assert!(read >= samples().len());
}

#[test]
fn every_golden_event_fits_its_schema() {
    let schema_for = |event_type: &str| {
        let name = match event_type {
            name if RecordChanged::TYPES.contains(&name) => "record_changed.v1",
            name if RecordMapped::TYPES.contains(&name) => "record_mapped.v1",
            name if RecordProcessed::TYPES.contains(&name) => "record_processed.v1",
            _ => "status_settled.v1",
        };
        serde_json::from_str::<Value>(&all_schemas()[name]).unwrap()
    };
    for (event_type, encoded) in samples() {
        let validator = jsonschema::validator_for(&schema_for(&event_type)).unwrap();
        let data: Value = serde_json::from_slice(&encoded.payload).unwrap();
        assert!(validator.is_valid(&data), "{event_type}");
        assert!(!validator.is_valid(&json!({"unrelated": 1})), "the schema of {event_type} accepts anything");
    }
}

#[test]
fn headers_follow_the_cloudevents_binary_mode() {
    for (event_type, encoded) in samples() {
        for name in
            ["ce-specversion", "ce-id", "ce-type", "ce-source", "ce-subject", "ce-time", "content-type"]
        {
            assert!(encoded.headers.iter().any(|(key, _)| key == name), "{event_type} lacks {name}");
        }
        for (name, _) in &encoded.headers {
            let attribute = name.strip_prefix("ce-").unwrap_or("contenttype");
            assert!(attribute.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{name}");
        }
    }
}
