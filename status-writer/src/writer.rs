//! The loop: takes outcomes in, starts rounds, learns from what came of them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bitrix24::{ErrorClass, Lane};
use futures::{StreamExt, stream};
use runtime::budget::{SharedBudget, Spending};
use runtime::{
    Broker, BrokerError, CancellationToken, Context, Delivery, Inbox, Leadership, Stage, Verdict, lease,
    letters, outside,
};
use schemas::problem::STATUS_MAX_CHARS;
use schemas::streams::{
    ACK_WAIT, ATTEMPTS, BUDGET, ConsumerDefinition, DEAD_LETTERS, LEASES, RESULTS, STATUSES,
    status_writer_consumer,
};
use schemas::{Entity, Outcome, RecordProcessed, RecordRef};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::StatusWriter;
use crate::allowance::{self, unless_stopped};
use crate::config::{Config, StatusFields};
use crate::decide::{Decision, LATEST_UPDATE, REMEMBERED_UNKEPT, Wanted};
use crate::desk::{ALONE, Desk, Displaced, Held, Picked, company};
use crate::field::{self, Unusable};
use crate::line::{Gate, Line, MINUTE, Word};
use crate::metrics::{self, WriterMetrics};
use crate::pace::MOST_IN_FLIGHT;
use crate::round::{AT_ONCE, Burials, Report, Round, Tools, Trouble, carry_out};
use crate::store::Store;

/// Most outcomes of an entity that are held; its consumer has no more in flight either.
const MOST_HELD: usize = 1_024;

/// Outcomes taken in at once.
const GULP: usize = 256;

/// Outcomes in sight above which a status is no answer to a single edit any more.
const BACKFILL_FROM: u64 = 200;

/// Largest answer that is read: the fields of a portal that has hundreds of them with long lists, and more. Several
/// requests are under way at once, and what an allocator was given for large bodies it keeps.
const LARGEST_ANSWER: usize = 4 << 20;

/// Longest wait for the answer to a question that spares a write at most.
const LONGEST_QUESTION: Duration = Duration::from_secs(5);

/// Panics over one record after which it is a dead letter.
const MOST_PANICS: u8 = 3;

/// Longest wait for rounds under way once the stage is to stop; the shell ends the process soon after.
const LAST_ROUNDS: Duration = Duration::from_secs(7);

/// Nothing is waited for longer without looking round.
const LONGEST_SLEEP: Duration = Duration::from_secs(3_600);

/// Works until the stage is to stop, while this replica is the one at work.
pub async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    let consumers = Entity::ALL.map(status_writer_consumer);
    let streams = [&RESULTS, &STATUSES, &DEAD_LETTERS];
    context.bind(&streams, &consumers, &[&BUDGET, &ATTEMPTS, &LEASES]).await?;
    let Context { broker, settings, stopping, .. } = context;
    let budget = SharedBudget::open(&broker, config.bucket).await?.behind_door().await?;
    let office = Office {
        // One for all the times at work: what it learned of the portal stays true.
        client: allowance::share(config.portal, budget).max_body_bytes(LARGEST_ANSWER).build()?,
        fields: config.fields,
        clock_speed: config.bucket.clock_speed,
        metrics: WriterMetrics::register(broker.metrics()),
        state_dir: settings.state_dir,
        broker: broker.clone(),
        stopping,
    };
    let _refresh = metrics::follow(broker.metrics(), office.client.clone());
    // In a set, so that it ends with this future.
    let mut notes = JoinSet::new();
    let asked = office.client.clone();
    let counts = move || metrics::counts(&asked);
    letters::keep_counting(&broker, StatusWriter::NAME);
    notes.spawn(Spending::keep_noting(broker.clone(), StatusWriter::NAME, config.bucket, counts));
    let state_dir = office.state_dir.clone();
    lease::lead(&broker, StatusWriter::NAME, &state_dir, |leadership| write(&office, leadership)).await
}

/// What outlasts a time at work.
struct Office {
    client: bitrix24::Client,
    fields: StatusFields,
    clock_speed: f64,
    metrics: WriterMetrics,
    state_dir: PathBuf,
    broker: Broker,
    stopping: CancellationToken,
}

async fn write(office: &Office, leadership: Leadership) -> anyhow::Result<()> {
    let Office { broker, stopping, .. } = office;
    let [contacts, deals] = Entity::ALL.map(status_writer_consumer);
    let settler = Arc::new(Inbox::bind(broker, StatusWriter::NAME, contacts.clone(), 1).await?);
    let tools = Arc::new(Tools {
        client: office.client.clone(),
        fields: office.fields.clone(),
        store: Store::open(broker, &office.state_dir).await?,
        settler,
        burials: Burials::default(),
        clock_speed: office.clock_speed,
        leadership,
    });
    // In a set, so that they end with this future.
    let mut readers = JoinSet::new();
    let mut incoming = Incoming {
        contacts: open(broker, contacts, &mut readers).await?,
        deals: open(broker, deals, &mut readers).await?,
        deals_are_next: false,
    };
    let mut writer = Writer::new(tools, office.metrics.clone(), Instant::now());
    loop {
        writer.start_what_is_due(Instant::now());
        writer.tell_held();
        let wake = writer.next_wake(Instant::now());
        let room = Entity::ALL.map(|entity| writer.has_room(entity));
        tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            Some(ended) = writer.tasks.join_next_with_id() => writer.note_end(ended).await,
            (entity, deliveries) = incoming.take(room) => {
                if deliveries.is_empty() {
                    break;
                }
                writer.take_in(entity, deliveries).await;
            }
            () = tokio::time::sleep_until(wake) => {}
        }
    }
    let left = incoming.close();
    writer.finish(left).await;
    while let Some(ended) = readers.join_next().await {
        anyhow::ensure!(ended.is_ok(), "the reader of a consumer failed");
    }
    Ok(())
}

/// What the consumers deliver, each entity by itself.
struct Incoming {
    contacts: mpsc::Receiver<Delivery>,
    deals: mpsc::Receiver<Delivery>,
    deals_are_next: bool,
}

impl Incoming {
    /// Waits for deliveries of an entity that has room. None at all come once its reader has ended.
    async fn take(&mut self, [contacts_have_room, deals_have_room]: [bool; 2]) -> (Entity, Vec<Delivery>) {
        let mut taken = Vec::new();
        // Who has just been served comes second.
        let order = if self.deals_are_next { [Entity::Deal, Entity::Contact] } else { Entity::ALL };
        for entity in order {
            let (receiver, has_room) = match entity {
                Entity::Contact => (&mut self.contacts, contacts_have_room),
                Entity::Deal => (&mut self.deals, deals_have_room),
            };
            while has_room
                && taken.len() < GULP
                && let Ok(delivery) = receiver.try_recv()
            {
                taken.push(delivery);
            }
            if !taken.is_empty() {
                self.deals_are_next = entity == Entity::Contact;
                return (entity, taken);
            }
        }
        let mut of_deals = Vec::new();
        tokio::select! {
            biased;
            _ = self.contacts.recv_many(&mut taken, GULP), if contacts_have_room => (Entity::Contact, taken),
            _ = self.deals.recv_many(&mut of_deals, GULP), if deals_have_room => (Entity::Deal, of_deals),
            else => std::future::pending().await,
        }
    }

    /// Ends the readers and returns what they had ready.
    fn close(&mut self) -> Vec<Delivery> {
        let mut left = Vec::new();
        for receiver in [&mut self.contacts, &mut self.deals] {
            receiver.close();
            while let Ok(delivery) = receiver.try_recv() {
                left.push(delivery);
            }
        }
        left
    }
}

async fn open(
    broker: &Broker,
    consumer: ConsumerDefinition,
    readers: &mut JoinSet<()>,
) -> Result<mpsc::Receiver<Delivery>, BrokerError> {
    let inbox = Inbox::bind(broker, StatusWriter::NAME, consumer, GULP).await?;
    let (sender, receiver) = mpsc::channel(GULP);
    readers.spawn(read(inbox, sender));
    Ok(receiver)
}

/// Reads deliveries in a task of its own, for waiting for one must not be broken off half-way.
async fn read(mut inbox: Inbox, sender: mpsc::Sender<Delivery>) {
    while let Some(delivery) = inbox.next().await {
        if sender.send(delivery).await.is_err() {
            break;
        }
    }
    inbox.drain().await;
}

/// What a task was about, should it panic.
enum Task {
    Check(Entity),
    Round(Entity, Vec<RecordRef>),
}

/// What a task ends with.
enum Ended {
    Check(Entity, Option<Result<Result<(), Unusable>, bitrix24::Error>>),
    Round(Box<Report>),
}

struct Writer {
    tools: Arc<Tools>,
    desk: Desk<Delivery>,
    lines: [Line; 2],
    tasks: JoinSet<Ended>,
    running: HashMap<tokio::task::Id, Task>,
    /// While set, the portal turns the webhook away, and is asked again at that time.
    refused_until: Option<Instant>,
    started: Instant,
    metrics: WriterMetrics,
}

impl Writer {
    fn new(tools: Arc<Tools>, metrics: WriterMetrics, now: Instant) -> Writer {
        Writer {
            desk: Desk::new(tools.real(MINUTE)),
            tools,
            lines: Entity::ALL.map(|_| Line::new(now)),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            refused_until: None,
            started: now,
            metrics,
        }
    }

    fn tell_held(&self) {
        Entity::ALL.into_iter().for_each(|entity| self.metrics.note_held(entity, self.desk.held(entity)));
        self.metrics.note_webhook(self.refused_until.is_some());
    }

    fn has_room(&self, entity: Entity) -> bool {
        self.desk.held(entity) < MOST_HELD
    }

    fn line(&mut self, entity: Entity) -> &mut Line {
        match entity {
            Entity::Contact => &mut self.lines[0],
            Entity::Deal => &mut self.lines[1],
        }
    }

    fn minute(&self) -> Duration {
        self.tools.real(MINUTE)
    }

    /// Returns the time since the start on the portal's clock.
    fn portal_time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started).mul_f64(self.tools.clock_speed)
    }
}

/// Taking outcomes in.
impl Writer {
    async fn take_in(&mut self, entity: Entity, deliveries: Vec<Delivery>) {
        self.line(entity).pending = deliveries.last().map_or(0, |delivery| delivery.pending);
        let (tools, desk) = (&self.tools, &self.desk);
        let prepared = deliveries.into_iter().map(|delivery| prepare(tools, desk, delivery));
        let prepared: Vec<Prepared> = stream::iter(prepared).buffer_unordered(AT_ONCE).collect().await;
        let mut ends = Vec::new();
        for prepared in prepared {
            match prepared {
                Prepared::Held { held, deaths } => {
                    if deaths > 0 {
                        self.desk.suspect(held.record(), company(deaths));
                    }
                    ends.extend(self.desk.insert(*held).and_then(end_of_older));
                }
                Prepared::Ended(end) => {
                    let given_up = end.0.record().filter(|record| self.desk.panics(*record) >= MOST_PANICS);
                    if let Some(record) = given_up {
                        self.desk.forgive(record);
                    }
                    ends.push(*end);
                }
                Prepared::Lost => {}
            }
        }
        self.tools.settle(ends).await;
    }
}

/// A newer version is held, so the older one may go; of two deliveries of one version only one is kept.
fn end_of_older(displaced: Displaced<Delivery>) -> Option<(Delivery, Verdict)> {
    match displaced {
        Displaced::Older(held) => Some((held.delivery, Verdict::Done(Vec::new()))),
        Displaced::Same(_) => None,
    }
}

enum Prepared {
    Held {
        held: Box<Held<Delivery>>,
        /// How often the process died over it before, or beside it.
        deaths: u64,
    },
    Ended(Box<(Delivery, Verdict)>),
    /// The stage is stopping.
    Lost,
}

impl Prepared {
    fn ended(delivery: Delivery, verdict: Verdict) -> Prepared {
        Prepared::Ended(Box::new((delivery, verdict)))
    }
}

/// Reads a delivery and looks its record's newest settled status up.
async fn prepare(tools: &Tools, desk: &Desk<Delivery>, delivery: Delivery) -> Prepared {
    let wanted = match read_outcome(&delivery) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return Prepared::ended(delivery, Verdict::Done(Vec::new())),
        Err(reason) => return Prepared::ended(delivery, Verdict::DeadLetter { reason }),
    };
    if desk.panics(wanted.envelope.record) >= MOST_PANICS {
        return Prepared::ended(delivery, Verdict::deadly());
    }
    let Ok(deaths) = tools.settler.deaths(&delivery).await else { return Prepared::Lost };
    let is_redelivered = delivery.deliveries > 1;
    let Some(mut held) = with_fence(tools, wanted, delivery).await else { return Prepared::Lost };
    if is_redelivered {
        held = held.redelivered();
    }
    if held.decide() == Decision::Superseded {
        return Prepared::ended(held.delivery, Verdict::Done(Vec::new()));
    }
    if is_redelivered {
        match is_behind_a_newer_one(tools, &held).await {
            Ok(true) => held.not_before = Instant::now() + ACK_WAIT,
            Ok(false) => {}
            Err(_) => return Prepared::Lost,
        }
    }
    Prepared::Held { held: Box::new(held), deaths }
}

/// Tells whether a redelivery has to wait for the delivery of a newer outcome, one that is not settled.
///
/// Whoever had it may have written the newer one and told nobody. That one is in hand here, or comes within the ack wait.
async fn is_behind_a_newer_one(tools: &Tools, held: &Held<Delivery>) -> Result<bool, BrokerError> {
    let asking = tools.store.newest_wanted(held.record());
    let Ok(newest) = tokio::time::timeout(LONGEST_QUESTION, asking).await else {
        tracing::warn!(
            "Nobody answers what the newest outcome of {} is. If that goes on although NATS is well, our user may not \
             read {}: run `rollcall credentials` and have NATS read its users again",
            held.record(),
            RESULTS.name
        );
        return Ok(true);
    };
    let known = held.newer_settled().map_or(held.wanted.version, |newer| newer.version);
    Ok(newest?.is_some_and(|newest| newest > known))
}

/// Asks the stream where the cache knows nothing or would leave something undone, and for redeliveries.
async fn with_fence(tools: &Tools, wanted: Wanted, delivery: Delivery) -> Option<Held<Delivery>> {
    let record = wanted.envelope.record;
    let now = Instant::now();
    let remembered = if delivery.deliveries > 1 { None } else { tools.store.remembered(record) };
    if let Some(fence) = remembered {
        let held = Held::new(wanted, delivery, fence, now);
        if held.decide() != Decision::Superseded {
            return Some(held);
        }
        let fence = tools.store.fence(record).await.ok()?;
        return Some(Held::new(held.wanted, held.delivery, fence, now));
    }
    let fence = tools.store.fence(record).await.ok()?;
    Some(Held::new(wanted, delivery, fence, now))
}

/// Reads an outcome; `None` for one that asks for nothing, an error for one that nobody can follow.
fn read_outcome(delivery: &Delivery) -> Result<Option<Wanted>, String> {
    let (envelope, processed) = delivery.decode::<RecordProcessed>().map_err(|error| error.to_string())?;
    if processed.outcome == Outcome::Superseded {
        return Ok(None);
    }
    let version = envelope.version.ok_or("the outcome has no version")?;
    let text: String = processed.status.chars().take(STATUS_MAX_CHARS).collect();
    if text.trim().is_empty() {
        // An empty field means "try again" to the producer, so writing it would never end.
        return Err("the outcome has no status text".into());
    }
    Ok(Some(Wanted { envelope, version, text, shown: processed.shown }))
}

/// Starting what is due.
impl Writer {
    fn start_what_is_due(&mut self, now: Instant) {
        for entity in Entity::ALL {
            self.start_check(entity, now);
        }
        if self.refused_until.is_some() {
            return;
        }
        // By turns, so that neither entity waits for the other.
        while self.rounds() < MOST_IN_FLIGHT {
            let mut order = Entity::ALL;
            order.sort_by_key(|entity| self.line(*entity).in_flight);
            if !order.into_iter().any(|entity| self.start_round(entity, now)) {
                break;
            }
        }
    }

    fn rounds(&self) -> usize {
        self.lines.iter().map(|line| line.in_flight).sum()
    }

    fn start_check(&mut self, entity: Entity, now: Instant) {
        let Gate::Check(at) = self.line(entity).gate else { return };
        let is_resting = self.line(entity).rest_until.is_some_and(|until| until > now);
        if at > now || is_resting || self.line(entity).is_checking {
            return;
        }
        if let Some(until) = self.refused_until {
            // One probe at a time for the whole portal.
            if until > now {
                return;
            }
            self.refused_until = Some(now + self.minute());
        }
        self.line(entity).is_checking = true;
        let tools = Arc::clone(&self.tools);
        let task = self.tasks.spawn(async move {
            let check = field::check(&tools.client, entity, tools.fields.of(entity));
            Ended::Check(entity, unless_stopped(check).await)
        });
        self.running.insert(task.id(), Task::Check(entity));
    }

    /// Starts a round for an entity if there is one to start; tells whether it did.
    fn start_round(&mut self, entity: Entity, now: Instant) -> bool {
        let line = self.line(entity);
        if line.rest_until.is_some_and(|until| until > now) || line.in_flight >= line.most_in_flight() {
            return false;
        }
        let (ready, first) = self.desk.ready(entity, now);
        let Some(first) = first else { return false };
        let Some(most) = self.affordable(entity, ready, now) else { return false };
        if ready < most && now < first + self.patience(entity, now) {
            return false;
        }
        let picked = match self.line(entity).gate {
            Gate::Trial => self.desk.pick_for_trial(entity, now),
            Gate::Open | Gate::Check(_) => self.desk.pick(entity, most, now),
        };
        if picked.is_empty() {
            return false;
        }
        self.spawn_round(entity, most, picked, now);
        true
    }

    fn patience(&mut self, entity: Entity, now: Instant) -> Duration {
        let portal_now = self.portal_time(now);
        let wait = self.line(entity).patience.wait(portal_now);
        self.tools.real(wait)
    }

    /// Returns how many updates may be sent now; puts the line to rest where it has no computing time.
    fn affordable(&mut self, entity: Entity, ready: usize, now: Instant) -> Option<usize> {
        let minute = self.minute();
        let most = self.line(entity).most_updates();
        let capacity = self.tools.client.capacity(&field::portal_entity(entity).method("update"));
        // Rounds just started have not reserved their share yet.
        let unreserved = self.records_away(entity).saturating_sub(capacity.commands_in_flight as usize);
        let room = (capacity.commands_now as usize).saturating_sub(unreserved);
        let fitting = room.min(most);
        if fitting == 0 || (fitting < most.min(ready) / 2 && !self.line(entity).may_dribble(now, minute)) {
            // Asked often, for it costs nothing: what is under way may leave more than it was expected to.
            let [shortest, longest] = [1, 10].map(|seconds| self.tools.real(Duration::from_secs(seconds)));
            let pause = capacity.ready_in.clamp(shortest, longest);
            self.line(entity).rest(now + pause);
            return None;
        }
        Some(fitting)
    }

    fn records_away(&self, entity: Entity) -> usize {
        let away = self.running.values().filter_map(|task| match task {
            Task::Round(of, records) if *of == entity => Some(records.len()),
            _ => None,
        });
        away.sum()
    }

    fn spawn_round(&mut self, entity: Entity, most: usize, picked: Picked<Delivery>, now: Instant) {
        let portal_now = self.portal_time(now);
        let pending: u64 = self.lines.iter().map(|line| line.pending).sum();
        let in_sight = pending.saturating_add(self.desk.len() as u64);
        let lane = if in_sight > BACKFILL_FROM { Lane::Backfill } else { Lane::Live };
        let line = self.line(entity);
        if !picked.write.is_empty() && picked.write.len() < most {
            line.patience.note_hasty(portal_now);
        }
        line.in_flight += 1;
        let round =
            Round { entity, lane, picked, line_is_sound: line.is_sound(), last_written: line.last_written };
        let records = round.picked.records();
        let tools = Arc::clone(&self.tools);
        let task = self.tasks.spawn(async move { Ended::Round(Box::new(carry_out(tools, round).await)) });
        self.running.insert(task.id(), Task::Round(entity, records));
    }

    /// Returns when something becomes due by itself.
    fn next_wake(&mut self, now: Instant) -> Instant {
        let mut wake = now + LONGEST_SLEEP;
        if let Some(until) = self.refused_until {
            return wake.min(until.max(now + self.tools.real(Duration::from_millis(100))));
        }
        for entity in Entity::ALL {
            let moments = [self.next_check(entity), self.next_round(entity, now)];
            wake = moments.into_iter().flatten().fold(wake, Instant::min);
        }
        // What is due and was not started waits for a round under way to end.
        wake.max(now + Duration::from_millis(1))
    }

    fn next_check(&mut self, entity: Entity) -> Option<Instant> {
        let line = self.line(entity);
        match line.gate {
            Gate::Check(at) if !line.is_checking => Some(line.rest_until.map_or(at, |until| until.max(at))),
            _ => None,
        }
    }

    fn next_round(&mut self, entity: Entity, now: Instant) -> Option<Instant> {
        let line = self.line(entity);
        if line.in_flight >= line.most_in_flight() || self.rounds() >= MOST_IN_FLIGHT {
            return None;
        }
        let rest_until = self.line(entity).rest_until.filter(|until| *until > now);
        let filled = self.desk.ready(entity, now).1.map(|first| first + self.patience(entity, now));
        let due = [filled, self.desk.next_ready(entity, now)].into_iter().flatten().min()?;
        Some(rest_until.map_or(due, |until| until.max(due)))
    }
}

/// Learning from what ended.
impl Writer {
    async fn note_end(&mut self, ended: Result<(tokio::task::Id, Ended), tokio::task::JoinError>) {
        let now = Instant::now();
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let task = self.running.remove(&id);
        match ended {
            Ok((_, Ended::Check(_, None))) => {}
            Ok((_, Ended::Check(entity, Some(found)))) => self.note_check(entity, found, now),
            Ok((_, Ended::Round(report))) => self.note_round(*report, now).await,
            Err(_) => self.note_panic(task, now),
        }
    }

    fn note_check(
        &mut self,
        entity: Entity,
        found: Result<Result<(), Unusable>, bitrix24::Error>,
        now: Instant,
    ) {
        let minute = self.minute();
        self.line(entity).is_checking = false;
        let word = match found {
            Ok(answer) => {
                self.accepted();
                match answer {
                    Ok(()) => self.line(entity).note_field_usable(),
                    Err(unusable) => self.line(entity).note_field_unusable(unusable.to_string(), now, minute),
                }
            }
            Err(error) => {
                let trouble = match error.class() {
                    ErrorClass::Refused => Trouble::Refused(error.to_string()),
                    _ => Trouble::of(&error, 0),
                };
                self.note_trouble(entity, &trouble, now)
            }
        };
        self.say(entity, word);
    }

    async fn note_round(&mut self, mut report: Report, now: Instant) {
        let entity = report.entity;
        let tools = Arc::clone(&self.tools);
        let pause = |portal: Duration| tools.real(jittered(portal));
        // Who is alone already is not named anew, or nobody else could be.
        report.suspects.retain(|record| self.desk.company_of(*record) > ALONE);
        let minute = self.minute();
        let line = self.line(entity);
        line.in_flight -= 1;
        if !line.may_name_suspects(now, minute) {
            // It fails for everybody, or another round has named its own.
            report.suspects.clear();
        }
        let word = line.note_report(&report, now, pause);
        self.say(entity, word);
        if let Some(Trouble::Refused(reason)) = &report.trouble {
            self.refuse(reason, now);
        }
        self.metrics.note_report(&report);
        note_counts(&report);
        for record in report.suspects {
            self.desk.suspect(record, ALONE);
        }
        self.desk.forget_batches(&report.explained);
        for (record, fence) in report.done {
            self.desk.finish(record, fence, now);
        }
        let doubted_until = now + self.tools.real(LATEST_UPDATE);
        for (record, text) in report.in_doubt {
            self.desk.doubt(record, text, doubted_until, now);
        }
        let remembered_until = now + self.tools.real(REMEMBERED_UNKEPT);
        for dropped in report.dropped {
            self.desk.note_dropped(dropped, remembered_until, now);
        }
        let displaced = report.again.into_iter().filter_map(|held| self.desk.give_back(held));
        let ends = displaced.filter_map(end_of_older).collect();
        self.tools.settle(ends).await;
    }

    fn note_trouble(&mut self, entity: Entity, trouble: &Trouble, now: Instant) -> Option<Word> {
        if let Trouble::Refused(reason) = trouble {
            self.refuse(reason, now);
            return None;
        }
        let tools = Arc::clone(&self.tools);
        self.line(entity).note_trouble(trouble, now, |portal| tools.real(jittered(portal)))
    }

    /// The portal turns the webhook away: a person has to act, and it is asked once a minute.
    fn refuse(&mut self, reason: &str, now: Instant) {
        if self.refused_until.is_none() {
            tracing::error!(
                "Bitrix24 refuses the webhook: {reason}. Statuses wait. Check that the webhook exists, has the \
                 right `crm`, and belongs to an active employee, and that the portal is not blocked"
            );
        }
        self.refused_until = Some(now + self.minute());
        for line in &mut self.lines {
            line.gate = Gate::Check(now);
        }
    }

    fn accepted(&mut self) {
        if self.refused_until.take().is_some() {
            tracing::info!("Bitrix24 accepts the webhook again");
        }
    }

    /// What was held is gone with the task; its messages come again after the ack wait.
    fn note_panic(&mut self, task: Option<Task>, now: Instant) {
        match task {
            Some(Task::Check(entity)) => {
                let minute = self.minute();
                let line = self.line(entity);
                line.is_checking = false;
                line.gate = Gate::Check(now + minute);
            }
            Some(Task::Round(entity, records)) => {
                self.line(entity).in_flight -= 1;
                self.desk.note_panic(&records);
                tracing::error!("A round of {} statuses panicked; trying them again alone", records.len());
            }
            None => {}
        }
    }

    fn say(&self, entity: Entity, word: Option<Word>) {
        let field = self.tools.fields.of(entity);
        word.iter().for_each(|word| self.metrics.note_word(entity, word));
        match word {
            None => {}
            Some(Word::Alarm(reason)) => tracing::error!(
                entity = entity.token(),
                field,
                "Statuses of {entity}s wait, none is written to field {field}: {reason}"
            ),
            Some(Word::Resumed) => {
                tracing::info!(entity = entity.token(), field, "Statuses of {entity}s are written again");
            }
            Some(Word::Unwell(reason)) => tracing::warn!(
                entity = entity.token(),
                "Statuses of {entity}s wait for Bitrix24 to be well again: {reason}"
            ),
        }
    }

    /// Lets rounds under way end, and gives everything else back.
    async fn finish(mut self, left: Vec<Delivery>) {
        let deadline = tokio::time::Instant::now() + LAST_ROUNDS;
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.tasks.join_next_with_id()).await {
            self.note_end(ended).await;
        }
        let held = self.desk.clear().into_iter().map(|held| held.delivery);
        let unsettled: Vec<Delivery> = held.chain(left).collect();
        let given_back = unsettled.into_iter().map(|delivery| (delivery, come_again())).collect();
        self.tools.settle(given_back).await;
        // One for which there is no room ends as the stage is to stop; it comes again.
        let _out_of_time = tokio::time::timeout_at(deadline, self.tools.burials.end()).await;
        self.tools.store.flush();
    }
}

fn come_again() -> Verdict {
    Verdict::Retry { after: Duration::from_millis(1), reason: "the stage is stopping".into() }
}

/// Spreads pauses by up to a quarter, so that several processes do not come back at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + outside::noise() / 4.0)
}

fn note_counts(report: &Report) {
    let Report { entity, kept, already_shown, gone, other_text, no_field, .. } = report;
    if kept + already_shown + gone + other_text + no_field == 0 {
        return;
    }
    tracing::info!(
        entity = entity.token(),
        written = kept,
        already_shown,
        gone,
        unkept = other_text + no_field,
        "Settled {} statuses of {entity}s",
        kept + already_shown + gone
    );
}
