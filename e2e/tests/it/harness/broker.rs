//! NATS that is full, NATS that dies in the middle of publishing, and what somebody changes in it by hand.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::Config as StreamConfig;
use e2e::harness::{Mended, Tally, judge};
use e2e::{PATIENCE, School, Stage, eventually};
use runtime::bootstrap::{self, Keeping, stream_config};
use schemas::Entity;
use schemas::streams::{
    BUCKETS, CHECKPOINTS, ConsumerDefinition, RAW, STREAMS, mapper_consumer, pusher_consumers,
    status_writer_consumer,
};
use schemas::subjects::results_of;

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

/// In how much time the stages have to say that what they need is gone or not as declared.
const NOTICED: Duration = Duration::from_secs(60);

/// Changes a consumer as a person might with the `nats` tool.
async fn edit(
    school: &School,
    definition: &ConsumerDefinition,
    change: impl FnOnce(&mut pull::Config),
) -> anyhow::Result<()> {
    let mut config = bootstrap::consumer_config(definition);
    change(&mut config);
    let stream = school.broker.jetstream().get_stream(definition.stream).await?;
    stream.update_consumer(config).await?;
    Ok(())
}

/// Waits until the stages have said all of this.
async fn said(school: &School, words: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let words: Vec<String> = words.into_iter().collect();
    let missing = || -> anyhow::Result<Vec<&String>> {
        let logs = school.logs()?;
        Ok(words.iter().filter(|words| !logs.contains(words.as_str())).collect())
    };
    let all = eventually("word of everything", NOTICED, || async { Ok(missing()?.is_empty().then_some(())) });
    let all = all.await;
    all.with_context(|| format!("{:?} not in {}", missing(), school.logs().unwrap_or_default()))
}

async fn bootstrapped(school: &School) -> anyhow::Result<()> {
    let told = school.rollcall(&["bootstrap"]).await?;
    ensure!(told.code == 0, "{told:?}");
    Ok(())
}

async fn all_answer(school: &School, status: u16) -> anyhow::Result<()> {
    for stage in Stage::ALL {
        eventually(&format!("{stage:?} answers {status}"), NOTICED, || async {
            Ok((school.ask(stage, "/readyz").await?.0 == status).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_deletes_or_changes_by_hand_is_named_and_made_good() -> anyhow::Result<()> {
    let school = School::builder().brisk().observed().start().await?;
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;
    let jetstream = school.broker.jetstream();

    // Changed, or deleted alone.
    let (mapper, pusher) = (mapper_consumer(), pusher_consumers().remove(5));
    let writer = status_writer_consumer(Entity::Contact);
    edit(&school, &mapper, |config| config.ack_wait = Duration::from_secs(40)).await?;
    edit(&school, &pusher, |config| config.max_ack_pending = 7).await?;
    edit(&school, &writer, |config| config.filter_subject = results_of(Entity::Deal)).await?;
    let raw = stream_config(&RAW, Keeping::from(1));
    jetstream.update_stream(StreamConfig { max_age: Duration::from_secs(86_400), ..raw.clone() }).await?;
    jetstream.delete_consumer_from_stream("pusher-06", pusher.stream).await?;
    let drifted = [
        "consumer mapper of stream B24_RAW is not as declared: ack_wait is 40s, declared 3s",
        "consumer pusher-05 of stream CRM_CMD is not as declared: max_ack_pending is 7, declared 1",
        "consumer status-writer-contact of stream CRM_RESULT is not as declared: filter_subject is ",
        "stream B24_RAW is not as declared: max_age is 86400s, declared 7776000s",
        "consumer pusher-06 of stream CRM_CMD is gone. `rollcall bootstrap`",
    ];
    said(&school, drifted.map(str::to_owned)).await?;
    ensure!(school.ask(Stage::Mapper, "/readyz").await?.0 == 200, "a mapper that goes on is ready");
    for definition in [&mapper, &pusher, &writer] {
        edit(&school, definition, |_| {}).await?;
    }
    jetstream.update_stream(raw).await?;
    bootstrapped(&school).await?;
    let right = drifted.map(|words| words.split(" is ").next().unwrap_or_default());
    said(&school, right.map(|what| format!("{what} is as declared again"))).await?;

    // Everything is deleted but the checkpoints.
    for stream in &STREAMS {
        jetstream.delete_stream(stream.name).await?;
    }
    let buckets: Vec<_> = BUCKETS.iter().filter(|bucket| bucket.name != CHECKPOINTS.name).collect();
    for bucket in &buckets {
        jetstream.delete_key_value(bucket.name).await?;
    }
    let streams = STREAMS.iter().map(|stream| format!("stream {} is gone", stream.name));
    said(&school, streams.chain(buckets.iter().map(|bucket| format!("bucket {} is gone", bucket.name))))
        .await?;
    all_answer(&school, 503).await?;
    bootstrapped(&school).await?;
    all_answer(&school, 200).await?;
    rename(&school, pupil, 1).await?;
    let other = new_contact(&school).await?;
    until_success(&school, "contact", other).await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally::default()).await
}
