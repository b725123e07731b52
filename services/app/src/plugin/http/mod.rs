//! Remote MCP servers, of either era: over streamable HTTP, or over the transport of 2024-11-05.
//!
//! - [`endpoint`], [`events`]: requests and their refusals; streams of events
//! - [`streamable`], [`duplex`]: the two transports
//! - [`link`]: a session with the server, whichever of them carries it
//! - [`visitors`]: users that the server is asked for in their own names
//!
//! The server is met as a child would be (`upstream::handshake`), kept under watch, and met again with backoff when it is
//! lost. A session that the server forgets is replaced at once; a call that met its end is sent again in the new one, since
//! the server did not look at it.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use mcp::{
    Era, Failure,
    mirror::{self, Mirror},
};
use reqwest::Url;
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Answer, Ask, Listing, Scope, State,
    credential::{Badge, Credential, Credentials, User},
    failing::Failing,
    hub::Hub,
    outgoing,
    shown::Shown,
    upstream::{
        Lost, NoAnswer,
        backoff::Backoff,
        call::Terms,
        connection::Ears,
        handshake::{self, HandshakeError},
        watches::{Subscribed, Watches},
    },
};

mod duplex;
mod endpoint;
mod events;
mod link;
mod streamable;
mod visitors;

use duplex::DuplexError;
use endpoint::Endpoint;
use link::{Known, Link, Manner};
use visitors::Visitors;

/// Arguments that go into a request's head, by tool; only of tools that have any.
type Mirrors = HashMap<String, Vec<Mirror>>;

/// How often a silent server is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long changes of lists are gathered before they are fetched.
const CHANGES_SETTLE: Duration = Duration::from_millis(100);
/// A session that lasted so long is replaced at once when it is gone.
const SESSION_SHORTEST: Duration = Duration::from_secs(1);

/// How a server's messages are carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// Streamable HTTP; HTTP with server-sent events if nothing at the address takes messages.
    #[default]
    Auto,
    /// Streamable HTTP.
    Streamable,
    /// HTTP with server-sent events, of 2024-11-05.
    Sse,
}

/// How to reach a remote server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSpec {
    /// The MCP endpoint; of 2024-11-05, where its stream is.
    pub url: String,
    /// How messages are carried.
    pub transport: Transport,
    /// How requests prove who sends them.
    pub credential: Credential,
    /// How long the server may take from the first request until its lists are known.
    pub start_timeout: Duration,
    /// How long one call may take, if its client gives it that long.
    pub call_timeout: Duration,
    /// The largest answer, in bytes.
    pub answer_bytes_max: usize,
}

/// A plugin that is a remote server.
#[derive(Debug)]
pub struct Http {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    spec: HttpSpec,
    credentials: Arc<Credentials>,
    /// The plugin's own badge: for lists, and for calls unless they are made in users' names.
    own: Arc<Badge>,
    visitors: Visitors,
    /// Which arguments go into heads, by tool.
    mirrors: Arc<ArcSwap<Mirrors>>,
    shown: Shown,
    /// Told whenever a resource changes.
    hub: Arc<Hub>,
    watches: Watches,
    /// The server asks clients without saying on which call's behalf, in this session or in one before.
    asks: Arc<AtomicBool>,
    links: watch::Sender<Option<Arc<Link>>>,
    /// What was agreed with the server when it was last in service.
    known: ArcSwapOption<Known>,
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("its URL cannot be used")]
    Url,
    #[error("the HTTP client cannot be made")]
    Client(#[from] reqwest::Error),
    #[error("it did not come up")]
    Handshake(#[from] HandshakeError),
    #[error("it cannot be spoken to over HTTP with server-sent events")]
    Duplex(#[from] DuplexError),
    #[error("it forgot the session")]
    Session,
    #[error("it did not answer a ping")]
    Silent,
    #[error("it was told to stop")]
    Stopped,
}

impl Ended {
    fn failing(&self) -> Failing {
        match self {
            Self::Url | Self::Client(_) => Failing::Unreachable,
            Self::Handshake(error) => error.into(),
            Self::Duplex(DuplexError::Lost(lost)) => (*lost).into(),
            Self::Duplex(DuplexError::NoStream) => Failing::Unreachable,
            Self::Duplex(DuplexError::NoEndpoint | DuplexError::Elsewhere) => Failing::Garbage,
            Self::Session | Self::Stopped => Failing::Ended,
            Self::Silent => Failing::Silent,
        }
    }
}

impl Http {
    /// Meets the server in the background. `changed` is told of every change of state or lists, `hub` of every change of a
    /// resource.
    pub fn start(name: &str, spec: HttpSpec, changed: &Arc<Notify>, hub: &Arc<Hub>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let credentials = Credentials::new(spec.credential.clone());
        let shared = Arc::new(Shared {
            name: name.into(),
            spec,
            own: Arc::new(credentials.own()),
            credentials,
            visitors: Visitors::default(),
            mirrors: Arc::default(),
            shown: Shown::new(changed),
            hub: Arc::clone(hub),
            watches: Watches::default(),
            asks: Arc::default(),
            links: watch::Sender::new(None),
            known: ArcSwapOption::empty(),
        });
        tasks.spawn(Arc::clone(&shared).supervise(stop.clone()));
        if shared.credentials.knows_users() {
            tasks.spawn(visitors::see_out(Arc::clone(&shared), stop.clone()));
        }
        tasks.close();
        Self {
            shared,
            tasks,
            stop,
        }
    }

    /// Returns what is offered, or was when the server was last in service.
    pub fn listing(&self) -> Arc<Listing> {
        self.shared.shown.listing()
    }

    /// Returns how often it failed for a reason.
    pub fn failures(&self, why: Failing) -> u64 {
        self.shared.shown.failures(why)
    }

    /// Returns whether the server is in service.
    pub fn state(&self) -> State {
        self.shared.shown.state()
    }

    /// Asks the server, in a new session if the old one is gone; in the name of the user whose call it is, if so configured.
    ///
    /// # Errors
    /// [`mcp::Cause::Forbidden`] for a user without a grant, [`mcp::Cause::NoBackend`] when nothing ran, [`mcp::Cause::UpstreamBroken`] and [`mcp::Cause::Timeout`] when the call
    /// may have run, [`mcp::Cause::UpstreamInvalid`] for an answer that is no MCP.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Failure> {
        let shared = &self.shared;
        let deadline = ask
            .context
            .deadline
            .min(Instant::now() + shared.spec.call_timeout);
        if shared.credentials.knows_users() {
            let user = User::of(&ask.context.client);
            let user = user.map_err(|error| outgoing::no_credential(&shared.name, &error))?;
            return visitors::ask(shared, &user, &ask, deadline).await;
        }
        let failure = |lost: Lost| shared.failure(lost);
        let mut links = shared.links.subscribe();
        let first = links.borrow_and_update().clone();
        let first = first.ok_or_else(|| failure(Lost::NotSent))?;
        let bearer = shared.own.held().await;
        let lost = match first.ask(shared.terms(), &ask, deadline).await {
            Ok(answer) => return Ok(answer),
            Err(NoAnswer::Failed(failed)) => return Err(failed),
            Err(NoAnswer::Lost(Lost::SessionGone)) => Lost::SessionGone,
            Err(NoAnswer::Lost(Lost::Denied)) if shared.own.refused(bearer.as_ref()).await => {
                // With another token; the server did not look at the call.
                let again = first.ask(shared.terms(), &ask, deadline).await;
                return again.map_err(|none| shared.unanswered(none));
            }
            Err(none) => return Err(shared.unanswered(none)),
        };
        let another =
            |link: &Option<Arc<Link>>| link.as_ref().is_some_and(|link| !Arc::ptr_eq(link, &first));
        let found = tokio::time::timeout_at(deadline.into(), links.wait_for(another)).await;
        let Ok(Ok(second)) = found.map(|found| found.map(|link| link.clone())) else {
            return Err(failure(lost));
        };
        let second = second.ok_or_else(|| failure(lost))?;
        let asked = second.ask(shared.terms(), &ask, deadline).await;
        asked.map_err(|none| shared.unanswered(none))
    }

    /// Tells whether the server said, when it was last in service, that it can do this.
    pub fn has_capability(&self, pointer: &str) -> bool {
        let known = self.shared.known.load();
        let known = known.as_ref();
        known.is_some_and(|known| known.agreement.has(pointer))
    }

    /// Wants to know of a resource's changes from now on. False if the server cannot tell.
    pub fn watch(&self, uri: &str) -> bool {
        self.has_capability("/resources/subscribe") && self.shared.watches.add(uri)
    }

    /// Takes one [`Http::watch`] back.
    pub fn unwatch(&self, uri: &str) {
        self.shared.watches.remove(uri);
    }

    /// Ends the session and waits until the server was told.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn failure(&self, lost: Lost) -> Failure {
        lost.failure(&self.name, &self.shown.state())
    }

    fn unanswered(&self, none: NoAnswer) -> Failure {
        none.failure(&self.name, &self.shown.state())
    }

    /// What calls in the plugin's own name have in common.
    fn terms(&self) -> Terms {
        Terms {
            plugin: Arc::clone(&self.name),
            call_timeout: self.spec.call_timeout,
            scope: Scope::Public,
            listing: self.shown.listing(),
        }
    }

    /// Meets the server for whoever wears the badge, as another session did if one is `known`.
    async fn meet(
        &self,
        badge: Arc<Badge>,
        changes: Arc<Notify>,
        known: Option<Arc<Known>>,
        deadline: Instant,
    ) -> Result<Link, Ended> {
        let url = Url::parse(&self.spec.url).ok().filter(Url::has_host);
        let endpoint = Endpoint {
            plugin: Arc::clone(&self.name),
            client: outgoing::client()?,
            url: url.ok_or(Ended::Url)?,
            badge,
            answer_bytes_max: self.spec.answer_bytes_max,
        };
        let ears = Ears {
            lists_changed: changes,
            hub: Arc::clone(&self.hub),
            asks: Arc::clone(&self.asks),
        };
        let manner = Manner {
            transport: self.spec.transport,
            mirrors: Arc::clone(&self.mirrors),
            watches: self.watches.clone(),
            known,
            deadline,
        };
        Link::meet(endpoint, ears, manner).await
    }

    async fn supervise(self: Arc<Self>, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let ended = self.run(&stop).await;
            if stop.is_cancelled() {
                self.links.send_replace(None);
                self.shown.set_state(State::Stopped);
                return;
            }
            let reason = telemetry::error_chain(&ended);
            if matches!(ended, Ended::Session) && began.elapsed() > SESSION_SHORTEST {
                tracing::info!(plugin = %self.name, "the plugin's server has forgotten the session; a new one is begun");
                continue;
            }
            self.links.send_replace(None);
            let delay = backoff.next(began.elapsed(), rand::random());
            tracing::warn!(plugin = %self.name, reason, delay_ms = delay.as_millis(), "the plugin's server will be met again");
            self.shown.set_state(State::Restarting {
                failing: ended.failing(),
                reason,
            });
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn run(&self, stop: &CancellationToken) -> Ended {
        let changes = Arc::new(Notify::new());
        let deadline = Instant::now() + self.spec.start_timeout;
        let met = self.meet(Arc::clone(&self.own), Arc::clone(&changes), None, deadline);
        let met = tokio::select! {
            met = met => met,
            () = stop.cancelled() => return Ended::Stopped,
        };
        let link = match met {
            Ok(link) => Arc::new(link),
            Err(ended) => {
                self.drop_refused_token(&ended).await;
                return ended;
            }
        };
        let ended = tokio::select! {
            ended = self.serve(&link, &changes, deadline) => ended,
            () = stop.cancelled() => Ended::Stopped,
        };
        match ended {
            Ended::Session => link.connection.retire(),
            _ => link.end().await,
        }
        self.drop_refused_token(&ended).await;
        ended
    }

    /// A token that was not taken is not sent again.
    async fn drop_refused_token(&self, ended: &Ended) {
        let denied = match ended {
            Ended::Handshake(error) => error.lost() == Some(Lost::Denied),
            Ended::Duplex(error) => *error == DuplexError::Lost(Lost::Denied),
            _ => false,
        };
        if denied {
            let bearer = self.own.held().await;
            self.own.refused(bearer.as_ref()).await;
        }
    }

    async fn serve(&self, link: &Arc<Link>, changes: &Notify, deadline: Instant) -> Ended {
        if let Err(error) = self.list(link, deadline).await {
            return error.into();
        }
        let revision = &link.known.agreement.revision;
        tracing::info!(plugin = %self.name, %revision, tools = self.shown.listing().tools.len(), "the plugin is in service");
        self.known.store(Some(Arc::new(link.known.clone())));
        self.links.send_replace(Some(Arc::clone(link)));
        self.shown.set_state(State::Ready);
        self.attend(link, changes).await
    }

    async fn attend(&self, link: &Link, changes: &Notify) -> Ended {
        let Link {
            connection, known, ..
        } = link;
        let mut heard = connection.heard();
        let (mut watches, mut subscribed) = (self.watches.follow(), Subscribed::default());
        watches.mark_changed();
        let subscribes = known.agreement.era() == Era::Legacy;
        loop {
            tokio::select! {
                () = connection.closed() => return Ended::Session,
                // A server of the newer era is told with the stream of changes.
                Ok(()) = watches.changed(), if subscribes => {
                    let wanted = watches.borrow_and_update().keys().cloned().collect();
                    subscribed.bring_to(wanted, connection, &known.agreement).await;
                }
                () = changes.notified() => {
                    tokio::time::sleep(CHANGES_SETTLE).await;
                    let deadline = Instant::now() + self.spec.start_timeout;
                    // The last known lists stay in force when the new ones cannot be had.
                    if let Err(error) = self.list(link, deadline).await {
                        tracing::warn!(plugin = %self.name, error = telemetry::error_chain(&error), "the plugin's lists could not be fetched again");
                    }
                }
                () = tokio::time::sleep(PING_EVERY) => {
                    if heard == connection.heard() && !handshake::ping(connection, &known.agreement).await {
                        return Ended::Silent;
                    }
                    heard = connection.heard();
                }
            }
        }
    }

    async fn list(&self, link: &Link, deadline: Instant) -> Result<(), HandshakeError> {
        let agreement = &link.known.agreement;
        let mut listing = handshake::list_all(&link.connection, agreement, deadline).await?;
        let mut mirrors = Mirrors::new();
        listing.tools.retain(|tool| match mirror::of_tool(&tool.raw) {
            Ok(of_tool) if of_tool.is_empty() => true,
            Ok(of_tool) => {
                mirrors.insert(tool.key.clone(), of_tool);
                true
            }
            Err(error) => {
                tracing::warn!(plugin = %self.name, tool = tool.key.escape_debug().to_string(), error = %error, "the tool is not served");
                false
            }
        });
        self.mirrors.store(Arc::new(mirrors));
        self.shown.set_listing(listing);
        Ok(())
    }
}
