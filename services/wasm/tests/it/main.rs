//! Components that behave and components that do not.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by a panic"
)]

mod examples;
mod grants;
mod harness;
mod rude;
