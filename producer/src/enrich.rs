//! What belongs to a deal besides its own fields: product rows and the seller.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bitrix24::{ErrorClass, Lane, RowSource};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::error::PollError;
use crate::portal::Portal;
use crate::record::{Reading, Record};
use crate::walk::Moment;

/// Deals that the portal is probed with: a few tell as much as many.
const PROBED: usize = 10;

/// Probes that may tell nothing, for want of deals with rows, before small answers are no longer probed with.
const PROBES: u32 = 5;

/// Deals in an answer from which on it is always worth knowing the quick way to their rows.
const MANY: usize = 50;

/// Gets what belongs to deals.
pub struct Enricher {
    source: Option<RowSource>,
    probes: u32,
    sellers: Sellers,
}

impl Enricher {
    /// Starts knowing nothing; sellers are asked for again after `seller_expiry`.
    pub fn new(seller_expiry: Duration) -> Enricher {
        Enricher { source: None, probes: 0, sellers: Sellers::new(seller_expiry) }
    }

    /// Tells whether the rows of many deals come in one request.
    pub fn is_quick(&self) -> bool {
        self.source == Some(RowSource::Items)
    }

    /// Completes deals; one that was deleted meanwhile is left out.
    pub async fn complete(
        &mut self,
        portal: &Portal,
        deals: Vec<Record>,
        observed: Moment,
        lane: Lane,
    ) -> Result<Vec<Reading>, PollError> {
        if deals.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<u64> = deals.iter().map(|deal| deal.record.id.get()).collect();
        let mut rows = self.rows(portal, &ids, lane).await?;
        let sellers: BTreeSet<u64> = deals.iter().filter_map(|deal| deal.seller).map(|id| id.get()).collect();
        let sellers = self.sellers.get(portal, sellers, lane).await?;
        let mut readings = Vec::with_capacity(deals.len());
        for deal in deals {
            let Some(rows) = rows.remove(&deal.record.id.get()) else { continue };
            let seller = deal.seller.and_then(|id| sellers.get(&id.get()).cloned());
            readings.push(Reading::complete(deal, observed, Some(rows), seller));
        }
        Ok(readings)
    }

    async fn rows(
        &mut self,
        portal: &Portal,
        deals: &[u64],
        lane: Lane,
    ) -> Result<BTreeMap<u64, Vec<Box<RawValue>>>, PollError> {
        let source = self.source(portal, deals, lane).await?;
        let answer = portal.read(portal.client().product_rows(deals, source, lane)).await;
        let outcomes = answer.inspect_err(|error| self.doubt(error))?;
        let mut rows = BTreeMap::new();
        for (deal, outcome) in outcomes {
            match outcome {
                Ok(of_deal) => {
                    rows.insert(deal, of_deal);
                }
                Err(error) if error.class() == ErrorClass::NotFound => {
                    tracing::info!(deal.id = %deal, "Deal {deal} was deleted while it was read");
                }
                Err(error) => return Err(bitrix24::Error::from(error).into()),
            }
        }
        Ok(rows)
    }

    /// A way that does not work any more is found out anew.
    fn doubt(&mut self, error: &PollError) {
        if let PollError::Portal(error) = error
            && matches!(error.class(), ErrorClass::Permanent | ErrorClass::NotFound)
        {
            self.source = None;
        }
    }

    async fn source(&mut self, portal: &Portal, deals: &[u64], lane: Lane) -> Result<RowSource, PollError> {
        if let Some(source) = self.source {
            return Ok(source);
        }
        let worth_it = deals.len() >= MANY || (deals.len() >= 2 && self.probes < PROBES);
        if worth_it {
            self.probes += 1;
            let probed = &deals[..deals.len().min(PROBED)];
            match portal.read(portal.client().probe_row_source(probed, lane)).await {
                Ok(source) => self.source = source,
                // One of them was deleted: the next poll has others.
                Err(PollError::Portal(error)) if error.class() == ErrorClass::NotFound => {}
                Err(error) => return Err(error),
            }
            if let Some(source) = self.source {
                self.probes = 0;
                tracing::info!("Product rows are read by {}", word(source));
            }
        }
        Ok(self.source.unwrap_or(RowSource::Classic))
    }
}

fn word(source: RowSource) -> &'static str {
    match source {
        RowSource::Items => "crm.item.productrow.list, fifty deals a command",
        RowSource::Classic => "crm.deal.productrows.get, one deal a command",
    }
}

/// Most sellers that are remembered.
const MOST_SELLERS: usize = 5_000;

/// Users as they were when last asked for.
struct Sellers {
    expiry: Duration,
    known: BTreeMap<u64, (Box<RawValue>, Instant)>,
}

impl Sellers {
    fn new(expiry: Duration) -> Sellers {
        Sellers { expiry, known: BTreeMap::new() }
    }

    /// Returns those of them that the portal knows.
    ///
    /// Who is unknown is asked for every time: the person may be made visible at any moment.
    async fn get(
        &mut self,
        portal: &Portal,
        wanted: BTreeSet<u64>,
        lane: Lane,
    ) -> Result<BTreeMap<u64, Box<RawValue>>, PollError> {
        let now = Instant::now();
        self.known.retain(|_, (_, since)| now.duration_since(*since) < self.expiry);
        let missing: Vec<u64> = wanted.iter().copied().filter(|id| !self.known.contains_key(id)).collect();
        if !missing.is_empty() {
            let found = portal.read(portal.client().users(&missing, lane)).await?;
            if self.known.len() + found.len() > MOST_SELLERS {
                self.known.retain(|id, _| wanted.contains(id));
            }
            self.known.extend(found.into_iter().map(|(id, user)| (id, (user.raw, now))));
        }
        let of = |id: u64| Some((id, self.known.get(&id)?.0.clone()));
        Ok(wanted.into_iter().filter_map(of).collect())
    }
}
