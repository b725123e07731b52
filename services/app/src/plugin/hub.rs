//! Who listens for changes, and what each has not been told yet.
//!
//! A listener has no queue but a mailbox of flags: that a list changed is told once however often it changed, and so is each
//! resource. What a slow reader costs is therefore fixed when it begins to listen.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

/// What a listener wants to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Changes of the list of tools.
    pub tools: bool,
    /// Changes of the list of prompts.
    pub prompts: bool,
    /// Changes of the lists of resources and templates.
    pub resources: bool,
    /// Updates of these resources.
    pub uris: Vec<Arc<str>>,
}

/// A change, as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The list of tools.
    Tools,
    /// The list of prompts.
    Prompts,
    /// The lists of resources and templates.
    Resources,
    /// One resource's content.
    Updated(Arc<str>),
}

/// All listeners of this process.
#[derive(Debug, Default)]
pub struct Hub {
    known: Mutex<Known>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    listeners: HashMap<u64, Arc<Mailbox>>,
    /// Whom an update of a resource concerns.
    by_uri: HashMap<Arc<str>, Vec<Arc<Mailbox>>>,
}

#[derive(Debug)]
struct Mailbox {
    id: u64,
    wants: Filter,
    untold: Mutex<Untold>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Untold {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: BTreeSet<Arc<str>>,
}

impl Mailbox {
    fn put(&self, change: &Change) {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = match change {
            Change::Tools => {
                untold.tools |= self.wants.tools;
                self.wants.tools
            }
            Change::Prompts => {
                untold.prompts |= self.wants.prompts;
                self.wants.prompts
            }
            Change::Resources => {
                untold.resources |= self.wants.resources;
                self.wants.resources
            }
            // Only those who asked for it are found under its URI.
            Change::Updated(uri) => untold.uris.insert(Arc::clone(uri)),
        };
        drop(untold);
        if wanted {
            self.wake.notify_one();
        }
    }

    fn take(&self) -> Option<Change> {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut untold.tools) {
            return Some(Change::Tools);
        }
        if std::mem::take(&mut untold.prompts) {
            return Some(Change::Prompts);
        }
        if std::mem::take(&mut untold.resources) {
            return Some(Change::Resources);
        }
        untold.uris.pop_first().map(Change::Updated)
    }
}

impl Hub {
    /// Takes a listener in.
    pub fn listen(self: &Arc<Self>, wants: Filter) -> Listener {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mailbox = Arc::new(Mailbox {
            id,
            wants,
            untold: Mutex::default(),
            wake: Notify::new(),
        });
        let mut known = self.known();
        known.listeners.insert(id, Arc::clone(&mailbox));
        for uri in &mailbox.wants.uris {
            let concerned = known.by_uri.entry(Arc::clone(uri)).or_default();
            concerned.push(Arc::clone(&mailbox));
        }
        drop(known);
        Listener {
            hub: Arc::clone(self),
            mailbox,
        }
    }

    /// Tells everybody whom it concerns.
    pub fn announce(&self, change: &Change) {
        let known = self.known();
        match change {
            Change::Updated(uri) => {
                for mailbox in known.by_uri.get(uri).into_iter().flatten() {
                    mailbox.put(change);
                }
            }
            _ => known
                .listeners
                .values()
                .for_each(|mailbox| mailbox.put(change)),
        }
    }

    /// Returns how many listen.
    pub fn listeners(&self) -> usize {
        self.known().listeners.len()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who listens, until it is dropped.
#[derive(Debug)]
pub struct Listener {
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
}

impl Listener {
    /// Returns what it is told.
    pub fn wants(&self) -> &Filter {
        &self.mailbox.wants
    }

    /// Waits for the next change. May be dropped and called again.
    pub async fn next(&self) -> Change {
        loop {
            match self.mailbox.take() {
                Some(change) => return change,
                None => self.mailbox.wake.notified().await,
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut known = self.hub.known();
        known.listeners.remove(&self.mailbox.id);
        for uri in &self.mailbox.wants.uris {
            if let Some(concerned) = known.by_uri.get_mut(uri) {
                concerned.retain(|other| other.id != self.mailbox.id);
                if concerned.is_empty() {
                    known.by_uri.remove(uri);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn each_is_told_what_it_wants_once_and_nothing_after_it_left() {
        let hub = Arc::new(Hub::default());
        let tools = hub.listen(Filter {
            tools: true,
            ..Filter::default()
        });
        let both = hub.listen(Filter {
            prompts: true,
            uris: vec!["x://a".into(), "x://b".into()],
            ..Filter::default()
        });
        for change in [
            Change::Tools,
            Change::Tools,
            Change::Prompts,
            Change::Updated("x://a".into()),
            Change::Updated("x://a".into()),
            Change::Updated("x://c".into()),
            Change::Resources,
        ] {
            hub.announce(&change);
        }
        let told = |listener: &Listener| -> Vec<Change> {
            std::iter::from_fn(|| listener.next().now_or_never()).collect()
        };
        assert_eq!(told(&tools), [Change::Tools]);
        assert_eq!(
            told(&both),
            [Change::Prompts, Change::Updated("x://a".into())]
        );
        drop((tools, both));
        assert_eq!(hub.listeners(), 0);
        assert!(hub.known().by_uri.is_empty());
    }
}
