//! Product rows, users, directories and pipelines.

use serde_json::{Value, json};

use super::Portal;

#[tokio::test]
async fn rows_of_a_deal_come_in_both_dialects() {
    let portal = Portal::plain(1, 2).await;
    let classic = portal.call("crm.deal.productrows.get", json!({"id": 100_001})).await;
    assert_eq!(classic.get("total"), None, "no paging");
    let row = &classic["result"][0];
    assert_eq!((&row["OWNER_ID"], &row["OWNER_TYPE"]), (&json!("100001"), &json!("D")));
    assert!(row["PRICE"].is_number() && row["ID"].is_string() && row["PRICE_ACCOUNT"].is_string());
    let filter = json!({"=ownerType": "D", "=ownerId": 100_001});
    let items = portal.call("crm.item.productrow.list", json!({"filter": filter})).await;
    let item = &items["result"]["productRows"][0];
    assert_eq!(item["ownerId"], 100_001);
    assert_eq!(item["priceBrutto"], row["PRICE_BRUTTO"]);
    assert_eq!(item["id"].to_string(), row["ID"].as_str().expect("a string"));
    let (status, body) = portal.post("crm.deal.productrows.get", json!({"id": 5})).await;
    assert_eq!((status, &body["error_description"]), (400, &json!("Not found")));
}

#[tokio::test]
async fn rows_of_many_deals_come_page_by_page_where_lists_are_supported() {
    let portal = Portal::plain(1, 60).await;
    let owners: Vec<u64> = (100_000..100_060).collect();
    let list = |start: i64| {
        let filter = json!({"=ownerType": "D", "=ownerId": owners});
        portal.post(
            "crm.item.productrow.list",
            json!({"filter": filter, "order": {"id": "asc"}, "start": start}),
        )
    };
    let count = |body: &Value| body["result"]["productRows"].as_array().map(Vec::len);
    let (_, first) = list(0).await;
    assert_eq!((count(&first), &first["next"], &first["total"]), (Some(50), &json!(50), &json!(60)));
    let (_, second) = list(50).await;
    assert_eq!((count(&second), second.get("next")), (Some(10), None));
    portal.admin_post("settings", json!({"item_owner_arrays": "match_nothing"})).await;
    assert_eq!(count(&list(0).await.1), Some(0));
    portal.admin_post("settings", json!({"item_owner_arrays": "refused"})).await;
    let (status, body) = list(0).await;
    assert_eq!((status, &body["error"]), (400, &json!("INVALID_ARG_VALUE")));
    let (status, _) = portal.post("crm.item.productrow.list", json!({"filter": {"=ownerType": "D"}})).await;
    assert_eq!(status, 400, "the owner is required");
}

#[tokio::test]
async fn setting_rows_replaces_them_and_bumps_the_deal_by_a_switch() {
    let portal = Portal::plain(1, 1).await;
    let rows = json!([{"PRODUCT_NAME": "А", "PRICE": 8700, "QUANTITY": 2, "DISCOUNT_TYPE_ID": 1, "DISCOUNT_SUM": 300}]);
    let state = async || portal.admin_get("state?entity=deal&id=100000").await;
    let old =
        portal.call("crm.deal.productrows.get", json!({"id": 100_000})).await["result"][0]["ID"].clone();
    let before = state().await;
    portal.call("crm.deal.productrows.set", json!({"id": 100_000, "rows": rows})).await;
    let row = portal.call("crm.deal.productrows.get", json!({"id": 100_000})).await["result"][0].clone();
    assert_ne!(row["ID"], old, "rows get new ids");
    assert_eq!((&row["PRICE_BRUTTO"], &row["PRICE_NETTO"]), (&json!(9000.0), &json!(9000.0)));
    let after = state().await;
    assert_eq!(after["OPPORTUNITY"], "17400.00");
    assert_ne!(after["DATE_MODIFY"], before["DATE_MODIFY"]);
    portal.admin_post("settings", json!({"rows_bump": false})).await;
    portal.admin_post("deals/100000", json!({"date_modify": "2026-01-01T00:00:00+03:00"})).await;
    portal.call("crm.deal.productrows.set", json!({"id": 100_000, "rows": rows})).await;
    assert_eq!(state().await["DATE_MODIFY"], "2026-01-01T00:00:00+03:00");
}

#[tokio::test]
async fn users_are_found_by_one_id_many_ids_or_a_filter() {
    let portal = Portal::plain(0, 0).await;
    for params in [
        json!({"ID": 101}),
        json!({"id": "101"}),
        json!({"FILTER": {"ID": [101]}}),
        json!({"filter": {"@ID": [101]}}),
    ] {
        let page = portal.call("user.get", params.clone()).await;
        assert_eq!(page["total"], 1, "{params}");
        assert_eq!(page["result"][0]["ID"], "101");
        assert_eq!(page["result"][0]["ACTIVE"], true);
    }
    let ids: Vec<u64> = (101..120).chain([999]).collect();
    assert_eq!(portal.call("user.get", json!({"ID": ids, "select": ["NAME"]})).await["total"], 19);
    portal.admin_post("users/101", json!({"ACTIVE": false})).await;
    portal.admin_post("users/500", json!({"NAME": "Бот", "USER_TYPE": "bot"})).await;
    assert_eq!(portal.call("user.get", json!({"ID": 101})).await["total"], 1, "dismissed ones are shown");
    assert_eq!(portal.call("user.get", json!({"ID": 101, "ACTIVE": true})).await["total"], 0);
    assert_eq!(portal.call("user.get", json!({"ID": 500})).await["result"], json!([]), "bots are not");
}

#[tokio::test]
async fn directories_name_stages_and_pipelines() {
    let portal = Portal::plain(1, 1).await;
    let stages = async |entity: &str| {
        let page = portal.call("crm.status.list", json!({"filter": {"ENTITY_ID": entity}})).await;
        let rows = page["result"].as_array().expect("rows").clone();
        rows.iter()
            .filter(|row| row["SEMANTICS"] == "S")
            .map(|row| row["STATUS_ID"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(stages("DEAL_STAGE").await, ["WON"]);
    assert_eq!(stages("DEAL_STAGE_10").await, ["C10:WON"]);
    assert!(stages("DEAL_STAGE_0").await.is_empty());
    assert_eq!(portal.post("crm.status.list", json!({"filter": {"ENTITY_ID": ["A"]}})).await.0, 400);
    let categories = portal.call("crm.category.list", json!({"entityTypeId": 2})).await["result"].clone();
    assert_eq!(categories["categories"][0]["isDefault"], "Y");
    let contacts = portal.call("crm.deal.contact.items.get", json!({"id": 100_000})).await["result"].clone();
    assert_eq!(contacts, json!([{"CONTACT_ID": 1000, "SORT": 10, "ROLE_ID": 0, "IS_PRIMARY": "Y"}]));
}

#[tokio::test]
async fn fields_tell_type_and_options() {
    let portal = Portal::plain(0, 0).await;
    let fields = portal.call("crm.deal.fields", json!({})).await["result"].clone();
    assert_eq!(fields["DATE_MODIFY"]["isReadOnly"], true);
    assert_eq!(fields["UF_CRM_1470852549"]["isMultiple"], true);
    assert_eq!(fields["UF_CRM_1470852549"]["items"][0]["ID"], "186");
    assert_eq!(fields["UF_CRM_SYNC_STATUS"]["formLabel"], "Статус синхронизации");
    let items = portal.call("crm.item.fields", json!({"entityTypeId": 2})).await["result"]["fields"].clone();
    assert_eq!(items["updatedTime"]["upperName"], "DATE_MODIFY");
}

#[tokio::test]
async fn the_webhook_knows_itself() {
    let portal = Portal::plain(0, 0).await;
    assert_eq!(portal.call("profile", json!({})).await["result"]["ID"], "1");
    let exists = portal.call("method.get", json!({"name": "crm.contact.list"})).await["result"].clone();
    assert_eq!(exists, json!({"isExisting": true, "isAvailable": true}));
    let unknown = portal.call("method.get", json!({"name": "crm.nothing"})).await["result"].clone();
    assert_eq!(unknown, json!({"isExisting": false, "isAvailable": false}));
    let methods = portal.call("methods", json!({})).await["result"].clone();
    assert!(methods.as_array().is_some_and(|names| names.contains(&json!("batch"))));
    assert!(portal.call("app.info", json!({})).await["result"]["LICENSE"].is_string());
}
