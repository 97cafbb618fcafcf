//! Reads outcomes from their stream.

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use runtime::Broker;
use schemas::streams::RESULTS;
use schemas::{Envelope, RecordProcessed, RecordRef};

/// Longest time for reading them.
const PATIENCE: Duration = Duration::from_secs(60);

/// A version that reached its end.
pub struct Ended {
    /// Its record.
    pub record: RecordRef,
    /// What came of it.
    pub processed: RecordProcessed,
    /// When that was stored.
    pub stored: DateTime<Utc>,
}

/// Reads all outcomes of a choice that are there now; a message that is none of ours is passed over.
pub async fn each(broker: &Broker, from: DeliverPolicy, note: impl FnMut(Ended)) -> Result<(), String> {
    tokio::time::timeout(PATIENCE, read(broker, from, note))
        .await
        .map_err(|_| format!("the outcomes were not read within {} s", PATIENCE.as_secs()))?
}

async fn read(broker: &Broker, from: DeliverPolicy, mut note: impl FnMut(Ended)) -> Result<(), String> {
    let stream = broker.stream(RESULTS.name).await.map_err(|error| error.to_string())?;
    // The newest of each subject can only be asked for under a filter, be it all there is.
    let filter_subject = RESULTS.subjects[0].to_owned();
    let config = OrderedConfig { deliver_policy: from, filter_subject, ..OrderedConfig::default() };
    let consumer = stream.create_consumer(config).await.map_err(|error| error.to_string())?;
    if consumer.cached_info().num_pending == 0 {
        return Ok(());
    }
    let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| error.to_string())?;
        let info = message.info().map_err(|error| error.to_string())?;
        let (left, stored) = (info.pending, info.published);
        if let Some((record, processed)) = decode(&message) {
            note(Ended { record, processed, stored });
        }
        if left == 0 {
            break;
        }
    }
    Ok(())
}

fn decode(message: &Message) -> Option<(RecordRef, RecordProcessed)> {
    let headers = message.headers.as_ref()?;
    let header = |name: &str| headers.get(name).map(async_nats::HeaderValue::as_str);
    let (envelope, processed) = Envelope::decode::<RecordProcessed>(header, &message.payload).ok()?;
    Some((envelope.record, processed))
}
