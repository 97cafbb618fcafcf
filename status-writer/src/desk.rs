//! The outcomes that are held: one wanted status a record, the newest. Pure; knows no network and no clock.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, FixedOffset};
use schemas::{Entity, RecordRef, StatusSettled};
use tokio::time::Instant;

use crate::decide::{Decision, Settled, Wanted, decide};

/// The newest message of a record's status subject.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fence {
    /// Its sequence, 0 where there is none.
    pub sequence: u64,
    /// What it says; `None` where there is none, or none that can be read.
    pub last: Option<Settled>,
}

/// A wanted status with all that is known about it.
#[derive(Debug)]
pub struct Held<D> {
    /// What is wanted.
    pub wanted: Wanted,
    /// The message that asks for it; unsettled as long as this exists.
    pub delivery: D,
    /// The newest settled status.
    pub fence: Fence,
    /// When the fence was read.
    pub fence_read: Instant,
    /// When it came here.
    pub arrived: Instant,
    /// Nothing is done about it earlier.
    pub not_before: Instant,
    /// An update may have been applied without our knowing: look before writing.
    pub look_first: bool,
    /// The field may show something else than was settled last, so only a look or a write will do.
    pub repair: bool,
    /// Updates that the portal confirmed and that did not show afterwards.
    pub unkept: u8,
    /// Such updates of the same text for older versions.
    pub unkept_before: u8,
    /// When the last of all of them was confirmed.
    pub last_unkept: Option<Instant>,
    /// Tries that the portal rejected though it wrote others.
    pub failures: u8,
    /// Tries on which the portal failed though it wrote others.
    pub server_errors: u8,
    /// Batches with it on which the portal failed as a whole.
    pub failed_batches: u8,
    /// When its batch began that was cut off last, and which of its updates it was.
    pub cut_off: Option<(Instant, usize)>,
    /// When the portal last refused it, for want of rights or with a failure of its own.
    pub refused: Option<Instant>,
    /// When it was last picked to be looked at or written.
    pub tried: Option<Instant>,
    /// Until then an update of another text may still be applied, as was known when it was picked.
    pub in_doubt: Option<Instant>,
}

impl<D> Held<D> {
    /// Takes in a wanted status.
    pub fn new(wanted: Wanted, delivery: D, fence: Fence, now: Instant) -> Held<D> {
        Held {
            wanted,
            delivery,
            fence,
            fence_read: now,
            arrived: now,
            not_before: now,
            look_first: false,
            repair: false,
            unkept: 0,
            unkept_before: 0,
            last_unkept: None,
            failures: 0,
            server_errors: 0,
            failed_batches: 0,
            cut_off: None,
            refused: None,
            tried: None,
            in_doubt: None,
        }
    }

    /// Notes that the message was delivered before: whoever had it may have written, and told nobody.
    pub fn redelivered(mut self) -> Held<D> {
        self.look_first = true;
        self.follow_newer();
        self
    }

    /// Returns the record.
    pub fn record(&self) -> RecordRef {
        self.wanted.envelope.record
    }

    /// Decides what to do about it.
    pub fn decide(&self) -> Decision {
        if self.repair {
            return Decision::Write;
        }
        match decide(&self.wanted, self.fence.last.as_ref()) {
            // Every reading may be older than the update that is in doubt.
            Decision::AlreadyShown(_) | Decision::Look if self.look_first => Decision::Write,
            decision => decision,
        }
    }

    /// Tells whether it failed while others were written.
    pub fn fails_alone(&self) -> bool {
        self.failures > 0 || self.server_errors > 0
    }

    /// Tells whether something went wrong with it before.
    pub fn is_troubled(&self) -> bool {
        self.fails_alone() || self.failed_batches > 0 || self.unkept_in_all() > 0 || self.refused.is_some()
    }

    /// Returns the updates of this text that did not show, for this version and older ones.
    pub fn unkept_in_all(&self) -> u8 {
        self.unkept.saturating_add(self.unkept_before)
    }

    /// Counts updates of its text for older versions that did not show.
    ///
    /// Perhaps they made this version themselves: the producer takes an emptied field for news.
    fn inherit(&mut self, updates: u8, last: Option<Instant>) {
        self.unkept_before = self.unkept_before.max(updates);
        self.last_unkept = self.last_unkept.max(last);
        self.look_first = true;
    }

    /// Takes in the newest settled status.
    pub fn refence(&mut self, fence: Fence, now: Instant) {
        self.fence = fence;
        self.fence_read = now;
        self.follow_newer();
    }

    /// Goes on with the newest settled text where it is newer than ours and our update may have come after it.
    fn follow_newer(&mut self) {
        let Some(newer) = self.newer_settled() else { return };
        let (is_gone, text) = (newer.how == StatusSettled::RecordGone, newer.text.clone());
        self.repair |= self.look_first && !is_gone;
        if self.repair {
            self.wanted.text = text;
        }
    }

    /// Returns the newest settled status where it is of a newer version than the wanted one.
    pub fn newer_settled(&self) -> Option<&Settled> {
        self.fence.last.as_ref().filter(|last| last.version > self.wanted.version)
    }

    /// Tells whether this or a newer version is settled, so that it is only looked at and put right.
    pub fn is_settled(&self) -> bool {
        self.fence.last.as_ref().is_some_and(|last| last.version >= self.wanted.version)
    }

    /// Tells whether this version was settled, and nothing was written since.
    pub fn was_seen_to_stand(&self) -> bool {
        self.is_settled() && self.newer_settled().is_none() && self.unkept == 0
    }

    /// Has what was just settled looked at once more where another text may still come after it; tells whether it may.
    pub fn look_again(&mut self) -> bool {
        let Some(until) = self.in_doubt.take() else { return false };
        (self.repair, self.look_first, self.not_before) = (true, true, until);
        (self.unkept, self.unkept_before, self.last_unkept) = (0, 0, None);
        (self.failures, self.server_errors) = (0, 0);
        self.cut_off = None;
        self.follow_newer();
        true
    }

    /// Notes that the field may show something else than was settled last, whatever was read before.
    pub fn mistrust(&mut self) {
        self.repair = true;
        self.look_first = true;
        self.follow_newer();
    }
}

/// A held outcome that made room for another one of its record.
#[derive(Debug)]
pub enum Displaced<D> {
    /// Of an older version: it is done with, as the newer one is held.
    Older(Held<D>),
    /// An older delivery of the same version, most likely of the same message: it must be forgotten, not acknowledged.
    Same(Held<D>),
}

/// What was picked to be dealt with now. The records are away until given back or finished.
#[derive(Debug)]
pub struct Picked<D> {
    /// To be written.
    pub write: Vec<Held<D>>,
    /// Already shown, as seen at that portal time.
    pub shown: Vec<(Held<D>, DateTime<FixedOffset>)>,
    /// Superseded by a version that was settled.
    pub superseded: Vec<Held<D>>,
}

impl<D> Picked<D> {
    fn nothing() -> Picked<D> {
        Picked { write: Vec::new(), shown: Vec::new(), superseded: Vec::new() }
    }

    /// Returns all records that were picked.
    pub fn records(&self) -> Vec<RecordRef> {
        let shown = self.shown.iter().map(|(held, _)| held);
        self.write.iter().chain(shown).chain(&self.superseded).map(Held::record).collect()
    }

    /// Tells whether nothing was picked.
    pub fn is_empty(&self) -> bool {
        self.write.is_empty() && self.shown.is_empty() && self.superseded.is_empty()
    }
}

/// An update that was given up here, and that the portal may still apply.
#[derive(Debug)]
struct Doubt {
    /// Its text; `None` where there are several.
    text: Option<String>,
    /// It is applied by then or never.
    until: Instant,
}

/// A text that was given up, as it did not show.
#[derive(Debug)]
pub struct Dropped {
    /// Its record.
    pub record: RecordRef,
    /// The text.
    pub text: String,
    /// Updates that did not show.
    pub updates: u8,
    /// When the last of them was confirmed.
    pub last: Option<Instant>,
}

/// All outcomes that are held.
#[derive(Debug)]
pub struct Desk<D> {
    waiting: HashMap<RecordRef, Held<D>>,
    away: HashSet<RecordRef>,
    doubts: HashMap<RecordRef, Doubt>,
    /// What was given up, and until when that counts.
    dropped: HashMap<RecordRef, (Dropped, Instant)>,
    /// Records over which the stage may die or the portal fail.
    suspects: HashMap<RecordRef, Suspect>,
    /// Time without a try after which a suspect goes first, if others had theirs meanwhile.
    overdue: Duration,
    /// When one of an entity was picked last that is not dealt with alone.
    others_tried: HashMap<Entity, Instant>,
}

/// What is known of a record over which the stage may die or the portal fail.
#[derive(Debug)]
struct Suspect {
    /// With how many of its like it is dealt with at most, itself included.
    company: usize,
    /// How often its handling panicked here.
    panics: u8,
}

/// The company of those that are dealt with alone.
pub const ALONE: usize = 1;

/// Returns with how many of its like a record is dealt with that was in hand at so many deaths of the stage.
///
/// Hundreds may have been in hand with the one that killed it. One by one they would take minutes; by eights, then by twos,
/// it is still alone before its deaths are too many, as a healthy neighbour of its last company is not.
pub fn company(deaths: u64) -> usize {
    match deaths {
        0 | 1 => 8,
        2 => 2,
        _ => ALONE,
    }
}

impl<D> Desk<D> {
    /// Starts with nothing. A suspect that had no try for longer than `overdue` goes first, if others had theirs meanwhile.
    pub fn new(overdue: Duration) -> Desk<D> {
        Desk {
            waiting: HashMap::new(),
            away: HashSet::new(),
            doubts: HashMap::new(),
            dropped: HashMap::new(),
            suspects: HashMap::new(),
            overdue,
            others_tried: HashMap::new(),
        }
    }

    /// Returns the number of records with a wanted status, those away included.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.away.len()
    }

    /// Tells whether there is none.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of an entity's records with a wanted status, those away included.
    pub fn held(&self, entity: Entity) -> usize {
        let records = self.waiting.keys().chain(&self.away);
        records.filter(|record| record.entity == entity).count()
    }

    /// Takes in an outcome; only the newest version of a record stays, by its newest delivery: nobody may count on an older one
    /// any more.
    pub fn insert(&mut self, mut held: Held<D>) -> Option<Displaced<D>> {
        let record = held.record();
        let Some(mut known) = self.waiting.remove(&record) else {
            self.waiting.insert(record, held);
            return None;
        };
        let (mut kept, displaced) = match held.wanted.version.cmp(&known.wanted.version) {
            std::cmp::Ordering::Greater => {
                held.arrived = held.arrived.min(known.arrived);
                (held, Displaced::Older(known))
            }
            std::cmp::Ordering::Equal => {
                std::mem::swap(&mut known.delivery, &mut held.delivery);
                (known, Displaced::Same(held))
            }
            std::cmp::Ordering::Less => (known, Displaced::Older(held)),
        };
        let (Displaced::Older(other) | Displaced::Same(other)) = &displaced;
        let was_written = other.look_first || other.unkept > 0;
        if was_written && matches!(displaced, Displaced::Older(_)) && other.wanted.text != kept.wanted.text {
            // A list that lags behind may still show what stood there before the other text, so no look tells.
            (kept.repair, kept.look_first) = (true, false);
        } else {
            kept.look_first |= other.look_first;
            kept.repair |= other.repair;
        }
        if other.fence.sequence > kept.fence.sequence {
            (kept.fence, kept.fence_read) = (other.fence.clone(), other.fence_read);
        }
        // Whatever failed with another version may be the record's own.
        kept.tried = kept.tried.max(other.tried);
        kept.refused = kept.refused.max(other.refused);
        kept.failed_batches = kept.failed_batches.max(other.failed_batches);
        let is_of_one_text = other.wanted.text == kept.wanted.text;
        if matches!(displaced, Displaced::Older(_)) && is_of_one_text && other.unkept_in_all() > 0 {
            kept.inherit(other.unkept_in_all(), other.last_unkept);
        }
        kept.follow_newer();
        self.waiting.insert(record, kept);
        Some(displaced)
    }

    /// Notes that an update of a record was given up, and may still be applied until then.
    pub fn doubt(&mut self, record: RecordRef, text: String, until: Instant, now: Instant) {
        self.doubts.retain(|_, doubt| doubt.until > now);
        let doubt = self.doubts.entry(record).or_insert_with(|| Doubt { text: Some(text.clone()), until });
        doubt.until = doubt.until.max(until);
        doubt.text.take_if(|known| *known != text);
    }

    /// Notes that a text was given up, which counts until then.
    pub fn note_dropped(&mut self, dropped: Dropped, until: Instant, now: Instant) {
        self.dropped.retain(|_, (_, until)| *until > now);
        self.dropped.insert(dropped.record, (dropped, until));
    }

    /// Returns until when an update of another text may still be applied.
    fn in_doubt(&self, held: &Held<D>, now: Instant) -> Option<Instant> {
        let doubt = self.doubts.get(&held.record()).filter(|doubt| doubt.until > now)?;
        (doubt.text.as_ref() != Some(&held.wanted.text)).then_some(doubt.until)
    }

    /// Takes back what was picked and not settled.
    pub fn give_back(&mut self, held: Held<D>) -> Option<Displaced<D>> {
        let record = held.record();
        self.away.remove(&record);
        // What came meanwhile is the newer delivery.
        let came = self.waiting.remove(&record);
        self.waiting.insert(record, held);
        came.and_then(|came| self.insert(came))
    }

    /// Notes that a picked record is done with, and its newest settled status where it is known.
    pub fn finish(&mut self, record: RecordRef, fence: Option<Fence>, now: Instant) {
        self.away.remove(&record);
        self.suspects.remove(&record);
        if let (Some(held), Some(fence)) = (self.waiting.get_mut(&record), fence) {
            held.refence(fence, now);
            // Whom it waited for may have been this one.
            held.not_before = held.not_before.min(now);
        }
    }

    /// Forgets which batches were cut off: it is known over whom.
    pub fn forget_batches(&mut self, batches: &[Instant]) {
        for held in self.waiting.values_mut() {
            held.cut_off.take_if(|(batch, _)| batches.contains(batch));
        }
    }

    /// Has a record dealt with in such company at most until it is finished.
    pub fn suspect(&mut self, record: RecordRef, company: usize) {
        let suspect = self.suspects.entry(record).or_insert(Suspect { company, panics: 0 });
        suspect.company = suspect.company.min(company);
    }

    /// Notes that the handling of these records panicked; what was held of them is gone and comes again.
    pub fn note_panic(&mut self, records: &[RecordRef]) {
        // Bounded by what can be away at once, over and over only for what keeps panicking.
        for record in records {
            self.away.remove(record);
            let suspect = self.suspects.entry(*record).or_insert(Suspect { company: ALONE, panics: 0 });
            suspect.panics = suspect.panics.saturating_add(1);
            suspect.company = ALONE;
        }
    }

    /// Returns with how many others a record may be dealt with.
    pub fn company_of(&self, record: RecordRef) -> usize {
        self.suspects.get(&record).map_or(usize::MAX, |suspect| suspect.company)
    }

    /// Forgets how often the handling of a record panicked: the version that did so is given up.
    pub fn forgive(&mut self, record: RecordRef) {
        self.suspects.remove(&record);
    }

    /// Returns how often the handling of a record panicked.
    pub fn panics(&self, record: RecordRef) -> u8 {
        self.suspects.get(&record).map_or(0, |suspect| suspect.panics)
    }

    /// Returns the number of an entity's records that can be dealt with, and when the first of them came.
    pub fn ready(&self, entity: Entity, now: Instant) -> (usize, Option<Instant>) {
        let ready = self.at_hand(entity).filter(|held| held.not_before <= now);
        ready.fold((0, None), |(count, first), held| {
            let first = first.map_or(held.arrived, |first: Instant| first.min(held.arrived));
            (count + 1, Some(first))
        })
    }

    /// Returns when the next of an entity's records that wait for their time can be dealt with.
    pub fn next_ready(&self, entity: Entity, now: Instant) -> Option<Instant> {
        self.at_hand(entity).map(|held| held.not_before).filter(|moment| *moment > now).min()
    }

    /// Returns the records of an entity of which a round may begin. Of those over which the stage may die one is away at a
    /// time, so that nobody is blamed for a neighbour.
    fn at_hand(&self, entity: Entity) -> impl Iterator<Item = &Held<D>> {
        let is_suspect = |record: &RecordRef| self.suspects.contains_key(record);
        let is_one_away = !self.suspects.is_empty() && self.away.iter().any(is_suspect);
        self.waiting.values().filter(move |held| {
            let record = held.record();
            let has_to_wait = is_one_away && is_suspect(&record);
            record.entity == entity && !self.away.contains(&record) && !has_to_wait
        })
    }

    /// Picks up to `most` records of an entity to write, and what turns out to need no writing meanwhile.
    pub fn pick(&mut self, entity: Entity, most: usize, now: Instant) -> Picked<D> {
        let order = self.order(entity, now);
        self.take(order, most, now)
    }

    /// Picks what is to show whether statuses stand: a record that had no trouble, or another one than this, and one to be looked
    /// at again.
    ///
    /// A trouble may be the one's own, and a list that lags behind speaks against every new write.
    pub fn pick_for_trial(&mut self, entity: Entity, now: Instant) -> Picked<D> {
        let mut order = self.order(entity, now);
        // By turns, or one of them might fail each time and keep the others from theirs.
        order.sort_by_key(|record| {
            let troubled = self.waiting.get(record).filter(|held| held.is_troubled())?;
            Some(troubled.tried)
        });
        let is_unkept =
            |record: &RecordRef| self.waiting.get(record).is_some_and(|held| held.unkept_in_all() > 0);
        let (unkept, others): (Vec<_>, Vec<_>) = order.into_iter().partition(is_unkept);
        let trial = [others.first(), unkept.first()].into_iter().flatten().copied().collect();
        self.take(trial, 2, now)
    }

    fn take(&mut self, order: Vec<RecordRef>, most: usize, now: Instant) -> Picked<D> {
        let (mut picked, mut most, mut suspects) = (Picked::nothing(), most, 0);
        for record in order {
            if picked.write.len() >= most {
                break;
            }
            let company = self.suspects.get(&record).map(|suspect| suspect.company);
            let is_fit = match company {
                // All of them or none.
                Some(company) => picked.is_empty() || (suspects > 0 && suspects < company),
                None => suspects == 0,
            };
            if !is_fit {
                continue;
            }
            let Some(mut held) = self.waiting.remove(&record) else { continue };
            if let Some((known, _)) = self
                .dropped
                .get(&record)
                .filter(|(known, until)| *until > now && known.text == held.wanted.text && !held.is_settled())
            {
                held.inherit(known.updates, known.last);
            }
            let decision = held.decide();
            held.in_doubt = self.in_doubt(&held, now);
            if let (Decision::Write, true, Some(until)) = (decision, held.is_settled(), held.in_doubt) {
                // Before that no look tells, and nobody waits for it.
                held.not_before = until;
                self.waiting.insert(record, held);
                continue;
            }
            self.away.insert(record);
            if company.is_none_or(|company| company > ALONE) && held.refused.is_none() {
                self.others_tried.insert(record.entity, now);
            }
            held.tried = Some(now);
            match decision {
                Decision::Superseded => picked.superseded.push(held),
                Decision::AlreadyShown(seen) => picked.shown.push((held, seen)),
                Decision::Look => {
                    held.look_first = true;
                    picked.write.push(held);
                }
                Decision::Write => picked.write.push(held),
            }
            if let Some(company) = company {
                suspects += 1;
                most = most.min(company);
            }
            if suspects >= most {
                break;
            }
        }
        picked
    }

    /// Returns the ready records: by turns the one that was edited last, and the one that waits longest.
    ///
    /// People look at what they have just edited, and nobody is to wait for ever. Suspects and whoever failed alone come last and
    /// by turns: one of them may fail each time, and only another one that is written shows that it is to blame. Where
    /// others never end, each has a turn when it is overdue.
    fn order(&self, entity: Entity, now: Instant) -> Vec<RecordRef> {
        let mut ready: Vec<&Held<D>> = self.at_hand(entity).filter(|held| held.not_before <= now).collect();
        let key = |held: &Held<D>| (held.arrived, held.wanted.version);
        ready.sort_by_key(|held| key(held));
        let mut by_edit = ready.clone();
        by_edit.sort_by_key(|held| Reverse(held.wanted.shown.observed));
        let mut seen = HashSet::new();
        let mut order: Vec<RecordRef> = by_edit
            .iter()
            .zip(&ready)
            .flat_map(|(edited, waiting)| [edited.record(), waiting.record()])
            .filter(|record| seen.insert(*record))
            .collect();
        // Those of a batch that was cut off in its order: where it got stuck, the first that does not show is why.
        order.sort_by_key(|record| {
            let cut_off = self.waiting.get(record).and_then(|held| held.cut_off);
            (cut_off.is_none(), cut_off)
        });
        order.sort_by_key(|record| {
            let others = (1, Reverse(usize::MAX), None);
            let Some(held) = self.waiting.get(record) else { return others };
            let suspect = self.suspects.get(record);
            if suspect.is_none() && held.refused.is_none() {
                return others;
            }
            let last_turn = held.tried.unwrap_or(held.arrived);
            // The pauses after its failures may be as long, and then it would go first each time.
            let is_overdue =
                now >= last_turn + self.overdue && self.others_tried.get(&entity) > Some(&last_turn);
            let place = if is_overdue { 0 } else { 2 };
            (place, Reverse(suspect.map_or(ALONE, |suspect| suspect.company)), held.tried)
        });
        order
    }

    /// Gives everything away that is at hand, as the stage is to stop.
    pub fn clear(&mut self) -> Vec<Held<D>> {
        self.waiting.drain().map(|(_, held)| held).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::{at, wanted};
    use crate::decide::{LATEST_UPDATE, Unkept, decide_unkept};
    use crate::line::MINUTE;
    use proptest::prelude::*;
    use schemas::{RecordId, Version};

    fn held(id: u64, raw_sequence: u64, text: &str, observed: i64, arrived: Instant) -> Held<u64> {
        Held::new(wanted(id, raw_sequence, text, Some(""), observed), raw_sequence, Fence::default(), arrived)
    }

    fn ids(picked: &Picked<u64>) -> Vec<u64> {
        picked.write.iter().map(|held| held.record().id.get()).collect()
    }

    #[test]
    fn only_the_newest_version_of_a_record_stays() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        assert!(desk.insert(held(1, 5, "A", 0, now)).is_none());
        assert!(matches!(
            desk.insert(held(1, 4, "old", 0, now)),
            Some(Displaced::Older(old)) if old.delivery == 4
        ));
        assert!(matches!(desk.insert(held(1, 5, "A", 0, now)), Some(Displaced::Same(_))));
        assert!(matches!(
            desk.insert(held(1, 6, "B", 0, now)),
            Some(Displaced::Older(old)) if old.delivery == 5
        ));
        assert_eq!(desk.len(), 1);
        assert_eq!(desk.pick(Entity::Contact, 9, now).write[0].wanted.text, "B");
    }

    #[test]
    fn a_record_that_is_away_is_not_picked_again() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        desk.insert(held(1, 5, "A", 0, now));
        let mut picked = desk.pick(Entity::Contact, 9, now);
        desk.insert(held(1, 6, "B", 0, now));
        assert!(desk.pick(Entity::Contact, 9, now).is_empty());
        let back = desk.give_back(picked.write.remove(0));
        assert!(matches!(back, Some(Displaced::Older(old)) if old.delivery == 5));
        assert_eq!(ids(&desk.pick(Entity::Contact, 9, now)), [1]);
    }

    #[test]
    fn what_is_left_of_a_batch_that_was_cut_off_comes_first_in_its_order() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        for id in 1..=6 {
            let cut_off = [None, Some(2), None, Some(0), None, Some(1)][id as usize - 1];
            let cut_off = cut_off.map(|place| (now, place));
            desk.insert(Held { cut_off, ..held(id, id, "A", id as i64, now) });
        }
        assert_eq!(ids(&desk.pick(Entity::Contact, 3, now)), [4, 6, 2]);
    }

    #[test]
    fn of_one_version_the_newest_delivery_stays_with_all_that_is_known() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        let delivered = |delivery| Held { delivery, ..held(1, 5, "A", 0, now) };
        let mut failed = delivered(1);
        failed.failures = 2;
        desk.insert(failed);
        assert!(matches!(desk.insert(delivered(2)), Some(Displaced::Same(old)) if old.delivery == 1));
        let picked = desk.pick(Entity::Contact, 9, now).write.remove(0);
        desk.insert(delivered(3));
        assert!(matches!(desk.give_back(picked), Some(Displaced::Same(old)) if old.delivery == 2));
        let left = desk.pick(Entity::Contact, 9, now).write.remove(0);
        assert_eq!((left.delivery, left.failures), (3, 2));
    }

    #[test]
    fn the_latest_edit_and_the_longest_wait_take_turns() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        for id in 1..=9 {
            desk.insert(held(id, id, "A", id as i64, now + Duration::from_secs(id)));
        }
        let later = now + Duration::from_secs(60);
        assert_eq!(ids(&desk.pick(Entity::Contact, 4, later)), [9, 1, 8, 2]);
        assert!(desk.pick(Entity::Deal, 4, later).is_empty());
    }

    #[test]
    fn what_has_to_wait_is_not_ready() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        let mut later = held(1, 5, "A", 0, now);
        later.not_before = now + Duration::from_secs(2);
        desk.insert(later);
        assert_eq!(desk.ready(Entity::Contact, now), (0, None));
        assert_eq!(desk.next_ready(Entity::Contact, now), Some(now + Duration::from_secs(2)));
        assert!(desk.pick(Entity::Contact, 9, now).is_empty());
    }

    #[test]
    fn a_record_that_panics_is_dealt_with_alone() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        let record = |id| RecordRef::contact(RecordId::try_new(id).unwrap());
        desk.note_panic(&[record(1)]);
        for id in 1..=3 {
            desk.insert(held(id, id, "A", 0, now));
        }
        let others = ids(&desk.pick(Entity::Contact, 9, now));
        assert!(others.len() == 2 && !others.contains(&1));
        assert_eq!(ids(&desk.pick(Entity::Contact, 9, now)), [1]);
        assert_eq!(desk.panics(record(1)), 1);
        desk.finish(record(1), None, now);
        assert_eq!(desk.panics(record(1)), 0);
    }

    #[test]
    fn of_several_over_which_the_stage_may_die_one_is_dealt_with_at_a_time() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        let record = |id| RecordRef::contact(RecordId::try_new(id).unwrap());
        for id in 1..=3 {
            desk.suspect(record(id), ALONE);
            desk.insert(held(id, id, "A", 0, now));
        }
        let first = ids(&desk.pick(Entity::Contact, 9, now));
        assert_eq!(first.len(), 1);
        assert!(desk.pick(Entity::Contact, 9, now).is_empty());
        assert_eq!(desk.ready(Entity::Contact, now), (0, None), "or rounds would begin without end");
        desk.finish(record(first[0]), None, now);
        assert_eq!(ids(&desk.pick(Entity::Contact, 9, now)).len(), 1);
    }

    /// Picks one record after the other and gives each back as one that failed alone.
    fn fail_in_turn(desk: &mut Desk<u64>, start: Instant, seconds: std::ops::Range<u64>) -> Vec<u64> {
        let mut tried = Vec::new();
        for second in seconds {
            let now = start + Duration::from_secs(second);
            let mut failed = desk.pick(Entity::Contact, 1, now).write.remove(0);
            tried.push(failed.record().id.get());
            failed.refused = Some(now);
            assert!(desk.give_back(failed).is_none());
        }
        tried
    }

    #[test]
    fn suspects_that_fail_have_their_tries_by_turns() {
        let (mut desk, start) = (Desk::new(MINUTE), Instant::now());
        for id in 1..=3 {
            desk.suspect(contact(id), ALONE);
            desk.insert(held(id, id, "A", 0, start));
        }
        let tried = fail_in_turn(&mut desk, start, 1..7);
        assert_eq!(tried[..3], tried[3..]);
        let all: HashSet<u64> = tried.into_iter().collect();
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn who_failed_alone_lets_suspects_go_first_also_with_a_newer_version() {
        let (mut desk, start) = (Desk::new(MINUTE), Instant::now());
        desk.insert(held(1, 1, "A", 0, start));
        assert_eq!(fail_in_turn(&mut desk, start, 1..2), [1]);
        desk.suspect(contact(2), ALONE);
        desk.insert(held(2, 2, "A", 0, start));
        desk.insert(held(1, 3, "B", 9, start + Duration::from_secs(2)));
        assert_eq!(ids(&desk.pick(Entity::Contact, 9, start + Duration::from_secs(3))), [2]);
    }

    #[test]
    fn where_others_never_end_a_suspect_has_a_turn_a_minute() {
        let (mut desk, start) = (Desk::new(MINUTE), Instant::now());
        for id in 1..=9 {
            desk.insert(held(id, id, "A", 0, start));
        }
        desk.suspect(contact(1), ALONE);
        let soon = ids(&desk.pick(Entity::Contact, 4, start + MINUTE / 2));
        assert!(soon.len() == 4 && !soon.contains(&1));
        assert_eq!(ids(&desk.pick(Entity::Contact, 4, start + MINUTE)), [1]);
    }

    #[test]
    fn a_suspect_after_whose_failures_all_pause_for_longer_does_not_go_first_each_time() {
        let (mut desk, start) = (Desk::new(MINUTE), Instant::now());
        desk.insert(held(1, 1, "A", 0, start));
        desk.suspect(contact(1), ALONE);
        let alone = desk.pick(Entity::Contact, 4, start).write.remove(0);
        desk.give_back(alone);
        desk.insert(held(2, 2, "A", 0, start + MINUTE));
        assert_eq!(ids(&desk.pick(Entity::Contact, 4, start + MINUTE * 2)), [2]);
    }

    #[test]
    fn turns_of_the_other_entity_make_no_suspect_overdue() {
        let (mut desk, start) = (Desk::new(MINUTE), Instant::now());
        desk.insert(held(1, 1, "A", 0, start));
        desk.insert(held(2, 2, "A", 0, start));
        desk.suspect(contact(1), ALONE);
        let deal = RecordRef::deal(RecordId::try_new(1).unwrap());
        let mut of_deal = held(3, 3, "A", 0, start);
        of_deal.wanted.envelope.record = deal;
        desk.insert(of_deal);
        assert_eq!(desk.pick(Entity::Deal, 4, start + MINUTE / 2).records(), [deal]);
        assert_eq!(ids(&desk.pick(Entity::Contact, 4, start + MINUTE * 2)), [2]);
    }

    #[test]
    fn who_had_another_trouble_has_a_turn_beside_one_that_does_not_keep_its_text() {
        let (mut desk, start) = (Desk::new(MINUTE), Instant::now());
        let [mut unkept, mut refused] = [1, 2].map(|id| held(id, id, "A", 0, start));
        (unkept.unkept, refused.refused) = (1, Some(start));
        desk.insert(unkept);
        desk.insert(refused);
        let mut tried = ids(&desk.pick_for_trial(Entity::Contact, start));
        tried.sort_unstable();
        assert_eq!(tried, [1, 2]);
    }

    #[test]
    fn trials_of_records_that_had_trouble_go_by_turns() {
        let (mut desk, start) = (Desk::new(MINUTE), Instant::now());
        for id in 1..=3 {
            let mut unkept = held(id, id, "A", id as i64, start);
            unkept.unkept = 1;
            desk.insert(unkept);
        }
        let mut tried = Vec::new();
        for second in 1..=6 {
            let now = start + Duration::from_secs(second);
            let held = desk.pick_for_trial(Entity::Contact, now).write.remove(0);
            tried.push(held.record().id.get());
            assert!(desk.give_back(held).is_none());
        }
        assert_eq!(tried[..3], tried[3..]);
        tried.sort_unstable();
        assert_eq!(tried, [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn whoever_was_in_hand_at_a_death_is_dealt_with_in_ever_smaller_company() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        for (id, deaths) in (1..=20).map(|id| (id, 1)).chain([(21, 2), (22, 2), (23, 2), (24, 3)]) {
            desk.suspect(contact(id), company(deaths));
            desk.insert(held(id, id, "A", 0, now));
        }
        desk.insert(held(30, 30, "A", 0, now));
        let mut sizes = Vec::new();
        loop {
            let picked = desk.pick(Entity::Contact, 49, now);
            let records = picked.records();
            let Some(least) = records.iter().map(|record| desk.company_of(*record)).min() else { break };
            assert!(records.len() <= least, "{records:?}");
            sizes.push(records.len());
            records.into_iter().for_each(|record| desk.finish(record, None, now));
        }
        assert_eq!((sizes[0], sizes.iter().sum::<usize>()), (1, 25), "those without suspicion go first");
        assert!(sizes.len() <= 8, "{sizes:?}");
    }

    fn settled(raw_sequence: u64, text: &str, how: StatusSettled) -> Fence {
        let version = Version { raw_sequence, redrive: 0 };
        Fence { sequence: 1, last: Some(Settled { version, text: text.into(), how, settled: at(10) }) }
    }

    #[test]
    fn a_lost_answer_casts_doubt_on_what_a_newer_version_saw() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        let outcome = |version, text: &str| {
            let wanted = wanted(1, version, text, Some("E"), 20);
            Held::new(wanted, version, settled(3, "E", StatusSettled::Written), now)
        };
        desk.insert(outcome(4, "Успешно"));
        let mut sent = desk.pick(Entity::Contact, 9, now).write.remove(0);
        desk.insert(outcome(5, "E"));
        sent.look_first = true;
        desk.give_back(sent);
        let picked = desk.pick(Entity::Contact, 9, now);
        assert!(picked.shown.is_empty());
        assert!(!picked.write[0].look_first && picked.write[0].wanted.text == "E", "a list may lag");
    }

    #[test]
    fn a_redelivery_behind_a_newer_status_puts_that_one_right() {
        let now = Instant::now();
        let again = |fence| Held::new(wanted(1, 4, "Успешно", Some(""), 0), 4, fence, now).redelivered();
        for how in [StatusSettled::AlreadyShown, StatusSettled::Written] {
            let held = again(settled(5, "E", how));
            assert_eq!((held.decide(), held.wanted.text.as_str()), (Decision::Write, "E"));
        }
        for nothing_to_do in
            [settled(5, "E", StatusSettled::RecordGone), settled(4, "Успешно", StatusSettled::Written)]
        {
            assert_eq!(again(nothing_to_do).decide(), Decision::Superseded);
        }
    }

    #[test]
    fn a_redelivery_learns_of_a_newer_status_that_is_settled_while_it_waits() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        let newer = Held::new(wanted(1, 5, "E", Some("E"), 0), 5, Fence::default(), now);
        desk.insert(newer);
        assert_eq!(desk.pick(Entity::Contact, 9, now).shown.len(), 1);
        desk.insert(held(1, 4, "Успешно", 0, now).redelivered());
        let fence = settled(5, "E", StatusSettled::AlreadyShown);
        desk.finish(RecordRef::contact(RecordId::try_new(1).unwrap()), Some(fence), now);
        let picked = desk.pick(Entity::Contact, 9, now);
        assert!(picked.write[0].look_first && picked.write[0].wanted.text == "E");
    }

    fn contact(id: u64) -> RecordRef {
        RecordRef::contact(RecordId::try_new(id).unwrap())
    }

    #[test]
    fn a_redelivery_behind_a_newer_status_waits_until_nothing_older_can_come() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        let end = now + LATEST_UPDATE;
        let fence = settled(5, "E", StatusSettled::Written);
        desk.doubt(contact(1), "Успешно".into(), end, now);
        desk.insert(Held::new(wanted(1, 4, "Успешно", Some(""), 0), 4, fence, now).redelivered());
        desk.insert(held(2, 4, "A", 0, now));
        assert_eq!(ids(&desk.pick(Entity::Contact, 9, now)), [2], "a neighbour waits for nobody");
        assert_eq!(desk.next_ready(Entity::Contact, now), Some(end));
        let mut picked = desk.pick(Entity::Contact, 9, end);
        let mut last = picked.write.remove(0);
        assert!(last.look_first && last.wanted.text == "E" && !last.look_again());
    }

    #[test]
    fn what_is_settled_while_an_older_text_may_still_come_is_looked_at_once_more() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        let end = now + LATEST_UPDATE;
        for id in [1, 2] {
            desk.doubt(contact(id), "A".into(), end, now);
        }
        desk.insert(held(1, 5, "B", 0, now));
        for (id, text) in [(2, "A"), (3, "B")] {
            desk.insert(held(id, 5, text, 0, now));
        }
        let mut picked = desk.pick(Entity::Contact, 9, now);
        assert_eq!(picked.write.len(), 3, "nobody waits for the first writing");
        picked.write.sort_by_key(Held::record);
        let [mut first, mut same_text, mut undoubted] = picked.write.try_into().unwrap();
        assert!(!same_text.look_again() && !undoubted.look_again());
        first.fence = settled(5, "B", StatusSettled::Written);
        assert!(first.look_again());
        desk.give_back(first);
        assert!(desk.pick(Entity::Contact, 9, now).is_empty());
        let mut again = desk.pick(Entity::Contact, 9, end).write.remove(0);
        assert!(again.look_first && again.decide() == Decision::Write && !again.look_again());
    }

    #[test]
    fn of_several_texts_that_may_still_come_none_is_harmless() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        for (text, seconds) in [("A", 60), ("B", 10)] {
            desk.doubt(contact(1), text.into(), now + Duration::from_secs(seconds), now);
        }
        desk.insert(held(1, 5, "B", 0, now));
        assert_eq!(desk.pick(Entity::Contact, 9, now).write[0].in_doubt, Some(now + Duration::from_secs(60)));
    }

    #[test]
    fn a_text_that_the_portal_drops_is_not_written_for_ever_although_each_update_makes_a_version() {
        let (mut desk, start) = (Desk::new(MINUTE), Instant::now());
        let (mut version, mut updates, mut known_updates) = (5, 0, 0);
        desk.insert(held(1, version, "A", 0, start));
        for seconds in 0..86_400 {
            let now = start + Duration::from_secs(seconds);
            // An update moves the modification date and leaves the field empty, which a poll takes for news.
            if seconds % 60 == 59 && updates > known_updates {
                (version, known_updates) = (version + 1, updates);
                desk.insert(held(1, version, "A", 0, now));
            }
            let Some(mut sent) = desk.pick(Entity::Contact, 1, now).write.pop() else { continue };
            let since = sent.last_unkept.map(|at| now - at).unwrap_or_default();
            match decide_unkept(sent.unkept, sent.unkept_before, since) {
                Unkept::Write => {
                    updates += 1;
                    (sent.unkept, sent.last_unkept, sent.look_first) = (sent.unkept + 1, Some(now), true);
                    sent.not_before = now + Duration::from_secs(2);
                }
                Unkept::LookAfter(left) => sent.not_before = now + left,
                Unkept::GiveUp => break,
            }
            desk.give_back(sent);
        }
        assert_eq!(
            (updates, known_updates),
            (6, 6),
            "the last version is given up, and no update makes another one"
        );
    }

    #[test]
    fn what_was_given_up_counts_for_a_while_for_the_version_that_it_made() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        let until = now + Duration::from_secs(3_600);
        for id in [1, 2] {
            let dropped = Dropped { record: contact(id), text: "A".into(), updates: 2, last: Some(now) };
            desk.note_dropped(dropped, until, now);
        }
        desk.insert(held(1, 6, "A", 0, now));
        desk.insert(held(2, 6, "B", 0, now));
        let picked = desk.pick(Entity::Contact, 9, now).write;
        let counts = |held: &Held<u64>| (held.record().id.get(), held.unkept_in_all(), held.look_first);
        let mut counted: Vec<_> = picked.iter().map(counts).collect();
        counted.sort_unstable();
        assert_eq!(counted, [(1, 2, true), (2, 0, false)]);
        let mut later = Desk::new(MINUTE);
        let dropped = Dropped { record: contact(1), text: "A".into(), updates: 2, last: Some(now) };
        later.note_dropped(dropped, until, now);
        later.insert(held(1, 6, "A", 0, until));
        assert_eq!(later.pick(Entity::Contact, 9, until).write[0].unkept_in_all(), 0);
    }

    #[test]
    fn another_text_is_another_matter() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        let mut unkept = held(1, 5, "A", 0, now);
        (unkept.unkept, unkept.last_unkept) = (2, Some(now));
        desk.insert(unkept);
        desk.insert(held(1, 6, "B", 0, now));
        assert_eq!(desk.pick(Entity::Contact, 9, now).write[0].unkept_before, 0);
    }

    #[test]
    fn a_trial_is_left_to_a_record_that_had_no_trouble() {
        let (mut desk, now) = (Desk::new(MINUTE), Instant::now());
        let mut refused = held(2, 2, "A", 9, now);
        refused.refused = Some(now);
        desk.insert(refused);
        assert_eq!(ids(&desk.pick_for_trial(Entity::Contact, now)), [2]);
        let mut unkept = held(3, 3, "A", 9, now);
        unkept.unkept = 1;
        desk.insert(unkept);
        desk.insert(held(1, 1, "A", 0, now + Duration::from_secs(1)));
        assert_eq!(ids(&desk.pick_for_trial(Entity::Contact, now + Duration::from_secs(2))), [1, 3]);
    }

    /// A record as the portal and the status stream have it.
    #[derive(Default)]
    struct Record {
        field: String,
        fence: Fence,
        written: Vec<u64>,
    }

    impl Record {
        fn write(&mut self, held: &Held<u64>) {
            if held.look_first && self.field == held.wanted.text {
                return;
            }
            let version = held.newer_settled().map_or(held.wanted.version, |newer| newer.version);
            self.field = held.wanted.text.clone();
            self.written.push(version.raw_sequence);
        }

        /// Does what a round does, in one go; returns what is to be looked at once more.
        fn settle(&mut self, mut held: Held<u64>, how: StatusSettled, clock: i64) -> Option<Held<u64>> {
            if how == StatusSettled::Written {
                self.write(&held);
            }
            if !held.is_settled() {
                let last = Settled {
                    version: held.wanted.version,
                    text: held.wanted.text.clone(),
                    how,
                    settled: at(clock),
                };
                self.fence = Fence { sequence: self.fence.sequence + 1, last: Some(last) };
                held.fence = self.fence.clone();
            }
            held.look_again().then_some(held)
        }
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_of_outcomes_ends_with_the_newest_text(
            texts in proptest::collection::vec("[ab]", 1..8),
            steps in proptest::collection::vec((0usize..8, 0u8..7), 1..60),
        ) {
            /// How much later an update may be applied that was given up.
            const LATEST: u64 = 9;
            let (mut desk, now, mut record) = (Desk::new(MINUTE), Instant::now(), Record::default());
            let moment = |clock: u64| now + Duration::from_secs(clock);
            // Each version was read before any of its statuses was written, or after all of the ones before.
            let outcome = |index: usize, fence: &Fence| {
                let wanted = wanted(1, index as u64 + 1, &texts[index], Some(""), 0);
                Held::new(wanted, index as u64, fence.clone(), now)
            };
            let mut away: Vec<Held<u64>> = Vec::new();
            let mut late: Vec<(u64, String)> = Vec::new();
            let mut clock = 1_u64;
            let every = (0..texts.len()).map(|index| (index, 3));
            let rest = [(0, 6), (0, 1), (0, 2), (0, 1), (0, 2)];
            for (index, action) in steps.into_iter().chain(every).chain(rest).chain(rest) {
                clock += if action == 6 { LATEST } else { 1 };
                late.retain(|(due, text)| {
                    if *due <= clock {
                        record.field.clone_from(text);
                    }
                    *due > clock
                });
                match action {
                    // A batch comes back undone, applied with its answer lost, given up and applied later, or with success.
                    0 => if let Some(held) = away.pop() {
                        desk.give_back(held);
                    },
                    4 => if let Some(mut held) = away.pop() {
                        record.write(&held);
                        held.look_first = true;
                        desk.give_back(held);
                    },
                    5 => if let Some(mut held) = away.pop() {
                        let text = held.wanted.text.clone();
                        late.push((clock + 1 + index as u64, text.clone()));
                        desk.doubt(held.record(), text, moment(clock + LATEST), moment(clock));
                        held.look_first = true;
                        desk.give_back(held);
                    },
                    2 => if let Some(held) = away.pop() {
                        let contact = held.record();
                        match record.settle(held, StatusSettled::Written, clock as i64) {
                            None => desk.finish(contact, Some(record.fence.clone()), now),
                            Some(held) => { desk.give_back(held); }
                        }
                    },
                    1 => {
                        let picked = desk.pick(Entity::Contact, 1, moment(clock));
                        for (held, _) in picked.shown {
                            let contact = held.record();
                            match record.settle(held, StatusSettled::AlreadyShown, clock as i64) {
                                None => desk.finish(contact, Some(record.fence.clone()), now),
                                Some(held) => { desk.give_back(held); }
                            }
                        }
                        for held in &picked.superseded {
                            desk.finish(held.record(), Some(record.fence.clone()), now);
                        }
                        away.extend(picked.write);
                    }
                    6 => {}
                    _ => {
                        desk.insert(outcome(index % texts.len(), &record.fence));
                    }
                }
            }
            prop_assert!(away.is_empty() && desk.is_empty());
            prop_assert_eq!(&record.field, texts.last().unwrap());
            prop_assert!(record.written.is_sorted(), "{:?}", record.written);
            let newest = record.fence.last.unwrap().version;
            prop_assert_eq!(newest, Version { raw_sequence: texts.len() as u64, redrive: 0 });
        }
    }
}
