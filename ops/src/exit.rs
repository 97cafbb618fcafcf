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
    /// Stable name of the kind of failure: `nats.connection`.
    pub code: &'static str,
    /// What was wrong and where: whole sentences, no secrets.
    pub text: String,
    /// What to do next; never empty.
    pub action: String,
}

impl Failure {
    /// Gives up because of settings.
    pub fn settings(text: impl fmt::Display) -> Failure {
        let action = "Put it right and run the command again; --help explains its arguments, .env.sample every setting";
        Failure::new(Exit::Settings, "settings", text, action)
    }

    /// Gives up because something is missing around us.
    pub fn environment(text: impl fmt::Display) -> Failure {
        let action =
            "Make it available and run the command again; `rollcall doctor` looks at everything around it";
        Failure::new(Exit::Environment, "environment", text, action)
    }

    /// Gives up because something failed.
    pub fn trouble(text: impl fmt::Display) -> Failure {
        let action =
            "Run the command again; if that does not help, `rollcall doctor` says what is wrong around it";
        Failure::new(Exit::Trouble, "failed", text, action)
    }

    fn new(exit: Exit, code: &'static str, text: impl fmt::Display, action: &str) -> Failure {
        Failure { exit, code, text: text.to_string(), action: action.to_owned() }
    }

    /// Says what to do next, where more is known than the kind of failure.
    pub fn remedy(self, action: impl Into<String>) -> Failure {
        Failure { action: action.into(), ..self }
    }

    /// Names the kind of failure.
    pub fn called(self, code: &'static str) -> Failure {
        Failure { code, ..self }
    }
}
