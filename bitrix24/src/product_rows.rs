//! Product rows of many deals at a time.
//!
//! `crm.item.productrow.list` may take a list of owners in its filter, which gives the rows of fifty
//! deals by one command; whether a portal does is found out by [`Client::probe_row_source`]. The
//! classic `crm.deal.productrows.get` takes one deal a command and works everywhere. Rows look alike
//! whichever way they came: upper-case keys, values in the very bytes the portal sent.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use crate::batch::{Batch, Command, CommandId, MAX_COMMANDS};
use crate::bucket::Lane;
use crate::client::Client;
use crate::envelope::Answer;
use crate::error::{ApiError, Error, ErrorClass, ListingFault};
use crate::keyset::PAGE_ROWS;
use crate::php::{Entries, Rows, whole_number};

/// By which method product rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowSource {
    /// `crm.item.productrow.list`, fifty deals a command.
    Items,
    /// `crm.deal.productrows.get`, one deal a command.
    Classic,
}

/// The product rows of each deal, or why the portal does not give them.
pub type RowsByDeal = BTreeMap<u64, Result<Vec<Box<RawValue>>, ApiError>>;

/// Deals whose rows one command asks for: with one row each they fill a page.
const OWNERS_PER_COMMAND: usize = 50;

const LIST: &str = "crm.item.productrow.list";
const GET: &str = "crm.deal.productrows.get";

impl Client {
    /// Returns the product rows of all these deals; a deal without rows has an empty list.
    pub async fn product_rows(
        &self,
        deals: &[u64],
        source: RowSource,
        lane: Lane,
    ) -> Result<RowsByDeal, Error> {
        let deals: Vec<u64> = deals.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let mut rows = RowsByDeal::new();
        let commands_per_batch = match source {
            RowSource::Items => MAX_COMMANDS * OWNERS_PER_COMMAND,
            RowSource::Classic => MAX_COMMANDS,
        };
        for part in deals.chunks(commands_per_batch) {
            rows.extend(match source {
                RowSource::Items => self.rows_of_items(part, lane).await?,
                RowSource::Classic => self.classic_rows(part, lane).await?,
            });
        }
        Ok(rows)
    }

    /// Finds out, with one request, whether this portal gives rows of several deals at a time.
    ///
    /// Returns `None` when these deals have too few rows to tell: two of them need some.
    pub async fn probe_row_source(&self, deals: &[u64], lane: Lane) -> Result<Option<RowSource>, Error> {
        let deals = &deals[..deals.len().min(MAX_COMMANDS - 1)];
        if deals.is_empty() {
            return Ok(None);
        }
        let mut batch = Batch::new();
        let list = batch.push(list_command(deals, 0)?)?;
        for deal in deals {
            batch.push(get_command(*deal)?)?;
        }
        let mut answer = self.batch(&batch, lane).await?;
        let listed = answer.take(&list);
        let mut expected = BTreeMap::new();
        for (deal, (_, outcome)) in deals.iter().zip(answer.into_outcomes()) {
            expected.insert(*deal, row_ids(&classic(&outcome?)?));
        }
        judge(listed, deals, &expected)
    }

    async fn rows_of_items(&self, deals: &[u64], lane: Lane) -> Result<RowsByDeal, Error> {
        let mut walks: Vec<OwnerWalk<'_>> = deals.chunks(OWNERS_PER_COMMAND).map(OwnerWalk::new).collect();
        loop {
            let mut batch = Batch::new();
            let mut asked: Vec<(CommandId, &mut OwnerWalk<'_>)> = Vec::new();
            for walk in walks.iter_mut().filter(|walk| !walk.finished) {
                asked.push((batch.push(list_command(walk.deals, walk.start())?)?, walk));
            }
            if batch.is_empty() {
                break;
            }
            let mut answer = self.batch(&batch, lane).await?;
            for (id, walk) in asked {
                walk.take(&answer.take(&id)?)?;
            }
        }
        let rows = walks.into_iter().flat_map(|walk| walk.by_deal);
        Ok(rows.map(|(deal, rows)| (deal, Ok(rows))).collect())
    }

    async fn classic_rows(&self, deals: &[u64], lane: Lane) -> Result<RowsByDeal, Error> {
        let mut batch = Batch::new();
        for deal in deals {
            batch.push(get_command(*deal)?)?;
        }
        let answer = self.batch(&batch, lane).await?;
        let mut rows = RowsByDeal::new();
        for (deal, (_, outcome)) in deals.iter().zip(answer.into_outcomes()) {
            let outcome = match outcome {
                Ok(answer) => Ok(classic(&answer)?.into_iter().map(|row| row.raw).collect()),
                Err(error) => Err(error),
            };
            rows.insert(*deal, outcome);
        }
        Ok(rows)
    }
}

fn list_command(deals: &[u64], start: usize) -> Result<Command, Error> {
    let params = json!({
        "filter": {"=ownerType": "D", "=ownerId": deals},
        "order": {"id": "ASC"},
        "start": start,
    });
    Command::new(LIST, &params)
}

fn get_command(deal: u64) -> Result<Command, Error> {
    Command::new(GET, &json!({ "id": deal }))
}

/// Compares what the list gave with what each deal has.
fn judge(
    listed: Result<Answer, ApiError>,
    deals: &[u64],
    expected: &BTreeMap<u64, BTreeSet<u64>>,
) -> Result<Option<RowSource>, Error> {
    let answer = match listed {
        Ok(answer) => answer,
        Err(error) if matches!(error.class(), ErrorClass::Permanent | ErrorClass::NotFound) => {
            return Ok(Some(RowSource::Classic));
        }
        // The method may lie outside of the webhook's rights while the classic one does not.
        Err(error) if error.class() == ErrorClass::Refused => return Ok(Some(RowSource::Classic)),
        Err(error) => return Err(error.into()),
    };
    let mut walk = OwnerWalk::new(deals);
    if walk.take(&answer).is_err() {
        return Ok(Some(RowSource::Classic));
    }
    let as_expected = walk.ids.iter().eq(expected.values().flatten().collect::<BTreeSet<_>>());
    let telling = expected.values().filter(|ids| !ids.is_empty()).count() >= 2;
    Ok(match (as_expected || !walk.finished, telling) {
        (false, _) => Some(RowSource::Classic),
        (true, true) => Some(RowSource::Items),
        (true, false) => None,
    })
}

/// The way through the rows of some deals, page by page.
struct OwnerWalk<'a> {
    deals: &'a [u64],
    by_deal: BTreeMap<u64, Vec<Box<RawValue>>>,
    ids: BTreeSet<u64>,
    rows: usize,
    /// How many rows there are, as the first page said.
    total: Option<u64>,
    restarts: u8,
    finished: bool,
}

/// How often a walk begins anew as rows came or went meanwhile.
const MOST_RESTARTS: u8 = 3;

impl<'a> OwnerWalk<'a> {
    fn new(deals: &'a [u64]) -> Self {
        let by_deal = deals.iter().map(|deal| (*deal, Vec::new())).collect();
        Self { deals, by_deal, ids: BTreeSet::new(), rows: 0, total: None, restarts: 0, finished: false }
    }

    fn start(&self) -> usize {
        self.rows
    }

    /// Adds a page. Its end is believed only if the page is short or the count agrees: portals leave
    /// out `next` or count zero.
    ///
    /// Pages are counted from the first row on: if one of those before was deleted, another has slipped past, and the walk
    /// begins anew.
    fn take(&mut self, answer: &Answer) -> Result<(), Error> {
        let page = items(answer)?;
        let total = answer.total.filter(|total| *total > 0);
        let is_changed = self.total.is_some() && total.is_some() && self.total != total;
        if is_changed && self.restarts < MOST_RESTARTS {
            *self = Self { restarts: self.restarts + 1, ..Self::new(self.deals) };
            return Ok(());
        }
        self.total = self.total.or(total);
        let length = page.len();
        let known = self.ids.len();
        for row in page {
            let Some(rows) = self.by_deal.get_mut(&row.owner) else {
                return Err(fault(ListingFault::OutOfBounds));
            };
            if self.ids.insert(row.id) {
                rows.push(row.raw);
            }
        }
        // A page of rows that are known already, or an empty one behind which there are more.
        let goes_on = length > 0 || answer.next.is_some();
        if goes_on && self.ids.len() == known {
            return Err(fault(ListingFault::Stuck));
        }
        self.rows += length;
        let all_counted = answer.total == Some(self.rows as u64);
        self.finished = answer.next.is_none() && (length < PAGE_ROWS || all_counted);
        Ok(())
    }
}

fn fault(fault: ListingFault) -> Error {
    Error::Listing { method: LIST.into(), fault }
}

/// A product row with its keys in upper case.
struct ProductRow {
    id: u64,
    owner: u64,
    raw: Box<RawValue>,
}

fn items(answer: &Answer) -> Result<Vec<ProductRow>, Error> {
    #[derive(Deserialize)]
    struct Items {
        #[serde(rename = "productRows")]
        rows: Rows,
    }
    let items: Items = answer.parse("an object with product rows")?;
    product_rows(answer, &items.rows.0)
}

fn classic(answer: &Answer) -> Result<Vec<ProductRow>, Error> {
    let Rows(rows) = answer.parse("a list of product rows")?;
    product_rows(answer, &rows)
}

fn product_rows(answer: &Answer, rows: &[Box<RawValue>]) -> Result<Vec<ProductRow>, Error> {
    rows.iter()
        .map(|raw| normalise(raw).ok_or_else(|| answer.shape_error("a list of product rows")))
        .collect()
}

fn row_ids(rows: &[ProductRow]) -> BTreeSet<u64> {
    rows.iter().map(|row| row.id).collect()
}

/// Rewrites the keys and leaves every value as it was written.
fn normalise(raw: &RawValue) -> Option<ProductRow> {
    let entries: Entries<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    let row = UpperCase(entries.0.into_iter().map(|(key, value)| (upper_case(&key), value)).collect());
    let number = |key: &str| row.0.iter().find(|(name, _)| name == key).and_then(|(_, id)| whole_number(id));
    Some(ProductRow { id: number("ID")?, owner: number("OWNER_ID")?, raw: to_raw_value(&row).ok()? })
}

struct UpperCase<'a>(Vec<(String, &'a RawValue)>);

impl Serialize for UpperCase<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// Turns `priceBrutto` into `PRICE_BRUTTO` and leaves `PRICE_BRUTTO` alone.
fn upper_case(key: &str) -> String {
    if !key.contains(|letter: char| letter.is_ascii_lowercase()) {
        return key.to_owned();
    }
    let mut upper = String::with_capacity(key.len() + 4);
    for letter in key.chars() {
        if letter.is_ascii_uppercase() && !upper.is_empty() {
            upper.push('_');
        }
        upper.push(letter.to_ascii_uppercase());
    }
    upper
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::envelope::Time;

    fn answer(result: Value, next: Option<u64>, total: Option<u64>) -> Answer {
        let result = to_raw_value(&result).expect("JSON");
        Answer { result, next, total, time: Time::default(), method: LIST.into() }
    }

    fn page(rows: impl IntoIterator<Item = (u64, u64)>) -> Value {
        let rows: Vec<Value> =
            rows.into_iter().map(|(id, owner)| json!({"id": id, "ownerId": owner})).collect();
        json!({ "productRows": rows })
    }

    #[test]
    fn both_shapes_become_one() {
        let item = RawValue::from_string(
            r#"{"id":17,"ownerId":5,"ownerType":"D","productName":"6 КМС","priceBrutto":9000.10,"xmlId":null}"#.to_owned(),
        );
        let row = normalise(&item.expect("JSON")).expect("a row");
        assert_eq!((row.id, row.owner), (17, 5));
        assert_eq!(
            row.raw.get(),
            r#"{"ID":17,"OWNER_ID":5,"OWNER_TYPE":"D","PRODUCT_NAME":"6 КМС","PRICE_BRUTTO":9000.10,"XML_ID":null}"#
        );
        let classic =
            RawValue::from_string(r#"{"ID":"17","OWNER_ID":"5","PRICE":8702.2999999999993}"#.to_owned());
        let row = normalise(&classic.expect("JSON")).expect("a row");
        assert_eq!(row.raw.get(), r#"{"ID":"17","OWNER_ID":"5","PRICE":8702.2999999999993}"#);
    }

    #[test]
    fn a_full_page_is_the_last_one_only_if_the_count_says_so() {
        let deals: Vec<u64> = (1..=50).collect();
        let full = || page((1..=50).map(|n| (n, n)));
        for (next, total, finished) in
            [(None, Some(50), true), (Some(50), Some(60), false), (None, None, false), (None, Some(0), false)]
        {
            let mut walk = OwnerWalk::new(&deals);
            walk.take(&answer(full(), next, total)).expect("a page");
            assert_eq!(walk.finished, finished, "{next:?} {total:?}");
        }
    }

    #[test]
    fn rows_of_other_deals_mean_an_ignored_filter() {
        let taken = OwnerWalk::new(&[1, 2]).take(&answer(page([(7, 3)]), None, None));
        assert!(matches!(taken, Err(Error::Listing { fault: ListingFault::OutOfBounds, .. })));
    }

    #[test]
    fn rows_that_came_or_went_between_two_pages_have_all_read_anew() {
        let mut walk = OwnerWalk::new(&[1, 2]);
        let first = |rows: u64| answer(page((1..=50).map(|n| (n, 1))), Some(50), Some(rows));
        walk.take(&first(60)).expect("a page");
        walk.take(&answer(page((52..=60).map(|n| (n, 2))), None, Some(59))).expect("a page");
        assert_eq!((walk.start(), walk.finished, walk.ids.len()), (0, false, 0));
        walk.take(&first(59)).expect("a page");
        walk.take(&answer(page((51..=59).map(|n| (n, 2))), None, Some(59))).expect("a page");
        assert_eq!((walk.finished, walk.by_deal[&1].len(), walk.by_deal[&2].len()), (true, 50, 9));
    }

    #[test]
    fn a_portal_that_never_counts_the_same_is_read_to_its_end() {
        let mut walk = OwnerWalk::new(&[1]);
        let first = |rows| answer(page((1..=50).map(|n| (n, 1))), Some(50), Some(rows));
        for _ in 0..MOST_RESTARTS {
            walk.take(&first(60)).expect("a page");
            walk.take(&first(61)).expect("a page");
            assert_eq!(walk.start(), 0);
        }
        walk.take(&first(60)).expect("a page");
        walk.take(&answer(page([(51, 1)]), None, Some(61))).expect("a page");
        assert_eq!((walk.finished, walk.ids.len()), (true, 51));
    }

    #[test]
    fn a_page_that_comes_again_is_an_error() {
        let mut walk = OwnerWalk::new(&[1]);
        let page = answer(page((1..=50).map(|n| (n, 1))), Some(50), None);
        walk.take(&page).expect("a page");
        assert!(matches!(walk.take(&page), Err(Error::Listing { fault: ListingFault::Stuck, .. })));
    }

    #[test]
    fn an_empty_page_with_more_behind_it_is_an_error_and_not_asked_for_for_ever() {
        let mut walk = OwnerWalk::new(&[1]);
        let empty = answer(page([]), Some(50), Some(60));
        assert!(matches!(walk.take(&empty), Err(Error::Listing { fault: ListingFault::Stuck, .. })));
    }

    fn verdict(listed: Result<Value, ApiError>, expected: &[(u64, &[u64])]) -> Option<RowSource> {
        let deals: Vec<u64> = expected.iter().map(|(deal, _)| *deal).collect();
        let expected = expected.iter().map(|(deal, ids)| (*deal, ids.iter().copied().collect())).collect();
        let listed = listed.map(|result| answer(result, None, None));
        judge(listed, &deals, &expected).expect("a verdict")
    }

    #[test]
    fn a_portal_is_believed_only_if_both_ways_agree() {
        let two: &[(u64, &[u64])] = &[(1, &[11]), (2, &[21, 22])];
        assert_eq!(verdict(Ok(page([(11, 1), (21, 2), (22, 2)])), two), Some(RowSource::Items));
        assert_eq!(verdict(Ok(page([(11, 1)])), two), Some(RowSource::Classic));
        assert_eq!(verdict(Ok(page([])), two), Some(RowSource::Classic));
        assert_eq!(verdict(Ok(page([(11, 1), (31, 3)])), two), Some(RowSource::Classic));
        assert_eq!(verdict(Ok(page([(11, 1)])), &[(1, &[11]), (2, &[])]), None);
        let refused = ApiError::new(LIST, "INVALID_ARG_VALUE", "", None);
        assert_eq!(verdict(Err(refused), two), Some(RowSource::Classic));
    }
}
