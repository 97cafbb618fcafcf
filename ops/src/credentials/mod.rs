//! `rollcall credentials`: a NATS user for each stage and each extra consumer, with the least permissions that work.

mod conf;
mod folder;
pub mod permissions;

use std::path::PathBuf;

use serde::Serialize;

use crate::answer::{Answer, Finding, findings_text};
use crate::cli;
use crate::exit::{Exit, Failure};
pub use folder::Folder;
use folder::Key;
use permissions::Subscriber;

/// What was made or found.
#[derive(Debug, Serialize)]
struct Made {
    /// The file that nats.conf includes.
    server_file: PathBuf,
    /// Tells whether that file was not there, or is another now: the server has to read it.
    server_file_changed: bool,
    users: Vec<MadeUser>,
}

#[derive(Debug, Serialize)]
struct MadeUser {
    name: String,
    /// None where the key would be made: it would be another one.
    public_key: Option<String>,
    seed_file: PathBuf,
    /// Tells whether the key was made just now.
    is_new: bool,
}

impl MadeUser {
    fn new(name: &str, key: &Key, dry: bool) -> MadeUser {
        MadeUser {
            name: name.to_owned(),
            public_key: (!(dry && key.is_new)).then(|| key.public.clone()),
            seed_file: key.file.clone(),
            is_new: key.is_new,
        }
    }
}

/// Carries the command out.
pub fn run(arguments: &cli::Credentials, json: bool) -> Result<Exit, Failure> {
    let folder = Folder::new(&arguments.into);
    let dry = arguments.dry_run;
    let (subscribers, findings) = subscribers(&folder, &arguments.consumer)?;
    let (mut users, mut guests, mut made) = (Vec::new(), Vec::new(), Vec::new());
    for user in permissions::own_users() {
        let key = folder::key(&folder.seed_of(&user), dry)?;
        made.push(MadeUser::new(&user.name, &key, dry));
        if user.name == permissions::PAGE {
            guests.push((permissions::page_guest(), key.public));
        } else {
            users.push((user, key.public));
        }
    }
    for subscriber in subscribers {
        // First, so that a key that is there is never one that may read nobody knows what.
        if !dry {
            folder.keep(&subscriber)?;
        }
        let key = folder::key(&folder.seed_of_subscriber(&subscriber), dry)?;
        made.push(MadeUser::new(&subscriber.name, &key, dry));
        guests.push((subscriber.guest(), key.public));
    }
    let text = conf::text(&users, &guests);
    let server_file = folder.server_file();
    let changed = std::fs::read_to_string(&server_file).ok().as_deref() != Some(text.as_str());
    if changed && !dry {
        folder.write_server_file(&text)?;
    }
    let made = Made { server_file, server_file_changed: changed, users: made };
    Answer::new(summary(&made, dry), made, findings).tell(json, told)
}

/// Puts those that are known together with those that were named. Naming one again never takes a stream from it.
fn subscribers(folder: &Folder, named: &[String]) -> Result<(Vec<Subscriber>, Vec<Finding>), Failure> {
    let (mut all, mut findings) = (folder.subscribers()?, Vec::new());
    for text in named {
        let subscriber = Subscriber::parse(text)
            .map_err(|reason| Failure::settings(format!("--consumer {text}: {reason}.")))?;
        match all.iter_mut().find(|known| known.name == subscriber.name) {
            Some(known) => findings.extend(known.also_reads(&subscriber.streams).then(|| kept(known))),
            None => all.push(subscriber),
        }
    }
    all.sort();
    Ok((all, findings))
}

fn kept(known: &Subscriber) -> Finding {
    let Subscriber { name, streams } = known;
    Finding::warning(
        "credentials.known",
        format!("Extra consumer {name}"),
        format!("known already, with other streams; it keeps them all: {}", streams.join(", ")),
        format!(
            "give another program another name: two under one name take each other's messages. To take a stream from \
             {name}, strike it from consumers/{name}/streams and run this again"
        ),
    )
}

fn summary(made: &Made, dry: bool) -> String {
    let new = made.users.iter().filter(|user| user.is_new).count();
    let (all, file) = (made.users.len(), made.server_file.display());
    let would = if dry { "would be " } else { "" };
    let then = if made.server_file_changed {
        // nats-server 2.15.1 makes a new account at the first signal and connects it to JetStream at the second.
        format!(
            "{file} {would}written: include it in nats.conf, and have the server read it (SIGHUP, twice)."
        )
    } else {
        format!("{file} is as it is to be.")
    };
    format!("{new} of {all} keys {would}made. {then}")
}

fn told(answer: &Answer<Made>) -> String {
    let lines: Vec<String> = answer.result.users.iter().map(line).collect();
    format!("{}\n{}{}", lines.join("\n"), findings_text(&answer.findings), answer.summary)
}

fn line(user: &MadeUser) -> String {
    let word = if user.is_new { "new " } else { "kept" };
    let key = user.public_key.as_deref().unwrap_or("(a new key)");
    format!("{word}  {}  {key}  {}", user.name, user.seed_file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(folder: &std::path::Path, consumers: &[&str]) -> cli::Credentials {
        cli::Credentials {
            into: folder.to_owned(),
            consumer: consumers.iter().map(|name| (*name).to_owned()).collect(),
            dry_run: false,
        }
    }

    fn everything(folder: &std::path::Path) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = std::fs::read_to_string(&path).unwrap();
                    found.push((path, text));
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_second_run_changes_nothing_and_keeps_the_consumers() {
        let folder = tempfile::tempdir().unwrap();
        run(&arguments(folder.path(), &["warehouse", "report:CRM_RESULT"]), true).unwrap();
        let first = everything(folder.path());
        run(&arguments(folder.path(), &[]), true).unwrap();
        assert_eq!(everything(folder.path()), first);
        run(&arguments(folder.path(), &["report:DLQ"]), true).unwrap();
        let third = everything(folder.path());
        let differs: Vec<_> = third
            .iter()
            .zip(&first)
            .filter(|(now, then)| now != then)
            .map(|(now, _)| now.0.clone())
            .collect();
        let expected =
            [folder.path().join("consumers/report/streams"), folder.path().join("server/users.conf")];
        assert_eq!(differs, expected);
    }

    #[test]
    fn a_name_that_is_given_again_takes_nothing_from_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let streams = |name: &str| {
            let file = folder.path().join("consumers").join(name).join("streams");
            std::fs::read_to_string(file).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let compose = include_str!("../../../docker-compose.yml");
        let (_, rest) = compose.split_once("--consumer, \"").unwrap();
        let of_compose = rest.split('"').next().unwrap();
        run(&arguments(folder.path(), &[of_compose]), true).unwrap();
        assert_eq!(streams("warehouse"), ["B24_RAW", "CRM_RESULT", "B24_STATUS"]);

        // A stranger who takes the name of the one in the compose file gets a warning, and takes nothing away.
        let (all, found) = subscribers(&Folder::new(folder.path()), &["warehouse:DLQ".to_owned()]).unwrap();
        assert_eq!(all[0].streams, ["B24_RAW", "CRM_RESULT", "B24_STATUS", "DLQ"]);
        assert!(
            found[0].message.contains("warehouse") && found[0].action.contains("another name"),
            "{found:?}"
        );

        // What an operator let in stays as it is whenever compose makes its own once more.
        run(&arguments(folder.path(), &["report:CRM_RESULT", "warehouse:CRM_CMD"]), true).unwrap();
        let before = everything(folder.path());
        let (_, found) = subscribers(&Folder::new(folder.path()), &[of_compose.to_owned()]).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(run(&arguments(folder.path(), &[of_compose]), true).unwrap(), Exit::Fine);
        assert_eq!(everything(folder.path()), before);
        assert_eq!(streams("report"), ["CRM_RESULT"]);
        let (_, found) = subscribers(&Folder::new(folder.path()), &["report:CRM_RESULT".to_owned()]).unwrap();
        assert_eq!(found, []);
    }

    #[test]
    fn a_replaced_key_keeps_its_streams_and_an_emptied_list_is_not_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join("consumers/report").join(name);
        run(&arguments(folder.path(), &["report:CRM_RESULT"]), true).unwrap();
        let old = std::fs::read_to_string(file("seed")).unwrap();
        std::fs::remove_file(file("seed")).unwrap();
        run(&arguments(folder.path(), &[]), true).unwrap();
        assert_ne!(std::fs::read_to_string(file("seed")).unwrap(), old);
        let server = std::fs::read_to_string(folder.path().join("server/users.conf")).unwrap();
        assert!(server.contains("report") && !server.contains("B24_RAW.report"), "{server}");

        let before = everything(folder.path());
        std::fs::write(file("streams"), "\n").unwrap();
        let failure = run(&arguments(folder.path(), &[]), true).unwrap_err();
        assert!(failure.text.contains("consumers/report/streams"), "{}", failure.text);
        let named = run(&arguments(folder.path(), &["other:"]), true).unwrap_err();
        assert!(named.text.contains("no stream"), "{}", named.text);
        std::fs::write(file("streams"), "CRM_RESULT\n").unwrap();
        assert_eq!(everything(folder.path()), before);
    }

    #[test]
    fn secrets_are_for_their_owner_and_the_servers_file_holds_none() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        run(&arguments(folder.path(), &["warehouse"]), true).unwrap();
        let files = everything(folder.path());
        let seeds: Vec<_> = files.iter().filter(|(path, _)| path.ends_with("seed")).collect();
        assert_eq!(seeds.len(), 7);
        let server = &files.iter().find(|(path, _)| path.ends_with("users.conf")).unwrap().1;
        for (path, seed) in seeds {
            assert!(seed.starts_with("SU"), "{}", path.display());
            assert!(!server.contains(seed.trim()));
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_dry_run_makes_nothing_and_a_torn_seed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let dry = cli::Credentials { dry_run: true, ..arguments(folder.path(), &["warehouse"]) };
        run(&dry, true).unwrap();
        assert_eq!(everything(folder.path()), []);
        std::fs::create_dir(folder.path().join("mapper")).unwrap();
        std::fs::write(folder.path().join("mapper/seed"), "SUAtorn").unwrap();
        let failure = run(&dry, true).unwrap_err();
        assert!(
            failure.text.contains("mapper/seed") && !failure.text.contains("SUAtorn"),
            "{}",
            failure.text
        );
    }
}
