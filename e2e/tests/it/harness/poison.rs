//! Stages that die over and over, because of a record or of something else.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::harness::{Mended, Tally, judge};
use e2e::{PATIENCE, School, Stage, eventually};
use runtime::faults;
use serde_json::json;

use super::{SHORT_ACK_WAIT, until_success};
use crate::flow::status_of;

/// Records that are in hand together with the one that kills.
const PUPILS: usize = 40;

/// How often a stage dies that is not to be blamed for it: more often than a message may be begun with in vain.
const DEATHS: u64 = 8;

/// Starts a school in which all pupils come at once, slowly enough for many to be in hand at a time; no stage works yet.
async fn crowd() -> anyhow::Result<(School, Vec<u64>)> {
    let school =
        School::builder().brisk().plain(PUPILS, 0).otmechalka(&["--latency-ms", "300"]).open().await?;
    school.shorten_ack_wait(SHORT_ACK_WAIT).await?;
    let state = school.bitrix24.state().await?;
    let contacts = state["contacts"].as_array().into_iter().flatten();
    let pupils: Vec<u64> = contacts.filter_map(|contact| contact["ID"].as_str()?.parse().ok()).collect();
    ensure!(pupils.len() == PUPILS, "{} pupils", pupils.len());
    Ok((school, pupils))
}

/// Has one record kill its stage whenever it is begun with. All others have to pass, and it alone is buried.
async fn is_buried_alone(stage: Stage, place: &str) -> anyhow::Result<()> {
    let (mut school, pupils) = crowd().await?;
    let poison = pupils[PUPILS / 2];
    let place = format!("{place}@contact.{poison}");
    for other in Stage::ALL {
        if other == stage {
            school.doom(stage, &place).await?;
        } else {
            school.start(other)?;
        }
    }
    // As slow as a real portal's: several statuses are on their way at a time.
    school.bitrix24.set(json!({"costs": {"seconds": {"crm.contact.update": 2.0}}})).await?;
    let mut deaths = 0;
    let started = tokio::time::Instant::now();
    while school.messages("DLQ").await? == 0 {
        ensure!(started.elapsed() < PATIENCE, "{deaths} deaths and no dead letter");
        if school.stage(stage)?.has_ended()? {
            school.until_dead(stage).await?;
            deaths += 1;
            school.doom(stage, &place).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!((1..=5).contains(&deaths), "{deaths} deaths");
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    for pupil in pupils.into_iter().filter(|pupil| *pupil != poison) {
        until_success(&school, "contact", pupil).await?;
    }
    ensure!(status_of(&school, "contact", poison).await?.is_empty(), "the one that kills has a status");
    // A letter that nobody expects is found.
    let findings = judge::standing(&school, &Tally::default()).await?;
    let is_found = findings.iter().any(|finding| finding.contains("a dead letter that nobody expected"));
    ensure!(is_found, "{findings:?}");
    // It alone: nobody was buried along with it.
    let letters = vec![format!("dlq.{}.contact.{poison}", stage.program())];
    judge::judge(&school, &Tally { letters, mended, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_kills_the_mapper_each_time_is_buried_alone() -> anyhow::Result<()> {
    is_buried_alone(Stage::Mapper, "message-received").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_kills_the_pusher_each_time_is_buried_alone() -> anyhow::Result<()> {
    is_buried_alone(Stage::Pusher, "message-received").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_kills_the_status_writer_each_time_is_buried_alone() -> anyhow::Result<()> {
    is_buried_alone(Stage::StatusWriter, "round-begun").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_writer_that_is_killed_while_the_portal_is_ill_buries_nothing() -> anyhow::Result<()> {
    let (mut school, pupils) = crowd().await?;
    school.bitrix24.fault(json!({"kind": "html_502", "method": "crm.contact.update"})).await?;
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    for _ in 0..DEATHS {
        let before = school.bitrix24.faults_hit().await?;
        eventually("a batch that fails", PATIENCE, || async {
            Ok((school.bitrix24.faults_hit().await? > before).then_some(()))
        })
        .await?;
        school.kill_and_start(Stage::StatusWriter).await?;
    }
    school.bitrix24.heal().await?;
    let mended = Some(Mended::now(&school).await?);
    for pupil in pupils {
        until_success(&school, "contact", pupil).await?;
    }
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_tells_what_a_panic_says() -> anyhow::Result<()> {
    let mut school = School::builder().brisk().plain(1, 0).open().await?;
    let state = school.bitrix24.state().await?;
    let pupil = state["contacts"][0]["ID"].as_str().context("a pupil")?.to_owned();
    school.doom(Stage::Mapper, &format!("!message-received@contact.{pupil}")).await?;
    school.start(Stage::Producer)?;
    eventually("a dead letter", PATIENCE, || async {
        Ok((school.messages("DLQ").await? == 1).then_some(()))
    })
    .await?;
    school.set_env(faults::CRASH_VARIABLE, "!command-begun");
    let told = school.rollcall(&["--json", "status"]).await?;
    let letters: Vec<String> =
        school.dead_letters().await?.into_iter().map(|buried| buried.letter.reason).collect();
    for (whose, text) in [("mapper", school.logs()?), ("rollcall", told.err + &told.out)] {
        ensure!(text.contains("panicked at runtime/src/faults.rs"), "{whose} did not panic: {text}");
        ensure!(!text.contains(faults::LAST_WORDS), "{whose} tells what its panic says");
    }
    ensure!(!letters.concat().contains(faults::LAST_WORDS), "{letters:?}");
    Ok(())
}
