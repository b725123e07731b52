//! What a plugin shows to the rest of the app: its state, and what it offers or offered when it was last up.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::{
    Listing, State,
    failing::{Failing, Failures},
};

/// State and lists of one plugin, with somebody to tell of every change.
#[derive(Debug)]
pub(crate) struct Shown {
    listing: ArcSwap<Listing>,
    state: Mutex<State>,
    failures: Failures,
    changed: Arc<Notify>,
}

impl Shown {
    /// Begins as starting, with nothing on offer. `changed` is told of every change.
    pub(crate) fn new(changed: &Arc<Notify>) -> Self {
        Self {
            listing: ArcSwap::default(),
            state: Mutex::new(State::Starting),
            failures: Failures::default(),
            changed: Arc::clone(changed),
        }
    }

    /// Returns what is offered, or was.
    pub(crate) fn listing(&self) -> Arc<Listing> {
        self.listing.load_full()
    }

    /// Returns the state.
    pub(crate) fn state(&self) -> State {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns how often the plugin failed for a reason.
    pub(crate) fn failures(&self, why: Failing) -> u64 {
        self.failures.of(why)
    }

    /// Sets the state.
    pub(crate) fn set_state(&self, state: State) {
        if let State::Restarting { failing, .. } = &state {
            self.failures.count(*failing);
        }
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_one();
    }

    /// Sets what is offered, without changing the state.
    pub(crate) fn set_listing(&self, listing: Listing) {
        self.listing.store(Arc::new(listing));
        self.changed.notify_one();
    }
}
