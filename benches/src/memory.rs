//! P12: the highest resident memory of each stage over a first sync, of few records and of many.

use std::time::Duration;

use anyhow::Context;
use e2e::Stage;

use crate::Scale;
use crate::figure::Figure;
use crate::machine;
use crate::portal;

const PATIENCE: Duration = Duration::from_secs(120);

/// Measures both.
pub async fn measure(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let (few, many) = (1_000, scale.pick(50_000, 6_000));
    let (small, large) = (peaks(scale, few).await?, peaks(scale, many).await?);
    let mut figures = Vec::new();
    for (stage, (small, large)) in Stage::ALL.into_iter().zip(small.into_iter().zip(large)) {
        let what = |records: u64| format!("{}: peak memory, MiB, {records} records", stage.program());
        figures.push(Figure::new("P12", what(few), small).at_most(64.0, 32.0));
        figures.push(Figure::new("P12", what(many), large).at_most(64.0, 32.0));
        let growth = format!("{}: the latter over the former", stage.program());
        figures.push(Figure::new("P12", growth, large / small).at_most(1.1, 1.1));
    }
    Ok(figures)
}

/// Returns the peaks of the stages in MiB after a first sync and two polls.
async fn peaks(scale: Scale, records: u64) -> anyhow::Result<Vec<f64>> {
    let contacts = records / 3;
    let deals = records - contacts;
    let builder = portal::school(usize::try_from(contacts)?, usize::try_from(deals)?, scale.speed(20.0));
    let (mut school, portal) = portal::open(builder, &[]).await?;
    portal::start_stages(&mut school, &portal).await?;
    portal.statuses_written(records, PATIENCE).await?;
    school.after_polls(2).await?;
    portal::show_warnings(&school)?;
    let peak = |stage: Stage| {
        let kib = machine::peak_memory_kib(stage.program());
        Ok(kib.with_context(|| format!("memory of {}", stage.program()))? as f64 / 1024.0)
    };
    Stage::ALL.into_iter().map(peak).collect()
}
