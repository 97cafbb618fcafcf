//! Walks all fixtures, and checks what holds for any input.

mod bad_input;
mod fixtures;
mod properties;
mod rules;
mod stage;
