//! What every stage counts: deliveries, verdicts, publishing, the connection.

use std::time::Duration;

use super::{Counter, Counters, Gauge, Gauges, Metrics, Refresh, Seconds};
use crate::health::Health;

/// How the work on a delivery ended, as a label.
const OUTCOMES: [&str; 4] = ["done", "retry", "dead_letter", "panicked"];

/// Metrics that the shell keeps for every stage.
pub(crate) struct ShellMetrics {
    messages: Counters<1>,
    handling: Seconds,
    in_flight: Gauge,
    redelivered: Counter,
    pending: Gauges<1>,
    letters: Gauge,
    published: Counters<2>,
    publish_retries: Counter,
}

impl ShellMetrics {
    pub(crate) fn register(metrics: &Metrics) -> ShellMetrics {
        let shell = ShellMetrics {
            messages: metrics.counters(
                "rollcall_messages_total",
                "Deliveries dealt with, by outcome: done, retry, dead_letter, panicked.",
                ["outcome"],
            ),
            handling: metrics.seconds(
                "rollcall_message_handling_seconds",
                "Time from the arrival of a delivery until it was settled.",
            ),
            in_flight: metrics
                .gauge("rollcall_messages_in_flight", "Deliveries that are here and not settled."),
            redelivered: metrics.counter(
                "rollcall_messages_redelivered_total",
                "Deliveries of messages that had been delivered before.",
            ),
            pending: metrics.gauges(
                "rollcall_consumer_pending_messages",
                "Messages that the consumer had not delivered yet when it was last heard of.",
                ["consumer"],
            ),
            letters: metrics.gauge(
                "rollcall_dead_letters",
                "Dead letters of this stage that lie there and need a person, when they were last counted.",
            ),
            published: metrics.counters(
                "rollcall_messages_published_total",
                "Messages that a stream took; duplicate=\"true\" for those that it had already.",
                ["stream", "duplicate"],
            ),
            publish_retries: metrics.counter(
                "rollcall_publish_retries_total",
                "Publishes that got no ack and were tried again: a full stream or disk, or no connection.",
            ),
        };
        OUTCOMES.iter().for_each(|outcome| shell.messages.add([outcome], 0));
        shell
    }

    pub(crate) fn note_arrival(&self, consumer: &str, deliveries: u64, pending: u64) {
        if deliveries > 1 {
            self.redelivered.add(1);
        }
        self.note_pending(consumer, pending);
    }

    pub(crate) fn note_pending(&self, consumer: &str, pending: u64) {
        self.pending.set([consumer], pending as f64);
    }

    pub(crate) fn note_letters(&self, letters: u64) {
        self.letters.set(letters as f64);
    }

    pub(crate) fn note_settled(&self, outcome: &'static str, held: Duration) {
        self.messages.add([outcome], 1);
        self.handling.note(held);
    }

    pub(crate) fn note_published(&self, subject: &str, duplicate: bool) {
        let duplicate = if duplicate { "true" } else { "false" };
        self.published.add([stream_of(subject), duplicate], 1);
    }

    pub(crate) fn note_publish_retry(&self) {
        self.publish_retries.add(1);
    }
}

/// Counts a delivery as being here until it is dropped.
pub(crate) struct HeldDelivery(Gauge);

impl HeldDelivery {
    pub(crate) fn new(shell: &ShellMetrics) -> HeldDelivery {
        shell.in_flight.add(1.0);
        HeldDelivery(shell.in_flight.clone())
    }
}

impl Drop for HeldDelivery {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}

/// Returns the stream that a subject of ours belongs to.
pub(crate) fn stream_of(subject: &str) -> &'static str {
    let takes = |pattern: &&str| {
        let fixed = pattern.split('*').next().unwrap_or_default();
        subject.starts_with(fixed)
    };
    let stream = schemas::streams::STREAMS.iter().find(|stream| stream.subjects.iter().any(takes));
    stream.map_or("other", |stream| stream.name)
}

/// Registers what a process tells of itself: its build, its start, its connection.
pub(crate) fn register_process(metrics: &Metrics, health: Health, version: &'static str) -> Refresh {
    let build = metrics.gauges("rollcall_build_info", "1, with the version as a label.", ["version"]);
    build.set([version], 1.0);
    let started = metrics.gauge(
        "process_start_time_seconds",
        "When the process started, in seconds since 1970 on the host's clock.",
    );
    started.set(chrono::Utc::now().timestamp_millis() as f64 / 1e3);
    let connected = metrics.gauge("rollcall_nats_connected", "1 while NATS is connected, otherwise 0.");
    let ready = metrics.gauge(
        "rollcall_ready",
        "1 while NATS is connected and everything that the stage needs in it was found, otherwise 0.",
    );
    metrics.on_scrape(move || {
        connected.set(f64::from(u8::from(health.is_connected())));
        ready.set(f64::from(u8::from(health.is_ready())));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_has_its_stream() {
        for (subject, stream) in [
            ("b24.raw.contact.39910", "B24_RAW"),
            ("crm.cmd.01.contact.39910", "CRM_CMD"),
            ("crm.later.01.deal.7", "CRM_CMD"),
            ("crm.result.client.contact.39910", "CRM_RESULT"),
            ("b24.status.x.contact.39910", "B24_STATUS"),
            ("dlq.mapper.contact.1", "DLQ"),
            ("somebody.else", "other"),
        ] {
            assert_eq!(stream_of(subject), stream, "{subject}");
        }
    }
}
