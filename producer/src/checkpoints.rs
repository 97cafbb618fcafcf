//! The checkpoints: the truth about how far each entity was read.

use runtime::{Broker, BrokerError, Bucket};
use schemas::streams::CHECKPOINTS;
use schemas::{Checkpoint, Entity};

use crate::error::PollError;

/// The bucket of checkpoints.
pub struct Checkpoints {
    bucket: Bucket,
}

/// A checkpoint as it is stored.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// The checkpoint; none before the first answer was dealt with.
    pub checkpoint: Option<Checkpoint>,
    revision: Option<u64>,
}

impl Checkpoints {
    /// Opens the bucket.
    pub async fn open(broker: &Broker) -> Result<Checkpoints, BrokerError> {
        Ok(Checkpoints { bucket: broker.bucket(&CHECKPOINTS).await? })
    }

    /// Reads what is stored.
    pub async fn load(&self, entity: Entity) -> Result<Stored, PollError> {
        let Some((value, revision)) = self.bucket.get(entity.token()).await? else {
            return Ok(Stored::default());
        };
        let checkpoint = serde_json::from_slice(&value).map_err(|_| PollError::Checkpoint(entity))?;
        Ok(Stored { checkpoint: Some(checkpoint), revision: Some(revision) })
    }

    /// Stores the successor of what was loaded; fails where somebody else was first.
    pub async fn store(
        &self,
        entity: Entity,
        loaded: &Stored,
        checkpoint: &Checkpoint,
    ) -> Result<(), PollError> {
        let value = serde_json::to_vec(checkpoint).map_err(|_| PollError::Checkpoint(entity))?;
        self.bucket.compare_and_put(entity.token(), value.into(), loaded.revision).await?;
        Ok(())
    }
}
