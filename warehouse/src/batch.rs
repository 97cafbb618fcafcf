//! What messages say, gathered into one change of the tables. Pure.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, FixedOffset};
use schemas::envelope::{ERASED, ERASER};
use schemas::streams::{RAW, RESULTS, STATUSES};
use schemas::{
    Entity, Envelope, EnvelopeError, EventData, RecordChanged, RecordProcessed, StatusWritten, Version,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::php;
use crate::rows::{
    self, Contact, Deal, DealRows, Erased, NoRow, Outcome, ProductRow, Record, Stage, Status, User,
};

/// A message of one of the streams.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its stream.
    pub stream: &'static str,
    /// Its sequence there.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A message that no row is made of, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its stream.
    pub stream: &'static str,
    /// Its sequence there.
    pub sequence: u64,
    /// Its subject, which names the record.
    pub subject: String,
    /// Why, without personal data.
    pub reason: String,
}

/// One change of the tables: of each row its newest version only.
#[derive(Default)]
pub struct Batch {
    /// Contacts with their versions.
    pub contacts: Newest<i64, Contact>,
    /// Deals with their product rows.
    pub deals: Newest<i64, (Deal, Vec<ProductRow>)>,
    /// Sellers.
    pub users: Newest<i64, User>,
    /// Stages that deals stand in.
    pub stages: BTreeMap<String, Stage>,
    /// Codes of all fields seen.
    pub fields: BTreeSet<(&'static str, String)>,
    /// What came of records.
    pub outcomes: Newest<(&'static str, i64), Outcome>,
    /// What status fields hold.
    pub statuses: Newest<(&'static str, i64), Status>,
    /// Up to where records are to be forgotten.
    pub erased: Newest<(&'static str, i64), Erased>,
    /// What no row is made of.
    pub left_out: Vec<LeftOut>,
}

/// The newest of each.
pub struct Newest<K, T>(BTreeMap<K, (Version, T)>);

impl<K, T> Default for Newest<K, T> {
    fn default() -> Newest<K, T> {
        Newest(BTreeMap::new())
    }
}

impl<K: Ord, T> Newest<K, T> {
    /// Keeps the newer one; of equals the first.
    fn put(&mut self, key: K, version: Version, value: T) {
        match self.0.get_mut(&key) {
            Some((known, _)) if *known >= version => {}
            Some(known) => *known = (version, value),
            None => {
                self.0.insert(key, (version, value));
            }
        }
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns them in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|(_, value)| value)
    }
}

impl Batch {
    /// Gathers what messages say.
    pub fn of<'m>(messages: impl IntoIterator<Item = &'m Said>) -> Batch {
        let mut batch = Batch::default();
        for message in messages {
            if let Err(reason) = batch.add(message) {
                batch.left_out.push(message.left_out(reason));
            }
        }
        batch
    }

    fn add(&mut self, message: &Said) -> Result<(), String> {
        match message.stream {
            _ if message.header("ce-source") == Some(ERASER) => self.add_erased(message),
            stream if stream == RAW.name => self.add_record(message),
            stream if stream == RESULTS.name => self.add_outcome(message),
            stream if stream == STATUSES.name => self.add_status(message),
            _ => Err("of a stream that is not read here".into()),
        }
    }

    fn add_record(&mut self, message: &Said) -> Result<(), String> {
        let (envelope, changed) = message.decode::<RecordChanged>().map_err(|error| error.to_string())?;
        let (entity, id) = (envelope.record.entity, envelope.record.id.get());
        // A raw message's place in its stream is the number of its version.
        let version = Version { raw_sequence: message.sequence, redrive: 0 };
        let (record, fields) = rows::of_record(entity, id, version, envelope.fingerprint, changed)
            .map_err(|NoRow(reason)| reason.to_owned())?;
        self.fields.extend(fields.into_iter().map(|code| (entity.token(), code)));
        let id = rows::bigint(id).map_err(|NoRow(reason)| reason.to_owned())?;
        match record {
            Record::Contact(contact) => self.contacts.put(id, version, *contact),
            Record::Deal(rows) => {
                let DealRows { deal, product_rows, seller, stage } = *rows;
                self.deals.put(id, version, (deal, product_rows));
                if let Some(user) = seller {
                    self.users.put(user.id(), version, user);
                }
                if let Some(stage) = stage {
                    self.stages.entry(stage.stage_id.clone()).or_insert(stage);
                }
            }
        }
        Ok(())
    }

    /// Notes that a person was erased; what else the message says is about nobody.
    fn add_erased(&mut self, message: &Said) -> Result<(), String> {
        let envelope = Envelope::decode_headers(&|name: &str| message.header(name))
            .map_err(|error| error.to_string())?;
        let place = Place::at(&envelope, erased_version(message, &envelope)?)?;
        let (entity, id) = place.key;
        let erased = Erased { entity, id, raw_sequence: place.raw_sequence, redrive: place.redrive };
        self.erased.put(place.key, place.version, erased);
        Ok(())
    }

    fn add_outcome(&mut self, message: &Said) -> Result<(), String> {
        let (envelope, processed) = message.decode::<Processed>().map_err(|error| error.to_string())?;
        let place = Place::of(&envelope)?;
        let (entity, id) = place.key;
        let outcome = Outcome {
            entity,
            id,
            raw_sequence: place.raw_sequence,
            redrive: place.redrive,
            modified: envelope.modified.to_rfc3339(),
            outcome: processed.outcome,
            status: processed.status,
            problems: processed.problems,
            target_id: processed.target_id,
        };
        self.outcomes.put(place.key, place.version, outcome);
        Ok(())
    }

    fn add_status(&mut self, message: &Said) -> Result<(), String> {
        let (envelope, settled) = message.decode::<Settled>().map_err(|error| error.to_string())?;
        let place = Place::of(&envelope)?;
        let (entity, id) = place.key;
        let status = Status {
            entity,
            id,
            raw_sequence: place.raw_sequence,
            redrive: place.redrive,
            status: settled.status,
            how: settled.how,
            settled: settled.settled.to_rfc3339(),
        };
        self.statuses.put(place.key, place.version, status);
        Ok(())
    }
}

/// The version up to which a record is erased.
///
/// Raw messages may be erased of which there is no outcome yet: then the message names them beside its own version.
fn erased_version(message: &Said, envelope: &Envelope) -> Result<Version, String> {
    let own = envelope.version.unwrap_or(Version { raw_sequence: 0, redrive: 0 });
    let erased = match message.header(ERASED) {
        Some(text) => text.parse().map_err(|_| format!("header `{ERASED}` is malformed"))?,
        None => 0,
    };
    Ok(Version { raw_sequence: own.raw_sequence.max(erased), ..own })
}

/// Which record and version an event is about, as the database counts.
struct Place {
    key: (&'static str, i64),
    version: Version,
    raw_sequence: i64,
    redrive: i64,
}

impl Place {
    fn of(envelope: &Envelope) -> Result<Place, String> {
        let version = envelope.version.ok_or("header `ce-rawsequence` is missing")?;
        Place::at(envelope, version)
    }

    fn at(envelope: &Envelope, version: Version) -> Result<Place, String> {
        let number = |number| rows::bigint(number).map_err(|NoRow(reason)| reason.to_owned());
        Ok(Place {
            key: (envelope.record.entity.token(), number(envelope.record.id.get())?),
            version,
            raw_sequence: number(version.raw_sequence)?,
            redrive: number(version.redrive)?,
        })
    }
}

impl Said {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn decode<T: EventData>(&self) -> Result<(Envelope, T), EnvelopeError> {
        let header = |name: &str| self.header(name);
        match std::str::from_utf8(&self.payload) {
            Ok(json) => Envelope::decode(header, php::clean(json).as_bytes()),
            Err(_) => Envelope::decode(header, &self.payload),
        }
    }

    /// Leaves it out.
    pub fn left_out(&self, reason: String) -> LeftOut {
        let (stream, sequence, subject) = (self.stream, self.sequence, self.subject.clone());
        LeftOut { stream, sequence, subject, reason }
    }
}

/// An outcome, open to words that the contract may add.
#[derive(Serialize, Deserialize)]
struct Processed {
    outcome: String,
    status: String,
    #[serde(default)]
    problems: Value,
    #[serde(default)]
    target_id: Option<String>,
}

impl EventData for Processed {
    fn event_type(&self, entity: Entity) -> &'static str {
        match entity {
            Entity::Contact => Self::TYPES[0],
            Entity::Deal => Self::TYPES[1],
        }
    }

    const TYPES: &'static [&'static str] = RecordProcessed::TYPES;
}

/// A settled status, open to words that the contract may add.
#[derive(Serialize, Deserialize)]
struct Settled {
    status: String,
    how: String,
    settled: DateTime<FixedOffset>,
}

impl EventData for Settled {
    fn event_type(&self, entity: Entity) -> &'static str {
        match entity {
            Entity::Contact => Self::TYPES[0],
            Entity::Deal => Self::TYPES[1],
        }
    }

    const TYPES: &'static [&'static str] = StatusWritten::TYPES;
}
