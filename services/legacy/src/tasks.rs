//! Tasks of 2025-11-25: which a session has made, and what is kept of those that no server knows.
//!
//! A task lives at its server, and any host asks there. Only of a call that was answered at once, though its
//! client wanted a task, is the outcome kept here: in the shared records, for the caller, whatever session
//! it comes with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use mcp::call::ClientMeta;
use mcp::era::tasks::{self, KEPT_FOR, KEPT_PREFIX, Kept, Task};
use mcp::members::Members;
use mcp::session::Session;
use mcp::{Call, Cause, Failure, Id, Method};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::board::{Board, hex};
use crate::host::{Asker, Backend, Host, Opened};

/// Tasks that a list asks for at once.
const AT_ONCE: usize = 8;
/// The longest id of a kept task, in bytes: a prefix, and the name of a call.
const KEPT_ID_BYTES_MAX: usize = 64;

/// Where a call notes the task that it has made.
pub(crate) struct Notes {
    board: Arc<Board>,
    session: String,
    owner: String,
    rest: Duration,
    id: Id,
    request_id: String,
}

impl Notes {
    pub(crate) fn new(board: &Arc<Board>, opened: &Opened, id: &Id, request_id: &str) -> Notes {
        Notes {
            board: board.clone(),
            session: opened.name.clone(),
            owner: owner(&opened.session.tenant, &opened.session.principal),
            rest: opened.rest(),
            id: id.clone(),
            request_id: request_id.to_owned(),
        }
    }

    /// Notes a task and returns the response: `answer`, unless what had to be kept could not be.
    pub(crate) async fn take(&self, task: &str, kept: Option<Kept>, answer: Vec<u8>) -> Vec<u8> {
        if let Some(kept) = kept {
            let record = Bytes::from(kept.write());
            let put = self.board.put_kept(&self.owner, task, record, KEPT_FOR);
            if let Err(failure) = put.await {
                return failure.to_json_rpc(Some(&self.id), &self.request_id);
            }
        }
        // Who cannot list it can still ask for it.
        let added = self.board.add_task(&self.session, task, self.rest);
        if let Err(failure) = added.await {
            tracing::debug!(cause = failure.cause.as_str(), "a task will not be listed");
        }
        answer
    }
}

/// Answers a request about a task that is kept here; `None` for one that a server knows.
pub(crate) async fn kept(
    board: &Board,
    session: &Session,
    method: &Method,
    params: Option<&RawValue>,
) -> Result<Option<Box<RawValue>>, Failure> {
    let params = params.and_then(|raw| Members::parse(raw).ok());
    let id = params.and_then(|params| params.get_str("taskId"));
    let Some(id) = id.filter(|id| id.starts_with(KEPT_PREFIX)) else {
        return Ok(None);
    };
    let kept = look(board, session, &id).await?;
    let kept = kept.ok_or_else(|| Failure::say(Cause::InvalidParams, "no such task"))?;
    match method {
        Method::TasksGet => Ok(Some(kept.task)),
        Method::TasksResult => Ok(Some(kept.result)),
        _ => Err(Failure::say(
            Cause::InvalidParams,
            "the task is over: it cannot be cancelled",
        )),
    }
}

async fn look(board: &Board, session: &Session, id: &str) -> Result<Option<Kept>, Failure> {
    let plain = id.len() <= KEPT_ID_BYTES_MAX
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if !plain {
        return Ok(None);
    }
    let owner = owner(&session.tenant, &session.principal);
    let record = board.kept(&owner, id).await?;
    Ok(record.and_then(|record| Kept::read(&record)))
}

/// The result of `tasks/list`: the session's tasks that there still are.
///
/// # Errors
/// When the records cannot be read.
pub(crate) async fn list<B: Backend>(
    host: &Host<B>,
    asker: &Asker<B::Caller>,
    opened: &Opened,
) -> Result<Box<RawValue>, Failure> {
    let client = with_tasks(&opened.session.client);
    let client = &client;
    let shown = async |id: &String| -> Option<Box<RawValue>> {
        if id.starts_with(KEPT_PREFIX) {
            let kept = look(&host.board, &opened.session, id).await.ok()?;
            return kept.map(|kept| kept.task);
        }
        let params = tasks::params(id);
        let call = Call::new(
            Some(Id::from_number(0)),
            Method::TasksGet,
            Some(&params),
            client,
        );
        let got = host.ask(asker, call.ok()?).await.ok()?.ok()?;
        Task::read(&got).ok().map(|task| task.legacy())
    };
    let tasks: Vec<Box<RawValue>> = stream::iter(opened.facts.tasks.values())
        .map(shown)
        .buffered(AT_ONCE)
        .filter_map(async |task| task)
        .collect()
        .await;
    let mut result = Members::default();
    result.push("tasks", mcp::members::raw_of(&tasks));
    Ok(result.to_raw())
}

/// A client that reads tasks.
pub(crate) fn with_tasks(client: &ClientMeta) -> ClientMeta {
    ClientMeta {
        info: client.info.clone(),
        capabilities: tasks::declared(&client.capabilities),
    }
}

/// Whom sessions and kept outcomes belong to, as a key.
pub(crate) fn owner(tenant: &str, principal: &str) -> String {
    let both = format!("{tenant}\n{principal}");
    hex(&Sha256::digest(both)[..16])
}
