//! The script: what people do and what breaks, in which order. A pure function of the seed.

use std::fmt;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::school::{Link, Stage};

/// What is wrong with a record until it is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No telephone.
    NoPhone,
    /// The pupil has no surname.
    NoSurname,
    /// No product was chosen.
    NoProduct,
}

/// What people do. Pupils and deals are numbered in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A contact is made.
    NewContact {
        /// Its number.
        pupil: usize,
        /// What is wrong with it.
        flaw: Option<Flaw>,
    },
    /// A contact is imported, dated back within the overlap.
    Import {
        /// Its number.
        pupil: usize,
        /// How far back.
        seconds_ago: u32,
    },
    /// Several edits as fast as they can be made, mostly within one second.
    Burst {
        /// Whose.
        pupil: usize,
        /// Number of the first surname.
        from: u32,
        /// How many.
        times: u32,
    },
    /// A mistake is made.
    Spoil {
        /// Whose.
        pupil: usize,
        /// Which.
        flaw: Flaw,
    },
    /// All mistakes are corrected.
    Mend {
        /// Whose.
        pupil: usize,
        /// Number of the surname.
        surname: u32,
    },
    /// The status of a contact is cleared: a try again.
    ClearContact(usize),
    /// The status of a deal is cleared.
    ClearDeal(usize),
    /// A contact is deleted.
    Delete(usize),
    /// A contact is merged into another, whose its deals become.
    Merge {
        /// The one that is gone afterwards.
        pupil: usize,
        /// The other.
        into: usize,
    },
    /// A deal is made.
    NewDeal {
        /// Its number.
        deal: usize,
        /// Whose.
        pupil: usize,
        /// Whether it is won already.
        is_won: bool,
    },
    /// A deal is won.
    Win(usize),
    /// A deal's product row changes.
    Reprice {
        /// Which.
        deal: usize,
        /// The new price.
        rubles: u32,
    },
}

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A stage is killed and started.
    Kill(Stage),
    /// A stage is killed, started, and killed while it starts.
    KillTwice(Stage),
    /// A stage is to die at a place between two side effects.
    Doom(Stage, &'static str),
    /// A stage stands still for a while.
    Freeze(Stage),
    /// A stage stands still until another process has its work, and comes back beside it.
    Zombie(Stage),
    /// The broker is killed and started.
    Broker,
    /// The local cache of a stage is deleted.
    Forget(Stage),
    /// The local cache of a stage is torn.
    Tear(Stage),
    /// Bitrix24 answers so, so many times.
    Bitrix24(&'static str, u32),
    /// otmechalka answers so, so many times.
    Otmechalka(&'static str, u32),
    /// A stretch of network is cut.
    Cut(Link),
    /// A stretch of network swallows everything.
    Silence(Link),
    /// A stretch of network is slow.
    Slow(Link),
    /// A stretch of network is slow and loses packets.
    Lossy(Link),
    /// The connections of a stretch of network are dead, and nobody is told.
    HalfOpen(Link),
    /// What is written in Bitrix24 is readable only later.
    Late,
    /// Every message of every stream is delivered again.
    Redeliver,
    /// One of three servers is killed and started; by its number.
    ServerDies(usize),
    /// One of three servers stands still and keeps its connections.
    ServerStill(usize),
    /// One of three servers is cut off from the others, and not from the stages.
    ServerCutOff(usize),
    /// All servers but one are killed and started.
    MajorityDies(usize),
}

impl Trouble {
    /// Tells whether it takes three servers.
    fn is_of_a_cluster(self) -> bool {
        use Trouble::{MajorityDies, ServerCutOff, ServerDies, ServerStill};
        matches!(self, ServerDies(_) | ServerStill(_) | ServerCutOff(_) | MajorityDies(_))
    }

    /// Tells whether it may go on while another begins, and the other while it ends.
    fn may_overlap(self, other: Trouble) -> bool {
        use Trouble::{Bitrix24, Broker, Otmechalka, Redeliver, Zombie};
        let of_servers = |trouble: Trouble| trouble == Broker || trouble.is_of_a_cluster();
        let is_same = match (self, other) {
            // Each waits for something that only a sound school does.
            (Zombie(_) | Redeliver, _) | (_, Zombie(_) | Redeliver) => return false,
            (Bitrix24(..), Bitrix24(..)) | (Otmechalka(..), Otmechalka(..)) => true,
            _ => of_servers(self) && of_servers(other),
        };
        let befall_one_stage = self.stage().is_some() && self.stage() == other.stage();
        let befall_one_link = self.link().is_some() && self.link() == other.link();
        !is_same && !befall_one_stage && !befall_one_link
    }

    /// Returns the stage that it befalls.
    fn stage(self) -> Option<Stage> {
        match self {
            Trouble::Kill(stage)
            | Trouble::KillTwice(stage)
            | Trouble::Doom(stage, _)
            | Trouble::Freeze(stage)
            | Trouble::Zombie(stage)
            | Trouble::Forget(stage)
            | Trouble::Tear(stage) => Some(stage),
            _ => None,
        }
    }

    /// Returns the stretch of network that it befalls.
    fn link(self) -> Option<Link> {
        match self {
            Trouble::Cut(link)
            | Trouble::Silence(link)
            | Trouble::Slow(link)
            | Trouble::Lossy(link)
            | Trouble::HalfOpen(link) => Some(link),
            _ => None,
        }
    }

    /// Tells whether polls surely go on meanwhile.
    fn lets_polls_pass(self) -> bool {
        match self {
            Trouble::Doom(stage, _) => stage != Stage::Producer,
            Trouble::Kill(_)
            | Trouble::KillTwice(_)
            | Trouble::Zombie(_)
            | Trouble::Forget(_)
            | Trouble::Tear(_)
            | Trouble::Otmechalka(..)
            | Trouble::Slow(_)
            | Trouble::Lossy(_)
            | Trouble::Late
            | Trouble::Redeliver => true,
            Trouble::Freeze(_)
            | Trouble::Broker
            | Trouble::Bitrix24(..)
            | Trouble::Cut(_)
            | Trouble::HalfOpen(_)
            | Trouble::Silence(_)
            | Trouble::ServerDies(_)
            | Trouble::ServerStill(_)
            | Trouble::ServerCutOff(_)
            | Trouble::MajorityDies(_) => false,
        }
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// People edit.
    Edit(Edit),
    /// A trouble begins.
    Begin(Trouble),
    /// A trouble ends.
    End(Trouble),
    /// So many polls go by.
    Polls(u64),
}

/// Kinds of trouble, of which scripts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Kill,
    KillTwice,
    Doom,
    Freeze,
    Zombie,
    Broker,
    Forget,
    Tear,
    Bitrix24,
    Otmechalka,
    Cut,
    Silence,
    Slow,
    Lossy,
    HalfOpen,
    Late,
    Redeliver,
    ServerDies,
    ServerStill,
    ServerCutOff,
    MajorityDies,
}

/// Of so many seeds one plays on three servers.
const SEEDS_A_CLUSTER: u64 = 4;

impl Kind {
    /// Those that take three servers.
    pub const OF_A_CLUSTER: [Kind; 4] =
        [Kind::ServerDies, Kind::ServerStill, Kind::ServerCutOff, Kind::MajorityDies];

    /// All that a single server is enough for.
    pub const ALL: [Kind; 17] = [
        Kind::Kill,
        Kind::Doom,
        Kind::Broker,
        Kind::Cut,
        Kind::Bitrix24,
        Kind::Tear,
        Kind::Late,
        Kind::Zombie,
        Kind::KillTwice,
        Kind::Freeze,
        Kind::Silence,
        Kind::Slow,
        Kind::Otmechalka,
        Kind::Forget,
        Kind::Redeliver,
        Kind::Lossy,
        Kind::HalfOpen,
    ];
}

/// Places at which stages may be doomed, in the order in which a record passes them.
pub const PLACES: [(Stage, &str); 20] = [
    (Stage::Producer, "before-publish"),
    (Stage::Producer, "publish-answered"),
    (Stage::Producer, "publish-answered+2"),
    // Of what was left behind there.
    (Stage::Producer, "recovering"),
    (Stage::Producer, "before-checkpoint"),
    (Stage::Producer, "after-checkpoint"),
    (Stage::Producer, "before-deals"),
    (Stage::Mapper, "message-received"),
    (Stage::Mapper, "publish-answered"),
    (Stage::Mapper, "before-ack"),
    (Stage::Pusher, "message-received"),
    (Stage::Pusher, "before-create"),
    (Stage::Pusher, "create-answered"),
    (Stage::Pusher, "before-ticket"),
    (Stage::Pusher, "ticket-answered"),
    (Stage::Pusher, "publish-answered"),
    (Stage::Pusher, "before-ack"),
    (Stage::StatusWriter, "batch-answered"),
    (Stage::StatusWriter, "look-answered"),
    (Stage::StatusWriter, "before-ack"),
];

/// Faults of the simulated Bitrix24 that pass without making anybody wait for a minute.
pub const BITRIX24: [&str; 22] = [
    "html_502",
    "html_504",
    "php_fatal_500",
    "internal_500",
    "unexpected_answer_500",
    "query_limit_503",
    "error_under_200",
    "result_null",
    "result_empty",
    "empty_body",
    "html_200",
    "garbage",
    "reset_before",
    "bom",
    "php_warning",
    "truncated",
    "truncated_transfer",
    "bad_gzip",
    "answer_lost",
    "reset_after_apply",
    "half_batch_then_504",
    "command_error",
];

/// Faults of the simulated otmechalka that do not make anybody wait for a minute.
pub const OTMECHALKA: [&str; 12] = [
    "down_503",
    "internal_500",
    "bad_gateway_502",
    "too_many_429",
    "error_200",
    "html_200",
    "garbage",
    "truncated",
    "empty_body",
    "reset_before",
    "reset_after_apply",
    "slow",
];

/// A whole script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What it was made from.
    pub seed: u64,
    /// Its steps.
    pub acts: Vec<Act>,
}

impl Plan {
    /// Makes the script in which each of these kinds of trouble comes once.
    pub fn new(seed: u64, kinds: &[Kind]) -> Plan {
        let mut writer = Writer::new(seed, kinds);
        let mut kinds = kinds.to_vec();
        writer.shuffle(&mut kinds);
        // Somebody to edit before anything breaks.
        for _ in 0..4 {
            writer.edit();
        }
        for kind in kinds {
            writer.trouble(kind);
        }
        writer.end_what_lingers();
        writer.mend_all();
        Plan { seed, acts: writer.acts }
    }

    /// Makes a script of a seed alone, with some kinds of trouble, each perhaps several times.
    pub fn of_seed(seed: u64) -> Plan {
        let mut dice = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        let count = dice.random_range(6..=12);
        let mut kinds: Vec<Kind> =
            (0..count).map(|_| Kind::ALL[dice.random_range(0..Kind::ALL.len())]).collect();
        if seed % SEEDS_A_CLUSTER == SEEDS_A_CLUSTER - 1 {
            kinds.truncate(6);
            kinds.extend((0..3).map(|_| Kind::OF_A_CLUSTER[dice.random_range(0..Kind::OF_A_CLUSTER.len())]));
        }
        Plan::new(seed, &kinds)
    }

    /// Tells whether it is played on three servers.
    pub fn is_of_a_cluster(&self) -> bool {
        self.acts.iter().any(|act| matches!(act, Act::Begin(trouble) if trouble.is_of_a_cluster()))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}:", self.seed)?;
        for (number, act) in self.acts.iter().enumerate() {
            writeln!(f, "{number:>3} {act:?}")?;
        }
        Ok(())
    }
}

/// Makes steps and keeps in mind what there is to edit.
struct Writer {
    dice: ChaCha8Rng,
    acts: Vec<Act>,
    pupils: Vec<Pupil>,
    deals: Vec<Deal>,
    surnames: u32,
    is_of_a_cluster: bool,
    /// A trouble that goes on while the next one begins.
    lingering: Option<Trouble>,
}

struct Pupil {
    is_there: bool,
    is_flawed: bool,
}

struct Deal {
    is_won: bool,
}

impl Writer {
    fn new(seed: u64, kinds: &[Kind]) -> Writer {
        let dice = ChaCha8Rng::seed_from_u64(seed);
        let is_of_a_cluster = kinds.iter().any(|kind| Kind::OF_A_CLUSTER.contains(kind));
        let (acts, pupils, deals) = (Vec::new(), Vec::new(), Vec::new());
        Writer { dice, acts, pupils, deals, surnames: 0, is_of_a_cluster, lingering: None }
    }

    fn shuffle(&mut self, kinds: &mut [Kind]) {
        for place in (1..kinds.len()).rev() {
            kinds.swap(place, self.dice.random_range(0..=place));
        }
    }

    /// Has a trouble begin, life go on, and the trouble end: perhaps only when the next one is in full swing.
    fn trouble(&mut self, kind: Kind) {
        let trouble = self.choose(kind);
        if self.lingering.is_some_and(|other| !other.may_overlap(trouble)) {
            self.end_what_lingers();
        }
        self.acts.push(Act::Begin(trouble));
        for _ in 0..self.dice.random_range(2..=4) {
            self.edit();
        }
        if trouble.lets_polls_pass() && self.lingering.is_none_or(Trouble::lets_polls_pass) {
            self.acts.push(Act::Polls(1));
        }
        self.end_what_lingers();
        if self.dice.random_bool(0.5) {
            self.lingering = Some(trouble);
        } else {
            self.acts.push(Act::End(trouble));
        }
        if self.dice.random_bool(0.5) {
            self.edit();
        }
    }

    fn end_what_lingers(&mut self) {
        self.acts.extend(self.lingering.take().map(Act::End));
    }

    fn choose(&mut self, kind: Kind) -> Trouble {
        let stage = Stage::ALL[self.dice.random_range(0..Stage::ALL.len())];
        let consumer = Stage::ALL[self.dice.random_range(1..Stage::ALL.len())];
        let link = match self.dice.random_range(0..6) {
            0 => Link::Bitrix24,
            1 => Link::Otmechalka,
            // Stages of a cluster go to any of its servers.
            place if self.is_of_a_cluster => Link::Server(place % 3),
            place => Link::Nats(Stage::ALL[place - 2]),
        };
        let times = self.dice.random_range(1..=3);
        let server = times as usize - 1;
        match kind {
            Kind::ServerDies => Trouble::ServerDies(server),
            Kind::ServerStill => Trouble::ServerStill(server),
            Kind::ServerCutOff => Trouble::ServerCutOff(server),
            Kind::MajorityDies => Trouble::MajorityDies(server),
            Kind::Kill => Trouble::Kill(stage),
            Kind::KillTwice => Trouble::KillTwice(stage),
            Kind::Doom => {
                let (stage, place) = PLACES[self.dice.random_range(0..PLACES.len())];
                Trouble::Doom(stage, place)
            }
            Kind::Freeze => Trouble::Freeze(stage),
            Kind::Zombie => Trouble::Zombie(consumer),
            Kind::Broker => Trouble::Broker,
            Kind::Forget => Trouble::Forget(stage),
            Kind::Tear => Trouble::Tear(stage),
            Kind::Bitrix24 => Trouble::Bitrix24(BITRIX24[self.dice.random_range(0..BITRIX24.len())], times),
            Kind::Otmechalka => {
                Trouble::Otmechalka(OTMECHALKA[self.dice.random_range(0..OTMECHALKA.len())], times)
            }
            Kind::Cut => Trouble::Cut(link),
            Kind::Silence => Trouble::Silence(link),
            Kind::Slow => Trouble::Slow(link),
            Kind::Lossy => Trouble::Lossy(link),
            Kind::HalfOpen => Trouble::HalfOpen(link),
            Kind::Late => Trouble::Late,
            Kind::Redeliver => Trouble::Redeliver,
        }
    }

    fn edit(&mut self) {
        let edit = match self.dice.random_range(0..12) {
            0 | 1 => None,
            2 => self.pupil(|_| true).map(|pupil| self.burst(pupil)),
            3 => self.pupil(|pupil| !pupil.is_flawed).map(|pupil| self.spoil(pupil)),
            4 => self.pupil(|pupil| pupil.is_flawed).map(|pupil| self.mend(pupil)),
            5 => self.pupil(|_| true).map(Edit::ClearContact),
            6 => self.deal(|deal| deal.is_won).map(Edit::ClearDeal),
            7 => self.leave(),
            8 => self.deal(|deal| !deal.is_won).map(|deal| self.win(deal)),
            9 => self.deal(|_| true).map(|deal| self.reprice(deal)),
            _ => self.pupil(|_| true).map(|pupil| self.new_deal(pupil)),
        };
        let edit = edit.unwrap_or_else(|| self.new_pupil());
        self.acts.push(Act::Edit(edit));
    }

    fn pupil(&mut self, fits: impl Fn(&Pupil) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = (0..self.pupils.len())
            .filter(|place| self.pupils[*place].is_there && fits(&self.pupils[*place]))
            .collect();
        self.one_of(&fitting)
    }

    fn deal(&mut self, fits: impl Fn(&Deal) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = (0..self.deals.len()).filter(|place| fits(&self.deals[*place])).collect();
        self.one_of(&fitting)
    }

    fn one_of(&mut self, places: &[usize]) -> Option<usize> {
        (!places.is_empty()).then(|| places[self.dice.random_range(0..places.len())])
    }

    fn flaw(&mut self) -> Flaw {
        [Flaw::NoPhone, Flaw::NoSurname, Flaw::NoProduct][self.dice.random_range(0..3)]
    }

    fn next_surnames(&mut self, count: u32) -> u32 {
        let first = self.surnames;
        self.surnames += count;
        first
    }

    fn new_pupil(&mut self) -> Edit {
        let pupil = self.pupils.len();
        if self.dice.random_bool(0.15) {
            self.pupils.push(Pupil { is_there: true, is_flawed: false });
            return Edit::Import { pupil, seconds_ago: self.dice.random_range(5..60) };
        }
        let flaw = self.dice.random_bool(0.2).then(|| self.flaw());
        self.pupils.push(Pupil { is_there: true, is_flawed: flaw.is_some() });
        Edit::NewContact { pupil, flaw }
    }

    fn burst(&mut self, pupil: usize) -> Edit {
        let times = self.dice.random_range(1..=5);
        Edit::Burst { pupil, from: self.next_surnames(times), times }
    }

    fn spoil(&mut self, pupil: usize) -> Edit {
        self.pupils[pupil].is_flawed = true;
        Edit::Spoil { pupil, flaw: self.flaw() }
    }

    fn mend(&mut self, pupil: usize) -> Edit {
        self.pupils[pupil].is_flawed = false;
        Edit::Mend { pupil, surname: self.next_surnames(1) }
    }

    fn leave(&mut self) -> Option<Edit> {
        let pupil = self.pupil(|_| true)?;
        self.pupils[pupil].is_there = false;
        match self.pupil(|_| true) {
            Some(into) if self.dice.random_bool(0.5) => Some(Edit::Merge { pupil, into }),
            _ => Some(Edit::Delete(pupil)),
        }
    }

    fn new_deal(&mut self, pupil: usize) -> Edit {
        let (deal, is_won) = (self.deals.len(), self.dice.random_bool(0.7));
        self.deals.push(Deal { is_won });
        Edit::NewDeal { deal, pupil, is_won }
    }

    fn win(&mut self, deal: usize) -> Edit {
        self.deals[deal].is_won = true;
        Edit::Win(deal)
    }

    fn reprice(&mut self, deal: usize) -> Edit {
        Edit::Reprice { deal, rubles: self.dice.random_range(1..=90) * 100 }
    }

    /// Corrects half of what is wrong, so that both ends of a mistake are seen.
    fn mend_all(&mut self) {
        let flawed: Vec<usize> = (0..self.pupils.len())
            .filter(|place| self.pupils[*place].is_there && self.pupils[*place].is_flawed)
            .collect();
        for pupil in flawed.into_iter().step_by(2) {
            let mend = self.mend(pupil);
            self.acts.push(Act::Edit(mend));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn begun(plan: &Plan) -> Vec<Trouble> {
        plan.acts
            .iter()
            .filter_map(|act| match act {
                Act::Begin(trouble) => Some(*trouble),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_script_follows_from_its_seed_alone() {
        for seed in 0..200 {
            assert_eq!(Plan::of_seed(seed), Plan::of_seed(seed));
        }
        let scripts: BTreeSet<String> = (0..200).map(|seed| Plan::of_seed(seed).to_string()).collect();
        assert_eq!(scripts.len(), 200);
    }

    #[test]
    fn each_kind_asked_for_comes_once_and_every_trouble_ends() {
        for seed in 0..50 {
            let plan = Plan::new(seed, &Kind::ALL);
            let troubles = begun(&plan);
            assert_eq!(troubles.len(), Kind::ALL.len());
            for trouble in troubles {
                let begins = plan.acts.iter().position(|act| *act == Act::Begin(trouble));
                let ends = plan.acts.iter().position(|act| *act == Act::End(trouble));
                assert!(begins.is_some() && begins < ends, "{trouble:?} in {plan}");
            }
        }
    }

    #[test]
    fn troubles_come_together_where_they_do_not_exclude_each_other() {
        let mut together = BTreeSet::new();
        for seed in 0..300 {
            let mut under_way: Vec<Trouble> = Vec::new();
            for act in &Plan::of_seed(seed).acts {
                match act {
                    Act::Begin(trouble) => {
                        for other in &under_way {
                            assert!(
                                other.may_overlap(*trouble) && trouble.may_overlap(*other),
                                "seed {seed}"
                            );
                            together.insert(format!("{other:?} {trouble:?}"));
                        }
                        under_way.push(*trouble);
                    }
                    Act::End(trouble) => under_way.retain(|other| other != trouble),
                    Act::Polls(_) => assert!(under_way.iter().all(|trouble| trouble.lets_polls_pass())),
                    Act::Edit(_) => {}
                }
                assert!(under_way.len() <= 2, "seed {seed}: {under_way:?}");
            }
            assert!(under_way.is_empty(), "seed {seed}: {under_way:?}");
        }
        assert!(together.len() > 300, "{}", together.len());
        let excluded = [
            (Trouble::Freeze(Stage::Pusher), Trouble::Kill(Stage::Pusher)),
            (Trouble::Broker, Trouble::Redeliver),
            (Trouble::Cut(Link::Bitrix24), Trouble::Slow(Link::Bitrix24)),
            (Trouble::MajorityDies(0), Trouble::ServerStill(1)),
        ];
        for (one, other) in excluded {
            assert!(!one.may_overlap(other) && !other.may_overlap(one), "{one:?} {other:?}");
        }
    }

    #[test]
    fn only_what_is_there_is_edited() {
        for seed in 0..200 {
            let (mut pupils, mut deals) = (Vec::new(), 0);
            for act in &Plan::of_seed(seed).acts {
                let Act::Edit(edit) = act else { continue };
                let there = |pupil: &usize| pupils.get(*pupil) == Some(&true);
                match edit {
                    Edit::NewContact { pupil, .. } | Edit::Import { pupil, .. } => {
                        assert_eq!(*pupil, pupils.len());
                        pupils.push(true);
                    }
                    Edit::Burst { pupil, .. }
                    | Edit::Spoil { pupil, .. }
                    | Edit::Mend { pupil, .. }
                    | Edit::ClearContact(pupil) => assert!(there(pupil)),
                    Edit::Delete(pupil) => {
                        assert!(there(pupil));
                        pupils[*pupil] = false;
                    }
                    Edit::Merge { pupil, into } => {
                        assert!(there(pupil) && there(into) && pupil != into);
                        pupils[*pupil] = false;
                    }
                    Edit::NewDeal { deal, pupil, .. } => {
                        assert!(there(pupil));
                        assert_eq!(*deal, deals);
                        deals += 1;
                    }
                    Edit::ClearDeal(deal) | Edit::Win(deal) | Edit::Reprice { deal, .. } => {
                        assert!(*deal < deals);
                    }
                }
            }
        }
    }

    #[test]
    fn every_kind_of_edit_and_trouble_comes_up() {
        let word = |text: String| text.split(['{', '(', ' ']).next().unwrap_or_default().to_owned();
        let (mut edits, mut troubles) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..300 {
            let plan = Plan::of_seed(seed);
            troubles.extend(begun(&plan).into_iter().map(|trouble| word(format!("{trouble:?}"))));
            edits.extend(plan.acts.iter().filter_map(|act| match act {
                Act::Edit(edit) => Some(word(format!("{edit:?}"))),
                _ => None,
            }));
        }
        assert_eq!(troubles.len(), Kind::ALL.len() + Kind::OF_A_CLUSTER.len(), "{troubles:?}");
        assert_eq!(edits.len(), 12, "{edits:?}");
    }
}
