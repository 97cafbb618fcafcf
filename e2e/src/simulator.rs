//! Both simulators through their admin endpoints: what a judge sees, and what people do.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::process::Program;

/// Requests and answers in JSON.
#[derive(Clone)]
pub(crate) struct Admin {
    http: reqwest::Client,
    url: String,
}

impl Admin {
    fn new(ready: &Value) -> anyhow::Result<Admin> {
        // A second installation in one process keeps the first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let url = ready["admin_url"]
            .as_str()
            .context("admin_url of the ready line")?
            .trim_end_matches('/')
            .to_owned();
        Ok(Admin { http: reqwest::Client::builder().no_proxy().build()?, url })
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(self.http.get(format!("{}/{path}", self.url)), path).await
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send(self.http.post(format!("{}/{path}", self.url)).json(body), path).await
    }

    async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.send(self.http.delete(format!("{}/{path}", self.url)), path).await
    }

    async fn send(&self, request: reqwest::RequestBuilder, path: &str) -> anyhow::Result<Value> {
        let response = request.send().await.with_context(|| format!("admin {path}"))?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "admin {path}: {status} {text}");
        if text.trim().is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) }
    }
}

/// The simulated Bitrix24.
pub struct Bitrix24 {
    /// Its process.
    pub program: Program,
    /// Where the stages are to call.
    pub webhook_url: String,
    pub(crate) admin: Admin,
    /// What it refused before its counters were last started anew.
    refused_before: Mutex<Refusals>,
}

/// What Bitrix24 refused by itself, not because a fault was planned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Refusals {
    /// Requests, as too many came.
    pub requests: u64,
    /// Calls of methods, as their computing time was used up.
    pub methods: u64,
}

impl Bitrix24 {
    /// Waits until the program answers.
    pub async fn started(mut program: Program) -> anyhow::Result<Bitrix24> {
        let ready = program.ready_line().await?;
        let webhook_url = ready["webhook_url"].as_str().context("webhook_url of the ready line")?.to_owned();
        Ok(Bitrix24 { program, webhook_url, admin: Admin::new(&ready)?, refused_before: Mutex::default() })
    }

    /// Returns all records as they are stored.
    pub async fn state(&self) -> anyhow::Result<Value> {
        self.admin.get("state").await
    }

    /// Returns one stored record.
    pub async fn record(&self, entity: &str, id: u64) -> anyhow::Result<Value> {
        self.admin.get(&format!("state?entity={entity}&id={id}")).await
    }

    /// Edits fields of a record as a manager does. `entity` is `contact` or `deal`.
    pub async fn edit(&self, entity: &str, id: u64, fields: Value) -> anyhow::Result<()> {
        self.admin.post(&format!("{entity}s/{id}"), &json!({ "fields": fields })).await.map(drop)
    }

    /// Creates a contact; returns its id.
    pub async fn create_contact(&self, fields: Value) -> anyhow::Result<u64> {
        self.create("contacts", &json!({ "fields": fields })).await
    }

    /// Creates a deal with its product rows; returns its id.
    pub async fn create_deal(&self, fields: Value, rows: Value) -> anyhow::Result<u64> {
        self.create("deals", &json!({ "fields": fields, "rows": rows })).await
    }

    /// Adds an employee, or changes one.
    pub async fn put_user(&self, id: u64, fields: Value) -> anyhow::Result<()> {
        self.admin.post(&format!("users/{id}"), &json!({ "fields": fields })).await.map(drop)
    }

    /// Dates a record back to have been created then.
    pub async fn created_at(&self, entity: &str, id: u64, date: &str) -> anyhow::Result<()> {
        let edit = json!({ "fields": {}, "silent": true, "date_create": date });
        self.admin.post(&format!("{entity}s/{id}"), &edit).await.map(drop)
    }

    /// Edits a record without anybody seeing it by its modification time, which stays or is dated back.
    pub async fn edit_silently(
        &self,
        entity: &str,
        id: u64,
        fields: Value,
        date_modify: Option<&str>,
    ) -> anyhow::Result<()> {
        let mut edit = json!({ "fields": fields, "silent": true });
        if let Some(date) = date_modify {
            (edit["silent"], edit["date_modify"]) = (json!(false), json!(date));
        }
        self.admin.post(&format!("{entity}s/{id}"), &edit).await.map(drop)
    }

    /// Creates a contact as an import does that dates its records back; returns its id.
    pub async fn import_contact(&self, fields: Value, date: &str) -> anyhow::Result<u64> {
        let body = json!({ "fields": fields, "date_create": date, "date_modify": date });
        self.create("contacts", &body).await
    }

    /// Merges a contact into another, whose its deals become.
    pub async fn merge(&self, contact: u64, into: u64) -> anyhow::Result<()> {
        self.admin.post(&format!("contacts/{contact}/merge"), &json!({ "into": into })).await.map(drop)
    }

    /// Returns the portal's clock: its time and how fast it runs.
    pub async fn clock(&self) -> anyhow::Result<Value> {
        self.admin.get("clock").await
    }

    /// Returns the portal's time as it prints it: `2026-01-10T10:00:00+03:00`.
    pub async fn now(&self) -> anyhow::Result<String> {
        let clock = self.clock().await?;
        clock["now"].as_str().map(str::to_owned).with_context(|| format!("now in {clock}"))
    }

    /// Returns the portal's time so many seconds ago.
    pub async fn ago(&self, seconds: u32) -> anyhow::Result<String> {
        let now = chrono::DateTime::parse_from_rfc3339(&self.now().await?)?;
        let then = now - chrono::Duration::seconds(i64::from(seconds));
        Ok(then.format("%Y-%m-%dT%H:%M:%S%:z").to_string())
    }

    /// Sets the portal's clock on.
    pub async fn advance_clock(&self, seconds: f64) -> anyhow::Result<()> {
        self.admin.post("clock", &json!({ "advance_seconds": seconds })).await.map(drop)
    }

    async fn create(&self, path: &str, body: &Value) -> anyhow::Result<u64> {
        self.admin.post(path, body).await?["id"].as_u64().context("id of the created record")
    }

    /// Replaces the product rows of a deal.
    pub async fn set_rows(&self, deal: u64, rows: Value) -> anyhow::Result<()> {
        self.admin.post(&format!("deals/{deal}/rows"), &json!({ "rows": rows })).await.map(drop)
    }

    /// Deletes a record.
    pub async fn remove(&self, entity: &str, id: u64) -> anyhow::Result<()> {
        self.admin.delete(&format!("{entity}s/{id}")).await.map(drop)
    }

    /// Returns every write that arrived, in order, human edits included.
    pub async fn history(&self) -> anyhow::Result<Value> {
        self.admin.get("history").await
    }

    /// Returns every write after a number.
    pub async fn history_after(&self, sequence: u64) -> anyhow::Result<Value> {
        self.admin.get(&format!("history?after={sequence}")).await
    }

    /// Deletes a custom field and its values.
    pub async fn delete_field(&self, entity: &str, name: &str) -> anyhow::Result<()> {
        self.admin.delete(&format!("userfields/{entity}/{name}")).await.map(drop)
    }

    /// Adds a custom text field.
    pub async fn add_field(&self, entity: &str, name: &str) -> anyhow::Result<()> {
        self.admin.post(&format!("userfields/{entity}"), &json!({ "name": name })).await.map(drop)
    }

    /// Takes values away from the list of a custom field: only these are left.
    pub async fn keep_options(&self, entity: &str, name: &str, options: Value) -> anyhow::Result<()> {
        self.delete_field(entity, name).await?;
        let field = json!({ "name": name, "user_type": "enumeration", "multiple": true, "options": options });
        self.admin.post(&format!("userfields/{entity}"), &field).await.map(drop)
    }

    /// Returns the request counters.
    pub async fn requests(&self) -> anyhow::Result<Value> {
        self.admin.get("requests").await
    }

    /// Starts the counters anew.
    pub async fn reset_requests(&self) -> anyhow::Result<()> {
        let refused = self.refusals().await?;
        self.admin.post("requests/reset", &json!({})).await?;
        *self.refused_before.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        Ok(())
    }

    /// Returns what it has refused since it was started.
    pub async fn refusals(&self) -> anyhow::Result<Refusals> {
        let told = self.requests().await?;
        let refused = |counter: &str, fault: &str| {
            let planned = told["faults"][fault].as_u64().unwrap_or(0);
            anyhow::Ok(told[counter].as_u64().context("a counter of refusals")?.saturating_sub(planned))
        };
        let before = *self.refused_before.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Refusals {
            requests: before.requests + refused("refused_503", "query_limit_503")?,
            methods: before.methods + refused("refused_operating", "operating_429")?,
        })
    }

    /// Empties the request counter, and forgets the computing time.
    pub async fn reset_limits(&self) -> anyhow::Result<()> {
        self.admin.post("limits/reset", &json!({})).await.map(drop)
    }

    /// Plans a fault.
    pub async fn fault(&self, fault: Value) -> anyhow::Result<()> {
        self.admin.post("faults", &fault).await.map(drop)
    }

    /// Returns how many requests the planned faults have hit.
    pub async fn faults_hit(&self) -> anyhow::Result<u64> {
        let rules = self.admin.get("faults").await?;
        let list = rules.as_array().or_else(|| rules["faults"].as_array()).context("a list of faults")?;
        Ok(list.iter().filter_map(|rule| rule["hits"].as_u64()).sum())
    }

    /// Returns the planned faults with what is left of them.
    pub async fn faults(&self) -> anyhow::Result<Value> {
        self.admin.get("faults").await
    }

    /// Ends all faults.
    pub async fn heal(&self) -> anyhow::Result<()> {
        self.admin.delete("faults").await.map(drop)
    }

    /// Changes a switch of the simulator.
    pub async fn set(&self, settings: Value) -> anyhow::Result<()> {
        self.admin.post("settings", &settings).await.map(drop)
    }

    /// Returns the switches.
    pub async fn settings(&self) -> anyhow::Result<Value> {
        self.admin.get("settings").await
    }
}

/// The simulated otmechalka.
pub struct Otmechalka {
    /// Its process.
    pub program: Program,
    /// Where the pusher is to call.
    pub url: String,
    pub(crate) admin: Admin,
}

impl Otmechalka {
    /// Waits until the program answers.
    pub async fn started(mut program: Program) -> anyhow::Result<Otmechalka> {
        let ready = program.ready_line().await?;
        let url = ready["url"].as_str().context("url of the ready line")?.to_owned();
        Ok(Otmechalka { program, url, admin: Admin::new(&ready)? })
    }

    /// Returns all clients and tickets.
    pub async fn state(&self) -> anyhow::Result<Value> {
        self.admin.get("state").await
    }

    /// Returns the clients and tickets of one origin id.
    pub async fn held(&self, origin_id: u64) -> anyhow::Result<Value> {
        self.admin.get(&format!("state?origin_id={origin_id}")).await
    }

    /// Changes fields of a client or ticket as an employee there does. `kind` is `client` or `ticket`.
    pub async fn edit(&self, kind: &str, origin_id: u64, fields: Value) -> anyhow::Result<()> {
        self.admin.post(&format!("{kind}s/{origin_id}"), &fields).await.map(drop)
    }

    /// Creates a client or ticket as an employee there does; `fields` has the `origin_id`.
    pub async fn create(&self, kind: &str, fields: Value) -> anyhow::Result<()> {
        self.admin.post(&format!("{kind}s"), &fields).await.map(drop)
    }

    /// Deletes a client or ticket.
    pub async fn remove(&self, kind: &str, origin_id: u64) -> anyhow::Result<()> {
        self.admin.delete(&format!("{kind}s/{origin_id}")).await.map(drop)
    }

    /// Returns every call, in order.
    pub async fn history(&self) -> anyhow::Result<Value> {
        self.admin.get("history").await
    }

    /// Returns its clock: its time and how fast it runs.
    pub async fn clock(&self) -> anyhow::Result<Value> {
        self.admin.get("clock").await
    }

    /// Returns the request counters.
    pub async fn requests(&self) -> anyhow::Result<Value> {
        self.admin.get("requests").await
    }

    /// Plans a fault.
    pub async fn fault(&self, fault: Value) -> anyhow::Result<()> {
        self.admin.post("faults", &fault).await.map(drop)
    }

    /// Returns the planned faults with what is left of them.
    pub async fn faults(&self) -> anyhow::Result<Value> {
        self.admin.get("faults").await
    }

    /// Ends all faults.
    pub async fn heal(&self) -> anyhow::Result<()> {
        self.admin.delete("faults").await.map(drop)
    }

    /// Changes a switch of the simulator.
    pub async fn set(&self, settings: Value) -> anyhow::Result<()> {
        self.admin.post("settings", &settings).await.map(drop)
    }
}
