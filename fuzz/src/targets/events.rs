//! Messages of the streams. An input is `name: value` lines, an empty line, and the payload.

use runtime::Outgoing;
use schemas::{
    Checkpoint, DeadLetter, Encoded, Envelope, EventData, RecordChanged, RecordMapped, RecordProcessed,
    StatusWritten, subjects,
};
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{files, shown};
use crate::Target;

/// A version that the producer read.
pub const RECORD_CHANGED: Target =
    Target { name: "record_changed", seeds: || golden("changed"), check: event::<RecordChanged> };

/// What the mapper made of it.
pub const RECORD_MAPPED: Target = Target {
    name: "record_mapped",
    seeds: || [golden("ready"), golden("refused"), golden("out_of_scope")].concat(),
    check: event::<RecordMapped>,
};

/// What came of it in otmechalka.
pub const RECORD_PROCESSED: Target =
    Target { name: "record_processed", seeds: || golden("processed"), check: event::<RecordProcessed> };

/// What the status field holds.
pub const STATUS_SETTLED: Target =
    Target { name: "status_settled", seeds: || golden("status_settled"), check: event::<StatusWritten> };

/// A message that a stage gave up.
pub const DEAD_LETTER: Target =
    Target { name: "dead_letter", seeds: dead_letters, check: value::<DeadLetter> };

/// How far the producer is.
pub const CHECKPOINT: Target = Target { name: "checkpoint", seeds: checkpoints, check: value::<Checkpoint> };

#[derive(Deserialize)]
struct Golden {
    headers: Vec<(String, String)>,
    data: Value,
}

/// Returns the golden messages of a kind, as inputs.
fn golden(kind: &str) -> Vec<Vec<u8>> {
    files("schemas/golden", &format!(".{kind}.v1.json"))
        .iter()
        .filter_map(|file| serde_json::from_slice::<Golden>(file).ok())
        .map(|Golden { headers, data }| written(&headers, data.to_string().as_bytes()))
        .collect()
}

fn written(headers: &[(String, String)], payload: &[u8]) -> Vec<u8> {
    let mut input = Vec::new();
    for (name, value) in headers {
        input.extend_from_slice(format!("{name}: {value}\n").as_bytes());
    }
    input.push(b'\n');
    input.extend_from_slice(payload);
    input
}

/// Parts an input into headers and payload; lines without a colon are passed over.
fn message(input: &[u8]) -> (Vec<(String, String)>, &[u8]) {
    let end = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, payload) = match end {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (&input[..0], input),
    };
    let head = String::from_utf8_lossy(head);
    let headers = head.lines().filter_map(|line| line.split_once(": "));
    (headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), payload)
}

fn lookup<'h>(headers: &'h [(String, String)]) -> impl for<'n> Fn(&'n str) -> Option<&'h str> {
    move |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn event<T: EventData>(input: &[u8]) -> String {
    let (headers, payload) = message(input);
    match Envelope::decode::<T>(lookup(&headers), payload) {
        Ok((envelope, data)) => {
            let Ok(encoded) = envelope.encode(&data) else {
                // What was read need not be a CloudEvent that we would write, such as one with an empty source.
                return "read, and not to be written".to_owned();
            };
            assert_eq!(Ok(&encoded), envelope.encode(&data).as_ref(), "two encodings of one event");
            let Encoded { headers: written, payload: bytes } = &encoded;
            let (envelope_again, data_again) =
                Envelope::decode::<T>(lookup(written), bytes).expect("what was written can be read");
            assert_eq!(envelope_again, envelope, "an envelope changed on its way");
            assert_eq!(Ok(&encoded), envelope.encode(&data_again).as_ref(), "data changed on its way");
            assert!(
                written.iter().all(|(_, value)| !value.contains(['\r', '\n', '\0'])),
                "a header breaks: {written:?}"
            );
            let subject = subjects::raw(envelope.record);
            assert_eq!(subjects::record_of(&subject), Some(envelope.record));
            assert!(
                subject
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.')
            );
            let outgoing = Outgoing::new(subject, encoded.clone(), "id".to_owned());
            assert_eq!(outgoing.encoded, encoded);
            format!(
                "{} {:?} {}",
                data.event_type(envelope.record.entity),
                envelope.version.is_some(),
                envelope.pupil.is_some()
            )
        }
        Err(error) => {
            let again = Envelope::decode::<T>(lookup(&headers), payload).err();
            assert_eq!(Some(&error), again.as_ref(), "two errors of one message");
            shown(&error.to_string())
        }
    }
}

fn dead_letters() -> Vec<Vec<u8>> {
    let letter = DeadLetter {
        stage: "pusher".into(),
        reason: "data does not fit its type at line 1 column 2".into(),
        stream: "CRM_CMD".into(),
        sequence: 7,
        subject: "crm.cmd.01.contact.39910".into(),
        deliveries: 5,
        first_failed: None,
        headers: vec![("ce-id".into(), "x".into())],
        payload: "{\"mapping\":1}".into(),
        payload_is_base64: false,
    };
    serde_json::to_vec(&letter).into_iter().collect()
}

fn checkpoints() -> Vec<Vec<u8>> {
    [
        r#"{"watermark":"2026-01-10T12:30:05+03:00","polls":12}"#,
        r#"{"watermark":"2026-01-10T12:30:05+03:00","window":{"from":"2026-01-10T12:28:05+03:00","until":"2026-01-10T12:30:05+03:00","cursor":39910}}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Reads a value that travels without headers.
fn value<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(input: &[u8]) -> String {
    match serde_json::from_slice::<T>(input) {
        Ok(value) => {
            let written = serde_json::to_vec(&value).expect("what was read can be written");
            assert_eq!(serde_json::from_slice::<T>(&written).ok(), Some(value), "a value changed on its way");
            "read".to_owned()
        }
        // These errors are never shown: they may repeat what stands there.
        Err(error) => {
            assert!(error.line() <= 1 + input.iter().filter(|byte| **byte == b'\n').count());
            format!("{:?}", error.classify())
        }
    }
}
