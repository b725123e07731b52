//! Connections: taken while there is room, bounded in time, and drained without losing a request.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Server, endless, router};

/// Connections at once, beside those of clients that listen for changes; further ones wait in the listener's queue.
const CONNECTIONS_MAX: usize = 4096;
/// The largest head, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long to wait when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Raises the number of descriptors that this process may have to what its starter allows it. The usual soft limit is
/// 1,024, for programs that use `select`; each connection takes one here, and each plugin several.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, allowed = limit.current, "the limit of open files stays as it is");
    }
}

/// The open listener and its connections.
#[derive(Debug)]
pub struct Listening {
    stop: CancellationToken,
    kill: CancellationToken,
    connections: TaskTracker,
    server: Server,
}

impl Listening {
    /// Starts to serve.
    pub fn start(listener: TcpListener, server: Server) -> Self {
        let listening = Self {
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            connections: TaskTracker::new(),
            server: server.clone(),
        };
        let acceptor = Acceptor {
            router: router(server.clone()),
            room: Arc::new(Semaphore::new(CONNECTIONS_MAX + server.limits.listeners)),
            server,
            stop: listening.stop.clone(),
            kill: listening.kill.clone(),
            connections: listening.connections.clone(),
        };
        listening.connections.spawn(acceptor.run(listener));
        listening
    }

    /// Closes the listener and waits until all requests under way are answered, those of older clients also when their
    /// connection is gone: at most for `patience`; what is left then is cut. Returns how many connections were cut.
    pub async fn drain(self, patience: Duration) -> usize {
        self.stop.cancel();
        self.connections.close();
        let all = u32::try_from(self.server.limits.in_flight).unwrap_or(u32::MAX);
        let answered = async {
            self.connections.wait().await;
            // Whoever has all places knows that nobody else has one.
            drop(self.server.places.acquire_many(all).await);
        };
        if tokio::time::timeout(patience, answered).await.is_ok() {
            return 0;
        }
        let left = self.connections.len();
        self.kill.cancel();
        self.connections.wait().await;
        left
    }
}

struct Acceptor {
    router: Router,
    server: Server,
    stop: CancellationToken,
    kill: CancellationToken,
    connections: TaskTracker,
    room: Arc<Semaphore>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = self.accept(&listener) => accepted,
            };
            let Some((stream, place)) = accepted else {
                continue;
            };
            let connection = serve(
                stream,
                self.router.clone(),
                self.server.clone(),
                self.stop.clone(),
            );
            let kill = self.kill.clone();
            self.connections.spawn(async move {
                let _place = place;
                tokio::select! {
                    () = connection => {}
                    () = kill.cancelled() => {}
                }
            });
        }
    }

    async fn accept(
        &self,
        listener: &TcpListener,
    ) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.room).acquire_owned().await.ok()?;
        match listener.accept().await {
            Ok((stream, _)) => Some((stream, place)),
            Err(error) => {
                // One client's reset, or too many open files: neither is a reason to stop.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router, server: Server, stop: CancellationToken) {
    // Answers are written in one piece; waiting for more would only delay them.
    drop(stream.set_nodelay(true));
    let _counted = Counted::new(server.metrics.connections.clone());
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(server.limits.header)
        .max_buf_size(HEAD_BYTES_MAX);
    if let Err(error) = endless::serve(stream, router, &builder, stop).await {
        tracing::debug!(
            error = telemetry::error_chain(&error),
            "a connection ended early"
        );
    }
}

/// One connection in the gauge.
struct Counted(telemetry::IntGauge);

impl Counted {
    fn new(gauge: telemetry::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
