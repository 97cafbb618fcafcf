//! P8: updates so slow that a full batch would be cut off after a minute.

use std::time::Duration;

use crate::Scale;
use crate::figure::Figure;
use crate::portal;

const CONTACT_UPDATE: f64 = 2.12;
const DEAL_UPDATE: f64 = 1.35;

/// Measures a first sync against such a portal.
pub async fn measure(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let each: u64 = scale.pick(400, 220);
    let speed = scale.speed(20.0);
    let patience = Duration::from_secs_f64(60.0 + 900.0 / speed);
    let builder = portal::school(usize::try_from(each)?, usize::try_from(each)?, speed);
    let costs = [("crm.contact.update", CONTACT_UPDATE), ("crm.deal.update", DEAL_UPDATE)];
    let (mut school, portal) = portal::open(builder, &costs).await?;
    portal::start_with_outcomes_ready(&mut school, &portal, 2 * each).await?;
    portal.statuses_written(2 * each, patience).await?;
    portal::show_warnings(&school)?;
    let counts = portal.counts().await?;
    let what = format!("{each} contacts of {CONTACT_UPDATE} s, {each} deals of {DEAL_UPDATE} s");
    Ok(vec![
        Figure::new("P8", format!("{what}: requests cut off with 504"), counts.cut_off as f64).none_allowed(),
        Figure::new("P8", "statuses written twice", portal::written_twice(&portal).await? as f64)
            .none_allowed(),
        Figure::new("P8", "commands refused for computing time", counts.refused_operating as f64)
            .none_allowed(),
    ])
}
