//! What operators see of one record, and how dead letters go round again.

use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::HeaderMap;
use e2e::{PATIENCE, School, Stage, eventually};
use runtime::broker::NatsSettings;
use runtime::health::Health;
use runtime::{Broker, CancellationToken, Delivery, Handler, Verdict, consume};
use schemas::streams::{ConsumerDefinition, mapper_consumer, pusher_consumers, status_writer_consumer};
use schemas::{DeadLetter, Entity, RecordId, RecordRef, subjects};
use serde_json::{Value, json};

use crate::flow::{client, good_contact, status_of, writes};

const DLQ: &str = "DLQ";

/// A stage with a mistake in it.
struct Broken;

impl Handler for Broken {
    async fn handle(&self, delivery: &Delivery) -> Verdict {
        panic!("cannot bear message {}", delivery.sequence())
    }
}

/// Runs a broken stage in the place of the right one until it has given up this many messages.
pub async fn break_down(
    school: &School,
    stage: &'static str,
    consumer: ConsumerDefinition,
    letters: u64,
) -> anyhow::Result<()> {
    let (settings, stopping) = (NatsSettings::plain(&school.nats.url())?, CancellationToken::new());
    let broker = Broker::connect("broken", &settings, Health::default(), stopping.clone()).await?;
    let work = consume(&broker, stage, consumer, &Broken);
    let watch = async {
        let buried = until_messages(school, DLQ, letters).await;
        stopping.cancel();
        buried
    };
    let (_stopped, buried) = tokio::join!(work, watch);
    buried
}

pub async fn until_messages(school: &School, stream: &str, count: u64) -> anyhow::Result<()> {
    eventually(&format!("{count} messages in {stream}"), PATIENCE, || async {
        Ok((school.messages(stream).await? >= count).then_some(()))
    })
    .await
}

/// Has a stream know an id already, of a message that is gone: it takes the next one with that id for a duplicate.
pub async fn occupy(school: &School, stream: &str, subject: &str, message_id: &str) -> anyhow::Result<()> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", message_id);
    let jetstream = school.broker.jetstream();
    let ack = jetstream.publish_with_headers(subject.to_owned(), headers, "".into()).await?.await?;
    assert!(!ack.duplicate, "{message_id} is known to {stream} without that");
    jetstream.get_stream(stream).await?.delete_message(ack.sequence).await?;
    Ok(())
}

fn pusher_consumer(contact: u64) -> ConsumerDefinition {
    let filter = subjects::command_partition(RecordId::try_new(contact).unwrap().partition());
    pusher_consumers().into_iter().find(|consumer| consumer.filter == filter).unwrap()
}

async fn letters(school: &School, filters: &[&str]) -> anyhow::Result<Vec<Value>> {
    let told = school.rollcall(&[["--json", "dead-letters", "list"].as_slice(), filters].concat()).await?;
    assert_eq!(told.code, 0, "{told:?}");
    Ok(told.json()?["result"]["letters"].as_array().cloned().unwrap_or_default())
}

/// Publishes a message that no program of today can read, about a contact's version.
async fn publish_from_the_future(
    school: &School,
    subject: &str,
    contact: u64,
    raw_sequence: u64,
    payload: &Value,
) -> anyhow::Result<()> {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "from-the-future"),
        ("ce-type", "rollcall.contact.changed.v9"),
        ("ce-source", "/rollcall/newer"),
        ("ce-subject", &format!("contact/{contact}")),
        ("ce-modified", "2026-01-10T12:00:00+03:00"),
        ("ce-fingerprint", "ab"),
        ("ce-rawsequence", &raw_sequence.to_string()),
    ] {
        headers.insert(name, value);
    }
    let payload = serde_json::to_vec(payload)?.into();
    school.broker.jetstream().publish_with_headers(subject.to_owned(), headers, payload).await?.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stage_crashed_on_is_redriven_within_the_duplicate_window() -> anyhow::Result<()> {
    let mut school = School::builder().open().await?;
    let id = school.bitrix24.create_contact(good_contact()).await?;
    school.start(Stage::Producer)?;
    until_messages(&school, "B24_RAW", 1).await?;
    break_down(&school, "mapper", mapper_consumer(), 1).await?;

    let listed = letters(&school, &["--contact", &id.to_string(), "--reason", "MIDDLE"]).await?;
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["stage"], &listed[0]["raw_sequence"]), (&json!("mapper"), &json!(1)));
    assert!(listed[0]["deliveries"].as_u64() >= Some(4), "{listed:?}");
    assert_eq!(letters(&school, &["--stage", "pusher"]).await?, Vec::<Value>::new());

    for stage in [Stage::Mapper, Stage::Pusher, Stage::StatusWriter] {
        school.start(stage)?;
    }
    let sequence = listed[0]["sequence"].to_string();
    let looked = school.rollcall(&["dead-letters", "redrive", &sequence, "--dry-run"]).await?;
    assert!(looked.code == 0 && looked.out.contains("1 letter would be redriven"), "{looked:?}");
    assert_eq!((school.messages(DLQ).await?, school.messages("CRM_CMD").await?), (1, 0));
    let told = school.rollcall(&["--json", "dead-letters", "redrive", &sequence]).await?;
    let fate = &told.json()?["result"]["letters"][0];
    assert_eq!((told.code, &fate["fate"], &fate["redrive"]), (0, &json!("sent"), &json!(1)), "{told:?}");
    assert_eq!(school.messages(DLQ).await?, 0);
    school.caught_up().await?;
    assert!(client(&school, id).await?.is_some());
    assert_eq!(status_of(&school, "contact", id).await?, "Успешно");

    // This time the command is in its stream, so its id is one that the server would drop for a day.
    school.stage(Stage::Pusher)?.stop().await?;
    school.bitrix24.edit("contact", id, json!({"UF_CRM_57AD7FAF7E6C4": "Осинкин"})).await?;
    until_messages(&school, "CRM_CMD", 2).await?;
    break_down(&school, "pusher", pusher_consumer(id), 1).await?;
    school.start(Stage::Pusher)?;
    let before = (writes(&school).await?, school.messages("CRM_CMD").await?);
    let told = school.rollcall(&["dead-letters", "redrive", "--stage", "pusher"]).await?;
    assert!(told.code == 0 && told.out.contains("1 letter redriven and deleted"), "{told:?}");
    school.caught_up().await?;
    let after = (writes(&school).await?, school.messages("CRM_CMD").await?);
    assert_eq!(after, (before.0 + 1, before.1 + 1), "stored as a new message, and pushed once");
    assert_eq!(client(&school, id).await?.unwrap()["last_name"], "Осинкин");
    assert_eq!(
        (status_of(&school, "contact", id).await?.as_str(), school.messages(DLQ).await?),
        ("Успешно", 0)
    );
    school.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_command_is_mapped_anew_and_what_nobody_can_read_stays() -> anyhow::Result<()> {
    let mut school = School::builder().open().await?;
    let id = school.bitrix24.create_contact(good_contact()).await?;
    school.start(Stage::Producer)?;
    until_messages(&school, "B24_RAW", 1).await?;
    let contact = RecordRef::contact(RecordId::try_new(id).unwrap());
    let payload = json!({"last_name": "Берёзкин"});
    publish_from_the_future(&school, &subjects::command(contact.id, contact), id, 1, &payload).await?;
    school.start(Stage::Pusher)?;
    until_messages(&school, DLQ, 1).await?;

    let show = |reveal: &'static [&'static str]| {
        let arguments = [["dead-letters", "show", "1"].as_slice(), reveal].concat();
        let school = &school;
        async move { school.rollcall(&arguments).await }
    };
    let shown = show(&[]).await?;
    assert!(shown.out.contains("none of those expected here"), "{shown:?}");
    assert!(shown.out.contains("last_name") && !shown.out.contains("Берёзкин"), "{shown:?}");
    assert!(show(&["--reveal"]).await?.out.contains("Берёзкин"));

    let told = school.rollcall(&["dead-letters", "redrive", "1"]).await?;
    assert_eq!(told.code, 0, "{told:?}");
    // The mapper comes late with the first, older try at the same version.
    school.start(Stage::StatusWriter)?;
    eventually("the client", PATIENCE, || client(&school, id)).await?;
    school.start(Stage::Mapper)?;
    school.caught_up().await?;
    assert_eq!(status_of(&school, "contact", id).await?, "Успешно");
    assert_eq!(writes(&school).await?, 1);
    school.assert_consistent().await?;

    // Nobody can read the raw message itself, so there is nothing to send, and all that tell of it name what mends it.
    // While polls still read the record they mend it by themselves.
    school.bitrix24.advance_clock(3_600.0).await?;
    school.after_polls(4).await?;
    publish_from_the_future(&school, &format!("b24.raw.contact.{id}"), id, 0, &payload).await?;
    until_messages(&school, DLQ, 1).await?;
    let (name, remedy) = (id.to_string(), format!("rollcall reconcile --repair --contact {id}"));
    let letter = letters(&school, &[]).await?[0]["sequence"].to_string();
    let discard = ["dead-letters", "discard", letter.as_str(), "--yes"];
    for (code, exit, arguments) in [
        ("letters.impossible", 1, ["dead-letters", "redrive", "--all"]),
        ("history.dead_letter", 0, ["history", "contact", &name]),
        ("preview.unreadable", 1, ["preview", "contact", &name]),
    ] {
        let told = school.rollcall(&[&arguments[..], &["--json"]].concat()).await?;
        let finding = &told.json()?["findings"][0];
        assert_eq!((told.code, &finding["code"]), (exit, &json!(code)), "{told:?}");
        let action = finding["action"].as_str().unwrap();
        assert!(action.contains(&remedy), "{finding}");
        assert_eq!(action.contains(&discard.join(" ")), code != "preview.unreadable", "{finding}");
    }
    assert_eq!(school.messages(DLQ).await?, 1);
    let arguments: Vec<&str> = remedy.split(' ').skip(1).chain(["--json"]).collect();
    let told = school.rollcall(&arguments).await?;
    assert_eq!((told.code, &told.json()?["result"]["sent"]), (0, &json!(1)), "{told:?}");
    // Now something newer speaks for the record.
    let told = school.rollcall(&["dead-letters", "redrive", &letter, "--json"]).await?;
    assert_eq!(told.json()?["findings"][0]["code"], "letters.superseded", "{told:?}");
    assert_eq!(school.rollcall(&discard).await?.code, 0);
    school.caught_up().await?;
    assert_eq!((school.messages(DLQ).await?, writes(&school).await?), (0, 2));
    let told = school.rollcall(&["preview", "contact", &name]).await?;
    assert_eq!(told.code, 0, "{told:?}");
    school.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_serves_itself_where_the_raw_version_is_no_longer_kept() -> anyhow::Result<()> {
    let mut school = School::builder().open().await?;
    let id = school.bitrix24.create_contact(good_contact()).await?;
    for stage in [Stage::Producer, Stage::Mapper, Stage::Pusher] {
        school.start(stage)?;
    }
    until_messages(&school, "CRM_RESULT", 1).await?;
    break_down(&school, "status-writer", status_writer_consumer(Entity::Contact), 1).await?;
    school.broker.stream("B24_RAW").await?.delete_message(1).await?;
    let told =
        school.rollcall(&["--json", "dead-letters", "redrive", "--record", &format!("contact/{id}")]).await?;
    let fate = &told.json()?["result"]["letters"][0];
    assert_eq!((&fate["fate"], &fate["as_it_was"]), (&json!("sent"), &json!(true)), "{told:?}");
    school.start(Stage::StatusWriter)?;
    school.caught_up().await?;
    assert_eq!(status_of(&school, "contact", id).await?, "Успешно");
    let messages = (school.messages("CRM_CMD").await?, school.messages("CRM_RESULT").await?);
    assert_eq!(
        (messages, writes(&school).await?),
        ((1, 2), 1),
        "the outcome is told again, nothing is pushed"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_older_than_a_newer_version_changes_nothing() -> anyhow::Result<()> {
    let mut school = School::builder().open().await?;
    let id = school.bitrix24.create_contact(good_contact()).await?;
    school.start(Stage::Producer)?;
    until_messages(&school, "B24_RAW", 1).await?;
    break_down(&school, "mapper", mapper_consumer(), 1).await?;
    for stage in [Stage::Mapper, Stage::Pusher, Stage::StatusWriter] {
        school.start(stage)?;
    }
    school.bitrix24.edit("contact", id, json!({"UF_CRM_57AD7FAF7E6C4": "Осинкин"})).await?;
    school.caught_up().await?;
    let before = (writes(&school).await?, school.messages("CRM_CMD").await?);

    let told = school.rollcall(&["--json", "dead-letters", "redrive", "--all"]).await?;
    let answer = told.json()?;
    assert_eq!((told.code, &answer["findings"][0]["code"]), (0, &json!("letters.superseded")), "{told:?}");
    school.caught_up().await?;
    assert_eq!((writes(&school).await?, school.messages("CRM_CMD").await?), before);
    assert_eq!(client(&school, id).await?.unwrap()["last_name"], "Осинкин");
    school.assert_consistent().await?;

    let none_named = school.rollcall(&["dead-letters", "discard", "--yes"]).await?;
    assert_eq!((none_named.code, school.messages(DLQ).await?), (2, 1), "{none_named:?}");
    let shown = school.rollcall(&["dead-letters", "discard", "--stage", "mapper"]).await?;
    assert!(shown.out.contains("1 dead letter would be deleted"), "{shown:?}");
    assert!(shown.out.contains("deals that name it wait for it"), "{shown:?}");
    assert_eq!(school.messages(DLQ).await?, 1);
    let done = school.rollcall(&["dead-letters", "discard", "--stage", "mapper", "--yes"]).await?;
    assert!(
        done.out.contains(&format!("contact/{id}")) && done.out.contains("1 dead letter of 1 deleted"),
        "{done:?}"
    );
    assert_eq!(school.messages(DLQ).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_arrives_during_a_redrive_stays() -> anyhow::Result<()> {
    let mut school = School::builder().open().await?;
    let id = school.bitrix24.create_contact(good_contact()).await?;
    school.start(Stage::Producer)?;
    until_messages(&school, "B24_RAW", 1).await?;
    let contact = RecordRef::contact(RecordId::try_new(id).unwrap());
    let letter = DeadLetter {
        stage: "pusher".into(),
        reason: "a test".into(),
        stream: "CRM_CMD".into(),
        sequence: 1,
        subject: subjects::command(contact.id, contact),
        deliveries: 1,
        first_failed: None,
        headers: vec![("ce-rawsequence".into(), "1".into())],
        payload: String::new(),
        payload_is_base64: false,
    };
    let (payload, subject) = (serde_json::to_vec(&letter)?, subjects::dead_letter("pusher", contact));
    let publish = || async {
        school.broker.jetstream().publish(subject.clone(), payload.clone().into()).await?.await?;
        anyhow::Ok(())
    };
    for _ in 0..50 {
        publish().await?;
    }
    let is_over = AtomicBool::new(false);
    let redrive = async {
        let told = school.rollcall(&["--json", "dead-letters", "redrive", "--all"]).await;
        is_over.store(true, Ordering::SeqCst);
        told
    };
    let arrivals = async {
        let mut arrived = 0_u64;
        while !is_over.load(Ordering::SeqCst) {
            publish().await?;
            arrived += 1;
        }
        anyhow::Ok(arrived)
    };
    let (told, arrived) = tokio::join!(redrive, arrivals);
    let (answer, arrived) = (told?.json()?, arrived?);
    let fates = answer["result"]["letters"].as_array().cloned().unwrap_or_default();
    assert!(fates.len() >= 50 && fates.iter().all(|fate| fate["fate"] == "sent"), "{answer}");
    assert_eq!(
        school.messages(DLQ).await?,
        50 + arrived - fates.len() as u64,
        "only what was told is deleted"
    );
    assert!(school.messages(DLQ).await? > 0, "some did arrive later");
    assert_eq!(school.messages("CRM_CMD").await?, 1, "one version, sent once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_records_story_is_told_whole_and_without_personal_data() -> anyhow::Result<()> {
    let school = School::builder().start().await?;
    let mut contact = good_contact();
    contact["PHONE"] = json!([{"VALUE": "позвонить маме", "VALUE_TYPE": "MOBILE"}]);
    let id = school.bitrix24.create_contact(contact).await?;
    school.caught_up().await?;
    let correction = json!({"PHONE": [{"VALUE": "8 (926) 555-01-02", "VALUE_TYPE": "MOBILE"}]});
    school.bitrix24.edit("contact", id, correction).await?;
    school.caught_up().await?;
    publish_from_the_future(&school, &format!("b24.raw.contact.{id}"), id, 0, &json!({"x": "Елена"})).await?;
    until_messages(&school, DLQ, 1).await?;

    let record = format!("contact/{id}");
    let told = school.rollcall(&["--json", "history", "contact", &id.to_string()]).await?;
    let answer = told.json()?;
    let entries = answer["result"]["entries"].as_array().cloned().unwrap_or_default();
    let kinds: Vec<&str> = entries.iter().filter_map(|entry| entry["kind"].as_str()).collect();
    let expected = [
        ["read", "mapped", "processed", "status"].as_slice(),
        ["read", "mapped", "processed", "status"].as_slice(),
        ["unreadable", "dead_letter"].as_slice(),
    ];
    assert!(kinds.starts_with(&expected.concat()), "{answer:#}");
    assert_eq!(
        (&entries[1]["outcome"], &entries[1]["problems"][0]["code"]),
        (&json!("refused"), &json!("phone.invalid"))
    );
    assert_eq!(entries[2]["outcome"], "refused");
    assert_eq!((&entries[6]["outcome"], &entries[7]["status"]), (&json!("created"), &json!("Успешно")));
    let changed: Vec<&str> = entries[4]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|change| change["field"].as_str())
        .collect();
    assert!(changed.contains(&"PHONE") && !changed.contains(&"NAME"), "{changed:?}");
    assert_eq!(answer["findings"][0]["code"], "history.dead_letter");

    let secrets = ["Елена", "Берёзкин", "Артём", "позвонить", "555-01-02", "79265550102"];
    let text = school.rollcall(&["history", &record]).await?.out;
    let revealed = school.rollcall(&["history", &record, "--reveal"]).await?.out;
    for secret in secrets {
        assert!(!text.contains(secret) && !told.out.contains(secret), "{secret} in {text}");
    }
    assert!(text.contains("phone.invalid") && text.contains("Телефон") && text.contains("created"), "{text}");
    assert!(revealed.contains("позвонить") && revealed.contains("555-01-02"), "{revealed}");

    let nobody = school.rollcall(&["--json", "history", "deal/1"]).await?;
    assert_eq!(nobody.json()?["findings"][0]["code"], "history.empty");
    assert_eq!(school.rollcall(&["history", "lead/1"]).await?.code, 2);
    Ok(())
}
