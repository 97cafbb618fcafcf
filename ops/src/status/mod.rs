//! `rollcall status`: how far everything is, and what stands still.

pub mod facts;
mod judge;
mod leaders;
mod told;

use std::io::IsTerminal as _;
use std::time::Duration;

use chrono::Utc;
use runtime::Broker;
use serde::Serialize;

use crate::answer::{Answer, of_failure, print, tell_failure};
use crate::cli;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::nats;
use crate::signals::Signals;
use crate::terminal;
use facts::Recent;
pub use judge::{Condition, findings, letters_text, rounded};
pub use told::{Reading, Status};

/// Longest time for one look of many. The first reads a day of outcomes.
const LONGEST_LOOK: Duration = Duration::from_secs(120);

/// Clears a terminal.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &cli::Status, json: bool) -> Result<Exit, Failure> {
    let broker = nats::connect(environment).await?;
    let mut recent = Recent::default();
    if !arguments.watch {
        return look(&broker, &mut recent).await?.tell(json, told::text);
    }
    let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
    // Before the first look, so that none is missed that comes in the middle of one.
    let mut signals = Signals::listen()?;
    let mut exit = Exit::Fine;
    loop {
        let looked = tokio::select! {
            looked = look_in_time(&broker, &mut recent) => looked,
            () = signals.next() => return Ok(exit),
        };
        exit = match looked {
            Ok(answer) => {
                if json {
                    line(&answer)?;
                } else {
                    print(&format!("{clear}{}", terminal::text(&told::text(&answer))));
                }
                answer.exit()
            }
            // Whoever watches wants to see when it is over.
            Err(failure) => {
                let next = humantime::format_duration(arguments.interval);
                let action = format!("{}; looking again in {next}", failure.action);
                let failure = failure.remedy(action);
                if json {
                    line(&of_failure(&failure))?;
                } else {
                    tell_failure(&failure, false);
                }
                failure.exit
            }
        };
        tokio::select! {
            () = tokio::time::sleep(arguments.interval) => {}
            () = signals.next() => return Ok(exit),
        }
    }
}

/// Prints one object a line, for whoever reads along.
fn line<T: Serialize>(answer: &Answer<T>) -> Result<(), Failure> {
    print(&terminal::json(&serde_json::to_string(answer).map_err(Failure::trouble)?));
    Ok(())
}

/// Looks where NATS answers. A part that waits for a server that is gone would wait for as long as it is.
async fn look_in_time(broker: &Broker, recent: &mut Recent) -> Result<Answer<Status>, Failure> {
    nats::answers(broker).await?;
    tokio::time::timeout(LONGEST_LOOK, look(broker, recent)).await.unwrap_or_else(|_| {
        Err(Failure::trouble(format!("NATS did not tell everything within {} s", LONGEST_LOOK.as_secs())))
    })
}

async fn look(broker: &Broker, recent: &mut Recent) -> Result<Answer<Status>, Failure> {
    let now = Utc::now();
    let facts = facts::read(broker, recent, now).await.map_err(Failure::trouble)?;
    let findings = judge::findings(&facts, now);
    let behind: u64 = facts.stages.iter().map(|stage| stage.waiting() + stage.in_flight()).sum();
    let summary = match (findings.len(), behind) {
        (0, 0) => "Everything is done, nothing stands still.".to_owned(),
        (0, 1) => "1 message is being worked on.".to_owned(),
        (0, behind) => format!("{behind} messages are being worked on."),
        (1, _) => "One thing needs a look.".to_owned(),
        (count, _) => format!("{count} things need a look."),
    };
    Ok(Answer::new(summary, Status::of(facts, now), findings))
}
