//! How near otmechalka's limit of visitors is, as far as our own outcomes tell.

use async_nats::jetstream::consumer::DeliverPolicy;
use chrono::{DateTime, TimeDelta, Utc};
use runtime::Broker;
use schemas::streams::RESULTS;
use schemas::{Entity, Outcome};

use crate::answer::Finding;
use crate::ledger::is_remembered;
use crate::results;

/// Visitors that are not archived, at most, by otmechalka's tariff.
const LIMIT: u64 = 5_000;

/// Share of the limit from which somebody should know.
const NEARLY: f64 = 0.8;

/// Days to go below which somebody should know, however many there are now.
const SOON_DAYS: u64 = 30;

/// Weeks whose new clients are taken for the rate, at most.
const RATE_WEEKS: i64 = 4;

/// What is stored first is the first sync, which brings everybody at once: no rate.
const FIRST_SYNC: TimeDelta = TimeDelta::hours(24);

/// Counts the clients that we know to be in otmechalka, and those made lately.
pub async fn look(broker: &Broker) -> Option<Finding> {
    let mut clients = 0;
    let newest = results::each(broker, DeliverPolicy::LastPerSubject, |ended| {
        clients += u64::from(ended.record.entity == Entity::Contact && is_remembered(&ended.processed));
    });
    newest.await.ok()?;
    let state = broker.jetstream().get_stream(RESULTS.name).await.ok()?.cached_info().state.clone();
    let now = Utc::now();
    let weeks = whole_weeks(state.first_timestamp, now);
    let mut created = 0;
    if weeks > 0 {
        let since = DeliverPolicy::ByStartTime { start_time: now - TimeDelta::weeks(weeks) };
        let lately = results::each(broker, since, |ended| {
            let is_new = ended.processed.outcome == Outcome::Created;
            created += u64::from(ended.record.entity == Entity::Contact && is_new);
        });
        lately.await.ok()?;
    }
    Some(of(clients, Rate { created, weeks: weeks.unsigned_abs() }))
}

/// New clients in so many whole weeks up to now.
#[derive(Clone, Copy)]
struct Rate {
    created: u64,
    weeks: u64,
}

/// Returns how many whole weeks, up to now, lie behind the first sync.
fn whole_weeks(begin: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    (now - (begin + FIRST_SYNC)).num_weeks().clamp(0, RATE_WEEKS)
}

/// Returns in how many days the limit is reached, where anything is added.
fn full_in_days(clients: u64, rate: Rate) -> Option<u64> {
    (LIMIT.saturating_sub(clients) * rate.weeks * 7).checked_div(rate.created)
}

fn of(clients: u64, rate: Rate) -> Finding {
    let (check, what) = ("otmechalka.visitors", "Visitors of otmechalka");
    let days = full_in_days(clients, rate);
    let Rate { created, weeks } = rate;
    let forecast = match days {
        _ if weeks == 0 => "no forecast in the first week, as the first sync is no rate".to_owned(),
        None => format!("none was added in {weeks} weeks"),
        Some(days) => {
            format!("{created} were added in {weeks} weeks, at which rate it is full in {days} days")
        }
    };
    let found = format!("at least {clients} of {LIMIT} that may be active; {forecast}");
    if (clients as f64) < NEARLY * LIMIT as f64 && days.is_none_or(|days| days >= SOON_DAYS) {
        return Finding::ok(check, what, found);
    }
    let action = "Archive pupils in otmechalka who left, or ask otmechalka for more: new clients are refused above it. \
                  Archived ones are counted here, as nothing tells us of them";
    Finding::warning(check, what, found, action)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Severity;

    #[test]
    fn the_limit_is_told_of_in_time_and_always_with_a_forecast() {
        for (clients, created, weeks, severity, told) in [
            (3_999, 100, 4, Severity::Ok, "3999 of 5000 that may be active; 100 were added in 4 weeks"),
            (3_999, 100, 4, Severity::Ok, "full in 280 days"),
            (4_400, 60, 4, Severity::Warning, "full in 280 days"),
            // Far from the limit, and fast.
            (3_000, 600, 1, Severity::Warning, "full in 23 days"),
            (5_200, 7, 4, Severity::Warning, "full in 0 days"),
            (4_000, 0, 3, Severity::Warning, "none was added in 3 weeks"),
            (120, 0, 0, Severity::Ok, "no forecast in the first week"),
            (4_400, 0, 0, Severity::Warning, "no forecast in the first week"),
        ] {
            let finding = of(clients, Rate { created, weeks });
            assert_eq!(finding.severity, severity, "{}", finding.message);
            assert!(finding.message.contains(told), "{}", finding.message);
        }
    }

    #[test]
    fn the_first_sync_is_left_out_of_the_rate() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let weeks = |hours| whole_weeks(now - TimeDelta::hours(hours), now);
        // On the day of the first sync, and until a week has passed behind it.
        assert_eq!((weeks(0), weeks(24), weeks(7 * 24), weeks(8 * 24 - 1)), (0, 0, 0, 0));
        assert_eq!((weeks(8 * 24), weeks(15 * 24), weeks(16 * 24)), (1, 2, 2));
        assert_eq!(weeks(100 * 24), RATE_WEEKS);
        // The clock of NATS may be ahead of ours.
        assert_eq!(weeks(-1), 0);
    }
}
