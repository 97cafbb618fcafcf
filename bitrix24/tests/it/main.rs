//! The client against portals on this machine.

mod answers;
mod budgets;
mod calls;
mod listings;
mod portal;
mod redirects;
mod secrets;
