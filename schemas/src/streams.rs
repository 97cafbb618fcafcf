//! The streams, consumers and buckets, as plain values: `rollcall bootstrap` makes them, the stages bind to them.

use std::time::Duration;

use crate::record::{Entity, Partition};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Oldest NATS server that will do: the first that publishes messages later, on which waiting tickets depend.
pub const OLDEST_SERVER: (u64, u64) = (2, 12);

/// Window in which JetStream drops a message id it has seen. Longer than any redelivery can be late.
pub const DUPLICATE_WINDOW: Duration = DAY;

/// Longest time that a consumer may leave a delivery without ack or progress.
///
/// Stages report progress every third of it, so it bounds how long a killed stage keeps a message
/// from its successor, not how long a message may be worked on.
pub const ACK_WAIT: Duration = Duration::from_secs(15);

/// The same for the mapper, which has no far side that may still be at work for a dead one: what it publishes late is
/// known by its id.
pub const MAPPER_ACK_WAIT: Duration = Duration::from_secs(3);

/// A stream, as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamDefinition {
    /// Its name.
    pub name: &'static str,
    /// What it is for, shown by tools.
    pub description: &'static str,
    /// Subjects that it stores.
    pub subjects: &'static [&'static str],
    /// How long messages are kept; personal data is gone after that.
    pub max_age: Duration,
    /// Most bytes that it may hold, -1 for no bound but the server's: a full stream refuses new messages and
    /// never drops old ones.
    pub max_bytes: i64,
    /// Takes messages that the server publishes later.
    pub schedules: bool,
    /// Refuses that anybody deletes or purges messages.
    pub append_only: bool,
}

/// Raw records from Bitrix24: the truth that everything else can be made from again.
pub const RAW: StreamDefinition = StreamDefinition {
    name: "B24_RAW",
    description: "Changed Bitrix24 records in Bitrix24's own words",
    subjects: &["b24.raw.*.*"],
    max_age: Duration::from_secs(90 * 24 * 60 * 60),
    max_bytes: 4 << 30,
    schedules: false,
    append_only: false,
};

/// Mapped records on their way to otmechalka.
pub const COMMANDS: StreamDefinition = StreamDefinition {
    name: "CRM_CMD",
    description: "Mapped records for otmechalka; `crm.later` holds those that wait for another try",
    subjects: &["crm.cmd.*.*.*", "crm.later.*.*.*"],
    // As long as the raw records: a ticket that waits for its pupil is sent from here.
    max_age: RAW.max_age,
    // A stream with schedules cannot refuse new messages when full, so it must never be full: its size
    // follows that of the raw stream, which is bounded.
    max_bytes: -1,
    schedules: true,
    append_only: false,
};

/// What came of each mapped record.
pub const RESULTS: StreamDefinition = StreamDefinition {
    name: "CRM_RESULT",
    description: "Outcome of each version of each record",
    subjects: &["crm.result.*.*.*"],
    // The memory of what was done must outlive whatever could be delivered again.
    max_age: Duration::from_secs(100 * 24 * 60 * 60),
    max_bytes: 1 << 30,
    schedules: false,
    append_only: false,
};

/// Statuses as they stand in Bitrix24.
pub const STATUSES: StreamDefinition = StreamDefinition {
    name: "B24_STATUS",
    description: "Statuses settled in Bitrix24",
    subjects: &["b24.status.*.*.*"],
    // The memory of what was written must outlive whatever could be delivered again.
    max_age: Duration::from_secs(100 * 24 * 60 * 60),
    max_bytes: 1 << 30,
    schedules: false,
    append_only: false,
};

/// Messages that need an operator.
pub const DEAD_LETTERS: StreamDefinition = StreamDefinition {
    name: "DLQ",
    description: "Messages that no redelivery can help",
    subjects: &["dlq.*.*.*"],
    max_age: Duration::from_secs(180 * 24 * 60 * 60),
    max_bytes: 1 << 30,
    schedules: false,
    append_only: false,
};

/// Every stream.
pub const STREAMS: [StreamDefinition; 5] = [RAW, COMMANDS, RESULTS, STATUSES, DEAD_LETTERS];

/// A durable pull consumer with explicit acks, as it is to be. No delivery is ever given up by the
/// server: only a stage may decide that a message is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerDefinition {
    /// Stream that it reads.
    pub stream: &'static str,
    /// Its durable name.
    pub name: String,
    /// Subjects that it is given.
    pub filter: String,
    /// Most deliveries without an ack; 1 keeps strict order with any number of replicas.
    pub max_ack_pending: i64,
    /// Longest time without ack or progress, after which a message is somebody else's.
    pub ack_wait: Duration,
}

/// The mapper's consumer: strictly in order, so that commands are in the order of the raw records.
pub fn mapper_consumer() -> ConsumerDefinition {
    ConsumerDefinition {
        stream: RAW.name,
        name: "mapper".into(),
        filter: "b24.raw.>".into(),
        max_ack_pending: 1,
        ack_wait: MAPPER_ACK_WAIT,
    }
}

/// The pusher's consumers: one per partition, one message in flight in each.
pub fn pusher_consumers() -> Vec<ConsumerDefinition> {
    Partition::all()
        .map(|partition| ConsumerDefinition {
            stream: COMMANDS.name,
            name: format!("pusher-{partition}"),
            filter: crate::subjects::command_partition(partition),
            max_ack_pending: 1,
            ack_wait: ACK_WAIT,
        })
        .collect()
}

/// The status-writer's consumer of an entity: enough outcomes in flight to fill several batches of updates.
///
/// One for each entity, so that a status field that is gone holds up its own entity alone.
pub fn status_writer_consumer(entity: Entity) -> ConsumerDefinition {
    ConsumerDefinition {
        stream: RESULTS.name,
        name: format!("status-writer-{}", entity.token()),
        filter: crate::subjects::results_of(entity),
        max_ack_pending: 1024,
        ack_wait: ACK_WAIT,
    }
}

/// Every consumer.
pub fn consumers() -> Vec<ConsumerDefinition> {
    let mut all = vec![mapper_consumer()];
    all.extend(pusher_consumers());
    all.extend(Entity::ALL.map(status_writer_consumer));
    all
}

/// A key-value bucket, as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketDefinition {
    /// Its name.
    pub name: &'static str,
    /// What it is for, shown by tools.
    pub description: &'static str,
    /// Age at which the server forgets a key that nobody wrote to; zero for never.
    pub max_age: Duration,
}

impl BucketDefinition {
    const fn kept(name: &'static str, description: &'static str) -> BucketDefinition {
        BucketDefinition { name, description, max_age: Duration::ZERO }
    }
}

/// Checkpoints of the producer, one key per entity; beside them the progress of its daily run and of `rollcall reconcile`.
pub const CHECKPOINTS: BucketDefinition =
    BucketDefinition::kept("checkpoint", "How far each entity was read from Bitrix24");

/// The request budget that all processes share towards Bitrix24; under `refused` that it refuses the webhook, and under
/// `operating.<stage>` the computing time that each stage's calls have used.
pub const BUDGET: BucketDefinition =
    BucketDefinition::kept("budget", "Bitrix24's request bucket as all processes see it");

/// Tickets refused because their client was missing, keyed `<contact>.<deal>`, until the client comes.
pub const WAITING: BucketDefinition =
    BucketDefinition::kept("waiting", "Tickets refused for want of their client");

/// Deliveries that were begun and never ended, keyed by stage and sequence: a message that kills its stage. Beside them
/// [`RUNNING_MAPPING`].
pub const ATTEMPTS: BucketDefinition =
    BucketDefinition::kept("attempts", "Deliveries that were begun and never ended");

/// Key of [`ATTEMPTS`] under which the mapper notes the digest of the mapping that it was started with last.
pub const RUNNING_MAPPING: &str = "mapper.mapping";

/// Who is at work where one replica of several is: one key per stage, renewed by whoever holds it.
pub const LEASES: BucketDefinition =
    BucketDefinition::kept("lease", "Which replica is at work where only one may be");

/// Who may create a record in otmechalka, keyed by record; and under `refused` that it refuses the token. A claim that is
/// left behind by a process that died, and whose command never comes again, is forgotten in the end.
pub const CLAIMS: BucketDefinition = BucketDefinition {
    name: "claim",
    description: "Creates in otmechalka that are under way",
    // Longer than any outage: until otmechalka was asked, a claim is all that tells of a create that may have arrived.
    max_age: Duration::from_secs(30 * 24 * 60 * 60),
};

/// Every bucket.
pub const BUCKETS: [BucketDefinition; 6] = [CHECKPOINTS, BUDGET, WAITING, ATTEMPTS, LEASES, CLAIMS];
