//! The gateway's own RPC over Cap'n Proto: `schema/mcp.capnp` says what it means.
//!
//! - [`mcp_capnp`]: the generated interface
//! - [`Asked`]: what a client can ask, and the MCP call that it becomes
//! - [`message`]: the single-message form, bytes to bytes
//! - [`server`]: the capabilities, over functions that the edge gives; the edge owns the connection
//!
//! A message is untrusted: it is read within [`Limits`], which bound its size, how deep it nests and how much
//! of it is walked, since a small message can point at the same bytes again and again.

mod ask;
pub mod message;
mod reply;
pub mod server;

/// Generated from `schema/mcp.capnp`.
#[expect(
    missing_docs,
    clippy::unimplemented,
    clippy::unwrap_used,
    clippy::semicolon_if_nothing_returned,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod mcp_capnp {
    include!(concat!(env!("OUT_DIR"), "/mcp_capnp.rs"));
}

pub use ask::{Asked, Hop};

/// The name of this front door's client in MCP's `clientInfo`.
pub const CLIENT_NAME: &str = "sweetmcp-capnp";

/// Bounds on messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message, and of what is walked of it.
    pub message_bytes_max: usize,
    /// Structs and lists within each other.
    pub nesting_max: u16,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes_max: 8 * 1024 * 1024,
            nesting_max: 64,
        }
    }
}

impl Limits {
    /// The limits as Cap'n Proto's reader takes them; also for the RPC connection.
    #[must_use]
    pub fn reader_options(&self) -> ::capnp::message::ReaderOptions {
        let mut options = ::capnp::message::ReaderOptions::new();
        options
            .traversal_limit_in_words(Some(self.message_bytes_max / 8))
            .nesting_limit(i32::from(self.nesting_max));
        options
    }
}
