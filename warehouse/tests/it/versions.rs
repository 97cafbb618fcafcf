//! Nothing lost, nothing twice, nothing backwards.

use std::collections::BTreeMap;

use e2e::eventually;
use runtime::Metrics;
use schemas::{RecordId, RecordRef};
use serde_json::json;

use crate::bench::{Bench, PATIENCE, tables, value};

fn contact(id: u64) -> anyhow::Result<RecordRef> {
    Ok(RecordRef::contact(RecordId::try_new(id)?))
}

/// Publishes some of everything, with versions after each other and out of order.
async fn publish_some(bench: &Bench) -> anyhow::Result<()> {
    for id in 1..=150 {
        bench.contact(id, json!({"NAME": format!("Имя {id}"), "UF_CRM_1": "а"})).await?;
    }
    for id in 1..=3 {
        bench.contact(id, json!({"NAME": format!("Новое имя {id}"), "UF_CRM_1": "б"})).await?;
    }
    for (price, seller) in [(100, "Старая"), (200, "Новая")] {
        let rows = json!([{"ID": price, "PRICE": price}, {"ID": price + 1, "PRICE": price}]);
        let rows = if price == 200 { json!([rows[0]]) } else { rows };
        let seller = json!({"ID": "5", "LAST_NAME": seller, "ACTIVE": true});
        bench.deal(9, json!({"STAGE_ID": "WON", "OPPORTUNITY": price}), rows, seller).await?;
    }
    for (version, text) in [((5, 0), "пять"), ((5, 1), "пять снова"), ((4, 7), "четыре"), ((5, 0), "пять")]
    {
        bench.outcome(contact(1)?, version, text).await?;
        bench.status(contact(1)?, version, text).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_of_everything_changes_nothing_and_older_versions_never_win() -> anyhow::Result<()> {
    let mut bench = Bench::open().await?;
    publish_some(&bench).await?;
    bench.start_warehouse().await?;
    let client = bench.caught_up().await?;
    assert!(bench.health.is_ready());
    for (sql, expected) in [
        ("SELECT count(*) FROM contacts", "150"),
        ("SELECT name FROM contacts WHERE id = 2", "Новое имя 2"),
        ("SELECT raw_sequence FROM contacts WHERE id = 2", "152"),
        ("SELECT opportunity FROM deals WHERE id = 9", "200"),
        ("SELECT string_agg(id || ' ' || price, ',') FROM product_rows", "200 200"),
        ("SELECT last_name FROM users WHERE id = 5", "Новая"),
        ("SELECT stage_id FROM stages", "WON"),
        ("SELECT status || raw_sequence || redrive FROM outcomes WHERE entity = 'contact'", "пять снова51"),
        ("SELECT status FROM statuses", "пять снова"),
        ("SELECT count(*) FROM left_out", "0"),
    ] {
        assert_eq!(value(&client, sql).await?.as_deref(), Some(expected), "{sql}");
    }

    let before = tables(&client).await?;
    assert!(before.len() > 155);
    bench.redeliver(&client).await?;
    bench.caught_up().await?;
    assert_eq!(tables(&client).await?, before);

    // What is older than what a table shows comes alone, and still does not win.
    client.batch_execute("UPDATE contacts SET raw_sequence = 1000 WHERE id = 3").await?;
    client
        .batch_execute("UPDATE deals SET raw_sequence = 1000; UPDATE users SET raw_sequence = 1000")
        .await?;
    let before = tables(&client).await?;
    bench.contact(3, json!({"NAME": "слишком старое"})).await?;
    bench.deal(9, json!({"OPPORTUNITY": 300}), json!([]), json!({"ID": 5, "NAME": "x"})).await?;
    bench.outcome(contact(1)?, (5, 0), "слишком старый").await?;
    bench.caught_up().await?;
    assert_eq!(tables(&client).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_whatever_order_and_however_often_versions_come_the_newest_stays() -> anyhow::Result<()> {
    let mut bench = Bench::open().await?;
    let mut newest = BTreeMap::new();
    bench.start_warehouse().await?;
    for step in 0..240_u64 {
        // 101 is prime, so this goes through every number in an order of its own, and then again.
        let number = step * 37 % 101;
        let (id, version) = (1 + number % 5, (1 + number / 10, number % 3));
        bench.outcome(contact(id)?, version, &format!("{version:?}")).await?;
        let known = newest.entry(id).or_insert(version);
        *known = version.max(*known);
    }
    let client = bench.caught_up().await?;
    let rows = client.query("SELECT id, status FROM outcomes", &[]).await?;
    let stored: BTreeMap<u64, String> =
        rows.iter().map(|row| (row.get::<_, i64>(0).unsigned_abs(), row.get(1))).collect();
    let expected: BTreeMap<u64, String> =
        newest.into_iter().map(|(id, version)| (id, format!("{version:?}"))).collect();
    assert_eq!(stored, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_is_gone_from_every_table_and_no_redelivery_brings_it_back() -> anyhow::Result<()> {
    let mut bench = Bench::open().await?;
    let deal = RecordRef::deal(RecordId::try_new(9)?);
    let (rows, seller) = (json!([{"ID": 1, "PRICE": 100}]), json!({"ID": "5", "LAST_NAME": "Новая"}));
    bench.contact(1, json!({"NAME": "Никанора"})).await?;
    bench.contact(2, json!({"NAME": "Анна"})).await?;
    bench.deal(9, json!({"COMMENTS": "Никанора"}), rows.clone(), seller.clone()).await?;
    // Nobody had worked on this version when it was erased.
    let raw = bench.contact(1, json!({"NAME": "Никанора вторая"})).await?;
    for (record, version) in [(contact(1)?, (1, 1)), (contact(2)?, (2, 0)), (deal, (3, 0))] {
        bench.outcome(record, version, "текст").await?;
        bench.status(record, version, "текст").await?;
    }
    bench.start_warehouse().await?;
    let client = bench.caught_up().await?;
    let erased_rows = "SELECT (SELECT count(*) FROM contacts WHERE id = 1) + (SELECT count(*) FROM deals) \
        + (SELECT count(*) FROM product_rows) + (SELECT count(*) FROM outcomes WHERE id <> 2) \
        + (SELECT count(*) FROM statuses WHERE id <> 2)";
    assert_eq!(value(&client, erased_rows).await?.as_deref(), Some("7"));

    bench.erasure(contact(1)?, (1, 1), raw).await?;
    bench.erasure(deal, (3, 0), 3).await?;
    bench.caught_up().await?;
    assert_eq!(value(&client, erased_rows).await?.as_deref(), Some("0"));
    let others = "SELECT (SELECT string_agg(name, ',') FROM contacts) || (SELECT count(*) FROM users) \
        || (SELECT count(*) FROM outcomes) || (SELECT count(*) FROM statuses) || (SELECT count(*) FROM left_out)";
    assert_eq!(value(&client, others).await?.as_deref(), Some("Анна1110"));

    // These streams still hold the older versions, which come again, beside the erasure and behind it.
    let before = tables(&client).await?;
    bench.redeliver(&client).await?;
    bench.caught_up().await?;
    assert_eq!(tables(&client).await?, before);
    bench.outcome(contact(1)?, (1, 1), "опоздал").await?;
    bench.status(deal, (3, 0), "опоздал").await?;
    bench.caught_up().await?;
    assert_eq!(tables(&client).await?, before);

    // What comes later is news.
    let later = bench.contact(1, json!({"NAME": "Никанора третья"})).await?;
    bench.outcome(contact(1)?, (later, 0), "новый").await?;
    bench.deal(9, json!({"COMMENTS": "ещё раз"}), rows, seller).await?;
    bench.caught_up().await?;
    let name = "SELECT name FROM contacts WHERE id = 1";
    assert_eq!(value(&client, name).await?.as_deref(), Some("Никанора третья"));
    assert_eq!(value(&client, erased_rows).await?.as_deref(), Some("4"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_the_first_layout_learn_what_was_erased_before() -> anyhow::Result<()> {
    let mut bench = Bench::open().await?;
    let raw = bench.contact(1, json!({"NAME": "Никанора"})).await?;
    bench.erasure(contact(1)?, (raw, 0), raw).await?;
    bench.start_warehouse().await?;
    let client = bench.caught_up().await?;
    bench.stop_warehouse().await?;
    // As an older warehouse left it.
    client.batch_execute("DROP TABLE erased; UPDATE layout SET version = 1").await?;
    client
        .batch_execute(
            "INSERT INTO outcomes VALUES ('contact', 1, 'updated', 'Успешно', '[]', '1', now(), 1, 0); \
             INSERT INTO contacts (id, name, phones, emails, custom, raw, trimmed, fingerprint, observed, raw_sequence) \
             VALUES (1, 'Никанора', '{}', '{}', '{}', '{}', '{}', 'ab', now(), 1)",
        )
        .await?;
    bench.start_warehouse().await?;
    // Until it has looked at the tables, everything is read as far as they know.
    eventually("what was erased is forgotten", PATIENCE, || async {
        let rows = "SELECT concat_ws(' ', (SELECT count(*) FROM contacts), (SELECT count(*) FROM outcomes), \
            (SELECT count(*) FROM erased))";
        Ok(value(&client, rows).await.ok().flatten().filter(|rows| rows == "0 0 1"))
    })
    .await?;
    bench.caught_up().await?;
    bench.stop_warehouse().await?;
    client.batch_execute("UPDATE layout SET version = 3").await?;
    bench.metrics = Metrics::new("warehouse");
    bench.start_warehouse().await?;
    eventually("a newer layout is left alone", PATIENCE, || async {
        let text = bench.metrics.render();
        let failed = text.lines().find(|line| line.starts_with("rollcall_warehouse_failures_total{"));
        Ok(failed.filter(|line| !line.ends_with(" 0")).map(|_| ()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_postgresql_nats_or_the_warehouse_on_the_way_loses_nothing() -> anyhow::Result<()> {
    let mut bench = Bench::open().await?;
    bench.start_warehouse().await?;
    bench.caught_up().await?;
    for id in 1..=400 {
        bench.contact(id, json!({"NAME": id})).await?;
        match id {
            100 => bench.postgres.kill().await?,
            200 => bench.postgres.restart().await?,
            300 => bench.kill_warehouse().await?,
            _ => {}
        }
    }
    bench.start_warehouse().await?;
    bench.nats.kill().await?;
    bench.nats.restart().await?;
    let client = bench.caught_up().await?;
    let sql = "SELECT count(*) || ' ' || sum(name::int) FROM contacts";
    assert_eq!(value(&client, sql).await?.as_deref(), Some("400 80200"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_gone_or_an_old_backup_are_filled_again() -> anyhow::Result<()> {
    let mut bench = Bench::open().await?;
    bench.start_warehouse().await?;
    for id in 1..=20 {
        bench.contact(id, json!({"NAME": id})).await?;
        bench.outcome(contact(id)?, (id, 0), "готово").await?;
    }
    let client = bench.caught_up().await?;
    bench.stop_warehouse().await?;
    // As an older backup would have it.
    client.batch_execute("DELETE FROM contacts WHERE id > 5; UPDATE positions SET sequence = 5").await?;
    bench.start_warehouse().await?;
    bench.caught_up().await?;
    assert_eq!(value(&client, "SELECT count(*) FROM contacts").await?.as_deref(), Some("20"));

    // Dropped while it runs.
    client.batch_execute("DROP SCHEMA rollcall CASCADE").await?;
    bench.contact(21, json!({"NAME": "21"})).await?;
    let client = bench.caught_up().await?;
    assert_eq!(value(&client, "SELECT count(*) FROM contacts").await?.as_deref(), Some("21"));
    // Nothing new came of these, and yet they are read again.
    assert_eq!(value(&client, "SELECT count(*) FROM outcomes").await?.as_deref(), Some("20"));
    eventually("the views are made again", PATIENCE, || async {
        Ok(client.query("SELECT * FROM contacts_labelled", &[]).await.ok().filter(|rows| rows.len() == 21))
    })
    .await?;
    Ok(())
}
