//! The REST entry: from an HTTP request to an answer, through limits and faults.

use std::sync::Arc;

use axum::body::{Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request as HttpRequest, State as Shared};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method as Verb, Uri};
use axum::response::Response;
use futures::stream;
use serde_json::Value;

use super::disturb::{disturb, html_response, json_response, query_limit, refuse, unauthorized};
use super::faults::{Called, Kind, Rule};
use super::history::count;
use super::listener::Peer;
use super::methods::ApiError;
use super::php::{Node, insert_bracketed, parse_query};
use super::run::{Portal, Request};

/// Largest body that is read.
const LARGEST_BODY: usize = 64 * 1024 * 1024;

/// What the path of a request says.
struct Address {
    user: String,
    code: String,
    method: String,
}

impl Address {
    /// Reads `/rest/{user}/{code}/{method}[.json][/]`.
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix("/rest/")?.trim_end_matches('/').split('/');
        let (user, code, method) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let method = method.strip_suffix(".json").unwrap_or(method).to_lowercase();
        Some(Self { user: user.to_owned(), code: code.to_owned(), method })
    }
}

/// Answers a REST request.
pub async fn handle(
    Shared(portal): Shared<Arc<Portal>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: HttpRequest,
) -> Response {
    let response = answer(&portal, &peer, request).await;
    let status = response.status().as_u16();
    *portal.state().counters.answers.entry(status).or_insert(0) += 1;
    response
}

async fn answer(portal: &Arc<Portal>, peer: &Peer, request: HttpRequest) -> Response {
    let (parts, body) = request.into_parts();
    let Some(address) = Address::parse(parts.uri.path()) else {
        return json_response(404, &ApiError::new(404, "ERROR_METHOD_NOT_FOUND", "Method not found!").body());
    };
    if let Some(refused) = admit(portal, peer, &address) {
        return refused;
    }
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else {
        return html_response(413, "Request Entity Too Large");
    };
    let params = match read_params(&parts.method, &parts.uri, &parts.headers, body).await {
        Ok(params) => params,
        Err(error) => return json_response(error.status, &error.body()),
    };
    let fault = strike(portal, &address.method, &params);
    match fault {
        Some(rule) if !rule.kind.lets_request_through() => refused(&rule, peer, parts.uri.path()).await,
        fault => run(portal, peer, address.method, params, fault).await,
    }
}

/// Counts the request; returns the refusal if it goes no further.
fn admit(portal: &Portal, peer: &Peer, address: &Address) -> Option<Response> {
    let now = portal.clock.now();
    let mut state = portal.state();
    let minute: String = state.print(now).chars().take(16).collect();
    state.counters.requests += 1;
    count(&mut state.counters.by_method, &address.method);
    count(&mut state.counters.per_minute, &minute);
    let limit = state.settings.rate_limit;
    if !state.request_counters.admit(peer.address.ip(), now, limit) {
        state.counters.refused_503 += 1;
        return Some(query_limit());
    }
    let authorized =
        address.code == state.settings.secret && address.user == state.settings.webhook_user.to_string();
    if !authorized {
        state.counters.unauthorized += 1;
        return Some(unauthorized());
    }
    None
}

/// Reads the parameters: those of the query, then those of the body over them.
async fn read_params(verb: &Verb, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Result<Node, ApiError> {
    let mut params = parse_query(uri.query().unwrap_or_default());
    if verb != Verb::POST || body.is_empty() {
        return Ok(params);
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let of_body = if content_type.starts_with("multipart/form-data") {
        read_multipart(content_type, body).await?
    } else if content_type.contains("json") {
        serde_json::from_slice(&body).map_err(|_| malformed())?
    } else {
        parse_query(std::str::from_utf8(&body).map_err(|_| malformed())?)
    };
    params.merge(of_body);
    Ok(params)
}

fn malformed() -> ApiError {
    ApiError::new(400, "INVALID_REQUEST", "The body of the request cannot be read")
}

async fn read_multipart(content_type: &str, body: Bytes) -> Result<Node, ApiError> {
    let boundary = multer::parse_boundary(content_type).map_err(|_| malformed())?;
    let body = stream::iter([Ok::<_, std::convert::Infallible>(body)]);
    let mut parts = multer::Multipart::new(body, boundary);
    let mut params = Node::empty();
    while let Some(part) = parts.next_field().await.map_err(|_| malformed())? {
        let Some(name) = part.name().map(str::to_owned) else { continue };
        let text = part.text().await.map_err(|_| malformed())?;
        insert_bracketed(&mut params, &name, Node::Text(text));
    }
    Ok(params)
}

/// Picks the fault of this request, a batch being hit by what its commands call too.
fn strike(portal: &Portal, method: &str, params: &Node) -> Option<Rule> {
    if portal.state().faults.rules().is_empty() {
        return None;
    }
    let mut calls = vec![Called::of(method, params)];
    if method == "batch" {
        let commands = params.param("cmd").and_then(Node::as_array).into_iter().flatten();
        calls.extend(commands.filter_map(|(_, command)| command.text()).map(|command| {
            let (method, query) = command.split_once('?').unwrap_or((&command, ""));
            Called::of(method, &parse_query(query))
        }));
    }
    let mut state = portal.state();
    let rule = state.faults.strike_request(&calls)?;
    let kind = serde_json::to_value(rule.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
    count(&mut state.counters.faults, &kind.unwrap_or_default());
    Some(rule)
}

async fn refused(rule: &Rule, peer: &Peer, path: &str) -> Response {
    match rule.kind {
        Kind::NoAnswer => std::future::pending().await,
        Kind::ResetBefore => {
            peer.reset.throw();
            html_response(502, "Bad Gateway")
        }
        _ => refuse(rule, path).unwrap_or_else(|| html_response(502, "Bad Gateway")),
    }
}

/// Carries out a request, at most as long as the portal allows; the rest goes on without its client.
async fn run(
    portal: &Arc<Portal>,
    peer: &Peer,
    method: String,
    params: Node,
    fault: Option<Rule>,
) -> Response {
    let (mut request, overran) = portal.begin();
    let half = fault.as_ref().is_some_and(|rule| rule.kind == Kind::HalfBatchThen504);
    let working = Arc::clone(portal);
    // A task of its own: neither the time limit nor a client that hangs up stops the work.
    let work = tokio::spawn(async move { carry_out(&working, &mut request, &method, &params, half).await });
    let done = tokio::select! {
        biased;
        Ok(()) = overran => {
            portal.state().counters.timed_out_504 += 1;
            return html_response(504, "Gateway Time-out");
        }
        done = work => done,
    };
    let Ok((status, body)) = done else {
        return html_response(500, "Internal Server Error");
    };
    finish(portal, peer, fault, status, body).await
}

async fn carry_out(
    portal: &Portal,
    request: &mut Request,
    method: &str,
    params: &Node,
    half: bool,
) -> (u16, Value) {
    if method != "batch" {
        return portal.single(request, method, params).await;
    }
    let commands = params.param("cmd").and_then(Node::as_array).map_or(0, indexmap::IndexMap::len);
    portal.batch(request, params, half.then_some(commands / 2)).await
}

async fn finish(portal: &Portal, peer: &Peer, fault: Option<Rule>, status: u16, body: Value) -> Response {
    let Some(rule) = fault else { return json_response(status, &body) };
    match rule.kind {
        Kind::AnswerLost => std::future::pending().await,
        Kind::ResetAfterApply => {
            peer.reset.throw();
            json_response(status, &body)
        }
        Kind::HalfBatchThen504 => html_response(504, "Gateway Time-out"),
        Kind::Slow => {
            let until = portal.clock.work_time() + rule.delay();
            portal.clock.work_until(until).await;
            json_response(status, &body)
        }
        _ => disturb(&rule, status, body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_suffix_and_slash() {
        for path in
            ["/rest/1/abc/crm.deal.list", "/rest/1/abc/crm.deal.list.json", "/rest/1/abc/CRM.deal.list/"]
        {
            let address = Address::parse(path).expect(path);
            assert_eq!((address.user.as_str(), address.code.as_str()), ("1", "abc"));
            assert_eq!(address.method, "crm.deal.list");
        }
        for path in ["/rest/1/abc", "/rest/", "/rest/1/abc/x/y", "/other"] {
            assert!(Address::parse(path).is_none(), "{path}");
        }
    }
}
