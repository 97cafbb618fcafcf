//! What a wanted status calls for: values in, a decision out. No clock, no network.

use std::time::Duration;

use chrono::{DateTime, FixedOffset};
use schemas::{Envelope, Shown, StatusSettled, Version};

/// A text that a record's status field is to show, because of one version of the record.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The envelope of the outcome.
    pub envelope: Envelope,
    /// The version of the record.
    pub version: Version,
    /// The text.
    pub text: String,
    /// What the field showed when that version was read.
    pub shown: Shown,
}

/// The newest status that was settled for a record, as its stream tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// The version that it was settled for.
    pub version: Version,
    /// The text that the field held then.
    pub text: String,
    /// How it came to hold it.
    pub how: StatusSettled,
    /// Portal time of the proof.
    pub settled: DateTime<FixedOffset>,
}

/// What to do about a wanted status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This or a newer version is settled.
    Superseded,
    /// The field holds the text already, as was seen at this portal time.
    AlreadyShown(DateTime<FixedOffset>),
    /// It held the text at a time that seems to be later than the reading, which showed another: only a look tells.
    Look,
    /// The text has to be written.
    Write,
}

/// How much later than a write a reading must be to outrank it, in portal seconds.
///
/// A portal may answer lists from a copy that lags behind, so a reading soon after a write may show what
/// stood there before.
const READING_MARGIN_SECONDS: i64 = 60;

/// Portal time after which a look tells what became of a request that was given up here.
///
/// The portal goes on with it for a minute at most, and may answer the look from a copy that lags behind.
pub const LATEST_UPDATE: Duration = Duration::from_secs(80);

/// Portal time for which updates that did not show count for versions that they made themselves.
pub const REMEMBERED_UNKEPT: Duration = Duration::from_secs(3_600);

/// Decides about a wanted status, given the newest settled one.
pub fn decide(wanted: &Wanted, last: Option<&Settled>) -> Decision {
    let Some(last) = last else {
        return if shows(wanted.shown.status.as_deref(), &wanted.text) {
            Decision::AlreadyShown(wanted.shown.observed)
        } else {
            Decision::Write
        };
    };
    if last.version >= wanted.version {
        return Decision::Superseded;
    }
    let (reading, proof) = (wanted.shown.observed, last.settled);
    let by_reading = shows(wanted.shown.status.as_deref(), &wanted.text);
    // A record that came back from the bin shows whatever it likes.
    let by_proof = last.how != StatusSettled::RecordGone && same_text(&last.text, &wanted.text);
    let is_shown = if proof.timestamp() > reading.timestamp() {
        // Mostly the reading is the older one. It is the newer one where the portal's clock was set back in between, and
        // then a person may have cleared the text. A version for which a text was settled before was surely read before that.
        if by_proof && !by_reading && wanted.version.raw_sequence != last.version.raw_sequence {
            return Decision::Look;
        }
        by_proof
    } else if last.how == StatusSettled::RecordGone {
        by_reading && reading.timestamp() > proof.timestamp() + READING_MARGIN_SECONDS
    } else {
        // Where the portal's clock was set back in between, the reading is the older one: the text that it shows is wanted
        // again, and was written over since.
        by_proof && by_reading
    };
    if is_shown { Decision::AlreadyShown(reading.max(proof)) } else { Decision::Write }
}

/// What to do about a record that shows another text although the portal confirmed its updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unkept {
    /// The text is written again.
    Write,
    /// The list may lag behind the last update: it is looked at again after this portal time.
    LookAfter(Duration),
    /// Somebody else writes to it, or the portal drops what it confirms.
    GiveUp,
}

/// Portal time after which a record that showed something else is looked at again: lists may lag.
pub const SECOND_LOOK: Duration = Duration::from_secs(2);

/// Confirmed updates of one version that did not show, after which it is not written again.
const MOST_UNKEPT: u8 = 2;

/// Those of all versions in a row that want one text.
const MOST_UNKEPT_IN_ALL: u8 = 6;

/// Decides about a record that shows another text after `updates`, and `earlier` ones for older versions, `since` the
/// last of them in portal time.
///
/// A version may be there only because the update before moved the modification date, so tries for such versions become
/// rarer; a person may have cleared the text as well, so there are some. Looks cost little and tell nothing final as long as
/// the list may lag: the time since the update doubles from one to the next.
pub fn decide_unkept(updates: u8, earlier: u8, since: Duration) -> Unkept {
    let in_all = updates.saturating_add(earlier);
    let Some(beyond) = in_all.checked_sub(MOST_UNKEPT) else { return Unkept::Write };
    let margin = Duration::from_secs(READING_MARGIN_SECONDS.unsigned_abs());
    let pause = margin * 2_u32.pow(beyond.min(MOST_UNKEPT_IN_ALL - MOST_UNKEPT).into());
    match pause.checked_sub(since) {
        Some(left) if !left.is_zero() => Unkept::LookAfter(left.min(since.max(SECOND_LOOK))),
        _ if updates < MOST_UNKEPT && in_all < MOST_UNKEPT_IN_ALL => Unkept::Write,
        _ => Unkept::GiveUp,
    }
}

fn shows(shown: Option<&str>, wanted: &str) -> bool {
    shown.is_some_and(|shown| same_text(shown, wanted))
}

/// Tells whether two texts are the same to a reader: the portal trims, and has its own line ends.
pub fn same_text(left: &str, right: &str) -> bool {
    let plain = |text: &str| text.trim().replace("\r\n", "\n");
    left == right || plain(left) == plain(right)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use schemas::{RecordId, RecordRef};

    pub(crate) fn at(seconds: i64) -> DateTime<FixedOffset> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap().fixed_offset()
    }

    pub(crate) fn wanted(
        id: u64,
        raw_sequence: u64,
        text: &str,
        shown: Option<&str>,
        observed: i64,
    ) -> Wanted {
        let version = Version { raw_sequence, redrive: 0 };
        Wanted {
            envelope: Envelope {
                record: RecordRef::contact(RecordId::try_new(id).unwrap()),
                source: "/rollcall/pusher".into(),
                pupil: None,
                modified: at(0),
                fingerprint: "ab".into(),
                version: Some(version),
                attempt: 0,
            },
            version,
            text: text.into(),
            shown: Shown { status: shown.map(str::to_owned), observed: at(observed) },
        }
    }

    #[test]
    fn nobody_is_given_up_while_a_list_may_lag_behind_the_last_update() {
        let seconds = Duration::from_secs;
        assert_eq!(decide_unkept(1, 0, seconds(2)), Unkept::Write);
        let next = |since: &u64| match decide_unkept(2, 0, seconds(*since)) {
            Unkept::LookAfter(pause) => Some(since + pause.as_secs()),
            Unkept::Write | Unkept::GiveUp => None,
        };
        let looks: Vec<u64> = std::iter::successors(Some(0), next).collect();
        assert_eq!(looks, [0, 2, 4, 8, 16, 32, 60], "the first may already find it, the last must");
        assert_eq!(decide_unkept(2, 0, seconds(60)), Unkept::GiveUp);
        assert_eq!(decide_unkept(3, 0, seconds(900)), Unkept::GiveUp);
    }

    #[test]
    fn a_newer_version_that_wants_what_did_not_show_is_tried_less_often_and_not_for_ever() {
        let seconds = Duration::from_secs;
        assert_eq!(decide_unkept(0, 1, seconds(2)), Unkept::Write);
        assert_eq!(decide_unkept(0, 2, seconds(40)), Unkept::LookAfter(seconds(20)));
        assert_eq!(decide_unkept(0, 2, seconds(60)), Unkept::Write, "a person may have cleared it");
        assert_eq!(decide_unkept(0, 5, seconds(479)), Unkept::LookAfter(seconds(1)));
        assert_eq!(decide_unkept(0, 5, seconds(480)), Unkept::Write);
        assert_eq!(decide_unkept(0, 6, seconds(960)), Unkept::GiveUp);
        assert_eq!(decide_unkept(255, 255, seconds(960)), Unkept::GiveUp);
    }

    fn settled(raw_sequence: u64, text: &str, settled: i64) -> Settled {
        Settled {
            version: Version { raw_sequence, redrive: 0 },
            text: text.into(),
            how: StatusSettled::Written,
            settled: at(settled),
        }
    }

    #[test]
    fn nothing_settled_before_leaves_the_reading_to_decide() {
        assert_eq!(decide(&wanted(1, 5, "A", Some(""), 0), None), Decision::Write);
        assert_eq!(decide(&wanted(1, 5, "A", None, 0), None), Decision::Write);
        assert_eq!(decide(&wanted(1, 5, "A", Some("A"), 0), None), Decision::AlreadyShown(at(0)));
    }

    #[test]
    fn the_same_or_a_newer_version_is_never_settled_again() {
        for newest in [5, 6] {
            let last = settled(newest, "B", 10);
            assert_eq!(decide(&wanted(1, 5, "A", Some(""), 99), Some(&last)), Decision::Superseded);
        }
    }

    #[test]
    fn a_later_proof_outranks_the_reading() {
        let last = settled(4, "A", 10);
        assert_eq!(decide(&wanted(1, 5, "A", Some("A"), 9), Some(&last)), Decision::AlreadyShown(at(10)));
        let mut again = wanted(1, 4, "A", Some("old"), 9);
        again.version.redrive = 1;
        assert_eq!(decide(&again, Some(&last)), Decision::AlreadyShown(at(10)));
        assert_eq!(decide(&wanted(1, 5, "old", Some("old"), 9), Some(&last)), Decision::Write);
    }

    #[test]
    fn a_text_that_was_cleared_after_the_clock_was_set_back_is_looked_at() {
        let last = settled(4, "A", 10);
        let mut cleared = wanted(1, 5, "A", Some(""), 100 - 3_600);
        assert_eq!(decide(&cleared, Some(&last)), Decision::Look);
        cleared.version.redrive = 1;
        assert_eq!(decide(&cleared, Some(&last)), Decision::Look);
    }

    #[test]
    fn a_much_later_reading_outranks_the_proof() {
        let last = settled(4, "A", 10);
        assert_eq!(decide(&wanted(1, 5, "A", Some(""), 100), Some(&last)), Decision::Write);
    }

    #[test]
    fn a_text_that_was_read_before_the_clock_was_set_back_and_written_over_since_is_written() {
        let last = settled(4, "E", 10);
        let seemingly_later = 10 + 3_600;
        assert_eq!(decide(&wanted(1, 5, "A", Some("A"), seemingly_later), Some(&last)), Decision::Write);
    }

    #[test]
    fn in_doubt_it_is_written() {
        let last = settled(4, "A", 10);
        for observed in [10, 40] {
            assert_eq!(decide(&wanted(1, 5, "A", Some(""), observed), Some(&last)), Decision::Write);
            assert_eq!(decide(&wanted(1, 5, "B", Some("B"), observed), Some(&last)), Decision::Write);
            assert_eq!(
                decide(&wanted(1, 5, "A", Some("A"), observed), Some(&last)),
                Decision::AlreadyShown(at(observed))
            );
        }
    }

    #[test]
    fn a_record_that_was_gone_shows_nothing_known() {
        let mut last = settled(4, "A", 10);
        last.how = StatusSettled::RecordGone;
        assert_eq!(decide(&wanted(1, 5, "A", Some("x"), 9), Some(&last)), Decision::Write);
        assert_eq!(decide(&wanted(1, 5, "B", Some("B"), 40), Some(&last)), Decision::Write);
        assert_eq!(decide(&wanted(1, 5, "B", Some("B"), 100), Some(&last)), Decision::AlreadyShown(at(100)));
    }

    #[test]
    fn line_ends_and_outer_blanks_make_no_difference() {
        assert!(same_text("a\r\nb ", "a\nb"));
        assert!(!same_text("a b", "ab"));
    }
}
