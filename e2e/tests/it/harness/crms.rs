//! Every kind of fault of both simulators, each against what is asked of them; with `ROLLCALL_MATRIX=full` each against
//! every method that the stages use, those that are called seldom in a scene of their own; with the name of a kind that one
//! alone.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::harness::{Mended, Tally, judge, people, plan};
use e2e::{PATIENCE, School, SchoolBuilder, Stage, eventually};
use schemas::problem::SUCCESS;
use serde_json::{Value, json};

use super::{new_contact, rename, until_struck, until_success};
use crate::flow::status_of;
use crate::secrets::{assert_told_no_secret, watched};

/// All kinds of the simulated Bitrix24. The first three cost a whole time limit.
const BITRIX24: [&str; 48] = [
    "no_answer",
    "drip",
    "answer_lost",
    "html_502",
    "html_504",
    "html_403",
    "php_fatal_500",
    "internal_500",
    "unexpected_answer_500",
    "query_limit_503",
    "overload_503",
    "operating_429",
    "portal_deleted_500",
    "unauthorized_401",
    "expired_401",
    "forbidden_403",
    "access_denied_403",
    "error_under_200",
    "empty_code_200",
    "result_null",
    "result_empty",
    "empty_body",
    "html_200",
    "login_redirect",
    "domain_redirect",
    "garbage",
    "huge_body",
    "endless_body",
    "gzip_bomb",
    "deep_nesting",
    "reset_before",
    "cp1251",
    "bom",
    "php_warning",
    "truncated",
    "truncated_transfer",
    "bad_gzip",
    "trailing_bytes",
    "lone_surrogate",
    "huge_number",
    "duplicate_keys",
    "slow",
    "reset_after_apply",
    "no_time",
    "no_operating",
    "half_batch_then_504",
    "command_error",
    "slow_command",
];

/// Kinds of the simulated Bitrix24 that are planned at a time in the short form.
const TOGETHER: usize = 4;

/// All kinds of the simulated otmechalka.
const OTMECHALKA: [&str; 26] = [
    "down_503",
    "internal_500",
    "bad_gateway_502",
    "too_many_429",
    "unauthorized_401",
    "forbidden_403",
    "not_found_404",
    "validation_400",
    "error_200",
    "html_200",
    "garbage",
    "truncated",
    "empty_body",
    "reset_before",
    "reset_after_apply",
    "no_answer",
    "slow",
    "drip",
    "bom",
    "trailing_bytes",
    "lone_surrogate",
    "huge_number",
    "duplicate_keys",
    "deep_nesting",
    "endless_body",
    "gzip_bomb",
];

/// What otmechalka says of a record that it is sent, which its status has to tell. Everything else says nothing of it, nor does
/// anything said in answer to a lookup: it passes, and marks nobody.
const REFUSALS: [&str; 2] = ["validation_400", "error_200"];

/// Methods of Bitrix24 that the stages call over and over; the first two stand for all of them in the short form.
const METHODS: [&str; 6] = [
    "crm.contact.list",
    "crm.contact.update",
    "crm.deal.list",
    "crm.deal.update",
    "crm.item.productrow.list",
    "user.get",
];

/// Methods that are called seldom: by a status-writer that starts, and for the rows of deals where items cannot be listed.
const SELDOM: [&str; 3] = ["crm.contact.fields", "crm.deal.fields", "crm.deal.productrows.get"];

/// Kinds that stand for all of them in the short form against what is called seldom. Each has the call be made again.
const SOME: [&str; 4] = ["html_502", "truncated", "error_under_200", "result_null"];

/// Ids of sellers begin here, so that none is one that is there.
const SELLERS: u64 = 100_000;

/// Calls of otmechalka: looking for a client, creating it, updating it, looking for a ticket, creating it.
const CALLS: [(&str, &str); 5] = [
    ("GET", "/api/clients/*/"),
    ("POST", "/api/clients/"),
    ("POST", "/api/clients/*/"),
    ("GET", "/api/tickets/*/"),
    ("POST", "/api/tickets/"),
];

/// Largest body of Bitrix24 that is read.
const LARGEST_BODY_KIB: u64 = 16 * 1024;

/// Tells whether the long form is asked for.
fn is_full() -> bool {
    std::env::var_os("ROLLCALL_MATRIX").is_some()
}

/// Returns those of these kinds that are asked for.
fn asked_for(kinds: &[&'static str]) -> Vec<&'static str> {
    let form = std::env::var("ROLLCALL_MATRIX").ok().filter(|form| form != "full");
    kinds.iter().copied().filter(|kind| form.as_deref().is_none_or(|form| form == *kind)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_fault_of_both_simulators_is_played() -> anyhow::Result<()> {
    let school = School::builder().open().await?;
    let unknown = json!({"kind": "no such kind"});
    let of_bitrix24 = (school.bitrix24.fault(unknown.clone()).await, &BITRIX24[..], &plan::BITRIX24[..]);
    let of_otmechalka = (school.otmechalka.fault(unknown).await, &OTMECHALKA[..], &plan::OTMECHALKA[..]);
    for (refused, played, in_scripts) in [of_bitrix24, of_otmechalka] {
        // It names those that it knows.
        let told = refused.expect_err("it knows no such kind").to_string();
        let known: BTreeSet<&str> =
            told.split('`').skip(1).step_by(2).filter(|kind| !kind.contains(' ')).collect();
        assert_eq!(known, played.iter().copied().collect(), "{told}");
        assert!(in_scripts.iter().all(|kind| known.contains(kind)), "{in_scripts:?}");
    }
    Ok(())
}

/// Returns every status that was written to a record, in order.
async fn statuses(school: &School, entity: &str, id: u64) -> anyhow::Result<Vec<String>> {
    let history = school.bitrix24.history().await?;
    let entries = history["history"].as_array().cloned().unwrap_or_default();
    let of_record =
        |write: &&Value| write["origin"] == "rest" && write["entity"] == entity && write["id"] == id;
    let texts = entries.iter().filter(of_record).filter_map(|write| write["fields"][people::STATUS].as_str());
    Ok(texts.map(str::to_owned).collect())
}

/// A watched school whose memory is judged: backtraces and lines of a trace take a lot of it.
fn measured() -> SchoolBuilder {
    watched(School::builder()).env("RUST_BACKTRACE", "0").env("RUST_LOG", "debug")
}

/// A school whose portal's pauses of a minute take a second.
fn with_fast_portal() -> SchoolBuilder {
    measured().bitrix24(&["--clock-speed", "60"]).env("PORTAL_CLOCK_SPEED", "60").polled_each("300ms")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_bitrix24_passes_without_a_gap() -> anyhow::Result<()> {
    let school = with_fast_portal().start().await?;
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;
    // Some at a time: while one of them makes a stage wait, others strike the other stage. In the long form no two strike the
    // producer one after the other, which would double its pauses, on our own clock, until they are minutes.
    let (rounds, together) = match is_full() {
        true => (vec![&METHODS[..2], &METHODS[2..4], &METHODS[4..5], &METHODS[5..]], 1),
        false => (vec![&METHODS[..2]], TOGETHER),
    };
    let kinds = asked_for(&BITRIX24);
    let rounds = kinds.chunks(together).flat_map(|kinds| rounds.iter().map(move |methods| (kinds, *methods)));
    for (number, (kinds, methods)) in rounds.enumerate() {
        let fault =
            |kind: &&str, method: &&str| json!({"kind": kind, "method": method, "count": 1, "seconds": 30});
        let faults = methods.iter().flat_map(|method| kinds.iter().map(move |kind| fault(kind, method)));
        school.bitrix24.fault(faults.collect()).await?;
        // An edit for the list to tell.
        rename(&school, pupil, number as u32).await?;
        let started = tokio::time::Instant::now();
        let what = format!("{} on {}", kinds.join(", "), methods.join(", "));
        tokio::select! {
            struck = until_struck(&what, async || school.bitrix24.faults().await) => struck?,
            // Statuses that are written together are struck together, and may all be there then.
            failed = enough_work(&school) => failed?,
        }
        println!("{what}: {:.0} s", started.elapsed().as_secs_f64());
    }
    school.bitrix24.heal().await?;
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    assert_told_no_secret(&school, &[]).await?;
    judge::judge(&school, &Tally { mended, largest_body_kib: LARGEST_BODY_KIB, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_what_is_seldom_asked_of_bitrix24_pass_as_well() -> anyhow::Result<()> {
    let mut school = with_fast_portal().open().await?;
    let items = "crm.item.productrow.list";
    let refused = json!({"kind": "command_error", "method": items, "error": "ERROR_METHOD_NOT_FOUND"});
    let mut deals = Vec::new();
    for _ in 0..2 {
        let pupil = new_contact(&school).await?;
        deals.push(school.bitrix24.create_deal(people::deal(pupil, true), people::rows(8_700)).await?);
    }
    school.bitrix24.fault(refused).await?;
    Stage::ALL.into_iter().try_for_each(|stage| school.start(stage))?;
    let (kinds, together) = if is_full() { (asked_for(&BITRIX24), 1) } else { (SOME.to_vec(), SOME.len()) };
    for kinds in kinds.chunks(together) {
        let what = kinds.join(", ");
        let fault =
            |kind: &&str, method: &&str| json!({"kind": kind, "method": method, "count": 1, "seconds": 30});
        let faults = SELDOM.iter().flat_map(|method| kinds.iter().map(move |kind| fault(kind, method)));
        school.bitrix24.fault(faults.collect()).await?;
        school.kill_and_start(Stage::StatusWriter).await?;
        let pupil = new_contact(&school).await?;
        let deal = school.bitrix24.create_deal(people::deal(pupil, true), people::rows(8_700)).await?;
        let started = tokio::time::Instant::now();
        let struck = async || {
            let mut planned = school.bitrix24.faults().await?;
            let rules = planned["faults"].as_array_mut().context("faults")?;
            rules.retain(|rule| rule["method"] != items);
            Ok(planned)
        };
        until_struck(&what, struck).await.with_context(|| format!("{what} on {}", SELDOM.join(", ")))?;
        // A poll that succeeds comes between any two that fail, or its pauses would double until they are minutes.
        until_success(&school, "deal", deal).await?;
        println!("{what} on {}: {:.0} s", SELDOM.join(", "), started.elapsed().as_secs_f64());
    }
    for deal in deals {
        until_success(&school, "deal", deal).await?;
    }
    let log = std::fs::read_to_string(school.log_file(Stage::Producer))?;
    ensure!(log.contains("Product rows are read by crm.deal.productrows.get"), "items were listed");
    school.bitrix24.heal().await?;
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    assert_told_no_secret(&school, &[]).await?;
    judge::judge(&school, &Tally { mended, largest_body_kib: LARGEST_BODY_KIB, ..Tally::default() }).await
}

/// Has a fault strike these calls of otmechalka, about a new pupil and its ticket; checks what their statuses say of it.
async fn strike(school: &School, kind: &str, calls: &[usize]) -> anyhow::Result<[(&'static str, u64); 2]> {
    let faults = calls
        .iter()
        .map(|call| CALLS[*call])
        .map(|(method, path)| json!({"kind": kind, "method": method, "path": path, "count": 1}));
    let faults: Vec<Value> = faults.collect();
    let is_update = calls == [2];
    let about_ticket = calls == [3] || calls == [4];
    if !is_update {
        school.otmechalka.fault(json!(faults)).await?;
    }
    let pupil = new_contact(school).await?;
    if is_update {
        until_success(school, "contact", pupil).await?;
        school.otmechalka.fault(json!(faults)).await?;
        rename(school, pupil, 1).await?;
    }
    let deal = school.bitrix24.create_deal(people::deal(pupil, true), people::rows(8_700)).await?;
    // What otmechalka was made to say of a client may leave its ticket without a call.
    let struck = async || {
        let mut planned = school.otmechalka.faults().await?;
        let rules = planned["faults"].as_array_mut().into_iter().flatten();
        let waited_for = rules.filter(|rule| about_ticket || rule["path"] != "/api/tickets/");
        Ok(json!({"faults": waited_for.map(|rule| rule.clone()).collect::<Vec<_>>()}))
    };
    until_struck(kind, struck).await?;
    let is_refused = REFUSALS.contains(&kind) && calls.iter().any(|call| CALLS[*call].0 == "POST");
    let told = eventually(kind, PATIENCE, || async {
        let told = [statuses(school, "contact", pupil).await?, statuses(school, "deal", deal).await?];
        let is_marked = told[usize::from(about_ticket)].iter().any(|text| text != SUCCESS);
        let is_over = told.iter().all(|texts| !texts.is_empty()) && is_marked >= is_refused;
        Ok(is_over.then_some(told))
    })
    .await?;
    println!("{kind} on {calls:?}: {} and {} statuses", told[0].len(), told[1].len());
    ensure!(is_refused || told.iter().flatten().all(|text| text == SUCCESS), "somebody was marked: {told:?}");
    school.otmechalka.heal().await?;
    Ok([("contact", pupil), ("deal", deal)])
}

/// Makes contacts and deals for as long as anybody waits; ends only with an error. Each deal has a seller of its own, whom
/// nobody has asked for yet.
async fn enough_work(school: &School) -> anyhow::Result<()> {
    loop {
        let pupil = new_contact(school).await?;
        let seller = SELLERS + pupil;
        school.bitrix24.put_user(seller, json!({"NAME": "Василий", "LAST_NAME": "Василенко"})).await?;
        let mut deal = people::deal(pupil, true);
        deal["ASSIGNED_BY_ID"] = json!(seller.to_string());
        school.bitrix24.create_deal(deal, people::rows(8_700)).await?;
        school.after_polls(1).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_otmechalka_passes_without_a_double() -> anyhow::Result<()> {
    let school = measured()
        .otmechalka(&["--clock-speed", "60"])
        .env("OTMECHALKA_CLOCK_SPEED", "60")
        .env("OTMECHALKA_TIMEOUT", "2s")
        .start()
        .await?;
    let mut made = Vec::new();
    for kind in asked_for(&OTMECHALKA) {
        // In the long form one call after the other, in the short one those of a create together.
        let calls = if is_full() { vec![&[0][..], &[1], &[2], &[3], &[4]] } else { vec![&[0, 1, 4][..]] };
        for calls in calls {
            made.extend(strike(&school, kind, calls).await.with_context(|| format!("{kind} on {calls:?}"))?);
        }
    }
    school.caught_up().await?;
    school.assert_consistent().await?;

    // What was refused goes through once somebody asks for another try.
    for (entity, id) in made {
        if status_of(&school, entity, id).await? != SUCCESS {
            school.bitrix24.edit(entity, id, json!({people::STATUS: ""})).await?;
            until_success(&school, entity, id).await?;
        }
    }
    school.caught_up().await?;
    assert_told_no_secret(&school, &[]).await?;
    judge::judge(&school, &Tally::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_field_deleted_in_mid_run_stops_statuses_and_nothing_else() -> anyhow::Result<()> {
    let school =
        School::builder().bitrix24(&["--clock-speed", "60"]).env("PORTAL_CLOCK_SPEED", "60").start().await?;
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;
    school.bitrix24.delete_field("contact", people::STATUS).await?;
    school.bitrix24.reset_requests().await?;
    let second = new_contact(&school).await?;
    let deal = school.bitrix24.create_deal(people::deal(second, true), people::rows(8_700)).await?;
    eventually("the alarm", PATIENCE, || async {
        let log = std::fs::read_to_string(school.log_file(Stage::StatusWriter))?;
        Ok(log.contains("Statuses of contacts wait").then_some(()))
    })
    .await?;
    // The deal's field is there.
    until_success(&school, "deal", deal).await?;
    school.after_polls(5).await?;
    let updates = school.bitrix24.requests().await?["commands"]["crm.contact.update"].as_u64().unwrap_or(0);
    assert!(updates <= 2, "{updates} updates of a field that is not there");

    school.bitrix24.add_field("contact", people::STATUS).await?;
    until_success(&school, "contact", second).await?;
    // What the field held went with it; polls cannot see that, reconciling does.
    let (_, told) = crate::reconcile::reconcile(&school, &["--repair"]).await?;
    assert_eq!(told["result"]["sent"], 1, "{told}");
    until_success(&school, "contact", pupil).await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally { sent_again: 1, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_webhook_is_tried_once_a_minute_by_both_stages_together() -> anyhow::Result<()> {
    // A minute takes two seconds.
    let minute = Duration::from_secs(2);
    let mut school = watched(School::builder())
        .bitrix24(&["--clock-speed", "30"])
        .env("PORTAL_CLOCK_SPEED", "30")
        .polled_each("300ms")
        .open()
        .await?;
    for stage in [Stage::Producer, Stage::Mapper, Stage::Pusher] {
        school.start(stage)?;
    }
    // A status that is to be written, so that there are two who want to ask.
    let pupil = new_contact(&school).await?;
    super::until_messages(&school, "CRM_RESULT", 1).await?;
    school.bitrix24.fault(json!({"kind": "unauthorized_401"})).await?;
    school.start(Stage::StatusWriter)?;
    for stage in [Stage::Producer, Stage::StatusWriter] {
        eventually(&format!("word of {stage:?}"), PATIENCE, || async {
            Ok(std::fs::read_to_string(school.log_file(stage))?.contains("webhook").then_some(()))
        })
        .await?;
    }
    let tries = async || anyhow::Ok(school.bitrix24.requests().await?["requests"].as_u64().unwrap_or(0));
    let (before, begun) = (tries().await?, tokio::time::Instant::now());
    eventually("five more tries", PATIENCE, || async { Ok((tries().await? >= before + 5).then_some(())) })
        .await?;
    let took = begun.elapsed();
    // A try is seen a little later than it was taken; by themselves they would have made all five in two minutes.
    assert!(took > minute * 7 / 2, "five tries of two stages within {took:?}");
    assert_eq!(status_of(&school, "contact", pupil).await?, "");

    school.bitrix24.heal().await?;
    let mended = Some(Mended::now(&school).await?);
    until_success(&school, "contact", pupil).await?;
    new_contact(&school).await?;
    school.caught_up().await?;
    assert_told_no_secret(&school, &[]).await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}
