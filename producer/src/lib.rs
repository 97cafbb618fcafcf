#![doc = include_str!("../README.md")]

mod change;
mod checkpoints;
mod config;
mod daily;
mod enrich;
mod entity;
mod error;
mod fingerprint;
mod job;
mod metrics;
mod mirror;
pub mod missed;
#[cfg(test)]
mod model;
mod poller;
mod portal;
mod publisher;
mod record;
mod store;
mod survey;
mod trim;
mod walk;

use std::path::Path;

use anyhow::Context as _;
use bitrix24::{BoxFuture, Client, Lane};
use runtime::budget::{self, SharedBudget, Spending};
use runtime::{Broker, CancellationToken, Context, Leadership, Reader, Stage, faults, lease};
use schemas::streams::{BUDGET, CHECKPOINTS, LEASES, RAW};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use crate::change::{Known, Seen};
use crate::checkpoints::Checkpoints;
pub use crate::config::Config;
use crate::config::SHARE_THAT_STARVES;
use crate::daily::Daily;
use crate::enrich::Enricher;
pub use crate::entity::{EntitySettings, Plan};
pub use crate::error::PollError;
use crate::job::Job;
use crate::metrics::ProducerMetrics;
use crate::poller::Poller;
use crate::portal::Portal;
use crate::publisher::Publisher;
pub use crate::publisher::sent_again;
pub use crate::record::{Ignored, Reading, event_of_row};
pub use crate::survey::{MOST_NARROWED, Stretch, Survey};
pub use crate::walk::Moment;

/// The stage that polls Bitrix24.
pub struct Producer;

impl Stage for Producer {
    const NAME: &'static str = "producer";
    const ABOUT: &'static str = "Polls Bitrix24 and publishes changed contacts and won deals.";
    type Config = Config;

    fn configure(reader: &Reader<'_>) -> Option<Config> {
        Config::read(reader)
    }

    async fn run(config: Config, context: Context) -> anyhow::Result<()> {
        context.bind(&[&RAW], &[], &[&CHECKPOINTS, &BUDGET, &LEASES]).await?;
        let Context { broker, settings, stopping, .. } = context;
        let client = portal_client(&config, &broker).await?;
        let metrics = ProducerMetrics::register(broker.metrics());
        for plan in [&config.contacts, &config.deals] {
            metrics.note_interval(plan.entity, plan.interval);
        }
        warn_of_many_polls(&config);
        let _refreshes = metrics.follow(broker.metrics(), client.clone());
        // In a set, so that it ends with this future.
        let mut notes = JoinSet::new();
        let asked = client.clone();
        let counts = move || metrics::counts(&asked);
        notes.spawn(Spending::keep_noting(broker.clone(), Producer::NAME, config.bucket, counts));
        lease::lead(&broker, Producer::NAME, &settings.state_dir, |leadership| {
            poll(
                &config,
                &broker,
                &settings.state_dir,
                client.clone(),
                metrics.clone(),
                leadership,
                &stopping,
            )
        })
        .await
    }
}

fn warn_of_many_polls(config: &Config) {
    let percent = config.share_of_polls() * 100.0;
    if percent > SHARE_THAT_STARVES * 100.0 {
        tracing::warn!(
            "Polls alone take {percent:.0} % of the requests that the portal gives back: statuses of many records and \
             `rollcall reconcile` may wait for good; set CONTACT_SYNC_INTERVAL and DEAL_SYNC_INTERVAL to 5s or more"
        );
    }
}

/// Polls for as long as this replica is the one at work. All that is known is what the streams and buckets know.
async fn poll(
    config: &Config,
    broker: &Broker,
    state_dir: &Path,
    client: Client,
    metrics: ProducerMetrics,
    leadership: Leadership,
    stopping: &CancellationToken,
) -> anyhow::Result<()> {
    let daily = match config.reconcile_at {
        Some(at) => Some(Daily::open(broker, at).await?),
        None => None,
    };
    let now = Instant::now();
    let publisher = Publisher::open(broker, state_dir, leadership).await?;
    faults::crash_point("recovering");
    let mut poller = Poller {
        portal: Portal::new(client, stopping.clone(), config.zone),
        publisher,
        enricher: Enricher::new(config.seller_cache),
        checkpoints: Checkpoints::open(broker).await?,
        spans: config.spans,
        clock_speed: config.bucket.clock_speed,
        metrics,
        tracer: broker.tracer().clone(),
        jobs: [Job::new(config.contacts.clone(), now), Job::new(config.deals.clone(), now)],
        // Contacts come first.
        last_turn: 1,
        last_seen: None,
        daily,
    };
    poller.run(broker, stopping).await
}

/// Makes a client of the portal that waits for its turn in the budget of all processes.
pub async fn portal_client(config: &Config, broker: &Broker) -> anyhow::Result<Client> {
    let budget = SharedBudget::open(broker, config.bucket).await?.behind_door().await?;
    let (listening, overrun) = (budget.clone(), budget.clone());
    let mut builder = Client::builder(config.webhook_url.clone());
    if let Some(pem) = &config.authorities {
        builder = builder.root_certificates(pem.clone());
    }
    if let Some(file) = config.webhook_file.clone() {
        builder = builder.renewed_by(move || file.read());
    }
    builder
        .clock_speed(config.bucket.clock_speed)
        .operating_limit(config.operating_limit)
        .budget(move |lane| turn_of(budget.clone(), lane))
        .told(move |is_let_in| {
            let listening = listening.clone();
            Box::pin(async move { listening.told(is_let_in).await })
        })
        .refused(move || {
            let overrun = overrun.clone();
            Box::pin(async move { overrun.overrun().await })
        })
        .build()
        .context("use BITRIX24_WEBHOOK_URL")
}

/// Awaits a request's turn in the budget that all processes share.
fn turn_of(budget: SharedBudget, lane: Lane) -> BoxFuture<'static, ()> {
    let lane = match lane {
        Lane::Live => budget::Lane::Live,
        Lane::Backfill => budget::Lane::Backfill,
    };
    Box::pin(async move {
        if budget.acquire(lane).await.is_err() {
            // The stage is stopping. Its turn never comes; whoever waits for the answer gives up by itself.
            std::future::pending::<()>().await;
        }
    })
}
