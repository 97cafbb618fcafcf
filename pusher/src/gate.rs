//! The way to otmechalka: lets workers through, holds them all while it is unwell, and lets one try.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use otmechalka::{Call, Client, Error, ErrorClass};
use runtime::door::Standing;
use runtime::{BrokerError, CancellationToken, Door, outside};
use schemas::RecordRef;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::far_side::{Admission, Diagnosis, FarSide, Kind, Whose, Why};
use crate::pause::Pauses;

/// Id under which nobody is stored; Bitrix24 counts from one.
const NOBODY: &str = "0";

/// The gate. One for a whole process.
pub struct Gate {
    client: Client,
    far_side: Mutex<FarSide>,
    changed: Notify,
    /// Where all pushers tell each other that the token is refused.
    door: Door,
    /// The token was taken again, and the others do not know yet.
    was_let_in: AtomicBool,
    /// When the last probe began that found otmechalka answering; one probe at a time.
    probed: tokio::sync::Mutex<Option<Instant>>,
}

/// The stage is to stop.
#[derive(Debug)]
pub struct Stopping;

/// Why nobody is let through.
#[derive(Debug)]
pub enum Shut {
    /// The stage is to stop.
    Stopping,
    /// It was waited for long enough.
    Late,
}

impl From<Stopping> for Shut {
    fn from(_: Stopping) -> Shut {
        Shut::Stopping
    }
}

/// What to do with a record after a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Keep it in hand and ask the gate again.
    Hold,
    /// Put it aside for others to be tried; the failure is not its own.
    StepAside,
    /// Put it aside; the failure counts against it.
    Count,
}

/// Leave to call.
pub struct Permit<'g> {
    gate: &'g Gate,
    is_trial: bool,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_trial {
            self.gate.change(FarSide::end_trial);
        }
    }
}

/// A place in line with a command that never failed nor was put aside.
struct InLine<'g>(&'g Gate);

impl<'g> InLine<'g> {
    fn join(gate: &'g Gate) -> InLine<'g> {
        gate.lock().join_line();
        InLine(gate)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.change(FarSide::leave_line);
    }
}

impl Gate {
    /// Opens the gate.
    pub fn new(client: Client, pauses: Pauses, door: Door) -> Gate {
        Gate {
            client,
            far_side: Mutex::new(FarSide::new(pauses)),
            changed: Notify::new(),
            door,
            was_let_in: AtomicBool::new(false),
            probed: tokio::sync::Mutex::new(None),
        }
    }

    /// Waits until a worker may call. One whose command `is_fresh`, never failed nor was put aside, comes first where only one may.
    pub async fn admit(
        &self,
        is_fresh: bool,
        stopping: &CancellationToken,
        latest: Instant,
    ) -> Result<Permit<'_>, Shut> {
        let _in_line = is_fresh.then(|| InLine::join(self));
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that no change in between is missed.
            changed.as_mut().enable();
            let admission = self.lock().admit(is_fresh, Instant::now());
            let until = match admission {
                Admission::Go => return Ok(Permit { gate: self, is_trial: false }),
                Admission::Trial(why) => {
                    let permit = Permit { gate: self, is_trial: true };
                    let may_try = match why {
                        Why::Down => self.probe(true, Instant::now()).await,
                        Why::Refuses { .. } => self.has_next_try().await?,
                        Why::WritesFail | Why::Throttled => true,
                    };
                    if may_try {
                        return Ok(permit);
                    }
                    continue;
                }
                Admission::Wait(until) => until,
            };
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(Shut::Stopping),
                () = changed => {}
                () = sleep_until(until) => {}
                // Only here: who has just taken the one try there is has to make it.
                () = tokio::time::sleep_until(latest) => return Err(Shut::Late),
            }
        }
    }

    /// Tells whether this process may try the token: all of them together try it once a minute.
    async fn has_next_try(&self) -> Result<bool, Stopping> {
        match self.door.knock().await.map_err(|_| Stopping)? {
            Standing::Due | Standing::Alone => return Ok(true),
            Standing::Open => self.change(FarSide::taken_elsewhere),
            Standing::Wait(left) => self.refused_elsewhere(left),
            Standing::Tried => self.refused_elsewhere(self.door.look_pause()),
        }
        Ok(false)
    }

    fn refused_elsewhere(&self, left: Duration) {
        self.change(|far_side| far_side.refused_elsewhere(Instant::now() + left));
    }

    /// Keeps in step with the other pushers while the token is refused, until the stage is to stop.
    pub async fn keep_in_step(&self, stopping: &CancellationToken) -> Result<(), BrokerError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.was_let_in.swap(false, Ordering::Relaxed) {
                self.door.let_in().await;
            }
            let is_refused = matches!(self.closed_because(), Some(Why::Refuses { .. }));
            match self.door.look().await? {
                Standing::Open if is_refused => self.change(FarSide::taken_elsewhere),
                Standing::Wait(left) if !is_refused => self.refused_elsewhere(left),
                // A try that is due is taken by whoever has something to try it with.
                _ => {}
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Ok(()),
                () = changed => {}
                () = tokio::time::sleep(self.door.look_pause()) => {}
            }
        }
    }

    /// Tells whether workers are held.
    pub fn is_closed(&self) -> bool {
        self.lock().closed_because().is_some()
    }

    /// Returns why workers are held, if they are.
    pub fn closed_because(&self) -> Option<Why> {
        self.lock().closed_because()
    }

    /// Notes that otmechalka answered about a record.
    pub fn answered(&self, kind: Kind) {
        self.change(|far_side| self.note_answer(far_side, kind));
    }

    fn note_answer(&self, far_side: &mut FarSide, kind: Kind) {
        let was_refused = matches!(far_side.closed_because(), Some(Why::Refuses { .. }));
        far_side.answered(kind);
        if was_refused && far_side.closed_because().is_none() {
            self.was_let_in.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that a call about a record worked.
    pub fn worked(&self, record: RecordRef, call: Call) {
        self.change(|far_side| {
            self.note_answer(far_side, Kind::of(call));
            far_side.permitted(record, call, Instant::now());
        });
    }

    /// Tells whether writes of others worked since a record failed first, so long ago.
    pub fn took_others_within(&self, since_first_failure: Duration) -> bool {
        self.lock().took_others_within(since_first_failure, Instant::now())
    }

    /// Decides what becomes of a record whose call failed.
    pub async fn judge(&self, record: RecordRef, permit: &Permit<'_>, kind: Kind, error: &Error) -> Advice {
        let failed = Instant::now();
        match error.class() {
            ErrorClass::RateLimited { retry_after } => {
                self.change(|far_side| far_side.throttled(retry_after, failed));
                return Advice::Hold;
            }
            ErrorClass::Unauthorized => {
                let forbidden = error.call().filter(|_| error.status() == Some(403));
                let whose = forbidden.map_or(Whose::Everybodys, |call| {
                    self.change(|far_side| far_side.forbidden(record, call, Instant::now()))
                });
                match whose {
                    Whose::Own => return Advice::Count,
                    Whose::Unproven => {
                        tracing::warn!(record.id = %record.id, "otmechalka forbids {record} while other writes work; trying it again later: {error}");
                        return Advice::StepAside;
                    }
                    Whose::Everybodys => self.refused(kind, failed).await,
                }
                // The next try is another's: whoever is forbidden alone must not make them all.
                let is_to_step_aside = forbidden.is_some() && permit.is_trial;
                return if is_to_step_aside { Advice::StepAside } else { Advice::Hold };
            }
            ErrorClass::Transient | ErrorClass::NotFound | ErrorClass::Refused { .. } => {}
        }
        if !self.probe(permit.is_trial, failed).await {
            return Advice::Hold;
        }
        let diagnosis = self.change(|far_side| {
            far_side.failed_alone(record, permit.is_trial, Instant::now(), outside::noise())
        });
        match diagnosis {
            Diagnosis::SickRecord => Advice::Count,
            Diagnosis::Outage if permit.is_trial => Advice::StepAside,
            Diagnosis::Outage => Advice::Hold,
        }
    }

    /// Looks up somebody who is not there: the cheapest call that says whether otmechalka answers.
    ///
    /// Workers that failed before another one's probe began take its result.
    async fn probe(&self, is_trial: bool, failed: Instant) -> bool {
        let mut probed = self.probed.lock().await;
        if probed.is_some_and(|began| began >= failed) {
            return true;
        }
        if !is_trial && self.lock().closed_because().is_some_and(|why| why != Why::WritesFail) {
            return false;
        }
        let began = Instant::now();
        let Err(error) = self.client.get_client(NOBODY).await else {
            *probed = Some(began);
            self.answered(Kind::Read);
            return true;
        };
        let now = Instant::now();
        match error.class() {
            ErrorClass::Transient => self.change_because(Some(&error), |far_side| {
                far_side.unreachable(is_trial, error.retry_after(), now, outside::noise());
            }),
            ErrorClass::RateLimited { retry_after } => {
                self.change(|far_side| far_side.throttled(retry_after, now));
            }
            ErrorClass::Unauthorized => self.refused(Kind::Read, now).await,
            ErrorClass::NotFound | ErrorClass::Refused { .. } => {
                *probed = Some(began);
                self.answered(Kind::Read);
                return true;
            }
        }
        false
    }

    async fn refused(&self, kind: Kind, at: Instant) {
        self.change(|far_side| far_side.refused(kind, at));
        // Ends in vain only as the stage is to stop.
        let _stopping = self.door.refused().await;
    }

    fn change<T>(&self, act: impl FnOnce(&mut FarSide) -> T) -> T {
        self.change_because(None, act)
    }

    fn change_because<T>(&self, cause: Option<&Error>, act: impl FnOnce(&mut FarSide) -> T) -> T {
        let (before, value, after) = {
            let mut far_side = self.lock();
            let before = far_side.closed_because();
            let value = act(&mut far_side);
            (before, value, far_side.closed_because())
        };
        if before != after {
            report(before, after, cause);
        }
        self.changed.notify_waiters();
        value
    }

    fn lock(&self) -> MutexGuard<'_, FarSide> {
        self.far_side.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn report(before: Option<Why>, after: Option<Why>, cause: Option<&Error>) {
    match (before, after) {
        (_, Some(Why::Down)) => match cause {
            Some(Error::Untrusted { fault, .. }) => tracing::error!(
                "otmechalka is not to be trusted: {}. Nothing is sent there, the token least of all, and nobody is \
                 marked; it goes on by itself once that is put right",
                fault.advice("OTMECHALKA_CA_FILE", "OTMECHALKA_URL")
            ),
            Some(Error::Unreachable { source, .. }) => tracing::warn!(
                "otmechalka does not answer; holding everything until it does{}",
                otmechalka::obstacle(source)
            ),
            _ => tracing::warn!("otmechalka does not answer; holding everything until it does"),
        },
        (_, Some(Why::WritesFail)) => tracing::warn!(
            "otmechalka fails to store several records in a row; holding everything but one try at a time"
        ),
        (Some(Why::Refuses { .. }), Some(Why::Refuses { .. })) => {}
        (_, Some(Why::Refuses { .. })) => tracing::error!(
            "otmechalka refuses the token: nothing is sent and nobody is marked. Check OTMECHALKA_TOKEN, \
             OTMECHALKA_AUTH_SCHEME and the rights of the token's user; one try a minute, of all pushers together, finds \
             out when it is taken again"
        ),
        (_, Some(Why::Throttled)) => {
            tracing::info!("otmechalka asks for a pause; holding everything that long");
        }
        (Some(_), None) => tracing::info!("otmechalka takes records again"),
        (None, None) => {}
    }
}
