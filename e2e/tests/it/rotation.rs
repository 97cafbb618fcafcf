//! Every secret is replaced during a run, by nothing but its file, and no record is lost.

use std::path::Path;
use std::time::Duration;

use e2e::{School, Stage, eventually};
use serde_json::json;

use crate::flow::{client, good_contact, status_of};

const PATIENCE: Duration = Duration::from_secs(90);

const OLD: [&str; 2] = ["0ldc0de0123456789", "old-token-of-the-school"];
const NEW: [&str; 2] = ["n3wc0de9876543210", "new-token-of-the-school"];

/// Replaces a file in one step, as whoever rotates a secret should.
fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let beside = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    std::io::Write::write_all(&mut file, format!("{text}\n").as_bytes())?;
    Ok(std::fs::rename(beside, path)?)
}

/// Waits until a stage has said something so often.
async fn said(school: &School, stage: Stage, words: &str, times: usize) -> anyhow::Result<()> {
    let path = school.log_file(stage);
    eventually(&format!("{stage:?} says {words:?} {times} times"), PATIENCE, || async {
        Ok((std::fs::read_to_string(&path)?.matches(words).count() >= times).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_secret_is_replaced_during_a_run_without_a_restart_or_a_lost_record() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (webhook, token) = (folder.path().join("webhook"), folder.path().join("token"));
    let mut school = School::builder()
        .guarded(&[])
        .env("BITRIX24_WEBHOOK_URL_FILE", &webhook.display().to_string())
        .env("OTMECHALKA_TOKEN_FILE", &token.display().to_string())
        .bitrix24(&["--secret", OLD[0]])
        .otmechalka(&["--token", OLD[1]])
        .open()
        .await?;
    let address = school.bitrix24.webhook_url.clone();
    put(&webhook, &address)?;
    put(&token, OLD[1])?;
    school.set_env("BITRIX24_WEBHOOK_URL", "");
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    let mut pupils = vec![school.bitrix24.create_contact(good_contact()).await?];
    school.caught_up().await?;

    // The files first, then the other side: nobody meets a refusal without the new secret at hand.
    put(&webhook, &address.replace(OLD[0], NEW[0]))?;
    put(&token, NEW[1])?;
    pupils.push(school.bitrix24.create_contact(good_contact()).await?);
    school.bitrix24.set(json!({"secret": NEW[0]})).await?;
    school.otmechalka.set(json!({"token": NEW[1]})).await?;
    pupils.push(school.bitrix24.create_contact(good_contact()).await?);
    said(&school, Stage::Producer, "going on with the new one", 1).await?;
    said(&school, Stage::Pusher, "going on with the new one", 1).await?;
    school.caught_up().await?;

    // All users of NATS get new keys while the stages run.
    for stage in Stage::ALL {
        std::fs::remove_file(school.seed(stage.program()))?;
    }
    school.admit("warehouse").await?;
    pupils.push(school.bitrix24.create_contact(good_contact()).await?);
    for stage in Stage::ALL {
        said(&school, stage, "Connected to NATS", 2).await?;
    }
    pupils.push(school.bitrix24.create_contact(good_contact()).await?);
    school.caught_up().await?;

    for pupil in pupils {
        assert!(client(&school, pupil).await?.is_some(), "contact {pupil}");
        assert_eq!(status_of(&school, "contact", pupil).await?, "Успешно");
    }
    for stage in Stage::ALL {
        let log = std::fs::read_to_string(school.log_file(stage))?;
        assert_eq!(log.matches("Starting").count(), 1, "{stage:?} was never restarted");
        for secret in OLD.iter().chain(&NEW) {
            assert!(!log.contains(secret), "{stage:?} shows a secret");
        }
    }
    school.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_file_that_others_may_read_is_named_at_the_start() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    put(&token, OLD[1])?;
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o444))?;
    let mut school = School::builder()
        .env("OTMECHALKA_TOKEN_FILE", &token.display().to_string())
        .otmechalka(&["--token", OLD[1]])
        .open()
        .await?;
    school.start(Stage::Pusher)?;
    said(&school, Stage::Pusher, "which holds a secret: chmod 400", 1).await?;
    let path = token.display().to_string();
    assert!(std::fs::read_to_string(school.log_file(Stage::Pusher))?.contains(&path));
    Ok(())
}
