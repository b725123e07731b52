//! The path of a request, from top to bottom.
//!
//! HTTP requests begin at [`serve`], Cap'n Proto calls at [`run`]; both end in the same stages. Stages
//! never call each other: each takes what the one before handed on, and cannot be called without it.

use std::sync::Arc;

use mcp::members::Members;
use mcp::{Call, Cause, Failure, Method, Reply};

use crate::context::Context;
use crate::edge::Edge;
use crate::exchange::{Exchange, Response};
use crate::identity::Caller;
use crate::ingress::{self, Door};
use crate::stream::Told;
use crate::{admission, bridge, egress, record, route, tools};

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
    // Whether the caller has signed, where it must. The body and the nonce are looked at once the body is there.
    let signed = match edge.signatures.look(exchange, &caller) {
        Ok(signed) => exchange.must_fit(signed).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = signed {
        return Some(record::refused(edge, exchange, door.protocol, &failure));
    }
    let context = Context::of(edge, exchange, door.protocol, &caller);
    // The front door reads the body into calls, has each of them run, and writes the answer in its
    // client's protocol.
    let mut response = ingress::serve(edge, exchange, door, context, caller).await?;
    egress::finish(&mut response, exchange);
    Some(response)
}

/// Runs one call of a front door that can be told nothing but the result.
///
/// # Errors
/// As [`run_telling`]; [`Cause::MethodNotFound`] for a method whose answer is a stream, and
/// [`Cause::UpstreamInvalid`] for a result that asks a client which declared that it cannot be asked.
pub async fn run(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    call: Call,
) -> Result<Reply, Failure> {
    if call.method == Method::SubscriptionsListen {
        let failure = Failure::new(Cause::MethodNotFound);
        record::undecoded(edge, context, &failure);
        return Err(failure);
    }
    let reply = run_telling(edge, context, caller, call, &mut Told::nobody()).await?;
    if asks(&reply) {
        let text = "the server asks what this client cannot be asked";
        return Err(Failure::say(Cause::UpstreamInvalid, text));
    }
    Ok(reply)
}

/// Whether a result is no result yet, but questions to the client.
fn asks(reply: &Reply) -> bool {
    let Ok(Ok(result)) = reply.result() else {
        return false;
    };
    // Most results are told apart without being read.
    result.get().contains("input_required")
        && Members::parse(result)
            .is_ok_and(|members| members.get_str("resultType").as_deref() == Some("input_required"))
}

/// Runs one call, whatever protocol it came in by. What the app tells meanwhile goes to `told`; it ends when
/// the response is there.
///
/// # Errors
/// The failure as the client may see it. A tool's own error is no failure here but a [`Reply`].
pub async fn run_telling(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    call: Call,
    told: &mut Told,
) -> Result<Reply, Failure> {
    // A tool that is called by way of a stand-in is judged, limited and told of under its own name.
    let (call, stand_in) = match tools::resolve(edge, context, call) {
        Ok(resolved) => resolved,
        Err(failure) => {
            record::undecoded(edge, context, &failure);
            return Err(failure);
        }
    };
    // What a stream of changes is told stays in it.
    if call.method != Method::SubscriptionsListen {
        told.also(edge.events.of(caller));
    }
    let mut record = record::Record::begin(edge, context, caller, &call);
    let answer = async {
        // May this caller do this now? It may have to wait for a place, which is free again when the permit is dropped.
        let tool = record.tool();
        let admitting = admission::admit(edge, context, caller, &call, tool);
        let (permit, admitted) = admitting.await?;
        record.admitted(admitted);
        if let Some(stand_in) = stand_in {
            return tools::answer(edge, context, caller, call, stand_in, permit, &mut record).await;
        }
        // Which release serves the call, and which of its instances may be tried.
        let route = route::choose(edge, context, call, Some(permit))?;
        // The attempts.
        bridge::send(edge, context, caller, route, &mut record, told).await
    }
    .await;
    // A call that was answered is in the account, come what may.
    if let (Some(number), Some(ledger)) = (record.end(&answer, told), edge.ledger.get()) {
        ledger.written(number).await;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_told_from_results() {
        for (result, asks_something) in [
            (
                r#"{"resultType":"input_required","requestState":"s"}"#,
                true,
            ),
            (r#"{"resultType":"complete","content":[]}"#, false),
            (
                r#"{"content":[{"type":"text","text":"input_required"}]}"#,
                false,
            ),
        ] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
            let reply = Reply {
                status: 200,
                outcome: mcp::Outcome::Ok,
                body: body.into(),
            };
            assert_eq!(asks(&reply), asks_something, "{result}");
        }
    }
}
