//! What is sent to otmechalka, field by field as its specification spells it.
//!
//! `Debug` shows the origin id only: these are names and telephone numbers of children.

use std::fmt;

use chrono::NaiveDate;
use serde::Serialize;

/// A pupil as otmechalka takes it, for a create and for an update.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct ClientBody {
    /// Id of the contact in Bitrix24, the key of every later lookup.
    pub origin_id: String,
    pub last_name: String,
    pub first_name: String,
    /// Digits only.
    pub phone: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Ids of the courses, or their titles where no id is known.
    pub courses: Vec<String>,
    /// Ids of the branch offices, or their titles where no id is known.
    pub branchoffices: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub birthdate: Option<NaiveDate>,
    /// `M` or `F`.
    pub gender: String,
    /// Surname and first name of the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub additional_data: Option<String>,
}

/// A paid ticket as otmechalka takes it.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct TicketBody {
    /// Id of the deal in Bitrix24, the key of every later lookup.
    pub origin_id: String,
    /// Id of the contact in Bitrix24.
    pub client_origin_id: String,
    /// Title of the ticket type, spelled as in otmechalka.
    pub ticket_type: String,
    /// Roubles with two decimals, as all three amounts.
    pub price_initial: String,
    pub discount: String,
    pub price_final: String,
    pub selling_date: NaiveDate,
    pub selling_branchoffice: String,
    /// First name and surname of the seller.
    pub employee: String,
    /// `CASH` or `ONLINE`.
    pub payment_method: String,
}

impl fmt::Debug for ClientBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBody").field("origin_id", &self.origin_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for TicketBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketBody").field("origin_id", &self.origin_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn client_is_written_as_the_specification_shows_it() {
        let body = ClientBody {
            origin_id: "39558".to_owned(),
            last_name: "Петров".to_owned(),
            first_name: "Василий".to_owned(),
            phone: "79261234567".to_owned(),
            email: Some("roditel@example.com".to_owned()),
            courses: vec!["10985".to_owned(), "10986".to_owned()],
            branchoffices: vec!["2633".to_owned()],
            birthdate: NaiveDate::from_ymd_opt(2009, 11, 29),
            gender: "M".to_owned(),
            additional_data: Some("Петров Иван".to_owned()),
        };
        let expected = json!({
            "origin_id": "39558", "last_name": "Петров", "first_name": "Василий", "phone": "79261234567",
            "email": "roditel@example.com", "courses": ["10985", "10986"], "branchoffices": ["2633"],
            "birthdate": "2009-11-29", "gender": "M", "additional_data": "Петров Иван",
        });
        assert_eq!(serde_json::to_value(&body).expect("a plain struct"), expected);

        let bare = ClientBody { email: None, birthdate: None, additional_data: None, ..body };
        let written = serde_json::to_value(&bare).expect("a plain struct");
        for absent in ["email", "birthdate", "additional_data"] {
            assert!(written.get(absent).is_none(), "{absent} is left out, not null");
        }
        assert_eq!(format!("{bare:?}"), r#"ClientBody { origin_id: "39558", .. }"#);
    }

    #[test]
    fn ticket_is_written_as_the_specification_shows_it() {
        let body = TicketBody {
            origin_id: "24545676786".to_owned(),
            client_origin_id: "39558".to_owned(),
            ticket_type: "6 КМС индивидуальные 45 мин".to_owned(),
            price_initial: "9000.00".to_owned(),
            discount: "300.00".to_owned(),
            price_final: "8700.00".to_owned(),
            selling_date: NaiveDate::from_ymd_opt(2009, 11, 29).expect("a date"),
            selling_branchoffice: "2633".to_owned(),
            employee: "Андрей Сергеев".to_owned(),
            payment_method: "ONLINE".to_owned(),
        };
        let expected = json!({
            "origin_id": "24545676786", "client_origin_id": "39558",
            "ticket_type": "6 КМС индивидуальные 45 мин", "price_initial": "9000.00", "discount": "300.00",
            "price_final": "8700.00", "selling_date": "2009-11-29", "selling_branchoffice": "2633",
            "employee": "Андрей Сергеев", "payment_method": "ONLINE",
        });
        assert_eq!(serde_json::to_value(&body).expect("a plain struct"), expected);
        assert_eq!(format!("{body:?}"), r#"TicketBody { origin_id: "24545676786", .. }"#);
    }
}
