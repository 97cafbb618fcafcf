//! P11: how long an edit takes to otmechalka, and until its status is readable. All clocks run as fast as ours.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use serde_json::json;

use crate::Scale;
use crate::figure::Figure;
use crate::portal::{self, Portal};

/// The poll interval and the lag, in seconds.
const POLL: f64 = 5.0;
const LAG: f64 = 2.0;

/// Time between two edits; no simple fraction of the poll interval, so that edits meet every phase of it.
const BETWEEN: Duration = Duration::from_millis(730);

/// How exactly the moment of a status is known.
const LOOK: Duration = Duration::from_millis(50);

const PATIENCE: Duration = Duration::from_secs(60);

/// Measures new pupils, one after the other.
pub async fn measure(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let edits: usize = scale.pick(200, 60);
    let builder = portal::school(100, 100, 1.0)
        .env("CONTACT_SYNC_INTERVAL", &format!("{POLL}s"))
        .env("DEAL_SYNC_INTERVAL", &format!("{POLL}s"));
    let (mut school, portal) = portal::open(builder, &[]).await?;
    portal::start_stages(&mut school, &portal).await?;
    portal.statuses_written(200, PATIENCE).await?;
    school.after_polls(2).await?;

    let mut seen = Seen::new(&portal).await?;
    let mut edited = BTreeMap::new();
    let mut edit_due = tokio::time::interval(BETWEEN);
    let mut look_due = tokio::time::interval(LOOK);
    let mut last_edit = Instant::now();
    while edited.len() < edits || edited.keys().any(|id| !seen.statuses.contains_key(id)) {
        tokio::select! {
            _ = edit_due.tick(), if edited.len() < edits => {
                last_edit = Instant::now();
                let time = Utc::now();
                edited.insert(create(&school, edited.len()).await?, (last_edit, time));
            }
            _ = look_due.tick() => seen.look(&portal).await?,
        }
        ensure!(last_edit.elapsed() < PATIENCE, "some edits got no status");
    }

    portal::show_warnings(&school)?;
    let created = created(&school).await?;
    let mut to_otmechalka = Vec::new();
    let mut to_status = Vec::new();
    for (id, (instant, time)) in &edited {
        let arrived = created.get(id).with_context(|| format!("contact {id} in otmechalka"))?;
        to_otmechalka.push((*arrived - time).as_seconds_f64());
        to_status.push(seen.statuses[id].duration_since(*instant).as_secs_f64());
    }
    let mut figures = describe("edit to otmechalka", &mut to_otmechalka, 2.0);
    figures.extend(describe("edit to status", &mut to_status, 5.0));
    Ok(figures)
}

fn describe(what: &str, seconds: &mut [f64], slack: f64) -> Vec<Figure> {
    seconds.sort_by(f64::total_cmp);
    let at = |part: f64| seconds[((seconds.len() as f64 * part).ceil() as usize).clamp(1, seconds.len()) - 1];
    let demand = POLL + LAG + slack;
    let what =
        |part: &str| format!("{what}, seconds, {part} of {} (P = {POLL} s, lag {LAG} s)", seconds.len());
    vec![
        Figure::new("P11", what("95 %"), at(0.95)).least(LAG + 0.95 * POLL).at_most(demand, demand),
        Figure::new("P11", what("median"), at(0.5)).least(LAG + 0.5 * POLL),
        Figure::new("P11", what("slowest"), at(1.0)).least(LAG + POLL),
    ]
}

pub async fn create(school: &e2e::School, index: usize) -> anyhow::Result<u64> {
    let contact = json!({
        "NAME": "Елена", "LAST_NAME": "Берёзкина",
        "UF_CRM_57AD7FAF7E6C4": "Берёзкин", "UF_CRM_1608028374": "Артём",
        "PHONE": [{"VALUE": format!("+7926{:07}", 9_000_000 + index), "VALUE_TYPE": "MOBILE"}],
        "UF_CRM_58D15BB9CA8F4": [410], "UF_CRM_1470852549": [48],
    });
    school.bitrix24.create_contact(contact).await
}

/// When statuses were seen in the portal. Looked for often: the portal itself prints whole seconds only.
struct Seen {
    sequence: u64,
    statuses: BTreeMap<u64, Instant>,
}

impl Seen {
    async fn new(portal: &Portal) -> anyhow::Result<Seen> {
        let mut seen = Seen { sequence: 0, statuses: BTreeMap::new() };
        seen.look(portal).await?;
        seen.statuses.clear();
        Ok(seen)
    }

    async fn look(&mut self, portal: &Portal) -> anyhow::Result<()> {
        let writes = portal.writes_after(self.sequence).await?;
        let now = Instant::now();
        for write in writes {
            self.sequence = self.sequence.max(write["seq"].as_u64().context("seq of a write")?);
            let id = write["id"].as_u64().context("id of a write")?;
            if write["entity"] == "contact" {
                self.statuses.entry(id).or_insert(now);
            }
        }
        Ok(())
    }
}

/// Returns when otmechalka took each client.
async fn created(school: &e2e::School) -> anyhow::Result<BTreeMap<u64, DateTime<Utc>>> {
    let history = school.otmechalka.history().await?;
    let calls = history["history"].as_array().context("history of otmechalka")?;
    let applied = calls.iter().filter(|call| call["applied"] == true);
    applied
        .filter(|call| call["method"] == "POST")
        .map(|call| {
            let origin: Option<u64> = call["body"]["origin_id"].as_str().and_then(|id| id.parse().ok());
            let time = call["time"].as_str().map(DateTime::parse_from_rfc3339);
            let time = time.context("time of a call")??.to_utc();
            Ok((origin.context("origin_id of a call")?, time))
        })
        .collect()
}
