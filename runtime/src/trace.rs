//! Traces: one record's way through all stages, told over OTLP to whoever collects them.
//!
//! The context travels as the W3C header `traceparent` of every message. Off unless `OTEL_EXPORTER_OTLP_ENDPOINT` is
//! set; off, no span is made and no header is written. Spans carry ids, as log lines do, and nothing else about anybody.

mod context;
mod export;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::broker::is_near;
use crate::settings::Reader;

pub use context::{SpanContext, TRACEPARENT};
pub use export::Collector;
use export::Exporter;

tokio::task_local! {
    static CURRENT: SpanContext;
    static CAUSE: SpanContext;
}

/// Where spans are sent.
#[derive(Clone)]
pub struct TraceSettings {
    /// Base address of the collector.
    pub endpoint: url::Url,
    /// Further headers of each request, as a hosted collector wants them. A secret.
    pub headers: Option<secrecy::SecretString>,
}

impl TraceSettings {
    /// Reads `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_EXPORTER_OTLP_HEADERS`; without the first, tracing is off.
    pub fn read(reader: &Reader<'_>) -> Option<Option<TraceSettings>> {
        let expected = "the http or https address of a collector that takes OTLP over HTTP";
        let endpoint = reader.with_default(ENDPOINT, None, expected, "http://127.0.0.1:4318", |text| {
            let url: url::Url = text.parse().ok()?;
            (url.has_host() && matches!(url.scheme(), "http" | "https")).then_some(Some(url))
        });
        let headers = reader.optional_secret(HEADERS, "name=value, comma separated", "api-key=…", |text| {
            export::parse_headers(text).is_some()
        });
        let (endpoint, headers) = (endpoint?, headers?);
        Some(endpoint.map(|endpoint| TraceSettings { endpoint, headers }))
    }

    /// Returns the collector's host where spans, and headers that may be its key, go there without TLS and beyond this machine
    /// and its containers.
    pub fn in_the_clear(&self) -> Option<&str> {
        let host = self.endpoint.host_str().filter(|_| self.endpoint.scheme() == "http")?;
        (!is_near(host)).then_some(host)
    }
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";

/// Makes spans, or nothing at all where tracing is off. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Exporter>>);

/// What a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Work of our own.
    Internal,
    /// A request to somebody else.
    Client,
    /// A message going out.
    Producer,
    /// A message coming in.
    Consumer,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text that is no personal datum.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// A span under way; it ends when it is dropped.
pub struct Span {
    exporter: Arc<Exporter>,
    ended: Ended,
}

/// A span as it is sent.
#[derive(Clone, Debug)]
struct Ended {
    context: SpanContext,
    parent: Option<SpanContext>,
    link: Option<SpanContext>,
    name: String,
    kind: Kind,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    attributes: Vec<(&'static str, Value)>,
    is_error: bool,
}

impl Tracer {
    /// Starts sending spans for a stage, or nothing without settings. Only within a runtime.
    pub fn start(stage: &'static str, settings: Option<&TraceSettings>) -> (Tracer, Option<Collector>) {
        match settings {
            None => (Tracer(None), None),
            Some(settings) => {
                let (exporter, collector) = export::start(stage, settings);
                (Tracer(Some(Arc::new(exporter))), Some(collector))
            }
        }
    }

    /// Tells whether spans are made.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span below `parent`, or a new trace where there is none.
    pub fn begin(&self, name: &str, kind: Kind, parent: Option<SpanContext>) -> Option<Span> {
        let exporter = Arc::clone(self.0.as_ref()?);
        let (context, start) = (SpanContext::below(parent), Utc::now());
        let ended = Ended {
            context,
            parent,
            link: None,
            name: name.to_owned(),
            kind,
            start,
            end: start,
            attributes: Vec::new(),
            is_error: false,
        };
        Some(Span { exporter, ended })
    }

    /// Begins the span of a message that goes out: below what is worked on, or linked to what caused it.
    pub(crate) fn begin_publish(&self, subject: &str) -> Option<Span> {
        self.0.as_ref()?;
        let name = format!("publish {}", crate::metrics::stream_of(subject));
        let mut span = self.begin(&name, Kind::Producer, current())?;
        span.set_record(schemas::subjects::record_of(subject));
        span.ended.link = CAUSE.try_with(|cause| *cause).ok();
        Some(span)
    }

    /// Tells of a request that has ended, below what is worked on.
    pub fn note_request(
        &self,
        name: &str,
        duration: Duration,
        attributes: Vec<(&'static str, Value)>,
        failed: bool,
    ) {
        self.note_request_of(current(), name, duration, attributes, failed);
    }

    /// Tells of a request that has ended, below `parent`.
    fn note_request_of(
        &self,
        parent: Option<SpanContext>,
        name: &str,
        duration: Duration,
        attributes: Vec<(&'static str, Value)>,
        failed: bool,
    ) {
        let Some(mut span) = self.begin(name, Kind::Client, parent) else { return };
        span.ended.start -= chrono::Duration::from_std(duration).unwrap_or_default();
        span.ended.attributes = attributes;
        span.ended.is_error = failed;
    }
}

impl Span {
    /// Tells of a request that has ended, below this span.
    pub fn note_request(&self, name: &str, duration: Duration, failed: bool) {
        let tracer = Tracer(Some(Arc::clone(&self.exporter)));
        tracer.note_request_of(Some(self.context()), name, duration, Vec::new(), failed);
    }

    /// Returns what its parts refer to.
    pub fn context(&self) -> SpanContext {
        self.ended.context
    }

    /// Adds an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.ended.attributes.push((name, value.into()));
    }

    pub(crate) fn set_record(&mut self, record: Option<schemas::RecordRef>) {
        if let Some(record) = record {
            self.set("rollcall.record", record.to_string());
        }
    }

    /// Notes that it failed.
    pub fn fail(&mut self) {
        self.ended.is_error = true;
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.ended.end = Utc::now();
        self.exporter.send(self.ended.clone());
    }
}

/// Returns what is worked on in this task.
pub fn current() -> Option<SpanContext> {
    CURRENT.try_with(|context| *context).ok()
}

/// Works on something: messages that go out and requests made meanwhile belong to it.
pub async fn within<T>(context: Option<SpanContext>, work: impl Future<Output = T>) -> T {
    match context {
        Some(context) => CURRENT.scope(context, work).await,
        None => work.await,
    }
}

/// Works because of something: messages that go out meanwhile begin traces of their own that refer to it.
pub async fn because_of<T>(cause: Option<SpanContext>, work: impl Future<Output = T>) -> T {
    match cause {
        Some(cause) => CAUSE.scope(cause, work).await,
        None => work.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Source;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<TraceSettings>, String> {
        let source = Source::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let reader = Reader::new(&source);
        let settings = TraceSettings::read(&reader);
        reader.finish(|| settings).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn without_a_collector_there_is_no_span() {
        assert!(read(&[]).unwrap().is_none());
        let (tracer, collector) = Tracer::start("test", None);
        assert!(!tracer.is_on() && collector.is_none());
        assert!(
            tracer.begin("x", Kind::Internal, None).is_none() && tracer.begin_publish("B24_RAW").is_none()
        );
    }

    #[test]
    fn an_address_that_is_none_is_named_and_headers_are_not_shown() {
        assert!(read(&[(ENDPOINT, "http://127.0.0.1:4318")]).unwrap().is_some());
        let error = read(&[(ENDPOINT, "localhost:4318"), (HEADERS, "hunter2")]).err().unwrap();
        assert!(error.contains(ENDPOINT) && error.contains(HEADERS) && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_far_collector_without_tls_is_noticed() {
        let of = |endpoint: &'static str, headers: &'static str| {
            let settings = read(&[(ENDPOINT, endpoint), (HEADERS, headers)]).unwrap().unwrap();
            settings.in_the_clear().map(str::to_owned)
        };
        for headers in ["api-key=k", ""] {
            assert_eq!(of("http://traces.example:4318", headers).as_deref(), Some("traces.example"));
        }
        for well in ["https://traces.example", "http://collector:4318", "http://[::1]:4318"] {
            assert_eq!(of(well, "api-key=k"), None, "{well}");
        }
    }

    #[tokio::test]
    async fn what_is_worked_on_is_known_within_and_not_after() {
        let context = SpanContext::below(None);
        assert_eq!(within(Some(context), async { current() }).await, Some(context));
        assert_eq!(within(None, async { current() }).await, None);
        assert_eq!(current(), None);
    }
}
