//! How far the process is in its life, and what that means for probes.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, Ordering},
};

use tokio_util::sync::CancellationToken;

/// How far the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It prepares; send nothing.
    Starting,
    /// It takes calls.
    Ready,
    /// It finishes what it has; send nothing new.
    Draining,
}

impl Phase {
    /// Returns the word for probes and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// The process's life, shared by whoever decides it and whoever reports it. Only ever goes forward.
#[derive(Debug, Clone, Default)]
pub struct Life(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    phase: AtomicU8,
    waiting_for: Mutex<Vec<String>>,
    draining: CancellationToken,
}

impl Life {
    /// Returns how far the process is.
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// Says what the start-up waits for.
    pub fn waiting_for(&self, what: Vec<String>) {
        *self
            .0
            .waiting_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// Returns what the start-up waits for.
    pub fn awaited(&self) -> Vec<String> {
        self.0
            .waiting_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Says that calls are taken from now on.
    pub fn ready(&self) {
        self.waiting_for(Vec::new());
        self.0.phase.fetch_max(1, Ordering::AcqRel);
    }

    /// Returns what is cancelled when no new calls are wanted any more.
    pub fn draining(&self) -> CancellationToken {
        self.0.draining.clone()
    }

    /// Says that no new calls are wanted from now on.
    pub fn drain(&self) {
        self.0.phase.fetch_max(2, Ordering::AcqRel);
        self.0.draining.cancel();
    }
}
