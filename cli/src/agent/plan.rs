//! What the supervisor should do next: wanted pools and observed processes in, steps out.
//!
//! Pure: time is a number of milliseconds that the caller reads from a clock that never goes back, chance is
//! a number that the caller draws. The supervisor carries the steps out, observes again, and asks again; a
//! step that was lost (a crash, a full table) simply comes up once more.
//!
//! The rules:
//! - A pool keeps its number of processes. One that exits comes back: at once the first time, then after
//!   0.5 s, doubling to 60 s, give or take a fifth; a minute of good health forgives everything. Five
//!   failures within five minutes end in [`Phase::Failed`], which only an operator (or a new release) leaves.
//! - A process to be replaced (asked for, or an edge of another release) stays until its successor is ready:
//!   one more than wanted may run for that time. Edges share their listening sockets, so no connection is
//!   refused meanwhile. When the supervisor does not hold those sockets, two edges cannot overlap, and the
//!   old one goes first.
//! - An app whose release is no longer wanted at all is stopped at once: whoever took the release out of the
//!   wanted state has taken its traffic away before.
//! - To stop the fleet: edges drain first, then apps, so that requests in flight find their app.

use registry::{Pool, Role};

/// Milliseconds of a clock that never goes back.
pub(crate) type Millis = u64;

/// Timings of restarts.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// The wait before the second restart.
    pub(crate) backoff_first_ms: Millis,
    /// The longest wait.
    pub(crate) backoff_max_ms: Millis,
    /// The share by which a wait may be longer or shorter.
    pub(crate) jitter: f64,
    /// Ready for this long forgives earlier failures.
    pub(crate) healthy_after_ms: Millis,
    /// So many failures …
    pub(crate) failures_max: usize,
    /// … within this time, and the process is given up.
    pub(crate) failures_window_ms: Millis,
    /// A process that is not ready by then has failed.
    pub(crate) start_deadline_ms: Millis,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            backoff_first_ms: 500,
            backoff_max_ms: 60_000,
            jitter: 0.2,
            healthy_after_ms: 60_000,
            failures_max: 5,
            failures_window_ms: 300_000,
            start_deadline_ms: 60_000,
        }
    }
}

/// The failures of one process name that are not forgiven yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// When the last few failures were; never more than [`Policy::failures_max`].
    recent: Vec<Millis>,
    /// How many in a row, for the wait.
    in_a_row: u32,
}

/// What follows an exit that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterExit {
    /// Start again at this time, which may be now.
    RestartAt(Millis),
    /// Too many failures: leave it to an operator.
    GiveUp,
}

impl History {
    /// Records a failure and says what follows. `ready_since` is when the process became ready, if it did;
    /// `chance` is in `0.0..1.0`.
    pub(crate) fn after_exit(
        &mut self,
        policy: &Policy,
        now: Millis,
        ready_since: Option<Millis>,
        chance: f64,
    ) -> AfterExit {
        if ready_since.is_some_and(|at| now.saturating_sub(at) >= policy.healthy_after_ms) {
            *self = Self::default();
        }
        self.recent
            .retain(|at| now.saturating_sub(*at) < policy.failures_window_ms);
        self.recent.push(now);
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.recent.len() >= policy.failures_max {
            return AfterExit::GiveUp;
        }
        AfterExit::RestartAt(now + backoff_ms(policy, self.in_a_row, chance))
    }
}

/// The wait before restart number `attempt` (1 is the first).
fn backoff_ms(policy: &Policy, attempt: u32, chance: f64) -> Millis {
    let Some(doublings) = attempt.checked_sub(2) else {
        return 0;
    };
    let exact = policy
        .backoff_first_ms
        .saturating_mul(1_u64.checked_shl(doublings.min(32)).unwrap_or(u64::MAX))
        .min(policy.backoff_max_ms);
    let factor = 1.0 + policy.jitter * (2.0 * chance.clamp(0.0, 1.0) - 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a wait of at most a minute and a fifth, never negative"
    )]
    let wait = (exact as f64 * factor) as Millis;
    wait
}

/// Where a process name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It runs; `ready` is what the registry says of it.
    Running {
        /// Registered and taking traffic.
        ready: bool,
    },
    /// Told to stop, killed at `kill_at`.
    Stopping {
        /// When patience ends.
        kill_at: Millis,
        /// What follows the exit.
        then: Then,
    },
    /// No process; to be started at `until`.
    Waiting {
        /// When to start.
        until: Millis,
    },
    /// No process; failed too often.
    Failed,
}

/// What follows a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The name is free.
    Forget,
    /// It counts as a failure, and the process comes back.
    Retry,
}

/// One process name as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// The instance's name.
    pub(crate) name: String,
    /// Edge or app.
    pub(crate) role: Role,
    /// The release it runs.
    pub(crate) release: String,
    /// Where it stands.
    pub(crate) phase: Phase,
    /// When the process was started (or adopted).
    pub(crate) started: Millis,
    /// When it first became ready, if it did.
    pub(crate) ready_since: Option<Millis>,
    /// An operator asked for a successor.
    pub(crate) replace: bool,
    /// Failures that are not forgiven.
    pub(crate) history: History,
}

impl Member {
    fn alive(&self) -> bool {
        matches!(self.phase, Phase::Running { .. } | Phase::Stopping { .. })
    }

    fn running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    fn stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. })
    }

    fn ready(&self) -> bool {
        self.phase == Phase::Running { ready: true }
    }
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// These pools, and nothing else.
    Run(Vec<Pool>),
    /// Nothing: drain and end.
    Stop,
}

/// Who holds the edge's listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sockets {
    /// The supervisor: edges may overlap, and start whenever they are wanted.
    Held,
    /// A running edge alone: the next edge can start only after it.
    WithTheEdge,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Start a process under this name.
    Start {
        /// The instance's name.
        name: String,
        /// Edge or app.
        role: Role,
        /// The release to run.
        release: String,
    },
    /// Ask the process to drain and end.
    Stop {
        /// The instance's name.
        name: String,
        /// What follows.
        then: Then,
    },
    /// End a process that did not end by itself.
    Kill {
        /// The instance's name.
        name: String,
    },
    /// Drop a name that has no process.
    Forget {
        /// The instance's name.
        name: String,
    },
}

/// The next steps, and when to ask again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In this order.
    pub(crate) steps: Vec<Step>,
    /// The next deadline.
    pub(crate) wake: Option<Millis>,
}

impl Plan {
    fn wake_at(&mut self, at: Millis) {
        self.wake = Some(self.wake.map_or(at, |earlier| earlier.min(at)));
    }

    /// Ends a member: a process is stopped, a bare name dropped, a stopping one left alone.
    fn end(&mut self, member: &Member) {
        let name = member.name.clone();
        match member.phase {
            Phase::Running { .. } => self.steps.push(Step::Stop {
                name,
                then: Then::Forget,
            }),
            Phase::Waiting { .. } | Phase::Failed => self.steps.push(Step::Forget { name }),
            Phase::Stopping { .. } => {}
        }
    }
}

/// Decides the next steps.
pub(crate) fn decide(
    policy: &Policy,
    goal: &Goal,
    members: &[Member],
    sockets: Sockets,
    now: Millis,
) -> Plan {
    let mut plan = Plan::default();
    for member in members {
        if let Phase::Stopping { kill_at, .. } = member.phase {
            if kill_at <= now {
                plan.steps.push(Step::Kill {
                    name: member.name.clone(),
                });
            } else {
                plan.wake_at(kill_at);
            }
        }
    }
    match goal {
        Goal::Stop => stop_all(&mut plan, members),
        Goal::Run(pools) => {
            for pool in pools {
                converge(&mut plan, policy, pools, pool, members, sockets, now);
            }
            for orphan in members
                .iter()
                .filter(|m| !pools.iter().any(|p| owns(pools, p, m)))
            {
                plan.end(orphan);
            }
        }
    }
    plan
}

fn stop_all(plan: &mut Plan, members: &[Member]) {
    let edges_gone = !members.iter().any(|m| m.role == Role::Edge && m.alive());
    for member in members {
        if member.role == Role::Edge || edges_gone || !member.alive() {
            plan.end(member);
        }
    }
}

/// A pool owns the members of its release; the first edge pool also owns edges of releases that no pool
/// wants, since they keep serving until their successors are ready.
fn owns(pools: &[Pool], pool: &Pool, member: &Member) -> bool {
    if pool.role != member.role {
        return false;
    }
    let wanted = |release: &str| {
        pools
            .iter()
            .any(|p| p.role == pool.role && p.release == release)
    };
    let first = || pools.iter().find(|p| p.role == pool.role) == Some(pool);
    pool.release == member.release
        || (pool.role == Role::Edge && !wanted(&member.release) && first())
}

fn converge(
    plan: &mut Plan,
    policy: &Policy,
    pools: &[Pool],
    pool: &Pool,
    members: &[Member],
    sockets: Sockets,
    now: Millis,
) {
    let wanted = usize::try_from(pool.replicas).unwrap_or(usize::MAX);
    let owned = members
        .iter()
        .filter(|m| (comes_back(m) || !m.stopping()) && owns(pools, pool, m));
    let (stale, mut fresh): (Vec<&Member>, Vec<&Member>) =
        owned.partition(|m| m.replace || m.release != pool.release);
    let overlap = pool.role == Role::App || sockets == Sockets::Held;
    let may_start = overlap || !members.iter().any(|m| m.role == Role::Edge && m.alive());

    // Surplus first: the least useful, then the highest number.
    fresh.sort_by_key(|m| (usefulness(m), ordinal(&m.name)));
    for surplus in fresh.drain(wanted.min(fresh.len())..) {
        plan.end(surplus);
    }

    for member in &fresh {
        tend(plan, policy, member, may_start, now);
    }

    let (serving, dead): (Vec<&Member>, Vec<&Member>) =
        stale.into_iter().partition(|m| m.running());
    dead.iter().for_each(|m| plan.end(m));

    let ready = fresh.iter().filter(|m| m.ready()).count();
    let removable = if overlap {
        (ready + serving.len()).saturating_sub(wanted)
    } else {
        serving.len()
    };
    let mut leaving: Vec<&&Member> = serving.iter().collect();
    leaving.sort_by_key(|m| std::cmp::Reverse(usefulness(m)));
    leaving.iter().take(removable).for_each(|m| plan.end(m));

    if may_start {
        let staying = serving.len() - removable.min(serving.len());
        // One above the wanted number, and only while something is being replaced.
        let room = (wanted + usize::from(staying > 0)).saturating_sub(fresh.len() + staying);
        let missing = wanted.saturating_sub(fresh.len()).min(room);
        start(plan, pool, members, missing);
    }
}

/// A failed start is stopped and comes back under its own name, so it still fills its place.
fn comes_back(member: &Member) -> bool {
    matches!(
        member.phase,
        Phase::Stopping {
            then: Then::Retry,
            ..
        }
    )
}

/// Looks after a member that should be there.
fn tend(plan: &mut Plan, policy: &Policy, member: &Member, may_start: bool, now: Millis) {
    match member.phase {
        Phase::Waiting { until } if until > now => plan.wake_at(until),
        Phase::Waiting { .. } if may_start => plan.steps.push(Step::Start {
            name: member.name.clone(),
            role: member.role,
            release: member.release.clone(),
        }),
        Phase::Running { ready: false } if member.ready_since.is_none() => {
            let deadline = member.started.saturating_add(policy.start_deadline_ms);
            if deadline <= now {
                plan.steps.push(Step::Stop {
                    name: member.name.clone(),
                    then: Then::Retry,
                });
            } else {
                plan.wake_at(deadline);
            }
        }
        _ => {}
    }
}

fn start(plan: &mut Plan, pool: &Pool, members: &[Member], count: usize) {
    let taken = |name: &str| members.iter().any(|m| m.name == name);
    let free = (1_u64..)
        .map(|n| instance_name(pool.role, &pool.release, n))
        .filter(|name| !taken(name));
    for name in free.take(count) {
        plan.steps.push(Step::Start {
            name,
            role: pool.role,
            release: pool.release.clone(),
        });
    }
}

/// The name of an instance: `edge-1`, `app-1a2b3c4d-1`.
pub(crate) fn instance_name(role: Role, release: &str, number: u64) -> String {
    match role {
        Role::Edge => format!("edge-{number}"),
        Role::App => {
            let short: String = release.chars().take(8).collect();
            format!("app-{short}-{number}")
        }
    }
}

fn ordinal(name: &str) -> u64 {
    name.rsplit('-')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(u64::MAX)
}

/// Smaller is more useful.
fn usefulness(member: &Member) -> u8 {
    match member.phase {
        Phase::Running { ready: true } => 0,
        Phase::Running { ready: false } => 1,
        Phase::Stopping { .. } => 2,
        Phase::Waiting { .. } => 3,
        Phase::Failed => 4,
    }
}

#[cfg(test)]
mod tests;
