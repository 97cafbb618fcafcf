//! What `rollcall replay` tells, and how it looks as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::apply::Report;
use super::choice::Choice;
use super::plan::{Action, Instead, Plan, PlanHash, StaleTicket, Step, Target};
use crate::answer::{Answer, Finding, findings_text};
use crate::comparison::{self, Difference, Privacy};
use crate::records;

/// Most records that are told one by one as text; `--json` tells all.
const MOST_TOLD: usize = 50;

/// A plan as it is told.
#[derive(Debug, Serialize)]
pub struct PlanTold {
    /// Which mapping it was made with.
    pub mapping: String,
    /// Records by what is done.
    pub counts: BTreeMap<&'static str, usize>,
    /// Every record.
    pub records: Vec<StepTold>,
    /// Stands for all of it.
    pub hash: String,
    /// The command that does it.
    pub apply: String,
}

/// What is done with one record.
#[derive(Debug, Serialize)]
pub struct StepTold {
    /// Its name: `contact/39910`.
    pub record: String,
    /// Sequence of its newest raw version.
    pub raw_sequence: u64,
    /// What is done.
    pub action: Action,
    /// Why it would be refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// What today's command has other than the one sent last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
}

/// What was done, as it is told.
#[derive(Debug, Serialize)]
pub struct ReportTold {
    /// Which plan it was.
    pub hash: String,
    /// Records that were published.
    pub published: Vec<String>,
    /// Records that an earlier run of this plan has published.
    pub done_before: Vec<String>,
    /// Records that were left out, with the reason.
    pub left_out: BTreeMap<String, String>,
}

/// Writes the command that carries a plan out.
pub fn command(choice: &Choice, target: &Target, resend: bool, hash: &PlanHash) -> String {
    let target = match target {
        Target::Pipeline => String::new(),
        Target::StatusWriter => " --to-stage status-writer".to_owned(),
        Target::Sandbox(prefix) => format!(" --to {prefix}"),
    };
    let resend = if resend { " --resend" } else { "" };
    format!("rollcall replay {}{target}{resend} --apply {hash}", choice.arguments())
}

/// Tells a plan.
pub fn plan(
    plan: &Plan,
    stale: &[StaleTicket],
    mapping: &str,
    command: &str,
    privacy: Privacy,
) -> Answer<PlanTold> {
    let unreadable = plan.steps.iter().filter(|step| step.action == Action::Unreadable).map(|step| {
        let record = records::name(step.candidate.record);
        let found = format!("raw message {} cannot be read, or is gone", step.candidate.raw_sequence);
        let action = format!("look at it with `rollcall history {record}`");
        Finding::warning("replay.unreadable", record, found, action)
    });
    let findings = unreadable.chain(stale.iter().map(stays)).collect();
    let (chosen, work) = (plan.steps.len(), plan.work());
    let are = if chosen == 1 { "record is" } else { "records are" };
    let summary = format!("{chosen} {are} chosen, {work} of them would be sent again.");
    let told = PlanTold {
        mapping: mapping.to_owned(),
        counts: plan.counts(),
        records: plan.steps.iter().map(|step| step_told(step, privacy)).collect(),
        hash: plan.hash.to_string(),
        apply: command.to_owned(),
    };
    Answer::new(summary, told, findings)
}

/// Says that a ticket stays as an earlier mapping made it, and what a person has to do.
fn stays(ticket: &StaleTicket) -> Finding {
    let StaleTicket { deal, today } = ticket;
    let (found, deed) = match today {
        Instead::Fields(fields) => (
            format!("today's mapping gives it another {}", fields.join(", ")),
            "Put it right in otmechalka by hand",
        ),
        Instead::Refused => (
            "today's mapping refuses the deal".to_owned(),
            "Correct the deal in Bitrix24 and its ticket in otmechalka, or cancel the ticket there",
        ),
        Instead::OutOfScope => (
            "today's mapping does not send the deal".to_owned(),
            "Cancel the ticket in otmechalka if it should not be there",
        ),
    };
    let found = format!("its ticket stays as an earlier mapping made it; {found}");
    let action = format!(
        "{deed}: `rollcall preview {}` shows what today's mapping gives, `{}` whether the ticket is as it should be",
        records::name(*deal),
        records::recheck(*deal)
    );
    Finding::warning("replay.ticket_stays", records::name(*deal), found, action)
}

fn step_told(step: &Step, privacy: Privacy) -> StepTold {
    StepTold {
        record: records::name(step.candidate.record),
        raw_sequence: step.candidate.raw_sequence,
        action: step.action,
        reasons: step.reasons(),
        differences: step.differences(privacy),
    }
}

/// Tells what was done.
pub fn report(plan: &Plan, stale: &[StaleTicket], report: &Report) -> Answer<ReportTold> {
    let names = |records: &[schemas::RecordRef]| records.iter().copied().map(records::name).collect();
    let left_out = report.left_out.iter().map(|(record, why)| (records::name(*record), why.clone()));
    let done = report.published.len() + report.done_before.len() + report.left_out.len();
    let of_left_out = report.left_out.iter().map(|(record, why)| {
        let action = format!("once nothing waits, look at it with `{}`", records::recheck(*record));
        Finding::warning("replay.left_out", records::name(*record), why.as_str(), action)
    });
    let mut findings: Vec<Finding> = of_left_out.chain(stale.iter().map(stays)).collect();
    findings.extend(report.stopped.as_ref().map(|why| {
        let found = format!("ended after {done} of {} records: {why}", plan.work());
        Finding::error("replay.stopped", "Replay", found, "run the same command again: it goes on there")
    }));
    let summary = format!(
        "{} sent again, {} had been before, {} were left out.",
        match report.published.len() {
            1 => "1 record was".to_owned(),
            count => format!("{count} records were"),
        },
        report.done_before.len(),
        report.left_out.len()
    );
    let told = ReportTold {
        hash: plan.hash.to_string(),
        published: names(&report.published),
        done_before: names(&report.done_before),
        left_out: left_out.collect(),
    };
    Answer::new(summary, told, findings)
}

/// Writes a plan as text.
pub fn plan_text(answer: &Answer<PlanTold>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_plan(&mut text, answer);
    text
}

fn write_plan(text: &mut String, answer: &Answer<PlanTold>) -> std::fmt::Result {
    let told = &answer.result;
    writeln!(text, "{}\nMapping: {}", answer.summary, told.mapping)?;
    // What happens comes before what does not.
    let mut records: Vec<&StepTold> = told.records.iter().collect();
    records.sort_by_key(|step| !step.action.is_done());
    for step in records.iter().take(MOST_TOLD) {
        let reasons =
            if step.reasons.is_empty() { String::new() } else { format!("  {}", step.reasons.join(", ")) };
        writeln!(text, "{:14}{}{reasons}", step.action.word(), step.record)?;
        for difference in &step.differences {
            writeln!(text, "{:16}{}", "", comparison::line(difference))?;
        }
    }
    if records.len() > MOST_TOLD {
        writeln!(text, "… and {} more; --json tells all of them", records.len() - MOST_TOLD)?;
    }
    let counts: Vec<String> = told.counts.iter().map(|(action, count)| format!("{action} {count}")).collect();
    writeln!(text, "In all: {}", if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") })?;
    text.push_str(&findings_text(&answer.findings));
    if !told.records.iter().any(|step| step.action.is_done()) {
        let hint = if told.counts.contains_key("left") { "; --resend sends also what is left" } else { "" };
        return writeln!(text, "There is nothing to do{hint}.");
    }
    writeln!(text, "Plan {}", told.hash)?;
    writeln!(text, "To do this and nothing else:\n  {}", told.apply)
}

/// Writes what was done as text.
pub fn report_text(answer: &Answer<ReportTold>) -> String {
    format!("{}\n{}", answer.summary, findings_text(&answer.findings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::tests::client;
    use crate::ledger::Mark;
    use crate::replay::plan::{Candidate, Chosen};
    use schemas::{RecordId, RecordRef};
    use std::collections::BTreeSet;

    #[test]
    fn a_plan_ends_with_the_command_that_does_it_and_shows_nobody() {
        let record = RecordRef::contact(RecordId::try_new(39910).unwrap());
        let mark = Mark { raw: 3, commands: 2, results: 1 };
        let candidate = Candidate {
            record,
            raw_sequence: 3,
            today: Some(client("Берёзкин", "2633")),
            sent: None,
            settled: None,
        };
        let chosen = Chosen { candidates: vec![candidate], ..Chosen::default() };
        let made = Plan::of(chosen, &Target::Pipeline, true, mark);
        let choice = Choice { records: BTreeSet::from([record]), ..Choice::default() };
        let command = command(&choice, &Target::Pipeline, true, &made.hash);
        let text = plan_text(&plan(&made, &[], "built in", &command, Privacy::Masked));
        let end = format!("  rollcall replay --contact 39910 --resend --apply {}\n", made.hash);
        assert!(text.ends_with(&end), "{text}");
        assert!(
            text.contains("created       contact/39910") && text.contains("branchoffices: 2633"),
            "{text}"
        );
        assert!(!text.contains("Берёзкин"), "{text}");
        let revealed = plan_text(&plan(&made, &[], "built in", &command, Privacy::Revealed));
        assert!(revealed.contains("Берёзкин"), "{revealed}");
    }

    #[test]
    fn a_plan_without_work_offers_nothing_to_apply() {
        let mark = Mark { raw: 3, commands: 2, results: 1 };
        let made = Plan::of(Chosen::default(), &Target::Pipeline, false, mark);
        let text = plan_text(&plan(&made, &[], "built in", "rollcall replay", Privacy::Masked));
        assert!(text.contains("nothing to do") && !text.contains("rollcall replay"), "{text}");
    }

    #[test]
    fn a_ticket_that_stays_is_told_with_what_a_person_has_to_do() {
        let deal = RecordRef::deal(RecordId::try_new(7).unwrap());
        let told = |today| stays(&StaleTicket { deal, today });
        let finding = told(Instead::Fields(vec!["payment_method".into(), "selling_branchoffice".into()]));
        assert_eq!(finding.code, "replay.ticket_stays");
        assert_eq!(
            finding.message,
            "deal/7: its ticket stays as an earlier mapping made it; today's mapping gives it another \
             payment_method, selling_branchoffice"
        );
        for finding in [finding, told(Instead::Refused), told(Instead::OutOfScope)] {
            assert!(finding.action.contains("in otmechalka"), "{finding:?}");
            assert!(finding.action.contains("`rollcall reconcile --deal 7`"), "{finding:?}");
        }
    }

    #[test]
    fn an_early_end_is_an_error_that_says_how_to_go_on() {
        let mark = Mark { raw: 3, commands: 2, results: 1 };
        let made = Plan::of(Chosen::default(), &Target::Pipeline, false, mark);
        let record = RecordRef::contact(RecordId::try_new(1).unwrap());
        let stopped = Report {
            published: vec![record],
            left_out: vec![(record, "a newer version came".into())],
            stopped: Some("it was interrupted".into()),
            ..Report::default()
        };
        let answer = report(&made, &[], &stopped);
        assert!(!answer.ok);
        let text = report_text(&answer);
        assert!(text.contains("run the same command again") && text.contains("contact/1: a newer"), "{text}");
    }
}
