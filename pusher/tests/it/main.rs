//! The real program against a real nats-server and a strict double of otmechalka.

mod bench;
mod far_side;
mod order;
mod tickets;
