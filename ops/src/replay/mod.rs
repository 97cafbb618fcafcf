//! `rollcall replay`: sends records round again, from what Bitrix24 told through today's mapping.

mod apply;
mod choice;
mod gather;
mod plan;
mod told;

use chrono::Utc;
use schemas::Entity;

use crate::answer::{Answer, findings_text};
use crate::cli;
use crate::comparison::Privacy;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::ledger::Ledger;
use crate::mapping_file::{self, MappingFile};
use crate::nats;
use apply::Replay;
use choice::Choice;
use plan::{Plan, StaleTicket, Target};

pub use apply::sandbox;
pub use choice::{outcome, reason};
pub use plan::PlanHash;

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &cli::Replay, json: bool) -> Result<Exit, Failure> {
    let choice = choice_of(arguments);
    if choice.is_empty() {
        return Err(Failure::settings(
            "nothing is chosen. Name records (--contact 39910), a time (--since monday), sequences, an entity or an \
             outcome (--outcome refused)",
        ));
    }
    if choice.is_contradictory() {
        return Err(Failure::settings(
            "nothing can lie between: --since has to be before --until, --from-sequence not behind --to-sequence",
        ));
    }
    let mapping = match mapping_file::load(environment, None) {
        Ok(mapping) => mapping,
        Err(mistakes) => {
            let summary = "The mapping has mistakes; nothing was replayed.";
            return Answer::new(summary, (), mistakes).tell(json, |answer| findings_text(&answer.findings));
        }
    };
    let ledger = Ledger::open(nats::connect(environment).await?).await?;
    let target = target_of(arguments);
    match &arguments.apply {
        None => show(&ledger, &mapping, arguments, &choice, &target, json).await,
        Some(hash) => carry_out(&ledger, &mapping, arguments, &choice, &target, hash, json).await,
    }
}

async fn show(
    ledger: &Ledger,
    mapping: &MappingFile,
    arguments: &cli::Replay,
    choice: &Choice,
    target: &Target,
    json: bool,
) -> Result<Exit, Failure> {
    let mark = ledger.mark().await?;
    let chosen = gather::chosen(ledger, &mapping.rules, choice, mark).await?;
    let plan = Plan::of(chosen, target, arguments.resend, mark);
    let command = told::command(choice, target, arguments.resend, &plan.hash);
    let stale = stale_tickets(ledger, mapping, target, &plan).await?;
    let privacy = Privacy::of(arguments.reveal);
    let mut answer = told::plan(&plan, &stale, &mapping.origin, &command, privacy);
    answer.findings.extend(mapping_file::unlike_the_mappers(&ledger.broker, &mapping.rules).await);
    answer.tell(json, told::plan_text)
}

async fn carry_out(
    ledger: &Ledger,
    mapping: &MappingFile,
    arguments: &cli::Replay,
    choice: &Choice,
    target: &Target,
    hash: &PlanHash,
    json: bool,
) -> Result<Exit, Failure> {
    let chosen = gather::chosen(ledger, &mapping.rules, choice, hash.mark).await?;
    let plan = Plan::of(chosen, target, arguments.resend, hash.mark);
    if plan.hash != *hash {
        return Err(Failure::trouble(format!(
            "The plan is another one now than {hash}: the mapping, the choice or what the streams keep has changed. \
             Nothing was replayed"
        ))
        .remedy("Look at the new plan without --apply"));
    }
    let stale = stale_tickets(ledger, mapping, target, &plan).await?;
    let rate = arguments.rate;
    let report = Replay { ledger, rules: &mapping.rules, target, rate }.carry_out(&plan).await?;
    let mut answer = told::report(&plan, &stale, &report);
    answer.findings.extend(mapping_file::unlike_the_mappers(&ledger.broker, &mapping.rules).await);
    answer.tell(json, told::report_text)
}

/// Finds the tickets that a replay to otmechalka leaves as an earlier mapping made them.
async fn stale_tickets(
    ledger: &Ledger,
    mapping: &MappingFile,
    target: &Target,
    plan: &Plan,
) -> Result<Vec<StaleTicket>, Failure> {
    match target {
        Target::Pipeline => gather::stale_tickets(ledger, &mapping.rules, plan).await,
        Target::StatusWriter | Target::Sandbox(_) => Ok(Vec::new()),
    }
}

fn choice_of(arguments: &cli::Replay) -> Choice {
    let now = Utc::now();
    Choice {
        records: arguments.records.all(),
        entity: arguments.entity.as_deref().and_then(Entity::from_token),
        since: arguments.since.map(|moment| moment.at(now)),
        until: arguments.until.map(|moment| moment.at(now)),
        from_sequence: arguments.from_sequence,
        to_sequence: arguments.to_sequence,
        outcome: arguments.outcome,
        reason: arguments.reason.clone(),
    }
}

fn target_of(arguments: &cli::Replay) -> Target {
    match (&arguments.to, arguments.to_stage) {
        (Some(prefix), _) => Target::Sandbox(prefix.clone()),
        (None, cli::ReplayStage::StatusWriter) => Target::StatusWriter,
        (None, cli::ReplayStage::Pusher) => Target::Pipeline,
    }
}
