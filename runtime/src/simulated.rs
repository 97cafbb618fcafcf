//! A world in memory in place of NATS, the disk, the clock and chance: what the seeded simulation in `e2e` runs the stages
//! in. Behind the same two locks as [`crate::faults`], so no build for use has it.
//!
//! One thread, one world: it is entered by [`World::enter`], its clock is tokio's paused one, and everything that differs
//! from run to run comes from the generator it was made with. A process is a [`Seat`]: each of its effects passes
//! [`Seat::step`] before and after, where it may stand still or be dead for good.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::AckKind;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use schemas::streams::{ACK_WAIT, BUCKETS, ConsumerDefinition, DUPLICATE_WINDOW, STREAMS};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::broker::StoredMessage;
use crate::publish::{Outgoing, Published};

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It works.
    Runs,
    /// It stands still, as after SIGSTOP.
    Frozen,
    /// It will never do anything again, as after `kill -9`.
    Dead,
}

/// What a world is made with.
pub struct Beginning {
    /// Our own clock at the start.
    pub epoch: DateTime<Utc>,
    /// Where all chance comes from.
    pub chance: Box<dyn FnMut() -> u64 + Send>,
    /// A mistake that all stages make; see [`crate::faults::is_planted`].
    pub mistake: Option<&'static str>,
    /// Whether everything that happens is printed.
    pub tells: bool,
    /// Whether NATS is several servers, which look for a known message id first of all.
    pub is_cluster: bool,
}

/// Everything outside of the processes. Clones are the same world.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    epoch: DateTime<Utc>,
    origin: Instant,
    chance: Mutex<Box<dyn FnMut() -> u64 + Send>>,
    mistake: Option<&'static str>,
    tells: bool,
    nats: Mutex<Nats>,
    disks: Mutex<BTreeMap<PathBuf, Disk>>,
    events: AtomicU64,
    trail: AtomicU64,
}

/// What a cache holds on disk.
pub type Disk = BTreeMap<String, Vec<u8>>;

thread_local! {
    static CURRENT: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Leaves the world when dropped.
pub struct Entered;

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|current| current.borrow_mut().take());
    }
}

/// Returns the world of this thread.
pub fn current() -> Option<World> {
    CURRENT.with(|current| current.borrow().clone())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Makes a world whose streams, consumers and buckets are those of production.
    pub fn new(beginning: Beginning) -> World {
        let Beginning { epoch, chance, mistake, tells, is_cluster } = beginning;
        World(Arc::new(Shared {
            epoch,
            origin: Instant::now(),
            chance: Mutex::new(chance),
            mistake,
            tells,
            nats: Mutex::new(Nats::new(epoch, is_cluster)),
            disks: Mutex::default(),
            events: AtomicU64::new(0),
            trail: AtomicU64::new(0xcbf2_9ce4_8422_2325),
        }))
    }

    /// Makes it the world of this thread.
    #[must_use = "dropped, it is left at once"]
    pub fn enter(&self) -> Entered {
        CURRENT.with(|current| *current.borrow_mut() = Some(self.clone()));
        Entered
    }

    /// Returns what our own clock shows.
    pub fn now(&self) -> DateTime<Utc> {
        self.0.epoch + self.0.origin.elapsed()
    }

    /// Returns the next random number.
    pub fn chance(&self) -> u64 {
        (locked(&self.0.chance))()
    }

    /// Returns the mistake that all stages make.
    pub fn mistake(&self) -> Option<&'static str> {
        self.0.mistake
    }

    /// Counts something that happened, and adds it to the trail.
    pub fn note(&self, what: &str) {
        self.0.events.fetch_add(1, Ordering::Relaxed);
        let at = self.0.origin.elapsed().as_millis() as u64;
        if self.0.tells {
            println!("{at:>8} {what}");
        }
        let mut trail = self.0.trail.load(Ordering::Relaxed);
        for byte in what.bytes().chain(at.to_le_bytes()) {
            trail = (trail ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.0.trail.store(trail, Ordering::Relaxed);
    }

    /// Returns how much happened, and a digest of what and when: equal for equal runs.
    pub fn told(&self) -> (u64, u64) {
        (self.0.events.load(Ordering::Relaxed), self.0.trail.load(Ordering::Relaxed))
    }

    /// Puts the server on or off the network.
    pub fn set_nats_away(&self, is_away: bool) {
        let mut nats = locked(&self.0.nats);
        nats.away_since = is_away.then(Instant::now);
        nats.ring_all();
    }

    /// Cuts the way to the server for all processes of a program, or mends it.
    pub fn set_cut_off(&self, program: &'static str, is_cut: bool) {
        let mut nats = locked(&self.0.nats);
        match is_cut {
            true => nats.cut_off.insert(program),
            false => nats.cut_off.remove(program),
        };
        nats.ring_all();
    }

    /// Has the next answers to publishes and writes to buckets get lost; they are carried out.
    pub fn lose_answers(&self, count: u32) {
        locked(&self.0.nats).answers_to_lose = count;
    }

    /// Has the server forget the ids that it looks for duplicates by, as it does once their window is over.
    pub fn forget_ids(&self) {
        locked(&self.0.nats).logs.values_mut().for_each(|log| log.ids.clear());
    }

    /// Makes a consumer anew: everything is delivered again.
    pub fn deliver_again(&self, consumer: &str) {
        let mut nats = locked(&self.0.nats);
        if let Some(consumer) = nats.consumers.get_mut(consumer) {
            consumer.start_over();
            consumer.rings.notify_waiters();
        }
    }

    /// Returns the names of all consumers.
    pub fn consumers(&self) -> Vec<String> {
        locked(&self.0.nats).consumers.keys().cloned().collect()
    }

    /// Tells whether every message was delivered and acknowledged, and none waits for its time.
    pub fn is_idle(&self) -> bool {
        let nats = locked(&self.0.nats);
        let is_done = |consumer: &Consumer| consumer.pending.is_empty() && !nats.has_more(consumer);
        nats.consumers.values().all(is_done) && nats.schedules.is_empty()
    }

    /// Returns all messages of a stream.
    pub fn messages(&self, stream: &str) -> Vec<StoredMessage> {
        locked(&self.0.nats)
            .logs
            .get(stream)
            .map_or_else(Vec::new, |log| log.messages.values().cloned().collect())
    }

    /// Returns what the disk holds under a path.
    pub fn disk(&self, path: &Path) -> Disk {
        locked(&self.0.disks).get(path).cloned().unwrap_or_default()
    }

    /// Puts something else on the disk.
    pub fn set_disk(&self, path: &Path, disk: Disk) {
        locked(&self.0.disks).insert(path.to_owned(), disk);
    }

    pub(crate) fn with_disk<T>(&self, path: &Path, act: impl FnOnce(&mut Disk) -> T) -> T {
        act(locked(&self.0.disks).entry(path.to_owned()).or_default())
    }

    fn pause(&self) -> Duration {
        // Most steps are quick; some are slow, so that any two can change places.
        let (chance, noise) = (self.chance() % 16, self.chance());
        match chance {
            0 => Duration::from_millis(noise % 400),
            _ => Duration::from_millis(noise % 4),
        }
    }
}

/// One process.
#[derive(Clone)]
pub struct Seat(Arc<Process>);

struct Process {
    world: World,
    name: String,
    standing: Mutex<Standing>,
    /// Wakes in the order of waiting, as a channel of tokio does not.
    changed: Notify,
    /// Steps until it dies.
    steps_left: AtomicU64,
}

impl Seat {
    /// Starts a process.
    pub fn new(world: &World, name: &str) -> Seat {
        Seat(Arc::new(Process {
            world: world.clone(),
            name: name.to_owned(),
            standing: Mutex::new(Standing::Runs),
            changed: Notify::new(),
            steps_left: AtomicU64::new(u64::MAX),
        }))
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the world it is in.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// Has it stand still, go on or die. What is dead stays so.
    pub fn set(&self, standing: Standing) {
        {
            let mut now = locked(&self.0.standing);
            if *now == Standing::Dead || *now == standing {
                return;
            }
            *now = standing;
        }
        self.0.changed.notify_waiters();
    }

    fn standing(&self) -> Standing {
        *locked(&self.0.standing)
    }

    /// Has it die after so many steps.
    pub fn doom(&self, steps: u64) {
        self.0.steps_left.store(steps, Ordering::Relaxed);
    }

    /// Waits until it is dead.
    pub async fn dead(&self) {
        self.until(|standing| standing == Standing::Dead).await;
    }

    async fn until(&self, wanted: impl Fn(Standing) -> bool) {
        while !wanted(self.standing()) {
            // Nothing changes in between: there is one thread.
            self.0.changed.notified().await;
        }
    }

    /// Passes a place between two effects. Takes its time; never comes back where the process is dead.
    pub async fn step(&self, what: &str) {
        tokio::time::sleep(self.0.world.pause()).await;
        self.until(|standing| standing != Standing::Frozen).await;
        if self.0.steps_left.fetch_sub(1, Ordering::Relaxed) <= 1 {
            self.set(Standing::Dead);
        }
        if self.standing() == Standing::Dead {
            std::future::pending::<()>().await;
        }
        self.0.world.note(&format!("{} {what}", self.0.name));
    }

    /// Does something at the server between two steps; an error is an answer that did not come.
    async fn ask<T>(
        &self,
        what: &str,
        is_write: bool,
        act: impl FnOnce(&mut Nats) -> T,
    ) -> Result<T, String> {
        self.step(what).await;
        let answer = {
            let mut nats = locked(&self.0.world.0.nats);
            match nats.is_out_of_reach(self.name()) {
                true => Err("no answer".to_owned()),
                false => {
                    nats.now = self.0.world.now();
                    let answer = act(&mut nats);
                    let is_lost = is_write && nats.answers_to_lose > 0;
                    nats.answers_to_lose -= u32::from(is_lost);
                    if is_lost { Err("the answer was lost".to_owned()) } else { Ok(answer) }
                }
            }
        };
        match answer {
            Ok(answer) => {
                self.step("answered").await;
                Ok(answer)
            }
            Err(reason) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Err(reason)
            }
        }
    }

    pub(crate) async fn publish(&self, message: &Outgoing, headers: HeaderMap) -> Result<Stored, String> {
        let what = format!("publish {} {}", message.subject, message.message_id);
        let (subject, payload) = (message.subject.clone(), Bytes::from(message.encoded.payload.clone()));
        let (id, expected) = (message.message_id.clone(), message.expected_last);
        self.ask(&what, true, |nats| nats.publish(subject, headers, payload, Some(id), expected)).await
    }

    pub(crate) async fn newest(&self, stream: &str, subject: &str) -> Result<Option<StoredMessage>, String> {
        self.ask("newest", false, |nats| nats.log(stream).newest(subject)).await
    }

    pub(crate) async fn next(
        &self,
        stream: &str,
        filter: &str,
        from: u64,
    ) -> Result<Option<StoredMessage>, String> {
        self.ask("next", false, |nats| nats.log(stream).next(filter, from).cloned()).await
    }

    pub(crate) async fn at(&self, stream: &str, sequence: u64) -> Result<Option<StoredMessage>, String> {
        self.ask("at", false, |nats| nats.log(stream).messages.get(&sequence).cloned()).await
    }

    pub(crate) async fn state(&self, stream: &str) -> Result<(DateTime<Utc>, u64), String> {
        let state = |nats: &mut Nats| (nats.created, nats.log(stream).last_sequence);
        self.ask("state", false, state).await
    }

    /// Returns value, revision and time of a key.
    pub(crate) async fn entry(
        &self,
        bucket: &str,
        key: &str,
    ) -> Result<Option<(Bytes, u64, DateTime<Utc>)>, String> {
        self.ask("get", false, |nats| nats.entry(bucket, key)).await
    }

    /// Writes a key, or deletes it, where it has this revision or whatever it has.
    pub(crate) async fn write(
        &self,
        bucket: &str,
        key: &str,
        value: Option<Bytes>,
        revision: Option<Option<u64>>,
    ) -> Result<Option<u64>, String> {
        let what = format!("put {bucket} {key}");
        self.ask(&what, true, |nats| nats.write(bucket, key, value, revision)).await
    }

    pub(crate) async fn keys(&self, bucket: &str) -> Result<Vec<String>, String> {
        self.ask("keys", false, |nats| nats.keys(bucket)).await
    }

    /// Waits for the next message of a consumer.
    pub(crate) async fn fetch(&self, consumer: &str) -> Delivered {
        let rings =
            locked(&self.0.world.0.nats).consumers.get(consumer).map(|found| Arc::clone(&found.rings));
        let Some(rings) = rings else { return std::future::pending().await };
        loop {
            let rung = rings.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            // What is taken while the process stands still comes to it when it goes on: it lay in its socket.
            let (taken, due) = {
                let mut nats = locked(&self.0.world.0.nats);
                nats.now = self.0.world.now();
                match nats.delivers_to(self.name()) {
                    true => nats.take(consumer),
                    false => (None, None),
                }
            };
            if let Some(delivered) = taken {
                self.step(&format!("receive {consumer} {} {}", delivered.sequence, delivered.deliveries))
                    .await;
                return delivered;
            }
            tokio::select! {
                biased;
                () = rung => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(|| Instant::now() + Duration::from_secs(60))) => {}
            }
        }
    }

    pub(crate) async fn acknowledge(
        &self,
        consumer: &str,
        sequence: u64,
        kind: AckKind,
    ) -> Result<(), String> {
        let what = format!("ack {consumer} {sequence}");
        self.ask(&what, true, |nats| nats.acknowledge(consumer, sequence, kind)).await
    }
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Published(Published),
    NotLast,
    TooBig,
}

/// A message as a consumer hands it out.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    pub(crate) sequence: u64,
    pub(crate) deliveries: u64,
    pub(crate) pending: u64,
}

/// How long messages still come after the server went away.
const IN_SOCKETS: Duration = Duration::from_secs(30);

/// Largest payload that the server takes.
pub(crate) const MAX_PAYLOAD: usize = 1 << 20;

/// The server.
struct Nats {
    is_cluster: bool,
    now: DateTime<Utc>,
    created: DateTime<Utc>,
    logs: BTreeMap<String, Log>,
    consumers: BTreeMap<String, Consumer>,
    /// Messages that are published at their time, by the subject they wait under.
    schedules: BTreeMap<String, (DateTime<Utc>, String)>,
    away_since: Option<Instant>,
    /// Programs whose processes do not reach it.
    cut_off: BTreeSet<&'static str>,
    answers_to_lose: u32,
}

#[derive(Default)]
struct Log {
    subjects: Vec<String>,
    keeps_newest_only: bool,
    max_age: Duration,
    last_sequence: u64,
    messages: BTreeMap<u64, StoredMessage>,
    by_subject: BTreeMap<String, BTreeSet<u64>>,
    ids: BTreeMap<String, (u64, DateTime<Utc>)>,
}

impl Log {
    fn newest(&self, subject: &str) -> Option<StoredMessage> {
        let sequence = self.by_subject.get(subject)?.last()?;
        self.messages.get(sequence).cloned()
    }

    fn next(&self, filter: &str, from: u64) -> Option<&StoredMessage> {
        if let Some(sequences) = self.by_subject.get(filter) {
            return self.messages.get(sequences.range(from..).next()?);
        }
        self.messages.range(from..).map(|(_, message)| message).find(|message| fits(filter, &message.subject))
    }

    fn last_of(&self, subject: &str) -> u64 {
        self.by_subject.get(subject).and_then(|sequences| sequences.last().copied()).unwrap_or(0)
    }

    fn store(&mut self, subject: String, headers: HeaderMap, payload: Bytes, now: DateTime<Utc>) -> u64 {
        if self.keeps_newest_only || headers.get("Nats-Schedule").is_some() {
            self.remove(&subject);
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        self.by_subject.entry(subject.clone()).or_default().insert(sequence);
        self.messages.insert(sequence, StoredMessage { sequence, stored: now, subject, headers, payload });
        sequence
    }

    fn remove(&mut self, subject: &str) {
        for sequence in self.by_subject.remove(subject).unwrap_or_default() {
            self.messages.remove(&sequence);
        }
    }
}

/// Tells whether a subject fits a filter.
fn fits(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => return false,
        }
    }
}

struct Consumer {
    definition: ConsumerDefinition,
    /// Where the first delivery of a message is looked for.
    from: u64,
    /// What was delivered and not acknowledged, and when it is delivered again.
    pending: BTreeMap<u64, Instant>,
    deliveries: BTreeMap<u64, u64>,
    rings: Arc<Notify>,
}

impl Consumer {
    fn start_over(&mut self) {
        self.from = 1;
        self.pending.clear();
        self.deliveries.clear();
    }
}

impl Nats {
    fn new(now: DateTime<Utc>, is_cluster: bool) -> Nats {
        let stream = |definition: &schemas::streams::StreamDefinition| {
            let subjects = definition.subjects.iter().map(|subject| (*subject).to_owned()).collect();
            (definition.name.to_owned(), Log { subjects, ..Log::default() })
        };
        let bucket = |definition: &schemas::streams::BucketDefinition| {
            let subjects = vec![format!("$KV.{}.>", definition.name)];
            let log =
                Log { subjects, keeps_newest_only: true, max_age: definition.max_age, ..Log::default() };
            (format!("KV_{}", definition.name), log)
        };
        let consumer = |definition: ConsumerDefinition| {
            let consumer = Consumer {
                definition: definition.clone(),
                from: 1,
                pending: BTreeMap::new(),
                deliveries: BTreeMap::new(),
                rings: Arc::default(),
            };
            (definition.name, consumer)
        };
        Nats {
            is_cluster,
            now,
            created: now,
            logs: STREAMS.iter().map(stream).chain(BUCKETS.iter().map(bucket)).collect(),
            consumers: schemas::streams::consumers().into_iter().map(consumer).collect(),
            schedules: BTreeMap::new(),
            away_since: None,
            cut_off: BTreeSet::new(),
            answers_to_lose: 0,
        }
    }

    /// Tells whether a process does not reach it; processes are named after their programs.
    fn is_out_of_reach(&self, process: &str) -> bool {
        self.away_since.is_some() || self.is_cut_off(process)
    }

    fn is_cut_off(&self, process: &str) -> bool {
        self.cut_off.iter().any(|program| process.starts_with(program))
    }

    /// Tells whether messages reach a process: those that lay in sockets do for a while after the server went.
    fn delivers_to(&self, process: &str) -> bool {
        self.away_since.is_none_or(|since| since.elapsed() < IN_SOCKETS) && !self.is_cut_off(process)
    }

    fn log(&mut self, name: &str) -> &mut Log {
        self.logs.entry(name.to_owned()).or_default()
    }

    fn publish(
        &mut self,
        subject: String,
        mut headers: HeaderMap,
        payload: Bytes,
        id: Option<String>,
        expected: Option<u64>,
    ) -> Stored {
        if payload.len() > MAX_PAYLOAD {
            return Stored::TooBig;
        }
        let now = self.now;
        let due = headers.get("Nats-Schedule").and_then(|text| {
            let text = text.as_str().strip_prefix("@at ")?;
            Some(DateTime::parse_from_rfc3339(text).ok()?.with_timezone(&Utc))
        });
        let target = headers.get("Nats-Schedule-Target").map(|text| text.as_str().to_owned());
        let takes = |log: &&mut Log| log.subjects.iter().any(|filter| fits(filter, &subject));
        let Some(log) = self.logs.values_mut().find(takes) else { return Stored::TooBig };
        let window = chrono::Duration::from_std(DUPLICATE_WINDOW).unwrap_or_default();
        let known = id.as_ref().and_then(|id| log.ids.get(id)).filter(|(_, stored)| now - *stored < window);
        let known = known.map(|(sequence, _)| *sequence);
        let is_not_last = expected.is_some_and(|expected| expected != log.last_of(&subject));
        // A server alone looks at the predecessor before it looks for duplicates, and the leader of several afterwards.
        if let Some(sequence) = known
            && (self.is_cluster || !is_not_last)
        {
            return Stored::Published(Published { sequence, duplicate: true });
        }
        if is_not_last {
            return Stored::NotLast;
        }
        headers.insert("Nats-Time-Stamp", now.to_rfc3339().as_str());
        let sequence = log.store(subject.clone(), headers, payload, now);
        if let Some(id) = id {
            log.ids.insert(id, (sequence, now));
        }
        if let (Some(due), Some(target)) = (due, target) {
            self.schedules.insert(subject, (due, target));
            self.ring_all();
        } else {
            self.ring(&subject);
        }
        Stored::Published(Published { sequence, duplicate: false })
    }

    /// Publishes what waited for its time.
    fn publish_due(&mut self) {
        let now = self.now;
        let due: Vec<String> =
            self.schedules.iter().filter(|(_, (at, _))| *at <= now).map(|(waits, _)| waits.clone()).collect();
        for waits in due {
            let Some((_, target)) = self.schedules.remove(&waits) else { continue };
            let Some(log) = self.logs.values_mut().find(|log| log.by_subject.contains_key(&waits)) else {
                continue;
            };
            let Some(message) = log.newest(&waits) else { continue };
            log.remove(&waits);
            let mut headers = HeaderMap::new();
            for (name, values) in message.headers.iter() {
                if !name.to_string().starts_with("Nats-") {
                    values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
                }
            }
            self.publish(target, headers, message.payload, None, None);
        }
    }

    fn ring(&self, subject: &str) {
        for consumer in self.consumers.values().filter(|consumer| fits(&consumer.definition.filter, subject))
        {
            consumer.rings.notify_waiters();
        }
    }

    /// A schedule may be the next thing that any consumer waits for.
    fn ring_all(&self) {
        self.consumers.values().for_each(|consumer| consumer.rings.notify_waiters());
    }

    fn has_more(&self, consumer: &Consumer) -> bool {
        let ConsumerDefinition { stream, filter, .. } = &consumer.definition;
        self.logs.get(*stream).is_some_and(|log| log.next(filter, consumer.from).is_some())
    }

    /// Takes the next message of a consumer, or says when to look again.
    fn take(&mut self, name: &str) -> (Option<Delivered>, Option<Instant>) {
        self.publish_due();
        let now = Instant::now();
        let scheduled = self
            .schedules
            .values()
            .map(|(at, _)| now + (*at - self.now).to_std().unwrap_or_default() + Duration::from_millis(1));
        let scheduled = scheduled.min();
        let Some(consumer) = self.consumers.get_mut(name) else { return (None, None) };
        let ConsumerDefinition { stream, filter, max_ack_pending, .. } = &consumer.definition;
        let Some(log) = self.logs.get(*stream) else { return (None, None) };
        // Messages that were purged meanwhile are not delivered again.
        consumer.pending.retain(|sequence, _| log.messages.contains_key(sequence));
        let again = consumer.pending.iter().find(|(_, due)| **due <= now).map(|(sequence, _)| *sequence);
        let has_room = (consumer.pending.len() as i64) < *max_ack_pending;
        let fresh = || log.next(filter, consumer.from).map(|message| message.sequence).filter(|_| has_room);
        let Some(message) = again.or_else(fresh).and_then(|sequence| log.messages.get(&sequence)) else {
            let due = consumer.pending.values().copied().chain(scheduled).min();
            return (None, due);
        };
        let sequence = message.sequence;
        consumer.from = consumer.from.max(sequence + 1);
        consumer.pending.insert(sequence, now + ACK_WAIT);
        let deliveries = consumer.deliveries.entry(sequence).or_default();
        *deliveries += 1;
        let deliveries = *deliveries;
        let behind = log.messages.range(consumer.from..).filter(|(_, behind)| fits(filter, &behind.subject));
        let pending = behind.count() as u64;
        let delivered = Delivered {
            subject: message.subject.clone(),
            headers: message.headers.clone(),
            payload: message.payload.clone(),
            sequence,
            deliveries,
            pending,
        };
        (Some(delivered), None)
    }

    fn acknowledge(&mut self, name: &str, sequence: u64, kind: AckKind) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let Some(due) = consumer.pending.get_mut(&sequence) else { return };
        match kind {
            AckKind::Progress => *due = Instant::now() + ACK_WAIT,
            AckKind::Nak(delay) => *due = Instant::now() + delay.unwrap_or_default(),
            _ => {
                consumer.pending.remove(&sequence);
            }
        }
        consumer.rings.notify_waiters();
    }

    fn entry(&mut self, bucket: &str, key: &str) -> Option<(Bytes, u64, DateTime<Utc>)> {
        let now = self.now;
        let log = self.logs.get(&format!("KV_{bucket}"))?;
        let message = log.newest(&format!("$KV.{bucket}.{key}"))?;
        let is_old =
            !log.max_age.is_zero() && (now - message.stored).to_std().unwrap_or_default() >= log.max_age;
        let is_deleted = message.headers.get("KV-Operation").is_some();
        (!is_old && !is_deleted).then_some((message.payload, message.sequence, message.stored))
    }

    fn write(
        &mut self,
        bucket: &str,
        key: &str,
        value: Option<Bytes>,
        revision: Option<Option<u64>>,
    ) -> Option<u64> {
        let stored = self.entry(bucket, key).map(|(_, revision, _)| revision);
        if revision.is_some_and(|expected| expected != stored) {
            return None;
        }
        let mut headers = HeaderMap::new();
        if value.is_none() {
            headers.insert("KV-Operation", "PURGE");
        }
        let now = self.now;
        let subject = format!("$KV.{bucket}.{key}");
        Some(self.log(&format!("KV_{bucket}")).store(subject, headers, value.unwrap_or_default(), now))
    }

    fn keys(&mut self, bucket: &str) -> Vec<String> {
        let prefix = format!("$KV.{bucket}.");
        let subjects: Vec<String> = self.log(&format!("KV_{bucket}")).by_subject.keys().cloned().collect();
        let keys = subjects.into_iter().filter_map(|subject| Some(subject.strip_prefix(&prefix)?.to_owned()));
        keys.collect::<VecDeque<_>>().into_iter().filter(|key| self.entry(bucket, key).is_some()).collect()
    }
}
