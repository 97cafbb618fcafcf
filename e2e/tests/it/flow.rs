//! The flow without faults: what a school sees on a good day.

use anyhow::Context;
use e2e::{School, SchoolBuilder, Stage};
use serde_json::{Value, json};

/// Code of the status field in the simulated portal.
const STATUS: &str = "UF_CRM_SYNC_STATUS";

/// Returns a contact that maps without a problem.
pub fn good_contact() -> Value {
    json!({
        "NAME": "Елена", "LAST_NAME": "Берёзкина",
        "UF_CRM_57AD7FAF7E6C4": "Берёзкин", "UF_CRM_1608028374": "Артём",
        "PHONE": [{"VALUE": "8 (926) 555-01-02", "VALUE_TYPE": "MOBILE"}],
        "UF_CRM_58D15BB9CA8F4": [410], "UF_CRM_1470852549": [48],
    })
}

/// Returns a won deal of a contact that maps without a problem, apart from its product row.
pub fn good_deal(contact: u64) -> Value {
    json!({
        "TITLE": "Абонемент", "STAGE_ID": "WON", "CURRENCY_ID": "RUB", "OPPORTUNITY": "8700.00",
        "CONTACT_ID": contact.to_string(), "ASSIGNED_BY_ID": "12288",
        "UF_CRM_58D1057919A6F": "2026-01-13T03:00:00+03:00",
        "UF_CRM_1470852549": [186], "UF_CRM_1490347942": "451",
    })
}

/// Returns the product row of such a deal.
pub fn good_rows() -> Value {
    json!([{
        "PRODUCT_NAME": "6 КМС индивидуальные 45 мин", "PRICE": 8700, "PRICE_EXCLUSIVE": 8700, "PRICE_NETTO": 9000,
        "PRICE_BRUTTO": 9000, "QUANTITY": 1, "DISCOUNT_SUM": 300, "DISCOUNT_TYPE_ID": 1, "TAX_RATE": 0,
    }])
}

/// Lets the portal's clock run faster, so that a test of many polls does not wait for the portal's request limit.
pub fn fast(school: SchoolBuilder) -> SchoolBuilder {
    school.bitrix24(&["--clock-speed", "5"]).env("PORTAL_CLOCK_SPEED", "5")
}

/// Returns what the status field of a record holds.
pub async fn status_of(school: &School, entity: &str, id: u64) -> anyhow::Result<String> {
    let record = school.bitrix24.record(entity, id).await?;
    Ok(record[STATUS].as_str().unwrap_or_default().to_owned())
}

/// Returns the client with this origin id.
pub async fn client(school: &School, origin: u64) -> anyhow::Result<Option<Value>> {
    Ok(find(&school.otmechalka.state().await?["clients"], origin))
}

/// Returns the ticket with this origin id.
pub async fn ticket(school: &School, origin: u64) -> anyhow::Result<Option<Value>> {
    Ok(find(&school.otmechalka.state().await?["tickets"], origin))
}

fn find(list: &Value, origin: u64) -> Option<Value> {
    let items = list.as_array()?;
    items.iter().find(|item| item["origin_id"].as_str() == Some(&origin.to_string())).cloned()
}

/// Counts calls to otmechalka that wrote something.
pub async fn writes(school: &School) -> anyhow::Result<usize> {
    let history = school.otmechalka.history().await?;
    let calls = history["history"].as_array().or_else(|| history.as_array()).cloned().unwrap_or_default();
    Ok(calls.iter().filter(|call| call["method"] == "POST" && call["applied"] == true).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_school_ends_as_the_oracle_says_and_then_is_silent() -> anyhow::Result<()> {
    let school = School::builder().demo(400, 600, 1).start().await?;
    school.caught_up().await?;
    school.assert_consistent().await?;

    school.bitrix24.reset_requests().await?;
    let before = writes(&school).await?;
    school.after_polls(10).await?;
    let requests = school.bitrix24.requests().await?;
    assert_eq!(requests["updates"], 0, "{requests}");
    assert_eq!(requests["refused_503"], 0, "{requests}");
    assert_eq!(writes(&school).await?, before);
    // Nothing is asked for but what polls ask for: the lists, and what completes the deals that the overlap shows again.
    let commands = requests["commands"].as_object().context("counted commands")?;
    let polls = ["crm.contact.list", "crm.deal.list", "crm.item.productrow.list", "user.get"];
    assert!(
        !commands.is_empty() && commands.keys().all(|method| polls.contains(&method.as_str())),
        "{requests}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_reaches_otmechalka_and_going_back_does_too() -> anyhow::Result<()> {
    let school = School::builder().start().await?;
    let id = school.bitrix24.create_contact(good_contact()).await?;
    for surname in ["Берёзкин", "Осинкин", "Берёзкин"] {
        school.bitrix24.edit("contact", id, json!({"UF_CRM_57AD7FAF7E6C4": surname})).await?;
        school.caught_up().await?;
        assert_eq!(client(&school, id).await?.unwrap()["last_name"], surname);
        assert_eq!(status_of(&school, "contact", id).await?, "Успешно");
    }
    school.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_is_told_once_and_its_correction_goes_through() -> anyhow::Result<()> {
    let school = School::builder().start().await?;
    let mut contact = good_contact();
    contact["PHONE"] = json!([]);
    let id = school.bitrix24.create_contact(contact).await?;
    school.caught_up().await?;
    let told = status_of(&school, "contact", id).await?;
    assert!(told.contains("елефон"), "{told}");
    assert_eq!(client(&school, id).await?, None);

    // A change that leaves the mistake as it is gives the same text, so nothing is written.
    school.bitrix24.reset_requests().await?;
    school.bitrix24.edit("contact", id, json!({"UF_CRM_1608028374": "Тимофей"})).await?;
    school.caught_up().await?;
    assert_eq!(school.bitrix24.requests().await?["updates"], 0);

    school.bitrix24.edit("contact", id, json!({"PHONE": [{"VALUE": "+7 926 555 01 02"}]})).await?;
    school.caught_up().await?;
    assert_eq!(status_of(&school, "contact", id).await?, "Успешно");
    assert_eq!(client(&school, id).await?.unwrap()["phone"], "79265550102");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clearing_the_status_by_hand_is_a_try_again() -> anyhow::Result<()> {
    let school = School::builder().start().await?;
    let id = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    let before = writes(&school).await?;
    school.bitrix24.edit("contact", id, json!({STATUS: ""})).await?;
    school.caught_up().await?;
    assert_eq!(status_of(&school, "contact", id).await?, "Успешно");
    assert_eq!(writes(&school).await?, before + 1, "the client is really sent again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_follows_its_corrected_pupil_by_itself() -> anyhow::Result<()> {
    let school = School::builder().start().await?;
    let mut contact = good_contact();
    contact["PHONE"] = json!([]);
    let pupil = school.bitrix24.create_contact(contact).await?;
    let deal = school.bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
    school.caught_up().await?;
    assert_ne!(status_of(&school, "deal", deal).await?, "Успешно");
    assert_eq!(ticket(&school, deal).await?, None);

    school.bitrix24.edit("contact", pupil, json!({"PHONE": [{"VALUE": "+7 926 555 01 02"}]})).await?;
    school.caught_up().await?;
    assert_eq!(status_of(&school, "deal", deal).await?, "Успешно");
    assert_eq!(ticket(&school, deal).await?.unwrap()["client_origin_id"], pupil.to_string());
    school.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_left_alone_once_it_is_there() -> anyhow::Result<()> {
    let school = School::builder().start().await?;
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    let deal = school.bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
    school.caught_up().await?;
    let first = ticket(&school, deal).await?.unwrap();
    let mut rows = good_rows();
    rows[0]["PRICE"] = json!(8000);
    rows[0]["PRICE_EXCLUSIVE"] = json!(8000);
    rows[0]["DISCOUNT_SUM"] = json!(1000);
    school.bitrix24.set_rows(deal, rows).await?;
    school.caught_up().await?;
    assert_eq!(ticket(&school, deal).await?.unwrap(), first);
    assert_eq!(status_of(&school, "deal", deal).await?, "Успешно");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_outside_the_selection_is_untouched() -> anyhow::Result<()> {
    let mut school = School::builder().open().await?;
    let old = school.bitrix24.create_contact(good_contact()).await?;
    school.bitrix24.created_at("contact", old, "2020-12-21T23:59:59+03:00").await?;
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    let mut lost = good_deal(pupil);
    lost["STAGE_ID"] = json!("LOSE");
    let lost = school.bitrix24.create_deal(lost, good_rows()).await?;
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    school.caught_up().await?;
    assert_eq!(status_of(&school, "deal", lost).await?, "");
    assert_eq!(status_of(&school, "contact", old).await?, "");
    assert_eq!(client(&school, old).await?, None);
    assert!(client(&school, pupil).await?.is_some());
    school.assert_consistent().await
}
