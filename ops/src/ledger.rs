//! The streams as verbs read them that work from what was stored: raw records, commands, outcomes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use runtime::Broker;
use runtime::broker::StoredMessage;
use schemas::streams::{COMMANDS, RAW, RESULTS, STATUSES};
use schemas::{
    Entity, Mapping, Outcome, Problem, RecordMapped, RecordProcessed, RecordRef, Shown, Version, subjects,
};

use crate::exit::Failure;
use crate::stored::{self, Choice};

/// Most records that are asked for by name; of more, their whole entity is read.
const MOST_NAMED: usize = 60;

/// Subjects of the streams up to the record.
const RAW_PREFIX: &str = "b24.raw.";
const COMMAND_PREFIX: &str = "crm.cmd.*.";
const LATER_PREFIX: &str = "crm.later.*.";
const RESULT_PREFIX: &str = "crm.result.*.";

/// Where the streams stood at a moment. What is read up to a mark is the same whenever it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Last sequence of the raw records.
    pub raw: u64,
    /// Last sequence of the commands.
    pub commands: u64,
    /// Last sequence of the outcomes.
    pub results: u64,
}

impl Mark {
    /// Everything that is stored.
    pub const END: Mark = Mark { raw: u64::MAX, commands: u64::MAX, results: u64::MAX };
}

/// A command that was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// Its sequence.
    pub sequence: u64,
    /// Its version.
    pub version: Version,
    /// What the mapper made of the record.
    pub mapping: Mapping,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// Sequence of the outcome.
    pub sequence: u64,
    /// When it was stored.
    pub stored: DateTime<Utc>,
    /// The version.
    pub version: Version,
    /// What happened.
    pub outcome: Outcome,
    /// Why it was refused.
    pub problems: Vec<Problem>,
    /// otmechalka holds the record, from this version or an earlier one.
    pub is_in_otmechalka: bool,
}

/// The streams.
pub struct Ledger {
    /// The connection.
    pub broker: Broker,
    raw: Stream<()>,
    commands: Stream<()>,
    results: Stream<()>,
    statuses: Stream<()>,
}

impl Ledger {
    /// Opens them.
    pub async fn open(broker: Broker) -> Result<Ledger, Failure> {
        let open = async |name| broker.stream(name).await.map_err(Failure::trouble);
        let raw = open(RAW.name).await?;
        let commands = open(COMMANDS.name).await?;
        let results = open(RESULTS.name).await?;
        let statuses = open(STATUSES.name).await?;
        Ok(Ledger { broker, raw, commands, results, statuses })
    }

    /// Tells where the streams stand.
    pub async fn mark(&self) -> Result<Mark, Failure> {
        Ok(Mark {
            raw: last_sequence(&self.raw, RAW.name).await?,
            commands: last_sequence(&self.commands, COMMANDS.name).await?,
            results: last_sequence(&self.results, RESULTS.name).await?,
        })
    }

    /// Reads the heads of raw records in their order: record, sequence, when it was stored.
    pub async fn raw_heads(
        &self,
        tails: &[String],
        from: DeliverPolicy,
        to: u64,
        mut note: impl FnMut(RecordRef, u64, DateTime<Utc>),
    ) -> Result<(), Failure> {
        let choice = Choice { headers_only: true, ..Choice::new(filters(RAW_PREFIX, tails), from) };
        self.scan(RAW.name, choice, to, |message| {
            if let Some(record) = subjects::record_of(&message.subject) {
                note(record, message.sequence, message.stored);
            }
        })
        .await
    }

    /// Reads the raw record at a sequence; `None` where it is no longer kept.
    pub async fn raw_at(&self, sequence: u64) -> Result<Option<StoredMessage>, Failure> {
        match self.raw.direct_get(sequence).await {
            Ok(message) => Ok(Some(message.into())),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(Failure::trouble(format!("Cannot read message {sequence} of {}: {error}", RAW.name)))
            }
        }
    }

    /// Reads the newest raw record.
    pub async fn newest_raw(&self, record: RecordRef) -> Result<Option<StoredMessage>, Failure> {
        self.last(&self.raw, RAW.name, &subjects::raw(record)).await
    }

    /// Reads the command of the highest version of each of these records, whatever the order in which they were stored.
    pub async fn newest_commands(
        &self,
        records: &BTreeSet<RecordRef>,
        mark: Mark,
    ) -> Result<BTreeMap<RecordRef, Sent>, Failure> {
        let mut newest: BTreeMap<RecordRef, Sent> = BTreeMap::new();
        self.commands(&tails(records), mark.commands, |record, sent| {
            let is_newest = newest.get(&record).is_none_or(|newest| newest.version <= sent.version);
            if is_newest && records.contains(&record) {
                newest.insert(record, sent);
            }
        })
        .await?;
        Ok(newest)
    }

    /// Reads the newest outcome of each of these records.
    pub async fn newest_results(
        &self,
        records: &BTreeSet<RecordRef>,
        mark: Mark,
    ) -> Result<BTreeMap<RecordRef, Settled>, Failure> {
        let mut newest = BTreeMap::new();
        self.results(&tails(records), DeliverPolicy::All, mark.results, |record, settled| {
            if records.contains(&record) {
                newest.insert(record, settled);
            }
        })
        .await?;
        Ok(newest)
    }

    /// Reads the commands by which otmechalka's tickets were made, of those deals for which they are still kept.
    pub async fn makers(
        &self,
        deals: &BTreeSet<RecordRef>,
        mark: Mark,
    ) -> Result<BTreeMap<RecordRef, Sent>, Failure> {
        let mut versions = BTreeMap::new();
        self.results(&tails(deals), DeliverPolicy::All, mark.results, |deal, settled| {
            if settled.outcome == Outcome::Created && deals.contains(&deal) {
                versions.insert(deal, settled.version);
            }
        })
        .await?;
        let mut makers = BTreeMap::new();
        let made: BTreeSet<RecordRef> = versions.keys().copied().collect();
        self.commands(&tails(&made), mark.commands, |deal, sent| {
            if versions.get(&deal) == Some(&sent.version) {
                makers.insert(deal, sent);
            }
        })
        .await?;
        Ok(makers)
    }

    async fn commands(
        &self,
        tails: &[String],
        to: u64,
        mut note: impl FnMut(RecordRef, Sent),
    ) -> Result<(), Failure> {
        let choice = Choice::new(filters(COMMAND_PREFIX, tails), DeliverPolicy::All);
        self.scan(COMMANDS.name, choice, to, |message| {
            if let Ok((envelope, mapped)) = message.decode::<RecordMapped>() {
                let RecordMapped { mapping, .. } = mapped;
                let sequence = message.sequence;
                if let Some(version) = envelope.version {
                    note(envelope.record, Sent { sequence, version, mapping });
                }
            }
        })
        .await
    }

    /// Reads the commands of one record, those that wait for another try too.
    pub async fn all_commands(&self, record: RecordRef) -> Result<Vec<Sent>, Failure> {
        let mut sent = Vec::new();
        let tails = [record.to_string()];
        let mut filters = filters(COMMAND_PREFIX, &tails);
        filters.push(format!("{LATER_PREFIX}{record}"));
        let choice = Choice::new(filters, DeliverPolicy::All);
        self.scan(COMMANDS.name, choice, u64::MAX, |message| {
            if let Ok((envelope, RecordMapped { mapping, .. })) = message.decode::<RecordMapped>() {
                let sequence = message.sequence;
                sent.extend(envelope.version.map(|version| Sent { sequence, version, mapping }));
            }
        })
        .await?;
        Ok(sent)
    }

    /// Reads which version of a record otmechalka took last, as far as the outcomes are kept.
    pub async fn last_taken(&self, record: RecordRef) -> Result<Option<Version>, Failure> {
        let mut last = None;
        self.results(&[record.to_string()], DeliverPolicy::All, u64::MAX, |_, settled| {
            if settled.outcome.is_in_otmechalka() {
                last = last.max(Some(settled.version));
            }
        })
        .await?;
        Ok(last)
    }

    /// Reads the outcomes of some records in their order.
    pub async fn results(
        &self,
        tails: &[String],
        from: DeliverPolicy,
        to: u64,
        mut note: impl FnMut(RecordRef, Settled),
    ) -> Result<(), Failure> {
        let choice = Choice::new(filters(RESULT_PREFIX, tails), from);
        self.scan(RESULTS.name, choice, to, |message| {
            if let Some((record, settled)) = settled(&message) {
                note(record, settled);
            }
        })
        .await
    }

    /// Reads the newest outcome of a record, as it was stored.
    pub async fn newest_result(&self, record: RecordRef) -> Result<Option<StoredMessage>, Failure> {
        self.last(&self.results, RESULTS.name, &subjects::result(record)).await
    }

    /// Reads the newest settled status of a record, as it was stored.
    pub async fn newest_status(&self, record: RecordRef) -> Result<Option<StoredMessage>, Failure> {
        self.last(&self.statuses, STATUSES.name, &subjects::status(record)).await
    }

    /// Counts what the pusher was not given yet: commands, and raw records of which the mapper has yet to make them.
    pub async fn waiting_for_pusher(&self) -> Result<u64, Failure> {
        let commands = waiting(&self.commands, COMMANDS.name, "pusher-").await?;
        Ok(commands + waiting(&self.raw, RAW.name, "mapper").await?)
    }

    /// Counts the outcomes that the status-writer was not given yet.
    pub async fn waiting_for_status_writer(&self) -> Result<u64, Failure> {
        waiting(&self.results, RESULTS.name, "status-writer-").await
    }

    async fn last(
        &self,
        stream: &Stream<()>,
        name: &str,
        subject: &str,
    ) -> Result<Option<StoredMessage>, Failure> {
        self.broker.last_message(stream, name, subject).await.map_err(Failure::trouble)
    }

    /// Reads up to a sequence, which may take a while and shows how far it is.
    async fn scan(
        &self,
        stream: &'static str,
        choice: Choice,
        to: u64,
        mut note: impl FnMut(StoredMessage),
    ) -> Result<(), Failure> {
        // No filter would mean everything.
        if choice.filters.is_empty() {
            return Ok(());
        }
        let choice = Choice { bar: Some("messages read"), ..choice };
        stored::read(&self.broker, stream, choice, |message| {
            let sequence = message.sequence;
            if sequence <= to {
                note(message);
            }
            if sequence < to { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .await
    }
}

/// Returns the ends of the subjects of some records: each, or their entities where they are many.
pub fn tails(records: &BTreeSet<RecordRef>) -> Vec<String> {
    if records.len() <= MOST_NAMED {
        return records.iter().map(RecordRef::to_string).collect();
    }
    let has = |entity: Entity| records.iter().any(|record| record.entity == entity);
    Entity::ALL.into_iter().filter(|entity| has(*entity)).map(entity_tail).collect()
}

/// Returns the end of the subjects of all records of an entity.
pub fn entity_tail(entity: Entity) -> String {
    format!("{entity}.*")
}

/// Reads an outcome; `None` for what is none.
pub fn settled(message: &StoredMessage) -> Option<(RecordRef, Settled)> {
    let (envelope, processed) = message.decode::<RecordProcessed>().ok()?;
    let is_in_otmechalka = is_remembered(&processed);
    let RecordProcessed { outcome, problems, .. } = processed;
    let settled = Settled {
        sequence: message.sequence,
        stored: message.stored,
        version: envelope.version?,
        outcome,
        problems,
        is_in_otmechalka,
    };
    Some((envelope.record, settled))
}

/// Tells whether otmechalka holds a record, from this outcome or an earlier one: a refusal takes nothing away there.
pub fn is_remembered(processed: &RecordProcessed) -> bool {
    let RecordProcessed { outcome, target_id, body_digest, .. } = processed;
    outcome.is_in_otmechalka() || target_id.is_some() || body_digest.is_some()
}

/// Says that nobody has looked what the field shows; later than anything that was settled.
pub fn unseen(now: DateTime<Utc>, settled: Option<DateTime<chrono::FixedOffset>>) -> Shown {
    let later = settled.map(|settled| settled + chrono::TimeDelta::seconds(1));
    let now = now.fixed_offset();
    Shown { status: None, observed: later.map_or(now, |later| later.max(now)) }
}

fn filters(prefix: &str, tails: &[String]) -> Vec<String> {
    tails.iter().map(|tail| format!("{prefix}{tail}")).collect()
}

async fn waiting(stream: &Stream<()>, name: &str, stage: &str) -> Result<u64, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::trouble(format!("Cannot look at the consumers of {name}: {error}"))
    };
    let mut consumers = stream.consumers();
    let mut waiting = 0;
    while let Some(consumer) = consumers.try_next().await.map_err(|error| failed(&error))? {
        waiting += if consumer.name.starts_with(stage) { consumer.num_pending } else { 0 };
    }
    Ok(waiting)
}

async fn last_sequence(stream: &Stream<()>, name: &str) -> Result<u64, Failure> {
    let info = stream.get_info().await;
    info.map(|info| info.state.last_sequence).map_err(|error| {
        Failure::trouble(format!("Cannot look at {name}: {error}")).remedy("`rollcall bootstrap` makes it")
    })
}
