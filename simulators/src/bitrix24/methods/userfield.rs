//! Custom fields: listing and adding them.

use serde_json::{Map, Value};

use super::super::filter::PAGE_SIZE;
use super::super::php::Node;
use super::super::record::scalar_text;
use super::super::schema::{Entity, UserField};
use super::{ApiError, Call, Outcome, Reply, optional_array, paging, read_start};

/// Longest code after the prefix `UF_CRM_`.
const LONGEST_CODE: usize = 43;

/// Lists custom fields by exact conditions.
pub fn list(call: &mut Call<'_>, entity: Entity, params: &Node) -> Outcome {
    let filter = optional_array(params, "filter")?;
    let with_labels = filter.is_some_and(|filter| filter.get("LANG").is_some());
    let rows = call.state.user_fields(entity).iter().map(|field| field.list_row(entity, with_labels));
    let rows: Vec<Map<String, Value>> = rows.filter(|row| passes(row, filter)).collect();
    let start = read_start(params).unwrap_or(0);
    let total = rows.len();
    let shown: Vec<Value> = rows.into_iter().skip(start).take(PAGE_SIZE).map(Value::Object).collect();
    let (next, total) = paging(Some(start), shown.len(), Some(total));
    Ok(Reply { result: shown.into(), next, total, extra_seconds: 0.0 })
}

fn passes(row: &Map<String, Value>, filter: Option<&Node>) -> bool {
    let conditions = filter.and_then(Node::as_array).into_iter().flatten();
    conditions.filter(|(name, _)| row.contains_key(name.as_str())).all(|(name, wanted)| {
        let stored = row.get(name).and_then(scalar_text).unwrap_or_default();
        wanted.texts().contains(&stored)
    })
}

/// Adds a custom field.
pub fn add(call: &mut Call<'_>, entity: Entity, params: &Node) -> Outcome {
    let fields = optional_array(params, "fields")?.cloned().unwrap_or_else(Node::empty);
    let text = |name: &str| fields.get(name).and_then(Node::text).unwrap_or_default();
    let name = full_name(&text("FIELD_NAME"))?;
    if call.state.user_fields(entity).iter().any(|field| field.name == name) {
        let description =
            format!("Поле {name} для объекта CRM_{} уже существует.<br>", entity.name().to_uppercase());
        return Err(ApiError::new(400, "ERROR_CORE", description));
    }
    let user_type = text("USER_TYPE_ID");
    if user_type.is_empty() {
        return Err(ApiError::new(400, "ERROR_CORE", "Не указан пользовательский тип.<br>"));
    }
    let label = label(&fields).unwrap_or_else(|| name.clone());
    let options = options(fields.get("LIST"));
    let mut extra = match fields.to_json() {
        Value::Object(extra) => extra,
        _ => Map::new(),
    };
    extra.retain(|key, _| !matches!(key.as_str(), "LIST" | "LABEL") && !key.ends_with("_LABEL"));
    let field =
        UserField { id: 0, name, user_type, multiple: text("MULTIPLE") == "Y", label, options, extra };
    Ok(Reply::of(call.state.add_user_field(entity, field)))
}

fn full_name(code: &str) -> Result<String, ApiError> {
    let code = code.trim().to_uppercase();
    let code = code.strip_prefix("UF_CRM_").unwrap_or(&code);
    let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if code.is_empty() || code.len() > LONGEST_CODE || !code.chars().all(allowed) {
        return Err(ApiError::new(400, "ERROR_CORE", "Неверный код поля.<br>"));
    }
    Ok(format!("UF_CRM_{code}"))
}

fn label(fields: &Node) -> Option<String> {
    let keys = ["EDIT_FORM_LABEL", "LIST_COLUMN_LABEL", "LABEL"];
    keys.iter().find_map(|key| fields.get(key)?.texts().into_iter().next()).filter(|label| !label.is_empty())
}

fn options(list: Option<&Node>) -> Vec<(u64, String)> {
    let values = list.and_then(Node::as_array).into_iter().flatten();
    let texts = values.filter_map(|(_, option)| option.get("VALUE").and_then(Node::text));
    texts.zip(1..).map(|(text, id)| (id, text)).collect()
}
