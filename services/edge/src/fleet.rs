//! Where calls can go: the fleet as this edge sees it, always current, never waited for.
//!
//! The registry tells of instances and traffic; a [`View`] is what the stages read of it. What is known of
//! an instance (its latency, its failures) outlives a view: the pools keep it for as long as the instance
//! is there.
//!
//! A traffic record is in force here as soon as the view with it is, and only then is its generation
//! acknowledged. A share whose lease has run out falls back to the stable release without a word from
//! anybody; the edge then says so in its acknowledgement.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use admin_api::{BackendState, BackendStatus};
use arc_swap::{ArcSwap, Guard};
use http::Uri;
use mcp::Call;
use policy::balance::{self, BackendId, Facts, Member, Pick, Pool};
use policy::health::{self, Change, Outcome, State};
use policy::split::Split;
use rand::RngExt;
use registry::{Fleet, Instance, InstanceState, Registration, Role, Traffic, unix_ms};
use store::Store;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::catalogue::{Restricted, Trusted};
use crate::edge::Edge;
use crate::gaps::Gaps;
use crate::mirrored::Mirrored;

/// How long a call waits for the one instance that can go on with it, when that does not take connections.
const RETURN_MAX: Duration = Duration::from_secs(5);
/// How long a starting edge waits for apps before it says that it is ready all the same.
const PATIENCE: Duration = Duration::from_secs(10);

/// One app instance.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub name: Arc<str>,
    /// Its release.
    pub release: Arc<str>,
    /// `host:port`.
    pub address: String,
    /// Where calls are sent.
    pub uri: Uri,
    /// When it started: another time is another life of the same name.
    started_unix_ms: u64,
}

/// The instances of one release.
type Instances = Pool<Arc<Backend>>;

/// What the stages read.
#[derive(Debug, Default)]
pub struct View {
    generation: u64,
    expired: bool,
    split: Option<Split>,
    pools: BTreeMap<Arc<str>, Arc<Instances>>,
    gaps: BTreeMap<Arc<str>, Gaps>,
    mirrored: Mirrored,
    fleet: Arc<Fleet>,
}

/// A call's hold on an instance.
pub struct Held(Pick<Arc<Backend>>, Instant);

impl Held {
    /// The instance.
    pub fn backend(&self) -> &Arc<Backend> {
        self.0.target()
    }

    /// Names the instance, so that another attempt can avoid it.
    pub fn id(&self) -> BackendId {
        self.0.id()
    }

    /// The attempt is over. Dropped instead, it says nothing about the instance.
    pub fn finish(self, healthy: bool, now: Instant) {
        let Held(pick, began) = self;
        let outcome = if healthy {
            Outcome::Success
        } else {
            Outcome::Failure
        };
        let name = Arc::clone(&pick.target().name);
        match pick.finish(now.duration_since(began), outcome, now) {
            Some(Change::Ejected { lasts, failures }) => {
                tracing::warn!(backend = &*name, ?lasts, failures, "instance ejected");
            }
            Some(Change::Restored) => tracing::info!(backend = &*name, "instance restored"),
            None => {}
        }
    }
}

impl View {
    /// Generation of the traffic record that this view obeys.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The split of calls, once somebody has said what it is.
    pub fn split(&self) -> Option<&Split> {
        self.split.as_ref()
    }

    /// The stable release.
    pub fn stable(&self) -> Option<&str> {
        self.split.as_ref().map(|split| &**split.stable())
    }

    /// Digest of what a release offers, as soon as one of its instances tells it.
    pub fn catalogue_digest(&self, release: &str) -> Option<&str> {
        let mut apps = self.fleet.ready_apps(release).iter();
        apps.find_map(|app| app.catalogue_digest.as_deref())
    }

    /// The scopes that callers need for tools of a release, as its instances tell them.
    pub fn restricted_tools(&self, release: &str) -> Restricted {
        let plugins = self
            .fleet
            .ready_apps(release)
            .iter()
            .flat_map(|app| &app.plugins);
        let restricted = plugins.filter(|plugin| !plugin.scopes.is_empty());
        restricted
            .flat_map(|plugin| {
                let tools = plugin.tools.iter();
                tools.map(|tool| (tool.clone(), plugin.scopes.clone()))
            })
            .collect()
    }

    /// The `Mcp-Param-*` headers of a call to an instance.
    pub fn param_headers<'a>(&self, instance: &str, call: &'a Call) -> Cow<'a, [(String, String)]> {
        self.mirrored.headers(instance, call)
    }

    /// The tools of a release whose plugins' word on what they do is believed, as its instances tell them.
    pub fn trusted_tools(&self, release: &str) -> Trusted {
        trusted(self.fleet.ready_apps(release))
    }

    /// Whether a release has an instance that calls can be sent to.
    pub fn has_instances(&self, release: &str) -> bool {
        self.pools
            .get(release)
            .is_some_and(|pool| pool.usable(Instant::now()) > 0)
    }

    /// Takes an instance of a release for a call, if possible one that was not tried and lacks nothing of what the
    /// call is about.
    pub fn pick(
        &self,
        release: &str,
        call: &Call,
        tried: &[BackendId],
        now: Instant,
    ) -> Option<Held> {
        let gaps = self.gaps.get(release);
        let lacking = gaps.map_or(&[][..], |g| g.to_avoid(&call.method, call.name.as_deref()));
        let pool = self.pools.get(release)?;
        let pick = |avoid| {
            let random = rand::rng().random();
            pool.pick(&Facts { now, random, avoid })
        };
        let picked = if lacking.is_empty() {
            pick(tried)
        } else {
            pick(&[tried, lacking].concat())
        };
        picked.map(|picked| Held(picked, now))
    }

    /// The app of a name, draining or not: what it began nobody else can end.
    pub fn instance(&self, name: &str) -> Option<Arc<Backend>> {
        let app = self.fleet.live(Role::App).find(|app| app.name == name)?;
        let release: Arc<str> = app.release.as_str().into();
        member(app, &release).map(|member| member.target)
    }

    /// Whether the app of a name has said that it goes.
    fn drains(&self, name: &str) -> bool {
        let mut apps = self.fleet.live(Role::App);
        apps.any(|app| app.name == name && app.state == InstanceState::Draining)
    }

    /// Every instance, for operators.
    pub fn backend_status(&self) -> Vec<BackendStatus> {
        let now = Instant::now();
        let reports = self.pools.values().flat_map(|pool| pool.status(now));
        let by_key: BTreeMap<String, balance::Status> =
            reports.map(|status| (status.key.clone(), status)).collect();
        self.fleet
            .live(Role::App)
            .map(|app| {
                let status = by_key.get(&key(app));
                BackendStatus {
                    name: app.name.clone(),
                    release: app.release.clone(),
                    address: app.address.clone(),
                    state: match status.map(|s| s.state) {
                        Some(State::In | State::Probation) => BackendState::Ready,
                        Some(State::Ejected) => BackendState::Ejected,
                        Some(State::Draining) | None => BackendState::Draining,
                    },
                    in_flight: status.map_or(0, |s| s.in_flight.into()),
                    ewma_us: status.map_or(0, |s| {
                        u64::try_from(s.latency.as_micros()).unwrap_or(u64::MAX)
                    }),
                }
            })
            .collect()
    }
}

/// By release, the digest of what all of its instances offer alike.
pub type Agreed = BTreeMap<Arc<str>, Arc<str>>;

/// The view in force.
#[derive(Debug)]
pub struct FleetView {
    view: ArcSwap<View>,
    changes: watch::Sender<Arc<View>>,
    agreed: watch::Sender<Agreed>,
    rules: balance::Rules,
}

impl FleetView {
    /// An empty view, to be filled by a [`Follower`].
    pub fn new(settings: &settings::Edge) -> FleetView {
        let balance = &settings.balance;
        let health = health::Rules {
            eject_after_failures: balance.eject_after_failures,
            eject_for: balance.eject_for,
            panic_threshold_percent: balance.panic_threshold_percent,
            ..health::Rules::default()
        };
        FleetView {
            view: ArcSwap::default(),
            changes: watch::channel(Arc::default()).0,
            agreed: watch::channel(Agreed::new()).0,
            rules: balance::Rules {
                health,
                ..balance::Rules::default()
            },
        }
    }

    /// The view now.
    pub fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Follows the views.
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.changes.subscribe()
    }

    /// Waits until an instance that takes no connections has begun another life under its name, for
    /// [`RETURN_MAX`] and not past `until`. One that has said that it goes does not come back.
    pub async fn returned(&self, lost: &Backend, until: Instant) -> Option<Arc<Backend>> {
        let is_back = |view: &Arc<View>| match view.instance(&lost.name) {
            Some(found) => found.started_unix_ms != lost.started_unix_ms || view.drains(&lost.name),
            None => false,
        };
        let patience = until.saturating_duration_since(Instant::now());
        let mut views = self.views();
        let seen = tokio::time::timeout(patience.min(RETURN_MAX), views.wait_for(is_back));
        let view = Arc::clone(&*seen.await.ok()?.ok()?);
        view.instance(&lost.name)
            .filter(|found| found.started_unix_ms != lost.started_unix_ms)
    }

    /// Follows what the instances of each release agree on. A release is left out while its instances differ, for one of
    /// them may still answer with what was; and so is one with a single instance, which cannot differ.
    pub fn agreements(&self) -> watch::Receiver<Agreed> {
        self.agreed.subscribe()
    }

    fn publish(&self, view: View) {
        let agreed = agreed(&view.fleet);
        let view = Arc::new(view);
        self.view.store(Arc::clone(&view));
        self.changes.send_replace(view);
        self.agreed.send_if_modified(|old| {
            let changed = *old != agreed;
            *old = agreed;
            changed
        });
    }
}

/// Waits until this edge can serve: it has seen the fleet, an app of the stable release, and its tools. An
/// edge without apps waits only so long: it can still tell its callers what is wrong.
pub async fn synced(edge: &Edge) {
    let mut views = edge.fleet.views();
    let seen = views.wait_for(|view| view.fleet.is_synced);
    if seen.await.is_err() {
        return;
    }
    let served = async {
        let has_app = |view: &Arc<View>| view.stable().is_some_and(|s| view.has_instances(s));
        if views.wait_for(has_app).await.is_ok() {
            let mut ready = edge.catalogue_read.subscribe();
            // An error means that the edge is ending.
            let _ = ready.wait_for(|read| *read).await;
        }
    };
    if tokio::time::timeout(PATIENCE, served).await.is_err() {
        tracing::warn!("ready without an app to send calls to");
    }
}

/// Keeps the view current for as long as the process runs.
pub struct Follower {
    acks: watch::Receiver<(u64, bool)>,
}

impl Follower {
    /// Starts to follow the store.
    pub fn start(edge: Arc<Edge>, store: &Store) -> Follower {
        let fleet = registry::watch_fleet(store.clone());
        let (told, acks) = watch::channel((0, false));
        tokio::spawn(follow(edge, fleet, told));
        Follower { acks }
    }

    /// Has every generation that comes into force acknowledged on the edge's registration.
    pub fn acknowledge_through(self, registration: Registration) -> Registered {
        let (stop, stopped) = oneshot::channel();
        let mut acks = self.acks;
        let task = tokio::spawn(async move {
            let acknowledging = async {
                loop {
                    let (generation, expired) = *acks.borrow_and_update();
                    if generation > 0 {
                        registration.acknowledge(generation, expired);
                    }
                    if acks.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                }
            };
            tokio::select! {
                () = acknowledging => {}
                _ = stopped => {}
            }
            registration.stop().await;
        });
        Registered { stop, task }
    }
}

/// The edge's place in the fleet, with its acknowledgements.
pub struct Registered {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Registered {
    /// Gives the place up; returns when everybody can know.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn follow(
    edge: Arc<Edge>,
    mut fleets: watch::Receiver<Arc<Fleet>>,
    told: watch::Sender<(u64, bool)>,
) {
    let mut pools = BTreeMap::new();
    loop {
        let fleet = Arc::clone(&fleets.borrow_and_update());
        let now_ms = unix_ms();
        let expiry = fleet.traffic.as_ref().and_then(|t| t.next_expiry(now_ms));
        let view = view(&edge.fleet.rules, &mut pools, fleet, now_ms);
        let ack = (view.generation, view.expired);
        edge.fleet.publish(view);
        // In force from here on, and only now said so.
        told.send_if_modified(|old| std::mem::replace(old, ack) != ack);
        let wait = expiry.map(|at| Duration::from_millis(at.saturating_sub(now_ms) + 1));
        tokio::select! {
            changed = fleets.changed() => if changed.is_err() { return },
            () = sleep(wait) => {}
        }
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Makes the view of a fleet; pools of releases that are still there go on with what they know.
fn view(
    rules: &balance::Rules,
    pools: &mut BTreeMap<Arc<str>, Arc<Instances>>,
    fleet: Arc<Fleet>,
    now_ms: u64,
) -> View {
    let now = Instant::now();
    let releases: Vec<String> = fleet.app_releases().map(str::to_owned).collect();
    pools.retain(|release, _| releases.iter().any(|r| **r == **release));
    for release in releases {
        let name: Arc<str> = release.as_str().into();
        let pool = pools
            .entry(Arc::clone(&name))
            .or_insert_with(|| Arc::new(Pool::new(*rules, now)));
        let apps = fleet.ready_apps(&release).iter();
        pool.set_members(apps.filter_map(|app| member(app, &name)), now);
    }
    let gaps = pools
        .iter()
        .map(|(release, pool)| {
            (
                Arc::clone(release),
                gaps(pool, fleet.ready_apps(release), now),
            )
        })
        .collect();
    let traffic = fleet.traffic.as_deref();
    View {
        gaps,
        mirrored: Mirrored::of(fleet.live(Role::App).map(|app| &**app)),
        generation: fleet.generation,
        expired: traffic.is_some_and(|t| t.has_expired(now_ms)),
        split: traffic.and_then(|t| split(t, now_ms)),
        pools: pools.clone(),
        fleet,
    }
}

/// The tools of trusted plugins that are no other plugin's at another instance.
fn trusted(apps: &[Arc<Instance>]) -> Trusted {
    let plugins = || apps.iter().flat_map(|app| &app.plugins);
    let doubted = plugins().filter(|plugin| !plugin.trusted);
    let doubted: HashSet<&String> = doubted.flat_map(|plugin| &plugin.tools).collect();
    let tools = plugins().flat_map(|plugin| &plugin.tools);
    let trusted = tools.filter(|tool| !doubted.contains(tool));
    trusted.cloned().collect()
}

/// What the instances of each release agree on.
fn agreed(fleet: &Fleet) -> Agreed {
    fleet
        .app_releases()
        .filter_map(|release| Some((release.into(), alike(fleet.ready_apps(release))?.into())))
        .collect()
}

/// The digest of what several instances offer, if it is the same.
fn alike(apps: &[Arc<Instance>]) -> Option<&str> {
    let (first, others) = apps
        .split_first()
        .filter(|(_, others)| !others.is_empty())?;
    let same = |other: &Arc<Instance>| other.catalogue_digest == first.catalogue_digest;
    let digest = first.catalogue_digest.as_deref()?;
    others.iter().all(same).then_some(digest)
}

/// What instances of a release lack.
fn gaps(pool: &Instances, apps: &[Arc<Instance>], now: Instant) -> Gaps {
    let ids: HashMap<String, BackendId> = pool
        .status(now)
        .into_iter()
        .map(|status| (status.key, status.id))
        .collect();
    let known = |app: &'_ Arc<Instance>| ids.get(&key(app)).copied();
    let known: Vec<(BackendId, &Instance)> = apps
        .iter()
        .filter_map(|app| Some((known(app)?, &**app)))
        .collect();
    Gaps::among(&known)
}

/// The split of a traffic record at a moment. One that contradicts itself sends all calls to stable.
fn split(traffic: &Traffic, now_ms: u64) -> Option<Split> {
    let in_force = traffic
        .shares
        .iter()
        .filter(|share| share.is_in_force(now_ms));
    let shares = in_force.map(|share| (share.release.as_str(), share.basis_points));
    Split::new(&traffic.stable, shares)
        .inspect_err(|error| {
            tracing::error!(error = telemetry::error_chain(error), "traffic record");
        })
        .or_else(|_| Split::new(&traffic.stable, []))
        .ok()
}

/// One life of one instance.
fn key(instance: &Instance) -> String {
    format!("{}@{}", instance.name, instance.started_unix_ms)
}

fn member(instance: &Instance, release: &Arc<str>) -> Option<Member<Arc<Backend>>> {
    let uri = format!("http://{}/mcp", instance.address).parse().ok()?;
    Some(Member {
        key: key(instance),
        weight: 1,
        draining: instance.state == InstanceState::Draining,
        target: Arc::new(Backend {
            name: instance.name.as_str().into(),
            release: Arc::clone(release),
            address: instance.address.clone(),
            uri,
            started_unix_ms: instance.started_unix_ms,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_until_its_lease_runs_out() {
        let traffic = Traffic::all_to("stable", "", "").with_share("next", 10_000, Some(1000));
        let chosen = |now| {
            let split = split(&traffic, now).unwrap();
            let facts = policy::split::Facts {
                pinned: None,
                sticky: None,
                random: 7,
            };
            split.choose(&facts).release.to_string()
        };
        assert_eq!(chosen(999), "next");
        assert_eq!(chosen(1000), "stable");
    }

    #[test]
    fn a_tools_own_word_counts_if_every_plugin_that_has_it_is_trusted() {
        let plugin = |trusted, tools: &[&str]| registry::PluginState {
            tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
            trusted,
            ..Default::default()
        };
        let app = |plugins| {
            let mut app = Instance::new(Role::App, "app", "r", "127.0.0.1:1");
            app.plugins = plugins;
            Arc::new(app)
        };
        let apps = [
            app(vec![plugin(true, &["both", "ours"])]),
            app(vec![
                plugin(true, &["ours"]),
                plugin(false, &["theirs", "both"]),
            ]),
        ];
        assert_eq!(trusted(&apps), ["ours".to_owned()].into());
        assert!(trusted(&[]).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_the_next_life_of_its_instance_and_not_for_one_that_goes() {
        let settings = settings::Settings::load(None, std::iter::empty())
            .unwrap()
            .settings;
        let edge = FleetView::new(&settings.edge);
        let app = |started_unix_ms, state| {
            let mut app = Instance::new(Role::App, "app-1", "r", "127.0.0.1:1");
            (app.started_unix_ms, app.state) = (started_unix_ms, state);
            let mut fleet = Fleet::default();
            fleet.instances.push(Arc::new(app));
            view(&edge.rules, &mut BTreeMap::new(), Arc::new(fleet), 0)
        };
        use InstanceState::{Draining, Ready};
        let lost = app(1, Ready).instance("app-1").unwrap();
        let far = Instant::now() + Duration::from_secs(60);
        for (then, comes_back, took_s) in [
            (Some((2, Ready)), true, 1),
            (Some((1, Draining)), false, 1),
            (None, false, 5),
        ] {
            edge.publish(app(1, Ready));
            let began = tokio::time::Instant::now();
            let told = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Some((started, state)) = then {
                    edge.publish(app(started, state));
                }
            };
            let (back, ()) = tokio::join!(edge.returned(&lost, far), told);
            assert_eq!(back.is_some(), comes_back, "{then:?}");
            assert_eq!(began.elapsed().as_secs(), took_s, "{then:?}");
        }
        // Nor past the call's own end.
        edge.publish(app(1, Ready));
        assert!(edge.returned(&lost, Instant::now()).await.is_none());
    }

    #[test]
    fn instances_agree_when_all_of_several_offer_the_same() {
        let app = |digest: Option<&str>| {
            let mut app = Instance::new(Role::App, "app", "r", "127.0.0.1:1");
            app.catalogue_digest = digest.map(str::to_owned);
            Arc::new(app)
        };
        for (digests, agreed) in [
            (&[][..], None),
            (&[Some("a")], None),
            (&[Some("a"), Some("a")], Some("a")),
            (&[Some("a"), Some("b")], None),
            (&[Some("a"), None], None),
            (&[None, None], None),
        ] {
            let apps: Vec<_> = digests.iter().map(|digest| app(*digest)).collect();
            assert_eq!(alike(&apps), agreed, "{digests:?}");
        }
    }

    #[test]
    fn a_record_that_contradicts_itself_sends_everything_to_stable() {
        let traffic = Traffic::all_to("stable", "", "")
            .with_share("a", 9_000, None)
            .with_share("b", 9_000, None);
        let split = split(&traffic, 0).unwrap();
        assert_eq!(split.releases().count(), 1);
    }
}
