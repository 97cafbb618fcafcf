//! What is said on the command line wins over the environment, that over `.env`, and that over the TOML file.

use std::net::TcpListener;

use nix::sys::signal::Signal;

use crate::support::{Nats, Running, Settings, command, rollcall};

/// Places for a setting, the strongest first. Each has only what it is given.
#[derive(Clone, Copy)]
struct Places<'p> {
    argument: Option<&'p str>,
    environment: Option<&'p str>,
    dotenv: Option<&'p str>,
    file: Option<&'p str>,
}

const NOWHERE: Places<'static> = Places { argument: None, environment: None, dotenv: None, file: None };

/// Writes the two files, and returns arguments and settings.
fn said(nats: &Nats, name: &'static str, argument: &str, places: Places<'_>) -> (Vec<String>, Settings) {
    let mut settings = nats.settings();
    let folder = nats.folder();
    let dotenv = places.dotenv.map(|value| format!("{name}={value}\n")).unwrap_or_default();
    std::fs::write(folder.join(".env"), dotenv).unwrap();
    let toml = places.file.map(|value| format!("{name} = \"{value}\"\n")).unwrap_or_default();
    std::fs::write(folder.join("rollcall.toml"), toml).unwrap();
    settings.push(("ROLLCALL_CONFIG", folder.join("rollcall.toml").display().to_string()));
    settings.extend(places.environment.map(|value| (name, value.to_owned())));
    let arguments =
        places.argument.map_or_else(Vec::new, |value| vec![argument.to_owned(), value.to_owned()]);
    (arguments, settings)
}

#[tokio::test]
async fn each_place_of_the_number_of_copies_wins_over_those_behind_it() {
    let nats = Nats::start().await;
    assert_eq!(rollcall(nats.folder(), &nats.settings(), &["bootstrap"]).await.code, Some(0));
    for (one, other, code) in [("1", "3", 0), ("3", "1", 1)] {
        let (one, other) = (Some(one), Some(other));
        for places in [
            Places { argument: one, environment: other, dotenv: other, file: other },
            Places { environment: one, dotenv: other, file: other, ..NOWHERE },
            Places { dotenv: one, file: other, ..NOWHERE },
            Places { file: one, ..NOWHERE },
        ] {
            let (more, settings) = said(&nats, "NATS_REPLICAS", "--replicas", places);
            let mut arguments = vec!["bootstrap", "--dry-run"];
            arguments.extend(more.iter().map(String::as_str));
            let done = rollcall(nats.folder(), &settings, &arguments).await;
            assert_eq!(done.code, Some(code), "{arguments:?} {settings:?}: {}{}", done.out, done.err);
        }
    }
}

#[tokio::test]
async fn each_place_of_the_address_to_listen_at_wins_over_those_behind_it() {
    let nats = Nats::start().await;
    rollcall(nats.folder(), &nats.settings(), &["bootstrap"]).await;
    // Nobody else can listen there.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let (taken, free) = (Some(taken.as_str()), Some("127.0.0.1:0"));
    for places in [
        Places { argument: free, environment: taken, dotenv: taken, file: taken },
        Places { environment: free, dotenv: taken, file: taken, ..NOWHERE },
        Places { dotenv: free, file: taken, ..NOWHERE },
    ] {
        let (arguments, settings) = said(&nats, "SERVE_LISTEN", "--listen", places);
        let mut serving = command("rollcall", nats.folder());
        serving.arg("serve").args(&arguments);
        serving.envs(settings.iter().map(|(name, value)| (name, value)));
        let mut serving = Running::start(serving);
        serving.hears("The status page is at").await;
        serving.signal(Signal::SIGTERM);
        assert_eq!(serving.ends().await, Some(0));
    }
    for places in [
        Places { argument: taken, environment: free, dotenv: free, file: free },
        Places { environment: taken, dotenv: free, file: free, ..NOWHERE },
        Places { dotenv: taken, file: free, ..NOWHERE },
        Places { file: taken, ..NOWHERE },
    ] {
        let (more, settings) = said(&nats, "SERVE_LISTEN", "--listen", places);
        let mut arguments = vec!["serve"];
        arguments.extend(more.iter().map(String::as_str));
        let done = rollcall(nats.folder(), &settings, &arguments).await;
        assert_eq!(done.code, Some(3), "{settings:?}: {}{}", done.out, done.err);
    }
}
