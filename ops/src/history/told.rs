//! A record's story as a timeline.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use schemas::{Answered, Outcome, Problem, StatusSettled};
use serde_json::Value;

use super::Story;
use super::diff::Change;
use super::entry::{Entry, Made, What};
use crate::answer::{Answer, count, findings_text};
use crate::terminal::line;

/// Tells it.
pub fn text(answer: &Answer<Story>) -> String {
    let mut text = String::new();
    if answer.result.left_out > 0 {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "… {} older entries; --last N shows more", answer.result.left_out);
    }
    for entry in &answer.result.entries {
        let _ = writeln!(text, "{}  {:<12}  {}", moment(entry.at), version(entry), line(&what(&entry.what)));
        for detail in lines(&entry.what) {
            let _ = writeln!(text, "{:36}{}", "", line(&detail));
        }
    }
    format!("{text}{}{}", findings_text(&answer.findings), answer.summary)
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Writes a version as `12`, one that was sent again as `12.1`.
fn version(entry: &Entry) -> String {
    match (entry.raw_sequence, entry.redrive) {
        (None, _) => "-".to_owned(),
        (Some(raw_sequence), 0) => format!("version {raw_sequence}"),
        (Some(raw_sequence), redrive) => format!("version {raw_sequence}.{redrive}"),
    }
}

fn what(what: &What) -> String {
    match what {
        What::Read { modified, fields, is_first: true, .. } => {
            let modified = modified.to_rfc3339();
            let fields = count(*fields, "field");
            format!("read from Bitrix24, changed {modified}: first version that is kept, {fields}")
        }
        What::Read { modified, changes, .. } => {
            let modified = modified.to_rfc3339();
            let differ = if changes.len() == 1 { "differs" } else { "differ" };
            format!("read from Bitrix24, changed {modified}: {} {differ}", count(changes.len(), "field"))
        }
        What::Mapped(made) => format!("mapped: {}", outcome(made)),
        What::SentAgain(made) => format!("sent round again: {}", outcome(made)),
        What::TriedAgain(made) => {
            let before = made.answered.as_ref().map(|said| format!(" ({})", answered(said)));
            let before = before.unwrap_or_default();
            format!("tried again after {}{before}: {}", count(made.failures, "failure"), outcome(made))
        }
        What::Waits { until, failures, answered: said } => {
            let said = said.as_ref().map(|said| format!("; {}", answered(said))).unwrap_or_default();
            format!("waits until {until} for another try, {} so far{said}", count(*failures, "failure"))
        }
        What::Processed { outcome: Outcome::Refused, problems, .. } if !of_otmechalka(problems) => {
            "refused; nothing was sent to otmechalka".to_owned()
        }
        What::Processed { outcome, target_id, answered: failed, .. } => {
            let id = target_id.as_ref().map(|id| format!(", id {id} there")).unwrap_or_default();
            let failed = failed.as_ref().map(|failed| format!(" ({})", answered(failed)));
            format!("otmechalka: {}{id}{}", said(*outcome), failed.unwrap_or_default())
        }
        What::Status { status, how, .. } => format!("status {}: {status}", settled(*how)),
        What::DeadLetter { stage, reason, deliveries } => {
            let deliveries =
                if *deliveries == 1 { "1 delivery".to_owned() } else { format!("{deliveries} deliveries") };
            format!("DEAD LETTER of {stage} after {deliveries}: {reason}")
        }
        What::Unreadable { why } => format!("a message that cannot be read: {why}"),
    }
}

fn outcome(made: &Made) -> String {
    match made.outcome.as_str() {
        "client" | "ticket" => format!("{} to be sent", made.outcome),
        "out_of_scope" => "nothing in it concerns otmechalka".to_owned(),
        other => other.to_owned(),
    }
}

fn said(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Updated => "updated",
        Outcome::Unchanged => "held exactly this already; nothing was sent",
        Outcome::AlreadyThere => "had the ticket already; it was left alone",
        Outcome::OutOfScope => "not concerned; nothing was sent",
        Outcome::Refused => "refused",
        Outcome::Superseded => "a newer version was first; nothing was sent",
    }
}

/// Tells what otmechalka answered: `update client: 503, not well`.
pub fn answered(answered: &Answered) -> String {
    let status = answered.status.map(|status| format!("{status}, ")).unwrap_or_default();
    format!("{}: {status}{}", answered.call.replace('_', " "), failure(&answered.kind))
}

fn failure(kind: &str) -> &str {
    match kind {
        "unreachable" => "cannot be reached",
        "untrusted" => "does not prove to be otmechalka",
        "timed_out" => "no whole answer in time",
        "interrupted" => "the connection broke",
        "unavailable" => "not well",
        "garbled" => "an answer that makes no sense",
        "rate_limited" => "asks to slow down",
        "unauthorized" => "the token is refused",
        "not_found" => "not there",
        "refused" => "not taken",
        other => other,
    }
}

/// Tells whether a refusal came of asking otmechalka, and not of the record alone.
pub fn of_otmechalka(problems: &[Problem]) -> bool {
    let is_theirs =
        |problem: &Problem| ["otmechalka.", "client."].iter().any(|of| problem.code.starts_with(of));
    problems.iter().any(is_theirs)
}

fn settled(how: StatusSettled) -> &'static str {
    match how {
        StatusSettled::Written => "written",
        StatusSettled::AlreadyShown => "shown already",
        StatusSettled::RecordGone => "for a record that is gone",
    }
}

fn lines(what: &What) -> Vec<String> {
    match what {
        What::Read { changes, trimmed, .. } => {
            let trimmed = trimmed.iter().map(|field| format!("{field}: too big to travel, left out"));
            changes.iter().map(change).chain(trimmed).collect()
        }
        What::Mapped(made) | What::SentAgain(made) | What::TriedAgain(made) => {
            made.problems.iter().map(problem).chain(made.changes.iter().map(change)).collect()
        }
        // What the mapper found was told with what it made.
        What::Processed { problems, .. } if of_otmechalka(problems) => problems.iter().map(problem).collect(),
        _ => Vec::new(),
    }
}

fn problem(problem: &Problem) -> String {
    format!("{}: {}", problem.code, problem.text)
}

fn change(change: &Change) -> String {
    let title = change.title.as_ref().map(|title| format!(" «{title}»")).unwrap_or_default();
    let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
    format!("{}{title}: {} -> {}", change.field, value(&change.before), value(&change.after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_try_is_told_with_its_answer() {
        let said = |status| Answered { call: "update_client".into(), kind: "unavailable".into(), status };
        let waits = What::Waits { until: "12:05".into(), failures: 2, answered: Some(said(Some(503))) };
        let expected = "waits until 12:05 for another try, 2 failures so far; update client: 503, not well";
        assert_eq!(what(&waits), expected);
        let made = Made {
            outcome: "client".into(),
            body: None,
            changes: Vec::new(),
            problems: Vec::new(),
            failures: 2,
            answered: Some(said(None)),
        };
        let expected = "tried again after 2 failures (update client: not well): client to be sent";
        assert_eq!(what(&What::TriedAgain(made)), expected);
        let refused = What::Processed {
            outcome: Outcome::Refused,
            status: String::new(),
            problems: vec![Problem::otmechalka_keeps_failing()],
            target_id: None,
            answered: Some(said(Some(500))),
        };
        assert_eq!(what(&refused), "otmechalka: refused (update client: 500, not well)");
    }
}
