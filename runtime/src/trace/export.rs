//! Sending spans: in batches, from a bounded queue. A collector that is away costs spans, never a record.

use std::time::Duration;

use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Ended, TraceSettings, wire};

/// Spans that may wait; what ends while so many do is not sent.
const QUEUE: usize = 4_096;

/// Spans of one request.
const BATCH: usize = 512;

/// Longest wait for a batch to fill.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest wait for the collector's answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for the last spans to be sent: what is in flight may have taken eight of a stop's ten seconds.
const LAST_SPANS: Duration = Duration::from_millis(1_500);

/// Where spans are handed over.
pub(super) struct Exporter(mpsc::Sender<Ended>);

impl Exporter {
    pub(super) fn send(&self, span: Ended) {
        let _full_or_over = self.0.try_send(span);
    }
}

/// The task that sends.
pub struct Collector {
    stop: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

impl Collector {
    /// Sends what is left, if the collector answers soon.
    pub async fn finish(self) {
        drop(self.stop);
        let _too_slow = tokio::time::timeout(LAST_SPANS, self.task).await;
    }
}

pub(super) fn start(stage: &'static str, settings: &TraceSettings) -> (Exporter, Collector) {
    let (sender, spans) = mpsc::channel(QUEUE);
    let (stop, stopped) = mpsc::channel(1);
    let task = tokio::spawn(run(stage, settings.clone(), spans, stopped));
    (Exporter(sender), Collector { stop, task })
}

async fn run(
    stage: &'static str,
    settings: TraceSettings,
    mut spans: mpsc::Receiver<Ended>,
    mut stopped: mpsc::Receiver<()>,
) {
    // A second installation in one process keeps the first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let headers = settings.headers.as_ref().and_then(|text| parse_headers(text.expose_secret()));
    let mut http = reqwest::Client::builder()
        .default_headers(headers.unwrap_or_default())
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    if settings.endpoint.scheme() == "http" {
        // A proxy from the environment would see the headers.
        http = http.no_proxy();
    }
    let Ok(http) = http.build() else {
        tracing::error!("Traces are not sent: no HTTP client can be made");
        return;
    };
    let url = traces_url(&settings.endpoint);
    let mut is_told = false;
    loop {
        let mut batch = Vec::new();
        let is_last = tokio::select! {
            _ = stopped.recv() => true,
            taken = spans.recv_many(&mut batch, BATCH) => taken == 0,
        };
        if !is_last {
            // Lets the batch fill.
            tokio::select! {
                _ = stopped.recv() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
        }
        for part in batch.chunks(BATCH) {
            let body = wire::request(stage, part).encode_to_vec();
            let sent =
                http.post(url.clone()).header(CONTENT_TYPE, "application/x-protobuf").body(body).send().await;
            is_told = tell(sent, is_told);
        }
        if is_last {
            return;
        }
    }
}

/// Says once that the collector takes nothing, and once that it does again. Returns whether the former was said last.
fn tell(sent: Result<reqwest::Response, reqwest::Error>, is_told: bool) -> bool {
    let problem = match sent {
        Ok(answer) if answer.status().is_success() => None,
        Ok(answer) => Some(format!("it answers {}", answer.status().as_u16())),
        Err(error) => Some(error.without_url().to_string()),
    };
    match (&problem, is_told) {
        (Some(problem), false) => {
            tracing::warn!(
                "The collector of traces takes none: {problem}. Spans are lost meanwhile, records are not"
            );
        }
        (None, true) => tracing::info!("The collector of traces takes spans again"),
        _ => {}
    }
    problem.is_some()
}

fn traces_url(endpoint: &url::Url) -> url::Url {
    let mut url = endpoint.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["v1", "traces"]);
    }
    url
}

/// Reads `name=value,name=value`.
pub(super) fn parse_headers(text: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let mut value = HeaderValue::from_str(value.trim()).ok()?;
        value.set_sensitive(true);
        headers.insert(name.trim().parse::<HeaderName>().ok()?, value);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_appended_to_the_address() {
        for (endpoint, expected) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://host/otlp", "https://host/otlp/v1/traces"),
        ] {
            assert_eq!(traces_url(&endpoint.parse().unwrap()).as_str(), expected);
        }
    }

    #[test]
    fn headers_are_pairs() {
        let headers = parse_headers("api-key=hunter2, x-team = school ,").unwrap();
        assert!(headers["api-key"] == "hunter2" && headers["x-team"] == "school");
        assert!(!format!("{headers:?}").contains("hunter2"));
        assert!(parse_headers("hunter2").is_none());
    }
}
