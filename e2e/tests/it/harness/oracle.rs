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
    /// Statuses that were written into the contact, in order.
    written: Vec<&'static str>,
    /// Has the contact say less at first than it takes.
    is_completed_later: bool,
    /// The last call of otmechalka that a witness saw by the last of these statuses, if one looked.
    seen: Option<u64>,
}

impl Crms {
    fn right() -> Crms {
        Crms {
            ticket_price: 8_700,
            deal_status: SUCCESS,
            contact_status: SUCCESS,
            answers: vec![200],
            written: vec![SUCCESS],
            is_completed_later: false,
            seen: None,
        }
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
        let creates = (1..).zip(&self.answers).map(|(seq, status)| {
            let applied = *status == 200;
            json!({"seq": seq, "method": "POST", "path": "/api/clients/", "origin_id": "5", "status": status,
                   "applied": applied, "body": client, "fault": null, "admin": false})
        });
        let mut incomplete = contact.clone();
        if self.is_completed_later {
            incomplete["PHONE"] = json!([]);
        }
        let mut history = vec![
            json!({"seq": 1, "origin": "human", "method": "crm.contact.add", "entity": "contact", "id": 5, "record": incomplete}),
            json!({"seq": 2, "origin": "human", "method": "crm.deal.add", "entity": "deal", "id": 7, "record": deal}),
            json!({"seq": 3, "origin": "human", "method": "crm.deal.productrows.set", "entity": "deal", "id": 7,
                   "before": people::rows(8_700), "fields": people::rows(8_000)}),
            json!({"seq": 4, "origin": "human", "method": "crm.contact.update", "entity": "contact", "id": 5, "record": contact}),
        ];
        for (seq, text) in (5..).zip(&self.written) {
            let fields = json!({people::STATUS: text});
            history.push(
                json!({"seq": seq, "origin": "rest", "method": "crm.contact.update", "entity": "contact",
                "id": 5, "applied": true, "fields": fields}),
            );
        }
        let input = json!({
            "more": {
                "order": true,
                "successes": self.seen.map(|calls| json!([5, 4 + self.written.len(), calls])).into_iter().collect::<Vec<_>>(),
            },
            "bitrix24": {
                "contacts": [contact], "deals": [deal], "product_rows": {"7": people::rows(8_000)},
                "users": [{"ID": "12288", "NAME": "Василий", "LAST_NAME": "Василенко"}],
            },
            "otmechalka": {
                "clients": if is_there { vec![&client] } else { Vec::new() },
                "tickets": if is_there { vec![&ticket] } else { Vec::new() },
            },
            "otmechalka_history": {"history": creates.collect::<Vec<_>>()},
            "bitrix24_history": {"history": history},
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

#[tokio::test]
async fn every_status_that_was_written_is_judged_and_not_the_last_alone() -> anyhow::Result<()> {
    let right = |written: &[&'static str], is_completed_later| Crms {
        written: written.to_vec(),
        is_completed_later,
        ..Crms::right()
    };
    for (written, is_completed_later) in [
        (&[SUCCESS, SUCCESS][..], false),
        (&[REFUSAL, SUCCESS], true),
        (&[REFUSAL, REFUSAL, SUCCESS, SUCCESS], true),
    ] {
        let differences = right(written, is_completed_later).differences().await?;
        assert!(differences.is_empty(), "{written:?}: {differences:?}");
    }
    let mistaken = right(&[REFUSAL, SUCCESS], false).differences().await?;
    let error = format!("contact 5: was given the error '{REFUSAL}' by write");
    assert_eq!(mistaken, [format!("{error} 5, that no version calls for")]);
    let gone_back = right(&[SUCCESS, REFUSAL, SUCCESS], true).differences().await?;
    assert_eq!(gone_back, [format!("{error} 6, of a version before that of the last one")]);
    assert!(right(&[SUCCESS; 4], false).differences().await?.is_empty());
    let too_often = right(&[SUCCESS; 5], false).differences().await?;
    assert_eq!(too_often, ["contact 5: was given one status 5 times over 2 versions"]);
    let refused = Crms { answers: vec![400, 200], ..right(&[REFUSAL, SUCCESS], false) };
    assert!(refused.differences().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_success_is_judged_by_what_otmechalka_had_been_given_by_then() -> anyhow::Result<()> {
    // The third call is the first that is applied.
    let seen = |calls| Crms {
        answers: vec![503, 503, 200],
        written: vec![REFUSAL, SUCCESS],
        is_completed_later: true,
        seen: Some(calls),
        ..Crms::right()
    };
    assert!(seen(3).differences().await?.is_empty());
    let too_early = seen(2).differences().await?;
    assert_eq!(too_early, ["contact 5: was called a success by write 6, before otmechalka had that version"]);
    Ok(())
}
