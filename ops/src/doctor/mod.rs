//! `rollcall doctor`: looks at everything the pipeline depends on and says what to do.

mod bitrix24;
mod finding;
mod mapping;
mod otmechalka;
mod settings;
mod streams;

use std::io::Write as _;

use crate::cli;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use finding::Report;
use settings::Readable;

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &cli::Doctor) -> Result<Exit, Failure> {
    let mut findings = settings::look(environment).await;
    let readable = Readable::read(environment);
    let (seen, broker) = streams::look(environment).await;
    if let Some(portal) = &readable.portal {
        findings.extend(bitrix24::look(portal, broker.as_ref(), arguments.fix).await);
    }
    if let Some(client) = &readable.otmechalka {
        findings.push(otmechalka::look(client).await);
    }
    findings.extend(seen);
    let report = Report::new(findings);
    let text = if arguments.json {
        serde_json::to_string_pretty(&report).map_err(Failure::trouble)?
    } else {
        report.text().trim_end().to_owned()
    };
    // Whoever closed the pipe has read enough.
    let _closed = writeln!(std::io::stdout().lock(), "{text}");
    Ok(report.exit())
}
