//! The app: an MCP server of revision 2026-07-28 over HTTP, whose tools come from plugins.
//!
//! - [`server`]: HTTP to calls, and back
//! - [`plugin`]: where tools come from
//! - [`schema`]: JSON Schema without its dangers
//! - [`life`], [`metrics`]: what the process tells of itself

pub mod life;
pub mod metrics;
pub mod plugin;
pub mod schema;
pub mod server;

/// What the server says of itself (`serverInfo`).
pub fn server_info() -> serde_json::Value {
    serde_json::json!({"name": "sweetmcp", "title": "SweetMCP", "version": env!("CARGO_PKG_VERSION")})
}
