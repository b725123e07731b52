//! The attempts: a call is sent until it is answered, or until another attempt could do harm or no good.
//!
//! What a retry may do follows from what the call means. A call that is not safe to repeat is sent again only
//! if the app certainly has not seen it. A call that is safe is sent to another instance when one breaks; and
//! when a *candidate* answers it with an error, the stable release answers instead: a bad release costs its
//! callers a retry, not their calls. All of this is paid from one budget, so that retries never double an
//! outage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp::envelope::{self, Body};
use mcp::members::Members;
use mcp::{Call, Cause, Failure, Message, Method, Outcome, Repeat, Reply};
use policy::balance::BackendId;
use policy::deadline::Deadline;
use policy::retry::{self, Budget, BudgetRules, Happened, Next};
use rand::RngExt;
use telemetry::trace::{Attempt, tracer};

use crate::context::Context;
use crate::counters::Ended;
use crate::edge::Edge;
use crate::fleet::{Backend, Held};
use crate::identity::Caller;
use crate::record::Record;
use crate::route::{self, Route};
use crate::stream::{ClientGone, Part, Told};
use crate::transport::{self, Answer, Broken, Events, Transport};

/// Longest pause before a listening goes on elsewhere, at first.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// And after several failures.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a client that listens is kept while nobody tells the edge anything.
const DEAF_MAX: Duration = Duration::from_secs(60);

/// When a caller may try again whose call no instance takes.
const AGAIN: Duration = Duration::from_secs(1);

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

/// Sends a call until it is answered; what the app tells meanwhile goes to `told`. Once something was told,
/// that attempt is the last: nobody can take it back. Only who listens goes on listening elsewhere.
///
/// # Errors
/// [`Cause::NoBackend`], [`Cause::UpstreamBroken`], [`Cause::UpstreamInvalid`] or [`Cause::Timeout`];
/// [`Cause::InvalidParams`] when the one instance that can go on with the call is gone.
pub async fn send(
    edge: &Edge,
    context: &Context,
    caller: &Caller,
    mut route: Route,
    record: &mut Record<'_>,
    told: &mut Told,
) -> Result<Reply, Failure> {
    let answer = answer(edge, context, caller, &route, record, told).await;
    if route.call.method == Method::SubscriptionsListen && told.has_begun() {
        return listen_on(edge, context, caller, &mut route, record, told, answer).await;
    }
    answer
}

/// Goes on with a `subscriptions/listen` whose instance took its leave or died: the client keeps its stream,
/// and hears that what it listens to may have changed.
///
/// # Errors
/// As [`send`], when no instance would listen for [`DEAF_MAX`].
async fn listen_on(
    edge: &Edge,
    context: &Context,
    caller: &Caller,
    route: &mut Route,
    record: &mut Record<'_>,
    told: &mut Told,
    mut answer: Result<Reply, Failure>,
) -> Result<Reply, Failure> {
    let mut pauses = Pauses::default();
    let mut heard = Instant::now();
    while heard.elapsed() < DEAF_MAX && !told.is_left() {
        let pause = pauses.next(rand::rng().random());
        tokio::time::sleep(pause).await;
        told.go_on();
        let limit = edge.settings.http.request_timeout;
        let context = Context {
            deadline: Deadline::new(None, limit, Instant::now()),
            ..context.clone()
        };
        let began = Instant::now();
        answer = match route::choose_again(edge, &context, route) {
            Ok(()) => self::answer(edge, &context, caller, route, record, told).await,
            Err(failure) => Err(failure),
        };
        if told.has_begun() {
            heard = Instant::now();
            if began.elapsed() > PAUSE_MAX {
                pauses = Pauses::default();
            }
        }
    }
    answer
}

/// Pauses before a listening goes on, longer and longer: many listeners lose their instance at once.
#[derive(Debug, Default)]
struct Pauses(u32);

impl Pauses {
    fn next(&mut self, random: f64) -> Duration {
        let longest = PAUSE_MIN.saturating_mul(1 << self.0).min(PAUSE_MAX);
        self.0 = (self.0 + 1).min(10);
        longest.mul_f64(random.clamp(0.0, 1.0))
    }
}

/// Attempts until one answers, or has told something.
async fn answer(
    edge: &Edge,
    context: &Context,
    caller: &Caller,
    route: &Route,
    record: &mut Record<'_>,
    told: &mut Told,
) -> Result<Reply, Failure> {
    edge.bridge.budget.deposit();
    let mut tried: Vec<BackendId> = Vec::new();
    let mut release = Arc::clone(&route.release);
    let mut before = Err(Broken::NotSent);
    // Whether an attempt before the last one may have run the call.
    let mut ran_before = false;
    let mut bound = route.instance.clone();
    loop {
        let Some(place) = take(route, bound.as_ref(), &release, &tried) else {
            // Nobody left to ask: what the last attempt came to stands.
            return finish(route, before, ran_before);
        };
        tried.extend(place.held.as_ref().map(Held::id));
        let on_candidate =
            route.instance.is_none() && route.view.stable() != Some(&*place.backend.release);
        ran_before |= may_have_run(&before);
        let (number, result) = attempt(edge, context, caller, route, place, record, told).await;
        if let (Some(lost), Err(Broken::NotSent)) = (&bound, &result) {
            // Nobody else can go on with this call, and nothing of it was sent.
            match edge.fleet.returned(lost, context.deadline.at()).await {
                Some(back) => bound = Some(back),
                None => return finish(route, result, ran_before),
            }
            before = result;
            continue;
        }
        let again = again(&result, on_candidate, route.repeat).filter(|_| !told.has_begun());
        let Some(happened) = again else {
            return finish(route, result, ran_before);
        };
        let now = Instant::now();
        let facts = retry::Facts {
            happened,
            repeat: match route.repeat {
                Repeat::Safe => retry::Repeat::Safe,
                Repeat::Unsafe => retry::Repeat::Unsafe,
            },
            attempts: number,
            deadline_left: context.deadline.left(now),
            random: rand::rng().random(),
            now,
        };
        match retry::next(&edge.bridge.rules, &edge.bridge.budget, &facts) {
            Next::GiveUp(reason) => {
                tracing::debug!(?reason, attempts = facts.attempts, "no further attempt");
                return finish(route, result, ran_before);
            }
            Next::Retry { after } => tokio::time::sleep(after).await,
        }
        before = result;
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
    let mut told = Told::nobody();
    let answer = async {
        let route = route::choose(edge, &context, call, None)?;
        send(edge, &context, &caller, route, &mut record, &mut told).await
    }
    .await;
    record.end(&answer, &told);
    answer
}

/// An instance to try. One that a call is bound to is not held: it was not chosen, so it says nothing of how
/// well it was chosen.
struct Place {
    backend: Arc<Backend>,
    held: Option<Held>,
}

/// Takes an instance for the next attempt; `None` when there is none.
fn take(
    route: &Route,
    bound: Option<&Arc<Backend>>,
    release: &str,
    tried: &[BackendId],
) -> Option<Place> {
    if let Some(backend) = bound {
        return Some(Place {
            backend: Arc::clone(backend),
            held: None,
        });
    }
    let held = route
        .view
        .pick(release, &route.call, tried, Instant::now())?;
    Some(Place {
        backend: Arc::clone(held.backend()),
        held: Some(held),
    })
}

/// Makes one attempt; its number, and what it came to.
async fn attempt(
    edge: &Edge,
    context: &Context,
    caller: &Caller,
    route: &Route,
    place: Place,
    record: &mut Record<'_>,
    told: &mut Told,
) -> (u32, Result<Reply, Broken>) {
    let began = Instant::now();
    let Place { backend, held } = place;
    let number = record.attempt(&backend.name, &backend.release);
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
    let (uri, release, instance) = (
        backend.uri.clone(),
        Arc::clone(&backend.release),
        Arc::clone(&backend.name),
    );
    let settle = move |result: &Result<u16, Broken>, ended: Ended, outcome: &'static str| {
        let now = Instant::now();
        if let Some(held) = held {
            held.finish(result.is_ok_and(|status| status < 500), now);
        }
        match result {
            Ok(status) => span.set_status(*status),
            Err(_) => span.fail(outcome, ""),
        }
        edge.counters
            .attempt(&backend.release, ended, now - began, context.sticky, now);
        edge.metrics.attempt(&backend.release, outcome);
    };
    let left = attempts_left(route.repeat, edge.bridge.rules.attempts_max, number);
    let Some(limit) = context.deadline.attempt(left, began) else {
        settle(&Err(Broken::TimedOut), Ended::Failed, "timed_out");
        return (number, Err(Broken::TimedOut));
    };
    let params = route.view.param_headers(&instance, &route.call);
    let flags = edge.flags(context, caller);
    let head = transport::head(&route.call, &params, &flags, context, caller, &trace, began);
    let transport = &edge.bridge.transport;
    let result = match transport.attempt(&uri, &route.call, head, limit).await {
        Err(broken) => Err(broken),
        Ok(Answer::Whole(reply)) => Ok(reply),
        Ok(Answer::Events(events)) if route.call.method == Method::SubscriptionsListen => {
            // How long a client listens says nothing of the instance; that it can does.
            record.opened();
            settle(&Ok(200), Ended::Well, "ok");
            return (number, listen(edge, &release, *events, told).await);
        }
        Ok(Answer::Events(events)) => {
            let time = Time {
                first: began + limit,
                all: context.deadline.at(),
            };
            follow(*events, told, time).await
        }
    };
    let (ended, outcome) = name(&result);
    let status = result.as_ref().map(|reply| reply.status).map_err(|b| *b);
    settle(&status, ended, outcome);
    (number, result)
}

/// How long a stream may take.
#[derive(Debug, Clone, Copy)]
struct Time {
    /// Until the client has been told something, as another attempt may still answer.
    first: Instant,
    /// From then on.
    all: Instant,
}

/// Reads a stream to its response.
async fn follow(mut events: Events, told: &mut Told, time: Time) -> Result<Reply, Broken> {
    loop {
        let until = match told.has_begun() {
            false => time.first,
            true => time.all,
        };
        let step = async {
            match events.next().await? {
                Part::Reply(reply) => Ok(Some(reply)),
                Part::Told(message) => match told.tell(message).await {
                    Ok(()) => Ok(None),
                    Err(ClientGone) => Err(Broken::Lost),
                },
            }
        };
        let stepped = tokio::time::timeout_at(until.into(), step).await;
        if let Some(reply) = stepped.unwrap_or(Err(Broken::TimedOut))? {
            return Ok(reply);
        }
    }
}

/// Reads a stream of changes for as long as it lasts. It tells of one instance, while lists may be answered by another
/// that is behind: when all instances agree anew, the client is told once more, and what it reads then is what there is.
async fn listen(
    edge: &Edge,
    release: &str,
    mut events: Events,
    told: &mut Told,
) -> Result<Reply, Broken> {
    let mut agreements = edge.fleet.agreements();
    let mut agreed = agreements.borrow_and_update().get(release).cloned();
    let mut is_first = true;
    loop {
        let done = tokio::select! {
            part = events.next() => match part? {
                Part::Reply(reply) => return Ok(reply),
                Part::Told(message) => {
                    if std::mem::take(&mut is_first) {
                        told.listens(&message);
                    }
                    told.tell(message).await
                }
            },
            changed = agreements.changed() => {
                changed.map_err(|_| Broken::Lost)?;
                let now = agreements.borrow_and_update().get(release).cloned();
                if now == agreed {
                    continue;
                }
                agreed = now;
                match agreed {
                    None => continue,
                    Some(_) => told.tell_of_lists().await,
                }
            }
        };
        done.map_err(|ClientGone| Broken::Lost)?;
    }
}

/// How many attempts the time left is for, this one included. A call that must not be repeated has one, and
/// so all the time there is.
fn attempts_left(repeat: Repeat, attempts_max: u32, number: u32) -> u32 {
    match repeat {
        Repeat::Unsafe => 1,
        Repeat::Safe => (attempts_max + 1).saturating_sub(number).max(1),
    }
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
        // The instance is well, and its plugin died or does not run: another instance has its own.
        Ok(reply)
            if repeat == Repeat::Safe
                && reply.outcome == Outcome::Error
                && says_upstream_failed(&reply.body) =>
        {
            Some(Happened::NoAnswer)
        }
        // The stable release may do better than a candidate that fails.
        Ok(reply) if on_candidate && repeat == Repeat::Safe && reply.outcome != Outcome::Ok => {
            Some(Happened::NoAnswer)
        }
        Ok(_) => None,
    }
}

/// Whether an error is one of an app that could not ask its plugin, or got no answer from it. Apps tell it with 200.
fn says_upstream_failed(body: &[u8]) -> bool {
    let failed = [Cause::UpstreamBroken.code(), Cause::NoBackend.code()];
    error_code(body).is_some_and(|code| failed.contains(&code))
}

/// The code of a response that is an error.
fn error_code(body: &[u8]) -> Option<i64> {
    let Ok(Body::One(Ok(Message::Response {
        result: Err(error), ..
    }))) = envelope::read(body)
    else {
        return None;
    };
    let members = Members::parse(error).ok()?;
    members.get("code")?.get().parse().ok()
}

/// Whether the call has run in an attempt, or may have.
fn may_have_run(result: &Result<Reply, Broken>) -> bool {
    match result {
        Err(Broken::NotSent) => false,
        Err(Broken::Lost | Broken::TimedOut | Broken::Invalid) => true,
        Ok(reply) => {
            let refusals = [Cause::NoBackend.code(), Cause::RateLimited.code()];
            let is_refusal = |code| refusals.contains(&code);
            reply.outcome != Outcome::Error || !error_code(&reply.body).is_some_and(is_refusal)
        }
    }
}

/// The answer when there is no further attempt.
fn finish(
    route: &Route,
    result: Result<Reply, Broken>,
    ran_before: bool,
) -> Result<Reply, Failure> {
    let bound = route.instance.is_some();
    conclude(result, ran_before, bound.then(|| route::gone(&route.call)))
}

/// What the last attempt came to, as the caller is told it. That it did nothing takes back no attempt `ran_before` it; such a
/// call may be made again all the same, or there would have been no other attempt. What is bound to one instance is `gone`
/// with it.
fn conclude(
    result: Result<Reply, Broken>,
    ran_before: bool,
    gone: Option<Failure>,
) -> Result<Reply, Failure> {
    if ran_before && gone.is_none() && !may_have_run(&result) {
        let text = "no instance can take the call now; an attempt before may have run it";
        return Err(Failure::say(Cause::NoBackend, text).retry_after(AGAIN));
    }
    result.map_err(|broken| match broken {
        Broken::NotSent => {
            gone.unwrap_or_else(|| Failure::new(Cause::NoBackend).retry_after(AGAIN))
        }
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
    fn that_a_call_may_have_run_is_told_whatever_the_last_attempt_came_to() {
        let refused = |code: i64| {
            let body =
                format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":""}}}}"#);
            Ok(Reply {
                status: 200,
                outcome: Outcome::Error,
                body: body.into(),
            })
        };
        let not_run = Cause::NoBackend.code();
        for (last, ran_before, code, says_so) in [
            (Err(Broken::NotSent), false, not_run, false),
            (Err(Broken::NotSent), true, not_run, true),
            (refused(not_run), true, not_run, true),
            (Err(Broken::Lost), true, Cause::UpstreamBroken.code(), true),
            (Err(Broken::TimedOut), true, Cause::Timeout.code(), true),
        ] {
            let said = format!("{last:?} {ran_before}");
            let failure = conclude(last, ran_before, None).expect_err(&said);
            assert_eq!(failure.cause.code(), code, "{said}");
            assert_eq!(failure.message.contains("may have run"), says_so, "{said}");
        }
        for answer in [
            refused(Cause::UpstreamBroken.code()),
            refused(-32602),
            reply(200, Outcome::ToolError),
        ] {
            let said = format!("{answer:?}");
            assert!(conclude(answer, true, None).is_ok(), "{said}");
        }
        assert!(conclude(refused(not_run), false, None).is_ok());
    }

    #[test]
    fn a_listening_that_fails_again_and_again_goes_on_less_and_less_often() {
        let mut pauses = Pauses::default();
        let longest: Vec<u128> = (0..7).map(|_| pauses.next(1.0).as_millis()).collect();
        assert_eq!(longest, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pauses.next(0.0), Duration::ZERO);
    }

    #[test]
    fn a_plugin_that_died_is_asked_at_another_instance_if_that_does_no_harm() {
        for (code, repeat, tried_again) in [
            (-31502, Repeat::Safe, true),
            (-31503, Repeat::Safe, true),
            (-31502, Repeat::Unsafe, false),
            (-31503, Repeat::Unsafe, false),
            (-31504, Repeat::Safe, false),
            (-32602, Repeat::Safe, false),
        ] {
            let body =
                format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":""}}}}"#);
            let failed = Ok(Reply {
                status: 200,
                outcome: Outcome::Error,
                body: body.into(),
            });
            let again = again(&failed, false, repeat);
            assert_eq!(again.is_some(), tried_again, "{code} {repeat:?}");
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
}
