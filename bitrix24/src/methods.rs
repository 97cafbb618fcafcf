//! The methods a synchronisation needs, by name.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, FixedOffset};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::batch::{Batch, Command, MAX_COMMANDS};
use crate::bucket::Lane;
use crate::client::Client;
use crate::envelope::Answer;
use crate::error::{ApiError, Error, ListingFault, RequestFault};
use crate::keyset::Row;
use crate::php::{Entries, Rows, whole_number};

/// A kind of record with methods of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Entity {
    /// `crm.contact.*`
    Contact,
    /// `crm.deal.*`
    Deal,
}

impl Entity {
    /// Returns the method of this entity, as in `method("list")`.
    pub fn method(self, action: &str) -> String {
        let name = match self {
            Self::Contact => "contact",
            Self::Deal => "deal",
        };
        format!("crm.{name}.{action}")
    }
}

/// A change of some fields of one record.
#[derive(Clone)]
pub struct Update {
    /// The record.
    pub id: u64,
    /// The fields to change and their new values.
    pub fields: Map<String, Value>,
}

/// Leaves the values out.
impl std::fmt::Debug for Update {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Update({})", self.id)
    }
}

impl Update {
    /// Keeps the change out of the activity feed and the history; neither hides it from a list.
    fn params(&self) -> Value {
        json!({
            "id": self.id,
            "fields": self.fields,
            "params": {"REGISTER_SONET_EVENT": "N", "REGISTER_HISTORY_EVENT": "N"},
        })
    }
}

/// What the portal says about a field of an entity.
#[derive(Debug, Clone)]
pub struct Field {
    /// Type, such as `string` or `enumeration`.
    pub kind: String,
    /// Whether it holds a list.
    pub is_multiple: bool,
    /// Whether it cannot be written.
    pub is_read_only: bool,
    /// The name people see, as far as the portal tells.
    pub label: Option<String>,
    /// IDs of the values a list field offers.
    pub options: BTreeSet<u64>,
}

/// Whom the webhook acts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// ID of the employee.
    pub id: u64,
    /// Whether they administer the portal.
    pub is_admin: bool,
}

impl Client {
    /// Changes up to 50 records in one request; the outcomes come in the order of the updates.
    ///
    /// What a batch cannot carry, such as null or a text like `$result[a]`, goes in a call of its own.
    /// A portal answers `true` even when it does not know the field: read back what matters.
    pub async fn batch_updates(
        &self,
        entity: Entity,
        updates: &[Update],
        lane: Lane,
    ) -> Result<Vec<(u64, Result<(), ApiError>)>, Error> {
        let method = entity.method("update");
        let mut outcomes: Vec<Option<Result<(), ApiError>>> = vec![None; updates.len()];
        let mut batch = Batch::new();
        let mut batched = Vec::new();
        for (index, update) in updates.iter().enumerate() {
            match Command::new(&method, &update.params()) {
                Ok(command) => {
                    batch.push(command)?;
                    batched.push(index);
                }
                Err(error) if is_too_much_for_a_batch(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if !batch.is_empty() {
            let answer = self.batch(&batch, lane).await?;
            for (index, (_, outcome)) in batched.iter().zip(answer.into_outcomes()) {
                outcomes[*index] = Some(outcome.and_then(|answer| confirmed(&answer)));
            }
        }
        self.update_one_by_one(&method, updates, outcomes, lane).await
    }

    async fn update_one_by_one(
        &self,
        method: &str,
        updates: &[Update],
        outcomes: Vec<Option<Result<(), ApiError>>>,
        lane: Lane,
    ) -> Result<Vec<(u64, Result<(), ApiError>)>, Error> {
        let mut all = Vec::with_capacity(updates.len());
        for (update, outcome) in updates.iter().zip(outcomes) {
            let outcome = match outcome {
                Some(outcome) => outcome,
                None => match self.call(method, &update.params(), lane).await {
                    Ok(answer) => confirmed(&answer),
                    Err(Error::Api(error)) => Err(error),
                    // The others have their outcomes; this one stays open.
                    Err(_) => Err(ApiError::missing(method)),
                },
            };
            all.push((update.id, outcome));
        }
        Ok(all)
    }

    /// Reads records of an entity by their IDs, 50 a command; IDs that are not there are left out.
    pub async fn records(
        &self,
        entity: Entity,
        ids: &[u64],
        select: &[&str],
        lane: Lane,
    ) -> Result<BTreeMap<u64, Row>, Error> {
        let params = |ids: &[u64]| json!({"filter": {"@ID": ids}, "select": select, "order": {"ID": "ASC"}, "start": -1});
        self.by_ids(&entity.method("list"), ids, params, lane).await
    }

    /// Reads employees by their IDs, 50 a command; IDs that are not there are left out.
    pub async fn users(&self, ids: &[u64], lane: Lane) -> Result<BTreeMap<u64, Row>, Error> {
        let select = ["ID", "NAME", "LAST_NAME", "SECOND_NAME", "ACTIVE"];
        let params = |ids: &[u64]| json!({"filter": {"ID": ids}, "select": select});
        self.by_ids("user.get", ids, params, lane).await
    }

    async fn by_ids(
        &self,
        method: &str,
        ids: &[u64],
        params: impl Fn(&[u64]) -> Value,
        lane: Lane,
    ) -> Result<BTreeMap<u64, Row>, Error> {
        let ids: Vec<u64> = ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let mut found = BTreeMap::new();
        for part in ids.chunks(MAX_COMMANDS * IDS_PER_COMMAND) {
            let mut batch = Batch::new();
            for ids in part.chunks(IDS_PER_COMMAND) {
                batch.push(Command::new(method, &params(ids))?)?;
            }
            for (_, outcome) in self.batch(&batch, lane).await?.into_outcomes() {
                for row in rows_of(&outcome?)? {
                    if ids.binary_search(&row.id).is_err() {
                        let fault = ListingFault::OutOfBounds;
                        return Err(Error::Listing { method: method.into(), fault });
                    }
                    found.insert(row.id, row);
                }
            }
        }
        Ok(found)
    }

    /// Returns the fields of an entity, custom ones included.
    pub async fn fields(&self, entity: Entity, lane: Lane) -> Result<BTreeMap<String, Field>, Error> {
        let answer = self.call(&entity.method("fields"), &json!({}), lane).await?;
        let fields: Entries<WireField> = answer.parse("an object of fields")?;
        if fields.0.is_empty() {
            return Err(answer.shape_error("an object of fields"));
        }
        Ok(fields.0.into_iter().map(|(name, field)| (name, field.into())).collect())
    }

    /// Returns the custom fields of an entity that match a filter, with the labels of a language.
    pub async fn user_fields(
        &self,
        entity: Entity,
        mut filter: Map<String, Value>,
        lane: Lane,
    ) -> Result<Vec<Value>, Error> {
        filter.entry("LANG").or_insert_with(|| json!("ru"));
        let mut found = Vec::new();
        let mut start = 0;
        loop {
            let params = json!({"filter": filter, "order": {"ID": "ASC"}, "start": start});
            let answer = self.call(&entity.method("userfield.list"), &params, lane).await?;
            found.extend(answer.parse::<Vec<Value>>("a list of fields")?);
            match answer.next {
                Some(next) if next > start => start = next,
                _ => return Ok(found),
            }
        }
    }

    /// Creates a custom field and returns its ID. Takes an administrator of the CRM.
    pub async fn add_user_field(
        &self,
        entity: Entity,
        fields: &Map<String, Value>,
        lane: Lane,
    ) -> Result<u64, Error> {
        let answer = self.call(&entity.method("userfield.add"), &json!({ "fields": fields }), lane).await?;
        whole_number(&answer.result).ok_or_else(|| answer.shape_error("an ID"))
    }

    /// Returns whom the webhook acts for; the cheapest way to see whether it works.
    pub async fn profile(&self, lane: Lane) -> Result<Profile, Error> {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(rename = "ID")]
            id: Box<RawValue>,
            #[serde(rename = "ADMIN", default)]
            admin: Value,
        }
        let answer = self.call("profile", &json!({}), lane).await?;
        let wire: Wire = answer.parse("a profile")?;
        let id = whole_number(&wire.id).ok_or_else(|| answer.shape_error("a profile"))?;
        Ok(Profile { id, is_admin: wire.admin == json!(true) || wire.admin == json!("Y") })
    }

    /// Returns what the webhook may be used for, such as `crm` and `user_brief`.
    pub async fn scope(&self, lane: Lane) -> Result<BTreeSet<String>, Error> {
        self.call("scope", &json!({}), lane).await?.parse("a list of scopes")
    }

    /// Returns the portal's time, in its own offset.
    pub async fn server_time(&self, lane: Lane) -> Result<DateTime<FixedOffset>, Error> {
        let answer = self.call("server.time", &json!({}), lane).await?;
        let text: String = answer.parse("a time")?;
        DateTime::parse_from_rfc3339(&text).map_err(|_| answer.shape_error("a time"))
    }
}

/// One page, so that no answer is cut.
const IDS_PER_COMMAND: usize = 50;

fn is_too_much_for_a_batch(error: &Error) -> bool {
    let Error::Request { fault, .. } = error else { return false };
    matches!(fault, RequestFault::Inexpressible | RequestFault::LooksLikeReference | RequestFault::Key)
}

/// Anything but `true` means that the record has not been changed.
fn confirmed(answer: &Answer) -> Result<(), ApiError> {
    match answer.result.get() {
        "true" => Ok(()),
        _ => Err(ApiError::no_result(&answer.method)),
    }
}

fn rows_of(answer: &Answer) -> Result<Vec<Row>, Error> {
    #[derive(Deserialize)]
    struct Id<'a> {
        #[serde(borrow, rename = "ID")]
        id: &'a RawValue,
    }
    let Rows(rows) = answer.parse("a list of rows")?;
    let id = |raw: &RawValue| {
        let id = serde_json::from_str::<Id<'_>>(raw.get()).ok().filter(|_| raw.get().starts_with('{'))?;
        whole_number(id.id)
    };
    rows.into_iter()
        .map(|raw| match id(&raw) {
            Some(id) => Ok(Row { id, raw }),
            None => Err(Error::Listing { method: answer.method.clone(), fault: ListingFault::NoId }),
        })
        .collect()
}

#[derive(Deserialize)]
struct WireField {
    #[serde(rename = "type", default)]
    kind: Value,
    #[serde(rename = "isMultiple", default)]
    is_multiple: Value,
    #[serde(rename = "isReadOnly", default)]
    is_read_only: Value,
    #[serde(rename = "formLabel", default)]
    form_label: Value,
    #[serde(default)]
    title: Value,
    #[serde(default)]
    items: Value,
}

impl From<WireField> for Field {
    fn from(wire: WireField) -> Self {
        let is_true = |value: &Value| *value == json!(true) || *value == json!("Y");
        // A custom field's title is its code; people see the label of the form.
        let label = wire.form_label.as_str().or(wire.title.as_str());
        Self {
            kind: wire.kind.as_str().unwrap_or_default().to_owned(),
            is_multiple: is_true(&wire.is_multiple),
            is_read_only: is_true(&wire.is_read_only),
            label: label.map(str::to_owned),
            options: options(&wire.items),
        }
    }
}

fn options(items: &Value) -> BTreeSet<u64> {
    let id = |item: &Value| match item.get("ID")? {
        Value::String(text) => text.trim().parse().ok(),
        id => id.as_u64(),
    };
    items.as_array().into_iter().flatten().filter_map(id).collect()
}
