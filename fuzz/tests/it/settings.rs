//! Every setting of every stage, missing, empty, blank, and of the wrong kind: one report with every problem.

use std::collections::{BTreeMap, BTreeSet};

use mapper::Mapper;
use producer::Producer;
use pusher::Pusher;
use runtime::stage::{Stage, configure};
use runtime::{SettingsError, Source};
use status_writer::StatusWriter;

/// Settings that are enough for every stage.
const GOOD: [(&str, &str); 6] = [
    ("BITRIX24_WEBHOOK_URL", "https://portal.example/rest/1/secret/"),
    ("OTMECHALKA_URL", "https://otmechalka.example"),
    ("NATS_URL", "nats://127.0.0.1:4222"),
    ("SYNC_START_DATE", "2020-12-22"),
    ("SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP", "2020-12-24"),
    ("SYNC_DEAL_LAST_MODIFY_TIMESTAMP", "2020-12-24"),
];

/// Settings that take any text, so that none is wrong.
const ANY_TEXT: [&str; 4] = ["STATE_DIR", "OTMECHALKA_AUTH_SCHEME", "OTMECHALKA_TOKEN", "DEAL_STAGES"];

/// Settings that mean something only together with another one.
const IN_PAIRS: [&str; 3] = ["NATS_USER", "NATS_PASSWORD", "OTEL_EXPORTER_OTLP_HEADERS"];

/// Settings of others than the stages.
const NOT_OURS: [&str; 6] =
    ["RUST_LOG", "NATS_REPLICAS", "NATS_STORAGE", "NATS_JETSTREAM_PREFIX", "SERVE_LISTEN", "SERVE_HOSTS"];

/// How settings of the warehouse begin, which tests its own.
const WAREHOUSES: &str = "WAREHOUSE_";

/// What a stage says of settings that it cannot use.
type Refusal = fn(&Source) -> Option<SettingsError>;

/// What each stage reads of what `.env.sample` names, and how it tells what it cannot use.
fn stages() -> [(&'static str, Refusal); 4] {
    fn refusal<S: Stage>(source: &Source) -> Option<SettingsError> {
        configure::<S>(source).err()
    }
    [
        (Producer::NAME, refusal::<Producer>),
        (Mapper::NAME, refusal::<Mapper>),
        (Pusher::NAME, refusal::<Pusher>),
        (StatusWriter::NAME, refusal::<StatusWriter>),
    ]
}

/// Returns the names of all settings, from the file that operators copy.
fn names() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../.env.sample");
    let sample = std::fs::read_to_string(path).unwrap();
    let names = sample.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    let is_name = |name: &&str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    names
        .map(|(name, _)| name)
        .filter(is_name)
        .filter(|name| !NOT_OURS.contains(name) && !name.starts_with(WAREHOUSES))
        .map(str::to_owned)
        .collect()
}

fn with(changes: &BTreeMap<String, String>) -> Source {
    let mut settings: BTreeMap<String, String> =
        GOOD.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    settings.extend(changes.clone());
    Source::new(settings)
}

fn one(name: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(name.to_owned(), value.to_owned())])
}

fn told(error: Option<SettingsError>) -> BTreeSet<String> {
    error.into_iter().flat_map(|error| error.0).map(|problem| problem.name).collect()
}

#[test]
fn good_settings_are_enough_for_every_stage() {
    for (stage, refusal) in stages() {
        assert_eq!(refusal(&with(&BTreeMap::new())), None, "{stage}");
    }
    assert!(names().len() > 30, "{:?}", names());
}

#[test]
fn an_empty_or_blank_setting_is_an_absent_one() {
    let is_needed = |name: &str| GOOD.iter().any(|(needed, _)| *needed == name);
    for (stage, refusal) in stages() {
        for nothing in ["", "   ", "\t\n"] {
            let others = names().into_iter().filter(|name| !is_needed(name));
            let blank = others.map(|name| (name, nothing.to_owned())).collect();
            assert_eq!(refusal(&with(&blank)), None, "{stage} with everything else {nothing:?}");
        }
        for (name, _) in GOOD {
            let rest = GOOD.iter().filter(|(other, _)| *other != name);
            let absent = refusal(&Source::new(rest.map(|(name, value)| ((*name).into(), (*value).into()))));
            for nothing in ["", " \t\n"] {
                assert_eq!(refusal(&with(&one(name, nothing))), absent, "{stage} {name}={nothing:?}");
            }
            assert!(told(absent).is_subset(&BTreeSet::from([name.to_owned()])), "{stage} without {name}");
        }
    }
}

#[test]
fn spaces_around_a_value_do_not_matter() {
    for (stage, refusal) in stages() {
        for (name, value) in GOOD {
            assert_eq!(refusal(&with(&one(name, &format!("  {value}\n")))), None, "{stage} {name}");
        }
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_told_by_name_by_some_stage_and_is_the_only_problem() {
    for name in names() {
        let mut telling = 0;
        for (stage, refusal) in stages() {
            let problems = told(refusal(&with(&one(&name, "\u{202e}not;this: one"))));
            let of_a_pair = IN_PAIRS.contains(&name.as_str());
            assert!(
                of_a_pair || problems.is_subset(&BTreeSet::from([name.clone()])),
                "{stage} {name}: {problems:?}"
            );
            telling += problems.len();
        }
        let may_be_anything = [&ANY_TEXT[..], &IN_PAIRS].concat().contains(&name.as_str());
        assert!(telling > 0 || may_be_anything, "nobody minds what {name} holds");
    }
}

#[test]
fn everything_wrong_at_once_is_one_report_with_every_problem() {
    let single = |refusal: Refusal| -> BTreeSet<String> {
        let wrong = |name: &String| !told(refusal(&with(&one(name, "not;this: one")))).is_empty();
        // Beside the seed itself its file is one too many, whatever is in it; and stages are held against a mapping, which
        // has to be readable.
        let of_another = ["NATS_NKEY_SEED_FILE", "DEAL_STAGES"];
        let alone =
            |name: &String| !IN_PAIRS.contains(&name.as_str()) && !of_another.contains(&name.as_str());
        names().into_iter().filter(|name| alone(name) && wrong(name)).collect()
    };
    for (stage, refusal) in stages() {
        let each = single(refusal);
        let all = each.iter().map(|name| (name.clone(), "not;this: one".to_owned())).collect();
        let together = told(refusal(&with(&all)));
        assert!(each.len() >= 4, "{stage} reads {each:?}");
        assert_eq!(together, each, "{stage}: what is told alone is told together");
        let nothing = Source::new([]);
        let missing = told(refusal(&nothing));
        assert!(missing.contains("NATS_URL"), "{stage}: {missing:?}");
    }
}

#[test]
fn a_report_names_what_was_found_and_shows_a_value_that_would_do() {
    let secret = "nosuchscheme://user:hunter2hunter2@host/rest";
    for (stage, refusal) in stages() {
        for name in names() {
            let Some(error) = refusal(&with(&one(&name, secret))) else { continue };
            let text = error.to_string();
            assert!(
                text.contains(&name) && text.contains("expected") && text.contains("for example"),
                "{stage}: {text}"
            );
            let is_secret =
                ["WEBHOOK", "TOKEN", "PASSWORD", "SEED", "HEADERS"].iter().any(|part| name.contains(part));
            assert!(
                !is_secret || name.ends_with("_FILE") || !text.contains("hunter2"),
                "{stage} shows {name}"
            );
        }
    }
}
