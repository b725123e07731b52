//! Cap'n Proto RPC on its own port (`mcp.capnp`): a gateway RPC, not a transport of MCP.
//!
//! Cap'n Proto's RPC lives on one thread, so this front door has a thread of its own that reads, writes and
//! authenticates; the calls themselves run where all other calls run. A message that cannot be read ends
//! its call, or at worst its connection, and nobody else's.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use capnp_rpc::RpcSystem;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::twoparty::VatNetwork;
use futures::future::{FutureExt, LocalBoxFuture};
use mcp::call::ClientMeta;
use mcp::{Cause, Failure};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::LocalSet;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;
use translate::capnp::server::{Authenticate, Done, Execute, bootstrap};
use translate::capnp::{Asked, CLIENT_NAME, Limits};

use crate::context::Context;
use crate::edge::Edge;
use crate::gateway;
use crate::identity::Caller;

/// The front door's thread.
pub struct CapnpDoor(std::thread::JoinHandle<()>);

impl CapnpDoor {
    /// Waits for the thread, which ends by itself once the port has been told to stop and its connections
    /// have had `grace` to go.
    pub fn finish(self) {
        if self.0.join().is_err() {
            tracing::error!("the Cap'n Proto thread ended badly");
        }
    }
}

/// Serves the port until `stop` turns true; then takes no more connections, and ends those that are open
/// when the edge's grace is over.
///
/// # Errors
/// When the system gives no thread, or the socket cannot be used.
pub fn serve(
    edge: Arc<Edge>,
    socket: std::net::TcpListener,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<CapnpDoor> {
    socket.set_nonblocking(true)?;
    let calls = Handle::current();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new()
        .name("capnp".to_owned())
        .spawn(move || {
            let local = LocalSet::new();
            let ended = runtime.block_on(local.run_until(accept(edge, socket, stop, calls)));
            if let Err(error) = ended {
                tracing::error!(
                    error = format!("{error:#}"),
                    "Cap'n Proto is not served any more"
                );
            }
        })
        .context("no thread for Cap'n Proto")?;
    Ok(CapnpDoor(thread))
}

async fn accept(
    edge: Arc<Edge>,
    socket: std::net::TcpListener,
    mut stop: watch::Receiver<bool>,
    calls: Handle,
) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(socket)?;
    let places = Arc::new(Semaphore::new(edge.settings.capnp.connections_max));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: the queue keeps the connection meanwhile.
                tracing::warn!(error = %error, "cannot accept a Cap'n Proto connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!("a Cap'n Proto connection past edge.capnp.connections_max was closed");
            continue;
        };
        let connection = connection(Arc::clone(&edge), stream, client, calls.clone());
        tokio::task::spawn_local(async move {
            connection.await;
            drop(place);
        });
    }
    tokio::time::sleep(edge.settings.shutdown.grace).await;
    edge.life.wait_idle(edge.settings.shutdown.drain).await;
    Ok(())
}

/// Serves one connection to its end.
async fn connection(edge: Arc<Edge>, stream: TcpStream, client: SocketAddr, calls: Handle) {
    let _ = stream.set_nodelay(true);
    let limits = Limits {
        message_bytes_max: usize::try_from(edge.settings.capnp.message_limit).unwrap_or(usize::MAX),
        nesting_max: edge.settings.capnp.nesting_limit,
    };
    let in_flight_max = edge.settings.capnp.in_flight_max;
    let (read, write) = stream.into_split();
    let network = VatNetwork::new(
        futures::io::BufReader::new(read.compat()),
        futures::io::BufWriter::new(write.compat_write()),
        Side::Server,
        limits.reader_options(),
    );
    let door = Rc::new(Door {
        edge,
        client,
        calls,
    });
    let gateway = bootstrap(door.authenticate(), in_flight_max);
    if let Err(error) = RpcSystem::new(Box::new(network), Some(gateway.client)).await {
        tracing::debug!(error = %error, "a Cap'n Proto connection ended");
    }
}

/// What a connection's capabilities need.
struct Door {
    edge: Arc<Edge>,
    client: SocketAddr,
    calls: Handle,
}

impl Door {
    fn authenticate(self: &Rc<Self>) -> Authenticate {
        let door = Rc::clone(self);
        Rc::new(move |token: String| {
            let execute = door
                .edge
                .identity
                .verify(&token)
                .inspect_err(|_| door.edge.counters.unauthorized())
                .map(|caller| door.execute(caller));
            std::future::ready(execute).boxed_local()
        })
    }

    fn execute(self: &Rc<Self>, caller: Arc<Caller>) -> Execute {
        let door = Rc::clone(self);
        Rc::new(move |asked: Asked| door.call(Arc::clone(&caller), asked))
    }

    /// Runs a call on the runtime of all calls; dropped, it is cancelled there.
    fn call(&self, caller: Arc<Caller>, asked: Asked) -> LocalBoxFuture<'static, Done> {
        let hop = asked.hop();
        let wait = hop.and_then(|hop| hop.deadline_ms);
        let wait = wait.map(|ms| Duration::from_millis(ms.into()));
        let parent = hop.and_then(|hop| hop.traceparent.as_deref());
        let context = Context::of_rpc(&self.edge, Some(self.client), wait, parent);
        let request_id = context.request_id.as_str().to_owned();
        let edge = Arc::clone(&self.edge);
        let named = telemetry::request_span(&request_id, &context.trace);
        let work = async move {
            let _under_way = edge.life.enter();
            if !edge.identity.is_current(&caller) {
                return Err(Failure::say(
                    Cause::Unauthenticated,
                    "the token has expired",
                ));
            }
            if edge.signatures.are_required_of(&caller) {
                return Err(Failure::new(Cause::Unsigned));
            }
            match asked.call(1, &ClientMeta::plain(CLIENT_NAME))? {
                Some(call) => gateway::run(&edge, &context, &caller, call).await,
                None => Err(Failure::new(Cause::MethodNotFound)),
            }
        };
        let task = AbortOnDropHandle::new(self.calls.spawn(work.instrument(named)));
        async move {
            let answer = task
                .await
                .unwrap_or_else(|_| Err(Failure::new(Cause::Internal)));
            Done { answer, request_id }
        }
        .boxed_local()
    }
}
