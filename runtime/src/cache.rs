//! A disk cache that may be deleted, truncated or old at any time: what it does not know is asked of the stream.
//!
//! sled 0.34 is the store. Anything that goes wrong with it costs the cache, never a record.
//!
//! A store belongs to one process at a time. Replicas that share a folder take the first store in it that is free:
//! `producer.sled`, `producer-1.sled` and so on. What they find in it may be behind, as it may after any pause.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Memory that sled may use for pages, in bytes by its own count; what it really takes is some times as much. What is
/// not in it is read from the file, which the system keeps in memory anyway.
const PAGE_CACHE_BYTES: u64 = 256 << 10;

/// Bytes that sled writes at a time, and reads back when it makes room. It has several such buffers in hand, so its
/// default of 512 KiB costs more memory than everything else it holds. A store that
/// was made with another value is made anew.
const SEGMENT_BYTES: usize = 64 << 10;

/// The same in a simulation.
#[cfg(all(feature = "faults", debug_assertions))]
const SIMULATED_STAMP: &str = "\0stamp";

/// Key of the stamp; no record key starts with a zero byte.
const STAMP_KEY: &[u8] = b"\0stamp";

/// A cache of values by text key.
pub struct DiskCache<V> {
    path: PathBuf,
    database: Mutex<Option<sled::Db>>,
    #[cfg(all(feature = "faults", debug_assertions))]
    world: Option<crate::simulated::World>,
    values: PhantomData<fn() -> V>,
}

impl<V: Serialize + DeserializeOwned> DiskCache<V> {
    /// Opens the cache, empty where it cannot be read or was made beside another `stamp`.
    ///
    /// The stamp names what the cache is a cache of, for example a stream and its time of creation.
    pub fn open(folder: &Path, name: &str, stamp: &str) -> DiskCache<V> {
        let mut path = folder.join(format!("{name}.sled"));
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(world) = crate::simulated::current() {
            let stamped = world.disk(&path).get(SIMULATED_STAMP) == Some(&stamp.as_bytes().to_vec());
            let cache =
                DiskCache { path, database: Mutex::new(None), world: Some(world), values: PhantomData };
            if !stamped {
                cache.start_over(stamp);
            }
            return cache;
        }
        let mut opened = open(&path, LOCK_TRIES);
        for slot in 1..SLOTS {
            // Another replica works with it: not ours to throw away.
            if !matches!(opened, Opened::Locked) {
                break;
            }
            path = folder.join(format!("{name}-{slot}.sled"));
            opened = open(&path, 1);
        }
        let database = match opened {
            Opened::Locked => None,
            Opened::Ready(database) if has_stamp(&database, stamp) => Some(database),
            Opened::Ready(database) => emptied(database, stamp),
            Opened::Damaged => fresh(&path, stamp),
        };
        if database.is_none() {
            tracing::warn!(
                "No local cache at {}: every lookup goes to the stream. If its disk is full, make room and restart; at \
                 most {SLOTS} replicas share a folder",
                path.display()
            );
        }
        DiskCache {
            path,
            database: Mutex::new(database),
            #[cfg(all(feature = "faults", debug_assertions))]
            world: None,
            values: PhantomData,
        }
    }

    /// Forgets everything; what is remembered from now on belongs to `stamp`.
    pub fn start_over(&self, stamp: &str) {
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(world) = &self.world {
            return world.with_disk(&self.path, |disk| {
                disk.clear();
                disk.insert(SIMULATED_STAMP.to_owned(), stamp.as_bytes().to_vec());
            });
        }
        self.with(|database| {
            database.clear()?;
            database.insert(STAMP_KEY, stamp.as_bytes()).map(|_| ())
        });
    }

    /// Returns a value, `None` where it is not known.
    pub fn get(&self, key: &str) -> Option<V> {
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(world) = &self.world {
            return world.with_disk(&self.path, |disk| serde_json::from_slice(disk.get(key)?).ok());
        }
        let bytes = self
            .with(|database| database.get(key.as_bytes()).map(|found| found.map(|bytes| bytes.to_vec())))??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Remembers a value.
    pub fn put(&self, key: &str, value: &V) {
        if let Ok(bytes) = serde_json::to_vec(value) {
            #[cfg(all(feature = "faults", debug_assertions))]
            if let Some(world) = &self.world {
                world.with_disk(&self.path, |disk| disk.insert(key.to_owned(), bytes));
                return;
            }
            self.with(|database| database.insert(key.as_bytes(), bytes).map(|_| ()));
        }
    }

    /// Forgets a value.
    pub fn remove(&self, key: &str) {
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(world) = &self.world {
            world.with_disk(&self.path, |disk| disk.remove(key));
            return;
        }
        self.with(|database| database.remove(key.as_bytes()).map(|_| ()));
    }

    /// Writes what is remembered to disk.
    pub fn flush(&self) {
        self.with(|database| database.flush().map(|_| ()));
    }

    /// Runs a call on the store; gives the store up for good when it fails or panics.
    fn with<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Option<T> {
        let mut slot = self.database.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let database = slot.as_ref()?;
        let reason = match guarded(|| Some(call(database))) {
            Some(Ok(value)) => return Some(value),
            Some(Err(error)) => kind(&error),
            None => "it panicked",
        };
        tracing::warn!(
            "Giving up the local cache at {}: {reason}. Nothing is lost, every lookup goes to the stream. If its disk is \
             full, make room and restart",
            self.path.display()
        );
        *slot = None;
        // What is left on disk falls behind from here on, so the next start must not trust it.
        discard(&self.path);
        None
    }
}

enum Opened {
    Ready(sled::Db),
    Locked,
    Damaged,
}

/// Replicas that find a store of their own in one folder.
const SLOTS: usize = 16;

/// Tries for the lock this often: a predecessor in the same process may be letting go of it.
const LOCK_TRIES: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

fn open(path: &Path, tries: usize) -> Opened {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(PAGE_CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(Some(1_000));
    for _ in 0..tries {
        match guarded(|| Some(config.open())) {
            Some(Ok(database)) => return Opened::Ready(database),
            Some(Err(sled::Error::Io(error))) if error.to_string().contains("lock") => {
                std::thread::sleep(LOCK_PAUSE);
            }
            _ => return Opened::Damaged,
        }
    }
    Opened::Locked
}

/// Starts over with an empty store.
fn fresh(path: &Path, stamp: &str) -> Option<sled::Db> {
    discard(path);
    let Opened::Ready(database) = open(path, LOCK_TRIES) else { return None };
    emptied(database, stamp)
}

/// Empties a store without letting go of it: another replica might take it meanwhile.
fn emptied(database: sled::Db, stamp: &str) -> Option<sled::Db> {
    guarded(|| {
        database.clear().ok()?;
        database.insert(STAMP_KEY, stamp.as_bytes()).ok()
    })?;
    Some(database)
}

fn has_stamp(database: &sled::Db, stamp: &str) -> bool {
    guarded(|| database.get(STAMP_KEY).ok().flatten()).is_some_and(|found| found.as_ref() == stamp.as_bytes())
}

fn discard(path: &Path) {
    if path.exists() && std::fs::remove_dir_all(path).is_err() {
        let _file = std::fs::remove_file(path);
    }
}

/// sled panics on some kinds of damage instead of returning an error.
fn guarded<T>(call: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok().flatten()
}

fn kind(error: &sled::Error) -> &'static str {
    match error {
        sled::Error::Io(_) => "the disk refused",
        sled::Error::Corruption { .. } => "it is damaged",
        _ => "it failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_a_restart_beside_the_same_stamp_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::<u64>::open(folder.path(), "seen", "stream-1");
        cache.put("contact.1", &7);
        cache.flush();
        drop(cache);
        assert_eq!(DiskCache::<u64>::open(folder.path(), "seen", "stream-1").get("contact.1"), Some(7));
        assert_eq!(DiskCache::<u64>::open(folder.path(), "seen", "stream-2").get("contact.1"), None);
    }

    #[test]
    fn replicas_that_share_a_folder_have_a_store_each() {
        let folder = tempfile::tempdir().unwrap();
        let caches: Vec<_> =
            (0..3).map(|_| DiskCache::<u64>::open(folder.path(), "seen", "stream-1")).collect();
        for (number, cache) in (0..).zip(&caches) {
            cache.put("contact.1", &number);
        }
        let remembered: Vec<_> = caches.iter().map(|cache| cache.get("contact.1")).collect();
        assert_eq!(remembered, [Some(0), Some(1), Some(2)]);
        drop(caches);
        let cache = DiskCache::<u64>::open(folder.path(), "seen", "stream-1");
        cache.start_over("stream-2");
        assert_eq!(cache.get("contact.1"), None);
        drop(cache);
        assert_eq!(DiskCache::<u64>::open(folder.path(), "seen", "stream-1").get("contact.1"), None);
    }

    #[test]
    fn a_damaged_cache_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::<u64>::open(folder.path(), "seen", "stream-1");
        for key in 0..1_000 {
            cache.put(&key.to_string(), &key);
        }
        cache.flush();
        drop(cache);
        for entry in std::fs::read_dir(folder.path().join("seen.sled")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::write(&path, b"torn").unwrap();
            }
        }
        let cache = DiskCache::<u64>::open(folder.path(), "seen", "stream-1");
        cache.put("contact.1", &8);
        assert_eq!(cache.get("contact.1"), Some(8));
    }

    #[test]
    fn a_store_of_other_segments_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        drop(
            sled::Config::new().path(folder.path().join("seen.sled")).segment_size(512 << 10).open().unwrap(),
        );
        let cache = DiskCache::<u64>::open(folder.path(), "seen", "stream-1");
        cache.put("contact.1", &8);
        assert_eq!(cache.get("contact.1"), Some(8));
    }

    #[test]
    fn without_a_place_to_write_nothing_is_known_and_nothing_breaks() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("not-a-folder");
        std::fs::write(&file, b"").unwrap();
        let cache = DiskCache::<u64>::open(&file, "seen", "stream-1");
        cache.put("contact.1", &8);
        assert_eq!(cache.get("contact.1"), None);
    }
}
