//! Watches the pipeline while it runs: progress, proof of having caught up, the summary, and what comes after.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use runtime::Broker;
use schemas::{Entity, RecordId};
use tokio::sync::{mpsc, watch};

use super::catchup::{CatchUp, is_idle};
use super::crew::Incident;
use super::demo::Demo;
use super::gauge::{self, Snapshot};
use super::outcomes::{self, Outcomes};
use super::plan::{Mode, Nats, Plan};
use super::program;
use super::screen::Screen;
use super::summary::{Requests, Summary, news};
use crate::answer::{Answer, Finding};
use crate::exit::{Exit, Failure};
use crate::status::letters_text;

/// Pause between two looks at the streams.
const LOOK_AGAIN: Duration = Duration::from_millis(400);

/// Pause between two looks at the lengths of the logs.
const LOOK_AT_LOGS: Duration = Duration::from_secs(60);

/// How things stood before the stages were started.
pub struct Before {
    outcomes: u64,
    requests: Option<Requests>,
}

impl Before {
    /// Looks.
    pub async fn look(broker: &Broker, demo: Option<&Demo>) -> Before {
        let outcomes = gauge::read(broker).await.map_or(0, |snapshot| snapshot.results.last);
        Before { outcomes, requests: requests(demo).await }
    }
}

async fn requests(demo: Option<&Demo>) -> Option<Requests> {
    demo?.requests().await
}

/// Everything that watching takes.
pub struct Follow<'f> {
    pub plan: &'f Plan,
    pub screen: &'f Screen,
    pub broker: &'f Broker,
    pub demo: Option<&'f Demo>,
    pub before: Before,
    pub began: Instant,
    pub once: bool,
    /// Set once the one object of `--json` is printed; absent where text is wanted.
    pub answered: Option<&'f AtomicBool>,
    pub within: Option<Duration>,
}

/// What is known about the way so far.
struct Way {
    catch_up: CatchUp,
    /// Newest outcome that the operator was told about, once everything had caught up.
    told: Option<u64>,
    /// When something was last found to be done.
    last_move: Instant,
    newest: u64,
}

impl Follow<'_> {
    /// Watches until it is done, if it ever is.
    pub async fn run(&self, incidents: mpsc::UnboundedReceiver<Incident>) -> Result<Exit, Failure> {
        let (send, snapshots) = watch::channel(None);
        tokio::select! {
            never = look_again_and_again(self.broker, self.screen, send) => never,
            never = shorten_logs(self.plan) => never,
            outcome = self.watch(incidents, snapshots) => outcome,
            failure = self.time_is_up() => Err(failure),
        }
    }

    async fn time_is_up(&self) -> Failure {
        let Some(within) = self.within else { return std::future::pending().await };
        tokio::time::sleep(within.saturating_sub(self.began.elapsed())).await;
        let logs = self.plan.logs.display();
        Failure::trouble(format!("Not caught up within {}", humantime::format_duration(within)))
            .remedy(format!("The logs in {logs} say why; `rollcall doctor` checks the neighbours"))
    }

    async fn watch(
        &self,
        mut incidents: mpsc::UnboundedReceiver<Incident>,
        mut snapshots: watch::Receiver<Option<Snapshot>>,
    ) -> Result<Exit, Failure> {
        let mut way = Way {
            catch_up: CatchUp::default(),
            told: None,
            last_move: self.began,
            newest: self.before.outcomes,
        };
        loop {
            let snapshot = tokio::select! {
                Some(incident) = incidents.recv() => {
                    self.tell(&incident)?;
                    continue;
                }
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return Err(Failure::trouble("Nobody looks at the streams any more."));
                    }
                    snapshots.borrow_and_update().clone()
                }
            };
            let Some(snapshot) = snapshot else { continue };
            if self.note(&snapshot, &mut way).await? && self.once {
                return Ok(Exit::Fine);
            }
        }
    }

    /// Takes a snapshot in; tells whether everything has caught up with this one.
    async fn note(&self, snapshot: &Snapshot, way: &mut Way) -> Result<bool, Failure> {
        let newest = snapshot.results.last.max(snapshot.statuses.last);
        if newest > way.newest {
            (way.newest, way.last_move) = (newest, Instant::now());
        }
        if let Some(told) = way.told {
            self.tell_news(snapshot, way, told).await?;
            return Ok(false);
        }
        self.screen.show(snapshot);
        if !way.catch_up.is_proved_by(snapshot, Utc::now()) {
            return Ok(false);
        }
        self.tell_summary(snapshot, way.last_move).await?;
        way.told = Some(snapshot.results.last);
        Ok(true)
    }

    async fn tell_summary(&self, snapshot: &Snapshot, last_move: Instant) -> Result<(), Failure> {
        let outcomes = outcomes::read_newest(self.broker).await.map_err(Failure::trouble)?;
        let summary = Summary {
            outcomes: &outcomes,
            snapshot,
            processed: snapshot.results.last.saturating_sub(self.before.outcomes),
            took: last_move.saturating_duration_since(self.began),
            requests: self.spent().await,
            places: &self.places(&outcomes),
        };
        self.screen.clear();
        if let Some(answered) = self.answered {
            answered.store(true, Ordering::SeqCst);
            let sentence = format!("Everything has caught up; {} records were processed.", summary.processed);
            let result = summary.for_programs(self.plan.logs.display().to_string());
            Answer::new(sentence, result, findings(snapshot)).tell(true, |answer| answer.summary.clone())?;
        } else {
            self.screen
                .say("Everything has caught up. What follows is for the school's manager, in Russian.");
            self.screen.say(&summary.text());
        }
        if !self.once {
            self.screen.say("Everything stays up and follows edits in Bitrix24. Ctrl-C stops it.");
        }
        Ok(())
    }

    async fn spent(&self) -> Option<Requests> {
        let (now, before) = (requests(self.demo).await?, self.before.requests?);
        Some(Requests {
            bitrix24: now.bitrix24.saturating_sub(before.bitrix24),
            refused: now.refused.saturating_sub(before.refused),
            otmechalka: now.otmechalka.saturating_sub(before.otmechalka),
        })
    }

    fn places(&self, outcomes: &Outcomes) -> Vec<(&'static str, String)> {
        let mut places = vec![
            ("журналы программ", self.plan.logs.display().to_string()),
            ("что значит каждый статус", "docs/statuses.md".to_owned()),
        ];
        if self.plan.nats == Nats::Own {
            places.push(("потоки NATS (на диске)", self.plan.folder.join("nats").display().to_string()));
        }
        if let Some(demo) = self.demo {
            places.push(("Битрикс24 (двойник)", format!("{}state", demo.bitrix24_admin)));
            places.push(("отмечалка (двойник)", format!("{}state", demo.otmechalka_admin)));
            if let Some(contact) = outcomes.any_in_otmechalka(Entity::Contact) {
                places.push(("изменить контакт", edit(&demo.bitrix24_admin, contact.id)));
            }
        } else if self.plan.mode == Mode::Real {
            places.push(("проверка настроек", "rollcall doctor".to_owned()));
        }
        places
    }

    /// Tells what came of later edits, once their statuses are settled too.
    async fn tell_news(&self, snapshot: &Snapshot, way: &mut Way, told: u64) -> Result<(), Failure> {
        if snapshot.results.last == told || !is_idle(snapshot, Utc::now()) {
            return Ok(());
        }
        let outcomes = outcomes::read_from(self.broker, told + 1).await.map_err(Failure::trouble)?;
        self.screen.say(&format!("{} UTC, {}", Utc::now().format("%H:%M:%S"), news(&outcomes)));
        way.told = Some(snapshot.results.last);
        Ok(())
    }

    fn tell(&self, incident: &Incident) -> Result<(), Failure> {
        let log = |name: &str| self.plan.logs.join(format!("{name}.log")).display().to_string();
        match incident {
            Incident::Ended { name, how, pause } => self.screen.say(&format!(
                "{name} ended ({how}); starting it again in {} s. See {}",
                pause.as_secs(),
                log(name)
            )),
            Incident::NotStarted { name, why, pause } => self
                .screen
                .say(&format!("{name} cannot be started ({why}); trying again in {} s", pause.as_secs())),
            Incident::RefusesSettings { name } => {
                return Err(Failure::settings(format!("{name} refuses its settings"))
                    .remedy(format!("Its log names them: {}", log(name))));
            }
        }
        Ok(())
    }
}

fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let letters = snapshot.dead_letters.stored;
    if letters == 0 {
        return Vec::new();
    }
    let (found, action) = (letters_text(letters), "`rollcall dead-letters list` shows them");
    vec![Finding::warning("dead_letters", "Dead letters", found, action)]
}

fn edit(admin: &str, contact: RecordId) -> String {
    format!(
        "curl -X POST {admin}contacts/{contact} -H 'Content-Type: application/json' \
         -d '{{\"fields\":{{\"NAME\":\"Анна\"}}}}'"
    )
}

async fn look_again_and_again(
    broker: &Broker,
    screen: &Screen,
    send: watch::Sender<Option<Snapshot>>,
) -> Result<Exit, Failure> {
    let mut complained = false;
    loop {
        match gauge::read(broker).await {
            Ok(snapshot) => {
                complained = false;
                send.send_replace(Some(snapshot));
            }
            Err(error) if !complained => {
                complained = true;
                screen.say(&format!("Cannot see how far it is: {error}"));
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn shorten_logs(plan: &Plan) -> Result<Exit, Failure> {
    loop {
        tokio::time::sleep(LOOK_AT_LOGS).await;
        let Ok(logs) = std::fs::read_dir(&plan.logs) else { continue };
        for log in logs.flatten().map(|entry| entry.path()) {
            if log.extension().is_some_and(|extension| extension == "log") {
                // Nobody is harmed by a long log; the next minute may be luckier.
                let _long = program::shorten(&log);
            }
        }
    }
}
