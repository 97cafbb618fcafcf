//! The warehouse's settings.

use std::time::Duration;

use bitrix24::Client;
use runtime::Reader;

use crate::database::{self, Database};

/// Prefix under which the account of an extra consumer knows JetStream: see docs/subscribing.md.
const CONSUMER_PREFIX: &str = "rollcall";

/// Prefix of an account that has JetStream itself.
const OWN_PREFIX: &str = "$JS.API";

/// What the warehouse is told.
pub struct Config {
    /// `WAREHOUSE_DATABASE_URL`, `WAREHOUSE_DATABASE_PASSWORD`, `WAREHOUSE_DATABASE_CA_FILE`, `WAREHOUSE_SCHEMA` (rollcall).
    pub database: Database,
    /// `NATS_JETSTREAM_PREFIX`: `rollcall` with an nkey, `$JS.API` without.
    pub jetstream_prefix: String,
    /// `BITRIX24_WEBHOOK_URL` and `BITRIX24_CA_FILE`: where labels of fields and names of stages are asked for, if anywhere.
    pub portal: Option<Client>,
    /// `WAREHOUSE_LABELS_INTERVAL`: how often they are asked for (6h).
    pub labels_interval: Duration,
}

impl Config {
    /// Reads the settings. Gives `None` after noting a problem with the reader.
    pub fn read(reader: &Reader<'_>) -> Option<Config> {
        let database = read_database(reader);
        let jetstream_prefix = read_prefix(reader);
        let portal = read_portal(reader);
        let labels_interval =
            reader.duration("WAREHOUSE_LABELS_INTERVAL", Duration::from_secs(6 * 60 * 60), "6h");
        Some(Config {
            database: database?,
            jetstream_prefix: jetstream_prefix?,
            portal: portal?,
            labels_interval: labels_interval?,
        })
    }
}

fn read_database(reader: &Reader<'_>) -> Option<Database> {
    let address = reader.required_secret(
        "WAREHOUSE_DATABASE_URL",
        "the address of a PostgreSQL database",
        "postgres://rollcall@127.0.0.1/rollcall",
        database::is_address,
    );
    let password = reader.optional_secret("WAREHOUSE_DATABASE_PASSWORD", "a password", "…", |_| true);
    let ca_file = reader.optional_text("WAREHOUSE_DATABASE_CA_FILE");
    let schema = reader.with_default(
        "WAREHOUSE_SCHEMA",
        "rollcall".to_owned(),
        "a schema's name of small letters, digits and _",
        "rollcall",
        |text| database::is_schema_name(text).then(|| text.to_owned()),
    );
    let (address, password, schema) = (address?, password?, schema?);
    match Database::new(&address, password.as_ref(), ca_file.as_deref(), schema) {
        Ok(database) => Some(database.renewed_by(reader.secret_file("WAREHOUSE_DATABASE_PASSWORD"))),
        Err(error) => {
            let found = format!("a file that cannot be used: {error:#}");
            reader.problem(
                "WAREHOUSE_DATABASE_CA_FILE",
                &found,
                "a file of PEM certificates",
                "/etc/ssl/ca.pem",
            );
            None
        }
    }
}

fn read_prefix(reader: &Reader<'_>) -> Option<String> {
    let has_seed =
        ["NATS_NKEY_SEED", "NATS_NKEY_SEED_FILE"].iter().any(|name| reader.optional_text(name).is_some());
    let default = if has_seed { CONSUMER_PREFIX } else { OWN_PREFIX };
    reader.with_default(
        "NATS_JETSTREAM_PREFIX",
        default.to_owned(),
        "the first tokens of the subjects of JetStream's interface",
        CONSUMER_PREFIX,
        |text| (!text.contains([' ', '*', '>'])).then(|| text.trim_end_matches('.').to_owned()),
    )
}

fn read_portal(reader: &Reader<'_>) -> Option<Option<Client>> {
    let authorities = reader.authorities("BITRIX24_CA_FILE");
    let webhook_url = reader.optional_secret(
        "BITRIX24_WEBHOOK_URL",
        "the address of an inbound webhook, https unless on this machine",
        "https://portal.example/rest/1/secret/",
        |text| Client::builder(text.into()).build().is_ok(),
    )?;
    let authorities = authorities?;
    // A bucket that starts full: the stages' requests count in the portal's as well.
    let builder = |url| Client::builder(url).starts_with_full_bucket(true);
    let client = |url| match authorities {
        Some(pem) => builder(url).root_certificates(pem).build(),
        None => builder(url).build(),
    };
    Some(webhook_url.and_then(|url| client(url).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::Source;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, runtime::SettingsError> {
        let source = Source::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let reader = Reader::new(&source);
        let config = Config::read(&reader);
        reader.finish(|| config)
    }

    #[test]
    fn an_address_is_enough() {
        let config = read(&[("WAREHOUSE_DATABASE_URL", "postgres://rollcall@127.0.0.1/rollcall")]).unwrap();
        assert_eq!((config.jetstream_prefix.as_str(), config.portal.is_none()), ("$JS.API", true));
    }

    #[test]
    fn credentials_of_an_extra_consumer_bring_its_prefix() {
        let address = ("WAREHOUSE_DATABASE_URL", "postgres://rollcall@127.0.0.1/rollcall");
        let seed = ("NATS_NKEY_SEED_FILE", "/run/nats/seed");
        assert_eq!(read(&[address, seed]).unwrap().jetstream_prefix, "rollcall");
        let own = ("NATS_JETSTREAM_PREFIX", "$JS.API.");
        assert_eq!(read(&[address, seed, own]).unwrap().jetstream_prefix, "$JS.API");
    }

    #[test]
    fn every_mistake_is_named_and_no_secret_is_shown() {
        let mistakes = [
            ("WAREHOUSE_DATABASE_URL", "hunter2 nonsense"),
            ("WAREHOUSE_SCHEMA", "a\"b"),
            ("WAREHOUSE_LABELS_INTERVAL", "soon"),
            ("NATS_JETSTREAM_PREFIX", "a >"),
            ("BITRIX24_WEBHOOK_URL", "http://portal.example/rest/1/hunter2secret/"),
        ];
        let error = read(&mistakes).err().unwrap();
        let names: Vec<&str> = error.0.iter().map(|problem| problem.name.as_str()).collect();
        for (name, _) in mistakes {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        let broken = [
            ("WAREHOUSE_DATABASE_URL", "postgres://rollcall:hunter2@127.0.0.1/rollcall"),
            ("WAREHOUSE_DATABASE_CA_FILE", "/nowhere/ca.pem"),
        ];
        let error = read(&broken).err().unwrap();
        assert!(
            error.to_string().contains("/nowhere/ca.pem") && !error.to_string().contains("hunter2"),
            "{error}"
        );
    }
}
