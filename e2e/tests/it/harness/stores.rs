//! Local caches that are torn or old.

use std::path::Path;

use e2e::harness::{Mended, Tally, judge, play::tear};
use e2e::{School, Stage};

use super::{new_contact, rename};
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
    judge::judge(&school, &Tally { restarts: 12, mended, ..Tally::default() }).await
}
