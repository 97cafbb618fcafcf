//! Everything the portal knows, and the writes that change it.
//!
//! All of it is synchronous and under one lock; waiting is done outside (`run`).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::clock::{ClockAnchor, Zone, instant};
use super::dates::print_moment;
use super::faults::Faults;
use super::history::{Author, Counters, Entry, count};
use super::journal::{Journal, Snapshot};
use super::limits::{Operating, RequestCounters};
use super::php::Node;
use super::record::{Record, Table, is_unset, scalar_text};
use super::schema::{Access, Entity, Kind, UserField, find_field, find_stage, object, split_stage};
use super::settings::Settings;
use super::userfields;
use super::values::{canonical, edit_multifield};
use crate::dataset::Dataset;

/// Product rows as stored: classic upper-case keys.
pub type Row = Map<String, Value>;

/// The stage-history codes of the portal.
const HISTORY_CREATED: u64 = 1;
const HISTORY_MOVED: u64 = 2;
const HISTORY_FINAL: u64 = 3;

/// The next free id of everything that has ids.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct NextIds {
    pub contact: u64,
    pub deal: u64,
    pub row: u64,
    pub multifield: u64,
    pub user_field: u64,
    pub stage_move: u64,
}

/// The portal's memory.
pub struct State {
    pub settings: Settings,
    zone: Zone,
    pub contacts: Table,
    pub deals: Table,
    pub product_rows: BTreeMap<u64, Vec<Row>>,
    pub users: BTreeMap<u64, Row>,
    pub contact_fields: Vec<UserField>,
    pub deal_fields: Vec<UserField>,
    pub stage_history: BTreeMap<u64, Row>,
    pub ids: NextIds,
    pub history: Vec<Entry>,
    pub counters: Counters,
    pub request_counters: RequestCounters,
    pub operating: Operating,
    pub faults: Faults,
    /// Numbers the requests; also gives every unordered list another order.
    pub request_number: u64,
    pub journal: Journal,
}

/// How an edit treats the record's times.
#[derive(Debug, Clone, Default)]
pub struct Stamp {
    /// Leaves `DATE_MODIFY` and `MODIFY_BY_ID` alone.
    pub silent: bool,
    pub date_modify: Option<String>,
    pub date_create: Option<String>,
}

/// Who edits, when, and how the times follow.
#[derive(Debug, Clone)]
pub struct Edit {
    pub user: u64,
    pub now: f64,
    pub stamp: Stamp,
    /// Moves `DATE_MODIFY` even when no value differs.
    pub unchanged_bumps: bool,
}

/// What an update did.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    pub changed: Map<String, Value>,
    pub ignored: Vec<String>,
    /// Whether at least one sent field may be written.
    pub accepted: bool,
}

impl State {
    /// Makes a portal from a dataset.
    pub fn from_dataset(settings: Settings, seed: u64, dataset: Dataset, now: f64) -> Self {
        let mut state = Self::empty(settings, seed);
        state.contact_fields = userfields::initial(Entity::Contact, &dataset.contacts);
        state.deal_fields = userfields::initial(Entity::Deal, &dataset.deals);
        for (entity, records) in [(Entity::Contact, dataset.contacts), (Entity::Deal, dataset.deals)] {
            for fields in records {
                let id = fields.get("ID").and_then(scalar_text).and_then(|id| id.parse().ok()).unwrap_or(0);
                let record = Record::new(id, fields, state.zone);
                state.table_mut(entity).put(Arc::new(record), now, 0.0);
            }
        }
        state.product_rows = dataset.product_rows;
        state.users = keyed(dataset.users);
        state.number_ids();
        state.invent_stage_history();
        state
    }

    fn empty(settings: Settings, seed: u64) -> Self {
        Self {
            zone: settings.zone(),
            settings,
            contacts: Table::default(),
            deals: Table::default(),
            product_rows: BTreeMap::new(),
            users: BTreeMap::new(),
            contact_fields: Vec::new(),
            deal_fields: Vec::new(),
            stage_history: BTreeMap::new(),
            ids: NextIds::default(),
            history: Vec::new(),
            counters: Counters::default(),
            request_counters: RequestCounters::default(),
            operating: Operating::default(),
            faults: Faults::new(seed),
            request_number: 0,
            journal: Journal::default(),
        }
    }

    /// Returns the portal's zone.
    pub fn zone(&self) -> Zone {
        self.zone
    }

    /// Replaces the settings.
    pub fn set_settings(&mut self, settings: Settings) {
        self.zone = settings.zone();
        self.settings = settings;
        self.journal.put("meta", "settings", &self.settings);
    }

    /// Prints a portal time.
    pub fn print(&self, now: f64) -> String {
        print_moment(instant(now), self.zone)
    }

    /// Returns the records of an entity.
    pub fn table(&self, entity: Entity) -> &Table {
        match entity {
            Entity::Contact => &self.contacts,
            Entity::Deal => &self.deals,
        }
    }

    fn table_mut(&mut self, entity: Entity) -> &mut Table {
        match entity {
            Entity::Contact => &mut self.contacts,
            Entity::Deal => &mut self.deals,
        }
    }

    /// Returns the custom fields of an entity.
    pub fn user_fields(&self, entity: Entity) -> &Vec<UserField> {
        match entity {
            Entity::Contact => &self.contact_fields,
            Entity::Deal => &self.deal_fields,
        }
    }

    /// Adds a custom field; its id is given here.
    pub fn add_user_field(&mut self, entity: Entity, mut field: UserField) -> u64 {
        let id = take(&mut self.ids.user_field);
        field.id = id;
        let fields = match entity {
            Entity::Contact => &mut self.contact_fields,
            Entity::Deal => &mut self.deal_fields,
        };
        fields.push(field);
        self.store_user_fields(entity);
        id
    }

    /// Deletes a custom field together with its values.
    pub fn delete_user_field(&mut self, entity: Entity, name: &str) -> bool {
        let fields = match entity {
            Entity::Contact => &mut self.contact_fields,
            Entity::Deal => &mut self.deal_fields,
        };
        let before = fields.len();
        fields.retain(|field| field.name != name);
        let deleted = fields.len() < before;
        let holders: Vec<Arc<Record>> =
            self.table(entity).newest().filter(|record| record.fields.contains_key(name)).cloned().collect();
        for record in holders {
            let mut fields = record.fields.clone();
            fields.remove(name);
            self.store_record(entity, record.id, fields, 0.0, 0.0);
        }
        self.store_user_fields(entity);
        deleted
    }

    /// Reads sent fields: stored values of those that may be written, names of the others.
    pub fn read_fields(
        &mut self,
        entity: Entity,
        current: Option<&Record>,
        sent: &Node,
    ) -> (Row, Vec<String>) {
        let (mut values, mut ignored) = (Row::new(), Vec::new());
        for (name, node) in sent.as_array().into_iter().flatten() {
            let field = find_field(entity, self.user_fields(entity), name);
            let writable = |access| access == Access::Writable || access == Access::Hidden;
            match field {
                Some(field) if field.kind == Kind::Multifield => {
                    let stored = current.map_or(&Value::Null, |record| record.value(name));
                    let edited = edit_multifield(stored, node, name, &mut self.ids.multifield);
                    values.insert(name.clone(), edited);
                }
                Some(field)
                    if writable(field.access) || (current.is_none() && field.access == Access::Immutable) =>
                {
                    values.insert(name.clone(), canonical(field, node, self.zone));
                }
                _ => ignored.push(name.clone()),
            }
        }
        (values, ignored)
    }

    /// Updates a record with what was sent; `None` when there is no such record.
    pub fn update(&mut self, entity: Entity, id: u64, sent: &Node, edit: &Edit) -> Option<Applied> {
        let current = self.table(entity).get(id)?.clone();
        let (mut values, ignored) = self.read_fields(entity, Some(&current), sent);
        let accepted = !values.is_empty();
        values.retain(|name, value| !(is_unset(value) && is_unset(current.value(name))));
        let changed = self.edit(entity, &current, values, edit);
        Some(Applied { changed, ignored, accepted })
    }

    /// Gives ids and types to telephone numbers and addresses that were typed in without.
    pub fn complete_multifields(&mut self, fields: &mut Row) {
        for name in ["PHONE", "EMAIL", "WEB", "IM", "LINK"] {
            let items = fields.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten();
            for item in items.filter_map(Value::as_object_mut).filter(|item| item.contains_key("VALUE")) {
                item.entry("ID").or_insert_with(|| take(&mut self.ids.multifield).to_string().into());
                item.entry("TYPE_ID").or_insert(name.into());
                item.entry("VALUE_TYPE").or_insert("WORK".into());
            }
        }
    }

    /// Stores new values and returns those that differ from before.
    pub fn edit(&mut self, entity: Entity, current: &Record, mut values: Row, edit: &Edit) -> Row {
        let Edit { user, now, stamp, unchanged_bumps } = edit;
        if entity == Entity::Deal {
            self.follow_stage(current, &mut values, *user, *now);
        }
        values.retain(|name, value| *value != *current.value(name));
        let stamped = stamp.date_modify.is_some() || stamp.date_create.is_some();
        if values.is_empty() && !unchanged_bumps && !stamped {
            return values;
        }
        let mut fields = current.fields.clone();
        fields.extend(values.clone());
        if !stamp.silent {
            fields.insert("DATE_MODIFY".to_owned(), self.print(*now).into());
            fields.insert("MODIFY_BY_ID".to_owned(), user.to_string().into());
        }
        stamp.apply(&mut fields);
        let delay = self.settings.list_delay_seconds;
        self.store_record(entity, current.id, fields, *now, delay);
        values
    }

    /// Creates a record and returns its id.
    pub fn create(&mut self, entity: Entity, values: Row, user: u64, now: f64, stamp: &Stamp) -> u64 {
        let id = match entity {
            Entity::Contact => take(&mut self.ids.contact),
            Entity::Deal => take(&mut self.ids.deal),
        };
        let mut fields = new_record(entity, id, user, &self.print(now));
        fields.extend(values);
        stamp.apply(&mut fields);
        if entity == Entity::Deal {
            complete_stage(&mut fields);
        }
        self.store_record(entity, id, fields, now, self.settings.list_delay_seconds);
        if entity == Entity::Deal {
            self.remember_stage(id, HISTORY_CREATED, now);
        }
        self.store_ids();
        id
    }

    /// Deletes a record, a deal together with its product rows.
    pub fn delete(&mut self, entity: Entity, id: u64) -> Option<Arc<Record>> {
        let removed = self.table_mut(entity).remove(id)?;
        self.journal.remove(entity.name(), id);
        if entity == Entity::Deal && self.product_rows.remove(&id).is_some() {
            self.journal.remove("product_rows", id);
        }
        Some(removed)
    }

    /// Replaces the product rows of a deal; rows without an id get one.
    pub fn set_product_rows(&mut self, deal: u64, mut rows: Vec<Row>) {
        for row in &mut rows {
            if is_unset(row.get("ID").unwrap_or(&Value::Null)) {
                row.insert("ID".to_owned(), take(&mut self.ids.row).to_string().into());
            }
            row.insert("OWNER_ID".to_owned(), deal.to_string().into());
            row.insert("OWNER_TYPE".to_owned(), "D".into());
        }
        self.journal.put("product_rows", deal, &rows);
        self.product_rows.insert(deal, rows);
        self.store_ids();
    }

    /// Stores a user as given.
    pub fn put_user(&mut self, id: u64, mut user: Row) {
        user.insert("ID".to_owned(), id.to_string().into());
        self.journal.put("user", id, &user);
        self.users.insert(id, user);
    }

    /// Returns the deal's stage history entries and adds one for its present stage.
    fn remember_stage(&mut self, deal: u64, kind: u64, now: f64) {
        let Some(record) = self.deals.get(deal) else { return };
        let id = take(&mut self.ids.stage_move);
        let entry = object(json!({
            "ID": id, "TYPE_ID": kind, "OWNER_ID": deal, "CREATED_TIME": self.print(now),
            "CATEGORY_ID": record.text("CATEGORY_ID").parse::<u64>().unwrap_or(0),
            "STAGE_SEMANTIC_ID": record.value("STAGE_SEMANTIC_ID"), "STAGE_ID": record.value("STAGE_ID"),
        }));
        self.journal.put("stage_history", id, &entry);
        self.stage_history.insert(id, entry);
    }

    /// Adjusts what depends on a deal's stage; a stage of another pipeline is dropped.
    fn follow_stage(&mut self, current: &Record, values: &mut Row, user: u64, now: f64) {
        let Some(stage_id) = values.get("STAGE_ID").and_then(scalar_text) else { return };
        let category = values.get("CATEGORY_ID").and_then(scalar_text);
        let category = category.unwrap_or_else(|| current.text("CATEGORY_ID")).parse().unwrap_or(0);
        let Some(stage) = find_stage(&stage_id).filter(|_| split_stage(&stage_id).0 == category) else {
            values.remove("STAGE_ID");
            return;
        };
        if current.text("STAGE_ID") == stage_id {
            return;
        }
        values.insert("STAGE_SEMANTIC_ID".to_owned(), stage.semantic.into());
        values.insert("CLOSED".to_owned(), if stage.semantic == "P" { "N" } else { "Y" }.into());
        values.insert("MOVED_TIME".to_owned(), self.print(now).into());
        values.insert("MOVED_BY_ID".to_owned(), user.to_string().into());
    }

    /// Stores a record and what follows from a moved stage.
    pub fn store_record(&mut self, entity: Entity, id: u64, fields: Row, now: f64, delay: f64) {
        let record = Arc::new(Record::new(id, fields, self.zone));
        self.journal.put(entity.name(), id, &record.fields);
        let moved = entity == Entity::Deal
            && self.deals.get(id).is_some_and(|before| before.value("STAGE_ID") != record.value("STAGE_ID"));
        let is_final = matches!(record.text("STAGE_SEMANTIC_ID").as_str(), "S" | "F");
        self.table_mut(entity).put(record, now, delay);
        if moved {
            self.remember_stage(id, if is_final { HISTORY_FINAL } else { HISTORY_MOVED }, now);
        }
    }

    /// Adds a write to the history and to the counts.
    pub fn remember(
        &mut self,
        author: &Author,
        method: &str,
        entity: Entity,
        id: u64,
        now: f64,
        write: Write,
    ) {
        let (origin, request, command) = match author {
            Author::Rest { request, command, .. } => ("rest", Some(*request), command.clone()),
            Author::Human { .. } => ("human", None, None),
        };
        if origin == "rest" && write.applied && method.ends_with(".update") {
            self.counters.updates += 1;
            if write.changed_or_sent(self.settings.status_field(entity)) {
                count(&mut self.counters.status_updates, entity.name());
            }
        }
        let date_modify = self.table(entity).get(id).map(|record| record.text("DATE_MODIFY"));
        let entry = Entry {
            seq: self.history.len() as u64 + 1,
            time: self.print(now),
            origin: origin.to_owned(),
            user: author.user(),
            method: method.to_owned(),
            entity: entity.name().to_owned(),
            id,
            fields: write.fields,
            applied: write.applied,
            ignored: write.ignored,
            changed: write.changed,
            request,
            command,
            date_modify,
            before: write.before,
            record: write.record,
        };
        self.journal.put("history", entry.seq, &entry);
        self.history.push(entry);
    }

    /// Keeps where the clock stands.
    pub fn store_clock(&mut self, anchor: ClockAnchor) {
        self.journal.put("meta", "clock", &anchor);
    }

    fn store_ids(&mut self) {
        let ids = self.ids;
        self.journal.put("meta", "ids", &ids);
    }

    fn store_user_fields(&mut self, entity: Entity) {
        let fields = match entity {
            Entity::Contact => &self.contact_fields,
            Entity::Deal => &self.deal_fields,
        };
        self.journal.put("user_fields", entity.name(), fields);
        self.store_ids();
    }

    fn number_ids(&mut self) {
        let row_ids = self.product_rows.values().flatten().filter_map(|row| scalar_text(row.get("ID")?));
        let multifields = self.contacts.newest().flat_map(|record| {
            let lists = ["PHONE", "EMAIL"].into_iter().filter_map(|name| record.value(name).as_array());
            lists.flatten().filter_map(|item| scalar_text(item.get("ID")?)).collect::<Vec<_>>()
        });
        let highest = |ids: &mut dyn Iterator<Item = String>| -> u64 {
            ids.filter_map(|id| id.parse::<u64>().ok()).max().unwrap_or(0)
        };
        self.ids = NextIds {
            contact: self.contacts.last_id() + 1,
            deal: self.deals.last_id() + 1,
            row: highest(&mut row_ids.into_iter()) + 1,
            multifield: highest(&mut multifields.into_iter()) + 1,
            user_field: (self.contact_fields.len().max(self.deal_fields.len())) as u64 + 1,
            stage_move: 1,
        };
    }

    fn invent_stage_history(&mut self) {
        let deals: Vec<Arc<Record>> = self.deals.newest().cloned().collect();
        for deal in deals {
            let is_final = matches!(deal.text("STAGE_SEMANTIC_ID").as_str(), "S" | "F");
            let kind = if is_final { HISTORY_FINAL } else { HISTORY_CREATED };
            self.remember_stage(deal.id, kind, deal.modified as f64);
        }
    }

    /// Puts everything into a journal.
    pub fn keep_all(&self, clock: ClockAnchor, journal: &mut Journal) {
        for entity in [Entity::Contact, Entity::Deal] {
            for record in self.table(entity).newest() {
                journal.put(entity.name(), record.id, &record.fields);
            }
            journal.put("user_fields", entity.name(), self.user_fields(entity));
        }
        for (deal, rows) in &self.product_rows {
            journal.put("product_rows", deal, rows);
        }
        for (table, rows) in [("user", &self.users), ("stage_history", &self.stage_history)] {
            for (id, row) in rows {
                journal.put(table, id, row);
            }
        }
        for entry in &self.history {
            journal.put("history", entry.seq, entry);
        }
        journal.put("meta", "clock", &clock);
        journal.put("meta", "ids", &self.ids);
        journal.put("meta", "settings", &self.settings);
    }

    /// Restores a portal from what was kept.
    pub fn from_snapshot(
        settings: Settings,
        seed: u64,
        mut kept: Snapshot,
        now: f64,
    ) -> serde_json::Result<Self> {
        let mut state = Self::empty(settings, seed);
        for entity in [Entity::Contact, Entity::Deal] {
            for (id, fields) in numbered(kept.remove(entity.name())) {
                let record = Record::new(id, object(fields), state.zone);
                state.table_mut(entity).put(Arc::new(record), now, 0.0);
            }
        }
        for (deal, rows) in numbered(kept.remove("product_rows")) {
            state.product_rows.insert(deal, serde_json::from_value(rows)?);
        }
        state.users = numbered(kept.remove("user")).map(|(id, row)| (id, object(row))).collect();
        state.stage_history =
            numbered(kept.remove("stage_history")).map(|(id, row)| (id, object(row))).collect();
        let mut fields = kept.remove("user_fields").unwrap_or_default();
        let mut take_fields =
            |entity| serde_json::from_value(fields.remove(entity).unwrap_or_else(|| json!([])));
        state.contact_fields = take_fields("contact")?;
        state.deal_fields = take_fields("deal")?;
        let history = numbered(kept.remove("history")).map(|(_, entry)| serde_json::from_value(entry));
        state.history = history.collect::<serde_json::Result<_>>()?;
        state.history.sort_by_key(|entry: &Entry| entry.seq);
        state.request_number = state.history.iter().filter_map(|entry| entry.request).max().unwrap_or(0);
        let ids = kept.remove("meta").and_then(|mut meta| meta.remove("ids"));
        match ids {
            Some(ids) => state.ids = serde_json::from_value(ids)?,
            None => state.number_ids(),
        }
        state.ids.stage_move = state.stage_history.keys().next_back().map_or(1, |id| id + 1);
        Ok(state)
    }
}

/// The parts of a history entry that differ from write to write.
#[derive(Debug, Default)]
pub struct Write {
    pub fields: Value,
    pub applied: bool,
    pub ignored: Vec<String>,
    pub changed: Row,
    pub before: Option<Value>,
    pub record: Option<Value>,
}

impl Write {
    fn changed_or_sent(&self, field: &str) -> bool {
        !self.ignored.iter().any(|name| name == field) && self.fields.get(field).is_some()
    }
}

impl Stamp {
    fn apply(&self, fields: &mut Row) {
        for (name, time) in [("DATE_MODIFY", &self.date_modify), ("DATE_CREATE", &self.date_create)] {
            if let Some(time) = time {
                fields.insert(name.to_owned(), time.clone().into());
            }
        }
    }
}

fn new_record(entity: Entity, id: u64, user: u64, now: &str) -> Row {
    let mut fields = object(json!({
        "ID": id.to_string(), "DATE_CREATE": now, "DATE_MODIFY": now, "ASSIGNED_BY_ID": user.to_string(),
        "CREATED_BY_ID": user.to_string(), "MODIFY_BY_ID": user.to_string(), "OPENED": "Y",
    }));
    let own = match entity {
        Entity::Contact => {
            json!({"NAME": "", "LAST_NAME": "", "BIRTHDATE": "", "EXPORT": "Y", "TYPE_ID": "CLIENT"})
        }
        Entity::Deal => {
            json!({"STAGE_ID": "NEW", "CATEGORY_ID": "0", "CURRENCY_ID": "RUB", "OPPORTUNITY": "0.00",
            "IS_RECURRING": "N", "IS_MANUAL_OPPORTUNITY": "N", "TYPE_ID": "SALE", "IS_NEW": "N"})
        }
    };
    fields.extend(object(own));
    fields
}

fn complete_stage(fields: &mut Row) {
    let stage_id = fields.get("STAGE_ID").and_then(scalar_text).unwrap_or_default();
    let semantic = find_stage(&stage_id).map_or("P", |stage| stage.semantic);
    fields.entry("STAGE_SEMANTIC_ID").or_insert(semantic.into());
    fields.entry("CLOSED").or_insert(if semantic == "P" { "N" } else { "Y" }.into());
    let (category, _) = split_stage(&stage_id);
    if category > 0 {
        fields.insert("CATEGORY_ID".to_owned(), category.to_string().into());
    }
}

fn keyed(rows: Vec<Row>) -> BTreeMap<u64, Row> {
    let id = |row: &Row| row.get("ID").and_then(scalar_text).and_then(|id| id.parse().ok());
    rows.into_iter().filter_map(|row| Some((id(&row)?, row))).collect()
}

fn numbered(entries: Option<BTreeMap<String, Value>>) -> impl Iterator<Item = (u64, Value)> {
    entries.unwrap_or_default().into_iter().filter_map(|(id, value)| Some((id.parse().ok()?, value)))
}

fn take(next: &mut u64) -> u64 {
    let id = (*next).max(1);
    *next = id + 1;
    id
}
