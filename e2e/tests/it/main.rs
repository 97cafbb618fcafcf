//! What Rollcall guarantees, against real processes.

mod cluster;
mod credentials;
mod doctor;
mod erase;
mod faults;
mod flow;
mod harness;
mod hostile;
mod letters;
mod metrics;
mod observe_files;
mod page;
mod prometheus;
mod reconcile;
mod replay;
mod replicas;
mod rooms;
mod rotation;
mod secrets;
mod settings_files;
mod shell;
mod subscribing;
mod sums;
mod supply;
mod tls;
mod traces;
