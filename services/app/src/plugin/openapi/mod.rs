//! HTTP APIs as tools: the `openapi` crate says what to send, this module sends it.
//!
//! The document is read again when its file changes; one that cannot be read leaves the tools of the last one that could.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use jsonschema::Validator;
use mcp::{Cause, Failure, Method};
use openapi::{Api, Operation, Options, Response};
use reqwest::{Client, Url};
use serde_json::{Value, json, value::to_raw_value};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Answer, Ask, CallContext, Freshness, Item, Listing, Scope, State,
    builtin::tool::refused,
    credential::{Badge, Credential, Credentials, User, seats::Seats},
    failing::Failing,
    followed::{self, Followed},
    outgoing::{self, BodyError},
    pins::{FilePins, NotPinned, sha256},
    shown::Shown,
};

/// How long a client may keep the list.
const LIST_TTL_MS: u64 = 60_000;
/// Users for whom a token and connections are kept.
const USERS_MAX: usize = 1024;
/// How long they are kept without a call.
const IDLE: Duration = Duration::from_secs(600);

/// How to serve an API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenapiSpec {
    /// The document's file.
    pub document: PathBuf,
    /// What the document's paths are added to.
    pub url: String,
    /// How requests prove who sends them.
    pub credential: Credential,
    /// What of the document is served.
    pub options: Options,
    /// The largest answer, in bytes.
    pub response_bytes_max: usize,
    /// How long one call may take, if its client gives it that long.
    pub call_timeout: Duration,
}

/// Why an API is not served (now).
#[derive(Debug, thiserror::Error)]
enum NotServed {
    #[error("its document {path} cannot be read")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("its document {path} cannot be used")]
    Document {
        path: PathBuf,
        source: openapi::DocumentError,
    },
    #[error("its document is not let in")]
    Pins(#[from] NotPinned),
    #[error("its URL cannot be used")]
    Url,
    #[error("the HTTP client cannot be made")]
    Client(#[from] reqwest::Error),
}

/// A plugin that calls an HTTP API.
#[derive(Debug)]
pub struct Openapi {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    spec: OpenapiSpec,
    credentials: Arc<Credentials>,
    /// Who calls when calls are made in the plugin's own name.
    own: Option<(Arc<Visitor>, Url)>,
    visitors: Seats<Visitor>,
    pins: Option<FilePins>,
    serving: ArcSwapOption<Serving>,
    shown: Shown,
}

/// One identity at the API, with connections of its own.
#[derive(Debug)]
struct Visitor {
    badge: Badge,
    /// Made at the first request.
    client: OnceLock<Client>,
}

impl Visitor {
    fn new(badge: Badge) -> Self {
        let client = OnceLock::new();
        Self { badge, client }
    }

    fn client(&self) -> Result<&Client, reqwest::Error> {
        match self.client.get() {
            Some(client) => Ok(client),
            None => {
                let client = outgoing::client()?;
                Ok(self.client.get_or_init(|| client))
            }
        }
    }
}

/// A document in service.
#[derive(Debug)]
struct Serving {
    api: Api,
    /// Compiled at the first call; `None` inside for schemas that cannot be.
    checks: HashMap<String, OnceLock<Checks>>,
}

#[derive(Debug)]
struct Checks {
    arguments: Option<Validator>,
    output: Option<Validator>,
}

impl Openapi {
    /// Reads the document in the background, if `pins` let it in. `changed` is told of every change of state or tools.
    pub(crate) fn start(
        name: &str,
        spec: OpenapiSpec,
        pins: Option<FilePins>,
        changed: &Arc<Notify>,
    ) -> Self {
        let stop = CancellationToken::new();
        let url = Url::parse(&spec.url).ok().filter(Url::has_host);
        let credentials = Credentials::new(spec.credential.clone());
        let own = url.map(|url| (Arc::new(Visitor::new(credentials.own())), url));
        let shared = Arc::new(Shared {
            name: name.into(),
            spec,
            credentials,
            own,
            visitors: Seats::new(USERS_MAX),
            pins,
            serving: ArcSwapOption::empty(),
            shown: Shown::new(changed),
        });
        tokio::spawn(serve(Arc::clone(&shared), stop.clone()));
        if shared.credentials.knows_users() {
            tokio::spawn(forget_idle(Arc::clone(&shared), stop.clone()));
        }
        Self {
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// Returns what is offered, or was.
    pub fn listing(&self) -> Arc<Listing> {
        self.shared.shown.listing()
    }

    /// Returns how often it failed for a reason.
    pub fn failures(&self, why: Failing) -> u64 {
        self.shared.shown.failures(why)
    }

    /// Returns whether there is a document to serve from.
    pub fn state(&self) -> State {
        self.shared.shown.state()
    }

    /// Makes the call's request and waits for the API's answer.
    ///
    /// # Errors
    /// [`Cause::NoBackend`] when nothing was sent, [`Cause::UpstreamBroken`] and [`Cause::Timeout`] when it may have run.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Failure> {
        let shared = &self.shared;
        if *ask.method != Method::ToolsCall {
            return Err(Failure::new(Cause::MethodNotFound));
        }
        let (Some(serving), Some((own, base))) = (shared.serving.load_full(), &shared.own) else {
            return Err(shared.unserved());
        };
        let operation = serving.api.operation(ask.key);
        let operation =
            operation.ok_or_else(|| Failure::say(Cause::InvalidParams, "no such tool"))?;
        let arguments = ask.arguments()?;
        let checks = serving.checks(ask.key, operation);
        let misfits = checks.arguments.as_ref().map_or_else(Vec::new, |check| {
            crate::schema::misfits(check, &Value::Object(arguments.clone()))
        });
        let request = match misfits.as_slice() {
            [] => operation
                .request(&arguments)
                .map_err(|error| refused(&error.to_string())),
            misfits => Err(crate::schema::refusal(misfits)),
        };
        let result = match request {
            Err(refused) => refused,
            Ok(request) => {
                let visitor = shared.visitor(own, &ask.context)?;
                let result = shared
                    .send(&visitor, base, operation, request, &ask.context)
                    .await?;
                fitting(result, checks)
            }
        };
        let result = to_raw_value(&result).map_err(|_| Failure::new(Cause::Internal))?;
        Ok(Answer::Result(result))
    }
}

impl Shared {
    /// Returns who the API sees: the plugin, or the user whose call it is.
    fn visitor(&self, own: &Arc<Visitor>, context: &CallContext) -> Result<Arc<Visitor>, Failure> {
        if !self.credentials.knows_users() {
            return Ok(Arc::clone(own));
        }
        let no_credential = |error| outgoing::no_credential(&self.name, &error);
        let user = User::of(&context.client).map_err(no_credential)?;
        let seat = self.visitors.seat(&user, Instant::now(), |user| {
            Visitor::new(self.credentials.of(user.clone()))
        });
        seat.map(|(visitor, _)| visitor).ok_or_else(|| {
            Failure::say(
                Cause::Overloaded,
                format!("the plugin {} is called by too many users", self.name),
            )
        })
    }

    async fn send(
        &self,
        visitor: &Visitor,
        base: &Url,
        operation: &Operation,
        request: openapi::Request,
        context: &CallContext,
    ) -> Result<Value, Failure> {
        let mut url = base.clone();
        let path = format!("{}{}", base.path().trim_end_matches('/'), request.path);
        url.set_path(&path);
        let query: Vec<&str> = base
            .query()
            .into_iter()
            .chain([request.query.as_str()])
            .collect();
        let query = query.join("&");
        let query = query.trim_matches('&');
        url.set_query((!query.is_empty()).then_some(query));
        let method = request
            .method
            .parse::<http::Method>()
            .map_err(|_| Failure::new(Cause::Internal))?;
        let deadline = context
            .deadline
            .min(Instant::now() + self.spec.call_timeout);
        let client = visitor
            .client()
            .map_err(|error| outgoing::failure(&self.name, error))?;
        let mut sent = client
            .request(method, url)
            .timeout(deadline.saturating_duration_since(Instant::now()))
            .header(http::header::ACCEPT, "application/json, */*;q=0.5");
        for (name, value) in &request.headers {
            sent = sent.header(name, value);
        }
        if let Some(body) = request.body {
            sent = sent
                .header(http::header::CONTENT_TYPE, body.content_type)
                .body(body.bytes);
        }
        let locale = context
            .told_client()
            .and_then(|client| client.locale.as_deref());
        let says_language =
            |(name, _): &(String, String)| name.eq_ignore_ascii_case("accept-language");
        if let Some(locale) = locale
            && !request.headers.iter().any(says_language)
        {
            sent = sent.header(http::header::ACCEPT_LANGUAGE, locale);
        }
        sent = sent.headers(outgoing::trace_fields(context));
        let again = sent.try_clone();
        let bearer = visitor.badge.held().await;
        let mut response = self.sent(visitor, sent).await?;
        // A token that is not taken any more is replaced once; the API did not look at the request.
        if response.status() == http::StatusCode::UNAUTHORIZED
            && visitor.badge.refused(bearer.as_ref()).await
            && let Some(again) = again
        {
            response = self.sent(visitor, again).await?;
        }
        let status = response.status().as_u16();
        let content_type = response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        match outgoing::body(response, self.spec.response_bytes_max).await {
            Ok(body) => Ok(operation.result(&Response {
                status,
                content_type: content_type.as_deref(),
                body: &body,
            })),
            Err(BodyError::TooLong) => Ok(refused(&format!(
                "HTTP {status}: the API's answer is larger than {} bytes",
                self.spec.response_bytes_max
            ))),
            Err(BodyError::Broken(error)) => Err(outgoing::failure(&self.name, error)),
        }
    }

    /// Sends a request with the visitor's credential, which goes in last so that no argument stands in for it.
    async fn sent(
        &self,
        visitor: &Visitor,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, Failure> {
        let credential = visitor.badge.fields().await;
        let credential = credential.map_err(|error| outgoing::no_credential(&self.name, &error))?;
        let sent = request.headers(credential).send().await;
        sent.map_err(|error| outgoing::failure(&self.name, error))
    }

    fn unserved(&self) -> Failure {
        let state = self.shown.state();
        Failure::say(
            Cause::NoBackend,
            format!(
                "the plugin {} is {}; the call was not sent",
                self.name,
                state.as_str()
            ),
        )
    }

    /// Reads the document and puts it into service.
    async fn load(self: &Arc<Self>) -> Result<(), NotServed> {
        let (own, _) = self.own.as_ref().ok_or(NotServed::Url)?;
        own.client()?;
        let shared = Arc::clone(self);
        let read = move || {
            let (path, options) = (shared.spec.document.clone(), shared.spec.options.clone());
            let text = followed::read(&path, openapi::DOCUMENT_BYTES_MAX as u64)
                .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other));
            let text = text.map_err(|source| NotServed::File {
                path: path.clone(),
                source,
            })?;
            if let Some(pins) = &shared.pins {
                pins.check(&shared.name, [(path.clone(), sha256(text.as_bytes()))])?;
            }
            Api::read(&text, &options).map_err(|source| NotServed::Document { path, source })
        };
        let api = tokio::task::spawn_blocking(read)
            .await
            .unwrap_or_else(|lost| {
                let source = std::io::Error::other(lost);
                let path = self.spec.document.clone();
                Err(NotServed::File { path, source })
            })?;
        for refused in &api.refused {
            tracing::warn!(plugin = %self.name, operation = refused.operation, reason = refused.reason, "an operation of the document is not served");
        }
        let items = api.operations().filter_map(|(name, operation)| {
            Some(Item {
                key: name.to_owned(),
                raw: to_raw_value(&operation.definition).ok()?,
            })
        });
        let listing = Listing {
            tools: items.collect(),
            freshness: Freshness {
                ttl_ms: LIST_TTL_MS,
                scope: Scope::Public,
            },
            ..Listing::default()
        };
        tracing::info!(plugin = %self.name, tools = listing.tools.len(), "the plugin is in service");
        let checks = api
            .operations()
            .map(|(name, _)| (name.to_owned(), OnceLock::new()))
            .collect();
        self.serving.store(Some(Arc::new(Serving { api, checks })));
        self.shown.set_listing(listing);
        self.shown.set_state(State::Ready);
        Ok(())
    }
}

impl Serving {
    fn checks(&self, name: &str, operation: &Operation) -> &Checks {
        static NONE: Checks = Checks {
            arguments: None,
            output: None,
        };
        let compile = |member| {
            let schema = operation.definition.get(member)?;
            crate::schema::options().build(schema).ok()
        };
        self.checks.get(name).map_or(&NONE, |checks| {
            checks.get_or_init(|| Checks {
                arguments: compile("inputSchema"),
                output: compile("outputSchema"),
            })
        })
    }
}

/// Keeps the document that the file has in service, until `stop`.
async fn serve(shared: Arc<Shared>, stop: CancellationToken) {
    let pins = shared.pins.as_ref().map(|pins| pins.path().to_owned());
    let mut file = Followed::new([shared.spec.document.clone()].into_iter().chain(pins));
    while file.changed(&stop).await {
        if let Err(error) = shared.load().await {
            let reason = telemetry::error_chain(&error);
            tracing::warn!(plugin = %shared.name, reason, "the plugin's document cannot be put into service");
            if shared.serving.load().is_none() {
                shared.shown.set_state(State::Restarting {
                    failing: Failing::Unreachable,
                    reason,
                });
            }
        }
    }
    shared.shown.set_state(State::Stopped);
}

/// Drops what is kept for users who do not call any more, until `stop`.
async fn forget_idle(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(IDLE) => drop(shared.visitors.empty_idle(Instant::now(), IDLE)),
            () = stop.cancelled() => return,
        }
    }
}

/// Returns a result that keeps the tool's word: what does not fit its `outputSchema` is an error, with the answer in it.
fn fitting(mut result: Value, checks: &Checks) -> Value {
    let (Some(check), Some(structured)) = (&checks.output, result.get("structuredContent")) else {
        return result;
    };
    let misfits = crate::schema::misfits(check, structured);
    if misfits.is_empty() {
        return result;
    }
    let note = format!(
        "the API's answer does not fit the tool's outputSchema:\n{}",
        misfits.join("\n")
    );
    if let Some(members) = result.as_object_mut() {
        members.remove("structuredContent");
        members.insert("isError".into(), true.into());
        if let Some(Value::Array(content)) = members.get_mut("content") {
            content.insert(0, json!({"type": "text", "text": note}));
        }
    }
    result
}
