//! What a stage tells whoever asks: `GET /healthz`, `/readyz`, `/livez` and `/metrics`, and its own `health` word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};

use crate::listener::Bounded;
use crate::metrics::{self, Metrics};

/// What a stage knows about its own readiness.
#[derive(Clone, Default)]
pub struct Health(Arc<Flags>);

#[derive(Default)]
struct Flags {
    connected: AtomicBool,
    bound: AtomicBool,
}

impl Health {
    /// Notes whether NATS is connected.
    pub fn set_connected(&self, connected: bool) {
        self.0.connected.store(connected, Ordering::Relaxed);
    }

    /// Notes whether everything that the stage needs in NATS was found.
    pub fn set_bound(&self, bound: bool) {
        self.0.bound.store(bound, Ordering::Relaxed);
    }

    /// Tells whether NATS is connected.
    pub fn is_connected(&self) -> bool {
        self.0.connected.load(Ordering::Relaxed)
    }

    /// Tells whether the stage can work.
    pub fn is_ready(&self) -> bool {
        self.is_connected() && self.0.bound.load(Ordering::Relaxed)
    }
}

/// Serves `/healthz` and `/readyz` (200 ready, 503 not), `/livez` (always 200) and `/metrics` until the process ends.
pub async fn serve(listen: SocketAddr, health: Health, metrics: Metrics) -> std::io::Result<()> {
    let listener = Bounded::bind(listen).await?;
    axum::serve(listener, router(health, metrics)).await
}

fn router(health: Health, metrics: Metrics) -> axum::Router {
    let readiness = move || std::future::ready(readiness(&health));
    let numbers = move || std::future::ready(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.render()));
    axum::Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/healthz", get(readiness.clone()))
        .route("/readyz", get(readiness))
        .route("/metrics", get(numbers))
}

fn readiness(health: &Health) -> (StatusCode, &'static str) {
    if health.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// Asks a stage on this host whether it is ready.
pub async fn ask(listen: SocketAddr) -> bool {
    is_fine(listen, "/healthz").await
}

/// Tells whether a page is answered with 200 over plain HTTP.
pub async fn is_fine(address: impl ToSocketAddrs, path: &str) -> bool {
    let answer = async {
        let mut connection = TcpStream::connect(address).await.ok()?;
        connection.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
        let mut head = [0_u8; 12];
        connection.read_exact(&mut head).await.ok()?;
        Some(&head == b"HTTP/1.0 200" || &head == b"HTTP/1.1 200")
    };
    tokio::time::timeout(Duration::from_secs(3), answer).await.ok().flatten().unwrap_or(false)
}
