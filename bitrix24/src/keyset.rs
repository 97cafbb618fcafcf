//! Walking long lists by ID.
//!
//! `start=-1` spares the portal the counting, `ID` in ascending order and a filter `>ID` replace the
//! page number, and one batch chains up to fifty pages: each starts behind the last row of the page
//! before it. After a short page such a reference leads nowhere and what follows is noise, so reading
//! stops there. See <https://apidocs.bitrix24.com/> under "huge data".
//!
//! Pure; [`crate::Client::list_page`] sends what is built here.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::batch::{Batch, BatchAnswer, Command, CommandId, MAX_COMMANDS, Reference};
use crate::envelope::Answer;
use crate::error::{ApiError, Error, ListingFault};
use crate::php::{Rows, whole_number};

/// Rows a page holds; the portal offers no other size.
pub const PAGE_ROWS: usize = 50;

/// A record in the very bytes the portal sent, with its ID read out.
#[derive(Clone)]
pub struct Row {
    /// The record's ID.
    pub id: u64,
    /// The record.
    pub raw: Box<RawValue>,
}

/// Leaves the record out.
impl fmt::Debug for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Row({})", self.id)
    }
}

/// Rows in ascending order of ID, and where to go on.
#[derive(Debug)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// The ID to go on behind; `None` at the end of the list.
    pub next: Option<u64>,
}

/// How many pages one request chains, 1 to 50. Bounds the memory an answer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLength(u8);

impl ChainLength {
    /// As many pages as a batch has commands.
    pub const LONGEST: Self = Self(MAX_COMMANDS as u8);
    /// A single page.
    pub const SINGLE: Self = Self(1);

    /// Returns the length if a batch can hold it.
    pub fn try_new(pages: u8) -> Option<Self> {
        (1..=Self::LONGEST.0).contains(&pages).then_some(Self(pages))
    }

    /// Returns the number of pages.
    pub fn pages(self) -> u8 {
        self.0
    }

    /// Returns half of it, or `None` at a single page.
    pub(crate) fn half(self) -> Option<Self> {
        (self.0 > 1).then_some(Self(self.0 / 2))
    }
}

/// A list method and what to ask it for.
#[derive(Debug, Clone)]
pub struct Listing {
    method: Box<str>,
    params: Map<String, Value>,
    filter: Map<String, Value>,
    id_key: &'static str,
    /// Where the rows are in the result: in itself, or under a key.
    rows_key: Option<&'static str>,
    up_to: Option<u64>,
}

impl Listing {
    /// Returns a listing of a classic method such as `crm.contact.list`, whose result is the rows.
    ///
    /// Phones and e-mails come only if `select` names them.
    pub fn classic(method: &str, filter: Map<String, Value>, select: &[&str]) -> Self {
        let params = Map::from_iter([
            ("select".to_owned(), json!(select)),
            ("order".to_owned(), json!({"ID": "ASC"})),
            ("start".to_owned(), json!(-1)),
        ]);
        Self { method: method.into(), params, filter, id_key: "ID", rows_key: None, up_to: None }
    }

    /// Returns a listing of `crm.item.list`, whose rows are under `items`.
    pub fn items(entity_type_id: u32, filter: Map<String, Value>, select: &[&str]) -> Self {
        let mut listing = Self::classic("crm.item.list", filter, select);
        listing.params.insert("entityTypeId".to_owned(), json!(entity_type_id));
        listing.params.insert("order".to_owned(), json!({"id": "ASC"}));
        Self { id_key: "id", rows_key: Some("items"), ..listing }
    }

    /// Leaves out IDs above this one.
    pub fn up_to(mut self, id: u64) -> Self {
        self.filter.insert(format!("<={}", self.id_key), json!(id));
        Self { up_to: Some(id), ..self }
    }

    /// Returns the method called.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns a batch that reads the pages behind an ID.
    pub fn chain(&self, after: u64, length: ChainLength) -> Result<Batch, Error> {
        let mut batch = Batch::new();
        batch.push(self.command(self.filter_after(Some(after)))?)?;
        for index in 1..usize::from(length.0) {
            let reference = self.last_id_of(&CommandId::numbered(index - 1));
            let path = ["filter", &format!(">{}", self.id_key)];
            batch.push(self.command(self.filter_after(None))?.with_reference(&path, &reference)?)?;
        }
        Ok(batch)
    }

    /// Reads the answer to [`Listing::chain`] with the same arguments.
    ///
    /// An error on the first page is the error of the walk; behind a good page it only ends this
    /// request's part of it.
    pub fn read(&self, after: u64, length: ChainLength, mut answer: BatchAnswer) -> Result<Page, Error> {
        let mut walk = Walk { listing: self, rows: Vec::new(), cursor: after };
        for index in 0..usize::from(length.0) {
            match answer.take(&CommandId::numbered(index)) {
                Ok(page) => {
                    if walk.take_page(&page)? < PAGE_ROWS {
                        return Ok(Page { rows: walk.rows, next: None });
                    }
                }
                Err(error) if index == 0 => return Err(error.into()),
                Err(error) => {
                    note_broken_chain(&error, index);
                    break;
                }
            }
        }
        Ok(Page { next: Some(walk.cursor), rows: walk.rows })
    }

    /// Reads the answer to the first command of [`Listing::chain`], in whatever batch that was.
    pub fn first_page(&self, after: u64, answer: &Answer) -> Result<Page, Error> {
        let mut walk = Walk { listing: self, rows: Vec::new(), cursor: after };
        let is_full = walk.take_page(answer)? == PAGE_ROWS;
        Ok(Page { next: is_full.then_some(walk.cursor), rows: walk.rows })
    }

    fn filter_after(&self, after: Option<u64>) -> Map<String, Value> {
        let mut filter = self.filter.clone();
        if let Some(after) = after {
            filter.insert(format!(">{}", self.id_key), json!(after));
        }
        filter
    }

    fn command(&self, filter: Map<String, Value>) -> Result<Command, Error> {
        let mut params = self.params.clone();
        if !filter.is_empty() {
            params.insert("filter".to_owned(), Value::Object(filter));
        }
        if params.get("select").is_some_and(|select| *select == json!([])) {
            params.remove("select");
        }
        Command::new(&self.method, &Value::Object(params))
    }

    fn last_id_of(&self, command: &CommandId) -> Reference {
        let last = (PAGE_ROWS - 1).to_string();
        let path: Vec<&str> = self.rows_key.into_iter().chain([last.as_str(), self.id_key]).collect();
        Reference::new(command, &path)
    }

    fn rows(&self, answer: &Answer) -> Result<Vec<Box<RawValue>>, Error> {
        let Some(key) = self.rows_key else {
            return answer.parse("a list of rows").map(|Rows(rows)| rows);
        };
        let mut object: BTreeMap<String, Box<RawValue>> = answer.parse("an object with rows")?;
        let rows = object.remove(key).and_then(|rows| serde_json::from_str(rows.get()).ok());
        rows.map(|Rows(rows)| rows).ok_or_else(|| answer.shape_error("an object with rows"))
    }

    fn id(&self, row: &RawValue) -> Option<u64> {
        #[derive(Deserialize)]
        struct Classic<'a> {
            #[serde(borrow, rename = "ID")]
            id: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Item<'a> {
            #[serde(borrow)]
            id: &'a RawValue,
        }
        if !row.get().starts_with('{') {
            return None;
        }
        let id = match self.id_key {
            "id" => serde_json::from_str::<Item<'_>>(row.get()).ok()?.id,
            _ => serde_json::from_str::<Classic<'_>>(row.get()).ok()?.id,
        };
        whole_number(id)
    }

    fn fault(&self, fault: ListingFault) -> Error {
        Error::Listing { method: self.method.clone(), fault }
    }
}

fn note_broken_chain(error: &ApiError, page: usize) {
    tracing::debug!(page, "Page {page} of a chain failed, the walk goes on before it: {error}");
}

struct Walk<'a> {
    listing: &'a Listing,
    rows: Vec<Row>,
    cursor: u64,
}

impl Walk<'_> {
    /// Adds a page and returns its length.
    fn take_page(&mut self, answer: &Answer) -> Result<usize, Error> {
        let rows = self.listing.rows(answer)?;
        let length = rows.len();
        if length > PAGE_ROWS {
            return Err(self.listing.fault(ListingFault::PageTooLong));
        }
        let start = self.cursor;
        for raw in rows {
            let id = self.listing.id(&raw).ok_or_else(|| self.listing.fault(ListingFault::NoId))?;
            self.take_row(Row { id, raw }, start)?;
        }
        Ok(length)
    }

    fn take_row(&mut self, row: Row, start: u64) -> Result<(), Error> {
        if self.listing.up_to.is_some_and(|last| row.id > last) {
            return Err(self.listing.fault(ListingFault::OutOfBounds));
        }
        if row.id > self.cursor {
            self.cursor = row.id;
            self.rows.push(row);
            return Ok(());
        }
        let repeats_the_page_before = !self.rows.is_empty() && start >= row.id;
        match () {
            () if repeats_the_page_before => Err(self.listing.fault(ListingFault::Stuck)),
            () if row.id <= start => Err(self.listing.fault(ListingFault::OutOfBounds)),
            // A row given twice in a row is one row.
            () if row.id == self.cursor => Ok(()),
            () => Err(self.listing.fault(ListingFault::Unordered)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::{self, Reply};

    fn contacts() -> Listing {
        let filter = Map::from_iter([(">=DATE_MODIFY".to_owned(), json!("2020-12-20T00:00:00+03:00"))]);
        Listing::classic("crm.contact.list", filter, &["ID", "PHONE"])
    }

    fn length(pages: u8) -> ChainLength {
        ChainLength::try_new(pages).expect("1 to 50")
    }

    fn page(ids: impl IntoIterator<Item = u64>) -> Value {
        ids.into_iter().map(|id| json!({"ID": id.to_string()})).collect()
    }

    fn read_from(listing: &Listing, after: u64, pages: &[Value]) -> Result<Page, Error> {
        let chain = length(pages.len() as u8);
        let results: Map<String, Value> =
            pages.iter().enumerate().map(|(n, page)| (format!("c{n}"), page.clone())).collect();
        let body = json!({"result": {"result": results, "result_error": []}}).to_string();
        let reply = Reply { status: 200, body: body.into_bytes() };
        let batch = listing.chain(after, chain)?;
        listing.read(after, chain, BatchAnswer::read(&batch, envelope::read("batch", &reply)?)?)
    }

    fn read(pages: &[Value]) -> Result<Page, Error> {
        read_from(&contacts(), 0, pages)
    }

    fn fault(outcome: Result<Page, Error>) -> ListingFault {
        match outcome {
            Err(Error::Listing { fault, .. }) => fault,
            other => panic!("no listing fault: {other:?}"),
        }
    }

    #[test]
    fn each_page_starts_behind_the_one_before() {
        let batch = contacts().chain(7, length(2)).expect("a batch");
        let body = serde_json::to_value(&batch).expect("JSON");
        let first = body["cmd"]["c0"].as_str().expect("text");
        let second = body["cmd"]["c1"].as_str().expect("text");
        assert!(first.contains("filter[%3EID]=7&"), "{first}");
        assert!(first.contains("start=-1") && first.contains("order[ID]=ASC"), "{first}");
        assert!(second.ends_with("&filter[%3EID]=%24result%5Bc0%5D%5B49%5D%5BID%5D"), "{second}");
    }

    #[test]
    fn items_are_found_under_their_key() {
        let listing = Listing::items(3, Map::new(), &["id"]);
        let body = serde_json::to_value(listing.chain(0, length(2)).expect("a batch")).expect("JSON");
        let second = body["cmd"]["c1"].as_str().expect("text");
        assert!(second.contains("%24result%5Bc0%5D%5Bitems%5D%5B49%5D%5Bid%5D"), "{second}");
        let page = read_from(&listing, 0, &[json!({"items": [{"id": 4}, {"id": 9}]})]).expect("a page");
        assert_eq!(page.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [4, 9]);
    }

    #[test]
    fn a_short_page_ends_the_walk_and_what_follows_is_ignored() {
        let page = read(&[page(1..=50), page([60, 70]), page(1..=50), json!("noise")]).expect("a page");
        assert_eq!((page.rows.len(), page.next), (52, None));
    }

    #[test]
    fn full_pages_lead_on() {
        let page = read(&[page(1..=50), page(51..=100)]).expect("a page");
        assert_eq!((page.rows.len(), page.next), (100, Some(100)));
    }

    #[test]
    fn an_empty_list_has_one_empty_page() {
        let page = read(&[json!([])]).expect("a page");
        assert_eq!((page.rows.len(), page.next), (0, None));
    }

    #[test]
    fn rows_keep_their_bytes() {
        let page = read(&[json!([{"ID": 1, "B": [1.0, "й"]}])]).expect("a page");
        assert_eq!(page.rows[0].raw.get(), r#"{"B":[1.0,"й"],"ID":1}"#);
    }

    #[test]
    fn a_page_that_comes_again_is_a_stuck_cursor() {
        assert_eq!(fault(read(&[page(1..=50), page(1..=50)])), ListingFault::Stuck);
    }

    #[test]
    fn rows_outside_of_the_bounds_mean_an_ignored_filter() {
        assert_eq!(fault(read_from(&contacts(), 10, &[page(1..=20)])), ListingFault::OutOfBounds);
        assert_eq!(fault(read_from(&contacts().up_to(15), 10, &[page(11..=20)])), ListingFault::OutOfBounds);
    }

    #[test]
    fn rows_out_of_order_mean_an_ignored_order() {
        assert_eq!(fault(read(&[page([1, 5, 3])])), ListingFault::Unordered);
    }

    #[test]
    fn a_row_given_twice_is_one_row() {
        let page = read(&[page([1, 2, 2, 3])]).expect("a page");
        assert_eq!(page.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn rows_without_an_id_and_pages_that_are_none_are_errors() {
        assert_eq!(fault(read(&[json!([{"NAME": "x"}])])), ListingFault::NoId);
        assert_eq!(fault(read(&[json!([[1]])])), ListingFault::NoId);
        assert_eq!(fault(read(&[page(1..=51)])), ListingFault::PageTooLong);
        assert!(matches!(read(&[json!({"a": {"ID": 1}})]), Err(Error::Answer { .. })));
        assert!(matches!(read(&[json!(true)]), Err(Error::Answer { .. })));
    }

    #[test]
    fn an_error_behind_a_good_page_keeps_the_good_page() {
        let listing = contacts();
        let batch = listing.chain(0, length(2)).expect("a batch");
        let body =
            json!({"result": {"result": {"c0": page(1..=50)}, "result_error": {"c1": {"error": "X"}}}});
        let reply = Reply { status: 200, body: body.to_string().into_bytes() };
        let envelope = envelope::read("batch", &reply).expect("an envelope");
        let answer = BatchAnswer::read(&batch, envelope).expect("an answer");
        let page = listing.read(0, length(2), answer).expect("a page");
        assert_eq!((page.rows.len(), page.next), (50, Some(50)));
    }

    proptest! {
        /// A portal that resolves a reference to nothing as "no lower bound".
        #[test]
        fn a_walk_finds_every_row_once(
            ids in prop::collection::btree_set(1_u64..5_000, 0..400),
            chain in 1_u8..8,
        ) {
            let ids: Vec<u64> = ids.into_iter().collect();
            let listing = contacts();
            let behind = |after: u64| ids.iter().copied().filter(|id| *id > after).take(50).collect::<Vec<_>>();
            let (mut found, mut after) = (Vec::new(), 0);
            loop {
                let mut pages = Vec::new();
                let mut bound = after;
                for _ in 0..chain {
                    let rows = behind(bound);
                    bound = rows.get(49).copied().unwrap_or(0);
                    pages.push(page(rows));
                }
                let page = read_from(&listing, after, &pages).expect("a page");
                found.extend(page.rows.iter().map(|row| row.id));
                match page.next {
                    Some(next) => after = next,
                    None => break,
                }
            }
            prop_assert_eq!(found, ids);
        }
    }
}
