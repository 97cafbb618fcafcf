//! Three NATS servers that hold a copy of everything each: one may die, stand still, be slow or be cut off, or be away together
//! with another.

use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::Config;
use e2e::harness::witness::Witness;
use e2e::harness::{Mended, Tally, judge};
use e2e::{Link, PATIENCE, School, Stage, Weather, eventually, signal};
use futures::TryStreamExt;
use nix::sys::signal::Signal;
use runtime::local_nats::LocalNats;
use schemas::streams::{BUCKETS, RAW, RESULTS, STREAMS, consumers};
use serde_json::{Value, json};

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
    let arrived = eventually("the status of a new deal", PATIENCE, || async {
        Ok((status_of(school, "deal", deal).await? == "Успешно").then_some(()))
    });
    let arrived = arrived.await;
    arrived.with_context(|| format!("contact {pupil}, deal {deal}: {}", school.logs().unwrap_or_default()))
}

/// What an id that is known comes to where somebody else has published since: the other way round than with one copy.
async fn a_known_id_comes_before_the_predecessor(school: &School) -> anyhow::Result<()> {
    let jetstream = school.broker.jetstream();
    let name = "SCRATCH".to_owned();
    let config = Config { subjects: vec!["scratch".into()], name, num_replicas: 3, ..Config::default() };
    jetstream.create_stream(config).await?;
    let publish = async |id: &str, last: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, id);
        headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last);
        jetstream.publish_with_headers("scratch", headers, "".into()).await?.await
    };
    publish("a", "0").await?;
    publish("b", "1").await?;
    assert!(publish("a", "0").await?.duplicate);
    let refused = publish("c", "0").await.expect_err("another predecessor");
    assert_eq!(refused.kind(), PublishErrorKind::WrongLastSequence);
    jetstream.delete_stream("SCRATCH").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_servers_one_may_die_or_stand_still_and_two_may_be_away() -> anyhow::Result<()> {
    let mut school = School::builder().demo(60, 80, 3).guarded(&[]).cluster().start().await?;
    for stream in school.broker.jetstream().stream_names().try_collect::<Vec<_>>().await? {
        let info = school.broker.jetstream().get_stream(stream).await?.cached_info().clone();
        assert_eq!(info.config.num_replicas, 3, "{}", info.config.name);
    }

    a_known_id_comes_before_the_predecessor(&school).await?;

    let witness = Witness::of(&school);

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
    let mended = Some(Mended::now(&school).await?);
    eventually("its status", PATIENCE, || async {
        Ok((status_of(&school, "contact", pupil).await? == "Успешно").then_some(()))
    })
    .await?;

    school.caught_up().await?;
    for stage in Stage::ALL {
        assert!(!school.stage(stage)?.has_ended()?, "{stage:?}");
    }
    judge::judge(&school, &Tally { testimony: witness.tell().await?, mended, ..Tally::default() }).await
}

/// Number of the server that is cut off, to which every stage is connected and which leads everything.
const CUT_OFF: usize = 0;

/// Delay of everything that a slow follower and the others tell each other.
const SLOW: Weather = Weather::Slow(Duration::from_millis(500));

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_that_is_cut_off_alive_is_left_and_a_slow_follower_holds_up_nobody() -> anyhow::Result<()>
{
    let mut school = School::builder().brisk().networked().cluster().open().await?;
    let witness = Witness::of(&school);
    for other in 1..3 {
        school.weather(Link::Server(other), Weather::Cut)?;
    }
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    travels(&school).await?;
    school.clear_up();
    are_led(&school, "n1", |leader| leader == "n1").await?;

    // It goes on answering its clients, and believes for a while that it leads.
    school.weather_between_servers(CUT_OFF, Weather::Cut)?;
    let cut = Instant::now();
    let minority = async_nats::connect(school.nats.url()).await?;
    travels(&school).await?;
    println!("a deal's status {:.1} s after the cut", cut.elapsed().as_secs_f64());
    minority.flush().await?;
    let minority = async_nats::jetstream::new(minority);
    eventually("a minority that knows it", PATIENCE, || async {
        let raw = minority.get_stream(RAW.name).await.map(|raw| raw.cached_info().clone());
        let leader = raw.ok().and_then(|raw| raw.cluster).and_then(|cluster| cluster.leader);
        Ok(leader.is_none().then_some(()))
    })
    .await?;
    school.clear_up();
    travels(&school).await?;

    // Slow for itself and for whoever is connected to it; the other two are most.
    let ours = school.broker.client().server_info().server_name;
    let names: Vec<String> = school.servers().filter_map(|server| server.name().map(str::to_owned)).collect();
    let follower = names.iter().position(|name| *name != ours).context("a follower")?;
    // Not all by ours: it was the one cut off, and was once not let lead a bucket for three minutes.
    are_led(&school, &ours, |leader| leader != names[follower]).await?;
    school.weather_between_servers(follower, SLOW)?;
    travels(&school).await?;
    school.caught_up().await?;
    school.clear_up();
    let mended = Some(Mended::now(&school).await?);
    travels(&school).await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally { testimony: witness.tell().await?, mended, ..Tally::default() }).await
}

/// Has every stream and consumer led by a server that will do, best by this one.
async fn are_led(school: &School, server: &str, will_do: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let streams = STREAMS.iter().map(|stream| stream.name.to_owned());
    let streams = streams.chain(BUCKETS.iter().map(|bucket| format!("KV_{}", bucket.name)));
    let consumers = consumers().into_iter().map(|consumer| format!("{}.{}", consumer.stream, consumer.name));
    let led = streams.map(|stream| ("STREAM", stream));
    for (kind, name) in led.chain(consumers.map(|consumer| ("CONSUMER", consumer))) {
        let ask = async |verb: &str, payload: Value| -> anyhow::Result<Value> {
            let subject = format!("$JS.API.{kind}.{verb}.{name}");
            let answer = school.broker.client().request(subject, payload.to_string().into()).await?;
            Ok(serde_json::from_slice(&answer.payload)?)
        };
        eventually(&format!("{kind} {name} led by {server}"), PATIENCE, || async {
            let info = ask("INFO", json!({})).await.unwrap_or_default();
            if info["cluster"]["leader"].as_str().is_some_and(&will_do) {
                return Ok(Some(()));
            }
            // In vain while there is none.
            let _asked = ask("LEADER.STEPDOWN", json!({"placement": {"preferred": server}})).await;
            Ok(None)
        })
        .await?;
    }
    Ok(())
}

async fn statuses_written(school: &School) -> anyhow::Result<serde_json::Value> {
    Ok(school.bitrix24.requests().await?["updates"].clone())
}
