//! One person's data is gone from everywhere by one command, and nothing else changes.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use e2e::{School, Stage, eventually};
use futures::TryStreamExt;
use schemas::streams::{CHECKPOINTS, RAW};
use schemas::{DeadLetter, RecordId, RecordRef, subjects};
use serde_json::{Value, json};

use crate::flow::{client, good_contact, good_deal, good_rows, status_of, ticket, writes};

const PATIENCE: Duration = Duration::from_secs(90);

/// What is known about the one who is to be forgotten; no other record has any of it.
const OF_THE_PERSON: [&str; 7] =
    ["Зверобоев", "Пахом", "Никанора", "Подорожникова", "92677712", "777-12", "zveroboy@example.com"];

fn person(phone: &str) -> Value {
    let mut contact = good_contact();
    let own = json!({
        "NAME": "Никанора", "LAST_NAME": "Подорожникова",
        "UF_CRM_57AD7FAF7E6C4": "Зверобоев", "UF_CRM_1608028374": "Пахом",
        "PHONE": [{"VALUE": phone, "VALUE_TYPE": "MOBILE"}],
        "EMAIL": [{"VALUE": "zveroboy@example.com", "VALUE_TYPE": "HOME"}],
    });
    if let (Some(contact), Some(own)) = (contact.as_object_mut(), own.as_object()) {
        contact.extend(own.clone());
    }
    contact
}

/// Reads every message of every stream and bucket, headers and all.
async fn everything_in_nats(school: &School) -> anyhow::Result<Vec<String>> {
    let names: Vec<String> = school.broker.jetstream().stream_names().try_collect().await?;
    let mut texts = Vec::new();
    for name in names {
        for message in school.stored(&name, ">").await? {
            let text = String::from_utf8_lossy(&message.payload);
            texts.push(format!("{name} {} {:?} {text}", message.subject, message.headers));
        }
    }
    Ok(texts)
}

/// Reads every file under a folder as bytes.
fn files(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, into)?;
        } else if let Ok(bytes) = std::fs::read(&path) {
            into.push((path.display().to_string(), bytes));
        }
    }
    Ok(())
}

/// Returns the files of NATS and of the stages that hold one of these.
fn files_with(school: &School, data: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut kept = Vec::new();
    files(&school.folder(), &mut kept)?;
    kept.retain(|(path, bytes)| !path.contains("-sim") && data.iter().any(|datum| holds(bytes, datum)));
    Ok(kept.into_iter().map(|(path, _)| path).collect())
}

fn holds(bytes: &[u8], datum: &str) -> bool {
    bytes.windows(datum.len()).any(|window| window == datum.as_bytes())
}

fn count(texts: &[String], datum: &str) -> usize {
    texts.iter().filter(|text| text.contains(datum)).count()
}

async fn bury(school: &School, subject: String, contact: u64) -> anyhow::Result<()> {
    let letter = DeadLetter {
        stage: "mapper".into(),
        reason: "the data does not fit its type".into(),
        stream: "B24_RAW".into(),
        sequence: 1,
        subject: format!("b24.raw.contact.{contact}"),
        deliveries: 5,
        first_failed: None,
        headers: Vec::new(),
        payload: person("8 926 777").to_string(),
        payload_is_base64: false,
    };
    school.broker.jetstream().publish(subject, serde_json::to_vec(&letter)?.into()).await?.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_persons_data_is_erased_everywhere_and_nothing_else_changes() -> anyhow::Result<()> {
    is_erased_everywhere(School::builder().start().await?, Duration::from_secs(5)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_persons_data_is_erased_from_all_three_servers() -> anyhow::Result<()> {
    // What the servers told each other is kept until their next snapshot, which each makes every two to two and a half minutes.
    is_erased_everywhere(School::builder().cluster().start().await?, Duration::from_secs(400)).await
}

async fn is_erased_everywhere(school: School, within: Duration) -> anyhow::Result<()> {
    let other = school.bitrix24.create_contact(good_contact()).await?;
    let other_deal = school.bitrix24.create_deal(good_deal(other), good_rows()).await?;
    // Refused first, with a status that quotes the telephone, then taken.
    let one = school.bitrix24.create_contact(person("8 926 777-12")).await?;
    let deal = school.bitrix24.create_deal(good_deal(one), good_rows()).await?;
    school.caught_up().await?;
    assert!(status_of(&school, "contact", one).await?.contains("777-12"), "the status quotes the value");
    let phone = json!({"PHONE": [{"VALUE": "8 (926) 777-12-34", "VALUE_TYPE": "MOBILE"}]});
    school.bitrix24.edit("contact", one, phone).await?;
    school.caught_up().await?;
    assert!(ticket(&school, deal).await?.is_some());
    bury(&school, format!("dlq.mapper.contact.{one}"), one).await?;
    bury(&school, "dlq.mapper.unknown.0".into(), one).await?;

    let before = everything_in_nats(&school).await?;
    for datum in OF_THE_PERSON {
        assert!(count(&before, datum) > 0, "{datum} is there to be erased");
    }
    let of_the_other = count(&before, "Берёзкин");
    let record = one.to_string();
    for arguments in
        [&["erase", "contact", &record][..], &["erase", "contact", &record, "--yes", "--dry-run"]]
    {
        let told = school.rollcall(arguments).await?;
        assert_eq!(told.code, 0, "{told:?}");
        assert!(told.out.contains("would be erased"), "{told:?}");
    }
    let events = |all: &[String]| all.iter().filter(|text| !text.starts_with("KV_")).count();
    let looked_at = everything_in_nats(&school).await?;
    for datum in OF_THE_PERSON {
        assert_eq!(count(&looked_at, datum), count(&before, datum), "a look changes nothing");
    }
    // What the stages note for themselves in their buckets goes on.
    assert_eq!(events(&looked_at), events(&before), "a look changes nothing");

    // What a reconciliation found that was broken off.
    let checkpoints = school.broker.bucket(&CHECKPOINTS).await?;
    checkpoints.put("reconcile", "{}".into()).await?;
    let told = school.rollcall(&["erase", "contact", &record, "--yes", "--json"]).await?;
    assert_eq!(told.code, 0, "{told:?}");
    assert_eq!(checkpoints.get("reconcile").await?, None);
    let result = told.json()?["result"].clone();
    assert_eq!(result["erased"], true);
    for stream in ["B24_RAW", "CRM_CMD", "CRM_RESULT", "B24_STATUS"] {
        assert!(result["messages"][stream].as_u64() >= Some(2), "{result}");
    }
    assert_eq!(result["messages"]["DLQ"], 2, "{result}");
    for datum in OF_THE_PERSON {
        assert!(!told.out.contains(datum), "{told:?}");
    }

    let after = everything_in_nats(&school).await?;
    for datum in OF_THE_PERSON {
        let left: Vec<&String> = after.iter().filter(|text| text.contains(datum)).collect();
        assert!(left.is_empty(), "{datum}: {left:?}");
    }
    assert_eq!(count(&after, "Берёзкин"), of_the_other, "the other's data is untouched");
    eventually("no file with the person's data", within, || async {
        Ok(files_with(&school, &OF_THE_PERSON)?.is_empty().then_some(()))
    })
    .await
    .with_context(|| format!("{:?}", files_with(&school, &OF_THE_PERSON)))?;
    assert!(!files_with(&school, &["Берёзкин"])?.is_empty(), "they would show what they hold");

    // Nobody does anything about it, and both CRMs hold what they held.
    let (written, raw) = (writes(&school).await?, school.messages("B24_RAW").await?);
    school.bitrix24.reset_requests().await?;
    school.caught_up().await?;
    assert_eq!(school.bitrix24.requests().await?["updates"], 0);
    assert_eq!((writes(&school).await?, school.messages("B24_RAW").await?), (written, raw));

    // The next edit goes its way, to the client that is there.
    school.bitrix24.edit("contact", one, json!({"UF_CRM_1608028374": "Еремей"})).await?;
    school.bitrix24.edit("deal", deal, json!({"COMMENTS": "ещё раз"})).await?;
    school.caught_up().await?;
    assert_eq!(client(&school, one).await?.context("the client")?["first_name"], "Еремей");
    assert_eq!(status_of(&school, "contact", one).await?, "Успешно");
    assert_eq!(status_of(&school, "deal", other_deal).await?, "Успешно");
    school.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_another_try_is_erased_as_well() -> anyhow::Result<()> {
    let school = School::builder().start().await?;
    let one = school.bitrix24.create_contact(person("8 (926) 777-12-34")).await?;
    let fault = json!({"kind": "internal_500", "origin_id": one.to_string()});
    school.otmechalka.fault(fault).await?;
    eventually("the command waits", PATIENCE, || async { Ok((school.parked().await? > 0).then_some(())) })
        .await?;
    let told = school.rollcall(&["erase", &format!("contact/{one}"), "--yes"]).await?;
    assert_eq!(told.code, 0, "{told:?}");
    school.otmechalka.heal().await?;
    school.caught_up().await?;
    assert_eq!(school.parked().await?, 0);
    let left = everything_in_nats(&school).await?;
    for datum in OF_THE_PERSON {
        assert_eq!(count(&left, datum), 0, "{datum}");
    }
    assert!(client(&school, one).await?.is_none(), "what was erased is not pushed any more");
    school.bitrix24.edit("contact", one, json!({"UF_CRM_1608028374": "Еремей"})).await?;
    school.caught_up().await?;
    assert!(client(&school, one).await?.is_some());
    school.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_not_delete_is_not_called_erased() -> anyhow::Result<()> {
    let school = School::builder().start().await?;
    let id = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    let jetstream = school.broker.jetstream();
    let mut raw = jetstream.get_stream(RAW.name).await?.cached_info().config.clone();
    raw.deny_delete = true;
    jetstream.update_stream(&raw).await?;
    let kept = school.messages(RAW.name).await?;
    let told = school.rollcall(&["erase", "contact", &id.to_string(), "--yes", "--json"]).await?;
    let words = format!("{}{}", told.out, told.err);
    assert!(told.code != 0 && words.contains(RAW.name) && !words.contains("\"erased\":true"), "{told:?}");
    assert_eq!(school.messages(RAW.name).await?, kept);
    let told = school.rollcall(&["bootstrap", "--dry-run"]).await?;
    assert!(told.code != 0 && told.out.contains("deny_delete is true"), "{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_keep_copies_are_told_up_to_which_raw_version_a_record_is_erased() -> anyhow::Result<()> {
    let mut school = School::builder().start().await?;
    let one = school.bitrix24.create_contact(person("8 (926) 777-12-34")).await?;
    school.caught_up().await?;
    // An edit that is read, and that no stage works on before it is erased.
    school.stage(Stage::Mapper)?.stop().await?;
    let before = school.messages("B24_RAW").await?;
    school.bitrix24.edit("contact", one, json!({"UF_CRM_1608028374": "Еремей"})).await?;
    let raw = eventually("the edit is read", PATIENCE, || async {
        let messages = school.messages("B24_RAW").await?;
        Ok((messages > before).then_some(messages))
    })
    .await?;
    let told = school.rollcall(&["erase", &format!("contact/{one}"), "--yes"]).await?;
    assert_eq!(told.code, 0, "{told:?}");
    let record = RecordRef::contact(RecordId::try_new(one)?);
    let results = school.broker.stream("CRM_RESULT").await?;
    let left = school.broker.last_message(&results, "CRM_RESULT", &subjects::result(record)).await?;
    let left = left.context("what stands in the place of the outcome")?;
    assert_eq!(left.header("ce-source"), Some("/rollcall/erase"));
    assert_eq!(left.header("ce-rawsequence"), Some("1"), "the version is that of the outcome");
    assert_eq!(left.header("ce-erased"), Some(raw.to_string().as_str()));
    Ok(())
}
