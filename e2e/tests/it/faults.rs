//! The flow under faults: what holds when something breaks.

use std::time::Duration;

use anyhow::Context;
use e2e::harness::{Mended, Tally, judge};
use e2e::{School, Stage, eventually};
use serde_json::json;

use crate::flow::{client, good_contact, good_deal, good_rows, status_of, ticket, writes};

#[tokio::test(flavor = "multi_thread")]
async fn the_state_folder_may_be_deleted_at_any_time() -> anyhow::Result<()> {
    let mut school = School::builder().demo(60, 80, 3).start().await?;
    school.caught_up().await?;
    let before = (writes(&school).await?, school.messages("B24_RAW").await?);
    for stage in Stage::ALL {
        school.stage(stage)?.kill().await?;
    }
    std::fs::remove_dir_all(school.state_dir())?;
    school.bitrix24.reset_requests().await?;
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    school.caught_up().await?;
    assert_eq!((writes(&school).await?, school.messages("B24_RAW").await?), before);
    assert_eq!(school.bitrix24.requests().await?["updates"], 0);
    judge::judge(&school, &Tally::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_otmechalka_is_down_no_status_changes_and_then_everything_arrives() -> anyhow::Result<()> {
    let school = School::builder().brisk().start().await?;
    school.otmechalka.fault(json!({"kind": "down_503"})).await?;
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    let deal = school.bitrix24.create_deal(good_deal(pupil), good_rows()).await?;
    eventually("the commands", e2e_patience(), || async {
        Ok((school.messages("CRM_CMD").await? >= 2).then_some(()))
    })
    .await?;
    school.after_polls(5).await?;
    assert_eq!(status_of(&school, "contact", pupil).await?, "");
    assert_eq!(status_of(&school, "deal", deal).await?, "");

    school.otmechalka.heal().await?;
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    assert_eq!(status_of(&school, "deal", deal).await?, "Успешно");
    assert!(ticket(&school, deal).await?.is_some());
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_marks_nobody_and_work_resumes_when_it_is_put_right() -> anyhow::Result<()> {
    let school = School::builder().brisk().start().await?;
    school.otmechalka.fault(json!({"kind": "unauthorized_401", "count": 3})).await?;
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    eventually("the alarm", e2e_patience(), || async {
        Ok(school.logs()?.contains("refuses the token").then_some(()))
    })
    .await?;
    assert_eq!(status_of(&school, "contact", pupil).await?, "");
    school.otmechalka.heal().await?;
    school.caught_up().await?;
    assert_eq!(status_of(&school, "contact", pupil).await?, "Успешно");
    judge::judge(&school, &Tally::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_create_makes_no_second_client() -> anyhow::Result<()> {
    let school = School::builder().brisk().start().await?;
    school.otmechalka.fault(json!({"kind": "reset_after_apply", "method": "POST", "count": 1})).await?;
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    assert!(client(&school, pupil).await?.is_some());
    judge::judge(&school, &Tally::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_otmechalka_says_of_a_record_is_told_and_the_others_pass() -> anyhow::Result<()> {
    let school = School::builder().brisk().start().await?;
    let bad = school.bitrix24.create_contact(good_contact()).await?;
    school
        .otmechalka
        .fault(json!({"kind": "validation_400", "method": "POST", "origin_id": bad.to_string()}))
        .await?;
    let good = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    let told = status_of(&school, "contact", bad).await?;
    assert!(!told.is_empty() && told != "Успешно", "{told}");
    assert_eq!(status_of(&school, "contact", good).await?, "Успешно");
    judge::judge(&school, &Tally::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn history_tells_each_answer_of_otmechalka_to_a_record_that_it_cannot_take() -> anyhow::Result<()> {
    let school = School::builder().brisk().start().await?;
    let sick = school.bitrix24.create_contact(good_contact()).await?;
    school.otmechalka.fault(json!({"kind": "internal_500", "origin_id": sick.to_string()})).await?;
    let good = school.bitrix24.create_contact(good_contact()).await?;
    let arguments = ["history", "contact", &sick.to_string()];
    eventually("a try that was answered 500", e2e_patience(), || async {
        Ok(school.rollcall(&arguments).await?.out.contains("500, not well").then_some(()))
    })
    .await?;
    assert_eq!(status_of(&school, "contact", sick).await?, "");

    school.otmechalka.heal().await?;
    school.caught_up().await?;
    assert_eq!(status_of(&school, "contact", sick).await?, "Успешно");
    assert_eq!(status_of(&school, "contact", good).await?, "Успешно");
    let told = school.rollcall(&arguments).await?.out;
    let answered = told.find("500, not well").context("the answer is kept")?;
    assert!(told[answered..].contains("otmechalka: created"), "{told}");
    judge::judge(&school, &Tally::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ill_bitrix24_opens_no_gap() -> anyhow::Result<()> {
    let school = School::builder().start().await?;
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    for kind in [
        "html_502",
        "php_fatal_500",
        "error_under_200",
        "result_null",
        "garbage",
        "truncated",
        "reset_before",
    ] {
        school.bitrix24.fault(json!({"kind": kind, "count": 2})).await?;
        school
            .bitrix24
            .edit("contact", pupil, json!({"UF_CRM_1608028374": format!("Артём {}", kind.len())}))
            .await?;
        school.caught_up().await?;
        school.bitrix24.heal().await?;
        school.assert_consistent().await?;
    }
    judge::judge(&school, &Tally::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_stops_on_sigterm_and_hands_over() -> anyhow::Result<()> {
    let mut school = School::builder().demo(60, 80, 11).start().await?;
    eventually("work in flight", e2e_patience(), || async {
        Ok((school.messages("B24_STATUS").await? > 0).then_some(()))
    })
    .await?;
    for stage in Stage::ALL {
        assert_eq!(school.stage(stage)?.stop().await?, 0, "{stage:?}");
        school.start(stage)?;
    }
    school.caught_up().await?;
    judge::judge(&school, &Tally::default()).await
}

fn e2e_patience() -> Duration {
    Duration::from_secs(60)
}
