//! Tasks of plugins: requests that find the plugin by the task's sealed id, and what a client hears of tasks unasked.
//!
//! Not every server tells when a task changes, and one of the older era may not. So whoever listens to a task has it looked
//! at here, as often as the task itself says, and hears of every change, first of how far the task is.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use mcp::{Cause, Failure, Method, era::tasks::Task, members::Members};
use serde_json::value::{RawValue, to_raw_value};
use telemetry::{RequestId, trace::TraceContext};
use tokio_util::sync::CancellationToken;

use super::{
    Server, Story,
    intake::Request,
    seal::{Purpose, Sealed},
};
use crate::plugin::{Answer, CallContext, Client, notices::Notices};

/// Tasks that one client listens to.
pub(crate) const TASKS_MAX: usize = 64;
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// When a task is looked at again whose plugin gave no answer.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The soonest that a task is looked at again: listening must not cost a plugin more than asking.
const LOOK_SOONEST: Duration = Duration::from_millis(200);

/// Asks the plugin that a task is of.
///
/// # Errors
/// [`Cause::MissingCapability`] for a client without the extension, [`Cause::InvalidParams`] for a task that is not the
/// caller's; else what the plugin says.
pub(crate) async fn ask(
    server: &Server,
    request: Request<'_>,
    context: CallContext,
    now: SystemTime,
) -> Result<Answer, Failure> {
    context.client.must_have_tasks()?;
    let public = request.name.unwrap_or_default();
    let sealed = open(server, &public, &context.client, now)
        .ok_or_else(|| Failure::say(Cause::InvalidParams, "no such task of this caller"))?;
    let (method, mut params) = (request.method, request.params);
    params.set("taskId", string(&sealed.value)?);
    let answer = server
        .mounts
        .ask_plugin(&sealed.of, &method, &sealed.value, params, context)
        .await?;
    match answer {
        Answer::Result(result) => named(&result, &public).map(Answer::Result),
        other => Ok(other),
    }
}

fn open(server: &Server, public: &str, client: &Client, now: SystemTime) -> Option<Sealed> {
    let opened = server.sealer.open(Purpose::Task, public, client, now);
    opened.ok()
}

/// A result that shows a task, with the id that clients know it by.
fn named(result: &RawValue, public: &str) -> Result<Box<RawValue>, Failure> {
    let mut members = Members::parse(result)
        .map_err(|_| Failure::say(Cause::UpstreamInvalid, "the plugin's result is no object"))?;
    if members.get("taskId").is_some() {
        members.set("taskId", string(public)?);
    }
    Ok(members.to_raw())
}

fn string(text: &str) -> Result<Box<RawValue>, Failure> {
    to_raw_value(text).map_err(|_| Failure::new(Cause::Internal))
}

/// The tasks that one client listens to.
pub(crate) struct Watching {
    server: Server,
    request_id: RequestId,
    trace: TraceContext,
    client: Arc<Client>,
    tasks: Vec<Watched>,
}

struct Watched {
    public: String,
    sealed: Sealed,
    due: Instant,
    /// What the client was told last.
    told: String,
}

/// What a look at a task came to.
enum Look {
    /// It is as the client knows it, and may change yet.
    Same(Duration),
    /// It is not, and may change yet.
    Changed(Box<RawValue>, Duration),
    /// It will not change any more.
    Over(Option<Box<RawValue>>),
}

impl Watching {
    /// Begins to look at those of the tasks that are the caller's.
    pub(crate) fn begin(
        server: &Server,
        story: &Story,
        client: &Arc<Client>,
        ids: &[String],
    ) -> Self {
        let now = SystemTime::now();
        let tasks = ids.iter().filter_map(|public| {
            Some(Watched {
                public: public.clone(),
                sealed: open(server, public, client, now)?,
                due: Instant::now(),
                told: String::new(),
            })
        });
        Self {
            tasks: tasks.collect(),
            server: server.clone(),
            request_id: story.request_id.clone(),
            trace: story.trace.clone(),
            client: Arc::clone(client),
        }
    }

    /// Returns the tasks that are looked at.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.tasks.iter().map(|task| &*task.public)
    }

    /// Waits until a task has changed, and returns the parameters of `notifications/tasks`; for ever if none can change. May
    /// be dropped and called again.
    pub(crate) async fn next(&mut self) -> Box<RawValue> {
        loop {
            let next = self
                .tasks
                .iter()
                .enumerate()
                .min_by_key(|(_, task)| task.due);
            let Some((at, task)) = next else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(task.due.into()).await;
            let look = self.look(task).await;
            let (changed, again) = match look {
                Look::Same(again) => (None, Some(again)),
                Look::Changed(shown, again) => (Some(shown), Some(again)),
                Look::Over(shown) => (shown, None),
            };
            match again {
                Some(again) => {
                    let task = &mut self.tasks[at];
                    task.due = Instant::now() + again.max(LOOK_SOONEST);
                    if let Some(shown) = &changed {
                        shown.get().clone_into(&mut task.told);
                    }
                }
                None => drop(self.tasks.swap_remove(at)),
            }
            if let Some(shown) = changed {
                return shown;
            }
        }
    }

    async fn look(&self, task: &Watched) -> Look {
        let asked = self.get(task).await;
        let shown = match asked {
            Ok(Answer::Result(result)) => named(&result, &task.public).ok(),
            // There is no such task any more.
            Ok(_) => return Look::Over(None),
            Err(failure) if failure.cause == Cause::InvalidParams => return Look::Over(None),
            Err(_) => return Look::Same(LOOK_AGAIN),
        };
        let Some((shown, is_final, again)) = shown.and_then(|shown| {
            let read = Task::read(&shown).ok()?;
            let (is_final, again) = (read.status.is_final(), read.poll_after());
            let mut members = Members::parse(&shown).ok()?;
            members.remove("resultType");
            Some((members.to_raw(), is_final, again))
        }) else {
            return Look::Same(LOOK_AGAIN);
        };
        match (is_final, shown.get() == task.told) {
            (true, _) => Look::Over(Some(shown)),
            (false, true) => Look::Same(again),
            (false, false) => Look::Changed(shown, again),
        }
    }

    async fn get(&self, task: &Watched) -> Result<Answer, Failure> {
        let context = CallContext {
            request_id: self.request_id.clone(),
            trace: self.trace.child(),
            deadline: Instant::now() + LOOK_TIMEOUT,
            cancelled: CancellationToken::new(),
            client: Arc::clone(&self.client),
            notices: Notices::default(),
            telling: crate::plugin::Telling::default(),
        };
        let mut params = Members::default();
        params.set("taskId", string(&task.sealed.value)?);
        let (plugin, id) = (&task.sealed.of, &task.sealed.value);
        let asked = self
            .server
            .mounts
            .ask_plugin(plugin, &Method::TasksGet, id, params, context);
        asked.await
    }
}
