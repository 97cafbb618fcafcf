//! How otmechalka is doing, judged from its answers: a sick record is told from a sick otmechalka.
//!
//! Values in, decisions out; the time is an argument. `gate` keeps the one instance of a process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use otmechalka::Call;
use schemas::RecordRef;
use tokio::time::Instant;

use crate::pause::Pauses;

/// Different records whose calls fail with no write succeeding in between, from which on otmechalka
/// itself is taken to be sick. Two may be coincidence.
pub const OUTAGE_RECORDS: usize = 3;

/// Calls about records that were forbidden and are remembered, at most. A refused token forbids one a minute.
const MOST_FORBIDDEN: usize = 64;

/// What a call was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A lookup.
    Read,
    /// A create or an update.
    Write,
}

/// Why nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Not even a lookup works.
    Down,
    /// Lookups work, writes of several records fail.
    WritesFail,
    /// The token is refused.
    Refuses {
        /// By a write; lookups may still pass then.
        on: Kind,
    },
    /// It asked for a pause.
    Throttled,
}

/// Whether a worker may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Go,
    /// It may, alone; what it meets decides for all.
    Trial(Why),
    /// Not before this time, or not before something changes.
    Wait(Option<Instant>),
}

/// What a failed call says once a cheap lookup has worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagnosis {
    /// The record alone is concerned.
    SickRecord,
    /// Others are concerned too.
    Outage,
}

/// How otmechalka is doing.
#[derive(Debug)]
pub struct FarSide {
    pauses: Pauses,
    closed: Option<Closed>,
    on_trial: bool,
    /// Workers in line with what never failed nor was put aside.
    fresh: usize,
    /// Trials in vain since anything worked.
    tries: u64,
    /// Records that failed since the last write that worked; never more than [`OUTAGE_RECORDS`].
    failing: BTreeSet<RecordRef>,
    /// What was forbidden for which record, and when that was first; never more than [`MOST_FORBIDDEN`].
    forbidden: BTreeMap<(RecordRef, Call), Instant>,
    /// When each call last worked.
    permitted: BTreeMap<Call, Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Closed {
    why: Why,
    until: Instant,
}

/// Whose trouble a forbidden call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Nothing speaks against the token's.
    Everybodys,
    /// Writes have worked since it was forbidden first, but not this call: the token is good, perhaps not for this.
    Unproven,
    /// The same call has worked for others since it was forbidden first.
    Own,
}

impl Kind {
    /// Returns the kind of a call.
    pub fn of(call: Call) -> Kind {
        if call.is_write() { Kind::Write } else { Kind::Read }
    }
}

impl FarSide {
    /// Begins with the belief that it is well.
    pub fn new(pauses: Pauses) -> FarSide {
        FarSide {
            pauses,
            closed: None,
            on_trial: false,
            fresh: 0,
            tries: 0,
            failing: BTreeSet::new(),
            forbidden: BTreeMap::new(),
            permitted: BTreeMap::new(),
        }
    }

    /// Returns why nothing is sent, if so.
    pub fn closed_because(&self) -> Option<Why> {
        self.closed.map(|closed| closed.why)
    }

    /// Puts a worker in line whose command never failed nor was put aside; it has to leave by [`FarSide::leave_line`].
    pub fn join_line(&mut self) {
        self.fresh += 1;
    }

    /// Takes it out of the line.
    pub fn leave_line(&mut self) {
        self.fresh = self.fresh.saturating_sub(1);
    }

    /// Decides whether a worker may call. After [`Admission::Trial`] it has to end in [`FarSide::end_trial`].
    ///
    /// What failed before leaves a trial to who is in line with something `is_fresh`: it tells more of otmechalka.
    pub fn admit(&mut self, is_fresh: bool, now: Instant) -> Admission {
        match self.closed {
            None => Admission::Go,
            Some(closed) if now < closed.until => Admission::Wait(Some(closed.until)),
            Some(Closed { why: Why::Throttled, .. }) => {
                self.closed = None;
                Admission::Go
            }
            Some(_) if self.on_trial || (!is_fresh && self.fresh > 0) => Admission::Wait(None),
            Some(closed) => {
                self.on_trial = true;
                Admission::Trial(closed.why)
            }
        }
    }

    /// Ends a trial, however it went.
    pub fn end_trial(&mut self) {
        self.on_trial = false;
    }

    /// Notes an answer about a record, be it a refusal of that record: otmechalka works.
    pub fn answered(&mut self, kind: Kind) {
        if kind == Kind::Write {
            self.failing.clear();
        }
        let opens = match self.closed_because() {
            None => true,
            Some(Why::Throttled) => false,
            Some(Why::Down | Why::Refuses { on: Kind::Read }) => true,
            Some(Why::WritesFail | Why::Refuses { on: Kind::Write }) => kind == Kind::Write,
        };
        if opens {
            self.closed = None;
            self.tries = 0;
        }
    }

    /// Tells whether a record that failed first so long ago fails on its own.
    ///
    /// With few records about, an outage of the writes looks like a sick record until a write works that is
    /// another's, as its own would have settled it.
    pub fn took_others_within(&self, since_first_failure: Duration, now: Instant) -> bool {
        self.last_write().is_some_and(|worked| now - worked < since_first_failure)
    }

    /// Returns when a write last worked, which no refusal proves: a store that is read-only refuses just as well.
    fn last_write(&self) -> Option<Instant> {
        self.permitted.iter().filter(|(call, _)| call.is_write()).map(|(_, at)| *at).max()
    }

    /// Notes that a call about a record worked.
    pub fn permitted(&mut self, record: RecordRef, call: Call, now: Instant) {
        self.forbidden.remove(&(record, call));
        self.permitted.insert(call, now);
    }

    /// Notes that a call about a record was forbidden (403); tells whose trouble that is.
    pub fn forbidden(&mut self, record: RecordRef, call: Call, now: Instant) -> Whose {
        let key = (record, call);
        if self.forbidden.len() >= MOST_FORBIDDEN && !self.forbidden.contains_key(&key) {
            self.forbidden.clear();
        }
        let first = *self.forbidden.entry(key).or_insert(now);
        if self.permitted.get(&call).is_some_and(|worked| *worked > first) {
            Whose::Own
        } else if self.last_write().is_some_and(|worked| worked > first) {
            // Should the token end meanwhile, others are forbidden too.
            Whose::Unproven
        } else {
            Whose::Everybodys
        }
    }

    /// Notes a 429.
    pub fn throttled(&mut self, told: Option<Duration>, now: Instant) {
        let until = now + self.pauses.when_throttled(told);
        let closed = self.closed.get_or_insert(Closed { why: Why::Throttled, until });
        closed.until = closed.until.max(until);
    }

    /// Notes a 401 or 403.
    pub fn refused(&mut self, on: Kind, now: Instant) {
        let on = match self.closed_because() {
            // A lookup that passed the token proves nothing once a write did not.
            Some(Why::Refuses { on: Kind::Write }) => Kind::Write,
            _ => on,
        };
        self.closed = Some(Closed { why: Why::Refuses { on }, until: now + self.pauses.when_refused() });
    }

    /// Notes that another process is refused, or has the next try. Only a write that works proves the contrary here.
    pub fn refused_elsewhere(&mut self, until: Instant) {
        let on = Kind::Write;
        self.closed = Some(Closed { why: Why::Refuses { on }, until });
    }

    /// Notes that another process was let in again.
    pub fn taken_elsewhere(&mut self) {
        if matches!(self.closed_because(), Some(Why::Refuses { .. })) {
            self.closed = None;
            self.tries = 0;
        }
    }

    /// Notes that not even a lookup works. `told` is the pause it asked for.
    pub fn unreachable(&mut self, was_trial: bool, told: Option<Duration>, now: Instant, noise: f64) {
        if self.closed.is_some() && !was_trial {
            return;
        }
        self.close(Why::Down, told.unwrap_or_default(), now, noise);
    }

    /// Notes that a record failed while a cheap lookup works.
    pub fn failed_alone(
        &mut self,
        record: RecordRef,
        was_trial: bool,
        now: Instant,
        noise: f64,
    ) -> Diagnosis {
        if self.failing.len() < OUTAGE_RECORDS {
            self.failing.insert(record);
        }
        let outage = self.closed_because() == Some(Why::WritesFail) || self.failing.len() >= OUTAGE_RECORDS;
        if !outage {
            return Diagnosis::SickRecord;
        }
        if self.closed.is_none() || was_trial {
            self.close(Why::WritesFail, Duration::ZERO, now, noise);
        }
        Diagnosis::Outage
    }

    fn close(&mut self, why: Why, at_least: Duration, now: Instant, noise: f64) {
        let pause = self.pauses.for_outage(self.tries, noise).max(at_least);
        self.tries = self.tries.saturating_add(1);
        self.closed = Some(Closed { why, until: now + pause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use schemas::RecordId;

    fn record(id: u64) -> RecordRef {
        RecordRef::contact(RecordId::try_new(id).unwrap())
    }

    fn well() -> (FarSide, Instant) {
        (FarSide::new(Pauses::at_speed(1.0)), Instant::now())
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn down_holds_everybody_and_lets_one_try_after_a_growing_pause() {
        let (mut far_side, start) = well();
        assert_eq!(far_side.admit(true, start), Admission::Go);
        far_side.unreachable(false, None, start, 1.0);
        // Those that were under way fail as well: that is the same news.
        far_side.unreachable(false, None, start, 1.0);
        assert_eq!(far_side.admit(true, start), Admission::Wait(Some(start + seconds(1))));
        let later = start + seconds(1);
        assert_eq!(far_side.admit(true, later), Admission::Trial(Why::Down));
        assert_eq!(far_side.admit(true, later), Admission::Wait(None));
        far_side.unreachable(true, None, later, 1.0);
        far_side.end_trial();
        assert_eq!(far_side.admit(true, later), Admission::Wait(Some(later + seconds(2))));
        assert_eq!(far_side.admit(true, later + seconds(2)), Admission::Trial(Why::Down));
        far_side.answered(Kind::Read);
        far_side.end_trial();
        assert_eq!(far_side.admit(true, later + seconds(2)), Admission::Go);
    }

    #[test]
    fn the_pause_asked_for_with_a_503_is_kept() {
        let (mut far_side, start) = well();
        far_side.unreachable(false, Some(seconds(30)), start, 0.0);
        assert_eq!(far_side.admit(true, start), Admission::Wait(Some(start + seconds(30))));
    }

    #[test]
    fn three_records_that_fail_without_a_write_between_are_an_outage() {
        let (mut far_side, now) = well();
        for id in [1, 2, 1, 2] {
            assert_eq!(far_side.failed_alone(record(id), false, now, 0.5), Diagnosis::SickRecord);
        }
        far_side.answered(Kind::Write);
        for id in [3, 4] {
            assert_eq!(far_side.failed_alone(record(id), false, now, 0.5), Diagnosis::SickRecord);
        }
        assert_eq!(far_side.failed_alone(record(5), false, now, 0.5), Diagnosis::Outage);
        assert_eq!(far_side.closed_because(), Some(Why::WritesFail));
        far_side.answered(Kind::Read);
        assert_eq!(far_side.closed_because(), Some(Why::WritesFail), "lookups work all the time");
        far_side.answered(Kind::Write);
        assert_eq!(far_side.closed_because(), None);
        assert_eq!(far_side.failed_alone(record(6), false, now, 0.5), Diagnosis::SickRecord);
    }

    #[test]
    fn a_record_fails_on_its_own_only_once_another_write_worked() {
        let (mut far_side, start) = well();
        let (failed, now) = (start + seconds(1), start + seconds(3));
        let is_its_own = |far_side: &FarSide| far_side.took_others_within(now - failed, now);
        assert!(!is_its_own(&far_side));
        far_side.permitted(record(2), Call::CreateClient, start);
        far_side.answered(Kind::Write);
        assert!(!is_its_own(&far_side), "that was before, and a refusal proves nothing");
        far_side.permitted(record(2), Call::GetClient, failed + seconds(1));
        assert!(!is_its_own(&far_side), "a lookup is no write");
        far_side.permitted(record(2), Call::CreateClient, failed + seconds(1));
        far_side.permitted(record(2), Call::UpdateClient, start);
        assert!(is_its_own(&far_side));
    }

    #[test]
    fn what_is_forbidden_is_a_records_own_only_once_the_same_call_worked_for_another() {
        let (mut far_side, first) = well();
        let later = first + seconds(60);
        let create = Call::CreateClient;
        far_side.permitted(record(1), create, first);
        assert_eq!(far_side.forbidden(record(1), create, first), Whose::Everybodys);
        far_side.permitted(record(2), create, later);
        assert_eq!(far_side.forbidden(record(1), create, later), Whose::Own);
        assert_eq!(
            far_side.forbidden(record(2), create, later),
            Whose::Everybodys,
            "this may be the token's end"
        );
        far_side.permitted(record(1), create, later);
        assert_eq!(
            far_side.forbidden(record(1), create, later + seconds(1)),
            Whose::Everybodys,
            "what was is over"
        );
        for id in 3..100 {
            assert_eq!(far_side.forbidden(record(id), Call::GetClient, later), Whose::Everybodys);
        }
        assert!(far_side.forbidden.len() <= MOST_FORBIDDEN);
    }

    #[test]
    fn what_is_forbidden_holds_nobody_twice_while_other_writes_work() {
        let (mut far_side, start) = well();
        let [second, third] = [60, 120].map(|later| start + seconds(later));
        let create = Call::CreateClient;
        assert_eq!(far_side.forbidden(record(1), create, start), Whose::Everybodys);
        assert_eq!(
            far_side.forbidden(record(1), create, second),
            Whose::Everybodys,
            "nothing was written since"
        );
        far_side.permitted(record(2), Call::GetClient, third);
        assert_eq!(
            far_side.forbidden(record(1), create, second),
            Whose::Everybodys,
            "a lookup proves nothing"
        );
        far_side.permitted(record(2), Call::UpdateClient, third);
        assert_eq!(
            far_side.forbidden(record(1), create, third + seconds(1)),
            Whose::Unproven,
            "perhaps nobody may create"
        );
        assert_eq!(
            far_side.forbidden(record(1), create, third + seconds(2)),
            Whose::Unproven,
            "also the next time"
        );
        assert_eq!(far_side.forbidden(record(3), create, third + seconds(2)), Whose::Everybodys);
        far_side.permitted(record(2), create, third + seconds(3));
        assert_eq!(far_side.forbidden(record(1), create, third + seconds(4)), Whose::Own);
    }

    #[test]
    fn what_failed_before_leaves_the_trial_to_what_did_not() {
        let (mut far_side, start) = well();
        far_side.unreachable(false, None, start, 1.0);
        let later = start + seconds(1);
        far_side.join_line();
        far_side.join_line();
        assert_eq!(far_side.admit(false, later), Admission::Wait(None));
        assert_eq!(far_side.admit(true, later), Admission::Trial(Why::Down));
        far_side.leave_line();
        far_side.end_trial();
        assert_eq!(far_side.admit(false, later), Admission::Wait(None), "one is left in line");
        far_side.leave_line();
        assert_eq!(far_side.admit(false, later), Admission::Trial(Why::Down));
        far_side.answered(Kind::Write);
        far_side.end_trial();
        far_side.join_line();
        assert_eq!(far_side.admit(false, later), Admission::Go, "only trials are few");
    }

    #[test]
    fn a_refused_token_is_tried_once_a_minute() {
        let (mut far_side, start) = well();
        far_side.refused(Kind::Read, start);
        assert_eq!(far_side.admit(true, start + seconds(59)), Admission::Wait(Some(start + seconds(60))));
        let later = start + seconds(60);
        assert_eq!(far_side.admit(true, later), Admission::Trial(Why::Refuses { on: Kind::Read }));
        far_side.refused(Kind::Write, later);
        far_side.end_trial();
        assert_eq!(far_side.admit(true, later), Admission::Wait(Some(later + seconds(60))));
        far_side.answered(Kind::Read);
        assert_eq!(far_side.closed_because(), Some(Why::Refuses { on: Kind::Write }));
        far_side.answered(Kind::Write);
        assert_eq!(far_side.closed_because(), None);
    }

    #[test]
    fn what_another_process_learned_of_the_token_counts_here() {
        let (mut far_side, start) = well();
        far_side.refused_elsewhere(start + seconds(10));
        assert_eq!(far_side.admit(true, start), Admission::Wait(Some(start + seconds(10))));
        far_side.answered(Kind::Read);
        assert!(far_side.closed_because().is_some(), "a lookup proves nothing");
        far_side.taken_elsewhere();
        assert_eq!(far_side.admit(true, start), Admission::Go);
        far_side.unreachable(false, None, start, 1.0);
        far_side.taken_elsewhere();
        assert_eq!(far_side.closed_because(), Some(Why::Down), "that is another matter");
    }

    #[test]
    fn a_429_is_honoured_to_the_second_and_then_all_go() {
        let (mut far_side, start) = well();
        far_side.throttled(Some(seconds(7)), start);
        far_side.throttled(None, start);
        far_side.answered(Kind::Write);
        assert_eq!(far_side.admit(true, start), Admission::Wait(Some(start + seconds(7))));
        assert_eq!(far_side.admit(true, start + seconds(7)), Admission::Go);
        assert_eq!(far_side.admit(true, start + seconds(7)), Admission::Go);
    }

    proptest! {
        /// Whatever is answered in whatever order: it is never shut for longer than it may be, and never without
        /// somebody being let through in the end.
        #[test]
        fn it_is_never_shut_for_good(events in prop::collection::vec((0u8..7, 1u64..6), 0..80)) {
            let (mut far_side, mut now) = well();
            for (event, id) in events {
                let trial = matches!(far_side.admit(true, now), Admission::Trial(_));
                match event {
                    0 => far_side.answered(Kind::Read),
                    1 => far_side.answered(Kind::Write),
                    2 => far_side.throttled(Some(seconds(id)), now),
                    3 => far_side.refused(Kind::Read, now),
                    4 => far_side.unreachable(trial, None, now, 0.3),
                    5 => { far_side.failed_alone(record(id), trial, now, 0.3); }
                    _ => now += seconds(id),
                }
                if trial {
                    far_side.end_trial();
                }
                prop_assert!(far_side.failing.len() <= OUTAGE_RECORDS);
            }
            let later = now + seconds(60);
            prop_assert!(!matches!(far_side.admit(true, later), Admission::Wait(_)));
        }
    }
}
