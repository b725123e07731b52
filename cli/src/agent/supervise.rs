//! The loop around the plan: observe, decide, do, tell, wait.
//!
//! Nothing is polled. The loop wakes when a process ends (its pidfd), when the registry shows an instance
//! becoming ready, when wishes change, when a signal comes, and at the plan's next deadline.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Fleet, Process, ProcessState, Registry, Role};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::blueprint::Blueprint;
use super::launch::{Launch, launch};
use super::logs;
use super::plan::{
    AfterExit, Goal, Member, Millis, Phase, Plan, Policy, Sockets as Held, Step, Then, decide,
};
use super::process::{self, Handle};
use super::publish::{Processes, bring, publish};
use super::records::{self, ProcessRecord};
use super::sockets::{Listen, Sockets};
use super::wishes::{Wishes, clear_restart};
use crate::state::StateDir;

/// How often the logs' sizes are looked at.
const LOGS_EVERY: Duration = Duration::from_secs(5);
/// How often binding is tried while a stopping edge still has the sockets.
const BIND_EVERY_MS: Millis = 250;
/// How long the last word to the store may take when the fleet stops.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// Reads how to run a release; tests give their own.
pub(crate) type Blueprints = Arc<dyn Fn(&StateDir, Role, &str) -> Result<Blueprint> + Send + Sync>;

/// Why supervision ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Every process has been stopped.
    Stopped,
    /// Another agent takes over; the processes go on.
    SteppedAside,
    /// The state folder was taken away; every process has been stopped, and nothing of the folder is ours.
    Disowned,
}

/// What an agent may be told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Drain and stop everything.
    Stop,
    /// End, and leave everything running.
    StepAside,
}

/// A process name with all that is kept about it.
#[derive(Debug)]
struct Supervised {
    member: Member,
    handle: Option<Handle>,
    listen: Option<Listen>,
    stop_max: Duration,
    slot: u32,
    started_unix_ms: u64,
    restarts: u32,
    last_exit: Option<String>,
    refused: bool,
    /// The state last told, and since when.
    told: (ProcessState, u64),
}

/// A process has ended.
#[derive(Debug)]
struct Ended {
    name: String,
    pid: u32,
    how: process::End,
}

/// Looks after the processes of one fleet on this machine.
pub(crate) struct Supervisor {
    state: StateDir,
    registry: Registry,
    policy: Policy,
    blueprints: Blueprints,
    members: BTreeMap<String, Supervised>,
    sockets: Sockets,
    /// A running edge has sockets that could not be copied.
    sockets_elsewhere: bool,
    wishes: Wishes,
    /// The lock file that this agent works under; its folder may be taken away while it runs.
    lock_inode: Option<u64>,
    /// The folder is gone or another's: nothing in it is ours to write any more.
    disowned: bool,
    ended: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
    origin: Instant,
}

impl Supervisor {
    /// Takes over what runs, and binds the edge's sockets.
    pub(crate) fn begin(
        state: &StateDir,
        registry: Registry,
        blueprints: Blueprints,
        wishes: Wishes,
    ) -> Result<Self> {
        let mut supervisor = Self {
            state: state.clone(),
            registry,
            policy: Policy::default(),
            blueprints,
            members: BTreeMap::new(),
            sockets: Sockets::new(state)?,
            sockets_elsewhere: false,
            wishes,
            lock_inode: inode(&state.agent_lock()),
            disowned: false,
            // Bounded by the number of processes: each sends once.
            ended: mpsc::unbounded_channel(),
            origin: Instant::now(),
        };
        supervisor.adopt()?;
        if !supervisor.sockets_elsewhere {
            supervisor.bind()?;
        }
        Ok(supervisor)
    }

    fn now(&self) -> Millis {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn adopt(&mut self) -> Result<()> {
        for record in records::load(&self.state)? {
            let Some((held, handle)) = process::adopt(&record.identity)? else {
                records::remove(&self.state, &record.name)?;
                continue;
            };
            // A release that can no longer be read still runs; it gets the patience of the default.
            let blueprint = (self.blueprints)(&self.state, record.role, &record.release).ok();
            if record.role == Role::Edge {
                match self.sockets.recover(&handle) {
                    Ok(true) => {}
                    Ok(false) => self.sockets_elsewhere = true,
                    Err(error) => {
                        self.sockets_elsewhere = true;
                        tracing::warn!(
                            process = record.name,
                            error = format!("{error:#}"),
                            "the edge keeps its sockets to itself; its next restart will refuse connections for a moment"
                        );
                    }
                }
            }
            tracing::info!(process = record.name, pid = record.identity.pid, "adopted");
            self.await_end(&record.name, record.identity.pid, held);
            self.insert_running(&record, handle, blueprint.as_ref());
        }
        // An edge that recovered what another could not has settled the question.
        if self.sockets_elsewhere && self.bind().is_ok() {
            self.sockets_elsewhere = false;
        }
        Ok(())
    }

    /// Binds the sockets of the wanted edge release that are not bound yet.
    fn bind(&mut self) -> Result<()> {
        let edge = self
            .wishes
            .desired
            .pools
            .iter()
            .find(|p| p.role == Role::Edge && p.replicas > 0);
        let Some(edge) = edge else {
            return Ok(());
        };
        let blueprint = (self.blueprints)(&self.state, Role::Edge, &edge.release)?;
        if let Some(listen) = &blueprint.listen {
            self.sockets.for_edge(listen, 0)?;
        }
        Ok(())
    }

    fn insert_running(
        &mut self,
        record: &ProcessRecord,
        handle: Handle,
        blueprint: Option<&Blueprint>,
    ) {
        let before = self.members.remove(&record.name);
        let member = Member {
            name: record.name.clone(),
            role: record.role,
            release: record.release.clone(),
            phase: Phase::Running { ready: false },
            started: self.now(),
            ready_since: None,
            replace: false,
            history: before
                .as_ref()
                .map(|b| b.member.history.clone())
                .unwrap_or_default(),
        };
        let supervised = Supervised {
            member,
            handle: Some(handle),
            listen: blueprint.and_then(|b| b.listen.clone()),
            stop_max: blueprint.map_or(Duration::from_secs(60), |b| b.stop_max),
            slot: record.slot,
            started_unix_ms: record.started_unix_ms,
            restarts: record.restarts,
            refused: before.as_ref().is_some_and(|b| b.refused),
            last_exit: before.and_then(|b| b.last_exit),
            told: (ProcessState::Starting, registry::unix_ms()),
        };
        self.members.insert(record.name.clone(), supervised);
    }

    fn await_end(&self, name: &str, pid: u32, held: process::Held) {
        let (sender, name) = (self.ended.0.clone(), name.to_owned());
        tokio::spawn(async move {
            let how = held.ended().await;
            // Nobody listens once supervision has ended.
            let _ = sender.send(Ended { name, pid, how });
        });
    }

    /// Runs until told to stop or to step aside.
    pub(crate) async fn run(
        mut self,
        mut wishes: watch::Receiver<Wishes>,
        mut fleet: watch::Receiver<Arc<Fleet>>,
        mut orders: mpsc::Receiver<Order>,
    ) -> Result<Ending> {
        let (told, processes) = watch::channel(Processes::new());
        let publisher = tokio::spawn(publish(self.registry.clone(), processes));
        let mut log_tick = tokio::time::interval(LOGS_EVERY);
        let mut stopping = false;
        loop {
            self.observe(
                &wishes.borrow_and_update().clone(),
                &fleet.borrow_and_update().clone(),
            );
            let goal = if stopping {
                Goal::Stop
            } else {
                Goal::Run(self.wishes.desired.pools.clone())
            };
            let plan = self.plan(&goal);
            let acted = !plan.steps.is_empty();
            for step in plan.steps {
                self.carry_out(step);
            }
            self.tell(&told);
            if stopping && self.members.is_empty() {
                break;
            }
            if acted {
                // What was done may call for more, or for another deadline.
                continue;
            }
            let wake = self.origin
                + Duration::from_millis(
                    plan.wake
                        .unwrap_or(Millis::MAX / 2)
                        .min(u64::from(u32::MAX)),
                );
            tokio::select! {
                Some(ended) = self.ended.1.recv() => self.has_ended(&ended),
                order = orders.recv() => match order {
                    Some(Order::StepAside) => {
                        publisher.abort();
                        return Ok(Ending::SteppedAside);
                    }
                    Some(Order::Stop) if stopping => self.hurry(),
                    Some(Order::Stop) | None => stopping = true,
                },
                Ok(()) = wishes.changed() => {}
                Ok(()) = fleet.changed() => {}
                _ = log_tick.tick() => {
                    if self.lock_inode.is_some() && inode(&self.state.agent_lock()) != self.lock_inode {
                        tracing::error!("the state folder was taken away; stopping what runs from it");
                        self.disowned = true;
                        stopping = true;
                    } else {
                        self.tidy_logs();
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        publisher.abort();
        if self.disowned {
            return Ok(Ending::Disowned);
        }
        self.farewell().await
    }

    async fn farewell(mut self) -> Result<Ending> {
        let empty = Processes::new();
        let cleared = tokio::time::timeout(FAREWELL_MAX, bring(&self.registry, None, &empty)).await;
        if !matches!(cleared, Ok(Ok(()))) {
            tracing::warn!("the store still lists processes that are gone");
        }
        self.sockets.release()?;
        Ok(Ending::Stopped)
    }

    /// Brings the picture of wishes and readiness up to date.
    fn observe(&mut self, wishes: &Wishes, fleet: &Fleet) {
        self.wishes.clone_from(wishes);
        let now = self.now();
        let blind = !fleet.is_synced || fleet.stale_since_unix_ms.is_some();
        for supervised in self.members.values_mut() {
            let pid = supervised.handle.as_ref().map(|h| h.identity.pid);
            let member = &mut supervised.member;
            if let Phase::Running { ready } = &mut member.phase {
                let instance = fleet
                    .instances
                    .iter()
                    .find(|i| i.role == member.role && i.name == member.name);
                *ready = instance.is_some_and(|i| Some(i.pid) == pid && i.is_ready());
                if *ready && member.ready_since.is_none() {
                    member.ready_since = Some(now);
                    tracing::info!(
                        process = member.name,
                        after_ms = now - member.started,
                        "ready"
                    );
                }
                // Nobody is late by a clock that nobody can read.
                if blind && member.ready_since.is_none() {
                    member.started = now;
                }
            }
            let asked = wishes.restarts.get(&member.name);
            member.replace = asked.is_some_and(|at| *at >= supervised.started_unix_ms);
        }
        for (name, asked) in &wishes.restarts {
            let met = self
                .members
                .get(name)
                .is_none_or(|s| s.started_unix_ms > *asked);
            if met {
                self.clear_request(name);
            }
        }
        if !self
            .members
            .values()
            .any(|s| s.member.role == Role::Edge && s.handle.is_some())
        {
            self.sockets_elsewhere = false;
        }
    }

    fn clear_request(&self, name: &str) {
        let (store, name) = (self.registry.store().clone(), name.to_owned());
        tokio::spawn(async move {
            // If this fails, the request is seen again and this is tried again.
            if let Err(error) = clear_restart(&store, &name).await {
                tracing::warn!(error = format!("{error:#}"), "a request to restart stays");
            }
        });
    }

    fn plan(&mut self, goal: &Goal) -> Plan {
        let now = self.now();
        let mut edges = self
            .members
            .values()
            .filter(|s| s.member.role == Role::Edge);
        let leaving = self.sockets_elsewhere
            && *goal != Goal::Stop
            && edges.all(|s| !matches!(s.member.phase, Phase::Running { .. }));
        if leaving && self.bind().is_ok() {
            self.sockets_elsewhere = false;
        }
        let held = if self.sockets_elsewhere {
            Held::WithTheEdge
        } else {
            Held::Held
        };
        let members: Vec<Member> = self.members.values().map(|s| s.member.clone()).collect();
        let mut plan = decide(&self.policy, goal, &members, held, now);
        if leaving && self.sockets_elsewhere {
            let retry = now + BIND_EVERY_MS;
            plan.wake = Some(plan.wake.map_or(retry, |at| at.min(retry)));
        }
        plan
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Start {
                name,
                role,
                release,
            } => {
                if let Err(error) = self.start(&name, role, &release) {
                    tracing::error!(process = name, error = format!("{error:#}"), "cannot start");
                    self.start_failed(&name, role, &release, &error);
                }
            }
            Step::Stop { name, then } => self.stop(&name, then),
            Step::Kill { name } => {
                tracing::warn!(process = name, "did not stop in time; killing it");
                self.signal(&name, Signal::KILL);
                // Its end is certain now and comes by itself; do not ask again.
                if let Some(s) = self.members.get_mut(&name)
                    && let Phase::Stopping { kill_at, .. } = &mut s.member.phase
                {
                    *kill_at = Millis::MAX;
                }
            }
            Step::Forget { name } => self.forget(&name),
        }
    }

    fn start(&mut self, name: &str, role: Role, release: &str) -> Result<()> {
        let blueprint = (self.blueprints)(&self.state, role, release)?;
        let slot = if role == Role::Edge {
            self.free_slot(name, release)
        } else {
            0
        };
        let sockets = match &blueprint.listen {
            Some(listen) => self.sockets.for_edge(listen, slot)?,
            None => Vec::new(),
        };
        let mut args = blueprint.args.clone();
        args.extend(["--name".into(), name.into()]);
        let child = launch(Launch {
            program: blueprint.program.clone(),
            args,
            settings: &blueprint.environment,
            working_dir: &blueprint.working_dir,
            log: &self.state.log(name),
            sockets,
        })?;
        let (held, handle) = process::hold_child(child, &blueprint.program_digest)?;
        let restarts = self.members.get(name).map_or(0, |s| s.restarts + 1);
        let record = ProcessRecord {
            name: name.to_owned(),
            role,
            release: release.to_owned(),
            identity: handle.identity.clone(),
            slot,
            started_unix_ms: registry::unix_ms(),
            restarts,
        };
        let pid = record.identity.pid;
        tracing::info!(
            process = name,
            pid,
            runs = crate::release::short(release),
            "started"
        );
        self.await_end(name, pid, held);
        self.insert_running(&record, handle, Some(&blueprint));
        // Without its record the process is still found, by its program and name.
        if let Err(error) = records::save(&self.state, &record) {
            tracing::warn!(
                process = name,
                error = format!("{error:#}"),
                "cannot write its record"
            );
        }
        Ok(())
    }

    /// The lowest slot that no edge has which stays. During a handover the successor takes the place of the
    /// edge that goes.
    fn free_slot(&self, name: &str, release: &str) -> u32 {
        let stays = |s: &&Supervised| {
            let m = &s.member;
            m.role == Role::Edge
                && m.name != name
                && m.release == release
                && !m.replace
                && matches!(m.phase, Phase::Running { .. })
        };
        let taken: Vec<u32> = self
            .members
            .values()
            .filter(stays)
            .map(|s| s.slot)
            .collect();
        (0..).find(|slot| !taken.contains(slot)).unwrap_or(0)
    }

    /// A start that did not even give a process counts like an exit.
    fn start_failed(&mut self, name: &str, role: Role, release: &str, error: &anyhow::Error) {
        let now = self.now();
        let before = self.members.remove(name);
        let mut history = before
            .as_ref()
            .map(|b| b.member.history.clone())
            .unwrap_or_default();
        let phase = phase_after(history.after_exit(&self.policy, now, None, rand::random()));
        let member = Member {
            name: name.to_owned(),
            role,
            release: release.to_owned(),
            phase,
            started: now,
            ready_since: None,
            replace: false,
            history,
        };
        let supervised = Supervised {
            member,
            handle: None,
            listen: None,
            stop_max: Duration::ZERO,
            slot: 0,
            started_unix_ms: registry::unix_ms(),
            restarts: before.map_or(0, |b| b.restarts + 1),
            last_exit: Some(format!("cannot start: {error:#}")),
            refused: false,
            told: (ProcessState::Backoff, registry::unix_ms()),
        };
        self.members.insert(name.to_owned(), supervised);
    }

    fn stop(&mut self, name: &str, then: Then) {
        let now = self.now();
        let Some(supervised) = self.members.get_mut(name) else {
            return;
        };
        let patience = u64::try_from(supervised.stop_max.as_millis()).unwrap_or(u64::MAX);
        supervised.member.phase = Phase::Stopping {
            kill_at: now.saturating_add(patience),
            then,
        };
        match then {
            Then::Forget => tracing::info!(process = name, "stopping"),
            Then::Retry => {
                supervised.last_exit = Some("not ready in time".to_owned());
                tracing::warn!(process = name, "not ready in time; starting it again");
            }
        }
        self.signal(name, Signal::TERM);
    }

    /// A second order to stop: no more patience.
    fn hurry(&mut self) {
        let now = self.now();
        for supervised in self.members.values_mut() {
            supervised.stop_max = Duration::ZERO;
            if let Phase::Stopping { kill_at, .. } = &mut supervised.member.phase {
                *kill_at = now;
            }
        }
    }

    fn signal(&self, name: &str, signal: Signal) {
        let handle = self.members.get(name).and_then(|s| s.handle.as_ref());
        if let Some(Err(error)) = handle.map(|h| h.signal(signal)) {
            tracing::error!(
                process = name,
                error = format!("{error:#}"),
                "cannot signal"
            );
        }
    }

    fn has_ended(&mut self, ended: &Ended) {
        let now = self.now();
        let Some(supervised) = self.members.get_mut(&ended.name) else {
            return;
        };
        if supervised.handle.as_ref().map(|h| h.identity.pid) != Some(ended.pid) {
            return;
        }
        supervised.handle = None;
        let member = &mut supervised.member;
        if let Phase::Stopping {
            then: Then::Forget, ..
        } = member.phase
        {
            tracing::info!(process = ended.name, exit = %ended.how, "stopped");
            return self.forget(&ended.name);
        }
        if !matches!(member.phase, Phase::Stopping { .. }) {
            supervised.last_exit = Some(ended.how.to_string());
            supervised.refused = ended.how == process::End::Refused;
        }
        let after =
            member
                .history
                .after_exit(&self.policy, now, member.ready_since, rand::random());
        member.phase = phase_after(after);
        member.ready_since = None;
        match after {
            AfterExit::RestartAt(at) => {
                tracing::warn!(
                    process = ended.name,
                    exit = %ended.how,
                    restart_in_ms = at - now,
                    "ended; starting it again"
                );
            }
            AfterExit::GiveUp => {
                tracing::error!(
                    process = ended.name,
                    exit = %ended.how,
                    "ended too often; giving up"
                );
            }
        }
        self.drop_record(&ended.name);
    }

    fn drop_record(&self, name: &str) {
        if self.disowned {
            return;
        }
        if let Err(error) = records::remove(&self.state, name) {
            tracing::warn!(
                process = name,
                error = format!("{error:#}"),
                "cannot remove its record"
            );
        }
    }

    fn forget(&mut self, name: &str) {
        self.drop_record(name);
        let gone = self.members.remove(name);
        if self.disowned || gone.is_none_or(|s| s.member.role != Role::Edge) {
            return;
        }
        let wanted = self
            .wishes
            .desired
            .pools
            .iter()
            .filter(|p| p.role == Role::Edge);
        let wanted = wanted.filter_map(|p| {
            (self.blueprints)(&self.state, p.role, &p.release)
                .ok()?
                .listen
        });
        let running = self.members.values().filter_map(|s| s.listen.clone());
        let listens: Vec<Listen> = running.chain(wanted).collect();
        let pools = self.wishes.desired.pools.iter();
        let wanted = pools.filter(|p| p.role == Role::Edge).map(|p| p.replicas);
        let edges = self.members.values().filter(|s| s.listen.is_some());
        let slots = edges.map(|s| s.slot + 1).chain(wanted).max().unwrap_or(1);
        // With nothing to compare with, keep all: a socket too many does no harm.
        if !listens.is_empty()
            && let Err(error) = self.sockets.retain(&listens, slots.max(1))
        {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot write the endpoints down"
            );
        }
    }

    fn tell(&mut self, told: &watch::Sender<Processes>) {
        let now = registry::unix_ms();
        let processes: Processes = self
            .members
            .iter_mut()
            .map(|(name, supervised)| (name.clone(), describe(supervised, now)))
            .collect();
        told.send_if_modified(|known| {
            let changed = *known != processes;
            *known = processes;
            changed
        });
    }

    fn tidy_logs(&self) {
        let live: Vec<String> = self
            .members
            .keys()
            .cloned()
            .chain(["agent".to_owned()])
            .collect();
        let folder = self.state.logs();
        tokio::task::spawn_blocking(move || {
            let is_live = |name: &str| live.iter().any(|l| l == name);
            if let Err(error) = logs::tidy(&folder, logs::LOG_BYTES_MAX, is_live) {
                tracing::warn!(error = format!("{error:#}"), "cannot tidy the logs");
            }
        });
    }
}

fn phase_after(after: AfterExit) -> Phase {
    match after {
        AfterExit::RestartAt(until) => Phase::Waiting { until },
        AfterExit::GiveUp => Phase::Failed,
    }
}

fn describe(supervised: &mut Supervised, now_unix_ms: u64) -> Process {
    let member = &supervised.member;
    let state = match member.phase {
        Phase::Running { ready: true } => ProcessState::Running,
        Phase::Running { ready: false } => ProcessState::Starting,
        Phase::Stopping { .. } => ProcessState::Stopping,
        Phase::Waiting { .. } => ProcessState::Backoff,
        Phase::Failed => ProcessState::Failed,
    };
    if supervised.told.0 != state {
        supervised.told = (state, now_unix_ms);
    }
    Process {
        name: member.name.clone(),
        role: member.role,
        release: member.release.clone(),
        pid: supervised.handle.as_ref().map_or(0, |h| h.identity.pid),
        state,
        restarts: supervised.restarts,
        last_exit: supervised.last_exit.clone(),
        refused: supervised.refused,
        since_unix_ms: supervised.told.1,
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.ino())
}

/// Turns signals into orders: SIGTERM and SIGINT stop the fleet, SIGHUP leaves it to another agent.
pub(crate) fn orders_by_signal() -> Result<(mpsc::Sender<Order>, mpsc::Receiver<Order>)> {
    let (sender, receiver) = mpsc::channel(4);
    let kinds = [
        (SignalKind::terminate(), Order::Stop),
        (SignalKind::interrupt(), Order::Stop),
        (SignalKind::hangup(), Order::StepAside),
    ];
    for (kind, order) in kinds {
        let mut signals = signal(kind).context("cannot listen for signals")?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if sender.send(order).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok((sender, receiver))
}

/// Removes what an agent leaves when the fleet has stopped.
pub(crate) fn clean_up(state: &StateDir) -> Result<()> {
    records::remove_agent(state)?;
    let folder = state.processes();
    for entry in fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .flatten()
    {
        crate::state::gone(fs::remove_file(entry.path()))
            .with_context(|| format!("cannot remove {}", entry.path().display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
