//! A sick otmechalka marks nobody; a sick record blocks nobody.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta};
use nix::sys::signal::Signal;
use schemas::streams::{COMMANDS, DEAD_LETTERS, RESULTS};
use schemas::{Answered, Outcome, subjects};
use serde_json::{Value, json};

use crate::bench::{Bench, SPEED, assert_success, client, contact, eventually, neighbours, version};

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_record_blocks_nobody_and_is_reported_as_its_own_error() {
    let bench = Bench::start().await;
    let pupils = neighbours(4);
    let sick = pupils[0];
    bench.fault(json!({"kind": "internal_500", "origin_id": sick.id.to_string()})).await;
    let pusher = bench.pusher();
    for pupil in &pupils {
        bench.new_client(*pupil).await;
    }
    for pupil in &pupils[1..] {
        assert_success(&bench.settled(*pupil, version(pupil.id.get())).await, Outcome::Created);
    }
    let reported = bench.settled(sick, version(sick.id.get())).await;
    assert_eq!(reported.outcome, Outcome::Refused);
    assert_eq!(reported.problems[0].code, "otmechalka.keeps_failing");
    // The next tries may end with another code, and the same trouble has to give the same text.
    assert!(!reported.status.contains("500"), "{}", reported.status);
    let tried_again = bench.last(&COMMANDS, &subjects::command(sick.id, sick)).await.unwrap();
    let outcome = bench.last(&RESULTS, &subjects::result(sick)).await.unwrap();
    for message in [tried_again, outcome] {
        let answered = message.header(Answered::HEADER).and_then(Answered::parse).unwrap();
        assert_eq!((answered.kind.as_str(), answered.status), ("unavailable", Some(500)), "{answered}");
    }
    let tries = bench.faults_fired().await;
    assert!(tries >= 9, "{tries} tries: none is counted before another record was taken");

    bench.no_faults().await;
    bench.command(sick, sick, version(900), "", client("Иван")).await;
    assert_success(&bench.settled(sick, version(900)).await, Outcome::Created);
    assert!(pusher.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_record_in_an_outage_of_the_writes_is_never_reported() {
    let bench = Bench::start().await;
    bench.fault(json!({"kind": "internal_500", "method": "POST"})).await;
    let _pusher = bench.pusher();
    bench.new_client(contact(1)).await;
    bench.new_client(contact(2)).await;
    eventually("many tries", async || bench.faults_fired().await >= 30).await;
    assert_eq!(bench.results().await, 0);
    bench.no_faults().await;
    for id in 1..=2 {
        assert_success(&bench.settled(contact(id), version(id)).await, Outcome::Created);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_touches_nobody_and_ends_by_itself() {
    let bench = Bench::start().await;
    bench.fault(json!({"kind": "down_503"})).await;
    let _pusher = bench.pusher();
    for id in 1..=20 {
        bench.new_client(contact(id)).await;
    }
    eventually("several tries", async || bench.faults_fired().await >= 30).await;
    assert_eq!((bench.results().await, bench.parked().await), (0, 0));
    bench.no_faults().await;
    for id in 1..=20 {
        assert_success(&bench.settled(contact(id), version(id)).await, Outcome::Created);
    }
    assert_eq!(bench.applied("/api/clients/").await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_fail_for_everybody_are_an_outage_although_lookups_work() {
    let bench = Bench::start().await;
    bench.fault(json!({"kind": "internal_500", "method": "POST"})).await;
    let _pusher = bench.pusher();
    for id in 1..=12 {
        bench.new_client(contact(id)).await;
    }
    eventually("many tries", async || bench.faults_fired().await >= 40).await;
    assert_eq!(bench.results().await, 0);
    bench.no_faults().await;
    for id in 1..=12 {
        assert_success(&bench.settled(contact(id), version(id)).await, Outcome::Created);
    }
    assert_eq!(bench.applied("/api/clients/").await, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_stops_the_pushing_and_marks_nobody() {
    let bench = Bench::start().await;
    bench.fault(json!({"kind": "unauthorized_401"})).await;
    // Slower, so that the calls of a pause can be counted: one try in a second and a half.
    let pusher = bench.pusher_with("40", &bench.state_dir());
    for id in 1..=30 {
        bench.new_client(contact(id)).await;
    }
    eventually("the refusal and two more tries", async || bench.faults_fired().await >= 18).await;
    // At most one call of each of the sixteen workers was under way when it began.
    let calls = bench.history().await.len();
    assert!(calls <= 20, "{calls} calls");
    assert_eq!((bench.results().await, bench.parked().await), (0, 0));
    bench.no_faults().await;
    for id in 1..=30 {
        assert_success(&bench.settled(contact(id), version(id)).await, Outcome::Created);
    }
    assert!(pusher.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_alone_is_forbidden_holds_nobody_for_long() {
    let bench = Bench::start().await;
    let pupils = neighbours(6);
    let sick = pupils[0];
    bench.fault(json!({"kind": "forbidden_403", "origin_id": sick.id.to_string()})).await;
    let _pusher = bench.pusher();
    for pupil in &pupils {
        bench.new_client(*pupil).await;
    }
    for pupil in &pupils[1..] {
        assert_success(&bench.settled(*pupil, version(pupil.id.get())).await, Outcome::Created);
    }
    // Each write of another that works shows that it is the record's own trouble, and is no try of the token.
    let tries = bench.faults_fired().await;
    for number in 1.. {
        if bench.result(sick).await.is_some() {
            break;
        }
        let pupil = pupils[1];
        bench.command(pupil, pupil, version(1_000 + number), "", client(&format!("Иван{number}"))).await;
        assert_success(&bench.settled(pupil, version(1_000 + number)).await, Outcome::Updated);
    }
    let reported = bench.settled(sick, version(sick.id.get())).await;
    assert_eq!(reported.problems[0].code, "otmechalka.keeps_failing");
    assert!(bench.faults_fired().await > tries);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pushers_together_try_a_refused_token_once_a_minute() {
    let bench = Bench::start().await;
    bench.fault(json!({"kind": "unauthorized_401"})).await;
    // A minute takes a second and a half.
    let pause = Duration::from_millis(1_500);
    let pushers: Vec<_> =
        (0..4).map(|number| bench.pusher_with("40", &bench.state_dir().join(number.to_string()))).collect();
    for id in 1..=30 {
        bench.new_client(contact(id)).await;
    }
    // Sixteen were under way when it began, and some more may have been begun before all knew.
    eventually("the refusal and two tries", async || bench.faults_fired().await >= 18).await;
    let (before, begun) = (bench.faults_fired().await, Instant::now());
    eventually("four more tries", async || bench.faults_fired().await >= before + 4).await;
    let took = begun.elapsed();
    // A try is seen a little later than it was taken; by themselves they would have made all four in one pause.
    assert!(took > pause * 5 / 2, "four tries of four pushers within {took:?}");
    assert_eq!((bench.results().await, bench.parked().await), (0, 0));
    bench.no_faults().await;
    let healed = Instant::now();
    for id in 1..=30 {
        assert_success(&bench.settled(contact(id), version(id)).await, Outcome::Created);
    }
    // The one whose try it is tells the others.
    let took = healed.elapsed();
    assert!(took < pause * 6, "all went on after {took:?}");
    drop(pushers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_is_waited_out_and_not_counted() {
    let bench = Bench::start().await;
    bench.fault(json!({"kind": "too_many_429", "retry_after": 60, "count": 25})).await;
    let _pusher = bench.pusher();
    bench.new_client(contact(1)).await;
    assert_success(&bench.settled(contact(1), version(1)).await, Outcome::Created);
    assert_eq!(bench.faults_fired().await, 25);
    assert_eq!(bench.parked().await, 0);
    let calls = bench.history().await;
    let time = |call: &Value| DateTime::parse_from_rfc3339(call["time"].as_str().unwrap()).unwrap();
    // As long as a minute is for this pusher.
    let pause = TimeDelta::milliseconds(60_000 / SPEED.parse::<i64>().unwrap());
    for pair in calls.windows(2).filter(|pair| pair[0]["fault"] == "too_many_429") {
        let waited = time(&pair[1]) - time(&pair[0]);
        assert!(waited >= pause, "{waited} where {pause} was asked for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_that_is_refused_is_made_again_and_marks_nobody() {
    let bench = Bench::start().await;
    bench.fault(json!({"kind": "error_200", "method": "GET", "path": "/api/clients/1/", "count": 2})).await;
    let _pusher = bench.pusher();
    bench.new_client(contact(1)).await;
    assert_success(&bench.settled(contact(1), version(1)).await, Outcome::Created);
    assert_eq!(bench.faults_fired().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_goes_to_that_record_and_the_others_go_on() {
    let bench = Bench::start().await;
    let pupils = neighbours(2);
    let error = json!({"phone": ["Номер уже занят."]});
    let fault = json!({"kind": "validation_400", "origin_id": pupils[0].id.to_string(), "method": "POST", "body": error});
    bench.fault(fault).await;
    let _pusher = bench.pusher();
    for pupil in &pupils {
        bench.new_client(*pupil).await;
    }
    let refused = bench.settled(pupils[0], version(pupils[0].id.get())).await;
    assert_eq!(refused.outcome, Outcome::Refused);
    assert!(refused.status.contains("«телефон: Номер уже занят»"), "{}", refused.status);
    assert_success(&bench.settled(pupils[1], version(pupils[1].id.get())).await, Outcome::Created);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_at_once_while_it_holds_messages_and_a_successor_goes_on() {
    let bench = Bench::start().await;
    bench.fault(json!({"kind": "down_503"})).await;
    let pusher = bench.pusher_with("1", &bench.state_dir());
    for id in 1..=20 {
        bench.new_client(contact(id)).await;
    }
    eventually("a failed call", async || bench.faults_fired().await >= 2).await;
    assert!(pusher.stop().await.success());
    bench.no_faults().await;
    let _pusher = bench.pusher_with(SPEED, &bench.state_dir());
    for id in 1..=20 {
        assert_success(&bench.settled(contact(id), version(id)).await, Outcome::Created);
    }
    let letters = bench.broker.jetstream().get_stream(DEAD_LETTERS.name).await.unwrap();
    assert_eq!(letters.cached_info().state.messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_frozen_in_the_middle_of_an_update_does_not_undo_a_newer_one() {
    for mut bench in [Bench::start().await, Bench::on_three_servers().await] {
        // Its call is answered and does not end meanwhile: then it would know that something is amiss.
        bench.timeout = "60s";
        let pupil = contact(21);
        let frozen = bench.pusher();
        bench.command(pupil, pupil, version(1), "", client("Первый")).await;
        bench.settled(pupil, version(1)).await;
        bench.fault(json!({"kind": "slow", "method": "POST", "seconds": 1.0, "count": 1})).await;
        let before = bench.history().await.len();
        bench.command(pupil, pupil, version(2), "Успешно", client("Второй")).await;
        eventually("the update to be under way", async || bench.history().await.len() > before).await;
        frozen.signal(Signal::SIGSTOP);
        let _successor = bench.pusher_with(SPEED, &bench.state_dir().join("successor"));
        bench.command(pupil, pupil, version(3), "Успешно", client("Третий")).await;
        assert_success(&bench.settled(pupil, version(3)).await, Outcome::Updated);
        frozen.signal(Signal::SIGCONT);
        // It cannot know which of both calls arrived last, so it has the newest version sent once more.
        eventually("the newest version once more", async || {
            let names = bench.written_names(pupil).await;
            names.ends_with(&["Третий".to_owned(), "Третий".to_owned()])
        })
        .await;
        bench.idle().await;
        assert!(frozen.stop().await.success());
    }
}
