//! A machine as a program sees it: host names that a test may take away, and a `/tmp` that nobody may write to. Real files in
//! a mount namespace of the program's own, which takes no rights of the system.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

/// Names that programs started in here find, and nobody else.
#[derive(Debug)]
pub struct Room {
    folder: PathBuf,
    names: Vec<String>,
}

/// Shows a program the files in `$1` and a `/tmp` of which it may write to `$2` alone, and becomes the program.
const ENTER: &str = r#"
set -e
for name in hosts resolv.conf nsswitch.conf; do mount --bind "$1/$name" "/etc/$name"; done
mount --bind /tmp /tmp
mount --bind "$2" "$2"
mount -o remount,bind,ro /tmp 2>/dev/null || mount -o remount,bind,ro,nosuid,nodev /tmp
if touch "/tmp/probe.$$" 2>/dev/null; then rm "/tmp/probe.$$"; echo "/tmp can be written to" >&2; exit 1; fi
shift 2
exec "$@"
"#;

impl Room {
    /// Makes one whose names lead to this machine. `None` where the system lets nobody have one, which with `CI` set is an
    /// error.
    pub fn with_names(folder: &Path, names: &[&str]) -> anyhow::Result<Option<Room>> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let room = Room { folder: folder.to_owned(), names };
        // Nobody listens there: what is not in the file of hosts cannot be asked of anybody.
        std::fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        std::fs::write(folder.join("nsswitch.conf"), "hosts: files dns\n")?;
        room.names_resolve(true)?;
        let words = room.entrance(folder);
        let told = Command::new(&words[0]).args(&words[1..]).arg("true").output()?;
        if told.status.success() {
            return Ok(Some(room));
        }
        let why = String::from_utf8_lossy(&told.stderr).into_owned();
        ensure!(std::env::var_os("CI").is_none(), "nobody may have names of its own here: {why}");
        eprintln!("NOT TESTED: names that stop resolving. Nobody may have names of its own here: {why}");
        Ok(None)
    }

    /// Lets the names lead to this machine, or nowhere.
    pub fn names_resolve(&self, they_do: bool) -> anyhow::Result<()> {
        let lines = self.names.iter().filter(|_| they_do).map(|name| format!("127.0.0.1 {name}\n"));
        // In place: the programs see the file itself.
        Ok(std::fs::write(self.folder.join("hosts"), lines.collect::<String>())?)
    }

    /// Returns the words before a program's own that let it in; it may write to a folder.
    pub fn entrance(&self, folder: &Path) -> Vec<String> {
        let words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ENTER, "room"];
        let folders = [self.folder.as_path(), folder].map(|folder| folder.display().to_string());
        words.map(str::to_owned).into_iter().chain(folders).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_resolve_in_here_for_as_long_as_they_may() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let Some(room) = Room::with_names(folder.path(), &["portal.test"])? else { return Ok(()) };
        let words = room.entrance(folder.path());
        let resolves = || -> anyhow::Result<bool> {
            let mut asking = Command::new(&words[0]);
            asking.args(&words[1..]).args(["getent", "hosts", "portal.test"]);
            Ok(asking.output()?.status.success())
        };
        assert!(resolves()?);
        room.names_resolve(false)?;
        assert!(!resolves()?);
        Ok(())
    }
}
