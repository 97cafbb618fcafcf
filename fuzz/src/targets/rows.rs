//! Rows of Bitrix24's lists through the producer: ids, times, fingerprint, and what fits into a message. An input is as that of
//! [`super::records`].

use std::collections::HashMap;
use std::time::Duration;

use chrono::DateTime;
use producer::{EntitySettings, Plan, event_of_row};
use schemas::{Entity, RecordChanged};
use serde_json::value::RawValue;

use super::{first_line, records, shown};
use crate::Target;

/// Rows of contacts and deals, with product rows and seller.
pub const PRODUCER_ROW: Target = Target { name: "producer_row", seeds: records::seeds, check };

/// Small, so that much has to be left out, and enough for what has to stay.
const LIMIT: usize = 64 << 10;

fn plan(entity: Entity) -> Plan {
    let first = DateTime::from_timestamp(0, 0).expect("a time").fixed_offset();
    let settings = EntitySettings {
        status_field: "UF_CRM_SYNC_STATUS".to_owned(),
        first_watermark: first,
        interval: Duration::from_secs(60),
    };
    match entity {
        Entity::Contact => Plan::contacts(first, settings),
        Entity::Deal => Plan::deals(first, vec!["WON".to_owned()], settings),
    }
}

fn check(input: &[u8]) -> String {
    let (line, body) = first_line(input);
    let Ok(changed) = serde_json::from_slice::<RecordChanged>(body) else { return "no record".to_owned() };
    let plan = plan(Entity::from_token(line).unwrap_or(Entity::Contact));
    let rows: Option<Vec<Box<RawValue>>> =
        changed.product_rows.as_ref().and_then(|rows| serde_json::from_str(rows.get()).ok());
    // The client hands on nothing else.
    let is_object = |row: &RawValue| serde_json::from_str::<HashMap<String, &RawValue>>(row.get()).is_ok();
    if !rows.iter().flatten().all(|row| is_object(row)) {
        return "rows that are none".to_owned();
    }
    let read = || event_of_row(&plan, changed.record.clone(), (rows.clone(), changed.seller.clone()), LIMIT);
    let (fingerprint, event) = match read() {
        Ok(read) => read,
        Err(error) => return shown(&error.to_string()),
    };
    let again = read().expect("the same row again");
    assert_eq!((&again.0, &again.1.trimmed), (&fingerprint, &event.trimmed), "two readings of one row");
    assert!(
        fingerprint.len() >= 16 && fingerprint.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{fingerprint}"
    );
    let length = serde_json::to_vec(&event).expect("an event").len();
    assert!(length <= LIMIT, "an event of {length} bytes");
    format!(
        "{} {:?} {}",
        event.trimmed.len().min(3),
        event.status.map(|status| status.len().min(2)),
        rows.map_or(0, |rows| rows.len().min(3))
    )
}
