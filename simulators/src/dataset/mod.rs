//! Invented records of a chess school, the same for the same seed.
//!
//! [`demo`] is lifelike, with the mistakes managers make; [`plain`] is all valid, for measuring.

mod mistakes;
mod names;
mod rows;
mod samples;

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, FixedOffset, NaiveDate, TimeZone};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use self::mistakes::Sale;
use self::rows::{Moment, Row, set};

/// What a portal holds, in the classic upper-case form.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Contacts in the order of their ids.
    pub contacts: Vec<Map<String, Value>>,
    /// Deals in the order of their ids.
    pub deals: Vec<Map<String, Value>>,
    /// Product rows by the id of their deal; every deal has an entry.
    pub product_rows: BTreeMap<u64, Vec<Map<String, Value>>>,
    /// Employees in the order of their ids.
    pub users: Vec<Map<String, Value>>,
}

/// A mistake that [`demo_with_mistakes`] made on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Planted {
    /// `contact` or `deal`.
    pub entity: &'static str,
    pub id: u64,
    /// Says what was done to the record.
    pub mistake: &'static str,
}

/// The products that are sold, with the price of each in roubles.
pub const TICKET_TYPES: &[(&str, i64)] = &[
    ("6 КМС индивидуальные 45 мин", 9000),
    ("4 занятия, групповые 60 мин", 4800),
    ("8 занятий, групповые 60 мин", 8900),
    ("8 занятий, онлайн группа", 5600),
    ("4 занятия, онлайн индивидуальные", 7200),
    ("12 занятий, индивидуальные 60 мин", 27_000),
    ("Пробное занятие", 500),
    ("Абонемент «Чемпион» (16 занятий)", 15_990),
];

const MOSCOW_OFFSET_SECONDS: i32 = 3 * 3600;
/// Records created before this day are outside the example settings.
const START: Option<NaiveDate> = NaiveDate::from_ymd_opt(2020, 12, 22);

/// Invents a portal with `contacts` contacts and `deals` deals, some of them faulty.
pub fn demo(seed: u64, contacts: usize, deals: usize, now: DateTime<FixedOffset>) -> Dataset {
    demo_with_mistakes(seed, contacts, deals, now).0
}

/// Invents the same portal as [`demo`] and tells which records were spoiled and how.
pub fn demo_with_mistakes(
    seed: u64,
    contacts: usize,
    deals: usize,
    now: DateTime<FixedOffset>,
) -> (Dataset, Vec<Planted>) {
    let mut demo = Demo { rng: ChaCha8Rng::seed_from_u64(seed), now, planted: Vec::new() };
    let users = demo.users();
    let mut contact_rows: Vec<Row> = samples::contacts(now).into_iter().take(contacts).collect();
    let invented = demo.contacts(contacts - contact_rows.len());
    let mut sales: Vec<Sale> =
        samples::deals(now).into_iter().take(deals).map(|(deal, rows)| Sale { deal, rows }).collect();
    sales.extend(demo.sales(deals - sales.len(), &invented));
    contact_rows.extend(invented.into_iter().map(|contact| contact.row));
    demo.planted.sort();
    (assemble(contact_rows, sales, users), demo.planted)
}

/// Invents a portal without a single mistake: contacts from id 1000, deals from id 100000, 40 users.
pub fn plain(contacts: usize, deals: usize, now: DateTime<FixedOffset>) -> Dataset {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let users = (101..141).map(|id| {
        let (first_name, last_name) = names::adult(&mut rng);
        rows::user(id, first_name, last_name)
    });
    let users: Vec<Row> = users.collect();
    let contact_rows = (0..contacts).map(|n| plain_contact(&mut rng, n, contacts, now)).collect();
    let sales = (0..deals).map(|n| plain_sale(&mut rng, n, contacts, deals, now)).collect();
    assemble(contact_rows, sales, users)
}

fn plain_contact(rng: &mut ChaCha8Rng, n: usize, of: usize, now: Moment) -> Row {
    let created = spread(now - Duration::days(30), now - Duration::days(16), n, of);
    let mut row = rows::contact(1000 + n as u64, created, created, 101 + n as u64 % 40);
    set_people(&mut row, &names::family(rng));
    rows::set_phones(&mut row, 200_000 + n as u64, &[format!("+7926{:07}", 2_000_000 + n % 7_999_999)]);
    set(&mut row, rows::PRODUCTS, json!([[410], [404]][n % 2]));
    set(&mut row, rows::BRANCHES, json!([[48], [12_708]][n / 2 % 2]));
    row
}

fn plain_sale(rng: &mut ChaCha8Rng, n: usize, contacts: usize, of: usize, now: Moment) -> Sale {
    let id = 100_000 + n as u64;
    let created = spread(now - Duration::days(15), now - Duration::hours(1), n, of);
    let mut deal = rows::deal(id, created, created, 101 + n as u64 % 40);
    rows::set_stage(&mut deal, "WON");
    let contact = if contacts == 0 { Value::Null } else { json!((1000 + n % contacts).to_string()) };
    set(&mut deal, "CONTACT_ID", contact);
    set(&mut deal, rows::BRANCHES, json!([[186], [12_706]][n % 2]));
    set(&mut deal, rows::SALE_DATE, rows::date(created.date_naive(), *now.offset()));
    set(&mut deal, rows::PAYMENT, if n.is_multiple_of(3) { "450" } else { "452" });
    let (name, roubles) = names::pick(rng, TICKET_TYPES);
    let price = rows::Price { initial: roubles * 100, discount: roubles * 3, tax_percent: 0 };
    set(&mut deal, "OPPORTUNITY", rows::decimal(price.initial - price.discount));
    Sale { deal, rows: vec![rows::product_row(300_000 + n as u64, id, 60_130, name, &price, 1)] }
}

/// Places the n-th of `of` moments evenly between two others.
fn spread(from: Moment, to: Moment, n: usize, of: usize) -> Moment {
    let seconds = (to - from).num_seconds().max(0);
    from + Duration::seconds(seconds * n as i64 / of.max(1) as i64)
}

fn assemble(mut contacts: Vec<Row>, mut sales: Vec<Sale>, mut users: Vec<Row>) -> Dataset {
    contacts.sort_by_key(id_of);
    sales.sort_by_key(|sale| id_of(&sale.deal));
    users.sort_by_key(id_of);
    let mut dataset = Dataset { contacts, deals: Vec::new(), product_rows: BTreeMap::new(), users };
    for sale in sales {
        dataset.product_rows.insert(id_of(&sale.deal), sale.rows);
        dataset.deals.push(sale.deal);
    }
    dataset
}

fn id_of(row: &Row) -> u64 {
    row.get("ID").and_then(Value::as_str).and_then(|id| id.parse().ok()).unwrap_or_default()
}

fn set_people(row: &mut Row, family: &names::Family) {
    set(row, rows::PUPIL_LAST_NAME, family.pupil_last_name);
    set(row, rows::PUPIL_FIRST_NAME, family.pupil_first_name);
    set(row, "LAST_NAME", family.parent_last_name);
    set(row, "NAME", family.parent_first_name);
}

/// A contact with the moment it was created, for the deals that follow it.
struct Client {
    id: u64,
    created: Moment,
    row: Row,
    /// Was entered without a mistake and learns where otmechalka is kept.
    is_well_entered: bool,
}

/// One run of the lifelike generator.
struct Demo {
    rng: ChaCha8Rng,
    now: Moment,
    planted: Vec<Planted>,
}

impl Demo {
    fn users(&mut self) -> Vec<Row> {
        let mut users = samples::users();
        users.push(rows::user(1, "Интеграция", "Отмечалка"));
        users.push(rows::user(7, "Мария", "Канцлер"));
        users.push(rows::user(mistakes::NAMELESS_USER, "", " "));
        for id in SELLERS {
            let (first_name, last_name) = names::adult(&mut self.rng);
            users.push(rows::user(id, first_name, last_name));
        }
        let mut dismissed = rows::user(DISMISSED_SELLER, "Эдуард", "Рокировкин");
        set(&mut dismissed, "ACTIVE", false);
        users.push(dismissed);
        users.push(rows::user(SPACED_SELLER, " Лилия ", " Пешкина"));
        users
    }

    fn contacts(&mut self, count: usize) -> Vec<Client> {
        let moments = self.moments(count);
        let ids = self.ids(&moments, 21_000, 52_000, &[]);
        let mut clients = Vec::with_capacity(count);
        let mut spoiled = 0;
        for (id, created) in ids.into_iter().zip(moments) {
            let modified = self.modified(created);
            let (mut row, is_kept) = self.contact(id, created, modified);
            let is_spoiled = self.rng.random_bool(0.15);
            if is_spoiled {
                let mistake = &mistakes::CONTACT[spoiled % mistakes::CONTACT.len()];
                (mistake.plant)(&mut row, &mut self.rng);
                self.planted.push(Planted { entity: "contact", id, mistake: mistake.name });
                spoiled += 1;
            }
            clients.push(Client { id, created, row, is_well_entered: is_kept && !is_spoiled });
        }
        clients
    }

    /// Invents a contact, and tells whether otmechalka is kept where that pupil learns.
    fn contact(&mut self, id: u64, created: Moment, modified: Moment) -> (Row, bool) {
        let manager = self.seller();
        let mut row = rows::contact(id, created, modified, manager);
        set_people(&mut row, &names::family(&mut self.rng));
        let phones = self.rng.random_range(1..=2);
        let phones: Vec<String> = (0..phones).map(|_| names::phone(&mut self.rng)).collect();
        rows::set_phones(&mut row, id * 10, &phones);
        if self.rng.random_bool(0.6) {
            let mail = names::mail(&mut self.rng);
            rows::set_mails(&mut row, id * 10 + 5, &[mail]);
        }
        let (products, branches, is_kept) = self.lessons();
        set(&mut row, rows::PRODUCTS, rows::choice(products));
        set(&mut row, rows::BRANCHES, rows::choice(branches));
        if self.rng.random_bool(0.8) {
            let birth = self.birthdate();
            set(&mut row, rows::PUPIL_BIRTHDATE, rows::date(birth, *self.now.offset()));
        }
        self.burden(&mut row);
        (row, is_kept)
    }

    /// Chooses products and branches: online, offline, both, and what is out of scope, for which it says no.
    fn lessons(&mut self) -> (&'static [u64], &'static [u64], bool) {
        match self.rng.random_range(0..100) {
            0..25 => (&[410], &[], true),
            25..37 => (&[410], &[348], true),
            37..52 => (&[404], &[48], true),
            52..62 => (&[404], &[12_708], true),
            62..68 => (&[404], &[48, 12_708], true),
            68..76 => (&[404, 410], &[48], true),
            76..82 => (&[404, 410], &[12_708, 348], true),
            82..87 => (&[404, 406], &[348, 48], true),
            87..93 => (&[406], &[48], false),
            _ => (&[404], &[348], false),
        }
    }

    fn sales(&mut self, count: usize, clients: &[Client]) -> Vec<Sale> {
        let mut chosen: Vec<(Moment, Option<u64>)> = (0..count).map(|_| self.occasion(clients)).collect();
        chosen.sort();
        let moments: Vec<Moment> = chosen.iter().map(|(created, _)| *created).collect();
        let taken: Vec<u64> = samples::deals(self.now).iter().map(|(deal, _)| id_of(deal)).collect();
        let ids = self.ids(&moments, 52_000, 120_000, &taken);
        let mut spoiled = 0;
        let mut sales = Vec::with_capacity(count);
        for (id, (created, contact)) in ids.into_iter().zip(chosen) {
            let mut sale = self.sale(id, created, contact);
            if self.rng.random_bool(0.15) {
                let mistake = &mistakes::DEAL[spoiled % mistakes::DEAL.len()];
                (mistake.plant)(&mut sale, &mut self.rng);
                self.planted.push(Planted { entity: "deal", id, mistake: mistake.name });
                spoiled += 1;
            }
            sales.push(sale);
        }
        sales
    }

    /// Chooses who buys and when; one in twenty deals is entered before its contact.
    fn occasion(&mut self, clients: &[Client]) -> (Moment, Option<u64>) {
        if clients.is_empty() {
            return (self.recent(), None);
        }
        let client = self.buyer(clients);
        let old = START.is_some_and(|start| client.created.date_naive() < start);
        let earliest = match (old, self.rng.random_bool(0.05)) {
            // Most of those who came years ago bought years ago.
            (true, _) if self.rng.random_bool(0.7) => {
                return (self.between(client.created, client.created + Duration::days(60)), Some(client.id));
            }
            (true, _) => self.now - Duration::days(60),
            (false, true) => client.created - Duration::days(3),
            (false, false) => client.created,
        };
        (self.between(earliest, self.now), Some(client.id))
    }

    /// Chooses who buys. A pupil whose contact has a mistake seldom does: otherwise each such mistake would spoil all of
    /// that pupil's deals too, and half of them would be wrong.
    fn buyer<'c>(&mut self, clients: &'c [Client]) -> &'c Client {
        let client = &clients[self.rng.random_range(0..clients.len())];
        if client.is_well_entered || self.rng.random_bool(0.15) {
            return client;
        }
        let well_entered: Vec<&Client> = clients.iter().filter(|client| client.is_well_entered).collect();
        if well_entered.is_empty() {
            client
        } else {
            well_entered[self.rng.random_range(0..well_entered.len())]
        }
    }

    fn sale(&mut self, id: u64, created: Moment, contact: Option<u64>) -> Sale {
        let modified = self.modified(created);
        let seller = self.seller();
        let mut deal = rows::deal(id, created, modified, seller);
        let stage = self.stage();
        rows::set_stage(&mut deal, stage);
        set(&mut deal, "CONTACT_ID", contact.map_or(Value::Null, |contact| json!(contact.to_string())));
        let branches: &[u64] = match self.rng.random_range(0..100) {
            0..50 => &[186],
            50..85 => &[12_706],
            85..92 => &[580, 186],
            _ => &[580],
        };
        set(&mut deal, rows::BRANCHES, json!(branches));
        set(&mut deal, rows::SALE_DATE, rows::date(created.date_naive(), *self.now.offset()));
        let payment = names::pick(&mut self.rng, &["450", "450", "452", "454", "1528"]);
        set(&mut deal, rows::PAYMENT, payment);
        let row = self.product_row(id);
        let price = row.get("PRICE_ACCOUNT").cloned().unwrap_or_default();
        set(&mut deal, "OPPORTUNITY", price);
        self.burden(&mut deal);
        Sale { deal, rows: vec![row] }
    }

    fn stage(&mut self) -> &'static str {
        match self.rng.random_range(0..100) {
            0..60 => "WON",
            60..70 => "NEW",
            70..78 => "PREPARATION",
            78..83 => "EXECUTING",
            83..89 => "C10:WON",
            89..92 => "C10:NEW",
            92..97 => "LOSE",
            _ => "APOLOGY",
        }
    }

    fn product_row(&mut self, deal: u64) -> Row {
        let (name, roubles) = names::pick(&mut self.rng, TICKET_TYPES);
        let name = match self.rng.random_range(0..10) {
            0 => format!(" {name}"),
            1 => format!("{name} "),
            _ => name.to_owned(),
        };
        let initial = roubles * 100;
        let discount = match self.rng.random_range(0..10) {
            0..4 => 0,
            4..7 => initial / 10,
            7 => initial / 300 * 10,
            // A discount that leaves kopecks.
            8 => 29_770.min(initial),
            _ => initial,
        };
        let tax_percent = if self.rng.random_bool(0.08) { 20 } else { 0 };
        let price = rows::Price { initial, discount, tax_percent };
        rows::product_row(deal * 2, deal, 60_130 + roubles as u64 % 97, &name, &price, 1)
    }

    fn seller(&mut self) -> u64 {
        match self.rng.random_range(0..40) {
            0 => DISMISSED_SELLER,
            1 => SPACED_SELLER,
            2..6 => 12_288,
            6..8 => 10_390,
            _ => names::pick(&mut self.rng, &SELLERS),
        }
    }

    /// Adds fields that concern nobody here to one record in five.
    fn burden(&mut self, row: &mut Row) {
        if !self.rng.random_bool(0.2) {
            return;
        }
        let lines = self.rng.random_range(20..120);
        set(row, "COMMENTS", "Звонили, просили перезвонить после занятия; ждём ответа.<br>".repeat(lines));
        set(row, "ADDITIONAL_INFO", samples::shop_order("Покупатель "));
        set(row, "UF_CRM_5D6E94271FE06", "https://school.example/?utm_source=spring&utm_medium=cpc");
        set(row, "UF_CRM_57C03178A172B", json!([1528]));
    }

    /// Chooses when records were created: nearly all lately, a few before the start date.
    fn moments(&mut self, count: usize) -> Vec<Moment> {
        let mut moments: Vec<Moment> = (0..count)
            .map(|_| if self.rng.random_bool(0.08) { self.long_ago() } else { self.recent() })
            .collect();
        moments.sort();
        moments
    }

    fn recent(&mut self) -> Moment {
        self.between(self.now - Duration::days(60), self.now)
    }

    fn long_ago(&mut self) -> Moment {
        let moscow = FixedOffset::east_opt(MOSCOW_OFFSET_SECONDS).unwrap_or(*self.now.offset());
        let from = moscow.with_ymd_and_hms(2017, 9, 1, 9, 0, 0).single().unwrap_or(self.now);
        let to = moscow.with_ymd_and_hms(2020, 10, 1, 21, 0, 0).single().unwrap_or(self.now);
        self.between(from, to).with_timezone(self.now.offset())
    }

    fn between(&mut self, from: Moment, to: Moment) -> Moment {
        let to = to.min(self.now);
        let seconds = (to - from).num_seconds().max(0);
        (from + Duration::seconds(self.rng.random_range(0..=seconds))).min(self.now)
    }

    /// Chooses a later moment: half the records are edited within the hour, the rest within days.
    fn modified(&mut self, created: Moment) -> Moment {
        let seconds = if self.rng.random_bool(0.5) { 3600 } else { 5 * 86_400 };
        self.between(created, created + Duration::seconds(seconds))
    }

    /// Numbers records by age, leaving gaps and room below for those from before the start date.
    fn ids(&mut self, moments: &[Moment], old: u64, recent: u64, taken: &[u64]) -> Vec<u64> {
        let mut next = old;
        let mut ids = Vec::with_capacity(moments.len());
        for moment in moments {
            if START.is_some_and(|start| moment.date_naive() >= start) {
                next = next.max(recent);
            }
            next += self.rng.random_range(1..=3);
            while self.is_reserved(next) || taken.contains(&next) {
                next += 1;
            }
            ids.push(next);
        }
        ids
    }

    fn is_reserved(&self, id: u64) -> bool {
        const SAMPLE_CONTACTS: [u64; 3] = [39_558, 39_910, 39_912];
        SAMPLE_CONTACTS.iter().any(|sample| id == *sample || id == *sample + samples::COMPLETED)
    }

    fn birthdate(&mut self) -> NaiveDate {
        let days = self.rng.random_range(5 * 365..16 * 365);
        self.now.date_naive() - Duration::days(days)
    }
}

const SELLERS: [u64; 16] =
    [934, 940, 951, 960, 1002, 1015, 3490, 3502, 3511, 9001, 9004, 10_400, 10_412, 12_300, 12_301, 12_377];
const DISMISSED_SELLER: u64 = 11_000;
const SPACED_SELLER: u64 = 11_500;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn now() -> Moment {
        DateTime::parse_from_rfc3339("2026-03-02T18:30:00+03:00").expect("a moment")
    }

    fn made(row: &Row, key: &str) -> Moment {
        DateTime::parse_from_rfc3339(row[key].as_str().expect("a string")).expect("a moment")
    }

    fn share(rows: &[Row], holds: impl Fn(&Row) -> bool) -> f64 {
        rows.iter().filter(|row| holds(row)).count() as f64 / rows.len() as f64
    }

    #[test]
    fn same_seed_gives_the_same_records() {
        assert_eq!(demo(7, 120, 180, now()), demo(7, 120, 180, now()));
        assert_ne!(demo(7, 120, 180, now()), demo(8, 120, 180, now()));
        assert_eq!(plain(50, 60, now()), plain(50, 60, now()));
    }

    #[test]
    fn demo_has_as_many_records_as_asked_and_unique_ids() {
        for (contacts, deals) in [(0, 0), (1, 1), (3, 50), (400, 600), (3000, 10)] {
            let dataset = demo(1, contacts, deals, now());
            assert_eq!((dataset.contacts.len(), dataset.deals.len()), (contacts, deals));
            let ids: BTreeSet<u64> = dataset.contacts.iter().map(id_of).collect();
            assert_eq!(ids.len(), contacts);
            let ids: BTreeSet<u64> = dataset.deals.iter().map(id_of).collect();
            assert_eq!(ids.len(), deals);
            assert_eq!(dataset.product_rows.len(), deals);
        }
    }

    #[test]
    fn demo_keeps_its_proportions() {
        let (dataset, planted) = demo_with_mistakes(1, 400, 600, now());
        let won = share(&dataset.deals, |deal| deal["STAGE_ID"] == "WON");
        assert!((0.55..0.66).contains(&won), "won: {won}");
        let start = START.expect("a date");
        let old = share(&dataset.contacts, |row| made(row, "DATE_CREATE").date_naive() < start);
        assert!((0.03..0.15).contains(&old), "old contacts: {old}");
        let recent = share(&dataset.deals, |row| made(row, "DATE_CREATE") >= now() - Duration::days(63));
        assert!(recent > 0.8, "recent deals: {recent}");
        let burdened =
            share(&dataset.deals, |row| row["COMMENTS"].as_str().is_some_and(|text| text.len() > 1000));
        assert!((0.14..0.26).contains(&burdened), "burdened: {burdened}");
        let contacts = planted.iter().filter(|one| one.entity == "contact").count() as f64 / 400.0;
        let deals = planted.iter().filter(|one| one.entity == "deal").count() as f64 / 600.0;
        assert!((0.10..0.20).contains(&contacts), "faulty contacts: {contacts}");
        assert!((0.10..0.20).contains(&deals), "faulty deals: {deals}");
    }

    #[test]
    fn every_mistake_is_present_for_any_seed() {
        for seed in 0..20 {
            let (_, planted) = demo_with_mistakes(seed, 400, 600, now());
            let kinds: BTreeSet<_> = planted.iter().map(|one| (one.entity, one.mistake)).collect();
            assert_eq!(kinds.len(), mistakes::CONTACT.len() + mistakes::DEAL.len(), "seed {seed}");
        }
    }

    #[test]
    fn planted_mistakes_are_in_the_records() {
        let (dataset, planted) = demo_with_mistakes(1, 400, 600, now());
        let contact = |name: &str| {
            let id = planted
                .iter()
                .find(|one| one.entity == "contact" && one.mistake == name)
                .expect("planted")
                .id;
            dataset.contacts.iter().find(|row| id_of(row) == id).expect("a contact")
        };
        assert!(!contact("no phone").contains_key("PHONE"));
        assert_eq!(contact("no phone")["HAS_PHONE"], "N");
        assert_eq!(contact("no product")[rows::PRODUCTS], false);
        assert!(contact("pupil in one field")[rows::PUPIL_LAST_NAME].as_str().expect("text").contains(' '));
        let rows_of = |name: &str| {
            let id =
                planted.iter().find(|one| one.entity == "deal" && one.mistake == name).expect("planted").id;
            &dataset.product_rows[&id]
        };
        assert_eq!(rows_of("two rows").len(), 2);
        assert_eq!(rows_of("no rows").len(), 0);
        assert_eq!(rows_of("contradicting discount")[0]["DISCOUNT_SUM"], 900);
    }

    #[test]
    fn times_are_in_order_and_not_in_the_future() {
        let dataset = demo(3, 400, 600, now());
        for row in dataset.contacts.iter().chain(&dataset.deals) {
            assert!(made(row, "DATE_CREATE") <= made(row, "DATE_MODIFY"), "record {}", row["ID"]);
            assert!(made(row, "DATE_MODIFY") <= now(), "record {}", row["ID"]);
            assert_eq!(row[rows::STATUS], Value::Null);
        }
    }

    #[test]
    fn samples_of_the_specification_stand_as_given_and_completed() {
        let dataset = demo(1, 400, 600, now());
        let contact = |id| dataset.contacts.iter().find(|row| id_of(row) == id).expect("a sample");
        assert_eq!(contact(39_910)["DATE_CREATE"], "2020-12-20T11:06:11+03:00");
        assert_eq!(contact(39_910)[rows::PUPIL_LAST_NAME], "");
        assert_eq!(contact(139_910)[rows::PUPIL_LAST_NAME], "Зарудный");
        assert_eq!(contact(39_558)[rows::PUPIL_BIRTHDATE], "2009-11-29T03:00:00+03:00");
        let deal = |id| dataset.deals.iter().find(|row| id_of(row) == id).expect("a sample");
        assert_eq!(deal(96_038)["CONTACT_ID"], "39910");
        assert_eq!(deal(196_038)["CONTACT_ID"], "139910");
        let row = &dataset.product_rows[&94_912][0];
        assert_eq!(row["ID"], "124740");
        for (key, value) in
            [("PRICE", 8700), ("PRICE_BRUTTO", 9000), ("PRICE_NETTO", 9000), ("DISCOUNT_SUM", 300)]
        {
            assert_eq!(row[key], value, "{key}");
        }
        assert_eq!(row["DISCOUNT_RATE"], 3.33);
    }

    #[test]
    fn taxed_rows_follow_the_portals_arithmetic() {
        let price = rows::Price { initial: 10_000_000, discount: 1_000_000, tax_percent: 10 };
        let row = rows::product_row(1, 2, 3, "Товар", &price, 1);
        assert_eq!(row["PRICE"], 90_000);
        assert_eq!(row["PRICE_EXCLUSIVE"], 81_818.18);
        assert_eq!(row["PRICE_NETTO"], 90_909.09);
        assert_eq!(row["DISCOUNT_SUM"], 9090.91);
    }

    #[test]
    fn plain_records_are_all_valid_and_recent() {
        let dataset = plain(100, 250, now());
        assert_eq!(dataset.users.len(), 40);
        assert_eq!((id_of(&dataset.contacts[0]), id_of(&dataset.deals[0])), (1000, 100_000));
        let sellers: BTreeSet<u64> = dataset.users.iter().map(id_of).collect();
        for deal in &dataset.deals {
            assert_eq!(deal["STAGE_ID"], "WON");
            assert!(made(deal, "DATE_CREATE") > now() - Duration::days(30));
            assert_eq!(dataset.product_rows[&id_of(deal)].len(), 1);
            assert!(
                sellers.contains(&deal["ASSIGNED_BY_ID"].as_str().expect("an id").parse().expect("a number"))
            );
        }
        assert!(dataset.contacts.iter().all(|row| made(row, "DATE_CREATE") > now() - Duration::days(31)));
    }
}
