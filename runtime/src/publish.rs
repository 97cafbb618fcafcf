//! Publishing: awaits the stream's ack and repeats what got none; message ids make repeats harmless.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use bytes::Bytes;
use futures::StreamExt;
use schemas::Encoded;

use crate::broker::{Broker, BrokerError, FULL_DISK, TRIES_IN_SILENCE, jitter};
use crate::faults;
use crate::reach::{Asked, patience};
use crate::trace::{Span, SpanContext, TRACEPARENT};

/// First pause between tries; doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(800);

/// Most publishes of one call that wait for their acks at the same time.
const IN_FLIGHT: usize = 64;

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// What.
    pub encoded: Encoded,
    /// Makes a repeat within the stream's duplicate window harmless.
    pub message_id: String,
    /// Stored only where this is the newest sequence of the subject (0: none yet).
    pub expected_last: Option<u64>,
    /// Further headers, such as a schedule's.
    pub extra_headers: Vec<(String, String)>,
}

impl Outgoing {
    /// Addresses an encoded event.
    pub fn new(subject: String, encoded: Encoded, message_id: String) -> Outgoing {
        Outgoing { subject, encoded, message_id, expected_last: None, extra_headers: Vec::new() }
    }

    /// Stores it only where `sequence` is the newest of the subject; 0 means that there is none.
    pub fn expecting_last(mut self, sequence: u64) -> Outgoing {
        self.expected_last = Some(sequence);
        self
    }

    /// Adds a header.
    pub fn with_header(mut self, name: &str, value: String) -> Outgoing {
        self.extra_headers.push((name.to_owned(), value));
        self
    }

    fn headers(&self, trace: Option<SpanContext>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in self.encoded.headers.iter().chain(&self.extra_headers) {
            headers.insert(name.as_str(), value.as_str());
        }
        if let Some(context) = trace {
            headers.insert(TRACEPARENT, context.to_string().as_str());
        }
        headers.insert(async_nats::header::NATS_MESSAGE_ID, self.message_id.as_str());
        if let Some(sequence) = self.expected_last {
            headers.insert(
                async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
                sequence.to_string().as_str(),
            );
        }
        headers
    }
}

/// A message that the stream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its sequence.
    pub sequence: u64,
    /// It was there already.
    pub duplicate: bool,
}

/// A message that the stream does not have.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The newest message of the subject is another one than expected. After a lost ack that may be
    /// this very message: a server alone looks at the predecessor before it looks for duplicates. The
    /// leader of several looks for them first, so a message with a predecessor needs an id that no other
    /// process gives: a known one passes for stored, whatever came behind the predecessor.
    #[error("another writer published to the subject")]
    NotLast,
    /// The server takes no message of this size.
    #[error("the message is too big: {bytes} bytes")]
    TooBig {
        /// Size of the payload.
        bytes: usize,
    },
    /// The stage is stopping; the message may or may not be stored.
    #[error("the stage is stopping")]
    Stopping,
}

impl From<BrokerError> for PublishError {
    fn from(_: BrokerError) -> PublishError {
        PublishError::Stopping
    }
}

impl Broker {
    /// Stores a message; comes back only when the stream has answered, or the stage is to stop.
    pub async fn publish(&self, message: &Outgoing) -> Result<Published, PublishError> {
        let mut span = self.tracer().begin_publish(&message.subject);
        let answer = self.publish_traced(message, span.as_ref().map(Span::context)).await;
        match (&mut span, &answer) {
            (Some(span), Ok(published)) => span.set("rollcall.sequence", published.sequence),
            (Some(span), Err(_)) => span.fail(),
            (None, _) => {}
        }
        answer
    }

    async fn publish_traced(
        &self,
        message: &Outgoing,
        trace: Option<SpanContext>,
    ) -> Result<Published, PublishError> {
        let headers = message.headers(trace);
        let payload = Bytes::from(message.encoded.payload.clone());
        let (mut pause, mut tries) = (FIRST_PAUSE, 0);
        loop {
            #[cfg(all(feature = "faults", debug_assertions))]
            if let Some(seat) = self.seat() {
                use crate::simulated::Stored;
                match seat.publish(message, headers.clone()).await {
                    Ok(Stored::Published(published)) => return Ok(published),
                    Ok(Stored::NotLast) => return Err(PublishError::NotLast),
                    Ok(Stored::TooBig) => return Err(PublishError::TooBig { bytes: payload.len() }),
                    Err(_) => {
                        self.pause(pause).await?;
                        continue;
                    }
                }
            }
            let answer = tokio::time::timeout(patience(tries), async {
                let sent = self.jetstream().publish_with_headers(
                    message.subject.clone(),
                    headers.clone(),
                    payload.clone(),
                );
                sent.await?.await
            })
            .await;
            let reason = match answer {
                Ok(Ok(ack)) => {
                    // The stream has it, and nobody here knows.
                    faults::crash_point("publish-answered");
                    self.note_answer(Asked::Most);
                    self.shell_metrics().note_published(&message.subject, ack.duplicate);
                    return Ok(Published { sequence: ack.sequence, duplicate: ack.duplicate });
                }
                Ok(Err(error)) => match error.kind() {
                    PublishErrorKind::WrongLastSequence => {
                        self.note_answer(Asked::Leader);
                        return Err(PublishError::NotLast);
                    }
                    PublishErrorKind::MaxPayloadExceeded => {
                        return Err(PublishError::TooBig { bytes: payload.len() });
                    }
                    PublishErrorKind::Other => {
                        self.note_answer(Asked::Leader);
                        error.to_string()
                    }
                    // No leader took it, which is what an election looks like.
                    _ => {
                        self.note_silence(Asked::Most).await;
                        error.to_string()
                    }
                },
                Err(_) => {
                    self.note_silence(Asked::Most).await;
                    "no answer".to_owned()
                }
            };
            tries += 1;
            // Full streams, elections and lost connections all pass; nothing goes on before they do.
            if tries >= TRIES_IN_SILENCE {
                tracing::warn!(
                    "Still trying to publish to {}: {reason}. If the stream is full, make room. {FULL_DISK}",
                    stream_word(&message.subject)
                );
            }
            self.shell_metrics().note_publish_retry();
            self.pause(pause + jitter(pause / 2)).await?;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Stores many messages, overlapping the waits; the answers are in the order of the messages.
    pub async fn publish_all(&self, messages: &[Outgoing]) -> Vec<Result<Published, PublishError>> {
        // Collected first: through a borrowing closure the compiler cannot see that this may move between threads.
        let publishing: Vec<_> = messages.iter().map(|message| self.publish(message)).collect();
        futures::stream::iter(publishing).buffered(IN_FLIGHT).collect().await
    }

    /// Returns the largest payload with headers that the server takes, in bytes.
    pub fn max_message_bytes(&self) -> usize {
        #[cfg(all(feature = "faults", debug_assertions))]
        if self.seat().is_some() {
            return crate::simulated::MAX_PAYLOAD;
        }
        let told = self.client().server_info().max_payload;
        if told == 0 { 1 << 20 } else { told }
    }
}

/// Cuts a subject down to what no id can follow.
fn stream_word(subject: &str) -> String {
    subject.split('.').take(2).collect::<Vec<_>>().join(".")
}
