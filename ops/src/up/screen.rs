//! What the operator sees: bars on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::gauge::{Log, Snapshot};

/// Shortest time between two lines of progress.
const LINE_PAUSE: Duration = Duration::from_secs(2);

/// Where words and progress go.
pub enum Screen {
    /// Bars that are drawn again and again, words above them.
    Bars { all: MultiProgress, bars: Box<[ProgressBar; 4]> },
    /// One line after the other.
    Lines(Mutex<Option<(Instant, String)>>),
    /// The same on standard error: standard output is for the one object of `--json`.
    Aside(Mutex<Option<(Instant, String)>>),
}

impl Screen {
    /// Takes what standard output is good for.
    pub fn new(json: bool) -> Screen {
        if json {
            return Screen::Aside(Mutex::new(None));
        }
        if !std::io::stdout().is_terminal() {
            return Screen::Lines(Mutex::new(None));
        }
        let all = MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::stdout());
        let bar = |name: &'static str| {
            let style = ProgressStyle::with_template("{prefix:12} [{bar:40}] {pos:>7} of {len:7} {msg}");
            let bar = ProgressBar::new(0).with_prefix(name);
            all.add(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
        };
        let bars = ["read", "mapped", "pushed", "statuses"].map(bar);
        Screen::Bars { all, bars: Box::new(bars) }
    }

    /// Says something that stays.
    pub fn say(&self, text: &str) {
        match self {
            // Printed by ourselves, so that a long line is wrapped and can be copied whole.
            Screen::Bars { all, .. } => all.suspend(|| print_line(text)),
            Screen::Lines(_) => print_line(text),
            Screen::Aside(_) => eprintln!("{text}"),
        }
    }

    /// Shows how far the pipeline is.
    pub fn show(&self, snapshot: &Snapshot) {
        match self {
            Screen::Bars { bars, .. } => {
                let lengths = positions(snapshot);
                for (bar, (done, total)) in bars.iter().zip(lengths) {
                    bar.set_length(total);
                    bar.set_position(done);
                }
                bars[0].set_message(reading(snapshot));
                bars[2].set_message(waiting(snapshot));
            }
            Screen::Lines(last) | Screen::Aside(last) => {
                let line = line(snapshot);
                let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let is_due =
                    last.as_ref().is_none_or(|(when, said)| when.elapsed() >= LINE_PAUSE && *said != line);
                if is_due {
                    self.say(&line);
                    *last = Some((Instant::now(), line));
                }
            }
        }
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        if let Screen::Bars { all, bars } = self {
            bars.iter().for_each(ProgressBar::finish_and_clear);
            let _gone = all.clear();
        }
    }
}

fn print_line(text: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever closed the pipe does not want to know.
    let _closed = writeln!(out, "{}", crate::terminal::text(text)).and_then(|()| out.flush());
}

fn positions(snapshot: &Snapshot) -> [(u64, u64); 4] {
    let done = |log: Log| (log.stored.saturating_sub(log.undone), log.stored);
    let Snapshot { raw, commands, results, .. } = snapshot;
    [(raw.stored, raw.stored), done(*raw), done(*commands), done(*results)]
}

fn line(snapshot: &Snapshot) -> String {
    let [(read, _), (mapped, _), (pushed, _), (settled, _)] = positions(snapshot);
    let mut line = format!("read {read}, mapped {mapped}, pushed {pushed}, statuses {settled}");
    for more in [reading(snapshot), waiting(snapshot)] {
        if !more.is_empty() {
            line.push_str("; ");
            line.push_str(&more);
        }
    }
    line
}

fn reading(snapshot: &Snapshot) -> String {
    match (snapshot.contacts.walking, snapshot.deals.walking) {
        (Some(id), _) => format!("reading contacts, after id {id}"),
        (None, Some(id)) => format!("reading deals, after id {id}"),
        (None, None) => String::new(),
    }
}

fn waiting(snapshot: &Snapshot) -> String {
    match snapshot.parked.count {
        0 => String::new(),
        count => format!("{count} waiting for another try"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_each_stage_is() {
        let mut snapshot = Snapshot {
            raw: Log { stored: 10, last: 10, undone: 3 },
            commands: Log { stored: 7, last: 7, undone: 2 },
            results: Log { stored: 5, last: 5, undone: 5 },
            ..Snapshot::default()
        };
        assert_eq!(line(&snapshot), "read 10, mapped 7, pushed 5, statuses 0");
        snapshot.deals.walking = Some(96_038);
        snapshot.parked.count = 1;
        assert_eq!(
            line(&snapshot),
            "read 10, mapped 7, pushed 5, statuses 0; reading deals, after id 96038; 1 waiting for another try"
        );
    }
}
