//! Everything that needs a whole fleet, or the whole repository.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod tidy;

mod abandoned;
mod adoption;
mod clients;
mod components;
mod configuration;
mod deploys;
mod doors;
mod eras;
mod events;
mod fairness;
mod front_doors;
mod hostile;
mod idle_streams;
mod large_results;
mod listening;
mod loadtest;
mod matrix;
mod pinned;
mod refusals;
mod repeats;
mod seeds;
mod sessions;
mod signed;
mod supervision;
mod tasks;
mod telling;
mod tool_search;
mod upstreams;
mod users;
mod visibility;
mod websocket;
