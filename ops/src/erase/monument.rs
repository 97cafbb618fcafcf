//! What stays of a record whose data is erased: that something was done, for which version, and nothing else.
//!
//! The newest message of a record in the streams of outcomes and of statuses is its fence. Without it a late delivery
//! of an older version would be taken for news. So before the fence goes, one without content takes its place.

use chrono::{DateTime, FixedOffset};
use runtime::broker::StoredMessage;
use runtime::{Broker, Outgoing, PublishError};
use schemas::envelope::{ERASED, ERASER};
use schemas::problem::SUCCESS;
use schemas::streams::{RESULTS, STATUSES};
use schemas::{
    Encoded, Envelope, Outcome, RecordProcessed, RecordRef, Shown, StatusSettled, StatusWritten, Version,
    subjects,
};

use super::find::Found;
use crate::exit::Failure;
use crate::ledger::Ledger;

/// Tries to publish behind the newest message of a record that keeps being published to.
const MOST_TRIES: usize = 20;

/// Tells whether a message is what an erasure left.
pub fn is_one(message: &StoredMessage) -> bool {
    message.header("ce-source") == Some(ERASER)
}

/// Puts content-free fences behind those that are about to be deleted.
pub async fn raise(broker: &Broker, found: &Found) -> Result<(), Failure> {
    let goes = |message: &StoredMessage, stream: &str| {
        found.messages.get(stream).is_some_and(|sequences| sequences.contains(&message.sequence))
    };
    let ledger = Ledger::open(broker.clone()).await?;
    for record in found.records.iter().copied() {
        let raw = found.newest_raw.get(&record).copied();
        // An edit that came while the person was being erased is to be forgotten by others as well.
        let goes = |message: &StoredMessage, stream: &str| {
            goes(message, stream) || is_one(message) && erased_to(message) < raw
        };
        let result = ledger.newest_result(record).await?.filter(|message| goes(message, RESULTS.name));
        let result = result.and_then(|message| message.decode::<RecordProcessed>().ok());
        if let Some((envelope, processed)) = result {
            // The status first: an outcome of a version whose status is settled makes nobody write one.
            settle_status(&ledger, record, envelope.version, raw).await?;
            let version = envelope.version;
            let blank = marked(blank_result(&envelope, &processed).map_err(Failure::trouble)?, version, raw);
            publish(&ledger, Fence::Result, record, version, blank).await?;
            continue;
        }
        // Of a record of which nothing but a status is kept.
        if ledger.newest_status(record).await?.is_some_and(|message| goes(&message, STATUSES.name)) {
            settle_status(&ledger, record, None, raw).await?;
        }
    }
    Ok(())
}

/// Leaves a status without content, of the newest settled version or of the outcome's, whichever is newer.
async fn settle_status(
    ledger: &Ledger,
    record: RecordRef,
    outcome: Option<Version>,
    raw: Option<u64>,
) -> Result<(), Failure> {
    let newest = ledger.newest_status(record).await?;
    let known = newest.and_then(|message| message.decode::<StatusWritten>().ok());
    let (envelope, written) = match known {
        Some((envelope, written)) if envelope.source != ERASER || outcome > envelope.version => {
            (envelope, Some(written))
        }
        Some(_) => return Ok(()),
        None => (nobody(record), None),
    };
    let version = envelope.version.max(outcome);
    let blank =
        blank_status(&Envelope { version, ..envelope }, written.as_ref()).map_err(Failure::trouble)?;
    publish(ledger, Fence::Status, record, version, marked(blank, version, raw)).await
}

/// Tells up to where the raw messages of its record are erased, for those who keep copies.
fn erased_to(message: &StoredMessage) -> Option<u64> {
    message.header(ERASED)?.parse().ok()
}

/// Says up to where the raw messages of the record are erased, which may be behind the newest outcome.
fn marked(mut blank: Encoded, version: Option<Version>, raw: Option<u64>) -> Encoded {
    let erased = version.map(|version| version.raw_sequence).max(raw);
    blank.headers.extend(erased.map(|erased| (ERASED.to_owned(), erased.to_string())));
    blank
}

fn nobody(record: RecordRef) -> Envelope {
    Envelope {
        record,
        source: ERASER.into(),
        pupil: None,
        modified: DateTime::UNIX_EPOCH.fixed_offset(),
        fingerprint: String::new(),
        version: None,
        attempt: 0,
    }
}

/// Keeps of an envelope what orders versions.
fn bare(envelope: &Envelope) -> Envelope {
    let Envelope { record, pupil, modified, version, .. } = *envelope;
    Envelope { record, pupil, modified, version, ..nobody(record) }
}

fn blank_result(envelope: &Envelope, processed: &RecordProcessed) -> Result<Encoded, schemas::EnvelopeError> {
    let outcome = match processed.outcome {
        // Nobody is to correct what is erased.
        Outcome::Refused => Outcome::Superseded,
        outcome => outcome,
    };
    let status = if outcome.is_success() { SUCCESS.to_owned() } else { String::new() };
    bare(envelope).encode(&RecordProcessed {
        outcome,
        status,
        problems: Vec::new(),
        // That otmechalka has the record is what keeps it from being created twice.
        target_id: processed.target_id.clone(),
        body_digest: None,
        shown: Shown { status: None, observed: processed.shown.observed },
    })
}

fn blank_status(
    envelope: &Envelope,
    written: Option<&StatusWritten>,
) -> Result<Encoded, schemas::EnvelopeError> {
    let epoch: DateTime<FixedOffset> = DateTime::UNIX_EPOCH.fixed_offset();
    let status = written.filter(|written| written.status == SUCCESS).map_or("", |_| SUCCESS);
    bare(envelope).encode(&StatusWritten {
        status: status.to_owned(),
        how: written.map_or(StatusSettled::AlreadyShown, |written| written.how),
        settled: written.map_or(epoch, |written| written.settled),
    })
}

#[derive(Clone, Copy)]
enum Fence {
    Result,
    Status,
}

/// Publishes behind whatever is newest, unless that is of a newer version and speaks for itself.
async fn publish(
    ledger: &Ledger,
    fence: Fence,
    record: RecordRef,
    version: Option<Version>,
    blank: Encoded,
) -> Result<(), Failure> {
    for _ in 0..MOST_TRIES {
        let newest = match fence {
            Fence::Result => ledger.newest_result(record).await?,
            Fence::Status => ledger.newest_status(record).await?,
        };
        let header = |name: &str| newest.as_ref().and_then(|message| message.header(name));
        if Envelope::decode_headers(&header).is_ok_and(|newest| newest.version > version) {
            return Ok(());
        }
        let behind = newest.as_ref().map_or(0, |message| message.sequence);
        let (subject, kind) = match fence {
            Fence::Result => (subjects::result(record), "result"),
            Fence::Status => (subjects::status(record), "status"),
        };
        let message_id = format!("erase:{kind}:{record}:{behind}");
        let message = Outgoing::new(subject, blank.clone(), message_id).expecting_last(behind);
        match ledger.broker.publish(&message).await {
            Ok(_) => return Ok(()),
            Err(PublishError::NotLast) => {}
            Err(error) => return Err(Failure::trouble(error)),
        }
    }
    Err(Failure::trouble(format!("{record} keeps being published about"))
        .remedy("Run the same command again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::{Problem, RecordId};

    #[test]
    fn what_stays_has_the_version_and_no_content() {
        let record = RecordRef::contact(RecordId::try_new(39910).unwrap());
        let version = Some(Version { raw_sequence: 12, redrive: 1 });
        let modified = DateTime::parse_from_rfc3339("2026-01-10T10:00:00+03:00").unwrap();
        let envelope = Envelope {
            pupil: Some(record.id),
            modified,
            fingerprint: "0123abcd".into(),
            version,
            attempt: 3,
            ..nobody(record)
        };
        let shown =
            Shown { status: Some("Телефон «8 926» неверен".into()), observed: modified };
        let processed = |outcome| RecordProcessed {
            outcome,
            status: "Телефон «8 926» неверен".into(),
            problems: vec![Problem::refused_by_otmechalka("Телефон 8 926 занят", &[])],
            target_id: Some("12456".into()),
            body_digest: Some("feed".into()),
            shown: shown.clone(),
        };
        let written = StatusWritten {
            status: "Телефон «8 926» неверен".into(),
            how: StatusSettled::Written,
            settled: modified,
        };
        let blanks = [
            blank_result(&envelope, &processed(Outcome::Refused)).unwrap(),
            blank_result(&envelope, &processed(Outcome::Updated)).unwrap(),
            blank_status(&envelope, Some(&written)).unwrap(),
            blank_status(&envelope, None).unwrap(),
        ];
        for blank in &blanks {
            let text = format!("{:?} {}", blank.headers, String::from_utf8_lossy(&blank.payload));
            for content in ["926", "Телефон", "0123abcd", "feed"] {
                assert!(!text.contains(content), "{text}");
            }
            let header = |name: &str| {
                blank.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
            };
            assert_eq!(Envelope::decode_headers(&header).unwrap().version, version);
        }
        let outcome = |blank: &Encoded| serde_json::from_slice::<RecordProcessed>(&blank.payload).unwrap();
        assert_eq!(outcome(&blanks[0]).outcome, Outcome::Superseded);
        assert_eq!(
            (outcome(&blanks[1]).outcome, outcome(&blanks[1]).status.as_str()),
            (Outcome::Updated, SUCCESS)
        );
    }
}
