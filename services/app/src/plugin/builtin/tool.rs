//! One built-in tool: a typed function together with what the protocol says of it.
//!
//! Input and output schemas come from the argument and result types, so that they cannot disagree with the code. Arguments
//! are checked against the published schema before the function sees them, and the answer names every path that fails: a
//! model that is told all its mistakes at once corrects them in one round.
//!
//! A tool runs in one of three ways, chosen by what its work costs: [`Tool::inline`] on the server's own thread (bounded
//! microseconds), [`Tool::blocking`] on the blocking pool behind a limit, [`Tool::awaiting`] as a future.

use std::sync::Arc;

use futures::future::BoxFuture;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use crate::plugin::CallContext;

/// Why a tool did not do what it was asked, in words for the caller (`isError: true`).
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) String);

impl<T: std::fmt::Display> From<T> for Refusal {
    fn from(reason: T) -> Self {
        Self(reason.to_string())
    }
}

/// What the protocol calls annotations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hints {
    read_only: bool,
    destructive: bool,
    idempotent: bool,
    open_world: bool,
}

impl Hints {
    /// Changes nothing and depends on its arguments and local state alone.
    pub(crate) const READ_ONLY: Self = Self {
        read_only: true,
        destructive: false,
        idempotent: true,
        open_world: false,
    };
    /// Changes nothing here, but talks to the world outside.
    pub(crate) const READ_WORLD: Self = Self {
        open_world: true,
        ..Self::READ_ONLY
    };
    /// May overwrite what was there; a second run may differ from the first.
    pub(crate) const DESTRUCTIVE: Self = Self {
        read_only: false,
        destructive: true,
        idempotent: false,
        open_world: false,
    };

    fn to_json(self, title: &str) -> Value {
        json!({
            "title": title,
            "readOnlyHint": self.read_only,
            "destructiveHint": self.destructive,
            "idempotentHint": self.idempotent,
            "openWorldHint": self.open_world,
        })
    }
}

/// The words of a tool: what a model reads to choose it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About {
    /// Name without the plugin's prefix.
    pub(crate) name: &'static str,
    /// Name for people.
    pub(crate) title: &'static str,
    /// What it does and when to use it.
    pub(crate) description: &'static str,
    /// What it may change.
    pub(crate) hints: Hints,
}

type Body =
    Box<dyn Fn(Value, CallContext) -> BoxFuture<'static, Result<Value, Refusal>> + Send + Sync>;

/// A built-in tool.
pub(crate) struct Tool {
    definition: Map<String, Value>,
    name: &'static str,
    arguments: jsonschema::Validator,
    body: Body,
}

impl std::fmt::Debug for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tool")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Tool {
    /// Makes a tool whose work is so small that it runs where it is called.
    pub(crate) fn inline<I, O>(about: About, run: fn(I) -> Result<O, Refusal>) -> Self
    where
        I: DeserializeOwned + JsonSchema + 'static,
        O: Serialize + JsonSchema + 'static,
    {
        Self::new::<I, O>(
            about,
            Box::new(move |arguments, _| {
                Box::pin(std::future::ready(
                    typed(arguments).and_then(run).and_then(untyped),
                ))
            }),
        )
    }

    /// Makes a tool whose work takes a thread: at most `limit`'s permits run at once, the rest wait for their deadline.
    pub(crate) fn blocking<S, I, O>(
        about: About,
        state: S,
        limit: &Arc<Semaphore>,
        run: fn(&S, I, &CallContext) -> Result<O, Refusal>,
    ) -> Self
    where
        S: Clone + Send + Sync + 'static,
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema + Send + 'static,
    {
        let limit = Arc::clone(limit);
        Self::new::<I, O>(
            about,
            Box::new(move |arguments, context| {
                let (state, limit) = (state.clone(), Arc::clone(&limit));
                Box::pin(async move {
                    let input: I = typed(arguments)?;
                    let permit = limit.acquire_owned().await?;
                    // Dropping this future, as a deadline or a gone client does, tells the thread to give up.
                    let _told = context.cancelled.clone().drop_guard();
                    let work = tokio::task::spawn_blocking(move || {
                        let _permit = permit;
                        run(&state, input, &context).and_then(untyped)
                    });
                    match work.await {
                        Ok(done) => done,
                        Err(lost) => match lost.try_into_panic() {
                            Ok(panic) => std::panic::resume_unwind(panic),
                            Err(_) => Err(Refusal("the server is stopping".into())),
                        },
                    }
                })
            }),
        )
    }

    /// Makes a tool that waits for others.
    pub(crate) fn awaiting<S, I, O, F>(
        about: About,
        state: S,
        run: fn(S, I, CallContext) -> F,
    ) -> Self
    where
        S: Clone + Send + Sync + 'static,
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema + 'static,
        F: Future<Output = Result<O, Refusal>> + Send + 'static,
    {
        Self::new::<I, O>(
            about,
            Box::new(move |arguments, context| {
                let state = state.clone();
                Box::pin(async move {
                    run(state, typed(arguments)?, context)
                        .await
                        .and_then(untyped)
                })
            }),
        )
    }

    fn new<I: JsonSchema, O: JsonSchema>(about: About, body: Body) -> Self {
        let input = schema::<I>();
        #[expect(
            clippy::expect_used,
            reason = "the schema is derived from a type; a test builds every tool"
        )]
        let arguments = crate::schema::options()
            .build(&input)
            .expect("a derived schema compiles");
        let Value::Object(definition) = json!({
            "name": about.name,
            "title": about.title,
            "description": about.description,
            "inputSchema": input,
            "outputSchema": schema::<O>(),
            "annotations": about.hints.to_json(about.title),
        }) else {
            unreachable!("written as an object above")
        };
        Self {
            definition,
            name: about.name,
            arguments,
            body,
        }
    }

    /// Returns the name without prefix.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the protocol's tool object, under its name without prefix.
    pub(crate) fn definition(&self) -> &Map<String, Value> {
        &self.definition
    }

    /// Runs the tool and returns the protocol's result object.
    pub(crate) async fn call(&self, arguments: Value, context: CallContext) -> Value {
        let misfits = crate::schema::misfits(&self.arguments, &arguments);
        if !misfits.is_empty() {
            return crate::schema::refusal(&misfits);
        }
        match (self.body)(arguments, context).await {
            Ok(structured) => json!({
                "resultType": "complete",
                "isError": false,
                "content": [{"type": "text", "text": structured.to_string()}],
                "structuredContent": structured,
            }),
            Err(Refusal(reason)) => refused(&reason),
        }
    }
}

/// Returns a result that says why there is none.
pub(crate) fn refused(reason: &str) -> Value {
    json!({
        "resultType": "complete",
        "isError": true,
        "content": [{"type": "text", "text": reason}],
    })
}

fn typed<I: DeserializeOwned>(arguments: Value) -> Result<I, Refusal> {
    serde_json::from_value(arguments)
        .map_err(|error| Refusal(format!("the arguments do not fit: {error}")))
}

fn untyped<O: Serialize>(output: O) -> Result<Value, Refusal> {
    serde_json::to_value(output)
        .map_err(|error| Refusal(format!("the result is not JSON: {error}")))
}

/// Returns the schema of `T` in JSON Schema 2020-12 (the protocol's default dialect, so it is not named again).
fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.meta_schema = None;
        settings.inline_subschemas = true;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    schema.to_value()
}
