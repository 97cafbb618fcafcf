//! Portals that misbehave.

use schemas::Entity;
use serde_json::json;

use crate::bench::{Bench, contact, deal, eventually};

/// Answers that are none, whatever their status.
const NO_ANSWERS: [&str; 12] = [
    "html_502",
    "php_fatal_500",
    "internal_500",
    "error_under_200",
    "empty_code_200",
    "result_null",
    "empty_body",
    "html_200",
    "garbage",
    "truncated",
    "reset_before",
    "bad_gzip",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_none_moves_no_checkpoint_and_loses_no_edit() {
    let mut bench = Bench::plain(5, 0).await;
    bench.start_producer();
    bench.settles_at(5).await;
    let id = bench.counts().await.keys().next().unwrap().id.get();
    for kind in NO_ANSWERS {
        bench.admin("faults", json!({"kind": kind, "count": 3})).await;
        eventually("the first spoilt answer", || async { spoilt(&bench).await >= 1 }).await;
        let before = [bench.checkpoint(Entity::Contact).await, bench.checkpoint(Entity::Deal).await];
        bench.edit_contact(id, json!({"NAME": kind, "UF_CRM_SYNC_STATUS": "Успешно"})).await;
        eventually("the second", || async { spoilt(&bench).await >= 2 }).await;
        let after = [bench.checkpoint(Entity::Contact).await, bench.checkpoint(Entity::Deal).await];
        assert_eq!(before, after, "{kind}");
        bench.end_faults().await;
        bench.admin("requests/reset", json!({})).await;
        bench.shows_name(id, kind).await;
    }
}

async fn spoilt(bench: &Bench) -> u64 {
    let requests = bench.requests().await;
    requests["faults"]
        .as_object()
        .map_or(0, |faults| faults.values().filter_map(serde_json::Value::as_u64).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn deals_wait_while_contacts_cannot_be_read() {
    let mut bench = Bench::plain(2, 0).await;
    bench.start_producer();
    bench.settles_at(2).await;
    bench
        .admin(
            "faults",
            json!({"kind": "command_error", "method": "crm.contact.list", "error": "ERROR_CORE"}),
        )
        .await;
    let contact_id = bench.create_contact("Анна").await;
    let fields = json!({"TITLE": "Абонемент", "STAGE_ID": "WON", "CONTACT_ID": contact_id.to_string()});
    let deal_id = bench.admin("deals", json!({"fields": fields})).await["id"].as_u64().unwrap();
    eventually("some failed polls", || async { spoilt(&bench).await >= 2 }).await;
    assert_eq!(bench.messages().await, 2);
    bench.end_faults().await;
    bench.settles_at(4).await;
    let events = bench.events().await;
    assert_eq!([events[2].0.record, events[3].0.record], [contact(contact_id), deal(deal_id)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn contacts_travel_while_a_method_of_deals_has_no_computing_time_left() {
    let mut bench = Bench::plain(2, 2).await;
    bench.start_producer();
    bench.settles_at(4).await;
    let out_of_time =
        json!({"kind": "command_error", "method": "*productrow*", "error": "OPERATION_TIME_LIMIT"});
    bench.admin("faults", out_of_time).await;
    let fields = json!({"TITLE": "Абонемент", "STAGE_ID": "WON"});
    bench.admin("deals", json!({"fields": fields})).await;
    eventually("a failed poll of deals", || async { spoilt(&bench).await >= 1 }).await;
    let before = spoilt(&bench).await;
    for name in ["Анна", "Вера", "Нина", "Ольга", "Яна"] {
        let id = bench.create_contact(name).await;
        bench.shows_name(id, name).await;
    }
    assert!(spoilt(&bench).await <= before + 1, "not one contact after each try for the deal");
    assert_eq!(bench.messages().await, 9);
    bench.end_faults().await;
    bench.settles_at(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contacts_travel_while_deals_cannot_be_read() {
    for (kind, method) in
        [("php_fatal_500", "crm.deal.list"), ("html_504", "crm.deal.list"), ("html_502", "*productrow*")]
    {
        let mut bench = Bench::plain(2, 2).await;
        bench.start_producer();
        bench.settles_at(4).await;
        bench.admin("faults", json!({"kind": kind, "method": method})).await;
        let fields = json!({"TITLE": "Абонемент", "STAGE_ID": "WON"});
        bench.admin("deals", json!({"fields": fields})).await;
        eventually("failed polls of deals", || async { spoilt(&bench).await >= 3 }).await;
        for name in ["Анна", "Вера", "Нина"] {
            let id = bench.create_contact(name).await;
            bench.shows_name(id, name).await;
        }
        assert_eq!(bench.messages().await, 7, "{kind} of {method}");
        bench.end_faults().await;
        bench.settles_at(8).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_read_hold_their_deal_back_without_losing_it() {
    let mut bench = Bench::plain(2, 2).await;
    bench.admin("faults", json!({"kind": "html_502", "method": "*productrow*"})).await;
    bench.start_producer();
    eventually("a failed poll of deals", || async { spoilt(&bench).await >= 1 }).await;
    assert_eq!(bench.messages().await, 2);
    assert_eq!(bench.checkpoint(Entity::Deal).await, None);
    bench.end_faults().await;
    bench.settles_at(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_too_big_for_one_answer_are_read_in_parts() {
    let mut bench = Bench::plain(1, 1).await;
    bench.start_producer();
    bench.settles_at(2).await;
    bench.stop_producer().await;
    let bulk = "x".repeat(900_000);
    let big =
        |n: usize| json!({"fields": {"NAME": format!("Имя{n}"), "LAST_NAME": "Общая", "COMMENTS": bulk}});
    bench.admin("contacts", (0..22).map(big).collect()).await;
    let ticket =
        |n: usize| json!({"fields": {"TITLE": format!("Т{n}"), "STAGE_ID": "WON", "COMMENTS": bulk}});
    bench.admin("deals", (0..3).map(ticket).collect()).await;
    // More than any answer may have, in one record.
    let id = bench.create_contact("Анна").await;
    bench.edit_contact(id, json!({"NAME": "Вера", "COMMENTS": "x".repeat(17 << 20)})).await;
    bench.start_producer();
    bench.settles_at(28).await;
    bench.shows_name(id, "Вера").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_read_the_quick_way_again_however_often_it_failed() {
    let mut bench = Bench::plain(1, 2).await;
    bench.start_producer();
    bench.settles_at(3).await;
    let deal = json!({
        "fields": {"TITLE": "Абонемент", "STAGE_ID": "WON"},
        "rows": [{"PRODUCT_NAME": "6 КМС индивидуальные 45 мин", "PRICE": 8_700, "QUANTITY": 1}],
    });
    for round in 1..=6 {
        bench.admin("requests/reset", json!({})).await;
        let too_much =
            json!({"kind": "huge_body", "method": "crm.item.productrow.list", "count": 1, "bytes": 17 << 20});
        bench.admin("faults", too_much).await;
        bench.admin("deals", json!([deal, deal])).await;
        bench.settles_at(3 + 2 * round).await;
        assert_eq!(spoilt(&bench).await, 1, "in round {round} the quick way was not tried");
    }
}
