//! P12: the highest resident memory of each stage over a first sync, of few records and of many.
//! P21: the same with something ill in the middle of it.

use std::time::Duration;

use anyhow::Context;
use e2e::{School, Stage};
use serde_json::json;

use crate::Scale;
use crate::figure::Figure;
use crate::machine;
use crate::portal;

const PATIENCE: Duration = Duration::from_secs(120);

/// Measures both.
pub async fn measure(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let (few, many) = (1_000, scale.pick(50_000, 6_000));
    let (small, large) = (peaks(scale, few, None).await?, peaks(scale, many, None).await?);
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

/// What is ill for a while.
#[derive(Clone, Copy)]
enum Illness {
    Broker,
    Otmechalka,
    /// Bitrix24 answers every request with this.
    Bitrix24(&'static str),
}

/// How long it lasts, in our time.
const ILL_FOR: Duration = Duration::from_secs(20);

/// Measures a first sync without and with each illness.
pub async fn under_faults(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let records = scale.pick(6_000, 2_000);
    let well = peaks(scale, records, None).await?;
    let mut figures = Vec::new();
    for (name, illness) in [
        ("NATS away", Illness::Broker),
        ("otmechalka down", Illness::Otmechalka),
        ("Bitrix24 down", Illness::Bitrix24("html_502")),
        ("answers of Bitrix24 without an end", Illness::Bitrix24("endless_body")),
        ("answers of Bitrix24 that nest deeply", Illness::Bitrix24("deep_nesting")),
        ("answers of Bitrix24 that unpack to too much", Illness::Bitrix24("gzip_bomb")),
    ] {
        let ill = peaks(scale, records, Some(illness)).await?;
        for (stage, (well, ill)) in Stage::ALL.into_iter().zip(well.iter().zip(ill)) {
            let what = |what: &str| format!("{name}: {}: {what}", stage.program());
            figures.push(Figure::new("P21", what("peak memory, MiB"), ill).at_most(64.0, 64.0));
            figures.push(Figure::new("P21", what("over that without a fault"), ill / well).at_most(1.1, 1.1));
        }
    }
    Ok(figures)
}

async fn suffer(school: &mut School, illness: Illness) -> anyhow::Result<()> {
    match illness {
        Illness::Broker => school.nats.kill().await?,
        Illness::Otmechalka => school.otmechalka.fault(json!({"kind": "down_503"})).await?,
        Illness::Bitrix24(kind) => school.bitrix24.fault(json!({"kind": kind})).await?,
    }
    tokio::time::sleep(ILL_FOR).await;
    match illness {
        Illness::Broker => school.nats.restart().await?,
        Illness::Otmechalka => school.otmechalka.heal().await?,
        Illness::Bitrix24(_) => school.bitrix24.heal().await?,
    }
    Ok(())
}

/// Returns the peaks of the stages in MiB after a first sync and two polls.
async fn peaks(scale: Scale, records: u64, illness: Option<Illness>) -> anyhow::Result<Vec<f64>> {
    let contacts = records / 3;
    let deals = records - contacts;
    let builder = portal::school(usize::try_from(contacts)?, usize::try_from(deals)?, scale.speed(20.0));
    let (mut school, portal) = portal::open(builder, &[]).await?;
    portal::start_stages(&mut school, &portal).await?;
    if let Some(illness) = illness {
        portal.statuses_written(records / 4, PATIENCE).await?;
        suffer(&mut school, illness).await?;
    }
    portal.statuses_written(records, PATIENCE).await?;
    school.after_polls(2).await?;
    portal::show_warnings(&school)?;
    let peak = |stage: Stage| {
        let kib = machine::peak_memory_kib(stage.program());
        Ok(kib.with_context(|| format!("memory of {}", stage.program()))? as f64 / 1024.0)
    };
    Stage::ALL.into_iter().map(peak).collect()
}
