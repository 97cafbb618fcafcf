//! What disagrees about a record that is at rest. Pure: values in, findings out.

use schemas::problem::{SUCCESS, is_want_of_client, status_text};
use schemas::{Entity, Mapping, Outcome, RecordId, RecordRef};
use serde_json::{Value, json};

use super::fields::{Fields, differing};
use super::found::{Code, Found};

/// What today's mapping makes of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// otmechalka has to hold this.
    Held(Fields),
    /// Nothing in it concerns otmechalka.
    OutOfScope,
    /// A person has to correct it; this is the status.
    Refused(String),
}

impl Expected {
    /// Takes the mapping of a record.
    pub fn of(record: RecordRef, mapping: &Mapping) -> Expected {
        let body = match mapping {
            Mapping::Client(client) => json!(client),
            Mapping::Ticket(ticket) => json!(ticket),
            Mapping::OutOfScope => return Expected::OutOfScope,
            Mapping::Refused(problems) => return Expected::Refused(status_text(problems)),
        };
        let mut fields = match body {
            Value::Object(fields) => fields,
            _ => Fields::new(),
        };
        fields.insert("origin_id".to_owned(), json!(record.id));
        Expected::Held(fields)
    }
}

/// What was done about a record, as the streams or its status tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// otmechalka holds it.
    InOtmechalka,
    /// Nothing had to be done.
    OutOfScope,
    /// One of these two; only the status tells.
    Success,
    /// It was refused.
    Refused(By),
}

/// Who refused a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The mapping.
    Mapping,
    /// Nobody: its client was missing.
    WantOfClient,
    /// otmechalka.
    Otmechalka,
    /// Only the status tells that it was.
    Unknown,
}

impl Claim {
    /// Takes the newest result of a record.
    pub fn of_result(outcome: Outcome, codes: &[String]) -> Claim {
        let is_otmechalkas = |code: &String| code.starts_with("otmechalka.") || code == "client.limit";
        match outcome {
            Outcome::OutOfScope => Claim::OutOfScope,
            outcome if outcome.is_in_otmechalka() => Claim::InOtmechalka,
            _ if codes.iter().any(|code| is_want_of_client(code)) => Claim::Refused(By::WantOfClient),
            _ if codes.iter().any(is_otmechalkas) => Claim::Refused(By::Otmechalka),
            _ => Claim::Refused(By::Mapping),
        }
    }

    /// Takes the status of a record of which no result is kept any more.
    pub fn of_status(shown: &str) -> Claim {
        if same_text(shown, SUCCESS) { Claim::Success } else { Claim::Refused(By::Unknown) }
    }

    fn is_success(self) -> bool {
        !matches!(self, Claim::Refused(_))
    }
}

/// A record at rest.
#[derive(Clone, Debug)]
pub struct Case {
    /// The record.
    pub record: RecordRef,
    /// Its status field; none where it has no such field.
    pub shown: Option<String>,
    /// What today's mapping makes of it.
    pub expected: Expected,
    /// What was done about it.
    pub claim: Claim,
    /// The text that was written last; none where that is not kept any more.
    pub written: Option<String>,
    /// The streams remember that otmechalka got it, whatever came of it later.
    pub is_remembered: bool,
}

/// What otmechalka says about a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// It has none.
    Absent,
    /// It has this.
    Present(Fields),
}

impl Case {
    /// Returns the client that otmechalka has to be asked about besides.
    pub fn client_to_ask(&self, target: &Target) -> Option<RecordId> {
        if self.record.entity == Entity::Contact {
            return None;
        }
        match (&self.expected, target) {
            (_, Target::Present(ticket)) => client_of(ticket),
            (Expected::Held(ticket), Target::Absent) if self.claim == Claim::Refused(By::WantOfClient) => {
                client_of(ticket)
            }
            _ => None,
        }
    }

    /// Returns the contact that the deal names, as far as the mapping reads it.
    pub fn contact(&self) -> Option<RecordId> {
        match &self.expected {
            Expected::Held(ticket) => client_of(ticket),
            _ => None,
        }
    }
}

/// Returns the contact that a ticket belongs to.
pub fn client_of(ticket: &Fields) -> Option<RecordId> {
    RecordId::from_json(ticket.get("client_origin_id")?).ok()
}

/// Finds everything that disagrees. `has_client` tells whether otmechalka has [`Case::client_to_ask`].
///
/// A ticket that differs, or whose deal is refused, is a question here: [`super::ticket`] has the answer. So is what is
/// extra although the record concerns otmechalka, because it is refused: [`super::sent`] has that answer.
pub fn judge(case: &Case, target: &Target, has_client: Option<bool>) -> Vec<Found> {
    let mut found = about_holding(case, target, has_client);
    let about_status = about_status(case);
    if about_status.as_ref().is_some_and(|status| found.iter().all(|found| found.code != status.code)) {
        found.extend(about_status);
    }
    found
}

fn about_holding(case: &Case, target: &Target, has_client: Option<bool>) -> Vec<Found> {
    let find = |code| Some(Found::new(case.record, code));
    let found = match (&case.expected, target) {
        (Expected::Held(_), Target::Absent) => match case.claim {
            Claim::InOtmechalka | Claim::Success => find(Code::Missing),
            Claim::OutOfScope | Claim::Refused(By::Mapping) => find(Code::Outdated),
            Claim::Refused(By::WantOfClient) if has_client == Some(true) => find(Code::Outdated),
            // Sent again it would be refused again.
            Claim::Refused(_) if case.is_remembered => find(Code::Missing).map(Found::by_hand),
            Claim::Refused(_) => None,
        },
        (Expected::Held(expected), Target::Present(actual)) => {
            about_fields(case, differing(expected, actual), client_of(actual), has_client)
        }
        (Expected::OutOfScope, target) => match (case.claim, target) {
            (Claim::Refused(_), _) => find(Code::Outdated),
            (Claim::InOtmechalka, _) if case.record.entity == Entity::Contact => find(Code::Outdated),
            (_, Target::Present(_)) => find(Code::Extra),
            _ => None,
        },
        (Expected::Refused(text), target) => return about_refused(case, text, target, has_client),
    };
    found.into_iter().collect()
}

fn about_fields(
    case: &Case,
    differing: Vec<String>,
    client: Option<RecordId>,
    has_client: Option<bool>,
) -> Option<Found> {
    let find = |code| Some(Found::new(case.record, code));
    if case.record.entity == Entity::Deal {
        return match (has_client, client) {
            (Some(false), Some(client)) => find(Code::NoClient).map(|found| found.about(client)),
            _ if !case.claim.is_success() => find(Code::FalseError),
            _ if differing.is_empty() => None,
            _ => find(Code::TicketDiffers).map(|found| found.with_fields(differing)),
        };
    }
    match case.claim {
        Claim::OutOfScope | Claim::Refused(By::Mapping | By::WantOfClient) => find(Code::Outdated),
        Claim::Refused(_) if differing.is_empty() => find(Code::FalseError),
        // otmechalka refused this edit, so its client is to be as before.
        Claim::Refused(_) => find(Code::Extra),
        _ if differing.is_empty() => None,
        _ => find(Code::Differs).map(|found| found.with_fields(differing)),
    }
}

fn about_refused(case: &Case, text: &str, target: &Target, has_client: Option<bool>) -> Vec<Found> {
    let found = |code| Found::new(case.record, code);
    let (is_deal, is_success) = (case.record.entity == Entity::Deal, case.claim.is_success());
    let is_sent = case.is_remembered || matches!(case.claim, Claim::InOtmechalka | Claim::Success);
    let told = case.written.as_deref().or(case.shown.as_deref());
    let is_outdated = is_success || told.is_some_and(|told| !same_text(told, text));
    let there = match target {
        Target::Present(ticket) if is_deal && is_sent => Some(match (has_client, client_of(ticket)) {
            (Some(false), Some(client)) => found(Code::NoClient).about(client),
            _ => found(Code::TicketRefused),
        }),
        Target::Present(_) => Some(found(Code::Extra)),
        Target::Absent if is_deal && is_success && is_sent => Some(found(Code::Missing)),
        Target::Absent => case.is_remembered.then(|| found(Code::Missing).by_hand()),
    };
    // A deal that was a success is told by its ticket, or by the want of it.
    let is_told = is_deal && is_success && there.is_some();
    let outdated = (is_outdated && !is_told).then(|| found(Code::Outdated));
    outdated.into_iter().chain(there).collect()
}

fn about_status(case: &Case) -> Option<Found> {
    let (shown, written) = (case.shown.as_deref()?, case.written.as_deref()?);
    let code = match (same_text(shown, written), same_text(shown, SUCCESS), same_text(written, SUCCESS)) {
        (true, _, _) => return None,
        (_, true, _) => Code::FalseSuccess,
        (_, _, true) if !shown.trim().is_empty() => Code::FalseError,
        _ => Code::StatusDiffers,
    };
    Some(Found::new(case.record, code))
}

/// Tells whether two texts are the same to a reader: the portal trims, and has its own line ends.
fn same_text(left: &str, right: &str) -> bool {
    let plain = |text: &str| text.trim().replace("\r\n", "\n");
    plain(left) == plain(right)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
