//! Who may do what in NATS: for each user the least that its work takes. What is not listed is refused.

use schemas::streams::{
    ATTEMPTS, BUDGET, BucketDefinition, CHECKPOINTS, CLAIMS, COMMANDS, ConsumerDefinition, DEAD_LETTERS,
    LEASES, RAW, RESULTS, STATUSES, STREAMS, WAITING, mapper_consumer, pusher_consumers,
    status_writer_consumer,
};
use schemas::{Entity, streams};

/// Prefix under which extra consumers and the status page reach JetStream.
pub const API_PREFIX: &str = "rollcall";

/// The user of `rollcall` itself.
pub const OPERATOR: &str = "ops";

/// The user of the status page, and the only name that its consumers may have.
pub const PAGE: &str = "page";

/// The account of the status page.
pub const PAGE_ACCOUNT: &str = "page";

/// Where a user asks the server what it may do.
pub const WHO_AM_I: &str = "$SYS.REQ.USER.INFO";

/// A user of the NATS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name; also the last part of its inbox prefix.
    pub name: String,
    /// Subjects that it may publish to; requests are published too.
    pub publish: Vec<String>,
    /// Subjects that it may subscribe to.
    pub subscribe: Vec<String>,
}

impl User {
    /// Begins with what every user may: ask about the account and about itself, and read the answers to its own requests.
    fn new(name: &str) -> User {
        User {
            name: name.to_owned(),
            publish: vec!["$JS.API.INFO".into(), WHO_AM_I.into()],
            subscribe: vec![format!("_INBOX_{name}.>")],
        }
    }

    fn publishes(mut self, subjects: &[&str]) -> User {
        self.publish.extend(subjects.iter().map(|subject| (*subject).to_owned()));
        self
    }

    /// May look at the state of a stream.
    fn looks_at(mut self, stream: &str) -> User {
        self.publish.push(format!("$JS.API.STREAM.INFO.{stream}"));
        self
    }

    /// May read single messages of a stream: any replica answers.
    fn reads(mut self, stream: &str) -> User {
        self.publish.push(format!("$JS.API.DIRECT.GET.{stream}.>"));
        self.looks_at(stream)
    }

    /// May read single messages of a stream: its leader answers.
    fn reads_from_leader(mut self, stream: &str) -> User {
        self.publish.push(format!("$JS.API.STREAM.MSG.GET.{stream}"));
        self.looks_at(stream)
    }

    fn reads_bucket(self, bucket: &BucketDefinition) -> User {
        self.reads(&format!("KV_{}", bucket.name))
    }

    fn writes_bucket(mut self, bucket: &BucketDefinition) -> User {
        self.publish.push(format!("$KV.{}.>", bucket.name));
        self.reads_bucket(bucket)
    }

    /// May be the one replica at work of a stage.
    fn leads(mut self, stage: &str) -> User {
        self.publish.push(format!("$KV.{}.{stage}", LEASES.name));
        self.reads_bucket(&LEASES)
    }

    /// May fetch and ack the messages of a consumer that is there.
    fn consumes(mut self, stream: &str, consumer: &str) -> User {
        self.publish.extend([
            format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            format!("$JS.ACK.{stream}.{consumer}.>"),
            // The form with domain and account, which the server may choose.
            format!("$JS.ACK.*.*.{stream}.{consumer}.>"),
        ]);
        self
    }

    /// May read a stream from end to end, through one consumer of its own name, and see who else reads it.
    fn looks_through(mut self, stream: &str) -> User {
        let name = &self.name;
        self.publish.extend([
            format!("$JS.API.CONSUMER.LIST.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.{name}.>"),
            format!("$JS.API.CONSUMER.DELETE.{stream}.{name}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"),
            format!("$JS.API.DIRECT.GET.{stream}"),
        ]);
        self.reads(stream)
    }

    /// May work off these consumers, and note which of their messages it began with.
    fn works_off(self, consumers: &[ConsumerDefinition]) -> User {
        let begin = self.reads_bucket(&ATTEMPTS);
        consumers.iter().fold(begin, |mut user, consumer| {
            user.publish.push(format!("$KV.{}.{}.>", ATTEMPTS.name, consumer.name));
            user.consumes(consumer.stream, &consumer.name)
        })
    }
}

/// Returns the users of the four stages, of the status page and of `rollcall` itself.
pub fn own_users() -> Vec<User> {
    vec![producer(), mapper(), pusher(), status_writer(), page(), operator()]
}

fn producer() -> User {
    User::new("producer")
        .publishes(&["b24.raw.>"])
        .reads_from_leader(RAW.name)
        .leads("producer")
        .writes_bucket(&CHECKPOINTS)
        .writes_bucket(&BUDGET)
}

fn mapper() -> User {
    User::new("mapper")
        .publishes(&["crm.cmd.>", "dlq.mapper.>"])
        .looks_at(RAW.name)
        .looks_at(COMMANDS.name)
        .looks_at(DEAD_LETTERS.name)
        .works_off(&[mapper_consumer()])
}

fn pusher() -> User {
    User::new("pusher")
        .publishes(&["crm.cmd.>", "crm.later.>", "crm.result.>", "dlq.pusher.>"])
        .reads_from_leader(RAW.name)
        .reads_from_leader(COMMANDS.name)
        .reads_from_leader(RESULTS.name)
        .reads_from_leader(DEAD_LETTERS.name)
        .reads_from_leader(&format!("KV_{}", WAITING.name))
        .works_off(&pusher_consumers())
        .reads_bucket(&CHECKPOINTS)
        .writes_bucket(&WAITING)
        .writes_bucket(&CLAIMS)
}

fn status_writer() -> User {
    User::new("status-writer")
        .publishes(&["b24.status.>", "dlq.status-writer.>"])
        .reads_from_leader(RESULTS.name)
        .looks_at(DEAD_LETTERS.name)
        .reads_from_leader(STATUSES.name)
        .leads("status-writer")
        .works_off(&Entity::ALL.map(status_writer_consumer))
        .writes_bucket(&BUDGET)
}

/// The status page reads the streams through consumers of its own name, and otherwise only looks.
///
/// It is in an account of its own, as it needs to write nothing at all.
fn page() -> User {
    page_guest().user
}

/// Returns the status page's account.
pub fn page_guest() -> Guest {
    let looks = STREAMS.iter().fold(User::new(PAGE), |user, stream| user.looks_through(stream.name));
    let user = looks.reads_bucket(&CHECKPOINTS).reads_bucket(&BUDGET).reads_bucket(&LEASES);
    Guest::new(PAGE_ACCOUNT.to_owned(), user, None)
}

/// Somebody in an account of its own, who reads the streams by way of requests that are let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Name of the account.
    pub account: String,
    /// Its only user, who knows the requests under the prefix of the account.
    pub user: User,
    /// Requests to JetStream that it may make.
    pub requests: Vec<String>,
    /// Subjects under which it is sent copies.
    pub sandbox: Option<String>,
}

impl Guest {
    /// Puts a user who makes requests to our JetStream into an account of its own.
    fn new(account: String, user: User, sandbox: Option<String>) -> Guest {
        let publish = user.publish.iter().map(|request| local(request)).collect();
        let requests = user.publish.into_iter().filter(|request| request != WHO_AM_I).collect();
        Guest {
            account,
            user: User { publish, name: user.name, subscribe: user.subscribe },
            requests,
            sandbox,
        }
    }
}

/// The operator makes and repairs everything.
fn operator() -> User {
    User { name: OPERATOR.into(), publish: vec![">".into()], subscribe: vec![">".into()] }
}

/// An extra consumer of the events.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscriber {
    /// Its user, and the only name that its durable consumers may have.
    pub name: String,
    /// Streams that it may read.
    pub streams: Vec<String>,
}

impl Subscriber {
    /// Reads `NAME`, or `NAME:STREAM,STREAM` for some streams only.
    pub fn parse(text: &str) -> Result<Subscriber, String> {
        let (name, streams) =
            text.split_once(':').map_or((text, None), |(name, streams)| (name, Some(streams)));
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=32).contains(&name.len()) || !name.chars().all(is_plain) || name.starts_with('-') {
            return Err("a name has 1 to 32 small letters, digits and dashes".into());
        }
        if is_ours(name) {
            return Err(format!("`{name}` is a name of Rollcall's own; take another"));
        }
        let all = STREAMS.map(|stream| stream.name);
        let streams: Vec<String> = match streams {
            None => all.map(str::to_owned).to_vec(),
            // An empty variable behind the colon, or a list of which the last was struck, is not all of them.
            Some(blank) if blank.trim().is_empty() => return Err("no stream is named".into()),
            Some(streams) => streams.split(',').map(|stream| stream.trim().to_owned()).collect(),
        };
        match streams.iter().find(|stream| !all.contains(&stream.as_str())) {
            Some(unknown) => Err(format!("no stream is called `{unknown}`; there are {}", all.join(", "))),
            None => Ok(Subscriber { name: name.to_owned(), streams }),
        }
    }

    /// Lets it read these streams too, and tells whether it could read others than these before.
    pub fn also_reads(&mut self, streams: &[String]) -> bool {
        let is_other =
            self.streams.len() != streams.len() || !streams.iter().all(|name| self.streams.contains(name));
        let missing = streams.iter().filter(|name| !self.streams.contains(name)).cloned();
        let missing: Vec<String> = missing.collect();
        self.streams.extend(missing);
        is_other
    }

    /// Returns the requests to JetStream that it may make: make, read and remove consumers of its own name.
    fn requests(&self) -> Vec<String> {
        let name = &self.name;
        let of = |stream: &String| {
            [
                format!("$JS.API.STREAM.INFO.{stream}"),
                format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"),
                format!("$JS.API.CONSUMER.CREATE.{stream}.{name}.>"),
                format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{name}"),
                format!("$JS.API.CONSUMER.DELETE.{stream}.{name}"),
                format!("$JS.API.CONSUMER.INFO.{stream}.{name}"),
                format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"),
                format!("$JS.ACK.{stream}.{name}.>"),
            ]
        };
        self.streams.iter().flat_map(of).collect()
    }

    /// Returns the subjects under which `rollcall replay --to sandbox.NAME` sends it copies.
    fn sandbox(&self) -> String {
        format!("sandbox.{}.>", self.name)
    }

    /// Returns its account.
    pub fn guest(&self) -> Guest {
        let user = User {
            name: self.name.clone(),
            publish: self.requests(),
            subscribe: vec![format!("_INBOX_{}.>", self.name), self.sandbox()],
        };
        Guest::new(format!("consumer-{}", self.name), user, Some(self.sandbox()))
    }
}

/// Returns the name that a request to JetStream has in the accounts of guests.
///
/// Under `$JS.API` each account finds its own JetStream, and theirs have none.
pub fn local(request: &str) -> String {
    request.strip_prefix("$JS.API.").map_or_else(|| request.to_owned(), |rest| format!("{API_PREFIX}.{rest}"))
}

/// Tells whether a user or a consumer of Rollcall has this name.
fn is_ours(name: &str) -> bool {
    own_users().iter().any(|user| user.name == name)
        || streams::consumers().iter().any(|consumer| consumer.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_is_a_plain_name_with_streams_that_exist() {
        let all = Subscriber::parse("warehouse").unwrap();
        assert_eq!(all.streams.len(), STREAMS.len());
        let some = Subscriber::parse("warehouse:B24_RAW,CRM_RESULT").unwrap();
        assert_eq!(some.streams, ["B24_RAW", "CRM_RESULT"]);
        for bad in [
            "",
            "Warehouse",
            "a.b",
            "a*",
            ">",
            "-a",
            "a b",
            "mapper",
            "ops",
            "page",
            "pusher-07",
            "status-writer-deal",
        ] {
            assert!(Subscriber::parse(bad).is_err(), "{bad}");
        }
        assert!(Subscriber::parse("a:CRM_RESULTS").unwrap_err().contains("CRM_RESULTS"));
        for none in ["a:", "a: "] {
            assert!(Subscriber::parse(none).unwrap_err().contains("no stream"), "{none}");
        }
    }

    #[test]
    fn only_the_operator_has_wildcards_over_the_interface_of_jetstream() {
        let mut users = own_users();
        users.push(Subscriber::parse("warehouse").unwrap().guest().user);
        for user in users.iter().filter(|user| user.name != OPERATOR) {
            for subject in &user.publish {
                let is_broad = subject == ">" || subject.starts_with("$JS.API.>") || subject.starts_with("*");
                assert!(!is_broad, "{} may publish to {subject}", user.name);
                for verb in ["STREAM.DELETE", "STREAM.PURGE", "STREAM.UPDATE", "STREAM.CREATE", "MSG.DELETE"]
                {
                    assert!(!subject.contains(verb), "{} may publish to {subject}", user.name);
                }
            }
            let own = [format!("_INBOX_{}.>", user.name), format!("sandbox.{}.>", user.name)];
            assert!(user.subscribe.iter().all(|subject| own.contains(subject)), "{user:?}");
        }
    }
}
