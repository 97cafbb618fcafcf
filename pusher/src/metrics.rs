//! What the pusher counts.

use std::sync::{Arc, Weak};

use otmechalka::{Call, Called};
use runtime::Metrics;
use runtime::metrics::{Counter, Counters, Gauge, Gauges, ProblemCounters, Refresh, SecondsBy};
use schemas::{Entity, Outcome, Problem};

use crate::far_side::Why;
use crate::push::{Push, is_about_visitor_limit};

/// Why nothing is sent, as a label.
const REASONS: [&str; 4] = ["down", "writes_fail", "token_refused", "throttled"];

/// The pusher's metrics.
#[derive(Clone)]
pub struct PusherMetrics {
    processed: Counters<2>,
    problems: ProblemCounters,
    parked: Counter,
    requests: Counters<2>,
    durations: SecondsBy<1>,
    visitor_limit: Counter,
    held: Gauges<1>,
    in_doubt: Gauge,
}

impl PusherMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> PusherMetrics {
        let own = PusherMetrics {
            processed: metrics.counters(
                "rollcall_records_processed_total",
                "Versions of records that reached their end, by outcome: created, updated, unchanged, already_there, \
                 out_of_scope, refused.",
                ["entity", "outcome"],
            ),
            problems: ProblemCounters::register(
                metrics,
                "rollcall_refusal_problems_total",
                "Problems of refused versions, those that the mapper found included, by code.",
            ),
            parked: metrics.counter(
                "rollcall_commands_parked_total",
                "Commands put aside for a while: for their client, or because otmechalka fails on them.",
            ),
            requests: metrics.counters(
                "rollcall_otmechalka_requests_total",
                "Calls of otmechalka by call and class of the HTTP status; none where no answer came.",
                ["call", "status"],
            ),
            durations: metrics.seconds_by(
                "rollcall_otmechalka_request_duration_seconds",
                "How long calls of otmechalka took, failed ones included.",
                ["call"],
            ),
            visitor_limit: metrics.counter(
                "rollcall_otmechalka_visitor_limit_refusals_total",
                "Clients that otmechalka refused to create with a text about its limit of active visitors.",
            ),
            held: metrics.gauges(
                "rollcall_otmechalka_held",
                "1 while nothing is sent to otmechalka, by reason: down, writes_fail, token_refused, throttled.",
                ["reason"],
            ),
            in_doubt: metrics.gauge(
                "rollcall_otmechalka_updates_in_doubt",
                "Clients with an update whose call failed and which otmechalka may still carry out.",
            ),
        };
        for entity in Entity::ALL {
            for outcome in OUTCOMES.map(token) {
                own.processed.add([entity.token(), outcome], 0);
            }
        }
        own
    }

    /// Counts a version that reached its end.
    pub fn note_end(&self, entity: Entity, outcome: Outcome, problems: &[Problem]) {
        self.processed.add([entity.token(), token(outcome)], 1);
        problems.iter().for_each(|problem| self.problems.add(entity, &problem.code));
    }

    /// Counts a command that is put aside.
    pub fn note_parked(&self) {
        self.parked.add(1);
    }

    /// Counts a call.
    pub fn note_call(&self, called: &Called<'_>) {
        self.requests.add([called.call.token(), status_class(called.status)], 1);
        self.durations.note([called.call.token()], called.duration);
        if called.call == Call::CreateClient && called.error.is_some_and(is_about_visitor_limit) {
            self.visitor_limit.add(1);
        }
    }

    /// Has it told at each scrape whether anything is sent, and what may still come of calls that failed.
    pub fn follow(&self, metrics: &Metrics, push: &Arc<Push>) -> Refresh {
        let (own, push): (_, Weak<Push>) = (self.clone(), Arc::downgrade(push));
        metrics.on_scrape(move || {
            let push = push.upgrade();
            let why = push.as_ref().and_then(|push| push.gate.closed_because()).map(reason);
            own.in_doubt.set(push.map_or(0.0, |push| push.late.count() as f64));
            REASONS
                .iter()
                .for_each(|reason| own.held.set([reason], f64::from(u8::from(why == Some(reason)))));
        })
    }
}

const OUTCOMES: [Outcome; 6] = [
    Outcome::Created,
    Outcome::Updated,
    Outcome::Unchanged,
    Outcome::AlreadyThere,
    Outcome::OutOfScope,
    Outcome::Refused,
];

fn token(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Updated => "updated",
        Outcome::Unchanged => "unchanged",
        Outcome::AlreadyThere => "already_there",
        Outcome::OutOfScope => "out_of_scope",
        Outcome::Refused => "refused",
        Outcome::Superseded => "superseded",
    }
}

fn reason(why: Why) -> &'static str {
    match why {
        Why::Down => "down",
        Why::WritesFail => "writes_fail",
        Why::Refuses { .. } => "token_refused",
        Why::Throttled => "throttled",
    }
}

fn status_class(status: Option<u16>) -> &'static str {
    match status {
        Some(100..=199) => "1xx",
        Some(200..=299) => "2xx",
        Some(300..=399) => "3xx",
        Some(400..=499) => "4xx",
        Some(_) => "5xx",
        None => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_documented() {
        let metrics = Metrics::new("pusher");
        PusherMetrics::register(&metrics);
        let document = include_str!("../../docs/observing.md");
        metrics.check_documented(document, "### pusher").unwrap_or_else(|what| panic!("{what}"));
    }

    #[test]
    fn statuses_are_told_by_class() {
        let classes = [Some(200), Some(301), Some(404), Some(503), None].map(status_class);
        assert_eq!(classes, ["2xx", "3xx", "4xx", "5xx", "none"]);
    }
}
