//! NATS that is full, and NATS that dies in the middle of publishing.

use e2e::harness::{Mended, Tally, judge};
use e2e::{PATIENCE, School, Stage, eventually};

use super::{new_contact, ordinary, rename, until_success};
use crate::flow::status_of;

async fn bound(school: &School, max_bytes: i64) -> anyhow::Result<()> {
    let stream = school.broker.jetstream().get_stream(schemas::streams::RAW.name).await?;
    let mut config = stream.cached_info().config.clone();
    config.max_bytes = max_bytes;
    school.broker.jetstream().update_stream(config).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_stops_polls_touches_no_status_and_loses_nothing() -> anyhow::Result<()> {
    let school = School::builder().brisk().start().await?;
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;
    let stream = school.broker.jetstream().get_stream(schemas::streams::RAW.name).await?;
    bound(&school, stream.cached_info().state.bytes as i64).await?;
    rename(&school, pupil, 1).await?;
    let other = new_contact(&school).await?;
    eventually("word of it", PATIENCE, || async {
        Ok(school.logs()?.contains("is full, make room").then_some(()))
    })
    .await?;
    assert_eq!(status_of(&school, "contact", other).await?, "");
    bound(&school, schemas::streams::RAW.max_bytes).await?;
    until_success(&school, "contact", other).await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally::default()).await
}

/// How often NATS is killed, and how many publishes apart.
const KILLS: u64 = 5;
const APART: u64 = 100;

/// Records of a first sync, of which each takes a publish of each stage.
const RECORDS: usize = 160;

/// Counts the messages that were ever stored of what the stages tell each other.
async fn publishes(school: &School) -> anyhow::Result<u64> {
    let mut count = 0;
    for stream in ["B24_RAW", "CRM_CMD", "CRM_RESULT", "B24_STATUS"] {
        count += school.broker.jetstream().get_stream(stream).await?.cached_info().state.last_sequence;
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_may_be_killed_in_the_middle_of_publishing() -> anyhow::Result<()> {
    let mut school = ordinary(School::builder().plain(RECORDS / 2, RECORDS / 2)).await?;
    Stage::ALL.into_iter().try_for_each(|stage| school.start(stage))?;
    for kill in 1..=KILLS {
        let published = eventually("publishes to break off", PATIENCE, || async {
            Ok(Some(publishes(&school).await?).filter(|count| *count >= kill * APART))
        })
        .await?;
        school.nats.kill().await?;
        println!("killed after {published} publishes");
        assert!(published < 4 * RECORDS as u64, "nothing was left to break off");
        school.nats.restart().await?;
    }
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}
