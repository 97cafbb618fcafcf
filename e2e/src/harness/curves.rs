//! Memory and open files of every process, from the kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::School;

/// One process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Name of its program.
    pub name: String,
    /// Its resident memory, in KiB.
    pub memory_kib: u64,
    /// The highest that its memory ever was, in KiB.
    pub highest_kib: u64,
    /// Files and connections that it has open.
    pub files: u64,
}

/// The highest of each process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peaks(BTreeMap<String, (u64, u64)>);

/// Measures every process of a school that runs.
pub fn measure(school: &School) -> Vec<Sample> {
    measure_these(school.processes())
}

/// Measures processes of these names and ids.
pub fn measure_these(processes: impl IntoIterator<Item = (String, u32)>) -> Vec<Sample> {
    // One that ends meanwhile is left out.
    processes.into_iter().filter_map(|(name, id)| sample(name, id).ok()).collect()
}

fn sample(name: String, id: u32) -> anyhow::Result<Sample> {
    let folder = Path::new("/proc").join(id.to_string());
    let status = std::fs::read_to_string(folder.join("status"))?;
    // The kernel lets the parent of a new process go on before it closes what the child took along of the parent's.
    let ours = open_files(Path::new("/proc/self"))?;
    let is_taken_along =
        |file: &PathBuf| file.to_string_lossy().starts_with("socket:") && ours.contains(file);
    let files = open_files(&folder)?.iter().filter(|file| !is_taken_along(file)).count() as u64;
    Ok(Sample { name, memory_kib: kib(&status, "VmRSS:")?, highest_kib: kib(&status, "VmHWM:")?, files })
}

fn open_files(process: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(process.join("fd"))?;
    // One that is closed meanwhile is left out.
    Ok(entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect())
}

fn kib(status: &str, name: &str) -> anyhow::Result<u64> {
    let line =
        status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

impl Peaks {
    /// Takes a measurement in.
    pub fn note(&mut self, samples: &[Sample]) {
        for sample in samples {
            let (memory, files) = self.0.entry(sample.name.clone()).or_default();
            *memory = (*memory).max(sample.highest_kib);
            *files = (*files).max(sample.files);
        }
    }

    /// Returns which stages had more memory or files than they may.
    pub fn above(&self, memory_kib: u64, files: u64) -> Vec<String> {
        let stages = crate::Stage::ALL.map(crate::Stage::program);
        let of_stages = self.0.iter().filter(|(name, _)| stages.contains(&name.as_str()));
        let above = of_stages.filter(|(_, (memory, open))| *memory > memory_kib || *open > files);
        above.map(|(name, (memory, open))| format!("{name} had {memory} KiB and {open} open files")).collect()
    }

    /// Returns the highest memory in KiB and number of open files of a process.
    pub fn of(&self, name: &str) -> Option<(u64, u64)> {
        self.0.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_this_very_process() {
        let sample = sample("own".into(), std::process::id()).unwrap();
        assert!(
            sample.memory_kib > 0 && sample.highest_kib >= sample.memory_kib && sample.files > 2,
            "{sample:?}"
        );
    }

    #[test]
    fn peaks_stay_and_only_stages_are_bounded() {
        let sample =
            |name: &str, highest_kib, files| Sample { name: name.into(), memory_kib: 1, highest_kib, files };
        let mut peaks = Peaks::default();
        peaks.note(&[sample("pusher", 70, 10), sample("nats-server", 1_000, 10)]);
        peaks.note(&[sample("pusher", 20, 12)]);
        assert_eq!(peaks.of("pusher"), Some((70, 12)));
        assert_eq!(peaks.above(69, 100).len(), 1);
        assert_eq!(peaks.above(70, 11).len(), 1);
        assert!(peaks.above(70, 12).is_empty());
    }
}
