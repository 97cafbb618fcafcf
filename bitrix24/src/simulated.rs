//! A portal in memory in place of HTTP, for the seeded simulation in `e2e`. In no build for use: it wants the feature
//! `faults` and debug assertions.

use std::cell::RefCell;
use std::sync::Arc;

use crate::pacing::BoxFuture;

/// What comes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// An answer, with its status and body.
    Answer(u16, Vec<u8>),
    /// An answer larger than is read.
    TooLarge,
    /// None within the time limit.
    NoAnswer,
}

/// Answers requests of this thread: webhook with method, method and body in.
pub type Portal = Arc<dyn Fn(String, String, Vec<u8>) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// What stands in for HTTP on this thread.
#[derive(Clone)]
pub struct Simulation {
    /// Answers requests.
    pub portal: Portal,
    /// Numbers from 0 to 1, in place of chance.
    pub noise: Arc<dyn Fn() -> f64 + Send + Sync>,
    /// Our own clock at the beginning, in Unix seconds.
    pub unix_seconds: f64,
}

thread_local! {
    static CURRENT: RefCell<Option<Simulation>> = const { RefCell::new(None) };
}

/// Begins or ends the simulation of this thread.
pub fn set(simulation: Option<Simulation>) {
    CURRENT.with(|current| *current.borrow_mut() = simulation);
}

pub(crate) fn current() -> Option<Simulation> {
    CURRENT.with(|current| current.borrow().clone())
}
