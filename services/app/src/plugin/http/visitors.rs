//! Users that the server is asked for in their own names: each with a badge, a session and connections that no other has.
//!
//! A visitor begins its session at its first call. A session that the server forgets, and a token that it does not take any
//! more, are replaced once for a call; in both cases the server did not look at it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mcp::Failure;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Ended, Link, Shared};
use crate::plugin::{
    Answer, Ask, Scope,
    credential::{Badge, User, seats::Seats},
    outgoing,
    upstream::{Lost, NoAnswer, call::Terms},
};

/// Users for whom a session is kept.
const USERS_MAX: usize = 1024;
/// How long it is kept without a call.
const IDLE: Duration = Duration::from_secs(600);
/// How often idle ones are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// All users of one server.
#[derive(Debug)]
pub(super) struct Visitors(Seats<Visitor>);

impl Default for Visitors {
    fn default() -> Self {
        Self(Seats::new(USERS_MAX))
    }
}

/// One user at the server.
#[derive(Debug)]
struct Visitor {
    badge: Arc<Badge>,
    /// Locked while a session is begun, so that many calls begin one.
    link: Mutex<Option<Arc<Link>>>,
}

impl Visitor {
    /// Returns the session, begun if there is none.
    async fn link(&self, shared: &Shared, deadline: Instant) -> Result<Arc<Link>, NoAnswer> {
        let mut link = self.link.lock().await;
        if let Some(link) = link.as_ref().filter(|link| !link.connection.is_closed()) {
            return Ok(Arc::clone(link));
        }
        let not_sent = || NoAnswer::Lost(Lost::NotSent);
        let known = shared.known.load_full().ok_or_else(not_sent)?;
        let badge = Arc::clone(&self.badge);
        // What changes in the lists is told to the plugin's own session.
        let met = shared.meet(badge, Arc::default(), Some(known), deadline);
        let begun = met.await.map_err(|ended| {
            let lost = match &ended {
                Ended::Handshake(error) => error.lost(),
                _ => None,
            };
            NoAnswer::Lost(lost.unwrap_or_else(|| {
                let error = telemetry::error_chain(&ended);
                tracing::warn!(plugin = %shared.name, error, "the plugin's server begins no session for a user");
                Lost::NotSent
            }))
        })?;
        let begun = Arc::new(begun);
        *link = Some(Arc::clone(&begun));
        Ok(begun)
    }

    /// Tells the server that the session ends, if there is one.
    async fn leave(&self) {
        if let Some(link) = self.link.lock().await.take() {
            link.end().await;
        }
    }
}

/// Asks in a user's name.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    user: &User,
    ask: &Ask<'_>,
    deadline: Instant,
) -> Result<Answer, Failure> {
    let seat = shared
        .visitors
        .0
        .seat(user, Instant::now(), |user| Visitor {
            badge: Arc::new(shared.credentials.of(user.clone())),
            link: Mutex::default(),
        });
    let (visitor, gone) = seat.ok_or_else(|| shared.failure(Lost::Busy))?;
    if let Some(gone) = gone {
        tokio::spawn(async move { gone.leave().await });
    }
    let asked = async {
        let mut first = true;
        loop {
            // Said here, a missing grant is told as what it is.
            let bearer = visitor.badge.bearer().await;
            let bearer = bearer.map_err(|error| outgoing::no_credential(&shared.name, &error))?;
            let lost = match once(&visitor, shared, ask, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(NoAnswer::Failed(failure)) => return Err(failure),
                Err(NoAnswer::Lost(lost)) => lost,
            };
            let again = match lost {
                Lost::SessionGone => true,
                Lost::Denied => visitor.badge.refused(bearer.as_ref()).await,
                _ => false,
            };
            if !(first && again) {
                return Err(shared.failure(lost));
            }
            first = false;
        }
    };
    let late = |_| Err(shared.failure(Lost::Late));
    tokio::time::timeout_at(deadline.into(), asked)
        .await
        .unwrap_or_else(late)
}

async fn once(
    visitor: &Visitor,
    shared: &Shared,
    ask: &Ask<'_>,
    deadline: Instant,
) -> Result<Answer, NoAnswer> {
    let link = visitor.link(shared, deadline).await?;
    // What a server said to one user is for that user, whatever it says itself.
    let terms = Terms {
        scope: Scope::Private,
        ..shared.terms()
    };
    link.ask(terms, ask, deadline).await
}

/// Ends sessions that nobody uses, and all of them after `stop`.
pub(super) async fn see_out(shared: Arc<Shared>, stop: CancellationToken) {
    let leave = async |gone: Vec<Arc<Visitor>>| {
        futures::future::join_all(gone.iter().map(|visitor| visitor.leave())).await;
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {
                leave(shared.visitors.0.empty_idle(Instant::now(), IDLE)).await;
            }
            () = stop.cancelled() => {
                leave(shared.visitors.0.empty_all()).await;
                return;
            }
        }
    }
}
