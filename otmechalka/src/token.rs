//! The token, as it stands in a header, and where to look for another one.

use std::sync::{PoisonError, RwLock};

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

/// Tells the token as it is configured now, if it still is.
pub(crate) type TokenSource = Box<dyn Fn() -> Option<SecretString> + Send + Sync>;

/// The token of a client.
pub(crate) struct Token {
    scheme: String,
    header: RwLock<Option<HeaderValue>>,
    source: Option<TokenSource>,
}

impl Token {
    /// Takes a token; `None` where it has characters that no header can hold.
    pub(crate) fn new(
        scheme: String,
        token: Option<&SecretString>,
        source: Option<TokenSource>,
    ) -> Option<Token> {
        let header = RwLock::new(header(&scheme, token)?);
        Some(Token { scheme, header, source })
    }

    /// Returns what to send, if anything.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        self.header.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the token that is configured now. Tells whether it is another one than before.
    pub(crate) fn renew(&self) -> bool {
        let Some(token) = self.source.as_ref().and_then(|source| source()) else { return false };
        let Some(Some(now)) = header(&self.scheme, Some(&token)) else { return false };
        let mut header = self.header.write().unwrap_or_else(PoisonError::into_inner);
        header.replace(now.clone()) != Some(now)
    }
}

/// Makes a header; the inner `None` is no token.
fn header(scheme: &str, token: Option<&SecretString>) -> Option<Option<HeaderValue>> {
    let Some(text) = authorization(scheme, token) else { return Some(None) };
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(Some(value))
}

/// Puts scheme and token together, or nothing when there is no token.
fn authorization(scheme: &str, token: Option<&SecretString>) -> Option<String> {
    let token = token?.expose_secret().trim();
    match (token.is_empty(), scheme.trim()) {
        (true, _) => None,
        (false, "") => Some(token.to_owned()),
        (false, scheme) => Some(format!("{scheme} {token}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_token_sends_no_header() {
        let secret = |text: &str| Some(SecretString::from(text));
        assert_eq!(authorization("Token", secret("abc").as_ref()).as_deref(), Some("Token abc"));
        assert_eq!(authorization("", secret(" abc\n").as_ref()).as_deref(), Some("abc"));
        assert_eq!(authorization("Token", secret("").as_ref()), None);
        assert_eq!(authorization("Token", None), None);
    }

    #[test]
    fn another_token_is_taken_and_a_broken_or_missing_one_is_not() {
        let configured = std::sync::Arc::new(std::sync::Mutex::new(Some("old")));
        let source = configured.clone();
        let source = move || source.lock().expect("no panic").map(SecretString::from);
        let old = SecretString::from("old");
        let token = Token::new("Token".to_owned(), Some(&old), Some(Box::new(source))).expect("a token");
        for unfit in [Some("old"), None, Some(""), Some("a\u{7}b")] {
            *configured.lock().expect("no panic") = unfit;
            assert!(!token.renew(), "{unfit:?}");
        }
        *configured.lock().expect("no panic") = Some("new");
        assert!(token.renew() && !token.renew());
        assert_eq!(token.header().expect("a header"), "Token new");
    }
}
