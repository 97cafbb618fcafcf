//! Keeping to the portal's limits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::Response;
use bitrix24::{Batch, Client, Command, ErrorClass, Lane};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::portal::{Call, Portal, body, failure, success};

/// A portal's accounting of computing time on a fast clock.
struct Meter {
    start: Instant,
    speed: f64,
    limit: f64,
    cost: f64,
    /// Whether the commands of a batch count under `batch` rather than under their own methods.
    counts_batches: bool,
    buckets: BTreeMap<String, VecDeque<(f64, f64)>>,
    refused: usize,
    run: usize,
}

impl Meter {
    fn new(speed: f64, limit: f64, cost: f64) -> Self {
        let (counts_batches, buckets) = (false, BTreeMap::new());
        Self { start: Instant::now(), speed, limit, cost, counts_batches, buckets, refused: 0, run: 0 }
    }

    fn now(&self) -> f64 {
        1_767_225_600.0 + self.start.elapsed().as_secs_f64() * self.speed
    }

    fn sum(&mut self, name: &str) -> f64 {
        let now = self.now();
        let buckets = self.buckets.entry(name.to_owned()).or_default();
        while buckets.front().is_some_and(|(start, _)| start + 600.0 <= now) {
            buckets.pop_front();
        }
        buckets.iter().map(|(_, seconds)| seconds).sum()
    }

    fn spend(&mut self, name: &str, seconds: f64) {
        let now = self.now();
        let buckets = self.buckets.entry(name.to_owned()).or_default();
        match buckets.back_mut() {
            Some((start, spent)) if now < *start + 60.0 => *spent += seconds,
            _ => buckets.push_back((now, seconds)),
        }
    }

    fn time(&mut self, name: &str) -> Value {
        let (sum, now) = (self.sum(name), self.now());
        let reset_at = self.buckets[name].front().map_or(now, |(start, _)| start + 600.0).floor();
        json!({"finish": now, "operating": sum, "operating_reset_at": reset_at})
    }

    fn answer(&mut self, call: &Call) -> Response {
        if call.method != "batch" {
            return self.answer_call(&call.method);
        }
        let (mut results, mut errors, mut times) = (Map::new(), Map::new(), Map::new());
        for (id, command) in call.commands() {
            let method = command.split('?').next().unwrap_or_default().to_owned();
            let name = if self.counts_batches { "batch".to_owned() } else { method };
            if self.sum(&name) >= self.limit {
                self.refused += 1;
                errors.insert(id, json!({"error": "OPERATION_TIME_LIMIT", "error_description": ""}));
                continue;
            }
            self.run += 1;
            self.spend(&name, self.cost);
            results.insert(id.clone(), json!(true));
            times.insert(id, self.time(&name));
        }
        let result = json!({"result": results, "result_error": errors, "result_time": times});
        let time = self.time("batch");
        body(200, json!({ "result": result, "time": time }).to_string())
    }

    fn answer_call(&mut self, method: &str) -> Response {
        if self.sum(method) >= self.limit {
            self.refused += 1;
            return failure(429, "OPERATION_TIME_LIMIT", "");
        }
        self.run += 1;
        self.spend(method, self.cost);
        let time = self.time(method);
        body(200, json!({ "result": true, "time": time }).to_string())
    }
}

async fn metered(meter: Meter) -> (Portal, Arc<Mutex<Meter>>) {
    let meter = Arc::new(Mutex::new(meter));
    let shared = meter.clone();
    let portal = Portal::start(move |_, call| shared.lock().expect("no panic").answer(call)).await;
    (portal, meter)
}

fn updates(commands: usize) -> Batch {
    let mut batch = Batch::new();
    for id in 0..commands {
        let command = Command::new("crm.deal.update", &json!({ "id": id })).expect("a command");
        batch.push(command).expect("room");
    }
    batch
}

async fn send_at_once(client: &Client, tasks: usize, batches: usize, commands: usize) {
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..batches {
                    client.batch(&updates(commands), Lane::Backfill).await.expect("an answer");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

#[tokio::test]
async fn no_command_is_refused_for_computing_time_however_a_portal_counts() {
    for counts_batches in [false, true] {
        let meter = Meter { counts_batches, ..Meter::new(1_000.0, 48.0, 1.0) };
        let (portal, meter) = metered(meter).await;
        let client = portal.builder().operating_limit(48.0).build().expect("a client");
        send_at_once(&client, 3, 4, 10).await;
        let meter = meter.lock().expect("no panic");
        assert_eq!((meter.run, meter.refused), (120, 0), "counts batches: {counts_batches}");
        assert_eq!(client.stats().operating_refused, 0);
    }
}

#[tokio::test]
async fn computing_time_used_up_before_a_start_costs_one_refusal() {
    let mut meter = Meter::new(1_000.0, 48.0, 1.0);
    meter.spend("crm.deal.update", 48.5);
    let (portal, meter) = metered(meter).await;
    let client = portal.builder().operating_limit(48.0).build().expect("a client");
    let params = json!({"id": 1});
    let error = client.call("crm.deal.update", &params, Lane::Live).await.expect_err("an error");
    assert!(matches!(error.class(), ErrorClass::OperatingLimit { .. }), "{error}");
    client.call("crm.deal.update", &params, Lane::Live).await.expect("an answer after the wait");
    let meter = meter.lock().expect("no panic");
    assert_eq!((meter.run, meter.refused), (1, 1));
}

#[tokio::test]
async fn a_refused_method_waits_and_the_others_do_not() {
    let portal = Portal::start(|_, call| match call.method.as_str() {
        "crm.deal.update" => body(
            429,
            json!({
                "error": "OPERATION_TIME_LIMIT",
                "time": {"finish": 1_767_225_600.0, "operating_reset_at": 1_767_226_100},
            })
            .to_string(),
        ),
        _ => success(json!(true)),
    })
    .await;
    let client = portal.builder().clock_speed(1.0).build().expect("a client");
    let error = client.call("crm.deal.update", &json!({}), Lane::Live).await.expect_err("an error");
    let ErrorClass::OperatingLimit { method, reset_at } = error.class() else { panic!("{error}") };
    assert_eq!(
        (method.as_str(), reset_at.map(|at| at.timestamp())),
        ("crm.deal.update", Some(1_767_226_100))
    );

    let capacity = client.capacity("crm.deal.update");
    assert_eq!(capacity.commands_now, 0);
    assert!(capacity.ready_in > Duration::from_secs(400), "{capacity:?}");
    assert!(client.capacity("crm.contact.update").commands_now >= 50);

    let waiting = client.clone();
    let waiting =
        tokio::spawn(async move { waiting.call("crm.deal.update", &json!({}), Lane::Live).await.map(drop) });
    client.call("crm.contact.update", &json!({}), Lane::Live).await.expect("an answer");
    assert!(!waiting.is_finished());
    waiting.abort();
    assert_eq!(portal.methods(), ["crm.deal.update", "crm.contact.update"]);
    let stats = client.stats();
    assert_eq!((stats.operating_refused, stats.by_method["crm.deal.update"].operating_refused), (1, 1));
}

#[tokio::test]
async fn capacity_shrinks_as_commands_turn_out_dear() {
    let (portal, _meter) = metered(Meter::new(1.0, 480.0, 20.0)).await;
    let client = portal.builder().clock_speed(1.0).build().expect("a client");
    assert!(client.capacity("crm.deal.update").commands_now >= 50);
    client.batch(&updates(10), Lane::Live).await.expect("an answer");
    let capacity = client.capacity("crm.deal.update");
    assert_eq!((capacity.commands_now, capacity.seconds_each, capacity.ready_in), (14, 20.0, Duration::ZERO));
    client.batch(&updates(14), Lane::Live).await.expect("an answer");
    assert_eq!(client.capacity("crm.deal.update").commands_now, 0);
}

#[tokio::test]
async fn answers_without_any_time_are_no_obstacle() {
    let portal = Portal::start(|_, _| body(200, r#"{"result":{"result":{"c0":true}}}"#)).await;
    let client = portal.client();
    for _ in 0..3 {
        client.batch(&updates(1), Lane::Live).await.expect("an answer");
    }
    assert_eq!(client.portal_now(), None);
}

#[tokio::test]
async fn the_portals_time_is_known_from_its_answers() {
    let time = json!({"finish": 1_767_225_600.25, "date_finish": "2026-01-01T03:00:00+03:00"});
    let portal =
        Portal::start(move |_, _| body(200, json!({"result": true, "time": time}).to_string())).await;
    let client = portal.builder().clock_speed(1.0).build().expect("a client");
    assert_eq!(client.portal_now(), None);
    client.call("profile", &json!({}), Lane::Live).await.expect("an answer");
    let now = client.portal_now().expect("a time");
    assert!(now.timestamp_millis() >= 1_767_225_600_250);
    assert_eq!(now.offset().local_minus_utc(), 3 * 3_600);
}

#[tokio::test]
async fn two_hundred_requests_fill_no_bucket() {
    let (start, speed) = (Instant::now(), 100.0);
    let bucket = Arc::new(Mutex::new((0.0_f64, 0.0_f64)));
    let portal = Portal::start(move |_, _| {
        let now = (start.elapsed().as_secs_f64() * speed).floor();
        let mut bucket = bucket.lock().expect("no panic");
        let (level, at) = *bucket;
        let level = (level - 2.0 * (now - at)).max(0.0);
        if level > 50.0 {
            *bucket = (level, now);
            return failure(503, "QUERY_LIMIT_EXCEEDED", "");
        }
        *bucket = (level + 1.0, now);
        success(json!(true))
    })
    .await;
    let client = portal.builder().clock_speed(speed).build().expect("a client");
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let client = client.clone();
            let lane = if number % 3 == 0 { Lane::Live } else { Lane::Backfill };
            tokio::spawn(async move { client.call("profile", &json!({}), lane).await.map(drop) })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic").expect("an answer");
    }
    assert_eq!((client.stats().requests, client.stats().refused), (200, 0));
}

#[tokio::test]
async fn a_foreign_budget_is_asked_before_every_request_and_told_of_refusals() {
    let portal = Portal::start(|number, _| match number {
        0 => failure(503, "QUERY_LIMIT_EXCEEDED", ""),
        _ => success(json!(true)),
    })
    .await;
    // A refusal is noted as `None`.
    let noted = Arc::new(Mutex::new(Vec::new()));
    let (budget, refusals) = (noted.clone(), noted.clone());
    let client = portal.builder().budget(move |lane| {
        let budget = budget.clone();
        Box::pin(async move { budget.lock().expect("no panic").push(Some(lane)) })
    });
    let client = client.refused(move || {
        let refusals = refusals.clone();
        Box::pin(async move { refusals.lock().expect("no panic").push(None) })
    });
    let client = client.build().expect("a client");
    client.call("profile", &json!({}), Lane::Backfill).await.expect("an answer");
    assert_eq!(portal.calls().len(), 2);
    assert_eq!(*noted.lock().expect("no panic"), [Some(Lane::Backfill), None, Some(Lane::Backfill)]);
}

#[tokio::test]
async fn a_request_given_up_counts_as_spent() {
    let (portal, _meter) = metered(Meter::new(1.0, 480.0, 20.0)).await;
    let release = Arc::new(tokio::sync::Semaphore::new(1));
    let gate = release.clone();
    let client = portal.builder().clock_speed(1.0).budget(move |_| {
        let gate = gate.clone();
        Box::pin(async move { gate.acquire().await.expect("open").forget() })
    });
    let client = client.build().expect("a client");
    client.batch(&updates(2), Lane::Live).await.expect("an answer");
    assert_eq!(client.capacity("crm.deal.update").commands_now, 22);
    let task = tokio::spawn({
        let client = client.clone();
        async move { client.batch(&updates(2), Lane::Live).await.map(drop) }
    });
    // The second batch waits for the gate, its time set aside.
    while client.capacity("crm.deal.update").commands_now == 22 {
        tokio::task::yield_now().await;
    }
    task.abort();
    task.await.expect_err("aborted");
    assert_eq!(client.capacity("crm.deal.update").commands_now, 20);
}
