//! The warehouse against a real PostgreSQL and a real NATS.

mod bench;
mod postgres;
mod rotation;
mod school;
mod shapes;
mod tls;
mod versions;
