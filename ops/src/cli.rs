//! The words that `rollcall` understands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use schemas::Outcome;

use crate::erase::Erase;
use crate::exit::{EXPLANATION, Failure};
use crate::history::History;
use crate::letters::DeadLetters;
use crate::moment::Moment;
use crate::records::Records;
use crate::replay::{self, PlanHash};

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
    Preview(Preview),
    Replay(Replay),
    Credentials(Credentials),
    Reconcile(Reconcile),
    Erase(Erase),
    /// Prints a script that completes this command line in a shell
    #[command(after_help = EXPLANATION)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Exits with 0 when an address is listened at, or a page answered with 200; for health checks of containers.
    #[command(hide = true)]
    Probe {
        /// Host and port, and the path of a page if that is meant
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
    /// Only check the settings and tell what would be started
    #[arg(long)]
    pub dry_run: bool,
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
    #[arg(long)]
    pub portal_renamed: bool,
    /// First have every stage check its settings, and refuse a CRM on this machine beside one that is elsewhere
    #[arg(long)]
    pub check_settings: bool,
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
    /// With --fix: only tell what would be created
    #[arg(long, requires = "fix")]
    pub dry_run: bool,
    /// Folder of the NATS users' secrets, as `rollcall credentials` made it, to ask what each of them may
    #[arg(long, value_name = "FOLDER", default_value = "./secrets/nats")]
    pub credentials: PathBuf,
}

/// Shows how far each entity is read, what each stage has to do, what came of the records, and what stands still
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Status {
    /// Show it again and again until Ctrl-C; with --json one object a line
    #[arg(long)]
    pub watch: bool,
    /// With --watch: time between two looks
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = interval)]
    pub interval: Duration,
}

/// Shortest time between two looks of `status --watch`; each asks every consumer.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(200);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < SHORTEST_INTERVAL {
        let shortest = humantime::format_duration(SHORTEST_INTERVAL);
        return Err(format!("a look takes a while, so at least {shortest} from one to the next"));
    }
    Ok(interval)
}

/// Serves a read-only page with the flow and the records to be corrected, without personal data
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Serve {
    /// Address and port to listen at [default: `SERVE_LISTEN`, or 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<std::net::SocketAddr>,
}

/// Shows what the mapping would send for a record, beside what was sent last; changes nothing
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Preview {
    /// The record, `contact 39910` or `deal/96038`; `-` reads a raw event from standard input
    #[arg(value_name = "RECORD", num_args = 0..=2)]
    pub record: Vec<String>,
    /// Read a raw event, or its data alone, from a file; schemas/golden shows the form
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Look at the newest raw records and sum up what differs
    #[arg(long)]
    pub from_stream: bool,
    /// With --from-stream: how many raw messages
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub last: u64,
    /// Take the event of a file or of standard input for one of this entity
    #[arg(long, value_name = "ENTITY", value_parser = ["contact", "deal"])]
    pub entity: Option<String>,
    /// Mapping file to use [default: `MAPPING_FILE`, or the one built in]
    #[arg(long, value_name = "FILE")]
    pub mapping: Option<PathBuf>,
    /// Show personal data
    #[arg(long)]
    pub reveal: bool,
}

/// Sends records round again, from what Bitrix24 told through today's mapping
///
/// Without --apply it only shows the plan: what would be created, updated, left or refused, and the plan's hash. With
/// --apply HASH and the same choice it does that and nothing else, behind live traffic. Always the newest raw version
/// of a record goes, whichever version it was chosen by.
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Replay {
    #[command(flatten)]
    pub records: Records,
    /// Choose records of this entity
    #[arg(long, value_name = "ENTITY", value_parser = ["contact", "deal"])]
    pub entity: Option<String>,
    /// Choose what changed (with --outcome or --reason: ended) since then: 2026-01-31, monday, 3h
    #[arg(long, value_name = "MOMENT", value_parser = Moment::parse)]
    pub since: Option<Moment>,
    /// Choose what changed (with --outcome or --reason: ended) before then
    #[arg(long, value_name = "MOMENT", value_parser = Moment::parse)]
    pub until: Option<Moment>,
    /// Choose by the sequence of a raw message: this one and later ones
    #[arg(long, value_name = "N")]
    pub from_sequence: Option<u64>,
    /// Choose by the sequence of a raw message: this one and earlier ones
    #[arg(long, value_name = "N")]
    pub to_sequence: Option<u64>,
    /// Choose by the newest outcome, for example refused
    #[arg(long, value_name = "OUTCOME", value_parser = replay::outcome)]
    pub outcome: Option<Outcome>,
    /// Choose by a reason of the newest outcome: phone.missing
    #[arg(long, value_name = "CODE", value_parser = replay::reason)]
    pub reason: Option<String>,
    /// Also send again what would come to the same
    #[arg(long)]
    pub resend: bool,
    /// Stage at which it begins; the status-writer gets the outcomes alone, and writes the statuses again
    #[arg(long, value_name = "STAGE", conflicts_with = "to", default_value = "pusher")]
    pub to_stage: ReplayStage,
    /// Publish plain messages under this subject instead, and touch nothing: sandbox.crm.cmd
    #[arg(long, value_name = "SUBJECT", value_parser = replay::sandbox)]
    pub to: Option<String>,
    /// Carry out the plan that has this hash
    #[arg(long, value_name = "HASH", value_parser = PlanHash::parse)]
    pub apply: Option<PlanHash>,
    /// Only show the plan, which is what happens without --apply
    #[arg(long, conflicts_with = "apply")]
    pub dry_run: bool,
    /// With --apply: most records a second
    #[arg(long, value_name = "N", default_value_t = 5.0, value_parser = rate)]
    pub rate: f64,
    /// Show personal data in the plan
    #[arg(long)]
    pub reveal: bool,
}

/// A stage that a replay can begin at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReplayStage {
    /// Commands, through otmechalka to the status.
    Pusher,
    /// Outcomes alone.
    StatusWriter,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| (0.01..=1_000.0).contains(rate));
    rate.ok_or_else(|| "a number of records from 0.01 to 1000".to_owned())
}

/// Makes a NATS user for each stage, for `rollcall` itself and for extra consumers, with the least permissions that work
///
/// Writes one secret file a user and one file without secrets for nats.conf to include. Keys that are there are kept.
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Credentials {
    /// Folder to write to
    #[arg(long, value_name = "FOLDER", default_value = "./secrets/nats")]
    pub into: PathBuf,
    /// An extra consumer that may only read, with a name of its own: `report` or `report:B24_RAW,CRM_RESULT`; may be repeated
    #[arg(long, value_name = "NAME[:STREAM,…]")]
    pub consumer: Vec<String>,
    /// Only tell what would be made
    #[arg(long)]
    pub dry_run: bool,
}

/// Compares Bitrix24, the streams and otmechalka record by record, and says what mends each difference
///
/// Live work goes first in both CRMs. A run that is broken off goes on where it was when it is started again.
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Reconcile {
    /// Send round again what that mends. Nothing is ever deleted, and no CRM is written to but by the stages
    #[arg(long)]
    pub repair: bool,
    /// With --repair: only tell what would be sent
    #[arg(long, requires = "repair")]
    pub dry_run: bool,
    /// Begin anew although a run was broken off
    #[arg(long)]
    pub from_start: bool,
    #[command(flatten)]
    pub records: Records,
    /// Show personal data in what differs. Only of records that are named: the findings of a whole run are kept in NATS
    #[arg(long, requires = "Records")]
    pub reveal: bool,
    /// Most questions to otmechalka a second
    #[arg(long, default_value_t = 10.0, value_name = "N", value_parser = pace)]
    pub pace: f64,
    /// Name what was read longer ago than this and is not processed, or changed while polls stood still; for example 10m
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = overdue)]
    pub overdue: Duration,
}

fn overdue(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time <= Duration::from_secs(100 * 24 * 3_600) {
        true => Ok(time),
        false => Err("at most 100 days: nothing is kept longer".to_owned()),
    }
}

fn pace(text: &str) -> Result<f64, String> {
    let pace = text.parse().ok().filter(|pace| (0.1..=1_000.0).contains(pace));
    pace.ok_or_else(|| "a number from 0.1 to 1000".to_owned())
}

/// Tells whether JSON is wanted, of a command line that could not be understood.
pub fn wants_json(arguments: impl Iterator<Item = OsString>) -> bool {
    arguments.skip(1).take_while(|argument| argument != "--").any(|argument| argument == "--json")
}

/// Makes a failure of what clap says about a command line: its first words are what is wrong, its tips what to do.
pub fn failure(error: &clap::Error) -> Failure {
    let said = error.render().to_string();
    let mut parts = said.split("\n\n");
    let wrong = match error.kind() {
        // That is the whole help, and nothing else.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "nothing says what to do",
        _ => parts.next().unwrap_or_default(),
    };
    let wrong = wrong.trim().trim_start_matches("error: ");
    let tips = parts.filter_map(|part| part.trim().strip_prefix("tip: "));
    let help = "the same command with --help tells what it takes";
    let action = tips.chain([help]).collect::<Vec<_>>().join("; ");
    Failure::settings(wrong).called("arguments").remedy(action)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn what_is_wrong_with_a_command_line_and_what_to_do_are_told_apart() {
        let failure = |arguments: &[&str]| {
            let words = ["rollcall", "--json"].iter().chain(arguments);
            let error = CommandLine::try_parse_from(words).err().unwrap();
            let told = failure(&error);
            (told.text, told.action)
        };
        let (wrong, action) = failure(&["status", "--watc"]);
        assert_eq!(wrong, "unexpected argument '--watc' found");
        assert!(action.starts_with("a similar argument exists: '--watch'; "), "{action}");
        let (wrong, action) = failure(&["completions", "abacus"]);
        assert!(wrong.contains("'abacus'") && wrong.contains("bash, elvish"), "{wrong}");
        assert!(!wrong.contains("Usage") && action.contains("--help"), "{wrong} {action}");
        let (wrong, _) = failure(&["dead-letters", "show"]);
        assert!(wrong.contains("not provided") && wrong.contains("<SEQUENCE>"), "{wrong}");
        let (wrong, _) = failure(&[]);
        assert!(!wrong.is_empty() && !wrong.contains("Exit codes"), "{wrong}");
    }

    #[test]
    fn json_is_wanted_where_it_is_an_argument_of_ours() {
        let wants = |arguments: &[&str]| wants_json(arguments.iter().map(OsString::from));
        assert!(wants(&["rollcall", "status", "--bogus", "--json"]));
        assert!(!wants(&["--json", "status"]), "the program's own name is no argument");
        assert!(!wants(&["rollcall", "status", "--", "--json"]));
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
