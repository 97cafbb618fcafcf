#![doc = include_str!("../README.md")]

pub mod batch;
pub mod bucket;
mod client;
mod clock;
mod config;
mod endpoint;
mod envelope;
pub mod error;
pub mod keyset;
mod methods;
pub mod operating;
mod pacing;
mod php;
pub mod product_rows;
mod query;
#[cfg(all(feature = "faults", debug_assertions))]
pub mod simulated;
mod stats;
mod transport;

pub use batch::{Batch, BatchAnswer, Command, CommandId};
pub use bucket::{Lane, LeakyBucket, Take};
pub use client::{Capacity, Client, MOST_COMMANDS, OperatingUse};
pub use config::ClientBuilder;
pub use envelope::{Answer, Time};
pub use error::{ApiError, ConfigError, Error, ErrorClass};
pub use keyset::{ChainLength, Listing, Page, Row};
pub use methods::{Entity, Field, Profile, Update};
pub use pacing::BoxFuture;
pub use product_rows::RowSource;
pub use query::looks_like_reference;
pub use stats::{MethodStats, Stats};
pub use tls_fault::TlsFault;
