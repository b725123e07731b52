//! Tells the store how the processes fare, without ever holding up their supervision.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Backoff, Process, Registry};
use tokio::sync::watch;

/// Process records by instance.
pub(crate) type Processes = BTreeMap<String, Process>;

/// Keeps the store's process records like the last value sent, until the sender is dropped.
pub(crate) async fn publish(registry: Registry, mut processes: watch::Receiver<Processes>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    // What the store has; unknown at first, and again after a failure.
    let mut stored: Option<Processes> = None;
    loop {
        let wanted = processes.borrow_and_update().clone();
        match bring(&registry, stored.take(), &wanted).await {
            Ok(()) => {
                stored = Some(wanted);
                backoff.reset();
                if processes.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot tell the store about the processes"
                );
                tokio::time::sleep(backoff.wait()).await;
                if processes.has_changed().is_err() {
                    return;
                }
            }
        }
    }
}

/// Writes what differs.
pub(crate) async fn bring(
    registry: &Registry,
    stored: Option<Processes>,
    wanted: &Processes,
) -> Result<()> {
    let stored = match stored {
        Some(stored) => stored,
        None => {
            let found = registry
                .processes()
                .await
                .context("cannot read the process records")?;
            found.into_iter().map(|p| (p.name.clone(), p)).collect()
        }
    };
    for (name, process) in wanted {
        if stored.get(name) != Some(process) {
            registry.put_process(process).await?;
        }
    }
    for name in stored.keys().filter(|name| !wanted.contains_key(*name)) {
        registry.delete_process(name).await?;
    }
    Ok(())
}
