//! Remote MCP servers over streamable HTTP, of either era.
//!
//! - [`sse`]: events; pure
//! - [`connection`]: one agreement with the server
//! - [`visitors`]: users that the server is asked for in their own names
//!
//! The server is met as a child would be (`upstream::handshake`), kept under watch, and met again with backoff when it is
//! lost. A session that the server forgets is replaced at once; a call that met its end is sent again in the new one, since
//! the server did not look at it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use mcp::{Cause, Era, Failure, mirror};
use reqwest::Url;
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Answer, Ask, Listing, State,
    credential::{Badge, Credential, Credentials, User},
    failing::Failing,
    outgoing,
    shown::Shown,
    upstream::{
        Lost,
        backoff::Backoff,
        forms,
        handshake::{self, Agreement, HandshakeError},
    },
};

mod connection;
pub mod sse;
mod visitors;

use connection::{Connection, Endpoint, Mirrored};
use visitors::Visitors;

/// How often a silent server is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long changes of lists are gathered before they are fetched.
const CHANGES_SETTLE: Duration = Duration::from_millis(100);
/// How often the lists of a server are fetched that does not tell of changes.
const LIST_EVERY: Duration = Duration::from_secs(60);
/// The shortest time between two streams of changes.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

/// How to reach a remote server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSpec {
    /// The MCP endpoint.
    pub url: String,
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
    mirrored: Arc<ArcSwap<Mirrored>>,
    shown: Shown,
    links: watch::Sender<Option<Arc<Link>>>,
    /// What was agreed with the server when it was last in service.
    known: ArcSwapOption<Agreement>,
}

/// A server in service.
#[derive(Debug)]
struct Link {
    connection: Connection,
    agreement: Agreement,
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("its URL cannot be used")]
    Url,
    #[error("the HTTP client cannot be made")]
    Client(#[from] reqwest::Error),
    #[error("it did not come up")]
    Handshake(#[from] HandshakeError),
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
            Self::Session | Self::Stopped => Failing::Ended,
            Self::Silent => Failing::Silent,
        }
    }
}

impl Http {
    /// Meets the server in the background. `changed` is told of every change of state or lists.
    pub fn start(name: &str, spec: HttpSpec, changed: &Arc<Notify>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let credentials = Credentials::new(spec.credential.clone());
        let shared = Arc::new(Shared {
            name: name.into(),
            spec,
            own: Arc::new(credentials.own()),
            credentials,
            visitors: Visitors::default(),
            mirrored: Arc::default(),
            shown: Shown::new(changed),
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
        let lost = match first.ask(&ask, deadline).await {
            Ok(answer) => return Ok(answer),
            Err(NoAnswer::Failed(failed)) => return Err(failed),
            Err(NoAnswer::Lost(Lost::SessionGone)) => Lost::SessionGone,
            Err(NoAnswer::Lost(Lost::Denied)) if shared.own.refused(bearer.as_ref()).await => {
                // With another token; the server did not look at the call.
                let again = first.ask(&ask, deadline).await;
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
        let asked = second.ask(&ask, deadline).await;
        asked.map_err(|none| shared.unanswered(none))
    }

    /// Tells whether the server said, when it was last in service, that it can do this. What it tells of resources does not
    /// reach us, nor does what an older one logs: its level is set for a session, which many clients share.
    pub fn has_capability(&self, pointer: &str) -> bool {
        let known = self.shared.known.load();
        known.as_ref().is_some_and(|known| match pointer {
            "/resources/subscribe" => false,
            "/logging" => known.era() == Era::Modern && known.has(pointer),
            _ => known.has(pointer),
        })
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

/// Why a call has no answer.
enum NoAnswer {
    /// The server gave none.
    Lost(Lost),
    /// What was asked, or what came back, has no form in the other era.
    Failed(Failure),
}

impl Link {
    /// Asks in the server's era, under its own names, and returns its answer in the form of 2026-07-28. What the server tells
    /// before goes to the client.
    async fn ask(&self, ask: &Ask<'_>, deadline: Instant) -> Result<Answer, NoAnswer> {
        let id = self.connection.fresh_id();
        let params = forms::params_for_server(ask, self.agreement.era(), id);
        let params = params.map_err(NoAnswer::Failed)?;
        let notices = &ask.context.notices;
        let asked = self
            .connection
            .call(id, ask.method.as_str(), &params, notices, deadline);
        let answer = asked.await.map_err(|lost| match lost {
            // Whoever found the session gone before us has closed the connection.
            Lost::NotSent if self.connection.is_closed() => Lost::SessionGone,
            lost => lost,
        });
        let answer = match answer.map_err(NoAnswer::Lost)? {
            Answer::Result(result) => {
                forms::result_from_server(result, ask.method).map(Answer::Result)
            }
            Answer::Error(error) => forms::error_from_server(error).map(Answer::Error),
            Answer::Questions(_) => Err(Failure::new(Cause::Internal)),
        };
        answer.map_err(NoAnswer::Failed)
    }
}

impl Shared {
    fn failure(&self, lost: Lost) -> Failure {
        lost.failure(&self.name, &self.shown.state())
    }

    fn unanswered(&self, none: NoAnswer) -> Failure {
        match none {
            NoAnswer::Failed(failed) => failed,
            NoAnswer::Lost(lost) => self.failure(lost),
        }
    }

    /// Makes a connection of its own for whoever wears the badge; nothing is sent yet.
    fn connect(&self, badge: Arc<Badge>, changes: Arc<Notify>) -> Result<Connection, Ended> {
        let url = Url::parse(&self.spec.url).ok().filter(Url::has_host);
        let endpoint = Endpoint {
            plugin: Arc::clone(&self.name),
            client: outgoing::client()?,
            url: url.ok_or(Ended::Url)?,
            badge,
            answer_bytes_max: self.spec.answer_bytes_max,
        };
        let mirrored = Arc::clone(&self.mirrored);
        Ok(Connection::new(endpoint, mirrored, changes))
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
            if matches!(ended, Ended::Session) && began.elapsed() > LISTEN_PAUSE {
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
        let connection = match self.connect(Arc::clone(&self.own), Arc::clone(&changes)) {
            Ok(connection) => connection,
            Err(ended) => return ended,
        };
        let ended = tokio::select! {
            ended = self.serve(&connection, &changes) => ended,
            () = stop.cancelled() => Ended::Stopped,
        };
        match ended {
            Ended::Session => connection.close(),
            _ => connection.end().await,
        }
        if matches!(&ended, Ended::Handshake(error) if error.is_denied()) {
            // A token that is not taken is not sent again.
            let bearer = self.own.held().await;
            self.own.refused(bearer.as_ref()).await;
        }
        ended
    }

    async fn serve(&self, connection: &Connection, changes: &Notify) -> Ended {
        let deadline = Instant::now() + self.spec.start_timeout;
        let agreement = match handshake::agree(connection, None, deadline).await {
            Ok(agreement) => agreement,
            Err(error) => return error.into(),
        };
        if let Err(error) = self.list(connection, &agreement, deadline).await {
            return error.into();
        }
        tracing::info!(plugin = %self.name, revision = %agreement.revision, tools = self.shown.listing().tools.len(), "the plugin is in service");
        self.known.store(Some(Arc::new(agreement.clone())));
        self.links.send_replace(Some(Arc::new(Link {
            connection: connection.clone(),
            agreement: agreement.clone(),
        })));
        self.shown.set_state(State::Ready);
        tokio::select! {
            ended = self.attend(connection, &agreement, changes) => ended,
            () = listen(connection, changes) => Ended::Silent,
        }
    }

    async fn attend(
        &self,
        connection: &Connection,
        agreement: &Agreement,
        changes: &Notify,
    ) -> Ended {
        let mut heard = connection.heard();
        loop {
            tokio::select! {
                () = connection.closed() => return Ended::Session,
                () = changes.notified() => {
                    tokio::time::sleep(CHANGES_SETTLE).await;
                    let deadline = Instant::now() + self.spec.start_timeout;
                    // The last known lists stay in force when the new ones cannot be had.
                    if let Err(error) = self.list(connection, agreement, deadline).await {
                        tracing::warn!(plugin = %self.name, error = telemetry::error_chain(&error), "the plugin's lists could not be fetched again");
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
        let mut listing = handshake::list_all(connection, agreement, deadline).await?;
        let mut mirrored = Mirrored::new();
        listing.tools.retain(|tool| match mirror::of_tool(&tool.raw) {
            Ok(mirrors) if mirrors.is_empty() => true,
            Ok(mirrors) => {
                mirrored.insert(tool.key.clone(), mirrors);
                true
            }
            Err(error) => {
                tracing::warn!(plugin = %self.name, tool = tool.key.escape_debug().to_string(), %error, "the tool is not served");
                false
            }
        });
        self.mirrored.store(Arc::new(mirrored));
        self.shown.set_listing(listing);
        Ok(())
    }
}

/// Keeps a stream of changes open; where there is none, has the lists fetched now and then.
async fn listen(connection: &Connection, changes: &Notify) {
    loop {
        let pause = if connection.listen().await {
            LISTEN_PAUSE
        } else {
            changes.notify_one();
            LIST_EVERY
        };
        tokio::time::sleep(pause).await;
    }
}
