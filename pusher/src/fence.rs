//! Keeps versions in order: what is not newer than what was settled is not done.

use schemas::problem::is_want_of_client;
use schemas::{Envelope, Outcome, RecordProcessed, Version};
use serde::{Deserialize, Serialize};

/// The newest result of a record, as far as the next version needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Sequence of the result in its stream.
    pub sequence: u64,
    raw_sequence: u64,
    redrive: u64,
    /// What came of the version.
    pub outcome: Outcome,
    /// Id in otmechalka, from this result or an earlier one.
    pub target_id: Option<String>,
    /// Digest of what otmechalka holds, from this result or an earlier one.
    pub body_digest: Option<String>,
    /// The version was refused because its client was missing.
    pub lacks_client: bool,
}

impl Settled {
    /// Takes what is needed out of a result; `None` where the result has no version.
    pub fn of(sequence: u64, envelope: &Envelope, processed: &RecordProcessed) -> Option<Settled> {
        let version = envelope.version?;
        Some(Settled {
            sequence,
            raw_sequence: version.raw_sequence,
            redrive: version.redrive,
            outcome: processed.outcome,
            target_id: processed.target_id.clone(),
            body_digest: processed.body_digest.clone(),
            lacks_client: processed.problems.iter().any(|problem| is_want_of_client(&problem.code)),
        })
    }

    /// Returns the version that was settled.
    pub fn version(&self) -> Version {
        Version { raw_sequence: self.raw_sequence, redrive: self.redrive }
    }

    /// Tells whether otmechalka holds the record, also where a later version of it was refused.
    pub fn is_in_otmechalka(&self) -> bool {
        self.outcome.is_in_otmechalka() || self.body_digest.is_some() || self.target_id.is_some()
    }
}

/// Where a version stands beside what was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing as new was settled: work on it.
    Newer,
    /// It is what was settled: a delivery that comes again.
    Settled,
    /// Something newer was settled: nothing may be done for it.
    Superseded,
}

/// Compares a version with the newest result of its record.
pub fn standing(version: Version, last: Option<&Settled>) -> Standing {
    match last.map(|last| version.cmp(&last.version())) {
        None | Some(std::cmp::Ordering::Greater) => Standing::Newer,
        Some(std::cmp::Ordering::Equal) => Standing::Settled,
        Some(std::cmp::Ordering::Less) => Standing::Superseded,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn settled(raw_sequence: u64, redrive: u64, outcome: Outcome) -> Settled {
        Settled {
            sequence: raw_sequence + 1_000,
            raw_sequence,
            redrive,
            outcome,
            target_id: None,
            body_digest: None,
            lacks_client: false,
        }
    }

    proptest! {
        /// Deliveries of three versions in any order, each any number of times, with the process killed
        /// between effect and result at any of them.
        #[test]
        fn any_order_and_repetition_of_deliveries_ends_in_the_newest_version(
            deliveries in prop::collection::vec((1u64..4, 0u64..2, any::<bool>()), 1..40)
        ) {
            let (mut applied, mut last) = (Vec::new(), None);
            for (raw_sequence, redrive, killed) in &deliveries {
                let version = Version { raw_sequence: *raw_sequence, redrive: *redrive };
                if standing(version, last.as_ref()) == Standing::Newer {
                    applied.push(version);
                    if !killed {
                        last = Some(settled(*raw_sequence, *redrive, Outcome::Updated));
                    }
                }
            }
            let settled_newest = deliveries.iter().filter(|d| !d.2).map(|d| (d.0, d.1)).max();
            let last = last.map(|last| (last.raw_sequence, last.redrive));
            // What was killed stays undelivered; what was settled never falls behind it.
            prop_assert!(last >= settled_newest);
        }

        #[test]
        fn nothing_is_applied_twice_once_it_is_settled(
            deliveries in prop::collection::vec((1u64..6, 0u64..3), 1..60)
        ) {
            let (mut applied, mut last) = (Vec::<Version>::new(), None);
            for (raw_sequence, redrive) in deliveries {
                let version = Version { raw_sequence, redrive };
                if standing(version, last.as_ref()) == Standing::Newer {
                    applied.push(version);
                    last = Some(settled(raw_sequence, redrive, Outcome::Updated));
                }
            }
            prop_assert!(applied.windows(2).all(|pair| pair[0] < pair[1]), "{applied:?}");
        }
    }

    #[test]
    fn a_refusal_does_not_forget_what_otmechalka_holds() {
        let mut last = settled(5, 0, Outcome::Refused);
        assert!(!last.is_in_otmechalka());
        last.body_digest = Some("ab".into());
        assert!(last.is_in_otmechalka());
    }
}
