//! The state of one entity: may its statuses be written, and if not, until when. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::decide::SECOND_LOOK;
use crate::pace::{MOST_IN_FLIGHT, Pace, Patience};
use crate::round::{Report, Trouble};

/// Pause between probes of something that a person has to put right.
pub const MINUTE: Duration = Duration::from_secs(60);

/// First and longest pause after the portal was unwell; doubles in between.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = MINUTE;

/// What may be done for an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Its status field has to be looked at first, at this time.
    Check(Instant),
    /// One record may be written, to see whether statuses show.
    Trial,
    /// Everything may be written.
    Open,
}

/// What the log is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Somebody has to act.
    Alarm(String),
    /// It is over.
    Resumed,
    /// We went on regardless.
    Unwell(String),
}

/// One entity.
#[derive(Debug)]
pub struct Line {
    /// What may be done.
    pub gate: Gate,
    /// Size of its batches.
    pub pace: Pace,
    /// How long its batches wait to be filled.
    pub patience: Patience,
    /// Rounds under way.
    pub in_flight: usize,
    /// Its field is being looked at.
    pub is_checking: bool,
    /// Nothing is sent earlier.
    pub rest_until: Option<Instant>,
    /// When an update was last seen to stand. A look that finds a status proves nothing of updates.
    pub last_written: Option<Instant>,
    /// Messages that its consumer had not delivered when it delivered the newest one here.
    pub pending: u64,
    /// When records were last named as those over which the portal may fail.
    named: Option<Instant>,
    dribbled: Option<Instant>,
    setbacks: u32,
    unwell: u32,
    alarm: Option<String>,
}

impl Line {
    /// Starts with the field unseen.
    pub fn new(now: Instant) -> Line {
        Line {
            gate: Gate::Check(now),
            pace: Pace::default(),
            patience: Patience::default(),
            in_flight: 0,
            is_checking: false,
            rest_until: None,
            last_written: None,
            pending: 0,
            named: None,
            dribbled: None,
            setbacks: 0,
            unwell: 0,
            alarm: None,
        }
    }

    /// Tells whether updates showed up as they should, so that what does not is a record's own trouble.
    pub fn is_sound(&self) -> bool {
        self.gate == Gate::Open && self.setbacks == 0
    }

    /// Tells whether records may be named as those over which the portal may fail: in an outage those of one batch in ten minutes.
    pub fn may_name_suspects(&self, now: Instant, minute: Duration) -> bool {
        self.named.is_none_or(|named| self.last_written > Some(named) || now >= named + minute * 10)
    }

    /// Returns the number of rounds that may be under way at once.
    pub fn most_in_flight(&self) -> usize {
        match self.gate {
            Gate::Check(_) => 0,
            Gate::Trial => 1,
            // One place is left to the other entity, whatever these wait for.
            Gate::Open => self.pace.in_flight().min(MOST_IN_FLIGHT - 1),
        }
    }

    /// Returns the number of updates that the next round may have.
    pub fn most_updates(&self) -> usize {
        if self.gate == Gate::Open { self.pace.size() } else { 1 }
    }

    /// Tells whether a batch may go out that uses up the last of the computing time without being full.
    ///
    /// The portal gives time back by the minute: once a minute nothing is wasted, oftener would cost a
    /// request for every few updates.
    pub fn may_dribble(&mut self, now: Instant, minute: Duration) -> bool {
        let may = self.in_flight == 0 && self.dribbled.is_none_or(|last| now >= last + minute);
        if may {
            self.dribbled = Some(now);
        }
        may
    }

    /// Notes that the field is as it should be.
    pub fn note_field_usable(&mut self) -> Option<Word> {
        self.unwell = 0;
        if self.setbacks > 0 {
            // What the portal says about its fields was no help before: one record will tell.
            self.gate = Gate::Trial;
            return None;
        }
        self.gate = Gate::Open;
        self.clear_alarm()
    }

    /// Notes that the field cannot be used.
    pub fn note_field_unusable(&mut self, reason: String, now: Instant, minute: Duration) -> Option<Word> {
        self.setbacks = self.setbacks.max(1);
        self.gate = Gate::Check(now + minute);
        self.raise(reason)
    }

    /// Learns from a round; `pause` turns a pause of the portal's time into ours, with jitter.
    pub fn note_report(
        &mut self,
        report: &Report,
        now: Instant,
        pause: impl Fn(Duration) -> Duration,
    ) -> Option<Word> {
        if let Some((updates, seconds)) = report.measured {
            self.pace.note(updates, seconds);
        }
        if !report.suspects.is_empty() {
            self.named = Some(now);
        }
        if report.written > 0 {
            self.last_written = Some(now);
        }
        let unkept = report.no_field + report.other_text;
        let word = if report.kept > 0 {
            self.unwell = 0;
            self.note_kept()
        } else if unkept > 0 {
            self.note_unkept(report.no_field > 0, now, &pause)
        } else {
            None
        };
        match &report.trouble {
            Some(trouble) => self.note_trouble(trouble, now, pause).or(word),
            None => word,
        }
    }

    fn note_kept(&mut self) -> Option<Word> {
        self.setbacks = 0;
        if self.gate == Gate::Trial {
            self.gate = Gate::Open;
        }
        if self.gate == Gate::Open { self.clear_alarm() } else { None }
    }

    /// The first time the field is looked at at once, or the records once more; then a person has to look, unless it passes:
    /// lists may lag behind for a while, so the first pauses are short.
    fn note_unkept(
        &mut self,
        field_is_absent: bool,
        now: Instant,
        pause: impl Fn(Duration) -> Duration,
    ) -> Option<Word> {
        if self.setbacks > 0 && self.in_flight > 0 {
            // It began before the first of them told the same, as did those that are still under way: nothing new.
            return None;
        }
        self.setbacks += 1;
        if self.setbacks == 1 {
            self.gate = if field_is_absent { Gate::Check(now) } else { Gate::Trial };
            return None;
        }
        self.gate = Gate::Check(now + pause(doubled(SECOND_LOOK, self.setbacks - 2)));
        self.raise(if field_is_absent {
            "the portal confirms statuses, and its records have no such field: check the field's code, and \
             whether the webhook's employee may see it"
                .into()
        } else {
            "the portal confirms statuses, and its records show other texts: check who or what else writes \
             to the field, and whether the webhook's employee may change it"
                .into()
        })
    }

    /// Learns from what stands in the way of the whole entity.
    pub fn note_trouble(
        &mut self,
        trouble: &Trouble,
        now: Instant,
        pause: impl Fn(Duration) -> Duration,
    ) -> Option<Word> {
        match trouble {
            Trouble::Unwell { cut_off, reason } => {
                if let Some(updates) = cut_off.filter(|updates| *updates > 0) {
                    self.pace.note_cut_off(updates);
                }
                self.rest(now + pause(doubled(FIRST_PAUSE, self.unwell)));
                self.unwell = self.unwell.saturating_add(1);
                Some(Word::Unwell(reason.clone()))
            }
            Trouble::RateLimited(real) => {
                self.rest(now + *real);
                None
            }
            Trouble::OutOfOperating => {
                // The client knows until when, and tells by its capacity.
                self.rest(now + pause(FIRST_PAUSE));
                None
            }
            Trouble::Refused(_) => None,
            Trouble::NoRights(reason) => {
                self.rest(now + pause(MINUTE));
                self.setbacks = self.setbacks.max(1);
                self.gate = Gate::Check(now + pause(MINUTE));
                self.raise(format!("{reason}: let the webhook's employee change these records"))
            }
        }
    }

    /// Puts off what comes next.
    pub fn rest(&mut self, until: Instant) {
        self.rest_until = Some(self.rest_until.map_or(until, |known| known.max(until)));
    }

    fn raise(&mut self, reason: String) -> Option<Word> {
        if self.alarm.as_ref() == Some(&reason) {
            return None;
        }
        self.alarm = Some(reason.clone());
        Some(Word::Alarm(reason))
    }

    fn clear_alarm(&mut self) -> Option<Word> {
        self.alarm.take().map(|_| Word::Resumed)
    }
}

/// Doubles a pause so many times, up to [`LAST_PAUSE`].
fn doubled(first: Duration, times: u32) -> Duration {
    (first * 2_u32.pow(times.min(16))).min(LAST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Entity;

    fn report() -> Report {
        Report::new(Entity::Deal)
    }

    fn line(now: Instant) -> Line {
        let mut line = Line::new(now);
        assert_eq!(line.note_field_usable(), None);
        line
    }

    fn same(pause: Duration) -> Duration {
        pause
    }

    #[test]
    fn nothing_is_written_before_the_field_was_seen() {
        let now = Instant::now();
        let mut line = Line::new(now);
        assert_eq!(line.most_in_flight(), 0);
        let word = line.note_field_unusable("gone".into(), now, MINUTE);
        assert_eq!(word, Some(Word::Alarm("gone".into())));
        assert_eq!(line.gate, Gate::Check(now + MINUTE));
        assert_eq!(line.note_field_unusable("gone".into(), now, MINUTE), None);
    }

    #[test]
    fn an_outage_has_records_named_but_seldom() {
        let start = Instant::now();
        let mut line = line(start);
        let suspects = vec![schemas::RecordRef::deal(schemas::RecordId::try_new(1).unwrap())];
        assert!(line.may_name_suspects(start, MINUTE));
        line.note_report(&Report { suspects, ..report() }, start, same);
        assert!(!line.may_name_suspects(start + MINUTE * 9, MINUTE));
        assert!(line.may_name_suspects(start + MINUTE * 10, MINUTE));
        line.note_report(&Report { kept: 1, ..report() }, start + MINUTE, same);
        assert!(
            !line.may_name_suspects(start + MINUTE, MINUTE),
            "a look has found one, and updates may fail as before"
        );
        line.note_report(&Report { kept: 1, written: 1, ..report() }, start + MINUTE, same);
        assert!(line.may_name_suspects(start + MINUTE, MINUTE));
    }

    #[test]
    fn a_deleted_field_closes_the_gate_within_one_batch() {
        let now = Instant::now();
        let mut line = line(now);
        let word = line.note_report(&Report { no_field: 20, ..report() }, now, same);
        assert_eq!((word, line.gate), (None, Gate::Check(now)));
        assert!(matches!(line.note_field_unusable("gone".into(), now, MINUTE), Some(Word::Alarm(_))));
        assert_eq!(line.note_field_usable(), None);
        assert_eq!((line.gate, line.most_updates()), (Gate::Trial, 1));
        let word = line.note_report(&Report { kept: 1, ..report() }, now, same);
        assert_eq!((word, line.gate), (Some(Word::Resumed), Gate::Open));
    }

    #[test]
    fn texts_that_do_not_stay_are_looked_at_once_more_before_the_alarm() {
        let now = Instant::now();
        let mut line = line(now);
        let unkept = Report { other_text: 5, ..report() };
        assert_eq!(line.note_report(&unkept, now, same), None);
        assert_eq!(line.gate, Gate::Trial);
        assert!(matches!(line.note_report(&unkept, now, same), Some(Word::Alarm(_))));
        assert_eq!(line.gate, Gate::Check(now + SECOND_LOOK));
    }

    #[test]
    fn rounds_that_began_together_do_not_add_up() {
        let now = Instant::now();
        let mut line = line(now);
        let unkept = Report { other_text: 9, ..report() };
        for under_way in (1..6).rev() {
            line.in_flight = under_way;
            assert_eq!((line.note_report(&unkept, now, same), line.gate), (None, Gate::Trial));
        }
        line.in_flight = 0;
        assert!(matches!(line.note_report(&unkept, now, same), Some(Word::Alarm(_))));
        assert_eq!(line.gate, Gate::Check(now + SECOND_LOOK));
    }

    #[test]
    fn a_list_that_lags_for_seconds_costs_no_minute_and_a_field_that_keeps_nothing_is_tried_once_a_minute() {
        let now = Instant::now();
        let unkept = Report { no_field: 1, ..report() };
        let mut line = line(now);
        line.note_report(&unkept, now, same);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            line.note_report(&unkept, now, same);
            let Gate::Check(at) = line.gate else { panic!("{:?}", line.gate) };
            pauses.push((at - now).as_secs());
            assert_eq!((line.note_field_usable(), line.gate), (None, Gate::Trial));
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
        let looked_at = Report { kept: 1, other_text: 1, ..report() };
        assert_eq!(line.note_report(&looked_at, now, same), Some(Word::Resumed));
        assert!(line.is_sound());
    }

    #[test]
    fn one_record_that_does_not_keep_its_text_stops_nobody() {
        let now = Instant::now();
        let mut line = line(now);
        line.note_report(&Report { kept: 5, other_text: 1, ..report() }, now, same);
        assert!(line.is_sound());
    }

    #[test]
    fn the_last_of_the_computing_time_is_used_up_once_a_minute_and_alone() {
        let now = Instant::now();
        let mut line = line(now);
        line.in_flight = 1;
        assert!(!line.may_dribble(now, MINUTE));
        line.in_flight = 0;
        assert!(line.may_dribble(now, MINUTE));
        assert!(!line.may_dribble(now + MINUTE / 2, MINUTE));
        assert!(line.may_dribble(now + MINUTE, MINUTE));
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_end_with_success() {
        let now = Instant::now();
        let mut line = line(now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            line.rest_until = None;
            let trouble = Trouble::Unwell { cut_off: None, reason: String::new() };
            line.note_trouble(&trouble, now, same);
            pauses.push((line.rest_until.unwrap() - now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        line.note_report(&Report { kept: 1, ..report() }, now, same);
        assert_eq!(line.unwell, 0);
    }
}
