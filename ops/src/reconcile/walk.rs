//! Walks everything page by page: what is read is compared, what is wrong is sent round again if that is wanted.

use std::collections::BTreeSet;
use std::time::Duration;

use bitrix24::{ErrorClass, Lane};
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use mapper::{Rules, map_record};
use producer::missed::{Look, Standing, standing};
use producer::{MOST_NARROWED, Moment, PollError, Reading, Stretch, Survey, sent_again};
use runtime::{Broker, BrokerError, Bucket, PublishError, Published};
use schemas::{Checkpoint, Entity, RecordChanged, RecordId, RecordRef};

use super::fields::Fields;
use super::found::{Code, Found, Repair};
use super::judge::{By, Case, Claim, Expected, Target, client_of, judge};
use super::memory::{Memory, Streams};
use super::progress::{Moved, Progress};
use super::sent::{self, Taken};
use super::target::Otmechalka;
use super::ticket::{Origin, explain, wanted};
use crate::exit::Failure;
use crate::ledger::{Ledger, Mark};
use crate::mask::Mask;

/// Records that are asked about at the same time; the pace bounds how often.
const AT_ONCE: usize = 4;

/// Ids of a message that NATS may know already before a record is given up.
const MOST_DUPLICATES: u32 = 20;

/// Tries of a request to Bitrix24.
const TRIES: u32 = 6;

/// First pause between two of them; doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// What a poll may take longer than its interval twice over before polls count as standing still.
const SLOW_POLL: TimeDelta = TimeDelta::minutes(5);

/// Everything that it takes to compare.
pub struct Walk {
    /// The connection.
    pub broker: Broker,
    /// Reads Bitrix24.
    pub survey: Survey,
    /// Longest time that a change may take to become readable.
    pub overlap: TimeDelta,
    /// What the pipeline remembers.
    pub streams: Streams,
    /// The same as it was stored.
    pub ledger: Ledger,
    /// Hides personal data in what is found.
    pub mask: Mask,
    /// Asks otmechalka.
    pub otmechalka: Otmechalka,
    /// Today's mapping.
    pub rules: Rules,
    /// Age of a version from which on it should have been processed.
    pub overdue: TimeDelta,
    /// How far the polls are.
    pub checkpoints: Bucket,
    /// Records of which a result is kept: contacts, deals.
    pub remembered: [BTreeSet<u64>; 2],
    /// Whether to send round again what that mends.
    pub is_repair: bool,
    /// How often to halve what is asked for at once.
    pub narrowed: u8,
}

/// What came of comparing one record.
#[derive(Debug, Default)]
struct Examined {
    found: Vec<Found>,
    moved: Option<Moved>,
    is_in_flight: bool,
}

impl Walk {
    /// Compares the next page.
    pub async fn step(&mut self, progress: &mut Progress, entity: Entity, after: u64) -> Result<(), Failure> {
        let polled_until = self.polled_until(entity).await?;
        let (Stretch { readings, next, observed }, unreadable) = self.read_behind(entity, after).await?;
        let look = Look { polled_until, observed, overlap: self.overlap };
        let end = next.unwrap_or(u64::MAX);
        let read = readings.iter().map(|reading| reading.record).chain(unreadable);
        let read: BTreeSet<u64> = read.map(|record| record.id.get()).collect();
        let remembered = &self.remembered[place(entity)];
        let unread = remembered.range(after.saturating_add(1)..=end).filter(|id| !read.contains(id));
        let unread: Vec<u64> = unread.copied().collect();
        self.compare(progress, readings, look).await?;
        self.look_for(progress, entity, &unread).await?;
        progress.add(unreadable.map(|record| Found::new(record, Code::Unreadable)).into_iter().collect());
        progress.advance(entity, next);
        Ok(())
    }

    /// Counts the records of which a result is kept.
    pub fn known(&self) -> u64 {
        self.remembered.iter().map(|ids| ids.len() as u64).sum()
    }

    /// Counts those of them that come before a place; all where everything is read.
    pub fn known_before(&self, reading: Option<(Entity, u64)>) -> u64 {
        let Some((entity, after)) = reading else { return self.known() };
        let (before, at) = self.remembered.split_at(place(entity));
        let whole: usize = before.iter().map(BTreeSet::len).sum();
        let part = at.first().map_or(0, |ids| ids.range(..=after).count());
        (whole + part) as u64
    }

    /// Compares some records only.
    pub async fn only(
        &mut self,
        progress: &mut Progress,
        entity: Entity,
        ids: &[u64],
    ) -> Result<(), Failure> {
        let polled_until = self.polled_until(entity).await?;
        let readings = self.read(entity, ids).await?;
        let read: BTreeSet<u64> = readings.iter().map(|reading| reading.record.id.get()).collect();
        let observed = readings.first().map_or(polled_until, |reading| reading.observed);
        self.compare(progress, readings, Look { polled_until, observed, overlap: self.overlap }).await?;
        let unread: Vec<u64> = ids.iter().copied().filter(|id| !read.contains(id)).collect();
        self.look_for(progress, entity, &unread).await
    }

    /// Returns up to where polls have seen everything for sure.
    async fn polled_until(&self, entity: Entity) -> Result<Moment, Failure> {
        match self.checkpoint(entity).await? {
            Some(checkpoint) if checkpoint.polls > 0 => Ok(checkpoint.watermark - self.overlap),
            _ => Err(Failure::trouble(format!(
                "The first poll of {entity}s has not ended: there is nothing to compare yet"
            ))
            .remedy("`rollcall status` shows how far it is")),
        }
    }

    async fn checkpoint(&self, entity: Entity) -> Result<Option<Checkpoint>, Failure> {
        let stored = self.checkpoints.get(entity.token()).await.map_err(of_broker)?;
        Ok(stored.and_then(|(value, _)| serde_json::from_slice(&value).ok()))
    }

    /// Returns before when what was changed should have been read, where polls stand still. Those of deals wait for those of
    /// contacts, and a walk of hours leaves its watermark where it is: neither is standing still.
    async fn left_behind(&self, entity: Entity, observed: Moment) -> Result<Option<Moment>, Failure> {
        let ahead = if entity == Entity::Deal { &Entity::ALL[..] } else { &[Entity::Contact] };
        for entity in ahead {
            let Some(poll) = self.checkpoint(*entity).await?.and_then(|checkpoint| checkpoint.poll) else {
                return Ok(None);
            };
            let interval = TimeDelta::seconds(poll.interval_seconds.min(1 << 32).cast_signed());
            if observed - poll.observed <= self.overdue.max(interval * 2 + SLOW_POLL) {
                return Ok(None);
            }
        }
        Ok(Some(observed - self.overdue))
    }

    async fn compare(
        &mut self,
        progress: &mut Progress,
        readings: Vec<Reading>,
        look: Look,
    ) -> Result<(), Failure> {
        let Some(entity) = readings.first().map(|reading| reading.record.entity) else { return Ok(()) };
        *progress.compared.entry(entity).or_default() += readings.len() as u64;
        let records: Vec<RecordRef> = readings.iter().map(|reading| reading.record).collect();
        let memories = self.streams.memories(&records).await.map_err(of_broker)?;
        let changed = self.left_behind(entity, look.observed).await?;
        let due = Due { changed, stored: Utc::now() - self.overdue };
        let examining: Vec<_> = readings
            .iter()
            .zip(&memories)
            .map(|(reading, memory)| self.examine(reading, memory, look, due))
            .collect();
        let examined: Vec<Examined> =
            futures::stream::iter(examining).buffered(AT_ONCE).try_collect().await?;
        let mut found = Vec::new();
        for examined in examined {
            progress.in_flight += u64::from(examined.is_in_flight);
            // Contacts are read first, so that those that are gone are known; other moves are as they should be.
            let of_gone = examined.moved.filter(|moved| progress.gone.contains(&moved.from));
            progress.moved.extend(of_gone);
            found.extend(examined.found);
        }
        if self.is_repair {
            progress.sent += self.repair(entity, &mut found).await?;
        }
        progress.add(found);
        Ok(())
    }

    async fn examine(
        &self,
        reading: &Reading,
        memory: &Memory,
        look: Look,
        due: Due,
    ) -> Result<Examined, Failure> {
        let record = reading.record;
        let (is_in_flight, nothing) = (true, Examined::default());
        let claim = match where_is(reading, memory, look, due) {
            Where::InFlight => return Ok(Examined { is_in_flight, ..nothing }),
            Where::Wrong(code) => return Ok(Examined { found: vec![Found::new(record, code)], ..nothing }),
            Where::AtRest(claim) => claim,
        };
        let Some(changed) = reading.changed() else { return Ok(nothing) };
        let (_, mapping) = map_record(&self.rules, record, &changed);
        // Where its version has aged out, only the status tells what was done.
        let result = memory.result.as_ref().filter(|_| memory.raw.is_some());
        let case = Case {
            record,
            shown: reading.status.clone(),
            expected: Expected::of(record, &mapping),
            claim,
            written: result.map(|result| result.text.clone()),
            is_remembered: result.is_some_and(|result| result.is_remembered),
        };
        let Some(target) = self.otmechalka.ask(record).await? else {
            return Ok(Examined { found: vec![Found::new(record, Code::Unanswered)], ..nothing });
        };
        let has_client = match case.client_to_ask(&target) {
            Some(client) => self.otmechalka.has_client(client).await?,
            None => None,
        };
        let found = self.explained(judge(&case, &target, has_client), &case, &target, reading).await?;
        if !found.is_empty() && self.streams.memory(record).await.map_err(of_broker)? != *memory {
            return Ok(Examined { is_in_flight, ..nothing });
        }
        Ok(Examined { found, moved: moved(&case, &target), is_in_flight: false })
    }

    /// Asks the streams why a ticket differs and what was sent of a refused record, and adds the values of what differs.
    async fn explained(
        &self,
        found: Vec<Found>,
        case: &Case,
        target: &Target,
        reading: &Reading,
    ) -> Result<Vec<Found>, Failure> {
        let Target::Present(held) = target else { return Ok(found) };
        let is_ticket = |found: &Found| matches!(found.code, Code::TicketDiffers | Code::TicketRefused);
        let is_refused = |found: &Found| found.code == Code::Extra && case.expected != Expected::OutOfScope;
        let (tickets, found): (Vec<Found>, Vec<Found>) = found.into_iter().partition(is_ticket);
        let (refused, mut found): (Vec<Found>, Vec<Found>) = found.into_iter().partition(is_refused);
        let mut today = case.expected.clone();
        if !tickets.is_empty() {
            let origin = self.origin(case.record, &reading.fingerprint).await?;
            found.extend(explain(case.record, &case.expected, held, &origin));
            if let Origin::Kept(_, then) = origin {
                today = then;
            }
        }
        let nothing = Fields::new();
        let wanted = wanted(&case.expected, &today).unwrap_or(&nothing);
        let valued = |found: Found, wanted: &Fields| found.with_values(held, wanted, &self.mask);
        found = found.into_iter().map(|found| valued(found, wanted)).collect();
        if !refused.is_empty() {
            let (taken, later) = self.taken(case).await?;
            let wanted = if let Taken::Kept(fields) = &taken { fields } else { &nothing };
            found.extend(sent::explain(case.record, held, &taken, &later).map(|found| valued(found, wanted)));
        }
        Ok(found)
    }

    /// Looks up what otmechalka took last of a record, and what was sent later.
    async fn taken(&self, case: &Case) -> Result<(Taken, Vec<Fields>), Failure> {
        let last = self.ledger.last_taken(case.record).await?;
        let commands = self.ledger.all_commands(case.record).await?;
        let (mut taken, mut later) = (Taken::Lost, Vec::new());
        for command in commands {
            match Expected::of(case.record, &command.mapping) {
                Expected::Held(fields) if last == Some(command.version) => taken = Taken::Kept(fields),
                Expected::Held(fields) if last < Some(command.version) => later.push(fields),
                _ => {}
            }
        }
        let is_known = !matches!(case.claim, Claim::Success | Claim::Refused(By::Unknown));
        if last.is_none() && is_known && !case.is_remembered {
            taken = Taken::Nothing;
        }
        Ok((taken, later))
    }

    /// Looks up what a ticket was made from.
    async fn origin(&self, deal: RecordRef, fingerprint: &str) -> Result<Origin, Failure> {
        if let Some(maker) = self.ledger.makers(&BTreeSet::from([deal]), Mark::END).await?.remove(&deal) {
            let raw = self.ledger.raw_at(maker.version.raw_sequence).await?;
            let changed = raw.and_then(|message| Some(message.decode::<RecordChanged>().ok()?.1));
            let today = changed.map(|changed| map_record(&self.rules, deal, &changed).1);
            if let (Some(today), Expected::Held(sent)) = (today, Expected::of(deal, &maker.mapping)) {
                return Ok(Origin::Kept(sent, Expected::of(deal, &today)));
            }
        }
        Ok(match self.streams.always_was(deal, fingerprint).await? {
            true => Origin::AlwaysSo,
            false => Origin::Lost,
        })
    }

    /// Sends the records round again that this mends, as they are now. Returns how many.
    async fn repair(&mut self, entity: Entity, found: &mut [Found]) -> Result<u64, Failure> {
        let wanted = found.iter().filter(|found| found.repair == Repair::Possible);
        let wanted: BTreeSet<u64> = wanted.map(|found| found.record.id.get()).collect();
        if wanted.is_empty() {
            return Ok(0);
        }
        let records: Vec<RecordRef> = found
            .iter()
            .map(|found| found.record)
            .filter(|record| wanted.contains(&record.id.get()))
            .collect();
        let polled_until = self.polled_until(entity).await?;
        // Looked up before reading: whatever is published after this makes the stream refuse what was read before.
        let memories = self.streams.memories(&records).await.map_err(of_broker)?;
        let ids: Vec<u64> = wanted.iter().copied().collect();
        let mut sent = BTreeSet::new();
        for reading in self.read(entity, &ids).await? {
            let look = Look { polled_until, observed: reading.observed, overlap: self.overlap };
            let Some(place) = records.iter().position(|record| *record == reading.record) else { continue };
            if self.send(&reading, &memories[place], look).await? {
                sent.insert(reading.record);
            }
        }
        for found in found.iter_mut().filter(|found| found.repair == Repair::Possible) {
            found.repair = if sent.contains(&found.record) { Repair::Sent } else { Repair::Overtaken };
        }
        Ok(sent.len() as u64)
    }

    /// Sends a record round again; false where something newer is on its way.
    async fn send(&self, reading: &Reading, memory: &Memory, look: Look) -> Result<bool, Failure> {
        let known = memory.raw.as_ref().map(|raw| &raw.known);
        if standing(known, reading.seen(), reading.shows_status(), look) == Standing::LeftToPolls {
            return Ok(false);
        }
        let follows = known.map_or(0, |known| known.sequence);
        let (mut limit, mut duplicates) = (self.broker.max_message_bytes(), 0);
        loop {
            let mut message =
                sent_again(reading, follows, limit).map_err(|error| Failure::trouble(error.to_string()))?;
            if duplicates > 0 {
                message.message_id = format!("{}:{duplicates}", message.message_id);
            }
            match self.broker.publish(&message).await {
                Ok(Published { duplicate: false, .. }) => return Ok(true),
                // The server has seen this id and stored nothing: take another.
                Ok(_) if duplicates < MOST_DUPLICATES => duplicates += 1,
                Ok(_) => {
                    return Err(Failure::trouble(format!(
                        "{} was not sent again: NATS takes it for one that it has. Try again in a day",
                        reading.record
                    )));
                }
                Err(PublishError::NotLast) => {
                    let newest = self.ledger.newest_raw(reading.record).await?;
                    // Our own, whose answer was lost, or what somebody else read.
                    let id = newest.as_ref().and_then(|newest| newest.header("Nats-Msg-Id"));
                    return Ok(id == Some(message.message_id.as_str()));
                }
                Err(PublishError::TooBig { .. }) if limit > 1 => limit /= 2,
                Err(error) => return Err(Failure::environment(error.to_string())),
            }
        }
    }

    /// Looks what became of records of which a result is kept and that were not read. otmechalka is asked also about
    /// those that it never got from here: nothing else would ever find a client or ticket of theirs.
    async fn look_for(
        &mut self,
        progress: &mut Progress,
        entity: Entity,
        ids: &[u64],
    ) -> Result<(), Failure> {
        let candidates: Vec<RecordRef> = ids.iter().filter_map(|id| record(entity, *id)).collect();
        if candidates.is_empty() {
            return Ok(());
        }
        let there = self.present(entity, &candidates).await?;
        for record in candidates {
            let is_there = there.contains(&record.id.get());
            if is_there && entity == Entity::Contact {
                continue;
            }
            match self.otmechalka.ask(record).await? {
                Some(Target::Present(_)) => {}
                Some(_) => continue,
                None => {
                    progress.add(vec![Found::new(record, Code::Unanswered)]);
                    continue;
                }
            }
            match (is_there, entity) {
                (true, _) => progress.add(vec![Found::new(record, Code::LeftSelection)]),
                (false, Entity::Contact) => progress.gone.push(record.id),
                (false, Entity::Deal) => progress.add(vec![Found::new(record, Code::Gone)]),
            }
        }
        Ok(())
    }

    /// Returns the ids of those that Bitrix24 has, in the selection or not.
    async fn present(&self, entity: Entity, records: &[RecordRef]) -> Result<BTreeSet<u64>, Failure> {
        let ids: Vec<u64> = records.iter().map(|record| record.id.get()).collect();
        let kind = match entity {
            Entity::Contact => bitrix24::Entity::Contact,
            Entity::Deal => bitrix24::Entity::Deal,
        };
        let mut patience = Patience::new();
        loop {
            match self.survey.client().records(kind, &ids, &["ID"], Lane::Backfill).await {
                Ok(rows) => return Ok(rows.into_keys().collect()),
                Err(error) => patience.after(PollError::Portal(error)).await?,
            }
        }
    }

    /// Reads the records behind a place: fewer where Bitrix24 does not give them, in the end none but behind the one that it
    /// does not give alone, and tells which that is.
    async fn read_behind(
        &mut self,
        entity: Entity,
        after: u64,
    ) -> Result<(Stretch, Option<RecordRef>), Failure> {
        let mut patience = Patience::new();
        loop {
            let error = match self.survey.behind(entity, after, self.narrowed).await {
                Ok(stretch) => {
                    self.narrowed = self.narrowed.saturating_sub(1);
                    return Ok((stretch, None));
                }
                Err(error) => error,
            };
            let is_too_much = error.may_be_too_much();
            if is_too_much && self.narrowed < MOST_NARROWED {
                self.narrowed += 1;
                patience = Patience::new();
            } else if is_too_much
                && patience.is_over()
                && let Ok(Some(stretch)) = self.survey.pass_over(entity, after).await
            {
                let unreadable = stretch.next.and_then(|id| record(entity, id));
                return Ok((stretch, unreadable));
            }
            patience.after(error).await?;
        }
    }

    async fn read(&mut self, entity: Entity, ids: &[u64]) -> Result<Vec<Reading>, Failure> {
        let mut patience = Patience::new();
        loop {
            match self.survey.records(entity, ids).await {
                Ok(readings) => return Ok(readings),
                Err(error) => patience.after(error).await?,
            }
        }
    }
}

/// Where a record is on its way.
enum Where {
    InFlight,
    Wrong(Code),
    AtRest(Claim),
}

/// What should have been read or processed by now.
#[derive(Clone, Copy)]
struct Due {
    /// What was changed before this, by the portal's clock; none while polls go on.
    changed: Option<Moment>,
    /// What was stored before this.
    stored: DateTime<Utc>,
}

fn where_is(reading: &Reading, memory: &Memory, look: Look, due: Due) -> Where {
    let known = memory.raw.as_ref().map(|raw| &raw.known);
    let seen = reading.seen();
    // A list that lags behind may show what was changed before polls came by.
    let is_left_behind = due.changed.is_some_and(|due| (look.polled_until..due).contains(&seen.modified));
    let left_to_polls = if is_left_behind { Where::Wrong(Code::Unpolled) } else { Where::InFlight };
    match standing(known, seen, reading.shows_status(), look) {
        Standing::LeftToPolls => return left_to_polls,
        // A status that was just cleared: the next poll sees it.
        Standing::Published if seen.status_is_empty && seen.modified >= look.polled_until => {
            return left_to_polls;
        }
        Standing::Missed => return Where::Wrong(Code::Unread),
        Standing::Forgotten => {
            return Where::AtRest(Claim::of_status(reading.status.as_deref().unwrap_or_default()));
        }
        Standing::Published => {}
    }
    let (Some(raw), result) = (&memory.raw, memory.result.as_ref()) else { return Where::InFlight };
    let settled = result.filter(|result| {
        result.version.raw_sequence >= raw.known.sequence && memory.settled >= Some(result.version)
    });
    match settled {
        Some(result) => Where::AtRest(Claim::of_result(result.outcome, &result.codes)),
        None if raw.stored <= due.stored => Where::Wrong(Code::Unprocessed),
        None => Where::InFlight,
    }
}

fn moved(case: &Case, target: &Target) -> Option<Moved> {
    let Target::Present(ticket) = target else { return None };
    let (from, to) = (client_of(ticket)?, case.contact()?);
    (from != to).then_some(Moved { deal: case.record.id, from, to })
}

fn record(entity: Entity, id: u64) -> Option<RecordRef> {
    Some(RecordRef { entity, id: RecordId::try_new(id).ok()? })
}

fn place(entity: Entity) -> usize {
    match entity {
        Entity::Contact => 0,
        Entity::Deal => 1,
    }
}

fn of_broker(error: BrokerError) -> Failure {
    Failure::environment(error.to_string())
}

/// What is left of the patience with Bitrix24.
struct Patience {
    tries: u32,
    pause: Duration,
}

impl Patience {
    fn new() -> Patience {
        Patience { tries: 1, pause: FIRST_PAUSE }
    }

    fn is_over(&self) -> bool {
        self.tries >= TRIES
    }

    async fn after(&mut self, error: PollError) -> Result<(), Failure> {
        let is_refused = matches!(&error, PollError::Portal(error) if error.class() == ErrorClass::Refused);
        if is_refused || self.is_over() {
            return Err(Failure::environment(format!("Bitrix24: {error}")).remedy(
                "`rollcall doctor` says what to do; run the same command afterwards: it goes on where it was",
            ));
        }
        tokio::time::sleep(self.pause).await;
        (self.tries, self.pause) = (self.tries + 1, self.pause * 2);
        Ok(())
    }
}
