//! P16, P17 and P20: how long work stands still when who does it is killed, while pupils are made all the time.
//!
//! Told are the time until the next effect, and the longest that any of the records waited at the killed one. The times are
//! those at which the server stored what came in and what went out.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::consumer::PullConsumer;
use chrono::{DateTime, Utc};
use e2e::{Program, School, SchoolBuilder, Stage, eventually};
use nix::sys::signal::Signal;
use schemas::streams::{COMMANDS, RAW, RESULTS, STATUSES, consumers};
use schemas::{Entity, RecordId, RecordRef, subjects};

use crate::Scale;
use crate::figure::Figure;
use crate::latency;

/// Pause between two new pupils.
const BETWEEN: Duration = Duration::from_millis(60);

/// Pupils before and after the moment of the kill.
const HALF: usize = 20;

const PATIENCE: Duration = Duration::from_secs(120);

/// A new pupil, and when it was made.
type Pupil = (u64, DateTime<Utc>);

fn school() -> SchoolBuilder {
    School::builder()
        .env("CONTACT_SYNC_INTERVAL", "300ms")
        .env("DEAL_SYNC_INTERVAL", "300ms")
        .env("RUST_LOG", "warn")
}

/// Measures the stages: each has another one of its kind beside it, on a disk of its own.
pub async fn of_stages(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let rounds = scale.pick(6, 2);
    let mut figures = Vec::new();
    for stage in Stage::ALL {
        let school = school().open().await?;
        let mut others = Vec::new();
        for other in Stage::ALL.into_iter().filter(|other| *other != stage) {
            others.push(school.replica(other, other.program())?);
        }
        let mut at_work = school.replica(stage, "0")?;
        school.after_polls(2).await?;
        let (mut next, mut longest) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            // Stands by, or shares the work, until its turn comes to be killed.
            let beside = school.replica(stage, &round.to_string())?;
            shares_the_work(&school, stage).await?;
            beside_is_ready(&school).await?;
            let (killed_at, pupils) = kill_amid(&school, &mut at_work, round).await?;
            let waits = waits_at(&school, stage, &pupils).await?;
            next.push(waits.next_effect_after(killed_at));
            longest.push(waits.longest());
            at_work = beside;
        }
        let name = stage.program();
        let what = |what: &str| format!("`{name}` killed, another beside it: seconds {what}");
        figures.push(Figure::new("P16", what("to its next effect, median"), median(&mut next)));
        figures.push(Figure::new(
            "P16",
            what("that a record waited, median of the longest"),
            median(&mut longest),
        ));
        figures.push(Figure::new("P16", what("that a record waited, worst"), worst(&longest)));
    }
    Ok(figures)
}

/// How a server of a cluster is lost.
#[derive(Clone, Copy)]
enum Loss {
    Killed,
    /// SIGSTOP: its connections stay, and nobody answers on them.
    Stopped,
}

/// Measures a cluster of three: the leader of a stream, and the leader of the cluster, killed and stopped.
pub async fn of_cluster(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let rounds = scale.pick(8, 2);
    let mut school = school().cluster().start().await?;
    school.after_polls(2).await?;
    let mut figures = Vec::new();
    let usual = undisturbed(&school).await?;
    figures.push(Figure::new(
        "P17",
        "nobody killed: seconds from an edit to its status, longest of 40",
        usual,
    ));
    let losses = [
        ("stream's leader killed", false, Loss::Killed),
        ("cluster's leader killed", true, Loss::Killed),
        ("stream's leader stopped", false, Loss::Stopped),
        ("cluster's leader stopped", true, Loss::Stopped),
    ];
    for (what_happens, is_meta, loss) in losses {
        let (mut silences, mut longest) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let name = if is_meta {
                meta_leader(&school)?
            } else {
                let watched = [RAW.name, COMMANDS.name, RESULTS.name, STATUSES.name][round % 4];
                eventually("a leader", PATIENCE, || async {
                    let Ok(stream) = school.broker.jetstream().get_stream(watched).await else {
                        return Ok(None);
                    };
                    Ok(stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()))
                })
                .await?
            };
            let mut pupils = make(&school, HALF, round * 2).await?;
            let lost_at = Utc::now();
            let server =
                school.servers().find(|server| server.name() == Some(&name)).context("the leader")?;
            let process = server.process_id().context("it runs")?;
            match loss {
                Loss::Killed => server.kill().await?,
                Loss::Stopped => e2e::signal(process, Signal::SIGSTOP)?,
            }
            pupils.extend(make(&school, HALF, round * 2 + 1).await?);
            let waits = waits_at_all(&school, &pupils).await?;
            silences.push(waits.next_effect_of_later(lost_at));
            longest.push(waits.longest());
            let server =
                school.servers().find(|server| server.name() == Some(&name)).context("the leader")?;
            match loss {
                Loss::Killed => server.restart().await?,
                Loss::Stopped => e2e::signal(process, Signal::SIGCONT)?,
            }
            beside_is_ready(&school).await?;
        }
        let what = |what: &str| format!("{what_happens}, {rounds} times: seconds {what}");
        let from = "from then to the status of an edit made later";
        figures.push(Figure::new("P17", what(&format!("{from}, median")), median(&mut silences)));
        figures
            .push(Figure::new("P17", what(&format!("{from}, worst")), worst(&silences)).at_most(15.0, 5.0));
        figures.push(Figure::new("P17", what("from an edit to its status, worst of all"), worst(&longest)));
    }
    Ok(figures)
}

/// Measures a broker of one server that comes back after a while, which is when its program is started again.
pub async fn of_broker(scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let rounds = scale.pick(5, 2);
    let mut school = school().start().await?;
    school.after_polls(2).await?;
    let mut figures = Vec::new();
    for away in [1, 60] {
        let (mut events, mut statuses) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let mut pupils = make(&school, HALF, round * 2).await?;
            school.nats.kill().await?;
            pupils.extend(make(&school, HALF, round * 2 + 1).await?);
            tokio::time::sleep(Duration::from_secs(away)).await;
            let started = Utc::now();
            school.nats.restart().await?;
            events.push(waits_at(&school, Stage::Producer, &pupils).await?.next_effect_after(started));
            statuses.push(waits_at_all(&school, &pupils).await?.next_effect_after(started));
            beside_is_ready(&school).await?;
        }
        let what = |what: &str| format!("NATS killed, back after {away} s, {rounds} times: seconds {what}");
        let first_event = what("to the next event, worst");
        figures.push(Figure::new("P20", first_event, worst(&events)).at_most(5.0, 5.0));
        figures
            .push(Figure::new("P20", what("to the next status, worst"), worst(&statuses)).at_most(5.0, 5.0));
    }
    Ok(figures)
}

/// When each pupil came to a stage and when it left it.
struct Waits(Vec<(DateTime<Utc>, DateTime<Utc>)>);

impl Waits {
    fn longest(&self) -> f64 {
        self.0.iter().map(|(came, left)| (*left - *came).as_seconds_f64()).fold(0.0, f64::max)
    }

    fn next_effect_after(&self, moment: DateTime<Utc>) -> f64 {
        self.0
            .iter()
            .map(|(_, left)| (*left - moment).as_seconds_f64())
            .filter(|s| *s > 0.0)
            .fold(f64::MAX, f64::min)
    }

    /// Of those that came after a moment, when the first left.
    fn next_effect_of_later(&self, moment: DateTime<Utc>) -> f64 {
        let later = self.0.iter().filter(|(came, _)| *came > moment);
        later.map(|(_, left)| (*left - moment).as_seconds_f64()).fold(f64::MAX, f64::min)
    }
}

async fn make(school: &School, count: usize, half: usize) -> anyhow::Result<Vec<Pupil>> {
    let mut made = Vec::new();
    for index in 0..count {
        let at = Utc::now();
        made.push((latency::create(school, half * HALF + index).await?, at));
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(made)
}

async fn kill_amid(
    school: &School,
    victim: &mut Program,
    round: usize,
) -> anyhow::Result<(DateTime<Utc>, Vec<Pupil>)> {
    let mut pupils = make(school, HALF, round * 2).await?;
    let at = Utc::now();
    victim.kill().await?;
    pupils.extend(make(school, HALF, round * 2 + 1).await?);
    Ok((at, pupils))
}

async fn undisturbed(school: &School) -> anyhow::Result<f64> {
    let pupils = make(school, HALF * 2, 100).await?;
    Ok(waits_at_all(school, &pupils).await?.longest())
}

async fn waits_at_all(school: &School, pupils: &[Pupil]) -> anyhow::Result<Waits> {
    let mut waits = Vec::new();
    for (id, made) in pupils {
        waits.push((*made, stored(school, STATUSES.name, &subjects::status(record(*id)?)).await?));
    }
    Ok(Waits(waits))
}

async fn waits_at(school: &School, stage: Stage, pupils: &[Pupil]) -> anyhow::Result<Waits> {
    let mut waits = Vec::new();
    for (id, made) in pupils {
        let record = record(*id)?;
        let raw = (RAW.name, subjects::raw(record));
        let command = (COMMANDS.name, subjects::command(record.id, record));
        let result = (RESULTS.name, subjects::result(record));
        let status = (STATUSES.name, subjects::status(record));
        let (came, left) = match stage {
            Stage::Producer => (None, raw),
            Stage::Mapper => (Some(raw), command),
            Stage::Pusher => (Some(command), result),
            Stage::StatusWriter => (Some(result), status),
        };
        let left = stored(school, left.0, &left.1).await?;
        let came = match came {
            Some((stream, subject)) => stored(school, stream, &subject).await?,
            None => *made,
        };
        waits.push((came, left));
    }
    Ok(Waits(waits))
}

fn record(id: u64) -> anyhow::Result<RecordRef> {
    Ok(RecordRef { entity: Entity::Contact, id: RecordId::parse(&id.to_string())? })
}

/// Waits for the first message of a subject; returns when it was stored.
async fn stored(school: &School, stream: &str, subject: &str) -> anyhow::Result<DateTime<Utc>> {
    eventually("a record to pass", PATIENCE, || async {
        let Ok(stream) = school.broker.jetstream().get_stream_no_info(stream).await else { return Ok(None) };
        Ok(stream.get_first_raw_message_by_subject(subject, 1).await.ok().map(|message| message.time))
    })
    .await
}

/// Waits until two ask for the messages of a stage; of the other stages only one does.
async fn shares_the_work(school: &School, stage: Stage) -> anyhow::Result<()> {
    let name = stage.program();
    let shared = consumers().into_iter().filter(|consumer| consumer.max_ack_pending == 1);
    for definition in shared.filter(|consumer| consumer.name.starts_with(name)) {
        eventually("a second one that asks", PATIENCE, || async {
            let jetstream = school.broker.jetstream();
            let consumer: PullConsumer =
                jetstream.get_consumer_from_stream(&definition.name, definition.stream).await?;
            Ok((consumer.cached_info().num_waiting >= 2).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Waits until nothing is on its way and every consumer is asked.
async fn beside_is_ready(school: &School) -> anyhow::Result<()> {
    eventually("a quiet flow", PATIENCE, || async {
        Ok((school.lag().await.unwrap_or(1) == 0).then_some(()))
    })
    .await?;
    crate::portal::ready(school).await?;
    // A stage that stands by has said so by then.
    school.after_polls(3).await
}

/// Returns the name of the server that leads the cluster, from what the servers logged last.
fn meta_leader(school: &School) -> anyhow::Result<String> {
    let mut newest = (String::new(), String::new());
    for name in ["n1", "n2", "n3"] {
        let log = std::fs::read_to_string(school.folder().join("nats").join(name).join("nats-server.log"))?;
        for line in log.lines().filter(|line| line.contains("Self is new JetStream cluster metadata leader"))
        {
            let at: String = line.split_whitespace().skip(1).take(2).collect();
            if at > newest.0 {
                newest = (at, name.to_owned());
            }
        }
    }
    ensure!(!newest.1.is_empty(), "no server says that it leads");
    Ok(newest.1)
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

fn worst(numbers: &[f64]) -> f64 {
    numbers.iter().copied().fold(0.0, f64::max)
}
