//! What a preview is about: a record by name, or a raw event from a file. Pure.

use schemas::{Entity, RecordChanged, RecordId, RecordRef};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::records;

/// A raw event as the golden files of `schemas` have it.
#[derive(Deserialize)]
struct Whole {
    data: Box<RawValue>,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

/// The part of a record that tells what it is.
#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "ID")]
    id: serde_json::Value,
    #[serde(rename = "STAGE_ID")]
    stage: Option<serde_json::Value>,
}

/// Reads the words that name a record: `contact 39910` or `contact/39910`.
pub fn record(words: &[String]) -> Result<RecordRef, String> {
    let name = words.join(" ");
    records::parse(&name).map_err(|_| {
        format!("`{name}` names no record. Write `contact 39910`, `deal/96038`, or `-` for standard input")
    })
}

/// Reads a raw event, or its data alone. Never repeats what it read: that is about a person.
pub fn event(text: &str, entity: Option<Entity>) -> Result<(RecordRef, RecordChanged), String> {
    let (data, subject) = match serde_json::from_str::<Whole>(text) {
        Ok(Whole { data, headers }) => (data.get().to_owned(), subject_of(&headers)),
        Err(_) => (text.to_owned(), None),
    };
    let changed: RecordChanged = serde_json::from_str(&data).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!(
            "this is not the data of a raw event (line {line}, column {column}). schemas/golden shows one: \
             `observed`, `status`, `record`, and for deals `product_rows` and `seller`"
        )
    })?;
    let identity: Identity =
        serde_json::from_str(changed.record.get()).map_err(|_| "the record in it has no ID".to_owned())?;
    let id = RecordId::from_json(&identity.id).map_err(|error| format!("ID of the record in it: {error}"))?;
    let is_deal = changed.product_rows.is_some() || identity.stage.is_some();
    let guessed = if is_deal { Entity::Deal } else { Entity::Contact };
    let entity = entity.or(subject.map(|subject| subject.entity)).unwrap_or(guessed);
    Ok((RecordRef { entity, id }, changed))
}

fn subject_of(headers: &[(String, String)]) -> Option<RecordRef> {
    let (_, subject) = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("ce-subject"))?;
    records::parse(subject).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = r#"{"observed": "2026-01-10T12:30:05+03:00", "status": "", "record": {"ID": "39910", "NAME": "Елена"}}"#;

    #[test]
    fn an_event_is_read_whole_or_as_its_data_alone() {
        let contact = RecordRef::contact(RecordId::try_new(39910).unwrap());
        assert_eq!(event(DATA, None).unwrap().0, contact);
        let whole = format!(r#"{{"data": {DATA}, "headers": [["ce-subject", "deal/39910"]]}}"#);
        assert_eq!(event(&whole, None).unwrap().0, RecordRef::deal(contact.id));
        assert_eq!(event(DATA, Some(Entity::Deal)).unwrap().0, RecordRef::deal(contact.id));
        let deal = DATA.replace(r#""NAME""#, r#""STAGE_ID""#);
        assert_eq!(event(&deal, None).unwrap().0.entity, Entity::Deal);
        let golden = include_str!("../../../schemas/golden/rollcall.deal.changed.v1.json");
        assert_eq!(event(golden, None).unwrap().0.entity, Entity::Deal);
    }

    #[test]
    fn what_cannot_be_read_is_not_repeated() {
        for text in [r#"{"record": "Елена"}"#, "Елена", &DATA.replace("39910", "Елена")] {
            let error = event(text, None).map(drop).unwrap_err();
            assert!(!error.contains("Елена"), "{error}");
        }
        assert!(record(&["contact".into(), "39910".into()]).is_ok());
        assert!(record(&["lead/5".into()]).unwrap_err().contains("contact 39910"));
    }
}
