//! Tasks of a server of 2025-11-25 in the form of the extension ([`mcp::era::tasks`]), whatever carries the messages.

use std::{sync::Arc, time::Instant};

use mcp::{
    Failure, Method, Revision,
    era::tasks::{Status, Support, Task, as_task, created, params},
    members::{Members, raw_of},
};
use serde_json::{json, value::RawValue};

use super::{
    Abandon, Lost, NoAnswer, Wire,
    call::{Terms, Working},
    connection::{Asker, Connection, Event},
    errands::Errands,
    forms,
    handshake::Agreement,
};
use crate::plugin::{Answer, Ask, Inputs, Listing};

/// Whether a request has to do with a task, at a server of 2025-11-25 that takes calls as tasks.
pub(crate) fn is_about_one(agreement: &Agreement, listing: &Listing, ask: &Ask<'_>) -> bool {
    let taken =
        agreement.revision == Revision::V2025_11_25 && agreement.has("/tasks/requests/tools/call");
    taken
        && match ask.method {
            Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => true,
            Method::ToolsCall => is_always_one(listing, ask.key),
            _ => false,
        }
}

/// Whether a tool is called as a task always.
fn is_always_one(listing: &Listing, tool: &str) -> bool {
    let tool = listing.tools.iter().find(|item| item.key == tool);
    tool.is_some_and(|item| Support::of(&item.raw) == Support::Required)
}

/// Answers a request [about a task](is_about_one).
///
/// # Errors
/// [`NoAnswer`] when there is none.
pub(crate) async fn answer(
    connection: &Connection,
    errands: &Errands,
    terms: Terms,
    asked: &Ask<'_>,
    deadline: Instant,
) -> Result<Answer, NoAnswer> {
    let id = asked.key;
    let answer = match asked.method {
        Method::TasksGet => {
            let asker = asker(asked, id.into());
            let questions = async || errands.questions(connection, id, asker).await;
            get(connection, id, questions, deadline).await
        }
        Method::TasksUpdate => {
            let answered = errands.answer(connection, id, inputs(&asked.params), deadline);
            answered.await.map(|()| done())
        }
        Method::TasksCancel => cancel(connection, id, deadline).await,
        _ => return call(connection, terms, asked, deadline).await,
    };
    match answer.map_err(NoAnswer::Lost)? {
        Answer::Error(error) => refused(error),
        answer => Ok(answer),
    }
}

fn refused(error: Box<RawValue>) -> Result<Answer, NoAnswer> {
    let error = forms::error_from_server(error).map_err(NoAnswer::Failed)?;
    Ok(Answer::Error(error))
}

fn asker(asked: &Ask<'_>, task: Arc<str>) -> Asker {
    Asker {
        client: Arc::clone(&asked.context.client),
        notices: asked.context.notices.clone(),
        task: Some(task),
    }
}

/// Calls a tool that is a task always. A client that knows no tasks gets what it comes to.
async fn call(
    connection: &Connection,
    terms: Terms,
    asked: &Ask<'_>,
    deadline: Instant,
) -> Result<Answer, NoAnswer> {
    let id = connection.fresh_id();
    let sent = forms::params_for_server(asked, Revision::V2025_11_25.era(), id);
    let sent = sent
        .and_then(|sent| as_task(&sent))
        .map_err(NoAnswer::Failed)?;
    let method = asked.method.as_str();
    let begun = connection.begin(id, method, &sent, None, deadline, Abandon::Cancel);
    let mut exchange = begun.await.map_err(NoAnswer::Lost)?;
    let result = match exchange.next(deadline).await.map_err(NoAnswer::Lost)? {
        Event::Answer(Answer::Result(result)) => result,
        Event::Answer(Answer::Error(error)) => return refused(error),
        // Nobody who could be asked was named.
        Event::Answer(Answer::Questions(_)) | Event::Question(_) => {
            return Err(NoAnswer::Lost(Lost::Garbage));
        }
    };
    let known =
        |made: Result<Box<RawValue>, Failure>| made.map(Answer::Result).map_err(NoAnswer::Failed);
    let Some(task) = made(&result) else {
        return known(forms::result_from_server(result, asked.method));
    };
    if asked.context.client.must_have_tasks().is_ok() {
        return known(created(&result));
    }
    let task: Arc<str> = Task::read(&task).map_err(NoAnswer::Failed)?.id.into();
    let sent = params(&task);
    let begun = connection.begin(
        connection.fresh_id(),
        Method::TasksResult.as_str(),
        &sent,
        Some(asker(asked, Arc::clone(&task))),
        deadline,
        Abandon::Cancel,
    );
    let mut exchange = begun.await.map_err(NoAnswer::Lost)?;
    exchange.gives_up(task);
    let working = Working::new(terms, asked.method.clone(), exchange, None);
    working.go_on(deadline).await
}

/// The client's answers in a `tasks/update`.
fn inputs(params: &Members<'_>) -> Inputs {
    let given = params
        .get("inputResponses")
        .and_then(|raw| Members::parse(raw).ok());
    let given = given.unwrap_or_default();
    given
        .iter()
        .filter(|(_, answer)| answer.get().starts_with('{'))
        .map(|(key, answer)| (key.to_owned(), answer.to_owned()))
        .collect()
}

/// Answers `tasks/get`: with the outcome, if the task is over, and with what it asks its client. `questions` says what that
/// is, for a task that waits for it.
///
/// # Errors
/// [`Lost`] when the server gave no answer, or none of the protocol.
async fn get(
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
async fn cancel(wire: &impl Wire, id: &str, deadline: Instant) -> Result<Answer, Lost> {
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
fn done() -> Answer {
    Answer::Result(raw_of(&json!({"resultType": "complete"})))
}

async fn ask(wire: &impl Wire, method: &str, id: &str, deadline: Instant) -> Result<Answer, Lost> {
    let params = params(id);
    wire.request(method, &params, deadline, Abandon::Cancel)
        .await
}

/// The `task` of a `CreateTaskResult` of 2025-11-25.
fn made(result: &RawValue) -> Option<Box<RawValue>> {
    let members = Members::parse(result).ok()?;
    members.get("task").map(ToOwned::to_owned)
}
