//! One decision: the state while it changes, the world as it was seen, and what is to be done.

use super::{
    AbortStage, Action, Cause, Command, CommandKind, Counters, EdgeAck, Event, Observation,
    Outcome, Pause, Phase, Stage, State, Status, Traffic, TrafficSeen,
};
use crate::quantity::{BasisPoints, format_duration, millis};
use crate::strategy::Strategy;

/// The most transitions of one decision; a path through all phases is shorter.
const TRANSITIONS_MAX: usize = 32;
/// A driver that asks less often than this was away, milliseconds.
const AWAY_MS: u64 = 5_000;

/// What a phase has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Another phase was entered: decide again.
    Again,
    /// Nothing more can be decided until the world changes.
    Rest,
}

pub(super) struct Turn<'a> {
    pub(super) state: State,
    pub(super) seen: &'a Observation,
    pub(super) now: u64,
    actions: Vec<Action>,
    waiting: Option<String>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(state: State, seen: &'a Observation, now: u64) -> Self {
        Self {
            state,
            seen,
            now,
            actions: Vec::new(),
            waiting: None,
        }
    }

    pub(super) fn run(mut self) -> (State, Vec<Action>) {
        self.forgive_absence();
        if self.seen.resumed {
            self.state.resumed_unix_ms = Some(self.now);
        }
        for command in &self.seen.commands {
            self.obey(command);
        }
        for _ in 0..TRANSITIONS_MAX {
            if self.decide() == Flow::Rest {
                break;
            }
        }
        self.tell_waiting();
        (self.state, self.actions)
    }

    fn decide(&mut self) -> Flow {
        if let Some(cause) = self.reason_to_abort() {
            return self.abort(cause);
        }
        match self.state.phase {
            Phase::Planned => self.enter(Phase::Preflight),
            Phase::Preflight => self.preflight(),
            Phase::Provision => self.provision(),
            Phase::Verify => self.verify(),
            Phase::Step { index, stage } => self.step(index, stage),
            Phase::Promote => self.promote(),
            Phase::Soak => self.soak(),
            Phase::ScaleDownOld { stopping } => self.scale_down_old(stopping),
            Phase::Abort { stage } => self.roll_back(stage),
            Phase::Done { outcome } => {
                let exit = Cause::exit(self.state.cause.as_ref(), outcome);
                self.act(Action::Finish { exit, outcome })
            }
        }
    }

    /// Takes the time in which no driver ran out of every limit. What one absence can take out is
    /// bounded from below, so that a slow driver still comes to its limits.
    fn forgive_absence(&mut self) {
        let state = &mut self.state;
        let gap = self.now.saturating_sub(state.asked_unix_ms);
        state.asked_unix_ms = self.now;
        let away = gap.saturating_sub(AWAY_MS);
        if away == 0 {
            return;
        }
        state.entered_unix_ms = state.entered_unix_ms.saturating_add(away);
        state.progress_unix_ms = state.progress_unix_ms.saturating_add(away);
        state.unready_since_unix_ms = None;
        if let Some(analysis) = &mut state.analysis {
            analysis.until_unix_ms = analysis.until_unix_ms.saturating_add(away);
            analysis.rebase = true;
        }
    }

    fn obey(&mut self, command: &Command) {
        use CommandKind::{Abort, Pause as Hold, Promote, Resume, Supersede};
        let ignored = match (command.kind, self.state.phase) {
            (_, Phase::Done { .. } | Phase::Abort { .. }) => {
                Some("the rollout is over or turning back")
            }
            (Abort | Supersede, Phase::ScaleDownOld { stopping: true }) => {
                Some("the old release is being stopped; roll back with a rollout of its own")
            }
            (Abort | Supersede, phase) => {
                self.turn_back(command, phase);
                None
            }
            (Hold, _) if self.state.pause.is_none() => {
                self.pause(format!("by {}: {}", command.by, command.reason), false);
                None
            }
            (Hold, _) => Some("it is paused already"),
            (Resume, _) => {
                let resumed = self.resume(&command.by);
                (!resumed).then_some("it is not paused")
            }
            (Promote, Phase::Step { .. }) => {
                self.resume(&command.by);
                self.state.promote_by = Some(command.by.clone());
                self.note(Event::JudgingSkipped {
                    by: command.by.clone(),
                });
                None
            }
            (Promote, _) => Some("no step is being judged"),
        };
        if let Some(reason) = ignored {
            self.note(Event::CommandIgnored {
                command: command.kind,
                reason: reason.to_owned(),
            });
        }
    }

    fn turn_back(&mut self, command: &Command, phase: Phase) {
        let (by, reason) = (command.by.clone(), command.reason.clone());
        let supersede = command.kind == CommandKind::Supersede;
        let cause = if supersede {
            Cause::Superseded { by, reason }
        } else {
            Cause::Operator { by, reason }
        };
        match phase {
            Phase::Planned | Phase::Preflight if supersede => {
                self.end(Outcome::Superseded, Some(cause))
            }
            Phase::Planned | Phase::Preflight => self.end(Outcome::Cancelled, Some(cause)),
            _ => self.abort(cause),
        };
    }

    pub(super) fn pause(&mut self, reason: String, inconclusive: bool) {
        self.note(Event::Paused {
            reason: reason.clone(),
        });
        self.state.pause = Some(Pause {
            since_unix_ms: self.now,
            reason,
            inconclusive,
        });
    }

    fn resume(&mut self, by: &str) -> bool {
        let Some(pause) = self.state.pause.take() else {
            return false;
        };
        let held = self.now.saturating_sub(pause.since_unix_ms);
        self.state.entered_unix_ms = self
            .state
            .entered_unix_ms
            .saturating_add(held)
            .min(self.now);
        self.state.progress_unix_ms = self.now;
        if pause.inconclusive
            && let Phase::Step { index, .. } = self.state.phase
        {
            let duration = millis(self.strategy().steps[index].duration);
            if let Some(analysis) = &mut self.state.analysis {
                analysis.until_unix_ms = self.now.saturating_add(duration);
            }
        }
        self.note(Event::Resumed { by: by.to_owned() });
        true
    }

    pub(super) fn enter(&mut self, phase: Phase) -> Flow {
        self.state.phase = phase;
        self.state.entered_unix_ms = self.now;
        self.state.progress_unix_ms = self.now;
        let weight = match phase {
            Phase::Step { index, .. } => Some(self.strategy().steps[index].weight),
            _ => None,
        };
        self.note(Event::Entered { phase, weight });
        Flow::Again
    }

    /// Turns back; the cause that came first stays.
    pub(super) fn abort(&mut self, cause: Cause) -> Flow {
        self.note(Event::Aborting {
            cause: cause.clone(),
        });
        self.state.cause = Some(cause);
        self.state.pause = None;
        self.enter(Phase::Abort {
            stage: AbortStage::Withdraw,
        })
    }

    pub(super) fn end(&mut self, outcome: Outcome, cause: Option<Cause>) -> Flow {
        self.state.cause = cause.clone();
        self.state.pause = None;
        self.state.phase = Phase::Done { outcome };
        self.state.entered_unix_ms = self.now;
        self.note(Event::Ended { outcome, cause });
        Flow::Again
    }

    pub(super) fn note(&mut self, event: Event) {
        self.actions.push(Action::Note { event });
    }

    /// Asks for an action and waits for its effect.
    pub(super) fn act(&mut self, action: Action) -> Flow {
        self.actions.push(action);
        Flow::Rest
    }

    pub(super) fn wait(&mut self, reason: &str) -> Flow {
        self.waiting = Some(reason.to_owned());
        Flow::Rest
    }

    fn tell_waiting(&mut self) {
        if self.state.waiting != self.waiting {
            if let Some(reason) = self.waiting.clone() {
                self.note(Event::Waiting { reason });
            }
            self.state.waiting = self.waiting.take();
        }
    }

    pub(super) fn strategy(&self) -> &Strategy {
        self.state.plan.strategy()
    }

    pub(super) fn candidate_id(&self) -> String {
        self.state.plan.candidate().id.clone()
    }

    /// How long the phase has lasted, milliseconds.
    pub(super) fn elapsed(&self) -> u64 {
        self.now.saturating_sub(self.state.entered_unix_ms)
    }

    pub(super) fn held(&self) -> bool {
        self.state.pause.is_some()
    }

    /// Candidates that are ready.
    pub(super) fn ready(&self) -> u32 {
        let ready = self
            .seen
            .candidate
            .iter()
            .filter(|candidate| candidate.status == Status::Ready);
        u32::try_from(ready.count()).unwrap_or(u32::MAX)
    }

    /// Whether every live edge, and at least one, acts on `generation` or a later one.
    pub(super) fn acked(&self, generation: u64) -> bool {
        !self.seen.edges.is_empty() && self.silent(generation).is_empty()
    }

    /// The live edges that do not.
    pub(super) fn silent(&self, generation: u64) -> Vec<String> {
        let behind = |ack: &&EdgeAck| ack.generation.is_none_or(|acked| acked < generation);
        let edges = self.seen.edges.iter().filter(behind);
        edges.map(|ack| ack.edge.clone()).collect()
    }

    /// Waits for the edges, and turns back when they take longer than `limit` milliseconds.
    pub(super) fn await_acks(&mut self, generation: u64, limit: u64) -> Flow {
        let edges = self.silent(generation);
        if self.elapsed() > limit {
            return self.abort(Cause::SilentEdges { edges });
        }
        let names = if edges.is_empty() {
            "any edge".to_owned()
        } else {
            edges.join(", ")
        };
        self.keep_lease();
        self.act(Action::AwaitAcks { generation });
        self.wait(&format!("for {names} to acknowledge the weight"))
    }

    /// Asks for as many candidates as are needed; `None` once that many are ready.
    pub(super) fn scale(&mut self, needed: u32) -> Option<Flow> {
        let ready = self.ready();
        if ready >= needed {
            return None;
        }
        let limit = self.strategy().ready_timeout;
        if self.elapsed() > millis(limit) && !self.held() {
            let unready = self
                .seen
                .candidate
                .iter()
                .find(|c| c.status != Status::Ready);
            let last_line = unready.and_then(|candidate| candidate.last_line.clone());
            return Some(self.abort(Cause::NotReady {
                ready,
                needed,
                last_line,
            }));
        }
        self.keep_lease();
        if self.seen.candidate_desired < needed {
            let release = self.candidate_id();
            self.act(Action::StartInstances {
                release,
                replicas: needed,
            });
        }
        Some(self.wait(&format!(
            "for {needed} ready candidates, at most {}",
            format_duration(limit)
        )))
    }

    /// The weight that the candidate has at this moment.
    pub(super) fn effective_weight(&self) -> BasisPoints {
        let traffic = self.seen.traffic.as_ref();
        let effective = traffic.map(|seen| seen.effective(self.now));
        effective.map_or(BasisPoints::ZERO, |traffic| {
            traffic.weight_of(&self.state.plan.candidate().id)
        })
    }

    /// Asks to renew the candidate's weight when a third of its lease has passed. A weight that has
    /// lapsed is not renewed: raising it again is for the step to decide.
    pub(super) fn keep_lease(&mut self) {
        let lease = self.strategy().weight_lease;
        let Some(seen) = &self.seen.traffic else {
            return;
        };
        let Some(expires) = seen.expires_unix_ms else {
            return;
        };
        let due = expires.saturating_sub(self.now) <= millis(lease) / 3 * 2;
        if due && !seen.lapsed(self.now) && self.is_ours(seen) && !seen.traffic.shares.is_empty() {
            let traffic = seen.traffic.clone();
            self.actions.push(Action::RenewLease { traffic, lease });
        }
    }

    /// Whether the record is one that this rollout could have written on its way up.
    pub(super) fn is_ours(&self, seen: &TrafficSeen) -> bool {
        let candidate = &self.state.plan.candidate().id;
        Some(&seen.traffic.stable) == self.state.plan.stable_id()
            && seen
                .traffic
                .shares
                .iter()
                .all(|share| share.release == *candidate)
    }

    /// Whether the shares fell away by themselves, by this clock or by an edge's.
    pub(super) fn lapsed(&self, seen: &TrafficSeen) -> bool {
        let edge = |ack: &EdgeAck| ack.expired && ack.generation == Some(seen.generation);
        seen.lapsed(self.now) || self.seen.edges.iter().any(edge)
    }

    /// Whether all traffic goes to the candidate for good.
    pub(super) fn promoted(&self) -> bool {
        let wanted = Traffic::all_to(&self.state.plan.candidate().id);
        self.seen
            .traffic
            .as_ref()
            .is_some_and(|seen| seen.traffic == wanted)
    }

    /// Reads the counters without judging them, for the guards.
    pub(super) fn count_only(&mut self) {
        if let Counters::Read { edges, .. } = &self.seen.counters {
            let stable = self.state.plan.stable_id().cloned();
            let candidate = self.candidate_id();
            self.state
                .ledger
                .take(edges, &candidate, stable.as_deref(), self.now);
        }
    }

    /// The stage that a step begins with.
    pub(super) fn first_stage(index: usize) -> Phase {
        Phase::Step {
            index,
            stage: Stage::Scale,
        }
    }
}
