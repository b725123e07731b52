//! The app as its callers see it: over HTTP, with real MCP servers behind it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by a panic"
)]

mod harness;

mod apis;
mod bounds;
mod builtins;
mod children;
mod components;
mod conformance;
mod cycles;
mod http;
mod listeners;
mod lists;
mod older;
mod process;
mod remote;
mod rounds;
mod servers;
mod streams;
mod suite_client;
mod tasks;
mod users;
