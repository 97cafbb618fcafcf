//! What only looks changes nothing: no message more, none less, no file.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use schemas::streams::STREAMS;
use schemas::{Envelope, RecordChanged, RecordRef, subjects};
use serde_json::{Value, json};

use crate::support::{Nats, rollcall};

/// Stores a contact as the producer does.
async fn store(nats: &Nats, id: u64, phone: &str) {
    let record = RecordRef::parse(&format!("contact.{id}")).unwrap();
    let observed = chrono::DateTime::parse_from_rfc3339("2026-01-10T10:00:00+03:00").unwrap();
    let fields = json!({
        "ID": id.to_string(), "NAME": "Елена", "LAST_NAME": "Зарудная",
        "UF_CRM_57AD7FAF7E6C4": "Зарудный", "UF_CRM_1608028374": "Артём",
        "PHONE": [{"VALUE": phone, "VALUE_TYPE": "MOBILE"}],
        "UF_CRM_58D15BB9CA8F4": [410], "UF_CRM_1470852549": [48],
    });
    let changed = RecordChanged {
        observed,
        status: Some(String::new()),
        record: serde_json::value::to_raw_value(&fields).unwrap(),
        product_rows: None,
        seller: None,
        trimmed: Vec::new(),
    };
    let envelope = Envelope {
        record,
        source: "/rollcall/producer".into(),
        pupil: None,
        modified: observed,
        fingerprint: phone.into(),
        version: None,
        attempt: 0,
    };
    let encoded = envelope.encode(&changed).unwrap();
    let mut headers = HeaderMap::new();
    encoded.headers.iter().for_each(|(name, value)| headers.insert(name.as_str(), value.as_str()));
    let jetstream = nats.broker().await.jetstream().clone();
    let stored = jetstream.publish_with_headers(subjects::raw(record), headers, encoded.payload.into()).await;
    stored.unwrap().await.unwrap();
}

/// Messages and last sequence of every stream, those of the buckets among them.
async fn holdings(nats: &Nats) -> BTreeMap<String, (u64, u64)> {
    use futures::TryStreamExt;
    let jetstream = nats.broker().await.jetstream().clone();
    let infos: Vec<_> = jetstream.streams().try_collect().await.unwrap();
    assert!(infos.len() > STREAMS.len(), "the buckets are streams too");
    infos
        .into_iter()
        .map(|info| (info.config.name, (info.state.messages, info.state.last_sequence)))
        .collect()
}

#[tokio::test]
async fn preview_and_a_replay_that_is_not_applied_change_no_stream() {
    let nats = Nats::start().await;
    let mut settings = nats.settings();
    settings.push(("DEFAULT_PHONE_REGION", "RU".to_owned()));
    rollcall(nats.folder(), &settings, &["bootstrap"]).await;
    store(&nats, 39910, "8 (926) 555-01-02").await;
    store(&nats, 39911, "").await;
    let before = holdings(&nats).await;
    for (arguments, told) in [
        (&["preview", "contact", "39910"][..], "\"outcome\": \"client\""),
        (&["preview", "--from-stream"], "\"result\""),
        (&["replay", "--entity", "contact"], "\"hash\""),
        (&["replay", "--entity", "contact", "--resend", "--dry-run"], "\"hash\""),
        (&["replay", "--contact", "39910", "--to", "sandbox.test", "--dry-run"], "\"hash\""),
    ] {
        let done = rollcall(nats.folder(), &settings, &[arguments, &["--json"]].concat()).await;
        assert!(done.code == Some(0) && done.out.contains(told), "{arguments:?}: {}{}", done.out, done.err);
        assert_eq!(holdings(&nats).await, before, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_dry_run_of_credentials_makes_no_file_and_shows_no_key_that_will_never_be() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str]| {
        let all = [&["credentials", "--consumer", "warehouse"], arguments].concat();
        let done = rollcall(folder.path(), &Vec::new(), &all).await;
        assert_eq!(done.code, Some(0), "{}", done.err);
        done.out
    };
    let keys = |told: &str| -> Vec<Value> {
        let told: Value = serde_json::from_str(told).unwrap();
        told["result"]["users"].as_array().unwrap().iter().map(|user| user["public_key"].clone()).collect()
    };
    let looked = run(&["--dry-run", "--json"]).await;
    assert!(keys(&looked).iter().all(Value::is_null), "{looked}");
    assert_eq!(run(&["--dry-run", "--json"]).await, looked, "the same each time");
    let text = run(&["--dry-run"]).await;
    assert!(text.contains("new   mapper  (a new key)"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let made = keys(&run(&["--json"]).await);
    assert!(made.iter().all(|key| key.as_str().is_some_and(|key| key.starts_with('U'))), "{made:?}");
    assert_eq!(keys(&run(&["--dry-run", "--json"]).await), made, "those that are there are shown");
}
