//! What Rollcall guarantees, against real processes.

mod faults;
mod flow;
mod letters;
mod replay;
mod metrics;
mod observe_files;
mod rooms;
mod traces;
