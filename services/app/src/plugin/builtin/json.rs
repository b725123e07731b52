//! `json`: looking into, checking and rewriting JSON.

use std::sync::Arc;

use jsonpath_rust::JsonPath;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::tool::{About, Hints, Refusal, Tool};
use crate::plugin::CallContext;

/// How many matches or problems one answer has.
const ANSWERS_MAX: usize = 1000;
/// The longest path, in bytes.
const PATH_BYTES_MAX: usize = 512;

/// Returns the tools of the set; `threads` bounds how many run at once.
pub(crate) fn tools(threads: &Arc<Semaphore>) -> Vec<Tool> {
    vec![
        Tool::blocking(
            About {
                name: "query",
                title: "Query JSON",
                description: "Selects parts of a JSON document by JSONPath (RFC 9535, `$.items[?@.price < 10].name`) or JSON Pointer (RFC 6901, `/items/0/name`).",
                hints: Hints::READ_ONLY,
            },
            (),
            threads,
            query,
        ),
        Tool::blocking(
            About {
                name: "validate",
                title: "Validate JSON",
                description: "Checks a JSON document against a JSON Schema (2020-12 unless it names another draft) and lists every failing path. References are resolved within the schema only.",
                hints: Hints::READ_ONLY,
            },
            (),
            threads,
            validate,
        ),
        Tool::blocking(
            About {
                name: "format",
                title: "Format JSON",
                description: "Parses JSON text and writes it again, indented or compact; tells line and column of a syntax error.",
                hints: Hints::READ_ONLY,
            },
            (),
            threads,
            format,
        ),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Query {
    /// The document: any JSON value.
    document: Value,
    /// A JSONPath that starts with `$`, or a JSON Pointer that is empty or starts with `/`.
    path: String,
}

#[derive(Serialize, JsonSchema)]
struct Selected {
    /// What was found, in document order.
    matches: Vec<Place>,
    /// How many were found in all.
    count: usize,
    /// Whether there are more than were answered.
    truncated: bool,
}

#[derive(Serialize, JsonSchema)]
struct Place {
    /// Where it is, in the notation of the query.
    path: String,
    /// What it is.
    value: Value,
}

fn query((): &(), input: Query, _: &CallContext) -> Result<Selected, Refusal> {
    if !input.path.starts_with('$') {
        return pointer(&input);
    }
    affordable(&input.path)?;
    let found = input.document.query_with_path(&input.path)?;
    let count = found.len();
    let matches = found
        .into_iter()
        .take(ANSWERS_MAX)
        .map(|one| {
            let value = one.clone().val().clone();
            Place {
                path: one.path(),
                value,
            }
        })
        .collect();
    Ok(Selected {
        matches,
        count,
        truncated: count > ANSWERS_MAX,
    })
}

fn pointer(input: &Query) -> Result<Selected, Refusal> {
    if !input.path.is_empty() && !input.path.starts_with('/') {
        return Err(Refusal(
            "the path must be a JSONPath that starts with `$`, or a JSON Pointer that is empty or starts with `/`".into(),
        ));
    }
    let matches: Vec<Place> = input
        .document
        .pointer(&input.path)
        .map(|value| Place {
            path: input.path.clone(),
            value: value.clone(),
        })
        .into_iter()
        .collect();
    Ok(Selected {
        count: matches.len(),
        matches,
        truncated: false,
    })
}

/// Refuses a path whose work could grow faster than the document.
///
/// Each `..` multiplies by the document's depth, each extra selector in brackets repeats its nodes, a `$` within a filter
/// walks the whole document once a candidate. RFC 9535 (section 4.1) leaves such limits to the implementation.
fn affordable(path: &str) -> Result<(), Refusal> {
    const LIMITS: [(&str, usize, &str); 5] = [
        ("..", 2, "descendant segments"),
        ("[", 32, "brackets"),
        ("(", 16, "parentheses"),
        (",", 8, "extra selectors"),
        ("?", 4, "filters"),
    ];
    if path.len() > PATH_BYTES_MAX {
        return Err(Refusal(format!(
            "a path has at most {PATH_BYTES_MAX} bytes"
        )));
    }
    let bare = without_strings(path);
    for (mark, most, what) in LIMITS {
        if bare.matches(mark).count() > most {
            return Err(Refusal(format!("a path has at most {most} {what}")));
        }
    }
    if bare.matches('$').count() > 1 {
        return Err(Refusal(
            "a filter compares with the current node (`@`); `$` stands only at the start".into(),
        ));
    }
    Ok(())
}

fn without_strings(path: &str) -> String {
    let (mut bare, mut quote, mut escaped) = (String::new(), None, false);
    for c in path.chars() {
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            None => bare.push(c),
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
        }
    }
    bare
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Validate {
    /// The document: any JSON value.
    document: Value,
    /// The JSON Schema: an object or a boolean.
    schema: Value,
}

#[derive(Serialize, JsonSchema)]
struct Validated {
    /// Whether the document fits.
    valid: bool,
    /// What does not fit.
    problems: Vec<Misfit>,
}

#[derive(Serialize, JsonSchema)]
struct Misfit {
    /// JSON Pointer to the failing place; `/` alone is the whole document.
    path: String,
    /// What is wrong there.
    message: String,
}

fn validate((): &(), input: Validate, _: &CallContext) -> Result<Validated, Refusal> {
    let validator = crate::schema::options()
        .build(&input.schema)
        .map_err(|error| Refusal(format!("the schema is not valid: {error}")))?;
    let problems: Vec<Misfit> = crate::schema::problems(&validator, &input.document, ANSWERS_MAX)
        .map(|problem| Misfit {
            path: problem.path,
            message: problem.message,
        })
        .collect();
    Ok(Validated {
        valid: problems.is_empty(),
        problems,
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Format {
    /// JSON text.
    text: String,
    /// Spaces a level; 0 writes everything on one line.
    #[serde(default = "two")]
    #[schemars(range(max = 8))]
    indent: usize,
}

fn two() -> usize {
    2
}

#[derive(Serialize, JsonSchema)]
struct Formatted {
    /// The JSON text as written anew.
    text: String,
}

fn format((): &(), input: Format, _: &CallContext) -> Result<Formatted, Refusal> {
    let value: Value = serde_json::from_str(&input.text)
        .map_err(|error| Refusal(format!("the text is not JSON: {error}")))?;
    if input.indent == 0 {
        return Ok(Formatted {
            text: value.to_string(),
        });
    }
    let indent = " ".repeat(input.indent);
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut out, formatter,
    ))?;
    Ok(Formatted {
        text: String::from_utf8(out)?,
    })
}
