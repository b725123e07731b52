//! The machine against hand-made and random observations.

use proptest::prelude::*;

use super::simulation::{Fault, World, plan, strategy};
use super::*;
use crate::draws::{Draws, runs};
use crate::plan::Release;
use crate::strategy::Strategy;

/// A rollout and its fleet, driven half a second at a time.
struct Rig {
    state: State,
    world: World,
    events: Vec<String>,
}

impl Rig {
    fn new(fault: Fault) -> Self {
        Self::with(fault, strategy())
    }

    fn with(fault: Fault, strategy: Strategy) -> Self {
        let world = World::new(fault, 3, 2);
        Self {
            state: State::new(plan(strategy, 3), world.now),
            world,
            events: Vec::new(),
        }
    }

    fn ask(&mut self, seen: &Observation) -> Vec<Action> {
        let (state, actions) = next(&self.state, seen, self.world.now);
        self.state = state;
        for action in &actions {
            if let Action::Note { event } = action
                && !matches!(event, Event::Judged { .. } | Event::Waiting { .. })
            {
                self.events.push(event.to_string());
            }
        }
        actions
    }

    fn go(&mut self) -> Vec<Action> {
        let actions = self.ask(&self.world.observe());
        self.world.commands.clear();
        actions.iter().for_each(|action| self.world.perform(action));
        self.world.pass();
        actions
    }

    fn until(mut self, reached: impl Fn(&Self) -> bool) -> Self {
        for _ in 0..2_000 {
            if reached(&self) {
                return self;
            }
            self.go();
        }
        panic!(
            "never: {}, {:?}\n{}",
            self.state.phase,
            self.state.waiting,
            self.events.join("\n")
        );
    }

    fn end(self) -> Self {
        self.until(|rig| rig.state.outcome().is_some())
    }

    fn command(&mut self, kind: CommandKind) {
        self.world.commands.push(Command {
            kind,
            by: "anna".to_owned(),
            reason: "enough".to_owned(),
        });
    }

    fn step(&self) -> Option<usize> {
        match self.state.phase {
            Phase::Step {
                index,
                stage: Stage::Analyse,
            } => Some(index),
            _ => None,
        }
    }
}

#[test]
fn a_good_rollout_tells_its_story() {
    let rig = Rig::new(Fault::None).end();
    insta::assert_snapshot!(rig.events.join("\n"), @r"
        preflight
        starting candidates
        verifying candidates
        step 1: scaling, 5%
        step 1: shifting traffic, 5%
        step 1: judging, 5%
        step 2: scaling, 25%
        step 2: shifting traffic, 25%
        step 2: judging, 25%
        step 3: scaling, 50%
        step 3: shifting traffic, 50%
        step 3: judging, 50%
        promoting
        soaking
        keeping the old release warm
        stopping the old release
        succeeded
        ");
    assert_eq!(rig.state.exit(), Some(Exit::Done));
    assert_eq!(rig.state.records().len(), 3);
}

#[test]
fn a_bad_rollout_tells_its_story() {
    let rig = Rig::new(Fault::SomeErrors).end();
    insta::assert_snapshot!(rig.events.join("\n"), @r"
        preflight
        starting candidates
        verifying candidates
        step 1: scaling, 5%
        step 1: shifting traffic, 5%
        step 1: judging, 5%
        rolling back: worse in step 1: errors 6 of 160 (3.75%) against 0 of 3040 (0.00%); evidence 10^5.37 of 10^2.7
        rolling back: withdrawing traffic
        rolling back: draining
        rolling back: stopping candidates
        rolled back: worse in step 1: errors 6 of 160 (3.75%) against 0 of 3040 (0.00%); evidence 10^5.37 of 10^2.7
        ");
    assert_eq!(rig.state.exit(), Some(Exit::RolledBack));
}

#[test]
fn each_fault_is_named() {
    let told = |fault| Rig::new(fault).end().state.cause().unwrap().to_string();
    insta::assert_snapshot!(told(Fault::Refuses), @"app-new-0 refuses to start: error: no such table");
    insta::assert_snapshot!(told(Fault::CrashLoop), @"app-new-0 keeps crashing: error: no such table");
    insta::assert_snapshot!(told(Fault::NeverReady), @"only 0 of 1 instances became ready: error: no such table");
    insta::assert_snapshot!(told(Fault::FailsChecks), @"verification failed: tools/list");
    insta::assert_snapshot!(told(Fault::WrongDigest), @"app-new-0 runs another binary than the release says");
    insta::assert_snapshot!(told(Fault::DiesUnderLoad), @"only 0 of 1 instances are still ready");
    insta::assert_snapshot!(told(Fault::Errors), @"worse in step 1: errors 40 of 40 (100.00%) against 0 of 760 (0.00%); evidence 10^39.66 of 10^2.7");
    insta::assert_snapshot!(told(Fault::Slow), @"worse in step 1: slow@p50 (>20ms) 160 of 160 (100.00%) against 0 of 3040 (0.00%); evidence 10^3.48 of 10^2.7");
}

#[test]
fn a_fleet_that_was_stopped_in_the_middle_may_come_up_again() {
    let exposed = || {
        Rig::new(Fault::None)
            .until(|rig| rig.state.weight().get() > 0 && rig.state.analysis.is_some())
    };
    let down = |rig: &mut Rig, resumed| {
        let mut seen = rig.world.observe();
        seen.resumed = resumed;
        for candidate in &mut seen.candidate {
            candidate.status = Status::Starting;
        }
        rig.ask(&seen);
        rig.state.cause().cloned()
    };
    // An instance that is lost under a driver that looked on is the candidate's fault.
    let mut rig = exposed();
    assert!(matches!(
        down(&mut rig, false),
        Some(Cause::ReadinessLost { .. })
    ));
    // Under one that has just taken over it may have been stopped with the fleet; for a while.
    let mut rig = exposed();
    assert_eq!(down(&mut rig, true), None);
    assert_eq!(down(&mut rig, false), None);
    // Once all are back, what is lost again is lost.
    let mut rig = exposed();
    down(&mut rig, true);
    rig.go();
    assert!(matches!(
        down(&mut rig, false),
        Some(Cause::ReadinessLost { .. })
    ));
}

#[test]
fn an_operator_may_turn_back_until_the_old_release_is_stopped() {
    let phases: [(&str, fn(&Rig) -> bool, Outcome, Exit); 6] = [
        (
            "planned",
            |rig| rig.state.phase == Phase::Planned,
            Outcome::Cancelled,
            Exit::RolledBack,
        ),
        (
            "verify",
            |rig| rig.state.phase == Phase::Verify,
            Outcome::RolledBack,
            Exit::RolledBack,
        ),
        (
            "step 2",
            |rig| rig.step() == Some(1),
            Outcome::RolledBack,
            Exit::RolledBack,
        ),
        (
            "soak",
            |rig| rig.state.phase == Phase::Soak,
            Outcome::RolledBack,
            Exit::RolledBack,
        ),
        (
            "old kept warm",
            |rig| rig.state.phase == Phase::ScaleDownOld { stopping: false },
            Outcome::RolledBack,
            Exit::RolledBack,
        ),
        (
            "old stopping",
            |rig| rig.state.phase == Phase::ScaleDownOld { stopping: true },
            Outcome::Succeeded,
            Exit::Done,
        ),
    ];
    for (name, at, outcome, exit) in phases {
        let mut rig = Rig::new(Fault::None).until(at);
        rig.command(CommandKind::Abort);
        let rig = rig.end();
        assert_eq!(
            (rig.state.outcome(), rig.state.exit()),
            (Some(outcome), Some(exit)),
            "{name}"
        );
        assert_eq!(rig.world.lost, 0, "{name}");
        let winner = if outcome == Outcome::Succeeded {
            "new"
        } else {
            "old"
        };
        assert_eq!(
            rig.world.traffic.effective(rig.world.now),
            Traffic::all_to(winner),
            "{name}"
        );
    }
}

#[test]
fn an_abort_sets_the_weight_to_nothing_at_once() {
    let mut rig = Rig::new(Fault::None).until(|rig| rig.step() == Some(1));
    rig.command(CommandKind::Supersede);
    let actions = rig.go();
    let back = Action::SetTraffic {
        traffic: Traffic::all_to("old"),
        lease: None,
    };
    assert!(actions.contains(&back), "{actions:?}");
    assert_eq!(rig.end().state.outcome(), Some(Outcome::Superseded));
}

#[test]
fn promote_skips_what_is_left_to_be_judged() {
    let mut rig = Rig::new(Fault::None).until(|rig| rig.step() == Some(0));
    rig.command(CommandKind::Promote);
    let rig = rig.end();
    assert_eq!(rig.state.exit(), Some(Exit::Done));
    assert_eq!(rig.state.records().len(), 1);
}

#[test]
fn a_pause_holds_the_weight_and_keeps_the_guards() {
    let mut rig = Rig::new(Fault::None).until(|rig| rig.step() == Some(0));
    rig.command(CommandKind::Pause);
    for _ in 0..400 {
        rig.go();
        assert_eq!(
            rig.world.traffic.effective(rig.world.now).weight_of("new"),
            BasisPoints::percent(5)
        );
    }
    assert!(rig.state.pause().is_some());
    rig.command(CommandKind::Resume);
    assert_eq!(rig.end().state.exit(), Some(Exit::Done));
    let mut rig = Rig::new(Fault::SomeErrors).until(|rig| rig.step() == Some(0));
    rig.command(CommandKind::Pause);
    assert_eq!(rig.end().state.exit(), Some(Exit::RolledBack));
}

#[test]
fn the_way_up_is_refused_in_a_world_that_is_not_as_planned() {
    let refuse = |change: fn(&mut Observation)| {
        let mut rig = Rig::new(Fault::None);
        let mut actions = Vec::new();
        while rig.state.outcome().is_none() {
            let mut seen = rig.world.observe();
            change(&mut seen);
            actions.extend(rig.ask(&seen));
            rig.world.pass();
        }
        assert!(
            actions
                .iter()
                .all(|a| matches!(a, Action::Note { .. } | Action::Finish { .. }))
        );
        assert_eq!(rig.state.exit(), Some(Exit::Refused));
        rig.state.cause().unwrap().to_string()
    };
    insta::assert_snapshot!(refuse(|seen| seen.traffic = None), @"the plan replaces old, and there is no traffic record");
    insta::assert_snapshot!(refuse(|seen| seen.traffic.as_mut().unwrap().traffic.stable = "x".into()), @"the plan replaces old, and the stable release is x now");
    insta::assert_snapshot!(refuse(|seen| seen.edges.clear()), @"there is no live edge");
    insta::assert_snapshot!(refuse(|seen| seen.edges[0].generation = Some(1)), @"edge-0 did not acknowledge the weights");
    insta::assert_snapshot!(refuse(|seen| seen.stable.ready = 0), @"the stable release has no ready instance");
    insta::assert_snapshot!(refuse(|seen| {
        let share = Share { release: "third".into(), weight: BasisPoints::percent(9) };
        seen.traffic.as_mut().unwrap().traffic.shares.push(share);
    }), @"third still has 9% of the traffic");
}

#[test]
fn an_edge_that_never_acknowledges_ends_the_rollout() {
    let mut rig = Rig::new(Fault::None).until(|rig| {
        rig.state.phase
            == Phase::Step {
                index: 0,
                stage: Stage::Shift,
            }
    });
    let silent = |rig: &mut Rig| {
        let mut seen = rig.world.observe();
        seen.edges[1].generation = Some(7);
        let actions = rig.ask(&seen);
        actions.iter().for_each(|action| rig.world.perform(action));
        rig.world.pass();
    };
    while rig.state.outcome().is_none() {
        silent(&mut rig);
    }
    assert_eq!(rig.state.exit(), Some(Exit::NotRolledBack));
    assert_eq!(
        rig.world.candidate_desired, 1,
        "what may still be called is not stopped"
    );
    insta::assert_snapshot!(rig.state.cause().unwrap(), @"edge-1 did not acknowledge the return (rolling back because: edge-1 did not acknowledge the weight)");
}

#[test]
fn somebody_elses_traffic_is_left_alone() {
    let mut rig = Rig::new(Fault::None).until(|rig| rig.step() == Some(0));
    rig.world.traffic.traffic = Traffic::all_to("third");
    rig.world.traffic.generation += 1;
    let rig = rig.end();
    assert_eq!(rig.state.cause(), Some(&Cause::TrafficChanged));
    assert_eq!(rig.world.traffic.traffic, Traffic::all_to("third"));
}

#[test]
fn a_first_deployment_has_no_steps() {
    let plan = Plan::new(Release::named("new"), None, 3, strategy()).unwrap();
    let mut rig = Rig::new(Fault::None);
    rig.state = State::new(plan, rig.world.now);
    let mut first = true;
    while rig.state.outcome().is_none() {
        let mut seen = rig.world.observe();
        seen.traffic = seen.traffic.filter(|_| !first);
        let actions = rig.ask(&seen);
        first &= !actions
            .iter()
            .any(|action| matches!(action, Action::SetTraffic { .. }));
        actions.iter().for_each(|action| rig.world.perform(action));
        rig.world.pass();
    }
    assert_eq!(
        rig.state.exit(),
        Some(Exit::Done),
        "{:?}",
        rig.state.cause()
    );
    assert_eq!(
        (rig.state.records().len(), rig.world.candidate_desired),
        (0, 3)
    );
}

#[test]
fn unreadable_counters_are_inconclusive_and_never_pass() {
    let mut rig = Rig::new(Fault::None).until(|rig| rig.step() == Some(0));
    while rig.state.outcome().is_none() {
        let mut seen = rig.world.observe();
        let reason = "edge-0: connection refused".to_owned();
        seen.counters = Counters::Unavailable { reason };
        let actions = rig.ask(&seen);
        actions.iter().for_each(|action| rig.world.perform(action));
        rig.world.pass();
    }
    assert_eq!(rig.state.exit(), Some(Exit::Inconclusive));
    insta::assert_snapshot!(rig.state.cause().unwrap(), @"no verdict in step 1: counters could not be read: edge-0: connection refused");
}

#[test]
fn a_journal_of_another_version_is_refused() {
    let state = State::new(plan(strategy(), 3), 0);
    let mut value: serde_json::Value = serde_json::from_slice(&state.to_json().unwrap()).unwrap();
    value["version"] = 9.into();
    let text = serde_json::to_vec(&value).unwrap();
    insta::assert_snapshot!(State::from_json(&text).unwrap_err(), @"the rollout journal has version 9, this program writes version 1");
    assert!(State::from_json(b"{}").is_err());
}

/// Spoils an observation in one way or another.
fn spoil(seen: &mut Observation, draws: &mut Draws) {
    let index = |draws: &mut Draws, len: usize| (draws.bits() as usize) % len.max(1);
    match draws.bits() % 12 {
        0 => seen.edges.clear(),
        1 => seen
            .edges
            .iter_mut()
            .for_each(|edge| edge.generation = None),
        2 => seen.edges.truncate(1),
        3 => seen.edges.iter_mut().for_each(|edge| edge.expired = true),
        4 => seen.candidate.clear(),
        5 => {
            let status = [
                Status::Starting,
                Status::NotReady,
                Status::Stopping,
                Status::CrashLooping,
            ];
            let at = index(draws, seen.candidate.len());
            let status = status[index(draws, status.len())];
            if let Some(candidate) = seen.candidate.get_mut(at) {
                candidate.status = status;
            }
        }
        6 => seen.stable.ready = 0,
        7 => seen.counters = Counters::NotRead,
        8 => {
            seen.counters = Counters::Unavailable {
                reason: "?".to_owned(),
            }
        }
        9 => {
            seen.verification = Some(Verification::Unreachable {
                reason: "?".to_owned(),
            });
        }
        10 => seen
            .traffic
            .iter_mut()
            .for_each(|seen| seen.expires_unix_ms = Some(0)),
        _ => {
            use CommandKind::{Abort, Pause, Promote, Resume, Supersede};
            let kinds = [
                Pause, Resume, Promote, Resume, Pause, Promote, Supersede, Abort,
            ];
            let kind = kinds[index(draws, kinds.len())];
            seen.commands.push(Command {
                kind,
                by: "x".to_owned(),
                reason: String::new(),
            });
        }
    }
}

fn acked(seen: &Observation, generation: u64) -> bool {
    !seen.edges.is_empty()
        && seen
            .edges
            .iter()
            .all(|edge| edge.generation >= Some(generation))
}

fn ready(seen: &Observation) -> usize {
    seen.candidate
        .iter()
        .filter(|candidate| candidate.status == Status::Ready)
        .count()
}

/// What must hold of every decision, whatever was seen.
fn check_decision(
    before: &State,
    seen: &Observation,
    actions: &[Action],
    now: u64,
    promoted: bool,
) {
    let traffic = seen.traffic.as_ref();
    for action in actions {
        match action {
            Action::SetTraffic {
                traffic: wanted, ..
            } => {
                let weight = |release: &str| {
                    let effective = traffic.map(|seen| seen.effective(now));
                    let before = effective.map_or(BasisPoints::ZERO, |t| t.weight_of(release));
                    (before, wanted.weight_of(release))
                };
                let (from, to) = weight("new");
                if to > from {
                    assert!(ready(seen) > 0, "traffic to a candidate that is not ready");
                    let generation = traffic.map_or(0, |seen| seen.generation);
                    assert!(acked(seen, generation), "raised before it was acknowledged");
                }
                let (from, to) = weight("old");
                assert!(to <= from || seen.stable.ready > 0 || ready(seen) == 0);
            }
            Action::StopInstances { release } if release == "old" => {
                assert!(promoted, "stable stopped before the promotion was in force");
            }
            Action::StopInstances { .. } => {
                assert!(traffic.is_none_or(|seen| seen.effective(now).weight_of("new").get() == 0));
            }
            Action::RenewLease {
                traffic: wanted, ..
            } => {
                assert_eq!(
                    traffic.map(|seen| seen.effective(now)),
                    Some(wanted.clone())
                );
            }
            _ => {}
        }
    }
    let text = before.to_json().unwrap();
    assert_eq!(
        &State::from_json(&text).unwrap(),
        before,
        "the journal reads back"
    );
}

fn check_abort_is_open(state: &State, seen: &Observation, now: u64) {
    let mut seen = seen.clone();
    seen.commands = vec![Command {
        kind: CommandKind::Abort,
        by: "x".to_owned(),
        reason: String::new(),
    }];
    let (after, _) = next(state, &seen, now);
    let closed = matches!(
        state.phase,
        Phase::Abort { .. } | Phase::Done { .. } | Phase::ScaleDownOld { stopping: true }
    );
    let turned = matches!(after.phase, Phase::Abort { .. } | Phase::Done { .. });
    assert!(closed || turned, "no way back from {}", state.phase);
}

fn check_end_is_final(state: &State, seen: &Observation, now: u64) {
    if state.outcome().is_some() {
        let (after, actions) = next(state, seen, now + 1_000_000);
        assert_eq!(&after, state);
        assert!(matches!(actions.as_slice(), [Action::Finish { .. }]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(runs(40)))]

    #[test]
    fn safe_whatever_is_seen(seed: u64, spoil_one_in in 3_u64..200, fault in 0_usize..4) {
        let fault = [Fault::None, Fault::SomeErrors, Fault::Slow, Fault::DiesUnderLoad][fault];
        let mut draws = Draws::seeded(seed);
        let mut rig = Rig::new(fault);
        let mut promoted = false;
        for _ in 0..400 {
            let mut seen = rig.world.observe();
            while draws.bits().is_multiple_of(spoil_one_in) {
                spoil(&mut seen, &mut draws);
            }
            let before = rig.state.clone();
            let now = rig.world.now;
            check_abort_is_open(&before, &seen, now);
            check_end_is_final(&before, &seen, now);
            if let Some(traffic) = &seen.traffic {
                promoted |= traffic.traffic == Traffic::all_to("new") && acked(&seen, traffic.generation);
            }
            let actions = rig.ask(&seen);
            check_decision(&before, &seen, &actions, now, promoted);
            actions.iter().for_each(|action| rig.world.perform(action));
            let passes = if draws.bits().is_multiple_of(60) { 60 } else { 1 };
            (0..passes).for_each(|_| rig.world.pass());
            if rig.state.outcome().is_some() {
                check_end_is_final(&rig.state, &seen, now);
                break;
            }
        }
    }
}
