//! `crm.item.*`: one family of methods for all types, camel-case names, numbers as numbers.

use serde_json::{Map, Value, json};

use super::super::filter::{Column, Filter, Order, split_key};
use super::super::php::Node;
use super::super::schema::{Access, Entity, FieldType, Kind, describe, find_field, item_name};
use super::super::state::{Edit, Stamp};
use super::super::values::item_row;
use super::classic::{condition, counting_seconds, page, remember_update, shuffle};
use super::{ApiError, Call, Outcome, Reply, optional_array, paging, read_start};

/// Lists items; unlike the classic lists it refuses unknown filter and order fields.
pub fn list(call: &mut Call<'_>, params: &Node) -> Outcome {
    let (entity, original) = (read_entity(params)?, original_names(params));
    let empty = Node::empty();
    let filter = optional_array(params, "filter")?.unwrap_or(&empty);
    let filter = read_group(call, entity, original, filter)?;
    let order = read_order(call, entity, original, optional_array(params, "order")?)?;
    let start = read_start(params);
    let page = page(call, entity, &filter, &order, start);
    let select = optional_array(params, "select")?.map(Node::texts).unwrap_or_default();
    let state = &*call.state;
    let rows = page.rows.iter().map(|record| {
        let row = item_row(record, entity, state.user_fields(entity), original, state.zone());
        Value::Object(selected(row, &select))
    });
    let rows: Vec<Value> = rows.collect();
    let (next, total) = paging(start, rows.len(), page.counted);
    let extra_seconds = counting_seconds(call, page.counted);
    Ok(Reply { result: json!({"items": rows}), next, total, extra_seconds })
}

/// Returns one item.
pub fn get(call: &mut Call<'_>, params: &Node) -> Outcome {
    let entity = read_entity(params)?;
    let id = read_id(params)?;
    item(call, entity, id, original_names(params))
}

/// Updates an item and returns it as it is stored; equal values are not saved.
pub fn update(call: &mut Call<'_>, params: &Node) -> Outcome {
    let (entity, original) = (read_entity(params)?, original_names(params));
    let id = read_id(params)?;
    let sent = optional_array(params, "fields")?.cloned().unwrap_or_else(Node::empty);
    let named = sent.as_array().into_iter().flatten().map(|(name, node)| {
        let known = stored_name(call, entity, original, name).map(|(stored, _)| stored);
        (known.unwrap_or_else(|| name.clone()), node.clone())
    });
    let named = Node::Array(named.collect());
    let edit =
        Edit { user: call.author.user(), now: call.now, stamp: Stamp::default(), unchanged_bumps: false };
    let applied = call.state.update(entity, id, &named, &edit);
    remember_update(call, entity, id, &named, applied);
    item(call, entity, id, original)
}

/// Describes the fields.
pub fn fields(call: &mut Call<'_>, params: &Node) -> Outcome {
    let (entity, original) = (read_entity(params)?, original_names(params));
    let custom = call.state.user_fields(entity);
    let standard = entity.standard_fields().iter().map(|field| (field.name.to_owned(), None));
    let all = standard.chain(custom.iter().map(|field| (field.name.clone(), Some(field))));
    let described = all.filter_map(|(name, user_field)| {
        let mut entry = describe(&name, find_field(entity, custom, &name)?, user_field);
        entry["upperName"] = Value::from(name.clone());
        Some((if original && user_field.is_some() { name } else { item_name(&name) }, entry))
    });
    let described: Map<String, Value> = described.collect();
    Ok(Reply::of(json!({"fields": described})))
}

fn item(call: &Call<'_>, entity: Entity, id: u64, original: bool) -> Outcome {
    let state = &*call.state;
    let record = state.table(entity).get(id).ok_or_else(not_found)?;
    let row = item_row(record, entity, state.user_fields(entity), original, state.zone());
    Ok(Reply::of(json!({"item": row})))
}

fn not_found() -> ApiError {
    ApiError::new(400, "NOT_FOUND", "Элемент не найден")
}

fn read_entity(params: &Node) -> Result<Entity, ApiError> {
    let id = params.param("entityTypeId").and_then(Node::integer);
    let id =
        id.ok_or_else(|| ApiError::new(400, 100, "Could not find value for parameter {entityTypeId}"))?;
    Entity::by_type_id(id).ok_or_else(not_found)
}

fn read_id(params: &Node) -> Result<u64, ApiError> {
    let id = params.param("id").and_then(Node::integer);
    let id = id.ok_or_else(|| ApiError::new(400, 100, "Could not find value for parameter {id}"))?;
    u64::try_from(id).map_err(|_| not_found())
}

fn original_names(params: &Node) -> bool {
    params.param("useOriginalUfNames").and_then(Node::text).as_deref() == Some("Y")
}

/// Finds the stored name and type of a field by its name in requests.
fn stored_name(call: &Call<'_>, entity: Entity, original: bool, name: &str) -> Option<(String, FieldType)> {
    let custom = call.state.user_fields(entity);
    let standard =
        entity.standard_fields().iter().map(|field| field.name).find(|field| item_name(field) == name);
    let stored = standard.map(str::to_owned).or_else(|| {
        let by_name = |field: &str| field == name && (original || field.starts_with("UF_"));
        let user_field = custom.iter().find(|field| item_name(&field.name) == name || by_name(&field.name));
        user_field.map(|field| field.name.clone())
    })?;
    let field = find_field(entity, custom, &stored)?;
    Some((stored, field))
}

fn column(call: &Call<'_>, entity: Entity, original: bool, name: &str) -> Result<Column, ApiError> {
    let found = stored_name(call, entity, original, name);
    let found = found.filter(|(_, field)| field.access != Access::Hidden && field.kind != Kind::Multifield);
    let refused = || {
        ApiError::new(
            400,
            "INVALID_ARG_VALUE",
            format!("Invalid filter: field '{name}' is not allowed in filter"),
        )
    };
    found.map(|(name, field)| Column { name, kind: field.kind }).ok_or_else(refused)
}

fn read_group(call: &Call<'_>, entity: Entity, original: bool, group: &Node) -> Result<Filter, ApiError> {
    let entries = group.as_array().into_iter().flatten();
    let mut filters = Vec::new();
    let mut any = false;
    for (key, value) in entries {
        match value {
            _ if key.eq_ignore_ascii_case("logic") => {
                any = value.text().is_some_and(|logic| logic.eq_ignore_ascii_case("or"));
            }
            Node::Array(_) if key.chars().all(|c| c.is_ascii_digit()) => {
                filters.push(read_group(call, entity, original, value)?);
            }
            _ => {
                let (prefix, name) = split_key(key);
                let column = column(call, entity, original, name)?;
                filters.push(condition(call, prefix, column, value));
            }
        }
    }
    Ok(if any { Filter::Any(filters) } else { Filter::All(filters) })
}

fn read_order(
    call: &Call<'_>,
    entity: Entity,
    original: bool,
    order: Option<&Node>,
) -> Result<Order, ApiError> {
    let entries = order.and_then(Node::as_array).into_iter().flatten();
    let keys = entries.map(|(name, direction)| {
        let descending = direction.text().is_some_and(|direction| direction.eq_ignore_ascii_case("desc"));
        // `ID` is what generic clients send; the portal takes it for `id`.
        let name = if name == "ID" { "id" } else { name };
        Ok((column(call, entity, original, name)?, descending))
    });
    Ok(Order { keys: keys.collect::<Result<_, ApiError>>()?, shuffle: shuffle(call) })
}

fn selected(mut row: Map<String, Value>, select: &[String]) -> Map<String, Value> {
    if !select.is_empty() && !select.iter().any(|name| name == "*") {
        row.retain(|name, _| name == "id" || (name != "fm" && select.contains(name)));
    }
    row
}
