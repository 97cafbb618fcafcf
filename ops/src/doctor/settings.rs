//! Looks at the settings, and reads those that the other checks need.

use std::time::Duration;

use ::bitrix24::{Client as Portal, ClientBuilder};
use ::otmechalka::Client as Otmechalka;
use mapper::Rules;
use runtime::Reader;
use runtime::budget::BucketSize;
use secrecy::SecretString;

use crate::answer::Finding;
use crate::environment::Environment;
use crate::stages;

const CHECK: &str = "settings";

/// Lets every stage say what it cannot use.
pub async fn look(environment: &Environment) -> Vec<Finding> {
    let mut environment = environment.clone();
    if !environment.has("NATS_URL") {
        environment.set("NATS_URL", stages::SOME_NATS);
    }
    let outcome = match stages::folder() {
        Ok(folder) => stages::setting_problems(&folder, &environment).await,
        Err(failure) => Err(failure),
    };
    let problems = match outcome {
        Ok(problems) => problems,
        Err(failure) => {
            let remedy = "Build all programs: cargo build --release --workspace --bins";
            return vec![Finding::error(CHECK, "Programs", failure.text, remedy)];
        }
    };
    if problems.is_empty() {
        return vec![Finding::ok(CHECK, "Settings", "every stage can use them")];
    }
    let finding = |problem: String| {
        let (name, found) = problem.split_once(": ").unwrap_or((CHECK, &problem));
        let remedy = ".env.sample explains every setting";
        Finding { is_setting: true, ..Finding::error(CHECK, name, found, remedy) }
    };
    problems.into_iter().map(finding).collect()
}

/// The settings that could be read; the stages have named the others.
pub struct Readable {
    /// All that it takes to ask the portal.
    pub portal: Option<PortalSettings>,
    /// The client of otmechalka.
    pub otmechalka: Option<Otmechalka>,
}

/// All that it takes to ask the portal.
pub struct PortalSettings {
    webhook_url: SecretString,
    authorities: Option<Vec<u8>>,
    /// The request bucket that all processes share.
    pub bucket: BucketSize,
    /// Codes of the status fields of contacts and deals.
    pub status_fields: [String; 2],
    /// Stages that the producer asks for.
    pub deal_stages: Vec<String>,
    /// The mapping file.
    pub rules: Option<Rules>,
}

impl PortalSettings {
    /// Begins a client of the portal.
    pub fn builder(&self) -> ClientBuilder {
        let Self { webhook_url, authorities, bucket, .. } = self;
        let builder = Portal::builder(webhook_url.clone()).clock_speed(bucket.clock_speed).timeout(PATIENCE);
        match authorities {
            Some(pem) => builder.root_certificates(pem.clone()),
            None => builder,
        }
    }
}

impl Readable {
    /// Reads them.
    pub fn read(environment: &Environment) -> Readable {
        let source = environment.source();
        let reader = Reader::new(&source);
        Readable { portal: read_portal(&reader), otmechalka: read_otmechalka(&reader) }
    }
}

fn read_portal(reader: &Reader<'_>) -> Option<PortalSettings> {
    let webhook = reader.required_secret("BITRIX24_WEBHOOK_URL", "", "", |_| true)?;
    let authorities = reader.authorities("BITRIX24_CA_FILE")?;
    let capacity = reader.number("BITRIX24_BUCKET", 50, 10..=10_000, "")?;
    let leak = |text: &str| text.parse().ok().filter(|leak: &f64| (0.1..=1_000.0).contains(leak));
    let bucket = BucketSize {
        capacity: capacity as f64,
        leak_per_second: reader.with_default("BITRIX24_LEAK", 2.0, "", "", leak)?,
        clock_speed: reader.clock_speed()?,
    };
    Some(PortalSettings {
        webhook_url: webhook,
        authorities,
        bucket,
        status_fields: [reader.field_code("CONTACT_STATUS_FIELD")?, reader.field_code("DEAL_STATUS_FIELD")?],
        deal_stages: reader.list("DEAL_STAGES", &["WON"], "")?,
        rules: read_rules(reader),
    })
}

/// Longest wait for one answer of a CRM: a person sits before the screen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Setting of the mapper that names the mapping file.
const MAPPING_FILE: &str = "MAPPING_FILE";

fn read_rules(reader: &Reader<'_>) -> Option<Rules> {
    let text = match reader.optional_text(MAPPING_FILE) {
        Some(path) => std::fs::read_to_string(path).ok()?,
        None => mapper::DEFAULT_MAPPING.to_owned(),
    };
    Rules::parse(&text).ok()
}

fn read_otmechalka(reader: &Reader<'_>) -> Option<Otmechalka> {
    let url = reader.required("OTMECHALKA_URL", "", "", |text| text.parse().ok())?;
    let token = reader.optional_secret("OTMECHALKA_TOKEN", "", "", |_| true)?;
    let scheme = reader.optional_text("OTMECHALKA_AUTH_SCHEME").unwrap_or_else(|| "Token".to_owned());
    let mut builder = Otmechalka::builder(url).auth_scheme(scheme).timeout(PATIENCE);
    if let Some(token) = token {
        builder = builder.token(token);
    }
    if let Some(pem) = reader.authorities("OTMECHALKA_CA_FILE")? {
        builder = builder.root_certificates_pem(pem);
    }
    builder.build().ok()
}
