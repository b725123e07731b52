//! The rollout as a state machine: where it stands, and what to do next.
//!
//! [`next`] looks at the world as it is, not at what was done to it. An action is asked for until the
//! world shows its effect, so that it does not matter whether the driver died before performing it,
//! in the middle, or before writing down that it had. The driver's part is small and strict:
//!
//! 1. read the world;
//! 2. ask [`next`];
//! 3. write the state it returned to the journal, *then* perform the actions, in order;
//! 4. begin again after [`State::poll_interval`], sooner when something changes.
//!
//! An action that fails is simply asked for again. Time during which no driver ran is not held
//! against the rollout.
//!
//! What never happens: traffic to a release without a ready instance; a weight raised before every live
//! edge acknowledged the one before; the stable release stopped before the candidate has all traffic;
//! anything at all after the end. Until the old release is being stopped, the way back stays open.

mod abort;
mod cause;
mod guard;
mod phases;
mod step;
mod turn;
mod world;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use cause::Cause;
pub use world::{
    Action, Candidate, Command, CommandKind, Counters, EdgeAck, Event, Observation, Pool, Share,
    Status, Traffic, TrafficSeen, Verification,
};

use crate::exit::Exit;
use crate::judge::{Judge, Judgement};
use crate::measure::Ledger;
use crate::plan::Plan;
use crate::quantity::{BasisPoints, millis};
use crate::strategy::Invalid;
use turn::Turn;

/// The version of the journal's form.
pub const STATE_VERSION: u32 = 1;

/// The part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waiting for as many candidates as the weight needs.
    Scale,
    /// Setting the weight and waiting for every edge.
    Shift,
    /// Judging.
    Analyse,
}

/// The part of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortStage {
    /// Taking all traffic from the candidate and waiting for every edge.
    Withdraw,
    /// Letting the candidate finish what it has begun.
    Drain,
    /// Stopping the candidate.
    Stop,
}

/// How a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The candidate is the stable release now.
    Succeeded,
    /// The stable release has all traffic, as before.
    RolledBack,
    /// It is not certain that the stable release has all traffic: a person is needed.
    RollbackFailed,
    /// Rolled back to make way for another rollout.
    Superseded,
    /// Ended before anything was changed.
    Cancelled,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Succeeded => "succeeded",
            Self::RolledBack => "rolled back",
            Self::RollbackFailed => "rollback FAILED",
            Self::Superseded => "superseded",
            Self::Cancelled => "cancelled",
        })
    }
}

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Written down, nothing done.
    Planned,
    /// Looking whether the world is as the plan needs it.
    Preflight,
    /// Starting the first candidates.
    Provision,
    /// Checking the candidates before any user meets them.
    Verify,
    /// Giving the candidate a weight and judging it.
    Step {
        /// The step, from 0.
        index: usize,
        /// The part of the step.
        stage: Stage,
    },
    /// Giving the candidate all traffic.
    Promote,
    /// Watching it with all traffic.
    Soak,
    /// Keeping the old release warm, then stopping it.
    ScaleDownOld {
        /// Whether it is being stopped: no way back from here.
        stopping: bool,
    },
    /// Returning to the stable release.
    Abort {
        /// The part of the rollback.
        stage: AbortStage,
    },
    /// Over.
    Done {
        /// How it ended.
        outcome: Outcome,
    },
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Planned => "planned",
            Self::Preflight => "preflight",
            Self::Provision => "starting candidates",
            Self::Verify => "verifying candidates",
            Self::Step { index, stage } => {
                let stage = match stage {
                    Stage::Scale => "scaling",
                    Stage::Shift => "shifting traffic",
                    Stage::Analyse => "judging",
                };
                return f.pad(&format!("step {}: {stage}", index + 1));
            }
            Self::Promote => "promoting",
            Self::Soak => "soaking",
            Self::ScaleDownOld { stopping: false } => "keeping the old release warm",
            Self::ScaleDownOld { stopping: true } => "stopping the old release",
            Self::Abort {
                stage: AbortStage::Withdraw,
            } => "rolling back: withdrawing traffic",
            Self::Abort {
                stage: AbortStage::Drain,
            } => "rolling back: draining",
            Self::Abort {
                stage: AbortStage::Stop,
            } => "rolling back: stopping candidates",
            Self::Done { outcome } => return outcome.fmt(f),
        };
        f.pad(text)
    }
}

/// Why and since when a rollout holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when, unix milliseconds.
    pub since_unix_ms: u64,
    /// Why, for people.
    pub reason: String,
    /// Whether a step ended without a verdict; resuming then judges for another step's duration.
    pub inconclusive: bool,
}

/// The judging of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    /// When every edge had acknowledged the weight, unix milliseconds.
    pub started_unix_ms: u64,
    /// When the step is to have a verdict, unix milliseconds.
    pub until_unix_ms: u64,
    /// How often it was extended.
    pub extensions: u32,
    /// When the counters were judged last, unix milliseconds.
    pub tick_unix_ms: u64,
    /// Whether the next reading is only a new beginning: what came before it was not under this
    /// weight.
    rebase: bool,
    /// What is left of the step, milliseconds, while its weight is not in force.
    left_ms: Option<u64>,
    judge: Judge,
}

impl Analysis {
    /// What the step proves so far.
    #[must_use]
    pub fn judgement(&self) -> Judgement {
        self.judge.judgement()
    }
}

/// What a finished step proved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step, from 0.
    pub index: usize,
    /// Its weight.
    pub weight: BasisPoints,
    /// When the judging began, unix milliseconds.
    pub started_unix_ms: u64,
    /// When it ended, unix milliseconds.
    pub ended_unix_ms: u64,
    /// What it proved.
    pub judgement: Judgement,
}

/// Everything that a rollout needs to go on: the journal's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    plan: Plan,
    phase: Phase,
    created_unix_ms: u64,
    /// When `next` was last asked.
    asked_unix_ms: u64,
    /// When the phase or stage was entered, driverless time taken out.
    entered_unix_ms: u64,
    /// When something last went forward, driverless time taken out.
    progress_unix_ms: u64,
    pause: Option<Pause>,
    cause: Option<Cause>,
    /// Whether the candidate may ever have had traffic.
    exposed: bool,
    /// Who asked to skip the rest of the judging.
    promote_by: Option<String>,
    /// Since when fewer candidates are ready than the weight needs.
    unready_since_unix_ms: Option<u64>,
    /// When a driver took the rollout over, until enough candidates are ready again.
    #[serde(default)]
    resumed_unix_ms: Option<u64>,
    waiting: Option<String>,
    ledger: Ledger,
    /// The stable release's latencies in the last step.
    history: Vec<u64>,
    analysis: Option<Analysis>,
    records: Vec<StepRecord>,
}

/// Why a journal cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is not a journal.
    #[error("the rollout journal cannot be read")]
    Form(#[from] serde_json::Error),
    /// Another version of this program wrote it.
    #[error("the rollout journal has version {found}, this program writes version {STATE_VERSION}")]
    Version {
        /// The version found.
        found: u64,
    },
    /// Its plan is not one that this program would have made.
    #[error("the rollout journal's plan cannot be used")]
    Plan(#[from] Invalid),
}

impl State {
    /// A rollout at its beginning.
    #[must_use]
    pub fn new(plan: Plan, now: u64) -> Self {
        Self {
            version: STATE_VERSION,
            plan,
            phase: Phase::Planned,
            created_unix_ms: now,
            asked_unix_ms: now,
            entered_unix_ms: now,
            progress_unix_ms: now,
            pause: None,
            cause: None,
            exposed: false,
            promote_by: None,
            unready_since_unix_ms: None,
            resumed_unix_ms: None,
            waiting: None,
            ledger: Ledger::default(),
            history: Vec::new(),
            analysis: None,
            records: Vec::new(),
        }
    }

    /// Reads a journal.
    ///
    /// # Errors
    /// When it is not one, was written by another version, or holds a plan out of range.
    pub fn from_json(text: &[u8]) -> Result<Self, StateError> {
        let value: serde_json::Value = serde_json::from_slice(text)?;
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        match version {
            Some(found) if found != u64::from(STATE_VERSION) => {
                return Err(StateError::Version { found });
            }
            _ => {}
        }
        let state: Self = serde_json::from_value(value)?;
        state.plan.check()?;
        if let Phase::Step { index, .. } = state.phase
            && index >= state.plan.strategy().steps.len()
        {
            let error =
                serde::de::Error::custom("the journal stands in a step that is not planned");
            return Err(StateError::Form(error));
        }
        Ok(state)
    }

    /// Writes the journal.
    ///
    /// # Errors
    /// None that is known: everything in it has a JSON form.
    pub fn to_json(&self) -> Result<Vec<u8>, StateError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Whether nothing happened between two states but that time went on.
    #[must_use]
    pub fn same_but_for_time(&self, other: &Self) -> bool {
        let mut then = self.clone();
        then.asked_unix_ms = other.asked_unix_ms;
        then == *other
    }

    /// What is being done.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When the rollout began, unix milliseconds.
    #[must_use]
    pub fn created_unix_ms(&self) -> u64 {
        self.created_unix_ms
    }

    /// When the phase or stage was entered, unix milliseconds, driverless time taken out.
    #[must_use]
    pub fn entered_unix_ms(&self) -> u64 {
        self.entered_unix_ms
    }

    /// Whether, why and since when it holds.
    #[must_use]
    pub fn pause(&self) -> Option<&Pause> {
        self.pause.as_ref()
    }

    /// Why it turned back or was given up, once it did.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// What it waits for, for people.
    #[must_use]
    pub fn waiting(&self) -> Option<&str> {
        self.waiting.as_deref()
    }

    /// The judging of the current step.
    #[must_use]
    pub fn analysis(&self) -> Option<&Analysis> {
        self.analysis.as_ref()
    }

    /// The finished steps.
    #[must_use]
    pub fn records(&self) -> &[StepRecord] {
        &self.records
    }

    /// How it ended, once it did.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self.phase {
            Phase::Done { outcome } => Some(outcome),
            _ => None,
        }
    }

    /// What the shell is to hear, once it ended.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        let outcome = self.outcome()?;
        Some(Cause::exit(self.cause.as_ref(), outcome))
    }

    /// The weight that the current phase gives the candidate.
    #[must_use]
    pub fn weight(&self) -> BasisPoints {
        let step = |index: usize| {
            self.plan
                .strategy()
                .steps
                .get(index)
                .map(|step| step.weight)
        };
        match self.phase {
            Phase::Step {
                index,
                stage: Stage::Scale,
            } => index.checked_sub(1).and_then(step),
            Phase::Step { index, .. } => step(index),
            Phase::Promote => self.records.last().map(|record| record.weight),
            Phase::Soak | Phase::ScaleDownOld { .. } => Some(BasisPoints::FULL),
            Phase::Done {
                outcome: Outcome::Succeeded,
            } => Some(BasisPoints::FULL),
            _ => None,
        }
        .unwrap_or(BasisPoints::ZERO)
    }

    /// How soon to ask again at the latest: often enough for leases, ticks and people.
    #[must_use]
    pub fn poll_interval(&self) -> Duration {
        let strategy = self.plan.strategy();
        strategy
            .tick
            .min(strategy.weight_lease / 6)
            .min(Duration::from_secs(1))
    }

    /// Whether the machine would use the edges' counters now; reading them earlier is harmless.
    #[must_use]
    pub fn wants_counters(&self, now: u64) -> bool {
        let tick = millis(self.plan.strategy().tick);
        match (&self.analysis, self.ledger.read_unix_ms()) {
            (Some(analysis), _) if analysis.rebase => true,
            (Some(analysis), _) => now >= analysis.tick_unix_ms.saturating_add(tick),
            (None, Some(read)) => now >= read.saturating_add(tick),
            (None, None) => true,
        }
    }
}

/// Decides what to do next: the state to write down, and then the actions to perform.
#[must_use]
pub fn next(state: &State, seen: &Observation, now: u64) -> (State, Vec<Action>) {
    match (state.outcome(), state.exit()) {
        (Some(outcome), Some(exit)) => (state.clone(), vec![Action::Finish { exit, outcome }]),
        _ => Turn::new(state.clone(), seen, now).run(),
    }
}
