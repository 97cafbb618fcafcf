//! Counting what was asked and what was refused.

use std::collections::BTreeMap;

/// What a client has counted since it was built.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// HTTP requests sent.
    pub requests: u64,
    /// Requests refused because of the request limit.
    pub refused: u64,
    /// Calls and commands refused because of the computing time limit.
    pub operating_refused: u64,
    /// The same by method.
    pub by_method: BTreeMap<Box<str>, MethodStats>,
}

/// What a client has counted for one method.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MethodStats {
    /// Calls, and commands inside batches, that were sent; `batch` itself counts as a call.
    pub calls: u64,
    /// Calls and commands that were answered without an error.
    pub ok: u64,
    /// Calls and commands that ended in an error of any kind.
    pub failed: u64,
    /// Of these, refused because of the computing time limit.
    pub operating_refused: u64,
}

impl Stats {
    pub(crate) fn note_call(&mut self, method: &str) {
        self.method(method).calls += 1;
    }

    pub(crate) fn note_ok(&mut self, method: &str, calls: u64) {
        self.method(method).ok += calls;
    }

    pub(crate) fn note_failure(&mut self, method: &str) {
        self.method(method).failed += 1;
    }

    pub(crate) fn note_operating_refusal(&mut self, method: &str) {
        self.operating_refused += 1;
        self.method(method).operating_refused += 1;
    }

    fn method(&mut self, method: &str) -> &mut MethodStats {
        self.by_method.entry(method.into()).or_default()
    }
}
