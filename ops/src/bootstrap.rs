//! `rollcall bootstrap`: makes what is missing in NATS, names what differs.

use runtime::Reader;
use runtime::bootstrap::{Finding, Keeping, Mode, StorageType, apply};
use serde_json::json;

use crate::answer::{self, Answer};
use crate::cli;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::nats;
use crate::{owner, stages};

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &cli::Bootstrap, json: bool) -> Result<Exit, Failure> {
    let keeping = keeping(environment, arguments.replicas)?;
    if arguments.check_settings {
        stages::check_settings(&stages::folder()?, environment).await?;
        owner::check_both_crms(environment)?;
    }
    let broker = nats::connect_within(environment, keeping.patience()).await?;
    let mode = if arguments.dry_run { Mode::Look } else { Mode::Make };
    let change = if arguments.portal_renamed { owner::Change::Rename } else { owner::Change::Refuse };
    let mut renamed = None;
    if let Some(portal) = owner::portal(environment) {
        let former = owner::check_what_answers(&broker, &portal, change).await?;
        renamed = former.map(|former| (former, portal));
    }
    let findings = apply(&broker, keeping, mode).await.map_err(Failure::trouble)?;
    if let Some(portal) = owner::portal(environment).filter(|_| mode == Mode::Make) {
        owner::stamp(&broker, &portal, change).await?;
    }
    let count = |is_so: fn(&Finding) -> bool| findings.iter().filter(|finding| is_so(finding)).count();
    let result = json!({
        "as_declared": count(|finding| matches!(finding, Finding::AsDeclared { .. })),
        "made": count(|finding| matches!(finding, Finding::Made { .. })),
        "missing": count(|finding| matches!(finding, Finding::Missing { .. })),
        "differs": count(|finding| matches!(finding, Finding::Drifted { .. })),
        "renamed": renamed.as_ref().map(|(from, to)| json!({"from": from, "to": to})),
    });
    let mut lines: Vec<String> = renamed.iter().map(|change| renaming(change, mode)).collect();
    lines.extend(told(&findings));
    let summary = lines.last().cloned().unwrap_or_default();
    let answer = Answer::new(summary, result, findings.iter().filter_map(wrong).collect());
    answer.tell(json, |_| lines.join("\n"))
}

/// Reads the number of copies from the command line, else from `NATS_REPLICAS`, and from `NATS_STORAGE` how they are kept.
pub fn keeping(environment: &Environment, argument: Option<usize>) -> Result<Keeping, Failure> {
    if argument.is_some_and(|replicas| !(1..=5).contains(&replicas)) {
        return Err(Failure::settings("--replicas takes a number from 1 to 5"));
    }
    let source = environment.source();
    let reader = Reader::new(&source);
    let number = reader.number("NATS_REPLICAS", 1, 1..=5, "3");
    let expected = "`file`, or `memory`, which is empty after all servers were stopped";
    let storage =
        reader.with_default("NATS_STORAGE", StorageType::File, expected, "file", |text| match text {
            "file" => Some(StorageType::File),
            "memory" => Some(StorageType::Memory),
            _ => None,
        });
    let read = || Some((number?, storage?));
    let (number, storage) = reader.finish(read).map_err(Failure::settings)?;
    let replicas = argument.unwrap_or_else(|| usize::try_from(number).unwrap_or(1));
    Ok(Keeping { replicas, storage })
}

/// What to do about a drift.
const EDIT: &str = "Put it right with the nats tool (`nats stream edit`, `nats consumer edit`). Of what cannot be edited a \
     consumer may be removed while the stages are stopped, and this run again; a stream holds what is to be done: back it up, \
     remove it and restore it with another configuration (`nats stream backup`, `nats stream restore --config`).";

/// Says that the streams are another portal's by name.
fn renaming((from, to): &(String, String), mode: Mode) -> String {
    match mode {
        Mode::Make => format!("renamed  the streams' portal, {from}, to {to}"),
        Mode::Look => format!("would rename  the streams' portal, {from}, to {to}"),
    }
}

fn told(findings: &[Finding]) -> Vec<String> {
    let mut lines: Vec<String> = findings.iter().filter_map(line).collect();
    let as_declared = findings.iter().filter(|finding| matches!(finding, Finding::AsDeclared { .. })).count();
    lines.push(format!("{as_declared} of {} were there as they are to be.", findings.len()));
    if findings.iter().any(|finding| matches!(finding, Finding::Drifted { .. })) {
        lines.push(format!("Nothing that existed was changed. {EDIT}"));
    }
    lines
}

fn line(finding: &Finding) -> Option<String> {
    match finding {
        Finding::Made { what } => Some(format!("made     {what}")),
        Finding::Missing { what } => Some(format!("missing  {what}")),
        Finding::Drifted { what, differences } => {
            Some(format!("differs  {what}: {}", differences.join("; ")))
        }
        Finding::AsDeclared { .. } => None,
    }
}

/// Returns what is wrong with it, if anything is.
fn wrong(finding: &Finding) -> Option<answer::Finding> {
    match finding {
        Finding::Made { .. } | Finding::AsDeclared { .. } => None,
        Finding::Missing { what } => {
            let action = "run `rollcall bootstrap` without --dry-run";
            Some(answer::Finding::error("nats.missing", what, "missing", action))
        }
        Finding::Drifted { what, differences } => {
            Some(answer::Finding::error("nats.drift", what, differences.join("; "), EDIT))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drift_is_named_and_is_trouble() {
        let findings = [
            Finding::AsDeclared { what: "stream B24_RAW".into() },
            Finding::Drifted {
                what: "stream DLQ".into(),
                differences: vec!["max_age is 1s, declared 2s".into()],
            },
        ];
        assert_eq!(wrong(&findings[1]).unwrap().code, "nats.drift");
        assert_eq!(told(&findings)[0], "differs  stream DLQ: max_age is 1s, declared 2s");
        assert_eq!(wrong(&findings[0]), None);
    }

    #[test]
    fn what_was_just_made_is_fine() {
        let findings = [Finding::Made { what: "bucket budget".into() }];
        assert_eq!(wrong(&findings[0]), None);
        assert_eq!(told(&findings)[0], "made     bucket budget");
    }
}
