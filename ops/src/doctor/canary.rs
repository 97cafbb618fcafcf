//! Tries on a real record whether the portal filters by modification time as the producer needs it.
//!
//! A filter whose date the portal cannot read is not refused: it may find everything or nothing, and windows would be
//! empty for ever.

use bitrix24::{Client, Error, Lane};
use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use schemas::Entity;
use serde_json::{Value, json};

use super::bitrix24::{failed, in_portal};
use crate::answer::Finding;

const CHECK: &str = "bitrix24.date_filter";

/// Looks at the record that was modified last; nothing to say where there is none.
pub async fn look(client: &Client, entity: Entity) -> Option<Finding> {
    let what = format!("Filter by date of {entity}s");
    match tried(client, entity).await {
        Ok(None) => None,
        Ok(Some(tries)) => Some(of(&what, tries)),
        Err(error) => Some(failed(CHECK, &what, &error)),
    }
}

/// Whether the record was found by a filter from its own second on, and from the next second on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tries {
    from_its_second: bool,
    from_the_next: bool,
}

async fn tried(client: &Client, entity: Entity) -> Result<Option<Tries>, Error> {
    let newest = json!({"select": ["ID", "DATE_MODIFY"], "order": {"DATE_MODIFY": "DESC"}, "start": -1});
    let rows = rows(client, entity, &newest).await?;
    let Some((id, modified)) = rows.first().and_then(read) else { return Ok(None) };
    // In another offset than the portal's: one that it passed over would show.
    let modified = modified.with_timezone(&Utc).fixed_offset();
    Ok(Some(Tries {
        from_its_second: is_found(client, entity, &id, modified).await?,
        from_the_next: is_found(client, entity, &id, modified + TimeDelta::seconds(1)).await?,
    }))
}

async fn is_found(
    client: &Client,
    entity: Entity,
    id: &str,
    from: DateTime<FixedOffset>,
) -> Result<bool, Error> {
    let params = json!({
        "select": ["ID"],
        "filter": {"=ID": id, ">=DATE_MODIFY": from.to_rfc3339()},
        "order": {"ID": "ASC"},
        "start": -1,
    });
    Ok(!rows(client, entity, &params).await?.is_empty())
}

async fn rows(client: &Client, entity: Entity, params: &Value) -> Result<Vec<Value>, Error> {
    client.call(&in_portal(entity).method("list"), params, Lane::Live).await?.parse("a list of rows")
}

fn read(row: &Value) -> Option<(String, DateTime<FixedOffset>)> {
    let modified = DateTime::parse_from_rfc3339(row.get("DATE_MODIFY")?.as_str()?).ok()?;
    let id = row.get("ID")?;
    Some((id.as_str().map_or_else(|| id.to_string(), str::to_owned), modified))
}

fn of(what: &str, tries: Tries) -> Finding {
    let action = "Nothing would be read, or everything each time. Report it with the portal's version: the format of \
                  dates in filters must be settled before Rollcall is used there";
    match tries {
        Tries { from_its_second: true, from_the_next: false } => {
            Finding::ok(CHECK, what, "the portal tells seconds and time zones apart")
        }
        Tries { from_its_second: false, .. } => {
            Finding::error(CHECK, what, "a record is not found by its own modification time", action)
        }
        // It may have been modified in between.
        Tries { from_the_next: true, .. } => Finding::warning(
            CHECK,
            what,
            "a record is found by a later time than its own",
            "Run this again while nobody edits; if it stays, do not use Rollcall with this portal before it is understood",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Severity;

    #[test]
    fn only_a_filter_that_tells_seconds_apart_is_fine() {
        let severity =
            |from_its_second, from_the_next| of("x", Tries { from_its_second, from_the_next }).severity;
        assert_eq!(severity(true, false), Severity::Ok);
        assert_eq!(severity(true, true), Severity::Warning);
        assert_eq!(severity(false, false), Severity::Error);
        assert_eq!(severity(false, true), Severity::Error);
    }

    #[test]
    fn ids_come_as_text_or_as_numbers() {
        let row = |id: Value| json!({"ID": id, "DATE_MODIFY": "2026-01-10T10:00:00+03:00"});
        assert_eq!(read(&row(json!("7"))).unwrap().0, "7");
        assert_eq!(read(&row(json!(7))).unwrap().0, "7");
        assert_eq!(read(&json!({"ID": "7", "DATE_MODIFY": ""})), None);
    }
}
