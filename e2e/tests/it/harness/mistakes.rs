//! The harness must be able to fail: mistakes are planted, and each is found. The same scene without the mistake
//! passes, so that it is the mistake that is found.

use e2e::harness::{Tally, judge, people, witness::Witness};
use e2e::{PATIENCE, School, SchoolBuilder, Stage, eventually};
use runtime::faults::MISTAKE_VARIABLE;
use schemas::problem::SUCCESS;
use serde_json::json;

use super::{SHORT_ACK_WAIT, new_contact, rename, until_messages, until_success};
use crate::flow::{status_of, writes};

/// Plays a scene without and with a mistake; what is found with it must speak of `sign`.
async fn is_caught(
    mistake: &str,
    sign: &str,
    scene: impl AsyncFn(SchoolBuilder) -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<()> {
    let (sound, mistaken) =
        tokio::join!(scene(School::builder()), scene(School::builder().env(MISTAKE_VARIABLE, mistake)));
    let (sound, mistaken) = (sound?, mistaken?);
    assert!(sound.is_empty(), "without the mistake: {sound:?}");
    assert!(mistaken.iter().any(|finding| finding.contains(sign)), "with the mistake: {mistaken:?}");
    Ok(())
}

async fn findings(school: &School) -> anyhow::Result<Vec<String>> {
    school.caught_up().await?;
    judge::standing(school, &Tally::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_before_the_effect_is_caught() -> anyhow::Result<()> {
    is_caught("ack-before-effect", "is not in otmechalka", async |builder| {
        let mut school = builder.open().await?;
        school.shorten_ack_wait(SHORT_ACK_WAIT).await?;
        new_contact(&school).await?;
        for stage in [Stage::Producer, Stage::Mapper, Stage::StatusWriter] {
            school.start(stage)?;
        }
        school.doom(Stage::Pusher, "message-received").await?;
        school.until_dead(Stage::Pusher).await?;
        school.start(Stage::Pusher)?;
        findings(&school).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_before_the_publishes_are_acked_is_caught() -> anyhow::Result<()> {
    is_caught("checkpoint-before-publish", "is not in otmechalka", async |builder| {
        let mut school = builder.open().await?;
        // Out of reach of the overlap, which would make up for it.
        let yesterday = school.bitrix24.ago(24 * 60 * 60).await?;
        school.bitrix24.import_contact(people::contact(0), &yesterday).await?;
        school.doom(Stage::Producer, "before-publish").await?;
        school.until_dead(Stage::Producer).await?;
        for stage in Stage::ALL {
            school.start(stage)?;
        }
        findings(&school).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_later_than_instead_of_since_is_caught() -> anyhow::Result<()> {
    is_caught("later-instead-of-since", "is not in otmechalka", async |builder| {
        let mut school = builder.open().await?;
        let first_moment = "2020-12-22T00:00:00+03:00";
        school.bitrix24.import_contact(people::contact(0), first_moment).await?;
        for stage in Stage::ALL {
            school.start(stage)?;
        }
        findings(&school).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fingerprint_with_the_status_in_it_is_caught() -> anyhow::Result<()> {
    is_caught("fingerprint-with-status", "versions published", async |builder| {
        let school = builder.start().await?;
        let pupil = new_contact(&school).await?;
        until_success(&school, "contact", pupil).await?;
        findings(&school).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_without_a_look_after_a_lost_answer_is_caught() -> anyhow::Result<()> {
    is_caught("create-without-looking", "created 2 times", async |builder| {
        let school = builder.start().await?;
        school
            .otmechalka
            .fault(
                json!({"kind": "reset_after_apply", "method": "POST", "path": "/api/clients/", "count": 1}),
            )
            .await?;
        new_contact(&school).await?;
        findings(&school).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_of_a_record_in_flight_are_caught() -> anyhow::Result<()> {
    is_caught("two-versions-in-flight", "an older version was applied after a newer", async |builder| {
        let school = builder.start().await?;
        let pupil = new_contact(&school).await?;
        until_success(&school, "contact", pupil).await?;
        let calls = async || Ok::<_, anyhow::Error>(school.otmechalka.requests().await?["total"].as_u64());
        let before = calls().await?;
        // The next call takes its time, those after it do not.
        school.otmechalka.set(json!({"latency_ms": 4_000})).await?;
        rename(&school, pupil, 1).await?;
        eventually("the call", PATIENCE, || async { Ok((calls().await? > before).then_some(())) }).await?;
        school.otmechalka.set(json!({"latency_ms": 0})).await?;
        rename(&school, pupil, 2).await?;
        eventually("both", PATIENCE, || async { Ok((writes(&school).await? >= 3).then_some(())) }).await?;
        findings(&school).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_before_otmechalkas_answer_is_caught() -> anyhow::Result<()> {
    is_caught("success-before-answer", "before otmechalka had it", async |builder| {
        let school = builder.start().await?;
        let witness = Witness::of(&school);
        while_otmechalka_is_down(&school, witness, "", async || new_contact(&school).await).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_while_otmechalka_has_an_older_version_is_caught() -> anyhow::Result<()> {
    is_caught("success-before-answer", "before otmechalka had that version", async |builder| {
        let school = builder.start().await?;
        let witness = Witness::of(&school);
        let pupil = new_contact(&school).await?;
        until_success(&school, "contact", pupil).await?;
        school.bitrix24.edit("contact", pupil, json!({people::SURNAME: ""})).await?;
        let refusal = eventually("its refusal", PATIENCE, || async {
            Ok(Some(status_of(&school, "contact", pupil).await?).filter(|status| status != SUCCESS))
        })
        .await?;
        while_otmechalka_is_down(&school, witness, &refusal, async || {
            rename(&school, pupil, 1).await?;
            Ok(pupil)
        })
        .await
    })
    .await
}

/// Plays an edit of a pupil while otmechalka takes nothing, up to the status that must not come in place of `shown`, and
/// returns what is found when otmechalka is well again.
async fn while_otmechalka_is_down(
    school: &School,
    witness: Witness,
    shown: &str,
    edit: impl AsyncFn() -> anyhow::Result<u64>,
) -> anyhow::Result<Vec<String>> {
    let (commands, results) = (school.messages("CRM_CMD").await?, school.messages("CRM_RESULT").await?);
    school.otmechalka.fault(json!({"kind": "down_503"})).await?;
    let pupil = edit().await?;
    until_messages(school, "CRM_CMD", commands + 1).await?;
    school.after_polls(5).await?;
    if school.messages("CRM_RESULT").await? > results {
        eventually("its status", PATIENCE, || async {
            Ok((status_of(school, "contact", pupil).await? != shown).then_some(()))
        })
        .await?;
    }
    let testimony = witness.tell().await?;
    school.otmechalka.heal().await?;
    school.caught_up().await?;
    judge::standing(school, &Tally { testimony, ..Tally::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_told_by_who_modified_the_record_is_caught() -> anyhow::Result<()> {
    is_caught("echo-by-modifier", "last_name differs", async |builder| {
        let mut school = builder.open().await?;
        let pupil = new_contact(&school).await?;
        school.start(Stage::Producer)?;
        school.start(Stage::Mapper)?;
        until_messages(&school, "CRM_CMD", 1).await?;
        // The status of the first version is written over an edit that no poll has seen yet.
        school.stage(Stage::Producer)?.kill().await?;
        rename(&school, pupil, 1).await?;
        school.start(Stage::Pusher)?;
        school.start(Stage::StatusWriter)?;
        until_success(&school, "contact", pupil).await?;
        school.start(Stage::Producer)?;
        findings(&school).await
    })
    .await
}
