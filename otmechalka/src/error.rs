//! Everything a call can end in besides success, and what the caller can do about it.

use std::fmt;
use std::time::Duration;

use tls_fault::{TlsFault, obstacle};

use crate::refusal::Refusal;

/// Names the call an error belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub call: Call,
    /// Id of the record in Bitrix24.
    pub origin_id: String,
}

/// One of the five calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    GetClient,
    CreateClient,
    UpdateClient,
    GetTicket,
    CreateTicket,
}

impl Call {
    /// Tells whether the call changes anything in otmechalka.
    pub fn is_write(self) -> bool {
        matches!(self, Self::CreateClient | Self::UpdateClient | Self::CreateTicket)
    }

    /// Returns the name of the call in one word, as `create_client`.
    pub fn token(self) -> &'static str {
        match self {
            Self::GetClient => "get_client",
            Self::CreateClient => "create_client",
            Self::UpdateClient => "update_client",
            Self::GetTicket => "get_ticket",
            Self::CreateTicket => "create_ticket",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::GetClient => "get client",
            Self::CreateClient => "create client",
            Self::UpdateClient => "update client",
            Self::GetTicket => "get ticket",
            Self::CreateTicket => "create ticket",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.call.words(), self.origin_id)
    }
}

/// Why a call gave nothing. Neither text nor `Debug` holds the token or a record's contents.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection came about, so nothing was sent.
    #[error("{operation}: otmechalka cannot be reached{}", obstacle(.source))]
    Unreachable { operation: Operation, source: reqwest::Error },
    /// Whoever answers there does not prove to be otmechalka, so it was told nothing, the token least of all.
    #[error("{operation}: otmechalka is not to be trusted: {}", .fault.advice("OTMECHALKA_CA_FILE", "OTMECHALKA_URL"))]
    Untrusted { operation: Operation, fault: TlsFault },
    /// The whole answer did not arrive in time.
    #[error("{operation}: no whole answer within the time limit")]
    TimedOut { operation: Operation },
    /// The connection broke after something had been sent.
    #[error("{operation}: the connection broke before the answer was complete")]
    Interrupted { operation: Operation, source: reqwest::Error },
    /// otmechalka or a proxy before it is unwell: 5xx and the like.
    #[error("{operation}: otmechalka answered {status}")]
    Unavailable { operation: Operation, status: u16, retry_after: Option<Duration> },
    /// The answer is none that otmechalka gives.
    #[error("{operation}: answer with status {status} is {what}")]
    Garbled { operation: Operation, status: u16, what: &'static str },
    /// Answered 429.
    #[error("{operation}: otmechalka asks to slow down")]
    RateLimited { operation: Operation, retry_after: Option<Duration> },
    /// Answered 401 or 403: the token is wrong, or its rights are.
    #[error("{operation}: otmechalka answered {status}, check OTMECHALKA_TOKEN")]
    Unauthorized { operation: Operation, status: u16 },
    /// Answered 404 to a call that needs the record or the address to exist.
    #[error("{operation}: otmechalka answered 404")]
    NotFound { operation: Operation },
    /// otmechalka does not take this record.
    #[error("{operation}: otmechalka refused the record with status {status} ({refusal})")]
    Refused { operation: Operation, status: u16, refusal: Refusal },
    /// The id cannot stand in an address, so nothing was sent.
    #[error("origin id is not 1 to 64 letters, digits, hyphens or underscores")]
    OriginId,
}

/// What the caller can do about an error.
#[derive(Clone, PartialEq, Eq)]
pub enum ErrorClass {
    /// Unreachable, too slow, 5xx or unreadable: the same call may succeed later.
    Transient,
    /// The same call may succeed after the stated pause.
    RateLimited { retry_after: Option<Duration> },
    /// No call will succeed until a person puts the token right.
    Unauthorized,
    /// The record is not there.
    NotFound,
    /// This record will not pass until a person corrects it.
    Refused {
        /// What it says of no field, for a person to read, at most 500 characters.
        text: String,
        /// What it says of the fields that it names.
        fields: Vec<(String, String)>,
    },
}

impl fmt::Debug for ErrorClass {
    // otmechalka may repeat a telephone number in its text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient => f.write_str("Transient"),
            Self::RateLimited { retry_after } => {
                f.debug_struct("RateLimited").field("retry_after", retry_after).finish()
            }
            Self::Unauthorized => f.write_str("Unauthorized"),
            Self::NotFound => f.write_str("NotFound"),
            Self::Refused { fields, .. } => {
                f.debug_struct("Refused").field("fields", &fields.len()).finish_non_exhaustive()
            }
        }
    }
}

impl Error {
    /// Says what the caller can do about this error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::TimedOut { .. }
            | Self::Interrupted { .. }
            | Self::Unavailable { .. }
            | Self::Garbled { .. } => ErrorClass::Transient,
            Self::RateLimited { retry_after, .. } => ErrorClass::RateLimited { retry_after: *retry_after },
            Self::Unauthorized { .. } => ErrorClass::Unauthorized,
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Refused { refusal, .. } => {
                ErrorClass::Refused { text: refusal.general().to_owned(), fields: refusal.fields().to_vec() }
            }
            Self::OriginId => ErrorClass::Refused {
                text: "недопустимый внешний идентификатор".to_owned(),
                fields: Vec::new(),
            },
        }
    }

    /// Tells whether the request may have been applied all the same: look before sending it again.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::TimedOut { operation }
            | Self::Interrupted { operation, .. }
            | Self::Unavailable { operation, .. }
            | Self::Garbled { operation, .. } => operation.call.is_write(),
            Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::RateLimited { .. }
            | Self::Unauthorized { .. }
            | Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::OriginId => false,
        }
    }

    /// Tells whether otmechalka may still be at work on the request: who gave up was this side, or something in between.
    pub fn may_be_under_way(&self) -> bool {
        // A gateway's word about what is behind it; whoever else answers has done what there was to do.
        let is_gateways = |status: u16| (502..=504).contains(&status);
        self.outcome_unknown() && self.status().is_none_or(is_gateways)
    }

    /// Returns the call that failed; `None` where nothing was sent.
    pub fn call(&self) -> Option<Call> {
        match self {
            Self::Unreachable { operation, .. }
            | Self::Untrusted { operation, .. }
            | Self::TimedOut { operation }
            | Self::Interrupted { operation, .. }
            | Self::Unavailable { operation, .. }
            | Self::Garbled { operation, .. }
            | Self::RateLimited { operation, .. }
            | Self::Unauthorized { operation, .. }
            | Self::NotFound { operation }
            | Self::Refused { operation, .. } => Some(operation.call),
            Self::OriginId => None,
        }
    }

    /// Returns what kind of failure it is, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Untrusted { .. } => "untrusted",
            Self::TimedOut { .. } => "timed_out",
            Self::Interrupted { .. } => "interrupted",
            Self::Unavailable { .. } => "unavailable",
            Self::Garbled { .. } => "garbled",
            Self::RateLimited { .. } => "rate_limited",
            Self::Unauthorized { .. } => "unauthorized",
            Self::NotFound { .. } => "not_found",
            Self::Refused { .. } => "refused",
            Self::OriginId => "origin_id",
        }
    }

    /// Returns the status of the answer, where one came.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Unavailable { status, .. }
            | Self::Garbled { status, .. }
            | Self::Unauthorized { status, .. }
            | Self::Refused { status, .. } => Some(*status),
            Self::RateLimited { .. } => Some(429),
            Self::NotFound { .. } => Some(404),
            Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::TimedOut { .. }
            | Self::Interrupted { .. }
            | Self::OriginId => None,
        }
    }

    /// Returns the pause otmechalka asked for, with 429 or with 503.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Sorts a failure of the HTTP library by how far the request got.
    pub(crate) fn from_transport(operation: Operation, source: reqwest::Error) -> Self {
        // The address is left out: the operation says what was called, and an address may be internal.
        let source = source.without_url();
        if let Some(fault) = TlsFault::of(&source) {
            Self::Untrusted { operation, fault }
        } else if source.is_connect() || source.is_builder() {
            Self::Unreachable { operation, source }
        } else if source.is_timeout() {
            Self::TimedOut { operation }
        } else {
            Self::Interrupted { operation, source }
        }
    }
}
