//! Logs: one line per fact on standard error, ids only.

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::Reader;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// Reads `LOG_FORMAT`.
    pub fn read(reader: &Reader<'_>) -> Option<LogFormat> {
        reader.with_default("LOG_FORMAT", LogFormat::Text, "`text` or `json`", "json", |text| match text {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        })
    }
}

/// Tells whether what is logged there may be: whatever `RUST_LOG` asks for, whole messages may not.
///
/// Below `info` the NATS client logs messages as they are sent and read, names and telephones included.
fn is_of_ids(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || !metadata.target().starts_with("async_nats")
}

/// Starts logging; `RUST_LOG` selects what is shown, `info` by default.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn"));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let subscriber = tracing_subscriber::registry().with(filter_fn(is_of_ids)).with(filter);
    // A second start in one process, as in tests, keeps the first one's settings.
    let _already_started = match format {
        LogFormat::Text => subscriber.with(lines).try_init(),
        LogFormat::Json => subscriber.with(lines.json()).try_init(),
    };
}

/// Has a panic tell its place alone: its message may quote a record or a secret.
pub fn hide_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        if tracing::dispatcher::has_been_set() {
            tracing::error!("panicked at {place}");
        } else {
            eprintln!("panicked at {place}");
        }
    }));
}
