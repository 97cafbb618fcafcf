//! What differs from run to run and is nobody's message: the host's clock and chance. Shells take both from here, so that
//! a simulation can have its own.

use chrono::{DateTime, Utc};

/// Returns what the host's clock shows.
pub fn now() -> DateTime<Utc> {
    #[cfg(all(feature = "faults", debug_assertions))]
    if let Some(world) = crate::simulated::current() {
        return world.now();
    }
    Utc::now()
}

/// Returns a number that nobody can guess, to tell processes apart.
pub fn token() -> u128 {
    #[cfg(all(feature = "faults", debug_assertions))]
    if let Some(world) = crate::simulated::current() {
        return u128::from(world.chance()) << 64 | u128::from(world.chance());
    }
    uuid::Uuid::new_v4().as_u128()
}

/// Returns a number from 0 to 1, to spread what would else happen at the same time.
pub fn noise() -> f64 {
    f64::from(token() as u32) / f64::from(u32::MAX)
}
