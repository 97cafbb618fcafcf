//! The webhook's address, which is the secret itself.

use std::fmt;
use std::sync::{RwLock, RwLockReadGuard};

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use crate::error::{ConfigError, RedirectFault};

/// Tells the address of the webhook as it is configured now, if it still is.
pub(crate) type WebhookSource = Box<dyn Fn() -> Option<SecretString> + Send + Sync>;

/// Where requests go.
pub(crate) struct Endpoint {
    webhook: RwLock<Webhook>,
    /// Asked once the portal refuses the webhook: somebody may have replaced it.
    source: Option<WebhookSource>,
}

struct Webhook {
    base: Url,
    /// Every code that was ever used here: the portal may speak of an old one.
    codes: Vec<SecretString>,
}

impl Endpoint {
    /// Reads `https://PORTAL/rest/USER/CODE/`.
    pub(crate) fn parse(webhook_url: &SecretString) -> Result<Self, ConfigError> {
        let (base, code) = read(webhook_url)?;
        let webhook = Webhook { base, codes: vec![code] };
        Ok(Self { webhook: RwLock::new(webhook), source: None })
    }

    /// Has the webhook's address asked for where it is refused.
    pub(crate) fn renewed_by(self, source: Option<WebhookSource>) -> Self {
        Self { source, ..self }
    }

    /// Tells whether the webhook goes over TLS.
    pub(crate) fn is_protected(&self) -> bool {
        self.read().base.scheme() == "https"
    }

    /// Returns the address of a method.
    pub(crate) fn method_url(&self, method: &str) -> Url {
        let mut url = self.read().base.clone();
        url.set_path(&format!("{}{method}.json", url.path()));
        url
    }

    /// Returns how many webhooks there were so far.
    pub(crate) fn generation(&self) -> usize {
        self.read().codes.len()
    }

    /// Takes the webhook that is configured now. Tells whether it is another one than in this generation: another request may
    /// have taken it first.
    pub(crate) fn renew(&self, generation: usize) -> bool {
        if let Some((base, code)) = self.source.as_ref().and_then(|source| read(&source()?).ok()) {
            let is_protected = self.is_protected();
            let mut webhook = self.webhook.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            // What plain HTTP was not set up for, and what TLS was, stays so.
            if webhook.base != base && is_protected == (base.scheme() == "https") {
                webhook.base = base;
                webhook.codes.push(code);
            }
        }
        self.generation() != generation
    }

    /// Says what a redirect is, without any text of the other side but the name of a host.
    pub(crate) fn redirect_fault(&self, asked: &Url, location: Option<&str>) -> RedirectFault {
        let Some(target) = location.and_then(|location| asked.join(location).ok()) else {
            return RedirectFault::NoAddress;
        };
        match target.host_str().map(|host| self.redact(host)) {
            Some(host) if target.path() == asked.path() && target.origin() != asked.origin() => {
                RedirectFault::Moved { host: host.into() }
            }
            _ => RedirectFault::OtherPage,
        }
    }

    /// Removes the secret from a text of foreign origin.
    pub(crate) fn redact(&self, text: &str) -> String {
        let webhook = self.read();
        webhook.codes.iter().fold(text.to_owned(), |text, code| text.replace(code.expose_secret(), "***"))
    }

    fn read(&self) -> RwLockReadGuard<'_, Webhook> {
        self.webhook.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn read(webhook_url: &SecretString) -> Result<(Url, SecretString), ConfigError> {
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
    Ok((base, code.into()))
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

    fn fault_of(location: &str) -> RedirectFault {
        let endpoint = parse("https://old.example/rest/1/s3cret/").expect("an endpoint");
        endpoint.redirect_fault(&endpoint.method_url("profile"), Some(location))
    }

    #[test]
    fn a_redirect_names_at_most_a_host() {
        let moved = |host: &str| RedirectFault::Moved { host: host.into() };
        assert_eq!(fault_of("https://new.example/rest/1/s3cret/profile.json"), moved("new.example"));
        assert_eq!(fault_of("https://s3cret.example/rest/1/s3cret/profile.json"), moved("***.example"));
        for location in ["/auth/", "https://new.example/auth/?code=s3cret", "/rest/1/s3cret/profile.json"] {
            assert_eq!(fault_of(location), RedirectFault::OtherPage, "{location}");
        }
        assert_eq!(fault_of("https://"), RedirectFault::NoAddress);
    }

    #[test]
    fn a_webhook_that_was_replaced_is_taken_and_the_old_code_stays_a_secret() {
        let now = std::sync::Arc::new(std::sync::Mutex::new("https://old.example/rest/1/s3cret/".to_owned()));
        let source = now.clone();
        let endpoint = parse("https://old.example/rest/1/s3cret/")
            .expect("an endpoint")
            .renewed_by(Some(Box::new(move || Some(source.lock().expect("no panic").clone().into()))));
        assert!(!endpoint.renew(1));
        for unfit in ["", "https://new.example/", "http://127.0.0.1/rest/1/n3wc0de/"] {
            unfit.clone_into(&mut now.lock().expect("no panic"));
            assert!(!endpoint.renew(1), "{unfit}");
        }
        "https://new.example/rest/7/n3wc0de/\n".clone_into(&mut now.lock().expect("no panic"));
        assert!(endpoint.renew(1) && endpoint.renew(1), "the second request, too, had the old one");
        assert!(!endpoint.renew(2));
        assert_eq!(endpoint.method_url("scope").as_str(), "https://new.example/rest/7/n3wc0de/scope.json");
        assert_eq!(endpoint.redact("s3cret n3wc0de"), "*** ***");
    }

    #[test]
    fn the_secret_is_blotted_out() {
        let endpoint = parse("https://old.example/rest/1/s3cret/").expect("an endpoint");
        assert_eq!(endpoint.redact("see /rest/1/s3cret/"), "see /rest/1/***/");
        assert_eq!(format!("{endpoint:?}"), "Endpoint(..)");
    }
}
