//! Everything that needs a whole fleet, or the whole repository.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod tidy;

mod adoption;
mod clients;
mod components;
mod configuration;
mod deploys;
mod eras;
mod front_doors;
mod hostile;
mod loadtest;
mod pinned;
mod seeds;
mod supervision;
mod telling;
mod users;
