//! `rollcall doctor`: looks at everything the pipeline depends on and says what to do.

mod bitrix24;
mod canary;
mod changes;
mod mapping;
mod names;
mod otmechalka;
mod permissions;
mod settings;
mod streams;
mod visitors;

use serde_json::json;

use crate::answer::{Answer, Severity, findings_text};
use crate::cli;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::mapping_file;
use bitrix24::Fix;
pub use settings::Readable;

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &cli::Doctor, json: bool) -> Result<Exit, Failure> {
    let mut findings = settings::look(environment).await;
    let readable = Readable::read(environment);
    let fix = match (arguments.fix, arguments.dry_run) {
        (false, _) => Fix::No,
        (true, false) => Fix::Yes,
        (true, true) => Fix::Tell,
    };
    let (seen, broker) = streams::look(environment).await;
    if let Some(portal) = &readable.portal {
        findings.extend(bitrix24::look(portal, broker.as_ref(), fix).await);
    }
    if let Some(client) = &readable.otmechalka {
        findings.push(otmechalka::look(client).await);
    }
    findings.extend(seen);
    if let Some(broker) = &broker {
        findings.extend(permissions::look(environment, broker, &arguments.credentials).await);
        findings.extend(changes::look(broker).await);
        findings.extend(visitors::look(broker).await);
        findings.extend(names::look(broker).await);
        if let Some(rules) = readable.portal.as_ref().and_then(|portal| portal.rules.as_ref()) {
            findings.extend(mapping_file::unlike_the_mappers(broker, rules).await);
        }
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (checks, errors, warnings) = (findings.len(), count(Severity::Error), count(Severity::Warning));
    let summary = format!("{checks} checks: {errors} errors, {warnings} warnings.");
    let result = json!({"checks": checks, "errors": errors, "warnings": warnings});
    Answer::new(summary, result, findings)
        .tell(json, |answer| format!("{}\n{}", findings_text(&answer.findings), answer.summary))
}
