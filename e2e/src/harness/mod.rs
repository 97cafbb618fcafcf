//! The fault harness: a seeded script of edits and troubles against a whole school, and a judge who reads what both
//! CRMs saw.
//!
//! [`plan`] makes the script, a pure function of the seed; [`mod@play`] carries it out, each step awaited; [`judge`] checks
//! the invariants; [`witness`] watches for what only shows while it happens; [`curves`] measures the processes and [`growth`] sums the measurements up; [`quiet`] is a
//! school that just lives on.

pub mod curves;
pub mod growth;
pub mod judge;
pub mod people;
pub mod plan;
pub mod play;
pub mod quiet;
pub mod witness;

pub use judge::{Mended, Tally};
pub use plan::{Kind, Plan};
pub use play::play;
