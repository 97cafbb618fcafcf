//! The files that carry settings to the programs agree with each other.

use std::collections::BTreeSet;

const SAMPLE: &str = include_str!("../../../.env.sample");
const COMPOSE: &str = include_str!("../../../docker-compose.yml");
const CLUSTER: &str = include_str!("../../../docker-compose.cluster.yml");

/// What `.env.sample` says is not for containers, or what they have from elsewhere.
const NOT_FOR_CONTAINERS: [&str; 6] = [
    // A file of the host; every setting in it may stand in .env.
    "ROLLCALL_CONFIG",
    // A volume and fixed addresses inside the containers.
    "STATE_DIR",
    "HEALTH_LISTEN",
    // A fixed address inside the container.
    "SERVE_LISTEN",
    // Only against doubles whose clock was sped up.
    "PORTAL_CLOCK_SPEED",
    "OTMECHALKA_CLOCK_SPEED",
];

/// Each may stand in a file, named by the same with `_FILE`.
const SECRETS: [&str; 6] = [
    "BITRIX24_WEBHOOK_URL",
    "OTMECHALKA_TOKEN",
    "NATS_PASSWORD",
    "NATS_NKEY_SEED",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "WAREHOUSE_DATABASE_PASSWORD",
];

fn sample_names() -> BTreeSet<&'static str> {
    let name = |line: &'static str| line.trim_start_matches('#').split_once('=').map(|(name, _)| name);
    let is_name = |name: &&str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    SAMPLE.lines().filter_map(name).filter(is_name).collect()
}

#[test]
fn what_env_sample_explains_reaches_the_containers() {
    let names = sample_names();
    assert!(names.contains("MAPPING_FILE") && names.contains("SYNC_START_DATE"), "{names:?}");
    let lost: Vec<&&str> = names
        .iter()
        .filter(|name| !NOT_FOR_CONTAINERS.contains(name) && !COMPOSE.contains(&format!("${{{name}")))
        .collect();
    assert!(lost.is_empty(), "docker compose drops {lost:?}");
    for line in COMPOSE.lines() {
        let handed_on = SECRETS.iter().filter(|secret| line.contains(&format!("{secret}: ${{")));
        for secret in handed_on {
            assert!(
                COMPOSE.contains(&format!("{secret}_FILE: ${{{secret}_FILE")),
                "{secret}_FILE is dropped"
            );
        }
    }
}

#[test]
fn every_variable_of_the_compose_file_is_explained() {
    let names = sample_names();
    let files = COMPOSE.split("${").skip(1).chain(CLUSTER.split("${").skip(1));
    let used = files.filter_map(|rest| rest.split([':', '-', '}']).next());
    let is_explained =
        |name: &str| names.contains(name) || SECRETS.iter().any(|secret| name == format!("{secret}_FILE"));
    // Images are no settings of the programs.
    let unknown: BTreeSet<&str> =
        used.filter(|name| !is_explained(name) && !name.ends_with("_IMAGE")).collect();
    assert!(unknown.is_empty(), "{unknown:?} of the compose files are not in .env.sample");
}
