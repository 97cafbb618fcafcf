//! See the crate's README.

pub mod dataset;
pub mod otmechalka;
