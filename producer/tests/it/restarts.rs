//! Producers that are killed, and caches that are lost.

use std::path::Path;

use chrono::{DateTime, FixedOffset};
use schemas::streams::{CHECKPOINTS, RAW};
use schemas::{Checkpoint, Entity, Poll, Window, subjects};
use serde_json::json;

use crate::bench::{Bench, STATUS, contact, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_during_a_first_sync_it_publishes_every_record_once() {
    let mut bench = Bench::plain(300, 300).await;
    for kill in 0..8 {
        let before = bench.messages().await;
        bench.start_producer();
        eventually("some progress", || async {
            bench.messages().await > before + 10 * kill || bench.messages().await == 600
        })
        .await;
        bench.kill_producer().await;
    }
    bench.start_producer();
    bench.settles_at(600).await;
    assert!(bench.counts().await.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_resumed_where_it_was_left() {
    let mut bench = Bench::plain(0, 0).await;
    bench.start_producer();
    bench.polls_more(1).await;
    bench.stop_producer().await;
    let records: Vec<_> =
        (0..400).map(|n| json!({"fields": {"NAME": format!("Имя{n}"), "LAST_NAME": "Общая"}})).collect();
    bench.admin("contacts", json!(records)).await;
    // The first page and four more pass, then the portal goes away.
    bench.admin("faults", json!({"kind": "html_502", "method": "crm.contact.list", "skip": 2})).await;
    bench.start_producer();
    eventually("an open window", || async {
        bench.checkpoint(Entity::Contact).await.is_some_and(|checkpoint| checkpoint.window.is_some())
            && bench.requests().await["faults"].as_object().is_some_and(|faults| !faults.is_empty())
    })
    .await;
    bench.kill_producer().await;
    let window = bench.checkpoint(Entity::Contact).await.unwrap().window.unwrap();
    let published = bench.messages().await;
    assert!(bench.newest(contact(window.cursor)).await.is_some());
    assert!((50..400).contains(&published), "{published}");

    bench.end_faults().await;
    bench.start_producer();
    bench.settles_at(400).await;
    assert!(bench.counts().await.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn deals_wait_for_the_first_contacts_also_where_another_producer_began_to_read_these() {
    let mut bench = Bench::plain(20, 600).await;
    // Less than a year before all that the portal starts with.
    bench.first_watermark = "2025-12-01";
    // That one died after the first of several requests.
    let first = "2025-12-01T00:00:00+03:00".parse().unwrap();
    let window = Window { from: first, until: "2100-01-01T00:00:00+03:00".parse().unwrap(), cursor: 0 };
    let checkpoint =
        Checkpoint { watermark: first, window: Some(window), polls: 0, again_from: None, poll: None };
    let contacts = bench.broker.bucket(&CHECKPOINTS).await.unwrap();
    contacts.put(Entity::Contact.token(), serde_json::to_vec(&checkpoint).unwrap().into()).await.unwrap();
    bench.admin("faults", json!({"kind": "html_502", "method": "crm.contact.list", "count": 1})).await;
    bench.start_producer();
    bench.settles_at(620).await;
    let entities: Vec<Entity> = bench.events().await.iter().map(|(event, _)| event.record.entity).collect();
    assert!(entities.is_sorted(), "clients come before their tickets");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_erased_again_and_again_stops_nobody() {
    let mut bench = Bench::plain(2, 0).await;
    bench.start_producer();
    bench.settles_at(2).await;
    let ids = bench.ids().await;
    let raw = bench.broker.jetstream().get_stream(RAW.name).await.unwrap();
    // It is read with every poll, and published whenever neither the stream nor the cache has anything of it.
    for _ in 0..7 {
        bench.edit_contact(ids[0], json!({"COMMENTS": "ещё раз"})).await;
        bench.stop_producer().await;
        raw.purge().filter(subjects::raw(contact(ids[0]))).await.unwrap();
        std::fs::remove_dir_all(bench.state_dir()).unwrap();
        bench.start_producer();
        eventually("an event", || async { bench.newest(contact(ids[0])).await.is_some() }).await;
    }
    bench.edit_contact(ids[1], json!({"NAME": "Вера"})).await;
    bench.shows_name(ids[1], "Вера").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_cache_costs_nothing_but_lookups() {
    let mut bench = Bench::plain(60, 60).await;
    bench.start_producer();
    bench.settles_at(120).await;
    bench.stop_producer().await;
    std::fs::remove_dir_all(bench.state_dir()).unwrap();
    // Everything is read again.
    let bucket = bench.broker.bucket(&schemas::streams::CHECKPOINTS).await.unwrap();
    for entity in Entity::ALL {
        bucket.delete(entity.token()).await.unwrap();
    }
    bench.start_producer();
    eventually("the second first sync", || async { bench.polls(Entity::Deal).await >= 1 }).await;
    bench.settles_at(120).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_from_before_the_last_edit_hides_no_way_back() {
    let mut bench = Bench::plain(0, 0).await;
    let id = bench.create_contact("Анна").await;
    bench.start_producer();
    bench.shows_name(id, "Анна").await;
    bench.stop_producer().await;
    let old = bench.folder.path().join("old");
    copy(&bench.state_dir(), &old);
    bench.start_producer();
    bench.edit_contact(id, json!({"NAME": "Вера"})).await;
    bench.shows_name(id, "Вера").await;
    bench.stop_producer().await;
    std::fs::remove_dir_all(bench.state_dir()).unwrap();
    std::fs::rename(&old, bench.state_dir()).unwrap();
    bench.edit_contact(id, json!({"NAME": "Анна", STATUS: "Успешно"})).await;
    bench.start_producer();
    bench.shows_name(id, "Анна").await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_of_another_stream_skips_nothing() {
    let mut bench = Bench::plain(20, 0).await;
    bench.start_producer();
    bench.settles_at(20).await;
    bench.stop_producer().await;
    // The stream is made anew: what the cache knows is not in it.
    bench.broker.jetstream().delete_stream(schemas::streams::RAW.name).await.unwrap();
    runtime::bootstrap::apply(&bench.broker, 1, runtime::bootstrap::Mode::Make).await.unwrap();
    let bucket = bench.broker.bucket(&schemas::streams::CHECKPOINTS).await.unwrap();
    bucket.delete(Entity::Contact.token()).await.unwrap();
    bench.start_producer();
    bench.settles_at(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_of_the_stream_may_die_and_come_back() {
    let mut bench = Bench::plain(200, 200).await;
    bench.start_producer();
    eventually("some progress", || async { bench.messages().await > 20 }).await;
    bench.nats.kill().await.unwrap();
    bench.nats.restart().await.unwrap();
    bench.settles_at(400).await;
    assert!(bench.counts().await.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_between_two_producers_hides_no_edit_from_the_walk_of_both() {
    let mut bench = Bench::plain(60, 0).await;
    let ids = bench.ids().await;
    let clock = bench.admin_get("clock").await;
    let now: DateTime<FixedOffset> = clock["now"].as_str().unwrap().parse().unwrap();
    // What the first one leaves behind in the middle of its first sync.
    let from = "2015-01-01T00:00:00+03:00".parse().unwrap();
    let checkpoint = Checkpoint {
        watermark: from,
        window: Some(Window { from, until: now, cursor: ids[29] }),
        polls: 0,
        again_from: None,
        poll: Some(Poll { observed: now, interval_seconds: 60, read_until: None }),
    };
    let contacts = bench.broker.bucket(&CHECKPOINTS).await.unwrap();
    contacts.put(Entity::Contact.token(), serde_json::to_vec(&checkpoint).unwrap().into()).await.unwrap();
    bench.admin("clock", json!({"advance_seconds": -3_600.0})).await;
    bench.edit_contact(ids[3], json!({"NAME": "Вера"})).await;
    bench.admin("clock", json!({"advance_seconds": 600.0})).await;
    bench.start_producer();
    bench.shows_name(ids[3], "Вера").await;
}
