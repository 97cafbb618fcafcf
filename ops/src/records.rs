//! How operators name records, and how records are named to them: the same in every verb. Pure.

use std::collections::BTreeSet;

use clap::Args;
use schemas::{RecordId, RecordRef};

/// Records by their ids. Flattened into every verb that can be about some records only.
#[derive(Args, Clone, Debug, Default)]
pub struct Records {
    /// Only this contact; for several, put commas between ids or repeat it
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = id)]
    pub contact: Vec<RecordId>,
    /// Only this deal; for several, put commas between ids or repeat it
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = id)]
    pub deal: Vec<RecordId>,
}

impl Records {
    /// Tells whether none is named.
    pub fn is_empty(&self) -> bool {
        self.contact.is_empty() && self.deal.is_empty()
    }

    /// Returns all of them, each once.
    pub fn all(&self) -> BTreeSet<RecordRef> {
        let contacts = self.contact.iter().copied().map(RecordRef::contact);
        contacts.chain(self.deal.iter().copied().map(RecordRef::deal)).collect()
    }
}

fn id(text: &str) -> Result<RecordId, String> {
    RecordId::parse(text).map_err(|error| error.to_string())
}

/// Names a record as people do: `contact/39910`.
pub fn name(record: RecordRef) -> String {
    format!("{}/{}", record.entity, record.id)
}

/// Reads a record's name: `contact/39910`, `contact.39910` or `contact 39910`.
pub fn parse(text: &str) -> Result<RecordRef, String> {
    RecordRef::parse(&text.trim().replacen(['/', ' '], ".", 1))
        .ok_or_else(|| "a record is contact/39910 or deal/96036".to_owned())
}

/// Writes the option that names a record: `--contact 39910`.
pub fn option(record: RecordRef) -> String {
    format!("--{} {}", record.entity, record.id)
}

/// Writes the command that compares a record anew.
pub fn recheck(record: RecordRef) -> String {
    format!("rollcall reconcile {}", option(record))
}

/// Says what mends a record whose newest version nobody can read.
pub fn read_anew(record: RecordRef) -> String {
    format!(
        "`rollcall reconcile --repair {}` has it read from Bitrix24 anew, once the polls are past it: two minutes after it was \
         stored",
        option(record)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Verb {
        #[command(flatten)]
        records: Records,
    }

    fn read(arguments: &[&str]) -> Result<Vec<String>, String> {
        let verb =
            Verb::try_parse_from([&["verb"], arguments].concat()).map_err(|error| error.to_string())?;
        Ok(verb.records.all().into_iter().map(name).collect())
    }

    #[test]
    fn records_are_repeated_or_separated_by_commas() {
        let expected = Ok(["contact/5", "contact/6", "deal/7"].map(str::to_owned).to_vec());
        assert_eq!(read(&["--contact", "6,5", "--deal", "7"]), expected);
        assert_eq!(read(&["--contact=5", "--deal", "7", "--contact", "6", "--contact", "5"]), expected);
        assert_eq!(read(&[]), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_id_is_refused_and_said_to_be() {
        for wrong in ["0", "5,0", "x", "", "5,", "-1"] {
            let error = read(&[&format!("--deal={wrong}")]).unwrap_err();
            assert!(error.contains("--deal") && error.contains("positive whole number"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_record_has_one_name_in_several_spellings() {
        let contact = RecordRef::contact(RecordId::try_new(39910).unwrap());
        for text in ["contact/39910", "contact.39910", "contact 39910", " contact/39910 "] {
            assert_eq!(parse(text), Ok(contact), "{text}");
        }
        assert_eq!((name(contact).as_str(), option(contact).as_str()), ("contact/39910", "--contact 39910"));
        for text in ["contact", "39910", "lead/1", "deal/0", "deal/x", "contact/>", "contact/"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
