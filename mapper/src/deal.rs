//! From a won deal to a ticket.

use chrono::NaiveDate;
use schemas::problem::{Field, clean};
use schemas::{Mapping, Problem, RecordChanged, RecordId, Ticket};

use crate::date;
use crate::php::{Php, Record};
use crate::price::{self, Price};
use crate::rules::{DealRules, FieldRule, STAGE};
use crate::text::{NAME_MAX_CHARS, PRODUCT_NAME_MAX_CHARS, bounded, note, scalar};

/// Maps a deal. Problems come in the order of the fields in the mapping table.
pub(crate) fn map(rules: &DealRules, changed: &RecordChanged) -> (Option<RecordId>, Mapping) {
    let Some(record) = Record::read(&changed.record, &wanted(rules), &changed.trimmed) else {
        return (None, Mapping::Refused(vec![Problem::record_unreadable()]));
    };
    let pupil = contact(&record, &rules.contact);
    (pupil.as_ref().ok().copied(), map_record(rules, changed, &record, pupil))
}

fn wanted(rules: &DealRules) -> [&str; 7] {
    [
        STAGE,
        &rules.contact.code,
        &rules.currency.code,
        &rules.selling_date.code,
        &rules.branch.code,
        &rules.seller.code,
        &rules.payment_method.code,
    ]
}

fn map_record(
    rules: &DealRules,
    changed: &RecordChanged,
    record: &Record,
    pupil: Result<RecordId, Problem>,
) -> Mapping {
    let branchoffice = match branchoffice(rules, record) {
        Ok(Some(branchoffice)) => Ok(branchoffice),
        // Whatever else is wrong with a deal that does not concern otmechalka, nobody has to correct it.
        Ok(None) => return Mapping::OutOfScope,
        Err(problem) => Err(problem),
    };
    if !is_ticket_stage(rules, record) {
        return Mapping::OutOfScope;
    }
    let mut problems = Vec::new();
    let pupil = note(&mut problems, pupil);
    let goods = goods(rules, changed, &mut problems);
    note(&mut problems, currency(rules, record));
    let selling_date = note(&mut problems, selling_date(record, &rules.selling_date));
    let branchoffice = note(&mut problems, branchoffice);
    let employee = note(&mut problems, employee(rules, record, changed));
    let payment_method = note(&mut problems, payment_method(rules, record));
    let ticket = ticket(pupil, goods, selling_date, branchoffice, employee, payment_method);
    ticket.filter(|_| problems.is_empty()).map_or(Mapping::Refused(problems), Mapping::Ticket)
}

fn ticket(
    pupil: Option<RecordId>,
    goods: Option<Goods>,
    selling_date: Option<NaiveDate>,
    branchoffice: Option<String>,
    employee: Option<String>,
    payment_method: Option<String>,
) -> Option<Ticket> {
    let goods = goods?;
    Some(Ticket {
        client_origin_id: pupil?,
        ticket_type: goods.ticket_type,
        price_initial: goods.price.initial.to_string(),
        discount: goods.price.discount.to_string(),
        price_final: goods.price.paid.to_string(),
        selling_date: selling_date?,
        selling_branchoffice: branchoffice?,
        employee: employee?,
        payment_method: payment_method?,
    })
}

fn is_ticket_stage(rules: &DealRules, record: &Record) -> bool {
    let stage = record.field(STAGE).text().ok().flatten().unwrap_or_default().trim();
    rules.stages.iter().any(|known| known == stage)
}

fn contact(record: &Record, rule: &FieldRule) -> Result<RecordId, Problem> {
    let value = record.field(&rule.code);
    if *value == Php::Absent || value.is_zero() {
        return Err(Problem::contact_missing(rule.named()));
    }
    let text = scalar(value, rule.named())?.unwrap_or_default();
    RecordId::parse(text).map_err(|_| Problem::contact_invalid(rule.named(), text))
}

struct Goods {
    ticket_type: String,
    price: Price,
}

/// Reads the one product row. Without exactly one there is nothing to say about names and prices.
fn goods(rules: &DealRules, changed: &RecordChanged, problems: &mut Vec<Problem>) -> Option<Goods> {
    let rows = changed.product_rows.as_ref().map_or(Php::Absent, |rows| Php::parse(rows.get()));
    let rows = rows.objects("PRODUCT_NAME");
    let [row] = rows.as_slice() else {
        let products = Field { token: "products", title: &rules.rows.products };
        problems.push(Problem::row_count(products, rows.len()));
        return None;
    };
    let ticket_type = note(problems, ticket_type(rules, row));
    note(problems, quantity(rules, row));
    let price = price::read(&rules.rows, row).map_err(|found| problems.extend(found)).ok();
    Some(Goods { ticket_type: ticket_type?, price: price? })
}

/// Reads the name of the product: inner spaces stay, since otmechalka knows the type by exactly that name.
fn ticket_type(rules: &DealRules, row: &Php) -> Result<String, Problem> {
    let field = Field { token: "product_name", title: &rules.rows.product_name };
    let text = scalar(row.member("PRODUCT_NAME"), field)?.unwrap_or_default();
    let name = if hides_something(text) { clean(text) } else { text.trim().to_owned() };
    bounded(name, field, PRODUCT_NAME_MAX_CHARS)?.ok_or_else(|| Problem::missing(field))
}

/// Tells a text that holds more than letters and spaces that can be seen: line breaks, controls, direction overrides.
fn hides_something(text: &str) -> bool {
    let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    text.contains(breaks) || letters(text) != letters(&clean(text))
}

fn quantity(rules: &DealRules, row: &Php) -> Result<(), Problem> {
    let field = Field { token: "quantity", title: &rules.rows.quantity };
    let text = scalar(row.member("QUANTITY"), field)?.ok_or_else(|| Problem::missing(field))?;
    if crate::money::is_one(text) { Ok(()) } else { Err(Problem::quantity(field, text)) }
}

fn currency(rules: &DealRules, record: &Record) -> Result<(), Problem> {
    let field = rules.currency.named();
    let found = scalar(record.field(&rules.currency.code), field)?.ok_or_else(|| Problem::missing(field))?;
    if found.trim() == rules.currency_code {
        Ok(())
    } else {
        Err(Problem::currency(field, found, &rules.currency_code))
    }
}

fn selling_date(record: &Record, rule: &FieldRule) -> Result<NaiveDate, Problem> {
    let text =
        scalar(record.field(&rule.code), rule.named())?.ok_or_else(|| Problem::missing(rule.named()))?;
    date::parse(text).map_err(|_| Problem::date_invalid(rule.named(), text))
}

/// Reads the branch that sold the ticket; `None` when branches are chosen, but none that concerns otmechalka.
fn branchoffice(rules: &DealRules, record: &Record) -> Result<Option<String>, Problem> {
    let chosen = record.field(&rules.branch.code).items();
    if chosen.iter().all(|item| item.is_zero()) {
        return Err(Problem::nothing_chosen(rules.branch.named()));
    }
    let is_chosen = |id| chosen.iter().any(|item| item.id() == Some(id));
    let supported: Vec<_> = rules.branches.iter().filter(|rule| is_chosen(rule.id)).collect();
    match supported.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.branchoffice.clone())),
        several => {
            let titles: Vec<&str> = several.iter().map(|rule| rule.title.as_str()).collect();
            Err(Problem::several_branches(rules.branch.named(), &titles))
        }
    }
}

/// Returns "first name surname" of the seller. One of the two is enough to be called by; none is not.
fn employee(rules: &DealRules, record: &Record, changed: &RecordChanged) -> Result<String, Problem> {
    let field = rules.seller.named();
    let assigned = record.field(&rules.seller.code);
    if *assigned == Php::Absent || assigned.is_zero() {
        return Err(Problem::missing(field));
    }
    let id = assigned.shown();
    let user = changed.seller.as_ref().and_then(|user| Record::read(user, &["NAME", "LAST_NAME"], &[]));
    let user = user.ok_or_else(|| Problem::seller_unknown(field, &id))?;
    let mut names: Vec<String> = Vec::new();
    for part in ["NAME", "LAST_NAME"] {
        let text = scalar(user.field(part), field)?.map(clean).unwrap_or_default();
        names.extend(bounded(text, field, NAME_MAX_CHARS)?);
    }
    if names.is_empty() { Err(Problem::seller_nameless(field, &id)) } else { Ok(names.join(" ")) }
}

fn payment_method(rules: &DealRules, record: &Record) -> Result<String, Problem> {
    let value = record.field(&rules.payment_method.code);
    let chosen = value.items();
    if chosen.iter().all(|item| item.is_zero()) {
        return Err(Problem::nothing_chosen(rules.payment_method.named()));
    }
    let known = rules.payments.iter().find(|rule| chosen.iter().any(|item| item.id() == Some(rule.id)));
    Ok(known.map_or(&rules.other_payments, |rule| &rule.method).clone())
}
