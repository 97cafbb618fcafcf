//! The contract of every verb: text for people, or with `--json` one object of one shape.

use std::fmt::Write as _;
use std::io::Write as _;

use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::terminal;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Works, but somebody should look.
    Warning,
    /// Does not work.
    Error,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Stable name of the kind of finding: `bitrix24.scope`.
    pub code: &'static str,
    /// What was found and where. Never a secret, and no personal data.
    pub message: String,
    /// What to do about it; empty where nothing is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub action: String,
    /// Tells that settings cannot be used, for the exit code.
    #[serde(skip)]
    pub is_setting: bool,
}

impl Finding {
    /// Finds something in order.
    pub fn ok(code: &'static str, what: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Ok,
            code,
            message: format!("{}: {}", what.into(), found.into()),
            action: String::new(),
            is_setting: false,
        }
    }

    /// Finds something that somebody should look at.
    pub fn warning(
        code: &'static str,
        what: impl Into<String>,
        found: impl Into<String>,
        action: impl Into<String>,
    ) -> Finding {
        let (finding, action) = (Finding::ok(code, what, found), action.into());
        debug_assert!(!action.is_empty(), "{code} does not say what to do");
        Finding { severity: Severity::Warning, action, ..finding }
    }

    /// Finds something that does not work.
    pub fn error(
        code: &'static str,
        what: impl Into<String>,
        found: impl Into<String>,
        action: impl Into<String>,
    ) -> Finding {
        Finding { severity: Severity::Error, ..Finding::warning(code, what, found, action) }
    }
}

/// What a verb has to say.
#[derive(Debug, Serialize)]
pub struct Answer<T> {
    /// True where no finding is an error; the exit code is 0 then.
    pub ok: bool,
    /// One sentence.
    pub summary: String,
    /// What was asked for; its shape is the verb's own.
    pub result: T,
    /// What somebody should know besides.
    pub findings: Vec<Finding>,
}

impl<T: Serialize> Answer<T> {
    /// Puts an answer together.
    pub fn new(summary: impl Into<String>, result: T, findings: Vec<Finding>) -> Answer<T> {
        let ok = exit_of(&findings) == Exit::Fine;
        Answer { ok, summary: summary.into(), result, findings }
    }

    /// Returns the exit code.
    pub fn exit(&self) -> Exit {
        exit_of(&self.findings)
    }

    /// Prints it: as JSON, or as the text that `text` makes of it.
    pub fn tell(&self, json: bool, text: impl FnOnce(&Answer<T>) -> String) -> Result<Exit, Failure> {
        let told = if json {
            terminal::json(&serde_json::to_string_pretty(self).map_err(Failure::trouble)?)
        } else {
            terminal::text(&text(self))
        };
        print(told.trim_end());
        Ok(self.exit())
    }
}

/// Tells a failure: with `json` in the shape of an answer, otherwise on standard error.
pub fn tell_failure(failure: &Failure, json: bool) {
    if json {
        // A failure holds nothing but text, which always serialises.
        print(&terminal::json(&serde_json::to_string_pretty(&of_failure(failure)).unwrap_or_default()));
    } else {
        eprintln!("rollcall: {}", terminal::text(&failure_text(failure)));
    }
}

/// Puts a failure into the shape of an answer.
pub fn of_failure(failure: &Failure) -> Answer<()> {
    let finding = Finding {
        severity: Severity::Error,
        code: failure.code,
        message: failure.text.clone(),
        action: failure.action.clone(),
        is_setting: failure.exit == Exit::Settings,
    };
    Answer::new(failure.text.clone(), (), vec![finding])
}

/// Tells a failure to people.
pub fn failure_text(failure: &Failure) -> String {
    format!("{}\n  -> {}", failure.text, failure.action)
}

/// Counts in words: `1 dead letter`, `2 dead letters`.
pub fn count<N: PartialEq<N> + From<u8> + std::fmt::Display>(number: N, what: &str) -> String {
    format!("{number} {what}{}", if number == N::from(1) { "" } else { "s" })
}

/// Prints to standard output. Whoever closed the pipe has read enough.
pub fn print(text: &str) {
    let _closed = writeln!(std::io::stdout().lock(), "{text}");
}

/// Returns the exit code: settings outrank what follows from them.
fn exit_of(findings: &[Finding]) -> Exit {
    let mut errors = findings.iter().filter(|finding| finding.severity == Severity::Error).peekable();
    if errors.peek().is_none() {
        return Exit::Fine;
    }
    if errors.any(|finding| finding.is_setting) { Exit::Settings } else { Exit::Trouble }
}

/// Tells findings to people, the worst last, where it is still on the screen.
pub fn findings_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut findings: Vec<&Finding> = findings.iter().collect();
    findings.sort_by_key(|finding| finding.severity);
    for finding in findings {
        let word = match finding.severity {
            Severity::Ok => "ok     ",
            Severity::Warning => "warning",
            Severity::Error => "ERROR  ",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{word}  {}", finding.message);
        if !finding.action.is_empty() {
            let _ = writeln!(text, "         -> {}", finding.action);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_and_stands_last() {
        let findings = vec![
            Finding::error("nats.connection", "NATS", "no answer", "start it"),
            Finding::ok("settings", "Settings", "all readable"),
            Finding::warning("nats.dead_letters", "Dead letters", "2", "read them"),
        ];
        assert_eq!(exit_of(&findings), Exit::Trouble);
        let text = findings_text(&findings);
        assert!(text.find("ok ").unwrap() < text.find("warning").unwrap(), "{text}");
        assert!(text.contains("ERROR    NATS: no answer\n         -> start it"), "{text}");
        assert_eq!(exit_of(&findings[1..]), Exit::Fine);
        let mut setting = Finding::error("settings", "Settings", "nothing", "set it");
        setting.is_setting = true;
        assert_eq!(exit_of(&[setting]), Exit::Settings);
    }

    #[test]
    fn an_answer_has_one_shape() {
        let answer = Answer::new("All is well.", 7, vec![Finding::ok("a.b", "A", "fine")]);
        let value = serde_json::to_value(&answer).unwrap();
        let expected = serde_json::json!({
            "ok": true,
            "summary": "All is well.",
            "result": 7,
            "findings": [{"severity": "ok", "code": "a.b", "message": "A: fine"}],
        });
        assert_eq!(value, expected);
    }
}
