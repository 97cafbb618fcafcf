#![doc = include_str!("../README.md")]

pub mod bootstrap;
pub mod broker;
pub mod budget;
pub mod cache;
pub mod consume;
mod delivery;
pub mod door;
pub mod faults;
pub mod health;
pub mod inbox;
pub mod lease;
pub mod letters;
pub mod listener;
pub mod local_nats;
pub mod logs;
pub mod metrics;
mod needs;
pub mod outside;
pub mod publish;
mod reach;
pub mod settings;
#[cfg(all(feature = "faults", debug_assertions))]
pub mod simulated;
pub mod stage;
mod tls;
pub mod trace;

pub use broker::{Broker, BrokerError, Bucket, Entry, Log};
pub use cache::DiskCache;
pub use consume::{Handler, consume};
pub use delivery::Delivery;
pub use door::Door;
pub use inbox::{Inbox, Verdict};
pub use lease::Leadership;
pub use metrics::Metrics;
pub use publish::{Outgoing, PublishError, Published};
pub use settings::{Reader, SecretFile, SettingsError, Source};
pub use stage::{Context, Stage, leave_no_core_dump, main};
pub use tokio_util::sync::CancellationToken;
pub use trace::Tracer;
