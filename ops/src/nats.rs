//! The connection to NATS that operators' commands use.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{AccountError, AccountErrorKind};
use runtime::broker::NatsSettings;
use runtime::health::Health;
use runtime::settings::SettingsError;
use runtime::{Broker, CancellationToken, Reader};
use serde_json::Value;

use crate::credentials::permissions::{API_PREFIX, PAGE, PAGE_ACCOUNT, WHO_AM_I};
use crate::environment::Environment;
use crate::exit::Failure;

/// Longest wait for a server that should be there.
const PATIENCE: Duration = Duration::from_secs(8);

/// Pause between two questions meanwhile.
const PAUSE: Duration = Duration::from_millis(500);

/// What to do where none is found: a running `rollcall up` writes down where its NATS is, in its state folder.
const REMEDY: &str = "Set NATS_URL as the stages have it, or start `rollcall up` with the same STATE_DIR (unless set, `state` \
                      in the folder in which it is called)";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// Nothing says where NATS is, and no `up` runs here.
    #[error(transparent)]
    Unset(SettingsError),
    /// The settings are of no use.
    #[error(transparent)]
    Settings(SettingsError),
    /// No server answered.
    #[error("NATS did not answer as JetStream: {reason}")]
    NoAnswer {
        /// The last word about it.
        reason: String,
    },
}

impl From<NatsError> for Failure {
    fn from(error: NatsError) -> Failure {
        match error {
            NatsError::Unset(error) => Failure::settings(error).remedy(REMEDY),
            NatsError::Settings(error) => Failure::settings(error),
            error @ NatsError::NoAnswer { .. } => {
                Failure::environment(error).called("nats.connection").remedy(REMEDY)
            }
        }
    }
}

/// Connects by the settings `NATS_URL` and its companions.
pub async fn connect(environment: &Environment) -> Result<Broker, NatsError> {
    connect_to(&settings(environment)?).await
}

/// The same, and waits so long for the servers to elect their leader, where that is longer than one waits otherwise.
pub async fn connect_within(environment: &Environment, patience: Duration) -> Result<Broker, NatsError> {
    connect_named("ops", &settings(environment)?, patience.max(PATIENCE)).await
}

fn settings(environment: &Environment) -> Result<NatsSettings, NatsError> {
    let source = environment.source();
    let reader = Reader::new(&source);
    let settings = NatsSettings::read(&reader);
    let is_set = environment.has("NATS_URL");
    reader.finish(|| settings).map_err(if is_set { NatsError::Settings } else { NatsError::Unset })
}

/// Connects by the same settings as another user, whose secret is in a file.
pub async fn connect_as(
    environment: &Environment,
    user: &'static str,
    seed_file: &Path,
) -> Result<Broker, NatsError> {
    let mut environment = environment.clone();
    ["NATS_USER", "NATS_PASSWORD", "NATS_NKEY_SEED"].iter().for_each(|name| environment.unset(name));
    environment.set("NATS_NKEY_SEED_FILE", seed_file.display().to_string());
    connect_named(user, &settings(&environment)?, PATIENCE).await
}

/// Connects by the settings `NATS_URL` and its companions, as the status page: its user, where there are users, may only read.
pub async fn connect_page(environment: &Environment) -> Result<Broker, NatsError> {
    connect_named(PAGE, &settings(environment)?, PATIENCE).await
}

/// Tells whether a connection is the status page's: answers come to an inbox that has the user's name.
pub fn is_page(broker: &Broker) -> bool {
    broker.client().new_inbox().starts_with(&format!("_INBOX_{PAGE}."))
}

/// Connects and makes sure that JetStream answers.
pub async fn connect_to(settings: &NatsSettings) -> Result<Broker, NatsError> {
    connect_named("ops", settings, PATIENCE).await
}

/// The name decides where answers come to, which is all that a user may listen to.
async fn connect_named(name: &str, settings: &NatsSettings, patience: Duration) -> Result<Broker, NatsError> {
    let broker = Broker::connect(name, settings, Health::default(), CancellationToken::new())
        .await
        .map_err(|error| NatsError::NoAnswer { reason: error.to_string() })?;
    let broker = if name == PAGE { in_its_account(broker).await? } else { broker };
    answers_within(patience, &broker).await?;
    Ok(broker)
}

/// Asks JetStream as the page's account may, where the page is in that; with any other user it is among the stages.
async fn in_its_account(broker: Broker) -> Result<Broker, NatsError> {
    let told = answered(PATIENCE, broker.client().request(WHO_AM_I, "".into())).await?;
    let told: Value = serde_json::from_slice(&told.payload).unwrap_or_default();
    let is_guest = told["data"]["account"] == PAGE_ACCOUNT;
    Ok(if is_guest { broker.under_prefix(API_PREFIX) } else { broker })
}

/// Makes sure that JetStream answers.
pub async fn answers(broker: &Broker) -> Result<(), NatsError> {
    answers_within(PATIENCE, broker).await
}

/// Asks again where nobody answered: servers of a cluster drop what they are asked before they have a leader.
async fn answers_within(patience: Duration, broker: &Broker) -> Result<(), NatsError> {
    let asking = async {
        loop {
            match broker.jetstream().query_account().await {
                Err(error) if is_early(&error) => tokio::time::sleep(PAUSE).await,
                answer => return answer.map(drop),
            }
        }
    };
    answered(patience, asking).await
}

/// Tells whether a cluster that is still coming up would answer so.
fn is_early(error: &AccountError) -> bool {
    match error.kind() {
        AccountErrorKind::TimedOut => true,
        AccountErrorKind::JetStream(error) => error.error_code() == ErrorCode::CLUSTER_NOT_AVAILABLE,
        AccountErrorKind::JetStreamUnavailable | AccountErrorKind::Other => false,
    }
}

async fn answered<T, E: Display>(
    patience: Duration,
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, NatsError> {
    let silence = format!(
        "nothing of use came for {} s; check the address, the credentials, that JetStream is on and, of a cluster, that most \
         of its servers are up",
        patience.as_secs()
    );
    let answer = tokio::time::timeout(patience, asked).await;
    let answer = answer.map_or(Err(silence), |answer| answer.map_err(|error| error.to_string()));
    answer.map_err(|reason| NatsError::NoAnswer { reason })
}
