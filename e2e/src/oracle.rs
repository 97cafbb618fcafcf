//! The oracle, a second implementation of the rules in another language.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// Asks the oracle about all that both CRMs hold and saw; returns every difference from what they must hold.
pub async fn differences(input: &Value) -> anyhow::Result<Vec<String>> {
    let python = std::env::var("ROLLCALL_PYTHON").context("ROLLCALL_PYTHON names no Python; run ./test")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("input.json");
    std::fs::write(&file, serde_json::to_vec(input)?)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle/oracle.py");
    let output = tokio::process::Command::new(python).arg(script).arg(&file).output().await?;
    anyhow::ensure!(
        output.status.success(),
        "the oracle failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let differences = answer["differences"].as_array().context("differences of the oracle")?;
    let checked = answer["checked"].as_u64().context("checked of the oracle")?;
    anyhow::ensure!(checked > 0, "the oracle checked nothing");
    Ok(differences.iter().filter_map(|difference| difference.as_str().map(str::to_owned)).collect())
}
