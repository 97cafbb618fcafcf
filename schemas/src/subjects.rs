//! The subjects of the streams. Each ends in the entity and the id, so that one pupil can be subscribed to.

use crate::record::{Entity, Partition, RecordId, RecordRef};

/// Returns the subject of a changed record: `b24.raw.contact.39910`.
pub fn raw(record: RecordRef) -> String {
    format!("b24.raw.{record}")
}

/// Returns the subject of a mapped record, in the partition of its pupil: `crm.cmd.01.deal.96038`.
///
/// A deal belongs behind its own pupil: in one partition its client comes before its ticket.
pub fn command(pupil: RecordId, record: RecordRef) -> String {
    format!("crm.cmd.{}.{record}", pupil.partition())
}

/// Returns the subject under which a mapped record waits for its next try: `crm.later.01.deal.96038`.
///
/// The server publishes it to [`command`] again when its time has come; a newer version takes its place.
pub fn later(pupil: RecordId, record: RecordRef) -> String {
    format!("crm.later.{}.{record}", pupil.partition())
}

/// Returns the subject of a processed record, in the record's own partition: `crm.result.14.deal.96036`.
pub fn result(record: RecordRef) -> String {
    format!("crm.result.{}.{record}", record.partition())
}

/// Returns the subject of a settled status: `b24.status.14.deal.96036`.
pub fn status(record: RecordRef) -> String {
    format!("b24.status.{}.{record}", record.partition())
}

/// Returns the subject of a dead letter about a record: `dlq.mapper.contact.39910`.
pub fn dead_letter(stage: &str, record: RecordRef) -> String {
    format!("dlq.{stage}.{record}")
}

/// Returns the subject of a dead letter that does not say which record it is about.
pub fn dead_letter_unknown(stage: &str) -> String {
    format!("dlq.{stage}.unknown.0")
}

/// Reads the record out of any of these subjects: their last two tokens.
pub fn record_of(subject: &str) -> Option<RecordRef> {
    let (front, id) = subject.rsplit_once('.')?;
    let (_, entity) = front.rsplit_once('.')?;
    RecordRef::parse(&format!("{entity}.{id}"))
}

/// Returns the filter of one partition of the mapped records: `crm.cmd.07.>`.
pub fn command_partition(partition: Partition) -> String {
    format!("crm.cmd.{partition}.>")
}

/// Returns the filter of all processed records of a kind: `crm.result.*.deal.*`.
pub fn results_of(entity: Entity) -> String {
    format!("crm.result.*.{}.*", entity.token())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_gives_its_record_back() {
        let pupil = RecordId::try_new(39910).unwrap();
        let deal = RecordRef::deal(RecordId::try_new(96038).unwrap());
        for subject in [
            raw(deal),
            command(pupil, deal),
            later(pupil, deal),
            result(deal),
            status(deal),
            dead_letter("mapper", deal),
        ] {
            assert_eq!(record_of(&subject), Some(deal), "{subject}");
        }
        assert_eq!(record_of(&dead_letter_unknown("mapper")), None);
    }

    #[test]
    fn a_ticket_is_in_its_pupils_partition() {
        let pupil = RecordId::try_new(39910).unwrap();
        let deal = RecordRef::deal(RecordId::try_new(96038).unwrap());
        let of = |subject: String| subject.split('.').nth(2).unwrap().to_owned();
        assert_eq!(of(command(pupil, deal)), of(command(pupil, RecordRef::contact(pupil))));
    }
}
