//! Tasks: those of 2025-11-25 (experimental, part of its core) against the extension of 2026-07-28.
//!
//! | | 2025-11-25 | the extension |
//! |---|---|---|
//! | who wants a task | the client (`params.task`), where the tool allows it (`execution.taskSupport`) | the server |
//! | the outcome | `tasks/result`, which waits for it | a member of `tasks/get` |
//! | the server's questions | requests on the stream of `tasks/result` | `inputRequests` of `tasks/get`, answered by `tasks/update` |
//! | a task that is over | cannot be cancelled | can, to no effect |
//!
//! Here are the forms; [`super::old_client`] has what an older client's requests take.

use std::time::Duration;

use serde_json::value::RawValue;

use crate::capability::TASKS_EXTENSION;
use crate::failure::{Cause, Failure};
use crate::members::{Members, is_object, raw_of};
use crate::notification::with_meta;

/// The member of `_meta` by which 2025-11-25 says which task a message belongs to.
pub const META_RELATED: &str = "io.modelcontextprotocol/related-task";
/// Names that differ: of 2025-11-25, of the extension.
const RENAMED: [(&str, &str); 2] = [("ttl", "ttlMs"), ("pollInterval", "pollIntervalMs")];
/// What only the extension has in a task.
const INLINE: [&str; 4] = ["resultType", "result", "error", "inputRequests"];
/// How soon a task is asked for again that does not say.
const POLL: Duration = Duration::from_secs(1);
/// Soonest and latest that a task is asked for again.
const POLL_WITHIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Under way.
    Working,
    /// Waits for its client.
    InputRequired,
    /// Done.
    Completed,
    /// Ended with an error.
    Failed,
    /// Ended by its client.
    Cancelled,
}

impl Status {
    /// Whether the task will not change any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Status::Working | Status::InputRequired)
    }
}

/// A task, in the form of either era.
#[derive(Debug)]
pub struct Task<'a> {
    members: Members<'a>,
    /// What its server calls it.
    pub id: String,
    /// How far it is.
    pub status: Status,
}

impl<'a> Task<'a> {
    /// Reads a task: the result of `tasks/get`, a `CreateTaskResult` of the extension, the `task` of one of
    /// 2025-11-25 or its result of `tasks/cancel`, or the parameters of either notification.
    ///
    /// # Errors
    /// [`Cause::UpstreamInvalid`] when it has no id or a status that there is not.
    pub fn read(raw: &'a RawValue) -> Result<Task<'a>, Failure> {
        let invalid = || Failure::new(Cause::UpstreamInvalid);
        let members = Members::parse(raw).map_err(|_| invalid())?;
        let id = members.get_str("taskId").ok_or_else(invalid)?;
        let status = match members.get_str("status").as_deref() {
            Some("working") => Status::Working,
            Some("input_required") => Status::InputRequired,
            Some("completed") => Status::Completed,
            Some("failed") => Status::Failed,
            Some("cancelled") => Status::Cancelled,
            _ => return Err(invalid()),
        };
        Ok(Task {
            members,
            id,
            status,
        })
    }

    /// When to ask for it again.
    #[must_use]
    pub fn poll_after(&self) -> Duration {
        let said = ["pollIntervalMs", "pollInterval"]
            .iter()
            .find_map(|name| self.members.get(name)?.get().parse().ok());
        said.map_or(POLL, Duration::from_millis)
            .clamp(POLL_WITHIN.0, POLL_WITHIN.1)
    }

    /// What stands beside the task in the extension's `tasks/get`: `result`, `error` or `inputRequests`.
    #[must_use]
    pub fn inline(&self, name: &str) -> Option<&RawValue> {
        self.members.get(name)
    }

    /// The task as 2025-11-25 has it, from the extension's form. There a tool that failed is a task that
    /// failed.
    #[must_use]
    pub fn legacy(&self) -> Box<RawValue> {
        let mut legacy = Members::default();
        for (name, value) in self.members.iter().filter(|(n, _)| !INLINE.contains(n)) {
            let name = RENAMED
                .iter()
                .find(|(_, modern)| *modern == name)
                .map_or(name, |(old, _)| old);
            legacy.push(name.to_owned(), value.to_owned());
        }
        if self.members.get("result").is_some_and(says_it_failed) {
            legacy.set("status", raw_of("failed"));
        }
        legacy.to_raw()
    }

    /// The members in the extension's form.
    fn modern(&self) -> Members<'a> {
        let mut modern = Members::default();
        for (name, value) in self.members.iter() {
            let name = RENAMED
                .iter()
                .find(|(old, _)| *old == name)
                .map_or(name, |(_, new)| new);
            modern.push(name.to_owned(), value.to_owned());
        }
        // The extension wants it; 2025-11-25 says `null` or nothing for a task without end.
        if modern.get("ttlMs").is_none() {
            modern.push("ttlMs", raw_of(&()));
        }
        modern
    }

    /// The result of the extension's `tasks/get`, from the form of 2025-11-25. A task that is done carries
    /// its result, a failed one its error (`outcome` is what `tasks/result` gave), one that waits for its
    /// client the questions.
    ///
    /// # Errors
    /// [`Cause::UpstreamInvalid`] when the outcome does not fit the status.
    pub fn get_result(
        &self,
        outcome: Option<Result<&RawValue, &RawValue>>,
        questions: &Members<'_>,
    ) -> Result<Box<RawValue>, Failure> {
        let mut modern = self.modern();
        match (self.status, outcome) {
            (Status::Completed, Some(Ok(result))) => modern.push("result", unrelated(result)),
            // A tool that failed has a result that says so.
            (Status::Failed, Some(Ok(result))) if is_object(result) => {
                modern.set("status", raw_of("completed"));
                modern.push("result", unrelated(result));
            }
            (Status::Failed, Some(Err(error))) => modern.push("error", error.to_owned()),
            (Status::Completed | Status::Failed, _) => {
                return Err(Failure::new(Cause::UpstreamInvalid));
            }
            // It has something to ask that it has not asked yet.
            (Status::InputRequired, _) if questions.is_empty() => {
                modern.set("status", raw_of("working"));
            }
            (Status::InputRequired, _) => modern.push("inputRequests", questions.to_raw()),
            _ => {}
        }
        modern.push("resultType", raw_of("complete"));
        Ok(modern.to_raw())
    }

    /// The parameters of `notifications/tasks`; `None` for a task that is over, whose outcome the
    /// notification of 2025-11-25 does not carry: the client asks for it with `tasks/get`.
    #[must_use]
    pub fn notification_params(&self) -> Option<Box<RawValue>> {
        let bare = matches!(self.status, Status::Working | Status::Cancelled);
        bare.then(|| self.modern().to_raw())
    }
}

/// The extension's answer to a call that became a task, from a `CreateTaskResult` of 2025-11-25.
///
/// # Errors
/// [`Cause::UpstreamInvalid`] when it holds no task.
pub fn created(result: &RawValue) -> Result<Box<RawValue>, Failure> {
    let invalid = || Failure::new(Cause::UpstreamInvalid);
    let members = Members::parse(result).map_err(|_| invalid())?;
    let task = members.get("task").ok_or_else(invalid)?;
    let mut modern = Task::read(task)?.modern();
    modern.push("resultType", raw_of("task"));
    Ok(modern.to_raw())
}

/// The `CreateTaskResult` of 2025-11-25, from the extension's.
#[must_use]
pub fn created_legacy(task: &Task<'_>) -> Box<RawValue> {
    wrapped(task.legacy())
}

fn wrapped(task: Box<RawValue>) -> Box<RawValue> {
    let mut result = Members::default();
    result.push("task", task);
    result.to_raw()
}

/// The parameters of a request about a task.
#[must_use]
pub fn params(task: &str) -> Box<RawValue> {
    let mut params = Members::default();
    params.push("taskId", raw_of(task));
    params.to_raw()
}

/// Says in `_meta` which task a result or a question belongs to, as 2025-11-25 wants it.
#[must_use]
pub fn related(object: &RawValue, task: &str) -> Box<RawValue> {
    with_meta(Some(object), META_RELATED, Some(&params(task))).unwrap_or_else(|| object.to_owned())
}

/// The task that a message belongs to by its parameters.
#[must_use]
pub fn related_to(params: &RawValue) -> Option<String> {
    let params = Members::parse(params).ok()?;
    let meta = Members::parse(params.get("_meta")?).ok()?;
    Members::parse(meta.get(META_RELATED)?)
        .ok()?
        .get_str("taskId")
}

fn unrelated(result: &RawValue) -> Box<RawValue> {
    with_meta(Some(result), META_RELATED, None).unwrap_or_else(|| result.to_owned())
}

fn says_it_failed(result: &RawValue) -> bool {
    Members::parse(result).is_ok_and(|r| r.get("isError").is_some_and(|v| v.get() == "true"))
}

/// Whether a server of the newer era has the extension, by its `capabilities`.
#[must_use]
pub fn is_extension_of(capabilities: &RawValue) -> bool {
    let has = || {
        let all = Members::parse(capabilities).ok()?;
        let extensions = Members::parse(all.get("extensions")?).ok()?;
        extensions.get(TASKS_EXTENSION).map(is_object)
    };
    has() == Some(true)
}

/// Whether a server of 2025-11-25 takes tool calls as tasks, by its `capabilities`.
#[must_use]
pub fn is_taken_by(capabilities: &RawValue) -> bool {
    let within = |raw: &RawValue, name: &str| Some(Members::parse(raw).ok()?.get(name)?.to_owned());
    let takes = || {
        let requests = within(&within(capabilities, "tasks")?, "requests")?;
        within(&within(&requests, "tools")?, "call").map(|call| is_object(&call))
    };
    takes() == Some(true)
}

/// `capabilities.tasks` of 2025-11-25, in place of the extension.
#[must_use]
pub fn legacy_capability() -> Box<RawValue> {
    raw_of(&serde_json::json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}))
}

/// What a client can do, and the tasks extension.
#[must_use]
pub fn declared(capabilities: &RawValue) -> Box<RawValue> {
    let mut all = Members::parse(capabilities).unwrap_or_default();
    let before = all.get("extensions").map(RawValue::to_owned);
    let mut extensions = before
        .as_deref()
        .and_then(|raw| Members::parse(raw).ok())
        .unwrap_or_default();
    extensions.set(TASKS_EXTENSION, Members::default().to_raw());
    let extensions = extensions.to_raw();
    all.set("extensions", extensions);
    all.to_raw()
}

/// Whether an error says that its request needs a client with the tasks extension.
#[must_use]
pub fn is_wanted_by(error: &RawValue) -> bool {
    let within =
        |raw: &RawValue, name: &str| Members::parse(raw).ok()?.get(name).map(RawValue::to_owned);
    let wants = || {
        let error = Members::parse(error).ok()?;
        if error.get("code")?.get() != Cause::MissingCapability.code().to_string() {
            return None;
        }
        let required = within(error.get("data")?, "requiredCapabilities")?;
        within(&within(&required, "extensions")?, TASKS_EXTENSION)
    };
    wants().is_some()
}

/// What is kept of a call that an older client wanted as a task and that a server answered at once: the
/// task, and what `tasks/result` gives.
#[derive(Debug, Clone)]
pub struct Kept {
    /// As 2025-11-25 has it.
    pub task: Box<RawValue>,
    /// The result of `tasks/result`.
    pub result: Box<RawValue>,
}

/// Begins the ids of such tasks; no server's id begins so.
pub const KEPT_PREFIX: &str = "kept-";
/// How long it is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(3600);
/// The largest result that is kept, in bytes.
pub const KEPT_BYTES_MAX: usize = 256 << 10;

impl Kept {
    /// Makes a task of a result in the form of 2025-11-25. `now` is the time as RFC 3339 has it.
    ///
    /// # Errors
    /// [`Cause::UpstreamInvalid`] for a result of more than [`KEPT_BYTES_MAX`].
    pub fn new(id: &str, result: &RawValue, now: &str) -> Result<Kept, Failure> {
        if result.get().len() > KEPT_BYTES_MAX {
            let text = "the result is too large to be kept: call the tool without a task";
            return Err(Failure::say(Cause::UpstreamInvalid, text));
        }
        let status = match says_it_failed(result) {
            true => "failed",
            false => "completed",
        };
        let mut task = Members::default();
        task.push("taskId", raw_of(id));
        task.push("status", raw_of(status));
        task.push("createdAt", raw_of(now));
        task.push("lastUpdatedAt", raw_of(now));
        task.push("ttl", raw_of(&(KEPT_FOR.as_secs() * 1000)));
        Ok(Kept {
            task: task.to_raw(),
            result: related(result, id),
        })
    }

    /// Reads what [`Kept::write`] wrote.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Kept> {
        let raw: &RawValue = serde_json::from_slice(text).ok()?;
        let members = Members::parse(raw).ok()?;
        Some(Kept {
            task: members.get("task")?.to_owned(),
            result: members.get("result")?.to_owned(),
        })
    }

    /// Writes it for a record.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut record = Members::default();
        record.push("task", self.task.clone());
        record.push("result", self.result.clone());
        record.to_raw().get().into()
    }

    /// The `CreateTaskResult`.
    #[must_use]
    pub fn created(&self) -> Box<RawValue> {
        wrapped(self.task.clone())
    }
}

/// Whether a tool of 2025-11-25 is called as a task (`execution.taskSupport`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Never; also what a tool that says nothing means.
    Forbidden,
    /// If the client wishes.
    Optional,
    /// Always.
    Required,
}

impl Support {
    /// Reads it from a tool's definition.
    #[must_use]
    pub fn of(tool: &RawValue) -> Support {
        let said = Members::parse(tool).ok().and_then(|tool| {
            let execution = Members::parse(tool.get("execution")?).ok()?;
            execution.get_str("taskSupport")
        });
        match said.as_deref() {
            Some("optional") => Support::Optional,
            Some("required") => Support::Required,
            _ => Support::Forbidden,
        }
    }
}

/// Adds to the parameters of a `tools/call` the wish for a task.
///
/// # Errors
/// [`Cause::InvalidParams`] when they are no object.
pub fn as_task(params: &RawValue) -> Result<Box<RawValue>, Failure> {
    let mut members = Members::parse(params).map_err(|_| Failure::new(Cause::InvalidParams))?;
    members.set("task", Members::default().to_raw());
    Ok(members.to_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    fn task(status: &str) -> Box<RawValue> {
        raw(&format!(
            r#"{{"taskId":"t","status":"{status}","createdAt":"c","lastUpdatedAt":"u","ttl":60000,"pollInterval":5,"vendor":1.0}}"#
        ))
    }

    fn modern(status: &str, more: &str) -> String {
        format!(
            r#"{{"taskId":"t","status":"{status}","createdAt":"c","lastUpdatedAt":"u","ttlMs":60000,"pollIntervalMs":5,"vendor":1.0{more}}}"#
        )
    }

    #[test]
    fn a_call_that_became_a_task_says_so_in_the_extensions_form() {
        let old = raw(&format!(r#"{{"task":{}}}"#, task("working").get()));
        assert_eq!(
            created(&old).unwrap().get(),
            modern("working", r#","resultType":"task""#)
        );
        assert!(created(&raw(r#"{"content":[]}"#)).is_err());
        let endless = raw(r#"{"task":{"taskId":"t","status":"working"}}"#);
        assert!(created(&endless).unwrap().get().contains(r#""ttlMs":null"#));
    }

    #[test]
    fn a_task_carries_its_outcome() {
        let result = raw(
            r#"{"content":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"}}}"#,
        );
        let error = raw(r#"{"code":1,"message":"m"}"#);
        for (status, outcome, expected) in [
            (
                "working",
                None,
                Some(modern("working", r#","resultType":"complete""#)),
            ),
            (
                "cancelled",
                None,
                Some(modern("cancelled", r#","resultType":"complete""#)),
            ),
            (
                "completed",
                Some(Ok(&*result)),
                Some(modern(
                    "completed",
                    r#","result":{"content":[]},"resultType":"complete""#,
                )),
            ),
            (
                "failed",
                Some(Err(&*error)),
                Some(modern(
                    "failed",
                    r#","error":{"code":1,"message":"m"},"resultType":"complete""#,
                )),
            ),
            (
                "failed",
                Some(Ok(&*result)),
                Some(modern(
                    "completed",
                    r#","result":{"content":[]},"resultType":"complete""#,
                )),
            ),
            ("completed", None, None),
            ("completed", Some(Err(&*error)), None),
        ] {
            let old = task(status);
            let none = Members::default();
            let got = Task::read(&old).unwrap().get_result(outcome, &none).ok();
            assert_eq!(
                got.as_deref().map(RawValue::get),
                expected.as_deref(),
                "{status}"
            );
        }
        let waits = task("input_required");
        let waits = Task::read(&waits).unwrap();
        let mut questions = Members::default();
        let got = waits.get_result(None, &questions).unwrap();
        assert_eq!(got.get(), modern("working", r#","resultType":"complete""#));
        questions.push("q", raw(r#"{"method":"roots/list"}"#));
        let got = waits.get_result(None, &questions).unwrap();
        let asked = r#","inputRequests":{"q":{"method":"roots/list"}},"resultType":"complete""#;
        assert_eq!(got.get(), modern("input_required", asked));
        assert!(Task::read(&raw(r#"{"taskId":"t","status":"lost"}"#)).is_err());
        assert!(Status::Failed.is_final() && !Status::InputRequired.is_final());
    }

    #[test]
    fn a_task_that_moves_is_told_of() {
        let working = task("working");
        assert_eq!(
            Task::read(&working)
                .unwrap()
                .notification_params()
                .unwrap()
                .get(),
            modern("working", "")
        );
        let completed = task("completed");
        assert!(
            Task::read(&completed)
                .unwrap()
                .notification_params()
                .is_none()
        );
    }

    #[test]
    fn tools_say_whether_they_are_called_as_tasks() {
        for (tool, support) in [
            (
                r#"{"execution":{"taskSupport":"required"}}"#,
                Support::Required,
            ),
            (
                r#"{"execution":{"taskSupport":"optional"}}"#,
                Support::Optional,
            ),
            (r#"{"execution":{}}"#, Support::Forbidden),
            ("{}", Support::Forbidden),
        ] {
            assert_eq!(Support::of(&raw(tool)), support);
        }
        assert_eq!(
            as_task(&raw(r#"{"name":"t"}"#)).unwrap().get(),
            r#"{"name":"t","task":{}}"#
        );
    }

    #[test]
    fn a_task_of_the_extension_goes_back_to_2025_11_25() {
        for (status, more, legacy) in [
            ("working", r#","resultType":"task""#, "working"),
            ("input_required", r#","inputRequests":{}"#, "input_required"),
            ("completed", r#","result":{"content":[]}"#, "completed"),
            ("completed", r#","result":{"isError":true}"#, "failed"),
            ("failed", r#","error":{"code":1}"#, "failed"),
        ] {
            let given = raw(&modern(status, more));
            let read = Task::read(&given).unwrap();
            assert_eq!(read.legacy().get(), task(legacy).get());
            assert_eq!(read.poll_after(), POLL_WITHIN.0);
        }
    }

    #[test]
    fn a_result_that_came_at_once_is_kept_as_a_task() {
        let result = raw(r#"{"content":[],"isError":true}"#);
        let kept = Kept::new("k", &result, "now").unwrap();
        assert_eq!(
            kept.created().get(),
            r#"{"task":{"taskId":"k","status":"failed","createdAt":"now","lastUpdatedAt":"now","ttl":3600000}}"#
        );
        let back = Kept::read(&kept.write()).unwrap();
        assert_eq!(back.task.get(), kept.task.get());
        assert_eq!(
            back.result.get(),
            r#"{"content":[],"isError":true,"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"k"}}}"#
        );
        assert_eq!(related_to(&back.result).as_deref(), Some("k"));
        let large = raw(&format!(r#"{{"x":"{}"}}"#, "x".repeat(KEPT_BYTES_MAX)));
        assert!(Kept::new("k", &large, "now").is_err());
        assert!(Kept::read(b"{}").is_none() && Kept::read(b"").is_none());
    }

    #[test]
    fn a_server_says_that_it_needs_the_extension() {
        let said = crate::capability::ClientCapabilities::default()
            .demand_tasks()
            .unwrap_err();
        let error = raw(std::str::from_utf8(&said.to_json_rpc(None, "r")).unwrap());
        let error = Members::parse(&error)
            .unwrap()
            .get("error")
            .unwrap()
            .to_owned();
        assert!(is_wanted_by(&error), "{error}");
        for other in [
            r#"{"code":-32602,"message":"m"}"#,
            r#"{"code":-32021,"message":"m","data":{"requiredCapabilities":{"sampling":{}}}}"#,
        ] {
            assert!(!is_wanted_by(&raw(other)));
        }
        assert_eq!(
            declared(&raw(r#"{"roots":{},"extensions":{"a/b":{}}}"#)).get(),
            r#"{"roots":{},"extensions":{"a/b":{},"io.modelcontextprotocol/tasks":{}}}"#
        );
    }
}
