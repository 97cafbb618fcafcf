//! What tests and demonstrations may look at and change, under `/admin/`.

use std::collections::HashMap;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::{Value, json};

use super::faults::Rule;
use super::state::{Counters, Entity, Entry, Fields, State};

/// A request to the administrator's side.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: HashMap<String, String>,
    /// `null` when there was none.
    pub body: Value,
}

/// An answer: status and body.
pub type Reply = (u16, Value);

/// Does what an administrator asks for.
pub fn answer(state: &mut State, request: &Request) -> Reply {
    let segments: Vec<&str> = request.path.split('/').filter(|segment| !segment.is_empty()).collect();
    let body = &request.body;
    match (request.method, &segments[1..]) {
        ("GET", ["state"]) => (200, contents(state, request.query.get("origin_id").map(String::as_str))),
        ("DELETE", ["state"]) => {
            state.empty();
            done()
        }
        ("GET", ["history"]) => history(state, &request.query),
        ("GET", ["requests"]) => (200, json!(state.counters)),
        ("POST", ["requests", "reset"]) => {
            state.counters = Counters::default();
            done()
        }
        ("GET", ["settings"]) => (200, state.settings.shown()),
        ("POST", ["settings"]) => settings(state, body),
        ("GET", ["clock"]) => (200, clock(state)),
        ("POST", ["clock"]) => set_clock(state, body),
        ("GET", ["faults"]) => (200, json!({"faults": state.faults.rules()})),
        ("POST", ["faults"]) => add_faults(state, body),
        ("DELETE", ["faults"]) => {
            state.with_faults(super::faults::Faults::clear);
            done()
        }
        ("DELETE", ["faults", id]) => {
            let removed = id.parse().is_ok_and(|id| state.with_faults(|faults| faults.remove(id)));
            if removed { done() } else { missing() }
        }
        ("POST", [collection]) => with_entity(collection, |entity| create(state, request, entity)),
        ("POST", [collection, id]) => with_entity(collection, |entity| change(state, request, entity, id)),
        ("DELETE", [collection, id]) => with_entity(collection, |entity| delete(state, request, entity, id)),
        _ => missing(),
    }
}

fn done() -> Reply {
    (200, json!({"ok": true}))
}

fn missing() -> Reply {
    (404, json!({"error": "not found"}))
}

fn wrong(error: impl std::fmt::Display) -> Reply {
    (400, json!({"error": error.to_string()}))
}

fn with_entity(collection: &str, act: impl FnOnce(Entity) -> Reply) -> Reply {
    match collection {
        "clients" => act(Entity::Client),
        "tickets" => act(Entity::Ticket),
        _ => missing(),
    }
}

fn contents(state: &State, origin_id: Option<&str>) -> Value {
    let records = |entity: Entity| -> Vec<&Fields> {
        let wanted = |fields: &&Fields| {
            origin_id.is_none_or(|id| fields.get("origin_id").and_then(Value::as_str) == Some(id))
        };
        state.table(entity).records().filter(wanted).collect()
    };
    json!({
        "clients": records(Entity::Client),
        "tickets": records(Entity::Ticket),
        "active_visitors": state.clients.active(),
    })
}

fn history(state: &State, query: &HashMap<String, String>) -> Reply {
    let Ok(since) = query.get("since").map_or(Ok(0), |text| text.parse::<u64>()) else {
        return wrong("since is not a number");
    };
    let wanted = |entry: &&Entry| {
        let is = |key: &str, value: Option<&str>| {
            query.get(key).is_none_or(|wanted| Some(wanted.as_str()) == value)
        };
        entry.seq > since && is("method", Some(&entry.method)) && is("origin_id", entry.origin_id.as_deref())
    };
    let entries: Vec<&Entry> = state.history.iter().filter(wanted).collect();
    (200, json!({"history": entries, "last_seq": state.history.last().map_or(0, |entry| entry.seq)}))
}

fn settings(state: &mut State, body: &Value) -> Reply {
    match state.settings.patched(body) {
        Ok(settings) => {
            state.set_settings(settings);
            (200, state.settings.shown())
        }
        Err(error) => wrong(error),
    }
}

fn clock(state: &State) -> Value {
    json!({"now": state.clock.now(), "speed": state.clock.speed()})
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockChange {
    #[serde(default)]
    advance_seconds: f64,
    speed: Option<f64>,
}

fn set_clock(state: &mut State, body: &Value) -> Reply {
    match ClockChange::deserialize(body) {
        Ok(change) if change.speed.is_some_and(|speed| !speed.is_normal() || speed < 0.0) => {
            wrong("speed must be greater than zero")
        }
        Ok(change) => {
            state.clock.advance(change.advance_seconds);
            if let Some(speed) = change.speed {
                state.clock.set_speed(speed);
            }
            (200, clock(state))
        }
        Err(error) => wrong(error),
    }
}

fn add_faults(state: &mut State, body: &Value) -> Reply {
    let rules = match body {
        Value::Array(rules) => rules.iter().map(Rule::deserialize).collect(),
        rule => Rule::deserialize(rule).map(|rule| vec![rule]),
    };
    match rules {
        Ok(rules) => {
            let added: Vec<Rule> =
                state.with_faults(|faults| rules.into_iter().map(|rule| faults.add(rule)).collect());
            (200, json!({"faults": added}))
        }
        Err(error) => wrong(error),
    }
}

fn create(state: &mut State, request: &Request, entity: Entity) -> Reply {
    let Value::Object(fields) = &request.body else { return wrong("expected an object") };
    let Some(origin_id) = fields.get("origin_id").and_then(Value::as_str) else {
        return wrong("origin_id is missing or no string");
    };
    note(state, request, origin_id);
    (200, Value::Object(state.create(entity, fields.clone())))
}

fn change(state: &mut State, request: &Request, entity: Entity, origin_id: &str) -> Reply {
    let Value::Object(changes) = &request.body else { return wrong("expected an object") };
    if changes.contains_key("id") || changes.contains_key("origin_id") {
        return wrong("id and origin_id cannot be changed");
    }
    let Some(mut fields) = state.table(entity).get(origin_id).cloned() else { return missing() };
    fields.extend(changes.clone());
    fields.retain(|_, value| !value.is_null());
    note(state, request, origin_id);
    state.put(entity, fields.clone());
    (200, Value::Object(fields))
}

fn delete(state: &mut State, request: &Request, entity: Entity, origin_id: &str) -> Reply {
    if state.table(entity).get(origin_id).is_none() {
        return missing();
    }
    note(state, request, origin_id);
    (200, json!({"deleted": state.delete(entity, origin_id)}))
}

fn note(state: &mut State, request: &Request, origin_id: &str) {
    state.note(Entry {
        seq: 0,
        time: DateTime::UNIX_EPOCH,
        method: request.method.to_owned(),
        path: request.path.to_owned(),
        origin_id: Some(origin_id.to_owned()),
        body: Some(request.body.clone()).filter(|body| !body.is_null()),
        status: Some(200),
        applied: true,
        fault: None,
        answer: None,
        admin: true,
    });
}
