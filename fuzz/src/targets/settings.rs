//! What operators write: the mapping file, and settings as `NAME=VALUE` lines, a line `---`, and a TOML file.

use std::fmt::Write as _;

use mapper::{DEFAULT_MAPPING, Mapper, Rules};
use producer::Producer;
use pusher::Pusher;
use runtime::stage::{Stage, configure};
use runtime::{SettingsError, Source};
use status_writer::StatusWriter;

use super::text_of;
use crate::Target;

/// The mapping file.
pub const MAPPING_FILE: Target = Target { name: "mapping_file", seeds: mapping_files, check: mapping_file };

/// The settings of all four stages.
pub const SETTINGS: Target =
    Target { name: "settings_of_all_stages", seeds: settings_seeds, check: settings };

fn mapping_files() -> Vec<Vec<u8>> {
    let mut seeds = vec![DEFAULT_MAPPING.as_bytes().to_vec()];
    for (found, other) in [
        ("id = 48", "id = 0"),
        ("\"PHONE\"", "5"),
        ("[\"WON\"]", "[]"),
        ("[\"WON\"]", "[\"WON\", \"WON\"]"),
        ("deal = \"UF_CRM_SYNC_STATUS\"", "deal = \"STAGE_ID\""),
        ("[contact", "[contact.contact"),
    ] {
        seeds.push(DEFAULT_MAPPING.replacen(found, other, 1).into_bytes());
    }
    seeds
}

fn mapping_file(input: &[u8]) -> String {
    let text = text_of(input);
    match (Rules::parse(&text), Rules::parse(&text)) {
        (Ok(rules), Ok(_)) => {
            assert!(!rules.deal_stages().is_empty() && !rules.branchoffices().is_empty());
            "rules".to_owned()
        }
        (Err(errors), Err(again)) => {
            assert_eq!(errors, again);
            assert!(!errors.is_empty(), "refused without a reason");
            let lines = 1 + text.matches('\n').count();
            let mut words = String::new();
            for error in &errors {
                assert!(error.at.line >= 1 && error.at.column >= 1, "{error}");
                assert!(error.at.line <= lines, "line {} of {lines}", error.at.line);
                let told = error.to_string();
                assert!(told.chars().count() <= 1_000, "an error of {} characters", told.chars().count());
                assert!(!told.chars().any(char::is_control), "an error with control characters: {told:?}");
                // Where it is differs with every input and is nothing new.
                let _ = write!(words, "{} ", error.expected.split_whitespace().next().unwrap_or_default());
            }
            words.truncate(200);
            words
        }
        _ => panic!("the same file is read in two ways"),
    }
}

const GOOD: &str = "BITRIX24_WEBHOOK_URL=https://portal.example/rest/1/verysecretcode/
OTMECHALKA_URL=https://otmechalka.example
OTMECHALKA_TOKEN=verysecrettoken
NATS_URL=nats://127.0.0.1:4222,tls://nats.example:4222
NATS_USER=mapper
NATS_PASSWORD=verysecretpassword
SYNC_START_DATE=2020-12-22
SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP=2020-12-24T10:00:00+05:00
SYNC_DEAL_LAST_MODIFY_TIMESTAMP=2020-12-24
CONTACT_SYNC_INTERVAL=60s
DEAL_SYNC_INTERVAL=5m
CONTACT_STATUS_FIELD=UF_CRM_SYNC_STATUS
DEAL_STATUS_FIELD=UF_CRM_SYNC_STATUS
SYNC_LAG=2s
SYNC_OVERLAP=120s
RECONCILE_AT=03:30
SELLER_CACHE=1h
BITRIX24_BUCKET=50
BITRIX24_LEAK=2
BITRIX24_OPERATING_LIMIT=480
PORTAL_TIME_ZONE=Europe/Moscow
PORTAL_CLOCK_SPEED=1
OTMECHALKA_CLOCK_SPEED=1
OTMECHALKA_TIMEOUT=15s
OTMECHALKA_AUTH_SCHEME=Token
DEAL_STAGES=WON,C10:WON
STATE_DIR=./state
LOG_FORMAT=json
HEALTH_LISTEN=127.0.0.1:9464
OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318
OTEL_EXPORTER_OTLP_HEADERS=api-key=verysecretkey";

/// Settings whose values are secrets.
const SECRETS: [&str; 5] = [
    "BITRIX24_WEBHOOK_URL",
    "OTMECHALKA_TOKEN",
    "NATS_PASSWORD",
    "NATS_NKEY_SEED",
    "OTEL_EXPORTER_OTLP_HEADERS",
];

fn settings_seeds() -> Vec<Vec<u8>> {
    let file = "state_dir = \"/var/lib/rollcall\"\nSYNC_LAG = 3\nNATS_URL = [\"nats://a\", \"nats://b\"]\n";
    vec![
        GOOD.into(),
        format!("{GOOD}\n---\n{file}").into_bytes(),
        b"\n---\nSYNC_LAG = \"x\n".to_vec(),
        GOOD.lines()
            .map(|line| format!("{}=  \n", line.split('=').next().unwrap_or_default()))
            .collect::<String>()
            .into(),
        GOOD.lines()
            .map(|line| format!("{}=junk\u{202e}\n", line.split('=').next().unwrap_or_default()))
            .collect::<String>()
            .into(),
    ]
}

fn settings(input: &[u8]) -> String {
    let text = text_of(input);
    let (lines, file) = text.split_once("\n---\n").unwrap_or((&text, ""));
    // A file that is named could be anything on this machine, also a device that never ends.
    let names_a_file = |name: &str| name.contains("_FILE") || name == "ROLLCALL_CONFIG";
    let variables: Vec<(String, String)> = lines
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| !names_a_file(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let file =
        if ["_FILE", "_file", "ROLLCALL_CONFIG"].iter().any(|name| file.contains(name)) { "" } else { file };
    let stages: [fn(&Source) -> Option<SettingsError>; 4] =
        [refusal::<Producer>, refusal::<Mapper>, refusal::<Pusher>, refusal::<StatusWriter>];
    let mut words = String::new();
    for refusal in stages {
        let read = || refusal(&Source::with_file(variables.clone(), file));
        let error = read();
        assert_eq!(error, read(), "the same settings are read in two ways");
        let _ =
            write!(words, "{} ", error.as_ref().map_or("fine".to_owned(), |error| told(error, &variables)));
    }
    words
}

fn refusal<S: Stage>(source: &Source) -> Option<SettingsError> {
    configure::<S>(source).err()
}

fn told(error: &SettingsError, variables: &[(String, String)]) -> String {
    assert!(!error.0.is_empty(), "refused without a reason");
    for problem in &error.0 {
        assert!(!problem.name.is_empty() && !problem.expected.is_empty(), "{problem:?}");
        let said = format!("{} {} {} {}", problem.name, problem.found, problem.expected, problem.example);
        assert!(said.chars().count() <= 700, "a problem of {} characters", said.chars().count());
        assert!(!said.chars().any(char::is_control), "a problem with control characters: {said:?}");
    }
    // Examples are ours, and may look like what somebody has.
    let text: String =
        error.0.iter().map(|problem| format!("{} {}\n", problem.name, problem.found)).collect();
    for (_, secret) in variables.iter().filter(|(name, _)| SECRETS.contains(&name.as_str())) {
        let secret = secret.trim();
        // What is short, or stands in another setting too, may be shown by chance.
        let is_elsewhere = variables.iter().filter(|(_, value)| value.contains(secret)).count() > 1;
        assert!(secret.len() < 16 || is_elsewhere || !text.contains(secret), "a secret is shown");
    }
    let mut names: Vec<&str> = error.0.iter().map(|problem| problem.name.as_str()).collect();
    names.sort_unstable();
    names.join(",")
}
