//! What the producer counts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bitrix24::Client;
use chrono::Utc;
use runtime::Metrics;
use runtime::metrics::{Counters, Gauges, MethodCounts, PortalCounts, PortalMetrics, Refresh};
use schemas::Entity;

use crate::walk::Moment;

/// The producer's metrics.
#[derive(Clone)]
pub struct ProducerMetrics {
    polls: Counters<1>,
    failures: Counters<1>,
    read: Counters<1>,
    published: Counters<1>,
    watermark: Gauges<1>,
    interval: Gauges<1>,
    age: Gauges<1>,
    watermarks: Arc<Mutex<[Option<Moment>; 2]>>,
}

impl ProducerMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> ProducerMetrics {
        let own = ProducerMetrics {
            polls: metrics.counters("rollcall_polls_total", "Polls that were read to their end.", ["entity"]),
            failures: metrics.counters(
                "rollcall_poll_failures_total",
                "Polls that ended early; remedy=\"person\" where somebody has to put something right.",
                ["remedy"],
            ),
            read: metrics.counters("rollcall_records_read_total", "Records that polls showed.", ["entity"]),
            published: metrics.counters(
                "rollcall_records_published_total",
                "Records that were news and that the stream took.",
                ["entity"],
            ),
            watermark: metrics.gauges(
                "rollcall_watermark_timestamp_seconds",
                "Modification time up to which everything is published, on the portal's clock, in seconds since 1970.",
                ["entity"],
            ),
            interval: metrics.gauges(
                "rollcall_poll_interval_seconds",
                "Time from one poll to the next, as it is set.",
                ["entity"],
            ),
            age: metrics.gauges(
                "rollcall_watermark_age_seconds",
                "Time between the watermark and now, on the portal's clock.",
                ["entity"],
            ),
            watermarks: Arc::default(),
        };
        for entity in Entity::ALL {
            own.polls.add([entity.token()], 0);
            own.read.add([entity.token()], 0);
            own.published.add([entity.token()], 0);
        }
        for remedy in ["person", "time"] {
            own.failures.add([remedy], 0);
        }
        own
    }

    /// Counts the records of one answer.
    pub fn note_records(&self, entity: Entity, read: u64, published: u64) {
        self.read.add([entity.token()], read);
        self.published.add([entity.token()], published);
    }

    /// Counts a poll that was read to its end.
    pub fn note_poll(&self, entity: Entity) {
        self.polls.add([entity.token()], 1);
    }

    /// Counts a poll that ended early.
    pub fn note_failure(&self, needs_a_person: bool) {
        self.failures.add([if needs_a_person { "person" } else { "time" }], 1);
    }

    /// Notes how often an entity is polled.
    pub fn note_interval(&self, entity: Entity, interval: Duration) {
        self.interval.set([entity.token()], interval.as_secs_f64());
    }

    /// Notes how far an entity was read.
    pub fn note_watermark(&self, entity: Entity, watermark: Moment) {
        let mut watermarks = self.watermarks.lock().unwrap_or_else(PoisonError::into_inner);
        watermarks[place(entity)] = Some(watermark);
    }

    /// Has everything that depends on the time and on the client told at each scrape.
    pub fn follow(&self, metrics: &Metrics, client: Client) -> [Refresh; 2] {
        let (own, asked) = (self.clone(), client.clone());
        let ages = metrics.on_scrape(move || own.tell_watermarks(&asked));
        let portal = PortalMetrics::register(metrics);
        [ages, metrics.on_scrape(move || portal.take_over(&counts(&client)))]
    }

    fn tell_watermarks(&self, client: &Client) {
        let watermarks = *self.watermarks.lock().unwrap_or_else(PoisonError::into_inner);
        let now = client.portal_now().unwrap_or_else(|| Utc::now().fixed_offset());
        for (entity, watermark) in Entity::ALL.into_iter().zip(watermarks) {
            let Some(watermark) = watermark else { continue };
            self.watermark.set([entity.token()], watermark.timestamp() as f64);
            self.age.set([entity.token()], (now - watermark).as_seconds_f64());
        }
    }
}

fn place(entity: Entity) -> usize {
    match entity {
        Entity::Contact => 0,
        Entity::Deal => 1,
    }
}

/// Returns what a client has counted.
pub fn counts(client: &Client) -> PortalCounts {
    let (stats, operating) = (client.stats(), client.operating());
    let methods = stats.by_method.iter().map(|(method, counted)| MethodCounts {
        method: method.to_string(),
        ok: counted.ok,
        failed: counted.failed.saturating_sub(counted.operating_refused),
        operating_refused: counted.operating_refused,
        operating_used: operating.seconds.get(method).copied().unwrap_or(0.0),
    });
    PortalCounts {
        requests: stats.requests,
        refused: stats.refused,
        operating_limit: operating.limit,
        methods: methods.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_documented() {
        let metrics = Metrics::new("producer");
        ProducerMetrics::register(&metrics);
        let document = include_str!("../../docs/observing.md");
        metrics.check_documented(document, "### producer").unwrap_or_else(|what| panic!("{what}"));
    }
}
