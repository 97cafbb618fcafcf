//! From a contact to a client.

use email_address::{EmailAddress, Options};
use schemas::problem::clean;
use schemas::{Client, Mapping, Problem, RecordChanged};

use crate::date;
use crate::phone::Phone;
use crate::php::{Php, Record};
use crate::rules::{ContactRules, FieldRule, ProductRule};
use crate::text::{name, note, scalar};

/// Bitrix24 knows no gender, and otmechalka insists on one.
const GENDER: &str = "M";

/// Longest e-mail address that mail can be sent to.
const EMAIL_MAX_BYTES: usize = 254;

/// Maps a contact. Problems come in the order of the fields in the mapping table.
pub(crate) fn map(rules: &ContactRules, changed: &RecordChanged) -> Mapping {
    let Some(record) = Record::read(&changed.record, &wanted(rules), &changed.trimmed) else {
        return Mapping::Refused(vec![Problem::record_unreadable()]);
    };
    let mut problems = Vec::new();
    let pupil = full_name(&mut problems, &record, &rules.pupil_last_name, &rules.pupil_first_name);
    let phone = note(&mut problems, phone(&record, &rules.phone));
    let email = note(&mut problems, email(&record, &rules.email));
    let lessons = match lessons(rules, &record) {
        Ok(Some(lessons)) => Some(lessons),
        // Whatever else is wrong with a contact that does not concern otmechalka, nobody has to correct it.
        Ok(None) => return Mapping::OutOfScope,
        Err(found) => {
            problems.extend(found);
            None
        }
    };
    let birthdate = note(&mut problems, birth_date(&record, &rules.birth_date));
    let parent = full_name(&mut problems, &record, &rules.parent_last_name, &rules.parent_first_name);
    let client = client(pupil, phone, email, lessons, birthdate, parent);
    client.filter(|_| problems.is_empty()).map_or(Mapping::Refused(problems), Mapping::Client)
}

fn wanted(rules: &ContactRules) -> Vec<&str> {
    [
        &rules.pupil_last_name,
        &rules.pupil_first_name,
        &rules.phone,
        &rules.email,
        &rules.product,
        &rules.branch,
        &rules.birth_date,
        &rules.parent_last_name,
        &rules.parent_first_name,
    ]
    .map(|rule| rule.code.as_str())
    .to_vec()
}

fn client(
    pupil: Option<FullName>,
    phone: Option<Phone>,
    email: Option<Option<String>>,
    lessons: Option<Lessons>,
    birthdate: Option<Option<chrono::NaiveDate>>,
    parent: Option<FullName>,
) -> Option<Client> {
    let (pupil, lessons, parent) = (pupil?, lessons?, parent?);
    Some(Client {
        last_name: pupil.last,
        first_name: pupil.first,
        phone: phone?.digits().to_owned(),
        email: email?,
        courses: lessons.courses,
        branchoffices: lessons.branchoffices,
        birthdate: birthdate?,
        gender: GENDER.to_owned(),
        additional_data: format!("{} {}", parent.last, parent.first),
    })
}

struct FullName {
    last: String,
    first: String,
}

/// Reads surname and first name; notices when one field holds both and the other is blank.
fn full_name(
    problems: &mut Vec<Problem>,
    record: &Record,
    last_rule: &FieldRule,
    first_rule: &FieldRule,
) -> Option<FullName> {
    let last = name(record, last_rule);
    let first = name(record, first_rule);
    let last = note(problems, explain_blank(last, last_rule, first.as_ref().ok(), first_rule));
    let first = note(problems, explain_blank(first, first_rule, last.as_ref(), last_rule));
    Some(FullName { last: last?, first: first? })
}

fn explain_blank(
    reading: Result<String, Problem>,
    rule: &FieldRule,
    other: Option<&String>,
    other_rule: &FieldRule,
) -> Result<String, Problem> {
    match (reading, other) {
        (Err(problem), Some(other)) if problem == Problem::missing(rule.named()) && other.contains(' ') => {
            Err(Problem::name_in_one_field(rule.named(), other_rule.named(), other))
        }
        (reading, _) => reading,
    }
}

/// Returns the first value of a multifield that is not blank.
fn first_value<'r>(record: &'r Record, rule: &FieldRule) -> Option<&'r Php> {
    let value_of = |item: &'r Php| match item {
        Php::Object(_) => item.member("VALUE"),
        bare => bare,
    };
    record.field(&rule.code).objects("VALUE").into_iter().map(value_of).find(|value| **value != Php::Absent)
}

fn phone(record: &Record, rule: &FieldRule) -> Result<Phone, Problem> {
    let value = first_value(record, rule).ok_or_else(|| Problem::missing(rule.named()))?;
    let text = scalar(value, rule.named())?.unwrap_or_default();
    Phone::parse(text).map_err(|_| Problem::phone_invalid(rule.named(), text))
}

fn email(record: &Record, rule: &FieldRule) -> Result<Option<String>, Problem> {
    let Some(value) = first_value(record, rule) else { return Ok(None) };
    let Some(text) = scalar(value, rule.named())? else { return Ok(None) };
    let address = clean(text);
    // A stricter reading than the standard's: a host without a dot or a bare IP address is a slip here.
    let options = Options::default().with_required_tld().without_domain_literal().without_display_text();
    let is_plain = !address.contains([' ', '"', ',', ';']) && address.len() <= EMAIL_MAX_BYTES;
    match EmailAddress::parse_with_options(&address, options) {
        Ok(_) if is_plain => Ok(Some(address)),
        _ => Err(Problem::email_invalid(rule.named(), text)),
    }
}

fn birth_date(record: &Record, rule: &FieldRule) -> Result<Option<chrono::NaiveDate>, Problem> {
    let Some(text) = scalar(record.field(&rule.code), rule.named())? else { return Ok(None) };
    date::parse(text).map(Some).map_err(|_| Problem::date_invalid(rule.named(), text))
}

/// What a pupil learns and where, in the mapping file's order.
struct Lessons {
    courses: Vec<String>,
    branchoffices: Vec<String>,
}

/// Reads products and branches; `None` when something is chosen, but nothing that concerns otmechalka.
fn lessons(rules: &ContactRules, record: &Record) -> Result<Option<Lessons>, Vec<Problem>> {
    let products = record.field(&rules.product.code);
    let branches = record.field(&rules.branch.code);
    if is_empty(products) {
        return Err(vec![Problem::nothing_chosen(rules.product.named())]);
    }
    let chosen: Vec<&ProductRule> = rules.products.iter().filter(|rule| has(products, rule.id)).collect();
    if let Some(product) = chosen.iter().find(|product| product.branchoffice.is_none())
        && is_empty(branches)
    {
        return Err(vec![Problem::branch_needed(rules.branch.named(), &product.title)]);
    }
    let attended: Vec<&String> =
        rules.branches.iter().filter(|rule| has(branches, rule.id)).map(|rule| &rule.branchoffice).collect();
    let mut lessons = Lessons { courses: Vec::new(), branchoffices: Vec::new() };
    for product in chosen {
        let places = product.branchoffice.as_ref().map_or_else(|| attended.clone(), |fixed| vec![fixed]);
        if !places.is_empty() {
            add_new(&mut lessons.courses, &product.courses);
            add_new(&mut lessons.branchoffices, places);
        }
    }
    Ok(Some(lessons).filter(|lessons| !lessons.branchoffices.is_empty()))
}

fn is_empty(list: &Php) -> bool {
    list.items().iter().all(|item| item.is_zero())
}

fn has(list: &Php, id: u64) -> bool {
    list.items().iter().any(|item| item.id() == Some(id))
}

fn add_new<'t>(list: &mut Vec<String>, texts: impl IntoIterator<Item = &'t String>) {
    for text in texts {
        if !list.contains(text) {
            list.push(text.clone());
        }
    }
}
