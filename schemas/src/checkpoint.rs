//! How far an entity was read: written by the producer, read by the pusher and by operators.

use chrono::{DateTime, FixedOffset};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far one entity was read from Bitrix24. Stored under the entity's token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checkpoint {
    /// Everything modified before this portal time is published.
    pub watermark: DateTime<FixedOffset>,
    /// The walk that is under way, if any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window: Option<Window>,
    /// Polls completed since the bucket was made; tells a caller that another one has gone by.
    #[serde(default)]
    pub polls: u64,
    /// From there on the next poll that begins reads once more; another producer published late what it had read of that time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub again_from: Option<DateTime<FixedOffset>>,
    /// The poll that stored this, for whoever judges how old it is; none where an earlier version did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub poll: Option<Poll>,
}

/// A poll, as its checkpoint tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Poll {
    /// What the portal's clock showed.
    pub observed: DateTime<FixedOffset>,
    /// Seconds from one poll to the next.
    pub interval_seconds: u64,
    /// Everything modified before this is read, by the clock that `observed` is of; behind the watermark while that clock is.
    /// None where an earlier version stored it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub read_until: Option<DateTime<FixedOffset>>,
}

impl Checkpoint {
    /// Returns up to where everything was read for somebody who saw the portal's clock show `observed`.
    ///
    /// That is the watermark, unless the portal's clock was set back behind it: then what was observed since is compared with
    /// what was read since. Which of the two clocks `observed` is of shows by which of them it is nearer to.
    pub fn read_until(&self, observed: DateTime<FixedOffset>) -> DateTime<FixedOffset> {
        let since = self.poll.and_then(|poll| Some((poll.observed, poll.read_until?)));
        match since {
            Some((clock, read_until)) if read_until < self.watermark => {
                let is_of_old_clock = observed - clock > self.watermark - observed;
                if is_of_old_clock { self.watermark } else { read_until }
            }
            _ => self.watermark,
        }
    }
}

/// A frozen stretch of modification time `[from, until)` that is being walked by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// First modification time in it.
    pub from: DateTime<FixedOffset>,
    /// First modification time behind it.
    pub until: DateTime<FixedOffset>,
    /// Everything up to this id is published.
    pub cursor: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> DateTime<FixedOffset> {
        DateTime::from_timestamp(1_700_000_000 + 60 * minutes, 0).unwrap().fixed_offset()
    }

    fn polled(watermark: i64, clock: i64, read_until: Option<i64>) -> Checkpoint {
        let poll = Poll { observed: at(clock), interval_seconds: 60, read_until: read_until.map(at) };
        Checkpoint { watermark: at(watermark), window: None, polls: 1, again_from: None, poll: Some(poll) }
    }

    #[test]
    fn while_the_clock_is_behind_the_watermark_what_it_showed_is_compared_with_what_was_read_by_it() {
        let set_back = polled(60, 5, Some(4));
        assert_eq!(set_back.read_until(at(5)), at(4));
        assert_eq!(set_back.read_until(at(7)), at(4), "seen just after that poll");
        assert_eq!(set_back.read_until(at(59)), at(60), "seen before the clock was set back");
        assert_eq!(set_back.read_until(at(61)), at(60));
    }

    #[test]
    fn otherwise_it_is_the_watermark() {
        assert_eq!(polled(60, 61, Some(60)).read_until(at(5)), at(60));
        assert_eq!(polled(60, 5, None).read_until(at(5)), at(60), "an earlier version stored it");
        let without_poll = Checkpoint { poll: None, ..polled(60, 5, None) };
        assert_eq!(without_poll.read_until(at(5)), at(60));
    }
}
