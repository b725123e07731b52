//! rmcp as a client of the matrix: it follows the script of `tests/clients/matrix/script.*`.

#![expect(
    deprecated,
    reason = "what 2026-07-28 deprecates has to work for as long as it is there"
)]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CallToolResponse, ClientCapabilities, ClientConfig,
    ClientRequest, CreateMessageRequestParams, CreateMessageResult, ElicitRequestParams,
    ElicitResult, ElicitationAction, GetPromptRequestParams, GetTaskParams, Implementation,
    ListRootsResult, LoggingLevel, LoggingMessageNotificationParam, ProgressNotificationParam,
    ProtocolVersion, ReadResourceRequestParams, RequestMetaObject,
    ResourceUpdatedNotificationParam, Root, SamplingMessage, ServerNotification,
    SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter, UnsubscribeRequestParams,
};
use rmcp::service::{
    ClientLifecycleMode, ClientServiceExt, NotificationContext, PeerRequestOptions, RequestContext,
    RoleClient, RunningService, Subscription,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ErrorData};
use serde_json::{Value, json};
use testkit::eventually;
use tokio::time::timeout;

use super::Line;
use super::table::{METHODS, SERVERS};

/// How long a change may take to be heard of, before it is made once more.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// Changes that are made until one is heard of.
const TRIES: usize = 10;
/// How long one method may take.
const METHOD_TIME: Duration = Duration::from_secs(30);
/// How long a cancelled call may take to end.
const CANCELLED_WITHIN: Duration = Duration::from_secs(10);

/// Runs all methods at both servers.
pub(super) async fn run(url: &str, token: &str, revision: &str) -> Result<Vec<Line>> {
    let sdk = Sdk::connect(url, token, revision).await?;
    let mut lines = Vec::new();
    for server in SERVERS {
        for (method, _) in METHODS {
            let came = timeout(METHOD_TIME, sdk.method(server, method)).await;
            let came = came.unwrap_or_else(|_| bail!("it takes too long"));
            let (saw, failed) = match came {
                Ok(saw) => (Some(saw), None),
                Err(error) => (None, Some(format!("{error:#}"))),
            };
            let (server, method) = (server.to_owned(), method.to_owned());
            lines.push(Line {
                server,
                method,
                saw,
                failed,
            });
        }
    }
    sdk.client.cancel().await?;
    Ok(lines)
}

/// What the servers told.
#[derive(Debug, Default)]
struct Heard {
    logs: Vec<String>,
    events: Vec<String>,
    progress: Vec<String>,
}

/// What the client answers when it is asked, and where it puts what it is told.
#[derive(Debug, Clone)]
struct Answers {
    heard: Arc<Mutex<Heard>>,
    revision: ProtocolVersion,
}

impl Answers {
    fn hear(&self, what: impl FnOnce(&mut Heard)) {
        what(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ClientHandler for Answers {
    fn get_info(&self) -> ClientConfig {
        let capabilities: ClientCapabilities = serde_json::from_value(json!({
            "elicitation": {"form": {}, "url": {}},
            "sampling": {},
            "roots": {},
            "extensions": {"io.modelcontextprotocol/tasks": {}},
        }))
        .unwrap();
        ClientConfig::new(capabilities, Implementation::new("matrix", "1"))
            .with_protocol_version(self.revision.clone())
    }

    async fn create_message(
        &self,
        _params: CreateMessageRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let message = SamplingMessage::assistant_text("Paris");
        Ok(CreateMessageResult::new(message, "test".to_owned()))
    }

    async fn list_roots(
        &self,
        _context: RequestContext<RoleClient>,
    ) -> Result<ListRootsResult, ErrorData> {
        Ok(ListRootsResult::new(vec![Root::new("file:///matrix")]))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let accepted = ElicitResult::new(ElicitationAction::Accept);
        Ok(match request {
            ElicitRequestParams::UrlElicitationParams { .. } => accepted,
            _ => accepted.with_content(json!({"name": "Ana"})),
        })
    }

    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        let total = params.total.unwrap_or_default();
        let message = params.message.unwrap_or_default();
        let step = format!("{}/{total} {message}", params.progress);
        self.hear(|heard| heard.progress.push(step));
    }

    async fn on_logging_message(
        &self,
        params: LoggingMessageNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        let level = serde_json::to_value(params.level).unwrap_or_default();
        let said = format!("{} {}", plain(&level), plain(&params.data));
        self.hear(|heard| heard.logs.push(said));
    }

    async fn on_resource_updated(
        &self,
        params: ResourceUpdatedNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.hear(|heard| heard.events.push(params.uri));
    }

    async fn on_resource_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.hear(|heard| heard.events.push("resources".to_owned()));
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.hear(|heard| heard.events.push("tools".to_owned()));
    }

    async fn on_prompt_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.hear(|heard| heard.events.push("prompts".to_owned()));
    }
}

/// A text without its quotes.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// As the scripts in Python write it.
fn is(yes: bool) -> &'static str {
    if yes { "True" } else { "False" }
}

/// What the script wants, in the SDK's words.
struct Sdk {
    client: RunningService<RoleClient, Answers>,
    is_new: bool,
}

/// How the servers are listened to.
enum Listening {
    /// They tell the handler.
    Session,
    /// A stream of its own.
    Stream(Box<Subscription>),
}

impl Sdk {
    async fn connect(url: &str, token: &str, revision: &str) -> Result<Sdk> {
        let revision: ProtocolVersion = serde_json::from_value(json!(revision))?;
        let is_new = !revision.has_initialize();
        let lifecycle = if is_new {
            let preferred_versions = vec![revision.clone()];
            ClientLifecycleMode::Discover { preferred_versions }
        } else {
            ClientLifecycleMode::Initialize
        };
        let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(token);
        let answers = Answers {
            heard: Arc::default(),
            revision: revision.clone(),
        };
        let client = answers
            .serve_with_lifecycle(
                StreamableHttpClientTransport::from_config(config),
                lifecycle,
            )
            .await?;
        let info = client.peer_info().context("no server")?;
        let agreed = serde_json::to_value(&*info)?;
        ensure!(agreed["protocolVersion"] == json!(revision), "{agreed}");
        Ok(Sdk { client, is_new })
    }

    async fn method(&self, server: &str, method: &str) -> Result<String> {
        match method {
            "tools" => self.tools(server).await,
            "resources" => {
                let listed = self.resources().await?;
                let read = self.read(&format!("{server}://note")).await?;
                Ok(self.listed(&listed, &format!("{server}://note"), &read))
            }
            "templates" => {
                let listed =
                    serde_json::to_value(self.client.list_all_resource_templates().await?)?;
                let template = json!(format!("{server}://item/{{id}}"));
                let listed = rows(&listed).any(|one| one["uriTemplate"] == template);
                let read = self.read(&format!("{server}://item/7")).await?;
                Ok(format!("listed {}, {read}", is(listed)))
            }
            "prompts" => {
                let listed = self.prompts().await?;
                let name = format!("{server}_greet");
                let got = self.prompt(&name).await?;
                Ok(self.listed(&listed, &name, &got))
            }
            "completion" => self.completion(server).await,
            "logging" => self.logging(server).await,
            "roots" | "form" | "url" => self.ask(&format!("{server}_{method}")).await,
            "sampling" => self.ask(&format!("{server}_sample")).await,
            "progress" => self.progress(server).await,
            "cancellation" => self.cancellation(server).await,
            "list_changes" => self.list_changes(server).await,
            "subscriptions" => self.subscriptions(server).await,
            "tasks" => self.tasks(server).await,
            _ => bail!("it knows no {method}"),
        }
    }

    /// Calls a tool; its result as JSON.
    async fn call(&self, name: &str, arguments: Value) -> Result<Value> {
        let params = self.params(name, arguments);
        Ok(serde_json::to_value(self.client.call_tool(params).await?)?)
    }

    fn params(&self, name: &str, arguments: Value) -> CallToolRequestParams {
        let arguments = arguments.as_object().cloned().unwrap_or_default();
        let mut params = CallToolRequestParams::new(name.to_owned()).with_arguments(arguments);
        if self.is_new {
            // In the newest revision each request says it.
            let mut meta = RequestMetaObject::default();
            meta.set_log_level(LoggingLevel::Warning);
            params.meta = Some(meta);
        }
        params
    }

    async fn ask(&self, name: &str) -> Result<String> {
        let result = self.call(name, json!({})).await?;
        ensure!(result["isError"] != true, "{}", text(&result));
        Ok(text(&result))
    }

    fn listed(&self, listed: &[(String, String)], item: &str, got: &str) -> String {
        let listed = listed.iter().any(|(name, _)| name == item);
        format!("listed {}, {got}", is(listed))
    }

    async fn tools(&self, server: &str) -> Result<String> {
        let listed = self.descriptions("tools").await?;
        let sum = self
            .call(&format!("{server}_add"), json!({"a": 2, "b": 3}))
            .await?;
        let failed = self.call(&format!("{server}_fail"), json!({})).await?;
        let structured = match &sum["structuredContent"] {
            Value::Null => "null".to_owned(),
            structured => format!("{{\"sum\": {}}}", structured["sum"]),
        };
        let got = format!(
            "sum {} {structured}, failed {}: {}",
            text(&sum),
            is(failed["isError"] == true),
            text(&failed)
        );
        Ok(self.listed(&listed, &format!("{server}_add"), &got))
    }

    async fn resources(&self) -> Result<Vec<(String, String)>> {
        self.descriptions("resources").await
    }

    async fn prompts(&self) -> Result<Vec<(String, String)>> {
        self.descriptions("prompts").await
    }

    /// What a list has, each with its description.
    async fn descriptions(&self, list: &str) -> Result<Vec<(String, String)>> {
        let (listed, key) = match list {
            "tools" => (
                serde_json::to_value(self.client.list_all_tools().await?)?,
                "name",
            ),
            "prompts" => (
                serde_json::to_value(self.client.list_all_prompts().await?)?,
                "name",
            ),
            _ => (
                serde_json::to_value(self.client.list_all_resources().await?)?,
                "uri",
            ),
        };
        let described = |one: &Value| (plain(&one[key]), plain(&one["description"]));
        Ok(rows(&listed).map(described).collect())
    }

    async fn read(&self, uri: &str) -> Result<String> {
        let params = ReadResourceRequestParams::new(uri);
        let read = serde_json::to_value(self.client.read_resource(params).await?)?;
        Ok(plain(&read["contents"][0]["text"]))
    }

    async fn prompt(&self, name: &str) -> Result<String> {
        let mut params = GetPromptRequestParams::new(name);
        params.arguments = json!({"name": "Ana"}).as_object().cloned();
        let got = serde_json::to_value(self.client.get_prompt(params).await?)?;
        Ok(plain(&got["messages"][0]["content"]["text"]))
    }

    async fn completion(&self, server: &str) -> Result<String> {
        let prompt = format!("{server}_greet");
        let names = self
            .client
            .complete_prompt_simple(prompt, "name", "An")
            .await?;
        let template = format!("{server}://item/{{id}}");
        let items = self
            .client
            .complete_resource_simple(template, "id", "1")
            .await?;
        Ok(format!("{}, {}", names.join(" "), items.join(" ")))
    }

    async fn logging(&self, server: &str) -> Result<String> {
        if !self.is_new {
            let level = SetLevelRequestParams::new(LoggingLevel::Warning);
            self.client.set_level(level).await?;
        }
        self.hear(|heard| heard.logs.clear());
        self.call(&format!("{server}_log"), json!({})).await?;
        // Handlers run beside the answer.
        eventually(HEARD_WITHIN, || async {
            let logs = self.hear(|heard| heard.logs.join(" "));
            ensure!(!logs.is_empty(), "it says nothing");
            Ok(logs)
        })
        .await
    }

    async fn progress(&self, server: &str) -> Result<String> {
        self.hear(|heard| heard.progress.clear());
        let result = self.call(&format!("{server}_progress"), json!({})).await?;
        let told = eventually(HEARD_WITHIN, || async {
            let told = self.hear(|heard| heard.progress.clone());
            ensure!(told.len() >= 3, "{told:?}");
            Ok(told.join(", "))
        })
        .await?;
        Ok(format!("{told}, {}", text(&result)))
    }

    async fn cancellation(&self, server: &str) -> Result<String> {
        let mark = format!("rmcp-{server}-{}-{}", std::process::id(), is(self.is_new));
        self.hear(|heard| heard.progress.clear());
        let params = self.params(&format!("{server}_slow"), json!({"mark": mark}));
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        let call = self
            .client
            .send_cancellable_request(request, PeerRequestOptions::no_options())
            .await?;
        eventually(CANCELLED_WITHIN, || async {
            let begun = self.hear(|heard| !heard.progress.is_empty());
            ensure!(begun, "it does not begin");
            Ok(())
        })
        .await?;
        call.cancel(None).await?;
        eventually(CANCELLED_WITHIN, || async {
            let far = self
                .ask_with(&format!("{server}_how_far"), json!({"mark": mark}))
                .await?;
            ensure!(far == "cancelled", "still {far}");
            Ok(far)
        })
        .await
    }

    async fn ask_with(&self, name: &str, arguments: Value) -> Result<String> {
        Ok(text(&self.call(name, arguments).await?))
    }

    async fn list_changes(&self, server: &str) -> Result<String> {
        let everything = SubscriptionFilter::builder()
            .tools_list_changed()
            .prompts_list_changed()
            .resources_list_changed()
            .build();
        let mut listening = self.listen(everything).await?;
        let mut seen = Vec::new();
        for (what, item) in [
            ("tools", format!("{server}_change")),
            ("prompts", format!("{server}_greet")),
            ("resources", format!("{server}://note")),
        ] {
            let described = async || {
                let listed = self.descriptions(what).await?;
                let found = listed.into_iter().find(|(name, _)| *name == item);
                Ok(found.with_context(|| format!("no {item}"))?.1)
            };
            self.until_seen(&mut listening, server, what, what, described)
                .await?;
            seen.push(what);
        }
        Ok(seen.join(" "))
    }

    async fn subscriptions(&self, server: &str) -> Result<String> {
        let uri = format!("{server}://watched");
        let filter = SubscriptionFilter::builder()
            .resource_subscription(&uri)
            .build();
        let mut listening = self.listen(filter).await?;
        if !self.is_new {
            self.client
                .subscribe(SubscribeRequestParams::new(&uri))
                .await?;
        }
        let read = async || self.read(&uri).await;
        self.until_seen(&mut listening, server, "watched", &uri, read)
            .await?;
        if !self.is_new {
            self.client
                .unsubscribe(UnsubscribeRequestParams::new(&uri))
                .await?;
        }
        Ok(format!("updated {uri}"))
    }

    async fn listen(&self, filter: SubscriptionFilter) -> Result<Listening> {
        if !self.is_new {
            return Ok(Listening::Session);
        }
        let stream = self.client.listen(filter).await?;
        Ok(Listening::Stream(Box::new(stream)))
    }

    /// Changes something until it is heard of: a session's stream does not say when it has begun. What is heard may be of a
    /// change that another client made; whoever looks again each time has to see its own in the end.
    async fn until_seen(
        &self,
        listening: &mut Listening,
        server: &str,
        what: &str,
        event: &str,
        look: impl AsyncFn() -> Result<String>,
    ) -> Result<()> {
        for _ in 0..TRIES {
            self.hear(|heard| heard.events.clear());
            let change = format!("{server}_change");
            let made = self.ask_with(&change, json!({"what": what})).await?;
            let made: u64 = made.parse()?;
            let mut told = self.heard_of(listening, event).await;
            while told {
                self.hear(|heard| heard.events.clear());
                if times(&look().await?)? >= made {
                    return Ok(());
                }
                told = self.heard_of(listening, event).await;
                ensure!(
                    told,
                    "{event}: the last that is told of is not {made} changes"
                );
            }
        }
        bail!("{event} was not heard of")
    }

    /// Whether something is heard of in time.
    async fn heard_of(&self, listening: &mut Listening, event: &str) -> bool {
        let heard = self.hear_of(listening, event);
        timeout(HEARD_WITHIN, heard).await.is_ok()
    }

    async fn hear_of(&self, listening: &mut Listening, event: &str) {
        loop {
            match listening {
                Listening::Session => tokio::time::sleep(Duration::from_millis(20)).await,
                Listening::Stream(stream) => match stream.next().await {
                    Ok(Some(told)) => {
                        let told = named(told);
                        self.hear(|heard| heard.events.push(told));
                    }
                    _ => std::future::pending().await,
                },
            }
            if self.hear(|heard| heard.events.iter().any(|told| told == event)) {
                return;
            }
        }
    }

    async fn tasks(&self, server: &str) -> Result<String> {
        let params = self.params(&format!("{server}_task"), json!({}));
        let created = match self.client.peer().call_tool_once(params).await? {
            CallToolResponse::Task(created) => created,
            CallToolResponse::Complete(result) => return Ok(text(&serde_json::to_value(result)?)),
            other => bail!("{other:?}"),
        };
        eventually(HEARD_WITHIN, || async {
            let params = GetTaskParams::new(&created.task.task_id);
            let task = serde_json::to_value(self.client.get_task(params).await?)?;
            ensure!(task["status"] == "completed", "{task}");
            Ok(format!("a task: {}", text(&task["result"])))
        })
        .await
    }

    fn hear<T>(&self, what: impl FnOnce(&mut Heard) -> T) -> T {
        let heard = &self.client.service().heard;
        what(&mut heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How often something says that it has been changed.
fn times(said: &str) -> Result<u64> {
    let times = said.split(' ').nth(1).and_then(|n| n.parse().ok());
    times.with_context(|| said.to_owned())
}

/// The script's word for a change.
fn named(told: ServerNotification) -> String {
    match told {
        ServerNotification::ToolListChangedNotification(_) => "tools".to_owned(),
        ServerNotification::PromptListChangedNotification(_) => "prompts".to_owned(),
        ServerNotification::ResourceListChangedNotification(_) => "resources".to_owned(),
        ServerNotification::ResourceUpdatedNotification(updated) => updated.params.uri,
        other => format!("{other:?}"),
    }
}

fn rows(listed: &Value) -> impl Iterator<Item = &Value> {
    listed.as_array().into_iter().flatten()
}

/// The texts of a tool's result.
fn text(result: &Value) -> String {
    let parts = rows(&result["content"]).map(|part| plain(&part["text"]));
    parts.collect::<Vec<_>>().join(" ")
}
