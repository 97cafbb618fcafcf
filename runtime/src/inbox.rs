//! A consumer as the stages see it: deliveries come in, verdicts go out. Only here is decided what is acked.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::{self, Stream as Messages};
use async_nats::jetstream::{AckKind, Message};
use base64::Engine;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::{FutureExt, StreamExt};
use schemas::streams::{ATTEMPTS, ConsumerDefinition};
use schemas::{DeadLetter, Encoded};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::broker::{Broker, BrokerError, Bucket, jitter};
use crate::delivery::Delivery;
use crate::faults;
use crate::outside;
use crate::publish::{Outgoing, PublishError};
use crate::reach::{Asked, cut_off_for};
use crate::trace;

/// Silence after which a consumer is asked whether it has something to deliver.
const SILENCE: Duration = Duration::from_secs(5);

/// How long a request for messages stands before it is made anew. A process that hangs is handed messages for that long,
/// each of which waits for its ack in vain.
const REQUEST: Duration = Duration::from_secs(10);

/// Pause between the server's signs of life while it has nothing to deliver. Two that are missing mean that whoever had our
/// request is gone; a cluster has no successor sooner than that.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Pause before a request is made anew that nobody took.
const REOPENING: Duration = Duration::from_millis(200);

/// Longest wait for an answer about a consumer, during which nothing is taken from it.
const LOOK: Duration = Duration::from_secs(1);

/// The same where answers were slow to come.
const LONGEST_LOOK: Duration = Duration::from_secs(4);

/// Deliveries of a message that were begun and never ended, after which it is dead.
const MAX_UNFINISHED: u64 = 4;

/// How long a suspect lets others go first, for each death but one.
const AFTER_OTHERS: Duration = Duration::from_millis(500);

/// Wait before a message comes again whose handler panicked.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// What the shell does with a message once the handler has read it.
#[derive(Debug)]
pub enum Verdict {
    /// Publish these, then ack.
    Done(Vec<Outgoing>),
    /// The message is fine, the far side is unwell: nak with this delay.
    Retry {
        /// How long it stays away.
        after: Duration,
        /// Why, without personal data.
        reason: String,
    },
    /// No redelivery can help: publish to the dead-letter subject, then term.
    DeadLetter {
        /// Why, without personal data.
        reason: String,
    },
}

impl Verdict {
    /// Buries a message over which the stage dies each time.
    pub fn deadly() -> Verdict {
        Verdict::DeadLetter {
            reason: "the stage stopped in the middle of this message each time it tried".to_owned(),
        }
    }
}

/// Deliveries of a message that were begun and never ended, as the bucket keeps them: `3 2026-01-10T10:00:00Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unfinished {
    count: u64,
    /// When that was first noticed; not told where an earlier version began to count.
    since: Option<DateTime<Utc>>,
}

impl Unfinished {
    fn parse(value: &[u8]) -> Option<Unfinished> {
        let text = std::str::from_utf8(value).ok()?;
        let (count, since) = text.split_once(' ').map_or((text, None), |(count, since)| (count, Some(since)));
        let since = since.and_then(|since| DateTime::parse_from_rfc3339(since).ok());
        Some(Unfinished { count: count.parse().ok()?, since: since.map(|since| since.to_utc()) })
    }

    /// Counts one that was noticed now.
    fn another(self, now: DateTime<Utc>) -> Unfinished {
        let since = if self.count == 0 { Some(now) } else { self.since };
        Unfinished { count: self.count + 1, since }
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.count)?;
        let since = self.since.map(|since| since.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        since.map_or(Ok(()), |since| write!(f, " {since}"))
    }
}

/// What a bound consumer and its deliveries share.
pub(crate) struct Binding {
    pub(crate) broker: Broker,
    pub(crate) definition: ConsumerDefinition,
    pub(crate) attempts: Bucket,
}

/// A bound consumer.
pub struct Inbox {
    binding: Arc<Binding>,
    stage: &'static str,
    batch: usize,
    consumer: Option<PullConsumer>,
    messages: Option<Messages>,
    /// What was here already when its request was given up.
    ready: VecDeque<Message>,
    /// Since when the stage waits for a delivery; it may be busy with others for long.
    waiting_since: Option<Instant>,
    last_look: Instant,
    /// How long the next answer about the consumer is waited for.
    look: Duration,
    connections: watch::Receiver<u64>,
}

impl Inbox {
    /// Binds to a consumer, waiting while it does not exist. `batch` bounds what is buffered here.
    pub async fn bind(
        broker: &Broker,
        stage: &'static str,
        definition: ConsumerDefinition,
        batch: usize,
    ) -> Result<Inbox, BrokerError> {
        let attempts = broker.bucket(&ATTEMPTS).await?;
        Ok(Inbox {
            binding: Arc::new(Binding { broker: broker.clone(), definition, attempts }),
            stage,
            batch,
            consumer: None,
            messages: None,
            ready: VecDeque::new(),
            waiting_since: None,
            last_look: Instant::now(),
            look: LOOK,
            connections: broker.connections(),
        })
    }

    fn broker(&self) -> &Broker {
        &self.binding.broker
    }

    /// Returns the next delivery; `None` when the stage is to stop.
    pub async fn next(&mut self) -> Option<Delivery> {
        let stopping = self.broker().stopping().clone();
        loop {
            self.waiting_since.get_or_insert_with(Instant::now);
            if stopping.is_cancelled() {
                return None;
            }
            #[cfg(all(feature = "faults", debug_assertions))]
            if let Some(seat) = self.broker().seat() {
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => return None,
                    message = seat.fetch(&self.binding.definition.name) => {
                        return Some(Delivery::simulated(message, &self.binding));
                    }
                }
            }
            if let Some(delivery) = self.try_ready() {
                return Some(delivery);
            }
            let Some(messages) = self.messages.as_mut() else {
                self.messages = Some(self.open().await.ok()?);
                continue;
            };
            let waited = tokio::select! {
                biased;
                () = stopping.cancelled() => return None,
                waited = tokio::time::timeout(SILENCE, messages.next()) => waited,
                // What was asked for, and what was acked last, may have been lost with the connection.
                Ok(()) = self.connections.changed() => {
                    self.give_up_request();
                    continue;
                }
            };
            match waited {
                Ok(Some(Ok(message))) => {
                    if let Some(delivery) = self.delivered(message) {
                        return Some(delivery);
                    }
                }
                Ok(Some(Err(error))) => {
                    let name = &self.binding.definition.name;
                    tracing::debug!(consumer = name, "Consumer {name}: {error}");
                    self.broker().note_silence(Asked::Leader).await;
                    self.give_up_request();
                    if self.last_look.elapsed() >= SILENCE {
                        self.check_for_stall().await;
                    }
                    self.broker().pause(REOPENING + jitter(REOPENING / 2)).await.ok()?;
                }
                Ok(None) => self.messages = None,
                Err(_) => self.check_for_stall().await,
            }
        }
    }

    /// Returns a delivery that is already here, without waiting.
    pub fn try_next(&mut self) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.try_ready() {
                return Some(delivery);
            }
            match self.messages.as_mut()?.next().now_or_never()?? {
                Ok(message) => {
                    if let Some(delivery) = self.delivered(message) {
                        return Some(delivery);
                    }
                }
                Err(error) => tracing::debug!("Consumer {}: {error}", self.binding.definition.name),
            }
        }
    }

    fn try_ready(&mut self) -> Option<Delivery> {
        while let Some(message) = self.ready.pop_front() {
            if let Some(delivery) = self.delivered(message) {
                return Some(delivery);
            }
        }
        None
    }

    fn delivered(&mut self, message: Message) -> Option<Delivery> {
        self.waiting_since = None;
        self.broker().note_answer(Asked::Leader);
        Delivery::new(message, &self.binding)
    }

    /// Ends the standing request, keeping what it brought; another one is made next.
    fn give_up_request(&mut self) {
        let Some(mut messages) = self.messages.take() else { return };
        while let Some(Some(Ok(message))) = messages.next().now_or_never() {
            self.ready.push_back(message);
        }
    }

    async fn open(&mut self) -> Result<Messages, BrokerError> {
        let ConsumerDefinition { stream, name, .. } = &self.binding.definition;
        if self.consumer.is_none() {
            let what = format!("bind to consumer {name} of stream {stream}");
            let bound = self.broker().until_answered(&what, Asked::Anyone, || async {
                self.broker()
                    .jetstream()
                    .get_consumer_from_stream(name, *stream)
                    .await
                    .map_err(|e| e.to_string())
            });
            self.consumer = Some(bound.await?);
        }
        let Some(consumer) = &self.consumer else { return Err(BrokerError::Stopping) };
        // Whoever takes the request takes these first.
        self.broker().repeat_acks(name).await;
        loop {
            let request =
                consumer.stream().max_messages_per_batch(self.batch).expires(REQUEST).heartbeat(HEARTBEAT);
            match request.messages().await {
                Ok(messages) => return Ok(messages),
                Err(error) => tracing::debug!("Consumer {name}: {error}"),
            }
            self.broker().pause(REOPENING).await?;
        }
    }

    /// Opens the consumer again where it has messages, may deliver them and does not.
    async fn check_for_stall(&mut self) {
        let ConsumerDefinition { stream, name, max_ack_pending, .. } = &self.binding.definition;
        self.last_look = Instant::now();
        let consumer =
            self.broker().jetstream().get_consumer_from_stream::<pull::Config, _, _>(name, *stream);
        let answer = tokio::time::timeout(self.look, consumer).await;
        // Without an answer it may be the way that is slow.
        let next_look = if answer.is_err() { self.look * 2 } else { self.last_look.elapsed() * 2 };
        self.look = next_look.clamp(LOOK, LONGEST_LOOK);
        let consumer = match answer {
            Ok(Ok(consumer)) => consumer,
            failed => {
                let why = failed.err().map_or("it may be gone", |_| "its leader may be gone");
                tracing::error!(
                    "Consumer {name} of stream {stream} does not answer, {why}; `rollcall bootstrap` makes it again \
                     if it is gone, and a cluster finds another leader by itself"
                );
                self.consumer = None;
                self.give_up_request();
                return;
            }
        };
        let info = consumer.cached_info();
        if let Some(duration) = cut_off_for(info.cluster.as_ref()) {
            self.broker().note_silence_for(duration, Asked::Leader).await;
        }
        self.broker().shell_metrics().note_pending(name, info.num_pending);
        let may_deliver = (info.num_ack_pending as i64) < *max_ack_pending && !info.paused;
        let has_waited = self.waiting_since.is_some_and(|since| since.elapsed() >= SILENCE);
        if info.num_pending > 0 && may_deliver && has_waited {
            tracing::warn!(
                "Consumer {name} of stream {stream} has {} messages and delivers none; opening it again",
                info.num_pending
            );
            self.give_up_request();
        }
    }

    /// Tells how often a process died, or a handler panicked, over a redelivery of this message. It may be the one that did
    /// it, or have been in hand beside it: the fewer are beside it next time, the better it shows.
    ///
    /// Costs nothing for a first delivery.
    pub async fn deaths(&self, delivery: &Delivery) -> Result<u64, BrokerError> {
        if delivery.deliveries > 1 { Ok(self.unfinished(delivery).await?.count) } else { Ok(0) }
    }

    /// Waits, with a suspect, until no other of this process is in hand. Who died more often lets the others go first.
    pub(crate) async fn solitude(
        &self,
        delivery: &Delivery,
    ) -> Result<Option<OwnedSemaphorePermit>, BrokerError> {
        if delivery.deliveries <= 1 {
            return Ok(None);
        }
        let Some(others) = self.unfinished(delivery).await?.count.checked_sub(1) else { return Ok(None) };
        self.broker().pause(AFTER_OTHERS * u32::try_from(others).unwrap_or(0)).await?;
        let stopping = self.broker().stopping().clone();
        tokio::select! {
            biased;
            () = stopping.cancelled() => Err(BrokerError::Stopping),
            permit = self.broker().solitude().acquire_owned() => {
                permit.map(Some).map_err(|_| BrokerError::Stopping)
            }
        }
    }

    /// Notes that a handler begins with a delivery. Says no when too many before never ended.
    ///
    /// Costs nothing for a first delivery.
    pub async fn may_begin(&self, delivery: &Delivery) -> Result<bool, BrokerError> {
        if delivery.deliveries <= 1 {
            return Ok(true);
        }
        let unfinished = self.unfinished(delivery).await?;
        if unfinished.count >= MAX_UNFINISHED {
            return Ok(false);
        }
        let another = unfinished.another(outside::now());
        self.binding.attempts.put(&delivery.attempt_key(), another.to_string().into()).await?;
        Ok(true)
    }

    async fn unfinished(&self, delivery: &Delivery) -> Result<Unfinished, BrokerError> {
        let stored = self.binding.attempts.get(&delivery.attempt_key()).await?;
        Ok(stored.and_then(|(value, _)| Unfinished::parse(&value)).unwrap_or_default())
    }

    /// Does what a verdict says. After an error the message will come again.
    pub async fn settle(&self, delivery: Delivery, verdict: Verdict) -> Result<(), BrokerError> {
        match verdict {
            Verdict::Done(events) => {
                // Its handler has ended; a stage that stops while the events find no room does not count against it.
                delivery.not_to_blame().await?;
                let publishing = self.broker().publish_all(&events);
                for answer in trace::within(delivery.trace_context(), publishing).await {
                    match answer {
                        Ok(_) => {}
                        Err(PublishError::Stopping | PublishError::NotLast) => {
                            return Err(BrokerError::Stopping);
                        }
                        Err(error @ PublishError::TooBig { .. }) => {
                            return self.bury(delivery, &error.to_string()).await;
                        }
                    }
                }
                self.acknowledge(delivery, AckKind::Ack, "done").await
            }
            Verdict::Retry { after, reason } => {
                tracing::debug!(
                    message.deliveries = delivery.deliveries,
                    "Message {} comes again: {reason}",
                    delivery.sequence()
                );
                delivery.not_to_blame().await?;
                self.acknowledge(delivery, AckKind::Nak(Some(after)), "retry").await
            }
            Verdict::DeadLetter { reason } => self.bury(delivery, &reason).await,
        }
    }

    /// Has a delivery come again whose handler panicked; the count of unfinished deliveries stands.
    pub async fn return_after_panic(&self, mut delivery: Delivery) -> Result<(), BrokerError> {
        if delivery.deliveries <= 1 {
            let first = Unfinished::default().another(outside::now());
            self.binding.attempts.put(&delivery.attempt_key(), first.to_string().into()).await?;
        }
        delivery.note_settled("panicked");
        delivery.acknowledge(AckKind::Nak(Some(PANIC_PAUSE))).await
    }

    async fn bury(&self, delivery: Delivery, reason: &str) -> Result<(), BrokerError> {
        // One that never failed before fails now.
        let before =
            if delivery.deliveries > 1 { self.unfinished(&delivery).await? } else { Unfinished::default() };
        let first_failed = before.another(outside::now()).since;
        let letter = self.letter(&delivery, reason, first_failed);
        match trace::within(delivery.trace_context(), self.broker().publish(&letter)).await {
            Ok(_) => {}
            Err(PublishError::TooBig { .. }) => {
                // The message itself stays in its stream; the letter says where.
                let mut short = letter;
                short.encoded.payload =
                    self.letter_payload(&delivery, reason, first_failed, String::new(), false);
                self.broker().publish(&short).await.map_err(|_| BrokerError::Stopping)?;
            }
            Err(_) => return Err(BrokerError::Stopping),
        }
        tracing::error!(
            "Message {} of {} is a dead letter: {reason}",
            delivery.sequence(),
            delivery.stream()
        );
        // The count of unfinished deliveries stands: one more may be here already, which is not to be begun either.
        self.acknowledge(delivery, AckKind::Term, "dead_letter").await
    }

    fn letter(&self, delivery: &Delivery, reason: &str, first_failed: Option<DateTime<Utc>>) -> Outgoing {
        let subject = match delivery.record() {
            Some(record) => schemas::subjects::dead_letter(self.stage, record),
            None => schemas::subjects::dead_letter_unknown(self.stage),
        };
        let (payload, is_base64) = match std::str::from_utf8(delivery.payload()) {
            Ok(text) => (text.to_owned(), false),
            Err(_) => (base64::engine::general_purpose::STANDARD.encode(delivery.payload()), true),
        };
        let encoded = Encoded {
            headers: vec![("content-type".to_owned(), schemas::envelope::CONTENT_TYPE.to_owned())],
            payload: self.letter_payload(delivery, reason, first_failed, payload, is_base64),
        };
        Outgoing::new(
            subject,
            encoded,
            format!("dlq:{}:{}:{}", self.stage, delivery.stream(), delivery.sequence()),
        )
    }

    fn letter_payload(
        &self,
        delivery: &Delivery,
        reason: &str,
        first_failed: Option<DateTime<Utc>>,
        payload: String,
        payload_is_base64: bool,
    ) -> Vec<u8> {
        let letter = DeadLetter {
            stage: self.stage.to_owned(),
            reason: reason.to_owned(),
            stream: delivery.stream().to_owned(),
            sequence: delivery.sequence(),
            subject: delivery.subject().to_owned(),
            deliveries: delivery.deliveries,
            first_failed,
            headers: delivery.headers(),
            payload,
            payload_is_base64,
        };
        // A struct of texts and numbers always serialises.
        serde_json::to_vec(&letter).unwrap_or_default()
    }

    async fn acknowledge(
        &self,
        mut delivery: Delivery,
        kind: AckKind,
        outcome: &'static str,
    ) -> Result<(), BrokerError> {
        faults::crash_point_of("before-ack", delivery.record());
        delivery.acknowledge(kind).await?;
        delivery.note_ack(kind);
        delivery.note_settled(outcome);
        Ok(())
    }

    /// Acknowledges a delivery before anything is done for it. A mistake, there to be planted.
    pub(crate) async fn acknowledge_early(&self, delivery: &Delivery) -> Result<(), BrokerError> {
        delivery.acknowledge(AckKind::Ack).await?;
        #[cfg(all(feature = "faults", debug_assertions))]
        if self.broker().seat().is_some() {
            return Ok(());
        }
        self.broker().client().flush().await.map_err(|error| BrokerError::unavailable("flush", error))
    }

    /// Gives back at once what was fetched and not begun, so that a successor need not wait for the ack wait.
    pub async fn drain(mut self) {
        let mut fetched = Vec::new();
        while let Some(delivery) = self.try_next() {
            fetched.push(delivery);
        }
        self.messages = None;
        for delivery in fetched {
            let _gone = delivery.acknowledge(AckKind::Nak(Some(Duration::from_millis(1)))).await;
        }
        #[cfg(all(feature = "faults", debug_assertions))]
        if self.broker().seat().is_some() {
            return;
        }
        let _gone = self.broker().client().flush().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_deliveries_are_counted_with_the_time_of_the_first() {
        let now = |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap();
        let first = Unfinished::default().another(now(0));
        assert_eq!(first.to_string(), "1 2027-01-15T08:00:00Z");
        let second = Unfinished::parse(first.to_string().as_bytes()).unwrap().another(now(60));
        assert_eq!(second, Unfinished { count: 2, since: Some(now(0)) });
        let of_earlier = Unfinished::parse(b"3").unwrap();
        assert_eq!(
            of_earlier.another(now(0)),
            Unfinished { count: 4, since: None },
            "not told, so not made up"
        );
        assert_eq!(of_earlier.to_string(), "3");
        assert_eq!(Unfinished::parse(b"2 soon"), Some(Unfinished { count: 2, since: None }));
        assert_eq!(Unfinished::parse(b"many"), None);
    }
}
