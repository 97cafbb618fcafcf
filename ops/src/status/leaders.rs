//! Which replica is at work where only one may be.

use chrono::{DateTime, TimeDelta, Utc};
use runtime::Broker;
use runtime::lease::{Lease, TERM};
use serde::Serialize;

/// The stages of which one replica is at work and the others stand by.
const LED: [&str; 2] = ["producer", "status-writer"];

/// Age of a renewal up to which its replica is at work: the clocks of hosts differ somewhat.
const FRESH: TimeDelta = TimeDelta::seconds(2 * TERM.as_secs() as i64);

/// The replica that is at work in a stage, or was last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AtWork {
    /// The stage.
    pub stage: &'static str,
    /// The replica as its logs call it: `host/1f0c8d2a`.
    pub replica: String,
    /// Since when, by its own clock.
    pub since: DateTime<Utc>,
    /// When it last said so, by the clock of NATS.
    pub renewed: DateTime<Utc>,
}

/// Reads who is at work. A stage whose replica stopped in good order, with nobody standing by, has no entry.
pub async fn read(broker: &Broker) -> Result<Vec<AtWork>, String> {
    let mut found = Vec::new();
    for stage in LED {
        let seen = Lease::look_with_time(broker, stage).await.map_err(|error| error.to_string())?;
        found.extend(seen.map(|(holder, renewed)| AtWork {
            stage,
            replica: holder.name(),
            since: holder.since,
            renewed,
        }));
    }
    Ok(found)
}

/// Tells it to people, a line for each stage.
pub fn lines(at_work: &[AtWork], now: DateTime<Utc>, ago: impl Fn(TimeDelta) -> String) -> Vec<String> {
    let line = |stage: &str| match at_work.iter().find(|at_work| at_work.stage == stage) {
        Some(AtWork { replica, since, renewed, .. }) if now - *renewed <= FRESH => {
            format!("at work as {stage}: {replica}, began {}", ago(now - *since))
        }
        Some(AtWork { replica, renewed, .. }) => {
            format!("at work as {stage}: nobody; {replica} was, last heard of {}", ago(now - *renewed))
        }
        None => format!("at work as {stage}: nobody"),
    };
    LED.map(line).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_at_work_is_named_and_who_only_was_is_said_to_be_gone() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let at_work = |stage, renewed| AtWork {
            stage,
            replica: "hall/1f0c8d2a".to_owned(),
            since: now - TimeDelta::hours(3),
            renewed: now - TimeDelta::seconds(renewed),
        };
        let told = |at_work: &[AtWork]| lines(at_work, now, |age| format!("{} s ago", age.num_seconds()));
        let both = told(&[at_work("producer", 1), at_work("status-writer", 60)]);
        assert_eq!(both[0], "at work as producer: hall/1f0c8d2a, began 10800 s ago");
        assert_eq!(both[1], "at work as status-writer: nobody; hall/1f0c8d2a was, last heard of 60 s ago");
        assert_eq!(told(&[])[1], "at work as status-writer: nobody");
    }
}
