//! Who may know whom: the table of ARCHITECTURE.md, held by the manifests.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Rooms that a room may depend on outside its tests.
const MAY_USE: [(&str, &[&str]); 16] = [
    ("schemas", &[]),
    ("runtime", &["schemas"]),
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
