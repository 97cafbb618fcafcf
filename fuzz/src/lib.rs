#![doc = include_str!("../README.md")]

mod corpus;
mod json;
mod mutate;
mod run;
pub mod targets;

pub use corpus::{keep, kept};
pub use mutate::Mutator;
pub use run::{Finding, Report, Until, run};

/// An edge that parses foreign bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// What it is called on the command line; also its folder in `corpus/`.
    pub name: &'static str,
    /// Sound inputs and known oddities to start from, besides the kept corpus.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Parses one input, asserts what has to hold, and says in few words what came of it.
    ///
    /// An input whose words are new is a place to go on from.
    pub check: fn(&[u8]) -> String,
}
