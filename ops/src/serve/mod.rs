//! `rollcall serve`: pages that show the flow, the problem records, and one record's story. It only reads.

mod english;
mod page;
mod story;
mod view;
mod words;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener as _;
use runtime::listener::Bounded;
use runtime::{Broker, Reader};
use schemas::{Entity, RecordId, RecordRef};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Mutex, Semaphore};

use crate::answer::Answer;
use crate::cli;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::history;
use crate::mask::Mask;
use crate::nats;
use crate::owner;
use crate::signals::Signals;
use crate::status::facts::Recent;
use page::Choice;
use view::View;
use words::{Language, Zone};

/// A view is shown to everybody who asks within this time: reading one takes a walk through the outcomes.
const FRESH: Duration = Duration::from_secs(5);

/// Stories that are read at once: each takes a few consumers in NATS for as long as that takes.
const STORIES_AT_ONCE: usize = 2;

/// Entries of a story that are shown, the newest.
const MOST_ENTRIES: usize = 200;

/// Where the page is shown unless somebody says otherwise: for this machine only.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Style of the page; its own resource, so that the page needs no inline code.
const STYLE: &str = include_str!("style.css");

/// Nothing but our own style sheet may be loaded, and nothing may be run.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

struct Shown {
    broker: Broker,
    /// Address of the portal, for links to its records.
    portal: Option<String>,
    /// Hides what may be about a person; nothing here can switch it off.
    mask: Mask,
    /// Names that the page is known by.
    hosts: Vec<String>,
    stories: Semaphore,
    newest: Mutex<Newest>,
}

/// The newest view, and what the next one need not read again.
#[derive(Default)]
struct Newest {
    view: Option<(Instant, Arc<View>)>,
    recent: Recent,
}

/// Reads `SERVE_HOSTS`: names under which the page may be asked for, besides addresses and `localhost`.
fn hosts(environment: &Environment) -> Result<Vec<String>, Failure> {
    let source = environment.source();
    let reader = Reader::new(&source);
    let hosts = reader.list("SERVE_HOSTS", &[], "rollcall.school.example");
    reader.finish(|| hosts).map_err(Failure::settings)
}

/// Tells whether a request names us. A foreign name that leads here would let that name's site read the page in a browser,
/// which always says what it asks for.
fn is_ours(host: Option<&str>, hosts: &[String]) -> bool {
    let Some(host) = host else { return true };
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_matches(['[', ']']);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
}

async fn only_for_us(State(shown): State<Arc<Shown>>, request: Request, next: Next) -> Response {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = named.or(request.uri().authority().map(Authority::as_str));
    if is_ours(host, &shown.hosts) {
        return next.run(request).await;
    }
    let reason = "The page is not known by this name. Name it in SERVE_HOSTS, or ask for it by address.\n";
    (StatusCode::MISDIRECTED_REQUEST, reason).into_response()
}

/// Reads the address from the command line, else from `SERVE_LISTEN`.
fn address(environment: &Environment, argument: Option<SocketAddr>) -> Result<SocketAddr, Failure> {
    if let Some(address) = argument {
        return Ok(address);
    }
    let source = environment.source();
    let reader = Reader::new(&source);
    let expected = "an address of this machine and a port";
    let address =
        reader.with_default("SERVE_LISTEN", LISTEN, expected, "127.0.0.1:8080", |text| text.parse().ok());
    reader.finish(|| address).map_err(Failure::settings)
}

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &cli::Serve, json: bool) -> Result<Exit, Failure> {
    let (listen, hosts) = (address(environment, arguments.listen)?, hosts(environment)?);
    let mut signals = Signals::listen()?;
    let broker = nats::connect_page(environment).await?;
    let portal = match owner::portal_address(environment) {
        None => owner::marked_address(&broker).await,
        known => known,
    };
    let shown = Shown {
        broker,
        portal,
        mask: Mask::of(environment),
        hosts,
        stories: Semaphore::new(STORIES_AT_ONCE),
        newest: Mutex::default(),
    };
    let cannot_listen = |error: std::io::Error| {
        Failure::environment(format!("Cannot listen at {listen}: {error}")).remedy("Choose another --listen")
    };
    let listener = Bounded::bind(listen).await.map_err(cannot_listen)?;
    let address: SocketAddr = listener.local_addr().map_err(cannot_listen)?;
    let summary = format!("The status page is at http://{address}/ until Ctrl-C.");
    let result = json!({"address": format!("http://{address}/")});
    Answer::new(summary, result, Vec::new()).tell(json, |answer| answer.summary.clone())?;
    let stopped = async move { signals.next().await };
    let served = axum::serve(listener, router(Arc::new(shown))).with_graceful_shutdown(stopped);
    served.await.map_err(Failure::trouble)?;
    Ok(Exit::Fine)
}

fn router(shown: Arc<Shown>) -> Router {
    Router::new()
        .route("/", get(front))
        .route(page::STORY, get(story))
        .route("/status.json", get(status))
        .route("/style.css", get(|| async { ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE) }))
        .layer(middleware::from_fn_with_state(Arc::clone(&shown), only_for_us))
        .with_state(shown)
}

/// What a reader may choose.
#[derive(Debug, Default, Deserialize)]
struct Asked {
    lang: Option<String>,
    entity: Option<String>,
    problem: Option<String>,
    page: Option<usize>,
    still: Option<String>,
}

async fn front(State(shown): State<Arc<Shown>>, Query(asked): Query<Asked>, headers: HeaderMap) -> Response {
    let language = language(asked.lang.as_deref(), &headers);
    let choice = Choice::new(asked.entity.as_deref(), asked.problem, asked.page).still(asked.still.is_some());
    match shown.view().await {
        Ok(view) => page(StatusCode::OK, page::front(&view, &choice, language, shown.portal.as_deref())),
        Err(reason) => page(StatusCode::SERVICE_UNAVAILABLE, page::out_of_order(&reason, language)),
    }
}

/// Which record a reader asks for.
#[derive(Debug, Default, Deserialize)]
struct AskedStory {
    lang: Option<String>,
    entity: Option<String>,
    id: Option<String>,
}

async fn story(
    State(shown): State<Arc<Shown>>,
    Query(asked): Query<AskedStory>,
    headers: HeaderMap,
) -> Response {
    let language = language(asked.lang.as_deref(), &headers);
    let entity = asked.entity.as_deref().and_then(Entity::from_token);
    let id = asked.id.as_deref().and_then(|id| RecordId::parse(id.trim()).ok());
    let Some((entity, id)) = entity.zip(id) else {
        let reason = language.pick(
            "Назовите контакт или сделку и ID из Битрикс24.",
            "Name a contact or a deal, and its ID in Bitrix24.",
        );
        return page(StatusCode::BAD_REQUEST, story::refused(reason, language));
    };
    let record = RecordRef { entity, id };
    match shown.story(record).await {
        Ok(told) => {
            // The watermarks tell the portal's zone; without them it is not worth an error.
            let zone = shown.view().await.map_or(Zone::UTC, |view| view.zone());
            page(StatusCode::OK, story::story(&told, record, zone, language, shown.portal.as_deref()))
        }
        Err(reason) => page(StatusCode::SERVICE_UNAVAILABLE, story::refused(&reason, language)),
    }
}

fn language(asked: Option<&str>, headers: &HeaderMap) -> Language {
    let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    Language::choose(asked, accepted)
}

fn page(code: StatusCode, html: String) -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (code, headers, Html(html)).into_response()
}

async fn status(State(shown): State<Arc<Shown>>) -> Response {
    match shown.view().await {
        Ok(view) => axum::Json(&view.status).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

impl Shown {
    async fn view(&self) -> Result<Arc<View>, String> {
        let mut newest = self.newest.lock().await;
        if let Some((read, view)) = newest.view.as_ref()
            && read.elapsed() < FRESH
        {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(View::read(&self.broker, &self.mask, &mut newest.recent).await?);
        newest.view = Some((Instant::now(), Arc::clone(&view)));
        Ok(view)
    }

    async fn story(&self, record: RecordRef) -> Result<history::Story, String> {
        let _turn = self.stories.acquire().await.map_err(|error| error.to_string())?;
        let told = history::read(&self.broker, record, &self.mask, MOST_ENTRIES).await;
        told.map_err(|failure| failure.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_to_addresses_and_to_names_that_are_its_own() {
        let hosts = ["rollcall.school.example".to_owned()];
        for ours in ["127.0.0.1:8080", "[::1]:8088", "10.1.2.3", "LocalHost:1", "Rollcall.School.example"] {
            assert!(is_ours(Some(ours), &hosts), "{ours}");
        }
        for other in ["evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "", "a b"] {
            assert!(!is_ours(Some(other), &hosts), "{other}");
        }
        assert!(is_ours(None, &hosts), "no browser");
    }

    #[test]
    fn it_listens_on_this_machine_only_unless_somebody_says_otherwise() {
        let mut environment = Environment::default();
        environment.set("SERVE_LISTEN", "");
        assert_eq!(address(&environment, None).unwrap().to_string(), "127.0.0.1:8080");
        environment.set("SERVE_LISTEN", "[::1]:9000");
        assert_eq!(address(&environment, None).unwrap().to_string(), "[::1]:9000");
        let named = Some("10.0.0.1:1".parse().unwrap());
        assert_eq!(address(&environment, named).unwrap().to_string(), "10.0.0.1:1", "the command line wins");
        environment.set("SERVE_LISTEN", "8080");
        let failure = address(&environment, None).unwrap_err();
        assert!(failure.text.contains("SERVE_LISTEN") && failure.exit == Exit::Settings, "{}", failure.text);
    }
}
