//! `$ref`: pointers within the document. Nothing else is followed.

use percent_encoding::percent_decode_str;
use serde_json::Value;

/// How many references may follow each other.
const HOPS_MAX: usize = 16;

/// Why an operation, or a part of it, cannot be served: a sentence for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfit(pub(crate) String);

/// Returns `value`, or what it refers to.
pub(crate) fn follow<'d>(root: &'d Value, mut value: &'d Value) -> Result<&'d Value, Unfit> {
    for _ in 0..HOPS_MAX {
        match value.get("$ref").and_then(Value::as_str) {
            None => return Ok(value),
            Some(reference) => value = target(root, reference)?,
        }
    }
    Err(Unfit(format!(
        "more than {HOPS_MAX} references follow each other"
    )))
}

/// Returns what a reference names.
pub(crate) fn target<'d>(root: &'d Value, reference: &str) -> Result<&'d Value, Unfit> {
    let shown = || -> String { reference.chars().take(120).collect() };
    let pointer = reference.strip_prefix('#').ok_or_else(|| {
        Unfit(format!(
            "{:?} lies outside of the document; references are not fetched",
            shown()
        ))
    })?;
    let pointer = percent_decode_str(pointer).decode_utf8_lossy();
    root.pointer(&pointer)
        .ok_or_else(|| Unfit(format!("{:?} leads nowhere", shown())))
}
