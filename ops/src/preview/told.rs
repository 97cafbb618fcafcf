//! What `rollcall preview` tells, and how it looks as text. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use schemas::{Mapping, Outcome, RecordRef};
use serde::Serialize;

use crate::answer::{Answer, Finding, findings_text};
use crate::comparison::{self, Difference, Fields, Privacy};
use crate::ledger::Sent;
use crate::records;
use crate::terminal::line;

/// Most ids that a line of text names.
const MOST_IDS: usize = 20;

/// A record through a mapping, beside what was sent last.
#[derive(Debug)]
pub struct Preview {
    /// The record.
    pub record: RecordRef,
    /// Sequence of the raw version, where it comes from the stream.
    pub raw_sequence: Option<u64>,
    /// What the mapping makes of it.
    pub now: Mapping,
    /// What was sent last.
    pub sent: Option<Sent>,
    /// What came of that.
    pub outcome: Option<Outcome>,
}

/// One record as it is told.
#[derive(Debug, Serialize)]
pub struct OneTold {
    /// Which mapping it went through.
    pub mapping: String,
    /// Its name: `contact/39910`.
    pub record: String,
    /// Sequence of the raw version, where it comes from the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_sequence: Option<u64>,
    /// What would be sent, or why nothing.
    pub now: Fields,
    /// What was sent last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Fields>,
    /// What came of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// Many records as they are told: ids by what became of them.
#[derive(Debug, Default, Serialize)]
pub struct ManyTold {
    /// Which mapping they went through.
    pub mapping: String,
    /// Records that were looked at.
    pub records: usize,
    /// Those for which the same would be sent.
    pub same: usize,
    /// Those for which nothing was sent before.
    pub never_sent: Vec<String>,
    /// Those that differ, by field.
    pub differing: BTreeMap<String, Vec<String>>,
    /// Those that were not refused and would be, by reason.
    pub newly_refused: BTreeMap<String, Vec<String>>,
    /// Those that were refused and would not be.
    pub no_longer_refused: Vec<String>,
    /// Those whose raw record cannot be read.
    pub unreadable: Vec<String>,
    /// What differs, record by record.
    pub differences: BTreeMap<String, Vec<Difference>>,
}

impl ManyTold {
    /// Takes in one record.
    pub fn add(&mut self, preview: &Preview, privacy: Privacy) {
        let name = records::name(preview.record);
        self.records += 1;
        let Some(sent) = &preview.sent else {
            self.never_sent.push(name);
            return;
        };
        let differences = comparison::differences(Some(&sent.mapping), &preview.now, privacy);
        if differences.is_empty() {
            self.same += 1;
            return;
        }
        let was_refused = matches!(sent.mapping, Mapping::Refused(_));
        let is_refused = matches!(preview.now, Mapping::Refused(_));
        match (was_refused, is_refused) {
            (false, true) => {
                for code in comparison::codes(&preview.now) {
                    self.newly_refused.entry(code).or_default().push(name.clone());
                }
            }
            (true, false) => self.no_longer_refused.push(name.clone()),
            // Where another kind of thing comes of a record, every field differs and says nothing.
            _ if comparison::kind(&sent.mapping) != comparison::kind(&preview.now) => {
                self.differing.entry(comparison::OUTCOME.to_owned()).or_default().push(name.clone());
            }
            _ => {
                for difference in &differences {
                    self.differing.entry(difference.field.clone()).or_default().push(name.clone());
                }
            }
        }
        self.differences.insert(name, differences);
    }

    /// Takes in a record that cannot be read.
    pub fn add_unreadable(&mut self, record: RecordRef) {
        self.records += 1;
        self.unreadable.push(records::name(record));
    }
}

/// Tells one record.
pub fn one(preview: &Preview, mapping: &str, privacy: Privacy, findings: Vec<Finding>) -> Answer<OneTold> {
    let before = preview.sent.as_ref().map(|sent| &sent.mapping);
    let differences = comparison::differences(before, &preview.now, privacy);
    let name = records::name(preview.record);
    let summary = match (before, differences.len()) {
        (None, _) => format!("{name}: nothing was sent before."),
        (Some(_), 0) => format!("{name}: the same as was sent last."),
        (Some(_), 1) => format!("{name}: one field differs from what was sent last."),
        (Some(_), count) => format!("{name}: {count} fields differ from what was sent last."),
    };
    let told = OneTold {
        mapping: mapping.to_owned(),
        record: name,
        raw_sequence: preview.raw_sequence,
        now: comparison::fields(&preview.now, privacy),
        before: before.map(|before| comparison::fields(before, privacy)),
        outcome: preview.outcome,
        differences,
    };
    Answer::new(summary, told, findings)
}

/// Writes one record as text: what would be sent, and beside a field that differs what was sent.
pub fn one_text(answer: &Answer<OneTold>) -> String {
    let told = &answer.result;
    let mut text = format!("{}\nMapping: {}\n", answer.summary, told.mapping);
    for (field, value) in &told.now {
        let differing = told.differences.iter().find(|difference| difference.field == *field);
        let was = match (differing, &told.before) {
            (Some(Difference { before: Some(before), .. }), _) => format!("   (was {})", line(before)),
            (Some(_), Some(_)) => "   (was not sent)".to_owned(),
            _ => String::new(),
        };
        let mark = if was.is_empty() { ' ' } else { '*' };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{mark} {field:22}{}{was}", line(value));
    }
    for Difference { field, before, .. } in
        told.differences.iter().filter(|difference| difference.now.is_none())
    {
        let _ =
            writeln!(text, "* {field:22}not sent   (was {})", line(before.as_deref().unwrap_or_default()));
    }
    if let Some(outcome) = told.outcome {
        let _ = writeln!(text, "Outcome of what was sent last: {}", word(outcome));
    }
    text.push_str(&findings_text(&answer.findings));
    text
}

/// Tells many records.
pub fn many(told: ManyTold) -> Answer<ManyTold> {
    let differing = told.differences.len();
    let summary = format!("{} records: {} the same, {differing} differ.", told.records, told.same);
    Answer::new(summary, told, Vec::new())
}

/// Writes many records as text.
pub fn many_text(answer: &Answer<ManyTold>) -> String {
    let told = &answer.result;
    let mut text = format!("{}\nMapping: {}\n", answer.summary, told.mapping);
    let mut count = |what: String, ids: &[String]| {
        if !ids.is_empty() {
            let _ = writeln!(text, "{:>6}  {what}: {}", ids.len(), shortened(ids));
        }
    };
    told.differing.iter().for_each(|(field, ids)| count(format!("differ in {field}"), ids));
    told.newly_refused.iter().for_each(|(code, ids)| count(format!("newly refused, {code}"), ids));
    count("no longer refused".to_owned(), &told.no_longer_refused);
    count("never sent before".to_owned(), &told.never_sent);
    count("cannot be read".to_owned(), &told.unreadable);
    text
}

fn shortened(ids: &[String]) -> String {
    let shown = ids[..ids.len().min(MOST_IDS)].join(" ");
    if ids.len() > MOST_IDS { format!("{shown} …") } else { shown }
}

fn word(outcome: Outcome) -> String {
    // Unit variants serialise to their name.
    let name = serde_json::to_value(outcome).ok();
    name.as_ref().and_then(|name| name.as_str()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::tests::client;
    use schemas::{Problem, RecordId, Version};

    fn preview(id: u64, before: Option<Mapping>, now: Mapping) -> Preview {
        let version = Version { raw_sequence: 1, redrive: 0 };
        Preview {
            record: RecordRef::contact(RecordId::try_new(id).unwrap()),
            raw_sequence: Some(1),
            now,
            sent: before.map(|mapping| Sent { sequence: 1, version, mapping }),
            outcome: Some(Outcome::Created),
        }
    }

    fn refused() -> Mapping {
        Mapping::Refused(vec![Problem::new("phone.missing", "Телефон Берёзкина")])
    }

    #[test]
    fn many_are_counted_by_what_becomes_of_them() {
        let mut told = ManyTold::default();
        let (old, new) = (client("Берёзкин", "1"), client("Берёзкин", "2"));
        for (id, before, now) in [
            (1, Some(old.clone()), old.clone()),
            (2, Some(old.clone()), new.clone()),
            (3, Some(old.clone()), refused()),
            (4, Some(refused()), new.clone()),
            (5, None, new),
        ] {
            told.add(&preview(id, before, now), Privacy::Masked);
        }
        told.add_unreadable(RecordRef::contact(RecordId::try_new(6).unwrap()));
        let text = many_text(&many(told));
        for line in [
            "6 records: 1 the same, 3 differ.",
            "1  differ in branchoffices: contact/2",
            "1  newly refused, phone.missing: contact/3",
            "1  no longer refused: contact/4",
            "1  never sent before: contact/5",
            "1  cannot be read: contact/6",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("Берёзкин"), "{text}");
    }

    #[test]
    fn one_is_shown_beside_what_was_sent_last() {
        let told = one(
            &preview(1, Some(client("Берёзкин", "1")), client("Осинкин", "2")),
            "new.toml",
            Privacy::Masked,
            Vec::new(),
        );
        let text = one_text(&told);
        assert!(text.contains("* branchoffices         2   (was 1)"), "{text}");
        assert!(text.contains("  courses               10985, 10986\n"), "{text}");
        assert!(!text.contains("Осинкин") && !text.contains("Берёзкин"), "{text}");
        let refused = one_text(&one(
            &preview(1, Some(client("Берёзкин", "1")), refused()),
            "new.toml",
            Privacy::Revealed,
            Vec::new(),
        ));
        assert!(refused.contains("* last_name             not sent   (was Берёзкин)"), "{refused}");
    }
}
