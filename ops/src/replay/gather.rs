//! Reads from the streams what a plan is made of, up to a mark.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::consumer::DeliverPolicy;
use futures::{StreamExt, TryStreamExt};
use mapper::Rules;
use schemas::{Envelope, Mapping, RecordChanged, RecordId, RecordRef};

use super::choice::{Choice, Newest};
use super::plan::{Candidate, Chosen, Plan, Pupil, StaleTicket};
use crate::exit::Failure;
use crate::ledger::{Ledger, Mark, Settled, tails};
use crate::progress::Progress;

/// Most raw records that are asked for at the same time.
const AT_ONCE: usize = 16;

/// Finds the chosen records and all that decides about them.
pub async fn chosen(ledger: &Ledger, rules: &Rules, choice: &Choice, mark: Mark) -> Result<Chosen, Failure> {
    let settled_first = if choice.is_by_outcome() { Some(ended(ledger, choice, mark).await?) } else { None };
    let named: Option<BTreeSet<RecordRef>> =
        settled_first.as_ref().map(|settled| settled.keys().copied().collect());
    let raw_tails = named.as_ref().map_or_else(|| choice.tails(), tails);
    let mut newest = Newest::default();
    ledger
        .raw_heads(&raw_tails, start_of_raw(choice), mark.raw, |record, sequence, stored| {
            if named.as_ref().is_none_or(|named| named.contains(&record)) {
                newest.note(choice, record, sequence, stored);
            }
        })
        .await?;
    let chosen = newest.chosen();
    let records: BTreeSet<RecordRef> = chosen.keys().copied().collect();
    let mut settled = match settled_first {
        Some(settled) => settled,
        None => ledger.newest_results(&records, mark).await?,
    };
    let mut sent = ledger.newest_commands(&records, mark).await?;
    let progress = Progress::new(chosen.len(), "records mapped");
    let mapped = futures::stream::iter(chosen).map(async |(record, raw_sequence)| {
        let today = map(ledger, rules, record, raw_sequence).await?;
        progress.step();
        Ok::<_, Failure>((record, raw_sequence, today))
    });
    let mapped: Vec<_> = mapped.buffered(AT_ONCE).try_collect().await?;
    progress.end();
    let candidate = |(record, raw_sequence, today)| Candidate {
        record,
        raw_sequence,
        today,
        sent: sent.remove(&record),
        settled: settled.remove(&record),
    };
    let candidates: Vec<Candidate> = mapped.into_iter().map(candidate).collect();
    let pupils = pupils(ledger, &candidates, mark).await?;
    Ok(Chosen { candidates, pupils })
}

/// Reads what the streams say about the contacts of tickets that are not chosen themselves.
async fn pupils(
    ledger: &Ledger,
    candidates: &[Candidate],
    mark: Mark,
) -> Result<BTreeMap<RecordId, Pupil>, Failure> {
    let chosen: BTreeSet<RecordRef> = candidates.iter().map(|candidate| candidate.record).collect();
    let contact = |candidate: &Candidate| match &candidate.today {
        Some(Mapping::Ticket(ticket)) => Some(RecordRef::contact(ticket.client_origin_id)),
        _ => None,
    };
    let others: BTreeSet<RecordRef> =
        candidates.iter().filter_map(contact).filter(|contact| !chosen.contains(contact)).collect();
    let mut settled = ledger.newest_results(&others, mark).await?;
    let mut sent = ledger.newest_commands(&others, mark).await?;
    let pupil = |record: RecordRef| {
        let pupil = Pupil { sent: sent.remove(&record), settled: settled.remove(&record) };
        (record.id, pupil)
    };
    Ok(others.into_iter().map(pupil).collect())
}

/// Finds the tickets among a plan's records that today's mapping would have made otherwise, or not at all.
pub async fn stale_tickets(ledger: &Ledger, rules: &Rules, plan: &Plan) -> Result<Vec<StaleTicket>, Failure> {
    let there = plan.steps.iter().map(|step| &step.candidate).filter(|candidate| candidate.has_ticket());
    let mut there: BTreeMap<RecordRef, &Candidate> =
        there.map(|candidate| (candidate.record, candidate)).collect();
    let makers = ledger.makers(&there.keys().copied().collect(), plan.hash.mark).await?;
    let mut stale = Vec::new();
    for (deal, made) in makers {
        let Some(candidate) = there.remove(&deal) else { continue };
        // A deal that was changed later keeps its ticket as well; that is no fault of any mapping.
        let today = match made.version.raw_sequence == candidate.raw_sequence {
            true => candidate.today.clone(),
            false => map(ledger, rules, deal, made.version.raw_sequence).await?,
        };
        stale.extend(today.and_then(|today| StaleTicket::of(deal, &made.mapping, &today)));
    }
    Ok(stale)
}

/// Reads a raw version as it can be sent again; `None` where it is gone or nobody can read it.
pub async fn raw(ledger: &Ledger, sequence: u64) -> Result<Option<(Envelope, RecordChanged)>, Failure> {
    let message = ledger.raw_at(sequence).await?;
    Ok(message.and_then(|message| message.decode::<RecordChanged>().ok()))
}

async fn map(
    ledger: &Ledger,
    rules: &Rules,
    record: RecordRef,
    raw_sequence: u64,
) -> Result<Option<Mapping>, Failure> {
    let raw = raw(ledger, raw_sequence).await?;
    Ok(raw.map(|(_, changed)| mapper::map_record(rules, record, &changed).1))
}

/// Reads the newest outcomes that are asked for.
async fn ended(
    ledger: &Ledger,
    choice: &Choice,
    mark: Mark,
) -> Result<BTreeMap<RecordRef, Settled>, Failure> {
    let mut newest = BTreeMap::new();
    // An outcome before `since` matters to nobody: it is either too old, or not the newest.
    let from =
        choice.since.map_or(DeliverPolicy::All, |start_time| DeliverPolicy::ByStartTime { start_time });
    ledger
        .results(&choice.tails(), from, mark.results, |record, settled| {
            newest.insert(record, settled);
        })
        .await?;
    newest.retain(|record, settled| choice.takes_outcome(*record, settled));
    Ok(newest)
}

/// Nothing before it can be chosen, and the newest version of what is chosen is behind it.
fn start_of_raw(choice: &Choice) -> DeliverPolicy {
    match (choice.from_sequence, choice.since) {
        (Some(start_sequence), _) if start_sequence > 0 => DeliverPolicy::ByStartSequence { start_sequence },
        (_, Some(start_time)) if !choice.is_by_outcome() => DeliverPolicy::ByStartTime { start_time },
        _ => DeliverPolicy::All,
    }
}
