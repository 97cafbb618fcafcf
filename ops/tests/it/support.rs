//! Starts programs, waits for what they say, and finds those that are left over.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use runtime::Broker;
use runtime::broker::NatsSettings;
use runtime::health::Health;
use runtime::local_nats::LocalNats;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Longest wait for anything. Tests of other crates may be at work beside these.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Settings of a command.
pub type Settings = Vec<(&'static str, String)>;

/// The path of a program of this workspace.
pub fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_rollcall")).with_file_name(name);
    assert!(path.is_file(), "{name} is not built: run `cargo build --workspace --bins` first");
    path
}

/// Prepares a program that sees nothing of this process but how to find a nats-server.
pub fn command(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(program(name));
    command.current_dir(folder).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    for name in ["PATH", "HOME", "NATS_SERVER_BIN"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// What a finished command left.
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs `rollcall` to its end.
pub async fn rollcall(folder: &Path, settings: &Settings, arguments: &[&str]) -> Done {
    let mut command = command("rollcall", folder);
    command.args(arguments).envs(settings.iter().map(|(name, value)| (name, value)));
    let finished = tokio::time::timeout(PATIENCE, command.output()).await;
    let Output { status, stdout, stderr } = finished.expect("rollcall did not end in time").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// A real nats-server.
pub struct Nats {
    pub server: LocalNats,
    folder: TempDir,
}

impl Nats {
    pub async fn start() -> Nats {
        let folder = tempfile::tempdir().unwrap();
        Nats { server: LocalNats::start(folder.path()).await.unwrap(), folder }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn settings(&self) -> Settings {
        vec![("NATS_URL", self.server.url())]
    }

    pub async fn broker(&self) -> Broker {
        let settings = NatsSettings::plain(&self.server.url()).unwrap();
        Broker::connect("test", &settings, Health::default(), runtime::CancellationToken::new())
            .await
            .unwrap()
    }
}

/// A running program and what it says.
pub struct Running {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pub said: Vec<String>,
}

impl Running {
    pub fn start(mut command: Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines, said: Vec::new() }
    }

    /// Reads on until a line holds this text, and returns the line.
    pub async fn hears(&mut self, text: &str) -> String {
        let heard = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.said.push(line.clone());
                if line.contains(text) {
                    return Some(line);
                }
            }
            None
        });
        match heard.await {
            Ok(Some(line)) => line,
            _ => panic!("`{text}` was never said, but:\n{}", self.said.join("\n")),
        }
    }

    pub fn id(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap())
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(self.id(), signal).unwrap();
    }

    pub async fn ends(&mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("it did not end in time")
            .unwrap()
            .code()
    }
}

/// A double of a CRM.
pub struct Double {
    _running: Running,
    pub url: String,
    pub admin: String,
}

impl Double {
    pub async fn start(name: &str, folder: &Path, arguments: &[&str]) -> Double {
        let mut command = command(name, folder);
        command.args(arguments);
        let mut running = Running::start(command);
        let line = running.hears("\"ready\"").await;
        let ready: Value = serde_json::from_str(&line).unwrap();
        let text = |key: &str| ready[key].as_str().map(str::to_owned);
        let url = text("webhook_url").or(text("url")).unwrap();
        Double { _running: running, url, admin: text("admin_url").unwrap() }
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let answer = http().post(format!("{}{path}", self.admin)).json(&body).send().await.unwrap();
        answer.error_for_status().unwrap().json().await.unwrap()
    }

    pub async fn delete(&self, path: &str) {
        http().delete(format!("{}{path}", self.admin)).send().await.unwrap().error_for_status().unwrap();
    }
}

pub fn http() -> reqwest::Client {
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Finds the processes that work in a folder: everything that `up` starts inherits it.
pub fn processes_in(folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().unwrap();
    let works_there = |process: &Path| {
        std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
            // A zombie that nobody has waited for runs no longer.
            && std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes
        .filter(|process| works_there(process))
        .filter_map(|process| Some(format!("{} {}", process.display(), name(&process)?)))
        .collect()
}

fn name(process: &Path) -> Option<String> {
    Some(std::fs::read_to_string(process.join("comm")).ok()?.trim().to_owned())
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come to hold");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
