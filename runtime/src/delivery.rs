//! One delivery of one message, kept small: a stage may hold thousands of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use schemas::{Envelope, EnvelopeError, EventData, RecordRef};
use tokio::time::Instant;

use crate::broker::BrokerError;
use crate::inbox::Binding;
use crate::metrics::HeldDelivery;
use crate::trace::{Kind, Span, SpanContext, TRACEPARENT};

/// One delivery of one message.
///
/// Reports progress by itself for as long as it is held, so that the server does not hand it to somebody else.
pub struct Delivery {
    message: Arc<Received>,
    /// How often it was delivered, this time included.
    pub deliveries: u64,
    /// Messages behind it that the consumer has not delivered yet.
    pub pending: u64,
    keep_alive: tokio::task::JoinHandle<()>,
    span: Option<Box<Span>>,
    _held: HeldDelivery,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.keep_alive.abort();
    }
}

impl Delivery {
    /// Takes in a message; `None` where it is none of a consumer's.
    pub(crate) fn new(message: Message, binding: &Arc<Binding>) -> Option<Delivery> {
        let info = message.info().ok()?;
        let (sequence, deliveries, pending) =
            (info.stream_sequence, info.delivered.max(1) as u64, info.pending);
        let headers = message.headers.as_ref().map(Headers::of).unwrap_or_default();
        let message = message.message;
        // As it came it is a part of what was read from the socket, all of which would be kept for it.
        let payload = Bytes::copy_from_slice(&message.payload);
        let received =
            Received::new(binding, sequence, message.subject.as_str(), headers, payload, message.reply);
        Some(Delivery::begin(received, deliveries, pending))
    }

    #[cfg(all(feature = "faults", debug_assertions))]
    pub(crate) fn simulated(message: crate::simulated::Delivered, binding: &Arc<Binding>) -> Delivery {
        let headers = Headers::of(&message.headers);
        let received =
            Received::new(binding, message.sequence, &message.subject, headers, message.payload, None);
        Delivery::begin(received, message.deliveries, message.pending)
    }

    fn begin(message: Received, deliveries: u64, pending: u64) -> Delivery {
        let span = message.begin_span(deliveries).map(Box::new);
        let metrics = message.binding.broker.shell_metrics();
        metrics.note_arrival(&message.binding.definition.name, deliveries, pending);
        let held = HeldDelivery::new(metrics);
        let message = Arc::new(message);
        let keep_alive = tokio::spawn(Arc::clone(&message).keep_alive());
        Delivery { message, deliveries, pending, keep_alive, span, _held: held }
    }

    /// Returns the sequence of the message in its stream.
    pub fn sequence(&self) -> u64 {
        self.message.sequence
    }

    /// Returns the subject.
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// Returns the payload.
    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// Returns the name of the stream.
    pub fn stream(&self) -> &'static str {
        self.message.binding.definition.stream
    }

    /// Looks a header up.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.get(name)
    }

    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        self.message.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Returns the context that the work on it belongs to, where it is traced.
    pub fn trace_context(&self) -> Option<SpanContext> {
        self.span.as_deref().map(Span::context)
    }

    /// Tells of a request that was made for it, where it is traced.
    pub fn note_request(&self, name: &str, duration: Duration, failed: bool) {
        if let Some(span) = &self.span {
            span.note_request(name, duration, failed);
        }
    }

    /// Reads the message as an event.
    pub fn decode<T: EventData>(&self) -> Result<(Envelope, T), EnvelopeError> {
        Envelope::decode(|name| self.header(name), self.payload())
    }

    /// Returns the record that the subject names.
    pub fn record(&self) -> Option<RecordRef> {
        schemas::subjects::record_of(self.subject())
    }

    /// Tells whether the server still counts on this process for the message.
    ///
    /// False after the process was frozen for longer than the ack wait: the message may be with
    /// somebody else by now, and nothing may be done for it any more.
    pub fn is_still_ours(&self) -> bool {
        self.message.silence() < self.message.ack_wait()
    }

    /// Notes that the stage only holds the message while something else is unwell: if it is killed
    /// meanwhile, that does not count against the message.
    pub async fn not_to_blame(&self) -> Result<(), BrokerError> {
        if self.deliveries > 1 {
            self.message.binding.attempts.delete(&self.attempt_key()).await
        } else {
            Ok(())
        }
    }

    /// Returns the key under which its unfinished deliveries are counted.
    pub(crate) fn attempt_key(&self) -> String {
        format!("{}.{}", self.message.binding.definition.name, self.sequence())
    }

    /// Tells the server what becomes of it; gives nothing back that may be with somebody else by now, whom a nak would take
    /// it from.
    pub(crate) async fn acknowledge(&self, kind: AckKind) -> Result<(), BrokerError> {
        if matches!(kind, AckKind::Nak(_)) && !self.is_still_ours() {
            return Ok(());
        }
        self.message.acknowledge(kind).await
    }

    /// Keeps an ack that was sent, as it may get lost with its server; under the name of the consumer that delivered it, for
    /// who settles it may be bound to another one.
    pub(crate) fn note_ack(&self, kind: AckKind) {
        let Binding { broker, definition, .. } = &*self.message.binding;
        broker.acks().note(&definition.name, self.message.reply.as_ref(), kind, Instant::now());
    }

    /// Notes that it is done with.
    pub(crate) fn note_settled(&mut self, outcome: &'static str) {
        if let Some(span) = &mut self.span {
            span.set("rollcall.outcome", outcome);
            if outcome == "panicked" || outcome == "dead_letter" {
                span.fail();
            }
        }
        let metrics = self.message.binding.broker.shell_metrics();
        metrics.note_settled(outcome, self.message.arrived.elapsed());
    }
}

/// A message as it came.
struct Received {
    binding: Arc<Binding>,
    sequence: u64,
    subject: Box<str>,
    headers: Headers,
    payload: Bytes,
    /// Where its acks go; none in a simulation.
    reply: Option<Subject>,
    arrived: Instant,
    /// Milliseconds after its arrival at which the server last heard of it.
    heard_ms: AtomicU64,
}

impl Received {
    fn new(
        binding: &Arc<Binding>,
        sequence: u64,
        subject: &str,
        headers: Headers,
        payload: Bytes,
        reply: Option<Subject>,
    ) -> Received {
        Received {
            binding: Arc::clone(binding),
            sequence,
            subject: subject.into(),
            headers,
            payload,
            reply,
            arrived: Instant::now(),
            heard_ms: AtomicU64::new(0),
        }
    }

    fn ack_wait(&self) -> Duration {
        self.binding.definition.ack_wait
    }

    /// Returns for how long the server has not heard of it.
    fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.arrived.elapsed().saturating_sub(heard)
    }

    /// Begins the span of a delivery, which ends when the delivery is done with.
    fn begin_span(&self, deliveries: u64) -> Option<Span> {
        let tracer = self.binding.broker.tracer();
        if !tracer.is_on() {
            return None;
        }
        let parent = self.headers.get(TRACEPARENT).and_then(SpanContext::parse);
        let name = format!("process {}", self.binding.definition.stream);
        let mut span = tracer.begin(&name, Kind::Consumer, parent)?;
        span.set_record(schemas::subjects::record_of(&self.subject));
        span.set("rollcall.sequence", self.sequence);
        span.set("rollcall.deliveries", deliveries);
        Some(span)
    }

    async fn acknowledge(&self, kind: AckKind) -> Result<(), BrokerError> {
        let failed = |error: &dyn std::fmt::Display| BrokerError::unavailable("acknowledge a message", error);
        let Binding { broker, definition, .. } = &*self.binding;
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(seat) = broker.seat() {
            let acknowledged = seat.acknowledge(&definition.name, self.sequence, kind).await;
            return acknowledged.map_err(|reason| failed(&reason));
        }
        let Some(to) = self.reply.clone() else {
            return Err(failed(&format!("{} has no way back", definition.name)));
        };
        broker.client().publish(to, kind.into()).await.map_err(|error| failed(&error))
    }

    /// Says that it is still worked on; tells whether that was answered. A server that is cut off from the others still
    /// takes messages, and answers none.
    async fn report_progress(&self) -> bool {
        match self.reply.clone() {
            Some(to) => self.binding.broker.client().request(to, AckKind::Progress.into()).await.is_ok(),
            None => self.acknowledge(AckKind::Progress).await.is_ok(),
        }
    }

    async fn keep_alive(self: Arc<Self>) {
        let ack_wait = self.ack_wait();
        let mut every = tokio::time::interval(ack_wait / 3);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        every.tick().await;
        loop {
            every.tick().await;
            let now = self.arrived.elapsed().as_millis() as u64;
            // Too late to speak for it: the server has given it up.
            if self.silence() >= ack_wait {
                continue;
            }
            // In a box, or its room would be taken while it only waits.
            let heard = Box::pin(tokio::time::timeout(ack_wait / 6, self.report_progress()));
            if heard.await.unwrap_or(false) {
                self.heard_ms.store(now, Ordering::Relaxed);
            }
        }
    }
}

/// Headers of a message, as lines: a map of them takes three pieces for each.
#[derive(Default)]
struct Headers(Box<str>);

impl Headers {
    fn of(map: &HeaderMap) -> Headers {
        let mut lines = String::new();
        for (name, values) in map.iter() {
            for value in values {
                lines.extend([name.as_ref(), ":", value.as_str(), "\n"]);
            }
        }
        Headers(lines.into())
    }

    /// Returns names and values. Neither holds an end of line, and no name a colon.
    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.split_terminator('\n').filter_map(|line| line.split_once(':'))
    }

    fn get(&self, wanted: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_as_they_came() {
        let mut map = HeaderMap::new();
        map.insert("ce-id", "a:b: c");
        map.insert("ce-empty", "");
        map.append("ce-twice", "first");
        map.append("ce-twice", "second");
        let headers = Headers::of(&map);
        assert_eq!(headers.get("ce-id"), Some("a:b: c"));
        assert_eq!(headers.get("ce-empty"), Some(""));
        assert_eq!(headers.get("ce-twice"), Some("first"));
        assert_eq!(headers.get("ce"), None);
        let mut all: Vec<_> = headers.iter().collect();
        all.sort_unstable();
        let expected = [("ce-empty", ""), ("ce-id", "a:b: c"), ("ce-twice", "first"), ("ce-twice", "second")];
        assert_eq!(all, expected);
        assert_eq!(Headers::default().iter().next(), None);
    }

    #[test]
    fn a_delivery_is_small() {
        fn size_of_returned<T>(_: impl Fn(Arc<Received>) -> T) -> usize {
            size_of::<T>()
        }
        // A status-writer holds two thousand of them, in tables of up to twice as many places.
        assert!(size_of::<Delivery>() <= 128, "{} bytes", size_of::<Delivery>());
        let waiting = size_of_returned(Received::keep_alive);
        assert!(waiting <= 256, "{waiting} bytes of what reports progress");
    }
}
