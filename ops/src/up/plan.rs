//! Decides, before anything starts, what is to run and with which settings.

use std::path::{Path, PathBuf};

use runtime::Reader;

use super::program::Program;
use crate::cli;
use crate::environment::Environment;
use crate::exit::Failure;
use crate::stages::{self, STAGES};

/// The doubles of both CRMs.
pub const SIMULATORS: [&str; 2] = ["bitrix24-sim", "otmechalka-sim"];

/// Everything that reaches NATS with credentials; of no use for a server of our own.
const NATS_SETTINGS: [&str; 5] = ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_NKEY_SEED", "NATS_CA_FILE"];

/// Stand in for what is known only once things run, while settings are checked.
const SOME_WEBHOOK: &str = "http://127.0.0.1:8080/rest/1/demo/";
const SOME_OTMECHALKA: &str = "http://127.0.0.1:8081";

/// Whom the pipeline connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The CRMs in the settings.
    Real,
    /// Doubles of both with invented records.
    Demo,
}

/// Who runs NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nats {
    /// We do.
    Own,
    /// Somebody whom the settings name.
    Given,
}

/// What is to run.
pub struct Plan {
    /// Whom the pipeline connects.
    pub mode: Mode,
    /// Who runs NATS.
    pub nats: Nats,
    /// What the stages see; addresses that are not known yet are missing.
    pub environment: Environment,
    /// Folder of everything that this run keeps.
    pub folder: PathBuf,
    /// Folder of the logs.
    pub logs: PathBuf,
    programs: PathBuf,
}

/// What a demo sets by itself.
const RUNNING_DEMO: [&str; 9] = [
    "NATS_URL",
    "BITRIX24_WEBHOOK_URL",
    "OTMECHALKA_URL",
    "OTMECHALKA_TOKEN",
    "SYNC_START_DATE",
    "SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP",
    "SYNC_DEAL_LAST_MODIFY_TIMESTAMP",
    "PORTAL_CLOCK_SPEED",
    "OTMECHALKA_CLOCK_SPEED",
];

impl Plan {
    /// Makes the plan from the settings.
    pub fn make(mut environment: Environment, demo: &cli::Demo) -> Result<Plan, Failure> {
        let mode = mode(&environment);
        let state = state_dir(&environment)?;
        // Records of the demo must never be on the way to a real portal: nothing is shared, NATS least of all.
        let folder = if mode == Mode::Demo { state.join("demo") } else { state.clone() };
        let nats = if mode == Mode::Real && environment.has("NATS_URL") { Nats::Given } else { Nats::Own };
        if nats == Nats::Own {
            NATS_SETTINGS.iter().for_each(|name| environment.unset(name));
        }
        // Four stages on one machine cannot listen on one port; their logs tell what there is to tell.
        environment.unset("HEALTH_LISTEN");
        environment.set("STATE_DIR", folder.display().to_string());
        if mode == Mode::Demo {
            set_demo(&mut environment, demo);
        }
        let programs = stages::folder()?;
        Ok(Plan { mode, nats, environment, folder, logs: state.join("logs"), programs })
    }

    /// Names the programs in the order in which they are started.
    pub fn starts(&self) -> Vec<&'static str> {
        let nats: &[&str] = if self.nats == Nats::Own { &["nats-server"] } else { &[] };
        let simulators: &[&str] = if self.mode == Mode::Demo { &SIMULATORS } else { &[] };
        [nats, simulators, &STAGES].concat()
    }

    /// Names every program of ours that will be started and is not there.
    pub fn check_programs(&self) -> Result<(), Failure> {
        let is_missing = |name: &&str| *name != "nats-server" && !self.programs.join(name).is_file();
        let missing: Vec<&str> = self.starts().into_iter().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Failure::environment(format!(
            "Missing beside this program in {}: {}",
            self.programs.display(),
            missing.join(", ")
        ))
        .remedy("Build them with `cargo build --release --workspace --bins`"))
    }

    /// Makes the folders.
    pub fn make_folders(&self) -> Result<(), Failure> {
        for folder in [&self.folder, &self.logs] {
            std::fs::create_dir_all(folder).map_err(|error| {
                Failure::environment(format!("Cannot make the folder {}: {error}", folder.display()))
            })?;
        }
        Ok(())
    }

    /// Tells operators' commands what this run started itself; what was given they find as we did.
    pub fn write_running(&self, environment: &Environment) -> std::io::Result<()> {
        let names: &[&str] = match (self.mode, self.nats) {
            (Mode::Demo, _) => &RUNNING_DEMO,
            (Mode::Real, Nats::Own) => &["NATS_URL"],
            (Mode::Real, Nats::Given) => &[],
        };
        environment.write_running(names, self.state())
    }

    /// Returns the folder that `STATE_DIR` names.
    pub fn state(&self) -> &Path {
        self.logs.parent().unwrap_or(Path::new("."))
    }

    /// Describes one of the programs.
    pub fn program(&self, name: &'static str, environment: Environment) -> Program {
        Program {
            name,
            path: self.programs.join(name),
            arguments: Vec::new(),
            environment,
            log: self.logs.join(format!("{name}.log")),
        }
    }

    /// Asks every stage whether its settings will do, and tells all mistakes at once.
    pub async fn check_settings(&self) -> Result<(), Failure> {
        let mut environment = self.environment.clone();
        if self.nats == Nats::Own {
            environment.set("NATS_URL", stages::SOME_NATS);
        }
        if self.mode == Mode::Demo {
            environment.set("BITRIX24_WEBHOOK_URL", SOME_WEBHOOK);
            environment.set("OTMECHALKA_URL", SOME_OTMECHALKA);
        }
        stages::check_settings(&self.programs, &environment).await
    }
}

fn mode(environment: &Environment) -> Mode {
    // Either alone is a half-done configuration, which the stages will name; it is no wish for a demo.
    let is_real = environment.has("BITRIX24_WEBHOOK_URL") || environment.has("OTMECHALKA_URL");
    if is_real { Mode::Real } else { Mode::Demo }
}

fn state_dir(environment: &Environment) -> Result<PathBuf, Failure> {
    let source = environment.source();
    let reader = Reader::new(&source);
    let folder = reader.state_dir();
    reader.finish(|| folder).map_err(Failure::settings)
}

fn set_demo(environment: &mut Environment, demo: &cli::Demo) {
    for name in ["BITRIX24_WEBHOOK_URL", "OTMECHALKA_URL", "OTMECHALKA_TOKEN", "OTMECHALKA_AUTH_SCHEME"] {
        environment.unset(name);
    }
    environment.set("OTMECHALKA_TOKEN", super::demo::TOKEN);
    for name in ["PORTAL_CLOCK_SPEED", "OTMECHALKA_CLOCK_SPEED"] {
        environment.set(name, demo.clock_speed.to_string());
    }
    for (name, value) in [
        ("SYNC_START_DATE", "2020-12-22"),
        ("SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP", "2020-12-24"),
        ("SYNC_DEAL_LAST_MODIFY_TIMESTAMP", "2020-12-24"),
        // A minute, as with a real portal, would be long to watch.
        ("CONTACT_SYNC_INTERVAL", "5s"),
        ("DEAL_SYNC_INTERVAL", "5s"),
    ] {
        environment.set_default(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> cli::Demo {
        cli::Demo { clock_speed: 1.0, ..cli::Demo::default() }
    }

    #[test]
    fn without_a_portal_it_is_a_demo_that_shares_nothing_with_a_real_run() {
        let mut environment = Environment::default();
        environment.set("STATE_DIR", "/somewhere");
        environment.set("NATS_URL", "nats://nats.example:4222");
        let plan = Plan::make(environment, &demo()).unwrap();
        assert_eq!((plan.mode, plan.nats), (Mode::Demo, Nats::Own));
        assert_eq!(plan.folder, Path::new("/somewhere/demo"));
        assert_eq!(plan.environment.text("NATS_URL"), None);
        assert_eq!(plan.environment.text("CONTACT_SYNC_INTERVAL").as_deref(), Some("5s"));
    }

    #[test]
    fn one_of_the_two_crms_is_enough_for_a_real_run() {
        for name in ["BITRIX24_WEBHOOK_URL_FILE", "OTMECHALKA_URL"] {
            let mut environment = Environment::default();
            environment.set(name, "https://otmechalka.example");
            environment.set("STATE_DIR", "/somewhere");
            let plan = Plan::make(environment, &demo()).unwrap();
            assert_eq!((plan.mode, plan.folder.as_path()), (Mode::Real, Path::new("/somewhere")), "{name}");
        }
    }
}
