//! May this caller do this now? First its rate, then its tenant's quota, then whether there is room, now or soon.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mcp::{Call, Cause, Failure, Method};
use policy::admission::Gate;
use policy::fair::{COST_MAX, Class, Facts, Refusal};
use policy::limit::{self, Limiter, RulesError, Verdict};

use crate::context::Context;
use crate::edge::Edge;
use crate::identity::Caller;
use crate::ledger::Reservation;
use crate::room::{Figures, Place, Room};

/// When to come back after a refusal for want of room.
const COME_BACK: Duration = Duration::from_secs(1);

/// Clients that listen for changes at once.
const LISTENERS_MAX: usize = 16_384;

/// Time in a place that one unit of a call's cost in the queue stands for.
const COST_UNIT: Duration = Duration::from_millis(10);

/// What fits every name that has no entry of its own.
const ANY: &str = "*";

/// The limits that all calls pass.
#[derive(Debug)]
pub struct Admission {
    limiter: Limiter,
    burst: u32,
    room: Arc<Room>,
    /// Whoever only listens takes no place of a call.
    listeners: Gate,
    streams: Streams,
    weights: HashMap<String, u32>,
    weight_other: u32,
    classes: Patterns<Class>,
    costs: Patterns<u32>,
    learn_costs: bool,
    /// Keyed at random, so that nobody can choose names that share a place in the round.
    tenants: RandomState,
}

/// The right to be under way; held by the call until it has its answer.
#[derive(Debug)]
pub struct Permit {
    _place: Option<Place>,
    _listens: Option<policy::admission::Permit>,
    _stream: Option<Arc<StreamPlace>>,
}

/// How many streams of changes each principal has open.
#[derive(Debug)]
struct Streams {
    most: usize,
    /// By principal; those that have none are not in it.
    open: Arc<Mutex<HashMap<u64, usize>>>,
}

/// A stream's place among those of its principal; freed on drop.
#[derive(Debug)]
pub struct StreamPlace {
    principal: u64,
    open: Arc<Mutex<HashMap<u64, usize>>>,
}

impl Streams {
    fn new(most: usize) -> Streams {
        Streams {
            most,
            open: Arc::default(),
        }
    }

    fn enter(&self, principal: u64) -> Option<StreamPlace> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(principal).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(StreamPlace {
            principal,
            open: Arc::clone(&self.open),
        })
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.principal);
            }
        }
    }
}

/// What is known of an admitted call beside its right to be under way.
#[derive(Debug)]
pub struct Admitted {
    /// What it costs.
    pub cost: u32,
    /// When it was let in.
    pub at: Instant,
    /// What it has of its tenant's quota, until it is in the account.
    _reserved: Option<Reservation>,
}

/// Values by tool: of the name itself, or else of the longest beginning that fits.
#[derive(Debug)]
pub(crate) struct Patterns<T> {
    exact: HashMap<String, T>,
    /// Longest first.
    beginnings: Vec<(String, T)>,
}

impl<T: Copy> Patterns<T> {
    pub(crate) fn new(patterns: impl IntoIterator<Item = (String, T)>) -> Patterns<T> {
        let (mut exact, mut beginnings) = (HashMap::new(), Vec::new());
        for (pattern, value) in patterns {
            match pattern.strip_suffix('*') {
                Some(beginning) => beginnings.push((beginning.to_owned(), value)),
                None => _ = exact.insert(pattern, value),
            }
        }
        beginnings.sort_by_key(|(beginning, _)| std::cmp::Reverse(beginning.len()));
        Patterns { exact, beginnings }
    }

    pub(crate) fn get(&self, name: &str) -> Option<T> {
        let begins = |(beginning, _): &&(String, T)| name.starts_with(beginning.as_str());
        self.exact
            .get(name)
            .or_else(|| Some(&self.beginnings.iter().find(begins)?.1))
            .copied()
    }
}

impl Admission {
    /// Limits by the settings.
    ///
    /// # Errors
    /// When the rate is out of range.
    pub fn new(settings: &settings::Edge, now: Instant) -> Result<Admission, RulesError> {
        let rules = limit::Rules::per_second(settings.rate.per_second, settings.rate.burst);
        let queue = &settings.queue;
        let class = |tools: &[String], class| -> Vec<_> {
            tools.iter().map(|tool| (tool.clone(), class)).collect()
        };
        let mut weights = numbers(&queue.weights);
        let critical = class(&queue.critical, Class::Critical);
        let background = class(&queue.background, Class::Background);
        Ok(Admission {
            limiter: Limiter::new(rules, now)?,
            burst: settings.rate.burst,
            room: Room::new(settings, now),
            listeners: Gate::new(LISTENERS_MAX),
            streams: Streams::new(settings.http.streams_max_principal),
            weight_other: weights.remove(ANY).unwrap_or(1),
            weights,
            classes: Patterns::new(critical.into_iter().chain(background)),
            costs: Patterns::new(numbers(&settings.cost.tools)),
            learn_costs: settings.cost.learn,
            tenants: RandomState::new(),
        })
    }

    /// Calls under way and waiting.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.room.figures()
    }

    /// A call was answered by an instance: `took` since it was let in, `bytes` long. `kind` is its tool, or its method.
    pub fn answered(&self, kind: &str, took: Duration, bytes: usize) {
        self.room.answered(kind, took, bytes, Instant::now());
    }

    /// What a call costs: what is declared, or else what was learnt, or else one.
    fn cost(&self, tool: Option<&str>) -> u32 {
        let Some(tool) = tool else { return 1 };
        let learnt = || {
            let usual = self.learn_costs.then(|| self.room.usual(tool))??;
            Some(usual.cost(1000))
        };
        self.costs.get(tool).or_else(learnt).unwrap_or(1)
    }

    /// The right to listen.
    fn listener(&self, context: &Context, caller: &Caller) -> Result<Permit, Failure> {
        // What a session's stream listens to is counted with the stream.
        let stream = match &context.stream {
            Some(stream) => Arc::clone(stream),
            None => self.stream(caller)?,
        };
        let listens = self.listeners.enter();
        let full = |_| Failure::new(Cause::Overloaded).retry_after(COME_BACK);
        Ok(Permit {
            _place: None,
            _listens: Some(listens.map_err(full)?),
            _stream: Some(stream),
        })
    }

    /// A place for one more stream of the caller's principal.
    ///
    /// # Errors
    /// [`Cause::RateLimited`] when it has as many open as one may.
    pub fn stream(&self, caller: &Caller) -> Result<Arc<StreamPlace>, Failure> {
        let full = || {
            let text = format!(
                "{} streams of this principal are open already: close one first",
                self.streams.most
            );
            Failure::say(Cause::RateLimited, text).retry_after(COME_BACK)
        };
        let place = self.streams.enter(caller.key());
        place.map(Arc::new).ok_or_else(full)
    }

    fn facts(&self, context: &Context, caller: &Caller, kind: &str, now: Instant) -> Facts {
        let weight = self.weights.get(&caller.tenant);
        let usual = self.room.usual(kind);
        let units = usual.map_or(1, |usual| {
            usual.time().as_millis() / COST_UNIT.as_millis() + 1
        });
        Facts {
            tenant: self.tenants.hash_one(&caller.tenant),
            weight: weight.copied().unwrap_or(self.weight_other),
            class: self.classes.get(kind).unwrap_or(Class::Normal),
            urgency: context.urgency,
            cost: u32::try_from(units).unwrap_or(COST_MAX).min(COST_MAX),
            needs: usual.map_or(Duration::ZERO, |usual| usual.quick()),
            deadline: context.deadline.at(),
            now,
        }
    }
}

fn numbers(written: &BTreeMap<String, u64>) -> HashMap<String, u32> {
    written
        .iter()
        .map(|(name, number)| (name.clone(), u32::try_from(*number).unwrap_or(u32::MAX)))
        .collect()
}

/// Admits a call, now or after it has waited for a place, or says why not. `tool` is its tool's name if it is known to the
/// catalogue.
///
/// # Errors
/// [`Cause::RateLimited`] with the time after which the same call would pass; [`Cause::QuotaExceeded`];
/// [`Cause::Overloaded`].
pub async fn admit(
    edge: &Edge,
    context: &Context,
    caller: &Arc<Caller>,
    call: &Call,
    tool: Option<&str>,
) -> Result<(Permit, Admitted), Failure> {
    let admission = &edge.admission;
    let cost = admission.cost(tool);
    let now = Instant::now();
    within_rate(edge, caller, cost, now).await?;
    let reserved = within_quota(edge, caller, cost)?;
    let admitted = |at| Admitted {
        cost,
        at,
        _reserved: reserved,
    };
    if call.method == Method::SubscriptionsListen {
        return Ok((admission.listener(context, caller)?, admitted(now)));
    }
    let facts = admission.facts(context, caller, tool.unwrap_or(call.method.label()), now);
    match admission.room.enter(&facts).await {
        Ok((place, waited)) => {
            edge.metrics.queued(facts.class.as_str(), waited);
            let permit = Permit {
                _place: Some(place),
                _listens: None,
                _stream: None,
            };
            Ok((permit, admitted(now + waited)))
        }
        Err(why) => {
            edge.metrics.shed(why.as_str(), facts.class.as_str());
            let failure = match why {
                Refusal::Full | Refusal::Waited => Failure::new(Cause::Overloaded),
                Refusal::Hopeless => Failure::say(
                    Cause::Overloaded,
                    "too much is under way for an answer before the deadline; the call has not run",
                ),
            };
            Err(failure.retry_after(COME_BACK))
        }
    }
}

/// Admits one who listens to what the edge itself knows.
///
/// # Errors
/// [`Cause::RateLimited`] with the time after which the same would pass, or when the principal has too many streams;
/// [`Cause::Overloaded`].
pub async fn listen(edge: &Edge, context: &Context, caller: &Caller) -> Result<Permit, Failure> {
    charge(edge, caller).await?;
    edge.admission.listener(context, caller)
}

/// Charges a caller's rate for what is no call, such as opening a stream of events, a ping, or a notification.
///
/// # Errors
/// [`Cause::RateLimited`] with the time after which the same would pass.
pub async fn charge(edge: &Edge, caller: &Caller) -> Result<(), Failure> {
    within_rate(edge, caller, 1, Instant::now()).await
}

async fn within_rate(edge: &Edge, caller: &Caller, cost: u32, now: Instant) -> Result<(), Failure> {
    let admission = &edge.admission;
    // A call dearer than a whole bucket would never pass.
    let cost = cost.min(admission.burst);
    let taken = match edge.shared.get() {
        Some(shared) => shared.take(caller.key(), cost).await,
        None => match admission.limiter.check(caller.key(), cost, now) {
            Verdict::Allow(_) => Ok(()),
            Verdict::Deny { retry_after, .. } => Err(retry_after),
        },
    };
    let Err(retry_after) = taken else {
        return Ok(());
    };
    edge.counters.rate_limited();
    let failure = Failure::new(Cause::RateLimited);
    Err(match retry_after {
        Some(after) => failure.retry_after(after),
        None => failure,
    })
}

fn within_quota(edge: &Edge, caller: &Caller, cost: u32) -> Result<Option<Reservation>, Failure> {
    let Some(ledger) = edge.ledger.get() else {
        return Ok(None);
    };
    let reserved = ledger.reserve(&caller.tenant, cost, registry::unix_ms() / 1000);
    reserved.inspect_err(|_| edge.metrics.quota_exceeded())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_has_so_many_streams_at_once() {
        let streams = Streams::new(2);
        let (first, second) = (streams.enter(1), streams.enter(1));
        assert!(first.is_some() && second.is_some());
        assert!(streams.enter(1).is_none());
        let other = streams.enter(2);
        assert!(other.is_some(), "of another principal");
        drop(first);
        let third = streams.enter(1);
        assert!(third.is_some());
        drop((second, third, other));
        assert!(streams.open.lock().unwrap().is_empty());
    }

    #[test]
    fn the_name_itself_counts_before_the_longest_beginning() {
        let patterns = [("a*", 1), ("a_b*", 2), ("a_b_c", 3), ("*", 4)];
        let patterns = Patterns::new(patterns.map(|(pattern, value)| (pattern.to_owned(), value)));
        for (name, expect) in [("a_b_c", 3), ("a_b_d", 2), ("a_c", 1), ("b", 4)] {
            assert_eq!(patterns.get(name), Some(expect), "{name}");
        }
        assert_eq!(Patterns::<u32>::new([]).get("a"), None);
    }
}
