//! The stream of dead letters: takes one out, deletes exactly that one.

use async_nats::jetstream::stream::{DeleteMessageErrorKind, RawMessageErrorKind};
use base64::Engine as _;
use runtime::Broker;
use runtime::broker::StoredMessage;
use schemas::DeadLetter;
use schemas::streams::DEAD_LETTERS;

use crate::exit::Failure;

/// Takes a letter out of the stream, as its leader has it.
pub async fn fetch(broker: &Broker, sequence: u64) -> Result<Option<StoredMessage>, Failure> {
    let stream = broker.stream(DEAD_LETTERS.name).await.map_err(Failure::trouble)?;
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(message.into())),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(Failure::trouble(format!("cannot read dead letter {sequence}: {error}"))),
    }
}

/// Deletes one letter and no other.
pub async fn delete(broker: &Broker, sequence: u64) -> Result<(), Failure> {
    let stream = broker.stream(DEAD_LETTERS.name).await.map_err(Failure::trouble)?;
    let deleted = stream.delete_message(sequence).await;
    let failed = |why: &dyn std::fmt::Display| {
        Failure::trouble(format!("dead letter {sequence} was not deleted: {why}"))
            .remedy("It is harmless where it is; discard it later")
    };
    match deleted {
        Ok(true) => Ok(()),
        Ok(false) => Err(failed(&"NATS refused")),
        // Somebody else was faster.
        Err(error) if matches!(error.kind(), DeleteMessageErrorKind::JetStream(_)) => {
            match fetch(broker, sequence).await? {
                None => Ok(()),
                Some(_) => Err(failed(&error)),
            }
        }
        Err(error) => Err(failed(&error)),
    }
}

/// Returns the bytes of the letter's message; `None` where they are not in the letter.
pub fn open_payload(letter: &DeadLetter) -> Option<Vec<u8>> {
    match letter.payload_is_base64 {
        true => base64::engine::general_purpose::STANDARD.decode(&letter.payload).ok(),
        // A message that was too big for a letter is not in it.
        false => (!letter.payload.is_empty()).then(|| letter.payload.clone().into_bytes()),
    }
}
