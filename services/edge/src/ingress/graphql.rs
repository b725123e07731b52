//! `/graphql`: documents over the tools on offer.
//!
//! The schema is that of the catalogue in force; `translate` plans a document into tool calls and shapes
//! the answers, here the calls are run. A query's calls run side by side, a mutation's one after another.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, join_all};
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE};
use mcp::call::ClientMeta;
use mcp::{Call, Failure};
use translate::graphql::http::{self as over_http, Answer, Head, Requests};
use translate::graphql::{
    Answered, Execute, Gateway, Order, Plan, Request, Response as Executed, ToolCall,
};

use super::body_bounds;
use crate::context::Context;
use crate::edge::Edge;
use crate::exchange::{Exchange, Response, set_header};
use crate::identity::Caller;
use crate::{gateway, record};

/// Serves one HTTP request.
pub(super) async fn serve(
    edge: &Arc<Edge>,
    exchange: &mut Exchange<'_>,
    context: Context,
    caller: Arc<Caller>,
) -> Option<Response> {
    let bounds = body_bounds(edge, edge.settings.http.body_limit_graphql);
    let body = match exchange.body(bounds).await {
        Ok(body) => body,
        Err(failure) => return Some(refused(edge, exchange, &failure)),
    };
    let head = Head {
        method: exchange.method().as_str(),
        query: exchange.query(),
        content_type: exchange.header(CONTENT_TYPE.as_str()),
        accept: exchange.header(ACCEPT.as_str()),
    };
    let intake = match over_http::parse(&head, &body, &edge.graphql_limits) {
        Ok(intake) => intake,
        Err(answer) => {
            record::undecoded_graphql(edge, &context);
            return Some(response(answer));
        }
    };
    let catalogue = edge.catalogue.load();
    let Some(schema) = catalogue.graphql(&caller) else {
        let failure = Failure::new(mcp::Cause::NoBackend);
        return Some(refused(edge, exchange, &failure));
    };
    let runner = Runner {
        edge: Arc::clone(edge),
        context: Arc::new(context),
        caller,
        schema,
    };
    let media = intake.media;
    let answer = async {
        match intake.requests {
            Requests::One(request) => over_http::answer(media, &runner.one(&request).await),
            Requests::Batch(requests) => {
                over_http::answer_batch(media, &runner.many(requests).await)
            }
        }
    };
    tokio::select! {
        answer = answer => Some(response(answer)),
        () = exchange.gone() => None,
    }
}

fn refused(edge: &Edge, exchange: &Exchange<'_>, failure: &Failure) -> Response {
    record::refused(edge, exchange, mcp::FrontDoor::GraphQl, failure)
}

/// Runs documents for one caller.
struct Runner {
    edge: Arc<Edge>,
    context: Arc<Context>,
    caller: Arc<Caller>,
    schema: Gateway,
}

impl Runner {
    async fn one(&self, request: &Request) -> Executed {
        let executed = match self.plan(request) {
            Ok(plan) => plan.run(self.execute()).await,
            Err(refused) => refused,
        };
        executed.with_request_id(self.context.request_id.as_str())
    }

    /// Operations of a batch run at once when none of them may change anything, else in order.
    async fn many(&self, requests: Vec<Result<Request, Executed>>) -> Vec<Executed> {
        let plans: Vec<Result<Plan, Executed>> = requests
            .into_iter()
            .map(|request| request.and_then(|request| self.plan(&request)))
            .collect();
        let safe = plans
            .iter()
            .all(|plan| !matches!(plan, Ok(plan) if plan.order() == Order::Serial));
        let run = |plan: Result<Plan, Executed>| async {
            match plan {
                Ok(plan) => plan.run(self.execute()).await,
                Err(refused) => refused,
            }
            .with_request_id(self.context.request_id.as_str())
        };
        if safe {
            return join_all(plans.into_iter().map(run)).await;
        }
        let mut executed = Vec::with_capacity(plans.len());
        for plan in plans {
            executed.push(run(plan).await);
        }
        executed
    }

    fn plan(&self, request: &Request) -> Result<Plan, Executed> {
        self.schema
            .plan(request)
            .inspect(|plan| {
                if plan.calls().is_empty() {
                    record::answered_here(&self.edge, &self.context, &self.caller, "", 200);
                }
            })
            .inspect_err(|_| record::undecoded_graphql(&self.edge, &self.context))
    }

    /// The way from a planned call into the gateway.
    fn execute(&self) -> Execute {
        let edge = Arc::clone(&self.edge);
        let context = Arc::clone(&self.context);
        let caller = Arc::clone(&self.caller);
        Arc::new(move |call| {
            call_tool(
                Arc::clone(&edge),
                Arc::clone(&context),
                Arc::clone(&caller),
                call,
            )
        })
    }
}

fn call_tool(
    edge: Arc<Edge>,
    context: Arc<Context>,
    caller: Arc<Caller>,
    call: ToolCall,
) -> BoxFuture<'static, Answered> {
    async move {
        let call = Call::tool(
            1,
            &call.name,
            &call.arguments,
            &ClientMeta::plain("graphql"),
        )?;
        gateway::run(&edge, &context, &caller, call).await
    }
    .boxed()
}

fn response(answer: Answer) -> Response {
    let mut response = Response::new(answer.body.into());
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set_header(&mut response, "content-type", answer.content_type);
    if let Some(allow) = answer.allow {
        set_header(&mut response, "allow", allow);
    }
    response
}
