//! `GET /mcp/v1/events`: a stream of server-sent events with what the principal is told beside its answers.
//!
//! | an event is | when |
//! |---|---|
//! | `notifications/…/list_changed` | a list may have changed |
//! | `notifications/progress`, `notifications/message` | a call of the principal's own tells it, by whatever front door it came; messages from `?level=` on (`info`) |
//! | `notifications/resources/updated` | a resource of `?resource=URI` (may stand more than once) changed |
//! | named `missed` | what came since `Last-Event-ID` is not kept: all that is watched is told as changed |
//!
//! Each event's id is a place to go on from. While nothing happens there are comments. A stream ends with its
//! token and when the edge drains, and one that is not read is cut: its client comes back for the rest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use mcp::call::ClientMeta;
use mcp::envelope::{self, Body};
use mcp::members::raw_of;
use mcp::notification::{self, Level, List, Notification};
use mcp::sse::{Event, KEEP_ALIVE};
use mcp::{Call, Cause, Failure, Id, Message, Method};
use serde_json::json;

use super::accepts_events;
use crate::admission;
use crate::context::Context;
use crate::edge::Edge;
use crate::events::{Begins, Reader};
use crate::exchange::Body::Endless;
use crate::exchange::{Exchange, Response, set_header};
use crate::identity::Caller;
use crate::record;
use crate::stream::{self as answers, Part};

/// How often an idle stream says that it lives.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Resources that one stream watches.
const RESOURCES_MAX: usize = 64;
/// Milliseconds after which a client comes back.
const RETRY_MS: u64 = 1000;

/// Serves one HTTP request.
pub(super) async fn serve(
    edge: &Arc<Edge>,
    exchange: &Exchange<'_>,
    context: Context,
    caller: Arc<Caller>,
) -> Response {
    match open(edge, exchange, &context, &caller).await {
        Ok(stream) => {
            record::answered_here(edge, &context, &caller, "", 200);
            // On the heap once: `unfold` moves it to and fro.
            let pieces = stream::unfold(Box::new(stream), |mut stream| async move {
                let piece = stream.next().await?;
                Some((piece, stream))
            });
            let mut response = Response::new(Endless(pieces.boxed()));
            set_header(&mut response, "content-type", "text/event-stream");
            set_header(&mut response, "x-accel-buffering", "no");
            response
        }
        Err(failure) => record::refused(edge, exchange, context.protocol, &failure),
    }
}

async fn open(
    edge: &Arc<Edge>,
    exchange: &Exchange<'_>,
    context: &Context,
    caller: &Arc<Caller>,
) -> Result<Told, Failure> {
    if !accepts_events(exchange) {
        return Err(Failure::new(Cause::NotAcceptable));
    }
    let wanted = Wanted::read(exchange.query().unwrap_or_default())?;
    admission::charge(edge, caller).await?;
    let last = exchange.header("last-event-id");
    let (reader, begins) = edge.events.open(caller, last).await?;
    let mut first = VecDeque::new();
    if begins != Begins::Now {
        // Updates of resources are not kept.
        let all = wanted
            .resources
            .iter()
            .map(|uri| notification::resource_updated(uri));
        first.extend(all.map(Bytes::from));
    }
    if matches!(begins, Begins::AfterElsewhere | Begins::AfterGap) {
        let lists = [List::Tools, List::Prompts, List::Resources];
        first.extend(lists.map(|list| Bytes::from(notification::list_changed(list))));
    }
    let updates = match wanted.resources.is_empty() {
        true => stream::pending().boxed(),
        false => updates(edge, context, caller, &wanted.resources)?,
    };
    let (life, left) = (edge.life.clone(), edge.identity.left(caller));
    let ended = async move { _ = tokio::time::timeout(left, life.draining()).await };
    Ok(Told {
        reader,
        level: wanted.level,
        begins: Some(begins),
        first,
        updates,
        ended: ended.boxed(),
    })
}

/// What a stream is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    level: Level,
    resources: Vec<String>,
}

impl Wanted {
    fn read(query: &str) -> Result<Wanted, Failure> {
        let refuse = |text: &str| Failure::say(Cause::InvalidRequest, text);
        let mut wanted = Wanted {
            level: Level::Info,
            resources: Vec::new(),
        };
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "level" => {
                    let level = Level::parse(value);
                    wanted.level = level.ok_or_else(|| refuse("level is none of MCP's"))?;
                }
                "resource" => {
                    let uri = decode(value).filter(|uri| !uri.is_empty());
                    wanted
                        .resources
                        .push(uri.ok_or_else(|| refuse("resource is no encoded URI"))?);
                }
                _ => {}
            }
        }
        if wanted.resources.len() > RESOURCES_MAX {
            return Err(refuse("at most 64 resources can be watched"));
        }
        Ok(wanted)
    }
}

/// Undoes the encoding of a query's value; `None` if it holds no UTF-8.
fn decode(value: &str) -> Option<String> {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digits = bytes.get(at + 1..at + 3)?;
                let digits = std::str::from_utf8(digits).ok()?;
                let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
                decoded.push(
                    plain
                        .then(|| u8::from_str_radix(digits, 16).ok())
                        .flatten()?,
                );
                at += 3;
            }
            b'+' => {
                decoded.push(b' ');
                at += 1;
            }
            byte => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

/// Listens for changes of resources as the principal, through the gateway's stages.
fn updates(
    edge: &Arc<Edge>,
    context: &Context,
    caller: &Arc<Caller>,
    resources: &[String],
) -> Result<BoxStream<'static, Result<Part, Failure>>, Failure> {
    let params = raw_of(&json!({"notifications": {"resourceSubscriptions": resources}}));
    let client = ClientMeta::plain("events");
    let id = Id::from_text("events");
    let call = Call::new(
        Some(id),
        Method::SubscriptionsListen,
        Some(&params),
        &client,
    )?;
    let (edge, caller) = (Arc::clone(edge), Arc::clone(caller));
    Ok(answers::run(edge, Arc::new(context.clone()), caller, call))
}

/// One stream.
struct Told {
    reader: Reader,
    level: Level,
    /// Until the stream has begun.
    begins: Option<Begins>,
    /// What is told before all else.
    first: VecDeque<Bytes>,
    updates: BoxStream<'static, Result<Part, Failure>>,
    ended: BoxFuture<'static, ()>,
}

impl Told {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(begins) = self.begins.take() {
            return Some(self.begin(begins));
        }
        loop {
            let message = match self.first.pop_front() {
                Some(message) => message,
                None => tokio::select! {
                    biased;
                    () = &mut self.ended => return None,
                    // A stream that was not read is cut: what it missed is not kept.
                    message = self.reader.next() => message.ok()?,
                    part = self.updates.next() => match part? {
                        Ok(Part::Told(message)) => message,
                        // The listening is over; the client comes back for another.
                        Ok(Part::Reply(_)) | Err(_) => return None,
                    },
                    () = tokio::time::sleep(KEEP_ALIVE_EVERY) => {
                        return Some(Bytes::from_static(KEEP_ALIVE.as_bytes()));
                    }
                },
            };
            if let Some(text) = for_client(&message, self.level) {
                let event = Event::message(text).with_id(self.reader.id());
                return Some(event.encode().into());
            }
        }
    }

    /// The first event: a place to come back to, and whether something was missed.
    fn begin(&self, begins: Begins) -> Bytes {
        let id = self.reader.id();
        match begins {
            // Without data it is no event, but a place all the same.
            Begins::Now | Begins::After | Begins::AfterElsewhere => {
                format!("retry: {RETRY_MS}\nid: {id}\n\n").into()
            }
            Begins::AfterGap => {
                let event = Event {
                    name: Some("missed".to_owned()),
                    retry_ms: Some(RETRY_MS),
                    ..Event::message("{}").with_id(id)
                };
                event.encode().into()
            }
        }
    }
}

/// A message as the client is told it, if it is one for this stream.
fn for_client(message: &[u8], least: Level) -> Option<String> {
    let Ok(Body::One(Ok(Message::Notification { method, params }))) = envelope::read(message)
    else {
        return None;
    };
    let plain = || String::from_utf8_lossy(message).into_owned();
    match Notification::read(&method, params).ok()? {
        Notification::Log { level } => (level >= least).then(plain),
        Notification::Progress { .. } | Notification::ListChanged(_) => Some(plain()),
        // Without the listening that it came by, which is none of the client's.
        Notification::ResourceUpdated { uri } => {
            String::from_utf8(notification::resource_updated(&uri)).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_what_is_wanted() {
        let wanted = |level, resources: &[&str]| Wanted {
            level,
            resources: resources.iter().map(|uri| (*uri).to_owned()).collect(),
        };
        for (query, expect) in [
            ("", Ok(wanted(Level::Info, &[]))),
            ("level=debug&x=1", Ok(wanted(Level::Debug, &[]))),
            (
                "resource=file%3A%2F%2F%2Fa+b&resource=demo://c",
                Ok(wanted(Level::Info, &["file:///a b", "demo://c"])),
            ),
            ("level=loud", Err(Cause::InvalidRequest)),
            ("resource=", Err(Cause::InvalidRequest)),
            ("resource=%f", Err(Cause::InvalidRequest)),
            ("resource=%+f", Err(Cause::InvalidRequest)),
            ("resource=%ff", Err(Cause::InvalidRequest)),
        ] {
            assert_eq!(Wanted::read(query).map_err(|f| f.cause), expect, "{query}");
        }
        let many = vec!["resource=a"; RESOURCES_MAX + 1].join("&");
        assert!(Wanted::read(&many).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_stream_says_that_it_lives() {
        let edge = settings::load_str("", std::iter::empty()).unwrap();
        let edge = edge.settings.edge;
        let events = crate::events::Events::new(&edge.events, &edge.redis);
        let (reader, begins) = events.open(&Caller::edge(), None).await.unwrap();
        let mut told = Told {
            reader,
            level: Level::Info,
            begins: Some(begins),
            first: VecDeque::new(),
            updates: stream::pending().boxed(),
            ended: tokio::time::sleep(3 * KEEP_ALIVE_EVERY).boxed(),
        };
        let began = told.next().await.unwrap();
        assert!(began.starts_with(b"retry: "), "{began:?}");
        for _ in 0..2 {
            assert_eq!(told.next().await.unwrap(), KEEP_ALIVE.as_bytes());
        }
        assert_eq!(told.next().await, None);
    }

    #[test]
    fn a_stream_tells_what_is_for_it() {
        let log = |level| notification::log(level, None, &raw_of("text"));
        assert!(for_client(&log(Level::Debug), Level::Info).is_none());
        assert!(for_client(&log(Level::Error), Level::Info).is_some());
        let updated = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:b","_meta":{"io.modelcontextprotocol/subscriptionId":"events"}}}"#;
        let told = for_client(updated.as_bytes(), Level::Info).unwrap();
        assert!(
            told.contains("a:b") && !told.contains("subscriptionId"),
            "{told}"
        );
        for other in [r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "{", "[]"] {
            assert!(
                for_client(other.as_bytes(), Level::Debug).is_none(),
                "{other}"
            );
        }
    }
}
