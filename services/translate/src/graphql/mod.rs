//! A GraphQL schema over the tools on offer.
//!
//! ```text
//! http       method, headers, body → requests, or the answer that refuses them
//! Gateway    request → Plan: the calls to make, in order or at once
//!   (the edge makes the calls)
//! Plan       replies → Response, in the shape that was selected
//! http       responses → status, media type, body
//! ```
//!
//! Tool calls happen only at the root of an operation, so planning and finishing are two synchronous
//! steps with the calls between them. `async-graphql` holds the type system: it validates documents,
//! answers introspection and prints the SDL. Execution is ours, because a tool call must happen exactly
//! once however often its field is selected, answers must come in the order of the selection, and a
//! failed field must be null beside the others that succeeded.
//!
//! How a tool is mapped:
//! - a tool with `readOnlyHint` is a field of `Query`, any other a field of `Mutation`;
//! - its arguments come from `inputSchema`, required properties being non-null. What GraphQL cannot say
//!   (unions, recursion, free-form objects) is the scalar `JSON`;
//! - `null` for a property whose schema does not admit it is taken as absent, for generated clients send
//!   null where they mean nothing;
//! - its result has `content`, `text`, `isError`, `structuredContent` and `meta`, and with an
//!   `outputSchema` also `structured`, typed;
//! - a name that GraphQL does not allow is spelled with underscores, and the description says the original;
//! - `callTool(name, arguments)` calls any tool, on `Query` the read-only ones.

mod coerce;
mod document;
mod error;
pub mod http;
mod limits;
mod listing;
mod lower;
mod measure;
mod model;
mod names;
mod plan;
mod project;
mod scan;
mod select;
mod shape;
mod types;

use std::sync::Arc;

use async_graphql::dynamic;

pub use error::{Error, Extensions, Location, PathSegment, Response, Stage};
pub use limits::Limits;
pub use plan::{Answered, Execute, Order, Plan, Request, ToolCall};

/// The schema of one catalogue snapshot, ready to plan requests.
///
/// The same tools give the same schema, whatever order they come in. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    model: Arc<model::Model>,
    schema: dynamic::Schema,
    limits: Limits,
    memory: Arc<document::Memory>,
}

/// The schema could not be made. A defect of this crate: any list of tools has a schema.
#[derive(Debug, thiserror::Error)]
#[error("making the GraphQL schema: {0}")]
pub struct BuildError(#[from] dynamic::SchemaError);

impl Gateway {
    /// Makes the schema for a list of tools. Of tools with the same name the first counts.
    ///
    /// # Errors
    /// [`BuildError`], which no list of tools should bring about.
    pub fn build(tools: &[mcp::Tool], limits: &Limits) -> Result<Gateway, BuildError> {
        let model = model::Model::new(tools);
        let schema = lower::schema(&model, limits)?;
        Ok(Gateway {
            model: Arc::new(model),
            schema,
            limits: limits.clone(),
            memory: Arc::default(),
        })
    }

    /// The schema in GraphQL's schema definition language.
    #[must_use]
    pub fn sdl(&self) -> String {
        self.schema.sdl()
    }

    /// Turns a request into the calls it needs.
    ///
    /// # Errors
    /// The response that refuses the request: it does not parse, is not valid for this schema, or goes
    /// past a limit. Then nothing may be called.
    pub fn plan(&self, request: &Request) -> Result<Plan, Response> {
        plan::plan(self, request)
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("tools", &self.model.tools.len())
            .finish_non_exhaustive()
    }
}
