//! Tools as a server lists them: what the edge needs to know, beside the definition as it came.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::members::Members;
use crate::method::Repeat;

/// Longest tool name that is served.
pub const NAME_BYTES_MAX: usize = 128;

/// What a tool says of its own effects (`annotations`). They are the server's word, not a proof: an
/// operator decides whose word counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hints {
    /// Changes nothing.
    pub read_only: bool,
    /// May destroy something.
    pub destructive: bool,
    /// A second call with the same arguments changes nothing more.
    pub idempotent: bool,
    /// Reaches beyond its server.
    pub open_world: bool,
}

impl Default for Hints {
    /// The protocol's defaults for a tool that says nothing.
    fn default() -> Hints {
        Hints {
            read_only: false,
            destructive: true,
            idempotent: false,
            open_world: true,
        }
    }
}

impl Hints {
    /// Whether a call may be sent again.
    #[must_use]
    pub fn repeat(self) -> Repeat {
        if self.read_only || self.idempotent {
            Repeat::Safe
        } else {
            Repeat::Unsafe
        }
    }
}

/// One tool.
#[derive(Debug, Clone)]
pub struct Tool {
    /// The name that `tools/call` takes.
    pub name: String,
    /// A name for people.
    pub title: Option<String>,
    /// What it does.
    pub description: Option<String>,
    /// JSON Schema of the arguments.
    pub input_schema: Box<RawValue>,
    /// JSON Schema of `structuredContent`.
    pub output_schema: Option<Box<RawValue>>,
    /// Its annotations.
    pub hints: Hints,
    /// The definition as it came.
    pub raw: Box<RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    name: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    description: Option<String>,
    input_schema: Box<RawValue>,
    #[serde(default)]
    output_schema: Option<Box<RawValue>>,
    #[serde(default)]
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Annotations {
    read_only_hint: Option<bool>,
    destructive_hint: Option<bool>,
    idempotent_hint: Option<bool>,
    open_world_hint: Option<bool>,
}

impl Tool {
    /// Reads one definition.
    ///
    /// # Errors
    /// When it has no name, no `inputSchema`, a member of the wrong type, or a name that is empty or
    /// longer than [`NAME_BYTES_MAX`].
    pub fn parse(raw: &RawValue) -> Result<Tool, ToolError> {
        let wire: Wire = serde_json::from_str(raw.get())?;
        if wire.name.is_empty() || wire.name.len() > NAME_BYTES_MAX {
            return Err(ToolError::Name);
        }
        let said = wire.annotations;
        let or = |pick: fn(&Annotations) -> Option<bool>, default| {
            said.as_ref().and_then(pick).unwrap_or(default)
        };
        let default = Hints::default();
        Ok(Tool {
            hints: Hints {
                read_only: or(|a| a.read_only_hint, default.read_only),
                destructive: or(|a| a.destructive_hint, default.destructive),
                idempotent: or(|a| a.idempotent_hint, default.idempotent),
                open_world: or(|a| a.open_world_hint, default.open_world),
            },
            name: wire.name,
            title: wire.title,
            description: wire.description,
            input_schema: wire.input_schema,
            output_schema: wire.output_schema,
            raw: raw.to_owned(),
        })
    }
}

/// Why a definition, or a list of them, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// Not of the form that the protocol gives.
    #[error("not a tool definition: {0}")]
    Json(#[from] serde_json::Error),
    /// The name is empty or too long.
    #[error("a tool's name must have 1 to {NAME_BYTES_MAX} bytes")]
    Name,
    /// The result has no `tools`.
    #[error("the result has no tools")]
    NoTools,
}

/// One page of a `tools/list` result.
#[derive(Debug)]
pub struct Page {
    /// The tools that could be read, in order.
    pub tools: Vec<Tool>,
    /// What could not be read: a server's bad tool costs that tool alone.
    pub refused: Vec<ToolError>,
    /// Where the next page begins.
    pub next_cursor: Option<String>,
}

/// Reads the `result` of a `tools/list`.
///
/// # Errors
/// When the result is no object with an array `tools`.
pub fn read_list(result: &RawValue) -> Result<Page, ToolError> {
    let members = Members::parse(result)?;
    let list = members.get("tools").ok_or(ToolError::NoTools)?;
    let entries: Vec<&RawValue> = serde_json::from_str(list.get())?;
    let mut page = Page {
        tools: Vec::with_capacity(entries.len()),
        refused: Vec::new(),
        next_cursor: members.get_str("nextCursor"),
    };
    for entry in entries {
        match Tool::parse(entry) {
            Ok(tool) => page.tools.push(tool),
            Err(error) => page.refused.push(error),
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn hints_default_to_the_careful_side() {
        for (annotations, repeat) in [
            ("{}", Repeat::Unsafe),
            (r#"{"readOnlyHint":true}"#, Repeat::Safe),
            (r#"{"idempotentHint":true}"#, Repeat::Safe),
            (
                r#"{"readOnlyHint":false,"destructiveHint":false}"#,
                Repeat::Unsafe,
            ),
        ] {
            let tool = Tool::parse(&raw(&format!(
                r#"{{"name":"t","inputSchema":{{}},"annotations":{annotations}}}"#
            )))
            .unwrap();
            assert_eq!(tool.hints.repeat(), repeat, "{annotations}");
        }
        let silent = Tool::parse(&raw(r#"{"name":"t","inputSchema":{}}"#)).unwrap();
        assert_eq!(silent.hints, Hints::default());
    }

    #[test]
    fn one_bad_tool_costs_only_itself() {
        let page = read_list(&raw(
            r#"{"tools":[{"name":"a","inputSchema":{"x":1.0},"vendor":1},{"name":""},7,{"name":"b","inputSchema":{}}],"nextCursor":"c"}"#,
        ))
        .unwrap();
        let names: Vec<_> = page.tools.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(page.refused.len(), 2);
        assert_eq!(page.next_cursor.as_deref(), Some("c"));
        assert_eq!(page.tools[0].input_schema.get(), r#"{"x":1.0}"#);
        assert!(page.tools[0].raw.get().contains("vendor"));
    }
}
