#![doc = include_str!("../README.md")]

pub mod bitrix24;
mod bodies;
pub mod dataset;
pub mod otmechalka;
