//! The mapping file: which field, product, branch and payment of Bitrix24 means what in otmechalka.

mod reader;

use schemas::Entity;
use schemas::problem::Field;
use sha2::{Digest, Sha256};
use toml::de::DeTable;

use reader::{Placed, Reader, Section};
pub use reader::{Position, RulesError};

/// The customer's own mapping file, which is also the one that users copy.
pub const DEFAULT_MAPPING: &str = include_str!("../mapping.toml");

/// Everything that a mapping file says, checked.
#[derive(Clone, Debug)]
pub struct Rules {
    pub(crate) contact: ContactRules,
    pub(crate) deal: DealRules,
    contact_status: String,
    deal_status: String,
    digest: String,
}

/// A Bitrix24 field that the mapping reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldUse<'r> {
    /// What Bitrix24 calls it.
    pub code: &'r str,
    /// What the portal's form calls it.
    pub title: &'r str,
    /// What it has to be.
    pub kind: FieldKind,
}

/// Kinds of Bitrix24 fields that the mapping can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// One line of text.
    Text,
    /// Phones or e-mail addresses.
    Multifield,
    /// Values of a list.
    Enumeration,
    /// A calendar date.
    Date,
    /// The contact of a deal.
    Contact,
    /// A user of the portal.
    User,
    /// A stage of a pipeline.
    Stage,
    /// A currency.
    Currency,
}

impl FieldKind {
    /// Returns the type names under which `crm.*.fields` may describe such a field.
    pub fn bitrix24_types(self) -> &'static [&'static str] {
        match self {
            FieldKind::Text => &["string"],
            FieldKind::Multifield => &["crm_multifield"],
            // Lists may be kept as universal lists or directories; the mapping only needs ids.
            FieldKind::Enumeration => &["enumeration", "iblock_element", "iblock_section", "crm_status"],
            FieldKind::Date => &["date", "datetime"],
            FieldKind::Contact => &["crm_contact"],
            FieldKind::User => &["user"],
            FieldKind::Stage => &["crm_status"],
            FieldKind::Currency => &["crm_currency", "string"],
        }
    }
}

/// The values of one list field that the mapping knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnumerationUse<'r> {
    /// What Bitrix24 calls the field.
    pub code: &'r str,
    /// What the portal's form calls it.
    pub title: &'r str,
    /// Ids of the values, with their titles, in the file's order.
    pub values: Vec<(u64, &'r str)>,
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Rules {
    /// Reads a mapping file, or tells every mistake in it.
    pub fn parse(text: &str) -> Result<Rules, Vec<RulesError>> {
        let mut reader = Reader::new(text);
        let (table, syntax) = DeTable::parse_recoverable(text);
        if !syntax.is_empty() {
            // What could be recovered from a broken file would only add mistakes that are none.
            reader.syntax(&syntax);
            return Err(reader.finish());
        }
        let rules = read_rules(&mut reader, &table).map(|rules| Rules { digest: digest(text), ..rules });
        let errors = reader.finish();
        match rules {
            Some(rules) if errors.is_empty() => {
                let check = |entity| rules.check_status_field(entity, rules.status_field(entity)).err();
                let errors: Vec<RulesError> = Entity::ALL.into_iter().filter_map(check).collect();
                if errors.is_empty() { Ok(rules) } else { Err(errors) }
            }
            _ => Err(errors),
        }
    }

    /// Returns the digest of the file, by which two programs can tell whether they have the same.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Refuses a status field that the mapping also reads: writing the status would destroy the record's data.
    pub fn check_status_field(&self, entity: Entity, status: &str) -> Result<(), RulesError> {
        if let Some(read) = self.field_rules(entity).into_iter().find(|field| field.code == status) {
            return Err(RulesError {
                at: read.at,
                path: format!("{entity}.fields.{}.code", read.token),
                found: format!("`{status}`, which is also the status field of {entity}s"),
                expected: "a status field of its own".into(),
                example: "UF_CRM_SYNC_STATUS".into(),
            });
        }
        if is_field_code(status) {
            return Ok(());
        }
        Err(RulesError {
            at: Position { line: 1, column: 1 },
            path: format!("status.{entity}"),
            found: format!("`{status}`"),
            expected: FIELD_CODE.into(),
            example: "UF_CRM_SYNC_STATUS".into(),
        })
    }

    /// Returns the status field that the file names.
    pub fn status_field(&self, entity: Entity) -> &str {
        match entity {
            Entity::Contact => &self.contact_status,
            Entity::Deal => &self.deal_status,
        }
    }

    /// Returns the stages whose deals are tickets.
    pub fn deal_stages(&self) -> &[String] {
        &self.deal.stages
    }

    /// Returns every field that the mapping reads of records of an entity.
    pub fn fields(&self, entity: Entity) -> Vec<FieldUse<'_>> {
        let own = self.field_rules(entity).into_iter();
        let mut fields: Vec<FieldUse<'_>> =
            own.map(|field| FieldUse { code: &field.code, title: &field.title, kind: field.kind }).collect();
        if entity == Entity::Deal {
            fields.push(FieldUse { code: STAGE, title: "Стадия сделки", kind: FieldKind::Stage });
        }
        fields
    }

    /// Returns the values of list fields that the mapping knows.
    pub fn enumerations(&self, entity: Entity) -> Vec<EnumerationUse<'_>> {
        fn of<'r>(field: &'r FieldRule, values: Vec<(u64, &'r str)>) -> EnumerationUse<'r> {
            EnumerationUse { code: &field.code, title: &field.title, values }
        }
        match entity {
            Entity::Contact => vec![
                of(
                    &self.contact.product,
                    self.contact
                        .products
                        .iter()
                        .map(|product| (product.id, product.title.as_str()))
                        .collect(),
                ),
                of(&self.contact.branch, titles(&self.contact.branches)),
            ],
            Entity::Deal => vec![
                of(&self.deal.branch, titles(&self.deal.branches)),
                of(
                    &self.deal.payment_method,
                    self.deal.payments.iter().map(|payment| (payment.id, payment.title.as_str())).collect(),
                ),
            ],
        }
    }

    /// Returns every otmechalka course that the mapping can send.
    pub fn courses(&self) -> Vec<&str> {
        once_each(self.contact.products.iter().flat_map(|product| &product.courses))
    }

    /// Returns every otmechalka branch office that the mapping can send.
    pub fn branchoffices(&self) -> Vec<&str> {
        let fixed = self.contact.products.iter().filter_map(|product| product.branchoffice.as_ref());
        let chosen =
            self.contact.branches.iter().chain(&self.deal.branches).map(|branch| &branch.branchoffice);
        once_each(fixed.chain(chosen))
    }

    fn field_rules(&self, entity: Entity) -> Vec<&FieldRule> {
        match entity {
            Entity::Contact => self.contact.fields().to_vec(),
            Entity::Deal => self.deal.fields().to_vec(),
        }
    }
}

/// Code of the field that holds a deal's stage.
pub(crate) const STAGE: &str = "STAGE_ID";

/// How one field is read.
#[derive(Clone, Debug)]
pub(crate) struct FieldRule {
    pub token: &'static str,
    pub code: String,
    pub title: String,
    pub kind: FieldKind,
    at: Position,
}

impl FieldRule {
    /// Returns the field as problems name it.
    pub fn named(&self) -> Field<'_> {
        Field { token: self.token, title: &self.title }
    }
}

/// How contacts become clients.
#[derive(Clone, Debug)]
pub(crate) struct ContactRules {
    pub pupil_last_name: FieldRule,
    pub pupil_first_name: FieldRule,
    pub phone: FieldRule,
    pub email: FieldRule,
    pub product: FieldRule,
    pub branch: FieldRule,
    pub birth_date: FieldRule,
    pub parent_last_name: FieldRule,
    pub parent_first_name: FieldRule,
    pub products: Vec<ProductRule>,
    pub branches: Vec<BranchRule>,
}

impl ContactRules {
    fn fields(&self) -> [&FieldRule; 9] {
        [
            &self.pupil_last_name,
            &self.pupil_first_name,
            &self.phone,
            &self.email,
            &self.product,
            &self.branch,
            &self.birth_date,
            &self.parent_last_name,
            &self.parent_first_name,
        ]
    }
}

/// A product of the school and what it means in otmechalka.
#[derive(Clone, Debug)]
pub(crate) struct ProductRule {
    pub id: u64,
    pub title: String,
    pub courses: Vec<String>,
    /// Where it is taught; `None` means in the branches that the contact names.
    pub branchoffice: Option<String>,
}

/// A branch of the school and what it is in otmechalka.
#[derive(Clone, Debug)]
pub(crate) struct BranchRule {
    pub id: u64,
    pub title: String,
    pub branchoffice: String,
}

/// A way to pay.
#[derive(Clone, Debug)]
pub(crate) struct PaymentRule {
    pub id: u64,
    pub title: String,
    pub method: String,
}

/// How deals become tickets.
#[derive(Clone, Debug)]
pub(crate) struct DealRules {
    pub contact: FieldRule,
    pub currency: FieldRule,
    pub selling_date: FieldRule,
    pub branch: FieldRule,
    pub seller: FieldRule,
    pub payment_method: FieldRule,
    pub rows: RowTitles,
    pub stages: Vec<String>,
    pub currency_code: String,
    pub branches: Vec<BranchRule>,
    pub payments: Vec<PaymentRule>,
    pub other_payments: String,
}

impl DealRules {
    fn fields(&self) -> [&FieldRule; 6] {
        [&self.contact, &self.currency, &self.selling_date, &self.branch, &self.seller, &self.payment_method]
    }
}

/// Titles of the product rows and their columns.
#[derive(Clone, Debug)]
pub(crate) struct RowTitles {
    pub products: String,
    pub product_name: String,
    pub quantity: String,
    pub price_initial: String,
    pub discount: String,
    pub price_final: String,
    pub tax_rate: String,
}

const FIELD_CODE: &str = "a field code of capital letters, digits and underscores";

fn is_field_code(text: &str) -> bool {
    let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase());
    let is_plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    starts_well && text.len() <= 50 && text.bytes().all(is_plain)
}

fn titles(branches: &[BranchRule]) -> Vec<(u64, &str)> {
    branches.iter().map(|branch| (branch.id, branch.title.as_str())).collect()
}

fn once_each<'r>(texts: impl Iterator<Item = &'r String>) -> Vec<&'r str> {
    let mut once: Vec<&str> = Vec::new();
    for text in texts {
        if !once.contains(&text.as_str()) {
            once.push(text);
        }
    }
    once
}

fn read_rules(reader: &mut Reader<'_>, table: &serde_spanned::Spanned<DeTable<'_>>) -> Option<Rules> {
    let root = reader.root(table);
    reader.only_keys(&root, &["status", "contact", "deal"]);
    let status = reader.section(&root, "status").and_then(|status| read_status(reader, &status));
    let contact = reader.section(&root, "contact").and_then(|contact| read_contact(reader, &contact));
    let deal = reader.section(&root, "deal").and_then(|deal| read_deal(reader, &deal));
    let (contact_status, deal_status) = status?;
    Some(Rules { contact: contact?, deal: deal?, contact_status, deal_status, digest: String::new() })
}

fn read_status(reader: &mut Reader<'_>, status: &Section<'_>) -> Option<(String, String)> {
    reader.only_keys(status, &["contact", "deal"]);
    let contact = read_code(reader, status, "contact", "status.contact", "UF_CRM_SYNC_STATUS");
    let deal = read_code(reader, status, "deal", "status.deal", "UF_CRM_SYNC_STATUS");
    Some((contact?.value, deal?.value))
}

fn read_contact(reader: &mut Reader<'_>, contact: &Section<'_>) -> Option<ContactRules> {
    const FIELDS: [(&str, FieldKind, &str); 9] = [
        ("pupil_last_name", FieldKind::Text, "UF_CRM_57AD7FAF7E6C4"),
        ("pupil_first_name", FieldKind::Text, "UF_CRM_1608028374"),
        ("phone", FieldKind::Multifield, "PHONE"),
        ("email", FieldKind::Multifield, "EMAIL"),
        ("product", FieldKind::Enumeration, "UF_CRM_58D15BB9CA8F4"),
        ("branch", FieldKind::Enumeration, "UF_CRM_1470852549"),
        ("birth_date", FieldKind::Date, "UF_CRM_1607943642"),
        ("parent_last_name", FieldKind::Text, "LAST_NAME"),
        ("parent_first_name", FieldKind::Text, "NAME"),
    ];
    reader.only_keys(contact, &["fields", "products", "branches"]);
    let fields = read_fields(reader, contact, &FIELDS);
    let products = read_products(reader, contact);
    let branches = read_branches(reader, contact, "contact.branches");
    let [last, first, phone, email, product, branch, birth, parent_last, parent_first] = fields?;
    Some(ContactRules {
        pupil_last_name: last,
        pupil_first_name: first,
        phone,
        email,
        product,
        branch,
        birth_date: birth,
        parent_last_name: parent_last,
        parent_first_name: parent_first,
        products: products?,
        branches: branches?,
    })
}

fn read_deal(reader: &mut Reader<'_>, deal: &Section<'_>) -> Option<DealRules> {
    const FIELDS: [(&str, FieldKind, &str); 3] = [
        ("selling_date", FieldKind::Date, "UF_CRM_58D1057919A6F"),
        ("branch", FieldKind::Enumeration, "UF_CRM_1470852549"),
        ("payment_method", FieldKind::Enumeration, "UF_CRM_1490347942"),
    ];
    reader.only_keys(deal, &["stages", "currency", "fields", "titles", "branches", "payment"]);
    let stages = reader.texts(deal, "stages", "WON");
    let currency_code = reader.text(deal, "currency", "RUB");
    let fields = read_fields(reader, deal, &FIELDS);
    let titles = reader.section(deal, "titles").and_then(|titles| read_titles(reader, &titles));
    let branches = read_branches(reader, deal, "deal.branches");
    let payment = reader.section(deal, "payment").and_then(|payment| read_payment(reader, &payment));
    let [selling_date, branch, payment_method] = fields?;
    let (contact, currency, seller, rows) = titles?;
    let (payments, other_payments) = payment?;
    Some(DealRules {
        contact,
        currency,
        selling_date,
        branch,
        seller,
        payment_method,
        rows,
        stages: stages?,
        currency_code: currency_code?.value,
        branches: branches?,
        payments,
        other_payments,
    })
}

/// Reads the table of fields, each of which must be another Bitrix24 field.
fn read_fields<const N: usize>(
    reader: &mut Reader<'_>,
    parent: &Section<'_>,
    known: &[(&'static str, FieldKind, &'static str); N],
) -> Option<[FieldRule; N]> {
    let section = reader.section(parent, "fields")?;
    reader.only_keys(&section, &known.map(|(token, ..)| token));
    let read: Vec<Option<(Placed<String>, FieldRule)>> =
        known.iter().map(|known| read_field(reader, &section, *known)).collect();
    reader.only_once("fields", read.iter().flatten().map(|(code, _)| code), "UF_CRM_1608028374");
    let rules: Option<Vec<FieldRule>> = read.into_iter().map(|read| read.map(|(_, rule)| rule)).collect();
    rules?.try_into().ok()
}

fn read_field(
    reader: &mut Reader<'_>,
    fields: &Section<'_>,
    (token, kind, example): (&'static str, FieldKind, &'static str),
) -> Option<(Placed<String>, FieldRule)> {
    let section = reader.section(fields, token)?;
    reader.only_keys(&section, &["code", "title"]);
    let code = read_code(reader, &section, "code", &format!("{token}.code"), example);
    let title = reader.text(&section, "title", "Имя ученика");
    let (code, title) = (code?, title?);
    let rule = FieldRule { token, code: code.value.clone(), title: title.value, kind, at: code.at };
    Some((code, rule))
}

fn read_code(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    key: &str,
    path: &str,
    example: &str,
) -> Option<Placed<String>> {
    let code = reader.text(section, key, example)?;
    if is_field_code(&code.value) {
        return Some(code);
    }
    reader.refuse(path, &code, FIELD_CODE, example);
    None
}

fn read_products(reader: &mut Reader<'_>, contact: &Section<'_>) -> Option<Vec<ProductRule>> {
    let sections = reader.sections(contact, "products");
    let read: Vec<Option<(Placed<u64>, ProductRule)>> = sections
        .iter()
        .map(|section| {
            reader.only_keys(section, &["id", "title", "courses", "branchoffice"]);
            let id = reader.id(section, "id", "404");
            let title = reader.text(section, "title", "Онлайн школа");
            let courses = reader.texts(section, "courses", "10985");
            let branchoffice = reader.optional_text(section, "branchoffice", "2633");
            let id = id?;
            let rule = ProductRule {
                id: id.value,
                title: title?.value,
                courses: courses?,
                branchoffice: branchoffice?.map(|placed| placed.value),
            };
            Some((id, rule))
        })
        .collect();
    reader.only_once("contact.products", read.iter().flatten().map(|(id, _)| id), "404");
    read.into_iter().map(|read| read.map(|(_, rule)| rule)).collect()
}

fn read_branches(reader: &mut Reader<'_>, parent: &Section<'_>, path: &str) -> Option<Vec<BranchRule>> {
    let sections = reader.sections(parent, "branches");
    let read: Vec<Option<(Placed<u64>, BranchRule)>> = sections
        .iter()
        .map(|section| {
            reader.only_keys(section, &["id", "title", "branchoffice"]);
            let id = reader.id(section, "id", "48");
            let title = reader.text(section, "title", "Гоголевский");
            let branchoffice = reader.text(section, "branchoffice", "2633");
            let id = id?;
            let rule = BranchRule { id: id.value, title: title?.value, branchoffice: branchoffice?.value };
            Some((id, rule))
        })
        .collect();
    reader.only_once(path, read.iter().flatten().map(|(id, _)| id), "48");
    read.into_iter().map(|read| read.map(|(_, rule)| rule)).collect()
}

fn read_payment(reader: &mut Reader<'_>, payment: &Section<'_>) -> Option<(Vec<PaymentRule>, String)> {
    reader.only_keys(payment, &["other", "methods"]);
    let other = read_method(reader, payment, "other");
    let sections = reader.sections(payment, "methods");
    let read: Vec<Option<(Placed<u64>, PaymentRule)>> = sections
        .iter()
        .map(|section| {
            reader.only_keys(section, &["id", "title", "method"]);
            let id = reader.id(section, "id", "450");
            let title = reader.text(section, "title", "Наличные");
            let method = read_method(reader, section, "method");
            let id = id?;
            let rule = PaymentRule { id: id.value, title: title?.value, method: method? };
            Some((id, rule))
        })
        .collect();
    reader.only_once("deal.payment.methods", read.iter().flatten().map(|(id, _)| id), "450");
    let payments: Option<Vec<PaymentRule>> =
        read.into_iter().map(|read| read.map(|(_, rule)| rule)).collect();
    Some((payments?, other?))
}

fn read_method(reader: &mut Reader<'_>, section: &Section<'_>, key: &str) -> Option<String> {
    let method = reader.text(section, key, "CASH")?;
    if matches!(method.value.as_str(), "CASH" | "ONLINE") {
        return Some(method.value);
    }
    reader.refuse(&format!("deal.payment.{key}"), &method, "CASH or ONLINE", "\"CASH\"");
    None
}

fn read_titles(
    reader: &mut Reader<'_>,
    titles: &Section<'_>,
) -> Option<(FieldRule, FieldRule, FieldRule, RowTitles)> {
    const KEYS: [&str; 10] = [
        "contact",
        "products",
        "product_name",
        "quantity",
        "price_initial",
        "discount",
        "price_final",
        "tax_rate",
        "currency",
        "seller",
    ];
    reader.only_keys(titles, &KEYS);
    let read = KEYS.map(|key| reader.text(titles, key, "Контакт"));
    let [
        contact,
        products,
        product_name,
        quantity,
        price_initial,
        discount,
        price_final,
        tax_rate,
        currency,
        seller,
    ] = read;
    let fixed = |token, code: &str, title: Placed<String>, kind| FieldRule {
        token,
        code: code.to_owned(),
        title: title.value,
        kind,
        at: title.at,
    };
    Some((
        fixed("contact", "CONTACT_ID", contact?, FieldKind::Contact),
        fixed("currency", "CURRENCY_ID", currency?, FieldKind::Currency),
        fixed("seller", "ASSIGNED_BY_ID", seller?, FieldKind::User),
        RowTitles {
            products: products?.value,
            product_name: product_name?.value,
            quantity: quantity?.value,
            price_initial: price_initial?.value,
            discount: discount?.value,
            price_final: price_final?.value,
            tax_rate: tax_rate?.value,
        },
    ))
}
