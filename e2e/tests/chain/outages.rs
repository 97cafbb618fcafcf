//! Outages that last, on simulated time: minutes, an hour, a day; and neighbours that fail or turn us away over and over.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::Stage;

use schemas::Entity;
use schemas::problem::SUCCESS;

use crate::portal::Content;
use crate::run::{Told, run_script};
use crate::script::{Event, LONG_INTERVAL, Link, OUTAGE_BEGINS, Script};
use crate::{portal, shop};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Longest time to come to rest after an outage: two polls, and what was under way when it ended.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(240);

/// Plays a script about an outage; everything has to be as people said afterwards, and soon.
fn get_over(seed: u64, outage: Event, lasts: u64) -> Told {
    let told = go_well(seed, &Script::about(seed, outage, lasts));
    println!("{outage:?}: {} events, {} calls, rest after {:?}", told.events, told.calls.len(), told.rested);
    told
}

/// Plays a script that has to end well, and soon.
fn go_well(seed: u64, script: &Script) -> Told {
    let told = run_script(script, seed, None);
    assert!(told.findings.is_empty(), "seed {seed}: {:#?}\n{script:#?}", told.findings);
    assert!(told.rested <= COMES_BACK_WITHIN, "seed {seed}: rest after {:?}\n{script:#?}", told.rested);
    told
}

/// Returns when requests of these stages arrived while the outage lasted, in milliseconds after its beginning.
fn arrivals(told: &Told, stages: &[Stage], lasts: u64) -> Vec<u64> {
    let meanwhile = told.calls.iter().filter(|call| stages.contains(&call.stage));
    let times = meanwhile.filter_map(|call| call.at.checked_sub(OUTAGE_BEGINS)).filter(|at| *at < lasts);
    times.collect()
}

#[test]
fn a_day_without_otmechalka_marks_nobody_and_loses_nothing() {
    let told = get_over(1, Event::ShopIll(shop::Illness::Down, DAY), DAY);
    // It is asked once a minute at most, and polls go on.
    let tries = arrivals(&told, &[Stage::Pusher], DAY).len() as u64;
    assert!(tries <= DAY / MINUTE * 4 / 3 + 30, "{tries} tries in a day");
    let polls = arrivals(&told, &[Stage::Producer], DAY).len() as u64;
    assert!(polls >= DAY / MINUTE - 10, "{polls} polls in a day");
}

#[test]
fn an_hour_without_nats_or_with_any_stretch_cut_loses_nothing() {
    get_over(2, Event::NatsAway(HOUR), HOUR);
    for (seed, stage) in (3..).zip(Stage::ALL) {
        get_over(seed, Event::Cut(stage, Link::Nats, HOUR), HOUR);
        if stage != Stage::Mapper {
            get_over(seed, Event::Cut(stage, Link::Crm, HOUR), HOUR);
        }
    }
}

#[test]
fn a_stage_that_stands_still_for_minutes_or_an_hour_does_no_harm() {
    for (seed, stage) in (7..).zip(Stage::ALL) {
        get_over(seed, Event::Freeze(stage, 10 * MINUTE, false), 10 * MINUTE);
        get_over(seed, Event::Freeze(stage, HOUR, true), HOUR);
    }
}

#[test]
fn a_bitrix24_that_fails_a_thousand_times_in_a_row_is_asked_once_a_step_of_the_back_off() {
    let lasts = 17 * HOUR;
    let told = get_over(11, Event::PortalIll(portal::Illness::Down, lasts), lasts);
    let tries = arrivals(&told, &[Stage::Producer], lasts);
    assert!(tries.len() >= 1_000, "{} tries", tries.len());
    for (step, pair) in tries.windows(2).enumerate() {
        // It doubles up to a minute; a quarter of each step is chance.
        let pause = 750 * 2_u64.pow(step.min(10) as u32);
        assert!(pair[1] - pair[0] >= pause.min(45_000), "step {step}: {} and {}", pair[0], pair[1]);
    }
    // Statuses of contacts and of deals are tried each by themselves.
    let tries = arrivals(&told, &[Stage::StatusWriter], lasts).len() as u64;
    assert!(tries <= 2 * (lasts / 45_000 + 10), "{tries} tries of statuses");
}

#[test]
fn contacts_that_fail_alone_are_asked_for_once_a_minute_also_while_deals_go_well() {
    let told = get_over(41, Event::PortalIll(portal::Illness::WithoutContacts, HOUR), HOUR);
    let tries = arrivals(&told, &[Stage::Producer], HOUR).len() as u64;
    assert!(tries <= 2 * HOUR / 45_000 + 20, "{tries} requests of the producer in an hour");
}

/// How Bitrix24 turns a webhook away.
const REFUSALS: [(u16, &str); 12] = [
    (503, "OVERLOAD_LIMIT"),
    (500, "PORTAL_DELETED"),
    (401, "NO_AUTH_FOUND"),
    (401, "expired_token"),
    (401, "invalid_token"),
    (401, "something new"),
    (403, "INVALID_CREDENTIALS"),
    (403, "insufficient_scope"),
    (403, "user_access_error"),
    (403, "ACCESS_DENIED"),
    (403, "allowed_only_intranet_user"),
    (403, "WRONG_AUTH_TYPE"),
];

#[test]
fn whoever_turns_us_away_is_asked_once_a_minute_and_nobody_is_marked() {
    let lasts = 12 * MINUTE;
    // On its way a request may take its time, and so many may have been when the first was turned away.
    let on_its_way = 1_000;
    let keeps_manners = |told: &Told, stages: &[Stage], under_way: usize| {
        let tries = arrivals(told, stages, lasts);
        let later: Vec<u64> = tries.iter().copied().skip_while(|at| *at <= tries[0] + on_its_way).collect();
        assert!(tries.len() - later.len() <= under_way, "{tries:?}");
        assert!(later.len() >= 8, "it is tried again: {tries:?}");
        assert!(later.windows(2).all(|pair| pair[1] - pair[0] >= MINUTE - on_its_way), "{tries:?}");
    };
    for (seed, (status, code)) in (12..).zip(REFUSALS) {
        let told = get_over(seed, Event::PortalIll(portal::Illness::Refusing(status, code), lasts), lasts);
        keeps_manners(&told, &[Stage::Producer, Stage::StatusWriter], 3);
    }
    for illness in [shop::Illness::Unauthorized, shop::Illness::Forbidden] {
        let told = get_over(30, Event::ShopIll(illness, lasts), lasts);
        keeps_manners(&told, &[Stage::Pusher], 16);
    }
}

#[test]
fn what_otmechalka_fails_on_alone_is_told_within_ten_tries_and_a_quarter_of_an_hour() {
    const SICK: u64 = 1;
    let edit = |id, number| Event::Edit((Entity::Contact, id), Content::Pupil(number), 0);
    let mut events =
        vec![(1, Event::ShopIll(shop::Illness::Sick(SICK), HOUR)), (OUTAGE_BEGINS, edit(SICK, 1))];
    // The others go on, one every twenty seconds.
    events.extend(
        (2..60).map(|number| (OUTAGE_BEGINS * u64::from(number), edit(2 + u64::from(number % 5), number))),
    );
    events.push((HOUR + MINUTE, Event::Clear((Entity::Contact, SICK), 0)));
    let told = go_well(40, &Script { imported: Vec::new(), events, interval: LONG_INTERVAL });
    let mut of_it: Vec<_> = told.statuses.iter().filter(|(_, write)| write.key.1 == SICK).collect();
    // A list that lags may have one written once more.
    of_it.dedup_by_key(|(_, write)| &write.text);
    let [(at, alone), (_, at_last)] = of_it[..] else { panic!("two statuses of it: {of_it:?}") };
    assert!(*at <= OUTAGE_BEGINS + 15 * MINUTE && alone.text != SUCCESS, "after {at} ms: {}", alone.text);
    assert_eq!(at_last.text, SUCCESS);
    assert!((9..=10).contains(&told.failed_alone[&SICK]), "{:?}", told.failed_alone);
    // Nobody waited for it: the other five have their status two polls after their first edit.
    let others: BTreeMap<_, u64> = told
        .statuses
        .iter()
        .rev()
        .map(|(at, write)| (write.key, *at))
        .filter(|(key, _)| key.1 != SICK)
        .collect();
    assert!(
        others.len() == 5 && others.values().all(|at| *at <= 6 * OUTAGE_BEGINS + 2 * MINUTE),
        "{others:?}"
    );
}
