//! The AsyncAPI 3.0 document of the streams: made from the types, held to the AsyncAPI project's own schema.

use chrono::DateTime;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemas::streams::{
    COMMANDS, DEAD_LETTERS, OLDEST_SERVER, RAW, RESULTS, STATUSES, STREAMS, StreamDefinition,
};
use schemas::{
    DeadLetter, Encoded, Entity, EventData, Partition, RecordChanged, RecordMapped, RecordProcessed,
    StatusWritten,
};
use serde_json::{Map, Value, json};

use crate::{assert_current, folder, samples};

/// Type name of dead letters in the document; they carry no `ce-type`, being about messages and not about records.
const DEAD_LETTER: &str = "rollcall.dead_letter.v1";

/// A set of subjects.
struct Channel {
    name: &'static str,
    stream: &'static StreamDefinition,
    address: &'static str,
    stage: &'static str,
    says: &'static str,
    types: &'static [&'static str],
}

const CHANNELS: [Channel; 6] = [
    Channel {
        name: "changed",
        stream: &RAW,
        address: "b24.raw.{entity}.{id}",
        stage: "producer",
        says: "Changed records in Bitrix24's own words",
        types: RecordChanged::TYPES,
    },
    Channel {
        name: "mapped",
        stream: &COMMANDS,
        address: "crm.cmd.{partition}.{entity}.{id}",
        stage: "mapper",
        says: "What became of each version: ready for otmechalka, out of scope, or refused",
        types: RecordMapped::TYPES,
    },
    Channel {
        name: "waiting",
        stream: &COMMANDS,
        address: "crm.later.{partition}.{entity}.{id}",
        stage: "pusher",
        says: "Mapped records that wait for another try; the server publishes them to `crm.cmd` again",
        types: RecordMapped::TYPES,
    },
    Channel {
        name: "processed",
        stream: &RESULTS,
        address: "crm.result.{partition}.{entity}.{id}",
        stage: "pusher",
        says: "Outcome of each version of each record",
        types: RecordProcessed::TYPES,
    },
    Channel {
        name: "settled",
        stream: &STATUSES,
        address: "b24.status.{partition}.{entity}.{id}",
        stage: "status-writer",
        says: "Statuses as they stand in Bitrix24",
        types: StatusWritten::TYPES,
    },
    Channel {
        name: "buried",
        stream: &DEAD_LETTERS,
        address: "dlq.{stage}.{entity}.{id}",
        stage: "any stage",
        says: "Messages that no redelivery can help; `unknown` and `0` where no record can be told",
        types: &[DEAD_LETTER],
    },
];

/// Returns the whole document.
fn document() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let messages = messages(&mut generator);
    let mut schemas = generator.take_definitions(true);
    schemas.insert("Envelope".into(), envelope_schema());
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Rollcall",
            "version": "1.0.0",
            "description": "Pupils and paid tickets on their way from Bitrix24 to otmechalka, as JetStream streams. \
                How to read them: docs/subscribing.md.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"nats": {
            "host": "nats:4222",
            "protocol": "nats",
            "description": format!("NATS with JetStream, {}.{} or newer", OLDEST_SERVER.0, OLDEST_SERVER.1),
            "security": [{"type": "asymmetricEncryption", "description": "An nkey: `rollcall credentials` makes them."}],
        }},
        "channels": map(CHANNELS.iter().map(|channel| (channel.name.to_owned(), channel_object(channel)))),
        "operations": map(CHANNELS.iter().map(|channel| (format!("publish.{}", channel.name), operation(channel)))),
        "components": {"schemas": schemas, "messages": messages},
    })
}

fn map(entries: impl IntoIterator<Item = (String, Value)>) -> Map<String, Value> {
    entries.into_iter().collect()
}

fn channel_object(channel: &Channel) -> Value {
    let messages = channel
        .types
        .iter()
        .map(|name| ((*name).to_owned(), json!({"$ref": format!("#/components/messages/{name}")})));
    let stream = channel.stream;
    json!({
        "address": channel.address,
        "title": channel.says,
        "messages": map(messages),
        "parameters": map(parameters(channel.address)),
        "x-jetstream": {
            "stream": stream.name,
            "subject": filter(channel.address),
            "keptDays": stream.max_age.as_secs() / (24 * 60 * 60),
        },
    })
}

/// Returns the subject filter that an address stands for.
fn filter(address: &str) -> String {
    address
        .split('.')
        .map(|token| if token.starts_with('{') { "*" } else { token })
        .collect::<Vec<_>>()
        .join(".")
}

fn parameters(address: &str) -> impl Iterator<Item = (String, Value)> {
    address.split('.').filter_map(|token| token.strip_prefix('{')?.strip_suffix('}')).map(|name| {
        let object = match name {
            "entity" => json!({
                "enum": Entity::ALL.map(Entity::token),
                "description": "Kind of record in Bitrix24's words",
            }),
            "partition" => json!({
                "enum": Partition::all().map(|partition| partition.to_string()).collect::<Vec<_>>(),
                "description": "CRC-32 of an id, modulo the number of partitions: the pupil's id in `crm.cmd` and \
                    `crm.later`, the record's own elsewhere. Use `*` unless you share the work out",
            }),
            "stage" => json!({
                "enum": ["mapper", "pusher", "status-writer"],
                "description": "The stage that gave the message up",
            }),
            _ => json!({"description": "Id of the record in Bitrix24", "examples": ["39910"]}),
        };
        (name.to_owned(), object)
    })
}

fn operation(channel: &Channel) -> Value {
    let name = channel.name;
    let messages = channel
        .types
        .iter()
        .map(|event_type| json!({"$ref": format!("#/channels/{name}/messages/{event_type}")}));
    json!({
        "action": "send",
        "channel": {"$ref": format!("#/channels/{name}")},
        "summary": format!("Published by {}", channel.stage),
        "messages": messages.collect::<Vec<_>>(),
    })
}

fn messages(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let examples = samples();
    let mut payload = |event_type: &str| match event_type {
        name if RecordChanged::TYPES.contains(&name) => generator.subschema_for::<RecordChanged>(),
        name if RecordMapped::TYPES.contains(&name) => generator.subschema_for::<RecordMapped>(),
        name if RecordProcessed::TYPES.contains(&name) => generator.subschema_for::<RecordProcessed>(),
        _ => generator.subschema_for::<StatusWritten>(),
    };
    let mut all = map(examples.iter().map(|(event_type, example)| {
        let payload = narrowed(event_type, payload(event_type).to_value());
        (event_type.clone(), message(event_type, payload, event_headers(event_type), example))
    }));
    let payload = generator.subschema_for::<DeadLetter>().to_value();
    let headers = json!({"type": "object", "properties": {"content-type": {"const": "application/json"}}});
    all.insert(DEAD_LETTER.into(), message(DEAD_LETTER, payload, headers, &dead_letter()));
    all
}

fn message(event_type: &str, payload: Value, headers: Value, example: &Encoded) -> Value {
    let data: Value = serde_json::from_slice(&example.payload).unwrap();
    json!({
        "name": event_type,
        "contentType": "application/json",
        "headers": headers,
        "payload": payload,
        "examples": [{
            "name": "golden",
            "headers": map(example.headers.iter().map(|(name, value)| (name.clone(), json!(value)))),
            "payload": data,
        }],
    })
}

/// Says which of the outcomes of a mapping travel under a type.
fn narrowed(event_type: &str, payload: Value) -> Value {
    let outcome = match event_type {
        "rollcall.client.ready.v1" => "client",
        "rollcall.ticket.ready.v1" => "ticket",
        name if name.ends_with(".out_of_scope.v1") => "out_of_scope",
        name if name.ends_with(".refused.v1") => "refused",
        _ => return payload,
    };
    let mapping = json!({"properties": {"outcome": {"const": outcome}}});
    json!({"allOf": [payload, {"properties": {"mapping": mapping}}]})
}

fn event_headers(event_type: &str) -> Value {
    let mut required = vec!["ce-type"];
    if !RecordChanged::TYPES.contains(&event_type) {
        required.extend(["ce-rawsequence", "ce-redrive"]);
    }
    json!({
        "type": "object",
        "allOf": [{"$ref": "#/components/schemas/Envelope"}],
        "properties": {"ce-type": {"const": event_type}},
        "required": required,
    })
}

fn envelope_schema() -> Value {
    let text = |says: &str| json!({"type": "string", "description": says});
    let number = |says: &str| json!({"type": "string", "pattern": "^[0-9]+$", "description": says});
    let time = |says: &str| json!({"type": "string", "format": "date-time", "description": says});
    json!({
        "type": "object",
        "description": "CloudEvents 1.0 in binary mode: attributes are headers, all of them text.",
        "properties": {
            "content-type": {"const": "application/json"},
            "ce-specversion": {"const": "1.0"},
            "ce-id": {"type": "string", "format": "uuid", "description": "Derived from what the event says: equal events have equal ids."},
            "ce-type": text("Type and version of the data."),
            "ce-source": text("Stage that published it: `/rollcall/mapper`."),
            "ce-subject": {"type": "string", "pattern": "^(contact|deal)/[1-9][0-9]*$", "description": "The record: `contact/39910`."},
            "ce-time": time("Modification time of the version, in UTC."),
            "ce-modified": time("The same as Bitrix24 tells it, in the portal's zone."),
            "ce-fingerprint": text("Digest of the version's content, the status field left out."),
            "ce-pupil": number("Contact whose partition the record travels in."),
            "ce-rawsequence": number("Sequence of the version in B24_RAW: the order of all versions. Absent on changed records, whose own sequence it is."),
            "ce-redrive": number("How often the version was sent round again on purpose; compared after ce-rawsequence."),
            "ce-attempt": number("Which try at otmechalka this is; absent for the first."),
            "ce-erased": number("Highest sequence in B24_RAW of the record's erased messages; only where ce-source is `/rollcall/erase`."),
            "ce-answered": {
                "type": "string",
                "pattern": "^[a-z_]+ [a-z_]+( [1-5][0-9][0-9])?$",
                "description": "What otmechalka answered to the try before, or when it refused: call, kind, status. Absent where it took the record.",
            },
            "traceparent": {
                "type": "string",
                "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}",
                "description": "W3C trace context of the record's way. Absent where the stages send no traces.",
            },
        },
        "required": ["content-type", "ce-specversion", "ce-id", "ce-type", "ce-source", "ce-subject", "ce-time",
            "ce-modified", "ce-fingerprint"],
    })
}

fn dead_letter() -> Encoded {
    let letter = DeadLetter {
        stage: "mapper".into(),
        reason: "data does not fit its type at line 1 column 2".into(),
        stream: RAW.name.into(),
        sequence: 17,
        subject: "b24.raw.contact.39910".into(),
        deliveries: 1,
        first_failed: DateTime::from_timestamp(1_768_037_000, 0),
        headers: vec![("ce-type".into(), "rollcall.contact.changed.v1".into())],
        payload: "{}".into(),
        payload_is_base64: false,
    };
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    Encoded { headers, payload: serde_json::to_vec(&letter).unwrap() }
}

/// The AsyncAPI project's own schema of 3.0.0 documents.
fn meta_schema() -> jsonschema::Validator {
    let text = std::fs::read_to_string(folder("tests/asyncapi-3.0.0/schema.json")).unwrap();
    jsonschema::draft7::new(&serde_json::from_str(&text).unwrap()).unwrap()
}

#[test]
fn the_asyncapi_document_is_current() {
    let text = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
    assert_current(&folder("asyncapi.json"), &text);
}

#[test]
fn the_document_is_asyncapi_by_asyncapis_own_schema() {
    let (meta_schema, document) = (meta_schema(), document());
    let errors: Vec<String> = meta_schema
        .iter_errors(&document)
        .map(|error| format!("{} at {}", error.kind().keyword(), error.instance_path()))
        .collect();
    assert_eq!(errors, [] as [String; 0]);
    let spoils: [(&str, Value); 5] = [
        ("/asyncapi", json!("2.6.0")),
        ("/info", json!({"title": "no version"})),
        ("/operations/publish.changed/action", json!("publish")),
        ("/components/schemas/Client/type", json!("record")),
        ("/components/messages/rollcall.client.ready.v1/examples", json!([{"name": "empty"}])),
    ];
    for (place, spoilt) in spoils {
        let mut bad = document.clone();
        *bad.pointer_mut(place).unwrap_or_else(|| panic!("no {place}")) = spoilt;
        assert!(!meta_schema.is_valid(&bad), "the schema accepts a wrong {place}");
    }
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 40, "{found:?}");
    for reference in found {
        let place = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads outside"));
        assert!(document.pointer(place).is_some(), "{reference}");
    }
}

#[test]
fn every_subject_of_every_stream_is_a_channel_and_every_type_a_message() {
    let document = document();
    let mut filters: Vec<String> = CHANNELS.iter().map(|channel| filter(channel.address)).collect();
    filters.sort();
    let mut subjects: Vec<&str> = STREAMS.iter().flat_map(|stream| stream.subjects).copied().collect();
    subjects.sort_unstable();
    assert_eq!(filters, subjects);
    for channel in &CHANNELS {
        assert!(channel.stream.subjects.contains(&filter(channel.address).as_str()), "{}", channel.name);
        for event_type in channel.types {
            let messages = document["components"]["messages"].as_object().unwrap();
            assert!(messages.contains_key(*event_type), "{event_type}");
        }
    }
}

#[test]
fn every_example_fits_its_own_message_and_no_other_type() {
    let document = document();
    let messages = document["components"]["messages"].as_object().unwrap();
    for (name, message) in messages {
        for part in ["payload", "headers"] {
            let mut schema = message[part].clone();
            schema["components"] = document["components"].clone();
            let validator = jsonschema::draft7::new(&schema).unwrap();
            let example = &message["examples"][0][part];
            assert!(validator.is_valid(example), "{part} of {name}");
            if part == "headers" && name != DEAD_LETTER {
                let others = messages.iter().filter(|(other, _)| *other != name);
                assert!(
                    others
                        .map(|(_, other)| &other["examples"][0][part])
                        .all(|other| !validator.is_valid(other))
                );
            }
        }
    }
}
