//! Runs a double of a Bitrix24 portal until it is told to stop.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use chrono::{DateTime, FixedOffset};
use clap::{ArgAction, Parser};
use serde_json::{Map, Value, json};
use simulators::TlsArguments;
use simulators::bitrix24::{Accounting, Options, Simulator, StartingData};
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
    /// Portal seconds that a write takes; 0.04 in a new portal.
    #[arg(long)]
    update_seconds: Option<f64>,
    /// Whether crm.item.productrow.list takes several owners in one filter; it does in a new portal.
    #[arg(long, action = ArgAction::Set)]
    item_owner_arrays: Option<bool>,
    /// Which method the seconds of a batch are counted for; inner in a new portal.
    #[arg(long, value_enum)]
    accounting: Option<Accounting>,
    /// Zone of the portal: +03:00, as in a new portal, or a name such as Europe/Moscow.
    #[arg(long, allow_hyphen_values = true)]
    zone: Option<String>,
    /// Code in the webhook's address; invented and kept otherwise.
    #[arg(long)]
    secret: Option<String>,
    /// Seconds per method in ten minutes; 480 in a new portal.
    #[arg(long)]
    operating_limit: Option<f64>,
    #[command(flatten)]
    tls: TlsArguments,
}

impl Arguments {
    fn options(self) -> anyhow::Result<Options> {
        anyhow::ensure!(
            self.clock_speed > 0.0 && self.clock_speed.is_finite(),
            "--clock-speed must be positive"
        );
        let update_seconds = self.update_seconds.unwrap_or_default();
        anyhow::ensure!(update_seconds >= 0.0, "--update-seconds must not be negative");
        let settings = self.settings();
        Ok(Options {
            listen: self.listen,
            tls: self.tls.tls(),
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

    /// Returns the settings that were named, and only those: the others stay as they were kept.
    fn settings(&self) -> Value {
        let mut settings = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            settings.extend(value.map(|value| (name.to_owned(), value)));
        };
        set("zone", self.zone.as_ref().map(|zone| json!(zone)));
        set("operating_limit", self.operating_limit.map(|limit| json!(limit)));
        set("accounting", self.accounting.map(|accounting| json!(accounting)));
        let owners = |supported| json!(if supported { "supported" } else { "match_nothing" });
        set("item_owner_arrays", self.item_owner_arrays.map(owners));
        let writes = ["crm.*.add", "crm.*.update", "crm.*.delete", "crm.*.set"];
        let costs = |seconds: f64| json!({"seconds": writes.map(|method| (method, seconds)).into_iter().collect::<HashMap<_, _>>()});
        set("costs", self.update_seconds.map(costs));
        Value::Object(settings)
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
