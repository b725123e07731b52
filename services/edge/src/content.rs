//! What is logged of tools' arguments and results: nothing, unless the operator allows it for a tool, and never a secret.

use mcp::envelope::{self, Body};
use mcp::members::Members;
use mcp::{Call, Message, Method, Reply};
use settings::{EdgeLog, Logged};
use telemetry::{Detail, Redaction};

use crate::admission::Patterns;

/// What the operator allows.
#[derive(Debug)]
pub struct Content {
    arguments: Patterns<Logged>,
    results: Patterns<Logged>,
    redaction: Redaction,
}

/// What may be told of one call.
#[derive(Debug, Default)]
pub struct Told {
    arguments: Option<String>,
    result: Option<Detail>,
}

impl Content {
    /// By the settings.
    pub fn new(settings: &EdgeLog) -> Content {
        let allowed = |named: &std::collections::BTreeMap<String, Logged>| {
            Patterns::new(named.iter().map(|(name, logged)| (name.clone(), *logged)))
        };
        Content {
            arguments: allowed(&settings.arguments),
            results: allowed(&settings.results),
            redaction: Redaction::new(
                &settings.redact,
                usize::try_from(settings.limit).unwrap_or(usize::MAX),
            ),
        }
    }

    /// Takes down what may be told of a call before it is sent.
    pub fn of_call(&self, call: &Call) -> Told {
        let Some(tool) = call
            .name
            .as_deref()
            .filter(|_| call.method == Method::ToolsCall)
        else {
            return Told::default();
        };
        let arguments = detail(&self.arguments, tool).map(|detail| {
            let arguments = arguments(&call.body);
            self.redaction
                .show(arguments.as_deref().unwrap_or("{}"), detail)
        });
        Told {
            arguments,
            result: detail(&self.results, tool),
        }
    }

    /// Logs it, with what came back.
    pub fn log(&self, told: &Told, tool: Option<&str>, reply: Option<&Reply>) {
        let result = told.result.zip(reply).and_then(|(detail, reply)| {
            let (Ok(result) | Err(result)) = reply.result().ok()?;
            Some(self.redaction.show(result.get(), detail))
        });
        if told.arguments.is_some() || result.is_some() {
            tracing::info!(target: "content", tool, arguments = told.arguments, result, "a tool was called");
        }
    }
}

fn detail(patterns: &Patterns<Logged>, tool: &str) -> Option<Detail> {
    match patterns.get(tool)? {
        Logged::None => None,
        Logged::Keys => Some(Detail::Keys),
        Logged::Full => Some(Detail::Full),
    }
}

fn arguments(body: &[u8]) -> Option<String> {
    let Ok(Body::One(Ok(Message::Request { params, .. }))) = envelope::read(body) else {
        return None;
    };
    let params = Members::parse(params?).ok()?;
    Some(params.get("arguments")?.get().to_owned())
}

#[cfg(test)]
mod tests {
    use mcp::call::ClientMeta;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn arguments_are_told_as_far_as_their_tool_allows() {
        let text = r#"
            [edge.log]
            arguments = { "mail_*" = "keys", "mail_send" = "full", "mail_secret" = "none" }
        "#;
        let settings = settings::load_str(text, std::iter::empty())
            .unwrap()
            .settings;
        let content = Content::new(&settings.edge.log);
        let arguments = r#"{"to":"ana","password":"hunter2"}"#;
        let arguments = RawValue::from_string(arguments.to_owned()).unwrap();
        for (tool, told) in [
            ("mail_send", Some(r#"{"password":"[redacted]","to":"ana"}"#)),
            ("mail_list", Some(r#"{"password":"string","to":"string"}"#)),
            ("mail_secret", None),
            ("other", None),
        ] {
            let call = Call::tool(1, tool, &arguments, &ClientMeta::plain("t")).unwrap();
            let taken = content.of_call(&call);
            assert_eq!(taken.arguments.as_deref(), told, "{tool}");
            assert_eq!(taken.result, None);
        }
    }
}
