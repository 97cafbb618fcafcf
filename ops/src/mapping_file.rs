//! The mapping that a verb works with: the mapper's own, or a candidate.

use std::path::{Path, PathBuf};

use mapper::{DEFAULT_MAPPING, MAPPING_FILE, Rules};
use runtime::Broker;
use schemas::streams::{ATTEMPTS, RUNNING_MAPPING};

use crate::answer::Finding;
use crate::environment::Environment;

/// A mapping that is in order.
pub struct MappingFile {
    /// What it says.
    pub rules: Rules,
    /// Where it comes from, for people.
    pub origin: String,
}

/// Reads the file named on the command line, else the one in `MAPPING_FILE`, else the one built in. Every mistake in it is a finding.
pub fn load(environment: &Environment, named: Option<&Path>) -> Result<MappingFile, Vec<Finding>> {
    let path = named.map(Path::to_owned).or_else(|| environment.text(MAPPING_FILE).map(PathBuf::from));
    let (text, origin) = match path {
        None => (DEFAULT_MAPPING.to_owned(), "the mapping built into the mapper".to_owned()),
        Some(path) => {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                let found = format!("{} cannot be read: {error}", path.display());
                vec![mistake("mapping.file", "Mapping file", &found, "name a file that is there")]
            })?;
            (text, path.display().to_string())
        }
    };
    match Rules::parse(&text) {
        Ok(rules) => Ok(MappingFile { rules, origin }),
        Err(errors) => Err(errors
            .iter()
            .map(|error| {
                let found = format!("{}: {}: found {}", error.at, error.path, error.found);
                let remedy = format!("write {} there, for example {}", error.expected, error.example);
                mistake("mapping.mistake", &origin, &found, &remedy)
            })
            .collect()),
    }
}

/// Tells whether the mapper was started with another mapping than this one; silent where none noted its own.
pub async fn unlike_the_mappers(broker: &Broker, rules: &Rules) -> Option<Finding> {
    let notes = broker.jetstream().get_key_value(ATTEMPTS.name).await.ok()?;
    let digest = notes.get(RUNNING_MAPPING).await.ok()??;
    (digest != rules.digest()).then(|| {
        Finding::warning(
            "mapping.other",
            "Mapping file",
            "the mapper was started with another one",
            "Give both the same MAPPING_FILE and restart `mapper` before anything is replayed or repaired: until then \
             every new edit goes through the mapper's",
        )
    })
}

fn mistake(code: &'static str, what: &str, found: &str, remedy: &str) -> Finding {
    Finding { is_setting: true, ..Finding::error(code, what, found, remedy) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_of_a_candidate_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.toml");
        let broken = DEFAULT_MAPPING.replace("id = 404", "id = \"404\"").replace("id = 48\n", "id = 0\n");
        std::fs::write(&path, broken).unwrap();
        let findings = load(&Environment::default(), Some(&path)).err().unwrap();
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings.iter().all(|finding| finding.is_setting && finding.message.contains("line ")));
        let absent = load(&Environment::default(), Some(&folder.path().join("absent.toml")));
        assert!(absent.err().unwrap()[0].message.contains("cannot be read"));
    }
}
