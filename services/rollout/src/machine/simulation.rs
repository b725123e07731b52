//! A small fleet in simulated time, and a driver that is killed wherever it hurts.
//!
//! The fleet is what the machine believes in: a store with generations and leases, edges that
//! acknowledge late, restart and disappear, instances that need time to start and may be no good.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::draws::{Draws, runs};
use crate::measure::{EdgeReport, ReleaseCounters};
use crate::plan::Release;
use crate::strategy::{OnInconclusive, Strategy};

pub(super) const BOUNDS_US: [u64; 4] = [5_000, 20_000, 80_000, 2_000_000];
pub(super) const STEP_MS: u64 = 500;

/// What is the matter with the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Errors,
    /// Fails only some calls, one in twenty.
    SomeErrors,
    Slow,
    CrashLoop,
    Refuses,
    NeverReady,
    FailsChecks,
    WrongDigest,
    /// Crashes once it has had calls.
    DiesUnderLoad,
}

#[derive(Clone, Debug)]
struct Edge {
    name: String,
    started: u64,
    /// Not there before this time.
    absent_until: u64,
    view: Option<TrafficSeen>,
    counters: BTreeMap<String, ReleaseCounters>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) now: u64,
    fault: Fault,
    pub(super) traffic: TrafficSeen,
    edges: Vec<Edge>,
    /// Start times of the candidate's instances.
    candidate: Vec<u64>,
    pub(super) candidate_desired: u32,
    pub(super) stable: Pool,
    verification: Option<Verification>,
    rps: u64,
    /// Calls that found no instance to answer them.
    pub(super) lost: u64,
    pub(super) commands: Vec<Command>,
}

pub(super) fn strategy() -> Strategy {
    let weights = [5, 25, 50].map(BasisPoints::percent);
    let mut strategy = Strategy::with_weights(&weights, Duration::from_secs(20), 100);
    strategy.tick = Duration::from_secs(2);
    strategy.weight_lease = Duration::from_secs(12);
    strategy.latency.warm_up = Duration::from_secs(2);
    strategy.drain = Duration::from_secs(3);
    strategy.scale_down_delay = Duration::from_secs(4);
    strategy.soak = Duration::from_secs(2);
    strategy
}

pub(super) fn plan(strategy: Strategy, replicas: u32) -> Plan {
    let candidate = Release {
        binary_digest: Some("sha256:new".to_owned()),
        ..Release::named("new")
    };
    Plan::new(candidate, Some(Release::named("old")), replicas, strategy).unwrap()
}

impl World {
    pub(super) fn new(fault: Fault, replicas: u32, edges: usize) -> Self {
        let traffic = TrafficSeen {
            generation: 7,
            traffic: Traffic::all_to("old"),
            expires_unix_ms: None,
        };
        let edge = |index: usize| Edge {
            name: format!("edge-{index}"),
            started: 1,
            absent_until: 0,
            view: Some(traffic.clone()),
            counters: BTreeMap::new(),
        };
        Self {
            now: 1_000_000,
            fault,
            edges: (0..edges).map(edge).collect(),
            traffic,
            candidate: Vec::new(),
            candidate_desired: 0,
            stable: Pool {
                desired: replicas,
                running: replicas,
                ready: replicas,
            },
            verification: None,
            rps: 400,
            lost: 0,
            commands: Vec::new(),
        }
    }

    pub(super) fn observe(&self) -> Observation {
        let present = || {
            self.edges
                .iter()
                .filter(|edge| edge.absent_until <= self.now)
        };
        let ack = |edge: &Edge| EdgeAck {
            edge: edge.name.clone(),
            generation: edge.view.as_ref().map(|view| view.generation),
            expired: edge.view.as_ref().is_some_and(|view| view.lapsed(self.now)),
        };
        let report = |edge: &Edge| EdgeReport {
            edge: edge.name.clone(),
            started_unix_ms: edge.started,
            releases: edge.counters.values().cloned().collect(),
        };
        Observation {
            resumed: false,
            candidate: self.candidates(),
            candidate_desired: self.candidate_desired,
            stable: self.stable,
            traffic: Some(self.traffic.clone()),
            edges: present().map(ack).collect(),
            counters: Counters::Read {
                bounds_us: BOUNDS_US.to_vec(),
                edges: present().map(report).collect(),
            },
            verification: self.verification.clone(),
            commands: self.commands.clone(),
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let had_calls = self.edges.iter().any(|edge| {
            let counters = edge.counters.get("new");
            counters.is_some_and(|counters| counters.calls > 20)
        });
        let candidate = |(index, started): (usize, &u64)| {
            let age = self.now - started;
            let status = match self.fault {
                Fault::Refuses if age > 500 => Status::Refused,
                Fault::CrashLoop if age > 4_000 => Status::CrashLooping,
                Fault::DiesUnderLoad if had_calls => Status::Starting,
                Fault::NeverReady | Fault::CrashLoop | Fault::Refuses => Status::Starting,
                _ if age > 1_500 => Status::Ready,
                _ => Status::Starting,
            };
            let digest = if self.fault == Fault::WrongDigest {
                "sha256:?"
            } else {
                "sha256:new"
            };
            Candidate {
                name: format!("app-new-{index}"),
                status,
                restarts: if self.fault == Fault::CrashLoop {
                    (age / 2_000) as u32
                } else {
                    0
                },
                since_unix_ms: *started,
                last_line: Some("error: no such table".to_owned()),
                config_digest: None,
                binary_digest: Some(digest.to_owned()),
                in_flight: Some(0),
            }
        };
        self.candidate.iter().enumerate().map(candidate).collect()
    }

    fn ready(&self, release: &str) -> bool {
        match release {
            "old" => self.stable.ready > 0,
            _ => self.candidates().iter().any(|c| c.status == Status::Ready),
        }
    }

    pub(super) fn perform(&mut self, action: &Action) {
        match action {
            Action::StartInstances { replicas, .. } => self.candidate_desired = *replicas,
            Action::VerifyCandidate { .. } => {
                self.verification = Some(match self.fault {
                    Fault::FailsChecks => Verification::Failed {
                        reason: "tools/list".to_owned(),
                    },
                    _ => Verification::Passed,
                });
            }
            Action::SetTraffic { traffic, lease } => self.write(traffic, *lease),
            Action::RenewLease { traffic, lease } => {
                if self.traffic.traffic == *traffic && !self.traffic.lapsed(self.now) {
                    self.write(traffic, Some(*lease));
                }
            }
            Action::StopInstances { release } if release == "old" => self.stable.desired = 0,
            Action::StopInstances { .. } => self.candidate_desired = 0,
            Action::AwaitAcks { .. } | Action::Finish { .. } | Action::Note { .. } => {}
        }
    }

    fn write(&mut self, traffic: &Traffic, lease: Option<Duration>) {
        self.traffic = TrafficSeen {
            generation: self.traffic.generation + 1,
            traffic: traffic.clone(),
            expires_unix_ms: lease.map(|lease| self.now + millis(lease)),
        };
    }

    /// Half a second passes: the fleet does what it was told, then calls arrive.
    pub(super) fn pass(&mut self) {
        self.now += STEP_MS;
        let candidates = self.candidate_desired as usize;
        self.candidate.truncate(candidates);
        while self.candidate.len() < candidates {
            self.candidate.push(self.now);
        }
        if self.stable.desired == 0 {
            self.stable.running = 0;
            self.stable.ready = 0;
        }
        let ready = |world: &Self, release: &str| world.ready(release);
        let (new_ready, old_ready) = (ready(self, "new"), ready(self, "old"));
        let calls = self.rps * STEP_MS / 1_000 / self.edges.len().max(1) as u64;
        for edge in &mut self.edges {
            if edge.absent_until > self.now {
                continue;
            }
            // An edge takes a step to see a write, and acts on what it saw.
            let view = edge.view.replace(self.traffic.clone());
            let traffic = view
                .unwrap_or_else(|| self.traffic.clone())
                .effective(self.now);
            let share = u64::from(traffic.weight_of("new").get());
            let (mut new, mut failed) = (0, 0);
            for call in 0..calls {
                let point = (call * 7_919 + self.now / STEP_MS * 3_571) % 10_000;
                if point < share {
                    new += 1;
                    failed += u64::from(self.fault.fails(point));
                }
            }
            let slow = usize::from(self.fault == Fault::Slow) * 3;
            edge.count("new", new, failed, slow);
            edge.count("old", calls - new, 0, 0);
            self.lost += if new_ready { 0 } else { new };
            self.lost += if old_ready { 0 } else { calls - new };
        }
    }

    /// An edge dies and is back, counting from nothing, after `away` milliseconds.
    pub(super) fn restart_edge(&mut self, index: usize, away: u64) {
        let index = index % self.edges.len();
        let edge = &mut self.edges[index];
        edge.absent_until = self.now + away;
        edge.started = self.now + away;
        edge.view = None;
        edge.counters.clear();
    }

    /// What is left in the end, apart from times and generations.
    pub(super) fn remains(&self) -> (Traffic, u32, u32) {
        let traffic = self.traffic.effective(self.now);
        (traffic, self.candidate_desired, self.stable.desired)
    }
}

impl Fault {
    fn fails(self, point: u64) -> bool {
        self == Self::Errors || (self == Self::SomeErrors && point.is_multiple_of(20))
    }
}

impl Edge {
    fn count(&mut self, release: &str, calls: u64, failed: u64, bucket: usize) {
        if calls == 0 {
            return;
        }
        let counters = self
            .counters
            .entry(release.to_owned())
            .or_insert_with(|| ReleaseCounters {
                release: release.to_owned(),
                latency: vec![0; BOUNDS_US.len() + 1],
                ..ReleaseCounters::default()
            });
        counters.calls += calls;
        counters.failures += failed;
        counters.capped_failures += failed;
        counters.latency[bucket] += calls;
    }
}

/// Where and how often the driver is killed, and what else goes wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// One decision in this many is the driver's last for a while; 0: never.
    pub(super) kill_one_in: u64,
    /// How long the driver is away at most, milliseconds.
    pub(super) away_ms: u64,
    /// One step in this many sees an edge restart; 0: never.
    pub(super) restart_one_in: u64,
}

const FAIR: Weather = Weather {
    kill_one_in: 0,
    away_ms: 0,
    restart_one_in: 0,
};

fn one_in(draws: &mut Draws, n: u64) -> bool {
    n > 0 && draws.bits().is_multiple_of(n)
}

/// Drives a rollout to its end.
fn drive(world: &mut World, plan: Plan, weather: Weather, seed: u64) -> State {
    let mut draws = Draws::seeded(seed);
    let mut journal = State::new(plan, world.now).to_json().unwrap();
    let mut state = State::from_json(&journal).unwrap();
    for _ in 0..20_000 {
        let (after, actions) = next(&state, &world.observe(), world.now);
        // Killed before the journal is written, after it, or between two actions.
        let killed = one_in(&mut draws, weather.kill_one_in);
        let done = if killed {
            draws.bits() % (actions.len() as u64 + 2)
        } else {
            u64::MAX
        };
        if done > 0 {
            journal = after.to_json().unwrap();
            state = after;
        }
        for action in actions
            .iter()
            .take(usize::try_from(done.saturating_sub(1)).unwrap_or(usize::MAX))
        {
            world.perform(action);
            if let Action::Finish { .. } = action {
                return state;
            }
        }
        let mut pause = STEP_MS;
        if killed {
            state = State::from_json(&journal).unwrap();
            world.verification = None;
            pause += draws.bits() % (weather.away_ms + 1);
        }
        for _ in 0..pause.div_ceil(STEP_MS) {
            world.pass();
            if one_in(&mut draws, weather.restart_one_in) {
                let (index, away) = (draws.bits() as usize, draws.bits() % 4_000);
                world.restart_edge(index, away);
            }
        }
    }
    panic!(
        "no end: {} since {}, waiting {:?}",
        state.phase, state.entered_unix_ms, state.waiting
    );
}

const FAULTS: [(Fault, Outcome); 10] = [
    (Fault::None, Outcome::Succeeded),
    (Fault::Errors, Outcome::RolledBack),
    (Fault::SomeErrors, Outcome::RolledBack),
    (Fault::Slow, Outcome::RolledBack),
    (Fault::CrashLoop, Outcome::RolledBack),
    (Fault::Refuses, Outcome::RolledBack),
    (Fault::NeverReady, Outcome::RolledBack),
    (Fault::FailsChecks, Outcome::RolledBack),
    (Fault::WrongDigest, Outcome::RolledBack),
    (Fault::DiesUnderLoad, Outcome::RolledBack),
];

fn check(fault: Fault, expect: Outcome, weather: Weather, seed: u64) {
    let mut world = World::new(fault, 3, 2);
    let state = drive(&mut world, plan(strategy(), 3), weather, seed);
    let story = format!("{fault:?} {weather:?} seed {seed}: {:?}", state.cause());
    assert_eq!(state.outcome(), Some(expect), "{story}");
    let remains = match expect {
        Outcome::Succeeded => (Traffic::all_to("new"), 3, 0),
        _ => (Traffic::all_to("old"), 0, 3),
    };
    assert_eq!(world.remains(), remains, "{story}");
    if fault != Fault::DiesUnderLoad {
        assert_eq!(world.lost, 0, "{story}");
    }
}

#[test]
fn every_fault_ends_as_it_should() {
    for (fault, expect) in FAULTS {
        check(fault, expect, FAIR, 0);
    }
}

#[test]
fn a_killed_driver_reaches_the_same_end() {
    for seed in 0..u64::from(runs(6)) {
        for (fault, expect) in FAULTS {
            // A driver has to live for a few ticks to prove anything.
            let (kill_one_in, away_ms) =
                [(4, 1_000), (15, 20_000), (25, 120_000)][seed as usize % 3];
            let weather = Weather {
                kill_one_in,
                away_ms,
                ..FAIR
            };
            check(fault, expect, weather, seed);
        }
    }
}

#[test]
fn one_kill_at_any_decision_changes_nothing() {
    for (fault, expect) in [
        (Fault::None, Outcome::Succeeded),
        (Fault::SomeErrors, Outcome::RolledBack),
    ] {
        let uncut = drive_killed_once(&mut brisk(fault), usize::MAX, 0, 0).1;
        for at in 0..uncut {
            // Killed before the journal is written, before anything is performed, after one action.
            for (cut, away_ms) in [(0, 1_000), (1, 20_000), (2, 1_000)] {
                let mut world = brisk(fault);
                let (state, _) = drive_killed_once(&mut world, at, cut, away_ms);
                let story = format!("{fault:?} killed at {at}, cut {cut}: {:?}", state.cause());
                assert_eq!((state.outcome(), world.lost), (Some(expect), 0), "{story}");
                let left = if expect == Outcome::Succeeded {
                    (3, 0)
                } else {
                    (0, 3)
                };
                let found = (world.candidate_desired, world.stable.desired);
                assert_eq!(found, left, "{story}");
            }
        }
    }
}

/// A fleet with so much to do that short steps suffice.
fn brisk(fault: Fault) -> World {
    let mut world = World::new(fault, 3, 2);
    world.rps = 1_600;
    world
}

/// Drives a rollout of short steps whose driver is killed at decision `at`; returns how many
/// decisions it took.
fn drive_killed_once(world: &mut World, at: usize, cut: usize, away_ms: u64) -> (State, usize) {
    let mut strategy = strategy();
    for step in &mut strategy.steps {
        step.duration = Duration::from_secs(6);
    }
    let mut state = State::new(plan(strategy, 3), world.now);
    for decision in 0..2_000 {
        let (after, actions) = next(&state, &world.observe(), world.now);
        let killed = decision == at;
        if !killed || cut > 0 {
            state = after;
        }
        let performed = if killed {
            cut.saturating_sub(1)
        } else {
            usize::MAX
        };
        let world_actions = actions
            .iter()
            .filter(|action| !matches!(action, Action::Note { .. }));
        world_actions
            .take(performed)
            .for_each(|action| world.perform(action));
        if state.outcome().is_some() && !killed {
            return (state, decision);
        }
        if killed {
            state = State::from_json(&state.to_json().unwrap()).unwrap();
            world.verification = None;
            (0..away_ms / STEP_MS).for_each(|_| world.pass());
        }
        world.pass();
    }
    panic!("no end: {}", state.phase);
}

#[test]
fn restarting_edges_lose_and_abort_nothing() {
    for seed in 0..u64::from(runs(5)) {
        for (fault, expect) in [FAULTS[0], FAULTS[1], FAULTS[3]] {
            let weather = Weather {
                kill_one_in: 20,
                away_ms: 5_000,
                restart_one_in: 40,
            };
            check(fault, expect, weather, seed);
        }
    }
}

#[test]
fn a_driver_that_never_returns_leaves_all_traffic_to_stable() {
    let mut world = World::new(Fault::None, 3, 4);
    let mut state = State::new(plan(strategy(), 3), world.now);
    while state.analysis().is_none() {
        let (after, actions) = next(&state, &world.observe(), world.now);
        state = after;
        actions.iter().for_each(|action| world.perform(action));
        world.pass();
    }
    assert_eq!(
        world.traffic.effective(world.now).weight_of("new"),
        BasisPoints::percent(5)
    );
    let lease = state.plan().strategy().weight_lease;
    (0..=millis(lease) / STEP_MS).for_each(|_| world.pass());
    assert_eq!(world.traffic.effective(world.now), Traffic::all_to("old"));
}

#[test]
fn two_hundred_instances_are_scaled_before_they_get_traffic() {
    for (fault, expect) in [FAULTS[0], FAULTS[2]] {
        let mut world = World::new(fault, 240, 8);
        let state = drive(&mut world, plan(strategy(), 240), FAIR, 1);
        assert_eq!(
            (state.outcome(), world.lost),
            (Some(expect), 0),
            "{:?}",
            state.cause()
        );
    }
}

#[test]
fn without_calls_nothing_is_promoted() {
    for (policy, outcome) in [
        (OnInconclusive::Abort, Outcome::RolledBack),
        (OnInconclusive::Pause, Outcome::RolledBack),
    ] {
        let mut strategy = strategy();
        strategy.on_inconclusive = policy;
        strategy.pause_max = Duration::from_secs(60);
        let mut world = World::new(Fault::None, 3, 2);
        world.rps = 0;
        let state = drive(&mut world, plan(strategy, 3), FAIR, 0);
        assert_eq!(state.outcome(), Some(outcome));
        let cause = match state.cause() {
            Some(Cause::Inconclusive { missing, .. }) => missing.clone(),
            cause => format!("{cause:?}"),
        };
        let expect = match policy {
            OnInconclusive::Abort => ("errors: no calls", Exit::Inconclusive),
            OnInconclusive::Pause => ("Some(PausedTooLong)", Exit::RolledBack),
        };
        assert_eq!((cause.as_str(), state.exit().unwrap()), expect);
    }
}
