//! What keeps a TLS connection from coming about, found in the depths of an HTTP error.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

/// Why the other side is not trusted. Nothing was sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFault {
    /// Signed by an authority that is not trusted here.
    #[error(
        "its certificate is signed by an authority unknown here; name that authority's PEM file in OTMECHALKA_CA_FILE, or \
         install the system's CA certificates"
    )]
    UnknownAuthority,
    /// Made for other host names.
    #[error("its certificate is for another host name; put the host in OTMECHALKA_URL right")]
    WrongName,
    /// No longer valid.
    #[error("its certificate has expired; have it renewed, or set this machine's clock right")]
    Expired,
    /// Not valid yet.
    #[error("its certificate is not valid yet; set this machine's clock right")]
    NotYetValid,
    /// Not acceptable for another reason.
    #[error("its certificate is not acceptable; have it replaced")]
    BadCertificate,
    /// It speaks no TLS that is safe.
    #[error("it speaks neither TLS 1.2 nor 1.3")]
    OldProtocol,
}

impl TlsFault {
    /// Looks for one in an error and its causes.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
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

/// Tells whether an HTTP client could not be made because this machine has no CA certificates at all.
pub(crate) fn lacks_authorities(error: &(dyn Error + 'static)) -> bool {
    // The verifier of the platform has no better word for it.
    matches!(find(error), Some(rustls::Error::General(text)) if text.contains("No CA certificates"))
}
