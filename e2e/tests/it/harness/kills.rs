//! `kill -9` of each stage between any two side effects.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::consumer::PullConsumer;
use e2e::harness::{Mended, Tally, judge, people, plan::PLACES, witness::Witness};
use e2e::{PATIENCE, School, Stage, eventually};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use schemas::streams::{ConsumerDefinition, pusher_consumers};
use serde_json::json;

use super::{SHORT_ACK_WAIT, new_contact, ordinary, seed};

/// Pause between two edits: enough of them to die over, not so many that they have to be caught up with.
const BETWEEN_EDITS: Duration = Duration::from_secs(1);

/// Longest time until all have died at each of their places, on a busy machine.
const ALL_DEATHS: Duration = Duration::from_secs(240);

/// Places of the pusher before which it has a life in peace: a record that is in hand at five deaths is buried, and rightly.
const LEFT_AT_REST: usize = 3;

/// Lets a pusher live until what its last deaths left in hand is done with, and stops it.
async fn rest(school: &mut School) -> anyhow::Result<()> {
    let infos = async |school: &School| {
        let mut infos = Vec::new();
        for ConsumerDefinition { stream, name, .. } in pusher_consumers() {
            let consumer: PullConsumer =
                school.broker.jetstream().get_consumer_from_stream(&name, stream).await?;
            infos.push(consumer.cached_info().clone());
        }
        anyhow::Ok(infos)
    };
    let in_hand = infos(school).await?;
    school.start(Stage::Pusher)?;
    eventually("what was in hand", PATIENCE, || async {
        let now = infos(school).await?;
        let mut pairs = in_hand.iter().zip(&now);
        let is_done =
            pairs.all(|(then, now)| now.ack_floor.stream_sequence >= then.delivered.stream_sequence);
        Ok(is_done.then_some(()))
    })
    .await?;
    let code = school.stage(Stage::Pusher)?.stop().await?;
    ensure!(code == 0, "it stops with {code}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stage_may_be_killed_between_any_two_side_effects() -> anyhow::Result<()> {
    let mut school = School::builder()
        .plain(60, 60)
        // Tickets wait for their clients no longer than necessary.
        .otmechalka(&["--clock-speed", "20"])
        .env("OTMECHALKA_CLOCK_SPEED", "20")
        .open()
        .await?;
    school.shorten_ack_wait(SHORT_ACK_WAIT).await?;
    let witness = Witness::of(&school);
    let mut places: BTreeMap<Stage, VecDeque<&str>> = BTreeMap::new();
    for (stage, place) in PLACES {
        places.entry(stage).or_default().push_back(place);
    }
    for stage in Stage::ALL {
        let first = places.get_mut(&stage).and_then(VecDeque::pop_front).expect("every stage has places");
        school.doom(stage, first).await?;
    }
    let mut deaths = 0;
    let started = tokio::time::Instant::now();
    while !places.is_empty() {
        assert!(started.elapsed() < ALL_DEATHS, "these are not reached: {places:?}");
        // Whoever still lives needs something to die over.
        let pupil = new_contact(&school).await?;
        school.bitrix24.create_deal(people::deal(pupil, true), people::rows(8_700)).await?;
        tokio::time::sleep(BETWEEN_EDITS).await;
        for stage in Stage::ALL {
            let Some(left) = places.get_mut(&stage) else { continue };
            if !school.stage(stage)?.has_ended()? {
                continue;
            }
            school.until_dead(stage).await?;
            deaths += 1;
            println!("{stage:?} died after {:.0} s; left: {left:?}", started.elapsed().as_secs_f64());
            if stage == Stage::Pusher && left.len() == LEFT_AT_REST {
                rest(&mut school).await?;
            }
            match left.pop_front() {
                Some(next) => school.doom(stage, next).await?,
                None => {
                    places.remove(&stage);
                    school.start(stage)?;
                }
            }
        }
    }
    assert_eq!(deaths, PLACES.len());
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    let testimony = witness.tell().await?;
    judge::judge(&school, &Tally { testimony, mended, ..Tally::default() }).await
}

/// Contacts of a first sync, and as many deals.
const MANY: usize = 300;

/// Kills after which a first sync is let alone, however far it is: a busy machine starts stages slowly.
const MOST_KILLS: u64 = 25;

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_during_a_first_sync_lose_and_double_nothing() -> anyhow::Result<()> {
    let seed = seed(1)?;
    let mut kills = Vec::new();
    let played = kill_at_random(seed, &mut kills).await;
    let commit = e2e::commit();
    played.with_context(|| format!("commit {commit}; replay: ROLLCALL_SEED={seed}; killed so far: {kills:?}"))
}

/// Kills a stage every one to three seconds until everything has a status.
async fn kill_at_random(seed: u64, kills: &mut Vec<(Duration, Stage)>) -> anyhow::Result<()> {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    // Polls of a second would use all that the portal gives back, as each reads every status again that was just written.
    let builder = School::builder().polled_each("5s");
    let mut school = ordinary(builder.plain(MANY, MANY)).await?;
    school.shorten_ack_wait(SHORT_ACK_WAIT).await?;
    let witness = Witness::of(&school);
    Stage::ALL.into_iter().try_for_each(|stage| school.start(stage))?;
    let mut statuses = 0;
    while statuses < 2 * MANY as u64 && (kills.len() as u64) < MOST_KILLS {
        let pause = Duration::from_millis(dice.random_range(1_000..=3_000));
        let stage = Stage::ALL[dice.random_range(0..Stage::ALL.len())];
        // Not an event but the very thing that is played: it dies wherever it happens to be.
        tokio::time::sleep(pause).await;
        statuses = school.messages("B24_STATUS").await?;
        school.kill_and_start(stage).await?;
        kills.push((pause, stage));
    }
    println!("seed {seed}: {} kills, {statuses} statuses before the last", kills.len());
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    let testimony = witness.tell().await?;
    judge::judge(&school, &Tally { testimony, mended, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stage_may_be_killed_while_a_crm_works_for_it() -> anyhow::Result<()> {
    let mut school = School::builder().start().await?;
    school.shorten_ack_wait(SHORT_ACK_WAIT).await?;
    let slow = |method: &str| json!({"kind": "slow", "method": method, "seconds": 30, "count": 1});
    let struck = async |school: &School| {
        eventually("the other side at work", ALL_DEATHS, || async {
            let requests = school.bitrix24.requests().await?;
            Ok((requests["faults"]["slow"].as_u64() > Some(0)).then_some(()))
        })
        .await
    };

    // A poll was sent.
    school.bitrix24.fault(slow("crm.contact.list")).await?;
    let pupil = new_contact(&school).await?;
    struck(&school).await?;
    school.kill_and_start(Stage::Producer).await?;

    // A create was carried out, and nobody knows.
    let create =
        json!({"kind": "slow", "method": "POST", "path": "/api/clients/", "seconds": 30, "count": 1});
    school.otmechalka.fault(create).await?;
    let second = new_contact(&school).await?;
    eventually("the create", ALL_DEATHS, || async {
        let history = school.otmechalka.history().await?;
        let calls = history["history"].as_array().cloned().unwrap_or_default();
        Ok(calls.iter().any(|call| call["fault"] == "slow" && call["applied"] == true).then_some(()))
    })
    .await?;
    school.kill_and_start(Stage::Pusher).await?;

    // A batch of statuses was sent.
    school.bitrix24.reset_requests().await?;
    school.bitrix24.fault(slow("crm.contact.update")).await?;
    let third = new_contact(&school).await?;
    struck(&school).await?;
    school.kill_and_start(Stage::StatusWriter).await?;

    // Each is killed again before it has done anything.
    let fourth = new_contact(&school).await?;
    for stage in Stage::ALL {
        school.kill_and_start(stage).await?;
        school.kill_and_start(stage).await?;
    }

    let mended = Some(Mended::now(&school).await?);
    for pupil in [pupil, second, third, fourth] {
        super::until_success(&school, "contact", pupil).await?;
    }
    school.caught_up().await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}
