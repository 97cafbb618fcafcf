//! The stages as programs beside this one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use runtime::stage::EXIT_SETTINGS;
use tokio::process::Command;

use crate::environment::Environment;
use crate::exit::Failure;

/// The stages, in the order of the pipeline.
pub const STAGES: [&str; 4] = ["producer", "mapper", "pusher", "status-writer"];

/// Stands in for a NATS that is not there yet while settings are checked.
pub const SOME_NATS: &str = "nats://127.0.0.1:4222";

/// Finds the folder of this program, where all the others are.
pub fn folder() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::environment(format!("Cannot find this program's folder: {error}")))?;
    Ok(program.parent().map(Path::to_owned).unwrap_or_default())
}

/// Asks every stage whether its settings will do, and refuses them with all mistakes at once.
pub async fn check_settings(folder: &Path, environment: &Environment) -> Result<(), Failure> {
    let problems = setting_problems(folder, environment).await?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::settings(all_problems(&problems)).remedy(".env.sample explains every setting"))
}

fn all_problems(problems: &[String]) -> String {
    let mut text = "these settings are to be put right:".to_owned();
    for problem in problems {
        text.push_str("\n  ");
        text.push_str(problem);
    }
    text
}

/// Asks every stage whether its settings will do, and returns every mistake, a line each.
pub async fn setting_problems(folder: &Path, environment: &Environment) -> Result<Vec<String>, Failure> {
    let mut problems = Problems::default();
    for stage in STAGES {
        let mut command = Command::new(folder.join(stage));
        command.arg("check").stdin(Stdio::null());
        environment.apply(&mut command);
        let output = command
            .output()
            .await
            .map_err(|error| Failure::environment(format!("Cannot start {stage}: {error}")))?;
        let text = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {}
            Some(code) if code == i32::from(EXIT_SETTINGS) => problems.add(lines(&text)),
            _ => {
                let (status, text) = (output.status, text.trim());
                return Err(Failure::environment(format!("`{stage} check` failed ({status}): {text}")));
            }
        }
    }
    Ok(problems.lines)
}

/// Mistakes of several stages, without those that an earlier stage has told in its own words.
#[derive(Default)]
struct Problems {
    lines: Vec<String>,
    settings: BTreeSet<String>,
}

impl Problems {
    fn add(&mut self, lines: Vec<String>) {
        let setting = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        let told: BTreeSet<String> = lines.iter().map(|line| setting(line)).collect();
        let is_news = |line: &String| !self.settings.contains(&setting(line));
        self.lines.extend(lines.into_iter().filter(is_news));
        self.settings.extend(told);
    }
}

/// Takes the lines that name a setting each; without any, all that was said.
fn lines(text: &str) -> Vec<String> {
    let lines: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect();
    if lines.is_empty() { vec![text.trim().to_owned()] } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_a_line_of_its_own() {
        let said = "mapper: 2 settings to put right:\n  A: found nothing\n  B: found `x`";
        assert_eq!(lines(said), ["A: found nothing", "B: found `x`"]);
        assert_eq!(lines("panicked\n"), ["panicked"]);
    }

    #[test]
    fn what_an_earlier_stage_has_told_is_not_told_again() {
        let mut problems = Problems::default();
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        problems.add(lines(&["URL: found nothing", "FILE: line 1", "FILE: line 2"]));
        problems.add(lines(&["URL: found nothing at all", "TOKEN: found `x`"]));
        assert_eq!(
            problems.lines,
            ["URL: found nothing", "FILE: line 1", "FILE: line 2", "TOKEN: found `x`"]
        );
    }
}
