//! See the crate's README.

pub mod bitrix24;
pub mod dataset;
pub mod otmechalka;
