#![doc = include_str!("../README.md")]

mod again;
mod answer;
mod bootstrap;
mod cli;
mod comparison;
mod credentials;
mod doctor;
mod environment;
mod erase;
mod exit;
mod history;
mod ledger;
mod letters;
mod mapping_file;
mod mask;
mod moment;
mod nats;
mod owner;
mod preview;
mod progress;
mod reconcile;
mod records;
mod replay;
mod results;
mod serve;
mod signals;
mod stages;
mod status;
mod stored;
mod terminal;
mod up;
mod wire;

use std::process::ExitCode;

use answer::Answer;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use cli::{CommandLine, Verb};
use environment::Environment;
use exit::{Exit, Failure};
use runtime::faults;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    runtime::leave_no_core_dump();
    runtime::logs::hide_panics();
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        // Help and the version are asked for as text.
        Err(error) if !error.use_stderr() || !cli::wants_json(std::env::args_os()) => error.exit(),
        Err(error) => {
            let failure = cli::failure(&error);
            answer::tell_failure(&failure, true);
            return failure.exit.into();
        }
    };
    // Nothing of it may wait for a runtime: it has to outlive a process that was killed.
    if let Verb::Reap { lock } = &command_line.verb {
        return up::reap(lock).into();
    }
    let outcome = match &command_line.verb {
        // It takes no settings, so none can be in its way.
        Verb::Completions { shell } => completions(*shell, command_line.json),
        _ => start(&command_line),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            answer::tell_failure(&failure, command_line.json);
            failure.exit.into()
        }
    }
}

fn completions(shell: Shell, json: bool) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "rollcall", &mut script);
    let script = String::from_utf8(script).map_err(Failure::trouble)?;
    if !json {
        // As it is: a shell reads it, not a terminal.
        answer::print(script.trim_end());
        return Ok(Exit::Fine);
    }
    let summary = format!("A script that completes rollcall in {shell} is in result.script.");
    let result = serde_json::json!({"shell": shell.to_string(), "script": script});
    Answer::new(summary, result, Vec::new()).tell(json, |answer| answer.summary.clone())
}

fn start(command_line: &CommandLine) -> Result<Exit, Failure> {
    let mut environment = Environment::load(command_line.env_file.as_deref())?;
    if !matches!(command_line.verb, Verb::Up(_)) {
        environment.follow_running();
    }
    let json = command_line.json;
    // The crypto library is one for the whole process; a second installation changes nothing.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::environment(format!("Cannot start: {error}")))?;
    runtime.block_on(async {
        faults::crash_point("command-begun");
        match &command_line.verb {
            Verb::Up(arguments) => up::run(environment, arguments, json).await,
            Verb::Bootstrap(arguments) => bootstrap::run(&environment, arguments, json).await,
            Verb::Doctor(arguments) => doctor::run(&environment, arguments, json).await,
            Verb::Status(arguments) => status::run(&environment, arguments, json).await,
            Verb::Serve(arguments) => serve::run(&environment, arguments, json).await,
            Verb::DeadLetters(arguments) => letters::run(&environment, arguments, json).await,
            Verb::History(arguments) => history::run(&environment, arguments, json).await,
            Verb::Preview(arguments) => preview::run(&environment, arguments, json).await,
            Verb::Replay(arguments) => replay::run(&environment, arguments, json).await,
            Verb::Credentials(arguments) => credentials::run(arguments, json),
            Verb::Reconcile(arguments) => reconcile::run(&environment, arguments, json).await,
            Verb::Erase(arguments) => erase::run(&environment, arguments, json).await,
            Verb::Probe { address } => Ok(wire::probe(address).await),
            Verb::Forward { listen, to, beside } => wire::forward(listen, to, beside.as_deref()).await,
            Verb::Reap { lock } => Ok(up::reap(lock)),
            Verb::Completions { .. } => Ok(Exit::Fine),
        }
    })
}
