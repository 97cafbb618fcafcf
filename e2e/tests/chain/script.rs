//! What happens in a run: a pure function of its seed.

use std::collections::BTreeMap;

use e2e::Stage;
use schemas::Entity;

use crate::chance::Chance;
use crate::portal::{self, Content, Key};
use crate::shop;

/// What a stage finds of its cache after it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    Kept,
    Lost,
    /// As it was when this was last asked for.
    Yesterdays,
}

/// Something that happens. Lengths of time are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A person makes a record or changes it; lists show it so much later.
    Edit(Key, Content, i64),
    /// A person clears the status.
    Clear(Key, i64),
    /// A stage dies so many steps from now and comes back after a while.
    Kill(Stage, u64, u64, Cache),
    /// A stage stands still for a while, another replica at work meanwhile or not.
    Freeze(Stage, u64, bool),
    /// NATS is away for a while.
    NatsAway(u64),
    /// A stage reaches the other end of a stretch of network no more for a while.
    Cut(Stage, Link, u64),
    /// So many answers of NATS get lost.
    LoseAnswers(u32),
    /// The server no longer knows the ids of messages.
    ForgetIds,
    /// A consumer, one of so many, is made anew.
    DeliverAgain(u64),
    /// Bitrix24 is ill for a while.
    PortalIll(portal::Illness, u64),
    /// otmechalka is ill for a while.
    ShopIll(shop::Illness, u64),
    /// The portal's clock jumps by so many seconds.
    Skew(i64),
}

/// A stretch of network that begins at a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// To NATS.
    Nats,
    /// To the CRM that the stage works with.
    Crm,
}

impl Event {
    /// Tells whether it is a fault.
    pub fn is_fault(&self) -> bool {
        !matches!(self, Event::Edit(..) | Event::Clear(..))
    }
}

/// A script.
#[derive(Debug)]
pub struct Script {
    /// Records that are there before anything starts: when they were modified, in seconds before the start; none is the
    /// first moment that is synchronised.
    pub imported: Vec<(Key, Content, Option<i64>)>,
    /// What happens when, in milliseconds after the start.
    pub events: Vec<(u64, Event)>,
    /// Period of the polls, in seconds.
    pub interval: u64,
}

/// How long things happen, in milliseconds.
const SPAN: u64 = 100_000;

/// Period of the polls of most scripts, in seconds, and of those that last for hours.
const INTERVAL: u64 = 10;
pub const LONG_INTERVAL: u64 = 60;

/// One script in so many has something that lasts for minutes or an hour.
const ONE_IN: u64 = 25;

/// When the outage of a script about one begins, in milliseconds.
pub const OUTAGE_BEGINS: u64 = 20_000;

/// Edits during such an outage.
const EDITS_MEANWHILE: u64 = 40;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// Ids of deals begin here, so that no two records share one.
const DEALS: u64 = 1_001;

impl Script {
    /// Makes the script of a seed.
    pub fn of(seed: u64) -> Script {
        let chance = &Chance::of(seed, 0);
        let mut writer = Writer::new(chance);
        let imported = writer.imported();
        let mut events = Vec::new();
        let mut times: Vec<u64> = (0..chance.between(14, 24)).map(|_| chance.below(SPAN)).collect();
        // People save twice, and correct themselves at once.
        let again = times.iter().filter(|_| chance.one_in(5)).map(|at| at + chance.below(1_500));
        let again: Vec<u64> = again.collect();
        times.extend(again);
        times.sort_unstable();
        events.extend(times.into_iter().map(|at| (at, writer.edit())));
        for _ in 0..chance.between(6, 10) {
            // Many early: a first sync is the time at which most is under way.
            let span = if chance.one_in(3) { SPAN / 10 } else { SPAN };
            events.push((chance.below(span), writer.fault()));
        }
        if chance.one_in(3) {
            // The first window is the only one that nothing reaches back into.
            let event =
                Event::Kill(Stage::Producer, chance.between(15, 50), chance.between(50, 5_000), Cache::Kept);
            events.push((1, event));
        }
        // Numbers of their own, so that all other scripts are what they were before there were any.
        let rare = Chance::of(seed, 2);
        if rare.one_in(ONE_IN) {
            events.push((rare.below(SPAN), long_outage(&rare)));
            // A clock that is set back while nobody polls for as long looks as if it had stood still.
            events.retain(|(_, event)| !matches!(event, Event::Skew(..-100)));
        }
        events.sort_by_key(|(at, _)| *at);
        Script { imported, events, interval: INTERVAL }
    }

    /// Makes a script about one outage that lasts so long, in milliseconds, with edits from before it until after it.
    pub fn about(seed: u64, outage: Event, lasts: u64) -> Script {
        let chance = &Chance::of(seed, 0);
        let mut writer = Writer::new(chance);
        let imported = writer.imported();
        let span = OUTAGE_BEGINS + lasts + 2 * OUTAGE_BEGINS;
        let before = (0..5).map(|_| chance.below(OUTAGE_BEGINS));
        let mut times: Vec<u64> = before.chain((0..EDITS_MEANWHILE).map(|_| chance.below(span))).collect();
        times.sort_unstable();
        let mut events: Vec<(u64, Event)> = times.into_iter().map(|at| (at, writer.edit())).collect();
        events.push((OUTAGE_BEGINS, outage));
        events.sort_by_key(|(at, _)| *at);
        Script { imported, events, interval: LONG_INTERVAL }
    }
}

impl Script {
    /// Returns when the last of its outages is over, in milliseconds after the start.
    pub fn mended(&self) -> u64 {
        let end = |(at, event): &(u64, Event)| match event {
            Event::NatsAway(lasts)
            | Event::Cut(_, _, lasts)
            | Event::Freeze(_, lasts, _)
            | Event::PortalIll(_, lasts)
            | Event::ShopIll(_, lasts) => at + lasts,
            _ => *at,
        };
        self.events.iter().map(end).max().unwrap_or(0)
    }
}

/// Something that lasts for ten minutes or an hour.
fn long_outage(chance: &Chance) -> Event {
    let lasts = chance.pick(&[10 * MINUTE, HOUR]);
    let stage = chance.pick(&Stage::ALL);
    match chance.below(5) {
        0 => Event::NatsAway(lasts),
        1 => Event::Cut(stage, Link::Nats, lasts),
        2 => Event::Cut(stage, Link::Crm, lasts),
        3 => Event::Freeze(stage, lasts, chance.one_in(2)),
        _ => Event::ShopIll(shop::Illness::Down, lasts),
    }
}

struct Writer<'c> {
    chance: &'c Chance,
    number: u32,
    contacts: Vec<(u64, Content)>,
    deals: Vec<(u64, Content)>,
    /// What each contact was before.
    before: BTreeMap<u64, Content>,
    jumped_ahead: bool,
}

impl Writer<'_> {
    fn new(chance: &Chance) -> Writer<'_> {
        Writer {
            chance,
            number: 0,
            contacts: Vec::new(),
            deals: Vec::new(),
            before: BTreeMap::new(),
            jumped_ahead: false,
        }
    }

    fn imported(&mut self) -> Vec<(Key, Content, Option<i64>)> {
        let mut all = Vec::new();
        for _ in 0..self.chance.between(3, 7) {
            let modified = match self.chance.below(4) {
                0 => None,
                1 => Some(self.chance.between(1, 100) as i64),
                _ => Some(self.chance.between(1_000, 900_000) as i64),
            };
            let Event::Edit(key, content, _) = self.new_contact() else { continue };
            all.push((key, content, modified));
            if self.chance.one_in(2)
                && let Event::Edit(key, content, _) = self.new_deal()
            {
                all.push((key, content, Some(self.chance.between(1_000, 900_000) as i64)));
            }
        }
        all
    }

    fn late(&self) -> i64 {
        // Together with a jump ahead of the clock less than the overlap.
        if self.chance.one_in(4) { self.chance.below(30_000) as i64 } else { 0 }
    }

    fn pupil(&mut self) -> Content {
        self.number += 1;
        match self.chance.below(10) {
            0 => Content::NoPhone(self.number),
            1 => Content::OtherProduct(self.number),
            2 => Content::Unwanted(self.number),
            _ => Content::Pupil(self.number),
        }
    }

    fn deal(&mut self, won_before: bool) -> Content {
        self.number += 1;
        let pupil = self.chance.pick(&self.contacts).0;
        let price = 1_000 + self.number;
        match self.chance.below(10) {
            0 => Content::NoBranch { pupil, price },
            1 => Content::OtherBranch { pupil, price },
            2 if !won_before => Content::Deal { pupil, price, is_won: false },
            _ => Content::Deal { pupil, price, is_won: true },
        }
    }

    fn new_contact(&mut self) -> Event {
        let id = self.contacts.len() as u64 + 1;
        let content = self.pupil();
        self.contacts.push((id, content));
        Event::Edit((Entity::Contact, id), content, self.late())
    }

    fn new_deal(&mut self) -> Event {
        let id = DEALS + self.deals.len() as u64;
        let content = self.deal(false);
        self.deals.push((id, content));
        Event::Edit((Entity::Deal, id), content, self.late())
    }

    fn edit(&mut self) -> Event {
        match self.chance.below(12) {
            0 | 1 => self.new_contact(),
            2 | 3 => self.new_deal(),
            4 => {
                let all = [&self.contacts[..], &self.deals[..]].concat();
                let id = self.chance.pick(&all).0;
                Event::Clear((entity_of(id), id), self.late())
            }
            5 | 6 if !self.deals.is_empty() => {
                let place = self.chance.below(self.deals.len() as u64) as usize;
                let won_before = !matches!(self.deals[place].1, Content::Deal { is_won: false, .. });
                let content = self.deal(won_before);
                self.deals[place].1 = content;
                Event::Edit((Entity::Deal, self.deals[place].0), content, self.late())
            }
            _ => {
                let place = self.chance.below(self.contacts.len() as u64) as usize;
                let (id, now) = self.contacts[place];
                // Now and then somebody takes an edit back.
                let before = self.before.insert(id, now);
                let content = before.filter(|_| self.chance.one_in(4)).unwrap_or_else(|| self.pupil());
                self.contacts[place].1 = content;
                Event::Edit((Entity::Contact, self.contacts[place].0), content, self.late())
            }
        }
    }

    fn fault(&mut self) -> Event {
        let chance = self.chance;
        let stage = chance.pick(&Stage::ALL);
        match chance.below(16) {
            0..=4 => {
                let cache = chance.pick(&[Cache::Kept, Cache::Kept, Cache::Lost, Cache::Yesterdays]);
                Event::Kill(stage, chance.between(1, 120), chance.between(50, 20_000), cache)
            }
            5 | 6 => Event::Freeze(stage, chance.between(2_000, 60_000), chance.one_in(2)),
            7 => Event::NatsAway(chance.between(500, 20_000)),
            8 => Event::LoseAnswers(chance.between(1, 12) as u32),
            9 => match chance.one_in(2) {
                true => Event::ForgetIds,
                false => Event::DeliverAgain(chance.below(1_000)),
            },
            10 => Event::PortalIll(portal::Illness::Failing, chance.between(1_000, 30_000)),
            11 => Event::PortalIll(portal::Illness::Deaf, chance.between(1_000, 60_000)),
            12 => {
                let most = chance.between(1, 4) as usize;
                Event::PortalIll(portal::Illness::Fat(most), chance.between(20_000, 120_000))
            }
            13 => Event::ShopIll(shop::Illness::Deaf, chance.between(2_000, 40_000)),
            14 => {
                let sick = 1 + chance.below(self.contacts.len() as u64);
                let illness = chance.pick(&[
                    shop::Illness::Down,
                    shop::Illness::Busy,
                    shop::Illness::Unauthorized,
                    shop::Illness::Sick(sick),
                ]);
                Event::ShopIll(illness, chance.between(2_000, 45_000))
            }
            _ => {
                let skew = chance.pick(&[-3_600, -40, -5, 5, 30]);
                // What is late in lists must not become later than the overlap.
                let may_jump = skew < 0 || !self.jumped_ahead;
                self.jumped_ahead |= skew > 0;
                Event::Skew(if may_jump { skew } else { -5 })
            }
        }
    }
}

fn entity_of(id: u64) -> Entity {
    if id >= DEALS { Entity::Deal } else { Entity::Contact }
}
