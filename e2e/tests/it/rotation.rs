//! Every secret is replaced during a run, by nothing but its file, and no record is lost.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use e2e::harness::witness::Witness;
use e2e::harness::{Mended, Tally, judge};
use e2e::{School, Stage, eventually};
use serde_json::json;

use crate::flow::{client, good_contact, status_of};
use crate::secrets::{CODE, TOKEN, assert_told_no_secret, watched};
use crate::tls::{Authority, GOOD_UNTIL};

const PATIENCE: Duration = Duration::from_secs(90);

const OLD: [&str; 2] = [CODE, TOKEN];
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
    let mut school = watched(School::builder())
        .guarded(&[])
        .env("BITRIX24_WEBHOOK_URL_FILE", &webhook.display().to_string())
        .env("OTMECHALKA_TOKEN_FILE", &token.display().to_string())
        .env("OTMECHALKA_TOKEN", "")
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

    // Who works with NATS gets new keys meanwhile.
    let (_page, page) = school.serve().await?;
    let mut secrets = NEW.map(str::to_owned).to_vec();
    for user in Stage::ALL.map(Stage::program).into_iter().chain(["page", "ops"]) {
        let seed = school.seed(user);
        secrets.push(std::fs::read_to_string(&seed)?.trim().to_owned());
        std::fs::remove_file(seed)?;
    }
    school.admit("warehouse").await?;
    pupils.push(school.bitrix24.create_contact(good_contact()).await?);
    for stage in Stage::ALL {
        said(&school, stage, "Connected to NATS", 2).await?;
    }
    let newest = school.bitrix24.create_contact(good_contact()).await?;
    pupils.push(newest);
    school.caught_up().await?;
    let story = format!("{page}history?entity=contact&id={newest}");
    eventually("the page tells of what came since", PATIENCE, || async {
        let told = reqwest::get(&story).await?.text().await?;
        Ok(told.contains("Успешно").then_some(()))
    })
    .await?;

    let told = school.rollcall(&["history", "contact", &newest.to_string()]).await?;
    assert_eq!(told.code, 0, "the operator's new key: {told:?}");

    for pupil in pupils {
        assert!(client(&school, pupil).await?.is_some(), "contact {pupil}");
        assert_eq!(status_of(&school, "contact", pupil).await?, "Успешно");
    }
    for stage in Stage::ALL {
        let log = std::fs::read_to_string(school.log_file(stage))?;
        assert_eq!(log.matches("Starting").count(), 1, "{stage:?} was never restarted");
    }
    assert_told_no_secret(&school, &secrets.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    judge::judge(&school, &Tally::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_for_nats_is_replaced_by_its_file_alone() -> anyhow::Result<()> {
    const PASSWORDS: [&str; 2] = ["0ld-p4ssw0rd-of-nats", "n3w-p4ssw0rd-of-nats"];
    let folder = tempfile::tempdir()?;
    let password = folder.path().join("password");
    put(&password, PASSWORDS[0])?;
    let mut school = watched(School::builder()).guarded(&[]).open().await?;
    // The mapper has a password where everybody else has a key.
    let seed = school.seed("mapper");
    let users = seed.ancestors().nth(2).context("folder of the credentials")?.join("server/users.conf");
    let text = std::fs::read_to_string(&users)?;
    let (before, rest) = text.split_once("# mapper").context("the mapper")?;
    let (head, rest) = rest.split_once("nkey: \"").context("its key")?;
    let (_key, rest) = rest.split_once('"').context("its end")?;
    let with = |password| format!("{before}{head}user: \"mapper\", password: \"{password}\"{rest}");
    std::fs::write(&users, with(PASSWORDS[0]))?;
    school.reload().await?;
    std::fs::remove_file(seed)?;
    let path = password.display().to_string();
    school.start_with(Stage::Mapper, &[("NATS_USER", "mapper"), ("NATS_PASSWORD_FILE", &path)])?;
    for stage in [Stage::Producer, Stage::Pusher, Stage::StatusWriter] {
        school.start(stage)?;
    }
    let mut pupils = vec![school.bitrix24.create_contact(good_contact()).await?];
    school.caught_up().await?;

    put(&password, PASSWORDS[1])?;
    std::fs::write(&users, with(PASSWORDS[1]))?;
    school.reload().await?;
    pupils.push(school.bitrix24.create_contact(good_contact()).await?);
    said(&school, Stage::Mapper, "Connected to NATS", 2).await?;
    school.caught_up().await?;
    for pupil in pupils {
        assert_eq!(status_of(&school, "contact", pupil).await?, "Успешно");
    }
    assert_told_no_secret(&school, &PASSWORDS).await?;
    judge::judge(&school, &Tally::default()).await
}

/// Has NATS show a certificate that this authority has signed, from its next reading on.
fn install(authority: &Authority, folder: &Path) -> anyhow::Result<()> {
    let signed = authority.sign(folder, "127.0.0.1", GOOD_UNTIL)?;
    for (from, to) in [(signed.certificate, "server.pem"), (signed.key, "key.pem")] {
        std::fs::rename(from, folder.join(to))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_gets_a_certificate_of_another_authority_in_mid_run() -> anyhow::Result<()> {
    const TRUSTED: &str = "trusted.pem";
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let (old, new) = (Authority::make()?, Authority::make()?);
    let old_alone = old.write(folder, "old.pem")?;
    let trusted = old.write(folder, TRUSTED)?;
    let mut school =
        watched(School::builder()).brisk().guarded(&[]).env("NATS_CA_FILE", &trusted).open().await?;
    install(&old, folder)?;
    let users = school.folder().join("credentials/server/users.conf");
    // Who plays and judges here speaks no TLS.
    let secured = format!(
        "{}\nallow_non_tls: true\ntls {{ cert_file: \"{folder}/server.pem\", key_file: \"{folder}/key.pem\" }}\n",
        std::fs::read_to_string(&users)?,
        folder = folder.display()
    );
    std::fs::write(&users, secured)?;
    for server in school.servers() {
        server.kill().await?;
        server.restart().await?;
    }
    school.set_env("NATS_URL", &school.nats.url().replace("nats://", "tls://"));
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    let mut pupils = vec![school.bitrix24.create_contact(good_contact()).await?];
    school.caught_up().await?;

    // Both authorities are trusted first, which takes a restart; then comes the certificate.
    std::fs::write(folder.join(TRUSTED), format!("{}{}", old.pem(), new.pem()))?;
    for stage in Stage::ALL {
        school.kill_and_start(stage).await?;
    }
    pupils.push(school.bitrix24.create_contact(good_contact()).await?);
    school.caught_up().await?;
    install(&new, folder)?;
    school.reload().await?;
    pupils.push(school.bitrix24.create_contact(good_contact()).await?);
    school.caught_up().await?;
    // What was connected stays; what comes anew, as after a crash of the server, sees the new one.
    for server in school.servers() {
        server.kill().await?;
        server.restart().await?;
    }
    pupils.push(school.bitrix24.create_contact(good_contact()).await?);
    school.caught_up().await?;

    // The old authority goes, and nobody needs it any more.
    new.write(folder, TRUSTED)?;
    for stage in Stage::ALL {
        school.kill_and_start(stage).await?;
    }
    pupils.push(school.bitrix24.create_contact(good_contact()).await?);
    school.caught_up().await?;
    school.start_with(Stage::Mapper, &[("NATS_CA_FILE", &old_alone)])?;
    said(&school, Stage::Mapper, "PEM file in NATS_CA_FILE", 1).await?;
    school.start(Stage::Mapper)?;
    for pupil in pupils {
        assert_eq!(status_of(&school, "contact", pupil).await?, "Успешно");
    }
    assert_told_no_secret(&school, &[]).await?;
    judge::judge(&school, &Tally::default()).await
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

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_taken_out_of_nats_for_a_while_says_so_and_nothing_is_lost() -> anyhow::Result<()> {
    const REMEDY: &str = "the server refuses our user. Check NATS_NKEY_SEED or NATS_USER, and that the server has \
                          read its users";
    let school = School::builder().brisk().guarded(&[]).start().await?;
    let witness = Witness::of(&school);
    let mut pupils = vec![school.bitrix24.create_contact(good_contact()).await?];
    school.caught_up().await?;
    let users = school.folder().join("credentials/server/users.conf");
    let text = std::fs::read_to_string(&users)?;
    let mut mended = None;
    for stage in Stage::ALL {
        let (before, rest) = text.split_once(&format!("# {}\n", stage.program())).context("the user")?;
        let (_user, rest) = rest.split_once("} }\n").context("its end")?;
        std::fs::write(&users, format!("{before}\n{rest}"))?;
        school.reload().await?;
        let pupil = school.bitrix24.create_contact(good_contact()).await?;
        said(&school, stage, REMEDY, 1).await?;
        if stage != Stage::Producer {
            school.after_polls(3).await?;
        }
        assert_eq!(status_of(&school, "contact", pupil).await?, "", "without {stage:?}");
        for earlier in &pupils {
            assert_eq!(status_of(&school, "contact", *earlier).await?, "Успешно", "without {stage:?}");
        }
        pupils.push(pupil);

        std::fs::write(&users, &text)?;
        school.reload().await?;
        mended = Some(Mended::now(&school).await?);
        said(&school, stage, "Connected to NATS", 2).await?;
        school.caught_up().await?;
        assert_eq!(status_of(&school, "contact", pupil).await?, "Успешно", "with {stage:?} again");
    }
    for stage in Stage::ALL {
        let log = std::fs::read_to_string(school.log_file(stage))?;
        assert_eq!(log.matches("Starting").count(), 1, "{stage:?} was never restarted");
    }
    let testimony = witness.tell().await?;
    judge::judge(&school, &Tally { testimony, mended, ..Tally::default() }).await
}
