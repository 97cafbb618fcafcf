//! Two commands beside each other, field by field, with personal data masked. Pure.

use std::collections::BTreeMap;

use schemas::Mapping;
use schemas::problem::status_text;
use serde::{Deserialize, Serialize};

/// Fields of a command that are about a person, and the status, which may quote them.
const PERSONAL: [&str; 8] =
    ["last_name", "first_name", "phone", "email", "birthdate", "additional_data", "employee", "status"];

/// What comes of a record: `client`, `ticket`, `out_of_scope` or `refused`.
pub const OUTCOME: &str = "outcome";

/// Codes of what is wrong with a record.
pub const PROBLEMS: &str = "problems";

/// Whether personal data may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// Only how long they are.
    Masked,
    /// As they are.
    Revealed,
}

impl Privacy {
    /// Follows `--reveal`.
    pub fn of(reveal: bool) -> Privacy {
        if reveal { Privacy::Revealed } else { Privacy::Masked }
    }
}

/// The fields of a command, as texts.
pub type Fields = BTreeMap<String, String>;

/// A field that is not the same in two commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Name of the field.
    pub field: String,
    /// What was sent last, or what otmechalka holds; absent where the field was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<String>,
    /// What today's mapping gives.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub now: Option<String>,
}

/// Returns the fields of a command.
pub fn fields(mapping: &Mapping, privacy: Privacy) -> Fields {
    let mut fields = Fields::new();
    let body = match mapping {
        Mapping::Client(client) => serde_json::to_value(client),
        Mapping::Ticket(ticket) => serde_json::to_value(ticket),
        Mapping::OutOfScope => Ok(serde_json::Value::Null),
        Mapping::Refused(problems) => {
            fields.insert(PROBLEMS.to_owned(), codes(mapping).join(", "));
            fields.insert("status".to_owned(), status_text(problems));
            Ok(serde_json::Value::Null)
        }
    };
    fields.insert(OUTCOME.to_owned(), kind(mapping).to_owned());
    // Bodies hold texts, dates and lists of texts, which always serialise.
    for (field, value) in body.ok().as_ref().and_then(|body| body.as_object()).into_iter().flatten() {
        fields.insert(field.clone(), text(value));
    }
    if privacy == Privacy::Masked {
        fields.iter_mut().for_each(|(field, value)| mask(field, value));
    }
    fields
}

/// Returns what differs between the command that was sent last and today's.
pub fn differences(before: Option<&Mapping>, now: &Mapping, privacy: Privacy) -> Vec<Difference> {
    // Compared before they are masked: two names of one length differ too.
    let open = |mapping: &Mapping| fields(mapping, Privacy::Revealed);
    let (before, now) = (before.map(open).unwrap_or_default(), open(now));
    let names: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let differing = names.into_iter().filter(|name| before.get(*name) != now.get(*name));
    let shown = |name: &str, value: Option<&String>| {
        let mut value = value.cloned()?;
        if privacy == Privacy::Masked {
            mask(name, &mut value);
        }
        Some(value)
    };
    differing
        .map(|name| Difference {
            field: name.clone(),
            before: shown(name, before.get(name)),
            now: shown(name, now.get(name)),
        })
        .collect()
}

/// Returns the word for what a mapping came to.
pub fn kind(mapping: &Mapping) -> &'static str {
    match mapping {
        Mapping::Client(_) => "client",
        Mapping::Ticket(_) => "ticket",
        Mapping::OutOfScope => "out_of_scope",
        Mapping::Refused(_) => "refused",
    }
}

/// Returns the codes of what is wrong, each once.
pub fn codes(mapping: &Mapping) -> Vec<String> {
    let Mapping::Refused(problems) = mapping else { return Vec::new() };
    let mut codes: Vec<String> = problems.iter().map(|problem| problem.code.clone()).collect();
    codes.sort();
    codes.dedup();
    codes
}

/// Writes a difference as one line.
pub fn line(difference: &Difference) -> String {
    let Difference { field, before, now } = difference;
    match (before, now) {
        (None, Some(now)) => format!("{field}: {now}"),
        (Some(before), None) => format!("{field}: {before} -> nothing"),
        (Some(before), Some(now)) => format!("{field}: {before} -> {now}"),
        (None, None) => field.clone(),
    }
}

fn mask(field: &str, value: &mut String) {
    if PERSONAL.contains(&field) {
        *value = format!("*** ({} characters)", value.chars().count());
    }
}

/// Writes the value of a field.
pub fn text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use schemas::{Client, Problem};

    pub(crate) fn client(last_name: &str, branch: &str) -> Mapping {
        Mapping::Client(Client {
            last_name: last_name.into(),
            first_name: "Артём".into(),
            phone: "79265550102".into(),
            email: None,
            courses: vec!["10985".into(), "10986".into()],
            branchoffices: vec![branch.into()],
            birthdate: None,
            gender: "M".into(),
            additional_data: "Берёзкина Елена".into(),
        })
    }

    #[test]
    fn only_what_differs_is_told_and_personal_data_by_length_alone() {
        let (before, now) = (client("Берёзкин", "2633"), client("Осинкинн", "2634"));
        let told = differences(Some(&before), &now, Privacy::Masked);
        let lines: Vec<String> = told.iter().map(line).collect();
        assert_eq!(
            lines,
            ["branchoffices: 2633 -> 2634", "last_name: *** (8 characters) -> *** (8 characters)"]
        );
        let revealed = differences(Some(&before), &now, Privacy::Revealed);
        assert_eq!(line(&revealed[1]), "last_name: Берёзкин -> Осинкинн");
        assert_eq!(differences(Some(&now), &now, Privacy::Masked), []);
    }

    #[test]
    fn no_field_of_a_person_is_shown_unasked() {
        let shown = fields(&client("Берёзкин", "2633"), Privacy::Masked);
        let text = format!("{shown:?}");
        for secret in ["Берёзкин", "Артём", "7926", "Елена"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(shown["courses"], "10985, 10986");
        let problem = Problem::new("phone.invalid", "Телефон «123» не читается.");
        let refused = fields(&Mapping::Refused(vec![problem]), Privacy::Masked);
        assert_eq!(refused[PROBLEMS], "phone.invalid");
        assert!(!format!("{refused:?}").contains("123"), "{refused:?}");
    }
}
