//! What every stage tells at `/metrics`, after a run whose result is known.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::body::Bytes;
use e2e::{School, Scrape, Stage, eventually};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::flow::good_contact;

/// Returns the number of messages that each stream took, for comparing what stages count with what is there.
async fn stored(school: &School, streams: [&str; 4]) -> anyhow::Result<[f64; 4]> {
    let mut counts = [0.0; 4];
    for (count, stream) in counts.iter_mut().zip(streams) {
        *count = school.messages(stream).await? as f64;
    }
    Ok(counts)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_counts_what_it_did_and_names_nobody() -> anyhow::Result<()> {
    let school = School::builder().demo(120, 160, 9).observed().start().await?;
    school.caught_up().await?;
    let [raw, commands, results, statuses] =
        stored(&school, ["B24_RAW", "CRM_CMD", "CRM_RESULT", "B24_STATUS"]).await?;
    assert!(raw > 100.0 && statuses > 100.0, "{raw} {statuses}");

    let producer = school.metrics(Stage::Producer).await?;
    assert_eq!(producer.sum("rollcall_records_published_total", &[]), raw);
    assert_eq!(producer.sum("rollcall_messages_published_total", &[("stream", "B24_RAW")]), raw);
    for entity in ["contact", "deal"] {
        let of = [("entity", entity)];
        assert!(producer.sum("rollcall_polls_total", &of) >= 4.0);
        assert!(
            producer.sum("rollcall_records_read_total", &of)
                >= producer.sum("rollcall_records_published_total", &of)
        );
        assert!(producer.sum("rollcall_watermark_timestamp_seconds", &of) > 1.6e9);
        assert!(producer.has("rollcall_watermark_age_seconds"));
    }
    assert!(producer.sum("rollcall_bitrix24_http_requests_total", &[]) >= 4.0);
    assert!(
        producer.sum("rollcall_bitrix24_calls_total", &[("method", "crm.contact.list"), ("result", "ok")])
            >= 4.0
    );
    assert_eq!(producer.sum("rollcall_bitrix24_bucket_capacity_requests", &[]), 50.0);

    let mapper = school.metrics(Stage::Mapper).await?;
    assert_eq!(mapper.sum("rollcall_messages_total", &[("outcome", "done")]), raw);
    assert_eq!(mapper.sum("rollcall_records_mapped_total", &[]), raw);
    assert_eq!(mapper.sum("rollcall_message_handling_seconds_count", &[]), raw);
    let refused = mapper.sum("rollcall_records_mapped_total", &[("outcome", "refused")]);
    assert!(refused > 0.0 && mapper.sum("rollcall_mapping_problems_total", &[]) >= refused);
    assert_eq!(mapper.sum("rollcall_mapping_problems_total", &[("code", "other")]), 0.0);

    let pusher = school.metrics(Stage::Pusher).await?;
    let state = school.otmechalka.state().await?;
    for (entity, call, list) in
        [("contact", "create_client", "clients"), ("deal", "create_ticket", "tickets")]
    {
        let there = state[list].as_array().map_or(0, Vec::len) as f64;
        assert!(there > 10.0, "{list}: {there}");
        let created = [("entity", entity), ("outcome", "created")];
        assert_eq!(pusher.sum("rollcall_records_processed_total", &created), there);
        assert_eq!(
            pusher.sum("rollcall_otmechalka_requests_total", &[("call", call), ("status", "2xx")]),
            there
        );
        assert!(pusher.sum("rollcall_otmechalka_request_duration_seconds_count", &[("call", call)]) >= there);
    }
    assert_eq!(pusher.sum("rollcall_records_processed_total", &[]), results);
    assert!(pusher.sum("rollcall_refusal_problems_total", &[]) >= refused);
    assert!(
        pusher.sum("rollcall_messages_total", &[("outcome", "done")])
            >= commands - school.parked().await? as f64
    );
    assert_eq!(pusher.sum("rollcall_otmechalka_held", &[]), 0.0);

    let writer = school.metrics(Stage::StatusWriter).await?;
    let settled: f64 = ["written", "already_shown", "record_gone"]
        .map(|how| writer.sum("rollcall_statuses_total", &[("how", how)]))
        .iter()
        .sum();
    assert_eq!(settled, statuses);
    assert_eq!(writer.sum("rollcall_status_alarm", &[]) + writer.sum("rollcall_statuses_held", &[]), 0.0);
    assert!(
        writer.sum("rollcall_bitrix24_calls_total", &[("method", "crm.deal.update"), ("result", "ok")]) > 0.0
    );
    assert!(writer.has("rollcall_bitrix24_operating_seconds"));

    let forbidden = personal(&school.bitrix24.state().await?);
    assert!(forbidden.len() > 500, "there is something to look for");
    for stage in Stage::ALL {
        let scrape = school.metrics(stage).await?;
        assert_eq!(
            scrape.sum("rollcall_nats_connected", &[]) + scrape.sum("rollcall_ready", &[]),
            2.0,
            "{stage:?}"
        );
        assert_eq!(scrape.sum("rollcall_consumer_pending_messages", &[]), 0.0, "{stage:?}");
        assert_eq!(scrape.sum("rollcall_messages_in_flight", &[]), 0.0, "{stage:?}");
        assert_eq!(scrape.sum("rollcall_messages_total", &[("outcome", "dead_letter")]), 0.0, "{stage:?}");
        assert!(scrape.sum("process_start_time_seconds", &[]) > 1.6e9);
        assert_eq!(school.ask(stage, "/livez").await?.0, 200);
        assert_eq!(school.ask(stage, "/readyz").await?.0, 200);
        assert_names_nobody(&scrape, stage, &forbidden);
        is_as_prometheus_wants_it(&school.ask(stage, "/metrics").await?.1).await?;
    }
    Ok(())
}

/// Names counters in the older form of the text, which the checker reads, as the newer one has them: with `_total`.
fn in_the_older_form(metrics: &str) -> String {
    let is_counter = |name: &str| metrics.contains(&format!("# TYPE {name} counter\n"));
    let lines = metrics.lines().map(|line| match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
        ["#", word, name, rest] if is_counter(name) => format!("# {word} {name}_total {rest}\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

/// Has Prometheus' own checker look at names, units and descriptions; where `./test` found none, it said so.
async fn is_as_prometheus_wants_it(metrics: &str) -> anyhow::Result<()> {
    let promtool = std::env::var("PROMTOOL").context("PROMTOOL names no promtool; run ./test")?;
    if promtool.is_empty() {
        eprintln!("NOT TESTED: the names of the metrics. There is no promtool here.");
        return Ok(());
    }
    let mut checking = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    checking.stdin.take().context("its input")?.write_all(in_the_older_form(metrics).as_bytes()).await?;
    let told = checking.wait_with_output().await?;
    let complaints =
        format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    ensure!(told.status.success() && complaints.trim().is_empty(), "{complaints}");
    Ok(())
}

/// Waits until every stage answers so at the paths of readiness; it is alive all the while.
async fn readiness(school: &School, what: &'static str, expected: u16) -> anyhow::Result<()> {
    for stage in Stage::ALL {
        eventually(what, Duration::from_secs(60), || async {
            // Until its port is open a stage answers nothing.
            let Ok((alive, _)) = school.ask(stage, "/livez").await else { return Ok(None) };
            ensure!(alive == 200, "{stage:?} says that it is not alive: {alive}");
            let answers = [school.ask(stage, "/readyz").await?.0, school.ask(stage, "/healthz").await?.0];
            Ok((answers == [expected; 2]).then_some(()))
        })
        .await?;
        let ready = school.metrics(stage).await?.sum("rollcall_ready", &[]);
        ensure!(ready == f64::from(u8::from(expected == 200)), "{stage:?}: rollcall_ready {ready}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_is_alive_and_not_ready_while_nats_or_what_it_needs_there_is_missing() -> anyhow::Result<()> {
    let mut school = School::builder().plain(2, 2).observed().open().await?;
    // One of which each stage needs something.
    for stream in ["B24_RAW", "CRM_CMD", "CRM_RESULT", "B24_STATUS"] {
        school.broker.jetstream().delete_stream(stream).await?;
    }
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    readiness(&school, "a stage without its streams is not ready", 503).await?;
    assert_eq!(school.rollcall(&["bootstrap"]).await?.code, 0);
    readiness(&school, "a stage that finds its streams is ready", 200).await?;
    school.nats.kill().await?;
    readiness(&school, "a stage without NATS is not ready", 503).await?;
    school.nats.restart().await?;
    readiness(&school, "a stage that has NATS back is ready", 200).await?;
    school.caught_up().await?;
    school.assert_consistent().await
}

/// Returns every text and id of the school's records that could tell who somebody is.
fn personal(state: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for list in ["contacts", "deals"] {
        for record in state[list].as_array().into_iter().flatten() {
            let fields = record.as_object().into_iter().flatten();
            for (name, value) in fields {
                let is_code = ["CURRENCY_ID", "STAGE_ID", "TYPE_ID", "OPENED"].contains(&name.as_str());
                if !is_code {
                    collect(value, &mut found);
                }
            }
        }
    }
    found
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if text.chars().count() > 3 => {
            found.insert(text.clone());
        }
        Value::Number(number) if number.as_u64().is_some_and(|number| number > 999) => {
            found.insert(number.to_string());
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Object(values) => values.values().for_each(|value| collect(value, found)),
        _ => {}
    }
}

fn assert_names_nobody(scrape: &Scrape, stage: Stage, forbidden: &BTreeSet<String>) {
    for sample in &scrape.samples {
        assert_eq!(sample.labels["stage"], stage.program());
        for (label, value) in
            sample.labels.iter().filter(|(label, _)| !["le", "version"].contains(&label.as_str()))
        {
            assert!(!forbidden.contains(value), "{}: {label}={value}", sample.name);
            // Neither an id nor a telephone number, whosever it may be.
            let longest = value.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
            assert!(
                value.is_ascii() && longest <= 2 && value.len() <= 60,
                "{}: {label}={value}",
                sample.name
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_calls_for_an_alert_is_counted() -> anyhow::Result<()> {
    let school =
        School::builder().plain(20, 0).otmechalka(&["--max-visitors", "5"]).observed().start().await?;
    let unreadable = Bytes::from_static(b"no event");
    school.broker.client().publish("b24.raw.contact.1", unreadable).await?;
    school.caught_up().await?;

    let mapper = school.metrics(Stage::Mapper).await?;
    assert_eq!(mapper.sum("rollcall_messages_total", &[("outcome", "dead_letter")]), 1.0);
    assert_eq!(mapper.sum("rollcall_messages_published_total", &[("stream", "DLQ")]), 1.0);
    // The letter lies there until somebody takes it, however long ago it was written.
    let letters = async || anyhow::Ok(school.metrics(Stage::Mapper).await?.sum("rollcall_dead_letters", &[]));
    eventually("the letter is counted", Duration::from_secs(60), || async {
        Ok((letters().await? == 1.0).then_some(()))
    })
    .await?;
    let told = school.rollcall(&["dead-letters", "discard", "1", "--yes"]).await?;
    assert_eq!(told.code, 0, "{told:?}");
    eventually("nothing lies there", Duration::from_secs(60), || async {
        Ok((letters().await? == 0.0).then_some(()))
    })
    .await?;
    let pusher = school.metrics(Stage::Pusher).await?;
    assert_eq!(pusher.sum("rollcall_dead_letters", &[]), 0.0, "another stage's is not its own");
    assert_eq!(pusher.sum("rollcall_otmechalka_visitor_limit_refusals_total", &[]), 15.0);
    assert_eq!(pusher.sum("rollcall_records_processed_total", &[("outcome", "refused")]), 15.0);
    assert_eq!(pusher.sum("rollcall_refusal_problems_total", &[]), 15.0);

    school.otmechalka.set(json!({"token": "another"})).await?;
    school.bitrix24.create_contact(good_contact()).await?;
    eventually("a token that is refused", Duration::from_secs(60), || async {
        let held = school
            .metrics(Stage::Pusher)
            .await?
            .sum("rollcall_otmechalka_held", &[("reason", "token_refused")]);
        Ok((held == 1.0).then_some(()))
    })
    .await?;
    Ok(())
}
