//! `main` of every stage: settings, logs, signals, connection, exit code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::resource::{Resource, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, NatsSettings};
use crate::faults;
use crate::health::{self, Health};
use crate::logs::{self, LogFormat};
use crate::metrics::{self, Metrics};
use crate::settings::{Reader, SettingsError, Source, warn_about_open_files};
use crate::trace::{TraceSettings, Tracer};

/// Exit code for settings that cannot be used.
pub const EXIT_SETTINGS: u8 = 64;

/// Exit code for a stage that could not go on.
pub const EXIT_FAILED: u8 = 1;

/// What every stage needs.
#[derive(Clone)]
pub struct Settings {
    /// How to reach NATS.
    pub nats: NatsSettings,
    /// Folder of the local caches.
    pub state_dir: PathBuf,
    /// Address where health and metrics are told, if that is wanted.
    pub health_listen: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where traces are sent, if they are wanted.
    pub traces: Option<TraceSettings>,
}

impl Settings {
    /// Reads them.
    pub fn read(reader: &Reader<'_>) -> Option<Settings> {
        let nats = NatsSettings::read(reader);
        let state_dir = reader.state_dir();
        let health_listen = read_health_listen(reader);
        let log_format = LogFormat::read(reader);
        let traces = TraceSettings::read(reader);
        Some(Settings {
            nats: nats?,
            state_dir: state_dir?,
            health_listen: health_listen?,
            log_format: log_format?,
            traces: traces?,
        })
    }
}

fn read_health_listen(reader: &Reader<'_>) -> Option<Option<SocketAddr>> {
    reader.with_default("HEALTH_LISTEN", None, "an address and port", "127.0.0.1:9464", |text| {
        text.parse().ok().map(Some)
    })
}

/// What a stage is run with.
#[derive(Clone)]
pub struct Context {
    /// The connection.
    pub broker: Broker,
    /// Settings that every stage has.
    pub settings: Settings,
    /// What the health endpoint tells.
    pub health: Health,
    /// Cancelled when the stage is to stop: finish what is in flight, take nothing new.
    pub stopping: CancellationToken,
}

/// A stage: how it reads its settings, and what it does.
pub trait Stage {
    /// Name of the binary, of its consumer and of its local cache.
    const NAME: &'static str;
    /// First line of `--help`.
    const ABOUT: &'static str;
    /// What it needs to be told.
    type Config: Send;

    /// Reads the stage's own settings. Gives `None` after noting a problem with the reader.
    fn configure(reader: &Reader<'_>) -> Option<Self::Config>;

    /// Works until `context.stopping` is cancelled.
    fn run(config: Self::Config, context: Context) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Reads the settings of a stage, reporting every mistake at once.
pub fn configure<S: Stage>(source: &Source) -> Result<(Settings, S::Config), SettingsError> {
    let reader = Reader::new(source);
    let (settings, config) = (Settings::read(&reader), S::configure(&reader));
    reader.finish(|| Some((settings?, config?)))
}

/// Runs a stage as a process. `check` as the only argument just reads the settings, `health` asks a running stage.
pub fn main<S: Stage>() -> ExitCode {
    leave_no_core_dump();
    logs::hide_panics();
    let argument = std::env::args().nth(1);
    let source = Source::from_process();
    match argument.as_deref() {
        None | Some("check" | "health") => {}
        Some("--version" | "-V") => {
            let build = if faults::COMPILED_IN { " with fault points" } else { "" };
            println!("{} {}{build}", S::NAME, env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some("--help" | "-h") => {
            println!("{}\n\n{}", S::ABOUT, USAGE.replace("STAGE", S::NAME));
            return ExitCode::SUCCESS;
        }
        Some(_) => {
            eprintln!("{}", USAGE.replace("STAGE", S::NAME));
            return ExitCode::from(EXIT_SETTINGS);
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{}: cannot start: {error}", S::NAME);
            return ExitCode::from(EXIT_FAILED);
        }
    };
    if argument.as_deref() == Some("health") {
        return runtime.block_on(ask_health(&source));
    }
    let (settings, config) = match configure::<S>(&source) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("{}: {error}", S::NAME);
            return ExitCode::from(EXIT_SETTINGS);
        }
    };
    if argument.is_some() {
        return ExitCode::SUCCESS;
    }
    logs::init(settings.log_format);
    warn_about_open_files(&source);
    let code = runtime.block_on(run::<S>(settings, config));
    // A name lookup that hangs on its thread must not keep the process.
    runtime.shutdown_background();
    code
}

/// Has the kernel keep no image of this process, which would hold its secrets, should it crash.
///
/// A limit of one byte and not of none: where the host pipes such images to a program, none is no limit.
pub fn leave_no_core_dump() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 1, 1) {
        eprintln!("cannot turn core dumps off: {error}");
    }
}

const USAGE: &str = "Usage: STAGE [check | health | --version | --help]\n\n\
    Without an argument it works until it gets SIGTERM or SIGINT. `check` only reads the settings.\n\
    `health` asks the running stage at HEALTH_LISTEN and exits with 0 when it is ready.\n\
    Settings are environment variables; see .env.sample.";

async fn ask_health(source: &Source) -> ExitCode {
    let reader = Reader::new(source);
    match read_health_listen(&reader) {
        Some(Some(listen)) if health::ask(listen).await => ExitCode::SUCCESS,
        Some(Some(_)) => ExitCode::from(EXIT_FAILED),
        _ => {
            eprintln!("HEALTH_LISTEN is not set to an address and port");
            ExitCode::from(EXIT_SETTINGS)
        }
    }
}

async fn run<S: Stage>(settings: Settings, config: S::Config) -> ExitCode {
    let stopping = CancellationToken::new();
    if let Err(error) = stop_on_signal(stopping.clone()) {
        tracing::error!("Cannot listen for signals: {error}");
        return ExitCode::from(EXIT_FAILED);
    }
    let (health, metrics) = (Health::default(), Metrics::new(S::NAME));
    let _refresh = metrics::register_process(&metrics, health.clone(), env!("CARGO_PKG_VERSION"));
    if let Some(listen) = settings.health_listen {
        let (health, metrics) = (health.clone(), metrics.clone());
        tokio::spawn(async move {
            if let Err(error) = health::serve(listen, health, metrics).await {
                tracing::error!("Health endpoint at {listen}: {error}");
            }
        });
    }
    let (tracer, collector) = Tracer::start(S::NAME, settings.traces.as_ref());
    tracing::info!("Starting {} {}", S::NAME, env!("CARGO_PKG_VERSION"));
    faults::confess();
    let in_the_clear = settings.nats.in_the_clear();
    if !in_the_clear.is_empty() {
        tracing::warn!(
            "NATS at {} is reached without TLS: whoever is on the way can read every record. Set NATS_CA_FILE",
            in_the_clear.join(", ")
        );
    }
    if let Some(host) = settings.traces.as_ref().and_then(TraceSettings::in_the_clear) {
        tracing::warn!(
            "The collector at {host} is reached without TLS: whoever is on the way can read the spans and its key. Use https"
        );
    }
    let broker = match Broker::connect(S::NAME, &settings.nats, health.clone(), stopping.clone()).await {
        Ok(broker) => broker.counting_in(&metrics).tracing_to(tracer),
        Err(error) => {
            tracing::error!("Cannot start: {error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let context = Context { broker, settings, health, stopping: stopping.clone() };
    let result = tokio::select! {
        result = S::run(config, context) => result,
        () = force_stop(stopping.clone()) => {
            tracing::warn!("Did not finish within the grace period; what was in flight will be delivered again");
            Ok(())
        }
    };
    if let Some(collector) = collector {
        collector.finish().await;
    }
    match result {
        Ok(()) => {
            tracing::info!("Stopped");
            ExitCode::SUCCESS
        }
        Err(_) if stopping.is_cancelled() => {
            tracing::info!("Stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("Stopped: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Longest time for what is in flight once the stage is told to stop.
const GRACE: std::time::Duration = std::time::Duration::from_secs(8);

async fn force_stop(stopping: CancellationToken) {
    stopping.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

fn stop_on_signal(stopping: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("Told to stop; finishing what is in flight");
        stopping.cancel();
    });
    Ok(())
}
