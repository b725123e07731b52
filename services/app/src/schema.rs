//! JSON Schema, with what a stranger's schema must not do switched off.
//!
//! Nothing is fetched for a `$ref` (the crate is built without resolvers), and patterns run on the linear-time engine: a
//! schema comes from a caller as often as from us.

use jsonschema::{PatternOptions, ValidationOptions, Validator};
use serde_json::Value;

/// The largest compiled pattern, in bytes.
const PATTERN_SIZE_MAX: usize = 1 << 20;

/// How many failing paths one answer names.
const COMPLAINTS_MAX: usize = 16;
/// How much of one message is repeated, in characters: it may quote the argument.
const COMPLAINT_CHARS_MAX: usize = 300;

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

/// Returns what a caller is told of a document that does not fit: a line for each place.
pub fn complaint(validator: &Validator, document: &Value) -> Option<String> {
    let lines: Vec<String> = problems(validator, document, COMPLAINTS_MAX)
        .map(|problem| {
            let text = format!("{}: {}", problem.path, problem.message);
            text.chars().take(COMPLAINT_CHARS_MAX).collect()
        })
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}
