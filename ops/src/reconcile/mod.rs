//! `rollcall reconcile`: compares Bitrix24, the streams and otmechalka record by record.

mod fields;
mod found;
mod judge;
mod memory;
pub mod progress;
mod sent;
mod target;
mod ticket;
mod walk;

use std::collections::BTreeMap;

use chrono::{TimeDelta, Utc};
use producer::{Survey, portal_client};
use runtime::{CancellationToken, Reader};
use schemas::Entity;
use schemas::streams::CHECKPOINTS;
use serde::Serialize;

use crate::answer::{Answer, Finding, count, findings_text};
use crate::cli;
use crate::doctor::Readable;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};
use crate::ledger::Ledger;
use crate::mask::Mask;
use crate::progress::LongProgress;
use crate::{comparison, nats, owner, records};
use found::{Code, Found};
use memory::Streams;
use progress::Progress;
use target::Otmechalka;
use walk::Walk;

/// What was compared and found.
#[derive(Debug, Serialize)]
struct Reconciled {
    /// Contacts compared.
    contacts: u64,
    /// Deals compared.
    deals: u64,
    /// Records that were on their way, so that there was nothing to compare.
    in_flight: u64,
    /// How many of each kind were found.
    counts: BTreeMap<&'static str, u64>,
    /// Records that were sent round again.
    sent: u64,
    /// The first of what was found, record by record.
    records: Vec<Found>,
}

/// Carries the command out.
pub async fn run(environment: &Environment, arguments: &cli::Reconcile, json: bool) -> Result<Exit, Failure> {
    let broker = nats::connect(environment).await?;
    let mut walk = prepare(environment, arguments, broker).await?;
    let progress = if arguments.records.is_empty() {
        everything(&mut walk, arguments).await?
    } else {
        some(&mut walk, arguments).await?
    };
    answer(progress, arguments.dry_run).tell(json, text)
}

async fn prepare(
    environment: &Environment,
    arguments: &cli::Reconcile,
    broker: runtime::Broker,
) -> Result<Walk, Failure> {
    let source = environment.source();
    let reader = Reader::new(&source);
    let config = producer::Config::read(&reader);
    let config = reader.finish(|| config).map_err(Failure::settings)?;
    let unreadable =
        |what: &str| Failure::settings(what).remedy("`rollcall doctor` says what is wrong with it");
    let Readable { portal, otmechalka } = Readable::read(environment);
    let otmechalka =
        otmechalka.ok_or_else(|| unreadable("OTMECHALKA_URL and what belongs to it cannot be used"))?;
    let rules =
        portal.and_then(|portal| portal.rules).ok_or_else(|| unreadable("MAPPING_FILE cannot be used"))?;
    if let Some(portal) = owner::portal(environment) {
        owner::check(&broker, &portal).await?;
    }
    let client = portal_client(&config, &broker).await.map_err(Failure::settings)?;
    let unavailable = |error: runtime::BrokerError| Failure::environment(error.to_string());
    let streams = Streams::open(&broker).await.map_err(unavailable)?;
    let mask = Mask::of(environment);
    Ok(Walk {
        overlap: config.spans.overlap,
        survey: Survey::new(config, client, CancellationToken::new()),
        remembered: [streams.ids(Entity::Contact).await?, streams.ids(Entity::Deal).await?],
        streams,
        ledger: Ledger::open(broker.clone()).await?,
        mask: if arguments.reveal { mask.revealing() } else { mask },
        otmechalka: Otmechalka::new(otmechalka, arguments.pace),
        rules,
        // Bounded by the command line.
        overdue: TimeDelta::seconds(arguments.overdue.as_secs().cast_signed()),
        checkpoints: broker.bucket(&CHECKPOINTS).await.map_err(unavailable)?,
        is_repair: arguments.repair && !arguments.dry_run,
        narrowed: 0,
        broker,
    })
}

async fn everything(walk: &mut Walk, arguments: &cli::Reconcile) -> Result<Progress, Failure> {
    let unavailable = |error: runtime::BrokerError| Failure::environment(error.to_string());
    let bucket = walk.checkpoints.clone();
    let now = Utc::now();
    let left = if arguments.from_start {
        None
    } else {
        progress::load(&bucket, walk.is_repair, now).await.map_err(unavailable)?
    };
    if let Some(left) = &left {
        eprintln!(
            "Going on where a run was broken off {} ago; --from-start begins anew.",
            ago(now - left.begun)
        );
    }
    let mut progress = left.unwrap_or_else(|| Progress::begin(walk.is_repair, now));
    let mut bar =
        LongProgress::new(walk.known_before(progress.reading), walk.known(), "known records compared");
    while let Some((entity, after)) = progress.reading {
        walk.step(&mut progress, entity, after).await?;
        progress::store(&bucket, &progress).await.map_err(unavailable)?;
        let findings: u64 = progress.counts.values().sum();
        let known = walk.known_before(progress.reading) - walk.known_before(Some((entity, after)));
        bar.advance(known, &format!("{entity}s behind {after}, {}", count(findings, "finding")));
    }
    bar.end();
    progress.conclude();
    progress::forget(&bucket).await.map_err(unavailable)?;
    Ok(progress)
}

async fn some(walk: &mut Walk, arguments: &cli::Reconcile) -> Result<Progress, Failure> {
    let mut progress = Progress::begin(walk.is_repair, Utc::now());
    for (entity, ids) in
        [(Entity::Contact, &arguments.records.contact), (Entity::Deal, &arguments.records.deal)]
    {
        if !ids.is_empty() {
            let ids: Vec<u64> = ids.iter().map(|id| id.get()).collect();
            walk.only(&mut progress, entity, &ids).await?;
        }
    }
    progress.conclude();
    Ok(progress)
}

fn ago(age: TimeDelta) -> String {
    humantime::format_duration(std::time::Duration::from_secs(age.num_seconds().unsigned_abs())).to_string()
}

/// Writes the findings, and below them what differs in which record.
fn text(answer: &Answer<Reconciled>) -> String {
    let mut text = findings_text(&answer.findings);
    let differing = answer.result.records.iter().filter(|found| !found.fields.is_empty());
    let told = differing.map(|found| {
        let lines = found.fields.iter().map(|field| format!("  {}\n", comparison::line(field)));
        let is_as_sent = found.code == Code::Differs && found.cause.is_some();
        let wanted = if is_as_sent { "as it was sent" } else { "by today's mapping" };
        let name = records::name(found.record);
        format!("{name}, in otmechalka -> {wanted}:\n{}", lines.collect::<String>())
    });
    text.extend(told);
    format!("{text}\n{}", answer.summary).trim_start().to_owned()
}

fn answer(progress: Progress, is_dry_run: bool) -> Answer<Reconciled> {
    let compared = |entity| progress.compared.get(&entity).copied().unwrap_or_default();
    let (contacts, deals) = (compared(Entity::Contact), compared(Entity::Deal));
    let total: u64 = progress.counts.values().sum();
    let sent = progress.sent;
    let mut findings: Vec<Finding> = progress.found.iter().map(|found| found.finding(is_dry_run)).collect();
    let untold = total - findings.len() as u64;
    if untold > 0 {
        let remedy = "Deal with these, then look again with: rollcall reconcile";
        findings.push(Finding::error("reconcile.more", "Further findings", untold.to_string(), remedy));
    }
    let on_their_way = match progress.in_flight {
        0 => String::new(),
        1 => " 1 was on its way and not compared.".to_owned(),
        count => format!(" {count} were on their way and not compared."),
    };
    let repaired = match sent {
        0 => String::new(),
        1 => " 1 record was sent round again.".to_owned(),
        sent => format!(" {sent} records were sent round again."),
    };
    let verdict = match total {
        0 => "nothing disagrees.".to_owned(),
        1 => "1 finding.".to_owned(),
        total => format!("{total} findings."),
    };
    let compared = format!("{} and {}", count(contacts, "contact"), count(deals, "deal"));
    let summary = format!("{compared}: {verdict}{repaired}{on_their_way}");
    let counts = progress.counts.iter().map(|(code, count)| (code.name(), *count)).collect();
    let result =
        Reconciled { contacts, deals, in_flight: progress.in_flight, counts, sent, records: progress.found };
    Answer::new(summary, result, findings)
}
