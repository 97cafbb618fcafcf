//! Reads outcomes from their stream.

use std::ops::ControlFlow;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use chrono::{DateTime, Utc};
use runtime::Broker;
use schemas::streams::RESULTS;
use schemas::{RecordProcessed, RecordRef};

use crate::stored::{self, Choice};

/// Longest time for reading them.
const PATIENCE: Duration = Duration::from_secs(60);

/// A version that reached its end.
pub struct Ended {
    /// Sequence of the outcome.
    pub sequence: u64,
    /// Its record.
    pub record: RecordRef,
    /// What came of it.
    pub processed: RecordProcessed,
    /// When that was stored.
    pub stored: DateTime<Utc>,
}

/// Reads all outcomes of a choice that are there now; a message that is none of ours is passed over.
pub async fn each(broker: &Broker, from: DeliverPolicy, note: impl FnMut(Ended)) -> Result<(), String> {
    until(broker, from, None, note).await
}

/// Reads those of a choice that were stored before a moment.
pub async fn until(
    broker: &Broker,
    from: DeliverPolicy,
    until: Option<DateTime<Utc>>,
    note: impl FnMut(Ended),
) -> Result<(), String> {
    tokio::time::timeout(PATIENCE, read(broker, from, until, note))
        .await
        .map_err(|_| format!("the outcomes were not read within {} s", PATIENCE.as_secs()))?
}

async fn read(
    broker: &Broker,
    from: DeliverPolicy,
    until: Option<DateTime<Utc>>,
    mut note: impl FnMut(Ended),
) -> Result<(), String> {
    // The newest of each subject can only be asked for under a filter, be it all there is.
    let choice = Choice::new(vec![RESULTS.subjects[0].to_owned()], from);
    let reading = stored::read(broker, RESULTS.name, choice, |message| {
        if until.is_some_and(|until| message.stored >= until) {
            return ControlFlow::Break(());
        }
        if let Ok((envelope, processed)) = message.decode::<RecordProcessed>() {
            let (sequence, stored) = (message.sequence, message.stored);
            note(Ended { sequence, record: envelope.record, processed, stored });
        }
        ControlFlow::Continue(())
    });
    reading.await.map_err(|failure| failure.text)
}
