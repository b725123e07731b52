//! What differs between what should run and what runs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use registry::{
    Desired, Instance, InstanceState, PluginPhase, Pool, Process, ProcessState, Role, Traffic,
};
use serde::Serialize;
use settings::KeyDiff;

use crate::release::short;

/// Everything that is compared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// What should run.
    pub(crate) desired: Desired,
    /// The releases that should run, by id.
    pub(crate) releases: BTreeMap<String, Known>,
    /// How calls are split.
    pub(crate) traffic: Option<Traffic>,
    /// What instances say of themselves.
    pub(crate) instances: Vec<Instance>,
    /// What the agent says of processes.
    pub(crate) processes: Vec<Process>,
    /// Whether an agent looks after the fleet.
    pub(crate) agent: bool,
    /// Keys in which the configuration on disk differs from what its pool runs.
    pub(crate) edits: Vec<(Role, KeyDiff)>,
}

/// What is known of a release.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Digest of its configuration when it was made.
    pub(crate) config_digest: String,
    /// Digest of its program when it was made.
    pub(crate) binary_digest: String,
    /// Digest of the configuration in its folder now; why it cannot be read otherwise.
    pub(crate) config_on_disk: Option<Result<String, String>>,
    /// Digest of the program in its folder now; why it cannot be read otherwise.
    pub(crate) binary_on_disk: Option<Result<String, String>>,
    /// Plugins that its instances should serve.
    pub(crate) plugins: BTreeSet<String>,
}

impl Known {
    /// Whether a process started from the folder would be what the release is.
    fn is_intact(&self) -> bool {
        let same = |now: &Option<Result<String, String>>, then: &String| match now {
            None => true,
            Some(now) => now.as_ref() == Ok(then),
        };
        same(&self.config_on_disk, &self.config_digest)
            && same(&self.binary_on_disk, &self.binary_digest)
    }
}

/// How a difference is put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub(crate) enum Remedy {
    /// `--fix` replaces this instance.
    Restart {
        /// The instance.
        instance: String,
    },
    /// `--fix` starts the agent, which starts what is missing.
    StartAgent,
    /// The agent is about to.
    Agent,
    /// Somebody has to decide.
    Operator {
        /// What to do.
        advice: String,
    },
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The instance, or the pool or record that it is about.
    pub(crate) instance: String,
    /// The key.
    pub(crate) key: String,
    /// What it should be; nothing if it should not be there.
    pub(crate) should: Option<String>,
    /// What it is.
    pub(crate) is: Option<String>,
    /// How it is put right.
    pub(crate) remedy: Remedy,
}

impl Remedy {
    /// What is shown to people.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Restart { .. } => "`--fix` restarts it".to_owned(),
            Self::StartAgent => "`--fix` starts the agent, which sees to it".to_owned(),
            Self::Agent => "the agent sees to it".to_owned(),
            Self::Operator { advice } => advice.clone(),
        }
    }
}

impl Finding {
    /// The instance that has to be replaced to put this right.
    pub(crate) fn restart(&self) -> Option<&str> {
        match &self.remedy {
            Remedy::Restart { instance } => Some(instance),
            _ => None,
        }
    }

    /// Whether nothing but a person can put this right.
    pub(crate) fn needs_operator(&self) -> bool {
        matches!(self.remedy, Remedy::Operator { .. })
    }
}

/// Compares all, in the order: records, pools, instances.
pub(crate) fn compare(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(edits(facts));
    found.extend(damages(facts));
    found.extend(split(facts));
    for pool in &facts.desired.pools {
        found.extend(count(facts, pool));
    }
    let mut processes: Vec<&Process> = facts.processes.iter().collect();
    processes.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
    found.extend(processes.into_iter().filter_map(|p| process(facts, p)));
    let mut instances = live(facts);
    instances.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
    for instance in instances {
        found.extend(self::instance(facts, instance));
    }
    found
}

fn finding(
    instance: impl Into<String>,
    key: impl Into<String>,
    should: Option<&str>,
    is: Option<&str>,
    remedy: Remedy,
) -> Finding {
    Finding {
        instance: instance.into(),
        key: key.into(),
        should: should.map(str::to_owned),
        is: is.map(str::to_owned),
        remedy,
    }
}

fn operator(advice: &str) -> Remedy {
    Remedy::Operator {
        advice: advice.to_owned(),
    }
}

/// Edits of the configuration that nobody has applied.
fn edits(facts: &Facts) -> impl Iterator<Item = Finding> {
    facts.edits.iter().map(|(role, edit)| {
        let advice = match role {
            _ if edit.key.starts_with("fleet.") => "`sweetops up` applies the file",
            Role::Edge => "`sweetops up` applies the file",
            Role::App => "`sweetops deploy` brings the file in by steps",
        };
        Finding {
            instance: format!("{role} pool"),
            key: edit.key.clone(),
            should: edit.to.clone(),
            is: edit.from.clone(),
            remedy: operator(advice),
        }
    })
}

/// Releases whose folder was changed after they were made.
fn damages(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for (id, known) in &facts.releases {
        let parts = [
            ("config_digest", &known.config_digest, &known.config_on_disk),
            ("binary_digest", &known.binary_digest, &known.binary_on_disk),
        ];
        for (key, then, now) in parts {
            let is = match now {
                Some(Ok(now)) if now != then => short(now),
                Some(Err(why)) => why.as_str(),
                _ => continue,
            };
            let advice = "the copy in the state folder was changed; make a new release of it";
            let release = format!("release {}", short(id));
            found.push(finding(
                release,
                key,
                Some(short(then)),
                Some(is),
                operator(advice),
            ));
        }
    }
    found
}

/// Calls that are sent to a release that should not run.
fn split(facts: &Facts) -> Vec<Finding> {
    let wanted = |release: &str| facts.desired.replicas(Role::App, release) > 0;
    let Some(traffic) = &facts.traffic else {
        return Vec::new();
    };
    let shares = traffic.shares.iter().filter(|share| share.basis_points > 0);
    let mut found: Vec<Finding> = shares
        .filter(|share| !wanted(&share.release))
        .map(|share| {
            let advice = "`sweetops traffic set --reset` gives its calls to stable";
            let key = format!("share.{}", short(&share.release));
            finding(
                "traffic",
                key,
                None,
                Some("no instance should run it"),
                operator(advice),
            )
        })
        .collect();
    if !wanted(&traffic.stable) {
        let pools = facts.desired.pools.iter().filter(|p| p.role == Role::App);
        let should = pools
            .map(|p| short(&p.release))
            .collect::<Vec<_>>()
            .join(" or ");
        let advice = "`sweetops up` makes the two agree";
        let is = Some(short(&traffic.stable));
        found.push(finding(
            "traffic",
            "stable",
            Some(&should),
            is,
            operator(advice),
        ));
    }
    found
}

/// Instances that serve, without registrations that outlived their process and without those that leave.
fn live(facts: &Facts) -> Vec<&Instance> {
    let outlived = |instance: &Instance| {
        let of_same_name = facts.processes.iter().find(|p| p.name == instance.name);
        of_same_name.is_some_and(|p| p.pid != instance.pid || p.state == ProcessState::Stopping)
    };
    let all = facts.instances.iter();
    all.filter(|i| i.state == InstanceState::Ready && !outlived(i))
        .collect()
}

/// Too few or too many. One that is starting counts: it is on its way.
fn count(facts: &Facts, pool: &Pool) -> Option<Finding> {
    let mut names: BTreeSet<&str> = live(facts)
        .into_iter()
        .filter(|i| i.role == pool.role && i.release == pool.release)
        .map(|i| i.name.as_str())
        .collect();
    let on_its_way = |p: &&Process| {
        p.role == pool.role
            && p.release == pool.release
            && matches!(p.state, ProcessState::Starting | ProcessState::Running)
            && facts.agent
    };
    names.extend(
        facts
            .processes
            .iter()
            .filter(on_its_way)
            .map(|p| p.name.as_str()),
    );
    let have = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let remedy = if facts.agent {
        Remedy::Agent
    } else {
        Remedy::StartAgent
    };
    (have != pool.replicas).then(|| {
        finding(
            format!("{} {}", pool.role, short(&pool.release)),
            "instances",
            Some(&pool.replicas.to_string()),
            Some(&have.to_string()),
            remedy,
        )
    })
}

/// A process that does not run.
fn process(facts: &Facts, process: &Process) -> Option<Finding> {
    let (word, remedy) = match process.state {
        ProcessState::Failed => (
            "failed",
            Remedy::Restart {
                instance: process.name.clone(),
            },
        ),
        ProcessState::Backoff if facts.agent => ("backoff", Remedy::Agent),
        ProcessState::Backoff => ("backoff", Remedy::StartAgent),
        _ => return None,
    };
    let is = match &process.last_exit {
        Some(exit) => format!("{word} ({exit})"),
        None => word.to_owned(),
    };
    let wanted = facts.desired.replicas(process.role, &process.release) > 0;
    wanted.then(|| finding(&process.name, "state", Some("running"), Some(&is), remedy))
}

/// What an instance reports against its release.
fn instance(facts: &Facts, instance: &Instance) -> Vec<Finding> {
    if facts.desired.replicas(instance.role, &instance.release) == 0 {
        return vec![unwanted(facts, instance)];
    }
    let Some(known) = facts.releases.get(&instance.release) else {
        let advice = "its release is unknown; `sweetops up` makes releases known";
        let is = Some(short(&instance.release));
        return vec![finding(
            &instance.name,
            "release",
            None,
            is,
            operator(advice),
        )];
    };
    let remedy = || match (known.is_intact(), facts.agent) {
        (true, true) => Remedy::Restart {
            instance: instance.name.clone(),
        },
        (true, false) => operator("no agent can restart it; `sweetops up` starts one"),
        (false, _) => operator("its release was changed on disk; make a new one"),
    };
    let mut found = Vec::new();
    let digests = [
        (
            "config_digest",
            &known.config_digest,
            &instance.config_digest,
        ),
        (
            "binary_digest",
            &known.binary_digest,
            &instance.binary_digest,
        ),
    ];
    for (key, should, is) in digests {
        if should != is {
            let (should, is) = (Some(short(should)), Some(short(is)));
            found.push(finding(&instance.name, key, should, is, remedy()));
        }
    }
    if instance.role == Role::App {
        found.extend(plugins(known, instance, &remedy));
    }
    found
}

fn unwanted(facts: &Facts, instance: &Instance) -> Finding {
    let pools = facts
        .desired
        .pools
        .iter()
        .filter(|p| p.role == instance.role);
    let should = pools
        .map(|p| short(&p.release))
        .collect::<Vec<_>>()
        .join(" or ");
    let owned = facts.processes.iter().any(|p| p.name == instance.name);
    let remedy = match (owned, facts.agent) {
        (true, true) => Remedy::Agent,
        (true, false) => Remedy::StartAgent,
        (false, _) => operator("no agent of this folder has started it; end it where it runs"),
    };
    let should = (!should.is_empty()).then_some(should);
    let is = Some(short(&instance.release));
    finding(&instance.name, "release", should.as_deref(), is, remedy)
}

/// Plugins that are missing, do not answer, or should not be there.
fn plugins(known: &Known, instance: &Instance, remedy: &dyn Fn() -> Remedy) -> Vec<Finding> {
    let mut names: BTreeSet<&str> = known.plugins.iter().map(String::as_str).collect();
    names.extend(instance.plugins.iter().map(|p| p.name.as_str()));
    let mut found = Vec::new();
    for name in names {
        let should = known.plugins.contains(name).then_some("ready");
        // Several copies of one plugin have its name; the worst speaks for it.
        let copies = instance.plugins.iter().filter(|p| p.name == name);
        let is = copies
            .map(|p| phase(p.state))
            .max_by_key(|word| *word != "ready");
        // One that is starting is on its way.
        if should != is && is != Some("starting") {
            let key = format!("plugin.{name}");
            found.push(finding(&instance.name, key, should, is, remedy()));
        }
    }
    found
}

fn phase(phase: PluginPhase) -> &'static str {
    match phase {
        PluginPhase::Starting => "starting",
        PluginPhase::Ready => "ready",
        PluginPhase::Failed => "failed",
        PluginPhase::Stopped => "stopped",
    }
}

#[cfg(test)]
mod tests;
