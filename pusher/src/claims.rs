//! Who may create a record in otmechalka: over all replicas, one at a time.
//!
//! otmechalka has no call that creates only what is absent, so the lookup before a create and the create itself must not
//! be interleaved with those of anybody else. A record's commands mostly share a partition and come one by one; a deal
//! that changes its pupil changes its partition, a consumer that is made anew delivers again what others still hold, and a
//! process that stood still believes for a moment that what it was handed is its own. So a create is done under a claim: a
//! key in a bucket that only one can make.
//!
//! A claim gives way when no create can be under way under it any more. For nobody creates but within the leave that its
//! claim names, [`LEAVE`] at first, from before it was stored; whoever is late stores it again before, with twice the leave
//! for a NATS that is slow, which fails once somebody else has it; and nobody takes a claim that is younger than its leave
//! and the longest call, not even its own of an earlier try: the create of which it saw the connection break
//! may still be carried out. Where otmechalka itself answered with a failure, that is noted in the claim, and nobody
//! waits. What is left is a process that stands still between that look and the first byte of its call.
//!
//! A claim whose create got no answer is kept: what came of it is unknown until somebody looks, and whoever would not look sees
//! by the claim that it has to.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use runtime::{Broker, BrokerError, Bucket, outside};
use schemas::RecordRef;
use schemas::streams::CLAIMS;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How often a claim is stored again at most before a create that is late.
const MOST_RENEWALS: u32 = 4;

/// How long after it was stored a claim is leave to begin a create, at first.
const LEAVE: Duration = Duration::from_secs(1);

/// The same at last. Who reads a claim believes no more.
const LONGEST_LEAVE: Duration = Duration::from_secs(8);

/// What clocks and the ways between count for at most, when it is said how old a claim is.
const SLACK: Duration = Duration::from_millis(500);

/// Returns how long after a call failed it may still be carried out, where one takes so long at most.
pub fn over_after(call: Duration) -> Duration {
    call + SLACK
}

/// Key under which processes look what time it is for the server.
const CLOCK: &str = "clock";

/// Pause after a write that NATS did not take.
const PAUSE: Duration = Duration::from_millis(300);

/// Pause before a server that lags behind the others is asked once more.
const LAG: Duration = Duration::from_millis(30);

/// Looks for what was just stored, six seconds of them, before it is stored once more: the bucket may be another one by now.
const MOST_LOOKS: u32 = 200;

/// Claims of this process.
pub struct Claims {
    broker: Broker,
    bucket: Bucket,
    /// Age from which a claim's create is no longer under way, besides its leave.
    over: Duration,
}

/// Who claims: one try of one delivery of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claimant {
    /// Tells it from all others; empty where an earlier version stored it.
    #[serde(default)]
    attempt: String,
    /// No create is under way any more, though what came of it is unknown.
    #[serde(default)]
    is_over: bool,
    /// For how many milliseconds after it was stored a create may begin; earlier versions do not say it.
    #[serde(default = "first_leave")]
    leave: u64,
}

fn first_leave() -> u64 {
    millis(LEAVE)
}

fn millis(leave: Duration) -> u64 {
    // Seconds at most.
    leave.as_millis() as u64
}

impl Claimant {
    fn new() -> Claimant {
        Claimant { attempt: format!("{:032x}", outside::token()), is_over: false, leave: first_leave() }
    }

    fn leave(&self) -> Duration {
        Duration::from_millis(self.leave).min(LONGEST_LEAVE)
    }

    /// Returns the same try with twice the leave.
    fn with_more_leave(&self) -> Claimant {
        let leave = (self.leave() * 2).clamp(LEAVE, LONGEST_LEAVE);
        Claimant { leave: millis(leave), ..self.clone() }
    }

    fn encode(&self) -> Bytes {
        // A struct of texts and numbers always serialises.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// Leave to create, until it is given back or dropped.
#[derive(Debug)]
pub struct Claim {
    key: String,
    claimant: Claimant,
    revision: u64,
    /// Before it was last stored.
    asked: Instant,
    /// It was held before, so a create may have been carried out that nobody saw.
    pub was_held: bool,
    /// A create was begun under it.
    pub has_begun: bool,
}

/// What comes of claiming a record.
#[derive(Debug)]
pub enum Taken {
    /// Leave to create.
    Claim(Claim),
    /// Somebody has it whose create may be under way for so long.
    Busy(Duration),
}

/// Whether a create may begin under a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It may.
    Still,
    /// Somebody else has the claim by now.
    Elsewhere,
    /// NATS is too slow to tell in time.
    Unknown,
}

impl Claims {
    /// Opens the bucket. A create takes no longer than `call`.
    pub async fn open(broker: &Broker, call: Duration) -> Result<Claims, BrokerError> {
        let bucket = broker.bucket(&CLAIMS).await?;
        Ok(Claims { broker: broker.clone(), bucket, over: over_after(call) })
    }

    /// Claims a record for a try.
    pub async fn take(&self, record: RecordRef) -> Result<Taken, BrokerError> {
        let (claimant, key) = (Claimant::new(), key(record));
        // The first look is spared: mostly nobody has it.
        let (mut found, mut may_be_stored) = (None, false);
        loop {
            let asked = Instant::now();
            match self.bucket.compare_and_put(&key, claimant.encode(), found).await {
                Ok(revision) => {
                    let was_held = found.is_some();
                    let has_begun = false;
                    return Ok(Taken::Claim(Claim { key, claimant, revision, asked, was_held, has_begun }));
                }
                Err(BrokerError::Conflict { .. }) => self.broker.pause(LAG).await?,
                // After a lost answer the next look finds the claim to be ours.
                Err(BrokerError::Unavailable { .. }) => {
                    may_be_stored = true;
                    self.broker.pause(PAUSE).await?;
                }
                Err(error) => return Err(error),
            }
            found = match self.bucket.entry(&key).await? {
                None => None,
                Some(stored) => match serde_json::from_slice::<Claimant>(&stored.value) {
                    Ok(other) if may_be_stored && other == claimant => Some(stored.revision),
                    Ok(other) if !other.is_over => match self.left_of(stored.created, other.leave()).await? {
                        Duration::ZERO => Some(stored.revision),
                        left => return Ok(Taken::Busy(left)),
                    },
                    // What nobody can read was claimed by nobody that works.
                    _ => Some(stored.revision),
                },
            };
        }
    }

    /// Returns what time it is for the server, which may be another than on this host.
    pub async fn server_time(&self) -> Result<DateTime<Utc>, BrokerError> {
        loop {
            let revision = self.bucket.put(CLOCK, Bytes::new()).await?;
            // A server that lags behind may answer; this host's clock is no help, it may be far ahead.
            for _ in 0..MOST_LOOKS {
                match self.bucket.entry(CLOCK).await?.filter(|clock| clock.revision >= revision) {
                    Some(clock) => return Ok(clock.created),
                    None => self.broker.pause(LAG).await?,
                }
            }
        }
    }

    /// Returns for how long a create under a claim that was stored then may still be under way. Both times are the server's.
    async fn left_of(&self, stored: DateTime<Utc>, leave: Duration) -> Result<Duration, BrokerError> {
        let now = self.server_time().await?;
        Ok((leave + self.over).saturating_sub((now - stored).to_std().unwrap_or_default()))
    }

    /// Sees to it that a create may begin under a claim.
    pub async fn hold(&self, claim: &mut Claim) -> Result<Held, BrokerError> {
        let mut renewals = 0..MOST_RENEWALS;
        loop {
            if claim.asked.elapsed() < claim.claimant.leave() {
                claim.has_begun = true;
                return Ok(Held::Still);
            }
            if renewals.next().is_none() {
                break;
            }
            let asked = Instant::now();
            let renewed = claim.claimant.with_more_leave();
            match self.bucket.compare_and_put(&claim.key, renewed.encode(), Some(claim.revision)).await {
                Ok(revision) => (claim.revision, claim.asked, claim.claimant) = (revision, asked, renewed),
                Err(BrokerError::Unavailable { .. }) => self.broker.pause(PAUSE).await?,
                Err(BrokerError::Conflict { .. }) => match self.bucket.entry(&claim.key).await? {
                    // It was stored, and the answer got lost.
                    Some(stored) if stored.value == renewed.encode() => claim.revision = stored.revision,
                    _ => return Ok(Held::Elsewhere),
                },
                Err(error) => return Err(error),
            }
        }
        tracing::warn!("NATS is too slow for a create of {}: trying again later", claim.key);
        Ok(Held::Unknown)
    }

    /// Tells whether somebody is about to create a record, or may have created it unseen.
    pub async fn are_held(&self, record: RecordRef) -> Result<bool, BrokerError> {
        Ok(self.bucket.get(&key(record)).await?.is_some())
    }

    /// Keeps a claim under which no create is under way any more: the next try need not wait. In vain, it waits.
    pub async fn note_over(&self, claim: Claim) {
        let claimant = Claimant { is_over: true, ..claim.claimant };
        let noted = self.bucket.compare_and_put(&claim.key, claimant.encode(), Some(claim.revision));
        if let Err(error) = noted.await {
            tracing::debug!("Could not note that the create of {} is over: {error}", claim.key);
        }
    }

    /// Gives a claim back. In vain, it costs whoever comes next a wait.
    pub async fn give_back(&self, claim: Claim) {
        self.delete(&claim.key, claim.revision).await;
    }

    async fn delete(&self, key: &str, revision: u64) {
        if let Err(error) = self.bucket.compare_and_delete(key, revision).await {
            tracing::debug!("Could not give back the claim of {key}: {error}");
        }
    }
}

fn key(record: RecordRef) -> String {
    record.to_string()
}
