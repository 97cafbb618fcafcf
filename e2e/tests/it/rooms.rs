//! Who may know whom: the table of ARCHITECTURE.md, held by the manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Rooms that a room may depend on outside its tests.
const MAY_USE: [(&str, &[&str]); 16] = [
    ("schemas", &[]),
    ("runtime", &["schemas", "tls-fault"]),
    ("tls-fault", &[]),
    ("bitrix24", &["tls-fault"]),
    ("otmechalka", &["tls-fault"]),
    ("producer", &["schemas", "runtime", "bitrix24"]),
    ("mapper", &["schemas", "runtime"]),
    ("pusher", &["schemas", "runtime", "otmechalka"]),
    ("status-writer", &["schemas", "runtime", "bitrix24"]),
    ("simulators", &[]),
    ("ops", &["schemas", "runtime", "bitrix24", "otmechalka", "mapper", "producer"]),
    ("warehouse", &["schemas", "runtime", "bitrix24"]),
    ("e2e", &["schemas", "runtime"]),
    ("examples", &["schemas"]),
    ("benches", &["schemas", "runtime", "bitrix24", "otmechalka", "mapper", "e2e"]),
    (
        "fuzz",
        &["schemas", "runtime", "bitrix24", "otmechalka", "producer", "mapper", "pusher", "status-writer"],
    ),
];

/// Crates that a room must not reach at all, with the reason.
const MUST_NOT_USE: [(&str, &[&str], &str); 3] = [
    ("schemas", &["tokio", "async-nats", "reqwest", "sled"], "the contract does no I/O"),
    ("mapper", &["reqwest", "sled"], "the mapper is pure"),
    ("simulators", &["async-nats", "sled"], "the doubles know nothing of Rollcall"),
];

fn own_dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata");
    metadata
        .packages
        .iter()
        .map(|package| {
            let dependencies = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind == DependencyKind::Normal)
                .map(|dependency| dependency.name.clone())
                .collect();
            (package.name.to_string(), dependencies)
        })
        .collect()
}

#[test]
fn rooms_know_only_whom_they_may_know() {
    let found = own_dependencies();
    let rooms: BTreeSet<&str> = found.keys().map(String::as_str).collect();
    let listed: BTreeSet<&str> = MAY_USE.iter().map(|(room, _)| *room).collect();
    assert_eq!(rooms, listed, "every room stands in the table");
    for (room, allowed) in MAY_USE {
        let used: Vec<&String> = found[room].iter().filter(|name| rooms.contains(name.as_str())).collect();
        for name in used {
            assert!(allowed.contains(&name.as_str()), "{room} depends on {name}");
        }
    }
}

#[test]
fn rooms_leave_out_what_is_not_theirs() {
    let found = own_dependencies();
    for (room, forbidden, reason) in MUST_NOT_USE {
        for name in forbidden {
            assert!(!found[room].contains(*name), "{room} depends on {name}: {reason}");
        }
    }
}

/// To build a program a second time, for tests that it does not have, takes minutes over all of them.
#[test]
fn programs_that_are_not_built_for_tests_have_none() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata");
    let programs =
        metadata.packages.iter().flat_map(|package| &package.targets).filter(|target| target.is_bin());
    let (tested, untested): (Vec<_>, Vec<_>) = programs.partition(|program| program.test);
    for program in &untested {
        let text = std::fs::read_to_string(&program.src_path).expect("a program");
        assert!(!text.contains("test]") && !text.contains("\nmod "), "{} has tests or modules", program.name);
    }
    assert!(!tested.is_empty() && untested.len() > 8, "{} and {}", tested.len(), untested.len());
}

/// Reads all Rust files below a folder of ours.
fn sources(folder: &Path, found: &mut String) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours = |name: &str| !name.starts_with('.') && name != "target";
        if path.is_dir() && path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours) {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

#[test]
fn the_tests_that_the_guarantees_name_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut code = String::new();
    sources(&top, &mut code);
    let text = std::fs::read_to_string(top.join("docs/guarantees.md")).expect("the guarantees");
    // Every second piece stands between backticks. A name of a test is a sentence.
    let names = text.split('`').skip(1).step_by(2).filter(|name| {
        name.matches('_').count() >= 3
            && name.chars().all(|sign| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == '_')
    });
    let names: BTreeSet<&str> = names.collect();
    assert!(names.len() > 60, "{} names", names.len());
    let missing: Vec<&&str> = names.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "docs/guarantees.md names tests that do not exist: {missing:?}");
}
