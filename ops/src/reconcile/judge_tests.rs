use super::*;

const REFUSAL: &str = "Не заполнено поле «Телефон». Заполните его.";

fn id(number: u64) -> RecordId {
    RecordId::try_new(number).unwrap()
}

fn fields(value: Value) -> Fields {
    value.as_object().unwrap().clone()
}

fn client(last_name: &str) -> Fields {
    fields(json!({"origin_id": "5", "last_name": last_name, "phone": "79261234567"}))
}

fn ticket(contact: &str) -> Fields {
    fields(json!({"origin_id": "7", "client_origin_id": contact, "price_final": "8700.00"}))
}

fn contact(expected: Expected, claim: Claim) -> Case {
    let text = if claim.is_success() { SUCCESS } else { REFUSAL }.to_owned();
    let record = RecordRef::contact(id(5));
    Case { record, shown: Some(text.clone()), expected, claim, written: Some(text), is_remembered: false }
}

fn deal(expected: Expected, claim: Claim) -> Case {
    Case { record: RecordRef::deal(id(7)), ..contact(expected, claim) }
}

fn codes(case: &Case, target: Target, has_client: Option<bool>) -> Vec<Code> {
    judge(case, &target, has_client).into_iter().map(|found| found.code).collect()
}

#[test]
fn what_agrees_gives_no_finding() {
    let held = Expected::Held(client("Петров"));
    let there = || Target::Present(client("Петров"));
    let refused = || Expected::Refused(REFUSAL.into());
    for (case, target) in [
        (contact(held.clone(), Claim::InOtmechalka), there()),
        (contact(held.clone(), Claim::Success), there()),
        (contact(held, Claim::Refused(By::Otmechalka)), Target::Absent),
        (contact(Expected::OutOfScope, Claim::OutOfScope), Target::Absent),
        (contact(refused(), Claim::Refused(By::Mapping)), Target::Absent),
        (contact(refused(), Claim::Refused(By::Unknown)), Target::Absent),
        (deal(Expected::Held(ticket("5")), Claim::InOtmechalka), Target::Present(ticket("5"))),
        (deal(Expected::Held(ticket("5")), Claim::Refused(By::WantOfClient)), Target::Absent),
        (deal(refused(), Claim::Refused(By::Mapping)), Target::Absent),
        (deal(Expected::OutOfScope, Claim::OutOfScope), Target::Absent),
    ] {
        let has_client = Some(case.claim != Claim::Refused(By::WantOfClient));
        assert_eq!(codes(&case, target, has_client), [], "{case:?}");
    }
}

#[test]
fn a_success_that_otmechalka_lacks_is_missing() {
    for claim in [Claim::InOtmechalka, Claim::Success] {
        let case = contact(Expected::Held(client("Петров")), claim);
        assert_eq!(codes(&case, Target::Absent, None), [Code::Missing]);
        let case = deal(Expected::Refused(REFUSAL.into()), claim);
        assert_eq!(codes(&case, Target::Absent, None), [Code::Missing]);
    }
    let refused = contact(Expected::Refused(REFUSAL.into()), Claim::Refused(By::Mapping));
    let edit_refused = contact(Expected::Held(client("Петров")), Claim::Refused(By::Otmechalka));
    for lost in [refused, edit_refused] {
        let lost = Case { is_remembered: true, ..lost };
        let found = judge(&lost, &Target::Absent, None);
        assert_eq!((found[0].code, found[0].repair), (Code::Missing, super::super::found::Repair::ByHand));
    }
}

#[test]
fn fields_that_differ_are_named() {
    let case = contact(Expected::Held(client("Петров")), Claim::InOtmechalka);
    let found = judge(&case, &Target::Present(client("Сидоров")), None);
    assert_eq!((found[0].code, found[0].fields[0].field.as_str()), (Code::Differs, "last_name"));
    let mut other = ticket("5");
    other.insert("price_final".into(), json!("1.00"));
    let case = deal(Expected::Held(ticket("5")), Claim::InOtmechalka);
    assert_eq!(codes(&case, Target::Present(other), Some(true)), [Code::TicketDiffers]);
}

#[test]
fn a_ticket_without_its_client_is_found_whatever_else_differs() {
    let case = deal(Expected::Held(ticket("5")), Claim::InOtmechalka);
    let target = Target::Present(ticket("999"));
    assert_eq!(case.client_to_ask(&target), Some(id(999)));
    let found = judge(&case, &target, Some(false));
    assert_eq!((found.len(), found[0].code, found[0].other), (1, Code::NoClient, Some(id(999))));
}

#[test]
fn a_ticket_whose_deal_is_refused_is_asked_about() {
    let case = deal(Expected::Refused(REFUSAL.into()), Claim::InOtmechalka);
    let target = Target::Present(ticket("5"));
    assert_eq!(codes(&case, target.clone(), Some(true)), [Code::TicketRefused]);
    assert_eq!(codes(&case, target.clone(), Some(false)), [Code::NoClient]);
    let mut refused = deal(Expected::Refused(REFUSAL.into()), Claim::Refused(By::Mapping));
    refused.is_remembered = true;
    assert_eq!(codes(&refused, target, Some(true)), [Code::TicketRefused]);
}

#[test]
fn what_otmechalka_has_of_a_refused_record_is_asked_about() {
    let there = || Target::Present(client("Чужой"));
    let refused = || Expected::Refused(REFUSAL.into());
    for is_remembered in [false, true] {
        for expected in [refused(), Expected::Held(client("Петров"))] {
            for by in [By::Otmechalka, By::Unknown] {
                let case = Case { is_remembered, ..contact(expected.clone(), Claim::Refused(by)) };
                assert_eq!(codes(&case, there(), None), [Code::Extra], "{case:?}");
            }
        }
    }
    let by_hand = Target::Present(ticket("5"));
    assert_eq!(codes(&deal(refused(), Claim::Refused(By::Mapping)), by_hand, Some(true)), [Code::Extra]);
    // Whatever else is found about it.
    let outdated = contact(refused(), Claim::InOtmechalka);
    assert_eq!(codes(&outdated, there(), None), [Code::Outdated, Code::Extra]);
    let mut lied = contact(refused(), Claim::Refused(By::Mapping));
    lied.shown = Some(SUCCESS.into());
    assert_eq!(codes(&lied, there(), None), [Code::Extra, Code::FalseSuccess]);
}

#[test]
fn a_refusal_that_no_longer_holds_is_outdated() {
    let held = || Expected::Held(ticket("5"));
    let waiting = deal(held(), Claim::Refused(By::WantOfClient));
    assert_eq!(codes(&waiting, Target::Absent, Some(true)), [Code::Outdated]);
    assert_eq!(codes(&deal(held(), Claim::Refused(By::Mapping)), Target::Absent, None), [Code::Outdated]);
    let refused = || Expected::Refused("Другая ошибка.".into());
    for claim in [Claim::Refused(By::Mapping), Claim::InOtmechalka, Claim::OutOfScope] {
        assert_eq!(codes(&contact(refused(), claim), Target::Absent, None), [Code::Outdated]);
    }
}

#[test]
fn what_otmechalka_has_of_a_record_that_does_not_concern_it_is_extra() {
    let there = || Target::Present(client("Петров"));
    for claim in [Claim::OutOfScope, Claim::Success] {
        let case = contact(Expected::OutOfScope, claim);
        assert_eq!(codes(&case, there(), None), [Code::Extra]);
    }
    for claim in [Claim::OutOfScope, Claim::InOtmechalka] {
        let case = deal(Expected::OutOfScope, claim);
        assert_eq!(codes(&case, Target::Present(ticket("5")), Some(true)), [Code::Extra]);
    }
    // Sent round again it is told as what it is now; what is left behind in otmechalka is extra then.
    assert_eq!(codes(&contact(Expected::OutOfScope, Claim::InOtmechalka), there(), None), [Code::Outdated]);
}

#[test]
fn a_status_that_lies_is_found() {
    let held = || Expected::Held(client("Петров"));
    let there = || Target::Present(client("Петров"));
    let mut case = contact(held(), Claim::InOtmechalka);
    case.shown = Some("Ошибка".into());
    assert_eq!(codes(&case, there(), None), [Code::FalseError]);
    case.shown = Some(String::new());
    assert_eq!(codes(&case, there(), None), [Code::StatusDiffers]);
    case.shown = None;
    assert_eq!(codes(&case, there(), None), []);
    let mut case = contact(Expected::Refused(REFUSAL.into()), Claim::Refused(By::Mapping));
    case.shown = Some(SUCCESS.into());
    assert_eq!(codes(&case, Target::Absent, None), [Code::FalseSuccess]);
    // otmechalka refused it once, and has it all the same.
    let case = contact(held(), Claim::Refused(By::Otmechalka));
    assert_eq!(codes(&case, there(), None), [Code::FalseError]);
}

#[test]
fn who_refused_is_read_from_the_codes() {
    let of = |code: &str| Claim::of_result(Outcome::Refused, &[code.to_owned()]);
    for code in ["client.missing", "client.out_of_scope", "client.not_read", "client.lost"] {
        assert_eq!(of(code), Claim::Refused(By::WantOfClient));
    }
    assert_eq!(of("otmechalka.refused"), Claim::Refused(By::Otmechalka));
    assert_eq!(of("phone.missing"), Claim::Refused(By::Mapping));
    assert_eq!(Claim::of_result(Outcome::AlreadyThere, &[]), Claim::InOtmechalka);
}
