//! A whole fleet for a test: real processes, free ports, one folder of state, logs kept when a test fails.
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! let fleet = testkit::Fleet::up("").await?;
//! let now = fleet.call_tool("time_now", serde_json::json!({})).await?;
//! # Ok(()) }
//! ```
//!
//! A fleet is started with `sweetops up`, as a user would, from the binaries beside the test
//! (`cargo build --workspace --bins` makes them).

mod client;
mod fleet;
mod tools;

pub use client::{Answer, Client};
pub use fleet::{Endpoints, Fleet, Instance, Ran, Status, eventually, interrupt};
pub use tools::{binary, node, python, test_tools, workspace};
