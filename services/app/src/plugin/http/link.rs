//! A session with a server, from the first word to the last.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use mcp::Era;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Ended, Mirrors, Transport,
    duplex::{self, DuplexError},
    endpoint::Endpoint,
    streamable::Streamable,
};
use crate::plugin::{
    Answer, Ask,
    upstream::{
        Lost, NoAnswer,
        call::{self, Terms},
        connection::{Connection, Ears, patience},
        errands::Errands,
        handshake::{self, Agreement},
        watches::Watches,
    },
};

/// How long a session waits for its own stream before it takes calls: a server whose question finds no stream loses it.
const STREAM_PATIENCE: Duration = Duration::from_secs(2);

/// What was agreed with a server, and how it was reached.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) agreement: Agreement,
    transport: Transport,
}

/// How a server is met.
#[derive(Debug)]
pub(super) struct Manner {
    pub(super) transport: Transport,
    /// Which arguments go into heads.
    pub(super) mirrors: Arc<ArcSwap<Mirrors>>,
    /// What somebody wants to know of.
    pub(super) watches: Watches,
    /// What was agreed in another session, if this is one for a user: what changes is told in that one.
    pub(super) known: Option<Arc<Known>>,
    /// Until when.
    pub(super) deadline: Instant,
}

/// A session with a server.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) known: Known,
    /// What its tasks wait for.
    errands: Errands,
    way: Option<Streamable>,
    _listening: Option<AbortOnDropHandle<()>>,
}

impl Link {
    /// Meets the server: over streamable HTTP, or over the transport of 2024-11-05 if nothing at its address takes messages.
    ///
    /// # Errors
    /// [`Ended`] when there is no agreement.
    pub(super) async fn meet(
        endpoint: Endpoint,
        ears: Ears,
        manner: Manner,
    ) -> Result<Self, Ended> {
        let transport = match &manner.known {
            Some(known) => known.transport,
            None => manner.transport,
        };
        if transport == Transport::Sse {
            return Self::over_duplex(endpoint, ears, manner.deadline).await;
        }
        let met = Self::over_streamable(endpoint.clone(), ears.clone(), &manner).await;
        match met {
            Err(Ended::Handshake(error))
                if transport == Transport::Auto && error.lost() == Some(Lost::NoEndpoint) =>
            {
                match Self::over_duplex(endpoint, ears, manner.deadline).await {
                    Err(Ended::Duplex(DuplexError::NoStream)) => Err(Ended::Handshake(error)),
                    met => met,
                }
            }
            met => met,
        }
    }

    async fn over_streamable(
        endpoint: Endpoint,
        ears: Ears,
        manner: &Manner,
    ) -> Result<Self, Ended> {
        let mirrors = Arc::clone(&manner.mirrors);
        let (way, connection) = Streamable::connect(endpoint, mirrors, ears);
        let known = manner.known.as_ref().map(|known| &known.agreement);
        let agreement = match known {
            Some(known) if known.era() == Era::Modern => {
                handshake::assume(&connection, known);
                known.clone()
            }
            _ => {
                let era = known.map(Agreement::era);
                match handshake::agree(&connection, era, manner.deadline).await {
                    Ok(agreement) => agreement,
                    Err(error) => {
                        way.end().await;
                        return Err(error.into());
                    }
                }
            }
        };
        let era = agreement.era();
        // Servers of the newer era tell of nothing but changes there.
        let listening = (era == Era::Legacy || known.is_none()).then(|| {
            let opened = Arc::new(Notify::new());
            let listens = way.clone().listen(
                connection.clone(),
                agreement.clone(),
                manner.watches.clone(),
                Arc::clone(&opened),
            );
            (AbortOnDropHandle::new(tokio::spawn(listens)), opened)
        });
        if let (Era::Legacy, Some((_, opened))) = (era, &listening) {
            // One that begins no stream in time is served without.
            drop(tokio::time::timeout(STREAM_PATIENCE, opened.notified()).await);
        }
        Ok(Self {
            connection,
            known: Known {
                agreement,
                transport: Transport::Streamable,
            },
            errands: Errands::default(),
            way: Some(way),
            _listening: listening.map(|(listening, _)| listening),
        })
    }

    async fn over_duplex(endpoint: Endpoint, ears: Ears, deadline: Instant) -> Result<Self, Ended> {
        let connection = duplex::connect(endpoint, ears, deadline).await?;
        match handshake::agree(&connection, Some(Era::Legacy), deadline).await {
            Ok(agreement) => Ok(Self {
                connection,
                known: Known {
                    agreement,
                    transport: Transport::Sse,
                },
                errands: Errands::default(),
                way: None,
                _listening: None,
            }),
            Err(error) => {
                connection.close();
                Err(error.into())
            }
        }
    }

    /// Asks under the server's own names, and returns its answer in the form of 2026-07-28.
    ///
    /// # Errors
    /// [`NoAnswer`] when there is none.
    pub(super) async fn ask(
        &self,
        terms: Terms,
        ask: &Ask<'_>,
        deadline: Instant,
    ) -> Result<Answer, NoAnswer> {
        let (connection, agreement) = (&self.connection, &self.known.agreement);
        let turn = match ask.method.name_member() {
            // Whoever asks for a task waits for nobody's call.
            Some("taskId") => None,
            _ => {
                let until = patience(Instant::now(), deadline);
                connection.turn(until).await.map_err(NoAnswer::Lost)?
            }
        };
        let asked = call::ask(
            connection,
            agreement,
            &self.errands,
            terms,
            turn,
            ask,
            deadline,
        );
        asked.await.map_err(|none| match none {
            // Whoever found the session gone before us has closed the connection.
            NoAnswer::Lost(Lost::NotSent) if self.connection.is_closed() => {
                NoAnswer::Lost(Lost::SessionGone)
            }
            none => none,
        })
    }

    /// Takes no more calls, and tells the server that the session ends.
    pub(super) async fn end(&self) {
        match &self.way {
            // Calls under way have streams of their own, and go on.
            Some(way) => {
                self.connection.retire();
                way.end().await;
            }
            None => self.connection.close(),
        }
    }
}
