//! One child, kept alive: start, agree, list, serve, and begin again with backoff when it ends.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use mcp::Era;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    StdioSpec,
    census::Kin,
    limits::{self, Excess},
    pipes,
    process::{Spawner, Streams},
    stderr,
};
use crate::plugin::{
    Listing, State,
    failing::{Failing, Failures},
    followed,
    hub::Hub,
    pins::{FilePins, NotPinned},
    signature::NotSigned,
    upstream::{
        backoff::Backoff,
        connection::{Connection, Ears},
        errands::Errands,
        handshake::{self, Agreement, HandshakeError},
        watches::{Subscribed, Watches},
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
    /// Calls that have chosen it and are not under way yet.
    chosen: AtomicUsize,
    /// How often it was chosen.
    choices: AtomicU64,
    /// It takes no more calls.
    leaving: AtomicBool,
}

impl Link {
    fn new(connection: Connection, agreement: Agreement) -> Self {
        Self {
            connection,
            agreement,
            errands: Errands::default(),
            chosen: AtomicUsize::new(0),
            choices: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
        }
    }

    /// Waits until nobody has wanted it for `idle`, and then keeps everybody from wanting it again.
    async fn unwanted(&self, idle: Duration) {
        let mut choices = self.choices.load(Ordering::SeqCst);
        loop {
            tokio::time::sleep(idle).await;
            let so_far = self.choices.load(Ordering::SeqCst);
            if so_far == choices && self.connection.in_flight() == 0 {
                self.leaving.store(true, Ordering::SeqCst);
                // Whoever has chosen it before is seen here; whoever does after sees that it leaves.
                if self.chosen.load(Ordering::SeqCst) == 0 && self.connection.in_flight() == 0 {
                    return;
                }
                self.leaving.store(false, Ordering::SeqCst);
            }
            choices = so_far;
        }
    }
}

/// A child that was chosen for a call; it does not leave for want of calls meanwhile.
#[derive(Debug)]
pub(super) struct InUse(Arc<Link>);

impl InUse {
    fn of(link: Arc<Link>) -> Option<Self> {
        link.chosen.fetch_add(1, Ordering::SeqCst);
        let chosen = Self(link);
        (!chosen.leaving.load(Ordering::SeqCst)).then_some(chosen)
    }

    /// Returns how many calls it has.
    pub(super) fn busy(&self) -> usize {
        self.connection.in_flight()
    }

    /// Counts that a call goes to it.
    pub(super) fn take(&self) {
        self.choices.fetch_add(1, Ordering::SeqCst);
    }
}

impl std::ops::Deref for InUse {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.chosen.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the children of one plugin have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) name: Arc<str>,
    pub(super) spec: Arc<StdioSpec>,
    pub(super) pins: Option<Arc<FilePins>>,
    pub(super) spawner: Spawner,
    /// Told whenever state or listing changes.
    pub(super) changed: Arc<Notify>,
    /// Told whenever a resource changes.
    pub(super) hub: Arc<Hub>,
    pub(super) watches: Watches,
    /// A child has asked clients something; each will.
    pub(super) asks: Arc<AtomicBool>,
    pub(super) failures: Failures,
    /// Told whenever a child comes into service.
    pub(super) came: Notify,
}

/// What one worker shows to the rest of the plugin.
#[derive(Debug)]
pub(super) struct Worker {
    /// Which of the plugin's children it is.
    number: usize,
    common: Arc<Common>,
    link: ArcSwapOption<Link>,
    listing: ArcSwap<Listing>,
    state: Mutex<State>,
    /// What was agreed with the child when it was last in service.
    known: ArcSwapOption<Agreement>,
}

/// How a child ended that lived only while it was needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It was not needed any more.
    Fulfilled,
    /// It ended before.
    Failed,
}

/// Why a run of a child ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it is not let in")]
    Pins(#[from] NotPinned),
    #[error("it is not let in")]
    Signature(#[from] NotSigned),
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
    #[error("it was ended")]
    Excess(#[from] Excess),
    #[error("it was not needed any more")]
    Unwanted,
    #[error("it was told to stop")]
    Stopped,
}

impl Ended {
    fn failing(&self) -> Failing {
        match self {
            Self::Pins(_) | Self::Signature(_) | Self::Spawn(_) => Failing::Unreachable,
            // A child that talks of other things gives no answer either.
            Self::Handshake { garbage: true, .. } => Failing::Garbage,
            Self::Handshake { error, .. } => match error.into() {
                Failing::Unreachable => Failing::Ended,
                other => other,
            },
            Self::Exited(_) | Self::Closed | Self::Stopped | Self::Unwanted => Failing::Ended,
            Self::Silent => Failing::Silent,
            Self::Excess(Excess::Memory { .. }) => Failing::Memory,
            Self::Excess(Excess::Cpu { .. }) => Failing::Cpu,
            Self::Excess(Excess::Processes { .. }) => Failing::Processes,
        }
    }
}

impl Worker {
    pub(super) fn new(number: usize, common: Arc<Common>) -> Arc<Self> {
        Arc::new(Self {
            number,
            common,
            link: ArcSwapOption::empty(),
            listing: ArcSwap::default(),
            state: Mutex::new(State::Starting),
            known: ArcSwapOption::empty(),
        })
    }

    /// Returns its number, which no other child of the plugin has had.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Returns the child if it is in service.
    pub(super) fn link(&self) -> Option<InUse> {
        self.link.load_full().and_then(InUse::of)
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

    fn set_state(&self, state: State) {
        if let State::Restarting { failing, .. } = &state {
            self.common.failures.count(*failing);
        }
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.common.changed.notify_one();
    }

    /// Keeps the child alive until `stop`; returns when nothing of it is left.
    pub(super) async fn supervise(&self, stop: &CancellationToken, restarts: &AtomicU64) {
        let mut backoff = Backoff::default();
        let mut era = None;
        loop {
            let began = Instant::now();
            let ended = self.run(&mut era, stop, None).await;
            self.link.store(None);
            if stop.is_cancelled() {
                self.set_state(State::Stopped);
                return;
            }
            let delay = backoff.next(began.elapsed(), rand::random());
            let reason = telemetry::error_chain(&ended);
            tracing::warn!(plugin = %self.common.name, reason, delay_ms = delay.as_millis(), "the plugin's process will be started again");
            self.set_state(State::Restarting {
                failing: ended.failing(),
                reason,
            });
            restarts.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Runs the child once, until it has had no call for `idle` or fails.
    pub(super) async fn live_while_needed(&self, stop: &CancellationToken, idle: Duration) -> Life {
        let ended = self.run(&mut None, stop, Some(idle)).await;
        self.link.store(None);
        match ended {
            Ended::Unwanted | Ended::Stopped => {
                self.set_state(State::Stopped);
                Life::Fulfilled
            }
            ended => {
                let reason = telemetry::error_chain(&ended);
                tracing::warn!(plugin = %self.common.name, reason, "one of the plugin's processes has failed; the others go on");
                self.set_state(State::Restarting {
                    failing: ended.failing(),
                    reason,
                });
                Life::Failed
            }
        }
    }

    async fn run(
        &self,
        era: &mut Option<Era>,
        stop: &CancellationToken,
        idle: Option<Duration>,
    ) -> Ended {
        if let Err(refused) = self.vouch().await {
            return refused;
        }
        let common = &self.common;
        let mut process = match common.spawner.spawn(&common.spec.program).await {
            Ok(process) => process,
            Err(error) => return error.into(),
        };
        tracing::info!(plugin = %common.name, guard_pid = process.id(), "the plugin's process was started");
        let Some(Streams {
            stdin,
            stdout,
            stderr,
        }) = process.streams()
        else {
            return Ended::Closed;
        };
        let mut kin = Kin::of(process.id());
        let changes = Arc::new(Notify::new());
        let ears = Ears {
            lists_changed: Arc::clone(&changes),
            hub: Arc::clone(&common.hub),
            asks: Arc::clone(&common.asks),
        };
        let connection = pipes::connect(Arc::clone(&common.name), stdin, stdout, ears);
        let (name, spec) = (Arc::clone(&common.name), Arc::clone(&common.spec));
        tokio::spawn(async move {
            stderr::attend(name, stderr, spec.stderr, &spec.program.env).await;
        });
        let ended = tokio::select! {
            ended = self.serve(&connection, era, &changes, idle) => ended,
            status = process.wait() => match status {
                Ok(status) => Ended::Exited(status.to_string()),
                Err(error) => error.into(),
            },
            excess = limits::watch(&mut kin, &common.spec.limits) => excess.into(),
            () = stop.cancelled() => Ended::Stopped,
        };
        self.link.store(None);
        connection.close();
        match &ended {
            // Nothing is left of it; the drop is what reaps a group that could not be seen.
            Ended::Exited(_) => drop(process),
            // What takes too much is not asked to stop.
            Ended::Excess(_) => {
                kin.look(Duration::ZERO);
                drop(process);
            }
            _ => {
                // What has left the group is found while its parents live.
                kin.look(Duration::ZERO);
                process.stop().await;
            }
        }
        // What left the group ends with the rest.
        drop(kin);
        ended
    }

    /// Holds the files that the child is made of against their signatures and pins.
    async fn vouch(&self) -> Result<(), Ended> {
        let common = Arc::clone(&self.common);
        if common.pins.is_none() && common.spec.signed_by.is_none() {
            return Ok(());
        }
        let checked = tokio::task::spawn_blocking(move || {
            let program = &common.spec.program;
            if let Some(by) = &common.spec.signed_by {
                by.check_files(program.executable())?;
            }
            if let Some(pins) = &common.pins {
                let mut files = Vec::new();
                for path in program.files() {
                    let digest = followed::sha256_of(&path)?;
                    files.push((path, digest));
                }
                pins.check(&common.name, files)?;
            }
            Ok::<_, Ended>(())
        });
        checked
            .await
            .unwrap_or_else(|lost| Err(std::io::Error::other(lost).into()))
    }

    /// Brings the child into service and stays until it cannot serve any more.
    async fn serve(
        &self,
        connection: &Connection,
        era: &mut Option<Era>,
        changes: &Notify,
        idle: Option<Duration>,
    ) -> Ended {
        let known = era.take();
        let deadline = Instant::now() + self.common.spec.start_timeout;
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
        tracing::info!(plugin = %self.common.name, revision = %agreement.revision, tools = self.listing().tools.len(), "the plugin is in service");
        self.known.store(Some(Arc::new(agreement.clone())));
        let link = Arc::new(Link::new(connection.clone(), agreement.clone()));
        self.link.store(Some(Arc::clone(&link)));
        self.set_state(State::Ready);
        self.common.came.notify_waiters();
        let unwanted = async {
            match idle {
                Some(idle) => link.unwanted(idle).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = self.attend(connection, &agreement, changes) => ended,
            () = unwanted => Ended::Unwanted,
        }
    }

    async fn attend(
        &self,
        connection: &Connection,
        agreement: &Agreement,
        changes: &Notify,
    ) -> Ended {
        let mut heard = connection.heard();
        let mut watches = self.common.watches.follow();
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
                    let deadline = Instant::now() + self.common.spec.start_timeout;
                    // The last known lists stay in force when the new ones cannot be had.
                    match self.list(connection, agreement, deadline).await {
                        Ok(()) => self.common.changed.notify_one(),
                        Err(error) => tracing::warn!(plugin = %self.common.name, error = telemetry::error_chain(&error), "the plugin's lists could not be fetched again"),
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
