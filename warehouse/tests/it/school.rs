//! The whole school with a warehouse beside it, each with credentials of its own.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use async_nats::ConnectOptions;
use e2e::{PATIENCE, Program, School, eventually};
use serde_json::json;
use tokio_postgres::Client;

use crate::bench::value;
use crate::postgres::LocalPostgres;

/// What `rollcall credentials` is told.
const CONSUMER: &str = "warehouse:B24_RAW,CRM_RESULT,B24_STATUS";

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_school_the_tables_hold_what_the_streams_and_the_portal_hold() -> anyhow::Result<()> {
    let postgres = LocalPostgres::start().await?;
    let school = School::builder().demo(60, 90, 3).guarded(&[CONSUMER]).start().await?;
    let logs = tempfile::tempdir()?;
    let seed = school.seed("consumers/warehouse").display().to_string();
    let own = [
        ("NATS_URL", school.nats.url()),
        ("NATS_NKEY_SEED_FILE", seed),
        ("BITRIX24_WEBHOOK_URL", school.bitrix24.webhook_url.clone()),
        ("STATE_DIR", logs.path().display().to_string()),
    ];
    let settings = own.into_iter().chain(postgres.settings());
    let mut program = Program::start("warehouse", &[], settings, logs.path())?;
    school.caught_up().await?;

    let client = all_is_stored(&school, &postgres).await?;
    let records = |stream: &'static str, entity: &'static str| {
        let school = &school;
        async move {
            use futures::TryStreamExt;
            let stream = school.broker.jetstream().get_stream(stream).await?;
            let subjects: BTreeMap<String, usize> =
                stream.info_with_subjects(">").await?.try_collect().await?;
            let of_entity = subjects.keys().filter(|subject| subject.contains(&format!(".{entity}.")));
            anyhow::Ok(of_entity.count().to_string())
        }
    };
    for (table, stream) in [("outcomes", "CRM_RESULT"), ("statuses", "B24_STATUS")] {
        for entity in ["contact", "deal"] {
            let sql = format!("SELECT count(*) FROM {table} WHERE entity = '{entity}'");
            assert_eq!(value(&client, &sql).await?, Some(records(stream, entity).await?), "{table} {entity}");
        }
    }
    for (table, entity) in [("contacts", "contact"), ("deals", "deal")] {
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(value(&client, &sql).await?, Some(records("B24_RAW", entity).await?), "{table}");
    }
    let state = school.bitrix24.state().await?;
    let stored = client.query("SELECT id::text, assigned_by_id::text FROM deals", &[]).await?;
    let sold =
        stored.iter().map(|row| state["product_rows"][row.get::<_, &str>(0)].as_array().map_or(0, Vec::len));
    let sold: usize = sold.sum();
    assert!(sold > 0);
    assert_eq!(value(&client, "SELECT count(*) FROM product_rows").await?, Some(sold.to_string()));
    let users: BTreeSet<&str> =
        state["users"].as_array().into_iter().flatten().filter_map(|user| user["ID"].as_str()).collect();
    let sellers: BTreeSet<&str> = stored.iter().filter_map(|row| row.get(1)).collect();
    let known = sellers.intersection(&users).count();
    assert!(known > 0);
    assert_eq!(value(&client, "SELECT count(*) FROM users").await?, Some(known.to_string()));
    // Labels, and the names of stages along with them, are asked for beside the streams.
    eventually("the portal's labels", PATIENCE, || async {
        let labelled = client.query("SELECT \"Статус синхронизации\" FROM contacts_labelled", &[]).await;
        Ok(labelled.ok().filter(|rows| !rows.is_empty()))
    })
    .await?;
    for sql in [
        "SELECT count(*) FROM outcomes JOIN statuses USING (entity, id, raw_sequence, redrive) WHERE outcomes.status <> statuses.status",
        "SELECT count(*) FROM deals LEFT JOIN stages USING (stage_id) WHERE name IS NULL OR category_name IS NULL",
        "SELECT count(*) FROM left_out",
    ] {
        assert_eq!(value(&client, sql).await?.as_deref(), Some("0"), "{sql}");
    }
    assert_eq!(program.stop().await?, 0);
    let log = program.log()?;
    for secret in ["not a secret", school.bitrix24.webhook_url.as_str()] {
        assert!(!log.contains(secret), "{log}");
    }
    assert_eq!(violations(&school)?, [] as [String; 0]);
    try_to_meddle(&school).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_whom_the_operator_erases_is_gone_from_the_tables_as_well() -> anyhow::Result<()> {
    let postgres = LocalPostgres::start().await?;
    let school = School::builder().demo(20, 40, 3).guarded(&[CONSUMER]).start().await?;
    let logs = tempfile::tempdir()?;
    let own = [
        ("NATS_URL", school.nats.url()),
        ("NATS_NKEY_SEED_FILE", school.seed("consumers/warehouse").display().to_string()),
        ("STATE_DIR", logs.path().display().to_string()),
    ];
    let settings: Vec<_> = own.into_iter().chain(postgres.settings()).collect();
    let mut program = Program::start("warehouse", &[], settings.clone(), logs.path())?;
    school.caught_up().await?;
    let client = all_is_stored(&school, &postgres).await?;
    let sql = "SELECT contact_id FROM deals JOIN product_rows ON deal_id = deals.id \
        WHERE contact_id IN (SELECT id FROM contacts) ORDER BY 1 LIMIT 1";
    let person = value(&client, sql).await?.context("a contact with a deal")?;
    let deals: Vec<i64> = client
        .query(&format!("SELECT id FROM deals WHERE contact_id = {person}"), &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let left = format!(
        "SELECT (SELECT count(*) FROM contacts WHERE id = {person}) \
           + (SELECT count(*) FROM deals WHERE contact_id = {person}) \
           + (SELECT count(*) FROM product_rows WHERE deal_id = ANY('{{{deals}}}')) \
           + (SELECT count(*) FROM outcomes WHERE (entity, id) = ('contact', {person}) \
                OR entity = 'deal' AND id = ANY('{{{deals}}}')) \
           + (SELECT count(*) FROM statuses WHERE (entity, id) = ('contact', {person}) \
                OR entity = 'deal' AND id = ANY('{{{deals}}}'))",
        deals = deals.iter().map(i64::to_string).collect::<Vec<_>>().join(","),
    );
    let all = "SELECT count(*) FROM contacts";
    let before: u64 = value(&client, all).await?.context("contacts")?.parse()?;
    assert_ne!(value(&client, &left).await?.as_deref(), Some("0"));

    let told = school.rollcall(&["erase", "contact", &person, "--yes"]).await?;
    assert_eq!(told.code, 0, "{told:?}");
    all_is_stored(&school, &postgres).await?;
    assert_eq!(value(&client, &left).await?.as_deref(), Some("0"));
    assert_eq!(value(&client, all).await?, Some((before - 1).to_string()), "the others stay");

    // Everything that the streams still hold comes again, to a warehouse that was killed.
    program.kill().await?;
    client.batch_execute("DELETE FROM positions").await?;
    let mut program = Program::start("warehouse", &[], settings, logs.path())?;
    all_is_stored(&school, &postgres).await?;
    assert_eq!(value(&client, &left).await?.as_deref(), Some("0"));

    // The record is still in Bitrix24: its next edit is news.
    school.bitrix24.edit("contact", person.parse()?, json!({"COMMENTS": "снова здесь"})).await?;
    school.caught_up().await?;
    all_is_stored(&school, &postgres).await?;
    let comments = format!("SELECT comments FROM contacts WHERE id = {person}");
    assert_eq!(value(&client, &comments).await?.as_deref(), Some("снова здесь"));
    assert_eq!(program.stop().await?, 0);
    school.assert_consistent().await
}

/// Waits until the tables hold everything that the streams hold.
async fn all_is_stored(school: &School, postgres: &LocalPostgres) -> anyhow::Result<Client> {
    eventually("everything is stored", PATIENCE, || async {
        let Ok(client) = postgres.connect().await else { return Ok(None) };
        let mut is_there = true;
        for stream in ["B24_RAW", "CRM_RESULT", "B24_STATUS"] {
            let last = school.broker.jetstream().get_stream(stream).await?.cached_info().state.last_sequence;
            let sql = format!("SELECT max(sequence) FROM positions WHERE stream = '{stream}'");
            is_there &= value(&client, &sql).await.ok().flatten() == Some(last.to_string());
        }
        Ok(is_there.then_some(client))
    })
    .await
}

/// Returns the lines in which the server says that somebody wanted more than is allowed.
fn violations(school: &School) -> anyhow::Result<Vec<String>> {
    let log = school.nats_log()?;
    Ok(log.lines().filter(|line| line.to_lowercase().contains("violation")).map(str::to_owned).collect())
}

/// With the very credentials of the warehouse nothing can be published or removed.
async fn try_to_meddle(school: &School) -> anyhow::Result<()> {
    let seed = std::fs::read_to_string(school.seed("consumers/warehouse"))?.trim().to_owned();
    let guest = ConnectOptions::with_nkey(seed).custom_inbox_prefix("_INBOX_warehouse");
    let guest = guest.connect(school.nats.url()).await?;
    let before = school.messages("B24_RAW").await?;
    let subjects =
        ["b24.raw.contact.1", "rollcall.STREAM.PURGE.B24_RAW", "rollcall.CONSUMER.DELETE.B24_RAW.mapper"];
    for subject in subjects {
        guest.publish(subject, "{}".into()).await?;
    }
    guest.flush().await?;
    eventually("each of them is refused", PATIENCE, || async {
        let refused = violations(school)?;
        let is_refused = |subject: &&str| refused.iter().any(|line| line.contains(*subject));
        Ok(subjects.iter().all(is_refused).then_some(()))
    })
    .await?;
    assert_eq!(school.messages("B24_RAW").await?, before);
    Ok(())
}
