//! Looks at what the users of NATS may do: each is asked as itself, and the server tells what it was given.

use std::path::Path;
use std::time::Duration;

use runtime::Broker;
use serde::Deserialize;

use crate::answer::Finding;
use crate::credentials::Folder;
use crate::credentials::permissions::{OPERATOR, PAGE, User, WHO_AM_I, own_users};
use crate::environment::Environment;
use crate::nats;

const CHECK: &str = "nats.permissions";

/// The server answers at once; who may not ask gets no answer at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to do about a user that may less, or more, than it should.
const REMEDY: &str = "Run `rollcall credentials`, which keeps the keys, and have NATS read users.conf again: docs/operations.md";

/// What the server says of a user.
#[derive(Debug, Default, Deserialize)]
struct Told {
    data: Info,
}

#[derive(Debug, Default, Deserialize)]
struct Info {
    /// Absent where everybody may everything.
    permissions: Option<Permissions>,
}

#[derive(Debug, Default, Deserialize)]
struct Permissions {
    publish: Option<Permission>,
    subscribe: Option<Permission>,
}

#[derive(Debug, Default, Deserialize)]
struct Permission {
    /// Absent where everything is allowed that is not denied.
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
}

/// Asks as the user that this command runs with, and as each stage whose secret is in the folder.
pub async fn look(environment: &Environment, broker: &Broker, folder: &Path) -> Vec<Finding> {
    let has_users = environment.has("NATS_NKEY_SEED") || environment.has("NATS_USER");
    let users = own_users();
    let mut findings = Vec::new();
    if let Some(operator) = users.iter().find(|user| user.name == OPERATOR) {
        findings.extend(judge(operator, ask(broker).await));
    }
    let folder = Folder::new(folder);
    let (mut asked, mut unknown) = (0, Vec::new());
    for user in users.iter().filter(|user| user.name != OPERATOR) {
        let seed = folder.seed_of(user);
        if !seed.is_file() {
            unknown.push(user.name.as_str());
            continue;
        }
        asked += 1;
        findings.extend(match nats::connect_as(environment, stage(&user.name), &seed).await {
            Ok(as_user) => judge(user, ask(&as_user).await),
            Err(error) => vec![Finding::error(CHECK, what(user), error.to_string(), REMEDY)],
        });
    }
    if has_users && asked == 0 {
        let found = format!("not looked at: no secrets of {} are here (--credentials)", unknown.join(", "));
        findings.push(Finding::ok(CHECK, "NATS users of the stages", found));
    }
    findings
}

/// Names a user for the connection; its inbox has its name.
fn stage(name: &str) -> &'static str {
    crate::stages::STAGES.into_iter().chain([PAGE]).find(|user| *user == name).unwrap_or(OPERATOR)
}

async fn ask(broker: &Broker) -> Result<Info, String> {
    let answer = tokio::time::timeout(PATIENCE, broker.client().request(WHO_AM_I, "".into())).await;
    let answer = answer.map_err(|_| "it may not even ask what it may".to_owned())?;
    let answer = answer.map_err(|error| format!("it cannot ask what it may: {error}"))?;
    let told: Told = serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())?;
    Ok(told.data)
}

fn what(user: &User) -> String {
    format!("NATS user {}", user.name)
}

fn judge(user: &User, told: Result<Info, String>) -> Vec<Finding> {
    let info = match told {
        Ok(info) => info,
        Err(why) => return vec![Finding::error(CHECK, what(user), why, REMEDY)],
    };
    let Some(given) = info.permissions else {
        return vec![Finding::ok(
            CHECK,
            what(user),
            "may do everything: there are no permissions in this NATS",
        )];
    };
    let lists = [
        ("publish to", &user.publish, given.publish.unwrap_or_default()),
        ("subscribe to", &user.subscribe, given.subscribe.unwrap_or_default()),
    ];
    let mut findings = Vec::new();
    for (verb, needed, given) in lists {
        let missing: Vec<&str> = needed.iter().filter(|one| !given.grants(one)).map(String::as_str).collect();
        if !missing.is_empty() {
            let found = format!("may not {verb} {}", missing.join(", "));
            findings.push(Finding::error(CHECK, what(user), found, REMEDY));
        }
        let is_needed = |one: &&String| needed.iter().any(|needed| covers(needed, one));
        let extra: Vec<&str> =
            given.allow.iter().flatten().filter(|one| !is_needed(one)).map(String::as_str).collect();
        if !extra.is_empty() {
            let found = format!("may {verb} {}, which its work does not take", extra.join(", "));
            findings.push(Finding::warning(CHECK, what(user), found, REMEDY));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, what(user), "may do what its work takes, and nothing else"));
    }
    findings
}

impl Permission {
    /// Tells whether all of a subject is granted.
    fn grants(&self, subject: &str) -> bool {
        let allowed = self.allow.as_ref().is_none_or(|allow| allow.iter().any(|one| covers(one, subject)));
        allowed && !self.deny.iter().flatten().any(|one| covers(one, subject) || covers(subject, one))
    }
}

/// Tells whether everything that one pattern matches is matched by another.
fn covers(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (wide.split('.'), narrow.split('.'));
    loop {
        match (wide.next(), narrow.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(left), Some(right)) if left == right => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Severity;

    #[test]
    fn a_pattern_covers_what_it_matches() {
        for (wide, narrow) in
            [(">", "a.b"), (">", ">"), ("a.*", "a.b"), ("a.*", "a.*"), ("a.>", "a.*.c"), ("a", "a")]
        {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in
            [("a", "b"), ("a.*", "a.>"), ("a.b", "a.*"), ("a.>", "a"), ("a.*", "a.b.c"), ("a.b", ">")]
        {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }

    fn told(publish: &[&str]) -> Result<Info, String> {
        let list = |subjects: &[&str]| Some(subjects.iter().map(|subject| (*subject).to_owned()).collect());
        let subscribe = Permission { allow: list(&["_INBOX_mapper.>"]), deny: None };
        let publish = Permission { allow: list(publish), deny: list(&["secret.>"]) };
        Ok(Info { permissions: Some(Permissions { publish: Some(publish), subscribe: Some(subscribe) }) })
    }

    #[test]
    fn what_is_missing_is_an_error_and_what_is_too_much_a_warning() {
        let user = User {
            name: "mapper".into(),
            publish: vec!["crm.cmd.>".into(), "dlq.mapper.>".into()],
            subscribe: vec!["_INBOX_mapper.>".into()],
        };
        assert_eq!(judge(&user, told(&["crm.cmd.>", "dlq.mapper.>"]))[0].severity, Severity::Ok);
        let drifted = judge(&user, told(&["crm.cmd.>", "b24.raw.>"]));
        let told_of: Vec<(Severity, &str)> =
            drifted.iter().map(|finding| (finding.severity, finding.message.as_str())).collect();
        let expected = [
            (Severity::Error, "NATS user mapper: may not publish to dlq.mapper.>"),
            (Severity::Warning, "NATS user mapper: may publish to b24.raw.>, which its work does not take"),
        ];
        assert_eq!(told_of, expected);
        assert_eq!(judge(&user, Err("no".into()))[0].severity, Severity::Error);
        assert_eq!(judge(&user, Ok(Info::default()))[0].severity, Severity::Ok);
        let denied = User { publish: vec!["secret.plan".into()], ..user };
        assert_eq!(judge(&denied, told(&[">"]))[0].severity, Severity::Error);
    }
}
