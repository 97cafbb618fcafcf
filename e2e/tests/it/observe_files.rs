//! The files for Prometheus and Grafana speak of what the stages really tell, and the documentation of all of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

const DOCUMENT: &str = include_str!("../../../docs/observing.md");
const RULES: &str = include_str!("../../../deploy/observe/rules.yml");
const RULE_TESTS: &str = include_str!("../../../deploy/observe/rules.test.yml");
const DASHBOARD: &str = include_str!("../../../deploy/observe/grafana/dashboards/rollcall.json");

/// Returns the words of a text that look like names of our metrics.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("rollcall_") || *word == "process_start_time_seconds");
    let bare = |word: &str| {
        let ends = ["_bucket", "_count", "_sum"];
        let cut =
            ends.iter().find_map(|end| word.strip_suffix(end).filter(|word| word.ends_with("_seconds")));
        cut.unwrap_or(word).to_owned()
    };
    ours.map(bare).collect()
}

/// Returns the names in the first column of the documentation's tables that `is_wanted`.
fn documented(is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name.to_owned()).filter(|name| is_wanted(name)).collect()
}

fn alerts_in(rules: &str, key: &str) -> BTreeSet<String> {
    let found = rules.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key));
    found.map(|name| name.trim().to_owned()).collect()
}

#[test]
fn rules_and_dashboard_ask_only_for_metrics_that_exist() {
    // Held against the code by a test of each stage.
    let exist = documented(|name| name.contains('_'));
    assert!(exist.len() > 30);
    for (file, text) in [("rules", RULES), ("tests of the rules", RULE_TESTS), ("dashboard", DASHBOARD)] {
        let asked = metrics_in(text);
        assert!(asked.len() > 10, "{file}");
        let unknown: Vec<_> = asked.difference(&exist).collect();
        assert!(unknown.is_empty(), "the {file} ask for {unknown:?}");
    }
}

#[test]
fn every_alert_is_documented_and_tested() {
    let alerts = alerts_in(RULES, "alert: ");
    assert!(alerts.len() >= 19);
    assert_eq!(alerts, documented(|name| name.starts_with(|c: char| c.is_ascii_uppercase())));
    let tested = alerts_in(RULE_TESTS, "alertname: ");
    assert_eq!(alerts, tested, "every alert has numbers that raise it");
    let named = alerts_in(RULE_TESTS, "name: ");
    for alert in &alerts {
        assert!(named.contains(&format!("no {alert}")), "{alert} has no numbers that leave it silent");
    }
}

#[test]
fn the_dashboard_is_valid_and_every_panel_has_its_place() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let places: BTreeSet<String> = panels.iter().map(|panel| panel["gridPos"].to_string()).collect();
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!((places.len(), ids.len()), (panels.len(), panels.len()));
    let uid = "rollcall-prometheus";
    assert!(
        include_str!("../../../deploy/observe/grafana/provisioning/datasources/prometheus.yml").contains(uid)
    );
    assert!(panels.iter().all(|panel| panel["datasource"]["uid"] == uid));
}

#[test]
fn grafanas_own_types_know_everything_in_the_dashboard() -> anyhow::Result<()> {
    let python = std::env::var("ROLLCALL_PYTHON").context("ROLLCALL_PYTHON names no Python; run ./test")?;
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |dashboard: &Path| {
        let output = Command::new(&python).arg(room.join("grafana/dashboard.py")).arg(dashboard).output()?;
        let told = [output.stdout, output.stderr].concat();
        anyhow::Ok((output.status.code(), String::from_utf8_lossy(&told).into_owned()))
    };
    let (code, told) = read(&room.join("../deploy/observe/grafana/dashboards/rollcall.json"))?;
    assert_eq!(code, Some(0), "{told}");

    let mistyped = tempfile::NamedTempFile::new()?;
    std::fs::write(mistyped.path(), DASHBOARD.replacen("legendFormat", "legendFromat", 1))?;
    let (code, told) = read(mistyped.path())?;
    assert_eq!((code, told.trim()), (Some(1), "/panels/0/targets/0/legendFromat: unknown to Grafana"));
    Ok(())
}
