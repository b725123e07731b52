//! Short lists of tools: `find_tools` and `call_tool` stand in for all others, so that a model reads two
//! definitions in place of hundreds.
//!
//! A client asks for them with `Sweetmcp-Tools: search`, with `?tools=search`, or with
//! `"dev.sweetmcp/tools": "search"` in a request's `_meta`; the settings may give them to clients that do not
//! say where lists are long, and those can say `all`.
//!
//! What is found is found in the caller's own list, read through the same stages as any other, so nobody
//! finds what they may not list. `call_tool` becomes a call of the tool that it names before anything is
//! judged: limits, repeats and records are those of that tool.

use std::sync::{Arc, Mutex, PoisonError};

use mcp::envelope::{self, Body};
use mcp::headers::TOOLS;
use mcp::members::{Members, raw_of};
use mcp::{Call, Cause, Failure, FrontDoor, Id, Message, Method, Outcome, Reply, Tool, tool};
use search::{Document, Index, QUERY_BYTES_MAX};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use settings::SearchMode;
use sha2::{Digest, Sha256};

use crate::admission::Permit;
use crate::context::Context;
use crate::edge::Edge;
use crate::exchange::Exchange;
use crate::identity::Caller;
use crate::record::Record;
use crate::stream::Told;
use crate::{bridge, route};

/// The tool that finds tools.
const FIND: &str = "find_tools";
/// The tool that calls a tool that was found.
const CALL: &str = "call_tool";
/// Tools that are found unless the client says how many.
const FOUND: u64 = 5;
/// Most tools that are found.
const FOUND_MAX: u64 = 20;
/// Pages of a list that are read; what is on further ones is not found.
const PAGES_MAX: usize = 64;
/// Lists whose index is kept.
const INDEXES_MAX: usize = 16;

/// Which list of tools a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolsWanted {
    /// The whole list.
    All,
    /// The stand-ins.
    Search,
}

impl ToolsWanted {
    fn parse(text: &str) -> Option<ToolsWanted> {
        match text {
            "all" => Some(ToolsWanted::All),
            "search" => Some(ToolsWanted::Search),
            _ => None,
        }
    }
}

/// What the head of a request says of the list that is wanted; what is none of ours says nothing.
pub fn wanted(exchange: &Exchange<'_>) -> Option<ToolsWanted> {
    exchange
        .header(TOOLS)
        .and_then(ToolsWanted::parse)
        .or_else(|| in_query(exchange.query()?))
}

fn in_query(query: &str) -> Option<ToolsWanted> {
    let mut values = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("tools="));
    values.find_map(ToolsWanted::parse)
}

/// What is answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandIn {
    /// The short list.
    List,
    /// A search.
    Find,
}

/// Resolves what a call is about where stand-ins are in force.
///
/// # Errors
/// [`Cause::InvalidParams`] for a `call_tool` that names no tool, [`Cause::HeaderMismatch`] for one whose head
/// names another tool than its body.
pub fn resolve(
    edge: &Edge,
    context: &Context,
    call: Call,
) -> Result<(Call, Option<StandIn>), Failure> {
    let stand_in = match (&call.method, call.name.as_deref()) {
        (Method::ToolsList, _) => Some(StandIn::List),
        (Method::ToolsCall, Some(FIND)) => Some(StandIn::Find),
        (Method::ToolsCall, Some(CALL)) => None,
        _ => return Ok((call, None)),
    };
    if !in_force(edge, context, &call) {
        return Ok((call, None));
    }
    match stand_in {
        Some(stand_in) => Ok((call, Some(stand_in))),
        None => Ok((called(&call)?, None)),
    }
}

fn in_force(edge: &Edge, context: &Context, call: &Call) -> bool {
    let rules = &edge.settings.search;
    if rules.mode == SearchMode::Off
        || !matches!(context.protocol, FrontDoor::Mcp | FrontDoor::JsonRpc)
    {
        return false;
    }
    match in_meta(&call.body).or(context.tools) {
        Some(wanted) => wanted == ToolsWanted::Search,
        None => rules.mode == SearchMode::Large && edge.catalogue.load().tools() >= rules.tools_min,
    }
}

/// What a request says of the list that is wanted.
fn in_meta(body: &[u8]) -> Option<ToolsWanted> {
    let params = params(body)?;
    let meta = Members::parse(params.get("_meta")?).ok()?;
    ToolsWanted::parse(&meta.get_str(mcp::call::META_TOOLS)?)
}

fn params(body: &[u8]) -> Option<Members<'_>> {
    match envelope::read(body) {
        Ok(Body::One(Ok(Message::Request {
            params: Some(params),
            ..
        }))) => Members::parse(params).ok(),
        _ => None,
    }
}

/// The call that a `call_tool` stands for. All else of its parameters stays, so a client that is asked
/// something answers it in the same way.
fn called(call: &Call) -> Result<Call, Failure> {
    let invalid = |text: &str| Failure::say(Cause::InvalidParams, text);
    let mut params = params(&call.body).ok_or_else(|| invalid("params must be an object"))?;
    if params.get_str("name").as_deref() != call.name.as_deref() {
        let text = "Mcp-Name must repeat the body's name";
        return Err(Failure::say(Cause::HeaderMismatch, text));
    }
    let given = params.get("arguments").map(ToOwned::to_owned);
    let given = given.ok_or_else(|| invalid("arguments.name must be a string"))?;
    let given = Members::parse(&given).map_err(|_| invalid("arguments must be an object"))?;
    let name = given
        .get_str("name")
        .ok_or_else(|| invalid("arguments.name must be a string"))?;
    if [FIND, CALL].contains(&name.as_str()) {
        return Err(invalid(
            "arguments.name must be a tool that find_tools has found",
        ));
    }
    let arguments = given
        .get("arguments")
        .map_or_else(|| Members::default().to_raw(), ToOwned::to_owned);
    params.set("name", raw_of(&name));
    params.set("arguments", arguments);
    let body = envelope::write_request(call.id.as_ref(), call.method.as_str(), &params.to_raw());
    Ok(Call {
        method: Method::ToolsCall,
        name: Some(name),
        id: call.id.clone(),
        body: body.into(),
        param_headers: None,
    })
}

/// Answers in place of the app, from the caller's own list.
///
/// # Errors
/// As the list's.
pub async fn answer(
    edge: &Edge,
    context: &Context,
    caller: &Caller,
    call: Call,
    stand_in: StandIn,
    permit: Permit,
    record: &mut Record<'_>,
) -> Result<Reply, Failure> {
    let _place = permit;
    let id = call
        .id
        .clone()
        .ok_or_else(|| Failure::new(Cause::InvalidRequest))?;
    if stand_in == StandIn::List {
        let first = list(edge, context, caller, &call, None, record).await?;
        return Ok(short(&id, first));
    }
    let asked = match Asked::read(&call.body) {
        Ok(asked) => asked,
        // The model reads a tool's error, and may do better.
        Err(text) => return Ok(tool_error(&id, text)),
    };
    let mut tools: Vec<Tool> = Vec::new();
    let mut cursor = None;
    for _ in 0..PAGES_MAX {
        let reply = list(edge, context, caller, &call, cursor.as_deref(), record).await?;
        let Ok(result) = reply.result()? else {
            return Ok(reply);
        };
        let page = tool::read_list(result)
            .map_err(|error| Failure::say(Cause::UpstreamInvalid, error.to_string()))?;
        tools.extend(page.tools);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let list = edge.searched.index(tools);
    Ok(found(&id, &list.find(&asked)))
}

/// One page of the caller's list.
async fn list(
    edge: &Edge,
    context: &Context,
    caller: &Caller,
    asked: &Call,
    cursor: Option<&str>,
    record: &mut Record<'_>,
) -> Result<Reply, Failure> {
    let mut wanted = Members::default();
    if let Some(meta) = params(&asked.body).as_ref().and_then(|p| p.get("_meta")) {
        wanted.set("_meta", meta.to_owned());
    }
    if let Some(cursor) = cursor {
        wanted.set("cursor", raw_of(cursor));
    }
    let method = Method::ToolsList;
    let body = envelope::write_request(asked.id.as_ref(), method.as_str(), &wanted.to_raw());
    let call = Call {
        method,
        name: None,
        id: asked.id.clone(),
        body: body.into(),
        param_headers: None,
    };
    let route = route::choose(edge, context, call, None)?;
    bridge::send(edge, context, caller, route, record, &mut Told::nobody()).await
}

/// The first page of a list with the stand-ins in place of its tools; how long it may be kept, and for whom,
/// stays.
fn short(id: &Id, first: Reply) -> Reply {
    let Ok(Ok(result)) = first.result() else {
        return first;
    };
    let Ok(mut members) = Members::parse(result) else {
        return first;
    };
    members.set("tools", raw_of(&stand_ins()));
    members.remove("nextCursor");
    let body = envelope::write_result(id, &members.to_raw());
    Reply {
        body: body.into(),
        ..first
    }
}

fn stand_ins() -> Value {
    json!([
        {
            "name": FIND,
            "description": "Finds tools by what you want to do. Returns their definitions, best first.",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "What you want to do, in a few words."},
                    "limit": {"type": "integer", "minimum": 1, "maximum": FOUND_MAX, "default": FOUND},
                },
                "required": ["query"],
            },
            "annotations": {"readOnlyHint": true, "openWorldHint": false},
        },
        {
            "name": CALL,
            "description": "Calls a tool that find_tools has found.",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "arguments": {"type": "object", "description": "As the tool's inputSchema says."},
                },
                "required": ["name"],
            },
        },
    ])
}

/// What a search asks for.
struct Asked {
    query: String,
    limit: usize,
}

impl Asked {
    fn read(body: &[u8]) -> Result<Asked, &'static str> {
        let arguments = params(body)
            .and_then(|params| serde_json::from_str::<Value>(params.get("arguments")?.get()).ok())
            .unwrap_or_default();
        let query = arguments["query"].as_str().unwrap_or_default();
        if query.trim().is_empty() || query.len() > QUERY_BYTES_MAX {
            return Err("query must say in at most 2048 bytes what you want to do");
        }
        let limit = match &arguments["limit"] {
            Value::Null => FOUND,
            limit => limit
                .as_u64()
                .filter(|limit| (1..=FOUND_MAX).contains(limit))
                .ok_or("limit must be an integer from 1 to 20")?,
        };
        Ok(Asked {
            query: query.to_owned(),
            limit: usize::try_from(limit).unwrap_or_default(),
        })
    }
}

/// One list of tools, ready to be searched.
struct List {
    definitions: Vec<Box<RawValue>>,
    index: Index,
}

impl List {
    fn new(tools: Vec<Tool>) -> List {
        let arguments: Vec<String> = tools.iter().map(arguments).collect();
        let documents = tools
            .iter()
            .zip(&arguments)
            .map(|(tool, arguments)| Document {
                name: &tool.name,
                title: tool.title.as_deref().unwrap_or_default(),
                description: tool.description.as_deref().unwrap_or_default(),
                arguments,
            });
        List {
            index: Index::new(documents),
            definitions: tools.into_iter().map(|tool| tool.raw).collect(),
        }
    }

    fn find(&self, asked: &Asked) -> Vec<&RawValue> {
        let found = self.index.find(&asked.query, asked.limit);
        let definitions = found
            .into_iter()
            .filter_map(|found| self.definitions.get(found.at));
        definitions.map(|raw| &**raw).collect()
    }
}

/// What a tool's schema says of its arguments, in one text.
fn arguments(tool: &Tool) -> String {
    let schema: Value = serde_json::from_str(tool.input_schema.get()).unwrap_or_default();
    let mut text = String::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let said = property["description"].as_str().unwrap_or_default();
        text.extend([name, " ", said, " "]);
    }
    text
}

/// Indexes of lists that were searched lately, the latest last. Most callers see one of a few lists.
#[derive(Default)]
pub struct Searched(Mutex<Vec<([u8; 32], Arc<List>)>>);

impl Searched {
    fn index(&self, tools: Vec<Tool>) -> Arc<List> {
        let mut hash = Sha256::new();
        for tool in &tools {
            hash.update((tool.raw.get().len() as u64).to_le_bytes());
            hash.update(tool.raw.get());
        }
        let digest: [u8; 32] = hash.finalize().into();
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = lock();
            if let Some(at) = kept.iter().position(|(known, _)| *known == digest) {
                let entry = kept.remove(at);
                let list = Arc::clone(&entry.1);
                kept.push(entry);
                return list;
            }
        }
        let list = Arc::new(List::new(tools));
        let mut kept = lock();
        if kept.len() >= INDEXES_MAX {
            kept.remove(0);
        }
        kept.push((digest, Arc::clone(&list)));
        list
    }
}

fn found(id: &Id, tools: &[&RawValue]) -> Reply {
    let structured = raw_of(&json!({"tools": tools}));
    let text = match tools.is_empty() {
        true => "no tool fits: say it in other words",
        false => structured.get(),
    };
    let content = raw_of(&json!([{"type": "text", "text": text}]));
    let mut result = Members::default();
    result.set("resultType", raw_of("complete"));
    result.set("content", content);
    result.set("structuredContent", structured);
    Reply {
        status: 200,
        outcome: Outcome::Ok,
        body: envelope::write_result(id, &result.to_raw()).into(),
    }
}

fn tool_error(id: &Id, text: &str) -> Reply {
    let content = json!([{"type": "text", "text": text}]);
    let result = json!({"resultType": "complete", "content": content, "isError": true});
    Reply {
        status: 200,
        outcome: Outcome::ToolError,
        body: envelope::write_result(id, &raw_of(&result)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcp::call::ClientMeta;

    fn call(params: &Value) -> Call {
        let params = raw_of(params);
        let client = ClientMeta::plain("t");
        Call::new(
            Some(Id::from_number(7)),
            Method::ToolsCall,
            Some(&params),
            &client,
        )
        .unwrap()
    }

    #[test]
    fn call_tool_becomes_the_call_of_its_tool() {
        let params = json!({
            "name": CALL,
            "arguments": {"name": "mail_send", "arguments": {"to": "ana", "n": 1}},
            "requestState": "s",
            "_meta": {"progressToken": 3},
        });
        let made = called(&call(&params)).unwrap();
        assert_eq!(made.name.as_deref(), Some("mail_send"));
        let body: Value = serde_json::from_slice(&made.body).unwrap();
        assert_eq!(body["id"], 7);
        let params = &body["params"];
        assert_eq!(params["name"], "mail_send");
        assert_eq!(params["arguments"], json!({"to": "ana", "n": 1}));
        assert_eq!(
            (&params["requestState"], &params["_meta"]["progressToken"]),
            (&json!("s"), &json!(3))
        );

        for (arguments, cause) in [
            (json!({}), Cause::InvalidParams),
            (json!({"name": 5}), Cause::InvalidParams),
            (json!({"name": CALL}), Cause::InvalidParams),
            (json!([]), Cause::InvalidParams),
        ] {
            let failure =
                called(&call(&json!({"name": CALL, "arguments": arguments}))).unwrap_err();
            assert_eq!(failure.cause, cause, "{arguments}");
        }
        let mut other = call(&json!({"name": "delete", "arguments": {"name": "x"}}));
        other.name = Some(CALL.to_owned());
        assert_eq!(called(&other).unwrap_err().cause, Cause::HeaderMismatch);
    }

    #[test]
    fn the_wish_is_read_from_query_and_meta() {
        for (query, expect) in [
            ("tools=search", Some(ToolsWanted::Search)),
            ("a=b&tools=all", Some(ToolsWanted::All)),
            ("tools=", None),
            ("xtools=search", None),
        ] {
            assert_eq!(in_query(query), expect, "{query}");
        }
        for (meta, expect) in [
            (
                json!({mcp::call::META_TOOLS: "search"}),
                Some(ToolsWanted::Search),
            ),
            (json!({mcp::call::META_TOOLS: true}), None),
            (json!({}), None),
        ] {
            let asks = call(&json!({"name": "x", "_meta": meta}));
            assert_eq!(in_meta(&asks.body), expect, "{meta}");
        }
    }

    #[test]
    fn a_search_says_what_it_wants() {
        let read = |arguments: Value| {
            let asks = call(&json!({"name": FIND, "arguments": arguments}));
            Asked::read(&asks.body).map(|asked| asked.limit)
        };
        assert_eq!(read(json!({"query": "mail"})), Ok(5));
        assert_eq!(read(json!({"query": "mail", "limit": 20})), Ok(20));
        for wrong in [
            json!({}),
            json!({"query": " "}),
            json!({"query": 5}),
            json!({"query": "a".repeat(QUERY_BYTES_MAX + 1)}),
            json!({"query": "a", "limit": 0}),
            json!({"query": "a", "limit": 21}),
            json!({"query": "a", "limit": "5"}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_short_list_keeps_how_long_it_holds() {
        let result = json!({"resultType": "complete", "tools": [{"name": "a"}], "nextCursor": "x", "ttlMs": 5000, "cacheScope": "private"});
        let id = Id::from_number(1);
        let first = Reply {
            status: 200,
            outcome: Outcome::Ok,
            body: envelope::write_result(&id, &raw_of(&result)).into(),
        };
        let short: Value = serde_json::from_slice(&short(&id, first).body).unwrap();
        let short = &short["result"];
        assert_eq!(
            (&short["ttlMs"], &short["cacheScope"]),
            (&json!(5000), &json!("private"))
        );
        assert!(short.get("nextCursor").is_none());
        let names: Vec<&str> = short["tools"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|t| t["name"].as_str())
            .collect();
        assert_eq!(names, [FIND, CALL]);
    }

    #[test]
    fn indexes_are_kept_by_what_is_in_them() {
        let searched = Searched::default();
        let tool =
            |name: &str| Tool::parse(&raw_of(&json!({"name": name, "inputSchema": {}}))).unwrap();
        let one = searched.index(vec![tool("a"), tool("b")]);
        assert!(Arc::ptr_eq(
            &one,
            &searched.index(vec![tool("a"), tool("b")])
        ));
        for n in 0..INDEXES_MAX {
            searched.index(vec![tool(&format!("t{n}"))]);
        }
        assert!(!Arc::ptr_eq(
            &one,
            &searched.index(vec![tool("a"), tool("b")])
        ));
        assert_eq!(searched.0.lock().unwrap().len(), INDEXES_MAX);
    }
}
