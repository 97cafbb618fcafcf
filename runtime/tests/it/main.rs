//! The shell against a real nats-server.

mod lease;
mod stall;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use runtime::bootstrap::{self, Finding, Mode};
use runtime::broker::NatsSettings;
use runtime::health::Health;
use runtime::local_nats::LocalNats;
use runtime::{
    Broker, CancellationToken, Delivery, Handler, Inbox, Outgoing, PublishError, Verdict, consume,
};
use schemas::streams::{
    ATTEMPTS, COMMANDS, ConsumerDefinition, DEAD_LETTERS, RAW, RESULTS, STREAMS, mapper_consumer,
};
use schemas::{DeadLetter, Envelope, RecordChanged, RecordId, RecordRef, subjects};

struct Bench {
    server: LocalNats,
    broker: Broker,
    stopping: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn bare() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let server = LocalNats::start(folder.path()).await.unwrap();
        Bench::of(server, folder).await
    }

    async fn of(server: LocalNats, folder: tempfile::TempDir) -> Bench {
        let stopping = CancellationToken::new();
        let settings = NatsSettings::plain(&server.url()).unwrap();
        let broker = Broker::connect("test", &settings, Health::default(), stopping.clone()).await.unwrap();
        Bench { server, broker, stopping, _folder: folder }
    }

    async fn bootstrapped() -> Bench {
        let bench = Bench::bare().await;
        bootstrap::apply(&bench.broker, 1, Mode::Make).await.unwrap();
        bench
    }

    async fn publish_contact(&self, id: u64, message_id: &str) -> u64 {
        self.broker.publish(&changed(id, message_id)).await.unwrap().sequence
    }

    async fn dead_letters(&self) -> u64 {
        self.broker.jetstream().get_stream(DEAD_LETTERS.name).await.unwrap().cached_info().state.messages
    }

    async fn unsettled(&self) -> u64 {
        let info = self
            .broker
            .jetstream()
            .get_consumer_from_stream::<async_nats::jetstream::consumer::pull::Config, _, _>(
                "mapper", RAW.name,
            )
            .await
            .unwrap()
            .cached_info()
            .clone();
        info.num_pending + info.num_ack_pending as u64
    }
}

fn changed(id: u64, message_id: &str) -> Outgoing {
    let record = RecordRef::contact(RecordId::try_new(id).unwrap());
    let envelope = Envelope {
        record,
        source: "/rollcall/producer".into(),
        pupil: None,
        modified: DateTime::parse_from_rfc3339("2026-01-10T10:00:00+03:00").unwrap(),
        fingerprint: message_id.into(),
        version: None,
        attempt: 0,
    };
    let data = RecordChanged {
        observed: envelope.modified,
        status: Some(String::new()),
        record: serde_json::value::to_raw_value(&serde_json::json!({"ID": id.to_string()})).unwrap(),
        product_rows: None,
        seller: None,
        trimmed: Vec::new(),
    };
    Outgoing::new(subjects::raw(record), envelope.encode(&data).unwrap(), message_id.into())
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come to hold");
}

struct Counting<F>(AtomicU64, F);

impl<F: Fn(u64, &Delivery) -> Verdict + Send + Sync> Handler for Counting<F> {
    async fn handle(&self, delivery: &Delivery) -> Verdict {
        let call = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        (self.1)(call, delivery)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_makes_everything_once_and_names_drift_without_changing_it() {
    let bench = Bench::bare().await;
    let looked = bootstrap::apply(&bench.broker, 1, Mode::Look).await;
    assert!(looked.unwrap().iter().all(|finding| matches!(finding, Finding::Missing { .. })));
    let made = bootstrap::apply(&bench.broker, 1, Mode::Make).await.unwrap();
    assert!(made.iter().all(|finding| matches!(finding, Finding::Made { .. })), "{made:?}");
    let again = bootstrap::apply(&bench.broker, 1, Mode::Make).await.unwrap();
    assert!(again.iter().all(|finding| matches!(finding, Finding::AsDeclared { .. })), "{again:?}");

    let mut config =
        bench.broker.jetstream().get_stream(RAW.name).await.unwrap().cached_info().config.clone();
    config.max_age = Duration::from_secs(3 * 24 * 60 * 60);
    bench.broker.jetstream().update_stream(&config).await.unwrap();
    let drifted = bootstrap::apply(&bench.broker, 1, Mode::Make).await.unwrap();
    let Finding::Drifted { what, differences } = &drifted[0] else { panic!("{drifted:?}") };
    assert!(
        what == "stream B24_RAW" && differences.len() == 1 && differences[0].starts_with("max_age"),
        "{drifted:?}"
    );
    let kept = bench.broker.jetstream().get_stream(RAW.name).await.unwrap().cached_info().config.max_age;
    assert_eq!(kept, config.max_age);

    let in_memory = bootstrap::Keeping { replicas: 3, storage: bootstrap::StorageType::Memory };
    let drifted = bootstrap::apply(&bench.broker, in_memory, Mode::Look).await.unwrap();
    for (index, finding) in drifted.iter().enumerate() {
        match finding {
            Finding::Drifted { what, differences } => {
                let text = differences.join(" ");
                assert!(text.contains("num_replicas") && text.contains("storage"), "{index} {what}: {text}");
            }
            Finding::AsDeclared { what } => assert!(what.starts_with("consumer "), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_stream_made_again_numbers_its_versions_above_the_old_ones() {
    let bench = Bench::bootstrapped().await;
    let before = bench.publish_contact(1, "a").await;
    assert_eq!(before, 1);
    bench.broker.jetstream().delete_stream(RAW.name).await.unwrap();
    let made = bootstrap::apply(&bench.broker, 1, Mode::Make).await.unwrap();
    assert_eq!(made.iter().filter(|finding| matches!(finding, Finding::Made { .. })).count(), 2, "{made:?}");
    assert!(bench.publish_contact(1, "b").await > 1_000_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_made_again_gives_no_message_the_number_of_another() {
    let bench = Bench::bootstrapped().await;
    let names = STREAMS.map(|stream| stream.name);
    for made_again in [&[COMMANDS.name, RESULTS.name][..], &names] {
        for stream in made_again {
            bench.broker.jetstream().delete_stream(stream).await.unwrap();
        }
        bootstrap::apply(&bench.broker, 1, Mode::Make).await.unwrap();
        for name in names {
            let stream = bench.broker.jetstream().get_stream(name).await.unwrap();
            let first = stream.cached_info().state.first_sequence;
            assert_eq!(first > 1_000_000_000, made_again.contains(&name), "{name} begins with {first}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_under_which_messages_get_lost_are_named() {
    let bench = Bench::bootstrapped().await;
    let jetstream = bench.broker.jetstream();
    let mut config = jetstream.get_stream(COMMANDS.name).await.unwrap().cached_info().config.clone();
    (config.max_messages, config.max_messages_per_subject, config.max_message_size) = (1_000, 1, 4_096);
    jetstream.update_stream(&config).await.unwrap();
    let raw = jetstream.get_stream(RAW.name).await.unwrap();
    raw.delete_consumer("mapper").await.unwrap();
    let new = pull::Config {
        deliver_policy: DeliverPolicy::New,
        backoff: vec![Duration::from_secs(1)],
        ..bootstrap::consumer_config(&mapper_consumer())
    };
    raw.create_consumer(new).await.unwrap();
    let found = bootstrap::apply(&bench.broker, 1, Mode::Look).await.unwrap();
    let drifted = found.iter().filter_map(|finding| match finding {
        Finding::Drifted { what, differences } => Some(format!("{what}: {}", differences.join(" "))),
        _ => None,
    });
    let drifted: Vec<String> = drifted.collect();
    assert_eq!(drifted.len(), 2, "{drifted:?}");
    for bound in ["max_msgs is 1000", "max_msgs_per_subject is 1", "max_msg_size is 4096"] {
        assert!(drifted[0].contains(bound), "{drifted:?}");
    }
    assert!(drifted[1].contains("deliver_policy") && drifted[1].contains("backoff"), "{drifted:?}");
}

#[tokio::test]
async fn what_is_with_somebody_else_by_now_is_not_taken_out_of_his_hands() {
    let bench = Bench::bootstrapped().await;
    bench.publish_contact(1, "a").await;
    fn shared() -> ConsumerDefinition {
        ConsumerDefinition { name: "shared".to_owned(), max_ack_pending: 9, ..mapper_consumer() }
    }
    let raw = bench.broker.jetstream().get_stream(RAW.name).await.unwrap();
    raw.create_consumer(bootstrap::consumer_config(&shared())).await.unwrap();
    async fn bind(broker: &Broker) -> Inbox {
        Inbox::bind(broker, "mapper", shared(), 1).await.unwrap()
    }
    let settler = bind(&bench.broker).await;
    let mut inbox = bind(&bench.broker).await;
    let delivery = inbox.next().await.unwrap();
    inbox.drain().await;
    // Once this is answered the server knows that nobody here waits for more.
    bench.dead_letters().await;

    let settings = NatsSettings::plain(&bench.server.url()).unwrap();
    let (told, hears) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (health, stopping) = (Health::default(), CancellationToken::new());
            let broker = Broker::connect("test", &settings, health, stopping).await.unwrap();
            let mut inbox = bind(&broker).await;
            let first = inbox.next().await.unwrap();
            told.send(first.deliveries).unwrap();
            // A message that was taken away would be handed out at once.
            let again = tokio::time::timeout(Duration::from_secs(1), inbox.next()).await;
            again.is_ok_and(|again| again.is_some())
        })
    });
    // This thread stands still meanwhile, and reports no progress.
    assert_eq!(hears.recv().unwrap(), 2);
    while delivery.is_still_ours() {
        std::thread::yield_now();
    }
    let again = Verdict::Retry { after: Duration::ZERO, reason: "the far side is unwell".into() };
    settler.settle(delivery, again).await.unwrap();
    bench.broker.client().flush().await.unwrap();
    let was_taken_away = tokio::task::spawn_blocking(|| other.join().unwrap()).await.unwrap();
    assert!(!was_taken_away);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_waits_for_bootstrap() {
    let bench = Bench::bare().await;
    let broker = bench.broker.clone();
    let waiting = tokio::spawn(async move { broker.wait_for(&[&RAW], &[mapper_consumer()], &[]).await });
    bootstrap::apply(&bench.broker, 1, Mode::Make).await.unwrap();
    assert!(waiting.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_message_id_is_stored_once() {
    let bench = Bench::bootstrapped().await;
    let first = bench.broker.publish(&changed(1, "a")).await.unwrap();
    let again = bench.broker.publish(&changed(1, "a")).await.unwrap();
    assert!(!first.duplicate && again.duplicate && first.sequence == again.sequence);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unexpected_predecessor_is_refused_even_for_a_known_message_id() {
    let bench = Bench::bootstrapped().await;
    let first = bench.broker.publish(&changed(1, "a").expecting_last(0)).await.unwrap();
    for message_id in ["a", "b"] {
        let refused = bench.broker.publish(&changed(1, message_id).expecting_last(0)).await;
        assert!(matches!(refused, Err(PublishError::NotLast)), "{refused:?}");
    }
    assert!(bench.broker.publish(&changed(1, "b").expecting_last(first.sequence)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_big_for_the_server_is_said_so() {
    let bench = Bench::bootstrapped().await;
    let mut message = changed(1, "a");
    message.encoded.payload = vec![b'x'; bench.broker.max_message_bytes() + 1];
    let refused = bench.broker.publish(&message).await;
    assert!(matches!(refused, Err(PublishError::TooBig { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_handler_always_panics_is_buried_and_the_next_one_passes() {
    let bench = Bench::bootstrapped().await;
    let begun = Utc::now();
    bench.publish_contact(1, "poison").await;
    bench.publish_contact(2, "fine").await;
    let handler = Counting(AtomicU64::new(0), |_, delivery: &Delivery| {
        assert_ne!(delivery.sequence(), 1, "poison");
        Verdict::Done(Vec::new())
    });
    let stage = consume(&bench.broker, "mapper", mapper_consumer(), &handler);
    let watch = async {
        eventually("both messages settled", || async { bench.unsettled().await == 0 }).await;
        bench.stopping.cancel();
    };
    let (ended, ()) = tokio::join!(stage, watch);
    ended.unwrap();
    assert!(handler.0.load(Ordering::SeqCst) <= 6);
    let bench_again = Broker::connect(
        "look",
        &NatsSettings::plain(&bench.server.url()).unwrap(),
        Health::default(),
        CancellationToken::new(),
    )
    .await
    .unwrap();
    let letters = bench_again.jetstream().get_stream(DEAD_LETTERS.name).await.unwrap();
    assert_eq!(letters.cached_info().state.messages, 1);
    let stored = letters.get_raw_message(1).await.unwrap();
    let letter: DeadLetter = serde_json::from_slice(&stored.payload).unwrap();
    let first_failed = letter.first_failed.unwrap();
    // Four tries were to come, with a pause before each.
    let pauses = chrono::TimeDelta::seconds(3);
    assert!(
        begun <= first_failed && first_failed + pauses < stored.time,
        "{begun} {first_failed} {}",
        stored.time
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_of_an_earlier_version_is_gone_on_with() {
    let bench = Bench::bootstrapped().await;
    let sequence = bench.publish_contact(1, "poison").await;
    let attempts = bench.broker.bucket(&ATTEMPTS).await.unwrap();
    attempts.put(&format!("mapper.{sequence}"), "4".into()).await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer =
        bench.broker.jetstream().get_consumer_from_stream("mapper", RAW.name).await.unwrap();
    let first = consumer.fetch().max_messages(1).messages().await.unwrap().next().await.unwrap().unwrap();
    first.ack_with(async_nats::jetstream::AckKind::Nak(None)).await.unwrap();
    let handler = Counting(AtomicU64::new(0), |_, _: &Delivery| Verdict::Done(Vec::new()));
    let stage = consume(&bench.broker, "mapper", mapper_consumer(), &handler);
    let watch = async {
        eventually("the message is buried", || async { bench.dead_letters().await == 1 }).await;
        bench.stopping.cancel();
    };
    let (ended, ()) = tokio::join!(stage, watch);
    ended.unwrap();
    assert_eq!(handler.0.load(Ordering::SeqCst), 0, "it had failed often enough before");
    let letters = bench.broker.jetstream().get_stream(DEAD_LETTERS.name).await.unwrap();
    let letter = letters.get_raw_message(1).await.unwrap().payload;
    let letter: DeadLetter = serde_json::from_slice(&letter).unwrap();
    assert_eq!(letter.first_failed, None);
    // Another delivery may be on its way already, which is not to be begun either.
    let attempts = bench.broker.jetstream().get_key_value(ATTEMPTS.name).await.unwrap();
    assert_eq!(attempts.get(&format!("mapper.{sequence}")).await.unwrap().unwrap(), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_finds_no_room_until_the_stage_stops_blames_no_message() {
    let bench = Bench::bootstrapped().await;
    let sequence = bench.publish_contact(1, "fine").await;
    bench.broker.jetstream().delete_stream(COMMANDS.name).await.unwrap();
    let attempts = bench.broker.bucket(&ATTEMPTS).await.unwrap();
    let key = format!("mapper.{sequence}");
    attempts.put(&key, "3".into()).await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer =
        bench.broker.jetstream().get_consumer_from_stream("mapper", RAW.name).await.unwrap();
    let first = consumer.fetch().max_messages(1).messages().await.unwrap().next().await.unwrap().unwrap();
    first.ack_with(async_nats::jetstream::AckKind::Nak(None)).await.unwrap();
    let handler = Counting(AtomicU64::new(0), |_, _: &Delivery| {
        let Outgoing { encoded, .. } = changed(1, "a");
        Verdict::Done(vec![Outgoing::new("crm.cmd.00.contact.1".to_owned(), encoded, "a".to_owned())])
    });
    let stage = consume(&bench.broker, "mapper", mapper_consumer(), &handler);
    let watch = async {
        eventually("it has nothing to blame the message for", || async {
            handler.0.load(Ordering::SeqCst) > 0 && attempts.get(&key).await.unwrap().is_none()
        })
        .await;
        bench.stopping.cancel();
    };
    let (ended, ()) = tokio::join!(stage, watch);
    ended.unwrap();
    assert_eq!(bench.unsettled().await, 1, "it comes again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_comes_again_and_an_outage_of_the_server_is_outlived() {
    let mut bench = Bench::bootstrapped().await;
    bench.publish_contact(1, "a").await;
    let handler = Counting(AtomicU64::new(0), |call, _: &Delivery| match call {
        1 => Verdict::Retry { after: Duration::from_millis(20), reason: "the far side is unwell".into() },
        _ => Verdict::Done(Vec::new()),
    });
    let broker = bench.broker.clone();
    let stage = async { consume(&broker, "mapper", mapper_consumer(), &handler).await };
    let watch = async {
        eventually("the retry", || async { bench.unsettled().await == 0 }).await;
        bench.server.kill().await.unwrap();
        bench.server.restart().await.unwrap();
        bench.publish_contact(2, "b").await;
        eventually("the message after the outage", || async { bench.unsettled().await == 0 }).await;
        assert_eq!(bench.dead_letters().await, 0);
        bench.stopping.cancel();
    };
    let (ended, ()) = tokio::join!(stage, watch);
    ended.unwrap();
    // Acks are stored lazily, so the killed server may have forgotten one: at least once, not exactly.
    let calls = handler.0.load(Ordering::SeqCst);
    assert!((3..=4).contains(&calls), "{calls}");
}
