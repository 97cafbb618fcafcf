//! Settings as this process and the programs it starts see them: the environment, then a `.env` file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use runtime::{Reader, Source};

use crate::exit::Failure;

const DEFAULT_FILE: &str = ".env";

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
        let text = std::fs::read(&path)
            .map_err(|error| Failure::settings(format!("Cannot read {}: {error}", path.display())))?;
        let pairs = parse(&text).map_err(|line| {
            // The line itself may hold a secret.
            Failure::settings(format!("{}: line {line} is not NAME=value", path.display()))
        })?;
        let mut environment = Environment::default();
        for (name, value) in pairs {
            if std::env::var_os(&name).is_none() {
                environment.set(&name, value);
            }
        }
        Ok(environment)
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
