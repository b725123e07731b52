//! A document: text to a tree, with bounds on size, depth and aliases.

use serde_json::Value;

/// The largest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Levels of a YAML document; JSON stops at 128 by itself.
const DEPTH_MAX: usize = 128;
/// Nodes of a YAML document, aliases expanded.
const NODES_MAX: usize = 2_000_000;
/// Nodes that aliases alone may add.
const ALIASED_NODES_MAX: usize = 200_000;

/// Why a text is no document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is too long.
    #[error("the document has {0} bytes, more than {DOCUMENT_BYTES_MAX}")]
    TooLong(usize),
    /// It is no JSON.
    #[error("the document is not JSON")]
    Json(#[from] serde_json::Error),
    /// It is no YAML.
    #[error("the document is neither JSON nor YAML: {0}")]
    Yaml(String),
    /// It is no OpenAPI 3.0 or 3.1.
    #[error("the document is not OpenAPI 3.0 or 3.1: `openapi` is {0}")]
    Version(String),
    /// It has no paths.
    #[error("the document has no object `paths`")]
    NoPaths,
}

/// Whose schemas the document has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAPI 3.0's own: `nullable`, boolean `exclusiveMinimum`, nothing beside a `$ref`.
    V30,
    /// JSON Schema 2020-12.
    V31,
}

/// A document that says it is OpenAPI.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) root: Value,
    pub(crate) dialect: Dialect,
}

impl Document {
    /// Reads JSON if the text begins like it, else YAML.
    pub(crate) fn read(text: &str) -> Result<Self, DocumentError> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLong(text.len()));
        }
        let root = if text.trim_start().starts_with('{') {
            serde_json::from_str(text)?
        } else {
            yaml(text)?
        };
        let version = root.get("openapi").and_then(Value::as_str);
        let dialect = match version {
            Some(version) if version.starts_with("3.0.") || version == "3.0" => Dialect::V30,
            Some(version) if version.starts_with("3.1.") || version == "3.1" => Dialect::V31,
            other => {
                let said: String = other.unwrap_or("missing").chars().take(20).collect();
                return Err(DocumentError::Version(said.escape_debug().to_string()));
            }
        };
        Ok(Self { root, dialect })
    }
}

fn yaml(text: &str) -> Result<Value, DocumentError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 2 * NODES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIASED_NODES_MAX },
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let first = error.to_string();
        let first = first.lines().next().unwrap_or_default();
        DocumentError::Yaml(first.chars().take(200).collect())
    })
}
