//! P1 to P3, P13 and P14: the first sync of a whole school by all stages on one host.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::Scale;
use crate::figure::Figure;
use crate::least;
use crate::portal::{self, Counts};

/// Seconds that an update takes.
const UPDATE: f64 = 0.04;

/// Silence after which a sync has failed.
const PATIENCE: Duration = Duration::from_secs(120);

struct Synced {
    counts: Counts,
    seconds: f64,
    written_twice: u64,
    /// Requests that wrote statuses.
    write_requests: usize,
}

/// Measures a first sync on a portal whose clock is ours, and with a slow otmechalka if wanted.
pub async fn measure(scale: Scale, with_slow_otmechalka: bool) -> anyhow::Result<Vec<Figure>> {
    let (contacts, deals) = scale.pick((5_000, 10_000), (2_000, 4_000));
    let synced = sync(contacts, deals, &[]).await?;
    let least_requests = least::requests(least::first_sync_commands(contacts, deals)) as f64;
    let least_seconds = least::seconds(least_requests as u64);
    let what = format!("first sync of {contacts} contacts and {deals} deals");
    let (counts, seconds) = (&synced.counts, synced.seconds);
    let mut figures = vec![
        Figure::new("P1", format!("{what}, requests"), counts.requests as f64)
            .least(least_requests)
            .at_most((1.25 * least_requests).ceil(), (1.05 * least_requests).ceil()),
        Figure::new("P1", "of them with statuses", synced.write_requests as f64)
            .least(least::requests(contacts + deals) as f64),
        Figure::new("P2", "refused with 503 in it", counts.refused as f64).none_allowed(),
        Figure::new("P3", "portal seconds of it, updates of 0.04 s", seconds)
            .least(least_seconds)
            .at_most((1.25 * least_seconds).floor(), (1.0729 * least_seconds).floor()),
        Figure::new("P3", "statuses written twice in it", synced.written_twice as f64).none_allowed(),
        Figure::new("P14", "refused with all stages on one host", counts.refused as f64).none_allowed(),
        Figure::new("P14", "highest level of the bucket of 50", counts.highest_level).at_most(51.0, 50.0),
    ];
    if with_slow_otmechalka {
        let slow = sync(contacts, deals, &["--latency-ms", "50"]).await?;
        let slow = Figure::new(
            "P13",
            "otmechalka answers in 50 ms: seconds over those of P3",
            slow.seconds / seconds,
        );
        figures.push(slow.at_most(1.3, 1.1));
    }
    Ok(figures)
}

async fn sync(contacts: u64, deals: u64, otmechalka: &[&str]) -> anyhow::Result<Synced> {
    let builder =
        portal::school(usize::try_from(contacts)?, usize::try_from(deals)?, 1.0).otmechalka(otmechalka);
    let (mut school, portal) = portal::open(builder, &[("crm.*.update", UPDATE)]).await?;
    let started = portal::start_stages(&mut school, &portal).await?;
    let ended = portal.statuses_written(contacts + deals, PATIENCE).await?;
    portal::show_warnings(&school)?;
    let counts = portal.counts().await?;
    let writes = portal.writes_after(0).await?;
    let write_requests =
        writes.iter().filter_map(|write| write["request"].as_u64()).collect::<BTreeSet<_>>().len();
    let written_twice = portal::written_twice(&portal).await?;
    Ok(Synced { counts, seconds: ended - started, written_twice, write_requests })
}
