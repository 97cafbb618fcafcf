//! What the pusher needs to be told.

use std::time::Duration;

use otmechalka::{Builder, Client, ConfigError};
use runtime::Reader;
use secrecy::SecretString;
use url::Url;

use crate::pause::Pauses;

/// Settings of the pusher.
pub struct Config {
    /// `OTMECHALKA_URL`, `OTMECHALKA_TOKEN`, `OTMECHALKA_AUTH_SCHEME`, `OTMECHALKA_TIMEOUT` and
    /// `OTMECHALKA_CA_FILE`, put together.
    pub otmechalka: Client,
    /// `OTMECHALKA_CLOCK_SPEED`: how many seconds pass at otmechalka in one second here, 1 by default.
    pub pauses: Pauses,
    /// `OTMECHALKA_TIMEOUT`: no call takes longer.
    pub longest_call: Duration,
}

impl Config {
    /// Reads them.
    pub fn read(reader: &Reader<'_>) -> Option<Config> {
        let url = read_url(reader);
        let token = reader.optional_secret("OTMECHALKA_TOKEN", "a token", "0123456789abcdef", |token| {
            token.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let word = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-').then(|| text.to_owned())
        };
        let scheme =
            reader.with_default("OTMECHALKA_AUTH_SCHEME", "Token".to_owned(), "one word", "Token", word);
        let timeout = read_timeout(reader);
        let certificates = reader.authorities("OTMECHALKA_CA_FILE");
        let speed = reader.with_default(
            "OTMECHALKA_CLOCK_SPEED",
            1.0,
            "a factor from 0.1 to 10000, 1 for the real otmechalka",
            "1",
            |text| text.parse().ok().filter(|speed: &f64| (0.1..=10_000.0).contains(speed)),
        );
        let builder = Client::builder(url?).auth_scheme(scheme?).timeout(timeout?);
        let builder = with_token(builder, token?);
        let builder = match reader.secret_file("OTMECHALKA_TOKEN") {
            Some(file) => builder.renewed_by(move || file.read()),
            None => builder,
        };
        let otmechalka = match certificates? {
            Some(pem) => builder.root_certificates_pem(pem).build(),
            None => builder.build(),
        };
        match otmechalka {
            Ok(otmechalka) => {
                Some(Config { otmechalka, pauses: Pauses::at_speed(speed?), longest_call: timeout? })
            }
            Err(error) => {
                reader.problem("OTMECHALKA_URL", &error.to_string(), URL_EXPECTED, URL_EXAMPLE);
                None
            }
        }
    }
}

const URL_EXPECTED: &str = "the https address of otmechalka; plain http is only for this machine itself";
const URL_EXAMPLE: &str = "https://otmechalka.example";

fn read_url(reader: &Reader<'_>) -> Option<Url> {
    if reader.optional_text("OTMECHALKA_URL").is_some_and(|text| text.contains('@')) {
        // Not quoted: what stands before the @ may be a password.
        let found = "an address with a user name or password (not shown)";
        reader.problem("OTMECHALKA_URL", found, URL_EXPECTED, URL_EXAMPLE);
        return None;
    }
    reader.required("OTMECHALKA_URL", URL_EXPECTED, URL_EXAMPLE, |text| {
        let url: Url = text.parse().ok()?;
        // What certificates there are says nothing about the address.
        let fits = !matches!(
            Client::builder(url.clone()).build(),
            Err(ConfigError::Address | ConfigError::Credentials | ConfigError::PlainHttp)
        );
        fits.then_some(url)
    })
}

fn read_timeout(reader: &Reader<'_>) -> Option<Duration> {
    let timeout = reader.duration("OTMECHALKA_TIMEOUT", Duration::from_secs(15), "15s")?;
    if timeout > LONGEST_TIMEOUT {
        reader.problem("OTMECHALKA_TIMEOUT", "more than a minute", "at most a minute", "15s");
        return None;
    }
    Some(timeout)
}

fn with_token(builder: Builder, token: Option<SecretString>) -> Builder {
    match token {
        Some(token) => builder.token(token),
        None => builder,
    }
}

/// No outgoing call may take longer.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::Source;

    fn read(pairs: &[(&str, &str)]) -> Result<(), String> {
        let source = Source::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let reader = Reader::new(&source);
        let config = Config::read(&reader);
        reader.finish(|| config).map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_is_all_that_has_to_be_set() {
        assert_eq!(read(&[("OTMECHALKA_URL", "https://otmechalka.example")]), Ok(()));
        assert!(read(&[]).unwrap_err().contains("OTMECHALKA_URL"));
    }

    #[test]
    fn mistakes_are_named_together_and_the_token_is_not_shown() {
        let error = read(&[
            ("OTMECHALKA_URL", "http://otmechalka.example"),
            ("OTMECHALKA_TOKEN", "hunter 2"),
            ("OTMECHALKA_TIMEOUT", "soon"),
        ])
        .unwrap_err();
        for name in ["OTMECHALKA_URL", "OTMECHALKA_TOKEN", "OTMECHALKA_TIMEOUT"] {
            assert!(error.contains(name), "{error}");
        }
        assert!(!error.contains("hunter"), "{error}");
        let error = read(&[("OTMECHALKA_URL", "https://school:hunter2@otmechalka.example")]).unwrap_err();
        assert!(error.contains("OTMECHALKA_URL") && !error.contains("hunter"), "{error}");
    }

    #[test]
    fn a_call_may_not_take_longer_than_a_minute() {
        let error = read(&[("OTMECHALKA_URL", "https://otmechalka.example"), ("OTMECHALKA_TIMEOUT", "2m")]);
        assert!(error.unwrap_err().contains("OTMECHALKA_TIMEOUT"));
    }
}
