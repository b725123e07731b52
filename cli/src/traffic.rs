//! `sweetops traffic`: how calls are split between releases, and setting that split by hand.
//!
//! A split by hand takes the lock that rollouts take, so the two never write against each other, and it ends
//! only when every live edge says that it sends by the new split.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{AckReport, Fleet, Registry, Traffic, synced, wait_until_acked, watch_fleet};
use serde::Serialize;
use settings::Percent;
use settings::quantity::format_duration;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Report, Tone, paint, table};
use crate::release::short;

/// The author of splits that this command writes.
const AUTHOR: &str = "sweetops traffic";
/// The life of the lock if this command dies with it.
const LOCK_TTL: Duration = Duration::from_secs(30);
/// How long the first look at the fleet may take.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// Shortest lease: an edge has to hear of it before it ends.
const LEASE_MIN: Duration = Duration::from_secs(1);

/// Show or set how calls are split between releases.
///
/// One release is stable and gets what no other has a share of.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
    sweetops traffic\n  \
    sweetops traffic -o json | jq .effective\n  \
    sweetops traffic set 1a2b3c=5% --lease 30s\n  \
    sweetops traffic set --reset"
)]
pub(crate) struct TrafficArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Set(SetArgs),
}

/// Give releases shares of the calls, in place of those they have now.
///
/// Ends when every live edge sends by the new split. Refused (exit 6) while a rollout is under way.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops traffic set 1a2b3c=5%\n  \
    sweetops traffic set 1a2b3c=5% --lease 30s --reason 'a look at the new parser'\n  \
    sweetops traffic set --reset")]
struct SetArgs {
    /// A release, or enough of its first characters, and its share; several may be given
    #[arg(value_name = "RELEASE=PERCENT", required_unless_present = "reset", value_parser = wanted)]
    shares: Vec<Wanted>,
    /// Give everything back to the stable release
    #[arg(long, conflicts_with_all = ["shares", "lease"])]
    reset: bool,
    /// The shares fall back to the stable release by themselves after this time
    #[arg(long, value_name = "DURATION", value_parser = crate::token::duration)]
    lease: Option<Duration>,
    /// Why, for whoever looks at the split later
    #[arg(long, value_name = "TEXT", default_value = "set by hand")]
    reason: String,
    /// How long to wait for the edges
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = crate::token::duration)]
    timeout: Duration,
}

/// A share as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    prefix: String,
    share: Percent,
}

/// Reads `RELEASE=PERCENT`.
fn wanted(text: &str) -> Result<Wanted, String> {
    let (prefix, share) = text
        .split_once('=')
        .ok_or("write it as RELEASE=PERCENT, such as 1a2b3c=5%")?;
    if prefix.is_empty() {
        return Err("no release is named before the `=`".to_owned());
    }
    Ok(Wanted {
        prefix: prefix.to_owned(),
        share: share
            .parse()
            .map_err(|e: settings::quantity::QuantityError| e.to_string())?,
    })
}

/// One release's share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ShareView {
    release: String,
    basis_points: u16,
    expires_unix_ms: Option<u64>,
}

/// One edge's word on the split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct AckView {
    edge: String,
    generation: u64,
    expired: bool,
}

/// The split, as it is wished for and as it is in force.
#[derive(Clone, Debug, Serialize)]
struct Split {
    generation: u64,
    stable: String,
    shares: Vec<ShareView>,
    effective: BTreeMap<String, u16>,
    acks: Vec<AckView>,
    #[serde(skip)]
    text: SplitText,
}

/// What the text tells beside what scripts are given.
#[derive(Clone, Debug, Default)]
struct SplitText {
    author: String,
    reason: String,
    now_unix_ms: u64,
}

/// Shows or sets.
pub(crate) async fn run(ctx: &Context, args: TrafficArgs) -> Result<Exit> {
    match args.what {
        None => show(ctx).await,
        Some(What::Set(args)) => set(ctx, args).await,
    }
}

async fn show(ctx: &Context) -> Result<Exit> {
    let mut follower = watch_fleet(ctx.store().await?.clone());
    let fleet = look(&mut follower).await?;
    ctx.out.report(&view(&fleet)?, Exit::DONE)
}

pub(crate) type Follower = tokio::sync::watch::Receiver<Arc<Fleet>>;

/// Waits for the first whole look at the fleet.
pub(crate) async fn look(follower: &mut Follower) -> Result<Arc<Fleet>> {
    tokio::time::timeout(LOOK_MAX, synced(follower))
        .await
        .context("the store did not answer in time")
}

async fn set(ctx: &Context, args: SetArgs) -> Result<Exit> {
    let registry = ctx.registry().await?;
    let mut follower = watch_fleet(registry.store().clone());
    let lock = lock(&registry).await?;
    let written = write(ctx, &args, &registry, &mut follower, &lock).await;
    // Given back before anything else, so that a mistake does not keep rollouts away until the lock runs out.
    let released = lock.release().await;
    let acks = written?;
    released.context("cannot let rollouts in again")?;
    let split = view(&follower.borrow().clone())?;
    finish(ctx, &split, &acks, args.timeout)
}

/// Writes the split under the lock and waits for the edges.
async fn write(
    ctx: &Context,
    args: &SetArgs,
    registry: &Registry,
    follower: &mut Follower,
    lock: &store::LockGuard,
) -> Result<AckReport> {
    let fleet = look(follower).await?;
    let current = fleet.traffic.as_deref().ok_or_else(no_split)?;
    let order = Order::of(args)?;
    let split = compose(&order, current, &running(&fleet), registry::unix_ms())?;
    let written = registry.set_traffic(&split, &[lock.fence()]).await;
    let generation = written.context("cannot write how calls are split")?;
    ctx.out
        .progress("waiting for the edges to send by the new split");
    Ok(wait_until_acked(follower, generation, args.timeout).await)
}

fn finish(ctx: &Context, split: &Split, acks: &AckReport, waited: Duration) -> Result<Exit> {
    if acks.is_complete() {
        if acks.acked.is_empty() {
            ctx.out
                .step("no edge is up; the split counts from the next `sweetops up`");
        }
        return ctx.out.report(split, Exit::DONE);
    }
    Err(Failure::new(format!(
        "the split is written, but {} did not take it within {}",
        acks.missing.join(", "),
        format_duration(waited)
    ))
    .hint("`sweetops traffic` shows who has taken it, `sweetops logs EDGE` why one may not")
    .exit(Exit::TIMEOUT)
    .into())
}

fn no_split() -> Failure {
    Failure::new("nobody has said yet how calls are split").hint("`sweetops up` does")
}

/// Takes the lock of rollouts; refused while one is under way, also if nobody drives it at the moment.
async fn lock(registry: &Registry) -> Result<store::LockGuard> {
    let lock = registry
        .lock_deploy(AUTHOR, LOCK_TTL)
        .await
        .map_err(locked)?;
    if let Some(rollout) = registry
        .rollout()
        .await
        .context("cannot read the rollout")?
    {
        lock.release()
            .await
            .context("cannot let rollouts in again")?;
        return Err(busy(&format!("rollout {}", rollout.value.id)).into());
    }
    Ok(lock)
}

/// Why the lock of rollouts cannot be taken.
pub(crate) fn locked(error: registry::Error) -> anyhow::Error {
    match error {
        registry::Error::Store {
            source: store::Error::Held { holder, .. },
            ..
        } => busy(&holder).into(),
        error => anyhow::Error::from(error).context("cannot keep rollouts away"),
    }
}

fn busy(holder: &str) -> Failure {
    Failure::new(format!("{holder} is changing the fleet"))
        .hint("wait for it to end; `sweetops rollout` shows how far it is, `sweetops rollback` ends it")
        .exit(Exit::REFUSED)
}

/// Releases that ready apps run.
fn running(fleet: &Fleet) -> Vec<&str> {
    fleet
        .app_releases()
        .filter(|r| !fleet.ready_apps(r).is_empty())
        .collect()
}

/// What is asked for.
#[derive(Debug)]
struct Order<'a> {
    shares: &'a [Wanted],
    lease: Option<Duration>,
    reason: &'a str,
}

impl<'a> Order<'a> {
    fn of(args: &'a SetArgs) -> Result<Self> {
        match args.lease {
            Some(lease) if lease < LEASE_MIN => Err(usage(
                format!("a lease of {} is too short", format_duration(lease)),
                format!("take {} or more", format_duration(LEASE_MIN)),
            )),
            lease => Ok(Self {
                shares: &args.shares,
                lease,
                reason: &args.reason,
            }),
        }
    }
}

/// Makes the new split. Only a release that a ready app runs can be given a share: calls to any other would
/// have nowhere to go.
fn compose(order: &Order<'_>, current: &Traffic, running: &[&str], now: u64) -> Result<Traffic> {
    let expires = order
        .lease
        .map(|lease| now.saturating_add(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)));
    let mut split = Traffic::all_to(current.stable.as_str(), AUTHOR, order.reason);
    for wanted in order.shares {
        let release = resolve(&wanted.prefix, &current.stable, running)?;
        if release == current.stable {
            return Err(usage(
                format!("{} is the stable release", short(release)),
                "it gets what no other release has a share of; give the others theirs",
            ));
        }
        split = split.with_share(release, wanted.share.basis_points(), expires);
    }
    split.validate().map_err(|error| {
        Failure::new("this split cannot be")
            .source(error)
            .exit(Exit::USAGE)
    })?;
    Ok(split)
}

fn usage(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Failure::new(message).hint(hint).exit(Exit::USAGE).into()
}

/// Finds the one release that begins so.
fn resolve<'a>(prefix: &str, stable: &'a str, running: &[&'a str]) -> Result<&'a str> {
    let mut known: Vec<&str> = running.to_vec();
    known.push(stable);
    known.sort_unstable();
    known.dedup();
    if let Some(exact) = known.iter().find(|release| **release == prefix) {
        return Ok(exact);
    }
    let list = known
        .iter()
        .map(|r| short(r))
        .collect::<Vec<_>>()
        .join(", ");
    let mut found = known
        .into_iter()
        .filter(|release| release.starts_with(prefix));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(usage(
            format!("{prefix:?} begins more than one release"),
            format!("write more of it; these run: {list}"),
        )),
        (None, _) => Err(usage(
            format!("no ready app runs a release {prefix:?}"),
            format!("these run: {list}"),
        )),
    }
}

fn view(fleet: &Fleet) -> Result<Split> {
    let traffic = fleet.traffic.as_deref().ok_or_else(no_split)?;
    let now_unix_ms = registry::unix_ms();
    let acks = fleet.live(registry::Role::Edge).map(|edge| {
        let ack = fleet.acks.get(&edge.name);
        AckView {
            edge: edge.name.clone(),
            generation: ack.map_or(0, |ack| ack.generation),
            expired: ack.is_some_and(|ack| ack.expired),
        }
    });
    let share = |share: &registry::Share| ShareView {
        release: share.release.clone(),
        basis_points: share.basis_points,
        expires_unix_ms: share.expires_unix_ms,
    };
    Ok(Split {
        generation: fleet.generation,
        stable: traffic.stable.clone(),
        shares: traffic.shares.iter().map(share).collect(),
        effective: traffic.effective(now_unix_ms).into_iter().collect(),
        acks: acks.collect(),
        text: SplitText {
            author: traffic.author.clone(),
            reason: traffic.reason.clone(),
            now_unix_ms,
        },
    })
}

impl Report for Split {
    fn text(&self, color: bool) -> String {
        let percent = |release: &str| {
            let basis_points = self.effective.get(release).copied().unwrap_or(0);
            Percent::from_basis_points(basis_points).to_string()
        };
        let row = |release: &str, role: String| {
            vec![
                (None, short(release).to_owned()),
                (None, percent(release)),
                (None, role),
            ]
        };
        let mut rows = vec![row(&self.stable, "stable".to_owned())];
        rows.extend(
            self.shares
                .iter()
                .map(|s| row(&s.release, self.lease_of(s))),
        );
        let mut text = table(color, &["RELEASE", "CALLS", "SHARE"], &rows);
        text.push_str(&format!(
            "\ngeneration {} by {} ({})\n",
            self.generation, self.text.author, self.text.reason
        ));
        for ack in &self.acks {
            text.push_str(&ack.text(self.generation, color));
        }
        text
    }
}

impl Split {
    fn lease_of(&self, share: &ShareView) -> String {
        let given = Percent::from_basis_points(share.basis_points);
        match share.expires_unix_ms {
            None => format!("{given}, until changed"),
            Some(end) if end <= self.text.now_unix_ms => format!("{given}, run out"),
            Some(end) => {
                let left = end.saturating_sub(self.text.now_unix_ms).div_ceil(1000);
                let left = format_duration(Duration::from_secs(left));
                format!("{given}, for {left} more")
            }
        }
    }
}

impl AckView {
    fn text(&self, generation: u64, color: bool) -> String {
        let (tone, word) = match (self.generation >= generation, self.expired) {
            (false, _) => (Tone::Warn, "has not taken it yet"),
            (true, true) => (
                Tone::Warn,
                "sends everything to stable: a lease has run out",
            ),
            (true, false) => (Tone::Good, "sends by it"),
        };
        format!("{} {}\n", self.edge, paint(color, tone, word))
    }
}

#[cfg(test)]
mod tests {
    use registry::{Ack, Instance, Role};

    use super::*;
    use crate::failure::tell;

    const STABLE: &str = "aa11aa11aa11aa11";
    const CANDIDATE: &str = "ab22ab22ab22ab22";

    fn set(words: &[&str], lease: Option<Duration>) -> Result<Traffic> {
        let shares: Vec<Wanted> = words.iter().map(|w| wanted(w).unwrap()).collect();
        let order = Order {
            shares: &shares,
            lease,
            reason: "why",
        };
        let current = Traffic::all_to(STABLE, "x", "y").with_share("gone", 100, None);
        compose(&order, &current, &[STABLE, CANDIDATE], 1000)
    }

    #[test]
    fn a_split_replaces_the_shares_and_keeps_stable() {
        let lease = Some(Duration::from_secs(30));
        let expected = |end| Traffic::all_to(STABLE, AUTHOR, "why").with_share(CANDIDATE, 500, end);
        assert_eq!(set(&["ab=5%"], None).unwrap(), expected(None));
        assert_eq!(set(&["ab22=5%"], lease).unwrap(), expected(Some(31_000)));
        let reset = Traffic::all_to(STABLE, AUTHOR, "why");
        assert_eq!(set(&[], None).unwrap(), reset);
    }

    #[test]
    fn what_cannot_be_split_is_refused_as_wrong_usage() {
        for (words, said) in [
            (&["a=5%"][..], "\"a\" begins more than one release"),
            (&["aa=5%"], "aa11aa11aa11 is the stable release"),
            (&["gone=5%"], "no ready app runs a release \"gone\""),
            (&["ab=5%", "ab2=5%"], "this split cannot be"),
        ] {
            let told = tell(&set(words, None).unwrap_err());
            assert_eq!(told.lines[0], said);
            assert_eq!(told.exit, Exit::USAGE);
        }
    }

    #[test]
    fn a_share_is_a_release_and_a_percentage() {
        let share = wanted("ab=0.25%").unwrap();
        assert_eq!(share.share.basis_points(), 25);
        for broken in ["ab", "=5%", "ab=5", "ab=101%", "ab=x%"] {
            assert!(wanted(broken).is_err(), "{broken}");
        }
    }

    #[tokio::test]
    async fn a_rollout_under_way_is_not_disturbed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store::Store::open_sqlite(&folder.path().join("store.db"))
            .await
            .unwrap();
        let registry = Registry::new(store);
        let rollout = registry.lock_deploy("ana's rollout", LOCK_TTL);
        let rollout = rollout.await.unwrap();
        let told = tell(&lock(&registry).await.unwrap_err());
        assert_eq!(told.lines, ["ana's rollout is changing the fleet"]);
        assert_eq!(told.exit.code, 6);
        rollout.release().await.unwrap();
        lock(&registry).await.unwrap().release().await.unwrap();
    }

    fn fleet() -> Fleet {
        let mut fleet = Fleet::default();
        let edges = [
            ("edge-1", 7, false),
            ("edge-2", 6, false),
            ("edge-3", 7, true),
        ];
        for (name, generation, expired) in edges {
            let edge = Instance::new(Role::Edge, name, "e", "127.0.0.1:1");
            fleet.instances.push(Arc::new(edge));
            let ack = Ack {
                generation,
                at_unix_ms: 0,
                expired,
            };
            fleet.acks.insert(name.to_owned(), ack);
        }
        fleet.generation = 7;
        let split = Traffic::all_to(STABLE, "ana", "a look").with_share(CANDIDATE, 525, None);
        fleet.traffic = Some(Arc::new(split.with_share("old", 100, Some(5))));
        fleet
    }

    #[test]
    fn people_see_who_gets_what_and_which_edges_send_so() {
        insta::assert_snapshot!(view(&fleet()).unwrap().text(false), @r"
        RELEASE       CALLS   SHARE
        aa11aa11aa11  94.75%  stable
        ab22ab22ab22  5.25%   5.25%, until changed
        old           0%      1%, run out

        generation 7 by ana (a look)
        edge-1 sends by it
        edge-2 has not taken it yet
        edge-3 sends everything to stable: a lease has run out
        ");
    }

    #[test]
    fn scripts_are_given_exactly_the_agreed_members() {
        let json = serde_json::to_value(view(&fleet()).unwrap()).unwrap();
        let members: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(
            members,
            ["acks", "effective", "generation", "shares", "stable"]
        );
        assert_eq!(
            json["effective"],
            serde_json::json!({STABLE: 9475, CANDIDATE: 525})
        );
        assert_eq!(json["shares"][1]["expires_unix_ms"], 5);
        assert_eq!(
            json["acks"][1],
            serde_json::json!({"edge": "edge-2", "generation": 6, "expired": false})
        );
    }
}
