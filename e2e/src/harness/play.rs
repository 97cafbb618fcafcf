//! Carries a script out, step by step, each awaited by what it brings about and not by the clock.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::consumer::PullConsumer;
use nix::sys::signal::Signal;
use runtime::bootstrap::{self, Mode};
use runtime::local_nats::LocalNats;
use schemas::streams::consumers;
use serde_json::{Value, json};

use super::curves::{self, Peaks};
use super::judge::{self, Mended, Tally};
use super::people::{self, STATUS, SURNAME};
use super::plan::{Act, Edit, Flaw, Plan, Trouble};
use super::witness::Witness;
use crate::eventually;
use crate::proxy::Weather;
use crate::school::{PATIENCE, School, Stage};

/// Delay of a slow stretch of network.
const SLOW: Duration = Duration::from_millis(150);

/// What a bad stretch of network is like.
const LOSSY: Weather = Weather::Lossy { delay: SLOW, percent: 5 };

/// Seconds until a write is readable where that is late.
const LATE: f64 = 3.0;

/// Plays a script in a school of its own and judges it. An error tells how to play it again.
pub async fn play(plan: &Plan) -> anyhow::Result<Peaks> {
    play_noting(plan, |_| {}).await
}

/// Plays a script, and has every measurement of the processes noted.
pub async fn play_noting(plan: &Plan, note: impl FnMut(&[curves::Sample])) -> anyhow::Result<Peaks> {
    let played = play_in_school(plan, note).await;
    played.with_context(|| {
        let seed = plan.seed;
        format!(
            "commit {}; replay: run the test again, or a script of ./soak with ROLLCALL_SEED={seed}\n{plan}",
            crate::commit()
        )
    })
}

async fn play_in_school(plan: &Plan, note: impl FnMut(&[curves::Sample])) -> anyhow::Result<Peaks> {
    let school = School::builder()
        .demo(60, 60, plan.seed)
        // A call that gets no answer must not take longer than the rest of the script.
        .env("OTMECHALKA_TIMEOUT", "5s")
        .networked();
    let school = if plan.is_of_a_cluster() { school.cluster() } else { school };
    let school = school.start().await?;
    let witness = Witness::of(&school);
    let mut player = Player { school, pupils: Vec::new(), deals: Vec::new(), peaks: Peaks::default(), note };
    for (number, act) in plan.acts.iter().enumerate() {
        player.act(*act).await.with_context(|| format!("step {number}: {act:?}"))?;
    }
    player.heal().await?;
    let mended = Some(Mended::now(&player.school).await?);
    player.school.caught_up().await?;
    player.measure();
    let testimony = witness.tell().await?;
    let peaks = player.peaks.clone();
    let tally = Tally { testimony, peaks, mended, ..Tally::default() };
    judge::judge(&player.school, &tally).await?;
    Ok(player.peaks)
}

struct Player<N> {
    school: School,
    pupils: Vec<u64>,
    deals: Vec<u64>,
    peaks: Peaks,
    note: N,
}

impl<N: FnMut(&[curves::Sample])> Player<N> {
    fn measure(&mut self) {
        let samples = curves::measure(&self.school);
        self.peaks.note(&samples);
        (self.note)(&samples);
    }

    async fn act(&mut self, act: Act) -> anyhow::Result<()> {
        self.measure();
        match act {
            Act::Edit(edit) => self.edit(edit).await,
            Act::Begin(trouble) => self.begin(trouble).await,
            Act::End(trouble) => self.end(trouble).await,
            Act::Polls(more) => self.school.after_polls(more).await,
        }
    }

    async fn edit(&mut self, edit: Edit) -> anyhow::Result<()> {
        let bitrix24 = &self.school.bitrix24;
        match edit {
            Edit::NewContact { pupil, flaw } => {
                ensure!(pupil == self.pupils.len(), "pupils come in their order");
                let id = bitrix24.create_contact(with_flaw(people::contact(0), flaw)).await?;
                self.pupils.push(id);
            }
            Edit::Import { pupil, seconds_ago } => {
                ensure!(pupil == self.pupils.len(), "pupils come in their order");
                let date = bitrix24.ago(seconds_ago).await?;
                self.pupils.push(bitrix24.import_contact(people::contact(0), &date).await?);
            }
            Edit::Burst { pupil, from, times } => {
                for number in from..from + times {
                    let change = json!({SURNAME: people::surname(number)});
                    bitrix24.edit("contact", self.pupils[pupil], change).await?;
                }
            }
            Edit::Spoil { pupil, flaw } => {
                bitrix24.edit("contact", self.pupils[pupil], spoiled(flaw)).await?;
            }
            Edit::Mend { pupil, surname } => {
                bitrix24.edit("contact", self.pupils[pupil], people::contact(surname)).await?;
            }
            Edit::ClearContact(pupil) => {
                bitrix24.edit("contact", self.pupils[pupil], json!({STATUS: ""})).await?;
            }
            Edit::ClearDeal(deal) => bitrix24.edit("deal", self.deals[deal], json!({STATUS: ""})).await?,
            Edit::Delete(pupil) => bitrix24.remove("contact", self.pupils[pupil]).await?,
            Edit::Merge { pupil, into } => bitrix24.merge(self.pupils[pupil], self.pupils[into]).await?,
            Edit::NewDeal { deal, pupil, is_won } => {
                ensure!(deal == self.deals.len(), "deals come in their order");
                let fields = people::deal(self.pupils[pupil], is_won);
                self.deals.push(bitrix24.create_deal(fields, people::rows(8_700)).await?);
            }
            Edit::Win(deal) => bitrix24.edit("deal", self.deals[deal], json!({"STAGE_ID": "WON"})).await?,
            Edit::Reprice { deal, rubles } => {
                bitrix24.set_rows(self.deals[deal], people::rows(rubles)).await?;
            }
        }
        Ok(())
    }

    async fn begin(&mut self, trouble: Trouble) -> anyhow::Result<()> {
        let school = &mut self.school;
        match trouble {
            Trouble::Kill(stage) => school.kill_and_start(stage).await,
            Trouble::KillTwice(stage) => {
                school.kill_and_start(stage).await?;
                school.kill_and_start(stage).await
            }
            Trouble::Doom(stage, place) => school.doom(stage, place).await,
            Trouble::Freeze(stage) => school.stage(stage)?.freeze(),
            Trouble::Zombie(stage) => {
                school.stage(stage)?.freeze()?;
                school.relieve(stage)
            }
            Trouble::Broker => Ok(school.nats.kill().await?),
            Trouble::Forget(stage) => {
                school.stage(stage)?.kill().await?;
                spoil_cache(&school.state_dir(), stage, |path| std::fs::remove_dir_all(path))?;
                school.start(stage)
            }
            Trouble::Tear(stage) => {
                school.stage(stage)?.kill().await?;
                spoil_cache(&school.state_dir(), stage, tear)?;
                school.start(stage)
            }
            Trouble::Bitrix24(kind, count) => {
                school.bitrix24.fault(json!({"kind": kind, "count": count})).await
            }
            Trouble::Otmechalka(kind, count) => {
                school.otmechalka.fault(json!({"kind": kind, "count": count})).await
            }
            Trouble::Cut(link) => school.weather(link, Weather::Cut),
            Trouble::Silence(link) => school.weather(link, Weather::Silent),
            Trouble::Slow(link) => school.weather(link, Weather::Slow(SLOW)),
            Trouble::Lossy(link) => school.weather(link, LOSSY),
            Trouble::HalfOpen(link) => school.weather(link, Weather::HalfOpen),
            Trouble::Late => school.bitrix24.set(json!({"list_delay_seconds": LATE})).await,
            Trouble::Redeliver => redeliver(school).await,
            Trouble::ServerDies(number) => Ok(server(school, number)?.kill().await?),
            Trouble::ServerStill(number) => signal_server(school, number, Signal::SIGSTOP),
            Trouble::ServerCutOff(number) => school.weather_between_servers(number, Weather::Cut),
            Trouble::MajorityDies(survivor) => {
                for (number, server) in school.servers().enumerate() {
                    if number != survivor {
                        server.kill().await?;
                    }
                }
                Ok(())
            }
        }
    }

    async fn end(&mut self, trouble: Trouble) -> anyhow::Result<()> {
        let school = &mut self.school;
        match trouble {
            Trouble::Doom(stage, _) => {
                if school.stage(stage)?.has_ended()? {
                    school.until_dead(stage).await?;
                }
                school.kill_and_start(stage).await
            }
            Trouble::Freeze(stage) => school.stage(stage)?.thaw(),
            Trouble::Zombie(stage) => {
                until_relieved(school, stage).await?;
                school.thaw_relieved()
            }
            Trouble::Broker => Ok(school.nats.restart().await?),
            Trouble::Bitrix24(..) => school.bitrix24.heal().await,
            Trouble::Otmechalka(..) => school.otmechalka.heal().await,
            Trouble::Cut(link)
            | Trouble::Silence(link)
            | Trouble::Slow(link)
            | Trouble::Lossy(link)
            | Trouble::HalfOpen(link) => school.weather(link, Weather::Clear),
            Trouble::Late => school.bitrix24.set(json!({"list_delay_seconds": 0.0})).await,
            Trouble::ServerDies(number) => Ok(server(school, number)?.restart().await?),
            Trouble::ServerStill(number) => signal_server(school, number, Signal::SIGCONT),
            Trouble::ServerCutOff(number) => school.weather_between_servers(number, Weather::Clear),
            Trouble::MajorityDies(survivor) => {
                let mut dead = school.servers().enumerate().filter(|(number, _)| *number != survivor);
                // Neither is ready without the other.
                dead.try_for_each(|(_, server)| Ok(server.revive()?))
            }
            Trouble::Kill(_)
            | Trouble::KillTwice(_)
            | Trouble::Forget(_)
            | Trouble::Tear(_)
            | Trouble::Redeliver => Ok(()),
        }
    }

    /// Makes sure that nothing is broken any more, and that no stage gave up by itself.
    async fn heal(&mut self) -> anyhow::Result<()> {
        self.school.clear_up();
        self.school.bitrix24.heal().await?;
        self.school.otmechalka.heal().await?;
        for stage in Stage::ALL {
            ensure!(!self.school.stage(stage)?.has_ended()?, "{stage:?} ended by itself");
        }
        Ok(())
    }
}

fn server(school: &mut School, number: usize) -> anyhow::Result<&mut LocalNats> {
    school.servers().nth(number).context("a server of the cluster")
}

fn signal_server(school: &mut School, number: usize, signal: Signal) -> anyhow::Result<()> {
    crate::signal(server(school, number)?.process_id().context("a running server")?, signal)
}

fn with_flaw(mut contact: Value, flaw: Option<Flaw>) -> Value {
    if let (Some(flaw), Value::Object(fields)) = (flaw, &mut contact)
        && let Value::Object(spoiled) = spoiled(flaw)
    {
        fields.extend(spoiled);
    }
    contact
}

fn spoiled(flaw: Flaw) -> Value {
    match flaw {
        Flaw::NoPhone => json!({"PHONE": []}),
        Flaw::NoSurname => json!({SURNAME: ""}),
        Flaw::NoProduct => json!({"UF_CRM_58D15BB9CA8F4": []}),
    }
}

/// Does something to the folder of a stage's cache, where it has one.
fn spoil_cache(
    state_dir: &Path,
    stage: Stage,
    spoil: impl Fn(&Path) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let path = state_dir.join(format!("{}.sled", stage.program()));
    if path.is_dir() { Ok(spoil(&path)?) } else { Ok(()) }
}

/// Cuts every file of a folder in half.
pub fn tear(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            tear(&path)?;
        } else {
            let file = std::fs::File::options().write(true).open(&path)?;
            file.set_len(file.metadata()?.len() / 2)?;
        }
    }
    Ok(())
}

async fn redeliver(school: &mut School) -> anyhow::Result<()> {
    let replicas = school.servers().count();
    // Leaders of a cluster may just be changing.
    for definition in consumers() {
        eventually("a consumer to be deleted", PATIENCE, || async {
            let Ok(stream) = school.broker.jetstream().get_stream(definition.stream).await else {
                return Ok(None);
            };
            let told = stream.delete_consumer(&definition.name).await;
            let is_gone = told.map_or_else(|error| error.to_string().contains("not found"), |_| true);
            Ok(is_gone.then_some(()))
        })
        .await?;
    }
    eventually("consumers to be made anew", PATIENCE, || async {
        Ok(bootstrap::apply(&school.broker, replicas, Mode::Make).await.ok().map(drop))
    })
    .await
}

/// Waits until the successor of a frozen stage has everything that the frozen one held.
pub async fn until_relieved(school: &School, stage: Stage) -> anyhow::Result<()> {
    let own: Vec<_> =
        consumers().into_iter().filter(|consumer| consumer.name.starts_with(stage.program())).collect();
    ensure!(!own.is_empty(), "{stage:?} has no consumer");
    eventually("the successor's work", PATIENCE, || async {
        let mut held = 0;
        for definition in &own {
            let found =
                school.broker.jetstream().get_consumer_from_stream(&definition.name, definition.stream).await;
            let Ok::<PullConsumer, _>(consumer) = found else { return Ok(None) };
            held += consumer.cached_info().num_ack_pending;
        }
        Ok((held == 0).then_some(()))
    })
    .await
}
