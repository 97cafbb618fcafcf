//! Why a ticket is not what today's mapping makes of its deal. Pure.
//!
//! otmechalka has no call that changes a ticket, so one stays as it was made. That its deal was edited since is as it
//! should be; that somebody changed it, or that an earlier mapping made it, is not.

use schemas::RecordRef;

use super::fields::{Fields, differing};
use super::found::{Cause, Code, Found};
use super::judge::Expected;

/// What is known of how a ticket was made.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// It was sent like this, and this is what today's mapping makes of the same version of the deal.
    Kept(Fields, Expected),
    /// What was sent is no longer kept, and the deal never had another content than now.
    AlwaysSo,
    /// What was sent is no longer kept, and the deal may have had another content.
    Lost,
}

/// Finds what is wrong with a ticket, given what today's mapping makes of the deal as it is.
pub fn explain(deal: RecordRef, now: &Expected, held: &Fields, origin: &Origin) -> Vec<Found> {
    let differs = |fields: Vec<String>, cause| {
        let found = || Found::new(deal, Code::TicketDiffers).caused_by(cause);
        (!fields.is_empty()).then(|| found().with_fields(fields))
    };
    let refused = |cause| Found::new(deal, Code::TicketRefused).caused_by(cause);
    match (origin, now) {
        (Origin::Lost, _) => Vec::new(),
        (Origin::AlwaysSo, Expected::Held(now)) => {
            differs(differing(now, held), Cause::Unknown).into_iter().collect()
        }
        (Origin::AlwaysSo, Expected::Refused(_)) => vec![refused(Cause::Unknown)],
        (Origin::AlwaysSo, Expected::OutOfScope) => Vec::new(),
        (Origin::Kept(sent, today), now) => {
            let changed = differing(sent, held);
            // Where the mapping gives no ticket at all, nobody can tell whether a hand put it right.
            let wrong = wanted(now, today).map(|wanted| differing(wanted, held)).unwrap_or_default();
            let is_wrong = |field: &String| wrong.contains(field);
            let of_mapping = match today {
                Expected::Held(today) => differing(today, held),
                Expected::Refused(_) | Expected::OutOfScope => Vec::new(),
            };
            let of_mapping =
                of_mapping.into_iter().filter(|field| !changed.contains(field) && is_wrong(field));
            let of_mapping = differs(of_mapping.collect(), Cause::Mapping);
            let by_hand =
                differs(changed.iter().filter(|field| is_wrong(field)).cloned().collect(), Cause::Hand);
            let is_refused = matches!((now, today), (Expected::Refused(_), Expected::Refused(_)));
            by_hand.into_iter().chain(of_mapping).chain(is_refused.then(|| refused(Cause::Mapping))).collect()
        }
    }
}

/// Returns what the ticket should hold: what the deal gives as it is, or else what it gave when the ticket was made.
pub fn wanted<'e>(now: &'e Expected, today: &'e Expected) -> Option<&'e Fields> {
    match (now, today) {
        (Expected::Held(wanted), _) | (_, Expected::Held(wanted)) => Some(wanted),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::RecordId;
    use serde_json::json;

    fn ticket(branch: &str, employee: &str) -> Fields {
        let ticket = json!({"origin_id": "7", "selling_branchoffice": branch, "employee": employee});
        ticket.as_object().unwrap().clone()
    }

    fn held(branch: &str, employee: &str) -> Expected {
        Expected::Held(ticket(branch, employee))
    }

    fn refused() -> Expected {
        Expected::Refused("Не заполнено поле «Филиал».".into())
    }

    fn told(now: &Expected, held: &Fields, origin: &Origin) -> Vec<(Code, Cause, String)> {
        let deal = RecordRef::deal(RecordId::try_new(7).unwrap());
        let told = explain(deal, now, held, origin).into_iter().map(|found| {
            let names: Vec<&str> = found.fields.iter().map(|field| field.field.as_str()).collect();
            (found.code, found.cause.unwrap(), names.join(","))
        });
        told.collect()
    }

    fn differs(cause: Cause, fields: &str) -> (Code, Cause, String) {
        (Code::TicketDiffers, cause, fields.to_owned())
    }

    #[test]
    fn a_ticket_that_is_what_was_sent_was_changed_by_nobody() {
        let sent = ticket("wrong", "A");
        let kept = |today| Origin::Kept(sent.clone(), today);
        let of_mapping = [differs(Cause::Mapping, "selling_branchoffice")];
        assert_eq!(told(&held("right", "A"), &sent, &kept(held("right", "A"))), of_mapping);
        // Its deal has another seller by now, which is as it should be.
        assert_eq!(told(&held("right", "B"), &sent, &kept(held("right", "A"))), of_mapping);
        assert_eq!(told(&held("wrong", "B"), &sent, &kept(held("wrong", "A"))), []);
        assert_eq!(told(&held("wrong", "A"), &sent, &kept(held("wrong", "A"))), []);
        // By now the deal gives just that ticket.
        assert_eq!(told(&held("wrong", "B"), &sent, &kept(held("right", "A"))), []);
    }

    #[test]
    fn a_ticket_that_is_not_what_was_sent_was_changed_by_somebody() {
        let kept = |today| Origin::Kept(ticket("wrong", "A"), today);
        let by_hand = || differs(Cause::Hand, "employee");
        assert_eq!(told(&held("wrong", "A"), &ticket("wrong", "X"), &kept(held("wrong", "A"))), [by_hand()]);
        let both = [by_hand(), differs(Cause::Mapping, "selling_branchoffice")];
        assert_eq!(told(&held("right", "A"), &ticket("wrong", "X"), &kept(held("right", "A"))), both);
        // What somebody put right is right.
        assert_eq!(told(&held("right", "B"), &ticket("right", "B"), &kept(held("right", "A"))), []);
    }

    #[test]
    fn a_deal_that_is_refused_now_is_told_where_the_mapping_changed_and_not_where_the_deal_did() {
        let sent = ticket("right", "A");
        let kept = |today| Origin::Kept(sent.clone(), today);
        let of_mapping = [(Code::TicketRefused, Cause::Mapping, String::new())];
        assert_eq!(told(&refused(), &sent, &kept(refused())), of_mapping);
        assert_eq!(told(&refused(), &sent, &kept(held("right", "A"))), []);
        let by_hand = [differs(Cause::Hand, "employee")];
        assert_eq!(told(&refused(), &ticket("right", "X"), &kept(held("right", "A"))), by_hand);
    }

    #[test]
    fn where_nothing_is_kept_only_a_deal_that_never_changed_tells_anything() {
        let there = ticket("wrong", "A");
        assert_eq!(told(&held("right", "A"), &there, &Origin::Lost), []);
        assert_eq!(told(&refused(), &there, &Origin::Lost), []);
        let unknown = [differs(Cause::Unknown, "selling_branchoffice")];
        assert_eq!(told(&held("right", "A"), &there, &Origin::AlwaysSo), unknown);
        let unknown = [(Code::TicketRefused, Cause::Unknown, String::new())];
        assert_eq!(told(&refused(), &there, &Origin::AlwaysSo), unknown);
    }
}
