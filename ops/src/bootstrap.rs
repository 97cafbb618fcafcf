//! `rollcall bootstrap`: makes what is missing in NATS, names what differs.

use std::io::Write as _;

use runtime::Reader;
use runtime::bootstrap::{Finding, Mode, apply};

use crate::cli;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::nats::{self, NatsError};
use crate::owner;

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &cli::Bootstrap) -> Result<Exit, Failure> {
    let replicas = replicas(environment, arguments.replicas)?;
    let broker = nats::connect(environment).await.map_err(|error| match error {
        NatsError::Settings(error) => Failure::settings(error),
        error @ NatsError::NoAnswer { .. } => Failure::environment(error),
    })?;
    let mode = if arguments.dry_run { Mode::Look } else { Mode::Make };
    if let Some(portal) = owner::portal(environment) {
        let change = if arguments.portal_renamed { owner::Change::Rename } else { owner::Change::Refuse };
        owner::check(&broker, &portal, change).await?;
    }
    let findings = apply(&broker, replicas, mode).await.map_err(Failure::trouble)?;
    if let Some(portal) = owner::portal(environment).filter(|_| mode == Mode::Make) {
        owner::stamp(&broker, &portal).await?;
    }
    let mut out = std::io::stdout().lock();
    for line in told(&findings) {
        // Whoever closed the pipe has read enough.
        let _closed = writeln!(out, "{line}");
    }
    Ok(verdict(&findings))
}

/// Reads the number of copies from the command line, else from `NATS_REPLICAS`.
pub fn replicas(environment: &Environment, argument: Option<usize>) -> Result<usize, Failure> {
    if let Some(replicas) = argument {
        return if (1..=5).contains(&replicas) {
            Ok(replicas)
        } else {
            Err(Failure::settings("--replicas takes a number from 1 to 5"))
        };
    }
    let source = environment.source();
    let reader = Reader::new(&source);
    let number = reader.number("NATS_REPLICAS", 1, 1..=5, "3");
    let number = reader.finish(|| number).map_err(Failure::settings)?;
    Ok(usize::try_from(number).unwrap_or(1))
}

fn told(findings: &[Finding]) -> Vec<String> {
    let mut lines: Vec<String> = findings.iter().filter_map(line).collect();
    let as_declared = findings.iter().filter(|finding| matches!(finding, Finding::AsDeclared { .. })).count();
    lines.push(format!("{as_declared} of {} were there as they are to be.", findings.len()));
    if findings.iter().any(|finding| matches!(finding, Finding::Drifted { .. })) {
        lines.push(
            "Nothing that existed was changed. Put it right with the nats tool (`nats stream edit`, \
             `nats consumer edit`), or remove it while the stages are stopped and run this again."
                .to_owned(),
        );
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

fn verdict(findings: &[Finding]) -> Exit {
    let is_wrong = |finding: &Finding| matches!(finding, Finding::Missing { .. } | Finding::Drifted { .. });
    if findings.iter().any(is_wrong) { Exit::Trouble } else { Exit::Fine }
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
        assert_eq!(verdict(&findings), Exit::Trouble);
        assert_eq!(told(&findings)[0], "differs  stream DLQ: max_age is 1s, declared 2s");
        assert_eq!(verdict(&findings[..1]), Exit::Fine);
    }

    #[test]
    fn what_was_just_made_is_fine() {
        let findings = [Finding::Made { what: "bucket budget".into() }];
        assert_eq!(verdict(&findings), Exit::Fine);
        assert_eq!(told(&findings)[0], "made     bucket budget");
    }
}
