//! Reads the world for a rollout: instances, weights, acknowledgements, counters, commands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use admin_api::{AdminClient, LATENCY_BOUNDS_US, TrafficReport};
use anyhow::{Context as _, Result};
use registry::{
    Fleet, Instance, Process, ProcessState, Registry, Role, RolloutCommand, watch_fleet,
};
use rollout::measure::EdgeReport;
use rollout::{
    BasisPoints, Candidate, Command, Counters, EdgeAck, Observation, Plan, Pool, ReleaseCounters,
    Share, Status, Traffic, TrafficSeen, Verification,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::verify;
use crate::context::admin_clients;
use crate::state::StateDir;

/// How long the first look at the fleet may take.
const SYNC_MAX: Duration = Duration::from_secs(10);
/// How long clients of the edges' operator interface are kept; shorter than their tokens live.
const CLIENTS_MAX: Duration = Duration::from_secs(1800);
/// How much of the end of a log is looked through for its last words.
const LINES_READ: usize = 200;
/// As much of a log's last line as is worth showing.
const LAST_LINE_CHARS_MAX: usize = 300;

/// What was seen, and the commands in it.
pub(super) struct Seen {
    pub(super) observation: Observation,
    /// As they stand in the store, to be forgotten once the state that took them in is written.
    pub(super) commands: Vec<RolloutCommand>,
}

/// Clients of the edges' operator interface, with the addresses that they are for.
struct Clients {
    edges: Vec<(String, Option<String>)>,
    made: Instant,
    clients: Vec<(String, AdminClient)>,
}

/// Looks for one rollout.
pub(super) struct Observer<'a> {
    folder: &'a StateDir,
    registry: &'a Registry,
    fleet: watch::Receiver<Arc<Fleet>>,
    candidate: String,
    stable: Option<String>,
    clients: Option<Clients>,
    verification: Option<Verification>,
    first_look: bool,
}

impl<'a> Observer<'a> {
    pub(super) fn new(folder: &'a StateDir, registry: &'a Registry, plan: &Plan) -> Self {
        Self {
            folder,
            registry,
            fleet: watch_fleet(registry.store().clone()),
            candidate: plan.candidate().id.clone(),
            stable: plan.stable().map(|release| release.id.clone()),
            clients: None,
            verification: None,
            first_look: true,
        }
    }

    /// Reads everything afresh; the counters only if they are wanted.
    pub(super) async fn look(&mut self, counters: bool) -> Result<Seen> {
        let synced = registry::synced(&mut self.fleet);
        let fleet = tokio::time::timeout(SYNC_MAX, synced)
            .await
            .context("the store did not answer in time")?;
        let processes = self.registry.processes().await?;
        let instances = self.registry.instances().await?;
        let desired = self.registry.desired().await?.map(|found| found.value);
        let desired = desired.unwrap_or_default();
        let traffic = self.registry.traffic().await?;
        let commands = self.registry.rollout_commands().await?;
        let counters = if counters {
            self.read_counters(&fleet).await
        } else {
            Counters::NotRead
        };
        let mut candidates = candidates(&self.candidate, &processes, &instances);
        for candidate in candidates.iter_mut().filter(|c| c.status != Status::Ready) {
            candidate.last_line = last_line(self.folder, &candidate.name);
        }
        let observation = Observation {
            resumed: std::mem::take(&mut self.first_look),
            candidate: candidates,
            candidate_desired: desired.replicas(Role::App, &self.candidate),
            stable: self.stable.as_deref().map_or_else(Pool::default, |stable| {
                pool(
                    stable,
                    desired.replicas(Role::App, stable),
                    &processes,
                    &instances,
                )
            }),
            traffic: traffic.map(|found| seen(&found.value, found.revision)),
            edges: fleet
                .live(Role::Edge)
                .map(|edge| ack(&fleet, edge))
                .collect(),
            counters,
            verification: self.verification.clone(),
            commands: commands.iter().filter_map(command).collect(),
        };
        Ok(Seen {
            observation,
            commands,
        })
    }

    /// Waits until `pause` is over, or something changes after `earliest`.
    pub(super) async fn wait_for_change(&mut self, earliest: Instant, pause: Duration) {
        let changed = async {
            tokio::time::sleep_until(earliest).await;
            // The follower ends only with this process.
            let _ = self.fleet.changed().await;
        };
        // What is waited for may also be nothing that the fleet's records tell.
        let _ = tokio::time::timeout(pause, changed).await;
    }

    /// Calls the candidate's instances and keeps what was found for the next look.
    pub(super) async fn verify(&mut self, release: &str) {
        let instances = match self.registry.instances().await {
            Ok(instances) => instances,
            Err(error) => {
                self.verification = Some(Verification::Unreachable {
                    reason: format!("{:#}", anyhow::Error::from(error)),
                });
                return;
            }
        };
        self.verification = Some(verify::verify(release, self.stable.as_deref(), &instances).await);
    }

    async fn read_counters(&mut self, fleet: &Fleet) -> Counters {
        let clients = match self.clients(fleet).await {
            Ok(clients) => clients,
            Err(error) => {
                return Counters::Unavailable {
                    reason: format!("{error:#}"),
                };
            }
        };
        let mut asked = JoinSet::new();
        for (edge, client) in clients {
            asked.spawn(async move { (edge, client.traffic().await) });
        }
        let mut reports = Vec::new();
        let mut reasons = Vec::new();
        for (edge, answer) in asked.join_all().await {
            match answer {
                Ok(report) => reports.push(report_of(report)),
                Err(error) => reasons.push(format!("{edge}: {:#}", anyhow::Error::from(error))),
            }
        }
        reports.sort_by(|a, b| a.edge.cmp(&b.edge));
        if reports.is_empty() {
            // Made anew next time: the token or an address may have been at fault.
            self.clients = None;
            reasons.sort();
            let reason = if reasons.is_empty() {
                "there is no live edge".to_owned()
            } else {
                reasons.join("; ")
            };
            return Counters::Unavailable { reason };
        }
        Counters::Read {
            bounds_us: LATENCY_BOUNDS_US.to_vec(),
            edges: reports,
        }
    }

    async fn clients(&mut self, fleet: &Fleet) -> Result<Vec<(String, AdminClient)>> {
        let edges: Vec<_> = fleet
            .live(Role::Edge)
            .map(|edge| (edge.name.clone(), edge.admin.clone()))
            .collect();
        let usable = |known: &Clients| known.edges == edges && known.made.elapsed() < CLIENTS_MAX;
        if let Some(known) = self.clients.as_ref().filter(|known| usable(known)) {
            return Ok(known.clients.clone());
        }
        let clients = admin_clients(self.folder, self.registry).await?;
        self.clients = Some(Clients {
            edges,
            made: Instant::now(),
            clients: clients.clone(),
        });
        Ok(clients)
    }
}

/// The candidate's instances, from what the supervisor and what they themselves say.
fn candidates(release: &str, processes: &[Process], instances: &[Instance]) -> Vec<Candidate> {
    let by_name: BTreeMap<&str, &Instance> = instances
        .iter()
        .filter(|i| i.role == Role::App && i.release == release)
        .map(|i| (i.name.as_str(), i))
        .collect();
    let of_release = |p: &&Process| p.role == Role::App && p.release == release;
    processes
        .iter()
        .filter(of_release)
        .map(|process| {
            let instance = by_name
                .get(process.name.as_str())
                .filter(|instance| instance.pid == process.pid);
            Candidate {
                name: process.name.clone(),
                status: status(process, instance.copied()),
                restarts: process.restarts,
                since_unix_ms: process.since_unix_ms,
                last_line: None,
                config_digest: instance.map(|i| i.config_digest.clone()),
                binary_digest: instance.map(|i| i.binary_digest.clone()),
                in_flight: instance.and_then(|i| i.load).map(|load| load.in_flight),
            }
        })
        .collect()
}

fn status(process: &Process, instance: Option<&Instance>) -> Status {
    match process.state {
        ProcessState::Stopping => Status::Stopping,
        ProcessState::Running => match instance {
            Some(instance) if instance.is_ready() => Status::Ready,
            _ => Status::NotReady,
        },
        _ if process.refused => Status::Refused,
        ProcessState::Failed => Status::CrashLooping,
        ProcessState::Starting | ProcessState::Backoff => Status::Starting,
    }
}

fn pool(release: &str, desired: u32, processes: &[Process], instances: &[Instance]) -> Pool {
    let running = processes
        .iter()
        .filter(|p| p.role == Role::App && p.release == release && p.pid != 0);
    let ready = instances
        .iter()
        .filter(|i| i.role == Role::App && i.release == release && i.is_ready());
    Pool {
        desired,
        running: count(running.count()),
        ready: count(ready.count()),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn ack(fleet: &Fleet, edge: &Instance) -> EdgeAck {
    let ack = fleet.acks.get(&edge.name);
    EdgeAck {
        edge: edge.name.clone(),
        generation: ack.map(|ack| ack.generation),
        expired: ack.is_some_and(|ack| ack.expired),
    }
}

/// The split as the machine sees it. Shares of nothing are no shares.
fn seen(traffic: &registry::Traffic, generation: u64) -> TrafficSeen {
    let shares = traffic.shares.iter().filter(|share| share.basis_points > 0);
    TrafficSeen {
        generation,
        traffic: Traffic {
            stable: traffic.stable.clone(),
            shares: shares
                .clone()
                .map(|share| Share {
                    release: share.release.clone(),
                    weight: BasisPoints::new(share.basis_points).unwrap_or(BasisPoints::FULL),
                })
                .collect(),
        },
        expires_unix_ms: shares.filter_map(|share| share.expires_unix_ms).min(),
    }
}

fn report_of(report: TrafficReport) -> EdgeReport {
    let releases = report.releases.into_iter().map(|counted| ReleaseCounters {
        release: counted.release,
        calls: counted.calls,
        failures: counted.failures,
        tool_errors: counted.tool_errors,
        capped_failures: counted.capped_failures,
        latency: counted.latency.as_slice().to_vec(),
    });
    EdgeReport {
        edge: report.edge,
        started_unix_ms: report.started_unix_ms,
        releases: releases.collect(),
    }
}

fn command(found: &RolloutCommand) -> Option<Command> {
    serde_json::from_value(found.command.clone())
        .inspect_err(|error| tracing::warn!(%error, "a command that means nothing"))
        .ok()
}

/// What an instance last wrote about itself, for people.
fn last_line(folder: &StateDir, name: &str) -> Option<String> {
    let (lines, _) = crate::logs::tail(&folder.log(name), LINES_READ).ok()?;
    let tells = |line: &&String| {
        serde_json::from_str::<serde_json::Value>(line)
            .map_or(!line.trim().is_empty(), |value| value["kind"] != "access")
    };
    let line = lines.iter().rev().find(tells)?;
    let words = crate::logs::for_people(false, "", line);
    Some(words.trim().chars().take(LAST_LINE_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use registry::{InstanceState, Load};

    use super::*;

    fn process(state: ProcessState, refused: bool) -> Process {
        Process {
            name: "app-c-1".into(),
            role: Role::App,
            release: "c".into(),
            pid: 7,
            state,
            restarts: 1,
            last_exit: None,
            refused,
            since_unix_ms: 3,
        }
    }

    fn instance(pid: u32, state: InstanceState) -> Instance {
        let mut instance = Instance::new(Role::App, "app-c-1", "c", "127.0.0.1:1");
        (instance.pid, instance.state) = (pid, state);
        instance.load = Some(Load {
            in_flight: 4,
            ..Load::default()
        });
        instance
    }

    #[test]
    fn a_candidate_is_what_supervisor_and_instance_say_together() {
        use InstanceState::{Draining, Ready};
        use ProcessState::{Backoff, Failed, Running, Starting, Stopping};
        let cases = [
            (Starting, false, None, Status::Starting),
            (Running, false, Some((7, Ready)), Status::Ready),
            (Running, false, Some((7, Draining)), Status::NotReady),
            // The record of an earlier process of that name.
            (Running, false, Some((6, Ready)), Status::NotReady),
            (Backoff, false, None, Status::Starting),
            (Backoff, true, None, Status::Refused),
            (Starting, true, None, Status::Refused),
            (Failed, false, None, Status::CrashLooping),
            (Stopping, false, Some((7, Draining)), Status::Stopping),
        ];
        for (state, refused, record, expect) in cases {
            let instances: Vec<_> = record
                .map(|(pid, state)| instance(pid, state))
                .into_iter()
                .collect();
            let mut found = candidates("c", &[process(state, refused)], &instances);
            let found = found.pop().unwrap();
            assert_eq!(found.status, expect, "{state:?} {refused} {record:?}");
            let own = record.is_some_and(|(pid, _)| pid == 7);
            assert_eq!(found.in_flight, own.then_some(4));
        }
        assert!(candidates("other", &[process(Running, false)], &[]).is_empty());
    }

    #[test]
    fn shares_of_nothing_are_no_shares() {
        let split = registry::Traffic::all_to("s", "", "")
            .with_share("old", 0, Some(1))
            .with_share("c", 500, Some(9));
        let seen = seen(&split, 4);
        assert_eq!(seen.traffic.shares.len(), 1);
        assert_eq!(seen.expires_unix_ms, Some(9));
        assert_eq!(seen.effective(8).weight_of("c"), BasisPoints::percent(5));
        assert_eq!(seen.effective(9).weight_of("c"), BasisPoints::ZERO);
    }
}
