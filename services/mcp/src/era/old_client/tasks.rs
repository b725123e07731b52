//! What an older client's tasks take at a server that has the extension.
//!
//! | client | server |
//! |---|---|
//! | `tools/call` with `task` | `tools/call`; a result that comes at once is kept as a task that is done |
//! | `tasks/get` | `tasks/get` |
//! | `tasks/result` | `tasks/get` until the task is over, questions put to the client, `tasks/update` |
//! | `tasks/cancel` | `tasks/get`, `tasks/cancel`, `tasks/get` |
//! | `tools/call` of a tool that is always a task | the same with the extension, then as `tasks/result` |

use std::time::Duration;

use serde_json::value::RawValue;

use crate::call::Call;
use crate::envelope::{self, Id};
use crate::failure::{Cause, Failure};
use crate::input::{InputRequired, Retry};
use crate::members::{Members, is_object};
use crate::method::Method;
use crate::revision::Revision;

use super::super::result::{error_to_legacy, to_legacy};
use super::super::tasks::{self, Kept, Status, Task};
use super::{OldClientCall, Output, Phase, Setup};

/// How often a task is looked at that was cancelled and goes on.
const LOOKS_MAX: u8 = 5;
/// The pause between two looks.
const LOOK_AFTER: Duration = Duration::from_millis(200);

/// What a call is to come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Goal {
    /// The server's answer.
    Answer,
    /// The server's answer, or what the task comes to that it makes of the call.
    Followed,
    /// A task.
    Task,
    /// How far a task is.
    State,
    /// A task's end, before its time.
    Cancellation {
        /// Which.
        task: String,
        /// Looks since the server was told; `None` until then.
        looks: Option<u8>,
    },
    /// What a task comes to, for whoever asked for that.
    Outcome {
        /// Which.
        task: String,
    },
    /// What a task comes to that the client knows nothing of.
    Hidden {
        /// Which.
        task: String,
    },
}

impl Goal {
    pub(super) fn of(setup: &Setup<'_>) -> Result<Goal, Failure> {
        let params = setup.params.and_then(|raw| Members::parse(raw).ok());
        let params = params.unwrap_or_default();
        let task = || {
            params
                .get_str("taskId")
                .ok_or_else(|| Failure::say(Cause::InvalidParams, "params.taskId must be a string"))
        };
        let wished = params
            .get("task")
            .filter(|task| setup.revision >= Revision::V2025_11_25 && task.get() != "null");
        Ok(match setup.method {
            Method::ToolsCall if wished.is_some_and(is_object) => Goal::Task,
            Method::ToolsCall if wished.is_some() => {
                let text = "params.task must be an object";
                return Err(Failure::say(Cause::InvalidParams, text));
            }
            Method::TasksGet => Goal::State,
            Method::TasksCancel => Goal::Cancellation {
                task: task()?,
                looks: None,
            },
            Method::TasksResult => Goal::Outcome { task: task()? },
            _ => Goal::Answer,
        })
    }

    /// Whether the call under way is about a task, which is there already.
    pub(super) fn is_of_a_task(&self) -> bool {
        !matches!(self, Goal::Answer | Goal::Followed)
    }
}

impl OldClientCall {
    /// The server made a task of the call.
    pub(super) fn became_a_task(&mut self, result: &RawValue) -> Result<Vec<Output>, Failure> {
        let task = Task::read(result)?;
        match self.goal {
            Goal::Task => {
                let created = tasks::created_legacy(&task);
                let answer = envelope::write_result(&self.id, &created);
                Ok(self.over(Output::Made {
                    task: task.id,
                    kept: None,
                    answer,
                }))
            }
            Goal::Followed => {
                let pause = task.poll_after();
                self.goal = Goal::Hidden { task: task.id };
                Ok(self.wait(pause))
            }
            // Nobody said that a task could be read.
            _ => Err(Failure::new(Cause::UpstreamInvalid)),
        }
    }

    /// The server answered a request that has to do with a task.
    pub(super) fn of_a_task(&mut self, result: &RawValue) -> Result<Vec<Output>, Failure> {
        if self.under_way == Method::ToolsCall {
            return self.came_at_once(result);
        }
        if self.under_way != Method::TasksGet {
            // Taken note of; what came of it shows the task.
            return Ok(self.look_again());
        }
        let task = Task::read(result)?;
        match &mut self.goal {
            Goal::Cancellation { looks, .. } => match *looks {
                None if task.status.is_final() => Err(Failure::say(
                    Cause::InvalidParams,
                    "the task is over: it cannot be cancelled",
                )),
                None => {
                    *looks = Some(0);
                    let params = tasks::params(&task.id);
                    Ok(self.call_again(Method::TasksCancel, &params))
                }
                Some(LOOKS_MAX..) => Ok(self.show(&task)),
                Some(_) if task.status.is_final() => Ok(self.show(&task)),
                Some(looked) => {
                    *looks = Some(looked + 1);
                    Ok(self.wait(LOOK_AFTER))
                }
            },
            Goal::Outcome { .. } | Goal::Hidden { .. } => self.follow(&task),
            _ => Ok(self.show(&task)),
        }
    }

    /// A call that was to become a task is answered already.
    fn came_at_once(&mut self, result: &RawValue) -> Result<Vec<Output>, Failure> {
        let result = to_legacy(&self.method, result, self.revision)?;
        let id = format!("{}{}", tasks::KEPT_PREFIX, self.prefix);
        let kept = Kept::new(&id, &result, &self.now)?;
        let answer = envelope::write_result(&self.id, &kept.created());
        Ok(self.over(Output::Made {
            task: id,
            kept: Some(kept),
            answer,
        }))
    }

    fn show(&mut self, task: &Task<'_>) -> Vec<Output> {
        let answer = envelope::write_result(&self.id, &task.legacy());
        self.over(Output::Answer(answer))
    }

    /// Follows a task to its end.
    fn follow(&mut self, task: &Task<'_>) -> Result<Vec<Output>, Failure> {
        let invalid = || Failure::new(Cause::UpstreamInvalid);
        let answer = match task.status {
            Status::Working => return Ok(self.wait(task.poll_after())),
            Status::InputRequired => {
                let requests = task.inline("inputRequests").ok_or_else(invalid)?;
                let mut wanted = Members::default();
                wanted.push("inputRequests", requests.to_owned());
                let mut wanted = InputRequired::read(&wanted.to_raw())?;
                // The server may take its time to look at what it was brought.
                wanted
                    .requests
                    .retain(|request| !self.answered.contains(&request.key));
                if wanted.requests.is_empty() {
                    return Ok(self.wait(task.poll_after()));
                }
                return self.ask(wanted);
            }
            Status::Completed => {
                let result = task.inline("result").ok_or_else(invalid)?;
                let mut result = to_legacy(&Method::ToolsCall, result, self.revision)?;
                if let Goal::Outcome { task } = &self.goal {
                    result = tasks::related(&result, task);
                }
                envelope::write_result(&self.id, &result)
            }
            Status::Failed => {
                let error = task.inline("error").ok_or_else(invalid)?;
                let error = error_to_legacy(&Method::ToolsCall, error);
                envelope::write_error(&self.id, &error)
            }
            Status::Cancelled => {
                return Err(Failure::say(
                    Cause::InvalidRequest,
                    "the task was cancelled",
                ));
            }
        };
        Ok(self.over(Output::Answer(answer)))
    }

    /// Brings the server what its task waits for.
    pub(super) fn update(&mut self, retry: &Retry) -> Result<Vec<Output>, Failure> {
        let (Goal::Outcome { task } | Goal::Hidden { task }) = &self.goal else {
            return Err(Failure::new(Cause::Internal));
        };
        let params = tasks::params(task);
        let mut params = Members::parse(&params).map_err(|_| Failure::new(Cause::Internal))?;
        retry.put(&mut params);
        let params = params.to_raw();
        let keys = retry.responses.iter().map(|(key, _)| key.clone());
        self.answered.extend(keys);
        Ok(self.call_again(Method::TasksUpdate, &params))
    }

    /// Looks how far the task is.
    pub(super) fn look_again(&mut self) -> Vec<Output> {
        let task = match &self.goal {
            Goal::Cancellation { task, .. } | Goal::Outcome { task } | Goal::Hidden { task } => {
                tasks::params(task)
            }
            _ => return Vec::new(),
        };
        self.call_again(Method::TasksGet, &task)
    }

    /// Calls the server with something else than before.
    pub(super) fn call_again(&mut self, method: Method, params: &RawValue) -> Vec<Output> {
        self.again += 1;
        let id = Id::from_text(&format!("{}.t{}", self.prefix, self.again));
        match Call::new(Some(id), method.clone(), Some(params), &self.client) {
            Ok(call) => {
                self.phase = Phase::Calling;
                self.under_way = method;
                vec![Output::Call(Box::new(call))]
            }
            Err(failure) => {
                let answer = self.failed(&failure);
                self.over(answer)
            }
        }
    }

    /// What ends a task that nobody would ask for any more.
    pub(super) fn give_up(&self) -> Option<Output> {
        let Goal::Hidden { task } = &self.goal else {
            return None;
        };
        let id = Id::from_text(&format!("{}.c", self.prefix));
        let params = tasks::params(task);
        let call = Call::new(Some(id), Method::TasksCancel, Some(&params), &self.client);
        call.ok().map(|call| Output::Tell(Box::new(call)))
    }

    fn wait(&mut self, pause: Duration) -> Vec<Output> {
        self.phase = Phase::Waiting;
        vec![Output::Wait(pause)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::Input;
    use super::super::tests::Play;
    use super::*;
    use crate::call::ClientMeta;

    fn begin(capabilities: &str, method: &str, params: &str) -> (Play, String) {
        Play::begin(Revision::V2025_11_25, capabilities, method, params)
    }

    fn task(status: &str, more: &str) -> String {
        format!(
            r#"{{"resultType":"complete","taskId":"a.t","status":"{status}","createdAt":"c","lastUpdatedAt":"u","ttlMs":null,"pollIntervalMs":100{more}}}"#
        )
    }

    fn legacy(status: &str) -> String {
        format!(
            r#"{{"taskId":"a.t","status":"{status}","createdAt":"c","lastUpdatedAt":"u","ttl":null,"pollInterval":100}}"#
        )
    }

    /// What the server is asked: the method, and whether the client knows tasks.
    fn calls(line: &str) -> (String, bool) {
        let method = line.split(r#""method":""#).nth(1).unwrap();
        let method = method.split('"').next().unwrap();
        (
            method.to_owned(),
            line.contains("io.modelcontextprotocol/tasks"),
        )
    }

    #[test]
    fn a_wish_for_a_task_is_an_object_since_there_are_tasks() {
        let goal = |revision, task: &str| {
            let params = format!(r#"{{"name":"t","task":{task}}}"#);
            Goal::of(&Setup {
                revision,
                client: &ClientMeta::plain("c"),
                id: Id::from_number(7),
                method: Method::ToolsCall,
                params: Some(&RawValue::from_string(params).unwrap()),
                prefix: "p".into(),
                level: None,
                request_id: "r-1".into(),
                now: "now".into(),
            })
            .map_err(|failure| failure.cause)
        };
        for (task, expect) in [
            ("{}", Ok(Goal::Task)),
            ("null", Ok(Goal::Answer)),
            (r#""x""#, Err(Cause::InvalidParams)),
            ("[]", Err(Cause::InvalidParams)),
            ("true", Err(Cause::InvalidParams)),
        ] {
            assert_eq!(goal(Revision::V2025_11_25, task), expect, "{task}");
        }
        assert_eq!(goal(Revision::V2025_06_18, "7"), Ok(Goal::Answer));
    }

    #[test]
    fn a_call_that_wants_a_task_gets_the_servers() {
        let (mut play, first) = begin("{}", "tools/call", r#"{"name":"t","task":{"ttl":9}}"#);
        assert_eq!(calls(&first), ("tools/call".into(), true));
        assert!(!first.contains("ttl"), "{first}");
        let made = play.result(&task("working", "").replace("complete", "task"));
        let created = format!(r#"{{"id":7,"result":{{"task":{}}}}}"#, legacy("working"));
        assert_eq!(made, [format!("made a.t false {created}")]);
        // Of 2025-06-18 it is no wish at all.
        let (_, plain) = Play::begin(
            Revision::V2025_06_18,
            "{}",
            "tools/call",
            r#"{"name":"t","task":{}}"#,
        );
        assert_eq!(calls(&plain), ("tools/call".into(), false));
    }

    #[test]
    fn a_call_that_wants_a_task_and_is_answered_at_once_is_kept_as_one() {
        let (mut play, _) = begin("{}", "tools/call", r#"{"name":"t","task":{}}"#);
        let made = play.result(r#"{"resultType":"complete","content":[]}"#);
        assert_eq!(
            made,
            [
                r#"made kept-p true {"id":7,"result":{"task":{"taskId":"kept-p","status":"completed","createdAt":"now","lastUpdatedAt":"now","ttl":3600000}}}"#
            ]
        );
    }

    #[test]
    fn a_task_is_shown_and_cancelled_as_2025_11_25_has_it() {
        let (mut play, _) = begin("{}", "tasks/get", r#"{"taskId":"a.t"}"#);
        let shown = play.result(&task("input_required", r#","inputRequests":{}"#));
        let answer = format!(r#"answer {{"id":7,"result":{}}}"#, legacy("input_required"));
        assert_eq!(shown, [answer]);

        let (mut play, first) = begin("{}", "tasks/cancel", r#"{"taskId":"a.t"}"#);
        assert_eq!(calls(&first).0, "tasks/get");
        assert_eq!(
            calls(&play.result(&task("working", ""))[0]).0,
            "tasks/cancel"
        );
        let looked = play.result(r#"{"resultType":"complete"}"#);
        assert_eq!(calls(&looked[0]).0, "tasks/get");
        assert_eq!(play.result(&task("working", "")), ["wait 200"]);
        play.step(Input::Waited);
        let answer = format!(r#"answer {{"id":7,"result":{}}}"#, legacy("cancelled"));
        assert_eq!(play.result(&task("cancelled", "")), [answer]);

        let (mut over, _) = begin("{}", "tasks/cancel", r#"{"taskId":"a.t"}"#);
        let refused = over.result(&task("cancelled", ""));
        assert!(refused[0].contains("-32602"), "{refused:?}");
        assert!(
            OldClientCall::start(Setup {
                revision: Revision::V2025_11_25,
                client: &crate::call::ClientMeta::plain("c"),
                id: Id::from_number(1),
                method: Method::TasksResult,
                params: None,
                prefix: "p".into(),
                level: None,
                request_id: "r".into(),
                now: String::new(),
            })
            .is_err()
        );
    }

    #[test]
    fn the_result_of_a_task_is_waited_for_and_its_questions_are_asked() {
        let (mut play, first) = begin(
            r#"{"elicitation":{}}"#,
            "tasks/result",
            r#"{"taskId":"a.t"}"#,
        );
        assert_eq!(calls(&first), ("tasks/get".into(), true));
        assert_eq!(play.result(&task("working", "")), ["wait 100"]);
        assert!(
            play.result(&task("completed", "")).is_empty(),
            "nobody asked"
        );
        assert_eq!(calls(&play.step(Input::Waited)[0]).0, "tasks/get");
        let waits = task(
            "input_required",
            r#","inputRequests":{"n":{"method":"elicitation/create","params":{"message":"?","requestedSchema":{}}}}"#,
        );
        let asked = play.result(&waits);
        assert_eq!(
            asked,
            [
                r#"ask {"id":"p.1","method":"elicitation/create","params":{"message":"?","requestedSchema":{},"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"a.t"}}}}"#
            ]
        );
        let told = play.answer("p.1", Ok(r#"{"action":"accept","content":{"n":1.0}}"#));
        assert_eq!(calls(&told[0]).0, "tasks/update");
        assert!(
            told[0].contains(r#""inputResponses":{"n":{"action":"accept","content":{"n":1.0}}}"#),
            "{told:?}"
        );
        let looked = play.result(r#"{"resultType":"complete"}"#);
        assert_eq!(calls(&looked[0]).0, "tasks/get");
        assert_eq!(play.result(&waits), ["wait 100"], "that is answered");
        play.step(Input::Waited);
        let last = play.result(&task(
            "completed",
            r#","result":{"resultType":"complete","content":[]}"#,
        ));
        assert_eq!(
            last,
            [
                r#"answer {"id":7,"result":{"content":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"a.t"}}}}"#
            ]
        );
        for (end, answer) in [
            (
                task("failed", r#","error":{"code":-1,"message":"m"}"#),
                r#""error":{"code":-1,"message":"m"}"#,
            ),
            (task("cancelled", ""), "was cancelled"),
            (task("completed", ""), "-31502"),
        ] {
            let (mut play, _) = begin("{}", "tasks/result", r#"{"taskId":"a.t"}"#);
            let answered = play.result(&end);
            assert!(answered[0].contains(answer), "{answered:?}");
        }
    }

    #[test]
    fn a_tool_that_is_always_a_task_is_followed_to_its_end() {
        let wants = r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32021,"message":"m","data":{"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}"#;
        let begun = || {
            let (mut play, first) =
                Play::begin(Revision::V2024_11_05, "{}", "tools/call", r#"{"name":"t"}"#);
            assert_eq!(calls(&first), ("tools/call".into(), false));
            assert_eq!(calls(&play.server(wants)[0]), ("tools/call".into(), true));
            let made = play.result(&task("working", "").replace("complete", "task"));
            assert_eq!(made, ["wait 100"]);
            play
        };
        let mut play = begun();
        assert_eq!(calls(&play.step(Input::Waited)[0]).0, "tasks/get");
        let last = play.result(&task("completed", r#","result":{"content":[]}"#));
        assert_eq!(last, [r#"answer {"id":7,"result":{"content":[]}}"#]);

        for input in [Input::Cancel, Input::Deadline] {
            let ended = begun().step(input);
            assert!(ended[0].starts_with("tell"), "{ended:?}");
            assert_eq!(calls(&ended[0]).0, "tasks/cancel");
        }
        // Once is enough.
        let (mut stubborn, _) = begin("{}", "tools/call", r#"{"name":"t"}"#);
        stubborn.server(wants);
        assert!(stubborn.server(wants)[0].contains("-32021"));
    }
}
