//! OpenAPI 3.0 and 3.1 documents as MCP tools.
//!
//! [`Api::read`] turns a document into [`Operation`]s: each has a tool definition, makes a [`Request`] from a call's
//! arguments, and makes a `tools/call` result from the API's [`Response`]. The crate opens nothing: who sends the
//! request, where to, with which credential and how long it may take is its caller's affair. A `$ref` is resolved
//! within the document and never fetched. An operation that cannot be served costs itself alone and says why.
//!
//! - [`document`]: text to a tree, with bounds
//! - [`reference`]: `$ref`, within the document
//! - [`schema`]: schemas to JSON Schema 2020-12 that stands alone
//! - [`operation`]: a path and method as a tool
//! - [`request`]: arguments to a request
//! - [`response`]: an answer to a result

mod document;
mod operation;
mod reference;
mod request;
mod response;
mod schema;

pub use document::{DOCUMENT_BYTES_MAX, DocumentError};
pub use operation::{Api, Operation, Options, Refused};
pub use request::{Body, Request, RequestError};
pub use response::Response;

#[cfg(test)]
mod tests;
