//! How far a reconciliation is, and what it has found.
//!
//! Kept in the bucket of checkpoints rather than in a file: in a container the command has no folder that outlives
//! it, and whoever runs it again may sit at another machine.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use runtime::{BrokerError, Bucket};
use schemas::{Entity, RecordId, RecordRef};
use serde::{Deserialize, Serialize};

use super::found::{Code, Found};

/// Key in the bucket.
const KEY: &str = "reconcile";

/// Findings that are kept with their records; of more only the number.
const MOST_FOUND: usize = 2_000;

/// Most bytes that they may take. A value of the bucket holds a megabyte.
const MOST_BYTES: usize = 600_000;

/// Age from which on the findings of a run that was broken off are no longer true.
const EXPIRY: TimeDelta = TimeDelta::hours(24);

/// How far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// When it began.
    pub begun: DateTime<Utc>,
    /// Whether records are sent round again.
    pub is_repair: bool,
    /// What is being read; none once all is.
    pub reading: Option<(Entity, u64)>,
    /// Records compared, by entity.
    pub compared: BTreeMap<Entity, u64>,
    /// Records that were on their way, so that there was nothing to compare.
    pub in_flight: u64,
    /// Records that were sent round again.
    pub sent: u64,
    /// How many of each kind were found.
    pub counts: BTreeMap<Code, u64>,
    /// The first of them.
    pub found: Vec<Found>,
    /// Bytes that they take.
    #[serde(default)]
    pub bytes: usize,
    /// Clients whose contacts are gone.
    pub gone: Vec<RecordId>,
    /// Tickets of these whose deals name another contact by now.
    pub moved: Vec<Moved>,
}

/// A ticket that belongs to another client than its deal names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The deal.
    pub deal: RecordId,
    /// Whose ticket it is.
    pub from: RecordId,
    /// Whom the deal names.
    pub to: RecordId,
}

impl Progress {
    /// Starts at the first contact.
    pub fn begin(is_repair: bool, begun: DateTime<Utc>) -> Progress {
        Progress {
            begun,
            is_repair,
            reading: Some((Entity::Contact, 0)),
            compared: BTreeMap::new(),
            in_flight: 0,
            sent: 0,
            counts: BTreeMap::new(),
            found: Vec::new(),
            bytes: 0,
            gone: Vec::new(),
            moved: Vec::new(),
        }
    }

    /// Adds what was found.
    pub fn add(&mut self, found: Vec<Found>) {
        for found in found {
            *self.counts.entry(found.code).or_default() += 1;
            // A struct of numbers and texts always serialises.
            let bytes = serde_json::to_vec(&found).map_or(0, |bytes| bytes.len());
            if self.found.len() < MOST_FOUND && self.bytes + bytes <= MOST_BYTES {
                self.bytes += bytes;
                self.found.push(found);
            }
        }
    }

    /// Goes on behind some records; `next` is none at the end of the entity.
    pub fn advance(&mut self, entity: Entity, next: Option<u64>) {
        self.reading = match (next, entity) {
            (Some(cursor), entity) => Some((entity, cursor)),
            (None, Entity::Contact) => Some((Entity::Deal, 0)),
            (None, Entity::Deal) => None,
        };
    }

    /// Says what became of the contacts that are gone, now that all deals are read.
    ///
    /// Bitrix24 does not tell of merges. That the deals of a contact that is gone are another's now does.
    pub fn conclude(&mut self) {
        let (gone, moved) = (std::mem::take(&mut self.gone), std::mem::take(&mut self.moved));
        let mut found = Vec::new();
        for contact in &gone {
            let record = RecordRef::contact(*contact);
            found.push(match moved.iter().find(|moved| moved.from == *contact) {
                Some(moved) => Found::new(record, Code::Merged).about(moved.to),
                None => Found::new(record, Code::Gone),
            });
        }
        let of_gone = moved.iter().filter(|moved| gone.contains(&moved.from));
        found.extend(
            of_gone.map(|moved| Found::new(RecordRef::deal(moved.deal), Code::MovedPupil).about(moved.from)),
        );
        self.add(found);
    }
}

/// Reads a run that was broken off, if it is one like this and not too old.
pub async fn load(
    bucket: &Bucket,
    is_repair: bool,
    now: DateTime<Utc>,
) -> Result<Option<Progress>, BrokerError> {
    let stored = bucket.get(KEY).await?;
    let progress: Option<Progress> = stored.and_then(|(value, _)| serde_json::from_slice(&value).ok());
    Ok(progress.filter(|progress| progress.is_repair == is_repair && now - progress.begun < EXPIRY))
}

/// Stores it.
pub async fn store(bucket: &Bucket, progress: &Progress) -> Result<(), BrokerError> {
    // A struct of numbers and names always serialises.
    bucket.put(KEY, serde_json::to_vec(progress).unwrap_or_default().into()).await?;
    Ok(())
}

/// Forgets it: the run has ended.
pub async fn forget(bucket: &Bucket) -> Result<(), BrokerError> {
    bucket.delete(KEY).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> RecordId {
        RecordId::try_new(number).unwrap()
    }

    #[test]
    fn a_contact_whose_deals_are_anothers_was_merged() {
        let mut progress = Progress::begin(false, Utc::now());
        progress.gone = vec![id(5), id(6)];
        progress.moved = vec![
            Moved { deal: id(70), from: id(5), to: id(9) },
            Moved { deal: id(71), from: id(8), to: id(9) },
        ];
        progress.conclude();
        let found: Vec<(String, Code, Option<RecordId>)> =
            progress.found.iter().map(|found| (found.record.to_string(), found.code, found.other)).collect();
        assert_eq!(
            found,
            [
                ("contact.5".into(), Code::Merged, Some(id(9))),
                ("contact.6".into(), Code::Gone, None),
                ("deal.70".into(), Code::MovedPupil, Some(id(5))),
            ]
        );
    }

    #[test]
    fn what_is_kept_is_bounded_and_survives() {
        let mut progress = Progress::begin(true, Utc::now());
        let found = |number| Found::new(RecordRef::deal(id(number)), Code::Missing);
        progress.add((1..=MOST_FOUND as u64 + 5).map(found).collect());
        assert_eq!(progress.found.len(), MOST_FOUND);
        assert_eq!(progress.counts[&Code::Missing], MOST_FOUND as u64 + 5);
        let kept = serde_json::to_vec(&progress).unwrap();
        assert!(kept.len() < 1 << 20, "{}", kept.len());
        assert_eq!(serde_json::from_slice::<Progress>(&kept).unwrap(), progress);

        let mut progress = Progress::begin(true, Utc::now());
        let long = |number| {
            let mut found = found(number).with_fields(vec!["courses".to_owned()]);
            found.fields[0].before = Some("9".repeat(1_000));
            found
        };
        progress.add((1..=MOST_FOUND as u64).map(long).collect());
        assert!(progress.found.len() > 500 && progress.counts[&Code::Missing] == MOST_FOUND as u64);
        assert!(serde_json::to_vec(&progress).unwrap().len() < 1 << 20);
    }

    #[test]
    fn contacts_come_before_deals() {
        let mut progress = Progress::begin(false, Utc::now());
        progress.advance(Entity::Contact, Some(50));
        assert_eq!(progress.reading, Some((Entity::Contact, 50)));
        progress.advance(Entity::Contact, None);
        assert_eq!(progress.reading, Some((Entity::Deal, 0)));
        progress.advance(Entity::Deal, None);
        assert_eq!(progress.reading, None);
    }
}
