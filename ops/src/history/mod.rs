//! `rollcall history`: one record's whole story, from the streams, in the order in which it happened.

mod diff;
mod entry;
mod told;

use std::collections::VecDeque;
use std::ops::ControlFlow;

use async_nats::jetstream::consumer::DeliverPolicy;
use clap::Args;
use runtime::Broker;
use schemas::streams::{COMMANDS, DEAD_LETTERS, RAW, RESULTS, STATUSES};
use schemas::{RecordRef, subjects};
use serde::Serialize;

use crate::answer::{Answer, Finding};
use crate::environment::Environment;
use crate::exit::{EXPLANATION, Exit, Failure};
use crate::mask::Mask;
use crate::nats;
use crate::records;
use crate::stored::{self, Choice};
pub use diff::Change;
use entry::Teller;
pub use entry::{Entry, Made, What};
pub use told::{answered, of_otmechalka};

/// Tells one record's story: versions, changes, mapping, tries at otmechalka, statuses, dead letters
#[derive(Args)]
#[command(after_help = EXPLANATION)]
pub struct History {
    /// The record: `contact 39910`, or `contact/39910`
    #[arg(required = true, num_args = 1..=2, value_name = "RECORD")]
    pub record: Vec<String>,
    /// Show personal data
    #[arg(long)]
    pub reveal: bool,
    /// Show at most so many entries, the newest
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub last: u32,
}

/// The story.
#[derive(Debug, Serialize)]
pub struct Story {
    /// The record: `contact/39910`.
    pub record: String,
    /// Entries older than those shown.
    pub left_out: u64,
    /// What happened, the oldest first.
    pub entries: Vec<Entry>,
}

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &History, json: bool) -> Result<Exit, Failure> {
    let record = records::parse(&arguments.record.join("/")).map_err(Failure::settings)?;
    let mask = Mask::of(environment);
    let mask = if arguments.reveal { mask.revealing() } else { mask };
    let broker = nats::connect(environment).await?;
    let story = read(&broker, record, &mask, arguments.last as usize).await?;
    let (summary, findings) = judge(&story);
    Answer::new(summary, story, findings).tell(json, told::text)
}

/// Reads a story: the newest entries, so many at most.
pub async fn read(broker: &Broker, record: RecordRef, mask: &Mask, most: usize) -> Result<Story, Failure> {
    let sources = [
        (RAW.name, vec![subjects::raw(record)]),
        (COMMANDS.name, vec![format!("crm.cmd.*.{record}"), format!("crm.later.*.{record}")]),
        (RESULTS.name, vec![subjects::result(record)]),
        (STATUSES.name, vec![subjects::status(record)]),
        (DEAD_LETTERS.name, vec![format!("dlq.*.{record}")]),
    ];
    let (mut entries, mut left_out) = (Vec::new(), 0);
    for (stream, filters) in sources {
        let mut teller = Teller::new(mask);
        let mut newest = VecDeque::new();
        stored::read(broker, stream, Choice::new(filters, DeliverPolicy::All), |message| {
            newest.push_back(teller.tell(stream, &message));
            if newest.len() > most {
                newest.pop_front();
                left_out += 1;
            }
            ControlFlow::Continue(())
        })
        .await?;
        entries.extend(newest);
    }
    Ok(in_order(record, entries, left_out, most))
}

/// Puts the entries of all streams in one order; within one moment, in that of the pipeline, in which they came here.
fn in_order(record: RecordRef, mut entries: Vec<Entry>, left_out: u64, most: usize) -> Story {
    entries.sort_by_key(|entry| entry.at);
    let surplus = entries.len().saturating_sub(most);
    entries.drain(..surplus);
    Story { record: records::name(record), left_out: left_out + surplus as u64, entries }
}

fn judge(story: &Story) -> (String, Vec<Finding>) {
    let record = &story.record;
    if story.entries.is_empty() {
        let found = "no stream knows it: it was not changed since the beginning of the synchronisation, or longer \
                     ago than the streams keep";
        let action = "look whether it is in the selection: creation date, and for a deal its stage";
        let finding = Finding::warning("history.empty", record.as_str(), found, action);
        return (format!("Nothing is known of {record}."), vec![finding]);
    }
    let is_letter = |entry: &&Entry| matches!(entry.what, What::DeadLetter { .. });
    let letters = story.entries.iter().filter(is_letter);
    let newest = story.entries.iter().rev().find(|entry| entry.stream == RAW.name);
    let is_unreadable = newest.is_some_and(|entry| matches!(entry.what, What::Unreadable { .. }));
    let read_anew = records::parse(record).ok().filter(|_| is_unreadable).map(records::read_anew);
    let findings = letters.map(|entry| {
        let letter = entry.sequence;
        let action = match &read_anew {
            Some(remedy) => format!("{remedy}; then `rollcall dead-letters discard {letter} --yes`"),
            None => format!("`rollcall dead-letters show {letter}`, then `redrive` or `discard`"),
        };
        Finding::warning("history.dead_letter", record.as_str(), "a stage gave it up", action)
    });
    let shown = story.entries.len();
    let summary = match story.left_out {
        0 if shown == 1 => format!("{record}: 1 entry."),
        0 => format!("{record}: {shown} entries."),
        left_out => format!("{record}: the newest {shown} of {} entries.", shown as u64 + left_out),
    };
    (summary, findings.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use schemas::RecordId;

    fn entry(second: i64, stream: &'static str) -> Entry {
        let at = DateTime::from_timestamp(second, 0).unwrap();
        let what = What::Unreadable { why: String::new() };
        Entry { at, stream, sequence: 1, raw_sequence: None, redrive: 0, attempt: 0, what }
    }

    #[test]
    fn what_nobody_can_read_is_told_with_what_mends_it() {
        let what = What::DeadLetter { stage: "mapper".into(), reason: "x".into(), deliveries: 1 };
        let letter = Entry { sequence: 12, what, ..entry(2, DEAD_LETTERS.name) };
        let record = RecordRef::contact(RecordId::try_new(5).unwrap());
        let action = |entries| judge(&in_order(record, entries, 0, 9)).1[0].action.clone();
        let unreadable = action(vec![entry(1, RAW.name), letter.clone()]);
        assert!(
            unreadable.starts_with("`rollcall reconcile --repair --contact 5` has it read"),
            "{unreadable}"
        );
        assert!(unreadable.ends_with("`rollcall dead-letters discard 12 --yes`"), "{unreadable}");
        let readable = action(vec![entry(1, STATUSES.name), letter]);
        assert_eq!(readable, "`rollcall dead-letters show 12`, then `redrive` or `discard`");
    }

    #[test]
    fn the_order_is_that_of_time_and_of_the_pipeline_and_the_oldest_go_first() {
        let record = RecordRef::contact(RecordId::try_new(5).unwrap());
        let entries = vec![entry(1, "raw"), entry(3, "raw"), entry(1, "command"), entry(2, "result")];
        let story = in_order(record, entries, 4, 3);
        let streams: Vec<&str> = story.entries.iter().map(|entry| entry.stream).collect();
        assert_eq!((streams, story.left_out), (vec!["command", "result", "raw"], 5));
    }
}
