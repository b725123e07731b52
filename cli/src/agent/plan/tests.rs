use proptest::prelude::*;

use super::*;

const NOW: Millis = 1_000_000;
const A: &str = "aaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbb";

fn pool(role: Role, release: &str, replicas: u32) -> Pool {
    Pool {
        role,
        release: release.into(),
        replicas,
    }
}

fn member(name: &str, release: &str, phase: Phase) -> Member {
    let role = if name.starts_with("edge") {
        Role::Edge
    } else {
        Role::App
    };
    let ready_since = (phase == Phase::Running { ready: true }).then_some(NOW - 1000);
    Member {
        name: name.into(),
        role,
        release: release.into(),
        phase,
        started: NOW - 2000,
        ready_since,
        replace: false,
        history: History::default(),
    }
}

fn ready(name: &str, release: &str) -> Member {
    member(name, release, Phase::Running { ready: true })
}

fn starting(name: &str, release: &str) -> Member {
    member(name, release, Phase::Running { ready: false })
}

fn stopping(name: &str, release: &str) -> Member {
    member(
        name,
        release,
        Phase::Stopping {
            kill_at: NOW + 9000,
            then: Then::Forget,
        },
    )
}

fn replaced(mut member: Member) -> Member {
    member.replace = true;
    member
}

fn steps(goal: &Goal, members: &[Member], sockets: Sockets) -> String {
    let plan = decide(&Policy::default(), goal, members, sockets, NOW);
    let word = |step: &Step| match step {
        Step::Start { name, .. } => format!("start {name}"),
        Step::Stop {
            name,
            then: Then::Forget,
        } => format!("stop {name}"),
        Step::Stop {
            name,
            then: Then::Retry,
        } => format!("retry {name}"),
        Step::Kill { name } => format!("kill {name}"),
        Step::Forget { name } => format!("forget {name}"),
    };
    plan.steps.iter().map(word).collect::<Vec<_>>().join(", ")
}

#[track_caller]
fn check(pools: &[Pool], members: &[Member], expect: &str) {
    assert_eq!(
        steps(&Goal::Run(pools.to_vec()), members, Sockets::Held),
        expect
    );
}

#[test]
fn a_pool_keeps_its_number() {
    let fleet = [pool(Role::Edge, B, 1), pool(Role::App, A, 2)];
    check(
        &fleet,
        &[],
        "start edge-1, start app-aaaaaaaa-1, start app-aaaaaaaa-2",
    );
    check(
        &fleet,
        &[ready("edge-1", B), ready("app-aaaaaaaa-2", A)],
        "start app-aaaaaaaa-1",
    );
    // Growing fills the lowest free numbers, shrinking takes the highest.
    check(
        &[pool(Role::App, A, 1)],
        &[
            ready("app-aaaaaaaa-1", A),
            ready("app-aaaaaaaa-10", A),
            ready("app-aaaaaaaa-9", A),
        ],
        "stop app-aaaaaaaa-9, stop app-aaaaaaaa-10",
    );
    check(
        &[pool(Role::App, A, 1)],
        &[starting("app-aaaaaaaa-1", A), ready("app-aaaaaaaa-2", A)],
        "stop app-aaaaaaaa-1",
    );
    // A name that is still stopping is not used twice.
    check(
        &[pool(Role::App, A, 1)],
        &[stopping("app-aaaaaaaa-1", A)],
        "start app-aaaaaaaa-2",
    );
}

#[test]
fn two_releases_of_an_app_run_side_by_side_until_one_is_not_wanted() {
    let both = [pool(Role::App, A, 1), pool(Role::App, B, 1)];
    let members = [ready("app-aaaaaaaa-1", A), ready("app-bbbbbbbb-1", B)];
    check(&both, &members, "");
    check(&both[1..], &members, "stop app-aaaaaaaa-1");
    check(
        &[pool(Role::App, A, 1), pool(Role::App, B, 0)],
        &members,
        "stop app-bbbbbbbb-1",
    );
}

#[test]
fn a_waiting_process_starts_when_its_time_comes_and_a_failed_one_does_not() {
    let fleet = [pool(Role::App, A, 1)];
    let waiting = |until| member("app-aaaaaaaa-1", A, Phase::Waiting { until });
    check(&fleet, &[waiting(NOW)], "start app-aaaaaaaa-1");
    check(&fleet, &[waiting(NOW + 1)], "");
    check(&fleet, &[member("app-aaaaaaaa-1", A, Phase::Failed)], "");
    check(&[], &[waiting(NOW)], "forget app-aaaaaaaa-1");
    let plan = decide(
        &Policy::default(),
        &Goal::Run(fleet.to_vec()),
        &[waiting(NOW + 7)],
        Sockets::Held,
        NOW,
    );
    assert_eq!(plan.wake, Some(NOW + 7));
    // An operator's request clears a failure.
    check(
        &fleet,
        &[replaced(member("app-aaaaaaaa-1", A, Phase::Failed))],
        "forget app-aaaaaaaa-1, start app-aaaaaaaa-2",
    );
}

#[test]
fn an_edge_hands_over_only_when_its_successor_is_ready() {
    let fleet = [pool(Role::Edge, B, 1)];
    check(&fleet, &[ready("edge-1", A)], "start edge-2");
    check(&fleet, &[ready("edge-1", A), starting("edge-2", B)], "");
    check(
        &fleet,
        &[ready("edge-1", A), ready("edge-2", B)],
        "stop edge-1",
    );
    check(&fleet, &[stopping("edge-1", A), ready("edge-2", B)], "");
    // A successor that cannot start leaves the old one serving.
    check(
        &fleet,
        &[ready("edge-1", A), member("edge-2", B, Phase::Failed)],
        "",
    );
    // A restart of the same release goes the same way.
    check(&fleet, &[replaced(ready("edge-1", B))], "start edge-2");
    check(
        &fleet,
        &[replaced(ready("edge-1", B)), ready("edge-2", B)],
        "stop edge-1",
    );
}

#[test]
fn apps_are_replaced_one_above_their_number() {
    let fleet = [pool(Role::App, A, 2)];
    let old = |n: u8| replaced(ready(&format!("app-aaaaaaaa-{n}"), A));
    check(&fleet, &[old(1), old(2)], "start app-aaaaaaaa-3");
    check(&fleet, &[old(1), old(2), starting("app-aaaaaaaa-3", A)], "");
    check(
        &fleet,
        &[old(1), old(2), ready("app-aaaaaaaa-3", A)],
        "stop app-aaaaaaaa-1, start app-aaaaaaaa-4",
    );
    check(
        &fleet,
        &[
            stopping("app-aaaaaaaa-1", A),
            old(2),
            ready("app-aaaaaaaa-3", A),
            ready("app-aaaaaaaa-4", A),
        ],
        "stop app-aaaaaaaa-2",
    );
}

#[test]
fn without_the_sockets_the_old_edge_goes_first() {
    let goal = Goal::Run(vec![pool(Role::Edge, B, 1)]);
    let check = |members: &[Member], expect: &str| {
        assert_eq!(steps(&goal, members, Sockets::WithTheEdge), expect)
    };
    check(&[ready("edge-1", B)], "");
    check(&[ready("edge-1", A)], "stop edge-1");
    check(&[stopping("edge-1", A)], "");
    check(&[], "start edge-1");
    check(
        &[member("edge-1", B, Phase::Waiting { until: NOW })],
        "start edge-1",
    );
}

#[test]
fn several_edges_are_replaced_one_at_a_time() {
    let fleet = [pool(Role::Edge, B, 2)];
    check(&fleet, &[], "start edge-1, start edge-2");
    // One that died comes back under its own name while the other serves.
    let died = member("edge-1", B, Phase::Waiting { until: NOW });
    check(&fleet, &[died, ready("edge-2", B)], "start edge-1");
    let old = |n: u8| ready(&format!("edge-{n}"), A);
    check(&fleet, &[old(1), old(2)], "start edge-3");
    check(&fleet, &[old(1), old(2), starting("edge-3", B)], "");
    check(
        &fleet,
        &[old(1), old(2), ready("edge-3", B)],
        "stop edge-1, start edge-4",
    );
    // Only one of them was to be restarted.
    check(
        &fleet,
        &[replaced(ready("edge-1", B)), ready("edge-2", B)],
        "start edge-3",
    );
    // Whoever has the sockets serves on, although another cannot join it.
    let goal = Goal::Run(fleet.to_vec());
    let alone = [ready("edge-2", B)];
    assert_eq!(steps(&goal, &alone, Sockets::WithTheEdge), "");
}

#[test]
fn a_start_has_a_deadline_and_a_stop_has_one() {
    let fleet = [pool(Role::App, A, 1)];
    let mut late = starting("app-aaaaaaaa-1", A);
    late.started = NOW - 60_000;
    check(&fleet, &[late.clone()], "retry app-aaaaaaaa-1");
    // It was ready once: losing its registration is no reason to kill it.
    late.ready_since = Some(NOW - 50_000);
    check(&fleet, &[late], "");
    let retrying = member(
        "app-aaaaaaaa-1",
        A,
        Phase::Stopping {
            kill_at: NOW,
            then: Then::Retry,
        },
    );
    check(&fleet, &[retrying], "kill app-aaaaaaaa-1");
}

#[test]
fn the_fleet_stops_from_the_outside_in() {
    let stop = |members: &[Member]| steps(&Goal::Stop, members, Sockets::Held);
    assert_eq!(
        stop(&[
            ready("edge-1", B),
            ready("app-aaaaaaaa-1", A),
            member("app-aaaaaaaa-2", A, Phase::Failed)
        ]),
        "stop edge-1, forget app-aaaaaaaa-2"
    );
    assert_eq!(
        stop(&[stopping("edge-1", B), ready("app-aaaaaaaa-1", A)]),
        ""
    );
    assert_eq!(stop(&[ready("app-aaaaaaaa-1", A)]), "stop app-aaaaaaaa-1");
}

#[test]
fn restarts_come_at_once_then_slower_then_not_at_all() {
    let policy = Policy::default();
    let mut history = History::default();
    let waits: Vec<_> = (0..5)
        .map(|_| history.after_exit(&policy, NOW, None, 0.5))
        .collect();
    let at = |ms| AfterExit::RestartAt(NOW + ms);
    assert_eq!(
        waits,
        [at(0), at(500), at(1000), at(2000), AfterExit::GiveUp]
    );
    // A minute of health forgives.
    assert_eq!(
        history.after_exit(&policy, NOW, Some(NOW - 60_000), 0.5),
        at(0)
    );
    assert_eq!(
        history.after_exit(&policy, NOW, Some(NOW - 59_999), 0.5),
        at(500)
    );
}

#[test]
fn slow_failures_wait_up_to_a_minute_but_are_not_given_up() {
    let policy = Policy::default();
    let mut history = History::default();
    let mut now = NOW;
    let waits: Vec<u64> = (0..12)
        .map(|_| {
            now += 100_000;
            match history.after_exit(&policy, now, None, 0.5) {
                AfterExit::RestartAt(at) => at - now,
                AfterExit::GiveUp => u64::MAX,
            }
        })
        .collect();
    assert_eq!(
        waits[..9],
        [0, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000]
    );
    assert!(waits[9..].iter().all(|w| *w == 60_000));
}

fn phases() -> impl Strategy<Value = Phase> {
    prop_oneof![
        any::<bool>().prop_map(|ready| Phase::Running { ready }),
        Just(Phase::Stopping {
            kill_at: NOW + 1,
            then: Then::Forget
        }),
        Just(Phase::Waiting { until: NOW - 1 }),
        Just(Phase::Failed),
    ]
}

fn fleets() -> impl Strategy<Value = Vec<Member>> {
    let one = (
        0..4_u8,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        phases(),
    );
    prop::collection::vec(one, 0..8).prop_map(|specs| {
        let mut members: Vec<Member> = Vec::new();
        for (number, edge, second, replace, phase) in specs {
            let release = if second { B } else { A };
            let name = instance_name(
                if edge { Role::Edge } else { Role::App },
                release,
                number.into(),
            );
            if !members.iter().any(|m| m.name == name) {
                let mut member = member(&name, release, phase);
                member.replace = replace && member.running();
                members.push(member);
            }
        }
        members
    })
}

/// Carries the steps out as a world would in which every start succeeds and every stop ends.
fn advance(members: &mut Vec<Member>, plan: &Plan) {
    members.retain(|m| !m.stopping());
    for member in members.iter_mut() {
        if member.running() {
            member.phase = Phase::Running { ready: true };
        }
    }
    for step in &plan.steps {
        match step {
            Step::Start { name, release, .. } => {
                members.retain(|m| m.name != *name);
                members.push(starting(name, release));
            }
            Step::Stop { name, .. } => {
                members
                    .iter_mut()
                    .filter(|m| m.name == *name)
                    .for_each(|m| {
                        m.phase = Phase::Stopping {
                            kill_at: NOW + 1,
                            then: Then::Forget,
                        };
                    })
            }
            Step::Forget { name } | Step::Kill { name } => members.retain(|m| m.name != *name),
        }
    }
}

proptest! {
    /// From any state the fleet comes to rest with exactly what is wanted, names stay unique, and edges that
    /// can overlap never leave the fleet without one that runs. Edges that cannot are not stopped to make room:
    /// as long as one serves, the fleet may stay short of others.
    #[test]
    fn any_fleet_converges(mut members in fleets(), apps in 0..4_u32, edges in 1..4_u32, held in any::<bool>()) {
        members.retain(|m| m.phase != Phase::Failed);
        let goal = Goal::Run(vec![pool(Role::Edge, A, edges), pool(Role::App, B, apps)]);
        let sockets = if held { Sockets::Held } else { Sockets::WithTheEdge };
        for _ in 0..64 {
            let had_edge = members.iter().any(|m| m.role == Role::Edge && m.ready());
            let plan = decide(&Policy::default(), &goal, &members, sockets, NOW);
            advance(&mut members, &plan);
            let names: std::collections::BTreeSet<_> = members.iter().map(|m| &m.name).collect();
            prop_assert_eq!(names.len(), members.len());
            let has_edge = members.iter().any(|m| m.role == Role::Edge && m.ready());
            prop_assert!(has_edge || !had_edge || !held);
        }
        prop_assert!(decide(&Policy::default(), &goal, &members, sockets, NOW).steps.is_empty());
        let count = |role, release: &str| members.iter().filter(|m| m.role == role && m.release == release && m.ready() && !m.replace).count();
        let serving = count(Role::Edge, A);
        let least = if held { edges as usize } else { 1 };
        prop_assert!((least..=edges as usize).contains(&serving), "{serving} edges of {edges}");
        prop_assert_eq!(count(Role::App, B), apps as usize);
        // Beside them only places that wait for an edge to let go of its sockets.
        let waiting = members.iter().filter(|m| matches!(m.phase, Phase::Waiting { .. })).count();
        prop_assert!(!held || waiting == 0);
        prop_assert_eq!(members.len() - waiting, serving + apps as usize);
    }

    /// Stopping ends with nothing, apps only after the last edge.
    #[test]
    fn any_fleet_stops(mut members in fleets()) {
        for _ in 0..8 {
            let plan = decide(&Policy::default(), &Goal::Stop, &members, Sockets::Held, NOW);
            let edges = members.iter().any(|m| m.role == Role::Edge && m.alive());
            let stops_app = plan.steps.iter().any(|s| matches!(s, Step::Stop { name, .. } if name.starts_with("app")));
            prop_assert!(!(edges && stops_app));
            advance(&mut members, &plan);
        }
        prop_assert!(members.is_empty());
    }

    /// A wait is never longer than a minute and a fifth.
    #[test]
    fn a_wait_is_bounded(attempt in 0..u32::MAX, chance in 0.0..1.0_f64) {
        prop_assert!(backoff_ms(&Policy::default(), attempt, chance) <= 72_000);
    }
}
