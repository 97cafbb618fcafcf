//! `rollcall erase`: takes one person's data out of every stream.
//!
//! What is deleted is overwritten on the server's disk. In its place stays, for each record, a content-free outcome and
//! a content-free status of the newest version: they are the memory by which nothing is done twice or goes backwards.

mod find;
mod monument;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::Stream;
use clap::Args;
use runtime::{Broker, Log};
use schemas::streams::{CHECKPOINTS, STREAMS, WAITING, consumers};
use schemas::{Entity, RecordRef};
use serde::Serialize;

use crate::answer::Answer;
use crate::environment::Environment;
use crate::exit::{EXPLANATION, Exit, Failure};
use crate::nats;
use crate::reconcile::progress;
use crate::records;
use crate::signals::Stop;
use find::{Found, Person};

/// Erases one person's data from every stream: the contact's and its deals', dead letters and waiting tickets included
///
/// Delete the contact in Bitrix24 first, and its client in otmechalka: a record that is still in Bitrix24 travels again
/// at its next edit, and with the daily run or a repair. Without --yes it only tells what it would delete.
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct Erase {
    /// The contact: `contact 39910`, or `contact/39910`; a deal alone: `deal 96038`
    #[arg(required = true, num_args = 1..=2, value_name = "RECORD")]
    pub record: Vec<String>,
    /// Really erase; it cannot be undone
    #[arg(long)]
    pub yes: bool,
    /// Only tell what would be erased, also with --yes
    #[arg(long)]
    pub dry_run: bool,
}

/// What was erased, or would be.
#[derive(Debug, Serialize)]
pub struct Erased {
    /// Tells whether it is gone.
    pub erased: bool,
    /// The records that the messages were about.
    pub records: Vec<String>,
    /// Messages by stream.
    pub messages: BTreeMap<&'static str, usize>,
    /// Tickets that waited for the contact.
    pub waiting: usize,
    /// Dead letters that do not say whom they are about.
    pub unknown_letters: Vec<u64>,
}

/// Looks at the streams again this often, for what stages put there that had read it before.
const MOST_ROUNDS: usize = 60;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &Erase, json: bool) -> Result<Exit, Failure> {
    let person = Person(records::parse(&arguments.record.join("/")).map_err(Failure::settings)?);
    let broker = nats::connect(environment).await?;
    let answer = if arguments.yes && !arguments.dry_run {
        erase(&broker, person).await?
    } else {
        look(&broker, person).await?
    };
    answer.tell(json, told::text)
}

async fn look(broker: &Broker, person: Person) -> Result<Answer<Erased>, Failure> {
    let found = find::all(broker, person).await?;
    let waiting = find::waiting(broker, person).await?.len();
    let mut total = Total::default();
    total.note(&found);
    let summary = format!("{} would be erased; --yes does it, and nothing brings it back.", total.count());
    Ok(Answer::new(summary, total.erased(false, waiting, &found), told::findings(person, &found)))
}

/// What was found in all rounds together.
#[derive(Default)]
struct Total {
    messages: BTreeMap<&'static str, BTreeSet<u64>>,
    records: BTreeSet<RecordRef>,
}

impl Total {
    fn note(&mut self, found: &Found) {
        for (stream, sequences) in &found.messages {
            self.messages.entry(*stream).or_default().extend(sequences);
        }
        self.records.extend(&found.records);
    }

    fn count(&self) -> String {
        let messages: usize = self.messages.values().map(BTreeSet::len).sum();
        format!("{messages} messages about {} records", self.records.len())
    }

    fn highest(&self, stream: &str) -> u64 {
        self.messages.get(stream).and_then(BTreeSet::last).copied().unwrap_or(0)
    }

    fn erased(&self, erased: bool, waiting: usize, found: &Found) -> Erased {
        Erased {
            erased,
            records: self.records.iter().map(RecordRef::to_string).collect(),
            messages: self.messages.iter().map(|(stream, sequences)| (*stream, sequences.len())).collect(),
            waiting,
            unknown_letters: found.unknown_letters.clone(),
        }
    }
}

async fn erase(broker: &Broker, person: Person) -> Result<Answer<Erased>, Failure> {
    let stop = Stop::listen()?;
    let (mut total, mut waiting, mut busy) = (Total::default(), 0, Vec::new());
    let (mut found, mut is_finished) = (Found::default(), false);
    for _ in 0..MOST_ROUNDS {
        if stop.is_asked() {
            break;
        }
        // Before looking: what a stage had in hand then is in the streams by now.
        busy = busy_consumers(broker, &total).await?;
        found = find::all(broker, person).await?;
        let is_clean = found.messages.values().all(Vec::is_empty);
        if is_clean && busy.is_empty() {
            is_finished = true;
            break;
        }
        monument::raise(broker, &found).await?;
        delete(broker, &found).await?;
        total.note(&found);
        waiting += forget_waiting(broker, person).await?;
        tokio::time::sleep(PAUSE).await;
    }
    // What a reconciliation that was broken off has found so far names fields of anybody.
    let checkpoints = broker.bucket(&CHECKPOINTS).await.map_err(Failure::trouble)?;
    progress::forget(&checkpoints).await.map_err(Failure::trouble)?;
    let mut findings = told::findings(person, &found);
    if !is_finished {
        findings.push(told::unfinished(&busy, stop.is_asked()));
    }
    let summary = format!("{} erased.", total.count());
    Ok(Answer::new(summary, total.erased(is_finished, waiting, &found), findings))
}

/// Names the consumers that may still work on something that was erased.
async fn busy_consumers(broker: &Broker, total: &Total) -> Result<Vec<String>, Failure> {
    let mut busy = Vec::new();
    for definition in consumers() {
        let consumer: Result<PullConsumer, _> =
            broker.jetstream().get_consumer_from_stream(&definition.name, definition.stream).await;
        let consumer = consumer.map_err(|error| {
            Failure::trouble(format!("Cannot look at consumer {}: {error}", definition.name))
        })?;
        let (info, highest) = (consumer.cached_info(), total.highest(definition.stream));
        if info.num_ack_pending > 0 && info.ack_floor.stream_sequence < highest {
            busy.push(definition.name);
        }
    }
    Ok(busy)
}

/// Deletes the messages one by one, which makes the server overwrite them.
async fn delete(broker: &Broker, found: &Found) -> Result<(), Failure> {
    // In the order of the flow, so that no stage makes from the earlier what is gone from the later.
    for definition in STREAMS {
        let stream = broker.stream(definition.name).await.map_err(Failure::trouble)?;
        let log = broker.log(definition.name).await.map_err(Failure::trouble)?;
        for sequence in found.messages.get(definition.name).into_iter().flatten() {
            delete_one(&stream, &log, definition.name, *sequence).await?;
        }
    }
    Ok(())
}

async fn delete_one(stream: &Stream<()>, log: &Log, name: &str, sequence: u64) -> Result<(), Failure> {
    match stream.delete_message(sequence).await {
        Ok(true) => Ok(()),
        // By age, or because a parked command's time had come.
        Err(_) if matches!(log.at(sequence).await, Ok(None)) => Ok(()),
        Ok(false) => Err(Failure::trouble(format!("NATS refused to delete message {sequence} of {name}"))),
        Err(error) => Err(Failure::trouble(format!("Message {sequence} of {name} was not deleted: {error}"))
            .remedy("Run the same command again; a stream that denies deletes has to be restored without that first")),
    }
}

async fn forget_waiting(broker: &Broker, person: Person) -> Result<usize, Failure> {
    let keys = find::waiting(broker, person).await?;
    let bucket = broker.bucket(&WAITING).await.map_err(Failure::trouble)?;
    for key in &keys {
        bucket.delete(key).await.map_err(Failure::trouble)?;
    }
    Ok(keys.len())
}

fn is_deal(record: RecordRef) -> bool {
    record.entity == Entity::Deal
}
