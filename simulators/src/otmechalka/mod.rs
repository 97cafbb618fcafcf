#![doc = include_str!("README.md")]
//!
//! # Inside
//!
//! `api` answers the calls from `state`, after `validation`; `faults` spoils answers on demand; `admin`
//! lets tests look and meddle; `journal` keeps it all over a restart; `wire` can cut a connection.

mod admin;
mod api;
mod clock;
mod faults;
mod journal;
mod server;
mod settings;
mod state;
mod validation;
mod wire;

pub use self::server::{Options, Simulator, start};
