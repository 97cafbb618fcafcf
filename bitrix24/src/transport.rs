//! One HTTP exchange: a POST, no redirect ever, and a body of bounded size.

use std::time::Instant;

use reqwest::Response;
use reqwest::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use tls_fault::TlsFault;

use crate::bucket::Lane;
use crate::endpoint::Endpoint;
use crate::envelope::Reply;
use crate::error::Error;
use crate::pacing::{Listener, Pacing};
#[cfg(all(feature = "faults", debug_assertions))]
use crate::simulated::Outcome;

/// A request as it will go out.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) body: Vec<u8>,
    pub(crate) lane: Lane,
    /// Whether sending it twice does no harm.
    pub(crate) reads_only: bool,
    /// Whether it waits for its turn in the budget.
    pub(crate) is_paced: bool,
}

/// Sends requests to the endpoint at the pace allowed.
pub(crate) struct Transport {
    pub(crate) http: reqwest::Client,
    pub(crate) endpoint: Endpoint,
    pub(crate) pacing: Pacing,
    pub(crate) listener: Option<Listener>,
    pub(crate) max_body_bytes: usize,
}

impl Transport {
    /// Sends a request. `sent` is called when it goes out.
    pub(crate) async fn send(&self, request: &Request<'_>, sent: impl Fn()) -> Result<Reply, Error> {
        let _permit = match request.is_paced {
            true => Some(self.pacing.permit(request.lane).await),
            false => None,
        };
        // Not before: the webhook may be replaced while a request waits for its turn.
        let url = self.endpoint.method_url(request.method);
        sent();
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(simulation) = crate::simulated::current() {
            let (webhook, method) = (url.to_string(), request.method.to_owned());
            let outcome = (simulation.portal)(webhook, method, request.body.clone()).await;
            let method = request.method.into();
            return match outcome {
                Outcome::Answer(status, body) => Ok(Reply { status, body }),
                Outcome::TooLarge => Err(Error::TooLarge { method, limit: self.max_body_bytes }),
                Outcome::NoAnswer => Err(Error::Timeout { method }),
            };
        }
        let started = Instant::now();
        let response = self
            .http
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(request.body.clone())
            .send()
            .await
            .map_err(|error| transport_error(request.method, error))?;
        let status = response.status();
        if status.is_redirection() {
            let fault = self.endpoint.redirect_fault(&url, location(&response));
            return Err(Error::Redirect { method: request.method.into(), fault });
        }
        let body = self.body(request.method, response).await?;
        tracing::debug!(
            method = request.method,
            status = status.as_u16(),
            body_bytes = body.len(),
            duration_ms = started.elapsed().as_millis() as u64,
            "Called {}",
            request.method
        );
        Ok(Reply { status: status.as_u16(), body })
    }

    /// Reads at most the limit, counted after decompression, so that no body can fill the memory.
    async fn body(&self, method: &str, mut response: Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| transport_error(method, error))? {
            if body.len() + chunk.len() > self.max_body_bytes {
                return Err(Error::TooLarge { method: method.into(), limit: self.max_body_bytes });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn location(response: &Response) -> Option<&str> {
    response.headers().get(LOCATION).and_then(|location| location.to_str().ok())
}

/// Takes the address out of an error, for the address is the secret.
fn transport_error(method: &str, error: reqwest::Error) -> Error {
    let (method, source) = (method.into(), error.without_url());
    if let Some(fault) = TlsFault::of(&source) {
        return Error::Untrusted { method, fault };
    }
    match () {
        () if source.is_connect() => Error::Connect { method, source },
        () if source.is_timeout() => Error::Timeout { method },
        () => Error::Broken { method, source },
    }
}
