//! How far an entity was read: written by the producer, read by the pusher and by operators.

use chrono::{DateTime, FixedOffset};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far one entity was read from Bitrix24. Stored under the entity's token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checkpoint {
    /// Everything modified before this portal time is published.
    pub watermark: DateTime<FixedOffset>,
    /// The walk that is under way, if any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window: Option<Window>,
    /// Polls completed since the bucket was made; tells a caller that another one has gone by.
    #[serde(default)]
    pub polls: u64,
    /// The poll that stored this, for whoever judges how old it is; none where an earlier version did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub poll: Option<Poll>,
}

/// A poll, as its checkpoint tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Poll {
    /// What the portal's clock showed.
    pub observed: DateTime<FixedOffset>,
    /// Seconds from one poll to the next.
    pub interval_seconds: u64,
}

/// A frozen stretch of modification time `[from, until)` that is being walked by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// First modification time in it.
    pub from: DateTime<FixedOffset>,
    /// First modification time behind it.
    pub until: DateTime<FixedOffset>,
    /// Everything up to this id is published.
    pub cursor: u64,
}
