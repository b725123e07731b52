//! Clients of the older era (2024-11-05 to 2025-11-25) over a server of 2026-07-28.
//!
//! No host holds a session: a session is a sealed token, what is known beside it stands in shared records,
//! and an answer that arrives at one host reaches the call that waits at another. So any host serves any
//! request, and losing one loses the calls that it ran and nothing else.
//!
//! It names no HTTP library: it takes a request's parts and its body and gives back status, headers and
//! either bytes or a stream of events. It does not check tokens, origins or rates: whoever calls it has.
//!
//! Reading order:
//! - [`host`]: requests and answers; [`Backend`] is what the server looks like from here
//! - `call`: one call, driven by [`mcp::era::OldClientCall`]
//! - [`tape`]: the event stream of a POST, and reading it again after a break
//! - `tasks`: what a session's tasks are, wherever they run
//! - [`listen`]: the stream that a session reads with GET
//! - [`talk`]: a session on a connection that carries messages both ways
//! - [`board`]: what hosts know of sessions, and mail for calls elsewhere
//! - [`shared`]: the records below, over [`store::Store`] or in memory
//! - [`keys`]: what sessions are sealed with

pub mod host;

mod call;
pub mod listen;
pub mod talk;
pub mod tape;
mod tasks;

pub mod board;
pub mod keys;
pub mod shared;

#[cfg(test)]
mod tests;

pub use board::Board;
pub use host::{Asker, Backend, Body, Host, Request, Response};
pub use shared::{Memory, Shared};
pub use talk::Talk;

/// A name that nobody can guess: 128 random bits.
pub(crate) fn random_name() -> String {
    use rand::RngExt;
    let bits: u128 = rand::rng().random();
    format!("{bits:032x}")
}
