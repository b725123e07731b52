//! What the fleet offers, as the edge needs it: hints that decide on retries, names that may be labels,
//! and the GraphQL schema.
//!
//! The stable release's list counts: a candidate's new tools appear when it is promoted. The list is read
//! again when an instance of that release says that its catalogue changed; if that fails, the last known
//! one stays.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mcp::call::ClientMeta;
use mcp::members::Members;
use mcp::{Call, Cause, Failure, Id, Method, Repeat, Tool, tool};
use serde_json::json;
use translate::graphql::{Gateway, Limits};

use crate::bridge;
use crate::context::Context;
use crate::edge::Edge;
use crate::fleet::View;
use crate::identity::Caller;

/// Pages of a list that are read; a server that has more is not believed.
const PAGES_MAX: usize = 64;
/// GraphQL schemas that are kept ready.
const SCHEMAS_MAX: usize = 64;
/// Before a failed read is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// One snapshot.
#[derive(Debug, Default)]
pub struct Catalogue {
    repeat: HashMap<Box<str>, Repeat>,
    /// `None` until a list has been read.
    tools: Option<Vec<Tool>>,
    /// What callers need to see them, where they need anything.
    scopes: Restricted,
    limits: Limits,
    /// GraphQL schemas by the tools that are left out; there are few sets of scopes.
    schemas: Mutex<HashMap<Vec<usize>, Option<Gateway>>>,
}

/// Scopes by tool: of each a caller needs one.
pub type Restricted = HashMap<String, Vec<String>>;

/// The tools whose own word on what they do is believed.
pub type Trusted = HashSet<String>;

impl Catalogue {
    fn new(tools: Vec<Tool>, scopes: Restricted, trusted: &Trusted, limits: &Limits) -> Catalogue {
        let repeat = |tool: &Tool| match trusted.contains(&tool.name) {
            true => tool.hints.repeat(),
            false => Repeat::Unsafe,
        };
        Catalogue {
            repeat: tools
                .iter()
                .map(|tool| (tool.name.as_str().into(), repeat(tool)))
                .collect(),
            tools: Some(tools),
            scopes,
            limits: limits.clone(),
            schemas: Mutex::default(),
        }
    }

    /// The schema over the tools that a caller may see; `None` until a list has been read.
    #[must_use]
    pub fn graphql(&self, caller: &Caller) -> Option<Gateway> {
        let all = self.tools.as_deref()?;
        let may_see = |tool: &Tool| {
            let needed = self.scopes.get(&tool.name);
            needed.is_none_or(|needed| caller.has_one_of(needed))
        };
        let tools = all.iter().enumerate();
        let hidden: Vec<usize> = tools
            .filter(|(_, tool)| !may_see(tool))
            .map(|(index, _)| index)
            .collect();
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        if schemas.len() == SCHEMAS_MAX && !schemas.contains_key(&hidden) {
            schemas.clear();
        }
        let build = |hidden: &Vec<usize>| {
            let tools = all.iter().enumerate();
            let seen = tools.filter(|(index, _)| hidden.binary_search(index).is_err());
            let seen: Vec<Tool> = seen.map(|(_, tool)| tool.clone()).collect();
            Gateway::build(&seen, &self.limits)
                .inspect_err(|error| {
                    tracing::error!(error = telemetry::error_chain(error), "no GraphQL schema");
                })
                .ok()
        };
        let schema = schemas.entry(hidden);
        schema.or_insert_with_key(build).clone()
    }

    /// How many tools there are.
    #[must_use]
    pub fn tools(&self) -> usize {
        self.repeat.len()
    }

    /// Whether a call may be sent twice. A tool that is not known here is not.
    #[must_use]
    pub fn repeat(&self, call: &Call) -> Repeat {
        match (&call.method, &call.name) {
            (Method::ToolsCall, Some(name)) => self
                .repeat
                .get(name.as_str())
                .copied()
                .unwrap_or(Repeat::Unsafe),
            (method, _) => method.repeat(),
        }
    }

    /// The tool's name if it is one of ours, and so fit to be a label.
    #[must_use]
    pub fn label(&self, call: &Call) -> Option<&str> {
        let name = call
            .name
            .as_deref()
            .filter(|_| call.method == Method::ToolsCall)?;
        self.repeat.get_key_value(name).map(|(known, _)| &**known)
    }
}

/// Keeps the catalogue current for as long as the process runs.
pub async fn follow(edge: Arc<Edge>) {
    let mut views = edge.fleet.views();
    let mut known: Option<(String, String)> = None;
    loop {
        let wanted = wanted(&views.borrow_and_update());
        if wanted.is_some() && wanted != known {
            match read(&edge).await {
                Ok(tools) => {
                    tracing::info!(tools = tools.len(), "catalogue read");
                    let told = wanted.as_ref().map(|(stable, _)| {
                        let view = edge.fleet.view();
                        (view.restricted_tools(stable), view.trusted_tools(stable))
                    });
                    let (scopes, trusted) = told.unwrap_or_default();
                    let read = Catalogue::new(tools, scopes, &trusted, &edge.graphql_limits);
                    // Whoever sees everything, as most do, finds the schema ready.
                    let _ = read.graphql(&Caller::edge());
                    edge.catalogue.store(Arc::new(read));
                    if edge.catalogue_read.send_replace(true) {
                        edge.events.lists_changed();
                    }
                    known = wanted;
                }
                Err(failure) => {
                    tracing::warn!(
                        error = failure.message,
                        "catalogue not read; the last one stays"
                    );
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
        }
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// The stable release and the digest of its catalogue, as soon as an instance tells it.
fn wanted(view: &View) -> Option<(String, String)> {
    let stable = view.stable()?;
    let digest = view.catalogue_digest(stable)?;
    Some((stable.to_owned(), digest.to_owned()))
}

/// Reads the whole list through the bridge, as a client would.
async fn read(edge: &Arc<Edge>) -> Result<Vec<Tool>, Failure> {
    let mut tools = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let params = match &cursor {
            None => json!({}),
            Some(cursor) => json!({"cursor": cursor}),
        };
        let params =
            serde_json::value::to_raw_value(&params).map_err(|_| Failure::new(Cause::Internal))?;
        let client = ClientMeta::plain("sweetmcp-edge");
        let call = Call::new(
            Some(Id::from_number(1)),
            Method::ToolsList,
            Some(&params),
            &client,
        )?;
        let context = Context::of_rpc(edge, None, None, None);
        let reply = bridge::send_own(edge, &context, call).await?;
        let result = reply.result()?.map_err(|error| {
            let code = Members::parse(error)
                .ok()
                .and_then(|e| e.get("code").map(|c| c.get().to_owned()));
            Failure::say(
                Cause::UpstreamInvalid,
                format!("tools/list answered error {code:?}"),
            )
        })?;
        let page = tool::read_list(result)
            .map_err(|e| Failure::say(Cause::UpstreamInvalid, e.to_string()))?;
        for refused in &page.refused {
            tracing::warn!(
                error = telemetry::error_chain(refused),
                "a tool is left out"
            );
        }
        tools.extend(page.tools);
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(tools),
        }
    }
    Err(Failure::say(
        Cause::UpstreamInvalid,
        "tools/list has no end",
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;

    #[test]
    fn only_a_trusted_plugins_hints_let_a_call_be_repeated() {
        let tool = |name: &str, hint: &str| {
            let definition = json!({"name": name, "inputSchema": {}, "annotations": {hint: true}});
            Tool::parse(&to_raw_value(&definition).unwrap()).unwrap()
        };
        let tools = vec![
            tool("reads", "readOnlyHint"),
            tool("again", "idempotentHint"),
            tool("writes", "destructiveHint"),
            tool("claims", "readOnlyHint"),
        ];
        let trusted = ["reads", "again", "writes"].map(str::to_owned).into();
        let limits = Limits::default();
        let catalogue = Catalogue::new(tools, Restricted::default(), &trusted, &limits);
        for (name, repeat) in [
            ("reads", Repeat::Safe),
            ("again", Repeat::Safe),
            ("writes", Repeat::Unsafe),
            ("claims", Repeat::Unsafe),
            ("unknown", Repeat::Unsafe),
        ] {
            let params = to_raw_value(&json!({"name": name})).unwrap();
            let client = ClientMeta::plain("t");
            let id = Some(Id::from_number(1));
            let call = Call::new(id, Method::ToolsCall, Some(&params), &client).unwrap();
            assert_eq!(catalogue.repeat(&call), repeat, "{name}");
        }
    }
}
