//! Building a client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tls_fault::lacks_authorities;

use crate::bucket::{Lane, LeakyBucket};
use crate::client::Client;
use crate::endpoint::{Endpoint, WebhookSource};
use crate::error::ConfigError;
use crate::pacing::{BoxFuture, ForeignBudget, Listener, OwnBucket, Pacing, RefusalListener};
use crate::transport::Transport;

/// The portal's own limit of a request is 60 s; what it has not answered soon after, it never will.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(75);

/// Shorter than the keep-alive of common servers: a connection they are about to close is not used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Settings of a [`Client`], each with a default that suits a cloud portal on an ordinary plan.
pub struct ClientBuilder {
    webhook_url: SecretString,
    clock_speed: f64,
    budget: Option<ForeignBudget>,
    refused: Option<RefusalListener>,
    listener: Option<Listener>,
    request_limit: (u32, f64),
    starts_full: bool,
    operating_limit: f64,
    timeout: Option<Duration>,
    max_body_bytes: usize,
    root_certificates: Vec<Vec<u8>>,
    source: Option<WebhookSource>,
}

impl ClientBuilder {
    pub(crate) fn new(webhook_url: SecretString) -> Self {
        Self {
            webhook_url,
            clock_speed: 1.0,
            budget: None,
            refused: None,
            listener: None,
            request_limit: (50, 2.0),
            starts_full: false,
            operating_limit: 480.0,
            timeout: None,
            max_body_bytes: 16 << 20,
            root_certificates: Vec::new(),
            source: None,
        }
    }

    /// Sets how many seconds pass at the portal in one of ours: 1 except against a simulator.
    pub fn clock_speed(self, clock_speed: f64) -> Self {
        Self { clock_speed, ..self }
    }

    /// Hands the request budget to somebody else, who is awaited before every HTTP request.
    pub fn budget(self, budget: impl Fn(Lane) -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        Self { budget: Some(Arc::new(budget)), ..self }
    }

    /// Tells whoever keeps the [budget](Self::budget) that the portal refused a request (`QUERY_LIMIT_EXCEEDED`): its bucket
    /// is full, whatever was believed of it.
    pub fn refused(self, refused: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        Self { refused: Some(Arc::new(refused)), ..self }
    }

    /// Tells somebody of every answer whether the portal took the webhook (`true`) or refused it.
    pub fn told(self, listener: impl Fn(bool) -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        Self { listener: Some(Arc::new(listener)), ..self }
    }

    /// Sets capacity and leak of the request bucket: 50 and 2 per second, on Enterprise 250 and 5.
    pub fn request_limit(self, capacity: u32, leak_per_second: f64) -> Self {
        Self { request_limit: (capacity, leak_per_second), ..self }
    }

    /// Starts as if the bucket were full, as it may be soon after another process has ended.
    pub fn starts_with_full_bucket(self, starts_full: bool) -> Self {
        Self { starts_full, ..self }
    }

    /// Sets the computing time of one method in ten minutes, in seconds: 480.
    pub fn operating_limit(self, operating_limit: f64) -> Self {
        Self { operating_limit, ..self }
    }

    /// Sets the time for a whole answer: at most 75 s. By itself it is a little longer than the portal's own 60 s, by
    /// its clock.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Sets the size at which a body is cut, counted after decompression: 16 MiB.
    pub fn max_body_bytes(self, max_body_bytes: usize) -> Self {
        Self { max_body_bytes, ..self }
    }

    /// Trusts these certificates (PEM, one or several) besides the system's.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates.push(pem.into());
        self
    }

    /// Asks for the webhook's address again whenever the portal refuses it, so that it can be replaced without a restart.
    pub fn renewed_by(self, source: impl Fn() -> Option<SecretString> + Send + Sync + 'static) -> Self {
        Self { source: Some(Box::new(source)), ..self }
    }

    /// Returns the client, or what is wrong with the settings.
    pub fn build(mut self) -> Result<Client, ConfigError> {
        self.check()?;
        let endpoint = Endpoint::parse(&self.webhook_url)?.renewed_by(self.source.take());
        let http = self.http(endpoint.is_protected())?;
        let pacing = self.pacing();
        let Self { clock_speed, operating_limit, max_body_bytes, listener, .. } = self;
        let transport = Transport { http, endpoint, pacing, listener, max_body_bytes };
        Ok(Client::assemble(transport, clock_speed, operating_limit))
    }

    fn answer_timeout(&self) -> Duration {
        const SECONDS: f64 = 70.0;
        let of_the_portal = || Duration::from_secs_f64((SECONDS / self.clock_speed).clamp(10.0, SECONDS));
        self.timeout.unwrap_or_else(of_the_portal)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let range = |name, expected, holds: bool| match holds {
            true => Ok(()),
            false => Err(ConfigError::Range { name, expected }),
        };
        let positive = |number: f64| number.is_finite() && number > 0.0;
        range(
            "clock speed",
            "more than 0, at most 100000",
            positive(self.clock_speed) && self.clock_speed <= 1e5,
        )?;
        range("operating limit", "more than 0 seconds", positive(self.operating_limit))?;
        range(
            "timeout",
            "1 ms to 75 s",
            (Duration::from_millis(1)..=LONGEST_TIMEOUT).contains(&self.answer_timeout()),
        )?;
        range("body limit", "at least 1 byte", self.max_body_bytes > 0)?;
        let (capacity, leak) = self.request_limit;
        range("request limit", "a capacity and a leak of more than 0", capacity > 0 && positive(leak))
    }

    fn http(&self, is_protected: bool) -> Result<reqwest::Client, ConfigError> {
        // Somebody else may have chosen a provider for the whole process; then theirs is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("rollcall/", env!("CARGO_PKG_VERSION")))
            // Following would carry the webhook anywhere.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.answer_timeout().min(Duration::from_secs(10)))
            .timeout(self.answer_timeout())
            // Where one connection died unnoticed others did too: what lay idle while it was found out is not used.
            .pool_idle_timeout(IDLE_TIMEOUT.min(self.answer_timeout()))
            .tls_version_min(reqwest::tls::Version::TLS_1_2);
        for pem in &self.root_certificates {
            let certificates =
                reqwest::Certificate::from_pem_bundle(pem).map_err(|_| ConfigError::Certificate)?;
            if certificates.is_empty() {
                return Err(ConfigError::Certificate);
            }
            builder = builder.tls_certs_merge(certificates);
        }
        if !is_protected {
            // Only for this machine, so no proxy and no certificates are needed, which may not be there at all.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        builder.build().map_err(|error| match lacks_authorities(&error) {
            true => ConfigError::NoAuthorities,
            false => ConfigError::Tls,
        })
    }

    fn pacing(&self) -> Pacing {
        if let Some(budget) = &self.budget {
            return Pacing::Foreign { budget: budget.clone(), refused: self.refused.clone() };
        }
        let (capacity, leak) = self.request_limit;
        let mut bucket = LeakyBucket::new(f64::from(capacity), leak);
        if self.starts_full {
            bucket.fill(Duration::ZERO);
        }
        Pacing::Own(OwnBucket::new(bucket, self.clock_speed))
    }
}

/// Leaves the address out.
impl fmt::Debug for ClientBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientBuilder")
            .field("clock_speed", &self.clock_speed)
            .field("operating_limit", &self.operating_limit)
            .field("timeout", &self.answer_timeout())
            .field("max_body_bytes", &self.max_body_bytes)
            .finish_non_exhaustive()
    }
}
