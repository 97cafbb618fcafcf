//! Once and in order, whatever is delivered how often and whoever dies when.

use schemas::streams::CLAIMS;
use schemas::{Mapping, Outcome, RecordRef, Version};
use serde_json::{Value, json};

use crate::bench::{Bench, assert_success, client, contact, deal, eventually, refused, ticket, version};

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
async fn a_client_whose_result_is_forgotten_is_not_forgotten_when_its_contact_is_refused() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let (pupil, stranger) = (contact(8), contact(9));
    bench.command(pupil, pupil, version(1), "", client("Иван")).await;
    let id = bench.settled(pupil, version(1)).await.target_id;
    bench.forget(pupil).await;
    bench.command(pupil, pupil, version(2), "Успешно", refused()).await;
    let again = bench.settled(pupil, version(2)).await;
    assert_eq!((again.outcome, &again.target_id), (Outcome::Refused, &id));
    // Otmechalka has none of it, or there is no sign that it could.
    bench.command(stranger, stranger, version(3), "Успешно", refused()).await;
    assert_eq!(bench.settled(stranger, version(3)).await.target_id, None);
    let calls = bench.history().await.len();
    bench.command(contact(10), contact(10), version(4), "", refused()).await;
    bench.settled(contact(10), version(4)).await;
    assert_eq!(bench.history().await.len(), calls);
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
    let looks = bench.history().await.iter().filter(|call| call["method"] == "GET").count();
    assert_eq!(looks, 2, "one before the kill, one after it");
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

/// Every create of clients and tickets is stored, and its answer is lost.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_creates_whose_answers_are_lost_make_no_second_one() {
    const PUPILS: u64 = 250;
    let mut bench = Bench::start().await;
    // Each waits for as long before its next try, and a lookup on a busy machine must not.
    bench.timeout = "2s";
    for path in ["/api/clients/", "/api/tickets/"] {
        let fault = |kind: &str, count: u64| json!({"kind": kind, "method": "POST", "path": path, "count": count, "seconds": 5, "apply": true});
        for (kind, count) in [
            ("no_answer", 16),
            ("reset_after_apply", 104),
            ("truncated", 50),
            ("empty_body", 40),
            ("bad_gateway_502", 40),
        ] {
            bench.fault(fault(kind, count)).await;
        }
    }
    let _pusher = bench.pusher_with("3000", &bench.state_dir());
    let pupils: Vec<RecordRef> = (1..=PUPILS).map(contact).collect();
    let deals: Vec<RecordRef> = (1..=PUPILS).map(|id| deal(1_000 + id)).collect();
    let settle = async |records: &[RecordRef]| {
        for record in records {
            let settled = bench.settled(*record, version(record.id.get())).await;
            assert!(settled.outcome.is_in_otmechalka(), "{record}: {settled:?}");
        }
    };
    for pupil in &pupils {
        bench.new_client(*pupil).await;
    }
    // Before its tickets ask for it.
    settle(&pupils).await;
    for (sold, pupil) in deals.iter().zip(&pupils) {
        bench.command(*sold, *pupil, version(sold.id.get()), "", ticket(*pupil)).await;
    }
    settle(&deals).await;
    assert_eq!(bench.faults_fired().await, 2 * PUPILS);
    let calls = bench.history().await;
    for (kind, record) in
        pupils.iter().map(|pupil| ("client", pupil)).chain(deals.iter().map(|sold| ("ticket", sold)))
    {
        let (id, all) = (json!(record.id.to_string()), json!(format!("/api/{kind}s/")));
        let own = json!(format!("/api/{kind}s/{}/", record.id));
        let count = |is_it: &dyn Fn(&Value) -> bool| calls.iter().filter(|call| is_it(call)).count();
        let creates = count(&|call| call["path"] == all && call["origin_id"] == id);
        let looks = count(&|call| call["method"] == "GET" && call["path"] == own);
        // One look before the create, one at what became of it.
        assert_eq!((creates, looks), (1, 2), "{record}");
    }
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

/// Each deal has two versions with different pupils, hence in different partitions, and both processes are at once
/// about to create its ticket.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_create_two_tickets_for_a_deal_that_changed_its_pupil() {
    let bench = Bench::start().await;
    let pupils: Vec<_> = (1..=16).map(contact).collect();
    let one = bench.pusher();
    for pupil in &pupils {
        bench.new_client(*pupil).await;
    }
    bench.idle().await;
    let other = bench.pusher_with(crate::bench::SPEED, &bench.state_dir().join("other"));
    // Slow enough for the lookup of each to come before the create of the other.
    bench.fault(json!({"kind": "slow", "seconds": 0.3})).await;
    for round in 0..8 {
        for id in 0..4 {
            let deal = deal(100 + round * 4 + id);
            let (first, second) = (pupils[(id * 4) as usize], pupils[(id * 4 + 1) as usize]);
            assert_ne!(first.partition(), second.partition());
            for (number, pupil) in [(1, first), (2, second)] {
                bench.command(deal, pupil, version(deal.id.get() * 10 + number), "", ticket(pupil)).await;
            }
        }
    }
    bench.idle().await;
    let history = bench.history().await;
    let mut created: Vec<&str> = history
        .iter()
        .filter(|call| {
            call["method"] == "POST" && call["path"] == "/api/tickets/" && call["applied"] == json!(true)
        })
        .filter_map(|call| call["origin_id"].as_str())
        .collect();
    created.sort_unstable();
    let all: Vec<String> = (100..132).map(|id| id.to_string()).collect();
    assert_eq!(created, all);
    for id in 100..132 {
        assert_eq!(bench.result(deal(id)).await.unwrap().0, version(id * 10 + 2));
    }
    assert!(one.stop().await.success());
    assert!(other.stop().await.success());
}

/// Another process may be between its lookup and its create.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_may_be_under_way_elsewhere_is_waited_for() {
    let bench = Bench::start().await;
    let pupil = contact(39913);
    let claims = bench.broker.bucket(&CLAIMS).await.unwrap();
    let _pusher = bench.pusher();
    // It is at work before the claim begins to age.
    bench.new_client(contact(1)).await;
    bench.settled(contact(1), version(1)).await;
    let before = bench.history().await.len();
    let other = json!({"attempt": "other"});
    claims.put(&pupil.to_string(), other.to_string().into()).await.unwrap();
    bench.new_client(pupil).await;
    eventually("the command to be put aside", async || bench.parked().await == 1).await;
    assert_eq!(bench.history().await.len(), before, "nothing is looked up beside somebody's create");

    // A process that died never gives its claim back. No create is under way any more after the longest call.
    assert_success(&bench.settled(pupil, version(39913)).await, Outcome::Created);
    // The outcome is stored first: a claim that is given back says that there is one.
    bench.idle().await;
    assert!(claims.get(&pupil.to_string()).await.unwrap().is_none(), "given back");
    assert_eq!(bench.applied("/api/clients/").await, 2);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_version_is_not_lost_behind_an_older_one_that_waits() {
    let bench = Bench::start().await;
    let pupil = contact(13);
    bench.fault(json!({"kind": "internal_500", "origin_id": "13", "count": 6})).await;
    let _pusher = bench.pusher();
    for raw_sequence in 1..=3 {
        let mapping = client(&format!("Имя {raw_sequence}"));
        bench.command(pupil, pupil, version(raw_sequence), "Успешно", mapping).await;
    }
    assert!(bench.settled(pupil, version(3)).await.outcome.is_in_otmechalka());
    bench.idle().await;
    let names = bench.written_names(pupil).await;
    assert!(names.is_sorted() && names.last().is_some_and(|name| name == "Имя 3"), "{names:?}");
    assert_eq!(bench.result(pupil).await.unwrap().0, version(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_whose_answer_was_lost_is_not_taken_for_undone() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let pupil = contact(14);
    bench.command(pupil, pupil, version(1), "", client("Иван")).await;
    bench.settled(pupil, version(1)).await;
    // The second version arrives there and its answer does not; then somebody changes the name back.
    bench.fault(json!({"kind": "truncated", "method": "POST", "count": 1})).await;
    bench.command(pupil, pupil, version(2), "Успешно", client("Пётр")).await;
    bench.command(pupil, pupil, version(3), "Успешно", client("Иван")).await;
    bench.settled(pupil, version(3)).await;
    bench.idle().await;
    assert_eq!(bench.written_names(pupil).await.last().unwrap(), "Иван");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_of_the_broker_loses_nothing_and_doubles_nothing() {
    let mut bench = Bench::start().await;
    let _pusher = bench.pusher();
    for id in 1..=60 {
        bench.new_client(contact(id)).await;
    }
    eventually("some results", async || bench.results().await >= 10).await;
    bench.server.kill().await.unwrap();
    bench.server.restart().await.unwrap();
    for id in 1..=60 {
        assert!(bench.settled(contact(id), version(id)).await.outcome.is_in_otmechalka());
    }
    assert_eq!(bench.applied("/api/clients/").await, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_reported_as_failing_is_not_remembered_as_it_was_before() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let pupil = contact(15);
    bench.command(pupil, pupil, version(1), "", client("Иван")).await;
    bench.settled(pupil, version(1)).await;
    // Every update arrives, no answer to it does.
    bench.fault(json!({"kind": "truncated", "method": "POST", "origin_id": "15"})).await;
    bench.command(pupil, pupil, version(2), "Успешно", client("Пётр")).await;
    // Others are taken meanwhile, so it is the record that is sick.
    eventually("the first failure", async || bench.faults_fired().await >= 2).await;
    bench.new_client(contact(20)).await;
    let failing = bench.settled(pupil, version(2)).await;
    assert_eq!(failing.problems[0].code, "otmechalka.keeps_failing");
    assert_eq!(failing.body_digest, None);
    bench.no_faults().await;
    bench.command(pupil, pupil, version(3), &failing.status, client("Иван")).await;
    assert_success(&bench.settled(pupil, version(3)).await, Outcome::Updated);
    assert_eq!(bench.written_names(pupil).await.last().unwrap(), "Иван");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_version_does_not_hide_that_an_earlier_one_may_have_arrived() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let pupil = contact(16);
    bench.command(pupil, pupil, version(1), "", client("Иван")).await;
    bench.settled(pupil, version(1)).await;
    bench.fault(json!({"kind": "truncated", "method": "POST", "count": 1})).await;
    bench.command(pupil, pupil, version(2), "Успешно", client("Пётр")).await;
    bench.command(pupil, pupil, version(3), "Успешно", refused()).await;
    bench.settled(pupil, version(3)).await;
    bench.command(pupil, pupil, version(4), "Успешно", client("Иван")).await;
    assert_success(&bench.settled(pupil, version(4)).await, Outcome::Updated);
    assert_eq!(bench.written_names(pupil).await.last().unwrap(), "Иван");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_read_is_written_behind() {
    let bench = Bench::start().await;
    let pupil = contact(19);
    let subject = schemas::subjects::result(pupil);
    let garbage = async_nats::jetstream::message::PublishMessage::build().payload("?".into());
    let published = bench.broker.jetstream().send_publish(subject, garbage).await.unwrap();
    let sequence = published.await.unwrap().sequence;
    let _pusher = bench.pusher();
    bench.command(pupil, pupil, version(1), "", client("Иван")).await;
    eventually("a result behind it", async || bench.results().await > sequence).await;
    assert_success(&bench.settled(pupil, version(1)).await, Outcome::Created);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_comes_back_to_an_old_cache_is_not_pushed_over_a_newer_one() {
    let bench = Bench::start().await;
    let pupil = contact(28);
    let one = bench.pusher();
    bench.command(pupil, pupil, version(1), "", client("Первый")).await;
    bench.settled(pupil, version(1)).await;
    bench.idle().await;
    assert!(one.stop().await.success());
    let other = bench.pusher_with(crate::bench::SPEED, &bench.state_dir().join("other"));
    bench.command(pupil, pupil, version(3), "Успешно", client("Третий")).await;
    bench.settled(pupil, version(3)).await;
    bench.idle().await;
    assert!(other.stop().await.success());

    let _one = bench.pusher();
    bench.command_tried(1, pupil, pupil, version(2), "Успешно", client("Второй")).await;
    bench.idle().await;
    assert_eq!(bench.written_names(pupil).await, ["Первый", "Третий"]);
}
