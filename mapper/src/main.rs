//! Placeholder until the stage is wired to the runtime.
fn main() {}
