//! What operators and rollouts want of this machine's processes, kept current.
//!
//! Two things are followed in the store: the wanted pools, and requests to replace a process. While the store
//! is out, the last known wishes stay in force: a fleet does not fall because its notebook is away.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Backoff, Desired, Registry};
use store::Store;
use tokio::sync::watch;

/// `restarts/{instance}`: when its replacement was asked for, in milliseconds of Unix time.
const RESTARTS: &str = "restarts/";
/// Where the wanted pools are ([`Registry::desired`] reads them; this only tells that they changed).
const FLEET: &str = "fleet/";

/// Waits while the store is out.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// The wanted pools.
    pub(crate) desired: Desired,
    /// Instances to be replaced if they were started before the time given.
    pub(crate) restarts: BTreeMap<String, u64>,
}

/// Reads the wishes once.
pub(crate) async fn read(registry: &Registry) -> Result<Wishes> {
    let desired = registry
        .desired()
        .await
        .context("cannot read what should run")?;
    let range = registry
        .store()
        .range(RESTARTS)
        .await
        .context("cannot read the requests to restart")?;
    let restart = |entry: store::Entry| {
        let name = entry.key.strip_prefix(RESTARTS)?.to_owned();
        let at = std::str::from_utf8(&entry.value).ok()?.parse().ok()?;
        Some((name, at))
    };
    Ok(Wishes {
        desired: desired.map(|found| found.value).unwrap_or_default(),
        restarts: range.entries.into_iter().filter_map(restart).collect(),
    })
}

/// Follows the wishes until every receiver is dropped, beginning with those already read.
pub(crate) fn follow(store: Store, first: Wishes) -> watch::Receiver<Wishes> {
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            let told = async {
                let error = watch_once(&store, &sender, &mut backoff).await;
                let pause = backoff.wait();
                tracing::warn!(
                    error = format!("{error:#}"),
                    "lost sight of what should run; keeping the last known"
                );
                tokio::time::sleep(pause).await;
            };
            tokio::select! {
                () = sender.closed() => return,
                () = told => {}
            }
        }
    });
    receiver
}

/// Reads, and reads again after each change, until the store fails.
async fn watch_once(
    store: &Store,
    sender: &watch::Sender<Wishes>,
    backoff: &mut Backoff,
) -> anyhow::Error {
    let registry = Registry::new(store.clone());
    let mut follow = async || -> Result<std::convert::Infallible> {
        let after = store.range(FLEET).await?.revision;
        let (mut fleet, mut restarts) = (store.watch(FLEET, after), store.watch(RESTARTS, after));
        loop {
            let found = read(&registry).await?;
            backoff.reset();
            sender.send_if_modified(|known| {
                let changed = *known != found;
                *known = found;
                changed
            });
            let batch = tokio::select! {
                batch = fleet.next_batch() => batch,
                batch = restarts.next_batch() => batch,
            };
            batch.context("the store ended the watch")??;
        }
    };
    match follow().await {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// Asks for the replacement of an instance that runs now.
pub(crate) async fn request_restart(store: &Store, instance: &str) -> Result<()> {
    let name = registry::check_name(instance)?;
    store
        .put(
            &format!("{RESTARTS}{name}"),
            registry::unix_ms().to_string().into_bytes(),
            None,
        )
        .await
        .with_context(|| format!("cannot ask for the restart of {instance}"))?;
    Ok(())
}

/// Takes a request back, because it has been met or is void.
pub(crate) async fn clear_restart(store: &Store, instance: &str) -> Result<()> {
    store
        .delete(&format!("{RESTARTS}{instance}"))
        .await
        .with_context(|| format!("cannot clear the request to restart {instance}"))?;
    Ok(())
}
