//! `crm.contact.*` and `crm.deal.*`: upper-case names, strings for almost everything.

use serde_json::{Map, Value, json};

use super::super::filter::{Column, Filter, Order, Page, read_page, split_key};
use super::super::php::Node;
use super::super::schema::{Access, Entity, describe, find_field};
use super::super::state::{Edit, Stamp, Write};
use super::super::values::{Selection, classic_row, numbered};
use super::{ApiError, Call, Outcome, Reply, optional_array, paging, read_start, required_id};

/// Lists records.
pub fn list(call: &mut Call<'_>, entity: Entity, params: &Node) -> Outcome {
    let filter = read_filter(call, entity, optional_array(params, "filter")?)?;
    let order = read_order(call, entity, optional_array(params, "order")?);
    let selection = Selection::parse(optional_array(params, "select")?);
    let start = read_start(params);
    let page = page(call, entity, &filter, &order, start);
    let (state, zone) = (&*call.state, call.state.zone());
    let shape = &state.settings.shape;
    let custom = state.user_fields(entity);
    let rows =
        page.rows.iter().map(|record| classic_row(record, entity, custom, &selection, shape, zone).into());
    let rows: Vec<Value> = rows.collect();
    let (next, total) = paging(start, rows.len(), page.counted);
    let result = if shape.rows_as_object { numbered(rows) } else { Value::Array(rows) };
    Ok(Reply { result, next, total, extra_seconds: counting_seconds(call, page.counted) })
}

/// Reads a page of records.
pub fn page(call: &Call<'_>, entity: Entity, filter: &Filter, order: &Order, start: Option<usize>) -> Page {
    read_page(call.state.table(entity), call.now, filter, order, start, call.state.zone())
}

/// Returns what counting this many matches costs.
pub fn counting_seconds(call: &Call<'_>, counted: Option<usize>) -> f64 {
    let costs = &call.state.settings.costs;
    counted.map_or(0.0, |matches| costs.count_base + costs.count_per_match * matches as f64)
}

/// Returns what shuffles a list whose order is incomplete.
pub fn shuffle(call: &Call<'_>) -> Option<u64> {
    call.state.settings.shuffle_unordered.then_some(call.state.request_number)
}

/// Builds a condition as this portal reads it.
pub fn condition(call: &Call<'_>, prefix: &str, column: Column, value: &Node) -> Filter {
    Filter::condition(prefix, column, value, call.state.zone(), call.state.settings.filter_dates)
}

fn read_filter(call: &Call<'_>, entity: Entity, filter: Option<&Node>) -> Result<Filter, ApiError> {
    let mut conditions = Vec::new();
    for (key, value) in filter.and_then(Node::as_array).into_iter().flatten() {
        let (prefix, name) = split_key(key);
        match column(call, entity, name) {
            Some(column) => conditions.push(condition(call, prefix, column, value)),
            // A mistyped field silently selects everything: that is how the portal is.
            None if !call.state.settings.strict_classic_filters => {}
            None => return Err(ApiError::classic(format!("Field '{name}' is not allowed in filter."))),
        }
    }
    Ok(Filter::All(conditions))
}

fn read_order(call: &Call<'_>, entity: Entity, order: Option<&Node>) -> Order {
    let entries = order.and_then(Node::as_array).into_iter().flatten();
    let keys = entries.filter_map(|(name, direction)| {
        let descending = direction.text().is_some_and(|direction| direction.eq_ignore_ascii_case("desc"));
        Some((column(call, entity, name)?, descending))
    });
    Order { keys: keys.collect(), shuffle: shuffle(call) }
}

fn column(call: &Call<'_>, entity: Entity, name: &str) -> Option<Column> {
    let field = find_field(entity, call.state.user_fields(entity), name)?;
    (field.access != Access::Hidden).then(|| Column { name: name.to_owned(), kind: field.kind })
}

/// Returns one record, multi-fields included.
pub fn get(call: &mut Call<'_>, entity: Entity, params: &Node) -> Outcome {
    let id = required_id(params)?;
    let state = &*call.state;
    let record = state.table(entity).get(id).ok_or_else(|| ApiError::classic("Not found"))?;
    let (custom, selection) = (state.user_fields(entity), Selection::everything());
    Ok(Reply::of(classic_row(record, entity, custom, &selection, &state.settings.shape, state.zone())))
}

/// Describes the fields.
pub fn fields(call: &mut Call<'_>, entity: Entity) -> Outcome {
    let custom = call.state.user_fields(entity);
    let mut described = Map::new();
    for name in entity.standard_fields().iter().map(|field| field.name) {
        if let Some(field) = find_field(entity, custom, name) {
            described.insert(name.to_owned(), describe(name, field, None));
        }
    }
    for user_field in custom {
        if let Some(field) = find_field(entity, custom, &user_field.name) {
            described.insert(user_field.name.clone(), describe(&user_field.name, field, Some(user_field)));
        }
    }
    Ok(Reply::of(described))
}

/// Creates a record.
pub fn add(call: &mut Call<'_>, entity: Entity, params: &Node) -> Outcome {
    let sent = optional_array(params, "fields")?.cloned().unwrap_or_else(Node::empty);
    let (values, ignored) = call.state.read_fields(entity, None, &sent);
    let nameless = ["NAME", "LAST_NAME"].iter().all(|name| sent.get(name).is_none_or(Node::is_empty));
    if entity == Entity::Contact && nameless {
        return Err(ApiError::classic("Required fields are missing: first name or last name."));
    }
    let (user, now) = (call.author.user(), call.now);
    let id = call.state.create(entity, values.clone(), user, now, &Stamp::default());
    let record = call.state.table(entity).get(id).map(|record| json!(record.fields));
    let write =
        Write { fields: sent.to_json(), applied: true, ignored, changed: values, record, ..Write::default() };
    call.state.remember(&call.author, call.method, entity, id, now, write);
    Ok(Reply::of(id))
}

/// Updates a record: `true` whatever the fields were, if only the record exists.
pub fn update(call: &mut Call<'_>, entity: Entity, params: &Node) -> Outcome {
    let sent = match params.param("fields") {
        Some(node @ Node::Array(_)) => node.clone(),
        _ => return Err(ApiError::classic("Parameter 'fields' must be array.")),
    };
    let id = required_id(params)?;
    let edit = Edit {
        user: call.author.user(),
        now: call.now,
        stamp: Stamp::default(),
        unchanged_bumps: call.state.settings.unchanged_bumps,
    };
    let applied = call.state.update(entity, id, &sent, &edit);
    remember_update(call, entity, id, &sent, applied.clone());
    match (applied, entity) {
        (Some(_), _) => Ok(Reply::of(true)),
        (None, Entity::Contact) => Err(ApiError::classic("Contact is not found")),
        (None, Entity::Deal) => Err(ApiError::classic("Not found")),
    }
}

/// Puts an update into the history.
pub fn remember_update(
    call: &mut Call<'_>,
    entity: Entity,
    id: u64,
    sent: &Node,
    applied: Option<super::super::state::Applied>,
) {
    let applied = applied.unwrap_or_default();
    let write = Write {
        fields: sent.to_json(),
        applied: applied.accepted,
        ignored: applied.ignored,
        changed: applied.changed,
        ..Write::default()
    };
    call.state.remember(&call.author, call.method, entity, id, call.now, write);
}

/// Deletes a record.
pub fn delete(call: &mut Call<'_>, entity: Entity, params: &Node) -> Outcome {
    let id = required_id(params)?;
    let removed = call.state.delete(entity, id).ok_or_else(|| ApiError::classic("Not found"))?;
    let write = Write { applied: true, before: Some(json!(removed.fields)), ..Write::default() };
    call.state.remember(&call.author, call.method, entity, id, call.now, write);
    Ok(Reply::of(true))
}
