//! What an erasure says.

use std::fmt::Write as _;

use super::find::{Found, Person};
use super::{Erased, is_deal};
use crate::answer::{Answer, Finding, findings_text};
use crate::records;

/// Tells people what was erased, or would be.
pub fn text(answer: &Answer<Erased>) -> String {
    let Erased { records, messages, waiting, .. } = &answer.result;
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (stream, count) in messages.iter().filter(|(_, count)| **count > 0) {
        let _ = writeln!(text, "{stream:<12} {count}");
    }
    if *waiting > 0 {
        let _ = writeln!(text, "{:<12} {waiting}", "waiting");
    }
    if !records.is_empty() {
        let _ = writeln!(text, "About {}", records.join(", "));
    }
    let _ = writeln!(text, "{}", answer.summary);
    text + &findings_text(&answer.findings)
}

/// Says what no program can do.
pub fn findings(person: Person, found: &Found) -> Vec<Finding> {
    let what = records::name(person.0);
    let both = if is_deal(person.0) {
        "the deal in Bitrix24"
    } else {
        "the contact in Bitrix24 and its client in otmechalka"
    };
    let mut findings = vec![Finding::warning(
        "erase.elsewhere",
        what,
        "only what NATS keeps is erased",
        format!(
            "Delete {both}, or the next edit brings the data back. Backups of NATS and old status texts in Bitrix24 \
             are not touched; who keeps copies, as `warehouse` does, is told of records alone that the streams still \
             know"
        ),
    )];
    if !found.unknown_letters.is_empty() {
        let letters = found.unknown_letters.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        findings.push(Finding::warning(
            "erase.unknown_letters",
            "Dead letters",
            format!("{letters} do not say whom they are about"),
            format!("`rollcall dead-letters discard {letters} --yes` throws them away"),
        ));
    }
    findings
}

/// Says that some of it may be left.
pub fn unfinished(busy: &[String], was_interrupted: bool) -> Finding {
    let found = match busy {
        _ if was_interrupted => "it was interrupted".to_owned(),
        [] => "more came each time that all was erased".to_owned(),
        busy => format!("{} may still have data in hand and put it back", busy.join(", ")),
    };
    let action = "Run the same command again once `rollcall status` shows nothing waiting";
    Finding::error("erase.unfinished", "Not finished", found, action)
}
