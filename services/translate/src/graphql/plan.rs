//! From a request to the calls it needs, and from their answers to a response.

use std::sync::Arc;

use async_graphql::parser::types::{
    DocumentOperations, ExecutableDocument, OperationDefinition, OperationType,
};
use async_graphql::parser::{Pos, Positioned};
use async_graphql::{Value as Const, Variables};
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use mcp::{Cause, Failure, Reply};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Gateway;
use super::coerce::{self, Misfit};
use super::document;
use super::error::{
    BAD_USER_INPUT, Error, METHOD_NOT_ALLOWED, NOT_READ_ONLY, OPERATION_RESOLUTION, PathSegment,
    Response, Stage, UNKNOWN_TOOL, VALIDATION_FAILED,
};
use super::listing;
use super::measure::Introspection;
use super::model::{Action, Effect, Model, Root};
use super::project::Projector;
use super::select::{Context, Merged, Selected};

/// One GraphQL request.
#[derive(Debug, Default)]
pub struct Request {
    /// The document.
    pub query: String,
    /// Which of its operations to run.
    pub operation_name: Option<String>,
    /// Values for the operation's variables.
    pub variables: Variables,
    /// Whether only queries may run: the request came by GET.
    pub queries_only: bool,
}

/// A call that a plan needs.
#[derive(Debug, Clone)]
pub struct ToolCall {
    /// The tool's MCP name.
    pub name: String,
    /// The arguments, a JSON object.
    pub arguments: Box<RawValue>,
    /// Whether the tool says that it changes nothing.
    pub read_only: bool,
}

/// How the calls of a plan may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A query: all at once.
    Concurrent,
    /// A mutation: one after another, each once.
    Serial,
}

/// What became of one call.
pub type Answered = Result<Reply, Failure>;

/// Makes one call.
pub type Execute = Arc<dyn Fn(ToolCall) -> BoxFuture<'static, Answered> + Send + Sync>;

/// A request that may be executed: its calls, and the shape of its response.
#[derive(Debug)]
pub struct Plan {
    order: Order,
    calls: Vec<ToolCall>,
    steps: Vec<Step>,
}

/// One field of the answer, in order.
#[derive(Debug)]
struct Step {
    key: String,
    pos: Pos,
    what: Planned,
}

#[derive(Debug)]
enum Planned {
    /// Known already: JSON, and what went wrong in it.
    Ready(Vec<u8>, Vec<Error>),
    /// The result of the next call.
    Call(Selected),
}

impl Plan {
    /// How the calls may be made.
    #[must_use]
    pub fn order(&self) -> Order {
        self.order
    }

    /// The calls to make, in the order of the selection.
    #[must_use]
    pub fn calls(&self) -> &[ToolCall] {
        &self.calls
    }

    /// Makes the response. `answers` are those to [`Plan::calls`], in their order; one that is missing counts
    /// as a defect of the gateway.
    #[must_use]
    pub fn finish(self, answers: impl IntoIterator<Item = Answered>) -> Response {
        let mut answers = answers.into_iter();
        let mut projector = Projector::default();
        projector.out.push(b'{');
        for (i, step) in self.steps.into_iter().enumerate() {
            if i > 0 {
                projector.out.push(b',');
            }
            projector.json(&step.key);
            projector.out.push(b':');
            match step.what {
                Planned::Ready(json, errors) => {
                    projector.out.extend_from_slice(&json);
                    projector.errors.extend(errors);
                }
                Planned::Call(selected) => {
                    let answer = answers
                        .next()
                        .unwrap_or_else(|| Err(Failure::new(Cause::Internal)));
                    match result(&answer) {
                        Ok(result) => projector.root(&step.key, &selected, result),
                        Err(error) => {
                            projector.out.extend_from_slice(b"null");
                            let path = vec![PathSegment::Key(step.key)];
                            projector.errors.push(error.at(step.pos).of_field(path));
                        }
                    }
                }
            }
        }
        projector.out.push(b'}');
        Response {
            stage: Stage::Executed,
            data: String::from_utf8(projector.out)
                .ok()
                .and_then(|json| RawValue::from_string(json).ok()),
            errors: projector.errors,
        }
    }

    /// Makes the calls with `execute`, in the order that the operation asks for, and then the response.
    #[must_use]
    pub fn run(self, execute: Execute) -> BoxFuture<'static, Response> {
        async move {
            let calls = self.calls.clone();
            let answers = match self.order {
                Order::Concurrent => join_all(calls.into_iter().map(|call| execute(call))).await,
                Order::Serial => {
                    let mut answers = Vec::with_capacity(calls.len());
                    for call in calls {
                        answers.push(execute(call).await);
                    }
                    answers
                }
            };
            self.finish(answers)
        }
        .boxed()
    }
}

/// The result of a call, or the error that stands for it.
fn result(answer: &Answered) -> Result<&RawValue, Error> {
    match answer.as_ref().map(Reply::result) {
        Ok(Ok(Ok(result))) => Ok(result),
        Ok(Ok(Err(error))) => Err(Error::from_json_rpc(error)),
        Ok(Err(failure)) => Err(Error::from_failure(&failure)),
        Err(failure) => Err(Error::from_failure(failure)),
    }
}

pub(super) fn plan(gateway: &Gateway, request: &Request) -> Result<Plan, Response> {
    let refused = |error| Response::refused(Stage::Refused, vec![error]);
    let (model, schema) = (&*gateway.model, &gateway.schema);
    let prepared = gateway.memory.get_or(&request.query, || {
        document::prepare(schema, &gateway.limits, &request.query)
    })?;
    let document = &prepared.document;
    let operation = find_operation(document, request).map_err(refused)?;
    if request.queries_only && operation.node.ty != OperationType::Query {
        let text = "Only queries are served by GET.";
        return Err(Response::refused(
            Stage::Method,
            vec![Error::new(METHOD_NOT_ALLOWED, text).at(operation.pos)],
        ));
    }
    let root = match operation.node.ty {
        OperationType::Query => &model.query,
        OperationType::Mutation => &model.mutation,
        OperationType::Subscription => {
            let text = "Subscriptions are not served here.";
            return Err(refused(
                Error::new(VALIDATION_FAILED, text).at(operation.pos),
            ));
        }
    };
    let variables = coerce::variables(&operation.node, &request.variables).map_err(|misfits| {
        let errors = misfits.into_iter().map(misfit_error).collect();
        Response::refused(Stage::Refused, errors)
    })?;
    let introspected = match prepared.introspection {
        Introspection::None => None,
        Introspection::Asked => {
            let name = request.operation_name.as_deref();
            Some(document::run(schema, document, name, variables.clone())?)
        }
    };

    let context = Context {
        document,
        variables: &variables,
    };
    let mut planner = Planner {
        model,
        context: &context,
        introspected,
        calls: Vec::new(),
    };
    let merged = context.collect(&root.object.name, &[&operation.node.selection_set.node]);
    let steps = merged
        .iter()
        .map(|merged| planner.step(root, merged))
        .collect::<Result<Vec<Step>, Error>>()
        .map_err(refused)?;
    Ok(Plan {
        order: match root.effect {
            Effect::ReadOnly => Order::Concurrent,
            Effect::Any => Order::Serial,
        },
        calls: planner.calls,
        steps,
    })
}

struct Planner<'a> {
    model: &'a Model,
    context: &'a Context<'a>,
    introspected: Option<Const>,
    calls: Vec<ToolCall>,
}

impl<'a> Planner<'a> {
    fn step(&mut self, root: &Root, merged: &Merged<'a>) -> Result<Step, Error> {
        let field = merged.fields[0];
        let name = field.node.name.node.as_str();
        let what = match name {
            "__typename" => ready(&root.object.name),
            "__schema" | "__type" => ready(&self.introspected(merged.key)),
            _ => {
                let at = root
                    .object
                    .position(name)
                    .ok_or_else(|| unknown_field(name, field.pos))?;
                let definition = &root.object.fields[at];
                let arguments = coerce::arguments(
                    &definition.arguments,
                    &field.node.arguments,
                    self.context.variables,
                    field.pos,
                )
                .map_err(misfit_error)?;
                let object = definition
                    .ty
                    .kind
                    .object()
                    .ok_or_else(|| unknown_field(name, field.pos))?;
                let selected = self.context.select(object, &merged.fields);
                self.act(
                    root,
                    root.actions[at],
                    arguments,
                    selected,
                    (merged.key, field.pos),
                )?
            }
        };
        Ok(Step {
            key: merged.key.to_owned(),
            pos: field.pos,
            what,
        })
    }

    fn act(
        &mut self,
        root: &Root,
        action: Action,
        mut arguments: Map<String, Value>,
        selected: Selected,
        (key, pos): (&str, Pos),
    ) -> Result<Planned, Error> {
        let failed = |error: Error| {
            let path = vec![PathSegment::Key(key.to_owned())];
            Ok(Planned::Ready(
                b"null".to_vec(),
                vec![error.at(pos).of_field(path)],
            ))
        };
        match action {
            Action::ListTools => match listing::page(&self.model.tools, &arguments) {
                Ok(page) => Ok(local(key, &selected, &page)),
                Err(text) => failed(Error::of_call(BAD_USER_INPUT, text)),
            },
            Action::DescribeTool => {
                let tool = self.model.tool(&named(&arguments));
                Ok(local(
                    key,
                    &selected,
                    tool.map_or(RawValue::NULL, |tool| &*tool.described),
                ))
            }
            Action::Call(tool) => self.call(tool, &arguments, selected),
            Action::CallNamed => {
                let name = named(&arguments);
                let Ok(at) = self
                    .model
                    .tools
                    .binary_search_by(|tool| tool.name.cmp(&name))
                else {
                    let text = format!("No tool is named {name:?}.");
                    return failed(Error::of_call(UNKNOWN_TOOL, text));
                };
                if root.effect == Effect::ReadOnly && self.model.tools[at].effect == Effect::Any {
                    let text =
                        format!("The tool {name:?} may change something: call it in a mutation.");
                    return failed(Error::of_call(NOT_READ_ONLY, text));
                }
                match arguments.remove("arguments") {
                    None | Some(Value::Null) => self.call(at, &Map::new(), selected),
                    Some(Value::Object(given)) => self.call(at, &given, selected),
                    Some(_) => failed(Error::of_call(
                        BAD_USER_INPUT,
                        "\"arguments\" must be an object.",
                    )),
                }
            }
        }
    }

    fn call(
        &mut self,
        tool: usize,
        arguments: &Map<String, Value>,
        selected: Selected,
    ) -> Result<Planned, Error> {
        let tool = &self.model.tools[tool];
        let arguments = serde_json::value::to_raw_value(arguments)
            .map_err(|_| Error::from_failure(&Failure::new(Cause::Internal)))?;
        self.calls.push(ToolCall {
            name: tool.name.clone(),
            arguments,
            read_only: tool.effect == Effect::ReadOnly,
        });
        Ok(Planned::Call(selected))
    }

    fn introspected(&mut self, key: &str) -> Const {
        match &mut self.introspected {
            Some(Const::Object(members)) => {
                members.get_mut(key).map(std::mem::take).unwrap_or_default()
            }
            _ => Const::Null,
        }
    }
}

fn named(arguments: &Map<String, Value>) -> String {
    let name = arguments.get("name").and_then(Value::as_str);
    name.unwrap_or_default().to_owned()
}

fn ready(value: &impl serde::Serialize) -> Planned {
    let mut projector = Projector::default();
    projector.json(value);
    Planned::Ready(projector.out, Vec::new())
}

/// A field that needs no call.
fn local(key: &str, selected: &Selected, value: &RawValue) -> Planned {
    let mut projector = Projector::default();
    projector.root(key, selected, value);
    Planned::Ready(projector.out, projector.errors)
}

fn find_operation<'a>(
    document: &'a ExecutableDocument,
    request: &Request,
) -> Result<&'a Positioned<OperationDefinition>, Error> {
    let fail = |text: String| Err(Error::new(OPERATION_RESOLUTION, text));
    match (&document.operations, &request.operation_name) {
        (DocumentOperations::Single(operation), None) => Ok(operation),
        (DocumentOperations::Multiple(all), Some(name)) => match all.get(name.as_str()) {
            Some(operation) => Ok(operation),
            None => fail(format!("The document has no operation named {name:?}.")),
        },
        (DocumentOperations::Multiple(all), None) => match all.values().next() {
            Some(operation) if all.len() == 1 => Ok(operation),
            _ => fail("The document has several operations: name one in operationName.".to_owned()),
        },
        (DocumentOperations::Single(_), Some(name)) => {
            fail(format!("The document has no operation named {name:?}."))
        }
    }
}

fn misfit_error(misfit: Misfit) -> Error {
    Error::new(BAD_USER_INPUT, misfit.message).at(misfit.pos)
}

fn unknown_field(name: &str, pos: Pos) -> Error {
    Error::new(VALIDATION_FAILED, format!("Unknown field {name:?}.")).at(pos)
}
