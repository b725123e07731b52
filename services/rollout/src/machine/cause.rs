//! Why a rollout did not go on.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::exit::Exit;
use crate::judge::Evidence;

/// Why a rollout turned back, was refused or was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// The judge showed that the candidate is worse.
    Worse {
        /// The step, from 0.
        step: usize,
        /// The metric that decided.
        evidence: Evidence,
    },
    /// A step ended without a verdict.
    Inconclusive {
        /// The step, from 0.
        step: usize,
        /// What is missing.
        missing: String,
    },
    /// An instance restarted too often or its supervisor gave it up.
    CrashLoop {
        /// The instance.
        instance: String,
        /// The last line of its log.
        last_line: Option<String>,
    },
    /// An instance refused to start.
    RefusedToStart {
        /// The instance.
        instance: String,
        /// The last line of its log.
        last_line: Option<String>,
    },
    /// Instances that had been ready are not.
    ReadinessLost {
        /// Instances ready.
        ready: u32,
        /// Instances needed.
        needed: u32,
    },
    /// None of the first calls succeeded.
    NoSuccess {
        /// Calls so far.
        calls: u64,
    },
    /// At least half of a step's calls failed, and the stable release's did not.
    Failing {
        /// Calls that failed.
        failures: u64,
        /// Calls so far.
        calls: u64,
    },
    /// An instance is not what the release says.
    DigestMismatch {
        /// The instance.
        instance: String,
        /// Which digest differs.
        digest: String,
    },
    /// Instances did not become ready in time.
    NotReady {
        /// Instances ready.
        ready: u32,
        /// Instances needed.
        needed: u32,
        /// The last line of the log of one that is not.
        last_line: Option<String>,
    },
    /// The candidate's own checks failed.
    VerificationFailed {
        /// Which and how.
        reason: String,
    },
    /// Edges did not acknowledge a weight in time.
    SilentEdges {
        /// Their names; empty when there is no edge at all.
        edges: Vec<String>,
    },
    /// Nothing went forward for too long.
    NoProgress {
        /// What was waited for.
        waiting: String,
    },
    /// A pause that nobody ended.
    PausedTooLong,
    /// Somebody else wrote the traffic record.
    TrafficChanged,
    /// An operator asked for it.
    Operator {
        /// Who.
        by: String,
        /// Why, in their words.
        reason: String,
    },
    /// Another rollout is to follow.
    Superseded {
        /// Who asked.
        by: String,
        /// Why, in their words.
        reason: String,
    },
    /// The world is not as the plan needs it; nothing was done.
    Refused {
        /// What is wrong.
        reason: String,
    },
    /// The stable release could not be given its traffic back.
    CannotReturn {
        /// What is wrong.
        reason: String,
        /// Why the rollout turned back in the first place.
        after: Box<Cause>,
    },
}

impl Cause {
    /// What the shell hears of a rollout that ended so, for this cause.
    pub(crate) fn exit(cause: Option<&Self>, outcome: Outcome) -> Exit {
        match (outcome, cause) {
            (Outcome::Succeeded, _) => Exit::Done,
            (Outcome::RollbackFailed, _) => Exit::NotRolledBack,
            (_, Some(Self::Inconclusive { .. })) => Exit::Inconclusive,
            (Outcome::Cancelled, Some(Self::Refused { .. })) => Exit::Refused,
            _ => Exit::RolledBack,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |line: &Option<String>| match line {
            Some(line) => format!(": {line}"),
            None => String::new(),
        };
        match self {
            Self::Worse { step, evidence } => write!(
                f,
                "worse in step {}: {} {}; evidence 10^{} of 10^{}",
                step + 1,
                evidence.metric,
                evidence.counts(),
                evidence.harm_log10,
                evidence.fail_log10
            ),
            Self::Inconclusive { step, missing } => {
                write!(f, "no verdict in step {}: {missing}", step + 1)
            }
            Self::CrashLoop {
                instance,
                last_line,
            } => {
                write!(f, "{instance} keeps crashing{}", line(last_line))
            }
            Self::RefusedToStart {
                instance,
                last_line,
            } => {
                write!(f, "{instance} refuses to start{}", line(last_line))
            }
            Self::ReadinessLost { ready, needed } => {
                write!(f, "only {ready} of {needed} instances are still ready")
            }
            Self::NoSuccess { calls } => write!(f, "none of the first {calls} calls succeeded"),
            Self::Failing { failures, calls } => write!(f, "{failures} of {calls} calls failed"),
            Self::DigestMismatch { instance, digest } => {
                write!(f, "{instance} runs another {digest} than the release says")
            }
            Self::NotReady {
                ready,
                needed,
                last_line,
            } => {
                write!(
                    f,
                    "only {ready} of {needed} instances became ready{}",
                    line(last_line)
                )
            }
            Self::VerificationFailed { reason } => write!(f, "verification failed: {reason}"),
            Self::SilentEdges { edges } if edges.is_empty() => f.write_str("there is no live edge"),
            Self::SilentEdges { edges } => {
                write!(f, "{} did not acknowledge the weight", edges.join(", "))
            }
            Self::NoProgress { waiting } => write!(f, "no progress: {waiting}"),
            Self::PausedTooLong => f.write_str("the pause was not ended in time"),
            Self::TrafficChanged => f.write_str("somebody else changed the traffic record"),
            Self::Operator { by, reason } if reason.is_empty() => write!(f, "asked for by {by}"),
            Self::Operator { by, reason } => write!(f, "asked for by {by}: {reason}"),
            Self::Superseded { by, reason } => write!(f, "superseded by {by}: {reason}"),
            Self::Refused { reason } => f.write_str(reason),
            Self::CannotReturn { reason, after } => {
                write!(f, "{reason} (rolling back because: {after})")
            }
        }
    }
}
