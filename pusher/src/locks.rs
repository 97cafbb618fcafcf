//! One lock per record: a deal that changes its pupil changes its partition, and two versions of it must not
//! be worked on at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::RecordRef;
use tokio::sync::OwnedMutexGuard;

type Entries = HashMap<RecordRef, Arc<tokio::sync::Mutex<()>>>;

/// The locks that are held or waited for; nothing is kept of the others.
#[derive(Default)]
pub struct Locks(Mutex<Entries>);

/// A held lock.
pub struct Held<'l> {
    locks: &'l Locks,
    record: RecordRef,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Locks {
    /// Waits for the lock of a record.
    pub async fn lock(&self, record: RecordRef) -> Held<'_> {
        let lock = Arc::clone(self.entries().entry(record).or_default());
        // Made before waiting, so that an abandoned wait cleans up as well.
        let mut held = Held { locks: self, record, guard: None };
        held.guard = Some(lock.lock_owned().await);
        held
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut entries = self.locks.entries();
        self.guard = None;
        if entries.get(&self.record).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            entries.remove(&self.record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::RecordId;

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_nothing_is_left_behind() {
        let locks = Arc::new(Locks::default());
        let record = RecordRef::deal(RecordId::try_new(1).unwrap());
        let other = RecordRef::contact(RecordId::try_new(1).unwrap());
        let first = locks.lock(record).await;
        drop(locks.lock(other).await);
        let waiting = {
            let locks = Arc::clone(&locks);
            tokio::spawn(async move { drop(locks.lock(record).await) })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        assert!(locks.entries().is_empty());
    }
}
