//! An otmechalka in memory in place of HTTP, for the seeded simulation in `e2e`. In no build for use: it wants the feature
//! `faults` and debug assertions.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;

use reqwest::header::HeaderMap;
use reqwest::{Request, StatusCode};

/// An answer.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A future on the heap.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Answers requests of this thread; none where the answer never comes.
pub type Server = Arc<dyn Fn(Request) -> BoxFuture<Option<Reply>> + Send + Sync>;

thread_local! {
    static CURRENT: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// Begins or ends the simulation of this thread.
pub fn set(server: Option<Server>) {
    CURRENT.with(|current| *current.borrow_mut() = server);
}

pub(crate) fn current() -> Option<Server> {
    CURRENT.with(|current| current.borrow().clone())
}
