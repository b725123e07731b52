//! A client of 2026-07-28 calls a server of the older era: one call, over all its rounds.
//!
//! ```text
//! client                      machine                         server
//!   tools/call ──────────────▶ start ────────── tools/call ──▶
//!              ◀── progress ──                ◀── progress ───
//!              ◀── input_required (park)      ◀── elicitation/create
//!   retry with inputResponses ▶ ─────────────── its answer ──▶
//!              ◀── result, complete ──        ◀── result ─────
//! ```
//!
//! While the call is parked the server still holds it, so the machine lives with the connection to the
//! server, and a sealed state ([`crate::parked`]) leads the retry back to it.
//!
//! On a stream that one call has for itself every request of the server belongs to that call. On standard
//! input and output nothing says which call a request belongs to; the host decides, and with several calls
//! under way it gives a request to the one that began last.

use std::collections::VecDeque;

use serde_json::value::RawValue;

use crate::call::{
    META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL, META_SUBSCRIPTION_ID, META_VERSION,
};
use crate::capability::{ClientCapabilities, InputKind};
use crate::envelope::{self, Id, Message};
use crate::failure::{Cause, Failure};
use crate::input::{INPUTS_MAX, InputRequest, InputRequired, Retry};
use crate::members::{Members, raw_of};
use crate::method::Method;
use crate::notification::{self, Level, Notification, with_member};
use crate::revision::Revision;

use super::result::{CacheHint, URL_REQUIRED, code, error_to_modern, to_modern};

/// Most requests of the server that wait while the client is asked.
pub const QUESTIONS_MAX: usize = INPUTS_MAX;

/// What the machine must know of its call.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The server's revision.
    pub revision: Revision,
    /// What it asks.
    pub method: Method,
    /// Its parameters as the client sent them.
    pub params: Option<&'a RawValue>,
    /// The id towards the server, of the host's making: unique on its connection. Also the token of
    /// progress, if the client wants any.
    pub server_id: Id,
    /// The server's name, for the result's `_meta`.
    pub server_info: Option<&'a RawValue>,
    /// The operator's word on how long results may be kept.
    pub hint: CacheHint,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The server sent a message that belongs to this call.
    Server(Message<'a>),
    /// The server can not be reached, or broke off.
    ServerGone(Failure),
    /// The client came back. The call had been parked.
    Retry {
        /// What it brings.
        retry: Retry,
        /// An id towards the server, as in [`Setup::server_id`], should the call have to be sent anew.
        server_id: Id,
    },
    /// The client closed its stream while the server was at work.
    Cancel,
    /// Time is over: for the call, or for a parked call to be taken up again.
    Deadline,
}

/// What to do, in order.
#[derive(Debug)]
pub enum Output {
    /// Send this message to the server.
    Server(Vec<u8>),
    /// Send this notification to the client, on the response stream.
    Send(Vec<u8>),
    /// Answer the client with this result after putting a sealed `requestState` into it, and keep the
    /// machine.
    Park(Box<InputRequired>),
    /// Answer the client: the result or error object. The call is over.
    Answer(Result<Box<RawValue>, Box<RawValue>>),
    /// Answer the client with a failure of our own. The call is over.
    Fail(Failure),
    /// The call is over without an answer.
    Close,
}

/// A request of the server that the client has not answered yet.
#[derive(Debug)]
struct Question {
    server_id: Id,
    request: InputRequest,
}

#[derive(Debug, PartialEq)]
enum Phase {
    /// The client waits on its stream.
    Calling,
    /// The client has been told what is wanted.
    Parked,
    /// As parked, and the server has refused the call until a URL is visited (-32042): it must be sent
    /// anew.
    Refused,
    Over,
}

/// One call; see the module.
#[derive(Debug)]
pub struct OldServerCall {
    revision: Revision,
    method: Method,
    /// As the client sent them, without `inputResponses` and `requestState`.
    params: Box<RawValue>,
    capabilities: ClientCapabilities,
    level: Option<Level>,
    /// The client's token for progress.
    token: Option<Id>,
    server_id: Id,
    server_info: Option<Box<RawValue>>,
    hint: CacheHint,
    asked: u32,
    /// What the client has been asked, or will be at the next round.
    questions: VecDeque<Question>,
    /// Came while the call was parked.
    early: Option<Output>,
    phase: Phase,
}

impl OldServerCall {
    /// Begins a call: the machine, and the first message for the server.
    ///
    /// # Errors
    /// [`Cause::MethodNotFound`] for a method that the server's revision does not have,
    /// [`Cause::InvalidParams`] when the parameters do not fit.
    pub fn start(setup: Setup<'_>) -> Result<(OldServerCall, Vec<u8>), Failure> {
        if setup.method.is_notification() || !setup.method.is_in(setup.revision) {
            return Err(Failure::new(Cause::MethodNotFound));
        }
        let invalid = |text: &str| Failure::say(Cause::InvalidParams, text);
        let mut params = match setup.params {
            Some(raw) => Members::parse(raw)
                .map_err(|_| invalid("params must be an object that names each member once"))?,
            None => Members::default(),
        };
        params.remove("inputResponses");
        params.remove("requestState");
        let meta = params.get("_meta").map(RawValue::to_owned);
        let meta = match &meta {
            Some(raw) => {
                Members::parse(raw).map_err(|_| invalid("params._meta must be an object"))?
            }
            None => Members::default(),
        };
        let call = OldServerCall {
            revision: setup.revision,
            method: setup.method,
            params: params.to_raw(),
            capabilities: meta
                .get(META_CLIENT_CAPABILITIES)
                .map(ClientCapabilities::read)
                .unwrap_or_default(),
            level: meta
                .get_str(META_LOG_LEVEL)
                .and_then(|text| Level::parse(&text)),
            token: meta.get("progressToken").and_then(Id::parse),
            server_id: setup.server_id,
            server_info: setup.server_info.map(RawValue::to_owned),
            hint: setup.hint,
            asked: 0,
            questions: VecDeque::new(),
            early: None,
            phase: Phase::Calling,
        };
        let first = call.request();
        Ok((call, first))
    }

    /// The level that the server has to log from for this call.
    #[must_use]
    pub fn level(&self) -> Option<Level> {
        self.level
    }

    /// The id that the server knows this call by at present.
    #[must_use]
    pub fn server_id(&self) -> &Id {
        &self.server_id
    }

    /// Whether the client is away and the call waits for it.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        matches!(self.phase, Phase::Parked | Phase::Refused)
    }

    /// Whether the call is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Takes what happened and says what to do. After the end it says nothing.
    pub fn step(&mut self, input: Input<'_>) -> Vec<Output> {
        match input {
            _ if self.phase == Phase::Over => Vec::new(),
            Input::Server(message) => self.server(message),
            Input::ServerGone(failure) => self.finish(Output::Fail(failure)),
            Input::Retry { retry, server_id } => self.retried(&retry, server_id),
            // A client that was answered with a question closes its stream as a matter of course.
            Input::Cancel if self.is_parked() => Vec::new(),
            Input::Cancel => self.end(Output::Close, "the client went away"),
            Input::Deadline if self.is_parked() => {
                self.end(Output::Close, "the client did not come back")
            }
            Input::Deadline => self.end(Output::Fail(Failure::new(Cause::Timeout)), "out of time"),
        }
    }

    fn server(&mut self, message: Message<'_>) -> Vec<Output> {
        match message {
            Message::Notification { method, params } => self.told(&method, params),
            Message::Request { id, method, params } => self.asked(id, &method, params),
            Message::Response { id, .. } if id != self.server_id => Vec::new(),
            Message::Response {
                result: Ok(result), ..
            } => {
                let info = self.server_info.as_deref();
                let last = match to_modern(&self.method, result, self.hint, info) {
                    Ok(result) => Output::Answer(Ok(result)),
                    Err(failure) => Output::Fail(failure),
                };
                self.finish(last)
            }
            Message::Response {
                result: Err(error), ..
            } => self.error(error),
        }
    }

    /// A notification for the client, if it wants it and is there to hear it.
    fn told(&mut self, method: &str, params: Option<&RawValue>) -> Vec<Output> {
        if self.phase != Phase::Calling {
            return Vec::new();
        }
        let params = match (Notification::read(method, params), &self.token) {
            (Ok(Notification::Progress { token, .. }), Some(wanted)) if token == self.server_id => {
                Some(with_member(params, "progressToken", wanted.as_raw()))
            }
            (Ok(Notification::Log { level }), _)
                if self.level.is_some_and(|least| level >= least) =>
            {
                params.map(RawValue::to_owned)
            }
            // Another call's, or of a kind that belongs on a stream of subscriptions.
            _ => return Vec::new(),
        };
        vec![Output::Send(envelope::write_notification(
            method,
            params.as_deref(),
        ))]
    }

    /// The server wants something of the client.
    fn asked(&mut self, id: Id, method: &str, params: Option<&RawValue>) -> Vec<Output> {
        if method == Method::Ping.as_str() {
            let nothing = Members::default().to_raw();
            return vec![Output::Server(envelope::write_result(&id, &nothing))];
        }
        let known = Method::parse(method).is_in(self.revision);
        let key = format!("q{}", self.asked + 1);
        let refused = match InputRequest::new(key, method, params).filter(|_| known) {
            None => Some(Failure::new(Cause::MethodNotFound)),
            Some(_) if !self.method.may_require_input() => Some(Failure::say(
                Cause::InvalidRequest,
                "the client cannot be asked within this method",
            )),
            Some(request) if !self.capabilities.has(request.kind()) => {
                Some(unsupported(request.kind()))
            }
            Some(_) if self.questions.len() == QUESTIONS_MAX => Some(Failure::say(
                Cause::InvalidRequest,
                "too many requests wait",
            )),
            Some(request) => {
                self.asked += 1;
                self.questions.push_back(Question {
                    server_id: id.clone(),
                    request: modern_question(request),
                });
                None
            }
        };
        match refused {
            Some(failure) => vec![Output::Server(failure.to_json_rpc(Some(&id), ""))],
            None if self.phase == Phase::Calling => self.park(Phase::Parked),
            // The client is away already; it hears of this when it comes back.
            None => Vec::new(),
        }
    }

    fn park(&mut self, phase: Phase) -> Vec<Output> {
        self.phase = phase;
        let requests = self.questions.iter().map(|q| q.request.clone()).collect();
        vec![Output::Park(Box::new(InputRequired {
            requests,
            state: None,
        }))]
    }

    fn error(&mut self, error: &RawValue) -> Vec<Output> {
        let members = Members::parse(error).unwrap_or_default();
        if code(&members) == Some(URL_REQUIRED)
            && self.phase == Phase::Calling
            && self.method.may_require_input()
            && self.capabilities.url
            && self.visit(&members)
        {
            return self.park(Phase::Refused);
        }
        let params = Members::parse(&self.params).unwrap_or_default();
        let error = error_to_modern(&params, error);
        self.finish(Output::Answer(Err(error)))
    }

    /// Turns `data.elicitations` of error -32042 into questions; whether there are any.
    fn visit(&mut self, error: &Members<'_>) -> bool {
        let Some(visits) = error
            .get("data")
            .and_then(|raw| Members::parse(raw).ok())
            .and_then(|data| data.get("elicitations").map(RawValue::to_owned))
            .and_then(|raw| serde_json::from_str::<Vec<Box<RawValue>>>(raw.get()).ok())
        else {
            return false;
        };
        for visit in visits.iter().take(QUESTIONS_MAX) {
            self.asked += 1;
            let key = format!("q{}", self.asked);
            let request = InputRequest::new(key, Method::Elicit.as_str(), Some(visit));
            if let Some(request) = request.filter(|r| r.kind() == InputKind::Url) {
                self.questions.push_back(Question {
                    server_id: self.server_id.clone(),
                    request: modern_question(request),
                });
            }
        }
        !self.questions.is_empty()
    }

    fn retried(&mut self, retry: &Retry, server_id: Id) -> Vec<Output> {
        if !self.is_parked() {
            return vec![];
        }
        if self.phase == Phase::Refused {
            return self.visited(retry, server_id);
        }
        let mut outputs = Vec::new();
        self.questions.retain(|question| {
            let Some(response) = retry.response(&question.request.key) else {
                return true;
            };
            // A response of another form is asked for again.
            if !question.request.is_answered_by(response) {
                return true;
            }
            let answer = envelope::write_result(&question.server_id, response);
            outputs.push(Output::Server(answer));
            false
        });
        if let Some(early) = self.early.take() {
            // The server did not wait for the answers.
            self.phase = Phase::Over;
            return vec![early];
        }
        if self.questions.is_empty() {
            self.phase = Phase::Calling;
        } else {
            outputs.extend(self.park(Phase::Parked));
        }
        outputs
    }

    /// The client has been sent to a URL. If it went, the server is asked anew.
    fn visited(&mut self, retry: &Retry, server_id: Id) -> Vec<Output> {
        let missing = |q: &Question| {
            retry
                .response(&q.request.key)
                .is_none_or(|response| !q.request.is_answered_by(response))
        };
        if self.questions.iter().any(missing) {
            return self.park(Phase::Refused);
        }
        let accepted = |q: &Question| {
            retry
                .response(&q.request.key)
                .and_then(|response| Members::parse(response).ok())
                .and_then(|response| response.get_str("action"))
                .is_some_and(|action| action == "accept")
        };
        if !self.questions.iter().all(accepted) {
            let text = "the URL that this call depends on was not visited";
            return self.finish_now(Output::Fail(Failure::say(Cause::InvalidRequest, text)));
        }
        self.questions.clear();
        self.server_id = server_id;
        self.phase = Phase::Calling;
        vec![Output::Server(self.request())]
    }

    /// The request for the server, in the form that its revision knows.
    fn request(&self) -> Vec<u8> {
        let params = old_params(&self.params, &self.server_id);
        envelope::write_request(Some(&self.server_id), self.method.as_str(), &params)
    }

    /// Ends with the server's last word, at once or when the client comes back for it.
    fn finish(&mut self, last: Output) -> Vec<Output> {
        if self.is_parked() {
            self.early = Some(last);
            return Vec::new();
        }
        self.finish_now(last)
    }

    fn finish_now(&mut self, last: Output) -> Vec<Output> {
        self.phase = Phase::Over;
        vec![last]
    }

    /// Ends before the server did: what it still wants to know is refused, its work cancelled.
    fn end(&mut self, last: Output, why: &str) -> Vec<Output> {
        let mut outputs = Vec::new();
        if self.early.is_none() && self.phase != Phase::Refused {
            for question in self.questions.drain(..) {
                let failure = Failure::say(Cause::InvalidRequest, why);
                let refusal = failure.to_json_rpc(Some(&question.server_id), "");
                outputs.push(Output::Server(refusal));
            }
            let cancel = notification::cancelled(&self.server_id, Some(why));
            outputs.push(Output::Server(cancel));
        }
        outputs.extend(self.finish_now(last));
        outputs
    }
}

/// What a server hears that asks for what the client did not declare.
fn unsupported(kind: InputKind) -> Failure {
    match kind {
        InputKind::Url | InputKind::SamplingWithTools => Failure::say(
            Cause::InvalidParams,
            "the client does not support this mode",
        ),
        _ => Failure::new(Cause::MethodNotFound),
    }
}

/// A question as 2026-07-28 has it: a visit to a URL has no id of its own.
fn modern_question(mut request: InputRequest) -> InputRequest {
    let params = request.params.take();
    request.params = params.map(|raw| match Members::parse(&raw) {
        Ok(mut members) => {
            if request.method == Method::Elicit {
                members.remove("elicitationId");
            }
            members.to_raw()
        }
        Err(_) => raw.clone(),
    });
    request
}

/// The parameters without what only 2026-07-28 knows, and with a token for progress of our own.
fn old_params(params: &RawValue, server_id: &Id) -> Box<RawValue> {
    let Ok(mut members) = Members::parse(params) else {
        return params.to_owned();
    };
    let before = members.get("_meta").map(RawValue::to_owned);
    let mut meta = before
        .as_deref()
        .and_then(|raw| Members::parse(raw).ok())
        .unwrap_or_default();
    for modern in [
        META_VERSION,
        META_CLIENT_INFO,
        META_CLIENT_CAPABILITIES,
        META_LOG_LEVEL,
        META_SUBSCRIPTION_ID,
    ] {
        meta.remove(modern);
    }
    if meta.get("progressToken").is_some() {
        meta.set("progressToken", server_id.as_raw().to_owned());
    }
    match meta.is_empty() {
        true => members.remove("_meta"),
        false => {
            let meta = meta.to_raw();
            members.set("_meta", meta);
        }
    }
    members.to_raw()
}

/// Writes the `logging/setLevel` that a shared connection needs: servers keep one level for all calls, so it
/// is the least of what the calls under way ask for.
#[must_use]
pub fn set_level(id: &Id, levels: impl IntoIterator<Item = Level>) -> Option<Vec<u8>> {
    let least = levels.into_iter().min()?;
    let mut params = Members::default();
    params.push("level", raw_of(least.as_str()));
    Some(envelope::write_request(
        Some(id),
        Method::SetLevel.as_str(),
        &params.to_raw(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Body;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    /// A call that is played line by line: what goes in, and what comes out.
    struct Play(OldServerCall);

    impl Play {
        fn begin(method: &str, params: &str) -> (Play, String) {
            Play::at(Revision::V2025_11_25, method, params)
        }

        fn at(revision: Revision, method: &str, params: &str) -> (Play, String) {
            let (call, first) = OldServerCall::start(Setup {
                revision,
                method: Method::parse(method),
                params: Some(&raw(params)),
                server_id: Id::from_number(40),
                server_info: None,
                hint: CacheHint::NONE,
            })
            .unwrap();
            (Play(call), show(Output::Server(first)))
        }

        fn call(capabilities: &str) -> Play {
            let params = format!(
                r#"{{"name":"t","_meta":{{"io.modelcontextprotocol/clientCapabilities":{capabilities},"progressToken":"c","io.modelcontextprotocol/logLevel":"warning"}}}}"#
            );
            Play::begin("tools/call", &params).0
        }

        fn server(&mut self, message: &str) -> Vec<String> {
            let message = message.replacen('{', r#"{"jsonrpc":"2.0","#, 1);
            let Ok(Body::One(Ok(message))) = envelope::read(message.as_bytes()) else {
                panic!("no message: {message}");
            };
            self.step(Input::Server(message))
        }

        fn retry(&mut self, responses: &[(&str, &str)]) -> Vec<String> {
            let retry = Retry {
                responses: responses
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), raw(v)))
                    .collect(),
                state: None,
            };
            self.step(Input::Retry {
                retry,
                server_id: Id::from_number(41),
            })
        }

        fn step(&mut self, input: Input<'_>) -> Vec<String> {
            self.0.step(input).into_iter().map(show).collect()
        }
    }

    fn show(output: Output) -> String {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .unwrap()
                .replace(r#""jsonrpc":"2.0","#, "")
        };
        match output {
            Output::Server(bytes) => format!("server {}", text(bytes)),
            Output::Send(bytes) => format!("send {}", text(bytes)),
            Output::Park(wanted) => format!("park {}", wanted.write()),
            Output::Answer(Ok(result)) => format!("result {result}"),
            Output::Answer(Err(error)) => format!("error {error}"),
            Output::Fail(failure) => format!("fail {}", failure.cause.code()),
            Output::Close => "close".into(),
        }
    }

    const ELICIT: &str = r#"{"id":1,"method":"elicitation/create","params":{"message":"?","requestedSchema":{"x":1.0}}}"#;
    const ACCEPT: &str = r#"{"action":"accept","content":{"n":1.0}}"#;

    #[test]
    fn a_plain_call_goes_out_in_the_old_form_and_comes_back_in_the_new() {
        let (mut play, first) = Play::begin(
            "tools/call",
            r#"{"name":"t","arguments":{"a":1.0},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"progressToken":"c","vendor":1.0}}"#,
        );
        assert_eq!(
            first,
            r#"server {"id":40,"method":"tools/call","params":{"name":"t","arguments":{"a":1.0},"_meta":{"progressToken":40,"vendor":1.0}}}"#
        );
        assert_eq!(
            play.server(r#"{"id":39,"result":{}}"#),
            [""; 0],
            "another call's"
        );
        assert_eq!(
            play.server(r#"{"id":40,"result":{"content":[],"x":1.0}}"#),
            [r#"result {"content":[],"x":1.0,"resultType":"complete"}"#]
        );
        assert!(play.0.is_over());
        let (mut list, _) = Play::begin("tools/list", "{}");
        assert_eq!(
            list.server(r#"{"id":40,"result":{"tools":[]}}"#),
            [r#"result {"tools":[],"resultType":"complete","ttlMs":0,"cacheScope":"private"}"#]
        );
    }

    #[test]
    fn progress_and_logs_reach_the_client_that_asked() {
        let mut play = Play::call("{}");
        for (told, sent) in [
            (
                r#"{"method":"notifications/progress","params":{"progressToken":40,"progress":1.0}}"#,
                Some(
                    r#"send {"method":"notifications/progress","params":{"progressToken":"c","progress":1.0}}"#,
                ),
            ),
            (
                r#"{"method":"notifications/progress","params":{"progressToken":39,"progress":1}}"#,
                None,
            ),
            (
                r#"{"method":"notifications/message","params":{"level":"info","data":1}}"#,
                None,
            ),
            (
                r#"{"method":"notifications/message","params":{"level":"error","data":1.0}}"#,
                Some(
                    r#"send {"method":"notifications/message","params":{"level":"error","data":1.0}}"#,
                ),
            ),
            (r#"{"method":"notifications/tools/list_changed"}"#, None),
        ] {
            assert_eq!(
                play.server(told),
                sent.into_iter().collect::<Vec<_>>(),
                "{told}"
            );
        }
        let (mut silent, _) = Play::begin("tools/call", r#"{"name":"t"}"#);
        assert!(
            silent
                .server(
                    r#"{"method":"notifications/message","params":{"level":"emergency","data":1}}"#
                )
                .is_empty()
        );
    }

    #[test]
    fn a_servers_form_becomes_a_question_and_the_retry_its_answer() {
        let mut play = Play::call(r#"{"elicitation":{}}"#);
        assert_eq!(
            play.server(ELICIT),
            [
                r#"park {"resultType":"input_required","inputRequests":{"q1":{"method":"elicitation/create","params":{"message":"?","requestedSchema":{"x":1.0}}}}}"#
            ]
        );
        assert!(
            play.step(Input::Cancel).is_empty(),
            "the stream of an answered request closes"
        );
        assert_eq!(
            play.retry(&[("q1", ACCEPT)]),
            [format!(r#"server {{"id":1,"result":{ACCEPT}}}"#)]
        );
        assert_eq!(
            play.server(r#"{"id":40,"result":{"content":[]}}"#),
            [r#"result {"content":[],"resultType":"complete"}"#]
        );
    }

    #[test]
    fn sampling_and_roots_become_questions() {
        let mut play = Play::call(r#"{"sampling":{},"roots":{}}"#);
        let sampling =
            play.server(r#"{"id":"s","method":"sampling/createMessage","params":{"maxTokens":1}}"#);
        assert_eq!(
            sampling,
            [
                r#"park {"resultType":"input_required","inputRequests":{"q1":{"method":"sampling/createMessage","params":{"maxTokens":1}}}}"#
            ]
        );
        assert!(
            play.server(r#"{"id":"r","method":"roots/list"}"#)
                .is_empty(),
            "told at the next round"
        );
        let sampled = r#"{"role":"assistant","content":{},"model":"m"}"#;
        let next = play.retry(&[("q1", sampled)]);
        assert_eq!(next, [
            format!(r#"server {{"id":"s","result":{sampled}}}"#),
            r#"park {"resultType":"input_required","inputRequests":{"q2":{"method":"roots/list"}}}"#.to_owned(),
        ]);
        assert_eq!(
            play.retry(&[("q2", r#"{"roots":[]}"#)]),
            [r#"server {"id":"r","result":{"roots":[]}}"#]
        );
    }

    #[test]
    fn what_is_missing_or_misshapen_is_asked_again() {
        let mut play = Play::call(r#"{"elicitation":{}}"#);
        play.server(ELICIT);
        for bad in [
            &[][..],
            &[("other", ACCEPT)],
            &[("q1", r#"{"action":"maybe"}"#)],
        ] {
            assert!(play.retry(bad)[0].starts_with("park"), "{bad:?}");
        }
        assert!(
            play.retry(&[("q1", r#"{"action":"decline"}"#), ("extra", "{}")])[0]
                .starts_with("server")
        );
    }

    #[test]
    fn servers_hear_what_the_client_cannot_be_asked() {
        let elicit = |mode: &str| {
            format!(r#"{{"id":1,"method":"elicitation/create","params":{{"mode":"{mode}"}}}}"#)
        };
        for (capabilities, asked, heard) in [
            ("{}", elicit("form"), "-32601"),
            (r#"{"elicitation":{}}"#, elicit("url"), "-32602"),
            ("{}", r#"{"id":1,"method":"roots/list"}"#.into(), "-32601"),
            (
                r#"{"sampling":{}}"#,
                r#"{"id":1,"method":"tools/call"}"#.into(),
                "-32601",
            ),
        ] {
            let answer = Play::call(capabilities).server(&asked);
            assert!(
                answer[0].starts_with(r#"server {"id":1,"error""#) && answer[0].contains(heard),
                "{answer:?}"
            );
        }
        assert_eq!(
            Play::call("{}").server(r#"{"id":9,"method":"ping"}"#),
            [r#"server {"id":9,"result":{}}"#]
        );
        let (mut list, _) = Play::begin(
            "tools/list",
            r#"{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"roots":{}}}}"#,
        );
        assert!(list.server(r#"{"id":1,"method":"roots/list"}"#)[0].contains("-32600"));
        let (mut old, _) = Play::at(
            Revision::V2025_03_26,
            "tools/call",
            r#"{"name":"t","_meta":{"io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}}"#,
        );
        assert!(
            old.server(ELICIT)[0].contains("-32601"),
            "its revision has no forms"
        );
    }

    #[test]
    fn a_visit_to_a_url_loses_its_id() {
        let mut play = Play::call(r#"{"elicitation":{"url":{}}}"#);
        let asked = play.server(r#"{"id":1,"method":"elicitation/create","params":{"mode":"url","url":"https://a","message":"m","elicitationId":"e"}}"#);
        assert!(
            asked[0].ends_with(r#""params":{"mode":"url","url":"https://a","message":"m"}}}}"#),
            "{asked:?}"
        );
        assert!(
            play.server(
                r#"{"method":"notifications/elicitation/complete","params":{"elicitationId":"e"}}"#
            )
            .is_empty()
        );
    }

    #[test]
    fn a_call_refused_until_a_url_is_visited_is_sent_anew() {
        let refused = r#"{"id":40,"error":{"code":-32042,"message":"m","data":{"elicitations":[{"mode":"url","url":"https://a","message":"m","elicitationId":"e"}]}}}"#;
        let mut play = Play::call(r#"{"elicitation":{"url":{}}}"#);
        assert!(play.server(refused)[0].starts_with("park"));
        assert!(play.retry(&[])[0].starts_with("park"), "asked again");
        let again = play.retry(&[("q1", r#"{"action":"accept"}"#)]);
        assert_eq!(
            again,
            [
                r#"server {"id":41,"method":"tools/call","params":{"name":"t","_meta":{"progressToken":41}}}"#
            ]
        );
        assert!(play.server(r#"{"id":41,"result":{"content":[]}}"#)[0].starts_with("result"));
        let mut declined = Play::call(r#"{"elicitation":{"url":{}}}"#);
        declined.server(refused);
        assert_eq!(
            declined.retry(&[("q1", r#"{"action":"decline"}"#)]),
            ["fail -32600"]
        );
        assert!(
            Play::call("{}").server(refused)[0].starts_with("error"),
            "a client without visits sees the error"
        );
    }

    #[test]
    fn a_server_that_does_not_wait_is_heard_at_the_retry() {
        let mut play = Play::call(r#"{"elicitation":{}}"#);
        play.server(ELICIT);
        assert!(
            play.server(r#"{"id":40,"result":{"content":[]}}"#)
                .is_empty()
        );
        assert_eq!(
            play.retry(&[("q1", ACCEPT)]),
            [r#"result {"content":[],"resultType":"complete"}"#]
        );
        let mut gone = Play::call(r#"{"elicitation":{}}"#);
        gone.server(ELICIT);
        assert!(
            gone.step(Input::ServerGone(Failure::new(Cause::UpstreamBroken)))
                .is_empty()
        );
        assert_eq!(gone.retry(&[("q1", ACCEPT)]), ["fail -31502"]);
    }

    #[test]
    fn going_away_cancels_the_work_and_time_frees_a_parked_call() {
        let cancelled =
            r#"server {"method":"notifications/cancelled","params":{"requestId":40,"reason":"#;
        let left = Play::call("{}").step(Input::Cancel);
        assert!(
            left[0].starts_with(cancelled) && left[1] == "close",
            "{left:?}"
        );
        let late = Play::call("{}").step(Input::Deadline);
        assert!(
            late[0].starts_with(cancelled) && late[1] == "fail -31504",
            "{late:?}"
        );
        let mut parked = Play::call(r#"{"elicitation":{}}"#);
        parked.server(ELICIT);
        let freed = parked.step(Input::Deadline);
        assert!(
            freed[0].starts_with(r#"server {"id":1,"error""#),
            "{freed:?}"
        );
        assert!(
            freed[1].starts_with(cancelled) && freed[2] == "close",
            "{freed:?}"
        );
        assert!(parked.0.is_over());
    }

    #[test]
    fn errors_come_back_with_the_codes_of_the_newest_revision() {
        let (mut play, _) = Play::begin("resources/read", r#"{"uri":"a:b"}"#);
        let error = play.server(r#"{"id":40,"error":{"code":-32002,"message":"m"}}"#);
        assert_eq!(
            error,
            [r#"error {"code":-32602,"message":"m","data":{"uri":"a:b"}}"#]
        );
        let setup = Setup {
            revision: Revision::V2025_11_25,
            method: Method::SubscriptionsListen,
            params: None,
            server_id: Id::from_number(1),
            server_info: None,
            hint: CacheHint::NONE,
        };
        assert_eq!(
            OldServerCall::start(setup).unwrap_err().cause,
            Cause::MethodNotFound
        );
    }

    #[test]
    fn a_shared_server_logs_from_the_least_level_that_is_asked_for() {
        let id = Id::from_number(3);
        let message = set_level(&id, [Level::Error, Level::Info, Level::Alert]).unwrap();
        assert_eq!(
            String::from_utf8(message).unwrap(),
            r#"{"jsonrpc":"2.0","id":3,"method":"logging/setLevel","params":{"level":"info"}}"#
        );
        assert!(set_level(&id, []).is_none());
    }
}
