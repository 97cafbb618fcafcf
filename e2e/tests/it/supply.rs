//! What the programs are made of: licences, origins, and the bill of materials.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cargo_metadata::{Metadata, MetadataCommand};
use serde_json::Value;
use tokio::process::Command;

const DENY: &str = include_str!("../../../deny.toml");
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn metadata() -> anyhow::Result<Metadata> {
    let manifest = root().join("Cargo.toml");
    let mut command = MetadataCommand::new();
    Ok(command.manifest_path(manifest).other_options(["--locked".to_owned()]).exec()?)
}

#[test]
fn every_licence_is_one_that_deny_toml_allows() -> anyhow::Result<()> {
    let deny: toml::Table = DENY.parse()?;
    let allowed = deny["licenses"]["allow"].as_array().context("licenses.allow")?;
    let allowed: BTreeSet<&str> = allowed.iter().filter_map(toml::Value::as_str).collect();
    let clarified = deny["licenses"].get("clarify").and_then(toml::Value::as_array);
    let clarified = |name: &str| {
        let entry = clarified.into_iter().flatten().find(|entry| entry["crate"].as_str() == Some(name))?;
        entry["expression"].as_str().map(str::to_owned)
    };
    let packages = metadata()?.packages;
    assert!(packages.len() > 200);
    for package in packages {
        let name = format!("{} {}", package.name, package.version);
        let text = package.license.or_else(|| clarified(&package.name));
        let text = text.with_context(|| format!("{name} names no licence"))?;
        let licence = spdx::Expression::parse_mode(&text, spdx::ParseMode::LAX)
            .map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
        assert!(licence.evaluate(|asked| allowed.contains(asked.to_string().as_str())), "{name}: {text}");
    }
    Ok(())
}

#[test]
fn every_crate_comes_from_the_registry_with_a_checksum_or_from_here() -> anyhow::Result<()> {
    let lock: toml::Table = std::fs::read_to_string(root().join("Cargo.lock"))?.parse()?;
    let packages = lock["package"].as_array().context("package")?;
    for package in packages {
        let name = package["name"].as_str().context("name")?;
        let source = package.get("source").and_then(toml::Value::as_str);
        assert!(source.is_none_or(|source| source == REGISTRY), "{name} comes from {source:?}");
        assert_eq!(source.is_some(), package.get("checksum").is_some(), "{name}");
    }
    for package in metadata()?.workspace_packages() {
        for dependency in &package.dependencies {
            let is_wild = dependency.path.is_none() && dependency.req.to_string() == "*";
            assert!(!is_wild, "{} takes any version of {}", package.name, dependency.name);
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_bill_of_materials_is_cyclonedx_and_complete() -> anyhow::Result<()> {
    let python = std::env::var("ROLLCALL_PYTHON").context("ROLLCALL_PYTHON names no Python; run ./test")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bom.json");
    let made = Command::new(&python).arg(root().join("tools/sbom.py")).arg(&file).output().await?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let check = "import sys\n\
                 from cyclonedx.schema import SchemaVersion\n\
                 from cyclonedx.validation.json import JsonStrictValidator\n\
                 error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())\n\
                 sys.exit(str(error.data) if error else 0)";
    let checked = Command::new(&python).args(["-c", check]).arg(&file).output().await?;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let bill: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let components = bill["components"].as_array().context("components")?;
    let find = |name: &str| components.iter().find(|component| component["name"] == name);
    for name in ["tokio", "rustls", "async-nats", "sled", "producer", "pusher"] {
        assert!(find(name).is_some(), "{name}");
    }
    for name in ["proptest", "e2e", "rcgen", "fuzz", "benches"] {
        assert!(find(name).is_none(), "{name} is not shipped");
    }
    let own: BTreeSet<String> = metadata()?.workspace_packages().iter().map(|p| p.name.to_string()).collect();
    for component in components {
        let name = component["name"].as_str().context("name")?;
        assert!(component["licenses"][0]["expression"].is_string(), "{name}");
        assert!(own.contains(name) || component["hashes"][0]["content"].is_string(), "{name}");
    }
    Ok(())
}
