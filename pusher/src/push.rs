//! The decisions about one command: what is asked of otmechalka, what is published, what is put aside.

use std::sync::OnceLock;
use std::time::Duration;

use otmechalka::{Call, ClientBody, Error, ErrorClass, TicketBody};
use runtime::{
    Broker, BrokerError, Bucket, Delivery, Handler, Outgoing, PublishError, Verdict, faults, outside,
};
use schemas::problem::{ClientAbsence, SUCCESS, status_text};
use schemas::streams::ACK_WAIT;
use schemas::{
    Answered, Checkpoint, Client, Entity, Envelope, EnvelopeError, Mapping, Outcome, Problem, RecordId,
    RecordProcessed, RecordRef, Ticket, Version, subjects,
};

use crate::body::{client_body, digest, ticket_body};
use crate::claims::{Claim, Claims, Held, Taken};
use crate::coming::{Traces, client_is_coming};
use crate::far_side::Kind;
use crate::fence::{Settled, Standing, standing};
use crate::gate::{Advice, Gate, Permit, Shut};
use crate::late::Late;
use crate::locks::Locks;
use crate::metrics::PusherMetrics;
use crate::pause::Pauses;
use crate::store::{Command, Store};
use crate::task::{Failures, Task, sent_again};
use crate::waiting::Waiting;

/// A moment by the portal's clock.
type Moment = chrono::DateTime<chrono::FixedOffset>;

/// Who speaks in the results.
const SOURCE: &str = "/rollcall/pusher";

/// How soon a message may come again that this process had to give back.
const GIVEN_BACK: Duration = Duration::from_millis(100);

/// How soon one may come again that is with somebody else by now. Longer than the other one's next report of
/// progress, which takes the place of this delay.
const LET_GO: Duration = ACK_WAIT.saturating_mul(2);

/// Longest time that a message is held without a break. A delivery that ends is not counted among those whose
/// process died over them, so an outage with several power cuts in it makes no dead letter.
const HOLD: Duration = Duration::from_secs(20);

/// Longest wait for another replica that is about to create the same record, before the command is put aside.
const CLAIM_WAIT: Duration = Duration::from_secs(2);

/// How long what was asked for before the work on a command may be believed. Later the work has waited for otmechalka, and
/// what it waited with may be with somebody else, and long settled there. After a wait for another replica it is not believed
/// at all.
const FRESH: Duration = Duration::from_secs(1);

/// Pause between two looks whether it is done: the first, and the longest.
const CLAIM_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_CLAIM_PAUSE: Duration = Duration::from_millis(400);

/// Works on commands, of all partitions.
pub struct Push {
    pub(crate) broker: Broker,
    pub(crate) otmechalka: otmechalka::Client,
    pub(crate) gate: Gate,
    pub(crate) pauses: Pauses,
    pub(crate) store: Store,
    pub(crate) waiting: Waiting,
    pub(crate) claims: Claims,
    pub(crate) late: Late,
    pub(crate) checkpoints: Bucket,
    pub(crate) locks: Locks,
    pub(crate) metrics: PusherMetrics,
}

/// Why a command ends without a result.
#[derive(Debug)]
enum Halt {
    /// It comes again by itself.
    GiveBack(&'static str),
    /// It is with somebody else by now.
    LetGo,
    /// Somebody else settled it meanwhile, or a newer version.
    Settled,
    /// No code can read it.
    Dead(String),
    /// It is put aside and comes again at its time.
    Parked,
    /// A newer version is still to be worked on and speaks for it.
    Skip,
}

/// Why a call has no result.
#[derive(Debug)]
enum Setback {
    /// It failed.
    Failed(Kind, Error),
    /// The message is with somebody else by now.
    Lost,
    /// Somebody else settled it meanwhile, or a newer version.
    Settled,
    /// Another replica is about to create the record, or a try before this one may be, for so long.
    Claimed(Duration),
    /// The stage is stopping.
    Stopping,
}

impl From<BrokerError> for Setback {
    fn from(_: BrokerError) -> Setback {
        Setback::Stopping
    }
}

/// How a version ended.
#[derive(Debug)]
struct Ending {
    outcome: Outcome,
    problems: Vec<Problem>,
    target_id: Option<String>,
    body_digest: Option<String>,
    /// What otmechalka said where it did not take the record.
    answered: Option<Answered>,
    /// otmechalka was changed.
    wrote: bool,
    /// A try before this end may have changed otmechalka unseen.
    is_uncertain: bool,
    /// otmechalka was found not to hold the record, whatever is remembered.
    is_absent: bool,
    /// It follows from what was remembered; where that proves old, it has to be found anew.
    from_memory: bool,
    /// Under which the record was created: nobody else may think that it is absent before the result is stored.
    claim: Option<Box<Claim>>,
}

/// What calling came to.
enum Tried {
    Ended(Ending),
    /// otmechalka does not know the client of the ticket, or the ticket that was looked up.
    Absent,
}

/// What is asked of otmechalka.
enum Work<'b> {
    Client {
        body: &'b ClientBody,
        digest: &'b str,
        is_known: bool,
    },
    Ticket {
        body: &'b TicketBody,
        client_is_known: bool,
    },
    /// Whether it holds a record of which nothing is to be sent.
    Lookup,
}

/// Leave to call, for one command.
struct Turn<'t> {
    task: &'t Task<'t>,
    permit: Permit<'t>,
    /// When the work on it began, and its newest result had just been asked for.
    begun: tokio::time::Instant,
    /// Id of the client that a lookup found, which is there also where its update is refused.
    found: OnceLock<String>,
}

impl Ending {
    fn with(outcome: Outcome) -> Ending {
        Ending {
            outcome,
            problems: Vec::new(),
            target_id: None,
            body_digest: None,
            answered: None,
            wrote: false,
            is_uncertain: false,
            is_absent: false,
            from_memory: false,
            claim: None,
        }
    }

    fn refused(problems: Vec<Problem>) -> Ending {
        Ending { problems, ..Ending::with(Outcome::Refused) }
    }

    fn wrote(outcome: Outcome, target_id: Option<String>, body_digest: Option<&str>) -> Ending {
        Ending {
            target_id,
            body_digest: body_digest.map(str::to_owned),
            wrote: true,
            ..Ending::with(outcome)
        }
    }

    fn from_memory(outcome: Outcome) -> Ending {
        Ending { from_memory: true, ..Ending::with(outcome) }
    }
}

impl Tried {
    /// Keeps the claim until the result is stored.
    fn under(self, claim: Claim) -> Tried {
        match self {
            Tried::Ended(ending) => Tried::Ended(Ending { claim: Some(Box::new(claim)), ..ending }),
            Tried::Absent => Tried::Absent,
        }
    }
}

impl From<BrokerError> for Halt {
    fn from(_: BrokerError) -> Halt {
        Halt::GiveBack("the stage is stopping")
    }
}

impl From<EnvelopeError> for Halt {
    fn from(error: EnvelopeError) -> Halt {
        Halt::Dead(error.to_string())
    }
}

impl Handler for Push {
    async fn handle(&self, delivery: &Delivery) -> Verdict {
        match self.process(delivery).await {
            Ok(()) | Err(Halt::Skip | Halt::Parked | Halt::Settled) => Verdict::Done(Vec::new()),
            Err(Halt::GiveBack(reason)) => Verdict::Retry { after: GIVEN_BACK, reason: reason.to_owned() },
            Err(Halt::LetGo) => {
                Verdict::Retry { after: LET_GO, reason: "it is with somebody else by now".to_owned() }
            }
            Err(Halt::Dead(reason)) => Verdict::DeadLetter { reason },
        }
    }
}

impl Push {
    async fn process(&self, delivery: &Delivery) -> Result<(), Halt> {
        let task = Task::read(delivery)?;
        let _held = match faults::is_planted("two-versions-in-flight") {
            true => None,
            false => Some(self.locks.lock(task.record).await),
        };
        // Asked of the stream even on a first delivery: a process that stood still may have been handed this one meanwhile,
        // and take it for fresh when another one has long settled a newer version.
        let mut last = self.store.refresh(task.record).await?;
        if standing(task.version, last.as_ref()) == Standing::Newer {
            self.skip_if_overtaken(&task).await?;
        }
        loop {
            match standing(task.version, last.as_ref()) {
                Standing::Superseded => {
                    let id = task.record.id;
                    tracing::debug!(record.id = %id, "Left out a version of {} that is superseded", task.record);
                    return Ok(());
                }
                Standing::Settled => return self.release_tickets(task.record, last.as_ref()).await,
                Standing::Newer => {}
            }
            let is_client = matches!(task.mapped.mapping, Mapping::Client(_));
            if is_client && faults::is_planted("success-before-answer") {
                self.settle(&task, last.clone(), &Ending::with(Outcome::Created)).await?;
            }
            let mut ending = match self.work_on(&task, last.as_ref()).await {
                Err(Halt::Settled) => {
                    last = self.store.refresh(task.record).await?;
                    continue;
                }
                ending => ending?,
            };
            last = self.settle(&task, last, &ending).await?;
            if let Some(claim) = ending.claim.take() {
                self.claims.give_back(*claim).await;
            }
        }
    }

    /// Leaves a message alone that comes back from waiting where a newer version was tried meanwhile: that one
    /// may have had an effect already that nobody saw.
    async fn skip_if_overtaken(&self, task: &Task<'_>) -> Result<(), Halt> {
        let Some(pupil) = task.pupil().filter(|_| task.envelope.attempt > 0) else { return Ok(()) };
        let rivals = self.store.rivals(pupil, task.record, task.delivery.sequence()).await?;
        match rivals.overtake(task.version) {
            true => Err(Halt::Skip),
            false => Ok(()),
        }
    }

    async fn work_on(&self, task: &Task<'_>, last: Option<&Settled>) -> Result<Ending, Halt> {
        match &task.mapped.mapping {
            Mapping::OutOfScope if is_ticket_there(task, last) => {
                Ok(Ending::from_memory(Outcome::AlreadyThere))
            }
            Mapping::OutOfScope => self.without_call(task, Ending::with(Outcome::OutOfScope), last).await,
            Mapping::Refused(problems) if task.record.entity == Entity::Deal => {
                self.refuse_deal(task, Ending::refused(problems.clone()), last).await
            }
            Mapping::Refused(problems) => {
                self.without_call(task, Ending::refused(problems.clone()), last).await
            }
            Mapping::Client(client) => self.push_client(task, client, last).await,
            Mapping::Ticket(ticket) => self.push_ticket(task, ticket, last).await,
        }
    }

    /// Ends a version of which nothing is sent. An earlier one that comes again is superseded by it, and may
    /// have changed otmechalka unseen.
    async fn without_call(
        &self,
        task: &Task<'_>,
        ending: Ending,
        last: Option<&Settled>,
    ) -> Result<Ending, Halt> {
        if task.record.entity != Entity::Contact {
            return Ok(ending);
        }
        if last.is_some_and(|last| last.body_digest.is_some()) {
            // Nor is a version believed that is sent round again because something may have been written over it.
            let is_uncertain = task.version.redrive > 0 || self.has_tried_rivals(task).await?;
            return Ok(Ending { is_uncertain, ..ending });
        }
        if last.is_some_and(Settled::is_in_otmechalka) {
            return Ok(ending);
        }
        // Where the result is forgotten, only otmechalka knows whether it got the client before.
        let is_forgotten = last.is_none() && task.shows_status() && ending.outcome == Outcome::Refused;
        if !is_forgotten && !self.claims.are_held(task.record).await? {
            return Ok(ending);
        }
        // Its tickets may go where the client is, whatever became of the contact since.
        match self.call(task, &Work::Lookup).await? {
            Tried::Ended(found) if found.outcome == Outcome::AlreadyThere => {
                Ok(Ending { target_id: found.target_id, ..ending })
            }
            _ => Ok(ending),
        }
    }

    /// Refuses a deal whose ticket is not there yet: a ticket that otmechalka holds is left alone, so nobody
    /// has to correct the deal any more.
    ///
    /// otmechalka is asked only where the memory does not say and the deal may have been settled before: it
    /// shows a status and its result is forgotten, a try of an earlier version may have arrived unseen, or
    /// somebody wants what is remembered checked. A new deal costs no call.
    async fn refuse_deal(
        &self,
        task: &Task<'_>,
        refused: Ending,
        last: Option<&Settled>,
    ) -> Result<Ending, Halt> {
        let is_to_be_checked = match last {
            Some(_) if is_ticket_there(task, last) && task.trusts_memory() => {
                return Ok(Ending::from_memory(Outcome::AlreadyThere));
            }
            Some(last) if last.is_in_otmechalka() => true,
            None if task.shows_status() => true,
            _ if task.version.redrive > 0 => true,
            _ => self.may_have_arrived(task).await?,
        };
        if !is_to_be_checked {
            return Ok(refused);
        }
        match self.call(task, &Work::Lookup).await? {
            Tried::Ended(ending) if ending.outcome == Outcome::AlreadyThere => Ok(ending),
            Tried::Ended(_) => Ok(refused),
            Tried::Absent => Ok(Ending { is_absent: true, ..refused }),
        }
    }

    /// Tells whether an earlier version, of this pupil or another, may have had an effect that nobody saw.
    async fn may_have_arrived(&self, task: &Task<'_>) -> Result<bool, Halt> {
        if self.claims.are_held(task.record).await? {
            return Ok(true);
        }
        let Some(pupil) = task.pupil() else { return Ok(false) };
        let rivals = self.store.rivals(pupil, task.record, task.delivery.sequence()).await?;
        Ok(!rivals.are_untried())
    }

    /// Tells whether another version of a contact may have changed the client unseen.
    async fn has_tried_rivals(&self, task: &Task<'_>) -> Result<bool, Halt> {
        if task.record.entity != Entity::Contact {
            return Ok(false);
        }
        let rivals = self.store.rivals(task.record.id, task.record, task.delivery.sequence()).await?;
        Ok(!rivals.are_untried())
    }

    async fn push_client(
        &self,
        task: &Task<'_>,
        client: &Client,
        last: Option<&Settled>,
    ) -> Result<Ending, Halt> {
        let body = client_body(task.record.id, client);
        let digest = digest(&body);
        let is_same = last.is_some_and(|last| last.body_digest.as_deref() == Some(&digest));
        // An earlier version that comes again may have changed the client unseen.
        if is_same && task.trusts_memory() && !self.has_tried_rivals(task).await? {
            return Ok(Ending::from_memory(Outcome::Unchanged));
        }
        let is_known = last.is_some_and(Settled::is_in_otmechalka);
        match self.call(task, &Work::Client { body: &body, digest: &digest, is_known }).await? {
            Tried::Ended(ending) => Ok(ending),
            Tried::Absent => Err(Halt::GiveBack("a client has no client of its own")),
        }
    }

    async fn push_ticket(
        &self,
        task: &Task<'_>,
        ticket: &Ticket,
        last: Option<&Settled>,
    ) -> Result<Ending, Halt> {
        if task.trusts_memory() && last.is_some_and(Settled::is_in_otmechalka) {
            return Ok(Ending::from_memory(Outcome::AlreadyThere));
        }
        let contact = RecordRef::contact(ticket.client_origin_id);
        let client_is_known = self.store.last(contact).await?.is_some_and(|last| last.is_in_otmechalka());
        let body = ticket_body(task.record.id, ticket);
        match self.call(task, &Work::Ticket { body: &body, client_is_known }).await? {
            Tried::Ended(ending) => Ok(ending),
            Tried::Absent => self.without_client(task, contact).await,
        }
    }

    /// Has a ticket wait for its client while that is on its way, and refuses it otherwise.
    async fn without_client(&self, task: &Task<'_>, contact: RecordRef) -> Result<Ending, Halt> {
        let (now, pupil, deal) = (outside::now(), contact.id, task.record.id);
        let last = self.store.refresh(contact).await?;
        let traces = Traces {
            raw_sequence: self.store.live_raw_version(contact, now).await?,
            settled_raw_sequence: last.as_ref().map(|last| last.version().raw_sequence),
            contacts_read_until: self.contacts_read_until(task.mapped.shown.observed).await?,
        };
        if client_is_coming(traces, task.mapped.shown.observed) {
            let pause = self.pauses.for_client(task.envelope.attempt);
            tracing::debug!(deal.id = %deal, contact.id = %pupil, "Ticket {deal} waits for its client {pupil}");
            let absent = Answered { call: "get_client".into(), kind: "not_found".into(), status: Some(404) };
            return Err(self.park(task, pupil, task.failures, Some(&absent), pause).await?);
        }
        // Before the result: what is refused for want of a client must be found when the client comes.
        self.waiting.add(pupil, deal, &subjects::command(pupil, task.record)).await?;
        let absence = absence(last.map(|last| last.outcome));
        Ok(Ending { is_absent: true, ..Ending::refused(vec![Problem::client_missing(pupil, absence)]) })
    }

    async fn contacts_read_until(&self, observed: Moment) -> Result<Option<Moment>, Halt> {
        let stored = self.checkpoints.get(Entity::Contact.token()).await?;
        let checkpoint = stored.and_then(|(bytes, _)| serde_json::from_slice::<Checkpoint>(&bytes).ok());
        Ok(checkpoint.map(|checkpoint| checkpoint.read_until(observed)))
    }

    /// Calls otmechalka until it has answered about the record itself.
    async fn call(&self, task: &Task<'_>, work: &Work<'_>) -> Result<Tried, Halt> {
        let held = tokio::time::Instant::now();
        let mut had_unknown_outcome = false;
        let mut is_fresh = task.envelope.attempt == 0;
        loop {
            if self.gate.is_closed() {
                task.delivery.not_to_blame().await?;
            }
            let permit = match self.gate.admit(is_fresh, self.broker.stopping(), held + HOLD).await {
                Ok(permit) => permit,
                Err(Shut::Late) => return Err(Halt::GiveBack("otmechalka is unwell")),
                Err(Shut::Stopping) => return Err(Halt::GiveBack("the stage is stopping")),
            };
            let turn = Turn { task, permit, begun: held, found: OnceLock::new() };
            let tried = match work {
                Work::Client { body, digest, is_known } => {
                    self.try_client(&turn, body, digest, *is_known).await
                }
                Work::Ticket { body, client_is_known } => {
                    self.try_ticket(&turn, body, *client_is_known).await
                }
                Work::Lookup => self.look_under_claim(&turn).await,
            };
            let (kind, error) = match tried {
                Ok(tried) => return Ok(tried),
                Err(Setback::Lost) => return Err(Halt::LetGo),
                Err(Setback::Settled) => return Err(Halt::Settled),
                Err(Setback::Stopping) => return Err(Halt::GiveBack("the stage is stopping")),
                Err(Setback::Claimed(left)) => {
                    drop(turn);
                    return Err(self.wait_for_claimant(task, left).await?);
                }
                Err(Setback::Failed(kind, error)) => (kind, error),
            };
            // A lookup says nothing of the record that could be refused: what is refused there is the call.
            if let (Kind::Write, ErrorClass::Refused { text, fields }) = (kind, error.class()) {
                self.gate.answered(kind);
                let problem = if is_about_visitor_limit(&error) {
                    Problem::client_limit()
                } else {
                    Problem::refused_by_otmechalka(&text, &fields)
                };
                let is_uncertain =
                    had_unknown_outcome || !task.is_first_try() || self.has_tried_rivals(task).await?;
                let (answered, target_id) = (answered(&error), turn.found.get().cloned());
                return Ok(Tried::Ended(Ending {
                    is_uncertain,
                    answered,
                    target_id,
                    ..Ending::refused(vec![problem])
                }));
            }
            had_unknown_outcome |= error.outcome_unknown();
            is_fresh = false;
            if kind == Kind::Write && error.may_be_under_way() && matches!(work, Work::Client { .. }) {
                self.late.note(task.record, task.version);
            }
            let advice = self.gate.judge(task.record, &turn.permit, kind, &error).await;
            drop(turn);
            if let Some(ending) = self.follow(task, advice, &error).await? {
                return Ok(Tried::Ended(ending));
            }
        }
    }

    /// Does what is advised after a failed call; `None` is to try again at once.
    async fn follow(&self, task: &Task<'_>, advice: Advice, error: &Error) -> Result<Option<Ending>, Halt> {
        let record = task.record;
        // A deal without a pupil, which is only looked up, travels by its own id.
        let pupil = task.pupil().unwrap_or(record.id);
        match advice {
            Advice::Hold => {
                tracing::debug!(record.id = %record.id, "Holding {record}: {error}");
                Ok(None)
            }
            Advice::StepAside => {
                tracing::debug!(record.id = %record.id, "Trying others before {record}: {error}");
                let (answered, pause) = (answered(error), self.pauses.in_outage());
                Err(self.park(task, pupil, task.failures, answered.as_ref(), pause).await?)
            }
            Advice::Count => {
                // By the server's clock: hosts' may differ, and be set back.
                let now = self.claims.server_time().await?;
                let since_first = task.failures.first.and_then(|first| (now - first).to_std().ok());
                let is_its_own = since_first.is_some_and(|since| self.gate.took_others_within(since));
                let failures = task.failures.and_now(now, is_its_own);
                if failures.are_enough() {
                    tracing::error!(record.id = %record.id, "otmechalka fails on {record} alone, {} times: {error}", failures.count);
                    let problem = Problem::otmechalka_keeps_failing();
                    return Ok(Some(Ending {
                        is_uncertain: true,
                        answered: answered(error),
                        ..Ending::refused(vec![problem])
                    }));
                }
                tracing::warn!(record.id = %record.id, "otmechalka fails on {record} alone; trying it again later: {error}");
                let pause = self.pauses.for_sick_record(failures.count);
                Err(self.park(task, pupil, failures, answered(error).as_ref(), pause).await?)
            }
        }
    }

    /// Puts a command aside for a while; gives why the work on it ends.
    ///
    /// There is room for one waiting version of a record, and an older one must not take the place of a newer,
    /// not even when this process slept between looking and publishing.
    async fn park(
        &self,
        task: &Task<'_>,
        pupil: RecordId,
        failures: Failures,
        answered: Option<&Answered>,
        pause: Duration,
    ) -> Result<Halt, Halt> {
        // The server brings it back, by its own clock.
        let due = self.claims.server_time().await? + pause;
        loop {
            let rivals = self.store.rivals(pupil, task.record, task.delivery.sequence()).await?;
            if rivals.overtake(task.version) {
                return Ok(Halt::Skip);
            }
            let message = task
                .parked(pupil, failures, answered, due)?
                .expecting_last(rivals.parked.map_or(0, |parked| parked.sequence));
            match self.broker.publish(&message).await {
                Ok(_) => {
                    self.metrics.note_parked();
                    return Ok(Halt::Parked);
                }
                Err(PublishError::NotLast) => {}
                Err(PublishError::Stopping) => return Err(Halt::GiveBack("the stage is stopping")),
                Err(error @ PublishError::TooBig { .. }) => return Err(Halt::Dead(error.to_string())),
            }
        }
    }

    async fn try_client(
        &self,
        turn: &Turn<'_>,
        body: &ClientBody,
        digest: &str,
        is_known: bool,
    ) -> Result<Tried, Setback> {
        let id = &body.origin_id;
        let mut missing = None;
        if is_known {
            match self.ask(turn, Call::UpdateClient, self.otmechalka.update_client(id, body)).await {
                Ok(updated) => {
                    return Ok(Tried::Ended(Ending::wrote(Outcome::Updated, updated.id, Some(digest))));
                }
                Err(Setback::Failed(_, error @ Error::NotFound { .. })) => missing = Some(error),
                Err(setback) => return Err(setback),
            }
        }
        let mut claim = self.claim(turn.task).await?;
        let tried = self.look_for_client(turn, &mut claim, body, digest, missing).await;
        self.done_with(claim, tried).await
    }

    async fn look_for_client(
        &self,
        turn: &Turn<'_>,
        claim: &mut Claim,
        body: &ClientBody,
        digest: &str,
        missing: Option<Error>,
    ) -> Result<Tried, Setback> {
        let id = &body.origin_id;
        let found = match faults::is_planted("create-without-looking") {
            true => None,
            false => self.ask(turn, Call::GetClient, self.otmechalka.get_client(id)).await?,
        };
        let ending = match (found, missing) {
            // It cannot be updated and can be looked up: not a place to create a second one.
            (Some(_), Some(error)) => return Err(Setback::Failed(Kind::Write, error)),
            (Some(found), None) => {
                // What it may have been kept for is known.
                claim.was_held = false;
                if let Some(id) = &found.id {
                    let _only_once = turn.found.set(id.clone());
                }
                let updated =
                    self.ask(turn, Call::UpdateClient, self.otmechalka.update_client(id, body)).await?;
                Ending::wrote(Outcome::Updated, updated.id.or(found.id), Some(digest))
            }
            (None, _) => {
                faults::crash_point("before-create");
                let created =
                    self.create(turn, claim, Call::CreateClient, self.otmechalka.create_client(body)).await?;
                faults::crash_point("create-answered");
                Ending::wrote(Outcome::Created, created.id, Some(digest))
            }
        };
        Ok(Tried::Ended(ending))
    }

    /// Ends a lookup, and the create that followed it, during which nobody else did so for the same record: what the lookup
    /// did not find nobody was about to create.
    async fn done_with(&self, claim: Claim, tried: Result<Tried, Setback>) -> Result<Tried, Setback> {
        let is_known = match &tried {
            // Until its result is stored nobody else may think that it is absent.
            Ok(Tried::Ended(_)) if claim.has_begun => {
                return tried.map(|tried| tried.under(claim));
            }
            Ok(_) => true,
            Err(Setback::Failed(Kind::Write, error)) if claim.has_begun => !error.outcome_unknown(),
            // Nothing was learned of what the claim was kept for.
            Err(_) => !claim.was_held,
        };
        // It may still be carried out: no other partition may look and create before it is known.
        if is_known {
            self.claims.give_back(claim).await;
            return tried;
        }
        let may_be_under_way = match &tried {
            Err(Setback::Failed(Kind::Write, error)) => claim.has_begun && error.may_be_under_way(),
            _ => claim.has_begun,
        };
        if !may_be_under_way {
            self.claims.note_over(claim).await;
        }
        tried
    }

    async fn claim(&self, task: &Task<'_>) -> Result<Claim, Setback> {
        let deadline = tokio::time::Instant::now() + CLAIM_WAIT;
        let (mut has_waited, mut pause) = (false, CLAIM_PAUSE);
        loop {
            let left = match self.claims.take(task.record).await? {
                Taken::Claim(claim) if has_waited && !self.is_unsettled(task).await? => {
                    if !claim.was_held {
                        self.claims.give_back(claim).await;
                    }
                    return Err(Setback::Settled);
                }
                Taken::Claim(claim) => return Ok(claim),
                Taken::Busy(left) => left,
            };
            has_waited = true;
            if tokio::time::Instant::now() >= deadline {
                return Err(Setback::Claimed(left));
            }
            self.broker.pause(pause).await?;
            pause = (pause * 2).min(LONGEST_CLAIM_PAUSE);
        }
    }

    /// Puts a command aside while another version of its record is about to be created.
    async fn wait_for_claimant(&self, task: &Task<'_>, left: Duration) -> Result<Halt, Halt> {
        // A deal without a pupil travels by its own id.
        let pupil = task.pupil().unwrap_or(task.record.id);
        tracing::debug!("Another replica is about to create {}", task.record);
        // Mostly it is done with sooner.
        let pause = self.pauses.for_client(task.envelope.attempt).min(left);
        self.park(task, pupil, task.failures, None, pause).await
    }

    async fn look_under_claim(&self, turn: &Turn<'_>) -> Result<Tried, Setback> {
        let claim = self.claim(turn.task).await?;
        let tried = self.try_lookup(turn).await;
        self.done_with(claim, tried).await
    }

    async fn try_lookup(&self, turn: &Turn<'_>) -> Result<Tried, Setback> {
        let RecordRef { entity, id } = turn.task.record;
        let id = id.to_string();
        let found = match entity {
            Entity::Contact => self.ask(turn, Call::GetClient, self.otmechalka.get_client(&id)).await?,
            Entity::Deal => self.ask(turn, Call::GetTicket, self.otmechalka.get_ticket(&id)).await?,
        };
        Ok(found.map_or(Tried::Absent, |found| {
            Tried::Ended(Ending { target_id: found.id, ..Ending::with(Outcome::AlreadyThere) })
        }))
    }

    async fn try_ticket(
        &self,
        turn: &Turn<'_>,
        body: &TicketBody,
        client_is_known: bool,
    ) -> Result<Tried, Setback> {
        let mut claim = self.claim(turn.task).await?;
        let tried = self.look_for_ticket(turn, &mut claim, body, client_is_known).await;
        self.done_with(claim, tried).await
    }

    async fn look_for_ticket(
        &self,
        turn: &Turn<'_>,
        claim: &mut Claim,
        body: &TicketBody,
        client_is_known: bool,
    ) -> Result<Tried, Setback> {
        if let found @ Tried::Ended(_) = self.try_lookup(turn).await? {
            return Ok(found);
        }
        let client = &body.client_origin_id;
        if !client_is_known
            && self.ask(turn, Call::GetClient, self.otmechalka.get_client(client)).await?.is_none()
        {
            return Ok(Tried::Absent);
        }
        faults::crash_point("before-ticket");
        match self.create(turn, claim, Call::CreateTicket, self.otmechalka.create_ticket(body)).await {
            Ok(created) => {
                faults::crash_point("ticket-answered");
                Ok(Tried::Ended(Ending::wrote(Outcome::Created, created.id, None)))
            }
            Err(Setback::Failed(kind, error)) if client_is_known && may_mean_client(&error) => {
                // Somebody deleted the client there: what is remembered of it is no longer true.
                match self.ask(turn, Call::GetClient, self.otmechalka.get_client(client)).await? {
                    Some(_) => Err(Setback::Failed(kind, error)),
                    None => Ok(Tried::Absent),
                }
            }
            Err(setback) => Err(setback),
        }
    }

    /// Makes one call, if the message is still ours.
    async fn ask<T>(
        &self,
        turn: &Turn<'_>,
        call: Call,
        calling: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Setback> {
        self.see_whether_ours(turn, call).await?;
        self.answer_of(turn, call, calling).await
    }

    /// Makes one create, if the message and the claim are still ours.
    async fn create<T>(
        &self,
        turn: &Turn<'_>,
        claim: &mut Claim,
        call: Call,
        calling: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Setback> {
        self.see_whether_ours(turn, call).await?;
        match self.claims.hold(claim).await? {
            Held::Still => self.answer_of(turn, call, calling).await,
            Held::Elsewhere => Err(Setback::Lost),
            Held::Unknown => Err(Setback::Claimed(LET_GO)),
        }
    }

    async fn see_whether_ours(&self, turn: &Turn<'_>, call: Call) -> Result<(), Setback> {
        let task = turn.task;
        if !task.delivery.is_still_ours() {
            return Err(Setback::Lost);
        }
        // One that was delivered before may be with somebody else, who only stood still and goes on this very moment.
        let may_be_old = turn.begun.elapsed() >= FRESH || task.delivery.deliveries > 1;
        if call.is_write() && may_be_old && !self.is_unsettled(task).await? {
            return Err(Setback::Settled);
        }
        Ok(())
    }

    /// Asks the stream whether nobody has settled this version or a newer one.
    async fn is_unsettled(&self, task: &Task<'_>) -> Result<bool, Setback> {
        let last = self.store.refresh(task.record).await?;
        Ok(standing(task.version, last.as_ref()) == Standing::Newer)
    }

    async fn answer_of<T>(
        &self,
        turn: &Turn<'_>,
        call: Call,
        calling: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Setback> {
        match calling.await {
            Ok(answer) => {
                self.gate.worked(turn.task.record, call);
                Ok(answer)
            }
            Err(error) => Err(Setback::Failed(Kind::of(call), error)),
        }
    }

    /// Publishes a result behind the one it was made with. Returns the newest result of the record after
    /// that, which is another one than the task's where the work has to be looked at anew.
    async fn settle(
        &self,
        task: &Task<'_>,
        mut last: Option<Settled>,
        ending: &Ending,
    ) -> Result<Option<Settled>, Halt> {
        let mut behind = last.as_ref().map_or(0, |last| last.sequence);
        let wrote_client = ending.wrote && task.record.entity == Entity::Contact;
        let mut was_beside_another = false;
        // Nobody else's: on three servers a known id is taken for stored whatever stands behind the predecessor by now, and
        // another process has to learn that.
        let attempt = outside::token();
        loop {
            let (message, result) = self.result(task, last.as_ref(), behind, ending, attempt)?;
            match self.broker.publish(&message).await {
                Ok(published) => {
                    let settled = Settled::of(published.sequence, &result.0, &result.1);
                    if let Some(settled) = &settled {
                        self.store.remember(task.record, settled);
                    }
                    self.metrics.note_end(task.record.entity, ending.outcome, &ending.problems);
                    tell(task.record, ending);
                    if was_beside_another {
                        self.repair(task).await?;
                    }
                    return Ok(settled);
                }
                Err(PublishError::NotLast) => {}
                Err(PublishError::Stopping) => return Err(Halt::GiveBack("the stage is stopping")),
                Err(error @ PublishError::TooBig { .. }) => return Err(Halt::Dead(error.to_string())),
            }
            let newest = self.store.newest_result(task.record).await?;
            (behind, last) = (newest.sequence, newest.settled);
            match standing(task.version, last.as_ref()) {
                Standing::Settled => {
                    // By somebody else at the same time, who may have gone on to a newer version before our call arrived.
                    if wrote_client {
                        self.repair_newer(task.record, task.record.id, task.version).await?;
                    }
                    return Ok(last);
                }
                Standing::Superseded => {
                    if wrote_client {
                        self.repair(task).await?;
                    } else if ending.wrote {
                        // A newer version of the deal, with another pupil, did not see the ticket.
                        let pupil = newest.pupil.unwrap_or(task.record.id);
                        self.repair_newer(task.record, pupil, task.version).await?;
                    }
                    return Ok(last);
                }
                Standing::Newer if ending.from_memory => return Ok(last),
                // An older version was worked on at the same time, and its call may have arrived after ours.
                Standing::Newer => was_beside_another = wrote_client && last.is_some(),
            }
        }
    }

    fn result(
        &self,
        task: &Task<'_>,
        last: Option<&Settled>,
        behind: u64,
        ending: &Ending,
        attempt: u128,
    ) -> Result<(Outgoing, (Envelope, RecordProcessed)), Halt> {
        let envelope = Envelope { source: SOURCE.to_owned(), ..task.envelope.clone() };
        let status =
            if ending.outcome.is_success() { SUCCESS.to_owned() } else { status_text(&ending.problems) };
        let last = last.filter(|_| !ending.is_absent);
        // A refusal changes nothing in otmechalka, so what it holds is remembered across it.
        let remembered = last.filter(|_| !ending.is_uncertain).and_then(|last| last.body_digest.clone());
        let processed = RecordProcessed {
            outcome: ending.outcome,
            status,
            problems: ending.problems.clone(),
            target_id: ending.target_id.clone().or_else(|| last.and_then(|last| last.target_id.clone())),
            body_digest: ending.body_digest.clone().or(remembered),
            shown: task.mapped.shown.clone(),
        };
        let encoded = envelope.encode(&processed)?;
        let Version { raw_sequence, redrive } = task.version;
        let message_id = format!("res:{}:{raw_sequence}:{redrive}:{attempt:032x}", task.record);
        let mut message =
            Outgoing::new(subjects::result(task.record), encoded, message_id).expecting_last(behind);
        if let Some(answered) = &ending.answered {
            message = message.with_header(Answered::HEADER, answered.to_string());
        }
        Ok((message, (envelope, processed)))
    }

    /// Sends newer versions of clients round again where an older one may have come after them, until the stage is to stop.
    pub(crate) async fn repair_what_came_late(&self) -> Result<(), BrokerError> {
        let stopping = self.broker.stopping();
        while let Some((client, version)) = stopping.run_until_cancelled(self.late.next()).await {
            match self.repair_newer(client, client.id, version).await {
                Ok(()) => {}
                Err(Halt::GiveBack(_)) => return Err(BrokerError::Stopping),
                // A command that cannot be read has no newer version.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Sends the newest version of a client round again, over which a late call of ours may have written.
    async fn repair(&self, task: &Task<'_>) -> Result<(), Halt> {
        let subject = subjects::command(task.record.id, task.record);
        let Some(command) = self.store.newest_command(&subject).await? else { return Ok(()) };
        self.send_again(task.record, &subject, command).await
    }

    /// The same, where there is a newer version than one.
    async fn repair_newer(&self, record: RecordRef, pupil: RecordId, version: Version) -> Result<(), Halt> {
        let subject = subjects::command(pupil, record);
        match self.store.newest_command(&subject).await? {
            Some(command) if command.version > version => self.send_again(record, &subject, command).await,
            _ => Ok(()),
        }
    }

    async fn send_again(&self, record: RecordRef, subject: &str, command: Command) -> Result<(), Halt> {
        tracing::warn!(record.id = %record.id, "A late call may have come after a newer version of {record} was worked on; sending that again");
        let version = Version { redrive: command.version.redrive + 1, ..command.version };
        let message = sent_again("repair", subject, &command.envelope, &command.mapped, version)?;
        self.broker.publish(&message).await.map_err(|_| Halt::GiveBack("the stage is stopping"))?;
        Ok(())
    }

    async fn release_tickets(&self, record: RecordRef, last: Option<&Settled>) -> Result<(), Halt> {
        if record.entity == Entity::Contact && last.is_some_and(Settled::is_in_otmechalka) {
            self.waiting.release(record.id, &self.store).await?;
        }
        Ok(())
    }
}

/// Takes of a failed call what may be told of it.
fn answered(error: &Error) -> Option<Answered> {
    let (call, kind) = (error.call()?.token().to_owned(), error.kind().to_owned());
    Some(Answered { call, kind, status: error.status() })
}

/// Tells whether a deal is remembered to have its ticket.
fn is_ticket_there(task: &Task<'_>, last: Option<&Settled>) -> bool {
    task.record.entity == Entity::Deal && last.is_some_and(Settled::is_in_otmechalka)
}

/// Tells whether otmechalka refuses because it holds as many visitors as it may.
///
/// It has no code for that, only words, and no call that tells the number of visitors.
pub(crate) fn is_about_visitor_limit(error: &Error) -> bool {
    let Error::Refused { refusal, .. } = error else { return false };
    let text = refusal.text().to_lowercase();
    let names_visitors = ["посетител", "visitor"].iter().any(|word| text.contains(word));
    names_visitors
        && ["предел", "лимит", "огранич", "максим", "limit", "maxim"].iter().any(|word| text.contains(word))
}

/// Tells whether a refusal of a ticket may be about its client.
fn may_mean_client(error: &Error) -> bool {
    match error.class() {
        ErrorClass::NotFound => true,
        ErrorClass::Refused { fields, .. } => {
            fields.is_empty()
                || fields.iter().any(|(field, _)| field == "client_origin_id" || field == "client")
        }
        _ => false,
    }
}

/// Tells why otmechalka lacks a client, by the newest outcome of its contact.
fn absence(contact: Option<Outcome>) -> ClientAbsence {
    match contact {
        None => ClientAbsence::NotRead,
        Some(Outcome::OutOfScope) => ClientAbsence::OutOfScope,
        Some(outcome) if outcome.is_in_otmechalka() => ClientAbsence::Lost,
        Some(_) => ClientAbsence::Refused,
    }
}

fn tell(record: RecordRef, ending: &Ending) {
    let (id, outcome) = (record.id, ending.outcome);
    let codes: Vec<&str> = ending.problems.iter().map(|problem| problem.code.as_str()).collect();
    match record.entity {
        Entity::Contact => tracing::info!(contact.id = %id, ?outcome, ?codes, "Client {id}: {outcome:?}"),
        Entity::Deal => tracing::info!(deal.id = %id, ?outcome, ?codes, "Ticket {id}: {outcome:?}"),
    }
}
