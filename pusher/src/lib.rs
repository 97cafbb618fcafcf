#![doc = include_str!("../README.md")]

mod body;
mod coming;
mod config;
mod far_side;
mod fence;
mod gate;
mod locks;
mod pause;
mod push;
mod store;
mod task;
mod waiting;

use std::sync::Arc;

use anyhow::Context as _;
use futures::TryStreamExt;
use futures::stream::FuturesUnordered;
use runtime::{Broker, Context, Reader, Stage, consume};
use schemas::streams::{
    ATTEMPTS, CHECKPOINTS, COMMANDS, ConsumerDefinition, DEAD_LETTERS, RAW, RESULTS, WAITING,
    pusher_consumers,
};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub use config::Config;
use gate::Gate;
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
        let Context { broker, settings, health, .. } = context;
        let streams = [&RAW, &COMMANDS, &RESULTS, &DEAD_LETTERS];
        broker.wait_for(&streams, &pusher_consumers(), &[&CHECKPOINTS, &WAITING, &ATTEMPTS]).await?;
        health.set_bound(true);
        let push = Arc::new(Push {
            gate: Gate::new(config.otmechalka.clone(), config.pauses),
            otmechalka: config.otmechalka,
            pauses: config.pauses,
            store: Store::open(&broker, &settings.state_dir).await?,
            waiting: Waiting::open(&broker).await?,
            checkpoints: broker.bucket(&CHECKPOINTS).await?,
            locks: locks::Locks::default(),
            broker: broker.clone(),
        });
        let ended = work_on_all_partitions(&broker, Arc::clone(&push)).await;
        push.store.flush();
        ended
    }
}

/// One worker per partition; the consumer of each has one message in flight, however many processes there are.
///
/// They share a thread of their own: the compiler cannot prove that the future of [`consume`] may move between
/// threads, and they wait for answers nearly all of their time.
async fn work_on_all_partitions(broker: &Broker, push: Arc<Push>) -> anyhow::Result<()> {
    let (broker, handle) = (broker.clone(), Handle::current());
    let (sender, ended) = oneshot::channel();
    std::thread::Builder::new().name("pusher".into()).spawn(move || {
        let workers: FuturesUnordered<_> =
            pusher_consumers().into_iter().map(|consumer| work_on(&broker, consumer, &push)).collect();
        let ended: anyhow::Result<()> = handle.block_on(workers.try_collect());
        // Nobody listens any more where the stage was stopped by force.
        let _unheard = sender.send(ended);
    })?;
    ended.await.context("the workers panicked")?
}

async fn work_on(broker: &Broker, consumer: ConsumerDefinition, push: &Push) -> anyhow::Result<()> {
    let name = consumer.name.clone();
    consume(broker, Pusher::NAME, consumer, push).await?;
    // Going on with one partition less would hide that nobody works on it.
    anyhow::ensure!(broker.stopping().is_cancelled(), "the worker of {name} ended by itself");
    Ok(())
}
