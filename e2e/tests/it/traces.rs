//! One record's way through four processes is one trace, as a collector of OTLP sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use e2e::{School, Stage, eventually};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::Value;

use crate::flow::{good_contact, good_deal, good_rows};

/// A span, with the service that sent it.
#[derive(Clone)]
struct Received {
    service: String,
    span: Span,
}

/// A collector that keeps everything, and takes nothing else than OTLP in protobuf.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Received>>>);

impl Collector {
    async fn start(&self) -> anyhow::Result<String> {
        let collector = self.clone();
        let take = move |headers: HeaderMap, body: Bytes| std::future::ready(collector.take(&headers, &body));
        let app = axum::Router::new().route("/v1/traces", axum::routing::post(take));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(format!("http://{address}"))
    }

    fn take(&self, headers: &HeaderMap, body: &[u8]) -> (StatusCode, Vec<u8>) {
        let is_protobuf = headers.get("content-type").is_some_and(|kind| kind == "application/x-protobuf");
        let Ok(request) = ExportTraceServiceRequest::decode(body) else {
            return (StatusCode::BAD_REQUEST, Vec::new());
        };
        if !is_protobuf || headers.get("api-key").is_none_or(|key| key != "hunter2") {
            return (StatusCode::UNSUPPORTED_MEDIA_TYPE, Vec::new());
        }
        let mut received = self.0.lock().expect("nobody panics with it");
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let service = text(&resource.attributes, "service.name").unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            received.extend(spans.map(|span| Received { service: service.clone(), span }));
        }
        (StatusCode::OK, ExportTraceServiceResponse::default().encode_to_vec())
    }

    fn all(&self) -> Vec<Received> {
        self.0.lock().expect("nobody panics with it").clone()
    }

    /// Returns the trace that begins with publishing this record, if all four stages are in it.
    fn trace_of(&self, record: &str) -> Option<Vec<Received>> {
        let all = self.all();
        let first = all.iter().find(|received| {
            received.service == "producer"
                && text(&received.span.attributes, "rollcall.record").as_deref() == Some(record)
        })?;
        let trace = first.span.trace_id.clone();
        let spans: Vec<Received> =
            all.into_iter().filter(|received| received.span.trace_id == trace).collect();
        let services: BTreeSet<&str> = spans.iter().map(|received| received.service.as_str()).collect();
        let is_settled = spans.iter().any(|received| received.span.name == "publish B24_STATUS");
        (services.len() == Stage::ALL.len() && is_settled).then_some(spans)
    }
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

/// Follows a span up to the beginning of its trace and returns the names on the way.
fn way_up(spans: &[Received], name: &str) -> Vec<String> {
    let by_id: BTreeMap<&[u8], &Span> =
        spans.iter().map(|received| (received.span.span_id.as_slice(), &received.span)).collect();
    let mut way = Vec::new();
    let mut next = spans.iter().map(|received| &received.span).find(|span| span.name == name);
    while let Some(span) = next {
        way.push(span.name.clone());
        next = by_id.get(span.parent_span_id.as_slice()).copied();
    }
    way
}

#[tokio::test(flavor = "multi_thread")]
async fn one_records_way_through_four_processes_is_one_trace() -> anyhow::Result<()> {
    let collector = Collector::default();
    let endpoint = collector.start().await?;
    let school = School::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter2")
        .start()
        .await?;
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    let deal = school.bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
    let find = |record: String| {
        let collector = &collector;
        eventually("a whole trace", Duration::from_secs(120), move || {
            std::future::ready(Ok(collector.trace_of(&record)))
        })
    };
    let contact_trace = find(format!("contact.{pupil}")).await?;
    let deal_trace = find(format!("deal.{deal}")).await?;
    assert_ne!(contact_trace[0].span.trace_id, deal_trace[0].span.trace_id);

    let whole_way = [
        "publish B24_STATUS",
        "process CRM_RESULT",
        "publish CRM_RESULT",
        "process CRM_CMD",
        "publish CRM_CMD",
        "process B24_RAW",
        "publish B24_RAW",
    ];
    assert_eq!(way_up(&contact_trace, "publish B24_STATUS"), whole_way);
    for (trace, call) in
        [(&contact_trace, "otmechalka create_client"), (&deal_trace, "otmechalka create_ticket")]
    {
        assert_eq!(way_up(trace, call)[1], "process CRM_CMD", "{call}");
        assert_eq!(way_up(trace, "bitrix24 write status")[1], "process CRM_RESULT");
    }
    let first =
        contact_trace.iter().find(|received| received.span.name == "publish B24_RAW").expect("its begin");
    let cause = first.span.links.first().expect("the poll that showed it").span_id.clone();
    eventually("the span of the poll", Duration::from_secs(30), || {
        let polls = collector.all().into_iter().filter(|received| received.span.name == "CONTACT_SYNC_JOB");
        let is_there = polls.map(|poll| poll.span.span_id).any(|id| id == cause);
        std::future::ready(Ok(is_there.then_some(())))
    })
    .await?;

    for Received { span, .. } in collector.all() {
        assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano >= span.start_time_unix_nano);
        let said = format!("{} {:?}", span.name, span.attributes);
        assert!(!said.contains("Берёзкин") && !said.contains("5550102"), "{said}");
    }
    assert!(!school.logs()?.contains("hunter2"));
    school.caught_up().await?;
    school.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_collects_traces_no_message_carries_one() -> anyhow::Result<()> {
    let contract: Value = serde_json::from_str(include_str!("../../../schemas/asyncapi.json"))?;
    let told = &contract["components"]["schemas"]["Envelope"]["properties"];
    for (endpoint, is_traced) in [("", false), ("http://127.0.0.1:9", true)] {
        let school = School::builder().env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).start().await?;
        let pupil = school.bitrix24.create_contact(good_contact()).await?;
        school.bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
        school.caught_up().await?;
        for stream in ["B24_RAW", "CRM_CMD", "CRM_RESULT", "B24_STATUS"] {
            let stored = school.broker.jetstream().get_stream(stream).await?;
            let last = stored.cached_info().state.last_sequence;
            ensure!(last >= 2, "{stream} has messages");
            for sequence in 1..=last {
                let headers = stored.get_raw_message(sequence).await?.headers;
                let carries = headers.get("traceparent").is_some();
                ensure!(carries == is_traced, "{stream} {sequence} with `{endpoint}`: {headers:?}");
                for (name, _) in headers.iter() {
                    let name: &str = name.as_ref();
                    let is_known = name.starts_with("Nats-") || told.get(name).is_some();
                    ensure!(is_known, "{stream} {sequence}: {name} is in no contract");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_no_record() -> anyhow::Result<()> {
    let school = School::builder()
        .demo(40, 60, 3)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        .start()
        .await?;
    school.caught_up().await?;
    school.assert_consistent().await?;
    assert_eq!(school.messages("DLQ").await?, 0);
    Ok(())
}
