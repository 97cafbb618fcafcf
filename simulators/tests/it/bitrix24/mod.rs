//! The double of Bitrix24, over real connections and as a process.

mod admin;
mod batches;
mod faults;
mod limits;
mod lists;
mod public_client;
mod restarts;
mod rows_and_reference;
mod transport;
mod writes;

use std::time::Duration;

use serde_json::{Value, json};
use simulators::bitrix24::{Options, Simulator, StartingData};

/// Longest time for anything to happen in a test; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
const STATUS: &str = "UF_CRM_SYNC_STATUS";

/// A running portal and a caller of it.
struct Portal {
    webhook: String,
    admin: String,
    http: reqwest::Client,
    /// Held only to keep the portal running.
    _simulator: Option<Simulator>,
}

impl Portal {
    async fn start(options: Options) -> Self {
        let simulator = Simulator::start(options).await.expect("a running portal");
        let portal = Self::at(&simulator.webhook_url(), &simulator.admin_url());
        Self { _simulator: Some(simulator), ..portal }
    }

    fn at(webhook: &str, admin: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.timeout(PATIENCE).build().expect("an HTTP client");
        Self { webhook: webhook.to_owned(), admin: admin.to_owned(), http, _simulator: None }
    }

    /// Starts a portal with these numbers of valid records, a fast clock and no shuffling.
    async fn plain(contacts: usize, deals: usize) -> Self {
        Self::start(plain(contacts, deals)).await
    }

    /// Calls a method with JSON; returns status and body.
    async fn post(&self, method: &str, params: Value) -> (u16, Value) {
        read(self.http.post(format!("{}{method}", self.webhook)).json(&params)).await
    }

    /// Calls a method that has to succeed; returns the whole answer.
    async fn call(&self, method: &str, params: Value) -> Value {
        let (status, body) = self.post(method, params).await;
        assert_eq!(status, 200, "{method}: {body}");
        assert!(body.get("error").is_none(), "{method}: {body}");
        body
    }

    /// Runs a batch; returns its `result`.
    async fn batch(&self, commands: Value) -> Value {
        self.call("batch", json!({"cmd": commands})).await["result"].clone()
    }

    async fn admin_get(&self, path: &str) -> Value {
        let (status, body) = read(self.http.get(format!("{}{path}", self.admin))).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn admin_post(&self, path: &str, body: Value) -> Value {
        let (status, body) = read(self.http.post(format!("{}{path}", self.admin)).json(&body)).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn admin_delete(&self, path: &str) -> Value {
        let (status, body) = read(self.http.delete(format!("{}{path}", self.admin))).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn history(&self) -> Vec<Value> {
        self.admin_get("history").await["history"].as_array().expect("a list").clone()
    }

    async fn contact(&self, id: u64) -> Value {
        self.admin_get(&format!("state?entity=contact&id={id}")).await
    }
}

fn plain(contacts: usize, deals: usize) -> Options {
    Options {
        data: StartingData::Plain,
        contacts,
        deals,
        clock_speed: 100.0,
        settings: json!({"shuffle_unordered": false}),
        ..Options::default()
    }
}

async fn read(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a whole answer");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Returns the ids of the rows of a list.
fn ids(rows: &Value) -> Vec<u64> {
    let id = |row: &Value| row["ID"].as_str().and_then(|id| id.parse().ok()).or_else(|| row["id"].as_u64());
    rows.as_array().expect("a list of rows").iter().map(|row| id(row).expect("an id")).collect()
}
