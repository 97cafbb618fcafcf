//! One shape for whatever is said with `--json`, and one exit code for each way to fail: every verb, with arguments that
//! it does not know, with no NATS, and where it has what it takes.

use std::collections::BTreeSet;
use std::path::Path;

use futures::{StreamExt, stream};
use serde_json::Value;

use crate::support::{Done, Nats, Settings, rollcall};

/// A call of a verb, and the exit codes that it has to end with.
struct Call {
    arguments: &'static [&'static str],
    /// Without a NATS; none where that may make no difference or takes CRMs.
    alone: Option<i32>,
    /// With streams in which nothing is; none where it would not end, or takes CRMs.
    well: Option<i32>,
}

const fn call(arguments: &'static [&'static str], alone: Option<i32>, well: Option<i32>) -> Call {
    Call { arguments, alone, well }
}

const CALLS: [Call; 18] = [
    call(&["up", "--once"], Some(3), None),
    call(&["up", "--dry-run"], Some(0), Some(0)),
    call(&["bootstrap"], Some(3), Some(0)),
    call(&["doctor"], Some(1), None),
    call(&["status"], Some(3), Some(0)),
    call(&["serve", "--listen", "127.0.0.1:0"], Some(3), None),
    call(&["dead-letters", "list"], Some(3), Some(0)),
    call(&["dead-letters", "show", "1"], Some(3), Some(2)),
    call(&["dead-letters", "redrive", "--all"], Some(3), Some(0)),
    call(&["dead-letters", "discard", "--all"], Some(3), Some(0)),
    call(&["dead-letters", "discard"], Some(3), Some(2)),
    call(&["history", "contact", "39910"], Some(3), Some(0)),
    call(&["preview", "contact", "39910"], Some(3), Some(1)),
    call(&["replay", "--contact", "39910"], Some(3), Some(0)),
    call(&["credentials", "--dry-run"], Some(0), Some(0)),
    call(&["reconcile"], Some(3), Some(1)),
    call(&["erase", "contact", "39910"], Some(3), Some(0)),
    call(&["completions", "bash"], Some(0), Some(0)),
];

/// Everything that any verb reads. Nobody is at these addresses.
fn settings(nats: &str) -> Settings {
    let text = |name, value: &str| (name, value.to_owned());
    vec![
        text("NATS_URL", nats),
        text("BITRIX24_WEBHOOK_URL", "http://127.0.0.1:9/rest/1/hunter2hunter2/"),
        text("OTMECHALKA_URL", "http://127.0.0.1:9"),
        text("OTMECHALKA_TOKEN", "t0ken-of-the-test"),
        text("SYNC_START_DATE", "2020-12-22"),
        text("SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP", "2020-12-24"),
        text("SYNC_DEAL_LAST_MODIFY_TIMESTAMP", "2020-12-24"),
    ]
}

/// Reads what was said as the one object that it has to be.
fn envelope(what: &str, done: &Done) -> Value {
    let told: Value = serde_json::from_str(&done.out)
        .unwrap_or_else(|error| panic!("{what}: {error} in {:?}, beside {:?}", done.out, done.err));
    let names: BTreeSet<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["ok", "summary", "result", "findings"]), "{what}: {told}");
    let is_said = |value: &Value| value.as_str().is_some_and(|text| !text.trim().is_empty());
    assert!(is_said(&told["summary"]), "{what}: {told}");
    let mut errors = 0;
    for finding in told["findings"].as_array().unwrap() {
        assert!(is_said(&finding["code"]) && is_said(&finding["message"]), "{what}: {finding}");
        let is_fine = finding["severity"] == "ok";
        assert!(is_fine || is_said(&finding["action"]), "{what}: what is to be done? {finding}");
        errors += usize::from(finding["severity"] == "error");
    }
    assert_eq!(told["ok"], done.code == Some(0), "{what}: exit code {:?} with {told}", done.code);
    assert_eq!(errors == 0, done.code == Some(0), "{what}: exit code {:?} with {told}", done.code);
    assert!(!done.out.contains("hunter2") && !done.out.contains("t0ken"), "{what}: a secret was shown");
    told
}

async fn try_all(
    folder: &Path,
    settings: &Settings,
    more: &[&str],
    code: impl Fn(&Call) -> Option<i32>,
) -> Vec<(String, Value)> {
    let calls = CALLS.iter().filter_map(|call| Some((call, code(call)?)));
    let tried = stream::iter(calls).map(|(call, code)| async move {
        let arguments = [call.arguments, more, &["--json"]].concat();
        let (what, done) = (arguments.join(" "), rollcall(folder, settings, &arguments).await);
        assert_eq!(done.code, Some(code), "{what}: {}{}", done.out, done.err);
        let told = envelope(&what, &done);
        (what, told)
    });
    tried.buffer_unordered(6).collect().await
}

fn first_code(told: &Value) -> &str {
    told["findings"][0]["code"].as_str().unwrap()
}

#[tokio::test]
async fn every_verb_is_in_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let help = rollcall(folder.path(), &Vec::new(), &["--help"]).await.out;
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    let verbs: BTreeSet<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    let tried: BTreeSet<&str> = CALLS.iter().map(|call| call.arguments[0]).chain(["help"]).collect();
    assert_eq!(tried, verbs);
    for call in &CALLS {
        let words = if call.arguments[0] == "dead-letters" { 2 } else { 1 };
        let verb = &call.arguments[..words];
        let help = rollcall(folder.path(), &Vec::new(), &[verb, &["--help"]].concat()).await.out;
        assert!(help.contains("Exit codes: 0 fine"), "{verb:?}: {help}");
    }
}

#[tokio::test]
async fn arguments_that_cannot_be_used_are_told_as_anything_else_is() {
    let folder = tempfile::tempdir().unwrap();
    for (what, told) in try_all(folder.path(), &Vec::new(), &["--bogus"], |_| Some(2)).await {
        assert_eq!(first_code(&told), "arguments", "{what}: {told}");
        assert!(told["summary"].as_str().unwrap().contains("'--bogus'"), "{what}: {told}");
    }
    for arguments in [
        &["replay", "--contact", "1x"][..],
        &["status", "--interval", "soon"],
        &["status", "--watch", "--interval", "0s"],
        &["history"],
        &["completions", "abacus"],
        &["dead-letters"],
        &["no-verb"],
        &[],
    ] {
        let done = rollcall(folder.path(), &Vec::new(), &[&["--json"], arguments].concat()).await;
        assert_eq!((done.code, done.err.as_str()), (Some(2), ""), "{arguments:?}: {}", done.out);
        assert_eq!(first_code(&envelope(&arguments.join(" "), &done)), "arguments", "{arguments:?}");
        let text = rollcall(folder.path(), &Vec::new(), arguments).await;
        assert_eq!((text.code, text.out.as_str()), (Some(2), ""), "{arguments:?}: {}", text.err);
    }
}

#[tokio::test]
async fn without_nats_every_verb_says_so_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings("nats://127.0.0.1:9");
    for (what, told) in try_all(folder.path(), &settings, &[], |call| call.alone).await {
        let names = told["findings"].as_array().unwrap().iter().map(|finding| &finding["code"]);
        let is_named = names.into_iter().any(|code| code == "nats.connection");
        assert_eq!(is_named, told["ok"] == false, "{what}: {told}");
    }
}

#[tokio::test]
async fn where_nothing_says_where_nats_is_every_verb_names_what_a_running_up_would_change() {
    let folder = tempfile::tempdir().unwrap();
    let settings: Settings = settings("").into_iter().filter(|(name, _)| *name != "NATS_URL").collect();
    let needs_nats = |call: &Call| (call.alone == Some(3) && call.arguments[0] != "up").then_some(2);
    let told = try_all(folder.path(), &settings, &[], needs_nats).await;
    assert!(told.len() > 10, "{}", told.len());
    for (what, told) in told {
        let finding = &told["findings"][0];
        assert!(finding["message"].as_str().unwrap().contains("NATS_URL: found nothing"), "{what}: {told}");
        let action = finding["action"].as_str().unwrap();
        assert!(action.contains("start `rollcall up` with the same STATE_DIR"), "{what}: {told}");
    }
}

#[tokio::test]
async fn where_all_is_well_every_verb_keeps_to_the_same_shape() {
    let nats = Nats::start().await;
    let settings = settings(&nats.server.url());
    assert_eq!(rollcall(nats.folder(), &settings, &["bootstrap"]).await.code, Some(0));
    let told = try_all(nats.folder(), &settings, &[], |call| call.well).await;
    let script = told.iter().find(|(what, _)| what.starts_with("completions")).unwrap();
    assert!(script.1["result"]["script"].as_str().unwrap().contains("dead-letters"), "{script:?}");
}
