//! Keeps the streams of one portal from being worked off into another.
//!
//! Ids mean nothing outside their portal: with the streams of a demo, or of a test portal, a real run would take
//! strangers for its own records. So the raw stream is marked with the name of the portal it was filled from.

use runtime::{Broker, Reader};
use schemas::streams::RAW;
use secrecy::ExposeSecret;
use url::Url;

use crate::environment::Environment;
use crate::exit::Failure;

/// Key of the mark in the stream's metadata.
const MARK: &str = "rollcall.portal";

/// What to do about streams of a portal with another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Touch nothing.
    Refuse,
    /// It is the same portal under a new name.
    Rename,
}

/// Reads the portal's name out of the settings; `None` where there is none. The rest of the address is a secret.
pub fn portal(environment: &Environment) -> Option<String> {
    let source = environment.source();
    let webhook = Reader::new(&source).optional_secret("BITRIX24_WEBHOOK_URL", "", "", |_| true)??;
    name(webhook.expose_secret())
}

/// Returns the portal's address for links to its records, without the secret part.
pub fn portal_address(environment: &Environment) -> Option<String> {
    let source = environment.source();
    let webhook = Reader::new(&source).optional_secret("BITRIX24_WEBHOOK_URL", "", "", |_| true)??;
    address(webhook.expose_secret())
}

fn address(webhook: &str) -> Option<String> {
    let url = Url::parse(webhook).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    Some(format!("{}://{}", url.scheme(), name(webhook)?))
}

fn name(webhook: &str) -> Option<String> {
    let url = Url::parse(webhook).ok()?;
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// Refuses streams that are marked with another portal.
pub async fn check(broker: &Broker, portal: &str, change: Change) -> Result<(), Failure> {
    // Streams that are not there yet belong to nobody.
    let Ok(stream) = broker.jetstream().get_stream(RAW.name).await else { return Ok(()) };
    match stream.cached_info().config.metadata.get(MARK) {
        Some(owner) if owner != portal && change == Change::Refuse => Err(Failure::settings(format!(
            "the streams in NATS hold the records of {owner}, and the settings name {portal}. Use another NATS, or \
             another volume for it. Should the portal only have a new name: rollcall bootstrap --portal-renamed."
        ))),
        _ => Ok(()),
    }
}

/// Marks the streams with this portal.
pub async fn stamp(broker: &Broker, portal: &str) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::trouble(format!("Cannot mark stream {} with its portal: {error}", RAW.name))
    };
    let stream = broker.jetstream().get_stream(RAW.name).await.map_err(|error| failed(&error))?;
    let mut config = stream.cached_info().config.clone();
    if config.metadata.get(MARK).is_some_and(|owner| owner == portal) {
        return Ok(());
    }
    config.metadata.insert(MARK.to_owned(), portal.to_owned());
    broker.jetstream().update_stream(config).await.map_err(|error| failed(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_portal_holds_no_secret() {
        assert_eq!(name("https://portal.example/rest/1/hunter2/").as_deref(), Some("portal.example"));
        assert_eq!(name("http://127.0.0.1:8080/rest/1/hunter2/").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(name("no address"), None);
        let address = address("https://portal.example/rest/1/hunter2/");
        assert_eq!(address.as_deref(), Some("https://portal.example"));
    }
}
