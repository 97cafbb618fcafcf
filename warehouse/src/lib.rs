#![doc = include_str!("../README.md")]

mod batch;
mod config;
mod database;
mod labels;
mod metrics;
mod php;
mod reader;
mod rows;
mod store;
mod views;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use runtime::health::Health;
use runtime::{CancellationToken, Context, Reader as Settings, Stage};
use schemas::streams::{RAW, RESULTS, STATUSES, StreamDefinition};
use tokio::sync::Notify;
use tokio::task::JoinSet;

pub use config::Config;
use database::{Database, told};
use metrics::WarehouseMetrics;
use reader::Reader;

/// The streams that are read.
const STREAMS: [&StreamDefinition; 3] = [&RAW, &RESULTS, &STATUSES];

/// Pause after the portal or the database could not be asked for labels.
const RETRY_LABELS: Duration = Duration::from_secs(60);

/// The warehouse: an extra consumer, run as the stages are.
pub struct Warehouse;

impl Stage for Warehouse {
    const NAME: &'static str = reader::CONSUMER;
    const ABOUT: &'static str = "Keeps tables of contacts, deals and outcomes in PostgreSQL.";
    type Config = Config;

    fn configure(reader: &Settings<'_>) -> Option<Config> {
        Config::read(reader)
    }

    async fn run(config: Config, context: Context) -> anyhow::Result<()> {
        let Context { broker, health, stopping, .. } = context;
        let jetstream = jetstream::with_prefix(broker.client().clone(), &config.jetstream_prefix);
        let metrics = WarehouseMetrics::register(broker.metrics());
        let new_fields = Arc::new(Notify::new());
        let works = Works::default();
        let mut workers = JoinSet::new();
        for stream in STREAMS {
            let reader = Reader {
                broker: broker.clone(),
                jetstream: jetstream.clone(),
                database: config.database.clone(),
                stream,
                metrics: metrics.clone(),
                new_fields: Arc::clone(&new_fields),
                works: works.clone(),
            };
            workers.spawn(reader.run(health.clone()));
        }
        let (database, portal, interval) = (config.database, config.portal, config.labels_interval);
        workers.spawn(keep_labels(database, portal, interval, new_fields, stopping.clone()));
        while let Some(ended) = workers.join_next().await {
            ended.context("a worker panicked")?;
            // Going on with one stream less would hide that nobody reads it.
            anyhow::ensure!(stopping.is_cancelled(), "a worker ended by itself");
        }
        Ok(())
    }
}

/// Which streams are being read; the warehouse is ready when all are.
#[derive(Clone, Default)]
struct Works(Arc<Mutex<BTreeSet<&'static str>>>);

impl Works {
    fn set(&self, health: &Health, stream: &'static str, works: bool) {
        let mut working = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if works {
            working.insert(stream);
        } else {
            working.remove(stream);
        }
        health.set_bound(working.len() == STREAMS.len());
    }
}

/// Keeps labels, stages and views as the portal and the records have them.
async fn keep_labels(
    database: Database,
    portal: Option<bitrix24::Client>,
    interval: Duration,
    new_fields: Arc<Notify>,
    stopping: CancellationToken,
) {
    let (mut is_due, mut said) = (true, None);
    while !stopping.is_cancelled() {
        let portal = portal.as_ref().filter(|_| is_due);
        let refreshed = tokio::select! {
            () = stopping.cancelled() => return,
            refreshed = refresh_labels(&database, portal) => refreshed,
        };
        let reason = refreshed.as_ref().err().map(|error| format!("{error:#}"));
        if let Some(reason) = reason.as_ref().filter(|reason| said.as_ref() != Some(*reason)) {
            tracing::warn!("Labels and views stay as they are: {reason}");
        }
        said = reason;
        let pause = if refreshed.is_ok() { interval } else { RETRY_LABELS.min(interval) };
        is_due = tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => true,
            // The portal was asked a moment ago; a field that it did not name then is rare and waits for its label.
            () = new_fields.notified() => refreshed.is_err(),
        };
    }
}

async fn refresh_labels(database: &Database, portal: Option<&bitrix24::Client>) -> anyhow::Result<()> {
    let mut client = database.connect().await?;
    let asked = match portal {
        Some(portal) => labels::ask(portal).await.map(Some).context("ask Bitrix24"),
        None => Ok(None),
    };
    if let Ok(Some(told_by_portal)) = &asked {
        labels::store(&mut client, told_by_portal).await.map_err(told)?;
    }
    // Also without the portal's labels the fields have columns.
    views::refresh(&mut client).await.map_err(told)?;
    asked.map(|_| ())
}
