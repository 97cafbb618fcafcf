//! Runs a strict local double of otmechalka.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{ArgAction, Parser};
use serde_json::json;
use simulators::TlsArguments;
use simulators::otmechalka::{self, Options};
use tokio::signal::unix::{SignalKind, signal};

/// A strict local double of otmechalka, with faults on demand.
///
/// Prints one line of JSON with its addresses when it answers. What is given here wins over what a
/// former run kept in the state folder.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen; port 0 takes a free one. The administrator's side has no password.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Keeps records, history, settings and faults over a restart.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Token to ask of callers; without one everybody is let in.
    #[arg(long, env = "OTMECHALKA_SIM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// How long every call takes [default: 0]
    #[arg(long)]
    latency_ms: Option<u64>,
    /// Most visitors that are not archived [default: 5000]
    #[arg(long)]
    max_visitors: Option<usize>,
    /// Whether a second record of one origin id is refused [default: false]
    #[arg(long, action = ArgAction::Set)]
    unique_origin: Option<bool>,
    /// How much faster than the host's the clock runs [default: 1.0]
    #[arg(long)]
    clock_speed: Option<f64>,
    #[command(flatten)]
    tls: TlsArguments,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    // Before the ready line, so that a stop right after it is orderly too.
    let mut terminate = signal(SignalKind::terminate()).context("failed to wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to wait for SIGINT")?;
    let simulator = otmechalka::start(Options {
        listen: Some(arguments.listen),
        tls: arguments.tls.tls(),
        state_dir: arguments.state_dir,
        token: arguments.token,
        latency_ms: arguments.latency_ms,
        max_visitors: arguments.max_visitors,
        unique_origin: arguments.unique_origin,
        clock_speed: arguments.clock_speed,
    })
    .await?;
    let url = simulator.url.as_str().trim_end_matches('/');
    println!("{}", json!({"ready": true, "url": url, "admin_url": simulator.admin_url.as_str()}));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    simulator.stop()
}
