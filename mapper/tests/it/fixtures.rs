//! Each file of `fixtures/` is one record and what has to become of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mapper::{DEFAULT_MAPPING, Rules, map_record};
use schemas::problem::{STATUS_MAX_CHARS, catalogue, status_text};
use schemas::{Client, Entity, Mapping, Problem, RecordChanged, RecordId, RecordRef, Ticket};
use serde::Deserialize;
use serde_json::value::RawValue;

/// A record as Bitrix24 sends it, and what a person who knows the rules expects.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    /// What the case is about.
    pub about: String,
    pub record: Box<RawValue>,
    #[serde(default)]
    pub product_rows: Option<Box<RawValue>>,
    #[serde(default)]
    pub seller: Option<Box<RawValue>>,
    #[serde(default)]
    trimmed: Vec<String>,
    /// The contact behind whom a deal queues; a contact queues behind itself.
    #[serde(default)]
    pupil: Option<RecordId>,
    expect: Expectation,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Expectation {
    Client(Client),
    Ticket(Ticket),
    OutOfScope(bool),
    Refused(Vec<Complaint>),
}

/// A problem by its code and by what its text has to name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Complaint {
    code: String,
    says: Vec<String>,
}

pub fn fixtures(entity: Entity) -> Vec<(PathBuf, Fixture)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(entity.token());
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let fixture =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, fixture)
        })
        .collect()
}

pub fn changed(fixture: &Fixture) -> RecordChanged {
    RecordChanged {
        observed: chrono::DateTime::parse_from_rfc3339("2020-12-21T10:20:00+03:00").unwrap(),
        status: Some(String::new()),
        record: fixture.record.clone(),
        product_rows: fixture.product_rows.clone(),
        seller: fixture.seller.clone(),
        trimmed: fixture.trimmed.clone(),
    }
}

pub fn record(entity: Entity) -> RecordRef {
    RecordRef { entity, id: RecordId::try_new(39_910).unwrap() }
}

/// Compares, and returns every difference instead of stopping at the first file.
fn differences(path: &Path, entity: Entity, rules: &Rules, fixture: &Fixture) -> Vec<String> {
    let file = path.file_stem().unwrap().to_string_lossy();
    let (pupil, mapping) = map_record(rules, record(entity), &changed(fixture));
    let mut found = Vec::new();
    let expected_pupil = if entity == Entity::Contact { Some(record(entity).id) } else { fixture.pupil };
    if pupil != expected_pupil {
        found.push(format!("{file}: pupil {pupil:?}, expected {expected_pupil:?}"));
    }
    let agrees = match (&fixture.expect, &mapping) {
        (Expectation::Client(expected), Mapping::Client(client)) => expected == client,
        (Expectation::Ticket(expected), Mapping::Ticket(ticket)) => expected == ticket,
        (Expectation::OutOfScope(expected), Mapping::OutOfScope) => *expected,
        (Expectation::Refused(expected), Mapping::Refused(problems)) => complaints_agree(expected, problems),
        _ => false,
    };
    if !agrees {
        found.push(format!("{file} ({}): {mapping:#?}", fixture.about));
    }
    found
}

fn complaints_agree(expected: &[Complaint], problems: &[Problem]) -> bool {
    expected.len() == problems.len()
        && expected.iter().zip(problems).all(|(complaint, problem)| {
            complaint.code == problem.code && complaint.says.iter().all(|words| problem.text.contains(words))
        })
}

#[test]
fn every_fixture_becomes_what_it_says() {
    let rules = Rules::parse(DEFAULT_MAPPING).unwrap();
    let mut found = Vec::new();
    for entity in Entity::ALL {
        let fixtures = fixtures(entity);
        assert!(fixtures.len() >= 40, "only {} fixtures of {entity}s", fixtures.len());
        for (path, fixture) in &fixtures {
            found.extend(differences(path, entity, &rules, fixture));
        }
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_problem_that_the_mapper_can_find_has_a_fixture_and_stands_in_the_list_of_texts() {
    let rules = Rules::parse(DEFAULT_MAPPING).unwrap();
    let mut seen = BTreeSet::new();
    for entity in Entity::ALL {
        for (_, fixture) in fixtures(entity) {
            if let (_, Mapping::Refused(problems)) = map_record(&rules, record(entity), &changed(&fixture)) {
                assert!(!problems.is_empty() && status_text(&problems).chars().count() <= STATUS_MAX_CHARS);
                seen.extend(problems.into_iter().map(|problem| problem.code));
            }
        }
    }
    let is_ours = |code: &String| !code.starts_with("client.") && !code.starts_with("otmechalka.");
    let listed: BTreeSet<String> =
        catalogue().into_iter().map(|example| example.problem.code).filter(is_ours).collect();
    assert_eq!(seen, listed);
}
