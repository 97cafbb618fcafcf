//! A portal, a stream and a producer between them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, FixedOffset};
use runtime::bootstrap::{self, Mode};
use runtime::broker::{NatsSettings, StoredMessage};
use runtime::health::Health;
use runtime::local_nats::LocalNats;
use runtime::{Broker, CancellationToken, Context, Outgoing, Source, Stage};
use schemas::streams::{CHECKPOINTS, RAW};
use schemas::{Checkpoint, Entity, Envelope, RecordChanged, RecordId, RecordRef, subjects};
use serde_json::{Value, json};
use simulators::bitrix24::{Options, Simulator, StartingData};
use tokio::task::JoinHandle;

/// Longest time for anything to come true; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

pub const STATUS: &str = "UF_CRM_SYNC_STATUS";

/// Portal seconds in one of ours.
const CLOCK_SPEED: f64 = 30.0;

pub struct Bench {
    pub nats: LocalNats,
    pub broker: Broker,
    pub folder: tempfile::TempDir,
    portal: Simulator,
    http: reqwest::Client,
    producer: Option<Replica>,
    /// Where reading begins.
    pub first_watermark: &'static str,
}

/// A running producer, and what tells it to stop.
pub type Replica = (JoinHandle<anyhow::Result<()>>, CancellationToken);

impl Bench {
    /// Starts a portal with this many valid contacts and won deals, and no producer yet.
    pub async fn plain(contacts: usize, deals: usize) -> Bench {
        let data = if contacts == 0 { StartingData::Empty } else { StartingData::Plain };
        Bench::with(Options { data, contacts, deals, ..Options::default() }).await
    }

    pub async fn with(options: Options) -> Bench {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let nats = LocalNats::start(&folder.path().join("nats")).await.unwrap();
        let settings = NatsSettings::plain(&nats.url()).unwrap();
        let broker =
            Broker::connect("test", &settings, Health::default(), CancellationToken::new()).await.unwrap();
        bootstrap::apply(&broker, 1, Mode::Make).await.unwrap();
        let portal = Simulator::start(Options { clock_speed: CLOCK_SPEED, ..options }).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Bench { nats, broker, folder, portal, http, producer: None, first_watermark: "2015-01-01" }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Starts a producer that polls about three times a second.
    pub fn start_producer(&mut self) {
        self.start_producer_polling_every("300ms");
    }

    pub fn start_producer_polling_every(&mut self, interval: &str) {
        self.producer = Some(self.producer_in(&self.state_dir(), interval));
    }

    /// Starts one more producer, as on another host.
    pub fn replica(&self, name: &str) -> Replica {
        self.producer_in(&self.folder.path().join(name), "300ms")
    }

    fn producer_in(&self, state_dir: &Path, interval: &str) -> Replica {
        let nats_url = self.nats.url();
        let webhook_url = self.portal.webhook_url();
        let speed = CLOCK_SPEED.to_string();
        let state_dir = state_dir.display().to_string();
        let settings = [
            ("NATS_URL", nats_url.as_str()),
            ("BITRIX24_WEBHOOK_URL", &webhook_url),
            ("STATE_DIR", &state_dir),
            ("PORTAL_CLOCK_SPEED", &speed),
            ("SYNC_START_DATE", "2015-01-01"),
            ("SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP", self.first_watermark),
            ("SYNC_DEAL_LAST_MODIFY_TIMESTAMP", self.first_watermark),
            ("CONTACT_SYNC_INTERVAL", interval),
            ("DEAL_SYNC_INTERVAL", interval),
        ];
        let source = Source::new(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let (settings, config) = runtime::stage::configure::<producer::Producer>(&source).unwrap();
        let stopping = CancellationToken::new();
        let token = stopping.clone();
        let task = tokio::spawn(async move {
            let health = Health::default();
            let broker =
                Broker::connect("producer", &settings.nats, health.clone(), token.clone()).await.unwrap();
            producer::Producer::run(config, Context { broker, settings, health, stopping: token }).await
        });
        (task, stopping)
    }

    /// Tells the producer to stop and waits until it has.
    pub async fn stop_producer(&mut self) {
        let (task, stopping) = self.producer.take().unwrap();
        stopping.cancel();
        tokio::time::timeout(PATIENCE, task).await.expect("a graceful stop").unwrap().unwrap();
    }

    /// Ends the producer wherever it is.
    pub async fn kill_producer(&mut self) {
        let (task, _) = self.producer.take().unwrap();
        task.abort();
        let _aborted = task.await;
    }

    pub async fn admin(&self, path: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.portal.admin_url())).json(&body);
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
        response.json().await.unwrap()
    }

    pub async fn admin_get(&self, path: &str) -> Value {
        self.http
            .get(format!("{}{path}", self.portal.admin_url()))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    pub async fn end_faults(&self) {
        self.http.delete(format!("{}faults", self.portal.admin_url())).send().await.unwrap();
    }

    /// Writes a status as the status-writer would.
    pub async fn write_status(&self, method: &str, id: u64, status: &str) {
        let url = format!("{}{method}", self.portal.webhook_url());
        let body = json!({"id": id, "fields": {STATUS: status}});
        let response = self.http.post(url).json(&body).send().await.unwrap();
        assert!(response.status().is_success());
    }

    /// Creates a contact as a person would.
    pub async fn create_contact(&self, name: &str) -> u64 {
        let fields = json!({"NAME": name, "LAST_NAME": "Проверкина", "PHONE": [{"VALUE": "+79260000001"}]});
        self.admin("contacts", json!({"fields": fields})).await["id"].as_u64().unwrap()
    }

    /// Returns the ids of all contacts.
    pub async fn ids(&self) -> Vec<u64> {
        let rows = self.admin_get("state?entity=contact").await;
        let id = |row: &Value| row["ID"].as_u64().or_else(|| row["ID"].as_str()?.parse().ok()).unwrap();
        rows.as_array().unwrap().iter().map(id).collect()
    }

    pub async fn edit_contact(&self, id: u64, fields: Value) {
        self.admin(&format!("contacts/{id}"), json!({"fields": fields})).await;
    }

    pub async fn requests(&self) -> Value {
        self.admin_get("requests").await
    }

    pub async fn checkpoint(&self, entity: Entity) -> Option<Checkpoint> {
        let bucket = self.broker.bucket(&CHECKPOINTS).await.unwrap();
        let (value, _) = bucket.get(entity.token()).await.unwrap()?;
        Some(serde_json::from_slice(&value).unwrap())
    }

    pub async fn polls(&self, entity: Entity) -> u64 {
        self.checkpoint(entity).await.map_or(0, |checkpoint| checkpoint.polls)
    }

    /// Waits until both jobs have begun and ended this many polls more.
    pub async fn polls_more(&self, more: u64) {
        let targets =
            [self.polls(Entity::Contact).await + more + 1, self.polls(Entity::Deal).await + more + 1];
        eventually("further polls", || async {
            self.polls(Entity::Contact).await >= targets[0] && self.polls(Entity::Deal).await >= targets[1]
        })
        .await;
    }

    pub async fn messages(&self) -> u64 {
        self.broker.jetstream().get_stream(RAW.name).await.unwrap().cached_info().state.messages
    }

    pub async fn newest(&self, record: RecordRef) -> Option<(Envelope, RecordChanged)> {
        let stream = self.broker.stream(RAW.name).await.unwrap();
        let message = self.broker.last_message(&stream, RAW.name, &subjects::raw(record)).await.unwrap()?;
        Some(message.decode().unwrap())
    }

    /// Publishes what another producer read of a contact some time ago.
    pub async fn publish_as_another(&self, id: u64, name: &str, modified: DateTime<FixedOffset>) {
        let record = contact(id);
        let stream = self.broker.stream(RAW.name).await.unwrap();
        let last =
            self.broker.last_message(&stream, RAW.name, &subjects::raw(record)).await.unwrap().unwrap();
        let (envelope, changed) = last.decode::<RecordChanged>().unwrap();
        let mut content: Value = serde_json::from_str(changed.record.get()).unwrap();
        content["NAME"] = json!(name);
        let changed = RecordChanged { record: serde_json::value::to_raw_value(&content).unwrap(), ..changed };
        let envelope = Envelope { modified, fingerprint: format!("of {name}"), ..envelope };
        let message = Outgoing::new(subjects::raw(record), envelope.encode(&changed).unwrap(), name.into());
        self.broker.publish(&message.expecting_last(last.sequence)).await.unwrap();
    }

    /// Returns every name that was published of a contact, in order.
    pub async fn names(&self, id: u64) -> Vec<String> {
        let events = self.events().await;
        let of_it = events.iter().filter(|(envelope, _)| envelope.record == contact(id));
        of_it.map(|(_, changed)| field(changed, "NAME")).collect()
    }

    /// Returns all events in the order of the stream.
    pub async fn events(&self) -> Vec<(Envelope, RecordChanged)> {
        let stream = self.broker.stream(RAW.name).await.unwrap();
        let state = self.broker.jetstream().get_stream(RAW.name).await.unwrap().cached_info().state.clone();
        let mut events = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.direct_get(sequence).await.unwrap();
            let stored = StoredMessage {
                sequence,
                stored: message.time,
                subject: message.subject.to_string(),
                headers: message.headers,
                payload: message.payload,
            };
            events.push(stored.decode().unwrap());
        }
        events
    }

    /// Counts the events about each record.
    pub async fn counts(&self) -> BTreeMap<RecordRef, usize> {
        let mut counts = BTreeMap::new();
        for (envelope, _) in self.events().await {
            *counts.entry(envelope.record).or_default() += 1;
        }
        counts
    }

    /// Waits until the stream holds this many events and two more polls have found nothing.
    pub async fn settles_at(&self, messages: u64) {
        eventually("the expected number of events", || async { self.messages().await >= messages }).await;
        self.polls_more(2).await;
        assert_eq!(self.messages().await, messages);
    }

    /// Waits until the newest event about a contact has this name.
    pub async fn shows_name(&self, id: u64, name: &str) {
        eventually("the name in the stream", || async { self.name_of(id).await.as_deref() == Some(name) })
            .await;
    }

    async fn name_of(&self, id: u64) -> Option<String> {
        let (_, changed) = self.newest(contact(id)).await?;
        Some(field(&changed, "NAME"))
    }
}

pub fn contact(id: u64) -> RecordRef {
    RecordRef::contact(RecordId::try_new(id).unwrap())
}

pub fn deal(id: u64) -> RecordRef {
    RecordRef::deal(RecordId::try_new(id).unwrap())
}

pub fn field(changed: &RecordChanged, name: &str) -> String {
    let record: Value = serde_json::from_str(changed.record.get()).unwrap();
    record[name].as_str().unwrap_or_default().to_owned()
}

pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come to hold");
}
