//! Records in the shape the portal stores them: upper-case keys, ids and amounts as strings.

use chrono::{DateTime, Duration, FixedOffset, NaiveDate};
use serde_json::{Map, Value, json};

pub type Row = Map<String, Value>;
pub type Moment = DateTime<FixedOffset>;

pub const PUPIL_LAST_NAME: &str = "UF_CRM_57AD7FAF7E6C4";
pub const PUPIL_FIRST_NAME: &str = "UF_CRM_1608028374";
pub const PRODUCTS: &str = "UF_CRM_58D15BB9CA8F4";
pub const BRANCHES: &str = "UF_CRM_1470852549";
pub const PUPIL_BIRTHDATE: &str = "UF_CRM_1607943642";
pub const SALE_DATE: &str = "UF_CRM_58D1057919A6F";
pub const PAYMENT: &str = "UF_CRM_1490347942";
pub const STATUS: &str = "UF_CRM_SYNC_STATUS";

/// Writes a moment the way the portal prints it: whole seconds and an offset.
pub fn stamp(moment: Moment) -> Value {
    Value::String(moment.format("%Y-%m-%dT%H:%M:%S%:z").to_string())
}

/// Writes a date field: UTC midnight shown in the portal's offset.
pub fn date(date: NaiveDate, offset: FixedOffset) -> Value {
    let shift = Duration::seconds(offset.local_minus_utc().max(0).into());
    let midnight = date.and_time(chrono::NaiveTime::MIN) + shift;
    Value::String(format!("{}{offset}", midnight.format("%Y-%m-%dT%H:%M:%S")))
}

/// Writes a multiple list field: the chosen ids, or `false` when nothing is chosen.
pub fn choice(ids: &[u64]) -> Value {
    if ids.is_empty() { Value::Bool(false) } else { json!(ids) }
}

/// Sets a key.
pub fn set(row: &mut Row, key: &str, value: impl Into<Value>) {
    row.insert(key.to_owned(), value.into());
}

/// Turns a literal object into a row; anything else becomes an empty one.
pub fn row(value: Value) -> Row {
    match value {
        Value::Object(map) => map,
        _ => Row::new(),
    }
}

/// Builds a contact with every standard field and nobody's data in it yet.
pub fn contact(id: u64, created: Moment, modified: Moment, manager: u64) -> Row {
    row(json!({
        "ID": id.to_string(), "POST": null, "COMMENTS": null, "HONORIFIC": null, "NAME": "", "SECOND_NAME": "",
        "LAST_NAME": "", "PHOTO": null, "LEAD_ID": null, "TYPE_ID": "1", "SOURCE_ID": "CALL",
        "SOURCE_DESCRIPTION": null, "COMPANY_ID": null, "BIRTHDATE": "", "EXPORT": "Y", "HAS_PHONE": "N",
        "HAS_EMAIL": "N", "HAS_IMOL": "N", "DATE_CREATE": stamp(created), "DATE_MODIFY": stamp(modified),
        "ASSIGNED_BY_ID": manager.to_string(), "CREATED_BY_ID": manager.to_string(),
        "MODIFY_BY_ID": manager.to_string(), "OPENED": "Y", "ORIGINATOR_ID": null, "ORIGIN_ID": null,
        "ORIGIN_VERSION": null, "FACE_ID": null,
        PUPIL_LAST_NAME: "", PUPIL_FIRST_NAME: "", PRODUCTS: false, BRANCHES: false, PUPIL_BIRTHDATE: "",
        STATUS: null,
    }))
}

/// Sets the telephone numbers of a contact, in the order of their ids.
pub fn set_phones(contact: &mut Row, first_id: u64, numbers: &[String]) {
    set_multifield(contact, "PHONE", "HAS_PHONE", first_id, "MOBILE", numbers);
}

/// Sets the mail addresses of a contact, in the order of their ids.
pub fn set_mails(contact: &mut Row, first_id: u64, addresses: &[String]) {
    set_multifield(contact, "EMAIL", "HAS_EMAIL", first_id, "HOME", addresses);
}

fn set_multifield(row: &mut Row, key: &str, flag: &str, first_id: u64, value_type: &str, values: &[String]) {
    let list: Vec<Value> = values
        .iter()
        .zip(first_id..)
        .map(|(value, id)| {
            json!({"ID": id.to_string(), "VALUE_TYPE": value_type, "VALUE": value, "TYPE_ID": key})
        })
        .collect();
    set(row, flag, if list.is_empty() { "N" } else { "Y" });
    // The portal leaves the key out when there is nothing to show.
    if list.is_empty() {
        row.remove(key)
    } else {
        row.insert(key.to_owned(), Value::Array(list))
    };
}

/// Builds a deal in the default pipeline's first stage, without contact, sale or rows.
pub fn deal(id: u64, created: Moment, modified: Moment, seller: u64) -> Row {
    let offset = *created.offset();
    row(json!({
        "ID": id.to_string(), "TITLE": format!("Сделка #{id}"), "TYPE_ID": "SALE", "CATEGORY_ID": "0",
        "STAGE_ID": "NEW", "STAGE_SEMANTIC_ID": "P", "IS_NEW": "N", "IS_RECURRING": "N",
        "IS_RETURN_CUSTOMER": "N", "IS_REPEATED_APPROACH": "N", "PROBABILITY": "10", "CURRENCY_ID": "RUB",
        "OPPORTUNITY": "0.00", "IS_MANUAL_OPPORTUNITY": "N", "TAX_VALUE": "0.00", "LEAD_ID": null,
        "COMPANY_ID": "0", "CONTACT_ID": null, "QUOTE_ID": null, "BEGINDATE": date(created.date_naive(), offset),
        "CLOSEDATE": date(modified.date_naive(), offset), "ASSIGNED_BY_ID": seller.to_string(),
        "CREATED_BY_ID": seller.to_string(), "MODIFY_BY_ID": seller.to_string(), "MOVED_BY_ID": seller.to_string(),
        "MOVED_TIME": stamp(modified), "DATE_CREATE": stamp(created), "DATE_MODIFY": stamp(modified),
        "OPENED": "Y", "CLOSED": "N", "COMMENTS": null, "ADDITIONAL_INFO": null, "LOCATION_ID": null,
        "SOURCE_ID": null, "SOURCE_DESCRIPTION": null, "ORIGINATOR_ID": null, "ORIGIN_ID": null,
        BRANCHES: false, SALE_DATE: "", PAYMENT: null, STATUS: null,
    }))
}

/// Moves a deal to a stage and keeps the dependent fields consistent.
pub fn set_stage(deal: &mut Row, stage: &str) {
    let (category, code) = stage
        .strip_prefix('C')
        .and_then(|rest| rest.split_once(':'))
        .map_or(("0", stage), |(category, code)| (category, code));
    let semantics = match code {
        "WON" => "S",
        "LOSE" | "APOLOGY" => "F",
        _ => "P",
    };
    set(deal, "STAGE_ID", stage);
    set(deal, "CATEGORY_ID", category);
    set(deal, "STAGE_SEMANTIC_ID", semantics);
    set(deal, "CLOSED", if semantics == "P" { "N" } else { "Y" });
    set(deal, "PROBABILITY", if semantics == "S" { "100" } else { "10" });
}

/// What a product row costs, in kopecks with tax.
pub struct Price {
    pub initial: i64,
    pub discount: i64,
    pub tax_percent: i64,
}

/// Builds a product row the way the portal computes its six figures.
pub fn product_row(id: u64, deal: u64, product: u64, name: &str, price: &Price, quantity: u64) -> Row {
    let last = price.initial - price.discount;
    let tax_free = |kopecks: i64| (kopecks * 200 + 100 + price.tax_percent) / (2 * (100 + price.tax_percent));
    let discount_sum = tax_free(price.initial) - tax_free(last);
    let rate =
        if price.initial == 0 { 0 } else { (price.discount * 20_000 + price.initial) / (2 * price.initial) };
    row(json!({
        "ID": id.to_string(), "OWNER_ID": deal.to_string(), "OWNER_TYPE": "D", "PRODUCT_ID": product,
        "PRODUCT_NAME": name, "ORIGINAL_PRODUCT_NAME": name, "PRODUCT_DESCRIPTION": null, "PRICE": amount(last),
        "PRICE_EXCLUSIVE": amount(tax_free(last)), "PRICE_NETTO": amount(tax_free(price.initial)),
        "PRICE_BRUTTO": amount(price.initial), "PRICE_ACCOUNT": decimal(last), "QUANTITY": quantity,
        "DISCOUNT_TYPE_ID": 1, "DISCOUNT_RATE": amount(rate), "DISCOUNT_SUM": amount(discount_sum),
        "TAX_RATE": price.tax_percent, "TAX_INCLUDED": if price.tax_percent == 0 { "N" } else { "Y" },
        "CUSTOMIZED": "Y", "MEASURE_CODE": 1, "MEASURE_NAME": "мес", "SORT": 10,
    }))
}

/// Writes kopecks as a number: whole roubles as an integer, as PHP does.
pub fn amount(kopecks: i64) -> Value {
    if kopecks % 100 == 0 { json!(kopecks / 100) } else { json!(kopecks as f64 / 100.0) }
}

/// Writes kopecks as a string with two decimals.
pub fn decimal(kopecks: i64) -> String {
    format!("{}.{:02}", kopecks / 100, kopecks % 100)
}

/// Builds an employee.
pub fn user(id: u64, first_name: &str, last_name: &str) -> Row {
    row(json!({
        "ID": id.to_string(), "ACTIVE": true, "EMAIL": format!("employee{id}@school.example"),
        "NAME": first_name, "LAST_NAME": last_name, "SECOND_NAME": "", "USER_TYPE": "employee",
        "WORK_POSITION": "", "PERSONAL_GENDER": "", "TIME_ZONE": "", "UF_DEPARTMENT": [1],
    }))
}
