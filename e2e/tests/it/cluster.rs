//! Three NATS servers that hold a copy of everything each: one may die, stand still or be away together with another.

use anyhow::Context;
use e2e::{PATIENCE, School, Stage, eventually};
use futures::TryStreamExt;
use nix::sys::signal::Signal;
use runtime::local_nats::LocalNats;
use schemas::streams::{RAW, RESULTS};

use crate::flow::{good_contact, good_deal, good_rows, status_of};

async fn leader_of<'s>(school: &'s mut School, stream: &str) -> anyhow::Result<&'s mut LocalNats> {
    let leader = eventually("a leader", PATIENCE, || async {
        let Ok(stream) = school.broker.jetstream().get_stream(stream).await else { return Ok(None) };
        Ok(stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()))
    })
    .await?;
    school.servers().find(|server| server.name() == Some(&leader)).context("the leader is none of ours")
}

/// Makes a pupil and a deal, and waits until both have passed every stage. How long that takes is a matter of `./bench`.
async fn travels(school: &School) -> anyhow::Result<()> {
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    let deal = school.bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
    eventually("the status of a new deal", PATIENCE, || async {
        Ok((status_of(school, "deal", deal).await? == "Успешно").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_servers_one_may_die_or_stand_still_and_two_may_be_away() -> anyhow::Result<()> {
    let mut school = School::builder().demo(60, 80, 3).cluster().start().await?;
    for stream in school.broker.jetstream().stream_names().try_collect::<Vec<_>>().await? {
        let info = school.broker.jetstream().get_stream(stream).await?.cached_info().clone();
        assert_eq!(info.config.num_replicas, 3, "{}", info.config.name);
    }

    // The leader dies in the middle of the first sync.
    eventually("the first outcomes", PATIENCE, || async {
        Ok((school.messages(RESULTS.name).await? > 5).then_some(()))
    })
    .await?;
    let dead = leader_of(&mut school, RAW.name).await?;
    dead.kill().await?;
    let dead = dead.name().map(str::to_owned);
    travels(&school).await?;
    let dead = school.servers().find(|server| server.name() == dead.as_deref()).context("the dead one")?;
    dead.restart().await?;

    // Another stands still and keeps its connections, which nobody may go on waiting at.
    let still = leader_of(&mut school, RESULTS.name).await?.process_id().context("it runs")?;
    signal(still, Signal::SIGSTOP)?;
    let arrived = travels(&school).await;
    signal(still, Signal::SIGCONT)?;
    arrived?;

    // Without a majority nothing is stored, so nothing is done and nothing is said.
    school.caught_up().await?;
    let before = statuses_written(&school).await?;
    for server in school.servers().skip(1) {
        server.kill().await?;
    }
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    eventually("stages that say what is missing", PATIENCE, || async {
        Ok(school.logs()?.contains("Still trying to").then_some(()))
    })
    .await?;
    assert_eq!(status_of(&school, "contact", pupil).await?, "");
    assert_eq!(statuses_written(&school).await?, before);
    for server in school.servers().skip(1) {
        server.revive()?;
    }
    eventually("its status", PATIENCE, || async {
        Ok((status_of(&school, "contact", pupil).await? == "Успешно").then_some(()))
    })
    .await?;

    school.caught_up().await?;
    school.assert_consistent().await?;
    for stage in Stage::ALL {
        assert!(!school.stage(stage)?.has_ended()?, "{stage:?}");
    }
    Ok(())
}

async fn statuses_written(school: &School) -> anyhow::Result<serde_json::Value> {
    Ok(school.bitrix24.requests().await?["updates"].clone())
}

fn signal(process: u32, signal: Signal) -> anyhow::Result<()> {
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(process as i32), signal)?)
}
