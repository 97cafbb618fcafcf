//! One HTTP exchange: a POST, its redirect if there is one, and a body of bounded size.

use std::time::Instant;

use reqwest::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use reqwest::{Response, StatusCode};
use url::Url;

use crate::bucket::Lane;
use crate::endpoint::Endpoint;
use crate::envelope::{self, Reply};
use crate::error::{Error, RedirectFault};
use crate::pacing::Pacing;

/// A request as it will go out.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) body: Vec<u8>,
    pub(crate) lane: Lane,
    /// Whether sending it twice does no harm.
    pub(crate) reads_only: bool,
}

/// Sends requests to the endpoint at the pace allowed.
pub(crate) struct Transport {
    pub(crate) http: reqwest::Client,
    pub(crate) endpoint: Endpoint,
    pub(crate) pacing: Pacing,
    pub(crate) max_body_bytes: usize,
}

enum Posted {
    Answered(Reply),
    Moved(Url),
}

impl Transport {
    /// Sends a request, and again to where the portal has moved. `sent` is called for each of them.
    pub(crate) async fn send(&self, request: &Request<'_>, sent: impl Fn()) -> Result<Reply, Error> {
        let asked = self.endpoint.method_url(request.method);
        let target = match self.post(request, asked, &sent).await? {
            Posted::Answered(reply) => return Ok(reply),
            Posted::Moved(target) => target,
        };
        match self.post(request, target.clone(), &sent).await? {
            Posted::Moved(_) => Err(redirect_error(request, RedirectFault::Circle)),
            Posted::Answered(reply) => {
                // Only a portal is moved to, not whatever else may answer there.
                if envelope::read(request.method, &reply).is_ok() {
                    tracing::info!("The portal has moved to another host, requests follow it");
                    self.endpoint.move_to(&target);
                }
                Ok(reply)
            }
        }
    }

    async fn post(&self, request: &Request<'_>, url: Url, sent: &impl Fn()) -> Result<Posted, Error> {
        let _permit = self.pacing.permit(request.lane).await;
        sent();
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
            return self.redirect(request, &url, &response).map(Posted::Moved);
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
        Ok(Posted::Answered(Reply { status: status.as_u16(), body }))
    }

    fn redirect(&self, request: &Request<'_>, asked: &Url, response: &Response) -> Result<Url, Error> {
        let follows = [
            StatusCode::MOVED_PERMANENTLY,
            StatusCode::FOUND,
            StatusCode::TEMPORARY_REDIRECT,
            StatusCode::PERMANENT_REDIRECT,
        ];
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let location = location.filter(|_| follows.contains(&response.status()));
        location
            .ok_or(RedirectFault::NoAddress)
            .and_then(|location| self.endpoint.redirect_target(asked, location))
            .map_err(|fault| redirect_error(request, fault))
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

fn redirect_error(request: &Request<'_>, fault: RedirectFault) -> Error {
    Error::Redirect { method: request.method.into(), fault }
}

/// Takes the address out of an error, for the address is the secret.
fn transport_error(method: &str, error: reqwest::Error) -> Error {
    let (method, source) = (method.into(), error.without_url());
    match () {
        () if source.is_connect() => Error::Connect { method, source },
        () if source.is_timeout() => Error::Timeout { method },
        () => Error::Broken { method, source },
    }
}
