//! What reconciliation finds, and what to do about it.

use schemas::{Entity, RecordId, RecordRef};
use serde::{Deserialize, Serialize};

use crate::answer::{Finding, Severity};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// What Bitrix24 holds was never read, and no poll will read it.
    Unread,
    /// The newest version was read long ago and is not processed.
    Unprocessed,
    /// otmechalka lacks it.
    Missing,
    /// otmechalka holds something else.
    Differs,
    /// otmechalka holds another ticket than was sent; tickets are never changed from here.
    TicketDiffers,
    /// Today's mapping decides otherwise than was done.
    Outdated,
    /// The status field shows another text than was written last.
    StatusDiffers,
    /// The status says success, and the record was refused.
    FalseSuccess,
    /// The status says that something is wrong, and nothing is.
    FalseError,
    /// otmechalka has a ticket whose client it does not have.
    NoClient,
    /// A ticket belongs to a client whose contact is gone, and its deal to another contact by now.
    MovedPupil,
    /// otmechalka has it, Bitrix24 no longer has.
    Gone,
    /// The same, and its deals are another contact's now: it was merged into that one.
    Merged,
    /// otmechalka has it, and the deal is no longer among those that are sent.
    LeftSelection,
    /// otmechalka has it although nothing in it concerns otmechalka.
    Extra,
    /// otmechalka answers about others and not about this one.
    Unanswered,
}

impl Code {
    /// Returns the name in findings.
    pub fn name(self) -> &'static str {
        match self {
            Code::Unread => "reconcile.unread",
            Code::Unprocessed => "reconcile.unprocessed",
            Code::Missing => "reconcile.missing",
            Code::Differs => "reconcile.differs",
            Code::TicketDiffers => "reconcile.ticket_differs",
            Code::Outdated => "reconcile.outdated",
            Code::StatusDiffers => "reconcile.status_differs",
            Code::FalseSuccess => "reconcile.false_success",
            Code::FalseError => "reconcile.false_error",
            Code::NoClient => "reconcile.no_client",
            Code::MovedPupil => "reconcile.moved_pupil",
            Code::Gone => "reconcile.gone",
            Code::Merged => "reconcile.merged",
            Code::LeftSelection => "reconcile.left_selection",
            Code::Extra => "reconcile.extra",
            Code::Unanswered => "reconcile.unanswered",
        }
    }

    /// Tells whether sending the record round again mends it.
    fn is_mended_by_sending(self) -> bool {
        use Code::{Differs, FalseError, FalseSuccess, Missing, Outdated, StatusDiffers, Unread};
        matches!(self, Unread | Missing | Differs | Outdated | StatusDiffers | FalseSuccess | FalseError)
    }
}

/// How far the repair of something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// A person has to do it.
    ByHand,
    /// `--repair` does it.
    Possible,
    /// The record was sent round again.
    Sent,
    /// It changed before it could be sent; whatever changed it is on its way.
    Overtaken,
}

/// Something that was found about a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The record.
    pub record: RecordRef,
    /// What is wrong with it.
    pub code: Code,
    /// Fields that differ.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub fields: Vec<String>,
    /// The contact that it is about besides.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub other: Option<RecordId>,
    /// How far its repair is.
    pub repair: Repair,
}

impl Found {
    /// Finds something.
    pub fn new(record: RecordRef, code: Code) -> Found {
        let repair = if code.is_mended_by_sending() { Repair::Possible } else { Repair::ByHand };
        Found { record, code, fields: Vec::new(), other: None, repair }
    }

    /// Names the fields that differ.
    pub fn with_fields(self, fields: Vec<String>) -> Found {
        Found { fields, ..self }
    }

    /// Names the other contact.
    pub fn about(self, other: RecordId) -> Found {
        Found { other: Some(other), ..self }
    }

    /// Leaves the repair to a person.
    pub fn by_hand(self) -> Found {
        Found { repair: Repair::ByHand, ..self }
    }

    /// Tells it: what is wrong, and the command or the deed that mends it.
    pub fn finding(&self, is_dry_run: bool) -> Finding {
        let severity = match (self.repair, self.code) {
            (Repair::Sent | Repair::Overtaken, _) => Severity::Warning,
            (Repair::Possible, _) | (_, Code::Unprocessed) => Severity::Error,
            (Repair::ByHand, _) => Severity::Warning,
        };
        let RecordRef { entity, id } = self.record;
        let finding = Finding::warning(
            self.code.name(),
            format!("{entity} {id}"),
            self.what(),
            self.remedy(is_dry_run),
        );
        Finding { severity, ..finding }
    }

    fn what(&self) -> String {
        let kind = if self.record.entity == Entity::Contact { "client" } else { "ticket" };
        let other = self.other.map_or("another contact".to_owned(), |id| format!("contact {id}"));
        let fields = self.fields.join(", ");
        match self.code {
            Code::Unread => "what Bitrix24 holds was never read, and polls cannot see it".to_owned(),
            Code::Unprocessed => "its newest version was read long ago and is not processed".to_owned(),
            Code::Missing => format!("otmechalka does not have its {kind}"),
            Code::Differs | Code::TicketDiffers => format!("otmechalka holds something else in {fields}"),
            Code::Outdated => "today's mapping decides otherwise about it than was done".to_owned(),
            Code::StatusDiffers => "its status is not the one that was written last".to_owned(),
            Code::FalseSuccess => "its status says success although it was refused".to_owned(),
            Code::FalseError => "its status says that something is wrong although nothing is".to_owned(),
            Code::NoClient => format!("otmechalka has its ticket, and not the client of it, {other}"),
            Code::MovedPupil => format!("its ticket belongs to {other}, who is gone from Bitrix24"),
            Code::Gone => format!("it is gone from Bitrix24, and otmechalka still has its {kind}"),
            Code::Merged => format!("it was merged into {other}, and otmechalka still has its client"),
            Code::LeftSelection => {
                "it is no longer among the deals that are sent, and otmechalka has its ticket".to_owned()
            }
            Code::Extra => format!("nothing in it concerns otmechalka, which has its {kind} all the same"),
            Code::Unanswered => "otmechalka gives no answer about it".to_owned(),
        }
    }

    fn remedy(&self, is_dry_run: bool) -> String {
        let RecordRef { entity, id } = self.record;
        match self.repair {
            Repair::Possible if is_dry_run => return "--repair would send it round again".to_owned(),
            Repair::Possible => return format!("rollcall reconcile --repair --{entity} {id}"),
            Repair::Sent => {
                return format!(
                    "It was sent round again; look again with: rollcall reconcile --{entity} {id}"
                );
            }
            Repair::Overtaken => {
                return format!("It is being edited; look again with: rollcall reconcile --{entity} {id}");
            }
            Repair::ByHand => {}
        }
        let other = self.other.map_or("that contact".to_owned(), |id| format!("contact {id}"));
        match self.code {
            Code::Unprocessed => format!(
                "Start what `rollcall status` says stands still; where it was given up (rollcall dead-letters list \
                 --record {entity}/{id}), put the cause right, then: rollcall dead-letters redrive --record {entity}/{id}"
            ),
            Code::TicketDiffers => {
                "Somebody changed the ticket in otmechalka; if that was a mistake, correct it there"
                    .to_owned()
            }
            Code::NoClient => match self.other {
                Some(other) => format!(
                    "rollcall reconcile --repair --contact {other}; where Bitrix24 has no such contact, put the ticket \
                     right in otmechalka"
                ),
                None => "Put the ticket right in otmechalka".to_owned(),
            },
            Code::MovedPupil => {
                "Move the ticket in otmechalka to the contact that the deal names now".to_owned()
            }
            Code::Gone => {
                "Archive it in otmechalka, or restore the record from Bitrix24's recycle bin".to_owned()
            }
            Code::Merged => format!("Archive the client in otmechalka once its tickets are moved to {other}"),
            Code::LeftSelection => "Cancel the ticket in otmechalka if the sale was called off".to_owned(),
            Code::Extra if entity == Entity::Contact => {
                "Archive the client in otmechalka, or correct products and branches of the contact".to_owned()
            }
            Code::Extra => "Cancel the ticket in otmechalka, or correct the branches of the deal".to_owned(),
            Code::Unanswered => {
                format!("Look at it in otmechalka, then look again: rollcall reconcile --{entity} {id}")
            }
            _ => "Correct the record as its status says; it follows by itself".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_the_record_and_the_command_that_mends_it() {
        let record = RecordRef::contact(RecordId::try_new(39910).unwrap());
        let found = Found::new(record, Code::Differs).with_fields(vec!["phone".into(), "email".into()]);
        let finding = found.finding(false);
        assert_eq!((finding.code, finding.severity), ("reconcile.differs", Severity::Error));
        assert_eq!(finding.message, "contact 39910: otmechalka holds something else in phone, email");
        assert_eq!(finding.action, "rollcall reconcile --repair --contact 39910");
        let sent = Found { repair: Repair::Sent, ..found };
        assert_eq!(sent.finding(false).severity, Severity::Warning);
    }

    #[test]
    fn a_finding_survives_the_bucket_it_is_kept_in() {
        let record = RecordRef::deal(RecordId::try_new(7).unwrap());
        let found = Found::new(record, Code::MovedPupil).about(RecordId::try_new(5).unwrap());
        let kept: Found = serde_json::from_slice(&serde_json::to_vec(&found).unwrap()).unwrap();
        assert_eq!(kept, found);
        assert_eq!(kept.repair, Repair::ByHand);
    }
}
