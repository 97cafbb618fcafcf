//! The daily run: every record is read once, and what polling missed is published.

use std::time::Duration;

use chrono::{NaiveDate, NaiveTime};
use runtime::{Broker, BrokerError, Bucket};
use schemas::Entity;
use schemas::streams::CHECKPOINTS;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::PollError;
use crate::missed::Look;
use crate::poller::{Ended, Poller};
use crate::survey::{MOST_NARROWED, first_behind, read_behind};
use crate::walk::Moment;

/// Key in the bucket of checkpoints.
const KEY: &str = "daily";

/// Pause before asking again whether the first poll has ended.
const PAUSE: Duration = Duration::from_secs(1);

/// Tries of a single record after which the run goes on without it.
const MOST_TRIES: u32 = 3;

/// How far the daily run is. Kept with the checkpoints, so that a restart goes on where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Day of the run, on the portal's calendar.
    pub day: NaiveDate,
    /// What is being read; none once all is read.
    pub reading: Option<Place>,
    /// Records read.
    pub records: u64,
    /// Records that polling had missed.
    pub missed: u64,
}

/// A place in the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The entity.
    pub entity: Entity,
    /// Everything up to this id is dealt with.
    pub cursor: u64,
}

impl Run {
    /// Starts the run of a day: contacts first, as deals follow them.
    fn begun(day: NaiveDate) -> Run {
        let reading = Some(Place { entity: Entity::Contact, cursor: 0 });
        Run { day, reading, records: 0, missed: 0 }
    }

    /// Counts the run of a day as done although nothing was read.
    fn passed_over(day: NaiveDate) -> Run {
        Run { reading: None, ..Run::begun(day) }
    }

    /// Goes on behind some records; `next` is the id to go on behind, none at the end of the entity.
    pub fn advance(&mut self, place: Place, next: Option<u64>, records: u64, missed: u64) {
        self.records += records;
        self.missed += missed;
        self.reading = match (next, place.entity) {
            (Some(cursor), entity) => Some(Place { entity, cursor }),
            (None, Entity::Contact) => Some(Place { entity: Entity::Deal, cursor: 0 }),
            (None, Entity::Deal) => None,
        };
    }
}

/// Says what the run is to be now, given the last one.
///
/// A run that was due while nobody was there is made up for. The very first one waits for its time of day.
fn follow(last: Option<Run>, at: NaiveTime, now: Moment) -> Run {
    let (today, is_time) = (now.date_naive(), now.time() >= at);
    match last {
        Some(run) if run.reading.is_some() => run,
        // Of a day to come is what a clock began that was ahead, perhaps by years.
        Some(run) if run.day > today && !is_time => Run::passed_over(today.pred_opt().unwrap_or(today)),
        Some(run) if run.day > today => Run::begun(today),
        Some(run) if run.day == today || (!is_time && run.day.succ_opt() == Some(today)) => run,
        Some(_) => Run::begun(today),
        // As if that of the last time had been done.
        None if is_time => Run::passed_over(today),
        None => Run::passed_over(today.pred_opt().unwrap_or(today)),
    }
}

/// The daily run, with where its progress is kept.
pub struct Daily {
    at: NaiveTime,
    bucket: Bucket,
    run: Option<Run>,
    revision: Option<u64>,
    /// Until when it is left alone, as the portal does not give what it asks for.
    rests_until: Option<Instant>,
    /// Stretches in a row that failed.
    failures: u32,
    /// How often the number of records that are asked for at once is halved.
    narrowed: u8,
}

impl Daily {
    /// Opens it as it was left.
    pub async fn open(broker: &Broker, at: NaiveTime) -> Result<Daily, BrokerError> {
        let bucket = broker.bucket(&CHECKPOINTS).await?;
        let mut daily =
            Daily { at, bucket, run: None, revision: None, rests_until: None, failures: 0, narrowed: 0 };
        daily.load().await?;
        Ok(daily)
    }

    async fn load(&mut self) -> Result<(), BrokerError> {
        let stored = self.bucket.get(KEY).await?;
        self.revision = stored.as_ref().map(|(_, revision)| *revision);
        // What this version cannot read begins anew.
        self.run = stored.and_then(|(value, _)| serde_json::from_slice(&value).ok());
        Ok(())
    }

    /// Returns where to read on, if it is time to.
    pub async fn place(&mut self, now: Moment) -> Result<Option<Place>, BrokerError> {
        let run = follow(self.run.clone(), self.at, now);
        let place = run.reading;
        if self.run.as_ref() != Some(&run) {
            self.store(run).await?;
        }
        Ok(place)
    }

    /// Tells whether a run is under way or due, or something about it is to be noted.
    pub fn is_wanted(&self, now: Moment) -> bool {
        if self.rests_until.is_some_and(|until| until > Instant::now()) {
            return false;
        }
        let run = follow(self.run.clone(), self.at, now);
        run.reading.is_some() || self.run.as_ref() != Some(&run)
    }

    /// Returns until when it is left alone.
    pub fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Notes a stretch that failed, and has the next one ask for less where that may help. Returns how many failed in a row
    /// that asked for as much.
    fn note_failure(&mut self, is_too_much: bool) -> u32 {
        if is_too_much && self.narrowed < MOST_NARROWED {
            // A smaller question is another one, and need not wait.
            (self.narrowed, self.failures) = (self.narrowed + 1, 1);
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        self.failures
    }

    /// Notes what was dealt with; gives the run once it has ended.
    pub async fn note(
        &mut self,
        place: Place,
        next: Option<u64>,
        records: u64,
        missed: u64,
    ) -> Result<Option<Run>, BrokerError> {
        let Some(mut run) = self.run.clone() else { return Ok(None) };
        run.advance(place, next, records, missed);
        self.store(run.clone()).await?;
        Ok(run.reading.is_none().then_some(run))
    }

    /// Stores the successor of what was loaded; fails where somebody else was first, or the answer was lost, and goes
    /// on from what is stored then.
    async fn store(&mut self, run: Run) -> Result<(), BrokerError> {
        // A struct of numbers and names always serialises.
        let value = serde_json::to_vec(&run).unwrap_or_default();
        match self.bucket.compare_and_put(KEY, value.into(), self.revision).await {
            Ok(revision) => {
                (self.run, self.revision) = (Some(run), Some(revision));
                Ok(())
            }
            Err(error) => {
                self.load().await?;
                Err(error)
            }
        }
    }
}

impl Poller {
    /// Tells whether the daily run has something to read.
    pub fn wants_daily(&self) -> bool {
        let (Some(daily), Some(now)) = (&self.daily, self.portal.client().portal_now()) else { return false };
        daily.is_wanted(now)
    }

    /// Takes the daily run one stretch further. Where the portal does not give what it asks for it alone rests, asks for less,
    /// and in the end goes on behind the record that cannot be read: nothing is lost by that, polls read it once it is edited.
    pub async fn step_daily(&mut self) -> Result<Ended, PollError> {
        if !self.wants_daily() {
            return Ok(Ended::Well);
        }
        let ended = self.read_stretch().await;
        if self.is_first_unanswered() {
            return ended.map(|()| Ended::Well);
        }
        let Some(daily) = &mut self.daily else { return ended.map(|()| Ended::Well) };
        let error = match ended {
            Err(error) if error.is_about_what_was_asked() => error,
            ended => {
                (daily.failures, daily.rests_until) = (0, None);
                daily.narrowed = daily.narrowed.saturating_sub(u8::from(ended.is_ok()));
                return ended.map(|()| Ended::Well);
            }
        };
        let is_too_much = error.may_be_too_much();
        let failures = daily.note_failure(is_too_much);
        let is_hopeless = is_too_much && daily.narrowed == MOST_NARROWED && failures >= MOST_TRIES;
        let rests_until = Instant::now() + self.note(&error, failures);
        if let Some(daily) = &mut self.daily {
            daily.rests_until = Some(rests_until);
        }
        if is_hopeless
            && let Err(error) = self.pass_over(&error).await
            && !error.is_about_what_was_asked()
        {
            return Err(error);
        }
        Ok(Ended::Resting)
    }

    /// Has the daily run go on behind the next record.
    async fn pass_over(&mut self, error: &PollError) -> Result<(), PollError> {
        let Some(daily) = &mut self.daily else { return Ok(()) };
        let Some(place) = daily.run.as_ref().and_then(|run| run.reading) else { return Ok(()) };
        let Some(job) = self.jobs.iter().find(|job| job.plan.entity == place.entity) else { return Ok(()) };
        let next = first_behind(&self.portal, &job.plan, place.cursor).await?;
        let Some((id, _)) = next else { return Ok(()) };
        let entity = place.entity;
        tracing::error!(
            "Daily run: going on without {entity} {id}, which could not be read {MOST_TRIES} times: {error}. What was \
             missed of it stays so until it is edited, or tomorrow's run"
        );
        daily.note(place, Some(id), 0, 0).await?;
        (daily.failures, daily.rests_until) = (0, None);
        Ok(())
    }

    /// Reads a stretch and publishes what was missed. Polls are between two of them, never within one, so that nothing
    /// is published between reading and publishing.
    async fn read_stretch(&mut self) -> Result<(), PollError> {
        let (Some(daily), Some(now)) = (&mut self.daily, self.portal.client().portal_now()) else {
            return Ok(());
        };
        let Some(place) = daily.place(now).await? else { return Ok(()) };
        let checkpoint = self.checkpoints.load(place.entity).await?.checkpoint;
        // Before the first poll has ended there is nothing that it can have missed.
        let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.polls > 0) else {
            tokio::time::sleep(PAUSE).await;
            return Ok(());
        };
        let Some(job) = self.jobs.iter().find(|job| job.plan.entity == place.entity) else { return Ok(()) };
        let (cursor, narrowed) = (place.cursor, daily.narrowed);
        let stretch = read_behind(&self.portal, &mut self.enricher, &job.plan, cursor, narrowed).await?;
        let records = stretch.readings.len() as u64;
        let overlap = self.spans.overlap;
        let look = Look { polled_until: checkpoint.watermark - overlap, observed: stretch.observed, overlap };
        let missed = self.publisher.missed(stretch.readings, look).await?;
        let published = self.publisher.publish(missed).await?;
        if let Some(run) = daily.note(place, stretch.next, records, published).await? {
            let Run { records, missed, .. } = run;
            tracing::info!(
                records,
                missed,
                "Daily run: read {records} records; polling had missed {missed}, which are published now"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Moment {
        Moment::parse_from_rfc3339(text).unwrap()
    }

    fn half_past_three() -> NaiveTime {
        NaiveTime::from_hms_opt(3, 30, 0).unwrap()
    }

    fn runs(last: Option<Run>, now: &str) -> Option<NaiveDate> {
        let run = follow(last, half_past_three(), at(now));
        run.reading.map(|_| run.day)
    }

    fn day(number: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 1, number).unwrap()
    }

    #[test]
    fn it_runs_once_a_day_at_its_time_on_the_portals_clock() {
        let first = follow(None, half_past_three(), at("2026-01-10T12:00:00+03:00"));
        assert_eq!(first.reading, None);
        assert_eq!(runs(Some(first.clone()), "2026-01-10T23:59:59+03:00"), None);
        assert_eq!(runs(Some(first.clone()), "2026-01-11T03:29:59+03:00"), None);
        assert_eq!(runs(Some(first), "2026-01-11T03:30:00+03:00"), Some(day(11)));
        assert_eq!(runs(Some(Run::passed_over(day(11))), "2026-01-11T03:30:01+03:00"), None);
    }

    #[test]
    fn the_first_one_waits_for_its_time_and_a_lost_one_is_made_up_for() {
        let early = follow(None, half_past_three(), at("2026-01-10T02:00:00+03:00"));
        assert_eq!(runs(Some(early), "2026-01-10T03:30:00+03:00"), Some(day(10)));
        assert_eq!(runs(Some(Run::passed_over(day(9))), "2026-01-10T09:00:00+03:00"), Some(day(10)));
        assert_eq!(runs(Some(Run::passed_over(day(5))), "2026-01-10T01:00:00+03:00"), Some(day(10)));
    }

    #[test]
    fn a_day_that_a_wrong_clock_began_holds_nothing_up() {
        let ahead = NaiveDate::from_ymd_opt(2028, 1, 1).unwrap();
        assert_eq!(runs(Some(Run::passed_over(ahead)), "2026-01-11T03:30:00+03:00"), Some(day(11)));
        let early = follow(Some(Run::passed_over(ahead)), half_past_three(), at("2026-01-11T02:00:00+03:00"));
        assert_eq!(runs(Some(early), "2026-01-11T03:30:00+03:00"), Some(day(11)));
    }

    #[test]
    fn a_run_under_way_goes_on_over_midnight_and_reads_contacts_before_deals() {
        let mut run = Run::begun(day(10));
        let contacts = Place { entity: Entity::Contact, cursor: 0 };
        run.advance(contacts, Some(50), 50, 1);
        assert_eq!(follow(Some(run.clone()), half_past_three(), at("2026-01-11T00:00:01+03:00")), run);
        assert_eq!(run.reading, Some(Place { entity: Entity::Contact, cursor: 50 }));
        run.advance(run.reading.unwrap(), None, 7, 0);
        assert_eq!(run.reading, Some(Place { entity: Entity::Deal, cursor: 0 }));
        run.advance(run.reading.unwrap(), None, 3, 1);
        assert_eq!((run.reading, run.records, run.missed), (None, 60, 2));
    }
}
