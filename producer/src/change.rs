//! Whether a reading of a record is news. Pure.
//!
//! The stream holds what was last said about each record. Our own status write changes the modification time and the
//! status and nothing else, so such an echo says nothing new; a person who clears the status asks for another try.

use schemas::RecordRef;
use serde::{Deserialize, Serialize};

use crate::walk::Moment;

/// What the newest event about a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its sequence in the stream of raw records.
    pub sequence: u64,
    /// Digest of the content.
    pub fingerprint: String,
    /// Modification time of the reading.
    pub modified: Moment,
    /// Whether the status field was there and empty.
    pub status_was_empty: bool,
}

/// What was read now.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'r> {
    /// Digest of the content.
    pub fingerprint: &'r str,
    /// Modification time.
    pub modified: Moment,
    /// Whether the status field is there and empty.
    pub status_is_empty: bool,
}

/// Why a reading is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing was said about the record yet.
    First,
    /// The content is another.
    Changed,
    /// A person cleared the status, or touched the record before its status was written.
    Cleared,
}

/// Tells whether a reading is news.
pub fn news(known: Option<&Known>, seen: Seen<'_>) -> Option<News> {
    let Some(known) = known else { return Some(News::First) };
    if known.fingerprint != seen.fingerprint {
        return Some(News::Changed);
    }
    // Our own writes always leave a text, so an empty status is never an echo. The modification time tells two
    // clearings apart; the status does where it was cleared within the second of the last reading.
    let cleared = seen.status_is_empty && (known.modified != seen.modified || !known.status_was_empty);
    cleared.then_some(News::Cleared)
}

/// Characters of the fingerprint in a message id.
const ID_DIGITS: usize = 16;

/// Names the event for the stream's search for duplicates.
///
/// The sequence it follows stands in it: a record that goes from A to B and back to A is news both times.
pub fn message_id(
    record: RecordRef,
    known: Option<&Known>,
    seen: Seen<'_>,
    news: News,
    again: Option<u128>,
) -> String {
    let digest = seen.fingerprint.get(..ID_DIGITS).unwrap_or(seen.fingerprint);
    let follows = known.map_or(0, |known| known.sequence);
    let mut id = format!("{}:{}:{follows}:{digest}", record.entity, record.id);
    if news == News::Cleared {
        id.push_str(&format!(":{}", seen.modified.to_rfc3339()));
    }
    // The stream remembers ids of messages that were since purged; a name that was never used gets past that.
    if let Some(again) = again {
        id.push_str(&format!(":{again:032x}"));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::RecordId;

    fn at(second: u32) -> Moment {
        Moment::parse_from_rfc3339(&format!("2026-01-10T10:00:{second:02}+03:00")).unwrap()
    }

    fn known(fingerprint: &str, second: u32, status_was_empty: bool) -> Known {
        Known { sequence: 7, fingerprint: fingerprint.into(), modified: at(second), status_was_empty }
    }

    fn seen(fingerprint: &str, second: u32, status_is_empty: bool) -> Seen<'_> {
        Seen { fingerprint, modified: at(second), status_is_empty }
    }

    #[test]
    fn a_record_without_an_event_is_news() {
        assert_eq!(news(None, seen("a", 1, false)), Some(News::First));
    }

    #[test]
    fn the_echo_of_our_own_status_is_none() {
        assert_eq!(news(Some(&known("a", 1, true)), seen("a", 9, false)), None);
    }

    #[test]
    fn going_back_to_an_old_content_is_news_under_another_id() {
        let record = RecordRef::contact(RecordId::try_new(5).unwrap());
        let after_b = Known { sequence: 8, ..known("b", 2, false) };
        assert_eq!(news(Some(&after_b), seen("a", 3, false)), Some(News::Changed));
        let id = |known: Option<&Known>| message_id(record, known, seen("a", 3, false), News::Changed, None);
        assert_eq!(id(None), "contact:5:0:a");
        assert_eq!(id(Some(&after_b)), "contact:5:8:a");
    }

    #[test]
    fn an_edit_within_the_same_second_is_news() {
        assert_eq!(news(Some(&known("a", 1, false)), seen("b", 1, false)), Some(News::Changed));
    }

    #[test]
    fn a_status_cleared_by_hand_is_news_once() {
        assert_eq!(news(Some(&known("a", 1, true)), seen("a", 9, true)), Some(News::Cleared));
        assert_eq!(news(Some(&known("a", 9, true)), seen("a", 9, true)), None);
        assert_eq!(news(Some(&known("a", 9, false)), seen("a", 9, true)), Some(News::Cleared));
    }

    #[test]
    fn the_portal_moving_to_another_zone_is_no_news() {
        let moved = Seen { modified: at(9).with_timezone(&chrono::Utc).fixed_offset(), ..seen("a", 9, true) };
        assert_eq!(news(Some(&known("a", 9, true)), moved), None);
    }
}
