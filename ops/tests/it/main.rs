//! `rollcall` as its users meet it: the program itself, a real nats-server, the doubles of both CRMs.

mod bootstrap;
mod contract;
mod doctor;
mod envelope;
mod letters;
mod looks;
mod precedence;
mod serve;
mod support;
mod up;
