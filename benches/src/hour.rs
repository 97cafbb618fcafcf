//! P9 and P10: an hour in which nobody edits anything, and one with two hundred changes.

use std::time::Duration;

use anyhow::Context;
use e2e::School;
use serde_json::{Value, json};

use crate::Scale;
use crate::figure::Figure;
use crate::portal::{self, Counts, Portal};

/// Contacts, and as many deals.
pub const RECORDS: usize = 200;
const POLL_SECONDS: f64 = 60.0;
/// Changes in an hour.
pub const CHANGES: u64 = 200;
/// Longest time without a status.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What `plain` records begin with.
const FIRST_CONTACT: u64 = 1_000;
const FIRST_DEAL: u64 = 100_000;

/// Measures a quiet hour and then, if wanted, a busy one.
pub async fn measure(scale: Scale, with_changes: bool) -> anyhow::Result<Vec<Figure>> {
    let seconds = scale.pick(3_600.0, 1_200.0);
    let (mut school, portal) = portal::open(portal::school(RECORDS, RECORDS, scale.speed(60.0)), &[]).await?;
    portal::start_stages(&mut school, &portal).await?;
    portal.statuses_written(2 * RECORDS as u64, PATIENCE).await?;
    // Until our own updates are older than what a poll looks back.
    school.after_polls(4).await?;
    let polls = seconds / POLL_SECONDS;
    let quiet = over(&portal, seconds).await?;
    let mut figures = vec![
        Figure::new("P9", format!("{seconds:.0} quiet seconds: requests"), quiet.requests as f64)
            .least(polls)
            .at_most(2.0 * polls + 2.0, polls + 1.0),
        Figure::new("P9", "updates in them", quiet.statuses as f64).none_allowed(),
    ];
    portal::show_warnings(&school)?;
    if with_changes {
        figures.extend(busy(&school, &portal, seconds).await?);
    }
    Ok(figures)
}

async fn over(portal: &Portal, seconds: f64) -> anyhow::Result<Counts> {
    portal.reset().await?;
    until(portal, portal.now().await? + seconds).await?;
    portal.counts().await
}

/// Waits for a moment of the portal's clock.
pub async fn until(portal: &Portal, moment: f64) -> anyhow::Result<()> {
    while portal.now().await? < moment {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn busy(school: &School, portal: &Portal, seconds: f64) -> anyhow::Result<Vec<Figure>> {
    let changes = (CHANGES as f64 * seconds / 3_600.0).round() as u64;
    let pattern = Pattern::of(school).await?;
    portal.reset().await?;
    let started = portal.now().await?;
    for index in 0..changes {
        until(portal, started + seconds * index as f64 / changes as f64).await?;
        pattern.change(school, index).await?;
    }
    until(portal, started + seconds).await?;
    let counts = portal.counts().await?;
    let polls = seconds / POLL_SECONDS;
    let part = seconds / 3_600.0;
    let what = format!("{changes} changes in {seconds:.0} s, a poll each minute: requests");
    Ok(vec![
        Figure::new("P10", what, counts.requests as f64)
            // With news in every poll: the poll and the statuses.
            .least(2.0 * polls)
            .at_most((240.0 * part).floor(), (130.0 * part).floor()),
        Figure::new("P10", "statuses written in them", counts.statuses as f64),
        Figure::new("P10", "refused with 503", counts.refused as f64).none_allowed(),
    ])
}

/// The changes of a school day: new pupils, new tickets, corrections.
pub struct Pattern {
    contact: Value,
    deal: Value,
    rows: Value,
}

impl Pattern {
    /// Takes after the records of a school.
    pub async fn of(school: &School) -> anyhow::Result<Pattern> {
        let mut contact = school.bitrix24.record("contact", FIRST_CONTACT).await?;
        let mut deal = school.bitrix24.record("deal", FIRST_DEAL).await?;
        let state = school.bitrix24.state().await?;
        let mut rows = state["product_rows"][FIRST_DEAL.to_string()].clone();
        for record in [&mut contact, &mut deal] {
            let fields = record.as_object_mut().context("record of the simulator")?;
            for own in ["ID", "DATE_CREATE", "DATE_MODIFY", "UF_CRM_SYNC_STATUS"] {
                fields.remove(own);
            }
        }
        for row in rows.as_array_mut().context("rows of the simulator")? {
            let row = row.as_object_mut().context("row of the simulator")?;
            row.retain(|name, _| !["ID", "OWNER_ID", "id", "ownerId"].contains(&name.as_str()));
        }
        Ok(Pattern { contact, deal, rows })
    }

    /// Makes one of them.
    pub async fn change(&self, school: &School, index: u64) -> anyhow::Result<()> {
        match index % 4 {
            0 => school.bitrix24.create_contact(self.contact.clone()).await.map(drop),
            1 => school.bitrix24.create_deal(self.deal.clone(), self.rows.clone()).await.map(drop),
            2 => {
                let fields =
                    json!({"UF_CRM_1608028374": format!("Тимофей{}", ['а', 'б', 'в'][index as usize % 3])});
                school.bitrix24.edit("contact", FIRST_CONTACT + index % RECORDS as u64, fields).await
            }
            _ => {
                let payment = if (index / 4).is_multiple_of(2) { "450" } else { "452" };
                let fields = json!({ "UF_CRM_1490347942": payment });
                school.bitrix24.edit("deal", FIRST_DEAL + index % RECORDS as u64, fields).await
            }
        }
    }
}
