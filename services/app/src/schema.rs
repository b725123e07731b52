//! JSON Schema, with what a stranger's schema must not do switched off.
//!
//! Nothing is fetched for a `$ref` (the crate is built without resolvers), and patterns run on the linear-time engine: a
//! schema comes from a caller as often as from us.

use jsonschema::{PatternOptions, ValidationOptions, Validator};
use serde_json::{Value, json};

/// The largest compiled pattern, in bytes.
const PATTERN_SIZE_MAX: usize = 1 << 20;

/// How many failing paths one refusal names.
const PROBLEMS_MAX: usize = 16;
/// How much of one message is repeated, in characters: it may quote the argument.
const PROBLEM_CHARS_MAX: usize = 300;

/// Where and why a document does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// JSON Pointer to the failing place; `/` alone is the whole document.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

/// Returns the options with which every schema is compiled: 2020-12 unless the schema names another draft.
pub fn options() -> ValidationOptions<'static> {
    jsonschema::options().with_pattern_options(PatternOptions::regex().size_limit(PATTERN_SIZE_MAX))
}

/// Returns the first `limit` problems of `document`.
pub fn problems<'a>(
    validator: &'a Validator,
    document: &'a Value,
    limit: usize,
) -> impl Iterator<Item = Problem> + 'a {
    validator.iter_errors(document).take(limit).map(|error| {
        let path = error.instance_path().as_str();
        Problem {
            path: if path.is_empty() {
                "/".into()
            } else {
                path.to_owned()
            },
            message: error.to_string(),
        }
    })
}

/// Returns in one line each why arguments do not fit: all mistakes at once, so that a model corrects them in one round.
pub fn misfits(validator: &Validator, arguments: &Value) -> Vec<String> {
    problems(validator, arguments, PROBLEMS_MAX)
        .map(|problem| {
            let text = format!("{}: {}", problem.path, problem.message);
            text.chars().take(PROBLEM_CHARS_MAX).collect()
        })
        .collect()
}

/// Returns the tool result that says so.
pub fn refusal(misfits: &[String]) -> Value {
    let text = format!(
        "the arguments do not fit the tool's inputSchema:\n{}",
        misfits.join("\n")
    );
    json!({
        "resultType": "complete",
        "isError": true,
        "content": [{"type": "text", "text": text}],
    })
}
