//! The way up, apart from the steps: before the first and after the last of them.

use super::turn::{Flow, Turn};
use super::{Action, Cause, Event, Outcome, Phase, Traffic, Verification};
use crate::quantity::millis;

/// How long instances that were told to stop may take beyond their drain, milliseconds.
pub(super) const STOP_SLACK_MS: u64 = 60_000;

impl Turn<'_> {
    /// Looks whether the world is as the plan needs it, before anything is changed.
    pub(super) fn preflight(&mut self) -> Flow {
        if let Some(reason) = self.stale() {
            return self.end(Outcome::Cancelled, Some(Cause::Refused { reason }));
        }
        if let Some(reason) = self.unprepared() {
            if self.elapsed() > millis(self.strategy().ready_timeout) && !self.held() {
                return self.end(Outcome::Cancelled, Some(Cause::Refused { reason }));
            }
            return self.wait(&reason);
        }
        if let Some(pause) = &self.state.pause {
            let held = self.now.saturating_sub(pause.since_unix_ms);
            if held > millis(self.strategy().pause_max) {
                return self.end(Outcome::Cancelled, Some(Cause::PausedTooLong));
            }
            return self.wait("paused");
        }
        self.count_only();
        self.enter(Phase::Provision)
    }

    /// What makes the plan one for another world than this.
    fn stale(&self) -> Option<String> {
        match (self.state.plan.stable_id(), &self.seen.traffic) {
            (None, None) => None,
            (None, Some(seen)) => Some(format!(
                "the plan is a first deployment, and {} has traffic already",
                seen.traffic.stable
            )),
            (Some(stable), None) => Some(format!(
                "the plan replaces {stable}, and there is no traffic record"
            )),
            (Some(stable), Some(seen)) if *stable != seen.traffic.stable => Some(format!(
                "the plan replaces {stable}, and the stable release is {} now",
                seen.traffic.stable
            )),
            (Some(_), Some(_)) => None,
        }
    }

    /// What may still come right by itself.
    fn unprepared(&self) -> Option<String> {
        if self.seen.edges.is_empty() {
            return Some("there is no live edge".to_owned());
        }
        let Some(seen) = &self.seen.traffic else {
            return None;
        };
        if let Some(share) = seen.effective(self.now).shares.first() {
            return Some(format!(
                "{} still has {} of the traffic",
                share.release, share.weight
            ));
        }
        let silent = self.silent(seen.generation);
        if !silent.is_empty() {
            return Some(format!(
                "{} did not acknowledge the weights",
                silent.join(", ")
            ));
        }
        (self.seen.stable.ready == 0).then(|| "the stable release has no ready instance".to_owned())
    }

    /// Starts the first candidates.
    pub(super) fn provision(&mut self) -> Flow {
        let needed = self.state.plan.first_replicas();
        if let Some(flow) = self.scale(needed) {
            return flow;
        }
        if self.held() {
            return self.wait("paused");
        }
        self.enter(Phase::Verify)
    }

    /// Has the candidates checked before any user meets them.
    pub(super) fn verify(&mut self) -> Flow {
        let reason = match &self.seen.verification {
            Some(Verification::Passed) if self.held() => return self.wait("paused"),
            Some(Verification::Passed) => return self.enter(self.after_verify()),
            Some(Verification::Failed { reason }) => {
                let reason = reason.clone();
                return self.abort(Cause::VerificationFailed { reason });
            }
            Some(Verification::Unreachable { reason }) => reason.clone(),
            None => "the checks did not end".to_owned(),
        };
        if self.elapsed() > millis(self.strategy().ready_timeout) && !self.held() {
            return self.abort(Cause::VerificationFailed { reason });
        }
        let release = self.candidate_id();
        self.act(Action::VerifyCandidate { release })
    }

    fn after_verify(&self) -> Phase {
        if self.state.plan.stable().is_none() || self.strategy().steps.is_empty() {
            Phase::Promote
        } else {
            Self::first_stage(0)
        }
    }

    /// Gives the candidate all traffic, for good.
    pub(super) fn promote(&mut self) -> Flow {
        self.count_only();
        let strategy = self.strategy();
        let ack_limit = millis(strategy.ready_timeout).saturating_add(millis(strategy.ack_timeout));
        let generation = self.seen.traffic.as_ref().map(|seen| seen.generation);
        if let Some(generation) = generation.filter(|_| self.promoted()) {
            return if self.acked(generation) {
                self.enter(Phase::Soak)
            } else {
                self.await_acks(generation, ack_limit)
            };
        }
        if self.changed_by_others() {
            return self.abort(Cause::TrafficChanged);
        }
        if let Some(flow) = self.scale(self.state.plan.replicas()) {
            return flow;
        }
        if self.held() {
            self.keep_lease();
            return self.wait("paused");
        }
        let in_force = generation.map_or(!self.seen.edges.is_empty(), |seen| self.acked(seen));
        if !in_force {
            return self.await_acks(generation.unwrap_or(0), ack_limit);
        }
        self.state.exposed = true;
        let traffic = Traffic::all_to(&self.state.plan.candidate().id);
        self.act(Action::SetTraffic {
            traffic,
            lease: None,
        });
        self.wait("for the edges to send all traffic to the candidate")
    }

    fn changed_by_others(&self) -> bool {
        match &self.seen.traffic {
            Some(seen) => !self.is_ours(seen),
            None => self.state.plan.stable().is_some(),
        }
    }

    /// Watches the candidate with all traffic; the guards do the work.
    pub(super) fn soak(&mut self) -> Flow {
        self.count_only();
        if !self.promoted() {
            return self.abort(Cause::TrafficChanged);
        }
        if self.held() {
            return self.wait("paused");
        }
        if self.elapsed() < millis(self.strategy().soak) {
            return self.wait("for the soak to end");
        }
        match self.state.plan.stable() {
            Some(_) => self.enter(Phase::ScaleDownOld { stopping: false }),
            None => self.end(Outcome::Succeeded, None),
        }
    }

    /// Keeps the old release warm for a while, then stops it.
    pub(super) fn scale_down_old(&mut self, stopping: bool) -> Flow {
        if stopping {
            return self.stop_old();
        }
        self.count_only();
        if !self.promoted() {
            return self.abort(Cause::TrafficChanged);
        }
        if self.held() {
            return self.wait("paused");
        }
        if self.elapsed() < millis(self.strategy().scale_down_delay) {
            return self.wait("while the old release is kept warm");
        }
        // An edge that came back with an old view may still send calls to the old release.
        let generation = self.seen.traffic.as_ref().map(|seen| seen.generation);
        if let Some(generation) = generation.filter(|generation| !self.acked(*generation)) {
            self.act(Action::AwaitAcks { generation });
            return self.wait("for every edge to acknowledge the promotion");
        }
        self.enter(Phase::ScaleDownOld { stopping: true })
    }

    fn stop_old(&mut self) -> Flow {
        let Some(release) = self.state.plan.stable_id().cloned() else {
            return self.end(Outcome::Succeeded, None);
        };
        let stable = self.seen.stable;
        if stable.desired == 0 && stable.running == 0 {
            return self.end(Outcome::Succeeded, None);
        }
        let limit = millis(self.strategy().drain).saturating_add(STOP_SLACK_MS);
        if stable.desired == 0 && self.elapsed() > limit {
            self.note(Event::StopUnconfirmed { release });
            return self.end(Outcome::Succeeded, None);
        }
        if stable.desired > 0 {
            self.act(Action::StopInstances { release });
        }
        self.wait("for the old release to drain")
    }
}
