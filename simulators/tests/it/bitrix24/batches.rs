//! `batch`: order, references, errors.

use serde_json::{Map, Value, json};

use super::{Portal, STATUS, ids};

#[tokio::test]
async fn a_chain_of_pages_reads_many_rows_and_starts_anew_behind_the_end() {
    let portal = Portal::plain(120, 0).await;
    let page =
        |after: &str| format!("crm.contact.list?order[ID]=ASC&select[]=ID&start=-1&filter[%3EID]={after}");
    let commands = json!({"p0": page("0"), "p1": page("$result[p0][49][ID]"), "p2": page("%24result[p1][49][ID]"),
        "p3": page("$result[p2][49][ID]")});
    let result = portal.batch(commands).await["result"].clone();
    assert_eq!(ids(&result["p0"]), (1000..1050).collect::<Vec<u64>>());
    assert_eq!(ids(&result["p1"]), (1050..1100).collect::<Vec<u64>>());
    assert_eq!(ids(&result["p2"]), (1100..1120).collect::<Vec<u64>>());
    assert_eq!(ids(&result["p3"]), ids(&result["p0"]), "a reference to nothing is no bound at all");
}

#[tokio::test]
async fn one_failing_command_leaves_the_others_standing() {
    let portal = Portal::plain(2, 0).await;
    let commands = json!({
        "a": format!("crm.contact.update?id=1000&fields[{STATUS}]=%D0%94%D0%B0"),
        "b": "crm.contact.update?id=5&fields[X]=1",
        "c": "crm.nothing", "d": "batch?cmd[x]=profile",
        "e": "crm.contact.list?order[ID]=ASC",
    });
    let result = portal.batch(commands).await;
    assert_eq!(result["result"]["a"], true);
    assert_eq!(
        result["result_error"]["b"],
        json!({"error": "", "error_description": "Contact is not found"})
    );
    assert_eq!(result["result_error"]["c"]["error"], "ERROR_METHOD_NOT_FOUND");
    assert_eq!(result["result_error"]["d"]["error"], "ERROR_BATCH_METHOD_NOT_ALLOWED");
    assert_eq!(result["result_total"], json!({"e": 2}));
    assert_eq!(result["result_next"], json!([]), "an empty map is a list in PHP");
    let timed: Vec<&String> = result["result_time"].as_object().expect("an object").keys().collect();
    assert_eq!(timed, ["a", "e"]);
    assert_eq!(portal.contact(1000).await[STATUS], "Да");
}

#[tokio::test]
async fn halt_stops_at_the_first_failure() {
    let portal = Portal::plain(1, 0).await;
    let commands = json!({"a": "profile", "b": "crm.nothing", "c": "profile"});
    let result = portal.call("batch", json!({"cmd": commands, "halt": 1})).await["result"].clone();
    assert!(result["result"].get("a").is_some());
    assert!(result["result_error"].get("b").is_some());
    assert!(result["result"].get("c").is_none() && result["result_error"].get("c").is_none());
}

#[tokio::test]
async fn numbered_commands_come_back_as_lists() {
    let portal = Portal::plain(1, 0).await;
    let result = portal.batch(json!(["server.time", "crm.nothing"])).await;
    assert!(result["result"].is_array());
    assert_eq!(result["result_error"]["1"]["error"], "ERROR_METHOD_NOT_FOUND");
    let result = portal.batch(json!(["crm.nothing", "server.time"])).await;
    assert!(result["result_error"].is_array(), "no longer to be matched with its command");
}

#[tokio::test]
async fn commands_beyond_the_fiftieth_fail() {
    let portal = Portal::plain(1, 0).await;
    let commands: Map<String, Value> = (0..52).map(|n| (format!("c{n:02}"), json!("server.time"))).collect();
    let result = portal.batch(json!(commands)).await;
    assert_eq!(result["result"].as_object().map(Map::len), Some(50));
    assert_eq!(result["result_error"]["c51"]["error"], "ERROR_BATCH_LENGTH_EXCEEDED");
    portal.admin_post("settings", json!({"batch_overflow": "refused"})).await;
    let (status, body) = portal.post("batch", json!({"cmd": commands})).await;
    assert_eq!((status, &body["error"]), (400, &json!("ERROR_BATCH_LENGTH_EXCEEDED")));
}

#[tokio::test]
async fn a_batch_in_a_query_is_encoded_twice() {
    let portal = Portal::plain(2, 0).await;
    let url = format!(
        "{}batch?cmd[a]=crm.contact.list%3Ffilter%5B%253EID%5D%3D1000%26select%5B%5D%3DID",
        portal.webhook
    );
    let (_, body) = super::read(portal.http.get(url)).await;
    assert_eq!(body["result"]["result"]["a"], json!([{"ID": "1001"}]));
}

#[tokio::test]
async fn the_history_tells_which_batch_and_command_wrote() {
    let portal = Portal::plain(2, 0).await;
    let write = |id: u64| format!("crm.contact.update?id={id}&fields[{STATUS}]=x");
    portal.batch(json!({"first": write(1001), "second": write(1000)})).await;
    portal.call("crm.contact.update", json!({"id": 1000, "fields": {STATUS: "y"}})).await;
    let history = portal.history().await;
    let seen: Vec<(u64, &str)> = history
        .iter()
        .map(|entry| (entry["id"].as_u64().expect("an id"), entry["command"].as_str().unwrap_or("-")))
        .collect();
    assert_eq!(seen, [(1001, "first"), (1000, "second"), (1000, "-")]);
    assert_eq!(history[0]["request"], history[1]["request"]);
    assert_ne!(history[1]["request"], history[2]["request"]);
    let counts = portal.admin_get("requests").await;
    assert_eq!(counts["requests"], 2);
    assert_eq!(counts["commands"]["crm.contact.update"], 3);
    assert_eq!(counts["status_updates"]["contact"], 3);
}
