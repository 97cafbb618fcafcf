//! What only the portal knows: labels of fields, names of list values, stages and pipelines.

use std::collections::BTreeMap;

use bitrix24::{Client, Error, Lane};
use schemas::Entity;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio_postgres::Client as Connection;
use tokio_postgres::types::Type;

use crate::php;
use crate::store::json;

/// What the portal told.
pub struct Labels {
    fields: Vec<Field>,
    stages: Vec<Stage>,
}

/// A field as people see it.
#[derive(Serialize)]
struct Field {
    entity: &'static str,
    code: String,
    label: Option<String>,
    kind: Option<String>,
    is_multiple: bool,
    options: BTreeMap<String, String>,
}

/// A stage of deals as people see it.
#[derive(Serialize)]
struct Stage {
    stage_id: String,
    category_id: Option<i64>,
    category_name: Option<String>,
    name: Option<String>,
    semantics: Option<String>,
    sort: Option<i64>,
    color: Option<String>,
}

/// Most pages of a list that are read; no portal has that many stages.
const MOST_PAGES: usize = 40;

/// Asks the portal; five requests on most.
pub async fn ask(portal: &Client) -> Result<Labels, Error> {
    let mut fields = Vec::new();
    for (entity, theirs) in
        [(Entity::Contact, bitrix24::Entity::Contact), (Entity::Deal, bitrix24::Entity::Deal)]
    {
        let answer = portal.call(&theirs.method("fields"), &json!({}), Lane::Backfill).await?;
        let told: BTreeMap<String, Value> = answer.parse("an object of fields")?;
        fields.extend(told.into_iter().map(|(code, told)| field(entity, code, &told)));
    }
    let answer = portal.call("crm.category.list", &json!({"entityTypeId": 2}), Lane::Backfill).await?;
    let pipelines = pipelines(&answer.parse("an object of pipelines")?);
    let rows = statuses(portal).await?;
    Ok(Labels { fields, stages: rows.iter().filter_map(|row| stage(row, &pipelines)).collect() })
}

async fn statuses(portal: &Client) -> Result<Vec<Map<String, Value>>, Error> {
    let (mut rows, mut start) = (Vec::new(), 0);
    for _ in 0..MOST_PAGES {
        let params = json!({"order": {"ID": "ASC"}, "start": start});
        let answer = portal.call("crm.status.list", &params, Lane::Backfill).await?;
        rows.extend(answer.parse::<Vec<Map<String, Value>>>("a list of statuses")?);
        match answer.next {
            Some(next) if next > start => start = next,
            _ => break,
        }
    }
    Ok(rows)
}

fn field(entity: Entity, code: String, told: &Value) -> Field {
    // A custom field's title is its code; people see the label of the form.
    let label = ["formLabel", "listLabel", "title"].iter().find_map(|name| php::text(told.get(name)));
    Field {
        entity: entity.token(),
        code,
        label,
        kind: php::text(told.get("type")),
        is_multiple: php::flag(told.get("isMultiple")).unwrap_or(false),
        options: options(told.get("items")),
    }
}

fn options(items: Option<&Value>) -> BTreeMap<String, String> {
    let items = items.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| Some((php::text(item.get("ID"))?, php::text(item.get("VALUE"))?))).collect()
}

fn pipelines(told: &Value) -> BTreeMap<i64, String> {
    let list = told.get("categories").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|item| Some((php::whole(item.get("id"))?, php::text(item.get("name"))?))).collect()
}

/// Reads a row of the portal's directories; most of them are no stages of deals.
fn stage(row: &Map<String, Value>, pipelines: &BTreeMap<i64, String>) -> Option<Stage> {
    let directory = php::text(row.get("ENTITY_ID"))?;
    let category_id = match directory.strip_prefix("DEAL_STAGE")? {
        "" => 0,
        rest => rest.strip_prefix('_')?.parse().ok()?,
    };
    Some(Stage {
        stage_id: php::text(row.get("STATUS_ID"))?,
        category_id: Some(category_id),
        category_name: pipelines.get(&category_id).cloned(),
        name: php::text(row.get("NAME")),
        // A stage that is neither won nor lost has none here, and `P` in a deal.
        semantics: php::text(row.get("SEMANTICS")).or_else(|| Some("P".into())),
        sort: php::whole(row.get("SORT")),
        color: php::text(row.get("COLOR")),
    })
}

/// Stores what the portal told; rows that say the same already are left alone.
pub async fn store(client: &mut Connection, labels: &Labels) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let stages = upsert(
        "stages",
        &["stage_id"],
        &["category_id", "category_name", "name", "semantics", "sort", "color"],
    );
    transaction.execute_typed(&stages, &[(&json(&labels.stages), Type::TEXT)]).await?;
    let fields = upsert("fields", &["entity", "code"], &["label", "kind", "is_multiple", "options"]);
    transaction.execute_typed(&fields, &[(&json(&labels.fields), Type::TEXT)]).await?;
    transaction.commit().await
}

fn upsert(table: &str, key: &[&str], columns: &[&str]) -> String {
    let assigned: Vec<String> =
        columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
    let of = |prefix: &str| {
        let columns: Vec<String> = columns.iter().map(|column| format!("{prefix}.{column}")).collect();
        columns.join(", ")
    };
    let all = [key, columns].concat().join(", ");
    format!(
        "INSERT INTO {table} ({all}) SELECT {all} FROM json_populate_recordset(NULL::{table}, $1::json) \
         ON CONFLICT ({}) DO UPDATE SET {} WHERE ({}) IS DISTINCT FROM ({})",
        key.join(", "),
        assigned.join(", "),
        of(table),
        of("excluded"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage_of(row: Value) -> Option<(String, Option<i64>, Option<String>)> {
        let row = row.as_object().cloned().unwrap_or_default();
        let pipelines = BTreeMap::from([(0, "Общее".to_owned()), (10, "Зал".to_owned())]);
        stage(&row, &pipelines).map(|stage| (stage.stage_id, stage.category_id, stage.category_name))
    }

    #[test]
    fn stages_are_those_of_deals_with_their_pipelines() {
        assert_eq!(
            stage_of(json!({"ENTITY_ID": "DEAL_STAGE", "STATUS_ID": "WON", "NAME": "Оплачено"})),
            Some(("WON".into(), Some(0), Some("Общее".into())))
        );
        assert_eq!(
            stage_of(json!({"ENTITY_ID": "DEAL_STAGE_10", "STATUS_ID": "C10:WON"})),
            Some(("C10:WON".into(), Some(10), Some("Зал".into())))
        );
        for other in ["SOURCE", "DEAL_STAGES", "DEAL_STAGE_x", "QUOTE_STATUS"] {
            assert_eq!(stage_of(json!({"ENTITY_ID": other, "STATUS_ID": "1"})), None, "{other}");
        }
    }

    #[test]
    fn a_field_is_called_what_its_form_calls_it() {
        let told = json!({"type": "enumeration", "isMultiple": "Y", "title": "UF_CRM_1", "formLabel": "Филиал",
            "items": [{"ID": "48", "VALUE": "Сокол"}, {"ID": 49, "VALUE": ""}]});
        let field = field(Entity::Deal, "UF_CRM_1".into(), &told);
        assert_eq!((field.label.as_deref(), field.is_multiple), (Some("Филиал"), true));
        assert_eq!(field.options, BTreeMap::from([("48".into(), "Сокол".into())]));
        let standard =
            super::field(Entity::Deal, "TITLE".into(), &json!({"title": "Название", "items": false}));
        assert_eq!(standard.label.as_deref(), Some("Название"));
    }
}
