//! Values in every shape, and labels that wish us ill.

use e2e::eventually;
use schemas::{Encoded, RecordId, RecordRef, subjects};
use serde_json::{Value, json};
use tokio_postgres::{Client, Column};

use crate::bench::{Bench, PATIENCE, changed, value};

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_null_and_what_cannot_be_stored_holds_up_nobody() -> anyhow::Result<()> {
    let mut bench = Bench::open().await?;
    let odd = json!({
        "NAME": "", "LAST_NAME": false, "SECOND_NAME": [], "COMPANY_ID": "0", "ASSIGNED_BY_ID": "12",
        "BIRTHDATE": "0000-00-00", "DATE_CREATE": "2020-12-21T10:19:34+03:00", "DATE_MODIFY": "вчера",
        "OPENED": "Y", "PHONE": {"0": {"VALUE": "8 926"}, "5": {"VALUE": "8 495"}}, "EMAIL": "",
        "COMMENTS": "до\u{0}после", "UF_CRM_1": [410, "411"], "UF_CRM_2": false, "UF_CRM_3": "\u{0}",
    });
    bench.contact(1, odd).await?;
    let deal = json!({
        "OPPORTUNITY": "8700.50", "TAX_VALUE": "много", "CATEGORY_ID": 10, "STAGE_ID": "C10:WON",
        "BEGINDATE": "2026-01-13T00:30:00+03:00", "CLOSED": "1", "PROBABILITY": "99999999999999999999",
    });
    let rows: Value = serde_json::from_str(
        r#"{"1": {"PRICE": 3.3300000000000001, "QUANTITY": "2"}, "3": {"PRICE": "x"}}"#,
    )?;
    bench.deal(2, deal, rows, json!({"ID": 7, "ACTIVE": "N"})).await?;

    // Three messages that no row can be made of, with good ones between them.
    let record = RecordRef::contact(RecordId::try_new(3)?);
    let unknown = Encoded {
        headers: vec![("ce-type".into(), "rollcall.contact.changed.v2".into())],
        payload: b"{}".to_vec(),
    };
    bench.publish(subjects::raw(record), unknown).await?;
    let mut huge = changed(record, json!({"UF_CRM_4": "HERE"}), None, None)?;
    let text = String::from_utf8(huge.payload)?;
    // Nothing to us, and smaller than any number of PostgreSQL but nothing.
    huge.payload = text.replace("\"HERE\"", "1e-20000").into_bytes();
    bench.publish(subjects::raw(record), huge).await?;
    let too_big = RecordRef::contact(RecordId::try_new(u64::MAX)?);
    bench.publish(subjects::raw(too_big), changed(too_big, json!({}), None, None)?).await?;
    bench.contact(4, json!({"NAME": "цел"})).await?;

    bench.start_warehouse().await?;
    let client = bench.caught_up().await?;
    for (sql, expected) in [
        (
            "SELECT concat_ws(',', name, last_name, second_name, company_id, birthdate, date_modify) FROM contacts WHERE id = 1",
            "",
        ),
        (
            "SELECT assigned_by_id || ' ' || opened || ' ' || date_create FROM contacts WHERE id = 1",
            "12 true 2020-12-21 07:19:34+00",
        ),
        ("SELECT phones || emails FROM contacts WHERE id = 1", r#"{"8 926","8 495"}"#),
        ("SELECT comments FROM contacts WHERE id = 1", "до\u{fffd}после"),
        (
            "SELECT raw ->> 'BIRTHDATE' || (raw ->> 'DATE_MODIFY') FROM contacts WHERE id = 1",
            "0000-00-00вчера",
        ),
        (
            "SELECT custom FROM contacts WHERE id = 1",
            "{\"UF_CRM_1\": [410, \"411\"], \"UF_CRM_2\": false, \"UF_CRM_3\": \"\u{fffd}\"}",
        ),
        (
            "SELECT opportunity || ' ' || begindate || ' ' || closed || ' ' || category_id FROM deals",
            "8700.50 2026-01-13 true 10",
        ),
        ("SELECT count(*) FROM deals WHERE tax_value IS NULL AND probability IS NULL", "1"),
        (
            "SELECT string_agg(concat_ws(' ', place, price, quantity), ',' ORDER BY place) FROM product_rows",
            "0 3.33 2,1",
        ),
        ("SELECT active FROM users WHERE id = 7", "false"),
        ("SELECT count(*) FROM contacts", "2"),
        ("SELECT name FROM contacts WHERE id = 4", "цел"),
    ] {
        assert_eq!(value(&client, sql).await?.as_deref(), Some(expected), "{sql}");
    }
    let left_out = client.query("SELECT sequence, subject, reason FROM left_out ORDER BY 1", &[]).await?;
    let left_out: Vec<(i64, String, String)> =
        left_out.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected = [
        (3, "b24.raw.contact.3", "header `ce-specversion` is missing"),
        (4, "b24.raw.contact.3", "PostgreSQL refuses a value (SQLSTATE 22003)"),
        (5, "b24.raw.contact.18446744073709551615", "a number is too big for a column"),
    ];
    let expected =
        expected.map(|(sequence, subject, reason)| (sequence, subject.to_owned(), reason.to_owned()));
    assert_eq!(left_out, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_labels_are_names_of_columns_and_nothing_else() -> anyhow::Result<()> {
    let mut bench = Bench::open().await?;
    let evil = "x\"; DROP SCHEMA rollcall CASCADE; --";
    bench
        .contact(1, json!({"NAME": "Анна", "UF_CRM_1": ["48", 49], "UF_CRM_2": "да", "UF_CRM_3": ""}))
        .await?;
    bench.start_warehouse().await?;
    let client = bench.caught_up().await?;
    bench.stop_warehouse().await?;
    let codes = "SELECT string_agg(code, ',' ORDER BY code) FROM fields WHERE code LIKE 'UF%'";
    assert_eq!(value(&client, codes).await?.as_deref(), Some("UF_CRM_1,UF_CRM_2,UF_CRM_3"));
    for (code, label) in
        [("UF_CRM_1", evil), ("UF_CRM_2", "name"), ("UF_CRM_3", "\\'); DROP TABLE contacts; --")]
    {
        client
            .execute(
                "UPDATE fields SET label = $2, options = '{\"48\": \"Сокол\"}' WHERE code = $1",
                &[&code, &label],
            )
            .await?;
    }
    // A code cannot come from anywhere but a record; the portal makes none like it.
    bench.contact(2, json!({"UF_CRM_4'); DROP TABLE contacts; --": "1", "UF_CRM_5": "пять"})).await?;
    bench.start_warehouse().await?;
    bench.caught_up().await?;
    let columns = eventually("a view with the new labels", PATIENCE, || async {
        let Ok(statement) = client.prepare("SELECT * FROM contacts_labelled").await else { return Ok(None) };
        let names: Vec<String> = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        Ok((names.last().map(String::as_str) == Some("UF_CRM_5")).then_some(names))
    })
    .await?;
    let custom: Vec<&str> = columns.iter().map(String::as_str).skip_while(|name| *name != evil).collect();
    assert_eq!(custom, [evil, "name (UF_CRM_2)", "\\'); DROP TABLE contacts; --", "UF_CRM_5"]);
    let row = client.query_one("SELECT * FROM contacts_labelled WHERE id = 1", &[]).await?;
    assert_eq!(row.get::<_, Option<&str>>(evil), Some("Сокол, 49"));
    assert_eq!(row.get::<_, Option<&str>>("name (UF_CRM_2)"), Some("да"));
    assert_eq!(row.get::<_, Option<&str>>("\\'); DROP TABLE contacts; --"), None);
    assert_eq!(value(&client, "SELECT count(*) FROM contacts").await?.as_deref(), Some("2"));
    Ok(())
}

/// Waits until a view has these columns behind `date_modify`.
async fn has_columns(client: &Client, expected: &[&str]) -> anyhow::Result<()> {
    eventually("the columns of the view", PATIENCE, || async {
        let Ok(statement) = client.prepare("SELECT * FROM contacts_labelled").await else { return Ok(None) };
        let names = statement.columns().iter().map(Column::name).skip_while(|name| *name != "date_modify");
        Ok(names.skip(1).eq(expected.iter().copied()).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_others_build_on_keeps_its_rights_and_its_names_and_holds_up_nobody() -> anyhow::Result<()>
{
    let mut bench = Bench::open().await?;
    bench.contact(1, json!({"UF_CRM_1": "а"})).await?;
    bench.start_warehouse().await?;
    let client = bench.caught_up().await?;
    has_columns(&client, &["UF_CRM_1"]).await?;
    client.batch_execute("CREATE ROLE analyst; GRANT SELECT ON contacts_labelled TO analyst").await?;
    client.batch_execute("CREATE VIEW theirs AS SELECT * FROM contacts_labelled").await?;
    bench.contact(2, json!({"UF_CRM_2": "б"})).await?;
    has_columns(&client, &["UF_CRM_1", "UF_CRM_2"]).await?;
    let sql = "SELECT has_table_privilege('analyst', 'contacts_labelled', 'SELECT')";
    assert_eq!(value(&client, sql).await?.as_deref(), Some("true"));

    client.batch_execute("UPDATE fields SET label = 'Филиал' WHERE code = 'UF_CRM_1'").await?;
    bench.contact(3, json!({"UF_CRM_3": "в"})).await?;
    bench.caught_up().await?;
    assert_eq!(value(&client, "SELECT count(*) FROM theirs").await?.as_deref(), Some("3"));
    client.batch_execute("DROP VIEW theirs").await?;
    bench.contact(4, json!({"UF_CRM_4": "г"})).await?;
    has_columns(&client, &["Филиал", "UF_CRM_2", "UF_CRM_3", "UF_CRM_4"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_query_on_a_view_puts_its_new_columns_off_and_holds_up_no_other_reader() -> anyhow::Result<()>
{
    let mut bench = Bench::open().await?;
    bench.contact(1, json!({"UF_CRM_1": "а"})).await?;
    bench.start_warehouse().await?;
    let client = bench.caught_up().await?;
    has_columns(&client, &["UF_CRM_1"]).await?;
    let reading = bench.caught_up().await?;
    reading.batch_execute("BEGIN; SELECT count(*) FROM contacts_labelled").await?;
    bench.contact(2, json!({"UF_CRM_2": "б"})).await?;
    let somebody_waits = "DO $$ BEGIN FOR look IN 1..6000 LOOP IF EXISTS (SELECT FROM pg_locks WHERE NOT granted AND \
        relation = 'contacts_labelled'::regclass) THEN RETURN; END IF; PERFORM pg_sleep(0.01); END LOOP; \
        RAISE 'nobody waits'; END $$";
    client.batch_execute(somebody_waits).await?;
    client.batch_execute("SET statement_timeout = '20s'").await?;
    let seen = value(&client, "SELECT count(*) FROM contacts_labelled").await?;
    assert_eq!(seen.as_deref(), Some("2"), "while the long query goes on");
    reading.batch_execute("COMMIT").await?;
    bench.contact(3, json!({"UF_CRM_3": "в"})).await?;
    has_columns(&client, &["UF_CRM_1", "UF_CRM_2", "UF_CRM_3"]).await
}
