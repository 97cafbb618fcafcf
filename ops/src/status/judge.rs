//! What the facts mean: which stage works, which is idle, which is active and yet frozen. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::facts::{ConsumerFacts, Facts, StageFacts};
use super::told;
use crate::answer::{Finding, count};
use crate::up::gauge::Reading;

/// Where nothing was acked for this long, and a message waits for as long, work is frozen.
///
/// A message that is handed out again and again is no sign of work.
pub const FROZEN: TimeDelta = TimeDelta::minutes(5);

/// Age of a watermark from which on reading may be frozen, however often it is polled.
const STALE: TimeDelta = TimeDelta::minutes(10);

/// What a poll may take, beside the time from one to the next.
const LONGEST_POLL: TimeDelta = TimeDelta::minutes(5);

/// Age of a watermark at which reading is frozen, unless a walk moved its cursor since: two polls in a row brought nothing.
fn stale(reading: &Reading) -> TimeDelta {
    let interval = reading.poll.map_or(0, |poll| poll.interval_seconds);
    let interval = i64::try_from(interval).ok().and_then(TimeDelta::try_seconds);
    let missed = interval.and_then(|interval| interval.checked_mul(2)?.checked_add(&LONGEST_POLL));
    missed.map_or(TimeDelta::MAX, |missed| missed.max(STALE))
}

/// Share of a method's computing time above which somebody should know.
const NEARLY_SPENT: f64 = 0.9;

/// How a stage, or one of its consumers, is doing; the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Nothing to do.
    Idle,
    /// Has work and does it.
    Working,
    /// Has work, and nothing moves.
    ActiveButFrozen,
    /// A consumer of it does not exist.
    Missing,
}

impl Condition {
    /// Judges a stage.
    pub fn of(stage: &StageFacts, now: DateTime<Utc>) -> Condition {
        if !stage.missing.is_empty() {
            return Condition::Missing;
        }
        let conditions = stage.consumers.iter().map(|consumer| Condition::of_consumer(consumer, now));
        conditions.max().unwrap_or(Condition::Idle)
    }

    /// Judges one of its consumers.
    pub fn of_consumer(consumer: &ConsumerFacts, now: DateTime<Utc>) -> Condition {
        match consumer.oldest {
            _ if consumer.undone() == 0 => Condition::Idle,
            Some(oldest) if now - oldest >= FROZEN => Condition::ActiveButFrozen,
            _ => Condition::Working,
        }
    }

    /// Names it for people.
    pub fn words(self) -> &'static str {
        match self {
            Condition::Idle => "idle",
            Condition::Working => "working",
            Condition::ActiveButFrozen => "ACTIVE BUT FROZEN",
            Condition::Missing => "CONSUMER MISSING",
        }
    }
}

/// Names what somebody should look at.
pub fn findings(facts: &Facts, now: DateTime<Utc>) -> Vec<Finding> {
    let readings = [("contacts", &facts.snapshot.contacts), ("deals", &facts.snapshot.deals)];
    let mut findings: Vec<Finding> =
        readings.into_iter().filter_map(|(entity, reading)| of_reading(entity, reading, now)).collect();
    findings.extend(facts.stages.iter().flat_map(|stage| of_stage(stage, now)));
    findings.extend(told::operating(&facts.spendings, now).iter().filter_map(of_operating));
    let letters = facts.snapshot.dead_letters.stored;
    if letters > 0 {
        findings.push(Finding::warning(
            "dead_letters",
            "Dead letters",
            letters_text(letters),
            "`rollcall dead-letters list` shows them, `rollcall dead-letters redrive --all` tries them again",
        ));
    }
    findings
}

/// Tells how many letters there are.
pub fn letters_text(letters: u64) -> String {
    format!("{} {} a person", count(letters, "message"), if letters == 1 { "needs" } else { "need" })
}

fn of_operating(told: &told::Operating) -> Option<Finding> {
    let told::Operating { method, used_seconds, limit_seconds, .. } = told;
    (*used_seconds >= NEARLY_SPENT * limit_seconds).then(|| {
        Finding::warning(
            "operating",
            method.as_str(),
            format!("{used_seconds:.0} s of the {limit_seconds:.0} s of computing time in ten minutes are used"),
            "Nothing breaks: calls wait until the portal forgets. If it stays so, another integration of the portal uses \
             the time, or the portal has become slow",
        )
    })
}

fn of_reading(entity: &'static str, reading: &Reading, now: DateTime<Utc>) -> Option<Finding> {
    let Some(age) = reading.age(now) else {
        let action = "Start the producer; its log says what it waits for";
        return Some(Finding::warning("watermark", entity, "never read", action));
    };
    let stale = stale(reading);
    let is_recent = |moment| now.signed_duration_since(moment) < stale;
    if age < stale || (reading.walking.is_some() && reading.moved.is_some_and(is_recent)) {
        return None;
    }
    Some(Finding::error(
        "watermark",
        entity,
        format!("active but frozen: nothing read for {}", rounded(age)),
        "Look at the producer's log: Bitrix24 may be away, or the producer may not run",
    ))
}

fn of_stage(stage: &StageFacts, now: DateTime<Utc>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !stage.missing.is_empty() {
        findings.push(Finding::error(
            "consumer_missing",
            stage.stage,
            format!("no consumer {}", stage.missing.join(", ")),
            "Run `rollcall bootstrap`",
        ));
    }
    let with_work: Vec<&ConsumerFacts> =
        stage.consumers.iter().filter(|consumer| consumer.undone() > 0).collect();
    let is_frozen =
        |consumer: &ConsumerFacts| Condition::of_consumer(consumer, now) == Condition::ActiveButFrozen;
    let frozen: Vec<&ConsumerFacts> =
        with_work.iter().copied().filter(|consumer| is_frozen(consumer)).collect();
    if frozen.len() > 1 && frozen.len() == with_work.len() {
        // One cause is likelier than as many as there are partitions.
        let undone = stage.waiting() + stage.in_flight();
        let oldest = frozen.iter().filter_map(|consumer| consumer.oldest).min();
        findings.push(of_frozen(stage.stage, undone, oldest, now));
    } else {
        let of =
            |consumer: &ConsumerFacts| of_frozen(&consumer.name, consumer.undone(), consumer.oldest, now);
        findings.extend(frozen.into_iter().map(of));
    }
    findings
}

fn of_frozen(what: &str, undone: u64, oldest: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Finding {
    let age = oldest.map(|oldest| format!(", the oldest for {}", rounded(now - oldest))).unwrap_or_default();
    Finding::error(
        "stage_frozen",
        what,
        format!("active but frozen: {undone} to do{age}"),
        "Look at its log: its neighbour may be away, it may wait for computing time, or it may not run",
    )
}

/// Tells a duration in its two largest units.
pub fn rounded(age: TimeDelta) -> String {
    let seconds = age.num_seconds().max(0).unsigned_abs();
    let unit = [86_400, 3_600, 60].into_iter().find(|unit| seconds >= *unit);
    let whole = unit.map_or(seconds, |unit| match unit {
        86_400 => seconds - seconds % 3_600,
        3_600 => seconds - seconds % 60,
        _ => seconds,
    });
    humantime::format_duration(std::time::Duration::from_secs(whole)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Poll;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn consumer(name: &str, waiting: u64, oldest_minutes_ago: Option<i64>) -> ConsumerFacts {
        let ago = |minutes| now() - TimeDelta::minutes(minutes);
        let oldest = oldest_minutes_ago.map(ago);
        // Handed out again just now, which is no sign of work.
        ConsumerFacts { name: name.into(), waiting, given: Some(now()), oldest, ..ConsumerFacts::default() }
    }

    fn pusher(consumers: Vec<ConsumerFacts>) -> StageFacts {
        StageFacts { consumers, ..StageFacts::new("pusher") }
    }

    #[test]
    fn letters_are_told_in_number() {
        assert_eq!(letters_text(1), "1 message needs a person");
        assert_eq!(letters_text(2), "2 messages need a person");
    }

    #[test]
    fn a_stage_with_work_that_does_not_move_is_frozen() {
        let of =
            |waiting, oldest| Condition::of(&pusher(vec![consumer("pusher-03", waiting, oldest)]), now());
        assert_eq!(of(0, None), Condition::Idle);
        assert_eq!(of(3, None), Condition::Working);
        assert_eq!(of(3, Some(4)), Condition::Working);
        assert_eq!(of(3, Some(5)), Condition::ActiveButFrozen);
        let missing = StageFacts { missing: vec!["pusher-03".into()], ..StageFacts::new("pusher") };
        assert_eq!(Condition::of(&missing, now()), Condition::Missing);
        assert!(of_stage(&missing, now())[0].message.contains("no consumer pusher-03"));
    }

    #[test]
    fn a_partition_that_stands_is_named_however_busy_the_others_are() {
        let stage = pusher(vec![
            consumer("pusher-02", 900, None),
            consumer("pusher-03", 4, Some(12)),
            consumer("pusher-04", 0, None),
            consumer("pusher-05", 1, Some(7)),
        ]);
        assert_eq!(Condition::of(&stage, now()), Condition::ActiveButFrozen);
        let told: Vec<String> = of_stage(&stage, now()).into_iter().map(|finding| finding.message).collect();
        let expected = [
            "pusher-03: active but frozen: 4 to do, the oldest for 12m",
            "pusher-05: active but frozen: 1 to do, the oldest for 7m",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn where_all_partitions_stand_the_stage_is_named_once() {
        let alone = of_stage(&pusher(vec![consumer("pusher-03", 4, Some(12))]), now());
        assert!(alone[0].message.starts_with("pusher-03: "), "{alone:?}");
        let all = vec![consumer("pusher-03", 4, Some(12)), consumer("pusher-05", 1, Some(7))];
        let told = of_stage(&pusher(all), now());
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].message, "pusher: active but frozen: 5 to do, the oldest for 12m");
    }

    #[test]
    fn an_old_watermark_is_frozen_unless_a_walk_moves_on() {
        let old = (now() - TimeDelta::minutes(11)).fixed_offset();
        let reading =
            Reading { polls: 7, watermark: Some(old), walking: None, moved: Some(now()), poll: None };
        assert!(of_reading("deals", &reading, now()).unwrap().message.contains("active but frozen"));
        assert_eq!(of_reading("deals", &Reading { walking: Some(5), ..reading }, now()), None);
        let stopped = Reading { walking: Some(5), moved: Some(now() - TimeDelta::minutes(11)), ..reading };
        assert!(of_reading("deals", &stopped, now()).is_some());
        let fresh = Reading { watermark: Some(now().fixed_offset()), ..reading };
        assert_eq!(of_reading("deals", &fresh, now()), None);
    }

    #[test]
    fn what_is_frozen_follows_the_interval_and_the_portals_clock() {
        let polled = |minutes_ago, interval_minutes: u64, skew_minutes| {
            let moved = now() - TimeDelta::minutes(minutes_ago);
            let observed = (moved + TimeDelta::minutes(skew_minutes)).fixed_offset();
            let poll = Poll { observed, interval_seconds: interval_minutes * 60, read_until: None };
            let (watermark, moved, poll) = (Some(observed), Some(moved), Some(poll));
            of_reading("deals", &Reading { polls: 7, watermark, walking: None, moved, poll }, now())
        };
        assert_eq!(polled(9, 1, 0), None);
        assert!(polled(10, 1, 0).is_some());
        assert_eq!(polled(14, 15, 0), None, "the next poll is not due yet");
        assert_eq!(polled(34, 15, 0), None);
        assert!(polled(35, 15, 0).is_some());
        for skew in [-90, 90] {
            assert_eq!(polled(1, 1, skew), None, "the portal's clock is another");
            let told = polled(12, 1, skew).unwrap();
            assert!(told.message.contains("nothing read for 12m"), "{told:?}");
        }
        assert_eq!(polled(9_999, 1 << 55, 0), None, "never due");
    }

    #[test]
    fn an_age_has_two_units_at_most() {
        assert_eq!(rounded(TimeDelta::seconds(59)), "59s");
        assert_eq!(rounded(TimeDelta::seconds(90)), "1m 30s");
        assert_eq!(rounded(TimeDelta::seconds(3_725)), "1h 2m");
        assert_eq!(rounded(TimeDelta::seconds(90_061)), "1day 1h");
        assert_eq!(rounded(TimeDelta::seconds(-5)), "0s");
    }
}
