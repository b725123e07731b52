//! `sweetops status`: what runs, where it is reached, how it fares.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use registry::{Instance, InstanceState, Process, ProcessState, Role, Traffic};
use serde::Serialize;

use crate::agent;
use crate::context::{Context, Endpoints};
use crate::exit::Exit;
use crate::output::{Report, Tone, paint, table};
use crate::release::short;

/// Show the fleet: addresses, instances, traffic.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops status\n  \
    sweetops status --check && echo all is well\n  \
    sweetops status -o json | jq -r .endpoints.mcp")]
pub(crate) struct StatusArgs {
    /// Exit with 3 unless every wanted instance is ready
    #[arg(long)]
    check: bool,
}

/// How an instance fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Health {
    /// Takes calls.
    Ready,
    /// Started, not yet ready.
    Starting,
    /// Finishes what it has.
    Draining,
    /// Ended; comes back after a wait.
    Backoff,
    /// Ended too often.
    Failed,
    /// Its process is gone, and nobody has noticed.
    Gone,
}

impl Health {
    fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
            Self::Gone => "gone",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::Ready => Tone::Good,
            Self::Starting | Self::Draining => Tone::Warn,
            Self::Backoff | Self::Failed | Self::Gone => Tone::Bad,
        }
    }
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct InstanceStatus {
    /// Its name.
    pub(crate) name: String,
    /// Edge or app.
    pub(crate) role: Role,
    /// Its process id; absent while there is no process.
    pub(crate) pid: Option<u32>,
    /// The release it runs.
    pub(crate) release: String,
    /// How it fares.
    pub(crate) health: Health,
    /// Where it is reached, as host:port.
    pub(crate) address: Option<String>,
    /// Where an edge tells of itself, as host:port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) admin: Option<String>,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// How it ended the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_exit: Option<String>,
    /// Digest of the configuration it runs with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config_digest: Option<String>,
}

/// The agent.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AgentStatus {
    /// Whether one looks after the fleet.
    pub(crate) running: bool,
    /// Its process id.
    pub(crate) pid: Option<u32>,
}

/// One release's part of the calls.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TrafficStatus {
    /// The release.
    pub(crate) release: String,
    /// Its part, in percent.
    pub(crate) percent: f64,
}

/// Everything about the fleet.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FleetStatus {
    /// Where clients reach it.
    pub(crate) endpoints: Endpoints,
    /// Its instances, edges first.
    pub(crate) instances: Vec<InstanceStatus>,
    /// Who looks after it.
    pub(crate) agent: AgentStatus,
    /// How calls are split between releases.
    pub(crate) traffic: Vec<TrafficStatus>,
    /// Whether every wanted instance is ready.
    pub(crate) ready: bool,
    /// The fleet's folder.
    pub(crate) state: String,
}

/// Reads and prints.
pub(crate) async fn run(ctx: &Context, args: StatusArgs) -> Result<Exit> {
    let status = read(ctx).await?;
    let exit = if args.check && !status.ready {
        Exit::BAD
    } else {
        Exit::DONE
    };
    ctx.out.report(&status, exit)
}

/// Puts together what the store, the agent's records and the sockets say.
pub(crate) async fn read(ctx: &Context) -> Result<FleetStatus> {
    let registry = ctx.registry().await?;
    let reading = "cannot read the fleet";
    let mut instances = join(
        &registry.processes().await.context(reading)?,
        &registry.instances().await.context(reading)?,
    );
    for instance in &mut instances {
        // The agent has not written it down: it is gone itself, or its disk is full.
        if instance.pid.is_some_and(|pid| !agent::exists(pid)) {
            instance.health = Health::Gone;
        }
    }
    let desired = registry
        .desired()
        .await
        .context(reading)?
        .map(|d| d.value)
        .unwrap_or_default();
    let ready = |role, release: &str| {
        let of_pool = |i: &&InstanceStatus| {
            i.role == role && i.release == release && i.health == Health::Ready
        };
        u32::try_from(instances.iter().filter(of_pool).count()).unwrap_or(u32::MAX)
    };
    let all_ready = !desired.pools.is_empty()
        && desired
            .pools
            .iter()
            .all(|p| ready(p.role, &p.release) >= p.replicas);
    let traffic = registry.traffic().await.context(reading)?.map(|t| t.value);
    let pid = agent::pid(&ctx.state)?;
    Ok(FleetStatus {
        endpoints: ctx.endpoints()?,
        agent: AgentStatus {
            running: pid.is_some(),
            pid,
        },
        traffic: traffic.map(|t| shares(&t)).unwrap_or_default(),
        ready: all_ready,
        instances,
        state: ctx.state.path().to_string_lossy().into_owned(),
    })
}

fn shares(traffic: &Traffic) -> Vec<TrafficStatus> {
    let share = |(release, bps): (String, u16)| TrafficStatus {
        release,
        percent: f64::from(bps) / 100.0,
    };
    traffic
        .effective(registry::unix_ms())
        .into_iter()
        .map(share)
        .collect()
}

/// Joins what the agent says of processes with what instances say of themselves. An instance that has
/// registered knows best, unless the agent has stopped it or it has died since.
fn join(processes: &[Process], instances: &[Instance]) -> Vec<InstanceStatus> {
    let mut joined: BTreeMap<(Role, String), InstanceStatus> = BTreeMap::new();
    for process in processes {
        let health = match process.state {
            ProcessState::Starting => Health::Starting,
            ProcessState::Running => Health::Ready,
            ProcessState::Backoff => Health::Backoff,
            ProcessState::Failed => Health::Failed,
            ProcessState::Stopping => Health::Draining,
        };
        let status = InstanceStatus {
            name: process.name.clone(),
            role: process.role,
            pid: (process.pid != 0).then_some(process.pid),
            release: process.release.clone(),
            health,
            address: None,
            admin: None,
            restarts: process.restarts,
            last_exit: process.last_exit.clone(),
            config_digest: None,
        };
        joined.insert((process.role, process.name.clone()), status);
    }
    for instance in instances {
        let fresh = InstanceStatus {
            name: instance.name.clone(),
            role: instance.role,
            pid: Some(instance.pid),
            release: instance.release.clone(),
            health: Health::Ready,
            address: None,
            admin: None,
            restarts: 0,
            last_exit: None,
            config_digest: None,
        };
        let status = joined
            .entry((instance.role, instance.name.clone()))
            .or_insert(fresh);
        if status.pid != Some(instance.pid) {
            // A registration of the process before; its lease runs out by itself.
            continue;
        }
        status.address = Some(instance.address.clone());
        status.admin.clone_from(&instance.admin);
        status.config_digest = Some(instance.config_digest.clone());
        status.health = match (instance.state, status.health) {
            (InstanceState::Draining, _) | (_, Health::Draining) => Health::Draining,
            (InstanceState::Ready, _) => Health::Ready,
        };
    }
    joined.into_values().collect()
}

impl Report for FleetStatus {
    fn text(&self, color: bool) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: Option<&String>| {
            let label = paint(color, Tone::Faint, &format!("{name:<12}"));
            text.push_str(&format!("{label}{}\n", value.map_or("-", String::as_str)));
        };
        let endpoints = &self.endpoints;
        line("MCP", endpoints.mcp.as_ref());
        line("JSON-RPC", endpoints.jsonrpc.as_ref());
        line("batch", endpoints.batch.as_ref());
        line("GraphQL", endpoints.graphql.as_ref());
        line("Cap'n Proto", endpoints.capnp.as_ref());
        line("admin", endpoints.admin.as_ref());
        line("state", Some(&self.state));
        let agent = self.agent.pid.map_or_else(
            || "not running; `sweetops up` starts it and keeps what runs".to_owned(),
            |pid| format!("pid {pid}"),
        );
        line("agent", Some(&agent));
        let split = |t: &TrafficStatus| format!("{} {}%", short(&t.release), t.percent);
        let split: Vec<String> = self.traffic.iter().map(split).collect();
        line("traffic", Some(&split.join(", ")));
        text.push('\n');
        let rows: Vec<_> = self.instances.iter().map(row).collect();
        text.push_str(&table(
            color,
            &[
                "NAME",
                "HEALTH",
                "PID",
                "RELEASE",
                "ADDRESS",
                "RESTARTS",
                "LAST EXIT",
            ],
            &rows,
        ));
        text
    }
}

fn row(instance: &InstanceStatus) -> Vec<(Option<Tone>, String)> {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    vec![
        (None, instance.name.clone()),
        (
            Some(instance.health.tone()),
            instance.health.word().to_owned(),
        ),
        (None, or_dash(instance.pid.map(|p| p.to_string()))),
        (None, short(&instance.release).to_owned()),
        (None, or_dash(instance.address.clone())),
        (None, instance.restarts.to_string()),
        (
            None,
            or_dash(instance.last_exit.as_deref().map(crate::output::printable)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str, pid: u32, state: ProcessState) -> Process {
        Process {
            name: name.into(),
            role: if name.starts_with("edge") {
                Role::Edge
            } else {
                Role::App
            },
            release: "0123456789abcdef".into(),
            pid,
            state,
            restarts: 1,
            last_exit: Some("signal: 9 (SIGKILL)".into()),
            refused: false,
            since_unix_ms: 0,
        }
    }

    fn instance(name: &str, pid: u32) -> Instance {
        let role = if name.starts_with("edge") {
            Role::Edge
        } else {
            Role::App
        };
        let mut instance = Instance::new(role, name, "0123456789abcdef", "127.0.0.1:1");
        instance.pid = pid;
        instance
    }

    #[test]
    fn a_registration_of_a_dead_process_does_not_make_its_successor_ready() {
        let health = |process: Process, instance: &Instance| {
            join(&[process], std::slice::from_ref(instance))[0].health
        };
        let running = || process("edge-1", 7, ProcessState::Starting);
        assert_eq!(health(running(), &instance("edge-1", 7)), Health::Ready);
        assert_eq!(health(running(), &instance("edge-1", 6)), Health::Starting);
        assert_eq!(
            health(
                process("edge-1", 0, ProcessState::Backoff),
                &instance("edge-1", 6)
            ),
            Health::Backoff
        );
        assert_eq!(
            health(
                process("edge-1", 7, ProcessState::Stopping),
                &instance("edge-1", 7)
            ),
            Health::Draining
        );
        // No agent has a say: the registration alone speaks.
        assert_eq!(join(&[], &[instance("edge-1", 7)])[0].health, Health::Ready);
    }

    #[test]
    fn the_text_shows_addresses_and_instances() {
        let endpoints = Endpoints {
            mcp: Some("http://127.0.0.1:8700/mcp".into()),
            ..Endpoints::default()
        };
        let status = FleetStatus {
            endpoints,
            instances: join(
                &[
                    process("edge-1", 7, ProcessState::Starting),
                    process("app-01234567-1", 0, ProcessState::Failed),
                ],
                &[instance("edge-1", 7)],
            ),
            agent: AgentStatus {
                running: true,
                pid: Some(5),
            },
            traffic: vec![TrafficStatus {
                release: "0123456789abcdef".into(),
                percent: 100.0,
            }],
            ready: false,
            state: "/s".into(),
        };
        insta::assert_snapshot!(status.text(false), @r"
        MCP         http://127.0.0.1:8700/mcp
        JSON-RPC    -
        batch       -
        GraphQL     -
        Cap'n Proto -
        admin       -
        state       /s
        agent       pid 5
        traffic     0123456789ab 100%

        NAME            HEALTH  PID  RELEASE       ADDRESS      RESTARTS  LAST EXIT
        edge-1          ready   7    0123456789ab  127.0.0.1:1  1         signal: 9 (SIGKILL)
        app-01234567-1  failed  -    0123456789ab  -            1         signal: 9 (SIGKILL)
        ");
    }
}
