#![doc = include_str!("../README.md")]

pub mod answered;
pub mod checkpoint;
pub mod envelope;
pub mod events;
pub mod problem;
pub mod record;
pub mod streams;
pub mod subjects;

pub use answered::Answered;
pub use checkpoint::{Checkpoint, Poll, Window};
pub use envelope::{Encoded, Envelope, EnvelopeError, Version};
pub use events::{
    Client, DeadLetter, EventData, Mapping, Outcome, RecordChanged, RecordMapped, RecordProcessed, Shown,
    StatusSettled, StatusWritten, Ticket,
};
pub use problem::Problem;
pub use record::{Entity, InvalidRecordId, PARTITIONS, Partition, RecordId, RecordRef};
