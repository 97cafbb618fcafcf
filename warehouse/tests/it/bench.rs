//! A NATS, a PostgreSQL and a warehouse between them.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::PullConsumer;
use e2e::eventually;
use runtime::bootstrap::{self, Mode};
use runtime::broker::NatsSettings;
use runtime::health::Health;
use runtime::local_nats::LocalNats;
use runtime::{Broker, CancellationToken, Context, Metrics, Outgoing, Source, Stage};
use schemas::envelope::{ERASED, ERASER};
use schemas::streams::{RAW, RESULTS, STATUSES};
use schemas::{Encoded, Envelope, Outcome, RecordChanged, RecordId, RecordProcessed, RecordRef, Shown};
use schemas::{StatusSettled, StatusWritten, Version, subjects};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use warehouse::Warehouse;

use crate::postgres::LocalPostgres;

/// Longest time for anything to come true; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The tables that records make.
pub const TABLES: [&str; 9] =
    ["contacts", "deals", "product_rows", "users", "stages", "outcomes", "statuses", "erased", "left_out"];

pub struct Bench {
    pub postgres: LocalPostgres,
    pub nats: LocalNats,
    pub broker: Broker,
    pub health: Health,
    pub metrics: Metrics,
    warehouse: Option<(JoinHandle<anyhow::Result<()>>, CancellationToken)>,
    folder: tempfile::TempDir,
}

impl Bench {
    /// Starts both servers, with the streams but without a warehouse.
    pub async fn open() -> anyhow::Result<Bench> {
        Bench::with(LocalPostgres::start().await?).await
    }

    /// Starts a NATS beside this PostgreSQL.
    pub async fn with(postgres: LocalPostgres) -> anyhow::Result<Bench> {
        let folder = tempfile::tempdir()?;
        let nats = LocalNats::start(&folder.path().join("nats")).await?;
        let settings = NatsSettings::plain(&nats.url())?;
        let broker = Broker::connect("test", &settings, Health::default(), CancellationToken::new()).await?;
        bootstrap::apply(&broker, 1, Mode::Make).await?;
        Ok(Bench {
            postgres,
            nats,
            broker,
            health: Health::default(),
            metrics: Metrics::new("warehouse"),
            warehouse: None,
            folder,
        })
    }

    /// Starts a warehouse.
    pub async fn start_warehouse(&mut self) -> anyhow::Result<()> {
        self.start_warehouse_with(&[]).await
    }

    /// Starts a warehouse with further settings.
    pub async fn start_warehouse_with(&mut self, more: &[(&'static str, String)]) -> anyhow::Result<()> {
        let own = [("NATS_URL", self.nats.url()), ("STATE_DIR", self.folder.path().display().to_string())];
        let settings = own.into_iter().chain(self.postgres.settings()).chain(more.iter().cloned());
        let source = Source::new(settings.map(|(name, value)| (name.to_owned(), value)));
        let (settings, config) = runtime::stage::configure::<Warehouse>(&source)?;
        let (stopping, health) = (CancellationToken::new(), Health::default());
        let broker =
            Broker::connect(Warehouse::NAME, &settings.nats, health.clone(), stopping.clone()).await?;
        let broker = broker.counting_in(&self.metrics);
        let context = Context { broker, settings, health: health.clone(), stopping: stopping.clone() };
        self.health = health;
        self.warehouse = Some((tokio::spawn(Warehouse::run(config, context)), stopping));
        Ok(())
    }

    /// Tells the warehouse to stop and waits until it has.
    pub async fn stop_warehouse(&mut self) -> anyhow::Result<()> {
        let (task, stopping) = self.warehouse.take().context("no warehouse runs")?;
        stopping.cancel();
        tokio::time::timeout(PATIENCE, task).await.context("the warehouse does not stop")??
    }

    /// Ends the warehouse wherever it is.
    pub async fn kill_warehouse(&mut self) -> anyhow::Result<()> {
        let (task, stopping) = self.warehouse.take().context("no warehouse runs")?;
        task.abort();
        let _aborted = task.await;
        // Its tasks are children of the one that was aborted; the connection must go with them.
        stopping.cancel();
        Ok(())
    }

    /// Waits until every message of every stream is stored and that is noted.
    pub async fn caught_up(&self) -> anyhow::Result<Client> {
        eventually("everything is stored", PATIENCE, || async {
            let Ok(client) = self.postgres.connect().await else { return Ok(None) };
            for stream in [RAW, RESULTS, STATUSES] {
                let state =
                    self.broker.jetstream().get_stream(stream.name).await?.cached_info().state.clone();
                let consumer =
                    self.broker.jetstream().get_consumer_from_stream("warehouse", stream.name).await;
                let consumer: PullConsumer = match consumer {
                    Ok(consumer) => consumer,
                    Err(_) => return Ok(None),
                };
                let info = consumer.cached_info();
                let sql = "SELECT coalesce(max(sequence), 0) FROM positions WHERE stream = $1";
                let noted: i64 = match client.query_one(sql, &[&stream.name]).await {
                    Ok(row) => row.get(0),
                    Err(_) => return Ok(None),
                };
                let is_idle = info.num_pending == 0 && info.num_ack_pending == 0;
                if !is_idle || noted.unsigned_abs() < state.last_sequence {
                    return Ok(None);
                }
            }
            Ok(Some(client))
        })
        .await
    }

    /// Publishes a message as it is and returns its sequence.
    pub async fn publish(&self, subject: String, encoded: Encoded) -> anyhow::Result<u64> {
        let message_id = format!("{subject} {}", rand_id());
        Ok(self.broker.publish(&Outgoing::new(subject, encoded, message_id)).await?.sequence)
    }

    /// Publishes a version of a contact.
    pub async fn contact(&self, id: u64, fields: Value) -> anyhow::Result<u64> {
        let record = RecordRef::contact(RecordId::try_new(id)?);
        self.publish(subjects::raw(record), changed(record, fields, None, None)?).await
    }

    /// Publishes a version of a deal with its product rows and seller.
    pub async fn deal(&self, id: u64, fields: Value, rows: Value, seller: Value) -> anyhow::Result<u64> {
        let record = RecordRef::deal(RecordId::try_new(id)?);
        self.publish(subjects::raw(record), changed(record, fields, Some(rows), Some(seller))?).await
    }

    /// Publishes an outcome of a version.
    pub async fn outcome(&self, record: RecordRef, version: (u64, u64), text: &str) -> anyhow::Result<u64> {
        let processed = RecordProcessed {
            outcome: Outcome::Refused,
            status: text.to_owned(),
            problems: Vec::new(),
            target_id: None,
            body_digest: None,
            shown: Shown { status: None, observed: moment()? },
        };
        let encoded = envelope(record, Some(version))?.encode(&processed)?;
        self.publish(subjects::result(record), encoded).await
    }

    /// Publishes a settled status of a version.
    pub async fn status(&self, record: RecordRef, version: (u64, u64), text: &str) -> anyhow::Result<u64> {
        let settled =
            StatusWritten { status: text.to_owned(), how: StatusSettled::Written, settled: moment()? };
        let encoded = envelope(record, Some(version))?.encode(&settled)?;
        self.publish(subjects::status(record), encoded).await
    }

    /// Publishes what an erasure leaves of a record: nothing but up to where it is erased.
    pub async fn erasure(&self, record: RecordRef, version: (u64, u64), raw: u64) -> anyhow::Result<u64> {
        let processed = RecordProcessed {
            outcome: Outcome::Updated,
            status: "Успешно".to_owned(),
            problems: Vec::new(),
            target_id: Some("12456".to_owned()),
            body_digest: None,
            shown: Shown { status: None, observed: moment()? },
        };
        let envelope = Envelope { source: ERASER.to_owned(), ..envelope(record, Some(version))? };
        let mut encoded = envelope.encode(&processed)?;
        encoded.headers.push((ERASED.to_owned(), raw.to_string()));
        self.publish(subjects::result(record), encoded).await
    }

    /// Has every stream delivered again from its beginning.
    pub async fn redeliver(&mut self, client: &Client) -> anyhow::Result<()> {
        self.stop_warehouse().await?;
        client.batch_execute("DELETE FROM positions").await?;
        self.start_warehouse().await
    }
}

fn rand_id() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn moment() -> anyhow::Result<chrono::DateTime<chrono::FixedOffset>> {
    Ok(chrono::DateTime::parse_from_rfc3339("2026-01-10T12:30:05+03:00")?)
}

fn envelope(record: RecordRef, version: Option<(u64, u64)>) -> anyhow::Result<Envelope> {
    Ok(Envelope {
        record,
        source: "/rollcall/test".into(),
        pupil: Some(record.id),
        modified: moment()?,
        fingerprint: "ab".into(),
        version: version.map(|(raw_sequence, redrive)| Version { raw_sequence, redrive }),
        attempt: 0,
    })
}

/// Encodes a version of a record as the producer does.
pub fn changed(
    record: RecordRef,
    mut fields: Value,
    rows: Option<Value>,
    seller: Option<Value>,
) -> anyhow::Result<Encoded> {
    fields["ID"] = json!(record.id.get().to_string());
    let raw = |value: &Value| serde_json::value::to_raw_value(value);
    let data = RecordChanged {
        observed: moment()?,
        status: Some(String::new()),
        record: raw(&fields)?,
        product_rows: rows.as_ref().map(raw).transpose()?,
        seller: seller.as_ref().map(raw).transpose()?,
        trimmed: Vec::new(),
    };
    Ok(envelope(record, None)?.encode(&data)?)
}

/// Returns whole tables, row by row, as text.
pub async fn tables(client: &Client) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for table in TABLES {
        for row in client.query(&format!("SELECT '{table}: ' || t FROM {table} AS t ORDER BY 1"), &[]).await?
        {
            all.push(row.try_get(0)?);
        }
    }
    Ok(all)
}

/// Returns the only value of a query as text.
pub async fn value(client: &Client, sql: &str) -> anyhow::Result<Option<String>> {
    let row =
        client.query_one(&format!("SELECT (({sql}))::text"), &[]).await.with_context(|| sql.to_owned())?;
    Ok(row.try_get(0)?)
}
