//! Turns what the mapper made into what otmechalka is sent.

use otmechalka::{ClientBody, TicketBody};
use schemas::{Client, RecordId, Ticket};
use sha2::{Digest, Sha256};

/// Returns the body of a client.
pub fn client_body(id: RecordId, client: &Client) -> ClientBody {
    ClientBody {
        origin_id: id.to_string(),
        last_name: client.last_name.clone(),
        first_name: client.first_name.clone(),
        phone: client.phone.clone(),
        email: client.email.clone(),
        courses: client.courses.clone(),
        branchoffices: client.branchoffices.clone(),
        birthdate: client.birthdate,
        gender: client.gender.clone(),
        additional_data: Some(client.additional_data.clone()).filter(|text| !text.is_empty()),
    }
}

/// Returns the body of a ticket.
pub fn ticket_body(id: RecordId, ticket: &Ticket) -> TicketBody {
    TicketBody {
        origin_id: id.to_string(),
        client_origin_id: ticket.client_origin_id.to_string(),
        ticket_type: ticket.ticket_type.clone(),
        price_initial: ticket.price_initial.clone(),
        discount: ticket.discount.clone(),
        price_final: ticket.price_final.clone(),
        selling_date: ticket.selling_date,
        selling_branchoffice: ticket.selling_branchoffice.clone(),
        employee: ticket.employee.clone(),
        payment_method: ticket.payment_method.clone(),
    }
}

/// Returns the digest of a client's body; equal bodies need not be sent twice.
pub fn digest(body: &ClientBody) -> String {
    // A struct of texts always serialises.
    let json = serde_json::to_vec(body).unwrap_or_default();
    Sha256::digest(&json).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client {
            last_name: "Петров".into(),
            first_name: "Василий".into(),
            phone: "79261234567".into(),
            email: None,
            courses: vec!["10985".into()],
            branchoffices: vec!["2633".into()],
            birthdate: None,
            gender: "M".into(),
            additional_data: "Петров Иван".into(),
        }
    }

    #[test]
    fn the_digest_follows_every_field_and_the_id() {
        let id = |id| RecordId::try_new(id).unwrap();
        let of = |number, client: &Client| digest(&client_body(id(number), client));
        let first = of(1, &client());
        assert_eq!(first.len(), 64);
        assert_eq!(first, of(1, &client()));
        assert_ne!(first, of(2, &client()));
        assert_ne!(first, of(1, &Client { email: Some("a@example.com".into()), ..client() }));
        assert_ne!(first, of(1, &Client { courses: vec![], ..client() }));
    }
}
