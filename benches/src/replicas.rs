//! P19: records a second with one, two and four replicas of the mapper and of the pusher.

use std::time::Duration;

use e2e::{School, Stage, eventually};
use schemas::streams::{COMMANDS, RAW, RESULTS, StreamDefinition};

use crate::Scale;
use crate::figure::Figure;
use crate::portal;

const PATIENCE: Duration = Duration::from_secs(300);

const COUNTS: [usize; 3] = [1, 2, 4];

/// Measures both, each count with a school of its own.
pub async fn measure(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let (many, some) = scale.pick((6_000, 3_000), (1_500, 800));
    let mut figures = Vec::new();
    figures.extend(told("mapper", &[], Stage::Mapper, many).await?);
    figures.extend(told("pusher, otmechalka answering at once", &[], Stage::Pusher, some).await?);
    let slow = ["--latency-ms", "50"];
    figures.extend(told("pusher, otmechalka answering in 50 ms", &slow, Stage::Pusher, some).await?);
    Ok(figures)
}

async fn told(what: &str, otmechalka: &[&str], stage: Stage, records: usize) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut single = None;
    for count in COUNTS {
        let rate = rate(otmechalka, stage, records, count).await?;
        let single = *single.get_or_insert(rate);
        if count == 1 {
            figures.push(Figure::new("P19", format!("{what}: one replica, records a second"), rate));
        } else {
            figures.push(Figure::new("P19", format!("{what}: {count} replicas over one"), rate / single));
        }
    }
    Ok(figures)
}

async fn rate(otmechalka: &[&str], stage: Stage, records: usize, count: usize) -> anyhow::Result<f64> {
    let school = portal::school(records, 0, 20.0).otmechalka(otmechalka).open().await?;
    let mut upstream = school.replica(Stage::Producer, "producer")?;
    stored(&school, &RAW, records).await?;
    upstream.kill().await?;
    let output = match stage {
        Stage::Pusher => {
            let mut mapper = school.replica(Stage::Mapper, "mapper")?;
            stored(&school, &COMMANDS, records).await?;
            mapper.kill().await?;
            RESULTS
        }
        _ => COMMANDS,
    };
    let mut replicas = Vec::new();
    for number in 0..count {
        replicas.push(school.replica(stage, &number.to_string())?);
    }
    stored(&school, &output, records).await?;
    let stream = school.broker.jetstream().get_stream(output.name).await?;
    let state = &stream.cached_info().state;
    let seconds = (state.last_timestamp - state.first_timestamp).as_seconds_f64();
    Ok((state.messages - 1) as f64 / seconds)
}

async fn stored(school: &School, stream: &StreamDefinition, records: usize) -> anyhow::Result<()> {
    eventually("records", PATIENCE, || async {
        Ok((school.messages(stream.name).await? >= records as u64).then_some(()))
    })
    .await
}
