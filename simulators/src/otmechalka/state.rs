//! What otmechalka holds, what happened to it, and how it is kept over a restart.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::clock::Clock;
use super::faults::{Faults, Kind};
use super::journal::Journal;
use super::settings::Settings;

/// The fields of one client or ticket.
pub type Fields = Map<String, Value>;

/// The two kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entity {
    Client,
    Ticket,
}

impl Entity {
    fn first_id(self) -> u64 {
        match self {
            Self::Client => 12_456,
            Self::Ticket => 24_545_676_786,
        }
    }
}

/// Records by otmechalka's own id; several may share an origin id.
#[derive(Debug, Default)]
pub struct Table {
    records: BTreeMap<u64, Fields>,
    by_origin: HashMap<String, Vec<u64>>,
}

impl Table {
    /// Returns the oldest record of an origin id.
    pub fn get(&self, origin_id: &str) -> Option<&Fields> {
        self.records.get(self.by_origin.get(origin_id)?.first()?)
    }

    pub fn records(&self) -> impl Iterator<Item = &Fields> {
        self.records.values()
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Counts the records that are not archived.
    pub fn active(&self) -> usize {
        self.records().filter(|fields| fields.get("archived") != Some(&Value::Bool(true))).count()
    }

    fn put(&mut self, fields: Fields) {
        let id = fields.get("id").and_then(Value::as_u64).unwrap_or_default();
        let ids = self.by_origin.entry(origin_of(&fields)).or_default();
        if !ids.contains(&id) {
            ids.push(id);
        }
        self.records.insert(id, fields);
    }

    fn delete(&mut self, origin_id: &str) -> usize {
        let ids = self.by_origin.remove(origin_id).unwrap_or_default();
        ids.iter().filter(|id| self.records.remove(id).is_some()).count()
    }

    fn next_id(&self, entity: Entity) -> u64 {
        self.records.keys().next_back().map_or(entity.first_id(), |id| id + 1)
    }
}

fn origin_of(fields: &Fields) -> String {
    fields.get("origin_id").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// One call, or one deed of an administrator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub seq: u64,
    pub time: DateTime<Utc>,
    pub method: String,
    pub path: String,
    pub origin_id: Option<String>,
    /// What was sent, when it was JSON.
    pub body: Option<Value>,
    /// What was answered; nothing when the connection was cut or left silent.
    pub status: Option<u16>,
    /// Whether a record was created, changed or deleted.
    pub applied: bool,
    /// The fault that spoiled the call.
    pub fault: Option<Kind>,
    /// The answer's body, for those that are no success.
    pub answer: Option<Value>,
    /// Whether an administrator did it, not a caller of the API.
    pub admin: bool,
}

/// A change as it is written to the journal and read back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    Put { entity: Entity, fields: Fields },
    Delete { entity: Entity, origin_id: String },
    Happened { entry: Entry },
    Settings { settings: Settings },
    Faults { faults: Faults },
    Empty,
}

/// Counts since the start or the last reset.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counters {
    pub total: u64,
    pub by_call: BTreeMap<String, u64>,
    pub by_status: BTreeMap<String, u64>,
    pub by_fault: BTreeMap<String, u64>,
    /// Most calls at work at the same time.
    pub max_in_flight: u64,
    /// Most calls about one record at work at the same time.
    pub max_in_flight_per_record: u64,
}

/// Everything behind the lock.
pub struct State {
    pub clients: Table,
    pub tickets: Table,
    pub history: Vec<Entry>,
    pub settings: Settings,
    pub faults: Faults,
    pub clock: Clock,
    pub counters: Counters,
    in_flight: HashMap<Option<(Entity, String)>, u64>,
    journal: Option<Journal>,
}

impl State {
    pub fn new(settings: Settings, clock: Clock) -> Self {
        Self {
            clients: Table::default(),
            tickets: Table::default(),
            history: Vec::new(),
            settings,
            faults: Faults::default(),
            clock,
            counters: Counters::default(),
            in_flight: HashMap::new(),
            journal: None,
        }
    }

    /// Writes every change from now on to a journal.
    pub fn keep_in(&mut self, journal: Journal) {
        self.journal = Some(journal);
    }

    pub fn table(&self, entity: Entity) -> &Table {
        match entity {
            Entity::Client => &self.clients,
            Entity::Ticket => &self.tickets,
        }
    }

    fn table_mut(&mut self, entity: Entity) -> &mut Table {
        match entity {
            Entity::Client => &mut self.clients,
            Entity::Ticket => &mut self.tickets,
        }
    }

    /// Creates a record and returns it with its id.
    pub fn create(&mut self, entity: Entity, mut fields: Fields) -> Fields {
        fields.insert("id".to_owned(), self.table(entity).next_id(entity).into());
        self.make(Change::Put { entity, fields: fields.clone() });
        fields
    }

    /// Stores a record under the id it has.
    pub fn put(&mut self, entity: Entity, fields: Fields) {
        self.make(Change::Put { entity, fields });
    }

    /// Deletes all records of an origin id and tells how many there were.
    pub fn delete(&mut self, entity: Entity, origin_id: &str) -> usize {
        let count = self.table(entity).by_origin.get(origin_id).map_or(0, Vec::len);
        self.make(Change::Delete { entity, origin_id: origin_id.to_owned() });
        count
    }

    /// Deletes all records and the history; settings and faults stay.
    pub fn empty(&mut self) {
        self.make(Change::Empty);
    }

    pub fn set_settings(&mut self, settings: Settings) {
        self.make(Change::Settings { settings });
    }

    /// Changes the faults and keeps what became of them.
    pub fn with_faults<T>(&mut self, change: impl FnOnce(&mut Faults) -> T) -> T {
        let mut faults = self.faults.clone();
        let result = change(&mut faults);
        if faults != self.faults {
            self.make(Change::Faults { faults });
        }
        result
    }

    /// Notes what happened; `seq` and `time` are set here.
    pub fn note(&mut self, mut entry: Entry) {
        entry.seq = self.history.last().map_or(1, |last| last.seq + 1);
        entry.time = self.clock.now();
        self.make(Change::Happened { entry });
    }

    /// Counts a call that begins.
    pub fn begin(&mut self, call: &str, record: Option<(Entity, String)>) {
        self.counters.total += 1;
        *self.counters.by_call.entry(call.to_owned()).or_default() += 1;
        let has_record = record.is_some();
        let same = self.in_flight.entry(record).or_default();
        *same += 1;
        if has_record {
            self.counters.max_in_flight_per_record = self.counters.max_in_flight_per_record.max(*same);
        }
        let all: u64 = self.in_flight.values().sum();
        self.counters.max_in_flight = self.counters.max_in_flight.max(all);
    }

    /// Counts a call that ended.
    pub fn end(&mut self, record: &Option<(Entity, String)>) {
        if let Some(same) = self.in_flight.get_mut(record) {
            *same -= 1;
            if *same == 0 {
                self.in_flight.remove(record);
            }
        }
    }

    fn make(&mut self, change: Change) {
        if let Some(journal) = &mut self.journal {
            journal.append(&change);
        }
        self.restore(change);
    }

    /// Makes a change without writing it down, as when it is read from the journal.
    pub fn restore(&mut self, change: Change) {
        match change {
            Change::Put { entity, fields } => self.table_mut(entity).put(fields),
            Change::Delete { entity, origin_id } => drop(self.table_mut(entity).delete(&origin_id)),
            Change::Happened { entry } => self.history.push(entry),
            Change::Settings { settings } => self.settings = settings,
            Change::Faults { faults } => self.faults = faults,
            Change::Empty => {
                (self.clients, self.tickets) = (Table::default(), Table::default());
                self.history.clear();
            }
        }
    }

    /// Returns the fewest changes that lead here from an empty state.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let put = |entity: Entity| {
            self.table(entity).records().map(move |fields| Change::Put { entity, fields: fields.clone() })
        };
        let happened = self.history.iter().map(|entry| Change::Happened { entry: entry.clone() });
        [Change::Settings { settings: self.settings.clone() }, Change::Faults { faults: self.faults.clone() }]
            .into_iter()
            .chain(put(Entity::Client))
            .chain(put(Entity::Ticket))
            .chain(happened)
    }
}
