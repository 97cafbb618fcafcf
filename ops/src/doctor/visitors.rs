//! How near otmechalka's limit of visitors is, as far as our own outcomes tell.

use async_nats::jetstream::consumer::DeliverPolicy;
use chrono::{TimeDelta, Utc};
use runtime::Broker;
use schemas::{Entity, Outcome};

use crate::answer::Finding;
use crate::results;

/// Visitors that are not archived, at most, by otmechalka's tariff.
const LIMIT: u64 = 5_000;

/// Share of the limit from which somebody should know.
const NEARLY: f64 = 0.8;

/// Days whose new clients are taken for the rate.
const RATE_DAYS: i64 = 30;

/// Counts the clients that we know to be in otmechalka, and those made lately.
pub async fn look(broker: &Broker) -> Option<Finding> {
    let mut clients = 0;
    let newest = results::each(broker, DeliverPolicy::LastPerSubject, |ended| {
        clients +=
            u64::from(ended.record.entity == Entity::Contact && ended.processed.outcome.is_in_otmechalka());
    });
    newest.await.ok()?;
    let mut created = 0;
    let since = DeliverPolicy::ByStartTime { start_time: Utc::now() - TimeDelta::days(RATE_DAYS) };
    let lately = results::each(broker, since, |ended| {
        created +=
            u64::from(ended.record.entity == Entity::Contact && ended.processed.outcome == Outcome::Created);
    });
    lately.await.ok()?;
    Some(of(clients, created))
}

fn of(clients: u64, created: u64) -> Finding {
    let (check, what) = ("otmechalka.visitors", "Visitors of otmechalka");
    let found = format!("at least {clients} of {LIMIT} that may be active");
    if (clients as f64) < NEARLY * LIMIT as f64 {
        return Finding::ok(check, what, found);
    }
    let left = LIMIT.saturating_sub(clients);
    let forecast = match created {
        0 => "none was added in the last 30 days".to_owned(),
        created => format!(
            "at the rate of the last {RATE_DAYS} days full in {} days",
            left * RATE_DAYS as u64 / created
        ),
    };
    let action = "Archive pupils in otmechalka who left, or ask otmechalka for more: new clients are refused above it. \
                  Archived ones are counted here, as nothing tells us of them";
    Finding::warning(check, what, format!("{found}; {forecast}"), action)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Severity;

    #[test]
    fn the_limit_is_told_of_in_time_with_a_forecast() {
        assert_eq!(of(3_999, 100).severity, Severity::Ok);
        let near = of(4_400, 60);
        assert_eq!(near.severity, Severity::Warning);
        assert!(near.message.contains("4400 of 5000"), "{}", near.message);
        assert!(near.message.contains("full in 300 days"), "{}", near.message);
        assert!(of(5_200, 0).message.contains("none was added"), "{}", of(5_200, 0).message);
    }
}
