//! How far an entity was read and what to ask for next. Pure: all times are the portal's and come in as arguments.
//!
//! A poll asks for everything modified since the watermark. If that is more than one answer holds, a window of
//! modification time is frozen and walked by id: a record that is edited meanwhile leaves the window and is in the
//! next one, so nothing is skipped, and equal seconds cannot be split.

use chrono::{DateTime, Duration, FixedOffset, Timelike};
use schemas::{Checkpoint, Window};

/// A moment by the portal's clock.
pub type Moment = DateTime<FixedOffset>;

/// The lengths of time that the walk needs.
#[derive(Clone, Copy, Debug)]
pub struct Spans {
    /// How long after its modification time a record may become readable without being late.
    pub lag: Duration,
    /// How far every poll reaches back behind the watermark, for what became readable late.
    pub overlap: Duration,
}

/// What to ask for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// First modification time wanted.
    pub from: Moment,
    /// First modification time not wanted; none before a window is frozen.
    pub until: Option<Moment>,
    /// Only ids above this one.
    pub after: u64,
}

/// What an answer tells besides its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The portal's time when the answer began to be made.
    pub observed: Moment,
    /// The id to go on behind; none where everything asked for was in the answer.
    pub next: Option<u64>,
}

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// To be stored once the rows are published.
    pub checkpoint: Checkpoint,
    /// Everything modified before this was read, where the poll ended here.
    pub read_until: Option<Moment>,
}

/// Says what to ask for.
///
/// `floor` lies below the watermark only while the portal's clock does.
pub fn question(spans: Spans, first: Moment, stored: Option<&Checkpoint>, floor: Option<Moment>) -> Question {
    let Some(checkpoint) = stored else { return Question { from: first, until: None, after: 0 } };
    if let Some(window) = &checkpoint.window {
        return Question { from: window.from, until: Some(window.until), after: window.cursor };
    }
    let usual = whole_second(checkpoint.watermark - spans.overlap);
    let from = match floor {
        Some(floor) if floor < checkpoint.watermark => {
            whole_second(floor - spans.overlap).max(first.min(usual))
        }
        _ => usual,
    };
    Question { from, until: None, after: 0 }
}

/// Says what to store once the rows of an answer are published.
///
/// `ceiling` is how far the records that these depend on are published: nothing at or behind it counts as read.
pub fn advance(
    spans: Spans,
    first: Moment,
    stored: Option<&Checkpoint>,
    question: Question,
    answered: Answered,
    ceiling: Option<Moment>,
) -> Step {
    let (watermark, polls) = stored.map_or((first, 0), |checkpoint| (checkpoint.watermark, checkpoint.polls));
    let readable = whole_second(answered.observed - spans.lag);
    let readable = ceiling.map_or(readable, |ceiling| readable.min(ceiling));
    let until = question.until.unwrap_or(readable);
    if let Some(cursor) = answered.next {
        // Where everything lies ahead of a clock that was set back, or of what others have to come before, that is walked. It
        // counts as read only when it is read again, once the clock is there.
        let until = if question.from < until { until } else { question.from + AHEAD };
        let window = Some(Window { from: question.from, until, cursor });
        return Step {
            checkpoint: Checkpoint { watermark, window, polls, again_from: None, poll: None },
            read_until: None,
        };
    }
    // What lay ahead was walked, and nothing before it.
    let until = if until == question.from + AHEAD { question.from } else { until };
    let until = until.min(readable);
    let watermark = watermark.max(until);
    Step {
        checkpoint: Checkpoint { watermark, window: None, polls: polls + 1, again_from: None, poll: None },
        read_until: Some(until),
    }
}

/// Tells whether a clock that showed one moment and later another was set back meanwhile, by more than the small steps of one
/// that is being disciplined.
pub fn is_set_back(spans: Spans, before: Moment, after: Moment) -> bool {
    after + spans.overlap / 2 < before
}

/// Tells whether a record may be published although others have to come before it.
///
/// What lies far ahead of the portal's clock was edited before that was set back. The records it depends on are older,
/// and have been read; their watermark would stand below it for as long as the clock takes to catch up.
pub fn is_publishable(spans: Spans, modified: Moment, ceiling: Option<Moment>, observed: Moment) -> bool {
    ceiling.is_none_or(|ceiling| modified < ceiling || modified > observed + spans.overlap)
}

/// Cuts fractions off: the portal's times have none, and a filter is exact to the second.
pub fn whole_second(moment: Moment) -> Moment {
    moment.with_nanosecond(0).unwrap_or(moment)
}

/// How far ahead of a clock that was set back records are walked.
const AHEAD: Duration = Duration::days(366);

/// How far back the portal's clock may have gone while nobody looked.
pub const UNKNOWN_GAP: Duration = Duration::hours(24);

/// What to make of the portal's clock after a poll that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Where to ask from instead of the watermark.
    pub floor: Option<Moment>,
    /// The clock was found to have gone back: what was edited since then has not been asked for yet.
    pub went_back: bool,
}

/// What a poll that ended saw of the portal's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The portal's time when its last answer began to be made.
    pub observed: Moment,
    /// Everything modified before this was read by it.
    pub read_until: Moment,
    /// What is stored as read.
    pub watermark: Moment,
}

/// Follows a portal clock that was set back behind the watermark.
///
/// The watermark stays. What is edited meanwhile carries times below it, so polls reach down to where the clock
/// stood when it was last looked at; `since_last_poll` bounds how long ago it was set back.
pub fn follow_clock(
    spans: Spans,
    floor: Option<Moment>,
    looked: Looked,
    since_last_poll: Option<Duration>,
) -> Clock {
    let Looked { observed, read_until, watermark } = looked;
    // A walk that took long has read only until its window's end.
    let readable = read_until.min(observed - spans.lag);
    // Half of the overlap covers the small steps of a clock that is being disciplined.
    if readable + spans.overlap / 2 >= watermark {
        return Clock { floor: None, went_back: false };
    }
    match floor {
        // Another jump back shows by the floor itself lying ahead of the clock.
        Some(floor) if readable + spans.overlap / 2 >= floor => {
            Clock { floor: Some(readable), went_back: false }
        }
        _ => Clock { floor: Some(readable - since_last_poll.unwrap_or(UNKNOWN_GAP)), went_back: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPANS: Spans = Spans { lag: Duration::seconds(2), overlap: Duration::seconds(120) };

    fn at(seconds: i64) -> Moment {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap().fixed_offset()
    }

    fn polled(watermark: i64, polls: u64) -> Checkpoint {
        Checkpoint { watermark: at(watermark), window: None, polls, again_from: None, poll: None }
    }

    fn ask(stored: Option<&Checkpoint>) -> Question {
        question(SPANS, at(0), stored, None)
    }

    fn answer(stored: Option<&Checkpoint>, observed: i64, next: Option<u64>) -> Step {
        advance(SPANS, at(0), stored, ask(stored), Answered { observed: at(observed), next }, None)
    }

    #[test]
    fn the_first_poll_begins_at_the_configured_time_and_later_ones_overlap() {
        assert_eq!(ask(None), Question { from: at(0), until: None, after: 0 });
        assert_eq!(ask(Some(&polled(1_000, 1))), Question { from: at(880), until: None, after: 0 });
    }

    #[test]
    fn a_page_that_is_not_full_ends_the_poll() {
        let step = answer(Some(&polled(1_000, 4)), 1_060, None);
        assert_eq!(step, Step { checkpoint: polled(1_058, 5), read_until: Some(at(1_058)) });
    }

    #[test]
    fn a_full_page_freezes_a_window_that_is_walked_to_its_end() {
        let opened = answer(Some(&polled(1_000, 4)), 1_060, Some(77)).checkpoint;
        let window = Window { from: at(880), until: at(1_058), cursor: 77 };
        assert_eq!(
            opened,
            Checkpoint { watermark: at(1_000), window: Some(window), polls: 4, again_from: None, poll: None }
        );

        let further = answer(Some(&opened), 1_090, Some(99)).checkpoint;
        assert_eq!(ask(Some(&further)), Question { from: at(880), until: Some(at(1_058)), after: 99 });
        assert_eq!(answer(Some(&further), 1_200, None).checkpoint, polled(1_058, 5));
    }

    #[test]
    fn the_watermark_never_moves_back() {
        let step = answer(Some(&polled(1_000, 4)), 400, None);
        assert_eq!(step.checkpoint, polled(1_000, 5));
        assert_eq!(step.read_until, Some(at(398)));
        // A full page of records that all lie ahead of the clock is walked, and moves nothing.
        let walking = answer(Some(&polled(1_000, 4)), 400, Some(9)).checkpoint;
        assert_eq!(walking.window.as_ref().map(|window| (window.from, window.cursor)), Some((at(880), 9)));
        assert_eq!(
            answer(Some(&walking), 410, None),
            Step { checkpoint: polled(1_000, 5), read_until: Some(at(408)) }
        );
        // The clock is set forward again meanwhile: what was edited behind the cursor is not read.
        assert_eq!(
            answer(Some(&walking), 1_300, None),
            Step { checkpoint: polled(1_000, 5), read_until: Some(at(880)) }
        );
    }

    #[test]
    fn dependent_records_count_as_read_only_up_to_what_they_depend_on() {
        let stored = polled(1_000, 4);
        let step = |next, ceiling| {
            let answered = Answered { observed: at(1_060), next };
            advance(SPANS, at(0), Some(&stored), ask(Some(&stored)), answered, Some(at(ceiling))).checkpoint
        };
        assert_eq!(step(None, 1_020), polled(1_020, 5));
        assert_eq!(step(None, 1_500), polled(1_058, 5));
        assert_eq!(step(Some(5), 1_020).window.map(|window| window.until), Some(at(1_020)));
        assert_eq!(step(None, 900), polled(1_000, 5));
    }

    #[test]
    fn a_clock_set_back_an_hour_is_followed_from_where_it_was_last_seen() {
        let watermark = at(10_000);
        let since = Some(Duration::seconds(60));
        let looked =
            |observed, read_until| Looked { observed: at(observed), read_until: at(read_until), watermark };
        let found = follow_clock(SPANS, None, looked(6_460, 6_458), since);
        assert_eq!(found, Clock { floor: Some(at(9_998 - 3_600)), went_back: true });
        let asked = question(SPANS, at(0), Some(&polled(10_000, 1)), found.floor);
        assert_eq!(asked.from, at(9_878 - 3_600));

        let later = follow_clock(SPANS, found.floor, looked(6_520, 6_518), since);
        assert_eq!(later, Clock { floor: Some(at(6_518)), went_back: false });
        let walked = follow_clock(SPANS, later.floor, looked(6_900, 6_578), since);
        assert_eq!(walked.floor, Some(at(6_578)), "what was edited during the walk is not read yet");
        let walked = follow_clock(SPANS, later.floor, looked(10_002, 6_578), since);
        assert_eq!(walked.floor, Some(at(6_578)), "nor when the clock has caught up meanwhile");
        let caught_up = follow_clock(SPANS, later.floor, looked(10_002, 10_000), since);
        assert_eq!(caught_up, Clock { floor: None, went_back: false });
        // The window of this walk was opened before the clock was set back.
        let walked = follow_clock(SPANS, None, looked(6_460, 10_000), since);
        assert_eq!(walked, found);
    }

    #[test]
    fn what_was_edited_before_the_clock_was_set_back_waits_for_nobody() {
        let may_go = |modified, observed| is_publishable(SPANS, at(modified), Some(at(1_000)), at(observed));
        assert!(may_go(999, 1_002) && !may_go(1_000, 1_002) && !may_go(1_030, 970));
        assert!(may_go(1_000, 1_000 - 3_600));
        assert!(is_publishable(SPANS, at(1_000), None, at(0)));
    }

    #[test]
    fn a_clock_corrected_by_some_seconds_needs_nothing() {
        let looked = Looked { observed: at(972), read_until: at(970), watermark: at(1_000) };
        let clock = follow_clock(SPANS, None, looked, Some(Duration::seconds(60)));
        assert_eq!(clock, Clock { floor: None, went_back: false });
    }

    #[test]
    fn a_first_watermark_in_the_future_is_not_undercut() {
        let future = at(50_000);
        let stored = Checkpoint { watermark: future, window: None, polls: 1, again_from: None, poll: None };
        let looked = Looked { observed: at(12), read_until: at(10), watermark: future };
        let clock = follow_clock(SPANS, None, looked, None);
        assert_eq!(question(SPANS, future, Some(&stored), clock.floor).from, at(49_880));
    }
}
