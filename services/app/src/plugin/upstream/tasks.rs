//! Tasks of a server of 2025-11-25 in the form of the extension ([`mcp::era::tasks`]), whatever carries the messages.

use std::time::Instant;

use mcp::{
    Revision,
    era::tasks::{Status, Support, Task, params},
    members::{Members, raw_of},
};
use serde_json::{json, value::RawValue};

use super::{Abandon, Lost, Wire, handshake::Agreement};
use crate::plugin::{Answer, Inputs, Listing};

/// Whether a server of 2025-11-25 takes calls as tasks.
pub(crate) fn are_taken(agreement: &Agreement) -> bool {
    agreement.revision == Revision::V2025_11_25 && agreement.has("/tasks/requests/tools/call")
}

/// Whether a tool of such a server is called as a task always.
pub(crate) fn is_always_one(listing: &Listing, tool: &str) -> bool {
    let tool = listing.tools.iter().find(|item| item.key == tool);
    tool.is_some_and(|item| Support::of(&item.raw) == Support::Required)
}

/// Answers `tasks/get`: with the outcome, if the task is over, and with what it asks its client. `questions` says what that
/// is, for a task that waits for it.
///
/// # Errors
/// [`Lost`] when the server gave no answer, or none of the protocol.
pub(crate) async fn get(
    wire: &impl Wire,
    id: &str,
    questions: impl AsyncFnOnce() -> Inputs,
    deadline: Instant,
) -> Result<Answer, Lost> {
    let got = match ask(wire, "tasks/get", id, deadline).await? {
        Answer::Result(got) => got,
        refused => return Ok(refused),
    };
    let task = Task::read(&got).map_err(|_| Lost::Garbage)?;
    let outcome = match task.status {
        Status::Completed | Status::Failed => Some(ask(wire, "tasks/result", id, deadline).await?),
        _ => None,
    };
    let outcome = match &outcome {
        None => None,
        Some(Answer::Result(result)) => Some(Ok(&**result)),
        Some(Answer::Error(error)) => Some(Err(&**error)),
        Some(Answer::Questions(_)) => return Err(Lost::Garbage),
    };
    let mut open = Members::default();
    if task.status == Status::InputRequired {
        for (key, question) in questions().await {
            open.push(key, question);
        }
    }
    let shown = task.get_result(outcome, &open);
    shown.map(Answer::Result).map_err(|_| Lost::Garbage)
}

/// Answers `tasks/cancel`. That a task is over already, which 2025-11-25 refuses, is no error of the extension.
///
/// # Errors
/// [`Lost`] when the server gave no answer.
pub(crate) async fn cancel(wire: &impl Wire, id: &str, deadline: Instant) -> Result<Answer, Lost> {
    let refused = match ask(wire, "tasks/cancel", id, deadline).await? {
        Answer::Result(_) => return Ok(done()),
        refused => refused,
    };
    match ask(wire, "tasks/get", id, deadline).await? {
        Answer::Result(got) if Task::read(&got).is_ok_and(|task| task.status.is_final()) => {
            Ok(done())
        }
        _ => Ok(refused),
    }
}

/// The empty result that takes note.
pub(crate) fn done() -> Answer {
    Answer::Result(raw_of(&json!({"resultType": "complete"})))
}

async fn ask(wire: &impl Wire, method: &str, id: &str, deadline: Instant) -> Result<Answer, Lost> {
    let params = params(id);
    wire.request(method, &params, deadline, Abandon::Cancel)
        .await
}

/// The `task` of a `CreateTaskResult` of 2025-11-25.
pub(crate) fn made(result: &RawValue) -> Option<Box<RawValue>> {
    let members = Members::parse(result).ok()?;
    members.get("task").map(ToOwned::to_owned)
}
