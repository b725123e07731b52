//! What should run now, given what should have run and what the configuration says. Pure.

use registry::{Desired, Pool, Role, Traffic};

use super::AUTHOR;

/// What the store and this machine say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Existing {
    /// What should have run.
    pub(crate) desired: Option<Desired>,
    /// How calls are split.
    pub(crate) traffic: Option<Traffic>,
    /// Whether any process of the fleet lives.
    pub(crate) running: bool,
    /// Whether a rollout is under way.
    pub(crate) rollout: bool,
    /// Whether the stable release came by a rollout, which only another takes back.
    pub(crate) deployed: bool,
}

/// What the configuration and the programs make.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The edge release.
    pub(crate) edge: String,
    /// The app release.
    pub(crate) app: String,
    /// Number of edges.
    pub(crate) edges: u32,
    /// Number of apps.
    pub(crate) apps: u32,
}

/// What should run, and what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// What should run.
    pub(crate) desired: Desired,
    /// The split of calls, if it is to be written.
    pub(crate) traffic: Option<Traffic>,
    /// The edge release that is replaced while it runs.
    pub(crate) edge_from: Option<String>,
    /// The app release that stays although the configuration makes another.
    pub(crate) app_waiting: Option<String>,
    /// What else to say.
    pub(crate) notes: Vec<String>,
}

/// Decides what should run.
///
/// Edges follow the configuration at once, because they hand over without loss and can be taken back. Apps
/// follow it only when nothing runs and nothing was ever deployed: from then on the app's release changes by
/// `deploy` and `rollback` alone. During a rollout the apps belong to it.
pub(crate) fn reconcile(existing: &Existing, wanted: &Wanted) -> Reconciled {
    let empty = Desired::default();
    let before = existing.desired.as_ref().unwrap_or(&empty);
    let edge_before = before.pools.iter().find(|p| p.role == Role::Edge);
    let edge_from = edge_before
        .filter(|p| existing.running && p.release != wanted.edge)
        .map(|p| p.release.clone());
    let mut pools = vec![Pool {
        role: Role::Edge,
        release: wanted.edge.clone(),
        replicas: wanted.edges,
    }];
    let mut notes = Vec::new();
    let apps: Vec<&Pool> = before
        .pools
        .iter()
        .filter(|p| p.role == Role::App)
        .collect();
    let split = existing
        .traffic
        .as_ref()
        .is_some_and(|t| !t.shares.is_empty());

    if !apps.is_empty() && (existing.rollout || split || apps.len() > 1) {
        notes.push("a rollout is under way; the apps are left to it".to_owned());
        pools.extend(apps.into_iter().cloned());
        return Reconciled {
            desired: Desired { pools },
            traffic: None,
            edge_from,
            app_waiting: None,
            notes,
        };
    }
    let stable = existing.traffic.as_ref().map(|t| t.stable.clone());
    let keeps = existing.running || existing.deployed;
    let stays = stable.filter(|stable| keeps && *stable != wanted.app);
    let app = stays.clone().unwrap_or_else(|| wanted.app.clone());
    if let Some(pool) = apps
        .first()
        .filter(|p| p.release == app && p.replicas != wanted.apps)
    {
        notes.push(format!("apps {} → {}", pool.replicas, wanted.apps));
    }
    let known = existing.traffic.as_ref().is_some_and(|t| t.stable == app);
    let traffic = (!known).then(|| Traffic::all_to(app.clone(), AUTHOR, "brought up"));
    pools.push(Pool {
        role: Role::App,
        release: app,
        replicas: wanted.apps,
    });
    Reconciled {
        desired: Desired { pools },
        traffic,
        edge_from,
        app_waiting: stays,
        notes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(edge: &str, app: &str) -> Wanted {
        Wanted {
            edge: edge.into(),
            app: app.into(),
            edges: 1,
            apps: 3,
        }
    }

    fn existing(running: bool) -> Existing {
        let first = reconcile(&Existing::default(), &wanted("e1", "a1"));
        Existing {
            desired: Some(first.desired),
            traffic: first.traffic,
            running,
            rollout: false,
            deployed: false,
        }
    }

    fn pools(reconciled: &Reconciled) -> String {
        let word = |p: &Pool| format!("{} {}x{}", p.role, p.release, p.replicas);
        reconciled
            .desired
            .pools
            .iter()
            .map(word)
            .collect::<Vec<_>>()
            .join(", ")
    }

    #[test]
    fn the_first_start_takes_everything_from_the_configuration() {
        let first = reconcile(&Existing::default(), &wanted("e1", "a1"));
        assert_eq!(pools(&first), "edge e1x1, app a1x3");
        assert_eq!(first.traffic.unwrap().stable, "a1");
        assert_eq!((first.edge_from, first.app_waiting), (None, None));
    }

    #[test]
    fn an_unchanged_fleet_stays_as_it_is() {
        let again = reconcile(&existing(true), &wanted("e1", "a1"));
        assert_eq!(again.desired, existing(true).desired.unwrap());
        assert_eq!(
            (again.traffic, again.edge_from, again.app_waiting),
            (None, None, None)
        );
        assert!(again.notes.is_empty());
    }

    #[test]
    fn edges_follow_the_configuration_and_running_apps_do_not() {
        let again = reconcile(&existing(true), &wanted("e2", "a2"));
        assert_eq!(pools(&again), "edge e2x1, app a1x3");
        assert_eq!(again.edge_from.as_deref(), Some("e1"));
        assert_eq!(again.app_waiting.as_deref(), Some("a1"));
        assert_eq!(again.traffic, None);
    }

    #[test]
    fn a_stopped_fleet_starts_with_what_the_configuration_makes() {
        let again = reconcile(&existing(false), &wanted("e2", "a2"));
        assert_eq!(pools(&again), "edge e2x1, app a2x3");
        assert_eq!(again.traffic.unwrap().stable, "a2");
        assert_eq!((again.edge_from, again.app_waiting), (None, None));
    }

    #[test]
    fn a_release_that_was_deployed_comes_back_after_a_stop() {
        let deployed = Existing {
            deployed: true,
            ..existing(false)
        };
        let again = reconcile(&deployed, &wanted("e2", "a2"));
        assert_eq!(pools(&again), "edge e2x1, app a1x3");
        assert_eq!(again.app_waiting.as_deref(), Some("a1"));
    }

    #[test]
    fn the_number_of_apps_follows_and_a_rollout_is_not_disturbed() {
        let more = Wanted {
            apps: 5,
            ..wanted("e1", "a1")
        };
        let again = reconcile(&existing(true), &more);
        assert_eq!(pools(&again), "edge e1x1, app a1x5");
        assert_eq!(again.notes, ["apps 3 → 5"]);

        let mut during = existing(true);
        during.traffic = Some(Traffic::all_to("a1", "x", "y").with_share("a2", 500, None));
        if let Some(desired) = &mut during.desired {
            desired.pools.push(Pool {
                role: Role::App,
                release: "a2".into(),
                replicas: 1,
            });
        }
        let again = reconcile(&during, &more);
        assert_eq!(pools(&again), "edge e1x1, app a1x3, app a2x1");
        assert_eq!(again.notes.len(), 1);
    }
}
