//! The path of a request, from top to bottom.
//!
//! HTTP requests begin at [`serve`], Cap'n Proto calls at [`run`]; both end in the same stages. Stages
//! never call each other: each takes what the one before handed on, and cannot be called without it.

use std::sync::Arc;

use mcp::{Call, Failure, Reply};

use crate::context::Context;
use crate::edge::Edge;
use crate::exchange::{Exchange, Response};
use crate::identity::Caller;
use crate::ingress::{self, Door};
use crate::{admission, bridge, egress, record, route};

/// Serves one HTTP request. `None` when its client went away and there is nobody to answer.
pub async fn serve(edge: &Arc<Edge>, exchange: &mut Exchange<'_>) -> Option<Response> {
    // Which front door; cheap and anonymous refusals (path, method, Origin) come before anything costs.
    let door = match ingress::door(edge, exchange) {
        Ok(Door::Open(door)) => door,
        Ok(Door::Probe(response)) => return Some(response),
        Err(refused) => return Some(refused.answer(edge, exchange)),
    };
    // Who calls: before the body is read, so that a stranger costs no memory.
    let caller = match edge
        .identity
        .verify_header(ingress::authorization(exchange))
    {
        Ok(caller) => caller,
        Err(failure) => return Some(record::refused(edge, exchange, door.protocol, &failure)),
    };
    let context = Context::of(edge, exchange, door.protocol, &caller);
    // The front door reads the body into calls, has each of them run, and writes the answer in its
    // client's protocol.
    let mut response = ingress::serve(edge, exchange, door, context, caller).await?;
    egress::finish(&mut response, exchange);
    Some(response)
}

/// Runs one call, whatever protocol it came in by.
///
/// # Errors
/// The failure as the client may see it. A tool's own error is no failure here but a [`Reply`].
pub async fn run(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    call: Call,
) -> Result<Reply, Failure> {
    let mut record = record::Record::begin(edge, context, caller, &call);
    let answer = async {
        // May this caller do this now? Frees its place when dropped.
        let permit = admission::admit(edge, caller)?;
        // Which release serves the call, and which of its instances may be tried.
        let route = route::choose(edge, context, call, Some(permit))?;
        // The attempts.
        bridge::send(edge, context, caller, route, &mut record).await
    }
    .await;
    record.end(&answer);
    answer
}
