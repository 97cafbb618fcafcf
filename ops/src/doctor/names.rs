//! Looks which names of the mapping otmechalka does not know. It has no call that lists them, so what it refused tells.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::consumer::DeliverPolicy;
use runtime::Broker;
use schemas::problem::{OTMECHALKA_REFUSED, otmechalka_title};
use schemas::{Entity, Mapping, Problem, RecordRef};

use crate::answer::Finding;
use crate::ledger::{Ledger, Sent};
use crate::results;

const CHECK: &str = "otmechalka.names";

/// Most names that are told of each kind.
const MOST_TOLD: usize = 10;

/// A field of otmechalka in which the mapping, or Bitrix24's products, give a name.
struct Named {
    entity: Entity,
    field: &'static str,
    what: &'static str,
    remedy: &'static str,
}

const NAMED: [Named; 4] = [
    Named {
        entity: Entity::Deal,
        field: "ticket_type",
        what: "Ticket types",
        remedy: "Make the ticket type in otmechalka under just this name, or put the product's name right in Bitrix24",
    },
    Named {
        entity: Entity::Deal,
        field: "selling_branchoffice",
        what: "Branch offices of tickets",
        remedy: "Put the name or id right in the mapping file",
    },
    Named {
        entity: Entity::Contact,
        field: "courses",
        what: "Courses",
        remedy: "Put the name or id right in the mapping file",
    },
    Named {
        entity: Entity::Contact,
        field: "branchoffices",
        what: "Branch offices of clients",
        remedy: "Put the name or id right in the mapping file",
    },
];

/// Looks at the newest outcome of every record; nothing to say before there is any.
pub async fn look(broker: &Broker) -> Vec<Finding> {
    let mut refused: Vec<(RecordRef, Vec<Problem>)> = Vec::new();
    let newest = results::each(broker, DeliverPolicy::LastPerSubject, |ended| {
        let problems = ended.processed.problems;
        if problems.iter().any(|problem| problem.code == OTMECHALKA_REFUSED) {
            refused.push((ended.record, problems));
        }
    });
    if newest.await.is_err() {
        return Vec::new();
    }
    if refused.is_empty() {
        return vec![Finding::ok(CHECK, "Names in otmechalka", "no record is refused for one")];
    }
    let records = refused.iter().map(|(record, _)| *record).collect();
    let Ok(sent) = commands(broker, &records).await else { return Vec::new() };
    of(&refused, &sent)
}

async fn commands(
    broker: &Broker,
    records: &BTreeSet<RecordRef>,
) -> Result<BTreeMap<RecordRef, Sent>, crate::exit::Failure> {
    let ledger = Ledger::open(broker.clone()).await?;
    let mark = ledger.mark().await?;
    ledger.newest_commands(records, mark).await
}

fn of(refused: &[(RecordRef, Vec<Problem>)], sent: &BTreeMap<RecordRef, Sent>) -> Vec<Finding> {
    let findings: Vec<Finding> = NAMED.iter().filter_map(|named| of_field(named, refused, sent)).collect();
    if findings.is_empty() {
        return vec![Finding::ok(CHECK, "Names in otmechalka", "no record is refused for one")];
    }
    findings
}

fn of_field(
    named: &Named,
    refused: &[(RecordRef, Vec<Problem>)],
    sent: &BTreeMap<RecordRef, Sent>,
) -> Option<Finding> {
    let title = format!("{}: ", otmechalka_title(named.field));
    let about_it = |problem: &Problem| problem.code == OTMECHALKA_REFUSED && problem.text.contains(&title);
    let records: Vec<RecordRef> = refused
        .iter()
        .filter(|(record, problems)| record.entity == named.entity && problems.iter().any(about_it))
        .map(|(record, _)| *record)
        .collect();
    let count = records.len();
    if count == 0 {
        return None;
    }
    let names: BTreeSet<String> =
        records.iter().filter_map(|record| sent.get(record)).flat_map(|sent| names(named, sent)).collect();
    let mut told: Vec<String> = names.iter().take(MOST_TOLD).map(|name| format!("«{name}»")).collect();
    if names.len() > MOST_TOLD {
        told.push(format!("and {} more", names.len() - MOST_TOLD));
    }
    let (entity, told) = (named.entity, told.join(", "));
    let records = if count == 1 { format!("1 {entity} is") } else { format!("{count} {entity}s are") };
    let found = format!("{records} refused because of {told}");
    let action =
        format!("{}; then: rollcall replay --entity {entity} --reason {OTMECHALKA_REFUSED}", named.remedy);
    Some(Finding::warning(CHECK, named.what, found, action))
}

fn names(named: &Named, sent: &Sent) -> Vec<String> {
    match (&sent.mapping, named.field) {
        (Mapping::Ticket(ticket), "ticket_type") => vec![ticket.ticket_type.clone()],
        (Mapping::Ticket(ticket), "selling_branchoffice") => vec![ticket.selling_branchoffice.clone()],
        (Mapping::Client(client), "courses") => client.courses.clone(),
        (Mapping::Client(client), "branchoffices") => client.branchoffices.clone(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Severity;
    use crate::comparison::tests::client;
    use schemas::{RecordId, Version};

    fn refused(id: u64, field: &str) -> (RecordRef, Vec<Problem>) {
        let said = [(field.to_owned(), "нет такого значения".to_owned())];
        (RecordRef::contact(RecordId::try_new(id).unwrap()), vec![Problem::refused_by_otmechalka("", &said)])
    }

    #[test]
    fn names_that_otmechalka_refuses_are_told_with_what_to_do() {
        let version = Version { raw_sequence: 1, redrive: 0 };
        let mapping = client("Берёзкин", "2633");
        let all = [refused(1, "branchoffices"), refused(2, "branchoffices"), refused(3, "phone")];
        let sent =
            all.iter().map(|(record, _)| (*record, Sent { sequence: 1, version, mapping: mapping.clone() }));
        let findings = of(&all, &sent.collect());
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].severity, Severity::Warning);
        assert!(findings[0].message.contains("2 contacts are") && findings[0].message.contains("«2633»"));
        assert!(findings[0].action.ends_with("--entity contact --reason otmechalka.refused"));
        assert_eq!(of(&[refused(3, "phone")], &BTreeMap::new())[0].severity, Severity::Ok);
    }
}
