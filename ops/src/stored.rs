//! Reads what a stream holds, message by message, so that memory does not grow with the stream.

use std::ops::ControlFlow;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config, OrderedConfig};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::Stream;
use futures::StreamExt;
use runtime::Broker;
use runtime::broker::StoredMessage;

use tokio::sync::{Mutex, MutexGuard};

use crate::credentials::permissions::PAGE;
use crate::exit::Failure;
use crate::nats;
use crate::progress::Progress;

/// Longest wait for the next message of a stream that has one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Held by whoever reads for the status page, which may have one consumer on each stream.
static PAGE_READS: Mutex<()> = Mutex::const_new(());

/// The name that a consumer has to have, and until when nobody else may take it; none where any name will do.
struct Named(Option<MutexGuard<'static, ()>>);

impl Named {
    /// Waits for the name, and frees it of what a reader left that was broken off.
    async fn take(broker: &Broker, stream: &Stream<()>) -> Named {
        if !nats::is_page(broker) {
            return Named(None);
        }
        let turn = PAGE_READS.lock().await;
        let _there_was_none = stream.delete_consumer(PAGE).await;
        Named(Some(turn))
    }

    fn name(&self) -> Option<String> {
        self.0.as_ref().map(|_| PAGE.to_owned())
    }
}

/// Which messages of a stream are read.
pub struct Choice {
    /// Subjects.
    pub filters: Vec<String>,
    /// The first of them.
    pub from: DeliverPolicy,
    /// Leaves the payloads away.
    pub headers_only: bool,
    /// What a bar says that shows how far the reading is.
    pub bar: Option<&'static str>,
}

impl Choice {
    /// Chooses whole messages.
    pub fn new(filters: Vec<String>, from: DeliverPolicy) -> Choice {
        Choice { filters, from, headers_only: false, bar: None }
    }
}

/// Counts the messages of a subject from a sequence on, without reading any of them.
pub async fn count(
    broker: &Broker,
    stream: &'static str,
    filter: &str,
    start_sequence: u64,
) -> Result<u64, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::trouble(format!("cannot count {stream}: {error}"));
    let handle = broker.stream(stream).await.map_err(Failure::trouble)?;
    let named = Named::take(broker, &handle).await;
    let config = Config {
        name: named.name(),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ack_policy: AckPolicy::None,
        filter_subject: filter.to_owned(),
        memory_storage: true,
        num_replicas: 1,
        ..Config::default()
    };
    let consumer = handle.create_consumer(config).await.map_err(|error| failed(&error))?;
    let info = consumer.cached_info();
    // Left alone it goes by itself, a few seconds later.
    let _gone = handle.delete_consumer(&info.name).await;
    Ok(info.num_pending)
}

/// Gives every stored message of a choice to `each`, in their order, until it has read enough.
///
/// What is stored after this began is not among them.
pub async fn read(
    broker: &Broker,
    stream: &'static str,
    choice: Choice,
    mut each: impl FnMut(StoredMessage) -> ControlFlow<()>,
) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::trouble(format!("cannot read {stream}: {error}"));
    let handle = broker.stream(stream).await.map_err(Failure::trouble)?;
    let Choice { filters, from, headers_only, bar } = choice;
    let named = Named::take(broker, &handle).await;
    let config = OrderedConfig {
        name: named.name(),
        deliver_policy: from,
        filter_subjects: filters,
        headers_only,
        ..OrderedConfig::default()
    };
    let consumer = handle.create_consumer(config).await.map_err(|error| {
        Failure::environment(format!("cannot read stream {stream}: {error}"))
            .remedy("`rollcall bootstrap` makes it")
    })?;
    let mut left = consumer.cached_info().num_pending;
    if left == 0 {
        return Ok(());
    }
    let bar = bar.map(|what| Progress::new(usize::try_from(left).unwrap_or(usize::MAX), what));
    let mut messages = consumer.messages().await.map_err(|error| failed(&error))?;
    loop {
        let next = tokio::time::timeout(PATIENCE, messages.next()).await;
        let Some(message) = next.map_err(|_| failed(&"NATS went silent"))? else { return Ok(()) };
        let message = message.map_err(|error| failed(&error))?;
        let pending = message.info().map_err(|error| failed(&error))?.pending;
        let stored = StoredMessage::try_from(message).map_err(|error| failed(&error))?;
        left = left.saturating_sub(1).min(pending);
        bar.iter().for_each(Progress::step);
        if each(stored).is_break() || left == 0 {
            bar.iter().for_each(Progress::end);
            return Ok(());
        }
    }
}
