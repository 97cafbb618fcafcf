//! The words that `rollcall` understands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::exit::EXPLANATION;
use crate::history::History;
use crate::letters::DeadLetters;

/// Operates Rollcall: starts everything, prepares NATS, checks what the pipeline depends on.
#[derive(Parser)]
#[command(name = "rollcall", version, after_help = EXPLANATION)]
pub struct CommandLine {
    /// File of settings, one NAME=value a line; what is set in the environment wins [default: .env, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Print one JSON object instead of text: ok, summary, result, findings
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand)]
pub enum Verb {
    Up(Up),
    Bootstrap(Bootstrap),
    Doctor(Doctor),
    Status(Status),
    Serve(Serve),
    DeadLetters(DeadLetters),
    History(History),
    /// Prints a script that completes this command line in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Exits with 0 when something listens at an address; for health checks of containers.
    #[command(hide = true)]
    Probe {
        /// Host and port
        address: String,
    },
    /// Carries connections on to another address; lets the demo's containers meet on loopback.
    #[command(hide = true)]
    Forward {
        /// Host and port to listen at
        listen: String,
        /// Host and port to carry on to
        to: String,
        /// Host and port of a neighbour without whom there is no use in going on
        #[arg(long)]
        beside: Option<String>,
    },
    /// Ends the programs of an `up` that was killed; started by `up` itself.
    #[command(hide = true)]
    Reap {
        /// Lock to hold until nothing runs any more
        lock: PathBuf,
    },
}

/// Starts everything, shows how far it is, and keeps it running until Ctrl-C
///
/// With a portal in the settings it does the real synchronisation. With none it starts doubles of Bitrix24 and
/// otmechalka with invented records. Without `NATS_URL` it runs a nats-server of its own.
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Up {
    /// Stop with exit code 0 once everything has caught up
    #[arg(long)]
    pub once: bool,
    /// With --once: give up with exit code 1 after this time, for example 30m
    #[arg(long, value_name = "TIME", requires = "once", value_parser = humantime::parse_duration)]
    pub within: Option<Duration>,
    #[command(flatten)]
    pub demo: Demo,
}

/// How the invented school is made. All of it matters only while no portal is set.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Demo")]
pub struct Demo {
    /// Contacts of the invented school [default: as it is already there, else 400]
    #[arg(long, value_name = "N")]
    pub contacts: Option<usize>,
    /// Deals of the invented school [default: as it is already there, else 600]
    #[arg(long, value_name = "N")]
    pub deals: Option<usize>,
    /// Seed from which the school is invented [default: as it is already there, else 1]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Seconds that pass in both doubles in one real second
    #[arg(long, default_value_t = 1.0, value_name = "X", value_parser = clock_speed)]
    pub clock_speed: f64,
}

fn clock_speed(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|speed| (0.1..=10_000.0).contains(speed))
        .ok_or_else(|| "a number from 0.1 to 10000".to_owned())
}

/// Makes the streams, consumers and buckets that are missing
///
/// What is there already is compared and never changed: differences are named, and the exit code is 1.
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Bootstrap {
    /// Copies of each stream: 1 for one NATS server, 3 for a cluster [default: `NATS_REPLICAS`, or 1]
    #[arg(long, value_name = "N")]
    pub replicas: Option<usize>,
    /// Take the streams over although they were made for a portal of another name, because it was renamed
    #[arg(long, conflicts_with = "dry_run")]
    pub portal_renamed: bool,
    /// Only tell what is missing or differs; exit code 1 if anything does
    #[arg(long)]
    pub dry_run: bool,
}

/// Checks settings, Bitrix24, the mapping, otmechalka and NATS, and says what to do about each finding
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Doctor {
    /// Create missing status fields in Bitrix24 (takes a webhook of a CRM administrator)
    #[arg(long)]
    pub fix: bool,
}

/// Shows how far each entity is read, what each stage has to do, what came of the records, and what stands still
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Status {
    /// Show it again and again until Ctrl-C; with --json one object a line
    #[arg(long)]
    pub watch: bool,
    /// With --watch: time between two looks
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub interval: Duration,
}

/// Serves a read-only page with the flow and the records to be corrected, without personal data
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Serve {
    /// Address and port to listen at
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT", env = "SERVE_LISTEN")]
    pub listen: std::net::SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
