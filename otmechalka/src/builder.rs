//! Settings of a client, checked before the first call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Certificate, redirect};
use secrecy::SecretString;
use tls_fault::lacks_authorities;
use url::{Host, Url};

use crate::answer::Absence;
use crate::client::Client;
use crate::token::{Token, TokenSource};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// Connecting is given less than the whole, so that "unreachable" is told from "too slow".
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than the keep-alive of common servers: a connection they are about to close is not used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
const USER_AGENT: &str = concat!("rollcall/", env!("CARGO_PKG_VERSION"));

/// Settings with which no client can be made. The texts hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("otmechalka's address must be http or https with a host, like https://otmechalka.example")]
    Address,
    #[error("otmechalka's address must not hold a user name or password, use the token setting")]
    Credentials,
    #[error("otmechalka's address must be https: plain http would show the token, it is only for loopback")]
    PlainHttp,
    #[error("otmechalka's token or its scheme word has characters a header cannot hold")]
    Token,
    #[error("the time limit must not be zero")]
    Timeout,
    #[error("the certificate file is not PEM")]
    Certificate,
    #[error(
        "this machine has no CA certificates to know otmechalka by: install its package ca-certificates, or name a \
         PEM file in OTMECHALKA_CA_FILE"
    )]
    NoAuthorities,
    #[error("the HTTP client cannot be set up")]
    Http(#[source] reqwest::Error),
}

/// Collects the settings of a [`Client`].
#[must_use]
pub struct Builder {
    base_url: Url,
    token: Option<SecretString>,
    auth_scheme: String,
    timeout: Duration,
    certificates_pem: Option<Vec<u8>>,
    absence: Absence,
    source: Option<TokenSource>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(base_url: Url) -> Self {
        Self {
            base_url,
            token: None,
            auth_scheme: "Token".to_owned(),
            timeout: DEFAULT_TIMEOUT,
            certificates_pem: None,
            absence: Absence::Json,
            source: None,
        }
    }

    /// Sets the token; an empty one means that no header is sent.
    pub fn token(mut self, token: SecretString) -> Self {
        self.token = Some(token);
        self
    }

    /// Asks for the token again whenever otmechalka refuses it, so that it can be replaced without a restart.
    pub fn renewed_by(mut self, source: impl Fn() -> Option<SecretString> + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Sets the word before the token, `Token` by default.
    pub fn auth_scheme(mut self, scheme: impl Into<String>) -> Self {
        self.auth_scheme = scheme.into();
        self
    }

    /// Sets the limit for one whole call up to the last byte of the answer, 15 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Adds own certificate authorities, in PEM, to those of the system.
    pub fn root_certificates_pem(mut self, pem: Vec<u8>) -> Self {
        self.certificates_pem = Some(pem);
        self
    }

    /// Believes every 404 to a lookup, also one without a JSON body.
    ///
    /// Only for an otmechalka that answers so: a proxy's 404 then passes for "not there yet".
    pub fn trust_any_not_found(mut self) -> Self {
        self.absence = Absence::Any;
        self
    }

    /// Checks the settings and makes the client.
    pub fn build(self) -> Result<Client, ConfigError> {
        check_address(&self.base_url)?;
        if self.timeout.is_zero() {
            return Err(ConfigError::Timeout);
        }
        // The crypto library is one for the whole process; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(headers())
            .timeout(self.timeout)
            .connect_timeout(MAX_CONNECT_TIMEOUT.min(self.timeout))
            // Where one connection died unnoticed others did too: what lay idle while it was found out is not used.
            .pool_idle_timeout(IDLE_TIMEOUT.min(self.timeout))
            // A POST would come back from a redirect as a GET, and another host would see the token.
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .tls_version_min(reqwest::tls::Version::TLS_1_2);
        if self.base_url.scheme() == "http" {
            // A proxy from the environment would carry the token off the machine in clear. No certificates are
            // needed, which may not be there at all.
            http = http.no_proxy().tls_certs_only([]);
        }
        if let Some(pem) = &self.certificates_pem {
            http = http.tls_certs_merge(certificates(pem)?);
        }
        let http = http.build().map_err(|error| match lacks_authorities(&error) {
            true => ConfigError::NoAuthorities,
            false => ConfigError::Http(error.without_url()),
        })?;
        let token = Token::new(self.auth_scheme, self.token.as_ref(), self.source);
        let token = Arc::new(token.ok_or(ConfigError::Token)?);
        Ok(Client {
            http,
            timeout: self.timeout,
            base: self.base_url,
            absence: self.absence,
            token,
            observer: None,
        })
    }
}

fn check_address(url: &Url) -> Result<(), ConfigError> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ConfigError::Credentials);
    }
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => Ok(()),
        ("http", Some(host)) if is_loopback(&host) => Ok(()),
        ("http", Some(_)) => Err(ConfigError::PlainHttp),
        _ => Err(ConfigError::Address),
    }
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

fn headers() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))])
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, ConfigError> {
    match Certificate::from_pem_bundle(pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(ConfigError::Certificate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(url: &str) -> Result<Client, ConfigError> {
        Client::builder(Url::parse(url).expect("a URL")).token(SecretString::from("s3cret-t0ken")).build()
    }

    #[test]
    fn token_is_shown_to_loopback_or_over_tls_only() {
        for url in
            ["https://otmechalka.example", "http://127.0.0.1:8080/x", "http://localhost/", "http://[::1]:1/"]
        {
            assert!(build(url).is_ok(), "{url}");
        }
        for url in ["http://otmechalka.example", "http://10.0.0.1", "http://localhost.example/"] {
            assert!(matches!(build(url), Err(ConfigError::PlainHttp)), "{url}");
        }
        assert!(matches!(build("ftp://otmechalka.example"), Err(ConfigError::Address)));
        assert!(matches!(build("https://user:pass@otmechalka.example"), Err(ConfigError::Credentials)));
    }

    #[test]
    fn unusable_settings_are_refused_without_showing_them() {
        let url = || Url::parse("https://otmechalka.example").expect("a URL");
        let broken = Client::builder(url()).token(SecretString::from("s3cret\u{7}t0ken")).build();
        let error = broken.expect_err("a bell in a header");
        assert!(!format!("{error} {error:?}").contains("s3cret"));
        let error = Client::builder(url()).timeout(Duration::ZERO).build().expect_err("no time at all");
        assert!(matches!(error, ConfigError::Timeout));
        let error = Client::builder(url()).root_certificates_pem(b"nonsense".to_vec()).build();
        assert!(matches!(error, Err(ConfigError::Certificate)));
    }

    #[test]
    fn debug_of_client_and_builder_holds_no_token() {
        let builder = Client::builder(Url::parse("https://otmechalka.example").expect("a URL"))
            .token(SecretString::from("s3cret-t0ken"));
        assert!(!format!("{builder:?}").contains("s3cret"));
        let client = builder.build().expect("good settings");
        assert!(!format!("{client:?}").contains("s3cret"));
    }
}
