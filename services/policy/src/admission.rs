//! Room for one more call: a bound on calls in flight.
//!
//! Memory and tail latency grow with the number of calls in flight, so that number is bounded, and a call beyond it is
//! refused while refusing is still cheap. The [`Permit`] is the proof of admission: later stages ask for it in their
//! signature, and dropping it, on whatever path, frees the place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A counter of calls in flight with an upper bound. Cloning it is cheap and shares the counter.
#[derive(Debug, Clone)]
pub struct Gate(Arc<State>);

#[derive(Debug)]
struct State {
    in_flight_max: usize,
    in_flight: AtomicUsize,
    refused: AtomicU64,
}

/// A place inside the gate, freed on drop.
#[derive(Debug)]
#[must_use = "the place is freed when the permit is dropped"]
pub struct Permit(Arc<State>);

/// The gate is full: the call may be tried again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{in_flight_max} calls are in flight, which is the limit")]
pub struct Full {
    /// The bound that was reached, in calls.
    pub in_flight_max: usize,
}

impl Gate {
    /// Builds a gate for at most `in_flight_max` calls at once; 0 closes it.
    #[must_use]
    pub fn new(in_flight_max: usize) -> Self {
        Self(Arc::new(State {
            in_flight_max,
            in_flight: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Takes a place, or says that there is none.
    ///
    /// # Errors
    /// [`Full`] when `in_flight_max` permits are held.
    pub fn enter(&self) -> Result<Permit, Full> {
        let State {
            in_flight_max,
            in_flight,
            refused,
        } = &*self.0;
        let one_more = |count: usize| (count < *in_flight_max).then_some(count + 1);
        match in_flight.fetch_update(Ordering::Acquire, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Permit(Arc::clone(&self.0))),
            Err(_) => {
                refused.fetch_add(1, Ordering::Relaxed);
                Err(Full {
                    in_flight_max: *in_flight_max,
                })
            }
        }
    }

    /// Calls that hold a permit now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// Calls refused since the gate was built.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_frees_its_place() {
        let gate = Gate::new(2);
        let first = gate.enter().unwrap();
        let _second = gate.enter().unwrap();
        assert_eq!(gate.enter().unwrap_err(), Full { in_flight_max: 2 });
        assert_eq!((gate.in_flight(), gate.refused()), (2, 1));
        drop(first);
        assert_eq!(gate.in_flight(), 1);
        let _third = gate.enter().unwrap();
        assert!(Gate::new(0).enter().is_err());
    }

    #[test]
    fn threads_never_exceed_the_bound() {
        let gate = Gate::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let permit = gate.enter();
                        assert!(gate.in_flight() <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(gate.in_flight(), 0);
    }
}
