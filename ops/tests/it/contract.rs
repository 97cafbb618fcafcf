//! What every verb keeps to: exit codes, colours, standard input, completions, and a watch that ends when told to.

use std::io::Read as _;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::{Nats, PATIENCE, Running, command, rollcall};

const VERBS: [&str; 13] = [
    "up",
    "bootstrap",
    "doctor",
    "status",
    "serve",
    "dead-letters",
    "history",
    "preview",
    "replay",
    "credentials",
    "reconcile",
    "erase",
    "completions",
];

#[tokio::test]
async fn every_shell_gets_a_script_that_names_the_verbs() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = rollcall(folder.path(), &Vec::new(), &["completions", shell]).await;
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{shell}");
        for verb in VERBS {
            assert!(done.out.contains(verb), "{verb} is not in the script for {shell}");
        }
    }
    let unknown = rollcall(folder.path(), &Vec::new(), &["completions", "abacus"]).await;
    assert_eq!(unknown.code, Some(2), "{}", unknown.err);
}

#[tokio::test]
async fn a_preview_reads_standard_input_and_hides_what_it_read() {
    let folder = tempfile::tempdir().unwrap();
    let contact = json!({
        "ID": "39910", "NAME": "Елена", "LAST_NAME": "Зарудная",
        "UF_CRM_57AD7FAF7E6C4": "Зарудный", "UF_CRM_1608028374": "Артём",
        "PHONE": [{"VALUE": "8 (926) 555-01-02", "VALUE_TYPE": "MOBILE"}],
        "UF_CRM_58D15BB9CA8F4": [410], "UF_CRM_1470852549": [48],
    });
    let event = json!({"observed": "2026-01-10T12:30:05+03:00", "status": "", "record": contact}).to_string();
    let preview = async |arguments: &[&str], input: &str| {
        let mut command = command("rollcall", folder.path());
        command.args(["preview", "-"]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let done = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, out, err) = preview(&["--json"], &event).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["result"]["record"], "contact/39910", "{told}");
    assert_eq!(told["result"]["now"]["outcome"], "client", "{told}");
    let secret = "Зарудный";
    assert!(!out.contains(secret) && !out.contains("555"), "{out}");
    let (code, out, err) = preview(&["--reveal"], &event).await;
    assert!(code == Some(0) && out.contains(secret), "{out}{err}");
    let (code, _, err) = preview(&[], "Зарудный").await;
    assert!(code == Some(2) && err.contains("not the data of a raw event") && !err.contains(secret), "{err}");
}

#[tokio::test]
async fn a_watch_looks_again_until_it_is_told_to_stop() {
    let nats = Nats::start().await;
    let settings = nats.settings();
    rollcall(nats.folder(), &settings, &["bootstrap"]).await;
    let jetstream = nats.broker().await.jetstream().clone();
    // Work that nobody does.
    for subject in
        ["crm.cmd.03.contact.5", "crm.cmd.03.deal.7", "crm.cmd.05.contact.6", "dlq.mapper.contact.5"]
    {
        jetstream.publish(subject, "{}".into()).await.unwrap().await.unwrap();
    }
    let watch = |arguments: &[&str]| {
        let mut watching = command("rollcall", nats.folder());
        watching.args(["status", "--watch", "--interval", "200ms"]).args(arguments);
        watching.envs(settings.iter().map(|(name, value)| (name, value)));
        Running::start(watching)
    };
    let mut lines = watch(&["--json"]);
    let mut moments = Vec::new();
    for _ in 0..3 {
        let told: Value = serde_json::from_str(&lines.hears("\"findings\"").await).unwrap();
        assert_eq!(told["ok"], true, "{told}");
        let result = &told["result"];
        let pusher = &result["stages"][1];
        assert_eq!((&pusher["waiting"], &pusher["condition"]), (&json!(3), &json!("working")), "{told}");
        for (entities, undone, letters) in [("contacts", 2, 1), ("deals", 1, 0)] {
            assert_eq!(result[entities]["undone"]["pusher"], undone, "{told}");
            assert_eq!(result[entities]["dead_letters"], letters, "{told}");
        }
        moments.push(told["result"]["at"].as_str().unwrap().to_owned());
    }
    assert!(moments.is_sorted() && moments[0] < moments[2], "{moments:?}");
    lines.signal(Signal::SIGINT);
    assert_eq!(lines.ends().await, Some(0), "warnings are fine");

    jetstream.get_stream("CRM_CMD").await.unwrap().delete_consumer("pusher-03").await.unwrap();
    let mut text = watch(&[]);
    text.hears("ERROR    pusher: no consumer pusher-03").await;
    text.hears("ERROR    pusher: no consumer pusher-03").await;
    assert!(text.said.iter().all(|line| !line.contains('\u{1b}')), "no screen is cleared: {:?}", text.said);
    text.signal(Signal::SIGTERM);
    assert_eq!(text.ends().await, Some(1), "the last look found an error");
}

#[tokio::test]
async fn a_watch_says_that_nats_is_away_and_goes_on_when_it_is_back() {
    let mut nats = Nats::start().await;
    let settings = nats.settings();
    rollcall(nats.folder(), &settings, &["bootstrap"]).await;
    let mut watching = command("rollcall", nats.folder());
    watching.args(["status", "--watch", "--interval", "200ms", "--json"]);
    watching.envs(settings.iter().map(|(name, value)| (name, value)));
    let mut watching = Running::start(watching);
    watching.hears("\"ok\":true").await;
    nats.server.kill().await.unwrap();
    let told: Value = serde_json::from_str(&watching.hears("\"ok\":false").await).unwrap();
    assert_eq!(
        (&told["findings"][0]["code"], &told["result"]),
        (&json!("nats.connection"), &Value::Null),
        "{told}"
    );
    assert!(told["findings"][0]["action"].as_str().unwrap().contains("looking again in 200ms"), "{told}");
    nats.server.restart().await.unwrap();
    watching.hears("\"ok\":true").await;
    watching.signal(Signal::SIGTERM);
    assert_eq!(watching.ends().await, Some(0), "the last look was fine");
}

/// Runs a command on a terminal of its own, and returns what it showed there.
async fn on_a_terminal(arguments: &[&str], settings: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = command("rollcall", folder.path());
    command.args(arguments).env("TERM", "xterm").envs(settings.iter().copied());
    command.stdout(terminal.slave.try_clone().unwrap()).stderr(terminal.slave);
    let mut child = command.spawn().unwrap();
    // It holds the other end of the terminal too.
    drop(command);
    let mut shown = Vec::new();
    let reading = tokio::task::spawn_blocking(move || {
        // Ends in an error once nobody has the other end open any more.
        let _ended = std::fs::File::from(terminal.master).read_to_end(&mut shown);
        shown
    });
    tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    String::from_utf8(reading.await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_long_reading_shows_a_bar_on_a_terminal_and_nowhere_else() {
    let nats = Nats::start().await;
    let settings = nats.settings();
    rollcall(nats.folder(), &settings, &["bootstrap"]).await;
    let jetstream = nats.broker().await.jetstream().clone();
    for id in 1..=20 {
        jetstream.publish(format!("b24.raw.contact.{id}"), "{}".into()).await.unwrap().await.unwrap();
    }
    let url = nats.server.url();
    for arguments in [&["preview", "--from-stream"][..], &["replay", "--entity", "contact"]] {
        let shown = on_a_terminal(arguments, &[("NATS_URL", &url)]).await;
        assert!(shown.contains("of 20 messages read"), "{shown:?}");
        let piped = rollcall(nats.folder(), &settings, arguments).await;
        assert!(piped.err.is_empty() && !piped.out.contains("messages read"), "{}{}", piped.out, piped.err);
    }
}

#[tokio::test]
async fn colours_are_for_terminals_and_no_color_takes_them_away() {
    for arguments in [["--help"], ["--nonsense"]] {
        let coloured = on_a_terminal(&arguments, &[]).await;
        assert!(coloured.contains("\u{1b}["), "there are colours to take away: {coloured}");
        let plain = on_a_terminal(&arguments, &[("NO_COLOR", "1")]).await;
        assert!(plain.contains("rollcall") && !plain.contains('\u{1b}'), "{plain:?}");
    }
}
