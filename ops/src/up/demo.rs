//! The doubles of both CRMs, as `up` starts them.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use super::crew::Crew;
use super::plan::{Plan, SIMULATORS};
use super::program::Program;
use super::reaper::Rank;
use super::summary::Requests;
use crate::cli;
use crate::environment::Environment;
use crate::exit::Failure;

/// Token of the double of otmechalka. No secret: it listens on this machine only, to invented records.
pub const TOKEN: &str = "demo";

/// Longest wait for a double to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The running doubles.
pub struct Demo {
    /// Webhook of the portal.
    pub webhook_url: String,
    /// What a test or a curious person may do to the portal.
    pub bitrix24_admin: String,
    /// Address of otmechalka.
    pub otmechalka_url: String,
    /// What a test or a curious person may do to otmechalka.
    pub otmechalka_admin: String,
    http: reqwest::Client,
}

/// The line that a double prints when it answers.
#[derive(Deserialize)]
struct Ready {
    #[serde(alias = "webhook_url")]
    url: String,
    admin_url: String,
}

/// How the school in a folder was invented; another one needs another folder.
#[derive(Clone, Copy, Serialize, Deserialize, PartialEq, Eq, Debug)]
struct School {
    contacts: usize,
    deals: usize,
    seed: u64,
}

impl School {
    const FIRST: School = School { contacts: 400, deals: 600, seed: 1 };

    fn with(self, arguments: &cli::Demo) -> School {
        School {
            contacts: arguments.contacts.unwrap_or(self.contacts),
            deals: arguments.deals.unwrap_or(self.deals),
            seed: arguments.seed.unwrap_or(self.seed),
        }
    }

    fn arguments(self) -> Vec<String> {
        let School { contacts, deals, seed } = self;
        let text = format!("--dataset demo --contacts {contacts} --deals {deals} --seed {seed}");
        text.split(' ').map(str::to_owned).collect()
    }
}

impl Demo {
    /// Starts both doubles and waits until they answer.
    pub async fn start(plan: &Plan, arguments: &cli::Demo, crew: &mut Crew) -> Result<Demo, Failure> {
        let school = keep_school(&plan.folder, arguments)?;
        let clock = ["--clock-speed".to_owned(), arguments.clock_speed.to_string()];
        let [bitrix24, otmechalka] = SIMULATORS;
        let bitrix24 = plan.program(bitrix24, Environment::default());
        let school = [school.arguments().as_slice(), &clock].concat();
        let bitrix24 = start(bitrix24, &plan.folder.join("bitrix24"), &school, crew).await?;
        let mut environment = Environment::default();
        environment.set("OTMECHALKA_SIM_TOKEN", TOKEN);
        let otmechalka = plan.program(otmechalka, environment);
        let otmechalka = start(otmechalka, &plan.folder.join("otmechalka"), &clock, crew).await?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build();
        Ok(Demo {
            webhook_url: bitrix24.url,
            bitrix24_admin: bitrix24.admin_url,
            otmechalka_url: otmechalka.url,
            otmechalka_admin: otmechalka.admin_url,
            http: http.map_err(|error| Failure::trouble(error.without_url()))?,
        })
    }

    /// Asks both how many requests they got so far.
    pub async fn requests(&self) -> Option<Requests> {
        let bitrix24 = self.counters(&self.bitrix24_admin).await?;
        let otmechalka = self.counters(&self.otmechalka_admin).await?;
        Some(Requests {
            bitrix24: bitrix24.get("requests")?.as_u64()?,
            refused: bitrix24.get("refused_503")?.as_u64()?,
            otmechalka: otmechalka.get("total")?.as_u64()?,
        })
    }

    async fn counters(&self, admin: &str) -> Option<serde_json::Value> {
        let answer = self.http.get(format!("{admin}requests")).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }
}

/// Finds out how the school in a folder was invented, and refuses to take another one for it.
fn keep_school(folder: &Path, arguments: &cli::Demo) -> Result<School, Failure> {
    let path = folder.join("school.json");
    let Ok(text) = std::fs::read(&path) else {
        let school = School::FIRST.with(arguments);
        let text = serde_json::to_vec(&school).map_err(Failure::trouble)?;
        std::fs::write(&path, text)
            .map_err(|error| Failure::environment(format!("Cannot write {}: {error}", path.display())))?;
        return Ok(school);
    };
    let folder = folder.display();
    let school: School = serde_json::from_slice(&text).map_err(|_| {
        Failure::environment(format!("{} is damaged", path.display()))
            .remedy(format!("Remove {folder} to begin anew"))
    })?;
    if school.with(arguments) == school {
        return Ok(school);
    }
    let School { contacts, deals, seed } = school;
    Err(Failure::settings(format!(
        "the school in {folder} has {contacts} contacts and {deals} deals and was invented from seed {seed}"
    ))
    .remedy(format!(
        "Leave --contacts, --deals and --seed away to go on with it, or remove {folder} to begin anew"
    )))
}

async fn start(
    mut program: Program,
    state: &Path,
    arguments: &[String],
    crew: &mut Crew,
) -> Result<Ready, Failure> {
    program.arguments = vec!["--state-dir".to_owned(), state.display().to_string()];
    program.arguments.extend_from_slice(arguments);
    let failed = |why: String| {
        Failure::environment(format!("{} did not start: {why}", program.name))
            .remedy(format!("Its log says why: {}", program.log.display()))
    };
    let mut child = program.start_with_pipe().map_err(|error| failed(error.to_string()))?;
    crew.note_started(Rank::Simulator, &child);
    let ready = ready(&mut child).await.map_err(failed)?;
    let address = address(&ready.admin_url).ok_or_else(|| failed("its address is unreadable".into()))?;
    // After a death it comes back where the stages know it to be.
    program.arguments.extend(["--listen".to_owned(), address]);
    crew.keep(Rank::Simulator, program, child);
    Ok(ready)
}

async fn ready(child: &mut Child) -> Result<Ready, String> {
    let pipe = child.stdout.take().ok_or("no pipe from it")?;
    let mut lines = BufReader::new(pipe).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line())
        .await
        .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
        .map_err(|error| error.to_string())?
        .ok_or("it ended at once")?;
    serde_json::from_str(&line).map_err(|_| "it said something else than that it is ready".to_owned())
}

fn address(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    Some(format!("{}:{}", url.host_str()?, url.port()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_school_stays_what_it_was_invented_as() {
        let folder = tempfile::tempdir().unwrap();
        let asked = |contacts| cli::Demo { contacts, ..cli::Demo::default() };
        let first = keep_school(folder.path(), &asked(Some(4))).unwrap();
        assert_eq!(first, School { contacts: 4, ..School::FIRST });
        assert_eq!(keep_school(folder.path(), &asked(None)).unwrap(), first);
        assert_eq!(keep_school(folder.path(), &asked(Some(4))).unwrap(), first);
        let refused = keep_school(folder.path(), &asked(Some(5))).unwrap_err();
        assert_eq!(refused.exit, crate::exit::Exit::Settings);
        assert!(refused.text.contains("4 contacts"), "{}", refused.text);
    }

    #[test]
    fn both_ready_lines_are_understood() {
        let bitrix24 = r#"{"ready":true,"webhook_url":"http://127.0.0.1:9/rest/1/x/","admin_url":"http://127.0.0.1:9/admin/"}"#;
        let ready: Ready = serde_json::from_str(bitrix24).unwrap();
        assert_eq!(address(&ready.admin_url).as_deref(), Some("127.0.0.1:9"));
        let otmechalka =
            r#"{"ready":true,"url":"http://127.0.0.1:8","admin_url":"http://127.0.0.1:8/admin/"}"#;
        assert_eq!(serde_json::from_str::<Ready>(otmechalka).unwrap().url, "http://127.0.0.1:8");
    }
}
