//! One request to the portal: updates of one field, and the list that shows what came of them.

use std::collections::HashMap;

use bitrix24::error::RequestFault;
use bitrix24::{Answer, ApiError, Batch, BatchAnswer, Client, Command, CommandId, Error, ErrorClass, Lane};
use chrono::{DateTime, FixedOffset};
use runtime::outside;
use schemas::{Entity, RecordId};
use serde_json::{Map, Value, json};

use crate::decide::same_text;
use crate::field::portal_entity;

/// What became of one update.
#[derive(Debug, PartialEq)]
pub enum Fate {
    /// The update was confirmed, and the record shows the text.
    Written,
    /// The record shows the text, though the update was not confirmed.
    Shown,
    /// There is no such record.
    Gone,
    /// The update was confirmed, and the record shows another text, or is not shown at all.
    OtherText,
    /// The update was confirmed, and the record has no such field.
    NoField,
    /// It may have been done or not.
    Unclear,
    /// The portal did not do it, and says why.
    Failed(ApiError),
}

/// What the portal said to a batch of updates.
#[derive(Debug)]
pub struct Said {
    /// The fate of each record.
    pub fates: HashMap<RecordId, Fate>,
    /// Portal time at which the records were read back.
    pub at: DateTime<FixedOffset>,
    /// Seconds that all updates took together, by the portal's measure.
    pub seconds: f64,
}

/// What a record shows in its status field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// This text; empty where there is none.
    Text(String),
    /// The row has no such field.
    NoField,
}

/// Writes texts to the status fields of records, and reads them back in the same request.
pub async fn write(
    client: &Client,
    entity: Entity,
    field: &str,
    texts: &[(RecordId, String)],
    lane: Lane,
) -> Result<Said, Error> {
    let mut batch = Batch::new();
    let mut updates = Vec::new();
    let mut outcomes: HashMap<RecordId, Result<(), ApiError>> = HashMap::new();
    for (id, text) in texts {
        let params = update(*id, field, text);
        match Command::new(&portal_entity(entity).method("update"), &params) {
            Ok(command) => updates.push((*id, batch.push(command)?)),
            // The portal would replace such a text by another command's result.
            Err(Error::Request { fault: RequestFault::LooksLikeReference, .. }) => {
                outcomes.insert(*id, write_alone(client, entity, &params, lane).await?);
            }
            Err(error) => return Err(error),
        }
    }
    let read_back = batch.push(list(entity, field, texts.iter().map(|(id, _)| *id))?)?;
    let mut answer = client.batch(&batch, lane).await?;
    let seconds = seconds_of(&answer, &updates);
    for (id, command) in &updates {
        // Whatever an update answers, only reading back tells what it did.
        outcomes.insert(*id, answer.take(command).map(|_| ()));
    }
    let at = read_at(client, &answer);
    let rows = answer.take(&read_back).ok().and_then(|rows| looks(&rows, field).ok());
    let fates = texts
        .iter()
        .map(|(id, text)| {
            let outcome = outcomes.remove(id).unwrap_or(Ok(()));
            (*id, fate(outcome, rows.as_ref().map(|rows| rows.get(id)), text))
        })
        .collect();
    Ok(Said { fates, at, seconds })
}

/// Reads what records show in their status fields; those that are not there are left out.
pub async fn look(
    client: &Client,
    entity: Entity,
    field: &str,
    ids: &[RecordId],
    lane: Lane,
) -> Result<(HashMap<RecordId, Look>, DateTime<FixedOffset>), Error> {
    let ids: Vec<u64> = ids.iter().map(|id| id.get()).collect();
    let rows = client.records(portal_entity(entity), &ids, &["ID", field], lane).await?;
    let mut looks = HashMap::new();
    for row in rows.into_values() {
        let (Ok(id), Ok(values)) = (RecordId::try_new(row.id), serde_json::from_str(row.raw.get())) else {
            continue;
        };
        looks.insert(id, shown(&values, field));
    }
    Ok((looks, now(client)))
}

/// Carries the status field and nothing else, and stays out of history and feed: neither hides the
/// change from a list, both spare people hundreds of entries.
fn update(id: RecordId, field: &str, text: &str) -> Value {
    json!({
        "id": id.get(),
        "fields": {field: text},
        "params": {"REGISTER_SONET_EVENT": "N", "REGISTER_HISTORY_EVENT": "N"},
    })
}

fn list(entity: Entity, field: &str, ids: impl Iterator<Item = RecordId>) -> Result<Command, Error> {
    let ids: Vec<u64> = ids.map(RecordId::get).collect();
    let params = json!({
        "filter": {"@ID": ids},
        "select": ["ID", field],
        "order": {"ID": "ASC"},
        "start": -1,
    });
    Command::new(&portal_entity(entity).method("list"), &params)
}

async fn write_alone(
    client: &Client,
    entity: Entity,
    params: &Value,
    lane: Lane,
) -> Result<Result<(), ApiError>, Error> {
    match client.call(&portal_entity(entity).method("update"), params, lane).await {
        Ok(_) => Ok(Ok(())),
        Err(Error::Api(error)) => Ok(Err(error)),
        Err(error) => Err(error),
    }
}

fn fate(outcome: Result<(), ApiError>, row: Option<Option<&Look>>, text: &str) -> Fate {
    match (outcome, row) {
        (outcome, Some(Some(Look::Text(shown)))) if same_text(shown, text) => {
            if outcome.is_ok() {
                Fate::Written
            } else {
                Fate::Shown
            }
        }
        (Err(error), row) => fate_of_error(error.class(), row).unwrap_or(Fate::Failed(error)),
        (Ok(()), None) => Fate::Unclear,
        // Bounded as what shows another text: the list may lag behind, or the webhook may write and not read.
        (Ok(()), Some(None)) => Fate::OtherText,
        (Ok(()), Some(Some(Look::NoField))) => Fate::NoField,
        (Ok(()), Some(Some(Look::Text(_)))) => Fate::OtherText,
    }
}

/// An update's word that the record is gone counts only where the list has been read and agrees.
fn fate_of_error(class: ErrorClass, row: Option<Option<&Look>>) -> Option<Fate> {
    match (class, row) {
        (ErrorClass::NotFound, Some(None)) => Some(Fate::Gone),
        (ErrorClass::NotFound | ErrorClass::Transient, None) => Some(Fate::Unclear),
        _ => None,
    }
}

fn looks(rows: &Answer, field: &str) -> Result<HashMap<RecordId, Look>, Error> {
    let rows: Vec<Map<String, Value>> = rows.parse("a list of rows")?;
    Ok(rows
        .iter()
        .filter_map(|row| Some((RecordId::from_json(row.get("ID")?).ok()?, shown(row, field))))
        .collect())
}

/// PHP has many ways to say "empty"; a list is what a multiple field would show.
fn shown(row: &Map<String, Value>, field: &str) -> Look {
    match row.get(field) {
        None => Look::NoField,
        Some(Value::String(text)) => Look::Text(text.clone()),
        Some(Value::Number(number)) => Look::Text(number.to_string()),
        Some(Value::Null | Value::Bool(false)) => Look::Text(String::new()),
        Some(other) => Look::Text(other.to_string()),
    }
}

/// Portals that tell no time for each command tell it for the whole batch.
fn seconds_of(answer: &BatchAnswer, updates: &[(RecordId, CommandId)]) -> f64 {
    let each: Vec<f64> = answer
        .iter()
        .filter(|(id, _)| updates.iter().any(|(_, update)| update == *id))
        .filter_map(|(_, outcome)| outcome.ok()?.time.duration)
        .collect();
    let sum = each.iter().sum::<f64>();
    if each.len() == updates.len() && sum > 0.0 { sum } else { answer.time.duration.unwrap_or(0.0) }
}

fn read_at(client: &Client, answer: &BatchAnswer) -> DateTime<FixedOffset> {
    answer.time.date_finish.unwrap_or_else(|| now(client))
}

fn now(client: &Client) -> DateTime<FixedOffset> {
    client.portal_now().unwrap_or_else(|| outside::now().fixed_offset())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_record_shows_outranks_what_the_update_said() {
        let shows = |text: &str| Look::Text(text.to_owned());
        assert_eq!(fate(Ok(()), Some(Some(&shows("A"))), "A"), Fate::Written);
        assert_eq!(fate(Ok(()), Some(Some(&shows("B"))), "A"), Fate::OtherText);
        assert_eq!(fate(Ok(()), Some(Some(&Look::NoField)), "A"), Fate::NoField);
    }

    #[test]
    fn a_record_is_gone_only_where_the_list_agrees() {
        let row = Look::Text("B".to_owned());
        assert_eq!(fate_of_error(ErrorClass::NotFound, Some(None)), Some(Fate::Gone));
        assert_eq!(fate_of_error(ErrorClass::NotFound, None), Some(Fate::Unclear));
        assert_eq!(fate_of_error(ErrorClass::NotFound, Some(Some(&row))), None);
        assert_eq!(fate_of_error(ErrorClass::Transient, Some(Some(&row))), None);
        assert_eq!(fate_of_error(ErrorClass::Transient, None), Some(Fate::Unclear));
    }

    #[test]
    fn without_a_list_nothing_is_known_and_what_is_not_in_it_is_not_written_for_ever() {
        assert_eq!(fate(Ok(()), None, "A"), Fate::Unclear);
        assert_eq!(fate(Ok(()), Some(None), "A"), Fate::OtherText);
    }

    #[test]
    fn an_update_carries_the_status_field_and_nothing_else() {
        let params = update(RecordId::try_new(7).unwrap(), "UF_CRM_S", "Успешно");
        assert_eq!(params["fields"], json!({"UF_CRM_S": "Успешно"}));
        assert_eq!(params["params"], json!({"REGISTER_SONET_EVENT": "N", "REGISTER_HISTORY_EVENT": "N"}));
    }

    #[test]
    fn php_shows_an_empty_field_in_several_ways() {
        for empty in [json!(null), json!(false), json!("")] {
            let row = Map::from_iter([("F".to_owned(), empty)]);
            assert_eq!(shown(&row, "F"), Look::Text(String::new()));
        }
        assert_eq!(shown(&Map::new(), "F"), Look::NoField);
    }
}
