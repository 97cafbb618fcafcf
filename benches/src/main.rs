#![doc = include_str!("../README.md")]

mod clients;
mod durability;
mod failover;
mod figure;
mod first_sync;
mod hour;
mod latency;
mod least;
mod machine;
mod memory;
mod operating;
mod outage;
mod portal;
mod replicas;
mod slow_updates;
mod stage_loop;

use std::collections::BTreeSet;

use anyhow::ensure;
use clap::{Parser, Subcommand};

use figure::Figure;

/// Measures Rollcall beside the arithmetic minimum and beside other clients.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Figures to measure, such as P1 or P7; all by default.
    figures: Vec<String>,
    /// Smaller amounts: some minutes instead of some tens of them.
    #[arg(long)]
    quick: bool,
    /// Runs fast clocks slower by this factor, to see whether a figure depends on their speed.
    #[arg(long, default_value_t = 1.0)]
    slower: f64,
    #[command(subcommand)]
    own: Option<Own>,
}

#[derive(Subcommand)]
enum Own {
    /// The loop that the mapper is measured beside; started by P15.
    #[command(hide = true)]
    BareLoop,
    /// The shell of the stages around nothing; started by P15.
    #[command(hide = true)]
    ShellLoop,
}

/// How much to measure, and how fast portals with a fast clock run.
#[derive(Clone, Copy)]
pub struct Scale {
    /// Smaller amounts.
    pub quick: bool,
    slower: f64,
}

impl Scale {
    /// Returns the amount for a full or a quick run.
    pub fn pick<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Returns the clock speed to use where this one is thought to be harmless.
    pub fn speed(self, usual: f64) -> f64 {
        (usual / self.slower).max(1.0)
    }
}

/// Every figure, by the run that measures it.
const RUNS: [(&str, &[&str]); 14] = [
    ("clients", &["P4", "P5", "P6"]),
    ("stage loop", &["P15"]),
    ("first sync", &["P1", "P2", "P3", "P13", "P14"]),
    ("operating", &["P7"]),
    ("slow updates", &["P8"]),
    ("hour", &["P9", "P10"]),
    ("latency and memory", &["P11", "P12"]),
    ("stages that die", &["P16"]),
    ("servers that die", &["P17"]),
    ("durability", &["P18"]),
    ("replicas", &["P19"]),
    ("a broker that comes back", &["P20"]),
    ("memory under faults", &["P21"]),
    ("a day's outage", &["P22"]),
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.own {
        Some(Own::BareLoop) => return stage_loop::bare_loop().await,
        Some(Own::ShellLoop) => return stage_loop::shell_loop().await,
        None => {}
    }
    ensure!(arguments.slower >= 1.0, "--slower is a factor of at least 1");
    let wanted = wanted(&arguments.figures)?;
    let scale = Scale { quick: arguments.quick, slower: arguments.slower };
    println!("{}\n", machine::line());
    let mut figures = Vec::new();
    let mut failed = 0;
    for (run, names) in RUNS {
        let names: Vec<&str> = names.iter().copied().filter(|name| wanted.contains(*name)).collect();
        if names.is_empty() {
            continue;
        }
        eprintln!("Measuring {} ({run}) ...", names.join(", "));
        match measure(&names, scale).await {
            Ok(measured) => {
                let measured: Vec<Figure> =
                    measured.into_iter().filter(|figure| names.contains(&figure.name)).collect();
                println!("{}", figure::table(&measured));
                figures.extend(measured);
            }
            Err(error) => {
                eprintln!("{run}: {error:#}");
                failed += 1;
            }
        }
    }
    println!("All together\n\n{}", figure::table(&figures));
    ensure!(failed == 0, "{failed} of the runs failed");
    Ok(())
}

async fn measure(names: &[&str], scale: Scale) -> anyhow::Result<Vec<Figure>> {
    let wants = |name: &str| names.contains(&name);
    let mut figures = Vec::new();
    if ["P4", "P5", "P6"].into_iter().any(wants) {
        figures.extend(clients::measure(scale, names).await?);
    }
    if wants("P15") {
        figures.extend(stage_loop::measure(scale).await?);
    }
    if ["P1", "P2", "P3", "P13", "P14"].into_iter().any(wants) {
        figures.extend(first_sync::measure(scale, wants("P13")).await?);
    }
    if wants("P7") {
        figures.extend(operating::measure(scale).await?);
    }
    if wants("P8") {
        figures.extend(slow_updates::measure(scale).await?);
    }
    if ["P9", "P10"].into_iter().any(wants) {
        figures.extend(hour::measure(scale, wants("P10")).await?);
    }
    if wants("P11") {
        figures.extend(latency::measure(scale).await?);
    }
    if wants("P12") {
        figures.extend(memory::measure(scale).await?);
    }
    if wants("P16") {
        figures.extend(failover::of_stages(scale).await?);
    }
    if wants("P17") {
        figures.extend(failover::of_cluster(scale).await?);
    }
    if wants("P18") {
        figures.extend(durability::measure(scale).await?);
    }
    if wants("P19") {
        figures.extend(replicas::measure(scale).await?);
    }
    if wants("P20") {
        figures.extend(failover::of_broker(scale).await?);
    }
    if wants("P21") {
        figures.extend(memory::under_faults(scale).await?);
    }
    if wants("P22") {
        figures.extend(outage::measure(scale).await?);
    }
    Ok(figures)
}

fn wanted(named: &[String]) -> anyhow::Result<BTreeSet<String>> {
    let known: BTreeSet<String> =
        RUNS.iter().flat_map(|(_, names)| names.iter().map(|name| (*name).to_owned())).collect();
    if named.is_empty() {
        return Ok(known);
    }
    let named: BTreeSet<String> = named.iter().map(|name| name.to_uppercase()).collect();
    let unknown: Vec<&String> = named.difference(&known).collect();
    ensure!(unknown.is_empty(), "no such figure: {unknown:?}; there are {known:?}");
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_named_in_either_case_and_unknown_ones_refused() {
        assert_eq!(wanted(&["p7".to_owned()]).unwrap(), BTreeSet::from(["P7".to_owned()]));
        assert_eq!(wanted(&[]).unwrap().len(), 22);
        assert!(wanted(&["P99".to_owned()]).is_err());
    }

    #[test]
    fn a_slower_clock_never_falls_behind_ours() {
        let scale = Scale { quick: false, slower: 100.0 };
        assert_eq!(scale.speed(20.0), 1.0);
    }
}
