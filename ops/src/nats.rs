//! The connection to NATS that operators' commands use.

use std::time::Duration;

use runtime::broker::NatsSettings;
use runtime::health::Health;
use runtime::settings::SettingsError;
use runtime::{Broker, CancellationToken, Reader};

use crate::environment::Environment;
use crate::exit::Failure;

/// Longest wait for a server that should be there.
const PATIENCE: Duration = Duration::from_secs(8);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The settings are of no use.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No server answered.
    #[error("NATS did not answer as JetStream within {} s: {reason}", PATIENCE.as_secs())]
    NoAnswer {
        /// The last word about it.
        reason: String,
    },
}

impl From<NatsError> for Failure {
    fn from(error: NatsError) -> Failure {
        match error {
            NatsError::Settings(error) => Failure::settings(error),
            error @ NatsError::NoAnswer { .. } => Failure::environment(format!(
                "{error}. Set NATS_URL as the stages have it, or start `rollcall up` with the same STATE_DIR"
            )),
        }
    }
}

/// Connects by the settings `NATS_URL` and its companions.
pub async fn connect(environment: &Environment) -> Result<Broker, NatsError> {
    let source = environment.source();
    let reader = Reader::new(&source);
    let settings = NatsSettings::read(&reader);
    let settings = reader.finish(|| settings)?;
    connect_to(&settings).await
}

/// Connects and makes sure that JetStream answers.
pub async fn connect_to(settings: &NatsSettings) -> Result<Broker, NatsError> {
    let no_answer = |reason: String| NatsError::NoAnswer { reason };
    let broker = Broker::connect("ops", settings, Health::default(), CancellationToken::new())
        .await
        .map_err(|error| no_answer(error.to_string()))?;
    match tokio::time::timeout(PATIENCE, broker.jetstream().query_account()).await {
        Ok(Ok(_)) => Ok(broker),
        Ok(Err(error)) => Err(no_answer(error.to_string())),
        Err(_) => Err(no_answer("check the address, the credentials and that JetStream is on".into())),
    }
}
