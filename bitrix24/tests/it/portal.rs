//! A portal on a loopback port that answers as a test tells it to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bitrix24::{Client, ClientBuilder};
use secrecy::SecretString;
use serde_json::{Value, json};

/// The webhook's secret, in which no other word hides.
pub const CODE: &str = "w3bh00kc0de";

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: String,
    pub params: Value,
    pub headers: HeaderMap,
}

impl Call {
    /// Returns the commands of a batch in alphabetical order.
    pub fn commands(&self) -> Vec<(String, String)> {
        let commands = self.params["cmd"].as_object().expect("a batch");
        commands
            .iter()
            .map(|(id, command)| (id.clone(), command.as_str().expect("text").to_owned()))
            .collect()
    }
}

pub struct Portal {
    pub address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Portal {
    /// Starts a portal; the function gets the number of the request, from 0, and the request.
    pub async fn start(answer: impl Fn(usize, &Call) -> Response + Clone + Send + Sync + 'static) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = calls.clone();
        let app = Router::new().fallback(async move |request: Request| {
            let call = read(request).await;
            let number = {
                let mut seen = seen.lock().expect("no test panics here");
                seen.push(call.clone());
                seen.len() - 1
            };
            answer(number, &call)
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, calls }
    }

    /// Starts a portal that gives every call the same result.
    pub async fn with_result(result: Value) -> Self {
        Self::start(move |_, _| success(result.clone())).await
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no test panics here").clone()
    }

    pub fn methods(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.method).collect()
    }

    /// Returns a builder at a thousand times the speed, so that every pause is short.
    pub fn builder(&self) -> ClientBuilder {
        Client::builder(webhook(&format!("http://{}", self.address))).clock_speed(1_000.0)
    }

    pub fn client(&self) -> Client {
        self.builder().build().expect("a client")
    }
}

pub fn webhook(origin: &str) -> SecretString {
    SecretString::from(format!("{origin}/rest/1/{CODE}/"))
}

async fn read(request: Request) -> Call {
    assert_eq!(request.method(), "POST");
    let method = request.uri().path().strip_prefix(&format!("/rest/1/{CODE}/")).expect("the webhook's path");
    let method = method.strip_suffix(".json").expect("a method").to_owned();
    let headers = request.headers().clone();
    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.expect("a body");
    Call { method, params: serde_json::from_slice(&body).expect("JSON"), headers }
}

pub fn success(result: Value) -> Response {
    body(200, json!({ "result": result, "time": {} }).to_string())
}

pub fn failure(status: u16, code: &str, description: &str) -> Response {
    body(status, json!({"error": code, "error_description": description}).to_string())
}

pub fn body(status: u16, text: impl Into<Bytes>) -> Response {
    let mut response = Body::from(text.into()).into_response();
    *response.status_mut() = status.try_into().expect("a status");
    response
}

pub fn redirect(status: u16, location: &str) -> Response {
    let mut response = body(status, "");
    response.headers_mut().insert("location", location.parse().expect("a header"));
    response
}
