//! With a user for each stage and each extra consumer: everything still works, and nothing else is allowed.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::{Client, ConnectOptions, Event, HeaderMap};
use chrono::{DateTime, FixedOffset};
use e2e::{School, Stage, eventually, program_path};
use futures::StreamExt;
use runtime::Outgoing;
use schemas::streams::{ATTEMPTS, BUCKETS, STREAMS, consumers};
use schemas::{Envelope, Outcome, RecordId, RecordProcessed, RecordRef, Shown, Version, subjects};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::flow::{good_contact, good_deal, good_rows, status_of, ticket};

const PATIENCE: Duration = Duration::from_secs(60);

/// A user's connection, and what the server refused it.
pub struct Guest {
    pub client: Client,
    refused: mpsc::UnboundedReceiver<String>,
}

impl Guest {
    /// Connects as a user of a school; `inbox` is its name.
    pub async fn enter(school: &School, user: &str, inbox: &str) -> anyhow::Result<Guest> {
        let seed = std::fs::read_to_string(school.seed(user))?.trim().to_owned();
        let (told, refused) = mpsc::unbounded_channel();
        let client = ConnectOptions::with_nkey(seed)
            .custom_inbox_prefix(format!("_INBOX_{inbox}"))
            .event_callback(move |event| {
                let told = told.clone();
                async move {
                    if let Event::ServerError(error) = event {
                        let _nobody_listens = told.send(error.to_string());
                    }
                }
            })
            .connect(school.nats.url())
            .await?;
        Ok(Guest { client, refused })
    }

    /// Publishes, and expects the server to say no to this very subject.
    async fn may_not_publish(&mut self, subject: &str) -> anyhow::Result<()> {
        self.client.publish(subject.to_owned(), "{}".into()).await?;
        self.is_refused(&format!("\"{subject}\"")).await
    }

    /// Subscribes, and expects the server to say no to this very subject.
    pub async fn may_not_subscribe(&mut self, subject: &str) -> anyhow::Result<()> {
        let _subscription = self.client.subscribe(subject.to_owned()).await?;
        self.is_refused(&format!("\"{subject}\"")).await
    }

    async fn is_refused(&mut self, what: &str) -> anyhow::Result<()> {
        loop {
            let said = tokio::time::timeout(PATIENCE, self.refused.recv()).await;
            let Ok(Some(error)) = said else { anyhow::bail!("{what} is not refused") };
            let error = error.to_lowercase();
            if error.contains("permissions violation") && error.contains(&what.to_lowercase()) {
                return Ok(());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_user_for_each_stage_everything_works_and_nothing_is_refused() -> anyhow::Result<()> {
    let mut school = School::builder().demo(40, 60, 3).guarded(&["report"]).start().await?;
    school.caught_up().await?;

    // What a good day does not need: a ticket that waits, a record on which otmechalka fails, a dead letter, kills.
    let mut bad = good_contact();
    bad["PHONE"] = json!([]);
    let contact = school.bitrix24.create_contact(bad).await?;
    let deal = school.bitrix24.create_deal(good_deal(contact), good_rows()).await?;
    school.caught_up().await?;
    school.kill_and_start(Stage::Pusher).await?;
    school.kill_and_start(Stage::Mapper).await?;
    school.kill_and_start(Stage::StatusWriter).await?;
    let edit = json!({"PHONE": [{"VALUE": "8 (926) 555-01-02", "VALUE_TYPE": "MOBILE"}]});
    school
        .otmechalka
        .fault(
            json!({"kind": "internal_500", "method": "POST", "origin_id": contact.to_string(), "count": 2}),
        )
        .await?;
    school.bitrix24.edit("contact", contact, edit).await?;
    school.caught_up().await?;
    let record = RecordRef::contact(RecordId::try_new(contact)?);
    let commands = school.broker.stream("CRM_CMD").await?;
    let command =
        school.broker.last_message(&commands, "CRM_CMD", &subjects::command(record.id, record)).await?;
    let attempt = command.as_ref().and_then(|command| command.header("ce-attempt"));
    assert!(attempt.is_some(), "the record on which otmechalka failed was not parked");
    assert!(ticket(&school, deal).await?.is_some());
    assert_eq!(status_of(&school, "deal", deal).await?, "Успешно");
    the_operator_replays(&school, contact).await?;
    school.caught_up().await?;
    school.assert_consistent().await?;

    for subject in ["b24.raw.contact.999999", "crm.cmd.00.contact.999999", "crm.result.00.contact.999999"] {
        school.broker.jetstream().publish(subject, "poison".into()).await?.await?;
    }
    eventually("a dead letter of each stage", PATIENCE, || async {
        Ok((school.messages("DLQ").await? >= 3).then_some(()))
    })
    .await?;
    let violations: Vec<String> = school
        .nats_log()?
        .lines()
        .filter(|line| line.to_lowercase().contains("violation"))
        .map(str::to_owned)
        .collect();
    assert_eq!(violations, [] as [String; 0]);
    Ok(())
}

/// Sends a contact round again: to an extra consumer's sandbox, to the status-writer alone, and through otmechalka.
async fn the_operator_replays(school: &School, contact: u64) -> anyhow::Result<()> {
    let report = Guest::enter(school, "consumers/report", "report").await?;
    let mut copies = report.client.subscribe("sandbox.report.>").await?;
    report.client.flush().await?;
    let contact = contact.to_string();
    for target in [["--to", "sandbox.report"], ["--to-stage", "status-writer"], ["--to-stage", "pusher"]] {
        let choice = [&["--json", "replay", "--contact", &contact, "--resend"], &target[..]].concat();
        let plan = school.rollcall(&choice).await?;
        let hash = plan.json()?["result"]["hash"].as_str().context("hash of the plan")?.to_owned();
        let done = school.rollcall(&[&choice[..], &["--apply", &hash]].concat()).await?;
        assert_eq!((plan.code, done.code), (0, 0), "{target:?}: {plan:?} {done:?}");
        let told = done.json()?;
        assert_eq!(told["result"]["published"], json!([format!("contact/{contact}")]), "{target:?}: {told}");
    }
    let copy = tokio::time::timeout(PATIENCE, copies.next()).await?.context("a copy")?;
    assert!(copy.subject.starts_with("sandbox.report.") && copy.subject.ends_with(&contact), "{copy:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_what_a_user_may_too_little_and_too_much() -> anyhow::Result<()> {
    let school = School::builder().guarded(&[]).open().await?;
    let folder = school.seed("ops").ancestors().nth(2).context("folder of the credentials")?.to_owned();
    let told = async || -> anyhow::Result<Vec<String>> {
        let path = folder.display().to_string();
        let answer = school.rollcall(&["--json", "doctor", "--credentials", &path]).await?.json()?;
        let findings = answer["findings"].as_array().cloned().unwrap_or_default();
        let ours = findings.iter().filter(|finding| finding["code"] == "nats.permissions");
        Ok(ours.map(|found| format!("{} {}", found["severity"], found["message"])).collect())
    };
    let before = told().await?;
    assert_eq!(before.len(), 6, "{before:#?}");
    assert!(
        before.iter().all(|line| line.starts_with("\"ok\"") && line.contains("nothing else")),
        "{before:#?}"
    );

    let file = folder.join("server/users.conf");
    let text = std::fs::read_to_string(&file)?;
    let drifted = text.replacen("\"b24.status.>\"", "\"b24.other.>\"", 1);
    assert_ne!(drifted, text);
    std::fs::write(&file, drifted)?;
    school.reload().await?;
    let after = told().await?;
    let named = |severity: &str, what: &str| {
        after
            .iter()
            .any(|line| line.starts_with(severity) && line.contains(what) && line.contains("status-writer"))
    };
    assert!(named("\"error\"", "may not publish to b24.status.>"), "{after:#?}");
    assert!(named("\"warning\"", "may publish to b24.other.>"), "{after:#?}");
    assert_eq!(after.len(), 7, "{after:#?}");
    Ok(())
}

/// What each stage may not do, besides what nobody but the operator may.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    (
        "producer",
        &[
            "crm.cmd.00.contact.1",
            "crm.result.00.contact.1",
            "b24.status.00.contact.1",
            "dlq.mapper.contact.1",
            "$KV.waiting.1.2",
            "$KV.attempts.mapper.1",
            "$JS.API.CONSUMER.MSG.NEXT.B24_RAW.mapper",
            "$JS.API.DIRECT.GET.KV_waiting.$KV.waiting.1.2",
            "$JS.API.DIRECT.GET.CRM_RESULT.crm.result.00.contact.1",
            "$JS.API.DIRECT.GET.B24_STATUS.b24.status.00.contact.1",
            "$JS.API.DIRECT.GET.B24_STATUS",
            "$JS.API.STREAM.MSG.GET.B24_STATUS",
            "$JS.API.STREAM.INFO.B24_STATUS",
            "$JS.API.CONSUMER.CREATE.B24_STATUS.producer",
            "$JS.API.CONSUMER.MSG.NEXT.CRM_RESULT.status-writer-contact",
            "$JS.API.STREAM.MSG.GET.DLQ",
        ],
    ),
    (
        "mapper",
        &[
            "b24.raw.contact.1",
            "crm.later.00.contact.1",
            "crm.result.00.contact.1",
            "b24.status.00.contact.1",
            "dlq.pusher.contact.1",
            "$KV.checkpoint.contact",
            "$KV.budget.bitrix24",
            "$KV.attempts.pusher-00.1",
            "$JS.API.CONSUMER.MSG.NEXT.CRM_CMD.pusher-00",
            "$JS.ACK.CRM_CMD.pusher-00.1.1.1.1.1",
            "$JS.API.DIRECT.GET.KV_checkpoint.$KV.checkpoint.contact",
            "$JS.API.STREAM.MSG.GET.B24_RAW",
            "$JS.API.STREAM.MSG.GET.B24_STATUS",
            "$JS.API.CONSUMER.MSG.NEXT.CRM_RESULT.status-writer-contact",
        ],
    ),
    (
        "pusher",
        &[
            "b24.raw.contact.1",
            "b24.status.00.contact.1",
            "dlq.mapper.contact.1",
            "$KV.checkpoint.contact",
            "$KV.budget.bitrix24",
            "$KV.attempts.mapper.1",
            "$JS.API.CONSUMER.MSG.NEXT.B24_RAW.mapper",
            "$JS.ACK.B24_RAW.mapper.1.1.1.1.1",
            "$JS.API.DIRECT.GET.KV_budget.$KV.budget.bitrix24",
            "$JS.API.STREAM.MSG.GET.B24_STATUS",
            "$JS.API.CONSUMER.MSG.NEXT.CRM_RESULT.status-writer-contact",
        ],
    ),
    (
        "status-writer",
        &[
            "b24.raw.contact.1",
            "crm.cmd.00.contact.1",
            "crm.later.00.contact.1",
            "crm.result.00.contact.1",
            "dlq.pusher.contact.1",
            "$KV.checkpoint.contact",
            "$KV.waiting.1.2",
            "$JS.API.STREAM.MSG.GET.CRM_CMD",
            "$JS.API.CONSUMER.MSG.NEXT.CRM_CMD.pusher-00",
            "$JS.API.DIRECT.GET.KV_waiting.$KV.waiting.1.2",
            "$JS.API.STREAM.MSG.GET.B24_RAW",
        ],
    ),
    (
        "page",
        &[
            "b24.raw.contact.1",
            "crm.cmd.00.contact.1",
            "crm.later.00.contact.1",
            "crm.result.00.contact.1",
            "b24.status.00.contact.1",
            "dlq.mapper.contact.1",
            "sandbox.report.contact.1",
            "$KV.checkpoint.contact",
            "$KV.budget.bitrix24",
            "$KV.waiting.1.2",
            "$JS.ACK.B24_RAW.mapper.1.1.1.1.1",
            "$JS.ACK.B24_RAW.page.1.1.1.1.1",
            "$JS.API.CONSUMER.MSG.NEXT.B24_RAW.mapper",
            "$JS.API.CONSUMER.MSG.NEXT.CRM_CMD.pusher-00",
            "$JS.API.CONSUMER.CREATE.B24_RAW",
            "$JS.API.CONSUMER.CREATE.B24_RAW.other",
            "$JS.API.CONSUMER.DURABLE.CREATE.B24_RAW.page",
            "$JS.API.DIRECT.GET.KV_waiting.$KV.waiting.1.2",
            "$JS.API.DIRECT.GET.KV_claim.$KV.claim.1",
        ],
    ),
];

/// What nobody but the operator may, besides what would change a stream, a bucket or a consumer.
const FORBIDDEN_TO_ALL: [&str; 4] =
    ["anything", "$JS.API.STREAM.CREATE.OTHER", "$JS.API.ACCOUNT.PURGE.ROLLCALL", "_INBOX_ops.1"];

/// Requests that change a stream or a bucket, or what it holds.
const STREAM_CHANGES: [&str; 9] = [
    "CREATE",
    "UPDATE",
    "DELETE",
    "PURGE",
    "MSG.DELETE",
    "SNAPSHOT",
    "RESTORE",
    "LEADER.STEPDOWN",
    "PEER.REMOVE",
];

/// Requests that change a consumer.
const CONSUMER_CHANGES: [&str; 7] =
    ["CREATE", "DURABLE.CREATE", "DELETE", "PAUSE", "RESET", "UNPIN", "LEADER.STEPDOWN"];

/// Returns every request that changes something that is ours.
fn changes() -> Vec<String> {
    let buckets = BUCKETS.map(|bucket| format!("KV_{}", bucket.name));
    let streams: Vec<String> =
        STREAMS.map(|stream| stream.name.to_owned()).into_iter().chain(buckets).collect();
    let of_streams = STREAM_CHANGES
        .iter()
        .flat_map(|change| streams.iter().map(move |stream| format!("$JS.API.STREAM.{change}.{stream}")));
    let of_consumers = consumers().into_iter().flat_map(|consumer| {
        let (stream, name) = (consumer.stream, consumer.name);
        let created_anew = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}.{}", consumer.filter);
        let named = CONSUMER_CHANGES.map(|change| format!("$JS.API.CONSUMER.{change}.{stream}.{name}"));
        named.into_iter().chain([created_anew])
    });
    of_streams.chain(of_consumers).collect()
}

/// What an extra consumer may not, in the names of its account or of ours.
const FORBIDDEN_TO_SUBSCRIBERS: [&str; 18] = [
    "b24.raw.contact.1",
    "crm.cmd.00.contact.1",
    "crm.later.00.contact.1",
    "crm.result.00.contact.1",
    "b24.status.00.contact.1",
    "dlq.mapper.contact.1",
    "sandbox.report.contact.1",
    "sandbox.warehouse.contact.1",
    "$KV.checkpoint.contact",
    "$KV.attempts.mapper.1",
    "$JS.ACK.B24_RAW.mapper.1.1.1.1.1",
    "rollcall.STREAM.DELETE.CRM_RESULT",
    "rollcall.STREAM.PURGE.B24_RAW",
    "rollcall.STREAM.MSG.DELETE.B24_RAW",
    "rollcall.CONSUMER.DELETE.B24_RAW.mapper",
    "rollcall.CONSUMER.MSG.NEXT.B24_RAW.mapper",
    "rollcall.CONSUMER.CREATE.B24_RAW.other",
    "rollcall.STREAM.INFO.KV_checkpoint",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_user_may_do_more_than_its_work() -> anyhow::Result<()> {
    let school = School::builder().guarded(&["warehouse", "report:CRM_RESULT"]).open().await?;
    let jetstream = school.broker.jetstream();
    jetstream.publish("b24.raw.contact.7", "kept".into()).await?.await?;

    let changes = changes();
    let forbidden_to_all =
        || FORBIDDEN_TO_ALL.iter().copied().chain(changes.iter().map(String::as_str)).collect::<Vec<_>>();
    for (user, forbidden) in FORBIDDEN {
        let mut guest = Guest::enter(&school, user, user).await?;
        for subject in forbidden.iter().copied().chain(forbidden_to_all()) {
            guest.may_not_publish(subject).await?;
        }
        for stream in STREAMS {
            guest.may_not_subscribe(stream.subjects[0]).await?;
        }
        for subject in ["$KV.>", "_INBOX_ops.>", ">"] {
            guest.may_not_subscribe(subject).await?;
        }
    }
    for name in ["warehouse", "report"] {
        let mut guest = Guest::enter(&school, &format!("consumers/{name}"), name).await?;
        for subject in FORBIDDEN_TO_SUBSCRIBERS.iter().copied().chain(forbidden_to_all()) {
            guest.may_not_publish(subject).await?;
        }
        for subject in ["b24.raw.>", "$KV.>", "_INBOX_mapper.>", ">"] {
            guest.may_not_subscribe(subject).await?;
        }
    }
    let mut report = Guest::enter(&school, "consumers/report", "report").await?;
    for subject in ["sandbox.warehouse.>", "sandbox.>"] {
        report.may_not_subscribe(subject).await?;
    }
    for subject in ["rollcall.STREAM.INFO.B24_RAW", "rollcall.CONSUMER.CREATE.B24_RAW.report"] {
        report.may_not_publish(subject).await?;
    }
    assert!(ConnectOptions::new().connect(school.nats.url()).await.is_err(), "a stranger was let in");

    for stream in STREAMS {
        let kept = u64::from(stream.name == "B24_RAW");
        assert_eq!(school.messages(stream.name).await?, kept, "{}", stream.name);
    }
    for consumer in consumers() {
        let found: Result<PullConsumer, _> =
            jetstream.get_consumer_from_stream(&consumer.name, consumer.stream).await;
        assert!(found.is_ok(), "{}", consumer.name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extra_consumer_reads_on_its_own_and_its_requests_leave_nothing_in_our_streams()
-> anyhow::Result<()> {
    let school = School::builder().guarded(&[]).open().await?;
    school.admit("warehouse").await?;
    for id in 1..=3 {
        school.broker.jetstream().publish(format!("b24.raw.contact.{id}"), "{}".into()).await?.await?;
    }
    let guest = Guest::enter(&school, "consumers/warehouse", "warehouse").await?;
    let jetstream = async_nats::jetstream::with_prefix(guest.client.clone(), "rollcall");
    let config = pull::Config {
        durable_name: Some("warehouse".into()),
        ack_policy: AckPolicy::Explicit,
        filter_subject: "b24.raw.contact.*".into(),
        ..pull::Config::default()
    };
    let consumer: PullConsumer = jetstream.create_consumer_on_stream(config, "B24_RAW").await?;
    let mut messages = consumer.messages().await?;
    for _ in 0..3 {
        let message = tokio::time::timeout(PATIENCE, messages.next()).await?.expect("the stream goes on")?;
        message.double_ack().await.map_err(anyhow::Error::from_boxed)?;
    }
    drop(messages);

    // The server sends answers wherever a request says; in our account that would be into a stream.
    for subject in ["rollcall.STREAM.INFO.B24_RAW", "rollcall.CONSUMER.INFO.B24_RAW.warehouse"] {
        guest
            .client
            .publish_with_reply_and_headers(subject, "crm.cmd.00.contact.1", HeaderMap::new(), "".into())
            .await?;
    }
    guest.client.flush().await?;
    // Answered after those two, on the same connection.
    let info = guest.client.request("rollcall.CONSUMER.INFO.B24_RAW.warehouse", "".into()).await?;
    let info: serde_json::Value = serde_json::from_slice(&info.payload)?;
    assert_eq!(info["num_pending"], 0, "{info}");
    assert_eq!(info["num_ack_pending"], 0, "{info}");
    assert_eq!(school.messages("CRM_CMD").await?, 0);
    jetstream.delete_consumer_from_stream("warehouse", "B24_RAW").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_the_status_page_asks_for_can_be_stored() -> anyhow::Result<()> {
    let school = School::builder().guarded(&[]).open().await?;
    school.broker.jetstream().publish("b24.raw.contact.7", "kept".into()).await?.await?;
    let page = Guest::enter(&school, "page", "page").await?;
    let jetstream = async_nats::jetstream::with_prefix(page.client.clone(), "rollcall");
    let raw = jetstream.get_stream("B24_RAW").await?;
    assert_eq!(&raw.direct_get(1).await?.payload[..], b"kept");
    let config = pull::Config { name: Some("page".into()), ..pull::Config::default() };
    let _consumer: PullConsumer = raw.create_consumer(config).await?;

    let asked = [
        ("rollcall.STREAM.INFO.B24_RAW", ""),
        ("rollcall.DIRECT.GET.B24_RAW", r#"{"seq": 1}"#),
        ("rollcall.CONSUMER.LIST.B24_RAW", ""),
        ("rollcall.CONSUMER.MSG.NEXT.B24_RAW.page", r#"{"batch": 1}"#),
    ];
    for (subject, body) in asked {
        for reply in ["crm.cmd.00.contact.1", "$KV.checkpoint.contact", "dlq.mapper.contact.1"] {
            let headers = HeaderMap::new();
            page.client.publish_with_reply_and_headers(subject, reply, headers, body.into()).await?;
        }
    }
    // Answered after those, on the same connection.
    page.client.flush().await?;
    raw.direct_get(1).await?;
    for stream in ["CRM_CMD", "DLQ", "KV_checkpoint"] {
        assert_eq!(school.messages(stream).await?, 0, "{stream}");
    }
    Ok(())
}

/// A running example, by the lines that it prints.
struct Example {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Example {
    fn start(school: &School, name: &str, mut command: Command) -> anyhow::Result<Example> {
        let mut child = command
            .arg(name)
            .env("NATS_URL", school.nats.url())
            .envs(
                Some(school.seed(&format!("consumers/{name}")))
                    .filter(|seed| seed.is_file())
                    .map(|seed| ("NATS_NKEY_SEED_FILE", seed)),
            )
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("standard output")?).lines();
        Ok(Example { lines, _child: child })
    }

    async fn next_line(&mut self) -> anyhow::Result<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.context("no line came")??;
        line.context("the example ended")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_may_write_empties_nothing_besides() -> anyhow::Result<()> {
    let school = School::builder().guarded(&[]).open().await?;
    let attempts = school.broker.bucket(&ATTEMPTS).await?;
    attempts.put("pusher-00.1", "1".into()).await?;
    let raw = school.broker.jetstream();
    raw.publish("b24.raw.contact.7", "kept".into()).await?.await?;

    // A header with which a message takes the place of all others of its stream.
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Rollup", "all");
    for (user, subject) in [("mapper", "$KV.attempts.mapper.1"), ("producer", "b24.raw.contact.8")] {
        let guest = Guest::enter(&school, user, user).await?;
        let told = guest.client.request_with_headers(subject, headers.clone(), "2".into()).await?;
        let told: serde_json::Value = serde_json::from_slice(&told.payload)?;
        assert!(
            told["error"]["description"].as_str().unwrap_or_default().contains("rollup"),
            "{user}: {told}"
        );
    }
    assert_eq!(attempts.get("pusher-00.1").await?.map(|(value, _)| value), Some("1".into()));
    assert_eq!(school.messages("B24_RAW").await?, 1);
    Ok(())
}

/// Returns an outcome of a contact, as the pusher publishes it.
pub fn outcome_of(
    contact: u64,
    raw_sequence: u64,
    at: DateTime<FixedOffset>,
    outcome: Outcome,
    status: String,
    message_id: String,
) -> anyhow::Result<Outgoing> {
    let record = RecordRef::contact(RecordId::try_new(contact)?);
    let envelope = Envelope {
        record,
        source: "/rollcall/pusher".into(),
        pupil: Some(record.id),
        modified: at,
        fingerprint: "ab".into(),
        version: Some(Version { raw_sequence, redrive: 0 }),
        attempt: 0,
    };
    let processed = RecordProcessed {
        outcome,
        status,
        problems: Vec::new(),
        target_id: None,
        body_digest: None,
        shown: Shown { status: None, observed: at },
    };
    Ok(Outgoing::new(subjects::result(record), envelope.encode(&processed)?, message_id))
}

/// Publishes a refusal of a contact.
pub async fn publish_outcome(school: &School, contact: u64, raw_sequence: u64) -> anyhow::Result<()> {
    let at = serde_json::from_value(json!("2026-01-10T12:30:05+03:00"))?;
    let status = format!("status {raw_sequence}");
    let message_id = format!("{contact}:{raw_sequence}:{}", school.messages("CRM_RESULT").await?);
    let message = outcome_of(contact, raw_sequence, at, Outcome::Refused, status, message_id)?;
    school.broker.publish(&message).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_read_from_the_beginning_and_live_and_pass_over_what_is_old() -> anyhow::Result<()> {
    let program = include_str!("../../../examples/subscribe.py");
    assert!(program.lines().count() < 40, "it is to be read at a glance");
    let guarded = School::builder().guarded(&["in-rust", "in-python"]).open().await?;
    the_examples_read(&guarded).await?;
    // Without users, as that of `./run`.
    the_examples_read(&School::builder().open().await?).await
}

async fn the_examples_read(school: &School) -> anyhow::Result<()> {
    publish_outcome(school, 7, 10).await?;
    publish_outcome(school, 7, 9).await?;
    publish_outcome(school, 7, 10).await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/subscribe.py");
    let mut python = Command::new(std::env::var("ROLLCALL_PYTHON").context("ROLLCALL_PYTHON; run ./test")?);
    python.arg(script);
    let mut examples = [
        Example::start(school, "in-rust", Command::new(program_path("subscribe")?))?,
        Example::start(school, "in-python", python)?,
    ];
    for example in &mut examples {
        assert!(example.next_line().await?.ends_with(": status 10"));
    }
    publish_outcome(school, 7, 8).await?;
    publish_outcome(school, 7, 11).await?;
    for example in &mut examples {
        assert!(example.next_line().await?.ends_with(": status 11"));
    }
    Ok(())
}
