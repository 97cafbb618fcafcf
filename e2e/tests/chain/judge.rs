//! What must hold at rest, by a model of its own: it knows what people said, what Bitrix24 shows and what otmechalka was
//! sent, and nothing of the stages.

use std::collections::BTreeMap;

use e2e::harness::people;
use runtime::simulated::World;
use schemas::Entity;
use schemas::problem::SUCCESS;

use crate::portal::{Content, Key, Portal, StatusWrite, Version};
use crate::shop::Shop;
#[cfg(test)]
use crate::shop::Write;

/// What otmechalka is sent of a pupil.
fn surname(content: Content) -> Option<String> {
    match content {
        Content::Pupil(number) | Content::Unwanted(number) => Some(people::surname(number)),
        _ => None,
    }
}

/// What otmechalka is sent of a deal.
fn price(content: Content) -> Option<String> {
    match content {
        // Its product row is read after its fields, so it may be that of a version whose fields would not do.
        Content::Deal { price, .. }
        | Content::NoBranch { price, .. }
        | Content::OtherBranch { price, .. } => Some(format!("{price}.00")),
        _ => None,
    }
}

/// Returns everything that should not be, now that everything is at rest.
pub fn findings(world: &World, portal: &Portal, shop: &Shop, strays: usize) -> Vec<String> {
    let mut found = portal.offences.clone();
    for key in portal.records.keys() {
        found.extend(of_record(portal, shop, *key));
    }
    found.extend(creates(shop));
    found.extend(order(portal, shop));
    found.extend(echoes(world, portal, strays));
    found.extend(letters(world, portal));
    found
}

/// Nothing that is played here is a reason to give a message up, but that somebody cleared a status between an update
/// and the look at what came of it, more than once.
fn letters(world: &World, portal: &Portal) -> Vec<String> {
    let letters = world.messages(schemas::streams::DEAD_LETTERS.name).into_iter();
    let told = letters.filter_map(|message| {
        let letter = serde_json::from_slice::<schemas::DeadLetter>(&message.payload);
        let reason = letter.map_or_else(|error| error.to_string(), |letter| letter.reason);
        let record = schemas::subjects::record_of(&message.subject);
        let versions = record.and_then(|record| portal.records.get(&(record.entity, record.id.get())));
        let is_cleared = versions
            .into_iter()
            .flatten()
            .skip(1)
            .any(|version| version.by_person && version.status.is_empty());
        let is_reason = is_cleared && reason.ends_with("confirms the status and then shows another text");
        (!is_reason).then(|| format!("a dead letter that nobody expected: {}: {reason}", message.subject))
    });
    told.collect()
}

fn of_record(portal: &Portal, shop: &Shop, key: Key) -> Option<String> {
    let newest = portal.newest(key)?;
    let is_success = newest.status == SUCCESS;
    let says = format!("{key:?} {:?} shows «{}»", newest.content, newest.status);
    let wanted = match key.0 {
        Entity::Contact => contact(shop, key.1, newest.content),
        Entity::Deal => deal(shop, key.1, newest.content),
    };
    match wanted {
        Err(reason) => Some(format!("{says}: {reason}")),
        Ok(Shows::Nothing) if !newest.status.is_empty() => Some(format!("{says}: none of ours")),
        Ok(Shows::Success) if !is_success => Some(format!("{says}: it is a success")),
        Ok(Shows::Problem) if is_success => Some(format!("{says}: it is none")),
        Ok(Shows::Problem) if newest.status.trim().is_empty() => Some(format!("{says}: it has to say why")),
        Ok(_) => None,
    }
}

/// What the status has to be.
enum Shows {
    Success,
    Problem,
    Nothing,
}

fn contact(shop: &Shop, id: u64, content: Content) -> Result<Shows, String> {
    match content {
        Content::Pupil(number) => match shop.clients.get(&id) {
            None => Err("is not in otmechalka".to_owned()),
            Some(name) if *name != people::surname(number) => Err(format!("otmechalka has {name}")),
            Some(_) => Ok(Shows::Success),
        },
        Content::OtherProduct(_) => Ok(Shows::Success),
        _ => Ok(Shows::Problem),
    }
}

fn deal(shop: &Shop, id: u64, content: Content) -> Result<Shows, String> {
    let has_ticket = shop.tickets.contains_key(&id);
    match content {
        Content::Deal { is_won: false, .. } if has_ticket => Err("its ticket is in otmechalka".to_owned()),
        Content::Deal { is_won: false, .. } => Ok(Shows::Nothing),
        // A ticket that is there is left alone, whatever becomes of the deal.
        _ if has_ticket => Ok(Shows::Success),
        Content::Deal { pupil, .. } if shop.clients.contains_key(&pupil) => {
            Err("is not in otmechalka".to_owned())
        }
        Content::OtherBranch { .. } => Ok(Shows::Success),
        _ => Ok(Shows::Problem),
    }
}

/// One create per record.
fn creates(shop: &Shop) -> Vec<String> {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    shop.writes.iter().filter(|write| write.is_create).for_each(|write| {
        *counts.entry(write.origin).or_default() += 1;
    });
    let more = counts.into_iter().filter(|(_, count)| *count > 1);
    more.map(|(origin, count)| format!("{origin} was created {count} times")).collect()
}

/// Every body is a version's, and they come in the order of the edits.
fn order(portal: &Portal, shop: &Shop) -> Vec<String> {
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for write in &shop.writes {
        let key = (if write.is_ticket { Entity::Deal } else { Entity::Contact }, write.origin);
        let place = places.entry(write.origin).or_default();
        let versions = portal.records.get(&key).map(Vec::as_slice).unwrap_or_default();
        let of = |content| if write.is_ticket { price(content) } else { surname(content) };
        // The product row of a deal is read after its fields, so the pupil may be an earlier version's.
        let is_a_pupil = |client| {
            versions
                .iter()
                .any(|version| matches!(version.content, Content::Deal { pupil, .. } if pupil == client))
        };
        if !write.client.is_none_or(is_a_pupil) {
            found.push(format!("{key:?} was never of the pupil {:?}", write.client));
        }
        let says_it = |version: &Version| of(version.content).as_ref() == Some(&write.says);
        match versions.iter().skip(*place).position(says_it) {
            Some(ahead) => *place += ahead,
            None if versions.iter().any(says_it) => {
                found.push(format!("an older version of {key:?} was applied after a newer: {}", write.says));
            }
            None => found.push(format!("{key:?} never said what otmechalka was sent: {}", write.says)),
        }
    }
    found
}

/// Versions on the stream that nobody made. `strays` may be published once more each.
fn echoes(world: &World, portal: &Portal, strays: usize) -> Vec<String> {
    let mut published: BTreeMap<String, usize> = BTreeMap::new();
    for message in world.messages(schemas::streams::RAW.name) {
        *published.entry(message.subject).or_default() += 1;
    }
    let mut found = Vec::new();
    for ((entity, id), versions) in &portal.records {
        let made = versions.iter().filter(|version| version.by_person).count();
        let count = published.get(&format!("b24.raw.{entity}.{id}")).copied().unwrap_or(0);
        // A deal that changes between two requests is read half as it was and half as it is.
        let may_be = made + strays + if *entity == Entity::Deal { made } else { 0 };
        if count > may_be {
            found.push(format!("{entity} {id} has {count} versions published, and people made {made}"));
        }
    }
    found
}

/// How often a text may be written for one version: once more where the answer got lost, or the writer died.
const MOST_WRITES: usize = 2;

/// Follows the statuses of each record from one version to the next.
#[derive(Default)]
pub struct Statuses {
    /// Of each record the first version that its newest status can be of.
    told: BTreeMap<Key, usize>,
    /// How often the newest text of each record was written for what may be one version, although lists showed it.
    repeated: BTreeMap<Key, usize>,
}

impl Statuses {
    /// Tells what is wrong with a status that has just been written: it has to be that of a version which is not older than
    /// the one before, and which otmechalka has, or which is a reason to mark the record.
    ///
    /// `repairs` tells how often a record's version was sent round again over a late call: as another version, which may be
    /// written once more.
    pub fn lie(&mut self, portal: &Portal, shop: &Shop, repairs: impl Fn(Key) -> usize) -> Option<String> {
        let write = portal.writes.last()?;
        let versions = portal.records.get(&write.key)?.get(..write.versions)?;
        if write.text.trim().is_empty() {
            return Some(format!("an empty status was written to {:?}", write.key));
        }
        let is_success = write.text == SUCCESS;
        let fits = |version: &Version| match is_success {
            true => is_held(shop, write.key, version.content),
            false => is_wrong(portal, shop, write, version.content),
        };
        let first = self.told.get(&write.key).copied().unwrap_or(0);
        let Some(ahead) = versions.iter().skip(first).position(fits) else {
            let told = if is_success {
                "called a success before otmechalka had it"
            } else {
                "marked though nothing was wrong with it"
            };
            let when = if versions.iter().any(fits) {
                ", of a version older than the one whose status it showed"
            } else {
                ""
            };
            return Some(format!("{:?} was {told}{when}: {}", write.key, write.text));
        };
        self.told.insert(write.key, first + ahead);
        self.count(portal, write, versions, repairs(write.key))
    }

    /// Counts how often one text is written while nobody edits the record and lists show it.
    fn count(
        &mut self,
        portal: &Portal,
        write: &StatusWrite,
        versions: &[Version],
        repairs: usize,
    ) -> Option<String> {
        let before = portal.writes.iter().rev().skip(1).find(|before| before.key == write.key);
        let is_again = before.is_some_and(|before| {
            before.text == write.text
                && !versions.iter().skip(before.versions).any(|version| version.by_person)
                && versions.get(before.versions).is_some_and(|version| portal.is_readable(version, write.at))
        });
        // Nothing tells whether a version that was read before the clock was set back was read before the text stood, so
        // each of them is written.
        let ahead = versions.iter().filter(|version| version.by_person && portal.is_ahead(version, write.at));
        let most = MOST_WRITES + ahead.count() + repairs;
        let count = self.repeated.entry(write.key).or_default();
        *count = if is_again { *count + 1 } else { 1 };
        (*count > most).then(|| format!("{:?} was written {count} times: {}", write.key, write.text))
    }
}

/// Tells whether otmechalka had a version by now, or need not have it.
fn is_held(shop: &Shop, key: Key, content: Content) -> bool {
    match content {
        Content::OtherProduct(_) | Content::OtherBranch { .. } => true,
        Content::Pupil(_) | Content::Unwanted(_) => {
            let says = surname(content);
            shop.writes
                .iter()
                .any(|write| !write.is_ticket && write.origin == key.1 && Some(&write.says) == says.as_ref())
        }
        Content::NoPhone(_) => false,
        // A ticket that is there is left alone, whatever becomes of the deal.
        Content::Deal { .. } | Content::NoBranch { .. } => shop.tickets.contains_key(&key.1),
    }
}

/// Tells whether a version is a reason to mark its record: it cannot be mapped, is refused, fails alone or has a pupil who is
/// not coming. A pupil whom lists show later than the deal may seem so, and one whose date lies ahead of a clock that was set
/// back: while answers are too large for more than a few records, such pupils are read once the clock has caught up.
fn is_wrong(portal: &Portal, shop: &Shop, write: &StatusWrite, content: Content) -> bool {
    let is_sound = |pupil: u64| {
        let versions = portal.records.get(&(Entity::Contact, pupil)).into_iter().flatten();
        let is_late =
            |version: &Version| (version.by_person && version.was_late) || portal.is_ahead(version, write.at);
        versions.into_iter().all(|version| matches!(version.content, Content::Pupil(_)) && !is_late(version))
            && !shop.was_sick.contains_key(&pupil)
    };
    shop.was_sick.contains_key(&write.key.1)
        || match content {
            Content::Unwanted(_) | Content::NoPhone(_) | Content::NoBranch { .. } => true,
            Content::Pupil(_) | Content::OtherProduct(_) => false,
            Content::Deal { pupil, .. } | Content::OtherBranch { pupil, .. } => !is_sound(pupil),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUPIL: Key = (Entity::Contact, 1);

    /// What is said after a series of edits, of arrivals in otmechalka and of statuses.
    fn said(steps: &[Step]) -> Option<String> {
        let (mut portal, mut shop, mut statuses) = (Portal::new(), Shop::default(), Statuses::default());
        let mut now = chrono::DateTime::UNIX_EPOCH;
        let mut said = None;
        for step in steps {
            now += chrono::Duration::seconds(10);
            match *step {
                Step::Edit(content) => portal.edit(PUPIL, content, now, 0),
                Step::Arrives(number) => shop.writes.push(Write {
                    is_ticket: false,
                    origin: PUPIL.1,
                    is_create: shop.writes.is_empty(),
                    says: people::surname(number),
                    client: None,
                }),
                Step::Status(text) => {
                    let versions = portal.records[&PUPIL].len();
                    portal.show(PUPIL, text, now);
                    portal.writes.push(StatusWrite { at: now, key: PUPIL, text: text.to_owned(), versions });
                    said = statuses.lie(&portal, &shop, |_| 0);
                }
            }
        }
        said
    }

    enum Step {
        Edit(Content),
        Arrives(u32),
        Status(&'static str),
    }

    #[test]
    fn a_success_is_of_a_version_that_otmechalka_has() {
        use Step::{Arrives, Edit, Status};
        let corrected = [
            Edit(Content::Pupil(1)),
            Arrives(1),
            Status(SUCCESS),
            Edit(Content::NoPhone(2)),
            Status("Не заполнено поле «Телефон»."),
            Edit(Content::Pupil(3)),
            Arrives(3),
            Status(SUCCESS),
        ];
        assert_eq!(said(&corrected), None);
        let [first, arrived, shown, mistake, marked, edit, _, success] = corrected;
        let told = said(&[first, arrived, shown, mistake, marked, edit, success]).expect("a lie");
        assert!(told.contains("before otmechalka had it, of a version older"), "{told}");
    }

    #[test]
    fn a_status_is_not_of_a_version_older_than_the_one_before() {
        use Step::{Arrives, Edit, Status};
        let mistake = "Не заполнено поле «Телефон».";
        let told = said(&[
            Edit(Content::NoPhone(1)),
            Edit(Content::Pupil(2)),
            Arrives(2),
            Status(SUCCESS),
            Status(mistake),
        ]);
        assert!(told.expect("a lie").contains("older than the one whose status it showed"));
    }

    #[test]
    fn a_text_that_stands_is_written_twice_at_most() {
        use Step::{Arrives, Edit, Status};
        let twice = [Edit(Content::Pupil(1)), Arrives(1), Status(SUCCESS), Status(SUCCESS)];
        assert_eq!(said(&twice), None);
        let [edit, arrived, once, again] = twice;
        assert!(said(&[edit, arrived, once, again, Status(SUCCESS)]).expect("a lie").contains("3 times"));
    }
}
