//! A far side that turns our secret away is asked once a minute, by all replicas of all stages together.
//!
//! Whoever is turned away notes it under a key that the others look at before they ask. While the note stands, whoever
//! has watched it stand unchanged for a whole pause, by its own watch, writes it anew by compare-and-set, and asks; whoever
//! is let in removes the note. No clock is compared with another one. Who dies before it asked is followed a pause later.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use schemas::streams::BucketDefinition;
use tokio::time::Instant;

use crate::broker::{Broker, BrokerError, Bucket, jitter};

/// How long nobody asks after somebody was turned away: nobody can put it right within less.
pub const MINUTE: Duration = Duration::from_secs(60);

/// Key of the note.
const KEY: &str = "refused";

/// Looks at the note that go into a pause.
const LOOKS: u32 = 60;

/// Pause after a write that NATS did not take.
const FAILED_PAUSE: Duration = Duration::from_millis(200);

/// The door of a far side, as one process sees it.
pub struct Door {
    broker: Broker,
    bucket: Bucket,
    watch: Mutex<Watch>,
}

/// What one process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody was turned away.
    Open,
    /// This process alone is turned away, while others are let in: its secret may be another one.
    Alone,
    /// Somebody was turned away, and this process has had the newest try.
    Tried,
    /// Somebody else was turned away; not before this time.
    Wait(Duration),
    /// It may have the next try.
    Due,
}

/// What a process knows of the note.
#[derive(Debug)]
struct Watch {
    pause: Duration,
    /// The note that was seen last, and since when it stands unchanged.
    seen: Option<(u64, Instant)>,
    /// Whether the newest note is of this process.
    is_mine: bool,
    /// The note that stood when this process was turned away last, if it was not let in since.
    refused: Option<u64>,
    is_alone: bool,
    /// A process that has just been started was told to by somebody who may have put things right: it need not wait.
    is_new: bool,
}

impl Watch {
    fn new(pause: Duration) -> Watch {
        Watch { pause, seen: None, is_mine: false, refused: None, is_alone: false, is_new: true }
    }

    /// Takes in which note stands now: its revision, which is another one after every write.
    fn look(&mut self, note: Option<u64>, now: Instant) -> Standing {
        let is_new = std::mem::take(&mut self.is_new);
        let Some(revision) = note else {
            // A note of this process's own that only a replica of the bucket that lags behind does not show.
            if self.is_mine && self.seen.is_some_and(|(_, since)| now < since + self.pause) {
                return Standing::Tried;
            }
            self.seen = None;
            // Others were let in, and this process was not.
            self.is_alone |= self.refused.is_some();
            return if self.is_alone { Standing::Alone } else { Standing::Open };
        };
        match self.seen {
            Some((seen, since)) if seen == revision => {
                let left = (since + self.pause).saturating_duration_since(now);
                match left {
                    Duration::ZERO => Standing::Due,
                    _ if self.is_mine => Standing::Tried,
                    left => Standing::Wait(left),
                }
            }
            _ => {
                self.is_mine = false;
                let since = if is_new { now.checked_sub(self.pause).unwrap_or(now) } else { now };
                self.seen = Some((revision, since));
                if is_new { Standing::Due } else { Standing::Wait(self.pause) }
            }
        }
    }

    /// Notes that this process wrote the note.
    fn wrote(&mut self, revision: u64, now: Instant) {
        (self.seen, self.is_mine) = (Some((revision, now)), true);
    }

    fn was_refused(&mut self, note: u64) {
        self.refused = Some(note);
    }

    /// Notes that this process was let in. Returns the note to remove, where it had the newest try.
    fn was_let_in(&mut self) -> Option<u64> {
        (self.refused, self.is_alone) = (None, false);
        self.seen.filter(|_| std::mem::take(&mut self.is_mine)).map(|(revision, _)| revision)
    }
}

impl Door {
    /// Opens the bucket with the note; `speed` is how fast the far side's clock runs against ours.
    pub async fn open(broker: &Broker, bucket: &BucketDefinition, speed: f64) -> Result<Door, BrokerError> {
        let watch = Mutex::new(Watch::new(MINUTE.div_f64(speed)));
        Ok(Door { broker: broker.clone(), bucket: broker.bucket(bucket).await?, watch })
    }

    /// Returns the pause between two looks at the note.
    pub fn look_pause(&self) -> Duration {
        (self.lock().pause / LOOKS).max(Duration::from_millis(20))
    }

    /// Looks where this process stands.
    pub async fn look(&self) -> Result<Standing, BrokerError> {
        let note = self.bucket.get(KEY).await?;
        Ok(self.lock().look(note.map(|(_, revision)| revision), Instant::now()))
    }

    /// Looks, and takes the next try where it is due. [`Standing::Due`] then means that this process may ask.
    pub async fn knock(&self) -> Result<Standing, BrokerError> {
        loop {
            let note = self.bucket.get(KEY).await?.map(|(_, revision)| revision);
            let standing = self.lock().look(note, Instant::now());
            if standing != Standing::Due {
                return Ok(standing);
            }
            match self.write(note).await {
                Ok(()) => return Ok(Standing::Due),
                Err(BrokerError::Stopping) => return Err(BrokerError::Stopping),
                // Somebody else was first, or it is not known.
                Err(_) => self.broker.pause(FAILED_PAUSE / 4 + jitter(FAILED_PAUSE)).await?,
            }
        }
    }

    /// Waits until this process may ask.
    pub async fn pass(&self) -> Result<(), BrokerError> {
        let pause = self.look_pause();
        loop {
            match self.knock().await? {
                Standing::Open | Standing::Alone | Standing::Due => return Ok(()),
                Standing::Tried => self.broker.pause(pause).await?,
                Standing::Wait(left) => self.broker.pause(left.min(pause)).await?,
            }
        }
    }

    /// Notes that this process was turned away.
    pub async fn refused(&self) -> Result<(), BrokerError> {
        while !self.lock().is_alone {
            let stands = self.bucket.get(KEY).await?.map(|(_, revision)| revision);
            if let Some(revision) = stands {
                let mut watch = self.lock();
                watch.look(Some(revision), Instant::now());
                watch.was_refused(revision);
                return Ok(());
            }
            match self.write(None).await {
                Ok(()) => {
                    let mut watch = self.lock();
                    if let Some((revision, _)) = watch.seen {
                        watch.was_refused(revision);
                    }
                    return Ok(());
                }
                Err(BrokerError::Stopping) => return Err(BrokerError::Stopping),
                Err(_) => self.broker.pause(FAILED_PAUSE).await?,
            }
        }
        Ok(())
    }

    /// Notes that this process was let in.
    pub async fn let_in(&self) {
        let Some(revision) = self.lock().was_let_in() else { return };
        // In vain, it costs whoever comes next a pause.
        if let Err(error) = self.bucket.compare_and_delete(KEY, revision).await {
            tracing::debug!("Could not remove the note that the far side refuses: {error}");
        }
    }

    async fn write(&self, revision: Option<u64>) -> Result<(), BrokerError> {
        let written = self.bucket.compare_and_put(KEY, Bytes::from_static(b"{}"), revision).await?;
        self.lock().wrote(written, Instant::now());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A process that has been at work for a while.
    fn watch(now: Instant) -> Watch {
        let mut watch = Watch::new(MINUTE);
        assert_eq!(watch.look(None, now), Standing::Open);
        watch
    }

    #[test]
    fn a_note_that_stands_for_a_whole_pause_makes_a_try_due() {
        let now = Instant::now();
        let mut watch = watch(now);
        assert_eq!(watch.look(Some(1), now), Standing::Wait(MINUTE));
        assert_eq!(watch.look(Some(1), now + SECOND), Standing::Wait(MINUTE - SECOND));
        assert_eq!(watch.look(Some(2), now + MINUTE), Standing::Wait(MINUTE), "somebody else tried");
        assert_eq!(watch.look(Some(2), now + MINUTE * 2), Standing::Due);
        watch.wrote(3, now + MINUTE * 2);
        assert_eq!(watch.look(Some(3), now + MINUTE * 2), Standing::Tried);
        assert_eq!(watch.look(Some(3), now + MINUTE * 3), Standing::Due, "still refused");
    }

    #[test]
    fn who_had_the_newest_try_and_was_let_in_removes_the_note() {
        let now = Instant::now();
        let (mut one, mut other) = (watch(now), watch(now));
        one.wrote(1, now);
        one.was_refused(1);
        other.look(Some(1), now);
        assert_eq!(other.was_let_in(), None, "a call that was under way");
        assert_eq!(one.was_let_in(), Some(1));
        assert_eq!(one.was_let_in(), None);
        assert_eq!(other.look(None, now), Standing::Open);
    }

    #[test]
    fn who_is_refused_while_others_are_let_in_keeps_it_to_itself() {
        let now = Instant::now();
        let mut watch = watch(now);
        watch.wrote(1, now);
        watch.was_refused(1);
        watch.look(Some(2), now + MINUTE);
        assert_eq!(watch.look(None, now + MINUTE), Standing::Alone);
        assert_eq!(watch.look(None, now + MINUTE), Standing::Alone);
        watch.was_let_in();
        assert_eq!(watch.look(None, now + MINUTE), Standing::Open);
    }

    #[test]
    fn a_process_that_was_just_started_need_not_wait() {
        assert_eq!(Watch::new(MINUTE).look(Some(7), Instant::now()), Standing::Due);
    }
}
