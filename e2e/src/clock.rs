//! A wall clock of a program's own, which goes wrong while it runs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::ensure;

/// The clocks of programs that were started with its variables.
pub struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// Makes one that is right; its files are in `folder`.
    pub fn right(folder: &Path, name: &str) -> anyhow::Result<WallClock> {
        let library = folder.join("shift.so");
        if !library.exists() {
            // Whoever has linked this has a C compiler.
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clock/shift.c");
            let told = std::process::Command::new("cc")
                .args(["-shared", "-fPIC", "-o"])
                .arg(&library)
                .arg(source)
                .output()?;
            ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        }
        let clock = WallClock { library, file: folder.join(format!("{name}.shift")) };
        File::create(&clock.file)?;
        clock.shift(0)?;
        Ok(clock)
    }

    /// Returns the variables that a program has to be started with.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library.display().to_string()), ("SHIFT_FILE", self.file.display().to_string())]
    }

    /// Puts it so many seconds ahead of the right time, at once.
    pub fn shift(&self, seconds: i64) -> anyhow::Result<()> {
        // In place: the programs see the file itself.
        let file = File::options().write(true).open(&self.file)?;
        Ok(file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_sees_the_time_that_it_is_shown() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let clock = WallClock::right(folder.path(), "date")?;
        let seen = || -> anyhow::Result<i64> {
            let told = std::process::Command::new("date").arg("+%s").envs(clock.variables()).output()?;
            Ok(String::from_utf8(told.stdout)?.trim().parse()?)
        };
        let now = || chrono::Utc::now().timestamp();
        assert!((seen()? - now()).abs() <= 2);
        clock.shift(-3_600)?;
        assert!((seen()? + 3_600 - now()).abs() <= 2);
        Ok(())
    }
}
