//! The sample records of the customer's specification.
//!
//! Each stands twice: as it is given there, under its own id, and completed into a record without
//! mistakes under that id plus 100,000 (the mapping table's pupil 39558 is complete as it is).

use chrono::{DateTime, Duration, FixedOffset, NaiveDate};
use serde_json::{Value, json};

use super::rows::{self, Moment, Row, set};

/// What is added to a sample's id to get the id of its completed form.
pub const COMPLETED: u64 = 100_000;

fn at(text: &str, now: Moment) -> Moment {
    DateTime::parse_from_rfc3339(text).map_or(now, |moment| moment.min(now))
}

fn merge(target: &mut Row, fields: Value) {
    target.extend(rows::row(fields));
}

fn day(year: i32, month: u32, day: u32, offset: FixedOffset) -> Value {
    NaiveDate::from_ymd_opt(year, month, day).map_or(Value::Null, |date| rows::date(date, offset))
}

/// Returns the sample contacts: as given, then completed.
pub fn contacts(now: Moment) -> Vec<Row> {
    let recent = now - Duration::days(20);
    let offset = *now.offset();
    let mut zarudnaya = rows::contact(
        39_910,
        at("2020-12-20T11:06:11+03:00", now),
        at("2020-12-21T10:19:34+03:00", now),
        10_390,
    );
    merge(
        &mut zarudnaya,
        json!({
            "COMMENTS": "комментарий", "NAME": "Елена", "LAST_NAME": "Зарудная", "LEAD_ID": "133892",
            "SOURCE_ID": "55", "BIRTHDATE": "2014-11-26T03:00:00+03:00", rows::BRANCHES: [348],
            "UF_CRM_1470854727": [62],
        }),
    );
    rows::set_phones(&mut zarudnaya, 322_540, &["9265672098".to_owned()]);

    let mut sveklov = rows::contact(
        39_912,
        at("2020-12-20T13:49:53+03:00", now),
        at("2020-12-20T13:49:53+03:00", now),
        10_390,
    );
    merge(
        &mut sveklov,
        json!({
            "COMMENTS": "комментарий", "NAME": "Василий", "LAST_NAME": "Свеклов", "LEAD_ID": "132544",
            "SOURCE_ID": "CALL", rows::BRANCHES: [348], "UF_CRM_1470854727": [62],
        }),
    );
    rows::set_phones(&mut sveklov, 322_540, &["9265672098".to_owned()]);

    let mut petrov = rows::contact(39_558, recent, recent + Duration::hours(3), 10_390);
    merge(
        &mut petrov,
        json!({
            "NAME": "Иван", "LAST_NAME": "Петров", rows::PUPIL_LAST_NAME: "Петров",
            rows::PUPIL_FIRST_NAME: "Василий", rows::PRODUCTS: [404, 410], rows::BRANCHES: [48, 12_708],
            rows::PUPIL_BIRTHDATE: day(2009, 11, 29, offset),
        }),
    );
    rows::set_phones(&mut petrov, 322_500, &["8 (926) 123-45-67".to_owned(), "+7 (926) 1234567".to_owned()]);
    rows::set_mails(&mut petrov, 322_502, &["ivan.petrov@gmail.com".to_owned()]);

    let mut kirill = completed(&zarudnaya, 39_910, recent);
    merge(
        &mut kirill,
        json!({
            rows::PUPIL_LAST_NAME: "Зарудный", rows::PUPIL_FIRST_NAME: "Кирилл", rows::PRODUCTS: [404],
            rows::BRANCHES: [48], rows::PUPIL_BIRTHDATE: day(2014, 11, 26, offset),
        }),
    );
    let mut adult = completed(&sveklov, 39_912, recent);
    merge(
        &mut adult,
        json!({
            rows::PUPIL_LAST_NAME: "Свеклов", rows::PUPIL_FIRST_NAME: "Василий", rows::PRODUCTS: [410],
        }),
    );
    vec![zarudnaya, sveklov, petrov, kirill, adult]
}

/// Returns the sample deals with their product rows: as given, then completed.
pub fn deals(now: Moment) -> Vec<(Row, Vec<Row>)> {
    let recent = now - Duration::days(15);
    let offset = *now.offset();
    let mut ernest =
        rows::deal(96_036, at("2020-12-20T10:01:18+03:00", now), at("2020-12-20T10:01:18+03:00", now), 932);
    rows::set_stage(&mut ernest, "WON");
    merge(
        &mut ernest,
        json!({
            "TITLE": "chessrussian.ru #19148", "OPPORTUNITY": "1500.00", "CONTACT_ID": "37854",
            "MODIFY_BY_ID": "10390", "IS_RETURN_CUSTOMER": "Y", "ADDITIONAL_INFO": shop_order("Эрнест "),
            "ORIGINATOR_ID": "8", "ORIGIN_ID": "19148", "UF_CRM_57C2E7A53C7B5": [580],
            "UF_CRM_57C2E7A54C173": [202],
        }),
    );
    let mut kirill = rows::deal(
        96_038,
        at("2020-12-20T11:07:35+03:00", now),
        at("2020-12-21T10:21:16+03:00", now),
        10_390,
    );
    rows::set_stage(&mut kirill, "WON");
    merge(
        &mut kirill,
        json!({
            "TITLE": "Зарудный Кирилл", "PROBABILITY": "42", "OPPORTUNITY": "2520.00",
            "IS_MANUAL_OPPORTUNITY": "Y", "CONTACT_ID": "39910", "MODIFY_BY_ID": "3486", "COMMENTS": "",
            "SOURCE_ID": "", "SOURCE_DESCRIPTION": "", "UF_CRM_57C2E7A53C7B5": [580],
            "UF_CRM_57C2E7A54C173": [202],
        }),
    );
    let mut individual = rows::deal(
        94_912,
        at("2020-12-13T12:00:00+03:00", now),
        at("2020-12-13T12:20:00+03:00", now),
        12_288,
    );
    rows::set_stage(&mut individual, "WON");
    merge(&mut individual, json!({"OPPORTUNITY": "8700.00", "CONTACT_ID": "39910"}));

    let mut full = Vec::new();
    for (sample, id, client, seller) in [
        (&ernest, 96_036, 39_558, 12_288),
        (&kirill, 96_038, 39_910 + COMPLETED, 10_390),
        (&individual, 94_912, 39_912 + COMPLETED, 12_288),
    ] {
        let mut deal = completed(sample, id, recent);
        set(&mut deal, "CONTACT_ID", client.to_string());
        set(&mut deal, "ASSIGNED_BY_ID", seller.to_string());
        set(&mut deal, "OPPORTUNITY", "8700.00");
        set(&mut deal, rows::BRANCHES, json!([186]));
        set(&mut deal, rows::SALE_DATE, rows::date(recent.date_naive(), offset));
        set(&mut deal, rows::PAYMENT, if id == 96_036 { json!(450) } else { json!(452) });
        full.push((deal, vec![sample_row(124_740 + id, id + COMPLETED)]));
    }
    let mut all =
        vec![(ernest, Vec::new()), (kirill, Vec::new()), (individual, vec![sample_row(124_740, 94_912)])];
    all.extend(full);
    all
}

/// Returns the employees the samples name.
pub fn users() -> Vec<Row> {
    let mut seller = rows::user(12_288, "Василий", "Василенко");
    set(&mut seller, "EMAIL", "employee@inbox.ru");
    vec![
        rows::user(932, "Роман", "Каиссин"),
        rows::user(3_486, "Ирина", "Доскина"),
        rows::user(10_390, "Андрей", "Сергеев"),
        seller,
    ]
}

fn completed(sample: &Row, id: u64, created: Moment) -> Row {
    let mut row = sample.clone();
    set(&mut row, "ID", (id + COMPLETED).to_string());
    set(&mut row, "DATE_CREATE", rows::stamp(created));
    set(&mut row, "DATE_MODIFY", rows::stamp(created + Duration::minutes(15)));
    row
}

fn sample_row(id: u64, deal: u64) -> Row {
    let price = rows::Price { initial: 900_000, discount: 30_000, tax_percent: 0 };
    rows::product_row(id, deal, 60_130, " 6 КМС индивидуальные 45 мин", &price, 1)
}

/// Writes what the school's web shop leaves in a deal: PHP's serialised text.
pub fn shop_order(name: &str) -> String {
    let mut text = String::from("a:5:{");
    for (key, value) in [
        ("CONTACT_FULL_NAME", name),
        ("DELIVERYSERVICE", "Самовывоз"),
        ("PAYMENTSYSTEM", "Сбербанк (Москва)"),
        ("ORDERSTATUS", "[P] Оплачен"),
        ("SITE", "[s1] Русская шахматная школа"),
    ] {
        text.push_str(&format!("s:{}:\"{key}\";s:{}:\"{value}\";", key.len(), value.len()));
    }
    text.push('}');
    text
}
