//! A stage with its surroundings, and what a judge sees of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream;
use chrono::{DateTime, FixedOffset};
use runtime::bootstrap::{self, Mode};
use runtime::broker::NatsSettings;
use runtime::health::Health;
use runtime::local_nats::LocalNats;
use runtime::logs::LogFormat;
use runtime::stage::{Settings, configure};
use runtime::{Broker, CancellationToken, Context, Outgoing, Source, Stage};
use schemas::streams::{DEAD_LETTERS, RESULTS, STATUSES, status_writer_consumer};
use schemas::{
    Encoded, Entity, Envelope, Outcome, RecordId, RecordProcessed, RecordRef, Shown, StatusSettled,
    StatusWritten, Version, subjects,
};
use serde_json::{Value, json};
use simulators::bitrix24::{Options, Simulator, StartingData};
use status_writer::StatusWriter;
use tokio::task::JoinHandle;

/// Code of the status field.
pub const FIELD: &str = "UF_CRM_SYNC_STATUS";

/// The text of a success.
pub const SUCCESS: &str = "Успешно";

/// Portal seconds in one of ours: a minute's pause takes half a second.
const CLOCK_SPEED: f64 = 120.0;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// NATS, Bitrix24, and a stage that can be started and stopped.
pub struct Bench {
    server: LocalNats,
    portal: Simulator,
    http: reqwest::Client,
    broker: Broker,
    folder: tempfile::TempDir,
    clock_speed: f64,
    stages: Mutex<Vec<(JoinHandle<anyhow::Result<()>>, CancellationToken)>>,
    messages: AtomicU64,
}

impl Bench {
    /// Starts the surroundings.
    pub async fn start() -> Bench {
        Bench::with(json!({})).await
    }

    /// Starts the surroundings with some of the portal's switches changed.
    pub async fn with(settings: Value) -> Bench {
        Bench::at_speed(CLOCK_SPEED, settings).await
    }

    /// Starts the surroundings with so many portal seconds in one of ours, and some of the portal's switches changed.
    pub async fn at_speed(clock_speed: f64, settings: Value) -> Bench {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let server = LocalNats::start(&folder.path().join("nats")).await.unwrap();
        let options = Options { data: StartingData::Empty, clock_speed, settings, ..Options::default() };
        let portal = Simulator::start(options).await.unwrap();
        let broker = Broker::connect(
            "judge",
            &NatsSettings::plain(&server.url()).unwrap(),
            Health::default(),
            CancellationToken::new(),
        )
        .await
        .unwrap();
        bootstrap::apply(&broker, 1, Mode::Make).await.unwrap();
        Bench {
            server,
            portal,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            broker,
            folder,
            clock_speed,
            stages: Mutex::default(),
            messages: AtomicU64::new(0),
        }
    }

    /// Starts the stage.
    pub async fn run(&self) {
        self.run_in("state").await;
    }

    /// Starts one more, as on a host of its own.
    pub async fn run_in(&self, folder: &str) {
        let text = |name: &str, value: String| (name.to_owned(), value);
        let source = Source::new([
            text("NATS_URL", self.server.url()),
            text("BITRIX24_WEBHOOK_URL", self.portal.webhook_url()),
            text("PORTAL_CLOCK_SPEED", self.clock_speed.to_string()),
            text("STATE_DIR", self.folder.path().join(folder).display().to_string()),
            text("BITRIX24_OPERATING_LIMIT", self.operating_limit().await),
        ]);
        let (settings, config) = configure::<StatusWriter>(&source).unwrap();
        runtime::logs::init(LogFormat::Text);
        let stopping = CancellationToken::new();
        let context = self.context(settings, &stopping).await;
        let running = tokio::spawn(StatusWriter::run(config, context));
        self.stages.lock().unwrap().push((running, stopping));
    }

    async fn context(&self, settings: Settings, stopping: &CancellationToken) -> Context {
        let health = Health::default();
        let broker = Broker::connect(StatusWriter::NAME, &settings.nats, health.clone(), stopping.clone());
        Context { broker: broker.await.unwrap(), settings, health, stopping: stopping.clone() }
    }

    async fn operating_limit(&self) -> String {
        let limit = self.get("settings").await["operating_limit"].as_f64().unwrap();
        format!("{limit:.0}")
    }

    /// Stops the stage as SIGTERM does, and sees that it ends well.
    pub async fn stop_stage(&self) {
        for (running, stopping) in self.take_stages() {
            stopping.cancel();
            tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap().unwrap();
        }
    }

    /// Stops the stage in the middle of whatever it does.
    pub async fn kill(&self) {
        for (running, _) in self.take_stages() {
            running.abort();
            assert!(running.await.unwrap_err().is_cancelled());
        }
    }

    /// Kills the stage that was started first, and leaves the others.
    pub async fn kill_the_first_stage(&self) {
        let (running, _) = self.stages.lock().unwrap().remove(0);
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
    }

    fn take_stages(&self) -> Vec<(JoinHandle<anyhow::Result<()>>, CancellationToken)> {
        std::mem::take(&mut *self.stages.lock().unwrap())
    }

    /// Kills the broker and starts it again.
    pub async fn restart_broker(&mut self) {
        self.server.kill().await.unwrap();
        self.server.restart().await.unwrap();
    }

    /// Ends a test: the stage stops well and has left nothing behind.
    pub async fn stop(self) {
        self.consumed().await;
        self.stop_stage().await;
        assert_eq!(self.unsettled().await, 0);
        self.portal.stop().unwrap();
    }

    /// Removes the stage's local cache.
    pub fn delete_state(&self) {
        std::fs::remove_dir_all(self.folder.path().join("state")).unwrap();
    }

    /// Has every outcome delivered again.
    pub async fn forget_acks(&self) {
        let stream = self.broker.jetstream().get_stream(RESULTS.name).await.unwrap();
        for entity in Entity::ALL {
            stream.delete_consumer(&status_writer_consumer(entity).name).await.unwrap();
        }
        bootstrap::apply(&self.broker, 1, Mode::Make).await.unwrap();
    }

    /// Publishes what became of a version of a contact that showed this status when it was read.
    pub async fn outcome(&self, id: u64, version: u64, status: &str, shown: &str) {
        self.outcome_of(RecordRef::contact(RecordId::try_new(id).unwrap()), version, status, shown).await;
    }

    /// Publishes what became of a version of a record that showed this status when it was read.
    pub async fn outcome_of(&self, record: RecordRef, version: u64, status: &str, shown: &str) {
        let observed = self.now().await;
        let envelope = envelope(record, version, observed);
        let data = RecordProcessed {
            outcome: if status == SUCCESS { Outcome::Created } else { Outcome::Refused },
            status: status.into(),
            problems: Vec::new(),
            target_id: None,
            body_digest: None,
            shown: Shown { status: Some(shown.into()), observed },
        };
        self.publish(subjects::result(record), envelope.encode(&data).unwrap()).await;
    }

    /// Publishes something that is no outcome.
    pub async fn unreadable(&self, id: u64) {
        let record = RecordRef::contact(RecordId::try_new(id).unwrap());
        let encoded = Encoded { headers: Vec::new(), payload: b"{".to_vec() };
        self.publish(subjects::result(record), encoded).await;
    }

    /// Settles a status and writes it, as another process does.
    pub async fn settle_elsewhere(&self, id: u64, version: u64, status: &str) {
        let record = RecordRef::contact(RecordId::try_new(id).unwrap());
        let settled = self.now().await;
        let data = StatusWritten { status: status.into(), how: StatusSettled::Written, settled };
        let encoded = envelope(record, version, settled).encode(&data).unwrap();
        self.publish(subjects::status(record), encoded).await;
    }

    async fn publish(&self, subject: String, encoded: Encoded) {
        let number = self.messages.fetch_add(1, Ordering::Relaxed);
        let message = Outgoing::new(subject, encoded, format!("message:{number}"));
        self.broker.publish(&message).await.unwrap();
    }

    /// Returns the portal's time.
    pub async fn now(&self) -> DateTime<FixedOffset> {
        let clock = self.get("clock").await;
        DateTime::parse_from_rfc3339(clock["now"].as_str().unwrap()).unwrap()
    }

    /// Waits until this many statuses are settled.
    pub async fn settled(&self, count: u64) {
        self.until(&format!("{count} settled statuses"), || async { self.fences().await >= count }).await;
        assert_eq!(self.fences().await, count);
    }

    /// Waits until no outcome is left.
    pub async fn consumed(&self) {
        self.until("all outcomes settled", || async { self.unsettled().await == 0 }).await;
    }

    /// Waits until something holds.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, mut holds: impl FnMut() -> F) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what} did not come to hold");
    }

    /// Returns the number of settled statuses.
    pub async fn fences(&self) -> u64 {
        self.stored(STATUSES.name).await
    }

    /// Returns the number of dead letters.
    pub async fn dead_letters(&self) -> u64 {
        self.stored(DEAD_LETTERS.name).await
    }

    /// Leaves that many bytes to dead letters.
    pub async fn room_for_dead_letters(&self, bytes: i64) {
        let stream = self.broker.jetstream().get_stream(DEAD_LETTERS.name).await.unwrap();
        let config = stream::Config { max_bytes: bytes, ..stream.cached_info().config.clone() };
        self.broker.jetstream().update_stream(config).await.unwrap();
    }

    async fn stored(&self, stream: &str) -> u64 {
        self.broker.jetstream().get_stream(stream).await.unwrap().cached_info().state.messages
    }

    /// Returns the number of outcomes that are not settled.
    pub async fn unsettled(&self) -> u64 {
        let mut unsettled = 0;
        for entity in Entity::ALL {
            let name = status_writer_consumer(entity).name;
            let consumer: PullConsumer =
                self.broker.jetstream().get_consumer_from_stream(&name, RESULTS.name).await.unwrap();
            let info = consumer.cached_info();
            unsettled += info.num_pending + info.num_ack_pending as u64;
        }
        unsettled
    }

    /// Creates contacts and returns their ids.
    pub async fn contacts(&self, count: usize) -> Vec<u64> {
        let contact = json!({"fields": {"NAME": "Нина", "LAST_NAME": "Озёрная"}});
        let made = self.post("contacts", &json!(vec![contact; count])).await;
        made["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    }

    /// Creates a deal.
    pub async fn deal(&self) -> RecordRef {
        let made = self.post("deals", &json!([{"fields": {"TITLE": "Абонемент"}}])).await;
        RecordRef::deal(RecordId::try_new(made["ids"][0].as_u64().unwrap()).unwrap())
    }

    /// Deletes a contact.
    pub async fn delete(&self, id: u64) {
        self.send(self.http.delete(self.admin(&format!("contacts/{id}")))).await;
    }

    /// Deletes the status field of contacts.
    pub async fn delete_field(&self) {
        self.send(self.http.delete(self.admin(&format!("userfields/contact/{FIELD}")))).await;
    }

    /// Makes the status field of contacts.
    pub async fn add_field(&self) {
        self.post("userfields/contact", &json!({"name": FIELD})).await;
    }

    /// Changes what updates take from now on, in portal seconds. Those under way take what they took.
    pub async fn updates_take(&self, seconds: f64) {
        self.post("settings", &updates_that_take(seconds)).await;
    }

    /// Plans a fault.
    pub async fn fault(&self, rule: Value) {
        self.post("faults", &rule).await;
    }

    /// Ends all faults.
    pub async fn no_faults(&self) {
        self.send(self.http.delete(self.admin("faults"))).await;
    }

    /// Returns what a contact shows in its status field.
    pub async fn shown(&self, id: u64) -> String {
        let record = self.get(&format!("state?entity=contact&id={id}")).await;
        record[FIELD].as_str().unwrap_or_default().to_owned()
    }

    /// Returns every write that arrived and was applied.
    pub async fn history(&self) -> Vec<Value> {
        let history = self.get("history").await;
        let entries = history["history"].as_array().unwrap().iter();
        entries.filter(|entry| entry["origin"] == "rest" && entry["applied"] == true).cloned().collect()
    }

    /// Returns the statuses written, in order.
    pub async fn writes(&self) -> Vec<(u64, String)> {
        let entries = self.history().await;
        let write = |entry: &Value| {
            (entry["id"].as_u64().unwrap(), entry["fields"][FIELD].as_str().unwrap().to_owned())
        };
        let mut writes: Vec<_> = entries.iter().map(write).collect();
        writes.sort_unstable();
        writes
    }

    /// Returns the request counters.
    pub async fn requests(&self) -> Value {
        self.get("requests").await
    }

    /// Returns how often a method was called.
    pub async fn commands(&self, method: &str) -> u64 {
        self.requests().await["commands"][method].as_u64().unwrap_or(0)
    }

    async fn get(&self, path: &str) -> Value {
        self.send(self.http.get(self.admin(path))).await
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        self.send(self.http.post(self.admin(path)).json(body)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Value {
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    }

    fn admin(&self, path: &str) -> String {
        format!("{}{path}", self.portal.admin_url())
    }
}

/// Returns the switches of a portal whose updates take so many seconds.
pub fn updates_that_take(seconds: f64) -> Value {
    json!({"costs": {"seconds": {"crm.*.update": seconds}}})
}

fn envelope(record: RecordRef, version: u64, modified: DateTime<FixedOffset>) -> Envelope {
    Envelope {
        record,
        source: "/rollcall/pusher".into(),
        pupil: Some(record.id),
        modified,
        fingerprint: "ab12".into(),
        version: Some(Version { raw_sequence: version, redrive: 0 }),
        attempt: 0,
    }
}
