//! The status page, as a person sees it in a real Chromium.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use e2e::{School, Stage, eventually};
use serde_json::{Value, json};

use crate::flow::{fast, good_contact};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Returns the path of the browser, or nothing where `./test` said that it found none.
fn chromium() -> anyhow::Result<Option<String>> {
    let path = std::env::var("CHROMIUM_BIN").context("CHROMIUM_BIN names no browser; run ./test")?;
    if path.is_empty() {
        eprintln!("NOT TESTED: the status page. There is no Chromium here.");
    }
    Ok(Some(path).filter(|path| !path.is_empty()))
}

/// Returns every name, phone and address of the school's people.
fn secrets(state: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for contact in state["contacts"].as_array().into_iter().flatten() {
        for field in ["NAME", "LAST_NAME", "SECOND_NAME", "UF_CRM_57AD7FAF7E6C4", "UF_CRM_1608028374"] {
            found.extend(contact[field].as_str().map(str::to_owned));
        }
        for field in ["PHONE", "EMAIL"] {
            let values = contact[field].as_array().into_iter().flatten();
            found.extend(values.filter_map(|value| value["VALUE"].as_str().map(str::to_owned)));
        }
    }
    // Shorter ones are in every page, as parts of other words.
    found.retain(|text| text.chars().count() > 4);
    found
}

/// Counts the records whose status asks for a correction, as Bitrix24 has it.
fn problems(state: &Value, list: &str) -> usize {
    let records = state[list].as_array().into_iter().flatten();
    let status = |record: &Value| record["UF_CRM_SYNC_STATUS"].as_str().unwrap_or_default().to_owned();
    records.map(status).filter(|status| !status.is_empty() && status != "Успешно").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_works_in_a_real_browser_with_and_without_scripts() -> anyhow::Result<()> {
    let Some(chromium) = chromium()? else { return Ok(()) };
    let mut school = fast(School::builder().demo(100, 100, 5).guarded(&[])).start().await?;
    let mut bad = good_contact();
    bad["PHONE"] = json!([]);
    // More than fit on one page.
    for _ in 0..50 {
        school.bitrix24.create_contact(bad.clone()).await?;
    }
    let contact = school.bitrix24.create_contact(bad).await?;
    let good = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    let phone = json!({"PHONE": [{"VALUE": "позвонить маме Артёма", "VALUE_TYPE": "MOBILE"}]});
    school.bitrix24.edit("contact", contact, phone).await?;
    school.caught_up().await?;
    // Something to wait for.
    school.stage(Stage::Mapper)?.stop().await?;
    let before = school.messages("B24_RAW").await?;
    school.bitrix24.edit("contact", good, json!({"NAME": "Елизавета"})).await?;
    eventually("the edit is read", PATIENCE, || async {
        Ok((school.messages("B24_RAW").await? > before).then_some(()))
    })
    .await?;

    let (_serving, address) = school.serve().await?;
    let state = school.bitrix24.state().await?;
    let otmechalka = school.otmechalka.state().await?;
    let created = ["clients", "tickets"].map(|list| otmechalka[list].as_array().map_or(0, Vec::len));
    let portal = url_origin(&school.bitrix24.webhook_url)?;
    let secrets = secrets(&state);
    ensure!(
        secrets.len() > 200 && secrets.contains("позвонить маме Артёма"),
        "there is something to look for"
    );
    let expected = json!({
        "address": address,
        "portal": portal,
        "contact": contact,
        "good_contact": good,
        "problems": {"contact": problems(&state, "contacts"), "deal": problems(&state, "deals")},
        "created": created.iter().sum::<usize>(),
        "waiting_for_mapper": 1,
        "secrets": secrets,
    });
    let seen = look(&chromium, &expected).await?;
    ensure!(seen["pages"].as_u64() > Some(15), "{seen}");
    // All of it was read by a user who may do nothing else.
    let log = school.nats_log()?;
    let violations: Vec<&str> =
        log.lines().filter(|line| line.to_lowercase().contains("violation")).collect();
    ensure!(violations.is_empty(), "{violations:?}");
    Ok(())
}

async fn look(chromium: &str, expected: &Value) -> anyhow::Result<Value> {
    let python = std::env::var("ROLLCALL_PYTHON").context("ROLLCALL_PYTHON names no Python; run ./test")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("expected.json");
    std::fs::write(&file, serde_json::to_vec(expected)?)?;
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/status_page.py");
    let mut browsing = tokio::process::Command::new(python);
    browsing.arg(script).arg(&file).env("CHROMIUM_BIN", chromium).kill_on_drop(true);
    let output = browsing.output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn url_origin(url: &str) -> anyhow::Result<String> {
    let (scheme, rest) = url.split_once("://").context("a scheme")?;
    let host = rest.split('/').next().context("a host")?;
    Ok(format!("{scheme}://{host}"))
}
