//! A session on a connection that carries messages both ways, as a WebSocket does.
//!
//! It begins with `initialize` and ends with its connection. So it needs no token, no stream to be opened
//! beside and no tape: whoever reads the connection reads all that there is, and when nobody does any more,
//! its calls are cancelled.

use bytes::Bytes;
use mcp::envelope::{self, Body as Read, Message};
use mcp::members::Members;
use mcp::notification::Notification;
use mcp::session::Session;
use mcp::{Cause, Failure, Method, Refused};
use tokio::sync::mpsc;

use crate::host::{Asker, Backend, Host, IntoRefused, Opened, Takes, name_of, refused, told_alone};
use crate::listen;
use crate::tape::Frame;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    /// It was answered here, or wants no answer.
    Here,
    /// The server is asked; its answer comes when it does.
    Called,
}

/// One side of the connection: takes the client's messages, and sends what is for the client.
pub struct Talk {
    session: Option<(String, Session)>,
    is_listening: bool,
    out: mpsc::Sender<Frame>,
}

impl Talk {
    /// A connection on which nothing was said yet. Dropping `out`'s receiver cancels all calls.
    #[must_use]
    pub fn new(out: mpsc::Sender<Frame>) -> Talk {
        Talk {
            session: None,
            is_listening: false,
            out,
        }
    }

    /// The session, once it has begun.
    #[must_use]
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref().map(|(_, session)| session)
    }

    /// Takes one message of the client. Waits for the server only while the session begins.
    ///
    /// # Errors
    /// The refusal to answer with, for a message that stands alone; entries of a batch are answered each.
    pub async fn take<B: Backend>(
        &mut self,
        host: &Host<B>,
        asker: Asker<B::Caller>,
        message: &Bytes,
    ) -> Result<Took, Refused> {
        let entries = match envelope::read(message)? {
            Read::One(read) => return self.one(host, asker, read?, message).await,
            Read::Batch(entries) => entries,
        };
        let takes_batches = |session: &Session| session.revision.takes_batches();
        if !self.session().is_some_and(takes_batches) {
            let text = "send each message alone: arrays are of 2025-03-26";
            return Err(Failure::say(Cause::InvalidRequest, text).into_refused());
        }
        let mut took = Took::Here;
        for entry in entries {
            let request_id = asker.request_id.clone();
            let taken = match entry {
                Ok(read) => {
                    let alone = told_alone(&read);
                    self.one(host, asker.clone(), read, &alone).await
                }
                Err(refused) => Err(refused),
            };
            match taken {
                Ok(Took::Here) => {}
                Ok(Took::Called) => took = Took::Called,
                Err(Refused { id, failure }) => {
                    self.send(failure.to_json_rpc(id.as_ref(), &request_id))
                        .await;
                }
            }
        }
        Ok(took)
    }

    /// Ends the session: nothing that was kept of it stays.
    pub async fn end<B: Backend>(self, host: &Host<B>) {
        if let Some((name, _)) = &self.session {
            host.board.forget(name).await;
        }
    }

    async fn one<B: Backend>(
        &mut self,
        host: &Host<B>,
        asker: Asker<B::Caller>,
        read: Message<'_>,
        message: &Bytes,
    ) -> Result<Took, Refused> {
        match read {
            Message::Request { id, method, params } => {
                let refuse = |failure| refused(Some(id.clone()), failure);
                let known = Method::parse(&method);
                if known == Method::Initialize {
                    if self.session.is_some() {
                        let text = "the session has begun already";
                        return Err(refuse(Failure::say(Cause::InvalidRequest, text)));
                    }
                    let begun = host.begin(&asker, &id, params).await;
                    let (answer, session) = begun.map_err(refuse)?;
                    self.session = session.map(|session| (name_of(&session), session));
                    self.send(answer).await;
                    return Ok(Took::Called);
                }
                if known == Method::Ping {
                    host.backend.admit(&asker.caller).await.map_err(refuse)?;
                    self.send(envelope::write_result(&id, &Members::default().to_raw()))
                        .await;
                    return Ok(Took::Here);
                }
                let opened = self.opened(host).await.map_err(refuse)?;
                let frames = &self.out;
                let begun = host
                    .request(&asker, &opened, &id, &method, params, Takes::Both, frames)
                    .await;
                match begun.map_err(refuse)? {
                    None => Ok(Took::Called),
                    Some(answer) => {
                        self.send(answer).await;
                        Ok(Took::Here)
                    }
                }
            }
            Message::Notification { method, params } => {
                let admitted = host.backend.admit(&asker.caller).await;
                admitted.map_err(Failure::into_refused)?;
                if Method::parse(&method) == Method::Initialized && !self.is_listening {
                    let opened = self.opened(host).await;
                    let opened = opened.map_err(Failure::into_refused)?;
                    self.is_listening = true;
                    let attached = listen::attach(host, asker, opened, self.out.clone()).await;
                    attached.map_err(Failure::into_refused)?;
                } else if let (Some((name, _)), Ok(Notification::Cancelled { .. })) =
                    (&self.session, Notification::read(&method, params))
                {
                    host.board.give(name, message);
                }
                Ok(Took::Here)
            }
            Message::Response { .. } => {
                let admitted = host.backend.admit(&asker.caller).await;
                admitted.map_err(Failure::into_refused)?;
                if let Some((name, _)) = &self.session {
                    host.board.give(name, message);
                }
                Ok(Took::Here)
            }
        }
    }

    async fn opened<B: Backend>(&self, host: &Host<B>) -> Result<Opened, Failure> {
        let Some((name, session)) = &self.session else {
            let text = "begin with initialize, or say the revision 2026-07-28 in params._meta";
            return Err(Failure::say(Cause::InvalidRequest, text));
        };
        Ok(Opened {
            name: name.clone(),
            session: session.clone(),
            facts: host.board.facts(name).await?,
        })
    }

    /// Sends to the client. If nobody reads any more, whoever serves the connection sees it first.
    async fn send(&self, message: impl Into<Bytes>) {
        let frame = Frame {
            message: message.into(),
            is_response: true,
        };
        let _ = self.out.send(frame).await;
    }
}
