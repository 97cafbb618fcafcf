//! The doctor on the real programs: silent about a healthy school, and each ill is named with its remedy.

use async_nats::jetstream::consumer::{FromConsumer, PullConsumer, pull, push};
use e2e::{PATIENCE, School, Stage, eventually};
use futures::{StreamExt, TryStreamExt};
use schemas::Outcome;
use schemas::streams::{COMMANDS, RAW, RESULTS};
use serde_json::{Value, json};

use crate::credentials::outcome_of;
use crate::flow::{good_contact, good_deal, good_rows, status_of};

/// Results that are published at the same time.
const AT_ONCE: usize = 64;

/// Anything of the doctor's that is not in order: severity, code, and message with remedy.
async fn ills(school: &School) -> anyhow::Result<(i32, Vec<(String, String, String)>)> {
    let told = school.rollcall(&["--json", "doctor"]).await?;
    let answer = told.json()?;
    let text = |found: &Value, key: &str| found[key].as_str().unwrap_or_default().to_owned();
    let findings = answer["findings"].as_array().cloned().unwrap_or_default();
    let ills = findings.iter().filter(|found| found["severity"] != "ok").map(|found| {
        let message = format!("{} -> {}", text(found, "message"), text(found, "action"));
        (text(found, "severity"), text(found, "code"), message)
    });
    Ok((told.code, ills.collect()))
}

/// Has otmechalka know many clients more, as far as the outcomes tell.
async fn many_clients(school: &School, count: u64) -> anyhow::Result<()> {
    let now: chrono::DateTime<chrono::FixedOffset> = school.bitrix24.now().await?.parse()?;
    let publishing = (1..=count).map(|number| async move {
        let (status, message_id) = ("Успешно".to_owned(), number.to_string());
        let message = outcome_of(1_000_000 + number, 1, now, Outcome::Created, status, message_id)?;
        school.broker.publish(&message).await?;
        anyhow::Ok(())
    });
    futures::stream::iter(publishing).buffer_unordered(AT_ONCE).try_collect().await
}

/// Makes a consumer that has the server send messages to a subject of a stream.
async fn push(school: &School) -> anyhow::Result<()> {
    let results = school.broker.jetstream().get_stream(RESULTS.name).await?;
    let config = push::Config {
        durable_name: Some("stranger".into()),
        deliver_subject: "dlq.mapper.contact.1".into(),
        ..push::Config::default()
    };
    results.create_consumer(config).await?;
    Ok(())
}

/// Changes what is declared: a stream keeps its messages for another time, a consumer gives up sooner, another is gone.
async fn drift(school: &School) -> anyhow::Result<()> {
    let jetstream = school.broker.jetstream();
    let raw = jetstream.get_stream(RAW.name).await?;
    let mut config = raw.cached_info().config.clone();
    config.max_age = std::time::Duration::from_secs(30 * 24 * 3_600);
    jetstream.update_stream(config).await?;
    let mapper: PullConsumer = jetstream.get_consumer_from_stream("mapper", RAW.name).await?;
    let mut config = pull::Config::try_from_consumer_config(mapper.cached_info().config.clone())
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    config.max_deliver = 2;
    raw.update_consumer(config).await?;
    jetstream.get_stream(COMMANDS.name).await?.delete_consumer("pusher-07").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_nothing_of_a_healthy_school_and_names_each_ill_with_its_remedy() -> anyhow::Result<()>
{
    let mut school = School::builder().plain(4, 4).start().await?;
    school.caught_up().await?;
    assert_eq!(ills(&school).await?, (0, Vec::new()));
    let told = school.rollcall(&["doctor"]).await?;
    assert!(told.code == 0 && told.out.ends_with("0 errors, 0 warnings.\n"), "{told:?}");

    // A ticket type that otmechalka does not have any more.
    school.otmechalka.set(json!({"ticket_types": ["Пробное занятие"]})).await?;
    school.bitrix24.put_user(12288, json!({"NAME": "Василий", "LAST_NAME": "Василенко"})).await?;
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    let deal = school.bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
    eventually("the refusal", PATIENCE, || async {
        Ok(status_of(&school, "deal", deal).await?.contains("Отмечалка не приняла").then_some(()))
    })
    .await?;
    // Its client stays in otmechalka, and stays counted.
    school.bitrix24.edit("contact", pupil, json!({"PHONE": []})).await?;
    eventually("the other refusal", PATIENCE, || async {
        Ok(status_of(&school, "contact", pupil).await?.contains("Телефон").then_some(()))
    })
    .await?;
    for stage in Stage::ALL {
        school.stage(stage)?.stop().await?;
    }
    many_clients(&school, 4_400).await?;
    drift(&school).await?;
    push(&school).await?;
    let bitrix24 = &school.bitrix24;
    bitrix24.set(json!({"filter_dates": "no_t"})).await?;
    bitrix24.advance_clock(95.0).await?;
    bitrix24.keep_options("contact", "UF_CRM_58D15BB9CA8F4", json!({"404": "Обучение шахматам"})).await?;
    bitrix24.delete_field("contact", "UF_CRM_1607943642").await?;
    bitrix24.delete_field("deal", "UF_CRM_SYNC_STATUS").await?;

    let wanted = [
        ("error", "bitrix24.date_filter", "contacts: a record is not found by its own", "Report it"),
        ("error", "bitrix24.date_filter", "deals: a record is not found by its own", "Report it"),
        ("warning", "bitrix24.clock", "s behind the portal's", "time synchronisation"),
        ("error", "mapping.value", "no value 410 («Онлайн школа»)", "Put the id right in the mapping file"),
        ("error", "mapping.field", "UF_CRM_1607943642", "restore the field"),
        ("error", "bitrix24.status_field", "of deals: the portal has no such field", "doctor --fix"),
        ("warning", "nats.streams", "stream B24_RAW: ", "nats stream edit"),
        ("warning", "nats.streams", "consumer mapper", "nats consumer edit"),
        ("error", "nats.streams", "consumer pusher-07 of stream CRM_CMD: missing", "rollcall bootstrap"),
        ("warning", "nats.push_consumer", "consumer stranger of stream CRM_RESULT", "nats consumer rm"),
        (
            "warning",
            "otmechalka.visitors",
            "at least 4405 of 5000 that may be active; no forecast in the first week",
            "Archive pupils",
        ),
        ("warning", "otmechalka.names", "«6 КМС индивидуальные 45 мин»", "replay --entity deal"),
    ];
    let (code, ills_found) = ills(&school).await?;
    assert_eq!(code, 1, "{ills_found:#?}");
    for (severity, code, message, remedy) in wanted {
        let is_named = ills_found.iter().any(|(how_bad, name, text)| {
            how_bad == severity && name == code && text.contains(message) && text.contains(remedy)
        });
        assert!(is_named, "{severity} {code} {message}: {ills_found:#?}");
    }
    assert_eq!(ills_found.len(), wanted.len(), "and nothing else: {ills_found:#?}");

    // Another reading of times, and the status field put back by the doctor itself.
    school.bitrix24.set(json!({"filter_dates": "no_offset"})).await?;
    let fixed = school.rollcall(&["--json", "doctor", "--fix"]).await?;
    assert_eq!(fixed.code, 1, "{fixed:?}");
    assert!(fixed.out.contains("was missing and is created now"), "{fixed:?}");
    assert!(fixed.out.contains("contacts: a record is found by a later time than its own"), "{fixed:?}");
    school.set_env("DEAL_STAGES", "WON,C10:WON");
    assert_eq!(ills(&school).await?.0, 2, "a setting that cannot be used outranks an error");
    Ok(())
}
