//! The client against servers that answer well, badly and not at all.

mod servers;

use std::error::Error as _;
use std::time::Duration;

use axum::http::StatusCode;
use otmechalka::{Client, ClientBody, Error, ErrorClass, TicketBody, TlsFault};
use secrecy::SecretString;
use serde_json::{Value, json};
use servers::{Canned, RawServer, Recorder, TlsServer};
use url::Url;

const TOKEN: &str = "s3cret-t0ken-0123456789";
/// What must never show: parts of the token, the pupil, the parent, the telephone number.
const SECRETS: [&str; 6] = [TOKEN, "s3cret-t0ke", "Свеклов", "Василий", "79265672098", "roditel@example.com"];

fn client(url: &Url) -> Client {
    client_with_timeout(url, Duration::from_secs(20))
}

fn client_with_timeout(url: &Url, timeout: Duration) -> Client {
    Client::builder(url.clone())
        .token(SecretString::from(TOKEN))
        .timeout(timeout)
        .build()
        .expect("good settings")
}

fn pupil() -> ClientBody {
    ClientBody {
        origin_id: "39912".to_owned(),
        last_name: "Свеклов".to_owned(),
        first_name: "Василий".to_owned(),
        phone: "79265672098".to_owned(),
        email: Some("roditel@example.com".to_owned()),
        courses: vec!["10985".to_owned()],
        branchoffices: vec!["2633".to_owned()],
        birthdate: None,
        gender: "M".to_owned(),
        additional_data: None,
    }
}

fn ticket() -> TicketBody {
    TicketBody {
        origin_id: "96038".to_owned(),
        client_origin_id: "39912".to_owned(),
        ticket_type: "6 КМС индивидуальные 45 мин".to_owned(),
        price_initial: "9000.00".to_owned(),
        discount: "300.00".to_owned(),
        price_final: "8700.00".to_owned(),
        selling_date: chrono::NaiveDate::from_ymd_opt(2026, 1, 13).expect("a date"),
        selling_branchoffice: "2633".to_owned(),
        employee: "Андрей Сергеев".to_owned(),
        payment_method: "ONLINE".to_owned(),
    }
}

#[tokio::test]
async fn each_call_goes_to_its_address_with_token_and_body() {
    let recorder = Recorder::start(|| Canned::json(StatusCode::OK, &json!({"id": 12456}))).await;
    let client = client(&recorder.url);
    client.get_client("39912").await.expect("found");
    let created = client.create_client(&pupil()).await.expect("created");
    client.update_client("39912", &pupil()).await.expect("updated");
    client.get_ticket("96038").await.expect("found");
    client.create_ticket(&ticket()).await.expect("created");

    assert_eq!(created.id.as_deref(), Some("12456"));
    let requests = recorder.requests();
    let lines: Vec<String> = requests.iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    assert_eq!(
        lines,
        [
            "GET /api/clients/39912/",
            "POST /api/clients/",
            "POST /api/clients/39912/",
            "GET /api/tickets/96038/",
            "POST /api/tickets/",
        ]
    );
    for request in &requests {
        assert_eq!(request.authorization.as_deref(), Some(format!("Token {TOKEN}").as_str()));
    }
    let body = |n: usize| serde_json::from_slice::<Value>(&requests[n].body).expect("JSON");
    assert_eq!(body(1), serde_json::to_value(pupil()).expect("JSON"));
    assert_eq!(body(2), body(1));
    assert_eq!(body(4)["ticket_type"], "6 КМС индивидуальные 45 мин");
    assert!(requests[0].body.is_empty());
}

#[tokio::test]
async fn base_address_may_have_a_path_and_the_scheme_word_another_name() {
    let recorder = Recorder::start(|| Canned::json(StatusCode::OK, &json!({"id": 1}))).await;
    for base in ["school", "school/"] {
        let client = Client::builder(recorder.url.join(base).expect("a URL"))
            .token(SecretString::from(TOKEN))
            .auth_scheme("Bearer")
            .build()
            .expect("good settings");
        client.get_client("1").await.expect("found");
    }
    let bare = Client::builder(recorder.url.clone()).build().expect("good settings");
    bare.get_client("1").await.expect("found");
    let requests = recorder.requests();
    assert_eq!(requests[0].path, "/school/api/clients/1/");
    assert_eq!(requests[1].path, "/school/api/clients/1/");
    assert_eq!(requests[0].authorization.as_deref(), Some(format!("Bearer {TOKEN}").as_str()));
    assert_eq!(requests[2].authorization, None);
}

#[tokio::test]
async fn ids_that_would_leave_the_path_are_not_sent() {
    let recorder = Recorder::start(|| Canned::json(StatusCode::OK, &json!({"id": 1}))).await;
    let client = client(&recorder.url);
    for id in ["", "..", "1/../../admin", "1?x=1"] {
        let error = client.get_client(id).await.expect_err("refused here");
        assert!(matches!(error, Error::OriginId), "{id}");
        let body = ClientBody { origin_id: id.to_owned(), ..pupil() };
        assert!(matches!(client.create_client(&body).await, Err(Error::OriginId)), "{id}");
    }
    assert!(recorder.requests().is_empty());
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Recorder::start(|| Canned::json(StatusCode::OK, &json!({"id": 1}))).await;
    let target = elsewhere.url.to_string();
    let recorder = Recorder::start(move || Canned::redirect(&target)).await;
    let error = client(&recorder.url).create_client(&pupil()).await.expect_err("no success");
    assert_eq!(error.class(), ErrorClass::Transient);
    assert_eq!(recorder.requests().len(), 1);
    assert!(elsewhere.requests().is_empty(), "the token went to another host");
}

#[tokio::test]
async fn nothing_is_sent_twice() {
    let statuses = [500, 502, 503, 429, 401, 400, 404];
    for status in statuses {
        let status = StatusCode::from_u16(status).expect("a status");
        let recorder = Recorder::start(move || Canned::json(status, &json!({"detail": "нет"}))).await;
        client(&recorder.url).create_client(&pupil()).await.expect_err("no success");
        assert_eq!(recorder.requests().len(), 1, "{status}");
    }
    for server in [RawServer::resetting().await, RawServer::closing().await] {
        let error = client(&server.url).create_client(&pupil()).await.expect_err("no success");
        assert_eq!(error.class(), ErrorClass::Transient);
        assert!(error.outcome_unknown(), "the request had arrived");
        assert_eq!(server.requests(), 1);
    }
}

#[tokio::test]
async fn closed_port_is_unreachable_and_nothing_was_applied() {
    let error = client(&servers::closed_port().await).create_client(&pupil()).await.expect_err("no server");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Transient);
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn silence_and_dripping_end_at_the_time_limit() {
    for server in [RawServer::silent().await, RawServer::dripping().await] {
        let client = client_with_timeout(&server.url, Duration::from_millis(300));
        let error = client.create_ticket(&ticket()).await.expect_err("no whole answer");
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        assert!(error.outcome_unknown());
        let error = client.get_ticket("96038").await.expect_err("no whole answer");
        assert!(!error.outcome_unknown(), "a lookup changes nothing");
    }
}

#[tokio::test]
async fn truncated_and_endless_answers_are_transient() {
    let truncated = RawServer::answering(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"id\": 1",
    )
    .await;
    let error = client(&truncated.url).create_client(&pupil()).await.expect_err("cut short");
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    assert!(error.outcome_unknown());

    let refusal =
        RawServer::answering("HTTP/1.1 400 Bad Request\r\ncontent-length: 500\r\n\r\n{\"detail\": \"Не")
            .await;
    let error = client(&refusal.url).create_client(&pupil()).await.expect_err("cut short");
    assert_eq!(error.class(), ErrorClass::Transient, "half a text would change from run to run");

    let endless = RawServer::endless().await;
    let error = client(&endless.url).create_client(&pupil()).await.expect_err("too long");
    assert!(matches!(error, Error::Garbled { what: "longer than 1 MiB", .. }), "{error:?}");
}

#[tokio::test]
async fn refusals_bring_their_text_and_fields() {
    let body = json!({"phone": ["Только цифры."], "courses": ["Нет такого направления: «7»."], "detail": "Не принято."});
    let recorder = Recorder::start(move || Canned::json(StatusCode::BAD_REQUEST, &body)).await;
    let error = client(&recorder.url).create_client(&pupil()).await.expect_err("refused");
    let ErrorClass::Refused { text, fields } = error.class() else { panic!("not a refusal: {error:?}") };
    assert_eq!(text, "Не принято.");
    assert_eq!(fields[1], ("phone".to_owned(), "Только цифры.".to_owned()));
    assert_eq!(
        error.to_string(),
        "create client 39912: otmechalka refused the record with status 400 (fields: courses phone)"
    );
}

#[tokio::test]
async fn pause_of_a_rate_limit_is_handed_on() {
    let recorder =
        Recorder::start(|| Canned::json(StatusCode::TOO_MANY_REQUESTS, &json!({})).retry_after("17")).await;
    let error = client(&recorder.url).get_client("1").await.expect_err("limited");
    let retry_after = Some(Duration::from_secs(17));
    assert_eq!(error.class(), ErrorClass::RateLimited { retry_after });

    let recorder =
        Recorder::start(|| Canned::json(StatusCode::SERVICE_UNAVAILABLE, &json!({})).retry_after("60")).await;
    let error = client(&recorder.url).get_client("1").await.expect_err("unwell");
    assert_eq!(error.class(), ErrorClass::Transient);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
}

#[tokio::test]
async fn token_is_sent_only_to_a_server_that_proves_its_name() {
    let (good, expired) = (TlsServer::start(4000).await, TlsServer::start(2001).await);
    let call = async |server: &TlsServer, host: &str, authority: Option<&TlsServer>| {
        let url = Url::parse(&format!("https://{host}:{}", server.port)).expect("a URL");
        let mut builder = Client::builder(url).token(SecretString::from(TOKEN));
        if let Some(authority) = authority {
            builder = builder.root_certificates_pem(authority.certificate_pem.clone().into_bytes());
        }
        builder.build().expect("good settings").create_client(&pupil()).await
    };
    let refused = [
        (call(&good, "localhost", None).await, TlsFault::UnknownAuthority),
        (call(&good, "localhost", Some(&expired)).await, TlsFault::UnknownAuthority),
        (call(&good, "127.0.0.1", Some(&good)).await, TlsFault::WrongName),
        (call(&expired, "localhost", Some(&expired)).await, TlsFault::Expired),
    ];
    for (result, why) in refused {
        let error = result.expect_err("no trust");
        assert!(matches!(error, Error::Untrusted { fault, .. } if fault == why), "{error:?}");
        assert!(!error.outcome_unknown());
    }
    assert_eq!((good.requests(), expired.requests()), (0, 0));
    call(&good, "localhost", Some(&good)).await.expect("trust");
    assert_eq!(good.requests(), 1);
}

/// Calls servers that provoke every variant while repeating the record in what they answer.
async fn every_error() -> Vec<Error> {
    let echo =
        json!({"detail": "Телефон 79265672098 (Свеклов Василий, roditel@example.com) занят", "token": TOKEN});
    let mut errors = Vec::new();
    for status in [200, 302, 400, 401, 404, 422, 429, 500, 503] {
        let (status, echo) = (StatusCode::from_u16(status).expect("a status"), echo.clone());
        let recorder = Recorder::start(move || Canned::json(status, &echo)).await;
        errors.push(client(&recorder.url).create_client(&pupil()).await.expect_err("no success"));
    }
    let garbled =
        RawServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\n{\"phone\": 792656720").await;
    errors.push(client(&garbled.url).create_client(&pupil()).await.expect_err("no success"));
    errors.push(client(&servers::closed_port().await).create_client(&pupil()).await.expect_err("no server"));
    let unknown = TlsServer::start(4000).await;
    let url = Url::parse(&format!("https://localhost:{}", unknown.port)).expect("a URL");
    errors.push(client(&url).create_client(&pupil()).await.expect_err("no trust"));
    let silent = RawServer::silent().await;
    let hasty = client_with_timeout(&silent.url, Duration::from_millis(200));
    errors.push(hasty.create_client(&pupil()).await.expect_err("no answer"));
    let resetting = RawServer::resetting().await;
    errors.push(client(&resetting.url).create_client(&pupil()).await.expect_err("no answer"));
    errors.push(hasty.get_client("Свеклов Василий").await.expect_err("not an id"));
    errors
}

fn variant(error: &Error) -> &'static str {
    match error {
        Error::Unreachable { .. } => "unreachable",
        Error::Untrusted { .. } => "untrusted",
        Error::TimedOut { .. } => "timed out",
        Error::Interrupted { .. } => "interrupted",
        Error::Unavailable { .. } => "unavailable",
        Error::Garbled { .. } => "garbled",
        Error::RateLimited { .. } => "rate limited",
        Error::Unauthorized { .. } => "unauthorized",
        Error::NotFound { .. } => "not found",
        Error::Refused { .. } => "refused",
        Error::OriginId => "origin id",
    }
}

#[tokio::test]
async fn no_error_shows_the_token_or_the_pupil() {
    let errors = every_error().await;
    let mut seen: Vec<&str> = errors.iter().map(variant).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 11, "variants provoked: {seen:?}");
    for error in &errors {
        let mut shown = format!("{error} {error:?} {error:#?} {:?}", error.class());
        let mut source = error.source();
        while let Some(cause) = source {
            shown.push_str(&format!(" {cause} {cause:?}"));
            source = cause.source();
        }
        for secret in SECRETS {
            assert!(!shown.contains(secret), "{} shows {secret}: {shown}", variant(error));
        }
    }
    let record =
        Recorder::start(|| Canned::json(StatusCode::OK, &json!({"id": 1, "last_name": "Свеклов"}))).await;
    let found = client(&record.url).get_client("39912").await.expect("found");
    assert_eq!(format!("{found:?}"), r#"Some(Record { id: Some("1"), .. })"#);
}
