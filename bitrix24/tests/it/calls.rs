//! What goes out, and when it goes out twice.

use std::sync::Arc;
use std::time::Duration;

use bitrix24::{Batch, Command, Entity, Error, ErrorClass, Lane, Update};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Barrier;

use crate::portal::{Portal, body, failure, success, webhook};

#[tokio::test]
async fn a_call_is_posted_as_json() {
    let portal = Portal::with_result(json!({"ID": "7"})).await;
    let params = json!({"id": 7, "filter": {">DATE_MODIFY": "2020-12-20T09:54:41+03:00"}, "none": null});
    let answer = portal.client().call("crm.deal.get", &params, Lane::Live).await.expect("an answer");
    assert_eq!(answer.result.get(), r#"{"ID":"7"}"#);
    let call = &portal.calls()[0];
    assert_eq!((call.method.as_str(), &call.params), ("crm.deal.get", &params));
    assert_eq!(call.headers["content-type"], "application/json");
    assert_eq!(call.headers["accept"], "application/json");
    assert_eq!(call.headers["user-agent"], concat!("rollcall/", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_full_request_bucket_is_tried_once_more() {
    let portal = Portal::start(|number, _| match number {
        0 => failure(503, "QUERY_LIMIT_EXCEEDED", "Too many requests"),
        _ => success(json!(true)),
    })
    .await;
    let client = portal.client();
    client.call("crm.deal.add", &json!({"fields": {}}), Lane::Live).await.expect("an answer");
    assert_eq!((client.stats().requests, client.stats().refused), (2, 1));
}

#[tokio::test]
async fn a_request_bucket_that_stays_full_is_left_to_the_caller() {
    let portal = Portal::start(|_, _| failure(503, "QUERY_LIMIT_EXCEEDED", "")).await;
    let client = portal.client();
    let error = client.call("profile", &json!({}), Lane::Live).await.expect_err("an error");
    assert!(matches!(error.class(), ErrorClass::RateLimited { .. }), "{error}");
    assert_eq!(client.stats().refused, 2);
}

#[tokio::test]
async fn faults_of_the_portal_are_not_tried_again() {
    for (status, code) in [(500, "INTERNAL_SERVER_ERROR"), (503, "OVERLOAD_LIMIT"), (401, "NO_AUTH_FOUND")] {
        let portal = Portal::start(move |_, _| failure(status, code, "")).await;
        portal.client().call("crm.deal.list", &json!({}), Lane::Live).await.expect_err("an error");
        assert_eq!(portal.calls().len(), 1, "{code}");
    }
}

/// Accepts connections, reads something and closes them; returns how many there were.
pub async fn breaking_portal(connections: usize) -> (String, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let task = tokio::spawn(async move {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut buffer = [0; 4_096];
            assert!(stream.read(&mut buffer).await.expect("a request") > 0);
        }
        connections
    });
    (format!("http://{address}"), task)
}

#[tokio::test]
async fn a_broken_connection_is_tried_again_for_reads_only() {
    let client = |origin: &str| {
        bitrix24::Client::builder(webhook(origin)).clock_speed(1_000.0).build().expect("a client")
    };
    let (origin, connections) = breaking_portal(2).await;
    let error = client(&origin).call("crm.deal.list", &json!({}), Lane::Live).await.expect_err("an error");
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    assert_eq!(connections.await.expect("no panic"), 2);

    let (origin, connections) = breaking_portal(2).await;
    let error = client(&origin).call("crm.deal.add", &json!({}), Lane::Live).await.expect_err("an error");
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    assert!(!connections.is_finished(), "a create went out twice");
    connections.abort();
}

/// Answers everything, but on each of its first two connections one request alone, and those together.
async fn portal_of_two_dead_connections() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let origin = format!("http://{}", listener.local_addr().expect("an address"));
    let both = Arc::new(Barrier::new(2));
    tokio::spawn(async move {
        let mut connections = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            connections += 1;
            let dies_after = (connections <= 2).then(|| Arc::clone(&both));
            tokio::spawn(async move {
                let mut buffer = [0; 4_096];
                let mut answered = 0;
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {
                    match &dies_after {
                        Some(_) if answered > 0 => std::future::pending().await,
                        Some(both) => _ = both.wait().await,
                        None => {}
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"result\":true}";
                    stream.write_all(answer).await.expect("somebody listens");
                    answered += 1;
                }
            });
        }
    });
    origin
}

#[tokio::test]
async fn of_connections_that_died_idle_one_alone_is_waited_for() {
    let origin = portal_of_two_dead_connections().await;
    let client = bitrix24::Client::builder(webhook(&origin)).timeout(Duration::from_secs(2));
    let client = client.build().expect("a client");
    let params = json!({});
    let call = || client.call("profile", &params, Lane::Live);
    let (first, second) = tokio::join!(call(), call());
    first.and(second).expect("both connections work");
    let _one_that_died = call().await;
    call().await.expect("a new connection");
}

#[tokio::test]
async fn a_portal_that_is_not_there_is_transient() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let origin = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let client = bitrix24::Client::builder(webhook(&origin)).clock_speed(1_000.0).build().expect("a client");
    let error = client.call("crm.deal.add", &json!({}), Lane::Live).await.expect_err("an error");
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert_eq!((error.class(), error.surely_not_processed()), (ErrorClass::Transient, true));
}

#[tokio::test]
async fn requests_that_cannot_be_sent_stay_here() {
    let portal = Portal::with_result(json!(true)).await;
    let client = portal.client();
    for (method, params) in [("batch", json!({})), ("crm.deal.get?x=1", json!({})), ("profile", json!([1]))] {
        let error = client.call(method, &params, Lane::Live).await.expect_err("an error");
        assert_eq!(error.class(), ErrorClass::Permanent);
    }
    client.batch(&Batch::new(), Lane::Live).await.expect_err("an error");
    assert!(portal.calls().is_empty());
}

#[tokio::test]
async fn a_batch_travels_with_its_commands_encoded_once() {
    let portal = Portal::with_result(json!({"result": {"c0": true}, "result_error": []})).await;
    let mut batch = Batch::new().halting();
    let params = json!({"id": 5, "fields": {"UF_CRM_STATUS": "Телефон: 8+9 & 100% #1"}});
    let id = batch.push(Command::new("crm.deal.update", &params).expect("a command")).expect("room");
    let mut answer = portal.client().batch(&batch, Lane::Live).await.expect("an answer");
    assert_eq!(answer.take(&id).expect("a result").result.get(), "true");
    let call = &portal.calls()[0];
    assert_eq!(call.method, "batch");
    assert_eq!(call.params["halt"], 1);
    let command = &call.commands()[0].1;
    let text = "%D0%A2%D0%B5%D0%BB%D0%B5%D1%84%D0%BE%D0%BD%3A%208%2B9%20%26%20100%25%20%231";
    assert_eq!(command, &format!("crm.deal.update?fields[UF_CRM_STATUS]={text}&id=5"));
}

fn update(id: u64, value: Value) -> Update {
    Update { id, fields: Map::from_iter([("UF_CRM_STATUS".to_owned(), value)]) }
}

#[tokio::test]
async fn updates_go_in_one_batch_but_for_those_it_cannot_carry() {
    let portal = Portal::start(|_, call| match call.method.as_str() {
        "batch" => success(json!({
            "result": {"c0": true}, "result_error": {"c1": {"error": "", "error_description": "Not found"}},
        })),
        _ => success(json!(true)),
    })
    .await;
    let updates = [
        update(1, json!("Успешно")),
        update(2, json!("Имя: $result[a][0][ID]")),
        update(3, json!("Успешно")),
        update(4, json!(null)),
    ];
    let outcomes =
        portal.client().batch_updates(Entity::Contact, &updates, Lane::Live).await.expect("outcomes");
    let summary: Vec<_> = outcomes
        .iter()
        .map(|(id, outcome)| (*id, outcome.as_ref().err().map(|error| error.class())))
        .collect();
    assert_eq!(summary, [(1, None), (2, None), (3, Some(ErrorClass::NotFound)), (4, None)]);
    assert_eq!(portal.methods(), ["batch", "crm.contact.update", "crm.contact.update"]);
    assert_eq!(portal.calls()[1].params["fields"]["UF_CRM_STATUS"], "Имя: $result[a][0][ID]");
}

#[tokio::test]
async fn an_update_that_is_not_confirmed_has_failed() {
    let portal = Portal::with_result(json!({"result": {"c0": false}})).await;
    let updates = [update(1, json!("Успешно"))];
    let outcomes = portal.client().batch_updates(Entity::Deal, &updates, Lane::Live).await.expect("outcomes");
    assert!(outcomes[0].1.is_err());
}

#[tokio::test]
async fn small_methods_read_what_they_ask_for() {
    let portal = Portal::start(|_, call| {
        success(match call.method.as_str() {
            "profile" => json!({"ID": "12", "ADMIN": true, "NAME": "x"}),
            "scope" => json!(["crm", "user_brief"]),
            "server.time" => json!("2026-01-10T12:00:00+03:00"),
            "crm.contact.fields" => json!({
                "UF_CRM_1": {"type": "enumeration", "isMultiple": true, "isReadOnly": false,
                             "title": "UF_CRM_1", "formLabel": "Филиал", "items": [{"ID": "48", "VALUE": "x"}]},
            }),
            "crm.contact.userfield.add" => json!(77),
            other => panic!("unexpected {other}"),
        })
    })
    .await;
    let client = portal.client();
    let profile = client.profile(Lane::Live).await.expect("a profile");
    assert_eq!((profile.id, profile.is_admin), (12, true));
    assert!(client.scope(Lane::Live).await.expect("scopes").contains("crm"));
    let time = client.server_time(Lane::Live).await.expect("a time");
    assert_eq!(time.to_rfc3339(), "2026-01-10T12:00:00+03:00");
    let fields = client.fields(Entity::Contact, Lane::Live).await.expect("fields");
    let field = &fields["UF_CRM_1"];
    assert_eq!((field.kind.as_str(), field.label.as_deref()), ("enumeration", Some("Филиал")));
    assert!(field.is_multiple && field.options.contains(&48));
    assert_eq!(client.add_user_field(Entity::Contact, &Map::new(), Lane::Live).await.expect("an ID"), 77);
}

#[tokio::test]
async fn an_empty_object_of_fields_is_no_answer() {
    let portal = Portal::with_result(json!([])).await;
    portal.client().fields(Entity::Deal, Lane::Live).await.expect_err("an error");
}

#[tokio::test]
async fn users_are_read_fifty_a_command() {
    let portal = Portal::start(|_, call| {
        let ids = |command: &str| command.matches("filter[ID]").count();
        assert_eq!(call.commands().iter().map(|(_, command)| ids(command)).collect::<Vec<_>>(), [50, 10]);
        let row = json!({"ID": "3", "NAME": "Мария", "LAST_NAME": "Иванова", "ACTIVE": false});
        success(json!({"result": {"c0": [row], "c1": []}}))
    })
    .await;
    let ids: Vec<u64> = (1..=60).collect();
    let users = portal.client().users(&ids, Lane::Live).await.expect("users");
    assert_eq!(users.keys().copied().collect::<Vec<_>>(), [3]);
    assert!(!format!("{users:?}").contains("Мария"));
}

#[tokio::test]
async fn users_nobody_asked_for_mean_an_ignored_filter() {
    let portal = Portal::with_result(json!({"result": {"c0": [{"ID": "3"}]}})).await;
    let error = portal.client().users(&[1, 2], Lane::Live).await.expect_err("an error");
    assert!(matches!(error, Error::Listing { .. }), "{error:?}");
}

#[tokio::test]
async fn a_dropped_answer_body_is_not_an_empty_one() {
    let portal = Portal::start(|_, _| body(200, "")).await;
    let error = portal.client().call("crm.deal.list", &json!({}), Lane::Live).await.expect_err("an error");
    assert_eq!(error.class(), ErrorClass::Transient);
}
