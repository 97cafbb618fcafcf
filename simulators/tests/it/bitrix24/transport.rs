//! Addresses, verbs, encodings and the envelope.

use serde_json::{Value, json};

use super::{Portal, read};

#[tokio::test]
async fn every_encoding_of_a_call_means_the_same() {
    let portal = Portal::plain(60, 0).await;
    let url = format!("{}crm.contact.list", portal.webhook);
    let query = "filter[%3EID]=1055&order[ID]=ASC&select[]=ID&start=-1";
    let json = json!({"filter": {">ID": 1055}, "order": {"ID": "ASC"}, "select": ["ID"], "start": -1});
    let http = &portal.http;
    let multipart = concat!(
        "--B\r\nContent-Disposition: form-data; name=\"filter[>ID]\"\r\n\r\n1055\r\n",
        "--B\r\nContent-Disposition: form-data; name=\"order[ID]\"\r\n\r\nASC\r\n",
        "--B\r\nContent-Disposition: form-data; name=\"select[]\"\r\n\r\nID\r\n",
        "--B\r\nContent-Disposition: form-data; name=\"start\"\r\n\r\n-1\r\n--B--\r\n"
    );
    let form = |url: String, content_type: &str, body: &str| {
        http.post(url).header("content-type", content_type.to_owned()).body(body.to_owned())
    };
    let requests = [
        http.get(format!("{url}?{query}")),
        http.get(format!("{url}.json?{}", query.replace("filter", "FILTER").replace("select", "SELECT"))),
        http.get(format!("{url}/?{query}")),
        http.post(url.clone()).json(&json),
        http.post(format!("{url}?start=-1")).json(&json!({"FILTER": {">ID": "1055"}, "ORDER": {"ID": "ASC"},
            "SELECT": {"0": "ID"}})),
        form(url.clone(), "application/x-www-form-urlencoded", query),
        form(url.clone(), "multipart/form-data; boundary=B", multipart),
    ];
    for request in requests {
        let (status, body) = read(request).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(body["result"], json!([{"ID": "1056"}, {"ID": "1057"}, {"ID": "1058"}, {"ID": "1059"}]));
    }
}

#[tokio::test]
async fn wrong_addresses_are_refused_with_the_portals_codes() {
    let portal = Portal::plain(1, 0).await;
    let wrong_code = portal.webhook.replace("/rest/1/", "/rest/1/x");
    let wrong_user = portal.webhook.replace("/rest/1/", "/rest/2/");
    for (url, status, code) in [
        (format!("{wrong_code}profile"), 401, "NO_AUTH_FOUND"),
        (format!("{wrong_user}profile"), 401, "NO_AUTH_FOUND"),
        (format!("{}crm.nothing", portal.webhook), 404, "ERROR_METHOD_NOT_FOUND"),
    ] {
        let (answered, body) = read(portal.http.get(url)).await;
        assert_eq!((answered, body["error"].as_str()), (status, Some(code)));
    }
}

#[tokio::test]
async fn a_scope_that_was_not_granted_is_refused() {
    let portal = Portal::plain(1, 0).await;
    portal.admin_post("settings", json!({"scopes": ["user_brief"]})).await;
    let (status, body) = portal.post("crm.contact.list", json!({})).await;
    assert_eq!((status, &body["error"]), (403, &json!("insufficient_scope")));
    let user = portal.call("user.get", json!({"ID": 101})).await["result"][0].clone();
    assert_eq!(user.get("EMAIL"), None, "user_brief shows no addresses");
    assert_eq!(portal.call("scope", json!({})).await["result"], json!(["user_brief"]));
}

#[tokio::test]
async fn answers_tell_the_portals_time() {
    let portal = Portal::plain(1, 0).await;
    let time = portal.call("profile", json!({})).await["time"].clone();
    let keys: Vec<&String> = time.as_object().expect("an object").keys().collect();
    let all = [
        "date_finish",
        "date_start",
        "duration",
        "finish",
        "operating",
        "operating_reset_at",
        "processing",
        "start",
    ];
    assert_eq!(keys, all);
    assert!(time["date_start"].as_str().is_some_and(|start| start.len() == 25 && start.ends_with("+03:00")));
    portal.admin_post("settings", json!({"time_keys": "no_operating"})).await;
    let time = portal.call("profile", json!({})).await["time"].clone();
    assert_eq!(time.get("operating"), None);
    portal.admin_post("settings", json!({"time_keys": "none"})).await;
    assert_eq!(portal.call("profile", json!({})).await.get("time"), None);
}

#[tokio::test]
async fn a_moved_portal_prints_the_same_moments_with_another_offset() {
    let portal = Portal::plain(1, 0).await;
    let fields = json!({"UF_CRM_1607943642": "2014-11-26T03:00:00+03:00"});
    portal
        .admin_post("contacts/1000", json!({"fields": fields, "date_modify": "2026-01-01T12:00:00+03:00"}))
        .await;
    portal.admin_post("settings", json!({"zone": "+04:00"})).await;
    let contact = portal.call("crm.contact.get", json!({"id": 1000})).await["result"].clone();
    assert_eq!(contact["DATE_MODIFY"], "2026-01-01T13:00:00+04:00");
    assert_eq!(contact["UF_CRM_1607943642"], "2014-11-26T04:00:00+04:00", "still midnight of UTC");
    let server_time = portal.call("server.time", json!({})).await["result"].clone();
    assert!(server_time.as_str().is_some_and(|time| time.ends_with("+04:00")));
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused() {
    let portal = Portal::plain(1, 0).await;
    let post = |body: &str, content_type: &str| {
        let request = portal.http.post(format!("{}profile", portal.webhook));
        read(request.header("content-type", content_type.to_owned()).body(body.to_owned()))
    };
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    for (body, content_type) in [
        ("{\"a\":", "application/json"),
        (deep.as_str(), "application/json"),
        ("--B\r\n", "multipart/form-data; boundary=B"),
        ("x", "multipart/form-data"),
    ] {
        let (status, answer) = post(body, content_type).await;
        assert_eq!((status, &answer["error"]), (400, &json!("INVALID_REQUEST")), "{content_type}");
    }
    assert_ne!(portal.call("profile", json!({})).await["result"], Value::Null);
}
