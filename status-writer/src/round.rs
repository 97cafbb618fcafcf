//! One round: the records that were picked together, from the last look at their fences to their acks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitrix24::{ApiError, Client, Error, ErrorClass, Lane};
use chrono::{DateTime, FixedOffset};
use futures::{StreamExt, stream};
use runtime::{BrokerError, Delivery, Inbox, PublishError, Verdict};
use schemas::{Entity, RecordId, RecordRef, StatusSettled};
use tokio::runtime::Handle;

use crate::config::StatusFields;
use crate::decide::same_text;
use crate::desk::{Fence, Held, Picked};
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
    /// Portal seconds in one of ours.
    pub clock_speed: f64,
}

impl Tools {
    /// Settles a delivery.
    pub async fn settle(&self, delivery: Delivery, verdict: Verdict) -> Result<(), BrokerError> {
        let settler = Arc::clone(&self.settler);
        // The compiler cannot tell that this future may change threads, so it stays on one.
        let settling = move || Handle::current().block_on(settler.settle(delivery, verdict));
        tokio::task::spawn_blocking(settling).await.unwrap_or(Err(BrokerError::Stopping))
    }

    /// Turns portal time into real time.
    pub fn real(&self, portal: Duration) -> Duration {
        portal.div_f64(self.clock_speed).max(SHORTEST_WAIT)
    }
}

/// Below this a wait is only turning round.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// Questions to the stream that may be under way at once.
pub const AT_ONCE: usize = 64;

/// Age at which a fence is read again before a write: a replica may have moved on.
const FRESH: Duration = Duration::from_secs(1);

/// Confirmed updates of one text that did not show, after which it is not written again.
const MOST_UNKEPT: u8 = 2;

/// Errors of one record alone after which it is a dead letter.
const MOST_FAILURES: u8 = 3;

/// Portal time after which a record that showed something else is looked at again: lists may lag.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// Portal time between tries of a record that fails alone.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);

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
}

/// What came of a round.
pub struct Report {
    /// Kind of its records.
    pub entity: Entity,
    /// Records that are done with, with their newest settled status where it is known.
    pub done: Vec<(RecordRef, Option<Fence>)>,
    /// Records to be dealt with again.
    pub again: Vec<Held<Delivery>>,
    /// Records read back with the right text.
    pub kept: usize,
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
            kept: 0,
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
        let is_cut_off = matches!(error, Error::Timeout { .. } | Error::Status { status: 504, .. });
        match error.class() {
            ErrorClass::RateLimited { retry_after } => Trouble::RateLimited(retry_after),
            ErrorClass::OperatingLimit { .. } => Trouble::OutOfOperating,
            ErrorClass::Refused => Trouble::Refused(error.to_string()),
            ErrorClass::Transient | ErrorClass::NotFound | ErrorClass::Permanent => {
                Trouble::Unwell { cut_off: is_cut_off.then_some(updates), reason: error.to_string() }
            }
        }
    }
}

/// Carries a round out.
pub async fn carry_out(tools: Arc<Tools>, round: Round) -> Report {
    let Round { entity, lane, picked, line_is_sound } = round;
    let mut turn = Turn { tools: &tools, entity, lane, line_is_sound, report: Report::new(entity) };
    for held in picked.superseded {
        turn.acknowledge(held, None).await;
    }
    let shown = picked.shown.into_iter().map(|(held, seen)| (held, StatusSettled::AlreadyShown, seen));
    turn.settle(shown.collect()).await;
    let write = turn.recheck(picked.write).await;
    let (look, write) = write.into_iter().partition(|held| held.look_first);
    let write = turn.look(look, write).await;
    if !write.is_empty() {
        turn.write(write).await;
    }
    turn.report
}

struct Turn<'t> {
    tools: &'t Tools,
    entity: Entity,
    lane: Lane,
    line_is_sound: bool,
    report: Report,
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
        let looked = portal::look(&self.tools.client, self.entity, self.field(), &ids, self.lane).await;
        let (looks, at) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                self.report.trouble = Some(Trouble::of(&error, 0));
                self.report.again.extend(look);
                self.report.again.append(&mut write);
                return write;
            }
        };
        let mut settled = Vec::new();
        for held in look {
            match looks.get(&held.record().id) {
                Some(Look::Text(text)) if same_text(text, &held.wanted.text) => {
                    self.report.kept += 1;
                    settled.push((held, StatusSettled::Written, at));
                }
                None => {
                    self.report.gone += 1;
                    settled.push((held, StatusSettled::RecordGone, at));
                }
                Some(_) if held.unkept >= MOST_UNKEPT => self.give_up_unkept(held).await,
                Some(_) => write.push(held),
            }
        }
        self.settle(settled).await;
        write
    }

    /// Does not write a third time what did not show twice.
    async fn give_up_unkept(&mut self, mut held: Held<Delivery>) {
        if self.line_is_sound {
            let reason = "the portal confirms the status and then shows another text".to_owned();
            self.bury(held, reason).await;
            return;
        }
        self.report.other_text += 1;
        held.not_before = Instant::now() + self.tools.real(SECOND_LOOK);
        self.report.again.push(held);
    }

    async fn write(&mut self, held: Vec<Held<Delivery>>) {
        let texts: Vec<(RecordId, String)> =
            held.iter().map(|held| (held.record().id, held.wanted.text.clone())).collect();
        let written = portal::write(&self.tools.client, self.entity, self.field(), &texts, self.lane).await;
        match written {
            Ok(said) => {
                self.report.measured = Some((texts.len(), said.seconds));
                self.sort_out(held, said.fates, said.at).await;
            }
            Err(error) => {
                self.report.trouble = Some(Trouble::of(&error, texts.len()));
                let may_be_done = !error.surely_not_processed();
                self.report.again.extend(held.into_iter().map(|mut held| {
                    held.look_first |= may_be_done;
                    held
                }));
            }
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
                Fate::Shown => {
                    self.report.kept += 1;
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
        for (held, error) in failed {
            self.fail(held, &error).await;
        }
    }

    fn again_unkept(&mut self, mut held: Held<Delivery>) {
        held.unkept = held.unkept.saturating_add(1);
        held.look_first = true;
        held.not_before = Instant::now() + self.tools.real(SECOND_LOOK);
        self.report.again.push(held);
    }

    /// Deals with an error of one update; some of them are everybody's trouble.
    async fn fail(&mut self, mut held: Held<Delivery>, error: &ApiError) {
        let shared = match error.class() {
            ErrorClass::RateLimited { retry_after } => Some(Trouble::RateLimited(retry_after)),
            ErrorClass::OperatingLimit { .. } => Some(Trouble::OutOfOperating),
            ErrorClass::Refused => Some(Trouble::Refused(error.to_string())),
            _ if is_about_rights(error) && self.report.kept == 0 => {
                Some(Trouble::NoRights(error.to_string()))
            }
            _ => None,
        };
        if let Some(trouble) = shared {
            self.report.trouble = Some(trouble);
            self.report.again.push(held);
            return;
        }
        held.failures = held.failures.saturating_add(1);
        if held.failures >= MOST_FAILURES {
            self.bury(held, format!("the portal rejects the status: {error}")).await;
            return;
        }
        held.not_before = Instant::now() + self.tools.real(FAILURE_PAUSE);
        self.report.again.push(held);
    }

    /// Publishes what is settled, then acknowledges it; in that order, or a crash would lose it.
    async fn settle(&mut self, settled: Vec<(Held<Delivery>, StatusSettled, DateTime<FixedOffset>)>) {
        let tools = self.tools;
        let settlings = settled.into_iter().map(|(held, how, at)| settle(tools, held, how, at));
        let mut settlings = stream::iter(settlings).buffer_unordered(AT_ONCE);
        while let Some((end, how)) = settlings.next().await {
            match end {
                End::Done(record, fence) => {
                    self.report.already_shown += usize::from(how == StatusSettled::AlreadyShown);
                    self.report.done.push((record, fence));
                }
                End::Again(held) => self.report.again.push(*held),
            }
        }
    }

    async fn acknowledge(&mut self, held: Held<Delivery>, fence: Option<Fence>) {
        let record = held.record();
        acknowledge(self.tools, held).await;
        self.report.done.push((record, fence));
    }

    async fn bury(&mut self, held: Held<Delivery>, reason: String) {
        let record = held.record();
        if let Err(error) = self.tools.settle(held.delivery, Verdict::DeadLetter { reason }).await {
            tracing::warn!("Could not bury the status of {record}: {error}");
        }
        self.report.done.push((record, None));
    }
}

enum Checked {
    Unchanged(Held<Delivery>),
    Changed(Held<Delivery>),
    Lost(RecordRef),
}

async fn recheck(tools: &Tools, mut held: Held<Delivery>) -> Checked {
    let record = held.record();
    if !held.delivery.is_still_ours() {
        tracing::warn!("Was away for too long; leaving the status of {record} to its next delivery");
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
    Done(RecordRef, Option<Fence>),
    Again(Box<Held<Delivery>>),
}

async fn settle(
    tools: &Tools,
    mut held: Held<Delivery>,
    how: StatusSettled,
    at: DateTime<FixedOffset>,
) -> (End, StatusSettled) {
    if held.newer_settled().is_some() {
        return (repaired(tools, held, how).await, how);
    }
    let record = held.record();
    let end = match tools.store.settle(&held.wanted, how, at, held.fence.sequence).await {
        Ok(Settling::Settled(fence)) => {
            note(&held, how);
            acknowledge(tools, held).await;
            End::Done(record, Some(fence))
        }
        Ok(Settling::Overtaken(fence)) => overtaken(tools, held, how, fence).await,
        Err(PublishError::Stopping) => End::Done(record, None),
        Err(error) => {
            tracing::error!("Could not publish the status of {record}: {error}");
            held.not_before = Instant::now() + FAILURE_PAUSE;
            End::Again(Box::new(held))
        }
    };
    (end, how)
}

/// Another process settled this record while we dealt with it.
async fn overtaken(tools: &Tools, mut held: Held<Delivery>, how: StatusSettled, fence: Fence) -> End {
    held.refence(fence, Instant::now());
    let newer = held.newer_settled();
    let shows_it = newer.is_some_and(|newer| {
        newer.how == StatusSettled::RecordGone || same_text(&newer.text, &held.wanted.text)
    });
    let wrote = how == StatusSettled::Written;
    if newer.is_some() && (shows_it || !wrote) {
        return done(tools, held).await;
    }
    if wrote {
        tracing::warn!("Another status of {} was settled meanwhile; looking at it again", held.record());
        held.mistrust();
    }
    End::Again(Box::new(held))
}

/// The newest settled status is in the field again; it is published already.
async fn repaired(tools: &Tools, mut held: Held<Delivery>, how: StatusSettled) -> End {
    let Ok(fence) = tools.store.fence(held.record()).await else {
        return End::Done(held.record(), None);
    };
    let is_newest = fence.last == held.fence.last;
    held.refence(fence, Instant::now());
    if is_newest || how == StatusSettled::RecordGone {
        done(tools, held).await
    } else {
        End::Again(Box::new(held))
    }
}

async fn done(tools: &Tools, held: Held<Delivery>) -> End {
    let (record, fence) = (held.record(), held.fence.clone());
    acknowledge(tools, held).await;
    End::Done(record, Some(fence))
}

async fn acknowledge(tools: &Tools, held: Held<Delivery>) {
    let record = held.record();
    if let Err(error) = tools.settle(held.delivery, Verdict::Done(Vec::new())).await {
        tracing::debug!("Could not acknowledge the status of {record}, it will come again: {error}");
    }
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

/// The classic methods have no code for it, only words.
fn is_about_rights(error: &ApiError) -> bool {
    let words = error.description().to_lowercase();
    error.code().eq_ignore_ascii_case("ACCESS_DENIED")
        || ["access denied", "доступ запрещ"].iter().any(|said| words.contains(said))
}
