//! The edge's listening sockets: inherited from its supervisor, or bound here.
//!
//! An inherited socket (`LISTEN_FDS`, as systemd passes them, named `http`, `admin`, `capnp`) outlives this
//! process: while an edge is restarted, connections wait in its queue and none is refused.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use anyhow::{Context, bail};
use pingora::listeners::ListenerConfig;
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::server::{Fds, ListenFds};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::server::Front;

/// First descriptor that a supervisor passes.
const FIRST_FD: RawFd = 3;
/// Most descriptors that are taken.
const FDS_MAX: usize = 16;
/// None: Pingora reads heads into a buffer of their own, and this one (64 KiB by default) would be held by each connection
/// for as long as it lasts.
const READ_BUFFER_BYTES: usize = 0;
/// A head, or the start of a body, leaves in one segment.
const WRITE_BUFFER_BYTES: usize = 1460;

/// Raises the number of descriptors that this process may have to what its starter allows it. The usual soft limit is
/// 1,024, for programs that use `select`; each client takes one here, and each call another.
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

/// The three sockets of an edge.
pub struct Sockets {
    /// Clients' HTTP.
    pub http: TcpListener,
    /// Operators' HTTP.
    pub admin: TcpListener,
    /// Cap'n Proto RPC.
    pub capnp: TcpListener,
}

impl Sockets {
    /// Takes the sockets that were passed, and binds those that were not.
    ///
    /// # Errors
    /// When an address cannot be bound, or the environment's description does not fit what was passed.
    pub fn open(settings: &settings::Edge) -> anyhow::Result<Sockets> {
        let mut passed = inherited(|name| std::env::var(name).ok())?;
        let mut open = |name: &str, address: SocketAddr| match passed.remove(name) {
            Some(socket) => Ok(socket),
            None => TcpListener::bind(address)
                .with_context(|| format!("cannot listen on {address} (edge.{name})")),
        };
        let sockets = Sockets {
            http: open("http", settings.listen)?,
            admin: open("admin", settings.admin_listen)?,
            capnp: open("capnp", settings.capnp_listen)?,
        };
        for socket in [&sockets.http, &sockets.admin, &sockets.capnp] {
            socket.set_nonblocking(true)?;
        }
        Ok(sockets)
    }
}

/// The passed sockets by name (`sd_listen_fds_with_names(3)`).
fn inherited(var: impl Fn(&str) -> Option<String>) -> anyhow::Result<HashMap<String, TcpListener>> {
    let Some(count) = var("LISTEN_FDS") else {
        return Ok(HashMap::new());
    };
    if var("LISTEN_PID").is_some_and(|pid| pid != std::process::id().to_string()) {
        return Ok(HashMap::new());
    }
    let count: usize = count.parse().context("LISTEN_FDS is not a number")?;
    let names = var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    if count > FDS_MAX || names.len() != count {
        bail!("LISTEN_FDS={count} does not fit LISTEN_FDNAMES={names:?}");
    }
    let mut passed = HashMap::new();
    for (fd, name) in (FIRST_FD..).zip(names) {
        passed.insert(name.to_owned(), adopt(fd));
    }
    Ok(passed)
}

#[expect(
    unsafe_code,
    reason = "the supervisor passed this descriptor to us and to nobody else in this process"
)]
fn adopt(fd: RawFd) -> TcpListener {
    // SAFETY: called once per passed descriptor, at start, before anything else could own it.
    TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Serves a port on Pingora until `stop` turns true; then the socket is closed and the task ends, while
/// connections that are open are served on.
pub fn serve(
    name: &str,
    socket: TcpListener,
    front: Front,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<JoinHandle<()>> {
    let address = socket.local_addr()?.to_string();
    let mut service = Service::new(name.to_owned(), front);
    service.add_listener(
        ListenerConfig::tcp(address.clone())
            .l4_buffer(L4BufferSettings::new(READ_BUFFER_BYTES, WRITE_BUFFER_BYTES)),
    );
    let mut fds = Fds::new();
    fds.add(address, socket.into_raw_fd());
    let fds: ListenFds = Arc::new(fds.into());
    Ok(tokio::spawn(async move {
        service.start_service(Some(fds), stop, 1).await;
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_that_does_not_fit_is_refused() {
        let with = |vars: &'static [(&'static str, &'static str)]| {
            inherited(move |name| {
                vars.iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| (*v).to_owned())
            })
        };
        assert!(with(&[]).unwrap().is_empty());
        assert!(
            with(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "1")])
                .unwrap()
                .is_empty()
        );
        assert!(with(&[("LISTEN_FDS", "x")]).is_err());
        assert!(with(&[("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "http")]).is_err());
        assert!(with(&[("LISTEN_FDS", "99")]).is_err());
    }
}
