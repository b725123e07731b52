//! Parameters that a tool wants in the request's head: `x-mcp-header` in its schema, `Mcp-Param-*` on the wire. Pure.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use mcp::headers::{PARAM_PREFIX, encode};
use serde_json::{Map, Value};

/// Marks of one tool.
const MARKS_MAX: usize = 32;
/// Objects within each other.
const DEPTH_MAX: usize = 16;

/// One marked parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    header: HeaderName,
    /// Where it stands in the arguments.
    path: Vec<String>,
}

/// The marks of a server's tools, by name; only tools that have any.
pub(super) type Marks = HashMap<String, Vec<Mark>>;

/// Reads the marks of a definition. `None` if one of them is not as the protocol has it: such a tool is not served.
pub(super) fn read(definition: &Value) -> Option<Vec<Mark>> {
    let mut marks = Vec::new();
    let schema = definition.get("inputSchema")?;
    gather(schema, &mut Vec::new(), &mut marks)?;
    // Every other place for a mark is wrong, so none may be left over.
    (marks.len() == count(schema)).then_some(marks)
}

fn gather(schema: &Value, path: &mut Vec<String>, marks: &mut Vec<Mark>) -> Option<()> {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        if path.len() >= DEPTH_MAX {
            return None;
        }
        path.push(name.clone());
        if let Some(mark) = property.get("x-mcp-header") {
            let kind = property.get("type").and_then(Value::as_str);
            let name = mark.as_str().filter(|name| !name.is_empty())?;
            let header: HeaderName = format!("{PARAM_PREFIX}{name}").parse().ok()?;
            let fits = matches!(kind, Some("string" | "integer" | "boolean"))
                && marks.iter().all(|other| other.header != header)
                && marks.len() < MARKS_MAX;
            if !fits {
                return None;
            }
            marks.push(Mark {
                header,
                path: path.clone(),
            });
        }
        gather(property, path, marks)?;
        path.pop();
    }
    Some(())
}

/// Counts the marks at any place of a schema. A property that is called `x-mcp-header` is none.
fn count(schema: &Value) -> usize {
    let of = |map: &Map<String, Value>| -> usize {
        map.iter()
            .map(|(name, value)| match (name.as_str(), value) {
                ("x-mcp-header", _) => 1,
                ("properties", Value::Object(properties)) => properties.values().map(count).sum(),
                ("enum" | "const" | "default" | "examples", _) => 0,
                (_, value) => count(value),
            })
            .sum()
    };
    match schema {
        Value::Object(map) => of(map),
        Value::Array(items) => items.iter().map(count).sum(),
        _ => 0,
    }
}

/// Returns the header fields that a call's arguments ask for.
pub(super) fn fields(marks: &[Mark], arguments: &Value) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for mark in marks {
        let value = mark
            .path
            .iter()
            .try_fold(arguments, |at, name| at.get(name));
        let text = match value {
            Some(Value::String(text)) => text.clone(),
            Some(other @ (Value::Number(_) | Value::Bool(_))) => other.to_string(),
            _ => continue,
        };
        if let Ok(value) = HeaderValue::from_str(&encode(&text)) {
            fields.insert(mark.header.clone(), value);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn marked_arguments_go_into_the_head_and_bad_marks_cost_the_tool() {
        let tool = |properties: Value| json!({"inputSchema": {"type": "object", "properties": properties}});
        let good = tool(json!({
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "flag": {"type": "boolean", "x-mcp-header": "Flag"},
            "x-mcp-header": {"type": "string"},
        }));
        let marks = read(&good).unwrap();
        let given = json!({"region": "häi", "deep": {"n": 7}, "flag": null});
        let mut fields: Vec<_> = fields(&marks, &given)
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        assert_eq!(
            fields,
            ["mcp-param-n: 7", "mcp-param-region: =?base64?aMOkaQ==?="]
        );
        for bad in [
            json!({"a": {"type": "number", "x-mcp-header": "A"}}),
            json!({"a": {"type": "string", "x-mcp-header": "a b"}}),
            json!({"a": {"type": "string", "x-mcp-header": ""}}),
            json!({"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}}),
            json!({"a": {"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}}),
        ] {
            assert_eq!(read(&tool(bad.clone())), None, "{bad}");
        }
    }
}
