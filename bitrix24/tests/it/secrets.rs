//! The webhook never shows.

use std::error::Error as _;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitrix24::{Client, Error, Lane, Listing};
use serde_json::{Map, json};
use tracing_subscriber::fmt::MakeWriter;

use crate::calls::breaking_portal;
use crate::portal::{CODE, Portal, body, failure, redirect, webhook};

/// Everything that has been logged or shown.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Output {
    fn show(&mut self, error: &(dyn std::error::Error + 'static)) {
        let mut cause = Some(error);
        while let Some(error) = cause {
            writeln!(self, "{error} {error:?} {error:#?}").expect("memory");
            cause = error.source();
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

/// Half of the secret is too much.
fn assert_clean(text: &str) {
    for part in [CODE, &CODE[..8], &CODE[3..]] {
        let line = text.lines().find(|line| line.contains(part));
        assert_eq!(line, None, "the secret shows");
    }
}

async fn every_kind_of_error() -> Vec<Error> {
    let leaking = format!("see https://portal.example/rest/1/{CODE}/");
    let descriptive = leaking.clone();
    let portals = [
        Portal::start(move |_, _| failure(400, "ERROR_CORE", &descriptive)).await,
        Portal::start(|_, _| failure(503, "QUERY_LIMIT_EXCEEDED", "")).await,
        Portal::start(|_, _| failure(429, "OPERATION_TIME_LIMIT", "")).await,
        Portal::start(|_, _| failure(401, "NO_AUTH_FOUND", "")).await,
        Portal::start(move |_, _| body(200, leaking.clone())).await,
        Portal::start(|_, _| body(502, "")).await,
        Portal::start(|_, _| body(200, "x".repeat(100_000))).await,
        Portal::start(|_, _| redirect(302, &format!("https://a.example/auth/?from=/rest/1/{CODE}/"))).await,
        Portal::start(|_, _| body(200, r#"{"result":{"result":{"c0":[{}]}}}"#)).await,
    ];
    let listing = Listing::classic("crm.deal.list", Map::new(), &[]);
    let mut errors = Vec::new();
    for portal in &portals {
        let client = portal.builder().max_body_bytes(50_000).build().expect("a client");
        errors.extend(client.call("crm.deal.get", &json!({}), Lane::Live).await.err());
        let page = client.list_page(&listing, 0, bitrix24::ChainLength::SINGLE, Lane::Live).await;
        errors.extend(page.err());
    }
    let client = portals[0].client();
    for method in [format!("crm/{CODE}"), "batch".to_owned()] {
        errors.extend(client.call(&method, &json!({}), Lane::Live).await.err());
    }
    // Nobody listens on the first, and nothing comes of the second.
    for origin in ["http://127.0.0.1:1".to_owned(), silent_portal().await] {
        let builder = Client::builder(webhook(&origin)).timeout(Duration::from_millis(200));
        let client = builder.clock_speed(1_000.0).build().expect("a client");
        errors.extend(client.call("profile", &json!({}), Lane::Live).await.err());
    }
    let (breaking, _connections) = breaking_portal(2).await;
    let client = Client::builder(webhook(&breaking)).clock_speed(1_000.0).build().expect("a client");
    errors.extend(client.call("profile", &json!({}), Lane::Live).await.err());
    // Like an untrusted portal, it holds the method and words of our own.
    errors.push(Error::OperatingBudget { method: "profile".into(), reset_at: None });
    errors
}

async fn silent_portal() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            streams.push(stream);
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn neither_errors_nor_logs_show_the_webhook() {
    let mut output = Output::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(output.clone());
    // For the whole process, since connections live in tasks of their own.
    subscriber.init();
    let errors = every_kind_of_error().await;
    for kind in [
        "Api",
        "Status",
        "TooLarge",
        "Redirect",
        "Answer",
        "Listing",
        "Request",
        "Connect",
        "Timeout",
        "Broken",
        "OperatingBudget",
    ] {
        let found = errors.iter().any(|error| format!("{error:?}").starts_with(kind));
        assert!(found, "no error of kind {kind}: {errors:?}");
    }
    for error in &errors {
        output.show(error);
    }
    let text = output.text();
    assert!(text.contains("TRACE") || text.contains("DEBUG"), "nothing was logged");
    assert_clean(&text);
}

#[test]
fn neither_builders_nor_clients_nor_their_refusals_show_the_webhook() {
    let mut output = Output::default();
    let builder = Client::builder(webhook("https://portal.example"));
    writeln!(output, "{builder:?} {builder:#?}").expect("memory");
    let client = builder.build().expect("a client");
    writeln!(output, "{client:?} {client:#?} {:?}", client.stats()).expect("memory");
    for origin in ["http://portal.example", "ftp://portal.example", "portal", "https://u:p@portal.example"] {
        output.show(&Client::builder(webhook(origin)).build().expect_err("a refusal"));
    }
    let extra =
        secrecy::SecretString::from(format!("https://portal.example/rest/1/{CODE}/profile.json?x={CODE}"));
    output.show(&Client::builder(extra).build().expect_err("a refusal"));
    assert_clean(&output.text());
}

#[test]
fn settings_out_of_range_are_named() {
    let builder = || Client::builder(webhook("https://portal.example"));
    for (builder, name) in [
        (builder().timeout(Duration::from_secs(76)), "timeout"),
        (builder().clock_speed(0.0), "clock speed"),
        (builder().operating_limit(f64::NAN), "operating limit"),
        (builder().max_body_bytes(0), "body limit"),
        (builder().request_limit(0, 2.0), "request limit"),
        (builder().root_certificates("no certificate"), "certificate"),
    ] {
        let error = builder.build().expect_err("a refusal");
        assert!(error.source().is_none());
        assert!(error.to_string().contains(name), "{error}");
    }
}
