//! Decides when everything that Bitrix24 has is where it belongs.

use chrono::{DateTime, TimeDelta, Utc};

use super::gauge::Snapshot;

/// A message that waits for longer than this is at rest: its record alone is sick, and nothing waits for it.
const SOON: TimeDelta = TimeDelta::seconds(35);

/// Polls of each entity that must have found nothing: the first may have begun before the last edit.
const QUIET_POLLS: u64 = 2;

/// Tells whether every stage has done all it was given.
///
/// A walk that is under way does not matter: after many statuses the overlap is read again for a while, and finds
/// nothing but their echo. What it did find would show in the raw log.
pub fn is_idle(snapshot: &Snapshot, now: DateTime<Utc>) -> bool {
    let nothing_undone =
        [snapshot.raw, snapshot.commands, snapshot.results].iter().all(|log| log.undone == 0);
    let parked = &snapshot.parked;
    let nothing_due = parked.count == 0 || parked.next.is_some_and(|next| next > now + SOON);
    nothing_undone && nothing_due
}

/// Watches snapshots go by.
#[derive(Default)]
pub struct CatchUp {
    quiet_since: Option<Quiet>,
}

#[derive(PartialEq, Eq)]
struct Quiet {
    newest: [u64; 3],
    polls: [u64; 2],
}

impl CatchUp {
    /// Tells whether this snapshot proves that everything has caught up.
    ///
    /// Proof are two more polls of each entity while all stages stay idle and no log grows. A walk that is under way
    /// disproves nothing: its poll counts once it is done, and after a first sync every poll walks our own statuses.
    pub fn is_proved_by(&mut self, snapshot: &Snapshot, now: DateTime<Utc>) -> bool {
        let newest = [snapshot.raw.last, snapshot.commands.last, snapshot.results.last];
        let polls = [snapshot.contacts.polls, snapshot.deals.polls];
        if !is_idle(snapshot, now) {
            self.quiet_since = None;
            return false;
        }
        match &self.quiet_since {
            Some(quiet) if quiet.newest == newest => {
                polls.iter().zip(quiet.polls).all(|(polls, before)| *polls >= before + QUIET_POLLS)
            }
            _ => {
                self.quiet_since = Some(Quiet { newest, polls });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::gauge::Parked;

    fn snapshot(polls: u64) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.contacts.polls = polls;
        snapshot.deals.polls = polls;
        snapshot
    }

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
    }

    #[test]
    fn two_quiet_polls_of_both_entities_prove_it() {
        let mut catch_up = CatchUp::default();
        assert!(!catch_up.is_proved_by(&snapshot(5), now()));
        assert!(!catch_up.is_proved_by(&snapshot(6), now()));
        let mut uneven = snapshot(7);
        uneven.deals.polls = 6;
        uneven.deals.walking = Some(96_038);
        assert!(!catch_up.is_proved_by(&uneven, now()));
        assert!(catch_up.is_proved_by(&snapshot(7), now()));
    }

    #[test]
    fn anything_that_happens_in_between_starts_it_over() {
        for disturb in [
            |snapshot: &mut Snapshot| snapshot.raw.undone = 1,
            |snapshot: &mut Snapshot| snapshot.results.last = 9,
            |snapshot: &mut Snapshot| snapshot.parked.count = 1,
        ] {
            let mut catch_up = CatchUp::default();
            assert!(!catch_up.is_proved_by(&snapshot(5), now()));
            let mut disturbed = snapshot(6);
            disturb(&mut disturbed);
            assert!(!catch_up.is_proved_by(&disturbed, now()));
            assert!(!catch_up.is_proved_by(&snapshot(7), now()));
        }
    }

    #[test]
    fn reading_the_echo_again_is_no_disturbance() {
        let mut catch_up = CatchUp::default();
        assert!(!catch_up.is_proved_by(&snapshot(5), now()));
        let mut walking = snapshot(7);
        walking.contacts.walking = Some(50);
        assert!(catch_up.is_proved_by(&walking, now()));
    }

    #[test]
    fn a_record_that_waits_for_a_far_try_is_at_rest_and_a_near_one_is_not() {
        let mut waiting = snapshot(1);
        waiting.parked = Parked { count: 1, next: Some(now() + TimeDelta::seconds(5)), ..Parked::default() };
        assert!(!is_idle(&waiting, now()));
        waiting.parked.next = Some(now() + TimeDelta::seconds(90));
        assert!(is_idle(&waiting, now()));
        waiting.parked.next = None;
        assert!(!is_idle(&waiting, now()));
    }
}
