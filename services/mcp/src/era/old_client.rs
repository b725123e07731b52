//! A client of the older era calls a server of 2026-07-28: one call, from request to answer.
//!
//! ```text
//! client                      machine                         server
//!   tools/call ──────────────▶ start ────────── call ────────▶
//!              ◀── progress ──                ◀── progress ───
//!              ◀── elicitation/create ── ask  ◀── input_required
//!   its answer ──────────────▶ ───── call with inputResponses ▶
//!              ◀── result ─── in its revision ◀── complete ───
//! ```
//!
//! The requests to the client have ids that begin with the call's own prefix, so that whoever receives an
//! answer can tell which call it is for.
//!
//! A call of 2025-11-25 that wants a task, and requests about tasks, go through the same machine: `tasks`
//! has what is special of them.

use std::time::Duration;

use serde_json::value::RawValue;

use crate::call::{Call, ClientMeta, META_LOG_LEVEL};
use crate::capability::{ClientCapabilities, InputKind};
use crate::envelope::{self, Id, Message};
use crate::failure::{Cause, Failure};
use crate::input::{InputRequest, InputRequired, ResultType, Retry};
use crate::members::{Members, raw_of};
use crate::method::Method;
use crate::notification::{self, Level, Notification, with_meta};
use crate::revision::Revision;

use super::result::{error_to_legacy, to_legacy};
use super::tasks::{Kept, declared, is_wanted_by, related};

mod tasks;

use tasks::Goal;

/// Most times that a server may ask within one call.
pub const ROUNDS_MAX: u32 = 16;

/// What the machine must know of its call.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The client's revision.
    pub revision: Revision,
    /// What the client said in `initialize`.
    pub client: &'a ClientMeta,
    /// The request's id, to answer under.
    pub id: Id,
    /// What it asks.
    pub method: Method,
    /// Its parameters as they came.
    pub params: Option<&'a RawValue>,
    /// Begins every id of our making; unique among the session's calls.
    pub prefix: String,
    /// What log messages the client wants, if any.
    pub level: Option<Level>,
    /// Named in errors of our own.
    pub request_id: String,
    /// The time as RFC 3339 has it, for a task that is made here.
    pub now: String,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The server sent a message in answer to the call that is under way.
    Server(Message<'a>),
    /// The server can not be reached, or broke off.
    ServerGone(Failure),
    /// The client answered a request of ours.
    Answer {
        /// The request's id.
        id: &'a Id,
        /// Its result or error object.
        result: Result<&'a RawValue, &'a RawValue>,
    },
    /// The pause of [`Output::Wait`] is over.
    Waited,
    /// The client does not want the answer any more.
    Cancel,
    /// Time is over.
    Deadline,
}

/// What to do, in order.
#[derive(Debug)]
pub enum Output {
    /// Send this message to the client, on the call's own stream.
    Send(Vec<u8>),
    /// Send this request to the client, on the call's own stream; its answer comes back as
    /// [`Input::Answer`].
    Ask {
        /// The request's id.
        id: Id,
        /// The request.
        message: Vec<u8>,
    },
    /// Call the server.
    Call(Box<Call>),
    /// Let the server know that nobody waits: close the stream of the call that is under way.
    Abandon,
    /// Step with [`Input::Waited`] after this pause.
    Wait(Duration),
    /// Call the server whatever becomes of this call; nobody waits for the answer.
    Tell(Box<Call>),
    /// The session has a new task: take note of it, then send the response. The call is over.
    Made {
        /// The task's id.
        task: String,
        /// What it came to, if this is to be kept for the client: no server knows the task.
        kept: Option<Kept>,
        /// The response.
        answer: Vec<u8>,
    },
    /// Send the response. The call is over.
    Answer(Vec<u8>),
    /// The call is over without a response.
    Close,
}

/// A question that the client has not answered yet.
#[derive(Debug)]
struct Question {
    id: Id,
    request: InputRequest,
}

#[derive(Debug)]
enum Phase {
    /// The server works.
    Calling,
    /// The client is asked; what it answered so far, and the server's state.
    Asking {
        open: Vec<Question>,
        retry: Retry,
    },
    /// The server is asked again after a pause.
    Waiting,
    Over,
}

/// One call; see the module.
#[derive(Debug)]
pub struct OldClientCall {
    revision: Revision,
    client: ClientMeta,
    capabilities: ClientCapabilities,
    id: Id,
    method: Method,
    /// Without `inputResponses` and `requestState`.
    params: Box<RawValue>,
    prefix: String,
    level: Option<Level>,
    request_id: String,
    now: String,
    /// What the server was asked last.
    under_way: Method,
    goal: Goal,
    /// Requests to the server after the first that are no retries.
    again: u32,
    /// Questions of the task that the server was brought answers to.
    answered: Vec<String>,
    rounds: u32,
    asked: u32,
    progress: Option<f64>,
    phase: Phase,
}

impl OldClientCall {
    /// Begins a call: the machine, and the first request for the server.
    ///
    /// # Errors
    /// [`Cause::MethodNotFound`] for a method that has no modern form, [`Cause::InvalidParams`] when the
    /// parameters do not fit.
    pub fn start(setup: Setup<'_>) -> Result<(OldClientCall, Call), Failure> {
        let is_served = setup.method.is_modern() || setup.method == Method::TasksResult;
        if !setup.method.is_in(setup.revision) || !is_served {
            return Err(Failure::new(Cause::MethodNotFound));
        }
        let goal = Goal::of(&setup)?;
        let mut client = setup.client.clone();
        if goal != Goal::Answer {
            client.capabilities = declared(&client.capabilities);
        }
        let mut call = OldClientCall {
            revision: setup.revision,
            capabilities: ClientCapabilities::read(&setup.client.capabilities),
            client,
            id: setup.id,
            params: modern_params(setup.params, setup.level)?,
            under_way: setup.method.clone(),
            method: setup.method,
            prefix: setup.prefix,
            level: setup.level,
            request_id: setup.request_id,
            now: setup.now,
            goal,
            again: 0,
            answered: Vec::new(),
            rounds: 0,
            asked: 0,
            progress: None,
            phase: Phase::Calling,
        };
        let first = call.first()?;
        Ok((call, first))
    }

    /// The first request. What is to become of a task is looked up before anything else.
    fn first(&mut self) -> Result<Call, Failure> {
        if let Goal::Cancellation { .. } | Goal::Outcome { .. } = self.goal {
            self.under_way = Method::TasksGet;
        }
        let id = Some(self.id.clone());
        Call::new(id, self.under_way.clone(), Some(&self.params), &self.client)
    }

    /// Whether no call is under way at the server: the client is asked, or it is waited for.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Asking { .. } | Phase::Waiting)
    }

    /// Whether the call is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Takes what happened and says what to do. After the end it says nothing.
    pub fn step(&mut self, input: Input<'_>) -> Vec<Output> {
        match (&self.phase, input) {
            (Phase::Over, _) => Vec::new(),
            (_, Input::Cancel) => self.end(Output::Close, "the call was cancelled"),
            (_, Input::Deadline) => {
                let answer = self.failed(&Failure::new(Cause::Timeout));
                self.end(answer, "the call ran out of time")
            }
            (_, Input::ServerGone(failure)) => {
                let answer = self.failed(&failure);
                self.end(answer, "the call failed")
            }
            (Phase::Calling, Input::Server(message)) => self.server(message),
            (Phase::Asking { .. }, Input::Answer { id, result }) => self.answer(id, result),
            (Phase::Waiting, Input::Waited) => self.look_again(),
            // Late, or of nothing that is waited for.
            (_, Input::Server(_) | Input::Answer { .. } | Input::Waited) => Vec::new(),
        }
    }

    fn server(&mut self, message: Message<'_>) -> Vec<Output> {
        match message {
            Message::Notification { method, params } => self.told(&method, params),
            Message::Response {
                result: Err(error), ..
            } if self.goal == Goal::Answer && is_wanted_by(error) => {
                // The server has but a task to offer, and did not look at the call. So it is called for the
                // task, which is followed to its end here.
                self.client.capabilities = declared(&self.client.capabilities);
                self.goal = Goal::Followed;
                let params = self.params.clone();
                self.call_again(self.method.clone(), &params)
            }
            Message::Response {
                result: Err(error), ..
            } => {
                let error = error_to_legacy(&self.method, error);
                let answer = Output::Answer(envelope::write_error(&self.id, &error));
                self.over(answer)
            }
            Message::Response {
                result: Ok(result), ..
            } => {
                let outputs = self.result(result);
                self.or_failed(outputs)
            }
            // A modern server sends no requests.
            Message::Request { .. } => Vec::new(),
        }
    }

    /// A notification for the client, if it wants it and can read it.
    fn told(&mut self, method: &str, params: Option<&RawValue>) -> Vec<Output> {
        let pass = match Notification::read(method, params) {
            Err(_) => false,
            Ok(Notification::Progress { progress, .. }) => {
                // A retry may begin anew; the client must see progress grow.
                let grows = self.progress.is_none_or(|last| progress > last);
                if grows {
                    self.progress = Some(progress);
                }
                grows
            }
            Ok(Notification::Log { level }) => self.level.is_some_and(|least| level >= least),
            Ok(Notification::Other(method)) => method.is_in(self.revision),
            // Belongs on a stream of subscriptions.
            Ok(_) => false,
        };
        if !pass {
            return Vec::new();
        }
        let params = with_meta(params, crate::call::META_SUBSCRIPTION_ID, None);
        vec![Output::Send(envelope::write_notification(
            method,
            params.as_deref(),
        ))]
    }

    fn result(&mut self, result: &RawValue) -> Result<Vec<Output>, Failure> {
        match ResultType::of(result)? {
            ResultType::InputRequired if self.under_way.may_require_input() => {
                self.ask(InputRequired::read(result)?)
            }
            ResultType::Task => self.became_a_task(result),
            // An extension's result is none that this client can read.
            ResultType::InputRequired | ResultType::Other(_) => {
                Err(Failure::new(Cause::UpstreamInvalid))
            }
            ResultType::Complete if self.goal.is_of_a_task() => self.of_a_task(result),
            ResultType::Complete => {
                let result = to_legacy(&self.method, result, self.revision)?;
                let answer = Output::Answer(envelope::write_result(&self.id, &result));
                Ok(self.over(answer))
            }
        }
    }

    /// Turns the server's questions into requests to the client.
    fn ask(&mut self, wanted: InputRequired) -> Result<Vec<Output>, Failure> {
        self.rounds += 1;
        if self.rounds > ROUNDS_MAX {
            let text = format!("the server asked more than {ROUNDS_MAX} times");
            return Err(Failure::say(Cause::UpstreamInvalid, text));
        }
        let mut retry = Retry {
            responses: Vec::new(),
            state: wanted.state,
        };
        let mut open = Vec::new();
        let mut outputs = Vec::new();
        for request in wanted.requests {
            if !self.can_be_asked(&request) {
                // The server should not have asked. Only a form or a visit can be declined.
                match request.method {
                    Method::Elicit => {
                        retry
                            .responses
                            .push((request.key, raw_of(&Declined::DECLINE)));
                        continue;
                    }
                    _ => {
                        return Err(self
                            .capabilities
                            .demand([request.kind()])
                            .err()
                            .unwrap_or_else(|| Failure::new(Cause::MissingCapability)));
                    }
                }
            }
            self.asked += 1;
            let id = Id::from_text(&format!("{}.{}", self.prefix, self.asked));
            let params = self.question_params(&request, &id);
            outputs.push(Output::Ask {
                message: envelope::write_asked(
                    Some(&id),
                    request.method.as_str(),
                    params.as_deref(),
                ),
                id: id.clone(),
            });
            open.push(Question { id, request });
        }
        if open.is_empty() {
            return self.retry(&retry);
        }
        self.phase = Phase::Asking { open, retry };
        Ok(outputs)
    }

    fn can_be_asked(&self, request: &InputRequest) -> bool {
        let since = match request.kind() {
            // Kinds that came after their method.
            InputKind::Url | InputKind::SamplingWithTools => Revision::V2025_11_25,
            _ => self.revision,
        };
        request.method.is_in(self.revision)
            && self.revision >= since
            && self.capabilities.has(request.kind())
    }

    /// The question as the client's revision has it: 2025-06-18 knows no `mode`, 2025-11-25 wants an id
    /// for a visit to a URL.
    fn question_params(&self, request: &InputRequest, id: &Id) -> Option<Box<RawValue>> {
        let raw = request.params.as_deref()?;
        let raw = &*match &self.goal {
            Goal::Outcome { task } => related(raw, task),
            _ => raw.to_owned(),
        };
        let Ok(mut params) = Members::parse(raw) else {
            return Some(raw.to_owned());
        };
        if request.method == Method::Elicit {
            if self.revision < Revision::V2025_11_25 {
                params.remove("mode");
            } else if params.get_str("mode").as_deref() == Some("url")
                && params.get("elicitationId").is_none()
            {
                params.push("elicitationId", id.as_raw().to_owned());
            }
        }
        Some(params.to_raw())
    }

    fn answer(&mut self, id: &Id, result: Result<&RawValue, &RawValue>) -> Vec<Output> {
        let Phase::Asking { open, retry } = &mut self.phase else {
            return Vec::new();
        };
        let Some(at) = open.iter().position(|question| question.id == *id) else {
            return Vec::new();
        };
        let question = open.swap_remove(at);
        let response = match result {
            Ok(response) if question.request.is_answered_by(response) => Ok(response.to_owned()),
            Ok(_) => Err("its answer has another form".to_owned()),
            Err(error) => Err(Members::parse(error)
                .ok()
                .and_then(|error| error.get_str("message"))
                .unwrap_or_default()),
        };
        match response {
            Ok(response) => retry.responses.push((question.request.key, response)),
            // What failed on the client's side was not decided by its user.
            Err(_) if question.request.method == Method::Elicit => {
                retry
                    .responses
                    .push((question.request.key, raw_of(&Declined::CANCEL)));
            }
            Err(why) => return self.refused(&question.request.method, &why),
        }
        if !open.is_empty() {
            return Vec::new();
        }
        let retry = std::mem::take(retry);
        let outputs = self.retry(&retry);
        self.or_failed(outputs)
    }

    /// The client would not sample or list its roots, and a retry has no way to say so.
    fn refused(&mut self, asked: &Method, why: &str) -> Vec<Output> {
        let text = format!("the client did not answer {asked}: {why}");
        let answer = if self.method == Method::ToolsCall {
            let result = raw_of(&serde_json::json!({
                "content": [{"type": "text", "text": text}],
                "isError": true,
            }));
            Output::Answer(envelope::write_result(&self.id, &result))
        } else {
            self.failed(&Failure::say(Cause::InvalidRequest, text))
        };
        self.end(answer, "the call failed")
    }

    fn retry(&mut self, retry: &Retry) -> Result<Vec<Output>, Failure> {
        match self.goal {
            Goal::Outcome { .. } | Goal::Hidden { .. } => self.update(retry),
            _ => self.call_anew(retry),
        }
    }

    fn call_anew(&mut self, retry: &Retry) -> Result<Vec<Output>, Failure> {
        let mut params = Members::parse(&self.params).map_err(|_| Failure::new(Cause::Internal))?;
        retry.put(&mut params);
        let params = params.to_raw();
        // Each retry is a request of its own.
        let id = Id::from_text(&format!("{}.r{}", self.prefix, self.rounds));
        let call = Call::new(Some(id), self.method.clone(), Some(&params), &self.client)?;
        self.phase = Phase::Calling;
        Ok(vec![Output::Call(Box::new(call))])
    }

    fn failed(&self, failure: &Failure) -> Output {
        Output::Answer(failure.to_json_rpc(Some(&self.id), &self.request_id))
    }

    fn or_failed(&mut self, outputs: Result<Vec<Output>, Failure>) -> Vec<Output> {
        outputs.unwrap_or_else(|failure| {
            let answer = self.failed(&failure);
            self.over(answer)
        })
    }

    fn over(&mut self, last: Output) -> Vec<Output> {
        self.phase = Phase::Over;
        vec![last]
    }

    /// Ends before the server did: takes back what is still asked, on both sides.
    fn end(&mut self, last: Output, why: &str) -> Vec<Output> {
        let mut outputs = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Calling => vec![Output::Abandon],
            Phase::Asking { open, .. } => open
                .iter()
                .map(|question| Output::Send(notification::cancelled(&question.id, Some(why))))
                .collect(),
            Phase::Waiting | Phase::Over => Vec::new(),
        };
        outputs.extend(self.give_up());
        outputs.push(last);
        outputs
    }
}

/// What a form that nobody can fill in is answered with.
#[derive(serde::Serialize)]
struct Declined {
    action: &'static str,
}

impl Declined {
    const DECLINE: Declined = Declined { action: "decline" };
    const CANCEL: Declined = Declined { action: "cancel" };
}

/// The parameters for a modern server: the level stands in `_meta`, and whether a call becomes a task is the
/// server's to say.
fn modern_params(given: Option<&RawValue>, level: Option<Level>) -> Result<Box<RawValue>, Failure> {
    let invalid = |text: &str| Failure::say(Cause::InvalidParams, text);
    let mut params = match given {
        Some(raw) => Members::parse(raw)
            .map_err(|_| invalid("params must be an object that names each member once"))?,
        None => Members::default(),
    };
    for modern in ["task", "inputResponses", "requestState"] {
        params.remove(modern);
    }
    let before = params.get("_meta").map(RawValue::to_owned);
    let mut meta = match &before {
        Some(raw) => Members::parse(raw).map_err(|_| invalid("params._meta must be an object"))?,
        None => Members::default(),
    };
    match level {
        Some(level) => meta.set(META_LOG_LEVEL, raw_of(level.as_str())),
        None => meta.remove(META_LOG_LEVEL),
    }
    let meta = meta.to_raw();
    params.set("_meta", meta);
    Ok(params.to_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Body;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    /// A call that is played line by line: what goes in, and what comes out.
    pub(super) struct Play(pub(super) OldClientCall);

    impl Play {
        pub(super) fn begin(
            revision: Revision,
            capabilities: &str,
            method: &str,
            params: &str,
        ) -> (Play, String) {
            let client = ClientMeta {
                info: None,
                capabilities: raw(capabilities),
            };
            let (call, first) = OldClientCall::start(Setup {
                revision,
                client: &client,
                id: Id::from_number(7),
                method: Method::parse(method),
                params: Some(&raw(params)),
                prefix: "p".into(),
                level: Some(Level::Info),
                request_id: "r-1".into(),
                now: "now".into(),
            })
            .unwrap();
            (Play(call), show(Output::Call(Box::new(first))))
        }

        fn call(capabilities: &str) -> Play {
            Play::begin(
                Revision::V2025_11_25,
                capabilities,
                "tools/call",
                r#"{"name":"t"}"#,
            )
            .0
        }

        pub(super) fn server(&mut self, message: &str) -> Vec<String> {
            let Ok(Body::One(Ok(message))) = envelope::read(message.as_bytes()) else {
                panic!("no message: {message}");
            };
            self.step(Input::Server(message))
        }

        pub(super) fn result(&mut self, result: &str) -> Vec<String> {
            self.server(&format!(r#"{{"jsonrpc":"2.0","id":7,"result":{result}}}"#))
        }

        pub(super) fn answer(&mut self, id: &str, result: Result<&str, &str>) -> Vec<String> {
            let id = Id::from_text(id);
            let (ok, text) = match result {
                Ok(text) => (true, raw(text)),
                Err(text) => (false, raw(text)),
            };
            let result = if ok { Ok(&*text) } else { Err(&*text) };
            self.step(Input::Answer { id: &id, result })
        }

        pub(super) fn step(&mut self, input: Input<'_>) -> Vec<String> {
            self.0.step(input).into_iter().map(show).collect()
        }
    }

    /// One line an output; requests to the server by what a retry adds.
    fn show(output: Output) -> String {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .unwrap()
                .replace(r#""jsonrpc":"2.0","#, "")
        };
        match output {
            Output::Send(bytes) => format!("send {}", text(bytes)),
            Output::Ask { message, .. } => format!("ask {}", text(message)),
            Output::Call(call) => format!("call {}", text(call.body.to_vec())),
            Output::Wait(pause) => format!("wait {}", pause.as_millis()),
            Output::Tell(call) => format!("tell {}", text(call.body.to_vec())),
            Output::Made { task, kept, answer } => {
                format!("made {task} {} {}", kept.is_some(), text(answer))
            }
            Output::Abandon => "abandon".into(),
            Output::Answer(bytes) => format!("answer {}", text(bytes)),
            Output::Close => "close".into(),
        }
    }

    const FORM: &str = r#"{"method":"elicitation/create","params":{"mode":"form","message":"?","requestedSchema":{"type":"object","properties":{}}}}"#;

    #[test]
    fn a_plain_call_goes_out_in_the_new_form_and_comes_back_in_the_old() {
        let (mut play, first) = Play::begin(
            Revision::V2025_06_18,
            r#"{"roots":{}}"#,
            "tools/call",
            r#"{"name":"t","arguments":{"a":1.0},"task":{"ttl":1},"_meta":{"progressToken":"p"}}"#,
        );
        insta::assert_snapshot!(first, @r#"call {"id":7,"method":"tools/call","params":{"name":"t","arguments":{"a":1.0},"_meta":{"progressToken":"p","io.modelcontextprotocol/logLevel":"info","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{}}}}}"#);
        let last = play.result(r#"{"resultType":"complete","content":[],"x":1.0}"#);
        assert_eq!(last, [r#"answer {"id":7,"result":{"content":[],"x":1.0}}"#]);
        assert!(play.0.is_over());
        assert!(play.result("{}").is_empty(), "nothing follows the end");
    }

    #[test]
    fn progress_and_logs_pass_as_the_client_wants_them() {
        let mut play = Play::call("{}");
        for (method, params, passes) in [
            ("progress", r#"{"progressToken":"p","progress":1}"#, true),
            ("progress", r#"{"progressToken":"p","progress":1}"#, false),
            (
                "progress",
                r#"{"progressToken":"p","progress":2,"total":3.0}"#,
                true,
            ),
            ("message", r#"{"level":"info","data":1.0}"#, true),
            ("message", r#"{"level":"debug","data":1}"#, false),
            ("tools/list_changed", "{}", false),
            ("progress", r#"{"progress":3}"#, false),
            ("vendor", r#"{"x":1.0}"#, true),
        ] {
            let told = play.server(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{params}}}"#
            ));
            let sent = format!(r#"send {{"method":"notifications/{method}","params":{params}}}"#);
            assert_eq!(
                told,
                if passes { vec![sent] } else { vec![] },
                "{method} {params}"
            );
        }
    }

    #[test]
    fn a_form_is_asked_and_its_answer_goes_back_with_the_exact_state() {
        let mut play = Play::call(r#"{"elicitation":{}}"#);
        let asked = play.result(&format!(r#"{{"resultType":"input_required","inputRequests":{{"name":{FORM}}},"requestState":"s\u0041"}}"#));
        assert_eq!(
            asked,
            [
                r#"ask {"id":"p.1","method":"elicitation/create","params":{"mode":"form","message":"?","requestedSchema":{"type":"object","properties":{}}}}"#
            ]
        );
        assert!(play.answer("p.9", Ok("{}")).is_empty(), "nobody asked that");
        let again = play.answer("p.1", Ok(r#"{"action":"accept","content":{"n":1.0}}"#));
        insta::assert_snapshot!(again[0], @r#"call {"id":"p.r1","method":"tools/call","params":{"name":"t","_meta":{"io.modelcontextprotocol/logLevel":"info","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}},"inputResponses":{"name":{"action":"accept","content":{"n":1.0}}},"requestState":"sA"}}"#);
        assert_eq!(
            play.result(r#"{"content":[]}"#),
            [r#"answer {"id":7,"result":{"content":[]}}"#]
        );
    }

    #[test]
    fn several_questions_wait_for_all_answers() {
        let mut play = Play::call(r#"{"elicitation":{},"sampling":{},"roots":{}}"#);
        let asked = play.result(&format!(
            r#"{{"resultType":"input_required","inputRequests":{{"f":{FORM},"s":{{"method":"sampling/createMessage","params":{{"maxTokens":1}}}},"r":{{"method":"roots/list"}}}}}}"#
        ));
        assert_eq!(asked.len(), 3);
        assert_eq!(asked[2], r#"ask {"id":"p.3","method":"roots/list"}"#);
        assert!(
            play.answer(
                "p.2",
                Ok(r#"{"role":"assistant","content":{},"model":"m"}"#)
            )
            .is_empty()
        );
        assert!(play.answer("p.2", Ok("{}")).is_empty(), "answered already");
        assert!(play.answer("p.1", Ok(r#"{"action":"decline"}"#)).is_empty());
        let again = play.answer("p.3", Ok(r#"{"roots":[]}"#));
        assert!(again[0].contains(r#""inputResponses":{"s":{"role":"assistant","content":{},"model":"m"},"f":{"action":"decline"},"r":{"roots":[]}}}"#), "{again:?}");
        let (second, third) = (
            play.result(r#"{"resultType":"input_required","requestState":"2"}"#),
            play.result(r#"{"resultType":"input_required","requestState":"3"}"#),
        );
        assert!(
            second[0].contains(r#""id":"p.r2""#) && second[0].contains(r#""requestState":"2""#)
        );
        assert!(third[0].contains(r#""id":"p.r3""#) && !third[0].contains("inputResponses"));
    }

    #[test]
    fn a_visit_to_a_url_gets_the_id_that_2025_11_25_wants() {
        let url = r#"{"resultType":"input_required","inputRequests":{"u":{"method":"elicitation/create","params":{"mode":"url","message":"m","url":"https://a"}}}}"#;
        let mut play = Play::call(r#"{"elicitation":{"url":{}}}"#);
        assert_eq!(
            play.result(url),
            [
                r#"ask {"id":"p.1","method":"elicitation/create","params":{"mode":"url","message":"m","url":"https://a","elicitationId":"p.1"}}"#
            ]
        );
        let mut forms_only = Play::call(r#"{"elicitation":{}}"#);
        let declined = forms_only.result(url);
        assert!(
            declined[0].contains(r#""inputResponses":{"u":{"action":"decline"}}"#),
            "{declined:?}"
        );
    }

    #[test]
    fn a_client_is_asked_only_what_its_revision_and_its_word_allow() {
        let form = format!(r#"{{"resultType":"input_required","inputRequests":{{"f":{FORM}}}}}"#);
        let begin = |revision, capabilities| {
            Play::begin(revision, capabilities, "tools/call", r#"{"name":"t"}"#).0
        };
        let asked = begin(Revision::V2025_06_18, r#"{"elicitation":{}}"#).result(&form);
        assert!(
            asked[0].starts_with("ask") && !asked[0].contains("mode"),
            "{asked:?}"
        );
        let too_old = begin(Revision::V2025_03_26, r#"{"elicitation":{}}"#).result(&form);
        assert!(too_old[0].contains("decline"), "{too_old:?}");
        let sampling = r#"{"resultType":"input_required","inputRequests":{"s":{"method":"sampling/createMessage"}}}"#;
        let refused = begin(Revision::V2025_11_25, "{}").result(sampling);
        assert!(refused[0].contains(r#""code":-32021"#), "{refused:?}");
    }

    #[test]
    fn a_client_that_refuses_to_sample_ends_the_call() {
        let sampling = r#"{"resultType":"input_required","inputRequests":{"s":{"method":"sampling/createMessage"},"r":{"method":"roots/list"}}}"#;
        let mut play = Play::call(r#"{"sampling":{},"roots":{}}"#);
        play.result(sampling);
        let ended = play.answer("p.1", Err(r#"{"code":-1,"message":"no"}"#));
        assert!(
            ended[0].contains("notifications/cancelled") && ended[0].contains("p.2"),
            "{ended:?}"
        );
        assert!(
            ended[1].contains(r#""isError":true"#)
                && ended[1].contains("sampling/createMessage: no"),
            "{ended:?}"
        );
        let mut form = Play::call(r#"{"elicitation":{}}"#);
        form.result(&format!(
            r#"{{"resultType":"input_required","inputRequests":{{"f":{FORM}}}}}"#
        ));
        let cancelled = form.answer("p.1", Err(r#"{"code":-1,"message":"no"}"#));
        assert!(
            cancelled[0].contains(r#"{"f":{"action":"cancel"}}"#),
            "{cancelled:?}"
        );
    }

    #[test]
    fn cancelling_and_time_reach_whoever_is_at_work() {
        assert_eq!(Play::call("{}").step(Input::Cancel), ["abandon", "close"]);
        let late = Play::call("{}").step(Input::Deadline);
        assert_eq!(late[0], "abandon");
        assert!(late[1].contains(r#""code":-31504"#), "{late:?}");
        let mut asking = Play::call(r#"{"elicitation":{}}"#);
        asking.result(&format!(
            r#"{{"resultType":"input_required","inputRequests":{{"f":{FORM}}}}}"#
        ));
        let cancelled = asking.step(Input::Cancel);
        assert!(
            cancelled[0].contains(r#""requestId":"p.1""#),
            "{cancelled:?}"
        );
        assert_eq!(cancelled[1], "close");
    }

    #[test]
    fn errors_come_back_with_the_codes_of_the_revision() {
        let (mut play, _) = Play::begin(
            Revision::V2025_03_26,
            "{}",
            "resources/read",
            r#"{"uri":"a:b"}"#,
        );
        let error = play.server(r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"m","data":{"uri":"a:b"}}}"#);
        assert_eq!(
            error,
            [r#"answer {"id":7,"error":{"code":-32002,"message":"m","data":{"uri":"a:b"}}}"#]
        );
        let gone = Play::call("{}").step(Input::ServerGone(Failure::new(Cause::UpstreamBroken)));
        assert!(gone[1].contains("-31502"), "{gone:?}");
    }

    #[test]
    fn a_server_that_asks_without_end_is_stopped() {
        let mut play = Play::call("{}");
        let rounds = (0..=ROUNDS_MAX)
            .take_while(|_| {
                play.result(r#"{"resultType":"input_required","requestState":"s"}"#)[0]
                    .starts_with("call")
            })
            .count();
        assert_eq!(rounds, ROUNDS_MAX as usize);
        assert!(play.0.is_over());
        let (mut listing, _) = Play::begin(Revision::V2025_11_25, "{}", "tools/list", "{}");
        let refused = listing.result(r#"{"resultType":"input_required","requestState":"s"}"#);
        assert!(
            refused[0].contains("-31502"),
            "a list may not ask: {refused:?}"
        );
        assert!(
            Play::call("{}").result(r#"{"resultType":"task","taskId":"t"}"#)[0].contains("-31502")
        );
    }

    #[test]
    fn methods_without_a_modern_form_are_not_sent() {
        let client = ClientMeta::plain("c");
        for method in [
            "ping",
            "logging/setLevel",
            "resources/subscribe",
            "tasks/list",
            "server/discover",
            "sampling/createMessage",
        ] {
            let setup = Setup {
                revision: Revision::V2025_11_25,
                client: &client,
                id: Id::from_number(1),
                method: Method::parse(method),
                params: None,
                prefix: "p".into(),
                level: None,
                request_id: "r".into(),
                now: String::new(),
            };
            assert_eq!(
                OldClientCall::start(setup).unwrap_err().cause,
                Cause::MethodNotFound,
                "{method}"
            );
        }
    }
}
