//! What Rollcall guarantees, against real processes.

mod credentials;
mod faults;
mod flow;
mod harness;
mod letters;
mod metrics;
mod observe_files;
mod reconcile;
mod replay;
mod rooms;
mod traces;
