//! Asks otmechalka for a client that nobody has.

use otmechalka::{Client, Error, ErrorClass};

use crate::answer::Finding;

const CHECK: &str = "otmechalka";
const WHAT: &str = "otmechalka";

/// No contact has this id.
const NOBODY: &str = "0";

/// Looks whether it answers and takes the token.
pub async fn look(client: &Client) -> Finding {
    match client.get_client(NOBODY).await {
        Ok(_) => Finding::ok(CHECK, WHAT, "answers and takes the token"),
        Err(error) => Finding::error(CHECK, WHAT, error.to_string(), remedy(&error)),
    }
}

fn remedy(error: &Error) -> &'static str {
    match error.class() {
        ErrorClass::Unauthorized => {
            "Put OTMECHALKA_TOKEN right, and OTMECHALKA_AUTH_SCHEME if the word before the token differs. \
             Until then nothing is pushed and nobody is marked; it goes on by itself afterwards"
        }
        ErrorClass::RateLimited { .. } => "Wait and try again; the pusher waits by itself",
        ErrorClass::Transient if matches!(error, Error::Untrusted { .. }) => {
            "Until then nothing is sent there, the token least of all, and records wait. It goes on by itself afterwards"
        }
        ErrorClass::Transient if matches!(error, Error::Unreachable { .. }) => {
            "Check OTMECHALKA_URL, the network and the certificate (OTMECHALKA_CA_FILE). Records wait meanwhile"
        }
        ErrorClass::Transient => {
            "Check that OTMECHALKA_URL is the address before /api/, and that otmechalka is well. Records wait \
             meanwhile"
        }
        ErrorClass::NotFound | ErrorClass::Refused { .. } => {
            "Check that OTMECHALKA_URL is the address before /api/"
        }
    }
}
