//! The edge's listening sockets, held by the agent.
//!
//! The agent binds them once and hands each edge a copy. While an edge restarts, connections wait in the
//! kernel's queue instead of being refused. An agent that died left the sockets with the running edge; the
//! next one takes copies back from it (`pidfd_getfd`). Where the system does not permit that, it has to bind
//! anew once that edge has ended.
//!
//! `http` and `capnp` are shared by all edges. `admin` is asked of one edge at a time, so each edge has its
//! own: the first at the configured address (its slot is 0), the others at any free port of the same host.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use rustix::process::PidfdGetfdFlags;
use serde::{Deserialize, Serialize};

use super::owner;
use super::process::Handle;
use crate::failure::Failure;
use crate::state::{StateDir, gone, read_optional, write_atomic};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Which socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Door {
    /// MCP, JSON-RPC and GraphQL.
    Http,
    /// Health, metrics and the operators' interface.
    Admin,
    /// Cap'n Proto.
    Capnp,
}

impl Door {
    /// Its name in `LISTEN_FDNAMES`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Admin => "admin",
            Self::Capnp => "capnp",
        }
    }

    /// The setting that says where it listens.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Http => "edge.listen",
            Self::Admin => "edge.admin_listen",
            Self::Capnp => "edge.capnp_listen",
        }
    }
}

/// Where an edge is to listen, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    /// `edge.listen`
    pub(crate) http: String,
    /// `edge.admin_listen`
    pub(crate) admin: String,
    /// `edge.capnp_listen`
    pub(crate) capnp: String,
}

impl Listen {
    fn at(&self, door: Door) -> &str {
        match door {
            Door::Http => &self.http,
            Door::Admin => &self.admin,
            Door::Capnp => &self.capnp,
        }
    }
}

/// One bound address, as kept across agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// Which socket.
    pub(crate) door: Door,
    /// The edge's slot; 0 for shared sockets.
    pub(crate) slot: u32,
    /// The address as configured.
    pub(crate) configured: String,
    /// The address it got.
    pub(crate) bound: SocketAddr,
}

/// Reads the addresses that the fleet of this folder is bound to.
pub(crate) fn endpoints(state: &StateDir) -> Result<Vec<Endpoint>> {
    let path = state.endpoints();
    match read_optional(&path)? {
        None => Ok(Vec::new()),
        Some(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not a list of endpoints", path.display())),
    }
}

#[derive(Debug)]
struct Socket {
    endpoint: Endpoint,
    fd: OwnedFd,
}

/// The sockets held, and the addresses that earlier agents had.
#[derive(Debug)]
pub(crate) struct Sockets {
    state: StateDir,
    held: Vec<Socket>,
    known: Vec<Endpoint>,
}

impl Sockets {
    /// Nothing held yet; knows the addresses of before.
    pub(crate) fn new(state: &StateDir) -> Result<Self> {
        Ok(Self {
            state: state.clone(),
            held: Vec::new(),
            known: endpoints(state)?,
        })
    }

    /// Takes copies of the known sockets out of a running edge. Says whether every shared one is held now.
    pub(crate) fn recover(&mut self, edge: &Handle) -> Result<bool> {
        let missing = |sockets: &Self| {
            sockets
                .known
                .iter()
                .any(|e| e.door != Door::Admin && !sockets.has(e))
        };
        let folder = format!("/proc/{}/fd", edge.identity.pid);
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))?;
        for entry in entries.flatten() {
            let link = fs::read_link(entry.path()).unwrap_or_default();
            let number = entry.file_name().to_string_lossy().parse();
            let (true, Ok(number)) = (link.to_string_lossy().starts_with("socket:"), number) else {
                continue;
            };
            let fd = match rustix::process::pidfd_getfd(
                edge.pidfd(),
                number,
                PidfdGetfdFlags::empty(),
            ) {
                Ok(fd) => fd,
                // It was closed meanwhile.
                Err(rustix::io::Errno::BADF) => continue,
                Err(e) => {
                    return Err(e)
                        .context("the system does not permit copying sockets from the edge");
                }
            };
            if let Some(endpoint) = self.known_listener(&fd) {
                self.held.push(Socket { endpoint, fd });
            }
        }
        Ok(!missing(self))
    }

    fn known_listener(&self, fd: &OwnedFd) -> Option<Endpoint> {
        if !rustix::net::sockopt::socket_acceptconn(fd).ok()? {
            return None;
        }
        let bound = SocketAddr::try_from(rustix::net::getsockname(fd).ok()?).ok()?;
        let known = self.known.iter().find(|e| e.bound == bound)?;
        (!self.has(known)).then(|| known.clone())
    }

    fn has(&self, endpoint: &Endpoint) -> bool {
        self.held.iter().any(|s| s.endpoint == *endpoint)
    }

    /// Copies of the three sockets of an edge in this slot, bound first where they are not yet.
    pub(crate) fn for_edge(
        &mut self,
        listen: &Listen,
        slot: u32,
    ) -> Result<Vec<(&'static str, OwnedFd)>> {
        let doors = [(Door::Http, 0), (Door::Admin, slot), (Door::Capnp, 0)];
        let before = self.held.len();
        let result = doors
            .iter()
            .map(|(door, slot)| self.copy(listen, *door, *slot))
            .collect();
        if self.held.len() != before {
            self.save()?;
        }
        result
    }

    fn copy(&mut self, listen: &Listen, door: Door, slot: u32) -> Result<(&'static str, OwnedFd)> {
        let configured = listen.at(door);
        let found = |s: &&Socket| {
            let e = &s.endpoint;
            e.door == door && e.slot == slot && e.configured == configured
        };
        if let Some(socket) = self.held.iter().find(found) {
            return duplicate(door, &socket.fd);
        }
        let known = self
            .known
            .iter()
            .find(|e| e.door == door && e.slot == slot && e.configured == configured)
            .map(|e| e.bound);
        let (fd, bound) = bind(door, configured, slot, known)?;
        let copy = duplicate(door, &fd)?;
        let endpoint = Endpoint {
            door,
            slot,
            configured: configured.to_owned(),
            bound,
        };
        self.held.push(Socket { endpoint, fd });
        Ok(copy)
    }

    /// Lets go of sockets that no edge of `listens` uses any more, and of those of slots from `slots` on.
    pub(crate) fn retain(&mut self, listens: &[Listen], slots: u32) -> Result<()> {
        let before = self.held.len();
        self.held.retain(|s| {
            let e = &s.endpoint;
            e.slot < slots && listens.iter().any(|l| l.at(e.door) == e.configured)
        });
        if self.held.len() != before {
            self.save()
        } else {
            Ok(())
        }
    }

    /// Writes the addresses down for the commands and for the next agent.
    pub(crate) fn save(&mut self) -> Result<()> {
        self.known = self.held.iter().map(|s| s.endpoint.clone()).collect();
        let text = serde_json::to_vec_pretty(&self.known).context("cannot encode the endpoints")?;
        write_atomic(&self.state.endpoints(), &text)
    }

    /// Closes everything and forgets the addresses.
    pub(crate) fn release(&mut self) -> Result<()> {
        self.held.clear();
        self.known.clear();
        gone(fs::remove_file(self.state.endpoints())).context("cannot remove the list of endpoints")
    }
}

fn duplicate(door: Door, fd: &OwnedFd) -> Result<(&'static str, OwnedFd)> {
    let copy = fd
        .as_fd()
        .try_clone_to_owned()
        .with_context(|| format!("cannot copy the {} socket", door.name()))?;
    Ok((door.name(), copy))
}

/// Binds at `known` if that is free and the configuration leaves the port open, else as configured.
fn bind(
    door: Door,
    configured: &str,
    slot: u32,
    known: Option<SocketAddr>,
) -> Result<(OwnedFd, SocketAddr)> {
    let mut address = resolve(door, configured)?;
    if slot > 0 {
        address.set_port(0);
    }
    if address.port() == 0
        && let Some(known) = known
        && let Ok(bound) = listen(known)
    {
        return Ok(bound);
    }
    listen(address).map_err(|e| refused(door, address, &e).into())
}

fn resolve(door: Door, configured: &str) -> Result<SocketAddr> {
    let unusable = |why: String| {
        Failure::new(format!(
            "`{}` = \"{configured}\" cannot be listened on: {why}",
            door.key()
        ))
        .hint("write an address and a port, such as \"127.0.0.1:8700\"; port 0 takes any free one")
    };
    let mut found = configured
        .to_socket_addrs()
        .map_err(|e| unusable(e.to_string()))?;
    Ok(found
        .next()
        .ok_or_else(|| unusable("the name has no address".into()))?)
}

fn listen(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    // The standard library sets SO_REUSEADDR, so a port with connections in TIME_WAIT can be bound.
    let listener = TcpListener::bind(address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    let bound = listener.local_addr()?;
    Ok((listener.into(), bound))
}

fn refused(door: Door, address: SocketAddr, error: &io::Error) -> Failure {
    let key = door.key();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let by = owner::of(address).unwrap_or_else(|| "another process".to_owned());
            Failure::new(format!("`{key}`: {address} is in use by {by}")).hint(format!(
                "stop that process, or change `{key}` in the configuration (port 0 takes any free one),\n\
                 or for this start alone: SWEETMCP__EDGE__{}={}:0",
                key.trim_start_matches("edge.").to_uppercase(),
                address.ip(),
            ))
        }
        io::ErrorKind::PermissionDenied => {
            Failure::new(format!("`{key}`: this user may not listen on {address}"))
                .hint("take a port of 1024 or above")
        }
        io::ErrorKind::AddrNotAvailable => Failure::new(format!(
            "`{key}`: {} is no address of this machine",
            address.ip()
        ))
        .hint("take 127.0.0.1, or 0.0.0.0 for all of its addresses"),
        _ => Failure::new(format!("`{key}`: cannot listen on {address}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::agent::launch::{Launch, launch};
    use crate::agent::process::hold_child;

    fn state(home: &tempfile::TempDir) -> StateDir {
        let state = StateDir::locate(Some(home.path()), |_| None).unwrap();
        state.create().unwrap();
        state
    }

    fn any_port() -> Listen {
        let address = || "127.0.0.1:0".to_owned();
        Listen {
            http: address(),
            admin: address(),
            capnp: address(),
        }
    }

    #[test]
    fn edges_share_the_public_sockets_and_have_their_own_admin_socket() {
        let home = tempfile::tempdir().unwrap();
        let state = state(&home);
        let mut sockets = Sockets::new(&state).unwrap();
        let mut ports = |slot| -> Vec<u16> {
            let fds = sockets.for_edge(&any_port(), slot).unwrap();
            fds.into_iter()
                .map(|(_, fd)| TcpListener::from(fd).local_addr().unwrap().port())
                .collect()
        };
        let (first, again, second) = (ports(0), ports(0), ports(1));
        assert_eq!(first, again);
        assert_eq!((first[0], first[2]), (second[0], second[2]));
        assert_ne!(first[1], second[1]);

        // With fewer edges, nobody would answer at the second's.
        sockets.retain(&[any_port()], 1).unwrap();
        let slots: Vec<u32> = endpoints(&state).unwrap().iter().map(|e| e.slot).collect();
        assert_eq!(slots, [0, 0, 0]);

        // A new agent comes back to the same ports.
        sockets.held.clear();
        let mut next = Sockets::new(&state).unwrap();
        let fds = next.for_edge(&any_port(), 0).unwrap();
        let back: Vec<u16> = fds
            .into_iter()
            .map(|(_, fd)| TcpListener::from(fd).local_addr().unwrap().port())
            .collect();
        assert_eq!(back, first);
        next.release().unwrap();
        assert!(endpoints(&state).unwrap().is_empty());
    }

    #[test]
    fn a_taken_port_names_its_owner_and_the_key() {
        let home = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let listen = Listen {
            admin: address.to_string(),
            ..any_port()
        };
        let error = Sockets::new(&state(&home))
            .unwrap()
            .for_edge(&listen, 0)
            .unwrap_err();
        let told = crate::failure::tell(&error);
        let text = told
            .lines
            .join("\n")
            .replace(&address.port().to_string(), "PORT");
        assert!(
            text.starts_with("`edge.admin_listen`: 127.0.0.1:PORT is in use by "),
            "{text}"
        );
        assert!(
            text.contains(&format!("(pid {})", std::process::id())),
            "{text}"
        );
        assert!(
            told.hint
                .unwrap()
                .contains("SWEETMCP__EDGE__ADMIN_LISTEN=127.0.0.1:0")
        );
    }

    #[tokio::test]
    async fn sockets_come_back_from_a_running_process() {
        let home = tempfile::tempdir().unwrap();
        let state = state(&home);
        let mut sockets = Sockets::new(&state).unwrap();
        let child = launch(Launch {
            program: "/bin/sleep".into(),
            args: vec!["60".into()],
            settings: &[],
            working_dir: home.path(),
            log: &state.log("edge-1"),
            sockets: sockets.for_edge(&any_port(), 0).unwrap(),
        })
        .unwrap();
        let before = endpoints(&state).unwrap();
        drop(sockets);

        let (held, handle) = hold_child(child, "").unwrap();
        let mut next = Sockets::new(&state).unwrap();
        match next.recover(&handle) {
            Ok(complete) => {
                assert!(complete);
                next.save().unwrap();
                assert_eq!(endpoints(&state).unwrap().len(), before.len());
            }
            // A hardened kernel forbids it; the agent then binds anew after the edge.
            Err(e) => assert!(e.to_string().contains("does not permit"), "{e:#}"),
        }
        handle.signal(rustix::process::Signal::KILL).unwrap();
        held.ended().await;
        // A process without the sockets gives none.
        let stranger = Command::new("sleep")
            .arg("60")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (held, handle) = hold_child(stranger, "").unwrap();
        if let Ok(complete) = Sockets::new(&state).unwrap().recover(&handle) {
            assert!(!complete);
        }
        handle.signal(rustix::process::Signal::KILL).unwrap();
        held.ended().await;
    }
}
