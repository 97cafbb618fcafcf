//! `rollcall up`: starts everything, shows how far it is, keeps it running, stops it in order.

mod catchup;
mod crew;
mod demo;
mod follow;
pub mod gauge;
mod lock;
mod outcomes;
mod plan;
mod program;
mod reaper;
mod screen;
mod summary;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use runtime::bootstrap::{self, Finding, Mode as Bootstrap};
use runtime::broker::NatsSettings;
use runtime::local_nats::{LocalNats, LocalNatsError};
use runtime::{Broker, CancellationToken};
use serde_json::json;
use tokio::sync::mpsc;

use crate::answer::{self, Answer};
use crate::cli;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::nats;
use crate::owner;
use crate::signals::Signals;
use crate::stages::STAGES;
use crew::{Crew, Incident};
use demo::Demo;
use lock::Lock;
use plan::{Mode, Nats, Plan};
use reaper::{LAST_ORDERS, Rank, Reaper};
use screen::Screen;

pub use reaper::reap;

/// Longest wait for what a killed run left behind: each rank is given its time.
const LEFTOVERS: Duration = Duration::from_secs(3 * LAST_ORDERS.as_secs() + 5);

/// Carries the command out.
pub async fn run(environment: Environment, arguments: &cli::Up, json: bool) -> Result<Exit, Failure> {
    let answered = AtomicBool::new(false);
    let outcome = run_until_stopped(environment, arguments, json.then_some(&answered)).await;
    match outcome {
        // One run prints one object; what comes later is said aside.
        Err(failure) if answered.load(Ordering::SeqCst) => {
            answer::tell_failure(&failure, false);
            Ok(failure.exit)
        }
        Ok(exit) if json && !answered.load(Ordering::SeqCst) => {
            let stopped = "Stopped before everything had caught up.";
            let cut_short =
                || answer::Finding::error("up.cut_short", "rollcall up --once", stopped, "Start it again");
            let findings = if exit == Exit::Fine { Vec::new() } else { vec![cut_short()] };
            Answer::new(stopped, json!({"caught_up": false}), findings)
                .tell(true, |answer| answer.summary.clone())
        }
        outcome => outcome,
    }
}

async fn run_until_stopped(
    environment: Environment,
    arguments: &cli::Up,
    answered: Option<&AtomicBool>,
) -> Result<Exit, Failure> {
    let began = Instant::now();
    let mut signals = Signals::listen()?;
    let plan = Plan::make(environment, &arguments.demo)?;
    plan.check_programs()?;
    plan.check_settings().await?;
    if arguments.dry_run {
        return tell_plan(&plan, answered);
    }
    plan.make_folders()?;
    let state = plan.state();
    let _lock = lock_state(state).await?;
    let screen = Screen::new(answered.is_some());
    let (incidents, told) = mpsc::unbounded_channel();
    let hurry = CancellationToken::new();
    let mut crew = Crew::new(start_reaper(state)?, incidents, hurry.clone());
    let work = Work { plan: &plan, arguments, screen: &screen, began, answered };
    let outcome = tokio::select! {
        outcome = work.carry_out(&mut crew, told) => outcome,
        () = signals.next() => {
            screen.clear();
            screen.say("Stopping in order; once more to stop at once.");
            // Cut short, `--once` has not done what it was asked for.
            Ok(if arguments.once { Exit::Trouble } else { Exit::Fine })
        }
    };
    screen.clear();
    Environment::forget_running(state);
    let stopped = crew.stop();
    tokio::pin!(stopped);
    tokio::select! {
        () = &mut stopped => {}
        () = signals.next() => {
            hurry.cancel();
            stopped.await;
        }
    }
    outcome
}

/// Says what would be started.
fn tell_plan(plan: &Plan, answered: Option<&AtomicBool>) -> Result<Exit, Failure> {
    if let Some(answered) = answered {
        answered.store(true, Ordering::SeqCst);
    }
    let programs = plan.starts();
    let result = json!({"programs": programs, "folder": plan.folder, "logs": plan.logs});
    let summary = format!(
        "The settings will do. {} would be started in {}, with logs in {}.",
        programs.join(", "),
        plan.folder.display(),
        plan.logs.display()
    );
    Answer::new(summary, result, Vec::new()).tell(answered.is_some(), |answer| answer.summary.clone())
}

/// Makes sure that nobody else works on this folder, and that nothing of a killed run still does.
async fn lock_state(state: &Path) -> Result<Lock, Failure> {
    let failed = |error: std::io::Error| {
        Failure::environment(format!("Cannot lock the folder {}: {error}", state.display()))
    };
    let lock = Lock::try_take(&state.join("run.lock")).map_err(failed)?.ok_or_else(|| {
        Failure::environment(format!("Another `rollcall up` works on the folder {}", state.display()))
            .remedy("Stop it, or name another folder in STATE_DIR")
    })?;
    if Lock::wait_until_free(&reaper_lock(state), LEFTOVERS).await.map_err(failed)? {
        Ok(lock)
    } else {
        let found = "Programs of a run that was killed are still stopping";
        Err(Failure::environment(found).remedy("Try again in a moment"))
    }
}

fn reaper_lock(state: &Path) -> std::path::PathBuf {
    state.join("programs.lock")
}

fn start_reaper(state: &Path) -> Result<Reaper, Failure> {
    Reaper::start(&reaper_lock(state))
        .map_err(|error| Failure::environment(format!("Cannot start the reaper: {error}")))
}

/// What carrying it out takes.
struct Work<'w> {
    plan: &'w Plan,
    arguments: &'w cli::Up,
    screen: &'w Screen,
    began: Instant,
    answered: Option<&'w AtomicBool>,
}

impl Work<'_> {
    async fn carry_out(
        &self,
        crew: &mut Crew,
        incidents: mpsc::UnboundedReceiver<Incident>,
    ) -> Result<Exit, Failure> {
        let mut environment = self.plan.environment.clone();
        let broker = self.nats(crew, &mut environment).await?;
        self.bootstrap(&broker, &environment).await?;
        let demo = self.demo(crew, &mut environment).await?;
        // `rollcall bootstrap` may have marked the streams with the port that the double had then.
        if let (Some(_), Some(portal)) = (&demo, owner::portal(&environment)) {
            owner::stamp(&broker, &portal, owner::Change::Rename).await?;
        }
        if let Err(error) = self.plan.write_running(&environment) {
            self.screen.say(&format!("Other `rollcall` commands cannot find this run: {error}"));
        }
        let before = follow::Before::look(&broker, demo.as_ref()).await;
        self.stages(crew, &environment)?;
        let follow = follow::Follow {
            plan: self.plan,
            screen: self.screen,
            broker: &broker,
            demo: demo.as_ref(),
            before,
            began: self.began,
            once: self.arguments.once,
            answered: self.answered,
            within: self.arguments.within,
        };
        follow.run(incidents).await
    }

    async fn nats(&self, crew: &mut Crew, environment: &mut Environment) -> Result<Broker, Failure> {
        let connected = match self.plan.nats {
            Nats::Given => nats::connect(environment).await,
            Nats::Own => {
                let folder = self.plan.folder.join("nats");
                // A log that cannot be shortened is no reason to stay down.
                let _long = program::shorten(&folder.join("nats-server.log"));
                let server =
                    LocalNats::start_noted(&folder, crew.nats_watch()).await.map_err(nats_missing)?;
                let url = server.url();
                crew.keep_nats(server);
                environment.set("NATS_URL", url.clone());
                let settings = NatsSettings::plain(&url).map_err(Failure::trouble)?;
                nats::connect_to(&settings).await
            }
        };
        Ok(connected?)
    }

    async fn bootstrap(&self, broker: &Broker, environment: &Environment) -> Result<(), Failure> {
        let keeping = crate::bootstrap::keeping(environment, None)?;
        // The demo's portal has a folder of its own and another port every time.
        let portal = owner::portal(environment).filter(|_| self.plan.mode == Mode::Real);
        if let Some(portal) = &portal {
            owner::check_what_answers(broker, portal, owner::Change::Refuse).await?;
        }
        let findings = bootstrap::apply(broker, keeping, Bootstrap::Make).await.map_err(Failure::trouble)?;
        for finding in findings {
            if let Finding::Drifted { what, differences } = finding {
                self.screen.say(&format!("{what} is not as declared: {}", differences.join("; ")));
            }
        }
        if let Some(portal) = &portal {
            owner::stamp(broker, portal, owner::Change::Refuse).await?;
        }
        Ok(())
    }

    async fn demo(&self, crew: &mut Crew, environment: &mut Environment) -> Result<Option<Demo>, Failure> {
        if self.plan.mode == Mode::Real {
            return Ok(None);
        }
        self.screen
            .say("No portal is set: starting doubles of Bitrix24 and otmechalka with invented records.");
        let demo = Demo::start(self.plan, &self.arguments.demo, crew).await?;
        environment.set("BITRIX24_WEBHOOK_URL", demo.webhook_url.clone());
        environment.set("OTMECHALKA_URL", demo.otmechalka_url.clone());
        Ok(Some(demo))
    }

    fn stages(&self, crew: &mut Crew, environment: &Environment) -> Result<(), Failure> {
        for stage in STAGES {
            let program = self.plan.program(stage, environment.clone());
            let child = program
                .start()
                .map_err(|error| Failure::environment(format!("Cannot start {stage}: {error}")))?;
            crew.keep(Rank::Stage, program, child);
        }
        self.screen.say(&format!("Started {}; logs are in {}.", STAGES.join(", "), self.plan.logs.display()));
        Ok(())
    }
}

fn nats_missing(error: LocalNatsError) -> Failure {
    let remedy = "`tools/nats-server.sh` gets one; or name a running NATS in NATS_URL";
    Failure::environment(error).called("nats.connection").remedy(remedy)
}
