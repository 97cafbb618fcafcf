//! P22: a day in which otmechalka is down while the school works on.

use anyhow::Context;
use e2e::harness::curves;
use e2e::{School, Stage};
use serde_json::json;

use crate::Scale;
use crate::figure::Figure;
use crate::hour::{CHANGES, PATIENCE, Pattern, RECORDS, until};
use crate::portal;

const HOUR: f64 = 3_600.0;

/// Measures it, or a quarter of it.
pub async fn measure(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let hours: u64 = scale.pick(24, 6);
    let (mut school, portal) =
        portal::open(portal::school(RECORDS, RECORDS, scale.speed(120.0)), &[]).await?;
    portal::start_stages(&mut school, &portal).await?;
    portal.statuses_written(2 * RECORDS as u64, PATIENCE).await?;
    // Until our own updates are older than what a poll looks back.
    school.after_polls(4).await?;
    let pattern = Pattern::of(&school).await?;
    school.otmechalka.fault(json!({"kind": "down_503"})).await?;
    portal.reset().await?;
    let began = portal.now().await?;
    let mut memory = Vec::new();
    for change in 0..hours * CHANGES {
        until(&portal, began + HOUR * change as f64 / CHANGES as f64).await?;
        pattern.change(&school, change).await?;
        if (change + 1) % CHANGES == 0 {
            memory.push(of_stages(&school)?);
        }
    }
    let counts = portal.counts().await?;
    let waiting = school.messages("CRM_CMD").await? - school.messages("CRM_RESULT").await?;
    school.otmechalka.heal().await?;
    school.caught_up().await?;
    portal::show_warnings(&school)?;

    let what = |what: &str| format!("otmechalka down for {hours} hours: {what}");
    let mut figures = vec![
        Figure::new("P22", what("versions that wait in the end"), waiting as f64),
        Figure::new("P22", what("requests to Bitrix24"), counts.requests as f64),
        Figure::new("P22", what("statuses written"), counts.statuses as f64).none_allowed(),
    ];
    let quarter = memory.len() / 4;
    let most = |hours: &[Vec<f64>], stage: usize| hours.iter().map(|hour| hour[stage]).fold(0.0, f64::max);
    for (place, stage) in Stage::ALL.into_iter().enumerate() {
        let (first, last) = (most(&memory[..quarter], place), most(&memory[memory.len() - quarter..], place));
        let name = stage.program();
        figures.push(
            Figure::new("P22", what(&format!("{name}: most memory, MiB")), most(&memory, place))
                .at_most(64.0, 64.0),
        );
        let growth = what(&format!("{name}: the last quarter over the first"));
        figures.push(Figure::new("P22", growth, last / first).at_most(1.1, 1.1));
    }
    Ok(figures)
}

/// Returns what each stage has in memory now, in MiB.
fn of_stages(school: &School) -> anyhow::Result<Vec<f64>> {
    let samples = curves::measure(school);
    let of = |stage: Stage| {
        let sample = samples.iter().find(|sample| sample.name == stage.program());
        Ok(sample.with_context(|| format!("memory of {}", stage.program()))?.memory_kib as f64 / 1024.0)
    };
    Stage::ALL.into_iter().map(of).collect()
}
