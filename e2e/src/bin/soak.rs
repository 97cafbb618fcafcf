//! Plays seeded scripts of edits and troubles, one after the other, beside a school that just lives on; see `./soak`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use e2e::Stage;
use e2e::harness::curves::Sample;
use e2e::harness::growth::{Curve, Curves};
use e2e::harness::play::play_noting;
use e2e::harness::{Plan, quiet};
use tokio::time::Instant;

const USAGE: &str = "Usage: soak MINUTES [--seed N]\n\n\
    Plays the scripts of seed N (1), N + 1 and so on until the minutes are over, beside a school that lives on under light\n\
    faults. Memory and open files of every process go to target/soak. Fails where anything was found.";

/// What was asked for.
struct Arguments {
    length: Duration,
    seed: u64,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut given = std::env::args().skip(1);
    let minutes: f64 = given.next().context("no MINUTES")?.parse().context("MINUTES is no number")?;
    let seed = match (given.next().as_deref(), given.next()) {
        (None, _) => 1,
        (Some("--seed"), Some(seed)) => seed.parse().context("the seed is no number")?,
        _ => bail!("unknown arguments"),
    };
    Ok(Arguments { length: Duration::try_from_secs_f64(minutes * 60.0)?, seed })
}

/// Where measurements go.
struct Book {
    file: File,
    started: Instant,
    /// Of the school that lives on; the others are too short to grow.
    curves: Curves,
}

impl Book {
    fn open() -> anyhow::Result<(Book, PathBuf)> {
        let folder = PathBuf::from("target/soak");
        std::fs::create_dir_all(&folder)?;
        let now = chrono::Utc::now().timestamp();
        let path = folder.join(format!("curves-{now}.csv"));
        let mut file = File::create(&path)?;
        writeln!(file, "seconds,school,process,memory_kib,highest_kib,open_files")?;
        Ok((Book { file, started: Instant::now(), curves: Curves::default() }, path))
    }

    fn note(&mut self, school: &str, samples: &[Sample]) {
        let seconds = self.started.elapsed().as_secs();
        for Sample { name, memory_kib, highest_kib, files } in samples {
            let line = writeln!(self.file, "{seconds},{school},{name},{memory_kib},{highest_kib},{files}");
            if let Err(error) = line {
                eprintln!("cannot note a measurement: {error}");
            }
        }
    }
}

type Shared = Arc<Mutex<Book>>;

fn note(book: &Shared, school: &str, samples: &[Sample]) {
    book.lock().unwrap_or_else(PoisonError::into_inner).note(school, samples);
}

/// Plays one script after the other; returns how many passed and what was found in the others.
async fn play_seeds(first: u64, end: Instant, book: Shared) -> (u64, Vec<String>) {
    let (mut passed, mut failures) = (0, Vec::new());
    for seed in first.. {
        if Instant::now() >= end {
            break;
        }
        let school = seed.to_string();
        match play_noting(&Plan::of_seed(seed), |samples| note(&book, &school, samples)).await {
            Ok(_) => {
                passed += 1;
                println!("seed {seed}: as it should be");
            }
            Err(error) => {
                println!("seed {seed}: FAILED\n{error:#}");
                failures.push(format!("seed {seed}"));
            }
        }
    }
    (passed, failures)
}

async fn soak(Arguments { length, seed }: Arguments) -> anyhow::Result<()> {
    let (book, path) = Book::open()?;
    let book = Arc::new(Mutex::new(book));
    let end = Instant::now() + length;
    let living = tokio::spawn({
        let book = Arc::clone(&book);
        quiet::live(seed, end, move |samples| {
            note(&book, "living", samples);
            book.lock().unwrap_or_else(PoisonError::into_inner).curves.note(samples);
        })
    });
    let (passed, mut failures) = play_seeds(seed, end, Arc::clone(&book)).await;
    match living.await? {
        Ok(edits) => println!("the school that lived on: {edits} edits, as it should be"),
        Err(error) => {
            println!("the school that lived on: FAILED\n{error:#}");
            failures.push("the school that lived on".to_owned());
        }
    }
    let summary = book.lock().unwrap_or_else(PoisonError::into_inner).curves.summary();
    for curve in &summary {
        println!("{curve}");
    }
    let stages = Stage::ALL.map(Stage::program);
    let grows = |curve: &&Curve| stages.contains(&curve.name.as_str()) && curve.grows();
    failures.extend(summary.iter().filter(grows).map(|curve| format!("{} grows", curve.name)));
    println!("{passed} scripts passed; measurements in {}", path.display());
    if failures.is_empty() { Ok(()) } else { bail!("failed: {}", failures.join(", ")) }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error:#}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    match soak(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
