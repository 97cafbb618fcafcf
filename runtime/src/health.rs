//! Liveness for containers: `GET /healthz`, and the stage's own `health` word that asks it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    /// Tells whether the stage can work.
    pub fn is_ready(&self) -> bool {
        self.0.connected.load(Ordering::Relaxed) && self.0.bound.load(Ordering::Relaxed)
    }
}

/// Serves `/healthz` (200 ready, 503 not) and `/livez` (always 200) until the process ends.
pub async fn serve(listen: SocketAddr, health: Health) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let app = axum::Router::new().route("/livez", get(|| async { "alive\n" })).route(
        "/healthz",
        get(move || {
            let ready = health.is_ready();
            async move {
                if ready {
                    (StatusCode::OK, "ready\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
                }
            }
        }),
    );
    axum::serve(listener, app).await
}

/// Asks a stage on this host whether it is ready.
pub async fn ask(listen: SocketAddr) -> bool {
    let answer = async {
        let mut connection = tokio::net::TcpStream::connect(listen).await.ok()?;
        connection.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.ok()?;
        let mut head = [0_u8; 12];
        connection.read_exact(&mut head).await.ok()?;
        Some(&head == b"HTTP/1.0 200" || &head == b"HTTP/1.1 200")
    };
    tokio::time::timeout(Duration::from_secs(3), answer).await.ok().flatten().unwrap_or(false)
}
