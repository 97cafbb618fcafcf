//! Asking Bitrix24 for lists.

use bitrix24::keyset::{Page, Row};
use bitrix24::{Batch, ChainLength, Client, Lane, Listing, Time};
use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;
use runtime::{CancellationToken, faults};
use serde_json::value::RawValue;
use serde_json::{Map, json};

use crate::entity::{CREATED, MODIFIED, Plan};
use crate::error::PollError;
use crate::record::{Record, read_rows};
use crate::trim::NEEDED;
use crate::walk::{Answered, Moment, Question, whole_second};

/// The portal, as long as the stage is not told to stop.
pub struct Portal {
    client: Client,
    stopping: CancellationToken,
    zone: Tz,
}

/// The rows of one answer.
pub struct Pages {
    /// The records in ascending order of ids.
    pub records: Vec<Record>,
    /// What the answer tells besides.
    pub answered: Answered,
    /// Bytes of all rows together.
    pub bytes: usize,
}

impl Portal {
    /// Takes a client; the zone counts until the portal has told its own.
    pub fn new(client: Client, stopping: CancellationToken, zone: Tz) -> Portal {
        Portal { client, stopping, zone }
    }

    /// Returns the client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Awaits a request, unless the stage is to stop: requests of this stage only read and may be given up.
    pub async fn read<T>(
        &self,
        request: impl Future<Output = Result<T, bitrix24::Error>>,
    ) -> Result<T, PollError> {
        tokio::select! {
            biased;
            answer = request => Ok(answer?),
            () = self.stopping.cancelled() => Err(PollError::Stopping),
        }
    }

    /// Asks for up to `length` pages in one request, for fewer where that would be too much at once.
    pub async fn ask(
        &self,
        plan: &Plan,
        question: Question,
        length: ChainLength,
        lane: Lane,
    ) -> Result<Pages, PollError> {
        let listing = self.listing(plan, question, plan.select);
        let mut length = length;
        loop {
            let batch = listing.chain(question.after, length)?;
            let before = self.client.portal_now();
            match self.read(self.client.batch(&batch, lane)).await {
                Ok(answer) => {
                    let observed = self.observed(&answer.time, before)?;
                    return of_page(plan, question, listing.read(question.after, length, answer)?, observed);
                }
                Err(PollError::Portal(bitrix24::Error::TooLarge { .. })) => {
                    match ChainLength::try_new(length.pages() / 2) {
                        Some(half) => length = half,
                        None => return self.ask_for_few(plan, question, lane).await,
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for the first rows of a page that is too much at once: half of them, a quarter, in the end one.
    ///
    /// A record that is too much alone is read without what the mapping does not need.
    async fn ask_for_few(&self, plan: &Plan, question: Question, lane: Lane) -> Result<Pages, PollError> {
        let (ids, observed) = self.ids(plan, question, lane).await?;
        let mut count = ids.len().div_ceil(2);
        let mut is_narrow = false;
        while let Some(last) = count.checked_sub(1).and_then(|place| ids.get(place).copied()) {
            let narrow: Vec<&str> = NEEDED.into_iter().chain([plan.status_field.as_str(), "UF_*"]).collect();
            let select = if is_narrow { &narrow } else { plan.select };
            let listing = self.listing(plan, question, select).up_to(last);
            match self.page(listing, question, lane).await {
                Ok((rows, observed)) => {
                    tracing::warn!(
                        count,
                        last,
                        is_narrow,
                        "A page of {} is too big: read {count} rows of it, up to ID {last}",
                        plan.method
                    );
                    return of_page(plan, question, Page { rows, next: Some(last) }, observed);
                }
                Err(PollError::Portal(bitrix24::Error::TooLarge { .. })) if count > 1 => count /= 2,
                Err(PollError::Portal(bitrix24::Error::TooLarge { .. })) if !is_narrow => is_narrow = true,
                Err(error) => return Err(error),
            }
        }
        pages(plan, question, Vec::new(), Answered { observed, next: None })
    }

    /// Asks for the first rows of a page, so many at most.
    pub async fn ask_for_rows(
        &self,
        plan: &Plan,
        question: Question,
        count: usize,
        lane: Lane,
    ) -> Result<Pages, PollError> {
        let (ids, observed) = self.ids(plan, question, lane).await?;
        let Some(last) = ids.get(..count).unwrap_or(&ids).last() else {
            return pages(plan, question, Vec::new(), Answered { observed, next: None });
        };
        let listing = self.listing(plan, question, plan.select).up_to(*last);
        let (rows, observed) = self.page(listing, question, lane).await?;
        of_page(plan, question, Page { rows, next: Some(*last) }, observed)
    }

    /// Asks for the ids of the first page.
    pub async fn ids(
        &self,
        plan: &Plan,
        question: Question,
        lane: Lane,
    ) -> Result<(Vec<u64>, Moment), PollError> {
        let (rows, observed) = self.page(self.listing(plan, question, &["ID"]), question, lane).await?;
        Ok((rows.iter().map(|row| row.id).collect(), observed))
    }

    async fn page(
        &self,
        listing: Listing,
        question: Question,
        lane: Lane,
    ) -> Result<(Vec<Row>, Moment), PollError> {
        let batch = listing.chain(question.after, ChainLength::SINGLE)?;
        let before = self.client.portal_now();
        let answer = self.read(self.client.batch(&batch, lane)).await?;
        let observed = self.observed(&answer.time, before)?;
        Ok((listing.read(question.after, ChainLength::SINGLE, answer)?.rows, observed))
    }

    /// Asks for the first page of several entities in one request; each has an outcome of its own.
    pub async fn ask_together(
        &self,
        asked: &[(&Plan, Question)],
        lane: Lane,
    ) -> Result<Vec<Result<Pages, PollError>>, PollError> {
        let mut batch = Batch::new();
        let mut listings = Vec::new();
        for (plan, question) in asked {
            let listing = self.listing(plan, *question, plan.select);
            for (_, command) in listing.chain(question.after, ChainLength::SINGLE)?.commands() {
                listings.push((listing.clone(), batch.push(command.clone())?));
            }
        }
        let before = self.client.portal_now();
        let mut answer = self.read(self.client.batch(&batch, lane)).await?;
        let observed = self.observed(&answer.time, before)?;
        let outcomes = asked.iter().zip(listings).map(|((plan, question), (listing, id))| {
            let answer = answer.take(&id).map_err(bitrix24::Error::from)?;
            of_page(plan, *question, listing.first_page(question.after, &answer)?, observed)
        });
        Ok(outcomes.collect())
    }

    fn listing(&self, plan: &Plan, question: Question, select: &[&str]) -> Listing {
        let mut filter = Map::new();
        let mut within = |key: String, value: serde_json::Value| filter.insert(key, value);
        let later = if faults::is_planted("later-instead-of-since") { ">" } else { ">=" };
        within(format!("{later}{MODIFIED}"), json!(self.print(question.from)));
        if let Some(until) = question.until {
            within(format!("<{MODIFIED}"), json!(self.print(until)));
        }
        within(format!(">={CREATED}"), json!(self.print(plan.created_from)));
        if let Some((field, values)) = &plan.restriction {
            within(format!("@{field}"), json!(values));
        }
        Listing::classic(plan.method, filter, select)
    }

    /// Writes a moment the way the portal does, in the portal's own offset.
    fn print(&self, moment: Moment) -> String {
        let offset = match self.client.portal_now() {
            Some(now) => *now.offset(),
            None => self.zone.offset_from_utc_datetime(&moment.naive_utc()).fix(),
        };
        moment.with_timezone(&offset).format("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }

    /// Returns when an answer began to be made; our own idea of the portal's clock stands in for a silent portal.
    fn observed(&self, time: &Time, before: Option<Moment>) -> Result<Moment, PollError> {
        let offset = before.map(|before| *before.offset());
        let start = || {
            let start = DateTime::from_timestamp(time.start?.floor() as i64, 0)?;
            Some(offset.map_or_else(
                || start.with_timezone(&self.zone).fixed_offset(),
                |offset| start.with_timezone(&offset),
            ))
        };
        time.date_start.or_else(start).or(before).map(whole_second).ok_or(PollError::NoTime)
    }
}

fn of_page(plan: &Plan, question: Question, page: Page, observed: Moment) -> Result<Pages, PollError> {
    let rows = page.rows.into_iter().map(|row| row.raw).collect();
    pages(plan, question, rows, Answered { observed, next: page.next })
}

fn pages(
    plan: &Plan,
    question: Question,
    rows: Vec<Box<RawValue>>,
    answered: Answered,
) -> Result<Pages, PollError> {
    let bytes = rows.iter().map(|row| row.get().len()).sum();
    let records =
        read_rows(plan, question, rows).map_err(|fault| PollError::Ignored { method: plan.method, fault })?;
    Ok(Pages { records, answered, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_portal_says_when_an_answer_was_made() {
        let url = "http://127.0.0.1:9/rest/1/code/".to_owned();
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder(url.into()).build().unwrap();
        let portal = Portal::new(client, CancellationToken::new(), Tz::Europe__Moscow);
        let at = |text: &str| Moment::parse_from_rfc3339(text).unwrap();
        let before = at("2011-02-03T04:05:06+03:00");
        // The host's clock stands in for nothing.
        assert!(matches!(portal.observed(&Time::default(), None), Err(PollError::NoTime)));
        assert_eq!(portal.observed(&Time::default(), Some(before)).unwrap(), before);
        let start = Time { start: Some(1_296_695_107.9), ..Time::default() };
        assert_eq!(portal.observed(&start, None).unwrap(), at("2011-02-03T04:05:07+03:00"));
        let dated = Time { date_start: Some(at("2011-02-03T06:05:08+05:00")), ..start };
        assert_eq!(portal.observed(&dated, Some(before)).unwrap(), at("2011-02-03T06:05:08+05:00"));
    }
}
