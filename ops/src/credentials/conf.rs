//! The part of nats.conf that names the accounts and their users.

use std::fmt::Write as _;

use super::permissions::{Guest, User, local};

/// Account of the streams, the stages and the operator.
const ACCOUNT: &str = "ROLLCALL";

/// A user or a guest with its public key.
pub type Keyed<T> = (T, String);

/// Returns the text of the file.
///
/// Each guest has an account of its own. Within one account the server does not look at where the answer to a
/// request goes, so who may only ask could have the answer stored in any stream. Between accounts it can go nowhere else
/// than back.
pub fn text(users: &[Keyed<User>], guests: &[Keyed<Guest>]) -> String {
    let mut text = String::from(
        "# Made by `rollcall credentials`, which keeps the keys and writes this file anew. Public keys only.\n",
    );
    // Writing to a string cannot fail.
    let _ = writeln!(text, "accounts {{\n    {ACCOUNT} {{\n        jetstream: enabled\n        users: [");
    for (of, key) in users {
        text.push_str(&user(of, key));
    }
    text.push_str("        ]\n        exports: [\n");
    for (Guest { account, requests, sandbox, .. }, _) in guests {
        if let Some(sandbox) = sandbox {
            let _ = writeln!(text, "            {{ stream: \"{sandbox}\", accounts: [\"{account}\"] }}");
        }
        for request in requests {
            let _ = writeln!(
                text,
                "            {{ service: \"{request}\", response_type: stream, accounts: [\"{account}\"] }}"
            );
        }
    }
    text.push_str("        ]\n    }\n");
    for (guest, key) in guests {
        text.push_str(&account(guest, key));
    }
    text.push_str("}\n");
    text
}

fn account(guest: &Guest, key: &str) -> String {
    let mut text = format!("    \"{}\" {{\n        users: [\n", guest.account);
    text.push_str(&user(&guest.user, key));
    text.push_str("        ]\n        imports: [\n");
    if let Some(sandbox) = &guest.sandbox {
        let _ = writeln!(text, "            {{ stream: {{ account: {ACCOUNT}, subject: \"{sandbox}\" }} }}");
    }
    for request in &guest.requests {
        let _ = writeln!(
            text,
            "            {{ service: {{ account: {ACCOUNT}, subject: \"{request}\" }}, to: \"{}\" }}",
            local(request)
        );
    }
    text.push_str("        ]\n    }\n");
    text
}

fn user(user: &User, public_key: &str) -> String {
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
