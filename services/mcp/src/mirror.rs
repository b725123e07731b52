//! `Mcp-Param-*`: arguments that a tool's schema wants to see in the head too, for gateways that do not read bodies.
//!
//! A property marks itself with `x-mcp-header: Name`; it must be a string, an integer or a boolean, and be reached through
//! `properties` alone. Who calls such a tool writes the headers, and who serves it holds them against the arguments.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::failure::{Cause, Failure};
use crate::headers::{PARAM_PREFIX, decode, encode};

/// How deep properties are looked for.
const DEPTH_MAX: usize = 16;
/// Marked properties of one tool.
const MIRRORS_MAX: usize = 64;
/// Longest name that a mark gives, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Longest value that is written, in bytes. What is longer is left out, and the server says that it is missing: no server takes
/// heads of any length.
const VALUE_BYTES_MAX: usize = 8 << 10;

/// The word that marks a property.
const MARK: &str = "x-mcp-header";

/// One marked property.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// The header's whole name, in lower case.
    pub header: String,
    /// The names that lead to the argument.
    pub path: Vec<String>,
}

/// The `Mcp-Param-*` headers of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ParamHeaders {
    /// The client's own, name and value, to be forwarded as they came: the server holds them against the arguments.
    Sent(Vec<(String, String)>),
    /// The client's protocol has none: whoever sends the call writes them by the tool's schema.
    #[default]
    ToWrite,
}

/// Why a tool's marks cannot be kept: clients of the specification drop such a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// The mark is no name of a header.
    #[error("x-mcp-header is no header name")]
    Name,
    /// The property has another type.
    #[error("x-mcp-header stands at a property that is no string, integer or boolean")]
    Type,
    /// Two marks are the same but for case.
    #[error("two of its properties want the same header")]
    Twice,
    /// A mark under an array, a choice, or too deep.
    #[error("x-mcp-header stands where no argument can be reached")]
    OutOfReach,
    /// More than [`MIRRORS_MAX`].
    #[error("too many of its properties want headers")]
    TooMany,
}

/// Finds the marked properties of an `inputSchema`.
///
/// # Errors
/// Why one of its marks cannot be kept.
pub fn find(schema: &Value) -> Result<Vec<Mirror>, MirrorError> {
    let mut found = Vec::new();
    walk(schema, &mut Vec::new(), &mut found)?;
    let mut names: Vec<&str> = found.iter().map(|mirror| mirror.header.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(MirrorError::Twice);
    }
    if count(schema, 0) > found.len() {
        return Err(MirrorError::OutOfReach);
    }
    Ok(found)
}

/// Finds the marked properties of a tool's definition, most of which have none.
///
/// # Errors
/// As [`find`].
pub fn of_tool(definition: &RawValue) -> Result<Vec<Mirror>, MirrorError> {
    if !definition.get().contains(MARK) {
        return Ok(Vec::new());
    }
    let definition: Value = serde_json::from_str(definition.get()).unwrap_or_default();
    find(&definition["inputSchema"])
}

fn walk(
    schema: &Value,
    path: &mut Vec<String>,
    found: &mut Vec<Mirror>,
) -> Result<(), MirrorError> {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        if path.len() >= DEPTH_MAX {
            return Ok(());
        }
        path.push(name.clone());
        if let Some(mark) = property.get(MARK) {
            found.push(mirror(mark, property, path)?);
            if found.len() > MIRRORS_MAX {
                return Err(MirrorError::TooMany);
            }
        }
        walk(property, path, found)?;
        path.pop();
    }
    Ok(())
}

fn mirror(mark: &Value, property: &Value, path: &[String]) -> Result<Mirror, MirrorError> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let fits = |name: &&str| (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(token);
    let name = mark.as_str().filter(fits).ok_or(MirrorError::Name)?;
    if !matches!(
        property["type"].as_str(),
        Some("string" | "integer" | "boolean")
    ) {
        return Err(MirrorError::Type);
    }
    Ok(Mirror {
        header: format!("{PARAM_PREFIX}{}", name.to_ascii_lowercase()),
        path: path.to_vec(),
    })
}

/// Counts the marks at any place of a schema: not in values, and not what is only called so.
fn count(schema: &Value, depth: usize) -> usize {
    // Each property takes two levels.
    if depth > 2 * DEPTH_MAX {
        return 0;
    }
    let all = |schemas: &mut dyn Iterator<Item = &Value>| -> usize {
        schemas.map(|schema| count(schema, depth + 1)).sum()
    };
    match schema {
        Value::Array(items) => all(&mut items.iter()),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| match (name.as_str(), value) {
                (MARK, _) => 1,
                ("const" | "default" | "enum" | "examples", _) => 0,
                (
                    "properties" | "patternProperties" | "dependentSchemas" | "$defs"
                    | "definitions",
                    Value::Object(schemas),
                ) => all(&mut schemas.values()),
                (_, value) => count(value, depth + 1),
            })
            .sum(),
        _ => 0,
    }
}

/// Writes the headers that a call's arguments ask for, name and value. What is absent or null has none.
#[must_use]
pub fn write(mirrors: &[Mirror], arguments: &Value) -> Vec<(String, String)> {
    let header = |mirror: &Mirror| {
        let text = match mirror.argument(arguments)? {
            Value::String(text) => encode(text).into_owned(),
            value @ (Value::Number(_) | Value::Bool(_)) => value.to_string(),
            // The tool's schema refuses it with a better word.
            _ => return None,
        };
        let fits = text.len() <= VALUE_BYTES_MAX;
        fits.then(|| (mirror.header.clone(), text))
    };
    mirrors.iter().filter_map(header).collect()
}

/// Checks that the head says of each marked argument what the arguments say. `values` returns a header's values, each
/// `None` if it is not plain ASCII.
///
/// # Errors
/// [`Cause::HeaderMismatch`].
pub fn check<'h, V>(
    mirrors: &[Mirror],
    arguments: Option<&RawValue>,
    values: impl Fn(&str) -> V,
) -> Result<(), Failure>
where
    V: Iterator<Item = Option<&'h str>>,
{
    let arguments: Value = arguments
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default();
    for mirror in mirrors {
        let mut said = values(&mirror.header);
        let verdict = match (said.next(), said.next()) {
            (_, Some(_)) => Err("comes more than once"),
            (Some(None), None) => Err("is not plain ASCII"),
            (Some(Some(said)), None) => mirror.agrees(Some(said), &arguments),
            (None, None) => mirror.agrees(None, &arguments),
        };
        verdict.map_err(|what| {
            let text = format!("the header {} {what}", mirror.header);
            Failure::say(Cause::HeaderMismatch, text)
        })?;
    }
    Ok(())
}

impl Mirror {
    fn argument<'a>(&self, arguments: &'a Value) -> Option<&'a Value> {
        let mut path = self.path.iter();
        path.try_fold(arguments, |value, name| value.get(name))
            .filter(|value| !value.is_null())
    }

    fn agrees(&self, said: Option<&str>, arguments: &Value) -> Result<(), &'static str> {
        match (said, self.argument(arguments)) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err("is missing"),
            (Some(_), None) => Err("says what the arguments do not"),
            (Some(said), Some(argument)) => match decode(said) {
                None => Err("is not valid Base64"),
                Some(said) if is_same(&said, argument) => Ok(()),
                Some(_) => Err("and the arguments disagree"),
            },
        }
    }
}

fn is_same(said: &str, argument: &Value) -> bool {
    match argument {
        Value::String(text) => said == text,
        Value::Bool(flag) => said == flag.to_string(),
        Value::Number(number) => match (said.parse::<i128>(), number.to_string().parse::<i128>()) {
            (Ok(said), Ok(number)) => said == number,
            // An integer may be written with a fraction of nought, or beyond 128 bits.
            _ => said.parse::<f64>().ok() == number.as_f64(),
        },
        // The tool's schema refuses it with a better word.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "Count"}}},
            "sure": {"type": "boolean", "x-mcp-header": "Sure"},
            "plain": {"type": "number"},
            "x-mcp-header": {"type": "string"},
        }, "$defs": {"x-mcp-header": {"type": "string"}}, "default": {"x-mcp-header": "A"}})
    }

    #[test]
    fn marks_are_found_and_bad_ones_refused() {
        let headers: Vec<_> = find(&schema())
            .unwrap()
            .into_iter()
            .map(|mirror| mirror.header)
            .collect();
        assert_eq!(
            headers,
            ["mcp-param-count", "mcp-param-region", "mcp-param-sure"]
        );
        let string = |mark: Value| json!({"type": "string", "x-mcp-header": mark});
        let many = (0..=MIRRORS_MAX).map(|n| (format!("p{n}"), string(json!(format!("p{n}")))));
        for (properties, error) in [
            (
                json!({"a": {"type": "number", "x-mcp-header": "A"}}),
                MirrorError::Type,
            ),
            (json!({"a": string(json!("a b"))}), MirrorError::Name),
            (json!({"a": string(json!(""))}), MirrorError::Name),
            (json!({"a": string(json!(7))}), MirrorError::Name),
            (
                json!({"a": string(json!("A")), "b": string(json!("a"))}),
                MirrorError::Twice,
            ),
            (
                json!({"a": {"type": "array", "items": string(json!("A"))}}),
                MirrorError::OutOfReach,
            ),
            (
                json!({"a": {"oneOf": [{"properties": {"b": string(json!("A"))}}]}}),
                MirrorError::OutOfReach,
            ),
            (Value::Object(many.collect()), MirrorError::TooMany),
        ] {
            let schema = json!({"properties": properties});
            assert_eq!(find(&schema), Err(error), "{schema}");
        }
    }

    #[test]
    fn a_definition_is_read_for_its_marks() {
        let tool = |schema: Value| {
            let text = json!({"name": "t", "inputSchema": schema}).to_string();
            of_tool(&RawValue::from_string(text).unwrap())
        };
        assert_eq!(tool(schema()).unwrap().len(), 3);
        assert_eq!(tool(json!({})), Ok(Vec::new()));
        assert!(tool(json!({"properties": {"a": {"x-mcp-header": "A"}}})).is_err());
    }

    #[test]
    fn what_is_written_is_as_the_specification_has_it() {
        let arguments = json!({"region": "häi", "deep": {"n": 7}, "sure": null});
        let headers = write(&find(&schema()).unwrap(), &arguments);
        let headers: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        assert_eq!(
            headers,
            [
                "mcp-param-count: 7",
                "mcp-param-region: =?base64?aMOkaQ==?="
            ]
        );
        let long = json!({"region": "a".repeat(VALUE_BYTES_MAX + 1), "sure": false});
        let headers = write(&find(&schema()).unwrap(), &long);
        assert_eq!(headers, [("mcp-param-sure".to_owned(), "false".to_owned())]);
    }

    fn holds(arguments: &str, head: &[(&str, &str)]) -> bool {
        let raw: Box<RawValue> = serde_json::from_str(arguments).unwrap();
        let values = |name: &str| {
            let name = name.strip_prefix(PARAM_PREFIX).unwrap().to_owned();
            head.iter()
                .filter(move |(said, _)| *said == name)
                .map(|(_, value)| Some(*value))
        };
        check(&find(&schema()).unwrap(), Some(&raw), values).is_ok()
    }

    #[test]
    fn heads_are_held_against_arguments() {
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
            assert_eq!(holds(arguments, &head), fits, "{arguments} {head:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_holds(region in ".{0,64}", n in any::<i64>(), sure in any::<bool>()) {
            let arguments = json!({"region": region, "deep": {"n": n}, "sure": sure});
            let written = write(&find(&schema()).unwrap(), &arguments);
            let head: Vec<(&str, &str)> = written
                .iter()
                .map(|(name, value)| (name.strip_prefix(PARAM_PREFIX).unwrap(), value.as_str()))
                .collect();
            prop_assert!(holds(&arguments.to_string(), &head));
        }
    }
}
