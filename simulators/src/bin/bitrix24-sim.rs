//! Runs a double of a Bitrix24 portal until it is told to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use chrono::{DateTime, FixedOffset};
use clap::{ArgAction, Parser};
use serde_json::json;
use simulators::bitrix24::{
    Accounting, Options, OwnerArrays, Settings, Simulator, StartingData, default_costs,
};
use tokio::signal::unix::{SignalKind, signal};

/// A strict local double of Bitrix24's REST interface.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Records of a new portal.
    #[arg(long, value_enum, default_value = "demo")]
    dataset: StartingData,
    /// Seed of the invented records and of chances.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 400)]
    contacts: usize,
    #[arg(long, default_value_t = 600)]
    deals: usize,
    /// Folder that keeps the portal over restarts.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Portal seconds per real second.
    #[arg(long, default_value_t = 1.0)]
    clock_speed: f64,
    /// The portal's time at its first start, ISO 8601 with an offset; the machine's time otherwise.
    #[arg(long)]
    now: Option<DateTime<FixedOffset>>,
    /// Portal seconds that a write takes.
    #[arg(long, default_value_t = 0.04)]
    update_seconds: f64,
    /// Whether crm.item.productrow.list takes several owners in one filter.
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    item_owner_arrays: bool,
    /// Which method the seconds of a batch are counted for.
    #[arg(long, value_enum, default_value = "inner")]
    accounting: Accounting,
    /// Zone of the portal: +03:00 or a name such as Europe/Moscow.
    #[arg(long, default_value = "+03:00", allow_hyphen_values = true)]
    zone: String,
    /// Code in the webhook's address; invented and kept otherwise.
    #[arg(long)]
    secret: Option<String>,
    /// Seconds per method in ten minutes.
    #[arg(long, default_value_t = 480.0)]
    operating_limit: f64,
}

impl Arguments {
    fn options(self) -> anyhow::Result<Options> {
        anyhow::ensure!(
            self.clock_speed > 0.0 && self.clock_speed.is_finite(),
            "--clock-speed must be positive"
        );
        anyhow::ensure!(self.update_seconds >= 0.0, "--update-seconds must not be negative");
        let owner_arrays =
            if self.item_owner_arrays { OwnerArrays::Supported } else { OwnerArrays::MatchNothing };
        let settings = Settings {
            zone: self.zone,
            operating_limit: Some(self.operating_limit),
            accounting: self.accounting,
            costs: default_costs(self.update_seconds),
            item_owner_arrays: owner_arrays,
            ..Settings::default()
        };
        let settings = settings.patched(&json!({})).map_err(anyhow::Error::msg).context("--zone")?;
        Ok(Options {
            listen: self.listen,
            data: self.dataset,
            seed: self.seed,
            contacts: self.contacts,
            deals: self.deals,
            state_dir: self.state_dir,
            clock_speed: self.clock_speed,
            now: self.now,
            secret: self.secret,
            settings,
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let options = Arguments::parse().options()?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let simulator = Simulator::start(options).await?;
    announce(&simulator)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    simulator.stop()?;
    Ok(())
}

/// Prints the one line that tells a waiting parent where the portal is.
fn announce(simulator: &Simulator) -> anyhow::Result<()> {
    let line =
        json!({"ready": true, "webhook_url": simulator.webhook_url(), "admin_url": simulator.admin_url()});
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()?;
    Ok(())
}
