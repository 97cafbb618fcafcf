//! NATS that is full, NATS that dies in the middle of publishing, and what somebody changes in it by hand.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::Config as StreamConfig;
use e2e::harness::witness::Witness;
use e2e::harness::{Mended, Tally, judge, people};
use e2e::{PATIENCE, School, Stage, eventually};
use runtime::bootstrap::{self, Keeping, stream_config};
use schemas::problem::SUCCESS;
use schemas::streams::{
    BUCKETS, CHECKPOINTS, ConsumerDefinition, DEAD_LETTERS, RAW, RESULTS, STATUSES, STREAMS,
    StreamDefinition, mapper_consumer, pusher_consumers, status_writer_consumer,
};
use schemas::subjects::{self, results_of};
use schemas::{Entity, RecordId, RecordRef};

use super::{SHORT_ACK_WAIT, new_contact, ordinary, rename, until_success};
use crate::flow::status_of;

/// Bounds a stream to so many bytes.
async fn bound(school: &School, stream: &StreamDefinition, max_bytes: i64) -> anyhow::Result<()> {
    let stream = school.broker.jetstream().get_stream(stream.name).await?;
    let mut config = stream.cached_info().config.clone();
    config.max_bytes = max_bytes;
    school.broker.jetstream().update_stream(config).await?;
    Ok(())
}

/// Leaves no room in a stream for any message more.
async fn fill(school: &School, stream: &StreamDefinition) -> anyhow::Result<()> {
    let bytes = school.broker.jetstream().get_stream(stream.name).await?.cached_info().state.bytes;
    // None would be no bound.
    bound(school, stream, bytes.max(1) as i64).await
}

/// What the server says of a stream, and of an account, without room.
const STREAM_IS_FULL: &str = "maximum bytes exceeded";
const ACCOUNT_IS_FULL: &str = "resource limits exceeded for account";

/// Waits until a stage has said that what begins with this finds no room, and why.
async fn refused(school: &School, stage: Stage, subject: &str, reason: &str) -> anyhow::Result<()> {
    let words = format!("Still trying to publish to {subject}: ");
    eventually(&format!("{words:?} of {stage:?}"), PATIENCE, || async {
        let log = std::fs::read_to_string(school.log_file(stage))?;
        Ok(log.lines().any(|line| line.contains(&words) && line.contains(reason)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_stops_polls_touches_no_status_and_loses_nothing() -> anyhow::Result<()> {
    let school = School::builder().brisk().start().await?;
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;
    fill(&school, &RAW).await?;
    rename(&school, pupil, 1).await?;
    let other = new_contact(&school).await?;
    refused(&school, Stage::Producer, "b24.raw", STREAM_IS_FULL).await?;
    assert_eq!(status_of(&school, "contact", other).await?, "");
    bound(&school, &RAW, RAW.max_bytes).await?;
    let mended = Some(Mended::now(&school).await?);
    until_success(&school, "contact", other).await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

/// Has a pupil, its ticket and an edit come while a stage finds no room for what it says of them, also after a restart;
/// `shown` is the pupil's status meanwhile.
async fn without_room(
    stream: &StreamDefinition,
    stage: Stage,
    subject: &str,
    shown: &str,
) -> anyhow::Result<()> {
    let mut school = School::builder().brisk().open().await?;
    school.shorten_ack_wait(SHORT_ACK_WAIT).await?;
    Stage::ALL.into_iter().try_for_each(|stage| school.start(stage))?;
    let witness = Witness::of(&school);
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;
    school.caught_up().await?;

    fill(&school, stream).await?;
    let other = new_contact(&school).await?;
    let deal = school.bitrix24.create_deal(people::deal(other, true), people::rows(8_700)).await?;
    refused(&school, stage, subject, STREAM_IS_FULL).await?;
    rename(&school, pupil, 1).await?;
    // What was done is known to nobody but otmechalka and the portal.
    assert_eq!(school.otmechalka.held(other).await?["clients"].as_array().map(Vec::len), Some(1));
    school.stage(stage)?.kill().await?;
    std::fs::remove_file(school.log_file(stage))?;
    school.start(stage)?;
    refused(&school, stage, subject, STREAM_IS_FULL).await?;
    assert_eq!(status_of(&school, "contact", other).await?, shown);

    bound(&school, stream, stream.max_bytes).await?;
    let mended = Some(Mended::now(&school).await?);
    until_success(&school, "deal", deal).await?;
    school.caught_up().await?;
    let testimony = witness.tell().await?;
    judge::judge(&school, &Tally { testimony, mended, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_find_no_room_are_kept_and_no_create_is_made_twice() -> anyhow::Result<()> {
    without_room(&RESULTS, Stage::Pusher, "crm.result", "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_that_cannot_be_noted_as_settled_are_true_and_settled_later() -> anyhow::Result<()> {
    without_room(&STATUSES, Stage::StatusWriter, "b24.status", SUCCESS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_buried_for_want_of_room_is_not_lost() -> anyhow::Result<()> {
    let mut school = School::builder().brisk().open().await?;
    school.shorten_ack_wait(SHORT_ACK_WAIT).await?;
    Stage::ALL.into_iter().try_for_each(|stage| school.start(stage))?;
    fill(&school, &DEAD_LETTERS).await?;
    let nobody = RecordRef::contact(RecordId::try_new(999_983)?);
    let subject = subjects::command(nobody.id, nobody);
    school.broker.jetstream().publish(subject, "no command".into()).await?.await?;
    refused(&school, Stage::Pusher, "dlq.pusher", STREAM_IS_FULL).await?;
    school.stage(Stage::Pusher)?.kill().await?;
    std::fs::remove_file(school.log_file(Stage::Pusher))?;
    school.start(Stage::Pusher)?;
    // One partition waits with it, the others pass.
    let pupils = [new_contact(&school).await?, new_contact(&school).await?];
    refused(&school, Stage::Pusher, "dlq.pusher", STREAM_IS_FULL).await?;
    let held_up =
        |pupil: u64| RecordId::try_new(pupil).map(|pupil| pupil.partition() == nobody.id.partition());
    for pupil in pupils {
        match held_up(pupil)? {
            true => assert_eq!(status_of(&school, "contact", pupil).await?, ""),
            false => until_success(&school, "contact", pupil).await?,
        }
    }
    assert!(school.dead_letters().await?.is_empty());

    bound(&school, &DEAD_LETTERS, DEAD_LETTERS.max_bytes).await?;
    let mended = Some(Mended::now(&school).await?);
    for pupil in pupils {
        until_success(&school, "contact", pupil).await?;
    }
    school.caught_up().await?;
    let letters = vec![subjects::dead_letter("pusher", nobody)];
    judge::judge(&school, &Tally { letters, mended, ..Tally::default() }).await
}

/// Commands have no bound of their own, as a stream with messages for later cannot refuse any: what refuses them is the server
/// that has no room left for anything.
#[tokio::test(flavor = "multi_thread")]
async fn commands_that_find_no_room_on_the_server_are_kept() -> anyhow::Result<()> {
    let mut school = School::builder().brisk().guarded(&[]).start().await?;
    // What a mapper holds that stands still for a while comes no second time, which would be noted first, in vain.
    school.shorten_ack_wait(PATIENCE).await?;
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;
    school.caught_up().await?;
    school.stage(Stage::Mapper)?.freeze()?;
    rename(&school, pupil, 1).await?;
    let other = new_contact(&school).await?;
    super::until_messages(&school, RAW.name, 3).await?;

    let users = school.folder().join("credentials/server/users.conf");
    let text = std::fs::read_to_string(&users)?;
    let used = school.broker.jetstream().query_account().await?.storage;
    let (without, with) = ("jetstream: enabled", format!("jetstream: {{ max_file: {used} }}"));
    ensure!(text.contains(without), "no account with JetStream in {text}");
    std::fs::write(&users, text.replace(without, &with))?;
    school.reload().await?;
    school.stage(Stage::Mapper)?.thaw()?;
    refused(&school, Stage::Mapper, "crm.cmd", ACCOUNT_IS_FULL).await?;
    assert_eq!(status_of(&school, "contact", other).await?, "");

    std::fs::write(&users, text)?;
    school.reload().await?;
    let mended = Some(Mended::now(&school).await?);
    until_success(&school, "contact", other).await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

/// How often NATS is killed, and how many publishes apart; `ROLLCALL_KILLS` asks for another number.
const KILLS: u64 = 5;
const APART: u64 = 100;

/// Records of a first sync for each kill, of which each takes a publish of each stage: more than those that are killed over.
const RECORDS: u64 = 32;

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
    let kills = match std::env::var("ROLLCALL_KILLS") {
        Ok(kills) => kills.parse().context("ROLLCALL_KILLS is no number")?,
        Err(_) => KILLS,
    };
    let records = kills * RECORDS;
    let half = records as usize / 2;
    let interval = if kills > KILLS { "5s" } else { "1s" };
    let mut school = ordinary(School::builder().plain(half, half).polled_each(interval)).await?;
    Stage::ALL.into_iter().try_for_each(|stage| school.start(stage))?;
    for kill in 1..=kills {
        let published = eventually("publishes to break off", PATIENCE, || async {
            Ok(Some(publishes(&school).await?).filter(|count| *count >= kill * APART))
        })
        .await?;
        school.nats.kill().await?;
        println!("killed after {published} publishes");
        assert!(published < 4 * records, "nothing was left to break off");
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
