//! `rollcall up` on a demo: real programs from the start to the last of them gone.

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Done, Running, command, eventually, http, processes_in, rollcall};

const SMALL: [&str; 4] = ["--contacts", "40", "--deals", "60"];

struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    async fn once(&self, more: &[&str]) -> Done {
        let arguments = [&["up", "--once", "--within", "150s"], more].concat();
        rollcall(self.0.path(), &Vec::new(), &arguments).await
    }

    /// `status` finds the NATS of the run by its state folder alone.
    async fn status_tells_of_the_run(&self) {
        let text = rollcall(self.0.path(), &Vec::new(), &["status"]).await;
        assert_eq!(text.code, Some(0), "{}{}", text.out, text.err);
        assert!(text.out.contains("contacts  read up to 20"), "{}", text.out);
        let json = rollcall(self.0.path(), &Vec::new(), &["status", "--json"]).await;
        let status: serde_json::Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(status["ok"], true, "{status}");
        let stages: Vec<_> =
            status["result"]["stages"].as_array().unwrap().iter().map(|s| &s["stage"]).collect();
        assert_eq!(stages, ["mapper", "pusher", "status-writer"]);
        let at_work: Vec<_> =
            status["result"]["at_work"].as_array().unwrap().iter().map(|at_work| &at_work["stage"]).collect();
        assert_eq!(at_work, ["producer", "status-writer"]);
        assert!(text.out.contains("at work as producer: ") && !text.out.contains("nobody"), "{}", text.out);
        let outcomes = status["result"]["outcomes"]["last_hour"].as_object().unwrap();
        assert!(outcomes["created"].as_u64().unwrap() > 10, "{status}");
        assert!(outcomes["refused"].as_u64().unwrap() > 0, "{status}");
    }

    /// Stages note what their calls cost every few seconds.
    async fn status_tells_of_the_budgets(&self) {
        let begun = std::time::Instant::now();
        loop {
            let told = rollcall(self.0.path(), &Vec::new(), &["status", "--json"]).await;
            let told: serde_json::Value = serde_json::from_str(&told.out).unwrap();
            let operating = told["result"]["operating"].as_array().unwrap();
            let of = |stage: &str, method: &str| {
                let ours = |told: &&serde_json::Value| told["stage"] == stage && told["method"] == method;
                operating.iter().find(ours).map(|told| told["used_seconds"].as_f64().unwrap())
            };
            if of("status-writer", "crm.contact.update").is_some_and(|used| used > 0.0 && used < 480.0) {
                assert_eq!(told["result"]["bucket_capacity"], 50.0, "{told}");
                assert!(told["result"]["bucket_requests"].as_f64().unwrap() >= 0.0, "{told}");
                return;
            }
            assert!(begun.elapsed() < crate::support::PATIENCE, "no budget is told: {told}");
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }

    fn up(&self, more: &[&str]) -> Running {
        let mut command = command("rollcall", self.0.path());
        command.arg("up").args(more);
        Running::start(command)
    }

    async fn is_deserted(&self) {
        eventually("the end of every program", || processes_in(self.0.path()).is_empty()).await;
    }

    fn process(&self, name: &str) -> Option<nix::unistd::Pid> {
        let found = processes_in(self.0.path()).into_iter().find(|process| process.ends_with(name))?;
        let id = found.split(' ').next()?.strip_prefix("/proc/")?.parse().ok()?;
        Some(nix::unistd::Pid::from_raw(id))
    }
}

/// Returns the numbers of the summary's line about an entity.
fn row(summary: &str, title: &str) -> Vec<u32> {
    let line = summary.lines().find(|line| line.starts_with(title)).unwrap_or_else(|| panic!("{summary}"));
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[tokio::test]
async fn a_first_run_catches_up_and_a_second_one_repeats_no_work() {
    let home = Home::new();
    let first = home.once(&SMALL).await;
    assert_eq!(first.code, Some(0), "{}{}", first.out, first.err);
    assert_eq!(processes_in(home.0.path()), Vec::<String>::new());
    for title in ["Ученики", "Абонементы"] {
        let [total, pushed, skipped, refused] = row(&first.out, title)[..] else { panic!("{}", first.out) };
        assert_eq!(total, pushed + skipped + refused, "{}", first.out);
        assert!(pushed > 0 && refused > 0, "{}", first.out);
    }
    assert!(first.out.contains("Что исправить"), "{}", first.out);
    let second = home.once(&[]).await;
    assert_eq!(second.code, Some(0), "{}{}", second.out, second.err);
    assert!(second.out.contains("С прошлого запуска ничего не изменилось"), "{}", second.out);
    assert!(second.out.contains("к отмечалке – 0."), "{}", second.out);
    assert_eq!(row(&second.out, "Ученики"), row(&first.out, "Ученики"));
    let another = home.once(&["--contacts", "50"]).await;
    assert_eq!(another.code, Some(2), "{}", another.err);
}

#[tokio::test]
async fn edits_are_followed_a_dead_stage_comes_back_and_ctrl_c_ends_it_all() {
    let home = Home::new();
    let mut up = home.up(&SMALL);
    let edit = up.hears("curl -X POST").await;
    up.hears("follows edits").await;

    nix::sys::signal::kill(home.process("pusher").unwrap(), Signal::SIGKILL).unwrap();
    up.hears("pusher ended (signal: 9 (SIGKILL)); starting it again in 1 s").await;

    let address = edit.split_whitespace().find(|word| word.starts_with("http")).unwrap();
    let fields = json!({"fields": {"NAME": "Анна", "LAST_NAME": "Новая"}});
    http().post(address).json(&fields).send().await.unwrap().error_for_status().unwrap();
    up.hears("изменено 1: ").await;
    home.status_tells_of_the_run().await;
    home.status_tells_of_the_budgets().await;

    let second = home.once(&[]).await;
    assert_eq!(second.code, Some(3));
    assert!(second.err.contains("Another `rollcall up`"), "{}", second.err);

    up.signal(Signal::SIGINT);
    assert_eq!(up.ends().await, Some(0));
    assert_eq!(processes_in(home.0.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_run_that_was_killed_leaves_nobody_behind_and_the_next_one_goes_on() {
    let home = Home::new();
    let mut up = home.up(&SMALL);
    up.hears("Started producer").await;
    // Marks the streams with the port that the double has this time.
    let marked = rollcall(home.0.path(), &Vec::new(), &["bootstrap"]).await;
    assert_eq!(marked.code, Some(0), "{}{}", marked.out, marked.err);
    up.signal(Signal::SIGKILL);
    up.ends().await;
    let next = home.once(&["--json"]).await;
    assert_eq!(next.code, Some(0), "{}{}", next.out, next.err);
    let told: serde_json::Value = serde_json::from_str(&next.out).expect("one object and nothing else");
    assert_eq!((&told["ok"], &told["result"]["caught_up"]), (&json!(true), &json!(true)), "{told}");
    let contacts = &told["result"]["contacts"];
    assert!(contacts["in_otmechalka"].as_u64().unwrap() > 10, "{told}");
    let parts = ["in_otmechalka", "out_of_scope", "refused"].map(|part| contacts[part].as_u64().unwrap());
    assert_eq!(contacts["total"], parts.iter().sum::<u64>(), "{told}");
    assert!(next.err.contains("Started producer"), "progress goes elsewhere: {}", next.err);
    home.is_deserted().await;

    let mut up = home.up(&[]);
    up.hears("Started producer").await;
    let looked = rollcall(home.0.path(), &Vec::new(), &["bootstrap", "--dry-run"]).await;
    assert_eq!(looked.code, Some(0), "another port is no other portal: {}{}", looked.out, looked.err);
    up.signal(Signal::SIGINT);
    assert_eq!(up.ends().await, Some(0));
}

#[tokio::test]
async fn a_dry_run_names_what_would_start_and_starts_nothing() {
    let home = Home::new();
    let told = rollcall(home.0.path(), &Vec::new(), &["up", "--dry-run", "--json"]).await;
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    let told: serde_json::Value = serde_json::from_str(&told.out).unwrap();
    let programs =
        ["nats-server", "bitrix24-sim", "otmechalka-sim", "producer", "mapper", "pusher", "status-writer"];
    assert_eq!(told["result"]["programs"], json!(programs), "{told}");
    assert!(!home.0.path().join("state").exists());
}

#[tokio::test]
async fn every_mistake_in_the_settings_is_told_before_anything_starts() {
    let home = Home::new();
    std::fs::write(home.0.path().join(".env"), "OTMECHALKA_URL=ftp://x\nCONTACT_SYNC_INTERVAL=soon\n")
        .unwrap();
    let refused = home.once(&[]).await;
    assert_eq!(refused.code, Some(2));
    for name in ["BITRIX24_WEBHOOK_URL", "OTMECHALKA_URL", "CONTACT_SYNC_INTERVAL", "SYNC_START_DATE"] {
        assert!(refused.err.contains(&format!("\n  {name}: ")), "{}", refused.err);
    }
    assert!(!home.0.path().join("state").exists());
}
