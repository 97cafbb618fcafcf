//! What a stage needs in NATS: waited for at its start, and looked at for as long as it works, as somebody may delete it or
//! change it by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use schemas::streams::{BucketDefinition, ConsumerDefinition, StreamDefinition};

use crate::bootstrap::{self, Finding};
use crate::broker::{Broker, BrokerError};
use crate::health::Health;
use crate::stage::Context;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(10);

/// Longest wait for one answer.
const LOOK: Duration = Duration::from_secs(2);

impl Context {
    /// Waits until everything that the stage needs exists, and keeps looking whether it still does, as it is declared.
    pub async fn bind(
        &self,
        streams: &[&'static StreamDefinition],
        consumers: &[ConsumerDefinition],
        buckets: &[&'static BucketDefinition],
    ) -> Result<(), BrokerError> {
        self.broker.wait_for(streams, consumers, buckets).await?;
        self.health.set_bound(true);
        #[cfg(all(feature = "faults", debug_assertions))]
        if self.broker.seat().is_some() {
            return Ok(());
        }
        let needs = Needs { streams: streams.into(), consumers: consumers.into(), buckets: buckets.into() };
        tokio::spawn(watch(self.broker.clone(), self.health.clone(), needs));
        Ok(())
    }
}

struct Needs {
    streams: Vec<&'static StreamDefinition>,
    consumers: Vec<ConsumerDefinition>,
    buckets: Vec<&'static BucketDefinition>,
}

impl Needs {
    /// Looks at everything, or at nothing where NATS does not answer: what is not known does not count as gone.
    async fn look(&self, broker: &Broker) -> Option<Vec<Finding>> {
        let mut findings = Vec::new();
        for stream in &self.streams {
            findings.push(answered(bootstrap::look_at_stream(broker, stream)).await?);
        }
        for consumer in &self.consumers {
            findings.push(answered(bootstrap::look_at_consumer(broker, consumer)).await?);
        }
        for bucket in &self.buckets {
            findings.push(answered(bootstrap::look_at_bucket(broker, bucket)).await?);
        }
        Some(findings)
    }
}

async fn answered(look: impl Future<Output = Result<Finding, BrokerError>>) -> Option<Finding> {
    tokio::time::timeout(LOOK, look).await.ok()?.ok()
}

async fn watch(broker: Broker, health: Health, needs: Needs) {
    let mut told = Told::default();
    loop {
        if let Some(findings) = needs.look(&broker).await {
            health.set_bound(!findings.iter().any(|finding| matches!(finding, Finding::Missing { .. })));
            findings.iter().for_each(|finding| told.tell(finding));
        }
        if broker.pause(PAUSE).await.is_err() {
            return;
        }
    }
}

/// What was said of each that is not as declared.
#[derive(Default)]
struct Told(BTreeMap<String, String>);

impl Told {
    /// Says what is new.
    fn tell(&mut self, finding: &Finding) {
        match finding {
            Finding::Missing { what } => {
                if self.is_new(what, "gone") {
                    tracing::error!(
                        "{what} is gone. `rollcall bootstrap` makes it again, and `rollcall reconcile` finds what was \
                         lost with it"
                    );
                }
            }
            Finding::Drifted { what, differences } => {
                let differences = differences.join("; ");
                if self.is_new(what, &differences) {
                    tracing::warn!(
                        "{what} is not as declared: {differences}. Put it right with `nats stream edit` or `nats \
                         consumer edit`, unless it is meant to differ"
                    );
                }
            }
            Finding::AsDeclared { what } | Finding::Made { what } => {
                if self.0.remove(what).is_some() {
                    tracing::info!("{what} is as declared again");
                }
            }
        }
    }

    fn is_new(&mut self, what: &str, said: &str) -> bool {
        self.0.insert(what.to_owned(), said.to_owned()).as_deref() != Some(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_is_told_once() {
        let mut told = Told::default();
        assert!(told.is_new("stream DLQ", "gone"));
        assert!(!told.is_new("stream DLQ", "gone"));
        assert!(told.is_new("stream DLQ", "max_age is 1s, declared 2s"));
        told.tell(&Finding::AsDeclared { what: "stream DLQ".to_owned() });
        assert!(told.is_new("stream DLQ", "gone"));
    }
}
