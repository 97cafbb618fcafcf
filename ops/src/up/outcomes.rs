//! What came of the records, read from the stream of outcomes.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer::DeliverPolicy;
use runtime::Broker;
use schemas::{Entity, Outcome, RecordRef};
use serde::Serialize;

use crate::results;

/// What came of one record. Holds no personal data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// How its newest version ended.
    pub outcome: Outcome,
    /// Codes of what is wrong with it.
    pub problems: Vec<String>,
}

/// What came of each record.
#[derive(Clone, Debug, Default)]
pub struct Outcomes(BTreeMap<RecordRef, Ending>);

/// How the records of an entity ended, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Records.
    pub total: usize,
    /// Those that otmechalka holds.
    pub in_otmechalka: usize,
    /// Those that do not concern otmechalka.
    pub out_of_scope: usize,
    /// Those that a person has to correct.
    pub refused: usize,
}

impl Outcomes {
    /// Takes note of how a record ended.
    pub fn note(&mut self, record: RecordRef, ending: Ending) {
        // A version that came too late says nothing about the record.
        if ending.outcome != Outcome::Superseded {
            self.0.insert(record, ending);
        }
    }

    /// Counts the records of an entity.
    pub fn tally(&self, entity: Entity) -> Tally {
        let mut tally = Tally::default();
        for (_, ending) in self.0.iter().filter(|(record, _)| record.entity == entity) {
            tally.total += 1;
            match ending.outcome {
                outcome if outcome.is_in_otmechalka() => tally.in_otmechalka += 1,
                Outcome::OutOfScope => tally.out_of_scope += 1,
                _ => tally.refused += 1,
            }
        }
        tally
    }

    /// Returns a record of an entity that otmechalka holds, if there is one.
    pub fn any_in_otmechalka(&self, entity: Entity) -> Option<RecordRef> {
        let mut ours = self.0.iter().filter(|(record, _)| record.entity == entity);
        ours.find(|(_, ending)| ending.outcome.is_in_otmechalka()).map(|(record, _)| *record)
    }

    /// Counts the records that have each problem, the most frequent first.
    pub fn problems(&self) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for ending in self.0.values().filter(|ending| ending.outcome == Outcome::Refused) {
            let mut codes: Vec<&str> = ending.problems.iter().map(String::as_str).collect();
            codes.sort_unstable();
            codes.dedup();
            codes.into_iter().for_each(|code| *counts.entry(code).or_default() += 1);
        }
        let mut counts: Vec<_> = counts.into_iter().map(|(code, count)| (code.to_owned(), count)).collect();
        counts.sort_by(|(_, left), (_, right)| right.cmp(left));
        counts
    }
}

/// Reads the newest outcome of every record.
pub async fn read_newest(broker: &Broker) -> Result<Outcomes, String> {
    let mut outcomes = Outcomes::default();
    read(broker, DeliverPolicy::LastPerSubject, &mut outcomes).await?;
    Ok(outcomes)
}

/// Reads the outcomes from a sequence on.
pub async fn read_from(broker: &Broker, sequence: u64) -> Result<Outcomes, String> {
    let mut outcomes = Outcomes::default();
    read(broker, DeliverPolicy::ByStartSequence { start_sequence: sequence }, &mut outcomes).await?;
    Ok(outcomes)
}

async fn read(broker: &Broker, from: DeliverPolicy, into: &mut Outcomes) -> Result<(), String> {
    results::each(broker, from, |ended| {
        let problems = ended.processed.problems.into_iter().map(|problem| problem.code).collect();
        into.note(ended.record, Ending { outcome: ended.processed.outcome, problems });
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::RecordId;

    fn ended(outcome: Outcome, problems: &[&str]) -> Ending {
        Ending { outcome, problems: problems.iter().map(|code| (*code).to_owned()).collect() }
    }

    fn contact(id: u64) -> RecordRef {
        RecordRef::contact(RecordId::try_new(id).unwrap())
    }

    #[test]
    fn the_newest_ending_of_a_record_counts_and_a_superseded_version_does_not() {
        let mut outcomes = Outcomes::default();
        outcomes.note(contact(1), ended(Outcome::Refused, &["phone.missing"]));
        outcomes.note(contact(1), ended(Outcome::Created, &[]));
        outcomes.note(contact(1), ended(Outcome::Superseded, &[]));
        outcomes.note(contact(2), ended(Outcome::OutOfScope, &[]));
        outcomes
            .note(contact(3), ended(Outcome::Refused, &["phone.missing", "phone.missing", "email.invalid"]));
        outcomes.note(contact(4), ended(Outcome::Refused, &["email.invalid"]));
        let tally = outcomes.tally(Entity::Contact);
        assert_eq!(tally, Tally { total: 4, in_otmechalka: 1, out_of_scope: 1, refused: 2 });
        assert_eq!(outcomes.tally(Entity::Deal), Tally::default());
        assert_eq!(outcomes.any_in_otmechalka(Entity::Contact), Some(contact(1)));
        assert_eq!(outcomes.problems(), [("email.invalid".to_owned(), 2), ("phone.missing".to_owned(), 1)]);
    }
}
