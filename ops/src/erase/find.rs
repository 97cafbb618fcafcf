//! Finds every message that is about one person, whichever stream it is in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use async_nats::jetstream::consumer::DeliverPolicy;
use runtime::Broker;
use runtime::broker::StoredMessage;
use schemas::streams::{COMMANDS, DEAD_LETTERS, RAW, RESULTS, STATUSES, WAITING};
use schemas::{DeadLetter, Entity, RecordRef, subjects};

use super::monument;
use crate::exit::Failure;
use crate::letters::select::header;
use crate::stored::{self, Choice};

/// Subjects of each stream up to the record.
const STREAMS: [(&str, &[&str]); 4] = [
    (RAW.name, &["b24.raw."]),
    (COMMANDS.name, &["crm.cmd.*.", "crm.later.*."]),
    (RESULTS.name, &["crm.result.*."]),
    (STATUSES.name, &["b24.status.*."]),
];

/// Whose data goes: a contact with its deals, or a deal alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person(pub RecordRef);

/// What there is about a person.
#[derive(Debug, Default)]
pub struct Found {
    /// Sequences by stream.
    pub messages: BTreeMap<&'static str, Vec<u64>>,
    /// The records that they are about.
    pub records: BTreeSet<RecordRef>,
    /// The newest raw message about each record.
    pub newest_raw: BTreeMap<RecordRef, u64>,
    /// Dead letters that do not say whom they are about.
    pub unknown_letters: Vec<u64>,
}

impl Person {
    /// Tells whether a message about a record, and of this pupil, is about the person.
    ///
    /// A deal that changed its pupil is one's in those versions alone that name him.
    pub fn owns(self, record: Option<RecordRef>, pupil: Option<&str>) -> bool {
        record == Some(self.0)
            || self.0.entity == Entity::Contact && pupil == Some(self.0.id.to_string().as_str())
    }

    fn tails(self) -> Vec<String> {
        match self.0.entity {
            Entity::Contact => vec![self.0.to_string(), format!("{}.*", Entity::Deal)],
            Entity::Deal => vec![self.0.to_string()],
        }
    }
}

/// Looks through all streams.
pub async fn all(broker: &Broker, person: Person) -> Result<Found, Failure> {
    let mut found = Found::default();
    for (stream, prefixes) in STREAMS {
        let tails = person.tails();
        let filters =
            prefixes.iter().flat_map(|prefix| tails.iter().map(move |tail| format!("{prefix}{tail}")));
        let choice = Choice::new(filters.collect(), DeliverPolicy::All);
        let choice = Choice { headers_only: true, bar: Some("messages looked at"), ..choice };
        stored::read(broker, stream, choice, |message| {
            let record = subjects::record_of(&message.subject);
            if person.owns(record, message.header("ce-pupil")) && !monument::is_one(&message) {
                found.note(stream, record, message.sequence);
            }
            ControlFlow::Continue(())
        })
        .await?;
    }
    let letters = Choice::new(vec!["dlq.>".to_owned()], DeliverPolicy::All);
    stored::read(broker, DEAD_LETTERS.name, letters, |letter| {
        found.note_letter(person, &letter);
        ControlFlow::Continue(())
    })
    .await?;
    Ok(found)
}

/// Returns the keys of the tickets that wait for the person, or of the deal that waits for anybody.
pub async fn waiting(broker: &Broker, person: Person) -> Result<Vec<String>, Failure> {
    let bucket = broker.bucket(&WAITING).await.map_err(Failure::trouble)?;
    let id = person.0.id.to_string();
    let is_about = |key: &String| match key.split_once('.') {
        Some((contact, deal)) => id == if super::is_deal(person.0) { deal } else { contact },
        None => false,
    };
    let keys = bucket.keys().await.map_err(Failure::trouble)?;
    Ok(keys.into_iter().filter(is_about).collect())
}

impl Found {
    fn note(&mut self, stream: &'static str, record: Option<RecordRef>, sequence: u64) {
        self.messages.entry(stream).or_default().push(sequence);
        self.records.extend(record);
        if let Some(record) = record.filter(|_| stream == RAW.name) {
            let newest = self.newest_raw.entry(record).or_default();
            *newest = sequence.max(*newest);
        }
    }

    /// A letter quotes its message; one without a record in its subject may still have it inside.
    fn note_letter(&mut self, person: Person, message: &StoredMessage) {
        let outside = subjects::record_of(&message.subject);
        let Ok(letter) = serde_json::from_slice::<DeadLetter>(&message.payload) else {
            match outside {
                Some(record) if person.owns(Some(record), None) => {
                    self.note(DEAD_LETTERS.name, outside, message.sequence);
                }
                Some(_) => {}
                None => self.unknown_letters.push(message.sequence),
            }
            return;
        };
        let record = outside.or_else(|| subjects::record_of(&letter.subject));
        if person.owns(record, header(&letter, "ce-pupil")) {
            self.note(DEAD_LETTERS.name, record, message.sequence);
        } else if record.is_none() {
            self.unknown_letters.push(message.sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::RecordId;

    fn contact(id: u64) -> RecordRef {
        RecordRef::contact(RecordId::try_new(id).unwrap())
    }

    fn deal(id: u64) -> RecordRef {
        RecordRef::deal(RecordId::try_new(id).unwrap())
    }

    #[test]
    fn a_contact_owns_its_own_messages_and_its_deals_and_a_deal_only_itself() {
        let person = Person(contact(39910));
        assert!(person.owns(Some(contact(39910)), Some("39910")));
        assert!(person.owns(Some(deal(96038)), Some("39910")));
        assert!(!person.owns(Some(deal(96038)), Some("3991")));
        assert!(!person.owns(Some(deal(39910)), None));
        let one = Person(deal(96038));
        assert!(one.owns(Some(deal(96038)), Some("39910")));
        assert!(!one.owns(Some(contact(39910)), Some("39910")));
        assert!(!one.owns(Some(contact(96038)), Some("96038")));
    }
}
