//! Every fault does what it says.

use serde_json::{Value, json};

use super::{Portal, STATUS};

/// What a caller without any tolerance sees.
struct Seen {
    status: Option<u16>,
    body: Result<Vec<u8>, reqwest::Error>,
    location: Option<String>,
    json: Option<Value>,
}

impl Portal {
    async fn fault(&self, rule: Value) {
        self.admin_post("faults", rule).await;
    }

    async fn see(&self, method: &str, params: &Value) -> Seen {
        match self.http.post(format!("{}{method}", self.webhook)).json(params).send().await {
            Err(error) => Seen { status: None, body: Err(error), location: None, json: None },
            Ok(response) => {
                let status = Some(response.status().as_u16());
                let location = response.headers().get("location").and_then(|value| value.to_str().ok());
                let location = location.map(str::to_owned);
                let body = response.bytes().await.map(|bytes| bytes.to_vec());
                let json = body.as_ref().ok().and_then(|body| serde_json::from_slice(body).ok());
                Seen { status, body, location, json }
            }
        }
    }

    async fn updates(&self) -> usize {
        self.history().await.len()
    }
}

fn update(text: &str) -> Value {
    json!({"id": 1000, "fields": {STATUS: text}})
}

#[tokio::test]
async fn refusals_carry_nothing_out() {
    let portal = Portal::plain(1, 0).await;
    for (kind, status, code) in [
        ("html_502", 502, None),
        ("html_504", 504, None),
        ("html_403", 403, None),
        ("php_fatal_500", 500, None),
        ("internal_500", 500, Some("INTERNAL_SERVER_ERROR")),
        ("unexpected_answer_500", 500, Some("ERROR_UNEXPECTED_ANSWER")),
        ("portal_deleted_500", 500, Some("PORTAL_DELETED")),
        ("query_limit_503", 503, Some("QUERY_LIMIT_EXCEEDED")),
        ("overload_503", 503, Some("OVERLOAD_LIMIT")),
        ("operating_429", 429, Some("OPERATION_TIME_LIMIT")),
        ("unauthorized_401", 401, Some("NO_AUTH_FOUND")),
        ("expired_401", 401, Some("expired_token")),
        ("forbidden_403", 403, Some("INVALID_CREDENTIALS")),
        ("access_denied_403", 403, Some("ACCESS_DENIED")),
        ("error_under_200", 200, Some("ERROR_CORE")),
        ("empty_code_200", 200, Some("")),
        ("empty_body", 200, None),
        ("html_200", 200, None),
        ("garbage", 200, None),
        ("deep_nesting", 200, None),
    ] {
        portal.fault(json!({"kind": kind, "count": 1})).await;
        let seen = portal.see("crm.contact.update", &update(kind)).await;
        assert_eq!(seen.status, Some(status), "{kind}");
        let error = seen.json.as_ref().and_then(|json| json["error"].as_str());
        assert_eq!(error, code, "{kind}");
        assert_eq!(portal.updates().await, 0, "{kind} is not carried out");
    }
    let faults = portal.admin_get("faults").await["faults"].clone();
    assert!(faults.as_array().is_some_and(|rules| rules.iter().all(|rule| rule["count"] == 0)));
    assert_eq!(portal.admin_get("requests").await["refused_503"], 0, "the bucket has refused nothing");
}

#[tokio::test]
async fn empty_results_look_like_success() {
    let portal = Portal::plain(1, 0).await;
    for (kind, result) in [("result_null", Value::Null), ("result_empty", json!([]))] {
        portal.fault(json!({"kind": kind, "count": 1})).await;
        assert_eq!(portal.call("crm.contact.list", json!({})).await, json!({"result": result}));
    }
}

#[tokio::test]
async fn redirects_lead_to_a_login_or_to_another_domain() {
    let portal = Portal::plain(1, 0).await;
    portal.fault(json!({"kind": "login_redirect", "count": 1})).await;
    let seen = portal.see("profile", &json!({})).await;
    assert_eq!(seen.status, Some(302));
    assert!(seen.location.is_some_and(|location| location.starts_with("/auth/")));
    portal.fault(json!({"kind": "domain_redirect", "location": "https://new.example"})).await;
    let location = portal.see("profile", &json!({})).await.location.expect("a location");
    assert!(
        location.starts_with("https://new.example/rest/1/") && location.ends_with("/profile"),
        "{location}"
    );
}

#[tokio::test]
async fn disturbed_answers_are_carried_out() {
    let portal = Portal::plain(1, 0).await;
    for (done, kind) in [
        "bom",
        "cp1251",
        "php_warning",
        "truncated",
        "bad_gzip",
        "trailing_bytes",
        "truncated_transfer",
        "lone_surrogate",
        "huge_number",
    ]
    .into_iter()
    .enumerate()
    {
        portal.fault(json!({"kind": kind, "count": 1})).await;
        let seen = portal.see("crm.contact.update", &update(kind)).await;
        assert_eq!(seen.status, Some(200), "{kind}");
        assert!(seen.json.is_none() || kind == "cp1251", "{kind} cannot be read as JSON");
        let broken_off = matches!(kind, "bad_gzip" | "truncated_transfer");
        assert_eq!(seen.body.is_err(), broken_off, "{kind}");
        assert_eq!(portal.updates().await, done + 1, "{kind} is carried out");
    }
}

#[tokio::test]
async fn lost_answers_and_resets_differ_in_whether_the_write_was_made() {
    let portal = Portal::plain(1, 0).await;
    for (kind, made) in [("reset_before", 0), ("reset_after_apply", 1)] {
        portal.fault(json!({"kind": kind, "count": 1})).await;
        let seen = portal.see("crm.contact.update", &update(kind)).await;
        assert!(seen.body.is_err_and(|error| !error.is_timeout()), "{kind} breaks the connection");
        assert_eq!(portal.updates().await, made, "{kind}");
    }
    for (kind, made) in [("no_answer", 1), ("answer_lost", 2)] {
        portal.fault(json!({"kind": kind, "count": 1})).await;
        let change = update(kind);
        let answered = portal.see("crm.contact.update", &change);
        let applied = async {
            let struck = |counts: Value| counts["faults"].get(kind).is_some();
            while !struck(portal.admin_get("requests").await) || portal.updates().await < made {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = answered => panic!("{kind} was answered"),
            done = tokio::time::timeout(super::PATIENCE, applied) => done.expect("the fault strikes"),
        }
        assert_eq!(portal.updates().await, made, "{kind}");
    }
}

#[tokio::test]
async fn oversized_answers_go_on_for_as_long_as_anyone_reads() {
    let portal = Portal::plain(1, 0).await;
    for rule in [
        json!({"kind": "huge_body", "bytes": 8_000_000}),
        json!({"kind": "endless_body"}),
        json!({"kind": "gzip_bomb"}),
    ] {
        portal.fault(rule.clone()).await;
        let response = portal.http.post(format!("{}profile", portal.webhook)).send().await;
        let mut response = response.expect("an answer");
        let mut read = 0;
        while read < 7_000_000 {
            read += response.chunk().await.expect("more").expect("no end yet").len();
        }
        portal.admin_delete("faults").await;
    }
}

#[tokio::test]
async fn half_a_batch_is_applied_before_the_gateway_gives_up() {
    let portal = Portal::plain(10, 0).await;
    portal.fault(json!({"kind": "half_batch_then_504", "method": "crm.contact.update", "count": 1})).await;
    let command =
        |id: u64| (format!("u{id}"), json!(format!("crm.contact.update?id={id}&fields[{STATUS}]=x")));
    let commands: serde_json::Map<String, Value> = (1000..1010).map(command).collect();
    let seen = portal.see("batch", &json!({"cmd": commands})).await;
    assert_eq!(seen.status, Some(504));
    let written: Vec<u64> =
        portal.history().await.iter().map(|entry| entry["id"].as_u64().expect("an id")).collect();
    assert_eq!(written, [1000, 1001, 1002, 1003, 1004]);
}

#[tokio::test]
async fn one_command_can_be_made_to_fail() {
    let portal = Portal::plain(2, 0).await;
    let rule = json!({"kind": "command_error", "method": "crm.contact.update", "skip": 1, "count": 1,
        "error": "OPERATION_TIME_LIMIT", "description": "Method is blocked"});
    portal.fault(rule).await;
    let write = |id: u64| format!("crm.contact.update?id={id}&fields[{STATUS}]=x");
    let result = portal.batch(json!({"a": write(1000), "b": write(1001), "c": write(1000)})).await;
    assert_eq!(result["result"], json!({"a": true, "c": true}));
    assert_eq!(result["result_error"]["b"]["error"], "OPERATION_TIME_LIMIT");
}

#[tokio::test]
async fn times_can_be_left_out() {
    let portal = Portal::plain(1, 0).await;
    portal.fault(json!({"kind": "no_operating", "count": 1})).await;
    let time = portal.call("profile", json!({})).await["time"].clone();
    assert!(time.get("operating").is_none() && time.get("finish").is_some());
    portal.fault(json!({"kind": "no_time", "count": 1})).await;
    assert_eq!(portal.call("profile", json!({})).await.get("time"), None);
}

#[tokio::test]
async fn a_slow_answer_takes_the_portals_time() {
    let portal = Portal::plain(1, 0).await;
    portal.fault(json!({"kind": "slow", "seconds": 40, "count": 1})).await;
    let before = portal.admin_get("clock").await["unix"].as_f64().expect("a time");
    portal.call("profile", json!({})).await;
    let after = portal.admin_get("clock").await["unix"].as_f64().expect("a time");
    assert!(after - before >= 39.9, "{}", after - before);
}

#[tokio::test]
async fn a_dripping_answer_arrives_byte_by_byte() {
    let portal = Portal::plain(1, 0).await;
    portal.fault(json!({"kind": "drip", "seconds": 0.001, "count": 1})).await;
    let response = portal.http.post(format!("{}profile", portal.webhook)).send().await;
    let mut response = response.expect("an answer");
    let mut chunks = 0;
    while response.chunk().await.expect("more").is_some() {
        chunks += 1;
    }
    assert!(chunks > 20, "{chunks} pieces");
}
