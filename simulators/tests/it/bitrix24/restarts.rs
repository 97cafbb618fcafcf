//! The program: its ready line, its end, and what it keeps.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{PATIENCE, Portal, STATUS};

/// A running program; killed when dropped.
struct Program {
    child: Child,
    portal: Portal,
}

impl Program {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitrix24-sim"));
        command.args(["--dataset", "plain", "--contacts", "5", "--deals", "3", "--clock-speed", "100"]);
        command.arg("--state-dir").arg(folder).args(more).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a started program");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("the ready line");
        let ready: Value = serde_json::from_str(&line).expect("the ready line is JSON");
        assert_eq!(ready["ready"], true);
        let url = |name: &str| ready[name].as_str().expect("an address").to_owned();
        Self { child, portal: Portal::at(&url("webhook_url"), &url("admin_url")) }
    }

    fn code(&self) -> &str {
        self.portal.webhook.trim_end_matches('/').rsplit('/').next().expect("a code")
    }

    fn stop(&mut self, signal: Signal) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("signalled");
        self.child.wait().expect("its end")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_stopped_portal_comes_back_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut program = Program::start(folder.path(), &[]);
    let portal = &program.portal;
    portal.call("crm.contact.update", json!({"id": 1000, "fields": {STATUS: "Успешно"}})).await;
    portal.admin_post("contacts/1001", json!({"fields": {"NAME": "Новое"}})).await;
    portal.admin_delete("contacts/1004").await;
    portal.admin_delete("userfields/deal/UF_CRM_SYNC_STATUS").await;
    portal.admin_post("settings", json!({"rows_bump": false})).await;
    portal.admin_post("clock", json!({"advance_seconds": 86_400})).await;
    let (state, history) = (portal.admin_get("state").await, portal.history().await);
    let clock = portal.admin_get("clock").await["unix"].as_f64().expect("a time");
    let code = program.code().to_owned();
    assert!(program.stop(Signal::SIGTERM).success());

    let program = Program::start(folder.path(), &["--operating-limit", "60"]);
    assert_eq!(program.code(), code, "the webhook stays valid");
    let portal = &program.portal;
    assert_eq!(portal.admin_get("state").await, state);
    assert_eq!(portal.history().await, history);
    assert!(portal.admin_get("clock").await["unix"].as_f64() >= Some(clock), "time does not go back");
    let settings = portal.admin_get("settings").await;
    assert_eq!((&settings["rows_bump"], &settings["operating_limit"]), (&json!(false), &json!(60.0)));
    assert_eq!(portal.call("crm.deal.fields", json!({})).await["result"].get(STATUS), None);
    let id = portal.admin_post("contacts", json!({"fields": {"NAME": "x"}})).await["id"].clone();
    assert_eq!(id, 1005, "the id of a deleted record is not given again");
}

#[tokio::test]
async fn a_killed_portal_has_kept_what_was_flushed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut program = Program::start(folder.path(), &[]);
    let update = json!({"id": 1002, "fields": {STATUS: "Записано"}});
    program.portal.call("crm.contact.update", update).await;
    let flushed = async {
        let kept = || std::fs::read_to_string(folder.path().join("portal.jsonl")).expect("the state file");
        while !kept().contains("Записано") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, flushed).await.expect("flushed by itself");
    program.stop(Signal::SIGKILL);
    let program = Program::start(folder.path(), &[]);
    assert_eq!(program.portal.contact(1002).await[STATUS], "Записано");
    assert_eq!(program.portal.history().await.len(), 1);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_answers_that_never_come() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut program = Program::start(folder.path(), &[]);
    program.portal.admin_post("faults", json!({"kind": "no_answer"})).await;
    let waiting = program.portal.http.get(format!("{}profile", program.portal.webhook)).send();
    let struck = async {
        while program.portal.admin_get("requests").await["faults"].get("no_answer").is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = waiting => panic!("it was answered"),
        struck = tokio::time::timeout(PATIENCE, struck) => struck.expect("the fault strikes"),
    }
    assert!(program.stop(Signal::SIGINT).success());
}

#[test]
fn a_mistaken_option_ends_the_program_with_a_reason() {
    for (arguments, word) in [
        (["--zone", "Moscow"], "zone"),
        (["--clock-speed", "0"], "clock-speed"),
        (["--dataset", "x"], "demo"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_bitrix24-sim")).args(arguments).output().expect("its end");
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains(word), "{arguments:?}");
    }
}
