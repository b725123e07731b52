//! What a finished command tells the script that ran it.
//!
//! The codes are the one table of every verb ([`rollout::Exit`]). `drift` alone departs from it (0 none,
//! 2 drift, 1 anything else), as its users expect of a checker; so a code here goes with a word of its own.

use std::process::ExitCode;

/// An exit code with the word that `-o json` gives as its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The process's exit status.
    pub(crate) code: u8,
    /// A stable word for scripts that read JSON.
    pub(crate) reason: &'static str,
}

impl Exit {
    /// Done, verdict good, or nothing to do.
    pub(crate) const DONE: Self = Self::of(rollout::Exit::Done, "done");
    /// The tool or its surroundings failed; nothing is known about the verdict.
    pub(crate) const ERROR: Self = Self::of(rollout::Exit::ToolError, "error");
    /// Wrong usage or an invalid configuration.
    pub(crate) const USAGE: Self = Self::of(rollout::Exit::Usage, "usage");
    /// The verdict is bad and nothing was changed by this command.
    pub(crate) const BAD: Self = Self::of(rollout::Exit::VerdictBad, "bad");
    /// A change failed and was safely rolled back.
    pub(crate) const ROLLED_BACK: Self = Self::of(rollout::Exit::RolledBack, "rolled_back");
    /// Refused by policy (a lock is held, say); nothing changed.
    pub(crate) const REFUSED: Self = Self::of(rollout::Exit::Refused, "refused");
    /// The time allowed for the command ran out.
    pub(crate) const TIMEOUT: Self = Self::of(rollout::Exit::TimedOut, "timeout");

    /// A code of the table with its reason.
    pub(crate) const fn of(exit: rollout::Exit, reason: &'static str) -> Self {
        Self {
            code: exit.code(),
            reason,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code)
    }
}
