//! Once and in order, whatever is delivered how often and whoever dies when.

use schemas::{Mapping, Outcome, Version};
use serde_json::json;

use crate::bench::{Bench, assert_success, client, contact, eventually, refused, version};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_created_once_and_sent_again_only_when_it_changed() {
    let bench = Bench::start().await;
    let pusher = bench.pusher();
    let pupil = contact(39910);
    bench.command(pupil, pupil, version(1), "", client("Иван")).await;
    let created = bench.settled(pupil, version(1)).await;
    assert_success(&created, Outcome::Created);
    assert!(created.target_id.is_some() && created.body_digest.is_some());

    // The same version once more, as after a lost ack.
    bench.command(pupil, pupil, version(1), "", client("Иван")).await;
    bench.idle().await;
    assert_eq!(bench.history().await.len(), 2, "one lookup, one create");

    bench.command(pupil, pupil, version(2), "Успешно", client("Иван")).await;
    assert_success(&bench.settled(pupil, version(2)).await, Outcome::Unchanged);
    assert_eq!(bench.history().await.len(), 2);

    bench.command(pupil, pupil, version(3), "Успешно", client("Пётр")).await;
    assert_success(&bench.settled(pupil, version(3)).await, Outcome::Updated);
    assert_eq!(bench.history().await.len(), 3, "a client we know is not looked up");

    bench.command(pupil, pupil, version(4), "", client("Пётр")).await;
    assert_success(&bench.settled(pupil, version(4)).await, Outcome::Updated);
    assert_eq!(bench.written_names(pupil).await, ["Иван", "Пётр", "Пётр"]);
    assert_eq!(bench.applied("/api/clients/").await, 1);
    assert!(pusher.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_version_sends_nothing_and_a_lost_cache_changes_nothing() {
    let bench = Bench::start().await;
    let pusher = bench.pusher();
    let pupil = contact(7);
    bench.command(pupil, pupil, version(5), "", client("Новый")).await;
    bench.settled(pupil, version(5)).await;
    bench.command(pupil, pupil, version(3), "", client("Старый")).await;
    bench.idle().await;
    assert!(pusher.stop().await.success());

    std::fs::remove_dir_all(bench.state_dir()).unwrap();
    let pusher = bench.pusher();
    bench.command(pupil, pupil, version(4), "", client("Старый")).await;
    bench.command(pupil, pupil, version(5), "", client("Новый")).await;
    bench.idle().await;
    assert_eq!(bench.written_names(pupil).await, ["Новый"]);
    assert_eq!(bench.results().await, 1);
    assert!(pusher.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_call_is_settled_without_one_and_what_otmechalka_holds_is_not_forgotten() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let pupil = contact(8);
    bench.command(pupil, pupil, version(1), "", Mapping::OutOfScope).await;
    assert_success(&bench.settled(pupil, version(1)).await, Outcome::OutOfScope);
    bench.command(pupil, pupil, version(2), "Успешно", refused()).await;
    let problem = bench.settled(pupil, version(2)).await;
    assert_eq!(problem.outcome, Outcome::Refused);
    assert_eq!(problem.status, "Не заполнено поле «Телефон». Заполните его.");
    assert_eq!(bench.history().await.len(), 0);

    bench.command(pupil, pupil, version(3), "Успешно", client("Иван")).await;
    bench.command(pupil, pupil, version(4), "Успешно", refused()).await;
    bench.command(pupil, pupil, version(5), "Успешно", client("Иван")).await;
    assert_success(&bench.settled(pupil, version(5)).await, Outcome::Unchanged);
    assert_eq!(bench.history().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_create_and_result_causes_no_second_create() {
    let bench = Bench::start().await;
    bench.fault(json!({"kind": "slow", "method": "POST", "seconds": 2.0, "count": 1})).await;
    let pusher = bench.pusher();
    let pupil = contact(39912);
    bench.new_client(pupil).await;
    eventually("the create to be applied", async || bench.applied("/api/clients/").await == 1).await;
    pusher.kill().await;
    assert_eq!(bench.results().await, 0);

    let _pusher = bench.pusher();
    assert_success(&bench.settled(pupil, version(39912)).await, Outcome::Updated);
    assert_eq!(bench.applied("/api/clients/").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_after_the_create_causes_no_second_create() {
    let bench = Bench::start().await;
    for kind in ["reset_after_apply", "truncated", "empty_body"] {
        bench.fault(json!({"kind": kind, "method": "POST", "path": "/api/clients/", "count": 1})).await;
    }
    let _pusher = bench.pusher();
    for id in 1..=5 {
        bench.new_client(contact(id)).await;
    }
    for id in 1..=5 {
        assert!(bench.settled(contact(id), version(id)).await.outcome.is_in_otmechalka());
    }
    assert_eq!(bench.applied("/api/clients/").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_deleted_in_otmechalka_is_created_again_once() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let pupil = contact(11);
    bench.command(pupil, pupil, version(1), "", client("Иван")).await;
    bench.settled(pupil, version(1)).await;
    bench.delete_client(pupil).await;
    bench.command(pupil, pupil, version(2), "Успешно", client("Пётр")).await;
    assert_success(&bench.settled(pupil, version(2)).await, Outcome::Created);
    assert_eq!(bench.applied("/api/clients/").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_the_work_and_keep_the_order() {
    let bench = Bench::start().await;
    let one = bench.pusher();
    let other = bench.pusher_with(crate::bench::SPEED, &bench.state_dir().join("other"));
    for round in 1..=6 {
        for id in 1..=12 {
            let pupil = contact(id);
            let raw_sequence = round * 100 + id;
            bench
                .command(pupil, pupil, version(raw_sequence), "Успешно", client(&format!("Имя {round}")))
                .await;
        }
    }
    bench.idle().await;
    let expected: Vec<String> = (1..=6).map(|round| format!("Имя {round}")).collect();
    for id in 1..=12 {
        assert_eq!(bench.written_names(contact(id)).await, expected, "contact {id}");
    }
    assert_eq!(bench.results().await, 72);
    assert!(one.stop().await.success());
    assert!(other.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_pushed_for_real() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let pupil = contact(12);
    bench.command(pupil, pupil, version(1), "Успешно", client("Иван")).await;
    bench.settled(pupil, version(1)).await;
    let again = Version { raw_sequence: 1, redrive: 1 };
    bench.command(pupil, pupil, again, "Успешно", client("Иван")).await;
    assert_success(&bench.settled(pupil, again).await, Outcome::Updated);
}
