//! `Mcp-Param-*` for calls that came by a front door without them: GraphQL, Cap'n Proto, plain JSON-RPC, WebSocket, sessions of
//! the older era, and tools that are called by way of `call_tool`.
//!
//! An app holds these headers against the arguments, whoever calls. Which arguments they repeat is what the instance that gets
//! the call says of its own tools, since a candidate's may differ from the stable release's. Pure.

use std::borrow::Cow;
use std::collections::HashMap;

use mcp::envelope::{self, Body};
use mcp::members::Members;
use mcp::{Call, Message, Mirror, ParamHeaders, mirror};
use registry::Instance;
use serde_json::Value;

/// By instance and tool, the arguments that the head repeats. Most tools have none.
#[derive(Debug, Default)]
pub struct Mirrored(HashMap<String, HashMap<String, Vec<Mirror>>>);

impl Mirrored {
    /// What instances say of their tools.
    pub fn of<'a>(instances: impl Iterator<Item = &'a Instance>) -> Mirrored {
        let by_instance = instances.map(|instance| (instance.name.clone(), tools(instance)));
        Mirrored(by_instance.filter(|(_, tools)| !tools.is_empty()).collect())
    }

    /// The headers of a call to an instance, name and value.
    pub fn headers<'a>(&self, instance: &str, call: &'a Call) -> Cow<'a, [(String, String)]> {
        if let ParamHeaders::Sent(headers) = &call.param_headers {
            return Cow::Borrowed(headers);
        }
        let tools = self.0.get(instance);
        let mirrors = tools
            .zip(
                call.name
                    .as_deref()
                    .filter(|_| call.method == mcp::Method::ToolsCall),
            )
            .and_then(|(tools, name)| tools.get(name));
        Cow::Owned(mirrors.map_or_else(Vec::new, |mirrors| {
            mirror::write(mirrors, &arguments(&call.body).unwrap_or_default())
        }))
    }
}

fn tools(instance: &Instance) -> HashMap<String, Vec<Mirror>> {
    let tools = instance
        .plugins
        .iter()
        .flat_map(|plugin| &plugin.param_headers);
    tools
        .map(|(tool, pairs)| {
            let mirrors = pairs.iter().map(|(header, path)| Mirror {
                header: header.clone(),
                path: path.clone(),
            });
            (tool.clone(), mirrors.collect())
        })
        .collect()
}

fn arguments(body: &[u8]) -> Option<Value> {
    let Ok(Body::One(Ok(Message::Request { params, .. }))) = envelope::read(body) else {
        return None;
    };
    let params = Members::parse(params?).ok()?;
    serde_json::from_str(params.get("arguments")?.get()).ok()
}

#[cfg(test)]
mod tests {
    use mcp::call::ClientMeta;
    use registry::{PluginState, Role};
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn headers_are_what_the_instance_that_gets_the_call_wants() {
        let instance = |name: &str, header: &str| {
            let mut instance = Instance::new(Role::App, name, "r", "127.0.0.1:1");
            let pairs = vec![(
                header.to_owned(),
                vec!["where".to_owned(), "region".to_owned()],
            )];
            instance.plugins = vec![PluginState {
                param_headers: [("ship".to_owned(), pairs)].into(),
                ..PluginState::default()
            }];
            instance
        };
        let (old, new) = (
            instance("a", "mcp-param-r"),
            instance("b", "mcp-param-region"),
        );
        let mirrored = Mirrored::of([&old, &new].into_iter());
        let arguments = RawValue::from_string(r#"{"where":{"region":"eu"}}"#.to_owned()).unwrap();
        let call = |tool| Call::tool(1, tool, &arguments, &ClientMeta::plain("t")).unwrap();
        for (instance, tool, header) in [
            ("a", "ship", Some("mcp-param-r")),
            ("b", "ship", Some("mcp-param-region")),
            ("b", "other", None),
            ("c", "ship", None),
        ] {
            let call = call(tool);
            let headers = mirrored.headers(instance, &call);
            let want: Vec<_> = header
                .map(|name| (name.to_owned(), "eu".to_owned()))
                .into_iter()
                .collect();
            assert_eq!(*headers, *want, "{instance} {tool}");
        }
        // What a client sent is its own word, for the app to judge.
        let mut sent = call("ship");
        sent.param_headers = ParamHeaders::Sent(Vec::new());
        assert_eq!(*mirrored.headers("b", &sent), []);
    }
}
