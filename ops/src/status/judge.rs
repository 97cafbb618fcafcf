//! What the facts mean: which stage works, which is idle, which is active and yet frozen. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::facts::{Facts, StageFacts};
use super::told;
use crate::answer::Finding;
use crate::up::gauge::Reading;

/// Without any sign of work for this long, a stage that has work is frozen.
const FROZEN: TimeDelta = TimeDelta::minutes(5);

/// Age of a watermark at which reading is frozen, unless a walk moved its cursor since: polls are a minute apart.
const STALE: TimeDelta = TimeDelta::minutes(10);

/// Share of a method's computing time above which somebody should know.
const NEARLY_SPENT: f64 = 0.9;

/// How a stage is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
        if stage.waiting + stage.in_flight == 0 {
            return Condition::Idle;
        }
        match stage.last_active {
            Some(moment) if now - moment < FROZEN => Condition::Working,
            _ => Condition::ActiveButFrozen,
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
    findings.extend(facts.stages.iter().filter_map(|stage| of_stage(stage, now)));
    findings.extend(told::operating(&facts.spendings, now).iter().filter_map(of_operating));
    let letters = facts.snapshot.dead_letters.stored;
    if letters > 0 {
        findings.push(Finding::warning(
            "dead_letters",
            "Dead letters",
            format!("{letters} messages need a person"),
            "`rollcall dead-letters list` shows them, `rollcall dead-letters redrive` tries them again",
        ));
    }
    findings
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
    let Some(watermark) = reading.watermark else {
        let action = "Start the producer; its log says what it waits for";
        return Some(Finding::warning("watermark", entity, "never read", action));
    };
    let age = now.signed_duration_since(watermark);
    let is_recent = |moment| now.signed_duration_since(moment) < STALE;
    if age < STALE || (reading.walking.is_some() && reading.moved.is_some_and(is_recent)) {
        return None;
    }
    Some(Finding::error(
        "watermark",
        entity,
        format!("active but frozen: nothing read for {}", rounded(age)),
        "Look at the producer's log: Bitrix24 may be away, or the producer may not run",
    ))
}

fn of_stage(stage: &StageFacts, now: DateTime<Utc>) -> Option<Finding> {
    match Condition::of(stage, now) {
        Condition::Idle | Condition::Working => None,
        Condition::Missing => Some(Finding::error(
            "consumer_missing",
            stage.stage,
            format!("no consumer {}", stage.missing.join(", ")),
            "Run `rollcall bootstrap`",
        )),
        Condition::ActiveButFrozen => Some(Finding::error(
            "stage_frozen",
            stage.stage,
            format!("active but frozen: {} messages and no sign of work", stage.waiting + stage.in_flight),
            "Look at its log: its neighbour may be away, it may wait for computing time, or it may not run",
        )),
    }
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

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn stage(waiting: u64, active_minutes_ago: Option<i64>) -> StageFacts {
        StageFacts {
            stage: "pusher",
            waiting,
            in_flight: 0,
            last_active: active_minutes_ago.map(|minutes| now() - TimeDelta::minutes(minutes)),
            missing: Vec::new(),
        }
    }

    #[test]
    fn a_stage_with_work_that_does_not_move_is_frozen() {
        assert_eq!(Condition::of(&stage(0, None), now()), Condition::Idle);
        assert_eq!(Condition::of(&stage(0, Some(600)), now()), Condition::Idle);
        assert_eq!(Condition::of(&stage(3, Some(1)), now()), Condition::Working);
        assert_eq!(Condition::of(&stage(3, Some(6)), now()), Condition::ActiveButFrozen);
        assert_eq!(Condition::of(&stage(3, None), now()), Condition::ActiveButFrozen);
        let missing = StageFacts { missing: vec!["pusher-03".into()], ..stage(0, None) };
        assert_eq!(Condition::of(&missing, now()), Condition::Missing);
    }

    #[test]
    fn an_old_watermark_is_frozen_unless_a_walk_moves_on() {
        let old = (now() - TimeDelta::minutes(11)).fixed_offset();
        let reading = Reading { polls: 7, watermark: Some(old), walking: None, moved: Some(now()) };
        assert!(of_reading("deals", &reading, now()).unwrap().message.contains("active but frozen"));
        assert_eq!(of_reading("deals", &Reading { walking: Some(5), ..reading }, now()), None);
        let stopped = Reading { walking: Some(5), moved: Some(now() - TimeDelta::minutes(11)), ..reading };
        assert!(of_reading("deals", &stopped, now()).is_some());
        let fresh = Reading { watermark: Some(now().fixed_offset()), ..reading };
        assert_eq!(of_reading("deals", &fresh, now()), None);
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
