//! A request that takes several rounds: the plugin's questions go out as an `input_required` result, and the client's retry
//! finds its way back to the work that waits, or to the plugin that asked.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mcp::{Cause, Failure, Method, members::Members};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Server,
    intake::Request,
    lot::Place,
    seal::{Purpose, SealError, Sealed, request_digest},
    tasks,
};
use crate::plugin::{Answer, CallContext, Client, Inputs, Parked};

/// How long a client may take to come back with an upstream server's own state.
const STATE_LIFE: Duration = Duration::from_secs(3600);
/// How long a task's id is good for.
const TASK_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Answers of one retry.
const INPUTS_MAX: usize = 64;

/// Asks, or goes on with what was asked before.
///
/// # Errors
/// What the plugin says; [`Cause::InvalidParams`] for a state that is not, or no longer, this caller's for this request.
pub(crate) async fn ask(
    server: &Server,
    request: Request<'_>,
    context: CallContext,
    now: SystemTime,
) -> Result<Answer, Failure> {
    if request.method.as_str().starts_with("tasks/") {
        return tasks::ask(server, request, context, now).await;
    }
    let client = Arc::clone(&context.client);
    let digest = request_digest(request.method.as_str(), &request.params);
    let Request {
        method,
        name,
        mut params,
        ..
    } = request;
    let name = name.unwrap_or_default();
    if has_rounds(&method)
        && let Some(state) = given_state(&params)?
    {
        match reopen(server, &state, &digest, &client, now)? {
            Reopened::Parked(parked) => {
                let inputs = inputs(&params)?;
                let answer = parked.resume(inputs, context).await?;
                return park(server, answer, &digest, &client, now);
            }
            Reopened::Upstream(state) => params.set("requestState", string(&state)?),
        }
    }
    let asked = server.mounts.ask(&method, &name, params, context).await?;
    let answer = match asked.answer {
        Answer::Result(result) => Answer::Result(wrap(
            server,
            result,
            &method,
            &asked.plugin,
            &digest,
            &client,
            now,
        )?),
        other => other,
    };
    park(server, answer, &digest, &client, now)
}

/// Whether the method may be answered with questions.
fn has_rounds(method: &Method) -> bool {
    matches!(
        method,
        Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead
    )
}

fn given_state(params: &Members<'_>) -> Result<Option<String>, Failure> {
    match params.get("requestState") {
        None => Ok(None),
        Some(_) => params.get_str("requestState").map(Some).ok_or_else(|| {
            Failure::say(Cause::InvalidParams, "params.requestState must be a string")
        }),
    }
}

enum Reopened {
    Parked(Box<dyn Parked>),
    Upstream(String),
}

fn reopen(
    server: &Server,
    state: &str,
    digest: &str,
    client: &Client,
    now: SystemTime,
) -> Result<Reopened, Failure> {
    let refused = |why: &dyn std::fmt::Display| {
        Failure::say(
            Cause::InvalidParams,
            format!("params.requestState is refused: {why}"),
        )
    };
    let same = |sealed: Sealed| {
        (sealed.of == digest)
            .then_some(sealed.value)
            .ok_or_else(|| refused(&"it belongs to another request"))
    };
    match server.sealer.open(Purpose::Parked, state, client, now) {
        Ok(sealed) => {
            let place: Option<Place> = same(sealed)?.parse().ok();
            let parked = place.and_then(|place| server.lot.take(place, client));
            parked.map(Reopened::Parked).ok_or_else(|| {
                refused(&"the call that it names is over, or was given up for want of an answer")
            })
        }
        Err(SealError::Forged) => {
            let opened = server.sealer.open(Purpose::State, state, client, now);
            let sealed = opened.map_err(|error| refused(&error))?;
            same(sealed).map(Reopened::Upstream)
        }
        Err(error) => Err(refused(&error)),
    }
}

/// Reads the client's answers; what is no answer is asked again.
fn inputs(params: &Members<'_>) -> Result<Inputs, Failure> {
    let Some(given) = params.get("inputResponses") else {
        return Ok(Inputs::new());
    };
    let invalid = |text: &str| Failure::say(Cause::InvalidParams, text);
    let given =
        Members::parse(given).map_err(|_| invalid("params.inputResponses must be an object"))?;
    if given.iter().count() > INPUTS_MAX {
        return Err(invalid("params.inputResponses has too many members"));
    }
    Ok(given
        .iter()
        .filter(|(_, answer)| answer.get().starts_with('{'))
        .map(|(key, answer)| (key.to_owned(), answer.to_owned()))
        .collect())
}

/// Puts questions to the client and parks the work that waits for their answers.
fn park(
    server: &Server,
    answer: Answer,
    digest: &str,
    client: &Arc<Client>,
    now: SystemTime,
) -> Result<Answer, Failure> {
    let Answer::Questions(parked) = answer else {
        return Ok(answer);
    };
    let internal = |_| Failure::new(Cause::Internal);
    let questions = to_raw_value(&parked.questions()).map_err(internal)?;
    let place = server.lot.park(client, parked)?;
    let sealed = Sealed {
        value: place.to_string(),
        of: digest.to_owned(),
    };
    let state = server
        .sealer
        .seal(Purpose::Parked, &sealed, client, now, server.lot.patience())
        .ok_or_else(|| Failure::new(Cause::Internal))?;
    let mut result = Members::default();
    result.set("resultType", string("input_required")?);
    result.set("inputRequests", questions);
    result.set("requestState", string(&state)?);
    Ok(Answer::Result(result.to_raw()))
}

/// Seals what an upstream's result hands to the client to bring back: its request state, or its task's id.
fn wrap(
    server: &Server,
    result: Box<RawValue>,
    method: &Method,
    plugin: &str,
    digest: &str,
    client: &Client,
    now: SystemTime,
) -> Result<Box<RawValue>, Failure> {
    let mut members = Members::parse(&result)
        .map_err(|_| Failure::say(Cause::UpstreamInvalid, "the plugin's result is no object"))?;
    let (member, purpose, of, life) = match members.get_str("resultType").as_deref() {
        Some("input_required") => {
            allowed(&members, method, client)?;
            ("requestState", Purpose::State, digest, STATE_LIFE)
        }
        Some("task") => {
            // A plugin that has but a task to offer has nothing for this client.
            client.must_have_tasks()?;
            ("taskId", Purpose::Task, plugin, TASK_LIFE)
        }
        _ => return Ok(result),
    };
    let Some(value) = members.get_str(member) else {
        return Ok(result);
    };
    let sealed = Sealed {
        value,
        of: of.to_owned(),
    };
    let text = server
        .sealer
        .seal(purpose, &sealed, client, now, life)
        .ok_or_else(|| Failure::say(Cause::UpstreamInvalid, "the plugin's state is too large"))?;
    members.set(member, string(&text)?);
    Ok(members.to_raw())
}

/// Checks that an upstream asks only where and what it may.
fn allowed(result: &Members<'_>, method: &Method, client: &Client) -> Result<(), Failure> {
    let invalid = |text: &str| Failure::say(Cause::UpstreamInvalid, text);
    if !has_rounds(method) {
        return Err(invalid("the plugin asks its client where it may not"));
    }
    let Some(requests) = result.get("inputRequests") else {
        return Ok(());
    };
    let requests =
        Members::parse(requests).map_err(|_| invalid("the plugin's questions are no object"))?;
    for (_, request) in requests.iter() {
        let request = Members::parse(request)
            .map_err(|_| invalid("one of the plugin's questions is no object"))?;
        let asks = request.get_str("method").unwrap_or_default();
        if let Some(lacking) = client.lacks(&asks, request.get("params")) {
            return Err(Failure::new(Cause::MissingCapability)
                .with_data(&serde_json::json!({"requiredCapabilities": lacking})));
        }
    }
    Ok(())
}

fn string(text: &str) -> Result<Box<RawValue>, Failure> {
    to_raw_value(text).map_err(|_| Failure::new(Cause::Internal))
}
