//! The client: what is asked, when it may be asked, and what its answer teaches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, FixedOffset, Utc};
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::batch::{Batch, BatchAnswer, check_method, refuse};
use crate::bucket::Lane;
use crate::clock::{PortalClock, to_utc};
use crate::config::ClientBuilder;
use crate::envelope::{self, Answer, Reply, Time};
use crate::error::{ApiError, Error, ErrorClass, RequestFault};
use crate::keyset::{ChainLength, Listing, Page};
use crate::operating::{Operating, Reading, Seen};
use crate::stats::Stats;
use crate::transport::{Request, Transport};

/// A client of one portal through one inbound webhook. Cheap to clone; clones share all budgets.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Transport,
    clock_speed: f64,
    portal: Mutex<Portal>,
    /// Rings whenever computing time may have come free.
    changed: Notify,
}

/// What is known about the portal.
struct Portal {
    clock: PortalClock,
    operating: Operating,
    stats: Stats,
    /// Stands in for the portal's clock until its first answer.
    started_unix_seconds: f64,
}

/// How many commands of a method may go out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// Commands that fit into the computing time left, at most [`MOST_COMMANDS`].
    pub commands_now: u32,
    /// Commands under way, which [`Capacity::commands_now`] has already taken into account.
    pub commands_in_flight: u32,
    /// Real time until at least one command fits; zero when one fits now.
    pub ready_in: Duration,
    /// Portal seconds that one command takes by experience; 0 while there is none.
    pub seconds_each: f64,
}

/// Computing time that the methods have used.
#[derive(Debug, Clone, PartialEq)]
pub struct OperatingUse {
    /// Seconds that each method may use in ten minutes.
    pub limit: f64,
    /// Seconds used, by method.
    pub seconds: BTreeMap<Box<str>, f64>,
}

/// The highest count a [`Capacity`] tells; many batches' worth.
pub const MOST_COMMANDS: u32 = 1_000;

/// Portal seconds after which waiting for computing time is given up: two whole windows.
const LONGEST_OPERATING_WAIT: f64 = 1_200.0;

/// Portal seconds between a refusal and the second try, to be spread by chance.
const SECOND_TRY_PAUSE: std::ops::Range<f64> = 0.5..1.5;

const BATCH: &str = "batch";

impl Client {
    /// Begins a client for an inbound webhook, `https://PORTAL/rest/USER/CODE/`.
    pub fn builder(webhook_url: SecretString) -> ClientBuilder {
        ClientBuilder::new(webhook_url)
    }

    pub(crate) fn assemble(transport: Transport, clock_speed: f64, operating_limit: f64) -> Self {
        let portal = Portal {
            clock: PortalClock::new(clock_speed, Instant::now()),
            operating: Operating::new(operating_limit),
            stats: Stats::default(),
            started_unix_seconds: unix_seconds(),
        };
        let shared = Shared { transport, clock_speed, portal: Mutex::new(portal), changed: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Calls a method.
    pub async fn call(&self, method: &str, params: &Value, lane: Lane) -> Result<Answer, Error> {
        check_method(method)?;
        let body = call_body(method, params)?;
        let hold = self.hold(vec![(method.into(), 1)]).await?;
        self.lock().stats.note_call(method);
        let request = Request { method, body, lane, reads_only: reads_only(method), is_paced: true };
        let outcome = self.exchange(request, |reply| self.read_call(method, reply)).await;
        hold.settle_call(method, outcome)
    }

    /// Runs up to 50 commands in one request.
    pub async fn batch(&self, batch: &Batch, lane: Lane) -> Result<BatchAnswer, Error> {
        let body = batch_body(batch)?;
        let hold = self.hold(work_of(batch)).await?;
        self.note_commands(batch);
        let reads_only = batch.commands().all(|(_, command)| reads_only(command.method()));
        let request = Request { method: BATCH, body, lane, reads_only, is_paced: true };
        let outcome = self.exchange(request, |reply| self.read_batch(batch, reply)).await;
        hold.settle_batch(batch, outcome)
    }

    /// Reads up to `length` pages of a list behind an ID, in one request.
    ///
    /// If the answer would be too large, fewer pages are read.
    pub async fn list_page(
        &self,
        listing: &Listing,
        after: u64,
        mut length: ChainLength,
        lane: Lane,
    ) -> Result<Page, Error> {
        loop {
            match self.batch(&listing.chain(after, length)?, lane).await {
                Ok(answer) => return listing.read(after, length, answer),
                Err(error @ Error::TooLarge { .. }) => length = length.half().ok_or(error)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns what the portal's clock shows, once there has been an answer.
    pub fn portal_now(&self) -> Option<DateTime<FixedOffset>> {
        self.lock().clock.now(Instant::now())
    }

    /// Tells how many commands of a method may go out now, and else how long to wait.
    pub fn capacity(&self, method: &str) -> Capacity {
        let portal = self.lock();
        let now = portal.now();
        let names = [method, BATCH];
        let fitting = |name: &str| portal.operating.fitting(name, now, MOST_COMMANDS);
        let ready_at = |name: &str| {
            // A request in flight will tell; a second is as good a guess as any.
            portal.operating.ready_at(name, 1, now).unwrap_or(now + 1.0)
        };
        let wait = names.map(ready_at).into_iter().fold(now, f64::max) - now;
        Capacity {
            commands_now: names.map(fitting).into_iter().min().unwrap_or(0),
            commands_in_flight: portal.operating.in_flight(method),
            ready_in: portal.clock.real(wait),
            seconds_each: names.map(|name| portal.operating.predict(name, 1)).into_iter().fold(0.0, f64::max),
        }
    }

    /// Returns what has been counted so far.
    pub fn stats(&self) -> Stats {
        self.lock().stats.clone()
    }

    /// Returns the seconds of computing time that each method has used in the last ten minutes, as far as known.
    pub fn operating(&self) -> OperatingUse {
        let portal = self.lock();
        let (limit, now) = (portal.operating.limit(), portal.now());
        let used = |method: &str| limit - portal.operating.room(method, now);
        let seconds = portal.operating.methods().map(|method| (method.into(), used(method)));
        OperatingUse { limit, seconds: seconds.collect() }
    }

    fn lock(&self) -> MutexGuard<'_, Portal> {
        self.shared.lock()
    }

    /// Makes a request, and tells whoever wants to know whether the portal took the webhook.
    async fn exchange<T>(
        &self,
        request: Request<'_>,
        read: impl Fn(&Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let reads_only = request.reads_only;
        let outcome = self.try_twice(request, read).await;
        let is_taken = is_webhook_taken(&outcome, reads_only);
        if let (Some(tell), Some(is_taken)) = (&self.shared.transport.listener, is_taken) {
            tell(is_taken).await;
        }
        outcome
    }

    /// Tries at most twice, and a second time only where that cannot do anything twice.
    async fn try_twice<T>(
        &self,
        mut request: Request<'_>,
        read: impl Fn(&Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let generation = self.shared.transport.endpoint.generation();
        let error = match self.attempt(&request, &read).await {
            Err(error) if may_try_again(&request, &error) => error,
            Err(error) if self.renewed(&error, generation) => {
                // It is the same try with the right address, and comes once for each new one: there is room for that.
                request.is_paced = false;
                error
            }
            outcome => return outcome,
        };
        tracing::debug!(method = request.method, "Trying {} again: {error}", request.method);
        let spread = SECOND_TRY_PAUSE.end - SECOND_TRY_PAUSE.start;
        let pause = (SECOND_TRY_PAUSE.start + noise() * spread) / self.shared.clock_speed;
        tokio::time::sleep(Duration::from_secs_f64(pause)).await;
        self.attempt(&request, &read).await
    }

    /// Tells whether the webhook was refused and is another one by now than in this generation.
    fn renewed(&self, error: &Error, generation: usize) -> bool {
        let renewed =
            error.class() == ErrorClass::Refused && self.shared.transport.endpoint.renew(generation);
        if renewed {
            tracing::info!(
                "The portal refuses the webhook, which was replaced meanwhile; going on with the new one"
            );
        }
        renewed
    }

    async fn attempt<T>(
        &self,
        request: &Request<'_>,
        read: impl Fn(&Reply) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let reply = self.shared.transport.send(request, || self.lock().stats.requests += 1).await?;
        let outcome = read(&reply);
        if let Err(Error::Api(error)) = &outcome
            && error.is_request_limit()
        {
            self.lock().stats.refused += 1;
            self.shared.transport.pacing.note_refusal().await;
        }
        outcome
    }

    fn read_call(&self, method: &str, reply: &Reply) -> Result<Answer, Error> {
        let envelope = envelope::read(method, reply)?;
        self.learn_time(&envelope.time);
        let reset_at = envelope.time.operating_reset_at.and_then(to_utc);
        let success = envelope.outcome.map_err(|error| self.complete(error.with_reset_at(reset_at)))?;
        Ok(Answer::new(method, success, envelope.time))
    }

    fn read_batch(&self, batch: &Batch, reply: &Reply) -> Result<BatchAnswer, Error> {
        let mut envelope = envelope::read(BATCH, reply)?;
        self.learn_time(&envelope.time);
        let reset_at = envelope.time.operating_reset_at.and_then(to_utc);
        envelope.outcome = envelope.outcome.map_err(|error| self.complete(error.with_reset_at(reset_at)));
        let mut answer = BatchAnswer::read(batch, envelope)?;
        answer.map_errors(|error| self.complete(error));
        Ok(answer)
    }

    /// Adapts an error of the portal to this client: its secret, its clock.
    fn complete(&self, error: ApiError) -> ApiError {
        error.with_words(|text| self.shared.transport.endpoint.redact(text)).at_speed(self.shared.clock_speed)
    }

    fn learn_time(&self, time: &Time) {
        if let Some(end) = time.end() {
            let (mut portal, now) = (self.lock(), Instant::now());
            if let Some(believed) = portal.clock.unix_seconds(now) {
                let at_least = believed - portal.clock.portal_seconds(LATE_ANSWER);
                portal.operating.follow_clock(at_least, end);
            }
            portal.clock.read(end, time.offset(), now);
        }
    }

    fn note_commands(&self, batch: &Batch) {
        let mut portal = self.lock();
        portal.stats.note_call(BATCH);
        batch.commands().for_each(|(_, command)| portal.stats.note_call(command.method()));
    }

    /// Waits until every method has computing time for what is asked of it, and sets it aside.
    async fn hold(&self, work: Work) -> Result<Hold<'_>, Error> {
        let longest = self.shared.lock().clock.real(LONGEST_OPERATING_WAIT);
        let deadline = Instant::now() + longest;
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that no change in between is missed.
            changed.as_mut().enable();
            // Its own statement: a guard in the `match` would live through the arms, which lock again.
            let reserved = self.lock().reserve(&work);
            let until = match reserved {
                Ok(()) => return Ok(Hold { shared: &self.shared, work, settled: false }),
                Err(NotReady { method, wait }) => {
                    if Instant::now() >= deadline {
                        return Err(self.lock().out_of_operating(&method));
                    }
                    wait.map_or(deadline, |wait| (Instant::now() + wait).min(deadline))
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

/// Returns what the host's clock shows.
fn unix_seconds() -> f64 {
    #[cfg(all(feature = "faults", debug_assertions))]
    if let Some(simulation) = crate::simulated::current() {
        return simulation.unix_seconds;
    }
    Utc::now().timestamp_micros() as f64 / 1e6
}

/// Returns a number from 0 to 1.
fn noise() -> f64 {
    #[cfg(all(feature = "faults", debug_assertions))]
    if let Some(simulation) = crate::simulated::current() {
        return (simulation.noise)();
    }
    rand::random()
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Portal> {
        self.portal.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The method that keeps work from going out, and for how long if that is known.
struct NotReady {
    method: Box<str>,
    wait: Option<Duration>,
}

/// Commands by method.
type Work = Vec<(Box<str>, u32)>;

impl Portal {
    fn now(&self) -> f64 {
        let now = Instant::now();
        self.clock
            .unix_seconds(now)
            .unwrap_or_else(|| self.started_unix_seconds + self.clock.since_start(now).as_secs_f64())
    }

    /// Sets time aside for all of the work or for none of it.
    fn reserve(&mut self, work: &Work) -> Result<(), NotReady> {
        let now = self.now();
        for (method, commands) in work {
            match self.operating.ready_at(method, *commands, now) {
                Some(ready_at) if ready_at <= now => {}
                ready_at => {
                    let wait = ready_at.map(|ready_at| self.clock.real(ready_at - now) + LATE);
                    return Err(NotReady { method: method.clone(), wait });
                }
            }
        }
        work.iter().for_each(|(method, commands)| self.operating.reserve(method, *commands));
        Ok(())
    }

    fn out_of_operating(&self, method: &str) -> Error {
        let reset_at = self.operating.reset_at(method).and_then(|reset_at| self.clock.date_time(reset_at));
        Error::OperatingBudget { method: method.into(), reset_at }
    }

    /// Takes in a refusal and tells the error until when it lasts.
    fn note_operating_refusal(&mut self, error: ApiError) -> ApiError {
        let said = error.reset_at().map(|reset_at| reset_at.timestamp_micros() as f64 / 1e6);
        let now = self.now();
        self.operating.refused(error.method(), now, said);
        self.stats.note_operating_refusal(error.method());
        let reset_at = self.operating.reset_at(error.method());
        error.with_reset_at(reset_at.and_then(|reset_at| self.clock.date_time(reset_at)))
    }

    fn observe(&mut self, method: &str, commands: u32, times: &[&Time], whole: &Time) {
        let now = self.now();
        let reading = |time: &&Time| {
            let at = time.end().or(whole.end()).unwrap_or(now);
            time.operating.map(|sum| Reading { sum, at, reset_at: time.operating_reset_at })
        };
        let readings: Vec<Reading> = times.iter().filter_map(reading).collect();
        if !readings.is_empty() {
            self.operating.observe(method, &Seen { commands, readings });
        }
    }
}

/// How late an answer may be without anybody having set the portal's clock back, where that runs faster than ours.
const LATE_ANSWER: Duration = Duration::from_secs(10);

/// Timers round up; one millisecond more spares a second look.
const LATE: Duration = Duration::from_millis(1);

/// Computing time set aside for a request. Dropped unsettled, it counts as spent: a request given up
/// on our side goes on at the portal's.
struct Hold<'a> {
    shared: &'a Shared,
    work: Work,
    settled: bool,
}

impl<'a> Hold<'a> {
    fn settle_call(mut self, method: &str, outcome: Result<Answer, Error>) -> Result<Answer, Error> {
        let mut portal = self.release();
        match outcome {
            Ok(answer) => {
                portal.stats.note_ok(method, 1);
                portal.observe(method, 1, &[&answer.time], &answer.time);
                Ok(answer)
            }
            Err(error) => Err(self.note_failure(&mut portal, method, error)),
        }
    }

    fn settle_batch(
        mut self,
        batch: &Batch,
        outcome: Result<BatchAnswer, Error>,
    ) -> Result<BatchAnswer, Error> {
        let mut portal = self.release();
        match outcome {
            Err(error) => Err(self.note_failure(&mut portal, BATCH, error)),
            Ok(mut answer) => {
                note_times(&mut portal, batch, &answer);
                answer.map_errors(|error| note_command_failure(&mut portal, error));
                Ok(answer)
            }
        }
    }

    fn release(&mut self) -> MutexGuard<'a, Portal> {
        self.settled = true;
        let mut portal = self.shared.lock();
        self.work.iter().for_each(|(method, commands)| portal.operating.release(method, *commands));
        self.shared.changed.notify_waiters();
        portal
    }

    fn note_failure(&self, portal: &mut Portal, method: &str, error: Error) -> Error {
        portal.stats.note_failure(method);
        match error {
            Error::Api(error) if error.is_operating_limit() => portal.note_operating_refusal(error).into(),
            error => {
                if !error.surely_not_processed() {
                    self.suppose_spent(portal);
                }
                error
            }
        }
    }

    fn suppose_spent(&self, portal: &mut Portal) {
        let now = portal.now();
        self.work
            .iter()
            .for_each(|(method, commands)| portal.operating.suppose_spent(method, *commands, now));
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let mut portal = self.shared.lock();
            self.work.iter().for_each(|(method, commands)| portal.operating.release(method, *commands));
            self.suppose_spent(&mut portal);
            drop(portal);
            self.shared.changed.notify_waiters();
        }
    }
}

fn note_command_failure(portal: &mut Portal, error: ApiError) -> ApiError {
    portal.stats.note_failure(error.method());
    if error.is_operating_limit() { portal.note_operating_refusal(error) } else { error }
}

/// Feeds the budgets of all methods of a batch, and that of `batch` itself.
fn note_times(portal: &mut Portal, batch: &Batch, answer: &BatchAnswer) {
    let mut by_method: BTreeMap<&str, Vec<&Time>> = BTreeMap::new();
    for ((_, command), (_, outcome)) in batch.commands().zip(answer.iter()) {
        if let Ok(command_answer) = outcome {
            by_method.entry(command.method()).or_default().push(&command_answer.time);
        }
    }
    portal.stats.note_ok(BATCH, 1);
    for (method, times) in by_method {
        portal.stats.note_ok(method, times.len() as u64);
        portal.observe(method, times.len() as u32, &times, &answer.time);
    }
    portal.observe(BATCH, batch.len() as u32, &[&answer.time], &answer.time);
}

fn work_of(batch: &Batch) -> Work {
    let mut work: BTreeMap<&str, u32> = BTreeMap::new();
    for (_, command) in batch.commands() {
        *work.entry(command.method()).or_default() += 1;
    }
    work.insert(BATCH, batch.len() as u32);
    work.into_iter().map(|(method, commands)| (method.into(), commands)).collect()
}

fn call_body(method: &str, params: &Value) -> Result<Vec<u8>, Error> {
    match params {
        Value::Null => Ok(b"{}".to_vec()),
        Value::Object(_) => Ok(params.to_string().into_bytes()),
        _ => Err(refuse(method, RequestFault::NotAnObject)),
    }
}

fn batch_body(batch: &Batch) -> Result<Vec<u8>, Error> {
    if batch.is_empty() {
        return Err(refuse(BATCH, RequestFault::Empty));
    }
    serde_json::to_vec(batch).map_err(|_| refuse(BATCH, RequestFault::NotAnObject))
}

/// Tells whether the portal took the webhook, where its answer says so.
fn is_webhook_taken<T>(outcome: &Result<T, Error>, reads_only: bool) -> Option<bool> {
    match outcome {
        Ok(_) => Some(true),
        // Perhaps it was what was to be written.
        Err(error) if !reads_only && error.is_bare_refusal() => None,
        // Nothing was sent.
        Err(Error::Untrusted { .. }) => None,
        Err(error) => match error.class() {
            ErrorClass::Refused => Some(false),
            ErrorClass::NotFound | ErrorClass::OperatingLimit { .. } => Some(true),
            ErrorClass::RateLimited { .. } | ErrorClass::Transient | ErrorClass::Permanent => None,
        },
    }
}

fn may_try_again(request: &Request<'_>, error: &Error) -> bool {
    match error {
        Error::Api(error) => error.is_request_limit(),
        Error::Connect { .. } => true,
        Error::Broken { .. } => request.reads_only,
        _ => false,
    }
}

/// Tells whether a method only looks. `event.offline.get`, for one, does not: it empties a queue.
fn reads_only(method: &str) -> bool {
    match method {
        "profile" | "scope" | "methods" | "method.get" | "server.time" | "feature.get" => true,
        "user.get" | "user.current" | "user.fields" => true,
        _ => {
            let looks = [".list", ".get", ".fields"].iter().any(|end| method.ends_with(end));
            method.starts_with("crm.") && looks
        }
    }
}
