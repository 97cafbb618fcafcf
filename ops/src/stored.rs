//! Reads what a stream holds, message by message, so that memory does not grow with the stream.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::Stream;
use futures::StreamExt;
use runtime::Broker;
use runtime::broker::StoredMessage;
use tokio::sync::{Mutex, MutexGuard};

use crate::credentials::permissions::PAGE;
use crate::exit::Failure;
use crate::nats;
use crate::progress::Progress;

/// Longest wait for the next message of a stream that has one. A connection to the status page lasts longer, so that it
/// can say so.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pause before what broke off is taken up again.
const PAUSE: Duration = Duration::from_millis(250);

/// Silence after which a reading is broken off: its consumer may be gone, or what it had left to read.
const SILENCE: Duration = Duration::from_secs(5);

/// Held by whoever reads for the status page, which may have one consumer on each stream.
static PAGE_READS: Mutex<()> = Mutex::const_new(());

/// The name that a consumer has to have, and until when nobody else may take it; none where any name will do.
struct Named(Option<MutexGuard<'static, ()>>);

impl Named {
    /// Waits for the name.
    async fn take(broker: &Broker) -> Named {
        Named(if nats::is_page(broker) { Some(PAGE_READS.lock().await) } else { None })
    }

    /// Frees the name of what a reading left that broke off.
    async fn free(&self, stream: &Stream<()>) {
        if self.0.is_some() {
            let _there_was_none = stream.delete_consumer(PAGE).await;
        }
    }

    fn name(&self) -> Option<String> {
        self.0.as_ref().map(|_| PAGE.to_owned())
    }
}

/// Which messages of a stream are read.
pub struct Choice {
    /// Subjects.
    pub filters: Vec<String>,
    /// The first of them.
    pub from: DeliverPolicy,
    /// Leaves the payloads away.
    pub headers_only: bool,
    /// What a bar says that shows how far the reading is.
    pub bar: Option<&'static str>,
}

impl Choice {
    /// Chooses whole messages.
    pub fn new(filters: Vec<String>, from: DeliverPolicy) -> Choice {
        Choice { filters, from, headers_only: false, bar: None }
    }
}

/// Counts the messages of a subject from a sequence on, without reading any of them.
pub async fn count(
    broker: &Broker,
    stream: &'static str,
    filter: &str,
    start_sequence: u64,
) -> Result<u64, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::trouble(format!("cannot count {stream}: {error}"));
    let handle = broker.stream(stream).await.map_err(Failure::trouble)?;
    let named = Named::take(broker).await;
    named.free(&handle).await;
    let config = Config {
        name: named.name(),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ack_policy: AckPolicy::None,
        filter_subject: filter.to_owned(),
        memory_storage: true,
        num_replicas: 1,
        ..Config::default()
    };
    let consumer = handle.create_consumer(config).await.map_err(|error| failed(&error))?;
    let info = consumer.cached_info();
    // Left alone it goes by itself, a few seconds later.
    let _gone = handle.delete_consumer(&info.name).await;
    Ok(info.num_pending)
}

/// Gives every stored message of a choice to `each`, in their order, until it has read enough.
///
/// What is stored after this began is not among them.
pub async fn read(
    broker: &Broker,
    stream: &'static str,
    choice: Choice,
    mut each: impl FnMut(StoredMessage) -> ControlFlow<()>,
) -> Result<(), Failure> {
    let handle = broker.stream(stream).await.map_err(Failure::trouble)?;
    let named = Named::take(broker).await;
    let mut place = Place { choice, sequence: 0, left: None, bar: None, heard: Instant::now() };
    loop {
        named.free(&handle).await;
        match place.read_on(&handle, named.name(), &mut each).await {
            Ok(()) => return Ok(()),
            Err(reason) if place.heard.elapsed() > PATIENCE => {
                return Err(Failure::environment(format!("cannot read stream {stream}: {reason}"))
                    .remedy("`rollcall doctor` says what is wrong with it"));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// How far a reading is that may break off and be taken up again.
struct Place {
    choice: Choice,
    /// The last message that was read.
    sequence: u64,
    /// Messages that are left; unknown before they were counted.
    left: Option<u64>,
    bar: Option<Progress>,
    /// When the last one came.
    heard: Instant,
}

impl Place {
    /// Reads on behind the last message, through a consumer of its own: its client would give another name to the one that
    /// follows a broken one, and a name is all that the status page may have.
    async fn read_on(
        &mut self,
        stream: &Stream<()>,
        name: Option<String>,
        each: &mut impl FnMut(StoredMessage) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let consumer = stream.create_consumer(self.config(name)).await.map_err(|error| told(&error))?;
        let pending = consumer.cached_info().num_pending;
        let mut left = self.left.unwrap_or(pending).min(pending);
        if self.left.replace(left).is_none() && left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX);
            self.bar = self.choice.bar.map(|what| Progress::new(length, what));
        }
        let mut messages = consumer.messages().await.map_err(|error| told(&error))?;
        let mut delivered = 0;
        while left > 0 {
            let next = tokio::time::timeout(SILENCE, messages.next()).await;
            let next = next.ok().flatten().ok_or("NATS went silent")?;
            let message = next.map_err(|error| told(&error))?;
            let info = message.info().map_err(|error| told(&error))?;
            let (sequence, pending) = (info.stream_sequence, info.pending);
            delivered += 1;
            if info.consumer_sequence != delivered {
                return Err("a message got lost on its way".to_owned());
            }
            if sequence > self.sequence {
                let stored = StoredMessage::try_from(message).map_err(|error| told(&error))?;
                (self.sequence, self.heard) = (sequence, Instant::now());
                self.bar.iter().for_each(Progress::step);
                left -= 1;
                if each(stored).is_break() {
                    break;
                }
            }
            left = left.min(pending);
            self.left = Some(left);
        }
        self.bar.iter().for_each(Progress::end);
        Ok(())
    }

    /// Describes a consumer of what is left. Of the last of each subject it gives again what was read.
    fn config(&self, name: Option<String>) -> Config {
        let deliver_policy = match self.choice.from {
            from if self.sequence == 0 || from == DeliverPolicy::LastPerSubject => from,
            _ => DeliverPolicy::ByStartSequence { start_sequence: self.sequence + 1 },
        };
        Config {
            name,
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subjects: self.choice.filters.clone(),
            headers_only: self.choice.headers_only,
            inactive_threshold: PATIENCE,
            memory_storage: true,
            num_replicas: 1,
            ..Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::TryStreamExt;
    use runtime::CancellationToken;
    use runtime::broker::NatsSettings;
    use runtime::health::Health;
    use runtime::local_nats::LocalNats;

    use super::*;

    /// More than a consumer sends at once.
    const MANY: u64 = 1_000;

    /// Starts a server with a stream of as many messages, of 700 subjects.
    async fn numbers() -> (LocalNats, tempfile::TempDir, Broker, Stream) {
        let folder = tempfile::tempdir().unwrap();
        let server = LocalNats::start(folder.path()).await.unwrap();
        let settings = NatsSettings::plain(&server.url()).unwrap();
        let broker = Broker::connect(PAGE, &settings, Health::default(), CancellationToken::new());
        let broker = broker.await.unwrap();
        let config = async_nats::jetstream::stream::Config {
            name: "numbers".to_owned(),
            subjects: vec!["number.*".to_owned()],
            ..Default::default()
        };
        let stream = broker.jetstream().create_stream(config).await.unwrap();
        for number in 0..MANY {
            let subject = format!("number.{}", number % 700);
            broker.jetstream().publish(subject, number.to_string().into()).await.unwrap().await.unwrap();
        }
        (server, folder, broker, stream)
    }

    /// Reads, and does something once it has read the first message. Returns the sequences.
    async fn read_and<F: Future>(broker: &Broker, from: DeliverPolicy, then: impl Fn() -> F) -> Vec<u64> {
        let runtime = tokio::runtime::Handle::current();
        let mut sequences = Vec::new();
        let choice = Choice::new(vec!["number.>".to_owned()], from);
        let reading = read(broker, "numbers", choice, |message| {
            sequences.push(message.sequence);
            if sequences.len() == 1 {
                tokio::task::block_in_place(|| runtime.block_on(then()));
            }
            ControlFlow::Continue(())
        });
        reading.await.unwrap();
        sequences
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reading_that_breaks_off_is_taken_up_again_under_the_name_it_may_have() {
        let (_server, _folder, broker, stream) = numbers().await;
        for (from, expected) in [
            (DeliverPolicy::All, 1..=MANY),
            (DeliverPolicy::ByStartSequence { start_sequence: 200 }, 200..=MANY),
            (DeliverPolicy::LastPerSubject, 301..=MANY),
        ] {
            let gone = async || stream.delete_consumer(PAGE).await.expect("a consumer of that name");
            let sequences = read_and(&broker, from, gone).await;
            assert_eq!(sequences, expected.collect::<Vec<u64>>(), "{from:?}");
            let names: BTreeSet<String> = stream.consumer_names().try_collect().await.unwrap();
            assert_eq!(names, BTreeSet::from([PAGE.to_owned()]), "{from:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_removed_meanwhile_is_not_waited_for() {
        let (_server, _folder, broker, stream) = numbers().await;
        let emptied = async || stream.purge().await.expect("an empty stream");
        let sequences = read_and(&broker, DeliverPolicy::All, emptied).await;
        assert!((1..MANY).contains(&(sequences.len() as u64)), "{}", sequences.len());
    }
}
