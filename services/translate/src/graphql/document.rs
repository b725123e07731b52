//! Documents that may be executed, and the memory of them.
//!
//! Clients send the same few documents with ever new variables, and parsing and validating one costs several
//! times what the rest of a translation does. Neither looks at variables, so what was found valid once is kept.
//! The answers are the same with and without this memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_graphql::dynamic::Schema;
use async_graphql::parser::parse_query;
use async_graphql::parser::types::{DocumentOperations, ExecutableDocument};
use async_graphql::{Name, ServerError, Value as Const, Variables};
use mcp::{Cause, Failure};

use super::error::{Error, PARSE_FAILED, Response, Stage, VALIDATION_FAILED};
use super::limits::Limits;
use super::measure::{Introspection, measure};
use super::scan::scan;

/// A document within the limits, and valid for the schema unless it asks for introspection.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) document: ExecutableDocument,
    pub(super) introspection: Introspection,
}

/// Scans, parses, measures and validates a document. One that asks for introspection needs its variables for
/// that, and is validated when it is answered.
pub(super) fn prepare(schema: &Schema, limits: &Limits, text: &str) -> Result<Prepared, Response> {
    let refused = |error| Response::refused(Stage::Refused, vec![error]);
    let text = scan(text, limits).map_err(refused)?;
    let document = parse_query(&*text).map_err(|error| refused(parse_error(&error)))?;
    let introspection = measure(&document, limits).map_err(refused)?;
    if introspection == Introspection::None {
        // Which operation is named matters to execution alone, and this executes nothing.
        let some_operation = match &document.operations {
            DocumentOperations::Single(_) => None,
            DocumentOperations::Multiple(all) => all.keys().next().map(Name::as_str),
        };
        run(schema, &document, some_operation, Variables::default())?;
    }
    Ok(Prepared {
        document,
        introspection,
    })
}

/// Validates the document and answers its introspection fields, and no others.
pub(super) fn run(
    schema: &Schema,
    document: &ExecutableDocument,
    operation: Option<&str>,
    variables: Variables,
) -> Result<Const, Response> {
    let mut request = async_graphql::Request::new("")
        .variables(variables)
        .only_introspection();
    request.operation_name = operation.map(str::to_owned);
    request.set_parsed_query(document.clone());
    let response = poll_until_ready(schema.execute(request)).ok_or_else(|| {
        let error = Error::from_failure(&Failure::new(Cause::Internal));
        Response::refused(Stage::Refused, vec![error])
    })?;
    // Errors of validation belong to no field of the data. Those of execution do: here they are null, which
    // is what introspection says of types that are not there.
    let errors: Vec<Error> = response
        .errors
        .iter()
        .filter(|error| error.path.is_empty())
        .map(validation_error)
        .collect();
    if errors.is_empty() {
        Ok(response.data)
    } else {
        Err(Response::refused(Stage::Refused, errors))
    }
}

/// Runs a future that waits for nothing. It may hand back the thread now and then all the same.
fn poll_until_ready<F: Future>(future: F) -> Option<F::Output> {
    const POLLS_MAX: usize = 100_000;
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    (0..POLLS_MAX).find_map(|_| match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    })
}

fn validation_error(error: &ServerError) -> Error {
    let mut out = Error::new(VALIDATION_FAILED, error.message.clone());
    out.locations = error.locations.iter().map(|&pos| pos.into()).collect();
    out
}

fn parse_error(error: &async_graphql::parser::Error) -> Error {
    let mut out = Error::new(PARSE_FAILED, error.to_string());
    out.locations = error.positions().map(Into::into).collect();
    out
}

/// Documents in one generation of [`Memory`].
const GENERATION_MAX: usize = 256;
/// Bytes of a document that is kept.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// The valid documents that were used last, in two generations: when the younger is full it becomes the older,
/// and the older is forgotten. A document that is used moves to the younger.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    younger: HashMap<Box<str>, Arc<Prepared>>,
    older: HashMap<Box<str>, Arc<Prepared>>,
}

impl Memory {
    /// The document as it was prepared before, or as `prepare` makes it now.
    pub(super) fn get_or(
        &self,
        text: &str,
        prepare: impl FnOnce() -> Result<Prepared, Response>,
    ) -> Result<Arc<Prepared>, Response> {
        if let Some(known) = self.get(text) {
            return Ok(known);
        }
        // Prepared outside the lock: two that come at once both do the work.
        let prepared = Arc::new(prepare()?);
        if text.len() <= KEPT_BYTES_MAX {
            let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            generations.keep(text.into(), Arc::clone(&prepared));
        }
        Ok(prepared)
    }

    fn get(&self, text: &str) -> Option<Arc<Prepared>> {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = generations.younger.get(text) {
            return Some(Arc::clone(found));
        }
        let (text, found) = generations.older.remove_entry(text)?;
        generations.keep(text, Arc::clone(&found));
        Some(found)
    }
}

impl Generations {
    fn keep(&mut self, text: Box<str>, prepared: Arc<Prepared>) {
        if self.younger.len() >= GENERATION_MAX {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(text, prepared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_bounded_and_keeps_what_is_used() {
        let memory = Memory::default();
        let prepared = |text: &str| Prepared {
            document: parse_query(text).unwrap(),
            introspection: Introspection::None,
        };
        let hit = |text: &str| {
            let mut made = false;
            let got = memory.get_or(text, || {
                made = true;
                Ok(prepared("{ a }"))
            });
            got.unwrap();
            !made
        };
        assert!(!hit("used"));
        for i in 0..4 * GENERATION_MAX {
            assert!(!hit(&format!("{i}")));
            assert!(hit("used"), "after {i}");
        }
        assert!(!hit("0"), "forgotten");
        let long = "#".repeat(KEPT_BYTES_MAX + 1);
        assert!(!hit(&long) && !hit(&long), "never kept");
        let generations = memory.0.lock().unwrap();
        assert!(generations.younger.len() + generations.older.len() <= 2 * GENERATION_MAX);
    }
}
