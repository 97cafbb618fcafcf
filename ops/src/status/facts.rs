//! Reads from NATS what `rollcall status` tells.

use std::collections::{BTreeMap, VecDeque};

use async_nats::jetstream::consumer::{DeliverPolicy, Info};
use async_nats::jetstream::stream::DirectGetErrorKind;
use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use runtime::Broker;
use runtime::budget::{Level, SharedBudget, Spending};
use schemas::streams::{COMMANDS, ConsumerDefinition, RAW, RESULTS, consumers};
use schemas::{Entity, Outcome};
use serde::Serialize;

use super::judge::FROZEN;
use super::leaders::{self, AtWork};
use crate::results::{self, Ended};
use crate::stored;
use crate::up::gauge::{self, Snapshot};

/// Everything that is told, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Streams and checkpoints.
    pub snapshot: Snapshot,
    /// The stages by name, upstream first.
    pub stages: Vec<StageFacts>,
    /// What was processed in the last day.
    pub outcomes: RecentOutcomes,
    /// The same by entity.
    pub outcomes_of: BTreeMap<Entity, RecentOutcomes>,
    /// Dead letters by entity.
    pub letters_of: BTreeMap<Entity, u64>,
    /// Bitrix24's request bucket as all processes see it, where anything was asked yet.
    pub bucket: Option<Level>,
    /// Computing time of Bitrix24's methods, as each stage noted it last.
    pub spendings: BTreeMap<&'static str, Spending>,
    /// Which replica is at work where only one may be.
    pub at_work: Vec<AtWork>,
}

/// What the consumers of a stage tell about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageFacts {
    /// Its name.
    pub stage: &'static str,
    /// Those that are there: of the pusher one for each partition.
    pub consumers: Vec<ConsumerFacts>,
    /// Consumers that do not exist.
    pub missing: Vec<String>,
    /// Messages that it has not done, by entity.
    pub undone_of: BTreeMap<Entity, u64>,
    /// Those of them that it has, by entity; empty where one consumer has those of both, which NATS does not tell apart.
    pub in_flight_of: BTreeMap<Entity, u64>,
}

/// What one consumer tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerFacts {
    /// Its name.
    pub name: String,
    /// Messages that its stage was not given yet.
    pub waiting: u64,
    /// Messages that its stage has and did not ack.
    pub in_flight: u64,
    /// When its stage was last given something, be it for the second time.
    pub given: Option<DateTime<Utc>>,
    /// When its stage last acked something.
    pub acked: Option<DateTime<Utc>>,
    /// When the oldest message that is not done was stored; only looked at where nothing was acked for [`FROZEN`].
    pub oldest: Option<DateTime<Utc>>,
}

impl ConsumerFacts {
    /// Counts the messages that are not done.
    pub fn undone(&self) -> u64 {
        self.waiting + self.in_flight
    }

    /// Returns the last sign of work.
    pub fn last_active(&self) -> Option<DateTime<Utc>> {
        self.given.max(self.acked)
    }
}

impl StageFacts {
    /// Begins with what is known of a stage before looking.
    pub fn new(stage: &'static str) -> StageFacts {
        StageFacts {
            stage,
            consumers: Vec::new(),
            missing: Vec::new(),
            undone_of: BTreeMap::new(),
            in_flight_of: BTreeMap::new(),
        }
    }

    /// Counts the messages that it was not given yet.
    pub fn waiting(&self) -> u64 {
        self.consumers.iter().map(|consumer| consumer.waiting).sum()
    }

    /// Counts the messages that it has and did not ack.
    pub fn in_flight(&self) -> u64 {
        self.consumers.iter().map(|consumer| consumer.in_flight).sum()
    }

    /// Returns when it was last given something or acked something.
    pub fn last_active(&self) -> Option<DateTime<Utc>> {
        self.consumers.iter().filter_map(ConsumerFacts::last_active).max()
    }
}

/// Outcomes of the last hour and day, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecentOutcomes {
    /// By outcome, in the last hour.
    pub last_hour: BTreeMap<String, u64>,
    /// By outcome, in the last 24 hours.
    pub last_day: BTreeMap<String, u64>,
    /// When the newest success was stored, however long ago.
    pub newest_success: Option<DateTime<Utc>>,
}

impl RecentOutcomes {
    /// Counts one of the last day.
    pub fn note(&mut self, outcome: Outcome, stored: DateTime<Utc>, now: DateTime<Utc>) {
        // Unit variants serialise to their name.
        let name = serde_json::to_value(outcome).ok().and_then(|value| value.as_str().map(str::to_owned));
        let name = name.unwrap_or_default();
        if now - stored <= TimeDelta::hours(1) {
            *self.last_hour.entry(name.clone()).or_default() += 1;
        }
        *self.last_day.entry(name).or_default() += 1;
        if outcome.is_success() {
            self.newest_success = self.newest_success.max(Some(stored));
        }
    }
}

/// The outcomes of the last day. Kept from look to look, so that each reads only what is new.
#[derive(Debug, Default)]
pub struct Recent {
    /// When, of what, and which, in the order of the stream.
    ended: VecDeque<(DateTime<Utc>, Entity, Outcome)>,
    /// Sequence of the last one that was read.
    last: Option<u64>,
    /// When the newest success of each entity was stored.
    successes: BTreeMap<Entity, DateTime<Utc>>,
    /// Whether successes before the last day were looked for.
    is_searched: bool,
}

impl Recent {
    /// Reads what is new. `last` is the last sequence of the stream.
    async fn follow(&mut self, broker: &Broker, last: u64, now: DateTime<Utc>) -> Result<(), String> {
        if self.last.is_some_and(|read| read > last) {
            // The stream was made anew.
            *self = Recent::default();
        }
        let day = now - TimeDelta::days(1);
        let from = match self.last {
            Some(read) => DeliverPolicy::ByStartSequence { start_sequence: read + 1 },
            None => DeliverPolicy::ByStartTime { start_time: day },
        };
        results::each(broker, from, |ended| self.note(&ended)).await?;
        while self.ended.front().is_some_and(|(stored, ..)| *stored < day) {
            self.ended.pop_front();
        }
        if !self.is_searched {
            self.search(broker, day).await?;
            self.is_searched = true;
        }
        Ok(())
    }

    fn note(&mut self, ended: &Ended) {
        self.last = Some(ended.sequence);
        self.ended.push_back((ended.stored, ended.record.entity, ended.processed.outcome));
        self.note_success(ended);
    }

    fn note_success(&mut self, ended: &Ended) {
        if ended.processed.outcome.is_success() {
            let newest = self.successes.entry(ended.record.entity).or_insert(ended.stored);
            *newest = ended.stored.max(*newest);
        }
    }

    /// Looks for the newest success of each entity before a moment, further and further back.
    async fn search(&mut self, broker: &Broker, before: DateTime<Utc>) -> Result<(), String> {
        let (mut until, mut span) = (before, TimeDelta::days(1));
        let kept = TimeDelta::from_std(RESULTS.max_age).unwrap_or(TimeDelta::MAX);
        while self.successes.len() < Entity::ALL.len() && before - until < kept {
            let from = DeliverPolicy::ByStartTime { start_time: until - span };
            results::until(broker, from, Some(until), |ended| self.note_success(&ended)).await?;
            (until, span) = (until - span, span * 2);
        }
        Ok(())
    }

    /// Counts those of the entities that are meant.
    fn count(&self, is_meant: impl Fn(Entity) -> bool, now: DateTime<Utc>) -> RecentOutcomes {
        let mut counted = RecentOutcomes::default();
        for (stored, _, outcome) in self.ended.iter().filter(|(_, entity, _)| is_meant(*entity)) {
            counted.note(*outcome, *stored, now);
        }
        let successes = self.successes.iter().filter(|(entity, _)| is_meant(**entity));
        counted.newest_success = successes.map(|(_, stored)| *stored).max();
        counted
    }
}

/// Reads everything, of outcomes what is new since the look before.
pub async fn read(broker: &Broker, recent: &mut Recent, now: DateTime<Utc>) -> Result<Facts, String> {
    let snapshot = gauge::read(broker).await.map_err(|error| error.to_string())?;
    let letters_of = match snapshot.dead_letters.stored {
        0 => BTreeMap::new(),
        _ => gauge::letters(broker).await.map_err(|error| error.to_string())?,
    };
    let bucket = SharedBudget::look(broker).await.map_err(|error| error.to_string())?;
    let spendings = Spending::look(broker).await.map_err(|error| error.to_string())?;
    let stages = stages(broker, now).await?;
    recent.follow(broker, snapshot.results.last, now).await?;
    let outcomes = recent.count(|_| true, now);
    let of = |entity| (entity, recent.count(|one| one == entity, now));
    let outcomes_of = Entity::ALL.into_iter().map(of).collect();
    let at_work = leaders::read(broker).await?;
    Ok(Facts { snapshot, stages, outcomes, outcomes_of, letters_of, bucket, spendings, at_work })
}

async fn stages(broker: &Broker, now: DateTime<Utc>) -> Result<Vec<StageFacts>, String> {
    let mut found = BTreeMap::new();
    for name in [RAW.name, COMMANDS.name, RESULTS.name] {
        let stream = broker.stream(name).await.map_err(|error| error.to_string())?;
        let mut infos = stream.consumers();
        while let Some(info) =
            infos.try_next().await.map_err(|error| format!("consumers of {name}: {error}"))?
        {
            found.insert(info.name.clone(), info);
        }
    }
    let mut stages = ["mapper", "pusher", "status-writer"].map(StageFacts::new);
    for declared in consumers() {
        let Some(facts) = stages.iter_mut().find(|facts| declared.name.starts_with(facts.stage)) else {
            continue;
        };
        let Some(info) = found.get(&declared.name) else {
            facts.missing.push(declared.name);
            continue;
        };
        let consumer = consumer(broker, &declared, info, now).await?;
        for (entity, undone) in undone_of(broker, &declared, info, &consumer).await? {
            *facts.undone_of.entry(entity).or_default() += undone;
        }
        if let Some(entity) = only_entity(&declared) {
            facts.in_flight_of.insert(entity, consumer.in_flight);
        }
        facts.consumers.push(consumer);
    }
    Ok(stages.into())
}

async fn consumer(
    broker: &Broker,
    declared: &ConsumerDefinition,
    info: &Info,
    now: DateTime<Utc>,
) -> Result<ConsumerFacts, String> {
    let mut facts = ConsumerFacts {
        name: declared.name.clone(),
        waiting: info.num_pending,
        in_flight: info.num_ack_pending as u64,
        given: info.delivered.last_active,
        acked: info.ack_floor.last_active,
        oldest: None,
    };
    if facts.undone() > 0 && facts.acked.is_none_or(|acked| now - acked >= FROZEN) {
        let stream = broker.stream(declared.stream).await.map_err(|error| error.to_string())?;
        let first = Some(info.ack_floor.stream_sequence + 1);
        let oldest = stream.direct_get_next_for_subject(declared.filter.as_str(), first).await;
        facts.oldest = match oldest {
            Ok(message) => Some(message.time),
            // Done in this very moment.
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => None,
            Err(error) => return Err(format!("read {}: {error}", declared.stream)),
        };
    }
    Ok(facts)
}

/// Returns the entity whose messages alone a consumer has.
fn only_entity(declared: &ConsumerDefinition) -> Option<Entity> {
    Entity::ALL.into_iter().find(|entity| declared.name.ends_with(entity.token()))
}

/// Tells apart whose messages are not done. Where one consumer has those of both entities, the server counts one's.
async fn undone_of(
    broker: &Broker,
    declared: &ConsumerDefinition,
    info: &Info,
    facts: &ConsumerFacts,
) -> Result<BTreeMap<Entity, u64>, String> {
    let undone = facts.undone();
    if let Some(entity) = only_entity(declared) {
        return Ok(BTreeMap::from([(entity, undone)]));
    }
    if undone == 0 {
        return Ok(BTreeMap::new());
    }
    let filter = declared.filter.replace('>', &format!("{}.*", Entity::Contact));
    let first = info.ack_floor.stream_sequence + 1;
    let counted = stored::count(broker, declared.stream, &filter, first).await;
    // What was published since the consumer was looked at is not among its own.
    let contacts = counted.map_err(|failure| failure.text)?.min(undone);
    Ok(BTreeMap::from([(Entity::Contact, contacts), (Entity::Deal, undone - contacts)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;
    use runtime::CancellationToken;
    use runtime::bootstrap::{Mode, apply};
    use runtime::broker::NatsSettings;
    use runtime::health::Health;
    use runtime::local_nats::LocalNats;
    use schemas::{Envelope, RecordProcessed, RecordRef, Shown, Version, subjects};

    /// Stores an outcome, and returns its sequence.
    async fn store(broker: &Broker, record: &str, outcome: Outcome) -> u64 {
        let record = RecordRef::parse(record).unwrap();
        let observed = DateTime::UNIX_EPOCH.fixed_offset();
        let version = Some(Version { raw_sequence: 1, redrive: 0 });
        let envelope = Envelope {
            record,
            source: "/rollcall/pusher".into(),
            pupil: None,
            modified: observed,
            fingerprint: "f".into(),
            version,
            attempt: 0,
        };
        let processed = RecordProcessed {
            outcome,
            status: String::new(),
            problems: Vec::new(),
            target_id: None,
            body_digest: None,
            shown: Shown { status: None, observed },
        };
        let encoded = envelope.encode(&processed).unwrap();
        let mut headers = HeaderMap::new();
        encoded.headers.iter().for_each(|(name, value)| headers.insert(name.as_str(), value.as_str()));
        let subject = subjects::result(record);
        let stored = broker.jetstream().publish_with_headers(subject, headers, encoded.payload.into()).await;
        stored.unwrap().await.unwrap().sequence
    }

    async fn with_nats() -> (LocalNats, Broker, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let server = LocalNats::start(folder.path()).await.unwrap();
        let settings = NatsSettings::plain(&server.url()).unwrap();
        let stopping = CancellationToken::new();
        let broker = Broker::connect("ops", &settings, Health::default(), stopping).await.unwrap();
        apply(&broker, 1, Mode::Make).await.unwrap();
        (server, broker, folder)
    }

    #[tokio::test]
    async fn what_was_read_is_not_read_again_and_what_is_new_is() {
        let (_server, broker, _folder) = with_nats().await;
        let (mut recent, now) = (Recent::default(), Utc::now());
        let mut last = store(&broker, "contact.5", Outcome::Created).await;
        let day = |recent: &Recent| recent.count(|_| true, now).last_day.values().sum::<u64>();
        recent.follow(&broker, last, now).await.unwrap();
        assert_eq!(day(&recent), 1);
        // Whoever reads it once more finds nothing.
        broker.jetstream().get_stream(RESULTS.name).await.unwrap().purge().await.unwrap();
        last = store(&broker, "deal.7", Outcome::Refused).await;
        recent.follow(&broker, last, now).await.unwrap();
        recent.follow(&broker, last, now).await.unwrap();
        assert_eq!(day(&recent), 2);
        recent.follow(&broker, last, now + TimeDelta::hours(25)).await.unwrap();
        assert_eq!(day(&recent), 0, "it is over");
        broker.jetstream().delete_stream(RESULTS.name).await.unwrap();
        apply(&broker, 1, Mode::Make).await.unwrap();
        last = store(&broker, "contact.5", Outcome::Created).await;
        recent.follow(&broker, last, now).await.unwrap();
        assert_eq!(day(&recent), 1, "another stream under the name");
    }

    #[tokio::test]
    async fn the_newest_success_is_found_however_long_ago_it_was() {
        let (_server, broker, _folder) = with_nats().await;
        store(&broker, "contact.5", Outcome::Created).await;
        store(&broker, "contact.6", Outcome::AlreadyThere).await;
        let last = store(&broker, "contact.6", Outcome::Refused).await;
        let stream = broker.jetstream().get_stream(RESULTS.name).await.unwrap();
        let stored = stream.get_raw_message(2).await.unwrap().time;
        for days in [0, 1, 3, 50, 99] {
            let (mut recent, now) =
                (Recent::default(), stored + TimeDelta::days(days) + TimeDelta::minutes(1));
            recent.follow(&broker, last, now).await.unwrap();
            let newest = |entity| recent.count(|one| one == entity, now).newest_success;
            assert_eq!(
                (newest(Entity::Contact), newest(Entity::Deal)),
                (Some(stored), None),
                "{days} days ago"
            );
            let counted = recent.count(|_| true, now);
            assert_eq!(counted.newest_success, Some(stored));
            assert_eq!(counted.last_day.is_empty(), days > 0, "{counted:?}");
        }
    }

    #[test]
    fn outcomes_are_counted_by_the_hour_and_by_the_day() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let ago = |minutes| now - TimeDelta::minutes(minutes);
        let mut recent = RecentOutcomes::default();
        recent.note(Outcome::Created, ago(90), now);
        recent.note(Outcome::Refused, ago(5), now);
        recent.note(Outcome::AlreadyThere, ago(30), now);
        let counts = |pairs: &[(&str, u64)]| {
            pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(recent.last_hour, counts(&[("already_there", 1), ("refused", 1)]));
        assert_eq!(recent.last_day, counts(&[("already_there", 1), ("created", 1), ("refused", 1)]));
        assert_eq!(recent.newest_success, Some(ago(30)));
    }
}
