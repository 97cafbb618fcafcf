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

    /// Takes the token that is configured now. Returns what to send, if that is another one than was sent.
    pub(crate) fn other_than(&self, sent: Option<&HeaderValue>) -> Option<HeaderValue> {
        let token = self.source.as_ref().and_then(|source| source());
        if let Some(Some(now)) = token.and_then(|token| header(&self.scheme, Some(&token))) {
            *self.header.write().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
        // Another call may have taken it meanwhile.
        self.header().filter(|now| Some(now) != sent)
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
            assert_eq!(token.other_than(token.header().as_ref()), None, "{unfit:?}");
        }
        *configured.lock().expect("no panic") = Some("new");
        let sent = token.header();
        for _of_two_calls in 0..2 {
            assert_eq!(token.other_than(sent.as_ref()).expect("another one"), "Token new");
        }
        assert_eq!(token.other_than(token.header().as_ref()), None);
    }
}
