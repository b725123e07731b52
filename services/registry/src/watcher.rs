//! Keeps a [`Fleet`] current, and keeps the last one while the store is out.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::select_all;
use store::{Event, Range, Store};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fleet::Fold;
use crate::{Backoff, Fleet, unix_ms};

/// Ceilings of the waits while the store is out.
const BACKOFF_BASE: Duration = Duration::from_millis(50);
const BACKOFF_CAP: Duration = Duration::from_secs(2);

/// Most events that are folded before the fleet is told.
const EVENTS_MAX: usize = 256;

/// Follows the fleet in the background until every receiver is dropped. Must be called within a Tokio runtime.
///
/// The first value is an empty fleet that is not synced; see [`synced`].
#[must_use]
pub fn watch_fleet(store: Store) -> watch::Receiver<Arc<Fleet>> {
    let (fleet, receiver) = watch::channel(Arc::new(Fleet::default()));
    tokio::spawn(async move {
        let mut follower = Follower {
            store,
            fold: Fold::default(),
            backoff: new_backoff(),
            fleet,
        };
        follower.run().await;
    });
    receiver
}

/// Waits until the store was read once, and takes the fleet as it is then.
pub async fn synced(fleet: &mut watch::Receiver<Arc<Fleet>>) -> Arc<Fleet> {
    match fleet.wait_for(|fleet| fleet.is_synced).await {
        Ok(found) => Arc::clone(&found),
        // The follower never ends before its receivers.
        Err(_) => Arc::default(),
    }
}

fn new_backoff() -> Backoff {
    Backoff::new(BACKOFF_BASE, BACKOFF_CAP)
}

struct Follower {
    store: Store,
    fold: Fold,
    backoff: Backoff,
    fleet: watch::Sender<Arc<Fleet>>,
}

impl Follower {
    async fn run(&mut self) {
        loop {
            let fleet = self.fleet.clone();
            let error = tokio::select! {
                () = fleet.closed() => return,
                error = self.follow() => error,
            };
            if !matches!(error, store::Error::Compacted { .. })
                && self.fold.stale_since_unix_ms.is_none()
            {
                self.fold.stale_since_unix_ms = Some(unix_ms());
                self.tell();
            }
            let pause = self.backoff.wait();
            tracing::warn!(error = %error, retry_in_ms = pause.as_millis(), "lost sight of the fleet; keeping the last known");
            tokio::select! {
                () = fleet.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads all, then follows changes, until something fails.
    async fn follow(&mut self) -> store::Error {
        let ranges = match self.read_all().await {
            Ok(ranges) => ranges,
            Err(error) => return error,
        };
        self.fold.replace(&ranges, Instant::now());
        self.backoff.reset();
        self.tell();
        let watches = Fold::PREFIXES
            .iter()
            .zip(&ranges)
            .map(|(prefix, range)| self.store.watch(prefix, range.revision));
        let mut changes = select_all(watches).ready_chunks(EVENTS_MAX);
        loop {
            let next_change = self.fold.next_change();
            tokio::select! {
                events = changes.next() => match events.map(|events| self.apply(events)) {
                    Some(Ok(())) => {}
                    Some(Err(error)) => return error,
                    None => return store::Error::Closed,
                },
                () = until(next_change) => {}
            }
            self.tell();
        }
    }

    async fn read_all(&self) -> store::Result<Vec<Range>> {
        let mut ranges = Vec::with_capacity(Fold::PREFIXES.len());
        for prefix in Fold::PREFIXES {
            ranges.push(self.store.range(prefix).await?);
        }
        Ok(ranges)
    }

    fn apply(&mut self, events: Vec<store::Result<Event>>) -> store::Result<()> {
        let now = Instant::now();
        events.into_iter().try_for_each(|event| {
            self.fold.apply(&event?, now);
            Ok(())
        })
    }

    fn tell(&mut self) {
        self.fleet
            .send_replace(Arc::new(self.fold.fleet(Instant::now())));
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
