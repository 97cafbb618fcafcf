//! Reads the whole selection by id, whatever its modification times: for reconciliation.

use bitrix24::keyset::PAGE_ROWS;
use bitrix24::{ChainLength, Client, Lane};
use runtime::CancellationToken;
use schemas::Entity;

use crate::Config;
use crate::enrich::Enricher;
use crate::entity::Plan;
use crate::error::PollError;
use crate::portal::{Pages, Portal};
use crate::record::{Reading, Record, read_rows};
use crate::walk::{Moment, Question, whole_second};

/// Nobody waits for it, so that polls and statuses go first.
pub const LANE: Lane = Lane::Backfill;

/// Pages of records in one request where their rows come in few further ones.
const QUICK_PAGES: u8 = 10;

/// Pages of records for each of which another command is needed.
const SLOW_PAGES: u8 = 2;

/// Halvings after which a single record is left of any of them.
pub const MOST_NARROWED: u8 = 9;

/// Some records of an entity in ascending order of ids.
pub struct Stretch {
    /// The records, whole.
    pub readings: Vec<Reading>,
    /// All ids up to this one were asked for; none at the end of the entity.
    pub next: Option<u64>,
    /// The portal's time when the answer began to be made.
    pub observed: Moment,
}

/// A reader of the whole selection.
pub struct Survey {
    portal: Portal,
    enricher: Enricher,
    plans: [Plan; 2],
}

impl Survey {
    /// Starts one with a client that respects the limits of the portal.
    pub fn new(config: Config, client: Client, stopping: CancellationToken) -> Survey {
        Survey {
            portal: Portal::new(client, stopping, config.zone),
            enricher: Enricher::new(config.seller_cache),
            plans: [config.contacts, config.deals],
        }
    }

    /// Returns the client.
    pub fn client(&self) -> &Client {
        self.portal.client()
    }

    /// Reads the records behind an id; how many at once is halved so often, [`MOST_NARROWED`] times for a single one.
    pub async fn behind(&mut self, entity: Entity, after: u64, narrowed: u8) -> Result<Stretch, PollError> {
        let plan = plan_of(&self.plans, entity);
        read_behind(&self.portal, &mut self.enricher, plan, after, narrowed).await
    }

    /// Passes over the next record, which cannot be read: a stretch up to that without a reading; `None` where there is none.
    pub async fn pass_over(&self, entity: Entity, after: u64) -> Result<Option<Stretch>, PollError> {
        let next = first_behind(&self.portal, plan_of(&self.plans, entity), after).await?;
        Ok(next.map(|(id, observed)| Stretch { readings: Vec::new(), next: Some(id), observed }))
    }

    /// Reads some records by their ids; those that are gone or outside of the selection are left out.
    pub async fn records(&mut self, entity: Entity, ids: &[u64]) -> Result<Vec<Reading>, PollError> {
        let plan = plan_of(&self.plans, entity);
        let kind = match entity {
            Entity::Contact => bitrix24::Entity::Contact,
            Entity::Deal => bitrix24::Entity::Deal,
        };
        let asked = self.portal.client().portal_now();
        let rows = self.portal.read(self.portal.client().records(kind, ids, plan.select, LANE)).await?;
        let observed = asked.or_else(|| self.portal.client().portal_now()).ok_or(PollError::NoTime)?;
        let observed = whole_second(observed);
        let question = everything(plan, 0);
        let selected = |raw| read_rows(plan, question, vec![raw]).ok().and_then(|mut rows| rows.pop());
        let records: Vec<Record> = rows.into_values().filter_map(|row| selected(row.raw)).collect();
        complete(&self.portal, &mut self.enricher, plan, records, observed).await
    }
}

fn plan_of(plans: &[Plan; 2], entity: Entity) -> &Plan {
    match entity {
        Entity::Contact => &plans[0],
        Entity::Deal => &plans[1],
    }
}

/// How much is asked for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Portion {
    Pages(u8),
    Rows(usize),
}

/// Halves some pages so often, down to a single row.
fn portion(pages: u8, narrowed: u8) -> Portion {
    let rows = (usize::from(pages) * PAGE_ROWS).checked_shr(narrowed.into()).unwrap_or(0);
    match u8::try_from(rows / PAGE_ROWS) {
        Ok(pages @ 1..) => Portion::Pages(pages),
        _ => Portion::Rows(rows.max(1)),
    }
}

/// Asks for all that polling may ever see.
pub fn everything(plan: &Plan, after: u64) -> Question {
    Question { from: plan.first_watermark, until: None, after }
}

/// Returns the first id of a plan behind another one, and when that was so.
pub async fn first_behind(
    portal: &Portal,
    plan: &Plan,
    after: u64,
) -> Result<Option<(u64, Moment)>, PollError> {
    let (ids, observed) = portal.ids(plan, everything(plan, after), LANE).await?;
    Ok(ids.first().map(|id| (*id, observed)))
}

/// Reads the records of a plan behind an id; how many at once is halved so often.
pub async fn read_behind(
    portal: &Portal,
    enricher: &mut Enricher,
    plan: &Plan,
    after: u64,
    narrowed: u8,
) -> Result<Stretch, PollError> {
    let is_slow = plan.has_rows_and_seller && !enricher.is_quick();
    let pages = if is_slow { SLOW_PAGES } else { QUICK_PAGES };
    let question = everything(plan, after);
    let Pages { records, answered, .. } = match portion(pages, narrowed) {
        Portion::Pages(pages) => {
            let length = ChainLength::try_new(pages).unwrap_or(ChainLength::SINGLE);
            portal.ask(plan, question, length, LANE).await?
        }
        Portion::Rows(count) => portal.ask_for_rows(plan, question, count, LANE).await?,
    };
    let readings = complete(portal, enricher, plan, records, answered.observed).await?;
    Ok(Stretch { readings, next: answered.next, observed: answered.observed })
}

async fn complete(
    portal: &Portal,
    enricher: &mut Enricher,
    plan: &Plan,
    records: Vec<Record>,
    observed: Moment,
) -> Result<Vec<Reading>, PollError> {
    if plan.has_rows_and_seller {
        return enricher.complete(portal, records, observed, LANE).await;
    }
    Ok(records.into_iter().map(|record| Reading::alone(record, observed)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_asked_for_in_halves_down_to_one_record() {
        let portions: Vec<Portion> =
            (0..=MOST_NARROWED).map(|narrowed| portion(QUICK_PAGES, narrowed)).collect();
        let expected = [
            Portion::Pages(10),
            Portion::Pages(5),
            Portion::Pages(2),
            Portion::Pages(1),
            Portion::Rows(31),
            Portion::Rows(15),
            Portion::Rows(7),
            Portion::Rows(3),
            Portion::Rows(1),
            Portion::Rows(1),
        ];
        assert_eq!(portions, expected);
        assert_eq!(portion(SLOW_PAGES, MOST_NARROWED), Portion::Rows(1));
        assert_eq!(portion(SLOW_PAGES, u8::MAX), Portion::Rows(1));
    }
}
