//! The targets: what is parsed, and what has to hold of it besides "no panic".

mod answers;
mod events;
mod records;
mod rows;
mod settings;
mod texts;

use crate::Target;

/// All of them.
pub const TARGETS: &[Target] = &[
    answers::BITRIX24_ANSWER,
    answers::BITRIX24_BATCH,
    answers::BITRIX24_LIST,
    answers::OTMECHALKA_ANSWER,
    events::RECORD_CHANGED,
    events::RECORD_MAPPED,
    events::RECORD_PROCESSED,
    events::STATUS_SETTLED,
    events::DEAD_LETTER,
    events::CHECKPOINT,
    records::RECORD,
    rows::PRODUCER_ROW,
    settings::MAPPING_FILE,
    settings::SETTINGS,
    texts::PHONE,
    texts::MONEY,
    texts::DATE,
    texts::LINE,
];

/// Most characters of an error that somebody reads in a log or in a terminal.
const ERROR_MAX_CHARS: usize = 600;

/// Asserts that a text can be shown to an operator, and returns it without its numbers.
fn shown(error: &str) -> String {
    assert!(!error.trim().is_empty(), "an error without words");
    assert!(error.chars().count() <= ERROR_MAX_CHARS, "an error of {} characters", error.chars().count());
    assert!(!error.chars().any(char::is_control), "an error with control characters: {error:?}");
    error.chars().filter(|character| !character.is_ascii_digit()).collect()
}

/// Parts an input into its first line and the rest; the line is empty where it is no text.
fn first_line(input: &[u8]) -> (&str, &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let rest = input.get(end + 1..).unwrap_or_default();
    (std::str::from_utf8(&input[..end]).unwrap_or_default(), rest)
}

fn text_of(input: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(input)
}

/// Returns the most memory that this process has held so far, in KiB; `None` where nobody counts.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Returns the files of a folder of the workspace, whose name ends so.
fn files(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()));
    let mut paths: Vec<_> = entries.into_iter().flatten().collect();
    paths.retain(|path| path.to_string_lossy().ends_with(ending));
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}
