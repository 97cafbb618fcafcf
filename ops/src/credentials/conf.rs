//! The part of nats.conf that names the accounts and their users.

use std::fmt::Write as _;

use super::permissions::{Subscriber, User, local};

/// Account of the streams, the stages and the operator.
const ACCOUNT: &str = "ROLLCALL";

/// A user or an extra consumer with its public key.
pub type Keyed<T> = (T, String);

/// Returns the text of the file.
///
/// Each extra consumer has an account of its own. Within one account the server does not look at where the answer to a
/// request goes, so who may only ask could have the answer stored in any stream. Between accounts it can go nowhere else
/// than back.
pub fn text(users: &[Keyed<User>], subscribers: &[Keyed<Subscriber>]) -> String {
    let mut text = String::from(
        "# Made by `rollcall credentials`, which keeps the keys and writes this file anew. Public keys only.\n",
    );
    let _ = writeln!(text, "accounts {{\n    {ACCOUNT} {{\n        jetstream: enabled\n        users: [");
    for keyed in users {
        text.push_str(&user(keyed));
    }
    text.push_str("        ]\n        exports: [\n");
    for (subscriber, _) in subscribers {
        let (sandbox, account) = (subscriber.sandbox(), subscriber.account());
        let _ = writeln!(text, "            {{ stream: \"{sandbox}\", accounts: [\"{account}\"] }}");
        for request in subscriber.requests() {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "            {{ service: \"{request}\", response_type: stream, accounts: [\"{}\"] }}",
                subscriber.account()
            );
        }
    }
    text.push_str("        ]\n    }\n");
    for (subscriber, key) in subscribers {
        text.push_str(&account(subscriber, key));
    }
    text.push_str("}\n");
    text
}

fn account(subscriber: &Subscriber, key: &str) -> String {
    let mut text = format!("    \"{}\" {{\n        users: [\n", subscriber.account());
    text.push_str(&user(&(subscriber.user(), key.to_owned())));
    text.push_str("        ]\n        imports: [\n");
    let sandbox = subscriber.sandbox();
    let _ = writeln!(text, "            {{ stream: {{ account: {ACCOUNT}, subject: \"{sandbox}\" }} }}");
    for request in subscriber.requests() {
        let _ = writeln!(
            text,
            "            {{ service: {{ account: {ACCOUNT}, subject: \"{request}\" }}, to: \"{}\" }}",
            local(&request)
        );
    }
    text.push_str("        ]\n    }\n");
    text
}

fn user((user, public_key): &Keyed<User>) -> String {
    let (name, publish, subscribe) = (&user.name, list(&user.publish), list(&user.subscribe));
    format!(
        "            # {name}\n            {{ nkey: \"{public_key}\", permissions: {{\n                \
         publish: {{ allow: [{publish}] }}\n                subscribe: {{ allow: [{subscribe}] }}\n            }} }}\n"
    )
}

/// Lists subjects in quotes: a bare `$JS` would be a variable.
fn list(subjects: &[String]) -> String {
    let mut subjects: Vec<String> = subjects.iter().map(|subject| format!("\"{subject}\"")).collect();
    subjects.sort();
    subjects.dedup();
    subjects.join(", ")
}
