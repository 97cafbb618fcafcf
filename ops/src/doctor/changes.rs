//! Looks whether the webhook may change records. Trying it would change one, so what was done lately has to tell.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use async_nats::jetstream::consumer::DeliverPolicy;
use chrono::{DateTime, Utc};
use runtime::Broker;
use schemas::streams::STATUSES;
use schemas::{Entity, StatusSettled, StatusWritten};

use crate::answer::Finding;
use crate::status::rounded;
use crate::stored::{self, Choice};

const CHECK: &str = "bitrix24.change";

/// Statuses that are looked at, the newest.
const NEWEST: u64 = 500;

/// Tells for each entity when a status was last written and read back.
pub async fn look(broker: &Broker) -> Vec<Finding> {
    let Ok(written) = newest_written(broker).await else { return Vec::new() };
    Entity::ALL.into_iter().map(|entity| of(entity, written.get(&entity).copied(), Utc::now())).collect()
}

async fn newest_written(broker: &Broker) -> Result<BTreeMap<Entity, DateTime<Utc>>, String> {
    let stream = broker.jetstream().get_stream(STATUSES.name).await.map_err(|error| error.to_string())?;
    let last = stream.cached_info().state.last_sequence;
    let from = DeliverPolicy::ByStartSequence { start_sequence: last.saturating_sub(NEWEST) + 1 };
    let mut written = BTreeMap::new();
    stored::read(broker, STATUSES.name, Choice::new(Vec::new(), from), |message| {
        if let Ok((envelope, StatusWritten { how: StatusSettled::Written, .. })) = message.decode() {
            written.insert(envelope.record.entity, message.stored);
        }
        ControlFlow::Continue(())
    })
    .await
    .map_err(|failure| failure.text)?;
    Ok(written)
}

fn of(entity: Entity, written: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Finding {
    let what = format!("Right to change {entity}s");
    let found = match written {
        Some(at) => format!("a status was written and read back {} ago", rounded(now - at)),
        None => {
            format!("not known: none of the newest {NEWEST} statuses was written, and only a change shows it")
        }
    };
    Finding::ok(CHECK, what, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn a_status_that_was_written_proves_the_right_and_nothing_else_does() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let proven = of(Entity::Deal, Some(now - TimeDelta::minutes(3)), now);
        assert_eq!(proven.message, "Right to change deals: a status was written and read back 3m ago");
        assert!(of(Entity::Contact, None, now).message.contains("not known"));
    }
}
