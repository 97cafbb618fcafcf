//! The page of malformed records, written from the fixtures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use mapper::{DEFAULT_MAPPING, Rules, map_record};
use schemas::problem::{SUCCESS, status_text};
use schemas::{Entity, Mapping};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::fixtures::{Fixture, changed, fixtures, record};

/// What the others are compared with.
const SOUND: [(Entity, &str); 2] = [(Entity::Contact, "online_only"), (Entity::Deal, "plain")];

/// Longest value that is shown whole, in characters.
const SHOWN: usize = 70;

const HEAD: &str = "# Malformed records

What happens to records that are not as they should be, and to answers that are none. Written from `mapper/fixtures`: after a
change there run `UPDATE_DOCS=1 cargo test -p mapper bad_input`. The texts by themselves are in [statuses](statuses.md).

Each record differs from a sound one in what stands in the second column. `Успешно` with words behind it tells
what reaches otmechalka. Values are written as in JSON; what cannot be seen is written as its number.

";

const FOOT: &str = "
## Answers and messages

| what comes | what happens | held by |
| --- | --- | --- |
| An answer of Bitrix24 that is empty, `null`, HTML, cp1251, begins with a BOM or a PHP warning, is cut short, badly compressed, followed by other bytes, or holds a lone surrogate, `1e400`, equal keys or 100,000 levels | the poll ends, nobody's status changes, the next poll resumes | `bitrix24`: `answers`; `e2e`: `answers_that_are_none_harm_nobody` |
| A body beyond 16 MiB, endless, or a compressed bomb | cut at 16 MiB, counted after decompression; then as above | the same |
| An answer that drips, or never comes | ends after 70 s for the whole of it | `bitrix24`: `a_dripping_answer_ends_at_the_time_limit_for_the_whole` |
| An answer of otmechalka that is none of its own, or beyond 1 MiB | the command waits and is tried again, looked up before it is created; nobody's status changes | `otmechalka`: `answer`, `tests/it`; `e2e`: `answers_that_are_none_harm_nobody` |
| A record that does not fit into a message (a comment of 2 MB) | travels without the bulkiest fields that nobody needs | `producer`: `trim`; `e2e`: `a_school_with_malformed_records_ends_as_the_oracle_says` |
| A message that cannot be read | becomes a dead letter with the header or the place in its data; the next one passes | `runtime`, `fuzz` |
| A mistake in the mapping file or the settings | every mistake is told at once, with its place; nothing starts | `mapper`: `rules`; `fuzz`: `settings` |
| Control characters and direction overrides in what `rollcall` shows | written as their number: `\\u{1b}` | `ops`: `terminal` |

Every one of these parsers has a [fuzz target](../fuzz/README.md).
";

fn page() -> String {
    let rules = Rules::parse(DEFAULT_MAPPING).unwrap();
    let mut page = HEAD.to_owned();
    for (entity, sound) in SOUND {
        let title = if entity == Entity::Contact { "Contacts" } else { "Deals" };
        let _ = writeln!(page, "## {title}\n\n| case | the record has | status |\n| --- | --- | --- |");
        let fixtures = fixtures(entity);
        let of = |name: &str| fixtures.iter().find(|(path, _)| path.ends_with(format!("{name}.json")));
        let (_, sound) = of(sound).expect("the sound record is a fixture");
        for (_, fixture) in &fixtures {
            let differing = differing(&rules, entity, sound, fixture);
            if !differing.is_empty() {
                let status = status(&rules, entity, sound, fixture);
                let _ =
                    writeln!(page, "| {} | {differing} | {} |", fixture.about, status.replace('|', "\\|"));
            }
        }
        page.push('\n');
    }
    page.truncate(page.trim_end().len());
    page + "\n" + FOOT
}

/// Tells which fields are not as in the sound record, under the names that the form has.
fn differing(rules: &Rules, entity: Entity, sound: &Fixture, fixture: &Fixture) -> String {
    let titles: BTreeMap<&str, &str> =
        rules.fields(entity).into_iter().map(|field| (field.code, field.title)).collect();
    let mut told = Vec::new();
    let mut compare = |of: &str, sound: Option<&RawValue>, found: Option<&RawValue>| {
        let (Some(before), Some(after)) = (members(sound), members(found)) else {
            if sound.map(RawValue::get) != found.map(RawValue::get) {
                told.push(format!("{of}: {}", code(found.map_or("nothing", RawValue::get))));
            }
            return;
        };
        for (name, value) in &after {
            if before.get(name).map(|value| compact(value)) != Some(compact(value)) {
                let name = titles.get(name.as_str()).map_or(name.as_str(), |title| title);
                told.push(format!("{name}: {}", code(&compact(value))));
            }
        }
        let absent = before.keys().filter(|name| !after.contains_key(*name));
        told.extend(absent.filter_map(|name| Some(format!("no {}", titles.get(name.as_str())?))));
    };
    compare("the record", Some(&sound.record), Some(&fixture.record));
    compare("product rows", only(&sound.product_rows), only(&fixture.product_rows));
    compare("seller", sound.seller.as_deref(), fixture.seller.as_deref());
    told.join("; ")
}

/// Returns the row of a list of one, and everything else as it is.
fn only(rows: &Option<Box<RawValue>>) -> Option<&RawValue> {
    let rows = rows.as_deref()?;
    match serde_json::from_str::<Vec<&RawValue>>(rows.get()).as_deref() {
        Ok([row]) => Some(row),
        _ => Some(rows),
    }
}

fn members(raw: Option<&RawValue>) -> Option<BTreeMap<String, Box<RawValue>>> {
    serde_json::from_str(raw?.get()).ok()
}

/// Writes a value on one line; of a list of phones or addresses only the values.
fn compact(raw: &RawValue) -> String {
    let Ok(value) = serde_json::from_str::<Value>(raw.get()) else { return raw.get().to_owned() };
    let values: Option<Vec<&Value>> =
        value.as_array().and_then(|items| items.iter().map(|item| item.get("VALUE")).collect());
    match values {
        Some(values) if !values.is_empty() => {
            values.iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
        }
        // Numbers stand there as they were sent, not as a float prints them.
        _ if value.is_number() => raw.get().to_owned(),
        _ => value.to_string(),
    }
}

/// Writes a value as code: bounded, in one cell, and nothing hidden in it.
fn code(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars().take(SHOWN) {
        let is_hidden =
            character.is_control() || schemas::problem::clean(&format!("а{character}а")).chars().count() < 3;
        match character {
            '|' => shown.push_str("\\|"),
            ' ' => shown.push(' '),
            hidden if is_hidden || (hidden.is_whitespace()) => {
                let _ = write!(shown, "\\u{{{:x}}}", hidden as u32);
            }
            other => shown.push(other),
        }
    }
    let length = text.chars().count();
    let more = if length > SHOWN { format!(" … ({length} characters)") } else { String::new() };
    format!("`` {shown} ``{more}")
}

fn status(rules: &Rules, entity: Entity, sound: &Fixture, fixture: &Fixture) -> String {
    let of = |fixture: &Fixture| map_record(rules, record(entity), &changed(fixture)).1;
    let sent = |mapping: &Mapping| match mapping {
        Mapping::Client(client) => serde_json::to_value(client).unwrap(),
        Mapping::Ticket(ticket) => serde_json::to_value(ticket).unwrap(),
        _ => Value::Null,
    };
    let mapping = of(fixture);
    match &mapping {
        Mapping::Refused(problems) => status_text(problems),
        Mapping::OutOfScope => format!("`{SUCCESS}`, nothing is sent"),
        Mapping::Client(_) | Mapping::Ticket(_) => {
            let (before, now) = (sent(&of(sound)), sent(&mapping));
            let mut told = vec![format!("`{SUCCESS}`")];
            for (field, value) in now.as_object().unwrap() {
                if before.get(field) != Some(value) {
                    told.push(format!("{field} {}", code(&value.to_string())));
                }
            }
            let absent = before.as_object().unwrap().keys().filter(|field| now.get(*field).is_none());
            told.extend(absent.map(|field| format!("no {field}")));
            told.join(", ")
        }
    }
}

#[test]
fn the_page_of_bad_input_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bad-input.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page(), "docs/bad-input.md is stale: run with UPDATE_DOCS=1");
}
