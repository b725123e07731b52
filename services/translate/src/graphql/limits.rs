//! What one GraphQL request may cost.

/// Bounds on a request. Each is checked before the work that it bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Levels of fields, fragments expanded. Introspection may always use 16 levels.
    pub depth_max: usize,
    /// Cost of an operation: one for each field, fragments expanded, and 5 more for each tool call.
    pub complexity_max: usize,
    /// Fields with an alias in an operation, fragments expanded.
    pub aliases_max: usize,
    /// Tokens in a document.
    pub tokens_max: usize,
    /// Bytes in a document.
    pub document_bytes_max: usize,
    /// Requests in one batch.
    pub batch_max: usize,
    /// Whether `__schema` and `__type` are answered.
    pub introspection: bool,
}

/// What a tool call costs on top of its field.
pub(super) const CALL_COST: usize = 5;

/// The depth that introspection may use: what the usual tools ask for.
pub(super) const INTROSPECTION_DEPTH: usize = 16;

/// Brackets that may be open at once in a document. The parser recurses on each.
pub(super) const NESTING_MAX: usize = 48;

/// Errors that one response reports.
pub(super) const ERRORS_MAX: usize = 32;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            depth_max: 16,
            complexity_max: 500,
            aliases_max: 64,
            tokens_max: 15_000,
            document_bytes_max: 256 * 1024,
            batch_max: 32,
            introspection: true,
        }
    }
}
