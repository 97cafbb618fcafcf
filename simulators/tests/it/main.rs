//! Both doubles over real connections.

mod bitrix24;
mod otmechalka;
