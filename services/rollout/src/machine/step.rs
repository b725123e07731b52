//! One step: enough candidates, then the weight, then the judging.
//!
//! Candidates are scaled before the weight is raised, so that a tenth of the instances never gets
//! nine tenths of the traffic. The step's clock starts when every edge has the weight.

use super::turn::{Flow, Turn};
use super::{Action, Analysis, Cause, Counters, Event, Phase, Share, Stage, StepRecord, Traffic};
use crate::judge::{Judge, Judgement, Verdict};
use crate::quantity::millis;
use crate::strategy::{OnInconclusive, Step};

/// Calls after which a candidate counts as warm.
const WARM_CALLS: u64 = 100;
/// Baseline calls in a step that make a better history than the step before.
const HISTORY_CALLS: u64 = 300;

impl Turn<'_> {
    pub(super) fn step(&mut self, index: usize, stage: Stage) -> Flow {
        let step = self.strategy().steps[index];
        match stage {
            Stage::Scale => {
                let needed = self.state.plan.replicas_for(step.weight);
                match self.scale(needed) {
                    Some(flow) => flow,
                    None => self.enter(Phase::Step {
                        index,
                        stage: Stage::Shift,
                    }),
                }
            }
            Stage::Shift => self.shift(index, &step),
            Stage::Analyse => self.analyse(index, &step),
        }
    }

    fn wanted(&self, step: &Step) -> Option<Traffic> {
        Some(Traffic {
            stable: self.state.plan.stable_id()?.clone(),
            shares: vec![Share {
                release: self.candidate_id(),
                weight: step.weight,
            }],
        })
    }

    /// Sets the weight and waits until it is in force everywhere.
    fn shift(&mut self, index: usize, step: &Step) -> Flow {
        let (Some(seen), Some(wanted)) = (&self.seen.traffic, self.wanted(step)) else {
            return self.abort(Cause::TrafficChanged);
        };
        if !self.is_ours(seen) {
            return self.abort(Cause::TrafficChanged);
        }
        let limit = millis(self.strategy().ack_timeout);
        if !self.acked(seen.generation) {
            return self.await_acks(seen.generation, limit);
        }
        if seen.traffic == wanted && !self.lapsed(seen) {
            return self.begin_analysis(index, step);
        }
        if self.ready() < self.state.plan.replicas_for(step.weight) {
            self.keep_lease();
            return self.wait("for the candidates to be ready again");
        }
        // A pause holds the weight where it is; one that lapsed in the middle of a step is set again.
        if self.held() && self.state.analysis.is_none() {
            self.keep_lease();
            return self.wait("paused");
        }
        self.state.exposed = true;
        let lease = Some(self.strategy().weight_lease);
        self.act(Action::SetTraffic {
            traffic: wanted,
            lease,
        });
        self.wait("for the weight to be written")
    }

    fn begin_analysis(&mut self, index: usize, step: &Step) -> Flow {
        if self.state.history.is_empty() {
            self.count_only();
            self.state.history = self.state.ledger.stable_latency();
        }
        let now = self.now;
        let (strategy, history) = (self.strategy(), &self.state.history);
        let fresh = || Analysis {
            started_unix_ms: now,
            until_unix_ms: now.saturating_add(millis(step.duration)),
            extensions: 0,
            tick_unix_ms: now,
            rebase: true,
            left_ms: None,
            judge: Judge::new(strategy, step, history),
        };
        let analysis = match self.state.analysis.clone() {
            // The weight lapsed in the middle: the time without it does not count.
            Some(mut analysis) => {
                if let Some(left) = analysis.left_ms.take() {
                    analysis.until_unix_ms = now.saturating_add(left);
                }
                analysis.rebase = true;
                analysis
            }
            None => fresh(),
        };
        self.state.analysis = Some(analysis);
        self.enter(Phase::Step {
            index,
            stage: Stage::Analyse,
        })
    }

    /// Judges, and goes on, back or nowhere.
    fn analyse(&mut self, index: usize, step: &Step) -> Flow {
        let (Some(seen), Some(mut analysis)) = (&self.seen.traffic, self.state.analysis.take())
        else {
            return self.abort(Cause::TrafficChanged);
        };
        if Some(&seen.traffic) != self.wanted(step).as_ref() {
            return self.abort(Cause::TrafficChanged);
        }
        if self.lapsed(seen) {
            analysis.left_ms = Some(analysis.until_unix_ms.saturating_sub(self.now));
            self.state.analysis = Some(analysis);
            self.note(Event::LeaseLapsed { step: index });
            return self.enter(Phase::Step {
                index,
                stage: Stage::Shift,
            });
        }
        self.tick(index, &mut analysis);
        if let Some(cause) = self.reason_to_abort() {
            return self.abort(cause);
        }
        let judgement = analysis.judgement();
        if let Some((failures, calls)) = analysis.judge.failing(self.strategy().guards.first_calls)
        {
            self.record(index, step, &analysis, judgement);
            return self.abort(Cause::Failing { failures, calls });
        }
        if judgement.verdict == Verdict::Fail
            && let Some(evidence) = judgement.deciding().cloned()
        {
            self.record(index, step, &analysis, judgement);
            return self.abort(Cause::Worse {
                step: index,
                evidence,
            });
        }
        if self.state.promote_by.is_some() {
            return self.finish_step(index, step, &analysis, judgement);
        }
        let flow = self.conclude(index, step, &mut analysis, judgement);
        if self.state.phase
            == (Phase::Step {
                index,
                stage: Stage::Analyse,
            })
        {
            self.state.analysis = Some(analysis);
            self.keep_lease();
        }
        flow
    }

    /// Judges the counters when a tick is due.
    fn tick(&mut self, index: usize, analysis: &mut Analysis) {
        let strategy = self.strategy();
        let (tick, warm_up) = (millis(strategy.tick), millis(strategy.latency.warm_up));
        let since_tick = self.now.saturating_sub(analysis.tick_unix_ms);
        if since_tick < tick && !analysis.rebase {
            return;
        }
        match &self.seen.counters {
            Counters::NotRead => {}
            Counters::Unavailable { reason } => {
                if since_tick >= tick {
                    analysis.judge.source_failed(reason);
                    analysis.tick_unix_ms = self.now;
                    let reason = reason.clone();
                    self.note(Event::CountersMissing { reason });
                }
            }
            Counters::Read { bounds_us, edges } => {
                let stable = self.state.plan.stable_id().cloned();
                let candidate = self.candidate_id();
                let ledger = &mut self.state.ledger;
                let strata = ledger.take(edges, &candidate, stable.as_deref(), self.now);
                analysis.tick_unix_ms = self.now;
                self.state.progress_unix_ms = self.now;
                if std::mem::take(&mut analysis.rebase) {
                    return;
                }
                let warm = self.now.saturating_sub(analysis.started_unix_ms) >= warm_up
                    || analysis.judge.candidate_calls() >= WARM_CALLS;
                analysis.judge.tick(&strata, bounds_us, warm);
                let judgement = analysis.judgement();
                self.note(Event::Judged {
                    step: index,
                    judgement,
                });
            }
        }
    }

    /// Ends the step, extends it, or gives it up, when its time has come.
    fn conclude(
        &mut self,
        index: usize,
        step: &Step,
        analysis: &mut Analysis,
        judgement: Judgement,
    ) -> Flow {
        if self.held() {
            return self.wait("paused");
        }
        let over = self.now >= analysis.until_unix_ms;
        let passed = judgement.verdict == Verdict::Pass;
        if passed && (over || analysis.extensions > 0) {
            return self.finish_step(index, step, analysis, judgement);
        }
        if !over {
            return Flow::Rest;
        }
        if analysis.extensions < self.strategy().extend_max {
            analysis.extensions += 1;
            analysis.until_unix_ms = self.now.saturating_add(millis(step.duration));
            self.note(Event::Extended {
                step: index,
                times: analysis.extensions,
                until_unix_ms: analysis.until_unix_ms,
            });
            return Flow::Rest;
        }
        let missing = missing(&judgement);
        match self.strategy().on_inconclusive {
            OnInconclusive::Abort => {
                self.record(index, step, analysis, judgement);
                self.abort(Cause::Inconclusive {
                    step: index,
                    missing,
                })
            }
            OnInconclusive::Pause => {
                self.pause(format!("no verdict in step {}: {missing}", index + 1), true);
                self.wait("paused")
            }
        }
    }

    fn finish_step(
        &mut self,
        index: usize,
        step: &Step,
        analysis: &Analysis,
        judgement: Judgement,
    ) -> Flow {
        let latency = analysis.judge.stable_latency();
        if latency.iter().sum::<u64>() >= HISTORY_CALLS {
            self.state.history = latency.to_vec();
        }
        self.record(index, step, analysis, judgement);
        let last = index + 1 >= self.strategy().steps.len();
        if last || self.state.promote_by.is_some() {
            self.enter(Phase::Promote)
        } else {
            self.enter(Self::first_stage(index + 1))
        }
    }

    fn record(&mut self, index: usize, step: &Step, analysis: &Analysis, judgement: Judgement) {
        self.state.records.push(StepRecord {
            index,
            weight: step.weight,
            started_unix_ms: analysis.started_unix_ms,
            ended_unix_ms: self.now,
            judgement,
        });
    }
}

/// What kept a judgement from passing, in words.
fn missing(judgement: &Judgement) -> String {
    if let Some(error) = &judgement.source_error {
        return format!("counters could not be read: {error}");
    }
    match judgement.deciding() {
        Some(evidence) => format!("{}: {}", evidence.metric, evidence.why),
        None => "no metric".to_owned(),
    }
}
