//! What a person at the portal can do.

use serde_json::{Value, json};

use super::{Portal, read};

#[tokio::test]
async fn a_persons_edit_is_stored_as_given_and_marked() {
    let portal = Portal::plain(1, 0).await;
    let odd = json!({"NAME": null, "UF_CRM_1470852549": "48", "PHONE": {"0": {"VALUE": "8"}}, "COMMENTS": 5});
    portal.admin_post("contacts/1000", json!({"fields": odd})).await;
    let stored = portal.contact(1000).await;
    for (name, value) in odd.as_object().expect("an object") {
        assert_eq!(stored[name], *value, "{name}");
    }
    assert_eq!(stored["MODIFY_BY_ID"], "7");
    let entry = portal.history().await.pop().expect("an entry");
    assert_eq!((&entry["origin"], &entry["user"]), (&json!("human"), &json!(7)));
    assert_eq!(entry["record"], stored);
    assert!(entry["before"]["NAME"].is_string());
}

#[tokio::test]
async fn edits_can_be_silent_or_dated_back() {
    let portal = Portal::plain(1, 0).await;
    let before = portal.contact(1000).await["DATE_MODIFY"].clone();
    portal.admin_post("contacts/1000", json!({"fields": {"NAME": "Тихо"}, "silent": true})).await;
    assert_eq!(portal.contact(1000).await["DATE_MODIFY"], before);
    let back = json!({"fields": {"NAME": "Импорт"}, "date_modify": "2021-01-01T00:00:00+03:00",
        "date_create": "2020-12-31T00:00:00+03:00"});
    let id = portal.admin_post("contacts", back).await["id"].clone();
    let filter = json!({"<DATE_MODIFY": "2021-01-02T00:00:00+03:00"});
    let page = portal.call("crm.contact.list", json!({"filter": filter})).await;
    assert_eq!(page["result"][0]["ID"], id.to_string());
    assert_eq!(page["result"][0]["DATE_CREATE"], "2020-12-31T00:00:00+03:00");
}

#[tokio::test]
async fn many_records_can_be_created_in_one_second() {
    let portal = Portal::plain(0, 0).await;
    let one = json!({"fields": {"NAME": "x", "PHONE": [{"VALUE": "8"}]}, "date_modify": "2026-01-01T00:00:00+03:00"});
    let ids = portal.admin_post("contacts", Value::Array(vec![one; 500])).await["ids"].clone();
    assert_eq!(ids.as_array().map(Vec::len), Some(500));
    let page = portal
        .call("crm.contact.list", json!({"filter": {"DATE_MODIFY": "2026-01-01T00:00:00+03:00"}}))
        .await;
    assert_eq!(page["total"], 500);
    let last = portal.call("crm.contact.get", json!({"id": ids[499]})).await["result"].clone();
    assert_eq!(last["PHONE"][0]["TYPE_ID"], "PHONE");
}

#[tokio::test]
async fn a_merge_re_points_deals_and_removes_the_contact() {
    let portal = Portal::plain(2, 4).await;
    let merged = portal.admin_post("contacts/1001/merge", json!({"into": 1000})).await;
    assert_eq!(merged["deals"], json!([100_001, 100_003]));
    let page = portal.call("crm.deal.list", json!({"filter": {"CONTACT_ID": 1000}})).await;
    assert_eq!(page["total"], 4);
    assert_eq!(portal.call("crm.contact.list", json!({})).await["total"], 1);
}

#[tokio::test]
async fn deals_are_made_with_their_rows_and_deleted_with_them() {
    let portal = Portal::plain(1, 0).await;
    let deal = json!({"fields": {"TITLE": "x", "STAGE_ID": "C10:WON", "CONTACT_ID": "1000"}, "rows": [{"PRODUCT_NAME": "А"}]});
    let id = portal.admin_post("deals", deal).await["id"].as_u64().expect("an id");
    let stored = portal.admin_get(&format!("state?entity=deal&id={id}")).await;
    assert_eq!((&stored["STAGE_SEMANTIC_ID"], &stored["CATEGORY_ID"]), (&json!("S"), &json!("10")));
    let rows = json!({"rows": [{"PRODUCT_NAME": "Б"}, {"PRODUCT_NAME": "В", "PRICE": "8702.2999999999993"}]});
    portal.admin_post(&format!("deals/{id}/rows"), rows).await;
    let rows = portal.call("crm.deal.productrows.get", json!({"id": id})).await["result"].clone();
    assert_eq!(rows[1]["PRICE"], "8702.2999999999993");
    portal.admin_delete(&format!("deals/{id}")).await;
    let state = portal.admin_get("state").await;
    assert_eq!((&state["deals"], &state["product_rows"]), (&json!([]), &json!({})));
}

#[tokio::test]
async fn mistaken_admin_requests_are_refused_with_a_reason() {
    let portal = Portal::plain(1, 0).await;
    for (path, body, status) in [
        ("contacts/5", json!({"fields": {}}), 404),
        ("contacts/1000", json!({"NAME": "x"}), 400),
        ("settings", json!({"no_such_switch": 1}), 400),
        ("settings", json!({"zone": "Moscow"}), 400),
        ("faults", json!({"kind": "no_such_fault"}), 400),
        ("clock", json!({"speed": 0}), 400),
        ("contacts/1000/merge", json!({"into": 1000}), 404),
        ("goods", json!({"fields": {}}), 404),
    ] {
        let (answered, answer) = read(portal.http.post(format!("{}{path}", portal.admin)).json(&body)).await;
        assert_eq!(answered, status, "{path} {body}: {answer}");
        assert!(answer["error"].is_string());
    }
}

#[tokio::test]
async fn the_history_can_be_narrowed() {
    let portal = Portal::plain(2, 0).await;
    for (id, name) in [(1000, "а"), (1001, "б"), (1000, "в")] {
        portal.admin_post(&format!("contacts/{id}"), json!({"fields": {"NAME": name}})).await;
    }
    let count = async |query: &str| {
        portal.admin_get(&format!("history?{query}")).await["history"].as_array().map(Vec::len)
    };
    assert_eq!(count("id=1000&entity=contact").await, Some(2));
    assert_eq!(count("after=2").await, Some(1));
    assert_eq!(count("origin=rest").await, Some(0));
}
