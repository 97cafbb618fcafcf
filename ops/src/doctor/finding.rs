//! What the doctor found, and how it is told.

use std::fmt::Write as _;

use serde::Serialize;

use crate::exit::Exit;

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

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Stable name of what was looked at: `bitrix24.scope`.
    pub check: &'static str,
    /// What was looked at, for people.
    pub what: String,
    /// What was found there. Never a secret.
    pub found: String,
    /// What to do about it; empty where nothing is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// Tells that settings cannot be used, for the exit code.
    #[serde(skip)]
    pub is_setting: bool,
}

impl Finding {
    /// Finds something in order.
    pub fn ok(check: &'static str, what: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Ok,
            check,
            what: what.into(),
            found: found.into(),
            remedy: String::new(),
            is_setting: false,
        }
    }

    /// Finds something that somebody should look at.
    pub fn warning(
        check: &'static str,
        what: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        let finding = Finding::ok(check, what, found);
        Finding { severity: Severity::Warning, remedy: remedy.into(), ..finding }
    }

    /// Finds something that does not work.
    pub fn error(
        check: &'static str,
        what: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { severity: Severity::Error, ..Finding::warning(check, what, found, remedy) }
    }
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The worst of it.
    pub worst: Severity,
    /// All of it, in the order in which it was looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Draws the sum.
    pub fn new(findings: Vec<Finding>) -> Report {
        let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
        Report { worst, findings }
    }

    /// Returns the exit code: settings outrank what follows from them.
    pub fn exit(&self) -> Exit {
        if self.findings.iter().any(|finding| finding.is_setting && finding.severity == Severity::Error) {
            return Exit::Settings;
        }
        if self.worst == Severity::Error { Exit::Trouble } else { Exit::Fine }
    }

    /// Tells it to people, the worst last, where it is still on the screen.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut findings: Vec<&Finding> = self.findings.iter().collect();
        findings.sort_by_key(|finding| finding.severity);
        for finding in findings {
            let Finding { severity, what, found, remedy, .. } = finding;
            let word = match severity {
                Severity::Ok => "ok     ",
                Severity::Warning => "warning",
                Severity::Error => "ERROR  ",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{word}  {what}: {found}");
            if !remedy.is_empty() {
                let _ = writeln!(text, "         -> {remedy}");
            }
        }
        let count = |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let _ = writeln!(text, "\n{} checks: {errors} errors, {warnings} warnings.", self.findings.len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_and_stands_last() {
        let report = Report::new(vec![
            Finding::error("nats.connection", "NATS", "no answer", "start it"),
            Finding::ok("settings", "Settings", "all readable"),
            Finding::warning("nats.dead_letters", "Dead letters", "2", "read them"),
        ]);
        assert_eq!((report.worst, report.exit()), (Severity::Error, Exit::Trouble));
        let text = report.text();
        assert!(text.find("ok ").unwrap() < text.find("warning").unwrap(), "{text}");
        assert!(text.contains("ERROR    NATS: no answer\n         -> start it"), "{text}");
        assert_eq!(Report::new(report.findings[1..].to_vec()).exit(), Exit::Fine);
        let mut setting = Finding::error("settings", "Settings", "nothing", "set it");
        setting.is_setting = true;
        assert_eq!(Report::new(vec![setting]).exit(), Exit::Settings);
    }
}
