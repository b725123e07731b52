//! What the driver tells the machine and what the machine tells the driver.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::{Outcome, Phase};
use crate::exit::Exit;
use crate::judge::Judgement;
use crate::measure::EdgeReport;
use crate::quantity::{self, BasisPoints};

/// The world as the driver just read it. Everything is read afresh each time; nothing is what the
/// driver remembers having done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Whether this driver has just taken the rollout over and looks for the first time: instances may have been
    /// stopped and started meanwhile, which is no fault of theirs.
    #[serde(default)]
    pub resumed: bool,
    /// The candidate's instances, also those that failed.
    pub candidate: Vec<Candidate>,
    /// How many instances of the candidate the fleet is told to run.
    pub candidate_desired: u32,
    /// The stable release's instances.
    pub stable: Pool,
    /// The traffic record, if there is one.
    pub traffic: Option<TrafficSeen>,
    /// Every edge that is alive, with what it acknowledged.
    pub edges: Vec<EdgeAck>,
    /// The edges' counters.
    pub counters: Counters,
    /// The result of the last [`Action::VerifyCandidate`] that this driver performed.
    pub verification: Option<Verification>,
    /// What operators asked for since the last observation. Forget a command only after the state
    /// that took it in has been written.
    pub commands: Vec<Command>,
}

/// How an instance of the candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Started, or between two starts; not ready yet.
    Starting,
    /// Registered and ready.
    Ready,
    /// Runs but is not ready any more.
    NotReady,
    /// Ends again and again; the supervisor waits longer each time or gave up.
    CrashLooping,
    /// Ended by itself with a complaint about its configuration: starting it again will not help.
    Refused,
    /// Told to stop.
    Stopping,
}

/// An instance of the candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The instance's name.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// How often it was started again.
    pub restarts: u32,
    /// When the status was entered, unix milliseconds. Failures from before the rollout are history.
    pub since_unix_ms: u64,
    /// The last line of its log, for people.
    pub last_line: Option<String>,
    /// The configuration digest that it reports.
    pub config_digest: Option<String>,
    /// The binary digest that it reports.
    pub binary_digest: Option<String>,
    /// Calls it is working on, when known.
    pub in_flight: Option<u64>,
}

/// A number of instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Instances that the fleet is told to run.
    pub desired: u32,
    /// Instances that run, ready or not.
    pub running: u32,
    /// Instances that are ready.
    pub ready: u32,
}

/// A release's share of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The release.
    pub release: String,
    /// Its share.
    pub weight: BasisPoints,
}

/// Where traffic goes: the shares as far as they reach, the rest to the stable release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// The release that gets what no share takes.
    pub stable: String,
    /// Shares of other releases.
    pub shares: Vec<Share>,
}

impl Traffic {
    /// All traffic to one release.
    #[must_use]
    pub fn all_to(release: &str) -> Self {
        Self {
            stable: release.to_owned(),
            shares: Vec::new(),
        }
    }

    /// The share that `release` gets.
    #[must_use]
    pub fn weight_of(&self, release: &str) -> BasisPoints {
        let shared: u16 = self.shares.iter().map(|share| share.weight.get()).sum();
        let own = self.shares.iter().filter(|share| share.release == release);
        let own: u16 = own.map(|share| share.weight.get()).sum();
        let rest = if self.stable == release {
            BasisPoints::FULL.get().saturating_sub(shared)
        } else {
            0
        };
        BasisPoints::new(own.saturating_add(rest)).unwrap_or(BasisPoints::FULL)
    }
}

/// The traffic record as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficSeen {
    /// Grows with every write of the record.
    pub generation: u64,
    /// Where it sends traffic.
    pub traffic: Traffic,
    /// When the shares fall to the stable release by themselves, unix milliseconds.
    pub expires_unix_ms: Option<u64>,
}

impl TrafficSeen {
    /// Where traffic goes at this moment.
    #[must_use]
    pub fn effective(&self, now: u64) -> Traffic {
        if self.lapsed(now) {
            Traffic::all_to(&self.traffic.stable)
        } else {
            self.traffic.clone()
        }
    }

    /// Whether the shares fell to the stable release by themselves.
    #[must_use]
    pub fn lapsed(&self, now: u64) -> bool {
        self.expires_unix_ms.is_some_and(|expires| expires <= now)
    }
}

/// A live edge and the traffic record it acts on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeAck {
    /// The edge's name.
    pub edge: String,
    /// The generation it acknowledged last.
    pub generation: Option<u64>,
    /// Whether it let the shares of that generation lapse.
    pub expired: bool,
}

/// The edges' counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Counters {
    /// The driver did not ask this time.
    #[default]
    NotRead,
    /// The driver asked and no edge answered.
    Unavailable {
        /// What went wrong.
        reason: String,
    },
    /// The counters of those edges that answered.
    Read {
        /// The upper bounds of the latency buckets, microseconds, rising.
        bounds_us: Vec<u64>,
        /// One report per edge.
        edges: Vec<EdgeReport>,
    },
}

/// What verifying the candidate found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Verification {
    /// Every check passed.
    Passed,
    /// A check failed.
    Failed {
        /// Which and how.
        reason: String,
    },
    /// The candidate could not be asked; worth another try.
    Unreachable {
        /// What went wrong.
        reason: String,
    },
}

/// What an operator may ask of a running rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandKind {
    /// Return to the stable release.
    Abort,
    /// Return to the stable release because another rollout is to follow.
    Supersede,
    /// Skip what is left to be judged and go to full traffic; guards stay armed.
    Promote,
    /// Hold the weight as it is; guards and the judge stay armed.
    Pause,
    /// End a pause.
    Resume,
}

/// An operator's command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// What is asked.
    pub kind: CommandKind,
    /// Who asks.
    pub by: String,
    /// Why, in their words; may be empty.
    pub reason: String,
}

/// What the driver is to do. Each can be repeated without harm, and is repeated until the world shows
/// that it was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Make the desired number of instances of the release `replicas`.
    StartInstances {
        /// The release.
        release: String,
        /// Instances in all, those that run already included.
        replicas: u32,
    },
    /// Call the candidate's instances directly and report what was found with the next observation.
    VerifyCandidate {
        /// The release.
        release: String,
    },
    /// Write the traffic record.
    SetTraffic {
        /// Where traffic goes.
        traffic: Traffic,
        /// How long the shares live from the moment of writing unless renewed; `None`: for good.
        #[serde(with = "lease")]
        lease: Option<Duration>,
    },
    /// Write the traffic record again, with a new end of its lease and nothing else changed.
    RenewLease {
        /// What the record must say; if it says something else, do nothing.
        traffic: Traffic,
        /// How long the shares live from now.
        #[serde(with = "quantity::duration")]
        lease: Duration,
    },
    /// Nothing to do but to look again soon, above all at the edges' acknowledgements.
    AwaitAcks {
        /// The generation that every live edge must acknowledge.
        generation: u64,
    },
    /// Make the desired number of instances of the release zero, and let them drain.
    StopInstances {
        /// The release.
        release: String,
    },
    /// The rollout is over: file the journal and exit.
    Finish {
        /// The exit code.
        exit: Exit,
        /// How it ended.
        outcome: Outcome,
    },
    /// Tell people and the audit log. May come twice after a crash.
    Note {
        /// What happened.
        event: Event,
    },
}

mod lease {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::quantity::{format_duration, parse_duration};

    #[expect(clippy::ref_option, reason = "serde gives a reference to the field")]
    pub(super) fn serialize<S: Serializer>(
        lease: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match lease {
            Some(lease) => to.serialize_some(&format_duration(*lease)),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| parse_duration(&text).map_err(D::Error::custom))
            .transpose()
    }
}

/// Something that people want to know about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A phase, or a stage of a step, began.
    Entered {
        /// Which.
        phase: Phase,
        /// The weight that the step gives, in steps.
        weight: Option<BasisPoints>,
    },
    /// A tick was judged.
    Judged {
        /// The step, from 0.
        step: usize,
        /// What it proves so far.
        judgement: Judgement,
    },
    /// A step had no verdict and goes on.
    Extended {
        /// The step, from 0.
        step: usize,
        /// How often it was extended, this time included.
        times: u32,
        /// When it ends now, unix milliseconds.
        until_unix_ms: u64,
    },
    /// Something has to happen first.
    Waiting {
        /// What for.
        reason: String,
    },
    /// The weight lapsed and is being set again.
    LeaseLapsed {
        /// The step, from 0.
        step: usize,
    },
    /// The counters could not be read.
    CountersMissing {
        /// What went wrong.
        reason: String,
    },
    /// The rollout holds.
    Paused {
        /// Why.
        reason: String,
    },
    /// The rollout goes on.
    Resumed {
        /// Who said so.
        by: String,
    },
    /// An operator ended the judging.
    JudgingSkipped {
        /// Who said so.
        by: String,
    },
    /// A command came that means nothing now.
    CommandIgnored {
        /// The command.
        command: CommandKind,
        /// Why it means nothing.
        reason: String,
    },
    /// The rollout turns back.
    Aborting {
        /// Why.
        cause: Cause,
    },
    /// Instances were told to stop and are still there; they get no traffic.
    StopUnconfirmed {
        /// Their release.
        release: String,
    },
    /// The rollout is over.
    Ended {
        /// How.
        outcome: Outcome,
        /// Why, unless all went well.
        cause: Option<Cause>,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entered {
                phase,
                weight: Some(weight),
            } => write!(f, "{phase}, {weight}"),
            Self::Entered {
                phase,
                weight: None,
            } => write!(f, "{phase}"),
            Self::Judged { step, judgement } => {
                write!(f, "step {}: {}", step + 1, judgement.brief())
            }
            Self::Extended { step, times, .. } => {
                write!(f, "step {}: no verdict yet, extended ({times})", step + 1)
            }
            Self::Waiting { reason } => write!(f, "waiting: {reason}"),
            Self::LeaseLapsed { step } => {
                write!(f, "step {}: the weight lapsed and is set again", step + 1)
            }
            Self::CountersMissing { reason } => write!(f, "counters could not be read: {reason}"),
            Self::Paused { reason } => write!(f, "paused: {reason}"),
            Self::Resumed { by } => write!(f, "resumed by {by}"),
            Self::JudgingSkipped { by } => write!(f, "judging skipped by {by}"),
            Self::CommandIgnored { command, reason } => write!(f, "{command:?} ignored: {reason}"),
            Self::Aborting { cause } => write!(f, "rolling back: {cause}"),
            Self::StopUnconfirmed { release } => {
                write!(
                    f,
                    "instances of {release} were told to stop and are still there"
                )
            }
            Self::Ended {
                outcome,
                cause: Some(cause),
            } => write!(f, "{outcome}: {cause}"),
            Self::Ended {
                outcome,
                cause: None,
            } => write!(f, "{outcome}"),
        }
    }
}
