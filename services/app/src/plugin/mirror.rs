//! `Mcp-Param-*`: arguments that a tool's schema wants to see in the head too, for gateways that do not read bodies. Pure.
//!
//! A property marks itself with `x-mcp-header: Name`; it must be a string, an integer or a boolean, and be reached through
//! `properties` alone.

use http::HeaderMap;
use mcp::{Cause, Failure, headers};
use serde_json::{Value, value::RawValue};

/// How deep properties are looked for.
const DEPTH_MAX: usize = 16;
/// Marked properties of one tool.
const MIRRORS_MAX: usize = 64;

/// One marked property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The header's whole name, in lower case.
    header: String,
    /// The names that lead to the argument.
    path: Vec<String>,
}

/// Finds the marked properties of an `inputSchema`.
///
/// # Errors
/// Why a mark cannot be kept; clients of the specification drop such a tool.
pub fn find(schema: &Value) -> Result<Vec<Mirror>, &'static str> {
    let mut found = Vec::new();
    walk(schema, &mut Vec::new(), &mut found)?;
    let mut names: Vec<&str> = found.iter().map(|mirror| mirror.header.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("two of its properties want the same header");
    }
    if count_marks(schema, 0) > found.len() {
        return Err("x-mcp-header stands where no argument can be reached");
    }
    Ok(found)
}

fn walk(
    schema: &Value,
    path: &mut Vec<String>,
    found: &mut Vec<Mirror>,
) -> Result<(), &'static str> {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        if path.len() >= DEPTH_MAX {
            return Ok(());
        }
        path.push(name.clone());
        if let Some(mark) = property.get("x-mcp-header") {
            found.push(mirror(mark, property, path)?);
            if found.len() > MIRRORS_MAX {
                return Err("too many of its properties want headers");
            }
        }
        walk(property, path, found)?;
        path.pop();
    }
    Ok(())
}

fn mirror(mark: &Value, property: &Value, path: &[String]) -> Result<Mirror, &'static str> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let name = mark
        .as_str()
        .filter(|name| !name.is_empty() && name.len() <= 128 && name.bytes().all(token))
        .ok_or("x-mcp-header is no header name")?;
    if !matches!(
        property["type"].as_str(),
        Some("string" | "integer" | "boolean")
    ) {
        return Err("x-mcp-header stands at a property that is no string, integer or boolean");
    }
    Ok(Mirror {
        header: format!("{}{}", headers::PARAM_PREFIX, name.to_ascii_lowercase()),
        path: path.to_vec(),
    })
}

/// Counts marks anywhere in a schema, save in what only looks like one: values.
fn count_marks(schema: &Value, depth: usize) -> usize {
    const VALUES: [&str; 4] = ["const", "default", "enum", "examples"];
    if depth > 2 * DEPTH_MAX {
        return 0;
    }
    match schema {
        Value::Array(items) => items.iter().map(|item| count_marks(item, depth + 1)).sum(),
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| !VALUES.contains(&name.as_str()))
            .map(|(name, value)| {
                let marked = name == "x-mcp-header" && !value.is_object();
                usize::from(marked) + count_marks(value, depth + 1)
            })
            .sum(),
        _ => 0,
    }
}

/// Checks that the head says of each marked argument what the body says.
///
/// # Errors
/// [`Cause::HeaderMismatch`].
pub(crate) fn check(
    head: &HeaderMap,
    mirrors: &[Mirror],
    arguments: Option<&RawValue>,
) -> Result<(), Failure> {
    let arguments: Value = arguments
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default();
    for mirror in mirrors {
        let body = mirror
            .path
            .iter()
            .try_fold(&arguments, |value, name| value.get(name))
            .filter(|value| !value.is_null());
        let said = one(head, &mirror.header)?;
        let mismatch = |what: &str| {
            Failure::say(
                Cause::HeaderMismatch,
                format!("the header {} {what}", mirror.header),
            )
        };
        match (said, body) {
            (None, None) => {}
            (None, Some(_)) => return Err(mismatch("is missing")),
            (Some(_), None) => return Err(mismatch("says what the arguments do not")),
            (Some(said), Some(body)) => {
                let said = headers::decode(said).ok_or_else(|| mismatch("is not valid Base64"))?;
                if !agree(&said, body) {
                    return Err(mismatch("and the arguments disagree"));
                }
            }
        }
    }
    Ok(())
}

fn one<'a>(head: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Failure> {
    let unclear =
        |what: &str| Failure::say(Cause::HeaderMismatch, format!("the header {name} {what}"));
    let mut values = head.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(unclear("comes more than once"));
    }
    value
        .to_str()
        .map(Some)
        .map_err(|_| unclear("is not plain ASCII"))
}

fn agree(said: &str, body: &Value) -> bool {
    match body {
        Value::String(text) => said == text,
        Value::Bool(flag) => said == flag.to_string(),
        Value::Number(number) => match (said.parse::<i128>(), number.to_string().parse::<i128>()) {
            (Ok(said), Ok(body)) => said == body,
            // An integer may be written with a fraction of nought, or beyond 128 bits.
            _ => said.parse::<f64>().ok() == number.as_f64(),
        },
        // The tool's schema refuses it with a better word.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "Count"}}},
            "plain": {"type": "number"},
        }})
    }

    #[test]
    fn marks_are_found_and_bad_ones_refused() {
        let headers: Vec<_> = find(&schema())
            .unwrap()
            .into_iter()
            .map(|mirror| mirror.header)
            .collect();
        assert_eq!(headers, ["mcp-param-count", "mcp-param-region"]);
        for property in [
            json!({"a": {"type": "number", "x-mcp-header": "A"}}),
            json!({"a": {"type": "string", "x-mcp-header": "a b"}}),
            json!({"a": {"type": "string", "x-mcp-header": ""}}),
            json!({"a": {"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}}),
            json!({"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}}),
        ] {
            assert!(
                find(&json!({"properties": property})).is_err(),
                "{property}"
            );
        }
        assert_eq!(
            find(&json!({"properties": {"a": {"default": {"x-mcp-header": "A"}}}})),
            Ok(Vec::new())
        );
    }

    #[test]
    fn heads_are_held_against_arguments() {
        let mirrors = find(&schema()).unwrap();
        for (arguments, head, fits) in [
            (
                r#"{"region":"eu","deep":{"n":5}}"#,
                vec![("region", "eu"), ("count", "5")],
                true,
            ),
            (r#"{"region":"eu"}"#, vec![("region", "EU")], false),
            (r#"{"region":"eu"}"#, vec![], false),
            (r#"{"region":null}"#, vec![], true),
            (r#"{"region":null}"#, vec![("region", "")], false),
            ("{}", vec![("region", "eu")], false),
            (
                r#"{"region":"ü"}"#,
                vec![("region", "=?base64?w7w=?=")],
                true,
            ),
            (
                r#"{"region":"ü"}"#,
                vec![("region", "=?base64?w7w?=")],
                false,
            ),
            (r#"{"deep":{"n":5.0}}"#, vec![("count", "5")], true),
            (
                r#"{"deep":{"n":9007199254740993}}"#,
                vec![("count", "9007199254740992")],
                false,
            ),
            (
                r#"{"region":"eu"}"#,
                vec![("region", "eu"), ("region", "eu")],
                false,
            ),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in &head {
                let name = format!("mcp-param-{name}");
                map.append(
                    name.parse::<http::HeaderName>().unwrap(),
                    value.parse().unwrap(),
                );
            }
            let raw = serde_json::from_str(arguments).unwrap();
            assert_eq!(
                check(&map, &mirrors, Some(raw)).is_ok(),
                fits,
                "{arguments} {head:?}"
            );
        }
    }
}
