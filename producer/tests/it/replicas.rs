//! Several producers: one at work, the others standing by, and what one does that slept through its end.

use runtime::lease::Lease;
use schemas::Entity;
use serde_json::json;

use crate::bench::{Bench, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_makes_no_request_and_takes_over_without_the_dead_ones_disk() {
    let mut bench = Bench::plain(40, 40).await;
    bench.start_producer();
    bench.settles_at(80).await;
    let leader = Lease::look(&bench.broker, "producer").await.unwrap().unwrap();
    let (standby, stop_standby) = bench.replica("another-host");
    let renewals = || async {
        let bucket = bench.broker.bucket(&schemas::streams::LEASES).await.unwrap();
        bucket.get("producer").await.unwrap().unwrap().1
    };
    let first = renewals().await;
    eventually("some renewals beside the standby", || async { renewals().await >= first + 3 }).await;
    let now = Lease::look(&bench.broker, "producer").await.unwrap().unwrap();
    assert_eq!(now, leader, "it is still the same one that is at work");

    bench.kill_producer().await;
    let id = bench.create_contact("Анна").await;
    bench.shows_name(id, "Анна").await;
    let successor = Lease::look(&bench.broker, "producer").await.unwrap().unwrap();
    assert_ne!(successor.instance, leader.instance);
    bench.settles_at(81).await;
    assert!(bench.counts().await.values().all(|count| *count == 1));
    stop_standby.cancel();
    standby.await.unwrap().unwrap();
    assert_eq!(Lease::look(&bench.broker, "producer").await.unwrap(), None, "given up when told to stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_another_producer_published_is_not_published_behind_it() {
    let mut bench = Bench::plain(0, 0).await;
    let id = bench.create_contact("Анна").await;
    bench.start_producer();
    bench.shows_name(id, "Анна").await;
    bench.stop_producer().await;
    bench.edit_contact(id, json!({"NAME": "Вера"})).await;
    bench
        .admin("faults", json!({"kind": "slow", "method": "crm.contact.list", "seconds": 60, "count": 1}))
        .await;
    bench.start_producer();
    eventually("a late answer on its way", || async {
        bench.requests().await["faults"].as_object().is_some_and(|faults| !faults.is_empty())
    })
    .await;
    // Meanwhile another one is at work, which reads the next edit and publishes it.
    bench.edit_contact(id, json!({"NAME": "Инна"})).await;
    let modified = bench.checkpoint(Entity::Contact).await.unwrap().watermark;
    bench.publish_as_another(id, "Инна", modified).await;
    bench.polls_more(3).await;
    // Its digest was another one's idea, so that version is published once more; the one between is not.
    assert_eq!(bench.names(id).await, ["Анна", "Инна", "Инна"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_producer_publishes_that_slept_is_read_again() {
    let mut bench = Bench::plain(0, 0).await;
    let id = bench.create_contact("Анна").await;
    bench.start_producer();
    bench.shows_name(id, "Анна").await;
    bench.polls_more(1).await;
    // Read by a producer that falls asleep then; and when the other one polls, it is as it was. With a status, so that
    // the touch alone does not let it travel.
    let read = bench.checkpoint(Entity::Contact).await.unwrap().watermark;
    bench.edit_contact(id, json!({"NAME": "Анна", "UF_CRM_SYNC_STATUS": "Успешно"})).await;
    eventually("polls that no longer reach back so far", || async {
        let watermark = bench.checkpoint(Entity::Contact).await.unwrap().watermark;
        watermark > read + chrono::Duration::seconds(300)
    })
    .await;
    bench.publish_as_another(id, "Вера", read).await;
    bench.shows_name(id, "Анна").await;
    bench.polls_more(2).await;
    assert_eq!(bench.names(id).await, ["Анна", "Вера", "Анна"]);
    assert_eq!(bench.messages().await, 3);

    // So it is where the one that saw it ends before it could read again, and the next one is on another host.
    bench.admin("faults", json!({"kind": "html_502", "method": "crm.*.list"})).await;
    bench.publish_as_another(id, "Инна", read).await;
    eventually("a checkpoint that reaches back", || async {
        bench.checkpoint(Entity::Contact).await.unwrap().again_from == Some(read)
    })
    .await;
    bench.kill_producer().await;
    bench.end_faults().await;
    bench.replica("another-host");
    bench.shows_name(id, "Анна").await;
    assert_eq!(bench.names(id).await, ["Анна", "Вера", "Анна", "Инна", "Анна"]);
}
