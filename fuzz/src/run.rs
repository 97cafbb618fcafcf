//! Runs a target over its seeds, its corpus and what can be made of them.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::{Mutator, Target, corpus};

/// Most inputs to go on from.
const POOL: usize = 4_000;

/// How long to go on making inputs.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// So long, in computing time: a machine that has other things to do as well makes no difference.
    Elapsed(Duration),
    /// So many inputs.
    Inputs(u64),
    /// As long as both say, for targets that begin slowly.
    Both(Duration, u64),
}

/// What a run saw.
#[derive(Debug)]
pub struct Report {
    /// Inputs that were parsed.
    pub inputs: u64,
    /// Inputs of which something new came, the seeds and the corpus not among them.
    pub news: Vec<Vec<u8>>,
    /// Longest computing time that one input took.
    pub slowest: Duration,
    /// That input.
    pub slowest_input: Vec<u8>,
}

/// An input that broke an assertion or panicked.
#[derive(Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What was said about it.
    pub said: String,
}

/// Runs a target. `before` is told each input before it is parsed, for those that end the process.
pub fn run(
    target: &Target,
    seed: u64,
    until: Until,
    mut before: impl FnMut(&[u8]),
) -> Result<Report, Box<Finding>> {
    let kept = corpus::kept(target.name).unwrap_or_default();
    let mut pool = (target.seeds)();
    pool.extend(kept.into_iter().map(|(_, input)| input));
    let started = computed();
    let mut outcomes = HashSet::new();
    let mut report =
        Report { inputs: 0, news: Vec::new(), slowest: Duration::ZERO, slowest_input: Vec::new() };
    for input in &pool {
        before(input);
        outcomes.insert(report.look(target, input)?);
    }
    let mut mutator = Mutator::new(seed);
    let goes_on = |inputs: u64| match until {
        Until::Elapsed(time) => computed() - started < time,
        Until::Inputs(count) => inputs < count,
        Until::Both(time, count) => computed() - started < time || inputs < count,
    };
    while goes_on(report.inputs) {
        let input = mutator.next(&pool);
        before(&input);
        let outcome = report.look(target, &input)?;
        if outcomes.insert(outcome) && pool.len() < POOL {
            report.news.push(input.clone());
            pool.push(input);
        }
    }
    Ok(report)
}

/// Returns how long this thread has computed, or, where the system does not count that, the time.
fn computed() -> Duration {
    let own = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    own.or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC)).map(Duration::from).unwrap_or_default()
}

impl Report {
    fn look(&mut self, target: &Target, input: &[u8]) -> Result<String, Box<Finding>> {
        let started = computed();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
        let took = computed().saturating_sub(started);
        self.inputs += 1;
        if took > self.slowest {
            (self.slowest, self.slowest_input) = (took, input.to_vec());
        }
        outcome.map_err(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
            Box::new(Finding { input: input.to_vec(), said: said.unwrap_or_default() })
        })
    }
}
