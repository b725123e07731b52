//! May this caller do this now? First its rate, then whether there is room at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp::{Cause, Failure, Method};
use policy::admission::Gate;
use policy::limit::{self, Limiter, RulesError, Verdict};

use crate::edge::Edge;
use crate::identity::Caller;

/// When to come back after a refusal for want of room.
const COME_BACK: Duration = Duration::from_secs(1);

/// Clients that listen for changes at once.
const LISTENERS_MAX: usize = 16_384;

/// The limits that all calls pass.
#[derive(Debug)]
pub struct Admission {
    limiter: Limiter,
    gate: Gate,
    /// Whoever only listens takes no place of a call.
    listeners: Gate,
}

/// The right to be under way; held by the call until it has its answer.
#[derive(Debug)]
pub struct Permit {
    _place: policy::admission::Permit,
}

impl Admission {
    /// Limits by the settings.
    ///
    /// # Errors
    /// When the rate is out of range.
    pub fn new(settings: &settings::Edge, now: Instant) -> Result<Admission, RulesError> {
        let rules = limit::Rules::per_second(settings.rate.per_second, settings.rate.burst);
        Ok(Admission {
            limiter: Limiter::new(rules, now)?,
            gate: Gate::new(settings.http.in_flight_max),
            listeners: Gate::new(LISTENERS_MAX),
        })
    }

    /// Calls under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.gate.in_flight()
    }
}

/// Admits a call, or says why not.
///
/// # Errors
/// [`Cause::RateLimited`] with the time after which the same call would pass; [`Cause::Overloaded`].
pub fn admit(edge: &Edge, caller: &Arc<Caller>, method: &Method) -> Result<Permit, Failure> {
    let verdict = edge
        .admission
        .limiter
        .check(caller.key(), 1, Instant::now());
    if let Verdict::Deny { retry_after, .. } = verdict {
        edge.counters.rate_limited();
        let failure = Failure::new(Cause::RateLimited);
        return Err(match retry_after {
            Some(after) => failure.retry_after(after),
            None => failure,
        });
    }
    let gate = match method {
        Method::SubscriptionsListen => &edge.admission.listeners,
        _ => &edge.admission.gate,
    };
    let place = gate
        .enter()
        .map_err(|_| Failure::new(Cause::Overloaded).retry_after(COME_BACK))?;
    Ok(Permit { _place: place })
}
