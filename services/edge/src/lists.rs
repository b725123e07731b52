//! `subscriptions/listen` to lists alone, which the edge answers by itself.
//!
//! It knows when the lists of the fleet have changed, so thousands of clients that wait for that, as those of the older era all
//! do, need no connection to an app each. Which of the lists has changed an edge does not know: all that a client listens to may
//! have. Who listens to resources or tasks too is told by an app.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::FutureExt;
use futures::stream::{self, BoxStream, StreamExt};
use mcp::call::{META_CLIENT_CAPABILITIES, META_VERSION};
use mcp::envelope::{self, Body};
use mcp::era::listen::lists_changed;
use mcp::members::{Members, is_object};
use mcp::notification::{Filter, acknowledged};
use mcp::{Call, Cause, Failure, Id, Message, Method, Outcome, Reply, Revision};
use tokio::time::{Instant, sleep_until};

use crate::admission::{self, Permit};
use crate::context::Context;
use crate::edge::Edge;
use crate::events::Lists;
use crate::identity::Caller;
use crate::record::Record;
use crate::stream::{Part, Told};

/// What of a call the edge answers by itself: one that listens to lists and to nothing else. Whatever is not quite right is an
/// app's to refuse.
#[must_use]
pub fn wanted(call: &Call) -> Option<(Id, Filter)> {
    if call.method != Method::SubscriptionsListen {
        return None;
    }
    let Ok(Body::One(Ok(Message::Request { id, params, .. }))) = envelope::read(&call.body) else {
        return None;
    };
    let params = Members::parse(params?).ok()?;
    let meta = Members::parse(params.get("_meta")?).ok()?;
    let is_sound = meta.get_str(META_VERSION).as_deref() == Some(Revision::LATEST.as_str())
        && meta.get(META_CLIENT_CAPABILITIES).is_some_and(is_object);
    let wanted = params.get("notifications")?;
    let filter = Filter::read(wanted).ok()?;
    let others = ["resourceSubscriptions", "taskIds"];
    let members = Members::parse(wanted).ok()?;
    let is_of_lists = others.iter().all(|other| members.get(other).is_none());
    (is_sound && is_of_lists).then_some((id, filter))
}

/// Listens for as long as the caller's token lasts. The last item says that it does not any more, or why there is none.
pub fn listen(
    edge: Arc<Edge>,
    context: Arc<Context>,
    caller: Arc<Caller>,
    call: Call,
    (id, filter): (Id, Filter),
) -> BoxStream<'static, Result<Part, Failure>> {
    // What it takes to begin is gone when the stream has begun.
    let begun = async move {
        let mut record = Record::begin(&edge, &context, &caller, &call);
        let admitted = admission::listen(&edge, &context, &caller).await;
        record.opened();
        let told = Told::nobody();
        match admitted {
            Ok(permit) => {
                record.end(&Ok(well()), &told);
                let acknowledgement = Bytes::from(acknowledged(&id, &filter));
                let listening = Listening {
                    lists: edge.events.lists(),
                    until: Instant::now() + edge.identity.left(&caller),
                    untold: VecDeque::from([acknowledgement.clone()]),
                    acknowledgement,
                    is_over: false,
                    _permit: permit,
                };
                listening.parts()
            }
            Err(failure) => {
                let failed = Err(failure);
                record.end(&failed, &told);
                stream::iter(failed.err().map(Err)).boxed()
            }
        }
    };
    stream::once(begun.boxed()).flatten().boxed()
}

fn well() -> Reply {
    Reply {
        status: 200,
        outcome: Outcome::Ok,
        body: Bytes::new(),
    }
}

/// One who listens.
struct Listening {
    lists: Lists,
    /// When the caller's token ends.
    until: Instant,
    untold: VecDeque<Bytes>,
    /// What the client was told first: it says what is told, and how.
    acknowledgement: Bytes,
    is_over: bool,
    _permit: Permit,
}

impl Listening {
    fn parts(self) -> BoxStream<'static, Result<Part, Failure>> {
        // On the heap once: `unfold` moves it to and fro.
        stream::unfold(Box::new(self), |mut listening| async move {
            let part = listening.next().await?;
            Some((part, listening))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Part, Failure>> {
        loop {
            if let Some(message) = self.untold.pop_front() {
                return Some(Ok(Part::Told(message)));
            }
            if self.is_over {
                return None;
            }
            tokio::select! {
                biased;
                () = sleep_until(self.until) => {
                    self.is_over = true;
                    let text = "the token has expired";
                    return Some(Err(Failure::say(Cause::Unauthenticated, text)));
                }
                changed = self.lists.next() => {
                    self.untold.extend(told(&self.acknowledgement, changed.as_deref()));
                }
            }
        }
    }
}

/// What somebody who was acknowledged so is told of a change of a list; of all of them where it is not known which.
fn told(acknowledgement: &[u8], changed: Option<&[u8]>) -> Vec<Bytes> {
    let Ok(Body::One(Ok(acknowledgement))) = envelope::read(acknowledgement) else {
        return Vec::new();
    };
    let all = lists_changed(&acknowledgement).into_iter();
    let is_told =
        |message: &Vec<u8>| changed.is_none_or(|changed| method(message) == method(changed));
    all.filter(is_told).map(Bytes::from).collect()
}

fn method(message: &[u8]) -> Option<String> {
    match envelope::read(message) {
        Ok(Body::One(Ok(Message::Notification { method, .. }))) => Some(method.into_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcp::call::ClientMeta;
    use mcp::notification::{self, List};
    use serde_json::value::RawValue;

    fn call(params: &str) -> Call {
        let params = RawValue::from_string(params.to_owned()).unwrap();
        let id = Id::from_number(7);
        let client = ClientMeta::plain("t");
        Call::new(
            Some(id),
            Method::SubscriptionsListen,
            Some(&params),
            &client,
        )
        .unwrap()
    }

    #[test]
    fn lists_alone_are_listened_to_here() {
        for (notifications, here) in [
            (r#"{"toolsListChanged":true}"#, true),
            (
                r#"{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":false}"#,
                true,
            ),
            ("{}", true),
            (
                r#"{"toolsListChanged":true,"resourceSubscriptions":["a:b"]}"#,
                false,
            ),
            (r#"{"taskIds":[]}"#, false),
            (r#"{"toolsListChanged":1}"#, false),
            ("[]", false),
        ] {
            let call = call(&format!(r#"{{"notifications":{notifications}}}"#));
            assert_eq!(wanted(&call).is_some(), here, "{notifications}");
        }
        assert!(wanted(&call("{}")).is_none());
    }

    #[test]
    fn a_listener_is_told_of_what_it_asked_for() {
        let call = call(r#"{"notifications":{"toolsListChanged":true,"promptsListChanged":true}}"#);
        let (id, filter) = wanted(&call).unwrap();
        let acknowledgement = acknowledged(&id, &filter);
        for (changed, count) in [(List::Tools, 1), (List::Prompts, 1), (List::Resources, 0)] {
            let changed = notification::list_changed(changed);
            let told = told(&acknowledgement, Some(&changed));
            assert_eq!(told.len(), count);
            for message in told {
                assert_eq!(method(&message), method(&changed));
                let text = String::from_utf8_lossy(&message).into_owned();
                assert!(
                    text.contains(r#""io.modelcontextprotocol/subscriptionId":7"#),
                    "{text}"
                );
            }
        }
        assert_eq!(told(&acknowledgement, None).len(), 2);
    }
}
