//! The producer between a portal's double and a real nats-server.

mod bench;
mod faults;
mod replicas;
mod restarts;

use futures::StreamExt;
use schemas::Entity;
use serde_json::{Value, json};
use simulators::bitrix24::{Options, StartingData};

use crate::bench::{Bench, STATUS, contact, deal, eventually, field};

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_publishes_every_record_once_and_clients_before_their_tickets() {
    let mut bench = Bench::plain(230, 310).await;
    bench.start_producer();
    bench.settles_at(540).await;
    let counts = bench.counts().await;
    assert!(counts.len() == 540 && counts.values().all(|count| *count == 1));
    let events = bench.events().await;
    let order: Vec<Entity> = events.iter().map(|(envelope, _)| envelope.record.entity).collect();
    assert!(order.is_sorted());
    for (envelope, changed) in &events[230..] {
        let rows: Vec<Value> = serde_json::from_str(changed.product_rows.as_ref().unwrap().get()).unwrap();
        assert_eq!(
            (rows.len(), rows[0]["OWNER_ID"].to_string().contains(&envelope.record.id.to_string())),
            (1, true)
        );
        assert!(changed.seller.is_some() && envelope.pupil.is_some() && changed.status.is_some());
    }
    bench.stop_producer().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_takes_few_requests_and_a_quiet_poll_of_both_takes_one() {
    let mut bench = Bench::plain(600, 1_100).await;
    bench.start_producer_polling_every("1h");
    eventually("the first sync", || async { bench.polls(Entity::Deal).await >= 1 }).await;
    bench.stop_producer().await;
    let requests = bench.requests().await;
    // Contacts: 1. Deals: 500 and how their rows are had, the rows, the sellers; the other 600 and their rows.
    assert_eq!(requests["requests"], json!(7), "{requests}");

    bench.start_producer();
    eventually("everything out of the overlap", || async {
        let before = bench.requests().await["commands"]["crm.item.productrow.list"].clone();
        bench.polls_more(2).await;
        before == bench.requests().await["commands"]["crm.item.productrow.list"]
    })
    .await;
    bench.admin("requests/reset", json!({})).await;
    let polls = bench.polls(Entity::Contact).await;
    bench.polls_more(4).await;
    let requests = bench.requests().await["requests"].as_u64().unwrap();
    let polls = bench.polls(Entity::Contact).await - polls;
    assert!(requests <= polls + 1, "{requests} requests, {polls} polls");
    assert_eq!(bench.messages().await, 1_700);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_status_is_no_news_and_a_cleared_one_is() {
    let mut bench = Bench::plain(3, 3).await;
    bench.start_producer();
    bench.settles_at(6).await;
    let ids: Vec<u64> = bench.counts().await.keys().map(|record| record.id.get()).collect();
    let (contact_id, deal_id) = (ids[0], ids[3]);
    bench.write_status("crm.contact.update", contact_id, "Успешно").await;
    bench.write_status("crm.deal.update", deal_id, "Успешно").await;
    bench.settles_at(6).await;

    bench.edit_contact(contact_id, json!({STATUS: ""})).await;
    bench.settles_at(7).await;
    assert_eq!(bench.newest(contact(contact_id)).await.unwrap().1.status.as_deref(), Some(""));
    bench.admin(&format!("deals/{deal_id}"), json!({"fields": {STATUS: null}})).await;
    bench.settles_at(8).await;
    assert_eq!(bench.newest(deal(deal_id)).await.unwrap().1.status.as_deref(), Some(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_edit_travels_even_back_to_what_it_was() {
    let mut bench = Bench::plain(0, 0).await;
    let id = bench.create_contact("Анна").await;
    bench.start_producer();
    for (count, name) in ["Анна", "Вера", "Анна", "Вера"].into_iter().enumerate() {
        bench.edit_contact(id, json!({"NAME": name, STATUS: "Успешно"})).await;
        bench.shows_name(id, name).await;
        assert!(bench.messages().await > count as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_edits_during_a_walk_are_not_lost() {
    const RECORDS: usize = 3_000;
    let mut bench = Bench::plain(RECORDS, 0).await;
    let ids = bench.ids().await;
    // A request of fifty pages takes almost as long as a portal allows.
    bench.admin("settings", json!({"costs": {"seconds": {"crm.contact.list": 1.0}}})).await;
    bench.start_producer();
    let bench = &bench;
    let place = |round: usize| ids[round * 641 % RECORDS];
    let edit = async |round: usize| {
        bench.edit_contact(place(round), json!({"NAME": format!("Имя{round}")})).await;
    };
    eventually("the first page", || async { bench.messages().await > 0 }).await;
    futures::stream::iter(0..1_000).for_each_concurrent(8, edit).await;
    assert_eq!(bench.polls(Entity::Contact).await, 0, "the walk was over before the last edit");
    for round in 0..1_000 {
        bench.shows_name(place(round), &format!("Имя{round}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_edit_in_a_second_that_was_read_travels_a_hundred_times_of_a_hundred() {
    let mut bench = Bench::plain(100, 0).await;
    let ids = bench.ids().await;
    bench.start_producer();
    bench.settles_at(100).await;
    for some in ids.chunks(20) {
        for id in some {
            bench.edit_contact(*id, json!({"NAME": "Вера"})).await;
        }
        for id in some {
            bench.shows_name(*id, "Вера").await;
            let shown = bench.admin_get(&format!("state?entity=contact&id={id}")).await;
            let same = json!({"fields": {"NAME": "Инна"}, "date_modify": shown["DATE_MODIFY"]});
            bench.admin(&format!("contacts/{id}"), same).await;
        }
    }
    for id in ids {
        bench.shows_name(id, "Инна").await;
        assert_eq!(bench.names(id).await.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_records_of_one_second_all_travel() {
    let mut bench = Bench::plain(0, 0).await;
    bench.start_producer();
    bench.polls_more(1).await;
    let records: Vec<Value> =
        (0..500).map(|n| json!({"fields": {"NAME": format!("Имя{n}"), "LAST_NAME": "Общая"}})).collect();
    bench.admin("contacts", Value::Array(records)).await;
    bench.settles_at(500).await;
    assert!(bench.counts().await.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_becomes_readable_late_travels() {
    let mut bench = Bench::plain(0, 0).await;
    let id = bench.create_contact("Анна").await;
    bench.start_producer();
    bench.shows_name(id, "Анна").await;
    bench.admin("settings", json!({"list_delay_seconds": 45})).await;
    bench.edit_contact(id, json!({"NAME": "Вера"})).await;
    bench.shows_name(id, "Вера").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_whose_clock_is_set_back_an_hour_loses_nothing() {
    let mut bench = Bench::plain(0, 0).await;
    let id = bench.create_contact("Анна").await;
    bench.start_producer();
    bench.shows_name(id, "Анна").await;
    // A checkpoint is stored after what it speaks of.
    bench.polls_more(1).await;
    let before = bench.checkpoint(Entity::Contact).await.unwrap().watermark;
    bench.admin("clock", json!({"advance_seconds": -3600})).await;
    bench.edit_contact(id, json!({"NAME": "Вера"})).await;
    bench.shows_name(id, "Вера").await;
    bench.polls_more(3).await;
    bench.edit_contact(id, json!({"NAME": "Инна"})).await;
    bench.shows_name(id, "Инна").await;
    assert!(bench.checkpoint(Entity::Contact).await.unwrap().watermark >= before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_clock_is_years_away_from_the_portals_reads_by_the_portals() {
    const DAY: i64 = 24 * 60 * 60;
    for away in [-8 * 365 * DAY, 10 * 365 * DAY] {
        let mut bench = Bench::plain(0, 0).await;
        bench.admin("clock", json!({"advance_seconds": away})).await;
        let id = bench.create_contact("Анна").await;
        bench.start_producer();
        bench.shows_name(id, "Анна").await;
        bench.polls_more(1).await;
        // A watermark by the host's clock would lie years ahead of this edit, or years behind it.
        bench.edit_contact(id, json!({"NAME": "Вера"})).await;
        bench.shows_name(id, "Вера").await;
        let from = bench.admin_get("clock").await["unix"].as_f64().unwrap() as i64;
        bench.polls_more(2).await;
        let watermark = bench.checkpoint(Entity::Contact).await.unwrap().watermark.timestamp();
        let until = bench.admin_get("clock").await["unix"].as_f64().unwrap() as i64;
        assert!((from - 3..=until).contains(&watermark), "{watermark} is not within {from} and {until}");
        bench.stop_producer().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_that_takes_no_list_of_owners_gives_rows_all_the_same() {
    let settings = json!({"item_owner_arrays": "match_nothing"});
    let data = StartingData::Plain;
    let mut bench =
        Bench::with(Options { data, contacts: 10, deals: 70, settings, ..Options::default() }).await;
    bench.start_producer();
    bench.settles_at(80).await;
    for (_, changed) in &bench.events().await[10..] {
        let rows: Vec<Value> = serde_json::from_str(changed.product_rows.as_ref().unwrap().get()).unwrap();
        assert_eq!(rows.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_big_for_a_message_travels_without_its_bulk() {
    let mut bench = Bench::plain(0, 0).await;
    bench.start_producer();
    let id = bench.create_contact("Анна").await;
    bench.edit_contact(id, json!({"COMMENTS": "ж".repeat(1_000_000), "NAME": "Вера"})).await;
    bench.shows_name(id, "Вера").await;
    let (_, changed) = bench.newest(contact(id)).await.unwrap();
    assert_eq!(changed.trimmed, ["COMMENTS"]);
    assert_eq!(field(&changed, "COMMENTS"), "");
    // It is known, not published at each poll.
    let messages = bench.messages().await;
    bench.polls_more(2).await;
    assert_eq!(bench.messages().await, messages);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deal_outside_of_the_stages_does_not_travel_until_it_is_won() {
    let mut bench = Bench::plain(2, 1).await;
    bench.start_producer();
    bench.settles_at(3).await;
    let won = bench.counts().await.keys().next_back().copied().unwrap().id.get();
    let stage = |stage: &str| json!({"fields": {"STAGE_ID": stage, "TITLE": stage}});
    bench.admin(&format!("deals/{won}"), stage("NEW")).await;
    bench.settles_at(3).await;
    bench.admin(&format!("deals/{won}"), stage("WON")).await;
    bench.settles_at(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_that_writes_the_same_in_other_words_says_nothing_new() {
    let mut bench = Bench::with(Options { contacts: 12, deals: 12, ..Options::default() }).await;
    bench.start_producer();
    eventually("the first sync", || async { bench.polls(Entity::Deal).await >= 2 }).await;
    let messages = bench.messages().await;
    let records: Vec<_> = bench.counts().await.into_keys().collect();
    for shape in [
        json!({"swap_numbers_and_strings": true}),
        json!({"lists_as_objects": true}),
        json!({"rows_as_object": true}),
        json!({"unset_multiple": [], "unset_multifield": false}),
        json!({"unset_multiple": null, "unset_multifield": []}),
    ] {
        bench.admin("settings", json!({"shape": shape})).await;
        // An echo of ours makes each record be read again.
        for record in &records {
            let method = format!("crm.{}.update", record.entity);
            bench.write_status(&method, record.id.get(), "Успешно").await;
        }
        bench.polls_more(2).await;
        assert_eq!(bench.messages().await, messages, "{shape}");
        let lists = async || bench.requests().await["commands"]["crm.contact.list"].as_u64().unwrap();
        let (asked, polls) = (lists().await, bench.polls(Entity::Contact).await);
        bench.polls_more(3).await;
        let polls = bench.polls(Entity::Contact).await + 1 - polls;
        assert!(lists().await - asked <= polls, "{shape}: each poll asks once");
    }
}
