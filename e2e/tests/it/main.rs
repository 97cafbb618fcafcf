//! What Rollcall guarantees, against real processes.

mod faults;
mod flow;
mod rooms;
