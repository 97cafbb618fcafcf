//! Makes streams, consumers and buckets that are missing and names those that differ; changes nothing that exists.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{
    AckPolicy, Config as ConsumerConfig, DeliverPolicy, PullConsumer, pull,
};
pub use async_nats::jetstream::stream::StorageType;
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, RetentionPolicy};
use schemas::streams::{
    ATTEMPTS, BUCKETS, BucketDefinition, ConsumerDefinition, DUPLICATE_WINDOW, STREAMS, StreamDefinition,
    consumers,
};

use crate::broker::{Broker, BrokerError};

/// What was found, or made, about one stream, consumer or bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It was missing and is there now.
    Made {
        /// For example `stream B24_RAW`.
        what: String,
    },
    /// It was there as it is to be.
    AsDeclared {
        /// For example `stream B24_RAW`.
        what: String,
    },
    /// It was missing, and making was not asked for.
    Missing {
        /// For example `stream B24_RAW`.
        what: String,
    },
    /// It is there and differs.
    Drifted {
        /// For example `stream B24_RAW`.
        what: String,
        /// Each difference: `max_age is 1day, declared 90days`.
        differences: Vec<String>,
    },
}

/// Tells whether to make what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Make it.
    Make,
    /// Only look.
    Look,
}

/// How everything is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// Copies of each stream, consumer and bucket: 1 for one server, 3 for a cluster.
    pub replicas: usize,
    /// On disk, or in memory alone, where it is gone when all servers were stopped.
    pub storage: StorageType,
}

/// So many copies on disk.
impl From<usize> for Keeping {
    fn from(replicas: usize) -> Keeping {
        Keeping { replicas, storage: StorageType::File }
    }
}

impl Keeping {
    /// Tells how long to wait for servers that are still coming up: a cluster's find each other first.
    pub fn patience(&self) -> Duration {
        if self.replicas > 1 { CLUSTER_PATIENCE } else { Duration::ZERO }
    }
}

/// Goes through everything that is declared.
pub async fn apply(
    broker: &Broker,
    keeping: impl Into<Keeping>,
    mode: Mode,
) -> Result<Vec<Finding>, BrokerError> {
    let keeping = keeping.into();
    let replicas = keeping.replicas;
    let patience = Instant::now() + keeping.patience();
    let mut findings = Vec::new();
    for stream in &STREAMS {
        findings.push(until(patience, broker, || apply_stream(broker, stream, keeping, mode)).await?);
    }
    for consumer in consumers() {
        findings.push(until(patience, broker, || apply_consumer(broker, &consumer, replicas, mode)).await?);
    }
    for bucket in &BUCKETS {
        findings.push(until(patience, broker, || apply_bucket(broker, bucket, keeping, mode)).await?);
    }
    Ok(findings)
}

/// How long a cluster may take to have all of its servers up and its leaders elected.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two tries meanwhile.
const CLUSTER_PAUSE: Duration = Duration::from_millis(500);

/// Repeats what a cluster that is still coming up does not do. Nothing is made twice: each try looks first.
async fn until<F>(
    patience: Instant,
    broker: &Broker,
    mut step: impl FnMut() -> F,
) -> Result<Finding, BrokerError>
where
    F: Future<Output = Result<Finding, BrokerError>>,
{
    loop {
        match step().await {
            Err(error @ BrokerError::Unavailable { .. }) if Instant::now() < patience => {
                tracing::info!("Waiting for every server of the cluster: {error}");
                broker.pause(CLUSTER_PAUSE).await?;
            }
            answer => return answer,
        }
    }
}

/// Looks whether a stream is as declared, whatever the number of its copies and where they are.
pub(crate) async fn look_at_stream(
    broker: &Broker,
    declared: &StreamDefinition,
) -> Result<Finding, BrokerError> {
    let what = format!("stream {}", declared.name);
    let Some(found) = found_stream(broker, declared.name, &what).await? else {
        return Ok(Finding::Missing { what });
    };
    let wanted = stream_config(declared, kept(&found));
    Ok(compared(what, stream_differences(&found, &wanted)))
}

fn kept(found: &StreamConfig) -> Keeping {
    Keeping { replicas: found.num_replicas, storage: found.storage }
}

/// Returns how a stream is configured; `None` where there is none.
pub async fn found_stream(
    broker: &Broker,
    name: &str,
    what: &str,
) -> Result<Option<StreamConfig>, BrokerError> {
    match broker.jetstream().get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(BrokerError::unavailable(format!("look for {what}"), error)),
    }
}

async fn apply_stream(
    broker: &Broker,
    declared: &StreamDefinition,
    keeping: Keeping,
    mode: Mode,
) -> Result<Finding, BrokerError> {
    let what = format!("stream {}", declared.name);
    let wanted = stream_config(declared, keeping);
    if let Some(found) = found_stream(broker, declared.name, &what).await? {
        return Ok(compared(what, stream_differences(&found, &wanted)));
    }
    if mode == Mode::Look {
        return Ok(Finding::Missing { what });
    }
    let wanted = StreamConfig { first_sequence: first_sequence(broker, declared).await?, ..wanted };
    broker
        .jetstream()
        .create_stream(wanted)
        .await
        .map_err(|error| BrokerError::unavailable(format!("create {what}"), error))?;
    Ok(Finding::Made { what })
}

/// Returns where the numbers of a stream begin.
///
/// The raw stream's numbers order all versions for ever, and those of the others name messages in the bucket of attempts and
/// in the ids of dead letters. Made again beside that bucket or what its predecessor led to, a stream must not begin with 1,
/// or new messages would be taken for old ones. The milliseconds of the clock are ahead of any count of messages so far,
/// also of those since it was last made so.
async fn first_sequence(broker: &Broker, declared: &StreamDefinition) -> Result<Option<u64>, BrokerError> {
    // Streams are made in the order of the flow, and the buckets after them.
    let followers = STREAMS.iter().skip_while(|stream| stream.name != declared.name).skip(1);
    let followers = followers.map(|stream| stream.name.to_owned()).chain([bucket_stream(&ATTEMPTS)]);
    for follower in followers {
        if found_stream(broker, &follower, &format!("stream {follower}")).await?.is_some() {
            return Ok(u64::try_from(chrono::Utc::now().timestamp_millis()).ok());
        }
    }
    Ok(None)
}

fn is_not_found(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    use async_nats::jetstream::context::GetStreamErrorKind;
    matches!(error.kind(), GetStreamErrorKind::JetStream(inner) if inner.code() == 404)
}

/// Returns the server's form of a stream definition.
pub fn stream_config(declared: &StreamDefinition, keeping: Keeping) -> StreamConfig {
    StreamConfig {
        name: declared.name.into(),
        description: Some(declared.description.into()),
        subjects: declared.subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        retention: RetentionPolicy::Limits,
        // A full stream must stop the writers: dropping old messages would drop unprocessed ones.
        // The server does not combine that with schedules; such a stream has no bound to run into.
        discard: if declared.schedules { DiscardPolicy::Old } else { DiscardPolicy::New },
        storage: keeping.storage,
        max_age: declared.max_age,
        max_bytes: declared.max_bytes,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        allow_message_schedules: declared.schedules,
        deny_delete: declared.append_only,
        deny_purge: declared.append_only,
        num_replicas: keeping.replicas,
        metadata: HashMap::from([("rollcall.partitions".to_owned(), schemas::PARTITIONS.to_string())]),
        ..StreamConfig::default()
    }
}

fn stream_differences(found: &StreamConfig, wanted: &StreamConfig) -> Vec<String> {
    let mut differences = Differences::default();
    differences.compare("subjects", &found.subjects, &wanted.subjects);
    differences.compare("retention", &found.retention, &wanted.retention);
    differences.compare("discard", &found.discard, &wanted.discard);
    differences.compare("storage", &found.storage, &wanted.storage);
    differences.compare("max_age", &found.max_age, &wanted.max_age);
    differences.compare("max_bytes", &found.max_bytes, &wanted.max_bytes);
    // No stream of ours has these bounds: under them old messages would be dropped, or new ones refused.
    differences.compare("max_msgs", &found.max_messages.max(0), &wanted.max_messages);
    differences.compare(
        "max_msgs_per_subject",
        &found.max_messages_per_subject.max(0),
        &wanted.max_messages_per_subject,
    );
    differences.compare("max_msg_size", &found.max_message_size.max(0), &wanted.max_message_size);
    differences.compare("sealed", &found.sealed, &wanted.sealed);
    differences.compare("deny_delete", &found.deny_delete, &wanted.deny_delete);
    differences.compare("deny_purge", &found.deny_purge, &wanted.deny_purge);
    differences.compare("duplicate_window", &found.duplicate_window, &wanted.duplicate_window);
    differences.compare("allow_direct", &found.allow_direct, &wanted.allow_direct);
    differences.compare(
        "allow_msg_schedules",
        &found.allow_message_schedules,
        &wanted.allow_message_schedules,
    );
    differences.compare("num_replicas", &found.num_replicas, &wanted.num_replicas);
    let partitions = "rollcall.partitions";
    differences.compare(partitions, &found.metadata.get(partitions), &wanted.metadata.get(partitions));
    differences.0
}

/// Looks whether a consumer is as declared, whatever the number of its copies.
pub(crate) async fn look_at_consumer(
    broker: &Broker,
    declared: &ConsumerDefinition,
) -> Result<Finding, BrokerError> {
    let what = consumer_name(declared);
    let Some(found) = found_consumer(broker, declared).await? else {
        return Ok(Finding::Missing { what });
    };
    Ok(compared(what, consumer_differences(&found, &consumer_config(declared), found.num_replicas)))
}

fn consumer_name(declared: &ConsumerDefinition) -> String {
    format!("consumer {} of stream {}", declared.name, declared.stream)
}

/// Returns how a consumer is configured; `None` where there is none.
async fn found_consumer(
    broker: &Broker,
    declared: &ConsumerDefinition,
) -> Result<Option<ConsumerConfig>, BrokerError> {
    use async_nats::jetstream::stream::ConsumerErrorKind;
    let found: Result<PullConsumer, _> =
        broker.jetstream().get_consumer_from_stream(&declared.name, declared.stream).await;
    match found {
        Ok(consumer) => Ok(Some(consumer.cached_info().config.clone())),
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(inner) if inner.code() == 404 => Ok(None),
            _ => {
                let operation = format!("look for {}", consumer_name(declared));
                Err(BrokerError::unavailable(operation, error))
            }
        },
    }
}

async fn apply_consumer(
    broker: &Broker,
    declared: &ConsumerDefinition,
    replicas: usize,
    mode: Mode,
) -> Result<Finding, BrokerError> {
    let what = consumer_name(declared);
    let wanted = consumer_config(declared);
    if let Some(found) = found_consumer(broker, declared).await? {
        return Ok(compared(what, consumer_differences(&found, &wanted, replicas)));
    }
    if mode == Mode::Look {
        return Ok(Finding::Missing { what });
    }
    // Creating never changes a consumer that exists with other settings: the server refuses.
    broker
        .jetstream()
        .create_consumer_strict_on_stream(wanted, declared.stream)
        .await
        .map_err(|error| BrokerError::unavailable(format!("create {what}"), error))?;
    Ok(Finding::Made { what })
}

/// Returns the server's form of a consumer definition.
pub fn consumer_config(declared: &ConsumerDefinition) -> pull::Config {
    pull::Config {
        durable_name: Some(declared.name.clone()),
        name: Some(declared.name.clone()),
        filter_subject: declared.filter.clone(),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: declared.ack_wait,
        max_ack_pending: declared.max_ack_pending,
        max_deliver: -1,
        ..pull::Config::default()
    }
}

fn consumer_differences(found: &ConsumerConfig, wanted: &pull::Config, replicas: usize) -> Vec<String> {
    let mut differences = Differences::default();
    differences.compare("filter_subject", &found.filter_subject, &wanted.filter_subject);
    differences.compare("deliver_policy", &found.deliver_policy, &wanted.deliver_policy);
    differences.compare("ack_policy", &found.ack_policy, &wanted.ack_policy);
    differences.compare("ack_wait", &found.ack_wait, &wanted.ack_wait);
    differences.compare("max_ack_pending", &found.max_ack_pending, &wanted.max_ack_pending);
    differences.compare("backoff", &found.backoff, &wanted.backoff);
    differences.compare("max_deliver", &found.max_deliver, &wanted.max_deliver);
    differences.compare("mem_storage", &found.memory_storage, &wanted.memory_storage);
    // None of its own means as many as its stream.
    if found.num_replicas != 0 {
        differences.compare("num_replicas", &found.num_replicas, &replicas);
    }
    differences.0
}

/// Looks whether a bucket is as declared, whatever the number of its copies and where they are.
pub(crate) async fn look_at_bucket(
    broker: &Broker,
    declared: &BucketDefinition,
) -> Result<Finding, BrokerError> {
    let what = format!("bucket {}", declared.name);
    Ok(match found_stream(broker, &bucket_stream(declared), &what).await? {
        Some(found) => compared(what, bucket_differences(&found, declared, kept(&found))),
        None => Finding::Missing { what },
    })
}

fn bucket_stream(declared: &BucketDefinition) -> String {
    format!("KV_{}", declared.name)
}

fn bucket_differences(found: &StreamConfig, declared: &BucketDefinition, keeping: Keeping) -> Vec<String> {
    let mut differences = Differences::default();
    differences.compare("history", &found.max_messages_per_subject, &1);
    differences.compare("storage", &found.storage, &keeping.storage);
    differences.compare("max_age", &found.max_age, &declared.max_age);
    differences.compare("num_replicas", &found.num_replicas, &keeping.replicas);
    differences.0
}

async fn apply_bucket(
    broker: &Broker,
    declared: &BucketDefinition,
    keeping: Keeping,
    mode: Mode,
) -> Result<Finding, BrokerError> {
    let what = format!("bucket {}", declared.name);
    if let Some(found) = found_stream(broker, &bucket_stream(declared), &what).await? {
        return Ok(compared(what, bucket_differences(&found, declared, keeping)));
    }
    if mode == Mode::Look {
        return Ok(Finding::Missing { what });
    }
    broker
        .jetstream()
        .create_stream(bucket_config(declared, keeping))
        .await
        .map_err(|error| BrokerError::unavailable(format!("create {what}"), error))?;
    Ok(Finding::Made { what })
}

/// Returns the stream of a bucket, as clients of NATS make it, but without roll-ups: with these whoever may write one key
/// could empty the bucket.
fn bucket_config(declared: &BucketDefinition, keeping: Keeping) -> StreamConfig {
    StreamConfig {
        name: bucket_stream(declared),
        description: Some(declared.description.into()),
        subjects: vec![format!("$KV.{}.>", declared.name)],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        storage: keeping.storage,
        max_age: declared.max_age,
        allow_direct: true,
        deny_delete: true,
        num_replicas: keeping.replicas,
        ..StreamConfig::default()
    }
}

fn compared(what: String, differences: Vec<String>) -> Finding {
    if differences.is_empty() { Finding::AsDeclared { what } } else { Finding::Drifted { what, differences } }
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn compare<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, found: &T, wanted: &T) {
        if found != wanted {
            self.0.push(format!("{name} is {found:?}, declared {wanted:?}"));
        }
    }
}
