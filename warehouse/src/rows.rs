//! The rows of the tables, as the database takes them: one JSON object each, its keys the names of the columns. Pure.

use std::collections::BTreeMap;

use schemas::{Entity, RecordChanged, Version};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::php;

/// A row that a newer version of itself replaces.
pub trait Versioned {
    /// The table.
    const TABLE: &'static str;
    /// Columns of its key.
    const KEY: &'static [&'static str];
    /// Columns that order its versions, the most significant first.
    const VERSION: &'static [&'static str];
    /// What erasures call its records, as SQL says it; none where a row is about no such record.
    const ENTITY: Option<&'static str>;
    /// The other columns, with blanks between them.
    const COLUMNS: &'static [&'static str];

    /// Lists the other columns one by one.
    fn others() -> impl Iterator<Item = &'static str> {
        Self::COLUMNS.iter().flat_map(|columns| columns.split(' '))
    }

    /// Lists every column.
    fn columns() -> Vec<&'static str> {
        Self::KEY.iter().chain(Self::VERSION).copied().chain(Self::others()).collect()
    }
}

/// What every record has, whatever kind it is.
#[derive(Debug, Clone, Serialize)]
pub struct Origin {
    id: i64,
    raw_sequence: i64,
    observed: String,
    date_create: Option<String>,
    date_modify: Option<String>,
    assigned_by_id: Option<i64>,
    created_by_id: Option<i64>,
    modify_by_id: Option<i64>,
    status_shown: Option<String>,
    fingerprint: String,
    trimmed: Vec<String>,
    custom: Box<RawValue>,
    raw: Box<RawValue>,
}

/// The columns of [`Origin`] but for key and version.
const ORIGIN: &str = "observed date_create date_modify assigned_by_id created_by_id modify_by_id status_shown \
     fingerprint trimmed custom raw";

/// A row of `contacts`.
#[derive(Debug, Clone, Serialize)]
pub struct Contact {
    #[serde(flatten)]
    origin: Origin,
    last_name: Option<String>,
    name: Option<String>,
    second_name: Option<String>,
    birthdate: Option<String>,
    phones: Vec<String>,
    emails: Vec<String>,
    type_id: Option<String>,
    source_id: Option<String>,
    source_description: Option<String>,
    post: Option<String>,
    comments: Option<String>,
    company_id: Option<i64>,
    lead_id: Option<i64>,
    opened: Option<bool>,
}

impl Versioned for Contact {
    const TABLE: &'static str = "contacts";
    const ENTITY: Option<&'static str> = Some("'contact'");
    const KEY: &'static [&'static str] = &["id"];
    const VERSION: &'static [&'static str] = &["raw_sequence"];
    const COLUMNS: &'static [&'static str] = &[
        ORIGIN,
        "last_name name second_name birthdate phones emails type_id source_id source_description post \
         comments company_id lead_id opened",
    ];
}

/// A row of `deals`.
#[derive(Debug, Clone, Serialize)]
pub struct Deal {
    #[serde(flatten)]
    origin: Origin,
    title: Option<String>,
    type_id: Option<String>,
    category_id: Option<i64>,
    stage_id: Option<String>,
    stage_semantic_id: Option<String>,
    contact_id: Option<i64>,
    company_id: Option<i64>,
    lead_id: Option<i64>,
    opportunity: Option<String>,
    currency_id: Option<String>,
    tax_value: Option<String>,
    probability: Option<i64>,
    begindate: Option<String>,
    closedate: Option<String>,
    moved_time: Option<String>,
    moved_by_id: Option<i64>,
    source_id: Option<String>,
    source_description: Option<String>,
    comments: Option<String>,
    additional_info: Option<String>,
    opened: Option<bool>,
    closed: Option<bool>,
    is_return_customer: Option<bool>,
}

impl Versioned for Deal {
    const TABLE: &'static str = "deals";
    const ENTITY: Option<&'static str> = Some("'deal'");
    const KEY: &'static [&'static str] = &["id"];
    const VERSION: &'static [&'static str] = &["raw_sequence"];
    const COLUMNS: &'static [&'static str] = &[
        ORIGIN,
        "title type_id category_id stage_id stage_semantic_id contact_id company_id lead_id opportunity \
         currency_id tax_value probability begindate closedate moved_time moved_by_id source_id \
         source_description comments additional_info opened closed is_return_customer",
    ];
}

/// A row of `product_rows`; it comes and goes with its deal.
#[derive(Debug, Clone, Serialize)]
pub struct ProductRow {
    /// The deal.
    pub deal_id: i64,
    place: usize,
    id: Option<i64>,
    product_id: Option<i64>,
    product_name: Option<String>,
    price: Option<String>,
    price_exclusive: Option<String>,
    price_netto: Option<String>,
    price_brutto: Option<String>,
    quantity: Option<String>,
    discount_type_id: Option<i64>,
    discount_rate: Option<String>,
    discount_sum: Option<String>,
    tax_rate: Option<String>,
    tax_included: Option<bool>,
    measure_name: Option<String>,
    sort: Option<i64>,
    raw: Value,
}

/// Columns of `product_rows`, as SQL lists them.
pub const PRODUCT_ROW_COLUMNS: &str = "deal_id, place, id, product_id, product_name, price, price_exclusive, \
    price_netto, price_brutto, quantity, discount_type_id, discount_rate, discount_sum, tax_rate, \
    tax_included, measure_name, sort, raw";

/// A row of `users`: who sells, as the newest deal of theirs shows them.
#[derive(Debug, Clone, Serialize)]
pub struct User {
    id: i64,
    raw_sequence: i64,
    name: Option<String>,
    last_name: Option<String>,
    second_name: Option<String>,
    active: Option<bool>,
    raw: Map<String, Value>,
}

impl Versioned for User {
    const TABLE: &'static str = "users";
    const ENTITY: Option<&'static str> = None;
    const KEY: &'static [&'static str] = &["id"];
    const VERSION: &'static [&'static str] = &["raw_sequence"];
    const COLUMNS: &'static [&'static str] = &["name last_name second_name active raw"];
}

/// A stage that a deal stands in. The portal's own list says more; without it this is all there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Its code; that of another pipeline than the first begins with the pipeline's number.
    pub stage_id: String,
    category_id: Option<i64>,
    semantics: Option<String>,
}

/// A row of `outcomes`: what came of the newest version of a record.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// `contact` or `deal`.
    pub entity: &'static str,
    /// The record.
    pub id: i64,
    /// Which version this is about.
    pub raw_sequence: i64,
    /// How often that version was sent round again.
    pub redrive: i64,
    /// When Bitrix24 says the version was made.
    pub modified: String,
    /// Word of the contract; there may be new ones.
    pub outcome: String,
    /// Text for the manager.
    pub status: String,
    /// Every reason of a refusal.
    pub problems: Value,
    /// Id in otmechalka.
    pub target_id: Option<String>,
}

impl Versioned for Outcome {
    const TABLE: &'static str = "outcomes";
    const ENTITY: Option<&'static str> = Some("known.entity");
    const KEY: &'static [&'static str] = &["entity", "id"];
    const VERSION: &'static [&'static str] = &["raw_sequence", "redrive"];
    const COLUMNS: &'static [&'static str] = &["modified outcome status problems target_id"];
}

/// A row of `statuses`: what the status field of a record holds.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// `contact` or `deal`.
    pub entity: &'static str,
    /// The record.
    pub id: i64,
    /// Which version this is about.
    pub raw_sequence: i64,
    /// How often that version was sent round again.
    pub redrive: i64,
    /// The text.
    pub status: String,
    /// Word of the contract; there may be new ones.
    pub how: String,
    /// Portal time of the answer that proves it.
    pub settled: String,
}

impl Versioned for Status {
    const TABLE: &'static str = "statuses";
    const ENTITY: Option<&'static str> = Some("known.entity");
    const KEY: &'static [&'static str] = &["entity", "id"];
    const VERSION: &'static [&'static str] = &["raw_sequence", "redrive"];
    const COLUMNS: &'static [&'static str] = &["status how settled"];
}

/// A row of `erased`: up to which version a record is to be forgotten.
#[derive(Debug, Clone, Serialize)]
pub struct Erased {
    /// `contact` or `deal`.
    pub entity: &'static str,
    /// The record.
    pub id: i64,
    /// The last version that is erased.
    pub raw_sequence: i64,
    /// How often that version was sent round again.
    pub redrive: i64,
}

impl Versioned for Erased {
    const TABLE: &'static str = "erased";
    const ENTITY: Option<&'static str> = None;
    const KEY: &'static [&'static str] = &["entity", "id"];
    const VERSION: &'static [&'static str] = &["raw_sequence", "redrive"];
    const COLUMNS: &'static [&'static str] = &[];
}

/// A record in the rows that it makes.
pub enum Record {
    /// A contact.
    Contact(Box<Contact>),
    /// A deal with what belongs to it.
    Deal(Box<DealRows>),
}

/// A deal in the rows that it makes.
pub struct DealRows {
    /// The deal itself.
    pub deal: Deal,
    /// What was sold.
    pub product_rows: Vec<ProductRow>,
    /// Who sold it, where the portal knew.
    pub seller: Option<User>,
    /// Where it stands.
    pub stage: Option<Stage>,
}

/// A record that no row can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRow(pub &'static str);

/// Tells whether a field was made by the portal's people.
pub fn is_custom(code: &str) -> bool {
    code.starts_with("UF_") || code.starts_with("PARENT_ID_")
}

/// Returns a number as the database counts.
pub fn bigint(number: u64) -> Result<i64, NoRow> {
    i64::try_from(number).map_err(|_| NoRow("a number is too big for a column"))
}

/// Makes the rows of a record, and lists the codes of its fields.
pub fn of_record(
    entity: Entity,
    id: u64,
    version: Version,
    fingerprint: String,
    changed: RecordChanged,
) -> Result<(Record, Vec<String>), NoRow> {
    let fields: BTreeMap<String, Value> =
        serde_json::from_str(changed.record.get()).map_err(|_| NoRow("the record cannot be read"))?;
    let (id, raw_sequence) = (bigint(id)?, bigint(version.raw_sequence)?);
    let of = |name: &str| fields.get(name);
    let custom: BTreeMap<&String, &Value> = fields.iter().filter(|(code, _)| is_custom(code)).collect();
    let origin = Origin {
        id,
        raw_sequence,
        observed: changed.observed.to_rfc3339(),
        date_create: php::moment(of("DATE_CREATE")),
        date_modify: php::moment(of("DATE_MODIFY")),
        assigned_by_id: php::id(of("ASSIGNED_BY_ID")),
        created_by_id: php::id(of("CREATED_BY_ID")),
        modify_by_id: php::id(of("MODIFY_BY_ID")),
        status_shown: changed.status,
        fingerprint,
        trimmed: changed.trimmed,
        custom: to_raw_value(&custom).map_err(|_| NoRow("the record cannot be read"))?,
        raw: changed.record,
    };
    let record = match entity {
        Entity::Contact => Record::Contact(Box::new(contact(origin, &fields))),
        Entity::Deal => Record::Deal(Box::new(DealRows {
            deal: deal(origin, &fields),
            product_rows: product_rows(id, changed.product_rows.as_deref())?,
            seller: changed.seller.and_then(|seller| user(raw_sequence, &seller)),
            stage: stage(&fields),
        })),
    };
    Ok((record, fields.into_keys().collect()))
}

fn contact(origin: Origin, fields: &BTreeMap<String, Value>) -> Contact {
    let of = |name: &str| fields.get(name);
    Contact {
        origin,
        last_name: php::text(of("LAST_NAME")),
        name: php::text(of("NAME")),
        second_name: php::text(of("SECOND_NAME")),
        birthdate: php::day(of("BIRTHDATE")),
        phones: php::multi(of("PHONE")),
        emails: php::multi(of("EMAIL")),
        type_id: php::text(of("TYPE_ID")),
        source_id: php::text(of("SOURCE_ID")),
        source_description: php::text(of("SOURCE_DESCRIPTION")),
        post: php::text(of("POST")),
        comments: php::text(of("COMMENTS")),
        company_id: php::id(of("COMPANY_ID")),
        lead_id: php::id(of("LEAD_ID")),
        opened: php::flag(of("OPENED")),
    }
}

fn deal(origin: Origin, fields: &BTreeMap<String, Value>) -> Deal {
    let of = |name: &str| fields.get(name);
    Deal {
        origin,
        title: php::text(of("TITLE")),
        type_id: php::text(of("TYPE_ID")),
        category_id: php::whole(of("CATEGORY_ID")),
        stage_id: php::text(of("STAGE_ID")),
        stage_semantic_id: php::text(of("STAGE_SEMANTIC_ID")),
        contact_id: php::id(of("CONTACT_ID")),
        company_id: php::id(of("COMPANY_ID")),
        lead_id: php::id(of("LEAD_ID")),
        opportunity: php::decimal(of("OPPORTUNITY")),
        currency_id: php::text(of("CURRENCY_ID")),
        tax_value: php::decimal(of("TAX_VALUE")),
        probability: php::whole(of("PROBABILITY")),
        begindate: php::day(of("BEGINDATE")),
        closedate: php::day(of("CLOSEDATE")),
        moved_time: php::moment(of("MOVED_TIME")),
        moved_by_id: php::id(of("MOVED_BY_ID")),
        source_id: php::text(of("SOURCE_ID")),
        source_description: php::text(of("SOURCE_DESCRIPTION")),
        comments: php::text(of("COMMENTS")),
        additional_info: php::text(of("ADDITIONAL_INFO")),
        opened: php::flag(of("OPENED")),
        closed: php::flag(of("CLOSED")),
        is_return_customer: php::flag(of("IS_RETURN_CUSTOMER")),
    }
}

fn product_rows(deal_id: i64, rows: Option<&RawValue>) -> Result<Vec<ProductRow>, NoRow> {
    let Some(rows) = rows else { return Ok(Vec::new()) };
    let rows = match serde_json::from_str(rows.get()) {
        Ok(Value::Array(rows)) => rows,
        // A list whose numbering has a gap.
        Ok(Value::Object(rows)) => rows.into_iter().map(|(_, row)| row).collect(),
        Ok(_) => Vec::new(),
        Err(_) => return Err(NoRow("the product rows cannot be read")),
    };
    Ok(rows.into_iter().enumerate().map(|(place, row)| product_row(deal_id, place, row)).collect())
}

fn product_row(deal_id: i64, place: usize, raw: Value) -> ProductRow {
    let of = |name: &str| raw.get(name);
    ProductRow {
        deal_id,
        place,
        id: php::id(of("ID")),
        product_id: php::id(of("PRODUCT_ID")),
        product_name: php::text(of("PRODUCT_NAME")),
        price: php::decimal(of("PRICE")),
        price_exclusive: php::decimal(of("PRICE_EXCLUSIVE")),
        price_netto: php::decimal(of("PRICE_NETTO")),
        price_brutto: php::decimal(of("PRICE_BRUTTO")),
        quantity: php::decimal(of("QUANTITY")),
        discount_type_id: php::whole(of("DISCOUNT_TYPE_ID")),
        discount_rate: php::decimal(of("DISCOUNT_RATE")),
        discount_sum: php::decimal(of("DISCOUNT_SUM")),
        tax_rate: php::decimal(of("TAX_RATE")),
        tax_included: php::flag(of("TAX_INCLUDED")),
        measure_name: php::text(of("MEASURE_NAME")),
        sort: php::whole(of("SORT")),
        raw,
    }
}

fn user(raw_sequence: i64, seller: &RawValue) -> Option<User> {
    let raw: Map<String, Value> = serde_json::from_str(seller.get()).ok()?;
    Some(User {
        id: php::id(raw.get("ID"))?,
        raw_sequence,
        name: php::text(raw.get("NAME")),
        last_name: php::text(raw.get("LAST_NAME")),
        second_name: php::text(raw.get("SECOND_NAME")),
        active: php::flag(raw.get("ACTIVE")),
        raw,
    })
}

fn stage(fields: &BTreeMap<String, Value>) -> Option<Stage> {
    Some(Stage {
        stage_id: php::text(fields.get("STAGE_ID"))?,
        category_id: php::whole(fields.get("CATEGORY_ID")),
        semantics: php::text(fields.get("STAGE_SEMANTIC_ID")),
    })
}

impl User {
    /// Returns its id.
    pub fn id(&self) -> i64 {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn columns_of<T: Versioned>() -> BTreeSet<String> {
        T::columns().into_iter().map(str::to_owned).collect()
    }

    fn keys_of(row: &impl Serialize) -> BTreeSet<String> {
        serde_json::to_value(row).unwrap().as_object().unwrap().keys().cloned().collect()
    }

    /// Returns the columns of a table that rows fill, as the layout has them.
    fn columns_in_layout(table: &str) -> BTreeSet<String> {
        let layout = [include_str!("layout.sql"), include_str!("layout-2.sql")].concat();
        let (_, rest) = layout.split_once(&format!("CREATE TABLE {table} (\n")).unwrap();
        let (lines, _) = rest.split_once("\n);").unwrap();
        let names = lines.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| !["PRIMARY", "stored_at"].contains(name)).map(str::to_owned).collect()
    }

    fn check<T: Versioned + Serialize>(row: &T) {
        let columns = columns_of::<T>();
        assert_eq!(columns, keys_of(row), "{}", T::TABLE);
        assert_eq!(columns, columns_in_layout(T::TABLE), "{}", T::TABLE);
    }

    fn record(entity: Entity) -> Record {
        let changed = serde_json::from_str(
            r#"{"observed": "2026-01-10T12:30:05+03:00", "status": null, "record": {"STAGE_ID": "WON"},
                "product_rows": [{}], "seller": {"ID": 5}}"#,
        );
        let version = Version { raw_sequence: 1, redrive: 0 };
        of_record(entity, 7, version, "ab".into(), changed.unwrap()).unwrap().0
    }

    #[test]
    fn rows_statements_and_tables_have_the_same_columns() {
        let Record::Contact(contact) = record(Entity::Contact) else { panic!("no contact") };
        check(contact.as_ref());
        let Record::Deal(rows) = record(Entity::Deal) else { panic!("no deal") };
        check(&rows.deal);
        check(rows.seller.as_ref().unwrap());
        let columns: BTreeSet<String> = PRODUCT_ROW_COLUMNS.split(", ").map(str::to_owned).collect();
        assert_eq!(columns, keys_of(&rows.product_rows[0]));
        assert_eq!(columns, columns_in_layout("product_rows"));
        assert_eq!(columns_of::<Outcome>(), columns_in_layout("outcomes"));
        assert_eq!(columns_of::<Status>(), columns_in_layout("statuses"));
        assert_eq!(columns_of::<Erased>(), columns_in_layout("erased"));
    }
}
