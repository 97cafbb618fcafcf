//! Crash points and mistakes stay out of what is built for use.

use std::collections::BTreeSet;
use std::path::Path;

use cargo_metadata::{Metadata, MetadataCommand, Package};

/// The rooms that hold what runs at a customer's.
const PROGRAMS: [&str; 6] = ["producer", "mapper", "pusher", "status-writer", "simulators", "ops"];

fn room<'m>(metadata: &'m Metadata, name: &str) -> &'m Package {
    metadata.packages.iter().find(|package| package.name.as_str() == name).expect("a room")
}

#[test]
fn no_program_is_built_with_fault_points() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata");
    let runtime = room(&metadata, "runtime");
    assert!(runtime.features.contains_key("faults"));
    assert!(!runtime.features.contains_key("default"), "nothing is on by itself");
    let rooms: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&str> = PROGRAMS.to_vec();
    while let Some(name) = open.pop() {
        if !reached.insert(name) {
            continue;
        }
        for dependency in &room(&metadata, name).dependencies {
            if ["runtime", "bitrix24", "otmechalka"].contains(&dependency.name.as_str()) {
                let (of, features) = (&dependency.name, &dependency.features);
                assert!(features.is_empty(), "{name} asks for {features:?} of {of}");
            }
            open.extend(rooms.get(dependency.name.as_str()));
        }
    }
    assert!(!reached.contains("e2e"), "e2e, which asks for fault points, is part of a program");
    let asks = |package: &&Package| {
        package
            .dependencies
            .iter()
            .any(|dependency| dependency.features.iter().any(|feature| feature == "faults"))
    };
    let asking: Vec<&str> =
        metadata.packages.iter().filter(asks).map(|package| package.name.as_str()).collect();
    assert_eq!(asking, ["e2e"]);
}

#[test]
fn a_release_has_no_fault_points_even_where_the_feature_is_on() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let manifest = std::fs::read_to_string(top.join("Cargo.toml")).expect("the manifest");
    assert!(!manifest.contains("debug-assertions"), "releases must not have debug assertions");
    let source = std::fs::read_to_string(top.join("runtime/src/faults.rs")).expect("the source");
    let guards = source.matches("cfg(all(feature = \"faults\", debug_assertions))").count();
    for room in ["runtime", "bitrix24", "otmechalka"] {
        let source = std::fs::read_to_string(top.join(room).join("src/lib.rs")).expect("the source");
        let guarded = "#[cfg(all(feature = \"faults\", debug_assertions))]\npub mod simulated;";
        assert!(source.contains(guarded), "{room} has its simulation in every build");
    }
    assert!(guards >= 4 && source.matches("cfg(feature").count() == 0, "every guard asks for both");
}

#[test]
fn images_and_the_run_script_build_the_programs_alone() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    for file in ["Dockerfile", "run"] {
        let text = std::fs::read_to_string(top.join(file)).expect("a file");
        let build = text.split("cargo build").nth(1).expect("a build").split("&&").next().unwrap_or_default();
        let build = build.split("\n\n").next().unwrap_or_default();
        assert!(build.contains("--release") && build.contains("-p pusher"), "{file}");
        assert!(
            !build.contains("e2e") && !build.contains("--workspace") && !build.contains("faults"),
            "{file}"
        );
    }
}
