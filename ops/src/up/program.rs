//! One program that `up` starts: where it is, what it sees, where its words go.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::environment::Environment;

/// Length in bytes from which a log begins anew; the one before is kept beside it.
const LOG_LIMIT: u64 = 8 << 20;

/// A program with all that it takes to start it, again and again.
#[derive(Clone)]
pub struct Program {
    pub name: &'static str,
    pub path: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Environment,
    pub log: PathBuf,
}

impl Program {
    /// Starts it with all its words in its log.
    pub fn start(&self) -> io::Result<Child> {
        let log = self.open_log()?;
        self.command().stdout(log.try_clone()?).stderr(log).spawn()
    }

    /// Starts it with its standard output in a pipe.
    pub fn start_with_pipe(&self) -> io::Result<Child> {
        self.command().stdout(Stdio::piped()).stderr(self.open_log()?).spawn()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        self.environment.apply(&mut command);
        // A group of its own: Ctrl-C reaches only us, and we stop everybody in order.
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        command
    }

    fn open_log(&self) -> io::Result<File> {
        shorten(&self.log)?;
        // Appending, so that it may be emptied while the program writes to it.
        OpenOptions::new().create(true).append(true).open(&self.log)
    }
}

/// Begins a log that has grown long anew. Lines written at that very moment may be lost.
pub fn shorten(log: &Path) -> io::Result<()> {
    let length = match std::fs::metadata(log) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if length < LOG_LIMIT {
        return Ok(());
    }
    let mut former = log.as_os_str().to_owned();
    former.push(".1");
    std::fs::copy(log, former)?;
    OpenOptions::new().write(true).open(log)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_begins_anew_and_a_short_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("mapper.log");
        shorten(&log).unwrap();
        std::fs::write(&log, b"short").unwrap();
        shorten(&log).unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"short");
        File::options().write(true).open(&log).unwrap().set_len(LOG_LIMIT).unwrap();
        shorten(&log).unwrap();
        assert_eq!(std::fs::metadata(&log).unwrap().len(), 0);
        assert_eq!(std::fs::metadata(folder.path().join("mapper.log.1")).unwrap().len(), LOG_LIMIT);
    }
}
