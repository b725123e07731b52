//! The attempts: a call is sent until it is answered, or until another attempt could do harm or no good.
//!
//! What a retry may do follows from what the call means. A call that is not safe to repeat is sent again only
//! if the app certainly has not seen it. A call that is safe is sent to another instance when one breaks; and
//! when a *candidate* answers it with an error, the stable release answers instead: a bad release costs its
//! callers a retry, not their calls. All of this is paid from one budget, so that retries never double an
//! outage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp::{Call, Cause, Failure, Outcome, Repeat, Reply};
use policy::balance::BackendId;
use policy::retry::{self, Budget, BudgetRules, Happened, Next};
use rand::RngExt;
use telemetry::trace::{Attempt, tracer};

use crate::context::Context;
use crate::counters::Ended;
use crate::edge::Edge;
use crate::identity::Caller;
use crate::record::Record;
use crate::route::{self, Route};
use crate::transport::{self, Broken, Transport};

/// The client to all apps, and what retries may cost.
#[derive(Debug)]
pub struct Bridge {
    transport: Transport,
    rules: retry::Rules,
    budget: Budget,
}

impl Bridge {
    /// A bridge by the settings.
    pub fn new(settings: &settings::Edge, now: Instant) -> Bridge {
        let balance = &settings.balance;
        let budget = BudgetRules {
            percent: u32::from(balance.retry_budget_percent),
            ..BudgetRules::default()
        };
        Bridge {
            transport: Transport::new(balance.connect_timeout),
            rules: retry::Rules {
                attempts_max: balance.attempts_max,
                ..retry::Rules::default()
            },
            budget: Budget::new(budget, now),
        }
    }
}

/// What one attempt came to.
struct Attempted {
    result: Result<Reply, Broken>,
    release: Arc<str>,
}

/// Sends a call until it is answered.
///
/// # Errors
/// [`Cause::NoBackend`], [`Cause::UpstreamBroken`], [`Cause::UpstreamInvalid`] or [`Cause::Timeout`].
pub async fn send(
    edge: &Edge,
    context: &Context,
    caller: &Caller,
    route: Route,
    record: &mut Record<'_>,
) -> Result<Reply, Failure> {
    edge.bridge.budget.deposit();
    let mut tried: Vec<BackendId> = Vec::new();
    let mut release = Arc::clone(&route.release);
    let mut before = Err(Broken::NotSent);
    loop {
        let Some(attempted) =
            attempt(edge, context, caller, &route, &release, record, &mut tried).await
        else {
            // Nobody left to ask: what the last attempt came to stands.
            return finish(before);
        };
        let on_candidate = route.view.stable() != Some(&*attempted.release);
        let Some(happened) = again(&attempted.result, on_candidate, route.repeat) else {
            return finish(attempted.result);
        };
        let now = Instant::now();
        let facts = retry::Facts {
            happened,
            repeat: match route.repeat {
                Repeat::Safe => retry::Repeat::Safe,
                Repeat::Unsafe => retry::Repeat::Unsafe,
            },
            attempts: u32::try_from(tried.len()).unwrap_or(u32::MAX),
            deadline_left: context.deadline.left(now),
            random: rand::rng().random(),
            now,
        };
        match retry::next(&edge.bridge.rules, &edge.bridge.budget, &facts) {
            Next::GiveUp(reason) => {
                tracing::debug!(?reason, attempts = facts.attempts, "no further attempt");
                return finish(attempted.result);
            }
            Next::Retry { after } => tokio::time::sleep(after).await,
        }
        before = attempted.result;
        if let Some(stable) = route.view.split().map(policy::split::Split::stable) {
            release = Arc::clone(stable);
        }
    }
}

/// Sends a call of the edge's own, to the stable release, without a caller.
///
/// # Errors
/// As [`send`].
pub async fn send_own(edge: &Edge, context: &Context, call: Call) -> Result<Reply, Failure> {
    let caller = Caller::edge();
    let mut context = context.clone();
    context.pinned = edge.fleet.view().stable().map(str::to_owned);
    let mut record = Record::begin(edge, &context, &caller, &call);
    let answer = async {
        let route = route::choose(edge, &context, call, None)?;
        send(edge, &context, &caller, route, &mut record).await
    }
    .await;
    record.end(&answer);
    answer
}

/// Makes one attempt; `None` when there is no instance to try.
async fn attempt(
    edge: &Edge,
    context: &Context,
    caller: &Caller,
    route: &Route,
    release: &Arc<str>,
    record: &mut Record<'_>,
    tried: &mut Vec<BackendId>,
) -> Option<Attempted> {
    let began = Instant::now();
    let pick = route.view.pick(release, &route.call, tried, began)?;
    let backend = Arc::clone(pick.backend());
    let number = record.attempt(&backend.name, &backend.release);
    tried.push(pick.id());
    let trace = record.trace.child();
    let mut span = tracer().attempt_span(
        &trace,
        &Attempt {
            number,
            backend: &backend.name,
            release: &backend.release,
            address: &backend.address,
        },
    );
    span.set_request_id(context.request_id.as_str());
    let left = attempts_left(route.repeat, edge.bridge.rules.attempts_max, number);
    let result = match context.deadline.attempt(left, began) {
        None => Err(Broken::TimedOut),
        Some(limit) => {
            let head = transport::head(&route.call, context, caller, &trace, began);
            edge.bridge
                .transport
                .attempt(&backend.uri, &route.call, head, limit)
                .await
        }
    };
    let now = Instant::now();
    pick.finish(healthy(&result), now);
    let (ended, outcome) = name(&result);
    match &result {
        Ok(reply) => span.set_status(reply.status),
        Err(_) => span.fail(outcome, ""),
    }
    edge.counters
        .attempt(&backend.release, ended, now - began, context.sticky, now);
    edge.metrics.attempt(&backend.release, outcome);
    Some(Attempted {
        result,
        release: Arc::clone(&backend.release),
    })
}

/// How many attempts the time left is for, this one included. A call that must not be repeated has one, and
/// so all the time there is.
fn attempts_left(repeat: Repeat, attempts_max: u32, number: u32) -> u32 {
    match repeat {
        Repeat::Unsafe => 1,
        Repeat::Safe => (attempts_max + 1).saturating_sub(number).max(1),
    }
}

/// What the attempt says of the instance: an answer is an answer, unless it is the server's own failure.
fn healthy(result: &Result<Reply, Broken>) -> bool {
    result.as_ref().is_ok_and(|reply| reply.status < 500)
}

/// How the attempt counts, and its name for a metric.
fn name(result: &Result<Reply, Broken>) -> (Ended, &'static str) {
    match result {
        Ok(reply) => match reply.outcome {
            Outcome::Ok => (Ended::Well, "ok"),
            Outcome::ToolError => (Ended::ToolFailed, "tool_error"),
            Outcome::Error => (Ended::Failed, "error"),
        },
        Err(Broken::NotSent) => (Ended::Failed, "not_sent"),
        Err(Broken::Lost) => (Ended::Failed, "lost"),
        Err(Broken::TimedOut) => (Ended::Failed, "timed_out"),
        Err(Broken::Invalid) => (Ended::Failed, "invalid"),
    }
}

/// What a further attempt would have to answer for; `None` when this answer stands.
fn again(result: &Result<Reply, Broken>, on_candidate: bool, repeat: Repeat) -> Option<Happened> {
    match result {
        Err(Broken::NotSent) => Some(Happened::NotSent),
        Err(Broken::Lost | Broken::TimedOut | Broken::Invalid) => Some(Happened::NoAnswer),
        Ok(reply) if matches!(reply.status, 429 | 502..=504) => Some(Happened::Answered {
            status: reply.status,
            retry_after: None,
        }),
        // The stable release may do better than a candidate that fails.
        Ok(reply) if on_candidate && repeat == Repeat::Safe && reply.outcome != Outcome::Ok => {
            Some(Happened::NoAnswer)
        }
        Ok(_) => None,
    }
}

/// The answer as it stands when there is no further attempt.
fn finish(result: Result<Reply, Broken>) -> Result<Reply, Failure> {
    result.map_err(|broken| match broken {
        Broken::NotSent => Failure::new(Cause::NoBackend).retry_after(Duration::from_secs(1)),
        Broken::Lost => Failure::new(Cause::UpstreamBroken),
        Broken::TimedOut => Failure::new(Cause::Timeout),
        Broken::Invalid => Failure::new(Cause::UpstreamInvalid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, outcome: Outcome) -> Result<Reply, Broken> {
        Ok(Reply {
            status,
            outcome,
            body: bytes::Bytes::new(),
        })
    }

    #[test]
    fn only_what_another_attempt_can_better_is_tried_again() {
        let safe = Repeat::Safe;
        for (result, on_candidate, repeat, tried_again) in [
            (reply(200, Outcome::Ok), true, safe, false),
            (reply(200, Outcome::ToolError), false, safe, false),
            (reply(200, Outcome::ToolError), true, safe, true),
            (reply(200, Outcome::ToolError), true, Repeat::Unsafe, false),
            (reply(400, Outcome::Error), false, safe, false),
            (reply(503, Outcome::Error), false, safe, true),
            (Err(Broken::NotSent), false, Repeat::Unsafe, true),
            (Err(Broken::Lost), false, safe, true),
        ] {
            let again = again(&result, on_candidate, repeat);
            assert_eq!(
                again.is_some(),
                tried_again,
                "{result:?} {on_candidate} {repeat:?}"
            );
        }
    }

    #[test]
    fn a_call_that_must_not_be_repeated_has_all_the_time_for_its_one_attempt() {
        for (repeat, number, left) in [
            (Repeat::Unsafe, 1, 1),
            (Repeat::Safe, 1, 3),
            (Repeat::Safe, 3, 1),
            (Repeat::Safe, 9, 1),
        ] {
            assert_eq!(
                attempts_left(repeat, 3, number),
                left,
                "{repeat:?} {number}"
            );
        }
    }

    #[test]
    fn a_servers_own_failure_counts_against_it_and_a_clients_does_not() {
        assert!(healthy(&reply(404, Outcome::Error)));
        assert!(healthy(&reply(200, Outcome::ToolError)));
        assert!(!healthy(&reply(503, Outcome::Error)));
        assert!(!healthy(&Err(Broken::Lost)));
    }
}
