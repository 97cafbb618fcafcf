//! A small Bitrix24 in memory: whole seconds, lists that lag behind, edits by people and status writes by us.

use std::collections::{BTreeMap, BTreeSet};

use bitrix24::simulated::Outcome;
use chrono::{DateTime, FixedOffset, Utc};
use e2e::harness::people::{self, STATUS};
use schemas::Entity;
use serde_json::{Value, json};

use crate::chance::Chance;

/// Rows of a page.
const PAGE: usize = 50;

/// The employee that the webhook belongs to, and somebody else.
const WEBHOOK_USER: u64 = 1;
const MANAGER: u64 = 7;

/// The only seller there is.
const SELLER: &str = r#"{"ID":"12288","NAME":"Анна","LAST_NAME":"Петрова","SECOND_NAME":"","ACTIVE":true}"#;

/// A record: its entity and its id.
pub type Key = (Entity, u64);

/// What people say about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A pupil that maps and that otmechalka takes, with the number of the surname.
    Pupil(u32),
    /// A pupil that maps and that otmechalka refuses.
    Unwanted(u32),
    /// A pupil without a phone.
    NoPhone(u32),
    /// A pupil of a product that is none of otmechalka's.
    OtherProduct(u32),
    /// A deal of a pupil, at a price in rubles, won or not.
    Deal { pupil: u64, price: u32, is_won: bool },
    /// A won deal without a branch.
    NoBranch { pupil: u64, price: u32 },
    /// A won deal of a branch that is none of otmechalka's.
    OtherBranch { pupil: u64, price: u32 },
}

impl Content {
    fn json(self) -> Value {
        let with = |mut value: Value, key: &str, other: Value| {
            value[key] = other;
            value
        };
        match self {
            Content::Pupil(number) | Content::Unwanted(number) => people::contact(number),
            Content::NoPhone(number) => with(people::contact(number), "PHONE", json!([])),
            Content::OtherProduct(number) => {
                with(people::contact(number), "UF_CRM_58D15BB9CA8F4", json!([999]))
            }
            Content::Deal { pupil, is_won, .. } => people::deal(pupil, is_won),
            Content::NoBranch { pupil, .. } => {
                with(people::deal(pupil, true), "UF_CRM_1470852549", json!([]))
            }
            Content::OtherBranch { pupil, .. } => {
                with(people::deal(pupil, true), "UF_CRM_1470852549", json!([999]))
            }
        }
    }

    fn price(self) -> Option<u32> {
        match self {
            Content::Deal { price, .. }
            | Content::NoBranch { price, .. }
            | Content::OtherBranch { price, .. } => Some(price),
            _ => None,
        }
    }

    fn is_won(self) -> bool {
        !matches!(self, Content::Deal { is_won: false, .. })
    }
}

/// What a record was at a time.
#[derive(Clone, Debug)]
pub struct Version {
    /// What people say.
    pub content: Content,
    /// What the status field shows.
    pub status: String,
    /// Whether a person made it.
    pub by_person: bool,
    /// Whether lists showed it only some time later.
    pub was_late: bool,
    modified: i64,
    /// When lists begin to show it, in milliseconds of our own clock: the portal's may jump.
    readable_from: i64,
}

/// A status that was written.
#[derive(Clone, Debug)]
pub struct StatusWrite {
    /// When, by our own clock.
    pub at: DateTime<Utc>,
    /// To which record.
    pub key: Key,
    /// The text.
    pub text: String,
    /// How many versions the record had then.
    pub versions: usize,
}

/// What is wrong with the portal just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illness {
    /// Most requests fail in one of many ways.
    Failing,
    /// Every request fails as a server does.
    Down,
    /// Contacts are not listed, and everything else works.
    WithoutContacts,
    /// Every request is turned away with this status and this code.
    Refusing(u16, &'static str),
    /// Requests are carried out and many answers get lost.
    Deaf,
    /// Full rows of more records than these are too much for an answer.
    Fat(usize),
}

/// The portal.
pub struct Portal {
    zone: FixedOffset,
    /// Seconds that its clock is ahead of ours.
    pub skew: i64,
    /// What is wrong with it.
    pub illness: Option<Illness>,
    /// All versions of each record, oldest first.
    pub records: BTreeMap<Key, Vec<Version>>,
    created: BTreeMap<Key, i64>,
    /// All statuses that were written.
    pub writes: Vec<StatusWrite>,
    /// Things that must never be asked of a portal.
    pub offences: Vec<String>,
    rendered: BTreeMap<Key, (usize, String)>,
}

impl Portal {
    pub fn new() -> Portal {
        Portal {
            zone: FixedOffset::east_opt(3 * 3_600).expect("three hours"),
            skew: 0,
            illness: None,
            records: BTreeMap::new(),
            created: BTreeMap::new(),
            writes: Vec::new(),
            offences: Vec::new(),
            rendered: BTreeMap::new(),
        }
    }

    fn millis(&self, now: DateTime<Utc>) -> i64 {
        now.timestamp_millis() + self.skew * 1_000
    }

    fn print(&self, second: i64) -> String {
        DateTime::from_timestamp(second, 0).unwrap_or_default().with_timezone(&self.zone).to_rfc3339()
    }

    /// A person makes a record or changes it. `late` is how many milliseconds it takes to show in lists.
    pub fn edit(&mut self, key: Key, content: Content, now: DateTime<Utc>, late: i64) {
        let status =
            self.records.get(&key).and_then(|all| all.last()).map_or("", |last| &last.status).to_owned();
        self.add(key, content, status, now, late, true);
    }

    /// A person clears the status.
    pub fn clear(&mut self, key: Key, now: DateTime<Utc>, late: i64) {
        if let Some(last) = self.records.get(&key).and_then(|all| all.last()) {
            self.add(key, last.content, String::new(), now, late, true);
        }
    }

    /// An import, dated as it says.
    pub fn import(&mut self, key: Key, content: Content, created: DateTime<Utc>, modified: DateTime<Utc>) {
        self.created.insert(key, created.timestamp());
        let modified = modified.timestamp();
        let (by_person, was_late, readable_from) = (true, false, 0);
        let version =
            Version { content, status: String::new(), by_person, was_late, modified, readable_from };
        self.records.entry(key).or_default().push(version);
    }

    fn add(
        &mut self,
        key: Key,
        content: Content,
        status: String,
        now: DateTime<Utc>,
        late: i64,
        by_person: bool,
    ) {
        let modified = self.millis(now) / 1_000;
        self.created.entry(key).or_insert(modified);
        let versions = self.records.entry(key).or_default();
        // What is written later never becomes readable earlier.
        let readable_from =
            (now.timestamp_millis() + late).max(versions.last().map_or(0, |last| last.readable_from));
        let was_late = late > 0;
        versions.push(Version { content, status, by_person, was_late, modified, readable_from });
    }

    /// Tells whether a version is dated later than what the clock shows.
    pub fn is_ahead(&self, version: &Version, now: DateTime<Utc>) -> bool {
        version.modified > self.millis(now) / 1_000
    }

    /// Stores a status as an update of ours does.
    #[cfg(test)]
    pub fn show(&mut self, key: Key, text: &str, now: DateTime<Utc>) {
        let content = self.newest(key).expect("a record").content;
        self.add(key, content, text.to_owned(), now, 0, false);
    }

    /// Tells whether lists show a version.
    pub fn is_readable(&self, version: &Version, now: DateTime<Utc>) -> bool {
        version.readable_from <= now.timestamp_millis()
    }

    /// Returns the newest version of a record.
    pub fn newest(&self, key: Key) -> Option<&Version> {
        self.records.get(&key)?.last()
    }

    /// Answers a request, or does not.
    pub fn answer(&mut self, method: &str, body: &[u8], now: DateTime<Utc>, chance: &Chance) -> Outcome {
        let (before, after) = self.strikes(chance);
        if let Some(outcome) = before {
            return outcome;
        }
        let (status, body) = match method {
            "batch" => match self.batch(body, now, chance) {
                Some(result) => (200, self.success(&result, now)),
                None => return Outcome::TooLarge,
            },
            "crm.contact.fields" | "crm.deal.fields" => {
                let fields = format!(
                    r#"{{"{STATUS}":{{"type":"string","isMultiple":false,"isReadOnly":false,"title":"S"}}}}"#
                );
                (200, self.success(&fields, now))
            }
            _ => {
                self.offences.push(format!("{method} was called"));
                (400, br#"{"error":"ERROR_METHOD_NOT_FOUND","error_description":"no"}"#.to_vec())
            }
        };
        after.unwrap_or(Outcome::Answer(status, body))
    }

    /// Says what a request comes to instead, before and after it is carried out.
    fn strikes(&self, chance: &Chance) -> (Option<Outcome>, Option<Outcome>) {
        let answer = |status, body: &str| Some(Outcome::Answer(status, body.as_bytes().to_vec()));
        match self.illness {
            Some(Illness::Down) => match chance.below(4) {
                0 => (answer(500, r#"{"error":"INTERNAL_SERVER_ERROR","error_description":"x"}"#), None),
                1 => (answer(500, "<b>Fatal error</b>: Uncaught Error"), None),
                2 => (answer(502, "<html>Bad Gateway</html>"), None),
                _ => (answer(504, "<html>Gateway Time-out</html>"), None),
            },
            Some(Illness::Refusing(status, code)) => {
                let body = json!({"error": code, "error_description": "x"});
                (answer(status, &body.to_string()), None)
            }
            Some(Illness::Failing) if chance.one_in(2) => match chance.below(8) {
                0 => (Some(Outcome::NoAnswer), None),
                1 => (answer(500, r#"{"error":"INTERNAL_SERVER_ERROR","error_description":"x"}"#), None),
                2 => (answer(502, "<html>Bad Gateway</html>"), None),
                3 => (answer(200, r#"{"result":null}"#), None),
                4 => (answer(200, ""), None),
                5 => (answer(503, r#"{"error":"QUERY_LIMIT_EXCEEDED","error_description":"x"}"#), None),
                6 => (answer(200, "<b>Warning</b>: mysqli"), None),
                _ => (None, answer(504, "<html>Gateway Time-out</html>")),
            },
            Some(Illness::Deaf) if chance.one_in(2) => (None, Some(Outcome::NoAnswer)),
            _ => (None, None),
        }
    }

    fn success(&self, result: &str, now: DateTime<Utc>) -> Vec<u8> {
        let time = self.time(now);
        format!(r#"{{"result":{result},"time":{time}}}"#).into_bytes()
    }

    fn time(&self, now: DateTime<Utc>) -> String {
        let seconds = self.millis(now) as f64 / 1_000.0;
        let date = self.print(self.millis(now) / 1_000);
        format!(
            r#"{{"start":{seconds},"finish":{seconds},"duration":0.04,"processing":0.03,"date_start":"{date}","date_finish":"{date}"}}"#
        )
    }

    /// Runs the commands of a batch; none where the answer would be too large.
    fn batch(&mut self, body: &[u8], now: DateTime<Utc>, chance: &Chance) -> Option<String> {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut commands: Vec<(String, String)> = body["cmd"]
            .as_object()
            .map(|map| map.iter().map(|(id, command)| (id.clone(), text(command))).collect())
            .unwrap_or_default();
        commands.sort_by_key(|(id, _)| id.trim_start_matches('c').parse::<u32>().unwrap_or(0));
        let (mut results, mut errors, mut times) = (Vec::new(), Vec::new(), Vec::new());
        let mut last_ids: BTreeMap<String, Option<u64>> = BTreeMap::new();
        for (id, command) in commands {
            let (method, query) = command.split_once('?').unwrap_or((&command, ""));
            let params: Vec<(String, String)> =
                form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            times.push(format!(r#""{id}":{}"#, self.time(now)));
            match self.command(method, &params, now, &mut last_ids, &id, chance)? {
                Ok(result) => results.push(format!(r#""{id}":{result}"#)),
                Err(code) => {
                    errors.push(format!(r#""{id}":{{"error":"{code}","error_description":"{code}"}}"#));
                }
            }
        }
        let map = |entries: Vec<String>| match entries.is_empty() {
            true => "[]".to_owned(),
            false => format!("{{{}}}", entries.join(",")),
        };
        let (results, errors, times) = (map(results), map(errors), map(times));
        Some(format!(
            r#"{{"result":{results},"result_error":{errors},"result_total":[],"result_next":[],"result_time":{times}}}"#
        ))
    }

    fn command(
        &mut self,
        method: &str,
        params: &[(String, String)],
        now: DateTime<Utc>,
        last_ids: &mut BTreeMap<String, Option<u64>>,
        id: &str,
        chance: &Chance,
    ) -> Option<Result<String, &'static str>> {
        let param = |name: &str| params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let result = match method {
            "crm.contact.list" if self.illness == Some(Illness::WithoutContacts) => {
                return Some(Err("INTERNAL_SERVER_ERROR"));
            }
            "crm.contact.list" => self.list(Entity::Contact, params, now, last_ids, id)?,
            "crm.deal.list" => self.list(Entity::Deal, params, now, last_ids, id)?,
            "crm.contact.update" => return Some(self.update(Entity::Contact, params, now, chance)),
            "crm.deal.update" => return Some(self.update(Entity::Deal, params, now, chance)),
            "crm.deal.productrows.get" => {
                let deal = param("id").and_then(|id| id.parse().ok()).unwrap_or(0);
                let Some(price) =
                    self.readable((Entity::Deal, deal), now).and_then(|version| version.content.price())
                else {
                    return Some(Err("NOT_FOUND"));
                };
                let mut rows = people::rows(price);
                rows[0]["ID"] = json!(deal);
                rows[0]["OWNER_ID"] = json!(deal);
                rows.to_string()
            }
            "user.get" => format!("[{SELLER}]"),
            "crm.item.productrow.list" => return Some(Err("ERROR_METHOD_NOT_FOUND")),
            _ => {
                self.offences.push(format!("{method} was called"));
                return Some(Err("ERROR_METHOD_NOT_FOUND"));
            }
        };
        Some(Ok(result))
    }

    fn readable(&self, key: Key, now: DateTime<Utc>) -> Option<&Version> {
        let now = now.timestamp_millis();
        self.records.get(&key)?.iter().rev().find(|version| version.readable_from <= now)
    }

    fn list(
        &mut self,
        entity: Entity,
        params: &[(String, String)],
        now: DateTime<Utc>,
        last_ids: &mut BTreeMap<String, Option<u64>>,
        id: &str,
    ) -> Option<String> {
        let mut filter = Filter::default();
        let mut selects_all = false;
        for (key, value) in params {
            match key.as_str() {
                "filter[>=DATE_MODIFY]" => filter.from = second_of(value),
                "filter[>DATE_MODIFY]" => filter.from = second_of(value).map(|second| second + 1),
                "filter[<DATE_MODIFY]" => filter.until = second_of(value),
                "filter[>=DATE_CREATE]" => filter.created_from = second_of(value),
                "filter[>ID]" => match value.strip_prefix("$result[") {
                    Some(reference) => {
                        let of = reference.split(']').next().unwrap_or_default();
                        // Behind a page that is not full nothing is asked for.
                        match last_ids.get(of).copied().flatten() {
                            Some(last) => filter.after = last,
                            None => return Some("[]".to_owned()),
                        }
                    }
                    None => filter.after = value.parse().unwrap_or(0),
                },
                "filter[<=ID]" => filter.up_to = value.parse().ok(),
                key if key.starts_with("filter[@ID]") => {
                    filter.ids.get_or_insert_default().extend(value.parse::<u64>());
                }
                key if key.starts_with("filter[@STAGE_ID]") => filter.is_won_only = true,
                key if key.starts_with("filter[") => self.offences.push(format!("unknown filter {key}")),
                key if key.starts_with("select[") => selects_all |= value == "*",
                _ => {}
            }
        }
        let found: Vec<u64> = self
            .records
            .range((entity, filter.after + 1)..=(entity, filter.up_to.unwrap_or(u64::MAX)))
            .filter(|(key, _)| {
                let created = self.created.get(key).copied().unwrap_or_default();
                self.readable(**key, now).is_some_and(|version| filter.holds(key.1, created, version))
            })
            .map(|((_, id), _)| *id)
            .take(PAGE)
            .collect();
        if let Some(Illness::Fat(most)) = self.illness
            && selects_all
            && found.len() > most
        {
            return None;
        }
        last_ids.insert(id.to_owned(), found.last().copied().filter(|_| found.len() == PAGE));
        let rows: Vec<String> =
            found.into_iter().map(|id| self.row((entity, id), now, selects_all)).collect();
        Some(format!("[{}]", rows.join(",")))
    }

    fn row(&mut self, key: Key, now: DateTime<Utc>, is_whole: bool) -> String {
        let Some(version) = self.readable(key, now) else { return "{}".to_owned() };
        let (id, status) = (key.1, json!(version.status));
        if !is_whole {
            return format!(r#"{{"ID":"{id}","{STATUS}":{status}}}"#);
        }
        let (content, modified) = (version.content, self.print(version.modified));
        let by = if version.by_person { MANAGER } else { WEBHOOK_USER };
        let created = self.print(self.created.get(&key).copied().unwrap_or_default());
        // Contents are turned into JSON once each.
        let number = self.records[&key].iter().position(|other| other.content == content).unwrap_or(0);
        let known = self.rendered.get(&key).filter(|(of, _)| *of == number).map(|(_, text)| text.clone());
        let inner = known.unwrap_or_else(|| {
            let text = content.json().to_string();
            text.trim_start_matches('{').trim_end_matches('}').to_owned()
        });
        self.rendered.insert(key, (number, inner.clone()));
        format!(
            r#"{{"ID":"{id}","DATE_CREATE":"{created}","DATE_MODIFY":"{modified}","MODIFY_BY_ID":"{by}","{STATUS}":{status},{inner}}}"#
        )
    }

    fn update(
        &mut self,
        entity: Entity,
        params: &[(String, String)],
        now: DateTime<Utc>,
        chance: &Chance,
    ) -> Result<String, &'static str> {
        let field = format!("fields[{STATUS}]");
        let (mut id, mut status) = (0, None);
        for (key, value) in params {
            match key.as_str() {
                "id" => id = value.parse().unwrap_or(0),
                key if key == field => status = Some(value.clone()),
                key if key.starts_with("params[") => {}
                other => self.offences.push(format!("an update carries {other}")),
            }
        }
        let key = (entity, id);
        let Some(content) = self.newest(key).map(|version| version.content) else { return Err("NOT_FOUND") };
        let Some(text) = status else { return Err("ERROR_CORE") };
        let late = if chance.one_in(12) { chance.below(20_000) as i64 } else { 0 };
        let versions = self.records[&key].len();
        self.writes.push(StatusWrite { at: now, key, text: text.clone(), versions });
        self.add(key, content, text, now, late, false);
        Ok("true".to_owned())
    }
}

#[derive(Default)]
struct Filter {
    from: Option<i64>,
    until: Option<i64>,
    created_from: Option<i64>,
    after: u64,
    up_to: Option<u64>,
    ids: Option<BTreeSet<u64>>,
    is_won_only: bool,
}

impl Filter {
    fn holds(&self, id: u64, created: i64, version: &Version) -> bool {
        self.from.is_none_or(|from| version.modified >= from)
            && self.until.is_none_or(|until| version.modified < until)
            && self.created_from.is_none_or(|from| created >= from)
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&id))
            && (!self.is_won_only || version.content.is_won())
    }
}

fn second_of(text: &str) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
