//! All chance of a run, from its seed.

use std::sync::{Arc, Mutex, PoisonError};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Clones draw from the same numbers.
#[derive(Clone)]
pub struct Chance(Arc<Mutex<ChaCha8Rng>>);

impl Chance {
    /// Begins the numbers of a seed; each use of one seed has a stream of its own.
    pub fn of(seed: u64, stream: u64) -> Chance {
        let mut numbers = ChaCha8Rng::seed_from_u64(seed);
        numbers.set_stream(stream);
        Chance(Arc::new(Mutex::new(numbers)))
    }

    pub fn next(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    pub fn below(&self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn between(&self, from: u64, end: u64) -> u64 {
        from + self.below(end - from)
    }

    pub fn one_in(&self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
