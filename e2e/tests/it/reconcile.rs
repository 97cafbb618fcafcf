//! Reconciliation: what disagrees is found, nothing else is, and what is said to be mended is.

use std::collections::BTreeSet;

use e2e::{Bitrix24, School, Stage, Told, eventually};
use runtime::budget::Level;
use schemas::streams::{BUDGET, CHECKPOINTS, DEAD_LETTERS, RAW, mapper_consumer};
use serde_json::{Value, json};

use crate::flow::{client, good_contact, good_deal, good_rows, status_of, ticket};
use crate::letters::{break_down, occupy, until_messages};

const STATUS: &str = "UF_CRM_SYNC_STATUS";

/// The mapping that is built in.
const RIGHT: &str = include_str!("../../../mapper/mapping.toml");

/// The same, with a product that was none of ours.
fn with_tournaments() -> String {
    let product =
        "[[contact.products]]\nid = 406\ntitle = \"Турниры\"\ncourses = [\"Групповые занятия\"]\n\n";
    let mapping = RIGHT.replacen("[[contact.branches]]", &format!("{product}[[contact.branches]]"), 1);
    assert_ne!(mapping, RIGHT);
    mapping
}

/// Creates a contact with a product that is none of ours.
async fn elsewhere(bitrix24: &Bitrix24, product: u32) -> anyhow::Result<u64> {
    let mut contact = good_contact();
    contact["UF_CRM_58D15BB9CA8F4"] = json!([product]);
    bitrix24.create_contact(contact).await
}

/// An hour, in which everything before it leaves the overlap of the polls.
const HOUR: f64 = 3_600.0;

/// What a run found, as `contact.5 missing`.
pub fn found(answer: &Value) -> BTreeSet<String> {
    let records = answer["result"]["records"].as_array().cloned().unwrap_or_default();
    let text = |found: &Value| {
        let (record, code) = (&found["record"], found["code"].as_str().unwrap_or_default());
        let fields: Vec<&str> = found["fields"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|field| field["field"].as_str())
            .collect();
        let id = record["id"].as_str().unwrap_or_default();
        format!("{}.{id} {code} {}", record["entity"].as_str().unwrap_or_default(), fields.join(","))
            .trim_end()
            .to_owned()
    };
    records.iter().map(text).collect()
}

fn set(texts: &[String]) -> BTreeSet<String> {
    texts.iter().cloned().collect()
}

/// Lets everything that was edited leave the overlap in which polls would see it.
async fn let_an_hour_pass(school: &School) -> anyhow::Result<()> {
    school.caught_up().await?;
    school.bitrix24.advance_clock(HOUR).await?;
    school.after_polls(4).await
}

pub async fn reconcile(school: &School, arguments: &[&str]) -> anyhow::Result<(i32, Value)> {
    let arguments: Vec<&str> = ["reconcile", "--pace", "500"].iter().chain(arguments).copied().collect();
    let told = school.rollcall(&[&arguments[..], &["--json"]].concat()).await?;
    Ok((told.code, told.json()?))
}

/// Reconciles, and returns what people are told.
async fn reconcile_text(school: &School, arguments: &[&str]) -> anyhow::Result<Told> {
    school.rollcall(&[&["reconcile", "--pace", "500"], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronised_school_gives_no_finding_and_a_broken_off_run_goes_on() -> anyhow::Result<()> {
    let mut school = School::builder().demo(120, 150, 3).start().await?;
    school.caught_up().await?;
    // From here on nobody else asks, and the portal takes hardly more at once than what the bucket leaves to work that can
    // wait.
    for stage in Stage::ALL {
        school.stage(stage)?.stop().await?;
    }
    school.bitrix24.set(json!({"rate_limit": {"capacity": 5.0, "leak_per_second": 1.0}})).await?;
    school.bitrix24.reset_limits().await?;
    let budget = school.broker.bucket(&BUDGET).await?;
    let level = serde_json::to_vec(&Level::empty(chrono::Utc::now()))?;
    budget.put("bitrix24", level.into()).await?;
    school.set_env("BITRIX24_BUCKET", "10");
    school.set_env("BITRIX24_LEAK", "1");
    school
        .otmechalka
        .fault(json!({"kind": "unauthorized_401", "path": "/api/tickets/*", "method": "GET"}))
        .await?;
    let (code, answer) = reconcile(&school, &[]).await?;
    assert_eq!((code, &answer["ok"]), (1, &json!(false)), "{answer}");
    let kept = school.broker.bucket(&CHECKPOINTS).await?.get("reconcile").await?;
    let kept: Value = serde_json::from_slice(&kept.expect("the run is kept").0)?;
    assert_eq!(kept["reading"], json!(["deal", 0]), "contacts are done");
    school.otmechalka.heal().await?;

    school.bitrix24.reset_requests().await?;
    let (_, before) = budget.get("bitrix24").await?.expect("the budget");
    let (code, answer) = reconcile(&school, &[]).await?;
    assert_eq!(found(&answer), BTreeSet::new(), "{answer}");
    assert_eq!((code, &answer["findings"]), (0, &json!([])), "{answer}");
    assert_eq!(answer["result"]["contacts"], kept["compared"]["contact"]);
    assert!(answer["result"]["deals"].as_u64() > Some(0), "{answer}");
    assert_eq!(answer["result"]["in_flight"], 0, "{answer}");
    let (_, again) = reconcile(&school, &[]).await?;
    assert_eq!(answer["result"], again["result"], "from the start it says the same");
    let requests = school.bitrix24.requests().await?;
    assert_eq!((&requests["refused_503"], &requests["updates"]), (&json!(0), &json!(0)), "{requests}");
    // Each request was booked in the bucket that all share, and left live work its reserve. Either run stores the level once more
    // to learn what time it is for NATS.
    let (level, booked) = budget.get("bitrix24").await?.expect("the budget");
    let made = requests["requests"].as_u64().expect("a number");
    assert!((made..=made + 2).contains(&(booked - before)), "{booked} {before} {requests}");
    let level: Level = serde_json::from_slice(&level)?;
    assert!(level.level <= 2.0, "{level:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_fault_is_found_nothing_else_is_and_repair_mends_what_it_says() -> anyhow::Result<()> {
    let mapping = tempfile::NamedTempFile::new()?;
    std::fs::write(mapping.path(), RIGHT)?;
    let file = mapping.path().display().to_string();
    let mut school = School::builder().env("MAPPING_FILE", &file).start().await?;
    let bitrix24 = &school.bitrix24;
    let otmechalka = &school.otmechalka;
    let mut contacts = Vec::new();
    for _ in 0..11 {
        contacts.push(bitrix24.create_contact(good_contact()).await?);
    }
    let [lost, changed, deleted, merged, survivor, scolded, edited, pupil, cleared, fine, mute] =
        contacts[..]
    else {
        unreachable!("eleven contacts")
    };
    let (tourist, stranger) = (elsewhere(bitrix24, 406).await?, elsewhere(bitrix24, 407).await?);
    let forgotten = elsewhere(bitrix24, 407).await?;
    // Healthy all of them, though refused by the mapping or by otmechalka; every second one until it is spoiled below.
    let without_phone = |mut contact: Value| {
        contact["PHONE"] = json!([]);
        contact
    };
    let refused = bitrix24.create_contact(without_phone(good_contact())).await?;
    let phantom = bitrix24.create_contact(without_phone(good_contact())).await?;
    let mut turned = Vec::new();
    for _ in 0..5 {
        turned.push(bitrix24.create_contact(good_contact()).await?);
    }
    let [turned, tampered, rejected, defied, vanished] = turned[..] else { unreachable!("five contacts") };
    let mut unsold = good_deal(pupil);
    unsold["UF_CRM_1470852549"] = json!([]);
    let ghost = bitrix24.create_deal(unsold.clone(), good_rows()).await?;
    bitrix24.create_deal(unsold, good_rows()).await?;
    let mut deals = Vec::new();
    for owner in [merged, pupil, pupil, pupil, pupil, pupil] {
        deals.push(bitrix24.create_deal(good_deal(owner), good_rows()).await?);
    }
    let [moved, orphan, lost_ticket, changed_ticket, reopened, recalculated] = deals[..] else {
        unreachable!("six deals")
    };
    let spoiled = bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
    school.caught_up().await?;
    // Like the price of another deal, this concerns a ticket that is there, and is left alone.
    bitrix24.edit("deal", spoiled, json!({"UF_CRM_1470852549": []})).await?;
    let mut rows = good_rows();
    (rows[0]["PRICE"], rows[0]["PRICE_EXCLUSIVE"], rows[0]["DISCOUNT_SUM"]) =
        (json!(8000), json!(8000), json!(1000));
    bitrix24.set_rows(recalculated, rows).await?;
    for id in [turned, tampered] {
        bitrix24.edit("contact", id, json!({"PHONE": []})).await?;
    }
    for id in [rejected, defied, vanished] {
        let refusal = json!({"kind": "validation_400", "method": "POST", "origin_id": id.to_string()});
        otmechalka.fault(refusal).await?;
        bitrix24.edit("contact", id, json!({"UF_CRM_1608028374": "Тимофей"})).await?;
    }
    let_an_hour_pass(&school).await?;
    otmechalka.heal().await?;
    for id in [turned, tampered, rejected, defied, vanished, phantom] {
        assert_ne!(status_of(&school, "contact", id).await?, "Успешно", "contact {id}");
    }
    let (_, answer) = reconcile(&school, &[]).await?;
    assert_eq!(found(&answer), BTreeSet::new(), "{answer}");

    otmechalka.edit("client", tampered, json!({"last_name": "Чужой", "phone": "79160000000"})).await?;
    otmechalka.edit("client", defied, json!({"last_name": "Чужой"})).await?;
    otmechalka.remove("client", vanished).await?;
    otmechalka.create("client", json!({"origin_id": phantom.to_string(), "last_name": "Лишний"})).await?;
    let by_hand = json!({"origin_id": ghost.to_string(), "client_origin_id": pupil.to_string()});
    otmechalka.create("ticket", by_hand).await?;
    otmechalka.remove("client", lost).await?;
    otmechalka.edit("client", changed, json!({"last_name": "Чужой"})).await?;
    bitrix24.remove("contact", deleted).await?;
    bitrix24.merge(merged, survivor).await?;
    bitrix24.edit("contact", refused, json!({STATUS: "Успешно"})).await?;
    bitrix24.edit("contact", scolded, json!({STATUS: "Ошибка"})).await?;
    bitrix24.edit_silently("contact", cleared, json!({STATUS: ""}), None).await?;
    bitrix24.edit_silently("contact", edited, json!({"UF_CRM_1608028374": "Тимофей"}), None).await?;
    let imported = bitrix24.import_contact(good_contact(), "2021-03-01T10:00:00+03:00").await?;
    otmechalka.edit("ticket", orphan, json!({"client_origin_id": "999999"})).await?;
    otmechalka.remove("ticket", lost_ticket).await?;
    otmechalka.edit("ticket", changed_ticket, json!({"employee": "Чужой Продавец"})).await?;
    bitrix24.edit("deal", reopened, json!({"STAGE_ID": "LOSE"})).await?;
    for id in [stranger, forgotten] {
        let made_by_hand = json!({"origin_id": id.to_string(), "last_name": "Лишний"});
        otmechalka.create("client", made_by_hand).await?;
    }
    bitrix24.remove("contact", forgotten).await?;
    school.caught_up().await?;

    // A mapper that crashes on a record until it is given up, and one that maps otherwise in its place.
    school.stage(Stage::Mapper)?.stop().await?;
    let raw = school.messages(RAW.name).await?;
    let stuck = school.bitrix24.create_contact(good_contact()).await?;
    until_messages(&school, RAW.name, raw + 1).await?;
    break_down(&school, "mapper", mapper_consumer(), 1).await?;
    std::fs::write(mapping.path(), with_tournaments())?;
    school.start(Stage::Mapper)?;
    let_an_hour_pass(&school).await?;
    let otmechalka = &school.otmechalka;
    otmechalka.fault(json!({"kind": "internal_500", "method": "GET", "origin_id": mute.to_string()})).await?;

    let mendable = set(&[
        format!("contact.{lost} missing"),
        format!("contact.{changed} differs last_name"),
        format!("contact.{refused} false_success"),
        format!("contact.{scolded} false_error"),
        format!("contact.{cleared} status_differs"),
        format!("contact.{edited} unread"),
        format!("contact.{imported} unread"),
        format!("contact.{tourist} outdated"),
        format!("deal.{lost_ticket} missing"),
    ]);
    let by_hand = set(&[
        format!("contact.{tampered} differs last_name,phone"),
        format!("contact.{defied} differs last_name"),
        format!("contact.{vanished} missing"),
        format!("contact.{phantom} extra"),
        format!("deal.{ghost} extra"),
        format!("contact.{stranger} extra"),
        format!("contact.{forgotten} gone"),
        format!("contact.{deleted} gone"),
        format!("contact.{merged} merged"),
        format!("deal.{moved} moved_pupil"),
        format!("deal.{orphan} no_client"),
        format!("deal.{changed_ticket} ticket_differs employee"),
        format!("deal.{reopened} left_selection"),
    ]);
    let of_others = set(&[format!("contact.{mute} unanswered"), format!("contact.{stuck} unprocessed")]);
    let all: BTreeSet<String> = mendable.union(&by_hand).cloned().collect();
    // Younger than an hour, it may still be on its way.
    let name = stuck.to_string();
    let (_, answer) = reconcile(&school, &["--contact", &name]).await?;
    assert_eq!((found(&answer), &answer["result"]["in_flight"]), (BTreeSet::new(), &json!(1)));
    let (code, answer) = reconcile(&school, &["--overdue", "1s"]).await?;
    assert_eq!(found(&answer), all.union(&of_others).cloned().collect(), "{answer:#}");
    assert_eq!(code, 1);
    let texts = answer["findings"].to_string();
    assert!(texts.contains(&format!("rollcall reconcile --repair --contact {lost}")), "{texts}");
    assert!(texts.contains(&format!("rollcall reconcile --contact {merged} --deal {moved}")), "{texts}");
    for name in [tampered, defied, vanished, phantom].map(|id| format!("contact {id}:")) {
        let findings = answer["findings"].as_array().unwrap();
        let is_it = |finding: &&Value| finding["message"].as_str().unwrap().starts_with(&name);
        let finding = findings.iter().find(is_it).unwrap();
        let action = finding["action"].as_str().unwrap();
        assert!(action.contains("as its status says") && !action.contains("--repair"), "{finding}");
    }
    let whole = answer.to_string();
    assert!(!whole.contains("Чужой") && !whole.contains("Берёзк") && !whole.contains("Лишний"), "{whole}");
    for (entity, id, field, held, wanted) in [
        ("contact", changed, "last_name", "*** (5)", "*** (8)"),
        ("contact", defied, "last_name", "*** (5)", "*** (8)"),
        ("deal", changed_ticket, "employee", "*** (14)", "*** (17)"),
    ] {
        let records = answer["result"]["records"].as_array().unwrap();
        let record = json!({"entity": entity, "id": id.to_string()});
        let is_it = |found: &&Value| found["record"] == record;
        let told = records.iter().find(is_it).unwrap();
        let expected = json!([{"field": field, "before": held, "now": wanted}]);
        assert_eq!(told["fields"], expected, "{told}");
    }
    assert_eq!(reconcile_text(&school, &["--reveal"]).await?.code, 2, "only of named records");
    let (name, ticket_name) = (changed.to_string(), changed_ticket.to_string());
    let named = ["--contact", &name, "--deal", &ticket_name];
    let masked = reconcile_text(&school, &named).await?.out;
    assert!(masked.contains("last_name: *** (5) -> *** (8)") && !masked.contains("Чужой"), "{masked}");
    assert!(masked.contains("somebody changed its ticket in otmechalka, in employee"), "{masked}");
    let revealed = reconcile_text(&school, &[&named[..], &["--reveal"]].concat()).await?.out;
    assert!(revealed.contains("last_name: Чужой -> Берёзкин"), "{revealed}");
    assert_eq!(reconcile_text(&school, &["--contact", "0"]).await?.code, 2);

    otmechalka.heal().await?;
    let redrive = format!("dead-letters redrive --contact {stuck}");
    assert!(texts.contains(&format!("rollcall {redrive}")), "{texts}");
    let told = school.rollcall(&redrive.split(' ').collect::<Vec<_>>()).await?;
    assert_eq!((told.code, school.messages(DEAD_LETTERS.name).await?), (0, 0), "{told:?}");
    school.caught_up().await?;
    assert!(client(&school, stuck).await?.is_some());
    let others = format!("{mute},{stuck}");
    let (code, answer) = reconcile(&school, &["--contact", &others, "--overdue", "1s"]).await?;
    assert_eq!((code, found(&answer)), (0, BTreeSet::new()), "{answer:#}");

    let raw = school.messages(RAW.name).await?;
    let (_, answer) = reconcile(&school, &["--repair", "--dry-run"]).await?;
    assert_eq!((found(&answer), &answer["result"]["sent"]), (all.clone(), &json!(0)));
    assert_eq!(school.messages(RAW.name).await?, raw, "a dry run sends nothing");

    let (code, answer) = reconcile(&school, &["--repair", "--contact", &format!("{lost},{fine}")]).await?;
    assert_eq!(
        (code, found(&answer), &answer["result"]["sent"]),
        (0, set(&[format!("contact.{lost} missing")]), &json!(1))
    );
    school.caught_up().await?;
    assert!(client(&school, lost).await?.is_some());

    let (_, answer) = reconcile(&school, &["--repair"]).await?;
    assert_eq!(answer["result"]["sent"], json!(mendable.len() - 1), "{answer:#}");
    school.caught_up().await?;
    let (code, answer) = reconcile(&school, &[]).await?;
    assert_eq!(found(&answer), by_hand, "{answer:#}");
    assert_eq!(code, 0, "what is left is for people");
    assert_eq!(client(&school, changed).await?.unwrap()["last_name"], "Берёзкин");
    assert_eq!(client(&school, edited).await?.unwrap()["first_name"], "Тимофей");
    assert!(client(&school, imported).await?.is_some() && ticket(&school, lost_ticket).await?.is_some());
    assert_eq!(client(&school, tourist).await?.unwrap()["branchoffices"], json!(["+ ЦДШ `МСК"]));
    for id in [lost, changed, scolded, cleared, edited, imported, tourist, stranger, stuck] {
        assert_eq!(status_of(&school, "contact", id).await?, "Успешно", "contact {id}");
    }
    assert!(status_of(&school, "contact", refused).await?.contains("елефон"));
    assert!(client(&school, deleted).await?.is_some() && client(&school, merged).await?.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_whose_id_the_server_knows_is_really_sent() -> anyhow::Result<()> {
    let mut school = School::builder().start().await?;
    let id = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    school.otmechalka.remove("client", id).await?;
    let subject = format!("b24.raw.contact.{id}");
    let newest = async |school: &School| {
        let stream = school.broker.jetstream().get_stream(RAW.name).await?;
        anyhow::Ok(stream.get_last_raw_message_by_subject(&subject).await?)
    };
    let message = newest(&school).await?;
    let fingerprint = message.headers.get("ce-fingerprint").unwrap().as_str()[..16].to_owned();
    let message_id = format!("reconcile:contact.{id}:{}:{fingerprint}", message.sequence);
    // The mapper would take it for a record.
    school.stage(Stage::Mapper)?.stop().await?;
    occupy(&school, RAW.name, "b24.raw.contact.1", &message_id).await?;
    school.start(Stage::Mapper)?;

    let name = id.to_string();
    let (code, answer) = reconcile(&school, &["--repair", "--contact", &name]).await?;
    assert_eq!((code, &answer["result"]["sent"]), (0, &json!(1)), "{answer}");
    assert!(answer["findings"].to_string().contains("sent round again"), "{answer}");
    let sent = newest(&school).await?;
    let sent_id = sent.headers.get("Nats-Msg-Id").unwrap().as_str();
    assert_eq!(sent_id, format!("{message_id}:1"), "the server did take the first for a duplicate");
    school.caught_up().await?;
    assert!(client(&school, id).await?.is_some());
    let (code, answer) = reconcile(&school, &["--contact", &name]).await?;
    assert_eq!((code, found(&answer)), (0, BTreeSet::new()), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_poll_has_come_to_for_an_hour_is_named() -> anyhow::Result<()> {
    let mut school = School::builder().start().await?;
    let id = school.bitrix24.create_contact(good_contact()).await?;
    let_an_hour_pass(&school).await?;
    school.stage(Stage::Producer)?.stop().await?;
    school.bitrix24.edit("contact", id, json!({"UF_CRM_1608028374": "Еремей"})).await?;
    let (code, answer) = reconcile(&school, &[]).await?;
    assert_eq!((code, found(&answer), &answer["result"]["in_flight"]), (0, BTreeSet::new(), &json!(1)));
    school.bitrix24.advance_clock(2.0 * HOUR).await?;
    let name = id.to_string();
    for arguments in [vec![], vec!["--repair"], vec!["--contact", &name]] {
        let (code, answer) = reconcile(&school, &arguments).await?;
        assert_eq!((code, found(&answer)), (1, set(&[format!("contact.{id} unpolled")])), "{answer}");
    }
    school.start(Stage::Producer)?;
    school.caught_up().await?;
    let (code, answer) = reconcile(&school, &[]).await?;
    assert_eq!((code, found(&answer)), (0, BTreeSet::new()), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daily_run_publishes_what_polling_missed_and_says_how_many() -> anyhow::Result<()> {
    let mut school = School::builder().plain(60, 20).open().await?;
    run_daily_in(&mut school, 90).await?;
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    school.caught_up().await?;
    let imported = school.bitrix24.import_contact(good_contact(), "2021-03-01T10:00:00+03:00").await?;
    let edited = school.bitrix24.create_contact(good_contact()).await?;
    let_an_hour_pass(&school).await?;
    school.bitrix24.edit_silently("contact", edited, json!({"UF_CRM_1608028374": "Тимофей"}), None).await?;
    school.after_polls(3).await?;
    assert_eq!(client(&school, imported).await?, None, "polls do not see it");

    school.bitrix24.advance_clock(HOUR).await?;
    let told = eventually("the end of the daily run", e2e::PATIENCE, || async {
        let log = std::fs::read_to_string(school.log_file(Stage::Producer))?;
        Ok(log.lines().find(|line| line.contains("Daily run")).map(str::to_owned))
    })
    .await?;
    assert!(told.contains("polling had missed 2"), "{told}");
    school.caught_up().await?;
    assert!(client(&school, imported).await?.is_some());
    assert_eq!(client(&school, edited).await?.unwrap()["first_name"], "Тимофей");
    let (code, answer) = reconcile(&school, &[]).await?;
    assert_eq!((code, found(&answer)), (0, BTreeSet::new()), "{answer}");
    school.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deal_that_the_portal_cannot_give_ends_no_daily_run() -> anyhow::Result<()> {
    let mut school = School::builder().plain(10, 20).open().await?;
    // Its rows come alone, so that only its own fail.
    school.bitrix24.set(json!({"item_owner_arrays": "match_nothing"})).await?;
    run_daily_in(&mut school, 90).await?;
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    school.caught_up().await?;
    let deals = deals(&school).await?;
    let (sick, behind) = (deals[5], deals[9]);
    let_an_hour_pass(&school).await?;
    school.bitrix24.edit_silently("deal", behind, json!({"OPPORTUNITY": "1.00"}), None).await?;
    school.bitrix24.fault(no_rows_of(sick)).await?;
    school.bitrix24.advance_clock(HOUR).await?;
    let log = || std::fs::read_to_string(school.log_file(Stage::Producer));
    eventually("the end of the daily run", e2e::PATIENCE, || async {
        Ok(log()?.contains("Daily run: read").then_some(()))
    })
    .await?;
    let log = log()?;
    assert!(log.contains(&format!("going on without deal {sick}")), "{log}");
    assert!(log.contains("Daily run: read 29 records; polling had missed 1"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deal_that_the_portal_cannot_give_ends_no_reconciliation() -> anyhow::Result<()> {
    let mut school = School::builder().plain(10, 20).open().await?;
    // Its rows come alone, so that only its own fail.
    school.bitrix24.set(json!({"item_owner_arrays": "match_nothing"})).await?;
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    school.caught_up().await?;
    let deals = deals(&school).await?;
    let (sick, behind) = (deals[5], deals[9]);
    school.otmechalka.remove("ticket", behind).await?;
    school.bitrix24.fault(no_rows_of(sick)).await?;
    let (code, answer) = reconcile(&school, &[]).await?;
    let expected = set(&[format!("deal.{sick} unreadable"), format!("deal.{behind} missing")]);
    assert_eq!((code, found(&answer)), (1, expected), "{answer:#}");
    assert_eq!(answer["result"]["deals"], 19, "{answer:#}");
    Ok(())
}

/// Fails each time when the rows of this deal are asked for.
fn no_rows_of(deal: u64) -> Value {
    json!({
        "kind": "command_error", "method": "crm.deal.productrows.get", "id": deal,
        "error": "ERROR_CORE", "description": "Internal error"
    })
}

/// Returns the ids of all deals.
async fn deals(school: &School) -> anyhow::Result<Vec<u64>> {
    let state = school.bitrix24.state().await?;
    let deals = state["deals"].as_array().into_iter().flatten();
    Ok(deals.filter_map(|deal| deal["ID"].as_str()?.parse().ok()).collect())
}

/// Has the daily run begin so many minutes of the portal's from now.
async fn run_daily_in(school: &mut School, minutes: u64) -> anyhow::Result<()> {
    let now = school.bitrix24.now().await?;
    let (hour, minute): (u64, u64) = (now[11..13].parse()?, now[14..16].parse()?);
    let at = (hour * 60 + minute + minutes) % (24 * 60);
    school.set_env("RECONCILE_AT", &format!("{:02}:{:02}", at / 60, at % 60));
    Ok(())
}
