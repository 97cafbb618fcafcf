//! Tells whether the client of a ticket is still on its way through the pipeline.

use chrono::{DateTime, FixedOffset};

/// What the streams know about a contact that otmechalka does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traces {
    /// Newest version of the contact that was read from Bitrix24, unless it is so old or so dead that no
    /// result can follow it any more.
    pub raw_sequence: Option<u64>,
    /// Version that its newest result is about.
    pub settled_raw_sequence: Option<u64>,
    /// Everything of the contacts modified before this is read.
    pub contacts_read_until: Option<DateTime<FixedOffset>>,
}

/// Tells whether a result for the contact is still to come, or the contact itself is.
///
/// `deal_observed` is when the deal that names the contact was read. The contact was there by then, and is read by the time
/// the contacts are read that far, or it is none of those that are read at all. When the deal was modified would be too
/// early: a contact that is edited while the contacts are read lies behind what they are read until.
pub fn client_is_coming(traces: Traces, deal_observed: DateTime<FixedOffset>) -> bool {
    match (traces.raw_sequence, traces.settled_raw_sequence) {
        (Some(raw), Some(settled)) => settled < raw,
        (Some(_), None) => true,
        // It was read once, and its raw event is gone by age.
        (None, Some(_)) => false,
        (None, None) => traces.contacts_read_until.is_none_or(|read_until| read_until <= deal_observed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: u32) -> DateTime<FixedOffset> {
        DateTime::parse_from_rfc3339(&format!("2026-01-10T{hour:02}:00:00+03:00")).unwrap()
    }

    fn coming(raw: Option<u64>, settled: Option<u64>, read_until: Option<u32>) -> bool {
        let traces = Traces {
            raw_sequence: raw,
            settled_raw_sequence: settled,
            contacts_read_until: read_until.map(at),
        };
        client_is_coming(traces, at(12))
    }

    #[test]
    fn a_contact_without_a_result_for_its_newest_version_is_coming() {
        assert!(coming(Some(5), None, Some(23)));
        assert!(coming(Some(5), Some(4), Some(23)));
        assert!(!coming(Some(5), Some(5), Some(0)));
        assert!(!coming(Some(5), Some(6), None));
        assert!(!coming(None, Some(6), None));
    }

    #[test]
    fn a_contact_nobody_read_is_coming_until_the_contacts_are_read_past_the_deal() {
        assert!(coming(None, None, None));
        assert!(coming(None, None, Some(11)));
        assert!(coming(None, None, Some(12)), "the same moment may still hold it");
        assert!(!coming(None, None, Some(13)));
    }

    #[test]
    fn another_time_zone_is_the_same_moment() {
        let traces = Traces {
            raw_sequence: None,
            settled_raw_sequence: None,
            contacts_read_until: Some(DateTime::parse_from_rfc3339("2026-01-10T10:30:00Z").unwrap()),
        };
        assert!(!client_is_coming(traces, at(12)));
    }
}
