//! What Rollcall guarantees, against real processes.

mod credentials;
mod faults;
mod flow;
mod letters;
mod metrics;
mod observe_files;
mod reconcile;
mod replay;
mod replicas;
mod rooms;
mod traces;
