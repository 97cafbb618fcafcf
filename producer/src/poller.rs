//! The loop: which request is next, and what is done with its answer.

use std::time::Duration;

use bitrix24::Lane;
use runtime::trace::{self, Kind, Span};
use runtime::{Broker, CancellationToken, Tracer, faults, outside};
use schemas::{Checkpoint, Entity};
use tokio::time::Instant;

use crate::checkpoints::{Checkpoints, Stored};
use crate::daily::Daily;
use crate::enrich::Enricher;
use crate::error::{PollError, setback};
use crate::job::Job;
use crate::metrics::ProducerMetrics;
use crate::portal::{Pages, Portal};
use crate::publisher::Publisher;
use crate::record::{Reading, Record};
use crate::store::Strayed;
use crate::walk::{self, Clock, Looked, Moment, Question, Spans};

/// Span of modification time above which a walk makes room for livelier requests.
const LIVE_SPAN: chrono::Duration = chrono::Duration::hours(1);

/// How a turn ended that pauses nothing but itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It did what it was to do.
    Well,
    /// What it was about rests, as the portal did not give what was asked for.
    Resting,
}

/// Polls both entities.
pub struct Poller {
    /// Asks the portal.
    pub portal: Portal,
    /// Publishes to the stream.
    pub publisher: Publisher,
    /// Completes deals.
    pub enricher: Enricher,
    /// Where the checkpoints are.
    pub checkpoints: Checkpoints,
    /// Lag and overlap.
    pub spans: Spans,
    /// Portal seconds in one of ours.
    pub clock_speed: f64,
    /// What is counted.
    pub metrics: ProducerMetrics,
    /// Where spans are made.
    pub tracer: Tracer,
    /// The jobs, those first that others follow.
    pub jobs: [Job; 2],
    /// The job that had the last turn.
    pub last_turn: usize,
    /// What the portal's clock showed in the last answer, and when that came.
    pub last_seen: Option<(Moment, Instant)>,
    /// The daily run, where one is wanted.
    pub daily: Option<Daily>,
}

/// Pages that were read before the turn of their job came.
struct Prefetched {
    asked: Instant,
    question: Question,
    pages: Pages,
}

impl Poller {
    /// Polls until the stage is to stop.
    pub async fn run(&mut self, broker: &Broker, stopping: &CancellationToken) -> anyhow::Result<()> {
        let mut failures = 0;
        let mut wake = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(wake) => {}
            }
            wake = match self.turn().await {
                Ok(ended) => {
                    // Of deals that goes well although contacts fail; these are not asked more often for it.
                    if ended == Ended::Well && !self.is_first_unanswered() {
                        failures = 0;
                    }
                    self.next_turn()
                }
                Err(_) if broker.stopping().is_cancelled() => return Ok(()),
                Err(error) => {
                    failures += 1;
                    self.jobs[self.last_turn].note_failure();
                    Instant::now() + self.note(&error, failures)
                }
            };
        }
    }

    fn next_turn(&self) -> Instant {
        let now = Instant::now();
        if self.wants_daily() {
            return now;
        }
        let rested = self.daily.as_ref().and_then(Daily::rests_until).filter(|until| *until > now);
        self.jobs.iter().map(|job| job.next_turn(now)).chain(rested).min().unwrap_or(now)
    }

    /// Tells of a failure, the latest of so many in a row, and returns how long to leave alone what failed.
    pub fn note(&self, error: &PollError, failures: u32) -> Duration {
        let portal_now = self.portal.client().portal_now();
        let setback = setback(error, failures, self.clock_speed, portal_now, outside::noise());
        let seconds = setback.pause.as_secs_f64();
        self.metrics.note_failure(setback.remedy.is_some());
        match setback.remedy {
            Some(remedy) => tracing::error!(
                failures,
                "Cannot poll: {error}. What to do: {remedy}. Nothing is lost; trying again in {seconds:.0} s"
            ),
            None => tracing::warn!(failures, "Poll ended early: {error}; trying again in {seconds:.1} s"),
        }
        setback.pause
    }

    /// Makes one request for rows and deals with its answer.
    ///
    /// Deals wait for contacts, so a failing poll of contacts delays that of deals: their clients would be missing.
    async fn turn(&mut self) -> Result<Ended, PollError> {
        let strayed = self.publisher.check().await?;
        self.read_again(strayed).await?;
        let now = Instant::now();
        let [first, second] = &self.jobs;
        // A job that is due again as soon as it ends must not keep the other from ever having a turn.
        let is_turn_of_second = self.last_turn == 0 && !first.walking;
        match (first.is_wanted(now), second.is_wanted(now)) {
            (false, false) => self.step_daily().await,
            (true, true) if is_turn_of_second => self.step_second(None).await,
            (true, _) | (_, true) if self.may_go_together(now) => match self.poll_together().await {
                // It may be one of them that is not answered; or each is, alone.
                Err(error) if error.is_about_what_was_asked() => {
                    self.jobs.iter_mut().for_each(Job::note_unanswered);
                    Err(error)
                }
                ended => ended,
            },
            (true, _) => self.step_first(None).await,
            (false, true) => self.step_second(None).await,
        }
    }

    /// Takes the first job further.
    async fn step_first(&mut self, prefetched: Option<Prefetched>) -> Result<Ended, PollError> {
        let ended = self.step(0, prefetched).await.map(|()| Ended::Well);
        if ended.as_ref().is_err_and(PollError::is_about_what_was_asked) {
            self.jobs[0].note_unanswered();
        }
        ended
    }

    /// Takes the second job further. Nobody follows it, so where the portal does not give what it asks for, and gives the first
    /// what that asks for, it alone rests.
    async fn step_second(&mut self, prefetched: Option<Prefetched>) -> Result<Ended, PollError> {
        match self.step(1, prefetched).await {
            Err(error) if error.is_about_what_was_asked() => self.rest_second(error),
            ended => ended.map(|()| Ended::Well),
        }
    }

    fn rest_second(&mut self, error: PollError) -> Result<Ended, PollError> {
        self.jobs[1].note_unanswered();
        if self.is_first_unanswered() {
            return Err(error);
        }
        let rests_until = Instant::now() + self.note(&error, self.jobs[1].unanswered);
        self.jobs[1].note_failure();
        self.jobs[1].rests_until = Some(rests_until);
        Ok(Ended::Resting)
    }

    /// Tells whether the first job was not answered either, so that it may be the portal.
    pub fn is_first_unanswered(&self) -> bool {
        self.jobs[0].unanswered > 0
    }

    /// Has read again what another producer published since the last turn. It is one that slept through the end of its
    /// lease, so what it published may be older than what was read here meanwhile.
    async fn read_again(&mut self, strayed: Vec<Strayed>) -> Result<(), PollError> {
        for Strayed { entity, modified } in strayed {
            for job in self.jobs.iter_mut().filter(|job| job.plan.entity == entity) {
                job.read_again_from(modified);
            }
        }
        // Whoever comes after this process, should it end before it has read them, finds nothing amiss on the stream.
        for job in self.jobs.iter().filter(|job| job.again_from.is_some()) {
            let entity = job.plan.entity;
            let stored = self.checkpoints.load(entity).await?;
            if let Some(known) = &stored.checkpoint
                && known.again_from.is_none_or(|from| job.again_from < Some(from))
            {
                let checkpoint = Checkpoint { again_from: job.again_from, ..known.clone() };
                self.checkpoints.store(entity, &stored, &checkpoint).await?;
            }
        }
        Ok(())
    }

    fn may_go_together(&self, now: Instant) -> bool {
        self.jobs.iter().all(|job| !job.walking && job.unanswered == 0 && job.is_nearly_due(now))
    }

    /// Reads the first page of both in one request, where neither is in the middle of something.
    async fn poll_together(&mut self) -> Result<Ended, PollError> {
        let mut questions: Vec<Question> = Vec::new();
        for place in 0..self.jobs.len() {
            let stored = self.checkpoints.load(self.jobs[place].plan.entity).await?;
            let Some(checkpoint) = stored.checkpoint.filter(|checkpoint| checkpoint.window.is_none()) else {
                return self.step_first(None).await;
            };
            self.jobs[place].resume(&checkpoint);
            questions.push(self.question(&self.jobs[place], Some(&checkpoint)));
        }
        let asked: Vec<_> =
            self.jobs.iter().zip(&questions).map(|(job, question)| (&job.plan, *question)).collect();
        let lane = asked.iter().map(|(_, question)| self.lane(*question)).fold(Lane::Live, slower);
        let before = self.portal.client().stats().requests;
        let begun = Instant::now();
        let answers = match self.portal.ask_together(&asked, lane).await {
            // Each alone may be small enough, or is read in smaller parts; the other is due by itself soon.
            Err(error) if error.is_want_of_operating() || error.is_too_large() => {
                return self.step_first(None).await;
            }
            answers => answers?,
        };
        // One request that served both is told of once.
        self.jobs[0].tally.requests += self.portal.client().stats().requests - before;
        let mut ended = Ended::Well;
        for (place, (question, pages)) in questions.into_iter().zip(answers).enumerate() {
            let follows_a_walk = self.jobs[..place].iter().any(|job| job.walking);
            if follows_a_walk {
                break;
            }
            self.jobs[place].due = self.jobs[place].due.min(begun);
            let prefetched = |pages| Some(Prefetched { asked: begun, question, pages });
            ended = match (place, pages) {
                (0, pages) => self.step_first(prefetched(pages?)).await?,
                (_, Err(error)) if error.is_about_what_was_asked() => self.rest_second(error)?,
                (_, pages) => self.step_second(prefetched(pages?)).await?,
            };
        }
        Ok(ended)
    }

    fn question(&self, job: &Job, stored: Option<&Checkpoint>) -> Question {
        walk::question(self.spans, job.plan.first_watermark, stored, job.reaches_back_to())
    }

    fn lane(&self, question: Question) -> Lane {
        let now = self.portal.client().portal_now().unwrap_or_else(|| outside::now().fixed_offset());
        if question.until.unwrap_or(now) - question.from > LIVE_SPAN { Lane::Backfill } else { Lane::Live }
    }

    /// Takes one job one request further: rows are published, then the checkpoint is stored.
    async fn step(&mut self, place: usize, prefetched: Option<Prefetched>) -> Result<(), PollError> {
        self.last_turn = place;
        let job = &self.jobs[place];
        if job.plan.follows.is_some() {
            faults::crash_point("before-deals");
        }
        let entity = job.plan.entity;
        let stored = self.checkpoints.load(entity).await?;
        let followed = match job.plan.follows {
            // In its first poll nothing of the others counts as read yet.
            Some(other) => match self.checkpoints.load(other).await?.checkpoint {
                Some(checkpoint) if checkpoint.polls > 0 => Some(checkpoint),
                _ => {
                    self.wait_for(place, other);
                    return Ok(());
                }
            },
            None => None,
        };
        let ceiling = followed.as_ref().map(|checkpoint| checkpoint.watermark);
        if let Some(checkpoint) = &stored.checkpoint {
            self.metrics.note_watermark(entity, checkpoint.watermark);
            self.jobs[place].resume(checkpoint);
        }
        let question = self.question(&self.jobs[place], stored.checkpoint.as_ref());
        let mut span = self.tracer.begin(self.jobs[place].plan.job, Kind::Internal, None);
        let requests_before = self.portal.client().stats().requests;
        let asked = prefetched.as_ref().map_or_else(Instant::now, |prefetched| prefetched.asked);
        let lane = self.lane(question);
        let pages = match prefetched {
            Some(prefetched) if prefetched.question == question => prefetched.pages,
            _ => self.ask(place, &stored, question, lane).await?,
        };
        let Pages { mut records, answered, bytes } = pages;
        if faults::is_planted("echo-by-modifier") {
            records.retain(|record| !record.raw.get().contains("\"MODIFY_BY_ID\":\"1\""));
        }
        let followed_at = followed.and_then(|checkpoint| checkpoint.poll).map(|poll| poll.observed);
        if followed_at.is_some_and(|observed| walk::is_set_back(self.spans, observed, answered.observed)) {
            // What these records depend on was read by the clock as it was before: that is read anew first.
            self.jobs[0].due = Instant::now();
            return Ok(());
        }
        let rows = records.len();
        records
            .retain(|record| walk::is_publishable(self.spans, record.modified, ceiling, answered.observed));
        let readings = self.complete(place, records, answered.observed, lane).await?;
        let cause = span.as_ref().map(Span::context);
        let first = self.jobs[place].plan.first_watermark;
        let mut step =
            walk::advance(self.spans, first, stored.checkpoint.as_ref(), question, answered, ceiling);
        let set_back_to = self.set_back_to(answered.observed, &stored);
        let clock = step.read_until.map(|read_until| {
            self.look_at_clock(place, answered.observed, read_until, step.checkpoint.watermark)
        });
        let read_until = match clock {
            Some(clock) => clock.floor.or(step.read_until),
            None => stored.checkpoint.as_ref().and_then(|checkpoint| checkpoint.poll?.read_until),
        };
        step.checkpoint.poll = Some(self.jobs[place].plan.poll(answered.observed, read_until));
        // A poll that begins with this answer reaches back, whoever ends it; one that was under way may be past it.
        let again_from = self.jobs[place].again_from.filter(|_| question.until.is_some());
        step.checkpoint.again_from = again_from.into_iter().chain(set_back_to).min();
        let is_early = faults::is_planted("checkpoint-before-publish");
        if is_early {
            self.checkpoints.store(entity, &stored, &step.checkpoint).await?;
        }
        faults::crash_point("before-publish");
        let published = trace::because_of(cause, self.publisher.publish(readings)).await?;
        if let Some(span) = &mut span {
            span.set("rollcall.records", rows as u64);
            span.set("rollcall.published", published);
        }

        faults::crash_point("before-checkpoint");
        // A checkpoint is stored where it still is the one that was loaded, so this spares only the try.
        if !self.publisher.is_at_work() {
            return Err(PollError::NotAtWork);
        }
        if !is_early {
            self.checkpoints.store(entity, &stored, &step.checkpoint).await?;
        }
        faults::crash_point("after-checkpoint");
        self.metrics.note_watermark(entity, step.checkpoint.watermark);
        self.metrics.note_records(entity, rows as u64, published);

        let job = &mut self.jobs[place];
        job.note_success();
        job.note_rows(rows, bytes);
        job.tally.answers += 1;
        job.tally.records += rows as u64;
        job.tally.published += published;
        job.tally.requests += self.portal.client().stats().requests - requests_before;
        job.walking = step.checkpoint.window.is_some();
        if question.until.is_none() {
            job.begin_poll(asked);
        }
        if let Some(clock) = clock {
            self.metrics.note_poll(job.plan.entity);
            log_poll(job, question, step.checkpoint.watermark);
            job.end_poll(clock, Instant::now());
        }
        self.last_seen = Some((answered.observed, Instant::now()));
        for job in &mut self.jobs {
            set_back_to.into_iter().for_each(|from| job.read_again_from(from));
        }
        Ok(())
    }

    /// Returns from when on what was edited has to be read again where the portal's clock was set back: a walk may be past it,
    /// and a long one may not see that at its end.
    fn set_back_to(&self, observed: Moment, stored: &Stored) -> Option<Moment> {
        let (before, since) = match self.last_seen {
            Some((before, then)) => {
                let since = then.elapsed().mul_f64(self.clock_speed);
                (before, chrono::Duration::from_std(since).unwrap_or(chrono::Duration::MAX))
            }
            // Another process saw it, nobody knows how long ago.
            None => (stored.checkpoint.as_ref()?.poll?.observed, walk::UNKNOWN_GAP),
        };
        walk::is_set_back(self.spans, before, observed).then(|| observed - since)
    }

    async fn ask(
        &self,
        place: usize,
        stored: &Stored,
        question: Question,
        lane: Lane,
    ) -> Result<Pages, PollError> {
        let job = &self.jobs[place];
        let is_slow = job.plan.has_rows_and_seller && !self.enricher.is_quick();
        let length = job.chain_length(is_first_sync(stored), is_slow);
        self.portal.ask(&job.plan, question, length, lane).await
    }

    async fn complete(
        &mut self,
        place: usize,
        records: Vec<Record>,
        observed: Moment,
        lane: Lane,
    ) -> Result<Vec<Reading>, PollError> {
        if self.jobs[place].plan.has_rows_and_seller {
            return self.enricher.complete(&self.portal, records, observed, lane).await;
        }
        Ok(records.into_iter().map(|record| Reading::alone(record, observed)).collect())
    }

    fn wait_for(&mut self, place: usize, other: Entity) {
        tracing::debug!("{} waits for the first poll of {other}", self.jobs[place].plan.job);
        let job = &mut self.jobs[place];
        job.walking = false;
        job.due = Instant::now() + job.plan.interval;
    }

    /// Says what to make of the portal's clock where a poll has read everything until then.
    fn look_at_clock(&self, place: usize, observed: Moment, read_until: Moment, watermark: Moment) -> Clock {
        let job = &self.jobs[place];
        let since = job.last_begun().map(|begun| {
            chrono::Duration::from_std(begun.elapsed().mul_f64(self.clock_speed))
                .unwrap_or(chrono::Duration::MAX)
        });
        let looked = Looked { observed, read_until, watermark };
        let clock = walk::follow_clock(self.spans, job.floor, looked, since);
        if clock.went_back {
            tracing::warn!(
                "The portal's clock shows {observed}, which is behind the watermark {watermark} of {}: polling from \
                 there until it has caught up; the watermark stays",
                job.plan.job
            );
        }
        clock
    }
}

fn is_first_sync(stored: &Stored) -> bool {
    stored.checkpoint.as_ref().is_none_or(|checkpoint| checkpoint.polls == 0)
}

fn slower(one: Lane, other: Lane) -> Lane {
    if other == Lane::Backfill { other } else { one }
}

fn log_poll(job: &Job, question: Question, watermark: Moment) {
    let tally = job.tally;
    let (entity, plan) = (job.plan.entity, job.plan.job);
    let (from, answers, requests) = (question.from, tally.answers, tally.requests);
    let (records, published) = (tally.records, tally.published);
    if published == 0 {
        tracing::debug!(%entity, %from, %watermark, answers, records, requests, "{plan}: nothing new among {records} records");
    } else {
        tracing::info!(
            %entity, %from, %watermark, answers, records, published, requests,
            "{plan}: published {published} of {records} records"
        );
    }
}
