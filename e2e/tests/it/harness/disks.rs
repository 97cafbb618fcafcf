//! Real disks that are full: under NATS, and under the local caches.

use std::time::Duration;

use e2e::harness::{Mended, Tally, judge, people};
use e2e::{Disk, PATIENCE, School, Stage, eventually};
use schemas::problem::SUCCESS;

use super::{new_contact, rename, until_success};
use crate::flow::status_of;

/// Records at a time, of which some fill what is left of the last pages.
const SOME: u32 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn nats_on_a_full_disk_loses_nothing_and_marks_nobody() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(mut disk) = Disk::mount(folder.path()).await? else { return Ok(()) };
    let mut school = School::builder().brisk().store(disk.path().join("nats")).start().await?;
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;
    school.caught_up().await?;

    disk.fill().await?;
    rename(&school, pupil, 1).await?;
    let other = new_contact(&school).await?;
    let deal = school.bitrix24.create_deal(people::deal(other, true), people::rows(8_700)).await?;
    eventually("word of disk and remedy", PATIENCE, || async {
        Ok(school.logs()?.contains("disk of NATS is full, make room and restart").then_some(()))
    })
    .await?;
    // Without NATS nothing is asked of the portal.
    let requests = async || anyhow::Ok(school.bitrix24.requests().await?["requests"].as_u64());
    eventually("an end of the polls", PATIENCE, || async {
        let before = requests().await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok((requests().await? == before).then_some(()))
    })
    .await?;
    for (entity, id, status) in [("contact", pupil, SUCCESS), ("contact", other, ""), ("deal", deal, "")] {
        assert_eq!(status_of(&school, entity, id).await?, status, "{entity} {id}");
    }

    disk.make_room().await?;
    school.nats.kill().await?;
    school.nats.restart().await?;
    let mended = Some(Mended::now(&school).await?);
    until_success(&school, "deal", deal).await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_on_a_full_disk_are_given_up_and_nothing_else_is() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(mut disk) = Disk::mount(folder.path()).await? else { return Ok(()) };
    let state = disk.path().join("state").display().to_string();
    let mut school = School::builder().brisk().env("STATE_DIR", &state).start().await?;
    let mut pupils = vec![new_contact(&school).await?];
    school.caught_up().await?;

    disk.fill().await?;
    // What cannot be written is noticed behind its back, and told with the next record.
    let started = tokio::time::Instant::now();
    let mut edits = 0;
    let mut silent = vec![Stage::Producer, Stage::Pusher, Stage::StatusWriter];
    while !silent.is_empty() {
        assert!(started.elapsed() < PATIENCE, "nothing is said by {silent:?}");
        for _ in 0..SOME {
            edits += 1;
            rename(&school, pupils[0], edits).await?;
            pupils.push(new_contact(&school).await?);
        }
        until_success(&school, "contact", pupils[pupils.len() - 1]).await?;
        silent.retain(|stage| {
            let log = std::fs::read_to_string(school.log_file(*stage)).unwrap_or_default();
            !log.contains("make room")
        });
    }
    // Started on it, they work without a cache as well; and with one again when there is room.
    for number in 0..2 {
        for stage in Stage::ALL {
            school.kill_and_start(stage).await?;
        }
        rename(&school, pupils[1], edits + 1 + number).await?;
        school.caught_up().await?;
        disk.make_room().await?;
    }
    judge::judge(&school, &Tally::default()).await
}
