//! WebAssembly components as plugins; the only crate that names wasmtime.
//!
//! The interface is `wit/plugin.wit`. A component is compiled once ([`Plugin::load`]); each call gets an instance of its own,
//! made ahead of time and thrown away after the call, so that nothing of one caller is there for the next. An instance has
//! what it was granted and nothing else: no file, no clock, no randomness, no network, no environment. It ends at its
//! deadline, wherever it is, and it cannot hold a thread meanwhile: every few milliseconds of its own work it lets others run.
//! Whatever it does, the process goes on.
//!
//! - [`Runtime`]: the engine that all plugins of a process share
//! - [`Plugin`]: one component, with its limits and grants
//! - [`Host`]: what a component may ask of whoever calls it
//! - [`Web`]: who sends its requests to other servers, if it may have any

mod plugin;
mod runtime;
mod state;
mod web;

pub use plugin::{CallError, LoadError, Plugin};
pub use runtime::{Runtime, RuntimeError};
pub use state::{Folder, Grants, Host, Level, Limits, Rights};
pub use web::{Fetch, FetchError, Web};

/// The interface as Rust has it.
mod interface {
    #![expect(missing_docs, reason = "generated; documented in the WIT")]
    wasmtime::component::bindgen!({
        path: "wit",
        world: "plugin",
        exports: { default: async },
    });
}
