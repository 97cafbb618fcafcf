//! What is polled: one row per entity, and no code for one of them alone anywhere else.

use std::time::Duration;

use runtime::faults;
use schemas::{Entity, Poll};

use crate::walk::Moment;

/// Modification time of a record, which the walk goes by.
pub const MODIFIED: &str = "DATE_MODIFY";

/// Creation time of a record.
pub const CREATED: &str = "DATE_CREATE";

/// How an entity is read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is called on the streams.
    pub entity: Entity,
    /// What the job is called in the logs.
    pub job: &'static str,
    /// Method that lists it.
    pub method: &'static str,
    /// Fields to ask for: multi-value fields come only by name.
    pub select: &'static [&'static str],
    /// Fields that have to hold one of some values.
    pub restriction: Option<(&'static str, Vec<String>)>,
    /// Field that our own stage writes.
    pub status_field: String,
    /// Field with the contact behind whom a record queues; none where the record is that contact.
    pub pupil_field: Option<&'static str>,
    /// Whether product rows and the seller belong to a record.
    pub has_rows_and_seller: bool,
    /// Entity whose records have to be on the stream before those of this one.
    pub follows: Option<Entity>,
    /// Records created earlier are none of ours.
    pub created_from: Moment,
    /// Watermark to begin with.
    pub first_watermark: Moment,
    /// Period of the job.
    pub interval: Duration,
}

/// What is set by the operator for an entity.
#[derive(Clone, Debug)]
pub struct EntitySettings {
    /// See [`Plan::status_field`].
    pub status_field: String,
    /// See [`Plan::first_watermark`].
    pub first_watermark: Moment,
    /// See [`Plan::interval`].
    pub interval: Duration,
}

impl Plan {
    /// Tells of a poll of it, while the portal's clock showed `observed`.
    pub fn poll(&self, observed: Moment, read_until: Option<Moment>) -> Poll {
        Poll { observed, interval_seconds: self.interval.as_secs_f64().ceil() as u64, read_until }
    }

    /// Returns the plan of contacts.
    pub fn contacts(created_from: Moment, settings: EntitySettings) -> Plan {
        Plan {
            entity: Entity::Contact,
            job: "CONTACT_SYNC_JOB",
            method: "crm.contact.list",
            select: &["*", "UF_*", "PHONE", "EMAIL"],
            restriction: None,
            status_field: settings.status_field,
            pupil_field: None,
            has_rows_and_seller: false,
            follows: None,
            created_from,
            first_watermark: settings.first_watermark,
            interval: settings.interval,
        }
    }

    /// Returns the plan of deals in these stages.
    pub fn deals(created_from: Moment, deal_stages: Vec<String>, settings: EntitySettings) -> Plan {
        Plan {
            entity: Entity::Deal,
            job: "DEAL_SYNC_JOB",
            method: "crm.deal.list",
            select: &["*", "UF_*"],
            restriction: Some(("STAGE_ID", deal_stages)),
            status_field: settings.status_field,
            pupil_field: Some("CONTACT_ID"),
            has_rows_and_seller: true,
            follows: Some(Entity::Contact),
            created_from,
            first_watermark: settings.first_watermark,
            interval: settings.interval,
        }
    }

    /// Tells whether a field says something about the record, rather than about who looked at it or wrote it last.
    pub fn counts(&self, field: &str) -> bool {
        if faults::is_planted("fingerprint-with-status") && [MODIFIED, &self.status_field].contains(&field) {
            return true;
        }
        field != self.status_field && !VOLATILE.contains(&field) && !field.starts_with("LAST_COMMUNICATION_")
    }
}

/// Fields that change without the record saying anything else.
const VOLATILE: [&str; 5] =
    [MODIFIED, "MODIFY_BY_ID", "LAST_ACTIVITY_TIME", "LAST_ACTIVITY_BY", "LAST_COMMUNICATION_TIME"];

/// Fields of a product row that say something about the sale, and that both methods which read rows have.
///
/// Which of the two is used may change from one reading to the next, and with it the other fields.
pub const TELLING_ROW_FIELDS: [&str; 12] = [
    "DISCOUNT_RATE",
    "DISCOUNT_SUM",
    "DISCOUNT_TYPE_ID",
    "PRICE",
    "PRICE_BRUTTO",
    "PRICE_EXCLUSIVE",
    "PRICE_NETTO",
    "PRODUCT_ID",
    "PRODUCT_NAME",
    "QUANTITY",
    "TAX_INCLUDED",
    "TAX_RATE",
];

/// Fields of a user that say something about the seller.
pub const TELLING_SELLER_FIELDS: [&str; 4] = ["ID", "LAST_NAME", "NAME", "SECOND_NAME"];
