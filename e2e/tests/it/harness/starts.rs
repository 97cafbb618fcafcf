//! Stages that find no NATS when they start, a machine without IPv4, and a host that stands still as a whole.

use std::net::{Ipv6Addr, TcpListener};

use anyhow::Context;
use e2e::harness::witness::Witness;
use e2e::harness::{Mended, Tally, judge};
use e2e::{PATIENCE, School, Stage, WallClock, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use schemas::streams::ACK_WAIT;

use super::{new_contact, rename, until_messages, until_success};

#[tokio::test(flavor = "multi_thread")]
async fn stages_that_find_no_nats_wait_for_it_and_say_so() -> anyhow::Result<()> {
    let mut school = School::builder().brisk().open().await?;
    school.nats.kill().await?;
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    let pupil = new_contact(&school).await?;
    for stage in Stage::ALL {
        eventually(&format!("word of {stage:?}"), PATIENCE, || async {
            let log = std::fs::read_to_string(school.log_file(stage))?;
            Ok(log.contains("Waiting for a connection to NATS").then_some(()))
        })
        .await?;
        assert!(!school.stage(stage)?.has_ended()?, "{stage:?} gave up");
    }
    assert_eq!(school.bitrix24.requests().await?["requests"], 0, "nothing is asked without NATS");
    school.nats.restart().await?;
    let mended = Some(Mended::now(&school).await?);
    until_success(&school, "contact", pupil).await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_ipv6_alone_is_enough() -> anyhow::Result<()> {
    if let Err(error) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        // Elsewhere than on a build server this machine is taken as it is.
        assert!(std::env::var_os("CI").is_none(), "no IPv6 on this machine: {error}");
        eprintln!("skipped: no IPv6 on this machine: {error}");
        return Ok(());
    }
    let school = School::builder().brisk().ipv6().start().await?;
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally::default()).await
}

/// Seconds for which a host is suspended, by the wall clock: no other runs meanwhile.
const SUSPENDED: i64 = 600;

/// Seconds of the portal's in one of ours in a brisk school.
const BRISK: i64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn all_stages_may_stand_still_at_once_for_longer_than_any_ack_wait() -> anyhow::Result<()> {
    let mut school =
        School::builder().brisk().otmechalka(&["--latency-ms", "50"]).plain(40, 40).open().await?;
    // Behind to begin with, as nobody can set the clock of NATS on: they agree once that of the stages was.
    let clock = WallClock::right(&school.folder(), "host")?;
    clock.shift(-SUSPENDED)?;
    let variables = clock.variables();
    for stage in Stage::ALL {
        school.start_with(stage, &variables.each_ref().map(|(name, value)| (*name, value.as_str())))?;
    }
    let witness = Witness::of(&school);
    let pupil = new_contact(&school).await?;
    // Work is under way in each of them.
    until_messages(&school, "B24_STATUS", 1).await?;
    for stage in Stage::ALL {
        school.stage(stage)?.freeze()?;
    }
    rename(&school, pupil, 1).await?;
    // Nothing tells that it is over: whoever would notice stands still as well.
    tokio::time::sleep(ACK_WAIT + ACK_WAIT / 5).await;
    for stage in Stage::ALL {
        school.stage(stage)?.thaw()?;
    }
    rename(&school, pupil, 2).await?;
    let before = school.messages("B24_STATUS").await?;
    until_messages(&school, "B24_STATUS", before + 1).await?;

    // Their host is suspended for ten minutes, and NATS with it. The portal and otmechalka are elsewhere and go on.
    let nats = Pid::from_raw(school.nats.process_id().context("NATS does not run")? as i32);
    for stage in Stage::ALL {
        school.stage(stage)?.freeze()?;
    }
    kill(nats, Signal::SIGSTOP)?;
    rename(&school, pupil, 3).await?;
    let second = new_contact(&school).await?;
    tokio::time::sleep(ACK_WAIT + ACK_WAIT / 5).await;
    school.bitrix24.advance_clock((SUSPENDED * BRISK) as f64).await?;
    clock.shift(0)?;
    kill(nats, Signal::SIGCONT)?;
    for stage in Stage::ALL {
        school.stage(stage)?.thaw()?;
    }
    let mended = Some(Mended::now(&school).await?);
    rename(&school, pupil, 4).await?;
    until_success(&school, "contact", second).await?;
    school.caught_up().await?;
    let testimony = witness.tell().await?;
    judge::judge(&school, &Tally { testimony, mended, ..Tally::default() }).await
}
