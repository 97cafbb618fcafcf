//! What keeps a TLS connection from coming about, found in the depths of an HTTP error.

use std::borrow::Cow;
use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

/// Why the other side is not trusted. Nothing was sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFault {
    /// Signed by an authority that is not trusted here.
    UnknownAuthority,
    /// Made for other host names.
    WrongName,
    /// No longer valid.
    Expired,
    /// Not valid yet.
    NotYetValid,
    /// Not acceptable for another reason.
    BadCertificate,
    /// It speaks no TLS that is safe.
    OldProtocol,
}

impl TlsFault {
    /// Looks for one in an error and its causes.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        match find(error)? {
            rustls::Error::InvalidCertificate(error) => Some(Self::of_certificate(error)),
            rustls::Error::PeerIncompatible(_)
            | rustls::Error::AlertReceived(
                AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure,
            ) => Some(Self::OldProtocol),
            _ => None,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            // An authority of the same name and another key is another one.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::WrongName
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            _ => Self::BadCertificate,
        }
    }

    /// Says what is wrong and what to do, by the names of the settings for our own authorities and for the address.
    pub fn advice(self, authorities: &str, address: &str) -> Cow<'static, str> {
        let text = match self {
            Self::UnknownAuthority => {
                return format!(
                    "its certificate is signed by an authority unknown here; name that authority's PEM file in \
                     {authorities}, or install the system's CA certificates"
                )
                .into();
            }
            Self::WrongName => {
                return format!("its certificate is for another host name; put the host in {address} right")
                    .into();
            }
            Self::Expired => {
                "its certificate has expired; have it renewed, or set this machine's clock right"
            }
            Self::NotYetValid => "its certificate is not valid yet; set this machine's clock right",
            Self::BadCertificate => "its certificate is not acceptable; have it replaced",
            Self::OldProtocol => "it speaks neither TLS 1.2 nor 1.3",
        };
        text.into()
    }
}

/// Follows the causes; an I/O error hides what it was made of from them.
fn find<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Says why no connection came about, where that is known; behind a colon, and without the address.
pub fn obstacle(error: &(dyn Error + 'static)) -> &'static str {
    // What carries them has no types for these, only words.
    const WORDS: [(&str, &str); 5] = [
        ("dns error", ": its name does not resolve"),
        ("tunnel error: proxy authorization required", ": the proxy wants another login"),
        ("tunnel error: failed to create underlying connection", ": the proxy cannot be reached"),
        ("tunnel error", ": the proxy does not let us through"),
        ("Connection refused", ": nobody listens there"),
    ];
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if let Some((_, meaning)) = WORDS.iter().find(|(words, _)| text.starts_with(words)) {
            return meaning;
        }
        next = error.source();
    }
    ""
}

/// Tells whether an HTTP client could not be made because this machine has no CA certificates at all.
pub fn lacks_authorities(error: &(dyn Error + 'static)) -> bool {
    // The verifier of the platform has no better word for it.
    matches!(find(error), Some(rustls::Error::General(text)) if text.contains("No CA certificates"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_obstacle_is_named_where_it_is_known() {
        assert_eq!(obstacle(&io::Error::other("elsewhere")), "");
        assert_eq!(obstacle(&io::Error::from_raw_os_error(111)), ": nobody listens there");
        assert_eq!(obstacle(&io::Error::other("dns error")), ": its name does not resolve");
    }

    #[test]
    fn a_fault_is_found_inside_what_hides_it_and_names_the_setting() {
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let hidden = io::Error::other(io::Error::other(expired));
        assert_eq!(TlsFault::of(&hidden), Some(TlsFault::Expired));
        assert_eq!(TlsFault::of(&io::Error::other("reset by peer")), None);
        assert!(lacks_authorities(&io::Error::other(rustls::Error::General("No CA certificates".into()))));
        assert!(!lacks_authorities(&hidden));
        let advice = |fault: TlsFault| fault.advice("OUR_CA_FILE", "ITS_URL");
        assert!(advice(TlsFault::UnknownAuthority).contains("in OUR_CA_FILE,"));
        assert!(advice(TlsFault::WrongName).contains("in ITS_URL "));
        assert_eq!(advice(TlsFault::OldProtocol), "it speaks neither TLS 1.2 nor 1.3");
    }
}
