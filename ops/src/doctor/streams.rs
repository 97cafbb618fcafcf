//! Looks at NATS: the server, what `bootstrap` makes there, and what needs an operator.

use futures::StreamExt;
use runtime::Broker;
use runtime::bootstrap::{Finding as Bootstrapped, Keeping, Mode, StorageType, apply};
use schemas::streams::{COMMANDS, DEAD_LETTERS, OLDEST_SERVER, RAW, RESULTS, STATUSES, STREAMS};

use crate::answer::Finding;
use crate::environment::Environment;
use crate::nats::{self, NatsError};
use crate::owner;

/// Smallest largest message in which every record fits after trimming.
const SMALLEST_MESSAGE: usize = 1 << 20;

/// Looks, and hands the connection on when there is one.
pub async fn look(environment: &Environment) -> (Vec<Finding>, Option<Broker>) {
    if !environment.has("NATS_URL") {
        let found = "NATS_URL is not set; ./run starts a server of its own";
        return (vec![Finding::ok("nats.connection", "NATS", found)], None);
    }
    let broker = match nats::connect(environment).await {
        Ok(broker) => broker,
        // The stages have named these already.
        Err(NatsError::Unset(_) | NatsError::Settings(_)) => return (Vec::new(), None),
        Err(error @ NatsError::NoAnswer { .. }) => {
            let remedy = "Start NATS with JetStream, or put NATS_URL and its credentials right";
            return (vec![Finding::error("nats.connection", "NATS", error.to_string(), remedy)], None);
        }
    };
    let mut findings = server(&broker);
    let keeping = match crate::bootstrap::keeping(environment, None) {
        Ok(keeping) => keeping,
        Err(failure) => {
            let remedy = ".env.sample explains every setting";
            let finding = Finding::error("settings", "NATS_REPLICAS, NATS_STORAGE", failure.text, remedy);
            findings.push(Finding { is_setting: true, ..finding });
            Keeping::from(1)
        }
    };
    findings.extend(of_memory(keeping));
    findings.extend(bootstrapped(&broker, keeping).await);
    findings.extend(dead_letters(&broker).await);
    findings.extend(pushing(&broker).await);
    findings.extend(behind(&broker).await);
    findings.extend(of_another_portal(&broker, environment).await);
    (findings, Some(broker))
}

fn server(broker: &Broker) -> Vec<Finding> {
    let version = broker.client().server_info().version;
    let mut findings = vec![of_version(&version)];
    let largest = broker.max_message_bytes();
    if largest < SMALLEST_MESSAGE {
        findings.push(Finding::warning(
            "nats.max_payload",
            "Largest message",
            format!("{largest} bytes"),
            "Set max_payload to 1MB: long records are cut otherwise",
        ));
    }
    findings
}

fn of_version(version: &str) -> Finding {
    let mut parts = version.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found >= OLDEST_SERVER {
        return Finding::ok(
            "nats.connection",
            "NATS",
            format!("nats-server {version} answers, JetStream is on"),
        );
    }
    let (major, minor) = OLDEST_SERVER;
    Finding::error(
        "nats.version",
        "NATS",
        format!("nats-server {version}"),
        format!("Use nats-server {major}.{minor} or newer: waiting tickets are messages published later"),
    )
}

fn of_memory(keeping: Keeping) -> Option<Finding> {
    (keeping.storage == StorageType::Memory).then(|| {
        Finding::warning(
            "nats.memory",
            "NATS_STORAGE",
            "streams are kept in memory alone",
            "Use `file`, unless it is for trying something out: records that wait are gone when all servers stop",
        )
    })
}

async fn bootstrapped(broker: &Broker, keeping: Keeping) -> Vec<Finding> {
    let found = match apply(broker, keeping, Mode::Look).await {
        Ok(found) => found,
        Err(error) => {
            let remedy = "Check that the NATS user may ask about streams and consumers";
            return vec![Finding::error("nats.streams", "Streams", error.to_string(), remedy)];
        }
    };
    let count = found.len();
    let findings: Vec<Finding> = found.into_iter().filter_map(of_bootstrap).collect();
    if findings.is_empty() {
        let found = format!("all {count} streams, consumers and buckets are as declared");
        return vec![Finding::ok("nats.streams", "Streams", found)];
    }
    findings
}

fn of_bootstrap(found: Bootstrapped) -> Option<Finding> {
    match found {
        Bootstrapped::AsDeclared { .. } | Bootstrapped::Made { .. } => None,
        Bootstrapped::Missing { what } => {
            Some(Finding::error("nats.streams", what, "missing", "Run `rollcall bootstrap`"))
        }
        Bootstrapped::Drifted { what, differences } => Some(Finding::warning(
            "nats.streams",
            what,
            differences.join("; "),
            "Put it right with `nats stream edit` or `nats consumer edit`, unless it is meant to differ",
        )),
    }
}

/// Finds consumers that have the server send messages to a subject: where somebody in our account listens to that very subject,
/// they could end up in a stream of ours. None of our own does; an extra consumer could make one.
async fn pushing(broker: &Broker) -> Vec<Finding> {
    let mut findings = Vec::new();
    for stream in STREAMS {
        let Ok(found) = broker.jetstream().get_stream(stream.name).await else { continue };
        let mut consumers = found.consumers();
        while let Some(Ok(consumer)) = consumers.next().await {
            let Some(subject) = consumer.config.deliver_subject else { continue };
            findings.push(Finding::warning(
                "nats.push_consumer",
                format!("consumer {} of stream {}", consumer.name, stream.name),
                format!("the server sends its messages to {subject}; Rollcall makes no such consumer"),
                format!(
                    "Ask whom its name belongs to for a pull consumer, and remove it: `nats consumer rm {} {}`",
                    stream.name, consumer.name
                ),
            ));
        }
    }
    findings
}

async fn of_another_portal(broker: &Broker, environment: &Environment) -> Option<Finding> {
    let portal = owner::portal(environment)?;
    let failure = owner::check_what_answers(broker, &portal, owner::Change::Refuse).await.err()?;
    let remedy = "Use another NATS, or run `rollcall bootstrap --portal-renamed` if only its name changed";
    Some(Finding::error("nats.owner", "Streams", failure.text, remedy))
}

/// Finds a raw stream that was put back from a backup older than what was made of it.
///
/// Its next records would get sequences that were used before, and be taken for older than what is there.
async fn behind(broker: &Broker) -> Option<Finding> {
    let raw = broker.jetstream().get_stream(RAW.name).await.ok()?.cached_info().state.last_sequence;
    let mut newest = 0;
    for followers in [COMMANDS.name, RESULTS.name, STATUSES.name] {
        newest = newest.max(newest_raw_sequence(broker, followers).await.unwrap_or(0));
    }
    (newest > raw).then(|| {
        Finding::error(
            "nats.raw_behind",
            format!("stream {}", RAW.name),
            format!("ends at {raw}, and something was made of its message {newest}: it is an older backup"),
            format!(
                "Stop the stages, remove {} (`nats stream rm {0}`), run `rollcall bootstrap`, which lets it go \
                 on behind everything, and delete the keys of the bucket `checkpoint`, so that all is read again",
                RAW.name
            ),
        )
    })
}

async fn newest_raw_sequence(broker: &Broker, stream: &str) -> Option<u64> {
    let stream = broker.jetstream().get_stream(stream).await.ok()?;
    let message = stream.direct_get(stream.cached_info().state.last_sequence).await.ok()?;
    message.headers.get("ce-rawsequence")?.as_str().parse().ok()
}

async fn dead_letters(broker: &Broker) -> Option<Finding> {
    let stream = broker.jetstream().get_stream(DEAD_LETTERS.name).await.ok()?;
    let count = stream.cached_info().state.messages;
    if count == 0 {
        return Some(Finding::ok("nats.dead_letters", "Messages that nobody could process", "none"));
    }
    Some(Finding::warning(
        "nats.dead_letters",
        "Messages that nobody could process",
        count.to_string(),
        "`rollcall dead-letters list` shows them; `rollcall dead-letters redrive --all` tries them again",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Severity;

    #[test]
    fn an_old_server_is_refused() {
        for (version, severity) in [
            ("2.11.9", Severity::Error),
            ("2.12.0", Severity::Ok),
            ("2.15.1-dev", Severity::Ok),
            ("3.0.0", Severity::Ok),
            ("", Severity::Error),
        ] {
            assert_eq!(of_version(version).severity, severity, "{version}");
        }
    }

    #[test]
    fn what_is_missing_stops_everything_and_what_differs_does_not() {
        let missing = of_bootstrap(Bootstrapped::Missing { what: "stream DLQ".into() }).unwrap();
        assert_eq!(missing.severity, Severity::Error);
        assert!(missing.message.starts_with("stream DLQ: "), "{}", missing.message);
        let drifted = Bootstrapped::Drifted { what: "stream DLQ".into(), differences: vec!["x".into()] };
        assert_eq!(of_bootstrap(drifted).unwrap().severity, Severity::Warning);
        assert_eq!(of_bootstrap(Bootstrapped::AsDeclared { what: String::new() }), None);
    }
}
