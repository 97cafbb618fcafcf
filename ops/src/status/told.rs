//! What `rollcall status` tells, and how it looks as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use runtime::budget::Spending;
use schemas::Entity;
use serde::Serialize;

use super::facts::{ConsumerFacts, Facts, RecentOutcomes, StageFacts};
use super::judge::{Condition, rounded};
use super::leaders::{self, AtWork};
use crate::answer::{Answer, findings_text};
use crate::up::gauge;

/// The portal forgets computing time after ten minutes, and with it what was noted.
const FORGOTTEN: TimeDelta = TimeDelta::minutes(10);

/// The state of everything at one moment.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The moment.
    pub at: DateTime<Utc>,
    /// How far contacts are read.
    pub contacts: Reading,
    /// How far deals are read.
    pub deals: Reading,
    /// The stages, upstream first.
    pub stages: Vec<Stage>,
    /// Messages that wait for another try.
    pub parked: u64,
    /// When the first of them is due, where that was looked at.
    pub parked_until: Option<DateTime<Utc>>,
    /// Messages that need a person.
    pub dead_letters: u64,
    /// What was processed lately.
    pub outcomes: RecentOutcomes,
    /// Requests in Bitrix24's bucket when the last one was made.
    pub bucket_requests: Option<f64>,
    /// When that was.
    pub bucket_at: Option<DateTime<Utc>>,
    /// Requests that fit into it.
    pub bucket_capacity: Option<f64>,
    /// Computing time of Bitrix24's methods, the most spent first; empty where nothing was used.
    pub operating: Vec<Operating>,
    /// Which replica is at work where only one may be.
    pub at_work: Vec<AtWork>,
}

/// Computing time (`operating`) of a method of Bitrix24.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operating {
    /// The method.
    pub method: String,
    /// Seconds used in ten minutes.
    pub used_seconds: f64,
    /// Seconds that the portal grants in ten minutes.
    pub limit_seconds: f64,
    /// The stage that noted it.
    pub stage: &'static str,
    /// When it did.
    pub at: DateTime<Utc>,
}

/// How far an entity is read.
#[derive(Debug, Serialize)]
pub struct Reading {
    /// Everything modified before this portal time is published.
    pub watermark: Option<DateTime<FixedOffset>>,
    /// Its age.
    pub age_seconds: Option<i64>,
    /// Polls completed.
    pub polls: u64,
    /// Id at which the walk under way is, if there is one.
    pub walking_at_id: Option<u64>,
    /// Messages about its records that each stage has not done.
    pub undone: BTreeMap<&'static str, u64>,
    /// Those of them that it was given; only of stages that have a consumer for each entity.
    pub in_flight: BTreeMap<&'static str, u64>,
    /// Messages about them that wait for another try.
    pub parked: u64,
    /// Dead letters about them.
    pub dead_letters: u64,
    /// What was processed lately.
    pub outcomes: RecentOutcomes,
}

/// A stage.
#[derive(Debug, Serialize)]
pub struct Stage {
    /// Its name.
    pub stage: &'static str,
    /// Messages that it was not given yet.
    pub waiting: u64,
    /// Messages that it has and did not ack.
    pub in_flight: u64,
    /// When it last took or ended something.
    pub last_active: Option<DateTime<Utc>>,
    /// How it is doing.
    pub condition: Condition,
    /// Those of its consumers that stand still; of the pusher each is a partition.
    pub frozen: Vec<Frozen>,
}

/// A consumer that has work, and nothing moves.
#[derive(Debug, Serialize)]
pub struct Frozen {
    /// Its name.
    pub consumer: String,
    /// Messages that its stage was not given yet.
    pub waiting: u64,
    /// Messages that its stage has and did not ack.
    pub in_flight: u64,
    /// When the oldest of them was stored.
    pub oldest: Option<DateTime<Utc>>,
}

impl Status {
    /// Draws it from the facts.
    pub fn of(facts: Facts, now: DateTime<Utc>) -> Status {
        let count = |counts: &BTreeMap<Entity, u64>, entity| counts.get(&entity).copied().unwrap_or_default();
        let reading = |entity: Entity, reading: &gauge::Reading| Reading {
            watermark: reading.watermark,
            age_seconds: reading.age(now).map(|age| age.num_seconds()),
            polls: reading.polls,
            walking_at_id: reading.walking,
            undone: facts.stages.iter().map(|of| (of.stage, count(&of.undone_of, entity))).collect(),
            in_flight: facts
                .stages
                .iter()
                .filter_map(|of| Some((of.stage, *of.in_flight_of.get(&entity)?)))
                .collect(),
            parked: count(&facts.snapshot.parked.by_entity, entity),
            dead_letters: count(&facts.letters_of, entity),
            outcomes: facts.outcomes_of.get(&entity).cloned().unwrap_or_default(),
        };
        let operating = operating(&facts.spendings, now);
        let newest = facts.spendings.values().max_by_key(|spending| spending.at);
        let bucket_capacity = newest.map(|spending| spending.bucket_capacity);
        let stages = facts.stages.iter().map(|stage| Stage {
            stage: stage.stage,
            waiting: stage.waiting(),
            in_flight: stage.in_flight(),
            last_active: stage.last_active(),
            condition: Condition::of(stage, now),
            frozen: frozen(stage, now),
        });
        Status {
            at: now,
            contacts: reading(Entity::Contact, &facts.snapshot.contacts),
            deals: reading(Entity::Deal, &facts.snapshot.deals),
            stages: stages.collect(),
            parked: facts.snapshot.parked.count,
            parked_until: facts.snapshot.parked.next,
            dead_letters: facts.snapshot.dead_letters.stored,
            outcomes: facts.outcomes,
            bucket_requests: facts.bucket.map(|level| level.level),
            bucket_at: facts.bucket.map(|level| level.at),
            bucket_capacity,
            operating,
            at_work: facts.at_work,
        }
    }
}

fn frozen(stage: &StageFacts, now: DateTime<Utc>) -> Vec<Frozen> {
    let stands =
        |consumer: &&ConsumerFacts| Condition::of_consumer(consumer, now) == Condition::ActiveButFrozen;
    let frozen = |consumer: &ConsumerFacts| Frozen {
        consumer: consumer.name.clone(),
        waiting: consumer.waiting,
        in_flight: consumer.in_flight,
        oldest: consumer.oldest,
    };
    stage.consumers.iter().filter(stands).map(frozen).collect()
}

/// Puts together what the stages noted. Two that call the same method both know the portal's own sum, the later one better.
pub fn operating(spendings: &BTreeMap<&'static str, Spending>, now: DateTime<Utc>) -> Vec<Operating> {
    let mut newest: BTreeMap<&str, Operating> = BTreeMap::new();
    for (stage, spending) in spendings.iter().filter(|(_, spending)| now - spending.at < FORGOTTEN) {
        for (method, used) in &spending.seconds {
            let (limit_seconds, at) = (spending.limit_seconds, spending.at);
            let told = Operating { method: method.clone(), used_seconds: *used, limit_seconds, stage, at };
            if newest.get(method.as_str()).is_none_or(|known| known.at < at) {
                newest.insert(method, told);
            }
        }
    }
    let mut operating: Vec<Operating> = newest.into_values().collect();
    operating.sort_by(|left, right| right.used_seconds.total_cmp(&left.used_seconds));
    operating
}

/// Tells it to people.
pub fn text(answer: &Answer<Status>) -> String {
    let status = &answer.result;
    let mut lines = lines_of("contacts", &status.contacts, status.at);
    lines.extend(lines_of("deals", &status.deals, status.at));
    lines.push(String::new());
    lines.push(format!("{:<15}{:>9}{:>11}  {:<19}last active", "stage", "waiting", "in flight", "condition"));
    for stage in &status.stages {
        let Stage { stage, waiting, in_flight, last_active, condition, frozen } = stage;
        let active = last_active.map_or("never".to_owned(), |moment| ago(status.at - moment));
        lines.push(format!("{stage:<15}{waiting:>9}{in_flight:>11}  {:<19}{active}", condition.words()));
        lines.extend(frozen.iter().map(|frozen| {
            let Frozen { consumer, waiting, in_flight, oldest } = frozen;
            let oldest =
                oldest.map_or(String::new(), |moment| format!("since {}", rounded(status.at - moment)));
            let words = Condition::ActiveButFrozen.words();
            format!("  {consumer:<13}{waiting:>9}{in_flight:>11}  {words:<19}{oldest}")
        }));
    }
    lines.extend(leaders::lines(&status.at_work, status.at, ago));
    lines.push(String::new());
    lines.extend(outcome_lines(status));
    lines.push(format!("newest success: {}", newest(&status.outcomes, status.at)));
    lines.push(format!("wait for another try: {}; dead letters: {}", status.parked, status.dead_letters));
    if let (Some(requests), Some(at)) = (status.bucket_requests, status.bucket_at) {
        let of = status.bucket_capacity.map_or_else(String::new, |capacity| format!(" of {capacity:.0}"));
        lines.push(format!("requests in Bitrix24's bucket: {requests:.0}{of}, {}", ago(status.at - at)));
    }
    lines.extend(status.operating.iter().map(|told| {
        let Operating { method, used_seconds, limit_seconds, stage, at } = told;
        let age = ago(status.at - *at);
        format!("computing time of {method}: {used_seconds:.1} s of {limit_seconds:.0} s in ten minutes ({stage}, {age})")
    }));
    let mut text = lines.join("\n");
    // Writing to a string cannot fail.
    let _ = write!(text, "\n\n{}{}", findings_text(&answer.findings), answer.summary);
    text
}

fn lines_of(entity: &str, reading: &Reading, now: DateTime<Utc>) -> Vec<String> {
    let read = match reading.watermark {
        None => "never read".to_owned(),
        Some(watermark) => {
            let age = ago(TimeDelta::seconds(reading.age_seconds.unwrap_or(0)));
            let walk = reading.walking_at_id.map_or(String::new(), |id| format!(", a walk is at id {id}"));
            format!("read up to {watermark} ({age}), {} polls{walk}", reading.polls)
        }
    };
    let undone = reading.undone.iter().map(|(stage, count)| match reading.in_flight.get(stage) {
        Some(in_flight) if *in_flight > 0 => format!("{stage} {count} ({in_flight} in flight)"),
        _ => format!("{stage} {count}"),
    });
    let undone = undone.collect::<Vec<_>>().join(", ");
    let Reading { parked, dead_letters, outcomes, .. } = reading;
    let newest = newest(outcomes, now);
    vec![
        format!("{entity:<9} {read}"),
        format!("{:<9} to do: {undone}; for another try: {parked}; dead letters: {dead_letters}", ""),
        format!("{:<9} newest success: {newest}", ""),
    ]
}

fn newest(outcomes: &RecentOutcomes, now: DateTime<Utc>) -> String {
    outcomes.newest_success.map_or_else(|| "none".to_owned(), |moment| ago(now - moment))
}

/// One line for each outcome: all of them, then those of each entity.
fn outcome_lines(status: &Status) -> Vec<String> {
    let counts = [&status.outcomes, &status.contacts.outcomes, &status.deals.outcomes];
    let names: BTreeSet<&String> = counts.iter().flat_map(|counts| counts.last_day.keys()).collect();
    let count = |counts: &BTreeMap<String, u64>, name: &str| counts.get(name).copied().unwrap_or_default();
    let head = ["in all", "contacts", "deals"].map(|of| format!("{of:>18}")).concat();
    let mut lines = vec![format!("{:<15}{head}", "hour / day")];
    lines.extend(names.into_iter().map(|name| {
        let of = |counts: &RecentOutcomes| {
            format!("{} / {}", count(&counts.last_hour, name), count(&counts.last_day, name))
        };
        format!("{name:<15}{}", counts.map(|counts| format!("{:>18}", of(counts))).concat())
    }));
    lines
}

fn ago(age: TimeDelta) -> String {
    format!("{} ago", rounded(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budgets_are_told_and_one_that_is_nearly_spent_is_named() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let spending = |seconds: &[(&str, f64)], minutes| Spending {
            at: now - TimeDelta::minutes(minutes),
            limit_seconds: 480.0,
            seconds: seconds.iter().map(|(method, used)| ((*method).to_owned(), *used)).collect(),
            bucket_capacity: 50.0,
        };
        let spendings = BTreeMap::from([
            ("producer", spending(&[("crm.deal.list", 3.0), ("user.get", 1.0)], 2)),
            ("status-writer", spending(&[("crm.deal.update", 470.0), ("crm.deal.list", 4.5)], 1)),
        ]);
        let bucket = Some(runtime::budget::Level { level: 12.0, at: now });
        let facts = Facts { spendings, bucket, ..Facts::default() };
        let findings = crate::status::judge::findings(&facts, now);
        let nearly = findings.iter().find(|finding| finding.code == "operating").unwrap();
        assert!(nearly.message.contains("crm.deal.update") && nearly.message.contains("470"), "{nearly:?}");
        let text = text(&Answer::new("", Status::of(facts.clone(), now), Vec::new()));
        assert!(text.contains("requests in Bitrix24's bucket: 12 of 50, 0s ago"), "{text}");
        assert!(
            text.contains("crm.deal.list: 4.5 s of 480 s in ten minutes (status-writer, 1m ago)"),
            "{text}"
        );
        assert!(text.contains("user.get: 1.0 s"), "{text}");
        let later = Status::of(facts, now + TimeDelta::minutes(9));
        assert_eq!(later.operating, [], "the portal has forgotten it all");
    }

    #[test]
    fn the_text_tells_what_stands_still() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let ago = |minutes| Some(now - TimeDelta::minutes(minutes));
        let busy =
            ConsumerFacts { name: "pusher-02".into(), waiting: 40, given: ago(0), ..Default::default() };
        let stuck = ConsumerFacts {
            name: "pusher-03".into(),
            waiting: 3,
            in_flight: 1,
            oldest: ago(7),
            ..ConsumerFacts::default()
        };
        let undone_of = BTreeMap::from([(Entity::Contact, 43), (Entity::Deal, 1)]);
        let stage = StageFacts { consumers: vec![busy, stuck], undone_of, ..StageFacts::new("pusher") };
        let mut facts = Facts { stages: vec![stage], ..Facts::default() };
        let mut deals = RecentOutcomes::default();
        deals.note(schemas::Outcome::Created, now - TimeDelta::minutes(90), now);
        facts.outcomes_of.insert(Entity::Deal, deals.clone());
        facts.outcomes = deals;
        facts.letters_of.insert(Entity::Contact, 2);
        let findings = crate::status::judge::findings(&facts, now);
        let text = text(&Answer::new("2 things need a look.", Status::of(facts, now), findings));
        for line in [
            "contacts  never read",
            "          to do: pusher 43; for another try: 0; dead letters: 2",
            "          to do: pusher 1; for another try: 0; dead letters: 0",
            "          newest success: 1h 30m ago",
            "pusher                43          1  ACTIVE BUT FROZEN  0s ago",
            "  pusher-03            3          1  ACTIVE BUT FROZEN  since 7m",
            "hour / day                 in all          contacts             deals",
            "created                     0 / 1             0 / 0             0 / 1",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\nis not in\n{text}");
        }
        assert!(!text.contains("  pusher-02"), "{text}");
        assert!(text.contains("ERROR    pusher-03: active but frozen: 4 to do"), "{text}");
    }
}
