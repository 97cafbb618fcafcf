//! What otmechalka said to a try, for whoever reads the story of a record.

use std::fmt;

use serde::Serialize;

/// What otmechalka answered to a try that it did not take: `update_client unavailable 503`.
///
/// Stands in the header `ce-answered` of what came of that try: of the same command when it waits and comes again,
/// and of the outcome of a refusal. Never otmechalka's own words, which may quote a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answered {
    /// The call: `get_client`, `create_client`, `update_client`, `get_ticket`, `create_ticket`.
    pub call: String,
    /// How it ended: `unavailable`, `timed_out`, `refused` and the like.
    pub kind: String,
    /// Status of the answer, where one came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

impl Answered {
    /// The header.
    pub const HEADER: &str = "ce-answered";

    /// Reads a header; `None` where it holds anything else, so that nothing else is ever shown.
    pub fn parse(header: &str) -> Option<Answered> {
        let is_token = |word: &&str| {
            word.len() <= 32 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        let mut words = header.split(' ');
        let call = words.next().filter(|word| !word.is_empty()).filter(is_token)?.to_owned();
        let kind = words.next().filter(|word| !word.is_empty()).filter(is_token)?.to_owned();
        let status = match words.next() {
            None => None,
            Some(status) => Some(status.parse().ok().filter(|status| (100..=599).contains(status))?),
        };
        words.next().is_none().then_some(Answered { call, kind, status })
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.call, self.kind)?;
        self.status.map_or(Ok(()), |status| write!(f, " {status}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        for status in [None, Some(503)] {
            let answered = Answered { call: "update_client".into(), kind: "timed_out".into(), status };
            assert_eq!(Answered::parse(&answered.to_string()), Some(answered));
        }
        for other in
            ["", "update_client", "update_client ", "a b 99", "a b 503 c", "a Анна", "a b c", "a  b", "A b"]
        {
            assert_eq!(Answered::parse(other), None, "{other}");
        }
    }
}
