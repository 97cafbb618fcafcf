//! A nats-server as a child process: for a machine that has none, and for tests. Always the real server.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::process::{Child, Command};

/// Variable that names the server's program.
pub const PROGRAM_VARIABLE: &str = "NATS_SERVER_BIN";

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LocalNatsError {
    /// There is no such program.
    #[error("cannot run `{program}`: {source}; put nats-server on PATH or its path into {PROGRAM_VARIABLE}")]
    Program {
        /// What was tried.
        program: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file or port could not be had.
    #[error("prepare nats-server: {0}")]
    Io(#[from] std::io::Error),
    /// It ended instead of coming up: perhaps somebody else listens at its port.
    #[error("nats-server ended with {status} instead of coming up; see {log}")]
    Ended {
        /// How it ended.
        status: std::process::ExitStatus,
        /// Its log file.
        log: String,
    },
    /// It did not come up.
    #[error("nats-server did not come up within {seconds} s; see {log}")]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// Its log file.
        log: String,
    },
}

/// A running nats-server, killed when dropped.
pub struct LocalNats {
    child: Child,
    folder: PathBuf,
    port: u16,
    note_started: NoteStarted,
    access: Option<Access>,
    member: Option<Member>,
}

/// What makes a server one of a cluster.
#[derive(Clone)]
struct Member {
    name: String,
    port: u16,
    /// Addresses of the members, as this one reaches them.
    routes: String,
}

/// Ports of the loopback interface at which the three servers of a cluster reach each other.
pub struct Routes {
    /// Where each listens.
    pub listen: [u16; 3],
    /// Where each, by its number, reaches each.
    pub ways: [[u16; 3]; 3],
}

impl Routes {
    /// Has every server reach the others where they listen.
    pub fn direct() -> std::io::Result<Routes> {
        let listen = [free_port()?, free_port()?, free_port()?];
        Ok(Routes { listen, ways: [listen; 3] })
    }
}

/// How a server lets users in that does not let everybody in.
#[derive(Clone)]
pub struct Access {
    /// Its configuration file, which names the users.
    pub config: PathBuf,
    /// The nkey seed of a user who may ask about the account; `None` where the file lets everybody in.
    pub seed: Option<SecretString>,
}

/// Is told the process id of each server as soon as there is one, long before it is ready.
type NoteStarted = Box<dyn Fn(u32) + Send + Sync>;

/// A cluster may need several elections of up to nine seconds.
const READY_SECONDS: u64 = 60;

impl LocalNats {
    /// Starts a server with JetStream on disk under `folder`, on a free port of the loopback interface.
    pub async fn start(folder: &Path) -> Result<LocalNats, LocalNatsError> {
        LocalNats::start_on(folder, free_port()?).await
    }

    /// Starts a server on this port.
    pub async fn start_on(folder: &Path, port: u16) -> Result<LocalNats, LocalNatsError> {
        LocalNats::begin(folder, port, None, Box::new(|_| {})).await
    }

    /// Starts a server with a configuration file; it lets in whom that names.
    pub async fn start_guarded(folder: &Path, access: Access) -> Result<LocalNats, LocalNatsError> {
        LocalNats::begin(folder, free_port()?, Some(access), Box::new(|_| {})).await
    }

    /// Starts a server whose processes somebody else ends should this process be killed.
    pub async fn start_noted(
        folder: &Path,
        note_started: impl Fn(u32) + Send + Sync + 'static,
    ) -> Result<LocalNats, LocalNatsError> {
        LocalNats::begin(folder, free_port()?, None, Box::new(note_started)).await
    }

    async fn begin(
        folder: &Path,
        port: u16,
        access: Option<Access>,
        note_started: NoteStarted,
    ) -> Result<LocalNats, LocalNatsError> {
        let mut server = LocalNats::spawned(folder, port, access, None, note_started)?;
        server.wait_until_ready().await?;
        Ok(server)
    }

    fn spawned(
        folder: &Path,
        port: u16,
        access: Option<Access>,
        member: Option<Member>,
        note_started: NoteStarted,
    ) -> Result<LocalNats, LocalNatsError> {
        std::fs::create_dir_all(folder)?;
        let child = spawn(folder, port, access.as_ref(), member.as_ref(), &note_started)?;
        Ok(LocalNats { child, folder: folder.to_owned(), port, access, note_started, member })
    }

    /// Starts a cluster of three servers, each with a folder of its own under `folder`, and all with the same configuration
    /// file where one is wanted.
    pub async fn start_cluster(
        folder: &Path,
        access: Option<&Access>,
        routes: &Routes,
    ) -> Result<Vec<LocalNats>, LocalNatsError> {
        let mut servers = Vec::new();
        for (number, name) in ["n1", "n2", "n3"].into_iter().enumerate() {
            let ways = routes.ways[number].map(|port| format!("nats://127.0.0.1:{port}"));
            let member =
                Member { name: name.to_owned(), port: routes.listen[number], routes: ways.join(",") };
            let (folder, port) = (folder.join(name), free_port()?);
            let access = access.cloned();
            servers.push(LocalNats::spawned(&folder, port, access, Some(member), Box::new(|_| {}))?);
        }
        // None is ready before most of them are there.
        for server in &mut servers {
            server.wait_until_ready().await?;
        }
        Ok(servers)
    }

    /// Returns the name that a server of a cluster has.
    pub fn name(&self) -> Option<&str> {
        self.member.as_ref().map(|member| member.name.as_str())
    }

    /// Returns its address.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Returns its process id while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills it at once, as a power cut would.
    pub async fn kill(&mut self) -> Result<(), LocalNatsError> {
        self.child.kill().await?;
        Ok(())
    }

    /// Starts it again on the same port and store.
    pub async fn restart(&mut self) -> Result<(), LocalNatsError> {
        self.revive()?;
        self.wait_until_ready().await
    }

    /// Starts it again without waiting: one server of a cluster alone is not ready.
    pub fn revive(&mut self) -> Result<(), LocalNatsError> {
        let (access, member) = (self.access.as_ref(), self.member.as_ref());
        self.child = spawn(&self.folder, self.port, access, member, &self.note_started)?;
        Ok(())
    }

    /// Waits for its process to end.
    pub async fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }

    async fn wait_until_ready(&mut self) -> Result<(), LocalNatsError> {
        let (url, log) = (self.url(), self.folder.join("nats-server.log").display().to_string());
        let seed = self.access.as_ref().and_then(|access| access.seed.clone());
        let connected = async {
            loop {
                let options = match &seed {
                    Some(seed) => async_nats::ConnectOptions::with_nkey(seed.expose_secret().to_owned()),
                    None => async_nats::ConnectOptions::new(),
                };
                let options = options.connection_timeout(Duration::from_secs(1));
                if let Ok(client) = options.connect(&url).await {
                    let jetstream = async_nats::jetstream::new(client);
                    if jetstream.query_account().await.is_ok() {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        let connected = tokio::time::timeout(Duration::from_secs(READY_SECONDS), connected);
        tokio::select! {
            // Somebody else may answer there.
            biased;
            ended = self.child.wait() => Err(LocalNatsError::Ended { status: ended?, log }),
            connected = connected => {
                connected.map_err(|_| LocalNatsError::NotReady { seconds: READY_SECONDS, log })
            }
        }
    }
}

/// Pause between looks of a server whether the others still answer; the third in vain ends the connection. By default that takes a
/// minute and a half, in which one read of three goes to a server that stands still.
const ROUTE_PING: &str = "2s";

impl Member {
    /// Writes what no argument tells, beside the users where there are some, as files include each other by relative paths.
    fn write_config(&self, folder: &Path, access: Option<&Access>) -> std::io::Result<PathBuf> {
        let name = format!("{}.conf", self.name);
        let mut text = format!("cluster {{ ping_interval: \"{ROUTE_PING}\" }}\n");
        let mut file = folder.join(&name);
        if let Some(access) = access {
            let users = access.config.file_name().unwrap_or_default().to_string_lossy();
            // Last: a `cluster` of its own replaces this one.
            text.push_str(&format!("include {users}\n"));
            file = access.config.with_file_name(name);
        }
        std::fs::write(&file, text)?;
        Ok(file)
    }

    fn arguments(&self) -> [String; 5] {
        [
            format!("--server_name={}", self.name),
            "--cluster_name=rollcall".to_owned(),
            format!("--cluster=nats://127.0.0.1:{}", self.port),
            format!("--routes={}", self.routes),
            // What a third one tells of it leads nowhere, so nobody goes past the ways that were laid.
            "--cluster_advertise=127.0.0.1:1".to_owned(),
        ]
    }
}

fn program() -> OsString {
    std::env::var_os(PROGRAM_VARIABLE).unwrap_or_else(|| "nats-server".into())
}

/// Ports from this one on are handed out: below those that systems give to whoever asks for any, so that nobody is given one
/// before it is listened at.
const FIRST_PORT: u32 = 20_000;
const PORTS: u32 = 10_000;

/// Returns a port of this machine that nobody listens at, and that this process hands out once only as long as there are
/// others.
pub fn free_port() -> std::io::Result<u16> {
    static HANDED_OUT: AtomicU32 = AtomicU32::new(0);
    // Processes side by side begin at different ones.
    let first = std::process::id().wrapping_mul(7_919);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let next = || first.wrapping_add(HANDED_OUT.fetch_add(1, Ordering::Relaxed));
    let mut ports =
        (0..PORTS).filter_map(|_| u16::try_from(FIRST_PORT + next() % PORTS).ok()).filter(is_free);
    ports.next().ok_or_else(|| std::io::ErrorKind::AddrInUse.into())
}

fn spawn(
    folder: &Path,
    port: u16,
    access: Option<&Access>,
    member: Option<&Member>,
    note_started: &NoteStarted,
) -> Result<Child, LocalNatsError> {
    let log = folder.join("nats-server.log");
    let config = match member {
        Some(member) => Some(member.write_config(folder, access)?),
        None => access.map(|access| access.config.clone()),
    };
    let program = program();
    let child = Command::new(&program)
        .arg("--addr=127.0.0.1")
        .arg(format!("--port={port}"))
        .arg("--jetstream")
        .arg(format!("--store_dir={}", folder.display()))
        .arg(format!("--log={}", log.display()))
        .args(config.map(|config| format!("--config={}", config.display())))
        .args(member.into_iter().flat_map(Member::arguments))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C of a terminal must reach the stages first and the server last.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| LocalNatsError::Program {
            program: program.to_string_lossy().into_owned(),
            source,
        })?;
    if let Some(process) = child.id() {
        note_started(process);
    }
    Ok(child)
}
