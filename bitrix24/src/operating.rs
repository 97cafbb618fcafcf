//! The computing time budget of each method, as the portal keeps it.
//!
//! A portal adds up the seconds a method has computed in the last ten minutes and refuses the method
//! once the sum reaches its limit. The portal forgets in lumps of a minute; here each second is
//! remembered for full ten minutes, so this sum is never below the portal's for want of memory.
//! What an answer says about the sum always outranks our own arithmetic.
//!
//! Installations differ in whether the commands of a batch count under their own methods or under
//! `batch`. Budgets are kept for all names and the tightest one counts.
//!
//! Times are portal time in Unix seconds. Pure: [`crate::Client`] does the waiting.

use std::collections::{BTreeMap, VecDeque};

/// Seconds until the portal forgets.
pub const WINDOW: f64 = 600.0;

/// Charges this close together are kept as one, which bounds memory to 120 entries a method.
const SLOT: f64 = 5.0;

/// Weight of the newest sample in the average cost of a command.
const LEARNING_RATE: f64 = 0.25;

/// Commands after which an average is taken even though others are still under way.
const MANY: u32 = 200;

/// How far the portal's clock must fall back to be believed to have been set back.
const SET_BACK: f64 = 120.0;

/// Portals round the moment of forgetting down to a second.
const ROUNDING: f64 = 1.0;

/// How long nobody probes after a request whose end is unknown.
const REST: f64 = 60.0;

/// What one command's answer says about the sum of its method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The sum after the command.
    pub sum: f64,
    /// When the command ended.
    pub at: f64,
    /// When the portal forgets the oldest part.
    pub reset_at: Option<f64>,
}

/// What an answer says about a method.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Commands of the method that ran.
    pub commands: u32,
    /// The readings of these commands in order, as many as there are.
    pub readings: Vec<Reading>,
}

/// The computing time budgets of all methods.
#[derive(Debug, Clone)]
pub struct Operating {
    limit: f64,
    methods: BTreeMap<Box<str>, Budget>,
}

impl Operating {
    /// Returns untouched budgets of `limit` seconds each.
    pub fn new(limit: f64) -> Self {
        Self { limit, methods: BTreeMap::new() }
    }

    /// Returns the seconds that each method may use.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// Returns the methods of which anything is known.
    pub fn methods(&self) -> impl Iterator<Item = &str> {
        self.methods.keys().map(AsRef::as_ref)
    }

    /// Returns the seconds that commands of a method will probably take; 0 while nothing is known.
    pub fn predict(&self, method: &str, commands: u32) -> f64 {
        self.methods.get(method).map_or(0.0, |budget| budget.predict(commands))
    }

    /// Returns the seconds left to a method.
    pub fn room(&self, method: &str, now: f64) -> f64 {
        self.methods.get(method).map_or(self.limit, |budget| budget.room(self.limit, now))
    }

    /// Returns when so many commands of a method will fit: now at the earliest, and `None` when that
    /// hangs on requests in flight.
    pub fn ready_at(&self, method: &str, commands: u32, now: f64) -> Option<f64> {
        self.methods.get(method).map_or(Some(now), |budget| budget.ready_at(self.limit, commands, now))
    }

    /// Returns how many commands of a method fit, at most `most`.
    pub fn fitting(&self, method: &str, now: f64, most: u32) -> u32 {
        self.methods.get(method).map_or(most, |budget| budget.fitting(self.limit, now, most))
    }

    /// Returns how many commands of a method are under way.
    pub fn in_flight(&self, method: &str) -> u32 {
        self.methods.get(method).map_or(0, |budget| budget.in_flight)
    }

    /// Returns when the portal will forget something of a method, as far as it said so.
    pub fn reset_at(&self, method: &str) -> Option<f64> {
        self.methods.get(method).and_then(|budget| budget.blocked_until.or(budget.reset_at))
    }

    /// Sets the time of commands aside that are about to go out.
    ///
    /// They are remembered by number: their seconds follow from what is known of the cost by then.
    pub fn reserve(&mut self, method: &str, commands: u32) {
        let budget = self.budget(method);
        budget.in_flight = budget.in_flight.saturating_add(commands);
    }

    /// Gives back what was set aside, when the request has ended.
    pub fn release(&mut self, method: &str, commands: u32) {
        let budget = self.budget(method);
        budget.in_flight = budget.in_flight.saturating_sub(commands);
    }

    /// Notes that commands may have been processed although no answer came.
    pub fn suppose_spent(&mut self, method: &str, commands: u32, now: f64) {
        let budget = self.budget(method);
        budget.expire(now);
        budget.charge(now, budget.predict(commands), false);
        // Whoever probes next shall not do so at once.
        budget.reset_at = budget.reset_at.map(|reset_at| reset_at.max(now + REST));
    }

    /// Takes in what an answer says.
    pub fn observe(&mut self, method: &str, seen: &Seen) {
        let limit = self.limit;
        self.budget(method).observe(limit, seen);
    }

    /// Notes that the portal refused a method.
    pub fn refused(&mut self, method: &str, now: f64, reset_at: Option<f64>) {
        let limit = self.limit;
        self.budget(method).refused(limit, now, reset_at);
    }

    /// Notes what the portal's clock shows instead of what it was believed to show, where it was set back.
    pub fn follow_clock(&mut self, believed: f64, now: f64) {
        if now < believed - SET_BACK {
            self.methods.values_mut().for_each(|budget| budget.set_back(now));
        }
    }

    fn budget(&mut self, method: &str) -> &mut Budget {
        self.methods.entry(method.into()).or_default()
    }
}

#[derive(Debug, Clone, Default)]
struct Budget {
    charges: VecDeque<Charge>,
    /// Commands sent and not yet answered.
    in_flight: u32,
    cost: Option<Cost>,
    /// What has been answered since nothing was under way.
    beside: Beside,
    seen_at: Option<f64>,
    /// The sum of the newest reading.
    seen_sum: f64,
    reset_at: Option<f64>,
    blocked_until: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Charge {
    opened: f64,
    at: f64,
    seconds: f64,
    /// Spent before our time, so only the portal knows when it will be forgotten.
    doubtful: bool,
}

/// Commands answered while others were under way, and what they all spent.
///
/// The sums of one request include the seconds of those beside it, and the sums of those are out of date
/// by then: only what all of them spent, over all of their commands, tells the cost of one. Cut in the
/// middle, the first part would take over seconds of the second, so it is kept until all have ended.
#[derive(Debug, Clone, Copy, Default)]
struct Beside {
    commands: f64,
    seconds: f64,
    /// Commands since the cost was last learnt.
    fresh: u32,
    /// The portal forgot something meanwhile, so that the seconds are too few.
    is_short: bool,
}

impl Beside {
    fn on_average(&self) -> Option<f64> {
        (self.commands > 0.0).then(|| self.seconds / self.commands)
    }

    /// Lets older commands weigh less, should there never be a pause.
    fn note_learnt(&mut self) {
        self.fresh = 0;
        if self.commands > 10.0 * f64::from(MANY) {
            self.commands /= 2.0;
            self.seconds /= 2.0;
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Cost {
    mean: f64,
    deviation: f64,
}

impl Budget {
    fn predict(&self, commands: u32) -> f64 {
        let commands = f64::from(commands);
        self.cost.map_or(0.0, |cost| commands * cost.mean + 2.0 * commands.sqrt() * cost.deviation)
    }

    fn room(&self, limit: f64, now: f64) -> f64 {
        if self.blocked_until.is_some_and(|until| now < until) {
            return 0.0;
        }
        (limit - self.used(now) - self.predict(self.in_flight)).max(0.0)
    }

    /// The portal looks only at what is spent before a command, so commands that need more than the
    /// limit are met by an empty budget.
    fn ready_at(&self, limit: f64, commands: u32, now: f64) -> Option<f64> {
        let start = self.blocked_until.map_or(now, |until| until.max(now));
        let need = self.predict(commands).min(limit);
        let fits = |used: f64| {
            let used = used + self.predict(self.in_flight);
            used < limit - 1e-6 && used + need <= limit + 1e-6
        };
        let mut expiries: Vec<f64> = self.charges.iter().map(|charge| self.expiry(charge)).collect();
        expiries.push(start);
        expiries.retain(|expiry| *expiry >= start);
        expiries.sort_by(f64::total_cmp);
        expiries.into_iter().find(|moment| fits(self.used(*moment)))
    }

    fn fitting(&self, limit: f64, now: f64, most: u32) -> u32 {
        // What was spent before our time the portal may forget minute by minute.
        let doubted = self.charges.iter().filter(|charge| charge.doubtful && self.expiry(charge) <= now);
        let doubt: f64 = doubted.map(|charge| charge.seconds).sum();
        let room = self.room(limit, now) - doubt;
        if room <= 1e-6 {
            // One command to learn how much the portal has forgotten.
            return u32::from(self.ready_at(limit, 1, now) == Some(now)).min(most);
        }
        let mut fitting = 0;
        let mut too_many = most + 1;
        while too_many - fitting > 1 {
            let middle = fitting + (too_many - fitting) / 2;
            if self.predict(middle) <= room + 1e-6 { fitting = middle } else { too_many = middle }
        }
        fitting
    }

    fn used(&self, now: f64) -> f64 {
        self.charges.iter().filter(|charge| self.expiry(charge) > now).map(|charge| charge.seconds).sum()
    }

    /// Says when a charge will be forgotten: at the latest a whole window after it was made.
    ///
    /// The portal forgets a minute at once, and says when it will forget its oldest. What was spent in
    /// that same minute goes with it. What was spent before our time is let go of then, too, but for
    /// one request only: its answer tells how much is left.
    fn expiry(&self, charge: &Charge) -> f64 {
        let own = charge.at + WINDOW;
        let Some(reset_at) = self.reset_at else { return own };
        let opened = reset_at - WINDOW;
        let in_oldest_minute = charge.at >= opened && minute(charge.at) == minute(opened);
        if in_oldest_minute || (charge.doubtful && self.in_flight == 0) {
            own.min(reset_at + ROUNDING)
        } else {
            own
        }
    }

    fn observe(&mut self, limit: f64, seen: &Seen) {
        let doubtful = self.is_older_than_us(seen);
        let share = f64::from(seen.commands.max(1)) / seen.readings.len().max(1) as f64;
        let mut spent = 0.0;
        for (index, reading) in seen.readings.iter().enumerate() {
            let old = doubtful && index == 0;
            spent += self.take(reading, share, old).filter(|_| !old).unwrap_or(0.0);
        }
        self.learn_from(seen, spent, if doubtful { seen.commands.saturating_sub(1) } else { seen.commands });
        if seen.readings.last().is_some_and(|last| last.sum < limit) {
            self.blocked_until = None;
        }
    }

    fn learn_from(&mut self, seen: &Seen, spent: f64, commands: u32) {
        let was_alone = self.beside.commands == 0.0 && self.in_flight == 0;
        let beside = &mut self.beside;
        beside.commands += f64::from(commands);
        beside.seconds += spent;
        beside.fresh += commands;
        let is_over = self.in_flight == 0;
        if is_over || self.cost.is_none() || beside.fresh >= MANY {
            // Another process may be at the same method, so the lower one is nearer to the truth.
            let samples = [beside.on_average(), steps(&seen.readings).filter(|_| was_alone)];
            let may_learn = was_alone || !beside.is_short;
            beside.note_learnt();
            if may_learn {
                self.learn(samples.into_iter().flatten().min_by(f64::total_cmp));
            }
        }
        if is_over {
            self.beside = Beside::default();
        }
    }

    /// Brings the sum in line with a reading and returns what was spent since the one before; nothing
    /// if the reading is out of date.
    fn take(&mut self, reading: &Reading, commands: f64, doubtful: bool) -> Option<f64> {
        match self.seen_at {
            Some(seen_at) if reading.at < seen_at - SET_BACK => self.set_back(reading.at),
            // Overtaken by the answer to a later command, whose sum includes it.
            Some(seen_at) if reading.at < seen_at => return None,
            // The same, though its moment was taken later: while the oldest minute is the same no sum falls.
            Some(_) if self.is_overtaken(reading) => return None,
            _ => {}
        }
        self.expire(reading.at);
        let before = self.total();
        let advanced = self.reset_at.zip(reading.reset_at).is_some_and(|(old, new)| new > old + 0.5);
        let mut spent = (reading.sum - before).max(0.0);
        if advanced || reading.sum < before {
            // The portal has forgotten something meanwhile, which hides what was spent.
            spent = spent.max(commands * self.cost.map_or(0.0, |cost| cost.mean));
            self.beside.is_short = true;
        }
        // What is left of the sum beside what the portal still remembers of before is new, even if it is more than
        // these commands can have cost: requests beside this one spend as well, and may be answered later.
        let oldest = reading.reset_at.map_or(f64::MIN, |reset_at| reset_at - WINDOW);
        while self.charges.front().is_some_and(|charge| charge.opened < oldest) {
            self.charges.pop_front();
        }
        self.charge(reading.at, spent.max(reading.sum - self.total()), doubtful);
        self.forget(self.total() - reading.sum);
        self.seen_at = Some(reading.at);
        self.seen_sum = reading.sum;
        self.reset_at = reading.reset_at.filter(|reset_at| *reset_at > reading.at);
        Some(spent)
    }

    fn is_overtaken(&self, reading: &Reading) -> bool {
        let same_minute = |(told, known): (f64, f64)| told == known && reading.at < told;
        reading.sum < self.seen_sum && reading.reset_at.zip(self.reset_at).is_some_and(same_minute)
    }

    /// Tells whether the first sum ever seen began before our own first call.
    fn is_older_than_us(&self, seen: &Seen) -> bool {
        let Some(first) = seen.readings.first().filter(|_| self.seen_at.is_none()) else { return false };
        first.reset_at.is_some_and(|reset_at| reset_at - WINDOW < first.at - 2.0 * SLOT - first.sum)
    }

    fn learn(&mut self, sample: Option<f64>) {
        let Some(sample) = sample.filter(|sample| *sample >= 0.0) else { return };
        self.cost = Some(match self.cost {
            None => Cost { mean: sample, deviation: 0.0 },
            Some(Cost { mean, deviation }) => Cost {
                mean: mean + LEARNING_RATE * (sample - mean),
                deviation: deviation + LEARNING_RATE * ((sample - mean).abs() - deviation),
            },
        });
    }

    fn refused(&mut self, limit: f64, now: f64, reset_at: Option<f64>) {
        self.expire(now);
        let missing = limit - self.total();
        if missing > 0.0 {
            self.charge(now, missing, true);
        }
        let until = reset_at.or(self.reset_at).filter(|reset_at| *reset_at > now).unwrap_or(now + WINDOW);
        let until = until.min(now + WINDOW + SET_BACK);
        self.reset_at = Some(until);
        self.blocked_until = Some(until);
    }

    fn charge(&mut self, at: f64, seconds: f64, doubtful: bool) {
        if seconds <= 0.0 {
            return;
        }
        match self.charges.back_mut() {
            Some(last) if last.doubtful == doubtful && at < last.opened + SLOT => {
                last.seconds += seconds;
                last.at = last.at.max(at);
            }
            _ => self.charges.push_back(Charge { opened: at, at, seconds, doubtful }),
        }
    }

    /// Lets go of seconds that the portal has forgotten before us, the oldest first.
    fn forget(&mut self, mut seconds: f64) {
        if seconds <= 0.0 {
            return;
        }
        while let Some(oldest) = self.charges.front_mut() {
            if oldest.seconds > seconds {
                oldest.seconds -= seconds;
                return;
            }
            seconds -= oldest.seconds;
            self.charges.pop_front();
        }
    }

    fn expire(&mut self, now: f64) {
        while self.charges.front().is_some_and(|charge| charge.at + WINDOW <= now) {
            self.charges.pop_front();
        }
    }

    fn total(&self) -> f64 {
        self.charges.iter().map(|charge| charge.seconds).sum()
    }

    /// Brings everything that now lies in the future to the present.
    fn set_back(&mut self, now: f64) {
        for charge in &mut self.charges {
            charge.opened = charge.opened.min(now);
            charge.at = charge.at.min(now);
        }
        self.seen_at = self.seen_at.map(|seen_at| seen_at.min(now));
        self.reset_at = self.reset_at.map(|reset_at| reset_at.min(now + WINDOW));
        self.blocked_until = self.blocked_until.map(|until| until.min(now + WINDOW));
    }
}

fn minute(seconds: f64) -> f64 {
    (seconds / 60.0).floor()
}

/// Returns the average step up from reading to reading.
fn steps(readings: &[Reading]) -> Option<f64> {
    let steps = readings.windows(2).map(|pair| pair[1].sum - pair[0].sum);
    let steps: Vec<f64> = steps.filter(|step| *step >= 0.0).collect();
    (!steps.is_empty()).then(|| steps.iter().sum::<f64>() / steps.len() as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UPDATE: &str = "crm.deal.update";

    /// The portal's own accounting, in both readings of "one-minute buckets".
    struct Portal {
        limit: f64,
        by_calendar: bool,
        buckets: VecDeque<(f64, f64)>,
    }

    impl Portal {
        fn new(by_calendar: bool) -> Self {
            Self { limit: 480.0, by_calendar, buckets: VecDeque::new() }
        }

        fn sum(&mut self, now: f64) -> f64 {
            while self.buckets.front().is_some_and(|(start, _)| start + WINDOW <= now) {
                self.buckets.pop_front();
            }
            self.buckets.iter().map(|(_, seconds)| seconds).sum()
        }

        /// Runs a command and returns the sum, or nothing if it is refused.
        fn run(&mut self, now: f64, cost: f64) -> Option<f64> {
            if self.sum(now) >= self.limit {
                return None;
            }
            let same_minute = |start: f64| match self.by_calendar {
                true => (start / 60.0).floor() == (now / 60.0).floor(),
                false => now < start + 60.0,
            };
            match self.buckets.back_mut() {
                Some((start, seconds)) if same_minute(*start) => *seconds += cost,
                _ => self.buckets.push_back((now, cost)),
            }
            Some(self.sum(now))
        }

        fn reset_at(&self) -> Option<f64> {
            self.buckets.front().map(|(start, _)| (start + WINDOW).floor())
        }
    }

    /// Sends a batch as the client does and returns when it ended and how many were refused. A command
    /// takes `duration` of the clock and `cost` of the budget: unequal when several batches overlap.
    fn send(
        operating: &mut Operating,
        portal: &mut Portal,
        now: f64,
        commands: u32,
        (cost, duration): (f64, f64),
    ) -> (f64, u32) {
        let mut now = operating.ready_at(UPDATE, commands, now).expect("nothing is in flight");
        operating.reserve(UPDATE, commands);
        let mut readings = Vec::new();
        let mut refused = 0;
        for _ in 0..commands {
            match portal.run(now, cost) {
                None => refused += 1,
                Some(sum) => {
                    now += duration;
                    readings.push(Reading { sum, at: now, reset_at: portal.reset_at() });
                }
            }
        }
        operating.release(UPDATE, commands);
        operating.observe(UPDATE, &Seen { commands: readings.len() as u32, readings });
        if refused > 0 {
            operating.refused(UPDATE, now, portal.reset_at());
        }
        (now, refused)
    }

    fn reading(sum: f64, at: f64, reset_at: Option<f64>) -> Seen {
        Seen { commands: 1, readings: vec![Reading { sum, at, reset_at }] }
    }

    /// At best 480 s go out at once, and again each time the portal has forgotten them.
    #[test]
    fn eight_thousand_updates_take_hardly_longer_than_they_must() {
        for by_calendar in [true, false] {
            let (mut operating, mut portal) = (Operating::new(480.0), Portal::new(by_calendar));
            let (start, cost, commands) = (1_700_000_030.0, 0.3, 8_000);
            let mut now = start;
            for _ in 0..commands / 50 {
                let (end, refused) = send(&mut operating, &mut portal, now, 50, (cost, 0.01));
                assert_eq!(refused, 0);
                now = end;
            }
            let bound = (f64::from(commands) * cost - 480.0) / 0.8;
            assert!(now - start <= 1.05 * bound, "{} of {bound}", now - start);
        }
    }

    #[test]
    fn an_unknown_method_may_go_at_once() {
        let operating = Operating::new(480.0);
        assert_eq!(operating.ready_at(UPDATE, 50, 5.0), Some(5.0));
        assert_eq!(operating.fitting(UPDATE, 5.0, 50), 50);
    }

    #[test]
    fn a_refused_method_rests_until_the_portal_says() {
        let mut operating = Operating::new(480.0);
        operating.refused(UPDATE, 1_000.0, Some(1_300.0));
        assert_eq!(operating.ready_at(UPDATE, 1, 1_000.0), Some(1_300.0 + ROUNDING));
        assert_eq!(operating.room(UPDATE, 1_299.0), 0.0);
        assert_eq!(operating.ready_at("crm.contact.update", 1, 1_000.0), Some(1_000.0));
    }

    #[test]
    fn only_one_request_probes_after_the_rest() {
        let mut operating = Operating::new(480.0);
        operating.refused(UPDATE, 1_000.0, Some(1_300.0));
        assert_eq!(operating.fitting(UPDATE, 1_299.0, 50), 0);
        assert_eq!(operating.ready_at(UPDATE, 1, 1_301.0), Some(1_301.0));
        operating.reserve(UPDATE, 1);
        assert_eq!(operating.ready_at(UPDATE, 1, 1_301.0), Some(1_600.0));
    }

    #[test]
    fn a_sum_from_before_a_restart_is_released_as_the_portal_releases_it() {
        let mut operating = Operating::new(480.0);
        let reading = |sum| Reading { sum, at: 1_000.0, reset_at: Some(1_100.0) };
        operating.observe(UPDATE, &Seen { commands: 2, readings: vec![reading(470.0), reading(479.0)] });
        assert_eq!(operating.predict(UPDATE, 1), 9.0);
        assert_eq!(operating.ready_at(UPDATE, 1, 1_000.0), Some(1_100.0 + ROUNDING));
    }

    #[test]
    fn requests_in_flight_count_as_spent_by_what_is_known_of_their_cost() {
        let mut operating = Operating::new(480.0);
        operating.reserve(UPDATE, 23);
        assert_eq!(operating.room(UPDATE, 100.0), 480.0);
        operating.observe(UPDATE, &reading(20.0, 100.0, None));
        assert_eq!(operating.room(UPDATE, 100.0), 0.0);
        assert_eq!(operating.ready_at(UPDATE, 2, 100.0), None);
        operating.release(UPDATE, 23);
        assert_eq!(operating.ready_at(UPDATE, 2, 100.0), Some(100.0));
    }

    #[test]
    fn requests_side_by_side_do_not_make_a_command_look_dearer() {
        let mut operating = Operating::new(480.0);
        operating.observe(
            UPDATE,
            &Seen { commands: 1, readings: vec![Reading { sum: 0.3, at: 99.0, reset_at: None }] },
        );
        // Four requests of ten commands each run at the same pace, so each sees all of their seconds pass.
        let readings = |shift: f64| {
            (1..=10).map(move |step| Reading {
                sum: 0.3 + 1.2 * f64::from(step) + shift,
                at: 100.0 + 0.3 * f64::from(step) + shift,
                reset_at: None,
            })
        };
        (0..4).for_each(|_| operating.reserve(UPDATE, 10));
        for request in 0..4 {
            operating.release(UPDATE, 10);
            let shift = 0.01 * f64::from(request);
            operating.observe(UPDATE, &Seen { commands: 10, readings: readings(shift).collect() });
        }
        assert!((operating.predict(UPDATE, 100) - 30.0).abs() < 1.0, "{}", operating.predict(UPDATE, 100));
    }

    /// What the others have spent by the time of the first answer is new, however much was remembered of before.
    #[test]
    fn what_the_portal_forgets_under_requests_side_by_side_is_not_taken_for_what_they_spend() {
        let mut operating = Operating::new(60.0);
        let readings = |commands: u32, sum: f64, at: f64, reset_at: f64| Seen {
            commands,
            readings: (1..=commands)
                .map(|step| f64::from(step) * 1.35)
                .map(|spent| Reading { sum: sum + spent, at: at + spent, reset_at: Some(reset_at) })
                .collect(),
        };
        operating.observe(UPDATE, &readings(44, 0.0, 1_000.0, 1_601.0));
        // All of it is forgotten at once. Three requests begin; the last one's first command ends after two of the others.
        [14, 14, 7].iter().for_each(|commands| operating.reserve(UPDATE, *commands));
        operating.release(UPDATE, 7);
        operating.observe(UPDATE, &reading(4.05, 1_603.5, Some(2_203.0)));
        operating.observe(UPDATE, &reading(28.35, 1_612.0, Some(2_203.0)));
        [14, 14].iter().for_each(|commands| operating.release(UPDATE, *commands));
        operating.observe(UPDATE, &reading(47.25, 1_622.0, Some(2_203.0)));
        // Long after what was spent before would have been forgotten, and before any of this is.
        assert_eq!(operating.fitting(UPDATE, 1_700.0, 50), 9);
    }

    #[test]
    fn a_sum_from_before_our_time_is_probed_by_one_command_at_a_time() {
        let mut operating = Operating::new(60.0);
        operating.observe(
            UPDATE,
            &Seen {
                commands: 2,
                readings: [56.65, 58.0]
                    .map(|sum| Reading { sum, at: sum + 944.0, reset_at: Some(1_010.0) })
                    .to_vec(),
            },
        );
        assert_eq!(operating.fitting(UPDATE, 1_011.5, 50), 1);
        // Only the oldest minute was forgotten, and it had been a small one.
        operating.observe(UPDATE, &reading(50.0, 1_012.0, Some(1_070.0)));
        assert_eq!(operating.fitting(UPDATE, 1_013.0, 50), 7);
    }

    #[test]
    fn a_sum_that_was_overtaken_is_not_taken_for_a_smaller_one() {
        let mut operating = Operating::new(60.0);
        operating.observe(UPDATE, &reading(1.35, 1_000.0, Some(1_600.0)));
        operating.observe(UPDATE, &reading(51.3, 1_041.18, Some(1_600.0)));
        operating.observe(UPDATE, &reading(49.95, 1_041.2, Some(1_600.0)));
        assert!((operating.room(UPDATE, 1_042.0) - 8.7).abs() < 1e-6, "{}", operating.room(UPDATE, 1_042.0));
    }

    #[test]
    fn what_was_spent_across_the_border_of_two_minutes_does_not_count_as_old() {
        let mut operating = Operating::new(60.0);
        for step in 0..4 {
            let (sum, at) = (1.35 * f64::from(step + 1), 1_058.8 + 1.4 * f64::from(step));
            operating.observe(UPDATE, &reading(sum, at, Some(1_600.0)));
        }
        // The minute from 1,061 on is the oldest now, with two of the four; neighbours have spent ten times as much.
        operating.observe(UPDATE, &reading(2.7 + 13.5, 1_640.0, Some(1_661.0)));
        assert!(operating.room(UPDATE, 1_670.0) <= 60.0 - 13.5, "{}", operating.room(UPDATE, 1_670.0));
    }

    #[test]
    fn a_clock_set_back_that_another_method_tells_of_does_not_prolong_a_wait() {
        let mut operating = Operating::new(480.0);
        operating.observe(UPDATE, &reading(480.0, 9_000.0, Some(9_590.0)));
        operating.refused(UPDATE, 9_000.0, Some(9_590.0));
        operating.follow_clock(9_010.0, 8_950.0);
        assert_eq!(operating.reset_at(UPDATE), Some(9_590.0));
        operating.follow_clock(9_010.0, 5_400.0);
        assert!(operating.ready_at(UPDATE, 1, 5_400.0).is_some_and(|ready| ready <= 6_001.0));
    }

    #[test]
    fn a_batch_dearer_than_the_limit_waits_for_an_empty_budget() {
        let mut operating = Operating::new(480.0);
        operating.observe(UPDATE, &reading(20.0, 100.0, None));
        assert_eq!(operating.ready_at(UPDATE, 50, 100.0), Some(700.0));
        assert_eq!(operating.fitting(UPDATE, 100.0, 50), 23);
    }

    #[test]
    fn a_clock_set_back_does_not_prolong_the_memory() {
        let mut operating = Operating::new(480.0);
        operating.observe(UPDATE, &reading(5.0, 9_000.0, None));
        operating.observe(UPDATE, &reading(10.0, 5_400.0, None));
        assert_eq!(operating.room(UPDATE, 5_400.0), 470.0);
        assert_eq!(operating.room(UPDATE, 6_000.0), 480.0);
    }

    proptest! {
        #[test]
        fn no_command_of_steady_cost_is_refused(
            by_calendar in any::<bool>(),
            cost in 0.01_f64..3.0,
            batches in prop::collection::vec((1_u32..=50, 0.0_f64..120.0), 1..120),
        ) {
            let (mut operating, mut portal) = (Operating::new(480.0), Portal::new(by_calendar));
            let mut now = 1_700_000_030.0;
            for (commands, pause) in batches {
                let (end, refused) = send(&mut operating, &mut portal, now + pause, commands, (cost, cost));
                prop_assert_eq!(refused, 0);
                now = end;
            }
        }

        #[test]
        fn no_single_command_is_refused_whatever_it_costs(
            by_calendar in any::<bool>(),
            commands in prop::collection::vec((0.0_f64..60.0, 0.0_f64..30.0), 1..200),
        ) {
            let (mut operating, mut portal) = (Operating::new(480.0), Portal::new(by_calendar));
            let mut now = 1_700_000_030.0;
            for (cost, pause) in commands {
                let (end, refused) = send(&mut operating, &mut portal, now + pause, 1, (cost, cost));
                prop_assert_eq!(refused, 0);
                now = end;
            }
        }
    }
}
