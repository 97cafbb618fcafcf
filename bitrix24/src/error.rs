//! What can go wrong, and what a caller should make of it.
//!
//! No text in here repeats what a record holds or where the webhook lives: errors end up in logs.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, FixedOffset};
use tls_fault::{TlsFault, obstacle};

/// What a caller should do about an error.
#[derive(Debug, Clone, PartialEq)]
pub enum ErrorClass {
    /// Asking again later may help.
    Transient,
    /// The request budget is used up; ask again after this much real time.
    RateLimited {
        /// Real time to wait.
        retry_after: Duration,
    },
    /// One method has used up its computing time; the others go on.
    OperatingLimit {
        /// The method that has to wait.
        method: String,
        /// When, by the portal's clock, some of its time comes back.
        reset_at: Option<DateTime<FixedOffset>>,
    },
    /// The portal or the webhook turns us away: tell a person, and probe slowly.
    Refused,
    /// The object does not exist, or not any more.
    NotFound,
    /// The same request will fail again.
    Permanent,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The portal answered with an error.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No connection came about, so the portal has not seen the request.
    #[error("connect to the portal for {method}{}", obstacle(.source))]
    Connect {
        /// The method called.
        method: Box<str>,
        /// The cause, without the address.
        source: reqwest::Error,
    },
    /// Whoever answers there does not prove to be the portal, so it was told nothing, the webhook least of all.
    #[error("trust the portal for {method}: {}", .fault.advice("BITRIX24_CA_FILE", "BITRIX24_WEBHOOK_URL"))]
    Untrusted {
        /// The method called.
        method: Box<str>,
        /// Why it is not trusted.
        fault: TlsFault,
    },
    /// The whole answer did not arrive in time; the portal may have done the work.
    #[error("get an answer to {method} in time")]
    Timeout {
        /// The method called.
        method: Box<str>,
    },
    /// The connection broke; the portal may have done the work.
    #[error("keep the connection during {method}")]
    Broken {
        /// The method called.
        method: Box<str>,
        /// The cause, without the address.
        source: reqwest::Error,
    },
    /// An HTTP status other than success, without an error code in the body.
    #[error("call {method}: HTTP status {status} without an error code")]
    Status {
        /// The method called.
        method: Box<str>,
        /// The HTTP status.
        status: u16,
    },
    /// The body passes the limit and was cut.
    #[error("read the answer to {method}: it is larger than {limit} bytes")]
    TooLarge {
        /// The method called.
        method: Box<str>,
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer is not what the portal promises.
    #[error("read the answer to {method}: {fault}")]
    Answer {
        /// The method called.
        method: Box<str>,
        /// What is wrong with it.
        fault: AnswerFault,
    },
    /// The portal sends us elsewhere. The webhook goes nowhere but to the host it was configured for.
    #[error("call {method}: {fault}")]
    Redirect {
        /// The method called.
        method: Box<str>,
        /// Where to.
        fault: RedirectFault,
    },
    /// The rows of a list break its own rules, so going on could lose records.
    #[error("walk {method}: {fault}")]
    Listing {
        /// The method called.
        method: Box<str>,
        /// The rule that is broken.
        fault: ListingFault,
    },
    /// The request cannot be sent as it is.
    #[error("build the request for {method}: {fault}")]
    Request {
        /// The method to be called.
        method: Box<str>,
        /// What is wrong with it.
        fault: RequestFault,
    },
    /// The computing time of a method stayed used up for longer than one whole window.
    #[error("wait for computing time of {method}")]
    OperatingBudget {
        /// The method that has to wait.
        method: Box<str>,
        /// When, by the portal's clock, some of its time comes back.
        reset_at: Option<DateTime<FixedOffset>>,
    },
}

impl Error {
    /// Returns what a caller should do about this error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Api(error) => error.class(),
            Self::Connect { .. } | Self::Timeout { .. } | Self::Broken { .. } => ErrorClass::Transient,
            Self::Answer { .. } => ErrorClass::Transient,
            Self::Status { status, .. } => class_of_bare_status(*status),
            Self::Redirect { .. } | Self::Untrusted { .. } => ErrorClass::Refused,
            Self::TooLarge { .. } | Self::Listing { .. } | Self::Request { .. } => ErrorClass::Permanent,
            Self::OperatingBudget { method, reset_at } => {
                ErrorClass::OperatingLimit { method: method.to_string(), reset_at: *reset_at }
            }
        }
    }

    /// Tells whether we are turned away without a word of the portal's. A filter before it does that too, which may mean what
    /// was to be written as well as the webhook.
    pub fn is_bare_refusal(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::Redirect { .. }) && self.class() == ErrorClass::Refused
    }

    /// Tells whether the portal surely did not act on the request.
    pub fn surely_not_processed(&self) -> bool {
        match self {
            Self::Api(error) => !matches!(error.kind, Kind::Missing | Kind::NoResult | Kind::Server),
            Self::Connect { .. } | Self::Untrusted { .. } => true,
            Self::Redirect { .. } | Self::Request { .. } => true,
            Self::OperatingBudget { .. } => true,
            _ => false,
        }
    }
}

/// A bare 404 speaks of the address, not of a record, and so of the webhook.
fn class_of_bare_status(status: u16) -> ErrorClass {
    match status {
        401 | 403 | 404 | 410 => ErrorClass::Refused,
        429 => ErrorClass::RateLimited { retry_after: RATE_LIMIT_PAUSE },
        408 | 500..=599 => ErrorClass::Transient,
        100..=399 => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    }
}

/// Ten requests' worth of leaking on the default plan.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(5);

/// An error the portal reports by its own code, for a call or for one command of a batch.
///
/// The description comes from the portal and may repeat what a person typed, so neither `Display`
/// nor `Debug` shows it.
#[derive(Clone, PartialEq, thiserror::Error)]
pub struct ApiError {
    method: Box<str>,
    code: Box<str>,
    description: Box<str>,
    status: Option<u16>,
    kind: Kind,
    retry_after: Duration,
    reset_at: Option<DateTime<FixedOffset>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    RequestLimit,
    OperatingLimit,
    Refused,
    Server,
    NotFound,
    Missing,
    NoResult,
    Other,
}

impl ApiError {
    /// Reads the meaning of a code; `status` is absent for a command of a batch.
    pub(crate) fn new(method: &str, code: &str, description: &str, status: Option<u16>) -> Self {
        Self {
            method: method.into(),
            code: shorten(code, 64).into(),
            description: shorten(description, 1_000).into(),
            status,
            kind: kind_of(code, description, status),
            retry_after: RATE_LIMIT_PAUSE,
            reset_at: None,
        }
    }

    pub(crate) fn missing(method: &str) -> Self {
        Self { kind: Kind::Missing, ..Self::new(method, "", "", None) }
    }

    pub(crate) fn no_result(method: &str) -> Self {
        Self { kind: Kind::NoResult, ..Self::new(method, "", "", None) }
    }

    pub(crate) fn with_reset_at(mut self, reset_at: Option<DateTime<FixedOffset>>) -> Self {
        self.reset_at = reset_at;
        self
    }

    /// Passes the portal's words through a function.
    pub(crate) fn with_words(mut self, change: impl Fn(&str) -> String) -> Self {
        self.code = change(&self.code).into();
        self.description = change(&self.description).into();
        self
    }

    /// Turns the pause from portal time into real time.
    pub(crate) fn at_speed(mut self, clock_speed: f64) -> Self {
        self.retry_after = RATE_LIMIT_PAUSE.div_f64(clock_speed);
        self
    }

    /// Returns the method that failed.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Returns the portal's code, which is often empty.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Returns the portal's own words, in its language; they may quote a record.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Returns when, by the portal's clock, computing time comes back.
    pub fn reset_at(&self) -> Option<DateTime<FixedOffset>> {
        self.reset_at
    }

    /// Tells whether the answer to a batch did not mention this command at all.
    pub fn is_missing(&self) -> bool {
        self.kind == Kind::Missing
    }

    /// Tells whether the request bucket of the portal was full.
    pub fn is_request_limit(&self) -> bool {
        self.kind == Kind::RequestLimit
    }

    /// Tells whether the method has used up its computing time.
    pub fn is_operating_limit(&self) -> bool {
        self.kind == Kind::OperatingLimit
    }

    /// Returns what a caller should do about this error.
    pub fn class(&self) -> ErrorClass {
        match self.kind {
            Kind::RequestLimit => ErrorClass::RateLimited { retry_after: self.retry_after },
            Kind::OperatingLimit => {
                ErrorClass::OperatingLimit { method: self.method.to_string(), reset_at: self.reset_at }
            }
            Kind::Refused => ErrorClass::Refused,
            Kind::Server | Kind::Missing | Kind::NoResult => ErrorClass::Transient,
            Kind::NotFound => ErrorClass::NotFound,
            Kind::Other => ErrorClass::Permanent,
        }
    }

    fn meaning(&self) -> &'static str {
        match self.kind {
            Kind::RequestLimit => "too many requests",
            Kind::OperatingLimit => "the method has used up its computing time",
            Kind::Refused => "the portal refuses the webhook",
            Kind::Server => "the portal has a fault",
            Kind::NotFound => "the object does not exist",
            Kind::Missing => "the batch answer leaves the command out",
            Kind::NoResult => "the result is null",
            Kind::Other => "the portal rejects the request",
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "call {}: {}", self.method, self.meaning())?;
        if !self.code.is_empty() && is_plain(&self.code) {
            write!(formatter, ", code {}", self.code)?;
        }
        match self.status {
            Some(status) => write!(formatter, ", HTTP status {status}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ApiError({self})")
    }
}

/// Some methods put a whole sentence where the code belongs; that is not for logs.
fn is_plain(code: &str) -> bool {
    code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn shorten(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

/// See <https://apidocs.bitrix24.com/> under "system errors"; statuses alone are not to be trusted.
fn kind_of(code: &str, description: &str, status: Option<u16>) -> Kind {
    match code.to_ascii_uppercase().as_str() {
        "QUERY_LIMIT_EXCEEDED" => Kind::RequestLimit,
        "OPERATION_TIME_LIMIT" => Kind::OperatingLimit,
        // Both come with a 5xx status although quick retries cannot help.
        "OVERLOAD_LIMIT" | "PORTAL_DELETED" => Kind::Refused,
        "NO_AUTH_FOUND" | "EXPIRED_TOKEN" | "INVALID_TOKEN" | "INVALID_CREDENTIALS" => Kind::Refused,
        "INSUFFICIENT_SCOPE" | "USER_ACCESS_ERROR" | "ALLOWED_ONLY_INTRANET_USER" => Kind::Refused,
        "WRONG_AUTH_TYPE" => Kind::Refused,
        "INTERNAL_SERVER_ERROR" | "ERROR_UNEXPECTED_ANSWER" => Kind::Server,
        "NOT_FOUND" | "OWNER_NOT_FOUND" => Kind::NotFound,
        "" if speaks_of_absence(description) => Kind::NotFound,
        _ => kind_of_status(status),
    }
}

/// The classic CRM methods have an empty code, and words in the portal's language.
fn speaks_of_absence(description: &str) -> bool {
    let description = description.to_lowercase();
    ["not found", "не найден"].iter().any(|words| description.contains(words))
}

fn kind_of_status(status: Option<u16>) -> Kind {
    match status {
        Some(401 | 403) => Kind::Refused,
        Some(429) => Kind::RequestLimit,
        Some(408 | 500..=599) => Kind::Server,
        _ => Kind::Other,
    }
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerFault {
    /// Not UTF-8, or badly compressed.
    #[error("the body is not readable text")]
    Encoding,
    /// Not JSON, cut short, or nested too deeply.
    #[error("the body is not valid JSON (line {line}, column {column})")]
    Json {
        /// Line of the fault.
        line: usize,
        /// Column of the fault.
        column: usize,
    },
    /// Nothing at all.
    #[error("the body is empty")]
    Empty,
    /// JSON, but neither a result nor an error.
    #[error("there is neither a result nor an error")]
    NoResult,
    /// The result has another type than this method's.
    #[error("the result is not {0}")]
    Shape(&'static str),
}

impl AnswerFault {
    /// Keeps the place and drops the words, which may quote the answer.
    pub(crate) fn json(error: &serde_json::Error) -> Self {
        Self::Json { line: error.line(), column: error.column() }
    }
}

/// Where a redirect leads. It is never followed: whoever is there would learn the webhook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedirectFault {
    /// No readable Location header.
    #[error("the portal redirects without saying where to")]
    NoAddress,
    /// The same method on another host, as after a change of the portal's domain.
    #[error(
        "the portal has moved to {host}; if that is right, put it in BITRIX24_WEBHOOK_URL in place of the old host"
    )]
    Moved {
        /// The host it names.
        host: Box<str>,
    },
    /// Another page, such as a login.
    #[error("the portal redirects to a page that is not the REST method asked for")]
    OtherPage,
}

/// Which rule of a list its rows break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListingFault {
    /// A full page did not lead past the last one.
    #[error("the cursor does not advance")]
    Stuck,
    /// A row lies outside of what was asked for: the portal ignores the filter.
    #[error("a row lies outside of the requested bounds")]
    OutOfBounds,
    /// The rows are not in ascending order of ID.
    #[error("the rows are not ordered by ID")]
    Unordered,
    /// More rows than a page holds.
    #[error("a page has more rows than it should")]
    PageTooLong,
    /// A row without a readable ID.
    #[error("a row has no readable ID")]
    NoId,
}

/// Why a request cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestFault {
    /// The method name has characters no method has.
    #[error("the method name is malformed")]
    Method,
    /// Batches do not nest, and `batch` has its own function.
    #[error("a batch is not a command")]
    NestedBatch,
    /// The parameters are not an object.
    #[error("the parameters are not an object")]
    NotAnObject,
    /// A batch command cannot carry null, an empty list or an empty object.
    #[error("a batch command cannot carry null or an empty list")]
    Inexpressible,
    /// A batch command cannot carry a key with brackets.
    #[error("a batch command cannot carry a key with brackets")]
    Key,
    /// The portal would replace this text by another command's result.
    #[error("a text looks like a reference to another command")]
    LooksLikeReference,
    /// A batch holds 50 commands.
    #[error("the batch is full")]
    Full,
    /// A batch without commands.
    #[error("the batch is empty")]
    Empty,
    /// Two commands with one name.
    #[error("two commands have one name")]
    DuplicateCommand,
}

/// Why a client cannot be built. Never shows the address, which is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not a URL.
    #[error("the webhook address is not a URL, expected https://PORTAL/rest/USER/CODE/")]
    NotAUrl,
    /// Neither http nor https.
    #[error("the webhook address starts with neither https:// nor http://")]
    Scheme,
    /// http to somewhere else than this machine.
    #[error("plain http is accepted for loopback hosts only, use https://")]
    PlainHttp,
    /// Not an inbound webhook.
    #[error("the path of the webhook address is not /rest/USER/CODE/")]
    Path,
    /// Something before the host or after the path.
    #[error(
        "the webhook address has a user name, query or fragment, expected https://PORTAL/rest/USER/CODE/"
    )]
    Extras,
    /// A setting outside of its range.
    #[error("{name} is out of range, expected {expected}")]
    Range {
        /// The setting.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// A certificate that is none.
    #[error("the root certificate is not PEM")]
    Certificate,
    /// There is nothing to know the portal's certificate by.
    #[error(
        "this machine has no CA certificates to know the portal by: install its package ca-certificates, or name a \
         PEM file in BITRIX24_CA_FILE"
    )]
    NoAuthorities,
    /// The TLS library is unusable.
    #[error("set up TLS")]
    Tls,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(code: &str, description: &str, status: u16) -> ErrorClass {
        ApiError::new("crm.deal.get", code, description, Some(status)).class()
    }

    #[test]
    fn codes_outrank_statuses() {
        assert!(matches!(class("QUERY_LIMIT_EXCEEDED", "", 503), ErrorClass::RateLimited { .. }));
        assert!(matches!(class("OPERATION_TIME_LIMIT", "", 429), ErrorClass::OperatingLimit { .. }));
        for (code, status) in [("OVERLOAD_LIMIT", 503), ("PORTAL_DELETED", 500), ("expired_token", 200)] {
            assert_eq!(class(code, "", status), ErrorClass::Refused, "{code}");
        }
        assert_eq!(class("INTERNAL_SERVER_ERROR", "", 500), ErrorClass::Transient);
        assert_eq!(class("ERROR_METHOD_NOT_FOUND", "Method not found!", 404), ErrorClass::Permanent);
        assert_eq!(class("ERROR_BATCH_LENGTH_EXCEEDED", "", 400), ErrorClass::Permanent);
    }

    #[test]
    fn empty_codes_are_read_by_their_words() {
        assert_eq!(class("", "Contact is not found", 400), ErrorClass::NotFound);
        assert_eq!(class("", "Сделка не найдена", 400), ErrorClass::NotFound);
        assert_eq!(class("", "Access denied.", 400), ErrorClass::Permanent);
        assert_eq!(class("", "", 500), ErrorClass::Transient);
        assert_eq!(class("", "", 200), ErrorClass::Permanent);
    }

    #[test]
    fn access_denied_is_about_the_portal_or_about_a_record() {
        assert_eq!(class("ACCESS_DENIED", "", 403), ErrorClass::Refused);
        assert_eq!(class("ACCESS_DENIED", "", 400), ErrorClass::Permanent);
    }

    #[test]
    fn a_bare_404_is_about_the_webhook_and_not_about_a_record() {
        let error = Error::Status { method: "crm.deal.get".into(), status: 404 };
        assert_eq!(error.class(), ErrorClass::Refused);
    }

    #[test]
    fn what_the_portal_quotes_is_not_shown() {
        let error = ApiError::new("crm.contact.update", "Bad: Василий", "Wrong e-mail vasily@example", None);
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("Василий") && !shown.contains("vasily"), "{shown}");
        assert_eq!(error.description(), "Wrong e-mail vasily@example");
    }
}
