//! Every decision the gateway takes about a call, as pure synchronous code.
//!
//! The edge asks one of these modules, gets a verdict, and acts on it. Nothing here waits, opens anything or reads a clock:
//! the time is an argument, and so is every random number. That makes a minute of traffic over two hundred instances a
//! test of a few milliseconds, and it makes a decision reproducible from its facts.
//!
//! # Reading order
//!
//! The order is that of a call on its way through the edge.
//!
//! 1. [`admission`]: is there room for one more call? Hands out a permit that frees its place on drop.
//!    [`fair`]: if not, who waits, who gets the next place, who is sent away. [`concurrency`]: how much room there is.
//! 2. [`deadline`]: how long may the call take, and how much of that may one attempt take?
//! 3. [`limit`]: has this principal tokens left?
//! 4. [`split`]: which release serves the call?
//! 5. [`health`]: which instances of it may be used?
//! 6. [`balance`]: which of those gets the call? Hands out a pick that frees its place on drop.
//! 7. [`retry`]: the attempt failed; is there to be another one, and when?
//!
//! [`flags`] decides beside them which features are on for a caller.
//!
//! # The shape of a module
//!
//! * `Rules` are what the operator sets. They are checked once, when the state is built.
//! * `Facts` are what the call brings: the time, the entropy, a key, what happened.
//! * The verdict is a plain value: an enum that names each way on, or a guard that must be held.
//! * State that calls share ([`limit::Limiter`], [`balance::Pool`], [`retry::Budget`], [`admission::Gate`]) lives behind
//!   atomics or short locks and is bounded in size; deciding allocates nothing.
//!
//! # What this crate does not know
//!
//! HTTP, MCP, the registry, settings files, metrics, and any other crate of this workspace.
//!
//! # Time
//!
//! Shared state takes an [`Instant`](std::time::Instant) when it is built and counts nanoseconds from there. An instant
//! before that start counts as the start; two threads that pass slightly disordered instants do no harm.

pub mod admission;
pub mod concurrency;
pub mod deadline;
pub mod fair;
pub mod limit;
pub mod split;

pub mod health;

pub mod balance;

pub mod retry;

pub mod flags;

mod dice;
mod epoch;
mod gcra;
