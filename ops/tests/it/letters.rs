//! `rollcall dead-letters` against a real NATS: what is told of a letter, and that a look changes nothing.

use schemas::{DeadLetter, RecordRef, subjects};
use serde_json::Value;

use crate::support::{Done, Nats, rollcall};

/// Buries a message of a contact, as a stage of this version does or one of an earlier version did.
async fn bury(nats: &Nats, id: u64, first_failed: Option<&str>) {
    let record = RecordRef::parse(&format!("contact.{id}")).unwrap();
    let letter = DeadLetter {
        stage: "mapper".into(),
        reason: "the stage stopped in the middle of it".into(),
        stream: "B24_RAW".into(),
        sequence: id,
        subject: subjects::raw(record),
        deliveries: 5,
        first_failed: first_failed.map(|moment| moment.parse().unwrap()),
        headers: Vec::new(),
        payload: "{}".into(),
        payload_is_base64: false,
    };
    let payload = serde_json::to_vec(&letter).unwrap();
    let jetstream = nats.broker().await.jetstream().clone();
    jetstream.publish(subjects::dead_letter("mapper", record), payload.into()).await.unwrap().await.unwrap();
}

async fn letters(nats: &Nats) -> Vec<Value> {
    let done = rollcall(nats.folder(), &nats.settings(), &["dead-letters", "list", "--json"]).await;
    let told: Value = serde_json::from_str(&done.out).unwrap();
    told["result"]["letters"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_letter_tells_when_its_message_first_failed() {
    let nats = Nats::start().await;
    rollcall(nats.folder(), &nats.settings(), &["bootstrap"]).await;
    bury(&nats, 5, Some("2026-01-10T10:00:00Z")).await;
    bury(&nats, 6, None).await;
    let told = letters(&nats).await;
    assert_eq!(
        (&told[0]["first_failed"], &told[1]["first_failed"]),
        (&"2026-01-10T10:00:00Z".into(), &Value::Null)
    );
    let ask = async |arguments: &[&str]| rollcall(nats.folder(), &nats.settings(), arguments).await.out;
    let list = ask(&["dead-letters", "list"]).await;
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].contains("first failed") && lines[0].contains(" d ago"), "{list}");
    assert!(lines[1].contains("first failed     ? ago"), "{list}");
    let has = |text: &str, line: &str| text.lines().any(|told| told == line);
    let (of_now, of_earlier) =
        (ask(&["dead-letters", "show", "1"]).await, ask(&["dead-letters", "show", "2"]).await);
    assert!(has(&of_now, "first failed 2026-01-10T10:00:00Z"), "{of_now}");
    assert!(has(&of_earlier, "first failed not told"), "{of_earlier}");
}

#[tokio::test]
async fn a_dry_run_deletes_no_letter_whatever_else_is_said() {
    let nats = Nats::start().await;
    rollcall(nats.folder(), &nats.settings(), &["bootstrap"]).await;
    bury(&nats, 5, None).await;
    bury(&nats, 6, None).await;
    let before = letters(&nats).await;
    let discard = async |arguments: &[&str]| -> Done {
        let arguments = [&["dead-letters", "discard", "--json"], arguments].concat();
        rollcall(nats.folder(), &nats.settings(), &arguments).await
    };
    for arguments in [&["--all"][..], &["--all", "--dry-run"], &["--all", "--yes", "--dry-run"]] {
        let done = discard(arguments).await;
        let told: Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!((done.code, &told["result"]["deleted"]), (Some(0), &false.into()), "{told}");
        assert_eq!(told["result"]["letters"].as_array().unwrap().len(), 2, "{told}");
        assert_eq!(letters(&nats).await, before, "{arguments:?}");
    }
    discard(&["1", "--yes"]).await;
    assert_eq!(letters(&nats).await, before[1..]);
}
