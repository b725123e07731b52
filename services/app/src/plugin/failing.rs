//! Why a plugin is not up, as few words that metrics can carry.

use std::sync::atomic::{AtomicU64, Ordering};

use super::upstream::{Lost, handshake::HandshakeError};

/// Why a plugin is not up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// It could not be started or reached, or what it is made of cannot be used.
    Unreachable,
    /// It ended, or closed the connection.
    Ended,
    /// It gave no answer in time.
    Silent,
    /// What it said is not of the protocol.
    Garbage,
    /// It answered with an error, or does not take the credential.
    Refused,
    /// It took more memory than it may.
    Memory,
    /// It computed more than it may.
    Cpu,
    /// It had more processes than it may.
    Processes,
}

impl Failing {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Unreachable,
        Self::Ended,
        Self::Silent,
        Self::Garbage,
        Self::Refused,
        Self::Memory,
        Self::Cpu,
        Self::Processes,
    ];

    /// Returns the word for metrics and health.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Ended => "ended",
            Self::Silent => "silent",
            Self::Garbage => "garbage",
            Self::Refused => "refused",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Processes => "processes",
        }
    }
}

impl From<Lost> for Failing {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::NotSent | Lost::NoEndpoint => Self::Unreachable,
            Lost::Broken | Lost::SessionGone => Self::Ended,
            Lost::Late | Lost::Busy => Self::Silent,
            Lost::TooLong | Lost::Garbage => Self::Garbage,
            Lost::Denied => Self::Refused,
        }
    }
}

impl From<&HandshakeError> for Failing {
    fn from(error: &HandshakeError) -> Self {
        match error {
            HandshakeError::Lost { lost, .. } => (*lost).into(),
            HandshakeError::Refused { .. } => Self::Refused,
            HandshakeError::Form { .. } => Self::Garbage,
        }
    }
}

/// How often a plugin failed, by why.
#[derive(Debug, Default)]
pub struct Failures([AtomicU64; Failing::ALL.len()]);

impl Failures {
    /// Counts one.
    pub(crate) fn count(&self, why: Failing) {
        if let Some(count) = self.0.get(why as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many there were.
    pub fn of(&self, why: Failing) -> u64 {
        self.0
            .get(why as usize)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
