//! Everything that can be wrong with a record, and the Russian text that tells a school manager.
//!
//! The one place where such texts are made. They are stable from run to run, so that an unchanged
//! problem gives an unchanged status.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The status of a record that is in otmechalka, or need not be.
pub const SUCCESS: &str = "Успешно";

/// Longest status text, in characters.
pub const STATUS_MAX_CHARS: usize = 1_000;

/// One thing that is wrong with a record, with the text that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Stable machine-readable name of the kind of problem, for example `phone.invalid`.
    pub code: String,
    /// Russian sentence: the field's human name, the offending value, what to do.
    pub text: String,
}

impl Problem {
    /// Names the kind of problem and tells it to a manager.
    pub fn new(code: &str, text: impl Into<String>) -> Problem {
        Problem { code: code.to_owned(), text: text.into() }
    }
}

/// Joins the texts of all problems of a record into its status.
pub fn status_text(problems: &[Problem]) -> String {
    let joined = problems.iter().map(|problem| problem.text.as_str()).collect::<Vec<_>>().join(" ");
    if joined.chars().count() <= STATUS_MAX_CHARS {
        return joined;
    }
    joined.chars().take(STATUS_MAX_CHARS - 1).chain(['…']).collect()
}
