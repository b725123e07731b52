//! The Model Context Protocol as types: five revisions, two eras, one form inside the fleet.
//!
//! Inside SweetMCP every request is a [`Call`] in the form of revision 2026-07-28: stateless, with the
//! client's version, capabilities and name in `params._meta`. Front doors turn what they take into a
//! `Call`, and a [`Reply`] back into what their client speaks. This crate holds the forms and the
//! conversions between them, and nothing that does I/O: no `async fn`, no clock, no randomness. Time and
//! nonces are arguments.
//!
//! What it does not look into it does not touch: `params`, `result` and unknown members stay the bytes
//! that came ([`serde_json::value::RawValue`]).
//!
//! Reading order:
//! - [`revision`]: the five revisions and their two eras
//! - [`envelope`]: JSON-RPC 2.0 messages, borrowed
//! - [`method`]: what may be asked, and what may be asked twice
//! - [`call`]: the one form of request and answer
//! - [`failure`]: the one table of causes, for every protocol
//! - [`headers`]: the HTTP header rules of 2026-07-28
//! - [`locale`]: the language that a client wants
//! - [`tool`]: tools as a server lists them
//! - [`mirror`]: arguments that the head repeats
//! - [`capability`]: what a client can be asked for
//! - [`input`]: results that ask for input, and the retry that brings it
//! - [`notification`]: what one side tells the other
//! - [`sse`]: server-sent events
//! - [`lines`], [`incoming`]: what a server writes, line by line or event by event, as messages
//! - [`seal`]: what leaves the fleet and comes back unread
//! - [`session`]: sessions of the older era, as sealed tokens
//! - [`parked`]: calls that wait for input, as a sealed `requestState`
//! - [`era`]: older requests and results to 2026-07-28 and back

pub mod call;
pub mod capability;
pub mod envelope;
pub mod era;
pub mod failure;
pub mod headers;
pub mod incoming;
pub mod input;
pub mod lines;
pub mod locale;
pub mod members;
pub mod method;
pub mod mirror;
pub mod notification;
pub mod parked;
pub mod revision;
pub mod seal;
pub mod session;
pub mod sse;
pub mod tool;

pub use call::{Call, FrontDoor, Outcome, Reply};
pub use envelope::{Id, Message, Refused};
pub use failure::{Cause, Failure, Origin};
pub use method::{Method, Repeat};
pub use mirror::{Mirror, ParamHeaders};
pub use revision::{Era, Revision};
pub use tool::{Hints, Tool};
