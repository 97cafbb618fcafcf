//! What a client of Bitrix24 counts, as metrics. Plain values come in: this crate knows no client.

use super::{Counter, Counters, Gauge, Gauges, Metrics};

/// What one client has counted so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortalCounts {
    /// HTTP requests sent.
    pub requests: u64,
    /// Requests refused because of the request limit.
    pub refused: u64,
    /// Seconds of computing time that a method may use in ten minutes.
    pub operating_limit: f64,
    /// The rest by method.
    pub methods: Vec<MethodCounts>,
}

/// What one client has counted for one method.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MethodCounts {
    /// Its name, as in `crm.deal.list`.
    pub method: String,
    /// Calls, and commands inside batches, that were answered without an error.
    pub ok: u64,
    /// Calls and commands that ended in an error, those refused for want of computing time left out.
    pub failed: u64,
    /// Calls and commands refused because of the computing time limit.
    pub operating_refused: u64,
    /// Seconds of computing time used in the last ten minutes.
    pub operating_used: f64,
}

/// Metrics of a stage that calls Bitrix24.
#[derive(Clone)]
pub struct PortalMetrics {
    http: Counter,
    refused: Counter,
    calls: Counters<2>,
    used: Gauges<1>,
    limit: Gauge,
}

impl PortalMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> PortalMetrics {
        PortalMetrics {
            http: metrics
                .counter("rollcall_bitrix24_http_requests_total", "HTTP requests to Bitrix24, refused ones included."),
            refused: metrics.counter(
                "rollcall_bitrix24_http_refusals_total",
                "HTTP requests that Bitrix24 answered with 503 because of its request limit.",
            ),
            calls: metrics.counters(
                "rollcall_bitrix24_calls_total",
                "Calls, and commands inside batches, by method and result: ok, failed, operating_limit.",
                ["method", "result"],
            ),
            used: metrics.gauges(
                "rollcall_bitrix24_operating_seconds",
                "Computing time that a method has used in the last ten minutes of the portal, as far as this stage knows.",
                ["method"],
            ),
            limit: metrics.gauge(
                "rollcall_bitrix24_operating_limit_seconds",
                "Computing time that the portal grants a method in ten minutes.",
            ),
        }
    }

    /// Takes over what a client has counted.
    pub fn take_over(&self, counts: &PortalCounts) {
        self.http.take_over(counts.requests);
        self.refused.take_over(counts.refused);
        self.limit.set(counts.operating_limit);
        for method in &counts.methods {
            let name = method.method.as_str();
            self.calls.take_over([name, "ok"], method.ok);
            self.calls.take_over([name, "failed"], method.failed);
            self.calls.take_over([name, "operating_limit"], method.operating_refused);
            self.used.set([name], method.operating_used);
        }
    }
}
