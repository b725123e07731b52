//! The way back: traffic first, then a drain, then the candidates' end.
//!
//! The order is what makes it safe at any moment. Nothing is stopped that an edge may still send calls
//! to; and when it cannot be known that all edges let go, the rollout says so and stops nothing.

use super::phases::STOP_SLACK_MS;
use super::turn::{Flow, Turn};
use super::{AbortStage, Action, Cause, Event, Outcome, Phase, Status, Traffic};
use crate::quantity::millis;

/// How long calls in flight are waited for even when none is seen, milliseconds: instances report
/// only every few seconds.
const DRAIN_MIN_MS: u64 = 5_000;

impl Turn<'_> {
    pub(super) fn roll_back(&mut self, stage: AbortStage) -> Flow {
        match stage {
            AbortStage::Withdraw => self.withdraw(),
            AbortStage::Drain => self.drain(),
            AbortStage::Stop => self.stop_candidate(),
        }
    }

    fn stage(&mut self, stage: AbortStage) -> Flow {
        self.enter(Phase::Abort { stage })
    }

    /// Takes all traffic from the candidate.
    fn withdraw(&mut self) -> Flow {
        if !self.state.exposed {
            return self.stage(AbortStage::Stop);
        }
        let strategy = self.strategy();
        // By then a leased weight has lapsed on every edge that is alive at all.
        let limit = millis(strategy.weight_lease).saturating_add(millis(strategy.ack_timeout));
        let Some(stable) = self.state.plan.stable_id().cloned() else {
            return self.cannot_return("there is no earlier release to return to");
        };
        let candidate = self.candidate_id();
        let standing = self
            .seen
            .traffic
            .as_ref()
            .map(|seen| (seen.generation, &seen.traffic));
        if let Some((generation, traffic)) = standing
            && traffic.stable != candidate
            && traffic
                .shares
                .iter()
                .all(|share| share.release != candidate)
        {
            if self.silent(generation).is_empty() {
                return self.stage(AbortStage::Drain);
            }
            if self.elapsed() > limit {
                let edges = self.silent(generation).join(", ");
                return self.cannot_return(&format!("{edges} did not acknowledge the return"));
            }
            self.act(Action::AwaitAcks { generation });
            return self.wait("for every edge to withdraw traffic");
        }
        if self.elapsed() > limit {
            return self.cannot_return("traffic could not be returned to the stable release");
        }
        // A release that somebody else made stable in the meantime stays so.
        let foreign = standing.filter(|(_, traffic)| traffic.stable != candidate);
        let target = foreign.map_or(stable.as_str(), |(_, traffic)| traffic.stable.as_str());
        if target == stable && self.seen.stable.ready == 0 && self.ready() > 0 {
            return self.wait("for the stable release to be ready");
        }
        let traffic = Traffic::all_to(target);
        self.act(Action::SetTraffic {
            traffic,
            lease: None,
        });
        self.wait("for traffic to return to the stable release")
    }

    fn cannot_return(&mut self, reason: &str) -> Flow {
        let after = self.state.cause.take().unwrap_or(Cause::TrafficChanged);
        let cause = Cause::CannotReturn {
            reason: reason.to_owned(),
            after: Box::new(after),
        };
        self.end(Outcome::RollbackFailed, Some(cause))
    }

    /// Lets the candidate finish what it has begun.
    fn drain(&mut self) -> Flow {
        let elapsed = self.elapsed();
        let idle = self
            .seen
            .candidate
            .iter()
            .all(|candidate| candidate.in_flight == Some(0));
        if elapsed >= millis(self.strategy().drain) || (idle && elapsed >= DRAIN_MIN_MS) {
            return self.stage(AbortStage::Stop);
        }
        self.wait("for the candidates to finish their calls")
    }

    fn stop_candidate(&mut self) -> Flow {
        let release = self.candidate_id();
        let runs = |status| !matches!(status, Status::CrashLooping | Status::Refused);
        let running = self
            .seen
            .candidate
            .iter()
            .any(|candidate| runs(candidate.status));
        let desired = self.seen.candidate_desired;
        let limit = millis(self.strategy().drain).saturating_add(STOP_SLACK_MS);
        if desired == 0 && running && self.elapsed() > limit {
            self.note(Event::StopUnconfirmed { release });
        } else if desired > 0 || running {
            if desired > 0 {
                self.act(Action::StopInstances { release });
            }
            return self.wait("for the candidates to stop");
        }
        let cause = self.state.cause.clone();
        let outcome = match &cause {
            Some(Cause::Superseded { .. }) => Outcome::Superseded,
            _ => Outcome::RolledBack,
        };
        self.end(outcome, cause)
    }
}
