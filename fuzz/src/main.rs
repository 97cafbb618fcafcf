//! Fuzzes one target for some minutes: `cargo run -p fuzz -- TARGET MINUTES`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use fuzz::targets::TARGETS;
use fuzz::{Until, keep, run};

/// Fuzzes an edge that parses foreign bytes.
#[derive(Parser)]
struct Arguments {
    /// One of the targets, or `all`.
    target: String,
    /// How long each of them is fuzzed, in minutes of computing.
    minutes: f64,
    /// Makes the same inputs again.
    #[arg(long)]
    seed: Option<u64>,
    /// Adds small inputs of which something new came to the corpus.
    #[arg(long)]
    keep: bool,
}

/// Most inputs that one run adds to the corpus; the rest can be made again from its seed.
const KEPT: usize = 25;

/// Longest of them.
const KEPT_BYTES: usize = 2_000;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen = |target: &&fuzz::Target| arguments.target == "all" || arguments.target == target.name;
    let targets: Vec<_> = TARGETS.iter().filter(chosen).collect();
    if targets.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("No target `{}`; there are: all, {}", arguments.target, names.join(", "));
        return ExitCode::from(64);
    }
    let sound = targets.into_iter().filter(|target| fuzz(target, &arguments).is_err()).count() == 0;
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fuzz(target: &fuzz::Target, arguments: &Arguments) -> anyhow::Result<()> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let last = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz");
    std::fs::create_dir_all(&last)?;
    let last = last.join(target.name);
    println!("{}: seed {seed}; an input that kills the process is left in {}", target.name, last.display());
    let until = Until::Elapsed(Duration::from_secs_f64(arguments.minutes * 60.0));
    let noted = |input: &[u8]| drop(std::fs::write(&last, input));
    match run(target, seed, until, noted) {
        Ok(report) => {
            println!(
                "{}: {} inputs, {} new outcomes, slowest {:?} ({} bytes), most memory {}",
                target.name,
                report.inputs,
                report.news.len(),
                report.slowest,
                report.slowest_input.len(),
                fuzz::targets::peak_memory()
                    .map_or("unknown".to_owned(), |kib| format!("{} MiB", kib / 1024)),
            );
            let small = report.news.iter().filter(|input| arguments.keep && input.len() <= KEPT_BYTES);
            for input in small.take(KEPT) {
                keep(target.name, "new", input)?;
            }
            Ok(())
        }
        Err(finding) => {
            let path = keep(target.name, "finding", &finding.input)?;
            println!("{}: {}\n  kept as {}", target.name, finding.said, path.display());
            anyhow::bail!("a finding")
        }
    }
}
