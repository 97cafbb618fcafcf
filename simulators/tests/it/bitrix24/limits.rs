//! Requests per address, seconds per method, seconds per request, and time itself.

use chrono::{DateTime, FixedOffset};
use futures::future::join_all;
use serde_json::{Map, Value, json};

use super::{Portal, STATUS, plain};

/// Makes time all but stand still, so that nothing leaks away during a test.
async fn standing_still(portal: &Portal) {
    let free = json!({"seconds": {"*": 0, "*.list": 0, "*.get": 0, "crm.*.update": 0}, "count_base": 0});
    portal.admin_post("settings", json!({"costs": free})).await;
    portal.admin_post("clock", json!({"speed": 1e-6})).await;
}

/// Starts a portal whose minutes are long enough even for a busy machine.
async fn slow_clock() -> Portal {
    Portal::start(super::Options { clock_speed: 10.0, ..plain(60, 0) }).await
}

fn updates(from: u64, count: u64) -> Value {
    let command =
        |id: u64| (format!("u{id}"), json!(format!("crm.contact.update?id={id}&fields[{STATUS}]=x")));
    Value::Object((from..from + count).map(command).collect::<Map<_, _>>())
}

#[tokio::test]
async fn requests_beyond_the_counter_are_refused_until_it_has_fallen() {
    let portal = Portal::plain(1, 0).await;
    standing_still(&portal).await;
    let mut statuses = Vec::new();
    for _ in 0..60 {
        statuses.push(portal.post("profile", json!({})).await);
    }
    assert_eq!(statuses.iter().filter(|(status, _)| *status == 200).count(), 51);
    assert_eq!(statuses[59].0, 503);
    assert_eq!(statuses[59].1["error"], "QUERY_LIMIT_EXCEEDED");
    portal.admin_post("clock", json!({"advance_seconds": 1})).await;
    let after: Vec<u16> = vec![
        portal.post("profile", json!({})).await.0,
        portal.post("profile", json!({})).await.0,
        portal.post("profile", json!({})).await.0,
    ];
    assert_eq!(after, [200, 200, 503]);
    assert_eq!(portal.admin_get("requests").await["refused_503"], 10);
}

#[tokio::test]
async fn a_batch_is_one_request_and_many_commands() {
    let portal = Portal::plain(50, 0).await;
    portal.batch(updates(1000, 50)).await;
    let counts = portal.admin_get("requests").await;
    assert_eq!((&counts["requests"], &counts["by_method"]["batch"]), (&json!(1), &json!(1)));
    assert_eq!(counts["commands"]["crm.contact.update"], 50);
}

#[tokio::test]
async fn a_method_whose_seconds_are_used_up_is_refused_until_they_are_forgotten() {
    let portal = slow_clock().await;
    portal
        .admin_post(
            "settings",
            json!({"operating_limit": 1, "costs": {"seconds": {"crm.contact.update": 0.1}}}),
        )
        .await;
    let result = portal.batch(updates(1000, 20)).await;
    let done = result["result"].as_object().map(Map::len).expect("results");
    assert!((10..=11).contains(&done), "the call that crosses the line still runs: {done}");
    assert_eq!(result["result_error"]["u1019"]["error"], "OPERATION_TIME_LIMIT");
    assert_eq!(portal.call("profile", json!({})).await["result"]["ID"], "1", "other methods go on");
    let (status, body) =
        portal.post("crm.contact.update", json!({"id": 1000, "fields": {STATUS: "y"}})).await;
    assert_eq!((status, &body["error"]), (429, &json!("OPERATION_TIME_LIMIT")));
    portal.admin_post("clock", json!({"advance_seconds": 601})).await;
    portal.call("crm.contact.update", json!({"id": 1000, "fields": {STATUS: "y"}})).await;
    assert_eq!(portal.admin_get("requests").await["refused_operating"], 20 - done + 1);
}

#[tokio::test]
async fn answers_report_the_seconds_of_their_method() {
    let portal = slow_clock().await;
    portal.admin_post("settings", json!({"costs": {"seconds": {"crm.contact.update": 0.25}}})).await;
    let result = portal.batch(updates(1000, 3)).await;
    let operating: Vec<f64> = ["u1000", "u1001", "u1002"]
        .map(|id| result["result_time"][id]["operating"].as_f64().expect("seconds"))
        .into();
    assert_eq!(operating, [0.25, 0.5, 0.75]);
    let time =
        portal.call("crm.contact.update", json!({"id": 1000, "fields": {STATUS: "y"}})).await["time"].clone();
    assert_eq!(time["operating"], 1.0);
    let life =
        time["operating_reset_at"].as_f64().expect("a time") - time["finish"].as_f64().expect("a time");
    assert!((0.0..=600.0).contains(&life), "{life}");
}

#[tokio::test]
async fn the_accounting_by_batch_counts_only_slow_commands_and_by_half() {
    let portal = slow_clock().await;
    let costs = json!({"seconds": {"crm.contact.update": 0.2, "crm.*.get": 0.05}});
    portal
        .admin_post("settings", json!({"accounting": "batch", "operating_limit": 0.5, "costs": costs}))
        .await;
    let answer = portal.call("batch", json!({"cmd": updates(1000, 6)})).await;
    let operating = answer["time"]["operating"].as_f64().expect("seconds");
    assert!((operating - 0.6).abs() < 1e-9, "{operating}");
    assert_eq!(answer["result"]["result_time"]["u1005"]["operating"], 0.0);
    let (status, body) = portal.post("batch", json!({"cmd": {"a": "crm.contact.get?id=1000"}})).await;
    assert_eq!((status, &body["error"]), (429, &json!("OPERATION_TIME_LIMIT")));
    portal.call("crm.contact.get", json!({"id": 1000})).await;
}

#[tokio::test]
async fn a_request_of_more_than_a_minute_is_cut_off_and_goes_on_unseen() {
    let portal = Portal::plain(50, 0).await;
    portal.admin_post("clock", json!({"speed": 1000})).await;
    portal.admin_post("settings", json!({"costs": {"seconds": {"crm.contact.update": 2.5}}})).await;
    let before = portal.admin_get("clock").await["now"].clone();
    let (status, body) = portal.post("batch", json!({"cmd": updates(1000, 50)})).await;
    assert_eq!(status, 504);
    assert!(body.as_str().is_some_and(|page| page.contains("<html>")), "{body}");
    let all = async {
        while portal.history().await.len() < 50 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::PATIENCE, all).await.expect("the portal finishes the batch by itself");
    let time = |text: &Value| {
        text.as_str().and_then(|text| text.parse::<DateTime<FixedOffset>>().ok()).expect("a time")
    };
    let last = portal.history().await[49]["time"].clone();
    assert!(
        (time(&last) - time(&before)).num_seconds() > 60,
        "it went on after the minute: {before} to {last}"
    );
    assert_eq!(portal.admin_get("requests").await["timed_out_504"], 1);
}

#[tokio::test]
async fn a_long_request_delays_no_other() {
    let portal = Portal::plain(50, 0).await;
    portal.admin_post("clock", json!({"speed": 0.001})).await;
    let costs = json!({"seconds": {"crm.contact.update": 10, "*": 0, "*.get": 0}});
    portal.admin_post("settings", json!({"costs": costs})).await;
    let others = async {
        while portal.admin_get("requests").await["commands"].get("crm.contact.update").is_none() {
            tokio::task::yield_now().await;
        }
        join_all((0..10).map(|_| portal.call("crm.contact.get", json!({"id": 1000})))).await
    };
    tokio::select! {
        _ = portal.batch(updates(1000, 5)) => panic!("it takes hours"),
        answers = tokio::time::timeout(super::PATIENCE, others) => {
            assert_eq!(answers.expect("answers while the batch is at work").len(), 10);
        }
    }
    assert!(portal.history().await.is_empty());
}

#[tokio::test]
async fn counting_costs_more_the_more_there_is_to_count() {
    let portal = Portal::start(super::Options { clock_speed: 1000.0, ..plain(100, 0) }).await;
    portal.admin_post("settings", json!({"costs": {"count_base": 0.5, "count_per_match": 0.01}})).await;
    let processing = async |start: i64| {
        let page = portal.call("crm.contact.list", json!({"start": start, "order": {"ID": "ASC"}})).await;
        page["time"]["processing"].as_f64().expect("seconds")
    };
    assert_eq!(processing(-1).await, 0.02);
    assert_eq!(processing(0).await, 1.52);
}

#[tokio::test]
async fn the_clock_can_be_set_forward_and_back() {
    let portal = Portal::plain(1, 0).await;
    standing_still(&portal).await;
    let modify = async || {
        portal.call("crm.contact.update", json!({"id": 1000, "fields": {STATUS: "x"}})).await;
        portal.contact(1000).await["DATE_MODIFY"].as_str().expect("a time").to_owned()
    };
    let first = modify().await;
    portal.admin_post("clock", json!({"advance_seconds": -3600})).await;
    let earlier = modify().await;
    portal.admin_post("clock", json!({"advance_seconds": 7200})).await;
    let later = modify().await;
    assert!(earlier < first && first < later, "{earlier} {first} {later}");
}
