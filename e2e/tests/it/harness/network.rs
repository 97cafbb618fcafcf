//! The network between any two.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use e2e::harness::{Mended, Tally, judge, people};
use e2e::{Link, NAMES, PATIENCE, Room, School, Stage, Weather, eventually};

use serde_json::json;

use super::{new_contact, rename, until_success};
use crate::flow::{good_deal, good_rows, status_of};
use crate::tls::{Authority, GOOD_UNTIL, words};

#[tokio::test(flavor = "multi_thread")]
async fn any_stretch_of_network_may_fall_silent_and_break() -> anyhow::Result<()> {
    let school = School::builder().brisk().env("OTMECHALKA_TIMEOUT", "5s").networked().start().await?;
    let pupil = new_contact(&school).await?;
    school.caught_up().await?;
    let links = Stage::ALL.map(Link::Nats).into_iter().chain([Link::Bitrix24, Link::Otmechalka]);
    for (number, link) in links.enumerate() {
        let number = number as u32 * 2;
        school.weather(link, Weather::Silent)?;
        rename(&school, pupil, number).await?;
        new_contact(&school).await?;
        if !matches!(link, Link::Nats(Stage::Producer) | Link::Bitrix24) {
            // Time enough for work to arrive at the silence.
            school.after_polls(2).await?;
        }
        school.weather(link, Weather::Cut)?;
        rename(&school, pupil, number + 1).await?;
        school.weather(link, Weather::Clear)?;
    }
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

/// More than a second there and back, which is longer than a claim is good for at first. A connection takes three such ways.
const FAR: Weather = Weather::Slow(Duration::from_millis(800));

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_that_is_far_from_nats_is_slow_and_stands_still_for_nothing() -> anyhow::Result<()> {
    let mut school = School::builder().brisk().networked().start().await?;
    school.weather(Link::Nats(Stage::Pusher), FAR)?;
    school.stage(Stage::Pusher)?.kill().await?;
    school.start(Stage::Pusher)?;
    let pupil = new_contact(&school).await?;
    let deal = school.bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
    until_success(&school, "deal", deal).await.with_context(|| school.logs().unwrap_or_default())?;
    rename(&school, pupil, 1).await?;
    school.caught_up().await?;
    school.clear_up();
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

/// Returns the surnames that otmechalka was given for a pupil, in the order in which it took them.
async fn surnames(school: &School, pupil: u64) -> anyhow::Result<Vec<String>> {
    let history = school.otmechalka.history().await?;
    let (calls, pupil) = (history["history"].as_array().into_iter().flatten(), json!(pupil.to_string()));
    let taken = calls.filter(|call| call["applied"] == true && call["origin_id"] == pupil);
    Ok(taken.filter_map(|call| call["body"]["last_name"].as_str().map(str::to_owned)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_carried_out_after_a_newer_one_does_not_stay() -> anyhow::Result<()> {
    let school = School::builder().brisk().env("OTMECHALKA_TIMEOUT", "15s").networked().start().await?;
    let pupil = new_contact(&school).await?;
    school.caught_up().await?;
    // otmechalka takes its time over an update, and the connection breaks under it.
    school.otmechalka.set(json!({"latency_ms": 14_000})).await?;
    let before = school.otmechalka.requests().await?["total"].clone();
    rename(&school, pupil, 1).await?;
    eventually("an update on its way", PATIENCE, || async {
        Ok((school.otmechalka.requests().await?["total"] != before).then_some(()))
    })
    .await?;
    school.otmechalka.set(json!({"latency_ms": 0})).await?;
    school.weather(Link::Otmechalka, Weather::Cut)?;
    rename(&school, pupil, 2).await?;
    let log = school.log_file(Stage::Pusher);
    eventually("the broken connection is noticed", PATIENCE, || async {
        Ok(std::fs::read_to_string(&log)?.contains("does not answer").then_some(()))
    })
    .await?;
    school.weather(Link::Otmechalka, Weather::Clear)?;
    let (older, newer) = (people::surname(1), people::surname(2));
    eventually("the older update behind the newer, and the newer again", PATIENCE, || async {
        let taken = surnames(&school, pupil).await?;
        let is_late = taken.iter().skip_while(|name| **name != newer).any(|name| *name == older);
        Ok((is_late && taken.last() == Some(&newer)).then_some(()))
    })
    .await?;
    school.caught_up().await?;
    school.assert_consistent().await
}

/// Half a second there and back, and one packet in twenty lost.
const BAD: Weather = Weather::Lossy { delay: Duration::from_millis(250), percent: 5 };

/// Files and connections that a process may have open.
const FEW_FILES: u64 = 128;

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_network_dead_connections_and_few_files_are_got_over() -> anyhow::Result<()> {
    let mut school = School::builder()
        .networked()
        // A call without an answer is given up after ten seconds.
        .bitrix24(&["--clock-speed", "60"])
        .env("PORTAL_CLOCK_SPEED", "60")
        .env("OTMECHALKA_TIMEOUT", "5s")
        .start()
        .await?;
    for stage in Stage::ALL {
        let id = school.stage(stage)?.process_id().context("a running stage")?;
        let limit = format!("--nofile={FEW_FILES}:{FEW_FILES}");
        let told = Command::new("prlimit").arg(format!("--pid={id}")).arg(limit).output()?;
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    }
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;
    let links: Vec<Link> =
        Stage::ALL.map(Link::Nats).into_iter().chain([Link::Bitrix24, Link::Otmechalka]).collect();
    for (number, weather) in [BAD, Weather::HalfOpen].into_iter().enumerate() {
        let started = tokio::time::Instant::now();
        for link in &links {
            school.weather(*link, weather)?;
        }
        rename(&school, pupil, number as u32).await?;
        let other = new_contact(&school).await?;
        until_success(&school, "contact", other).await?;
        println!("{weather:?}: {:.0} s", started.elapsed().as_secs_f64());
    }
    school.clear_up();
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_stop_resolving_are_waited_for_and_nothing_is_written_to_tmp() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(room) = Room::with_names(folder.path(), &NAMES)? else { return Ok(()) };
    let room = Arc::new(room);
    let authority = Authority::make()?;
    let ours = authority.write(folder.path(), "ours.pem")?;
    let arguments = |name| anyhow::Ok(authority.sign(folder.path(), name, GOOD_UNTIL)?.arguments());
    let school = School::builder()
        .brisk()
        .named(room.clone())
        .bitrix24(&words(&arguments(NAMES[1])?))
        .otmechalka(&words(&arguments(NAMES[2])?))
        .env("BITRIX24_CA_FILE", &ours)
        .env("OTMECHALKA_CA_FILE", &ours)
        .start()
        .await?;
    let pupil = new_contact(&school).await?;
    until_success(&school, "contact", pupil).await?;

    // Open connections go with the names: they would hide that these are gone.
    room.names_resolve(false)?;
    let crms = [Link::Bitrix24, Link::Otmechalka];
    let break_off = |links: &[Link]| -> anyhow::Result<()> {
        links.iter().try_for_each(|link| {
            let target = school.lead(*link, ([127, 0, 0, 1], 9).into())?;
            school.lead(*link, target).map(drop)
        })
    };
    let says = async |stage: Stage, words: &str| {
        let path = school.log_file(stage);
        eventually(&format!("word of {stage:?}: {words}"), PATIENCE, || async {
            Ok(std::fs::read_to_string(&path)?.contains(words).then_some(()))
        })
        .await
    };
    break_off(&crms)?;
    let other = new_contact(&school).await?;
    says(Stage::Producer, "its name does not resolve").await?;
    break_off(&Stage::ALL.map(Link::Nats))?;
    for stage in Stage::ALL {
        says(stage, "Lost the connection to NATS").await?;
    }
    assert_eq!(status_of(&school, "contact", other).await?, "");

    room.names_resolve(true)?;
    let mended = Some(Mended::now(&school).await?);
    rename(&school, pupil, 1).await?;
    until_success(&school, "contact", other).await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}
