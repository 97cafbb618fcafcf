//! Consumers that have something to deliver and deliver nothing.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::bootstrap::{self, Mode};
use runtime::local_nats::{Access, LocalNats};
use runtime::{Delivery, Verdict, consume};
use schemas::streams::{RAW, mapper_consumer};

use super::{Bench, Counting, eventually};

/// What is logged on this thread, so the test has to run on one.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Heard {
    fn listen() -> (Heard, tracing::subscriber::DefaultGuard) {
        let heard = Heard::default();
        let writer = heard.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        (heard, tracing::subscriber::set_default(subscriber.finish()))
    }

    fn count(&self, words: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches(words).count()
    }
}

/// Says that a stalled consumer was noticed.
const NOTICED: &str = "Consumer mapper of stream B24_RAW has 1 messages and delivers none; opening it again";

/// Has every request for messages get lost on its way, or not.
fn lose_requests(config: &std::path::Path, public_key: &str, lost: bool) {
    let denied = if lost { "\"$JS.API.CONSUMER.MSG.NEXT.>\"" } else { "" };
    let text = format!(
        "no_auth_user: stage\n\
         accounts {{ A {{ jetstream: enabled, users: [\n\
         {{ nkey: \"{public_key}\" }}\n\
         {{ user: stage, password: stage, permissions: {{ publish: {{ deny: [{denied}] }} }} }}\n\
         ] }} }}\n"
    );
    std::fs::write(config, text).unwrap();
}

#[tokio::test]
async fn a_consumer_that_delivers_nothing_is_opened_again_and_so_is_one_that_was_made_again() {
    let (heard, _guard) = Heard::listen();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("users.conf");
    let key = nkeys::KeyPair::new_user();
    lose_requests(&config, &key.public_key(), true);
    let access = Access { config: config.clone(), seed: Some(key.seed().unwrap().into()) };
    let server = LocalNats::start_guarded(&folder.path().join("nats"), access).await.unwrap();
    let bench = Bench::of(server, folder).await;
    bootstrap::apply(&bench.broker, 1, Mode::Make).await.unwrap();
    bench.publish_contact(1, "a").await;

    let handler = Counting(AtomicU64::new(0), |_, _: &Delivery| Verdict::Done(Vec::new()));
    let stage = consume(&bench.broker, "mapper", mapper_consumer(), &handler);
    let watch = async {
        eventually("the stall is noticed", || async { heard.count(NOTICED) > 0 }).await;
        assert_eq!(bench.unsettled().await, 1);
        lose_requests(&config, &key.public_key(), false);
        let server = Pid::from_raw(bench.server.process_id().unwrap() as i32);
        kill(server, Signal::SIGHUP).unwrap();
        eventually("the message", || async { handler.0.load(Ordering::SeqCst) == 1 }).await;

        let stream = bench.broker.jetstream().get_stream(RAW.name).await.unwrap();
        stream.delete_consumer("mapper").await.unwrap();
        bootstrap::apply(&bench.broker, 1, Mode::Make).await.unwrap();
        bench.publish_contact(2, "b").await;
        // A new consumer begins at the beginning.
        eventually("both messages", || async { handler.0.load(Ordering::SeqCst) == 3 }).await;
        bench.stopping.cancel();
    };
    let (ended, ()) = tokio::join!(stage, watch);
    ended.unwrap();
}

#[tokio::test]
async fn a_consumer_that_somebody_paused_is_waited_for_in_silence() {
    let (heard, _guard) = Heard::listen();
    let bench = Bench::bootstrapped().await;
    let stream = bench.broker.jetstream().get_stream(RAW.name).await.unwrap();
    // Longer than the silence after which a consumer is looked at.
    let until = chrono::Utc::now() + Duration::from_secs(7);
    assert!(stream.pause_consumer("mapper", until).await.unwrap().paused);
    bench.publish_contact(1, "a").await;

    let handler = Counting(AtomicU64::new(0), |_, _: &Delivery| Verdict::Done(Vec::new()));
    let stage = consume(&bench.broker, "mapper", mapper_consumer(), &handler);
    let watch = async {
        eventually("the message", || async { bench.unsettled().await == 0 }).await;
        bench.stopping.cancel();
    };
    let (ended, ()) = tokio::join!(stage, watch);
    ended.unwrap();
    assert!(chrono::Utc::now() >= until);
    assert_eq!(heard.count("delivers none"), 0);
}
