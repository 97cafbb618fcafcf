//! Tickets that were refused because their client was missing: when the client comes, they go round again.

use bytes::Bytes;
use runtime::{Broker, BrokerError, Bucket, Log};
use schemas::streams::WAITING;
use schemas::{Outcome, RecordId, RecordRef, Version};

use crate::store::Store;
use crate::task::sent_again;

/// The bucket, keyed `<contact>.<deal>`; a value is the subject of the deal's command.
///
/// Asked anew for each contact, never kept in memory: another process may have written to it.
pub struct Waiting {
    broker: Broker,
    bucket: Bucket,
    log: Log,
}

/// A ticket that waits.
struct Waiter {
    key: String,
    deal: RecordRef,
    subject: String,
}

impl Waiting {
    /// Opens the bucket.
    pub async fn open(broker: &Broker) -> Result<Waiting, BrokerError> {
        let bucket = broker.bucket(&WAITING).await?;
        let log = broker.log(&format!("KV_{}", WAITING.name)).await?;
        Ok(Waiting { broker: broker.clone(), bucket, log })
    }

    /// Remembers that a deal waits for a contact.
    pub async fn add(&self, contact: RecordId, deal: RecordId, subject: &str) -> Result<(), BrokerError> {
        self.bucket.put(&format!("{contact}.{deal}"), Bytes::from(subject.to_owned())).await?;
        Ok(())
    }

    /// Sends the tickets of a contact round again that were refused for want of it.
    pub async fn release(&self, contact: RecordId, store: &Store) -> Result<(), BrokerError> {
        for waiter in self.waiters(contact, store).await? {
            if self.release_one(&waiter, store).await? {
                self.bucket.delete(&waiter.key).await?;
            }
        }
        Ok(())
    }

    /// Returns false where the ticket still waits: its command is no longer kept, and only a replay of the
    /// deal can bring it back.
    async fn release_one(&self, waiter: &Waiter, store: &Store) -> Result<bool, BrokerError> {
        let deal = waiter.deal.id;
        let Some(command) = store.newest_command(&waiter.subject).await? else {
            tracing::error!(deal.id = %deal, "Client of deal {deal} has come, and the deal's command is no longer kept: replay the deal");
            return Ok(false);
        };
        let Some(last) = store.refresh(waiter.deal).await? else { return Ok(true) };
        // Another version is settled or still to come, or this one found its way meanwhile.
        if last.outcome != Outcome::Refused || !last.lacks_client || command.version > last.version() {
            return Ok(true);
        }
        let settled = last.version();
        if command.version.raw_sequence != settled.raw_sequence {
            return Ok(true);
        }
        let version = Version { redrive: settled.redrive + 1, ..settled };
        let message = sent_again("release", &waiter.subject, &command.envelope, &command.mapped, version)
            .map_err(|_| BrokerError::Stopping)?;
        self.broker.publish(&message).await.map_err(|_| BrokerError::Stopping)?;
        tracing::info!(deal.id = %deal, "Client of deal {deal} has come: its ticket goes round again");
        Ok(true)
    }

    async fn waiters(&self, contact: RecordId, store: &Store) -> Result<Vec<Waiter>, BrokerError> {
        let prefix = format!("$KV.{}.", WAITING.name);
        let filter = format!("{prefix}{contact}.*");
        let (mut waiters, mut from) = (Vec::new(), 1);
        while let Some(message) = store.next(&self.log, &filter, from).await? {
            from = message.sequence + 1;
            // A deletion is stored as a message with this header.
            if message.headers.get("KV-Operation").is_some() {
                continue;
            }
            let Some(key) = message.subject.strip_prefix(&prefix) else { continue };
            let Some(deal) = key.split_once('.').and_then(|(_, deal)| RecordId::parse(deal).ok()) else {
                continue;
            };
            let Ok(subject) = std::str::from_utf8(&message.payload) else { continue };
            waiters.push(Waiter {
                key: key.to_owned(),
                deal: RecordRef::deal(deal),
                subject: subject.to_owned(),
            });
        }
        Ok(waiters)
    }
}
