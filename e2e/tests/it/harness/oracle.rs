//! The oracle must be able to fail: it is told of CRMs that hold what they must not.

use e2e::harness::people;
use e2e::oracle;
use schemas::problem::SUCCESS;
use serde_json::{Value, json};

const REFUSAL: &str = "Отмечалка не приняла запись";

/// Both CRMs with one pupil, whose deal was won at 8,700 roubles and repriced to 8,000 afterwards.
struct Crms {
    ticket_price: u32,
    deal_status: &'static str,
    contact_status: &'static str,
    /// Answers to the create of the client, in order; with a last one of 200 the client is there.
    answers: Vec<u64>,
}

impl Crms {
    fn right() -> Crms {
        Crms { ticket_price: 8_700, deal_status: SUCCESS, contact_status: SUCCESS, answers: vec![200] }
    }

    async fn differences(&self) -> anyhow::Result<Vec<String>> {
        let dated = |mut record: Value, id: u64, status: &str| {
            record["ID"] = json!(id.to_string());
            record[people::STATUS] = json!(status);
            record["DATE_CREATE"] = json!("2026-01-12T12:00:00+03:00");
            record["DATE_MODIFY"] = json!("2026-01-13T12:00:00+03:00");
            record
        };
        let contact = dated(people::contact(0), 5, self.contact_status);
        let deal = dated(people::deal(5, true), 7, self.deal_status);
        let is_there = self.answers.last() == Some(&200);
        let client = json!({
            "origin_id": "5", "last_name": people::surname(0), "first_name": "Артём", "phone": "79265550102",
            "courses": ["10985", "10986"], "branchoffices": ["2633"], "gender": "M",
            "additional_data": "Берёзкина Елена",
        });
        let ticket = json!({
            "origin_id": "7", "client_origin_id": "5", "ticket_type": "6 КМС индивидуальные 45 мин",
            "price_initial": "9000.00", "discount": format!("{}.00", 9_000 - self.ticket_price),
            "price_final": format!("{}.00", self.ticket_price), "selling_date": "2026-01-13",
            "selling_branchoffice": "+ ЦДШ `МСК", "employee": "Василий Василенко", "payment_method": "ONLINE",
        });
        let creates = self.answers.iter().map(|status| {
            let applied = *status == 200;
            json!({"method": "POST", "path": "/api/clients/", "origin_id": "5", "status": status,
                   "applied": applied, "body": client, "fault": null, "admin": false})
        });
        let input = json!({
            "more": {"order": true},
            "bitrix24": {
                "contacts": [contact], "deals": [deal], "product_rows": {"7": people::rows(8_000)},
                "users": [{"ID": "12288", "NAME": "Василий", "LAST_NAME": "Василенко"}],
            },
            "otmechalka": {
                "clients": if is_there { vec![&client] } else { Vec::new() },
                "tickets": if is_there { vec![&ticket] } else { Vec::new() },
            },
            "otmechalka_history": {"history": creates.collect::<Vec<_>>()},
            "bitrix24_history": {"history": [
                {"seq": 1, "origin": "human", "method": "crm.contact.add", "entity": "contact", "id": 5, "record": contact},
                {"seq": 2, "origin": "human", "method": "crm.deal.add", "entity": "deal", "id": 7, "record": deal},
                {"seq": 3, "origin": "human", "method": "crm.deal.productrows.set", "entity": "deal", "id": 7,
                 "before": people::rows(8_700), "fields": people::rows(8_000)},
            ]},
            "settings": {
                "sync_start_date": "2020-12-22", "contacts_since": "2020-12-22", "deals_since": "2020-12-22",
                "status_field": people::STATUS,
            },
        });
        oracle::differences(&input).await
    }
}

#[tokio::test]
async fn a_ticket_must_be_that_of_a_version_of_its_deal() -> anyhow::Result<()> {
    for ticket_price in [8_700, 8_000] {
        let differences = Crms { ticket_price, ..Crms::right() }.differences().await?;
        assert!(differences.is_empty(), "{ticket_price}: {differences:?}");
    }
    let differences = Crms { ticket_price: 8_300, ..Crms::right() }.differences().await?;
    assert_eq!(differences, ["deal 7: the ticket is that of no version"]);
    Ok(())
}

#[tokio::test]
async fn only_a_refusal_of_the_record_itself_is_a_reason_to_mark_it() -> anyhow::Result<()> {
    let marked = |answers: &[u64]| Crms {
        contact_status: REFUSAL,
        deal_status: REFUSAL,
        answers: answers.to_vec(),
        ..Crms::right()
    };
    let differences = marked(&[400]).differences().await?;
    assert!(differences.is_empty(), "{differences:?}");
    for status in [401, 403, 404, 429, 500, 503] {
        let differences = marked(&[status]).differences().await?;
        let sign = "contact 5: status is not the success: an error text";
        assert!(differences.iter().any(|difference| difference == sign), "{status}: {differences:?}");
    }
    let differences = Crms { deal_status: REFUSAL, ..Crms::right() }.differences().await?;
    assert_eq!(differences, ["deal 7: status is not the success: an error text"]);
    Ok(())
}
