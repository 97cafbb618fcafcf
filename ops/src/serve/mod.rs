//! `rollcall serve`: a page that shows the flow and the problem records. It only reads.

mod page;
mod view;
mod words;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use runtime::Broker;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::answer::print;
use crate::cli;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::nats;
use crate::owner;
use page::Choice;
use view::View;
use words::Language;

/// A view is shown to everybody who asks within this time: reading one takes a walk through the outcomes.
const FRESH: Duration = Duration::from_secs(5);

/// Style of the page; its own resource, so that the page needs no inline code.
const STYLE: &str = include_str!("style.css");

/// Nothing but our own style sheet may be loaded, and nothing may be run.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

struct Shown {
    broker: Broker,
    /// Address of the portal, for links to its records.
    portal: Option<String>,
    newest: Mutex<Option<(Instant, Arc<View>)>>,
}

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &cli::Serve) -> Result<Exit, Failure> {
    let broker = nats::connect(environment).await?;
    let shown = Shown { broker, portal: owner::portal_address(environment), newest: Mutex::default() };
    let cannot_listen = |error: std::io::Error| {
        Failure::environment(format!(
            "Cannot listen at {}: {error}. Choose another --listen",
            arguments.listen
        ))
    };
    let listener = tokio::net::TcpListener::bind(arguments.listen).await.map_err(cannot_listen)?;
    let address: SocketAddr = listener.local_addr().map_err(cannot_listen)?;
    print(&format!("The status page is at http://{address}/ until Ctrl-C."));
    let stopped = async {
        let _no_signals = tokio::signal::ctrl_c().await;
    };
    let served = axum::serve(listener, router(Arc::new(shown))).with_graceful_shutdown(stopped);
    served.await.map_err(Failure::trouble)?;
    Ok(Exit::Fine)
}

fn router(shown: Arc<Shown>) -> Router {
    Router::new()
        .route("/", get(front))
        .route("/status.json", get(status))
        .route("/style.css", get(|| async { ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE) }))
        .with_state(shown)
}

/// What a reader may choose.
#[derive(Debug, Default, Deserialize)]
struct Asked {
    lang: Option<String>,
    entity: Option<String>,
    problem: Option<String>,
    page: Option<usize>,
}

async fn front(State(shown): State<Arc<Shown>>, Query(asked): Query<Asked>, headers: HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    let language = Language::choose(asked.lang.as_deref(), accepted);
    let choice = Choice::new(asked.entity.as_deref(), asked.problem, asked.page);
    let html = match shown.view().await {
        Ok(view) => (StatusCode::OK, page::front(&view, &choice, language, shown.portal.as_deref())),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, page::out_of_order(&reason, language)),
    };
    let (code, html) = html;
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
        if let Some((read, view)) = newest.as_ref()
            && read.elapsed() < FRESH
        {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(View::read(&self.broker).await?);
        *newest = Some((Instant::now(), Arc::clone(&view)));
        Ok(view)
    }
}
