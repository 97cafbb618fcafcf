//! Every event ends in exactly one outcome, and the sums agree: the streams among themselves, and with what both
//! simulators say was done.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use e2e::{School, Stage};
use runtime::broker::StoredMessage;
use schemas::{
    Entity, EventData, Outcome, RecordMapped, RecordProcessed, RecordRef, StatusSettled, StatusWritten,
    Version,
};
use serde_json::{Value, json};

use crate::flow::{fast, good_contact, good_deal, good_rows, ticket};

/// A message of ours.
struct Told<T> {
    record: RecordRef,
    version: Version,
    attempt: u64,
    data: T,
}

async fn told<T: EventData>(school: &School, stream: &str) -> anyhow::Result<Vec<Told<T>>> {
    let read = |message: &StoredMessage| {
        let (envelope, data) = message.decode::<T>()?;
        let version = envelope.version.context("a version")?;
        Ok(Told { record: envelope.record, version, attempt: envelope.attempt, data })
    };
    school.stored(stream, ">").await?.iter().map(read).collect()
}

/// Returns the versions of messages, each of which has to be there once.
fn once<'t, T: 't>(
    what: &str,
    messages: impl Iterator<Item = &'t Told<T>>,
) -> anyhow::Result<BTreeSet<(u64, u64)>> {
    let mut versions = BTreeSet::new();
    for Told { record, version, .. } in messages {
        let is_new = versions.insert((version.raw_sequence, version.redrive));
        ensure!(is_new, "{what} of {record}: version {version:?} is there twice");
    }
    Ok(versions)
}

/// Makes all kinds of endings: whole families with mistakes, corrections, a ticket that waits, stages that die.
async fn an_eventful_day() -> anyhow::Result<School> {
    let mut school = fast(School::builder().demo(100, 120, 11)).start().await?;
    school.after_polls(1).await?;
    for stage in Stage::ALL {
        school.kill_and_start(stage).await?;
    }
    let mut bad = good_contact();
    bad["PHONE"] = json!([]);
    let contact = school.bitrix24.create_contact(bad).await?;
    let deal = school.bitrix24.create_deal(good_deal(contact), good_rows()).await?;
    school.caught_up().await?;
    let phone = json!({"PHONE": [{"VALUE": "8 (926) 555-01-02", "VALUE_TYPE": "MOBILE"}]});
    let fault =
        json!({"kind": "internal_500", "method": "POST", "origin_id": contact.to_string(), "count": 2});
    school.otmechalka.fault(fault).await?;
    school.bitrix24.edit("contact", contact, phone).await?;
    school.caught_up().await?;
    ensure!(ticket(&school, deal).await?.is_some(), "the ticket followed its pupil");
    Ok(school)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_ends_in_exactly_one_outcome_and_the_sums_agree() -> anyhow::Result<()> {
    let school = an_eventful_day().await?;
    let raw = school.stored("B24_RAW", ">").await?;
    let commands = told::<RecordMapped>(&school, "CRM_CMD").await?;
    let outcomes = told::<RecordProcessed>(&school, "CRM_RESULT").await?;
    let statuses = told::<StatusWritten>(&school, "B24_STATUS").await?;
    assert_eq!(school.messages("DLQ").await?, 0);
    assert_eq!(school.parked().await?, 0);

    // Each raw version became one command. A command that comes again carries its attempt, or a redrive of its own.
    let versions: BTreeSet<(u64, u64)> = raw.iter().map(|message| (message.sequence, 0)).collect();
    let mapped =
        once("command", commands.iter().filter(|told| told.version.redrive == 0 && told.attempt == 0))?;
    assert_eq!(mapped, versions);
    let all: BTreeSet<(u64, u64)> =
        commands.iter().map(|told| (told.version.raw_sequence, told.version.redrive)).collect();
    assert!(all.len() > versions.len(), "a ticket was sent again");
    assert!(commands.iter().any(|told| told.attempt > 0), "a command was tried again");

    // Each of these ended once.
    assert_eq!(once("outcome", outcomes.iter())?, all);
    let mut sums: BTreeMap<String, usize> = BTreeMap::new();
    for told in &outcomes {
        *sums.entry(format!("{:?}", told.data.outcome)).or_default() += 1;
    }
    assert_eq!(sums.values().sum::<usize>(), all.len());
    assert!(sums["Refused"] > 5 && sums["Created"] > 50 && sums["OutOfScope"] > 0, "{sums:?}");

    otmechalka_did_what_the_outcomes_say(&school, &outcomes).await?;
    bitrix24_shows_what_the_outcomes_say(&school, &outcomes, &statuses).await?;
    school.assert_consistent().await
}

/// Counts applied calls of otmechalka by method and path, the simulator's own word.
async fn otmechalka_did_what_the_outcomes_say(
    school: &School,
    outcomes: &[Told<RecordProcessed>],
) -> anyhow::Result<()> {
    let state = school.otmechalka.state().await?;
    let history = entries(school.otmechalka.history().await?);
    let applied = history.iter().filter(|call| call["applied"] == true && call["method"] == "POST").count();
    let count = |entity: Entity, outcome: Outcome| {
        outcomes.iter().filter(|told| told.record.entity == entity && told.data.outcome == outcome).count()
    };
    for (entity, list) in [(Entity::Contact, "clients"), (Entity::Deal, "tickets")] {
        let there = state[list].as_array().map_or(0, Vec::len);
        // A create whose answer was lost with its stage is found there by the next one, as updated or as already there.
        let created = count(entity, Outcome::Created);
        ensure!(created <= there && there <= created + 4, "{list}: {there} there, {created} created");
    }
    let written: usize = Entity::ALL
        .into_iter()
        .map(|entity| count(entity, Outcome::Created) + count(entity, Outcome::Updated))
        .sum();
    // One for each, and at most one more for each of the pusher's partitions when it was killed.
    ensure!(written <= applied && applied <= written + 16, "{applied} writes, {written} outcomes that wrote");
    Ok(())
}

/// Compares the newest outcome of each record with the newest settled status and with the field in Bitrix24.
async fn bitrix24_shows_what_the_outcomes_say(
    school: &School,
    outcomes: &[Told<RecordProcessed>],
    statuses: &[Told<StatusWritten>],
) -> anyhow::Result<()> {
    let newest =
        |version: Version, known: Option<&(Version, String)>| known.is_none_or(|(at, _)| *at <= version);
    let (mut wanted, mut settled) = (BTreeMap::new(), BTreeMap::new());
    for Told { record, version, data, .. } in outcomes {
        if data.outcome != Outcome::Superseded && newest(*version, wanted.get(record)) {
            wanted.insert(*record, (*version, data.status.clone()));
        }
    }
    for Told { record, version, data, .. } in statuses {
        ensure!(newest(*version, settled.get(record)), "{record}: a status went backwards to {version:?}");
        settled.insert(*record, (*version, data.status.clone()));
    }
    assert_eq!(settled.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    let state = school.bitrix24.state().await?;
    for (record, (_, text)) in &wanted {
        ensure!(settled[record].1 == *text, "{record}: another status was settled than the outcome has");
        let list = state[format!("{}s", record.entity.token())].as_array().context("records")?;
        let id = record.id.to_string();
        let shown = list.iter().find(|stored| stored["ID"].as_str() == Some(&id)).context("the record")?;
        ensure!(shown["UF_CRM_SYNC_STATUS"] == text.as_str(), "{record}: the field shows another status");
    }
    let writes = entries(school.bitrix24.history().await?);
    let ours = writes.iter().filter(|write| write["origin"] == "rest" && write["applied"] == true).count();
    let written = statuses.iter().filter(|told| told.data.how == StatusSettled::Written).count();
    // An update whose note was lost with the writer is found by the next one, which notes it as shown already.
    let found = statuses.iter().filter(|told| told.data.how == StatusSettled::AlreadyShown).count();
    ensure!(written <= ours && ours <= written + found, "{ours} updates, {written} written, {found} found");
    Ok(())
}

fn entries(history: Value) -> Vec<Value> {
    let list = if history.is_array() { history } else { history["history"].clone() };
    list.as_array().cloned().unwrap_or_default()
}
