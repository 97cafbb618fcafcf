//! How the command line ends: a sentence and one of four exit codes.

use std::fmt;
use std::process::ExitCode;

/// What an exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Fine = 0,
    /// Something went wrong, or was found wrong.
    Trouble = 1,
    /// Settings or arguments cannot be used. The same code as for arguments that clap refuses.
    Settings = 2,
    /// This machine or its neighbourhood lacks something: a program, a server, a folder.
    Environment = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Explains the exit codes at the end of `--help`.
pub const EXPLANATION: &str = "Exit codes: 0 fine; 1 something failed or was found wrong; \
    2 settings or arguments cannot be used; 3 a program, a server or a folder is missing.";

/// Why a command gave up.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What to tell the operator: whole sentences, no secrets.
    pub text: String,
}

impl Failure {
    /// Gives up because of settings.
    pub fn settings(text: impl fmt::Display) -> Failure {
        Failure { exit: Exit::Settings, text: text.to_string() }
    }

    /// Gives up because something is missing around us.
    pub fn environment(text: impl fmt::Display) -> Failure {
        Failure { exit: Exit::Environment, text: text.to_string() }
    }

    /// Gives up because something failed.
    pub fn trouble(text: impl fmt::Display) -> Failure {
        Failure { exit: Exit::Trouble, text: text.to_string() }
    }
}
