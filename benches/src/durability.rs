//! P18: what each way of keeping messages costs, as a ratio to the same publishes side by side in the same run.

use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self};
use futures::StreamExt;
use runtime::local_nats::{Access, LocalNats, Routes};

use crate::Scale;
use crate::figure::Figure;

/// Size of a message, in bytes: a contact with its headers.
const BYTES: usize = 1_024;

/// Publishes whose acks are waited for at the same time, as many as a stage has.
const IN_FLIGHT: usize = 64;

struct Way {
    what: &'static str,
    servers: Vec<LocalNats>,
    replicas: usize,
    storage: StorageType,
    one_by_one: Vec<f64>,
    in_flight: Vec<f64>,
}

/// Measures all ways in turns.
pub async fn measure(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let (rounds, turn) = scale.pick((5, Duration::from_secs(2)), (2, Duration::from_millis(500)));
    let folder = std::env::temp_dir().join(format!("rollcall-durability-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured = measure_under(&folder, rounds, turn).await;
    std::fs::remove_dir_all(&folder)?;
    measured
}

async fn measure_under(
    folder: &std::path::Path,
    rounds: usize,
    turn: Duration,
) -> anyhow::Result<Vec<Figure>> {
    let config = folder.join("always.conf");
    std::fs::write(&config, "jetstream { sync_interval: always }\n")?;
    let always = Access { config, seed: None };
    let one = |servers| vec![servers];
    let lazy = LocalNats::start(&folder.join("lazy")).await?;
    let memory = LocalNats::start(&folder.join("memory")).await?;
    let synced = LocalNats::start_guarded(&folder.join("always"), always.clone()).await?;
    let three = LocalNats::start_cluster(&folder.join("three"), None, &Routes::direct()?).await?;
    let three_synced =
        LocalNats::start_cluster(&folder.join("three-always"), Some(&always), &Routes::direct()?).await?;
    let way = |what, servers, replicas, storage| Way {
        what,
        servers,
        replicas,
        storage,
        one_by_one: Vec::new(),
        in_flight: Vec::new(),
    };
    let mut ways = [
        way("one server, disk written every two minutes", one(lazy), 1, StorageType::File),
        way("one server, memory", one(memory), 1, StorageType::Memory),
        way("one server, `sync_interval: always`", one(synced), 1, StorageType::File),
        way("three copies, disk written every two minutes", three, 3, StorageType::File),
        way("three copies, `sync_interval: always`", three_synced, 3, StorageType::File),
    ];
    for _ in 0..rounds {
        for way in &mut ways {
            let url = way.servers.first().context("a server")?.url();
            let jetstream = jetstream::new(async_nats::connect(url).await?);
            make(&jetstream, way).await?;
            way.one_by_one.push(rate(&jetstream, 1, turn).await?);
            way.in_flight.push(rate(&jetstream, IN_FLIGHT, turn).await?);
            jetstream.delete_stream("measured").await?;
        }
    }
    let median = |numbers: &[f64]| {
        let mut numbers = numbers.to_vec();
        numbers.sort_by(f64::total_cmp);
        numbers.get(numbers.len() / 2).copied().unwrap_or_default()
    };
    let usual = median(&ways[0].one_by_one);
    let mut figures =
        vec![Figure::new("P18", format!("{}: publishes a second, one by one", ways[0].what), usual)];
    for way in &ways {
        let (single, many) = (median(&way.one_by_one), median(&way.in_flight));
        figures.push(Figure::new("P18", format!("{}: one by one, over the first", way.what), single / usual));
        let what = format!("{}: {IN_FLIGHT} in flight, over the first one by one", way.what);
        figures.push(Figure::new("P18", what, many / usual));
    }
    Ok(figures)
}

/// Makes the stream; a cluster may still be electing.
async fn make(jetstream: &jetstream::Context, way: &Way) -> anyhow::Result<()> {
    e2e::eventually("a stream", Duration::from_secs(30), || async {
        let config = Config {
            name: "measured".to_owned(),
            subjects: vec!["measured.*".to_owned()],
            num_replicas: way.replicas,
            storage: way.storage,
            ..Config::default()
        };
        Ok(jetstream.create_stream(config).await.ok())
    })
    .await?;
    Ok(())
}

async fn rate(jetstream: &jetstream::Context, in_flight: usize, turn: Duration) -> anyhow::Result<f64> {
    let payload = bytes::Bytes::from(vec![b'x'; BYTES]);
    let begun = Instant::now();
    let publishing = futures::stream::iter(0_u64..)
        .take_while(|_| std::future::ready(begun.elapsed() < turn))
        .map(|number| {
            let payload = payload.clone();
            async move { jetstream.publish(format!("measured.{}", number % 1_000), payload).await?.await }
        })
        .buffer_unordered(in_flight);
    let acks: Vec<_> = publishing.collect().await;
    let seconds = begun.elapsed().as_secs_f64();
    let count = acks.len();
    acks.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(count as f64 / seconds)
}
