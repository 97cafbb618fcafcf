//! Stages that stand still until another process has their work, and come back with work half done.

use e2e::harness::{Mended, Tally, judge, play::until_relieved, witness::Witness};
use e2e::{PATIENCE, School, Stage, eventually};
use serde_json::json;

use super::{new_contact, rename, until_success};

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_stood_still_and_comes_back_changes_nothing() -> anyhow::Result<()> {
    let mut school = School::builder().brisk().start().await?;
    let witness = Witness::of(&school);
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;

    // Frozen with a call under way, and with what they hold.
    let calls = async |school: &School| anyhow::Ok(school.otmechalka.requests().await?["total"].as_u64());
    let before = calls(&school).await?;
    school.otmechalka.set(json!({"latency_ms": 1_500})).await?;
    rename(&school, pupil, 1).await?;
    eventually("the call", PATIENCE, || async { Ok((calls(&school).await? > before).then_some(())) }).await?;
    for stage in [Stage::Mapper, Stage::Pusher, Stage::StatusWriter] {
        school.stage(stage)?.freeze()?;
        school.relieve(stage)?;
    }
    school.otmechalka.set(json!({"latency_ms": 0})).await?;
    rename(&school, pupil, 2).await?;
    for stage in [Stage::Mapper, Stage::Pusher, Stage::StatusWriter] {
        until_relieved(&school, stage).await?;
    }
    school.caught_up().await?;
    school.thaw_relieved()?;
    let mended = Some(Mended::now(&school).await?);
    rename(&school, pupil, 3).await?;
    school.caught_up().await?;
    let testimony = witness.tell().await?;
    judge::judge(&school, &Tally { testimony, mended, ..Tally::default() }).await
}
