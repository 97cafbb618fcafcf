//! Places where a test may have a stage killed, and mistakes that it may plant. Not there in any production build.
//!
//! Two locks keep them out. The feature `faults` is off unless `e2e` is built along, which no build of the programs
//! for use does; and even then they are compiled in only together with debug assertions, which no release has. Where
//! they are absent the functions below are empty and nothing in the environment is looked at.

use schemas::RecordRef;

/// Whether this build has them.
pub const COMPILED_IN: bool = cfg!(all(feature = "faults", debug_assertions));

/// Variable that names where the process is to die: `PLACE`, `PLACE@contact.5` only over that record, `PLACE+2` after
/// having passed there twice. `!PLACE` has it panic instead, with [`LAST_WORDS`].
pub const CRASH_VARIABLE: &str = "ROLLCALL_CRASH_AT";

/// What a panic there says, in the place of a record that it might quote. Nobody may hear it.
pub const LAST_WORDS: &str = "the-words-of-a-panic-about-a-pupil";

/// Variable that names the mistake that the process is to make.
pub const MISTAKE_VARIABLE: &str = "ROLLCALL_MISTAKE";

/// Dies here, as by `kill -9`, where a test asked for it.
#[inline(always)]
pub fn crash_point(place: &str) {
    crash_point_of(place, None);
}

/// Dies here where a test asked for it, for any record or for this one.
#[inline(always)]
pub fn crash_point_of(place: &str, record: Option<RecordRef>) {
    #[cfg(all(feature = "faults", debug_assertions))]
    planted::pass(place, record);
    #[cfg(not(all(feature = "faults", debug_assertions)))]
    let _unused = (place, record);
}

/// Tells whether a test planted this mistake, to see whether the harness finds it.
#[inline(always)]
pub fn is_planted(mistake: &str) -> bool {
    #[cfg(all(feature = "faults", debug_assertions))]
    if let Some(world) = crate::simulated::current() {
        return world.mistake() == Some(mistake);
    }
    #[cfg(all(feature = "faults", debug_assertions))]
    return planted::mistake().is_some_and(|planted| planted == mistake);
    #[cfg(not(all(feature = "faults", debug_assertions)))]
    {
        let _unused = mistake;
        false
    }
}

/// Says what is planted, so that nobody takes such a process for a sound one.
pub fn confess() {
    #[cfg(all(feature = "faults", debug_assertions))]
    planted::confess();
}

#[cfg(all(feature = "faults", debug_assertions))]
mod planted {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use schemas::RecordRef;

    use super::{CRASH_VARIABLE, LAST_WORDS, MISTAKE_VARIABLE};

    /// Where to die.
    #[derive(Debug, PartialEq)]
    struct Crash {
        place: String,
        record: Option<String>,
        /// Passes that are survived first.
        passes: u64,
        /// By a panic.
        is_panic: bool,
    }

    impl Crash {
        fn parse(text: &str) -> Crash {
            let (text, is_panic) = text.strip_prefix('!').map_or((text, false), |text| (text, true));
            let (text, passes) = text.split_once('+').unwrap_or((text, "0"));
            let (place, record) = match text.split_once('@') {
                Some((place, record)) => (place, Some(record.to_owned())),
                None => (text, None),
            };
            Crash { place: place.to_owned(), record, passes: passes.parse().unwrap_or(0), is_panic }
        }

        fn fits(&self, place: &str, record: Option<RecordRef>) -> bool {
            let wanted = self.record.as_deref();
            self.place == place
                && wanted.is_none_or(|wanted| record.is_some_and(|record| record.to_string() == wanted))
        }
    }

    fn crash() -> Option<&'static Crash> {
        static CRASH: OnceLock<Option<Crash>> = OnceLock::new();
        CRASH.get_or_init(|| std::env::var(CRASH_VARIABLE).ok().map(|text| Crash::parse(&text))).as_ref()
    }

    pub fn mistake() -> Option<&'static str> {
        static MISTAKE: OnceLock<Option<String>> = OnceLock::new();
        MISTAKE.get_or_init(|| std::env::var(MISTAKE_VARIABLE).ok()).as_deref()
    }

    pub fn pass(place: &str, record: Option<RecordRef>) {
        static PASSED: AtomicU64 = AtomicU64::new(0);
        let Some(crash) = crash().filter(|crash| crash.fits(place, record)) else { return };
        if PASSED.fetch_add(1, Ordering::SeqCst) < crash.passes {
            return;
        }
        assert!(!crash.is_panic, "{LAST_WORDS}");
        // Not an exit: nothing is flushed, closed or told to anybody.
        let _dead = kill(Pid::this(), Signal::SIGKILL);
        loop {
            std::thread::park();
        }
    }

    pub fn confess() {
        if let Some(Crash { place, .. }) = crash() {
            tracing::warn!("A test build: this process is to die at `{place}`");
        }
        if let Some(mistake) = mistake() {
            tracing::warn!("A test build: this process makes the mistake `{mistake}`");
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use schemas::RecordId;

        #[test]
        fn a_place_may_name_a_record_and_passes() {
            let whole = Crash::parse("before-create@contact.5+2");
            assert_eq!((whole.place.as_str(), whole.passes), ("before-create", 2));
            let [five, six] = [5, 6].map(|id| Some(RecordRef::contact(RecordId::try_new(id).unwrap())));
            assert!(whole.fits("before-create", five));
            assert!(!whole.fits("before-create", six) && !whole.fits("before-create", None));
            assert!(!whole.fits("before-ack", five));
            assert!(Crash::parse("before-ack").fits("before-ack", six));
            assert!(Crash::parse("!before-ack").is_panic && !whole.is_panic);
        }
    }
}
