//! P4 to P6: three tasks through our client alone, and through public Python clients, on the same simulator.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bitrix24::{ChainLength, Client, Entity, Lane, Listing, RowSource, Update};
use e2e::School;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Map, Value, json};

use crate::Scale;
use crate::figure::Figure;
use crate::least;
use crate::portal::{self, Counts, Portal};

const PEERS: [&str; 2] = ["fast_bitrix24", "b24pysdk"];

/// What `plain` records begin with.
const FIRST_CONTACT: u64 = 1_000;
const FIRST_DEAL: u64 = 100_000;

/// Longest time for a peer's task.
const PATIENCE: Duration = Duration::from_secs(900);

/// Batches of updates that are under way at once, as in the status-writer.
const WRITES_IN_FLIGHT: usize = 8;

#[derive(Clone, Copy)]
enum Task {
    List,
    Rows,
    Write,
}

/// What a client needed for a task.
struct Outcome {
    counts: Counts,
    seconds: f64,
    error: Option<String>,
}

impl Task {
    const ALL: [Task; 3] = [Task::List, Task::Rows, Task::Write];

    fn figure(self) -> &'static str {
        match self {
            Task::List => "P4",
            Task::Rows => "P5",
            Task::Write => "P6",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Task::List => "list",
            Task::Rows => "rows",
            Task::Write => "write",
        }
    }

    fn amount(self, scale: Scale) -> u64 {
        match self {
            Task::List => 10_000,
            Task::Rows => 2_000,
            Task::Write => scale.pick(10_000, 4_000),
        }
    }

    fn what(self, scale: Scale) -> String {
        let amount = self.amount(scale);
        match self {
            Task::List => format!("list {amount} contacts"),
            Task::Rows => format!("rows of {amount} deals"),
            Task::Write => format!("write {amount} statuses"),
        }
    }

    /// Returns the least number of requests.
    fn least(self, scale: Scale) -> u64 {
        match self {
            Task::List => least::requests(least::list_commands(self.amount(scale))),
            Task::Rows => 1,
            Task::Write => least::requests(self.amount(scale)),
        }
    }

    /// Returns the requests demanded, and those that would be better.
    fn demanded(self, scale: Scale) -> (f64, f64) {
        match self {
            Task::List => (6.0, 5.0),
            Task::Rows => (2.0, 1.0),
            Task::Write => {
                let least = self.least(scale) as f64;
                ((least * 1.025).ceil(), least)
            }
        }
    }
}

/// Measures our client and then the others, each on a portal of its own that nobody has used.
pub async fn measure(scale: Scale, names: &[&str]) -> anyhow::Result<Vec<Figure>> {
    let tasks: Vec<Task> = Task::ALL.into_iter().filter(|task| names.contains(&task.figure())).collect();
    let mut figures = Vec::new();
    for client in std::iter::once("ours").chain(PEERS) {
        let contacts = usize::try_from(Task::List.amount(scale))?;
        let deals = usize::try_from(Task::Rows.amount(scale))?;
        // Peers pace themselves by the real clock, so the portal's runs as fast.
        let (school, portal) = portal::open(portal::school(contacts, deals, 1.0), &[]).await?;
        for task in &tasks {
            portal.reset().await?;
            let outcome = match client {
                "ours" => ours(&school, &portal, *task, scale).await?,
                peer => theirs(&school, &portal, peer, *task, scale).await?,
            };
            figures.extend(describe(client, *task, scale, &outcome));
        }
    }
    figures.sort_by_key(|figure| figure.name);
    Ok(figures)
}

fn describe(client: &str, task: Task, scale: Scale, outcome: &Outcome) -> Vec<Figure> {
    let name = task.figure();
    let what = task.what(scale);
    let end = outcome.error.as_ref().map_or(String::new(), |error| format!(" (gave up: {error})"));
    let least = task.least(scale);
    let requests =
        Figure::new(name, format!("{client}: {what}, requests{end}"), outcome.counts.requests as f64);
    let refused = Figure::new(name, format!("{client}: refused with 503"), outcome.counts.refused as f64);
    let seconds = Figure::new(name, format!("{client}: portal seconds"), outcome.seconds);
    let least_seconds = least::seconds(least);
    let is_write = matches!(task, Task::Write);
    let seconds = if is_write { seconds.least(least_seconds) } else { seconds };
    let requests = requests.least(least as f64);
    if client != "ours" {
        return vec![requests, refused, seconds];
    }
    let (demand, stretch) = task.demanded(scale);
    let seconds = if is_write { seconds.at_most(least_seconds + 5.0, least_seconds + 0.5) } else { seconds };
    vec![requests.at_most(demand, stretch), refused.none_allowed(), seconds]
}

async fn ours(school: &School, portal: &Portal, task: Task, scale: Scale) -> anyhow::Result<Outcome> {
    let client = Client::builder(school.bitrix24.webhook_url.clone().into()).build()?;
    let amount = task.amount(scale);
    let started = Instant::now();
    let done = match task {
        Task::List => list(&client).await?,
        Task::Rows => rows(&client, amount).await?,
        Task::Write => write(&client, amount).await?,
    };
    let seconds = started.elapsed().as_secs_f64();
    ensure!(done == amount, "our client did {done} of {amount}");
    Ok(Outcome { counts: portal.counts().await?, seconds, error: None })
}

async fn list(client: &Client) -> anyhow::Result<u64> {
    let select = ["ID", "NAME", "LAST_NAME", "PHONE"];
    let listing = Listing::classic("crm.contact.list", Map::new(), &select);
    let mut found = 0;
    let mut cursor = Some(0);
    while let Some(after) = cursor {
        let page = client.list_page(&listing, after, ChainLength::LONGEST, Lane::Live).await?;
        found += page.rows.len() as u64;
        cursor = page.next;
    }
    Ok(found)
}

async fn rows(client: &Client, amount: u64) -> anyhow::Result<u64> {
    let deals: Vec<u64> = (FIRST_DEAL..FIRST_DEAL + amount).collect();
    // Asked once in the life of a process; part of the task so as not to look better than it is.
    let source = client.probe_row_source(&deals, Lane::Live).await?;
    let rows = client.product_rows(&deals, source.unwrap_or(RowSource::Classic), Lane::Live).await?;
    Ok(rows.values().filter(|rows| rows.as_ref().is_ok_and(|rows| rows.len() == 1)).count() as u64)
}

async fn write(client: &Client, amount: u64) -> anyhow::Result<u64> {
    let update = |index: u64| {
        let fields = Map::from_iter([("UF_CRM_SYNC_STATUS".to_owned(), json!(format!("Успешно {index}")))]);
        Update { id: FIRST_CONTACT + index, fields }
    };
    let updates: Vec<Update> = (0..amount).map(update).collect();
    let outcomes: Vec<_> = futures::stream::iter(updates.chunks(50))
        .map(|updates| client.batch_updates(Entity::Contact, updates, Lane::Live))
        .buffer_unordered(WRITES_IN_FLIGHT)
        .try_collect()
        .await?;
    Ok(outcomes.iter().flatten().filter(|(_, outcome)| outcome.is_ok()).count() as u64)
}

async fn theirs(
    school: &School,
    portal: &Portal,
    peer: &str,
    task: Task,
    scale: Scale,
) -> anyhow::Result<Outcome> {
    let python = std::env::var("ROLLCALL_PYTHON").context("ROLLCALL_PYTHON names no Python; run ./bench")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/peer.py");
    let amount = task.amount(scale);
    let run = tokio::process::Command::new(python)
        .arg(script)
        .args([peer, task.word(), &school.bitrix24.webhook_url, &amount.to_string()])
        .kill_on_drop(true)
        .output();
    let output =
        tokio::time::timeout(PATIENCE, run).await.with_context(|| format!("{peer} did not end"))??;
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().with_context(|| {
        format!(
            "{peer} said nothing: {}",
            String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("")
        )
    })?;
    let answer: Value = serde_json::from_str(last).with_context(|| format!("what {peer} said"))?;
    let error = answer["error"].as_str().map(|error| error.lines().next().unwrap_or_default().to_owned());
    let done = answer["done"].as_u64().unwrap_or_default();
    ensure!(error.is_some() || done == amount, "{peer} did {done} of {amount}");
    let counts = portal.counts().await?;
    let error = error.map(|error| format!("{error}, {} statuses written", counts.statuses));
    Ok(Outcome { counts, seconds: answer["seconds"].as_f64().context("seconds of the peer")?, error })
}
