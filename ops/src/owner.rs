//! Keeps the streams of one portal from being worked off into another.
//!
//! Ids mean nothing outside their portal: with the streams of a demo, or of a test portal, a real run would take
//! strangers for its own records. So the raw stream is marked with the name of the portal it was filled from.

use async_nats::jetstream::stream::Config as StreamConfig;
use runtime::bootstrap::found_stream;
use runtime::{Broker, Reader};
use schemas::streams::RAW;
use secrecy::ExposeSecret;
use url::{Host, Url};

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

/// Returns the same from the streams, which are marked with the name of their portal; real portals speak HTTPS.
pub async fn marked_address(broker: &Broker) -> Option<String> {
    let stream = broker.jetstream().get_stream(RAW.name).await.ok()?;
    let name = stream.cached_info().config.metadata.get(MARK)?.clone();
    let address = format!("https://{name}");
    Url::parse(&address).ok().filter(|url| !matches!(is_here(url.as_str()), Some(true)))?;
    Some(address)
}

/// Refuses a double of one CRM beside the other CRM itself: invented records must not reach a real one, nor may the real
/// one be told that a double took its records.
pub fn check_both_crms(environment: &Environment) -> Result<(), Failure> {
    let source = environment.source();
    let webhook = Reader::new(&source).optional_secret("BITRIX24_WEBHOOK_URL", "", "", |_| true).flatten();
    let webhook = webhook.map(|webhook| webhook.expose_secret().to_owned());
    let lone = match (
        webhook.as_deref().and_then(is_here),
        environment.text("OTMECHALKA_URL").as_deref().and_then(is_here),
    ) {
        (Some(true), Some(false)) => "BITRIX24_WEBHOOK_URL",
        (Some(false), Some(true)) => "OTMECHALKA_URL",
        _ => return Ok(()),
    };
    Err(Failure::settings(format!(
        "{lone}: found an address on this machine, as that of a double, or nothing, though the other CRM is a real one"
    ))
    .remedy("Set both, or neither for the demo"))
}

/// Tells whether an address is on this machine's loopback.
fn is_here(address: &str) -> Option<bool> {
    let url = Url::parse(address).ok()?;
    Some(match url.host()? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    })
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

/// Refuses streams that are marked with another portal, also while it cannot be told.
pub async fn check(broker: &Broker, portal: &str) -> Result<(), Failure> {
    // Streams that are not there yet belong to nobody. One without a leader does.
    let found = found_stream(broker, RAW.name, &format!("stream {}", RAW.name)).await;
    let found = found.map_err(|error| {
        Failure::environment(error.to_string()).remedy("Run the same command again once NATS is well")
    })?;
    other_owner(found.as_ref(), portal, Change::Refuse)?;
    Ok(())
}

/// The same before streams are made, which waits for those that have no leader yet; [`stamp`] looks once more behind it.
/// Tells the name of another portal whose streams may be taken over.
pub async fn check_what_answers(
    broker: &Broker,
    portal: &str,
    change: Change,
) -> Result<Option<String>, Failure> {
    let stream = broker.jetstream().get_stream(RAW.name).await.ok();
    other_owner(stream.as_ref().map(|stream| &stream.cached_info().config), portal, change)
}

fn other_owner(
    config: Option<&StreamConfig>,
    portal: &str,
    change: Change,
) -> Result<Option<String>, Failure> {
    match config.and_then(|config| config.metadata.get(MARK)) {
        Some(owner) if owner != portal && change == Change::Refuse => Err(Failure::settings(format!(
            "the streams in NATS hold the records of {owner}, and the settings name {portal}"
        ))
        .called("nats.owner")
        .remedy(
            "Use another NATS, or another volume for it. Should the portal only have a new name: `rollcall bootstrap \
             --portal-renamed`",
        )),
        owner => Ok(owner.filter(|owner| *owner != portal).cloned()),
    }
}

/// Marks the streams with this portal, those of another one only if it has a new name.
pub async fn stamp(broker: &Broker, portal: &str, change: Change) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::trouble(format!("Cannot mark stream {} with its portal: {error}", RAW.name))
    };
    let stream = broker.jetstream().get_stream(RAW.name).await.map_err(|error| failed(&error))?;
    let mut config = stream.cached_info().config.clone();
    if config.metadata.get(MARK).is_some_and(|owner| owner == portal) {
        return Ok(());
    }
    other_owner(Some(&config), portal, change)?;
    config.metadata.insert(MARK.to_owned(), portal.to_owned());
    broker.jetstream().update_stream(config).await.map_err(|error| failed(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_beside_a_real_crm_is_refused() {
        let check = |webhook: &str, otmechalka: &str| {
            let mut environment = Environment::default();
            environment.set("BITRIX24_WEBHOOK_URL", webhook);
            environment.set("OTMECHALKA_URL", otmechalka);
            check_both_crms(&environment).map_err(|failure| failure.text)
        };
        let (real, double) = ("https://portal.example/rest/1/hush/", "http://127.0.0.1:8080/rest/1/demo/");
        let told = check(real, "http://127.0.0.1:8081").unwrap_err();
        assert!(told.starts_with("OTMECHALKA_URL") && !told.contains("hush"), "{told}");
        assert!(check(double, "https://otmechalka.example").unwrap_err().starts_with("BITRIX24_WEBHOOK_URL"));
        assert!(check(real, "https://otmechalka.example").is_ok());
        assert!(check(double, "http://[::1]:8081").is_ok());
    }

    #[test]
    fn the_name_of_a_portal_holds_no_secret() {
        assert_eq!(name("https://portal.example/rest/1/hunter2/").as_deref(), Some("portal.example"));
        assert_eq!(name("http://127.0.0.1:8080/rest/1/hunter2/").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(name("no address"), None);
        let address = address("https://portal.example/rest/1/hunter2/");
        assert_eq!(address.as_deref(), Some("https://portal.example"));
    }
}
