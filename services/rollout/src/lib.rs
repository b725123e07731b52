//! How a canary deploy is planned, measured, judged and driven, as pure functions.
//!
//! The crate opens nothing, reads no clock and has no `async`: a driver reads the world into an
//! [`Observation`], asks [`next`] what to do, writes the [`State`] it got to its journal, performs
//! the [`Action`]s, and begins again. Time comes in as unix milliseconds. That makes a rollout
//! something that a test can run a thousand times a second, and that `kill -9` cannot confuse: the
//! journal and the world together always say what comes next.
//!
//! In reading order: a [`Strategy`] says how careful to be; a [`Plan`] binds it to two releases;
//! [`measure`] turns the edges' counters into what happened in one tick; [`judge`] says what that
//! proves; [`machine`] decides; [`exit`] is what the shell hears of it.

pub mod exit;
pub mod quantity;

pub mod strategy;

pub mod plan;

mod explain;
mod power;

pub mod measure;

pub mod judge;

pub mod machine;

mod draws;

pub use exit::Exit;
pub use explain::Assumptions;
pub use judge::{Evidence, Judgement, Verdict};
pub use machine::{
    Action, Candidate, Cause, Command, CommandKind, Counters, EdgeAck, Event, Observation, Outcome,
    Phase, Pool, Share, Stage, State, StateError, Status, Traffic, TrafficSeen, Verification, next,
};
pub use measure::{EdgeReport, ReleaseCounters};
pub use plan::{Plan, Release};
pub use power::{Power, power};
pub use quantity::{BasisPoints, Fraction};
pub use strategy::{Invalid, OnInconclusive, Problem, Step, Strategy};
