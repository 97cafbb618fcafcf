//! A strict double of a Bitrix24 portal's REST interface; see the crate's README for its use.
//!
//! From the wire inwards: `listener` and `rest` take requests, `run` carries them out in the portal's
//! time, `methods` are the methods, `state` is the portal's memory, `journal` keeps it on disk.
//! `admin` is the door for people and tests; `faults` and `disturb` make things go wrong.

mod admin;
mod clock;
mod dates;
mod disturb;
mod faults;
mod filter;
mod history;
mod journal;
mod limits;
mod listener;
mod methods;
mod php;
mod record;
mod rest;
mod run;
mod schema;
mod settings;
mod state;
mod userfields;
mod values;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use chrono::{DateTime, FixedOffset, Utc};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use self::clock::{Clock, ClockAnchor};
use self::journal::{Journal, Snapshot};
use self::listener::{Peer, ResettableListener};
use self::run::Portal;
pub use self::settings::{Accounting, Settings};
use self::state::State;
use crate::dataset::{self, Dataset};
use crate::door::{Door, Tls};

/// How often buffered changes are handed to the system; a killed process loses at most these.
const FLUSH_EVERY: Duration = Duration::from_millis(250);

/// The records a new portal starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StartingData {
    /// Lifelike, mistakes included.
    Demo,
    /// All valid, for measuring.
    Plain,
    Empty,
}

/// How to start a portal.
#[derive(Debug, Clone)]
pub struct Options {
    pub listen: SocketAddr,
    /// A second way in, whose address callers are told then.
    pub tls: Option<Tls>,
    pub data: StartingData,
    pub seed: u64,
    pub contacts: usize,
    pub deals: usize,
    /// Keeps the portal in this folder; in memory only when absent.
    pub state_dir: Option<PathBuf>,
    pub clock_speed: f64,
    /// The portal's time at its first start; the machine's time when absent.
    pub now: Option<DateTime<FixedOffset>>,
    /// The webhook's code; a kept or invented one when absent.
    pub secret: Option<String>,
    /// Replaces some of the kept or usual [`Settings`]; see `GET /admin/settings` for all of them.
    pub settings: Value,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            data: StartingData::Demo,
            seed: 1,
            contacts: 400,
            deals: 600,
            state_dir: None,
            clock_speed: 1.0,
            now: None,
            secret: None,
            settings: Value::Null,
        }
    }
}

/// A portal that could not be started or saved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("read or write the state folder {0}")]
    StateFolder(PathBuf, #[source] io::Error),
    #[error("use the settings given: {0}")]
    Settings(String),
    #[error("understand the state kept in {0}")]
    KeptState(PathBuf, #[source] serde_json::Error),
}

/// A running portal.
pub struct Simulator {
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    portal: Arc<Portal>,
    state_dir: Option<PathBuf>,
    servers: Vec<JoinHandle<io::Result<()>>>,
    flusher: JoinHandle<()>,
}

impl Simulator {
    /// Starts a portal; it answers as soon as this returns.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let listener =
            TcpListener::bind(options.listen).await.map_err(|error| Error::Listen(options.listen, error))?;
        let address = listener.local_addr().map_err(|error| Error::Listen(options.listen, error))?;
        let portal = open(&options)?;
        let router = Router::new()
            .nest("/admin", admin::routes())
            .route("/rest/{*call}", any(rest::handle))
            .with_state(Arc::clone(&portal));
        let mut doors = vec![Door::Plain(listener)];
        let mut tls_address = None;
        if let Some(tls) = &options.tls {
            let failed = |error| Error::Listen(tls.listen, error);
            let door = Door::over_tls(tls).await.map_err(failed)?;
            tls_address = Some(door.local_addr().map_err(failed)?);
            doors.push(door);
        }
        let serve = |door| {
            let service = router.clone().into_make_service_with_connect_info::<Peer>();
            tokio::spawn(axum::serve(ResettableListener(door), service).into_future())
        };
        let servers = doors.into_iter().map(serve).collect();
        let flusher = tokio::spawn(flush_regularly(Arc::clone(&portal)));
        Ok(Self { address, tls_address, portal, state_dir: options.state_dir, servers, flusher })
    }

    /// Returns the address of the inbound webhook; it contains its code.
    pub fn webhook_url(&self) -> String {
        let state = self.portal.state();
        let origin = match self.tls_address {
            Some(address) => format!("https://{address}"),
            None => format!("http://{}", self.address),
        };
        format!("{origin}/rest/{}/{}/", state.settings.webhook_user, state.settings.secret)
    }

    /// Returns the address of the admin interface.
    pub fn admin_url(&self) -> String {
        format!("http://{}/admin/", self.address)
    }

    /// Stops answering, whatever is in flight, and saves.
    pub fn stop(self) -> Result<(), Error> {
        self.servers.iter().for_each(JoinHandle::abort);
        self.flusher.abort();
        let flushed = self.portal.state().journal.flush();
        flushed.map_err(|error| Error::StateFolder(self.state_dir.unwrap_or_default(), error))
    }
}

/// Restores the portal that was kept, or makes a new one.
fn open(options: &Options) -> Result<Arc<Portal>, Error> {
    let Some(folder) = &options.state_dir else {
        return new_portal(options);
    };
    let failed = |error| Error::StateFolder(folder.clone(), error);
    let portal = match Journal::read(folder).map_err(failed)? {
        Some(snapshot) if !snapshot.is_empty() => restored_portal(options, snapshot, folder)?,
        _ => new_portal(options)?,
    };
    {
        let anchor = portal.clock.anchor();
        let mut state = portal.state();
        let journal = Journal::create(folder, |journal| state.keep_all(anchor, journal));
        state.journal = journal.map_err(failed)?;
    }
    Ok(portal)
}

/// Puts what the command line says over the kept or usual settings.
fn settings(options: &Options, kept: Option<Settings>) -> Result<Settings, Error> {
    let is_new = kept.is_none();
    let settings = kept.unwrap_or_default();
    let patch = if options.settings.is_null() { json!({}) } else { options.settings.clone() };
    let mut settings = settings.patched(&patch).map_err(Error::Settings)?;
    match &options.secret {
        Some(secret) => settings.secret.clone_from(secret),
        None if is_new => settings.secret = invent_secret(),
        None => {}
    }
    Ok(settings)
}

fn new_portal(options: &Options) -> Result<Arc<Portal>, Error> {
    let now = options.now.map_or_else(Utc::now, |now| now.to_utc());
    let settings = settings(options, None)?;
    let local = settings.zone().localize(now);
    let data = match options.data {
        StartingData::Demo => dataset::demo(options.seed, options.contacts, options.deals, local),
        StartingData::Plain => dataset::plain(options.contacts, options.deals, local),
        StartingData::Empty => Dataset {
            contacts: Vec::new(),
            deals: Vec::new(),
            product_rows: BTreeMap::new(),
            users: dataset::plain(0, 0, local).users,
        },
    };
    let seconds = now.timestamp_micros() as f64 / 1e6;
    let state = State::from_dataset(settings, options.seed, data, seconds);
    Ok(Portal::new(Clock::starting_at(seconds, options.clock_speed), state))
}

fn restored_portal(options: &Options, snapshot: Snapshot, folder: &Path) -> Result<Arc<Portal>, Error> {
    let failed = |error| Error::KeptState(folder.to_owned(), error);
    let meta = |key: &str| snapshot.get("meta").and_then(|meta| meta.get(key)).cloned().unwrap_or_default();
    let anchor: Option<ClockAnchor> = serde_json::from_value(meta("clock")).map_err(failed)?;
    let kept: Option<Settings> = serde_json::from_value(meta("settings")).map_err(failed)?;
    let clock = match anchor {
        Some(anchor) => Clock::resumed(anchor, options.clock_speed),
        None => Clock::starting_at(Utc::now().timestamp_micros() as f64 / 1e6, options.clock_speed),
    };
    let now = clock.now();
    let state =
        State::from_snapshot(settings(options, kept)?, options.seed, snapshot, now).map_err(failed)?;
    Ok(Portal::new(clock, state))
}

/// Invents a webhook code as long as the portal's own.
fn invent_secret() -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..16).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

async fn flush_regularly(portal: Arc<Portal>) {
    let mut ticks = tokio::time::interval(FLUSH_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = portal.state().journal.flush() {
            tracing::error!("Cannot keep the portal's state: {error}");
            return;
        }
    }
}
