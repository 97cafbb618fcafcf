//! Ends the programs of an `up` that was killed and could not end them itself.
//!
//! A process that watches a pipe. `up` writes down what it starts and what has ended; when `up` is gone, however
//! that came about, the pipe ends, and what is still running is told to stop, rank by rank. Nothing in safe Rust
//! makes the kernel do that on every system, so a process of our own does.

use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::lock::Lock;
use crate::exit::Exit;

/// Programs of a lower rank are ended first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The four stages: they still need everybody else in order to finish.
    Stage = 0,
    /// The doubles of both CRMs.
    Simulator = 1,
    /// NATS, which everybody reports to.
    Nats = 2,
}

const RANKS: [u8; 3] = [Rank::Stage as u8, Rank::Simulator as u8, Rank::Nats as u8];

/// Longest time from SIGTERM to SIGKILL; a stage gives itself 8 s.
pub const LAST_ORDERS: Duration = Duration::from_secs(10);

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The watching process as `up` sees it.
#[derive(Clone)]
pub struct Reaper(Arc<Mutex<Option<(Child, ChildStdin)>>>);

impl Reaper {
    /// Starts it; it holds the lock for as long as anything may still be running.
    pub fn start(lock: &Path) -> std::io::Result<Reaper> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("reap")
            .arg(lock)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C must not reach it: it would be gone before those it watches over.
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().ok_or_else(|| std::io::Error::other("no pipe to the reaper"))?;
        Ok(Reaper(Arc::new(Mutex::new(Some((child, pipe))))))
    }

    /// Notes that a child runs.
    pub fn note(&self, rank: Rank, child: &tokio::process::Child) {
        if let Some(process) = child.id() {
            self.note_started(rank, process);
        }
    }

    /// Notes that a program runs.
    pub fn note_started(&self, rank: Rank, process: u32) {
        self.write(&format!("+{} {process}\n", rank as u8));
    }

    /// Notes that a program has ended.
    pub fn note_ended(&self, process: u32) {
        self.write(&format!("-{process}\n"));
    }

    fn write(&self, line: &str) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pipe)) = slot.as_mut() {
            // Somebody killed the reaper: then only we are left to stop the programs, which we do.
            let _gone = pipe.write_all(line.as_bytes());
        }
    }

    /// Lets it go and waits for it.
    pub fn dismiss(&self) {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((mut child, pipe)) = taken {
            drop(pipe);
            let _status = child.wait();
        }
    }
}

/// Is the watching process.
pub fn reap(lock: &Path) -> Exit {
    // Whoever starts next waits for this lock, so that two sets of programs never share a store.
    let _lock = Lock::take(&PathBuf::from(lock)).ok();
    let mut watched = Watched::default();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        watched.note(&line);
    }
    for rank in RANKS {
        end(&watched.of_rank(rank));
    }
    Exit::Fine
}

/// A process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    id: i32,
    started: Option<u64>,
}

impl Process {
    fn find(id: i32) -> Process {
        Process { id, started: stat(id).map(|stat| stat.started) }
    }

    fn is_running(self) -> bool {
        if kill(Pid::from_raw(self.id), None) == Err(Errno::ESRCH) {
            return false;
        }
        match (stat(self.id), self.started) {
            (Some(stat), Some(started)) => stat.started == started && !stat.is_zombie,
            // No /proc on this system: the number alone has to do.
            _ => true,
        }
    }

    fn send(self, signal: Signal) {
        if self.is_running() {
            let _gone = kill(Pid::from_raw(self.id), signal);
        }
    }
}

struct Stat {
    started: u64,
    is_zombie: bool,
}

fn stat(id: i32) -> Option<Stat> {
    read_stat(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// Reads state and start time. The program's name before them may hold anything, but the last `)` ends it.
fn read_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat { is_zombie: *fields.first()? == "Z", started: fields.get(19)?.parse().ok()? })
}

#[derive(Default)]
struct Watched(Vec<(u8, Process)>);

impl Watched {
    fn note(&mut self, line: &str) {
        if let Some((rank, id)) = line.strip_prefix('+').and_then(|rest| rest.split_once(' ')) {
            if let (Ok(rank), Ok(id)) = (rank.parse(), id.parse()) {
                self.0.push((rank, Process::find(id)));
            }
        } else if let Some(Ok(id)) = line.strip_prefix('-').map(str::parse::<i32>) {
            self.0.retain(|(_, process)| process.id != id);
        }
    }

    fn of_rank(&self, rank: u8) -> Vec<Process> {
        self.0.iter().filter(|(found, _)| *found == rank).map(|(_, process)| *process).collect()
    }
}

fn end(processes: &[Process]) {
    processes.iter().for_each(|process| process.send(Signal::SIGTERM));
    let begun = Instant::now();
    while processes.iter().any(|process| process.is_running()) && begun.elapsed() < LAST_ORDERS {
        // They are no children of this process, so there is nothing to wait on.
        std::thread::sleep(LOOK_AGAIN);
    }
    processes.iter().for_each(|process| process.send(Signal::SIGKILL));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_is_no_longer_watched() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut watched = Watched::default();
        watched.note(&format!("+2 {own}"));
        watched.note("+0 1");
        watched.note("nonsense");
        assert_eq!(watched.of_rank(2), [Process::find(own)]);
        watched.note(&format!("-{own}"));
        assert!(watched.of_rank(2).is_empty());
        assert_eq!(watched.of_rank(0).len(), 1);
    }

    #[test]
    fn a_programs_name_may_hold_anything() {
        let rest = "S 1 2 3 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 77123 1 1";
        let stat = read_stat(&format!("12 (a) Z (b) {rest}")).unwrap();
        assert_eq!((stat.started, stat.is_zombie), (77123, false));
        assert!(read_stat("12 (a) Z").is_none());
    }

    #[test]
    fn a_process_that_took_over_the_number_is_let_alone() {
        let own = Process::find(i32::try_from(std::process::id()).unwrap());
        assert!(own.is_running());
        assert!(!Process { started: own.started.map(|started| started + 1), ..own }.is_running());
    }
}
