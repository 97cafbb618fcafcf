//! Whether what otmechalka has of a refused record is what was sent of it. Pure.
//!
//! Nothing is sent of a record that is refused, so what was there before has to stay as it was.

use schemas::{Entity, RecordRef};

use super::fields::{Fields, differing};
use super::found::{Cause, Code, Found};

/// What otmechalka took last of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Taken {
    /// This.
    Kept(Fields),
    /// Something, or perhaps something, that is no longer kept.
    Lost,
    /// Nothing.
    Nothing,
}

/// Finds what is wrong with what otmechalka has. What was sent `later` than it took something may have arrived unseen.
pub fn explain(record: RecordRef, held: &Fields, taken: &Taken, later: &[Fields]) -> Option<Found> {
    if later.iter().any(|sent| differing(sent, held).is_empty()) {
        return None;
    }
    let found = |code| Found::new(record, code).caused_by(Cause::Hand).by_hand();
    match taken {
        Taken::Lost => None,
        Taken::Nothing => Some(found(Code::Extra)),
        Taken::Kept(sent) => {
            let fields = differing(sent, held);
            let code = if record.entity == Entity::Deal { Code::TicketDiffers } else { Code::Differs };
            (!fields.is_empty()).then(|| found(code).with_fields(fields))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::RecordId;
    use serde_json::json;

    fn client(last_name: &str) -> Fields {
        json!({"origin_id": "5", "last_name": last_name, "phone": "79261234567"}).as_object().unwrap().clone()
    }

    fn told(held: &str, taken: &Taken, later: &[&str]) -> Option<(Code, String)> {
        let later: Vec<Fields> = later.iter().map(|name| client(name)).collect();
        let found = explain(RecordRef::contact(RecordId::try_new(5).unwrap()), &client(held), taken, &later)?;
        let fields: Vec<&str> = found.fields.iter().map(|field| field.field.as_str()).collect();
        Some((found.code, fields.join(",")))
    }

    #[test]
    fn a_client_is_to_be_as_it_was_taken_last() {
        let taken = Taken::Kept(client("Петров"));
        assert_eq!(told("Петров", &taken, &[]), None);
        assert_eq!(told("Чужой", &taken, &["Иванов"]), Some((Code::Differs, "last_name".into())));
        // An edit whose answer was lost.
        assert_eq!(told("Иванов", &taken, &["Иванов"]), None);
    }

    #[test]
    fn what_was_never_sent_is_extra_and_of_what_is_no_longer_kept_nothing_is_known() {
        assert_eq!(told("Чужой", &Taken::Nothing, &[]), Some((Code::Extra, String::new())));
        assert_eq!(told("Иванов", &Taken::Nothing, &["Иванов"]), None);
        assert_eq!(told("Чужой", &Taken::Lost, &[]), None);
    }
}
