//! What the page shows, read from NATS. Holds no personal data: ids, codes, times, counts, and masked status texts.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::consumer::DeliverPolicy;
use chrono::{DateTime, Utc};
use runtime::Broker;
use schemas::{Entity, Outcome, RecordRef};

use super::words::Zone;
use crate::answer::Finding;
use crate::mask::Mask;
use crate::results;
use crate::status::{Status, facts, findings};

/// Everything that the page shows, at one moment.
#[derive(Debug)]
pub struct View {
    /// How far everything is.
    pub status: Status,
    /// What somebody should look at, as `rollcall status` says it.
    pub findings: Vec<Finding>,
    /// Records that a person has to correct, the newest first.
    pub problems: Vec<ProblemRecord>,
}

/// A record whose newest version was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProblemRecord {
    /// The record.
    pub record: RecordRef,
    /// Codes of what is wrong with it.
    pub codes: BTreeSet<String>,
    /// The text of its status, without the values that it quotes.
    pub status: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

impl View {
    /// Reads everything.
    pub async fn read(broker: &Broker, mask: &Mask, recent: &mut facts::Recent) -> Result<View, String> {
        let now = Utc::now();
        let facts = facts::read(broker, recent, now).await?;
        let findings = findings(&facts, now);
        let status = Status::of(facts, now);
        let mut newest = Newest::default();
        results::each(broker, DeliverPolicy::LastPerSubject, |ended| {
            let problem = ProblemRecord {
                record: ended.record,
                codes: ended.processed.problems.into_iter().map(|problem| problem.code).collect(),
                status: mask.status(&ended.processed.status),
                since: ended.stored,
            };
            newest.note(ended.processed.outcome, problem);
        })
        .await?;
        Ok(View { status, findings, problems: newest.problems() })
    }

    /// Returns the portal's zone, which its watermarks are in.
    pub fn zone(&self) -> Zone {
        let watermark = self.status.contacts.watermark.or(self.status.deals.watermark);
        watermark.map_or(Zone::UTC, |watermark| Zone::of(&watermark))
    }

    /// Returns the codes of all problems with the number of records that have them, the most frequent first.
    pub fn codes(&self, entity: Option<Entity>) -> Vec<(&str, usize)> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for problem in
            self.problems.iter().filter(|problem| entity.is_none_or(|of| problem.record.entity == of))
        {
            problem.codes.iter().for_each(|code| *counts.entry(code).or_default() += 1);
        }
        let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }
}

/// The newest outcome of each record.
#[derive(Default)]
struct Newest(BTreeMap<RecordRef, ProblemRecord>);

impl Newest {
    fn note(&mut self, outcome: Outcome, problem: ProblemRecord) {
        match outcome {
            Outcome::Refused => {
                self.0.insert(problem.record, problem);
            }
            // A version that came too late says nothing about the record.
            Outcome::Superseded => {}
            _ => {
                self.0.remove(&problem.record);
            }
        }
    }

    fn problems(self) -> Vec<ProblemRecord> {
        let mut problems: Vec<ProblemRecord> = self.0.into_values().collect();
        problems.sort_by_key(|problem| (std::cmp::Reverse(problem.since), problem.record));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_outcome_of_a_record_counts() {
        let record = |text| RecordRef::parse(text).unwrap();
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let mut newest = Newest::default();
        let mut note = |text, outcome, code: &str, seconds| {
            let codes = BTreeSet::from([code.to_owned()]);
            let status = String::new();
            newest.note(outcome, ProblemRecord { record: record(text), codes, status, since: at(seconds) });
        };
        note("contact.1", Outcome::Refused, "phone.missing", 1);
        note("deal.2", Outcome::Refused, "contact.missing", 2);
        note("deal.2", Outcome::Superseded, "", 3);
        note("contact.1", Outcome::Updated, "", 4);
        let problems = newest.problems();
        assert_eq!(problems.len(), 1);
        assert_eq!((problems[0].record, problems[0].since), (record("deal.2"), at(2)));
    }
}
