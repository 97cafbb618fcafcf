//! The state on disk: one line for every value stored, the last line of a key wins.
//!
//! The file is rewritten when the portal starts and only appended to afterwards, so a killed process
//! loses what was not flushed in its last moments and nothing else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

const FILE: &str = "portal.jsonl";

/// One stored or, without a value, removed entry.
#[derive(Debug, Deserialize)]
struct Line {
    t: String,
    k: String,
    #[serde(default)]
    v: Option<Value>,
}

/// The same while it is written.
#[derive(Serialize)]
struct NewLine<'a, V> {
    t: &'a str,
    k: String,
    v: V,
}

/// Everything that was stored: values by table and key.
pub type Snapshot = BTreeMap<String, BTreeMap<String, Value>>;

/// The open file, or nothing when the portal lives in memory only.
#[derive(Default)]
pub struct Journal {
    file: Option<BufWriter<File>>,
    failed: bool,
}

impl Journal {
    /// Reads what an earlier run stored in this folder.
    pub fn read(folder: &Path) -> io::Result<Option<Snapshot>> {
        let file = match File::open(folder.join(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut snapshot = Snapshot::new();
        for line in BufReader::new(file).split(b'\n') {
            // Only the last line can be torn: it was being written when the process was killed.
            let Ok(line) = serde_json::from_slice::<Line>(&line?) else { continue };
            let table = snapshot.entry(line.t).or_default();
            match line.v {
                Some(value) => table.insert(line.k, value),
                None => table.remove(&line.k),
            };
        }
        Ok(Some(snapshot))
    }

    /// Replaces the file by what `keep_all` puts into it, in one step, and appends to it from now on.
    pub fn create(folder: &Path, keep_all: impl FnOnce(&mut Self)) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let unfinished: PathBuf = folder.join(format!("{FILE}.new"));
        let mut journal = Self { file: Some(BufWriter::new(File::create(&unfinished)?)), failed: false };
        keep_all(&mut journal);
        journal.flush()?;
        if let Some(file) = &journal.file {
            file.get_ref().sync_all()?;
        }
        fs::rename(unfinished, folder.join(FILE))?;
        Ok(journal)
    }

    /// Stores a value.
    pub fn put(&mut self, table: &str, key: impl ToString, value: &impl Serialize) {
        if self.file.is_some() {
            self.write(&NewLine { t: table, k: key.to_string(), v: value });
        }
    }

    /// Removes a value.
    pub fn remove(&mut self, table: &str, key: impl ToString) {
        if self.file.is_some() {
            self.write(&NewLine { t: table, k: key.to_string(), v: () });
        }
    }

    /// Hands buffered lines to the system.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write to the state file failed"));
        }
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }

    fn write(&mut self, line: &impl Serialize) {
        let Some(file) = &mut self.file else { return };
        let written = serde_json::to_writer(&mut *file, line).map_err(io::Error::from);
        self.failed |= written.and_then(|()| file.write_all(b"\n")).is_err();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_value_of_a_key_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = Journal::create(folder.path(), |_| {}).expect("a journal");
        journal.put("contact", 1, &json!({"NAME": "a"}));
        journal.put("contact", 2, &json!({"NAME": "b"}));
        journal.put("contact", 1, &json!({"NAME": "c"}));
        journal.remove("contact", 2);
        journal.flush().expect("flushed");
        let snapshot = Journal::read(folder.path()).expect("readable").expect("a snapshot");
        assert_eq!(json!(snapshot), json!({"contact": {"1": {"NAME": "c"}}}));
    }

    #[test]
    fn a_torn_last_line_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let whole = "{\"t\":\"deal\",\"k\":\"1\",\"v\":1}\n{\"t\":\"deal\",\"k\":\"2\",\"v\"";
        fs::write(folder.path().join(FILE), whole).expect("written");
        let snapshot = Journal::read(folder.path()).expect("readable").expect("a snapshot");
        assert_eq!(json!(snapshot), json!({"deal": {"1": 1}}));
    }

    #[test]
    fn without_a_file_there_is_no_snapshot() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(Journal::read(folder.path()).expect("readable").is_none());
    }
}
