//! `rollcall preview`: what a mapping would send, beside what was sent last. Changes nothing.

mod input;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use async_nats::jetstream::consumer::DeliverPolicy;
use mapper::Rules;
use schemas::{Entity, RecordChanged, RecordRef};

use crate::answer::{Answer, Finding, findings_text};
use crate::cli;
use crate::comparison::Privacy;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::ledger::{self, Ledger, Sent, Settled};
use crate::mapping_file::{self, MappingFile};
use crate::nats;
use crate::progress::Progress;
use told::{ManyTold, Preview};

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &cli::Preview, json: bool) -> Result<Exit, Failure> {
    let mapping = match mapping_file::load(environment, arguments.mapping.as_deref()) {
        Ok(mapping) => mapping,
        Err(mistakes) => {
            let summary = format!("The mapping has {} mistakes.", mistakes.len());
            return Answer::new(summary, (), mistakes).tell(json, |answer| findings_text(&answer.findings));
        }
    };
    let privacy = Privacy::of(arguments.reveal);
    let words: Vec<&str> = arguments.record.iter().map(String::as_str).collect();
    match (&words[..], &arguments.file, arguments.from_stream) {
        ([], None, true) => {
            let ledger = Ledger::open(nats::connect(environment).await?).await?;
            let told = many(&ledger, &mapping, arguments.last, privacy).await?;
            told::many(told).tell(json, told::many_text)
        }
        ([], Some(path), false) => {
            let text = read(path)?;
            from_event(environment, &mapping, &text, arguments.entity.as_deref(), privacy, json).await
        }
        (["-"], None, false) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(Failure::settings)?;
            from_event(environment, &mapping, &text, arguments.entity.as_deref(), privacy, json).await
        }
        ([_, ..], None, false) => {
            let record = input::record(&arguments.record).map_err(Failure::settings)?;
            let ledger = Ledger::open(nats::connect(environment).await?).await?;
            let preview = newest(&ledger, &mapping.rules, record).await?;
            told::one(&preview, &mapping.origin, privacy, Vec::new()).tell(json, told::one_text)
        }
        _ => Err(Failure::settings("nothing, or more than one thing, is named to preview").remedy(
            "Name one: a record (`contact 39910`), --file FILE, `-` for standard input, or --from-stream",
        )),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let unread = |error| Failure::settings(format!("Cannot read {}: {error}", path.display()));
    std::fs::read_to_string(path).map_err(unread)
}

/// Previews a raw event; what was sent last is shown where NATS is set.
async fn from_event(
    environment: &Environment,
    mapping: &MappingFile,
    text: &str,
    entity: Option<&str>,
    privacy: Privacy,
    json: bool,
) -> Result<Exit, Failure> {
    let entity = entity.and_then(Entity::from_token);
    let (record, changed) = input::event(text, entity).map_err(Failure::settings)?;
    let now = mapper::map_record(&mapping.rules, record, &changed).1;
    let mut preview = Preview { record, raw_sequence: None, now, sent: None, outcome: None };
    let mut findings = Vec::new();
    if environment.has("NATS_URL") {
        let ledger = Ledger::open(nats::connect(environment).await?).await?;
        let (sent, settled) = last(&ledger, record).await?;
        (preview.sent, preview.outcome) = (sent, settled.map(|settled| settled.outcome));
    } else {
        let remedy = "set NATS_URL to see it";
        findings.push(Finding::warning("preview.alone", "What was sent last", "not looked at", remedy));
    }
    told::one(&preview, &mapping.origin, privacy, findings).tell(json, told::one_text)
}

/// Previews the newest raw version of a record.
async fn newest(ledger: &Ledger, rules: &Rules, record: RecordRef) -> Result<Preview, Failure> {
    let name = crate::records::name(record);
    let Some(message) = ledger.newest_raw(record).await? else {
        return Err(Failure::trouble(format!(
            "{name} is not among the raw records: it is outside the selection, was not read yet, or is no longer kept"
        ))
        .remedy("See with `rollcall status` how far is read; an edit in Bitrix24 has a record read anew"));
    };
    let sequence = message.sequence;
    let (_, changed) = message.decode::<RecordChanged>().map_err(|error| {
        Failure::trouble(format!("{name}: its newest raw message, {sequence}, cannot be read: {error}"))
            .called("preview.unreadable")
            .remedy(crate::records::read_anew(record))
    })?;
    let (sent, settled) = last(ledger, record).await?;
    Ok(Preview {
        record,
        raw_sequence: Some(sequence),
        now: mapper::map_record(rules, record, &changed).1,
        sent,
        outcome: settled.map(|settled| settled.outcome),
    })
}

async fn last(ledger: &Ledger, record: RecordRef) -> Result<(Option<Sent>, Option<Settled>), Failure> {
    let sent = ledger.all_commands(record).await?.into_iter().max_by_key(|sent| sent.version);
    let newest = ledger.newest_result(record).await?;
    Ok((sent, newest.and_then(|message| Some(ledger::settled(&message)?.1))))
}

/// Previews the newest version of each record among the last raw messages.
async fn many(
    ledger: &Ledger,
    mapping: &MappingFile,
    last: u64,
    privacy: Privacy,
) -> Result<ManyTold, Failure> {
    let mark = ledger.mark().await?;
    let start_sequence = (mark.raw + 1).saturating_sub(last).max(1);
    let from = DeliverPolicy::ByStartSequence { start_sequence };
    let everything = Entity::ALL.map(ledger::entity_tail);
    let mut newest: BTreeMap<RecordRef, u64> = BTreeMap::new();
    ledger
        .raw_heads(&everything, from, mark.raw, |record, sequence, _| {
            newest.insert(record, sequence);
        })
        .await?;
    let records: BTreeSet<RecordRef> = newest.keys().copied().collect();
    let mut commands = ledger.newest_commands(&records, mark).await?;
    let mut told = ManyTold { mapping: mapping.origin.clone(), ..ManyTold::default() };
    let progress = Progress::new(newest.len(), "records mapped");
    for (record, sequence) in newest {
        progress.step();
        let message = ledger.raw_at(sequence).await?;
        let Some((_, changed)) = message.and_then(|message| message.decode::<RecordChanged>().ok()) else {
            told.add_unreadable(record);
            continue;
        };
        let now = mapper::map_record(&mapping.rules, record, &changed).1;
        let sent = commands.remove(&record);
        told.add(&Preview { record, raw_sequence: Some(sequence), now, sent, outcome: None }, privacy);
    }
    progress.end();
    Ok(told)
}
