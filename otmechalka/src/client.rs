//! The five calls. None of them is repeated here: whoever calls knows how long to wait.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, Response};
use serde::Serialize;
use serde_json::Value;
use tracing::debug;
use url::Url;

use crate::answer::{self, Absence, Answer, BodyEnd, MAX_BODY_BYTES};
use crate::body::{ClientBody, TicketBody};
use crate::builder::Builder;
use crate::error::{Call, Error, Operation};
use crate::token::Token;

/// Longest id that is put into an address.
const MAX_ORIGIN_ID_BYTES: usize = 64;

/// A client of otmechalka. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    /// Of a call, however often it is made.
    pub(crate) timeout: Duration,
    pub(crate) base: Url,
    pub(crate) absence: Absence,
    pub(crate) token: Arc<Token>,
    pub(crate) observer: Option<Observer>,
}

/// Is told of every call that has ended.
pub type Observer = Arc<dyn Fn(Called<'_>) + Send + Sync>;

/// A call that has ended.
#[derive(Debug)]
pub struct Called<'c> {
    /// Which call.
    pub call: Call,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// How long it took.
    pub duration: Duration,
    /// Why it gave nothing, if so.
    pub error: Option<&'c Error>,
}

/// A client or ticket as otmechalka returned it.
#[derive(Clone, PartialEq)]
pub struct Record {
    /// otmechalka's own id, as text whether it came as a number or not.
    pub id: Option<String>,
    /// The whole answer.
    pub body: Value,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// Starts a client of the otmechalka at this address.
    pub fn builder(base_url: Url) -> Builder {
        Builder::new(base_url)
    }

    /// Has every call that ends told to an observer.
    pub fn observed_by(self, observer: impl Fn(Called<'_>) + Send + Sync + 'static) -> Client {
        Client { observer: Some(Arc::new(observer)), ..self }
    }

    /// Looks a client up by the contact's id; `None` when otmechalka has none.
    pub async fn get_client(&self, origin_id: &str) -> Result<Option<Record>, Error> {
        let request = self.request(Method::GET, &["clients", id_segment(origin_id)?]);
        self.send(request, Call::GetClient, origin_id).await
    }

    /// Creates a client. otmechalka may store a second one under the same origin id: look first.
    pub async fn create_client(&self, body: &ClientBody) -> Result<Record, Error> {
        id_segment(&body.origin_id)?;
        let request = self.request(Method::POST, &["clients"]);
        self.write(request, Call::CreateClient, &body.origin_id, body).await
    }

    /// Replaces the fields of a client.
    pub async fn update_client(&self, origin_id: &str, body: &ClientBody) -> Result<Record, Error> {
        let request = self.request(Method::POST, &["clients", id_segment(origin_id)?]);
        self.write(request, Call::UpdateClient, origin_id, body).await
    }

    /// Looks a ticket up by the deal's id; `None` when otmechalka has none.
    pub async fn get_ticket(&self, origin_id: &str) -> Result<Option<Record>, Error> {
        let request = self.request(Method::GET, &["tickets", id_segment(origin_id)?]);
        self.send(request, Call::GetTicket, origin_id).await
    }

    /// Creates a ticket. otmechalka may store a second one under the same origin id: look first.
    pub async fn create_ticket(&self, body: &TicketBody) -> Result<Record, Error> {
        id_segment(&body.origin_id)?;
        let request = self.request(Method::POST, &["tickets"]);
        self.write(request, Call::CreateTicket, &body.origin_id, body).await
    }

    fn request(&self, method: Method, segments: &[&str]) -> reqwest::RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            // The empty last segment is the slash at the end, without which Django redirects.
            path.pop_if_empty().push("api").extend(segments).push("");
        }
        self.http.request(method, url)
    }

    async fn write(
        &self,
        request: reqwest::RequestBuilder,
        call: Call,
        origin_id: &str,
        body: &impl Serialize,
    ) -> Result<Record, Error> {
        match self.send(request.json(body), call, origin_id).await? {
            Some(record) => Ok(record),
            None => Err(Error::NotFound { operation: operation(call, origin_id) }),
        }
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        call: Call,
        origin_id: &str,
    ) -> Result<Option<Record>, Error> {
        let started = Instant::now();
        let (again, sent) = (request.try_clone(), self.token.header());
        let (mut status, mut result) = self.send_once(request, sent.clone(), call, origin_id).await;
        // A refused call did nothing, so making it once more with another token does nothing twice.
        if let (Err(Error::Unauthorized { .. }), Some(again)) = (&result, again)
            && let Some(other) = self.token.other_than(sent.as_ref())
        {
            tracing::info!(
                "otmechalka refuses the token, which was replaced meanwhile; going on with the new one"
            );
            let left = self.timeout.saturating_sub(started.elapsed());
            (status, result) = self.send_once(again.timeout(left), Some(other), call, origin_id).await;
        }
        let duration = started.elapsed();
        if let Some(observer) = &self.observer {
            observer(Called { call, status, duration, error: result.as_ref().err() });
        }
        let duration_ms = duration.as_millis() as u64;
        debug!(?call, origin_id, duration_ms, ok = result.is_ok(), "Called otmechalka about {origin_id}");
        result
    }

    async fn send_once(
        &self,
        request: reqwest::RequestBuilder,
        token: Option<HeaderValue>,
        call: Call,
        origin_id: &str,
    ) -> (Option<u16>, Result<Option<Record>, Error>) {
        let request = match token {
            Some(header) => request.header(AUTHORIZATION, header),
            None => request,
        };
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(server) = crate::simulated::current() {
            return self.send_simulated(&server, request, call, origin_id).await;
        }
        match request.send().await {
            Ok(response) => {
                let status = Some(response.status().as_u16());
                let answer = receive(response, call, origin_id).await;
                (status, answer::read(answer, operation(call, origin_id), self.absence))
            }
            Err(error) => (None, Err(Error::from_transport(operation(call, origin_id), error))),
        }
    }
}

#[cfg(all(feature = "faults", debug_assertions))]
impl Client {
    async fn send_simulated(
        &self,
        server: &crate::simulated::Server,
        request: reqwest::RequestBuilder,
        call: Call,
        origin_id: &str,
    ) -> (Option<u16>, Result<Option<Record>, Error>) {
        let operation = operation(call, origin_id);
        let reply = match request.build() {
            Ok(request) => server(request).await,
            Err(error) => return (None, Err(Error::from_transport(operation, error))),
        };
        let Some(crate::simulated::Reply { status, headers, body }) = reply else {
            return (None, Err(Error::TimedOut { operation }));
        };
        let answer = answer::read_http(operation, status, headers, &body);
        (Some(status.as_u16()), answer)
    }
}

/// Reads the body as far as it comes and as far as it is worth reading.
async fn receive(mut response: Response, call: Call, origin_id: &str) -> Answer {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    let end = loop {
        match response.chunk().await {
            Ok(None) => break BodyEnd::Complete,
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_BODY_BYTES => break BodyEnd::TooLong,
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => break BodyEnd::Broken(Error::from_transport(operation(call, origin_id), error)),
        }
    };
    Answer { status, headers, body, end, received: Utc::now().into() }
}

fn operation(call: Call, origin_id: &str) -> Operation {
    Operation { call, origin_id: origin_id.to_owned() }
}

/// Lets through only ids that stand in an address as they are and cannot lead out of it.
fn id_segment(origin_id: &str) -> Result<&str, Error> {
    let fits = (1..=MAX_ORIGIN_ID_BYTES).contains(&origin_id.len());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if fits && origin_id.bytes().all(plain) { Ok(origin_id) } else { Err(Error::OriginId) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_ids_reach_an_address() {
        for id in ["1", "39558", "deal-7_a"] {
            assert!(id_segment(id).is_ok(), "{id}");
        }
        let long = "9".repeat(65);
        for id in ["", ".", "..", "1/2", "1?x", "1#x", "1 ", "1%2f", "ид", &long] {
            assert!(matches!(id_segment(id), Err(Error::OriginId)), "{id}");
        }
    }
}
