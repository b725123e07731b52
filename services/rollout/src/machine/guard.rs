//! What ends a rollout whatever else is going on, in the order in which it is worth telling.

use super::turn::Turn;
use super::{Candidate, Cause, Phase, Stage, Status};
use crate::quantity::millis;

impl Turn<'_> {
    /// The first reason to turn back now, if there is one.
    pub(super) fn reason_to_abort(&mut self) -> Option<Cause> {
        match self.state.phase {
            Phase::Planned | Phase::Preflight => None,
            Phase::Abort { .. } | Phase::Done { .. } => None,
            Phase::ScaleDownOld { stopping: true } => None,
            _ => self
                .broken_instance()
                .or_else(|| self.lost_readiness())
                .or_else(|| self.no_success())
                .or_else(|| self.out_of_time()),
        }
    }

    fn broken_instance(&self) -> Option<Cause> {
        self.seen
            .candidate
            .iter()
            .find_map(|candidate| self.failed(candidate).or_else(|| self.foreign(candidate)))
    }

    fn failed(&self, candidate: &Candidate) -> Option<Cause> {
        // A failure from before this rollout says nothing about this start.
        if candidate.since_unix_ms < self.state.created_unix_ms {
            return None;
        }
        let instance = candidate.name.clone();
        let last_line = candidate.last_line.clone();
        let restarts_max = self.strategy().guards.restarts;
        match candidate.status {
            Status::Refused => Some(Cause::RefusedToStart {
                instance,
                last_line,
            }),
            Status::CrashLooping => Some(Cause::CrashLoop {
                instance,
                last_line,
            }),
            _ if candidate.restarts >= restarts_max => Some(Cause::CrashLoop {
                instance,
                last_line,
            }),
            _ => None,
        }
    }

    fn foreign(&self, candidate: &Candidate) -> Option<Cause> {
        let release = self.state.plan.candidate();
        let differs = |planned: &Option<String>, found: &Option<String>| {
            planned.is_some() && found.is_some() && planned != found
        };
        let digest = if differs(&release.config_digest, &candidate.config_digest) {
            "configuration"
        } else if differs(&release.binary_digest, &candidate.binary_digest) {
            "binary"
        } else {
            return None;
        };
        Some(Cause::DigestMismatch {
            instance: candidate.name.clone(),
            digest: digest.to_owned(),
        })
    }

    fn lost_readiness(&mut self) -> Option<Cause> {
        let weight = self.effective_weight();
        let ready = self.ready();
        let needed = self.state.plan.replicas_for(weight);
        if weight.get() == 0 || ready >= needed {
            self.state.unready_since_unix_ms = None;
            if ready >= needed {
                self.state.resumed_unix_ms = None;
            }
            return None;
        }
        // A fleet that was stopped in the middle comes up again; its edges send to the stable release meanwhile.
        let ready_timeout = millis(self.strategy().ready_timeout);
        let coming_up = |since: u64| self.now.saturating_sub(since) <= ready_timeout;
        if self.state.resumed_unix_ms.is_some_and(coming_up) {
            return None;
        }
        let since = *self.state.unready_since_unix_ms.get_or_insert(self.now);
        let grace = millis(self.strategy().guards.readiness_grace);
        (ready == 0 || self.now.saturating_sub(since) > grace)
            .then_some(Cause::ReadinessLost { ready, needed })
    }

    fn no_success(&self) -> Option<Cause> {
        let calls = self.state.ledger.candidate_calls;
        let first_calls = self.strategy().guards.first_calls;
        (calls >= first_calls && self.state.ledger.candidate_good == 0)
            .then_some(Cause::NoSuccess { calls })
    }

    fn out_of_time(&self) -> Option<Cause> {
        let strategy = self.strategy();
        if let Some(pause) = &self.state.pause {
            let held = self.now.saturating_sub(pause.since_unix_ms);
            return (held > millis(strategy.pause_max)).then_some(Cause::PausedTooLong);
        }
        let still = self.now.saturating_sub(self.state.progress_unix_ms);
        let moving = match self.state.phase {
            // These last as long as they are told to.
            Phase::Soak | Phase::ScaleDownOld { .. } => false,
            Phase::Step { stage, .. } => stage != Stage::Analyse,
            _ => true,
        };
        let waiting = || {
            self.state
                .waiting
                .clone()
                .unwrap_or_else(|| self.state.phase.to_string())
        };
        (moving && still > millis(strategy.progress_deadline))
            .then(|| Cause::NoProgress { waiting: waiting() })
    }
}
