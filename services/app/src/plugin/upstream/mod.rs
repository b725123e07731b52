//! MCP servers behind us, whatever carries the messages.
//!
//! - [`connection`]: many calls over one connection
//! - [`call`]: a client's call, through every question to its answer
//! - [`handshake`]: which era, which lists
//! - [`forms`]: requests and answers between the eras; [`tasks`]: those of calls that outlive their request, and [`errands`], what these wait for
//! - [`watches`]: resources whose changes somebody wants to know
//! - [`backoff`]: how soon to try again

use std::time::Instant;

use mcp::{Cause, Failure, Revision};
use serde_json::{Value, json, value::RawValue};

use super::{Answer, State};

pub(crate) mod backoff;
pub(crate) mod call;
pub(crate) mod connection;
pub(crate) mod errands;
pub(crate) mod forms;
pub(crate) mod handshake;
pub(crate) mod tasks;
pub(crate) mod watches;

/// What carries messages to one server, and its answers back.
pub(crate) trait Wire: Sync {
    /// Asks, and waits until `deadline`.
    ///
    /// # Errors
    /// [`Lost`] when there is no answer.
    fn request(
        &self,
        method: &str,
        params: &RawValue,
        deadline: Instant,
        abandon: Abandon,
    ) -> impl Future<Output = Result<Answer, Lost>> + Send;

    /// Tells the server something, at the latest by `deadline`.
    ///
    /// # Errors
    /// [`Lost`] when it could not be told.
    fn notify(
        &self,
        method: &str,
        params: &RawValue,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), Lost>> + Send;

    /// Returns what we declare in an `initialize`: what the server may ask.
    fn capabilities(&self) -> Value {
        json!({})
    }

    /// Learns the revision that was agreed on, before anything else is sent.
    fn agreed(&self, _revision: Revision) {}
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It was not sent: the connection is closed.
    NotSent,
    /// It was not sent: too many are under way.
    Busy,
    /// It was sent, and the connection closed before the answer. The work may have been done.
    Broken,
    /// The deadline passed. The work may have been done.
    Late,
    /// The answer was larger than is taken. The work was done.
    TooLong,
    /// The server has forgotten the session, and did not look at the request.
    SessionGone,
    /// The server does not take our credential, and did not look at the request.
    Denied,
    /// The answer is not of the protocol. The work may have been done.
    Garbage,
    /// Nothing at the address takes messages.
    NoEndpoint,
}

/// Why a client's call has no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The server gave none.
    Lost(Lost),
    /// What was asked, or what came back, has no form in the other era.
    Failed(Failure),
}

impl NoAnswer {
    /// Says the same of a call that the server has begun.
    pub(crate) fn once_begun(self) -> Self {
        match self {
            Self::Lost(lost) => Self::Lost(lost.once_begun()),
            failed @ Self::Failed(_) => failed,
        }
    }

    /// Returns what the caller of the plugin `name` is told.
    pub(crate) fn failure(self, name: &str, state: &State) -> Failure {
        match self {
            Self::Lost(lost) => lost.failure(name, state),
            Self::Failed(failure) => failure,
        }
    }
}

/// What happens to the server's work when nobody waits for it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abandon {
    /// The server is told.
    Cancel,
    /// The server is not told: the protocol forbids it (`initialize`) or it could not understand.
    Ignore,
}

impl Lost {
    /// Says the same of a call that the server has begun: what is not sent any more takes nothing back.
    pub(crate) fn once_begun(self) -> Self {
        match self {
            Self::NotSent | Self::Busy | Self::SessionGone | Self::Denied | Self::NoEndpoint => {
                Self::Broken
            }
            Self::Broken | Self::Late | Self::TooLong | Self::Garbage => self,
        }
    }

    /// Returns what the caller of the plugin `name` is told.
    pub(crate) fn failure(self, name: &str, state: &State) -> Failure {
        let (cause, what) = match self {
            Self::NotSent | Self::SessionGone => (
                Cause::NoBackend,
                format!("is {}; the call was not sent", state.as_str()),
            ),
            Self::NoEndpoint => (
                Cause::NoBackend,
                "is not at its address; the call did not run".to_owned(),
            ),
            Self::Denied => (
                Cause::NoBackend,
                "is not let in by its server; the call did not run".to_owned(),
            ),
            Self::Busy => (
                Cause::Overloaded,
                "has too many calls under way; the call did not run".to_owned(),
            ),
            Self::Broken => (
                Cause::UpstreamBroken,
                "ended while the call was under way; the call may have run".to_owned(),
            ),
            Self::Late => (
                Cause::Timeout,
                "did not answer in time; the call may have run".to_owned(),
            ),
            Self::TooLong => (
                Cause::UpstreamInvalid,
                "answered more than is taken".to_owned(),
            ),
            Self::Garbage => (
                Cause::UpstreamInvalid,
                "answered something that is no MCP; the call may have run".to_owned(),
            ),
        };
        Failure::say(cause, format!("the plugin {name} {what}"))
    }
}
