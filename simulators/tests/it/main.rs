//! Both doubles over real connections.

mod otmechalka;
