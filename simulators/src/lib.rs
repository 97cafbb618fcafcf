#![doc = include_str!("../README.md")]

pub mod bitrix24;
pub mod dataset;
pub mod otmechalka;
