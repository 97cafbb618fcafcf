//! Numbers for Prometheus: stages register what they count, `GET /metrics` tells it in the text form of OpenMetrics.
//!
//! Recording is an atomic addition, with a look into a small map where there are labels. What others count anyway
//! is taken over at the moment of a scrape: see [`Metrics::on_scrape`]. Labels never hold ids, names or texts.

mod portal;
mod shell;
mod table;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

pub use portal::{MethodCounts, PortalCounts, PortalMetrics};
pub(crate) use shell::{HeldDelivery, ShellMetrics, register_process, stream_of};

/// Media type of what [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the buckets of durations, in seconds: from a look into NATS to a message that waits for an outage.
const SECONDS: [f64; 13] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// What a process tells about itself. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

struct Shared {
    registry: Mutex<Registry>,
    described: Mutex<Vec<Described>>,
    refreshes: Mutex<Vec<Weak<RefreshFn>>>,
}

type RefreshFn = dyn Fn() + Send + Sync;

/// A metric as the documentation lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Described {
    name: &'static str,
    kind: &'static str,
    labels: Vec<&'static str>,
    help: &'static str,
}

/// Keeps something being refreshed at every scrape until it is dropped.
#[must_use = "dropped, it refreshes nothing any more"]
pub struct Refresh {
    _kept: Arc<RefreshFn>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new("none")
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Starts with nothing but the label that names the stage.
    pub fn new(stage: &'static str) -> Metrics {
        let labels = [("stage".into(), stage.into())];
        Metrics(Arc::new(Shared {
            registry: Mutex::new(Registry::with_labels(labels.into_iter())),
            described: Mutex::default(),
            refreshes: Mutex::default(),
        }))
    }

    /// Registers a counter; `name` ends in `_total`.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        let counter = counter::Counter::default();
        self.register(name, "counter", &[], help, counter.clone());
        Counter(counter)
    }

    /// Registers counters that differ by the values of their labels; `name` ends in `_total`.
    pub fn counters<const N: usize>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> Counters<N> {
        let family = Family::default();
        self.register(name, "counter", &labels, help, family.clone());
        Counters { labels, family }
    }

    /// Registers a gauge.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        let gauge = gauge::Gauge::default();
        self.register(name, "gauge", &[], help, gauge.clone());
        Gauge(gauge)
    }

    /// Registers gauges that differ by the values of their labels.
    pub fn gauges<const N: usize>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> Gauges<N> {
        let family = Family::default();
        self.register(name, "gauge", &labels, help, family.clone());
        Gauges { labels, family }
    }

    /// Registers a histogram of durations; `name` ends in `_seconds`.
    pub fn seconds(&self, name: &'static str, help: &'static str) -> Seconds {
        let histogram = Histogram::new(SECONDS);
        self.register(name, "histogram", &[], help, histogram.clone());
        Seconds(histogram)
    }

    /// Registers histograms of durations that differ by the values of their labels; `name` ends in `_seconds`.
    pub fn seconds_by<const N: usize>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
    ) -> SecondsBy<N> {
        let new: fn() -> Histogram = || Histogram::new(SECONDS);
        let family = Family::new_with_constructor(new);
        self.register(name, "histogram", &labels, help, family.clone());
        SecondsBy { labels, family }
    }

    /// Has something brought up to date before every scrape, for as long as the returned value is kept.
    pub fn on_scrape(&self, refresh: impl Fn() + Send + Sync + 'static) -> Refresh {
        let kept: Arc<RefreshFn> = Arc::new(refresh);
        let mut refreshes = lock(&self.0.refreshes);
        refreshes.retain(|refresh| refresh.strong_count() > 0);
        refreshes.push(Arc::downgrade(&kept));
        Refresh { _kept: kept }
    }

    /// Writes everything down in the text form of OpenMetrics.
    pub fn render(&self) -> String {
        let refreshes: Vec<_> = lock(&self.0.refreshes).iter().filter_map(Weak::upgrade).collect();
        refreshes.iter().for_each(|refresh| refresh());
        let mut text = String::new();
        let written = encode(&mut text, &lock(&self.0.registry));
        debug_assert!(written.is_ok(), "a text takes everything");
        text
    }

    /// The second of one name is not told: two of the same would be no valid answer.
    fn register(
        &self,
        name: &'static str,
        kind: &'static str,
        labels: &[&'static str],
        help: &'static str,
        metric: impl Metric,
    ) {
        let mut described = lock(&self.0.described);
        if described.iter().any(|known| known.name == name) {
            return;
        }
        described.push(Described { name, kind, labels: labels.to_vec(), help });
        // The ending is appended when the text is written, and so is a full stop.
        let bare = if kind == "counter" { name.trim_end_matches("_total") } else { name };
        lock(&self.0.registry).register(bare, help.trim_end_matches('.'), metric);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Labels<const N: usize> = [(&'static str, String); N];

fn labelled<const N: usize>(labels: [&'static str; N], values: [&str; N]) -> Labels<N> {
    std::array::from_fn(|place| (labels[place], values[place].to_owned()))
}

/// A number that only grows.
#[derive(Clone, Debug)]
pub struct Counter(counter::Counter);

impl Counter {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.inc_by(more);
    }

    /// Takes over what somebody else counted.
    pub fn take_over(&self, count: u64) {
        self.0.inner().fetch_max(count, Ordering::Relaxed);
    }
}

/// Numbers that only grow, one for each combination of labels.
#[derive(Clone, Debug)]
pub struct Counters<const N: usize> {
    labels: [&'static str; N],
    family: Family<Labels<N>, counter::Counter>,
}

impl<const N: usize> Counters<N> {
    /// Adds to one of them; adding 0 has it told before anything happened, so that its first step is seen.
    pub fn add(&self, values: [&str; N], more: u64) {
        self.family.get_or_create(&labelled(self.labels, values)).inc_by(more);
    }

    /// Takes over what somebody else counted.
    pub fn take_over(&self, values: [&str; N], count: u64) {
        let counter = self.family.get_or_create(&labelled(self.labels, values));
        counter.inner().fetch_max(count, Ordering::Relaxed);
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug)]
pub struct Gauge(gauge::Gauge<f64, AtomicU64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Adds to it.
    pub fn add(&self, more: f64) {
        self.0.inc_by(more);
    }
}

/// Numbers that go up and down, one for each combination of labels.
#[derive(Clone, Debug)]
pub struct Gauges<const N: usize> {
    labels: [&'static str; N],
    family: Family<Labels<N>, gauge::Gauge<f64, AtomicU64>>,
}

impl<const N: usize> Gauges<N> {
    /// Sets one of them.
    pub fn set(&self, values: [&str; N], value: f64) {
        self.family.get_or_create(&labelled(self.labels, values)).set(value);
    }
}

/// Durations, counted by size.
#[derive(Clone, Debug)]
pub struct Seconds(Histogram);

impl Seconds {
    /// Counts one.
    pub fn note(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

/// Durations, counted by size for each combination of labels.
#[derive(Clone, Debug)]
pub struct SecondsBy<const N: usize> {
    labels: [&'static str; N],
    family: Family<Labels<N>, Histogram>,
}

impl<const N: usize> SecondsBy<N> {
    /// Counts one.
    pub fn note(&self, values: [&str; N], duration: Duration) {
        self.family.get_or_create(&labelled(self.labels, values)).observe(duration.as_secs_f64());
    }
}

/// Most different codes that are told; the codes are bounded anyway, so this only bounds mistakes.
const MOST_CODES: usize = 200;

/// Counts by problem code. A code that is not shaped like one is counted as `other`: nobody's data becomes a label.
#[derive(Clone, Debug)]
pub struct ProblemCounters {
    counters: Counters<2>,
    seen: Arc<Mutex<std::collections::BTreeSet<String>>>,
}

impl ProblemCounters {
    /// Registers them with the labels `entity` and `code`.
    pub fn register(metrics: &Metrics, name: &'static str, help: &'static str) -> ProblemCounters {
        ProblemCounters { counters: metrics.counters(name, help, ["entity", "code"]), seen: Arc::default() }
    }

    /// Counts one problem of a record.
    pub fn add(&self, entity: schemas::Entity, code: &str) {
        let code = if is_code(code) && self.has_room_for(code) { code } else { "other" };
        self.counters.add([entity.token(), code], 1);
    }

    fn has_room_for(&self, code: &str) -> bool {
        let mut seen = lock(&self.seen);
        seen.contains(code) || (seen.len() < MOST_CODES && seen.insert(code.to_owned()))
    }
}

fn is_code(code: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.len() <= 40 && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    code.split('.').count() <= 3 && code.split('.').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_told_with_the_stage() {
        let metrics = Metrics::new("mapper");
        let counter = metrics.counter("rollcall_things_total", "Things.");
        let by_kind = metrics.counters("rollcall_kinds_total", "Kinds.", ["kind"]);
        let gauge = metrics.gauges("rollcall_level", "Level.", ["entity"]);
        metrics.seconds("rollcall_work_seconds", "Work.").note(Duration::from_millis(20));
        counter.add(2);
        by_kind.add(["new"], 0);
        gauge.set(["deal"], 1.5);
        let text = metrics.render();
        for line in [
            "# HELP rollcall_things Things.",
            "# TYPE rollcall_things counter",
            "rollcall_things_total{stage=\"mapper\"} 2",
            "rollcall_kinds_total{stage=\"mapper\",kind=\"new\"} 0",
            "rollcall_level{stage=\"mapper\",entity=\"deal\"} 1.5",
            "rollcall_work_seconds_count{stage=\"mapper\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from\n{text}");
        }
    }

    #[test]
    fn what_others_count_is_taken_over_at_a_scrape_while_somebody_wants_it() {
        let metrics = Metrics::new("mapper");
        let taken = metrics.counters("rollcall_taken_total", "Taken.", ["method"]);
        let refresh = metrics.on_scrape(move || taken.take_over(["user.get"], 7));
        assert!(metrics.render().contains("rollcall_taken_total{stage=\"mapper\",method=\"user.get\"} 7"));
        drop(refresh);
        assert!(metrics.render().contains("user.get"));
    }

    #[test]
    fn a_second_metric_of_one_name_does_not_spoil_the_answer() {
        let metrics = Metrics::new("mapper");
        metrics.counter("rollcall_things_total", "Things.").add(1);
        metrics.counter("rollcall_things_total", "Things.").add(5);
        assert_eq!(metrics.render().matches("rollcall_things_total{").count(), 1);
    }

    #[test]
    fn nobodys_data_becomes_a_label() {
        let metrics = Metrics::new("mapper");
        let problems = ProblemCounters::register(&metrics, "rollcall_problems_total", "Problems.");
        for code in ["phone.invalid", "Берёзкин", "79265550102", "Ivan", "a.b.c.d", ""] {
            problems.add(schemas::Entity::Contact, code);
        }
        let text = metrics.render();
        assert!(text.contains("code=\"phone.invalid\"} 1") && text.contains("code=\"other\"} 5"), "{text}");
        for number in 0..3 * MOST_CODES {
            let name: String =
                number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
            problems.add(schemas::Entity::Deal, &name);
        }
        assert!(metrics.render().lines().count() < MOST_CODES + 10);
    }
}
