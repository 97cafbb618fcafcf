//! Settings as this process and the programs it starts see them: the environment, then a `.env` file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use runtime::{Reader, Source};

use crate::exit::Failure;

const DEFAULT_FILE: &str = ".env";

/// File in the state folder with what a running `up` started itself.
const RUNNING: &str = "running.env";

/// The environment of this process with changes on top, for example what a file adds.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    set: BTreeMap<String, String>,
    unset: BTreeSet<String>,
}

impl Environment {
    /// Reads the file named on the command line, or `.env` if there is one.
    pub fn load(named: Option<&Path>) -> Result<Environment, Failure> {
        let path = match named {
            Some(path) => path.to_owned(),
            None if Path::new(DEFAULT_FILE).is_file() => PathBuf::from(DEFAULT_FILE),
            None => return Ok(Environment::default()),
        };
        let text = std::fs::read(&path).map_err(|error| {
            Failure::settings(format!("Cannot read {}: {error}", path.display()))
                .remedy("Name a readable file with --env-file, or leave it away")
        })?;
        let pairs = parse(&text).map_err(|line| {
            // The line itself may hold a secret.
            Failure::settings(format!("{}: line {line} is not NAME=value", path.display()))
                .remedy("Put that line right, or begin it with # to leave it out")
        })?;
        let mut environment = Environment::default();
        environment.set_absent(pairs);
        Ok(environment)
    }

    /// Adds what a running `rollcall up` on the same state folder started itself: its NATS and its doubles.
    pub fn follow_running(&mut self) {
        let folder = self.text("STATE_DIR").unwrap_or_else(|| "./state".to_owned());
        let running = std::fs::read(Path::new(&folder).join(RUNNING)).ok();
        // Written by us; where it is not there or not readable, there is nothing to follow.
        let pairs = running.and_then(|text| parse(&text).ok()).unwrap_or_default();
        if !self.has("NATS_URL") {
            self.set_absent(pairs);
        }
    }

    /// Writes these settings for [`Environment::follow_running`], readable by this user alone.
    pub fn write_running(&self, names: &[&str], state: &Path) -> std::io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let lines: String = names
            .iter()
            .filter_map(|name| Some((name, self.text(name)?)))
            // Nothing that `up` sets itself has a quote in it.
            .filter(|(_, value)| !value.contains('\''))
            .map(|(name, value)| format!("{name}='{value}'\n"))
            .collect();
        let path = state.join(RUNNING);
        let _absent = std::fs::remove_file(&path);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        std::io::Write::write_all(&mut file, lines.as_bytes())
    }

    /// Takes back what [`Environment::write_running`] wrote.
    pub fn forget_running(state: &Path) {
        let _absent = std::fs::remove_file(state.join(RUNNING));
    }

    fn set_absent(&mut self, pairs: Vec<(String, String)>) {
        for (name, value) in pairs {
            if std::env::var_os(&name).is_none() && !self.set.contains_key(&name) {
                self.set(&name, value);
            }
        }
    }

    /// Gives a variable this value.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.unset.remove(name);
        self.set.insert(name.to_owned(), value.into());
    }

    /// Gives a variable this value where it has none.
    pub fn set_default(&mut self, name: &str, value: &str) {
        if self.text(name).is_none() {
            self.set(name, value);
        }
    }

    /// Takes a variable away, and the one that names a file with its value.
    pub fn unset(&mut self, name: &str) {
        for name in [name.to_owned(), format!("{name}_FILE")] {
            self.set.remove(&name);
            self.unset.insert(name);
        }
    }

    /// Returns the settings as the stages read them, a TOML file included.
    pub fn source(&self) -> Source {
        let inherited = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .filter(|(name, _)| !self.unset.contains(name));
        let own = self.set.iter().map(|(name, value)| (name.clone(), value.clone()));
        Source::new(inherited.chain(own))
    }

    /// Returns the text of a setting wherever it stands, `None` where it is absent or blank.
    pub fn text(&self, name: &str) -> Option<String> {
        Reader::new(&self.source()).optional_text(name)
    }

    /// Tells whether a setting is given, directly or as a file.
    pub fn has(&self, name: &str) -> bool {
        self.text(name).is_some() || self.text(&format!("{name}_FILE")).is_some()
    }

    /// Makes a program see this environment.
    pub fn apply(&self, command: &mut tokio::process::Command) {
        self.unset.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.envs(&self.set);
    }
}

/// Reads the pairs of a dotenv file, or tells the line that is none.
fn parse(text: &[u8]) -> Result<Vec<(String, String)>, usize> {
    let mut pairs = Vec::new();
    for pair in dotenvy::from_read_iter(text) {
        pairs.push(pair.map_err(|error| line_of(&error, text))?);
    }
    Ok(pairs)
}

/// The library tells the text of the line; its place is where that text stands.
fn line_of(error: &dotenvy::Error, text: &[u8]) -> usize {
    let text = String::from_utf8_lossy(text);
    let dotenvy::Error::LineParse(bad, _) = error else { return text.lines().count() };
    let first = bad.lines().next().unwrap_or_default().trim();
    text.lines().position(|line| line.trim() == first).map_or(text.lines().count(), |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotenv_file_is_read_with_comments_quotes_and_blanks() {
        let text = b"# a comment\n\nA=1\nexport B=\"two words\" # why\nC='$A # as it stands'\nD=\n";
        let pairs = parse(text).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs,
            [pair("A", "1"), pair("B", "two words"), pair("C", "$A # as it stands"), pair("D", "")]
        );
    }

    #[test]
    fn a_broken_line_is_named_by_its_number_only() {
        assert_eq!(parse(b"A=1\nTOKEN hunter2\n"), Err(2));
    }

    #[test]
    fn a_running_up_is_followed_unless_another_nats_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut up = Environment::default();
        up.set("ROLLCALL_TEST_URL", "http://127.0.0.1:1/rest");
        up.set("ROLLCALL_TEST_OTHER", "kept");
        up.write_running(&["ROLLCALL_TEST_URL", "ROLLCALL_TEST_ABSENT"], folder.path()).unwrap();
        let mut verb = Environment::default();
        verb.set("STATE_DIR", folder.path().display().to_string());
        verb.follow_running();
        assert_eq!(verb.text("ROLLCALL_TEST_URL").as_deref(), Some("http://127.0.0.1:1/rest"));
        assert_eq!(verb.text("ROLLCALL_TEST_OTHER"), None);
        let mut elsewhere = Environment::default();
        elsewhere.set("STATE_DIR", folder.path().display().to_string());
        elsewhere.set("NATS_URL", "nats://nats.example:4222");
        elsewhere.follow_running();
        assert_eq!(elsewhere.text("ROLLCALL_TEST_URL"), None);
        Environment::forget_running(folder.path());
        let mut later = Environment::default();
        later.set("STATE_DIR", folder.path().display().to_string());
        later.follow_running();
        assert_eq!(later.text("ROLLCALL_TEST_URL"), None);
    }

    #[test]
    fn what_is_unset_is_not_seen_and_what_is_set_is() {
        let mut environment = Environment::default();
        environment.set("ROLLCALL_TEST_TOKEN_FILE", "/run/secrets/token");
        assert!(environment.has("ROLLCALL_TEST_TOKEN"));
        environment.unset("ROLLCALL_TEST_TOKEN");
        assert!(!environment.has("ROLLCALL_TEST_TOKEN"));
        environment.set_default("ROLLCALL_TEST_TOKEN", "first");
        environment.set_default("ROLLCALL_TEST_TOKEN", "second");
        assert_eq!(environment.text("ROLLCALL_TEST_TOKEN").as_deref(), Some("first"));
    }
}
