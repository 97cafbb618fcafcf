//! `rollcall doctor` against the doubles: each planted fault is found, named, and told how to mend.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Done, Double, Nats, Settings, rollcall};

/// A whole neighbourhood in which everything is well.
struct Neighbourhood {
    nats: Nats,
    bitrix24: Double,
    otmechalka: Double,
    settings: Settings,
    folder: TempDir,
}

const TOKEN: &str = "t0ken-of-the-test";

impl Neighbourhood {
    async fn start() -> Neighbourhood {
        let nats = Nats::start().await;
        let folder = tempfile::tempdir().unwrap();
        let school = ["--contacts", "10", "--deals", "10"];
        let bitrix24 = Double::start("bitrix24-sim", folder.path(), &school).await;
        let otmechalka = Double::start("otmechalka-sim", folder.path(), &["--token", TOKEN]).await;
        let mut settings = nats.settings();
        rollcall(folder.path(), &settings, &["bootstrap"]).await;
        settings.extend([
            ("BITRIX24_WEBHOOK_URL", bitrix24.url.clone()),
            ("OTMECHALKA_URL", otmechalka.url.clone()),
            ("OTMECHALKA_TOKEN", TOKEN.to_owned()),
            ("SYNC_START_DATE", "2020-12-22".to_owned()),
            ("SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP", "2020-12-24".to_owned()),
            ("SYNC_DEAL_LAST_MODIFY_TIMESTAMP", "2020-12-24".to_owned()),
        ]);
        Neighbourhood { nats, bitrix24, otmechalka, settings, folder }
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.settings.retain(|(found, _)| *found != name);
        self.settings.push((name, value.to_owned()));
    }

    async fn doctor(&self, arguments: &[&str]) -> Diagnosis {
        let arguments = [&["doctor", "--json"], arguments].concat();
        let Done { code, out, err } = rollcall(self.folder.path(), &self.settings, &arguments).await;
        assert!(!out.contains(TOKEN) && !err.contains(TOKEN), "a secret was shown");
        let secret = self.bitrix24.url.trim_end_matches('/').rsplit('/').next().unwrap();
        assert!(!out.contains(secret) && !err.contains(secret), "a secret was shown");
        Diagnosis { code, report: serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}")) }
    }
}

struct Diagnosis {
    code: Option<i32>,
    report: Value,
}

impl Diagnosis {
    /// Returns what is not in order: code, message.
    fn complaints(&self) -> Vec<String> {
        let findings = self.report["findings"].as_array().unwrap();
        let bad = findings.iter().filter(|finding| finding["severity"] != "ok");
        bad.map(|finding| {
            assert!(!finding["action"].as_str().unwrap_or_default().is_empty(), "no action: {finding}");
            let text = |key: &str| finding[key].as_str().unwrap().to_owned();
            format!("{} | {}", text("code"), text("message"))
        })
        .collect()
    }

    #[track_caller]
    fn has_only(&self, code: i32, wanted: &[&str]) {
        let complaints = self.complaints();
        assert_eq!(self.code, Some(code), "{complaints:#?}");
        assert_eq!(complaints.len(), wanted.len(), "{complaints:#?}");
        for wanted in wanted {
            assert!(
                complaints.iter().any(|complaint| complaint.contains(wanted)),
                "{wanted}: {complaints:#?}"
            );
        }
    }
}

#[tokio::test]
async fn a_healthy_neighbourhood_has_no_complaints() {
    let neighbourhood = Neighbourhood::start().await;
    neighbourhood.doctor(&[]).await.has_only(0, &[]);
    let told = rollcall(neighbourhood.folder.path(), &neighbourhood.settings, &["doctor"]).await;
    assert_eq!(told.code, Some(0));
    assert!(told.out.contains("0 errors, 0 warnings."), "{}", told.out);
}

#[tokio::test]
async fn missing_status_fields_are_found_and_created_on_request() {
    let neighbourhood = Neighbourhood::start().await;
    for entity in ["contact", "deal"] {
        neighbourhood.bitrix24.delete(&format!("userfields/{entity}/UF_CRM_SYNC_STATUS")).await;
    }
    let missing = ["Status field UF_CRM_SYNC_STATUS of contacts", "Status field UF_CRM_SYNC_STATUS of deals"];
    neighbourhood.doctor(&[]).await.has_only(1, &missing);
    let told = neighbourhood.doctor(&["--fix", "--dry-run"]).await;
    told.has_only(1, &missing);
    assert!(told.report.to_string().contains("`--fix` without `--dry-run` creates it"), "{}", told.report);
    neighbourhood.doctor(&[]).await.has_only(1, &missing);
    let mended = neighbourhood.doctor(&["--fix"]).await;
    mended.has_only(0, &[]);
    assert!(mended.report.to_string().contains("was missing and is created now"), "{}", mended.report);
    neighbourhood.doctor(&[]).await.has_only(0, &[]);
}

#[tokio::test]
async fn missing_scopes_and_a_dead_webhook_are_found() {
    let mut neighbourhood = Neighbourhood::start().await;
    neighbourhood.bitrix24.post("settings", json!({"scopes": ["crm"]})).await;
    neighbourhood.doctor(&[]).await.has_only(1, &["bitrix24.scope | Scopes of the webhook: user_brief"]);
    neighbourhood.bitrix24.post("settings", json!({"scopes": ["user_brief"]})).await;
    neighbourhood.doctor(&[]).await.has_only(1, &["crm is missing"]);
    let (front, _) = neighbourhood.bitrix24.url.trim_end_matches('/').rsplit_once('/').unwrap();
    let dead = format!("{front}/n0longervalid/");
    neighbourhood.set("BITRIX24_WEBHOOK_URL", &dead);
    neighbourhood.doctor(&[]).await.has_only(1, &["bitrix24.webhook"]);
}

#[tokio::test]
async fn what_the_mapping_names_and_the_portal_lacks_is_found() {
    let mut neighbourhood = Neighbourhood::start().await;
    let mapping = include_str!("../../../mapper/mapping.toml")
        .replace("id = 410", "id = 411")
        .replace("UF_CRM_1608028374", "UF_CRM_1608028375");
    let path = neighbourhood.folder.path().join("mapping.toml");
    std::fs::write(&path, mapping).unwrap();
    neighbourhood.set("MAPPING_FILE", path.to_str().unwrap());
    neighbourhood.doctor(&[]).await.has_only(1, &["no value 411", "UF_CRM_1608028375 («Имя ученика»)"]);
}

#[tokio::test]
async fn a_wrong_token_and_an_absent_otmechalka_are_found() {
    let mut neighbourhood = Neighbourhood::start().await;
    neighbourhood.otmechalka.post("settings", json!({"token": "another"})).await;
    neighbourhood.doctor(&[]).await.has_only(1, &["check OTMECHALKA_TOKEN"]);
    neighbourhood.set("OTMECHALKA_URL", "http://127.0.0.1:1");
    neighbourhood.doctor(&[]).await.has_only(1, &["otmechalka cannot be reached"]);
}

#[tokio::test]
async fn a_nats_without_streams_and_an_absent_one_are_found() {
    let mut neighbourhood = Neighbourhood::start().await;
    let jetstream = neighbourhood.nats.broker().await.jetstream().clone();
    jetstream.delete_stream("DLQ").await.unwrap();
    neighbourhood.doctor(&[]).await.has_only(1, &["nats.streams | stream DLQ: missing"]);
    neighbourhood.set("NATS_URL", "nats://127.0.0.1:1");
    neighbourhood.doctor(&[]).await.has_only(1, &["nats.connection"]);
}

#[tokio::test]
async fn a_raw_stream_older_than_what_was_made_of_it_is_found() {
    let neighbourhood = Neighbourhood::start().await;
    let jetstream = neighbourhood.nats.broker().await.jetstream().clone();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("ce-rawsequence", "7");
    let publishing = jetstream.publish_with_headers("crm.result.01.contact.5", headers, "{}".into());
    publishing.await.unwrap().await.unwrap();
    let wanted = ["nats.raw_behind | stream B24_RAW: ends at 0, and something was made of its message 7"];
    neighbourhood.doctor(&[]).await.has_only(1, &wanted);
}

#[tokio::test]
async fn settings_outrank_everything_in_the_exit_code() {
    let mut neighbourhood = Neighbourhood::start().await;
    neighbourhood.set("CONTACT_SYNC_INTERVAL", "now and then");
    neighbourhood.set("SYNC_START_DATE", "");
    neighbourhood.doctor(&[]).await.has_only(2, &["CONTACT_SYNC_INTERVAL", "SYNC_START_DATE"]);
}
