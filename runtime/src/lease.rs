//! One replica at work out of several: a lease that whoever is at work keeps renewing.
//!
//! No clock is compared with another one. A replica that stands by takes the lease over once it has watched one and
//! the same revision stand for [`TERM`] by its own watch; whoever holds it counts that time from before it asked for its
//! last renewal, so it always ends earlier for the holder than for those who wait. While NATS does not answer, nobody
//! watches and nobody takes over.
//!
//! A process that died needs no such watch by those that share a disk with it: each keeps a file locked for as long as it
//! lives, and the system lets go of the lock whatever it dies of. So a restarted process goes on at once.
//!
//! A lease says who *should* work. It cannot stop a process that slept through its end, so what is done under it has
//! to be harmless when done late: that is for the stages to see to.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use schemas::streams::LEASES;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, BrokerError, Bucket, FULL_DISK, jitter};
use crate::outside;

/// How long a lease lasts without being renewed: short enough for a successor within five seconds, long enough for a
/// few renewals to fail.
pub const TERM: Duration = Duration::from_secs(3);

/// Pause between renewals.
const RENEWAL: Duration = Duration::from_millis(750);

/// Pause between two looks at somebody else's lease.
const LOOK: Duration = Duration::from_millis(250);

/// Pause before another try of what NATS did not do.
const FAILED_PAUSE: Duration = Duration::from_millis(100);

/// Shortest time between two complaints that no lease can be taken.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(30);

/// Who is at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Name of its host, which in a container is the container's.
    pub host: String,
    /// Tells two processes of a host apart.
    pub instance: String,
    /// Since when, by its own clock.
    pub since: DateTime<Utc>,
}

impl Holder {
    fn this_process() -> Holder {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "unknown" } else { host.trim() };
        let instance = format!("{:032x}", outside::token());
        Holder { host: host.to_owned(), instance, since: outside::now() }
    }

    /// Returns how it is called in logs: `host/1f0c8d2a`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.instance.get(..8).unwrap_or(&self.instance))
    }
}

/// A lease that may be had.
pub struct Lease {
    broker: Broker,
    bucket: Bucket,
    key: &'static str,
    me: Holder,
    _alive: Option<Alive>,
    folder: PathBuf,
}

/// A file that is locked for as long as a process lives; it is named after its instance. Unlocked, it tells that the
/// process is gone.
struct Alive {
    _locked: File,
}

impl Alive {
    /// Locks one; `None` where the folder takes none, which costs a successor some seconds.
    fn begin(folder: &Path, stage: &str, holder: &Holder) -> Option<Alive> {
        #[cfg(all(feature = "faults", debug_assertions))]
        if crate::simulated::current().is_some() {
            return None;
        }
        std::fs::create_dir_all(folder).ok()?;
        let path = alive_path(folder, stage, &holder.instance)?;
        let file = File::create(&path).ok()?;
        file.try_lock().ok()?;
        Some(Alive { _locked: file })
    }
}

/// Ending of the names of those files.
const ALIVE: &str = "alive";

fn alive_path(folder: &Path, stage: &str, instance: &str) -> Option<PathBuf> {
    // It was read from NATS, and becomes part of a path.
    let is_plain = instance.len() == 32 && instance.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_plain.then(|| folder.join(format!("{stage}.{instance}.{ALIVE}")))
}

/// Tells whether a process is known to be dead: its file is here and nobody holds it locked.
fn is_dead(folder: &Path, stage: &str, holder: &Holder) -> bool {
    let file = alive_path(folder, stage, &holder.instance).and_then(|path| File::open(path).ok());
    file.is_some_and(|file| file.try_lock().is_ok())
}

/// Removes the files that dead processes of a stage left behind.
fn sweep(folder: &Path, stage: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_one = name.starts_with(&format!("{stage}.")) && name.ends_with(&format!(".{ALIVE}"));
        if is_one && File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            let _left = std::fs::remove_file(&path);
        }
    }
}

/// A lease that is held.
#[derive(Clone)]
pub struct Leadership(Arc<Held>);

struct Held {
    term: Arc<Term>,
    bucket: Bucket,
    key: &'static str,
    renewing: tokio::task::JoinHandle<()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// What the renewals tell the work.
struct Term {
    origin: Instant,
    /// Milliseconds after `origin` at which it ends.
    end_ms: AtomicU64,
    revision: AtomicU64,
    lost: CancellationToken,
}

impl Term {
    fn begun(asked: Instant, revision: u64) -> Term {
        let end_ms = AtomicU64::new(TERM.as_millis() as u64);
        Term { origin: asked, end_ms, revision: AtomicU64::new(revision), lost: CancellationToken::new() }
    }

    fn end(&self) -> Instant {
        self.origin + Duration::from_millis(self.end_ms.load(Ordering::Relaxed))
    }

    fn is_over(&self) -> bool {
        self.lost.is_cancelled() || Instant::now() >= self.end()
    }

    fn renewed(&self, asked: Instant, revision: u64) {
        let end = asked.duration_since(self.origin) + TERM;
        self.end_ms.store(end.as_millis() as u64, Ordering::Relaxed);
        self.revision.store(revision, Ordering::Relaxed);
    }
}

/// What somebody who waits has seen.
#[derive(Default)]
struct Watch(Option<(u64, Instant)>);

impl Watch {
    /// Tells whether this revision has stood for a term now.
    fn sees(&mut self, revision: u64, now: Instant) -> bool {
        match self.0 {
            Some((seen, since)) if seen == revision => now.duration_since(since) >= TERM,
            _ => {
                self.0 = Some((revision, now));
                false
            }
        }
    }

    /// Begins anew after a look that failed: what happened meanwhile is unknown.
    fn forget(&mut self) {
        self.0 = None;
    }
}

impl Lease {
    /// Opens the lease of a stage; `folder` is where its replicas on this host keep what is theirs.
    pub async fn open(broker: &Broker, stage: &'static str, folder: &Path) -> Result<Lease, BrokerError> {
        let bucket = broker.bucket(&LEASES).await?;
        let me = Holder::this_process();
        let alive = Alive::begin(folder, stage, &me);
        let folder = folder.to_owned();
        Ok(Lease { broker: broker.clone(), bucket, key: stage, me, _alive: alive, folder })
    }

    /// Returns who is at work in a stage, or was when it ended.
    pub async fn look(broker: &Broker, stage: &str) -> Result<Option<Holder>, BrokerError> {
        let stored = broker.bucket(&LEASES).await?.get(stage).await?;
        Ok(stored.and_then(|(value, _)| serde_json::from_slice(&value).ok()))
    }

    /// Returns who is at work in a stage, or was when it ended, and when that was last said, by the clock of NATS.
    pub async fn look_with_time(
        broker: &Broker,
        stage: &str,
    ) -> Result<Option<(Holder, DateTime<Utc>)>, BrokerError> {
        let stored = broker.bucket(&LEASES).await?.entry(stage).await?;
        Ok(stored.and_then(|stored| Some((serde_json::from_slice(&stored.value).ok()?, stored.created))))
    }

    /// Waits until this replica holds it; ends early only when the stage is to stop.
    pub async fn acquire(&mut self) -> Result<Leadership, BrokerError> {
        let mut watch = Watch::default();
        let mut said = None;
        let mut complained = None;
        loop {
            let Ok(stored) = self.bucket.look(self.key).await else {
                watch.forget();
                self.broker.pause(FAILED_PAUSE).await?;
                continue;
            };
            let holder: Option<Holder> =
                stored.as_ref().and_then(|(value, _)| serde_json::from_slice(value).ok());
            let revision = stored.as_ref().map(|(_, revision)| *revision);
            let is_mine = holder.as_ref().is_some_and(|holder| holder.instance == self.me.instance);
            let is_free = is_mine
                || revision.is_none_or(|revision| watch.sees(revision, Instant::now()))
                || holder.as_ref().is_some_and(|holder| is_dead(&self.folder, self.key, holder));
            let taken = if is_free { self.take(revision).await } else { Ok(None) };
            if let Err(error) = &taken
                && complained.is_none_or(|at: Instant| at.elapsed() >= COMPLAINT_PAUSE)
            {
                complained = Some(Instant::now());
                tracing::warn!(
                    "No replica of the {} can work, as its lease is not stored: {error}. {FULL_DISK}",
                    self.key
                );
            }
            if let Ok(Some(leadership)) = taken {
                let before = holder.filter(|_| !is_mine).map(|holder| holder.name());
                tracing::info!(
                    replica = self.me.name(),
                    before,
                    "This replica of the {} is at work now",
                    self.key
                );
                sweep(&self.folder, self.key);
                return Ok(leadership);
            }
            if !is_mine && said != holder {
                if let Some(holder) = &holder {
                    tracing::info!(holder = holder.name(), "Standing by: another {} is at work", self.key);
                }
                said = holder;
            }
            self.broker.pause(LOOK + jitter(LOOK / 4)).await?;
        }
    }

    /// Takes it where it still has this revision; `None` where somebody else was first. After a lost answer the next look
    /// finds it to be ours.
    async fn take(&mut self, revision: Option<u64>) -> Result<Option<Leadership>, BrokerError> {
        self.me.since = outside::now();
        let value = Bytes::from(serde_json::to_vec(&self.me).unwrap_or_default());
        let asked = Instant::now();
        let revision = match self.bucket.compare_and_put(self.key, value.clone(), revision).await {
            Ok(revision) => revision,
            Err(BrokerError::Conflict { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let term = Arc::new(Term::begun(asked, revision));
        let renewing = tokio::spawn(renew(self.bucket.clone(), self.key, value, Arc::clone(&term)));
        let bucket = self.bucket.clone();
        Ok(Some(Leadership(Arc::new(Held { term, bucket, key: self.key, renewing }))))
    }
}

impl Leadership {
    /// Tells whether nobody else can hold the lease. Cheap: to be asked before each effect.
    pub fn is_held(&self) -> bool {
        !self.0.term.is_over()
    }

    /// Waits until the lease is somebody else's, or may be.
    pub async fn lost(&self) {
        self.0.term.lost.cancelled().await;
    }

    /// Gives it up, so that a successor need not wait for its end.
    pub async fn release(&self) {
        self.0.renewing.abort();
        self.0.term.lost.cancel();
        let revision = self.0.term.revision.load(Ordering::Relaxed);
        let deleted = self.0.bucket.compare_and_delete(self.0.key, revision);
        // In vain where NATS is away: then it ends by itself.
        let _ended = tokio::time::timeout(RENEWAL, deleted).await;
    }
}

/// Renews until the lease is lost.
async fn renew(bucket: Bucket, key: &'static str, value: Bytes, term: Arc<Term>) {
    let mut next = term.origin + RENEWAL;
    loop {
        tokio::time::sleep_until(next.min(term.end())).await;
        if term.is_over() {
            break;
        }
        let asked = Instant::now();
        let revision = term.revision.load(Ordering::Relaxed);
        let renewal = bucket.compare_and_put(key, value.clone(), Some(revision));
        match tokio::time::timeout_at(term.end(), renewal).await {
            Ok(Ok(revision)) => {
                term.renewed(asked, revision);
                next = asked + RENEWAL;
            }
            Ok(Err(BrokerError::Conflict { .. })) => match bucket.look(key).await {
                // The renewal whose answer was lost.
                Ok(Some((stored, revision))) if stored == value => {
                    term.revision.store(revision, Ordering::Relaxed);
                    next = Instant::now() + FAILED_PAUSE;
                }
                Ok(_) => break,
                Err(_) => next = Instant::now() + FAILED_PAUSE,
            },
            Ok(Err(_)) => next = Instant::now() + FAILED_PAUSE,
            Err(_) => break,
        }
    }
    term.lost.cancel();
}

/// Works as the one replica at work: `work` begins whenever this replica becomes that one, and is dropped as soon as it
/// no longer is. Ends when the work ends by itself, or the stage is to stop.
pub async fn lead<F>(
    broker: &Broker,
    stage: &'static str,
    folder: &Path,
    mut work: impl FnMut(Leadership) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut lease = Lease::open(broker, stage, folder).await?;
    loop {
        let Ok(leadership) = lease.acquire().await else { return Ok(()) };
        tokio::select! {
            biased;
            () = leadership.lost() => {
                tracing::warn!("This replica of the {stage} could not keep its lease; standing by");
            }
            ended = work(leadership.clone()) => {
                leadership.release().await;
                return ended;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_revision_that_stands_for_a_whole_term_is_taken_over() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        assert!(!watch.sees(1, start));
        assert!(!watch.sees(1, start + TERM - Duration::from_millis(1)));
        assert!(!watch.sees(2, start + TERM), "renewed");
        assert!(!watch.sees(2, start + TERM + TERM - Duration::from_millis(1)));
        assert!(watch.sees(2, start + TERM + TERM));
    }

    #[test]
    fn time_in_which_nobody_could_look_does_not_count() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        assert!(!watch.sees(1, start));
        watch.forget();
        assert!(!watch.sees(1, start + TERM));
    }

    #[test]
    fn a_process_that_died_is_known_to_be_dead_and_one_that_sleeps_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let holder = Holder::this_process();
        assert!(!is_dead(folder.path(), "producer", &holder), "on another host, for all we know");
        let alive = Alive::begin(folder.path(), "producer", &holder).unwrap();
        sweep(folder.path(), "producer");
        assert!(!is_dead(folder.path(), "producer", &holder));
        drop(alive);
        assert!(is_dead(folder.path(), "producer", &holder));
        sweep(folder.path(), "producer");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(alive_path(folder.path(), "producer", "../../../../etc/passwd"), None);
    }

    #[test]
    fn the_end_counts_from_before_the_renewal_was_asked_for() {
        let asked = Instant::now();
        let term = Term::begun(asked, 1);
        assert_eq!(term.end(), asked + TERM);
        term.renewed(asked + RENEWAL, 2);
        assert_eq!(term.end(), asked + RENEWAL + TERM);
        assert!(!term.is_over());
        term.lost.cancel();
        assert!(term.is_over());
    }
}
