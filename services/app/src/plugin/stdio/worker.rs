//! One child, kept alive: start, agree, list, serve, and begin again with backoff when it ends.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use mcp::Era;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    StdioSpec, pipes,
    process::{Process, Spawner, Streams},
    stderr,
    watches::{Subscribed, Watches},
};
use crate::plugin::{
    Listing, State,
    failing::{Failing, Failures},
    followed,
    hub::Hub,
    pins::{FilePins, NotPinned},
    upstream::{
        backoff::Backoff,
        connection::{Connection, Ears},
        errands::Errands,
        handshake::{self, Agreement, HandshakeError},
    },
};

/// How often a silent child is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long changes of lists are gathered before they are fetched.
const CHANGES_SETTLE: Duration = Duration::from_millis(100);

/// A child in service.
#[derive(Debug)]
pub(super) struct Link {
    /// How to reach it.
    pub(super) connection: Connection,
    /// What was agreed with it.
    pub(super) agreement: Agreement,
    /// What its tasks wait for.
    pub(super) errands: Errands,
}

/// What one worker shows to the rest of the plugin.
#[derive(Debug)]
pub(super) struct Worker {
    name: Arc<str>,
    spec: Arc<StdioSpec>,
    pins: Option<Arc<FilePins>>,
    spawner: Spawner,
    link: ArcSwapOption<Link>,
    listing: ArcSwap<Listing>,
    state: Mutex<State>,
    /// Told whenever state or listing changes.
    changed: Arc<Notify>,
    /// Told whenever a resource changes.
    hub: Arc<Hub>,
    watches: Watches,
    /// What was agreed with the child when it was last in service.
    known: ArcSwapOption<Agreement>,
    /// The child asks clients something; its next life will too.
    asks: Arc<AtomicBool>,
    failures: Failures,
    pub(super) restarts: AtomicU64,
}

/// Why a run of a child ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it is not let in")]
    Pins(#[from] NotPinned),
    #[error("it cannot be started")]
    Spawn(#[from] std::io::Error),
    #[error("it did not come up")]
    Handshake {
        #[source]
        error: HandshakeError,
        /// It said something that is no message.
        garbage: bool,
    },
    #[error("it ended ({0})")]
    Exited(String),
    #[error("it closed its output")]
    Closed,
    #[error("it did not answer a ping")]
    Silent,
    #[error("it was told to stop")]
    Stopped,
}

impl Ended {
    fn failing(&self) -> Failing {
        match self {
            Self::Pins(_) | Self::Spawn(_) => Failing::Unreachable,
            // A child that talks of other things gives no answer either.
            Self::Handshake { garbage: true, .. } => Failing::Garbage,
            Self::Handshake { error, .. } => match error.into() {
                Failing::Unreachable => Failing::Ended,
                other => other,
            },
            Self::Exited(_) | Self::Closed | Self::Stopped => Failing::Ended,
            Self::Silent => Failing::Silent,
        }
    }
}

impl Worker {
    pub(super) fn new(
        name: Arc<str>,
        spec: Arc<StdioSpec>,
        pins: Option<Arc<FilePins>>,
        spawner: Spawner,
        changed: Arc<Notify>,
        hub: Arc<Hub>,
        watches: Watches,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            spec,
            pins,
            spawner,
            link: ArcSwapOption::empty(),
            listing: ArcSwap::default(),
            state: Mutex::new(State::Starting),
            changed,
            hub,
            watches,
            known: ArcSwapOption::empty(),
            asks: Arc::default(),
            failures: Failures::default(),
            restarts: AtomicU64::new(0),
        })
    }

    /// Returns the child if it is in service.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.load_full()
    }

    /// Returns what the child offers, or offered when it was last in service.
    pub(super) fn listing(&self) -> Arc<Listing> {
        self.listing.load_full()
    }

    /// Tells whether the child said, when it was last in service, that it can do this.
    pub(super) fn has_capability(&self, pointer: &str) -> bool {
        let known = self.known.load();
        known.as_ref().is_some_and(|known| known.has(pointer))
    }

    pub(super) fn state(&self) -> State {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns how often the child failed for a reason.
    pub(super) fn failures(&self, why: Failing) -> u64 {
        self.failures.of(why)
    }

    fn set_state(&self, state: State) {
        if let State::Restarting { failing, .. } = &state {
            self.failures.count(*failing);
        }
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_one();
    }

    /// Keeps the child alive until `stop`; returns when nothing of it is left.
    pub(super) async fn supervise(self: Arc<Self>, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        let mut era = None;
        loop {
            let began = Instant::now();
            let ended = self.run(&mut era, &stop).await;
            self.link.store(None);
            if stop.is_cancelled() {
                self.set_state(State::Stopped);
                return;
            }
            let delay = backoff.next(began.elapsed(), rand::random());
            let reason = telemetry::error_chain(&ended);
            tracing::warn!(plugin = %self.name, reason, delay_ms = delay.as_millis(), "the plugin's process will be started again");
            self.set_state(State::Restarting {
                failing: ended.failing(),
                reason,
            });
            self.restarts.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn run(&self, era: &mut Option<Era>, stop: &CancellationToken) -> Ended {
        if let Err(refused) = self.vouch().await {
            return refused;
        }
        let mut process = match self.spawner.spawn(&self.spec.program).await {
            Ok(process) => process,
            Err(error) => return error.into(),
        };
        tracing::info!(plugin = %self.name, pid = process.id(), "the plugin's process was started");
        let Some(Streams {
            stdin,
            stdout,
            stderr,
        }) = process.streams()
        else {
            return Ended::Closed;
        };
        let changes = Arc::new(Notify::new());
        let ears = Ears {
            lists_changed: Arc::clone(&changes),
            hub: Arc::clone(&self.hub),
            asks: Arc::clone(&self.asks),
        };
        let connection = pipes::connect(Arc::clone(&self.name), stdin, stdout, ears);
        tokio::spawn(stderr::log(Arc::clone(&self.name), stderr));
        let ended = tokio::select! {
            ended = self.serve(&connection, era, &changes) => ended,
            status = process.wait() => match status {
                Ok(status) => Ended::Exited(status.to_string()),
                Err(error) => error.into(),
            },
            () = stop.cancelled() => Ended::Stopped,
        };
        self.link.store(None);
        connection.close();
        self.end(process, &ended).await;
        ended
    }

    /// Holds the files that the child is made of against their pins.
    async fn vouch(&self) -> Result<(), Ended> {
        let Some(pins) = self.pins.clone() else {
            return Ok(());
        };
        let (name, spec) = (Arc::clone(&self.name), Arc::clone(&self.spec));
        let checked = tokio::task::spawn_blocking(move || {
            let mut files = Vec::new();
            for path in spec.program.files() {
                let digest = followed::sha256_of(&path)?;
                files.push((path, digest));
            }
            Ok::<_, Ended>(pins.check(&name, files)?)
        });
        checked
            .await
            .unwrap_or_else(|lost| Err(std::io::Error::other(lost).into()))
    }

    async fn end(&self, process: Process, ended: &Ended) {
        match ended {
            // Nothing is left of it; the drop is what reaps a group that could not be seen.
            Ended::Exited(_) => drop(process),
            _ => process.stop().await,
        }
    }

    /// Brings the child into service and stays until it cannot serve any more.
    async fn serve(
        &self,
        connection: &Connection,
        era: &mut Option<Era>,
        changes: &Notify,
    ) -> Ended {
        let known = era.take();
        let deadline = Instant::now() + self.spec.start_timeout;
        let agreement = match handshake::agree(connection, known, deadline).await {
            Ok(agreement) => agreement,
            Err(error) => {
                // A child that dies of the modern question is met with the legacy one the next time, and the other way round.
                *era = if known.is_none() {
                    Some(Era::Legacy)
                } else {
                    None
                };
                return came_not_up(connection, error);
            }
        };
        *era = Some(agreement.era());
        if let Err(error) = self.list(connection, &agreement, deadline).await {
            return came_not_up(connection, error);
        }
        tracing::info!(plugin = %self.name, revision = %agreement.revision, tools = self.listing().tools.len(), "the plugin is in service");
        self.known.store(Some(Arc::new(agreement.clone())));
        self.link.store(Some(Arc::new(Link {
            connection: connection.clone(),
            agreement: agreement.clone(),
            errands: Errands::default(),
        })));
        self.set_state(State::Ready);
        self.attend(connection, &agreement, changes).await
    }

    async fn attend(
        &self,
        connection: &Connection,
        agreement: &Agreement,
        changes: &Notify,
    ) -> Ended {
        let mut heard = connection.heard();
        let mut watches = self.watches.follow();
        watches.mark_changed();
        let mut subscribed = Subscribed::default();
        loop {
            tokio::select! {
                () = connection.closed() => return Ended::Closed,
                Ok(()) = watches.changed() => {
                    let wanted = watches.borrow_and_update().keys().cloned().collect();
                    subscribed.bring_to(wanted, connection, agreement).await;
                }
                () = subscribed.ended() => {}
                () = changes.notified() => {
                    tokio::time::sleep(CHANGES_SETTLE).await;
                    let deadline = Instant::now() + self.spec.start_timeout;
                    // The last known lists stay in force when the new ones cannot be had.
                    match self.list(connection, agreement, deadline).await {
                        Ok(()) => self.changed.notify_one(),
                        Err(error) => tracing::warn!(plugin = %self.name, error = telemetry::error_chain(&error), "the plugin's lists could not be fetched again"),
                    }
                }
                () = tokio::time::sleep(PING_EVERY) => {
                    if heard == connection.heard() && !handshake::ping(connection, agreement).await {
                        return Ended::Silent;
                    }
                    heard = connection.heard();
                }
            }
        }
    }

    async fn list(
        &self,
        connection: &Connection,
        agreement: &Agreement,
        deadline: Instant,
    ) -> Result<(), HandshakeError> {
        let listing = handshake::list_all(connection, agreement, deadline).await?;
        self.listing.store(Arc::new(listing));
        Ok(())
    }
}

fn came_not_up(connection: &Connection, error: HandshakeError) -> Ended {
    Ended::Handshake {
        error,
        garbage: connection.said_garbage(),
    }
}
