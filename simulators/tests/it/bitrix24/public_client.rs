//! A public client library must be able to talk to the double.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use simulators::bitrix24::{Options, StartingData};

use super::{Portal, STATUS};

/// Runs a script with the Python that `./test` prepares; returns what it printed.
fn run_script(name: &str, arguments: &[&str]) -> Value {
    let python = std::env::var_os("ROLLCALL_PYTHON")
        .expect("ROLLCALL_PYTHON names no Python with the packages of the tests; run ./test");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name);
    let output = Command::new(python).arg(script).args(arguments).output().expect("a started Python");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_bitrix24_lists_batches_and_updates() {
    let options = Options {
        data: StartingData::Plain,
        contacts: 230,
        deals: 120,
        clock_speed: 20.0,
        settings: json!({"rate_limit": {"refused_fill": true}}),
        ..Options::default()
    };
    let portal = Portal::start(options).await;
    let webhook = portal.webhook.clone();
    let seen = tokio::task::spawn_blocking(move || run_script("fast_bitrix24_check.py", &[&webhook])).await;
    let seen = seen.expect("the script's result");
    assert_eq!(seen["contacts"], json!((1000..1230).collect::<Vec<u64>>()));
    assert_eq!(seen["deals"], 120);
    assert_eq!(seen["items"], 120);
    assert_eq!(seen["rows"], json!(["100000", "100001", "100119"]));
    assert_eq!(seen["updated"], 120);
    assert_eq!(seen["user"], "101");
    assert!(seen["missing"].as_str().is_some_and(|error| error.contains("Contact is not found")), "{seen}");
    let counts = portal.admin_get("requests").await;
    assert_eq!(counts["status_updates"]["contact"], 120);
    assert_eq!(counts["refused_503"], 0);
    assert_eq!(portal.contact(1119).await[STATUS], "Статус 1119 + 100 % & ещё");
}
