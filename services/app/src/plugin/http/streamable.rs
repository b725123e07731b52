//! Streamable HTTP: every message its own POST, answers as JSON or as a stream of events, of which a session of the older
//! era has one more to itself.
//!
//! A stream of the older era that breaks off before its answer goes on in another one, from the last event's id on. A session
//! that the server forgets ends the connection: whoever keeps it makes a new one.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb};
use mcp::{
    Era, Method, Revision, headers,
    incoming::{Incoming, decode},
    lines::Line,
    members::Members,
    mirror,
};
use reqwest::Response;
use serde_json::{Value, value::RawValue};
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Mirrors,
    endpoint::{Endpoint, Refusal, is_events},
    events::{Events, Place},
};
use crate::plugin::{
    outgoing,
    upstream::{
        Abandon, Lost, Wire as _,
        connection::{Carrier, Connection, Ears, Request, Sending},
        handshake::Agreement,
        watches::{Watches, listen_params},
    },
};

/// Requests under way at once on one connection.
const PENDING_MAX: usize = 256;
/// Messages on their way at once for which nobody waits.
const ASIDE_MAX: usize = 64;
/// The longest session id that is taken, in bytes.
const SESSION_BYTES_MAX: usize = 1024;
/// How long what nobody waits for may take: cancellations, refused questions, the end of a session.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often in a row a stream is asked to go on.
const REOPENS_MAX: usize = 3;
/// How long a server may take to begin a stream, or to say that it has none.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream of changes may be silent, or last, before it is opened again.
const LISTEN_LONGEST: Duration = Duration::from_secs(300);
/// The shortest time between two streams of changes.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);
/// How often the lists of a server are fetched that does not tell of changes.
const LIST_EVERY: Duration = Duration::from_secs(60);
/// The header that says after which event a stream goes on.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The way to a server. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Streamable(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    revision: OnceLock<Revision>,
    session: OnceLock<HeaderValue>,
    mirrors: Arc<ArcSwap<Mirrors>>,
    lists_changed: Arc<Notify>,
    /// A stream of changes has begun.
    listened: AtomicBool,
    aside: Arc<Semaphore>,
}

impl Streamable {
    /// Begins without agreement. `mirrors` says which arguments go into heads.
    pub(super) fn connect(
        endpoint: Endpoint,
        mirrors: Arc<ArcSwap<Mirrors>>,
        ears: Ears,
    ) -> (Self, Connection) {
        let plugin = Arc::clone(&endpoint.plugin);
        let way = Self(Arc::new(Shared {
            endpoint,
            revision: OnceLock::new(),
            session: OnceLock::new(),
            mirrors,
            lists_changed: Arc::clone(&ears.lists_changed),
            listened: AtomicBool::new(false),
            aside: Arc::new(Semaphore::new(ASIDE_MAX)),
        }));
        let (carrier, closed) = (Box::new(way.clone()), CancellationToken::new());
        let connection = Connection::new(plugin, carrier, PENDING_MAX, ears, closed);
        (way, connection)
    }

    /// Tells the server that its session ends, if there is one.
    pub(super) async fn end(&self) {
        if self.0.session.get().is_some() {
            let ended = self.send(Verb::DELETE, HeaderMap::new(), None, Some(ASIDE_TIMEOUT));
            // A server may refuse to end sessions; there is nothing more to do about it.
            drop(ended.await);
        }
    }

    /// Keeps a stream of what belongs to no call open for as long as it is polled. Where there is none, has the lists fetched
    /// now and then. `opened` is told when there is one, or when it is known that there is none.
    pub(super) async fn listen(
        self,
        connection: Connection,
        agreement: Agreement,
        watches: Watches,
        opened: Arc<Notify>,
    ) {
        match agreement.era() {
            Era::Legacy => self.follow_session(&connection, &opened).await,
            Era::Modern => self.follow_changes(&connection, &agreement, &watches).await,
        }
    }

    /// Follows the stream of a session of the older era (GET).
    async fn follow_session(&self, connection: &Connection, opened: &Notify) {
        let (mut place, mut first) = (Place::default(), true);
        loop {
            let stream = self.open(&place).await;
            opened.notify_one();
            let Ok(mut events) = stream else {
                tokio::time::sleep(LIST_EVERY).await;
                self.0.lists_changed.notify_one();
                continue;
            };
            if !std::mem::take(&mut first) {
                // What changed while there was no stream was not told.
                self.0.lists_changed.notify_one();
            }
            let ended = loop {
                let next = events.next(&self.0.endpoint, &mut place);
                match tokio::time::timeout(LISTEN_LONGEST, next).await {
                    Ok(Ok(event)) => {
                        connection.take_in(decode(&Line::Whole(event.data.as_bytes())), None);
                    }
                    Ok(Err(lost)) => break lost,
                    Err(_) => break Lost::Late,
                }
            };
            drop(events);
            tracing::debug!(plugin = %self.0.endpoint.plugin, ?ended, "the session's stream ended");
            tokio::time::sleep(place.pause()).await;
        }
    }

    /// Follows what a server of the newer era tells of changes (`subscriptions/listen`), of lists and of watched resources.
    async fn follow_changes(
        &self,
        connection: &Connection,
        agreement: &Agreement,
        watches: &Watches,
    ) {
        let mut wanted = watches.follow();
        loop {
            let uris = wanted.borrow_and_update().keys().cloned().collect();
            let told = async {
                if let Some(params) = listen_params(agreement, &uris) {
                    let until = Instant::now() + LISTEN_LONGEST;
                    let method = "subscriptions/listen";
                    let ended = connection.request(method, &params, until, Abandon::Cancel);
                    let ended = ended.await.err();
                    tracing::debug!(plugin = %self.0.endpoint.plugin, ?ended, "the stream of changes ended");
                }
                if self.0.listened.swap(false, Ordering::Relaxed) {
                    tokio::time::sleep(LISTEN_PAUSE).await;
                } else {
                    tokio::time::sleep(LIST_EVERY).await;
                    self.0.lists_changed.notify_one();
                }
            };
            tokio::select! {
                () = told => {}
                // What is wanted cannot be changed but in another stream.
                Ok(()) = wanted.changed() => {}
            }
        }
    }

    fn era(&self) -> Option<Era> {
        self.0.revision.get().map(|revision| revision.era())
    }

    /// Returns what the head repeats of the body, as the agreed revision has it.
    fn head(&self, method: &str, params: &RawValue) -> HeaderMap {
        let mut head = HeaderMap::new();
        let known = self.0.revision.get().copied();
        let revision = known.or((method == "server/discover").then_some(Revision::LATEST));
        if revision.is_none_or(|revision| revision.era() == Era::Legacy) {
            return head;
        }
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(&headers::encode(value)) {
                head.insert(name, value);
            }
        };
        if known.is_none() {
            set(headers::PROTOCOL_VERSION, Revision::LATEST.as_str());
        }
        set(headers::METHOD, method);
        let members = Members::parse(params).unwrap_or_default();
        let name = Method::parse(method)
            .name_member()
            .and_then(|member| members.get_str(member));
        if let Some(name) = name {
            set(headers::NAME, &name);
            if let (Some(mirrors), Some(arguments)) =
                (self.0.mirrors.load().get(&name), members.get("arguments"))
            {
                let arguments: Value = serde_json::from_str(arguments.get()).unwrap_or_default();
                let written = mirror::write(mirrors, &arguments).into_iter();
                head.extend(written.filter_map(|(name, value)| {
                    Some((HeaderName::try_from(name).ok()?, value.try_into().ok()?))
                }));
            }
        }
        head
    }

    async fn send(
        &self,
        verb: Verb,
        mut head: HeaderMap,
        message: Option<Vec<u8>>,
        patience: Option<Duration>,
    ) -> Result<Response, Lost> {
        if let Some(revision) = self.0.revision.get() {
            let revision = HeaderValue::from_static(revision.as_str());
            head.insert(headers::PROTOCOL_VERSION, revision);
        }
        if let Some(session) = self.0.session.get() {
            head.insert(headers::SESSION_ID, session.clone());
        }
        let endpoint = &self.0.endpoint;
        endpoint
            .send(verb, &endpoint.url, head, message, patience)
            .await
    }

    /// Sends a request, and hands over what comes of it.
    async fn exchange(
        &self,
        connection: &Connection,
        id: u64,
        method: &str,
        head: HeaderMap,
        message: Vec<u8>,
    ) -> Result<(), Lost> {
        let endpoint = &self.0.endpoint;
        let response = self.send(Verb::POST, head, Some(message), None).await?;
        if !response.status().is_success() {
            let error = self.refused(connection, response).await?;
            connection.take_in(Incoming::Answer(id, Err(error)), Some(id));
            return Ok(());
        }
        if method == "initialize"
            && let Some(session) = response.headers().get(headers::SESSION_ID)
            && session.len() <= SESSION_BYTES_MAX
        {
            // The first answer to `initialize` is the only one.
            drop(self.0.session.set(session.clone()));
        }
        if is_events(&response) {
            if method == "subscriptions/listen" {
                self.0.listened.store(true, Ordering::Relaxed);
                // What changed before the stream began was not told.
                self.0.lists_changed.notify_one();
            }
            return self.follow(connection, id, response).await;
        }
        let body = outgoing::body(response, endpoint.answer_bytes_max).await;
        let body = body.map_err(|error| endpoint.unread(error))?;
        match decode(&Line::Whole(&body)) {
            answer @ Incoming::Answer(answered, _) if answered == id => {
                connection.take_in(answer, Some(id));
                Ok(())
            }
            _ => Err(Lost::Garbage),
        }
    }

    /// Reads the stream of a request until its answer has come, and goes on in another stream where it breaks off.
    async fn follow(
        &self,
        connection: &Connection,
        id: u64,
        response: Response,
    ) -> Result<(), Lost> {
        let endpoint = &self.0.endpoint;
        let mut place = Place::default();
        let mut events = Events::of(response, endpoint.answer_bytes_max);
        loop {
            let take = |event: &mcp::sse::Event| {
                let incoming = decode(&Line::Whole(event.data.as_bytes()));
                let is_last = matches!(&incoming, Incoming::Answer(answered, _) if *answered == id);
                connection.take_in(incoming, Some(id));
                match is_last {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            let ended = events.each(endpoint, &mut place, take).await;
            let goes_on = self.era() == Some(Era::Legacy) && place.last_id().is_some();
            match ended {
                Err(Lost::Broken | Lost::Late) if goes_on => {}
                ended => return ended,
            }
            drop(events);
            events = self.reopen(&place).await?;
        }
    }

    /// Opens a stream that goes on from `place`, if need be at a later try.
    async fn reopen(&self, place: &Place) -> Result<Events, Lost> {
        for _ in 0..REOPENS_MAX {
            tokio::time::sleep(place.pause()).await;
            match self.open(place).await {
                Ok(events) => return Ok(events),
                // It may be another time.
                Err(Lost::Busy | Lost::Broken | Lost::Late | Lost::NotSent) => {}
                Err(_) => break,
            }
        }
        // The request itself was sent.
        Err(Lost::Broken)
    }

    /// Opens a stream (GET) that goes on from `place`.
    async fn open(&self, place: &Place) -> Result<Events, Lost> {
        let mut head = HeaderMap::new();
        if let Some(id) = place.last_id() {
            head.insert(LAST_EVENT_ID, id);
        }
        let opened = self.send(Verb::GET, head, None, None);
        let response = tokio::time::timeout(OPEN_PATIENCE, opened).await;
        let response = response.unwrap_or(Err(Lost::Late))?;
        let endpoint = &self.0.endpoint;
        if !response.status().is_success() {
            return match endpoint.refusal(response, false).await {
                Refusal::Lost(lost) => Err(lost),
                Refusal::Error(_) | Refusal::SessionGone => Err(Lost::NoEndpoint),
            };
        }
        match is_events(&response) {
            true => Ok(Events::of(response, endpoint.answer_bytes_max)),
            false => Err(Lost::NoEndpoint),
        }
    }

    /// Reads an answer that is no success: an error of the protocol, or why there is no answer. Without the session there is
    /// no connection.
    async fn refused(
        &self,
        connection: &Connection,
        response: Response,
    ) -> Result<Box<RawValue>, Lost> {
        let has_session = self.0.session.get().is_some();
        match self.0.endpoint.refusal(response, has_session).await {
            Refusal::Error(error) => Ok(error),
            Refusal::SessionGone => {
                connection.retire();
                Err(Lost::SessionGone)
            }
            Refusal::Lost(lost) => Err(lost),
        }
    }
}

impl Carrier for Streamable {
    fn begin<'a>(
        &'a self,
        connection: &'a Connection,
        request: Request<'a>,
    ) -> BoxFuture<'a, Result<Sending, Lost>> {
        let (way, connection) = (self.clone(), connection.clone());
        let (id, method) = (request.id, request.method.to_owned());
        let head = self.head(&method, request.params);
        let message = request.message();
        let task = tokio::spawn(async move {
            let done = way.exchange(&connection, id, &method, head, message);
            if let Err(lost) = done.await {
                connection.hand_over(id, Err(lost));
            }
        });
        std::future::ready(Ok(Some(AbortOnDropHandle::new(task)))).boxed()
    }

    fn send<'a>(&'a self, message: Vec<u8>) -> BoxFuture<'a, Result<(), Lost>> {
        async move {
            let sent = Self::send(self, Verb::POST, HeaderMap::new(), Some(message), None);
            let response = sent.await?;
            if response.status().is_success() {
                return Ok(());
            }
            let has_session = self.0.session.get().is_some();
            match self.0.endpoint.refusal(response, has_session).await {
                Refusal::Error(_) => Err(Lost::Garbage),
                Refusal::SessionGone => Err(Lost::SessionGone),
                Refusal::Lost(lost) => Err(lost),
            }
        }
        .boxed()
    }

    fn try_send(&self, message: Vec<u8>) -> bool {
        let Ok(permit) = Arc::clone(&self.0.aside).try_acquire_owned() else {
            return false;
        };
        let way = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let head = HeaderMap::new();
            let sent = Self::send(&way, Verb::POST, head, Some(message), Some(ASIDE_TIMEOUT));
            drop(sent.await);
        });
        true
    }

    fn agreed(&self, revision: Revision) {
        // There is one agreement in a connection's life.
        let _first = self.0.revision.set(revision);
    }

    fn cancels_by_closing(&self) -> bool {
        self.era() != Some(Era::Legacy)
    }
}
