//! A bar for long work, on standard error, and only where that is a terminal. What takes hours tells elsewhere, now and
//! then, how far it is.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time from one line to the next where nobody sees a bar.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// How far it is.
pub struct Progress(ProgressBar);

/// How far work is that takes hours: a bar, or without a terminal a line a minute.
pub struct LongProgress {
    bar: Progress,
    what: &'static str,
    cadence: Option<Cadence>,
    begun: Instant,
    way: Way,
}

/// Whose turn it is to tell something. Pure.
struct Cadence {
    due: Duration,
}

/// How much is done. Pure.
#[derive(Clone, Copy)]
struct Way {
    begun_at: u64,
    done: u64,
    of: u64,
}

impl Progress {
    /// Begins with so many steps to do.
    pub fn new(steps: usize, what: &'static str) -> Progress {
        // Hidden by the library where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len} {msg} {eta}") {
            bar.set_style(style);
        }
        bar.set_message(what);
        Progress(bar)
    }

    /// Notes that a step is done.
    pub fn step(&self) {
        self.0.inc(1);
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

impl LongProgress {
    /// Begins where `done` steps of so many are done already.
    pub fn new(done: u64, of: u64, what: &'static str) -> LongProgress {
        let bar = Progress::new(usize::try_from(of).unwrap_or(usize::MAX), what);
        bar.0.set_position(done);
        // What was done before this run says nothing about its pace.
        bar.0.reset_eta();
        let cadence = (!std::io::stderr().is_terminal()).then_some(Cadence { due: TOLD_EVERY });
        LongProgress { bar, what, cadence, begun: Instant::now(), way: Way { begun_at: done, done, of } }
    }

    /// Notes that so many more steps are done, and where that is.
    pub fn advance(&mut self, steps: u64, place: &str) {
        self.way.done += steps;
        self.bar.0.set_position(self.way.done);
        self.bar.0.set_message(format!("{}, {place}", self.what));
        let elapsed = self.begun.elapsed();
        if self.cadence.as_mut().is_some_and(|cadence| cadence.is_due(elapsed)) {
            eprintln!("{}", self.way.line(self.what, place, elapsed));
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.end();
    }
}

impl Cadence {
    /// Tells whether something is to be told so long after the beginning; the next time is counted from then.
    fn is_due(&mut self, elapsed: Duration) -> bool {
        let is_due = elapsed >= self.due;
        if is_due {
            self.due = elapsed + TOLD_EVERY;
        }
        is_due
    }
}

impl Way {
    fn line(self, what: &str, place: &str, elapsed: Duration) -> String {
        let Way { done, of, .. } = self;
        let left = self.left(elapsed).map_or_else(String::new, |left| {
            format!(", about {} left", humantime::format_duration(Duration::from_secs(left.as_secs())))
        });
        format!("{done} of {of} {what}{left}: {place}")
    }

    /// Returns how long it still takes at the pace of this run.
    fn left(self, elapsed: Duration) -> Option<Duration> {
        let done = self.done.saturating_sub(self.begun_at);
        let left = self.of.saturating_sub(self.done);
        (done > 0).then(|| elapsed.mul_f64(left as f64 / done as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_once_a_minute_however_often_it_is_asked() {
        let mut cadence = Cadence { due: TOLD_EVERY };
        let told: Vec<u64> =
            (0..400).step_by(7).filter(|seconds| cadence.is_due(Duration::from_secs(*seconds))).collect();
        assert_eq!(told, [63, 126, 189, 252, 315, 378]);
        assert!(cadence.is_due(Duration::from_secs(4_000)), "after a long step");
        assert!(!cadence.is_due(Duration::from_secs(4_059)), "and not at once for all that was missed");
    }

    #[test]
    fn what_is_left_goes_by_the_pace_of_this_run() {
        let way = Way { begun_at: 1_000, done: 1_500, of: 3_000 };
        let line = way.line("records compared", "deals behind 7", Duration::from_secs(60));
        assert_eq!(line, "1500 of 3000 records compared, about 3m left: deals behind 7");
        let nothing_yet = Way { done: 1_000, ..way }.line("x", "y", Duration::from_secs(60));
        assert_eq!(nothing_yet, "1000 of 3000 x: y");
        let more_than_known = Way { done: 3_100, ..way }.line("x", "y", Duration::from_secs(60));
        assert_eq!(more_than_known, "3100 of 3000 x, about 0s left: y");
    }
}
