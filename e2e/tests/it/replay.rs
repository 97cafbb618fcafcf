//! Sending records round again: previews, plans, replays, and redeliveries that nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use e2e::{PATIENCE, School, SchoolBuilder, Stage, eventually};
use futures::StreamExt;
use runtime::bootstrap::{self, Mode};
use schemas::streams::consumers;
use schemas::{Envelope, RecordMapped, Version};
use serde_json::{Value, json};

use crate::flow::{client, good_contact, good_deal, good_rows, status_of, ticket, writes};
use crate::letters::{occupy, until_messages};
use crate::reconcile::{found, reconcile};

/// The mapping as it is to be.
const RIGHT: &str = include_str!("../../../mapper/mapping.toml");

/// A school whose mapping can be changed.
struct Mapped {
    school: School,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Mapped {
    async fn start(builder: SchoolBuilder, mapping: &str) -> anyhow::Result<Mapped> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("mapping.toml");
        std::fs::write(&file, mapping)?;
        let school = builder.env("MAPPING_FILE", &file.display().to_string()).start().await?;
        Ok(Mapped { school, file, _folder: folder })
    }

    /// Gives the mapper another mapping.
    async fn map_with(&mut self, mapping: &str) -> anyhow::Result<()> {
        std::fs::write(&self.file, mapping)?;
        self.school.kill_and_start(Stage::Mapper).await
    }

    /// Tells whether a verb warns that the mapper has another mapping.
    async fn is_unlike_the_mappers(&self, verb: &[&str]) -> anyhow::Result<bool> {
        let told = self.school.rollcall(&[&["--json"], verb].concat()).await?.json()?;
        let findings = told["findings"].as_array().context("findings")?;
        Ok(findings.iter().any(|finding| finding["code"] == "mapping.other"))
    }

    /// Makes a plan.
    async fn plan(&self, choice: &[&str]) -> anyhow::Result<Value> {
        let told = self.school.rollcall(&[&["--json", "replay"], choice].concat()).await?;
        ensure!(told.code == 0, "{told:?}");
        Ok(told.json()?["result"].clone())
    }

    /// Carries a plan out.
    async fn apply(&self, choice: &[&str], plan: &Value) -> anyhow::Result<Value> {
        let hash = plan["hash"].as_str().context("hash of the plan")?;
        let end = ["--rate", "500", "--apply", hash];
        let told = self.school.rollcall(&[&["--json", "replay"], choice, &end].concat()).await?;
        ensure!(told.code == 0, "{told:?}");
        Ok(told.json()?["result"].clone())
    }
}

/// A branch that is another one, a product that is not known, and a currency that refuses every deal.
fn wrong() -> String {
    let wrong = RIGHT.replacen("branchoffice = \"2633\"", "branchoffice = \"+Он-лайн `МСК\"", 1);
    let wrong = wrong.replacen("id = 404", "id = 99404", 1).replacen("\"RUB\"", "\"XXX\"", 1);
    assert_ne!(wrong, RIGHT);
    wrong
}

/// Returns what the school's people see: bodies in otmechalka and statuses in Bitrix24, by record.
async fn visible(school: &School) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut visible = BTreeMap::new();
    let state = school.otmechalka.state().await?;
    for kind in ["clients", "tickets"] {
        for body in state[kind].as_array().context("a list")? {
            let mut body = body.as_object().context("a body")?.clone();
            // Numbers and times of otmechalka's own tell only in which order things came.
            body.retain(|field, _| field != "id" && !field.contains("created") && !field.contains("updated"));
            let name = format!("{kind} {}", body["origin_id"]);
            ensure!(visible.insert(name.clone(), Value::Object(body)).is_none(), "{name} is there twice");
        }
    }
    let state = school.bitrix24.state().await?;
    for kind in ["contacts", "deals"] {
        for record in state[kind].as_array().context("a list")? {
            visible.insert(format!("{kind} {}", record["ID"]), record["UF_CRM_SYNC_STATUS"].clone());
        }
    }
    Ok(visible)
}

/// Returns the newest outcome of a record: its word and its sequence.
async fn newest_outcome(school: &School, record: &str) -> anyhow::Result<(String, u64)> {
    let stream = school.broker.jetstream().get_stream("CRM_RESULT").await?;
    let subject = format!("crm.result.*.{}", record.replace('/', "."));
    let message = stream.get_last_raw_message_by_subject(&subject).await?;
    let processed: Value = serde_json::from_slice(&message.payload)?;
    Ok((processed["outcome"].as_str().context("an outcome")?.to_owned(), message.sequence))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_mistake_corrected_and_replayed_leaves_no_trace() -> anyhow::Result<()> {
    // Both portals begin at the same time, or a deal won just after midnight is won on another day in one of them.
    let now = chrono::Utc::now().to_rfc3339();
    let portal = || School::builder().demo(40, 50, 4).bitrix24(&["--now", &now]);
    let right = portal().start().await?;
    right.caught_up().await?;
    let expected = visible(&right).await?;
    drop(right);

    let mut mapped = Mapped::start(portal(), &wrong()).await?;
    mapped.school.caught_up().await?;
    assert_ne!(visible(&mapped.school).await?, expected, "the mistake is one");
    mapped.map_with(RIGHT).await?;
    let previewed = mapped.school.rollcall(&["--json", "preview", "--from-stream"]).await?;
    ensure!(previewed.code == 0, "{previewed:?}");
    let previewed = previewed.json()?["result"].clone();
    assert!(!previewed["no_longer_refused"].as_array().unwrap().is_empty(), "{previewed}");
    assert!(previewed["differing"]["branchoffices"].is_array(), "{previewed}");
    assert!(previewed["newly_refused"]["phone.missing"].is_array(), "{previewed}");

    let choice = ["--since", "2000-01-01"];
    let plan = mapped.plan(&choice).await?;
    let mut before = BTreeMap::new();
    for step in plan["records"].as_array().unwrap() {
        let record = step["record"].as_str().unwrap();
        before.insert(record.to_owned(), newest_outcome(&mapped.school, record).await?.1);
    }
    let report = mapped.apply(&choice, &plan).await?;
    mapped.school.caught_up().await?;

    assert_eq!(visible(&mapped.school).await?, expected);
    mapped.school.assert_consistent().await?;
    assert_as_planned(&mapped.school, &plan, &before).await?;
    assert_eq!(report["left_out"], json!({}));
    let again = mapped.apply(&choice, &plan).await?;
    assert_eq!(again["published"], json!([]), "the same plan is done once");
    assert_eq!(again["done_before"].as_array().unwrap().len(), report["published"].as_array().unwrap().len());
    let nothing_left = mapped.plan(&choice).await?;
    let counts = nothing_left["counts"].as_object().unwrap();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["left"], "{nothing_left}");
    Ok(())
}

/// Returns the records that findings of this kind are about.
fn named(answer: &Value, code: &str) -> BTreeSet<String> {
    let findings = answer["findings"].as_array().into_iter().flatten();
    let messages =
        findings.filter(|finding| finding["code"] == code).filter_map(|one| one["message"].as_str());
    messages.filter_map(|message| Some(message.split_once(':')?.0.to_owned())).collect()
}

/// otmechalka has no call that changes a ticket, so what a mistake made stays, and is named until people put it right.
#[tokio::test(flavor = "multi_thread")]
async fn tickets_that_a_mapping_mistake_made_stay_and_are_named() -> anyhow::Result<()> {
    let (contacts, deals) = RIGHT.split_at(RIGHT.find("[[deal.branches]]").unwrap());
    let contacts = contacts.replacen("branchoffice = \"2633\"", "branchoffice = \"+Он-лайн `МСК\"", 1);
    let deals = deals.replacen("\"+ ЦДШ `МСК\"", "\"+ СКОЛКОВО `МСК *\"", 1);
    let deals = deals.replacen("other = \"ONLINE\"", "other = \"CASH\"", 1);
    let mut mapped = Mapped::start(School::builder(), &format!("{contacts}{deals}")).await?;
    let bitrix24 = &mapped.school.bitrix24;
    let pupil = bitrix24.create_contact(good_contact()).await?;
    let wrong = bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
    let edited = bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
    let mut other = good_deal(pupil);
    (other["UF_CRM_1470852549"], other["UF_CRM_1490347942"]) = (json!([12706]), json!("450"));
    let right = bitrix24.create_deal(other.clone(), good_rows()).await?;
    let moved = bitrix24.create_deal(other, good_rows()).await?;
    mapped.school.caught_up().await?;
    // Tickets are left alone: neither edit is a mistake of the mapping.
    for deal in [edited, moved] {
        let later = json!({"UF_CRM_58D1057919A6F": "2026-01-14T03:00:00+03:00"});
        mapped.school.bitrix24.edit("deal", deal, later).await?;
    }
    mapped.school.caught_up().await?;
    let made = [ticket(&mapped.school, wrong).await?, ticket(&mapped.school, edited).await?];
    assert_eq!(made[0].as_ref().unwrap()["payment_method"], "CASH", "the mistake is one");
    mapped.map_with(RIGHT).await?;

    let choice = ["--json", "replay", "--since", "1h"];
    let stays: BTreeSet<String> = [wrong, edited].map(|deal| format!("deal/{deal}")).into();
    let told = mapped.school.rollcall(&choice).await?;
    let plan = told.json()?;
    assert_eq!(named(&plan, "replay.ticket_stays"), stays, "{told:?}");
    assert_eq!(plan["result"]["counts"], json!({"updated": 1, "left": 4}), "{told:?}");
    for told in ["payment_method, selling_branchoffice", &format!("rollcall reconcile --deal {wrong}")] {
        assert!(plan["findings"].to_string().contains(told), "{told}: {plan}");
    }
    let hash = plan["result"]["hash"].as_str().unwrap();
    let told = mapped.school.rollcall(&[&choice[..], &["--rate", "500", "--apply", hash]].concat()).await?;
    assert_eq!((told.code, named(&told.json()?, "replay.ticket_stays")), (0, stays), "{told:?}");
    mapped.school.caught_up().await?;

    let school = &mapped.school;
    assert_eq!(client(school, pupil).await?.unwrap()["branchoffices"], json!(["2633"]));
    assert_eq!(
        [ticket(school, wrong).await?, ticket(school, edited).await?],
        made,
        "no call changes a ticket"
    );
    for deal in [wrong, edited, right, moved] {
        assert_eq!(status_of(school, "deal", deal).await?, "Успешно");
    }
    let differs = |deal: u64| format!("deal.{deal} ticket_differs payment_method,selling_branchoffice");
    let (code, answer) = reconcile(school, &[]).await?;
    assert_eq!((code, found(&answer)), (0, [wrong, edited].map(differs).into()), "{answer:#}");
    for record in answer["result"]["records"].as_array().unwrap() {
        assert_eq!(record["cause"], "mapping", "{record}");
        let branch =
            json!({"field": "selling_branchoffice", "before": "+ СКОЛКОВО `МСК *", "now": "+ ЦДШ `МСК"});
        assert!(record["fields"].as_array().unwrap().contains(&branch), "{record}");
    }
    assert!(!answer["findings"].to_string().contains("somebody"), "{answer}");

    let correction = json!({"payment_method": "ONLINE", "selling_branchoffice": "+ ЦДШ `МСК"});
    school.otmechalka.edit("ticket", wrong, correction).await?;
    school.otmechalka.edit("ticket", edited, json!({"employee": "Чужой Продавец"})).await?;
    let (_, answer) = reconcile(school, &[]).await?;
    let by_somebody = format!("deal.{edited} ticket_differs employee");
    assert_eq!(found(&answer), [differs(edited), by_somebody].into(), "{answer:#}");
    let causes: BTreeSet<&str> = answer["result"]["records"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["cause"].as_str())
        .collect();
    assert_eq!(causes, BTreeSet::from(["hand", "mapping"]));

    // A mapping that refuses the deals altogether says nothing about what becomes of their tickets.
    std::fs::write(&mapped.file, RIGHT.replacen("\"RUB\"", "\"XXX\"", 1))?;
    let everything = [wrong, edited, right, moved];
    let plan = mapped.school.rollcall(&choice).await?.json()?;
    assert_eq!(named(&plan, "replay.ticket_stays"), everything.map(|deal| format!("deal/{deal}")).into());
    let refused: BTreeSet<String> = everything.map(|deal| format!("deal.{deal} ticket_refused")).into();
    let (code, answer) = reconcile(&mapped.school, &[]).await?;
    assert_eq!((code, found(&answer)), (0, refused), "{answer:#}");
    Ok(())
}

/// Compares the plan with what came of each record: just that, for just these reasons.
async fn assert_as_planned(
    school: &School,
    plan: &Value,
    before: &BTreeMap<String, u64>,
) -> anyhow::Result<()> {
    let mut actions = BTreeMap::<&str, u32>::new();
    let mut without_client = 0;
    for step in plan["records"].as_array().context("records of the plan")? {
        let (record, action) = (step["record"].as_str().unwrap(), step["action"].as_str().unwrap());
        *actions.entry(action).or_default() += 1;
        let (outcome, sequence) = newest_outcome(school, record).await?;
        match action {
            "left" => assert_eq!(sequence, before[record], "{record} is left"),
            planned => {
                assert_eq!(outcome, planned, "{record}");
                assert_ne!(sequence, before[record], "{record} is sent");
            }
        }
        let reasons: BTreeSet<&str> =
            step["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let codes = refusal(school, record).await?;
        assert_eq!(reasons, codes.iter().map(String::as_str).collect(), "{record}");
        without_client +=
            u32::from(action == "refused" && reasons.iter().any(|code| code.starts_with("client.")));
    }
    for action in ["created", "updated", "refused", "left"] {
        assert!(actions.contains_key(action), "the school has one of each: {actions:?}");
    }
    ensure!(without_client > 0, "the school has deals whose pupils otmechalka does not get");
    Ok(())
}

/// Returns the codes of what a record was refused for last.
async fn refusal(school: &School, record: &str) -> anyhow::Result<BTreeSet<String>> {
    let stream = school.broker.jetstream().get_stream("CRM_RESULT").await?;
    let subject = format!("crm.result.*.{}", record.replace('/', "."));
    let message = stream.get_last_raw_message_by_subject(&subject).await?;
    let processed: Value = serde_json::from_slice(&message.payload)?;
    let problems = processed["problems"].as_array().into_iter().flatten();
    Ok(problems.filter_map(|problem| Some(problem["code"].as_str()?.to_owned())).collect())
}

/// Contacts that were out of scope by mistake, and deals that were mapped wrong and waited for them.
#[tokio::test(flavor = "multi_thread")]
async fn records_are_chosen_by_place_and_time_and_what_waited_with_a_mistake_comes_out_right()
-> anyhow::Result<()> {
    let wrong = RIGHT.replacen("id = 404", "id = 99404", 1);
    let wrong = wrong.replacen("id = 186", "id = 12345678", 1).replacen("id = 12706", "id = 186", 1);
    let mut mapped = Mapped::start(School::builder(), &wrong).await?;
    let mut contact = good_contact();
    contact["UF_CRM_58D15BB9CA8F4"] = json!([404]);
    let mut records = Vec::new();
    let school = &mapped.school;
    for _ in 0..3 {
        let pupil = school.bitrix24.create_contact(contact.clone()).await?;
        school.caught_up().await?;
        let deal = school.bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
        school.caught_up().await?;
        records.push((pupil, deal));
    }
    let [(first, first_deal), (second, second_deal), (third, third_deal)] = records[..] else {
        unreachable!("three pupils")
    };
    assert!(status_of(school, "deal", third_deal).await?.contains("не передаётся"));
    let raw = school.broker.jetstream().get_stream("B24_RAW").await?;
    let stored = async |record: String| -> anyhow::Result<(String, String)> {
        let message = raw.get_last_raw_message_by_subject(&format!("b24.raw.{record}")).await?;
        let behind = message.time + chrono::TimeDelta::milliseconds(1);
        Ok((message.sequence.to_string(), behind.to_rfc3339()))
    };
    let (from, _) = stored(format!("contact.{second}")).await?;
    let (to, behind_second) = stored(format!("deal.{second_deal}")).await?;
    mapped.map_with(RIGHT).await?;

    let chosen = async |choice: &[&str]| -> anyhow::Result<Vec<String>> {
        let plan = mapped.plan(choice).await?;
        let steps = plan["records"].as_array().cloned().unwrap_or_default();
        Ok(steps.iter().filter_map(|step| Some(step["record"].as_str()?.to_owned())).collect())
    };
    let name = |(contact, deal): (u64, u64)| [format!("deal/{deal}"), format!("contact/{contact}")];
    // A deal that waits goes before its client, which would have its old command sent.
    let middle = ["--from-sequence", &from, "--to-sequence", &to];
    assert_eq!(chosen(&middle).await?, name((second, second_deal)));
    assert_eq!(chosen(&["--from-sequence", &to]).await?.len(), 3);
    assert_eq!(chosen(&["--to-sequence", &from, "--entity", "contact"]).await?.len(), 2);
    assert_eq!(chosen(&["--since", &behind_second]).await?, name((third, third_deal)));
    let early = ["--since", "1h", "--until", &behind_second];
    assert_eq!(chosen(&early).await?.len(), 4);
    assert_eq!(chosen(&["--until", "2020-01-01"]).await?, [] as [&str; 0]);
    let by_outcome = ["--reason", "client.out_of_scope", "--since", "1h"];
    assert_eq!(chosen(&by_outcome).await?.len(), 3);
    assert_eq!(chosen(&["--reason", "client.out_of_scope", "--until", "yesterday"]).await?.len(), 0);

    // Without its client a deal stays refused, and the plan says so.
    let alone = ["--deal", &first_deal.to_string()];
    let plan = mapped.plan(&alone).await?;
    let step = &plan["records"][0];
    assert_eq!((&step["action"], &step["reasons"]), (&json!("refused"), &json!(["client.out_of_scope"])));
    mapped.apply(&alone, &plan).await?;
    for choice in [&middle[..], &early] {
        let plan = mapped.plan(choice).await?;
        mapped.apply(choice, &plan).await?;
        mapped.school.caught_up().await?;
    }
    for (pupil, deal) in [(first, first_deal), (second, second_deal)] {
        assert!(client(&mapped.school, pupil).await?.is_some());
        let ticket = ticket(&mapped.school, deal).await?.context("a ticket")?;
        assert_eq!(ticket["selling_branchoffice"], "+ ЦДШ `МСК", "deal {deal}");
        assert_eq!(status_of(&mapped.school, "deal", deal).await?, "Успешно");
    }
    assert_eq!(client(&mapped.school, third).await?, None, "it was not chosen");
    let resent = mapped.plan(&["--deal", &second_deal.to_string(), "--resend"]).await?;
    assert_eq!(resent["counts"], json!({"already_there": 1}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_under_live_edits_never_takes_a_record_backwards() -> anyhow::Result<()> {
    let mut mapped = Mapped::start(School::builder(), &wrong()).await?;
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(mapped.school.bitrix24.create_contact(good_contact()).await?);
    }
    let (edited, quiet) = (ids[0], ids[1]);
    mapped.school.caught_up().await?;
    mapped.map_with(RIGHT).await?;
    let choice = ["--entity", "contact"];
    let plan = mapped.plan(&choice).await?;
    assert_eq!(plan["counts"], json!({"updated": 12}));

    let edit = json!({"UF_CRM_57AD7FAF7E6C4": "Осинкин"});
    mapped.school.bitrix24.edit("contact", edited, edit).await?;
    mapped.school.caught_up().await?;
    let edits = async {
        for number in 1..=4 {
            for id in &ids[2..] {
                let surname = format!("Берёзкин{}", "а".repeat(number));
                mapped.school.bitrix24.edit("contact", *id, json!({"UF_CRM_57AD7FAF7E6C4": surname})).await?;
            }
            mapped.school.after_polls(1).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let (edits, report) = tokio::join!(edits, mapped.apply(&choice, &plan));
    edits?;
    let report = report?;
    mapped.school.caught_up().await?;

    let why = report["left_out"][format!("contact/{edited}")].as_str().unwrap_or_default();
    assert!(why.contains("newer version"), "{report}");
    assert_eq!(client(&mapped.school, edited).await?.unwrap()["last_name"], "Осинкин");
    assert_eq!(client(&mapped.school, quiet).await?.unwrap()["branchoffices"], json!(["2633"]));
    for id in &ids[2..] {
        assert_eq!(client(&mapped.school, *id).await?.unwrap()["last_name"], "Берёзкинаааа");
    }
    assert_surnames_only_grow(&mapped.school).await?;
    mapped.school.assert_consistent().await
}

/// Looks at every write in its order: each edit made a surname longer.
async fn assert_surnames_only_grow(school: &School) -> anyhow::Result<()> {
    let history = school.otmechalka.history().await?;
    let calls = history["history"].as_array().or_else(|| history.as_array()).context("a history")?;
    let mut longest = BTreeMap::<String, usize>::new();
    let mut looked = 0;
    for call in calls.iter().filter(|call| call["method"] == "POST" && call["applied"] == true) {
        let Some(surname) = call["body"]["last_name"].as_str().filter(|name| name.starts_with("Берёзкин"))
        else {
            continue;
        };
        let longest = longest.entry(call["origin_id"].to_string()).or_default();
        assert!(surname.len() >= *longest, "{call} came after a newer version");
        *longest = surname.len();
        looked += 1;
    }
    ensure!(looked > 12, "the history tells bodies: {history}");
    Ok(())
}

/// Messages that may wait while a replay goes on (8), and those that the partitions have in hand.
const MOST_BEHIND: usize = 8 + 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_lets_live_traffic_go_first() -> anyhow::Result<()> {
    let mapped = Mapped::start(School::builder(), RIGHT).await?;
    let Mapped { mut school, _folder, .. } = mapped;
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(school.bitrix24.create_contact(good_contact()).await?);
    }
    school.caught_up().await?;
    let (replayed, live) = ids.split_at(4);
    let names = replayed.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let choice = ["--json", "replay", "--contact", &names, "--resend"];
    // Edits wait as commands, and before that as raw records.
    let rounds = [(Stage::Pusher, "CRM_CMD", "Осинкин"), (Stage::Mapper, "B24_RAW", "Осинкина")];
    for (round, (stage, stream, surname)) in (1..).zip(rounds) {
        school.stage(stage)?.stop().await?;
        let stored = school.messages(stream).await?;
        for id in live {
            school.bitrix24.edit("contact", *id, json!({"UF_CRM_57AD7FAF7E6C4": surname})).await?;
        }
        until_messages(&school, stream, stored + live.len() as u64).await?;
        let (commands, calls) = (school.messages("CRM_CMD").await?, written(&school).await?.len());
        let plan = school.rollcall(&choice).await?.json()?["result"].clone();
        let apply = ["--rate", "500", "--apply", plan["hash"].as_str().context("a hash")?];
        let mut replay = school.begin(&[&choice[..], &apply].concat())?;
        eventually("a replay that waits", PATIENCE, || async {
            Ok((replay.log()?.matches("which goes first").count() == round).then_some(()))
        })
        .await?;
        assert_eq!(school.messages("CRM_CMD").await?, commands, "nothing is sent while {stage:?} is behind");

        school.start(stage)?;
        assert!(replay.ended(PATIENCE).await?.success(), "{}", replay.log()?);
        school.caught_up().await?;
        let calls = written(&school).await?.split_off(calls);
        let first = calls.iter().position(|id| replayed.contains(id)).context("a replayed record")?;
        let behind = calls[first..].iter().filter(|id| live.contains(id)).count();
        assert!(behind <= MOST_BEHIND, "{behind} edits were written behind the replay: {calls:?}");
        let counts = [replayed, live].map(|ids| calls.iter().filter(|id| ids.contains(id)).count());
        assert_eq!(counts, [replayed.len(), live.len()], "each is written once");
    }
    Ok(())
}

/// Returns whom otmechalka was told about, in the order of the writes.
async fn written(school: &School) -> anyhow::Result<Vec<u64>> {
    let history = school.otmechalka.history().await?;
    let calls = history["history"].as_array().or_else(|| history.as_array()).context("a history")?;
    let writes = calls.iter().filter(|call| call["method"] == "POST" && call["applied"] == true);
    writes.map(|call| Ok(call["origin_id"].as_str().context("an origin id")?.parse()?)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_within_the_duplicate_window_is_really_delivered() -> anyhow::Result<()> {
    let mapped = Mapped::start(School::builder(), RIGHT).await?;
    let school = &mapped.school;
    let id = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    let name = id.to_string();
    let choice = ["--contact", &name, "--resend"];
    for round in 1..=3 {
        let before = writes(school).await?;
        let plan = mapped.plan(&choice).await?;
        assert_eq!(plan["counts"], json!({"updated": 1}));
        mapped.apply(&choice, &plan).await?;
        school.caught_up().await?;
        assert_eq!(writes(school).await?, before + 1, "round {round}");
    }
    assert_eq!(mapped.plan(&choice[..2]).await?["counts"], json!({"left": 1}));

    // The next redrive's id is one that the server knows: it answers that it has the message, and has none.
    let subject = format!("crm.cmd.*.contact.{id}");
    let newest = async || {
        let stream = school.broker.jetstream().get_stream("CRM_CMD").await?;
        anyhow::Ok(stream.get_last_raw_message_by_subject(&subject).await?)
    };
    let redrive = async || anyhow::Ok(newest().await?.headers.get("ce-redrive").unwrap().to_string());
    let message = newest().await?;
    let header = |name: &str| message.headers.get(name).map(|value| value.as_str());
    let (envelope, command) = Envelope::decode::<RecordMapped>(header, &message.payload)?;
    let version = Version { redrive: 4, ..envelope.version.unwrap() };
    let next = Envelope { version: Some(version), ..envelope }.encode(&command)?;
    let (_, next_id) = next.headers.iter().find(|(name, _)| name == "ce-id").unwrap();
    assert_eq!(redrive().await?, "3");
    occupy(school, "CRM_CMD", "crm.cmd.99.contact.1", next_id).await?;
    let before = writes(school).await?;
    let plan = mapped.plan(&choice).await?;
    let report = mapped.apply(&choice, &plan).await?;
    assert_eq!(report["published"], json!([format!("contact/{id}")]));
    assert_eq!(redrive().await?, "5", "the server did take the fourth for a duplicate");
    school.caught_up().await?;
    assert_eq!(writes(school).await?, before + 1);

    // Somebody wrote over the status, which nobody notices: the field is ours.
    school.bitrix24.edit("contact", id, json!({"UF_CRM_SYNC_STATUS": "проверить"})).await?;
    school.caught_up().await?;
    let before = writes(school).await?;
    let choice = ["--contact", &name, "--to-stage", "status-writer"];
    mapped.apply(&choice, &mapped.plan(&choice).await?).await?;
    school.caught_up().await?;
    assert_eq!(status_of(school, "contact", id).await?, "Успешно");
    assert_eq!(writes(school).await?, before, "otmechalka is not asked");

    let commands = school.messages("CRM_CMD").await?;
    let mut copies = school.broker.client().subscribe("sandbox.crm.cmd.>").await?;
    school.broker.client().flush().await?;
    let choice = ["--contact", &name, "--to", "sandbox.crm.cmd"];
    mapped.apply(&choice, &mapped.plan(&choice).await?).await?;
    let copy = tokio::time::timeout(PATIENCE, copies.next()).await?.context("a copy")?;
    assert!(copy.subject.ends_with(&format!(".contact.{id}")), "{}", copy.subject);
    assert_eq!(serde_json::from_slice::<Value>(&copy.payload)?["mapping"]["body"]["last_name"], "Берёзкин");
    assert_eq!(school.messages("CRM_CMD").await?, commands);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_was_killed_goes_on_where_it_ended() -> anyhow::Result<()> {
    let mapped = Mapped::start(School::builder(), RIGHT).await?;
    let school = &mapped.school;
    for _ in 0..6 {
        school.bitrix24.create_contact(good_contact()).await?;
    }
    school.caught_up().await?;
    let (commands, calls) = (school.messages("CRM_CMD").await?, writes(school).await?);
    let choice = ["--entity", "contact", "--resend"];
    let plan = mapped.plan(&choice).await?;
    let slow = ["--rate", "1", "--apply", plan["hash"].as_str().unwrap()];
    let slow = [&["--json", "replay"], &choice[..], &slow].concat();
    tokio::select! {
        ended = school.rollcall(&slow) => anyhow::bail!("it ended too early: {ended:?}"),
        begun = eventually("the first two records", PATIENCE, || async {
            Ok((school.messages("CRM_CMD").await? >= commands + 2).then_some(()))
        }) => begun?,
    }
    let report = mapped.apply(&choice, &plan).await?;
    let count = |what: &str| report[what].as_array().map_or(0, Vec::len);
    assert!(count("done_before") >= 2 && count("published") > 0, "{report}");
    assert_eq!(count("done_before") + count("published"), 6, "{report}");
    school.caught_up().await?;
    assert_eq!(school.messages("CRM_CMD").await?, commands + 6);
    assert_eq!(writes(school).await?, calls + 6, "each record is sent once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_no_longer_holds_is_refused_and_so_is_a_broken_mapping() -> anyhow::Result<()> {
    let mut mapped = Mapped::start(School::builder(), RIGHT).await?;
    let id = mapped.school.bitrix24.create_contact(good_contact()).await?;
    mapped.school.caught_up().await?;
    let name = id.to_string();
    let choice = ["replay", "--contact", &name, "--resend"];
    let plan = mapped.plan(&choice[1..]).await?;
    assert!(!plan.to_string().contains("Берёзкин"), "{plan}");
    let before = mapped.school.messages("CRM_CMD").await?;
    // Corrected, and the mapper not restarted: it would go on with the old one.
    std::fs::write(&mapped.file, wrong())?;
    assert!(mapped.is_unlike_the_mappers(&choice).await? && mapped.is_unlike_the_mappers(&["doctor"]).await?);
    mapped.map_with(&wrong()).await?;
    eventually("the mapper's note", PATIENCE, || async {
        Ok((!mapped.is_unlike_the_mappers(&choice).await?).then_some(()))
    })
    .await?;
    assert!(!mapped.is_unlike_the_mappers(&["doctor"]).await?);
    let hash = plan["hash"].as_str().unwrap();
    let told = mapped.school.rollcall(&[&choice[..], &["--apply", hash]].concat()).await?;
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.err.contains("another one now"), "{told:?}");
    assert_eq!(mapped.school.messages("CRM_CMD").await?, before);
    assert_eq!(mapped.school.rollcall(&["replay"]).await?.code, 2);
    assert_eq!(mapped.school.rollcall(&[&choice[..], &["--to", "crm.cmd"]].concat()).await?.code, 2);

    let shown = mapped.school.rollcall(&["preview", "contact", &name]).await?;
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.out.contains("+Он-лайн `МСК   (was 2633)") && !shown.out.contains("Берёзкин"), "{shown:?}");
    let shown = mapped.school.rollcall(&["preview", "contact", &name, "--reveal"]).await?;
    assert!(shown.out.contains("Берёзкин"), "{shown:?}");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas/golden/rollcall.contact.changed.v1.json");
    let shown = mapped.school.rollcall(&["preview", "--file", golden]).await?;
    assert!(shown.code == 0 && shown.out.contains("refused"), "{shown:?}");
    let broken = mapped.file.with_file_name("broken.toml");
    std::fs::write(
        &broken,
        RIGHT.replace("id = 404", "id = 0").replace("currency = \"RUB\"", "currency = 1"),
    )?;
    let broken = broken.display().to_string();
    let shown = mapped.school.rollcall(&["preview", "contact", &name, "--mapping", &broken]).await?;
    assert_eq!(shown.code, 2, "{shown:?}");
    assert_eq!(shown.out.matches("line ").count(), 2, "{shown:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redelivery_of_every_stream_changes_nothing() -> anyhow::Result<()> {
    let mut school = School::builder().demo(40, 50, 6).start().await?;
    school.caught_up().await?;
    let (before, seen) = (writes(&school).await?, visible(&school).await?);
    for stage in Stage::ALL {
        school.stage(stage)?.kill().await?;
    }
    school.bitrix24.reset_requests().await?;
    for definition in consumers() {
        let stream = school.broker.jetstream().get_stream(definition.stream).await?;
        stream.delete_consumer(&definition.name).await?;
    }
    bootstrap::apply(&school.broker, 1, Mode::Make).await?;
    let mut everything = 0;
    for stream in ["B24_RAW", "CRM_CMD", "CRM_RESULT"] {
        everything += school.messages(stream).await?;
    }
    assert_eq!(school.lag().await?, everything, "every message is to be delivered again");
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    eventually("the redelivery", PATIENCE, || async { Ok((school.lag().await? == 0).then_some(())) }).await?;
    school.caught_up().await?;
    assert_eq!(writes(&school).await?, before);
    assert_eq!(school.bitrix24.requests().await?["updates"], 0);
    assert_eq!(visible(&school).await?, seen);
    school.assert_consistent().await
}
