//! NATS that is full, and NATS without its consumers.

use e2e::harness::{Tally, judge};
use e2e::{PATIENCE, School, eventually};

use super::{new_contact, rename, until_success};
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
