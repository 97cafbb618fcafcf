//! P7: many updates that take so long that the portal's computing time runs out.

use std::time::Duration;

use anyhow::Context;
use chrono::DateTime;
use serde_json::Value;

use crate::Scale;
use crate::figure::Figure;
use crate::least::Computing;
use crate::portal;

const COMPUTING: Computing = Computing { limit: 480.0, each: 0.3 };

/// Seconds in which the computing time may be spent once.
const WINDOW_SECONDS: i64 = 600;

/// Contacts for the deals to belong to; their updates are of another method.
const CONTACTS: usize = 100;

/// Measures the updates of deals from the first to the last.
pub async fn measure(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    // Not a whole number of windows' worth: there the last update decides about ten minutes.
    let deals: u64 = scale.pick(4_700, 3_100);
    let speed = scale.speed(20.0);
    // A whole window may pass in silence.
    let patience = Duration::from_secs_f64(60.0 + 900.0 / speed);
    let builder = portal::school(CONTACTS, usize::try_from(deals)?, speed);
    let (mut school, portal) = portal::open(builder, &[("crm.*.update", COMPUTING.each)]).await?;
    let records = deals + CONTACTS as u64;
    portal::start_with_outcomes_ready(&mut school, &portal, records).await?;
    portal.statuses_written(records, patience).await?;
    portal::show_warnings(&school)?;
    let counts = portal.counts().await?;
    let times = times(&portal.writes_after(0).await?)?;
    let (first, last) = (times.first().context("no update")?, times.last().context("no update")?);
    let seconds = (last - first) as f64 + COMPUTING.each;
    let in_first_window = times.iter().filter(|time| *time - first < WINDOW_SECONDS).count();
    eprintln!("  deals updated in each minute: {:?}", by_minute(&times, *first));
    let bound = COMPUTING.bound(deals);
    Ok(vec![
        Figure::new("P7", "commands refused for computing time", counts.refused_operating as f64)
            .none_allowed(),
        Figure::new("P7", format!("seconds for {deals} updates of 0.3 s, beside the bound"), seconds)
            .least(bound)
            .at_most(1.15 * bound, 1.05 * bound),
        Figure::new("P7", "the same beside the least by whole windows", seconds)
            .least(COMPUTING.by_windows(deals)),
        Figure::new(
            "P7",
            "updates in the first ten minutes, of those that the portal allows",
            in_first_window as f64,
        )
        .least(COMPUTING.per_window() as f64),
        Figure::new("P7", "refused with 503", counts.refused as f64).none_allowed(),
    ])
}

/// Returns how many fell into each minute since the first.
fn by_minute(times: &[i64], first: i64) -> Vec<usize> {
    let minutes = times.last().map_or(0, |last| (last - first) / 60);
    (0..=minutes).map(|minute| times.iter().filter(|time| (*time - first) / 60 == minute).count()).collect()
}

/// Returns when the deals were updated, in order, in whole seconds as the portal prints them.
fn times(writes: &[Value]) -> anyhow::Result<Vec<i64>> {
    let times = writes.iter().filter(|write| write["entity"] == "deal").map(|write| {
        let text = write["time"].as_str().context("time of a write")?;
        Ok(DateTime::parse_from_rfc3339(text)?.timestamp())
    });
    let mut times: Vec<i64> = times.collect::<anyhow::Result<_>>()?;
    times.sort_unstable();
    Ok(times)
}
