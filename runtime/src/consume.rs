//! The loop of a stage that takes one message after the other.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use schemas::streams::ConsumerDefinition;

use crate::broker::{Broker, BrokerError};
use crate::delivery::Delivery;
use crate::faults;
use crate::inbox::{Inbox, Verdict};
use crate::trace;

/// Messages that one request to the server may still bring.
///
/// How many are here at once is bounded by the consumer's `max_ack_pending`. A request for a single message would have to
/// be made anew for each, which costs a round trip and stalled under load.
const STANDING_REQUEST: usize = 32;

/// Decides about one message.
pub trait Handler: Send + Sync {
    /// Reads a message and says what to do with it. Called again for the same message after a crash.
    fn handle(&self, delivery: &Delivery) -> impl Future<Output = Verdict> + Send;
}

/// Handles the messages of a consumer one by one until the stage is to stop.
pub async fn consume(
    broker: &Broker,
    stage: &'static str,
    definition: ConsumerDefinition,
    handler: &impl Handler,
) -> Result<(), BrokerError> {
    #[cfg(all(feature = "faults", debug_assertions))]
    if faults::is_planted("two-versions-in-flight") {
        return consume_all_at_once(broker, stage, definition, handler).await;
    }
    let mut inbox = Inbox::bind(broker, stage, definition, STANDING_REQUEST).await?;
    while let Some(delivery) = inbox.next().await {
        match step(&inbox, delivery, handler).await {
            Ok(()) => {}
            Err(BrokerError::Stopping) => break,
            // Unsettled, so it will be delivered again.
            Err(error) => tracing::warn!("Could not settle a message: {error}"),
        }
    }
    inbox.drain().await;
    Ok(())
}

async fn step(inbox: &Inbox, delivery: Delivery, handler: &impl Handler) -> Result<(), BrokerError> {
    let solitude = inbox.solitude(&delivery).await?;
    if !inbox.may_begin(&delivery).await? {
        // There may be no room for the letter, and other suspects are not to wait for that.
        drop(solitude);
        return inbox.settle(delivery, Verdict::deadly()).await;
    }
    if faults::is_planted("ack-before-effect") {
        inbox.acknowledge_early(&delivery).await?;
    }
    let handling = async {
        faults::crash_point_of("message-received", delivery.record());
        handler.handle(&delivery).await
    };
    let handling = trace::within(delivery.trace_context(), handling);
    match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(verdict) => inbox.settle(delivery, verdict).await,
        Err(_) => inbox.return_after_panic(delivery).await,
    }
}

/// Makes the mistake of not waiting for one message's end before the next is begun.
#[cfg(all(feature = "faults", debug_assertions))]
async fn consume_all_at_once(
    broker: &Broker,
    stage: &'static str,
    definition: ConsumerDefinition,
    handler: &impl Handler,
) -> Result<(), BrokerError> {
    use futures::StreamExt;
    use futures::stream::FuturesUnordered;

    let settler = Inbox::bind(broker, stage, definition.clone(), STANDING_REQUEST).await?;
    let mut inbox = Inbox::bind(broker, stage, definition, STANDING_REQUEST).await?;
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            delivery = inbox.next() => {
                let Some(delivery) = delivery else { return Ok(()) };
                settler.acknowledge_early(&delivery).await?;
                running.push(step(&settler, delivery, handler));
            }
            Some(_) = running.next() => {}
        }
    }
}
