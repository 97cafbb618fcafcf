//! The webhook's address, which is the secret itself.

use std::fmt;
use std::sync::RwLock;

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use crate::error::{ConfigError, RedirectFault};

/// Where requests go: the configured webhook, or the host it has moved to.
pub(crate) struct Endpoint {
    base: RwLock<Url>,
    code: SecretString,
}

impl Endpoint {
    /// Reads `https://PORTAL/rest/USER/CODE/`.
    pub(crate) fn parse(webhook_url: &SecretString) -> Result<Self, ConfigError> {
        let mut base = Url::parse(webhook_url.expose_secret().trim()).map_err(|_| ConfigError::NotAUrl)?;
        match base.scheme() {
            "https" => {}
            "http" if is_loopback(&base) => {}
            "http" => return Err(ConfigError::PlainHttp),
            _ => return Err(ConfigError::Scheme),
        }
        let has_user = !base.username().is_empty() || base.password().is_some();
        if has_user || base.query().is_some() || base.fragment().is_some() {
            return Err(ConfigError::Extras);
        }
        let code = code(base.path()).ok_or(ConfigError::Path)?.to_owned();
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { base: RwLock::new(base), code: code.into() })
    }

    /// Returns the address of a method.
    pub(crate) fn method_url(&self, method: &str) -> Url {
        let mut url = self.base.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        url.set_path(&format!("{}{method}.json", url.path()));
        url
    }

    /// Returns the address a redirect may be followed to.
    ///
    /// The portal we reached through TLS may name another host for the same path, as it does after a
    /// change of its domain. Nothing else is trusted with the webhook.
    pub(crate) fn redirect_target(&self, asked: &Url, location: &str) -> Result<Url, RedirectFault> {
        let target = asked.join(location).map_err(|_| RedirectFault::NoAddress)?;
        let protected = target.scheme() == "https"
            || (target.scheme() == "http" && is_loopback(&target) && is_loopback(asked));
        if !protected {
            return Err(RedirectFault::Unprotected);
        }
        if target.path() != asked.path() || !target.username().is_empty() || target.password().is_some() {
            return Err(RedirectFault::OtherPath);
        }
        if target.origin() == asked.origin() {
            return Err(RedirectFault::Circle);
        }
        let mut moved = asked.clone();
        // Setting the scheme first, for it decides the default port.
        let set = moved.set_scheme(target.scheme()).is_ok()
            && moved.set_host(target.host_str()).is_ok()
            && moved.set_port(target.port()).is_ok();
        if set { Ok(moved) } else { Err(RedirectFault::NoAddress) }
    }

    /// Sends all further requests to the host of `url`.
    pub(crate) fn move_to(&self, url: &Url) {
        let mut base = self.base.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut moved = url.clone();
        moved.set_path(base.path());
        *base = moved;
    }

    /// Removes the secret from a text of foreign origin.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(self.code.expose_secret(), "***")
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Endpoint(..)")
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Returns the code of a path such as `/rest/1/code/`, whatever stands before `rest`.
fn code(path: &str) -> Option<&str> {
    let segments: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let [.., rest, user, code] = segments[..] else { return None };
    let is_user = !user.is_empty() && user.bytes().all(|byte| byte.is_ascii_digit());
    let is_code = !code.is_empty()
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    (rest == "rest" && is_user && is_code).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Endpoint, ConfigError> {
        Endpoint::parse(&SecretString::from(url))
    }

    fn fault(url: &str) -> ConfigError {
        parse(url).expect_err("a bad address")
    }

    #[test]
    fn a_webhook_is_taken_with_or_without_its_last_slash() {
        for url in ["https://portal.example/rest/1/s3cret/", " https://portal.example/rest/1/s3cret\n"] {
            let url = parse(url).expect("an endpoint").method_url("crm.deal.list");
            assert_eq!(url.as_str(), "https://portal.example/rest/1/s3cret/crm.deal.list.json");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for host in ["127.0.0.1:8080", "localhost", "[::1]:1"] {
            assert!(parse(&format!("http://{host}/rest/1/s3cret/")).is_ok(), "{host}");
        }
        for host in ["portal.example", "localhost.example", "10.0.0.1", "127.0.0.1.example"] {
            assert_eq!(fault(&format!("http://{host}/rest/1/s3cret/")), ConfigError::PlainHttp, "{host}");
        }
    }

    #[test]
    fn what_is_no_webhook_is_refused() {
        assert_eq!(fault("portal.example/rest/1/s3cret/"), ConfigError::NotAUrl);
        assert_eq!(fault("ftp://portal.example/rest/1/s3cret/"), ConfigError::Scheme);
        for path in ["", "/", "/rest/1/", "/rest/me/s3cret/", "/rest/1/s3cret/profile.json", "/rest//s3cret/"]
        {
            assert_eq!(fault(&format!("https://portal.example{path}")), ConfigError::Path, "{path}");
        }
        assert_eq!(fault("https://u:p@portal.example/rest/1/s3cret/"), ConfigError::Extras);
        assert_eq!(fault("https://portal.example/rest/1/s3cret/?x=1"), ConfigError::Extras);
    }

    fn target(location: &str) -> Result<String, RedirectFault> {
        let endpoint = parse("https://old.example/rest/1/s3cret/").expect("an endpoint");
        endpoint.redirect_target(&endpoint.method_url("profile"), location).map(String::from)
    }

    #[test]
    fn only_the_same_method_on_a_protected_host_is_a_place_to_follow_to() {
        assert_eq!(
            target("https://new.example/rest/1/s3cret/profile.json"),
            Ok("https://new.example/rest/1/s3cret/profile.json".to_owned())
        );
        assert_eq!(target("http://new.example/rest/1/s3cret/profile.json"), Err(RedirectFault::Unprotected));
        assert_eq!(target("http://127.0.0.1/rest/1/s3cret/profile.json"), Err(RedirectFault::Unprotected));
        assert_eq!(target("https://new.example/auth/?backurl=x"), Err(RedirectFault::OtherPath));
        assert_eq!(target("/auth/"), Err(RedirectFault::OtherPath));
        assert_eq!(target("https://a@new.example/rest/1/s3cret/profile.json"), Err(RedirectFault::OtherPath));
        assert_eq!(target("/rest/1/s3cret/profile.json"), Err(RedirectFault::Circle));
        assert_eq!(target("https://"), Err(RedirectFault::NoAddress));
    }

    #[test]
    fn a_move_keeps_the_path() {
        let endpoint = parse("https://old.example:8443/rest/1/s3cret/").expect("an endpoint");
        let asked = endpoint.method_url("profile");
        let target = endpoint.redirect_target(&asked, "https://new.example/rest/1/s3cret/profile.json");
        endpoint.move_to(&target.expect("a target"));
        assert_eq!(endpoint.method_url("scope").as_str(), "https://new.example/rest/1/s3cret/scope.json");
    }

    #[test]
    fn the_secret_is_blotted_out() {
        let endpoint = parse("https://old.example/rest/1/s3cret/").expect("an endpoint");
        assert_eq!(endpoint.redact("see /rest/1/s3cret/"), "see /rest/1/***/");
        assert_eq!(format!("{endpoint:?}"), "Endpoint(..)");
    }
}
