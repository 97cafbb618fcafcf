//! The inputs that are kept: `corpus/TARGET/NAME`, one file each. What was ever found stays there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// Returns the kept inputs of a target with their names, in the order of the names.
pub fn kept(target: &str) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let folder = folder(target);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        inputs.push((name, std::fs::read(path)?));
    }
    inputs.sort();
    Ok(inputs)
}

/// Keeps an input and returns where. The same input is kept once.
pub fn keep(target: &str, kind: &str, input: &[u8]) -> std::io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let folder = folder(target);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{kind}-{:016x}", hasher.finish()));
    std::fs::write(&path, input)?;
    Ok(path)
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}
