//! `rollcall status`: how far everything is, and what stands still.

pub mod facts;
mod judge;
mod leaders;
mod told;

use std::io::IsTerminal as _;

use chrono::Utc;
use runtime::Broker;

use crate::answer::{Answer, print};
use crate::cli;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::nats;
use crate::signals::Signals;
use crate::terminal;
pub use judge::{Condition, findings, rounded};
pub use told::{Reading, Status};

/// Clears a terminal.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &cli::Status, json: bool) -> Result<Exit, Failure> {
    let broker = nats::connect(environment).await?;
    if !arguments.watch {
        return look(&broker).await?.tell(json, told::text);
    }
    let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
    // Before the first look, so that none is missed that comes in the middle of one.
    let mut signals = Signals::listen()?;
    let mut exit = Exit::Fine;
    loop {
        let answer = tokio::select! {
            answer = look(&broker) => answer?,
            () = signals.next() => return Ok(exit),
        };
        if json {
            // One object a line, for whoever reads along.
            print(&terminal::json(&serde_json::to_string(&answer).map_err(Failure::trouble)?));
        } else {
            print(&format!("{clear}{}", terminal::text(&told::text(&answer))));
        }
        exit = answer.exit();
        tokio::select! {
            () = tokio::time::sleep(arguments.interval) => {}
            () = signals.next() => return Ok(exit),
        }
    }
}

async fn look(broker: &Broker) -> Result<Answer<Status>, Failure> {
    let now = Utc::now();
    let facts = facts::read(broker, now).await.map_err(Failure::trouble)?;
    let findings = judge::findings(&facts, now);
    let behind: u64 = facts.stages.iter().map(|stage| stage.waiting() + stage.in_flight()).sum();
    let summary = match (findings.len(), behind) {
        (0, 0) => "Everything is done, nothing stands still.".to_owned(),
        (0, behind) => format!("{behind} messages are being worked on."),
        (1, _) => "One thing needs a look.".to_owned(),
        (count, _) => format!("{count} things need a look."),
    };
    Ok(Answer::new(summary, Status::of(facts, now), findings))
}
