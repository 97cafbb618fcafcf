//! Reading one stream into the tables: fetch, store, and ack only what is committed.
//!
//! The database says where reading goes on. A consumer that is ahead of it, because a backup was restored or the tables
//! were made anew, is made again from there; what then comes twice changes nothing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, AckKind, Message};
use futures::StreamExt;
use runtime::Broker;
use runtime::health::Health;
use schemas::streams::StreamDefinition;
use tokio::sync::Notify;
use tokio_postgres::Client;

use crate::batch::Said;
use crate::database::{Database, told};
use crate::metrics::WarehouseMetrics;
use crate::store::{self, Stored};

/// Name of the consumers, and of the user whose credentials allow it.
pub const CONSUMER: &str = "warehouse";

/// Most messages of one transaction; each is at most 1 MiB.
const MOST_MESSAGES: usize = 100;

/// Most bytes of payload in one transaction, the last message excepted.
const MOST_BYTES: usize = 16 << 20;

/// After this long without an ack the server delivers a message again: what a killed warehouse held waits for it, and to a
/// slow one a second delivery does no harm.
const ACK_WAIT: Duration = Duration::from_secs(10);

/// While there is more to store, how far the noted position stays behind: noting it costs the database a write.
const POSITION_STEP: u64 = 1000;

/// How long one request waits for a message to come; after that both servers are looked at again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest time for one transaction: a database that has frozen looks like a slow one.
const STORE_TIMEOUT: Duration = Duration::from_secs(120);

/// First pause after a failure; doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// What one stream is read with.
pub struct Reader {
    /// The connection to NATS.
    pub broker: Broker,
    /// JetStream as this account knows it.
    pub jetstream: jetstream::Context,
    /// The database.
    pub database: Database,
    /// The stream.
    pub stream: &'static StreamDefinition,
    /// What is counted.
    pub metrics: WarehouseMetrics,
    /// Told when a field is seen for the first time.
    pub new_fields: Arc<Notify>,
    /// Tells whether this reader works.
    pub works: crate::Works,
}

impl Reader {
    /// Works until it is told to stop, waiting for NATS and PostgreSQL as long as it takes.
    pub async fn run(self, health: Health) {
        let name = self.stream.name;
        let (mut pause, mut said) = (FIRST_PAUSE, None);
        while !self.broker.stopping().is_cancelled() {
            let mut has_begun = false;
            let ended = self.session(&health, &mut has_begun).await;
            self.works.set(&health, name, false);
            let Err(error) = ended else { return };
            if has_begun {
                (pause, said) = (FIRST_PAUSE, None);
            }
            self.metrics.note_failure(name);
            // Once for each reason: a night without a database is not worth a thousand lines.
            let reason = format!("{error:#}");
            if said.as_ref() != Some(&reason) {
                tracing::warn!("Reading {name} waits, and tries again: {reason}");
            }
            said = Some(reason);
            if self.broker.pause(pause).await.is_err() {
                return;
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Works until something is away; ends without an error only when told to stop.
    async fn session(&self, health: &Health, has_begun: &mut bool) -> anyhow::Result<()> {
        let stopping = self.broker.stopping();
        let connected = async {
            let client = self.database.connect().await?;
            let (consumer, position) = self.bind(&client).await?;
            anyhow::Ok((client, consumer, position))
        };
        let (mut client, mut consumer, mut position) = tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            connected = connected => connected?,
        };
        self.works.set(health, self.stream.name, true);
        *has_begun = true;
        tracing::info!("Reading {} behind sequence {position}", self.stream.name);
        loop {
            let messages = tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                messages = self.fetch(&consumer, &client) => messages?,
            };
            // What is being stored when the stop comes is stored to its end.
            if !messages.is_empty() {
                self.store(&mut client, messages).await?;
            }
            position = self.note_position(&mut consumer, &client, position).await?;
        }
    }

    /// Binds to the consumer, which goes on where the database says.
    async fn bind(&self, client: &Client) -> anyhow::Result<(PullConsumer, u64)> {
        let name = self.stream.name;
        let stream =
            self.jetstream.get_stream(name).await.with_context(|| format!("look for stream {name}"))?;
        let mut position = store::position(client, name).await.map_err(told)?;
        if position > stream.cached_info().state.last_sequence {
            tracing::warn!(
                "Stream {name} was made anew since it was last read; reading it from its beginning"
            );
            store::set_position(client, name, 0).await.map_err(told)?;
            position = 0;
        }
        if let Ok(consumer) = stream.get_consumer::<pull::Config>(CONSUMER).await {
            if consumer.cached_info().ack_floor.stream_sequence <= position {
                return Ok((consumer, position));
            }
            stream
                .delete_consumer(CONSUMER)
                .await
                .with_context(|| format!("remove the consumer of {name}"))?;
        }
        let consumer = stream.create_consumer(self.consumer(position)).await;
        Ok((consumer.with_context(|| format!("make a consumer of {name}"))?, position))
    }

    fn consumer(&self, position: u64) -> pull::Config {
        let deliver_policy = match position {
            0 => DeliverPolicy::All,
            position => DeliverPolicy::ByStartSequence { start_sequence: position + 1 },
        };
        pull::Config {
            durable_name: Some(CONSUMER.into()),
            description: Some("Tables in PostgreSQL".into()),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: 2 * MOST_MESSAGES as i64,
            ..pull::Config::default()
        }
    }

    /// Returns what is there, or waits a while for the first message to come.
    async fn fetch(&self, consumer: &PullConsumer, client: &Client) -> anyhow::Result<Vec<Message>> {
        let name = self.stream.name;
        let there = consumer.fetch().max_messages(MOST_MESSAGES).messages();
        let messages = gather(there.await.with_context(|| format!("fetch from {name}"))?).await?;
        if !messages.is_empty() {
            return Ok(messages);
        }
        anyhow::ensure!(!client.is_closed(), "PostgreSQL closed the connection");
        let coming = consumer.batch().max_messages(1).expires(PATIENCE).messages();
        gather(coming.await.with_context(|| format!("wait for {name}"))?).await
    }

    /// Stores messages and acks them; after a failure the server delivers them again.
    async fn store(&self, client: &mut Client, messages: Vec<Message>) -> anyhow::Result<()> {
        let mut rest = messages;
        while !rest.is_empty() {
            let behind = rest.split_off(transaction_length(&rest));
            let part = std::mem::replace(&mut rest, behind);
            if let Err(error) = self.store_part(client, &part).await {
                for message in part.iter().chain(&rest) {
                    // Where this does not arrive, the server waits for the ack in vain and delivers again.
                    let _lost = message.ack_with(AckKind::Nak(None)).await;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn store_part(&self, client: &mut Client, part: &[Message]) -> anyhow::Result<()> {
        let said: Vec<Said> =
            part.iter().map(|message| said(self.stream.name, message)).collect::<Result<_, _>>()?;
        let stored = tokio::time::timeout(STORE_TIMEOUT, store::store(client, &said))
            .await
            .context("PostgreSQL does not answer")?
            .map_err(told)?;
        self.tell(&stored);
        let Some((last, others)) = part.split_last() else { return Ok(()) };
        // An ack that is lost brings a redelivery, which changes nothing.
        for message in others {
            message.ack().await.map_err(anyhow::Error::from_boxed)?;
        }
        // Waited for, so that what the consumer says of itself next includes all of them.
        last.double_ack().await.map_err(anyhow::Error::from_boxed)
    }

    fn tell(&self, stored: &Stored) {
        self.metrics.note_stored(self.stream.name, stored);
        for left_out in &stored.left_out {
            let (stream, sequence, subject) = (left_out.stream, left_out.sequence, &left_out.subject);
            tracing::error!("Left out message {sequence} of {stream} ({subject}): {}", left_out.reason);
        }
        if stored.has_new_fields {
            self.new_fields.notify_one();
        }
    }

    /// Notes in the database up to where everything is stored, for the day on which the consumer knows better.
    async fn note_position(
        &self,
        consumer: &mut PullConsumer,
        client: &Client,
        position: u64,
    ) -> anyhow::Result<u64> {
        let name = self.stream.name;
        let info = consumer.info().await.with_context(|| format!("look at the consumer of {name}"))?;
        self.metrics.note_pending(name, info.num_pending + info.num_ack_pending as u64);
        // Tables that were made anew under a reader know nothing of what it stored.
        let noted = store::position(client, name).await.map_err(told)?;
        anyhow::ensure!(noted >= position, "the tables are others than before");
        // Acked is committed: this never promises too much.
        let floor = info.ack_floor.stream_sequence;
        let is_due = floor > position && (info.num_pending == 0 || floor - position >= POSITION_STEP);
        if !is_due {
            return Ok(position);
        }
        store::set_position(client, name, floor).await.map_err(told)?;
        Ok(floor)
    }
}

/// Returns how many of these messages, at least one, go into one transaction.
fn transaction_length(messages: &[Message]) -> usize {
    let mut bytes = 0;
    let fitting = messages.iter().take_while(|message| {
        let fits = bytes < MOST_BYTES;
        bytes += message.payload.len();
        fits
    });
    fitting.count().max(1)
}

async fn gather(
    mut batch: impl futures::Stream<Item = Result<Message, async_nats::Error>> + Unpin,
) -> anyhow::Result<Vec<Message>> {
    let mut messages = Vec::new();
    // The server ends a request in time; a connection that was lost meanwhile never does.
    let silence = PATIENCE + Duration::from_secs(10);
    while let Some(message) =
        tokio::time::timeout(silence, batch.next()).await.context("NATS does not answer")?
    {
        messages.push(message.map_err(anyhow::Error::from_boxed)?);
    }
    Ok(messages)
}

fn said(stream: &'static str, message: &Message) -> anyhow::Result<Said> {
    let sequence = message.info().map_err(anyhow::Error::from_boxed)?.stream_sequence;
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let headers = headers.flat_map(|(name, values)| {
        values.iter().map(move |value| (name.to_string(), value.as_str().to_owned()))
    });
    Ok(Said {
        stream,
        sequence,
        subject: message.subject.to_string(),
        headers: headers.collect(),
        payload: message.payload.to_vec(),
    })
}
