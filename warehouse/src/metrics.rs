//! What the warehouse counts.

use runtime::Metrics;
use runtime::metrics::{Counters, Gauges};

use crate::STREAMS;
use crate::store::Stored;

/// The warehouse's metrics.
#[derive(Clone)]
pub struct WarehouseMetrics {
    messages: Counters<2>,
    failures: Counters<1>,
    pending: Gauges<1>,
}

impl WarehouseMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> WarehouseMetrics {
        let own = WarehouseMetrics {
            messages: metrics.counters(
                "rollcall_warehouse_messages_total",
                "Messages that were dealt with, by stream and result: stored, left_out.",
                ["stream", "result"],
            ),
            failures: metrics.counters(
                "rollcall_warehouse_failures_total",
                "How often reading a stream broke off, because PostgreSQL or NATS was away.",
                ["stream"],
            ),
            pending: metrics.gauges(
                "rollcall_warehouse_pending_messages",
                "Messages of a stream that are not stored yet.",
                ["stream"],
            ),
        };
        for stream in STREAMS {
            own.messages.add([stream.name, "stored"], 0);
            own.messages.add([stream.name, "left_out"], 0);
            own.failures.add([stream.name], 0);
        }
        own
    }

    /// Counts a batch.
    pub fn note_stored(&self, stream: &str, stored: &Stored) {
        self.messages.add([stream, "stored"], stored.messages as u64);
        self.messages.add([stream, "left_out"], stored.left_out.len() as u64);
    }

    /// Counts a reading that broke off.
    pub fn note_failure(&self, stream: &str) {
        self.failures.add([stream], 1);
    }

    /// Notes what is still to come.
    pub fn note_pending(&self, stream: &str, messages: u64) {
        self.pending.set([stream], messages as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_documented() {
        let metrics = Metrics::new("warehouse");
        WarehouseMetrics::register(&metrics);
        let document = include_str!("../../docs/observing.md");
        metrics.check_documented(document, "### warehouse").unwrap_or_else(|what| panic!("{what}"));
    }
}
