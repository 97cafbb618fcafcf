//! `rollcall dead-letters`: what no redelivery could help, looked at, sent round again or thrown away.

mod desk;
mod redrive;
pub mod select;
mod told;

use std::collections::BTreeSet;

use chrono::Utc;
use clap::{Args, Subcommand};
use runtime::Broker;
use serde::Serialize;

use crate::answer::{Answer, Finding, count};
use crate::environment::Environment;
use crate::exit::{EXPLANATION, Exit, Failure};
use crate::mapping_file;
use crate::mask::Mask;
use crate::nats;
use crate::records;
use crate::signals::Stop;
use desk::{delete, fetch, open_payload};
use redrive::{Done, Fate, Mode};
use select::{Filter, Letter};

/// Lists, shows, redrives and discards messages that need an operator
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct DeadLetters {
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with them.
#[derive(Subcommand)]
pub enum Action {
    /// Lists letters, the oldest first
    #[command(after_help = EXPLANATION)]
    List {
        #[command(flatten)]
        filter: Filter,
    },
    /// Shows everything about one letter, personal data hidden
    #[command(after_help = EXPLANATION)]
    Show {
        /// Sequence of the letter
        sequence: u64,
        /// Show personal data
        #[arg(long)]
        reveal: bool,
    },
    /// Sends the records of letters through today's mapping and on; deletes each letter once that is stored
    #[command(after_help = EXPLANATION)]
    Redrive {
        #[command(flatten)]
        chosen: Chosen,
        /// Only tell what would be sent
        #[arg(long)]
        dry_run: bool,
    },
    /// Deletes letters without doing anything about them
    #[command(after_help = EXPLANATION)]
    Discard {
        #[command(flatten)]
        chosen: Chosen,
        /// Really delete; without it, the letters are only shown
        #[arg(long)]
        yes: bool,
        /// Only show the letters, also with --yes
        #[arg(long)]
        dry_run: bool,
    },
}

/// Letters by sequence or by filter.
#[derive(Args)]
pub struct Chosen {
    /// Sequences of the letters
    #[arg(conflicts_with_all = ["stage", "contact", "deal", "record", "reason", "since", "until", "all"])]
    pub sequences: Vec<u64>,
    #[command(flatten)]
    pub filter: Filter,
    /// All letters there are
    #[arg(long)]
    pub all: bool,
}

/// Letters that were looked at.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// The letters, the oldest first.
    pub letters: Vec<Letter>,
}

/// Letters that were deleted, or would be.
#[derive(Debug, Serialize)]
pub struct Discarded {
    /// Tells whether they are deleted.
    pub deleted: bool,
    /// The letters.
    pub letters: Vec<Letter>,
}

/// What came of a redrive.
#[derive(Debug, Serialize)]
pub struct Redriven {
    /// Tells whether this was only a look.
    pub dry_run: bool,
    /// The mapping that was used.
    pub mapping: String,
    /// Each letter with what came of it.
    pub letters: Vec<Done>,
}

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &DeadLetters, json: bool) -> Result<Exit, Failure> {
    match &arguments.action {
        Action::List { filter } => {
            let broker = nats::connect(environment).await?;
            let letters = filter.letters(&broker, Utc::now()).await?;
            let summary = count(letters.len(), "dead letter");
            Answer::new(format!("{summary}."), Listed { letters }, Vec::new()).tell(json, told::list)
        }
        Action::Show { sequence, reveal } => show(environment, *sequence, *reveal, json).await,
        Action::Redrive { chosen, dry_run } => redrive(environment, chosen, *dry_run, json).await,
        Action::Discard { chosen, yes, dry_run } => {
            discard(environment, chosen, *yes && !dry_run, json).await
        }
    }
}

async fn show(environment: &Environment, sequence: u64, reveal: bool, json: bool) -> Result<Exit, Failure> {
    let mask = Mask::of(environment);
    let mask = if reveal { mask.revealing() } else { mask };
    let broker = nats::connect(environment).await?;
    let Some(message) = fetch(&broker, sequence).await? else { return Err(absent(&[sequence])) };
    let whole = told::Whole::of(&message, &mask, open_payload);
    let summary = format!("Dead letter {sequence}.");
    Answer::new(summary, whole, Vec::new()).tell(json, told::whole)
}

async fn redrive(
    environment: &Environment,
    chosen: &Chosen,
    dry_run: bool,
    json: bool,
) -> Result<Exit, Failure> {
    let mapping = match mapping_file::load(environment, None) {
        Ok(mapping) => mapping,
        Err(mistakes) => {
            let summary = "The mapping has mistakes; nothing was sent.";
            let nothing = Redriven { dry_run, mapping: String::new(), letters: Vec::new() };
            return Answer::new(summary, nothing, mistakes).tell(json, told::redriven);
        }
    };
    let broker = nats::connect(environment).await?;
    let letters = letters(&broker, chosen).await?;
    let mode = if dry_run { Mode::Look } else { Mode::Send };
    let done = redrive::all(&broker, &mapping.rules, letters, mode).await?;
    let (summary, findings) = (told::summary(&done, mode), findings(&done));
    let result = Redriven { dry_run, mapping: mapping.origin, letters: done };
    Answer::new(summary, result, findings).tell(json, told::redriven)
}

fn findings(done: &[Done]) -> Vec<Finding> {
    let finding = |done: &Done| {
        let what = format!("Letter {}", done.letter.sequence);
        let sequence = done.letter.sequence;
        let discard = format!("`rollcall dead-letters discard {sequence} --yes` throws it away");
        match &done.fate {
            Fate::Sent { .. } => None,
            Fate::Superseded { newer } => {
                let found =
                    format!("raw version {newer} of its record is newer and speaks for it; nothing was sent");
                Some(Finding::warning("letters.superseded", what, found, discard))
            }
            Fate::Impossible { why, record } => {
                let action = match record {
                    Some(record) => format!("{}; {discard} then", records::read_anew(*record)),
                    None => discard,
                };
                Some(Finding::error("letters.impossible", what, why, action))
            }
            Fate::Failed { why } => {
                let again = format!("once more does no harm: rollcall dead-letters redrive {sequence}");
                Some(Finding::error("letters.failed", what, why, again))
            }
        }
    };
    done.iter().filter_map(finding).collect()
}

async fn discard(
    environment: &Environment,
    chosen: &Chosen,
    really: bool,
    json: bool,
) -> Result<Exit, Failure> {
    let broker = nats::connect(environment).await?;
    let chosen = letters(&broker, chosen).await?;
    if !really {
        let letters = count(chosen.len(), "dead letter");
        let summary = format!("{letters} would be deleted; --yes does it.");
        let findings = deals_wait(&chosen);
        let result = Discarded { deleted: false, letters: chosen };
        return Answer::new(summary, result, findings).tell(json, told::discarded);
    }
    let stop = Stop::listen()?;
    let (all, mut letters, mut findings) = (chosen.len(), Vec::new(), Vec::new());
    for letter in chosen {
        if stop.is_asked() {
            break;
        }
        if let Err(failure) = delete(&broker, letter.sequence).await {
            let sequence = letter.sequence;
            let again = format!("once more: rollcall dead-letters discard {sequence} --yes");
            findings.push(Finding::error(
                "letters.failed",
                format!("Letter {sequence}"),
                failure.text,
                again,
            ));
            break;
        }
        letters.push(letter);
    }
    findings.extend(deals_wait(&letters));
    let deleted = count(letters.len(), "dead letter");
    let summary = format!("{deleted} of {all} deleted; their records were not touched.");
    Answer::new(summary, Discarded { deleted: true, letters }, findings).tell(json, told::discarded)
}

/// Warns of contacts on whose way to otmechalka nothing comes any more, and nothing tells their deals.
fn deals_wait(letters: &[Letter]) -> Vec<Finding> {
    let is_on_the_way = |letter: &&Letter| letter.stage == "mapper" || letter.stage == "pusher";
    let contacts: BTreeSet<&str> = letters
        .iter()
        .filter(is_on_the_way)
        .filter_map(|letter| letter.record.as_deref().filter(|record| record.starts_with("contact/")))
        .collect();
    let finding = |contact: &str| {
        let found = "deals that name it wait for it, unless a newer version of it has arrived";
        let action = "edit the contact in Bitrix24, or redrive its letter instead of discarding it";
        Finding::warning("letters.deals_wait", contact, found, action)
    };
    contacts.into_iter().map(finding).collect()
}

/// Reads the letters that were chosen. Those that come later are not among them.
async fn letters(broker: &Broker, chosen: &Chosen) -> Result<Vec<Letter>, Failure> {
    if chosen.sequences.is_empty() {
        if chosen.filter.is_empty() && !chosen.all {
            return Err(Failure::settings("nothing says which letters").remedy(
                "Name their sequences, or use --stage, --contact, --deal, --reason, --since, --until or --all; \
                 `rollcall dead-letters list` shows what is there",
            ));
        }
        return chosen.filter.letters(broker, Utc::now()).await;
    }
    let mut sequences = chosen.sequences.clone();
    sequences.sort_unstable();
    sequences.dedup();
    let (mut letters, mut missing) = (Vec::new(), Vec::new());
    for sequence in sequences {
        match fetch(broker, sequence).await? {
            Some(message) => letters.push(Letter::of(&message)),
            None => missing.push(sequence),
        }
    }
    if missing.is_empty() { Ok(letters) } else { Err(absent(&missing)) }
}

fn absent(sequences: &[u64]) -> Failure {
    let sequences = sequences.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    Failure::settings(format!("there is no dead letter {sequences}; nothing was done"))
        .called("letters.absent")
        .remedy("`rollcall dead-letters list` shows what is there")
}
