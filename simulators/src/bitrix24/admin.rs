//! The admin interface: what a person at the portal, or a judge of a test, can do and see.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::faults::Rule;
use super::history::{Author, Counters};
use super::record::Record;
use super::run::Portal;
use super::schema::{Entity, UserField};
use super::state::{Edit, Row, Stamp, State, Write};

/// The employee who makes human edits unless another one is named.
const HUMAN: u64 = 7;
/// Largest body of an admin request; a comment of megabytes must fit.
const LARGEST_BODY: usize = 256 * 1024 * 1024;

/// Builds the routes under `/admin`.
pub fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/state", get(show_state))
        .route("/{entities}", post(create))
        .route("/{entities}/{id}", post(edit).delete(remove))
        .route("/contacts/{id}/merge", post(merge))
        .route("/deals/{id}/rows", post(set_rows))
        .route("/users/{id}", post(put_user).delete(remove_user))
        .route("/userfields/{entity}", get(list_user_fields).post(add_user_field))
        .route("/userfields/{entity}/{name}", delete(delete_user_field))
        .route("/history", get(show_history))
        .route("/requests", get(show_requests))
        .route("/requests/reset", post(reset_requests))
        .route("/limits/reset", post(reset_limits))
        .route("/settings", get(show_settings).post(change_settings))
        .route("/clock", get(show_clock).post(change_clock))
        .route("/faults", get(show_faults).post(add_faults).delete(clear_faults))
        .layer(axum::extract::DefaultBodyLimit::max(LARGEST_BODY))
}

type Admin = Shared<Arc<Portal>>;
type Answer = Result<Json<Value>, Refusal>;

/// An admin request that could not be done.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

fn missing(what: &str) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, format!("no such {what}"))
}

fn invalid(why: impl ToString) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, why.to_string())
}

fn parse<T: for<'de> Deserialize<'de>>(body: Value) -> Result<T, Refusal> {
    serde_json::from_value(body).map_err(invalid)
}

fn entity(plural: &str) -> Result<Entity, Refusal> {
    let singular = plural.strip_suffix('s').unwrap_or(plural);
    Entity::by_name(singular).ok_or_else(|| missing("kind of record"))
}

/// An edit as a person makes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HumanEdit {
    #[serde(default)]
    fields: Row,
    #[serde(default)]
    silent: bool,
    #[serde(default)]
    date_modify: Option<String>,
    #[serde(default)]
    date_create: Option<String>,
    #[serde(default)]
    user: Option<u64>,
    /// Product rows of a new deal.
    #[serde(default)]
    rows: Option<Vec<Row>>,
}

impl HumanEdit {
    fn stamp(&self) -> Stamp {
        Stamp {
            silent: self.silent,
            date_modify: self.date_modify.clone(),
            date_create: self.date_create.clone(),
        }
    }

    fn author(&self) -> Author {
        Author::Human { user: self.user.unwrap_or(HUMAN) }
    }
}

#[derive(Deserialize)]
struct StateQuery {
    entity: Option<String>,
    id: Option<u64>,
}

async fn show_state(Shared(portal): Admin, Query(query): Query<StateQuery>) -> Answer {
    let state = portal.state();
    match (query.entity.as_deref(), query.id) {
        (Some(name), Some(id)) => {
            let record = state.table(entity(name)?).get(id).ok_or_else(|| missing("record"))?;
            Ok(Json(json!(record.fields)))
        }
        (Some(name), None) => Ok(Json(records(&state, entity(name)?))),
        (None, _) => Ok(Json(json!({
            "contacts": records(&state, Entity::Contact),
            "deals": records(&state, Entity::Deal),
            "product_rows": state.product_rows,
            "users": state.users.values().collect::<Vec<_>>(),
            "stage_history": state.stage_history.values().collect::<Vec<_>>(),
        }))),
    }
}

fn records(state: &State, entity: Entity) -> Value {
    state.table(entity).newest().map(|record| json!(record.fields)).collect()
}

async fn create(Shared(portal): Admin, Path(entities): Path<String>, Json(body): Json<Value>) -> Answer {
    let entity = entity(&entities)?;
    let now = portal.clock.now();
    let mut state = portal.state();
    match body {
        Value::Array(bodies) => {
            let edits: Vec<HumanEdit> = bodies.into_iter().map(parse).collect::<Result<_, _>>()?;
            let ids: Vec<u64> =
                edits.into_iter().map(|edit| create_one(&mut state, entity, edit, now)).collect();
            Ok(Json(json!({"ids": ids})))
        }
        body => Ok(Json(json!({"id": create_one(&mut state, entity, parse(body)?, now)}))),
    }
}

fn create_one(state: &mut State, entity: Entity, edit: HumanEdit, now: f64) -> u64 {
    let (stamp, author) = (edit.stamp(), edit.author());
    let sent = json!(edit.fields);
    let changed = edit.fields.clone();
    let mut fields = edit.fields;
    state.complete_multifields(&mut fields);
    let id = state.create(entity, fields, author.user(), now, &stamp);
    if let Some(rows) = edit.rows {
        state.set_product_rows(id, rows);
    }
    let record = state.table(entity).get(id).map(|record| json!(record.fields));
    let write = Write { fields: sent, applied: true, changed, record, ..Write::default() };
    let method = format!("crm.{}.add", entity.name());
    state.remember(&author, &method, entity, id, now, write);
    id
}

async fn edit(
    Shared(portal): Admin,
    Path((entities, id)): Path<(String, u64)>,
    Json(body): Json<Value>,
) -> Answer {
    let entity = entity(&entities)?;
    let edit: HumanEdit = parse(body)?;
    let now = portal.clock.now();
    let mut state = portal.state();
    let current = state.table(entity).get(id).cloned().ok_or_else(|| missing("record"))?;
    let record = edit_record(&mut state, entity, &current, &edit, now);
    Ok(Json(record))
}

fn edit_record(state: &mut State, entity: Entity, current: &Record, human: &HumanEdit, now: f64) -> Value {
    let author = human.author();
    let edit = Edit { user: author.user(), now, stamp: human.stamp(), unchanged_bumps: true };
    let mut fields = human.fields.clone();
    state.complete_multifields(&mut fields);
    let changed = state.edit(entity, current, fields, &edit);
    if let Some(rows) = human.rows.clone() {
        state.set_product_rows(current.id, rows);
    }
    let record = state.table(entity).get(current.id).map(|record| json!(record.fields));
    let write = Write {
        fields: json!(human.fields),
        applied: true,
        changed,
        before: Some(json!(current.fields)),
        record: record.clone(),
        ..Write::default()
    };
    state.remember(&author, &format!("crm.{}.update", entity.name()), entity, current.id, now, write);
    record.unwrap_or_default()
}

async fn remove(Shared(portal): Admin, Path((entities, id)): Path<(String, u64)>) -> Answer {
    let entity = entity(&entities)?;
    let now = portal.clock.now();
    remove_record(&mut portal.state(), entity, id, now)?;
    Ok(Json(json!({"deleted": id})))
}

fn remove_record(state: &mut State, entity: Entity, id: u64, now: f64) -> Result<(), Refusal> {
    let removed = state.delete(entity, id).ok_or_else(|| missing("record"))?;
    let write = Write { applied: true, before: Some(json!(removed.fields)), ..Write::default() };
    let method = format!("crm.{}.delete", entity.name());
    state.remember(&Author::Human { user: HUMAN }, &method, entity, id, now, write);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Merge {
    into: u64,
}

/// Merges a contact into another: its deals are re-pointed, then it disappears.
async fn merge(Shared(portal): Admin, Path(id): Path<u64>, Json(body): Json<Value>) -> Answer {
    let Merge { into } = parse(body)?;
    let now = portal.clock.now();
    let mut state = portal.state();
    if id == into || state.contacts.get(id).is_none() || state.contacts.get(into).is_none() {
        return Err(missing("pair of contacts"));
    }
    let deals: Vec<Arc<Record>> =
        state.deals.newest().filter(|deal| deal.text("CONTACT_ID") == id.to_string()).cloned().collect();
    for deal in &deals {
        let fields = Row::from_iter([("CONTACT_ID".to_owned(), json!(into.to_string()))]);
        let edit: HumanEdit = parse(json!({"fields": fields}))?;
        edit_record(&mut state, Entity::Deal, deal, &edit, now);
    }
    remove_record(&mut state, Entity::Contact, id, now)?;
    let moved: Vec<u64> = deals.iter().map(|deal| deal.id).collect();
    Ok(Json(json!({"merged": id, "into": into, "deals": moved})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HumanRows {
    rows: Vec<Row>,
    /// Moves the deal's `DATE_MODIFY`; the setting `rows_bump` decides when absent.
    #[serde(default)]
    bump: Option<bool>,
}

async fn set_rows(Shared(portal): Admin, Path(id): Path<u64>, Json(body): Json<Value>) -> Answer {
    let HumanRows { rows, bump } = parse(body)?;
    let now = portal.clock.now();
    let mut state = portal.state();
    let deal = state.deals.get(id).cloned().ok_or_else(|| missing("deal"))?;
    let before = json!(state.product_rows.get(&id));
    state.set_product_rows(id, rows);
    if bump.unwrap_or(state.settings.rows_bump) {
        let edit = Edit { user: HUMAN, now, stamp: Stamp::default(), unchanged_bumps: true };
        state.edit(Entity::Deal, &deal, Row::new(), &edit);
    }
    let stored = json!(state.product_rows.get(&id));
    let write = Write { fields: stored.clone(), applied: true, before: Some(before), ..Write::default() };
    state.remember(&Author::Human { user: HUMAN }, "crm.deal.productrows.set", Entity::Deal, id, now, write);
    Ok(Json(stored))
}

/// Stores a user: given fields over those already there.
async fn put_user(Shared(portal): Admin, Path(id): Path<u64>, Json(body): Json<Row>) -> Answer {
    let mut state = portal.state();
    let mut user = state.users.get(&id).cloned().unwrap_or_default();
    let fields = match body.get("fields") {
        Some(Value::Object(fields)) => fields.clone(),
        _ => body,
    };
    user.extend(fields);
    state.put_user(id, user);
    Ok(Json(json!(state.users.get(&id))))
}

async fn remove_user(Shared(portal): Admin, Path(id): Path<u64>) -> Answer {
    let mut state = portal.state();
    state.users.remove(&id).ok_or_else(|| missing("user"))?;
    state.journal.remove("user", id);
    Ok(Json(json!({"deleted": id})))
}

async fn list_user_fields(Shared(portal): Admin, Path(name): Path<String>) -> Answer {
    Ok(Json(json!(portal.state().user_fields(entity(&name)?))))
}

/// A custom field to add.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUserField {
    name: String,
    #[serde(default = "text_type")]
    user_type: String,
    #[serde(default)]
    multiple: bool,
    #[serde(default)]
    label: Option<String>,
    /// Values of a list by their ids.
    #[serde(default)]
    options: BTreeMap<u64, String>,
}

fn text_type() -> String {
    "string".to_owned()
}

async fn add_user_field(Shared(portal): Admin, Path(name): Path<String>, Json(body): Json<Value>) -> Answer {
    let new: NewUserField = parse(body)?;
    let entity = entity(&name)?;
    let mut state = portal.state();
    if state.user_fields(entity).iter().any(|field| field.name == new.name) {
        return Err(invalid("the field exists"));
    }
    let label = new.label.unwrap_or_else(|| new.name.clone());
    let (options, extra) = (new.options.into_iter().collect(), Map::new());
    let field = UserField {
        id: 0,
        name: new.name,
        user_type: new.user_type,
        multiple: new.multiple,
        label,
        options,
        extra,
    };
    Ok(Json(json!({"id": state.add_user_field(entity, field)})))
}

async fn delete_user_field(Shared(portal): Admin, Path((name, field)): Path<(String, String)>) -> Answer {
    match portal.state().delete_user_field(entity(&name)?, &field) {
        true => Ok(Json(json!({"deleted": field}))),
        false => Err(missing("field")),
    }
}

#[derive(Deserialize)]
struct HistoryQuery {
    /// Only entries after this number.
    after: Option<u64>,
    entity: Option<String>,
    id: Option<u64>,
    origin: Option<String>,
}

async fn show_history(Shared(portal): Admin, Query(query): Query<HistoryQuery>) -> Answer {
    let state = portal.state();
    let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
    let entries = state.history.iter().filter(|entry| {
        entry.seq > query.after.unwrap_or(0)
            && is(&query.entity, &entry.entity)
            && is(&query.origin, &entry.origin)
            && query.id.is_none_or(|id| id == entry.id)
    });
    Ok(Json(json!({"history": entries.collect::<Vec<_>>()})))
}

async fn show_requests(Shared(portal): Admin) -> Answer {
    let now = portal.clock.now();
    let mut state = portal.state();
    let operating: BTreeMap<String, f64> =
        state.operating.all(now).into_iter().map(|(method, state)| (method, state.seconds)).collect();
    let mut counters = json!(state.counters);
    counters["operating"] = json!(operating);
    counters["highest_level"] = json!(state.request_counters.highest());
    Ok(Json(counters))
}

async fn reset_requests(Shared(portal): Admin) -> Answer {
    portal.state().counters = Counters::default();
    Ok(Json(json!({})))
}

async fn reset_limits(Shared(portal): Admin) -> Answer {
    let mut state = portal.state();
    state.request_counters.reset();
    state.operating.reset();
    Ok(Json(json!({})))
}

async fn show_settings(Shared(portal): Admin) -> Answer {
    Ok(Json(json!(portal.state().settings)))
}

async fn change_settings(Shared(portal): Admin, Json(patch): Json<Value>) -> Answer {
    let mut state = portal.state();
    let settings = state.settings.patched(&patch).map_err(invalid)?;
    state.set_settings(settings);
    Ok(Json(json!(state.settings)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockChange {
    /// Seconds to move by; negative sets the clock back.
    #[serde(default)]
    advance_seconds: f64,
    #[serde(default)]
    speed: Option<f64>,
}

async fn show_clock(Shared(portal): Admin) -> Answer {
    Ok(Json(clock(&portal)))
}

async fn change_clock(Shared(portal): Admin, Json(body): Json<Value>) -> Answer {
    let ClockChange { advance_seconds, speed } = parse(body)?;
    if speed.is_some_and(|speed| !(speed > 0.0 && speed.is_finite())) || !advance_seconds.is_finite() {
        return Err(invalid("the speed must be positive and the advance finite"));
    }
    portal.clock.adjust(advance_seconds, speed);
    let anchor = portal.clock.anchor();
    portal.state().store_clock(anchor);
    Ok(Json(clock(&portal)))
}

fn clock(portal: &Portal) -> Value {
    let now = portal.clock.now();
    let state = portal.state();
    json!({"now": state.print(now), "unix": now, "speed": portal.clock.speed(), "zone": state.zone().name()})
}

async fn show_faults(Shared(portal): Admin) -> Answer {
    Ok(Json(json!({"faults": portal.state().faults.rules()})))
}

async fn add_faults(Shared(portal): Admin, Json(body): Json<Value>) -> Answer {
    let bodies = match body {
        Value::Array(bodies) => bodies,
        body => vec![body],
    };
    let rules: Vec<Rule> = bodies.into_iter().map(parse).collect::<Result<_, _>>()?;
    let mut state = portal.state();
    for rule in rules {
        state.faults.add(rule);
    }
    Ok(Json(json!({"faults": state.faults.rules()})))
}

async fn clear_faults(Shared(portal): Admin) -> Answer {
    portal.state().faults.clear();
    Ok(Json(json!({"faults": []})))
}
