//! What one entity's job remembers between requests. All of it may be forgotten: the checkpoint is the truth.

use bitrix24::ChainLength;
use bitrix24::keyset::PAGE_ROWS;
use tokio::time::Instant;

use schemas::Checkpoint;

use crate::entity::Plan;
use crate::walk::{Clock, Moment};

/// Bytes of rows that one answer should stay below.
const ANSWER_BYTES: usize = 4 << 20;

/// Pages that one request asks for, one request of a walk after the other.
const CHAIN_LENGTHS: [u8; 4] = [1, 4, 16, 50];

/// Most times that the length of chains is halved: the longest then has one page.
const MOST_NARROWED: u8 = 6;

/// Most pages of records for each of which another command is needed: their commands fill ten requests, after
/// which others should have their turn.
const SLOW_CHAIN: u8 = 10;

/// The job of one entity.
pub struct Job {
    /// How the entity is read.
    pub plan: Plan,
    /// When it is to poll again.
    pub due: Instant,
    /// Whether a window is open.
    pub walking: bool,
    /// Until when it is left alone, as the portal does not give what it alone asks for.
    pub rests_until: Option<Instant>,
    /// How often in a row the portal did not give what it asked for.
    pub unanswered: u32,
    /// Where to ask from while the portal's clock is behind the watermark.
    pub floor: Option<Moment>,
    /// Where to ask from once more, as another producer published what it had read of that time.
    pub again_from: Option<Moment>,
    /// What the poll under way has done so far.
    pub tally: Tally,
    /// When the poll under way was begun; none where that was another process.
    begun: Option<Instant>,
    last_begun: Option<Instant>,
    bytes_per_row: usize,
    /// How often the length of chains is halved.
    narrowed: u8,
}

/// What a poll has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests with rows in them, each of one or several pages.
    pub answers: u64,
    /// Records read.
    pub records: u64,
    /// Records that were news.
    pub published: u64,
    /// Requests sent to the portal for it, those for what belongs to the records included.
    pub requests: u64,
}

impl Job {
    /// Starts a job that is due at once.
    pub fn new(plan: Plan, now: Instant) -> Job {
        let tally = Tally::default();
        Job {
            plan,
            due: now,
            walking: false,
            rests_until: None,
            unanswered: 0,
            floor: None,
            again_from: None,
            tally,
            begun: None,
            last_begun: None,
            bytes_per_row: 0,
            narrowed: 0,
        }
    }

    /// Has the next poll reach back to a time.
    pub fn read_again_from(&mut self, modified: Moment) {
        self.again_from = Some(self.again_from.map_or(modified, |earlier| earlier.min(modified)));
    }

    /// Returns how far back a poll has to reach, where that is further than usual.
    pub fn reaches_back_to(&self) -> Option<Moment> {
        [self.floor, self.again_from].into_iter().flatten().min()
    }

    /// Tells how many pages to ask for in the next request.
    ///
    /// A quiet poll needs one. A first sync surely needs many; a walk shows only as it goes on, and pages asked for
    /// in vain are noise that the portal had to make.
    pub fn chain_length(&self, is_first_sync: bool, is_slow: bool) -> ChainLength {
        let longest = CHAIN_LENGTHS[CHAIN_LENGTHS.len() - 1];
        let place = usize::try_from(self.tally.answers).unwrap_or(usize::MAX).min(CHAIN_LENGTHS.len() - 1);
        let place = if self.walking { place.max(1) } else { place };
        let wanted = if is_first_sync { longest } else { CHAIN_LENGTHS[place] };
        let fitting = ANSWER_BYTES / (PAGE_ROWS * self.bytes_per_row.max(1));
        let wanted = if is_slow { wanted.min(SLOW_CHAIN) } else { wanted };
        let pages = (wanted.min(u8::try_from(fitting).unwrap_or(longest)) >> self.narrowed).max(1);
        ChainLength::try_new(pages).unwrap_or(ChainLength::SINGLE)
    }

    /// Has the next request ask for less: what is read for several pages is lost if the portal fails once meanwhile.
    pub fn note_failure(&mut self) {
        self.narrowed = (self.narrowed + 1).min(MOST_NARROWED);
    }

    /// Notes that the portal did not give what it asked for.
    pub fn note_unanswered(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// Has the next request ask for more again.
    pub fn note_success(&mut self) {
        self.unanswered = 0;
        self.narrowed = self.narrowed.saturating_sub(1);
    }

    /// Tells whether it has something to do.
    pub fn is_wanted(&self, now: Instant) -> bool {
        !self.is_resting(now) && (self.walking || self.due <= now)
    }

    /// Tells whether it is left alone.
    pub fn is_resting(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }

    /// Returns when it next has something to do.
    pub fn next_turn(&self, now: Instant) -> Instant {
        let next = if self.walking { now } else { self.due };
        self.rests_until.map_or(next, |until| until.max(next))
    }

    /// Learns how big rows are.
    pub fn note_rows(&mut self, rows: usize, bytes: usize) {
        if let Some(each) = bytes.checked_div(rows) {
            // A page of small rows must not make the next answer of big ones too big.
            self.bytes_per_row = each.max(self.bytes_per_row * 3 / 4);
        }
    }

    /// Goes on where another process was, which may have followed a clock that was set back or had something to read again.
    pub fn resume(&mut self, checkpoint: &Checkpoint) {
        if self.last_begun.is_none() && self.floor.is_none() {
            let read_until = checkpoint.poll.and_then(|poll| poll.read_until);
            self.floor = read_until.filter(|read_until| *read_until < checkpoint.watermark);
        }
        checkpoint.again_from.into_iter().for_each(|from| self.read_again_from(from));
    }

    /// Begins a poll, once its first answer is dealt with: it reached back as far as was wanted.
    pub fn begin_poll(&mut self, asked: Instant) {
        self.begun = Some(asked);
        self.again_from = None;
    }

    /// Ends a poll: says when the next one is, and what to make of the portal's clock.
    pub fn end_poll(&mut self, clock: Clock, now: Instant) {
        self.floor = clock.floor;
        self.last_begun = self.begun.take();
        self.tally = Tally::default();
        self.due = if clock.went_back { now } else { (self.due.min(now) + self.plan.interval).max(now) };
    }

    /// Returns when the last poll that ended was begun.
    pub fn last_begun(&self) -> Option<Instant> {
        self.last_begun
    }

    /// Tells whether a poll due at the same time or soon may as well take this one along.
    pub fn is_nearly_due(&self, now: Instant) -> bool {
        self.due <= now + self.plan.interval / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::deals;
    use schemas::Poll;
    use std::time::Duration;

    fn job() -> Job {
        Job::new(deals(), Instant::now())
    }

    fn pages(job: &Job) -> u8 {
        job.chain_length(false, false).pages()
    }

    #[test]
    fn chains_grow_with_the_walk_and_start_long_on_a_first_sync() {
        let mut job = job();
        assert_eq!((pages(&job), job.chain_length(true, false).pages()), (1, 50));
        job.walking = true;
        let mut lengths = Vec::new();
        for answers in 0..5 {
            job.tally.answers = answers;
            lengths.push(pages(&job));
        }
        assert_eq!(lengths, [4, 4, 16, 50, 50]);
        assert_eq!(job.chain_length(true, true).pages(), SLOW_CHAIN);
    }

    #[test]
    fn big_rows_make_short_chains() {
        let mut job = job();
        job.note_rows(50, 50 * 8_000);
        assert_eq!(job.chain_length(true, false).pages(), 10);
        job.note_rows(50, 50 * 1_000_000);
        assert_eq!(job.chain_length(true, false).pages(), 1);
    }

    #[test]
    fn chains_shrink_with_failures_and_grow_again() {
        let mut job = job();
        let mut lengths = Vec::new();
        for _ in 0..7 {
            job.note_failure();
            lengths.push(job.chain_length(true, false).pages());
        }
        assert_eq!(lengths, [25, 12, 6, 3, 1, 1, 1]);
        (0..6).for_each(|_| job.note_success());
        assert_eq!(job.chain_length(true, false).pages(), 50);
    }

    #[test]
    fn a_job_that_rests_has_its_turn_afterwards() {
        let mut job = job();
        let now = job.due;
        job.rests_until = Some(now + Duration::from_secs(300));
        assert!(!job.is_wanted(now) && job.is_wanted(now + Duration::from_secs(300)));
        assert_eq!(job.next_turn(now), now + Duration::from_secs(300));
    }

    #[test]
    fn a_late_poll_is_not_made_up_for() {
        let mut job = job();
        let begun = job.due;
        let clock = Clock { floor: None, went_back: false };
        job.end_poll(clock, begun + Duration::from_millis(10));
        assert_eq!(job.due, begun + Duration::from_secs(60));
        let late = begun + Duration::from_secs(600);
        job.end_poll(clock, late);
        assert_eq!(job.due, late);
        job.end_poll(clock, late);
        assert_eq!(job.due, late + Duration::from_secs(60));
    }

    #[test]
    fn what_another_producer_published_is_read_again_once() {
        let mut job = job();
        let at = |second| Moment::parse_from_rfc3339(&format!("2026-01-10T10:00:{second}+03:00")).unwrap();
        let (clock, now) = (Clock { floor: None, went_back: false }, Instant::now());
        job.begin_poll(now);
        job.read_again_from(at(20));
        job.read_again_from(at(30));
        job.end_poll(clock, now);
        assert_eq!(job.reaches_back_to(), Some(at(20)), "a walk that had begun before may have been past it");
        job.begin_poll(now);
        assert_eq!(job.reaches_back_to(), None);
    }

    #[test]
    fn what_is_to_be_read_again_outlives_the_process() {
        let at = |minute| Moment::parse_from_rfc3339(&format!("2026-01-10T10:{minute}:00+03:00")).unwrap();
        let stored = Checkpoint {
            watermark: at(40),
            window: Some(schemas::Window { from: at(38), until: at(50), cursor: 7 }),
            polls: 7,
            again_from: Some(at(45)),
            poll: Some(Poll { observed: at(41), interval_seconds: 60, read_until: Some(at(40)) }),
        };
        let mut job = job();
        job.resume(&stored);
        job.end_poll(Clock { floor: None, went_back: false }, Instant::now());
        assert_eq!(job.reaches_back_to(), Some(at(45)), "the walk that was under way may have been past it");
        job.begin_poll(Instant::now());
        job.resume(&Checkpoint { again_from: None, ..stored });
        assert_eq!(job.reaches_back_to(), None);
    }

    #[test]
    fn a_clock_that_was_set_back_is_followed_across_a_restart() {
        let at = |minute| Moment::parse_from_rfc3339(&format!("2026-01-10T10:{minute}:00+03:00")).unwrap();
        let polled = |read_until| Checkpoint {
            watermark: at(40),
            window: None,
            polls: 7,
            again_from: None,
            poll: Some(Poll { observed: at(31), interval_seconds: 60, read_until }),
        };
        let floor = |read_until| {
            let mut job = job();
            job.resume(&polled(read_until));
            job.reaches_back_to()
        };
        assert_eq!(floor(Some(at(30))), Some(at(30)));
        assert_eq!(floor(Some(at(40))), None);
        assert_eq!(floor(None), None);
        let mut job = job();
        job.begin_poll(Instant::now());
        job.end_poll(Clock { floor: None, went_back: false }, Instant::now());
        job.resume(&polled(Some(at(30))));
        assert_eq!(job.reaches_back_to(), None, "this process has seen the clock itself");
    }
}
