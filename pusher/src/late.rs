//! Updates of clients that otmechalka may still carry out although their calls have failed: the connection broke under them.
//!
//! A create is waited for before another one begins; an update is not. If a newer version was sent meanwhile, it is sent again
//! once the older one cannot come any more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemas::{RecordRef, Version};
use tokio::sync::Notify;
use tokio::time::Instant;

/// What may still be carried out.
pub struct Late {
    /// How long otmechalka may work on a call.
    longest: Duration,
    updates: Mutex<HashMap<RecordRef, Update>>,
    added: Notify,
}

#[derive(Clone, Copy)]
struct Update {
    /// The oldest version that may still come.
    version: Version,
    /// When none can come any more.
    over: Instant,
}

impl Late {
    /// Begins with nothing, for calls that take so long at most.
    pub fn new(longest: Duration) -> Late {
        Late { longest, updates: Mutex::default(), added: Notify::new() }
    }

    /// Notes that the update of a version may still be carried out.
    pub fn note(&self, record: RecordRef, version: Version) {
        let over = Instant::now() + self.longest;
        self.lock()
            .entry(record)
            .and_modify(|known| *known = Update { version: known.version.min(version), over })
            .or_insert(Update { version, over });
        self.added.notify_one();
    }

    /// Returns how many clients have an update that may still be carried out.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Waits until an update cannot be carried out any more, and forgets it.
    pub async fn next(&self) -> (RecordRef, Version) {
        loop {
            let first = match self.take_over(Instant::now()) {
                Ok(update) => return update,
                Err(first) => first,
            };
            match first {
                Some(over) => {
                    let _either = tokio::time::timeout_at(over, self.added.notified()).await;
                }
                None => self.added.notified().await,
            }
        }
    }

    /// Takes one that is over, or tells when the first will be.
    fn take_over(&self, now: Instant) -> Result<(RecordRef, Version), Option<Instant>> {
        let mut updates = self.lock();
        let first = updates.iter().map(|(record, update)| (update.over, *record)).min();
        let Some((over, record)) = first else { return Err(None) };
        let update = if over <= now { updates.remove(&record) } else { None };
        update.map(|update| (record, update.version)).ok_or(Some(over))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RecordRef, Update>> {
        self.updates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::RecordId;

    #[tokio::test(start_paused = true)]
    async fn each_is_over_when_its_newest_call_is_and_stands_for_the_oldest_version() {
        let late = Late::new(Duration::from_secs(15));
        let record = |id| RecordRef::contact(RecordId::try_new(id).unwrap());
        let version = |raw_sequence| Version { raw_sequence, redrive: 0 };
        let begun = Instant::now();
        late.note(record(1), version(5));
        tokio::time::advance(Duration::from_secs(10)).await;
        late.note(record(2), version(9));
        late.note(record(1), version(7));
        assert_eq!(late.count(), 2);
        let mut over = [late.next().await, late.next().await];
        over.sort();
        assert_eq!(over, [(record(1), version(5)), (record(2), version(9))]);
        assert_eq!(begun.elapsed(), Duration::from_secs(25));
        assert_eq!(late.count(), 0);
        assert!(tokio::time::timeout(Duration::from_secs(60), late.next()).await.is_err(), "each once");
    }
}
