//! Users, directories, pipelines and the history of stages.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::dates::parse_moment;
use super::super::filter::{PAGE_SIZE, split_key};
use super::super::php::Node;
use super::super::record::scalar_text;
use super::super::schema::{split_stage, stages};
use super::super::state::Row;
use super::{ApiError, Call, Outcome, Reply, optional_array, paging, read_start};

/// Parameters of `user.get` that are no conditions.
const USER_OPTIONS: [&str; 9] =
    ["filter", "sort", "order", "start", "select", "admin_mode", "auth", "navParams", "next"];

/// Lists employees; conditions stand in the filter or beside it.
pub fn users(call: &mut Call<'_>, params: &Node) -> Outcome {
    let top = params.as_array().into_iter().flatten();
    let top = top.filter(|(name, _)| !USER_OPTIONS.iter().any(|option| option.eq_ignore_ascii_case(name)));
    let filter = optional_array(params, "filter")?.and_then(Node::as_array).into_iter().flatten();
    let conditions: Vec<(&String, &Node)> = top.chain(filter).collect();
    let mut users: Vec<&Row> = call.state.users.values().filter(|user| is_shown(user)).collect();
    users.retain(|user| conditions.iter().all(|(name, wanted)| user_passes(user, name, wanted)));
    let text = |name: &str| params.param(name).and_then(Node::text).unwrap_or_default();
    let (sort, descending) = (text("sort"), text("order").eq_ignore_ascii_case("desc"));
    if !sort.is_empty() && sort != "ID" {
        users.sort_by_key(|user| user.get(&sort).and_then(scalar_text));
    }
    if descending {
        users.reverse();
    }
    let start = read_start(params);
    let total = users.len();
    let select = optional_array(params, "select")?.map(Node::texts).unwrap_or_default();
    let brief = !call.state.settings.scopes.iter().any(|scope| scope == "user" || scope == "user_basic");
    let shown = users.into_iter().skip(start.unwrap_or(0)).take(PAGE_SIZE);
    let shown: Vec<Value> = shown.map(|user| Value::Object(user_row(user, &select, brief))).collect();
    let (next, total) = paging(start.or(Some(0)), shown.len(), Some(total));
    Ok(Reply { result: shown.into(), next, total, extra_seconds: 0.0 })
}

/// Bots, integrators and the hidden system user are never shown.
fn is_shown(user: &Row) -> bool {
    let text = |name: &str| user.get(name).and_then(scalar_text).unwrap_or_default();
    matches!(text("USER_TYPE").as_str(), "" | "employee" | "extranet") && text("EXTERNAL_AUTH_ID").is_empty()
}

fn user_passes(user: &Row, key: &str, wanted: &Node) -> bool {
    let (prefix, name) = split_key(key);
    let name = name.to_uppercase();
    let Some(stored) = user.get(&name) else {
        // Unknown conditions are passed over.
        return true;
    };
    let stored = match stored {
        Value::Bool(flag) => u8::from(*flag).to_string(),
        value => scalar_text(value).unwrap_or_default(),
    };
    let wanted: Vec<String> =
        wanted.texts().into_iter().map(|text| if name == "ACTIVE" { flag(&text) } else { text }).collect();
    let found = match prefix {
        "%" | "!%" => wanted.iter().any(|text| stored.to_lowercase().contains(&text.to_lowercase())),
        ">" => compare(&stored, &wanted).is_some_and(std::cmp::Ordering::is_gt),
        ">=" => compare(&stored, &wanted).is_some_and(std::cmp::Ordering::is_ge),
        "<" => compare(&stored, &wanted).is_some_and(std::cmp::Ordering::is_lt),
        "<=" => compare(&stored, &wanted).is_some_and(std::cmp::Ordering::is_le),
        _ => wanted.contains(&stored),
    };
    found != prefix.starts_with('!')
}

fn flag(text: &str) -> String {
    let on = matches!(text.to_lowercase().as_str(), "1" | "y" | "true");
    u8::from(on).to_string()
}

fn compare(stored: &str, wanted: &[String]) -> Option<std::cmp::Ordering> {
    let stored: f64 = stored.parse().ok()?;
    stored.partial_cmp(&wanted.first()?.parse().unwrap_or(0.0))
}

fn user_row(user: &Row, select: &[String], brief: bool) -> Row {
    let mut row = user.clone();
    if brief {
        row.retain(|name, _| name != "EMAIL" && !name.contains("PHONE") && !name.contains("MOBILE"));
    }
    if !select.is_empty() && !select.iter().any(|name| name == "*") {
        row.retain(|name, _| name == "ID" || select.contains(name));
    }
    row
}

/// Lists directory values: deal stages, sources, contact types.
pub fn statuses(call: &mut Call<'_>, params: &Node) -> Outcome {
    let filter = optional_array(params, "filter")?;
    if filter
        .and_then(|filter| filter.get("ENTITY_ID"))
        .is_some_and(|wanted| matches!(wanted, Node::Array(_)))
    {
        return Err(ApiError::new(400, "Invalid filter parameters.", "Invalid filter parameters."));
    }
    let mut rows: Vec<Row> = Vec::new();
    for category in category_ids(call) {
        add_stages(&mut rows, category);
    }
    for (entity_id, status_id, name) in [
        ("SOURCE", "CALL", "Звонок"),
        ("SOURCE", "WEB", "Веб-сайт"),
        ("SOURCE", "55", "Рекомендация"),
        ("CONTACT_TYPE", "CLIENT", "Клиенты"),
        ("CONTACT_TYPE", "1", "Ученики"),
        ("DEAL_TYPE", "SALE", "Продажа"),
    ] {
        add_status(&mut rows, entity_id, 0, status_id, name, None);
    }
    rows.retain(|row| {
        filter.and_then(Node::as_array).into_iter().flatten().all(|(key, wanted)| {
            let (prefix, name) = split_key(key);
            let stored = row.get(name).and_then(scalar_text).unwrap_or_default();
            !row.contains_key(name) || wanted.texts().contains(&stored) != prefix.starts_with('!')
        })
    });
    let total = rows.len();
    let rows: Vec<Value> = rows.into_iter().map(Value::Object).collect();
    Ok(Reply { result: rows.into(), next: None, total: Some(total), extra_seconds: 0.0 })
}

fn add_stages(rows: &mut Vec<Row>, category: u64) {
    for stage in stages() {
        let (entity_id, status_id) = match category {
            0 => ("DEAL_STAGE".to_owned(), stage.code.to_owned()),
            _ => (format!("DEAL_STAGE_{category}"), format!("C{category}:{}", stage.code)),
        };
        add_status(rows, &entity_id, category, &status_id, stage.name, Some(stage.semantic));
    }
}

fn add_status(
    rows: &mut Vec<Row>,
    entity_id: &str,
    category: u64,
    status_id: &str,
    name: &str,
    semantic: Option<&str>,
) {
    let number = rows.len() + 1;
    let mut row = Map::from_iter([
        ("ID".to_owned(), json!((number * 2).to_string())),
        ("ENTITY_ID".to_owned(), json!(entity_id)),
        ("STATUS_ID".to_owned(), json!(status_id)),
        ("NAME".to_owned(), json!(name)),
        ("NAME_INIT".to_owned(), json!(name)),
        ("SORT".to_owned(), json!((number * 10).to_string())),
        ("SYSTEM".to_owned(), json!("N")),
        ("CATEGORY_ID".to_owned(), json!(category.to_string())),
        ("COLOR".to_owned(), json!("#39A8EF")),
        ("SEMANTICS".to_owned(), json!(semantic.filter(|semantic| *semantic != "P"))),
    ]);
    if let Some(semantic) = semantic {
        let word = match semantic {
            "S" => "success",
            "F" if status_id.ends_with("APOLOGY") => "apology",
            "F" => "failure",
            _ => "process",
        };
        row.insert("EXTRA".to_owned(), json!({"SEMANTICS": word, "COLOR": "#39A8EF"}));
    }
    rows.push(row);
}

fn category_ids(call: &Call<'_>) -> BTreeSet<u64> {
    let used = call.state.deals.newest().map(|deal| {
        let stored = deal.text("CATEGORY_ID").parse().unwrap_or(0);
        if stored == 0 { split_stage(&deal.text("STAGE_ID")).0 } else { stored }
    });
    used.chain([0, 10]).collect()
}

/// Lists the pipelines of deals; contacts have only the default one.
pub fn categories(call: &mut Call<'_>, params: &Node) -> Outcome {
    let entity_type = params.param("entityTypeId").and_then(Node::integer).unwrap_or(0);
    let ids = match entity_type {
        2 => category_ids(call),
        3 => BTreeSet::from([0]),
        _ => return Err(ApiError::new(400, "ENTITY_TYPE_NOT_SUPPORTED", "Entity type is not supported")),
    };
    let categories = ids.into_iter().map(|id| {
        let name = if id == 0 { "Общее".to_owned() } else { format!("Воронка {id}") };
        json!({"id": id, "name": name, "sort": 300, "entityTypeId": entity_type, "originId": "",
            "originatorId": "", "isDefault": if id == 0 { "Y" } else { "N" }})
    });
    let categories: Vec<Value> = categories.collect();
    let total = Some(categories.len());
    Ok(Reply { result: json!({"categories": categories}), next: None, total, extra_seconds: 0.0 })
}

/// Lists the moves of deals from stage to stage, oldest first.
pub fn stage_history(call: &mut Call<'_>, params: &Node) -> Outcome {
    if params.param("entityTypeId").and_then(Node::integer) != Some(2) {
        return Err(ApiError::new(400, "INVALID_ARG_VALUE", "Entity type is not supported"));
    }
    let filter = optional_array(params, "filter")?;
    let mut rows: Vec<&Row> = call.state.stage_history.values().collect();
    for (key, wanted) in filter.and_then(Node::as_array).into_iter().flatten() {
        let (prefix, name) = split_key(key);
        if !["ID", "TYPE_ID", "OWNER_ID", "CREATED_TIME", "CATEGORY_ID", "STAGE_SEMANTIC_ID", "STAGE_ID"]
            .contains(&name)
        {
            return Err(ApiError::new(
                400,
                "INVALID_ARG_VALUE",
                format!("Invalid filter: field '{name}' is not allowed in filter"),
            ));
        }
        rows.retain(|row| move_passes(call, row, prefix, name, wanted));
    }
    let order = optional_array(params, "order")?.and_then(Node::as_array);
    let descending = order.and_then(|order| order.values().next().and_then(Node::text));
    if descending.is_some_and(|direction| direction.eq_ignore_ascii_case("desc")) {
        rows.reverse();
    }
    let start = read_start(params);
    let total = rows.len();
    let shown = rows.into_iter().skip(start.unwrap_or(0)).take(PAGE_SIZE);
    let shown: Vec<Value> = shown.map(|row| Value::Object(row.clone())).collect();
    let (next, total) = paging(start, shown.len(), start.map(|_| total));
    Ok(Reply { result: json!({"items": shown}), next, total, extra_seconds: 0.0 })
}

fn move_passes(call: &Call<'_>, row: &Row, prefix: &str, name: &str, wanted: &Node) -> bool {
    let stored = row.get(name).and_then(scalar_text).unwrap_or_default();
    let number = |text: &str| match name {
        "CREATED_TIME" => parse_moment(text, call.state.zone()).map(|moment| moment.timestamp()),
        _ => text.trim().parse().ok(),
    };
    let bound = wanted.text().and_then(|text| number(&text));
    let compared = number(&stored).zip(bound).map(|(stored, bound)| stored.cmp(&bound));
    match prefix {
        ">" => compared.is_some_and(std::cmp::Ordering::is_gt),
        ">=" => compared.is_some_and(std::cmp::Ordering::is_ge),
        "<" => compared.is_some_and(std::cmp::Ordering::is_lt),
        "<=" => compared.is_some_and(std::cmp::Ordering::is_le),
        _ => wanted.texts().contains(&stored) != prefix.starts_with('!'),
    }
}
