//! TLS to NATS with an authority of our own, and a word about why a server is not trusted.
//!
//! The NATS client tells of a failed handshake no more than "IO error"; only the verifier knows the reason.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tls_fault::TlsFault;

/// Makes the settings of TLS 1.2 or newer that trust the authorities of a PEM file and no others; `None` where the
/// file holds none.
pub(crate) fn trusting(pem: &[u8]) -> Option<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.ok()?).ok()?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok()?;
    let verifier = Arc::new(Telling { verifier, told: Mutex::default() });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    // "Dangerous" is what another verifier may be; this one asks the usual one and adds a log line.
    Some(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Asks the usual verifier, and says aloud what it finds wrong.
#[derive(Debug)]
struct Telling {
    verifier: Arc<WebPkiServerVerifier>,
    /// What was said last: connections are tried all the time.
    told: Mutex<Option<Cow<'static, str>>>,
}

impl Telling {
    fn tell(&self, error: Option<&Error>) {
        let wrong = error.map(advice);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wrong) = wrong.as_ref().filter(|_| *told != wrong) {
            tracing::error!(
                "No connection to NATS, the server is not to be trusted: {wrong}. It was told nothing; it goes on by \
                 itself once that is put right"
            );
        }
        *told = wrong;
    }
}

/// Says what is wrong and what to do, by the names of our settings.
fn advice(error: &Error) -> Cow<'static, str> {
    match TlsFault::of(error) {
        Some(fault) => fault.advice("NATS_CA_FILE", "NATS_URL"),
        None => "its certificate cannot be checked".into(),
    }
}

impl ServerCertVerifier for Telling {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        self.tell(verified.as_ref().err());
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_readable_authority_is_of_no_use() {
        for pem in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(trusting(pem.as_bytes()).is_none(), "{pem}");
        }
    }
}
