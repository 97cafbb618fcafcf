//! The facts that travel: one struct for the data of each event type.

use chrono::{DateTime, FixedOffset, NaiveDate, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::problem::Problem;
use crate::record::{Entity, RecordId};

/// Data of an event of the streams, with the type names it may travel under.
pub trait EventData: Serialize + for<'de> Deserialize<'de> {
    /// Returns the CloudEvents type of this value about a record of this entity.
    fn event_type(&self, entity: Entity) -> &'static str;

    /// All types that this struct is the data of.
    const TYPES: &'static [&'static str];
}

/// A record was seen with content that no earlier event has, or its status was cleared by hand.
///
/// The record is in Bitrix24's own words. Only what a message has no room for is left out.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RecordChanged {
    /// Portal time at which the answer that held this record began to be made.
    pub observed: DateTime<FixedOffset>,
    /// The status field as it was then: `null` where the record had no such field, `""` where it was empty.
    pub status: Option<String>,
    /// The row of the list method.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub record: Box<RawValue>,
    /// The product rows of a deal, in the shape of `crm.deal.productrows.get`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    pub product_rows: Option<Box<RawValue>>,
    /// The user in `ASSIGNED_BY_ID` of a deal; absent where the portal knows no such user.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub seller: Option<Box<RawValue>>,
    /// Names of the fields that were left out because the message would have been too big.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub trimmed: Vec<String>,
}

impl EventData for RecordChanged {
    fn event_type(&self, entity: Entity) -> &'static str {
        match entity {
            Entity::Contact => "rollcall.contact.changed.v1",
            Entity::Deal => "rollcall.deal.changed.v1",
        }
    }

    const TYPES: &'static [&'static str] = &["rollcall.contact.changed.v1", "rollcall.deal.changed.v1"];
}

/// What Bitrix24 showed in the status field when a version was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shown {
    /// `null` where the record had no such field or nobody has looked, `""` where it was empty.
    pub status: Option<String>,
    /// Portal time of that reading.
    pub observed: DateTime<FixedOffset>,
}

/// A version of a record was mapped: exactly one such event follows each [`RecordChanged`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecordMapped {
    /// What came of it.
    pub mapping: Mapping,
    /// The status that the record showed.
    pub shown: Shown,
}

/// What the mapper made of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "body")]
pub enum Mapping {
    /// Send this client to otmechalka.
    Client(Client),
    /// Send this ticket to otmechalka.
    Ticket(Ticket),
    /// None of its products or branches concern otmechalka; the status is still a success.
    OutOfScope,
    /// A person has to correct the record. Holds every problem found, never none.
    Refused(Vec<Problem>),
}

impl EventData for RecordMapped {
    fn event_type(&self, entity: Entity) -> &'static str {
        match (&self.mapping, entity) {
            (Mapping::Client(_), _) => "rollcall.client.ready.v1",
            (Mapping::Ticket(_), _) => "rollcall.ticket.ready.v1",
            (Mapping::OutOfScope, Entity::Contact) => "rollcall.contact.out_of_scope.v1",
            (Mapping::OutOfScope, Entity::Deal) => "rollcall.deal.out_of_scope.v1",
            (Mapping::Refused(_), Entity::Contact) => "rollcall.contact.refused.v1",
            (Mapping::Refused(_), Entity::Deal) => "rollcall.deal.refused.v1",
        }
    }

    const TYPES: &'static [&'static str] = &[
        "rollcall.client.ready.v1",
        "rollcall.ticket.ready.v1",
        "rollcall.contact.out_of_scope.v1",
        "rollcall.deal.out_of_scope.v1",
        "rollcall.contact.refused.v1",
        "rollcall.deal.refused.v1",
    ];
}

/// A pupil as otmechalka takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Client {
    /// Surname of the pupil.
    pub last_name: String,
    /// First name of the pupil.
    pub first_name: String,
    /// Digits of the international form, without a plus.
    pub phone: String,
    /// First e-mail address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub email: Option<String>,
    /// Courses, by id or title as the mapping file has them.
    pub courses: Vec<String>,
    /// Branch offices, by id or title as the mapping file has them.
    pub branchoffices: Vec<String>,
    /// Date of birth.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub birthdate: Option<NaiveDate>,
    /// Always `M`: Bitrix24 does not know.
    pub gender: String,
    /// Surname and first name of the parent.
    pub additional_data: String,
}

/// A paid deal as otmechalka takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ticket {
    /// Contact that the ticket is for.
    pub client_origin_id: RecordId,
    /// Name of the product, which is the ticket type's name.
    pub ticket_type: String,
    /// Roubles before the discount, two decimals.
    pub price_initial: String,
    /// Roubles of discount, two decimals.
    pub discount: String,
    /// Roubles paid, two decimals.
    pub price_final: String,
    /// Calendar date of the sale.
    pub selling_date: NaiveDate,
    /// Branch office that sold it, by id or title as the mapping file has it.
    pub selling_branchoffice: String,
    /// First name and surname of the seller.
    pub employee: String,
    /// `CASH` or `ONLINE`.
    pub payment_method: String,
}

/// A version of a record reached its end: otmechalka has it, or does not get it, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecordProcessed {
    /// What happened.
    pub outcome: Outcome,
    /// The text for the status field.
    pub status: String,
    /// Every reason of a refusal.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub problems: Vec<Problem>,
    /// Id of the client or ticket in otmechalka, where it told one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target_id: Option<String>,
    /// Digest of what otmechalka holds for the record as far as we know, to spare equal updates.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub body_digest: Option<String>,
    /// The status that the record showed.
    pub shown: Shown,
}

/// How a version ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// otmechalka got a new client or ticket.
    Created,
    /// otmechalka's client was updated.
    Updated,
    /// otmechalka already held exactly this client; nothing was sent.
    Unchanged,
    /// otmechalka already had the ticket, which is left alone.
    AlreadyThere,
    /// Nothing in the record concerns otmechalka.
    OutOfScope,
    /// A person has to correct something.
    Refused,
    /// A newer version was processed before; nothing was sent.
    Superseded,
}

impl Outcome {
    /// Tells whether the status of this outcome is the success text.
    pub fn is_success(self) -> bool {
        !matches!(self, Outcome::Refused | Outcome::Superseded)
    }

    /// Tells whether otmechalka holds the record after this outcome.
    pub fn is_in_otmechalka(self) -> bool {
        matches!(self, Outcome::Created | Outcome::Updated | Outcome::Unchanged | Outcome::AlreadyThere)
    }
}

impl EventData for RecordProcessed {
    fn event_type(&self, entity: Entity) -> &'static str {
        match entity {
            Entity::Contact => "rollcall.client.processed.v1",
            Entity::Deal => "rollcall.ticket.processed.v1",
        }
    }

    const TYPES: &'static [&'static str] = &["rollcall.client.processed.v1", "rollcall.ticket.processed.v1"];
}

/// The status field of a record was settled for a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatusWritten {
    /// The text that the field holds.
    pub status: String,
    /// How the field came to hold it.
    pub how: StatusSettled,
    /// Portal time of the answer that proves it.
    pub settled: DateTime<FixedOffset>,
}

/// How a status was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatusSettled {
    /// Written and read back.
    Written,
    /// The record showed it already.
    AlreadyShown,
    /// The record is gone from Bitrix24; there is nothing to write to.
    RecordGone,
}

impl EventData for StatusWritten {
    fn event_type(&self, entity: Entity) -> &'static str {
        match entity {
            Entity::Contact => "rollcall.contact.status_settled.v1",
            Entity::Deal => "rollcall.deal.status_settled.v1",
        }
    }

    const TYPES: &'static [&'static str] =
        &["rollcall.contact.status_settled.v1", "rollcall.deal.status_settled.v1"];
}

/// A message that no redelivery can help, kept whole for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// Stage that gave up.
    pub stage: String,
    /// Why, without any personal datum or secret.
    pub reason: String,
    /// Stream that the message came from.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Its subject there.
    pub subject: String,
    /// How often it was delivered.
    pub deliveries: u64,
    /// When it first failed, as far as the stage noticed: one that was killed notices when the message comes again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_failed: Option<DateTime<Utc>>,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its payload: text where it is UTF-8, otherwise base64 of the bytes.
    pub payload: String,
    /// Tells whether `payload` is base64.
    pub payload_is_base64: bool,
}
