//! Whether the edge takes traffic, and what is still under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// Readiness, drain and the count of requests under way.
#[derive(Debug, Clone, Default)]
pub struct Life(Arc<State>);

#[derive(Debug, Default)]
struct State {
    ready: AtomicBool,
    draining: AtomicBool,
    in_flight: AtomicUsize,
    idle: Notify,
    drains: Notify,
}

/// One request under way; ends when dropped.
#[derive(Debug)]
pub struct InFlight(Arc<State>);

impl Life {
    /// Says that the edge can serve: it knows its backends and is registered.
    pub fn set_ready(&self) {
        self.0.ready.store(true, Ordering::Release);
    }

    /// Begins the end: not ready any more, every answer closes its connection.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
        self.0.drains.notify_waiters();
    }

    /// Whether traffic should come here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire) && !self.is_draining()
    }

    /// Whether the edge is on its way out.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Waits until the edge is on its way out.
    pub async fn draining(self) {
        let notified = self.0.drains.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_draining() {
            notified.await;
        }
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Acquire)
    }

    /// Counts a request in.
    #[must_use]
    pub fn enter(&self) -> InFlight {
        self.0.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(Arc::clone(&self.0))
    }

    /// Waits until nothing is under way; `false` if that took longer than `limit`.
    pub async fn wait_idle(&self, limit: Duration) -> bool {
        let idle = async {
            loop {
                let notified = self.0.idle.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                if self.in_flight() == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_drain_waits_for_the_last_request() {
        let life = Life::default();
        life.set_ready();
        assert!(life.is_ready());
        let request = life.enter();
        life.drain();
        assert!(!life.is_ready());
        assert!(!life.wait_idle(Duration::from_secs(1)).await);
        let waiter = tokio::spawn({
            let life = life.clone();
            async move { life.wait_idle(Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        drop(request);
        assert!(waiter.await.unwrap());
    }
}
