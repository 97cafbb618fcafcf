//! What managers get wrong, one function per kind.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::names;
use super::rows::{self, Row, set};

/// Spoils one valid record.
pub struct Mistake<Target> {
    /// Names the kind in lists of what was planted.
    pub name: &'static str,
    pub plant: fn(&mut Target, &mut ChaCha8Rng),
}

/// A deal together with its product rows.
pub struct Sale {
    pub deal: Row,
    pub rows: Vec<Row>,
}

/// An employee who does not exist.
pub const UNKNOWN_USER: u64 = 99_999;
/// An employee without first name and surname.
pub const NAMELESS_USER: u64 = 15_000;
/// A contact that does not exist.
pub const UNKNOWN_CONTACT: u64 = 9_000_000;
/// A product otmechalka has no ticket type for.
pub const UNKNOWN_TICKET_TYPE: &str = "Шахматный лагерь, летняя смена";

/// Every kind of mistake a contact is given.
pub const CONTACT: &[Mistake<Row>] = &[
    Mistake { name: "no phone", plant: |contact, _| rows::set_phones(contact, 1, &[]) },
    Mistake { name: "words for a phone", plant: |contact, rng| words_for_phone(contact, rng) },
    Mistake { name: "short phone", plant: |contact, rng| short_phone(contact, rng) },
    Mistake { name: "pupil in one field", plant: |contact, _| pupil_in_one_field(contact) },
    Mistake { name: "parent in one field", plant: |contact, _| parent_in_one_field(contact) },
    Mistake {
        name: "blank pupil name",
        plant: |contact, _| set(contact, rows::PUPIL_FIRST_NAME, " \u{a0} "),
    },
    Mistake {
        name: "no pupil surname",
        plant: |contact, _| set(contact, rows::PUPIL_LAST_NAME, Value::Null),
    },
    Mistake { name: "no parent", plant: |contact, _| no_parent(contact) },
    Mistake { name: "no product", plant: |contact, _| set(contact, rows::PRODUCTS, false) },
    Mistake { name: "no branch", plant: |contact, _| no_branch(contact) },
    Mistake { name: "malformed mail", plant: |contact, _| malformed_mail(contact) },
];

/// Every kind of mistake a deal is given.
pub const DEAL: &[Mistake<Sale>] = &[
    Mistake { name: "no branch", plant: |sale, _| set(&mut sale.deal, rows::BRANCHES, false) },
    Mistake {
        name: "two branches",
        plant: |sale, _| set(&mut sale.deal, rows::BRANCHES, json!([186, 12_706])),
    },
    Mistake { name: "two rows", plant: |sale, rng| two_rows(sale, rng) },
    Mistake { name: "no rows", plant: |sale, _| sale.rows.clear() },
    Mistake { name: "no contact", plant: |sale, _| set(&mut sale.deal, "CONTACT_ID", Value::Null) },
    Mistake { name: "zero contact", plant: |sale, _| set(&mut sale.deal, "CONTACT_ID", "0") },
    Mistake {
        name: "unknown contact",
        plant: |sale, _| set(&mut sale.deal, "CONTACT_ID", UNKNOWN_CONTACT.to_string()),
    },
    Mistake { name: "no sale date", plant: |sale, _| set(&mut sale.deal, rows::SALE_DATE, "") },
    Mistake {
        name: "blank payment method",
        plant: |sale, _| set(&mut sale.deal, rows::PAYMENT, Value::Null),
    },
    Mistake { name: "unknown seller", plant: |sale, _| set_seller(sale, UNKNOWN_USER) },
    Mistake { name: "nameless seller", plant: |sale, _| set_seller(sale, NAMELESS_USER) },
    Mistake { name: "contradicting discount", plant: |sale, _| contradicting_discount(sale) },
    Mistake { name: "negative discount", plant: |sale, _| negative_discount(sale) },
    Mistake { name: "quantity two", plant: |sale, _| set_in_rows(sale, "QUANTITY", json!(2)) },
    Mistake { name: "foreign currency", plant: |sale, _| set(&mut sale.deal, "CURRENCY_ID", "EUR") },
    Mistake { name: "unknown ticket type", plant: |sale, _| set_product(sale, UNKNOWN_TICKET_TYPE) },
    Mistake { name: "blank product name", plant: |sale, _| set_product(sale, "  ") },
];

fn words_for_phone(contact: &mut Row, rng: &mut ChaCha8Rng) {
    let text = names::pick(rng, &["уточнить", "нет телефона", "см. комментарий", "-"]);
    rows::set_phones(contact, 1, &[text.to_owned()]);
}

fn short_phone(contact: &mut Row, rng: &mut ChaCha8Rng) {
    rows::set_phones(contact, 1, &[rng.random_range(2_000_000..9_999_999_u32).to_string()]);
}

fn text<'a>(row: &'a Row, key: &str) -> &'a str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn pupil_in_one_field(contact: &mut Row) {
    let both = format!("{} {}", text(contact, rows::PUPIL_LAST_NAME), text(contact, rows::PUPIL_FIRST_NAME));
    set(contact, rows::PUPIL_LAST_NAME, both);
    set(contact, rows::PUPIL_FIRST_NAME, "");
}

fn parent_in_one_field(contact: &mut Row) {
    let both = format!("{} {}", text(contact, "NAME"), text(contact, "LAST_NAME"));
    set(contact, "NAME", both);
    set(contact, "LAST_NAME", "");
}

fn no_parent(contact: &mut Row) {
    set(contact, "NAME", "Без имени");
    set(contact, "LAST_NAME", Value::Null);
}

fn no_branch(contact: &mut Row) {
    set(contact, rows::PRODUCTS, json!([404]));
    set(contact, rows::BRANCHES, false);
}

fn malformed_mail(contact: &mut Row) {
    rows::set_mails(contact, 1, &["roditel(at)example".to_owned()]);
}

fn two_rows(sale: &mut Sale, rng: &mut ChaCha8Rng) {
    if let Some(mut second) = sale.rows.first().cloned() {
        set(&mut second, "ID", rng.random_range(8_000_000..9_000_000_u64).to_string());
        set(&mut second, "SORT", 20);
        sale.rows.push(second);
    }
}

fn set_seller(sale: &mut Sale, id: u64) {
    set(&mut sale.deal, "ASSIGNED_BY_ID", id.to_string());
}

fn set_in_rows(sale: &mut Sale, key: &str, value: Value) {
    for row in &mut sale.rows {
        set(row, key, value.clone());
    }
}

fn set_product(sale: &mut Sale, name: &str) {
    set_in_rows(sale, "PRODUCT_NAME", json!(name));
}

fn contradicting_discount(sale: &mut Sale) {
    set_in_rows(sale, "TAX_RATE", json!(0));
    set_in_rows(sale, "PRICE_BRUTTO", json!(9000));
    set_in_rows(sale, "PRICE_NETTO", json!(9000));
    set_in_rows(sale, "PRICE", json!(8700));
    set_in_rows(sale, "PRICE_EXCLUSIVE", json!(8700));
    set_in_rows(sale, "DISCOUNT_SUM", json!(900));
}

fn negative_discount(sale: &mut Sale) {
    set_in_rows(sale, "PRICE_BRUTTO", json!(8000));
    set_in_rows(sale, "PRICE_NETTO", json!(8000));
    set_in_rows(sale, "PRICE", json!(8500));
    set_in_rows(sale, "PRICE_EXCLUSIVE", json!(8500));
    set_in_rows(sale, "DISCOUNT_SUM", json!(-500));
}
