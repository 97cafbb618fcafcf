//! The double of otmechalka, over real connections and as a process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::StatusCode;
use serde_json::{Value, json};
use simulators::otmechalka::{Options, Simulator, start};

/// A caller of the double that shows status and body.
struct Caller {
    http: reqwest::Client,
    url: String,
    token: Option<&'static str>,
}

impl Caller {
    fn new(url: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        Self { http, url: url.trim_end_matches('/').to_owned(), token: None }
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        let request = self.http.request(method, format!("{}{path}", self.url));
        match self.token {
            Some(token) => request.header("authorization", format!("Token {token}")),
            None => request,
        }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request("GET", path)).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        answer(self.request("POST", path).json(&body)).await
    }

    async fn delete(&self, path: &str) -> (u16, Value) {
        answer(self.request("DELETE", path)).await
    }

    async fn history(&self) -> Vec<Value> {
        let (_, body) = self.get("/admin/history").await;
        body["history"].as_array().expect("a list").clone()
    }

    async fn fault(&self, rule: Value) {
        assert_eq!(self.post("/admin/faults", rule).await.0, 200);
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a whole answer");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn running(options: Options) -> (Simulator, Caller) {
    let simulator = start(options).await.expect("a running double");
    let caller = Caller::new(simulator.url.as_str());
    (simulator, caller)
}

fn client(origin_id: &str) -> Value {
    json!({
        "origin_id": origin_id, "last_name": "Свеклов", "first_name": "Василий", "phone": "79265672098",
        "courses": ["10985"], "branchoffices": ["2633"], "gender": "M",
    })
}

fn ticket(origin_id: &str, client: &str) -> Value {
    json!({
        "origin_id": origin_id, "client_origin_id": client, "ticket_type": "6 КМС индивидуальные 45 мин",
        "price_initial": "9000.00", "discount": "300.00", "price_final": "8700.00",
        "selling_date": "2026-01-13", "selling_branchoffice": "2633", "employee": "Андрей Сергеев",
        "payment_method": "ONLINE",
    })
}

#[tokio::test]
async fn records_are_created_changed_and_found() {
    let (_simulator, caller) = running(Options::default()).await;
    assert_eq!(caller.get("/api/clients/39912/").await.0, 404);
    let (status, created) = caller.post("/api/clients/", client("39912")).await;
    assert_eq!((status, &created["id"]), (200, &json!(12_456)));
    assert_eq!(caller.get("/api/clients/39912/").await, (200, created));

    let mut changed = client("39912");
    changed["first_name"] = json!("Виктор");
    let (status, changed) = caller.post("/api/clients/39912/", changed).await;
    assert_eq!((status, &changed["first_name"], &changed["id"]), (200, &json!("Виктор"), &json!(12_456)));
    assert_eq!(caller.post("/api/clients/5/", client("5")).await.0, 404);

    let (status, body) = caller.post("/api/tickets/", ticket("96038", "5")).await;
    assert_eq!((status, body), (400, json!({"client_origin_id": ["Клиент с внешним ID «5» не найден."]})));
    let (status, sold) = caller.post("/api/tickets/", ticket("96038", "39912")).await;
    assert_eq!((status, &sold["id"]), (200, &json!(24_545_676_786_u64)));
    assert_eq!(caller.get("/api/tickets/96038/").await, (200, sold));

    let entries = caller.history().await;
    let applied: Vec<&Value> = entries.iter().filter(|entry| entry["applied"] == true).collect();
    let paths: Vec<&str> = applied.iter().filter_map(|entry| entry["path"].as_str()).collect();
    assert_eq!(paths, ["/api/clients/", "/api/clients/39912/", "/api/tickets/"]);
    assert_eq!(applied[1]["body"]["first_name"], "Виктор");
    assert!(entries.windows(2).all(|pair| pair[0]["seq"].as_u64() < pair[1]["seq"].as_u64()));
    let (_, counters) = caller.get("/admin/requests").await;
    assert_eq!(counters["total"], 8);
    assert_eq!(counters["by_call"]["GET /api/clients/{origin_id}/"], 2);
    assert_eq!(counters["by_status"]["404"], 2);
}

#[tokio::test]
async fn a_second_create_shows_unless_origin_ids_are_unique() {
    let (_simulator, caller) = running(Options::default()).await;
    for _ in 0..2 {
        assert_eq!(caller.post("/api/clients/", client("1")).await.0, 200);
    }
    let (_, state) = caller.get("/admin/state").await;
    assert_eq!(state["clients"].as_array().map(Vec::len), Some(2));
    assert_eq!(caller.get("/api/clients/1/").await.1["id"], 12_456, "the older one is found");

    caller.post("/admin/settings", json!({"unique_origin": true})).await;
    let (status, body) = caller.post("/api/clients/", client("1")).await;
    assert_eq!((status, body), (400, json!({"origin_id": ["Запись с внешним ID «1» уже существует."]})));
}

#[tokio::test]
async fn visitors_are_limited_and_archived_ones_do_not_count() {
    let (_simulator, caller) = running(Options { max_visitors: Some(2), ..Options::default() }).await;
    caller.post("/api/clients/", client("1")).await;
    caller.post("/api/clients/", client("2")).await;
    let (status, body) = caller.post("/api/clients/", client("3")).await;
    assert_eq!(status, 400);
    assert_eq!(body, json!({"non_field_errors": ["Достигнут предел: 2 активных посетителей."]}));
    caller.post("/admin/clients/1", json!({"archived": true})).await;
    assert_eq!(caller.post("/api/clients/", client("3")).await.0, 200);
}

#[tokio::test]
async fn strangers_and_malformed_requests_are_refused() {
    let (_simulator, mut caller) =
        running(Options { token: Some("t0ken".to_owned()), ..Options::default() }).await;
    assert_eq!(caller.get("/api/clients/1/").await.0, 401);
    caller.token = Some("other");
    assert_eq!(caller.post("/api/clients/", client("1")).await.0, 401);
    caller.token = Some("t0ken");
    assert_eq!(caller.post("/api/clients/", client("1")).await.0, 200);
    assert_eq!(caller.get("/api/clients/1").await.0, 404);
    assert_eq!(caller.get("/api/clients/").await.0, 405);
    assert_eq!(caller.delete("/api/clients/1/").await.0, 405);
    let raw = |body: &'static str, media| {
        caller.request("POST", "/api/clients/").header("content-type", media).body(body)
    };
    assert_eq!(answer(raw("{", "application/json")).await.0, 400);
    assert_eq!(answer(raw("[]", "application/json")).await.0, 400);
    assert_eq!(answer(raw("{}", "text/plain")).await.0, 415);
    let (status, body) = answer(raw("{}", "application/json; charset=utf-8")).await;
    assert_eq!((status, &body["phone"]), (400, &json!(["Обязательное поле."])));

    caller.post("/admin/settings", json!({"token": "rotated"})).await;
    assert_eq!(caller.get("/api/clients/1/").await.0, 401, "the token was changed");
}

#[tokio::test]
async fn faults_with_an_answer_give_that_answer() {
    let (_simulator, caller) = running(Options::default()).await;
    for (kind, status, applied) in [
        ("down_503", 503, false),
        ("internal_500", 500, false),
        ("bad_gateway_502", 502, false),
        ("too_many_429", 429, false),
        ("unauthorized_401", 401, false),
        ("forbidden_403", 403, false),
        ("not_found_404", 404, false),
        ("validation_400", 400, false),
        ("error_200", 200, false),
        ("html_200", 200, false),
        ("garbage", 200, true),
        ("empty_body", 200, true),
        ("slow", 200, true),
    ] {
        caller.fault(json!({"kind": kind, "count": 1, "seconds": 0.01})).await;
        let request = caller.request("POST", "/api/clients/").json(&client(kind));
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), status, "{kind}");
        let found = caller.get(&format!("/api/clients/{kind}/")).await.0;
        assert_eq!(found == 200, applied, "{kind}");
        let entries = caller.history().await;
        let spoiled = &entries[entries.len() - 2];
        assert_eq!((&spoiled["fault"], &spoiled["applied"]), (&json!(kind), &json!(applied)), "{kind}");
    }
    caller.fault(json!({"kind": "too_many_429", "retry_after": 7, "count": 1})).await;
    let response = caller.request("GET", "/api/clients/1/").send().await.expect("an answer");
    assert_eq!(response.headers()["retry-after"], "7");
    caller.fault(json!({"kind": "internal_500", "apply": true, "count": 1})).await;
    assert_eq!(caller.post("/api/clients/", client("late")).await.0, 500);
    assert_eq!(caller.get("/api/clients/late/").await.0, 200);
}

#[tokio::test]
async fn faults_without_an_answer_break_the_connection() {
    let (_simulator, caller) = running(Options::default()).await;
    for (kind, applied) in
        [("reset_before", false), ("reset_after_apply", true), ("truncated", true), ("no_answer", false)]
    {
        caller.fault(json!({"kind": kind, "count": 1, "method": "POST", "seconds": 0.01})).await;
        let sent = caller.request("POST", "/api/clients/").json(&client(kind)).send().await;
        let error = match sent {
            Ok(response) => response.bytes().await.expect_err("half an answer"),
            Err(error) => error,
        };
        assert!(!error.is_connect() && !error.is_timeout(), "{kind}: {error:?}");
        assert_eq!(caller.get(&format!("/api/clients/{kind}/")).await.0 == 200, applied, "{kind}");
    }
}

#[tokio::test]
async fn faults_pick_records_and_run_out() {
    let (_simulator, caller) = running(Options::default()).await;
    caller
        .fault(json!([
            {"kind": "internal_500", "origin_id": "1"},
            {"kind": "down_503", "path": "/api/tickets/*", "skip": 1, "count": 1},
        ]))
        .await;
    assert_eq!(caller.post("/api/clients/", client("1")).await.0, 500);
    assert_eq!(caller.post("/api/clients/", client("2")).await.0, 200);
    let tickets = [404, 503, 404];
    for status in tickets {
        assert_eq!(caller.get("/api/tickets/5/").await.0, status);
    }
    let (_, faults) = caller.get("/admin/faults").await;
    assert_eq!(faults["faults"][1]["count"], 0);
    assert_eq!(caller.delete("/admin/faults/1").await.0, 200);
    assert_eq!(caller.post("/api/clients/", client("1")).await.0, 200);
    caller.delete("/admin/faults").await;
    assert_eq!(caller.get("/admin/faults").await.1, json!({"faults": []}));
    assert_eq!(caller.post("/admin/faults", json!({"kind": "melted"})).await.0, 400);
}

#[tokio::test]
async fn a_call_whose_caller_hangs_up_is_carried_out() {
    let (_simulator, caller) = running(Options::default()).await;
    caller.fault(json!({"kind": "slow", "seconds": 600, "method": "POST", "path": "/api/*"})).await;
    caller.post("/admin/settings", json!({"latency_ms": 500})).await;
    let call = tokio::spawn(caller.request("POST", "/api/clients/").json(&client("1")).send());
    eventually(async || caller.get("/admin/requests").await.1["total"] == 1).await;
    call.abort();
    caller.post("/admin/settings", json!({"latency_ms": 0})).await;
    eventually(async || caller.get("/api/clients/1/").await.0 == 200).await;
}

#[tokio::test]
async fn administrators_meddle_without_passing_for_callers() {
    let (_simulator, caller) = running(Options::default()).await;
    assert_eq!(caller.post("/admin/clients", client("1")).await.0, 200);
    assert_eq!(caller.post("/admin/clients/1", json!({"phone": "1", "gender": null})).await.0, 200);
    let (_, found) = caller.get("/api/clients/1/").await;
    assert_eq!((&found["phone"], found.get("gender")), (&json!("1"), None));
    assert_eq!(caller.post("/admin/tickets", ticket("7", "1")).await.0, 200);
    assert_eq!(caller.delete("/admin/tickets/7").await, (200, json!({"deleted": 1})));
    assert_eq!(caller.delete("/admin/tickets/7").await.0, 404);
    assert_eq!(caller.post("/admin/clients/1", json!({"origin_id": "2"})).await.0, 400);
    let entries = caller.history().await;
    let by_admin = entries.iter().filter(|entry| entry["admin"] == true).count();
    assert_eq!((by_admin, entries.len()), (4, 5));
    caller.delete("/admin/state").await;
    assert_eq!(caller.get("/admin/state").await.1["clients"], json!([]));
    assert_eq!(caller.get("/admin/nothing").await.0, 404);
    assert_eq!(caller.get("/admin").await.0, 404);
}

#[tokio::test]
async fn calls_at_work_together_are_counted() {
    let (_simulator, caller) = running(Options { latency_ms: Some(1000), ..Options::default() }).await;
    let (same, other) = ("/api/clients/1/", "/api/clients/2/");
    let answers = futures::future::join3(caller.get(same), caller.get(same), caller.get(other)).await;
    assert_eq!((answers.0.0, answers.1.0, answers.2.0), (404, 404, 404));
    let (_, counters) = caller.get("/admin/requests").await;
    assert_eq!((&counters["max_in_flight"], &counters["max_in_flight_per_record"]), (&json!(3), &json!(2)));
    caller.post("/admin/requests/reset", Value::Null).await;
    assert_eq!(caller.get("/admin/requests").await.1["total"], 0);
}

/// The double as a process of its own.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(state_dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_otmechalka-sim"))
            .args(["--token", "t0ken", "--state-dir"])
            .arg(state_dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line).expect("a line of JSON");
        assert_eq!(ready["ready"], true);
        let url = ready["url"].as_str().expect("an address").to_owned();
        assert_eq!(ready["admin_url"], format!("{url}/admin/"));
        Self { child, url }
    }

    fn caller(&self) -> Caller {
        Caller { token: Some("t0ken"), ..Caller::new(&self.url) }
    }

    /// Sends a signal and returns the exit code, if it was an exit.
    fn end(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("a signal sent");
        self.child.wait().expect("an end").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn everything_survives_a_stop_and_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let process = Process::start(folder.path());
    let caller = process.caller();
    caller.post("/api/clients/", client("1")).await;
    caller.fault(json!({"kind": "down_503", "count": 3, "path": "/api/tickets/*"})).await;
    caller.post("/admin/settings", json!({"max_visitors": 7})).await;
    assert_eq!(process.end(Signal::SIGTERM), Some(0));

    let process = Process::start(folder.path());
    let caller = process.caller();
    caller.post("/api/clients/", client("2")).await;
    assert_eq!(caller.get("/api/tickets/1/").await.0, StatusCode::SERVICE_UNAVAILABLE.as_u16());
    assert_eq!(process.end(Signal::SIGKILL), None);

    let process = Process::start(folder.path());
    let caller = process.caller();
    let (_, state) = caller.get("/admin/state").await;
    let ids: Vec<&Value> =
        state["clients"].as_array().expect("a list").iter().map(|c| &c["origin_id"]).collect();
    assert_eq!(ids, ["1", "2"]);
    let seqs: Vec<u64> = caller.history().await.iter().filter_map(|entry| entry["seq"].as_u64()).collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert_eq!(caller.get("/admin/faults").await.1["faults"][0]["count"], 2);
    assert_eq!(caller.get("/admin/settings").await.1["max_visitors"], 7);
    assert_eq!(process.end(Signal::SIGINT), Some(0));
}

#[test]
fn half_a_line_at_the_end_is_forgotten_and_other_damage_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("otmechalka.jsonl");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let options = || Options { state_dir: Some(folder.path().to_owned()), ..Options::default() };
    std::fs::write(&file, "{\"change\":\"empty\"}\n{\"change\":\"pu").expect("a file");
    runtime.block_on(async { start(options()).await.expect("a running double").stop() }).expect("a stop");
    std::fs::write(&file, "{\"change\":\"pu\n{\"change\":\"empty\"}\n").expect("a file");
    let error = runtime.block_on(start(options())).err().expect("a damaged file");
    assert!(format!("{error:#}").contains("line 1"), "{error:#}");
}

/// Waits until a condition holds, at most ten seconds.
async fn eventually(holds: impl AsyncFn() -> bool) {
    let patience = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), patience).await.expect("the condition holds in time");
}
