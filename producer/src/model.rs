//! A portal in memory against the pure core: whatever is edited whenever, and wherever the producer dies, every last
//! version is published and no echo is.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration};
use proptest::prelude::*;
use schemas::Checkpoint;

use crate::change::{Known, Seen, news};
use crate::walk::{Answered, Moment, Question, Spans, advance, question};

const SPANS: Spans = Spans { lag: Duration::seconds(2), overlap: Duration::seconds(120) };

/// Rows of a page; small, so that few records make many pages.
const PAGE: usize = 3;

/// Longest time, in seconds, for which a portal keeps a change from its lists.
const LATEST: i64 = 40;

fn at(second: i64) -> Moment {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap().fixed_offset()
}

#[derive(Clone, Debug)]
struct Row {
    content: u32,
    status: bool,
    modified: i64,
    readable_from: i64,
}

/// The versions of each record, oldest first; a list shows the newest that is readable.
#[derive(Default)]
struct Portal {
    now: i64,
    versions: BTreeMap<u64, Vec<Row>>,
}

impl Portal {
    fn write(&mut self, id: u64, late: i64, change: impl Fn(&mut Row)) {
        let versions = self.versions.entry(id).or_default();
        let mut row = versions.last().cloned().unwrap_or(Row {
            content: 0,
            status: false,
            modified: 0,
            readable_from: 0,
        });
        change(&mut row);
        row.modified = self.now;
        // What is written later never becomes readable earlier.
        row.readable_from = (self.now + late).max(versions.last().map_or(0, |last| last.readable_from));
        versions.push(row);
    }

    fn list(&self, asked: Question) -> (Vec<(u64, Row)>, Answered) {
        let readable =
            |versions: &Vec<Row>| versions.iter().rev().find(|row| row.readable_from <= self.now).cloned();
        let wanted = |row: &Row| {
            at(row.modified) >= asked.from && asked.until.is_none_or(|until| at(row.modified) < until)
        };
        let rows: Vec<(u64, Row)> = self
            .versions
            .range(asked.after + 1..)
            .filter_map(|(id, versions)| Some((*id, readable(versions).filter(wanted)?)))
            .take(PAGE)
            .collect();
        let next = (rows.len() == PAGE).then(|| rows[PAGE - 1].0);
        (rows, Answered { observed: at(self.now), next })
    }
}

/// What the producer leaves behind, and how often it said something.
#[derive(Default)]
struct Stream {
    sequence: u64,
    newest: BTreeMap<u64, Known>,
    counts: BTreeMap<u64, usize>,
}

impl Stream {
    fn offer(&mut self, id: u64, row: &Row) {
        let fingerprint = row.content.to_string();
        let seen =
            Seen { fingerprint: &fingerprint, modified: at(row.modified), status_is_empty: !row.status };
        if news(self.newest.get(&id), seen).is_none() {
            return;
        }
        self.sequence += 1;
        *self.counts.entry(id).or_default() += 1;
        let known = Known {
            sequence: self.sequence,
            modified: seen.modified,
            status_was_empty: seen.status_is_empty,
            fingerprint,
        };
        self.newest.insert(id, known);
    }
}

/// Where the producer dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    None,
    BeforePublishing,
    AfterPublishing(usize),
    BeforeCheckpoint,
}

struct World {
    portal: Portal,
    stream: Stream,
    stored: Option<Checkpoint>,
    /// Until when the records that these depend on are published.
    ceiling: Option<i64>,
}

impl World {
    fn poll(&mut self, death: Death) {
        let first = at(-1_000);
        let asked = question(SPANS, first, self.stored.as_ref(), None);
        let (rows, answered) = self.portal.list(asked);
        let ceiling = self.ceiling.map(at);
        let publishable =
            rows.iter().filter(|(_, row)| ceiling.is_none_or(|ceiling| at(row.modified) < ceiling));
        let count = match death {
            Death::BeforePublishing => 0,
            Death::AfterPublishing(count) => count,
            Death::None | Death::BeforeCheckpoint => usize::MAX,
        };
        publishable.take(count).for_each(|(id, row)| self.stream.offer(*id, row));
        if matches!(death, Death::None) {
            let step = advance(SPANS, first, self.stored.as_ref(), asked, answered, ceiling);
            let before = self.stored.replace(step.checkpoint.clone());
            assert!(before.is_none_or(|before| before.watermark <= step.checkpoint.watermark));
        }
    }

    /// Lets everything come to rest.
    fn settle(&mut self) {
        self.portal.now += LATEST + 60;
        self.ceiling = self.ceiling.map(|_| self.portal.now);
        for _ in 0..100 {
            self.poll(Death::None);
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Edit { id: u64, content: u32, late: i64 },
    WriteStatus { id: u64, late: i64 },
    ClearStatus { id: u64, late: i64 },
    Poll(Death),
    Pass(i64),
    RaiseCeiling,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let id = 1u64..12;
    let late = prop_oneof![3 => Just(0i64), 1 => 0..LATEST];
    let death = prop_oneof![
        6 => Just(Death::None),
        1 => Just(Death::BeforePublishing),
        1 => (0usize..PAGE).prop_map(Death::AfterPublishing),
        1 => Just(Death::BeforeCheckpoint),
    ];
    let event = prop_oneof![
        4 => (id.clone(), 0u32..4, late.clone()).prop_map(|(id, content, late)| Event::Edit { id, content, late }),
        2 => (id.clone(), late.clone()).prop_map(|(id, late)| Event::WriteStatus { id, late }),
        1 => (id, late).prop_map(|(id, late)| Event::ClearStatus { id, late }),
        6 => death.prop_map(Event::Poll),
        3 => (0i64..3).prop_map(Event::Pass),
        1 => (3i64..200).prop_map(Event::Pass),
        1 => Just(Event::RaiseCeiling),
    ];
    prop::collection::vec(event, 1..120)
}

fn happen(world: &mut World, event: &Event) {
    match *event {
        Event::Edit { id, content, late } => world.portal.write(id, late, |row| row.content = content),
        Event::WriteStatus { id, late } if world.portal.versions.contains_key(&id) => {
            world.portal.write(id, late, |row| row.status = true);
        }
        Event::ClearStatus { id, late } if world.portal.versions.contains_key(&id) => {
            world.portal.write(id, late, |row| row.status = false);
        }
        Event::WriteStatus { .. } | Event::ClearStatus { .. } => {}
        Event::Poll(death) => world.poll(death),
        Event::Pass(seconds) => world.portal.now += seconds,
        // Contacts are read up to the lag, never ahead of the portal's clock.
        Event::RaiseCeiling => world.ceiling = world.ceiling.map(|_| world.portal.now - 2),
    }
}

fn world(ceiling: Option<i64>) -> World {
    World { portal: Portal::default(), stream: Stream::default(), stored: None, ceiling }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_last_version_is_published(events in events(), ceiling in proptest::option::of(-1_500i64..0)) {
        let mut world = world(ceiling);
        events.iter().for_each(|event| happen(&mut world, event));
        world.settle();
        for (id, versions) in &world.portal.versions {
            let last = versions.last().unwrap();
            let known = world.stream.newest.get(id);
            prop_assert_eq!(known.map(|known| known.fingerprint.clone()), Some(last.content.to_string()), "record {}", id);
        }
    }

    #[test]
    fn nothing_is_published_but_news(events in events()) {
        let mut world = world(None);
        events.iter().for_each(|event| happen(&mut world, event));
        world.settle();
        for (id, versions) in &world.portal.versions {
            // A version is news if its content is another, or if its status is empty.
            let news = versions.windows(2).filter(|pair| pair[0].content != pair[1].content || !pair[1].status).count();
            let published = world.stream.counts[id];
            prop_assert!(published <= 1 + news, "record {id}: {published} events of {versions:?}");
        }
    }

    #[test]
    fn at_rest_it_is_silent(events in events()) {
        let mut world = world(None);
        events.iter().for_each(|event| happen(&mut world, event));
        world.settle();
        let before = world.stream.sequence;
        let ids: Vec<u64> = world.portal.versions.keys().copied().collect();
        for id in ids {
            world.portal.write(id, 0, |row| row.status = true);
        }
        world.settle();
        prop_assert_eq!(world.stream.sequence, before);
    }

    #[test]
    fn a_cleared_status_is_asked_for_again(id in 1u64..12, late in 0..LATEST, same_second: bool) {
        let mut world = world(None);
        world.portal.write(id, 0, |row| row.content = 1);
        world.portal.write(id, 0, |row| row.status = true);
        world.poll(Death::None);
        world.portal.now += i64::from(!same_second) * 7;
        world.portal.write(id, late, |row| row.status = false);
        world.settle();
        prop_assert_eq!(world.stream.counts[&id], 2);
    }
}
