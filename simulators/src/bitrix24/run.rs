//! Carrying out requests in the portal's time: one call, or a batch of them one after another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::clock::Clock;
use super::dates::print_moment;
use super::faults::{Called, Kind, Rule};
use super::history::{Author, count};
use super::limits::OperatingState;
use super::methods::{ApiError, Call, Outcome, Reply, find};
use super::php::{Node, parse_query, php_map};
use super::settings::{Accounting, BatchOverflow, TimeKeys};
use super::state::State;

/// Commands that one batch may hold.
pub const BATCH_CAP: usize = 50;
/// In the accounting by batch only commands slower than this count...
const BATCH_ACCOUNTED_FROM: f64 = 0.1;
/// ...and with this weight (measured on a self-hosted portal).
const BATCH_WEIGHT: f64 = 0.5;

/// The portal: its memory and its clock.
pub struct Portal {
    pub clock: Clock,
    state: Mutex<State>,
}

/// One request on its way.
pub struct Request {
    number: u64,
    /// Work time up to which it has used its thread.
    worked: f64,
    /// Work time at which the gateway in front of the portal gives up.
    deadline: f64,
    /// Tells the gateway that the deadline has passed; sent at most once.
    overrun: Option<oneshot::Sender<()>>,
    user: u64,
}

/// A finished call with its measurements.
struct Finished {
    outcome: Outcome,
    started: f64,
    finished: f64,
    seconds: f64,
    operating: OperatingState,
}

impl Portal {
    /// Puts a portal together.
    pub fn new(clock: Clock, state: State) -> Arc<Self> {
        Arc::new(Self { clock, state: Mutex::new(state) })
    }

    /// Locks the portal's memory; never held across an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a request; the receiver hears when it has worked for too long.
    pub fn begin(&self) -> (Request, oneshot::Receiver<()>) {
        let started = self.clock.work_time();
        let (overrun, overran) = oneshot::channel();
        let mut state = self.state();
        state.request_number += 1;
        let request = Request {
            number: state.request_number,
            worked: started,
            deadline: started + state.settings.max_request_seconds,
            overrun: Some(overrun),
            user: state.settings.webhook_user,
        };
        (request, overran)
    }

    /// Lets a request work for this long.
    ///
    /// Only the seconds charged count towards the deadline, not those that this program itself needs: with a
    /// fast clock they would be minutes.
    async fn work(&self, request: &mut Request, seconds: f64) {
        request.worked += seconds;
        if request.worked > request.deadline
            && let Some(overrun) = request.overrun.take()
        {
            self.clock.work_until(request.deadline).await;
            // Nobody may be listening any more: the client has hung up.
            let _ = overrun.send(());
        }
        self.clock.work_until(request.worked).await;
    }

    /// Carries out a call other than `batch` and renders its answer.
    pub async fn single(&self, request: &mut Request, method: &str, params: &Node) -> (u16, Value) {
        let finished = self.call(request, None, method, params, true).await;
        let time = self.time(&finished);
        match finished.outcome {
            Ok(reply) => (200, self.envelope(reply, time)),
            Err(error) => refusal(error),
        }
    }

    /// Carries out a batch; `at_most` cuts it short for a fault.
    pub async fn batch(&self, request: &mut Request, params: &Node, at_most: Option<usize>) -> (u16, Value) {
        let Some(commands) = params.param("cmd").and_then(Node::as_array).filter(|cmd| !cmd.is_empty())
        else {
            return refusal(ApiError::new(400, "ERROR_ARGUMENT", "Argument 'cmd' is null or empty"));
        };
        let started = self.clock.now();
        if let Some(error) = self.batch_refusal(commands.len()) {
            return refusal(error);
        }
        let halt = params.param("halt").is_some_and(|halt| !halt.is_empty());
        let mut results = Results::default();
        for (index, (id, command)) in commands.iter().enumerate().take(at_most.unwrap_or(usize::MAX)) {
            let finished = if index < BATCH_CAP {
                self.command(request, id, command, &results.values).await
            } else {
                self.too_many()
            };
            let failed = finished.outcome.is_err();
            results.add(id, finished, |finished| self.time(finished));
            if failed && halt {
                break;
            }
        }
        let operating = self.account_for_batch(&results);
        let measured = self.finished(Ok(Reply::default()), started, results.seconds, operating);
        let time = self.time(&measured);
        (200, self.envelope(Reply::of(results.render()), time))
    }

    fn batch_refusal(&self, commands: usize) -> Option<ApiError> {
        let now = self.clock.now();
        let mut state = self.state();
        if commands > BATCH_CAP && state.settings.batch_overflow == BatchOverflow::Refused {
            return Some(batch_too_long());
        }
        if state.settings.accounting == Accounting::Batch {
            return operating_refusal(&mut state, "batch", now);
        }
        None
    }

    fn too_many(&self) -> Finished {
        let operating = OperatingState { seconds: 0.0, reset_at: self.clock.now() };
        self.finished(Err(batch_too_long()), self.clock.now(), 0.0, operating)
    }

    async fn command(
        &self,
        request: &mut Request,
        id: &str,
        command: &Node,
        results: &Map<String, Value>,
    ) -> Finished {
        let text = command.text().unwrap_or_default();
        let (method, query) = text.split_once('?').unwrap_or((&text, ""));
        let params = resolve_references(parse_query(query), results);
        let method = method.trim().trim_end_matches(".json").to_lowercase();
        self.call(request, Some(id.to_owned()), &method, &params, false).await
    }

    /// Carries out one call: waits for as long as it takes on the portal's clock, then does it.
    async fn call(
        &self,
        request: &mut Request,
        command: Option<String>,
        name: &str,
        params: &Node,
        direct: bool,
    ) -> Finished {
        let started = self.clock.now();
        let cost = match self.admit(name, params, direct, started) {
            Ok(cost) => cost,
            Err(error) => {
                let operating = self.state().operating.state(name, started);
                return self.finished(Err(error), started, 0.0, operating);
            }
        };
        self.work(request, cost).await;
        let author = Author::Rest { user: request.user, request: request.number, command };
        let outcome = self.perform(name, params, author);
        let extra = outcome.as_ref().map_or(0.0, |reply| reply.extra_seconds);
        if extra > 0.0 {
            self.work(request, extra).await;
        }
        let operating = self.account(name, cost + extra, direct);
        self.finished(outcome, started, cost + extra, operating)
    }

    /// Checks a call before it runs and returns its cost.
    fn admit(&self, name: &str, params: &Node, direct: bool, now: f64) -> Result<f64, ApiError> {
        let mut state = self.state();
        count(&mut state.counters.commands, name);
        if name == "batch" {
            return Err(ApiError::new(
                405,
                "ERROR_BATCH_METHOD_NOT_ALLOWED",
                "Method is not allowed for batch usage",
            ));
        }
        let Some(method) = find(name) else {
            return Err(ApiError::new(404, "ERROR_METHOD_NOT_FOUND", "Method not found!"));
        };
        let granted = |scope: &&str| state.settings.scopes.iter().any(|own| own == scope);
        if !method.scopes.is_empty() && !method.scopes.iter().any(granted) {
            let description = "The request requires higher privileges than provided by the webhook token";
            return Err(ApiError::new(403, "insufficient_scope", description));
        }
        if (direct || state.settings.accounting == Accounting::Inner)
            && let Some(error) = operating_refusal(&mut state, name, now)
        {
            return Err(error);
        }
        let cost = state.settings.costs.of(name);
        let Some(rule) = state.faults.strike_command(&Called::of(name, params)) else { return Ok(cost) };
        if rule.kind == Kind::SlowCommand {
            count(&mut state.counters.faults, "slow_command");
            return Ok(cost + rule.delay());
        }
        count(&mut state.counters.faults, "command_error");
        Err(command_error(&rule))
    }

    fn perform(&self, name: &str, params: &Node, author: Author) -> Outcome {
        let now = self.clock.now();
        let mut state = self.state();
        match find(name) {
            Some(method) => {
                (method.run)(&mut Call { state: &mut state, now, author, method: method.name }, params)
            }
            None => Err(ApiError::new(404, "ERROR_METHOD_NOT_FOUND", "Method not found!")),
        }
    }

    fn account(&self, name: &str, seconds: f64, direct: bool) -> OperatingState {
        let now = self.clock.now();
        let mut state = self.state();
        if direct || state.settings.accounting == Accounting::Inner {
            state.operating.add(name, seconds, now);
        }
        state.operating.state(name, now)
    }

    fn account_for_batch(&self, results: &Results) -> OperatingState {
        let now = self.clock.now();
        let mut state = self.state();
        if state.settings.accounting == Accounting::Batch {
            state.operating.add("batch", results.slow_seconds * BATCH_WEIGHT, now);
        }
        state.operating.state("batch", now)
    }

    fn finished(&self, outcome: Outcome, started: f64, seconds: f64, operating: OperatingState) -> Finished {
        let finished = self.clock.now().max(started);
        Finished { outcome, started, finished, seconds, operating }
    }

    fn envelope(&self, reply: Reply, time: Value) -> Value {
        let mut envelope = Map::from_iter([("result".to_owned(), reply.result)]);
        if !self.state().settings.shape.no_total_and_next {
            let paging = [("next", reply.next), ("total", reply.total)];
            let paging =
                paging.into_iter().filter_map(|(key, number)| Some((key.to_owned(), json!(number?))));
            envelope.extend(paging);
        }
        if !time.is_null() {
            envelope.insert("time".to_owned(), time);
        }
        Value::Object(envelope)
    }

    fn time(&self, finished: &Finished) -> Value {
        let state = self.state();
        let print = |seconds: f64| print_moment(super::clock::instant(seconds), state.zone());
        let micros = |seconds: f64| (seconds * 1e6).round() / 1e6;
        let mut time = json!({
            "start": micros(finished.started), "finish": micros(finished.finished),
            "duration": micros(finished.finished - finished.started), "processing": micros(finished.seconds),
            "date_start": print(finished.started), "date_finish": print(finished.finished),
        });
        match state.settings.time_keys {
            TimeKeys::None => return Value::Null,
            TimeKeys::NoOperating => {}
            TimeKeys::All => {
                time["operating_reset_at"] = json!(finished.operating.reset_at as i64);
                time["operating"] = json!(micros(finished.operating.seconds));
            }
        }
        time
    }
}

fn refusal(error: ApiError) -> (u16, Value) {
    (error.status, error.body())
}

fn batch_too_long() -> ApiError {
    ApiError::new(400, "ERROR_BATCH_LENGTH_EXCEEDED", "Max batch length exceeded")
}

fn operating_refusal(state: &mut State, method: &str, now: f64) -> Option<ApiError> {
    let limit = state.settings.operating_limit?;
    if state.operating.state(method, now).seconds < limit {
        return None;
    }
    state.counters.refused_operating += 1;
    count(&mut state.counters.refused_operating_by_method, method);
    Some(operating_error())
}

/// Returns the error of a method whose seconds are used up.
pub fn operating_error() -> ApiError {
    ApiError::new(429, "OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit.")
}

fn command_error(rule: &Rule) -> ApiError {
    debug_assert_eq!(rule.kind, Kind::CommandError);
    let code = rule.error.clone().unwrap_or_else(|| "ERROR_CORE".to_owned());
    let description = rule.description.clone().unwrap_or_else(|| "Внутренняя ошибка.<br>".to_owned());
    let status = if code == "OPERATION_TIME_LIMIT" { 429 } else { 400 };
    ApiError::new(status, code, description)
}

/// What the commands of a batch have come to so far.
#[derive(Default)]
struct Results {
    values: Map<String, Value>,
    order: Vec<String>,
    errors: Vec<(String, Value)>,
    totals: Vec<(String, Value)>,
    nexts: Vec<(String, Value)>,
    times: Vec<(String, Value)>,
    seconds: f64,
    slow_seconds: f64,
}

impl Results {
    fn add(&mut self, id: &str, finished: Finished, time: impl Fn(&Finished) -> Value) {
        self.seconds += finished.seconds;
        if finished.seconds > BATCH_ACCOUNTED_FROM {
            self.slow_seconds += finished.seconds;
        }
        let time = time(&finished);
        match finished.outcome {
            Ok(reply) => {
                let paging = [(&mut self.totals, reply.total), (&mut self.nexts, reply.next)];
                for (map, number) in paging {
                    map.extend(number.map(|number| (id.to_owned(), json!(number))));
                }
                if !time.is_null() {
                    self.times.push((id.to_owned(), time));
                }
                self.order.push(id.to_owned());
                self.values.insert(id.to_owned(), reply.result);
            }
            Err(error) => self.errors.push((id.to_owned(), error.body())),
        }
    }

    fn render(mut self) -> Value {
        let order = std::mem::take(&mut self.order);
        let values = order.into_iter().filter_map(|id| self.values.remove(&id).map(|value| (id, value)));
        json!({
            "result": php_map(values),
            "result_error": php_map(self.errors),
            "result_total": php_map(self.totals),
            "result_next": php_map(self.nexts),
            "result_time": php_map(self.times),
        })
    }
}

/// Replaces `$result[id][...]` in the values of a command by what earlier commands returned.
///
/// The portal looks for references after it has decoded the query, so encoding does not hide them.
fn resolve_references(node: Node, results: &Map<String, Value>) -> Node {
    match node {
        Node::Text(text) if text.contains("$result[") => resolve_text(&text, results),
        Node::Array(items) => Node::Array(
            items.into_iter().map(|(key, node)| (key, resolve_references(node, results))).collect(),
        ),
        node => node,
    }
}

fn resolve_text(text: &str, results: &Map<String, Value>) -> Node {
    let mut resolved = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("$result[") {
        let path_length = path_length(&rest[at + "$result".len()..]);
        let end = at + "$result".len() + path_length;
        let found = look_up(&rest[at + "$result".len()..end], results);
        if at == 0 && end == rest.len() && resolved.is_empty() {
            return to_node(found);
        }
        resolved.push_str(&rest[..at]);
        resolved.push_str(&to_node(found).text().unwrap_or_default());
        rest = &rest[end..];
        if path_length == 0 {
            break;
        }
    }
    resolved.push_str(rest);
    Node::Text(resolved)
}

/// Returns how far `[a][0][ID]` reaches.
fn path_length(text: &str) -> usize {
    let mut length = 0;
    while text[length..].starts_with('[') {
        match text[length..].find(']') {
            Some(close) => length += close + 1,
            None => break,
        }
    }
    length
}

fn look_up<'a>(path: &str, results: &'a Map<String, Value>) -> Option<&'a Value> {
    let mut keys = path.trim_matches(['[', ']']).split("][");
    let mut value = results.get(keys.next()?)?;
    for key in keys {
        value = match value {
            Value::Array(items) => items.get(key.parse::<usize>().ok()?)?,
            Value::Object(entries) => entries.get(key)?,
            _ => return None,
        };
    }
    Some(value)
}

/// A reference to nothing becomes an empty string.
fn to_node(value: Option<&Value>) -> Node {
    match value {
        None | Some(Value::Null) => Node::Text(String::new()),
        Some(Value::Bool(flag)) => Node::Bool(*flag),
        Some(Value::Number(number)) => Node::Number(number.clone()),
        Some(Value::String(text)) => Node::Text(text.clone()),
        Some(value) => serde_json::from_value(value.clone()).unwrap_or_else(|_| Node::empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::object;
    use super::*;

    fn resolved(text: &str) -> Node {
        let results = object(json!({"a": [{"ID": "7"}], "ids": ["1", "2"], "n": {"items": [{"id": 9}]}}));
        resolve_references(Node::Text(text.to_owned()), &results)
    }

    #[test]
    fn references_are_replaced_inside_and_instead_of_values() {
        assert_eq!(resolved("$result[a][0][ID]"), Node::Text("7".to_owned()));
        assert_eq!(resolved("x$result[a][0][ID]y$result[n][items][0][id]"), Node::Text("x7y9".to_owned()));
        assert_eq!(resolved("$result[ids]").texts(), ["1", "2"]);
    }

    #[test]
    fn references_to_nothing_become_empty() {
        for text in ["$result[a][49][ID]", "$result[b]", "$result[a][x]", "$result[]"] {
            assert_eq!(resolved(text), Node::Text(String::new()), "{text}");
        }
    }

    #[test]
    fn broken_references_are_survived() {
        for text in ["$result[", "$result[a", "$result", "$result[a]$result[", "a$result[[]]"] {
            let _ = resolved(text);
        }
    }
}
