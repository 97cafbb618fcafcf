#![doc = include_str!("../README.md")]

pub mod bitrix24;
mod bodies;
pub mod dataset;
mod door;
pub mod otmechalka;

pub use door::{Tls, TlsArguments};
