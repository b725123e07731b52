//! The capabilities behind the bootstrap, over functions that make the calls.
//!
//! The edge gives [`Authenticate`] and runs the connection:
//!
//! ```text
//! let gateway = server::bootstrap(authenticate, in_flight_max);
//! let network = twoparty::VatNetwork::new(read, write, Side::Server, limits.reader_options());
//! RpcSystem::new(Box::new(network), Some(gateway.client)).await
//! ```
//!
//! Cap'n Proto RPC lives on one thread (`Rc`), and so do these. A call that the client drops is dropped here,
//! and with it the future that [`Execute`] gave.

use std::cell::Cell;
use std::rc::Rc;

use ::capnp::capability::Promise;
use futures::future::LocalBoxFuture;
use mcp::{Cause, Failure, Reply};

use super::ask::Asked;
use super::mcp_capnp::{gateway, mcp as interface};
use super::reply::{self, Failed, ToolResult};

/// What came of one request: the reply, and its id in logs.
pub struct Done {
    /// The reply of the app, or why there is none.
    pub answer: Result<Reply, Failure>,
    /// The request's id in logs and traces.
    pub request_id: String,
}

/// Makes the call for one request of an authenticated client.
pub type Execute = Rc<dyn Fn(Asked) -> LocalBoxFuture<'static, Done>>;

/// Turns a bearer token into the right to make calls.
pub type Authenticate = Rc<dyn Fn(String) -> LocalBoxFuture<'static, Result<Execute, Failure>>>;

/// The bootstrap capability of one connection, on which at most `in_flight_max` requests are under way at once.
#[must_use]
pub fn bootstrap(authenticate: Authenticate, in_flight_max: usize) -> gateway::Client {
    capnp_rpc::new_client(Gateway {
        authenticate,
        in_flight: InFlight {
            count: Rc::new(Cell::new(0)),
            max: in_flight_max,
        },
    })
}

/// Counts what is under way on a connection.
#[derive(Clone)]
struct InFlight {
    count: Rc<Cell<usize>>,
    max: usize,
}

/// One request that is under way.
struct Slot(Rc<Cell<usize>>);

impl InFlight {
    fn enter(&self) -> Result<Slot, Failure> {
        if self.count.get() >= self.max {
            let text = "too many calls are under way on this connection";
            return Err(Failure::say(Cause::Overloaded, text));
        }
        self.count.set(self.count.get() + 1);
        Ok(Slot(Rc::clone(&self.count)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

struct Gateway {
    authenticate: Authenticate,
    in_flight: InFlight,
}

type Served = Promise<(), ::capnp::Error>;

impl gateway::Server for Gateway {
    fn info(
        self: Rc<Self>,
        _: gateway::InfoParams,
        mut results: gateway::InfoResults,
    ) -> impl Future<Output = Result<(), ::capnp::Error>> + 'static {
        reply::write_info(results.get().init_info());
        std::future::ready(Ok(()))
    }

    fn authenticate(
        self: Rc<Self>,
        params: gateway::AuthenticateParams,
        mut results: gateway::AuthenticateResults,
    ) -> impl Future<Output = Result<(), ::capnp::Error>> + 'static {
        let authenticated = self.authenticated(token(&params));
        serve(async move {
            match authenticated.await {
                Ok(mcp) => results.get().set_mcp(capnp_rpc::new_client(mcp)),
                Err(failure) => Failed::from(failure).write("", results.get().init_failure()),
            }
        })
    }
}

impl Gateway {
    fn authenticated(
        &self,
        token: Result<String, Failure>,
    ) -> LocalBoxFuture<'static, Result<Mcp, Failure>> {
        let in_flight = self.in_flight.clone();
        match token.and_then(|token| Ok((token, in_flight.enter()?))) {
            Ok((token, slot)) => {
                let execute = (self.authenticate)(token);
                Box::pin(async move {
                    let execute = execute.await?;
                    drop(slot);
                    Ok(Mcp { execute, in_flight })
                })
            }
            Err(failure) => Box::pin(std::future::ready(Err(failure))),
        }
    }
}

fn token(params: &gateway::AuthenticateParams) -> Result<String, Failure> {
    let params = params.get().map_err(super::ask::unreadable)?;
    super::ask::text(params.get_token())
}

struct Mcp {
    execute: Execute,
    in_flight: InFlight,
}

impl Mcp {
    /// Makes the call. The slot is free again when the answer is there.
    fn execute(self: &Rc<Self>, asked: Result<Asked, Failure>) -> LocalBoxFuture<'static, Done> {
        let refused = |failure| Done {
            answer: Err(failure),
            request_id: String::new(),
        };
        match asked.and_then(|asked| Ok((asked, self.in_flight.enter()?))) {
            Ok((asked, slot)) => {
                let call = (self.execute)(asked);
                Box::pin(async move {
                    let done = call.await;
                    drop(slot);
                    done
                })
            }
            Err(failure) => Box::pin(std::future::ready(refused(failure))),
        }
    }
}

impl interface::Server for Mcp {
    fn list_tools(
        self: Rc<Self>,
        params: interface::ListToolsParams,
        mut results: interface::ListToolsResults,
    ) -> impl Future<Output = Result<(), ::capnp::Error>> + 'static {
        let asked = read(params.get(), Asked::read_list);
        let call = self.execute(asked);
        serve(async move {
            let done = call.await;
            let page = done.answer.map_err(Failed::from).and_then(|reply| {
                let page = mcp::tool::read_list(reply::result(&reply)?)?;
                Ok(page)
            });
            match page {
                Ok(page) => reply::write_page(&page, results.get().init_page()),
                Err(failed) => failed.write(&done.request_id, results.get().init_failure()),
            }
        })
    }

    fn call_tool(
        self: Rc<Self>,
        params: interface::CallToolParams,
        mut results: interface::CallToolResults,
    ) -> impl Future<Output = Result<(), ::capnp::Error>> + 'static {
        let asked = read(params.get(), Asked::read_call);
        let call = self.execute(asked);
        serve(async move {
            let done = call.await;
            let result = done
                .answer
                .map_err(Failed::from)
                .and_then(|reply| ToolResult::parse(reply::result(&reply)?));
            match result {
                Ok(result) => result.write(results.get().init_result()),
                Err(failed) => failed.write(&done.request_id, results.get().init_failure()),
            }
        })
    }

    fn request(
        self: Rc<Self>,
        params: interface::RequestParams,
        mut results: interface::RequestResults,
    ) -> impl Future<Output = Result<(), ::capnp::Error>> + 'static {
        let asked = read(params.get(), Asked::read_raw);
        let call = self.execute(asked);
        serve(async move {
            let done = call.await;
            let written = done.answer.map_err(Failed::from).and_then(|reply| {
                results.get().set_result_json(reply::result(&reply)?.get());
                Ok(())
            });
            if let Err(failed) = written {
                failed.write(&done.request_id, results.get().init_failure());
            }
        })
    }
}

fn read<R>(
    params: ::capnp::Result<R>,
    read: impl Fn(R) -> Result<Asked, Failure>,
) -> Result<Asked, Failure> {
    params.map_err(super::ask::unreadable).and_then(read)
}

/// Failures are values in the results, so serving itself does not fail.
fn serve(writing: impl Future<Output = ()> + 'static) -> Served {
    Promise::from_future(async move {
        writing.await;
        Ok(())
    })
}
