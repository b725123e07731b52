//! `subscriptions/listen`: a stream of changes, for as long as its client wants.
//!
//! A listener that has nothing to be told costs its connection, a mailbox and a timer: it holds no place among the requests,
//! no body, and no buffer.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::Stream;
use mcp::{Cause, Failure, Id, Outcome, envelope, members::Members};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    Server, Story,
    endless::Endless,
    intake::Request,
    stream::{Accepts, COMMENT, KEEP_ALIVE, event, events},
    tasks::{TASKS_MAX, Watching},
};
use crate::plugin::{
    Client,
    hub::{Change, Filter},
    mounts::Subscription,
};

/// The member of `_meta` that says which subscription a message belongs to.
const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// Resources that one client listens to: as many as a session of the older era has.
const URIS_MAX: usize = legacy::board::URIS_MAX;
/// The longest URI that is listened to, in bytes.
const URI_BYTES_MAX: usize = 4096;
/// When a refused client may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Opens the stream.
pub(crate) fn open(
    server: &Server,
    story: &Arc<Story>,
    accepts: Accepts,
    request: Request<'_>,
    client: &Arc<Client>,
) -> Response {
    if !accepts.events {
        return story.fail(&Failure::say(
            Cause::NotAcceptable,
            "subscriptions/listen answers with text/event-stream alone",
        ));
    }
    let wishes = match wishes(&request.params, client) {
        Ok(wishes) => wishes,
        Err(failure) => return story.fail(&failure),
    };
    let Ok(place) = Arc::clone(&server.listeners).try_acquire_owned() else {
        return story.fail(&Failure::new(Cause::Overloaded).retry_after(RETRY_AFTER));
    };
    // It waits for changes, not for work: others may have its place among the requests.
    story.give_up();
    {
        let mut facts = story.facts();
        facts.outcome = Some(Outcome::Ok);
        facts.listens = true;
    }
    let listening = Listening::new(server, story, wishes, client, request.id, Some(place));
    let stream = futures::stream::unfold(listening, async |mut listening| {
        let chunk = match listening.next().await? {
            Said::Message(message) => event(&message),
            Said::Nothing => Bytes::from_static(COMMENT),
        };
        Some((Ok::<_, Infallible>(chunk), listening))
    });
    let mut response = events(Body::from_stream(stream));
    response.extensions_mut().insert(Endless);
    response
}

/// Returns the messages that a listener of this process hears, whose place is held elsewhere.
///
/// # Errors
/// [`Cause::InvalidParams`] for a filter that is none, [`Cause::MissingCapability`] for one that this client has no use for.
pub(crate) fn messages(
    server: &Server,
    story: &Story,
    request: Request<'_>,
    client: &Arc<Client>,
) -> Result<impl Stream<Item = Bytes> + Send + 'static, Failure> {
    let wishes = wishes(&request.params, client)?;
    let listening = Listening::new(server, story, wishes, client, request.id, None);
    Ok(futures::stream::unfold(listening, async |mut listening| {
        loop {
            match listening.next().await? {
                Said::Message(message) => return Some((Bytes::from(message), listening)),
                Said::Nothing => {}
            }
        }
    }))
}

/// What a client wants to hear of.
#[derive(Debug)]
struct Wishes {
    filter: Filter,
    tasks: Vec<String>,
}

fn wishes(params: &Members<'_>, client: &Client) -> Result<Wishes, Failure> {
    let invalid = |text: &str| Failure::say(Cause::InvalidParams, text);
    let given = params
        .get("notifications")
        .and_then(|raw| Members::parse(raw).ok())
        .ok_or_else(|| invalid("params.notifications must be an object"))?;
    let flag = |name: &str| match given.get(name).map(RawValue::get) {
        None | Some("false" | "null") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(invalid(&format!(
            "params.notifications.{name} must be a boolean"
        ))),
    };
    let texts = |name: &str| -> Result<Vec<String>, Failure> {
        let Some(raw) = given.get(name) else {
            return Ok(Vec::new());
        };
        let mut texts: Vec<String> = serde_json::from_str(raw.get()).map_err(|_| {
            let text = format!("params.notifications.{name} must be an array of strings");
            invalid(&text)
        })?;
        texts.sort_unstable();
        texts.dedup();
        Ok(texts)
    };
    let uris = texts("resourceSubscriptions")?;
    if uris.len() > URIS_MAX || uris.iter().any(|uri| uri.len() > URI_BYTES_MAX) {
        return Err(invalid(&format!(
            "one subscription takes at most {URIS_MAX} resources with URIs of at most {URI_BYTES_MAX} bytes"
        )));
    }
    let tasks = texts("taskIds")?;
    if !tasks.is_empty() {
        client.must_have_tasks()?;
    }
    if tasks.len() > TASKS_MAX {
        return Err(invalid(&format!(
            "one subscription takes at most {TASKS_MAX} tasks"
        )));
    }
    Ok(Wishes {
        filter: Filter {
            tools: flag("toolsListChanged")?,
            prompts: flag("promptsListChanged")?,
            resources: flag("resourcesListChanged")?,
            uris: uris.into_iter().map(Into::into).collect(),
        },
        tasks,
    })
}

/// One open stream.
struct Listening {
    subscription: Subscription,
    tasks: Option<Box<Watching>>,
    id: Id,
    draining: CancellationToken,
    stage: Stage,
    next_comment: Instant,
    _place: Option<OwnedSemaphorePermit>,
}

enum Stage {
    Begin,
    Going,
    Over,
}

/// What there is to pass on.
enum Said {
    Message(Vec<u8>),
    /// For [`KEEP_ALIVE`].
    Nothing,
}

impl Listening {
    /// On the heap once: the stream moves it to and fro.
    fn new(
        server: &Server,
        story: &Story,
        wishes: Wishes,
        client: &Arc<Client>,
        id: Id,
        place: Option<OwnedSemaphorePermit>,
    ) -> Box<Self> {
        let watching = |ids: &[String]| Watching::begin(server, story, client, ids);
        Box::new(Self {
            subscription: server.mounts.listen(wishes.filter, &client.scopes),
            // Most listen to no task.
            tasks: (!wishes.tasks.is_empty()).then(|| Box::new(watching(&wishes.tasks))),
            id,
            draining: server.life.draining(),
            stage: Stage::Begin,
            next_comment: Instant::now() + KEEP_ALIVE,
            _place: place,
        })
    }

    async fn next(&mut self) -> Option<Said> {
        match self.stage {
            Stage::Begin => {
                self.stage = Stage::Going;
                Some(Said::Message(self.acknowledgement()))
            }
            Stage::Going => Some(self.wait().await),
            Stage::Over => None,
        }
    }

    async fn wait(&mut self) -> Said {
        let draining: WaitForCancellationFutureOwned = self.draining.clone().cancelled_owned();
        tokio::select! {
            biased;
            () = draining => {
                self.stage = Stage::Over;
                Said::Message(self.end())
            }
            change = self.subscription.next() => Said::Message(self.message(&change)),
            shown = task_changed(&mut self.tasks) => {
                let params = self.tagged(&shown);
                Said::Message(envelope::write_request(None, "notifications/tasks", &params))
            }
            () = tokio::time::sleep_until(self.next_comment.into()) => {
                self.next_comment = Instant::now() + KEEP_ALIVE;
                Said::Nothing
            }
        }
    }

    /// The first message: what of the wishes is granted.
    fn acknowledgement(&self) -> Vec<u8> {
        let granted = self.subscription.wants();
        let mut kinds = serde_json::Map::new();
        for (name, wanted) in [
            ("toolsListChanged", granted.tools),
            ("promptsListChanged", granted.prompts),
            ("resourcesListChanged", granted.resources),
        ] {
            if wanted {
                kinds.insert(name.to_owned(), true.into());
            }
        }
        if !granted.uris.is_empty() {
            kinds.insert(
                "resourceSubscriptions".to_owned(),
                granted.uris.iter().map(|uri| &**uri).collect(),
            );
        }
        let tasks: Vec<&str> = self.tasks.iter().flat_map(|tasks| tasks.ids()).collect();
        if !tasks.is_empty() {
            kinds.insert("taskIds".to_owned(), tasks.into());
        }
        self.notification(
            "notifications/subscriptions/acknowledged",
            &json!({"notifications": kinds}),
        )
    }

    fn message(&self, change: &Change) -> Vec<u8> {
        let (method, params) = match change {
            Change::Tools => ("notifications/tools/list_changed", json!({})),
            Change::Prompts => ("notifications/prompts/list_changed", json!({})),
            Change::Resources => ("notifications/resources/list_changed", json!({})),
            Change::Updated(uri) => ("notifications/resources/updated", json!({"uri": **uri})),
        };
        self.notification(method, &params)
    }

    fn notification(&self, method: &str, params: &Value) -> Vec<u8> {
        let params = to_raw_value(params).unwrap_or_default();
        envelope::write_request(None, method, &self.tagged(&params))
    }

    /// The last message: this instance takes leave.
    fn end(&self) -> Vec<u8> {
        let result = to_raw_value(&json!({"resultType": "complete"})).unwrap_or_default();
        envelope::write_result(&self.id, &self.tagged(&result))
    }

    /// Adds the subscription's id, which is the request's, byte for byte.
    fn tagged(&self, object: &RawValue) -> Box<RawValue> {
        let mut members = Members::parse(object).unwrap_or_default();
        let meta = format!(r#"{{"{META_SUBSCRIPTION}":{}}}"#, self.id.as_json());
        members.set("_meta", RawValue::from_string(meta).unwrap_or_default());
        members.to_raw()
    }
}

/// Waits until one of the tasks has changed; for ever if there is none.
async fn task_changed(tasks: &mut Option<Box<Watching>>) -> Box<RawValue> {
    match tasks {
        Some(tasks) => tasks.next().await,
        None => std::future::pending().await,
    }
}
