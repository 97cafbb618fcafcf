//! The settings of this stage.

use bitrix24::Client;
use runtime::Reader;
use runtime::budget::BucketSize;
use schemas::Entity;

/// What the status writer needs to be told.
pub struct Config {
    /// `BITRIX24_WEBHOOK_URL`, a secret, and `BITRIX24_CA_FILE`; with the speed and limit below already the client's builder.
    pub portal: bitrix24::ClientBuilder,
    /// `CONTACT_STATUS_FIELD` and `DEAL_STATUS_FIELD`, `UF_CRM_SYNC_STATUS` by default.
    pub fields: StatusFields,
    /// `BITRIX24_BUCKET` requests (50) and `BITRIX24_LEAK` requests a second (2), at `PORTAL_CLOCK_SPEED`.
    pub bucket: BucketSize,
}

/// The codes of the status fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusFields {
    contact: String,
    deal: String,
}

impl StatusFields {
    /// Takes the codes.
    pub fn new(contact: impl Into<String>, deal: impl Into<String>) -> StatusFields {
        StatusFields { contact: contact.into(), deal: deal.into() }
    }

    /// Returns the code of the field of an entity.
    pub fn of(&self, entity: Entity) -> &str {
        match entity {
            Entity::Contact => &self.contact,
            Entity::Deal => &self.deal,
        }
    }
}

impl Config {
    /// Reads them.
    pub fn read(reader: &Reader<'_>) -> Option<Config> {
        let portal = read_portal(reader);
        let contact = reader.field_code("CONTACT_STATUS_FIELD");
        let deal = reader.field_code("DEAL_STATUS_FIELD");
        let clock_speed = reader.clock_speed();
        let operating_limit = reader.number("BITRIX24_OPERATING_LIMIT", 480, 1..=86_400, "480");
        let capacity = reader.number("BITRIX24_BUCKET", 50, 10..=10_000, "50");
        let leak =
            reader.with_default("BITRIX24_LEAK", 2.0, "requests per second, from 0.1 to 1000", "2", |text| {
                text.parse().ok().filter(|leak: &f64| (0.1..=1_000.0).contains(leak))
            });
        let clock_speed = clock_speed?;
        Some(Config {
            portal: portal?.clock_speed(clock_speed).operating_limit(operating_limit? as f64),
            fields: StatusFields::new(contact?, deal?),
            bucket: BucketSize { capacity: capacity? as f64, leak_per_second: leak?, clock_speed },
        })
    }
}

fn read_portal(reader: &Reader<'_>) -> Option<bitrix24::ClientBuilder> {
    let name = "BITRIX24_WEBHOOK_URL";
    let expected = "the address of an inbound webhook, https unless on this machine";
    let example = "https://portal.example/rest/1/secret/";
    let authorities = reader.authorities("BITRIX24_CA_FILE");
    let url = reader.required_secret(name, expected, example, |_| true)?;
    let file = reader.secret_file(name);
    let builder = || {
        let builder = Client::builder(url.clone());
        match authorities.as_ref().and_then(Option::as_ref) {
            Some(pem) => builder.root_certificates(pem.clone()),
            None => builder,
        }
    };
    if let Err(error) = builder().build() {
        reader.problem(name, &format!("a value that does not fit (not shown): {error}"), expected, example);
        return None;
    }
    // What is wrong with it is noted.
    authorities.as_ref()?;
    let builder = builder();
    Some(match file {
        Some(file) => builder.renewed_by(move || file.read()),
        None => builder,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::Source;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let source = Source::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let reader = Reader::new(&source);
        let config = Config::read(&reader);
        reader.finish(|| config).map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_webhook_has_to_be_told() {
        let config = read(&[("BITRIX24_WEBHOOK_URL", "https://portal.example/rest/1/abcdef/")]).unwrap();
        assert_eq!(config.fields.of(Entity::Deal), "UF_CRM_SYNC_STATUS");
        assert_eq!((config.bucket.capacity, config.bucket.leak_per_second), (50.0, 2.0));
    }

    #[test]
    fn every_mistake_is_named_and_the_webhook_is_not_shown() {
        let told = read(&[
            ("BITRIX24_WEBHOOK_URL", "http://portal.example/rest/1/abcdef/"),
            ("CONTACT_STATUS_FIELD", "LAST_NAME"),
            ("BITRIX24_LEAK", "fast"),
        ]);
        let text = told.err().unwrap();
        for name in ["BITRIX24_WEBHOOK_URL", "CONTACT_STATUS_FIELD", "BITRIX24_LEAK"] {
            assert!(text.contains(name), "{text}");
        }
        assert!(!text.contains("abcdef"), "{text}");
    }
}
