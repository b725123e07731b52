//! GraphQL and Cap'n Proto to MCP tool calls, and the answers back.
//!
//! A front door that is not JSON-RPC needs two translations: what the client asks into tool calls, and
//! the replies into what the client asked for. Both are decisions, so this crate makes them as plain
//! functions from bytes to values and from values to bytes. It has no `async fn`, opens nothing and reads
//! no clock; whoever owns the sockets also makes the calls.
//!
//! - [`graphql`]: a typed schema made from the tools on offer; a request becomes a plan of calls
//! - [`capnp`]: the gateway's own RPC interface, `schema/mcp.capnp`, and its single-message form

pub mod capnp;
pub mod graphql;
