#![doc = include_str!("../README.md")]

mod clock;
mod disk;
pub mod harness;
pub mod oracle;
mod process;
mod proxy;
mod room;
mod school;
mod scrape;
mod simulator;

pub use clock::WallClock;
pub use disk::Disk;
pub use process::{Program, program_path, signal};
pub use proxy::{Proxy, Weather};
pub use room::Room;
pub use school::{Buried, Link, NAMES, PATIENCE, School, SchoolBuilder, Stage, Told, free_address};
pub use scrape::{Sample, Scrape};
pub use simulator::{Bitrix24, Otmechalka};

use std::ops::RangeInclusive;
use std::time::Duration;

/// Returns the commit that this was built from and whether anything was changed since, as far as the folder still knows it.
pub fn commit() -> String {
    let told = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let text = told.ok().filter(|told| told.status.success()).map(|told| told.stdout);
    text.map_or_else(|| "unknown".to_owned(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}

/// Pause between looks, which is a tenth of the time that they took so far, within these bounds.
///
/// What comes soon is seen soon. At twenty looks a second a dozen tests at once would take a core for looking.
const PAUSES: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(250);

/// Waits until something holds; says what did not come to hold in time.
pub async fn eventually<F, T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let started = tokio::time::Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        let waited = started.elapsed();
        anyhow::ensure!(waited < deadline, "{what} did not come to hold within {deadline:?}");
        tokio::time::sleep((waited / 10).clamp(*PAUSES.start(), *PAUSES.end())).await;
    }
}
