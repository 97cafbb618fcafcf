//! What Rollcall guarantees, against real processes.

mod credentials;
mod faults;
mod flow;
mod harness;
mod hostile;
mod letters;
mod metrics;
mod observe_files;
mod page;
mod reconcile;
mod replay;
mod rooms;
mod settings_files;
mod subscribing;
mod sums;
mod traces;
