//! Where a call goes: first which release serves it, then (one attempt at a time) which of its instances.

use std::sync::Arc;

use mcp::envelope::{self, Body};
use mcp::members::Members;
use mcp::notification::Filter;
use mcp::{Call, Cause, Failure, Message, Method, Repeat};
use policy::split::Facts;

use crate::admission::Permit;
use crate::context::Context;
use crate::edge::Edge;
use crate::fleet::{Backend, View};

/// A call with all that its attempts need. Holds the call's place until it is dropped.
pub struct Route {
    /// What is to be sent.
    pub call: Call,
    /// Whether it may be sent twice.
    pub repeat: Repeat,
    /// The fleet as it was when the release was chosen: one call sees one split.
    pub view: Arc<View>,
    /// The release that serves it.
    pub release: Arc<str>,
    /// The one instance that can go on with what the call is about.
    pub instance: Option<Arc<Backend>>,
    _permit: Option<Permit>,
}

/// Chooses the release.
///
/// # Errors
/// [`Cause::NoBackend`] when nobody has said yet where traffic goes, [`Cause::InvalidParams`] when the call
/// goes on with something of an instance that is gone.
pub fn choose(
    edge: &Edge,
    context: &Context,
    call: Call,
    permit: Option<Permit>,
) -> Result<Route, Failure> {
    let view = edge.fleet.view();
    let instance = match begun_at(&call) {
        None => None,
        Some(name) => match view.instance(&name) {
            // Whoever listens hears of the rest; that its tasks are gone it is told by what is granted.
            None if call.method == Method::SubscriptionsListen => None,
            None => return Err(gone(&call)),
            found => found,
        },
    };
    let release = release(edge, context, &view, instance.as_deref())?;
    Ok(Route {
        repeat: edge.catalogue.load().repeat(&call),
        release,
        call,
        view: Arc::clone(&view),
        instance,
        _permit: permit,
    })
}

/// Chooses once more, in the fleet as it is by now.
///
/// # Errors
/// [`Cause::NoBackend`] as [`choose`].
pub fn choose_again(edge: &Edge, context: &Context, route: &mut Route) -> Result<(), Failure> {
    let view = edge.fleet.view();
    // The tasks that are listened to are gone with their instance; the lists are not.
    let still_there = |instance: &Arc<Backend>| view.instance(&instance.name).is_some();
    route.instance = route.instance.take().filter(still_there);
    route.release = release(edge, context, &view, route.instance.as_deref())?;
    route.view = Arc::clone(&view);
    Ok(())
}

fn release(
    edge: &Edge,
    context: &Context,
    view: &View,
    instance: Option<&Backend>,
) -> Result<Arc<str>, Failure> {
    let split = view.split().ok_or_else(|| Failure::new(Cause::NoBackend))?;
    let facts = Facts {
        pinned: context.pinned.as_deref(),
        sticky: context.sticky,
        random: edge.turns.next(),
    };
    let chosen = split.choose(&facts).release;
    // A candidate without an instance must not cost anybody a call.
    let release = if let Some(instance) = instance {
        &instance.release
    } else if view.has_instances(chosen) {
        chosen
    } else {
        split.stable()
    };
    Ok(Arc::clone(release))
}

/// Why a call that goes on with something cannot: the client has to begin anew.
pub fn gone(call: &Call) -> Failure {
    let text = match call.method.name_member() {
        Some("taskId") => "the task is gone with the instance that ran it",
        _ => "what params.requestState stands for is gone with its instance: send the request anew",
    };
    Failure::say(Cause::InvalidParams, text)
}

/// The instance that a call has to go to, for what it goes on with began there: apps write their name, in
/// clear and before a full stop, at the front of request states and task ids.
fn begun_at(call: &Call) -> Option<String> {
    if matches!(
        call.method,
        Method::TasksGet | Method::TasksUpdate | Method::TasksCancel
    ) {
        return instance_of(call.name.as_deref()?);
    }
    // Most calls are told apart without being read.
    let listens = call.method == Method::SubscriptionsListen;
    let goes_on = match listens {
        true => contains(&call.body, b"\"taskIds\""),
        false => call.method.may_require_input() && contains(&call.body, b"\"requestState\""),
    };
    if !goes_on {
        return None;
    }
    let Ok(Body::One(Ok(Message::Request {
        params: Some(params),
        ..
    }))) = envelope::read(&call.body)
    else {
        return None;
    };
    let params = Members::parse(params).ok()?;
    if listens {
        // One stream is one instance's: that of the first task; of others' it grants none.
        let filter = Filter::read(params.get("notifications")?).ok()?;
        return instance_of(filter.task_ids.first()?);
    }
    instance_of(&params.get_str("requestState")?)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

fn instance_of(sealed: &str) -> Option<String> {
    let (name, _) = sealed.rsplit_once('.')?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcp::Id;
    use mcp::call::ClientMeta;

    #[test]
    fn a_call_that_goes_on_names_its_instance() {
        for (method, params, instance) in [
            (Method::ToolsCall, r#"{"name":"t"}"#, None),
            (
                Method::ToolsCall,
                r#"{"name":"t","requestState":"app-1.c2VhbA"}"#,
                Some("app-1"),
            ),
            (
                Method::PromptsGet,
                r#"{"name":"p","requestState":"a.b.c2VhbA"}"#,
                Some("a.b"),
            ),
            // Whoever made that up is told so by whatever instance gets it.
            (
                Method::ToolsCall,
                r#"{"name":"t","requestState":"x"}"#,
                None,
            ),
            (Method::ToolsCall, r#"{"name":"t","requestState":7}"#, None),
            (
                Method::ToolsCall,
                r#"{"name":"t","arguments":{"requestState":"app-1.x"}}"#,
                None,
            ),
            (
                Method::TasksGet,
                r#"{"taskId":"app-2.c2VhbA"}"#,
                Some("app-2"),
            ),
            (Method::ToolsList, r#"{"requestState":"app-1.x"}"#, None),
            (
                Method::SubscriptionsListen,
                r#"{"notifications":{"toolsListChanged":true,"taskIds":["app-3.x","app-4.x"]}}"#,
                Some("app-3"),
            ),
            (
                Method::SubscriptionsListen,
                r#"{"notifications":{"toolsListChanged":true}}"#,
                None,
            ),
        ] {
            let raw = serde_json::value::RawValue::from_string(params.to_owned()).unwrap();
            let client = ClientMeta::plain("t");
            let call = Call::new(Some(Id::from_number(1)), method, Some(&raw), &client).unwrap();
            assert_eq!(begun_at(&call).as_deref(), instance, "{params}");
        }
    }
}
