//! Which records a replay is about. Pure.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use schemas::problem::catalogue;
use schemas::{Entity, Outcome, RecordRef};

use crate::ledger::Settled;
use crate::moment;

/// What a record must be like to be chosen; what is not set does not matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// It is one of these.
    pub records: BTreeSet<RecordRef>,
    /// It is of this entity.
    pub entity: Option<Entity>,
    /// It changed (or, where it is chosen by its outcome, ended) at this moment or later.
    pub since: Option<DateTime<Utc>>,
    /// The same, before this moment.
    pub until: Option<DateTime<Utc>>,
    /// One of its raw versions has this sequence or a higher one.
    pub from_sequence: Option<u64>,
    /// The same, this sequence or a lower one.
    pub to_sequence: Option<u64>,
    /// Its newest outcome is this.
    pub outcome: Option<Outcome>,
    /// Its newest outcome has this among its reasons.
    pub reason: Option<String>,
}

impl Choice {
    /// Tells whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Choice::default()
    }

    /// Tells whether nothing can be between its bounds.
    pub fn is_contradictory(&self) -> bool {
        let is_empty_time = self.since.zip(self.until).is_some_and(|(since, until)| since >= until);
        is_empty_time || self.from_sequence.zip(self.to_sequence).is_some_and(|(from, to)| from > to)
    }

    /// Tells whether the newest outcomes decide.
    pub fn is_by_outcome(&self) -> bool {
        self.outcome.is_some() || self.reason.is_some()
    }

    /// Returns the ends of the subjects of what may be chosen.
    pub fn tails(&self) -> Vec<String> {
        if !self.records.is_empty() {
            return crate::ledger::tails(&self.records);
        }
        let entities =
            Entity::ALL.into_iter().filter(|entity| self.entity.is_none_or(|only| only == *entity));
        entities.map(crate::ledger::entity_tail).collect()
    }

    /// Tells whether a raw version makes its record one of the chosen.
    pub fn takes_raw(&self, record: RecordRef, sequence: u64, stored: DateTime<Utc>) -> bool {
        let in_time = self.is_by_outcome() || self.is_in_time(stored);
        in_time
            && self.takes_record(record)
            && self.from_sequence.is_none_or(|from| sequence >= from)
            && self.to_sequence.is_none_or(|to| sequence <= to)
    }

    /// Tells whether the newest outcome of a record lets it be chosen.
    pub fn takes_outcome(&self, record: RecordRef, settled: &Settled) -> bool {
        self.takes_record(record)
            && self.is_in_time(settled.stored)
            && self.outcome.is_none_or(|outcome| outcome == settled.outcome)
            && self
                .reason
                .as_ref()
                .is_none_or(|reason| settled.problems.iter().any(|problem| problem.code == *reason))
    }

    fn takes_record(&self, record: RecordRef) -> bool {
        (self.records.is_empty() || self.records.contains(&record))
            && self.entity.is_none_or(|entity| entity == record.entity)
    }

    fn is_in_time(&self, moment: DateTime<Utc>) -> bool {
        self.since.is_none_or(|since| moment >= since) && self.until.is_none_or(|until| moment < until)
    }

    /// Writes the choice as arguments that mean the same at any time.
    pub fn arguments(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("--{name} {value}")));
        };
        for record in &self.records {
            add(record.entity.token(), Some(record.id.to_string()));
        }
        add("entity", self.entity.map(|entity| entity.token().to_owned()));
        add("since", self.since.map(moment::exact));
        add("until", self.until.map(moment::exact));
        add("from-sequence", self.from_sequence.map(|sequence| sequence.to_string()));
        add("to-sequence", self.to_sequence.map(|sequence| sequence.to_string()));
        add("outcome", self.outcome.map(word));
        add("reason", self.reason.clone());
        words.join(" ")
    }
}

/// Raw versions, read in their order: the newest of each record, and the records that are chosen by one of them.
#[derive(Debug, Default)]
pub struct Newest {
    newest: BTreeMap<RecordRef, u64>,
    chosen: BTreeSet<RecordRef>,
}

impl Newest {
    /// Takes note of a raw version.
    pub fn note(&mut self, choice: &Choice, record: RecordRef, sequence: u64, stored: DateTime<Utc>) {
        if choice.takes_raw(record, sequence, stored) {
            self.chosen.insert(record);
        }
        let newest = self.newest.entry(record).or_default();
        *newest = sequence.max(*newest);
    }

    /// Returns the chosen records with the sequence of their newest version: an older one would only be superseded.
    pub fn chosen(mut self) -> BTreeMap<RecordRef, u64> {
        self.newest.retain(|record, _| self.chosen.contains(record));
        self.newest
    }
}

/// Returns the name of an outcome.
pub fn word(outcome: Outcome) -> String {
    // Unit variants serialise to their name.
    let name = serde_json::to_value(outcome).ok();
    name.as_ref().and_then(|name| name.as_str()).unwrap_or_default().to_owned()
}

/// Reads the name of an outcome.
pub fn outcome(text: &str) -> Result<Outcome, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| {
        "one of created, updated, unchanged, already_there, out_of_scope, refused, superseded".to_owned()
    })
}

/// Reads the code of a problem: one that nothing is ever refused for would choose nothing, and look as if all were well.
pub fn reason(text: &str) -> Result<String, String> {
    let known: BTreeSet<String> = catalogue().into_iter().map(|example| example.problem.code).collect();
    if known.contains(text) {
        return Ok(text.to_owned());
    }
    let alike = text.split('.').next().unwrap_or_default();
    let alike: Vec<&str> =
        known.iter().map(String::as_str).filter(|code| code.split('.').next() == Some(alike)).collect();
    let hint = if alike.is_empty() { "docs/statuses.md has all".to_owned() } else { alike.join(", ") };
    Err(format!("nothing is ever refused for that; there are: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::{Problem, RecordId, Version};

    fn contact(id: u64) -> RecordRef {
        RecordRef::contact(RecordId::try_new(id).unwrap())
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_record_is_taken_by_any_of_its_versions_and_replayed_from_the_newest() {
        let choice = Choice { since: Some(at(10)), until: Some(at(20)), ..Choice::default() };
        let mut newest = Newest::default();
        for (id, sequence, seconds) in [(1, 1, 5), (2, 2, 10), (3, 3, 15), (2, 4, 25), (4, 5, 20)] {
            newest.note(&choice, contact(id), sequence, at(seconds));
        }
        assert_eq!(newest.chosen(), BTreeMap::from([(contact(2), 4), (contact(3), 3)]));
    }

    #[test]
    fn sequences_ids_and_entities_narrow_the_choice() {
        let choice = Choice { from_sequence: Some(2), to_sequence: Some(3), ..Choice::default() };
        let taken = |choice: &Choice, id, sequence| choice.takes_raw(contact(id), sequence, at(0));
        assert!(!choice.is_contradictory());
        assert!(Choice { to_sequence: Some(1), ..choice.clone() }.is_contradictory());
        assert!(Choice { since: Some(at(5)), until: Some(at(5)), ..choice.clone() }.is_contradictory());
        assert!(
            !taken(&choice, 1, 1) && taken(&choice, 1, 2) && taken(&choice, 1, 3) && !taken(&choice, 1, 4)
        );
        let choice = Choice { records: BTreeSet::from([contact(1)]), ..choice };
        assert!(taken(&choice, 1, 2) && !taken(&choice, 2, 2));
        assert_eq!(choice.tails(), ["contact.1"]);
        let deals = Choice { entity: Some(Entity::Deal), ..Choice::default() };
        assert!(!taken(&deals, 1, 2));
        assert_eq!(deals.tails(), ["deal.*"]);
    }

    #[test]
    fn the_newest_outcome_decides_where_one_is_asked_for() {
        let choice = Choice {
            outcome: Some(Outcome::Refused),
            reason: Some("branch.unknown".into()),
            since: Some(at(10)),
            ..Choice::default()
        };
        let settled = |outcome, code: &str, seconds| Settled {
            sequence: 1,
            stored: at(seconds),
            version: Version { raw_sequence: 1, redrive: 0 },
            outcome,
            problems: vec![Problem::new(code, "…")],
            is_in_otmechalka: false,
        };
        assert!(choice.takes_outcome(contact(1), &settled(Outcome::Refused, "branch.unknown", 10)));
        assert!(!choice.takes_outcome(contact(1), &settled(Outcome::Refused, "branch.unknown", 9)));
        assert!(!choice.takes_outcome(contact(1), &settled(Outcome::Refused, "phone.missing", 10)));
        assert!(!choice.takes_outcome(contact(1), &settled(Outcome::Created, "branch.unknown", 10)));
        // Then the time is that of the outcome.
        assert!(choice.takes_raw(contact(1), 1, at(0)));
    }

    #[test]
    fn a_reason_is_one_that_records_are_refused_for() {
        for code in ["phone.missing", "client.out_of_scope", "otmechalka.refused"] {
            assert_eq!(reason(code).as_deref(), Ok(code));
        }
        let told = reason("branch.unknown").unwrap_err();
        assert!(told.contains("branch.missing, branch."), "{told}");
        assert!(reason("nonsense").unwrap_err().contains("statuses.md"));
    }

    #[test]
    fn a_choice_is_written_as_the_arguments_that_make_it() {
        let choice = Choice {
            records: BTreeSet::from([contact(7)]),
            since: Some(at(0)),
            outcome: Some(Outcome::OutOfScope),
            ..Choice::default()
        };
        assert_eq!(choice.arguments(), "--contact 7 --since 2027-01-15T08:00:00Z --outcome out_of_scope");
        assert_eq!(outcome("out_of_scope"), Ok(Outcome::OutOfScope));
        assert!(outcome("rejected").is_err());
        assert!(Choice::default().is_empty());
    }
}
