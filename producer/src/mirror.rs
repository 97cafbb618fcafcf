//! The local copy of what the stream says last about each record, trusted only while it knows the stream's end.
//!
//! "Nothing new" is decided on it, so a copy that lags behind would lose a change that goes back to what it remembers.

use std::collections::BTreeSet;
use std::path::Path;

use chrono::DateTime;
use runtime::DiskCache;
use schemas::RecordRef;

use crate::change::Known;

/// Name of the cache in the folder of caches.
const NAME: &str = "producer";

/// Key of the sequence up to which everything is known; no record is called that.
const KNOWN_UP_TO: &str = "known up to";

/// A copy on disk, with the sequence up to which it has seen every event.
pub struct Mirror {
    cache: DiskCache<Known>,
    known_up_to: u64,
    /// Sequences known behind one that is not.
    ahead: BTreeSet<u64>,
}

impl Mirror {
    /// Opens the copy of the stream with this stamp; it is empty unless it has seen everything up to `last_sequence`.
    pub fn open(folder: &Path, stamp: &str, last_sequence: u64) -> Mirror {
        let cache = DiskCache::<Known>::open(folder, NAME, stamp);
        let known_up_to = cache.get(KNOWN_UP_TO).map(|known| known.sequence);
        let mut mirror =
            Mirror { cache, known_up_to: known_up_to.unwrap_or_default(), ahead: BTreeSet::new() };
        if known_up_to != Some(last_sequence) {
            mirror.start_over(stamp, last_sequence);
        }
        mirror
    }

    /// Empties the copy. What is not in it is asked of the stream, so that it misses nothing.
    pub fn start_over(&mut self, stamp: &str, last_sequence: u64) {
        self.cache.start_over(stamp);
        self.ahead.clear();
        self.know_up_to(last_sequence);
    }

    /// Tells whether an event behind [`Mirror::known_up_to`] is known.
    pub fn knows(&self, sequence: u64) -> bool {
        sequence <= self.known_up_to || self.ahead.contains(&sequence)
    }

    /// Returns the sequence up to which every event is known.
    pub fn known_up_to(&self) -> u64 {
        self.known_up_to
    }

    /// Returns what is remembered about a record.
    pub fn get(&self, record: RecordRef) -> Option<Known> {
        self.cache.get(&record.to_string())
    }

    /// Remembers the newest event about a record.
    pub fn put(&mut self, record: RecordRef, known: &Known) {
        self.cache.put(&record.to_string(), known);
        self.note(known.sequence);
    }

    /// Forgets a record, so that the stream is asked.
    pub fn forget(&self, record: RecordRef) {
        self.cache.remove(&record.to_string());
    }

    /// Writes what is remembered to disk.
    pub fn flush(&self) {
        self.cache.flush();
    }

    /// Goes on without a gap only: an event between two known ones may be about a record that is remembered as it was.
    fn note(&mut self, sequence: u64) {
        if sequence <= self.known_up_to {
            return;
        }
        self.ahead.insert(sequence);
        let mut end = self.known_up_to;
        while self.ahead.remove(&(end + 1)) {
            end += 1;
        }
        if end > self.known_up_to {
            self.know_up_to(end);
        }
    }

    fn know_up_to(&mut self, sequence: u64) {
        self.known_up_to = sequence;
        let mark = Known {
            sequence,
            fingerprint: String::new(),
            modified: DateTime::UNIX_EPOCH.fixed_offset(),
            status_was_empty: false,
        };
        self.cache.put(KNOWN_UP_TO, &mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::RecordId;

    fn contact(id: u64) -> RecordRef {
        RecordRef::contact(RecordId::try_new(id).unwrap())
    }

    fn known(sequence: u64) -> Known {
        let modified = DateTime::UNIX_EPOCH.fixed_offset();
        Known { sequence, fingerprint: "a".into(), modified, status_was_empty: false }
    }

    #[test]
    fn a_copy_that_knows_the_end_survives_a_restart_and_one_behind_it_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(folder.path(), "stream", 4);
        mirror.put(contact(1), &known(5));
        mirror.flush();
        drop(mirror);
        let mirror = Mirror::open(folder.path(), "stream", 5);
        assert_eq!(mirror.get(contact(1)), Some(known(5)));
        drop(mirror);
        for last_sequence in [6, 5] {
            let mirror = Mirror::open(folder.path(), "stream", last_sequence);
            assert_eq!((mirror.get(contact(1)), mirror.known_up_to()), (None, last_sequence));
        }
    }

    #[test]
    fn a_copy_ahead_of_its_stream_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(folder.path(), "stream", 0);
        mirror.put(contact(1), &known(1));
        drop(mirror);
        assert_eq!(Mirror::open(folder.path(), "stream", 0).get(contact(1)), None);
    }

    #[test]
    fn an_event_that_was_not_seen_keeps_the_end_unknown_until_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::open(folder.path(), "stream", 4);
        mirror.put(contact(2), &known(7));
        mirror.put(contact(1), &known(5));
        assert_eq!(mirror.known_up_to(), 5);
        mirror.put(contact(3), &known(6));
        assert_eq!(mirror.known_up_to(), 7);
    }
}
