#![doc = include_str!("../README.md")]

mod body;
mod claims;
mod coming;
mod config;
mod far_side;
mod fence;
mod gate;
mod late;
mod locks;
mod metrics;
mod pause;
mod push;
mod store;
mod task;
mod waiting;

use std::sync::Arc;

use anyhow::Context as _;
use otmechalka::Called;
use runtime::{Broker, Context, Door, Reader, Stage, Tracer, consume, letters};
use schemas::streams::{
    ATTEMPTS, CHECKPOINTS, CLAIMS, COMMANDS, ConsumerDefinition, DEAD_LETTERS, RAW, RESULTS, WAITING,
    pusher_consumers,
};

use tokio::task::JoinSet;

use claims::Claims;
pub use config::Config;
use gate::Gate;
use late::Late;
use metrics::PusherMetrics;
use push::Push;
use store::Store;
use waiting::Waiting;

/// The pusher stage.
pub struct Pusher;

impl Stage for Pusher {
    const NAME: &'static str = "pusher";
    const ABOUT: &'static str = "Applies clients and tickets to otmechalka, each once and in order.";
    type Config = Config;

    fn configure(reader: &Reader<'_>) -> Option<Config> {
        Config::read(reader)
    }

    async fn run(config: Config, context: Context) -> anyhow::Result<()> {
        let streams = [&RAW, &COMMANDS, &RESULTS, &DEAD_LETTERS];
        context.bind(&streams, &pusher_consumers(), &[&CHECKPOINTS, &WAITING, &ATTEMPTS, &CLAIMS]).await?;
        let Context { broker, settings, .. } = context;
        letters::keep_counting(&broker, Pusher::NAME);
        let metrics = PusherMetrics::register(broker.metrics());
        let (counting, tracer) = (metrics.clone(), broker.tracer().clone());
        let otmechalka = config.otmechalka.observed_by(move |called| {
            counting.note_call(&called);
            trace_call(&tracer, &called);
        });
        let door = Door::open(&broker, &CLAIMS, config.pauses.speed()).await?;
        let push = Arc::new(Push {
            gate: Gate::new(otmechalka.clone(), config.pauses, door),
            otmechalka,
            metrics: metrics.clone(),
            pauses: config.pauses,
            store: Store::open(&broker, &settings.state_dir).await?,
            waiting: Waiting::open(&broker).await?,
            claims: Claims::open(&broker, config.longest_call).await?,
            late: Late::new(claims::over_after(config.longest_call)),
            checkpoints: broker.bucket(&CHECKPOINTS).await?,
            locks: locks::Locks::default(),
            broker: broker.clone(),
        });
        let _refresh = metrics.follow(broker.metrics(), &push);
        let ended = work_on_all_partitions(&broker, &push).await;
        push.store.flush();
        ended
    }
}

fn trace_call(tracer: &Tracer, called: &Called<'_>) {
    if !tracer.is_on() {
        return;
    }
    let status = called.status.map(|status| ("http.response.status_code", u64::from(status).into()));
    let name = format!("otmechalka {}", called.call.token());
    tracer.note_request(&name, called.duration, status.into_iter().collect(), called.error.is_some());
}

/// One worker per partition; the consumer of each has one message in flight, however many processes there are.
async fn work_on_all_partitions(broker: &Broker, push: &Arc<Push>) -> anyhow::Result<()> {
    let mut workers = JoinSet::new();
    for consumer in pusher_consumers() {
        workers.spawn(work_on(broker.clone(), consumer, Arc::clone(push)));
    }
    let (stopping, late, push) = (broker.stopping().clone(), Arc::clone(push), Arc::clone(push));
    workers.spawn(async move {
        // Ends only as the stage is to stop.
        let _stopping = late.repair_what_came_late().await;
        Ok(())
    });
    workers.spawn(async move {
        // Ends only as the stage is to stop.
        let _stopping = push.gate.keep_in_step(&stopping).await;
        Ok(())
    });
    while let Some(ended) = workers.join_next().await {
        ended.context("a worker panicked")??;
    }
    Ok(())
}

async fn work_on(broker: Broker, consumer: ConsumerDefinition, push: Arc<Push>) -> anyhow::Result<()> {
    let name = consumer.name.clone();
    consume(&broker, Pusher::NAME, consumer, push.as_ref()).await?;
    // Going on with one partition less would hide that nobody works on it.
    anyhow::ensure!(broker.stopping().is_cancelled(), "the worker of {name} ended by itself");
    Ok(())
}
