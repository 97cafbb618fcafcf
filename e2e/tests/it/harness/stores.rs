//! Local caches that are torn or old, and a NATS that knows less than they do.

use std::path::Path;

use e2e::harness::{Mended, Tally, judge, play::tear};
use e2e::{School, Stage};
use runtime::bootstrap::{self, Mode};

use super::{new_contact, rename, until_success};
use crate::flow::writes;

async fn kill_all(school: &mut School) -> anyhow::Result<()> {
    for stage in Stage::ALL {
        school.stage(stage)?.kill().await?;
    }
    Ok(())
}

fn start_all(school: &mut School) -> anyhow::Result<()> {
    Stage::ALL.into_iter().try_for_each(|stage| school.start(stage))
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_that_are_torn_or_from_yesterday_cost_work_and_nothing_else() -> anyhow::Result<()> {
    let mut school = School::builder().brisk().plain(20, 20).start().await?;
    let pupil = new_contact(&school).await?;
    school.caught_up().await?;
    kill_all(&mut school).await?;
    let yesterday = tempfile::tempdir()?;
    copy(&school.state_dir(), yesterday.path())?;
    start_all(&mut school)?;
    for number in 1..4 {
        rename(&school, pupil, number).await?;
    }
    school.caught_up().await?;
    let before = writes(&school).await?;

    kill_all(&mut school).await?;
    std::fs::remove_dir_all(school.state_dir())?;
    copy(yesterday.path(), &school.state_dir())?;
    start_all(&mut school)?;
    school.caught_up().await?;
    assert_eq!(writes(&school).await?, before, "an old cache sends nothing again");

    kill_all(&mut school).await?;
    tear(&school.state_dir())?;
    start_all(&mut school)?;
    let mended = Some(Mended::now(&school).await?);
    rename(&school, pupil, 4).await?;
    school.caught_up().await?;
    assert_eq!(writes(&school).await?, before + 1);
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_nats_beside_crms_that_are_full_costs_work_and_nothing_else() -> anyhow::Result<()> {
    let mut school = School::builder().brisk().plain(20, 20).start().await?;
    school.caught_up().await?;
    kill_all(&mut school).await?;
    // The caches stay, and know of streams that are no more.
    school.nats.kill().await?;
    std::fs::remove_dir_all(school.folder().join("nats/jetstream"))?;
    school.nats.restart().await?;
    bootstrap::apply(&school.broker, 1, Mode::Make).await?;
    school.bitrix24.reset_requests().await?;
    start_all(&mut school)?;
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    assert_eq!(school.messages("B24_RAW").await?, 40, "everything is read again");
    assert_eq!(school.bitrix24.requests().await?["updates"], 0, "no status that stands is written");
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_put_back_from_a_backup_loses_nothing_though_the_caches_are_ahead() -> anyhow::Result<()> {
    let mut school = School::builder().brisk().plain(20, 20).start().await?;
    let pupil = new_contact(&school).await?;
    school.caught_up().await?;
    let (store, backup) = (school.folder().join("nats/jetstream"), tempfile::tempdir()?);
    kill_all(&mut school).await?;
    school.nats.kill().await?;
    copy(&store, backup.path())?;
    school.nats.restart().await?;
    start_all(&mut school)?;
    for number in 1..4 {
        rename(&school, pupil, number).await?;
        school.caught_up().await?;
    }
    kill_all(&mut school).await?;
    school.nats.kill().await?;
    std::fs::remove_dir_all(&store)?;
    copy(backup.path(), &store)?;
    school.nats.restart().await?;
    start_all(&mut school)?;
    let mended = Some(Mended::now(&school).await?);
    // Under a sequence that was taken before.
    rename(&school, pupil, 4).await?;
    let other = new_contact(&school).await?;
    until_success(&school, "contact", other).await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}
