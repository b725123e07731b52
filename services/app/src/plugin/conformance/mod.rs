//! What the protocol's official conformance suite expects a server to have: tools, prompts and resources of exact names.
//!
//! Off unless it is configured, and of no use beside the suite. What is said stands in `fixtures.json`; here is how it behaves.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mcp::{Cause, Failure, Method};
use serde::Deserialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    Answer, Ask, CallContext, Freshness, Item, Listing, Scope,
    hub::{Change, Hub},
    notices::Level,
};

mod tasks;

use tasks::{Desk, Work};

const FIXTURES: &str = include_str!("fixtures.json");
/// How long a client may keep lists and resources.
const TTL_MS: u64 = 60_000;
/// Between two steps of work.
const STEP: Duration = Duration::from_millis(50);
/// The longest work, in seconds.
const SECONDS_MAX: u64 = 3600;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fixtures {
    tools: Vec<Box<RawValue>>,
    prompts: Vec<Box<RawValue>>,
    resources: Vec<Box<RawValue>>,
    resource_templates: Vec<Box<RawValue>>,
    answers: Map<String, Value>,
    contents: Map<String, Value>,
    questions: Map<String, Value>,
    image: Value,
}

/// The fixtures in service.
#[derive(Debug)]
pub struct Conformance {
    fixtures: Fixtures,
    listing: Arc<Listing>,
    hub: Arc<Hub>,
    tasks: Desk,
}

/// A request as the fixtures look at it.
struct Turn<'a> {
    arguments: Value,
    inputs: Value,
    state: Option<String>,
    context: &'a CallContext,
}

impl Turn<'_> {
    fn argument(&self, name: &str) -> &str {
        self.arguments[name].as_str().unwrap_or_default()
    }

    /// The answer to a question, if it is one.
    fn input(&self, key: &str, question: &Value) -> Option<&Value> {
        let input = self.inputs.get(key)?;
        let fits = match question["method"].as_str() {
            Some("elicitation/create") => match input["action"].as_str() {
                Some("accept") => input["content"].is_object(),
                Some("decline" | "cancel") => true,
                _ => false,
            },
            Some("sampling/createMessage") => !input["content"].is_null(),
            _ => input["roots"].is_array(),
        };
        fits.then_some(input)
    }
}

impl Conformance {
    /// Opens the fixtures; changes that tools are asked to make are told to `hub`.
    ///
    /// # Errors
    /// When the fixtures are not of their form: a mistake in the program.
    pub fn open(hub: &Arc<Hub>) -> Result<Self, serde_json::Error> {
        let fixtures: Fixtures = serde_json::from_str(FIXTURES)?;
        let listing = Listing {
            tools: items(&fixtures.tools, "name"),
            prompts: items(&fixtures.prompts, "name"),
            resources: items(&fixtures.resources, "uri"),
            templates: items(&fixtures.resource_templates, "uriTemplate"),
            freshness: Freshness {
                ttl_ms: TTL_MS,
                scope: Scope::Public,
            },
        };
        Ok(Self {
            fixtures,
            listing: Arc::new(listing),
            hub: Arc::clone(hub),
            tasks: Desk::default(),
        })
    }

    /// Returns what is offered.
    pub fn listing(&self) -> Arc<Listing> {
        Arc::clone(&self.listing)
    }

    /// Tells whether it can do what stands under this JSON Pointer of a server's capabilities.
    pub fn has_capability(&self, pointer: &str) -> bool {
        [
            "/completions",
            "/resources/subscribe",
            "/logging",
            "/extensions/io.modelcontextprotocol~1tasks",
        ]
        .contains(&pointer)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// [`Cause::InvalidParams`] and [`Cause::MissingCapability`] where the suite wants them.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Failure> {
        let read = |name: &str| -> Value {
            ask.params
                .get(name)
                .and_then(|raw| serde_json::from_str(raw.get()).ok())
                .unwrap_or_default()
        };
        let turn = Turn {
            arguments: read("arguments"),
            inputs: read("inputResponses"),
            state: ask.params.get_str("requestState"),
            context: &ask.context,
        };
        let result = match ask.method {
            Method::ToolsCall => self.call(ask.key, &turn).await?,
            Method::PromptsGet => self.prompt(ask.key, &turn)?,
            Method::ResourcesRead => self.read(ask.key)?,
            Method::Complete => complete(&read("argument")),
            Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => {
                let now = SystemTime::now();
                self.tasks.ask(ask.method, ask.key, &turn.inputs, now)?
            }
            _ => return Err(Failure::new(Cause::MethodNotFound)),
        };
        to_raw_value(&result)
            .map(Answer::Result)
            .map_err(|_| Failure::new(Cause::Internal))
    }

    async fn call(&self, tool: &str, turn: &Turn<'_>) -> Result<Value, Failure> {
        if let Some(content) = self.fixtures.answers.get(tool) {
            return Ok(json!({"resultType": "complete", "content": content}));
        }
        let notices = &turn.context.notices;
        match tool {
            "test_error_handling" => {
                let mut result = text("This tool intentionally returns an error for testing");
                result["isError"] = true.into();
                Ok(result)
            }
            "test_tool_with_logging" => {
                for message in [
                    "Tool execution started",
                    "Tool processing data",
                    "Tool execution completed",
                ] {
                    notices
                        .log(Level::Info, "conformance", message.into())
                        .await;
                    tokio::time::sleep(STEP).await;
                }
                Ok(text("Tool with logging executed successfully"))
            }
            "test_logging_tool" => {
                notices
                    .log(Level::Info, "conformance", "Working".into())
                    .await;
                Ok(text("Logged"))
            }
            "test_tool_with_progress" => {
                for step in [0.0, 50.0, 100.0] {
                    notices.progress(step, Some(100.0), None).await;
                    tokio::time::sleep(STEP).await;
                }
                Ok(text("Tool with progress executed successfully"))
            }
            "test_reconnection" => {
                tokio::time::sleep(2 * STEP).await;
                Ok(text("Reconnection test completed"))
            }
            "test_missing_capability" => {
                match turn.context.client.lacks("sampling/createMessage", None) {
                    None => Ok(text("The client has a model")),
                    Some(lacking) => Err(Failure::new(Cause::MissingCapability)
                        .with_data(&json!({"requiredCapabilities": lacking}))),
                }
            }
            "test_custom_header" => Ok(text(turn.argument("value"))),
            "json_schema_2020_12_tool" => Ok(text(&turn.arguments.to_string())),
            "greet" => Ok(text(&format!("Hello, {}!", turn.argument("name")))),
            "slow_compute" => self.compute(turn).await,
            "failing_job"
            | "protocol_error_job"
            | "confirm_delete"
            | "multi_input"
            | "test_tool_with_task" => self.call_as_task(tool, turn),
            "test_trigger_tool_change" => Ok(self.announce(&Change::Tools)),
            "test_trigger_prompt_change" => Ok(self.announce(&Change::Prompts)),
            _ => self.call_in_rounds(tool, turn),
        }
    }

    /// Takes its time: as a task, where its client knows tasks.
    async fn compute(&self, turn: &Turn<'_>) -> Result<Value, Failure> {
        let seconds = turn.arguments["seconds"].as_u64().unwrap_or_default();
        let takes = Duration::from_secs(seconds.min(SECONDS_MAX));
        let result = text(&format!("Computed {}", turn.argument("label")));
        if takes.is_zero() || turn.context.client.must_have_tasks().is_err() {
            tokio::time::sleep(takes).await;
            return Ok(result);
        }
        self.begin_task(takes, Ok(result))
    }

    /// Runs what is a task always.
    fn call_as_task(&self, tool: &str, turn: &Turn<'_>) -> Result<Value, Failure> {
        turn.context.client.must_have_tasks()?;
        let asking = |keys: &[&str]| Work::Asking {
            open: keys
                .iter()
                .map(|key| ((*key).to_owned(), self.question(key)))
                .collect(),
            answers: Vec::new(),
        };
        match tool {
            "failing_job" => {
                let mut result = text("The job failed");
                result["isError"] = true.into();
                self.begin_task(Duration::from_secs(1), Ok(result))
            }
            "protocol_error_job" => {
                let error = json!({"code": Cause::Internal.code(), "message": "the job broke"});
                self.begin_task(STEP, Err(error))
            }
            "confirm_delete" => self.tasks.begin(asking(&["confirm"]), SystemTime::now()),
            "multi_input" => {
                let work = asking(&["step1", "step2"]);
                self.tasks.begin(work, SystemTime::now())
            }
            _ => {
                let question = self.question("user_name");
                let Some(input) = turn.input("user_name", &question) else {
                    return Ok(input_required(vec![("user_name", question)], None));
                };
                self.begin_task(STEP, Ok(text(&format!("Hello, {}!", name_of(input)))))
            }
        }
    }

    /// Begins a task that has this outcome after a while. A task's result is one of its call, complete or not.
    fn begin_task(&self, takes: Duration, outcome: Result<Value, Value>) -> Result<Value, Failure> {
        let work = Work::Lasting {
            time: takes,
            outcome,
        };
        self.tasks.begin(work, SystemTime::now())
    }

    fn announce(&self, change: &Change) -> Value {
        self.hub.announce(change);
        text("The change was told")
    }

    fn call_in_rounds(&self, tool: &str, turn: &Turn<'_>) -> Result<Value, Failure> {
        match tool {
            "test_sampling" => {
                let mut question = self.question("greeting");
                question["params"]["messages"][0]["content"]["text"] =
                    turn.argument("prompt").into();
                question["params"]["maxTokens"] = 100.into();
                Ok(with_one(turn, "sample", &question, |input| {
                    format!("LLM response: {}", said(input))
                }))
            }
            "test_elicitation" => {
                let mut question = self.question("user_name");
                question["params"]["message"] = turn.argument("message").into();
                question["params"]["requestedSchema"] = json!({
                    "type": "object",
                    "properties": {"username": {"type": "string"}, "email": {"type": "string"}},
                    "required": ["username", "email"],
                });
                Ok(with_one(turn, "user", &question, |input| {
                    format!("User response: {}", decision(input))
                }))
            }
            "test_elicitation_sep1034_defaults" => Ok(self.completed(turn, "defaults")),
            "test_elicitation_sep1330_enums" => Ok(self.completed(turn, "enums")),
            "test_streaming_elicitation" => Ok(self.completed(turn, "user_name")),
            "test_input_required_result_elicitation" => {
                let question = self.question("user_name");
                Ok(with_one(turn, "user_name", &question, |input| {
                    format!("Hello, {}!", name_of(input))
                }))
            }
            "test_input_required_result_sampling" => {
                let question = self.question("capital_question");
                Ok(with_one(turn, "capital_question", &question, said))
            }
            "test_input_required_result_list_roots" => {
                let question = self.question("client_roots");
                Ok(with_one(turn, "client_roots", &question, |input| {
                    format!("Roots: {}", input["roots"])
                }))
            }
            "test_input_required_result_request_state"
            | "test_input_required_result_tampered_state" => {
                self.ask_for(turn, &["confirm"], "confirmed", |_| "state-ok".to_owned())
            }
            "test_input_required_result_multiple_inputs" => self.ask_for(
                turn,
                &["user_name", "greeting", "client_roots"],
                "three questions",
                |inputs| format!("Hello, {}: {}", name_of(inputs[0]), said(inputs[1])),
            ),
            "test_input_required_result_multi_round" => self.twice(turn),
            "test_input_required_result_capabilities" => Ok(self.whatever_can_be_asked(turn)),
            _ => Err(Failure::say(Cause::InvalidParams, "no such tool")),
        }
    }

    fn question(&self, key: &str) -> Value {
        self.fixtures
            .questions
            .get(key)
            .cloned()
            .unwrap_or_default()
    }

    fn completed(&self, turn: &Turn<'_>, key: &str) -> Value {
        let question = self.question(key);
        with_one(turn, key, &question, |input| {
            format!("Elicitation completed: {}", decision(input))
        })
    }

    /// Asks under a state, and answers when all is answered. A state of another step is refused.
    fn ask_for(
        &self,
        turn: &Turn<'_>,
        keys: &[&str],
        state: &str,
        answer: impl Fn(&[&Value]) -> String,
    ) -> Result<Value, Failure> {
        if turn.state.as_deref().is_some_and(|given| given != state) {
            return Err(Failure::say(
                Cause::InvalidParams,
                "params.requestState is of another step",
            ));
        }
        let questions: Vec<(&str, Value)> =
            keys.iter().map(|key| (*key, self.question(key))).collect();
        let inputs: Vec<&Value> = questions
            .iter()
            .filter_map(|(key, question)| turn.input(key, question))
            .collect();
        if turn.state.is_some() && inputs.len() == keys.len() {
            return Ok(text(&answer(&inputs)));
        }
        Ok(input_required(questions, Some(state)))
    }

    fn twice(&self, turn: &Turn<'_>) -> Result<Value, Failure> {
        match turn.state.as_deref() {
            None | Some("step 1") => {
                let question = self.question("step1");
                match turn.input("step1", &question) {
                    Some(input) if turn.state.is_some() => Ok(input_required(
                        vec![("step2", self.question("step2"))],
                        Some(&format!("step 2 {}", name_of(input))),
                    )),
                    _ => Ok(input_required(vec![("step1", question)], Some("step 1"))),
                }
            }
            Some(state) => {
                let name = state.strip_prefix("step 2 ").ok_or_else(|| {
                    Failure::say(Cause::InvalidParams, "params.requestState is of no step")
                })?;
                let question = self.question("step2");
                Ok(match turn.input("step2", &question) {
                    Some(input) => text(&format!("{name} likes {}", input["content"]["color"])),
                    None => input_required(vec![("step2", question)], Some(state)),
                })
            }
        }
    }

    fn whatever_can_be_asked(&self, turn: &Turn<'_>) -> Value {
        let askable = ["user_name", "capital_question", "client_roots"]
            .into_iter()
            .map(|key| (key, self.question(key)))
            .filter(|(key, question)| {
                let method = question["method"].as_str().unwrap_or_default();
                turn.context.client.lacks(method, None).is_none()
                    && turn.input(key, question).is_none()
            });
        let askable: Vec<_> = askable.collect();
        if askable.is_empty() {
            text("Nothing is left to ask")
        } else {
            input_required(askable, None)
        }
    }

    fn prompt(&self, prompt: &str, turn: &Turn<'_>) -> Result<Value, Failure> {
        let messages = match prompt {
            "test_simple_prompt" => vec![say("This is a simple prompt for testing.")],
            "test_prompt_with_arguments" => vec![say(&format!(
                "Prompt with arguments: arg1='{}', arg2='{}'",
                turn.argument("arg1"),
                turn.argument("arg2")
            ))],
            "test_prompt_with_embedded_resource" => vec![
                message(json!({"type": "resource", "resource": {
                    "uri": turn.argument("resourceUri"),
                    "mimeType": "text/plain",
                    "text": "Embedded resource content for testing.",
                }})),
                say("Please process the embedded resource above."),
            ],
            "test_prompt_with_image" => vec![
                message(self.fixtures.image.clone()),
                say("Please analyze the image above."),
            ],
            "test_input_required_result_prompt" => {
                let question = self.question("user_context");
                match turn.input("user_context", &question) {
                    None => return Ok(input_required(vec![("user_context", question)], None)),
                    Some(input) => vec![say(&format!(
                        "Use this context: {}",
                        input["content"]["context"]
                    ))],
                }
            }
            _ => return Err(Failure::say(Cause::InvalidParams, "no such prompt")),
        };
        Ok(json!({"resultType": "complete", "messages": messages}))
    }

    fn read(&self, uri: &str) -> Result<Value, Failure> {
        let of_template = || {
            let id = uri
                .strip_prefix("test://template/")?
                .strip_suffix("/data")
                .filter(|id| !id.is_empty() && !id.contains('/'))?;
            let text =
                json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
            Some(json!({"uri": uri, "mimeType": "application/json", "text": text.to_string()}))
        };
        let content = self.fixtures.contents.get(uri).cloned();
        let content = content.or_else(of_template).ok_or_else(|| {
            Failure::say(Cause::InvalidParams, "no such resource").with_data(&json!({"uri": uri}))
        })?;
        Ok(json!({
            "resultType": "complete",
            "contents": [content],
            "ttlMs": TTL_MS,
            "cacheScope": "public",
        }))
    }
}

fn items(definitions: &[Box<RawValue>], key: &str) -> Vec<Item> {
    let named = |raw: &RawValue| {
        let members = mcp::members::Members::parse(raw).ok()?;
        members.get_str(key)
    };
    definitions
        .iter()
        .filter_map(|raw| {
            Some(Item {
                key: named(raw)?,
                raw: raw.clone(),
            })
        })
        .collect()
}

fn complete(argument: &Value) -> Value {
    let begun = argument["value"].as_str().unwrap_or_default();
    let values: Vec<&str> = ["paris", "park", "party"]
        .into_iter()
        .filter(|value| value.starts_with(begun))
        .collect();
    json!({
        "resultType": "complete",
        "completion": {"values": values, "total": values.len(), "hasMore": false},
    })
}

/// Asks one thing without a state, and answers when it is answered.
fn with_one(
    turn: &Turn<'_>,
    key: &str,
    question: &Value,
    answer: impl Fn(&Value) -> String,
) -> Value {
    match turn.input(key, question) {
        Some(input) => text(&answer(input)),
        None => input_required(vec![(key, question.clone())], None),
    }
}

fn input_required(questions: Vec<(&str, Value)>, state: Option<&str>) -> Value {
    let questions: Map<String, Value> = questions
        .into_iter()
        .map(|(key, question)| (key.to_owned(), question))
        .collect();
    let mut result = json!({"resultType": "input_required", "inputRequests": questions});
    if let Some(state) = state {
        result["requestState"] = state.into();
    }
    result
}

/// What a model said.
fn said(input: &Value) -> String {
    let text = &input["content"]["text"];
    text.as_str()
        .map_or_else(|| input["content"].to_string(), str::to_owned)
}

/// What a user decided.
fn decision(input: &Value) -> String {
    format!(
        "action={}, content={}",
        input["action"].as_str().unwrap_or_default(),
        input["content"]
    )
}

fn name_of(input: &Value) -> &str {
    input["content"]["name"].as_str().unwrap_or("stranger")
}

fn text(text: &str) -> Value {
    json!({"resultType": "complete", "content": [{"type": "text", "text": text}]})
}

fn message(content: Value) -> Value {
    json!({"role": "user", "content": content})
}

fn say(text: &str) -> Value {
    message(json!({"type": "text", "text": text}))
}
