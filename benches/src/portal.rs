//! A school for measuring, and what its portal's own counters say.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::consumer::PullConsumer;
use e2e::{School, SchoolBuilder, Stage};
use schemas::streams::{RESULTS, consumers};
use serde_json::{Value, json};

/// Longest time until all outcomes lie ready.
const PATIENCE: Duration = Duration::from_secs(300);

/// Warnings shown of one run.
const MOST_WARNINGS: usize = 10;

/// The administrator's side of the simulated portal, as far as `e2e` does not need it.
pub struct Portal {
    http: reqwest::Client,
    admin: String,
}

/// What the portal counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// HTTP requests, refused ones included.
    pub requests: u64,
    /// Requests refused because of the bucket.
    pub refused: u64,
    /// Commands refused because of computing time.
    pub refused_operating: u64,
    /// Requests cut off after a minute.
    pub cut_off: u64,
    /// Updates that wrote a status.
    pub statuses: u64,
    /// The highest level of the bucket.
    pub highest_level: f64,
}

impl Portal {
    /// Finds the portal of a school.
    pub fn of(school: &School) -> anyhow::Result<Portal> {
        let (front, _) =
            school.bitrix24.webhook_url.split_once("/rest/").context("webhook of the simulator")?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Portal { http, admin: format!("{front}/admin") })
    }

    /// Returns the portal's time in Unix seconds.
    pub async fn now(&self) -> anyhow::Result<f64> {
        self.get("clock").await?["unix"].as_f64().context("clock of the simulator")
    }

    /// Returns the writes after a number, in order.
    pub async fn writes_after(&self, sequence: u64) -> anyhow::Result<Vec<Value>> {
        let mut answer = self.get(&format!("history?origin=rest&after={sequence}")).await?;
        match answer["history"].take() {
            Value::Array(entries) => Ok(entries),
            _ => anyhow::bail!("history of the simulator"),
        }
    }

    /// Returns the counters.
    pub async fn counts(&self) -> anyhow::Result<Counts> {
        let counts = self.get("requests").await?;
        let number = |name: &str| counts[name].as_u64().with_context(|| format!("{name} of the counters"));
        let statuses = counts["status_updates"].as_object().context("status_updates of the counters")?;
        Ok(Counts {
            requests: number("requests")?,
            refused: number("refused_503")?,
            refused_operating: number("refused_operating")?,
            cut_off: number("timed_out_504")?,
            statuses: statuses.values().filter_map(Value::as_u64).sum(),
            highest_level: counts["highest_level"].as_f64().unwrap_or_default(),
        })
    }

    /// Empties counters, bucket and computing time.
    pub async fn reset(&self) -> anyhow::Result<()> {
        for path in ["requests/reset", "limits/reset"] {
            let answer = self.http.post(format!("{}/{path}", self.admin)).json(&json!({})).send().await?;
            ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        }
        Ok(())
    }

    /// Waits until this many statuses are written; returns the portal's time of that moment.
    ///
    /// Gives up when nothing has been written for `patience`.
    pub async fn statuses_written(&self, wanted: u64, patience: Duration) -> anyhow::Result<f64> {
        let mut progress = (0, tokio::time::Instant::now());
        loop {
            let now = self.now().await?;
            let written = self.counts().await?.statuses;
            if written >= wanted {
                return Ok(now);
            }
            if written > progress.0 {
                progress = (written, tokio::time::Instant::now());
            }
            ensure!(
                progress.1.elapsed() < patience,
                "{written} of {wanted} statuses were written, and none for {patience:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.http.get(format!("{}/{path}", self.admin)).send().await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        Ok(serde_json::from_str(&answer.text().await?)?)
    }
}

/// Begins a school with records without mistakes and a portal whose clock runs at a speed.
///
/// The intervals are those of an installation, in portal time: a poll each minute, a lag of two seconds.
pub fn school(contacts: usize, deals: usize, speed: f64) -> SchoolBuilder {
    let interval = humanly(Duration::from_secs_f64(60.0 / speed));
    School::builder()
        .plain(contacts, deals)
        .bitrix24(&["--clock-speed", &speed.to_string()])
        .otmechalka(&["--max-visitors", "1000000"])
        .env("PORTAL_CLOCK_SPEED", &speed.to_string())
        .env("CONTACT_SYNC_INTERVAL", &interval)
        .env("DEAL_SYNC_INTERVAL", &interval)
        .env("SYNC_LAG", "2s")
        .env("RUST_LOG", "warn")
}

fn humanly(duration: Duration) -> String {
    format!("{}ms", duration.as_millis().max(1))
}

/// Opens a school whose updates take so many portal seconds; no stage runs yet.
pub async fn open(
    builder: SchoolBuilder,
    update_seconds: &[(&str, f64)],
) -> anyhow::Result<(School, Portal)> {
    let school = builder.open().await?;
    let seconds: serde_json::Map<String, Value> =
        update_seconds.iter().map(|(method, seconds)| ((*method).to_owned(), json!(seconds))).collect();
    school.bitrix24.set(json!({ "costs": { "seconds": seconds } })).await?;
    let portal = Portal::of(&school)?;
    Ok((school, portal))
}

/// Starts all stages, the producer last, so that nothing waits for a program to start; returns the portal's time.
pub async fn start_stages(school: &mut School, portal: &Portal) -> anyhow::Result<f64> {
    for stage in [Stage::Mapper, Stage::Pusher, Stage::StatusWriter] {
        school.start(stage)?;
    }
    ready(school).await?;
    portal.reset().await?;
    let now = portal.now().await?;
    school.start(Stage::Producer)?;
    Ok(now)
}

/// Starts all stages, the status-writer only when the outcomes of this many records lie ready for it.
///
/// For figures about its pace alone: they must not hang on how fast this machine maps and pushes.
pub async fn start_with_outcomes_ready(
    school: &mut School,
    portal: &Portal,
    records: u64,
) -> anyhow::Result<()> {
    for stage in [Stage::Producer, Stage::Mapper, Stage::Pusher] {
        school.start(stage)?;
    }
    e2e::eventually("outcomes of all records", PATIENCE, || async {
        Ok((school.messages(RESULTS.name).await? >= records).then_some(()))
    })
    .await?;
    portal.reset().await?;
    school.start(Stage::StatusWriter)
}

/// Prints what the stages warned of, once each: a figure with a warning behind it deserves a second look.
pub fn show_warnings(school: &School) -> anyhow::Result<()> {
    let logs = school.logs()?;
    let lines = logs.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for line in lines.filter(|line| !line.contains("Waiting for")) {
        // Without the time in front.
        *counts.entry(line.split_once(' ').map_or(line, |(_, rest)| rest.trim())).or_default() += 1;
    }
    for (line, count) in counts.iter().take(MOST_WARNINGS) {
        eprintln!("  {count} x {line}");
    }
    Ok(())
}

/// Waits until every consumer has somebody who asks it for messages.
pub async fn ready(school: &School) -> anyhow::Result<()> {
    e2e::eventually("stages that ask for messages", Duration::from_secs(60), || async {
        for definition in consumers() {
            let consumer: PullConsumer = school
                .broker
                .jetstream()
                .get_consumer_from_stream(&definition.name, definition.stream)
                .await?;
            if consumer.cached_info().num_waiting == 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// Counts the versions whose status was written more than once: all records here have one version each.
pub async fn written_twice(portal: &Portal) -> anyhow::Result<u64> {
    let mut writes: BTreeMap<(String, u64), u64> = BTreeMap::new();
    for entry in portal.writes_after(0).await?.iter().filter(|entry| entry["applied"] == true) {
        let entity = entry["entity"].as_str().context("entity of a write")?.to_owned();
        let id = entry["id"].as_u64().context("id of a write")?;
        *writes.entry((entity, id)).or_default() += 1;
    }
    Ok(writes.values().filter(|count| **count > 1).count() as u64)
}
