//! One run: the real stages in a simulated world, a script played, everything mended, and judged at rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitrix24::simulated::{Outcome, Simulation};
use chrono::{DateTime, Utc};
use e2e::Stage;
use e2e::harness::people;
use mapper::Mapper;
use producer::Producer;
use pusher::Pusher;
use runtime::broker::StoredMessage;
use runtime::simulated::{Beginning, Disk, Seat, Standing, World};
use runtime::{Broker, CancellationToken, Context, Source};
use status_writer::StatusWriter;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::chance::Chance;
use crate::judge::{self, Statuses};
use crate::portal::{Content, Key, Portal, StatusWrite};
use crate::script::{Cache, Event, Link, Script};
use crate::shop::{Came, Shop};

/// What a run comes to.
#[derive(Debug)]
pub struct Told {
    /// What should not be.
    pub findings: Vec<String>,
    /// How much happened: effects of the stages, edits and faults.
    pub events: u64,
    /// How many faults.
    pub faults: usize,
    /// A digest of everything that happened and when.
    pub trail: u64,
    /// Every request that reached a CRM.
    pub calls: Vec<Call>,
    /// Every status that was written, with when it was, in milliseconds after the start.
    pub statuses: Vec<(u64, StatusWrite)>,
    /// How often writes of records failed alone.
    pub failed_alone: BTreeMap<u64, usize>,
    /// How long it took to come to rest once nothing was broken any more, seen every twenty seconds.
    pub rested: Duration,
}

/// A request that reached a CRM.
#[derive(Clone, Debug)]
pub struct Call {
    /// When, in milliseconds after the start.
    pub at: u64,
    /// The stage that made it.
    pub stage: Stage,
}

/// Our clock at the start of every run: noon in Moscow.
fn epoch() -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_862_800, 0).expect("a moment")
}

/// Returns how many milliseconds after the start that is.
fn after_start(moment: DateTime<Utc>) -> u64 {
    (moment - epoch()).num_milliseconds() as u64
}

/// The first moment that is synchronised.
const START: &str = "2025-12-01T00:00:00+03:00";

/// Longest time, in seconds, that everything may take to come to rest once all is mended: lists show the last edits (30), a
/// call that hung when all was mended ends (75), whoever failed pauses (60), two polls and the backlog (75). With a mistake
/// it mostly never does.
const PATIENCE: u64 = 240;
const PATIENCE_WITH_MISTAKE: u64 = 150;

/// Seconds after which the last edit shows in lists and was read, unless something is still broken.
const FIRST_LOOK: u64 = 50;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Plays the script of a seed in a world of its own.
pub fn run(seed: u64, mistake: Option<&'static str>) -> Told {
    run_script(&Script::of(seed), seed, mistake)
}

/// Plays a script in a world of its own, whose chance is that of a seed.
pub fn run_script(script: &Script, seed: u64, mistake: Option<&'static str>) -> Told {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let played = play(script, seed, mistake).await;
        bitrix24::simulated::set(None);
        otmechalka::simulated::set(None);
        played
    })
}

async fn play(script: &Script, seed: u64, mistake: Option<&'static str>) -> Told {
    let chance = Chance::of(seed, 1);
    let numbers = chance.clone();
    let world = World::new(Beginning {
        epoch: epoch(),
        chance: Box::new(move || numbers.next()),
        mistake,
        tells: std::env::var_os("ROLLCALL_TELL").is_some(),
        is_cluster: seed % 2 == 1,
    });
    let _entered = world.enter();
    let school = Arc::new(School::new(world, chance, script.interval));
    school.stand_in();
    school.import(script);
    let supervisors: Vec<JoinHandle<()>> =
        Stage::ALL.into_iter().map(|stage| tokio::spawn(Arc::clone(&school).supervise(stage))).collect();
    let began = Instant::now();
    for (at, event) in &script.events {
        tokio::time::sleep_until(began + Duration::from_millis(*at)).await;
        school.happen(*event);
    }
    tokio::time::sleep_until(began + Duration::from_millis(script.mended())).await;
    let mended = Instant::now();
    let mut findings = school.come_to_rest().await;
    let rested = mended.elapsed();
    if findings.is_empty() {
        let is_version_alone;
        (findings, is_version_alone) = school.silence().await;
        // What was taken back before anybody read it looks like rest, and may still be read late: a version that changes
        // nothing in either CRM. What goes on does so again.
        if is_version_alone {
            (findings, _) = school.silence().await;
        }
    }
    findings.extend(locked(&school.lies).drain(..));
    supervisors.iter().for_each(JoinHandle::abort);
    let (events, trail) = school.world.told();
    let faults = script.events.iter().filter(|(_, event)| event.is_fault()).count();
    let calls = std::mem::take(&mut *locked(&school.calls));
    let statuses = std::mem::take(&mut locked(&school.portal).writes);
    let statuses = statuses.into_iter().map(|write| (after_start(write.at), write)).collect();
    let failed_alone = std::mem::take(&mut locked(&school.shop).was_sick);
    Told { findings, events, faults, trail, calls, statuses, failed_alone, rested }
}

/// A process that may be started anew.
struct Post {
    seat: Option<Seat>,
    /// How long it is gone when it dies, in milliseconds, and what it then finds of its cache.
    absence: u64,
    cache: Cache,
    yesterday: Disk,
}

struct School {
    world: World,
    chance: Chance,
    portal: Arc<Mutex<Portal>>,
    shop: Arc<Mutex<Shop>>,
    seats: Arc<Mutex<BTreeMap<String, Seat>>>,
    posts: Mutex<BTreeMap<Stage, Post>>,
    lies: Arc<Mutex<Vec<String>>>,
    statuses: Arc<Mutex<Statuses>>,
    /// Producers that stood still: each may publish late what has to be read again.
    strays: Mutex<usize>,
    started: Mutex<u64>,
    /// Stages that do not reach their CRM.
    cut_off: Arc<Mutex<BTreeSet<Stage>>>,
    calls: Arc<Mutex<Vec<Call>>>,
    /// Period of the polls, in seconds.
    interval: u64,
}

impl School {
    fn new(world: World, chance: Chance, interval: u64) -> School {
        let post = || Post { seat: None, absence: 1_000, cache: Cache::Kept, yesterday: Disk::new() };
        School {
            world,
            chance,
            portal: Arc::new(Mutex::new(Portal::new())),
            shop: Arc::default(),
            seats: Arc::default(),
            posts: Mutex::new(Stage::ALL.into_iter().map(|stage| (stage, post())).collect()),
            lies: Arc::default(),
            statuses: Arc::default(),
            strays: Mutex::new(0),
            started: Mutex::new(0),
            cut_off: Arc::default(),
            calls: Arc::default(),
            interval,
        }
    }

    /// Puts both CRMs in the place of HTTP.
    fn stand_in(&self) {
        let (portal, shop, seats) =
            (Arc::clone(&self.portal), Arc::clone(&self.shop), Arc::clone(&self.seats));
        let (world, chance, lies) = (self.world.clone(), self.chance.clone(), Arc::clone(&self.lies));
        let statuses = Arc::clone(&self.statuses);
        let noise = self.chance.clone();
        let arrives = self.arrivals();
        let answering = move |webhook: String, method: String, body: Vec<u8>| {
            let (portal, shop, lies) = (Arc::clone(&portal), Arc::clone(&shop), Arc::clone(&lies));
            let statuses = Arc::clone(&statuses);
            let (world, chance) = (world.clone(), chance.clone());
            let (seat, arrives) = (seat_of(&seats, &webhook), arrives.clone());
            let answering: bitrix24::BoxFuture<'static, Outcome> = Box::pin(async move {
                let Some(seat) = seat else { return std::future::pending().await };
                seat.step(&format!("call {method}")).await;
                let outcome = if !arrives(&seat) {
                    Outcome::NoAnswer
                } else {
                    let mut portal = locked(&portal);
                    let before = portal.writes.len();
                    let outcome = portal.answer(&method, &body, world.now(), &chance);
                    if portal.writes.len() > before {
                        let repairs = |key| repairs(&world, key);
                        locked(&lies).extend(locked(&statuses).lie(&portal, &locked(&shop), repairs));
                    }
                    outcome
                };
                if matches!(outcome, Outcome::NoAnswer) {
                    sleep(Duration::from_secs(70)).await;
                }
                seat.step("the portal answered").await;
                outcome
            });
            answering
        };
        bitrix24::simulated::set(Some(Simulation {
            portal: Arc::new(answering),
            noise: Arc::new(move || noise.below(1_000) as f64 / 1_000.0),
            unix_seconds: epoch().timestamp() as f64,
        }));

        let (shop, seats, chance) = (Arc::clone(&self.shop), Arc::clone(&self.seats), self.chance.clone());
        let (world, arrives) = (self.world.clone(), self.arrivals());
        otmechalka::simulated::set(Some(Arc::new(move |request: reqwest::Request| {
            let (shop, chance, world) = (Arc::clone(&shop), chance.clone(), world.clone());
            let (seat, arrives) = (seat_of(&seats, request.url().as_str()), arrives.clone());
            let answering: otmechalka::simulated::BoxFuture<_> = Box::pin(async move {
                let Some(seat) = seat else { return std::future::pending().await };
                // A write goes out in the moment in which it was decided on; looks may take their time.
                if *request.method() == reqwest::Method::GET {
                    seat.step("look").await;
                }
                let body = request.body().and_then(reqwest::Body::as_bytes);
                let came = match arrives(&seat) {
                    true => locked(&shop).answer(request.method(), request.url().path(), body, &chance),
                    false => Came::Lost,
                };
                world.note(&format!("{} {}", request.method(), request.url().path()));
                match came {
                    Came::Reply(reply) => {
                        seat.step("otmechalka answered").await;
                        Some(reply)
                    }
                    Came::Lost => {
                        sleep(Duration::from_secs(15)).await;
                        seat.step("otmechalka did not answer").await;
                        None
                    }
                }
            });
            answering
        })));
    }

    /// Returns what notes a request that reaches its CRM, and tells whether it does.
    fn arrivals(&self) -> Arc<dyn Fn(&Seat) -> bool + Send + Sync> {
        let (world, cut_off, calls) =
            (self.world.clone(), Arc::clone(&self.cut_off), Arc::clone(&self.calls));
        Arc::new(move |seat| {
            let stage = stage_of(seat.name());
            let arrives = !locked(&cut_off).contains(&stage);
            if arrives {
                locked(&calls).push(Call { at: after_start(world.now()), stage });
            }
            arrives
        })
    }

    fn import(&self, script: &Script) {
        let first = DateTime::parse_from_rfc3339(START).expect("a moment").with_timezone(&Utc);
        let mut portal = locked(&self.portal);
        for (key, content, ago) in &script.imported {
            let modified = ago.map_or(first, |ago| epoch() - chrono::Duration::seconds(ago));
            portal.import(*key, *content, first, modified);
        }
        let edits = script.events.iter().filter_map(|(_, event)| match event {
            Event::Edit(_, content, _) => Some(*content),
            _ => None,
        });
        let all = script.imported.iter().map(|(_, content, _)| *content).chain(edits);
        locked(&self.shop).unwanted = all
            .filter_map(|content| match content {
                Content::Unwanted(number) => Some(people::surname(number)),
                _ => None,
            })
            .collect();
    }

    /// Keeps a stage running.
    async fn supervise(self: Arc<School>, stage: Stage) {
        loop {
            let folder = PathBuf::from(stage.program());
            let (seat, work) = self.start(stage, &folder);
            if let Some(post) = locked(&self.posts).get_mut(&stage) {
                post.seat = Some(seat.clone());
            }
            until_gone(&seat, work).await;
            let absence = {
                let mut posts = locked(&self.posts);
                let post = posts.get_mut(&stage).expect("a post");
                post.seat = None;
                let path = folder.join(format!("{}.sled", stage.program()));
                match post.cache {
                    Cache::Kept => {}
                    Cache::Lost => self.world.set_disk(&path, Disk::new()),
                    Cache::Yesterdays => self.world.set_disk(&path, post.yesterday.clone()),
                }
                post.absence
            };
            sleep(Duration::from_millis(absence)).await;
        }
    }

    /// Starts a process.
    fn start(&self, stage: Stage, folder: &Path) -> (Seat, JoinHandle<anyhow::Result<()>>) {
        let number = {
            let mut started = locked(&self.started);
            *started += 1;
            *started
        };
        let name = format!("{}-{number}", stage.program());
        let seat = Seat::new(&self.world, &name);
        locked(&self.seats).insert(name.clone(), seat.clone());
        let stopping = CancellationToken::new();
        let broker = Broker::simulated(seat.clone(), stopping.clone());
        let source = source(&name, folder, self.interval);
        let work = match stage {
            Stage::Producer => begin::<Producer>(&source, broker, stopping),
            Stage::Mapper => begin::<Mapper>(&source, broker, stopping),
            Stage::Pusher => begin::<Pusher>(&source, broker, stopping),
            Stage::StatusWriter => begin::<StatusWriter>(&source, broker, stopping),
        };
        (seat, work)
    }

    fn happen(self: &Arc<School>, event: Event) {
        let now = self.world.now();
        self.world.note(&format!("{event:?}"));
        match event {
            Event::Edit(key, content, late) => locked(&self.portal).edit(key, content, now, late),
            Event::Clear(key, late) => locked(&self.portal).clear(key, now, late),
            Event::Kill(stage, steps, absence, cache) => self.kill(stage, steps, absence, cache),
            Event::Freeze(stage, length, has_replica) => self.freeze(stage, length, has_replica),
            Event::NatsAway(length) => {
                self.world.set_nats_away(true);
                self.later(length, |school| school.world.set_nats_away(false));
            }
            Event::Cut(stage, link, length) => {
                self.set_cut(stage, link, true);
                self.later(length, move |school| school.set_cut(stage, link, false));
            }
            Event::LoseAnswers(count) => self.world.lose_answers(count),
            Event::ForgetIds => self.world.forget_ids(),
            Event::DeliverAgain(number) => {
                let consumers = self.world.consumers();
                self.world.deliver_again(&consumers[number as usize % consumers.len()]);
            }
            Event::PortalIll(illness, length) => {
                locked(&self.portal).illness = Some(illness);
                self.later(length, |school| locked(&school.portal).illness = None);
            }
            Event::ShopIll(illness, length) => {
                locked(&self.shop).illness = Some(illness);
                self.later(length, |school| locked(&school.shop).illness = None);
            }
            Event::Skew(seconds) => locked(&self.portal).skew += seconds,
        }
    }

    fn set_cut(&self, stage: Stage, link: Link, is_cut: bool) {
        let mut cut_off = locked(&self.cut_off);
        match (link, is_cut) {
            (Link::Nats, _) => self.world.set_cut_off(stage.program(), is_cut),
            (Link::Crm, true) => drop(cut_off.insert(stage)),
            (Link::Crm, false) => drop(cut_off.remove(&stage)),
        }
    }

    fn later(self: &Arc<School>, length: u64, act: impl FnOnce(&School) + Send + 'static) {
        let school = Arc::clone(self);
        tokio::spawn(async move {
            sleep(Duration::from_millis(length)).await;
            act(&school);
        });
    }

    fn kill(&self, stage: Stage, steps: u64, absence: u64, cache: Cache) {
        let path = PathBuf::from(stage.program()).join(format!("{}.sled", stage.program()));
        if let Some(post) = locked(&self.posts).get_mut(&stage) {
            (post.absence, post.cache) = (absence, cache);
            if cache == Cache::Yesterdays && post.yesterday.is_empty() {
                post.yesterday = self.world.disk(&path);
            }
            if let Some(seat) = &post.seat {
                seat.doom(steps);
            }
        }
    }

    fn freeze(self: &Arc<School>, stage: Stage, length: u64, has_replica: bool) {
        *locked(&self.strays) += usize::from(stage == Stage::Producer);
        let Some(seat) = locked(&self.posts).get(&stage).and_then(|post| post.seat.clone()) else { return };
        seat.set(Standing::Frozen);
        let replica = has_replica.then(|| {
            let folder = PathBuf::from(format!("replica of {}", stage.program()));
            self.start(stage, &folder)
        });
        // It stays for a while beside the one that comes back.
        let beside = self.chance.below(20_000);
        self.later(length, move |_| seat.set(Standing::Runs));
        if let Some((seat, work)) = replica {
            tokio::spawn(async move {
                sleep(Duration::from_millis(length + beside)).await;
                seat.set(Standing::Dead);
                work.abort();
            });
        }
    }

    /// Mends everything and waits until everything is as it should be; says what is not if it never is.
    async fn come_to_rest(self: &Arc<School>) -> Vec<String> {
        let mut waited = 0;
        let mut findings = Vec::new();
        let patience = if self.world.mistake().is_some() { PATIENCE_WITH_MISTAKE } else { PATIENCE };
        while waited < patience {
            let pause = if waited == 0 { FIRST_LOOK } else { 20 };
            sleep(Duration::from_secs(pause)).await;
            waited += pause;
            if self.is_ill() || !self.world.is_idle() {
                continue;
            }
            findings = self.findings();
            if findings.is_empty() || findings.iter().any(|finding| !may_pass(finding)) {
                return findings;
            }
        }
        if findings.is_empty() {
            findings.push("never came to rest".to_owned());
        }
        findings
    }

    fn is_ill(&self) -> bool {
        locked(&self.portal).illness.is_some() || locked(&self.shop).illness.is_some()
    }

    fn findings(&self) -> Vec<String> {
        let strays = *locked(&self.strays) * 2;
        judge::findings(&self.world, &locked(&self.portal), &locked(&self.shop), strays)
    }

    /// Nobody edits: ten polls, and nothing is written anywhere. Tells what is wrong, and whether that is published versions
    /// alone.
    async fn silence(&self) -> (Vec<String>, bool) {
        let written = || {
            let raw = self.world.messages(schemas::streams::RAW.name).len();
            (locked(&self.portal).writes.len(), locked(&self.shop).writes.len(), raw)
        };
        let before = written();
        sleep(Duration::from_secs(10 * self.interval)).await;
        let after = written();
        let mut findings = self.findings();
        let is_version_alone =
            findings.is_empty() && before != after && (before.0, before.1) == (after.0, after.1);
        if before != after {
            findings.push(format!(
                "nobody edited, and statuses, calls, versions went from {before:?} to {after:?}"
            ));
        }
        (findings, is_version_alone)
    }
}

/// Tells whether a finding may be gone by itself when things go on.
fn may_pass(finding: &str) -> bool {
    let signs = ["times", "after a newer", "never said", "versions published", "a dead letter"];
    !signs.iter().any(|sign| finding.contains(sign))
}

/// Waits until a process is dead or has ended; whatever it was doing is dropped.
async fn until_gone(seat: &Seat, mut work: JoinHandle<anyhow::Result<()>>) {
    tokio::select! {
        biased;
        () = seat.dead() => {}
        _ended = &mut work => seat.set(Standing::Dead),
    }
    work.abort();
}

fn begin<S>(source: &Source, broker: Broker, stopping: CancellationToken) -> JoinHandle<anyhow::Result<()>>
where
    S: runtime::Stage + 'static,
    S::Config: 'static,
{
    let (settings, config) = runtime::stage::configure::<S>(source).expect("settings");
    let health = runtime::health::Health::default();
    tokio::spawn(S::run(config, Context { broker, settings, health, stopping }))
}

/// Returns the settings of a process, whose name is part of the addresses that it calls.
fn source(name: &str, folder: &Path, interval: u64) -> Source {
    let interval = format!("{interval}s");
    let settings = [
        ("NATS_URL", "nats://127.0.0.1:4222"),
        ("BITRIX24_WEBHOOK_URL", &format!("http://127.0.0.1/rest/1/{name}/")),
        ("OTMECHALKA_URL", &format!("http://127.0.0.1/{name}")),
        ("SYNC_START_DATE", START),
        ("SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP", START),
        ("SYNC_DEAL_LAST_MODIFY_TIMESTAMP", START),
        ("CONTACT_SYNC_INTERVAL", &interval),
        ("DEAL_SYNC_INTERVAL", &interval),
        ("SYNC_OVERLAP", "70s"),
        ("STATE_DIR", &folder.display().to_string()),
    ];
    Source::new(settings.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

fn seat_of(seats: &Mutex<BTreeMap<String, Seat>>, address: &str) -> Option<Seat> {
    let seats = locked(seats);
    address.split('/').find_map(|part| seats.get(part).cloned())
}

/// Returns the stage of a process.
fn stage_of(process: &str) -> Stage {
    let is_of = |stage: &Stage| {
        let number = process.strip_prefix(stage.program());
        number.is_some_and(|number| number.starts_with('-'))
    };
    Stage::ALL.into_iter().find(is_of).expect("a stage")
}

/// Counts the versions of a record that a pusher sent round again.
fn repairs(world: &World, (entity, id): Key) -> usize {
    let of_it = format!(".{entity}.{id}");
    let commands = world.messages(schemas::streams::COMMANDS.name).into_iter();
    let is_repair = |message: &StoredMessage| {
        message.subject.ends_with(&of_it)
            && message.header("ce-redrive").is_some_and(|redrive| redrive != "0")
    };
    commands.filter(is_repair).count()
}
