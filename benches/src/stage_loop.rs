//! P15: the mapper as it is, beside a loop that does nothing but take a message, publish one and ack. To tell what the
//! mapping costs from what the shell around it costs, the shell is also measured with nothing in it.
//!
//! All are processes of their own on the same server, bound to the same consumer, and read the same raw records; all
//! await the stream's ack before they ack. They take turns, and the times are those at which the server stored what
//! they published.

use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use e2e::{Program, School, Stage};
use futures::StreamExt;
use mapper::{DEFAULT_MAPPING, Rules};
use runtime::bootstrap::{self, Mode};
use runtime::broker::NatsSettings;
use runtime::health::Health;
use runtime::{Broker, CancellationToken, Delivery, Handler, Outgoing, Verdict};
use schemas::streams::{ATTEMPTS, COMMANDS, RAW, mapper_consumer};
use schemas::{Encoded, Envelope, RecordChanged};

use crate::Scale;
use crate::figure::Figure;
use crate::portal;

const PATIENCE: Duration = Duration::from_secs(300);

/// Messages of one request of the bare loop, as in the stages.
const STANDING_REQUEST: usize = 32;

/// Variables of the loops of this program.
const NATS_URL: &str = "NATS_URL";
const PAYLOAD_BYTES: &str = "PAYLOAD_BYTES";

/// Measures both in turns.
pub async fn measure(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let (contacts, deals, rounds) = scale.pick((2_000, 4_000, 7), (700, 1_300, 3));
    let messages = contacts + deals;
    let (mut school, _portal) =
        portal::open(portal::school(usize::try_from(contacts)?, usize::try_from(deals)?, 20.0), &[]).await?;
    fill(&mut school, messages).await?;
    let mapping = mapping_alone(&school, messages).await?;
    let (mut mapper, mut shell, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let mut payload = 0;
    for _ in 0..rounds {
        anew(&school).await?;
        school.start(Stage::Mapper)?;
        let run = finish(&school, messages).await?;
        school.stage(Stage::Mapper)?.kill().await?;
        mapper.push(run.per_second);
        payload = run.bytes_each;
        shell.push(own_loop(&school, "shell-loop", messages, payload).await?);
        bare.push(own_loop(&school, "bare-loop", messages, payload).await?);
    }
    portal::show_warnings(&school)?;
    let over_bare =
        |numbers: &[f64]| median(numbers.iter().zip(&bare).map(|(one, bare)| one / bare).collect());
    let what = format!("mapper over bare loop, median of {rounds} turns of {messages} messages");
    Ok(vec![
        Figure::new("P15", what, over_bare(&mapper)).at_least(0.7, 0.9),
        Figure::new("P15", "the same of a stage that maps nothing", over_bare(&shell)),
        Figure::new("P15", "mapping alone, with reading and writing JSON, microseconds", mapping),
        Figure::new("P15", "mapper: messages a second", median(mapper)),
        Figure::new("P15", "stage that maps nothing: messages a second", median(shell)),
        Figure::new("P15", format!("bare loop: messages a second, {payload} bytes each"), median(bare)),
    ])
}

/// Returns the microseconds that a message takes from bytes to bytes, without a server.
async fn mapping_alone(school: &School, messages: u64) -> anyhow::Result<f64> {
    let rules =
        Rules::parse(DEFAULT_MAPPING).map_err(|_| anyhow::anyhow!("the customer's mapping is unreadable"))?;
    let stream = school.broker.jetstream().get_stream(RAW.name).await?;
    let mut raw = Vec::new();
    for sequence in 1..=messages {
        raw.push(stream.get_raw_message(sequence).await?);
    }
    let started = Instant::now();
    for (message, sequence) in raw.iter().zip(1..) {
        let header = |name: &str| message.headers.get(name).map(async_nats::HeaderValue::as_str);
        let (envelope, changed) = Envelope::decode::<RecordChanged>(header, &message.payload)?;
        std::hint::black_box(mapper::outgoing(&rules, envelope, &changed, sequence)?);
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / messages as f64)
}

/// Runs a loop of this program and returns its messages a second.
async fn own_loop(school: &School, name: &str, messages: u64, payload: u64) -> anyhow::Result<f64> {
    anew(school).await?;
    let environment = [(NATS_URL, school.nats.url()), (PAYLOAD_BYTES, payload.to_string())];
    let log = school.log_file(Stage::Mapper);
    let mut process =
        Program::start("benches", &[name], environment, log.parent().context("folder of the logs")?)?;
    let run = finish(school, messages).await?;
    process.kill().await?;
    Ok(run.per_second)
}

/// Has the producer store the raw records.
async fn fill(school: &mut School, messages: u64) -> anyhow::Result<()> {
    school.start(Stage::Producer)?;
    e2e::eventually("raw records", PATIENCE, || async {
        Ok((school.messages(RAW.name).await? >= messages).then_some(()))
    })
    .await?;
    school.stage(Stage::Producer)?.kill().await
}

/// Empties the stream of commands, with its memory of message ids, and begins the raw records again.
async fn anew(school: &School) -> anyhow::Result<()> {
    let jetstream = school.broker.jetstream();
    jetstream.delete_stream(COMMANDS.name).await?;
    jetstream.get_stream(RAW.name).await?.delete_consumer(&mapper_consumer().name).await?;
    bootstrap::apply(&school.broker, 1, Mode::Make).await?;
    Ok(())
}

struct Run {
    per_second: f64,
    bytes_each: u64,
}

async fn finish(school: &School, messages: u64) -> anyhow::Result<Run> {
    let state = e2e::eventually("commands", PATIENCE, || async {
        let state = school.broker.jetstream().get_stream(COMMANDS.name).await?.cached_info().state.clone();
        Ok((state.messages >= messages).then_some(state))
    })
    .await?;
    let seconds = (state.last_timestamp - state.first_timestamp).as_seconds_f64();
    Ok(Run { per_second: (state.messages - 1) as f64 / seconds, bytes_each: state.bytes / state.messages })
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

/// Reads where to connect to, and what to publish.
fn environment() -> anyhow::Result<(String, Vec<u8>)> {
    let bytes: usize = std::env::var(PAYLOAD_BYTES).context(PAYLOAD_BYTES)?.parse()?;
    Ok((std::env::var(NATS_URL).context(NATS_URL)?, vec![b'x'; bytes]))
}

/// A handler that publishes the same bytes for every message.
struct Nothing {
    payload: Vec<u8>,
}

impl Handler for Nothing {
    async fn handle(&self, delivery: &Delivery) -> Verdict {
        let Some(record) = delivery.record() else {
            return Verdict::DeadLetter { reason: "no record in the subject".to_owned() };
        };
        let encoded = Encoded { headers: Vec::new(), payload: self.payload.clone() };
        let subject = schemas::subjects::command(record.id, record);
        Verdict::Done(vec![Outgoing::new(subject, encoded, record.to_string())])
    }
}

/// The shell of the stages around nothing. Ends only by a signal.
pub async fn shell_loop() -> anyhow::Result<()> {
    let (url, payload) = environment()?;
    let settings = NatsSettings::plain(&url)?;
    let broker = Broker::connect("benches", &settings, Health::default(), CancellationToken::new()).await?;
    broker.wait_for(&[&RAW, &COMMANDS], &[mapper_consumer()], &[&ATTEMPTS]).await?;
    runtime::consume(&broker, "benches", mapper_consumer(), &Nothing { payload }).await?;
    Ok(())
}

/// Takes a message, publishes one, acks. Ends only by a signal.
pub async fn bare_loop() -> anyhow::Result<()> {
    let (url, payload) = environment()?;
    let payload = bytes::Bytes::from(payload);
    let jetstream = jetstream::new(async_nats::connect(url).await?);
    let definition = mapper_consumer();
    let consumer: PullConsumer =
        jetstream.get_consumer_from_stream(&definition.name, definition.stream).await?;
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(STANDING_REQUEST)
        .expires(Duration::from_secs(30))
        .heartbeat(Duration::from_secs(10))
        .messages()
        .await?;
    while let Some(message) = messages.next().await {
        // As in the stages: after a missed heartbeat the stream of messages goes on by itself.
        let Ok(message) = message else { continue };
        let record = schemas::subjects::record_of(&message.subject).context("record of the subject")?;
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, record.to_string().as_str());
        let subject = schemas::subjects::command(record.id, record);
        jetstream.publish_with_headers(subject, headers, payload.clone()).await?.await?;
        message.ack().await.map_err(|error| anyhow::anyhow!("ack: {error}"))?;
    }
    Ok(())
}
