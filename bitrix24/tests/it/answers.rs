//! Bodies of all sorts.

use std::io::Write;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use bitrix24::error::AnswerFault;
use bitrix24::{Client, Error, ErrorClass, Lane};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::portal::{Portal, body, webhook};

async fn list(client: &Client) -> Result<bitrix24::Answer, Error> {
    client.call("crm.deal.list", &json!({}), Lane::Live).await
}

async fn error_of(text: impl Into<Bytes>) -> Error {
    let text = text.into();
    let portal = Portal::start(move |_, _| body(200, text.clone())).await;
    list(&portal.client()).await.expect_err("an error")
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

fn gzipped(bytes: Vec<u8>) -> Response {
    let mut response = body(200, bytes);
    response.headers_mut().insert("content-encoding", "gzip".parse().expect("a header"));
    response
}

#[tokio::test]
async fn broken_answers_are_transient_errors() {
    for text in [
        "".to_owned(),
        "<html><title>Login</title></html>".to_owned(),
        r#"{"result":null}"#.to_owned(),
        r#"{"result":[{"ID":"1"#.to_owned(),
        "\u{feff}{\"result\":[]}".to_owned(),
        "<b>Warning</b>: foo in <b>bar.php</b>\n{\"result\":[]}".to_owned(),
        r#"{"result":[{"ID":"\ud800"}]}"#.to_owned(),
        r#"{"result":[{"ID":1e400}]}"#.to_owned(),
        format!(r#"{{"result":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000)),
        format!(r#"{{"result":{}"#, r#"{"a":"#.repeat(100_000)),
    ] {
        let error = error_of(text).await;
        assert!(matches!(error, Error::Answer { .. }), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Transient);
    }
    let error = error_of(b"{\"result\":[\"\xcf\xf0\xe8\"]}".to_vec()).await;
    assert!(matches!(error, Error::Answer { fault: AnswerFault::Encoding, .. }), "{error:?}");
}

#[tokio::test]
async fn compressed_answers_are_read() {
    let portal = Portal::start(|_, _| gzipped(gzip(br#"{"result":[{"ID":"1"}]}"#))).await;
    assert_eq!(list(&portal.client()).await.expect("an answer").result.get(), r#"[{"ID":"1"}]"#);
}

#[tokio::test]
async fn badly_compressed_answers_are_transient_errors() {
    let portal = Portal::start(|_, _| gzipped(b"not gzip at all, whatever the header says".to_vec())).await;
    let error = list(&portal.client()).await.expect_err("an error");
    assert_eq!(error.class(), ErrorClass::Transient, "{error:?}");
}

#[tokio::test]
async fn a_body_is_cut_at_the_limit() {
    let exactly = format!(r#"{{"result":"{}"}}"#, "x".repeat(1_000));
    let limit = exactly.len();
    let portal = Portal::start(move |_, _| body(200, exactly.clone())).await;
    assert!(list(&portal.builder().max_body_bytes(limit).build().expect("a client")).await.is_ok());
    let error = list(&portal.builder().max_body_bytes(limit - 1).build().expect("a client")).await;
    assert!(matches!(error, Err(Error::TooLarge { .. })), "{error:?}");
}

#[tokio::test]
async fn a_compressed_bomb_is_cut_at_the_limit() {
    let bomb = gzip(&vec![b' '; 32 << 20]);
    assert!(bomb.len() < 64 << 10);
    let portal = Portal::start(move |_, _| gzipped(bomb.clone())).await;
    let error = list(&portal.client()).await.expect_err("an error");
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn an_endless_body_is_cut_at_the_limit() {
    let endless = || Body::from_stream(Endless);
    let portal = Portal::start(move |_, _| endless().into_response()).await;
    let error = list(&portal.builder().max_body_bytes(1 << 20).build().expect("a client")).await;
    assert!(matches!(error, Err(Error::TooLarge { .. })), "{error:?}");
}

struct Endless;

impl futures::Stream for Endless {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(Some(Ok(Bytes::from_static(&[b' '; 8_192]))))
    }
}

/// Sends the head of an answer, then one byte whenever one is asked for, and never ends.
async fn dripping_portal() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4_096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
            let mut drip = tokio::time::interval(Duration::from_millis(10));
            while stream.write_all(b" ").await.is_ok() {
                drip.tick().await;
            }
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_dripping_answer_ends_at_the_time_limit_for_the_whole() {
    let client = Client::builder(webhook(&dripping_portal().await)).timeout(Duration::from_millis(300));
    let error = list(&client.build().expect("a client")).await.expect_err("an error");
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!(!error.surely_not_processed());
}

#[tokio::test]
async fn a_truncated_answer_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let origin = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4_096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"result\":[]}").await;
        }
    });
    let client = Client::builder(webhook(&origin)).clock_speed(1_000.0).build().expect("a client");
    let error = list(&client).await.expect_err("an error");
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn an_error_key_decides_whatever_the_status() {
    for (status, text, class) in [
        (200, r#"{"error":"","error_description":"Not found"}"#, ErrorClass::NotFound),
        (200, r#"{"error":"expired_token"}"#, ErrorClass::Refused),
        (200, r#"{"error":100,"error_description":"x"}"#, ErrorClass::Permanent),
        (500, r#"{"error":"PORTAL_DELETED"}"#, ErrorClass::Refused),
        (500, "<html>", ErrorClass::Transient),
        (504, "", ErrorClass::Transient),
        (403, "<html>", ErrorClass::Refused),
    ] {
        let portal = Portal::start(move |_, _| body(status, text)).await;
        let error = list(&portal.client()).await.expect_err("an error");
        assert_eq!(error.class(), class, "{status} {text}");
    }
}
