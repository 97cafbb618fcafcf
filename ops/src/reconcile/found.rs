//! What reconciliation finds, and what to do about it.

use schemas::{Entity, RecordId, RecordRef};
use serde::{Deserialize, Serialize};

use super::fields::Fields;
use crate::answer::{Finding, Severity};
use crate::comparison::{Difference, text};
use crate::mask::Mask;
use crate::records;

/// Most characters of a value that are kept and shown.
const LONGEST: usize = 200;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// What Bitrix24 holds was never read, and no poll will read it.
    Unread,
    /// What Bitrix24 holds was changed long ago, and polls stand still.
    Unpolled,
    /// The newest version was read long ago and is not processed.
    Unprocessed,
    /// otmechalka lacks it.
    Missing,
    /// otmechalka holds something else.
    Differs,
    /// otmechalka holds another ticket than today's mapping gives; it has no call that changes one.
    TicketDiffers,
    /// otmechalka holds a ticket, and today's mapping refuses what it was made from.
    TicketRefused,
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
    /// otmechalka has it although nothing in it concerns otmechalka, or although it is refused and was never sent.
    Extra,
    /// Bitrix24 gives others and not this one.
    Unreadable,
    /// otmechalka answers about others and not about this one.
    Unanswered,
}

impl Code {
    /// Returns the name in findings.
    pub fn name(self) -> &'static str {
        match self {
            Code::Unread => "reconcile.unread",
            Code::Unpolled => "reconcile.unpolled",
            Code::Unprocessed => "reconcile.unprocessed",
            Code::Missing => "reconcile.missing",
            Code::Differs => "reconcile.differs",
            Code::TicketDiffers => "reconcile.ticket_differs",
            Code::TicketRefused => "reconcile.ticket_refused",
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
            Code::Unreadable => "reconcile.unreadable",
            Code::Unanswered => "reconcile.unanswered",
        }
    }

    /// Tells whether sending the record round again mends it.
    fn is_mended_by_sending(self) -> bool {
        use Code::{Differs, FalseError, FalseSuccess, Missing, Outdated, StatusDiffers, Unread};
        matches!(self, Unread | Missing | Differs | Outdated | StatusDiffers | FalseSuccess | FalseError)
    }
}

/// Why a ticket is not as today's mapping would make it, though its deal did not change; or what is there of a refused record
/// not as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody changed it in otmechalka: it is not what was sent.
    Hand,
    /// It is what was sent, by an earlier mapping.
    Mapping,
    /// What was sent is no longer kept.
    Unknown,
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
    /// Fields that differ: before is what otmechalka holds. What may not be shown is hidden.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub fields: Vec<Difference>,
    /// Why a ticket, or what is there of a refused record, differs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<Cause>,
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
        Found { record, code, fields: Vec::new(), cause: None, other: None, repair }
    }

    /// Names the fields that differ.
    pub fn with_fields(self, fields: Vec<String>) -> Found {
        let named = |field| Difference { field, before: None, now: None };
        Found { fields: fields.into_iter().map(named).collect(), ..self }
    }

    /// Says why a ticket differs.
    pub fn caused_by(self, cause: Cause) -> Found {
        Found { cause: Some(cause), ..self }
    }

    /// Adds what the fields that differ hold and what they should, as far as the mask lets it be seen.
    pub fn with_values(mut self, held: &Fields, wanted: &Fields, mask: &Mask) -> Found {
        for difference in &mut self.fields {
            let field = difference.field.as_str();
            let shown = |fields: &Fields| {
                let value = fields.get(field).filter(|value| !value.is_null())?;
                Some(bounded(text(&mask.value(field, value))))
            };
            (difference.before, difference.now) = (shown(held), shown(wanted));
        }
        self
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
            (Repair::Possible, _) | (_, Code::Unpolled | Code::Unprocessed | Code::Unreadable) => {
                Severity::Error
            }
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
        let fields: Vec<&str> = self.fields.iter().map(|difference| difference.field.as_str()).collect();
        let fields = fields.join(", ");
        match self.code {
            Code::Unread => "what Bitrix24 holds was never read, and polls cannot see it".to_owned(),
            Code::Unpolled => "what Bitrix24 holds was changed long ago, and polls stand still".to_owned(),
            Code::Unprocessed => "its newest version was read long ago and is not processed".to_owned(),
            Code::Missing => format!("otmechalka does not have its {kind}"),
            Code::Differs if self.cause == Some(Cause::Hand) => {
                format!("it is refused, and somebody changed its client in otmechalka, in {fields}")
            }
            Code::Differs => format!("otmechalka holds something else in {fields}"),
            Code::TicketDiffers => match self.cause {
                Some(Cause::Hand) => format!("somebody changed its ticket in otmechalka, in {fields}"),
                Some(Cause::Mapping) => {
                    format!("its ticket was made by an earlier mapping; today's gives it another {fields}")
                }
                Some(Cause::Unknown) | None => {
                    format!(
                        "today's mapping gives its ticket another {fields}; what was sent is no longer kept"
                    )
                }
            },
            Code::TicketRefused => {
                "today's mapping refuses it, and otmechalka has its ticket from before".to_owned()
            }
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
            Code::Extra if self.cause == Some(Cause::Hand) => {
                format!("it is refused and was never sent, and otmechalka has its {kind} all the same")
            }
            Code::Extra => format!("nothing in it concerns otmechalka, which has its {kind} all the same"),
            Code::Unreadable => "Bitrix24 does not give it, and gives others".to_owned(),
            Code::Unanswered => "otmechalka gives no answer about it".to_owned(),
        }
    }

    fn remedy(&self, is_dry_run: bool) -> String {
        let (look_again, option) = (self.look_again(), records::option(self.record));
        let mend = format!("rollcall reconcile --repair {option}");
        match self.repair {
            Repair::Possible if is_dry_run => format!("would be sent round again by: {mend}"),
            Repair::Possible => mend,
            Repair::Sent => format!("It was sent round again; look again with: {look_again}"),
            Repair::Overtaken => format!("It is being edited; look again with: {look_again}"),
            Repair::ByHand => format!("{}; then look again with: {look_again}", self.deed()),
        }
    }

    /// Writes the command that tells whether it is mended.
    fn look_again(&self) -> String {
        match (self.code, self.other) {
            // Only beside the contact that is gone a ticket of its is known to belong elsewhere.
            (Code::MovedPupil, Some(gone)) => {
                format!("rollcall reconcile --contact {gone} {}", records::option(self.record))
            }
            _ => records::recheck(self.record),
        }
    }

    /// Says what a person has to do.
    fn deed(&self) -> String {
        let (entity, option) = (self.record.entity, records::option(self.record));
        let other = self.other.map_or("that contact".to_owned(), |id| format!("contact {id}"));
        match self.code {
            Code::Unpolled => "Start what `rollcall status` says stands still".to_owned(),
            Code::Unprocessed => format!(
                "Start what `rollcall status` says stands still; where it was given up (rollcall dead-letters list \
                 {option}), put the cause right: rollcall dead-letters redrive {option}"
            ),
            Code::TicketDiffers => match self.cause {
                Some(Cause::Hand) => "If that was a mistake, correct the ticket in otmechalka".to_owned(),
                _ => {
                    "Correct the ticket in otmechalka by hand; no call of otmechalka's changes one".to_owned()
                }
            },
            Code::TicketRefused => format!(
                "Correct the deal in Bitrix24 (rollcall preview {} says what is wrong) or cancel the ticket in otmechalka",
                records::name(self.record)
            ),
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
            Code::Differs => "Nothing is sent of a refused contact: correct the client in otmechalka, or the contact as its \
                              status says, and all of it is sent"
                .to_owned(),
            Code::Extra if self.cause == Some(Cause::Hand) => {
                let kind = if entity == Entity::Contact { "Archive the client" } else { "Cancel the ticket" };
                format!("{kind} in otmechalka, or correct the {entity} as its status says; nothing deletes one from here")
            }
            Code::Extra if entity == Entity::Contact => {
                "Archive the client in otmechalka, or correct products and branches of the contact".to_owned()
            }
            Code::Extra => "Cancel the ticket in otmechalka, or correct the branches of the deal".to_owned(),
            Code::Unreadable => format!("Open it in Bitrix24, a deal with its products, and save the {entity} anew"),
            Code::Unanswered => "Look at it in otmechalka".to_owned(),
            _ => "Correct the record as its status says; it follows by itself".to_owned(),
        }
    }
}

/// Cuts what is too long to be kept for many records.
fn bounded(text: String) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    fn what_a_person_has_to_mend_is_told_with_the_command_that_looks_again() {
        let id = |number| RecordId::try_new(number).unwrap();
        for code in
            [Code::TicketDiffers, Code::TicketRefused, Code::LeftSelection, Code::Gone, Code::NoClient]
        {
            let action = Found::new(RecordRef::deal(id(7)), code).finding(false).action;
            assert!(action.ends_with("look again with: rollcall reconcile --deal 7"), "{action}");
        }
        let moved = Found::new(RecordRef::deal(id(7)), Code::MovedPupil).about(id(5));
        let action = moved.finding(false).action;
        assert!(action.ends_with("rollcall reconcile --contact 5 --deal 7"), "{action}");
    }

    #[test]
    fn a_ticket_that_differs_is_told_with_who_made_it_differ() {
        let found = |cause| {
            let record = RecordRef::deal(RecordId::try_new(7).unwrap());
            let found = Found::new(record, Code::TicketDiffers).with_fields(vec!["payment_method".into()]);
            found.caused_by(cause).finding(false).message
        };
        assert_eq!(
            found(Cause::Hand),
            "deal 7: somebody changed its ticket in otmechalka, in payment_method"
        );
        let by_mapping = found(Cause::Mapping);
        assert!(by_mapping.contains("earlier mapping") && !by_mapping.contains("somebody"), "{by_mapping}");
        assert!(found(Cause::Unknown).contains("no longer kept"));
    }

    #[test]
    fn what_is_there_of_a_refused_record_is_told_with_why_nothing_mends_it() {
        let told = |record, code| {
            let found = Found::new(record, code).caused_by(Cause::Hand).by_hand();
            let finding = found.finding(false);
            assert_eq!(finding.severity, Severity::Warning);
            format!("{}. {}", finding.message, finding.action)
        };
        let id = RecordId::try_new(7).unwrap();
        assert_eq!(
            told(RecordRef::contact(id), Code::Extra),
            "contact 7: it is refused and was never sent, and otmechalka has its client all the same. Archive the client in \
             otmechalka, or correct the contact as its status says; nothing deletes one from here; then look again with: \
             rollcall reconcile --contact 7"
        );
        assert!(
            told(RecordRef::deal(id), Code::Extra)
                .contains("Cancel the ticket in otmechalka, or correct the deal")
        );
        let differs = told(RecordRef::contact(id), Code::Differs);
        assert!(
            differs.contains("Nothing is sent of a refused contact") && !differs.contains("--repair"),
            "{differs}"
        );
    }

    #[test]
    fn values_are_hidden_and_bounded() {
        let fields = |value: serde_json::Value| value.as_object().unwrap().clone();
        let held = fields(json!({"last_name": "Чужой", "courses": ["1", "2"], "gender": "M".repeat(300)}));
        let wanted = fields(json!({"last_name": "Берёзкин", "courses": [], "email": null}));
        let names = ["last_name", "courses", "gender", "email"].map(str::to_owned).to_vec();
        let found = Found::new(RecordRef::contact(RecordId::try_new(5).unwrap()), Code::Differs);
        let found = found.with_fields(names);
        let shown = found.clone().with_values(&held, &wanted, &Mask::default()).fields;
        let values = |place: usize| (shown[place].before.as_deref(), shown[place].now.as_deref());
        assert_eq!(values(0), (Some("*** (5)"), Some("*** (8)")));
        assert_eq!(values(1), (Some("1, 2"), Some("")));
        assert_eq!(values(2).0.map(|text| text.chars().count()), Some(LONGEST + 1));
        assert_eq!(values(3), (None, None));
        let shown = found.with_values(&held, &wanted, &Mask::default().revealing()).fields;
        assert_eq!(shown[0].now.as_deref(), Some("Берёзкин"));
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
