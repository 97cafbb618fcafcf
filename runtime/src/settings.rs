//! Settings: read by name from the environment, then from an optional TOML file; every mistake is reported at once.
//!
//! Tests hand in a map; only [`Source::from_process`] touches the environment.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeZone};
use chrono_tz::Tz;
use schemas::problem::clean;
use secrecy::SecretString;

/// Variable that names the TOML file.
pub const CONFIG_FILE: &str = "ROLLCALL_CONFIG";

/// Where the texts of settings come from. The environment wins over the file.
pub struct Source {
    environment: HashMap<String, String>,
    file: toml::Table,
    file_problem: Option<SettingProblem>,
    open_files: RefCell<BTreeSet<PathBuf>>,
}

impl Source {
    /// Takes the environment of this process and the file that it names.
    pub fn from_process() -> Source {
        Source::new(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }))
    }

    /// Takes these variables as the environment.
    pub fn new(environment: impl IntoIterator<Item = (String, String)>) -> Source {
        let environment: HashMap<String, String> = environment.into_iter().collect();
        let (file, file_problem) = match environment.get(CONFIG_FILE).filter(|path| !path.trim().is_empty()) {
            Some(path) => read_file(Path::new(path)),
            None => (toml::Table::new(), None),
        };
        Source { environment, file, file_problem, open_files: RefCell::default() }
    }

    /// Returns the files of secrets read so far that others than their owner may read or write.
    pub fn open_files(&self) -> Vec<PathBuf> {
        self.open_files.borrow().iter().cloned().collect()
    }

    /// Takes these variables as the environment, and this text as the file, whatever the variables name.
    pub fn with_file(environment: impl IntoIterator<Item = (String, String)>, text: &str) -> Source {
        let (file, file_problem) = parse_file(text);
        let environment = environment.into_iter().collect();
        Source { environment, file, file_problem, open_files: RefCell::default() }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.environment.get(name).cloned().or_else(|| self.in_file(name))
    }

    fn in_file(&self, name: &str) -> Option<String> {
        let value = self.file.get(name).or_else(|| self.file.get(&name.to_ascii_lowercase()))?;
        Some(match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(","),
            other => other.to_string(),
        })
    }
}

/// A file that holds a secret, to be read again when the secret may have been replaced.
#[derive(Clone, Debug)]
pub struct SecretFile(PathBuf);

impl SecretFile {
    /// Reads the secret; `None` where the file is empty or cannot be read at the moment.
    pub fn read(&self) -> Option<SecretString> {
        let text = std::fs::read_to_string(&self.0).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty()).map(SecretString::from)
    }
}

/// Says aloud which files of secrets are open to others.
pub fn warn_about_open_files(source: &Source) {
    for path in source.open_files() {
        let path = path.display();
        tracing::warn!(
            "Others than its owner may read or change {path}, which holds a secret: chmod 400 {path}"
        );
    }
}

fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

fn read_file(path: &Path) -> (toml::Table, Option<SettingProblem>) {
    match std::fs::read_to_string(path) {
        Ok(text) => parse_file(&text),
        Err(error) => (toml::Table::new(), Some(file_problem(error.kind().to_string()))),
    }
}

fn parse_file(text: &str) -> (toml::Table, Option<SettingProblem>) {
    match text.parse::<toml::Table>() {
        Ok(table) => (table, None),
        // The error's own text quotes the line, which may hold a secret.
        Err(error) => {
            let before = |start: usize| text.bytes().take(start).filter(|byte| *byte == b'\n').count();
            let line = error.span().map_or(0, |span| before(span.start) + 1);
            (toml::Table::new(), Some(file_problem(format!("a file that is not TOML at line {line}"))))
        }
    }
}

fn file_problem(found: String) -> SettingProblem {
    SettingProblem {
        name: CONFIG_FILE.into(),
        found,
        expected: "the path of a readable TOML file".into(),
        example: "./rollcall.toml".into(),
    }
}

/// One setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingProblem {
    /// Name of the setting.
    pub name: String,
    /// What stands there; never the value of a secret.
    pub found: String,
    /// What should.
    pub expected: String,
    /// A value that would do.
    pub example: String,
}

/// All settings that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(pub Vec<SettingProblem>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to put right:", count(self.0.len(), "setting"))?;
        for problem in &self.0 {
            let SettingProblem { name, found, expected, example } = problem;
            write!(f, "\n  {name}: found {found}; expected {expected}, for example {name}={example}")?;
        }
        Ok(())
    }
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Most characters of what is told of a setting that cannot be used.
const MOST_FOUND: usize = 400;

/// What a PEM file of certificates holds at least once.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Reads settings one by one and remembers every mistake.
pub struct Reader<'s> {
    source: &'s Source,
    problems: RefCell<Vec<SettingProblem>>,
}

impl<'s> Reader<'s> {
    /// Starts reading.
    pub fn new(source: &'s Source) -> Reader<'s> {
        Reader { source, problems: RefCell::new(source.file_problem.iter().cloned().collect()) }
    }

    /// Ends reading: the value, or every mistake.
    ///
    /// `build` puts the parts together with `?`; it gives `None` exactly when a part is missing.
    pub fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, SettingsError> {
        let problems = self.problems.into_inner();
        match build() {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(SettingsError(problems)),
        }
    }

    /// Adds a mistake that only two settings together make.
    pub fn problem(&self, name: &str, found: &str, expected: &str, example: &str) {
        self.problems.borrow_mut().push(SettingProblem {
            name: name.into(),
            // It goes to a terminal, and may be anything and as long as it likes.
            found: clean(found).chars().take(MOST_FOUND).collect(),
            expected: expected.into(),
            example: example.into(),
        });
    }

    /// Returns the trimmed text of a setting, `None` where it is absent or blank.
    pub fn optional_text(&self, name: &str) -> Option<String> {
        self.source.text(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Reads a setting that has to be there.
    pub fn required<T>(
        &self,
        name: &str,
        expected: &str,
        example: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let Some(text) = self.optional_text(name) else {
            self.problem(name, "nothing", expected, example);
            return None;
        };
        self.parsed(name, &text, expected, example, parse)
    }

    /// Reads a setting that has a default.
    pub fn with_default<T>(
        &self,
        name: &str,
        default: T,
        expected: &str,
        example: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        match self.optional_text(name) {
            Some(text) => self.parsed(name, &text, expected, example, parse),
            None => Some(default),
        }
    }

    fn parsed<T>(
        &self,
        name: &str,
        text: &str,
        expected: &str,
        example: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = parse(text);
        if value.is_none() {
            self.problem(
                name,
                &format!("`{}`", text.chars().take(80).collect::<String>()),
                expected,
                example,
            );
        }
        value
    }

    /// Reads a secret from `NAME`, or from the file that `NAME_FILE` names. A bad one is reported by name only.
    ///
    /// The outer `None` is a mistake, the inner one an absent secret.
    pub fn optional_secret(
        &self,
        name: &str,
        expected: &str,
        example: &str,
        check: impl Fn(&str) -> bool,
    ) -> Option<Option<SecretString>> {
        let file_name = format!("{name}_FILE");
        let text = match (self.optional_text(name), self.optional_text(&file_name)) {
            (Some(text), None) => text,
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(text) => {
                    if is_open_to_others(Path::new(&path)) {
                        self.source.open_files.borrow_mut().insert(path.into());
                    }
                    text.trim().to_owned()
                }
                Err(error) => {
                    self.problem(
                        &file_name,
                        &format!("`{path}`: {}", error.kind()),
                        "the path of a readable file",
                        "/run/secrets/name",
                    );
                    return None;
                }
            },
            (Some(_), Some(_)) => {
                self.problem(
                    &file_name,
                    &format!("a path beside a value in {name}"),
                    "only one of the two",
                    "/run/secrets/name",
                );
                return None;
            }
            (None, None) => return Some(None),
        };
        if text.is_empty() {
            return Some(None);
        }
        if check(&text) {
            return Some(Some(text.into()));
        }
        self.problem(name, "a value that does not fit (not shown: it is a secret)", expected, example);
        None
    }

    /// Reads a secret that has to be there.
    pub fn required_secret(
        &self,
        name: &str,
        expected: &str,
        example: &str,
        check: impl Fn(&str) -> bool,
    ) -> Option<SecretString> {
        let secret = self.optional_secret(name, expected, example, check)?;
        if secret.is_none() {
            self.problem(name, "nothing", expected, example);
        }
        secret
    }

    /// Returns the file that a secret comes from, if it comes from one.
    pub fn secret_file(&self, name: &str) -> Option<SecretFile> {
        self.optional_text(&format!("{name}_FILE")).map(|path| SecretFile(path.into()))
    }

    /// Reads a file of certificate authorities (PEM). The outer `None` is a mistake, the inner one no such setting.
    pub fn authorities(&self, name: &str) -> Option<Option<Vec<u8>>> {
        self.with_default(
            name,
            None,
            "a readable PEM file with certificates",
            "/etc/ssl/school.pem",
            |path| {
                let pem = std::fs::read(path).ok()?;
                pem.windows(CERTIFICATE.len()).any(|window| window == CERTIFICATE).then_some(Some(pem))
            },
        )
    }

    /// Reads a length of time such as `60s` or `5m`; it has to be longer than nothing.
    pub fn duration(&self, name: &str, default: Duration, example: &str) -> Option<Duration> {
        self.with_default(name, default, "a length of time", example, |text| {
            humantime::parse_duration(text).ok().filter(|duration| !duration.is_zero())
        })
    }

    /// Reads a whole number within bounds.
    pub fn number(
        &self,
        name: &str,
        default: u64,
        bounds: std::ops::RangeInclusive<u64>,
        example: &str,
    ) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        self.with_default(name, default, &expected, example, |text| {
            text.parse().ok().filter(|number| bounds.contains(number))
        })
    }

    /// Reads a date or a date with time; without an offset it is meant in the given zone.
    pub fn moment(&self, name: &str, zone: Tz, example: &str) -> Option<DateTime<FixedOffset>> {
        let expected = "a date, or a date with time and perhaps an offset";
        self.required(name, expected, example, |text| parse_moment(text, zone))
    }

    /// Reads the time zone of the portal.
    pub fn zone(&self) -> Option<Tz> {
        self.with_default(
            "PORTAL_TIME_ZONE",
            Tz::Europe__Moscow,
            "a time zone name",
            "Europe/Moscow",
            |text| text.parse().ok(),
        )
    }

    /// Reads the folder of the local caches.
    pub fn state_dir(&self) -> Option<PathBuf> {
        self.with_default("STATE_DIR", PathBuf::from("./state"), "a folder", "./state", |text| {
            Some(text.into())
        })
    }

    /// Reads how many seconds pass on the portal in one second here: 1 except against a simulator with a fast clock.
    pub fn clock_speed(&self) -> Option<f64> {
        self.with_default(
            "PORTAL_CLOCK_SPEED",
            1.0,
            "a factor from 0.1 to 10000, 1 for every real portal",
            "1",
            |text| text.parse().ok().filter(|speed: &f64| (0.1..=10_000.0).contains(speed)),
        )
    }

    /// Reads a list of words.
    pub fn list(&self, name: &str, default: &[&str], example: &str) -> Option<Vec<String>> {
        let default = default.iter().map(|&item| item.to_owned()).collect();
        self.with_default(name, default, "one or several words, comma separated", example, |text| {
            let items: Vec<String> = text.split(',').map(|item| item.trim().to_owned()).collect();
            items.iter().all(|item| !item.is_empty()).then_some(items)
        })
    }

    /// Reads the code of a status field.
    pub fn field_code(&self, name: &str) -> Option<String> {
        self.with_default(
            name,
            "UF_CRM_SYNC_STATUS".into(),
            "the code of a custom text field",
            "UF_CRM_SYNC_STATUS",
            |text| {
                let fits = text.starts_with("UF_CRM_")
                    && text.len() > 7
                    && text.len() <= 50
                    && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
                fits.then(|| text.to_owned())
            },
        )
    }
}

fn parse_moment(text: &str, zone: Tz) -> Option<DateTime<FixedOffset>> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Some(moment);
    }
    let local = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(|| {
            NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(|date| date.and_time(NaiveTime::MIN))
        })?;
    zone.from_local_datetime(&local).earliest().map(|moment| moment.fixed_offset())
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn source(pairs: &[(&str, &str)]) -> Source {
        Source::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn every_mistake_is_reported_at_once_and_no_secret_is_shown() {
        let source = source(&[("A", "x\u{1b}[2J"), ("B", "soon"), ("TOKEN", "hunter2"), ("C", "  ")]);
        let reader = Reader::new(&source);
        let a = reader.number("A", 1, 1..=9, "3");
        let b = reader.duration("B", Duration::from_secs(1), "60s");
        let c = reader.required("C", "a name", "x", |text| Some(text.to_owned()));
        let token = reader.required_secret("TOKEN", "40 letters", "abc", |_| false);
        let error = reader.finish(|| Some((a?, b?, c?, token?))).unwrap_err();
        let names: Vec<_> = error.0.iter().map(|problem| problem.name.as_str()).collect();
        assert_eq!(names, ["A", "B", "C", "TOKEN"]);
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2") && text.contains("found `x[2J`"), "{text}");
        assert!(text.contains("4 settings to put right") && text.contains("B=60s"), "{text}");
    }

    #[test]
    fn dates_without_an_offset_are_in_the_portals_zone() {
        let source = source(&[("D", "2020-12-22"), ("E", "2020-12-22T10:00:00+05:00")]);
        let reader = Reader::new(&source);
        assert_eq!(
            reader.moment("D", Tz::Europe__Moscow, "").unwrap().to_rfc3339(),
            "2020-12-22T00:00:00+03:00"
        );
        assert_eq!(
            reader.moment("E", Tz::Europe__Moscow, "").unwrap().to_rfc3339(),
            "2020-12-22T10:00:00+05:00"
        );
        assert!(reader.finish(|| Some(())).is_ok());
    }

    #[test]
    fn a_secret_file_that_others_may_read_is_named_and_one_of_the_owner_alone_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mut found = Vec::new();
        for mode in [0o400, 0o600, 0o440, 0o404, 0o620] {
            let path = folder.path().join(format!("{mode:o}"));
            std::fs::write(&path, "abc\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let source = source(&[("TOKEN_FILE", path.to_str().unwrap())]);
            let reader = Reader::new(&source);
            assert!(reader.required_secret("TOKEN", "", "", |_| true).is_some());
            let file = reader.secret_file("TOKEN").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::fs::write(&path, "def\n").unwrap();
            assert_eq!(file.read().unwrap().expose_secret(), "def");
            found.extend(source.open_files());
        }
        let named: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(named, ["440", "404", "620"]);
    }

    #[test]
    fn a_file_of_authorities_has_to_hold_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let path = path.to_str().unwrap();
        let source = source(&[("CA_FILE", path)]);
        let read = || {
            let reader = Reader::new(&source);
            let pem = reader.authorities("CA_FILE");
            reader.finish(|| pem)
        };
        assert!(read().unwrap_err().to_string().contains("CA_FILE"));
        std::fs::write(path, "-----BEGIN PRIVATE KEY-----").unwrap();
        assert!(read().is_err());
        std::fs::write(path, "-----BEGIN CERTIFICATE-----").unwrap();
        assert!(read().unwrap().is_some());
    }

    #[test]
    fn the_environment_wins_over_the_file_and_a_secret_may_be_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("rollcall.toml");
        std::fs::write(&config, "state_dir = \"/from/file\"\nDEAL_SYNC_INTERVAL = \"5m\"\n").unwrap();
        let secret = folder.path().join("token");
        std::fs::write(&secret, "abc\n").unwrap();
        let source = source(&[
            (CONFIG_FILE, config.to_str().unwrap()),
            ("STATE_DIR", "/from/environment"),
            ("TOKEN_FILE", secret.to_str().unwrap()),
        ]);
        let reader = Reader::new(&source);
        assert_eq!(reader.state_dir(), Some(PathBuf::from("/from/environment")));
        assert_eq!(
            reader.duration("DEAL_SYNC_INTERVAL", Duration::from_secs(60), "60s"),
            Some(Duration::from_secs(300))
        );
        assert_eq!(reader.required_secret("TOKEN", "", "", |_| true).unwrap().expose_secret(), "abc");
    }

    #[test]
    fn a_broken_file_is_named_with_its_line_but_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("rollcall.toml");
        std::fs::write(&config, "a = 1\nOTMECHALKA_TOKEN = hunter2\n").unwrap();
        let source = source(&[(CONFIG_FILE, config.to_str().unwrap())]);
        let error = Reader::new(&source).finish(|| Some(())).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    }
}
