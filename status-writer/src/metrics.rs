//! What the status-writer counts.

use bitrix24::Client;
use runtime::Metrics;
use runtime::metrics::{Counters, Gauge, Gauges, MethodCounts, PortalCounts, PortalMetrics, Refresh};
use schemas::Entity;

use crate::line::Word;
use crate::round::Report;

/// The status-writer's metrics.
#[derive(Clone)]
pub struct WriterMetrics {
    statuses: Counters<2>,
    held: Gauges<1>,
    alarm: Gauges<1>,
    alarms: Counters<1>,
    refused: Gauge,
}

impl WriterMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> WriterMetrics {
        let own = WriterMetrics {
            statuses: metrics.counters(
                "rollcall_statuses_total",
                "Statuses by how they ended: written, already_shown, record_gone; unkept ones did not stick and are \
                 looked at again.",
                ["entity", "how"],
            ),
            held: metrics.gauges("rollcall_statuses_held", "Outcomes that are held to be written.", ["entity"]),
            alarm: metrics.gauges(
                "rollcall_status_alarm",
                "1 while no status of the entity is written because a person has to put something right.",
                ["entity"],
            ),
            alarms: metrics.counters("rollcall_status_alarms_total", "Times that this began.", ["entity"]),
            refused: metrics
                .gauge("rollcall_bitrix24_webhook_refused", "1 while Bitrix24 turns the webhook away."),
        };
        for entity in Entity::ALL {
            let token = entity.token();
            ["written", "already_shown", "record_gone", "unkept"]
                .iter()
                .for_each(|how| own.statuses.add([token, how], 0));
            own.alarms.add([token], 0);
            own.alarm.set([token], 0.0);
        }
        own
    }

    /// Counts what came of a round.
    pub fn note_report(&self, report: &Report) {
        let counted = [
            ("written", report.kept),
            ("already_shown", report.already_shown),
            ("record_gone", report.gone),
            ("unkept", report.other_text + report.no_field),
        ];
        for (how, count) in counted.into_iter().filter(|(_, count)| *count > 0) {
            self.statuses.add([report.entity.token(), how], count as u64);
        }
    }

    /// Notes an alarm, and its end.
    pub fn note_word(&self, entity: Entity, word: &Word) {
        match word {
            Word::Alarm(_) => {
                self.alarm.set([entity.token()], 1.0);
                self.alarms.add([entity.token()], 1);
            }
            Word::Resumed => self.alarm.set([entity.token()], 0.0),
            Word::Unwell(_) => {}
        }
    }

    /// Notes how many outcomes are held.
    pub fn note_held(&self, entity: Entity, held: usize) {
        self.held.set([entity.token()], held as f64);
    }

    /// Notes whether Bitrix24 turns the webhook away.
    pub fn note_webhook(&self, is_refused: bool) {
        self.refused.set(f64::from(u8::from(is_refused)));
    }
}

/// Has what the client counts told at each scrape.
pub fn follow(metrics: &Metrics, client: Client) -> Refresh {
    let portal = PortalMetrics::register(metrics);
    metrics.on_scrape(move || portal.take_over(&counts(&client)))
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
        let metrics = Metrics::new("status-writer");
        WriterMetrics::register(&metrics);
        let document = include_str!("../../docs/observing.md");
        metrics.check_documented(document, "### status-writer").unwrap_or_else(|what| panic!("{what}"));
    }
}
