//! The programs that run: each is started again when it dies, and all are stopped in order.

use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::CancellationToken;
use runtime::local_nats::LocalNats;
use runtime::stage::EXIT_SETTINGS;
use tokio::process::Child;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use super::program::Program;
use super::reaper::{LAST_ORDERS, Rank, Reaper};

/// Something that happened to a program and that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incident {
    /// It ended by itself and is started again after the pause.
    Ended { name: &'static str, how: String, pause: Duration },
    /// It cannot be started, and is tried again after the pause.
    NotStarted { name: &'static str, why: String, pause: Duration },
    /// Its settings cannot be used, so starting it again is of no use.
    RefusesSettings { name: &'static str },
}

/// Everybody who runs.
pub struct Crew {
    members: Vec<Member>,
    reaper: Reaper,
    incidents: UnboundedSender<Incident>,
    hurry: CancellationToken,
}

struct Member {
    rank: Rank,
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

impl Crew {
    /// Begins with nobody. When `hurry` is cancelled, stopping turns into killing.
    pub fn new(reaper: Reaper, incidents: UnboundedSender<Incident>, hurry: CancellationToken) -> Crew {
        Crew { members: Vec::new(), reaper, incidents, hurry }
    }

    /// Has a program ended with the others should this process be killed; to be called at once after its start.
    pub fn note_started(&self, rank: Rank, child: &Child) {
        self.reaper.note(rank, child);
    }

    /// Keeps a program running that was just started.
    pub fn keep(&mut self, rank: Rank, program: Program, first: Child) {
        // Not in its task: this process may be killed before the task's turn.
        self.note_started(rank, &first);
        let (stopping, shift) = self.shift(rank, program.name);
        let task = tokio::spawn(keep_program(program, first, shift));
        self.members.push(Member { rank, stopping, task });
    }

    /// Returns what a nats-server's processes are to be reported to.
    pub fn nats_watch(&self) -> impl Fn(u32) + Send + Sync + 'static {
        let reaper = self.reaper.clone();
        move |process| reaper.note_started(Rank::Nats, process)
    }

    /// Keeps a nats-server running that reports to [`Crew::nats_watch`].
    pub fn keep_nats(&mut self, server: LocalNats) {
        let (stopping, shift) = self.shift(Rank::Nats, "nats-server");
        let task = tokio::spawn(keep_nats(server, shift));
        self.members.push(Member { rank: Rank::Nats, stopping, task });
    }

    fn shift(&self, rank: Rank, name: &'static str) -> (CancellationToken, Shift) {
        let stopping = CancellationToken::new();
        let shift = Shift {
            rank,
            name,
            reaper: self.reaper.clone(),
            incidents: self.incidents.clone(),
            stopping: stopping.clone(),
            hurry: self.hurry.clone(),
            backoff: Backoff::default(),
        };
        (stopping, shift)
    }

    /// Stops everybody: the stages in the order of the pipeline, then the doubles, then NATS.
    ///
    /// Stages are told one after the other but drain side by side: each needs only NATS and its own CRM.
    pub async fn stop(mut self) {
        for rank in [Rank::Stage, Rank::Simulator, Rank::Nats] {
            let (leaving, staying) = self.members.into_iter().partition(|member| member.rank == rank);
            self.members = staying;
            stop_all(leaving).await;
        }
        self.reaper.dismiss();
    }
}

async fn stop_all(members: Vec<Member>) {
    for member in &members {
        member.stopping.cancel();
        // Lets its task send the signal before the next one's does.
        tokio::task::yield_now().await;
    }
    for member in members {
        let _panicked = member.task.await;
    }
}

/// What watching over one program takes.
struct Shift {
    rank: Rank,
    name: &'static str,
    reaper: Reaper,
    incidents: UnboundedSender<Incident>,
    stopping: CancellationToken,
    hurry: CancellationToken,
    backoff: Backoff,
}

impl Shift {
    fn tell(&self, incident: Incident) {
        let _nobody_listens = self.incidents.send(incident);
    }

    /// Waits before the next start; tells whether there is to be one.
    async fn rest(&self, pause: Duration) -> bool {
        tokio::select! {
            () = self.stopping.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }

    /// Notes how it ended and waits; tells whether it is to be started again.
    async fn after_the_end(&mut self, how: io::Result<ExitStatus>, ran: Duration) -> bool {
        if how.as_ref().ok().and_then(ExitStatus::code) == Some(i32::from(EXIT_SETTINGS)) {
            self.tell(Incident::RefusesSettings { name: self.name });
            return false;
        }
        let pause = self.backoff.after(ran);
        let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
        self.tell(Incident::Ended { name: self.name, how, pause });
        self.rest(pause).await
    }

    async fn after_a_failed_start(&mut self, why: String) -> bool {
        let pause = self.backoff.after(Duration::ZERO);
        self.tell(Incident::NotStarted { name: self.name, why, pause });
        self.rest(pause).await
    }
}

async fn keep_program(program: Program, first: Child, mut shift: Shift) {
    let mut running = Some(first);
    loop {
        let Some(mut child) = running.take() else {
            match program.start() {
                Ok(child) => {
                    shift.reaper.note(shift.rank, &child);
                    running = Some(child);
                }
                Err(error) if shift.after_a_failed_start(error.to_string()).await => {}
                Err(_) => return,
            }
            continue;
        };
        let process = child.id();
        let began = Instant::now();
        let ended = tokio::select! {
            how = child.wait() => Some(how),
            () = shift.stopping.cancelled() => None,
        };
        if ended.is_none() {
            stop(&mut child, &shift.hurry).await;
        }
        if let Some(process) = process {
            shift.reaper.note_ended(process);
        }
        let Some(how) = ended else { return };
        if !shift.after_the_end(how, began.elapsed()).await {
            return;
        }
    }
}

/// Tells a program to stop, and kills it when it does not.
async fn stop(child: &mut Child, hurry: &CancellationToken) {
    terminate(child.id());
    let is_gone = tokio::select! {
        outcome = tokio::time::timeout(LAST_ORDERS, child.wait()) => outcome.is_ok(),
        () = hurry.cancelled() => false,
    };
    if !is_gone {
        let _gone = child.kill().await;
    }
}

fn terminate(process: Option<u32>) {
    if let Some(process) = process.and_then(|id| i32::try_from(id).ok()) {
        let _gone = kill(Pid::from_raw(process), Signal::SIGTERM);
    }
}

async fn keep_nats(mut server: LocalNats, mut shift: Shift) {
    loop {
        let process = server.process_id();
        let began = Instant::now();
        let ended = tokio::select! {
            how = server.wait() => Some(how),
            () = shift.stopping.cancelled() => None,
        };
        if ended.is_none() {
            stop_nats(&mut server, &shift.hurry).await;
        }
        if let Some(process) = process {
            shift.reaper.note_ended(process);
        }
        let Some(how) = ended else { return };
        if !shift.after_the_end(how, began.elapsed()).await {
            return;
        }
        while let Err(error) = server.restart().await {
            if !shift.after_a_failed_start(error.to_string()).await {
                return;
            }
        }
    }
}

async fn stop_nats(server: &mut LocalNats, hurry: &CancellationToken) {
    terminate(server.process_id());
    let is_gone = tokio::select! {
        outcome = tokio::time::timeout(LAST_ORDERS, server.wait()) => outcome.is_ok(),
        () = hurry.cancelled() => false,
    };
    if !is_gone {
        let _gone = server.kill().await;
    }
}

/// Pauses between starts of a program that keeps dying.
#[derive(Default)]
struct Backoff {
    deaths: u32,
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A program that ran for this long has recovered from what made it die before.
const RECOVERED: Duration = Duration::from_secs(60);

impl Backoff {
    fn after(&mut self, ran: Duration) -> Duration {
        if ran >= RECOVERED {
            self.deaths = 0;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.deaths.min(5)).min(LONGEST_PAUSE);
        self.deaths += 1;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew_after_a_good_run() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..7).map(|_| backoff.after(Duration::ZERO).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.after(RECOVERED), FIRST_PAUSE);
        for _ in 0..100 {
            assert!(backoff.after(Duration::ZERO) <= LONGEST_PAUSE);
        }
    }
}
