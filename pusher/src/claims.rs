//! Who may create a record in otmechalka: over all replicas, one at a time.
//!
//! otmechalka has no call that creates only what is absent, so the lookup before a create and the create itself must not
//! be interleaved with those of anybody else. A record's commands mostly share a partition and come one by one; a deal
//! that changes its pupil changes its partition, and a consumer that is made anew delivers again what others still hold.
//! So a create is done under a claim: a key in a bucket that only one can make.
//!
//! A claim whose create got no answer is kept: the create may still be carried out. It gives way to what comes behind it
//! in its own partition, which is a later try or a later version, or else to the bucket's age limit.
//!
//! That a partition's next command comes to somebody else does not say that the one before is over: a process that stood still
//! believes for a moment that what it was handed is its own. So nobody creates but within [`LEAVE`] of having stored its
//! claim, or stores it again before, which fails once somebody else has it; and nobody takes a claim of another process
//! that is younger than that and the longest call. What is left is a process that stands still between that look and the
//! first byte of its call.

use std::time::Duration;

use chrono::{DateTime, Utc};

use bytes::Bytes;
use runtime::{Broker, BrokerError, Bucket, outside};
use schemas::RecordRef;
use schemas::streams::CLAIMS;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::task::Task;

/// How long after it was stored a claim is leave to begin a create.
const LEAVE: Duration = Duration::from_secs(1);

/// What clocks and the ways between count for at most, when it is said how old a claim is.
const SLACK: Duration = Duration::from_millis(500);

/// Key under which processes look what time it is for the server.
const CLOCK: &str = "clock";

/// Pause after a write that NATS did not take.
const PAUSE: Duration = Duration::from_millis(300);

/// Claims of this process.
pub struct Claims {
    broker: Broker,
    bucket: Bucket,
    /// Tells this process from others.
    instance: String,
    /// Age from which a claim's create is no longer under way.
    over: Duration,
}

/// Who claims: one delivery of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claimant {
    instance: String,
    /// Where the command travels; one consumer delivers all of it, one after the other.
    subject: String,
    sequence: u64,
    deliveries: u64,
}

impl Claimant {
    /// Tells whether the claim of another delivery has to give way.
    ///
    /// Within a partition the server delivers the next command, or the same one again, only when the one before was
    /// settled or given up. Across partitions neither knows what the other is about to do.
    fn supersedes(&self, other: &Claimant) -> bool {
        let order = |claimant: &Claimant| (claimant.sequence, claimant.deliveries);
        let is_same = order(self) == order(other) && self.instance == other.instance;
        self.subject == other.subject && (is_same || order(self) > order(other))
    }
}

/// Leave to create, until it is given back or dropped.
pub struct Claim {
    key: String,
    value: Bytes,
    revision: u64,
    /// Before it was last stored.
    asked: Instant,
    /// It was held before, so a create may have been carried out that nobody saw.
    pub was_held: bool,
}

impl Claims {
    /// Opens the bucket. A create takes no longer than `call`.
    pub async fn open(broker: &Broker, call: Duration) -> Result<Claims, BrokerError> {
        let instance = format!("{:032x}", outside::token());
        let bucket = broker.bucket(&CLAIMS).await?;
        Ok(Claims { broker: broker.clone(), bucket, instance, over: LEAVE + call + SLACK })
    }

    /// Claims a record for a try; `None` while somebody else has it.
    pub async fn take(&self, task: &Task<'_>) -> Result<Option<Claim>, BrokerError> {
        let claimant = self.claimant(task);
        let key = key(task.record);
        // A struct of texts and numbers always serialises.
        let value = Bytes::from(serde_json::to_vec(&claimant).unwrap_or_default());
        // The first look is spared: mostly nobody has it.
        let mut found = None;
        loop {
            let asked = Instant::now();
            match self.bucket.compare_and_put(&key, value.clone(), found).await {
                Ok(revision) => {
                    return Ok(Some(Claim { key, value, revision, asked, was_held: found.is_some() }));
                }
                Err(BrokerError::Conflict { .. }) => {}
                // After a lost answer the next look finds the claim to be ours.
                Err(BrokerError::Unavailable { .. }) => self.broker.pause(PAUSE).await?,
                Err(error) => return Err(error),
            }
            found = match self.bucket.entry(&key).await? {
                None => None,
                Some(stored) => match serde_json::from_slice::<Claimant>(&stored.value) {
                    Ok(other) if !claimant.supersedes(&other) => return Ok(None),
                    Ok(other) if other.instance != self.instance && !self.is_over(stored.created).await? => {
                        return Ok(None);
                    }
                    // What nobody can read was claimed by nobody that works.
                    _ => Some(stored.revision),
                },
            };
        }
    }

    /// Tells whether a create under a claim that was stored then can no longer be under way. Both times are the server's.
    async fn is_over(&self, stored: DateTime<Utc>) -> Result<bool, BrokerError> {
        self.bucket.put(CLOCK, Bytes::new()).await?;
        let now = self.bucket.entry(CLOCK).await?.map_or(stored, |clock| clock.created);
        Ok((now - stored).to_std().is_ok_and(|age| age >= self.over))
    }

    /// Sees to it that a create may begin under a claim; `false` where somebody else has it by now.
    pub async fn hold(&self, claim: &mut Claim) -> Result<bool, BrokerError> {
        while claim.asked.elapsed() >= LEAVE {
            let asked = Instant::now();
            match self.bucket.compare_and_put(&claim.key, claim.value.clone(), Some(claim.revision)).await {
                Ok(revision) => (claim.revision, claim.asked) = (revision, asked),
                Err(BrokerError::Unavailable { .. }) => self.broker.pause(PAUSE).await?,
                Err(BrokerError::Conflict { .. }) => match self.bucket.entry(&claim.key).await? {
                    // It was stored, and the answer got lost.
                    Some(stored) if stored.value == claim.value => claim.revision = stored.revision,
                    _ => return Ok(false),
                },
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Tells whether somebody is about to create a record, or may have created it unseen.
    pub async fn are_held(&self, record: RecordRef) -> Result<bool, BrokerError> {
        Ok(self.bucket.get(&key(record)).await?.is_some())
    }

    fn claimant(&self, task: &Task<'_>) -> Claimant {
        Claimant {
            instance: self.instance.clone(),
            subject: task.delivery.subject().to_owned(),
            sequence: task.delivery.sequence,
            deliveries: task.delivery.deliveries,
        }
    }

    /// Gives up what was kept for another try that does not come.
    pub async fn give_up(&self, task: &Task<'_>) -> Result<(), BrokerError> {
        if let Some(claim) = self.take(task).await? {
            self.give_back(claim).await;
        }
        Ok(())
    }

    /// Gives a claim back. In vain, it costs whoever comes next a wait.
    pub async fn give_back(&self, claim: Claim) {
        if let Err(error) = self.bucket.compare_and_delete(&claim.key, claim.revision).await {
            tracing::debug!("Could not give back the claim of {}: {error}", claim.key);
        }
    }
}

fn key(record: RecordRef) -> String {
    record.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(instance: &str, subject: &str, sequence: u64, deliveries: u64) -> Claimant {
        Claimant { instance: instance.into(), subject: subject.into(), sequence, deliveries }
    }

    #[test]
    fn a_claim_gives_way_to_what_comes_behind_it_in_its_partition_only() {
        let held = claimant("a", "crm.cmd.01.deal.1", 5, 2);
        for later in [("a", 5, 2), ("b", 5, 3), ("b", 6, 1), ("a", 6, 1)] {
            let (instance, sequence, deliveries) = later;
            let later = claimant(instance, "crm.cmd.01.deal.1", sequence, deliveries);
            assert!(later.supersedes(&held), "{later:?}");
            let elsewhere = claimant(instance, "crm.cmd.02.deal.1", sequence, deliveries);
            assert!(!elsewhere.supersedes(&held), "{elsewhere:?}");
        }
        for other in [("b", 5, 2), ("b", 5, 1), ("a", 4, 9)] {
            let (instance, sequence, deliveries) = other;
            let other = claimant(instance, "crm.cmd.01.deal.1", sequence, deliveries);
            assert!(!other.supersedes(&held), "{other:?}");
        }
    }
}
