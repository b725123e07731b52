//! The exit codes of every `sweetops` command.
//!
//! One table, so that a script can tell "the release is bad" from "the tool could not find out"
//! and "it was undone" from "somebody must look" without reading any text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a command ended, as the shell sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Exit {
    /// Done, the verdict is good, or there was nothing to do.
    Done = 0,
    /// The tool or its surroundings failed; no verdict is known.
    ToolError = 1,
    /// The command line or the configuration is wrong (also clap's own code).
    Usage = 2,
    /// The verdict is bad; this command changed nothing (drift, missed objective, failed check).
    VerdictBad = 3,
    /// The change failed and was rolled back safely.
    RolledBack = 4,
    /// Not enough is known to say good or bad; nothing was left half done.
    Inconclusive = 5,
    /// Refused by policy, nothing changed (lock held, freeze, stale plan).
    Refused = 6,
    /// The change failed and was *not* rolled back safely: a person is needed.
    NotRolledBack = 7,
    /// Some instances or regions succeeded and some did not.
    Partial = 8,
    /// `--timeout` elapsed; the operation goes on.
    TimedOut = 124,
    /// Interrupted (SIGINT).
    Interrupted = 130,
    /// Terminated (SIGTERM).
    Terminated = 143,
}

impl Exit {
    /// Every exit, in the order of their codes.
    pub const ALL: [Self; 12] = [
        Self::Done,
        Self::ToolError,
        Self::Usage,
        Self::VerdictBad,
        Self::RolledBack,
        Self::Inconclusive,
        Self::Refused,
        Self::NotRolledBack,
        Self::Partial,
        Self::TimedOut,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The process exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// One line for people: the text of the table in the manual.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, verdict good, or nothing to do",
            Self::ToolError => "tool or environment error, verdict unknown",
            Self::Usage => "usage or invalid configuration",
            Self::VerdictBad => "verdict bad, nothing was changed",
            Self::RolledBack => "change failed, safely rolled back",
            Self::Inconclusive => "inconclusive or waiting",
            Self::Refused => "refused by policy, nothing changed",
            Self::NotRolledBack => "change failed and not safely rolled back: a person is needed",
            Self::Partial => "partly done",
            Self::TimedOut => "timed out, the operation goes on",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.meaning(), self.code())
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_published_table() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 124, 130, 143]);
    }
}
