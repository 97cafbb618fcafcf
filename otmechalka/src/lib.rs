#![doc = include_str!("../README.md")]

mod answer;
mod body;
mod builder;
mod client;
mod error;
mod refusal;
#[cfg(all(feature = "faults", debug_assertions))]
pub mod simulated;
mod token;

pub use answer::read_http;
pub use body::{ClientBody, TicketBody};
pub use builder::{Builder, ConfigError};
pub use client::{Called, Client, Observer, Record};
pub use error::{Call, Error, ErrorClass, Operation};
pub use refusal::Refusal;
pub use tls_fault::{TlsFault, obstacle};

/// What a lookup found.
pub type Found = Record;
/// What a create or an update left in otmechalka.
pub type Created = Record;
