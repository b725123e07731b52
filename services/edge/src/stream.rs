//! An answer as it comes: what an app tells of a call while it is under way, then the response.
//!
//! A call whose client can be told is a stream of [`Part`]s; dropping it cancels the call at the app. What is
//! told waits in a short queue, and when that is full the app's own connection waits: a slow client slows
//! its own call and fills no memory.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use mcp::envelope::{self, Body};
use mcp::era::listen::{lists_changed, missed};
use mcp::{Call, Cause, Failure, Method, Reply};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::edge::Edge;
use crate::events::Teller;
use crate::identity::Caller;
use crate::{gateway, lists};

/// Notifications that wait for one slow client.
const WAITING_MAX: usize = 16;

/// A piece of an answer.
#[derive(Debug)]
pub enum Part {
    /// A notification.
    Told(Bytes),
    /// The response: the last piece.
    Reply(Reply),
}

/// Where a call's notifications go.
#[derive(Debug)]
pub struct Told {
    client: Option<mpsc::Sender<Bytes>>,
    /// The principal's streams of events, if it has any.
    events: Option<Teller>,
    bytes: usize,
    has_begun: bool,
    /// Whether this goes on with what another instance began to tell.
    goes_on: bool,
    /// What tells that every list may have changed which the client listens to.
    lists: Vec<Vec<u8>>,
}

/// Nobody reads on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientGone;

impl Told {
    /// For front doors that cannot tell: notifications are dropped.
    #[must_use]
    pub fn nobody() -> Told {
        Told::to(None)
    }

    fn to(client: Option<mpsc::Sender<Bytes>>) -> Told {
        Told {
            client,
            events: None,
            bytes: 0,
            has_begun: false,
            goes_on: false,
            lists: Vec::new(),
        }
    }

    /// Tells the principal's streams of events too.
    pub fn also(&mut self, events: Option<Teller>) {
        self.events = events;
    }

    /// Passes a notification on, as soon as there is room for it.
    ///
    /// # Errors
    /// [`ClientGone`] when nobody reads the stream any more.
    pub async fn tell(&mut self, message: Bytes) -> Result<(), ClientGone> {
        if let Some(events) = &self.events {
            events.told(&message);
        }
        if self.client.is_none() {
            return Ok(());
        }
        let goes_on = !std::mem::replace(&mut self.has_begun, true) && self.goes_on;
        if !goes_on {
            return self.send(message).await;
        }
        // The client knows already that it is listened to; not what it missed meanwhile.
        if let Ok(Body::One(Ok(acknowledgement))) = envelope::read(&message) {
            for missed in missed(&acknowledgement) {
                self.send(missed.into()).await?;
            }
        }
        Ok(())
    }

    /// Takes note of what the client listens to, by the acknowledgement of its `subscriptions/listen`.
    pub fn listens(&mut self, acknowledgement: &Bytes) {
        if let Ok(Body::One(Ok(acknowledgement))) = envelope::read(acknowledgement) {
            self.lists = lists_changed(&acknowledgement);
        }
    }

    /// Tells who listens that the lists may have changed.
    ///
    /// # Errors
    /// [`ClientGone`] when nobody reads the stream any more.
    pub async fn tell_of_lists(&mut self) -> Result<(), ClientGone> {
        for changed in self.lists.clone() {
            self.send(changed.into()).await?;
        }
        Ok(())
    }

    async fn send(&mut self, message: Bytes) -> Result<(), ClientGone> {
        self.bytes += message.len();
        match &self.client {
            Some(client) => client.send(message).await.map_err(|_| ClientGone),
            None => Ok(()),
        }
    }

    /// Lets another instance go on with a `subscriptions/listen`.
    pub fn go_on(&mut self) {
        self.goes_on = true;
        self.has_begun = false;
    }

    /// Whether nobody reads on.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.client.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// Whether the client has been told something: from then on no other attempt can answer it.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Bytes that the client was told.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A call under way.
struct UnderWay {
    work: Option<BoxFuture<'static, Result<Reply, Failure>>>,
    told: mpsc::Receiver<Bytes>,
    answer: Option<Result<Reply, Failure>>,
}

/// Runs a call; see the module. The last item is the response, or why there is none.
pub fn run(
    edge: Arc<Edge>,
    context: Arc<Context>,
    caller: Arc<Caller>,
    call: Call,
) -> BoxStream<'static, Result<Part, Failure>> {
    if let Some(wanted) = lists::wanted(&call) {
        return lists::listen(edge, context, caller, call, wanted);
    }
    let (client, told) = mpsc::channel(WAITING_MAX);
    let named = telemetry::request_span(context.request_id.as_str(), &context.trace);
    let work = async move {
        let mut told = Told::to(Some(client));
        if call.method != Method::SubscriptionsListen {
            return gateway::run_telling(&edge, &context, &caller, call, &mut told).await;
        }
        // Listening would go on for as long as the client likes, whatever became of its token.
        let left = edge.identity.left(&caller);
        let listening = gateway::run_telling(&edge, &context, &caller, call, &mut told);
        tokio::time::timeout(left, listening)
            .await
            .unwrap_or_else(|_| {
                let text = "the token has expired";
                Err(Failure::say(Cause::Unauthenticated, text))
            })
    };
    let work = tracing::Instrument::instrument(work, named).boxed();
    let under_way = UnderWay {
        work: Some(work),
        told,
        answer: None,
    };
    stream::unfold(under_way, |mut under_way| async move {
        let part = under_way.next().await?;
        Some((part, under_way))
    })
    .boxed()
}

impl UnderWay {
    async fn next(&mut self) -> Option<Result<Part, Failure>> {
        if let Some(work) = &mut self.work {
            tokio::select! {
                biased;
                Some(message) = self.told.recv() => return Some(Ok(Part::Told(message))),
                answer = work => {
                    self.work = None;
                    self.answer = Some(answer);
                }
            }
        }
        // What was told and not read yet comes before the response.
        if let Ok(message) = self.told.try_recv() {
            return Some(Ok(Part::Told(message)));
        }
        self.answer.take().map(|answer| answer.map(Part::Reply))
    }
}
