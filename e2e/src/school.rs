//! A whole school: NATS, both CRMs and the stages.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream::consumer::{FromConsumer, PullConsumer, pull};
use nix::sys::signal::Signal;
use runtime::bootstrap::{self, Mode};
use runtime::broker::{NatsSettings, StoredMessage};
use runtime::health::Health;
use runtime::local_nats::{Access, LocalNats, Routes, free_port};
use runtime::{Broker, CancellationToken, Reader, Source};
use schemas::streams::{CHECKPOINTS, DEAD_LETTERS, consumers};
use schemas::{Checkpoint, DeadLetter, Entity};
use serde_json::Value;

use crate::process::{Program, program_path, require_fault_points, signal};
use crate::proxy::{Proxy, Weather};
use crate::room::Room;
use crate::scrape::Scrape;
use crate::simulator::{Bitrix24, Otmechalka};
use crate::{eventually, oracle};

/// The stages, by the names of their programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Polls Bitrix24.
    Producer,
    /// Validates and transforms.
    Mapper,
    /// Calls otmechalka.
    Pusher,
    /// Writes statuses.
    StatusWriter,
}

impl Stage {
    /// All of them, in the order of the flow.
    pub const ALL: [Stage; 4] = [Stage::Producer, Stage::Mapper, Stage::Pusher, Stage::StatusWriter];

    /// Returns the name of its program.
    pub fn program(self) -> &'static str {
        match self {
            Stage::Producer => "producer",
            Stage::Mapper => "mapper",
            Stage::Pusher => "pusher",
            Stage::StatusWriter => "status-writer",
        }
    }
}

/// A stretch of network between two parties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// From a stage to NATS, where that is one server.
    Nats(Stage),
    /// From the stages to a server of a cluster.
    Server(usize),
    /// From a server of a cluster to another, for what it asks there and what it is answered.
    Route(usize, usize),
    /// From the stages to the sales CRM.
    Bitrix24,
    /// From the pusher to the attendance CRM.
    Otmechalka,
}

/// What a school is made of.
#[derive(Clone, Debug)]
pub struct SchoolBuilder {
    dataset: &'static str,
    contacts: usize,
    deals: usize,
    seed: u64,
    bitrix24_arguments: Vec<String>,
    otmechalka_arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    is_observed: bool,
    /// Where stretches of network begin.
    networked: Option<IpAddr>,
    room: Option<Arc<Room>>,
    subscribers: Option<Vec<String>>,
    is_cluster: bool,
    store: Option<PathBuf>,
}

impl SchoolBuilder {
    /// Has NATS keep its store elsewhere than beside everything else.
    pub fn store(mut self, folder: PathBuf) -> SchoolBuilder {
        self.store = Some(folder);
        self
    }

    /// Lets a test spoil the network between any two.
    pub fn networked(mut self) -> SchoolBuilder {
        self.networked = Some(Ipv4Addr::LOCALHOST.into());
        self
    }

    /// Gives the stages IPv6 alone.
    pub fn ipv6(mut self) -> SchoolBuilder {
        self.networked = Some(Ipv6Addr::LOCALHOST.into());
        self
    }

    /// Puts the stages into a room in which they find both CRMs and NATS by these names of it: see [`NAMES`]. A test may
    /// spoil the network as well.
    pub fn named(mut self, room: Arc<Room>) -> SchoolBuilder {
        self.room = Some(room);
        self.networked()
    }

    /// Lets nobody into NATS but the users that `rollcall credentials` makes, these extra consumers among them.
    pub fn guarded(mut self, subscribers: &[&str]) -> SchoolBuilder {
        self.subscribers = Some(subscribers.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    /// Takes a cluster of three NATS servers that hold a copy of everything each.
    pub fn cluster(mut self) -> SchoolBuilder {
        self.is_cluster = true;
        self
    }

    /// Takes so many records of the lifelike data set.
    pub fn demo(mut self, contacts: usize, deals: usize, seed: u64) -> SchoolBuilder {
        (self.dataset, self.contacts, self.deals, self.seed) = ("demo", contacts, deals, seed);
        self
    }

    /// Takes so many records without any mistake.
    pub fn plain(mut self, contacts: usize, deals: usize) -> SchoolBuilder {
        (self.dataset, self.contacts, self.deals) = ("plain", contacts, deals);
        self
    }

    /// Passes arguments to the simulated Bitrix24.
    pub fn bitrix24(mut self, arguments: &[&str]) -> SchoolBuilder {
        self.bitrix24_arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Passes arguments to the simulated otmechalka.
    pub fn otmechalka(mut self, arguments: &[&str]) -> SchoolBuilder {
        self.otmechalka_arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Has every stage tell its metrics.
    pub fn observed(mut self) -> SchoolBuilder {
        self.is_observed = true;
        self
    }

    /// Has the portal's clock run five times as fast, and polls follow each other as quickly.
    pub fn brisk(self) -> SchoolBuilder {
        self.polled_each("400ms").env("PORTAL_CLOCK_SPEED", "5").bitrix24(&["--clock-speed", "5"])
    }

    /// Has both entities polled so often. Polls of a second take all requests that a portal gives back, so where there are
    /// hundreds of statuses, or tools that ask, five seconds are better.
    pub fn polled_each(self, interval: &str) -> SchoolBuilder {
        self.env("CONTACT_SYNC_INTERVAL", interval).env("DEAL_SYNC_INTERVAL", interval)
    }

    /// Sets a variable for every stage.
    pub fn env(mut self, name: &str, value: &str) -> SchoolBuilder {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Starts NATS and the simulators, but no stage.
    pub async fn open(self) -> anyhow::Result<School> {
        School::open(self).await
    }

    /// Starts everything.
    pub async fn start(self) -> anyhow::Result<School> {
        let mut school = self.open().await?;
        for stage in Stage::ALL {
            school.start(stage)?;
        }
        Ok(school)
    }
}

/// A running school.
pub struct School {
    /// The broker's process, or the first of them.
    pub nats: LocalNats,
    /// The other servers of a cluster.
    pub others: Vec<LocalNats>,
    /// The sales CRM.
    pub bitrix24: Bitrix24,
    /// The attendance CRM.
    pub otmechalka: Otmechalka,
    /// An own connection for looking.
    pub broker: Broker,
    stages: BTreeMap<Stage, Program>,
    /// Processes of stages that another one has taken over from.
    relieved: Vec<Program>,
    environment: BTreeMap<String, String>,
    health: BTreeMap<Stage, SocketAddr>,
    links: BTreeMap<Link, Proxy>,
    room: Option<Arc<Room>>,
    folder: tempfile::TempDir,
    /// How often a stage was started that calls Bitrix24.
    callers: AtomicU64,
    /// Where the pushers that were started tell how they are.
    pushers: Mutex<Vec<SocketAddr>>,
}

/// A dead letter, and where it lies.
#[derive(Debug)]
pub struct Buried {
    /// Its subject.
    pub subject: String,
    /// What it says.
    pub letter: DeadLetter,
}

/// What an operator was told.
#[derive(Debug)]
pub struct Told {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Told {
    /// Reads the answer of a command with `--json`.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("no JSON: {self:?}"))
    }
}

/// What NATS, Bitrix24 and otmechalka are called in a room.
pub const NAMES: [&str; 3] = ["nats.test", "portal.test", "otmechalka.test"];

/// Longest time for anything to come to rest in a test; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Time in which a process answers that does not stand still.
const AWAKE: Duration = Duration::from_secs(2);

impl School {
    /// Starts describing a school; empty unless told otherwise.
    pub fn builder() -> SchoolBuilder {
        SchoolBuilder {
            dataset: "empty",
            contacts: 0,
            deals: 0,
            seed: 1,
            bitrix24_arguments: Vec::new(),
            otmechalka_arguments: Vec::new(),
            environment: BTreeMap::new(),
            is_observed: false,
            networked: None,
            room: None,
            subscribers: None,
            is_cluster: false,
            store: None,
        }
    }

    async fn open(builder: SchoolBuilder) -> anyhow::Result<School> {
        let folder = tempfile::tempdir()?;
        let mut links = BTreeMap::new();
        let access = match &builder.subscribers {
            Some(subscribers) => Some(let_users_in(folder.path(), subscribers).await?),
            None => None,
        };
        let (nats, others) = if builder.is_cluster {
            let mut routes = Routes::direct()?;
            if builder.networked.is_some() {
                lay_routes(&mut routes, &mut links).await?;
            }
            let mut servers =
                LocalNats::start_cluster(&folder.path().join("nats"), access.as_ref(), &routes).await?;
            (servers.remove(0), servers)
        } else {
            let store = builder.store.clone().unwrap_or_else(|| folder.path().join("nats"));
            let nats = match access {
                Some(access) => LocalNats::start_guarded(&store, access).await?,
                None => LocalNats::start(&store).await?,
            };
            (nats, Vec::new())
        };
        let urls: Vec<String> = std::iter::once(&nats).chain(&others).map(LocalNats::url).collect();
        let settings = nats_settings(&urls.join(","), &folder.path().join(CREDENTIALS).join("ops/seed"))?;
        let broker = Broker::connect("e2e", &settings, Health::default(), CancellationToken::new()).await?;
        bootstrap::apply(&broker, urls.len(), Mode::Make).await?;
        let (contacts, deals, seed) =
            (builder.contacts.to_string(), builder.deals.to_string(), builder.seed.to_string());
        let mut arguments =
            vec!["--dataset", builder.dataset, "--contacts", &contacts, "--deals", &deals, "--seed", &seed];
        // Updates cost nothing unless a test is about their cost.
        arguments.extend(["--update-seconds", "0.001"]);
        arguments.extend(builder.bitrix24_arguments.iter().map(String::as_str));
        let bitrix24 = Program::start("bitrix24-sim", &arguments, [], folder.path())?;
        let arguments: Vec<&str> = builder.otmechalka_arguments.iter().map(String::as_str).collect();
        let otmechalka = Program::start("otmechalka-sim", &arguments, [], folder.path())?;
        let bitrix24 = Bitrix24::started(bitrix24).await?;
        let otmechalka = Otmechalka::started(otmechalka).await?;
        if builder.dataset == "empty" {
            bitrix24
                .put_user(12288, serde_json::json!({"NAME": "Василий", "LAST_NAME": "Василенко"}))
                .await?;
        }
        let mut environment = default_environment(&nats, &bitrix24, &otmechalka, folder.path());
        environment.insert("NATS_URL".to_owned(), urls.join(","));
        if let Some(begin) = builder.networked {
            lay_links(begin, builder.room.is_some(), &mut environment, &mut links).await?;
        }
        environment.extend(builder.environment);
        let mut health = BTreeMap::new();
        for stage in Stage::ALL.into_iter().filter(|_| builder.is_observed) {
            health.insert(stage, free_address()?);
        }
        Ok(School {
            nats,
            others,
            bitrix24,
            otmechalka,
            broker,
            stages: BTreeMap::new(),
            relieved: Vec::new(),
            environment,
            health,
            links,
            room: builder.room,
            folder,
            callers: AtomicU64::new(0),
            pushers: Mutex::default(),
        })
    }

    /// Sets a variable for every stage that is started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Starts a stage.
    pub fn start(&mut self, stage: Stage) -> anyhow::Result<()> {
        self.start_with(stage, &[])
    }

    /// Starts a stage with variables of its own.
    pub fn start_with(&mut self, stage: Stage, variables: &[(&str, &str)]) -> anyhow::Result<()> {
        let link = self.links.get(&Link::Nats(stage));
        let link = link.map(|link| {
            let named = self.room.as_ref().map(|_| format!("{}:{}", NAMES[0], link.address().port()));
            ("NATS_URL", format!("nats://{}", named.unwrap_or_else(|| link.address().to_string())))
        });
        let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let own = self.told_at(stage, self.health.get(&stage).copied())?;
        let seed = Some(self.seed(stage.program())).filter(|seed| seed.is_file());
        let seed = seed.map(|seed| ("NATS_NKEY_SEED_FILE", seed.display().to_string()));
        let shared = self.environment.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let environment = shared.chain(own).chain(seed).chain(link).chain(variables);
        let entrance = self.room.as_ref().map(|room| room.entrance(self.folder.path())).unwrap_or_default();
        self.note_start(stage);
        let program =
            Program::start_behind(&entrance, stage.program(), &[], environment, self.folder.path())?;
        self.stages.insert(stage, program);
        Ok(())
    }

    /// Starts one more of a stage, as on a host of its own.
    pub fn replica(&self, stage: Stage, host: &str) -> anyhow::Result<Program> {
        let seed = Some(self.seed(stage.program())).filter(|seed| seed.is_file());
        let seed = seed.map(|seed| ("NATS_NKEY_SEED_FILE", seed.display().to_string()));
        let shared = self.environment.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let own = ("STATE_DIR", self.folder.path().join(format!("state-{host}")).display().to_string());
        let told_at = self.told_at(stage, None)?;
        self.note_start(stage);
        let environment = shared.chain([own]).chain(told_at).chain(seed);
        Program::start(stage.program(), &[], environment, self.folder.path())
    }

    /// Returns where a process that starts is to tell how it is: pushers at an address of their own if at no other, unless
    /// they are in a room.
    fn told_at(
        &self,
        stage: Stage,
        address: Option<SocketAddr>,
    ) -> std::io::Result<Option<(&'static str, String)>> {
        let address = match address {
            None if stage == Stage::Pusher && self.room.is_none() => Some(free_address()?),
            address => address,
        };
        if let (Stage::Pusher, Some(address)) = (stage, address) {
            let mut pushers = self.pushers.lock().unwrap_or_else(PoisonError::into_inner);
            pushers.retain(|known| *known != address);
            pushers.push(address);
        }
        Ok(address.map(|address| ("HEALTH_LISTEN", address.to_string())))
    }

    fn note_start(&self, stage: Stage) {
        if matches!(stage, Stage::Producer | Stage::StatusWriter) {
            self.callers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how often a stage that calls Bitrix24 was started beside or after the first of its kind.
    pub fn restarts(&self) -> u64 {
        self.callers.load(Ordering::Relaxed).saturating_sub(2)
    }

    /// Returns all NATS servers.
    pub fn servers(&mut self) -> impl Iterator<Item = &mut LocalNats> {
        std::iter::once(&mut self.nats).chain(&mut self.others)
    }

    /// Returns a running stage.
    pub fn stage(&mut self, stage: Stage) -> anyhow::Result<&mut Program> {
        self.stages.get_mut(&stage).with_context(|| format!("{stage:?} does not run"))
    }

    /// Kills a stage and starts it so that it dies by itself at a place of `runtime/src/faults.rs`.
    pub async fn doom(&mut self, stage: Stage, place: &str) -> anyhow::Result<()> {
        if let Some(program) = self.stages.get_mut(&stage) {
            program.kill().await?;
        }
        require_fault_points(stage.program())?;
        self.start_with(stage, &[(runtime::faults::CRASH_VARIABLE, place)])
    }

    /// Starts another process of a stage beside the one that is there, which stays as it is.
    pub fn relieve(&mut self, stage: Stage) -> anyhow::Result<()> {
        self.relieved.extend(self.stages.remove(&stage));
        if let Some(address) = self.health.get_mut(&stage) {
            *address = free_address()?;
        }
        // A cache belongs to one process.
        let own = self.folder.path().join(format!("state-{}", self.relieved.len()));
        self.start_with(stage, &[("STATE_DIR", &own.display().to_string())])
    }

    /// Has what a killed mapper or pusher held come again sooner than it does in earnest. Only for tests in which no
    /// stage stands still: those believe in the ack wait that is declared.
    pub async fn shorten_ack_wait(&self, ack_wait: Duration) -> anyhow::Result<()> {
        for definition in consumers().into_iter().filter(|definition| definition.max_ack_pending == 1) {
            let stream = self.broker.jetstream().get_stream(definition.stream).await?;
            let consumer: PullConsumer =
                self.broker.jetstream().get_consumer_from_stream(&definition.name, definition.stream).await?;
            let mut config = pull::Config::try_from_consumer_config(consumer.cached_info().config.clone())
                .map_err(|error| anyhow::anyhow!("consumer {}: {error}", definition.name))?;
            config.ack_wait = ack_wait;
            stream.update_consumer(config).await?;
        }
        Ok(())
    }

    /// Lets all processes go on that others have taken over from.
    pub fn thaw_relieved(&self) -> anyhow::Result<()> {
        self.relieved.iter().try_for_each(Program::thaw)
    }

    /// Returns name and id of every process that runs.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let stages = self.stages.values().chain(&self.relieved);
        let stages = stages.map(|program| (program.name(), program.process_id()));
        let others = [
            ("nats-server", self.nats.process_id()),
            ("bitrix24-sim", self.bitrix24.program.process_id()),
            ("otmechalka-sim", self.otmechalka.program.process_id()),
        ];
        stages.chain(others).filter_map(|(name, id)| Some((name.to_owned(), id?))).collect()
    }

    /// Waits until a doomed stage has died.
    pub async fn until_dead(&mut self, stage: Stage) -> anyhow::Result<()> {
        let status = self.stage(stage)?.ended(PATIENCE).await?;
        let is_killed = status.signal() == Some(Signal::SIGKILL as i32);
        anyhow::ensure!(is_killed, "{stage:?} ended otherwise than by its doom: {status}");
        Ok(())
    }

    /// Spoils a stretch of network, or clears it up.
    pub fn weather(&self, link: Link, weather: Weather) -> anyhow::Result<()> {
        self.links.get(&link).with_context(|| format!("no link {link:?}"))?.set(weather);
        Ok(())
    }

    /// Spoils, or clears up, the ways between a server of a cluster and the others; those of the stages stay as they are.
    pub fn weather_between_servers(&self, server: usize, weather: Weather) -> anyhow::Result<()> {
        for other in (0..=self.others.len()).filter(|other| *other != server) {
            self.weather(Link::Route(server, other), weather)?;
            self.weather(Link::Route(other, server), weather)?;
        }
        Ok(())
    }

    /// Has a stretch of network lead elsewhere; returns where it led.
    pub fn lead(&self, link: Link, target: SocketAddr) -> anyhow::Result<SocketAddr> {
        Ok(self.links.get(&link).with_context(|| format!("no link {link:?}"))?.lead_to(target))
    }

    /// Clears every stretch of network up.
    pub fn clear_up(&self) {
        self.links.values().for_each(|link| link.set(Weather::Clear));
    }

    /// Kills a stage and starts it again.
    pub async fn kill_and_start(&mut self, stage: Stage) -> anyhow::Result<()> {
        self.stage(stage)?.kill().await?;
        self.start(stage)
    }

    /// Runs `rollcall` to its end, with the settings of the stages.
    pub async fn rollcall(&self, arguments: &[&str]) -> anyhow::Result<Told> {
        let mut command = tokio::process::Command::new(program_path("rollcall")?);
        command.args(arguments).env_clear().envs(&self.environment).current_dir(self.folder.path());
        let seed = Some(self.seed("ops")).filter(|seed| seed.is_file());
        command.envs(seed.map(|seed| ("NATS_NKEY_SEED_FILE", seed)));
        let finished = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
        let output = finished.with_context(|| format!("rollcall {arguments:?} did not end"))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().context("rollcall was killed by a signal")?;
        Ok(Told { code, out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// Starts `rollcall` with the settings of the stages, and does not wait for its end.
    pub fn begin(&self, arguments: &[&str]) -> anyhow::Result<Program> {
        let environment = self.environment.iter().map(|(name, value)| (name.as_str(), value.clone()));
        Program::start("rollcall", arguments, environment, self.folder.path())
    }

    /// Starts the status page; returns it and its address.
    pub async fn serve(&self) -> anyhow::Result<(Program, String)> {
        let seed = Some(self.seed("page")).filter(|seed| seed.is_file());
        let seed = seed.map(|seed| ("NATS_NKEY_SEED_FILE", seed.display().to_string()));
        let environment =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.clone())).chain(seed);
        let arguments = ["serve", "--listen", "127.0.0.1:0"];
        let mut program = Program::start("rollcall", &arguments, environment, self.folder.path())?;
        let line = program.first_line().await?;
        let address = line.split_whitespace().find(|word| word.starts_with("http"));
        let address = address.with_context(|| format!("no address in `{line}`"))?.to_owned();
        Ok((program, address))
    }

    /// Returns where a stage tells how it is.
    pub fn observed_at(&self, stage: Stage) -> anyhow::Result<SocketAddr> {
        self.health.get(&stage).copied().context("the school is not observed")
    }

    /// Returns what a stage answers at one of its paths: the status and the text.
    pub async fn ask(&self, stage: Stage, path: &str) -> anyhow::Result<(u16, String)> {
        let address = self.observed_at(stage)?;
        let response = reqwest::get(format!("http://{address}{path}")).await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// Returns the numbers that a stage tells.
    pub async fn metrics(&self, stage: Stage) -> anyhow::Result<Scrape> {
        let (status, text) = self.ask(stage, "/metrics").await?;
        anyhow::ensure!(status == 200, "/metrics of {stage:?}: {status}");
        Scrape::parse(&text)
    }

    /// Returns the file with the secret of a user of a guarded NATS; extra consumers are under `consumers/`.
    pub fn seed(&self, user: &str) -> PathBuf {
        self.folder.path().join(CREDENTIALS).join(user).join("seed")
    }

    /// Makes credentials for one more extra consumer and has the running server read them.
    pub async fn admit(&self, subscriber: &str) -> anyhow::Result<()> {
        make_credentials(self.folder.path(), &[subscriber.to_owned()]).await?;
        self.reload().await
    }

    /// Has a guarded NATS read its users anew.
    pub async fn reload(&self) -> anyhow::Result<()> {
        let id = self.nats.process_id().context("NATS does not run")?;
        // The first makes the account, and only the second connects it to JetStream (nats-server 2.15.1).
        for _ in 0..2 {
            let before = self.reloads()?;
            signal(id, Signal::SIGHUP)?;
            eventually("NATS reads its configuration", PATIENCE, || async {
                Ok((self.reloads()? > before).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    fn reloads(&self) -> anyhow::Result<usize> {
        Ok(self.nats_log()?.matches("Reloaded server configuration").count())
    }

    /// Returns what the NATS server logged so far.
    pub fn nats_log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.folder.path().join("nats/nats-server.log"))?)
    }

    /// Returns the folder with everything that its processes keep.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Returns the folder of the stages' caches.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Returns the file that a stage logs to.
    pub fn log_file(&self, stage: Stage) -> PathBuf {
        self.folder.path().join(format!("{}.log", stage.program()))
    }

    /// Returns everything that any process logged.
    pub fn logs(&self) -> anyhow::Result<String> {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.folder.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                all.push_str(&String::from_utf8_lossy(&std::fs::read(path)?));
            }
        }
        Ok(all)
    }

    /// Returns how many messages any stage has not dealt with.
    pub async fn lag(&self) -> anyhow::Result<u64> {
        let mut lag = 0;
        for definition in consumers() {
            let consumer: PullConsumer =
                self.broker.jetstream().get_consumer_from_stream(&definition.name, definition.stream).await?;
            let info = consumer.cached_info();
            lag += info.num_pending + info.num_ack_pending as u64;
        }
        Ok(lag + self.parked().await?)
    }

    /// Returns how many commands wait for another try.
    pub async fn parked(&self) -> anyhow::Result<u64> {
        use futures::TryStreamExt;
        let stream = self.broker.jetstream().get_stream(schemas::streams::COMMANDS.name).await?;
        let subjects: Vec<(String, usize)> =
            stream.info_with_subjects("crm.later.>").await?.try_collect().await?;
        Ok(subjects.iter().map(|(_, count)| *count as u64).sum())
    }

    /// Returns how many messages a stream holds.
    pub async fn messages(&self, stream: &str) -> anyhow::Result<u64> {
        Ok(self.broker.jetstream().get_stream(stream).await?.cached_info().state.messages)
    }

    /// Returns what a stream holds under such subjects, `>` for all, in its order.
    pub async fn stored(&self, stream: &str, subjects: &str) -> anyhow::Result<Vec<StoredMessage>> {
        let log = self.broker.log(stream).await?;
        let (mut stored, mut from) = (Vec::new(), 1);
        while let Some(message) = log.next(subjects, from).await.map_err(anyhow::Error::msg)? {
            from = message.sequence + 1;
            stored.push(message);
        }
        Ok(stored)
    }

    /// Returns every dead letter, in order.
    pub async fn dead_letters(&self) -> anyhow::Result<Vec<Buried>> {
        let stored = self.stored(DEAD_LETTERS.name, "dlq.>").await?;
        let read = |message: StoredMessage| {
            Ok(Buried { letter: serde_json::from_slice(&message.payload)?, subject: message.subject })
        };
        stored.into_iter().map(read).collect()
    }

    /// Returns how many polls each entity has seen completed.
    pub async fn polls(&self) -> anyhow::Result<BTreeMap<Entity, u64>> {
        let bucket = self.broker.bucket(&CHECKPOINTS).await?;
        let mut polls = BTreeMap::new();
        for entity in Entity::ALL {
            let count = match bucket.get(entity.token()).await? {
                Some((value, _)) => serde_json::from_slice::<Checkpoint>(&value)?.polls,
                None => 0,
            };
            polls.insert(entity, count);
        }
        Ok(polls)
    }

    /// Waits for so many further polls of every entity.
    pub async fn after_polls(&self, more: u64) -> anyhow::Result<()> {
        let before = self.polls().await?;
        eventually("further polls", PATIENCE, || async {
            let now = self.polls().await?;
            Ok(Entity::ALL.iter().all(|entity| now[entity] >= before[entity] + more).then_some(()))
        })
        .await
    }

    /// Waits until everything that Bitrix24 holds now has been dealt with: the flow is empty, stays empty over
    /// enough polls to have seen every edit, and is empty again after the echo of the last statuses.
    pub async fn caught_up(&self) -> anyhow::Result<()> {
        // The lag of a poll keeps the last seconds back, so three polls of a second are needed to see an edit.
        self.after_polls(4).await?;
        eventually("an empty flow", PATIENCE, || async {
            // A cluster that elects a leader answers later.
            if self.lag().await.ok() != Some(0) || self.has_update_in_doubt().await {
                return Ok(None);
            }
            let raw = self.messages(schemas::streams::RAW.name).await?;
            self.after_polls(2).await?;
            let quiet =
                self.lag().await.ok() == Some(0) && self.messages(schemas::streams::RAW.name).await? == raw;
            Ok(quiet.then_some(()))
        })
        .await
        .map_err(|error| match self.logs() {
            Ok(logs) => error.context(tail(&logs)),
            Err(_) => error,
        })
    }

    /// Tells whether an update may still be carried out of which a running pusher has to see what becomes.
    async fn has_update_in_doubt(&self) -> bool {
        let pushers = self.pushers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        futures::future::join_all(pushers.into_iter().map(has_update_in_doubt)).await.contains(&true)
    }

    /// Compares both CRMs with what the oracle says they must hold. Returns every difference.
    pub async fn differences(&self) -> anyhow::Result<Vec<String>> {
        self.judged(Value::Null).await
    }

    /// Compares both CRMs with what the oracle says; `more` is asked of it besides.
    pub(crate) async fn judged(&self, more: Value) -> anyhow::Result<Vec<String>> {
        let input = serde_json::json!({
            "more": more,
            "bitrix24": self.bitrix24.state().await?,
            "otmechalka": self.otmechalka.state().await?,
            "otmechalka_history": self.otmechalka.history().await?,
            "bitrix24_history": self.bitrix24.history().await?,
            "settings": {
                "sync_start_date": self.environment["SYNC_START_DATE"],
                "contacts_since": self.environment["SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP"],
                "deals_since": self.environment["SYNC_DEAL_LAST_MODIFY_TIMESTAMP"],
                "status_field": self.environment["CONTACT_STATUS_FIELD"],
            },
        });
        oracle::differences(&input).await
    }

    /// Fails with every difference between what is and what must be.
    pub async fn assert_consistent(&self) -> anyhow::Result<()> {
        let differences = self.differences().await?;
        if differences.is_empty() {
            return Ok(());
        }
        bail!("{} differences:\n{}", differences.len(), differences.join("\n"))
    }
}

/// Returns an address that nobody listens at.
pub fn free_address() -> std::io::Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, free_port()?).into())
}

/// Tells whether a pusher still has to see what becomes of an update whose call failed. One that is dead or stands still has
/// nothing to see to.
async fn has_update_in_doubt(pusher: SocketAddr) -> bool {
    let asking = async {
        let told = reqwest::get(format!("http://{pusher}/metrics")).await.ok()?.text().await.ok()?;
        Some(Scrape::parse(&told).ok()?.sum("rollcall_otmechalka_updates_in_doubt", &[]))
    };
    matches!(tokio::time::timeout(AWAKE, asking).await, Ok(Some(updates)) if updates != 0.0)
}

fn tail(logs: &str) -> String {
    let lines: Vec<&str> = logs.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// Leads the ways between the servers of a cluster through a network that can be spoiled.
async fn lay_routes(routes: &mut Routes, links: &mut BTreeMap<Link, Proxy>) -> std::io::Result<()> {
    for (from, ways) in routes.ways.iter_mut().enumerate() {
        for (to, way) in ways.iter_mut().enumerate().filter(|(to, _)| *to != from) {
            let proxy = Proxy::to((Ipv4Addr::LOCALHOST, *way).into()).await?;
            *way = proxy.address().port();
            links.insert(Link::Route(from, to), proxy);
        }
    }
    Ok(())
}

/// Leads the way to both CRMs, and that of each stage to NATS, through a network that can be spoiled.
async fn lay_links(
    begin: IpAddr,
    is_named: bool,
    environment: &mut BTreeMap<String, String>,
    links: &mut BTreeMap<Link, Proxy>,
) -> anyhow::Result<()> {
    let urls = environment["NATS_URL"].clone();
    let servers: Vec<&str> = urls.split(',').collect();
    if let [nats] = servers[..] {
        for stage in Stage::ALL {
            links.insert(Link::Nats(stage), Proxy::at(begin, address_in(nats)?).await?);
        }
    } else {
        let mut ways = Vec::new();
        for (number, server) in servers.into_iter().enumerate() {
            let proxy = Proxy::at(begin, address_in(server)?).await?;
            ways.push(format!("nats://{}", proxy.address()));
            links.insert(Link::Server(number), proxy);
        }
        environment.insert("NATS_URL".to_owned(), ways.join(","));
    }
    let crms =
        [("BITRIX24_WEBHOOK_URL", Link::Bitrix24, NAMES[1]), ("OTMECHALKA_URL", Link::Otmechalka, NAMES[2])];
    for (name, link, host) in crms {
        let url = &environment[name];
        let target = address_in(url)?;
        let proxy = Proxy::at(begin, target).await?;
        let begin = proxy.address();
        let begin = if is_named { format!("{host}:{}", begin.port()) } else { begin.to_string() };
        let url = url.replacen(&target.to_string(), &begin, 1);
        environment.insert(name.to_owned(), url);
        links.insert(link, proxy);
    }
    Ok(())
}

fn address_in(url: &str) -> anyhow::Result<SocketAddr> {
    let rest = url.split_once("://").context("no scheme in an address")?.1;
    Ok(rest.split('/').next().unwrap_or_default().parse()?)
}

/// Folder of the secrets of a guarded NATS.
const CREDENTIALS: &str = "credentials";

/// Makes a user for each stage and each subscriber, and the configuration that lets them in.
async fn let_users_in(folder: &Path, subscribers: &[String]) -> anyhow::Result<Access> {
    let into = make_credentials(folder, subscribers).await?;
    let seed = std::fs::read_to_string(into.join("ops/seed"))?.trim().to_owned();
    Ok(Access { config: into.join("server/users.conf"), seed: Some(seed.into()) })
}

async fn make_credentials(folder: &Path, subscribers: &[String]) -> anyhow::Result<PathBuf> {
    let into = folder.join(CREDENTIALS);
    let mut command = tokio::process::Command::new(program_path("rollcall")?);
    command.arg("credentials").arg("--into").arg(&into);
    subscribers.iter().for_each(|name| {
        command.args(["--consumer", name]);
    });
    let output = command.output().await?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(into)
}

/// Takes the secret where there is one.
fn nats_settings(url: &str, seed: &Path) -> anyhow::Result<NatsSettings> {
    let mut settings = vec![("NATS_URL".to_owned(), url.to_owned())];
    if seed.is_file() {
        settings.push(("NATS_NKEY_SEED_FILE".to_owned(), seed.display().to_string()));
    }
    let source = Source::new(settings);
    let reader = Reader::new(&source);
    let settings = NatsSettings::read(&reader);
    Ok(reader.finish(|| settings)?)
}

fn default_environment(
    nats: &LocalNats,
    bitrix24: &Bitrix24,
    otmechalka: &Otmechalka,
    folder: &Path,
) -> BTreeMap<String, String> {
    let state = folder.join("state").display().to_string();
    [
        ("NATS_URL", nats.url()),
        ("BITRIX24_WEBHOOK_URL", bitrix24.webhook_url.clone()),
        ("OTMECHALKA_URL", otmechalka.url.clone()),
        ("SYNC_START_DATE", "2020-12-22".to_owned()),
        ("SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP", "2020-12-22".to_owned()),
        ("SYNC_DEAL_LAST_MODIFY_TIMESTAMP", "2020-12-22".to_owned()),
        ("CONTACT_SYNC_INTERVAL", "1s".to_owned()),
        ("DEAL_SYNC_INTERVAL", "1s".to_owned()),
        ("SYNC_LAG", "1s".to_owned()),
        ("CONTACT_STATUS_FIELD", "UF_CRM_SYNC_STATUS".to_owned()),
        ("DEAL_STATUS_FIELD", "UF_CRM_SYNC_STATUS".to_owned()),
        ("STATE_DIR", state),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
