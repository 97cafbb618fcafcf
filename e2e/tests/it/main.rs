//! What Rollcall guarantees, against real processes.

mod credentials;
mod erase;
mod faults;
mod flow;
mod letters;
mod metrics;
mod observe_files;
mod reconcile;
mod replay;
mod rooms;
mod rotation;
mod secrets;
mod shell;
mod supply;
mod tls;
mod traces;
