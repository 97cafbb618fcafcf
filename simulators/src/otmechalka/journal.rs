//! Keeps the state in a file: one change a line, so that a kill loses nothing that was answered.
//!
//! At each start the file is written anew, with the fewest lines, beside the old one and then in
//! its place.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use tracing::error;

use super::state::{Change, State};

const FILE: &str = "otmechalka.jsonl";

/// An open journal.
pub struct Journal {
    file: File,
}

impl Journal {
    /// Reads what a former run left into the state. A missing file is an empty one.
    pub fn read(folder: &Path, state: &mut State) -> anyhow::Result<()> {
        let path = folder.join(FILE);
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            result => result.with_context(|| format!("failed to open {}", path.display()))?,
        };
        let mut lines = BufReader::new(file).split(b'\n').peekable();
        let mut number = 0;
        while let Some(line) = lines.next() {
            let line = line.with_context(|| format!("failed to read {}", path.display()))?;
            number += 1;
            match serde_json::from_slice::<Change>(&line) {
                Ok(change) => state.restore(change),
                // A kill in the middle of a write leaves half a line, and only as the last one.
                Err(_) if lines.peek().is_none() => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("line {number} of {} is damaged", path.display()));
                }
            }
        }
        Ok(())
    }

    /// Writes the whole state anew and opens the file for what follows.
    pub fn rewrite(folder: &Path, state: &State) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
        let (path, fresh) = (folder.join(FILE), folder.join(format!("{FILE}.new")));
        write_all(&fresh, state).with_context(|| format!("failed to write {}", fresh.display()))?;
        fs::rename(&fresh, &path).with_context(|| format!("failed to replace {}", path.display()))?;
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .with_context(|| format!("failed to open {}", path.display()))?;
        Ok(Self { file })
    }

    /// Adds a change. A full disk must not stop the double, but it is said.
    pub fn append(&mut self, change: &Change) {
        let result = serde_json::to_vec(change).map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.file.write_all(&line)
        });
        if let Err(error) = result {
            error!(%error, "Failed to write a change to the journal");
        }
    }
}

fn write_all(path: &Path, state: &State) -> anyhow::Result<()> {
    let mut writer = BufWriter::new(File::create(path)?);
    for change in state.changes() {
        serde_json::to_writer(&mut writer, &change)?;
        writer.write_all(b"\n")?;
    }
    writer.into_inner()?.sync_all()?;
    Ok(())
}
