//! Adding, updating and deleting records.

use serde_json::{Value, json};

use super::{Portal, STATUS, ids};

#[tokio::test]
async fn an_update_stores_the_value_and_moves_the_time() {
    let portal = Portal::plain(2, 0).await;
    let before = portal.contact(1000).await;
    let answer = portal.call("crm.contact.update", json!({"id": 1000, "fields": {STATUS: "Успешно"}})).await;
    assert_eq!(answer["result"], true);
    let after = portal.contact(1000).await;
    assert_eq!(after[STATUS], "Успешно");
    assert_eq!(after["MODIFY_BY_ID"], "1");
    assert!(after["DATE_MODIFY"].as_str() > before["DATE_MODIFY"].as_str());
    assert_eq!(portal.contact(1001).await["MODIFY_BY_ID"].as_str(), Some("102"), "others are untouched");
}

#[tokio::test]
async fn unknown_and_read_only_fields_are_ignored_and_still_true() {
    let portal = Portal::plain(1, 0).await;
    let before = portal.contact(1000).await;
    let fields = json!({"UF_CRM_TYPO": "x", "DATE_CREATE": "2000-01-01", "ID": 5, "uf_crm_sync_status": "x"});
    let answer = portal.call("crm.contact.update", json!({"id": 1000, "fields": fields})).await;
    assert_eq!(answer["result"], true);
    let after = portal.contact(1000).await;
    for field in ["ID", "DATE_CREATE", STATUS] {
        assert_eq!(after[field], before[field], "{field}");
    }
    let entry = portal.history().await.pop().expect("an entry");
    assert_eq!(entry["applied"], false);
    assert_eq!(entry["ignored"].as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn a_deleted_status_field_swallows_updates() {
    let portal = Portal::plain(1, 0).await;
    portal.admin_delete(&format!("userfields/contact/{STATUS}")).await;
    let answer = portal.call("crm.contact.update", json!({"id": 1000, "fields": {STATUS: "Успешно"}})).await;
    assert_eq!(answer["result"], true);
    assert_eq!(portal.contact(1000).await.get(STATUS), None);
    let fields = portal.call("crm.contact.fields", json!({})).await["result"].clone();
    assert_eq!(fields.get(STATUS), None);
    assert_eq!(portal.admin_get("requests").await["status_updates"], json!({}));
    let add = json!({"fields": {"FIELD_NAME": "sync_status", "USER_TYPE_ID": "string", "LABEL": "Статус"}});
    assert!(portal.call("crm.contact.userfield.add", add.clone()).await["result"].is_u64());
    let (status, body) = portal.post("crm.contact.userfield.add", add).await;
    assert_eq!((status, &body["error"]), (400, &json!("ERROR_CORE")));
    let list = json!({"filter": {"FIELD_NAME": STATUS}});
    let listed = portal.call("crm.contact.userfield.list", list).await;
    assert_eq!((&listed["total"], &listed["result"][0]["USER_TYPE_ID"]), (&json!(1), &json!("string")));
    portal.call("crm.contact.update", json!({"id": 1000, "fields": {STATUS: "Успешно"}})).await;
    assert_eq!(portal.contact(1000).await[STATUS], "Успешно");
}

#[tokio::test]
async fn missing_records_have_their_own_words() {
    let portal = Portal::plain(1, 1).await;
    for (method, id, description) in [
        ("crm.contact.update", json!(5), "Contact is not found"),
        ("crm.deal.update", json!(5), "Not found"),
        ("crm.contact.get", json!(5), "Not found"),
        ("crm.deal.get", json!("x"), "ID is not defined or invalid."),
        ("crm.deal.update", json!(null), "ID is not defined or invalid."),
    ] {
        let (status, body) = portal.post(method, json!({"id": id, "fields": {"COMMENTS": "x"}})).await;
        assert_eq!(status, 400, "{method}");
        assert_eq!(body, json!({"error": "", "error_description": description}), "{method}");
    }
    let (_, body) = portal.post("crm.contact.update", json!({"id": 1000, "fields": "x"})).await;
    assert_eq!(body["error_description"], "Parameter 'fields' must be array.");
    let (status, body) =
        portal.post("crm.item.update", json!({"entityTypeId": 3, "id": 5, "fields": {}})).await;
    assert_eq!((status, &body["error"]), (400, &json!("NOT_FOUND")));
}

#[tokio::test]
async fn equal_values_bump_the_classic_time_and_not_the_items() {
    let portal = Portal::plain(1, 0).await;
    let set_back = json!({"fields": {STATUS: "x"}, "date_modify": "2026-01-01T00:00:00+03:00"});
    let modified = async || portal.contact(1000).await["DATE_MODIFY"].clone();

    portal.admin_post("contacts/1000", set_back.clone()).await;
    let item = json!({"entityTypeId": 3, "id": 1000, "fields": {"ufCrmSyncStatus": "x"}});
    let stored = portal.call("crm.item.update", item).await["result"]["item"].clone();
    assert_eq!(stored["ufCrmSyncStatus"], "x", "the stored item comes back");
    assert_eq!(modified().await, "2026-01-01T00:00:00+03:00");

    let same = json!({"id": 1000, "fields": {STATUS: "x"}});
    portal.admin_post("settings", json!({"unchanged_bumps": false})).await;
    portal.call("crm.contact.update", same.clone()).await;
    assert_eq!(modified().await, "2026-01-01T00:00:00+03:00");

    portal.admin_post("settings", json!({"unchanged_bumps": true})).await;
    portal.call("crm.contact.update", same).await;
    assert_ne!(modified().await, "2026-01-01T00:00:00+03:00");
}

#[tokio::test]
async fn a_contact_lives_from_add_to_delete() {
    let portal = Portal::plain(0, 0).await;
    let fields = json!({"NAME": "Иван", "PHONE": [{"VALUE": "8 926", "VALUE_TYPE": "HOME"}], "BIRTHDATE": "11.11.1999",
        "UF_CRM_1470852549": [48]});
    let id = portal.call("crm.contact.add", json!({"fields": fields})).await["result"].clone();
    let got = portal.call("crm.contact.get", json!({"id": id})).await["result"].clone();
    assert_eq!(got["BIRTHDATE"], "1999-11-11T03:00:00+03:00");
    assert_eq!(got["UF_CRM_1470852549"], json!([48]));
    let phone = got["PHONE"][0].clone();
    assert_eq!(phone["VALUE_TYPE"], "HOME");
    let removal = json!({"id": id, "fields": {"PHONE": [{"ID": phone["ID"], "DELETE": "Y"}]}});
    portal.call("crm.contact.update", removal).await;
    let got = portal.call("crm.contact.get", json!({"id": id})).await["result"].clone();
    assert_eq!((got.get("PHONE"), &got["HAS_PHONE"]), (None, &json!("N")));
    portal.call("crm.contact.delete", json!({"id": id})).await;
    assert_eq!(portal.post("crm.contact.get", json!({"id": id})).await.0, 400);
    let again = portal.call("crm.contact.add", json!({"fields": {"NAME": "Пётр"}})).await["result"].clone();
    assert!(again.as_u64() > id.as_u64(), "ids are never given twice");
    let (status, body) = portal.post("crm.contact.add", json!({"fields": {"POST": "x"}})).await;
    assert_eq!((status, &body["error"]), (400, &json!("")));
}

#[tokio::test]
async fn a_deal_that_is_won_moves_through_the_history_of_stages() {
    let portal = Portal::plain(1, 0).await;
    let id =
        portal.call("crm.deal.add", json!({"fields": {"TITLE": "x", "CONTACT_ID": 1000}})).await["result"]
            .clone();
    let update = |fields: Value| json!({"id": id, "fields": fields});
    portal.call("crm.deal.update", update(json!({"STAGE_ID": "C10:WON", "CATEGORY_ID": 10}))).await;
    let deal = portal.call("crm.deal.get", json!({"id": id})).await["result"].clone();
    assert_eq!(
        (&deal["STAGE_ID"], &deal["CATEGORY_ID"]),
        (&json!("NEW"), &json!("0")),
        "foreign stages are ignored"
    );
    portal.call("crm.deal.update", update(json!({"STAGE_ID": "WON"}))).await;
    let deal = portal.call("crm.deal.get", json!({"id": id})).await["result"].clone();
    assert_eq!((&deal["STAGE_SEMANTIC_ID"], &deal["CLOSED"]), (&json!("S"), &json!("Y")));
    let filter = json!({"OWNER_ID": id, ">ID": 0});
    let moves = portal.call("crm.stagehistory.list", json!({"entityTypeId": 2, "filter": filter})).await;
    let types: Vec<&Value> =
        moves["result"]["items"].as_array().expect("items").iter().map(|m| &m["TYPE_ID"]).collect();
    assert_eq!(types, [&json!(1), &json!(3)]);
    let won =
        portal.call("crm.deal.list", json!({"filter": {"STAGE_SEMANTIC_ID": "S"}, "select": ["ID"]})).await;
    assert_eq!(ids(&won["result"]), [id.as_u64().expect("an id")]);
}

#[tokio::test]
async fn hostile_texts_arrive_unchanged() {
    let portal = Portal::plain(1, 0).await;
    for text in
        ["А=Б&ID=1#x+y 100 %", "<script>'\"\\", "${jndi:x} {{7*7}} %s%n", "строка\r\nдве\u{0}\u{202e}", "👨‍👩‍👧"]
    {
        portal.call("crm.contact.update", json!({"id": 1000, "fields": {STATUS: text}})).await;
        assert_eq!(portal.contact(1000).await[STATUS], text);
    }
}
