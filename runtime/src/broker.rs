//! The connection to NATS, and what is read from its streams and buckets.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::{self, kv, stream::Stream};
use async_nats::{Auth, AuthError, ClientError, ConnectErrorKind, ConnectOptions, Event, ReconnectToServer};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use schemas::streams::{BucketDefinition, ConsumerDefinition, StreamDefinition};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::metrics::{Metrics, ShellMetrics};
use crate::outside;
use crate::reach::{Acks, Asked, Silence, patience};
use crate::settings::{Reader, SecretFile};
use crate::trace::Tracer;

/// How to reach NATS.
#[derive(Clone)]
pub struct NatsSettings {
    servers: Vec<async_nats::ServerAddr>,
    credentials: Credentials,
    tls: Option<Arc<rustls::ClientConfig>>,
}

#[derive(Clone)]
enum Credentials {
    None,
    UserPassword(String, Renewable),
    NkeySeed(Renewable),
}

/// A secret that, from a file, is read again for every connection, so that it can be replaced without a restart.
#[derive(Clone)]
struct Renewable(SecretString, Option<SecretFile>);

impl Renewable {
    fn now(&self) -> SecretString {
        self.1.as_ref().and_then(SecretFile::read).unwrap_or_else(|| self.0.clone())
    }
}

impl NatsSettings {
    /// Returns the hosts beyond this machine and its containers that are spoken to without TLS.
    pub fn in_the_clear(&self) -> Vec<&str> {
        let servers = self.servers.iter().filter(|server| self.tls.is_none() && !server.tls_required());
        servers.map(|server| server.host()).filter(|host| !is_near(host)).collect()
    }

    /// Reads `NATS_URL`, `NATS_USER` with `NATS_PASSWORD`, or `NATS_NKEY_SEED`, and `NATS_CA_FILE`.
    pub fn read(reader: &Reader<'_>) -> Option<NatsSettings> {
        let servers = read_servers(reader);
        let user = reader.optional_text("NATS_USER");
        let password = reader.optional_secret("NATS_PASSWORD", "a password", "…", |_| true);
        let seed =
            reader.optional_secret("NATS_NKEY_SEED", "a user seed that starts with SU", "SU…", |seed| {
                seed.starts_with("SU")
            });
        let tls = read_tls(reader);
        let credentials = match (user, password?, seed?) {
            (None, None, None) => Some(Credentials::None),
            (Some(user), Some(password), None) => {
                let password = Renewable(password, reader.secret_file("NATS_PASSWORD"));
                Some(Credentials::UserPassword(user, password))
            }
            (None, None, Some(seed)) => {
                Some(Credentials::NkeySeed(Renewable(seed, reader.secret_file("NATS_NKEY_SEED"))))
            }
            _ => {
                reader.problem(
                    "NATS_USER",
                    "credentials that do not go together",
                    "NATS_USER with NATS_PASSWORD, or NATS_NKEY_SEED alone, or none",
                    "mapper",
                );
                None
            }
        };
        Some(NatsSettings { servers: servers?, credentials: credentials?, tls: tls? })
    }

    /// Takes one address without credentials, as tests and the embedded server use it.
    pub fn plain(url: &str) -> Result<NatsSettings, BrokerError> {
        let server = url.parse().map_err(|_| BrokerError::Address)?;
        Ok(NatsSettings { servers: vec![server], credentials: Credentials::None, tls: None })
    }
}

/// Tells whether a host is this machine, or a neighbour in a network of containers, whose names have no dots.
pub(crate) fn is_near(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => !host.contains('.'),
    }
}

fn read_servers(reader: &Reader<'_>) -> Option<Vec<async_nats::ServerAddr>> {
    let (name, example) = ("NATS_URL", "nats://127.0.0.1:4222");
    let expected = "one or several NATS addresses, comma separated, without user, password or token";
    // Not shown: what stands before an `@` is a secret.
    if reader.optional_text(name).is_some_and(|text| text.contains('@')) {
        reader.problem(name, "an address with a user, password or token (not shown)", expected, example);
        return None;
    }
    reader.required(name, expected, example, |text| {
        text.split(',').map(|part| part.trim().parse().ok()).collect()
    })
}

fn read_tls(reader: &Reader<'_>) -> Option<Option<Arc<rustls::ClientConfig>>> {
    let name = "NATS_CA_FILE";
    let Some(pem) = reader.authorities(name)? else { return Some(None) };
    let config = crate::tls::trusting(&pem);
    if config.is_none() {
        let expected = "a PEM file of certificate authorities alone";
        reader.problem(name, "a certificate that cannot be read", expected, "/etc/ssl/nats.pem");
    }
    Some(Some(Arc::new(config?)))
}

/// NATS could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The address is none.
    #[error("the NATS address is malformed")]
    Address,
    /// The server was not reached or did not answer.
    #[error("{operation}: {reason}")]
    Unavailable {
        /// What was attempted.
        operation: String,
        /// Why it failed.
        reason: String,
    },
    /// Another writer was first.
    #[error("{operation}: another writer was first")]
    Conflict {
        /// What was attempted.
        operation: String,
    },
    /// The stage is stopping.
    #[error("the stage is stopping")]
    Stopping,
}

impl BrokerError {
    pub(crate) fn unavailable(operation: impl Into<String>, reason: impl std::fmt::Display) -> BrokerError {
        BrokerError::Unavailable { operation: operation.into(), reason: reason.to_string() }
    }
}

/// A message as a stream stores it.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// Its sequence.
    pub sequence: u64,
    /// When it was stored.
    pub stored: DateTime<Utc>,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: async_nats::HeaderMap,
    /// Its payload.
    pub payload: Bytes,
}

impl From<jetstream::message::StreamMessage> for StoredMessage {
    fn from(message: jetstream::message::StreamMessage) -> StoredMessage {
        StoredMessage {
            sequence: message.sequence,
            stored: message.time,
            subject: message.subject.to_string(),
            headers: message.headers,
            payload: message.payload,
        }
    }
}

impl TryFrom<jetstream::Message> for StoredMessage {
    /// It is no delivery of a consumer's.
    type Error = async_nats::Error;

    fn try_from(delivered: jetstream::Message) -> Result<StoredMessage, async_nats::Error> {
        let info = delivered.info()?;
        let (sequence, stored) = (info.stream_sequence, info.published);
        let message = delivered.message;
        Ok(StoredMessage {
            sequence,
            stored,
            subject: message.subject.to_string(),
            headers: message.headers.unwrap_or_default(),
            payload: message.payload,
        })
    }
}

impl StoredMessage {
    /// Looks a header up.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// Reads it as an event.
    pub fn decode<T: schemas::EventData>(&self) -> Result<(schemas::Envelope, T), schemas::EnvelopeError> {
        schemas::Envelope::decode(|name| self.header(name), &self.payload)
    }
}

/// A connection that reconnects by itself for ever.
#[derive(Clone)]
pub struct Broker {
    link: Link,
    stopping: CancellationToken,
    metrics: Metrics,
    shell: Arc<ShellMetrics>,
    tracer: Tracer,
    /// One of several servers, of which another may do better.
    has_others: bool,
    silence: Arc<Silence>,
    acks: Arc<Acks>,
    /// Held by whoever has a message in hand over which the process may die.
    solitude: Arc<Semaphore>,
    /// How often a connection came about.
    connections: watch::Receiver<u64>,
}

/// What is at the other end.
#[derive(Clone)]
enum Link {
    Nats(Arc<(async_nats::Client, jetstream::Context)>),
    #[cfg(all(feature = "faults", debug_assertions))]
    Simulated(crate::simulated::Seat),
}

/// Longest wait for one answer of the server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What to do where NATS is there and stores nothing. It answers nothing either then, or a time-out.
pub(crate) const FULL_DISK: &str = "If the disk of NATS is full, make room and restart nats-server";

/// First pause between tries of a request to the server; doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Tries after which it is said that there is still no answer.
pub(crate) const TRIES_IN_SILENCE: u32 = 5;

/// Pause between looks whether the server is still there; after the third without an answer the next server is tried.
const PING: Duration = Duration::from_secs(2);

/// The same where there are other servers: one that stands still is left before the others have elected a leader.
const PING_TO_ONE_OF_MANY: Duration = Duration::from_secs(1);

/// Longest wait for a connection to the only server. Over a way of half a second TLS and NATS take 3.5 s to agree.
const CONNECTING: Duration = Duration::from_secs(10);

/// Longest wait for a connection where there are other servers: one that stands still takes it and says nothing.
const CONNECTING_TO_ONE_OF_MANY: Duration = Duration::from_secs(4);

impl Broker {
    /// Connects; keeps trying in the background while no server answers.
    pub async fn connect(
        name: &str,
        settings: &NatsSettings,
        health: Health,
        stopping: CancellationToken,
    ) -> Result<Broker, BrokerError> {
        let said = Arc::new(Mutex::new(None));
        let silence = Arc::new(Silence::default());
        let (connected, connections) = watch::channel(0_u64);
        let broken_off = Arc::clone(&silence);
        let turn = Arc::new(AtomicUsize::new(rand_index(settings.servers.len())));
        let has_others = settings.servers.len() > 1;
        let options = options_with(&settings.credentials)
            .name(format!("rollcall-{name}"))
            .custom_inbox_prefix(format!("_INBOX_{name}"))
            .retry_on_initial_connect()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .ping_interval(if has_others { PING_TO_ONE_OF_MANY } else { PING })
            .connection_timeout(if has_others { CONNECTING_TO_ONE_OF_MANY } else { CONNECTING })
            // Nobody is gone to but whom the settings name.
            .ignore_discovered_servers()
            // In turn, so that one that is no good is left for another for sure.
            .reconnect_to_server_callback(move |servers, _| {
                let next = servers.get(turn.fetch_add(1, Ordering::Relaxed) % servers.len().max(1)).cloned();
                async move { next.map(|server| ReconnectToServer { addr: server.addr, delay: None }) }
            })
            // The default doubles up to 4 s, which would be most of a fail-over.
            .reconnect_delay_callback(|attempts| {
                Duration::from_millis((50 * attempts as u64).min(500)) + jitter(Duration::from_millis(50))
            })
            .event_callback(move |event| {
                if matches!(event, Event::Connected) {
                    broken_off.end(Asked::Most);
                    connected.send_modify(|count| *count += 1);
                }
                let (health, said) = (health.clone(), said.clone());
                async move { note(&event, &health, &said) }
            });
        let options = match &settings.tls {
            Some(config) => options.require_tls(true).tls_client_config(config.as_ref().clone()),
            None => options,
        };
        let client = options
            .connect(&settings.servers)
            .await
            .map_err(|error| BrokerError::unavailable("connect to NATS", error.kind()))?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(REQUEST_TIMEOUT);
        let metrics = Metrics::default();
        let shell = Arc::new(ShellMetrics::register(&metrics));
        Ok(Broker {
            link: Link::Nats(Arc::new((client, jetstream))),
            stopping,
            metrics,
            shell,
            tracer: Tracer::default(),
            has_others,
            silence,
            acks: Arc::default(),
            solitude: Arc::new(Semaphore::new(1)),
            connections,
        })
    }

    /// Takes a simulated process for the other end.
    #[cfg(all(feature = "faults", debug_assertions))]
    pub fn simulated(seat: crate::simulated::Seat, stopping: CancellationToken) -> Broker {
        let metrics = Metrics::default();
        let shell = Arc::new(ShellMetrics::register(&metrics));
        Broker {
            link: Link::Simulated(seat),
            stopping,
            metrics,
            shell,
            tracer: Tracer::default(),
            has_others: false,
            silence: Arc::default(),
            acks: Arc::default(),
            solitude: Arc::new(Semaphore::new(1)),
            connections: watch::channel(0).1,
        }
    }

    /// Returns the simulated process, where this is one.
    #[cfg(all(feature = "faults", debug_assertions))]
    pub(crate) fn seat(&self) -> Option<&crate::simulated::Seat> {
        match &self.link {
            Link::Simulated(seat) => Some(seat),
            Link::Nats(..) => None,
        }
    }

    /// Has what passes here counted in these metrics; without them it is counted for nobody.
    pub fn counting_in(self, metrics: &Metrics) -> Broker {
        let shell = Arc::new(ShellMetrics::register(metrics));
        Broker { metrics: metrics.clone(), shell, ..self }
    }

    /// Has what passes here traced.
    pub fn tracing_to(self, tracer: Tracer) -> Broker {
        Broker { tracer, ..self }
    }

    /// Returns where spans are made.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Returns the metrics of the process.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn shell_metrics(&self) -> &ShellMetrics {
        &self.shell
    }

    /// Returns the bare client.
    pub fn client(&self) -> &async_nats::Client {
        match &self.link {
            Link::Nats(nats) => &nats.0,
            #[cfg(all(feature = "faults", debug_assertions))]
            Link::Simulated(_) => unreachable!("a simulated process has no client"),
        }
    }

    /// Asks JetStream under another prefix than `$JS.API`: that under which another account lets its requests through.
    pub fn under_prefix(self, prefix: &str) -> Broker {
        let mut jetstream = jetstream::with_prefix(self.client().clone(), prefix);
        jetstream.set_timeout(REQUEST_TIMEOUT);
        Broker { link: Link::Nats(Arc::new((self.client().clone(), jetstream))), ..self }
    }

    /// Returns the JetStream context.
    pub fn jetstream(&self) -> &jetstream::Context {
        match &self.link {
            Link::Nats(nats) => &nats.1,
            #[cfg(all(feature = "faults", debug_assertions))]
            Link::Simulated(_) => unreachable!("a simulated process has no JetStream"),
        }
    }

    /// Returns what changes whenever a connection came about.
    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    pub(crate) fn solitude(&self) -> Arc<Semaphore> {
        Arc::clone(&self.solitude)
    }

    /// Returns what was acked lately.
    pub(crate) fn acks(&self) -> &Acks {
        &self.acks
    }

    /// Says once more what was acked of a consumer lately: the one who was told may be gone.
    pub(crate) async fn repeat_acks(&self, consumer: &str) {
        for (to, kind) in self.acks.recent(consumer, Instant::now()) {
            let _repeated = self.client().publish(to, kind).await;
        }
    }

    /// Notes an answer.
    pub(crate) fn note_answer(&self, asked: Asked) {
        self.silence.end(asked);
    }

    /// Notes that there was none; goes to another server when that has lasted.
    pub(crate) async fn note_silence(&self, asked: Asked) {
        self.note_silence_for(Duration::ZERO, asked).await;
    }

    /// Notes that there was none for so long.
    pub(crate) async fn note_silence_for(&self, duration: Duration, asked: Asked) {
        let now = Instant::now();
        let since = now.checked_sub(duration).unwrap_or(now);
        if self.has_others && self.silence.go_on(asked, since, now) {
            tracing::warn!(
                "NATS stores nothing through the server that we are connected to; trying another one"
            );
            let _is_closed = self.client().force_reconnect().await;
        }
    }

    /// Returns the token that is cancelled when the stage is to stop.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Returns a handle on a stream without asking for its state.
    pub async fn stream(&self, name: &str) -> Result<Stream<()>, BrokerError> {
        self.jetstream()
            .get_stream_no_info(name)
            .await
            .map_err(|error| BrokerError::unavailable(format!("open stream {name}"), error))
    }

    /// Returns a stream to look things up in, without asking for its state.
    pub async fn log(&self, name: &str) -> Result<Log, BrokerError> {
        #[cfg(all(feature = "faults", debug_assertions))]
        if self.seat().is_some() {
            return Ok(Log { broker: self.clone(), name: name.to_owned(), stream: None });
        }
        let stream = Some(self.stream(name).await?);
        Ok(Log { broker: self.clone(), name: name.to_owned(), stream })
    }

    /// Waits until these exist, saying what is missing; only `rollcall bootstrap` makes them.
    pub async fn wait_for(
        &self,
        streams: &[&StreamDefinition],
        consumers: &[ConsumerDefinition],
        buckets: &[&BucketDefinition],
    ) -> Result<(), BrokerError> {
        #[cfg(all(feature = "faults", debug_assertions))]
        if self.seat().is_some() {
            return Ok(());
        }
        let mut said = None;
        loop {
            match self.missing(streams, consumers, buckets).await {
                None => return Ok(()),
                missing if missing != said => {
                    tracing::warn!(
                        "Waiting for {}: run `rollcall bootstrap`, or start NATS",
                        missing.as_deref().unwrap_or("NATS")
                    );
                    said = missing;
                }
                Some(_) => {}
            }
            self.pause(Duration::from_millis(500)).await?;
        }
    }

    async fn missing(
        &self,
        streams: &[&StreamDefinition],
        consumers: &[ConsumerDefinition],
        buckets: &[&BucketDefinition],
    ) -> Option<String> {
        if self.client().connection_state() != async_nats::connection::State::Connected {
            return Some("a connection to NATS".into());
        }
        for stream in streams {
            if self.jetstream().get_stream(stream.name).await.is_err() {
                return Some(format!("stream {}", stream.name));
            }
        }
        for consumer in consumers {
            let found: Result<jetstream::consumer::PullConsumer, _> =
                self.jetstream().get_consumer_from_stream(&consumer.name, consumer.stream).await;
            if found.is_err() {
                return Some(format!("consumer {} of stream {}", consumer.name, consumer.stream));
            }
        }
        for bucket in buckets {
            if self.jetstream().get_key_value(bucket.name).await.is_err() {
                return Some(format!("bucket {}", bucket.name));
            }
        }
        None
    }

    /// Returns the newest message of a subject. Keeps trying while the server is away.
    ///
    /// Asks the stream's leader: a replica may lag, and what it does not know yet would be taken for absent.
    pub async fn last_message(
        &self,
        stream: &Stream<()>,
        stream_name: &str,
        subject: &str,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        use async_nats::jetstream::stream::LastRawMessageErrorKind;
        self.until_answered(&format!("read the last message of {stream_name}"), Asked::Leader, || async {
            match stream.get_last_raw_message_by_subject(subject).await {
                Ok(message) => Ok(Some(message.into())),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// Returns the newest message of a subject of a stream. Keeps trying while the server is away.
    pub async fn newest(&self, log: &Log, subject: &str) -> Result<Option<StoredMessage>, BrokerError> {
        let operation = format!("read the last message of {}", log.name());
        self.until_answered(&operation, Asked::Leader, || log.newest(subject)).await
    }

    /// Returns the first message of a stream at or behind a sequence whose subject fits. Keeps trying while the server is
    /// away.
    pub async fn next(
        &self,
        log: &Log,
        filter: &str,
        from: u64,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        let operation = format!("read {}", log.name());
        self.until_answered(&operation, Asked::Leader, || log.next(filter, from)).await
    }

    /// Returns how a stream is. Keeps trying while the server is away.
    pub async fn state(&self, log: &Log) -> Result<LogState, BrokerError> {
        self.until_answered(&format!("look at stream {}", log.name()), Asked::Anyone, || log.state()).await
    }

    /// Opens a bucket.
    pub async fn bucket(&self, definition: &BucketDefinition) -> Result<Bucket, BrokerError> {
        let name = definition.name;
        #[cfg(all(feature = "faults", debug_assertions))]
        if self.seat().is_some() {
            return Ok(Bucket { broker: self.clone(), name, store: None });
        }
        let store = self
            .until_answered(&format!("open bucket {name}"), Asked::Anyone, || async {
                self.jetstream().get_key_value(name).await.map_err(|error| error.to_string())
            })
            .await?;
        Ok(Bucket { broker: self.clone(), name, store: Some(store) })
    }

    /// Repeats a request until it is answered or the stage stops.
    pub(crate) async fn until_answered<T, F>(
        &self,
        operation: &str,
        asked: Asked,
        mut request: impl FnMut() -> F,
    ) -> Result<T, BrokerError>
    where
        F: Future<Output = Result<T, String>>,
    {
        let (mut pause, mut tries) = (FIRST_PAUSE, 0);
        loop {
            let reason = match tokio::time::timeout(patience(tries), request()).await {
                Ok(Ok(value)) => {
                    self.note_answer(asked);
                    return Ok(value);
                }
                Ok(Err(reason)) => reason,
                Err(_) => "no answer".to_owned(),
            };
            tries += 1;
            if tries.is_multiple_of(TRIES_IN_SILENCE) {
                tracing::warn!("Still trying to {operation}: {reason}. {FULL_DISK}");
            }
            self.note_silence(asked).await;
            self.pause(pause + jitter(pause / 2)).await?;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Waits, unless the stage is to stop.
    pub async fn pause(&self, duration: Duration) -> Result<(), BrokerError> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(BrokerError::Stopping),
            () = tokio::time::sleep(duration) => Ok(()),
        }
    }
}

fn options_with(credentials: &Credentials) -> ConnectOptions {
    match credentials.clone() {
        Credentials::None => ConnectOptions::new(),
        Credentials::UserPassword(user, password) => ConnectOptions::with_auth_callback(move |_nonce| {
            let mut auth = Auth::new();
            auth.username = Some(user.clone());
            auth.password = Some(password.now().expose_secret().to_owned());
            async move { Ok(auth) }
        }),
        Credentials::NkeySeed(seed) => ConnectOptions::with_auth_callback(move |nonce| {
            let signed = sign(&seed.now(), &nonce);
            async move { signed }
        }),
    }
}

/// Proves to the server who we are.
fn sign(seed: &SecretString, nonce: &[u8]) -> Result<Auth, AuthError> {
    let failed = || AuthError::new("the seed of NATS_NKEY_SEED is none");
    let pair = nkeys::KeyPair::from_seed(seed.expose_secret()).map_err(|_| failed())?;
    let mut auth = Auth::new();
    auth.signature = Some(pair.sign(nonce).map_err(|_| failed())?);
    auth.nkey = Some(pair.public_key());
    Ok(auth)
}

/// Returns a number below a length, or 0 for none.
fn rand_index(length: usize) -> usize {
    uuid::Uuid::new_v4().as_u128() as usize % length.max(1)
}

/// Returns a length of time below the given one that differs from process to process and call to call.
pub(crate) fn jitter(below: Duration) -> Duration {
    below.mul_f64(outside::noise())
}

/// Says why no connection comes about, once for each reason in a row.
fn explain(failure: &str, said: &Mutex<Option<String>>) {
    let refused = [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication];
    if !refused.iter().any(|kind| failure == kind.to_string()) {
        tracing::debug!("No connection to NATS: {failure}");
        return;
    }
    let remedy = "the server refuses our user. Check NATS_NKEY_SEED or NATS_USER, and that the server has read its \
                  users; a secret from a file is read again by itself";
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    if said.as_deref() != Some(failure) {
        tracing::error!("No connection to NATS: {remedy}");
        *said = Some(failure.to_owned());
    }
}

fn note(event: &Event, health: &Health, said: &Mutex<Option<String>>) {
    match event {
        Event::Connected => {
            *said.lock().unwrap_or_else(PoisonError::into_inner) = None;
            health.set_connected(true);
            tracing::info!("Connected to NATS");
        }
        Event::Disconnected => {
            health.set_connected(false);
            tracing::warn!("Lost the connection to NATS; reconnecting");
        }
        // A refused permission reaches the caller only as a time-out; the reason is here.
        Event::ServerError(error) => tracing::error!("NATS refused something: {error}"),
        Event::ClientError(ClientError::Other(failure)) => explain(failure, said),
        Event::ClientError(error) => tracing::debug!("NATS client: {error}"),
        other => tracing::debug!("NATS: {other}"),
    }
}

/// A stream to look things up in. Asks the stream's leader: a replica may lag, and what it does not know yet would be
/// taken for absent. Each question is asked once; an error says why there was no answer.
pub struct Log {
    #[cfg_attr(
        not(all(feature = "faults", debug_assertions)),
        expect(dead_code, reason = "for simulations")
    )]
    broker: Broker,
    name: String,
    /// None in a simulation.
    stream: Option<Stream<()>>,
}

/// How a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogState {
    /// When it was made.
    pub created: DateTime<Utc>,
    /// Sequence of its last message, be it still there or not.
    pub last_sequence: u64,
}

impl Log {
    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the newest message of a subject.
    pub async fn newest(&self, subject: &str) -> Result<Option<StoredMessage>, String> {
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(seat) = self.broker.seat() {
            return seat.newest(&self.name, subject).await;
        }
        found(self.stream()?.get_last_raw_message_by_subject(subject).await)
    }

    /// Returns the first message at or behind a sequence whose subject fits.
    pub async fn next(&self, filter: &str, from: u64) -> Result<Option<StoredMessage>, String> {
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(seat) = self.broker.seat() {
            return seat.next(&self.name, filter, from).await;
        }
        found(self.stream()?.get_first_raw_message_by_subject(filter, from).await)
    }

    /// Returns the message with a sequence.
    pub async fn at(&self, sequence: u64) -> Result<Option<StoredMessage>, String> {
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(seat) = self.broker.seat() {
            return seat.at(&self.name, sequence).await;
        }
        found(self.stream()?.get_raw_message(sequence).await)
    }

    /// Returns how it is.
    pub async fn state(&self) -> Result<LogState, String> {
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(seat) = self.broker.seat() {
            let (created, last_sequence) = seat.state(&self.name).await?;
            return Ok(LogState { created, last_sequence });
        }
        let info = self.stream()?.get_info().await.map_err(|error| error.to_string())?;
        // A server that is cut off tells what it knew.
        if info.cluster.as_ref().is_some_and(|cluster| cluster.leader.is_none()) {
            return Err("it has no leader".to_owned());
        }
        Ok(LogState { created: info.created, last_sequence: info.state.last_sequence })
    }

    fn stream(&self) -> Result<&Stream<()>, String> {
        self.stream.as_ref().ok_or_else(|| format!("stream {} is simulated", self.name))
    }
}

fn found(
    answer: Result<jetstream::message::StreamMessage, jetstream::stream::RawMessageError>,
) -> Result<Option<StoredMessage>, String> {
    match answer {
        Ok(message) => Ok(Some(message.into())),
        Err(error) if error.kind() == jetstream::stream::RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// A key-value bucket.
#[derive(Clone)]
pub struct Bucket {
    broker: Broker,
    name: &'static str,
    /// None in a simulation.
    store: Option<kv::Store>,
}

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Its revision.
    pub revision: u64,
    /// When it was stored, by the server's clock.
    pub created: DateTime<Utc>,
}

impl Bucket {
    /// Returns a value and its revision. Keeps trying while the server is away.
    pub async fn get(&self, key: &str) -> Result<Option<(Bytes, u64)>, BrokerError> {
        let entry = self.entry(key).await?;
        Ok(entry.map(|entry| (entry.value, entry.revision)))
    }

    /// Returns what is stored under a key. Keeps trying while the server is away.
    pub async fn entry(&self, key: &str) -> Result<Option<Entry>, BrokerError> {
        self.broker
            .until_answered(&format!("read from bucket {}", self.name), Asked::Anyone, || async {
                self.look_at(key).await.map_err(|error| error.to_string())
            })
            .await
    }

    async fn look_at(&self, key: &str) -> Result<Option<Entry>, BrokerError> {
        let operation = || format!("read from bucket {}", self.name);
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(seat) = self.broker.seat() {
            let entry = seat.entry(self.name, key).await;
            let entry = entry.map_err(|reason| BrokerError::unavailable(operation(), reason))?;
            return Ok(entry.map(|(value, revision, created)| Entry { value, revision, created }));
        }
        let entry = self.store()?.entry(key).await;
        let entry = entry.map_err(|error| BrokerError::unavailable(operation(), error))?;
        let put = entry.filter(|entry| entry.operation == kv::Operation::Put);
        Ok(put.map(|put| Entry { value: put.value, revision: put.revision, created: put.created }))
    }

    fn store(&self) -> Result<&kv::Store, BrokerError> {
        let missing = || BrokerError::unavailable(format!("open bucket {}", self.name), "it is simulated");
        self.store.as_ref().ok_or_else(missing)
    }

    /// Stores a value whatever was there. Keeps trying while the server is away.
    pub async fn put(&self, key: &str, value: Bytes) -> Result<u64, BrokerError> {
        self.broker
            .until_answered(&format!("write to bucket {}", self.name), Asked::Most, || async {
                #[cfg(all(feature = "faults", debug_assertions))]
                if let Some(seat) = self.broker.seat() {
                    let put = seat.write(self.name, key, Some(value.clone()), None).await?;
                    return Ok(put.unwrap_or_default());
                }
                let store = self.store().map_err(|error| error.to_string())?;
                store.put(key, value.clone()).await.map_err(|error| error.to_string())
            })
            .await
    }

    /// Stores a value only where the key still has this revision; `None` means it must not be there.
    ///
    /// Tries once: after a lost answer the caller has to read again anyway.
    pub async fn compare_and_put(
        &self,
        key: &str,
        value: Bytes,
        revision: Option<u64>,
    ) -> Result<u64, BrokerError> {
        let operation = || format!("write to bucket {}", self.name);
        let conflict = || BrokerError::Conflict { operation: operation() };
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(seat) = self.broker.seat() {
            let put = seat.write(self.name, key, Some(value), Some(revision)).await;
            return put.map_err(|reason| BrokerError::unavailable(operation(), reason))?.ok_or_else(conflict);
        }
        let store = self.store()?;
        let written = async {
            match revision {
                Some(revision) => {
                    store.update(key, value, revision).await.map_err(|error| match error.kind() {
                        kv::UpdateErrorKind::WrongLastRevision => conflict(),
                        _ if is_overtaken(&error) => conflict(),
                        _ => BrokerError::unavailable(operation(), error),
                    })
                }
                None => store.create(key, value).await.map_err(|error| match error.kind() {
                    kv::CreateErrorKind::AlreadyExists => conflict(),
                    _ if is_overtaken(&error) => conflict(),
                    _ => BrokerError::unavailable(operation(), error),
                }),
            }
        };
        let answer = tokio::time::timeout(patience(0), written).await;
        let answer = answer.unwrap_or_else(|_| Err(BrokerError::unavailable(operation(), "no answer")));
        match answer {
            Ok(_) => self.broker.note_answer(Asked::Most),
            Err(BrokerError::Conflict { .. }) => self.broker.note_answer(Asked::Leader),
            Err(_) => self.broker.note_silence(Asked::Most).await,
        }
        answer
    }

    /// Looks at a value once: for those to whom the time matters at which it was there.
    pub(crate) async fn look(&self, key: &str) -> Result<Option<(Bytes, u64)>, BrokerError> {
        let looked = tokio::time::timeout(patience(0), self.look_at(key)).await;
        let late = || BrokerError::unavailable(format!("read from bucket {}", self.name), "no answer");
        Ok(looked.map_err(|_| late())??.map(|entry| (entry.value, entry.revision)))
    }

    /// Removes a key only where it still has this revision.
    ///
    /// Tries once: what becomes of a key that could not be removed is the caller's to know.
    pub async fn compare_and_delete(&self, key: &str, revision: u64) -> Result<(), BrokerError> {
        let operation = || format!("delete from bucket {}", self.name);
        #[cfg(all(feature = "faults", debug_assertions))]
        if let Some(seat) = self.broker.seat() {
            let deleted = seat.write(self.name, key, None, Some(Some(revision))).await;
            let reason = match deleted {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => "another writer was first".to_owned(),
                Err(reason) => reason,
            };
            return Err(BrokerError::unavailable(operation(), reason));
        }
        let deleted = self.store()?.delete_expect_revision(key, Some(revision));
        match tokio::time::timeout(patience(0), deleted).await {
            Ok(deleted) => deleted.map_err(|error| BrokerError::unavailable(operation(), error)),
            Err(_) => Err(BrokerError::unavailable(operation(), "no answer")),
        }
    }

    /// Removes a key. Keeps trying while the server is away.
    pub async fn delete(&self, key: &str) -> Result<(), BrokerError> {
        self.broker
            .until_answered(&format!("delete from bucket {}", self.name), Asked::Most, || async {
                #[cfg(all(feature = "faults", debug_assertions))]
                if let Some(seat) = self.broker.seat() {
                    return seat.write(self.name, key, None, None).await.map(|_| ());
                }
                let store = self.store().map_err(|error| error.to_string())?;
                store.delete(key).await.map_err(|error| error.to_string())
            })
            .await
    }

    /// Returns all keys.
    pub async fn keys(&self) -> Result<Vec<String>, BrokerError> {
        use futures::TryStreamExt;
        self.broker
            .until_answered(&format!("list bucket {}", self.name), Asked::Anyone, || async {
                #[cfg(all(feature = "faults", debug_assertions))]
                if let Some(seat) = self.broker.seat() {
                    return seat.keys(self.name).await;
                }
                let store = self.store().map_err(|error| error.to_string())?;
                let keys = store.keys().await.map_err(|error| error.to_string())?;
                keys.try_collect().await.map_err(|error| error.to_string())
            })
            .await
    }
}

/// Tells whether a server of a cluster refuses a write because another one is under way. It says so with a code (10164) for
/// which the client has no kind of its own.
fn is_overtaken(error: &impl std::fmt::Display) -> bool {
    error.to_string().contains("error code 10164")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Source;

    #[test]
    fn what_goes_further_than_this_machine_without_tls_is_named() {
        let urls = "nats://127.0.0.1:1,nats://[::1]:2,localhost:3,nats://nats-1:4,nats://10.0.0.7:5,nats://nats.example:6,\
            tls://nats.example:7";
        let source = Source::new([("NATS_URL".to_owned(), urls.to_owned())]);
        let settings = NatsSettings::read(&Reader::new(&source)).unwrap();
        assert_eq!(settings.in_the_clear(), ["10.0.0.7", "nats.example"]);
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_shown() {
        for url in [
            "nats://rollcall:hunter2@nats:4222",
            "nats://hunter2@nats:4222",
            "nats://a:1,nats://x:hunter2@b:2",
        ] {
            let source = Source::new([("NATS_URL".to_owned(), url.to_owned())]);
            let reader = Reader::new(&source);
            let settings = NatsSettings::read(&reader);
            let error = reader.finish(|| settings.map(|_| ())).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains("NATS_URL") && !text.contains("hunter2"), "{text}");
        }
    }
}
