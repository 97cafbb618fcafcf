//! What a judge reads: every write in order, and how often the portal was called.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who made a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Author {
    /// Arrived through REST: the number of the request and, inside a batch, the command's id.
    Rest { user: u64, request: u64, command: Option<String> },
    /// Done by an employee in the portal's interface, that is through the admin interface here.
    Human { user: u64 },
}

impl Author {
    /// Returns the employee in whose name the write is made.
    pub fn user(&self) -> u64 {
        match self {
            Self::Rest { user, .. } | Self::Human { user } => *user,
        }
    }
}

/// One write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub seq: u64,
    /// The portal's time of the write.
    pub time: String,
    /// `rest` or `human`.
    pub origin: String,
    pub user: u64,
    pub method: String,
    pub entity: String,
    pub id: u64,
    /// The fields as they were sent.
    pub fields: Value,
    /// Whether anything was stored: the record existed and at least one field could be written.
    pub applied: bool,
    /// Sent fields that were dropped: unknown or read-only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    /// Stored values that differ from before.
    #[serde(default)]
    pub changed: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The record's `DATE_MODIFY` afterwards.
    #[serde(default)]
    pub date_modify: Option<String>,
    /// The whole record before a human's write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// The whole record after a human's write or a creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Value>,
}

/// Counts since the start or the last reset.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Counters {
    /// HTTP requests under `/rest/`, refused ones included.
    pub requests: u64,
    /// HTTP requests by the method called, `batch` being one.
    pub by_method: BTreeMap<String, u64>,
    /// Calls by method, commands of batches included and `batch` itself not.
    pub commands: BTreeMap<String, u64>,
    /// Requests refused because the bucket was full.
    pub refused_503: u64,
    /// Calls and commands refused because a method's seconds were used up.
    pub refused_operating: u64,
    /// The same by method.
    pub refused_operating_by_method: BTreeMap<String, u64>,
    /// Requests with a wrong code in their address.
    pub unauthorized: u64,
    /// Requests cut off after the longest allowed time.
    pub timed_out_504: u64,
    /// Applied updates that contained the status field, by entity.
    pub status_updates: BTreeMap<String, u64>,
    /// Applied updates of contacts and deals.
    pub updates: u64,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<String, u64>,
    /// HTTP statuses answered.
    pub answers: BTreeMap<u16, u64>,
    /// Requests by minute of the portal's time.
    pub per_minute: BTreeMap<String, u64>,
}

/// Adds one to a named count.
pub fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(value) => *value += 1,
        None => {
            counts.insert(name.to_owned(), 1);
        }
    }
}
