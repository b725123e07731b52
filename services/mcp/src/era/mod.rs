//! Between the eras, both ways and for every pair of methods, as pure state machines.
//!
//! | a client of | calls a server of | with |
//! |---|---|---|
//! | the older era | 2026-07-28 | [`old_client`]: questions in a result become requests on the client's stream, its answers a retry |
//! | 2026-07-28 | the older era | [`old_server`]: requests of the server become questions in a result, the retry its answers |
//!
//! [`handshake`] makes `initialize` and `server/discover` from each other, [`result`] gives results and
//! errors the form that a revision knows, [`listen`] does the same for what servers tell unasked, and
//! [`tasks`] for work that outlives its request. README.md has a row for each pair of methods, with the
//! test that shows it.
//!
//! A machine takes what happened and answers what to do; the host moves the bytes and keeps the time.

pub mod handshake;
pub mod listen;
pub mod old_client;
pub mod old_server;
pub mod result;
pub mod tasks;

pub use handshake::{Initialize, OldServer, initialize_params, initialize_result, read_initialize};
pub use listen::{OldClientStream, Subscriptions};
pub use old_client::OldClientCall;
pub use old_server::OldServerCall;
pub use result::{CacheHint, legacy_result};
