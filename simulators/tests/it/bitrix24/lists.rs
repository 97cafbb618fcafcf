//! Paging, filters, orders and selections.

use serde_json::{Value, json};

use super::{Portal, ids};

#[tokio::test]
async fn counted_pages_lead_to_the_end() {
    let portal = Portal::plain(120, 0).await;
    let (mut seen, mut start) = (Vec::new(), json!(0));
    loop {
        let params = json!({"order": {"ID": "ASC"}, "select": ["ID"], "start": start});
        let page = portal.call("crm.contact.list", params).await;
        assert_eq!(page["total"], 120);
        seen.extend(ids(&page["result"]));
        match page.get("next") {
            Some(next) => start = next.clone(),
            None => break,
        }
    }
    assert_eq!(seen, (1000..1120).collect::<Vec<u64>>());
}

#[tokio::test]
async fn an_uncounted_page_has_a_meaningless_total_and_no_next() {
    let portal = Portal::plain(120, 0).await;
    let page = portal.call("crm.contact.list", json!({"order": {"ID": "ASC"}, "start": -1})).await;
    assert_eq!(page["total"], 0);
    assert_eq!(page.get("next"), None);
    assert_eq!(page["result"].as_array().map(Vec::len), Some(50));
}

#[tokio::test]
async fn a_keyset_walk_meets_every_record_once() {
    let portal = Portal::plain(130, 0).await;
    for (method, field) in [("crm.contact.list", "ID"), ("crm.item.list", "id")] {
        let (mut seen, mut last) = (Vec::<u64>::new(), 0);
        loop {
            let (filter, order) = (json!({format!(">{field}"): last}), json!({field: "ASC"}));
            let params =
                json!({"entityTypeId": 3, "filter": filter, "order": order, "select": [field], "start": -1});
            let result = portal.call(method, params).await["result"].clone();
            let page = ids(result.get("items").unwrap_or(&result));
            seen.extend(&page);
            match page.last() {
                Some(id) if page.len() == 50 => last = *id,
                _ => break,
            }
        }
        assert_eq!(seen, (1000..1130).collect::<Vec<u64>>(), "{method}");
    }
}

#[tokio::test]
async fn unknown_filter_keys_select_everything_or_are_refused() {
    let portal = Portal::plain(3, 0).await;
    let filter = json!({"NO_SUCH_FIELD": "x", "id": 1, ">=date_modify": "2099-01-01"});
    let page = portal.call("crm.contact.list", json!({"filter": filter})).await;
    assert_eq!(page["total"], 3, "a mistyped filter is a full export");
    for params in [json!({"filter": filter}), json!({"order": {"noSuchField": "ASC"}})] {
        let mut params = params;
        params["entityTypeId"] = json!(3);
        let (status, body) = portal.post("crm.item.list", params).await;
        assert_eq!((status, &body["error"]), (400, &json!("INVALID_ARG_VALUE")));
    }
}

#[tokio::test]
async fn a_time_with_its_plus_unencoded_selects_nothing() {
    let portal = Portal::plain(3, 0).await;
    for (time, total) in
        [("2000-01-01T00:00:00%2B03:00", 3), ("2000-01-01T00:00:00+03:00", 0), ("2000-01-01T00:00:00", 3)]
    {
        let url = format!("{}crm.contact.list?filter[%3EDATE_MODIFY]={time}", portal.webhook);
        let (_, page) = super::read(portal.http.get(url)).await;
        assert_eq!(page["total"], total, "{time}");
    }
}

#[tokio::test]
async fn a_window_of_times_is_exact_to_the_second() {
    let portal = Portal::plain(3, 0).await;
    for (id, second) in [(1000, "00"), (1001, "01"), (1002, "02")] {
        let time = format!("2026-01-01T10:00:{second}+03:00");
        portal.admin_post(&format!("contacts/{id}"), json!({"fields": {}, "date_modify": time})).await;
    }
    for (filter, expected) in [
        (json!({">=DATE_MODIFY": "2026-01-01T10:00:01+03:00"}), vec![1001, 1002]),
        (json!({">DATE_MODIFY": "2026-01-01T07:00:01Z"}), vec![1002]),
        (json!({"<DATE_MODIFY": "2026-01-01 10:00:01"}), vec![1000]),
        (
            json!({">=DATE_MODIFY": "2026-01-01T10:00:00+03:00", "<DATE_MODIFY": "01.01.2026 10:00:02"}),
            vec![1000, 1001],
        ),
    ] {
        let page = portal.call("crm.contact.list", json!({"filter": filter, "order": {"ID": "ASC"}})).await;
        assert_eq!(ids(&page["result"]), expected, "{filter}");
    }
}

#[tokio::test]
async fn telephones_come_only_by_name() {
    let portal = Portal::plain(1, 0).await;
    let row = |page: Value| page["result"][0].clone();
    for select in [json!([]), json!(["*", "UF_*"])] {
        let row = row(portal.call("crm.contact.list", json!({"select": select})).await);
        assert_eq!(row.get("PHONE"), None);
        assert_eq!(row["HAS_PHONE"], "Y");
        assert!(row.get("UF_CRM_1470852549").is_some());
    }
    let named = row(portal.call("crm.contact.list", json!({"select": ["PHONE", "EMAIL"]})).await);
    assert!(named["PHONE"][0]["VALUE"].is_string());
    assert_eq!(named.get("EMAIL"), None, "an empty one has no key");
    assert_eq!(named.get("NAME"), None);
    let got = portal.call("crm.contact.get", json!({"id": 1000})).await["result"].clone();
    assert!(got["PHONE"][0]["VALUE"].is_string());
    let by_phone = json!({"filter": {"PHONE": named["PHONE"][0]["VALUE"]}});
    assert_eq!(portal.call("crm.contact.list", by_phone).await["total"], 1);
}

#[tokio::test]
async fn an_unordered_list_repeats_and_skips_rows_between_pages() {
    let portal = Portal::plain(100, 0).await;
    portal.admin_post("settings", json!({"shuffle_unordered": true})).await;
    let mut seen = Vec::new();
    for start in [0, 50] {
        let params = json!({"start": start, "order": {"OPENED": "ASC"}, "select": ["ID"]});
        seen.extend(ids(&portal.call("crm.contact.list", params).await["result"]));
    }
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() < 100, "equal keys come in another order every time");
}

#[tokio::test]
async fn orders_of_several_keys_are_followed() {
    let portal = Portal::plain(4, 0).await;
    for (id, name, surname) in [(1000, "Б", "Я"), (1001, "А", "Я"), (1002, "В", "А"), (1003, "А", "А")]
    {
        portal
            .admin_post(&format!("contacts/{id}"), json!({"fields": {"NAME": name, "LAST_NAME": surname}}))
            .await;
    }
    let body = r#"{"order": {"LAST_NAME": "DESC", "NAME": "ASC"}, "select": ["ID"]}"#;
    let request = portal.http.post(format!("{}crm.contact.list", portal.webhook));
    let (_, page) = super::read(request.header("content-type", "application/json").body(body)).await;
    assert_eq!(ids(&page["result"]), [1001, 1000, 1003, 1002]);
}

#[tokio::test]
async fn items_take_alternatives_and_print_numbers() {
    let portal = Portal::plain(1, 6).await;
    let filter =
        json!({"0": {"logic": "OR", "0": {"id": 100_001}, "1": {">=id": 100_004}}, "stageSemanticId": "S"});
    let params = json!({"entityTypeId": 2, "filter": filter, "order": {"id": "ASC"}, "select": ["id", "opportunity",
        "contactIds", "ufCrmSyncStatus"]});
    let items = portal.call("crm.item.list", params).await["result"]["items"].clone();
    assert_eq!(ids(&items), [100_001, 100_004, 100_005]);
    assert!(items[0]["opportunity"].is_number());
    assert_eq!(items[0]["contactIds"], json!([1000]));
    assert_eq!(items[0]["ufCrmSyncStatus"], "");
}

#[tokio::test]
async fn a_parameter_that_is_no_array_is_an_error() {
    let portal = Portal::plain(1, 0).await;
    let (status, body) = portal.post("crm.contact.list", json!({"filter": "ID"})).await;
    assert_eq!(status, 400);
    assert_eq!(body, json!({"error": "", "error_description": "Parameter 'filter' must be array."}));
}

#[tokio::test]
async fn a_write_becomes_readable_to_lists_after_the_set_delay() {
    let portal = Portal::plain(1, 0).await;
    portal.admin_post("clock", json!({"speed": 0.001})).await;
    portal
        .admin_post(
            "settings",
            json!({"list_delay_seconds": 30, "costs": {"seconds": {"*.list": 0, "*.get": 0},
        "count_base": 0, "count_per_match": 0}}),
        )
        .await;
    portal.admin_post("contacts/1000", json!({"fields": {"NAME": "Новое"}})).await;
    let named = json!({"filter": {"NAME": "Новое"}});
    assert_eq!(portal.call("crm.contact.list", named.clone()).await["total"], 0);
    assert_eq!(portal.call("crm.contact.get", json!({"id": 1000})).await["result"]["NAME"], "Новое");
    portal.admin_post("clock", json!({"advance_seconds": 31})).await;
    assert_eq!(portal.call("crm.contact.list", named).await["total"], 1);
}

#[tokio::test]
async fn answers_can_be_shaped_in_unusual_ways() {
    let portal = Portal::plain(2, 1).await;
    let shape = json!({"unset_multiple": [], "unset_multifield": false, "swap_numbers_and_strings": true,
        "rows_as_object": true, "lists_as_objects": true, "unknown_keys": true, "no_total_and_next": true});
    portal.admin_post("settings", json!({"shape": shape})).await;
    let select = json!(["*", "UF_*", "EMAIL"]);
    let page = portal.call("crm.contact.list", json!({"select": select, "order": {"ID": "ASC"}})).await;
    assert_eq!(page.get("total"), None);
    let row = &page["result"]["0"];
    assert_eq!(row["ID"], 1000);
    assert_eq!(row["EMAIL"], false);
    assert!(row["UF_CRM_1470852549"]["0"].is_number());
    assert!(row["UNKNOWN_NEW_FIELD"].is_object());
    let rows = portal.call("crm.deal.productrows.get", json!({"id": 100_000})).await["result"].clone();
    assert!(rows[0]["PRICE"].is_string() && rows[0]["ID"].is_number());
}
