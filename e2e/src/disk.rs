//! A real file system that can be full: a tmpfs in a mount namespace of its own, which takes no rights of the system.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A file system. Gone when dropped.
pub struct Disk {
    root: PathBuf,
    _keeper: Child,
    asking: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// Keeps the namespace, and changes the size when it is told one in KiB; `full` is what is in use.
const KEEPER: &str = r#"
mount -t tmpfs -o mode=0700,size="$2"k tmpfs "$1" && echo ready
while read -r size; do
    if [ "$size" = full ]; then size=$(df -kP "$1" | awk 'END { print $3 }'); fi
    mount -o "remount,size=${size}k" tmpfs "$1" && echo ready
done
"#;

/// More than any stream may grow to, and no memory that is not written to.
const LARGE_KIB: &str = "33554432";

impl Disk {
    /// Makes a large one. `None` where the system lets nobody make a file system, which with `CI` set is an error.
    pub async fn mount(folder: &Path) -> anyhow::Result<Option<Disk>> {
        std::fs::create_dir_all(folder)?;
        let mut keeper = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", KEEPER, "keeper"])
            .arg(folder)
            .arg(LARGE_KIB)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("unshare")?;
        let asking = keeper.stdin.take().context("standard input")?;
        let mut answers = BufReader::new(keeper.stdout.take().context("standard output")?).lines();
        if answers.next_line().await?.is_none() {
            ensure!(
                std::env::var_os("CI").is_none(),
                "nobody may mount a tmpfs in a namespace of its own here"
            );
            eprintln!("NOT TESTED: full disks. Nobody may mount a tmpfs in a namespace of its own here");
            return Ok(None);
        }
        let id = keeper.id().context("the keeper has ended")?;
        // The way into its namespace for everybody who may look into its process.
        let mut root = PathBuf::from(format!("/proc/{id}/root"));
        root.extend(folder.strip_prefix("/"));
        Ok(Some(Disk { root, _keeper: keeper, asking, answers }))
    }

    /// Returns its folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Leaves no room.
    pub async fn fill(&mut self) -> anyhow::Result<()> {
        self.resize("full").await
    }

    /// Makes room.
    pub async fn make_room(&mut self) -> anyhow::Result<()> {
        self.resize(LARGE_KIB).await
    }

    async fn resize(&mut self, size: &str) -> anyhow::Result<()> {
        self.asking.write_all(format!("{size}\n").as_bytes()).await?;
        self.answers.next_line().await?.context("the file system could not be changed")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_disk_takes_nothing_and_keeps_what_it_has() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let Some(mut disk) = Disk::mount(folder.path()).await? else { return Ok(()) };
        let file = disk.path().join("file");
        std::fs::write(&file, [7; 10_000])?;
        disk.fill().await?;
        let refused = std::fs::write(disk.path().join("other"), [7; 10_000]).expect_err("no room");
        assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(std::fs::read(&file)?, [7; 10_000]);
        disk.make_room().await?;
        std::fs::write(disk.path().join("other"), [7; 10_000])?;
        assert!(!folder.path().join("file").exists(), "nothing of it is outside of its namespace");
        Ok(())
    }
}
