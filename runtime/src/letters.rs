//! How many dead letters of a stage lie there: its stream knows, and is asked now and then.

use std::time::Duration;

use futures::TryStreamExt;
use schemas::streams::DEAD_LETTERS;

use crate::broker::Broker;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(15);

/// Tells in the metrics, beside the work and until the stage is to stop, how many dead letters of a stage lie there.
pub fn keep_counting(broker: &Broker, stage: &'static str) {
    #[cfg(all(feature = "faults", debug_assertions))]
    if broker.seat().is_some() {
        return;
    }
    tokio::spawn(keep(broker.clone(), stage));
}

async fn keep(broker: Broker, stage: &'static str) {
    loop {
        // Where the stream does not answer, what it said last stands.
        if let Ok(letters) = count(&broker, stage).await {
            broker.shell_metrics().note_letters(letters);
        }
        if broker.pause(PAUSE).await.is_err() {
            return;
        }
    }
}

async fn count(broker: &Broker, stage: &str) -> Result<u64, async_nats::Error> {
    let stream = broker.stream(DEAD_LETTERS.name).await?;
    let mut subjects = stream.info_with_subjects(format!("dlq.{stage}.>")).await?;
    let mut letters = 0;
    while let Some((_, count)) = subjects.try_next().await? {
        letters += count as u64;
    }
    Ok(letters)
}
