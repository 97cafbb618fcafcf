//! Reading the rows of an answer, and refusing answers that cannot be to what was asked. Pure.
//!
//! Classic lists silently ignore what they do not understand in a filter. Rows outside of what was asked for are the
//! only sign of it, and a poll that went on regardless would lose records or publish the whole portal.

use schemas::{RecordChanged, RecordId, RecordRef};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::change::Seen;
use crate::entity::{CREATED, MODIFIED, Plan};
use crate::fingerprint::{Fields, Fingerprint};
use crate::walk::{Moment, Question};

/// A row of a list, with what the producer needs to know read out.
pub struct Record {
    /// Which record it is.
    pub record: RecordRef,
    /// Its modification time.
    pub modified: Moment,
    /// The status field: none where the record has no such field, empty where it is empty.
    pub status: Option<String>,
    /// The contact behind whom it queues.
    pub pupil: Option<RecordId>,
    /// The user who sold it.
    pub seller: Option<RecordId>,
    /// Digest of its own fields; product rows and the seller may follow.
    pub fingerprint: Fingerprint,
    /// The row as it was sent.
    pub raw: Box<RawValue>,
}

/// An answer to another question than the one that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// A row is no record.
    #[error("a row is no object with a positive ID")]
    NoRecord,
    /// The rows are not in ascending order of ids above the one asked for.
    #[error("the rows are not in ascending order behind the ID asked for")]
    Order,
    /// A row has no readable modification time.
    #[error("a row has no readable DATE_MODIFY")]
    NoModificationTime,
    /// A row was modified before the time asked for.
    #[error("a row was modified before the time asked for")]
    ModifiedEarlier,
    /// A row was created before the time asked for.
    #[error("a row was created before SYNC_START_DATE")]
    CreatedEarlier,
    /// A row is in another stage than those asked for.
    #[error("a row is in none of the stages asked for")]
    Restriction,
}

/// Reads the rows of an answer.
pub fn read_rows(plan: &Plan, question: Question, rows: Vec<Box<RawValue>>) -> Result<Vec<Record>, Ignored> {
    let mut after = question.after;
    let mut records = Vec::with_capacity(rows.len());
    for row in rows {
        let record = read_row(plan, question, row)?;
        if record.record.id.get() <= after {
            return Err(Ignored::Order);
        }
        after = record.record.id.get();
        records.push(record);
    }
    Ok(records)
}

fn read_row(plan: &Plan, question: Question, raw: Box<RawValue>) -> Result<Record, Ignored> {
    let fields: Fields<'_> = serde_json::from_str(raw.get()).map_err(|_| Ignored::NoRecord)?;
    let id = id_in(&fields, "ID").ok_or(Ignored::NoRecord)?;
    let modified = moment_in(&fields, MODIFIED).ok_or(Ignored::NoModificationTime)?;
    if modified < question.from {
        return Err(Ignored::ModifiedEarlier);
    }
    if moment_in(&fields, CREATED).is_some_and(|created| created < plan.created_from) {
        return Err(Ignored::CreatedEarlier);
    }
    if let Some((field, allowed)) = &plan.restriction
        && !text_in(&fields, field).is_some_and(|found| allowed.contains(&found))
    {
        return Err(Ignored::Restriction);
    }
    let mut fingerprint = Fingerprint::new();
    fingerprint.add_fields("record", &fields, |field| plan.counts(field));
    Ok(Record {
        record: RecordRef { entity: plan.entity, id },
        modified,
        status: text_in(&fields, &plan.status_field),
        pupil: plan.pupil_field.map_or(Some(id), |field| id_in(&fields, field)),
        seller: id_in(&fields, "ASSIGNED_BY_ID").filter(|_| plan.has_rows_and_seller),
        fingerprint,
        raw,
    })
}

fn value_in(fields: &Fields<'_>, name: &str) -> Option<Value> {
    serde_json::from_str(fields.get(name)?.get()).ok()
}

fn id_in(fields: &Fields<'_>, name: &str) -> Option<RecordId> {
    RecordId::from_json(&value_in(fields, name)?).ok()
}

fn moment_in(fields: &Fields<'_>, name: &str) -> Option<Moment> {
    Moment::parse_from_rfc3339(value_in(fields, name)?.as_str()?.trim()).ok()
}

/// Returns the text of a field: none where it is absent, empty for every way of writing nothing.
fn text_in(fields: &Fields<'_>, name: &str) -> Option<String> {
    let raw = fields.get(name)?;
    Some(match serde_json::from_str::<Value>(raw.get()) {
        Ok(Value::Null | Value::Bool(false)) => String::new(),
        Ok(Value::Array(items)) if items.is_empty() => String::new(),
        Ok(Value::String(text)) if text.trim().is_empty() => String::new(),
        Ok(Value::String(text)) => text,
        _ => raw.get().to_owned(),
    })
}

/// A record with everything that belongs to it.
pub struct Reading {
    /// The record itself; its own digest is part of `fingerprint`.
    pub record: RecordRef,
    /// Its modification time.
    pub modified: Moment,
    /// The portal's time when the answer that held it began to be made.
    pub observed: Moment,
    /// Its status field.
    pub status: Option<String>,
    /// The contact behind whom it queues.
    pub pupil: Option<RecordId>,
    /// The row as it was sent.
    pub raw: Box<RawValue>,
    /// Its product rows.
    pub product_rows: Option<Vec<Box<RawValue>>>,
    /// Its seller.
    pub seller: Option<Box<RawValue>>,
    /// Digest of all of it.
    pub fingerprint: String,
}

impl Reading {
    /// Takes a record that nothing else belongs to.
    pub fn alone(record: Record, observed: Moment) -> Reading {
        Reading::complete(record, observed, None, None)
    }

    /// Takes a record with its product rows and seller.
    pub fn complete(
        record: Record,
        observed: Moment,
        product_rows: Option<Vec<Box<RawValue>>>,
        seller: Option<Box<RawValue>>,
    ) -> Reading {
        let Record { record, modified, status, pupil, mut fingerprint, raw, .. } = record;
        if let Some(rows) = &product_rows {
            fingerprint.add_rows("rows", rows, &crate::entity::TELLING_ROW_FIELDS);
        }
        if let Some(seller) = &seller {
            fingerprint.add_rows(
                "seller",
                std::slice::from_ref(seller),
                &crate::entity::TELLING_SELLER_FIELDS,
            );
        }
        let fingerprint = fingerprint.finish();
        Reading { record, modified, observed, status, pupil, raw, product_rows, seller, fingerprint }
    }

    /// Returns it as events say it.
    pub fn changed(&self) -> Option<RecordChanged> {
        let product_rows = match &self.product_rows {
            Some(rows) => Some(to_raw_value(rows).ok()?),
            None => None,
        };
        Some(RecordChanged {
            observed: self.observed,
            status: self.status.clone(),
            record: self.raw.clone(),
            product_rows,
            seller: self.seller.clone(),
            trimmed: Vec::new(),
        })
    }

    /// Tells whether its status field holds a text.
    pub fn shows_status(&self) -> bool {
        self.status.as_deref().is_some_and(|status| !status.is_empty())
    }

    /// Returns what decides whether it is news.
    pub fn seen(&self) -> Seen<'_> {
        Seen {
            fingerprint: &self.fingerprint,
            modified: self.modified,
            status_is_empty: self.status.as_deref() == Some(""),
        }
    }
}

/// Reads a row of a list as polls do, product rows and seller along with it, and gives the data of its event within so many bytes.
///
/// For whoever tries what foreign bytes do here; polls themselves ask for bounded times and check that the answer keeps to them.
pub fn event_of_row(
    plan: &Plan,
    row: Box<RawValue>,
    belongings: (Option<Vec<Box<RawValue>>>, Option<Box<RawValue>>),
    limit: usize,
) -> Result<(String, RecordChanged), Ignored> {
    let question = Question { from: plan.first_watermark, until: None, after: 0 };
    let record = read_row(plan, question, row)?;
    let observed = record.modified;
    let (product_rows, seller) = belongings;
    let reading = Reading::complete(record, observed, product_rows, seller);
    let changed = reading.changed().ok_or(Ignored::NoRecord)?;
    Ok((reading.fingerprint, crate::trim::fit(changed, limit)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::entity::EntitySettings;
    use serde_json::json;
    use std::time::Duration;

    pub fn at(text: &str) -> Moment {
        Moment::parse_from_rfc3339(text).unwrap()
    }

    pub fn deals() -> Plan {
        let settings = EntitySettings {
            status_field: "UF_CRM_SYNC_STATUS".into(),
            first_watermark: at("2020-12-24T00:00:00+03:00"),
            interval: Duration::from_secs(60),
        };
        Plan::deals(at("2020-12-22T00:00:00+03:00"), vec!["WON".into(), "C10:WON".into()], settings)
    }

    fn question() -> Question {
        Question { from: at("2026-01-10T10:00:00+03:00"), until: None, after: 10 }
    }

    pub fn deal(change: Value) -> Value {
        let mut deal = json!({
            "ID": "11", "DATE_MODIFY": "2026-01-10T10:00:00+03:00", "DATE_CREATE": "2026-01-01T00:00:00+03:00",
            "STAGE_ID": "WON", "CONTACT_ID": "39910", "ASSIGNED_BY_ID": "5", "UF_CRM_SYNC_STATUS": null,
        });
        deal.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        deal
    }

    fn read(rows: &[Value]) -> Result<Vec<Record>, Ignored> {
        let rows = rows.iter().map(|row| serde_json::value::to_raw_value(row).unwrap()).collect();
        read_rows(&deals(), question(), rows)
    }

    fn ignored(change: Value) -> Option<Ignored> {
        read(&[deal(change)]).err()
    }

    #[test]
    fn a_row_gives_what_the_producer_needs() {
        let record = read(&[deal(json!({}))]).unwrap().remove(0);
        assert_eq!(record.record.to_string(), "deal.11");
        assert_eq!(record.modified, at("2026-01-10T10:00:00+03:00"));
        assert_eq!(record.status.as_deref(), Some(""));
        assert_eq!((record.pupil.unwrap().get(), record.seller.unwrap().get()), (39910, 5));
    }

    #[test]
    fn what_a_deal_lacks_does_not_keep_it_from_travelling() {
        let record = read(&[deal(json!({"CONTACT_ID": "0", "ASSIGNED_BY_ID": null}))]).unwrap().remove(0);
        assert!(record.pupil.is_none() && record.seller.is_none());
    }

    #[test]
    fn the_status_is_absent_empty_or_a_text() {
        let status =
            |value: Value| read(&[deal(json!({"UF_CRM_SYNC_STATUS": value}))]).unwrap()[0].status.clone();
        for nothing in [json!(null), json!(""), json!(false), json!([]), json!(" ")] {
            assert_eq!(status(nothing).as_deref(), Some(""));
        }
        assert_eq!(status(json!("Успешно")).as_deref(), Some("Успешно"));
        let mut without = deal(json!({}));
        without.as_object_mut().unwrap().remove("UF_CRM_SYNC_STATUS");
        assert_eq!(read(&[without]).unwrap()[0].status, None);
    }

    #[test]
    fn rows_that_were_not_asked_for_are_noticed() {
        assert_eq!(ignored(json!({})), None);
        assert_eq!(ignored(json!({"ID": "10"})), Some(Ignored::Order));
        assert_eq!(ignored(json!({"ID": null})), Some(Ignored::NoRecord));
        assert_eq!(
            ignored(json!({"DATE_MODIFY": "2026-01-10T09:59:59+03:00"})),
            Some(Ignored::ModifiedEarlier)
        );
        assert_eq!(ignored(json!({"DATE_MODIFY": "2026-01-10T11:00:00+04:00"})), None);
        assert_eq!(ignored(json!({"DATE_MODIFY": ""})), Some(Ignored::NoModificationTime));
        assert_eq!(
            ignored(json!({"DATE_CREATE": "2020-12-21T00:00:00+03:00"})),
            Some(Ignored::CreatedEarlier)
        );
        assert_eq!(ignored(json!({"STAGE_ID": "NEW"})), Some(Ignored::Restriction));
        assert_eq!(ignored(json!({"STAGE_ID": "C10:WON"})), None);
        let unordered = read(&[deal(json!({"ID": 13})), deal(json!({"ID": 12}))]);
        assert_eq!(unordered.err(), Some(Ignored::Order));
        let list = serde_json::value::to_raw_value(&json!([1])).unwrap();
        assert_eq!(read_rows(&deals(), question(), vec![list]).err(), Some(Ignored::NoRecord));
    }

    #[test]
    fn the_digest_is_blind_to_our_own_status_write_and_sees_rows_and_seller() {
        let digest = |change: Value, price: u32, name: &str| {
            let record = read(&[deal(change)]).unwrap().remove(0);
            let raw = |value: Value| serde_json::value::to_raw_value(&value).unwrap();
            let rows = vec![raw(json!({"ID": 1, "PRICE": price}))];
            let seller = raw(json!({"ID": "5", "NAME": name, "ACTIVE": true}));
            Reading::complete(record, at("2026-01-10T10:00:09+03:00"), Some(rows), Some(seller)).fingerprint
        };
        let before = digest(json!({}), 8_700, "Анна");
        let echo = json!({
            "UF_CRM_SYNC_STATUS": "Успешно", "DATE_MODIFY": "2026-01-10T10:05:00+03:00", "MODIFY_BY_ID": "1",
            "LAST_ACTIVITY_TIME": "2026-01-10T10:05:00+03:00", "LAST_ACTIVITY_BY": "1",
        });
        assert_eq!(before, digest(echo, 8_700, "Анна"));
        assert_ne!(before, digest(json!({"CONTACT_ID": "7"}), 8_700, "Анна"));
        assert_ne!(before, digest(json!({}), 9_000, "Анна"));
        assert_ne!(before, digest(json!({}), 8_700, "Вера"));
    }
}
