//! Whether polling missed a record. Pure.
//!
//! A poll sees what has a new modification time. It cannot see an import dated back, nor product rows or a seller that
//! changed without the deal. Reading every record once and comparing it with what was published last finds these.

use chrono::Duration;

use crate::change::{Known, Seen};
use crate::walk::Moment;

/// When a record was looked at, and how far polls had come by then.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Polls have seen for sure what was modified before this.
    pub polled_until: Moment,
    /// The portal's time when the answer that held the record began to be made.
    pub observed: Moment,
    /// How late a change may become readable.
    pub overlap: Duration,
}

/// Where a reading of a record stands beside the newest event about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The newest event says the same.
    Published,
    /// It is news, or may be, and the next poll sees it.
    LeftToPolls,
    /// No event about it is kept any more, and its status shows that there was one.
    Forgotten,
    /// It is news that no poll will ever see.
    Missed,
}

/// Compares a reading with what was published last.
///
/// `known` must have been looked up before the reading, or nothing may publish in between: a reading that is older
/// than the newest event would take the record back.
pub fn standing(known: Option<&Known>, seen: Seen<'_>, status_is_shown: bool, look: Look) -> Standing {
    let polled = seen.modified < look.polled_until;
    match known {
        Some(known) if known.fingerprint == seen.fingerprint => Standing::Published,
        _ if !polled => Standing::LeftToPolls,
        // Lists may come from a copy that lags behind: what was published may be what the copy does not have yet.
        Some(known) if known.modified > seen.modified && known.modified >= look.observed - look.overlap => {
            Standing::LeftToPolls
        }
        Some(_) => Standing::Missed,
        None if status_is_shown => Standing::Forgotten,
        None => Standing::Missed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Moment {
        chrono::DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap().fixed_offset()
    }

    const LOOK: fn() -> Look =
        || Look { polled_until: at(880), observed: at(1_002), overlap: Duration::seconds(120) };

    fn seen(fingerprint: &str, modified: i64) -> Seen<'_> {
        Seen { fingerprint, modified: at(modified), status_is_empty: false }
    }

    fn known(fingerprint: &str, modified: i64) -> Known {
        Known { sequence: 7, fingerprint: fingerprint.into(), modified: at(modified), status_was_empty: true }
    }

    #[test]
    fn an_import_dated_back_was_missed_and_a_fresh_record_was_not() {
        assert_eq!(standing(None, seen("a", 10), false, LOOK()), Standing::Missed);
        assert_eq!(standing(None, seen("a", 880), false, LOOK()), Standing::LeftToPolls);
        assert_eq!(standing(None, seen("a", 10), true, LOOK()), Standing::Forgotten);
    }

    #[test]
    fn another_content_under_an_old_time_was_missed() {
        assert_eq!(standing(Some(&known("a", 10)), seen("a", 10), true, LOOK()), Standing::Published);
        assert_eq!(standing(Some(&known("a", 10)), seen("b", 10), true, LOOK()), Standing::Missed);
        assert_eq!(standing(Some(&known("a", 500)), seen("b", 10), true, LOOK()), Standing::Missed);
        assert_eq!(standing(Some(&known("a", 10)), seen("b", 900), true, LOOK()), Standing::LeftToPolls);
    }

    #[test]
    fn a_list_that_lags_behind_takes_no_record_back() {
        assert_eq!(standing(Some(&known("b", 990)), seen("a", 10), true, LOOK()), Standing::LeftToPolls);
    }
}
