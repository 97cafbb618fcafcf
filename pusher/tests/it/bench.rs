//! A nats-server, an otmechalka double and the real pusher program around one test.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, FixedOffset};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::bootstrap::{self, Mode};
use runtime::broker::{NatsSettings, StoredMessage};
use runtime::health::Health;
use runtime::local_nats::{LocalNats, Routes};
use runtime::{Broker, CancellationToken, Outgoing};
use schemas::streams::{CHECKPOINTS, COMMANDS, RESULTS, StreamDefinition};
use schemas::{
    Checkpoint, Client, Entity, Envelope, Mapping, Outcome, Problem, RecordChanged, RecordId, RecordMapped,
    RecordProcessed, RecordRef, Shown, Ticket, Version, subjects,
};
use serde_json::{Value, json};
use simulators::otmechalka::{self, Options, Simulator};
use tokio::process::{Child, Command};

/// How fast the pauses of the pusher pass: a minute is a tenth of a second.
pub const SPEED: &str = "600";

pub struct Bench {
    pub server: LocalNats,
    _others: Vec<LocalNats>,
    pub broker: Broker,
    pub otmechalka: Simulator,
    http: reqwest::Client,
    folder: tempfile::TempDir,
    /// Longest call of the programs that are started from now on.
    pub timeout: &'static str,
}

pub fn contact(id: u64) -> RecordRef {
    RecordRef::contact(RecordId::try_new(id).unwrap())
}

pub fn deal(id: u64) -> RecordRef {
    RecordRef::deal(RecordId::try_new(id).unwrap())
}

/// Returns that many contacts of one partition.
pub fn neighbours(count: usize) -> Vec<RecordRef> {
    let partition = contact(1).partition();
    (1..).map(contact).filter(|record| record.partition() == partition).take(count).collect()
}

pub fn moment(text: &str) -> DateTime<FixedOffset> {
    DateTime::parse_from_rfc3339(text).unwrap()
}

pub fn client(first_name: &str) -> Mapping {
    Mapping::Client(Client {
        last_name: "Образцов".into(),
        first_name: first_name.into(),
        phone: "79260000000".into(),
        email: None,
        courses: vec!["10985".into()],
        branchoffices: vec!["2633".into()],
        birthdate: None,
        gender: "M".into(),
        additional_data: "Образцова Анна".into(),
    })
}

pub fn ticket(pupil: RecordRef) -> Mapping {
    Mapping::Ticket(Ticket {
        client_origin_id: pupil.id,
        ticket_type: "6 КМС индивидуальные 45 мин".into(),
        price_initial: "9000.00".into(),
        discount: "300.00".into(),
        price_final: "8700.00".into(),
        selling_date: moment("2026-01-10T03:00:00+03:00").date_naive(),
        selling_branchoffice: "2633".into(),
        employee: "Андрей Примеров".into(),
        payment_method: "ONLINE".into(),
    })
}

pub fn refused() -> Mapping {
    Mapping::Refused(vec![Problem::new("phone.missing", "Не заполнено поле «Телефон». Заполните его.")])
}

/// A version that a manager did not ask to be tried again.
pub fn version(raw_sequence: u64) -> Version {
    Version { raw_sequence, redrive: 0 }
}

fn envelope(record: RecordRef, pupil: RecordRef, version: Option<Version>) -> Envelope {
    Envelope {
        record,
        source: "/rollcall/mapper".into(),
        // A deal that names itself has none.
        pupil: (pupil.entity == Entity::Contact).then_some(pupil.id),
        modified: moment("2026-01-10T12:00:00+03:00"),
        fingerprint: "ab".into(),
        version,
        attempt: 0,
    }
}

impl Bench {
    pub async fn start() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let server = LocalNats::start(&folder.path().join("nats")).await.unwrap();
        Bench::with(folder, vec![server]).await
    }

    /// Starts it on three servers that hold a copy of everything each.
    pub async fn on_three_servers() -> Bench {
        let (folder, routes) = (tempfile::tempdir().unwrap(), Routes::direct().unwrap());
        let servers = LocalNats::start_cluster(&folder.path().join("nats"), None, &routes).await.unwrap();
        Bench::with(folder, servers).await
    }

    async fn with(folder: tempfile::TempDir, mut servers: Vec<LocalNats>) -> Bench {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let others = servers.split_off(1);
        let server = servers.remove(0);
        let settings = NatsSettings::plain(&server.url()).unwrap();
        let broker =
            Broker::connect("test", &settings, Health::default(), CancellationToken::new()).await.unwrap();
        bootstrap::apply(&broker, 1 + others.len(), Mode::Make).await.unwrap();
        let otmechalka = otmechalka::start(Options::default()).await.unwrap();
        let http = reqwest::Client::new();
        Bench { server, _others: others, broker, otmechalka, http, folder, timeout: "3s" }
    }

    pub fn state_dir(&self) -> std::path::PathBuf {
        self.folder.path().join("state")
    }

    /// Starts the program.
    pub fn pusher(&self) -> Pusher {
        self.pusher_with(SPEED, &self.state_dir())
    }

    pub fn pusher_with(&self, speed: &str, state_dir: &Path) -> Pusher {
        let child = Command::new(env!("CARGO_BIN_EXE_pusher"))
            .env_clear()
            .env("NATS_URL", self.server.url())
            .env("OTMECHALKA_URL", self.otmechalka.url.as_str())
            .env("OTMECHALKA_CLOCK_SPEED", speed)
            .env("OTMECHALKA_TIMEOUT", self.timeout)
            .env("STATE_DIR", state_dir)
            .env("RUST_LOG", std::env::var("PUSHER_LOG").unwrap_or_else(|_| "error".into()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Pusher(child)
    }

    pub async fn command(
        &self,
        record: RecordRef,
        pupil: RecordRef,
        version: Version,
        status: &str,
        mapping: Mapping,
    ) {
        self.command_tried(0, record, pupil, version, status, mapping).await;
    }

    /// Publishes a command as it comes back after so many tries.
    pub async fn command_tried(
        &self,
        attempt: u64,
        record: RecordRef,
        pupil: RecordRef,
        version: Version,
        status: &str,
        mapping: Mapping,
    ) {
        let envelope = Envelope { attempt, ..envelope(record, pupil, Some(version)) };
        let shown = Shown { status: Some(status.into()), observed: envelope.modified };
        let encoded = envelope.encode(&RecordMapped { mapping, shown }).unwrap();
        let id = format!("test:{}", uuid());
        let message = Outgoing::new(subjects::command(pupil.id, record), encoded, id);
        self.broker.publish(&message).await.unwrap();
    }

    /// Publishes the first command of a contact.
    pub async fn new_client(&self, record: RecordRef) {
        self.command(record, record, version(record.id.get()), "", client("Иван")).await;
    }

    /// Publishes a raw record and returns its sequence.
    pub async fn raw(&self, record: RecordRef) -> u64 {
        let envelope = envelope(record, record, None);
        let data = RecordChanged {
            observed: envelope.modified,
            status: Some(String::new()),
            record: serde_json::value::to_raw_value(&json!({"ID": record.id.to_string()})).unwrap(),
            product_rows: None,
            seller: None,
            trimmed: Vec::new(),
        };
        let message = Outgoing::new(subjects::raw(record), envelope.encode(&data).unwrap(), uuid());
        self.broker.publish(&message).await.unwrap().sequence
    }

    pub async fn contacts_read_until(&self, watermark: &str) {
        let checkpoint =
            Checkpoint { watermark: moment(watermark), window: None, polls: 1, again_from: None, poll: None };
        let bucket = self.broker.bucket(&CHECKPOINTS).await.unwrap();
        bucket.put("contact", serde_json::to_vec(&checkpoint).unwrap().into()).await.unwrap();
    }

    pub async fn last(&self, definition: &StreamDefinition, subject: &str) -> Option<StoredMessage> {
        let stream = self.broker.stream(definition.name).await.unwrap();
        self.broker.last_message(&stream, definition.name, subject).await.unwrap()
    }

    pub async fn result(&self, record: RecordRef) -> Option<(Version, RecordProcessed)> {
        let message = self.last(&RESULTS, &subjects::result(record)).await?;
        let (envelope, processed) = message.decode::<RecordProcessed>().unwrap();
        Some((envelope.version.unwrap(), processed))
    }

    /// Waits until a version, or a newer one, has its result.
    pub async fn settled(&self, record: RecordRef, version: Version) -> RecordProcessed {
        let mut found = None;
        eventually(&format!("a result of {record} for {version:?}"), async || {
            found = self.result(record).await.filter(|(settled, _)| *settled >= version);
            found.is_some()
        })
        .await;
        found.unwrap().1
    }

    /// Waits until nothing is left to be worked on, parked messages included.
    pub async fn idle(&self) {
        eventually("every command to be worked on", async || self.unfinished().await == 0).await;
    }

    pub async fn unfinished(&self) -> u64 {
        let mut unfinished = 0;
        for consumer in schemas::streams::pusher_consumers() {
            let mut found: async_nats::jetstream::consumer::PullConsumer = self
                .broker
                .jetstream()
                .get_consumer_from_stream(&consumer.name, consumer.stream)
                .await
                .unwrap();
            let info = found.info().await.unwrap();
            unfinished += info.num_pending + info.num_ack_pending as u64;
        }
        unfinished + self.parked().await
    }

    pub async fn parked(&self) -> u64 {
        let stream = self.broker.stream(COMMANDS.name).await.unwrap();
        let mut from = 1;
        let mut parked = 0;
        while let Ok(message) = stream.get_first_raw_message_by_subject("crm.later.>", from).await {
            from = message.sequence + 1;
            parked += 1;
        }
        parked
    }

    /// Has the stream forget the results of a record, as it does in time.
    pub async fn forget(&self, record: RecordRef) {
        let stream = self.broker.stream(RESULTS.name).await.unwrap();
        stream.purge().filter(subjects::result(record)).await.unwrap();
    }

    pub async fn results(&self) -> u64 {
        self.broker.jetstream().get_stream(RESULTS.name).await.unwrap().cached_info().state.messages
    }

    async fn admin(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let url = self.otmechalka.admin_url.join(path).unwrap();
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.unwrap()
    }

    pub async fn otmechalka_settings(&self, settings: Value) {
        self.admin(reqwest::Method::POST, "settings", Some(settings)).await;
    }

    pub async fn fault(&self, fault: Value) {
        self.admin(reqwest::Method::POST, "faults", Some(fault)).await;
    }

    pub async fn faults_fired(&self) -> u64 {
        let answer = self.admin(reqwest::Method::GET, "faults", None).await;
        let faults = answer["faults"].as_array().unwrap().clone();
        faults.iter().map(|fault| fault["fired"].as_u64().unwrap()).sum()
    }

    pub async fn no_faults(&self) {
        self.admin(reqwest::Method::DELETE, "faults", None).await;
    }

    pub async fn delete_client(&self, record: RecordRef) {
        self.admin(reqwest::Method::DELETE, &format!("clients/{}", record.id), None).await;
    }

    /// Makes a call of the history once more.
    pub async fn carry_out(&self, call: &Value) {
        let url = self.otmechalka.url.join(call["path"].as_str().unwrap()).unwrap();
        let answer = self.http.post(url).json(&call["body"]).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
    }

    /// Returns the calls so far, in order.
    pub async fn history(&self) -> Vec<Value> {
        let answer = self.admin(reqwest::Method::GET, "history", None).await;
        let all = answer["history"].as_array().unwrap().clone();
        all.into_iter().filter(|entry| entry["admin"] != json!(true)).collect()
    }

    /// Counts the calls of one method to a path that changed something.
    pub async fn applied(&self, path: &str) -> usize {
        let fits = |entry: &&Value| {
            entry["method"] == "POST" && entry["path"] == path && entry["applied"] == json!(true)
        };
        self.history().await.iter().filter(fits).count()
    }

    /// Returns the first names that were written for a client, in order.
    pub async fn written_names(&self, record: RecordRef) -> Vec<String> {
        let id = record.id.to_string();
        let fits = |entry: &&Value| entry["applied"] == json!(true) && entry["origin_id"] == json!(id);
        let name = |entry: &Value| entry["body"]["first_name"].as_str().unwrap_or_default().to_owned();
        self.history().await.iter().filter(fits).map(name).collect()
    }
}

pub fn assert_success(processed: &RecordProcessed, outcome: Outcome) {
    assert_eq!((processed.outcome, processed.status.as_str()), (outcome, "Успешно"), "{processed:?}");
}

pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come to hold");
}

fn uuid() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The program. Killed when dropped.
pub struct Pusher(Child);

impl Pusher {
    /// Kills it as a power cut would.
    pub async fn kill(mut self) {
        self.0.kill().await.unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.0.id().unwrap()).unwrap();
        kill(Pid::from_raw(id), signal).unwrap();
    }

    /// Tells it to stop and returns how it ended.
    pub async fn stop(mut self) -> std::process::ExitStatus {
        self.signal(Signal::SIGTERM);
        tokio::time::timeout(Duration::from_secs(10), self.0.wait()).await.expect("it stops in time").unwrap()
    }
}
