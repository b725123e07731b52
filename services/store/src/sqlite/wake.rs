//! Wakes watchers when something was committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Shared by writer, reader and watchers of one handle.
#[derive(Clone)]
pub(super) struct Wake {
    commits: Arc<watch::Sender<u64>>,
    watchers: Arc<AtomicUsize>,
}

impl Default for Wake {
    fn default() -> Self {
        Self {
            commits: Arc::new(watch::Sender::new(0)),
            watchers: Arc::default(),
        }
    }
}

impl Wake {
    /// Tells the watchers to look.
    pub(super) fn wake(&self) {
        self.commits
            .send_modify(|commits| *commits = commits.wrapping_add(1));
    }

    /// Whether anybody would look.
    pub(super) fn has_watchers(&self) -> bool {
        self.watchers.load(Ordering::Acquire) > 0
    }

    /// Counts one watcher more, until dropped.
    pub(super) fn watcher(&self) -> Watcher {
        self.watchers.fetch_add(1, Ordering::AcqRel);
        Watcher {
            commits: self.commits.subscribe(),
            watchers: Arc::clone(&self.watchers),
        }
    }
}

/// One watcher's ear.
pub(super) struct Watcher {
    commits: watch::Receiver<u64>,
    watchers: Arc<AtomicUsize>,
}

impl Watcher {
    /// Forgets the commits so far: call before looking.
    pub(super) fn mark_seen(&mut self) {
        self.commits.mark_unchanged();
    }

    /// Waits for a commit since the last [`Watcher::mark_seen`]; false if there will be none.
    pub(super) async fn changed(&mut self) -> bool {
        self.commits.changed().await.is_ok()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.fetch_sub(1, Ordering::AcqRel);
    }
}
