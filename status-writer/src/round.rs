//! One round: the records that were picked together, from the last look at their fences to their acks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitrix24::{ApiError, Client, Error, ErrorClass, Lane};
use chrono::{DateTime, FixedOffset};
use futures::{StreamExt, stream};
use runtime::{BrokerError, Delivery, Inbox, Leadership, PublishError, Verdict, faults, trace};
use schemas::{Entity, RecordId, RecordRef, StatusSettled};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::allowance::unless_stopped;
use crate::config::StatusFields;
use crate::decide::{SECOND_LOOK, Unkept, decide_unkept, same_text};
use crate::desk::{Dropped, Fence, Held, Picked};
use crate::line::MINUTE;
use crate::portal::{self, Fate, Look};
use crate::store::{Settling, Store};

/// What a round works with.
pub struct Tools {
    /// The portal.
    pub client: Client,
    /// Codes of the fields to write.
    pub fields: StatusFields,
    /// The settled statuses.
    pub store: Store,
    /// Settles deliveries and reads none; see [`Tools::settle`].
    pub settler: Arc<Inbox>,
    /// Dead letters that are being stored.
    pub burials: Burials,
    /// Portal seconds in one of ours.
    pub clock_speed: f64,
    /// Leave to write.
    pub leadership: Leadership,
}

impl Tools {
    /// Settles deliveries. What cannot be settled comes again and is found settled then.
    ///
    /// Nobody waits for dead letters, for which there may be no room for long.
    pub async fn settle(&self, deliveries: Vec<(Delivery, Verdict)>) {
        let is_dead = |(_, verdict): &(Delivery, Verdict)| matches!(verdict, Verdict::DeadLetter { .. });
        let (dead, others): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(is_dead);
        self.burials.begin(&self.settler, dead);
        let settler = &*self.settler;
        let settlings = stream::iter(others)
            .for_each_concurrent(AT_ONCE, |(delivery, verdict)| settle_one(settler, delivery, verdict));
        settlings.await;
    }

    /// Turns portal time into real time.
    pub fn real(&self, portal: Duration) -> Duration {
        portal.div_f64(self.clock_speed).max(SHORTEST_WAIT)
    }

    /// Turns real time into portal time.
    fn portal(&self, real: Duration) -> Duration {
        real.mul_f64(self.clock_speed)
    }
}

/// Dead letters that are being stored. Those that are not come again.
#[derive(Default)]
pub struct Burials {
    tasks: Mutex<JoinSet<()>>,
    gate: Arc<tokio::sync::Mutex<()>>,
}

impl Burials {
    /// Begins to store some, one after the other.
    fn begin(&self, settler: &Arc<Inbox>, dead: Vec<(Delivery, Verdict)>) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        for (delivery, verdict) in dead {
            let (settler, gate) = (Arc::clone(settler), Arc::clone(&self.gate));
            tasks.spawn(async move {
                let _turn = gate.lock().await;
                settle_one(&settler, delivery, verdict).await;
            });
        }
    }

    /// Waits until none is being stored any more.
    pub async fn end(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks());
        while tasks.join_next().await.is_some() {}
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Below this a wait is only turning round.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// Questions to the stream that may be under way at once.
pub const AT_ONCE: usize = 64;

/// Age at which a fence is read again before a write: a replica may have moved on.
const FRESH: Duration = Duration::from_secs(1);

/// Rejections of one record after which it is a dead letter, others being written meanwhile.
const MOST_FAILURES: u8 = 3;

/// Errors of the portal itself over one record after which its status is given up. With the pauses between, which double
/// from [`SECOND_LOOK`] on, that takes eight minutes.
const MOST_SERVER_ERRORS: u8 = 8;

/// Batches that fail as a whole after which each record of them goes alone.
const MOST_FAILED_BATCHES: u8 = 3;

/// Portal time between tries of a record that fails alone.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

async fn settle_one(settler: &Inbox, delivery: Delivery, verdict: Verdict) {
    let sequence = delivery.sequence();
    if let Err(error) = settler.settle(delivery, verdict).await {
        tracing::debug!("Could not settle message {sequence}, it will come again: {error}");
    }
}

/// What is to be done in a round.
pub struct Round {
    /// Kind of all its records.
    pub entity: Entity,
    /// How urgent it is.
    pub lane: Lane,
    /// The records.
    pub picked: Picked<Delivery>,
    /// Updates of this entity show up as they should, so that what does not is the record's own trouble.
    pub line_is_sound: bool,
    /// When an update of this entity was last seen to stand.
    pub last_written: Option<Instant>,
}

/// What came of a round.
pub struct Report {
    /// Kind of its records.
    pub entity: Entity,
    /// Records that are done with, with their newest settled status where it is known.
    pub done: Vec<(RecordRef, Option<Fence>)>,
    /// Records to be dealt with again.
    pub again: Vec<Held<Delivery>>,
    /// Records whose update may still be applied, with its text.
    pub in_doubt: Vec<(RecordRef, String)>,
    /// Records to be dealt with alone, as the portal may fail over one of them, unless others were named already.
    pub suspects: Vec<RecordRef>,
    /// When the batches began of which it is known over whom they were cut off.
    pub explained: Vec<Instant>,
    /// Texts that were given up.
    pub dropped: Vec<Dropped>,
    /// Records that show the right text, as a look or the reading after an update tells.
    pub kept: usize,
    /// Those of them that were updated.
    pub written: usize,
    /// Records that showed it without being written.
    pub already_shown: usize,
    /// Records that are gone.
    pub gone: usize,
    /// Confirmed updates that left another text.
    pub other_text: usize,
    /// Confirmed updates of records without such a field.
    pub no_field: usize,
    /// Updates of the batch and the seconds that they took together.
    pub measured: Option<(usize, f64)>,
    /// What stands in the way of the whole entity.
    pub trouble: Option<Trouble>,
}

impl Report {
    /// Starts with nothing.
    pub fn new(entity: Entity) -> Report {
        Report {
            entity,
            done: Vec::new(),
            again: Vec::new(),
            in_doubt: Vec::new(),
            suspects: Vec::new(),
            explained: Vec::new(),
            dropped: Vec::new(),
            kept: 0,
            written: 0,
            already_shown: 0,
            gone: 0,
            other_text: 0,
            no_field: 0,
            measured: None,
            trouble: None,
        }
    }
}

/// What stands in the way of more than one record.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// The portal is unwell; a batch of this many updates was cut off, if it was that.
    Unwell {
        /// Size of the batch that was cut off.
        cut_off: Option<usize>,
        /// Why.
        reason: String,
    },
    /// Too many requests.
    RateLimited(Duration),
    /// The method has used up its computing time.
    OutOfOperating,
    /// The portal turns the webhook away.
    Refused(String),
    /// The webhook's employee may not change these records.
    NoRights(String),
}

impl Trouble {
    /// Reads an error of a whole request.
    pub fn of(error: &Error, updates: usize) -> Trouble {
        match error.class() {
            ErrorClass::RateLimited { retry_after } => Trouble::RateLimited(retry_after),
            ErrorClass::OperatingLimit { .. } => Trouble::OutOfOperating,
            ErrorClass::Refused => Trouble::Refused(error.to_string()),
            ErrorClass::Transient | ErrorClass::NotFound | ErrorClass::Permanent => {
                Trouble::Unwell { cut_off: is_cut_off(error).then_some(updates), reason: error.to_string() }
            }
        }
    }
}

/// Tells whether a request took longer than somebody waited for it.
fn is_cut_off(error: &Error) -> bool {
    matches!(error, Error::Timeout { .. } | Error::Status { status: 504, .. })
}

/// Tells whether a request failed in a way for which one of its records may be why: with an answer of the portal's or of a filter
/// before it, or with a filter's hanging up.
fn may_be_one_records(error: &Error) -> bool {
    let has_answered = matches!(
        error,
        Error::Api(_)
            | Error::Status { .. }
            | Error::Answer { .. }
            | Error::TooLarge { .. }
            | Error::Listing { .. }
            | Error::Broken { .. }
    );
    let is_for_all = matches!(
        error.class(),
        ErrorClass::Refused | ErrorClass::RateLimited { .. } | ErrorClass::OperatingLimit { .. }
    );
    has_answered && !is_for_all && !is_cut_off(error)
}

/// Carries a round out.
pub async fn carry_out(tools: Arc<Tools>, round: Round) -> Report {
    let Round { entity, lane, picked, line_is_sound, last_written } = round;
    let mut turn = Turn {
        tools: &tools,
        entity,
        lane,
        line_is_sound,
        last_written,
        report: Report::new(entity),
        verdicts: Vec::new(),
    };
    for held in picked.superseded {
        turn.end(held, Verdict::Done(Vec::new()), None);
    }
    let shown = picked.shown.into_iter().map(|(held, seen)| (held, StatusSettled::AlreadyShown, seen));
    turn.settle(shown.collect()).await;
    let write = turn.recheck(picked.write).await;
    let write = turn.begin(write).await;
    let (look, write) = write.into_iter().partition(|held| held.look_first);
    let write = turn.look(look, write).await;
    if !write.is_empty() {
        turn.write(write).await;
    }
    tools.settle(turn.verdicts).await;
    // Whatever kept them from their end, it was not that the process died.
    for held in &turn.report.again {
        let _best_effort = held.delivery.not_to_blame().await;
    }
    turn.report
}

struct Turn<'t> {
    tools: &'t Tools,
    entity: Entity,
    lane: Lane,
    line_is_sound: bool,
    last_written: Option<Instant>,
    report: Report,
    /// Deliveries that are done with. They are settled together, last of all.
    verdicts: Vec<(Delivery, Verdict)>,
}

impl Turn<'_> {
    fn field(&self) -> &str {
        self.tools.fields.of(self.entity)
    }

    /// Drops what somebody else may have by now, and gives back what was settled meanwhile.
    async fn recheck(&mut self, held: Vec<Held<Delivery>>) -> Vec<Held<Delivery>> {
        let checks = held.into_iter().map(|held| recheck(self.tools, held));
        let checked: Vec<Checked> = stream::iter(checks).buffer_unordered(AT_ONCE).collect().await;
        let mut unchanged = Vec::new();
        for checked in checked {
            match checked {
                Checked::Unchanged(held) => unchanged.push(held),
                Checked::Changed(held) => self.report.again.push(held),
                Checked::Lost(record) => self.report.done.push((record, None)),
            }
        }
        unchanged
    }

    /// Drops what may be somebody else's after a freeze.
    fn keep_ours(&mut self, held: Vec<Held<Delivery>>) -> Vec<Held<Delivery>> {
        let (ours, lost): (Vec<_>, Vec<_>) = held.into_iter().partition(|held| is_ours(self.tools, held));
        self.report.done.extend(lost.iter().map(|held| (held.record(), None)));
        ours
    }

    /// Notes that a round begins with these, in case the process dies over one; buries those over which it died too often.
    async fn begin(&mut self, held: Vec<Held<Delivery>>) -> Vec<Held<Delivery>> {
        let begun = held.into_iter().map(|held| begin(self.tools, held));
        let begun: Vec<_> = stream::iter(begun).buffer_unordered(AT_ONCE).collect().await;
        let mut left = Vec::new();
        for (may_begin, held) in begun {
            match may_begin {
                Ok(true) => {
                    faults::crash_point_of("round-begun", Some(held.record()));
                    left.push(held);
                }
                Ok(false) => self.end(held, Verdict::deadly(), None),
                Err(_) => self.report.again.push(held),
            }
        }
        left
    }

    /// Looks at records that may show their text already; returns what has to be written.
    async fn look(
        &mut self,
        look: Vec<Held<Delivery>>,
        mut write: Vec<Held<Delivery>>,
    ) -> Vec<Held<Delivery>> {
        if look.is_empty() {
            return write;
        }
        let ids: Vec<RecordId> = look.iter().map(|held| held.record().id).collect();
        let looking = portal::look(&self.tools.client, self.entity, self.field(), &ids, self.lane);
        let looked = unless_stopped(looking).await;
        faults::crash_point("look-answered");
        let (looks, at) = match looked {
            Some(Ok(looked)) => looked,
            failed => {
                match failed {
                    Some(Err(error)) => self.fail_together(look, &error, 0),
                    _ => self.report.again.extend(look),
                }
                self.report.again.append(&mut write);
                return write;
            }
        };
        let (mut settled, mut unshown) = (Vec::new(), Vec::new());
        for held in look {
            match looks.get(&held.record().id) {
                Some(Look::Text(text)) if same_text(text, &held.wanted.text) => {
                    self.report.kept += 1;
                    settled.push((held, StatusSettled::Written, at));
                }
                // Our updates leave no field empty: a person has cleared it since it was settled, and the producer sees it.
                Some(Look::Text(text)) if text.trim().is_empty() && held.was_seen_to_stand() => {
                    let fence = held.fence.clone();
                    self.end(held, Verdict::Done(Vec::new()), Some(fence));
                }
                // Lists lag behind and leave out what the webhook may not read: only an update tells that a record is gone.
                Some(_) | None => unshown.push(held),
            }
        }
        for held in self.set_apart(unshown) {
            write.extend(self.write_again(held));
        }
        self.settle(settled).await;
        write
    }

    /// Has the first of each batch that was cut off go alone, and returns the others.
    ///
    /// The portal does one update after the other: it may have stuck fast over the first that does not show.
    fn set_apart(&mut self, unshown: Vec<Held<Delivery>>) -> Vec<Held<Delivery>> {
        let mut first: HashMap<Instant, usize> = HashMap::new();
        for (batch, place) in unshown.iter().filter_map(|held| held.cut_off) {
            first.entry(batch).and_modify(|first| *first = place.min(*first)).or_insert(place);
        }
        let mut others = Vec::new();
        for mut held in unshown {
            let is_first =
                held.cut_off.take().is_some_and(|(batch, place)| first.get(&batch) == Some(&place));
            if !is_first {
                others.push(held);
                continue;
            }
            // Others that are written show that the trouble is its own.
            held.refused = Some(Instant::now());
            self.report.suspects.push(held.record());
            self.report.again.push(held);
        }
        self.report.explained.extend(first.into_keys());
        others
    }

    /// Returns a record that shows another text, if it is to be written; else puts it off or gives it up.
    fn write_again(&mut self, mut held: Held<Delivery>) -> Option<Held<Delivery>> {
        let since = held.last_unkept.map(|at| self.tools.portal(at.elapsed())).unwrap_or_default();
        match decide_unkept(held.unkept, held.unkept_before, since) {
            Unkept::Write => return Some(held),
            Unkept::LookAfter(left) => {
                held.not_before = Instant::now() + self.tools.real(left);
                self.report.again.push(held);
            }
            Unkept::GiveUp => self.give_up_unkept(held),
        }
        None
    }

    /// Does not write once more what did not show, unless that is everybody's trouble.
    fn give_up_unkept(&mut self, mut held: Held<Delivery>) {
        if self.line_is_sound {
            let reason = "the portal confirms the status and then shows another text".to_owned();
            let (record, text) = (held.record(), held.wanted.text.clone());
            let (updates, last) = (held.unkept_in_all(), held.last_unkept);
            self.report.dropped.push(Dropped { record, text, updates, last });
            self.end(held, Verdict::DeadLetter { reason }, None);
            return;
        }
        self.report.other_text += 1;
        held.not_before = Instant::now() + self.tools.real(SECOND_LOOK);
        self.report.again.push(held);
    }

    async fn write(&mut self, held: Vec<Held<Delivery>>) {
        let held = self.keep_ours(held);
        if held.is_empty() {
            return;
        }
        let texts: Vec<(RecordId, String)> =
            held.iter().map(|held| (held.record().id, held.wanted.text.clone())).collect();
        let writing = portal::write(&self.tools.client, self.entity, self.field(), &texts, self.lane);
        let started = Instant::now();
        let written = unless_stopped(writing).await;
        faults::crash_point("batch-answered");
        for held in &held {
            let failed = !matches!(written, Some(Ok(_)));
            held.delivery.note_request("bitrix24 write status", started.elapsed(), failed);
        }
        match written {
            None => self.report.again.extend(held),
            Some(Ok(said)) => {
                self.report.measured = Some((texts.len(), said.seconds));
                self.sort_out(held, said.fates, said.at).await;
            }
            Some(Err(error)) => self.give_up_batch(held, started, &error),
        }
    }

    /// Deals with updates of which only the next look tells. The portal may go on with what was cut off.
    fn give_up_batch(&mut self, mut held: Vec<Held<Delivery>>, begun: Instant, error: &Error) {
        let may_be_done = !error.surely_not_processed();
        if is_cut_off(error) && held.len() > 1 {
            for (place, held) in held.iter_mut().enumerate() {
                held.cut_off = Some((begun, place));
            }
        }
        if is_cut_off(error) || matches!(error, Error::Broken { .. }) {
            let may_come = held.iter().map(|held| (held.record(), held.wanted.text.clone()));
            self.report.in_doubt.extend(may_come);
        }
        for held in &mut held {
            // What a batch would take for one of its results went alone, before it.
            held.look_first |= may_be_done || bitrix24::looks_like_reference(&held.wanted.text);
        }
        let updates = held.len();
        self.fail_together(held, error, updates);
    }

    /// Deals with records whose request failed as a whole, so many updates among it.
    ///
    /// Those of several that failed go alone, as one of them may be why, and those of one that was turned away.
    fn fail_together(&mut self, mut held: Vec<Held<Delivery>>, error: &Error, updates: usize) {
        let trouble = Trouble::of(error, updates);
        let is_turned_away = error.is_bare_refusal();
        // Updates that are cut off go on in ever smaller batches, but a look stays as large as it is.
        let is_failure = may_be_one_records(error) || (updates == 0 && is_cut_off(error));
        if held.len() == 1
            && (is_failure || is_turned_away || is_cut_off(error))
            && let Some(alone) = held.pop()
        {
            self.report.suspects.push(alone.record());
            let whose = self.note_server_error(alone, error);
            self.report.trouble = Some(trouble).filter(|_| whose == Whose::Everybodys);
            return;
        }
        self.report.trouble = Some(trouble);
        for mut held in held {
            if is_turned_away {
                held.refused = Some(Instant::now());
            }
            held.failed_batches = held.failed_batches.saturating_add(u8::from(is_failure));
            if is_turned_away || held.failed_batches >= MOST_FAILED_BATCHES {
                self.report.suspects.push(held.record());
            }
            self.report.again.push(held);
        }
    }

    async fn sort_out(
        &mut self,
        held: Vec<Held<Delivery>>,
        mut fates: HashMap<RecordId, Fate>,
        at: DateTime<FixedOffset>,
    ) {
        let mut settled = Vec::new();
        let mut failed = Vec::new();
        for mut held in held {
            match fates.remove(&held.record().id).unwrap_or(Fate::Unclear) {
                fate @ (Fate::Written | Fate::Shown) => {
                    self.report.kept += 1;
                    self.report.written += usize::from(matches!(fate, Fate::Written));
                    settled.push((held, StatusSettled::Written, at));
                }
                Fate::Gone => {
                    self.report.gone += 1;
                    settled.push((held, StatusSettled::RecordGone, at));
                }
                Fate::OtherText => {
                    self.report.other_text += 1;
                    self.again_unkept(held);
                }
                Fate::NoField => {
                    self.report.no_field += 1;
                    self.again_unkept(held);
                }
                Fate::Unclear => {
                    held.look_first = true;
                    held.not_before = Instant::now() + self.tools.real(SECOND_LOOK);
                    self.report.again.push(held);
                }
                Fate::Failed(error) => failed.push((held, error)),
            }
        }
        self.settle(settled).await;
        let are_several = failed.len() > 1;
        for (held, error) in failed {
            self.fail(held, &error, are_several);
        }
    }

    fn again_unkept(&mut self, mut held: Held<Delivery>) {
        let now = Instant::now();
        held.unkept = held.unkept.saturating_add(1);
        held.last_unkept = Some(now);
        held.look_first = true;
        held.not_before = now + self.tools.real(SECOND_LOOK);
        self.report.again.push(held);
    }

    /// Deals with an error of one update, or of several; some of them are everybody's trouble.
    fn fail(&mut self, held: Held<Delivery>, error: &ApiError, are_several: bool) {
        let shared = match error.class() {
            ErrorClass::RateLimited { retry_after } => Trouble::RateLimited(retry_after),
            ErrorClass::OperatingLimit { .. } => Trouble::OutOfOperating,
            ErrorClass::Refused => Trouble::Refused(error.to_string()),
            ErrorClass::Transient => {
                let error = error.clone().into();
                if self.note_server_error(held, &error) == Whose::Everybodys {
                    self.report.trouble.get_or_insert(Trouble::of(&error, 0));
                }
                return;
            }
            ErrorClass::NotFound | ErrorClass::Permanent => return self.refuse(held, error, are_several),
        };
        self.report.trouble = Some(shared);
        self.report.again.push(held);
    }

    /// Deals with an update that the portal rejects: everybody's trouble, unless others are written meanwhile.
    ///
    /// One that is rejected alone pauses nobody, several do.
    fn refuse(&mut self, mut held: Held<Delivery>, error: &ApiError, are_several: bool) {
        let now = Instant::now();
        let whose = self.whose(&held);
        held.refused = Some(now);
        if whose == Whose::Own {
            return self.count_failure(held, error);
        }
        let is_everybodys = whose == Whose::Everybodys;
        if is_everybodys && is_about_rights(error) {
            self.report.trouble = Some(Trouble::NoRights(error.to_string()));
        } else if is_everybodys && are_several {
            let trouble = Trouble::Unwell { cut_off: None, reason: error.to_string() };
            self.report.trouble.get_or_insert(trouble);
        } else {
            tracing::warn!("The status of {} waits for others to be written: {error}", held.record());
        }
        held.not_before = now + self.tools.real(MINUTE);
        self.report.again.push(held);
    }

    /// Deals with an update on which the portal itself failed, alone or as the look beside it tells: it passes, or is the
    /// record's own if others are written meanwhile. Returns whose it is.
    fn note_server_error(&mut self, mut held: Held<Delivery>, error: &Error) -> Whose {
        let now = Instant::now();
        let whose = self.whose(&held);
        held.refused = Some(now);
        held.look_first = true;
        if whose == Whose::Own {
            held.server_errors = held.server_errors.saturating_add(1);
        }
        if held.server_errors >= MOST_SERVER_ERRORS {
            let reason = format!("the portal fails on the status, though it writes others: {error}");
            self.end(held, Verdict::DeadLetter { reason }, None);
            return whose;
        }
        let pause = SECOND_LOOK * 2_u32.pow(held.server_errors.into());
        let pause = match whose {
            // While nobody else is written there is nothing to learn from one more try.
            Whose::Unproven => pause.max(MINUTE),
            // All wait for a minute then. The others go first after it, and show whose trouble it is.
            Whose::Everybodys if error.is_bare_refusal() => MINUTE * 2,
            _ => pause,
        };
        held.not_before = now + self.tools.real(pause);
        self.report.again.push(held);
        whose
    }

    /// Tells whose trouble it is that a record is not written.
    fn whose(&self, held: &Held<Delivery>) -> Whose {
        if self.report.written > 0 {
            return Whose::Own;
        }
        whose_refusal(held.refused, held.fails_alone(), self.last_written)
    }

    fn count_failure(&mut self, mut held: Held<Delivery>, error: &ApiError) {
        held.failures = held.failures.saturating_add(1);
        if held.failures >= MOST_FAILURES {
            let reason = format!("the portal rejects the status: {error}");
            self.end(held, Verdict::DeadLetter { reason }, None);
            return;
        }
        held.not_before = Instant::now() + self.tools.real(FAILURE_PAUSE);
        self.report.again.push(held);
    }

    /// Publishes what is settled. It is acknowledged after that, or a crash would lose it.
    async fn settle(&mut self, settled: Vec<(Held<Delivery>, StatusSettled, DateTime<FixedOffset>)>) {
        let tools = self.tools;
        let settlings = settled.into_iter().map(|(held, how, at)| settle(tools, held, how, at));
        let mut settlings = stream::iter(settlings).buffer_unordered(AT_ONCE);
        while let Some((end, how)) = settlings.next().await {
            match end {
                End::Done(mut held) => {
                    self.report.already_shown += usize::from(how == StatusSettled::AlreadyShown);
                    if how != StatusSettled::RecordGone && held.look_again() {
                        self.report.again.push(*held);
                        continue;
                    }
                    let fence = held.fence.clone();
                    self.end(*held, Verdict::Done(Vec::new()), Some(fence));
                }
                End::Lost(record) => self.report.done.push((record, None)),
                End::Again(held) => self.report.again.push(*held),
            }
        }
    }

    fn end(&mut self, held: Held<Delivery>, verdict: Verdict, fence: Option<Fence>) {
        self.report.done.push((held.record(), fence));
        self.verdicts.push((held.delivery, verdict));
    }
}

enum Checked {
    Unchanged(Held<Delivery>),
    Changed(Held<Delivery>),
    Lost(RecordRef),
}

async fn begin(tools: &Tools, held: Held<Delivery>) -> (Result<bool, BrokerError>, Held<Delivery>) {
    (tools.settler.may_begin(&held.delivery).await, held)
}

/// Tells whether nobody else can have it in hand.
fn is_ours(tools: &Tools, held: &Held<Delivery>) -> bool {
    let is_ours = held.delivery.is_still_ours() && tools.leadership.is_held();
    if !is_ours {
        let record = held.record();
        tracing::warn!("Was away for too long; leaving the status of {record} to its next delivery");
    }
    is_ours
}

async fn recheck(tools: &Tools, mut held: Held<Delivery>) -> Checked {
    let record = held.record();
    if !is_ours(tools, &held) {
        return Checked::Lost(record);
    }
    if held.fence_read.elapsed() < FRESH {
        return Checked::Unchanged(held);
    }
    let Ok(fence) = tools.store.fence(record).await else { return Checked::Lost(record) };
    let is_same = fence.last == held.fence.last;
    held.refence(fence, Instant::now());
    if is_same { Checked::Unchanged(held) } else { Checked::Changed(held) }
}

enum End {
    /// Its fence is the newest that is known.
    Done(Box<Held<Delivery>>),
    Again(Box<Held<Delivery>>),
    /// Nothing is known, and somebody else sees to it.
    Lost(RecordRef),
}

impl End {
    fn done(held: Held<Delivery>) -> End {
        End::Done(Box::new(held))
    }

    fn again(held: Held<Delivery>) -> End {
        End::Again(Box::new(held))
    }
}

async fn settle(
    tools: &Tools,
    held: Held<Delivery>,
    how: StatusSettled,
    at: DateTime<FixedOffset>,
) -> (End, StatusSettled) {
    let end = if held.is_settled() {
        repaired(tools, held, how).await
    } else {
        settle_new(tools, held, how, at).await
    };
    (end, how)
}

async fn settle_new(
    tools: &Tools,
    mut held: Held<Delivery>,
    how: StatusSettled,
    at: DateTime<FixedOffset>,
) -> End {
    let settling = tools.store.settle(&held.wanted, how, at, held.fence.sequence);
    match trace::within(held.delivery.trace_context(), settling).await {
        Ok(Settling::Settled(fence)) => {
            note(&held, how);
            held.fence = fence;
            End::done(held)
        }
        Ok(Settling::Overtaken(fence)) => overtaken(held, how, fence),
        Err(PublishError::Stopping) => End::Lost(held.record()),
        Err(error) => {
            tracing::error!("Could not publish the status of {}: {error}", held.record());
            held.not_before = Instant::now() + FAILURE_PAUSE;
            End::again(held)
        }
    }
}

/// Another process settled this record while we dealt with it.
fn overtaken(mut held: Held<Delivery>, how: StatusSettled, fence: Fence) -> End {
    held.refence(fence, Instant::now());
    let newer = held.newer_settled();
    let shows_it = newer.is_some_and(|newer| {
        newer.how == StatusSettled::RecordGone || same_text(&newer.text, &held.wanted.text)
    });
    let wrote = how == StatusSettled::Written;
    if newer.is_some() && (shows_it || !wrote) {
        return End::done(held);
    }
    if wrote {
        tracing::warn!("Another status of {} was settled meanwhile; looking at it again", held.record());
        held.mistrust();
    }
    End::again(held)
}

/// The newest settled status is in the field again; it is published already.
async fn repaired(tools: &Tools, mut held: Held<Delivery>, how: StatusSettled) -> End {
    let Ok(fence) = tools.store.fence(held.record()).await else { return End::Lost(held.record()) };
    let is_newest = fence.last == held.fence.last;
    held.refence(fence, Instant::now());
    if is_newest || how == StatusSettled::RecordGone { End::done(held) } else { End::again(held) }
}

fn note(held: &Held<Delivery>, how: StatusSettled) {
    let record = held.record();
    let id = |entity| (record.entity == entity).then_some(record.id.get());
    tracing::debug!(
        contact.id = id(Entity::Contact),
        deal.id = id(Entity::Deal),
        message.deliveries = held.delivery.deliveries,
        "Settled the status of {record}: {how:?}"
    );
}

/// Whose trouble it is that a record is not written, where nothing else was in the same batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Nothing speaks for the record's alone.
    Everybodys,
    /// Another record was written since this one was refused.
    Own,
    /// It was the record's own before, and nothing was written since.
    Unproven,
}

fn whose_refusal(refused: Option<Instant>, fails_alone: bool, last_written: Option<Instant>) -> Whose {
    match (refused, last_written) {
        (Some(refused), Some(written)) if written > refused => Whose::Own,
        (Some(_), _) if fails_alone => Whose::Unproven,
        _ => Whose::Everybodys,
    }
}

/// The classic methods have no code for it, only words.
fn is_about_rights(error: &ApiError) -> bool {
    let words = error.description().to_lowercase();
    error.code().eq_ignore_ascii_case("ACCESS_DENIED")
        || ["access denied", "доступ запрещ"].iter().any(|said| words.contains(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_may_be_why_a_request_fails_that_was_answered_but_not_why_everybody_is_turned_away() {
        let status = |status| Error::Status { method: "batch".into(), status };
        let is_failure = |number| may_be_one_records(&status(number));
        assert!([400, 406, 413, 500, 502, 503].into_iter().all(is_failure));
        assert!(![401, 403, 429, 504].into_iter().any(is_failure));
        assert!(!may_be_one_records(&Error::Timeout { method: "batch".into() }));
        assert!(may_be_one_records(&Error::TooLarge { method: "batch".into(), limit: 1 }));
    }

    #[test]
    fn a_refusal_is_a_records_own_once_another_one_was_written() {
        let start = Instant::now();
        let [first, second] = [1, 2].map(|seconds| start + Duration::from_secs(seconds));
        assert_eq!(whose_refusal(None, false, Some(first)), Whose::Everybodys);
        assert_eq!(whose_refusal(Some(first), false, None), Whose::Everybodys);
        assert_eq!(whose_refusal(Some(second), false, Some(first)), Whose::Everybodys);
        assert_eq!(whose_refusal(Some(first), false, Some(second)), Whose::Own);
        assert_eq!(whose_refusal(Some(second), true, Some(first)), Whose::Unproven);
    }
}
