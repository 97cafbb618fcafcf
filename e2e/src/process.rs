//! A real program as a child process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Returns the path of one of the workspace's programs, built beside this one.
pub fn program_path(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own
        .ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is not built; run `cargo build --workspace --bins`"))?;
    Ok(path)
}

/// Fails where a program was built without crash points and mistakes, so that no test waits for them in vain.
pub fn require_fault_points(name: &str) -> anyhow::Result<()> {
    let told = std::process::Command::new(program_path(name)?).arg("--version").output()?;
    let version = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(
        version.contains("with fault points"),
        "{name} was built alone, without fault points; run `cargo build --workspace --bins`"
    );
    Ok(())
}

/// A running program, killed when dropped.
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a program; what it prints on standard error goes to a file in `logs`.
    pub fn start<'e>(
        name: &str,
        arguments: &[&str],
        environment: impl IntoIterator<Item = (&'e str, String)>,
        logs: &Path,
    ) -> anyhow::Result<Program> {
        Program::start_behind(&[], name, arguments, environment, logs)
    }

    /// Starts a program by another one, which becomes it: `entrance` is that one with its arguments.
    pub fn start_behind<'e>(
        entrance: &[String],
        name: &str,
        arguments: &[&str],
        environment: impl IntoIterator<Item = (&'e str, String)>,
        logs: &Path,
    ) -> anyhow::Result<Program> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let mut words = entrance.iter().map(OsString::from).chain([program_path(name)?.into_os_string()]);
        let first = words.next().context("a program")?;
        let child = Command::new(first)
            .args(words)
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| (OsStr::new("PATH").to_owned(), path)))
            .envs(environment.into_iter().collect::<Vec<_>>())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Program { name: name.to_owned(), child, log })
    }

    /// Waits for the one JSON line that tells where the program listens.
    pub async fn ready_line(&mut self) -> anyhow::Result<Value> {
        let line = self.first_line().await?;
        serde_json::from_str(&line).with_context(|| format!("the ready line of {}", self.name))
    }

    /// Waits for the first line that it prints.
    pub async fn first_line(&mut self) -> anyhow::Result<String> {
        let stdout = self.child.stdout.take().context("standard output is taken")?;
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        tokio::time::timeout(Duration::from_secs(30), reader.read_line(&mut line))
            .await
            .with_context(|| format!("{} did not get ready; see {}", self.name, self.log.display()))??;
        // Keeps the pipe open and empty, or the program would stop at its next line.
        tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
        Ok(line)
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its process id while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for it to end by itself.
    pub async fn ended(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let ended = tokio::time::timeout(deadline, self.child.wait()).await;
        Ok(ended.with_context(|| format!("{} did not end within {deadline:?}", self.name))??)
    }

    /// Returns what it logged so far.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }

    /// Kills it at once.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Tells it to stop and returns its exit code; it has ten seconds.
    pub async fn stop(&mut self) -> anyhow::Result<i32> {
        self.signal(Signal::SIGTERM)?;
        let status = tokio::time::timeout(Duration::from_secs(10), self.child.wait())
            .await
            .with_context(|| format!("{} did not stop within 10 s", self.name))??;
        status.code().with_context(|| format!("{} was killed by a signal", self.name))
    }

    /// Freezes it, as a stalled machine would.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Returns the most memory that it has held so far, in KiB, its own file not counted: unoptimised programs are large.
    pub fn peak_memory_kib(&self) -> anyhow::Result<u64> {
        let id = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let kib = |name: &str| -> anyhow::Result<u64> {
            let line =
                status.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
            Ok(line.split_whitespace().nth(1).with_context(|| format!("no number in {name}"))?.parse()?)
        };
        Ok(kib("VmHWM:")?.saturating_sub(kib("RssFile:")?))
    }

    /// Tells whether it ended by itself.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        self::signal(id, signal).with_context(|| format!("signal {}", self.name))
    }
}

/// Sends a signal to a process.
pub fn signal(process: u32, signal: Signal) -> anyhow::Result<()> {
    ensure!(process > 0, "no process id");
    Ok(kill(Pid::from_raw(i32::try_from(process)?), signal)?)
}
