//! Clients of the older era (2024-11-05 to 2025-11-25) over a server of 2026-07-28.
//!
//! No host holds a session: a session is a sealed token, what is known beside it stands in shared records,
//! and an answer that arrives at one host reaches the call that waits at another. So any host serves any
//! request, and losing one loses the calls that it ran and nothing else.
//!
//! It names no HTTP library: it takes a request's parts and its body and gives back status, headers and
//! either bytes or a stream of events. It does not check tokens or origins: whoever calls it has. Of rates it asks
//! [`Backend::admit`] for what it does by itself.
//!
//! Reading order:
//! - [`host`]: requests and answers; [`Backend`] is what the server looks like from here
//! - `call`: one call, driven by [`mcp::era::OldClientCall`]
//! - `names`: what calls are called, so that answers to their questions can be told from others
//! - [`tape`]: the event stream of a POST, and reading it again after a break
//! - `tasks`: what a session's tasks are, wherever they run
//! - [`listen`]: the stream that a session reads with GET
//! - [`talk`]: a session on a connection that carries messages both ways
//! - [`board`]: what hosts know of sessions, and mail for calls elsewhere
//! - `budget`: how many records one principal has
//! - [`shared`]: the records below, in the fleet's store or in memory
//! - [`keys`]: what sessions are sealed with

pub mod host;

mod call;
pub mod listen;
mod names;
pub mod talk;
pub mod tape;
mod tasks;

pub mod board;
mod budget;
pub mod keys;
pub mod shared;

#[cfg(test)]
mod tests;

pub use board::Board;
pub use host::{Asker, Backend, Body, Host, Request, Response};
pub use shared::{Memory, Records, Shared};
pub use talk::Talk;

/// A name that nobody can guess: 128 random bits.
pub(crate) fn random_name() -> String {
    use rand::RngExt;
    let bits: u128 = rand::rng().random();
    format!("{bits:032x}")
}
