//! Whole records through the mapper. An input is a line with the entity, and the data of a `RecordChanged`.

use mapper::{DEFAULT_MAPPING, Rules, map_record};
use schemas::problem::{STATUS_MAX_CHARS, clean, status_text};
use schemas::{Client, Entity, Mapping, Problem, RecordChanged, RecordId, RecordRef, Ticket};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{files, first_line};
use crate::Target;

/// Contacts and deals.
pub const RECORD: Target = Target { name: "record", seeds, check };

/// What of a fixture of the mapper is the record.
#[derive(Deserialize)]
struct Fixture {
    record: Box<RawValue>,
    #[serde(default)]
    product_rows: Option<Box<RawValue>>,
    #[serde(default)]
    seller: Option<Box<RawValue>>,
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for entity in Entity::ALL {
        for file in files(&format!("mapper/fixtures/{entity}"), ".json") {
            let Ok(fixture) = serde_json::from_slice::<Fixture>(&file) else { continue };
            let part = |raw: &Option<Box<RawValue>>| {
                raw.as_ref().map_or("null".to_owned(), |raw| raw.get().to_owned())
            };
            seeds.push(
                format!(
                    "{entity}\n{{\"observed\":\"2020-12-21T10:20:00+03:00\",\"status\":\"\",\"record\":{},\"product_rows\":{},\"seller\":{}}}",
                    fixture.record.get(),
                    part(&fixture.product_rows),
                    part(&fixture.seller),
                )
                .into_bytes(),
            );
        }
    }
    seeds
}

fn check(input: &[u8]) -> String {
    let (line, body) = first_line(input);
    let Ok(changed) = serde_json::from_slice::<RecordChanged>(body) else { return "no record".to_owned() };
    let id = RecordId::try_new(39_910).expect("an id");
    let record = RecordRef { entity: Entity::from_token(line).unwrap_or(Entity::Contact), id };
    thread_local! {
        static RULES: Rules = Rules::parse(DEFAULT_MAPPING).expect("the mapping that comes with the mapper");
    }
    let map = || RULES.with(|rules| map_record(rules, record, &changed));
    let (pupil, mapping) = map();
    assert_eq!(map(), (pupil, mapping.clone()), "two mappings of one record");
    if record.entity == Entity::Contact {
        assert_eq!(pupil, Some(id), "a contact queues behind itself");
    }
    match mapping {
        Mapping::Client(client) => {
            check_client(&client);
            format!("client {} {}", client.courses.len(), client.email.is_some())
        }
        Mapping::Ticket(ticket) => {
            assert_eq!(Some(ticket.client_origin_id), pupil);
            check_ticket(&ticket);
            format!("ticket {}", ticket.payment_method)
        }
        Mapping::OutOfScope => "out of scope".to_owned(),
        Mapping::Refused(problems) => refused(&problems),
    }
}

fn refused(problems: &[Problem]) -> String {
    assert!(!problems.is_empty(), "refused without a reason");
    let status = status_text(problems);
    assert!(status.chars().count() <= STATUS_MAX_CHARS, "a status of {} characters", status.chars().count());
    assert_eq!(clean(&status), status, "a status that is no clean line");
    for problem in problems {
        assert!(problem.text.chars().any(|letter| ('а'..='я').contains(&letter)), "no Russian: {problem:?}");
        assert!(problem.text.chars().count() <= STATUS_MAX_CHARS, "{} is boundless", problem.code);
    }
    let codes: Vec<&str> = problems.iter().map(|problem| problem.code.as_str()).collect();
    codes.join(" ")
}

fn check_client(client: &Client) {
    for name in [&client.last_name, &client.first_name] {
        assert!((1..=100).contains(&name.chars().count()), "a name of {} characters", name.chars().count());
    }
    let value = serde_json::to_value(client).expect("a client is JSON");
    all_clean(&value);
    assert!((7..=15).contains(&client.phone.len()), "phone `{}`", client.phone);
    assert!(client.phone.bytes().all(|byte| byte.is_ascii_digit()), "phone `{}`", client.phone);
    assert!(client.email.as_ref().is_none_or(|email| email.matches('@').count() == 1));
    assert!(!client.courses.is_empty() && !client.branchoffices.is_empty(), "a client of nothing");
}

fn check_ticket(ticket: &Ticket) {
    let value = serde_json::to_value(ticket).expect("a ticket is JSON");
    all_clean(&value);
    let kopecks = |amount: &str| -> i64 {
        let (roubles, kopecks) = amount.split_once('.').expect("a point");
        assert!(kopecks.len() == 2 && amount.len() <= 12, "amount `{amount}`");
        format!("{roubles}{kopecks}").parse().expect("digits")
    };
    let [initial, discount, paid] =
        [&ticket.price_initial, &ticket.discount, &ticket.price_final].map(|amount| kopecks(amount));
    assert!(initial >= 0 && discount >= 0 && paid >= 0, "money below zero");
    assert_eq!(initial - discount, paid, "the three sums contradict each other");
    assert!(["CASH", "ONLINE"].contains(&ticket.payment_method.as_str()));
}

/// No text that goes to otmechalka may hold what nobody can see.
fn all_clean(value: &Value) {
    match value {
        Value::String(text) => {
            assert!(!text.chars().any(char::is_control), "control characters in {text:?}");
            assert!(
                !text.contains(['\u{202e}', '\u{200b}', '\u{2028}', '\u{feff}']),
                "hidden characters in {text:?}"
            );
            assert!(!text.trim().is_empty(), "a blank value");
        }
        Value::Array(items) => items.iter().for_each(all_clean),
        Value::Object(members) => members.values().for_each(all_clean),
        _ => {}
    }
}
