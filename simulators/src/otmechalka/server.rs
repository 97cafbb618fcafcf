//! Takes requests from the wire, spoils them when a fault says so, and notes what became of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, State as Shared};
use axum::http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde_json::Value;
use tokio::net::TcpListener;
use tracing::debug;
use url::Url;

use super::admin;
use super::api::{self, Call, Outcome, detail};
use super::clock::Clock;
use super::faults::{Kind, Rule};
use super::journal::Journal;
use super::settings::Settings;
use super::state::{Entity, Entry, State};
use super::wire::{CuttableListener, Line};
use crate::bodies;
use crate::door::{Door, Tls};

/// A body above this is answered with 413.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How long a call without an answer is kept, unless its fault says otherwise.
const SILENCE_SECONDS: f64 = 600.0;

/// How a double is started. What is `None` is as a former run left it, or as the defaults have it.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A free port of loopback without it.
    pub listen: Option<SocketAddr>,
    /// A second way in, whose address callers are told then.
    pub tls: Option<Tls>,
    /// Keeps everything there; without it a restart begins empty.
    pub state_dir: Option<PathBuf>,
    pub token: Option<String>,
    pub latency_ms: Option<u64>,
    pub max_visitors: Option<usize>,
    pub unique_origin: Option<bool>,
    pub clock_speed: Option<f64>,
}

/// A running double. It stops when this is dropped.
pub struct Simulator {
    /// Base address for callers of the API.
    pub url: Url,
    /// Base address for tests and demonstrations.
    pub admin_url: Url,
    state: Arc<Mutex<State>>,
    state_dir: Option<PathBuf>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Simulator {
    /// Stops without waiting for calls at work, and tidies the kept state.
    pub fn stop(self) -> anyhow::Result<()> {
        self.abort();
        match &self.state_dir {
            Some(folder) => Journal::rewrite(folder, &lock(&self.state)).map(drop),
            None => Ok(()),
        }
    }

    fn abort(&self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Starts a double and returns when it answers.
pub async fn start(options: Options) -> anyhow::Result<Simulator> {
    let state = prepare(&options)?;
    let address = options.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))?;
    let mut url = Url::parse(&format!("http://{}/", listener.local_addr()?))?;
    let admin_url = url.join("admin/")?;
    let mut doors = vec![Door::Plain(listener)];
    if let Some(tls) = &options.tls {
        let door =
            Door::over_tls(tls).await.with_context(|| format!("failed to listen on {}", tls.listen))?;
        url = Url::parse(&format!("https://{}/", door.local_addr()?))?;
        doors.push(door);
    }
    let state = Arc::new(Mutex::new(state));
    let router = Router::new()
        .fallback(handle)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Arc::clone(&state));
    let serve = |door| {
        let service = router.clone().into_make_service_with_connect_info::<Line>();
        tokio::spawn(async move {
            if let Err(error) = axum::serve(CuttableListener(door), service).await {
                tracing::error!(%error, "Stopped serving");
            }
        })
    };
    let tasks = doors.into_iter().map(serve).collect();
    Ok(Simulator { url, admin_url, state, state_dir: options.state_dir, tasks })
}

fn prepare(options: &Options) -> anyhow::Result<State> {
    let speed = options.clock_speed.unwrap_or(1.0);
    anyhow::ensure!(speed.is_normal() && speed > 0.0, "the clock's speed must be greater than zero");
    let mut state = State::new(Settings::default(), Clock::new(Utc::now(), speed));
    if let Some(folder) = &options.state_dir {
        Journal::read(folder, &mut state)?;
    }
    // A former run may have been ahead of the host's clock; history must stay in order.
    let last = state.history.last().map_or(DateTime::UNIX_EPOCH, |entry| entry.time);
    state.clock = Clock::new(Utc::now().max(last), speed);
    let settings = &mut state.settings;
    settings.token = options.token.clone().filter(|token| !token.is_empty()).or(settings.token.take());
    settings.latency_ms = options.latency_ms.unwrap_or(settings.latency_ms);
    settings.max_visitors = options.max_visitors.unwrap_or(settings.max_visitors);
    settings.unique_origin = options.unique_origin.unwrap_or(settings.unique_origin);
    if let Some(folder) = &options.state_dir {
        let journal = Journal::rewrite(folder, &state)?;
        state.keep_in(journal);
    }
    Ok(state)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn handle(
    Shared(state): Shared<Arc<Mutex<State>>>,
    ConnectInfo(line): ConnectInfo<Line>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    if uri.path() == "/admin" || uri.path().starts_with("/admin/") {
        return answer_admin(&state, &method, &uri, &body);
    }
    let request = Arrived::new(&method, &uri, &headers, &body);
    // A task of its own: what has arrived is carried out even when the caller hangs up.
    let ending = tokio::spawn(serve(state, request)).await;
    match ending {
        Ok(Ending::Answer(response)) => response,
        Ok(Ending::Cut) | Err(_) => {
            line.cut();
            std::future::pending().await
        }
    }
}

fn answer_admin(state: &Mutex<State>, method: &Method, uri: &Uri, body: &Bytes) -> Response<Body> {
    let query: HashMap<String, String> =
        form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let body = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(body) };
    let (status, answer) = match body {
        Ok(body) => {
            let request = admin::Request { method: method.as_str(), path: uri.path(), query, body };
            admin::answer(&mut lock(state), &request)
        }
        Err(error) => (400, serde_json::json!({"error": format!("body is not JSON: {error}")})),
    };
    json_response(status, &answer)
}

/// A request of the API, with the little of it that matters.
struct Arrived {
    method: String,
    path: String,
    call: Call,
    authorization: Option<String>,
    is_json: bool,
    body: Option<Value>,
    record: Option<(Entity, String)>,
}

impl Arrived {
    fn new(method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let media = text(CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
        let body = serde_json::from_slice(body).ok();
        let call = Call::parse(method.as_str(), uri.path());
        Self {
            method: method.to_string(),
            path: uri.path().to_owned(),
            record: call.record(body.as_ref()),
            call,
            authorization: text(AUTHORIZATION),
            is_json: media.split(';').next().is_some_and(|kind| kind.trim() == "application/json"),
            body,
        }
    }

    fn origin_id(&self) -> Option<&str> {
        self.record.as_ref().map(|(_, id)| id.as_str())
    }
}

/// How a call ends on the wire.
enum Ending {
    Answer(Response<Body>),
    Cut,
}

async fn serve(state: Arc<Mutex<State>>, request: Arrived) -> Ending {
    let (rule, latency) = {
        let mut state = lock(&state);
        state.begin(request.call.name(), request.record.clone());
        let pick = |faults: &mut super::faults::Faults| {
            faults.pick(&request.method, &request.path, request.origin_id())
        };
        let rule = if state.faults.is_idle() { None } else { state.with_faults(pick) };
        let latency = state.settings.latency_ms as f64 / 1000.0;
        (rule, state.clock.host_time(latency))
    };
    sleep(latency).await;
    let (ending, wait) = carry_out(&mut lock(&state), &request, rule.as_ref());
    sleep(wait).await;
    lock(&state).end(&request.record);
    ending
}

async fn sleep(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

/// Changes the state, notes the call, and says how it ends and after which wait.
fn carry_out(state: &mut State, request: &Arrived, rule: Option<&Rule>) -> (Ending, Duration) {
    let outcome = rule.is_none_or(Rule::applies).then(|| {
        let api_request = api::Request {
            call: &request.call,
            authorization: request.authorization.as_deref(),
            is_json: request.is_json,
            body: request.body.as_ref(),
        };
        api::answer(state, &api_request)
    });
    let applied = outcome.as_ref().is_some_and(|outcome| outcome.applied);
    let spoken = match rule {
        None => outcome.map(Spoken::from),
        Some(rule) => spoil(rule, outcome),
    };
    let status = spoken.as_ref().map(|spoken| spoken.status);
    note(state, request, rule.map(|rule| rule.kind), spoken.as_ref(), applied);
    debug!(call = request.call.name(), origin_id = request.origin_id(), status, applied, "Answered a call");
    let seconds = match rule {
        Some(rule) if rule.kind == Kind::NoAnswer => rule.seconds.unwrap_or(SILENCE_SECONDS),
        Some(rule) if rule.kind == Kind::Slow => rule.seconds.unwrap_or(1.0),
        _ => 0.0,
    };
    (spoken.map_or(Ending::Cut, |spoken| Ending::Answer(spoken.response())), state.clock.host_time(seconds))
}

fn note(state: &mut State, request: &Arrived, fault: Option<Kind>, spoken: Option<&Spoken>, applied: bool) {
    let status = spoken.map(|spoken| spoken.status);
    let key = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
    *state.counters.by_status.entry(key).or_default() += 1;
    if let Some(kind) = fault.and_then(|kind| serde_json::to_value(kind).ok()) {
        *state.counters.by_fault.entry(kind.as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    state.note(Entry {
        seq: 0,
        time: DateTime::UNIX_EPOCH,
        method: request.method.clone(),
        path: request.path.clone(),
        origin_id: request.origin_id().map(str::to_owned),
        body: request.body.clone(),
        status,
        applied,
        fault,
        answer: spoken
            .filter(|spoken| spoken.status != 200)
            .and_then(|spoken| serde_json::from_slice(&spoken.body).ok()),
        admin: false,
    });
}

/// An answer before it goes to the wire.
struct Spoken {
    status: u16,
    media: &'static str,
    body: Vec<u8>,
    retry_after: Option<String>,
    /// How the body goes to the wire.
    flow: Flow,
}

/// How a body goes to the wire.
#[derive(Clone, Copy)]
enum Flow {
    Whole,
    /// Only half of what was announced.
    Half,
    /// A byte at a time, with so many seconds between two of them.
    Drip(Option<f64>),
    /// Without an end, instead of the body.
    Endless,
    /// Compressed, and without an end once unpacked, instead of the body.
    Bomb,
}

impl From<Outcome> for Spoken {
    fn from(outcome: Outcome) -> Self {
        Self::json(outcome.status, &outcome.body)
    }
}

impl Spoken {
    fn json(status: u16, body: &Value) -> Self {
        let body = body.to_string().into_bytes();
        Self { status, media: "application/json", body, retry_after: None, flow: Flow::Whole }
    }

    fn page(status: u16, html: &str) -> Self {
        Self { media: "text/html; charset=utf-8", body: html.into(), ..Self::json(status, &Value::Null) }
    }

    fn response(self) -> Response<Body> {
        let length = self.body.len();
        let mut response = Response::new(match self.flow {
            Flow::Whole => Body::from(self.body),
            Flow::Half => half(self.body),
            Flow::Drip(seconds) => bodies::drip(self.body, seconds),
            Flow::Endless => bodies::endless("{\"id\": 1,"),
            Flow::Bomb => bodies::gzip_bomb(),
        });
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media));
        match self.flow {
            Flow::Whole | Flow::Half | Flow::Drip(_) => {
                drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(length)));
            }
            Flow::Endless => {}
            Flow::Bomb => drop(headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"))),
        }
        if self.status == 401 {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Token"));
        }
        if let Some(pause) = self.retry_after.and_then(|pause| HeaderValue::from_str(&pause).ok()) {
            headers.insert(RETRY_AFTER, pause);
        }
        response
    }
}

/// Sends half of a body, then breaks off.
fn half(mut body: Vec<u8>) -> Body {
    body.truncate(body.len() / 2);
    let first = futures::stream::once(async move { Ok(body) });
    let then = futures::stream::once(async {
        // The first half must be on the wire before the connection goes.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
    });
    Body::from_stream(first.chain(then))
}

fn json_response(status: u16, body: &Value) -> Response<Body> {
    Spoken::json(status, body).response()
}

/// Says what a spoiled call hears; nothing for a connection that is cut.
fn spoil(rule: &Rule, outcome: Option<Outcome>) -> Option<Spoken> {
    let json = |status: u16, own: Value| Spoken::json(status, rule.body.as_ref().unwrap_or(&own));
    let mut spoken = match rule.kind {
        Kind::ResetBefore | Kind::ResetAfterApply | Kind::NoAnswer => return None,
        Kind::Down503 => Spoken::page(503, "<h1>Сервис временно недоступен</h1>"),
        Kind::Internal500 => Spoken::page(500, "<h1>Server Error (500)</h1>"),
        Kind::BadGateway502 => {
            Spoken::page(502, "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>")
        }
        Kind::TooMany429 => json(429, detail("Запрос был проигнорирован: слишком много запросов.")),
        Kind::Unauthorized401 => json(401, detail("Недопустимый токен.")),
        Kind::Forbidden403 => json(403, detail("У вас недостаточно прав для выполнения данного действия.")),
        Kind::NotFound404 => json(404, detail("Не найдено.")),
        Kind::Validation400 => {
            json(400, serde_json::json!({"phone": ["Посетитель с таким телефоном уже существует."]}))
        }
        Kind::Error200 => json(200, serde_json::json!({"error": "Запись не сохранена: внутренняя ошибка."})),
        Kind::Html200 => {
            Spoken::page(200, "<html><head><title>Вход</title></head><body><form></form></body></html>")
        }
        Kind::Garbage => {
            Spoken { body: vec![0xfe, 0x00, 0x7b, 0x22, 0xd0], ..Spoken::json(200, &Value::Null) }
        }
        Kind::EmptyBody => Spoken { body: Vec::new(), ..Spoken::json(200, &Value::Null) },
        Kind::Truncated => Spoken { flow: Flow::Half, ..outcome.map_or_else(whole_record, Spoken::from) },
        Kind::EndlessBody => Spoken { flow: Flow::Endless, ..Spoken::json(200, &Value::Null) },
        Kind::GzipBomb => Spoken { flow: Flow::Bomb, ..Spoken::json(200, &Value::Null) },
        Kind::DeepNesting => Spoken { body: bodies::deep().into_bytes(), ..Spoken::json(200, &Value::Null) },
        Kind::Bom | Kind::TrailingBytes | Kind::LoneSurrogate | Kind::HugeNumber | Kind::DuplicateKeys => {
            disturbed(rule.kind, outcome.map_or_else(whole_record, Spoken::from))
        }
        Kind::Slow => outcome.map_or_else(|| json(200, Value::Null), Spoken::from),
        Kind::Drip => {
            Spoken { flow: Flow::Drip(rule.seconds), ..outcome.map_or_else(whole_record, Spoken::from) }
        }
    };
    spoken.retry_after = rule.retry_after.as_ref().map(|value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    Some(spoken)
}

/// Changes some bytes of an answer that would have been right.
fn disturbed(kind: Kind, spoken: Spoken) -> Spoken {
    let text = String::from_utf8_lossy(&spoken.body).into_owned();
    let with_first_key = |entry: &str| text.replacen('{', &format!("{{{entry},"), 1);
    let text = match kind {
        Kind::Bom => format!("\u{feff}{text}"),
        Kind::TrailingBytes => format!("{text}}}<!-- 0.0123 -->"),
        Kind::LoneSurrogate => with_first_key(r#""note":"\ud800""#),
        Kind::HugeNumber => with_first_key(r#""weight":1e400"#),
        _ => with_first_key(r#""id":1,"origin_id":"0""#),
    };
    Spoken { body: text.into_bytes(), ..spoken }
}

fn whole_record() -> Spoken {
    Spoken::json(200, &serde_json::json!({"id": 12_456, "last_name": "", "first_name": ""}))
}
